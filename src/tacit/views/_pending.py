"""Views as operations that are drawn for the whole batch first and then done part by part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from tacit.errors import expect
from tacit.views._ops import Crop, Op, Recolour, floats

T = TypeVar("T", bound=Op)

_CPU_PART, _OTHER_PART = 2**20, 2**28
"""Bytes of a part of a batch: on a CPU small enough for the cache of each thread, elsewhere to bound the memory."""


@dataclass(frozen=True)
class Pending:
    """A batch of images and the operations that are drawn but not yet done.

    A flip turns round the box of the crop before it. Brightness, contrast, saturation, hue and greyscale are linear in
    the pixel and the mean colour of the image: matrix @ [pixel, mean]. So neighbours of a kind become one operation.

    Attributes:
        x: uint8 (b, c, h, w), or float in [0, 1].
        size: (height, width) of the views.
        box: (b, 4), where the views lie in x: top, left, bottom, right in its pixels; left > right where mirrored. So
            pixel (i, j) of a view of s x s pixels shows the point
            (top + (i + 0.5) / s * (bottom - top), left + (j + 0.5) / s * (right - left)).
    """

    x: Tensor
    size: tuple[int, int]
    box: Tensor
    ops: tuple[Op, ...] = ()

    @classmethod
    def of(cls, x: Tensor) -> Pending:
        """Nothing pending yet.

        Raises:
            ArgumentError: x is not uint8 or float (b, c, h, w) with at least one channel and one pixel.
        """
        given = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        fits = isinstance(x, Tensor) and x.ndim == 4 and 0 not in x.shape[1:]
        fits = fits and (x.dtype == torch.uint8 or x.is_floating_point())
        expect("x", given, fits, "a tensor (b, c, h, w), uint8 or float in [0, 1]", "one image alone is x[None]")
        size = (x.shape[2], x.shape[3])
        return cls(x, size, _whole(x, size))

    def uniform(self, low: float, high: float) -> Tensor:
        """One number a sample: (b,), drawn from torch's global generator on the device of the batch."""
        return torch.rand(len(self.x), device=self.x.device) * (high - low) + low

    def happens(self, p: float) -> Tensor:
        """Which samples a view of probability p is applied to: bool (b,)."""
        return self.uniform(0, 1) < p

    def add(self, op: Op) -> Pending:
        """An operation that keeps size and place of the pixels."""
        return replace(self, ops=(*self.ops, op))

    def crop(self, box: Tensor, size: int) -> Pending:
        """The part in `box` (b, 4: top, left, bottom, right in pixels of the views so far), resized to size x size."""
        share = (box / box.new_tensor([*self.size, *self.size])).unflatten(1, (2, 2))
        corner, opposite = self.box[:, None, :2], self.box[:, None, 2:]
        cropped = self.add(Crop(box, self.size, (size, size)))
        return replace(cropped, size=(size, size), box=corner.lerp(opposite, share).flatten(1))

    def mirror(self, chosen: Tensor) -> Pending:
        """The chosen samples, bool (b,), flipped left to right."""
        before, crop = self._ends_with(Crop)
        if crop is None:
            crop = Crop(_whole(self.x, self.size), self.size, self.size)
        crop = replace(crop, box=_mirrored(crop.box, chosen))
        return replace(self, box=_mirrored(self.box, chosen), ops=(*before, crop))

    def recolour(self, matrix: Tensor) -> Pending:
        """matrix @ pixel; matrix (b, c, c)."""
        before, colours = self._colours()
        return replace(self, ops=(*before, Recolour(matrix @ colours)))

    def contrast(self, factor: Tensor, grey: Tensor) -> Pending:
        """factor * pixel + (1 - factor) * grey @ mean colour; factor (b,), grey (c, c)."""
        before, colours = self._colours()
        of_pixel, of_mean = colours.chunk(2, dim=2)
        flat = torch.cat([torch.zeros_like(of_pixel), grey @ (of_pixel + of_mean)], dim=2)
        return replace(self, ops=(*before, Recolour(flat.lerp(colours, factor[:, None, None]))))

    def image(self) -> Tensor:
        """The views: float32 (b, c, height, width) in [0, 1]."""
        b, c, h, w = self.x.shape
        part_bytes = _CPU_PART * torch.get_num_threads() if self.x.device.type == "cpu" else _OTHER_PART
        size = max(1, part_bytes // (4 * c * max(h * w, self.size[0] * self.size[1])))
        if b <= size:
            return self._done(slice(None))
        views = torch.empty(b, c, *self.size, device=self.x.device)
        for start in range(0, b, size):
            part = slice(start, start + size)
            views[part] = self._done(part)
        return views

    def _done(self, part: slice) -> Tensor:
        x = self.x[part]
        for op in self.ops:
            x = op(x, part)
        return floats(x).clamp(0, 1)

    def _ends_with(self, kind: type[T]) -> tuple[tuple[Op, ...], T | None]:
        """The last operation, if it is of that kind, and those before it."""
        last = self.ops[-1] if self.ops else None
        return (self.ops[:-1], last) if isinstance(last, kind) else (self.ops, None)

    def _colours(self) -> tuple[tuple[Op, ...], Tensor]:
        """The matrix (b, c, 2 c) of the change of colours that comes last, and the operations before it."""
        before, last = self._ends_with(Recolour)
        b, c = self.x.shape[:2]
        return before, torch.eye(c, 2 * c, device=self.x.device).expand(b, -1, -1) if last is None else last.matrix


def _whole(x: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.tensor([0.0, 0.0, *size], device=x.device).expand(len(x), 4)


def _mirrored(box: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen[:, None], box[:, [0, 3, 2, 1]], box)
