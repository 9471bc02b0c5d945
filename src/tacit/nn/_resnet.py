"""Deep Residual Learning for Image Recognition (He et al., 2016)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import ArgumentError, unknown
from tacit.nn._encoder import ImageEncoder


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut: y = ReLU(F(x) + W x) (eqs. 1 and 2, figure 5 left)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(in_channels, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.last_norm = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.last_norm(self.conv2(y))
        return F.relu(y + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, four times as wide at the end (figure 5 right).

    The stride is in the 3x3 convolution, as in every later implementation; the paper has it in the first 1x1.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1, self.norm1 = _conv(in_channels, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.last_norm = _conv(width, out, 1), nn.BatchNorm2d(out)
        self.shortcut = _shortcut(in_channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = F.relu(self.norm2(self.conv2(y)), inplace=True)
        y = self.last_norm(self.conv3(y))
        return F.relu(y + self.shortcut(x), inplace=True)


BLOCKS: dict[int, tuple[type[Basic] | type[Bottleneck], tuple[int, ...]]] = {
    8: (Basic, (1, 1, 1)),
    18: (Basic, (2, 2, 2, 2)),
    34: (Basic, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
"""Depth -> kind of block, number of blocks in each stage."""

STEMS = ("auto", "cifar", "imagenet")


class ResNet(ImageEncoder):
    """Images -> pooled features of a residual network.

    Depth 8 is the paper's network for CIFAR (section 4.2, n = 1): three stages of widths w, 2w and 4w, where the paper
    has w = 16. Depths 18, 34 and 50 have four stages, w to 8w. Shortcuts that change shape are projections (option B).

    Args:
        depth: 8, 18, 34 or 50.
        width: channels w of the first stage.
        in_channels: channels of the images.
        image_size: side in pixels that `prepare` gives; `forward` takes other sizes too.
        stem: `"cifar"`, a 3x3 convolution; `"imagenet"`, a 7x7 convolution of stride 2 and a pool of stride 2;
            `"auto"`, the first up to 64 pixels.
        layer: the features that `forward` and `tokens` read: `"stage1"` and so on; None is the last stage. The whole
            network is there in any case, and `final` runs through all of it.
        zero_init_residual: start the last BatchNorm scale of each block at 0, so that blocks start as their shortcuts
            (Goyal et al., 2017, section 5.1).

    Attributes:
        final_dim: features of the last stage, whatever `layer` says.

    Raises:
        ArgumentError: another depth, stem or layer.

    >>> import torch
    >>> encoder = ResNet(8, width=4, layer="stage2")
    >>> encoder(torch.rand(2, 3, 32, 32)).shape, encoder.tokens(torch.rand(2, 3, 32, 32)).shape
    (torch.Size([2, 8]), torch.Size([2, 256, 8]))
    """

    def __init__(
        self,
        depth: int,
        *,
        width: int = 64,
        in_channels: int = 3,
        image_size: int = 32,
        stem: str = "auto",
        layer: str | None = None,
        zero_init_residual: bool = False,
    ) -> None:
        if depth not in BLOCKS:
            raise ArgumentError(f"depth={depth!r}: expected one of {', '.join(map(str, BLOCKS))}")
        if stem not in STEMS:
            raise unknown("stem", stem, STEMS)
        if stem == "auto":
            stem = "cifar" if image_size <= 64 else "imagenet"
        block, counts = BLOCKS[depth]
        dims = [width * 2**i * block.expansion for i in range(len(counts))]
        names = [f"stage{i + 1}" for i in range(len(counts))]
        if layer is not None and layer not in names:
            raise unknown("layer", layer, names)
        config = {
            "name": f"resnet{depth}",
            "width": width,
            "in_channels": in_channels,
            "image_size": image_size,
            "stem": stem,
            "layer": layer,
            "zero_init_residual": zero_init_residual,
        }
        read = len(names) if layer is None else names.index(layer) + 1
        super().__init__(dim=dims[read - 1], image_size=image_size, in_channels=in_channels, config=config)
        self.final_dim, self._read = dims[-1], read
        self.stem = _stem(stem, in_channels, width)
        self.stages = nn.ModuleList()
        channels = width
        for i, count in enumerate(counts):
            strides = [1 if i == 0 else 2] + [1] * (count - 1)
            blocks = []
            for stride in strides:
                blocks.append(block(channels, width * 2**i, stride))
                channels = dims[i]
            self.stages.append(nn.Sequential(*blocks))
        self._initialize(zero_init_residual)

    def forward(self, x: Tensor) -> Tensor:
        """Mean over space of the features of `layer`: (n, c, h, w) in [0, 1] -> (n, dim)."""
        return self._map(x, self._read).mean((2, 3))

    def tokens(self, x: Tensor) -> Tensor:
        """The features of `layer` at each place, row by row: (n, c, h, w) -> (n, t, dim)."""
        return self._map(x, self._read).flatten(2).transpose(1, 2)

    def final(self, x: Tensor) -> Tensor:
        """Mean over space of the last stage, whatever `layer` says: (n, final_dim). For losses on the whole network."""
        return self._map(x, len(self.stages)).mean((2, 3))

    def _map(self, x: Tensor, stages: int) -> Tensor:
        x = self.stem(self.normalize(x))
        for stage in self.stages[:stages]:
            x = stage(x)
        return x

    def _initialize(self, zero_init_residual: bool) -> None:
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(part, Basic | Bottleneck) and zero_init_residual:
                nn.init.zeros_(part.last_norm.weight)


def _conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


def _stem(kind: str, in_channels: int, width: int) -> nn.Sequential:
    if kind == "cifar":
        return nn.Sequential(_conv(in_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    conv = _conv(in_channels, width, 7, stride=2)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1))
