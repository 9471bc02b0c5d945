"""Approximating K-means-type Clustering via Semidefinite Programming (Peng & Wei, 2007)."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from tacit.catalogue import system
from tacit.claims import checked
from tacit.cluster._sdp import Solution, solve_peng_wei
from tacit.errors import expect

Array = np.ndarray


@system("sdp-kmeans", paper="doi:10.1137/050641983", modality=("features", "table"), level="baseline")
class SDPKMeans(ClusterMixin, BaseEstimator):
    """k-means by its semidefinite relaxation, with a certificate of how far its answer is from the best partition.

        minimise <D, Z> / 2   over   Z PSD,  Z >= 0,  Z 1 = 1,  tr Z = k,     D_ij = |x_i - x_j|^2       (eq. 13)

    The matrix of a partition, Z_ij = 1 / n_k where i and j are in group k and 0 elsewhere, is feasible, and its
    objective is the partition's inertia. So the optimum is at most that of any partition, and where it is a partition
    it is the best one. ADMM starts at k-means' partition; the optimum does not hang on it. Labels: k-means of the
    leading eigenvectors of Z, which is exact if Z is a partition.

    It is solved by ADMM until a feasible point and a dual bound meet. An iteration costs O(n^2 r) with r eigenvectors
    kept, and about eight n x n matrices of float64 are held. Above `max_samples` rows the program is solved on as many
    drawn at random, and the others go to the nearest centre, in time and memory linear in the rows.

    Args:
        n_clusters: k, at most the number of rows.
        tol: relative duality gap at which to stop.
        max_iter: iterations at most; the gap that is left stands in `gap_`.
        max_samples: rows in the program at most.
        random_state: of the rows that are drawn and of the rounding.

    Attributes:
        labels_: int (n,).
        cluster_centers_: (k, d), means of the groups.
        inertia_: sum of squared distances to the centres, over the rows of the program.
        lower_bound_: no partition of these rows into k groups has less inertia.
        membership_: Z, float64 (m, m), m rows in the program.
        sample_indices_: (m,), which rows these are.
        gap_: relative duality gap that was reached.
        n_iter_: iterations of ADMM.

    Raises:
        ValueError: fewer rows than clusters, or an argument out of range.

    >>> x = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [9.0]])
    >>> model = SDPKMeans(n_clusters=3, tol=1e-5, random_state=0).fit(x)
    >>> [sorted(np.flatnonzero(model.labels_ == k).tolist()) for k in dict.fromkeys(model.labels_)]
    [[0, 1, 2], [3, 4], [5]]
    >>> bool(abs(model.inertia_ - model.lower_bound_) < 0.01)
    True
    """

    settings: ClassVar = {"small": {"max_iter": 100}}

    def __init__(
        self,
        *,
        n_clusters: int = 8,
        tol: float = 1e-3,
        max_iter: int = 500,
        max_samples: int = 2000,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.tol = tol
        self.max_iter = max_iter
        self.max_samples = max_samples
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> SDPKMeans:
        """Solve the program and round it."""
        x = validate_data(self, X, dtype=[np.float64, np.float32])
        check_clusters(self, len(x))
        chance = check_random_state(self.random_state)
        self.sample_indices_ = drawn_rows(len(x), self.max_samples, chance)
        rows = np.asarray(x[self.sample_indices_], np.float64)
        solution = relax(rows, self.n_clusters, self.tol, self.max_iter)
        groups = round_membership(solution.z, self.n_clusters, chance)
        self.membership_, self.gap_, self.n_iter_ = solution.z, solution.gap, solution.n_iter
        self.cluster_centers_ = means(rows, groups, self.n_clusters).astype(x.dtype)
        total = float(np.square(rows - rows.mean(0)).sum())
        self.lower_bound_ = max(total + solution.bound, 0.0)
        self.inertia_ = float(np.square(rows - self.cluster_centers_[groups]).sum())
        self.labels_ = groups if len(rows) == len(x) else self._nearest(x)
        return self

    def predict(self, X: Any) -> Array:
        """The nearest centre's cluster, int (n,)."""
        check_is_fitted(self)
        return self._nearest(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))

    def _nearest(self, x: Array) -> Array:
        return pairwise_distances_argmin(x, self.cluster_centers_)


def check_clusters(estimator: Any, n: int) -> None:
    """That arguments are in range, as scikit-learn does it in `fit`."""
    k = estimator.n_clusters
    expect("n_clusters", k, isinstance(k, int | np.integer) and k >= 1, "a whole number of at least 1")
    expect("tol", estimator.tol, estimator.tol > 0, "a number above 0")
    expect("max_iter", estimator.max_iter, estimator.max_iter >= 1, "at least 1")
    expect("max_samples", estimator.max_samples, estimator.max_samples >= k, "at least n_clusters")
    if n < k:
        raise ValueError(f"n_samples={n} should be >= n_clusters={k}: give more rows or ask for fewer clusters")


def drawn_rows(n: int, most: int, chance: np.random.RandomState) -> Array:
    return np.arange(n) if n <= most else np.sort(chance.choice(n, most, replace=False))


def relax(rows: Array, n_clusters: int, tol: float, max_iter: int) -> Solution:
    """The program of rows (n, d); <D, Z> / 2 is a constant minus <G, Z>, G the Gram matrix of the centred rows."""
    n = len(rows)
    centered = rows - rows.mean(0)
    cost = -centered @ centered.T
    if n_clusters == 1:
        return Solution(np.full((n, n), 1 / n), 0.0, 0.0, 0.0, 0)
    if n_clusters == n:
        return Solution(np.eye(n), float(np.trace(cost)), float(np.trace(cost)), 0.0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        groups = KMeans(n_clusters, n_init=3, random_state=0).fit_predict(rows)
    whole = np.unique(groups).size == n_clusters
    return solve_peng_wei(cost, n_clusters, tol=tol, max_iter=max_iter, groups=groups if whole else None)


def round_membership(z: Array, n_clusters: int, chance: np.random.RandomState) -> Array:
    """k-means of the leading eigenvectors, each times the root of its value: distances are those of rows of Z^(1/2)."""
    from scipy.linalg import eigh

    values, vectors = eigh(z, subset_by_index=[len(z) - n_clusters, len(z) - 1])
    points = vectors * np.sqrt(np.maximum(values, 0))
    return KMeans(n_clusters, n_init=10, random_state=chance).fit_predict(points)


def means(rows: Array, groups: Array, n_clusters: int) -> Array:
    """Mean of each group, (k, d); an empty group gets the mean of all rows."""
    sums, counts = np.zeros((n_clusters, rows.shape[1])), np.bincount(groups, minlength=n_clusters)
    np.add.at(sums, groups, rows)
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], rows.mean(0))


@checked("on four points on a line the relaxation finds the best of all partitions, and proves it", tolerance=1e-3)
def best_of_all_partitions() -> tuple[float, float]:
    """Two groups of {0, 1, 5, 6}: the best has inertia 1, and so has the bound; the larger deviation of the two."""
    model = SDPKMeans(n_clusters=2, tol=1e-5, random_state=0).fit(np.array([[0.0], [1.0], [5.0], [6.0]]))
    return max(abs(model.inertia_ - 1), abs(model.lower_bound_ - 1)), 0.0
