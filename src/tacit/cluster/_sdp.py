"""Semidefinite programs over membership matrices, by ADMM with a certified duality gap."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

RELAXATION = 1.6
"""Of ADMM's steps (Eckstein & Bertsekas, 1992), in (0, 2)."""
CHECK_EVERY = 20
FULL_SPECTRUM = 250
"""Up to this size, or above a tenth of it in rank, all eigenvalues are computed; else only the leading ones."""


@dataclass(frozen=True)
class Solution:
    """A feasible point and a dual bound.

    Attributes:
        z: the iterate, (n, n) or (k, n, n); its positive semidefinite side, which meets the sums of the rows.
        value: objective of a point that meets every constraint exactly: the optimum is at most this.
        bound: objective of a dual feasible point: the optimum is at least this.
        uninformed: objective of the point that tells no two items apart, which sets the scale.
        n_iter: iterations of ADMM.
    """

    z: Array
    value: float
    bound: float
    uninformed: float
    n_iter: int

    @property
    def gap(self) -> float:
        """(value - bound) / |uninformed - bound|: how far either can be from the optimum; constants in C cancel."""
        return (self.value - self.bound) / max(abs(self.uninformed - self.bound), np.finfo(float).tiny)


class _Bounds:
    """The best feasible value and the best dual bound so far, and the penalty that closes both sides of the gap."""

    def __init__(self, tol: float, uninformed: float) -> None:
        self.value, self.bound, self.tol, self.uninformed = np.inf, -np.inf, tol, uninformed

    def closed(self, value: float, bound: float) -> bool:
        self.value, self.bound = min(self.value, value), max(self.bound, bound)
        return self.value - self.bound <= self.tol * abs(self.uninformed - self.bound)

    @staticmethod
    def rescaling(value: float, iterate: float, bound: float) -> float:
        """Factor of the penalty: what feasibility costs against what the dual still lacks.

        A higher penalty makes the iterate feasible sooner, a lower one the multipliers optimal sooner.
        """
        infeasible, suboptimal = abs(value - iterate), abs(iterate - bound)
        return 1.25 if infeasible > 3 * suboptimal else 0.8 if suboptimal > 3 * infeasible else 1.0


# Peng & Wei -----------------------------------------------------------------------------------------------------------


def solve_peng_wei(cost: Array, n_clusters: int, *, tol: float, max_iter: int, groups: Array | None = None) -> Solution:
    """The k-means relaxation (Peng & Wei, 2007, eq. 13).

        minimise <C, Z>   over   Z >= 0,  Z = J/n + V,  V 1 = 0,  0 <= V <= I,  tr V = k - 1

    which is Z PSD, Z 1 = 1, tr Z = k, Z >= 0: V <= I follows, since Z is doubly stochastic, and makes the steps exact
    sooner. ADMM splits the spectral set (projection: eigenvalues onto a capped simplex) from Z >= 0. For any
    multipliers N >= 0 the minimum of <C - N, Z> over the spectral set is 1'(C - N)1 / n plus the k - 1 least
    eigenvalues of C - N on the complement of 1: the dual bound. A mixture with the interior point
    a I + b J, a = (k - 1) / (n - 1), b = (1 - a) / n, is feasible.

    Args:
        cost: C, symmetric (n, n).
        n_clusters: k, with 1 < k < n.
        tol: relative gap at which to stop.
        max_iter: iterations at most.
        groups: a partition (n,) into k groups, none of them empty. It starts both sides, and where `multipliers` prove
            it optimal it is the answer, after no iteration; otherwise the optimum does not hang on it.
    """
    n, rank = len(cost), n_clusters - 1
    ones = 1 / n
    a = rank / (n - 1)
    b = (1 - a) / n
    interior = a * np.trace(cost) + b * cost.sum()
    penalty = 3 * max(_spectral_radius(cost), np.finfo(float).tiny)
    spectrum, bounds = _Spectrum(), _Bounds(tol, interior)
    y, u = np.full((n, n), ones), np.zeros((n, n))
    if groups is not None:
        y = start = partition_matrix(groups)
        u = -multipliers(cost, groups) / penalty
        if bounds.closed(float((cost * start).sum()), _spectral_bound(cost + penalty * u, rank)):
            return Solution(start, bounds.value, bounds.bound, interior, 0)
    known = bounds.value
    for iteration in range(1, max_iter + 1):
        values, vectors = spectrum.leading(_centered(y - u - cost / penalty), rank)
        z = (vectors * values) @ vectors.T + ones
        moved = RELAXATION * z + (1 - RELAXATION) * y + u
        y, u = np.maximum(moved, 0), np.minimum(moved, 0)
        if iteration % CHECK_EVERY and iteration < max_iter:
            continue
        bound = _spectral_bound(cost + penalty * u, rank)
        iterate, below = float((cost * z).sum()), max(0.0, -float(z.min()))
        share = below / (below + b)
        value = (1 - share) * iterate + share * interior
        if bounds.closed(value, bound):
            break
        factor = bounds.rescaling(value, iterate, bound)
        penalty, u = penalty * factor, u / factor
    if groups is not None and bounds.value == known:  # no better point was found
        z = start
    return Solution(z, bounds.value, bounds.bound, interior, iteration)


