"""What views do to pixels once they are drawn: plain operations with one setting for each sample of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Op(Protocol):
    """images (n, c, h, w), uint8 or float, and which part of the batch they are -> float images."""

    def __call__(self, x: Tensor, part: slice) -> Tensor: ...


def floats(x: Tensor) -> Tensor:
    return x / 255 if x.dtype == torch.uint8 else x.float()


@dataclass(frozen=True)
class Crop:
    """What lies in `box` (b, 4: top, left, bottom, right), resized to `size`; where left > right it is mirrored.

    Attributes:
        box: in pixels of the image before.
        source, size: (height, width) before and after.
    """

    box: Tensor
    source: tuple[int, int]
    size: tuple[int, int]

    @cached_property
    def rows(self) -> Taps:
        return triangle(self.box[:, 0], self.box[:, 2], self.source[0], self.size[0])

    @cached_property
    def cols(self) -> Taps:
        return triangle(self.box[:, 1], self.box[:, 3], self.source[1], self.size[1])

    def __call__(self, x: Tensor, part: slice) -> Tensor:
        columns = resample_rows(floats(x.mT.contiguous()), self.cols.part(part))  # rows are what memory holds together
        return resample_rows(columns.mT.contiguous(), self.rows.part(part))


@dataclass(frozen=True)
class Recolour:
    """matrix @ [pixel, mean colour of the image], clamped to [0, 1]; matrix (b, c, 2 c)."""

    matrix: Tensor

    def __call__(self, x: Tensor, part: slice) -> Tensor:
        pixels = floats(x).flatten(2)
        of_pixel, of_mean = self.matrix[part].chunk(2, dim=2)
        recoloured = (of_pixel @ pixels).add_(of_mean @ pixels.mean(2, keepdim=True))
        return recoloured.clamp_(0, 1).view(x.shape)


@dataclass(frozen=True)
class Blur:
    """A Gaussian of deviation `sigma` (b,) in pixels, cut at `radius`; 0 leaves a sample as it is."""

    sigma: Tensor
    radius: int

    def __call__(self, x: Tensor, part: slice) -> Tensor:
        x, sigma = floats(x), self.sigma[part]
        if x.device.type != "cpu":
            return blur(x, sigma, self.radius)
        chosen = sigma.nonzero()[:, 0]  # free on a CPU; elsewhere it would wait for the device
        return x.index_copy(0, chosen, blur(x[chosen], sigma[chosen], self.radius))


@dataclass(frozen=True)
class Invert:
    """1 - x where x >= threshold, in the chosen samples, bool (b,)."""

    chosen: Tensor
    threshold: float

    def __call__(self, x: Tensor, part: slice) -> Tensor:
        x = floats(x)
        return torch.where((x >= self.threshold) & self.chosen[part, None, None, None], 1 - x, x)


@dataclass(frozen=True)
class Turn:
    """Counter-clockwise about the centre by `degrees` (b,), bilinear; black comes in from outside."""

    degrees: Tensor

    def __call__(self, x: Tensor, part: slice) -> Tensor:
        angle, (height, width) = torch.deg2rad(self.degrees[part]), x.shape[2:]
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        across = torch.stack([cos, -sin * (height / width), zero], dim=1)
        down = torch.stack([sin * (width / height), cos, zero], dim=1)
        grid = F.affine_grid(torch.stack([across, down], dim=1), list(x.shape), align_corners=False)
        return F.grid_sample(floats(x), grid, align_corners=False)


class Taps(NamedTuple):
    """The neighbouring pixels that make an output pixel: the first, int64 (b, size), and weights, (b, size, taps)."""

    first: Tensor
    weights: Tensor

    def part(self, part: slice) -> Taps:
        return Taps(self.first[part], self.weights[part])


def triangle(start: Tensor, stop: Tensor, source: int, size: int) -> Taps:
    """How the interval from start to stop, of `source` pixels, becomes `size` pixels; start > stop turns it round.

    The weights are those of Pillow's BILINEAR (`Image.resize(box=...)`): a triangle around the centre of each output
    pixel, as wide as that pixel where the interval shrinks (so that it does not alias), cut at the border of the image
    and normalised.

    Args:
        start, stop: (b,) in pixels, in [0, source].

    >>> triangle(torch.tensor([0.0]), torch.tensor([4.0]), source=4, size=2).weights
    tensor([[[0.4286, 0.4286, 0.1429, 0.0000],
             [0.0000, 0.1429, 0.4286, 0.4286]]])
    """
    taps = min(source, math.ceil(2 * max(1, source / size)))
    step = ((stop - start) / size)[:, None]
    centre = start[:, None] + step * (torch.arange(size, device=start.device) + 0.5)
    support = step.abs().clamp(min=1)
    first = (centre - support - 0.5).ceil().clamp(0, source - taps)
    pixel = first[..., None] + torch.arange(taps, device=start.device) + 0.5
    weights = (1 - (pixel - centre[..., None]).abs() / support[..., None]).clamp(min=0)
    return Taps(first.long(), weights / weights.sum(2, keepdim=True))


def resample_rows(x: Tensor, taps: Taps) -> Tensor:
    """Rows of the result are weighted means of neighbouring rows: float (n, c, h, w) -> (n, c, size, w)."""
    (n, c, h, w), (_, size, count) = x.shape, taps.weights.shape
    rows = x.reshape(n * c * h, w)
    place = (taps.first[:, None] + h * torch.arange(n * c, device=x.device).view(n, c, 1)).flatten()
    shares = taps.weights / taps.weights.cumsum(2).clamp(min=1e-9)
    mean = rows.index_select(0, place).view(n, c, size, w)
    for i in range(1, count):  # the running weighted mean: no products to keep, and never outside the range of the rows
        mean = mean.lerp_(rows.index_select(0, place + i).view(mean.shape), shares[:, None, :, i, None])
    return mean


def blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Each image blurred by its own Gaussian and mirrored at its border; x (n, c, h, w), sigma (n,) in pixels."""
    h, w = x.shape[2:]
    down, across = min(radius, h - 1), min(radius, w - 1)
    x = F.pad(x, (across, across, down, down), mode="reflect")
    x = _weighted_sum([x.narrow(2, i, h) for i in range(2 * down + 1)], gaussian(sigma, down))
    return _weighted_sum([x.narrow(3, i, w) for i in range(2 * across + 1)], gaussian(sigma, across))


def gaussian(sigma: Tensor, radius: int) -> Tensor:
    """Kernels (n, 2 radius + 1), each of sum 1; sigma 0 gives the identity."""
    distance = torch.arange(-radius, radius + 1, device=sigma.device)
    return torch.softmax(-0.5 * (distance / sigma.clamp(min=1e-3)[:, None]) ** 2, dim=1)


def _weighted_sum(images: list[Tensor], weights: Tensor) -> Tensor:
    weight = weights[:, :, None, None, None].unbind(1)
    total = images[0] * weight[0]
    for i in range(1, len(images)):
        total.addcmul_(images[i], weight[i])
    return total
