"""A user's table -> rows of numbers and categories, and what became of each column."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tacit.data._packs import Skipped
from tacit.data._tables import column_names, delimiter_of, json_rows, not_utf8
from tacit.errors import DataError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Table", "arrow_table", "read_table"]

FEW, SHARE = 20, 0.05
"""Distinct texts of a column of categories, at most: 20, or 5 % of the rows if these are more."""
MOSTLY = 0.95
"""Share of the texts of a column that must be numbers, or dates, for it to be one of these."""
COUNTED = 10
"""Rows from which on whole numbers without a gap are an identifier."""
LONG = 30
"""Mean length from which on texts are called free text."""
MISSING = ["", "?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "NULL", "null", "<NA>"]
"""What stands for a missing value in a file of text."""
IDENTIFIER = re.compile(r"^(id|idx|index|uuid|guid|key|rowid|row_id)$|(_|-|\s)(id|key|uuid)$|[a-z]I[dD]$")
FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y/%m/%d", "%d.%m.%Y")
DECIMAL = re.compile(rb"(?:^|;)\s*-?\d+([,.])\d+\s*(?=;|\r?$)", re.MULTILINE)
"""A number with a decimal comma or point between semicolons."""
DAY = 86_400e6
"""Microseconds."""


@dataclass
class Table:
    """Rows that can be learned from.

    Attributes:
        x: float32 (n, d): numbers, category numbers (0, 1, ...) and dates as days since 1970; NaN is missing.
        features: d names of columns.
        categories: d counts of categories, 0 for numbers and dates.
        category_names: d tuples of their names, empty for numbers and dates.
        dates: the features that are dates.
        left_out: column -> why it is not among the features.
        rows: int64 (n,), the numbers of these rows in the table; not all, if some hold nothing.
        skipped: rows that hold nothing, and lines that are no rows.
        remarks: sentences on what was chosen or changed.
    """

    x: np.ndarray
    features: tuple[str, ...]
    categories: tuple[int, ...]
    category_names: tuple[tuple[str, ...], ...]
    dates: frozenset[str]
    left_out: dict[str, str]
    rows: np.ndarray
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def schema(self) -> dict[str, Any]:
        """What `read_table(..., schema=)` reads other rows by, so that they mean the same; plain JSON."""
        names = dict(zip(self.features, map(list, self.category_names), strict=True))
        return {"features": list(self.features), "categories": names, "dates": sorted(self.dates)}

    def row_text(self, row: int, *, length: int = 120) -> str:
        """One line on a row: its values by name, the missing ones left out, cut at so many characters."""
        parts = []
        for name, names, value in zip(self.features, self.category_names, self.x[row], strict=True):
            if not np.isnan(value):
                parts.append(f"{name} {self._said(name, names, float(value))}")
        text = ", ".join(parts)
        return text if len(text) <= length else text[: length - 3].rstrip(" ,") + "..."

    def _said(self, name: str, names: Sequence[str], value: float) -> str:
        if names:
            return names[int(value)]
        return str(np.datetime64(round(value), "D")) if name in self.dates else short_number(value)


def short_number(value: float) -> str:
    """
    >>> short_number(39.0), short_number(0.12345), short_number(50_000.0), short_number(-1_250_000.0)
    ('39', '0.1235', '50k', '-1.25M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.4g}"


def read_table(
    source: Any, *, without: Iterable[str] = (), schema: Mapping[str, Any] | None = None, where: str = "the table"
) -> Table:
    """The columns of a table that can be learned from, as float32.

    | column | becomes |
    |---|---|
    | numbers, truth values; text of which 95 % are numbers | numbers; what is none is missing |
    | dates, times, durations; text of which 95 % are ISO dates | days, since 1970-01-01 for dates |
    | text, bytes that are text, and dictionaries, with at most max(20, 5 % of n) distinct values | categories, sorted |
    | one value everywhere; nothing but missing values | left out |
    | identifiers: texts that all differ, whole numbers without a gap that all differ (from 10 rows on), and distinct
      whole numbers in a column called id or so | left out |
    | other text; bytes; lists and objects | left out |

    Empty cells, ?, NA, NaN, null and the like are missing, and so are infinite numbers. Rows of which every feature is
    missing are skipped. A csv may be separated by commas, semicolons, tabs or bars; if all of its first line are
    numbers, it has no header, and the columns are called column 1, column 2, ...

    Args:
        source: path of a .parquet, .csv, .tsv, .jsonl or .ndjson; a pandas or polars DataFrame; a pyarrow Table.
        without: columns to leave alone, such as labels.
        schema: of another Table: its columns, looked for by name, and its categories are taken; a category that is not
            among them is missing.
        where: what the table is called in messages, if `source` is no path.

    Raises:
        DataError: unreadable, empty, not UTF-8, two columns of one name, none to learn from, or one of the schema's
            that is not there.

    >>> import pyarrow
    >>> table = read_table(pyarrow.table({"id": [7, 8, 9], "age": [39, None, 50], "sex": ["f", "m", "f"]}))
    >>> table.x.tolist(), table.features, table.categories, table.left_out
    ([[39.0, 0.0], [nan, 1.0], [50.0, 0.0]], ('age', 'sex'), (0, 2), {'id': 'an identifier: distinct whole numbers'})
    >>> table.row_text(0)
    'age 39, sex f'
    """
    where = str(source) if isinstance(source, str | os.PathLike) else where
    whole, skipped, remarks = arrow_table(source, where=where)
    without = set(without)
    columns, left_out = dict[str, _Column](), dict[str, str]()
    for name in [name for name in whole.column_names if name not in without]:
        if schema is not None and name not in schema["features"]:
            left_out[name] = "not among the columns that were learned from"
            continue
        column = _by_schema(whole[name], name, schema) if schema else _read(whole[name], name)
        if isinstance(column, str):
            left_out[name] = column
        else:
            columns[name] = column
    features = tuple(schema["features"]) if schema else tuple(columns)
    gone = [name for name in features if name not in columns]
    if gone:
        raise DataError(f"{where}: expected the columns that were learned from, but {_list(gone)} is not among them")
    if not features:
        why_not = {name: "a label" for name in whole.column_names if name in without} | left_out
        reasons = "; ".join(f"{name}: {why}" for name, why in list(why_not.items())[:10])
        raise DataError(f"{where} has no column to learn from ({reasons}); a table needs numbers or categories")
    x = np.stack([columns[name].values for name in features], axis=1).astype(np.float32)
    empty = np.isnan(x).all(axis=1)
    label = Path(where).name
    skipped += [Skipped(f"{label}#{row}", "every value missing") for row in np.flatnonzero(empty)]
    if empty.all():
        raise DataError(
            f"{where} has {len(x):,} rows and no value in {_list(features)}; there is nothing to learn from"
        )
    dates = frozenset(name for name in features if columns[name].date)
    remarks += _remarks(columns, left_out)
    return Table(
        x=x[~empty],
        features=features,
        categories=tuple(len(columns[name].names) for name in features),
        category_names=tuple(columns[name].names for name in features),
        dates=dates,
        left_out=left_out,
        rows=np.flatnonzero(~empty),
        skipped=skipped,
        remarks=remarks,
    )


def _remarks(columns: Mapping[str, _Column], left_out: Mapping[str, str]) -> list[str]:
    numbers = sum(not column.names for column in columns.values())
    said = [f"Columns: {numbers:,} of numbers, {len(columns) - numbers:,} of categories."]
    dates = [name for name, column in columns.items() if column.date]
    if dates:
        said.append(f"Dates and times as days: {_list(dates)}.")
    said += [f"{name}: {column.note}." for name, column in columns.items() if column.note]
    if left_out:
        said.append("Left out: " + "; ".join(f"{name} ({why})" for name, why in left_out.items()) + ".")
    return said


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20:,} more" if len(names) > 20 else "")