def _spectral_bound(reduced: Array, rank: int) -> float:
    """The least <C - N, Z> over the spectral set."""
    return float(reduced.sum() / len(reduced) + _least_eigenvalues(_centered(reduced), rank).sum())


def partition_matrix(groups: Array) -> Array:
    """Z_ij = 1 / n_k where i and j are in group k, and 0 elsewhere."""
    return (groups[:, None] == groups) / np.bincount(groups)[groups]


def multipliers(cost: Array, groups: Array) -> Array:
    """N >= 0 that prove a partition optimal where it stands out, in closed form (after Iguchi et al., 2017).

    S = C - N - (y 1' + 1 y') / 2 - t I must vanish on the groups' indicators. N = 0 within groups then sets y, and
    from it the sums of N's rows in each other group; they grow with t, which is the least that leaves none below 0.
    Each block of N is the product of its sums over their total.
    """
    ones = np.eye(groups.max() + 1)[groups]
    sizes, sums = ones.sum(0), cost @ ones  # (n, k): of C's rows over each group
    own, size = sums[np.arange(len(cost)), groups], sizes[groups]
    totals = own @ ones / sizes  # sum of y over each group, at t = 0
    y = (2 * own - totals[groups]) / size
    rows = sums - (y[:, None] * sizes + totals) / 2
    slopes = (sizes / size[:, None] + 1) / 2
    others = ones == 0
    rows = np.where(others, rows + (-rows / slopes)[others].max() * slopes, 0)
    rows = np.maximum(rows, 0)
    blocks = rows.T @ ones  # (k, k): totals of N's blocks
    shares = rows / np.where(blocks > 0, blocks, 1).T[groups]
    found = rows[:, groups] * shares[:, groups].T
    return (found + found.T) / 2


class _Spectrum:
    """Projection onto 0 <= V <= I, tr V = rank, by as many eigenvectors as it takes, a number that is kept."""

    def __init__(self) -> None:
        self.wanted: int | None = None
        self.first: Array | None = None

    def leading(self, matrix: Array, rank: int) -> tuple[Array, Array]:
        """Eigenvalues above 0 of the projection on the complement of 1, and their eigenvectors."""
        n, wanted = len(matrix), self.wanted
        matrix = matrix - (1 + np.linalg.norm(matrix)) / n  # 1 becomes the last of the eigenvectors
        if n > FULL_SPECTRUM and wanted is not None and wanted < n // 10:
            values, vectors = _leading_pairs(matrix, wanted, self.first)
            kept = _capped_simplex(values, rank)
            if kept[0] == 0:  # so all lesser ones are 0 as well
                return self._remember(kept, vectors)
        values, vectors = np.linalg.eigh(matrix)
        return self._remember(_capped_simplex(values, rank), vectors)

    def _remember(self, kept: Array, vectors: Array) -> tuple[Array, Array]:
        above = kept > 0
        self.wanted = int(1.25 * above.sum()) + 5
        self.first = vectors[:, above].sum(1)
        return kept[above], vectors[:, above]


def _leading_pairs(matrix: Array, count: int, first: Array | None) -> tuple[Array, Array]:
    """By Lanczos, or where values lie so close that it would take long, by reduction to tridiagonal form.

    The tolerance slows ADMM at worst: trace and rows' sums hold for any orthonormal vectors, and the bounds use others.
    """
    from scipy.linalg import eigh
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    n = len(matrix)
    if n > 3 * FULL_SPECTRUM:
        with contextlib.suppress(ArpackNoConvergence):
            return eigsh(matrix, k=count, which="LA", v0=first, tol=1e-6, maxiter=10)
    return eigh(matrix, subset_by_index=[n - count, n - 1])


def _least_eigenvalues(centered: Array, count: int) -> Array:
    """Of a matrix that has 1 as eigenvector of value 0, on the complement of 1: that value is moved out of the way."""
    from scipy.linalg import eigvalsh

    n = len(centered)
    shift = np.abs(centered).sum(1).max() / n
    return eigvalsh(centered + 2 * shift, subset_by_index=[0, count - 1])


def _capped_simplex(values: Array, total: float) -> Array:
    """The nearest point with entries in [0, 1] that sum to `total`: clip(values - m).

    The sum falls with m and is linear between the points where an entry leaves 0 or 1: bisection over these finds the
    two that enclose m, and a line between them m itself.
    """
    turns = np.sort(np.concatenate([values - 1, values]))
    low, high = 0, len(turns) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if np.clip(values - turns[middle], 0, 1).sum() >= total else (low, middle)
    above, below = (np.clip(values - turns[end], 0, 1).sum() for end in (low, high))
    share = (above - total) / (above - below) if above > below else 0.0
    return np.clip(values - (turns[low] + share * (turns[high] - turns[low])), 0, 1)


