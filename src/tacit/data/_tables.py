"""A parquet, csv or jsonl whose rows hold images or sounds, or say where they lie; and how such files are written."""

from __future__ import annotations

import base64
import codecs
import contextlib
import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from tacit.data import _images
from tacit.data._images import Unreadable, read_file
from tacit.data._listing import KINDS, Labels, Listing, file_stamp, folder_labels
from tacit.data._packs import Item, Skipped
from tacit.errors import DataError, unknown

LABELS = ("label", "class", "target", "y", "category")
"""Columns that are labels: the first of them that is there."""
CAPTIONS = ("text", "caption")
IMAGES = (
    "image",
    "img",
    "picture",
    "photo",
    "bytes",
    "path",
    "file",
    "file_name",
    "filename",
    "image_path",
    "filepath",
)
"""Columns that are looked at before the others, when looking for the one that holds images."""
NAMES = ("name", "file_name", "filename", "path", "file", "key", "id")
"""Columns that may name the rows."""
ADDRESSES = "addresses on a network, which tacit does not use by itself: download the files and give their folder"
SAMPLE = 64
"""Rows looked at to tell what a column holds."""
ROWS = 256
"""Rows of a parquet that are in memory at a time."""
DELIMITERS = ",;\t|"
ONE_COLUMN = "\x1f"
"""A delimiter that no text holds."""
QUOTED = re.compile(r'"[^"]*"')


csv.field_size_limit(2**28)  # a row's text may be longer than the module's 128 KiB


class Table(Protocol):
    """Columns that are read one by one, as often as needed, and never whole."""

    names: list[str]
    classes: dict[str, list[str]]
    """Column of class numbers -> the names of the classes, where the file says them."""
    skipped: list[Skipped]
    """Lines that are no rows."""

    def values(self, name: str) -> Iterator[Any]:
        """The column's values in order; None where there is none."""


def list_table(path: Path, *, labels: str, kind: str = "image") -> Listing:
    """The images of a table, by row, or what else `kind` says: image or audio.

    Raises:
        DataError: the table holds something else, or cannot be read.
        ArgumentError: `labels` names no column.
    """
    ending = path.suffix.lower()
    table = READERS[ending](path)
    column = _media_column(table, path, kind)
    uris = row_names(table, column, path)
    found, labels_from = label_columns(table, column, uris, labels)
    return Listing(
        where=str(path),
        what=f"{ending[1:]} file, column {column}",
        uris=uris,
        skipped=list(table.skipped),
        items=lambda: map(partial(_item, path.parent), uris, table.values(column)),
        labels=found,
        labels_from=labels_from,
        captions=_captions(table),
    )


# The kinds of file ----------------------------------------------------------------------------------------------------


class _Parquet:
    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self._path, self.skipped = path, list[Skipped]()
        with _reading(path):
            schema = parquet.read_schema(path)
        nested = [f"{field.name}.path" for field in schema if _names_files(field.type)]
        self.names = [*schema.names, *nested]
        self.classes = _class_names(schema.metadata or {})

    def values(self, name: str) -> Iterator[Any]:
        from pyarrow import parquet

        with _reading(self._path), parquet.ParquetFile(self._path) as file:
            for batch in file.iter_batches(ROWS, columns=[name]):
                column = batch.column(0).to_pylist()
                yield from column if batch.schema.names == [name] else (value and value["path"] for value in column)


class _Csv:
    def __init__(self, path: Path) -> None:
        self._path, self.classes = path, dict[str, list[str]]()
        with _reading(path), path.open(encoding="utf-8-sig") as file:
            self._delimiter = delimiter_of(next(filter(str.strip, file), ""), path)
        self.names = column_names(next(self._lines(), []))

    def values(self, name: str) -> Iterator[Any]:
        column = self.names.index(name)
        for row in islice(self._lines(), 1, None):
            yield (row[column] or None) if column < len(row) else None

    @cached_property
    def skipped(self) -> list[Skipped]:
        skipped = list[Skipped]()
        for _ in self._lines(skipped):
            pass
        return skipped

    def _lines(self, skipped: list[Skipped] | None = None) -> Iterator[list[str]]:
        """The fields of the header and of each row; a line with more of them is none, for what is where is unknown."""
        width = None
        with _reading(self._path), self._path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self._delimiter)
            for row in filter(None, reader):
                width = len(row) if width is None else width
                if any(row[width:]):
                    if skipped is not None:
                        where = f"{self._path.name}, line {reader.line_num}"
                        skipped.append(Skipped(where, f"{len(row)} fields in place of {width}"))
                    continue
                yield row


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._path, self.classes, self.skipped = path, dict[str, list[str]](), list[Skipped]()
        with _reading(path):
            self.names = list(dict.fromkeys(name for row in json_rows(path, self.skipped) for name in row))
        if not self.names and self.skipped:
            raise DataError(f"{path} cannot be read as {path.suffix.lower()[1:]}: {': '.join(self.skipped[0])}")

    def values(self, name: str) -> Iterator[Any]:
        with _reading(self._path):
            for row in json_rows(self._path, []):
                yield row.get(name)


