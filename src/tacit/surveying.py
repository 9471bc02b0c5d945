"""survey: what an encoder shows of the data: map, clusters, duplicates, outliers, and labels if there are any."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tacit.data import Dataset, Ledger, Source
from tacit.embedding import embed, readable
from tacit.errors import RunError
from tacit.evaluate import effective_rank, knn_accuracy, linear_probe, neighbours, view_retrieval
from tacit.learner import encoder_of
from tacit.report import Clusters, find_clusters, name_by_words, near_duplicates, neighbour_map, typicality
from tacit.store import Items
from tacit.training import fit, mix

Say = Callable[[str], None]

ADDED = "added.jsonl"
"""What was added to a run since its survey, and from where."""
SHOWN = 24
"""Items of a cluster's contact sheet."""
SCORED, FEWEST_SCORED = 4000, 2000
"""Labelled items that the comparison of encoders uses, half to learn from, half to score; less for several labels."""
RETRIEVED = 1000
NAMED_BY = 2000
"""Characters of a text that its cluster is named by."""
PARTS = 12
"""Contact sheets of a data set that has no clusters."""


def survey(
    folder: Path, source: Source, encoder: nn.Module, *, untrained: nn.Module | None, seed: int, say: Say
) -> dict[str, Any]:
    """Embed all items, write items.lance and labels.sqlite, and return the figures for summary.json.

    Args:
        folder: of the run.
        source: the data, with labels found on the way.
        encoder: trained.
        untrained: the same with its initial weights, or None.
        seed: of everything that is drawn.
        say: told what is being done.

    Raises:
        RunError: items were added to the run since an earlier survey, and would be lost.
    """
    if (folder / ADDED).exists():
        raise RunError(
            f"out={str(folder)!r}: `tacit add` brought items into this run, which a new survey would drop, and its "
            "summary.json or items.lance is gone: put it back, give another out, or overwrite to set the run aside"
        )
    n = len(source.dataset)
    say(f"embedding {n:,} items")
    vectors = embed(encoder, readable(encoder, source))
    say("looking for clusters, duplicates and outliers, drawing the map")
    clusters, one_cloud = _clusters(vectors, seed)
    places = neighbour_map(vectors, seed=seed)
    typical = typicality(vectors)
    images = source.dataset["x"] if source.modality == "image" else None
    groups = near_duplicates(vectors, images=images, hashes=source.hashes)
    index = _store(folder, source, vectors, places, clusters, -typical).index
    if index is not None:
        say(index.describe())
    found = {
        "data": _data_facts(source),
        "model": _model_facts(encoder),
        "effective_rank": _rank(vectors, seed),
        "neighbours": _view_retrieval(encoder, source, seed),
        "clusters": _cluster_facts(clusters, _names(clusters, source)) | {"one_cloud": one_cloud},
        "duplicates": [_group_facts(group) for group in groups],
        "untypical": [int(i) for i in np.argsort(typical)[:24]],
        "neighbour_examples": _examples(vectors, seed),
        "labels": _labels(folder, source, vectors, untrained, seed, say),
    }
    return found | {"next": _next_commands(folder, source)}


def _clusters(vectors: np.ndarray, seed: int) -> tuple[Clusters, bool]:
    """The clusters; and whether the data is one cloud, which is cut into parts all the same, to be looked at."""
    found = find_clusters(vectors, seed=seed)
    if found.n_clusters > 1 or len(np.unique(vectors, axis=0)) < 5 * PARTS:
        return found, False
    return find_clusters(vectors, n_clusters=PARTS, seed=seed), True


def _store(
    folder: Path, source: Source, vectors: np.ndarray, places: np.ndarray, clusters: Clusters, outlier: Any
) -> Items:
    def batches(size: int = 2000) -> Iterator[dict[str, Any]]:
        for start in range(0, len(vectors), size):
            rows = range(start, min(start + size, len(vectors)))
            part = slice(start, rows.stop)
            yield {
                "item": np.arange(start, rows.stop),
                "hash": [source.hashes[i] for i in rows],
                "uri": [source.uris[i] for i in rows],
                "source": [source.where] * len(rows),
                "thumbnail": [_stands_for(source, i) for i in rows],
                "vector": vectors[part],
                "x2d": places[part, 0],
                "y2d": places[part, 1],
                "cluster": clusters.labels[part],
                "confidence": clusters.confidence[part],
                "outlier": outlier[part],
                "meta": [json.dumps(_meta(source, i)) for i in rows],
            }

    return Items.create(folder, batches())


def _stands_for(source: Source, item: int) -> bytes:
    """A picture of the item, or a piece of its text."""
    if source.thumbnails is not None:
        return source.thumbnails[item]
    said = source.captions[item] if source.captions is not None else None
    return (said or "").encode("utf-8", "replace")


def _meta(source: Source, item: int) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    said = {name: values[item] for name, values in source.labels.items() if values[item]}
    if said:
        meta["labels"] = said
    if source.captions is not None and source.captions[item]:
        meta["caption"] = source.captions[item]
    if source.facts is not None:
        meta |= source.facts[item]
    return meta