def _centered(matrix: Array) -> Array:
    """H M H for a symmetric M, with H = I - J/n."""
    means = matrix.mean(0)
    return matrix - means - means[:, None] + means.mean()


def _spectral_radius(matrix: Array) -> float:
    """Roughly, by a few power steps; sets the scale of the penalty only."""
    v = matrix.sum(1) + np.linspace(1, 2, len(matrix)) * np.abs(matrix).max()
    for _ in range(20):
        v = matrix @ (v / max(np.linalg.norm(v), np.finfo(float).tiny))
    return float(np.linalg.norm(v))


# One matrix a group ---------------------------------------------------------------------------------------------------


def solve_grouped(costs: Array, *, tol: float, max_iter: int, start: Array | None = None) -> Solution:
    """One membership matrix a group, each with a cost of its own.

        minimise sum_k <C_k, Z_k>   over   Z_k PSD,  Z_k >= 0,  tr Z_k = 1,  sum_k Z_k 1 = 1

    ADMM splits the rows' sums (an affine projection in closed form), the spectral sets and Z >= 0. For any N_k >= 0
    and y the dual bound is sum y + sum_k lambda_min(C_k - N_k - (y 1' + 1 y') / 2), since the traces are 1.

    Args:
        costs: C_k, (k, n, n), each symmetric; 1 < k < n.
        tol: relative gap at which to stop.
        max_iter: iterations at most.
        start: such as the matrices of a partition, (k, n, n).
    """
    k, n = costs.shape[:2]
    a = (k - 1) / (n - 1)
    b = (1 - a) / n
    inside = np.broadcast_to((a * np.eye(n) + b) / k, costs.shape)  # meets all constraints strictly
    interior = float((costs * inside).sum())
    penalty = 3 * max(float(np.mean([_spectral_radius(cost) for cost in costs])), np.finfo(float).tiny)
    bounds = _Bounds(tol, interior)
    psd = positive = inside if start is None else start
    u = v = np.zeros_like(costs)
    for iteration in range(1, max_iter + 1):
        z, y = _with_row_sums((psd - u + positive - v - costs / penalty) / 2)
        moved = RELAXATION * z + (1 - RELAXATION) * psd + u
        psd = _spectraplex(moved)
        u = moved - psd
        moved = RELAXATION * z + (1 - RELAXATION) * positive + v
        positive, v = np.maximum(moved, 0), np.minimum(moved, 0)
        if iteration % CHECK_EVERY and iteration < max_iter:
            continue
        y = 2 * penalty * y  # the multipliers of the rows' sums
        least = np.linalg.eigvalsh(costs + penalty * v - (y[:, None] + y) / 2)[:, 0]
        bound = float(y.sum() + least.sum())
        z, iterate, value = _feasible(psd, positive, costs, a / k, b / k, interior)
        if bounds.closed(value, bound):
            break
        factor = bounds.rescaling(value, iterate, bound)
        penalty, u, v = penalty * factor, u / factor, v / factor
    return Solution(z, bounds.value, bounds.bound, interior, iteration)


def _with_row_sums(matrices: Array) -> tuple[Array, Array]:
    """The nearest matrices with sum_k Z_k 1 = 1: Z_k = M_k + (y 1' + 1 y') / 2; and y."""
    k, n = matrices.shape[:2]
    missing = 1 - matrices.sum((0, 2))
    y = (2 * missing / k - missing.sum() / (k * n)) / n
    return matrices + (y[:, None] + y) / 2, y


def _spectraplex(matrices: Array) -> Array:
    """The nearest PSD matrices of trace 1: eigenvalues onto the simplex."""
    values, vectors = np.linalg.eigh(matrices)
    descending = values[:, ::-1]
    means = (descending.cumsum(1) - 1) / np.arange(1, values.shape[1] + 1)
    support = (descending > means).sum(1, keepdims=True)
    kept = np.maximum(values - np.take_along_axis(means, support - 1, 1), 0)
    return (vectors * kept[:, None, :]) @ vectors.transpose(0, 2, 1)


def _feasible(
    psd: Array, positive: Array, costs: Array, least_value: float, least_entry: float, interior: float
) -> tuple[Array, float, float]:
    """A point that meets the sums of rows and traces, its objective, and that of its mixture with the interior.

    The mixture meets the cones too: it is feasible.
    """
    z = (psd + positive) / 2
    for _ in range(50):  # alternate the two affine sets, which converges geometrically
        z, _ = _with_row_sums(z)
        z = z + ((1 - np.trace(z, axis1=1, axis2=2)) / z.shape[1])[:, None, None] * np.eye(z.shape[1])
    z, _ = _with_row_sums(z)
    below = max(0.0, -float(z.min()))
    negative = max(0.0, -float(np.linalg.eigvalsh(z)[:, 0].min()))
    share = max(below / (below + least_entry), negative / (negative + least_value))
    iterate = float((costs * z).sum())
    return z, iterate, (1 - share) * iterate + share * interior
