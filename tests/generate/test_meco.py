import math

import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.generate import MECO, CompositionalLoss, nce_loss
from tacit.generate._meco import gaussian_mean_path


def test_steps_against_the_equations():
    """u and the gradient, draw by draw, over four steps of a model with one parameter: log p~(x) = -theta x^2."""
    generator = torch.Generator().manual_seed(0)
    loss, theta, gamma, u = CompositionalLoss(0.3), torch.tensor(0.7, requires_grad=True), 0.3, None
    for _ in range(4):
        x, z = (torch.randn(n, generator=generator, dtype=torch.double) for n in (5, 6))
        log_q = [-0.5 * float(v) ** 2 - 0.5 * math.log(2 * math.pi) for v in z]
        ratios = [math.exp(-theta.item() * float(v) ** 2 - log) for v, log in zip(z, log_q, strict=True)]
        u = np.mean(ratios) if u is None else (1 - gamma) * u + gamma * np.mean(ratios)
        expected = np.mean([float(v) ** 2 for v in x])
        expected -= np.mean([r * float(v) ** 2 for r, v in zip(ratios, z, strict=True)]) / u
        found = loss(-theta * x**2, -theta * z**2 - torch.tensor(log_q))
        (gradient,) = torch.autograd.grad(found, theta)
        assert gradient.item() == pytest.approx(expected, rel=1e-5)
        assert loss.log_u.item() == pytest.approx(math.log(u), rel=1e-5)
        assert found.item() == pytest.approx(theta.item() * float(x.square().mean()) + math.log(u), rel=1e-5)
        theta = (theta - 0.1 * gradient).detach().requires_grad_()


def test_with_this_steps_draws_alone_it_is_the_gradient_of_the_plain_estimate():
    a, b = (torch.randn(8, dtype=torch.double, requires_grad=True) for _ in range(2))
    ours = torch.autograd.grad(CompositionalLoss(1.0)(a, b), (a, b))
    plain = torch.autograd.grad(b.logsumexp(0) - math.log(8) - a.mean(), (a, b))
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected)


def test_huge_ratios_do_not_overflow():
    loss = CompositionalLoss(0.1)
    for level in (0.0, 2000.0, -2000.0):
        b = torch.full((4,), level, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(torch.zeros(4), b), b)
        assert torch.isfinite(gradient).all()
        assert gradient.sum() <= 10.001


def test_models_side_by_side_are_models_alone():
    a, b = torch.randn(3, 5), torch.randn(3, 6)
    together, alone = CompositionalLoss(0.2), [CompositionalLoss(0.2) for _ in range(3)]
    for step in range(3):
        found = together(a + step, b * step)
        expected = [one(a[i] + step, b[i] * step) for i, one in enumerate(alone)]
        torch.testing.assert_close(found, torch.stack(expected))


def test_nce_against_its_equation_and_its_optimum():
    g, h = torch.randn(5), torch.randn(5)
    slow = -np.mean([math.log(1 / (1 + math.exp(-v))) for v in g]) - np.mean(
        [math.log(1 / (1 + math.exp(v))) for v in h]
    )
    assert nce_loss(g, h).item() == pytest.approx(slow, rel=1e-5)
    # the Bayes-optimal logit is log p / q: any multiple of it does worse
    x, z = torch.randn(20_000) + 1, torch.randn(20_000)
    losses = [nce_loss(k * (x - 0.5), k * (z - 0.5)).item() for k in (0.7, 1.0, 1.4)]
    assert losses[1] == min(losses)


@pytest.mark.parametrize("objective", ["meco", "nce"])
def test_mean_of_a_gaussian_is_found(objective):
    path = gaussian_mean_path(objective, 2.0, 3.0, torch.tensor([0.1] * 4), 600, torch.Generator().manual_seed(0))
    assert path[-100:].mean() < 0.15


@pytest.mark.parametrize("objective", ["meco", "nce"])
def test_density_of_a_mixture_integrates_to_one_and_is_near_the_truth(objective):
    g = np.random.default_rng(0)
    means = np.array([[-2.0, 0.0], [2.0, 1.0]])
    x = means[g.integers(0, 2, 3000)] + 0.7 * g.normal(size=(3000, 2))
    model = MECO(objective=objective, max_steps=600, random_state=0).fit(x)
    side = np.linspace(-9, 9, 200)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    density = np.exp(model.score_samples(grid))
    assert density.sum() * (side[1] - side[0]) ** 2 == pytest.approx(1, abs=0.03)
    unseen = means[g.integers(0, 2, 2000)] + 0.7 * g.normal(size=(2000, 2))
    kernels = [-((unseen - m) ** 2).sum(1) / 2 / 0.49 - math.log(4 * math.pi * 0.49) for m in means]
    truth = np.logaddexp(*kernels)
    assert 0 < truth.mean() - model.score(unseen) < 0.15
    drawn = model.sample(4000)
    np.testing.assert_allclose(drawn.mean(0), x.mean(0), atol=0.15)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(x.T), atol=0.3)


def test_units_do_not_matter():
    x = np.random.default_rng(0).normal(size=(200, 2))
    model, scaled = (MECO(max_steps=20, random_state=0).fit(rows) for rows in (x, 100 * x + 7))
    np.testing.assert_allclose(scaled.score_samples(100 * x + 7), model.score_samples(x) - 2 * math.log(100), rtol=1e-4)


def test_what_cannot_be_is_refused():
    x = np.zeros((4, 2))
    for words, match in (
        ({"objective": "mle"}, "objective"),
        ({"gamma": 0}, "gamma=0"),
        ({"noise_scale": 0}, "noise_scale=0"),
        ({"max_steps": 0}, "max_steps=0"),
    ):
        with pytest.raises(ArgumentError, match=match):
            MECO(**words).fit(x)
    assert np.isfinite(MECO(max_steps=5).fit(x).score_samples(x)).all()  # constant columns
