"""What leaves the page: a table of items with their labels, or a folder of pictures by label, as a zip."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tacit.errors import DataError, expect, unknown
from tacit.explore._files import original
from tacit.explore._run import Explored
from tacit.report._pictures import KINDS

FORMATS = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "jsonl": "application/x-ndjson",
    "imagefolder": "application/zip",
}
ENDINGS = {"csv": "csv", "parquet": "parquet", "jsonl": "jsonl", "imagefolder": "zip"}
RESERVED = ("item", "uri", "source", "probability", "cluster", "outlier", "x2d", "y2d", "verdict")
BATCH = 256
"""Pictures read at once."""


def write_export(
    run: Explored,
    place: Path,
    form: str,
    *,
    name: str = "",
    given: Mapping[str, str] | None = None,
    told: Mapping[str, Any] | None = None,
    verdicts: Mapping[int, str] | None = None,
    only: np.ndarray | None = None,
) -> int:
    """Write items with what is known of them.

    Args:
        run: whose items.
        place: the file.
        form: `csv`, `parquet`, `jsonl`, or `imagefolder`: a zip of `train/LABEL/FILE`, as Hugging Face `datasets` reads
            it, of all items that have a label and are not to be discarded.
        name: of the label that goes along.
        given: the user's labels by the ledger's key.
        told: what the probe makes of all items, as `Teacher.told` gives it.
        verdicts: of near-duplicates, by item.
        only: rows to be written; all, if None.

    Returns:
        Number of items written.

    Raises:
        ArgumentError: unknown form.
        DataError: no picture has a label.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    labels = _Labels(run, name, given or {}, told, verdicts or {})
    chosen = np.ones(len(run.items), bool)
    if only is not None:
        chosen[:] = False
        chosen[only] = True
    if form == "imagefolder":
        return _write_pictures(run, place, labels, chosen)
    return {"csv": _write_csv, "parquet": _write_parquet, "jsonl": _write_jsonl}[form](place, labels.tables(chosen))


class _Labels:
    """Label, where it is from and how probable, row by row."""

    def __init__(
        self,
        run: Explored,
        name: str,
        given: Mapping[str, str],
        told: Mapping[str, Any] | None,
        verdicts: Mapping[int, str],
    ) -> None:
        self.run, self.name, self.told, self.verdicts = run, name, told, verdicts
        self.values: list[str] = sorted(set(given.values()))
        self.code = np.full(len(run.items), -1, np.int32)
        keys = list(given)
        rows, which = run.rows_with(keys)
        numbers = np.array([self.values.index(given[key]) for key in keys], np.int32)
        self.code[rows] = numbers[which]

    def of(self, row: int) -> tuple[str | None, str | None, float | None]:
        """Label, `given` or `predicted`, probability."""
        if self.code[row] >= 0:
            return self.values[self.code[row]], "given", 1.0
        if self.told is None:
            return None, None, None
        probability = round(float(self.told["probability"][row]), 4)
        return self.told["classes"][self.told["values"][row]], "predicted", probability

    def tables(self, chosen: np.ndarray) -> Iterator[pa.Table]:
        start = 0
        for chunk in self.run.store.chunks(["item", "uri", "cluster", "outlier", "x2d", "y2d"]):
            n = len(chunk["uri"])
            here = np.flatnonzero(chosen[start : start + n])
            if len(here):
                yield self._table(chunk, here, start)
            start += n

    def _table(self, chunk: Mapping[str, Any], here: np.ndarray, start: int) -> pa.Table:
        columns: dict[str, Any] = {"item": chunk["item"][here], "uri": pa.array([chunk["uri"][i] for i in here])}
        if self.name:
            label, source, probability = zip(*(self.of(start + i) for i in here), strict=True)
            columns[self.name if self.name not in RESERVED else "label"] = pa.array(label, pa.string())
            columns |= {"source": pa.array(source, pa.string()), "probability": pa.array(probability, pa.float32())}
        columns |= {name: chunk[name][here] for name in ("cluster", "outlier", "x2d", "y2d")}
        columns["verdict"] = pa.array([self.verdicts.get(int(item)) for item in columns["item"]], pa.string())
        return pa.table(columns)


