"""Masks of the concepts in one image, and how many there are: from a diffusion model's attention (Hao et al., 2024)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from tacit.errors import DataError, expect

TINY = 1e-12


class Masks(NamedTuple):
    """What `concept_masks` finds.

    Attributes:
        masks: bool (k, side, side), one a concept; they do not overlap.
        features: (k, side * side), the mean attention of each concept's places: distributions.
    """

    masks: Tensor
    features: Tensor


def symmetric_divergences(p: Tensor) -> Tensor:
    """(KL(p_i || p_j) + KL(p_j || p_i)) / 2 of distributions (n, d): (n, n).

    >>> symmetric_divergences(torch.tensor([[0.5, 0.5], [0.25, 0.75]])).round(decimals=4)
    tensor([[0.0000, 0.1373],
            [0.1373, 0.0000]])
    """
    p = p.double().clamp_min(TINY)
    cross = p @ p.log().T
    own = cross.diagonal()
    return ((own[:, None] + own[None] - cross - cross.T) / 2).clamp_min(0).fill_diagonal_(0).float()


def first_neighbour_links(distances: Tensor) -> Tensor:
    """Who is linked to whom, bool (n, n): j is i's first neighbour, or i is j's, or both have the same (FINCH, eq. 1).

    The first of equally near ones is taken.

    >>> points = torch.tensor([0.0, 1.0, 1.5, 9.0, 9.5])
    >>> first_neighbour_links((points[:, None] - points).abs()).int()
    tensor([[0, 1, 1, 0, 0],
            [1, 0, 1, 0, 0],
            [1, 1, 0, 0, 0],
            [0, 0, 0, 0, 1],
            [0, 0, 0, 1, 0]], dtype=torch.int32)
    """
    n = len(distances)
    first = distances.masked_fill(torch.eye(n, dtype=torch.bool, device=distances.device), torch.inf).argmin(1)
    points = F.one_hot(first, n) + torch.eye(n, dtype=torch.int64, device=distances.device)
    return ((points.double() @ points.double().T) > 0).fill_diagonal_(False)


def finch(rows: Tensor) -> list[tuple[Tensor, float]]:
    """Levels of first-neighbour merging of distributions (n, d), from fine to coarse (Sarfraz et al., 2019).

    Each level links its clusters' means by `first_neighbour_links` and takes the connected parts, until one is left.

    Returns:
        For each level the cluster of each row, int64 (n,), and the largest distance of a link that made it.
    """
    levels, labels, means = [], torch.arange(len(rows), device=rows.device), rows
    while len(means) > 1:
        distances = symmetric_divergences(means)
        links = first_neighbour_links(distances)
        labels = _components(links)[labels]
        levels.append((labels, float(distances[links].max())))
        means = _means(rows, labels)
    return levels


def concept_masks(rows: Tensor, salience: Tensor, *, at_least: int = 10) -> Masks:
    """Concepts from self-attention: two rounds of merging, with all that is not salient left out in between.

    1. Levels of `finch` on the rows; the coarsest with `at_least` clusters is kept, and the largest distance of its
       links as a limit. Where that is the first level there is none, as in the authors' code.
    2. Clusters whose mean salience is not above the image's are dropped.
    3. The others merge as before, but only over links within the limit, and only where they touch, until none does.

    Args:
        rows: (places, places), where each place of a square grid looks; each a distribution.
        salience: (places,), at least 0, higher where something is.

    Raises:
        ArgumentError: no square grid, or a salience of another length.
        DataError: nothing is salient.

    >>> looks = torch.eye(4).kron(torch.ones(4, 4)) / 4  # four strips of a 4 x 4 grid, each looking at itself
    >>> found = concept_masks(looks + 1e-3, torch.tensor([1.0, 0, 0, 1]).repeat_interleave(4), at_least=4)
    >>> found.masks.int().sum((1, 2)), bool(found.masks[0, 0].all())
    (tensor([4, 4]), True)
    """
    side = round(len(rows) ** 0.5)
    expect("rows", tuple(rows.shape), rows.shape == (side**2, side**2) and side >= 1, "attention of a square grid")
    expect("salience", tuple(salience.shape), salience.shape == (len(rows),), f"one for each of {len(rows)} places")
    rows = rows / rows.sum(1, keepdim=True)
    labels, limit = _level(rows, at_least)
    members = F.one_hot(labels).T.bool()
    chosen = (members * salience).sum(1) / members.sum(1) > salience.mean()
    if not chosen.any():
        raise DataError("salience: nothing stands out, it is the same everywhere: there is no concept to be found")
    masks = members[chosen].view(-1, side, side)
    return _merge(rows, masks, limit)


def _level(rows: Tensor, at_least: int) -> tuple[Tensor, float]:
    """The coarsest level with so many clusters, else the finest; a grid of one place is its own."""
    levels = finch(rows)
    if not levels:
        return torch.zeros(len(rows), dtype=torch.int64, device=rows.device), 0.0
    enough = [level for level in levels if int(level[0].max()) + 1 >= at_least]
    return enough[-1] if len(enough) > 1 else (levels[0][0], torch.inf)


def _merge(rows: Tensor, masks: Tensor, limit: float) -> Masks:
    while True:
        features = torch.stack([rows[mask.flatten()].mean(0) for mask in masks])
        if len(masks) == 1:
            return Masks(masks, features)
        distances = symmetric_divergences(features)
        links = first_neighbour_links(distances) & (distances <= limit) & _touching(masks)
        labels = _components(links)
        if int(labels.max()) + 1 == len(masks):
            return Masks(masks, features)
        masks = torch.stack([masks[labels == label].any(0) for label in range(int(labels.max()) + 1)])


def _touching(masks: Tensor) -> Tensor:
    """Whether a place of one has one of the other above, below, left or right of it: bool (k, k)."""
    x = F.pad(masks.float(), (1, 1, 1, 1))
    around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    touch = (around > 0).flatten(1).double() @ masks.flatten(1).double().T > 0
    return touch | touch.T


def _means(rows: Tensor, labels: Tensor) -> Tensor:
    members = F.one_hot(labels).T.to(rows.dtype)
    return members @ rows / members.sum(1, keepdim=True)


def _components(links: Tensor) -> Tensor:
    _, labels = connected_components(links.cpu().numpy(), directed=False)
    return torch.from_numpy(labels).long().to(links.device)
