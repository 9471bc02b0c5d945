"""An index for the nearest neighbours of many items, and how much of what an exact search finds it finds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

INDEXED_FROM = 50_000
"""Items; of fewer, all are compared."""
WANTED = 0.95
"""Recall that an index must have to be used."""
NEAREST = (10, 100)
"""Numbers of hits at which recall is measured; of more than the last, all items are compared."""
ASKED = 200
"""Items of the run that are searched for to measure it."""
EFFORTS = ((8, 4), (16, 4), (32, 8), (64, 16))
"""Cells that are read, and candidates by their codes for each hit, which are then compared by their vectors."""
MOST = 4
"""An effort that reads more than one in so many cells is not worth having an index."""
ITERATIONS, PER_CELL = 20, 64
"""Of k-means, and items that each cell is placed by; the defaults take 10 times as long and find no more."""
SAME = 1e-5
"""Cosines no farther apart are equal, so that it does not matter which of two copies is found."""
KEY = "tacit.index"


@dataclass(frozen=True)
class Index:
    """How the nearest items are found in a run of many (from `INDEXED_FROM` on).

    The index is LanceDB's IVF_SQ: k-means parts the directions of the vectors into about sqrt(n) cells, a search reads
    those nearest to the query, in which each number of a vector is 8 bits, and compares the best by their full vectors.
    How many cells it reads is the least that finds enough of what an exact search finds, for items of the run itself.
    """

    used: bool
    """Whether it finds enough; if not, there is none, and each search compares with all items."""
    recall: Mapping[int, float]
    """k -> share of the k nearest that is found, over `asked` items of the run, each without itself."""
    low: Mapping[int, float]
    """k -> lower end of its 95 % interval, which `used` goes by."""
    asked: int
    cells: int
    probes: int
    """Cells that a search reads."""
    refine: int
    """Candidates for each hit."""
    reason: str = ""
    """Why there is none, where it could not be built."""

    def describe(self) -> str:
        """It in a sentence."""
        if self.reason:
            return f"no index of the nearest items ({self.reason}): a search compares with all"
        k = NEAREST[0]
        found = f"{self.recall[k]:.3f} of the {k} nearest, measured on {self.asked} items of the run"
        if not self.used:
            return f"no index of the nearest items: a search compares with all, as one would find {found}"
        return f"index of the nearest items: a search reads {self.probes} of {self.cells} cells and finds {found}"


def build(table: Any) -> Index | None:
    """Index the vectors of a table, if it has that many, measure what it finds, and note it in the table.

    An index that finds too little is taken away again, and one that cannot be built is done without.
    """
    n = table.count_rows()
    if n < INDEXED_FROM or "vector" not in table.schema.names:
        return None
    from lancedb.index import IvfSq

    cells = max(1, round(n**0.5))
    shape = {"num_partitions": cells, "max_iterations": ITERATIONS, "sample_rate": PER_CELL}
    try:
        table.create_index("vector", config=IvfSq(distance_type="cosine", **shape), replace=True)
        found = _measured(table, cells)
    except (OSError, RuntimeError, ValueError) as error:
        found = _without(str(error).splitlines()[0][:200])
    if not found.used:
        for index in table.list_indices():
            table.drop_index(index.name)
    table.update_field_metadata({"path": "vector", "metadata": {KEY: json.dumps(asdict(found))}})
    return found


def read(field: pa.Field) -> Index | None:
    """What `build` noted; None where it was not asked for."""
    noted = (field.metadata or {}).get(KEY.encode())
    if noted is None:
        return None
    said = json.loads(noted)
    by_k = {name: {int(k): value for k, value in said[name].items()} for name in ("recall", "low")}
    return Index(**{**said, **by_k})


def near(table: Any, query: np.ndarray, k: int, probes: int, refine: int) -> Any:
    """A search by the index, for the k items nearest by cosine; fewer where the cells that it reads hold fewer."""
    search = table.search(query, vector_column_name="vector").distance_type("cosine").limit(k)
    return search.nprobes(probes).refine_factor(refine)


def _without(reason: str) -> Index:
    return Index(False, {}, {}, 0, 0, 0, 0, reason)


def _measured(table: Any, cells: int) -> Index:
    """Recall at the least effort at which it is enough, or at the last that is worth it."""
    asked, rows = _sample(table)
    if not len(asked):
        return _without("no vector has a direction")
    truth = _nearest_scores(table, asked["unit"], rows)
    for probes, refine in EFFORTS:
        if probes > EFFORTS[0][0] and MOST * probes > cells:
            break
        shares = _recall(table, asked, truth, probes, refine)
        recall = {k: float(share.mean()) for k, share in shares.items()}
        low = {k: recall[k] - 1.96 * float(share.std()) / len(share) ** 0.5 for k, share in shares.items()}
        found = Index(min(low.values()) >= WANTED, recall, low, len(asked), cells, probes, refine)
        if found.used:
            break
    return found


def _sample(table: Any) -> tuple[np.ndarray, np.ndarray]:
    """Items drawn by chance, as records of `item` and `unit` (d,), and their rows; not those without a direction."""
    n = table.count_rows()
    rows = np.sort(np.random.default_rng(0).permutation(n)[:ASKED])
    found = table.take_offsets(rows.tolist()).select(["item", "vector"]).to_arrow()
    found = found.take(np.argsort(found["item"].to_numpy()))  # the database gives no order for taken rows
    unit, norms = _unit(found["vector"].combine_chunks())
    asked = np.empty(len(rows), [("item", np.int64), ("unit", np.float32, (unit.shape[1],))])
    asked["item"], asked["unit"] = found["item"].to_numpy(), unit
    return asked[norms > 0], rows[norms > 0]


def _unit(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Vectors at length 1, and the lengths they had; zeros stay zeros."""
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return vectors / np.where(norms > 0, norms, 1)[:, None], norms


def _nearest_scores(table: Any, unit: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Cosines of each with its nearest others, falling: (m, NEAREST[-1]), by comparing with all, block by block."""
    best = np.full((len(unit), NEAREST[-1]), -np.inf, np.float32)
    for start, block in _blocks(table):
        others, norms = _unit(block)
        scores = unit @ others.T
        scores[:, norms == 0] = -np.inf
        own = (rows >= start) & (rows < start + len(others))
        scores[own, rows[own] - start] = -np.inf
        both = np.concatenate([best, scores], axis=1)
        best = np.partition(both, both.shape[1] - NEAREST[-1], axis=1)[:, -NEAREST[-1] :]
    return -np.sort(-best, axis=1)


def _blocks(table: Any) -> Iterator[tuple[int, Any]]:
    start = 0
    for batch in table.search().select(["vector"]).to_batches():
        yield start, batch.column(0)
        start += len(batch)


def _recall(table: Any, asked: np.ndarray, truth: np.ndarray, probes: int, refine: int) -> dict[int, np.ndarray]:
    """k -> for each that is asked, the share of its k nearest others that is found."""
    shares: dict[int, list[float]] = {k: [] for k in NEAREST}
    for one, scores in zip(asked, truth, strict=True):
        for k in NEAREST:  # a search for fewer looks at fewer candidates
            hits = near(table, one["unit"], k + 1, probes, refine).select(["item", "_distance"]).to_arrow()
            found = 1 - hits["_distance"].to_numpy()[hits["item"].to_numpy() != one["item"]][:k]
            there = min(k, int(np.isfinite(scores).sum()))
            least = scores[there - 1] if there else np.inf
            shares[k].append(float((found >= least - SAME).sum()) / there if there else 1.0)
    return {k: np.array(share) for k, share in shares.items()}
