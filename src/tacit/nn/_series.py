"""Encoders of time series: the transformer of TST (Zerveas et al., 2021) and dilated convolutions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.data import average_steps
from tacit.errors import expect, unknown
from tacit.nn._item_encoder import ItemEncoder

POOLS = ("mean", "concat")


class SeriesEncoder(ItemEncoder):
    """Series (n, in_channels, length), float, NaN where there is no value -> embeddings (n, dim).

    `fit_prepare` fits mean and deviation of each channel and, for series longer than `length`, how many steps are
    averaged into one (`stride`). `forward` standardises, and a missing value counts as its channel's mean. A step of
    which no channel has a value is none: no other step sees it, and no mean counts it.

    Attributes:
        embed_dim: features of a token; `dim` is as many, or `length` times as many with `pool="concat"`.
        in_channels: variables of a series.
        length: steps that the network sees, at most.
    """

    modality: ClassVar[str] = "series"
    mean: Tensor
    std: Tensor
    stride: Tensor

    def __init__(self, in_channels: int, length: int, embed_dim: int, pool: str, config: dict[str, Any]) -> None:
        super().__init__()
        expect("in_channels", in_channels, in_channels >= 1, "a number of variables, at least 1")
        expect("length", length, length >= 1, "a number of steps, at least 1")
        if pool not in POOLS:
            raise unknown("pool", pool, POOLS)
        self.in_channels, self.length, self.embed_dim, self.pool = in_channels, length, embed_dim, pool
        self.dim = embed_dim * (length if pool == "concat" else 1)
        self.config = {**config, "in_channels": in_channels, "length": length, "embed_dim": embed_dim, "pool": pool}
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("std", torch.ones(in_channels))
        self.register_buffer("stride", torch.tensor(1))

    def fit_prepare(self, items: Any) -> SeriesEncoder:
        """Mean and deviation of each channel over all values there are (0 and 1 of a channel that has none, deviation 1
        of a constant one), and the stride that brings the longest series down to `length`."""
        series = _as_list(items, self.in_channels)
        longest = max((one.shape[1] for one in series), default=1)
        self.stride.fill_(math.ceil(longest / self.length))
        values = np.concatenate([one.astype(np.float64) for one in series] or [np.zeros((self.in_channels, 0))], axis=1)
        mean, std = _nan_mean(values, 1), _nan_mean((values - _nan_mean(values, 1)[:, None]) ** 2, 1) ** 0.5
        mean, std = np.nan_to_num(mean), np.nan_to_num(std)
        std[std <= 1e-9 * np.abs(mean)] = 1  # constant but for rounding
        self.mean.copy_(torch.as_tensor(mean, dtype=self.mean.dtype))
        self.std.copy_(torch.as_tensor(std, dtype=self.std.dtype))
        return self

    def prepare(self, items: Any) -> Tensor:
        """Raw series to float32 (n, in_channels, length): strided by means, cut at `length` steps, padded with NaN.

        Args:
            items: array (n, in_channels, time) or (n, time); a list of (in_channels, time) arrays of unequal length; or
                a tensor. A float32 tensor (n, in_channels, length) counts as prepared and comes back as it is.

        Raises:
            ArgumentError: another shape, or another number of channels.
        """
        shape = (self.in_channels, self.length)
        if isinstance(items, Tensor) and items.dtype == torch.float32 and items.shape[1:] == shape:
            return items.to(self.mean.device)
        series = _as_list(items, self.in_channels)
        stride = int(self.stride)
        x = np.full((len(series), self.in_channels, self.length), np.nan, np.float32)
        for row, one in zip(x, series, strict=True):
            pooled = average_steps(one, stride)[:, : self.length]
            row[:, : pooled.shape[1]] = pooled
        return torch.from_numpy(x).to(self.mean.device)

    def mask(self, x: Tensor) -> Tensor:
        """The steps of which some channel has a value: (n, in_channels, t) -> bool (n, t)."""
        return ~x.isnan().all(dim=1)

    def normalize(self, x: Tensor) -> Tensor:
        """(x - mean) / std of each channel, and 0 for what is missing."""
        ok = x.ndim == 3 and x.shape[1] == self.in_channels and x.shape[2] <= self.length
        expected = f"(n, {self.in_channels}, at most {self.length})"
        expect("x.shape", tuple(x.shape), ok, expected, "encoder.prepare(x) converts series")
        return ((x - self.mean[:, None]) / self.std[:, None]).nan_to_num(nan=0.0)

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """A vector for each step, 0 where there is none: (n, in_channels, t) -> (n, t, embed_dim).

        Args:
            mask: bool (n, t), the steps that there are; those of `mask(x)` if None. Masked modelling hides the values
                of a step, which stays one.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no tokens")

    def forward(self, x: Tensor) -> Tensor:
        """The mean over the steps, or the vectors of all steps one after the other: (n, in_channels, t) -> (n, dim)."""
        mask = self.mask(x)
        tokens = self.tokens(x, mask)
        if self.pool == "concat":
            return F.pad(tokens, (0, 0, 0, self.length - tokens.shape[1])).flatten(1)
        return tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


