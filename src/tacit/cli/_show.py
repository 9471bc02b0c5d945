"""What the commands print: text for people on a terminal, plain lines for pipes, one JSON object for programs."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tacit.news import News
    from tacit.runs import Group, Hit, Run

ROOMY = 110
"""Columns from which a table has room for everything."""
GAP = 2
"""Between two columns of a table."""


def note(line: str) -> None:
    """A line beside the answer, on standard error."""
    print(f"tacit: {line}", file=sys.stderr)


def lines(text: Iterable[str], *, style: str = "", wrap: bool = True) -> None:
    """Lines, folded between words on a terminal and with the rest set in; as they are in a pipe or for `wrap=False`."""
    console = Console()
    for line in text:
        shown = _folded(line, console.width) if wrap and console.is_terminal else line
        console.print(Text(shown, style=style), soft_wrap=True)


def _folded(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


@contextlib.contextmanager
def aside(yes: bool) -> Iterator[None]:
    """Send what is printed meanwhile to standard error, so that standard output holds the JSON object alone."""
    with contextlib.redirect_stdout(sys.stderr) if yes else contextlib.nullcontext():
        yield


def as_json(answer: Mapping[str, Any]) -> None:
    """One JSON object on one line; a number that is not finite is null, since JSON has none."""
    print(json.dumps(_plain(answer)))


def run_as_dict(run: Run) -> dict[str, Any]:
    """What a run has to say, for programs."""
    said = {"folder": run.folder, "report": report_of(run), "numbers": run.numbers()}
    return {**said, "next": run.next_commands(), "summary": run.summary}


def report_of(run: Run) -> Path | None:
    path = Path(run.folder) / "report.html"
    return path if path.exists() else None


def finished(run: Run) -> None:
    """The three numbers, where the report is, and what to type next."""
    lines(["", *(f"  {number}" for number in run.numbers())], style="bold")
    report = report_of(run)
    lines(["", f"Report: {report}" if report else f"Run: {run.folder}", "Next:"], wrap=False)
    lines([f"  {command}" for command in run.next_commands()], style="cyan", wrap=False)


def hits(found: Sequence[Hit]) -> None:
    """Nearest items, best first: score, path, and the text that stands beside it, in the terminal's width."""
    texts = [" ".join(hit.text.split()) if hit.text != hit.uri else "" for hit in found]
    cells = [(f"{hit.score:.3f}", hit.uri, text) for hit, text in zip(found, texts, strict=True)]
    if not any(texts):
        rows([cell[:2] for cell in cells], ["score", "item"], right=1)
        return
    console = Console()
    if console.is_terminal:
        cells = [_in_one_line(cell, console.width) for cell in cells]
    rows(cells, ["score", "item", "text"], right=1, folds=[])


def _in_one_line(cells: tuple[str, str, str], width: int) -> tuple[str, str, str]:
    """The end of a long path, in at most a third of the width; and as much of the text as there is room for.

    >>> _in_one_line(("0.912", "folder/name.txt", "once upon a time in the west"), 42)
    ('0.912', '…der/name.txt', 'once upon a time in…')
    """
    score, uri, text = cells
    room = max(8, width // 3 - 1)
    uri = uri if len(uri) <= room else "…" + uri[1 - room :]
    rest = max(8, width - len(score) - room - 2 * GAP)
    return score, uri, text if len(text) <= rest else text[: rest - 1].rstrip() + "…"


def duplicates(groups: Sequence[Group]) -> None:
    """Groups of near-duplicates, the most alike first."""
    if not groups:
        lines(["no near-duplicates"])
        return
    for number, group in enumerate(groups, start=1):
        alike = "identical" if group.exact else f"similarity {group.similarity:.3f}"
        lines([f"group {number}: {len(group.uris)} items, {alike}"], style="bold")
        lines([f"  {uri}" for uri in group.uris], wrap=False)


def news(found: News) -> None:
    """What is new for each saved query, the first few, and where the page is."""
    for name, entries in found.entries.items():
        lines([f"{name}: {len(entries) or 'nothing'} new"], style="bold")
        for one in entries[:3]:
            text = " ".join(one.text.split()) if one.text != one.uri else ""
            said = f"  {one.score:.2f}  {one.uri}  {text}"
            width = Console().width
            lines([said if len(said) <= width else said[: width - 1].rstrip() + "…"], wrap=False)
    lines([f"Page: {found.page}", f"Atom: {found.feed}"], wrap=False)


def labelled(pairs: Iterable[tuple[str, str]], *, width: int = 15) -> None:
    """Lines of a label and a text, folded beside its label on a terminal; a pair without text is left out."""
    console = Console()
    for label, text in pairs:
        if not text:
            continue
        before = f"  {label}".ljust(width)
        if console.is_terminal:
            text = textwrap.fill(
                text, console.width, initial_indent=before, subsequent_indent=" " * width, break_on_hyphens=False
            )
        else:
            text = before + text
        line = Text(text)
        line.stylize("dim", 0, len(before))
        console.print(line, soft_wrap=True)


def rows(
    cells: Sequence[Sequence[str]], titles: Sequence[str], *, right: int = 0, folds: Sequence[int] | None = None
) -> None:
    """A table on a terminal; tab-separated lines, never cut, in a pipe.

    The first `right` columns are set right. Those in `folds` are folded where there is no room; the last one if None.
    """
    folds = [len(titles) - 1] if folds is None else folds
    console = Console()
    if not console.is_terminal:
        for row in cells:
            print("\t".join(row))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for position, title in enumerate(titles):
        fixed = position not in folds
        table.add_column(title, justify="right" if position < right else "left", overflow="fold", no_wrap=fixed)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)
