"""News of a run: saved queries, stars and notes, and what is new and trending for each, as a page and an Atom file."""

from __future__ import annotations

import html
import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from tacit.answers import counted
from tacit.checkpoints import plain_errors, write_json, write_text
from tacit.data import Ledger
from tacit.data._ledger import OWN
from tacit.errors import ArgumentError, RunError, expect, nearest
from tacit.querying import vector_of
from tacit.report._pictures import data_uri

if TYPE_CHECKING:
    from tacit.runs import Run

QUERIES, PAGE, FEED = "queries.json", "news.html", "news.xml"
STAR, NOTE = f"{OWN}star", f"{OWN}note"
"""Names of marks in the run's ledger: no classes, and no label of the user's is called so."""
NEAR = 0.1
"""Share of a run's items that counts as near a query."""
SHOWN = 20
"""Of a query, at most."""
FORMULA = (
    "score = near × 2^(−age / since) × (1 + log2(1 + discussed) / 4) × (1.5 if starred); near: cosine to the query; "
    "age: since its own date, or since it was added where it has none, at most that of the report; discussed: comments "
    "and votes in the data, and notes here. Listed is what is dated or was added within that time and is among the "
    "tenth of all items nearest to the query."
)
SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([hdwmy])")
HOURS = {"h": 1, "d": 24, "w": 24 * 7, "m": 24 * 30, "y": 24 * 365}


@dataclass(frozen=True)
class Saved:
    """A query that is kept."""

    name: str
    query: str | int
    vector: np.ndarray
    at: str


@dataclass(frozen=True)
class Entry:
    """An item that is new for a query, and why it stands where it does."""

    item: int
    uri: str
    text: str
    link: str | None
    when: str
    near: float
    age: float
    """Days."""
    discussed: int
    starred: bool
    note: str
    score: float
    hash: str
    thumbnail: bytes = b""


