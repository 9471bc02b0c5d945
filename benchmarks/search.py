"""A search of 100,000 texts inside a process: the run's encoder on the query, and the nearest of all items.

    python benchmarks/search.py [--n 100000] [--queries 20] [--dim 128]      # TACIT_DATA=DIR where there is no network

The texts of AG News, each with a third of its words left out at random until there are n of them, in a run of LSA; the
queries are the first ten words of texts that were drawn by chance. Prints the time of the first search, which reads
vectors and vocabulary, and of the others median and slowest, in milliseconds; beside them those of asking by the number
of an item. Exit code 1 if the median is above 50 ms.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tacit
from tacit.building import build, read_columns
from tacit.data import Dataset, load_named
from tacit.embedding import embed
from tacit.learner import encoder_of
from tacit.store import Items

LIMIT = 50.0
"""Milliseconds."""


def perturbed(texts: list[str], n: int, rng: np.random.Generator) -> Iterator[str]:
    for number in range(n):
        words = np.array(texts[number % len(texts)].split())
        yield " ".join(words[rng.random(len(words)) > 1 / 3]) or words[0]


def made_run(folder: Path, texts: list[str], n: int, dim: int) -> tacit.Run:
    """A run of LSA fitted to `texts`, with n items."""
    learner = build("lsa", {"modality": "text"}, arguments={"n_components": dim})
    columns = read_columns(learner, {"text": texts})
    tacit.fit(learner, Dataset({"x": columns["x"]}, modality="text"), max_steps=1, out=folder)
    encoder, many = encoder_of(learner), list(perturbed(texts, n, np.random.default_rng(0)))
    vectors = embed(encoder, Dataset({"x": encoder.prepare(many)}, modality="text"))  # type: ignore[operator]

    def batches(size: int = 2000) -> Iterator[dict[str, Any]]:
        for start in range(0, n, size):
            part = many[start : start + size]
            said = [json.dumps({"caption": text[:200]}) for text in part]
            uris = [f"news.csv#{start + number}" for number in range(len(part))]
            yield {"uri": uris, "meta": said, "vector": vectors[start : start + size]}

    Items.create(folder, batches())
    return tacit.load(folder)


def timed(function: Callable[[Any], Any], asked: list[Any]) -> list[float]:
    """Milliseconds of each call."""
    spent = []
    for one in asked:
        start = time.perf_counter()
        function(one)
        spent.append(1000 * (time.perf_counter() - start))
    return spent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--dim", type=int, default=128)
    given = parser.parse_args()
    texts = list(load_named("ag_news").columns["text"])
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        run = made_run(Path(folder, "run"), texts, given.n, given.dim)
        drawn = rng.integers(len(texts), size=given.queries + 1)
        by_text = timed(run.search, [" ".join(texts[i].split()[:10]) for i in drawn])
        by_item = timed(run.search, rng.integers(given.n, size=given.queries).tolist())
    median = float(np.median(by_text[1:]))
    print(f"{given.n:,} texts, LSA of {given.dim} features, {given.queries} queries")
    print(f"by text: first {by_text[0]:.0f} ms, then {median:.1f} ms in the median, {max(by_text[1:]):.1f} ms at most")
    print(f"by item: {np.median(by_item):.1f} ms in the median, {max(by_item):.1f} ms at most")
    return int(median > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
