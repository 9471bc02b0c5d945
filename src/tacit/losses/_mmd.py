"""Maximum mean discrepancy: how far apart two samples lie (Gretton et al., 2012), as a loss (Long et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tacit.errors import expect

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths of the kernels that are averaged, in mean squared distances."""


def mmd_loss(
    a: Tensor, b: Tensor, *, factors: Sequence[float] = FACTORS, bandwidth: float | None = None, unbiased: bool = False
) -> Tensor:
    """Squared maximum mean discrepancy of two samples under a mean of Gaussian kernels:

        mean over i, j of k(a_i, a_j)  +  mean over i, j of k(b_i, b_j)  -  2 mean over i, j of k(a_i, b_j),
        k(x, y) = mean over factors f of  exp( -|x - y|^2 / (f h) )

    (JMLR 13, eq. 5). h is the mean squared distance of two different rows of both samples together, taken as a
    constant: the loss would otherwise be made small by pulling everything apart. With `unbiased` the first two means
    leave out i = j (eq. 3): it is then 0 in expectation where both samples are of one distribution, and may be
    negative.

    Args:
        a: (n, d), of one distribution.
        b: (m, d), of the other.
        factors: of the kernels, above 0.
        bandwidth: h, above 0, in place of the mean squared distance.
        unbiased: leave out a row's kernel with itself.

    Returns:
        A scalar in float32 (float64 if a is).

    Raises:
        ArgumentError: other shapes, no rows (one row, if unbiased), no factors or one that is not above 0.

    >>> a = torch.tensor([[0.0], [1.0]])
    >>> round(mmd_loss(a, a).item(), 4), bool(mmd_loss(a, a + 5) > 0.5)
    (0.0, True)
    """
    ok = a.ndim == 2 and b.ndim == 2 and a.shape[1] == b.shape[1]
    expect("a.shape, b.shape", (tuple(a.shape), tuple(b.shape)), ok, "(n, d) and (m, d)")
    least = 2 if unbiased else 1
    expect("rows of a and b", (len(a), len(b)), min(len(a), len(b)) >= least, f"at least {least} each")
    expect("factors", tuple(factors), len(factors) > 0 and min(factors) > 0, "numbers above 0")
    expect("bandwidth", bandwidth, bandwidth is None or bandwidth > 0, "a number above 0, or None")
    with torch.autocast(a.device.type, enabled=False):
        rows = torch.cat([a, b]) if a.dtype == torch.float64 else torch.cat([a.float(), b.float()])
        squared = _squared_distances(rows)
        width = _mean_distance(squared) if bandwidth is None else squared.new_tensor(bandwidth)
        kernel = torch.stack([(-squared / (factor * width)).exp() for factor in factors]).mean(0)
        within, other, between = kernel[: len(a), : len(a)], kernel[len(a) :, len(a) :], kernel[: len(a), len(a) :]
        return _mean(within, unbiased) + _mean(other, unbiased) - 2 * between.mean()


class MMDLoss(nn.Module):
    """`mmd_loss` as a module.

    >>> MMDLoss()(torch.ones(3, 2), torch.ones(4, 2))
    tensor(0.)
    """

    def __init__(self, factors: Sequence[float] = FACTORS, *, unbiased: bool = False) -> None:
        super().__init__()
        self.factors, self.unbiased = tuple(factors), unbiased

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return mmd_loss(a, b, factors=self.factors, unbiased=self.unbiased)


def _squared_distances(rows: Tensor) -> Tensor:
    """(n, d) -> (n, n), whose diagonal is exactly 0. Moved to their mean first, so that little is lost to rounding."""
    rows = rows - rows.detach().mean(0)
    norms = rows.square().sum(1)
    squared = (norms[:, None] + norms - 2 * rows @ rows.T).clamp_min(0)
    return squared * (1 - torch.eye(len(rows), device=rows.device, dtype=rows.dtype))


def _mean_distance(squared: Tensor) -> Tensor:
    """Mean over pairs of different rows, without gradient; 1 where all rows are equal."""
    n = len(squared)
    mean = squared.detach().sum() / (n * (n - 1))
    return torch.where(mean > 0, mean, 1.0)


def _mean(kernel: Tensor, unbiased: bool) -> Tensor:
    """Mean of a square kernel matrix, with or without its diagonal of ones."""
    if not unbiased:
        return kernel.mean()
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))
