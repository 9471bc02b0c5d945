import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.losses import nt_xent
from tacit.nn import ResNet
from tacit.pretrain import HardContrastiveLoss, HardSimCLR, contrastive_diagnostics, penalty_entropy, tolerance


def slow_hard_loss(a, b, t, quantile):
    """The equation, one anchor at a time."""
    n = len(a)
    views = [z / z.norm() for z in torch.cat([a, b]).detach()]
    total = 0.0
    for i, z in enumerate(views):
        positive = math.exp(float(z @ views[(i + n) % (2 * n)]) / t)
        others = sorted((float(z @ views[k]) for k in range(2 * n) if k % n != i % n), reverse=True)
        kept = others[: max(1, round((1 - quantile) * len(others)))]
        total -= math.log(positive / (positive + sum(math.exp(s / t) for s in kept)))
    return total / (2 * n)


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 0.99])
def test_loss_against_the_equation(quantile):
    a, b = torch.randn(2, 7, 3)
    found = HardContrastiveLoss(0.3, quantile)(a, b).item()
    assert found == pytest.approx(slow_hard_loss(a, b, 0.3, quantile), rel=1e-5)


def test_with_all_negatives_it_is_nt_xent():
    a, b = torch.randn(2, 6, 4)
    torch.testing.assert_close(HardContrastiveLoss(0.2, 0.0)(a, b), nt_xent(a, b, 0.2))


def test_learner_is_the_loss_of_its_projected_views(mirror, images):
    encoder = ResNet(8, width=4, image_size=8)
    learner = HardSimCLR(encoder, views=mirror, embed_dim=5, hidden_dim=7, temperature=0.3, hard_quantile=0.5)
    a, b = (learner.projector(learner.encoder(view)) for view in mirror(images))
    assert learner.loss(images).item() == pytest.approx(slow_hard_loss(a, b, 0.3, 0.5), rel=1e-4)


def test_diagnostics_against_loops():
    z, y, t = torch.randn(20, 4), torch.arange(20) % 3, 0.2
    unit = F.normalize(z.double(), dim=1)
    pairs = [float(unit[i] @ unit[j]) for i in range(20) for j in range(i) if y[i] == y[j]]
    potential = [math.exp(-2 * float((unit[i] - unit[j]).square().sum())) for i in range(20) for j in range(i)]
    entropies = []
    for i in range(20):
        weights = np.array([math.exp(float(unit[i] @ unit[k]) / t) for k in range(20) if k != i])
        shares = weights / weights.sum()
        entropies.append(-(shares * np.log(shares)).sum())
    found = contrastive_diagnostics(z, y.numpy(), temperature=t)
    assert found.tolerance == pytest.approx(np.mean(pairs), abs=1e-6)
    assert found.uniformity == pytest.approx(math.log(np.mean(potential)), abs=1e-5)
    assert found.penalty_entropy == pytest.approx(np.mean(entropies), abs=1e-5)


def test_shares_are_those_of_the_gradient():
    """|dL/ds_ij| of InfoNCE over the negatives, as shares: the softmax whose entropy is measured."""
    t = 0.3
    s = torch.randn(6, dtype=torch.double, requires_grad=True)  # the positive first
    (-(s / t).log_softmax(0)[0]).backward()
    shares = s.grad[1:] / s.grad[1:].sum()
    torch.testing.assert_close(shares, (s[1:] / t).softmax(0))
    assert s.grad[0].item() == pytest.approx(-s.grad[1:].sum().item())  # section 3.1: the pull equals all pushes


def test_entropy_rises_with_the_temperature_between_its_limits():
    z = torch.randn(30, 5)
    found = [penalty_entropy(z, t) for t in (0.001, 0.07, 0.2, 0.5, 1.0, 1000.0)]
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert found[0] == pytest.approx(0, abs=0.05)
    assert found[-1] == pytest.approx(math.log(29), abs=1e-4)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="hard_quantile=1"):
        HardContrastiveLoss(hard_quantile=1)
    with pytest.raises(ArgumentError, match="temperature=0"):
        penalty_entropy(torch.randn(4, 2), 0)
    with pytest.raises(ArgumentError, match="negative"):
        HardContrastiveLoss()(torch.randn(1, 3), torch.randn(1, 3))
    with pytest.raises(ArgumentError, match="two items"):
        tolerance(torch.randn(3, 2), torch.arange(3))
