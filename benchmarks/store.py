"""The store's nearest neighbours: build, search and filter, beside faiss-cpu and usearch on the same vectors.

    python benchmarks/store.py                          # 10,000 and 100,000 vectors of 384
    python benchmarks/store.py --n 1000000 --json store.json

Points are drawn (40 clusters on curved surfaces of twenty dimensions); queries are drawn like them and are none of
them. Each side answers single queries, on one thread: median milliseconds, and recall@10 against a comparison with all.
The filter takes one cluster of the 40. The peers' effort (cells or candidates) is the least of a ladder that finds
0.95 of the 10 nearest of other queries; tacit chooses its own when it writes. The peers hold vectors in memory and give
back numbers; tacit's store is on disk, its build is a write of rows, its hits have names and texts.

Milliseconds are of the machine and of what else runs on it: compare the ratios to tacit, all of one run.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

THREADS = os.environ.setdefault("LANCE_CPU_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", THREADS)

import numpy as np  # noqa: E402  the databases read how many threads they may use when they are imported

from tacit.store import Items, _index  # noqa: E402

CLUSTERS, SURFACE, TAKEN, K = 40, 20, 3, 10
WANTED = 0.95
CELLS_READ = (1, 2, 4, 8, 16, 32, 64, 128)
CANDIDATES = (16, 32, 64, 128, 256, 512, 1024)
BLOCK = 2000
Answer = Callable[[np.ndarray], np.ndarray]


class Drawn:
    """Unit vectors, the cluster of each, queries, and other queries by which the peers choose."""

    def __init__(self, n: int, dim: int, queries: int) -> None:
        rng = np.random.default_rng(0)
        centres = 2 * rng.standard_normal((CLUSTERS, SURFACE), np.float32)
        surface = rng.standard_normal((SURFACE, dim), np.float32) / SURFACE**0.5
        self.x, self.cluster = np.empty((n, dim), np.float32), np.empty(n, np.int64)
        for start in range(0, n, BLOCK):
            part = slice(start, min(start + BLOCK, n))
            self.x[part], self.cluster[part] = self._some(rng, part.stop - start, centres, surface)
        both = self._some(rng, 2 * queries, centres, surface)[0]
        self.queries, self.others = both[:queries], both[queries:]

    @staticmethod
    def _some(
        rng: np.random.Generator, n: int, centres: np.ndarray, surface: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        cluster = rng.integers(CLUSTERS, size=n)
        place = centres[cluster] + rng.standard_normal((n, SURFACE), np.float32)
        x = np.tanh(place @ surface) + 0.05 * rng.standard_normal((n, surface.shape[1]), np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True), cluster

    def nearest(self, queries: np.ndarray, rows: np.ndarray | None = None) -> list[set[int]]:
        """By comparing with all, or with those rows."""
        x = self.x if rows is None else self.x[rows]
        found = np.concatenate([np.argpartition(-(q[None] @ x.T), K, axis=1)[:, :K] for q in queries])
        return [set((one if rows is None else rows[one]).tolist()) for one in found]


def measured(build: Callable[[], Answer], filtered: Callable[[], Answer | None], drawn: Drawn, truth: Any) -> dict:
    start = time.perf_counter()
    answer = build()
    row = {"build_s": time.perf_counter() - start}
    row["search_ms"], row["recall"] = asked(answer, drawn.queries, truth["all"])
    some = filtered()
    row["filter_ms"], row["filter_recall"] = (None, None) if some is None else asked(some, drawn.queries, truth["some"])
    return row


def asked(answer: Answer, queries: np.ndarray, truth: list[set[int]]) -> tuple[float, float]:
    """Median milliseconds of a query, and recall; the first three are asked once before."""
    for query in queries[:3]:
        answer(query)
    spent, found = [], 0
    for query, nearest in zip(queries, truth, strict=True):
        start = time.perf_counter()
        hits = answer(query)
        spent.append(1000 * (time.perf_counter() - start))
        found += len(nearest & set(np.asarray(hits).tolist()))
    return float(np.median(spent)), found / K / len(queries)


def least(answer_with: Callable[[int], Answer], efforts: tuple[int, ...], drawn: Drawn, truth: Any) -> int:
    """The least effort that finds enough of the other queries' nearest."""
    for effort in efforts:
        if asked(answer_with(effort), drawn.others, truth["others"])[1] >= WANTED:
            break
    return effort


# Sides ----------------------------------------------------------------------------------------------------------------


def tacit_sides(drawn: Drawn, truth: Any, folder: Path) -> Iterator[tuple[str, dict]]:
    """The store as it is, and the same where it shall be exact."""
    kept: dict[str, Items] = {}

    def rows() -> Iterator[dict[str, Any]]:
        for start in range(0, len(drawn.x), BLOCK):
            part = slice(start, start + BLOCK)
            uris = [f"{i}.png" for i in range(start, start + len(drawn.x[part]))]
            yield {"uri": uris, "vector": drawn.x[part], "cluster": drawn.cluster[part]}

    def build() -> Answer:
        kept["items"] = Items.create(folder, rows())
        return answer()

    def answer(**words: Any) -> Answer:
        return lambda query: np.array([hit.item for hit in kept["items"].search(query, K, **words)])

    found = measured(build, lambda: answer(where=f"cluster = {TAKEN}"), drawn, truth)
    index = kept["items"].index
    found["noted"] = None if index is None else index.describe()
    yield "tacit", found
    if index is not None and index.used:
        ms, recall = asked(answer(exact=True), drawn.queries, truth["all"])
        yield "tacit, exact=True", {"search_ms": ms, "recall": recall}