# Columns --------------------------------------------------------------------------------------------------------------


@dataclass
class _Column:
    """What is learned from."""

    values: np.ndarray
    """float (n,), NaN missing."""
    names: tuple[str, ...] = ()
    date: bool = False
    note: str = ""


def _read(column: pyarrow.ChunkedArray, name: str) -> _Column | str:
    """A column to learn from, or why it is none."""
    from pyarrow import types

    column, declared = _decoded(column)
    kind = column.type
    if column.null_count == len(column):
        return "nothing but missing values"
    if types.is_boolean(kind) or _is_number(kind):
        return _numbers(column, name)
    if _is_time(kind):
        return _not_constant(_Column(_days(column), date=_is_date(kind)))
    if not types.is_string(kind):
        return "bytes" if types.is_binary(kind) or types.is_large_binary(kind) else f"nested values ({kind})"
    return (None if declared else _numbers_or_dates_in_text(column, name)) or _categories(column)


def _decoded(column: pyarrow.ChunkedArray) -> tuple[pyarrow.ChunkedArray, bool]:
    """Without dictionary, all text of one type, missing texts null; and whether it was declared to be categories."""
    import pyarrow
    from pyarrow import compute, types

    declared = types.is_dictionary(column.type)
    if declared:
        column = column.cast(column.type.value_type)
        column = column.cast(pyarrow.string()) if _is_number(column.type) else column
    if types.is_large_string(column.type) or str(column.type) == "string_view":
        column = column.cast(pyarrow.string())
    if types.is_binary(column.type) or types.is_large_binary(column.type):
        try:
            column = column.cast(pyarrow.string())
        except pyarrow.ArrowInvalid:
            return column, False
    if types.is_string(column.type):
        column = compute.utf8_trim_whitespace(column)
        missing = compute.is_in(column, pyarrow.array(MISSING))
        column = compute.if_else(missing, pyarrow.scalar(None, pyarrow.string()), column)
    return column, declared


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def _is_date(kind: Any) -> bool:
    from pyarrow import types

    return types.is_date(kind) or types.is_timestamp(kind)