@dataclass(frozen=True)
class News:
    """What `write_news` wrote."""

    page: Path
    feed: Path
    since: str
    entries: Mapping[str, list[Entry]]
    """By the name of the query, best first."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        queries = {
            name: [{key: value for key, value in asdict(one).items() if key != "thumbnail"} for one in some]
            for name, some in self.entries.items()
        }
        return {"page": self.page, "feed": self.feed, "since": self.since, "queries": queries, "formula": FORMULA}


# Saved queries --------------------------------------------------------------------------------------------------------


def save_query(run: Run, name: str, query: str | int) -> Saved:
    """Keep a query under a name, in the run's queries.json, with its vector: the file it may name can go.

    Raises:
        ArgumentError: an empty name, or nothing that the run can be asked.
        RunError: there is another query of that name.
    """
    expect("save", name, bool(name.strip()), "a name for the query")
    known = saved_queries(run)
    asked = int(query) if isinstance(query, int | np.integer) else str(query)
    if name in known:
        if known[name].query == asked:
            return known[name]
        raise RunError(
            f"save={name!r}: there is a query of that name, {known[name].query!r}; give another name, nothing is "
            "overwritten"
        )
    made = Saved(name, asked, asked_vector(run, query), datetime.now(UTC).isoformat(timespec="seconds"))
    _write_queries(run, {**known, name: made})
    return made


def forget_query(run: Run, name: str) -> None:
    """Take a saved query out.

    Raises:
        ArgumentError: there is none of that name.
    """
    known = saved_queries(run)
    if name not in known:
        guess = nearest(name, known)
        raise ArgumentError(
            f"query={name!r}: no saved query of that name" + (f"; did you mean {guess!r}?" * bool(guess))
        )
    _write_queries(run, {key: one for key, one in known.items() if key != name})


def saved_queries(run: Run) -> dict[str, Saved]:
    """The run's saved queries by name, in the order in which they were saved."""
    place = run.folder / QUERIES
    if not place.exists():
        return {}
    try:
        said = json.loads(place.read_text(encoding="utf-8"))["queries"]
        return {
            name: Saved(name, one["query"], np.asarray(one["vector"], np.float32), one["at"])
            for name, one in said.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{place}: cannot be read as saved queries: {error}") from error


def _write_queries(run: Run, queries: Mapping[str, Saved]) -> None:
    said = {
        name: {"query": one.query, "at": one.at, "vector": [round(float(v), 6) for v in one.vector]}
        for name, one in queries.items()
    }
    with plain_errors(run.folder):
        write_json(run.folder / QUERIES, {"format": 1, "queries": said})


def asked_vector(run: Run, query: Any) -> np.ndarray:
    """The vector that a query is compared by: in the run's own space, or in the one that images and texts share."""
    if isinstance(query, int | np.integer):
        stored = run.items.rows([int(query)], ["vector"])[0]["vector"]
        return stored if run.joint is None else run.joint.of_items(stored[None])[0]
    return vector_of(query, run.encoder, run.modality) if run.joint is None else run.joint.of_query(query)


def _cosines(run: Run, vector: np.ndarray) -> np.ndarray:
    vectors = run.items.vectors() if run.joint is None else run.joint.of_items(run.items.vectors())
    norms = np.linalg.norm(vectors, axis=1) * max(float(np.linalg.norm(vector)), 1e-12)
    return vectors @ vector / np.maximum(norms, 1e-12)


# Stars and notes ------------------------------------------------------------------------------------------------------


def star(run: Run, items: int | Sequence[int]) -> None:
    """Star items: a mark in the run's ledger, so that copies of an item share it."""
    _put(run, STAR, items, "yes")


def note(run: Run, item: int, text: str) -> None:
    """Write a note on an item, in the place of an earlier one."""
    expect("text", text, bool(text.strip()), "a note")
    _put(run, NOTE, item, text.strip())


def _put(run: Run, name: str, items: int | Sequence[int], value: str) -> None:
    numbers = [items] if isinstance(items, int) else list(items)
    rows = run.items.rows(numbers, ["item", "hash"])
    keys = [row["hash"] or f"item {row['item']}" for row in rows]
    Ledger(run.folder / "labels.sqlite").put(name, dict.fromkeys(keys, value), source="user")


def _marks(run: Run, name: str) -> dict[str, str]:
    """Item hash -> value, of what a user marked."""
    place = run.folder / "labels.sqlite"
    if not place.exists():
        return {}
    ledger = Ledger(place)
    if name not in ledger.names(source="user", marks=True):
        return {}
    ledger.split(name)
    purpose = "what is new and trending (tacit report --since)"
    return {
        item: value
        for part in ("choose", "report")
        for item, value in ledger.take(name, part, purpose, sources=("user",)).items()
    }


# What is new and trending ---------------------------------------------------------------------------------------------


def write_news(run: Run, since: str = "7d", *, now: datetime | None = None) -> News:
    """Write news.html and news.xml (Atom) into the run: what is new and trending for each saved query.

        score = near 2^(-age / since) (1 + log2(1 + discussed) / 4) (1.5 if starred)

    near is the cosine to the query; age the time since the item's own date, or since it was added where it has none, at
    most `since`; discussed counts comments and votes in the data and notes here. Listed are items that are dated, or
    were added, within `since` and are among the tenth of all items nearest to the query.

    Args:
        run: with saved queries.
        since: how far back: `7d`, `36h`, `2w`, `1m`, or a day, `2026-11-01`.
        now: instead of the clock's time.

    Raises:
        ArgumentError: a `since` that cannot be read, or that lies ahead.
        RunError: no query is saved, or the folder cannot be written.
    """
    moment = now or datetime.now(UTC)
    span = span_of(since, moment)
    queries = saved_queries(run)
    if not queries:
        remedy = f'tacit search {run.folder} "what interests you" --save NAME'
        raise RunError(f"run={str(run.folder)!r}: no query is saved; save one: {remedy}")
    entries = trending(run, list(queries.values()), span, moment)
    title = str(run.summary.get("title", run.folder.name))
    news = News(run.folder / PAGE, run.folder / FEED, (moment - span).isoformat(timespec="minutes"), entries)
    with plain_errors(run.folder):
        write_text(news.page, _page(title, queries, news, since, moment))
        write_text(news.feed, _feed(run.folder, title, queries, news, moment))
    return news


def span_of(since: str, now: datetime) -> timedelta:
    """How far back `since` reaches: hours, days, weeks, months (30 days) or years, or from a day on.

    >>> now = datetime(2026, 11, 26, tzinfo=UTC)
    >>> span_of("7d", now).days, span_of("2026-11-01", now).days
    (7, 25)
    """
    found = SPAN.fullmatch(since.strip().lower())
    if found:
        span = timedelta(hours=float(found[1]) * HOURS[found[2]])
    else:
        try:
            span = now - _moment(since)
        except ValueError:
            span = timedelta(0)
    expect("since", since, span > timedelta(0), "a time, such as 7d, 36h, 2w, or a day before now, such as 2026-11-01")
    return span


def trending(run: Run, queries: Sequence[Saved], span: timedelta, now: datetime) -> dict[str, list[Entry]]:
    """For each query the items that are new within `span` and near it, by their score."""
    items = run.items
    metas = [_meta(text) for text in items.column("meta")]
    numbers, uris, hashes = (list(items.column(name)) for name in ("item", "uri", "hash"))
    ages = np.array([_age(meta, now) for meta in metas])
    recent = np.flatnonzero(ages.min(axis=1) <= span / timedelta(days=1)) if len(ages) else np.zeros(0, int)
    stars, notes = _marks(run, STAR), _marks(run, NOTE)
    keys = [key or f"item {number}" for key, number in zip(hashes, numbers, strict=True)]
    found: dict[str, list[Entry]] = {}
    for query in queries:
        near = _cosines(run, query.vector)
        least = np.quantile(near, 1 - NEAR)
        some = []
        for row in recent[near[recent] >= max(least, 1e-6)].tolist():
            age = min(ages[row, 0] if np.isfinite(ages[row, 0]) else ages[row, 1], span / timedelta(days=1))
            note_, starred = notes.get(keys[row], ""), keys[row] in stars
            discussed = _count(metas[row]) + bool(note_)
            score = score_of(float(near[row]), age, span / timedelta(days=1), discussed, starred)
            some.append((score, row, float(near[row]), age, discussed, starred, note_))
        some.sort(key=lambda one: (-one[0], one[1]))
        best = some[:SHOWN]
        thumbnails = items.rows([numbers[one[1]] for one in best], ["thumbnail"]) if best else []
        found[query.name] = [
            Entry(
                numbers[row], uris[row], str(metas[row].get("caption") or ""), _address(metas[row]),
                (now - timedelta(days=age)).isoformat(timespec="minutes"), near_, age, discussed, starred, note_, score,
                keys[row], picture["thumbnail"],
            )
            for (score, row, near_, age, discussed, starred, note_), picture in zip(best, thumbnails, strict=True)
        ]  # fmt: skip
    return found


def score_of(near: float, age: float, since: float, discussed: int, starred: bool) -> float:
    """The formula: near 2^(-age / since) (1 + log2(1 + discussed) / 4) (1.5 if starred), ages in days.

    >>> score_of(0.8, age=7, since=7, discussed=15, starred=False)
    0.8
    """
    return near * 2 ** (-age / since) * (1 + math.log2(1 + discussed) / 4) * (1.5 if starred else 1)


def _age(meta: Mapping[str, Any], now: datetime) -> tuple[float, float]:
    """Days since an item's own date, and since it was added to the run; infinite where there is none.

    What a run was made of was not added to it: all would be new at first.
    """
    ages = []
    for name in ("date", "added"):
        try:
            ages.append(max((now - _moment(str(meta[name]))) / timedelta(days=1), 0.0))
        except (KeyError, ValueError):
            ages.append(math.inf)
    return ages[0], ages[1]


def _count(meta: Mapping[str, Any]) -> int:
    found = meta.get("discussed", 0)
    return found if isinstance(found, int) and 0 <= found < 10**12 else 0


def _address(meta: Mapping[str, Any]) -> str | None:
    """An item's link, where it is an address of the web: a stranger's run may say anything."""
    link = meta.get("link")
    return link if isinstance(link, str) and link.startswith(("https://", "http://")) else None


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _meta(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


# Page and feed --------------------------------------------------------------------------------------------------------

STYLE = """:root{color-scheme:light dark;--ink:#1d1b18;--soft:#6b655c;--line:#ddd6ca;--paper:#fbf9f5;--mark:#0b6e75}
@media (prefers-color-scheme:dark){:root{--ink:#eee9e0;--soft:#a49c90;--line:#3a362f;--paper:#171512;--mark:#6cc5cc}}
body{font:16px/1.55 system-ui,sans-serif;max-width:46rem;margin:2.5rem auto;padding:0 1rem;color:var(--ink);
background:var(--paper)}h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2.5rem 0 .25rem}p{margin:.4rem 0}
.soft,footer{color:var(--soft);font-size:.875rem}ol{list-style:none;padding:0;margin:.5rem 0}
li{display:grid;grid-template-columns:auto 1fr;gap:1rem;padding:.75rem 0;border-top:1px solid var(--line)}
li img{width:4.5rem;height:4.5rem;object-fit:cover;border-radius:4px}.score{font-variant-numeric:tabular-nums;
font-weight:600;color:var(--mark)}a{color:var(--mark)}b{font-weight:600}.text{overflow-wrap:anywhere}
footer{margin-top:3rem;border-top:1px solid var(--line);padding-top:1rem}"""


def _page(title: str, queries: Mapping[str, Saved], news: News, since: str, now: datetime) -> str:
    """A page that needs no other file."""
    sections = "".join(_section(queries[name], entries) for name, entries in news.entries.items())
    n = len({one.item for some in news.entries.values() for one in some})
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>New in {html.escape(title)}</title><style>{STYLE}</style>"
        f'<link rel="alternate" type="application/atom+xml" href="{FEED}">'
        f'<body><header><h1>New in {html.escape(title)}</h1><p class="soft">{counted(n, "item")} since '
        f"{news.since[:16].replace('T', ' ')} ({html.escape(since)}), written {now:%Y-%m-%d %H:%M} UTC · "
        f'<a href="{FEED}">Atom</a></p></header><main>{sections}</main><footer>{html.escape(FORMULA)}</footer></html>\n'
    )


def _section(query: Saved, entries: Sequence[Entry]) -> str:
    asked = f"item {query.query}" if isinstance(query.query, int) else query.query
    head = f'<section><h2>{html.escape(query.name)}</h2><p class="soft" dir="auto">{html.escape(asked)}</p>'
    if not entries:
        return f"{head}<p>Nothing new.</p></section>"
    return f"{head}<ol>{''.join(map(_entry, entries))}</ol></section>"


def _entry(one: Entry) -> str:
    picture = data_uri(one.thumbnail)
    side = f'<img alt="" src="{picture}">' if picture else f'<span class="score">{one.score:.2f}</span>'
    name = html.escape(_title(one))
    if one.link:
        name = f'<a href="{html.escape(one.link, quote=True)}" rel="noreferrer">{name}</a>'
    body = "" if picture or not one.text else f'<p class="text soft" dir="auto">{html.escape(_rest(one))}</p>'
    note_ = f'<p dir="auto">Note: {html.escape(one.note)}</p>' if one.note else ""
    why = html.escape(_why(one, score=bool(picture)))
    return f'<li>{side}<div><b dir="auto">{name}</b>{body}{note_}<p class="soft">{why}</p></div></li>'


def _title(one: Entry) -> str:
    """A paper's or ticket's first sentence; of other items the name."""
    return _sentence(one.text) if one.text and one.text != one.uri else one.uri


def _sentence(text: str) -> str:
    first = re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]
    return first.removesuffix(".") if len(first) <= 160 else first[:157].rstrip() + "..."


