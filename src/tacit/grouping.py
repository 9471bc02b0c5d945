"""cluster: the items of a run in groups, with a confidence, examples and names of their words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.answers import (
    Answer,
    Group,
    Rows,
    check_out,
    counted,
    listed,
    new_folder,
    write_made,
    write_tables,
)
from tacit.errors import expect, unknown
from tacit.report import find_clusters, name_by_words
from tacit.report._files import part, read_json
from tacit.report._points import text_of
from tacit.report._words import stability_word
from tacit.store import Items

Say = Callable[[str], None]

FOLDER = "clustered"
METHODS = ("kmeans", "cpp")
PARTS = 12
"""Parts that data without separate groups is cut into."""
EXAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class Clustered(Answer):
    """What `cluster` found; `files` are clusters.csv and clusters.parquet."""

    labels: NDArray[np.integer]
    """(n,) cluster of each item, 0 the largest."""
    confidence: NDArray[np.floating]
    """(n,) in [0, 1]."""
    n_clusters: int
    names: list[str]
    """Of each cluster; empty where the items have no words."""
    examples: list[list[int]]
    """Item numbers of each cluster, the surest first."""


@dataclass(frozen=True)
class _Found:
    labels: NDArray[np.integer]
    confidence: NDArray[np.floating]
    said: list[str]


def cluster(
    run: Path,
    k: int | str = "auto",
    *,
    method: str = "kmeans",
    seed: int = 0,
    out: str | Path | None = None,
    say: Say = print,
) -> Clustered:
    """Group the items of a run.

    The run's own clusters, which its report shows, stay as they are.

    Args:
        run: folder of the run.
        k: number of clusters, or auto: what splits the data most repeatably and most clearly (`find_clusters`), or
            what CPP's coding rate says.
        method: kmeans, on the unit sphere; or cpp, which trains two small heads on the features first. Both fit to a
            part of many items and assign all of them block by block: a million rows of 128 numbers need 3 GB.
        seed: of all chance.
        out: folder for the tables; a new one in the run's folder `clustered` if None.
        say: told what is being done.

    Raises:
        ArgumentError: unknown method; k out of range.
        RunError: `out` holds something already; the run has no vectors.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    whole = isinstance(k, int) and not isinstance(k, bool) and k >= 1
    expect("k", k, k == "auto" or whole, "a whole number, at least 1, or auto")
    check_out(out)
    rows = Rows(run)
    if k != "auto":
        expect("k", k, int(k) <= len(rows), f"at most the {counted(len(rows), 'item')} of the run")
    say(f"clustering {counted(len(rows), 'item')} by {method}")
    found = (_kmeans if method == "kmeans" else _cpp)(rows.vectors, None if k == "auto" else int(k), seed)
    n_clusters = int(found.labels.max()) + 1
    table = part(read_json(run / "summary.json"), "data").get("modality") == "table"
    names = name_by_words(found.labels, _texts(run), values=table)
    examples = [_examples(found, number, rows.first) for number in range(n_clusters)]
    sizes = np.bincount(found.labels, minlength=n_clusters)
    titles = [_title(i, names[i], int(size)) for i, size in enumerate(sizes)]
    sheet = rows.sheet([Group(title, some) for title, some in zip(titles, examples, strict=True)])
    folder = new_folder(run, out, FOLDER)
    columns = {
        "item": rows.items,
        "uri": rows.uris,
        "cluster": found.labels.astype(np.int32),
        "name": [names[i] for i in found.labels],
        "confidence": found.confidence.astype(float).round(4),
    }
    answer = Clustered(
        folder=folder,
        files=write_tables(folder, "clusters", columns),
        sheet=sheet.save(folder),
        what=f"{counted(len(rows), 'item')} in {counted(n_clusters, 'cluster')}, by {method}",
        lines=[*found.said, f"Sizes: {listed(sizes.tolist(), 12)}."],
        labels=found.labels,
        confidence=found.confidence,
        n_clusters=n_clusters,
        names=names,
        examples=[rows.items[some].tolist() for some in examples],
    )
    if any(names):
        answer.lines.append(f"Typical words: {listed([f'{i} {name}' for i, name in enumerate(names) if name], 12)}.")
    clusters = [
        {"cluster": i, "size": int(sizes[i]), "name": names[i], "examples": [rows.uris[row] for row in examples[i]]}
        for i in range(n_clusters)
    ]
    details = {"k": k, "method": method, "seed": seed, "clusters": clusters}
    write_made(answer.folder, answer.what, answer.lines, details | sheet.details())
    return answer


def _kmeans(vectors: NDArray[np.float32], k: int | None, seed: int) -> _Found:
    found = find_clusters(vectors, n_clusters=k, seed=seed)
    low, high = found.range
    said = [f"{counted(found.n_clusters, 'cluster')} stand out (plausible: {low} to {high})."] if k is None else []
    if k is None and found.n_clusters == 1 and len(vectors) >= 5 * PARTS:
        different = len(np.unique(vectors[: 50 * PARTS], axis=0))
        if different >= PARTS:
            found = find_clusters(vectors, n_clusters=PARTS, seed=seed)
            said = [f"No groups stand apart: the items are one cloud, cut into {PARTS} parts to be looked at."]
    stable = found.stability
    word = stability_word(stable.value)
    said.append(
        f"{word}: cut anew from half of the items, they agree by {stable.value:.2f} "
        f"({stable.low:.2f} to {stable.high:.2f})."
    )
    return _Found(found.labels, found.confidence, said)


def _cpp(vectors: NDArray[np.float32], k: int | None, seed: int) -> _Found:
    from tacit.cluster import CPP

    model = CPP(n_clusters=k, random_state=seed) if k is not None else CPP(random_state=seed)
    p = model.fit(vectors).predict_proba(vectors)
    by_size = np.argsort(-np.bincount(p.argmax(axis=1), minlength=p.shape[1]), kind="stable")
    p = p[:, by_size]
    labels = p.argmax(axis=1)
    used, labels = np.unique(labels, return_inverse=True)
    said = [f"CPP's coding rate asks for {counted(len(used), 'cluster')}."] if k is None else []
    return _Found(labels, p.max(axis=1), said)


def _examples(found: _Found, number: int, first: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows of the cluster's surest items, no duplicate among them."""
    members = np.flatnonzero((found.labels == number) & (first == np.arange(len(first))))
    return members[np.argsort(-found.confidence[members], kind="stable")][:EXAMPLES]


def _title(number: int, name: str, size: int) -> str:
    return f"{number}: {name} ({size:,})" if name else f"{number} ({size:,})"


def _texts(run: Path) -> list[str]:
    """The caption of each item, or the text itself, "" where there is none."""
    found: list[str] = []
    for chunk in Items.open(run).chunks(["meta", "thumbnail"]):
        found += [text_of(meta, piece) for meta, piece in zip(chunk["meta"], chunk["thumbnail"], strict=True)]
    return found
