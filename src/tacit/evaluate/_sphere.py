"""Alignment and uniformity on the unit sphere (Wang & Isola, 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from tacit.errors import expect
from tacit.evaluate._arrays import Array, matrix, normalised
from tacit.evaluate._estimates import Estimate, jackknife, mean_interval


def alignment(a: Array, b: Array, *, alpha: float = 2.0, return_interval: bool = False) -> float | Estimate:
    """Mean distance between the two views of an item, to the power `alpha`; 0 is best, 2 is chance (at alpha = 2).

        mean_i ||a_i - b_i||^alpha,    rows scaled to length 1

    Args:
        a, b: (n, d) embeddings of two views of the same items, row by row.
        alpha: above 0.
        return_interval: return an `Estimate` with Student's 95 % interval over items.

    Raises:
        ArgumentError: shapes that do not match, NaN.

    Source: Wang & Isola, "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere", ICML 2020, section 4.1.

    >>> round(alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])), 6)
    2.0
    """
    a = matrix("a", a)
    b = matrix("b", b, width=a.shape[1], rows=len(a)).to(a)
    expect("alpha", alpha, alpha > 0, "a number above 0")
    powers = (normalised(a) - normalised(b)).norm(dim=1).cpu().double() ** alpha
    return mean_interval(powers) if return_interval else float(powers.mean())


def uniformity(x: Array, *, t: float = 2.0, return_interval: bool = False) -> float | Estimate:
    """Log of the mean Gaussian potential over pairs of items: 0 if all are equal, the lower the more evenly spread.

        log mean_{i < j} exp(-t ||x_i - x_j||²),    rows scaled to length 1

    On the sphere in many dimensions the least is near -2t. Blocked: memory grows with n.

    Args:
        x: (n, d) embeddings, n >= 2.
        t: above 0.
        return_interval: return an `Estimate`, its 95 % interval from the jackknife over items (n >= 3).

    Raises:
        ArgumentError: not (n, d) with two rows, NaN.

    Source: Wang & Isola, ICML 2020, section 4.1.

    >>> round(uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), 6)
    -8.0
    """
    x = matrix("x", x, at_least=3 if return_interval else 2)
    expect("t", t, t > 0, "a number above 0")
    n, potential = len(x), _potentials(normalised(x), t)
    total = potential.sum()
    value = float((total / (n * (n - 1))).log())
    if not return_interval:
        return value
    without = ((total - 2 * potential) / ((n - 1) * (n - 2))).log()  # leaving item i out takes its row and its column
    return jackknife(value, without, n)


def _potentials(x: Tensor, t: float, held: int = 2**24) -> Tensor:
    """sum_{j != i} exp(-t ||x_i - x_j||²) of each unit row, (n,) in float64; about `held` pairs at a time."""
    sums, block = [], max(1, held // len(x))
    for start in range(0, len(x), block):
        cosines = x[start : start + block] @ x.T
        potential = (cosines.sub_(1).clamp_(max=0) * (2 * t)).exp_()
        own = torch.arange(len(potential), device=x.device)
        potential[own, own + start] = 0
        sums.append(potential.sum(dim=1).cpu().double())
    return torch.cat(sums)
