"""How typical each item is of the data."""

from __future__ import annotations

import numpy as np

from tacit.errors import expect
from tacit.evaluate import approximate_neighbours
from tacit.evaluate._arrays import Array, matrix


def typicality(vectors: Array, n_neighbors: int = 10) -> np.ndarray:
    """Mean cosine similarity of each item to its nearest others: high for typical items, low for odd ones.

    Args:
        vectors: (n, d), n >= 1. Up to 20,000 items the neighbours are exact, above that nearly so.
        n_neighbors: how many others are looked at (all, where there are fewer). An odd group of more than that many
            like items does not stand out.

    Returns:
        (n,) float32 in [-1, 1]; 1 for a single item.

    Raises:
        ArgumentError: not (n, d), NaN, or n_neighbors < 1.

    Source: distance to the nearest neighbours as a measure of outlyingness: Ramaswamy, Rastogi & Shim, SIGMOD 2000; on
    features of length 1: Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022.

    >>> scores = typicality(np.array([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0]]), n_neighbors=2)
    >>> [f"{score:.2f}" for score in scores]
    ['1.00', '0.99', '0.99', '0.05']
    """
    x = matrix("vectors", vectors)
    expect("n_neighbors", n_neighbors, n_neighbors >= 1, "at least 1")
    if len(x) == 1:
        return np.ones(1, dtype=np.float32)
    scores, _ = approximate_neighbours(x, min(n_neighbors, len(x) - 1))
    return scores.mean(dim=1).clamp(-1, 1).float().cpu().numpy()


def least_typical(vectors: Array, count: int, n_neighbors: int = 10) -> np.ndarray:
    """Item numbers of the `count` least typical items, the oddest first; equal ones in the order of items.

    >>> least_typical(np.array([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0]]), 1, n_neighbors=2).tolist()
    [3]
    """
    expect("count", count, count >= 1, "at least 1")
    return np.argsort(typicality(vectors, n_neighbors), kind="stable")[:count]
