"""Encoders of sound: log-mel and a small CNN, log-mel and a Transformer, and wav2vec's convolutions on raw samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.data._audio import mel_filters, to_int16
from tacit.errors import ArgumentError, expect
from tacit.nn._item_encoder import ItemEncoder
from tacit.nn._vit import Block, initialize_linear

FLOOR = 1e-3
"""Added to the power of a band before the logarithm: about 57 dB below the mean of a clip of level 1."""
FITTED_ON = 1000
"""Clips that `fit_prepare` looks at."""


def wave_lengths(x: Tensor) -> Tensor:
    """Samples of each clip before the zeros that pad it: (n, samples) -> int64 (n,).

    Raises:
        ArgumentError: x is no batch of sounds.
    """
    ok = x.ndim == 2 and (x.dtype == torch.int16 or x.is_floating_point())
    expect("x", (tuple(x.shape), x.dtype), ok, "(n, samples), int16 or float", "encoder.prepare(x) converts sounds")
    place = torch.arange(1, x.shape[1] + 1, device=x.device)
    return ((x != 0) * place).amax(1)


def count_frames(lengths: Tensor, window: int, hop: int) -> Tensor:
    """Windows that lie wholly within; at least 1, so that a clip shorter than one still has something to average."""
    return ((lengths - window).div(hop, rounding_mode="floor") + 1).clamp_min(1)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the frames that are there: (n, t, d), bool (n, t) -> (n, d)."""
    weights = mask.to(tokens.dtype)
    return torch.einsum("ntd,nt->nd", tokens, weights / weights.sum(1, keepdim=True).clamp_min(1))


