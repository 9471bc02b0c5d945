"""A two-dimensional map of an embedding: t-SNE with its repulsion computed on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tacit.errors import MissingExtra, expect, unknown
from tacit.evaluate import approximate_neighbours
from tacit.evaluate._arrays import Array, matrix, normalised

Progress = Callable[[int, int], None]
"""`progress(done, total)`, called after each step."""

STEPS = 500
_FEWEST = 8
"""Points from which there are neighbourhoods to keep."""
_FEW = 512
"""Points up to which all pairs repel each other one by one."""
_CRUSHED = 1e-7
"""Deviation of the map, which starts at 1e-4, at which early exaggeration ends."""


def neighbour_map(
    vectors: Array,
    *,
    n_neighbors: int = 15,
    seed: int = 0,
    max_steps: int | None = None,
    metric: str = "cosine",
    method: str = "tsne",
    progress: Progress | None = None,
) -> np.ndarray:
    """A point in the plane for each vector, near ones near.

    t-SNE: gradient descent on KL(p || q) with q_ij ∝ 1 / (1 + |y_i - y_j|²). p is uniform over the nearest neighbours
    of each item and made symmetric, which serves as well as weights by distance. It starts from the principal
    components, so that the map's large shape is the data's. The result is the same for the same seed and number of
    threads.

    Args:
        vectors: (n, d), n >= 1. Under eight rows the map is of the first two principal components.
        n_neighbors: how many neighbours of each item pull at it; at most a third of the others are used.
        seed: of the little noise that parts equal vectors, and of the search for neighbours above 20,000 items.
        max_steps: of the descent, 500 if not given, the first fifth of them with early exaggeration.
        metric: `"cosine"`, as search and duplicates use, or `"euclidean"`.
        method: `"tsne"`, or `"umap"`, which needs umap-learn.
        progress: told (steps done, steps in all) after each.

    Returns:
        (n, 2) float32, the mean at 0.

    Raises:
        ArgumentError: not (n, d), NaN, unknown method or metric, counts under 1.
        MissingExtra: `method="umap"` without umap-learn.

    Source: van der Maaten & Hinton, JMLR 2008. Uniform p: Böhm, Berens & Kobak, JMLR 2022. Start: Kobak & Linderman,
    Nature Biotechnology 2021. Step sizes: Belkina et al., Nature Communications 2019. Repulsion on a grid, by Fourier
    transforms: Linderman et al. (FIt-SNE), Nature Methods 2019.

    >>> x = torch.randn(90, 9, generator=torch.Generator().manual_seed(0)) + 9 * torch.eye(9).repeat(10, 1)
    >>> y = torch.from_numpy(neighbour_map(x))
    >>> nearest = (torch.cdist(y, y) + 1e9 * torch.eye(90)).argmin(dim=1)
    >>> bool((nearest % 9 == torch.arange(90) % 9).float().mean() > 0.95)
    True
    """
    x = matrix("vectors", vectors).cpu().float()
    expect("n_neighbors", n_neighbors, n_neighbors >= 1, "at least 1")
    expect("max_steps", max_steps, max_steps is None or max_steps >= 1, "at least 1, or None for the default")
    if metric not in ("cosine", "euclidean"):
        raise unknown("metric", metric, ("cosine", "euclidean"))
    if method not in ("tsne", "umap"):
        raise unknown("method", method, ("tsne", "umap"))
    generator = torch.Generator().manual_seed(seed)
    x = normalised(x) if metric == "cosine" else x - x.mean(dim=0)
    if len(x) < _FEWEST:
        return _centred(_principal_components(x, generator))
    n_neighbors = min(n_neighbors, (len(x) - 1) // 3)
    if method == "umap":
        return _umap(x, n_neighbors, seed)
    pairs, p = _affinities(approximate_neighbours(x, n_neighbors, metric="euclidean", seed=seed)[1])
    start = _principal_components(x, generator)
    start = 1e-4 * start / start[:, 0].std().clamp(min=1e-12) + 1e-6 * torch.randn(len(x), 2, generator=generator)
    return _centred(_descend(start, pairs, p, STEPS if max_steps is None else max_steps, progress))


def _affinities(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs i < j where one is a neighbour of the other, (2, m), and p_ij = (p_j|i + p_i|j) / 2n of each, (m,)."""
    n, k = rows.shape
    i, j = torch.arange(n).repeat_interleave(k), rows.flatten()
    key, count = (torch.minimum(i, j) * n + torch.maximum(i, j)).unique(return_counts=True)
    return torch.stack([key // n, key % n]), count / (2 * n * k)


def _principal_components(x: Tensor, generator: torch.Generator) -> Tensor:
    """The first two of centred rows, (n, 2), by subspace iteration; 0 where there are fewer."""
    x = x - x.mean(dim=0)
    basis = torch.randn(x.shape[1], min(8, *x.shape), generator=generator)
    for _ in range(10):
        basis = torch.linalg.qr(x.T @ (x @ basis)).Q
    _, _, axes = torch.linalg.svd(x @ basis, full_matrices=False)
    y = x @ (basis @ axes[:2].T)
    largest = y.gather(0, y.abs().argmax(dim=0, keepdim=True))
    return torch.nn.functional.pad(torch.where(largest < 0, -y, y), (0, 2 - y.shape[1]))


def _descend(y: Tensor, pairs: Tensor, p: Tensor, steps: int, progress: Progress | None) -> Tensor:
    """Gradient descent with momentum on KL(p || q); in the first fifth p is twelvefold (early exaggeration).

    Exaggeration ends sooner where it crushes the map: few points, or points without clusters, it would draw into one.
    """
    n, pace = len(y), _pace(len(y), pairs, p)
    repulsion = _all_pairs if n <= _FEW else _Mesh().repulsion
    velocity, early = torch.zeros_like(y), True
    for step in range(steps):
        early = early and step < steps // 5 and float(y.std(dim=0).min()) > _CRUSHED
        exaggeration, momentum, rate = (12.0, 0.5, n / 12.0) if early else (1.0, 0.9, 1.5 * n)
        force, normaliser = repulsion(y)
        force /= normaliser
        _add_attraction(force, y, pairs, exaggeration * p)
        velocity = momentum * velocity + rate * pace * force
        y = y + velocity
        if progress is not None:
            progress(step + 1, steps)
    return y


def _pace(n: int, pairs: Tensor, p: Tensor) -> Tensor:
    """Step sizes (n, 1): smaller for a point that many pull at (n sum_j p_ij > 1), which would swing ever wider."""
    i, j = pairs
    pull = n * torch.zeros(n, dtype=p.dtype).index_add_(0, i, p).index_add_(0, j, p)
    return 1 / pull.clamp(min=1)[:, None]


def _add_attraction(force: Tensor, y: Tensor, pairs: Tensor, p: Tensor) -> None:
    """force_i -= sum_j p_ij (y_i - y_j) / (1 + |y_i - y_j|²), in place."""
    i, j = pairs
    apart = y.index_select(0, i) - y.index_select(0, j)
    pull = apart * (p / (1 + apart.square().sum(dim=1)))[:, None]
    force.index_add_(0, j, pull).index_add_(0, i, -pull)


def _all_pairs(y: Tensor) -> tuple[Tensor, float]:
    """sum_j (y_i - y_j) / (1 + |y_i - y_j|²)², (n, 2), and Z = sum_{i != j} 1 / (1 + |y_i - y_j|²)."""
    apart = y[:, None] - y
    q = 1 / (1 + apart.square().sum(dim=2))
    return (apart * q.square()[:, :, None]).sum(dim=1), float(q.sum()) - len(y)


class _Mesh:
    """The same for many points, in time n + nodes log(nodes).

    Each point spreads its charge over 4 x 4 nodes with the weights of cubic interpolation; Fourier transforms convolve
    the grid with the kernels; each point reads the field off the same nodes with the same weights. The grid is padded
    to twice its size, so that nothing wraps around.
    """

    SPACING = 0.5
    """Of nodes, in the map's units (the kernel falls to a half at 1); wider only for a map of over 750 units."""

    def __init__(self) -> None:
        self._size, self._spacing = 0, 0.0

    def repulsion(self, y: Tensor) -> tuple[Tensor, float]:
        """As `_all_pairs`, to a few per cent of the force and a thousandth of Z."""
        low = y.min(dim=0).values
        extent = float((y.max(dim=0).values - low).max())
        self._prepare(extent)
        size, place = self._size, (y - low) / self._spacing + 1
        node = place.floor()
        across, down = (_cubic_weights(u) for u in (place - node).T)
        weights = (across[:, :, None] * down[:, None, :]).flatten(1)
        corner = node.long() @ torch.tensor([size, 1])
        nodes = (corner[:, None] + self._stencil).flatten()
        charge = torch.zeros(size * size).index_add_(0, nodes, weights.flatten()).view(size, size)
        spectrum = torch.fft.rfft2(charge)
        fields = [torch.fft.irfft2(spectrum * kernel, s=(size, size)).flatten() for kernel in self._force_kernels]
        force = [(field.index_select(0, nodes).view_as(weights) * weights).sum(dim=1) for field in fields]
        # Parseval: the sum over points of their potential, without going back; each point's own is 1
        total = (spectrum.abs().square() * self._potential_kernel).sum(dtype=torch.float64) / size**2
        return torch.stack(force, dim=1), float(total) - len(y)

    def _prepare(self, extent: float) -> None:
        """Kernels for a grid that holds `extent`; made anew only where the grid has to grow."""
        from scipy.fft import next_fast_len

        spacing = max(self.SPACING, extent / 1500)
        size = 2 * next_fast_len(32 * math.ceil((extent / spacing + 5) / 32), real=True)
        if size == self._size and spacing == self._spacing:
            return
        self._size, self._spacing = size, spacing
        self._stencil = (size * torch.arange(-1, 3)[:, None] + torch.arange(-1, 3)).flatten()
        offset = spacing * torch.fft.fftfreq(size, 1 / size)
        potential = 1 / (1 + offset[:, None] ** 2 + offset**2)
        twice = torch.full(
            (size // 2 + 1,), 2.0
        )  # rfft2 holds half the spectrum: all columns but 0 and size / 2 stand for two
        twice[0] = 1
        twice[size // 2 :] = 1 if size % 2 == 0 else 2
        self._potential_kernel = torch.fft.rfft2(potential).real * twice
        self._force_kernels = [torch.fft.rfft2(potential**2 * a) for a in (offset[:, None], offset)]


def _cubic_weights(u: Tensor) -> Tensor:
    """Lagrange's weights of the nodes at -1, 0, 1 and 2 for points at u in [0, 1): (n, 4)."""
    a, b, c = u + 1, u - 1, u - 2
    return torch.stack([-u * b * c / 6, a * b * c / 2, -a * u * c / 2, a * u * b / 6], dim=1)


def _umap(x: Tensor, n_neighbors: int, seed: int) -> np.ndarray:
    try:
        import umap
    except ImportError as error:
        raise MissingExtra("umap-learn", "viz", "method='umap'") from error
    return _centred(torch.as_tensor(umap.UMAP(n_neighbors=n_neighbors, random_state=seed).fit_transform(x.numpy())))


def _centred(y: Tensor) -> np.ndarray:
    return (y - y.mean(dim=0)).float().numpy()
