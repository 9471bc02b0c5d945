"""Clusters of an embedding, their number estimated from the data, with how stable they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tacit.errors import expect
from tacit.evaluate import Estimate, ari, mean_interval
from tacit.evaluate._arrays import Array, matrix, normalised

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

GRID = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 23, 26, 30, 35, 40)
"""Numbers of clusters that are tried."""
_DIMENSIONS, _FITTED_ROWS, _PART, _FEW, _REPEATS, _REFITS = 64, 20_000, 1000, 300, 5, 10
_LEAST_SCORE = 0.02
"""Of the best number of clusters; one Gaussian cloud scores under 0.01, handwritten digits 0.1, clear blobs 0.3."""


@dataclass(frozen=True)
class Clusters:
    """What `find_clusters` found.

    Attributes:
        labels: int64 (n,), 0 to n_clusters - 1; cluster 0 is the largest.
        confidence: float32 (n,), 1 - d1 / d2 from the distances to the nearest and the second nearest centre (the
            simplified silhouette): 1 at a centre, 0 on the border between two clusters.
        n_clusters: their number.
        range: the least and the greatest number that the data does not tell from `n_clusters`.
        stability: adjusted Rand index between these clusters and those of ten refits, each with a fresh seed on half of
            the data, mean and 95 % interval over refits: 1 if they come out the same each time, 0 if arbitrary.
        per_cluster_stability: float64 (n_clusters,), the mean Jaccard overlap of each cluster with the most similar one
            of each refit. Hennig's reading: over 0.75 stable, under 0.6 not to be trusted.
        centers: float32 (n_clusters, d), among the vectors scaled to length 1.
    """

    labels: np.ndarray
    confidence: np.ndarray
    n_clusters: int
    range: tuple[int, int]
    stability: Estimate
    per_cluster_stability: np.ndarray
    centers: np.ndarray

    def assign(self, vectors: Array) -> tuple[np.ndarray, np.ndarray]:
        """The label and the confidence of any vectors (m, d): those clustered, or new ones."""
        x = matrix("vectors", vectors, width=self.centers.shape[1]).cpu().float()
        return _assign(normalised(x), torch.from_numpy(self.centers))

    def soft_scores(self, vectors: Array) -> np.ndarray:
        """How much each vector belongs to each cluster: (m, n_clusters), rows sum to 1.

        The memberships of fuzzy c-means with fuzzifier 2, u_k ∝ 1 / d_k² (Bezdek, 1981).
        """
        x = matrix("vectors", vectors, width=self.centers.shape[1]).cpu().float()
        closeness = 1 / torch.cdist(normalised(x), torch.from_numpy(self.centers)).square().clamp(min=1e-12)
        return (closeness / closeness.sum(dim=1, keepdim=True)).numpy()


def find_clusters(vectors: Array, *, n_clusters: int | None = None, seed: int = 0) -> Clusters:
    """k-means on the unit sphere, with the number of clusters that splits the data most repeatably and most clearly.

    For each k of `GRID`, five times over, k-means is fitted to two random parts of the data, and both label a third:

        score(k) = A(k) · (S(k) - S0(k))

    A is the adjusted Rand index between the two labellings (are the clusters there again?), S their mean silhouette
    (are they apart?), and S0 that of one Gaussian cloud with the data's covariance clustered in the same way, since
    k-means cuts any long cloud in two with a fair silhouette. The k with the highest mean score wins. Those whose
    score is not surely lower, by the paired 95 % t interval over the five repeats, are the range. If the best score
    is under 0.02, or not surely above 0, there is one cluster.

    Vectors are scaled to length 1 and projected on their first 64 principal components. k is chosen on at most 3,000
    items a repeat and centres are fitted to at most 20,000, so that only the last assignment grows with n. Fewer
    than 12 items are one cluster.

    Args:
        vectors: (n, d).
        n_clusters: given by the user instead of estimated; at most the number of different vectors.
        seed: of all that is drawn.

    Raises:
        ArgumentError: not (n, d), NaN, or n_clusters out of range.

    Source: agreement on data not fitted to: Tibshirani & Walther, "Cluster validation by prediction strength", 2005.
    Silhouette: Rousseeuw, 1987. Comparison with a cloud without clusters: Tibshirani, Walther & Hastie, "Estimating the
    number of clusters in a data set via the gap statistic", 2001. Stability of one cluster: Hennig, "Cluster-wise
    assessment of cluster stability", 2007.

    >>> rng = np.random.default_rng(0)
    >>> blobs = 3 * np.eye(5)[np.arange(100) % 5] + 0.3 * rng.normal(size=(100, 5))
    >>> found = find_clusters(blobs)
    >>> found.n_clusters, round(found.stability.value, 1), round(ari(np.arange(100) % 5, found.labels), 1)
    (5, 1.0, 1.0)
    """
    unit = normalised(matrix("vectors", vectors).cpu().float())
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(np.sort(rng.permutation(len(unit))[:_FITTED_ROWS]))
    different = len(np.unique(unit[rows].numpy(), axis=0))
    if n_clusters is not None:
        most = different if len(unit) <= _FITTED_ROWS else _FITTED_ROWS
        expect("n_clusters", n_clusters, 1 <= n_clusters <= most, f"from 1 to {most}, the number of different vectors")
    space = _Projection.of(unit[rows])
    x = space.down(unit[rows])
    if n_clusters is not None:
        bounds = (n_clusters, n_clusters)
    else:
        n_clusters, bounds = _choose(x, space.offset, rng) if different >= 4 else (1, (1, 1))
    if n_clusters == 1:
        return _one_cluster(unit, bounds)
    model = _k_means(x, n_clusters, rng, n_init=10)
    by_size = np.argsort(-np.bincount(model.labels_, minlength=n_clusters), kind="stable")
    centers = space.up(model.cluster_centers_[by_size])
    labels, confidence = _assign(unit, centers)
    stability, per_cluster = _stability(x, labels[rows.numpy()], n_clusters, rng)
    return Clusters(labels, confidence, n_clusters, bounds, stability, per_cluster, centers.numpy())


@dataclass(frozen=True)
class _Projection:
    """To the principal components of unit vectors and back: x = (unit - mean) axes."""

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, unit: Tensor) -> _Projection:
        mean = unit.mean(dim=0)
        centred = unit - mean
        axes = torch.linalg.eigh((centred.T @ centred).double()).eigenvectors[:, -_DIMENSIONS:]
        return cls(mean, axes.float())

    @property
    def offset(self) -> np.ndarray:
        """Where the sphere's centre lies, seen from the mean, is minus this; (p,)."""
        return (self.mean @ self.axes).numpy()

    def down(self, unit: Tensor) -> np.ndarray:
        return ((unit - self.mean) @ self.axes).numpy()

    def up(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x) @ self.axes.T + self.mean