def _data_facts(source: Source) -> dict[str, Any]:
    return {
        "where": source.where,
        "n": len(source.dataset),
        "skipped": len(source.skipped),
        "modality": source.modality,
        **({"noun": source.shape["items"].removesuffix("s")} if "items" in source.shape else {}),
        "channels": source.channels,
        "image_size": source.image_size,
        "lines": source.describe(),
    }


def _rank(vectors: np.ndarray, seed: int) -> dict[str, float] | None:
    some = vectors[np.random.default_rng(seed).permutation(len(vectors))[:RETRIEVED]]
    return _estimate(effective_rank(some, return_interval=True)) if len(some) > 1 else None


def _model_facts(encoder: nn.Module) -> dict[str, Any]:
    config = getattr(encoder, "config", None) or {}
    parameters = sum(p.numel() for p in encoder.parameters()) or sum(b.numel() for b in encoder.buffers())
    return {"name": config.get("name", type(encoder).__name__), "dim": int(encoder.dim), "parameters": parameters}


def _names(clusters: Clusters, source: Source) -> list[str]:
    """Of each cluster the typical words, "" where items have none."""
    said: Sequence[str | None] = source.texts or source.captions or [None] * len(source)
    texts = [(text or "")[:NAMED_BY] for text in said]
    return name_by_words(clusters.labels, texts, values=source.modality == "table")


def _cluster_facts(clusters: Clusters, names: Sequence[str]) -> dict[str, Any]:
    sheets = []
    for number in range(clusters.n_clusters):
        members = np.flatnonzero(clusters.labels == number)
        first = members[np.argsort(-clusters.confidence[members], kind="stable")][:SHOWN]
        sheets.append(
            {
                "cluster": number,
                "name": names[number],
                "size": len(members),
                "stability": float(clusters.per_cluster_stability[number]),
                "items": first.tolist(),
            }
        )
    return {
        "n": int(clusters.n_clusters),
        "range": [int(v) for v in clusters.range],
        "stability": _estimate(clusters.stability),
        "per_cluster": sheets,
    }


def _group_facts(group: Any) -> dict[str, Any]:
    return {"items": [int(i) for i in group.items], "similarity": float(group.similarity), "exact": bool(group.exact)}


def _examples(vectors: np.ndarray, seed: int, count: int = 12, shown: int = 8) -> list[dict[str, Any]]:
    picked = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:count])
    k = min(shown + 1, len(vectors))
    scores, items = neighbours(vectors[picked], vectors, k)
    return [
        {
            "item": int(item),
            "neighbours": [
                {"item": int(i), "score": round(float(s), 4)}
                for s, i in zip(row_s, row_i, strict=True)
                if int(i) != item
            ][:shown],
        }
        for item, row_s, row_i in zip(picked, scores, items, strict=True)
    ]


def _view_retrieval(encoder: nn.Module, source: Source, seed: int) -> dict[str, Any] | None:
    """How often a view's nearest item among 1,000 is its original, by the encoder and by raw input."""
    if source.modality != "image":
        return None
    from tacit.views import as_float

    pairs = view_pairs(source, int(encoder.image_size), seed)  # type: ignore[arg-type]
    raw = [as_float(images, min(images.shape[-1], 32)).flatten(1) for images in pairs]
    trained = [embed(encoder, {"x": images}) for images in pairs]
    return {"trained": _estimate(view_retrieval(*trained)), "raw": _estimate(view_retrieval(*raw))}


def view_pairs(source: Source, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """At most 1,000 of the images, and a view of each that keeps 40 % of its area or more; floats in [0, 1]."""
    from tacit.views import as_float, two_crops

    picked = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:RETRIEVED]
    originals = source.dataset["x"][picked]
    views = two_crops(size, channels=source.channels or 3, scale=(0.4, 1.0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, "view retrieval", 0))
        return as_float(originals, size), views(originals)[0]


def _estimate(found: Any) -> dict[str, float]:
    return {"value": float(found.value), "low": float(found.low), "high": float(found.high), "n": int(found.n)}


# labels: for choosing on one part and reporting on the other, never for learning