def _is_time(kind: Any) -> bool:
    from pyarrow import types

    return _is_date(kind) or types.is_time(kind) or types.is_duration(kind)


def _numbers(column: pyarrow.ChunkedArray, name: str) -> _Column | str:
    from pyarrow import types

    whole = types.is_integer(column.type)
    values = np.asarray(column.cast("float64", safe=False).to_numpy(), np.float64)  # missing becomes NaN
    if whole and not column.null_count and (why := _identifies(values, name)):
        return why
    return _not_constant(_finite(values))


def _identifies(values: np.ndarray, name: str) -> str:
    """Why whole numbers tell the rows apart and say no more; empty if they may."""
    n = len(values)
    if n < 3 or len(np.unique(values)) < n:
        return ""
    if IDENTIFIER.search(name) or IDENTIFIER.search(name.lower()):
        return "an identifier: distinct whole numbers"
    if n >= COUNTED and values.max() - values.min() == n - 1:
        return f"an identifier: whole numbers from {values.min():.0f} to {values.max():.0f}, each once"
    return ""


def _finite(values: np.ndarray) -> _Column:
    infinite = np.isinf(values) | (np.abs(values) > np.finfo(np.float32).max)
    note = f"{infinite.sum():,} infinite values count as missing" if infinite.any() else ""
    return _Column(np.where(infinite, np.nan, values), note=note)


def _not_constant(column: _Column) -> _Column | str:
    there = column.values[~np.isnan(column.values)]
    if not len(there):
        return "nothing but missing values"
    if len(there) == len(column.values) and (there == there[0]).all():
        return f"constant: {short_number(float(there[0]))} everywhere"
    return column


def _days(column: pyarrow.ChunkedArray) -> np.ndarray:
    """Dates as days since 1970-01-01, times of day and durations as days."""
    import pyarrow
    from pyarrow import types

    kind = column.type
    if _is_date(kind):
        column = column.cast(pyarrow.timestamp("us", getattr(kind, "tz", None)), safe=False)
    elif types.is_time(kind):
        column = column.cast(pyarrow.time64("us"))
    else:
        column = column.cast(pyarrow.duration("us"), safe=False)
    return np.asarray(column.cast("int64").cast("float64", safe=False).to_numpy(), np.float64) / DAY


def _numbers_or_dates_in_text(column: pyarrow.ChunkedArray, name: str) -> _Column | str | None:
    """A column of text that holds numbers or dates, mostly; None if it does not."""
    texts = column.to_pylist()
    enough = MOSTLY * (len(texts) - column.null_count)
    sample = [text for text in texts if text is not None][:100]
    for parse in (_number, _date):
        if sum(parse(text) is not None for text in sample) < min(enough, 0.8 * len(sample)):
            continue
        found = [None if text is None else parse(text) for text in texts]
        lost = sum(value is None for value in found) - column.null_count
        if len(found) - lost - column.null_count < enough:
            continue
        values = np.array([np.nan if value is None else value for value in found], np.float64)
        if parse is _number and not lost and not column.null_count and (values == np.rint(values)).all():
            why = _identifies(values, name)
            if why:
                return why
        column_ = _finite(values)
        what = "numbers" if parse is _number else "dates"
        column_.note = f"{lost:,} values that are no {what} count as missing" if lost else column_.note
        column_.date = parse is _date
        return _not_constant(column_)
    return None


