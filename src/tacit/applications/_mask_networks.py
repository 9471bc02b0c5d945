"""Networks that see one frame: those that draw the object's mask, and the one that tells a good mask from a bad one."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import unknown
from tacit.nn import ImageEncoder


class MaskNetwork(ImageEncoder):
    """Images (n, c, h, w) -> masks (n, 1, h, w) by `masks`, of any size; as an encoder, the mean of its inner map.

    A mask is a number a pixel, about 0 to 1 once it has learned.
    """

    def __init__(self, name: str, dim: int, image_size: int, in_channels: int, width: int) -> None:
        config = {"name": name, "image_size": image_size, "in_channels": in_channels, "width": width}
        super().__init__(dim=dim, image_size=image_size, in_channels=in_channels, config=config)

    def inner(self, x: Tensor) -> Tensor:
        """The map that the embedding is the mean of: (n, dim, h', w')."""
        raise NotImplementedError

    def masks(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).mean((2, 3))

    def tokens(self, x: Tensor) -> Tensor:
        """The inner map row by row: (n, t, dim)."""
        return self.inner(x).flatten(2).transpose(1, 2)


class TinyUNet(MaskNetwork):
    """A U-Net of three levels: what the coarse levels say of the object is drawn at the pixels of the fine ones."""

    def __init__(self, image_size: int, in_channels: int = 3, width: int = 16) -> None:
        super().__init__("mask-unet", 4 * width, image_size, in_channels, width)
        self.down1 = _block(in_channels, width)
        self.down2 = _block(width, 2 * width)
        self.middle = _block(2 * width, 4 * width)
        self.up2, self.up1 = _block(6 * width, 2 * width), _block(3 * width, width)
        self.last = nn.Conv2d(width, 1, 1)

    def inner(self, x: Tensor) -> Tensor:
        return self._path(x)[2]

    def masks(self, x: Tensor) -> Tensor:
        fine, coarse, h = self._path(x)
        h = self.up2(torch.cat([_grown(h, coarse), coarse], 1))
        return self.last(self.up1(torch.cat([_grown(h, fine), fine], 1)))

    def _path(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.down1(self.normalize(x))
        coarse = self.down2(_halved(fine))
        return fine, coarse, self.middle(_halved(coarse))


class FullyConvolutional(MaskNetwork):
    """Convolutions at half the size, wider and wider apart, and a mask that is enlarged: no way back to the pixels."""

    def __init__(self, image_size: int, in_channels: int = 3, width: int = 16) -> None:
        super().__init__("mask-fcn", 2 * width, image_size, in_channels, width)
        self.first = _block(in_channels, width, stride=2)
        self.wider = nn.Sequential(*(_block(f * width, 2 * width, dilation=d) for f, d in ((1, 1), (2, 2), (2, 4))))
        self.last = nn.Conv2d(2 * width, 1, 1)

    def inner(self, x: Tensor) -> Tensor:
        return self.wider(self.first(self.normalize(x)))

    def masks(self, x: Tensor) -> Tensor:
        return F.interpolate(self.last(self.inner(x)), x.shape[2:], mode="bilinear")


class MaskQuality(nn.Module):
    """An image and a mask of it -> how good the mask is, about 0 to 1: (n, c, h, w), (n, 1, h, w) -> (n,).

    EvalSeg-Net in small: the paper's has a branch each for image, mask and hue, and dense layers at the end.
    """

    def __init__(self, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(in_channels + 1, width, stride=2), _block(width, 2 * width, stride=2), _block(2 * width, 4 * width)
        )
        self.last = nn.Linear(8 * width, 1)

    def forward(self, x: Tensor, masks: Tensor) -> Tensor:
        h = self.body(4 * torch.cat([x, masks], 1) - 2)
        return self.last(torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1))[:, 0]


NETWORKS: dict[str, type[MaskNetwork]] = {"unet": TinyUNet, "fcn": FullyConvolutional}


def network(name: str, image_size: int, in_channels: int, width: int) -> MaskNetwork:
    """A student by its name.

    Raises:
        ArgumentError: an unknown name.
    """
    if name not in NETWORKS:
        raise unknown("students", name, NETWORKS)
    return NETWORKS[name](image_size, in_channels, width)


def drawn_anew(module: nn.Module) -> None:
    """Give every layer the weights of a new one."""
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()


def _block(in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, bias=False),
        nn.GroupNorm(math.gcd(4, out_channels), out_channels),
        nn.ReLU(),
    )


def _halved(h: Tensor) -> Tensor:
    """Sides are rounded up, so that no image is too small."""
    return F.max_pool2d(h, 2, ceil_mode=True)


def _grown(h: Tensor, to: Tensor) -> Tensor:
    return F.interpolate(h, to.shape[2:], mode="nearest")
