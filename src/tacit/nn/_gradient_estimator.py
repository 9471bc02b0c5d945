"""GradientEstimator: what a code of the clean image adds to a trained denoiser (PDAE, Zhang et al., 2022)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.nn._diffusion import Time
from tacit.nn._unet import Residual, SpatialAttention, UNet, Up, _norm, _shrink


class GradientEstimator(nn.Module):
    """A second decoder on a trained U-Net: an estimate of the gradient of log p(z | x_t) in x_t (PDAE).

    It reads the maps of the U-Net's way down and its embedding of time, neither of which it trains, and has a middle
    and a way up of its own. In each of its blocks z scales and shifts the features after the time has done so:

        h = (1 + scale_z) (norm(h) (1 + scale_t) + shift_t) + shift_z

    Args:
        unet: what it will stand on; only its shape is read here.
        dim: of z.

    >>> unet = UNet(8, 1, width=8)
    >>> estimator = GradientEstimator(unet, dim=4)
    >>> given, gradient = estimator(unet, torch.randn(2, 1, 8, 8), torch.tensor([1, 900]), torch.randn(2, 4))
    >>> given.shape, gradient.shape
    (torch.Size([2, 1, 8, 8]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(self, unet: UNet, dim: int) -> None:
        super().__init__()
        time_dim = 4 * unet.config["width"]
        self.code = nn.Linear(dim, time_dim)
        middle, ups, grow = unet.middle, list[Any](unet.ups), list[Any](unet.grow)
        self.middle = _Guided(middle, time_dim)
        self.ups = nn.ModuleList(_Guided(block, time_dim) for block in ups)
        self.grow = nn.ModuleList(Up(up.conv.in_channels) for up in grow)
        channels = ups[-1].conv2.out_channels
        last = nn.Conv2d(channels, unet.in_channels, 3, padding=1)
        self.out = nn.Sequential(_norm(channels), nn.SiLU(), last)
        _shrink(last)

    def forward(self, unet: UNet, x_t: Tensor, t: Time, z: Tensor) -> tuple[Tensor, Tensor]:
        """What the U-Net gives for x_t, without gradient, and the gradient's estimate: both (n, c, h, w).

        Args:
            unet: the trained network.
            x_t: noisy images (n, c, h, w) around [-1, 1].
            t: 1 to n_steps, int or int64 (n,).
            z: codes (n, dim).
        """
        with torch.no_grad():
            maps, time = unet.activations(x_t, t), unet._time(x_t, t, None)
            given = unet.out(maps[unet.layers[-1]])
        code, count = F.silu(self.code(z)), len(self.ups)
        # torch's group norm in channels_last ends the process where its weights want a gradient and its input does not.
        h = self.middle(maps[f"down{count}"].contiguous(), time, code)
        for i, block in enumerate(self.ups):
            across = maps[f"down{count - i}"]
            if i and i % unet.num_res_blocks == 0:
                h = self.grow[i // unet.num_res_blocks - 1](h, across.shape[-2:])
            h = block(torch.cat([h, across], 1), time, code)
        return given, self.out(h)


class _Guided(Residual):
    """A block of the same shape as one of the U-Net's, that is told of z as well."""

    def __init__(self, like: Residual, time_dim: int) -> None:
        attention = isinstance(like.attention, SpatialAttention)
        super().__init__(like.conv1.in_channels, like.conv2.out_channels, time_dim, attention)
        self.guidance = nn.Linear(time_dim, 2 * like.conv2.out_channels)

    def forward(self, x: Tensor, time: Tensor, code: Tensor) -> Tensor:  # type: ignore[override]
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(time)[:, :, None, None].chunk(2, dim=1)
        z_scale, z_shift = self.guidance(code)[:, :, None, None].chunk(2, dim=1)
        h = (1 + z_scale) * (self.norm2(h) * (1 + scale) + shift) + z_shift
        return self.attention(self.shortcut(x) + self.conv2(F.silu(h)))
