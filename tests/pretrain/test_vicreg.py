import math

import pytest
import torch

from tacit.nn import ResNet
from tacit.pretrain import VICReg, vicreg_loss
from tacit.pretrain._vicreg import cost_of_collapse


def slow_terms(a, b):
    """Eq. 1 to 5 of the paper (s by algorithm 1: a mean), by loops."""
    n, d = len(a), len(a[0])
    s = sum((a[i][j] - b[i][j]) ** 2 for i in range(n) for j in range(d)) / (n * d)

    def cov(z, i, j):
        mi, mj = (sum(row[k] for row in z) / n for k in (i, j))
        return sum((row[i] - mi) * (row[j] - mj) for row in z) / (n - 1)

    def v(z):
        return sum(max(0.0, 1 - math.sqrt(cov(z, j, j) + 1e-4)) for j in range(d)) / d

    def c(z):
        return sum(cov(z, i, j) ** 2 for i in range(d) for j in range(d) if i != j) / d

    return s, v(a) + v(b), c(a) + c(b)


def test_terms_against_loops():
    a, b = torch.randn(7, 4), 0.5 * torch.randn(7, 4)
    s, v, c = slow_terms(a.tolist(), b.tolist())
    none = {"invariance": 0.0, "variance": 0.0, "covariance": 0.0}
    assert vicreg_loss(a, b, **none | {"invariance": 1.0}).item() == pytest.approx(s, rel=1e-5)
    assert vicreg_loss(a, b, **none | {"variance": 1.0}).item() == pytest.approx(v, rel=1e-5)
    assert vicreg_loss(a, b, **none | {"covariance": 1.0}).item() == pytest.approx(c, rel=1e-5)
    assert vicreg_loss(a, b).item() == pytest.approx(25 * s + 25 * v + c, rel=1e-5)


def test_learner_weighs_the_terms_of_its_views(mirror, images):
    learner = VICReg(
        ResNet(8, width=4, image_size=8), views=mirror, embed_dim=6, invariance=2.0, variance=3.0, covariance=5.0
    )
    a, b = (learner.expander(learner.encoder(view)) for view in mirror(images))
    s, v, c = slow_terms(a.tolist(), b.tolist())
    assert learner.loss(images).item() == pytest.approx(2 * s + 3 * v + 5 * c, rel=1e-4)


def test_variance_term_has_a_gradient_only_below_1():
    z = torch.stack([torch.linspace(-3, 3, 8), torch.linspace(-0.3, 0.3, 8)], dim=1).requires_grad_()
    vicreg_loss(z, z.detach(), invariance=0.0, covariance=0.0).backward()
    assert z.grad[:, 0].abs().max() == 0
    assert z.grad[:, 1].abs().max() > 0


def test_checked_property():
    measured, expected = cost_of_collapse()
    assert abs(measured - expected) <= cost_of_collapse.checked.tolerance
