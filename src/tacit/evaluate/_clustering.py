"""How well clusters match classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tacit.evaluate._arrays import Array, labels
from tacit.evaluate._estimates import Estimate, Score, blocks, jackknife, wilson


def clustering_accuracy(y: Array, clusters: Array) -> Score:
    """Share of items in the right cluster under the best one-to-one matching of clusters to classes.

    The matching is chosen on the same items (Hungarian method), so chance is above 1 / classes; surplus clusters count
    as wrong.

    Args:
        y: (n,) classes.
        clusters: (n,) cluster numbers; their names do not matter.

    Returns:
        the share with Wilson's 95 % interval.

    Raises:
        ArgumentError: different lengths, nothing to score, missing labels.

    Source: Kuhn, "The Hungarian method for the assignment problem", 1955; Xie, Girshick & Farhadi, "Unsupervised deep
    embedding for clustering analysis", ICML 2016, eq. 10.

    >>> print(clustering_accuracy(np.array([0, 0, 1, 1]), np.array([5, 5, 5, 2])))
    75.0 % (30.1-95.4)
    """
    from scipy.optimize import linear_sum_assignment

    y, clusters = _pair(y, clusters)
    counts = _contingency(y, clusters)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return wilson(int(counts[rows, columns].sum()), len(y))


def nmi(y: Array, clusters: Array, *, return_interval: bool = False) -> float | Estimate:
    """Normalised mutual information, I(y; c) / mean(H(y), H(c)): 0 to 1, and above 0 by chance for many clusters.

    Args as in `clustering_accuracy`; `return_interval` gives an `Estimate`, its 95 % interval from the jackknife over
    ten blocks of items.

    >>> round(nmi(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])), 6)
    1.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    return _measure(normalized_mutual_info_score, y, clusters, return_interval)


def ami(y: Array, clusters: Array, *, return_interval: bool = False) -> float | Estimate:
    """Mutual information adjusted for chance: 0 for random clusters however many, 1 for perfect ones.

    Args as in `nmi`. Source: Vinh, Epps & Bailey, JMLR 2010.

    >>> round(ami(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])), 6)
    1.0
    """
    from sklearn.metrics import adjusted_mutual_info_score

    return _measure(adjusted_mutual_info_score, y, clusters, return_interval)


def ari(y: Array, clusters: Array, *, return_interval: bool = False) -> float | Estimate:
    """Rand index adjusted for chance: 0 for random clusters, 1 for perfect ones, below 0 where worse than random.

    Args as in `nmi`. Source: Hubert & Arabie, "Comparing partitions", Journal of Classification 1985.

    >>> round(ari(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])), 6)
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    return _measure(adjusted_rand_score, y, clusters, return_interval)


def _measure(score: Callable[..., Any], y: Any, clusters: Any, return_interval: bool) -> float | Estimate:
    y, clusters = _pair(y, clusters)
    value = float(score(y, clusters))
    if not return_interval:
        return value
    without = [float(score(np.delete(y, block), np.delete(clusters, block))) for block in blocks(len(y))]
    return jackknife(value, without, len(y))


def _pair(y: Any, clusters: Any) -> tuple[np.ndarray, np.ndarray]:
    y = labels("y", y, len(y), at_least=1)
    return y, labels("clusters", clusters, len(y))


def _contingency(y: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Counts of items, (classes, clusters)."""
    classes, row = np.unique(y, return_inverse=True)
    names, column = np.unique(clusters, return_inverse=True)
    return np.bincount(row * len(names) + column, minlength=len(classes) * len(names)).reshape(len(classes), len(names))
