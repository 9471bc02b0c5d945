"""The page of papers, docs/papers.md: the reading lists in their order, and what became of each paper here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tacit import bibliography, catalogue
from tacit.bibliography import Paper, ReadingList, link_of
from tacit.catalogue import Entry
from tacit.finding import System, paper_of, systems
from tacit.news import FORMULA

WRITTEN = "This page is written by `tacit systems --page docs/papers.md`"
"""By which the page is known."""
HEAD = f"""# Papers: the four reading lists behind tacit

Somebody put these papers in this order; tacit builds them, a system each, and tests what they claim. Each list stands
here whole. *Built* is beside a link to the system's page, with its claims and pictures; what is not built yet says so.
A verdict is over all claims of the paper that were re-tested here, mostly by proxies at small scale: [the
evidence](evidence.md) has each with its numbers.

`tacit systems "what you have and want"` searches what is built, `tacit systems ID` tells all of one. Links were looked
up and found to be the paper's; *(search)* marks a search for the title, where that was not done. Titles, authors, years
and links are facts; no abstract is repeated here.

{WRITTEN}.
"""

OWN = f"""## Your own papers

A .jsonl with columns `title` and `abstract`, an arXiv feed (Atom, RSS) or listing, a Hugging Face papers page: saved to
disk, each is data like any other. Nothing is fetched.

    tacit learn papers.jsonl                      # a map, topics, and run/report.html
    tacit search run --item 12                    # more like this
    tacit search run --duplicates                 # papers that stand there twice, or nearly
    tacit add run today.atom                      # only what is new is embedded
    tacit search run "clustering without k" --save clusters
    tacit report run --since 7d                   # run/news.html and run/news.xml, an Atom feed

What is new and trending is put in order by one formula, for papers, photos and tickets alike:

> {FORMULA}

Dates are read from a column `date`, `published` or `created`, discussion from `comments` and `upvotes`; stars and notes
are kept in the run's `labels.sqlite` (`run.star(12)`, `run.note(12, "read this")`, or the explorer).
"""

FOUND = """## Does a search find the lists?

Each list is taken for the right answer to a query in our words, among the abstracts of all {n} papers: the share of the
list among as many first answers as it is long. Chance is what a random order gives; a list of {most} of {n} papers
leaves little to win. The queries were written before anything was measured, and nothing was chosen by these numbers.
`python benchmarks/papers.py ../shared` measures it anew{date}.

{table}

{remarks}
"""
PORTRAITS = "systems"
"""Folder of the systems' pages, beside this one."""
RESULTS = Path("benchmarks") / "papers.json"
"""Where benchmarks/papers.py leaves its numbers, from tacit's checkout."""


def papers_page() -> str:
    """The page, in Markdown, with links to the systems' own pages in the folder `PORTRAITS` beside it."""
    known = {one.id: one for one in systems()}
    entries = catalogue.by_id()
    lists = bibliography.reading_lists()
    parts = [
        HEAD,
        _counts(lists, known),
        *(_list(one, known) for one in lists),
        _others(known, entries),
    ]
    return "\n".join([*parts, OWN, _found()]).rstrip() + "\n"


def _counts(lists: Sequence[ReadingList], known: Mapping[str, System]) -> str:
    """How far each list is built, and what came out."""
    words = ("holds", "mixed", "unclear", "stale", "not run", "fails")
    lines = [_row("list", "papers", "built", *words, "no claim"), _rule(len(words) + 4)]
    for one in lists:
        papers = bibliography.in_order(one.id)
        verdicts = [known[paper.id].verdict for paper in papers if paper.id in known]
        counts = [verdicts.count(word) for word in words]
        rest = len(verdicts) - sum(counts)
        lines.append(_row(f"[{one.name}](#{_anchor(one.name)})", len(papers), len(verdicts), *counts, rest))
    every = [paper for paper in bibliography.papers().values() if paper.lists]
    twice = sum(len(paper.lists) > 1 for paper in every)
    total = (
        f"{len(every)} papers, {twice} of them in more than one list; {sum(p.id in known for p in every)} are built."
    )
    return "\n".join(["## How far", "", *lines, "", total]) + "\n"


def _list(one: ReadingList, known: Mapping[str, System]) -> str:
    lines = [f"## {one.name}", "", _row("", "paper", "system", "level", "verdict"), _rule(5)]
    for paper in bibliography.in_order(one.id):
        lines.append(_row(paper.lists[one.id], _title(paper), *_state(paper.id, known)))
    return "\n".join(lines) + "\n"


def _others(known: Mapping[str, System], entries: Mapping[str, Entry]) -> str:
    """What stands in no list: baselines, mostly."""
    lines = ["## In no list", "", "Baselines, mostly, which the others are compared with.", ""]
    lines += [_row("paper", "system", "level", "verdict"), _rule(4)]
    for one in known.values():
        if not one.lists:
            lines.append(_row(_title(paper_of(entries[one.id])), *_state(one.id, known)))
    return "\n".join(lines) + "\n"


def _title(paper: Paper) -> str:
    link, verified = link_of(paper)
    cited = f", {paper.cited}" if paper.cited else ""
    return f"[{_plain(paper.title)}]({link}){'' if verified else ' (search)'}{cited}"


def _state(id: str, known: Mapping[str, System]) -> tuple[str, str, str]:
    """System, level, verdict."""
    if id not in known:
        return f"`{id}`: not built", "", ""
    one = known[id]
    return f"[`{id}`]({PORTRAITS}/{id}.md): built", one.level, one.verdict_in_words


def _found() -> str:
    """How well a search finds each list, as it was last measured; nothing where there are no numbers."""
    if not RESULTS.exists():
        return ""
    said: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    methods = list(next(iter(said["recall"].values())))
    lines = [_row("list", "query", "papers", "chance", *methods), _rule(4 + len(methods))]
    sizes = {one.id: len(bibliography.in_order(one.id)) for one in bibliography.reading_lists()}
    for one in bibliography.reading_lists():
        recall = said["recall"][one.id]
        chance = f"{100 * sizes[one.id] / said['n']:.0f} %"
        lines.append(_row(one.name, one.query, sizes[one.id], chance, *(f"{100 * recall[m]:.0f} %" for m in methods)))
    facts = {"n": said["n"], "most": max(sizes.values()), "date": f" (last: {said['date']})"}
    return FOUND.format(table="\n".join(lines), remarks="\n".join(said["remarks"]), **facts)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _plain(text: str) -> str:
    """Brackets of a title would end its link."""
    return text.replace("[", "\\[").replace("]", "\\]")


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
