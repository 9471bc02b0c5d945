"""The entry point: parse, run, and turn what goes wrong into one line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.main import get_command

from tacit.cli import _show as show
from tacit.cli._app import app
from tacit.cli._flags import Flags, normalise
from tacit.errors import TacitError

USAGE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
REMEDIES = {
    errno.ENOSPC: "make room, then give the same command again",
    errno.EDQUOT: "make room, then give the same command again",
    errno.EACCES: "choose a place where you may write, with --out",
    errno.EROFS: "choose a place where you may write, with --out",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `tacit` with these words (the process's own by default) and return the exit code.

    0: done; 2: it cannot be done as asked, said in one line on standard error; 130: stopped by Ctrl-C. With
    TACIT_DEBUG=1 an error shows its traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # names of files may hold bytes that are no text in the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader has gone (`| head`); what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        line = _line(error)
        if line is None or os.environ.get("TACIT_DEBUG", "0") not in ("", "0"):
            raise
        show.note(line)
        return USAGE
    if code == INTERRUPTED:
        show.note(_stopped(words))
    return code


def _run(words: Sequence[str]) -> int:
    command: Any = get_command(app)
    words, notes = normalise(words, dict(_commands(command)))
    for note in notes:
        show.note(note)
    try:
        # without standalone mode typer raises its errors, and returns the code of an exit or of Ctrl-C
        return command.main(args=words, prog_name="tacit", standalone_mode=False) or 0
    finally:
        _close_progress()


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Flags]]:
    """Every command and its flags; those of a group as `claims run`, beside the group itself."""
    for name, command in group.commands.items():
        yield before + name, _flags(command)
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")


def _flags(command: Any) -> Flags:
    """The flags of a typer command, and whether each takes a value."""
    flags = {flag: not option.is_flag for option in command.params if option.param_type_name == "option"
             for flag in (*option.opts, *option.secondary_opts)}  # fmt: skip
    return {**flags, "--help": False, "-h": False}


def _line(error: Exception) -> str | None:
    """What to say of an error in one line; None for one that is a fault of the program, whose traceback is wanted."""
    if isinstance(error, TacitError):
        return "; ".join(line.strip() for line in str(error).splitlines()).replace(":;", ":")
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        remedy = REMEDIES.get(error.errno or 0)
        return (error.strerror or str(error)) + where + (f"; {remedy}" if remedy else "")
    if hasattr(error, "format_message"):
        return error.format_message().replace("\n", " ")
    return None


def _stopped(words: Sequence[str]) -> str:
    if words[:2] == ["claims", "run"]:
        return "stopped; the same command goes on with the seed it stood at"
    if words[:1] != ["learn"]:
        return "stopped"
    without = " without --overwrite" if "--overwrite" in words else ""
    return f"stopped; the same command{without} goes on from the last checkpoint"


def _close_progress() -> None:
    """A bar that is still drawn would write over the line."""
    progress = sys.modules.get("tacit.progress")
    if progress is not None:
        progress.close()
