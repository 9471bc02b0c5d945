"""`tacit segment`: masks of the object in pictures, by a run that learned from videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from tacit.cli import _show as show
from tacit.cli._machine import get_ready
from tacit.cli._options import scalar, whole_or_none
from tacit.errors import expect

if TYPE_CHECKING:
    from tacit.segmenting import Masks

EXAMPLES = (
    "tacit segment run/ photo.jpg",
    "tacit segment run/ photos/ --out masks",
    "tacit segment run/ film.mp4 --soft",
)

Word = Optional[str]  # noqa: UP045


def segment(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run of foreground-generations or its kin.", show_default=False),
    ],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES", help="Pictures, folders of them, globs; films and gifs.", show_default=False),
    ],
    threshold: Annotated[
        str, typer.Option("--threshold", metavar="X", help="The object is where the soft mask is above it, 0 to 1.")
    ] = "0.5",
    soft: Annotated[
        bool, typer.Option("--soft", metavar="", help="Write the soft masks in grey, instead of black and white.")
    ] = False,
    out: Annotated[
        Word,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for the masks; if left out a new one in RUN/segmented, and in the report.",
        ),
    ] = None,
    threads: Annotated[
        Word, typer.Option(metavar="N", help="Threads of the CPU; as many as cores if left out.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Draw the mask of the object in pictures, one PNG each, and a sheet with the masks over the pictures.

    The run has to be of a method that learned from videos: tacit learn VIDEOS --method foreground-generations
    """
    level, count = scalar(threshold), whole_or_none("threads", threads)
    expect("threshold", level, type(level) in (int, float) and 0 <= level <= 1, "a number from 0 to 1")
    with show.aside(as_json):
        get_ready(count)
        from tacit.runs import load

        loaded = load(run)
        made = loaded.segment(*images, threshold=float(level), soft=soft, out=out, say=lambda line: show.lines([line]))
    _answer(loaded, made, as_json)


def _answer(run: Any, made: Masks, as_json: bool) -> None:
    in_report = Path(made.folder).parent == Path(run.folder) / "segmented"
    report = show.report_of(run) if in_report else None
    if as_json:
        said = {"folder": made.folder, "sheet": made.sheet, "files": made.files, "what": made.what}
        show.as_json({**said, "lines": made.lines, "skipped": [list(one) for one in made.skipped], "report": report})
        return
    show.lines(made.lines)
    show.lines([f"Masks: {made.folder}", f"Contact sheet: {made.sheet}"], wrap=False)
    if report:
        show.lines([f"Report: {report}"], wrap=False)
