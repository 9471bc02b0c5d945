"""The papers behind the systems: title, authors, year, link, and where they stand in the reading lists.

Facts only, in bibliography.json beside this file. A link in it was looked up and found to be the paper's; where none
was, `link_of` gives a search for the title. The facts come from ../shared, and are taken over anew by

    python -m tacit.bibliography ../shared

which keeps the entries of papers that are in none of the lists (those of baselines), and links that were checked since.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

FORMAT = 1
FILE = Path(__file__).with_suffix(".json")
SEARCH = "https://www.semanticscholar.org/search?q="
MODALITIES = {"tabular": "table", "timeseries": "series", "pointcloud": "points", "multimodal": "pairs"}
"""What ../shared calls a kind of data -> what tacit calls it."""


@dataclass(frozen=True)
class Paper:
    """One paper: facts alone.

    Attributes:
        id: of the system that implements it, or will.
        title, authors, year: as published; no authors where they were not looked up.
        link: looked up and found to be the paper's; None where that was not done.
        lists: reading list -> place in it, from 1.
        area, modality: where the system belongs, and what it works on.
    """

    id: str
    title: str
    authors: tuple[str, ...]
    year: int | None
    link: str | None
    lists: Mapping[str, int]
    area: str
    modality: tuple[str, ...]

    @property
    def cited(self) -> str:
        """The authors and the year, as one cites them.

        >>> paper("byol").cited, paper("loki").cited
        ('Grill et al., 2020', 'Roberts et al., 2023')
        """
        names = [name.split()[-1] for name in self.authors if name != "et al."]
        more = " et al." if len(self.authors) > 2 else f" and {names[1]}" if len(names) == 2 else ""
        return ", ".join(str(part) for part in ((names[0] + more) if names else None, self.year) if part)


@dataclass(frozen=True)
class ReadingList:
    """Papers in an order that somebody else gave them; `query` asks for them in our words."""

    id: str
    name: str
    query: str


@cache
def papers() -> Mapping[str, Paper]:
    """Every paper by the id of its system.

    >>> papers()["dcl"].title
    'Decoupled Contrastive Learning'
    """
    return {one["id"]: _paper(one) for one in _read()["papers"]}


@cache
def reading_lists() -> tuple[ReadingList, ...]:
    """The four reading lists.

    >>> [one.name for one in reading_lists()][:2]
    ['Learn without labels', 'Model and generate']
    """
    return tuple(ReadingList(**one) for one in _read()["lists"])


def paper(id: str) -> Paper | None:
    """The paper of a system, None where nothing is known of it."""
    return papers().get(id)


def in_order(reading_list: str) -> list[Paper]:
    """The papers of a reading list, in its order.

    >>> in_order("002")[14].id
    'dcl'
    """
    there = [one for one in papers().values() if reading_list in one.lists]
    return sorted(there, key=lambda one: one.lists[reading_list])


def link_of(one: Paper) -> tuple[str, bool]:
    """Where to read a paper, and whether that is the paper itself: else it is a search for its title.

    >>> link_of(papers()["dcl"])
    ('https://arxiv.org/abs/2110.06848', True)
    """
    return (one.link, True) if one.link else (search_link(one.title), False)


def search_link(title: str) -> str:
    """A search for a title, for papers without a verified link.

    >>> search_link("Deep & Wide?")
    'https://www.semanticscholar.org/search?q=Deep+%26+Wide%3F'
    """
    return SEARCH + quote_plus(title)


def _paper(said: Mapping[str, Any]) -> Paper:
    named = {"authors": tuple(said["authors"]), "lists": dict(said["lists"]), "modality": tuple(said["modality"])}
    return Paper(**{**said, **named})


@cache
def _read() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


# From ../shared -------------------------------------------------------------------------------------------------------


def refresh(shared: Path, known: Mapping[str, Paper]) -> list[Paper]:
    """The papers of ../shared's bibliography and rows, in their order, then those that only we know.

    Args:
        shared: folder with bibliography.json and catalogue.json.
        known: the papers there are; a link of theirs stands where ../shared has none.
    """
    facts, rows = (json.loads((shared / f"{name}.json").read_text("utf-8")) for name in ("bibliography", "catalogue"))
    row_of = {row["id"]: row for row in rows}
    made = [_from_shared(fact, row_of[fact["id"]], known.get(fact["id"])) for fact in facts]
    there = {one.id for one in made}
    return [*made, *(one for one in known.values() if one.id not in there)]


def _from_shared(fact: Mapping[str, Any], row: Mapping[str, Any], known: Paper | None) -> Paper:
    link = fact["link"] or (known.link if known else None)
    if link and "://" not in link:
        link = f"http://{link}"
    return Paper(
        fact["id"],
        fact["title"],
        tuple(fact["authors"]) or (known.authors if known else ()),
        fact["year"],
        link,
        dict(row["lists"]),
        row["area"],
        tuple(MODALITIES.get(name, name) for name in row["modality"]),
    )


def write(entries: Iterable[Paper], lists: Iterable[ReadingList], file: Path = FILE) -> None:
    """Write bibliography.json, a paper a line, so that a change shows as one."""
    heads = ",\n".join(json.dumps(asdict(one)) for one in lists)
    lines = ",\n".join(json.dumps(asdict(one), ensure_ascii=False) for one in entries)
    file.write_text(f'{{"format": {FORMAT}, "lists": [\n{heads}\n], "papers": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    write(refresh(Path(sys.argv[1]), papers()), reading_lists())
    print(FILE)
