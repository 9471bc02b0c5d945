"""KoLeo: spreading vectors apart by the entropy that their nearest neighbours tell (Sablayrolles et al., 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tacit.errors import expect
from tacit.losses._similarity import unit
from tacit.nn import gather, rank


def koleo_loss(z: Tensor, *, everywhere: bool = False, eps: float = 1e-8, block_size: int | None = None) -> Tensor:
    """Minus the mean logarithm of the distance to the nearest other item, on the sphere:

        -1/n sum over i of log( min over j != i of |z_i - z_j| + eps ),    z of length 1

    (arXiv:1806.03198, eq. 2; DINOv2, arXiv:2304.07193, section 4). But for a constant it is the differential entropy,
    with its sign turned, in the estimate of Kozachenko and Leonenko. Its gradient grows as two items come together,
    and is 0 for the choice of the neighbour, which is found without gradient, block by block.

    Args:
        z: (n, d), normalised inside.
        everywhere: look for neighbours among the items of all processes; DINOv2's code looks among its own.
        eps: added to each distance, so that two equal items cost -log eps, and pull no gradient.
        block_size: rows compared at a time; None: as many as have 2^20 similarities, 2^26 on a GPU.

    Returns:
        A scalar in float32 (float64 if z is); at least -log(2 + eps).

    Raises:
        ArgumentError: fewer than 2 items, or another shape than (n, d).

    >>> round(koleo_loss(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item(), 4)  # -log 2
    -0.6931
    """
    expect("z", tuple(z.shape), z.ndim == 2, "shape (n, d)")
    with torch.autocast(z.device.type, enabled=False):
        own = unit(z)
        others = gather(own) if everywhere else own
        expect("z", tuple(z.shape), len(others) > 1, "at least 2 items, or there is no neighbour", "raise batch_size")
        first = rank() * len(own) if everywhere else 0
        nearest = _nearest(own.detach(), others.detach(), first, block_size)
        squared = (own - others[nearest]).square().sum(1)
        # the root's gradient at 0 is infinite; equal items have no direction to part in
        distances = torch.where(squared > 0, squared, 1).sqrt() * (squared > 0)
        return -(distances + eps).log().mean()


class KoLeoLoss(nn.Module):
    """`koleo_loss` as a module.

    >>> KoLeoLoss()(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    tensor(-0.6931)
    """

    def __init__(self, everywhere: bool = False) -> None:
        super().__init__()
        self.everywhere = everywhere

    def forward(self, z: Tensor) -> Tensor:
        return koleo_loss(z, everywhere=self.everywhere)


def _nearest(queries: Tensor, reference: Tensor, first: int, block_size: int | None) -> Tensor:
    """Number of the row of `reference` nearest to each query, which is its row first + i: (n,)."""
    most = 2**20 if queries.device.type == "cpu" else 2**26
    size = max(1, most // len(reference)) if block_size is None else block_size
    found = []
    for start in range(0, len(queries), size):
        similarity = queries[start : start + size] @ reference.T
        own = torch.arange(len(similarity), device=queries.device)
        similarity[own, first + start + own] = -math.inf
        found.append(similarity.argmax(1))
    return torch.cat(found)
