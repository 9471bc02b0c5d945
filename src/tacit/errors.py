"""What tacit raises: each message names the argument, its value, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TacitError(Exception):
    """Root of tacit's own errors; the command line shows one as a line, without a traceback."""


class ArgumentError(TacitError, ValueError):
    """A setting cannot be: unknown name, out of range, or in contradiction with the data."""


class DataError(TacitError, ValueError):
    """The data cannot be read, or holds nothing that can be used."""


class RunError(TacitError, ValueError):
    """A run folder is in use, unfinished, of another format, or was made with other settings."""


class TrainingError(TacitError, RuntimeError):
    """Training cannot go on: the loss is no longer finite."""


class MissingExtra(TacitError, ImportError):
    """A feature needs a package that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install 'tacit[{extra}]'")


def expect(argument: str, value: object, ok: bool, expected: str, remedy: str = "") -> None:
    """Raise `ArgumentError` unless `ok`.

    >>> expect("lr", 0.1, 0.1 > 0, "a number above 0")
    >>> expect("lr", -1, False, "a number above 0", "leave it out to use the recipe's")
    Traceback (most recent call last):
    ...
    tacit.errors.ArgumentError: lr=-1: expected a number above 0; leave it out to use the recipe's
    """
    if not ok:
        raise ArgumentError(f"{argument}={value!r}: expected {expected}" + (f"; {remedy}" if remedy else ""))


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that `name` was probably meant to be.

    >>> nearest("simcrl", ["simclr", "byol"])
    'simclr'
    """
    known = {choice.lower().replace("_", "-"): choice for choice in choices}
    close = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1, cutoff=0.5)
    return known[close[0]] if close else None


def unknown(argument: str, value: str, choices: Iterable[str]) -> ArgumentError:
    """The error for a name that is not among `choices`, with the nearest one suggested."""
    choices = sorted(choices)
    guess = nearest(value, choices)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return ArgumentError(f"{argument}={value!r}: expected one of {', '.join(choices)}{hint}")
