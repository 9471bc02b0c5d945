import math

import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.evaluate import psnr, ssim


def test_psnr_against_a_loop():
    a, b = torch.rand(2, 3, 2, 5, 4)
    for one, x, y in zip(psnr(a, b), a.double().numpy(), b.double().numpy(), strict=True):
        error = sum((p - q) ** 2 for p, q in zip(x.flat, y.flat, strict=True)) / x.size
        assert one.item() == pytest.approx(10 * math.log10(1 / error), rel=1e-5)


def test_psnr_of_known_noise_and_of_equals():
    """White noise of deviation 0.1 costs 20 dB; scaling the error by 10 costs 20 dB more."""
    truth, noise = torch.rand(1, 3, 64, 64), torch.randn(1, 3, 64, 64)
    assert psnr(truth + 0.1 * noise, truth).item() == pytest.approx(20, abs=0.2)
    little, much = psnr(truth + 0.01 * noise, truth), psnr(truth + 0.1 * noise, truth)
    torch.testing.assert_close(little - much, torch.tensor([20.0]))
    assert psnr(truth, truth).item() == math.inf


def slow_ssim(a, b):
    """Eq. 13 of Wang et al. (2004), place by place, with the weights of section III-B."""
    side = min(11, a.shape[0])
    ticks = np.arange(side) - (side - 1) / 2
    weights = np.exp(-(ticks[:, None] ** 2 + ticks**2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for i in range(a.shape[0] - side + 1):
        for j in range(a.shape[1] - side + 1):
            x, y = a[i : i + side, j : j + side], b[i : i + side, j : j + side]
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            cov = (weights * (x - mx) * (y - my)).sum()
            c1, c2 = 0.0001, 0.0009
            found.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return np.mean(found)


@pytest.mark.parametrize("side", [13, 8])
def test_ssim_against_a_loop_over_windows(side):
    a = torch.rand(2, 2, side, side, dtype=torch.float64)
    b = (a + 0.2 * torch.randn_like(a)).clamp(0, 1)
    for one, x, y in zip(ssim(a, b), a.numpy(), b.numpy(), strict=True):
        assert one.item() == pytest.approx(np.mean([slow_ssim(p, q) for p, q in zip(x, y, strict=True)]), rel=1e-6)


def test_ssim_is_symmetric_one_for_equals_and_falls_with_noise():
    a, noise = torch.rand(1, 1, 16, 16), torch.randn(1, 1, 16, 16)
    assert ssim(a, a).item() == pytest.approx(1)
    little, much = a + 0.05 * noise, a + 0.3 * noise
    torch.testing.assert_close(ssim(a, little), ssim(little, a))
    assert ssim(a, a) > ssim(a, little) > ssim(a, much)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="same shape"):
        psnr(torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4))
    with pytest.raises(ArgumentError, match="255"):
        ssim(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.rand(1, 1, 4, 4))
