"""Items that are there twice: exactly, or nearly so."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.errors import ArgumentError, expect
from tacit.evaluate import approximate_neighbours
from tacit.evaluate._arrays import Array, matrix

_NEAREST, _SCALE, _FEWEST, _THUMBNAIL, _CHUNK = 8, 32, 20, 16, 2048


@dataclass(frozen=True)
class DuplicateGroup:
    """Items that show the same.

    Attributes:
        items: item numbers, ascending, at least two.
        similarity: the least cosine similarity among the links that hold the group together; 1 if all are exact.
        exact: whether all items have the same content.
    """

    items: tuple[int, ...]
    similarity: float
    exact: bool


@dataclass(frozen=True)
class _Links:
    """Pairs of different contents, int64 (m, 2), and their cosine similarity, (m,)."""

    pairs: np.ndarray
    similarity: np.ndarray


def near_duplicates(
    vectors: Array,
    images: Any = None,
    hashes: Sequence[str] | np.ndarray | None = None,
    *,
    min_similarity: float | None = None,
    min_agreement: float = 0.95,
    max_group: int = 50,
) -> list[DuplicateGroup]:
    """Groups of items with the same or nearly the same content, the largest first.

    Items with equal hashes are exact duplicates. Two items are near-duplicates if one is among the eight nearest of the
    other, and

    1. their pictures agree: grey thumbnails of 16 x 16, one of them moved by up to half a cell to fit, correlate by at
       least `min_agreement`. A mirrored picture does not, however alike an encoder finds the two;
    2. their vectors stand out as near. Their distance, 1 - cosine, is compared with the distance to the 32nd nearest of
       each, and the greater ratio counts, so that simple pictures which all look alike are not taken for one another.
       It has to lie, on a log scale, four deviations below the median over all items' nearest neighbours, which
       happens to one item in a hundred by chance. The deviation is read off the half above the median, where no
       duplicates are.

    So at most half of the items may have a near-duplicate, and about 30 may be alike; beyond that, they are the rule.
    Under 20 items 1 decides alone. Without images 2 decides alone, at log(10 n) deviations (by
    chance to a tenth of an item in all), and under 20 items none is near. Links join into
    groups, nearest first; one that would make a group of more than `max_group` different contents is left out.

    Args:
        vectors: (n, d) embeddings.
        images: (n, c, h, w), uint8 or float in [0, 1]: an array (memory-mapped or not), a tensor, or a data column.
        hashes: (n,) content hashes, one per item; computed from the images if not given.
        min_similarity: cosine, instead of the estimate in 2.
        min_agreement: correlation of thumbnails in 1, up to 1.
        max_group: different contents in a group at most; exact copies do not count.

    Raises:
        ArgumentError: not (n, d), NaN, images or hashes of another length, settings out of range.

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> found = near_duplicates(np.concatenate([x, x[3:4] + 1e-4, x[5:6]]), hashes=[*range(40), "new", 5])
    >>> [(group.items, group.exact) for group in found]
    [((3, 40), False), ((5, 41), True)]
    """
    x = matrix("vectors", vectors)
    expect("min_agreement", min_agreement, 0 < min_agreement <= 1, "a correlation above 0, up to 1")
    expect("max_group", max_group, max_group >= 2, "at least 2")
    for name, rows in (("images", images), ("hashes", hashes)):
        if rows is not None and len(rows) != len(x):
            raise ArgumentError(f"{name}: expected one row for each of {len(x)} vectors, got {len(rows)}")
    if hashes is not None:
        content, first = _contents(hashes)
    else:
        content, first = _contents(range(len(x)) if images is None else _hashes(images))
    links = _near_links(x[torch.from_numpy(first).to(x.device)], images, first, min_similarity, min_agreement)
    return _groups(content, links, max_group)


def _contents(hashes: Any) -> tuple[np.ndarray, np.ndarray]:
    """The number of each item's content, (n,), counted as they first appear, and the first item of each content."""
    number: dict[Any, int] = {}
    content = np.array([number.setdefault(h, len(number)) for h in hashes])
    return content, np.unique(content, return_index=True)[1]


def _near_links(
    x: Tensor, images: Any, first: np.ndarray, min_similarity: float | None, min_agreement: float
) -> _Links:
    """Pairs of contents, whose first items are `first`, that count as near-duplicates."""
    if len(x) < 2:
        return _Links(np.empty((0, 2), dtype=np.int64), np.empty(0))
    similarity, rows = (found.cpu() for found in approximate_neighbours(x, min(_SCALE, len(x) - 1)))
    nearest, rows = similarity[:, :_NEAREST], rows[:, :_NEAREST]
    if min_similarity is not None:
        near = nearest >= min_similarity
    elif len(x) < _FEWEST:
        near = torch.full_like(rows, images is not None, dtype=torch.bool)
    else:
        near = _standing_out(similarity, rows, 4 if images is not None else math.log(10 * len(x)))
    if images is not None:
        near &= _agreement(_thumbnails(images, first), rows) >= min_agreement
    i, place = near.nonzero().T
    return _Links(torch.stack([i, rows[i, place]], dim=1).numpy(), nearest[i, place].numpy())


