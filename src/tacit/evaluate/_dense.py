"""The dense probe: how well a linear classifier reads the class of every pixel off frozen feature maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import ArgumentError, expect
from tacit.evaluate._arrays import Array, standardised
from tacit.evaluate._estimates import Score, blocks, jackknife, share

DECAYS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Weights of the L2 penalty that are tried, from strong to weak; the same for all features."""

ROWS = 1 << 16
"""Tokens or pixels that are worked on at a time."""


def mean_iou(y: Any, predictions: Any, n_classes: int | None = None) -> float:
    """Mean over classes of intersection over union, hits / (hits + misses + false alarms), counted over all pixels.

    A class that neither is there nor is predicted is left out of the mean.

    Args:
        y: class numbers of any shape; pixels below 0 are ignored.
        predictions: class numbers of the same shape.
        n_classes: one more than the largest if None.

    Raises:
        ArgumentError: shapes that do not match, classes out of range, or nothing to score.

    Source: Everingham et al., "The Pascal visual object classes challenge", 2015, section 4.2.3.

    >>> round(mean_iou([[0, 0], [1, 1]], [[0, 1], [1, 1]]), 4)  # (1/2 + 2/3) / 2
    0.5833
    """
    y, predictions = _classes("y", y), _classes("predictions", predictions)
    same = y.shape == predictions.shape
    expect("predictions.shape", tuple(predictions.shape), same, f"that of y, {tuple(y.shape)}")
    return _mean_iou(_confusion(y, predictions, n_classes or _count(y, predictions)))


def segmentation_probe(
    train_tokens: Array,
    train_masks: Array,
    test_tokens: Array,
    test_masks: Array,
    *,
    n_classes: int | None = None,
    seed: int = 0,
) -> Score:
    """Mean IoU of one linear classifier for all tokens, over all pixels of the test masks.

    Training: multinomial logistic regression on standardised tokens, in which a token's target is the share of each
    class among the pixels of its cell, so that no small shape is lost to a majority, and in which every class weighs
    the same, as it does in the mean IoU. (Unweighted, most classes are never predicted where features are weak, and the
    score falls with more labels.) Test: logits, upsampled bilinearly to the size of the mask, decide for each pixel.

    The L2 penalty is the one of `DECAYS` that does best on a fifth of the training images (1e-3 with fewer than five);
    then all of them are fitted with it. The test set is looked at once.

    Args:
        train_tokens: (n, t, d) features row by row of a square grid, such as `dense_features` gives; or (n, h, w, d).
        train_masks: (n, height, width) class numbers, of any size; pixels below 0 are ignored.
        test_tokens, test_masks: as those, of m images; sizes may differ.
        n_classes: one more than the largest if None.
        seed: draws the fifth that is held out.

    Returns:
        the mean IoU as `mean_iou` has it, with the jackknife's 95 % interval over ten blocks of images.

    Raises:
        ArgumentError: shapes that do not match, tokens that are no square grid, NaN, or fewer than two classes.

    >>> mask = torch.arange(4).view(1, 2, 2).repeat(6, 4, 4) % 2
    >>> tokens = F.one_hot(mask, 2).flatten(1, 2).float()
    >>> print(segmentation_probe(tokens, mask, tokens, mask))
    100.0 % (100.0-100.0)
    """
    x, y = _grid("train_tokens", train_tokens), _masks("train_masks", train_masks, len(train_tokens))
    new, new_y = _grid("test_tokens", test_tokens), _masks("test_masks", test_masks, len(test_tokens))
    expect("test_tokens", tuple(new.shape), new.shape[-1] == x.shape[-1], f"{x.shape[-1]} features as train_tokens")
    n_classes = n_classes or _count(y, new_y)
    present = len(y[y >= 0].unique())
    expect("train_masks", f"{present} classes", present >= 2, "at least two classes")
    flat, flat_new = standardised(x.flatten(0, 2), new.flatten(0, 2))
    x, new = flat.view(x.shape), flat_new.view(new.shape)
    targets = _balanced(_shares(y, x.shape[1:3], n_classes))
    probe = _fit(x, targets, _choose_decay(x, y, targets, seed))
    counts = _confusions(probe, new, new_y, n_classes)
    left_out = [_mean_iou(counts.sum(0) - counts[part].sum(0)) for part in blocks(len(counts)) if len(counts) > 1]
    return share(jackknife(_mean_iou(counts.sum(0)), left_out, len(counts)))


def dense_features(encoder: nn.Module, items: Any, *, batch_size: int = 256) -> Tensor:
    """The encoder's tokens of each image, in eval mode, without gradient: float32 (n, t, d) on the CPU.

    Args:
        encoder: has `tokens(x)`, and `prepare(items)` that makes its input.
        items: images as `encoder.prepare` takes them, (n, c, h, w).
        batch_size: images at a time.

    Raises:
        ArgumentError: an encoder without tokens.

    >>> from tacit.nn import ResNet
    >>> dense_features(ResNet(8, width=4, image_size=16), torch.rand(2, 3, 16, 16)).shape
    torch.Size([2, 16, 16])
    """
    dense = hasattr(encoder, "tokens")
    expect("encoder", type(encoder).__name__, dense, "an encoder with tokens(x)", "take a ResNet, a ViT or a U-Net")
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        parts = (items[i : i + batch_size] for i in range(0, len(items), batch_size))
        found = [encoder.tokens(encoder.prepare(part)).float().cpu() for part in parts]  # type: ignore[operator]
    encoder.train(was_training)
    return torch.cat(found)


# Fitting --------------------------------------------------------------------------------------------------------------


