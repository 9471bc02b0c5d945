"""Does a search find the reading lists? Each is the right answer to a query of ours, among all papers.

    python benchmarks/papers.py ../shared        # -> benchmarks/papers.json, from which docs/papers.md is written

The texts are titles and abstracts of ../shared/papers.jsonl, which stay there. Each method learns from these texts
alone, without labels or lists, and puts them in order for the query; what counts is the share of the list among as many
first answers as the list is long. The queries stand in bibliography.json and were written before anything was measured;
no setting was chosen by these numbers.
"""

import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import torch

from tacit import bibliography, fit
from tacit.catalogue import find
from tacit.data import Dataset
from tacit.metric import BM25

HERE = Path(__file__).parent
SEEDS = 3
STEPS = {"sent2vec": 300}


def texts_of(shared: Path) -> tuple[list[str], list[str]]:
    rows = [json.loads(line) for line in (shared / "papers.jsonl").read_text("utf-8").splitlines()]
    return [row["id"] for row in rows], [f"{row['title']}. {row['abstract']}" for row in rows]


def vectors(method: str, texts: list[str], queries: list[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of texts and queries, by an encoder that learned from the texts with its `small` preset."""
    torch.manual_seed(seed)
    learner = _learner(method, len(texts))
    x = learner.encoder.fit_prepare(texts).prepare(texts)
    closed = method not in STEPS
    words = {"max_steps": 1} if closed else {"max_steps": STEPS[method], "batch_size": 128}
    fit(learner, Dataset({"x": x}, modality="text"), seed=seed, verbose=False, **words)
    encoder = learner.encoder.eval()
    with torch.no_grad():
        return tuple(_unit(encoder(encoder.prepare(some)).float().numpy()) for some in (texts, queries))


def _learner(method: str, n: int):
    from tacit.building import build

    described = {"modality": "text", "n": n}
    small = {"subsampling": 1e-4, "ngram_dropout": 4, "learning_rate": 0.2}  # sent2vec's preset
    arguments = {"n_components": n // 4} if method == "lsa" else small  # what tacit learn takes for so few texts
    return build(method, described, arguments=arguments, seed=0)


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


def recall(scores: np.ndarray, wanted: set[int]) -> float:
    """Share of the wanted among as many first ones."""
    first = np.argsort(-scores, kind="stable")[: len(wanted)]
    return len(wanted & set(first.tolist())) / len(wanted)


def main(shared: Path) -> None:
    ids, texts = texts_of(shared)
    lists = bibliography.reading_lists()
    wanted = {one.id: {ids.index(paper.id) for paper in bibliography.in_order(one.id)} for one in lists}
    queries = [one.query for one in lists]
    found: dict[str, dict[str, float]] = {one.id: {} for one in lists}
    bm25 = BM25().fit(texts).score_samples(queries)
    spread: dict[str, float] = {}
    runs = {"LSA": ("lsa", 1), "sent2vec": ("sent2vec", SEEDS)}
    for name, (method, seeds) in runs.items():
        values = []
        for seed in range(seeds):
            z, q = vectors(method, texts, queries, seed)
            values.append([recall(z @ one_q, wanted[one.id]) for one, one_q in zip(lists, q, strict=True)])
            if name == "LSA":
                lsa = z @ q.T
        for one, value in zip(lists, np.mean(values, 0), strict=True):
            found[one.id][name] = round(float(value), 4)
        spread[name] = float(np.std(values, 0).max())
    for i, one in enumerate(lists):
        found[one.id]["BM25"] = round(recall(bm25[i], wanted[one.id]), 4)
        both = lsa[:, i].clip(0) / max(lsa[:, i].max(), 1e-9) + bm25[i] / max(bm25[i].max(), 1e-9)
        found[one.id]["LSA and BM25"] = round(recall(both, wanted[one.id]), 4)
    learned = find("sent2vec").id
    remarks = [
        f"LSA is what `tacit learn papers.jsonl` takes for so few texts; {learned} is trained for {STEPS[learned]:,} "
        f"steps, the mean of {SEEDS} seeds, whose deviation is at most {100 * spread['sent2vec']:.0f} points; the last "
        "column adds the two scores, each divided by its greatest, as `tacit systems` does.",
    ]
    best = [max(found[one.id].items(), key=lambda pair: pair[1])[0] for one in lists]
    remarks.append(
        "Best on each list: " + ", ".join(f"{name} ({one.name})" for one, name in zip(lists, best, strict=True)) + "."
    )
    made = {"n": len(ids), "date": date.today().isoformat(), "recall": found, "remarks": remarks}
    (HERE / "papers.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared"))
