"""How near a restored image is to the true one: PSNR and SSIM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.errors import expect

WINDOW, DEVIATION = 11, 1.5
"""SSIM's Gaussian window, in pixels (section III-B)."""


def psnr(restored: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (n,); infinite where both are the same.

        psnr = -10 log10( mean over pixels and channels of (restored - truth)^2 )

    Args:
        restored, truth: (n, c, h, w), float in [0, 1]; what lies outside is not clamped here.

    Raises:
        ArgumentError: different shapes, or images that are not float.

    >>> psnr(torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.4)).round(decimals=3).tolist()
    [20.0]
    """
    _check(restored, truth)
    return -10 * (restored - truth).square().flatten(1).mean(1).log10()


def ssim(restored: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image, (n,), at most 1: mean over channels and all places of the window.

    In an 11 x 11 Gaussian window of deviation 1.5, without padding (eq. 13, with C1 = 0.01^2 and C2 = 0.03^2):

        ssim = (2 m_a m_b + C1) (2 s_ab + C2) / ((m_a^2 + m_b^2 + C1) (s_a^2 + s_b^2 + C2))

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.

    Args:
        restored, truth: (n, c, h, w), float in [0, 1]. Of images smaller than the window, the window is their middle
            part.

    Raises:
        ArgumentError: different shapes, or images that are not float.

    >>> x = torch.rand(2, 3, 16, 16)
    >>> ssim(x, x).tolist()
    [1.0, 1.0]
    """
    _check(restored, truth)
    a, b = (images.flatten(0, 1)[:, None].double() for images in (restored, truth))
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a, var_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    brightness = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (brightness * structure).reshape(len(restored), -1).mean(1).to(restored.dtype)


def _blurred(x: Tensor) -> Tensor:
    """Means in the Gaussian window, where it lies within the images."""
    rows, columns = (min(WINDOW, side) for side in x.shape[-2:])
    kernel = _window(rows, x)[:, None] * _window(columns, x)
    return F.conv2d(x, kernel[None, None])


def _window(size: int, like: Tensor) -> Tensor:
    places = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    weights = torch.exp(-0.5 * (places / DEVIATION) ** 2)
    return weights / weights.sum()


def _check(restored: Tensor, truth: Tensor) -> None:
    same = restored.shape == truth.shape and restored.ndim == 4
    shapes = (tuple(restored.shape), tuple(truth.shape))
    expect("restored, truth", shapes, same, "images of the same shape (n, c, h, w)")
    real = restored.is_floating_point() and truth.is_floating_point()
    expect("dtype", (restored.dtype, truth.dtype), real, "float images in [0, 1]", "divide whole numbers by 255")
