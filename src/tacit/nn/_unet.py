"""UNet: the network of diffusion models, and its inner features (Ho et al., 2020; Dhariwal & Nichol, 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect, unknown
from tacit.nn._diffusion import Diffusion, Time
from tacit.nn._encoder import ImageEncoder
from tacit.nn._vit import Attention

GROUPS = 8
HEAD_DIM = 32


class Residual(nn.Module):
    """x + F(x, time): two 3x3 convolutions, the second one's input scaled and shifted by the time; then attention.

    Group normalisation, SiLU, convolution, twice (DDPM, appendix B); scale and shift as in ADM (section 3.1).
    """

    def __init__(self, in_channels: int, out_channels: int, time_dim: int, attention: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(in_channels), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2, self.conv2 = _norm(out_channels), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(time_dim, 2 * out_channels)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.attention = SpatialAttention(out_channels) if attention else nn.Identity()
        _shrink(self.conv2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(time)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.attention(self.shortcut(x) + h)


class SpatialAttention(nn.Module):
    """x + attention between all places of a map (n, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        heads = channels // HEAD_DIM if channels % HEAD_DIM == 0 else 1
        self.norm, self.attention = _norm(channels), Attention(channels, heads)
        _shrink(self.attention.out)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(tokens).transpose(1, 2).reshape(x.shape)


class Down(nn.Module):
    """Half the side, rounded up: a 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Up(nn.Module):
    """To the size of the map that waits at the other end of the U: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.conv(F.interpolate(x, size, mode="nearest"))


class UNet(ImageEncoder):
    """Noisy images and their time -> the noise, or the clean images (`denoise`); and an encoder of clean images.

    As an encoder it noises an image once to x_t, with t = `timestep` and always the same noise, runs as far as `layer`
    and averages that map over a `pool` x `pool` grid (Mukhopadhyay et al., 2023). Images of any size go through: sides
    are halved rounding up, and doubled to what they were.

    Args:
        image_size: side in pixels, at least 2 for each halving.
        in_channels: channels of the images.
        width: channels of the first level.
        multipliers: each level's channels over `width`; between levels the side is halved.
        num_res_blocks: residual blocks of a level, on the way down and on the way up.
        attention: sides of the maps after which there is attention, beside the middle; empty: none at all.
        n_classes: classes that `denoise` is told of, or None.
        layer: the block whose map `forward` reads, one of `layers`: `"down1"`, ..., `"middle"`, `"up1"`, ...; None:
            the one in the middle of the way up.
        timestep: noise of the images that `forward` reads, 0 to `n_steps`; None: a fiftieth of `n_steps`.
        pool: side of the grid that `forward` averages over; 1 is the mean.
        n_steps, schedule: of the `Diffusion` which says how much noise `timestep` is.

    Attributes:
        layers: the blocks' names in the order of computation.

    Raises:
        ArgumentError: an unknown layer, a time outside the schedule, an image that is too small to be halved.

    >>> network = UNet(16, 1, width=8, layer="up1", pool=2)
    >>> network.layers
    ('down1', 'down2', 'down3', 'middle', 'up1', 'up2', 'up3')
    >>> x = torch.rand(2, 1, 16, 16)
    >>> network(x).shape, network.denoise(2 * x - 1, torch.tensor([1, 900])).shape  # 16 channels in 2 x 2 cells
    (torch.Size([2, 64]), torch.Size([2, 1, 16, 16]))
    """

    noise: Tensor

    def __init__(
        self,
        image_size: int = 32,
        in_channels: int = 3,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        num_res_blocks: int = 1,
        attention: Sequence[int] = (8,),
        n_classes: int | None = None,
        layer: str | None = None,
        timestep: int | None = None,
        pool: int = 1,
        n_steps: int = 1000,
        schedule: str = "linear",
    ) -> None:
        smallest = 2 ** (len(multipliers) - 1)
        expect("multipliers", multipliers, len(multipliers) >= 1, "one number for each level")
        expect("width", width, width >= 1, "at least 1")
        expect("num_res_blocks", num_res_blocks, num_res_blocks >= 1, "at least 1")
        remedy = "resize the images, or give fewer multipliers"
        expect("image_size", image_size, image_size >= smallest, f"at least {smallest} for this many levels", remedy)
        config: dict[str, Any] = {
            "name": "unet",
            "image_size": image_size,
            "in_channels": in_channels,
            "width": width,
            "multipliers": list(multipliers),
            "num_res_blocks": num_res_blocks,
            "attention": list(attention),
            "n_classes": None,
        }
        super().__init__(dim=1, image_size=image_size, in_channels=in_channels, config=config)
        self.std.fill_(0.5)  # [0, 1] -> [-1, 1]
        self.num_res_blocks = num_res_blocks
        time_dim, widths = 4 * width, [width * m for m in multipliers]
        sides = [math.ceil(image_size / 2**i) for i in range(len(widths))]
        attends = [side in attention for side in sides]
        self.time = nn.Sequential(nn.Linear(width, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim), nn.SiLU())
        self.classes: nn.Embedding | None = None
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(map(Down, widths[:-1])), nn.ModuleList(map(Up, widths[:0:-1]))
        channels, reads = width, []
        for level, attend in zip(widths, attends, strict=True):
            for _ in range(num_res_blocks):
                self.downs.append(Residual(channels, level, time_dim, attend))
                channels = level
                reads.append(channels)
        self.middle = Residual(channels, channels, time_dim, bool(attention))
        reads.append(channels)
        for level, attend in zip(widths[::-1], attends[::-1], strict=True):
            for _ in range(num_res_blocks):
                self.ups.append(Residual(channels + level, level, time_dim, attend))
                channels = level
                reads.append(channels)
        last = nn.Conv2d(channels, in_channels, 3, padding=1)
        self.out = nn.Sequential(_norm(channels), nn.SiLU(), last)
        _shrink(last)
        count = len(self.downs)
        names = [f"down{i + 1}" for i in range(count)] + ["middle"] + [f"up{i + 1}" for i in range(count)]
        self.layers, self._channels = tuple(names), dict(zip(names, reads, strict=True))
        fixed = torch.randn(1, in_channels, image_size, image_size, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", fixed)
        if n_classes is not None:
            self.tell_classes(n_classes)
        self.read(layer or f"up{count // 2 + 1}", timestep, pool, n_steps=n_steps, schedule=schedule)

    def tell_classes(self, n_classes: int) -> Self:
        """Make room for classes in a network without: `denoise` is then told of them. In place.

        Raises:
            ArgumentError: no class, or it has another number of them already.
        """
        expect("n_classes", n_classes, n_classes >= 1, "at least 1")
        now = self.config["n_classes"]
        expect("n_classes", n_classes, now in (None, n_classes), f"{now}, as the network was built")
        if self.classes is None:
            self.classes = nn.Embedding(n_classes + 1, 4 * self.config["width"])  # the first row is "no class"
            nn.init.normal_(self.classes.weight, std=0.02)
            self.config = {**self.config, "n_classes": n_classes}
        return self

    def read(
        self,
        layer: str | None = None,
        timestep: int | None = None,
        pool: int | None = None,
        *,
        n_steps: int | None = None,
        schedule: str | None = None,
    ) -> Self:
        """Set what `forward` and `tokens` read; None keeps what is. `dim` and `config` follow. In place.

        A new `n_steps` without a timestep sets the timestep to its fiftieth.

        Raises:
            ArgumentError: an unknown layer, a time outside the schedule, a grid without a cell.
        """
        now = self.config
        layer, pool = layer or now["layer"], now["pool"] if pool is None else pool
        steps, schedule = n_steps or now["n_steps"], schedule or now["schedule"]
        if timestep is None:
            timestep = now["timestep"] if steps == now.get("n_steps") else max(1, round(steps / 50))
        if layer not in self.layers:
            raise unknown("layer", layer, self.layers)
        expect("pool", pool, pool >= 1, "the side of a grid, at least 1")
        expect("timestep", timestep, 0 <= timestep <= steps, f"a time from 0 to n_steps={steps}")
        words = {"layer": layer, "timestep": timestep, "pool": pool, "n_steps": steps, "schedule": schedule}
        self.config = {**now, **words}
        self.dim = self._channels[layer] * pool**2
        alpha_bar = Diffusion(steps, schedule).log_alpha_bar.double().exp()[timestep].item()
        self._signal, self._deviation = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Averages of `layer` over the cells of the grid: (n, c, h, w) in [0, 1] -> (n, dim), channel by channel."""
        return F.adaptive_avg_pool2d(self._map(x), self.config["pool"]).flatten(1)

    def tokens(self, x: Tensor) -> Tensor:
        """The features of `layer` at each place, row by row, before any pooling: (n, c, h, w) -> (n, t, channels)."""
        return self._map(x).flatten(2).transpose(1, 2)

    def denoise(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Tensor:
        """What the denoiser is trained to give, of x_t (n, c, h, w) around [-1, 1].

        Args:
            x_t: noisy images.
            t: time, int or int64 (n,).
            y: classes, int64 (n,); -1, or None for all: without a class.

        Raises:
            ArgumentError: a class for a network without.
        """
        return self.out(self.activations(x_t, t, y)[self.layers[-1]])

    def activations(
        self, x_t: Tensor, t: Time, y: Tensor | None = None, *, until: str | None = None
    ) -> dict[str, Tensor]:
        """The map of each block in the order of `layers`, each (n, channels, h, w), as far as `until`."""
        time = self._time(x_t, t, y)
        h, maps = self.stem(x_t), {}
        for i, block in enumerate(self.downs):
            if i and i % self.num_res_blocks == 0:
                h = self.shrink[i // self.num_res_blocks - 1](h)
            h = maps[f"down{i + 1}"] = block(h, time)
            if until == f"down{i + 1}":
                return maps
        h = maps["middle"] = self.middle(h, time)
        if until == "middle":
            return maps
        for i, block in enumerate(self.ups):
            across = maps[f"down{len(self.downs) - i}"]
            if i and i % self.num_res_blocks == 0:
                h = self.grow[i // self.num_res_blocks - 1](h, across.shape[-2:])
            h = maps[f"up{i + 1}"] = block(torch.cat([h, across], 1), time)
            if until == f"up{i + 1}":
                break
        return maps

    def maps(self, x: Tensor, *, until: str | None = None) -> dict[str, Tensor]:
        """`activations` of clean images (n, c, h, w) in [0, 1] at `timestep`, noised as `forward` does it."""
        clean = self.normalize(x)
        x_t = self._signal * clean + self._deviation * self._noise_for(clean)
        return self.activations(x_t, self.config["timestep"], until=until)

    def _map(self, x: Tensor) -> Tensor:
        layer = self.config["layer"]
        return self.maps(x, until=layer)[layer]

    def _noise_for(self, x: Tensor) -> Tensor:
        """(1, c, h, w), repeated beyond the size that the network was made for."""
        height, width = x.shape[-2:]
        side = self.noise.shape[-1]
        if (height, width) == (side, side):
            return self.noise
        return self.noise.tile(1, 1, math.ceil(height / side), math.ceil(width / side))[..., :height, :width]

    def _time(self, x: Tensor, t: Time, y: Tensor | None) -> Tensor:
        times = torch.as_tensor(t, device=x.device).expand(x.shape[0])
        embedded = self.time[:3](_sinusoids(times, self.config["width"]).to(x.dtype))
        expect("y", "classes", y is None or self.classes is not None, "None: this network is not told of classes",
               "build it with n_classes=")  # fmt: skip
        if self.classes is not None:
            row = torch.zeros_like(times) if y is None else y + 1
            embedded = embedded + self.classes(row)
        return self.time[3](embedded)


def _sinusoids(t: Tensor, dim: int) -> Tensor:
    """Sines and cosines of t at frequencies from 1 to 1/10000 (Vaswani et al., 2017, section 3.5): (n,) -> (n, dim)."""
    half = (dim + 1) // 2
    frequencies = (torch.arange(half, device=t.device) * (-math.log(10000) / max(half - 1, 1))).exp()
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :dim]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


@torch.no_grad()
def _shrink(last: nn.Linear | nn.Conv2d) -> None:
    """Blocks start as their shortcuts, almost: the papers start at 0, where half of the network gets no gradient."""
    last.weight.mul_(1e-2)
    if last.bias is not None:
        last.bias.zero_()
