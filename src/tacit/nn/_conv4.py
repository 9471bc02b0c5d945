"""Conv-4, the network of few-shot learning (Vinyals et al., 2016)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import unknown
from tacit.nn._encoder import ImageEncoder

POOLS = ("flatten", "mean")
BLOCKS = 4


class Conv4(ImageEncoder):
    """Four blocks of a 3x3 convolution, batch normalisation, ReLU and a 2x2 max-pool (section 4.1.1).

    An image of 28 pixels ends as one place of 64 features, one of 84 as 5 x 5 places, which papers lay flat: 1,600
    features. A map of one pixel is not pooled further, so that small images pass too.

    Args:
        width: channels of each block; the paper's 64.
        in_channels: channels of the images.
        image_size: side in pixels that `prepare` gives and, where places are laid flat, that `forward` takes.
        pool: `"flatten"` keeps every place of the last map, `"mean"` averages them.

    Raises:
        ArgumentError: another pool.

    >>> import torch
    >>> Conv4(in_channels=1, image_size=28)(torch.rand(2, 1, 28, 28)).shape, Conv4(image_size=84).dim
    (torch.Size([2, 64]), 1600)
    """

    def __init__(self, *, width: int = 64, in_channels: int = 3, image_size: int = 32, pool: str = "flatten") -> None:
        if pool not in POOLS:
            raise unknown("pool", pool, POOLS)
        side = image_size
        for _ in range(BLOCKS):
            side = max(side // 2, 1)
        config = {
            "name": "conv4",
            "width": width,
            "in_channels": in_channels,
            "image_size": image_size,
            "pool": pool,
        }
        dim = width * side**2 if pool == "flatten" else width
        super().__init__(dim=dim, image_size=image_size, in_channels=in_channels, config=config)
        self.pool = pool
        self.blocks = nn.ModuleList(_block(width if i else in_channels, width) for i in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in [0, 1] -> (n, dim)."""
        x = self._map(x)
        return x.flatten(1) if self.pool == "flatten" else x.mean((2, 3))

    def tokens(self, x: Tensor) -> Tensor:
        """The last map's features at each place, row by row: (n, c, h, w) -> (n, t, width)."""
        return self._map(x).flatten(2).transpose(1, 2)

    def _map(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        for block in self.blocks:
            x = block(x)
            x = F.max_pool2d(x, 2) if min(x.shape[-2:]) > 1 else x
        return x


def _block(in_channels: int, width: int) -> nn.Sequential:
    # no bias, which the normalisation would take away again
    convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
