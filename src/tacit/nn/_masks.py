"""Masks over the patches of a transformer, drawn for the whole batch at once; and the transformer that sees them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tacit.errors import expect
from tacit.nn._vit import ViT

_ROUNDS = 10
"""Blocks tried for each image; what they leave is filled up patch by patch."""


def mask_counts(
    n: int, num_patches: int, *, share: tuple[float, float] = (0.1, 0.5), probability: float = 0.5
) -> Tensor:
    """How many patches to mask in each of n images: int64 (n,).

    A share `probability` of the images is masked, the others are left whole. The shares of patches masked are spread
    evenly over the range, one drawn in each of as many equal parts of it as images are masked, and dealt out at random,
    as in DINOv2's code. An image that is masked has at least one patch hidden.

    Args:
        share: least and greatest share of the patches, in [0, 1].
        probability: share of the images that are masked, in [0, 1]; rounded down to whole images, but to 1 at least.

    Raises:
        ArgumentError: a share outside [0, 1].

    >>> torch.manual_seed(0) and mask_counts(8, 100).sort().values
    tensor([ 0,  0,  0,  0, 14, 27, 30, 41])
    """
    low, high = share
    expect("share", share, 0 <= low <= high <= 1, "two shares in [0, 1], the lower first")
    expect("probability", probability, 0 <= probability <= 1, "a share in [0, 1]")
    masked = min(n, max(1, int(n * probability))) if probability > 0 else 0
    parts = (torch.arange(masked) + torch.rand(masked)) / max(masked, 1)
    counts = ((low + (high - low) * parts) * num_patches).long().clamp_min(1 if high > 0 else 0)
    return torch.cat([counts, counts.new_zeros(n - masked)])[torch.randperm(n)]


def random_masks(counts: Tensor, num_patches: int) -> Tensor:
    """Exactly `counts` patches of each image, drawn one by one: int64 (n,) -> bool (n, num_patches), True is masked.

    >>> random_masks(torch.tensor([0, 3]), 9).sum(1)
    tensor([0, 3])
    """
    return _filled_up(torch.zeros(len(counts), num_patches, dtype=torch.bool, device=counts.device), counts)


def block_masks(
    counts: Tensor,
    rows: int,
    columns: int,
    *,
    smallest: int = 4,
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    exact: bool = True,
) -> Tensor:
    """Patches masked in rectangles, `counts` of them in each image: int64 (n,) -> bool (n, rows * columns).

    As in BEiT (arXiv:2106.08254, algorithm 1): blocks of a random area and aspect ratio are put down one after the
    other; one that would mask more than is left to mask, or nothing new, is not. Here every image draws its next block
    at the same time.

    Args:
        counts: patches to mask in each image.
        rows, columns: of patches; True at row * columns + column is masked.
        smallest: patches in a block at least, where as many are left to mask; the greatest is what is left.
        aspect: least and greatest ratio of height to width; its logarithm is uniform.
        exact: fill up with single patches to the very number; else some images have a few less, as in the papers.

    Raises:
        ArgumentError: counts that are no number of patches, aspects not above 0.

    >>> masks = block_masks(torch.full((3,), 6), 4, 4)
    >>> masks.shape, masks.sum(1)
    (torch.Size([3, 16]), tensor([6, 6, 6]))
    """
    n, most = len(counts), rows * columns
    expect("counts", counts.tolist(), bool(((counts >= 0) & (counts <= most)).all()), f"numbers from 0 to {most}")
    expect("aspect", aspect, 0 < aspect[0] <= aspect[1], "two ratios above 0, the lower first")
    masks = torch.zeros(n, most, dtype=torch.bool, device=counts.device)
    for _ in range(_ROUNDS):
        left = counts - masks.sum(1)
        block = _blocks(left, rows, columns, smallest, aspect)
        new = (block & ~masks).sum(1)
        masks |= block & (new <= left)[:, None]
    return _filled_up(masks, counts) if exact else masks


def _blocks(left: Tensor, rows: int, columns: int, smallest: int, aspect: tuple[float, float]) -> Tensor:
    """A rectangle in each image, of `smallest` to `left` patches before rounding: bool (n, rows * columns)."""
    area, ratio, down, right = torch.rand(4, len(left), device=left.device)
    low = left.clamp(max=smallest)
    area = low + (left - low) * area
    ratio = (math.log(aspect[0]) + (math.log(aspect[1]) - math.log(aspect[0])) * ratio).exp()
    height = (area * ratio).sqrt().round().clamp(1, rows)
    width = (area / ratio).sqrt().round().clamp(1, columns)
    inside = [
        _span((drawn * (whole - side + 1)).floor(), side, whole)
        for drawn, side, whole in ((down, height, rows), (right, width, columns))
    ]
    return (inside[0][:, :, None] & inside[1][:, None, :]).flatten(1)


def _span(start: Tensor, length: Tensor, whole: int) -> Tensor:
    """Places from start on, as many as `length`: (n,) -> bool (n, whole)."""
    place = torch.arange(whole, device=start.device)
    return (place >= start[:, None]) & (place < (start + length)[:, None])


def _filled_up(masks: Tensor, counts: Tensor) -> Tensor:
    """Random further patches, until each row has its count."""
    order = (torch.rand(masks.shape, device=masks.device) - masks.float()).argsort(1)  # those masked already come first
    return torch.zeros_like(masks).scatter(
        1, order, torch.arange(masks.shape[1], device=masks.device) < counts[:, None]
    )


def encode_masked(
    vit: ViT, x: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What `vit` gives for images in which patches are hidden: its features, and its patch tokens, in one pass.

    A hidden patch is replaced by the mask token after the linear embedding and before the positions are added (BEiT,
    section 2.3; iBOT, section 3.1). Both are of the last layer, after the last norm, whatever `layer` says.

    Args:
        vit: the transformer.
        x: (n, c, h, w) in [0, 1].
        mask: bool (n, t), True is hidden; None hides nothing.
        mask_token: (embed_dim,), needed with a mask.

    Returns:
        (n, dim), the class token or the mean of the patch tokens, as the transformer pools; and (n, t, dim).

    Raises:
        ArgumentError: a mask of another shape, or without a token.

    >>> vit, x = ViT(8, 4, 12, num_layers=1, num_heads=2), torch.rand(2, 3, 8, 8)
    >>> features, tokens = encode_masked(vit, x)
    >>> torch.allclose(features, vit(x), atol=1e-6), torch.allclose(tokens, vit.tokens(x), atol=1e-6)
    (True, True)
    """
    expect("mask_token", mask_token, (mask is None) or (mask_token is not None), "a token where there is a mask")
    tokens = vit._patches(x)
    if mask is not None and mask_token is not None:
        positions = vit._positions_for(*x.shape[-2:])
        expect("mask", tuple(mask.shape), mask.shape == tokens.shape[:2], f"shape {tuple(tokens.shape[:2])}")
        tokens = torch.where(mask[:, :, None], mask_token + positions, tokens)
    encoded = vit._encode(tokens, None)
    return vit._pool(encoded), vit._without_class(encoded)