class LogMel(nn.Module):
    """log(energy in each mel band + floor), window by window.

    Windows are Hann (periodic), not padded: window i covers the samples from i * hop on, and only whole windows count.
    Their power spectra (FFT of the next power of two) go through triangles of height 1 that lie evenly on the mel scale
    of HTK, from 0 Hz to half the sample rate.

    Args:
        sample_rate: samples a second.
        n_mels: bands.
        window: seconds of a window.
        hop: seconds from one to the next.
        floor: added before the logarithm (natural); for samples in [-1, 1].

    Attributes:
        window, hop, n_fft: in samples.

    Raises:
        ArgumentError: a band so narrow that no frequency of the FFT lies in it.

    >>> LogMel()(torch.rand(2, 8000)).shape
    torch.Size([2, 98, 40])
    """

    def __init__(
        self,
        sample_rate: int = 8000,
        n_mels: int = 40,
        window: float = 0.025,
        hop: float = 0.010,
        floor: float = 1e-6,
    ) -> None:
        super().__init__()
        expect("sample_rate", sample_rate, sample_rate >= 100, "samples a second, at least 100")
        self.window, self.hop, self.floor = round(window * sample_rate), max(round(hop * sample_rate), 1), floor
        self.n_fft = 2 ** math.ceil(math.log2(self.window))
        filters = mel_filters(sample_rate, self.n_fft, n_mels)
        empty = int((filters.sum(axis=1) == 0).sum())
        expect(
            "n_mels", n_mels, empty == 0, f"fewer bands: {empty} hold no frequency of the FFT of {self.n_fft} samples"
        )
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        self.register_buffer("taper", torch.hann_window(self.window), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """float (n, samples) -> (n, frames, n_mels); a clip shorter than a window is padded to one."""
        wave = F.pad(wave, (0, max(self.window - wave.shape[1], 0)))
        # torch.stft puts a window that is shorter than the FFT in the middle of it; the padding puts it back
        left = (self.n_fft - self.window) // 2
        with torch.autocast(wave.device.type, enabled=False):
            wave = F.pad(wave.float(), (left, self.n_fft - self.window - left))
            spectra = torch.stft(
                wave, self.n_fft, self.hop, self.window, self.taper, center=False, return_complex=True
            )  # (n, bins, frames)
            power = torch.view_as_real(spectra).square().sum(-1)
            return (power.transpose(1, 2) @ self.filters.T + self.floor).log()


class AudioEncoder(ItemEncoder):
    """Sounds (n, samples), int16 or float in [-1, 1] -> embeddings (n, dim): the mean of `tokens` over the frames.

    Zeros at the end pad: no frame that reaches into them counts. Each clip is brought to level 1 (root of the mean
    square) first, so that loudness says nothing. Subclasses write `tokens`, `window` and `hop`.

    Attributes:
        sample_rate: samples a second that it reads.
        seconds: length to which `prepare` cuts or pads.
        samples: the same in samples.
        window, hop: samples that a token sees at its first layers, and from one token to the next.
    """

    modality: ClassVar[str] = "audio"
    window: int
    hop: int

    def __init__(self, *, dim: int, sample_rate: int, seconds: float, config: dict[str, Any]) -> None:
        super().__init__()
        expect("sample_rate", sample_rate, sample_rate >= 100, "samples a second, at least 100")
        expect("seconds", seconds, seconds * sample_rate >= 1, "a length above 0")
        self.dim, self.sample_rate, self.seconds = dim, sample_rate, seconds
        self.samples = round(seconds * sample_rate)
        self.config = {**config, "sample_rate": sample_rate, "seconds": seconds}

    def prepare(self, items: Tensor | np.ndarray | Sequence[Any]) -> Tensor:
        """Raw sounds to the batch that `forward` takes: int16 (n, samples), mono, cut or padded with zeros.

        Args:
            items: a list of (float array (samples,) or (samples, channels), sample_rate), or of arrays that are at the
                encoder's own rate already; or a tensor or array int16 (n, any samples) or float (n, samples) of such.

        Raises:
            ArgumentError: another shape or type, NaN.

        >>> AudioCNN(seconds=0.5).prepare([(np.full((4410, 2), 0.5, np.float32), 44100)]).shape
        torch.Size([1, 4000])
        """
        if isinstance(items, np.ndarray) and items.dtype != object:
            items = torch.from_numpy(items)
        if isinstance(items, Tensor):
            shape = tuple(items.shape)
            expect("items.shape", shape, items.ndim == 2, "sounds (n, samples)", "give a single one as x[None]")
            if items.dtype == torch.int16:
                short = self.samples - items.shape[1]
                return F.pad(items.to(self._device), (0, short)) if short else items.to(self._device)
            items = list(items.cpu().numpy())
        batch = torch.zeros(len(items), self.samples, dtype=torch.int16)
        for i, item in enumerate(items):
            wave, rate = item if isinstance(item, tuple) else (item, self.sample_rate)
            batch[i] = torch.from_numpy(to_int16(_checked(wave), rate, self.sample_rate, self.samples))
        return batch.to(self._device)

    def waves(self, x: Tensor) -> Tensor:
        """Samples at level 1: (n, samples), int16 or float in [-1, 1] -> float32."""
        lengths = wave_lengths(x)
        wave = x.float() / 32768 if x.dtype == torch.int16 else x.float()
        power = wave.square().sum(1, keepdim=True) / lengths[:, None].clamp_min(1)
        return wave * (power + 1e-10).rsqrt()

    def mask(self, x: Tensor) -> Tensor:
        """Frames that lie within the sound: (n, samples) -> bool (n, t)."""
        return self.mask_of(wave_lengths(x), x.shape[1])

    def mask_of(self, lengths: Tensor, samples: int) -> Tensor:
        """The same from the lengths of the clips in samples (n,)."""
        frames = count_frames(torch.tensor([samples], device=lengths.device), self.window, self.hop)
        return torch.arange(int(frames), device=lengths.device) < count_frames(lengths, self.window, self.hop)[:, None]

    def tokens(self, x: Tensor) -> Tensor:
        """(n, samples) -> (n, t, dim)."""
        raise NotImplementedError(f"{type(self).__name__} defines no tokens")

    def forward(self, x: Tensor) -> Tensor:
        """(n, samples) -> (n, dim)"""
        return masked_mean(self.tokens(x), self.mask(x))

    @property
    def _device(self) -> torch.device:
        return next(tensor.device for tensor in (*self.parameters(), *self.buffers()))


def _checked(wave: Any) -> np.ndarray:
    wave = wave.cpu().numpy() if isinstance(wave, Tensor) else np.asarray(wave)
    if wave.dtype == np.int16:
        wave = wave.astype(np.float32) / 32768
    ok = wave.ndim in (1, 2) and wave.size > 0 and wave.dtype.kind == "f"
    expect("item", (wave.shape, str(wave.dtype)), ok, "floats or int16 (samples,) or (samples, channels), not empty")
    if not np.isfinite(wave).all():
        raise ArgumentError("item: expected numbers; some samples are NaN or infinite")
    return wave


class LogMelEncoder(AudioEncoder):
    """What the encoders on log-mel frames have in common: the front end, and each band brought to mean 0, deviation 1.

    Attributes:
        mean, std: of each band (n_mels,), fitted by `fit_prepare` to at most 1,000 clips.
    """

    def __init__(
        self, *, dim: int, sample_rate: int, seconds: float, n_mels: int, reduction: int, config: dict[str, Any]
    ) -> None:
        super().__init__(dim=dim, sample_rate=sample_rate, seconds=seconds, config={**config, "n_mels": n_mels})
        self.log_mel = LogMel(sample_rate, n_mels, floor=FLOOR)
        self.n_mels, self.reduction = n_mels, reduction
        # a token of a network that halves the frames r times is a mean of about `reduction` of them
        self.hop = self.log_mel.hop * reduction
        self.window = self.log_mel.window
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("std", torch.ones(n_mels))

    def fit_prepare(self, items: Any) -> Self:
        """Fit mean and deviation of each band to the frames of these clips, evenly picked where there are many."""
        picked = np.linspace(0, len(items) - 1, min(len(items), FITTED_ON)).astype(int)
        x = self.prepare(items[picked] if isinstance(items, Tensor | np.ndarray) else [items[i] for i in picked])
        frames = self.log_mel(self.waves(x))[self._frames_heard(x)].double()
        self.mean.copy_(frames.mean(0))
        self.std.copy_(frames.std(0, correction=0).clamp_min(1e-3))
        return self

    def frames(self, x: Tensor) -> Tensor:
        """Normalised log-mel frames, 0 where the sound has ended: (n, samples) -> (n, t, n_mels)."""
        frames = (self.log_mel(self.waves(x)) - self.mean) / self.std
        return frames * self._frames_heard(x)[:, :, None]

    def _frames_heard(self, x: Tensor) -> Tensor:
        heard = count_frames(wave_lengths(x), self.log_mel.window, self.log_mel.hop)
        count = 1 + max(x.shape[1] - self.log_mel.window, 0) // self.log_mel.hop
        return torch.arange(count, device=x.device) < heard[:, None]


class LogMelStatistics(LogMelEncoder):
    """Mean and deviation over time of each band, through a linear map that `tacit.pretrain.LogMelPCA` solves for.

    Args:
        dim: components; the map is (2 * n_mels, dim), at first the identity's first columns.
        sample_rate, seconds: of the sounds.
        n_mels: bands.
    """

    def __init__(self, dim: int = 32, *, sample_rate: int = 8000, seconds: float = 1.0, n_mels: int = 40) -> None:
        config = {"name": "audio-log-mel", "dim": dim}
        expect("dim", dim, 1 <= dim <= 2 * n_mels, f"1 to {2 * n_mels}, twice n_mels")
        super().__init__(dim=dim, sample_rate=sample_rate, seconds=seconds, n_mels=n_mels, reduction=1, config=config)
        self.register_buffer("center", torch.zeros(2 * n_mels))
        self.register_buffer("directions", torch.eye(2 * n_mels, dim))

    def statistics(self, x: Tensor) -> Tensor:
        """Means and deviations over time of the log-mel bands: (n, samples) -> (n, 2 * n_mels)."""
        frames, heard = self.frames(x), self._frames_heard(x)
        mean = masked_mean(frames, heard)
        variance = masked_mean((frames - mean[:, None]).square(), heard)
        return torch.cat([mean, variance.sqrt()], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, samples) -> (n, dim)"""
        with torch.autocast(x.device.type, enabled=False):
            return (self.statistics(x) - self.center) @ self.directions

    def tokens(self, x: Tensor) -> Tensor:
        """The normalised log-mel frames themselves: (n, samples) -> (n, t, n_mels)."""
        return self.frames(x)


class AudioCNN(LogMelEncoder):
    """log-mel -> three convolutions that halve both axes -> a linear layer over the bands -> mean over time.

    Args:
        width: channels of the first convolution; the others have twice and four times as many.
        dim: features of a token; None: 4 * width.
        sample_rate: samples a second.
        seconds: length to which sounds are cut or padded.
        n_mels: bands.

    >>> encoder = AudioCNN(8, seconds=0.5)
    >>> encoder(encoder.prepare([np.sin(np.arange(3000) / 5)])).shape
    torch.Size([1, 32])
    """

    def __init__(
        self,
        width: int = 32,
        dim: int | None = None,
        *,
        sample_rate: int = 8000,
        seconds: float = 1.0,
        n_mels: int = 40,
    ) -> None:
        dim = 4 * width if dim is None else dim
        config = {"name": "audio-cnn", "width": width, "dim": dim}
        super().__init__(dim=dim, sample_rate=sample_rate, seconds=seconds, n_mels=n_mels, reduction=8, config=config)
        channels = (1, width, 2 * width, 4 * width)
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(channels)
            )
        )
        self.out = nn.Linear(channels[-1] * math.ceil(n_mels / 8), dim)

    def tokens(self, x: Tensor) -> Tensor:
        """(n, samples) -> (n, t / 8, dim)"""
        return self.tokens_of(self.frames(x))

    def tokens_of(self, frames: Tensor) -> Tensor:
        """From frames, which views may have masked: (n, t, n_mels) -> (n, t / 8, dim)."""
        maps = self.convolutions(frames[:, None])  # (n, c, t / 8, bands / 8)
        return self.out(maps.permute(0, 2, 1, 3).flatten(2))

    def mask_of(self, lengths: Tensor, samples: int) -> Tensor:
        return _reduced_mask(self.log_mel, lengths, samples, self.reduction)


def _reduced_mask(log_mel: LogMel, lengths: Tensor, samples: int, reduction: int) -> Tensor:
    """Tokens of convolutions that halve the frames (kernel 3, padding 1): token i stands at frame i * reduction."""
    count = math.ceil((1 + max(samples - log_mel.window, 0) // log_mel.hop) / reduction)
    heard = count_frames(lengths, log_mel.window, log_mel.hop)
    return torch.arange(count, device=lengths.device) * reduction < heard[:, None]


class AudioTransformer(LogMelEncoder):
    """log-mel -> two convolutions that take in time -> Transformer blocks -> mean over time: the stack of w2v-BERT.

    w2v-BERT's feature encoder is two 2-d convolutions of stride (2, 2). Its Conformer blocks are Transformer blocks
    (pre-norm) here; a convolution over time before them says where a token stands (wav2vec 2.0, section 2).

    Args:
        dim: features of a token, a multiple of `num_heads`.
        num_layers: blocks.
        num_heads: attention heads.
        reduction: log-mel frames to a token: 4 as in the paper, or 2 or 1 for short sounds.
        width: channels of the convolutions.
        layer: what `forward` and `tokens` read: `"block1"` and so on; None is the output, after the last norm.
        sample_rate, seconds, n_mels: as in `AudioCNN`.

    >>> AudioTransformer(32, 1, 2, seconds=0.5)(torch.randn(3, 4000)).shape
    torch.Size([3, 32])
    """

    def __init__(
        self,
        dim: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        *,
        reduction: int = 4,
        width: int = 16,
        layer: str | None = None,
        sample_rate: int = 8000,
        seconds: float = 1.0,
        n_mels: int = 40,
    ) -> None:
        expect("num_heads", num_heads, dim % num_heads == 0, f"a divisor of dim={dim}")
        expect("reduction", reduction, reduction in (1, 2, 4), "1, 2 or 4")
        names = [f"block{i + 1}" for i in range(num_layers)]
        expect("layer", layer, layer is None or layer in names, f"None or one of {', '.join(names)}")
        config = {
            "name": "audio-transformer",
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "reduction": reduction,
            "width": width,
            "layer": layer,
        }
        super().__init__(
            dim=dim, sample_rate=sample_rate, seconds=seconds, n_mels=n_mels, reduction=reduction, config=config
        )
        self._read = None if layer is None else names.index(layer) + 1
        strides = {1: (1, 1), 2: (2, 1), 4: (2, 2)}[reduction]
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=(strides[0], 2), padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=(strides[1], 2), padding=1),
            nn.GELU(),
        )
        self.project = nn.Linear(width * math.ceil(n_mels / 4), dim)
        self.feature_norm = nn.LayerNorm(dim)
        self.positions = nn.Conv1d(dim, dim, 15, padding=7, groups=dim // math.gcd(dim, 16))
        self.blocks = nn.ModuleList(MaskedBlock(dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        initialize_linear(self.blocks)

    def mask_of(self, lengths: Tensor, samples: int) -> Tensor:
        return _reduced_mask(self.log_mel, lengths, samples, self.reduction)

    def features(self, x: Tensor) -> Tensor:
        """What the blocks are given, and what is masked in training: (n, samples) -> (n, t, dim)."""
        maps = self.convolutions(self.frames(x)[:, None])  # (n, width, t, bands / 4)
        return self.feature_norm(self.project(maps.permute(0, 2, 1, 3).flatten(2)))

    def located(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features with their place added: (n, t, dim)."""
        features = features * mask[:, :, None]
        return features + F.gelu(self.positions(features.transpose(1, 2))).transpose(1, 2)

    def run(self, hidden: Tensor, mask: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Through blocks `first` to `last`, and the last norm after the last block: (n, t, dim)."""
        last = len(self.blocks) if last is None else last
        for block in self.blocks[first:last]:
            hidden = block(hidden, mask)
        return self.norm(hidden) if last == len(self.blocks) else hidden

    def tokens(self, x: Tensor) -> Tensor:
        """(n, samples) -> (n, t, dim)"""
        mask = self.mask(x)
        if self._read is None:
            return self.run(self.located(self.features(x), mask), mask)
        return self.run(self.located(self.features(x), mask), mask, 0, self._read)


class MaskedBlock(Block):
    """A Transformer block whose attention leaves out the tokens that only pad: (n, t, dim), bool (n, t)."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self._attend(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        n, t, dim = x.shape
        heads = self.attention.num_heads
        q, k, v = self.attention.qkv(x).view(n, t, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.attention.out(seen.transpose(1, 2).reshape(n, t, dim))


class ClipNorm(nn.Module):
    """Mean 0 and variance 1 over all channels and frames of a clip, then gain and bias for each channel.

    GroupNorm with a single group, as wav2vec has it (section 2.2), but over the frames that are there.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim)), eps

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(n, dim, t), bool (n, t) -> (n, dim, t)"""
        weights = mask / (mask.sum(1, keepdim=True).clamp_min(1) * x.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            mean = (x.sum(1) * weights).sum(1)[:, None, None]
            variance = ((x - mean).square().sum(1) * weights).sum(1)[:, None, None]
            scale = self.weight[:, None] * (variance + self.eps).rsqrt()
            return torch.addcmul(self.bias[:, None] - mean * scale, x, scale)


class AudioConv(AudioEncoder):
    """wav2vec's network: strided convolutions on raw samples -> latents z, causal convolutions over them -> context c.

    Each convolution is followed by `ClipNorm` and ReLU. A latent of the default strides hears 28 ms and stands 10 ms
    after the one before; a context vector hears 2 * num_layers latents before its own, none after. (The norm's mean and
    variance come from the whole clip, in the paper too.) The context's layers add their input, scaled by the root of
    1/2 (the paper's "large" model). `tokens` are the context vectors.

    Args:
        dim: channels everywhere; the paper's is 512.
        num_layers: layers of the context network, of kernel 3; the paper's is 9.
        kernels, strides: of the encoder; None: the paper's for 16 kHz (10, 8, 4, 4, 4 and 5, 4, 2, 2, 2), and without
            the last one below 12 kHz.
        sample_rate: samples a second.
        seconds: length to which sounds are cut or padded.

    >>> AudioConv(16, 2, seconds=0.5)(torch.randn(3, 4000)).shape
    torch.Size([3, 16])
    """

    def __init__(
        self,
        dim: int = 128,
        num_layers: int = 9,
        *,
        kernels: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        sample_rate: int = 8000,
        seconds: float = 1.0,
    ) -> None:
        layers = 4 if sample_rate < 12_000 else 5
        kernels = list((10, 8, 4, 4, 4)[:layers] if kernels is None else kernels)
        strides = list((5, 4, 2, 2, 2)[:layers] if strides is None else strides)
        expect("strides", strides, len(strides) == len(kernels) >= 1, f"as many as kernels={kernels}")
        expect("num_layers", num_layers, num_layers >= 1, "at least 1")
        config = {
            "name": "audio-conv",
            "dim": dim,
            "num_layers": num_layers,
            "kernels": kernels,
            "strides": strides,
        }
        super().__init__(dim=dim, sample_rate=sample_rate, seconds=seconds, config=config)
        self.steps = list(zip(kernels, strides, strict=True))
        self.hop = math.prod(strides)
        self.window = 1 + sum((k - 1) * math.prod(strides[:i]) for i, k in enumerate(kernels))
        self.encoder = nn.ModuleList(
            nn.Conv1d(1 if i == 0 else dim, dim, k, stride=s, bias=False) for i, (k, s) in enumerate(self.steps)
        )
        self.encoder_norms = nn.ModuleList(ClipNorm(dim) for _ in self.steps)
        self.aggregator = nn.ModuleList(nn.Conv1d(dim, dim, 3) for _ in range(num_layers))
        self.aggregator_norms = nn.ModuleList(ClipNorm(dim) for _ in range(num_layers))

    def latents(self, x: Tensor) -> Tensor:
        """z: (n, samples) -> (n, t, dim)"""
        wave, lengths = self.waves(x), wave_lengths(x)
        hidden = F.pad(wave, (0, max(self.window - wave.shape[1], 0)))[:, None]
        for convolution, norm, (kernel, stride) in zip(self.encoder, self.encoder_norms, self.steps, strict=True):
            hidden, lengths = convolution(hidden), count_frames(lengths, kernel, stride)
            mask = torch.arange(hidden.shape[2], device=x.device) < lengths[:, None]
            hidden = F.relu(norm(hidden, mask)) * mask[:, None]
        return hidden.log1p().transpose(1, 2)

    def context(self, z: Tensor, mask: Tensor) -> Tensor:
        """c from z: (n, t, dim), bool (n, t) -> (n, t, dim)"""
        hidden = z.transpose(1, 2)
        for convolution, norm in zip(self.aggregator, self.aggregator_norms, strict=True):
            new = F.relu(norm(convolution(F.pad(hidden, (2, 0))), mask))
            hidden = (hidden + new) * math.sqrt(0.5)
        return hidden.transpose(1, 2)

    def tokens(self, x: Tensor) -> Tensor:
        """Context vectors: (n, samples) -> (n, t, dim)"""
        return self.context(self.latents(x), self.mask(x))
