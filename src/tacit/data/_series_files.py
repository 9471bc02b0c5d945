"""A user's time series -> float32 (n, channels, time), NaN past an item's end or where a value is missing."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tacit.data._listing import Labels, folder_labels, walk
from tacit.data._packs import Skipped
from tacit.data._rows import arrow_table
from tacit.data._series import average_steps
from tacit.data._tables import as_label
from tacit.errors import DataError, unknown

__all__ = ["Series", "read_series"]

MAX_STEPS = 4096
IDS = ("id", "series_id", "series", "unique_id", "item_id", "item", "case_id", "key")
TIMES = ("time", "t", "timestamp", "datetime", "date", "ds", "step", "index")
LABELS = ("label", "labels", "class", "target", "y", "category")
MEASURED = ("target", "y")
"""Those of them that forecasters call what they measure: variables, where they change within a series."""
ARRAYS = ("x", "X", "series", "data", "values", "arr_0")
TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass
class Series:
    """Series to learn from.

    Attributes:
        x: float32 (n, channels, time); NaN past an item's end and where a value is missing.
        lengths: int64 (n,), steps up to the last one that has a value.
        channels: names of the variables.
        uris: n names of the series.
        labels: name -> n values, None where there is none.
        labels_from: where they were found.
        skipped: what was not used, and why.
        remarks: sentences on what was chosen or changed.
    """

    x: np.ndarray
    lengths: np.ndarray
    channels: tuple[str, ...]
    uris: list[str]
    labels: Labels = field(default_factory=dict)
    labels_from: str = ""
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.x)


@dataclass
class _Found:
    """Series as they were read, each (channels, time)."""

    series: list[np.ndarray]
    uris: list[str]
    channels: tuple[str, ...] = ()
    labels: Labels = field(default_factory=dict)
    labels_from: str = ""
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read_series(source: Any, *, labels: str = "auto", max_steps: int = MAX_STEPS) -> Series:
    """Series from whatever holds them.

    | source | is taken for |
    |---|---|
    | array or tensor (n, channels, time) or (n, time); .npy of one | n series |
    | list of arrays (channels, time) or (time,), of unequal length | a series each |
    | .npz | the array x, series, data or values; labels in y, label, ...; lengths in length, lengths |
    | .ts | the archive's format: several variables, unequal length, ? for missing, class or target at the end |
    | .parquet, .csv, .tsv, .jsonl with a column id (series_id, unique_id, ...) | long form: a row a step, in the order
      of a column time (timestamp, date, ds, ...) if there is one; all other columns of numbers are variables; label,
      class, target or y is a label if it does not change within a series, and else left out, but for target and y |
    | any other such table | wide form: a row a series, its columns of numbers the steps in order |
    | folder of .csv, .tsv or .parquet | a file a series, a row a step, a column a variable, as in the first file;
      labels as in long form, else the folders |

    A wide .tsv without header is read as the UCR archive writes it: the label first. Series longer than `max_steps` are
    shortened by means over equally many steps of all series. Infinite values are missing; series without any value, of
    another number of variables or of no step are skipped.

    Args:
        source: path, array, tensor or list of arrays.
        labels: `"auto"`, `"none"`, `"folder"`, or the name of a column or array.
        max_steps: steps kept of a series, at most.

    Raises:
        DataError: unreadable, or no series in it.
        ArgumentError: `labels` names nothing that is there.

    >>> found = read_series([np.arange(5.0), np.arange(3.0)])
    >>> found.x.shape, found.lengths.tolist(), found.x[1, 0].tolist()
    ((2, 1, 5), [5, 3], [0.0, 1.0, 2.0, nan, nan])
    """
    where = str(source) if isinstance(source, str | os.PathLike) else "the series"
    return _packed(_find(source, labels), where, max_steps)


def _find(source: Any, labels: str) -> _Found:
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        kind = path.suffix.lower()
        if path.is_dir():
            return _folder(path, labels)
        if kind in (".npy", ".npz"):
            return _numpy(path, labels)
        if kind == ".ts":
            return _ts(path, labels)
        if kind in TABLES:
            return _table(path, labels)
        raise DataError(
            f"{path}: expected series in a .npy, .npz, .ts, {', '.join(TABLES)}, or a folder of such tables"
        )
    if labels not in ("auto", "none"):
        raise unknown("labels", labels, ("auto", "none"))
    return _array(source)


# From what was read to one array --------------------------------------------------------------------------------------


def _packed(found: _Found, where: str, max_steps: int) -> Series:
    shapes = [one.shape[0] for one in found.series]
    channels = max(set(shapes), key=shapes.count) if shapes else 0
    kept, skipped, remarks = [], list(found.skipped), list(found.remarks)
    infinite = 0
    for number, one in enumerate(found.series):
        infinite += int(np.isinf(one).sum())
        found.series[number] = one = np.where(np.isfinite(one), one, np.nan).astype(np.float32)
        why = _unusable(one, channels)
        if why:
            skipped.append(Skipped(found.uris[number], why))
        else:
            kept.append(number)
    if not kept:
        reasons = "; ".join(sorted({item.reason for item in skipped})[:5]) or "nothing there"
        raise DataError(f"{where} holds no series that can be used ({reasons})")
    series = [_cut(found.series[number]) for number in kept]
    stride = -(-max(one.shape[1] for one in series) // max_steps)
    if stride > 1:
        longest = max(one.shape[1] for one in series)
        series = [average_steps(one, stride) for one in series]
        remarks.append(f"The longest series has {longest:,} steps; means over {stride:,} steps each are learned from.")
    if infinite:
        remarks.append(f"{infinite:,} infinite values count as missing.")
    lengths = np.array([one.shape[1] for one in series])
    x = np.full((len(series), channels, lengths.max()), np.nan, np.float32)
    for row, one in zip(x, series, strict=True):
        row[:, : one.shape[1]] = one
    flat = sum(
        bool((np.nanmax(one, axis=1, initial=-np.inf) <= np.nanmin(one, axis=1, initial=np.inf)).all())
        for one in series
    )
    if flat:
        remarks.append(f"{flat:,} series never change.")
    return Series(
        x=x,
        lengths=lengths,
        channels=found.channels or tuple(f"channel {number + 1}" for number in range(channels)),
        uris=[found.uris[number] for number in kept],
        labels={name: [values[number] for number in kept] for name, values in found.labels.items()},
        labels_from=found.labels_from,
        skipped=skipped,
        remarks=remarks,
    )


def _unusable(series: np.ndarray, channels: int) -> str:
    if series.shape[0] != channels:
        return f"{series.shape[0]} variables in place of {channels}"
    if not series.shape[1]:
        return "no step"
    return "every value missing" if np.isnan(series).all() else ""


def _cut(series: np.ndarray) -> np.ndarray:
    """Without the steps after the last one that has a value."""
    there = np.flatnonzero(~np.isnan(series).all(axis=0))
    return series[:, : there[-1] + 1]


# Arrays ---------------------------------------------------------------------------------------------------------------


def _array(source: Any) -> _Found:
    if isinstance(source, Tensor):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray) and source.dtype != object:
        if source.ndim not in (2, 3) or source.dtype.kind not in "biuf":
            said = f"{source.dtype} {source.shape}"
            raise DataError(
                f"an array {said}: expected numbers (n, channels, time) or (n, time); cut one long series up"
            )
        series = list((source[:, None] if source.ndim == 2 else source).astype(np.float32))
        return _Found(series, [str(number) for number in range(len(series))])
    if not isinstance(source, list | tuple | np.ndarray) or not len(source):
        raise DataError(f"{type(source).__name__}: expected an array, a tensor, a list of arrays or a path")
    series = []
    for number, one in enumerate(source):
        values = one.detach().cpu().numpy() if isinstance(one, Tensor) else np.asarray(one)
        if values.ndim not in (1, 2) or values.dtype.kind not in "biuf":
            raise DataError(f"series {number} is {values.dtype} {values.shape}: expected numbers (channels, time)")
        series.append((values[None] if values.ndim == 1 else values).astype(np.float32))
    return _Found(series, [str(number) for number in range(len(series))])


def _numpy(path: Path, labels: str) -> _Found:
    try:
        with np.load(path, allow_pickle=False) if path.suffix.lower() == ".npz" else _alone(path) as packed:
            arrays = {name: packed[name] for name in packed.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}; objects (pickles) are never loaded") from error
    fits = [name for name, array in arrays.items() if array.ndim in (2, 3) and array.dtype.kind in "biuf"]
    name = next((name for name in (*ARRAYS, *fits) if name in fits), None)
    if name is None:
        there = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise DataError(f"{path} holds {there or 'nothing'}: expected an array x (n, channels, time) or (n, time)")
    found = _array(arrays[name])
    n = len(found.series)
    for length in (arrays[key] for key in ("length", "lengths") if key in arrays and arrays[key].shape == (n,)):
        found.series = [one[:, : max(0, int(steps))] for one, steps in zip(found.series, length, strict=True)]
    beside = [key for key, array in arrays.items() if key != name and array.shape == (n,)]
    _add_labels(found, {key: arrays[key].tolist() for key in beside}, labels, "array")
    return found


class _alone:
    """A .npy, as if it lay in an .npz."""

    def __init__(self, path: Path) -> None:
        self.files, self._path = ["x"], path

    def __enter__(self) -> _alone:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __getitem__(self, name: str) -> np.ndarray:
        return np.load(self._path, allow_pickle=False)


def _add_labels(found: _Found, beside: Mapping[str, Sequence[Any]], labels: str, kind: str) -> None:
    """The labels among the columns that have one value a series."""
    if labels == "none":
        return
    lower = {name.lower(): name for name in reversed(list(beside))}
    names = [lower[name] for name in LABELS if name in lower] if labels == "auto" else [labels]
    if unheard := [name for name in names if name not in beside]:
        raise unknown("labels", unheard[0], (*beside, "auto", "none"))
    if names:
        found.labels = {name: [as_label(value) for value in beside[name]] for name in names}
        found.labels_from = f"{kind} {', '.join(names)}"


# The archive's format -------------------------------------------------------------------------------------------------


def _ts(path: Path, labels: str) -> _Found:
    """sktime's .ts: a line a case, variables apart by colons, values by commas, the class or target last."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as ts: {error}") from error
    said = dict[str, str]()
    start = 0
    for start, line in enumerate(lines):  # noqa: B007
        if line.strip().lower() == "@data":
            break
        if line.startswith("@"):
            word, _, value = line[1:].strip().partition(" ")
            said[word.lower()] = value.strip()
    else:
        raise DataError(f"{path} has no line @data: expected a .ts of the UEA and UCR archive")
    target = next((key for key in ("classlabel", "targetlabel") if said.get(key, "").lower().startswith("true")), "")
    found, values = _Found([], []), []
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if not line.strip() or line.startswith("#"):
            continue
        uri = f"{path.name}, line {number}"
        variables, last = _ts_variables(line.strip())
        label = (last or variables.pop()) if target else None
        try:
            rows = [_ts_values(variable) for variable in variables]
        except ValueError as error:
            found.skipped.append(Skipped(uri, f"not a series: {error}"))
            continue
        series = np.full((len(rows), max(map(len, rows), default=0)), np.nan, np.float32)
        for row, one in zip(series, rows, strict=True):
            row[: len(one)] = one
        found.series.append(series)
        found.uris.append(uri)
        values.append(None if label in (None, "?", "") else label)
    _add_labels(
        found, {"class" if target == "classlabel" else "target": values} if target else {}, labels, "the file's"
    )
    return found


