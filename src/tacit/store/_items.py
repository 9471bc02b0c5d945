"""Items: one row per item of a run, in a LanceDB table `items.lance` inside the run folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tacit.errors import ArgumentError, DataError, RunError, expect, unknown
from tacit.store import _index
from tacit.store._index import Index

Rows = Mapping[str, Any]
"""Columns of equal length: name -> array or sequence."""

FORMAT = 1
TABLE = "items"
METRICS = {"cosine": "cosine", "euclidean": "l2", "dot": "dot"}

COLUMNS: dict[str, pa.DataType] = {
    "item": pa.int64(),
    "hash": pa.string(),
    "uri": pa.string(),
    "source": pa.string(),
    "thumbnail": pa.binary(),
    "x2d": pa.float32(),
    "y2d": pa.float32(),
    "cluster": pa.int32(),
    "confidence": pa.float32(),
    "outlier": pa.float32(),
    "meta": pa.string(),
}
IN_MEMORY = 2**29
"""Bytes of vectors that are kept in memory after a search, for the next one; of more, each search reads all."""
SHOWN = ["item", "uri", "meta"]
"""Columns that a hit is made of."""
MISSING = {pa.string(): "", pa.binary(): b"", pa.float32(): np.nan, pa.int32(): -1}


@dataclass(frozen=True)
class Hit:
    """One answer of a search: the item, how near it is (greater is nearer), and where it came from."""

    item: int
    score: float
    uri: str
    text: str = ""
    """What stands beside it: a caption, or the beginning of a text, the values of a row."""


class Items:
    """The items of a run; made by `Items.create`, opened by `Items.open`.

    Columns, one row per item in rising order of `item`:

    | name | type | meaning | if not given |
    |---|---|---|---|
    | item | int64 | number of the item; stable, never used again | 0, 1, 2... |
    | hash | str | hash of the content | "" |
    | uri | str | path or address it was read from | required |
    | source | str | the root that was given, under which it was found | "" |
    | thumbnail | bytes | JPEG of at most 64 pixels, or a snippet of text | b"" |
    | vector | (d,) float32 | embedding; absent where the run has none | absent |
    | x2d, y2d | float32 | place on the map | NaN |
    | cluster | int32 | cluster number, -1 for none | -1 |
    | confidence | float32 | of the cluster, in [0, 1] | NaN |
    | outlier | float32 | higher is less typical | NaN |
    | meta | str | JSON object; `labels` in it maps label name -> value | "{}" |

    Each write is one commit of the database: a kill leaves the table as it was before or as it is after. Reads see the
    newest commit. A write of 50,000 rows and more ends with an index of the vectors (see `Index`), which is made anew
    at each: until it is there, and where it finds too little, searches compare with all rows. Characters that are not
    Unicode (undecodable file names) are kept as backslash escapes.

    LanceDB runs threads and is not fork-safe: worker processes start by `spawn` (an `Items` may be pickled to them) or
    open the run themselves; never use one across a `fork`.

    Source:
        LanceDB, https://lancedb.github.io/lancedb; the file format is Lance (Pace et al., 2025, arXiv:2504.15247).

    >>> import numpy as np, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> items = Items.create(folder, [{"uri": ["a.png", "b.png"], "vector": np.eye(2)}])
    >>> len(items), items.search([1.0, 0.1], k=1)[0].uri
    (2, 'a.png')
    >>> items.update({"cluster": [0, 1]})
    >>> items.rows([1], ["uri", "cluster"])
    [{'uri': 'b.png', 'cluster': 1}]
    """

    def __init__(self, folder: Path, table: Any) -> None:
        self.folder = folder
        self._table = table  # a lancedb.table.Table
        self._unit: tuple[int, np.ndarray, np.ndarray] | None = None

    @classmethod
    def create(cls, folder: str | os.PathLike[str], rows: Iterable[Rows]) -> Items:
        """Write the items of a run, in the place of those it has, if any.

        Args:
            folder: the run folder; it is made if it does not exist.
            rows: batches of columns, taken one at a time, so that all together need not fit in memory. Item numbers
                rise over all of them; `vector` is (b, d), in every batch or in none.

        Raises:
            ArgumentError: unknown or unequal columns, falling item numbers, vectors of different length.
            DataError: no items at all, or a vector that is not finite.
            RunError: the folder cannot be written.
        """
        folder = Path(folder)
        batches = _batches(rows)
        first = next(batches, None)
        if first is None:
            raise DataError(f"{folder}: no items to store; expected at least one")
        _write(folder, first.schema, chain([first], batches))
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Items:
        """Open the items of a run, without reading them.

        Raises:
            RunError: there are none, or a newer tacit wrote them.
        """
        folder = Path(folder)
        missing = RunError(
            f"{folder}: holds no {TABLE}.lance; expected a run folder that `tacit learn` or `tacit embed` finished"
        )
        if not (folder / f"{TABLE}.lance").is_dir():
            raise missing
        try:
            table = _connect(folder).open_table(TABLE)
        except ValueError as error:
            raise missing from error
        written = int((table.schema.metadata or {}).get(b"tacit.format", b"1"))
        if written > FORMAT:
            raise RunError(
                f"{folder}: {TABLE}.lance has format {written}, this tacit reads up to {FORMAT}; "
                "pip install --upgrade tacit"
            )
        return cls(folder, table)

    def __reduce__(self) -> tuple[Any, ...]:
        return Items.open, (self.folder,)

    def __repr__(self) -> str:
        return f"Items({str(self.folder)!r}, n={len(self)}, dim={self.dim})"

    def __len__(self) -> int:
        return self._table.count_rows()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._table.schema.names)

    @property
    def dim(self) -> int | None:
        """Length of a vector, None where the run has no vectors."""
        return self._table.schema.field("vector").type.list_size if "vector" in self.names else None

    @property
    def index(self) -> Index | None:
        """How the nearest items are found, and how many of them; None where a search compares with all anyway."""
        return None if self.dim is None else _index.read(self._table.schema.field("vector"))

    def reads_all(self, k: int) -> bool:
        """Whether a search for the k nearest by cosine compares with every vector."""
        index = self.index
        return index is None or not index.used or k > _index.NEAREST[-1]

    def vectors(self) -> np.ndarray:
        """All vectors: (n, d) float32, read batch by batch into one array.

        Raises:
            RunError: the run has no vectors.
        """
        self._expect_vectors()
        found = np.empty((len(self), self.dim or 0), np.float32)
        start = 0
        for batch in self._scan(["vector"]):
            found[start : start + len(batch)] = _matrix(batch.column(0))
            start += len(batch)
        return found

    def column(self, name: str) -> np.ndarray | list[Any]:
        """One column of all items: a numpy array (n,) of numbers, (n, d) for `vector`, or a list of str or bytes.

        Raises:
            ArgumentError: there is no such column.
        """
        if name == "vector":
            return self.vectors()
        parts = [_values(batch.column(0)) for batch in self._scan(self._known([name]))]
        if isinstance(parts[0], list):
            return [value for part in parts for value in part]
        return np.concatenate(parts)

    def chunks(self, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The columns named (all, if None) in order, some thousand rows at a time; what `create` takes."""
        names = list(self.names if names is None else self._known(names))
        for batch in self._scan(names):
            yield {name: _values(batch.column(name)) for name in names}

    def rows(self, items: Sequence[int] | np.ndarray, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Those items, one dict each, in the order asked for; the columns named, or all.

        Raises:
            ArgumentError: an unknown item or column.
        """
        names = list(self.names if names is None else self._known(names))
        wanted = np.asarray(items, np.int64).reshape(-1)
        if not len(wanted):
            return []
        unique, back = np.unique(wanted, return_inverse=True)
        columns = self._taken(unique, names)
        return [{name: _scalar(columns[name][row]) for name in names} for row in back]

    def update(self, columns: Rows) -> None:
        """Replace whole columns, all in one commit, and free the space of the old ones.

        Args:
            columns: name -> n values in the order of the store; any column but `item`; `vector` may change its length
                or be new.

        Raises:
            ArgumentError: an unknown column, or another number of values than items.
            DataError: a vector that is not finite.
            RunError: the folder cannot be written.
        """
        expect("columns", sorted(columns), "item" not in columns, "columns other than item, whose numbers are stable")
        n = len(self)
        new = {name: _array(name, values) for name, values in columns.items()}
        for name, values in new.items():
            expect(name, f"{len(values)} values", len(values) == n, f"one for each of the {n} items")
        schema = _schema(new["vector"].type.list_size if "vector" in new else self.dim)

        def replaced() -> Iterator[pa.RecordBatch]:
            start = 0
            for batch in self._scan([name for name in schema.names if name not in new] or ["item"]):
                end = start + len(batch)
                yield _batch(
                    {name: new[name][start:end] if name in new else batch.column(name) for name in schema.names}
                )
                start = end

        _write(self.folder, schema, replaced())
        self._table = _connect(self.folder).open_table(TABLE)

    def search(
        self,
        vector: Sequence[float] | np.ndarray,
        k: int = 10,
        *,
        metric: str = "cosine",
        where: str | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """The k items nearest to a vector, nearest first.

        In a run of less than 50,000 items that is exact, by comparing with every vector. In one of more, up to 100 hits
        by cosine are found through its index, if `index.used`: most of the nearest, as `index.recall` says, with their
        exact scores. Any other search is exact there too.

        Args:
            vector: (d,).
            k: number of hits; fewer where fewer items match.
            metric: `cosine` (score in [-1, 1]; a stored vector of zeros has no direction and is no hit), `euclidean`
                (score is minus the distance) or `dot` (score is the inner product).
            where: SQL condition on the columns, applied before the search: `"cluster = 3 and uri like '%.png'"`. Such a
                search is exact: how much the index finds among few items that lie elsewhere, nobody has measured.
            exact: compare with every vector, whatever the number of items.

        Raises:
            ArgumentError: a vector of another length, not finite, or zero under cosine; k < 1; a condition that is not
                SQL.
            RunError: the run has no vectors.
        """
        self._expect_vectors()
        query = np.asarray(vector, np.float32).reshape(-1)
        expect("vector", f"{len(query)} numbers", len(query) == self.dim, f"the {self.dim} of the run's vectors")
        expect("vector", "not finite", bool(np.isfinite(query).all()), "finite numbers")
        expect("k", k, k >= 1, "at least 1")
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
        expect("vector", "all zeros", metric != "cosine" or bool(query.any()), "a direction", "use metric='euclidean'")
        if where:
            return self._among(query, k, metric, where)
        hits = self._by_index(query, k) if metric == "cosine" and not exact else None
        if hits is not None:
            return hits
        if metric == "cosine" and 4 * len(self) * len(query) <= IN_MEMORY:
            places, unit = self._directions()
            return self._best(places, unit @ (query / np.linalg.norm(query)), k)
        search = self._table.search(query, vector_column_name="vector").bypass_vector_index()
        found = search.distance_type(METRICS[metric]).select([*SHOWN, "_distance"]).limit(k).to_arrow()
        return _hits(found, _scores(found["_distance"].to_numpy(), metric))

    def _among(self, query: np.ndarray, k: int, metric: str, where: str) -> list[Hit]:
        """The k nearest of those that match; the database's own search would read the vectors of all others too.

        Raises:
            ArgumentError: a condition that is not SQL.
        """
        found, scores = [], []
        try:
            for batch in self._table.search().where(where).select([*SHOWN, "vector"]).to_batches():
                near = _similarities(_matrix(batch.column("vector")), query, metric)
                best = np.argsort(-near, kind="stable")[:k]
                best = best[np.isfinite(near[best])]
                found.append(batch.select(SHOWN).take(pa.array(best)))
                scores.append(near[best])
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ArgumentError(
                f"where={where!r}: expected an SQL condition on {', '.join(self.names)}; {reason}"
            ) from error
        return _hits(pa.Table.from_batches(found), np.concatenate(scores))[:k] if found else []

    def _by_index(self, query: np.ndarray, k: int) -> list[Hit] | None:
        """The k items nearest by cosine, through the index; None where all are to be compared."""
        index = self.index
        if index is None or self.reads_all(k):
            return None
        found = _index.near(self._table, query, k, index.probes, index.refine)
        found = found.select([*SHOWN, "_distance"]).to_arrow()
        return _hits(found, _scores(found["_distance"].to_numpy(), "cosine")) if len(found) == k else None

    def best(self, scores: np.ndarray, k: int = 10) -> list[Hit]:
        """The k items with the greatest of scores (n,) in the order of the store, greatest first."""
        expect("scores", np.shape(scores), np.shape(scores) == (len(self),), f"one for each of the {len(self)} items")
        return self._best(np.arange(len(scores)), np.asarray(scores), k)

    def _best(self, places: np.ndarray, scores: np.ndarray, k: int) -> list[Hit]:
        """Hits of the rows at `places`, which rise, by their scores."""
        k = min(k, len(scores))
        if k == 0:
            return []
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        near = np.flatnonzero(scores >= least)
        best = near[np.lexsort((near, -scores[near]))[:k]]
        found = self._taken_rows(places[best], ["item", "uri", "meta"])
        columns = zip(found["item"].tolist(), scores[best].tolist(), found["uri"], found["meta"], strict=True)
        return [Hit(item, score, uri, _said(meta)) for item, score, uri, meta in columns]

    def _directions(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows whose vector is not 0, and their vectors at length 1; read once, and again after a commit."""
        version = self._table.version
        if self._unit is None or self._unit[0] != version:
            unit = self.vectors()
            norms = np.sqrt(np.einsum("ij,ij->i", unit, unit))
            places = np.flatnonzero(norms > 0)
            if len(places) < len(unit):
                unit, norms = unit[places], norms[places]
            unit /= norms[:, None]
            self._unit = version, places, unit
        return self._unit[1:]

    def _taken(self, items: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """Columns of items, given by their numbers, which rise.

        Raises:
            ArgumentError: there is no such item.
        """
        n = len(self)
        if items[0] >= 0 and items[-1] < n:  # where no item was left out, its number is its place
            found = self._taken_rows(items, ["item", *names])
            if np.array_equal(found["item"], items):
                return found
        stored = np.asarray(self.column("item"))
        place = np.searchsorted(stored, items)
        absent = items[(place == n) | (stored[np.minimum(place, n - 1)] != items)]
        if len(absent):
            raise ArgumentError(f"item={absent[0]}: expected one of the {n} items of {self.folder}")
        return self._taken_rows(place, names)

    def _taken_rows(self, places: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """Columns of rows, given by their places in the table, in the order asked for."""
        wanted, back = np.unique(places, return_inverse=True)
        table = self._table.take_offsets(wanted.tolist()).select(list({"item", *names})).to_arrow()
        rising = np.argsort(table["item"].to_numpy())  # the database gives no order for taken rows
        table = table.take(rising[back])
        return {name: _values(table[name].combine_chunks()) for name in names}

    def _scan(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from self._table.search().select(list(names)).to_batches()

    def _known(self, names: Sequence[str]) -> Sequence[str]:
        for name in names:
            if name not in self.names:
                raise unknown("column", name, self.names)
        return names

    def _expect_vectors(self) -> None:
        if self.dim is None:
            raise RunError(
                f"{self.folder}: its items have no vectors; `tacit embed` an encoder on the same data to get some"
            )


def _write(folder: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    """One commit, in which an error of the batches themselves passes through as it is.

    Raises:
        RunError: the folder cannot be written.
    """
    failed: list[Exception] = []

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except Exception as error:
            failed.append(error)
            raise

    try:
        _commit(folder, schema, pa.RecordBatchReader.from_batches(schema, watched()))
    except (OSError, RuntimeError) as error:
        if failed:
            raise failed[0] from None
        raise RunError(f"{folder}: the items cannot be written: {str(error).splitlines()[0]}") from error


def _commit(folder: Path, schema: pa.Schema, rows: pa.RecordBatchReader) -> None:
    """A new version of the table that is there, or a new table that gets its name when it is whole.

    With a version goes its index, so that none answers for rows that are no longer there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{TABLE}.lance"
    if any((target / "_versions").glob("*.manifest")):
        table = _connect(folder).create_table(TABLE, data=rows, schema=schema, mode="overwrite")
        _free(table)
        _indexed(table)
        return
    for stale in (*folder.glob(".items-*"), target):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".items-"))
    try:
        table = _connect(temporary).create_table(TABLE, data=rows, schema=schema)
        _indexed(table)
        (temporary / target.name).rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _indexed(table: Any) -> None:
    """Only a table without an index may be freed: `optimize` would make the index anew, other than it was measured."""
    index = _index.build(table)
    if index is not None and not index.used:
        _free(table)


def _free(table: Any) -> None:
    """Delete the files of older versions, index and all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about readers of older versions; ours turn to the newest at each read
        table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)


def _connect(folder: Path) -> Any:
    for name in ("LANCE_LOG", "LANCEDB_LOG"):
        os.environ.setdefault(name, "error")
    import lancedb

    return lancedb.connect(folder.resolve(), read_consistency_interval=timedelta(0))


def _schema(dim: int | None) -> pa.Schema:
    types = {**COLUMNS, **({} if dim is None else {"vector": pa.list_(pa.float32(), dim)})}
    return pa.schema(types.items(), metadata={"tacit.format": str(FORMAT)})


def _batch(columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    schema = _schema(columns["vector"].type.list_size if "vector" in columns else None)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _batches(rows: Iterable[Rows]) -> Iterator[pa.RecordBatch]:
    last, schema = -1, None
    for given in rows:
        batch = _complete(given, last)
        if not len(batch):
            continue
        numbers = batch.column("item").to_numpy()
        expect(
            "item",
            int(numbers[0]),
            bool((np.diff(numbers, prepend=last) > 0).all()),
            f"numbers that rise, from above {last}",
        )
        schema = schema or batch.schema
        expect("vector", batch.schema.names, batch.schema == schema, "vectors of one length, in every batch or in none")
        last = int(numbers[-1])
        yield batch


def _complete(given: Rows, last: int) -> pa.RecordBatch:
    expect("rows", sorted(given), "uri" in given, "a column uri in every batch")
    columns = {name: _array(name, values) for name, values in given.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    n = lengths["uri"]
    expect("rows", lengths, set(lengths.values()) == {n}, "columns of equal length")
    columns.setdefault("item", pa.array(np.arange(last + 1, last + 1 + n)))
    columns.setdefault("meta", pa.array(["{}"] * n))
    for name, type in COLUMNS.items():
        columns.setdefault(name, pa.array([MISSING.get(type)] * n, type))
    return _batch(columns)


def _array(name: str, values: Any) -> pa.Array:
    """Values as the column's Arrow type; what is missing among them becomes "", b"", NaN or -1."""
    if name == "vector":
        return _vector_array(values)
    if name not in COLUMNS:
        raise unknown("column", name, [*COLUMNS, "vector"])
    type = COLUMNS[name]
    if pa.types.is_string(type):
        return pa.array([_text(value) for value in values], type)
    if pa.types.is_binary(type):
        return pa.array([b"" if value is None else bytes(value) for value in values], type)
    array = pa.array(np.asarray(values) if not isinstance(values, pa.Array) else values, from_pandas=False)
    return array.cast(type).fill_null(MISSING.get(type, -1)) if array.null_count else array.cast(type)


def _vector_array(values: Any) -> pa.Array:
    matrix = np.ascontiguousarray(values, np.float32)
    expect("vector", matrix.shape, matrix.ndim == 2 and matrix.shape[1] > 0, "an array (n, d)")
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(1))[0])
        raise DataError(
            f"vector of row {row}: expected finite numbers; the encoder gave NaN or infinity, so its training diverged"
        )
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def _text(value: Any) -> str:
    """As text that Arrow can hold: JSON for a mapping, lone surrogates (undecodable file names) as escapes."""
    text = "" if value is None else json.dumps(value) if isinstance(value, Mapping) else str(value)
    return text.encode("utf-8", "backslashreplace").decode()


def _matrix(column: pa.Array) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def _values(column: pa.Array) -> np.ndarray | list[Any]:
    if pa.types.is_fixed_size_list(column.type):
        return _matrix(column)
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        return column.to_pylist()
    return column.to_numpy(zero_copy_only=False)


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _said(meta: str) -> str:
    """What stands beside an item, if something does."""
    if '"caption"' not in meta:
        return ""
    try:
        said = json.loads(meta).get("caption")
    except (ValueError, AttributeError):
        return ""
    return said if isinstance(said, str) else ""


def _hits(found: pa.Table, scores: np.ndarray) -> list[Hit]:
    """Found rows as hits, nearest first; of equal ones the lower number."""
    items, uris, meta = (found[name].to_pylist() for name in SHOWN)
    return [Hit(items[i], float(scores[i]), uris[i], _said(meta[i])) for i in np.lexsort((items, -scores))]


def _similarities(vectors: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """Scores of vectors (n, d) for a query (d,): (n,); -inf by cosine for those without a direction."""
    if metric == "euclidean":
        return -np.linalg.norm(vectors - query, axis=1)
    scores = vectors @ query
    if metric == "dot":
        return scores
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.divide(scores, norms, out=np.full_like(scores, -np.inf), where=norms > 0)


def _scores(distances: np.ndarray, metric: str) -> np.ndarray:
    """From what Lance calls distances: 1 - cosine, squared Euclidean, 1 - inner product."""
    return -np.sqrt(np.maximum(distances, 0)) if metric == "euclidean" else 1 - distances
