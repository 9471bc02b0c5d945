import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.errors import ArgumentError
from tacit.robust import CompSumLoss, SmoothAdversarialCompSum, _comp_sum_losses, comp_sum_loss


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def slow_loss(logits, y, tau, rho=1.0):
    """The definition, one item and one label at a time."""
    total = 0.0
    for h, label in zip(logits.tolist(), y.tolist(), strict=True):
        u = sum(math.exp((score - h[label]) / rho) for k, score in enumerate(h) if k != label)
        total += math.log(1 + u) if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)
    return total / len(logits)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
def test_loss_against_its_definition(tau):
    logits, y = 2 * torch.randn(7, 4, dtype=torch.double), torch.randint(4, (7,))
    assert CompSumLoss(tau)(logits, y).item() == pytest.approx(slow_loss(logits, y, tau), rel=1e-12)


def test_the_members_that_have_names():
    logits, y = torch.randn(7, 4, dtype=torch.double), torch.randint(4, (7,))
    p = logits.softmax(1)[torch.arange(7), y]
    torch.testing.assert_close(comp_sum_loss(logits, y, 0.0), (1 / p - 1).mean())  # sum of exponentials
    torch.testing.assert_close(comp_sum_loss(logits, y, 1.0), F.cross_entropy(logits, y))
    torch.testing.assert_close(comp_sum_loss(logits, y, 1.7), ((1 - p**0.7) / 0.7).mean())  # generalised cross-entropy
    torch.testing.assert_close(comp_sum_loss(logits, y, 2.0), (1 - p).mean())  # mean absolute error
    one_hot = F.one_hot(y, 4)
    torch.testing.assert_close(comp_sum_loss(logits, y, 2.0), (logits.softmax(1) - one_hot).abs().sum(1).mean() / 2)


def test_it_goes_smoothly_through_the_cross_entropy():
    logits, y = torch.randn(7, 4, dtype=torch.double), torch.randint(4, (7,))
    for tau in (1 - 1e-9, 1 + 1e-9):
        torch.testing.assert_close(comp_sum_loss(logits, y, tau), F.cross_entropy(logits, y), rtol=1e-8, atol=0)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.5, 2.0])
def test_gradient_is_the_cross_entropys_times_a_power_of_the_probability(tau):
    logits, y = torch.randn(5, 4, dtype=torch.double, requires_grad=True), torch.randint(4, (5,))
    assert torch.autograd.gradcheck(lambda h: comp_sum_loss(h, y, tau), (logits,))
    (ours,) = torch.autograd.grad(comp_sum_loss(logits, y, tau), logits)
    p = logits.softmax(1).detach()
    expected = (p - F.one_hot(y, 4)) * p[torch.arange(5), y, None] ** (tau - 1) / 5
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("tau", [1.0, 1.5, 2.0])
def test_extreme_logits_keep_value_and_gradient_finite(tau):
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 1e4, 0.0], [88.0, 88.0, 88.0]], requires_grad=True)
    loss = comp_sum_loss(logits, torch.tensor([0, 0, 2]), tau)
    loss.backward()
    right, wrong = 0.0, 2e4 if tau == 1 else 1 / (tau - 1)
    level = math.log(3) if tau == 1 else (1 - 3 ** (1 - tau)) / (tau - 1)
    assert loss.item() == pytest.approx((right + wrong + level) / 3, rel=1e-6)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.5])
def test_items_that_are_right_by_far_keep_their_digits(tau):
    """Phi(u) ~ u for small u; (1 + u)^(1 - tau) - 1 would be rounding noise in float32."""
    loss = comp_sum_loss(torch.tensor([[12.0, 0.0]]), torch.tensor([0]), tau)
    assert loss.item() == pytest.approx(math.exp(-12), rel=2e-2)  # float32's cross-entropy has these digits


