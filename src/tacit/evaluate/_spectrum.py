"""How many dimensions an embedding really uses, from its singular values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tacit.evaluate._arrays import Array, matrix
from tacit.evaluate._estimates import Estimate, blocks, jackknife


def effective_rank(x: Array, *, center: bool = False, return_interval: bool = False) -> float | Estimate:
    """exp of the entropy of the singular values' shares: from 1 (all rows on one line) to min(n, d).

        p_k = sigma_k / sum_j sigma_j,    erank(x) = exp(-sum_k p_k log p_k)

    Args:
        x: (n, d) embeddings.
        center: take the mean out first. Without it a collapse to one point is seen as rank 1; with it, what little
            scatter is left would look like full rank.
        return_interval: return an `Estimate`, its 95 % interval from the jackknife over ten blocks of items.

    Raises:
        ArgumentError: not (n, d), or NaN.

    Source: Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, eq. 4.

    >>> round(effective_rank(torch.eye(8)), 6)
    8.0
    """
    return _with_interval(_roy_vetterli, x, center, return_interval)


def rankme(x: Array, *, epsilon: float = 1e-7, return_interval: bool = False) -> float | Estimate:
    """RankMe: the effective rank with the paper's epsilon, on embeddings as they are.

        p_k = sigma_k / sum_j sigma_j + epsilon,    RankMe = exp(-sum_k p_k log p_k)

    Args:
        x: (n, d) embeddings; the paper takes 25,600 of them, and says that it grows with n up to there.
        epsilon: added to each share.
        return_interval: return an `Estimate`, its 95 % interval from the jackknife over ten blocks of items.

    Source: Garrido, Balestriero, Najman & LeCun, "RankMe", ICML 2023, eq. 1.

    >>> round(rankme(torch.eye(8)), 4)
    8.0
    """

    def measure(sigma: Tensor) -> Tensor:
        p = _shares(sigma) + epsilon
        return (-p * p.log()).sum().exp()

    return _with_interval(measure, x, False, return_interval)


def _roy_vetterli(sigma: Tensor) -> Tensor:
    p = _shares(sigma)
    return torch.special.entr(p).sum().exp()


def _shares(sigma: Tensor) -> Tensor:
    """They sum to 1; all zero, a complete collapse, is put on the first one, and so becomes rank 1."""
    first = torch.zeros_like(sigma)
    first[0] = 1
    return torch.where(sigma.sum() > 0, sigma / sigma.sum(), first)


def _with_interval(
    measure: Callable[[Tensor], Tensor], x: Array, center: bool, return_interval: bool
) -> float | Estimate:
    x = matrix("x", x, at_least=2 if return_interval else 1).cpu().double()
    value = float(measure(_singular_values(x, center)))
    if not return_interval:
        return value
    without = []
    for block in blocks(len(x)):
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[torch.from_numpy(block)] = False
        without.append(float(measure(_singular_values(x[kept], center))))
    return jackknife(value, without, len(x))


def _singular_values(x: Tensor, center: bool) -> Tensor:
    """All min(n, d) of them, by way of the smaller Gram matrix, in float64.

    It squares the condition number: values under 1e-8 of the largest are noise, set to 0; none of them would count.
    """
    x = x - x.mean(dim=0) if center else x
    gram = x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T
    squares = torch.linalg.eigvalsh(gram)
    noise = squares[-1] * len(gram) * torch.finfo(gram.dtype).eps
    return torch.where(squares > noise, squares, 0).sqrt()
