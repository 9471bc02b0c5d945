"""Crops of several sizes through one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tacit.errors import expect


def encode_crops(network: Callable[[Tensor], Tensor], crops: Sequence[Tensor]) -> list[Tensor]:
    """Each crop through the network, with one forward pass for all crops of the same shape.

    As SwAV's code does (arXiv:2006.09882): two large and six small crops are two passes. The batch statistics of a
    BatchNorm are then those of all crops of one shape together.

    Args:
        network: (n, c, h, w) -> (n, ...), for any h and w among the crops.
        crops: batches (n, c, h, w), each with its own n, h and w.

    Returns:
        What the network gives for each crop, in the order of `crops`.

    Raises:
        ArgumentError: no crop.

    >>> crops = [torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8)]
    >>> [z.tolist() for z in encode_crops(lambda x: x.mean((1, 2, 3)), crops)]
    [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    """
    expect("crops", len(crops), len(crops) > 0, "at least one crop")
    groups: dict[torch.Size, list[int]] = {}
    for i, crop in enumerate(crops):
        groups.setdefault(crop.shape[1:], []).append(i)
    encoded: dict[int, Tensor] = {}
    for members in groups.values():
        outputs = network(torch.cat([crops[i] for i in members]))
        encoded.update(zip(members, outputs.split([len(crops[i]) for i in members]), strict=True))
    return [encoded[i] for i in range(len(crops))]
