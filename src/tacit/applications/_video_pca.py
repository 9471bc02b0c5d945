"""VideoPCA: what moves in a clip, from the errors of a linear model of its background (Stretcu & Leordeanu, 2015)."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tacit.errors import expect

HALF_A_LEVEL = 0.5 / 255
"""An error that is smaller than the rounding of a pixel is none."""


@dataclass(frozen=True)
class VideoPCA:
    """Soft masks of the object in a clip, by principal components of its frames and models of colours; no learning.

        background_t = u_0 + sum over i of <frame_t - u_0, u_i> u_i           u_0 the mean frame, u_i the components
        error_t      = | frame_t - background_t |, over the channels of each pixel
        cue_t        = [ centre * smooth(error_t) > 1/2 of its largest value in the frame ]
        p(object | colour) = h_in(colour) / (h_in(colour) + h_out(colour)),     histograms over all frames of the clip

    h_in counts colours where the cue says object, h_out elsewhere; the centre is a Gaussian, since what is filmed lies
    in the middle more often. The mask is p times the regions of centre * p above `low` that reach `high` somewhere
    (hysteresis), scaled to a largest value of 1 in each frame.

    Teacher of `ForegroundStudent` (arXiv:1703.10901). Differs from the authors' code for frames of some 300
    pixels: lengths are shares of a frame's side, and the histograms have fewer bins, as small frames have fewer pixels.

    Args:
        n_components: of the background, beside the mean frame; a quarter of the frames at most, for as many as frames
            would leave no error.
        sigma: deviation of the smoothing, as a share of the shorter side.
        centre: deviation of the centre's Gaussian, as a share of the shorter side; None: no preference.
        bins: of each of three coordinates of a colour; a grey value has bins^2.
        low, high: of the hysteresis, in [0, 1].

    Raises:
        ArgumentError: a number out of range; frames that are no clip.

    >>> from tacit.data import clips
    >>> frames = torch.from_numpy(clips(12, seed=3)["x"])
    >>> masks = VideoPCA()(frames)
    >>> masks.shape, float(masks.min()) >= 0, float(masks.max()) <= 1
    (torch.Size([12, 1, 32, 32]), True, True)
    """

    n_components: int = 3
    sigma: float = 0.04
    centre: float | None = 1 / 3
    bins: int = 12
    low: float = 0.5
    high: float = 0.8

    def __post_init__(self) -> None:
        expect("n_components", self.n_components, self.n_components >= 0, "at least 0")
        expect("sigma", self.sigma, self.sigma >= 0, "at least 0")
        expect("centre", self.centre, self.centre is None or self.centre > 0, "above 0, or None")
        expect("bins", self.bins, self.bins >= 2, "at least 2")
        expect("low, high", (self.low, self.high), 0 <= self.low <= self.high <= 1, "0 <= low <= high <= 1")

    def __call__(self, frames: Tensor) -> Tensor:
        """Masks (t, 1, h, w), float in [0, 1], of the frames of one clip (t, c, h, w), uint8 or float in [0, 1]."""
        x = _frames(frames)
        centre = _central(x.shape[2], x.shape[3], self.centre)
        error = self.errors(x).numpy()
        error[error < HALF_A_LEVEL] = 0
        smooth = ndimage.gaussian_filter(error, (0, *(self.sigma * min(x.shape[2:]),) * 2), mode="nearest")
        cue = _scaled(smooth * centre) > 0.5
        p = colour_likelihood(colour_codes(x, self.bins).numpy(), cue)
        masks = _scaled(p * likely_regions(p * centre, self.low, self.high))
        return torch.from_numpy(masks.astype(np.float32))[:, None]

    def errors(self, frames: Tensor) -> Tensor:
        """How far each pixel lies from the background's, the norm over channels: (t, c, h, w) -> (t, h, w) float."""
        x = _frames(frames)
        flat = x.flatten(1).double()
        centred = flat - flat.mean(0)
        # the left singular vectors, from the small matrix of all pairs of frames
        count = min(self.n_components, len(x) // 4)
        left = torch.linalg.eigh(centred @ centred.T).eigenvectors.flip(1)[:, :count]
        residual = centred - left @ (left.T @ centred)
        return residual.view(x.shape).norm(dim=1).float()


def colour_codes(x: Tensor, bins: int) -> Tensor:
    """The number of each pixel's colour among bins^3 (grey: bins^2): (t, c, h, w) in [0, 1] -> int64 (t, h, w).

    Colours are cut up by value, and by hue and saturation as coordinates of a disc, so that reds on both sides of hue 0
    are neighbours.
    """
    if x.shape[1] != 3:
        return _cut(x.mean(1), bins * bins)
    value, least = x.amax(1), x.amin(1)
    saturation = (value - least) / value.clamp(min=1e-6)
    red, green, blue = x.unbind(1)
    # an angle that the three primaries cut in equal parts
    hue = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue)
    across, along = (1 + saturation * hue.cos()) / 2, (1 + saturation * hue.sin()) / 2
    return (_cut(value, bins) * bins + _cut(across, bins)) * bins + _cut(along, bins)


def colour_likelihood(codes: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """p(object | colour) of each pixel, where both are equally likely beforehand: like `codes`, float in [0, 1].

    Args:
        codes: whole numbers from 0.
        inside: where the object is thought to be, bool of the same shape.
    """
    count = int(codes.max()) + 1
    shares = [
        np.bincount(codes[part], minlength=count) / max(int(part.sum()), 1) for part in (inside, np.logical_not(inside))
    ]
    return (shares[0] / np.maximum(shares[0] + shares[1], 1e-12))[codes]


def likely_regions(maps: np.ndarray, low: float, high: float) -> np.ndarray:
    """Hysteresis: the regions of each map (n, h, w) above `low` times its maximum that exceed `high` times somewhere.

    >>> likely_regions(np.array([[[0.9, 0.6, 0.1, 0.6, 1.0]]]), 0.5, 0.95).astype(int)
    array([[[0, 0, 0, 1, 1]]])
    """
    scaled = _scaled(maps)
    seeds = (scaled > high) & (scaled > 0)
    return ndimage.binary_propagation(seeds, _WITHIN_A_FRAME, mask=scaled > low)


_WITHIN_A_FRAME = np.ones((1, 3, 3), bool)
"""Neighbours of a pixel: the eight around it, none in time."""


def _frames(frames: Tensor) -> Tensor:
    expect("frames.shape", tuple(frames.shape), frames.ndim == 4 and len(frames) >= 1, "a clip (t, c, h, w)")
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()


def _cut(x: Tensor, bins: int) -> Tensor:
    """The number of the bin in [0, 1], as int64."""
    return (x * bins).long().clamp(0, bins - 1)


def _central(height: int, width: int, deviation: float | None) -> np.ndarray:
    """The Gaussian around the centre, 1 there: (h, w)."""
    if deviation is None:
        return np.ones((height, width))
    down, right = (np.arange(side) - (side - 1) / 2 for side in (height, width))
    sigma = deviation * min(height, width)
    return np.exp(-(down[:, None] ** 2 + right**2) / (2 * sigma**2))


def _scaled(maps: np.ndarray) -> np.ndarray:
    """Each frame's largest value at 1; what is 0 everywhere stays so."""
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)