class SeriesTransformer(SeriesEncoder):
    """TST's encoder (arXiv:2010.02803, section 3.1): a transformer over steps, with BatchNorm for LayerNorm.

        u_t = sqrt(embed_dim) W_p x_t + b + w_t             a linear map of each step, learned positions w_t
        a   = norm(u + attention(u)),  u' = norm(a + mlp(a))        in each layer; GELU after the last

    The norms take their statistics over the steps that there are; the official code counts padding as well.

    Args:
        in_channels: variables of a series.
        length: steps that the network sees, at most; there are as many positions.
        embed_dim: features of a token.
        num_layers: blocks.
        num_heads: attention heads, a divisor of `embed_dim`.
        mlp_ratio: width of a block's hidden layer over `embed_dim`.
        dropout: share dropped of what each sub-layer adds, and of the tokens.
        pool: `"mean"` over the steps, or `"concat"`: all steps one after the other, as the paper fine-tunes.

    Raises:
        ArgumentError: a value out of range.

    >>> encoder = SeriesTransformer(2, length=8, embed_dim=16).eval()
    >>> x = encoder.prepare([np.ones((2, 5)), np.ones((2, 8))])
    >>> encoder(x).shape, encoder.tokens(x).shape, encoder.mask(x).sum(1).tolist()
    (torch.Size([2, 16]), torch.Size([2, 8, 16]), [5, 8])
    """

    def __init__(
        self,
        in_channels: int = 1,
        length: int = 128,
        embed_dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        *,
        mlp_ratio: float = 4,
        dropout: float = 0.1,
        pool: str = "mean",
    ) -> None:
        expect("num_heads", num_heads, embed_dim % num_heads == 0, f"a divisor of embed_dim={embed_dim}")
        expect("dropout", dropout, 0 <= dropout < 1, "a share, at least 0 and below 1")
        config = {"name": "series-transformer", "num_layers": num_layers, "num_heads": num_heads}
        config |= {"mlp_ratio": mlp_ratio, "dropout": dropout}
        super().__init__(in_channels, length, embed_dim, pool, config)
        self.embed = nn.Linear(in_channels, embed_dim)
        self.positions = nn.Parameter(torch.empty(length, embed_dim).uniform_(-0.02, 0.02))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(embed_dim, num_heads, mlp_ratio, dropout) for _ in range(num_layers))

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = self.mask(x) if mask is None else mask
        u = self.embed(self.normalize(x).transpose(1, 2)) * math.sqrt(self.embed_dim)
        u = self.dropout(u + self.positions[: u.shape[1]])
        for block in self.blocks:
            u = block(u, mask)
        return self.dropout(F.gelu(u)) * mask[..., None]


