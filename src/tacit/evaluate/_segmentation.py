"""Scores of masks of one object: IoU, CorLoc of the box around it, average precision over pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.errors import ArgumentError, expect
from tacit.evaluate._estimates import Score, wilson


def mask_iou(y: Any, predictions: Any, *, threshold: float = 0.5) -> Tensor:
    """Intersection over union of the object in each image: float (n,) in [0, 1]; 1 where both are empty.

    Args:
        y: masks (n, h, w), bool or 0 and 1.
        predictions: masks (n, h, w) or (n, 1, h, w), bool, 0 and 1, or scores that say object above `threshold`.
        threshold: of scores.

    Raises:
        ArgumentError: shapes that do not match, NaN.

    >>> mask_iou([[[1, 1], [0, 0]]], [[[0.9, 0.1], [0.7, 0.2]]])
    tensor([0.3333])
    """
    y, predicted = _pair(y, predictions, threshold)
    both, either = (y & predicted).sum((1, 2)), (y | predicted).sum((1, 2))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def corloc(y: Any, predictions: Any, *, threshold: float = 0.5, overlap: float = 0.5) -> Score:
    """Correct localisation: the share of images in which the box around the object is found.

    The box predicted is that around the largest connected region (8 neighbours) above the threshold; it is correct if
    its IoU with the box around all of y exceeds `overlap`.

    Args:
        y: masks (n, h, w), bool or 0 and 1; images without an object are left out.
        predictions, threshold: as in `mask_iou`.
        overlap: IoU of boxes to be exceeded.

    Raises:
        ArgumentError: as `mask_iou`; or no image with an object.

    Source: Deselaers, Alexe & Ferrari, "Weakly supervised localization and learning with generic knowledge", 2012.

    >>> y = np.zeros((1, 8, 8)); y[0, 2:6, 2:6] = 1
    >>> print(corloc(y, y).value)
    1.0
    """
    y, predicted = _pair(y, predictions, threshold)
    there = y.flatten(1).any(1)
    expect("y", "no object", bool(there.any()), "an object in at least one mask")
    right = box_iou(mask_boxes(y[there]), mask_boxes(largest_regions(predicted[there]))) > overlap
    return wilson(int(right.sum()), len(right))


def mask_average_precision(y: Any, scores: Any) -> Tensor:
    """Average precision of each image's pixels, ranked by score: float (n,) in [0, 1]; NaN where there is no object.

        AP = sum over thresholds of (recall - recall before) * precision,       pixels of equal score counted together

    Args:
        y: masks (n, h, w), bool or 0 and 1.
        scores: (n, h, w) or (n, 1, h, w), higher where the object is.

    Raises:
        ArgumentError: shapes that do not match, NaN.

    >>> mask_average_precision([[[1, 0], [1, 0]]], [[[0.9, 0.8], [0.7, 0.1]]])  # (1 + 2/3) / 2
    tensor([0.8333])
    """
    y, scores = _masks("y", y), _scores("scores", scores)
    _same_shape(y, scores)
    order = scores.flatten(1).argsort(dim=1, descending=True)
    ranked, hits = scores.flatten(1).gather(1, order), y.flatten(1).gather(1, order).double()
    found, seen = hits.cumsum(1), torch.arange(1, hits.shape[1] + 1)
    # of pixels with one score, only after the last of them is there a threshold
    ends = torch.cat([ranked[:, 1:] < ranked[:, :-1], torch.ones(len(ranked), 1, dtype=torch.bool)], 1)
    at_ends = torch.where(ends, found, 0.0).cummax(1).values
    gained = at_ends - torch.cat([torch.zeros(len(found), 1, dtype=found.dtype), at_ends[:, :-1]], 1)
    return ((gained * found / seen).sum(1) / hits.sum(1)).float()  # gained is 0 but at ends


def mask_boxes(masks: Any) -> Tensor:
    """The box around each mask, int64 (n, 4): left, top, right and bottom, the last two exclusive; 0 where it is empty.

    >>> mask_boxes([[[0, 0, 0], [0, 1, 1]]])
    tensor([[1, 1, 3, 2]])
    """
    masks = _masks("masks", masks)
    limits = []
    for along in (masks.any(1), masks.any(2)):  # columns, rows
        length = along.shape[1]
        first, last = along.int().argmax(1), length - along.flip(1).int().argmax(1)
        limits.append((first, last))
    (left, right), (top, bottom) = limits
    return torch.stack([left, top, right, bottom], 1) * masks.flatten(1).any(1)[:, None]


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes (n, 4) as `mask_boxes` gives them, pair by pair: float (n,); 0 where both are empty.

    >>> box_iou(torch.tensor([[0, 0, 2, 2]]), torch.tensor([[1, 0, 3, 2]]))
    tensor([0.3333])
    """
    inner = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    both = inner.clamp(min=0).prod(1)
    either = sum((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b)) - both
    return both / torch.as_tensor(either).clamp(min=1)


def largest_regions(masks: Any) -> Tensor:
    """Of each mask the largest connected region (8 neighbours), bool (n, h, w).

    >>> largest_regions([[[1, 0, 1, 1]]]).int().tolist()
    [[[0, 0, 1, 1]]]
    """
    from scipy import ndimage

    masks = _masks("masks", masks).numpy()
    within = np.zeros((3, 3, 3), bool)
    within[1] = True  # neighbours within an image, none across images
    numbers, count = ndimage.label(masks, within)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    sizes[0] = 0
    size_at = sizes[numbers]
    best = size_at.max(axis=(1, 2), keepdims=True)
    # the first of equals: labels rise from image to image, row by row
    number = np.where((size_at == best) & (best > 0), numbers, count + 1).min(axis=(1, 2), keepdims=True)
    return torch.from_numpy(numbers == number)


def _pair(y: Any, predictions: Any, threshold: float) -> tuple[Tensor, Tensor]:
    masks, scores = _masks("y", y), _scores("predictions", predictions)
    _same_shape(masks, scores)
    return masks, scores > threshold


def _masks(argument: str, masks: Any) -> Tensor:
    return _scores(argument, masks) > 0.5


def _scores(argument: str, scores: Any) -> Tensor:
    """As float (n, h, w) on the CPU."""
    found = scores.detach().cpu() if isinstance(scores, Tensor) else torch.as_tensor(np.asarray(scores))
    found = found[:, 0] if found.ndim == 4 and found.shape[1] == 1 else found
    expect(argument, tuple(found.shape), found.ndim == 3 and found.numel() > 0, "masks (n, h, w), not empty")
    found = found.float()
    if found.isnan().any():
        raise ArgumentError(f"{argument}: expected numbers, found NaN")
    return found


def _same_shape(y: Tensor, predictions: Tensor) -> None:
    same = y.shape == predictions.shape
    expect("predictions.shape", tuple(predictions.shape), same, f"that of y, {tuple(y.shape)}")
