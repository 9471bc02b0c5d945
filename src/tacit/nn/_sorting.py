"""Sorting networks with soft swaps (Petersen et al., 2021 and 2022)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from tacit.errors import expect, unknown

NETWORKS = ("odd-even", "bitonic")
RELAXATIONS = ("cauchy", "logistic")

Layer = tuple[Tensor, Tensor]
"""Of each place in a row: int64 (k,) the place it is compared with (itself if none), (k, 1) 1 if the smaller of the two
comes here and -1 if the larger does. The pairs of a layer are disjoint."""


def relaxed_sort(
    x: Tensor, *, steepness: float = 10.0, relaxation: str = "cauchy", network: str = "odd-even"
) -> tuple[Tensor, Tensor]:
    """Sort each row upwards by a sorting network whose comparisons are soft, and so differentiable.

        a, b  ->  a f(b - a) + b f(a - b),   a f(a - b) + b f(b - a)           (soft minimum, soft maximum)

        f(d) = 1/2 + arctan(steepness d) / pi        cauchy      arXiv:2203.09630; the soft minimum rises with a and b
        f(d) = 1 / (1 + exp(-steepness d))           logistic    arXiv:2105.04019

    Each layer of the network is a symmetric, doubly stochastic matrix, hence so is (without the symmetry) their product
    P; the values are P x, and with growing steepness P goes to the permutation of `torch.sort`. Ties are split evenly.
    Rows and the disjoint pairs of a layer are one operation; time and memory grow with n k^2 per layer.

    Args:
        x: (n, k), one list a row. Half precision is raised to float32, and float64 stays.
        steepness: of the swaps, above 0, in units of 1 / x.
        relaxation: `"cauchy"` or `"logistic"`.
        network: `"odd-even"`, k layers of neighbours, or `"bitonic"`, about log2(k)^2 / 2 layers.

    Returns:
        The values (n, k), upwards, and P (n, k, k): row s, column i is the share of item i in place s.

    Raises:
        ArgumentError: an unknown name, a wrong shape, or steepness not above 0.

    >>> values, p = relaxed_sort(torch.tensor([[3.0, 1.0, 2.0]]), steepness=1e6)
    >>> values.round(), p[0].round()
    (tensor([[1., 2., 3.]]), tensor([[0., 1., 0.],
            [0., 0., 1.],
            [1., 0., 0.]]))
    """
    values, swaps = _soft_swaps(x, steepness, relaxation, network)
    n, k = x.shape
    permutation = torch.eye(k, dtype=values.dtype, device=x.device)[:, :, None].expand(k, k, n)
    for partner, swapped in swaps:
        permutation = permutation + swapped[:, None] * (permutation.index_select(0, partner) - permutation)
    return values.T, permutation.permute(2, 0, 1)


def relaxed_top_k(
    x: Tensor, k: int, *, steepness: float = 10.0, relaxation: str = "cauchy", network: str = "odd-even"
) -> Tensor:
    """The share of each item that `relaxed_sort` puts among the k largest: the sum of the last k rows of P.

    It goes through the network backwards with one vector a row, which is cheaper than P by about the row's length.

    Args:
        x: (n, m), one list a row.
        k: how many places count, from 1 to m.
        steepness, relaxation, network: as in `relaxed_sort`.

    Returns:
        (n, m) in [0, 1]; each row sums to k.

    >>> relaxed_top_k(torch.tensor([[3.0, 1.0, 2.0]]), 2, steepness=1e6).round()
    tensor([[1., 0., 1.]])
    """
    values, swaps = _soft_swaps(x, steepness, relaxation, network)
    expect("k", k, 1 <= k <= len(values), f"a number of places, from 1 to {len(values)}")
    share = torch.zeros_like(values)
    share[-k:] = 1
    for partner, swapped in reversed(swaps):  # P^T = L_1 ... L_T, since every layer is symmetric
        share = share + swapped * (share.index_select(0, partner) - share)
    return share.T


def _soft_swaps(x: Tensor, steepness: float, relaxation: str, network: str) -> tuple[Tensor, list[Layer]]:
    """The sorted values (k, n); and of each layer the partners (k,), and the share (k, n) that they exchange.

    Places come first, so that the two sides of all comparisons are whole rows of memory.
    """
    expect("x", tuple(x.shape), x.ndim == 2 and x.shape[1] > 0, "shape (n, k)")
    expect("steepness", steepness, steepness > 0, "a number above 0")
    if relaxation not in RELAXATIONS:
        raise unknown("relaxation", relaxation, RELAXATIONS)
    if network not in NETWORKS:
        raise unknown("network", network, NETWORKS)
    values = x.to(torch.promote_types(x.dtype, torch.float32)).T.contiguous()
    swaps = []
    for partner, side in _layers(len(values), network, x.device):
        gap = values.index_select(0, partner) - values
        swapped = _step(-steepness * side.to(values.dtype) * gap, relaxation)
        values = values + swapped * gap
        swaps.append((partner, swapped))
    return values, swaps


def _step(d: Tensor, relaxation: str) -> Tensor:
    """f with steepness 1: from 0 to 1, and 1/2 at 0."""
    return torch.sigmoid(d) if relaxation == "logistic" else torch.atan(d) / math.pi + 0.5


@lru_cache(maxsize=64)
def _layers(size: int, network: str, device: torch.device) -> list[Layer]:
    partners = _odd_even(size) if network == "odd-even" else _bitonic(size)
    with torch.inference_mode(False):  # kept for all later calls, which may want a gradient
        found = [torch.tensor(partner, device=device) for partner in partners]
        place = torch.arange(size, device=device)
        return [(partner, torch.where(place <= partner, 1.0, -1.0)[:, None]) for partner in found]


def _odd_even(size: int) -> list[list[int]]:
    """Partners of each place in each layer: neighbours, beginning with the first and with the second in turns."""
    layers = []
    for number in range(size):
        layer = [place + 1 if (place - number) % 2 == 0 else place - 1 for place in range(size)]
        layers.append([partner if 0 <= partner < size else place for place, partner in enumerate(layer)])
    return layers


def _bitonic(size: int) -> list[list[int]]:
    """Partners in the form in which the smaller always goes to the lower place.

    Where size is no power of two, places beyond it would hold infinity, which never moves: they are left out.
    """
    layers, block = [], 2
    while block < 2 * size:
        flips = [block - 1, *(block >> shift for shift in range(2, block.bit_length()))]
        for flip in flips:
            layers.append([place ^ flip if place ^ flip < size else place for place in range(size)])
        block *= 2
    return layers