def _ts_variables(line: str) -> tuple[list[str], str]:
    """The variables of a case, its label last; with time stamps, which hold colons, the label apart."""
    if "(" not in line:
        return line.split(":"), ""
    head, _, label = line.rpartition(":") if not line.endswith(")") else (line, "", "")
    return re.split(r"(?<=\))\s*:\s*(?=\()", head), label


def _ts_values(variable: str) -> list[float]:
    if "(" in variable:
        values = [pair.rsplit(",", 1)[-1] for pair in re.findall(r"\(([^)]*)\)", variable)]
    else:
        values = variable.split(",") if variable.strip() else []
    return [np.nan if value.strip() in ("?", "NaN", "") else float(value) for value in values]


# Tables ---------------------------------------------------------------------------------------------------------------


def _table(path: Path, labels: str) -> _Found:
    if path.suffix.lower() == ".tsv" and (first := _ucr(path)) is not None:
        found = _array(first[:, 1:])
        _add_labels(found, {"label": first[:, 0].tolist()}, labels, "the first column,")
        return found
    table, skipped, remarks = arrow_table(path)
    lower = {name.lower(): name for name in reversed(table.column_names)}
    id = next((lower[name] for name in IDS if name in lower), None)
    columns = {name: _column(table[name]) for name in table.column_names}
    repeats = id is not None and len(set(columns[id].tolist())) < table.num_rows
    found = _long(columns, id, labels) if id and repeats else _wide(columns, labels, path.name)
    found.skipped = [*skipped, *found.skipped]
    found.remarks = [*remarks, *found.remarks]
    return found


