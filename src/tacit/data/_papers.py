"""Papers, and whatever else comes as a list of titles with texts: feeds and pages that somebody saved.

Read are Atom and RSS (arXiv's, a journal's, a blog's), listings of arXiv (new, recent, a search) and the papers page of
Hugging Face, as a browser saves them. Nothing is fetched.
"""

from __future__ import annotations

import html
import html.parser
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tacit.data import _texts
from tacit.data._images import Unreadable, read_file
from tacit.errors import DataError

ENDINGS = ("xml", "atom", "rss", "rdf", "html", "htm")
ARXIV, HUB = "https://arxiv.org/abs/", "https://huggingface.co/papers/"
NUMBER = re.compile(r"\b(\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})(v\d+)?\b")
"""An identifier of arXiv, new or old."""
FACTS = {
    "date": ("date", "published", "publishedat", "published_at", "created", "created_at", "timestamp", "updated"),
    "link": ("link", "url", "href", "address"),
    "discussed": ("comments", "n_comments", "num_comments", "numcomments", "upvotes", "votes", "replies", "points"),
}
"""Column or field -> what it says of an item, in lower case; numbers of the last kind are added."""


def facts_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Date, link and how much an item was discussed, where a row says so.

    >>> facts_of({"Published": "Mar 2, 2023", "upvotes": 12, "comments": "3", "title": "A"})
    {'date': '2023-03-02', 'discussed': 15}
    """
    lower = {str(name).lower(): value for name, value in row.items() if value not in (None, "")}
    found: dict[str, Any] = {}
    date = next((when(lower[name]) for name in FACTS["date"] if name in lower), None)
    link = next((lower[name] for name in FACTS["link"] if name in lower), None)
    numbers = [_whole(lower[name]) for name in FACTS["discussed"] if name in lower]
    if date:
        found["date"] = date
    if isinstance(link, str) and link.startswith(("https://", "http://")):
        found["link"] = link
    if any(numbers):
        found["discussed"] = sum(numbers)
    return found


def when(value: Any) -> str | None:
    """A day, `2023-03-02`, from what feeds and tables write; None from anything else.

    >>> [when(text) for text in ("2023-03-02T17:59:59Z", "Thu, 02 Mar 2023 00:00:00 GMT", "2 Mar 2023", "soon", 17.5)]
    ['2023-03-02', '2023-03-02', '2023-03-02', None, None]
    """
    if isinstance(value, datetime):
        return value.date().isoformat()
    text = str(value).strip()
    with suppress(ValueError):
        return datetime.fromisoformat(text.replace("Z", "+00:00")).date().isoformat()
    for form in ("%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%Y/%m/%d"):
        with suppress(ValueError):
            return datetime.strptime(text, form).date().isoformat()
    with suppress(ValueError, TypeError):
        return parsedate_to_datetime(text).date().isoformat()
    seconds = _whole(value)
    if 10**8 < seconds < 10**10:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    return None


def read_papers(path: Path) -> _texts.Texts | None:
    """The entries of a feed or of a saved page, each a title and its text; None where the file is none of these.

    Raises:
        DataError: it cannot be read.
    """
    try:
        text = read_file(str(path)).decode("utf-8-sig", "replace")
    except Unreadable as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error
    for what, read in (("feed", _feed), ("Hugging Face page", _hub), ("arXiv listing", _listing)):
        rows = _distinct(read(text))
        if rows:
            return _made(rows, path, what)
    return None


def _made(rows: list[dict[str, Any]], path: Path, what: str) -> _texts.Texts:
    texts = [_texts.titled(row["title"], row["text"]) if row["text"] else row["title"] for row in rows]
    made = _texts.kept(texts, [row["id"] for row in rows], str(path), f"{what} of papers")
    facts = {row["id"]: facts_of(row) for row in rows}
    made.facts = [facts[uri] for uri in made.uris]
    bare = sum(not row["text"] for row in rows)
    if bare:
        made.remarks.append(f"{bare:,} of {len(rows):,} entries have a title and no abstract: the page shows none.")
    return made


def _distinct(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row an id, that with the longer text: pages repeat entries."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        row["title"], row["text"] = (" ".join(str(row.get(name) or "").split()) for name in ("title", "text"))
        if row["title"] and len(row["text"]) >= len(found.get(row["id"], {"text": ""})["text"]):
            found[row["id"]] = row
    return list(found.values())


# Feeds ----------------------------------------------------------------------------------------------------------------


def _feed(text: str) -> Iterator[dict[str, Any]]:
    """Entries of Atom, items of RSS 2 and RSS 1."""
    if ("<!DOCTYPE" in text[:2000] and "<html" in text[:5000].lower()) or "<!ENTITY" in text:
        return  # a page; and a document type that defines entities could unfold without end
    try:
        root = ElementTree.fromstring(text.lstrip())
    except ElementTree.ParseError:
        return
    for entry in root.iter():
        if _local(entry.tag) in ("entry", "item"):
            said = {_local(child.tag): (child.text or child.get("href") or "").strip() for child in entry[::-1]}
            address = said.get("id") or said.get("guid") or said.get("link") or said.get("title", "")
            body = said.get("summary") or said.get("description") or said.get("content") or said.get("encoded", "")
            yield {
                "id": _id(address),
                "title": re.sub(r"\s*\(arXiv:[^)]*\)\s*$", "", said.get("title", "")),
                "text": re.sub(r"^arXiv:\S+ Announce Type: \S+\s*Abstract:\s*", "", _texts.without_marks(body)),
                "link": _link(said.get("link") or address),
                "date": said.get("published") or said.get("pubDate") or said.get("date") or said.get("updated"),
                "comments": said.get("comments"),
            }


def _local(tag: Any) -> str:
    return str(tag).rpartition("}")[2]


# The papers page of Hugging Face --------------------------------------------------------------------------------------


def _hub(text: str) -> Iterator[dict[str, Any]]:
    """What the page carries as JSON for its own scripts; else its links to papers."""
    if not re.search("hugging ?face", text[:20_000], re.I):
        return
    found = False
    for piece in _json_pieces(text):
        for paper in _with_titles(piece):
            number = str(paper.get("id") or paper.get("_id") or "")
            if NUMBER.fullmatch(number):
                found = True
                yield {
                    "id": number,
                    "title": paper["title"],
                    "text": paper.get("summary") or paper.get("abstract"),
                    "link": HUB + number,
                    "date": paper.get("publishedAt") or paper.get("published"),
                    "upvotes": paper.get("upvotes"),
                    "comments": paper.get("numComments"),
                }
    if not found:
        for number, title in re.findall(r'<a[^>]+href="[^"]*/papers/(\d{4}\.\d{4,5})"[^>]*>(.*?)</a>', text, re.S):
            yield {"id": number, "title": _texts.without_marks(title), "text": "", "link": HUB + number}


def _json_pieces(text: str) -> Iterator[Any]:
    pieces = [html.unescape(piece) for piece in re.findall(r'data-props="([^"]*)"', text)]
    pieces += re.findall(r'<script[^>]+type="application/json"[^>]*>(.*?)</script>', text, re.S)
    for piece in pieces:
        with suppress(ValueError, RecursionError):
            yield json.loads(piece)


def _with_titles(value: Any) -> Iterator[Mapping[str, Any]]:
    """All objects with a title, at any depth; one under the name `paper` with the comments of the one around it."""
    open_ = [value]
    while open_:
        one = open_.pop()
        if isinstance(one, list):
            open_ += one
        elif isinstance(one, Mapping):
            inner = one.get("paper")
            if isinstance(inner, Mapping):
                one = {**one, "paper": None}
                open_.append({"numComments": one.get("numComments"), **inner})
            elif isinstance(one.get("title"), str):
                yield one
            open_ += [each for each in one.values() if isinstance(each, list | Mapping)]


# Listings of arXiv ----------------------------------------------------------------------------------------------------


def _listing(text: str) -> Iterator[dict[str, Any]]:
    """`<dt>` with the number, `<dd>` with title and perhaps abstract; or the results of a search."""
    if "arxiv" not in text[:20_000].lower():
        return
    parts = re.split(r"<dt\b|<li class=[\"']arxiv-result", text)
    for part in parts[1:]:
        number = re.search(r"/abs/([^\"'\s<>]+)", part) or re.search(r"arXiv:(\S+?)[<\s]", part)
        title = re.search(r"class=[\"'](?:list-)?title[^>]*>(.*?)</(?:div|p)>", part, re.S)
        if number is None or title is None:
            continue
        full = re.search(r"class=[\"']abstract-full[^>]*>(.*?)(?:<a\b|</span>)", part, re.S)
        body = full or re.search(r"<p class=[\"']mathjax[^>]*>(.*?)</p>", part, re.S)
        said = _texts.without_marks(title[1])
        yield {
            "id": _id(number[1]),
            "title": re.sub(r"^Title:\s*", "", said),
            "text": _texts.without_marks(body[1]) if body else "",
            "link": ARXIV + _id(number[1]),
            "date": (re.search(r"originally announced</[^>]+>\s*([A-Z][a-z]+ \d{4})", part) or ["", None])[1],
        }


def _id(address: str) -> str:
    """The number of an arXiv paper without its version, or the address as it is."""
    found = NUMBER.search(address) if "arxiv" in address.lower() or "/abs/" in address else NUMBER.fullmatch(address)
    return found[1] if found else address


def _link(address: str) -> str | None:
    found = NUMBER.search(address) if "arxiv" in address.lower() else None
    return ARXIV + found[1] if found else address if address.startswith(("https://", "http://")) else None


def _whole(value: Any) -> int:
    try:
        return int(float(str(value).replace(",", "")))
    except (ValueError, OverflowError):
        return 0
