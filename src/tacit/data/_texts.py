"""Texts: files of a folder, lines of a file, or the rows of a table that has a column of them."""

from __future__ import annotations

import html.parser
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tacit.data import _tables
from tacit.data._images import Unreadable, read_file
from tacit.data._listing import Labels
from tacit.data._packs import Skipped
from tacit.errors import DataError, unknown

ENDINGS = ("txt", "md", "rst", "tex", "html", "htm", "xml")
"""Files of text that are read, by the end of their names."""
MAX_CHARACTERS = 1_000_000
"""A longer text is cut."""
TITLES = ("title", "headline", "subject")
BODIES = (
    *("text", "body", "content", "abstract", "description", "message", "review", "comment", "question", "sentence"),
    *("summary", "tweet", "utterance", "query", "caption", "note"),
)
"""Columns that are looked at first, when looking for the one that holds texts."""
FEWEST_LETTERS = 20
"""Characters in the mean, above which a column of other name, most of whose values differ, holds texts, if all other
columns together are shorter: names of persons among a table's numbers are none."""


@dataclass
class Texts:
    """n texts, none of them empty, and what stands beside them."""

    texts: list[str]
    uris: list[str]
    where: str
    what: str
    labels: Labels = field(default_factory=dict)
    labels_from: str = ""
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    facts: list[dict[str, Any]] | None = None
    """Of each text its date, link and how much it was discussed, where the file says so."""


def text_columns(table: _tables.Table) -> tuple[str, ...]:
    """The column of titles, if there is one beside it, and the column of texts; none if the table holds no texts."""
    lower = {name.lower(): name for name in reversed(table.names)}
    titles = [lower[name] for name in TITLES if name in lower]
    named = [lower[name] for name in BODIES if name in lower]
    others = [name for name in table.names if name not in named and name not in titles]
    body = next((name for name in (*named, *others) if _holds_texts(table, name, trusted=name in named)), None)
    if body is None:
        body = next((name for name in titles if _holds_texts(table, name, trusted=True)), None)
    if body is None:
        return ()
    return (*[name for name in titles[:1] if name != body], body)


def _holds_texts(table: _tables.Table, name: str, *, trusted: bool) -> bool:
    values = [value for value in islice(table.values(name), 1000) if value is not None and value != ""]
    texts = [value for value in values if isinstance(value, str)]
    if not texts or 2 * len(texts) < len(values):
        return False
    spaced, letters = sum(" " in text.strip() for text in texts), sum(map(len, texts))
    if trusted:
        return 2 * spaced > len(texts) or letters > FEWEST_LETTERS * len(texts)
    differ = letters > FEWEST_LETTERS * len(texts) and 2 * len(set(texts)) > len(texts) and spaced > 0
    return differ and letters > sum(_letters(table, other) for other in table.names if other != name)


def _letters(table: _tables.Table, name: str) -> int:
    values = islice(table.values(name), 1000)
    return sum(len(value if isinstance(value, str) else str(value)) for value in values if value is not None)


def read_text_table(path: Path, *, labels: str, column: str | None = None) -> Texts:
    """The texts of a parquet, csv, tsv or jsonl, a title put before its text.

    Raises:
        DataError: no column holds texts, or the file cannot be read.
        ArgumentError: `labels` names no column.
    """
    kind = path.suffix.lower()
    table = _tables.READERS[kind](path)
    columns = text_columns(table) if column is None else (column,)
    if not columns:
        raise DataError(f"{path}: no column holds texts; its columns: {', '.join(table.names[:20]) or 'none'}")
    rows: list[Any] = list(table.values(columns[-1]))
    if len(columns) > 1:
        rows = [titled(title, text) for title, text in zip(table.values(columns[0]), rows, strict=True)]
    uris = _tables.row_names(table, "", path)
    found, labels_from = _tables.label_columns(table, columns[-1], uris, labels)
    made = kept(rows, uris, str(path), f"{kind[1:]} file, column {' and '.join(columns)}")
    place = {uri: number for number, uri in enumerate(uris)}
    made.labels = {name: [values[place[uri]] for uri in made.uris] for name, values in found.items()}
    made.labels_from = labels_from
    made.skipped = [*table.skipped, *made.skipped]
    made.facts = _facts(table, [place[uri] for uri in made.uris])
    return made


def _facts(table: _tables.Table, rows: Sequence[int]) -> list[dict[str, Any]] | None:
    """What the columns beside say of these rows."""
    from tacit.data._papers import FACTS, facts_of

    names = [name for name in table.names if name.lower() in {word for words in FACTS.values() for word in words}]
    if not names:
        return None
    columns = {name: list(table.values(name)) for name in names}
    return [facts_of({name: values[row] for name, values in columns.items()}) for row in rows]


