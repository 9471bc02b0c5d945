"""The words of a command line as typer wants them: kebab-case, our names, the nearest name where one is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tacit.errors import ArgumentError, nearest
from tacit.settings import ALIASES

METHOD = "--method.NAME"
"""The flag behind `--method.temperature 0.2`, which becomes `--method.NAME temperature=0.2`."""

Flags = Mapping[str, bool]
"""Flags of a command, and whether each takes a value. A command of a group has two words: `claims run`."""


def normalise(arguments: Sequence[str], commands: Mapping[str, Flags]) -> tuple[list[str], list[str]]:
    """The same command line with flags as the command spells them, and notes on those that have another name here.

    Raises:
        ArgumentError: a command or a flag that there is not; the nearest one is suggested.

    >>> commands = {"learn": {"--batch-size": True, METHOD: True}}
    >>> normalise(["learn", "demo", "--batch_size=8", "--method.width", "2"], commands)
    (['learn', 'demo', '--batch-size=8', '--method.NAME', 'width=2'], [])
    """
    if not arguments or arguments[0].startswith("-"):
        return list(arguments), []
    name, *rest = arguments
    if name not in commands:
        raise _no_command(name, [known for known in commands if " " not in known])
    own = [known.removeprefix(f"{name} ") for known in commands if known.startswith(f"{name} ")]
    if own and rest and not rest[0].startswith("-"):
        word, *rest = rest
        if word not in own:
            raise _no_command_of(name, word, own)
        done, notes = _with_known_flags(f"{name} {word}", rest, commands[f"{name} {word}"])
        return [name, word, *done[1:]], notes
    return _with_known_flags(name, rest, commands[name])


def _with_known_flags(command: str, words: list[str], flags: Flags) -> tuple[list[str], list[str]]:
    done: list[str] = [command]
    notes: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return [*done, word, *words], notes
        flag, equals, value = word.partition("=")
        if not word.startswith("--"):
            done.append(word)
        elif flag.startswith("--method.") and METHOD in flags:
            if not equals and not words:
                raise ArgumentError(f"{flag}: expected a value after it, such as {flag} 0.2")
            done += [METHOD, f"{flag.removeprefix('--method.')}={value if equals else words.pop(0)}"]
            continue
        else:
            flag, note = _known_flag(command, flag, flags)
            notes += note
            done.append(flag + equals + value)
        if not equals and flags.get(flag) and words:
            done.append(words.pop(0))
    return done, notes


def _known_flag(command: str, flag: str, flags: Flags) -> tuple[str, list[str]]:
    """The flag as the command spells it, and a note if it has another name here."""
    kebab = flag.replace("_", "-")
    if kebab in flags:
        return kebab, []
    ours = "--" + ALIASES.get(kebab.removeprefix("--").replace("-", "_"), "").replace("_", "-")
    if ours in flags:
        return ours, [f"{flag} is called {ours} here"]
    guess = nearest(kebab.removeprefix("--"), [known.removeprefix("--") for known in flags if known.startswith("--")])
    hint = f"did you mean --{guess}?" if guess else f"see: tacit {command} --help"
    raise ArgumentError(f"{command} has no flag {flag}; {hint}")


def _no_command_of(group: str, name: str, commands: Sequence[str]) -> ArgumentError:
    guess = nearest(name, commands)
    hint = f"did you mean {guess!r}?" if guess else f"expected one of {', '.join(commands)}"
    return ArgumentError(f"{group} has no command {name!r}; {hint}")


def _no_command(name: str, commands: Sequence[str]) -> ArgumentError:
    guess = nearest(name, commands)
    if Path(name).exists():
        hint = f"did you mean: tacit learn {name}?"
    elif guess:
        hint = f"did you mean {guess!r}?"
    else:
        hint = f"expected one of {', '.join(commands)}"
    return ArgumentError(f"there is no command {name!r}; {hint}")
