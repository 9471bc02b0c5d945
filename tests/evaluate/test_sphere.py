import math

import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.evaluate import alignment, uniformity
from tacit.evaluate._sphere import _potentials


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1500, 7, generator=generator)
    return a, a + 0.5 * torch.randn(1500, 7, generator=generator)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alignment_equals_the_loop(pair, alpha):
    a, b = pair[0][:50], pair[1][:50]
    slow = [float((u / u.norm() - v / v.norm()).norm()) ** alpha for u, v in zip(a, b, strict=True)]
    assert alignment(a, b, alpha=alpha) == pytest.approx(np.mean(slow), rel=1e-5)
    assert alignment(a, b, alpha=alpha, return_interval=True).low < np.mean(slow)


def test_uniformity_equals_pdist(pair):
    x = pair[0]
    unit = x.double() / x.double().norm(dim=1, keepdim=True)
    slow = torch.pdist(unit).square().mul(-2).exp().mean().log()
    assert uniformity(x) == pytest.approx(float(slow), rel=1e-5)
    assert _potentials(unit, 2.0, held=7000).sum() / (1500 * 1499) == pytest.approx(float(slow.exp()), rel=1e-9)


def test_uniformity_limits():
    assert uniformity(torch.ones(20, 3)) == pytest.approx(0, abs=1e-5)
    spread = uniformity(torch.randn(3000, 512, generator=torch.Generator().manual_seed(0)))
    assert spread == pytest.approx(-4, abs=0.05)


def test_jackknife_equals_leaving_each_item_out(pair):
    x = pair[0][:25]
    without = np.array([uniformity(torch.cat([x[:i], x[i + 1 :]])) for i in range(25)])
    half = 2.0638985616280205 * math.sqrt(24 * without.var())
    estimate = uniformity(x, return_interval=True)
    assert (estimate.low, estimate.high) == pytest.approx((uniformity(x) - half, uniformity(x) + half), rel=1e-4)


def test_refuses(pair):
    with pytest.raises(ArgumentError, match="b: expected 1500 rows"):
        alignment(pair[0], pair[1][:3])
    with pytest.raises(ArgumentError, match="t=0: expected a number above 0"):
        uniformity(pair[0], t=0)
    with pytest.raises(ArgumentError, match="x: expected at least 2 rows"):
        uniformity(pair[0][:1])
