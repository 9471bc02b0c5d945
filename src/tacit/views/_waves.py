"""Views of sounds, over whole batches on their device: of samples, and of log-mel frames; and masks of spans.

A view of samples takes int16 or float in [-1, 1], (n, samples), and gives float32 of the same shape; zeros at the end
of a clip pad and stay zeros. All chance is torch's global generator on the batch's device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tacit.errors import expect


def as_wave(x: Tensor) -> Tensor:
    """(n, samples), int16 or float -> float32 in [-1, 1]."""
    return x.float() / 32768 if x.dtype == torch.int16 else x.float()


def _lengths(x: Tensor) -> Tensor:
    """Samples before the zeros at the end: (n,)."""
    return ((x != 0) * torch.arange(1, x.shape[1] + 1, device=x.device)).amax(1)


class RandomTimeCrop(nn.Module):
    """A stretch of each sound, moved to the start; the rest is zeros.

    Args:
        scale: share of the sound that is kept, drawn evenly from (least, most).

    >>> crop = RandomTimeCrop((0.5, 0.5))
    >>> int((crop(torch.ones(1, 100)) != 0).sum())
    50
    """

    def __init__(self, scale: tuple[float, float] = (0.6, 1.0)) -> None:
        super().__init__()
        expect("scale", scale, 0 < scale[0] <= scale[1] <= 1, "two shares, 0 < least <= most <= 1")
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        wave, lengths = as_wave(x), _lengths(x)
        share = torch.empty(len(x), device=x.device).uniform_(*self.scale)
        kept = (share * lengths).ceil().long()
        start = (torch.rand(len(x), device=x.device) * (lengths - kept + 1)).long()
        place = torch.arange(x.shape[1], device=x.device)
        moved = wave.gather(1, (start[:, None] + place).clamp_max(x.shape[1] - 1))
        return moved * (place < kept[:, None])


class RandomGain(nn.Module):
    """Louder or softer by up to `decibels`; what goes beyond -1 to 1 is clipped."""

    def __init__(self, decibels: float = 6.0) -> None:
        super().__init__()
        expect("decibels", decibels, decibels >= 0, "at least 0")
        self.decibels = decibels

    def forward(self, x: Tensor) -> Tensor:
        drawn = torch.empty(len(x), 1, device=x.device).uniform_(-self.decibels, self.decibels)
        return (as_wave(x) * 10 ** (drawn / 20)).clamp(-1, 1)


class AddNoise(nn.Module):
    """White noise at a level below the sound's own that is drawn for each, evenly in decibels.

    Args:
        snr: least and greatest signal-to-noise ratio, in decibels.
    """

    def __init__(self, snr: tuple[float, float] = (10.0, 40.0)) -> None:
        super().__init__()
        expect("snr", snr, snr[0] <= snr[1], "two numbers, least first")
        self.snr = snr

    def forward(self, x: Tensor) -> Tensor:
        wave, lengths = as_wave(x), _lengths(x)[:, None]
        level = (wave.square().sum(1, keepdim=True) / lengths.clamp_min(1)).sqrt()
        drawn = torch.empty(len(x), 1, device=x.device).uniform_(*self.snr)
        heard = torch.arange(x.shape[1], device=x.device) < lengths
        return (wave + torch.randn_like(wave) * level * 10 ** (-drawn / 20) * heard).clamp(-1, 1)


class SpecAugment(nn.Module):
    """Stretches of time and of frequency of a spectrogram set to 0, its mean (Park et al., 2019, without time warping).

    Args:
        time: greatest share of the frames that a time mask covers.
        bands: greatest share of the bands that a frequency mask covers.
        n_masks: of each kind.

    >>> SpecAugment()(torch.ones(2, 50, 40)).shape
    torch.Size([2, 50, 40])
    """

    def __init__(self, time: float = 0.2, bands: float = 0.2, n_masks: int = 1) -> None:
        super().__init__()
        shares = (time, bands)
        expect("time, bands", shares, min(shares) >= 0 and max(shares) <= 1, "shares in [0, 1]")
        self.time, self.bands, self.n_masks = time, bands, n_masks

    def forward(self, frames: Tensor) -> Tensor:
        """(n, t, bands), normalised -> the same shape."""
        n, t, bands = frames.shape
        for _ in range(self.n_masks):
            frames = frames * ~_stretch(n, t, self.time, frames.device)[:, :, None]
            frames = frames * ~_stretch(n, bands, self.bands, frames.device)[:, None, :]
        return frames


def _stretch(n: int, size: int, most: float, device: torch.device) -> Tensor:
    """One stretch of each row: its width evenly from 0 to most * size, then its start evenly; bool (n, size)."""
    width = torch.rand(n, 1, device=device) * (most * size)
    start = torch.rand(n, 1, device=device) * (size - width)
    place = torch.arange(size, device=device) + 0.5
    return (place >= start) & (place < start + width)


def frame_spans(mask: Tensor, probability: float = 0.065, length: int = 10, *, at_least: int = 1) -> Tensor:
    """Which frames are hidden: spans that may overlap, as in wav2vec 2.0 (section 3.1): bool (n, t).

    Each frame that is there starts a span of `length` frames with `probability`; frames after the sound's end are never
    hidden. With the paper's 0.065 and 10 about 49 % are, in spans of 14.7 frames on average. A clip in which no span
    starts has `at_least` drawn, so that it has something to say; one that is all hidden loses the hiding of its first
    or last frame, so that there is something to go by.

    Args:
        mask: bool (n, t), True where there is something.
        probability: that a frame starts a span.
        length: of a span, in frames.
        at_least: spans in each clip that has 2 frames or more.
    """
    expect("probability", probability, 0 <= probability <= 1, "a share in [0, 1]")
    expect("length", length, length >= 1, "at least 1")
    n, t = mask.shape
    drawn = torch.rand(n, t, device=mask.device).masked_fill(~mask, 2.0)
    rank = drawn.argsort(1).argsort(1)
    starts = ((drawn < probability) | (rank < at_least)) & mask
    reach = starts.long().cumsum(1)
    hidden = (reach - torch.nn.functional.pad(reach, (length, 0))[:, :t] > 0) & mask
    return hidden & ~(_end(mask) & (hidden == mask).all(1, keepdim=True))


def _end(mask: Tensor) -> Tensor:
    """The first or the last frame of each clip, by the toss of a coin: bool (n, t)."""
    place = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * place).amax(1)
    coin = torch.rand(len(mask), device=mask.device) < 0.5
    return place == torch.where(coin, last, torch.zeros_like(last))[:, None]


class TwoWaves(nn.Module):
    """The same view, drawn twice: batch -> (a, b)."""

    def __init__(self, view: nn.Module) -> None:
        super().__init__()
        self.view = view

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.view(x), self.view(x)


def two_waves(
    scale: tuple[float, float] = (0.6, 1.0), decibels: float = 6.0, snr: tuple[float, float] = (10.0, 40.0)
) -> nn.Module:
    """Two views of each sound, as contrastive methods take them: a stretch of time, another gain, noise.

    >>> a, b = two_waves()(torch.rand(4, 800))
    >>> a.shape == b.shape == (4, 800)
    True
    """
    return TwoWaves(nn.Sequential(RandomTimeCrop(scale), RandomGain(decibels), AddNoise(snr)))