class SeriesCNN(SeriesEncoder):
    """Residual blocks of dilated convolutions over steps, 2^i apart in block i (Bai et al., 2018; not causal here).

    Args:
        in_channels: variables of a series.
        length: steps that the network sees, at most.
        embed_dim: features of a token.
        num_layers: blocks of two convolutions; a token sees 2^(num_layers + 2) - 1 steps at a kernel of 3.
        kernel_size: odd.
        pool: `"mean"` over the steps, or `"concat"`: all steps one after the other.

    Raises:
        ArgumentError: a value out of range.

    >>> SeriesCNN(3, length=50)(torch.randn(4, 3, 50)).shape
    torch.Size([4, 64])
    """

    def __init__(
        self,
        in_channels: int = 1,
        length: int = 128,
        embed_dim: int = 64,
        num_layers: int = 4,
        *,
        kernel_size: int = 3,
        pool: str = "mean",
    ) -> None:
        expect("kernel_size", kernel_size, kernel_size % 2 == 1, "an odd number of steps")
        config = {"name": "series-cnn", "num_layers": num_layers, "kernel_size": kernel_size}
        super().__init__(in_channels, length, embed_dim, pool, config)
        self.stem = nn.Conv1d(in_channels, embed_dim, 1)
        self.blocks = nn.ModuleList(_ConvBlock(embed_dim, kernel_size, 2**i) for i in range(num_layers))

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = self.mask(x) if mask is None else mask
        u = self.stem(self.normalize(x)).transpose(1, 2) * mask[..., None]
        for block in self.blocks:
            u = block(u, mask)
        return u


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.attention = _Attention(dim, num_heads, dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim))
        self.norm1, self.norm2, self.dropout = _StepNorm(dim), _StepNorm(dim), nn.Dropout(dropout)

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        a = self.norm1(u + self.dropout(self.attention(u, mask)), mask)
        return self.norm2(a + self.dropout(self.mlp(a)), mask)


class _Attention(nn.Module):
    """Multi-head self-attention to the steps that there are: (n, t, dim), (n, t) -> (n, t, dim)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        n, t, dim = u.shape
        q, k, v = self.qkv(u).view(n, t, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        seen = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]  # a softmax over nothing would be NaN
        found = F.scaled_dot_product_attention(q, k, v, seen, self.dropout if self.training else 0.0)
        return self.out(found.transpose(1, 2).reshape(n, t, dim))


class _ConvBlock(nn.Module):
    def __init__(self, dim: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        room = dilation * (kernel_size - 1) // 2
        self.conv1, self.conv2 = (
            nn.Conv1d(dim, dim, kernel_size, padding=room, dilation=dilation, bias=False) for _ in range(2)
        )
        self.norm1, self.norm2 = _StepNorm(dim), _StepNorm(dim)

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        found = F.gelu(self.norm1(self.conv1(u.transpose(1, 2)).transpose(1, 2), mask)) * mask[..., None]
        found = self.norm2(self.conv2(found.transpose(1, 2)).transpose(1, 2), mask)
        return F.gelu(u + found) * mask[..., None]  # 0 past the end, where the next convolution looks


class _StepNorm(nn.BatchNorm1d):
    """BatchNorm over the steps that there are of all items: (n, t, dim), (n, t) -> (n, t, dim)."""

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        if not self.training:
            return super().forward(u.transpose(1, 2)).transpose(1, 2)
        steps = u[mask]
        if len(steps) < 2:  # no variance of one step
            return u
        return u.new_zeros(u.shape).masked_scatter(mask[..., None], super().forward(steps).to(u.dtype))


def _nan_mean(values: np.ndarray, axis: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN, as is wanted here
        return np.nanmean(values, axis=axis)


def _as_list(items: Any, channels: int) -> Sequence[np.ndarray]:
    """Series (channels, time) each, infinite values missing."""
    if isinstance(items, Tensor):
        items = items.detach().cpu().numpy()
    if isinstance(items, np.ndarray) and items.ndim == 2:
        items = items[:, None]
    series = [np.asarray(one, np.float32) for one in items]
    series = [one[None] if one.ndim == 1 else one for one in series]
    wrong = next((one.shape for one in series if one.ndim != 2 or len(one) != channels), None)
    remedy = f"build the encoder with in_channels={wrong[0]}" if wrong else ""
    expect("shape of a series", wrong, wrong is None, f"({channels}, time)", remedy)
    return [np.where(np.isfinite(one), one, np.float32(np.nan)) for one in series]