def _choose(x: np.ndarray, offset: np.ndarray, rng: np.random.Generator) -> tuple[int, tuple[int, int]]:
    """The best number of clusters, and the range of those that are as good within noise."""
    grid = [k for k in GRID if k <= len(x) // 6]
    if not grid:
        return 1, (1, 1)
    scores = np.array([list(_scores(x, offset, grid, rng)) for _ in range(_REPEATS)])
    best = int(scores.mean(axis=0).argmax())
    as_good = [k for k, score in zip(grid, scores.T, strict=True) if mean_interval(scores[:, best] - score).low <= 0]
    if scores[:, best].mean() < _LEAST_SCORE or mean_interval(scores[:, best]).low <= 0:
        return 1, (1, 1)
    return grid[best], (min(as_good), max(as_good))


def _scores(x: np.ndarray, offset: np.ndarray, grid: list[int], rng: np.random.Generator) -> Iterator[float]:
    """A(k) · (S(k) - S0(k)) for each k, from one draw of parts."""
    x = x[rng.permutation(len(x))[: 3 * _PART]]
    cloud = _cloud(x, offset, rng)
    a, b, held = _parts(len(x), rng)
    apart, cloud_apart = (torch.cdist(part, part).numpy() for part in map(torch.from_numpy, (x[held], cloud[held])))
    for k in grid:
        by_a, by_b = (_k_means(x[part], k, rng, n_init=3).predict(x[held]) for part in (a, b))
        by_cloud = _k_means(cloud[a], k, rng, n_init=3).predict(cloud[held])
        silhouette = (_silhouette(apart, by_a) + _silhouette(apart, by_b)) / 2
        yield float(ari(by_a, by_b)) * (silhouette - _silhouette(cloud_apart, by_cloud))


def _parts(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of two parts to fit on and of one to label: disjoint thirds, or, of few, two thirds each and all of them."""
    if n < _FEW:
        return rng.permutation(n)[: 2 * n // 3], rng.permutation(n)[: 2 * n // 3], np.arange(n)
    a, b, held = np.array_split(np.arange(n), 3)
    return a, b, held


def _cloud(x: np.ndarray, offset: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many draws from one Gaussian with the variances of `x`, principal components, put back on the sphere."""
    points = rng.normal(size=x.shape) * x.std(axis=0) + offset
    outside = 1 - np.square(x + offset).sum(axis=1).mean()  # what the components left out add to the squared length
    length = np.sqrt(np.square(points).sum(axis=1, keepdims=True) + max(outside, 0))
    return (points / length - offset).astype(np.float32)


def _silhouette(apart: np.ndarray, labels: np.ndarray) -> float:
    """Mean over items of (b - a) / max(a, b), from all distances (n, n); 0 for an only item, and for one cluster."""
    names, labels = np.unique(labels, return_inverse=True)
    if len(names) == 1:
        return 0.0
    member = np.eye(len(names), dtype=np.float32)[labels]
    size, to_cluster = member.sum(axis=0), apart @ member
    own = np.arange(len(labels)), labels
    a = to_cluster[own] / np.maximum(size[labels] - 1, 1)
    to_others = to_cluster / size
    to_others[own] = np.inf
    b = to_others.min(axis=1)
    silhouettes = (b - a) / np.maximum(np.maximum(a, b), 1e-12)
    return float(np.where(size[labels] > 1, silhouettes, 0).mean())


def _k_means(x: np.ndarray, k: int, rng: np.random.Generator, n_init: int) -> KMeans:
    import warnings

    from sklearn.cluster import KMeans

    model = KMeans(k, n_init=n_init, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():  # fewer distinct points than clusters leaves some empty
        warnings.simplefilter("ignore")
        return model.fit(x)


def _stability(
    x: np.ndarray, labels: np.ndarray, n_clusters: int, rng: np.random.Generator
) -> tuple[Estimate, np.ndarray]:
    """Agreement of the clusters with those of refits on random halves of the rows, overall and one by one."""
    agreement, overlap = [], []
    for _ in range(_REFITS):
        half = x[rng.permutation(len(x))[: max(n_clusters, len(x) // 2)]]
        again = _k_means(half, n_clusters, rng, n_init=3).predict(x)
        agreement.append(float(ari(labels, again)))
        overlap.append(best_overlaps(labels, again, n_clusters))
    mean = mean_interval(agreement)
    return Estimate(mean.value, max(-1.0, mean.low), min(1.0, mean.high), _REFITS), np.mean(overlap, axis=0)


def best_overlaps(labels: np.ndarray, again: np.ndarray, n_clusters: int) -> np.ndarray:
    """max_D |C and D| / |C or D| of each cluster C of `labels` over the clusters D of `again`; (n_clusters,)."""
    both = np.bincount(labels * n_clusters + again, minlength=n_clusters**2).reshape(n_clusters, n_clusters)
    either = both.sum(axis=1, keepdims=True) + both.sum(axis=0) - both
    return (both / np.maximum(either, 1)).max(axis=1)


def _assign(unit: Tensor, centers: Tensor, block: int = 65_536) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centre and confidence, block by block."""
    if len(centers) == 1:
        return np.zeros(len(unit), dtype=np.int64), np.ones(len(unit), dtype=np.float32)
    labels, confidence = [], []
    for part in unit.split(block):
        distances, nearest = torch.cdist(part, centers).topk(2, dim=1, largest=False)
        labels.append(nearest[:, 0])
        confidence.append(1 - distances[:, 0] / distances[:, 1].clamp(min=1e-12))
    return torch.cat(labels).numpy(), torch.cat(confidence).numpy()


def _one_cluster(unit: Tensor, bounds: tuple[int, int]) -> Clusters:
    center = unit.mean(dim=0, keepdim=True)
    labels, confidence = _assign(unit, center)
    return Clusters(labels, confidence, 1, bounds, Estimate(1.0, 1.0, 1.0, _REFITS), np.ones(1), center.numpy())