def _number(text: str) -> float | None:
    """
    >>> _number("1.5e3"), _number("1,234.5"), _number("12 %"), _number("1_000"), _number("n/a")
    (1500.0, 1234.5, 12.0, None, None)
    """
    if "_" in text:  # Python's own way to write 1000
        return None
    text = text.removesuffix("%").strip()
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", text):
        text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        return None


def _date(text: str) -> float | None:
    """Days since 1970-01-01.

    >>> _date("1970-01-02"), _date("1970-01-01 12:00:00"), _date("02.01.1970"), _date("soon")
    (1.0, 0.5, 1.0, None)
    """
    from datetime import UTC, datetime

    for form in FORMATS:
        try:
            return datetime.strptime(text[:19].rstrip("Z"), form).replace(tzinfo=UTC).timestamp() / 86_400
        except ValueError:
            continue
    return None


def _categories(column: pyarrow.ChunkedArray) -> _Column | str:
    from pyarrow import compute

    n, there = len(column), len(column) - column.null_count
    distinct = sorted(text for text in compute.unique(column).to_pylist() if text is not None)
    if len(distinct) == 1 and there == n:
        return f"constant: {_shortened(distinct[0])} everywhere"
    if len(distinct) == there and there > 2:
        mean = sum(map(len, distinct)) / there
        return (
            f"free text, {mean:.0f} characters in the mean" if mean >= LONG else "an identifier: texts that all differ"
        )
    most = max(FEW, int(SHARE * n))
    if len(distinct) <= most:
        return _Column(_codes(column, distinct), names=tuple(distinct))
    mean = sum(map(len, distinct)) / len(distinct)
    what = "free text" if mean >= LONG else "too many categories"
    return f"{what}: {len(distinct):,} distinct texts, taken for categories up to {most:,}"


def _codes(column: pyarrow.ChunkedArray, names: Sequence[str]) -> np.ndarray:
    import pyarrow
    from pyarrow import compute

    found = compute.index_in(column, pyarrow.array(names, pyarrow.string()))
    return np.asarray(found.cast("float64").to_numpy(), np.float64)  # what is not among them is null, and NaN here


def _shortened(text: str) -> str:
    return text if len(text) <= 30 else text[:27] + "..."


def _by_schema(column: pyarrow.ChunkedArray, name: str, schema: Mapping[str, Any]) -> _Column:
    """The column as the schema has it; what does not fit in is missing."""
    import pyarrow

    column, _ = _decoded(column)
    names = tuple(schema["categories"][name])
    if names:
        if column.type != pyarrow.string():
            column = _as_text(column)
        values = _codes(column, names)
        strange = int(np.isnan(values).sum()) - column.null_count
        return _Column(values, names=names, note=f"{strange:,} values of unknown categories" if strange else "")
    date = name in schema["dates"]
    if column.null_count == len(column):
        return _Column(np.full(len(column), np.nan), date=date)
    if column.type == pyarrow.string():
        parse = _date if date else _number
        found = [None if text is None else parse(text) for text in column.to_pylist()]
        return _Column(np.array([np.nan if value is None else value for value in found], np.float64), date=date)
    if _is_time(column.type):
        return _Column(_days(column), date=date)
    if not (_is_number(column.type) or pyarrow.types.is_boolean(column.type)):
        raise DataError(f"column {name!r} holds {column.type}: expected numbers, as in the data that was learned from")
    return _Column(_finite(np.asarray(column.cast("float64", safe=False).to_numpy(), np.float64)).values, date=date)


