"""`tacit systems`: which method is for what somebody has; every system with its paper, what it needs, its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.text import Text

from tacit.cli import _show as show
from tacit.cli._options import whole_or_none

if TYPE_CHECKING:
    from tacit.finding import System

EXAMPLES = (
    'tacit systems "few labels, tabular"',
    "tacit systems --area cluster --verdict holds",
    "tacit systems dcl",
    "tacit systems --modality text --needs nothing --json",
)
STYLES = {"holds": "green", "mixed": "yellow", "unclear": "yellow", "stale": "yellow", "fails": "red"}
ROOMY, WIDE = 110, 150
"""Columns from which a table has room for what a system needs, and for its paper."""
FOLDED = {"summary": 5, "paper": 4, "needs": 2}
"""Columns that are folded where there is no room -> their share of it."""
NARROW_ID = 22
SHOWN = 10
Word = Optional[str]  # noqa: UP045


def _option(flags: str, says: str, metavar: str = "NAME") -> Any:
    return typer.Option(*flags.split(), metavar=metavar, help=says)


def systems(
    query: Annotated[
        Word,
        typer.Argument(
            metavar="QUERY",
            help="What you have and want, in words; or the id of a system, for all there is to know of it.",
            show_default=False,
        ),
    ] = None,
    area: Annotated[Word, _option("--area", "Only this area, such as pretrain.")] = None,
    modality: Annotated[Word, _option("--modality", "Only what works on this, such as image.")] = None,
    kind: Annotated[Word, _option("--kind", "Only learner, estimator, loss or function.")] = None,
    level: Annotated[Word, _option("--level", "Only method, mechanism, protocol, entry or baseline.")] = None,
    verdict: Annotated[Word, _option("--verdict", "Only holds, mixed, unclear, fails, stale or not run.")] = None,
    needs: Annotated[Word, _option("--needs", "Only what needs this, such as labels; nothing: data alone.")] = None,
    k: Annotated[Word, _option("-k", "How many, at most. Default: 10 for a query, else all.", "N")] = None,
    page: Annotated[
        Word,
        _option(
            "--page",
            "Write docs/papers.md to this file instead, and each system's page beside it.",
            "FILE",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Find the method that fits: by words, by filters; each with its paper and whether its claims held here.

    The most convincing and newest come first, or those that fit a query best. The search runs on your machine, by an
    encoder that tacit trained. A verdict is over all claims of a system: `tacit claims show ID` shows each.
    """
    from tacit.finding import find_systems

    if page is not None:
        _write_page(Path(page), as_json)
        return
    count = whole_or_none("k", k)
    filters = {"area": area, "modality": modality, "kind": kind, "level": level, "verdict": verdict, "needs": needs}
    with show.aside(as_json):
        found = find_systems(query, **filters, related=5 if query else 0)
    one = next((one for one in found if one.id == (query or "").strip().lower()), None)
    shown = [one] if one is not None else found[: count or (SHOWN if query else None)]
    if as_json:
        said = {"query": query, **{name: value for name, value in filters.items() if value is not None}}
        show.as_json({**said, "found": len(found), "systems": [each.as_dict() for each in shown]})
    elif not Console().is_terminal:
        for each in shown:
            print("\t".join(_columns(each)))
    elif one is not None:
        _card(one)
    elif query:
        _hits(query, shown, len(found))
    else:
        _table(shown)


def _write_page(path: Path, as_json: bool) -> None:
    from tacit.checkpoints import expect_ours
    from tacit.portraits import write_pages
    from tacit.reading import PORTRAITS, WRITTEN, papers_page

    expect_ours(path, WRITTEN)
    page, folder = papers_page(), path.parent / PORTRAITS
    count = len(write_pages(folder))
    path.write_text(page, encoding="utf-8")
    if as_json:
        show.as_json({"page": path, "systems": folder, "pages": count})
    else:
        show.lines([str(path), f"{folder}, a page for each of {count} systems"])


def _columns(one: System) -> list[str]:
    """A line for programs."""
    said = [one.area, one.id, one.name, one.kind, one.level, one.paper, one.summary]
    return [*said, one.verdict, str(one.year or ""), ", ".join(one.needs), one.command, one.title, one.link]


# On a terminal --------------------------------------------------------------------------------------------------------