def _standing_out(similarity: Tensor, rows: Tensor, deviations: float) -> Tensor:
    """Which of the neighbours `rows` (n, k) are far nearer than is usual, for both items: bool (n, k).

    In m dimensions the nearest of many random points has a squared distance whose m / 2-th power is exponentially
    distributed, so its log falls t deviations below the median with a chance of about exp(-t); of the upper half, the
    median lies 0.69 (2 / m) above that of all, which 1.4826 makes one deviation.
    """
    distance = (1 - similarity.double()).clamp(min=1e-7)
    scale = distance[:, -1:]
    usual = (distance[:, :1] / scale).log()
    median = usual.median()
    deviation = 1.4826 * (usual[usual >= median] - median).median().clamp(min=0.05)
    ratio = distance[:, : rows.shape[1]] / torch.minimum(scale, scale[rows, 0])
    return ratio.log() < median - deviations * deviation


def _slices(images: Any) -> Iterator[tuple[int, Tensor]]:
    """The images, a chunk at a time: where it starts, and its rows."""
    for start in range(0, len(images), _CHUNK):
        yield start, torch.as_tensor(images[start : start + _CHUNK])


def _hashes(images: Any) -> Iterator[bytes]:
    """A content hash of each picture; pictures in one array have one shape and type."""
    for _, rows in _slices(images):
        for row in rows.contiguous().cpu().numpy():
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _thumbnails(images: Any, items: np.ndarray) -> Tensor:
    """Grey means over 16 x 16 cells of those items (ascending), in [0, 1]: float16 (m, 16, 16), 512 bytes each."""
    found = []
    for start, rows in _slices(images):
        wanted = items[np.searchsorted(items, start) : np.searchsorted(items, start + len(rows))] - start
        rows = rows[torch.from_numpy(wanted)].cpu()
        grey = rows.float().mean(dim=1, keepdim=True) / (1 if rows.is_floating_point() else 255)
        found.append(F.interpolate(grey, size=(_THUMBNAIL, _THUMBNAIL), mode="area")[:, 0].half())
    return torch.cat(found)


def _agreement(thumbnails: Tensor, rows: Tensor) -> Tensor:
    """Correlation of each thumbnail with those of `rows` (n, k), the best over moves by half a cell: (n, k)."""
    found = []
    for start in range(0, len(rows), _CHUNK):
        others = rows[start : start + _CHUNK]
        mine = thumbnails[start : start + _CHUNK].float()
        theirs = _standard(thumbnails[others.flatten()].float()).view(*others.shape, -1)
        moved = (_standard(_half_moved(mine, *move)) for move in itertools.product((-1, 0, 1), repeat=2))
        found.append(torch.stack([(theirs @ view[:, :, None])[:, :, 0] for view in moved]).amax(dim=0))
    return torch.cat(found)


def _half_moved(thumbnails: Tensor, down: int, across: int) -> Tensor:
    """Moved by half a cell in each direction that is not 0; the outermost cells are of no use afterwards."""
    down_moved = (thumbnails + thumbnails.roll(down, dims=1)) / 2
    return (down_moved + down_moved.roll(across, dims=2)) / 2


def _standard(thumbnails: Tensor, noise: float = 0.01) -> Tensor:
    """Inner cells as unit vectors whose dot product is their correlation, (m, 197).

    A last coordinate adds `noise`² to each variance and covariance, so that two blank pictures agree and a blank one
    agrees with no other.
    """
    inner = thumbnails[:, 1:-1, 1:-1].flatten(1)
    inner = inner - inner.mean(dim=1, keepdim=True)
    floor = torch.full((len(inner), 1), noise * inner.shape[1] ** 0.5)
    return F.normalize(torch.cat([inner, floor], dim=1), dim=1)


def _groups(content: np.ndarray, links: _Links, max_group: int) -> list[DuplicateGroup]:
    """Union-find over the links, nearest first."""
    parent = np.arange(content.max() + 1)
    size, weakest = np.ones(len(parent), dtype=np.int64), np.ones(len(parent))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for link in np.argsort(-links.similarity, kind="stable"):
        a, b = sorted(root(node) for node in links.pairs[link])
        if a != b and size[a] + size[b] <= max_group:
            parent[b] = a
            size[a] += size[b]
            weakest[a] = min(weakest[a], weakest[b], links.similarity[link])
    top = np.array([root(node) for node in range(len(parent))])[content]
    order = np.argsort(top, kind="stable")
    starts = np.flatnonzero(np.diff(top[order], prepend=-1))
    members = [items for items in np.split(order, starts[1:]) if len(items) > 1]
    groups = [
        DuplicateGroup(tuple(items.tolist()), float(weakest[top[items[0]]]), bool(size[top[items[0]]] == 1))
        for items in members
    ]
    return sorted(groups, key=lambda group: (-len(group.items), group.items))