def _as_text(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    import pyarrow

    texts = [
        None if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        for value in column.to_pylist()
    ]
    return pyarrow.chunked_array([pyarrow.array(texts, pyarrow.string())])


# Reading --------------------------------------------------------------------------------------------------------------


def arrow_table(source: Any, *, where: str = "the table") -> tuple[pyarrow.Table, list[Skipped], list[str]]:
    """The whole table as Arrow has it, the lines that are no rows, and remarks.

    Args:
        source: as in `read_table`.

    Raises:
        DataError: unreadable, empty, not UTF-8, or two columns of one name.
    """
    import pyarrow

    skipped, remarks = list[Skipped](), list[str]()
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        where = str(path)
        reader = _FILES.get(path.suffix.lower())
        if reader is None:
            raise DataError(f"{where}: expected a table, one of {', '.join(_FILES)}")
        try:
            table = reader(path, skipped, remarks)
        except (OSError, pyarrow.ArrowException) as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{where} cannot be read as {path.suffix.lower()[1:]}: {text}") from error
    elif isinstance(source, pyarrow.Table):
        table = source
    elif type(source).__module__.partition(".")[0] == "pandas":
        table = _from_pandas(source)
    elif hasattr(source, "__arrow_c_stream__"):
        table = pyarrow.table(source)
    else:
        raise DataError(f"{type(source).__name__}: expected a path, a DataFrame or a pyarrow Table")
    twice = [str(name) for name, times in Counter(table.column_names).items() if times > 1]
    if twice:
        raise DataError(f"{where} has several columns called {_list(twice)}; expected a name of its own for each")
    if not table.num_columns or not table.num_rows:
        raise DataError(f"{where} is empty: expected rows and columns, found {table.num_rows:,} rows")
    return table, skipped, remarks


def _parquet(path: Path, skipped: list[Skipped], remarks: list[str]) -> pyarrow.Table:
    from pyarrow import parquet

    return parquet.ParquetFile(path).read()


def _csv(path: Path, skipped: list[Skipped], remarks: list[str]) -> pyarrow.Table:
    from csv import reader as split_line

    import pyarrow
    from pyarrow import csv

    data = _utf8(path)
    header = data[: data.find(b"\n") + 1 or len(data)].decode().strip("\r\n")
    delimiter = delimiter_of(header, path)
    names = next(split_line([header], delimiter=delimiter), [])
    bare = all(_number(name) is not None for name in names)
    if bare:
        remarks.append("The first line is a row of numbers, so the columns are called column 1, column 2, ...")

    def odd(row: Any) -> str:
        place = "" if row.number is None else f", line {row.number}"
        skipped.append(
            Skipped(f"{path.name}{place}", f"{row.actual_columns} fields in place of {row.expected_columns}")
        )
        return "skip"

    marks = [match.group(1) for match in DECIMAL.finditer(data, 0, 100_000)] if delimiter == ";" else []
    comma = marks.count(b",") > marks.count(b".")
    if comma:
        remarks.append("Numbers are read with a decimal comma.")
    return csv.read_csv(
        pyarrow.BufferReader(data),
        read_options=csv.ReadOptions(
            use_threads=False,
            skip_rows=0 if bare else 1,
            column_names=column_names([""] * len(names) if bare else names),
        ),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=odd),
        convert_options=csv.ConvertOptions(
            null_values=MISSING, strings_can_be_null=True, decimal_point="," if comma else "."
        ),
    )


def _utf8(path: Path) -> bytes:
    """The file's bytes without a byte order mark.

    Raises:
        DataError: empty, or not UTF-8.
    """
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
    if not data.strip():
        raise DataError(f"{path} is empty: expected rows and columns")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    return data


def _json_lines(path: Path, skipped: list[Skipped], remarks: list[str]) -> pyarrow.Table:
    import pyarrow

    try:
        rows = list(json_rows(path, skipped))
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pyarrow.table({name: _from_objects([row.get(name) for row in rows]) for name in names})


def _from_pandas(frame: Any) -> pyarrow.Table:
    import pyarrow

    names = [str(name) for name in frame.columns]
    columns = []
    for number in range(len(names)):
        series = frame.iloc[:, number]
        try:
            columns.append(pyarrow.array(series, from_pandas=True))
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError):
            columns.append(_from_objects([None if value != value else value for value in series.tolist()]))
    return pyarrow.Table.from_arrays(columns, names=names)


def _from_objects(values: Sequence[Any]) -> pyarrow.Array:
    """Of one type where they are; mixed ones as text, among which numbers are then found again."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        texts = [
            None if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
            for value in values
        ]
        return pyarrow.array(texts, pyarrow.string())


_FILES = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines}
