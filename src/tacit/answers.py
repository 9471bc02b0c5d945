"""What answers about the items of a run share: a folder of their own, tables of all items, contact sheets."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.data import contact_sheet
from tacit.errors import RunError
from tacit.report._points import text_of
from tacit.store import Items

SIDE = 64
"""Pixels of a picture on a contact sheet at most; thumbnails have no more."""
ACROSS = 8
ROWS = 24
"""Groups on a contact sheet; further ones lie on further sheets."""
SHEET, PAGE, MADE = "contact-sheet.png", "contact-sheet.html", "made.json"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found about the items of a run, and where it lies."""

    folder: Path
    files: list[Path]
    """Tables of items, csv and parquet."""
    sheet: Path | None
    """Contact sheet; a page of texts where the items are no pictures, None where they have no texts either."""
    what: str
    lines: list[str] = field(default_factory=list)
    """What there is to know of it, in sentences."""


@dataclass(frozen=True)
class Group:
    """Rows to be looked at together, and what is written under each."""

    title: str
    rows: Sequence[int] | np.ndarray
    captions: Sequence[str] = ()


class Rows:
    """The items of a run, one row each, as the methods on features take them.

    Raises:
        RunError: no run, or one without vectors.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        items = Items.open(run)
        self.vectors = items.vectors()
        self.items = np.asarray(items.column("item"))
        self.uris: list[str] = list(items.column("uri"))
        hashes = items.column("hash")
        self.keys: list[str] = [key or f"item {item}" for key, item in zip(hashes, self.items, strict=True)]
        """What the ledger knows an item by: the hash of its content, which exact duplicates share."""

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def first(self) -> np.ndarray:
        """(n,) the first row that holds the same content; its own number where there is no duplicate before it."""
        seen: dict[str, int] = {}
        return np.array([seen.setdefault(key, row) for row, key in enumerate(self.keys)])

    @cached_property
    def different(self) -> np.ndarray:
        """Rows without those that repeat an earlier one."""
        return np.flatnonzero(self.first == np.arange(len(self)))

    @cached_property
    def sphere(self) -> np.ndarray:
        """Vectors, centred and scaled to length 1, (n, d) float32."""
        z = self.vectors - self.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        z /= np.maximum(np.sqrt(np.einsum("ij,ij->i", z, z)), 1e-12)[:, None]
        return z

    def pictures(self, rows: Sequence[int] | np.ndarray) -> list[Tensor] | None:
        """The thumbnails of these rows, (3, s, s) float in [0, 1], all of one size; None if one is no picture."""
        from PIL import Image, ImageOps

        read = []
        for row in Items.open(self.run).rows(self.items[np.asarray(rows, int)], ["thumbnail"]):
            try:
                with Image.open(io.BytesIO(row["thumbnail"]), formats=("JPEG", "PNG")) as picture:
                    if max(picture.size) > 8 * SIDE:
                        return None
                    read.append(picture.convert("RGB"))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                return None
        side = min(SIDE, max((max(picture.size) for picture in read), default=SIDE))
        square = [ImageOps.pad(picture, (side, side), color="white") for picture in read]
        return [torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255 for picture in square]

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """The captions of these rows, or the pieces of text that stand for them; "" where there is none."""
        found = Items.open(self.run).rows(self.items[np.asarray(rows, int)], ["meta", "thumbnail"])
        return [text_of(row["meta"], row["thumbnail"]) for row in found]

    def text_column(self, rows: Sequence[int] | np.ndarray) -> dict[str, list[str]]:
        """`text` for a table that a person reads; no column where texts say no more than names."""
        found = self.texts(rows)
        said = any(text not in ("", self.uris[row]) for text, row in zip(found, rows, strict=True))
        return {"text": found} if said else {}

    def sheet(self, groups: Sequence[Group]) -> Sheet:
        """Contact sheets of these groups where they are pictures; else their texts, if they have any."""
        some = [group for group in groups if len(group.rows)]
        rows = np.concatenate([np.asarray(group.rows, int) for group in some]) if some else np.zeros(0, int)
        if not len(rows):
            return Sheet([], [])
        pictures = self.pictures(rows)
        if pictures is not None:
            return Sheet(_pictured(some, pictures), [])
        texts = self.texts(rows)
        return Sheet([], _listed(some, [self.uris[row] for row in rows], texts) if any(texts) else [])


@dataclass(frozen=True)
class Sheet:
    """What of an answer is to be looked at: contact sheets, or lists of texts; nothing where both are empty."""

    pictures: list[Any]
    """PIL images."""
    lists: list[dict[str, Any]]
    """Of each group its title and its items: name, text, caption."""

    @property
    def noun(self) -> str:
        return "picture" if self.pictures else "page"

    def save(self, folder: Path) -> Path | None:
        """Write contact-sheet.png (and -2.png...) or contact-sheet.html; the first file, or None."""
        for number, picture in enumerate(self.pictures, 1):
            picture.save(folder / (SHEET if number == 1 else f"contact-sheet-{number}.png"))
        if self.lists:
            (folder / PAGE).write_text(_page(self.lists), encoding="utf-8", errors="replace")
        return folder / SHEET if self.pictures else folder / PAGE if self.lists else None

    def details(self) -> dict[str, Any]:
        """What the report shows in place of a picture, for made.json."""
        return {"lists": self.lists} if self.lists else {}


def _pictured(groups: Sequence[Group], pictures: list[Tensor]) -> list[Any]:
    """One group without a title as a grid; several with a line each, the title under its first picture."""
    if len(groups) == 1 and not groups[0].title:
        cut = range(0, len(pictures), ACROSS)
        said = [list(groups[0].captions[start : start + ACROSS]) for start in cut]
        return [contact_sheet([pictures[start : start + ACROSS] for start in cut], captions=said)]
    blank, sheets = torch.ones_like(pictures[0]), []
    for start in range(0, len(groups), ROWS):
        lines, said = [], []
        for group in groups[start : start + ROWS]:
            own, pictures = pictures[: len(group.rows)], pictures[len(group.rows) :]
            lines.append([*own, *[blank] * (ACROSS - len(own))])
            said.append([group.title, *list(group.captions)[1:], *[""] * ACROSS][:ACROSS])
        sheets.append(contact_sheet(lines, captions=said))
    return sheets


def _listed(groups: Sequence[Group], names: list[str], texts: list[str]) -> list[dict[str, Any]]:
    lists = []
    for group in groups:
        n = len(group.rows)
        captions = [*group.captions, *[""] * n][:n]
        items = zip(names[:n], texts[:n], captions, strict=True)
        lists.append(
            {
                "title": group.title,
                "items": [{"name": name, "text": text, "caption": caption} for name, text, caption in items],
            }
        )
        names, texts = names[n:], texts[n:]
    return lists


STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{font-size:1.1rem;margin:2rem 0 .5rem}ol{padding:0;list-style:none}li{padding:.5rem 0;border-top:1px solid #ddd}
small{display:block;color:#666}b{float:right;margin-left:1rem;font-weight:600}"""