def _labels(
    folder: Path, source: Source, vectors: np.ndarray, untrained: nn.Module | None, seed: int, say: Say
) -> list[dict[str, Any]] | None:
    usable = {name: values for name, values in source.labels.items() if 2 <= len({v for v in values if v}) <= 1000}
    ledger = Ledger(folder / "labels.sqlite")
    for name, values in source.labels.items():
        ledger.put(name, dict(zip(source.hashes, values, strict=True)), source="found")
    if not usable:
        return None
    say(f"scoring by the labels found ({', '.join(usable)}), which learning has not seen")
    features: dict[str, np.ndarray] | None = None
    found = []
    for name, values in usable.items():
        ledger.split(name, seed)
        learned = ledger.take(name, "choose", "fitting k-NN and the linear probe, and its penalty")
        scored = ledger.take(name, "report", "accuracy of k-NN and linear probe")
        count = max(SCORED // len(usable), FEWEST_SCORED) // 2
        train, test = (_rows(source, taken, count, seed) for taken in (learned, scored))
        if len({values[i] for i in train}) < 2 or len(test) < 10:
            continue
        if features is None:
            features = {"trained": vectors} | _baselines(source, untrained, seed)
        y = [[taken[source.hashes[i]] for i in rows] for rows, taken in ((train, learned), (test, scored))]
        rows = [_score_row(encoder, x, train, test, y) for encoder, x in features.items()]
        uses = [use._asdict() for use in ledger.uses() if use.name == name]
        found.append({"name": name, "source": "found", "classes": len(set(y[0])), "rows": rows, "uses": uses})
    return found or None


def _rows(source: Source, taken: Mapping[str, str], count: int, seed: int) -> np.ndarray:
    """Numbers of at most `count` items whose label was taken, an even sample; no duplicate twice."""
    seen: set[str] = set()
    rows = [i for i, item in enumerate(source.hashes) if item in taken and not (item in seen or seen.add(item))]  # type: ignore[func-returns-value]
    picked = np.random.default_rng(seed).permutation(len(rows))[:count]
    return np.asarray(rows)[np.sort(picked)]


def _score_row(encoder: str, x: np.ndarray, train: np.ndarray, test: np.ndarray, y: list[list[str]]) -> dict[str, Any]:
    parts = (x[train], np.asarray(y[0]), x[test], np.asarray(y[1]))
    return {
        "encoder": encoder,
        "knn": _estimate(knn_accuracy(*parts)),
        "linear": _estimate(linear_probe(*parts)),
    }


def _baselines(source: Source, untrained: nn.Module | None, seed: int) -> dict[str, np.ndarray]:
    """Vectors of all items by what costs next to nothing, so that nobody is fooled."""
    encoders = quick_baselines(source, seed)
    if untrained is not None:
        encoders = {"untrained": untrained} | encoders
    return {name: embed(encoder, readable(encoder, source)) for name, encoder in encoders.items()}


QUICK = {
    "image": (("whitened PCA", "pca"), ("patch k-means", "patch-kmeans")),
    "text": (("LSA", "lsa"),),
    "audio": (("log-mel PCA", "log-mel-pca"),),
    "graph": (("graph features", "graph-features"),),
    "points": (("whitened PCA", "pca"),),
}
"""Kind of data -> closed forms that take seconds: what the report calls them, and their ids."""


def quick_baselines(source: Source, seed: int, *, but: Collection[str] = ()) -> dict[str, nn.Module]:
    """Encoders that take seconds: raw input, and closed forms fitted to a part of the data, `but` for these ids."""
    from tacit.building import build, read_columns

    n, modality = len(source), source.modality
    encoders: dict[str, nn.Module] = {}
    if modality in ("image", "points", "table", "series"):
        encoders["pixels" if modality == "image" else "raw numbers"] = Raw()
    picked = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:SCORED].sort().values
    columns = {name: _picked(rows, picked) for name, rows in source.columns().items()}
    description = dict(source.description)
    if source.image_size:
        description["image_size"] = min(source.image_size, 32)
    for label, id in QUICK.get(modality, ()):
        if id in but:
            continue
        learner = build(id, description, arguments=_quick_arguments(id, columns), seed=seed)
        read = read_columns(learner, columns)
        some = Dataset({name: rows for name, rows in read.items() if not isinstance(rows, list)}, modality=modality)
        encoders[label] = encoder_of(fit(learner, some, max_steps=1, seed=seed))
    return encoders


def _picked(rows: Any, items: torch.Tensor) -> Any:
    return [rows[i] for i in items.tolist()] if isinstance(rows, list) else rows[items]


def _quick_arguments(id: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    if id == "patch-kmeans":
        return {"n_clusters": 200}
    if id not in ("pca", "lsa"):
        return {}
    rows = next(iter(columns.values()))
    wide = embed(Raw(), {"x": rows[:1]}).shape[1] if id == "pca" else 128
    return {"n_components": min(128, len(rows), wide)}


class Raw(nn.Module):
    """The numbers of an item as they are; of a picture at 16 pixels, which a probe can read in few columns."""

    def prepare(self, items: torch.Tensor) -> torch.Tensor:
        from tacit.views import as_float

        return as_float(items, 16) if items.ndim == 4 else items.float().nan_to_num()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def _next_commands(folder: Path, source: Source) -> list[str]:
    first, run = Path(source.where) / next(iter(source.uris), ""), shlex.quote(str(folder))
    query = "PICTURE.jpg" if source.modality == "image" else "--item 0"
    if source.modality == "text":
        query = shlex.quote(" ".join((source.texts or [""])[0].split()[:4]))
    elif first.is_file() and source.modality in ("image", "audio"):
        query = shlex.quote(str(first))
    last = f"tacit export {run} --to onnx" if source.modality == "image" else f"tacit cluster {run}"
    return [f"tacit explore {run}", f"tacit search {run} {query}", last]