READERS: Mapping[str, Callable[[Path], Table]] = {
    ".parquet": _Parquet,
    ".csv": _Csv,
    ".tsv": _Csv,
    ".jsonl": _JsonLines,
    ".ndjson": _JsonLines,
}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    except (OSError, ValueError, NotImplementedError, csv.Error) as error:  # Arrow's errors are among these
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as {path.suffix.lower()[1:]}: {text}") from error


def not_utf8(path: Path) -> DataError:
    """Which line of a file of text is not UTF-8, and what to do."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return DataError(f"{path} is UTF-16, not UTF-8: save it as UTF-8")
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return DataError(f"{path}, line {number}: not UTF-8 (byte {byte:#04x}); save it as UTF-8")
    return DataError(f"{path} is not UTF-8: save it as UTF-8")


def delimiter_of(header: str, path: Path) -> str:
    """What parts the fields of a csv: of comma, semicolon, tab and bar the one that its first line has most of.

    Where it has none, there is one column, and a comma in it is a text's.

    >>> delimiter_of('"a, b, c";d', Path("t.csv")), delimiter_of("a,b", Path("t.tsv"))
    (';', '\\t')
    """
    if path.suffix.lower() == ".tsv":
        return "\t"
    bare = QUOTED.sub("", header)
    most = max(DELIMITERS, key=bare.count)
    return most if most in bare else ONE_COLUMN


def column_names(header: Sequence[str]) -> list[str]:
    """
    >>> column_names(["text ", "", "label"])
    ['text', 'column 2', 'label']
    """
    return [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]


def json_rows(path: Path, skipped: list[Skipped]) -> Iterator[dict[str, Any]]:
    """An object a line; lines that are none are added to `skipped`."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            why = "no object"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                row, why = None, f"no JSON: {error.msg}, character {error.colno}"
            except (ValueError, RecursionError) as error:  # a number of too many digits; too many brackets
                row, why = None, f"no JSON: {error}"
            if isinstance(row, dict):
                yield row
            else:
                skipped.append(Skipped(f"{path.name}, line {number}", why))


def _names_files(kind: Any) -> bool:
    """Whether an Arrow type is a struct with a field `path`, as Hugging Face stores images."""
    from pyarrow import types

    return types.is_struct(kind) and kind.get_field_index("path") >= 0


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """What Hugging Face's `datasets` writes about columns of class numbers."""
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {name: list(f["names"]) for name, f in features.items() if f.get("_type") == "ClassLabel"}
    return {}


# What the columns mean ------------------------------------------------------------------------------------------------


def _media_column(table: Table, path: Path, kind: str) -> str:
    """The first column that holds encoded images (or sounds) or paths to them."""
    seen = media_columns(table)
    column = next((name for name, what in seen.items() if what == kind), None)
    if column is not None:
        return column
    media = next((f"{what} (column {name})" for name, what in seen.items() if what), None)
    columns = ", ".join(name for name in table.names[:20]) or "none"
    wanted = {"image": "encoded images", "audio": "encoded sounds"}[kind]
    raise DataError(
        f"{path} holds {media or _no_media(table)}; looked for a column of {wanted} or of paths to them; its columns: "
        f"{columns}"
    )


def media_columns(table: Table) -> dict[str, str]:
    """Column -> the media it holds or points to: image, audio, a sentence on what is not read, or nothing.

    Those whose names say so come first.
    """
    first = [name for wanted in IMAGES for name in table.names if name.lower() == wanted]
    samples = {
        name: [value for value in islice(table.values(name), SAMPLE) if value is not None]
        for name in dict.fromkeys([*first, *table.names])
    }
    return {name: _media(sample, trusted=name in first) for name, sample in samples.items()}


