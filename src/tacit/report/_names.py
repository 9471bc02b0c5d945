"""Names of clusters: the words that are typical of their texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORDS = 3
"""In the name of a cluster."""


def name_by_words(labels: NDArray[np.integer], texts: Sequence[str], *, values: bool = False) -> list[str]:
    """A name for each cluster: the words that more of its texts hold than of all others, likeliest first.

    A word's score is share in the cluster x log(share in the cluster / share in all). Words in one text only, and
    English words without content, are not counted; "" where nothing stands out, and where less than half of the items
    have a text.

    Args:
        labels: (n,) from 0 on.
        texts: n, "" where there is none.
        values: the texts are rows of a table, as `name value, name value`: each that is no number counts as a word.

    >>> name_by_words(np.array([0, 0, 1, 1]), ["a red car", "red cars, car", "blue sea", "the sea"])
    ['car, red', 'sea']
    """
    from sklearn.feature_extraction.text import CountVectorizer

    n_clusters = int(labels.max()) + 1
    if 2 * sum(map(bool, texts)) < len(texts):
        return [""] * n_clusters
    kind: dict[str, Any] = (
        {"analyzer": _values} if values else {"stop_words": "english", "token_pattern": r"(?u)\b[^\W\d_]{3,}\b"}
    )
    counter = CountVectorizer(binary=True, min_df=2, **kind)
    try:
        holds = counter.fit_transform(texts)
    except ValueError:  # no word is left
        return [""] * n_clusters
    words = counter.get_feature_names_out()
    overall = np.asarray(holds.mean(axis=0)).ravel()
    names = []
    for number in range(n_clusters):
        share = np.asarray(holds[labels == number].mean(axis=0)).ravel()
        score = share * np.log(np.maximum(share, 1e-12) / overall)
        best = [i for i in np.argsort(-score, kind="stable")[:WORDS] if score[i] > 0]
        names.append(", ".join(words[i] for i in best))
    return names


def _values(row: str) -> list[str]:
    """The values of a row with their names, without numbers, and without the last where it was cut."""
    parts = row.split(", ")[: -1 if row.endswith("...") else None]
    return [part for part in parts if not re.search(r" -?[\d.]+[kMG]?$", part)]