def test_tight_transformation_is_the_least_loss_of_a_wrong_choice():
    """Two classes, by brute force."""
    lead = np.linspace(-6, 6, 12_001)
    for tau, b in itertools.product((0.0, 0.5, 1.0), (0.2, 0.6, 0.9)):
        p = np.array([(1 + b) / 2, (1 - b) / 2])
        u = np.exp(np.stack([lead, -lead]))
        phi = np.log1p(u) if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)
        risk = p @ phi
        least = risk[lead >= 0].min() - risk.min()
        assert _comp_sum_losses.tight_transformation(np.array(b), tau, 2) == pytest.approx(least, abs=1e-5)
    exponential = _comp_sum_losses.tight_transformation(np.array([0.6]), 0.0, 2)
    assert exponential == pytest.approx(1 - math.sqrt(1 - 0.36))  # known since boosting


def test_learner_is_the_equation_on_a_given_attack():
    """A slow loop over items and margins, with a fixed perturbation in place of the attack."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    moved = 0.05 * torch.randn(5, 4, dtype=torch.double)
    learner = SmoothAdversarialCompSum(model, tau=1.5, smoothness=0.7, margin=2.0)
    learner.attack = lambda model, x, y, objective: x + moved
    x, y = torch.rand(5, 4, dtype=torch.double), torch.tensor([0, 1, 2, 1, 0])
    before, after = model(x), model(x + moved)
    norms = 0.0
    for h, g, label in zip(before.tolist(), after.tolist(), y.tolist(), strict=True):
        shifts = [(g[label] - g[k]) - (h[label] - h[k]) for k in range(3) if k != label]
        norms += math.sqrt(sum(s * s for s in shifts)) / 5
    assert learner.loss(x, y).item() == pytest.approx(slow_loss(before, y, 1.5, rho=2.0) + 0.7 * norms, rel=1e-12)
    gradients = torch.autograd.grad(learner.loss(x, y), model[0].weight)[0]
    step = torch.zeros_like(model[0].weight)
    step[2, 1] = 1e-6
    model[0].weight.data += step
    above = learner.loss(x, y)
    model[0].weight.data -= 2 * step
    assert ((above - learner.loss(x, y)) / 2e-6).item() == pytest.approx(gradients[2, 1].item(), rel=1e-5)


def test_two_classes_and_a_linear_model_have_a_closed_form():
    """The margin can be shifted by epsilon |w|_1, and by no more."""
    model = nn.Linear(5, 2).double()
    x, y = 0.3 + 0.4 * torch.rand(6, 5, dtype=torch.double), torch.tensor([0, 1, 0, 1, 1, 0])
    learner = SmoothAdversarialCompSum(model, smoothness=1.5, epsilon=0.1, step_size=0.05, n_steps=6)
    shift = 0.1 * (model.weight[1] - model.weight[0]).abs().sum()
    torch.testing.assert_close(learner.loss(x, y), F.cross_entropy(model(x), y) + 1.5 * shift)


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.5])
def test_it_bounds_the_adversarial_margin_loss(tau):
    """nu = sqrt(n - 1) / rho: Phi of the sum of rho-margins lies below, at every point of a grid over the ball."""
    rho, epsilon = 0.5, 0.1
    model = nn.Linear(2, 3).double()
    x, y = 0.2 + 0.6 * torch.rand(8, 2, dtype=torch.double), torch.randint(3, (8,))
    learner = SmoothAdversarialCompSum(
        model, tau=tau, smoothness=math.sqrt(2) / rho, margin=rho, epsilon=epsilon, step_size=0.04, n_steps=10
    )
    ball = torch.cartesian_prod(*[torch.linspace(-epsilon, epsilon, 21, dtype=torch.double)] * 2)
    for item, label in zip(x, y, strict=True):
        h = model(item + ball)
        rest = [k for k in range(3) if k != label]
        u = (1 - (h[:, label, None] - h[:, rest]) / rho).clamp(0, 1).sum(1)
        worst = (torch.log1p(u) if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)).max()
        assert learner.loss(item[None], label[None]) >= worst


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="tau=-1"):
        CompSumLoss(-1)
    with pytest.raises(ArgumentError, match="margin=0"):
        SmoothAdversarialCompSum(nn.Linear(2, 2), margin=0)
    with pytest.raises(ArgumentError, match="smoothness=-1"):
        SmoothAdversarialCompSum(nn.Linear(2, 2), smoothness=-1)
    with pytest.raises(ArgumentError, match="n_steps=0"):
        SmoothAdversarialCompSum(nn.Linear(2, 2), n_steps=0)