def _media(sample: Sequence[Any], *, trusted: bool) -> str:
    """Kind of media that a column holds or points to, empty if none; the name of a `trusted` column says image."""
    for value in sample:
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and _is_sound(value):
            return "audio"
        if isinstance(value, bytes) and (trusted or _images.shorter_side(value)):
            return "image"
        if isinstance(value, str) and _images.shorter_side(_from_base64(value)):
            return "image"
    paths = [value.get("path") if isinstance(value, Mapping) else value for value in sample]
    texts = [path.strip() for path in paths if isinstance(path, str)]
    if any(text.startswith(("http://", "https://", "s3://", "gs://")) for text in texts):
        return ADDRESSES
    for kind in ("image", "audio", "video"):
        if 2 * sum(_kind(text) == kind for text in texts) > len(sample):
            return f"paths of {kind} files" if kind == "video" else kind
    return ""


def _is_sound(data: bytes) -> bool:
    return data[:4] in (b"fLaC", b"OggS", b"FORM") or data[:3] == b"ID3" or (data[:4], data[8:12]) == (b"RIFF", b"WAVE")


def _kind(path: str) -> str | None:
    return KINDS.get(path.rpartition(".")[2].lower())


def _no_media(table: Table) -> str:
    for name in table.names:
        texts = [value for value in islice(table.values(name), 1000) if isinstance(value, str)]
        if texts and sum(map(len, texts)) > 20 * len(texts) and 2 * len(set(texts)) > len(texts):
            return f"text (column {name})"
    return "series (columns id, time and value)" if {"id", "time", "value"} <= set(table.names) else "a table"


def row_names(table: Table, column: str, path: Path) -> list[str]:
    """What names each row: its file, or a column of distinct names, or its number."""
    for name in (f"{column}.path", column, *NAMES):
        if name not in table.names:
            continue
        sample = next((value for value in table.values(name) if value is not None), None)
        if not isinstance(sample, str | int) or _from_base64(str(sample)):
            continue
        values = [value if value is None else str(value) for value in table.values(name)]
        if name == column or len(set(values) - {None}) == len(values):
            return [f"{path.name}#{row}" if value is None else value for row, value in enumerate(values)]
    rows = sum(1 for _ in table.values(min(table.names, key=lambda name: name == column)))
    return [f"{path.name}#{row}" for row in range(rows)]


def label_columns(table: Table, column: str, uris: Sequence[str], labels: str) -> tuple[Labels, str]:
    if labels in ("none", "folder"):
        return folder_labels(uris, labels)
    if labels == "auto":
        lower = {name.lower(): name for name in reversed(table.names) if name != column}
        labels = next((lower[name] for name in LABELS if name in lower), "")
        if not labels:
            return folder_labels(uris, "auto")
    if labels not in table.names:
        raise unknown("labels", labels, [*table.names, "auto", "folder", "none"])
    classes = table.classes.get(labels)
    return {labels: [as_label(value, classes) for value in table.values(labels)]}, f"column {labels}"


def as_label(value: Any, classes: Sequence[str] | None = None) -> str | None:
    """A label as text, None where it is missing.

    >>> as_label(3), as_label(2.0), as_label(float("nan")), as_label(1, ["cat", "dog"])
    ('3', '2', None, 'dog')
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if classes and isinstance(value, int):
        return classes[value] if 0 <= value < len(classes) else None  # Hugging Face writes -1 for unknown
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _captions(table: Table) -> list[str | None] | None:
    name = next((name for name in table.names if name.lower() in CAPTIONS), None)
    return None if name is None else [None if value is None else str(value) for value in table.values(name)]


# Rows to items --------------------------------------------------------------------------------------------------------


def _item(folder: Path, uri: str, value: Any) -> Item:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and (encoded := _from_base64(value)):
        value = encoded
    if isinstance(value, bytes):
        return Item(uri, partial(_given, value))
    if isinstance(value, str):
        path = str(Path(folder, value))
        return Item(uri, partial(read_file, path), partial(file_stamp, path))
    return Item(uri, partial(_missing, value))


def _given(value: bytes) -> bytes:
    return value


def _missing(value: Any) -> bytes:
    raise Unreadable("empty: nothing in this row" if value is None else f"not encoded: {type(value).__name__}")


def _from_base64(text: str) -> bytes:
    """The bytes that a text encodes, none if it does not look like it."""
    if text.startswith("data:image/"):
        text = text.partition("base64,")[2]
    if len(text) < 64 or len(text) % 4 or "." in text[:64]:
        return b""
    with contextlib.suppress(ValueError):
        return base64.b64decode(text, validate=True)
    return b""