def _choose_decay(x: Tensor, y: Tensor, targets: Tensor, seed: int) -> float:
    """The decay that does best on a fifth of the images; the strongest of equals."""
    if len(x) < 5:
        return 1e-3
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    seen, held_out = order[len(x) // 5 :], order[: len(x) // 5]
    scores, probe = [], None
    for decay in DECAYS:  # each fit starts where the last one ended
        probe = _fit(x[seen], targets[seen], decay, start=probe)
        scores.append(_mean_iou(_confusions(probe, x[held_out], y[held_out], targets.shape[-1]).sum(0)))
    return DECAYS[int(np.argmax(scores))]


def _fit(x: Tensor, targets: Tensor, decay: float, start: Tensor | None = None) -> Tensor:
    """Weights (d + 1, k) that minimise mean_i -sum_c target_ic log softmax(x_i W)_c + decay / 2 |W without bias|^2.

    Args:
        x: (n, h, w, d).
        targets: (n, h, w, k), 0 or more, whose sum stands for the number of tokens in the mean.
    """
    x, targets = x.flatten(0, 2), targets.flatten(0, 2)
    weights = x.new_zeros(x.shape[1] + 1, targets.shape[1]) if start is None else start.clone()
    weights.requires_grad_()
    known = targets.sum()
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_change=1e-7, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = decay / 2 * weights[1:].square().sum()
        loss.backward()
        total = loss.detach()
        for part, target in zip(x.split(ROWS), targets.split(ROWS), strict=True):  # memory of one block
            cost = -(target * _logits(weights, part).log_softmax(-1)).sum() / known
            cost.backward()
            total = total + cost.detach()
        return float(total)

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()


def _logits(weights: Tensor, x: Tensor) -> Tensor:
    return x @ weights[1:] + weights[0]


def _confusions(probe: Tensor, x: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """A confusion matrix for each image, (n, k, k): class of the pixel by class predicted."""
    images = max(1, ROWS // y[0].numel())
    found = []
    for part, mask in zip(x.split(images), y.split(images), strict=True):
        logits = _logits(probe, part).permute(0, 3, 1, 2)
        classes = F.interpolate(logits, mask.shape[1:], mode="bilinear").argmax(1)
        number = torch.arange(len(mask), device=mask.device)[:, None, None]
        cells = (number * n_classes + mask) * n_classes + classes
        counts = cells[mask >= 0].bincount(minlength=len(mask) * n_classes**2)
        found.append(counts.view(-1, n_classes, n_classes))
    return torch.cat(found)


def _shares(y: Tensor, grid: torch.Size, n_classes: int) -> Tensor:
    """The share of each class in each cell of the grid, (n, h, w, k); 0 where nothing of the cell is known."""
    found = []
    for part in y.split(max(1, ROWS // y[0].numel())):
        known = (part[..., None] == torch.arange(n_classes, device=y.device)).permute(0, 3, 1, 2)
        cells = F.adaptive_avg_pool2d(known.float(), (grid[0], grid[1]))
        found.append((cells / cells.sum(1, keepdim=True).clamp(min=1e-12)).permute(0, 2, 3, 1))
    return torch.cat(found)


def _balanced(shares: Tensor) -> Tensor:
    """The shares, weighted so that each class that is there has the same sum, and all together what they had."""
    there = shares.sum((0, 1, 2), dtype=torch.float64)
    weights = there.sum() / ((there > 0).sum() * there.clamp(min=1e-12))
    return shares * weights.to(shares)


# Counting -------------------------------------------------------------------------------------------------------------


def _confusion(y: Tensor, predictions: Tensor, n_classes: int) -> Tensor:
    """(k, k): class of the pixel by class predicted."""
    known = y >= 0
    y, predictions = y[known], predictions[known]
    expect("y", f"{len(y)} pixels", len(y) > 0, "at least one pixel to score")
    largest = int(torch.maximum(y, predictions).max())
    expect("n_classes", n_classes, largest < n_classes, f"more than the largest class, {largest}")
    expect("predictions", int(predictions.min()), bool(predictions.min() >= 0), "class numbers from 0")
    return (y * n_classes + predictions).bincount(minlength=n_classes**2).view(n_classes, n_classes)


def _mean_iou(counts: Tensor) -> float:
    hits = counts.diagonal().double()
    union = counts.sum(0) + counts.sum(1) - hits
    return float((hits / union)[union > 0].mean())


# Arguments ------------------------------------------------------------------------------------------------------------


def _grid(argument: str, tokens: Array) -> Tensor:
    """As (n, h, w, d), float32, finite."""
    x = torch.as_tensor(tokens).detach().float()
    if x.ndim == 3:
        side = math.isqrt(x.shape[1])
        remedy = "give other grids as (n, h, w, d), and leave class tokens out"
        expect(argument, tuple(x.shape), side * side == x.shape[1], "(n, t, d) of a square grid", remedy)
        x = x.view(len(x), side, side, -1)
    expect(argument, tuple(x.shape), x.ndim == 4 and x.numel() > 0, "(n, t, d) or (n, h, w, d), not empty")
    if not x.isfinite().all():
        raise ArgumentError(f"{argument}: expected finite numbers, found NaN or infinity")
    return x


def _masks(argument: str, masks: Array, rows: int) -> Tensor:
    y = _classes(argument, masks)
    expect(f"{argument}.shape", tuple(y.shape), y.ndim == 3 and len(y) == rows, f"({rows}, height, width)")
    return y


def _classes(argument: str, y: Any) -> Tensor:
    y = torch.as_tensor(y).detach().cpu()
    expect(f"{argument}.dtype", y.dtype, not (y.is_floating_point() or y.is_complex()), "whole numbers")
    return y.long()


def _count(*masks: Tensor) -> int:
    return max(2, 1 + max(int(mask.max()) for mask in masks))