def _page(lists: Sequence[dict[str, Any]]) -> str:
    """A page of texts, which needs no other file."""
    parts = []
    for group in lists:
        items = [
            f'<li><b>{html.escape(one["caption"])}</b><span dir="auto">{html.escape(one["text"])}</span>'
            f'<small dir="auto">{html.escape(one["name"])}</small></li>'
            for one in group["items"]
        ]
        title = f"<h2>{html.escape(group['title'])}</h2>" if group["title"] else ""
        parts.append(f"{title}<ol>{''.join(items)}</ol>")
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Contact sheet</title><style>{STYLE}</style>'
    return f"{head}<body>{''.join(parts)}</body></html>\n"


def check_out(out: str | Path | None) -> None:
    """Refuse, before any work, a folder that holds something."""
    if out is not None and Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        raise RunError(f"out={str(out)!r} holds something already; give another folder, nothing is overwritten")


def new_folder(run: Path, out: str | Path | None, kind: str, name: str = "") -> Path:
    """`out`, or RUN/kind/1 (RUN/kind/name-1), or the next number that is free.

    Made at once, so that two commands never share it.
    """
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        return Path(out)
    number = 1
    while True:
        place = run / kind / (f"{name}-{number}" if name else str(number))
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return place


def write_tables(folder: Path, name: str, columns: Mapping[str, Any], *, parquet: bool = True) -> list[Path]:
    """NAME.csv, and NAME.parquet: one row an item."""
    import pyarrow
    from pyarrow import csv
    from pyarrow import parquet as parquets

    table, files = pyarrow.table(dict(columns)), [folder / f"{name}.csv"]
    csv.write_csv(table, files[0])
    if parquet:
        files.append(folder / f"{name}.parquet")
        parquets.write_table(table, files[1])
    return files


def write_made(folder: Path, what: str, lines: Sequence[str], details: Mapping[str, Any]) -> None:
    """made.json, which the report reads: what it is, what there is to know of it, and its figures."""
    said = {"what": what, "lines": list(lines), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    (folder / MADE).write_text(json.dumps({**said, **details}, indent=2) + "\n", encoding="utf-8")


def listed(names: Sequence[object], most: int = 5) -> str:
    """The first of some names, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def counted(n: int, noun: str, plural: str = "") -> str:
    """
    >>> counted(1, "class", "classes"), counted(2000, "item")
    ('1 class', '2,000 items')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
