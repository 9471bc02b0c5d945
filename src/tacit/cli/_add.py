"""`tacit add`: more data into a run."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from tacit.cli import _show as show
from tacit.cli._machine import get_ready
from tacit.cli._options import whole_or_none

EXAMPLES = (
    "tacit add run/ more-photos/",
    "tacit add papers-run/ new-papers.atom",
    "tacit add run/ photos/ --keep-gone",
)
Word = Optional[str]  # noqa: UP045


def _switch(flags: str, says: str) -> Any:
    return typer.Option(flags, metavar="", help=says)


def add(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    data: Annotated[
        str, typer.Argument(metavar="MORE_DATA", help="All that learn takes, of the run's kind.", show_default=False)
    ],
    keep_gone: Annotated[bool, _switch("--keep-gone", "Keep the items that are no longer in the data.")] = False,
    labels: Annotated[
        str, typer.Option("--labels", metavar="WHICH", help="Where labels lie: auto, folder, none or a COLUMN.")
    ] = "auto",
    on_error: Annotated[
        str, typer.Option("--on-error", metavar="WHICH", help="What cannot be read: skip or raise.")
    ] = "skip",
    threads: Annotated[Word, typer.Option("--threads", metavar="N", help="Threads of the CPU.")] = None,
    as_json: Annotated[bool, _switch("--json", "Print one JSON object on standard output.")] = False,
) -> None:
    """Add data to a run: only what is new is embedded; what is gone from the same folder or file is taken out.

    The encoder, the clusters, and the numbers and places of the items there are stay as they are. A kill leaves the run
    as it was before or as it is after; the same command then ends what is left to do.
    """
    count = whole_or_none("threads", threads)
    with show.aside(as_json):
        get_ready(count)
        from tacit.adding import add as add_data
        from tacit.runs import load

        words = {"keep_gone": keep_gone, "labels": labels, "on_error": on_error}
        found = add_data(load(run), data, **words, say=lambda line: show.lines([line]))
    if as_json:
        said = {
            name: getattr(found, name)
            for name in ("items", "embedded", "known", "moved", "removed", "unreadable", "lines")
        }
        show.as_json({"folder": found.run.folder, "report": show.report_of(found.run), **said})
        return
    show.lines(["", *found.lines], style="bold")
    show.lines([f"Report: {found.run.folder}/report.html"], wrap=False)