def _ucr(path: Path) -> np.ndarray | None:
    """The rows of a .tsv without header, as the UCR archive writes it; None if it is none."""
    try:
        rows = [
            np.array(line.split("\t"), np.float32) for line in path.read_text(encoding="utf-8").splitlines() if line
        ]
    except (OSError, ValueError):
        return None
    width = max(map(len, rows), default=0)
    padded = [np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in rows]
    return np.stack(padded) if width > 1 else None


def _column(column: Any) -> np.ndarray:
    """float64 for numbers, numbers in text and times; else objects."""
    from pyarrow import types

    from tacit.data._rows import _days, _decoded, _is_number, _is_time, _numbers_or_dates_in_text

    column, _ = _decoded(column)
    if _is_number(column.type) or types.is_boolean(column.type):
        return np.asarray(column.cast("float64", safe=False).to_numpy(), np.float64)
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    if _is_time(column.type):
        return _days(column)
    read = _numbers_or_dates_in_text(column, "") if types.is_string(column.type) else None
    return np.array(column.to_pylist(), object) if read is None or isinstance(read, str) else read.values


def _long(columns: dict[str, np.ndarray], id: str, labels: str) -> _Found:
    """A row a step."""
    lower = {name.lower(): name for name in reversed(list(columns))}
    time = next((lower[name] for name in TIMES if name in lower and lower[name] != id), None)
    names, starts, of = _grouped(columns[id])
    order = np.lexsort((np.arange(len(of)), of)) if time is None else _by_time(columns[time], of)
    bounds = np.searchsorted(of[order], np.arange(len(names) + 1))
    others = [name for name in columns if name not in (id, time)]
    constant = {name: _one_each(columns[name], of, starts) for name in others}
    numeric = [name for name in others if columns[name].dtype != object]
    variables, left_out = _variables(others, numeric, constant, labels)
    learned = {name for name in variables if name.lower() in LABELS}
    beside = {name: columns[name][starts].tolist() for name in others if constant[name] and name not in learned}
    if not variables:
        raise DataError(f"no column of numbers beside {id}, {time}: expected id, time and the values of each step")
    values = np.stack([columns[name].astype(np.float32) for name in variables])[:, order]
    series = [values[:, low:high] for low, high in pairwise(bounds)]
    said = f", in the order of {time}" if time else ", in the order of the rows"
    remark = f"A series for each value of {id}{said}; variables: {', '.join(variables[:20])}."
    found = _Found(series, names, channels=tuple(variables), remarks=[remark, *left_out])
    _add_labels(found, beside, labels, "column")
    return found


