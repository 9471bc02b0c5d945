"""Priors over tasks, from which a prior-data fitted network learns; and the posteriors that it is to reproduce."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor

from tacit.errors import ArgumentError, expect

Range = float | tuple[float, float]
"""A fixed number above 0, or the bounds between which it is log-uniform."""

SIDE = math.sqrt(3)
"""Inputs that are uniform on [-SIDE, SIDE] have mean 0 and variance 1."""


class Prior(Protocol):
    """What tasks are drawn from: `n_features` at most; `n_classes` at most, or 0 for regression."""

    @property
    def n_features(self) -> int: ...
    @property
    def n_classes(self) -> int: ...
    def sample(self, n_tasks: int, n_points: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class GPPrior:
    """Functions of a Gaussian process with the squared-exponential kernel, seen with noise.

        y = f(x) + noise * e,   f ~ GP(0, output_scale^2 exp(-|x - x'|^2 / (2 length_scale^2))),   e ~ N(0, 1)

    x is uniform on the cube [-sqrt 3, sqrt 3]^n_features, whose coordinates have mean 0 and variance 1.

    Args:
        n_features: dimension of x.
        length_scale, noise, output_scale: above 0: a number, or the bounds of a log-uniform hyper-prior.

    >>> prior = GPPrior(n_features=2, length_scale=(0.5, 2.0))
    >>> [tuple(part.shape) for part in prior.sample(3, 10)]
    [(3, 10, 2), (3, 10)]
    """

    n_features: int = 1
    length_scale: Range = 0.5
    noise: Range = 0.1
    output_scale: Range = 1.0
    n_classes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        expect("n_features", self.n_features, self.n_features >= 1, "at least 1")
        for name in ("length_scale", "noise", "output_scale"):
            low, high = _bounds(getattr(self, name))
            expect(name, getattr(self, name), 0 < low <= high < math.inf, "a number above 0, or (low, high)")

    def sample(self, n_tasks: int, n_points: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """x (n_tasks, n_points, n_features) and y (n_tasks, n_points), float32."""
        x = SIDE * (2 * torch.rand(n_tasks, n_points, self.n_features, device=device) - 1)
        length, noise, scale = (
            log_uniform(value, (n_tasks, 1, 1), device).double()
            for value in (self.length_scale, self.noise, self.output_scale)
        )
        covariance = kernel(x.double(), x.double(), length, scale) + noise.square() * torch.eye(n_points, device=device)
        root = torch.linalg.cholesky(covariance + 1e-8 * torch.eye(n_points, device=device))
        y = root @ torch.randn(n_tasks, n_points, 1, dtype=torch.double, device=device)
        return x, y[..., 0].float()

    def posterior(self, x: Tensor, y: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of y (noise included) at the queries, given the context: exact, float64.

            mean = k_q (K + noise^2 I)^-1 y,   variance = k_qq + noise^2 - k_q (K + noise^2 I)^-1 k_q^T

        Args:
            x, y, queries: (..., n, n_features), (..., n), (..., q, n_features).

        Raises:
            ArgumentError: a hyper-parameter is a range, for which there is no closed form: see `mcmc_posterior`.
        """
        fixed = (self.length_scale, self.noise, self.output_scale)
        if any(isinstance(value, tuple) for value in fixed):
            raise ArgumentError(f"{self}: the posterior is exact for fixed numbers only; mcmc_posterior takes ranges")
        length, noise, scale = (torch.tensor(value, dtype=torch.double, device=x.device) for value in fixed)
        x, y, queries = x.double(), y.double(), queries.double()
        covariance = kernel(x, x, length, scale) + noise**2 * torch.eye(x.shape[-2], device=x.device)
        root = torch.linalg.cholesky(covariance)
        half = torch.linalg.solve_triangular(root, kernel(x, queries, length, scale), upper=False)
        mean = half.mT @ torch.linalg.solve_triangular(root, y[..., None], upper=False)
        return mean[..., 0], (scale**2 + noise**2 - half.square().sum(-2)).sqrt()


@dataclass(frozen=True)
class BNNPrior:
    """Classes of a random network: the largest of its outputs, for inputs that are correlated more or less.

        y = argmax over classes of  a standardised output of the network + its offset + noise

    Each batch of tasks draws how many features and classes there are, depth, width and activation of the network; each
    task draws the weights (normal, variance 1 / fan-in times a gain), the share of its features that matters, their
    correlation, the offsets of its classes (which unbalance them) and the noise.

    Args:
        n_features: most features, at least 1.
        n_classes: most classes, at least 2.
        max_layers: most hidden layers.
        max_width: most hidden units.

    >>> x, y = BNNPrior(n_features=5, n_classes=3).sample(4, 20)
    >>> x.shape[:2], bool((y < 3).all())
    (torch.Size([4, 20]), True)
    """

    n_features: int = 10
    n_classes: int = 2
    max_layers: int = 3
    max_width: int = 64

    def __post_init__(self) -> None:
        expect("n_features", self.n_features, self.n_features >= 1, "at least 1")
        expect("n_classes", self.n_classes, self.n_classes >= 2, "at least 2")
        expect("max_layers", self.max_layers, self.max_layers >= 1, "at least 1")
        expect("max_width", self.max_width, self.max_width >= 2, "at least 2")

    def sample(self, n_tasks: int, n_points: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """x (n_tasks, n_points, d) with d <= n_features, standardised; y int64 (n_tasks, n_points)."""
        width = _log_uniform_int(1, self.n_features)
        x = _standardised(self._correlated(n_tasks, n_points, width, device))
        relevant = torch.rand(n_tasks, 1, width, device=device) < log_uniform((0.2, 2.0), (n_tasks, 1, 1), device)
        outputs = self._network(x * relevant, int(torch.randint(2, self.n_classes + 1, ())))
        offsets = 0.5 * torch.randn(n_tasks, 1, outputs.shape[-1], device=device)
        noise = log_uniform((0.01, 0.5), (n_tasks, 1, 1), device)
        outputs = _standardised(outputs) + offsets + noise * torch.randn_like(outputs)
        return x, outputs.argmax(-1)

    def _correlated(self, n_tasks: int, n_points: int, width: int, device: torch.device | str) -> Tensor:
        """Features that share a few factors; their share of the variance is uniform on [0, 1]."""
        n_factors = _log_uniform_int(1, width)
        factors = torch.randn(n_tasks, n_points, n_factors, device=device)
        loadings = torch.randn(n_tasks, n_factors, width, device=device) / math.sqrt(n_factors)
        share = torch.rand(n_tasks, 1, 1, device=device)
        own = torch.randn(n_tasks, n_points, width, device=device)
        return share.sqrt() * (factors @ loadings) + (1 - share).sqrt() * own

    def _network(self, h: Tensor, n_outputs: int) -> Tensor:
        n_layers, width = int(torch.randint(0, self.max_layers + 1, ())), _log_uniform_int(2, self.max_width)
        activation: Callable[[Tensor], Tensor] = (torch.tanh, torch.relu)[int(torch.randint(2, ()))]
        gain = log_uniform((0.5, 4.0), (len(h), 1, 1), h.device)
        for layer in range(n_layers + 1):
            last = layer == n_layers
            shape = (len(h), h.shape[-1], n_outputs if last else width)
            weights = gain * torch.randn(shape, device=h.device) / math.sqrt(h.shape[-1])
            bias = torch.randn(len(h), 1, shape[-1], device=h.device)
            h = h @ weights if last else activation(h @ weights + bias)
        return h


def kernel(a: Tensor, b: Tensor, length_scale: Tensor, output_scale: Tensor) -> Tensor:
    """Squared-exponential kernel: (..., n, d), (..., m, d) -> (..., n, m)."""
    distances = torch.cdist(a / length_scale, b / length_scale, compute_mode="donot_use_mm_for_euclid_dist")
    return output_scale**2 * (-distances.square() / 2).exp()


def mcmc_posterior(
    prior: GPPrior,
    x: np.ndarray,
    y: np.ndarray,
    queries: np.ndarray,
    *,
    n_samples: int = 100,
    warmup: int = 100,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior of a Gaussian process under its hyper-priors: a mixture of Gaussians, one a sample of a Markov chain.

    Slice sampling (Neal, 2003) of the logarithms of the hyper-parameters in turn. Each starts from its whole range, so
    that there is no step to choose, and shrinks it to the current value wherever a proposal is refused.

    Args:
        x, y, queries: (n, d), (n,), (q, d).
        n_samples, warmup: sweeps that are kept, and those before them.

    Returns:
        means and standard deviations of y, (n_samples, q) each.
    """
    bounds = np.log([_bounds(value) for value in (prior.length_scale, prior.noise, prior.output_scale)])
    squared, to_queries = (((x[:, None] - other[None]) ** 2).sum(-1) for other in (x, queries))

    def factor(at: np.ndarray) -> tuple[tuple[np.ndarray, bool], np.ndarray, float]:
        length, noise, scale = np.exp(at)
        covariance = scale**2 * np.exp(-squared / (2 * length**2)) + (noise**2 + 1e-8) * np.eye(len(x))
        root = cho_factor(covariance, lower=True, check_finite=False)
        solved = cho_solve(root, y, check_finite=False)
        return root, solved, -0.5 * float(y @ solved) - float(np.log(np.diag(root[0])).sum())

    at = bounds.mean(1)
    means, deviations = [], []
    for sweep in range(warmup + n_samples):
        for i in range(3):
            low, high = bounds[i]
            level = factor(at)[2] + math.log(rng.random())
            current = at[i]
            while low < high:
                at[i] = rng.uniform(low, high)
                if factor(at)[2] > level:
                    break
                low, high = (at[i], high) if at[i] < current else (low, at[i])
        if sweep >= warmup:
            length, noise, scale = np.exp(at)
            root, solved, _ = factor(at)
            cross = scale**2 * np.exp(-to_queries / (2 * length**2))
            variance = scale**2 + noise**2 - (cross * cho_solve(root, cross, check_finite=False)).sum(0)
            means.append(cross.T @ solved)
            deviations.append(np.sqrt(np.maximum(variance, noise**2)))
    return np.stack(means), np.stack(deviations)


def log_uniform(value: Range, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Log-uniform between the bounds of a range, or the fixed number everywhere."""
    low, high = _bounds(value)
    return low * (high / low) ** torch.rand(shape, device=device)


def _bounds(value: Range) -> tuple[float, float]:
    return value if isinstance(value, tuple) else (value, value)


def _log_uniform_int(low: int, high: int) -> int:
    """A whole number from `low` to `high`, its logarithm about uniform."""
    return min(high, int(log_uniform((low, high + 1), ())))


def _standardised(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the points of each task: (tasks, points, d)."""
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True).clamp(min=1e-6)