def _write_csv(place: Path, tables: Iterator[pa.Table]) -> int:
    from pyarrow import csv

    return _write(tables, lambda schema: csv.CSVWriter(place, schema))


def _write_parquet(place: Path, tables: Iterator[pa.Table]) -> int:
    from pyarrow import parquet

    return _write(tables, lambda schema: parquet.ParquetWriter(place, schema))


def _write(tables: Iterator[pa.Table], opened: Callable[[pa.Schema], Any]) -> int:
    first = next(tables, None)
    expect("items", 0, first is not None, "at least one item to write")
    assert first is not None
    n = len(first)
    with opened(first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)
            n += len(table)
    return n


def _write_jsonl(place: Path, tables: Iterator[pa.Table]) -> int:
    n = 0
    with place.open("w", encoding="utf-8") as file:
        for table in tables:
            for row in table.to_pylist():
                # NaN, which equals nothing, is no JSON
                plain = {key: value if value == value else None for key, value in row.items()}
                file.write(json.dumps(plain, ensure_ascii=False) + "\n")
                n += 1
    return n


def _write_pictures(run: Explored, place: Path, labels: _Labels, chosen: np.ndarray) -> int:
    keep = [
        row
        for row in np.flatnonzero(chosen).tolist()
        if labels.of(row)[0] is not None and labels.verdicts.get(int(run.items[row])) != "discard"
    ]
    n, small = 0, 0
    with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as archive:
        for start in range(0, len(keep), BATCH):
            rows = keep[start : start + BATCH]
            stored = run.store.rows(run.items[rows], ["item", "uri", "source", "thumbnail"])
            for row, one in zip(rows, stored, strict=True):
                found = original(one["source"], one["uri"]) if run.modality == "image" else None
                kind = next((kind for begins, kind in KINDS.items() if one["thumbnail"].startswith(begins)), None)
                if found is None and kind is None:
                    continue
                label, name = folder_name(str(labels.of(row)[0])), folder_name(Path(one["uri"]).stem)[-60:]
                stem = f"train/{label}/{one['item']}-{name}"
                if found is not None:
                    archive.write(found[0], stem + found[0].suffix.lower())
                else:
                    archive.writestr(stem + (".jpg" if kind == "image/jpeg" else ".png"), one["thumbnail"])
                    small += 1
                n += 1
        if not n:
            raise DataError("imagefolder: expected pictures with a label; label some first, or choose another format")
        archive.writestr("README.md", _readme(labels, n, small))
    return n


def _readme(labels: _Labels, n: int, small: int) -> str:
    lines = [
        f"{n:,} pictures by their label {labels.name!r}, written by `tacit explore`.",
        'Read them with `datasets.load_dataset("imagefolder", data_dir=...)`.',
    ]
    if labels.told is not None:
        accuracy = labels.told["accuracy"]
        share = f"{100 * accuracy['value']:.0f} % ({100 * accuracy['low']:.0f} to {100 * accuracy['high']:.0f} %)"
        lines.append(f"{labels.told['n']:,} labels were given, the others are predicted; estimated accuracy {share}.")
    if small:
        lines.append(f"{small:,} are the run's thumbnails, since their files were not to be found.")
    return "\n\n".join(lines) + "\n"


def folder_name(text: str) -> str:
    """A label as the name of a folder anywhere.

    >>> folder_name("cats/../dogs"), folder_name("..")
    ('cats-dogs', 'unnamed')
    """
    plain = re.sub(r"[^\w .()+-]+|\.{2,}", "-", text)
    return re.sub(r"-{2,}", "-", plain).strip(" .-")[:80] or "unnamed"