def _rest(one: Entry) -> str:
    return one.text.removeprefix(_sentence(one.text)).lstrip(". ").strip()


def _why(one: Entry, *, score: bool = True) -> str:
    """What the score is made of, in words."""
    days = "today" if one.age < 1 else f"{one.age:.0f} day{'s' * (round(one.age) != 1)} ago"
    said = [f"score {one.score:.2f}"] if score else []
    said += [f"near {one.near:.2f}", days]
    said += [f"discussed {one.discussed:,}"] if one.discussed else []
    said += ["starred"] if one.starred else []
    return " · ".join([*said, one.uri])


def _feed(folder: Path, title: str, queries: Mapping[str, Saved], news: News, now: datetime) -> str:
    """Atom 1.0 (RFC 4287): an entry for each item, its queries as categories."""
    by_item: dict[int, tuple[Entry, list[str]]] = {}
    for name, entries in news.entries.items():
        for one in entries:
            by_item.setdefault(one.item, (one, []))[1].append(name)
    own = uuid.uuid5(uuid.NAMESPACE_URL, folder.resolve().as_uri())
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">',
        f"<id>urn:uuid:{own}</id><title>New in {_xml(title)}</title>",
        f"<updated>{now.isoformat(timespec='seconds')}</updated><author><name>tacit</name></author>",
        f"<subtitle>{_xml('Saved queries: ' + ', '.join(queries))}</subtitle>",
    ]
    for one, names in sorted(by_item.values(), key=lambda pair: pair[0].when, reverse=True):
        link = f"<link href={quoteattr(_clean(one.link))}/>" if one.link else ""
        categories = "".join(f"<category term={quoteattr(_clean(name))}/>" for name in names)
        parts.append(
            f"<entry><id>urn:uuid:{uuid.uuid5(own, one.hash)}</id><title>{_xml(_title(one))}</title>{link}"
            f"<updated>{_moment(one.when).isoformat(timespec='seconds')}</updated>{categories}"
            f"<summary>{_xml((_rest(one) + ' — ' if one.text else '') + _why(one))}</summary></entry>"
        )
    return "\n".join(parts) + "\n</feed>\n"


def _xml(text: str) -> str:
    return escape(_clean(text))


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)
