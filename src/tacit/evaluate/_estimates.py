"""Figures with a 95 % interval: Wilson's for shares, Student's for means, the jackknife's for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tacit.errors import expect


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval, and the number of items that it rests on.

    >>> print(Estimate(12.34, 11.91, 12.77, n=1000))
    12.3 (11.9-12.8)
    """

    value: float
    low: float
    high: float
    n: int

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        digits = 1 if abs(self.value) >= 10 else 3
        value, low, high = (f"{x:.{digits}f}" for x in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})" if self.low < 0 else f"{value} ({low}-{high})"


@dataclass(frozen=True)
class Score(Estimate):
    """A share, such as an accuracy, in [0, 1].

    >>> print(Score(0.631, 0.610, 0.652, n=2000))
    63.1 % (61.0-65.2)
    """

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f}-{100 * self.high:.1f})"


def wilson(hits: int, n: int) -> Score:
    """The share `hits / n` with Wilson's 95 % score interval, which stays honest near 0 and 1 and for small n.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.

    >>> print(wilson(0, 20))
    0.0 % (0.0-16.1)
    """
    expect("n", n, n >= 1, "at least one item to score")
    expect("hits", hits, 0 <= hits <= n, f"a count from 0 to {n}")
    z = 1.959963984540054
    share, shrink = hits / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Score(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)), n)


def mean_interval(values: Tensor | np.ndarray | Sequence[float]) -> Estimate:
    """The mean of independent values with Student's 95 % interval; one value alone leaves it open."""
    x = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    mean, n = float(x.mean()), len(x)
    if n < 2:
        return Estimate(mean, -math.inf, math.inf, n)
    half = _student(n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def jackknife(value: float, without: Tensor | np.ndarray | Sequence[float], n: int) -> Estimate:
    """`value` with the delete-a-block jackknife's 95 % interval.

    Args:
        value: the figure from all items.
        without: (g,) the same figure with each of g equal blocks of items left out in turn.
        n: number of items.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, eq. 11.5:
    se² = (g - 1) / g · sum_i (theta_(i) - mean theta)².
    """
    theta = np.asarray(without.cpu() if isinstance(without, Tensor) else without, dtype=np.float64)
    g = len(theta)
    if g < 2:
        return Estimate(value, -math.inf, math.inf, n)
    half = _student(g - 1) * math.sqrt((g - 1) * theta.var())
    return Estimate(value, value - half, value + half, n)


def share(estimate: Estimate, low: float = 0.0) -> Score:
    """The estimate as a Score, its interval cut at `low` and 1."""
    return Score(estimate.value, max(low, estimate.low), min(1.0, estimate.high), estimate.n)


def blocks(n: int, count: int = 10) -> list[np.ndarray]:
    """`count` disjoint random parts of 0 to n - 1 (n where n is smaller), the same on each call."""
    return np.array_split(np.random.default_rng(0).permutation(n), min(count, n))


def _student(degrees: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))
