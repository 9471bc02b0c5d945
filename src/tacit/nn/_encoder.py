"""ImageEncoder: what every image encoder has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn._hub import Hub

if TYPE_CHECKING:
    from PIL.Image import Image

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in brightness (ITU-R BT.601), as Pillow has them."""

FULL = {torch.uint8: 255, torch.uint16: 65535}
"""White, for whole numbers."""


class ImageEncoder(Hub, nn.Module):
    """Images (n, in_channels, image_size, image_size), float in [0, 1] -> embeddings (n, dim).

    `prepare` makes such a batch of raw images. Mean and deviation by which the network wants its pixels normalised are
    the buffers `mean` and `std`, (in_channels,) each, applied in `forward`: 0.5 and 0.25 unless weights came with
    others. `encoder.mean.copy_(...)` changes them.

    Attributes:
        dim: features of an embedding.
        image_size: side in pixels.
        in_channels: 1 for grey, 3 for colour, any other number for tensors.
        config: what `tacit.nn.encoder(**config)` rebuilds the network from, without its weights; plain JSON.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, dim: int, image_size: int, in_channels: int, config: dict[str, Any]) -> None:
        super().__init__()
        expect("image_size", image_size, image_size >= 1, "a side in pixels, at least 1")
        expect("in_channels", in_channels, in_channels >= 1, "a number of channels, at least 1")
        self.dim, self.image_size, self.in_channels, self.config = dim, image_size, in_channels, config
        self.register_buffer("mean", torch.full((in_channels,), 0.5))
        self.register_buffer("std", torch.full((in_channels,), 0.25))

    def normalize(self, x: Tensor) -> Tensor:
        """(x - mean) / std for each channel.

        Raises:
            ArgumentError: x is not a float batch of images with `in_channels` channels.
        """
        ok = x.ndim == 4 and x.shape[1] == self.in_channels
        expect("x.shape", tuple(x.shape), ok, f"(n, {self.in_channels}, h, w)", "encoder.prepare(x) converts images")
        expect("x.dtype", x.dtype, x.is_floating_point(), "floats in [0, 1]", "encoder.prepare(x) converts images")
        return (x - self.mean[:, None, None]) / self.std[:, None, None]

    def prepare(self, items: Tensor | np.ndarray | Sequence[Image]) -> Tensor:
        """Raw images to the batch that `forward` takes: (n, in_channels, image_size, image_size), float in [0, 1].

        The centre square is resized (bilinear, antialiased). Grey becomes colour by repeating it, colour becomes grey
        by its brightness. Transparent pixels are put on white.

        Args:
            items: uint8, uint16, or floats in [0, 1], all (n, c, h, w); or PIL images of any size and mode.

        Raises:
            ArgumentError: another shape or type, floats outside [0, 1], or channels that cannot be converted.

        >>> from tacit.nn import ResNet
        >>> ResNet(8, width=4, image_size=16).prepare(np.zeros((2, 1, 20, 30), np.uint8)).shape
        torch.Size([2, 3, 16, 16])
        """
        if not isinstance(items, Tensor | np.ndarray):
            batch = torch.empty(len(items), self.in_channels, self.image_size, self.image_size, device=self.mean.device)
            for i, image in enumerate(items):
                batch[i] = self.prepare(_from_pil(image))[0]
            return batch
        x = _as_float(torch.tensor(items) if isinstance(items, np.ndarray) else items, self.mean.device)
        return _center_square(_convert_channels(x, self.in_channels), self.image_size)


def _as_float(x: Tensor, device: torch.device) -> Tensor:
    expect("items.shape", tuple(x.shape), x.ndim == 4, "images (n, c, h, w)", "give a single image as x[None]")
    if x.dtype in FULL:
        return x.to(device).float() / FULL[x.dtype]
    expect("items.dtype", x.dtype, x.is_floating_point(), "uint8, uint16, or floats in [0, 1]")
    x = x.to(device).float()
    low, high = (float(x.min()), float(x.max())) if len(x) else (0.0, 0.0)
    expect("items", f"{low:g} to {high:g}", low >= 0 and high <= 1, "floats in [0, 1]", "give uint8, or scale them")
    return x


def _convert_channels(x: Tensor, channels: int) -> Tensor:
    """(n, c, h, w) -> (n, channels, h, w)."""
    if x.shape[1] == channels:
        return x
    remedy = f"only grey and colour are converted; build the encoder with in_channels={x.shape[1]}"
    expect("channels of items", x.shape[1], {x.shape[1], channels} == {1, 3}, f"{channels}", remedy)
    if channels == 3:
        return x.expand(-1, 3, -1, -1)
    return torch.einsum("nchw,c->nhw", x, x.new_tensor(LUMA))[:, None]


def _center_square(x: Tensor, size: int) -> Tensor:
    """(n, c, h, w) -> (n, c, size, size)."""
    height, width = x.shape[-2:]
    side = min(height, width)
    expect("items.shape", tuple(x.shape), side > 0, "images of at least one pixel")
    top, left = (height - side) // 2, (width - side) // 2
    x = x[..., top : top + side, left : left + side]
    if side != size and len(x):
        return F.interpolate(x, (size, size), mode="bilinear", antialias=True).clamp_(0, 1)
    return x.new_empty(len(x), x.shape[1], size, size) if side != size else x.contiguous()


def _from_pil(image: Image) -> np.ndarray:
    """Upright, on white: uint8 or uint16 (1, c, h, w)."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return np.asarray(image).clip(0, 65535).astype(np.uint16)[None, None]
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return pixels.reshape(1, *pixels.shape[:2], -1).transpose(0, 3, 1, 2)