def _table(found: Sequence[System]) -> None:
    """Area by area, in columns as there is room."""
    width = Console().width
    for area, members in groupby(sorted(found, key=_area_order(found)), key=lambda one: one.area):
        show.lines(["", area], style="bold")
        _rows(list(members), width)
    nothing = "" if found else "nothing fits; try fewer filters"
    show.lines(["", nothing or f"{len(found)} systems; try: tacit systems ID, or tacit systems 'what you have'"])


def _area_order(found: Sequence[System]) -> Any:
    from tacit.catalogue import AREAS

    order = {area: number for number, area in enumerate(dict.fromkeys([*AREAS, *(one.area for one in found)]))}
    return lambda one: order[one.area]


def _rows(members: Sequence[System], width: int) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    titles = ["id", "verdict", "year", "summary"]
    if width >= ROOMY:
        titles = ["id", "verdict", "year", "needs", "summary"]
    if width >= WIDE:
        titles = ["id", "kind", "level", "verdict", "year", "needs", "summary", "paper"]
    for title in titles:
        most = NARROW_ID if title == "id" and width < ROOMY else None
        fixed = title not in FOLDED and most is None
        table.add_column(title, no_wrap=fixed, overflow="fold", ratio=FOLDED.get(title), max_width=most)
    for one in members:
        cells = {
            "id": Text(one.id),
            "kind": Text(one.kind),
            "level": Text(one.level),
            "verdict": Text(
                one.verdict_in_words if width >= ROOMY else one.verdict, style=STYLES.get(one.verdict, "dim")
            ),
            "year": Text(str(one.year or "")),
            "needs": Text(", ".join(one.needs), style="dim"),
            "summary": Text(one.summary),
            "paper": Text(one.title, style=f"link {one.link}"),
        }
        table.add_row(*(cells[title] for title in titles))
    Console().print(table)


def _hits(query: str, shown: Sequence[System], n: int) -> None:
    """The best, a few lines each."""
    for number, one in enumerate(shown, 1):
        head = Text(f"{number:>2}  ")
        head.append(one.id, style="bold")
        head.append(f"  {one.verdict_in_words}", style=STYLES.get(one.verdict, "dim"))
        head.append(f"  {_kind(one)}", style="dim")
        Console().print(head, soft_wrap=True)
        _indented([one.summary, *_needed(one)])
        _indented([one.command], style="cyan")
        _indented([_cited(one)], style="dim")
        print()
    if not shown:
        show.lines([f"nothing fits {query!r}; try other words, or fewer filters"])
        return
    show.lines([f"the best {len(shown)} of {n}; try: tacit systems {shown[0].id}, tacit claims show {shown[0].id}"])


def _card(one: System) -> None:
    """All there is to know of one system."""
    head = Text(one.id, style="bold")
    head.append(f"  {one.verdict_in_words}", style=STYLES.get(one.verdict, "dim"))
    head.append(f"  {_kind(one)}", style="dim")
    Console().print(head, soft_wrap=True)
    pairs = [
        ("For", one.summary),
        ("Needs", ", ".join(one.needs) or "nothing but data"),
        ("Run", one.command),
        ("In Python", ", ".join(one.objects)),
        ("Paper", f"{one.title} ({one.cited})" if one.cited else one.title),
        ("Read" if one.verified else "Look for it", one.link),
    ]
    pairs += [("" if number else "Claims", f"{each.verdict}: {each.says}") for number, each in enumerate(one.claims)]
    pairs += [
        ("" if number else "Related", f"{near.title} ({near.year}): {near.id if near.built else 'not built'}")
        for number, near in enumerate(one.related)
    ]
    show.labelled(pairs)
    show.lines(["", f"try: tacit claims show {one.id}"])


def _kind(one: System) -> str:
    return ", ".join([f"{one.area}: {' or '.join(one.modality)}", one.level if one.level != "method" else one.kind])


def _needed(one: System) -> list[str]:
    return [f"Needs {', '.join(one.needs)}."] if one.needs else []


def _cited(one: System) -> str:
    return f"{one.title} ({one.cited}) {one.link}" if one.cited else f"{one.title} {one.link}"


def _indented(text: Sequence[str], style: str = "") -> None:
    show.lines((f"    {line}" for line in text), style=style)