def _variables(
    names: Sequence[str], numeric: Sequence[str], constant: Mapping[str, bool], labels: str
) -> tuple[list[str], list[str]]:
    """The columns of numbers that are no labels, and a sentence on the labels that are of no series as a whole.

    Args:
        constant: of each name, whether it has one value in each series.
    """
    by_name = [name for name in names if name == labels or name.lower() in LABELS]
    measured = [name for name in by_name if name.lower() in MEASURED and name != labels]
    found = [name for name in numeric if name not in by_name or (name in measured and not constant[name])]
    if not found and labels == "auto":  # a variable that happens not to change
        found = [name for name in numeric if name in measured]
    lost = [name for name in by_name if name not in found and not constant[name]]
    said = "; ".join(f"{name} (a label by its name, and changes within a series)" for name in lost)
    return found, [f"Left out: {said}."] if lost else []


def _grouped(ids: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the series in the order in which they first come, the first row of each, and the series of each row."""
    known = dict[Any, int]()
    keys = [as_label(value) or "missing" for value in ids.tolist()]
    of = np.array([known.setdefault(key, len(known)) for key in keys])
    starts = np.unique(of, return_index=True)[1]
    return list(known), starts, of


def _by_time(time: np.ndarray, of: np.ndarray) -> np.ndarray:
    if time.dtype == object:
        ranks = np.unique([str(value) for value in time.tolist()], return_inverse=True)[1]
        return np.lexsort((ranks, of))
    return np.lexsort((time, of))


def _one_each(values: np.ndarray, of: np.ndarray, starts: np.ndarray) -> bool:
    """Whether a column has one value in each series."""
    first = values[starts][of]
    same = values == first
    if values.dtype != object:
        same |= np.isnan(values) & np.isnan(first)
    return bool(np.all(same))


def _wide(columns: dict[str, np.ndarray], labels: str, name: str) -> _Found:
    """A row a series."""
    n = len(next(iter(columns.values())))
    named = [column for column in columns if column == labels or column.lower() in (*LABELS, *IDS)]
    steps = [column for column in columns if column not in named and columns[column].dtype != object]
    if len(steps) < 2:
        raise DataError(
            f"{name}: {len(steps)} columns of numbers; expected a row a series, or columns id, time and value"
        )
    x = np.stack([columns[column] for column in steps], axis=1).astype(np.float32)
    ids = next((columns[column].tolist() for column in named if column.lower() in IDS), None)
    uris = [f"{name}#{row}" if ids is None else (as_label(ids[row]) or f"{name}#{row}") for row in range(n)]
    found = _Found(
        list(x[:, None]), uris, remarks=[f"A series a row, of {len(steps):,} columns from {steps[0]} to {steps[-1]}."]
    )
    beside = {column: values.tolist() for column, values in columns.items() if column not in steps}
    _add_labels(found, beside, labels, "column")
    return found


def _folder(root: Path, labels: str) -> _Found:
    """A file a series."""
    found = _Found([], [])
    names = sorted(name for name in walk(str(root), found.skipped) if name.lower().endswith(TABLES))
    if not names:
        raise DataError(f"{root} holds no .csv, .tsv, .jsonl or .parquet: expected one for each series")
    read = dict[str, _File]()
    for uri in names:
        path = root / uri
        try:
            read[uri] = _file(path, labels)
        except DataError as error:
            found.skipped.append(Skipped(uri, str(error).removeprefix(str(path)).strip(" :,")))
    first = next(iter(read.values()), None)
    if first is None:
        return found
    aside = dict.fromkeys(name for file in read.values() for name in file.aside)
    constant = {name: all(name not in file.changing for file in read.values()) for name in aside}
    variables, found.remarks = _variables(list(dict.fromkeys([*first.names, *aside])), first.names, constant, labels)
    if not variables:
        raise DataError(f"{root}: no column of numbers beside time and labels; expected the values of each step")
    for uri, file in read.items():
        if missing := [name for name in variables if name not in file.names]:
            found.skipped.append(Skipped(uri, f"without the columns {', '.join(missing[:5])} of the first file"))
            continue
        found.series.append(file.values[[file.names.index(name) for name in variables]])
        found.uris.append(uri)
    found.channels = tuple(variables)
    beside = {name: [read[uri].aside.get(name) for uri in found.uris] for name in aside
              if constant[name] and name not in variables}  # fmt: skip
    if labels not in ("auto", "folder", "none", *beside):
        raise unknown("labels", labels, (*beside, "auto", "folder", "none"))
    if labels != "folder":
        _add_labels(found, beside, labels, "column")
    if found.uris and not found.labels and labels in ("auto", "folder"):
        found.labels, found.labels_from = folder_labels(found.uris, labels)
    return found


@dataclass
class _File:
    """A series, and what else its file says of it."""

    names: tuple[str, ...]
    values: np.ndarray
    """(columns of numbers, time), in the order of the file's time if it has one."""
    aside: dict[str, Any]
    """The first value of each column that may be a label."""
    changing: set[str]
    """Those of them that have others too."""


def _file(path: Path, labels: str) -> _File:
    table, _, _ = arrow_table(path)
    columns = {name: _column(table[name]) for name in table.column_names}
    time = next((name for name in columns if name.lower() in TIMES), None)
    once = np.zeros(table.num_rows, int)
    order = np.arange(table.num_rows) if time is None else _by_time(columns[time], once)
    names = tuple(name for name, values in columns.items() if name != time and values.dtype != object)
    if not names:
        raise DataError(f"{path}: no column of numbers")
    aside = [name for name in columns if name != time and (name == labels or name.lower() in LABELS)]
    return _File(
        names,
        np.stack([columns[name][order] for name in names]).astype(np.float32),
        {name: columns[name][0] for name in aside},
        {name for name in aside if not _one_each(columns[name], once, np.zeros(1, int))},
    )
