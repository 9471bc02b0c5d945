"""The page of each system, docs/systems/ID.md: what it is for, how to call it, what its claims came to, pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tacit import catalogue
from tacit.bibliography import reading_lists
from tacit.catalogue import Entry
from tacit.checkpoints import expect_ours
from tacit.claims._drawings import caption_of, picture_path
from tacit.claims._evidence import Standing, published, standings
from tacit.claims._found import Found, read_claims, read_drawings
from tacit.claims._marks import Claim, Property
from tacit.claims._words import baseline_of, effect_words, means, scores_words
from tacit.finding import System, systems

PAGES = Path("docs/systems")
WRITTEN = "Written by `tacit systems --page docs/papers.md`"
"""By which our own pages are known."""


def write_pages(folder: Path = PAGES, *, evidence: Sequence[Path] | None = None) -> list[Path]:
    """Write a page for each system, and take away those that this function wrote of systems that are gone.

    Args:
        folder: for the pages; their pictures lie in `folder/pictures`, made by `tacit claims draw`.
        evidence: folders of records; those published with tacit if None.

    Raises:
        RunError: a page of that name is somebody else's; then none is written.
    """
    made = {folder / f"{id}.md": page for id, page in pages(folder, evidence=evidence)}
    for path in made:  # all of them, before the first is written
        expect_ours(path, WRITTEN)
    folder.mkdir(parents=True, exist_ok=True)
    for path, page in made.items():
        path.write_text(page, encoding="utf-8")
    for path in set(folder.glob("*.md")) - set(made):
        if WRITTEN in path.read_text(encoding="utf-8"):
            path.unlink()
    return list(made)


def pages(folder: Path = PAGES, *, evidence: Sequence[Path] | None = None) -> Iterator[tuple[str, str]]:
    """Each system's id and page, in Markdown, with links as they are from this folder of tacit's checkout."""
    records = [published()] if evidence is None else list(evidence)
    entries = catalogue.by_id()
    for system in systems(records):
        yield system.id, _page(system, entries[system.id], records, folder)


def _page(system: System, entry: Entry, records: Sequence[Path], folder: Path) -> str:
    found = read_claims(entry)
    known = standings((one for one in found if isinstance(one.mark, Claim)), records)
    parts = [
        f"# {system.name}",
        f"{system.summary}",
        _facts(system, entry, folder),
        f"```\n{system.command}\n```",
        *_claims(known),
        *_properties(found),
        *_pictures(known, read_drawings(entry), folder / "pictures"),
        f"{WRITTEN}. [All evidence]({os.path.relpath('docs/evidence.md', folder)}).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(system: System, entry: Entry, folder: Path) -> str:
    paper = f"[{system.title}]({system.link})" + ("" if system.verified else " (search)")
    names = {one.id: one.name for one in reading_lists()}
    places = ", ".join(f"{names[id]} ({place})" for id, place in system.lists.items())
    rows = {
        "paper": f"{paper}, {system.cited}" if system.cited else paper,
        "reading lists": places,
        "works on": ", ".join(system.modality),
        "needs beside data": ", ".join(system.needs),
        "level": system.level,
        "over all claims": system.verdict_in_words,
        "source": _source(entry, folder),
    }
    return "\n".join(f"- {name}: {said}" for name, said in rows.items() if said)


def _source(entry: Entry, folder: Path) -> str:
    root = Path(__file__).parent
    if root not in entry.source.parents:
        return f"`{entry.module}`"
    inside = entry.source.relative_to(root)
    return f"[{inside}]({Path(os.path.relpath(Path('src/tacit') / inside, folder)).as_posix()})"


def _claims(known: Sequence[Standing]) -> Iterator[str]:
    if known:
        yield "## What the paper claims, and what came out here"
    for one in known:
        mark, record = one.found.mark, one.shown
        assert isinstance(mark, Claim)
        word = one.verdict if one.current or not one.last else f"{one.last.verdict}, before a change of its code"
        lines = [f"**{word}**: {mark.says} (`{one.found.function}`)", "", f"- reported: {mark.reported}"]
        lines += [f"- a proxy: {mark.proxy}"] if mark.proxy else []
        if record is not None:
            sides = f", against {baseline_of(record)}" if record.baseline else ""
            lines.append(f"- measured: {effect_words(record)}{sides}; {scores_words(record) or 'deviations'}")
            lines.append(f"- so: {means(record)}; {len(record.seeds)} seeds at {record.budget}, {record.date}")
        yield "\n".join(lines)


def _properties(found: Sequence[Found]) -> Iterator[str]:
    said = [f"- {one.mark.says}" for one in found if isinstance(one.mark, Property)]
    if said:
        yield "\n".join(["Checked in the tests:", "", *said])


def _pictures(known: Sequence[Standing], drawings: Sequence[Found], pictures: Path) -> Iterator[str]:
    drawn = [one for one in [*(one.found for one in known), *drawings] if picture_path(one, pictures).exists()]
    if drawn:
        yield "## Pictures"
    for one in drawn:
        yield f"![{one.function.replace('_', ' ')}](pictures/{picture_path(one, pictures).name})\n\n{caption_of(one)}."