def titled(title: Any, text: Any) -> Any:
    return (
        f"{title.strip().rstrip('.')}. {text}" if isinstance(title, str) and title and isinstance(text, str) else text
    )


def read_lines(path: Path) -> Texts:
    """A text file whose lines are the items, as a list of sentences or of titles is.

    Raises:
        DataError: it cannot be read, or holds no text.
    """
    try:
        text, notes = _decoded(read_file(str(path)), path.name, whole=True)
    except Unreadable as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error
    lines = re.split(r"\r\n|\r|\n", text)
    made = kept(lines, [f"{path.name}:{number}" for number in range(1, len(lines) + 1)], str(path), "a text a line")
    made.skipped = [one for one in made.skipped if not one.reason.startswith("empty")]  # blank lines only part others
    made.remarks += [f"The file is {note}." for note in notes]
    return made


def read_files(
    names: Sequence[str], read: Callable[[str], bytes], where: str, what: str, told: Callable[[int], None]
) -> Texts:
    """Each file a text."""
    texts, uris, skipped, notes = [], [], [], 0
    for number, name in enumerate(names, 1):
        try:
            text, remarks = _decoded(read(name), name)
            notes += bool(remarks)
            texts.append(text)
            uris.append(name)
        except Unreadable as error:
            skipped.append(Skipped(name, str(error)))
        told(number)
    made = kept(texts, uris, where, what)
    made.skipped = skipped + made.skipped
    if notes:
        made.remarks.append(f"{notes:,} files are not in UTF-8 and were read as their byte-order mark says.")
    return made


def read_list(texts: Iterable[Any]) -> Texts:
    """Texts that Python holds."""
    rows = list(texts)
    return kept(rows, [str(number) for number in range(len(rows))], "a list", "texts")


def kept(texts: Sequence[Any], uris: Sequence[str], where: str, what: str) -> Texts:
    """Without those that are empty or no text, the longest ones cut."""
    made = Texts([], [], where, what)
    cut = 0
    for text, uri in zip(texts, uris, strict=True):
        if not isinstance(text, str):
            made.skipped.append(Skipped(uri, f"not a text: {'missing' if text is None else type(text).__name__}"))
            continue
        text = text.replace("\0", "").strip()
        if not text:
            made.skipped.append(Skipped(uri, "empty text"))
            continue
        cut += len(text) > MAX_CHARACTERS
        made.texts.append(text[:MAX_CHARACTERS])
        made.uris.append(uri)
    if cut:
        made.remarks.append(f"Of {cut:,} texts the first {MAX_CHARACTERS:,} characters are read.")
    if not made.texts:
        first = f"; the first: {': '.join(made.skipped[0])}" if made.skipped else ""
        raise DataError(f"no text in {where} ({what}): {len(made.skipped):,} items skipped{first}")
    return made


def _decoded(data: bytes, name: str, *, whole: bool = False) -> tuple[str, list[str]]:
    """The text of a file, its beginning if it is not to be read `whole`; html and xml without their marks.

    Raises:
        Unreadable: it is empty, or no text in UTF-8 or, by its byte-order mark, UTF-16.
    """
    if not data:
        raise Unreadable("empty: zero bytes")
    data = data if whole else data[: 4 * MAX_CHARACTERS]
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig", errors="strict")
    except UnicodeDecodeError as error:
        if whole or error.start < len(data) - 4:  # the cut may have parted a character
            raise Unreadable(f"wrong encoding: not UTF-8 from byte {error.start:,} on") from error
        text = data[: error.start].decode("utf-16" if marked else "utf-8-sig", errors="ignore")
    if "\0" in text[:1000]:
        raise Unreadable("not a text: it holds zero bytes")
    if name.lower().endswith((".html", ".htm", ".xml")):
        text = without_marks(text)
    return text, ["in UTF-16"] if marked else []


class _Plain(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self._hidden = io.StringIO(), 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text.write(data + " ")


def without_marks(text: str) -> str:
    parser = _Plain()
    parser.feed(text)
    return " ".join(parser.text.getvalue().split())


def snippets(texts: Sequence[str], length: int = 200) -> Iterator[str]:
    """The beginnings of texts, on one line."""
    for text in texts:
        line = " ".join(text[: 4 * length].split())
        yield line if len(line) <= length else line[: length - 3].rstrip() + "..."


def check_column(labels: str, names: Sequence[str]) -> None:
    if labels not in (*names, "auto", "none", "folder"):
        raise unknown("labels", labels, [*names, "auto", "folder", "none"])
