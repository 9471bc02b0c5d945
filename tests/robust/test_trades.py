import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.errors import ArgumentError
from tacit.robust import TRADES


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def net():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def test_loss_against_the_equation_on_a_given_attack():
    """Cross-entropy and KL(p(x) || p(x')), one item and one class at a time."""
    model, moved = net(), 0.1 * torch.randn(5, 4, dtype=torch.double)
    learner = TRADES(model, beta=2.5)
    learner.attack = lambda model, x, y, objective, start: x + moved
    x, y = torch.rand(5, 4, dtype=torch.double), torch.tensor([0, 1, 2, 1, 0])
    expected = 0.0
    for p, q, label in zip(model(x).softmax(1).tolist(), model(x + moved).softmax(1).tolist(), y.tolist(), strict=True):
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        expected += (-math.log(p[label]) + 2.5 * divergence) / 5
    assert learner.loss(x, y).item() == pytest.approx(expected, rel=1e-12)
    (ours,) = torch.autograd.grad(learner.loss(x, y), model[0].weight)
    p, q = model(x).softmax(1), model(x + moved).softmax(1)
    whole = F.cross_entropy(model(x), y) + 2.5 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(ours, torch.autograd.grad(whole, model[0].weight)[0])  # flows through p and q


def test_the_attack_finds_the_most_divergent_point_of_a_grid():
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    learner, epsilon = TRADES(model, epsilon=0.05, step_size=0.01, n_steps=30), 0.05
    x = 0.1 + 0.8 * torch.rand(10, 2, dtype=torch.double)
    found = learner._most_divergent(x)
    ball = torch.cartesian_prod(*[torch.linspace(-epsilon, epsilon, 41, dtype=torch.double)] * 2)
    p, q = model(x).softmax(1), model(found).softmax(1)
    divergences = (p * (p / q).log()).sum(1)
    for item, a, divergence in zip(x, p, divergences, strict=True):
        worst = (a * (a / model(item + ball).softmax(1)).log()).sum(1).max()
        assert 0.6 * worst <= divergence <= worst * (1 + 1e-9)  # it climbs one side of the valley around x
    assert (divergences > 0).all()


def test_without_weight_it_is_the_cross_entropy():
    model, x, y = net(), torch.rand(5, 4, dtype=torch.double), torch.tensor([0, 1, 2, 1, 0])
    torch.testing.assert_close(TRADES(model, beta=0.0).loss(x, y), F.cross_entropy(model(x), y))


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="beta=-1"):
        TRADES(nn.Linear(2, 2), beta=-1)