def faiss_sides(drawn: Drawn, truth: Any) -> Iterator[tuple[str, dict]]:
    """All compared, and cells of vectors at 8 bits as tacit's index has them."""
    import faiss

    faiss.omp_set_num_threads(int(THREADS))
    n, dim = drawn.x.shape
    rows = np.flatnonzero(drawn.cluster == TAKEN)
    flat, cells = faiss.IndexFlatIP(dim), round(n**0.5)
    coarse = faiss.IndexFlatIP(dim)
    coded = faiss.IndexIVFScalarQuantizer(coarse, dim, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    coded.cp.max_points_per_centroid = _index.PER_CELL
    coded.cp.niter = _index.ITERATIONS

    def of(index: Any, **words: Any) -> Answer:
        return lambda query: index.search(query[None], K, **words)[1][0]

    def built(index: Any) -> Answer:
        if not index.is_trained:
            index.train(drawn.x)
        index.add(drawn.x)
        return of(index)

    def selected(kind: Any, **words: Any) -> Answer:
        return of(kept, params=kind(sel=faiss.IDSelectorBatch(rows), **words))

    kept: Any = flat
    yield "faiss, IndexFlat", measured(lambda: built(flat), lambda: selected(faiss.SearchParameters), drawn, truth)
    flat.reset()
    kept = coded

    def chosen() -> Answer:
        built(coded)

        def with_effort(effort: int) -> Answer:
            return of(coded, params=faiss.SearchParametersIVF(nprobe=effort))

        coded.nprobe = least(with_effort, CELLS_READ, drawn, truth)
        return of(coded)

    found = measured(chosen, lambda: selected(faiss.SearchParametersIVF, nprobe=int(coded.nprobe)), drawn, truth)
    yield "faiss, IVF and 8 bits", found | {"effort": f"{coded.nprobe} of {cells} cells"}


def usearch_sides(drawn: Drawn, truth: Any) -> Iterator[tuple[str, dict]]:
    """A graph, with the package's own settings; it has no filter in Python."""
    from usearch.index import Index

    index = Index(ndim=drawn.x.shape[1], metric="ip", dtype="f32")

    def answer(query: np.ndarray) -> np.ndarray:
        return index.search(query, K, threads=1).keys

    def with_effort(effort: int) -> Answer:
        index.expansion_search = effort
        return answer

    def build() -> Answer:
        index.add(np.arange(len(drawn.x)), drawn.x, threads=int(THREADS))
        least(with_effort, CANDIDATES, drawn, truth)
        return answer

    found = measured(build, lambda: None, drawn, truth)
    yield "usearch, HNSW", found | {"effort": f"{index.expansion_search} candidates"}


# Tables ---------------------------------------------------------------------------------------------------------------


def compared(n: int, dim: int, queries: int, without: list[str]) -> dict[str, dict]:
    drawn = Drawn(n, dim, queries)
    rows = np.flatnonzero(drawn.cluster == TAKEN)
    truth = {
        "all": drawn.nearest(drawn.queries),
        "others": drawn.nearest(drawn.others),
        "some": drawn.nearest(drawn.queries, rows),
    }
    sides: dict[str, dict] = {}
    print(f"\n{n:,} x {dim}, {queries} queries, the filter takes {len(rows):,}")
    print(f"{'':24}{'build s':>10}{'search ms':>11}{'recall':>8}{'filter ms':>11}{'recall':>8}   ratios to tacit")
    with tempfile.TemporaryDirectory() as folder:
        for name, found in tacit_sides(drawn, truth, Path(folder)):
            sides[name] = found
            show(name, found, sides["tacit"])
    gc.collect()
    for package, peer in (("faiss", faiss_sides), ("usearch", usearch_sides)):
        if package in without:
            continue
        try:
            for name, found in peer(drawn, truth):
                sides[name] = found
                show(name, found, sides["tacit"])
        except ImportError:
            print(f"{package} is not installed: pip install --no-deps faiss-cpu usearch, to compare")
        gc.collect()
    return sides


def show(name: str, found: dict, ours: dict) -> None:
    def number(key: str, width: int, digits: int) -> str:
        value = found.get(key)
        return f"{'-' if value is None else format(value, f',.{digits}f'):>{width}}"

    cells = [number("build_s", 10, 2), number("search_ms", 11, 2), number("recall", 8, 3)]
    cells += [number("filter_ms", 11, 2), number("filter_recall", 8, 3)]
    keys = {"build": "build_s", "search": "search_ms", "filter": "filter_ms"}
    ratios = {word: found[key] / ours[key] for word, key in keys.items() if found.get(key)}
    said = "  ".join(f"{word} {ratio:.2f}" for word, ratio in ratios.items()) if found is not ours else ""
    remark = found.get("effort") or found.get("noted") or ""
    print(f"{name:24}{''.join(cells)}   {said}{f'  ({remark})' if remark else ''}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--without", nargs="*", default=[], choices=["faiss", "usearch"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{THREADS} thread(s) a side, {os.cpu_count()} cores")
    if load > 1:
        print(f"the machine is busy (load {load:.1f}): only ratios are worth something")
    found = {str(n): compared(n, given.dim, given.queries, given.without) for n in given.n}
    if given.json:
        given.json.write_text(json.dumps({"load": load, "threads": int(THREADS), "sides": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
