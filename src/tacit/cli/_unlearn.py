"""`tacit unlearn`: a new run from which the influence of some items is removed, and its audit."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from tacit.cli import _show as show
from tacit.cli._machine import get_ready
from tacit.cli._options import whole, whole_or_none

EXAMPLES = (
    "tacit unlearn run/ items.txt",
    "tacit unlearn run/ items.txt --repair labels.csv --out run-without/",
    "tacit unlearn run/ items.txt --method retrain",
)


def _option(flags: str, metavar: str, says: str) -> Any:
    return typer.Option(*flags.split(), metavar=metavar, help=says)


Word = Optional[str]  # noqa: UP045


def unlearn(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run of tacit learn.", show_default=False)],
    items: Annotated[
        str,
        typer.Argument(metavar="ITEMS", help="A text file: the path or number of an item a line.", show_default=False),
    ],
    repair: Annotated[
        Word, _option("--repair", "LABELS", "Labels of some kept items to learn from then, as tacit label takes them.")
    ] = None,
    column: Annotated[Word, _option("--column", "NAME", "Which column is the label, where there are several.")] = None,
    method: Annotated[
        str, _option("--method -m", "NAME", "laf, which is fast and approximate; or retrain, which forgets for sure.")
    ] = "laf",
    retrain: Annotated[
        bool,
        typer.Option("--retrain/--no-retrain", metavar="", help="Compare with training anew, which takes as long."),
    ] = True,
    unseen: Annotated[
        Word, _option("--unseen", "DATA", "Data that nobody learned from; what the run held out if left out.")
    ] = None,
    data: Annotated[Word, _option("--data", "DATA", "Where the run's data lies now, if it was moved.")] = None,
    seed: Annotated[str, _option("--seed", "N", "Of all chance.")] = "0",
    out: Annotated[Word, _option("--out -o", "DIR", "Folder of the new run; RUN-unlearned if left out.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", metavar="", help="Set an earlier run there aside.")] = False,
    threads: Annotated[Word, _option("--threads", "N", "Threads of the CPU; as many as cores if left out.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Write a new run without some items, and with an encoder from which their influence is removed.

    Their rows, thumbnails and vectors are in no file of it. An audit page says how near the encoder comes to one that
    was trained without them. The old run and the data stay as they are.
    """
    chance = whole("seed", seed, least=0)
    count = whole_or_none("threads", threads)
    with show.aside(as_json):
        get_ready(count)
        from tacit.runs import load

        found = load(run).unlearn(
            items, repair=repair, column=column, method=method, retrain=retrain, unseen=unseen, data=data, out=out,
            overwrite=overwrite, seed=chance, say=lambda line: show.lines([line]),
        )  # fmt: skip
    if as_json:
        counts = {"forgotten": found.forgotten, "kept": found.kept}
        show.as_json({"folder": found.run.folder, "audit": found.audit, **counts, "figures": found.figures})
        return
    show.lines(["", *found.lines])
    show.lines(["", f"Audit: {found.audit}", f"Run: {found.run.folder}"], wrap=False)
