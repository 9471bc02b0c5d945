import math

import numpy as np
import pytest
import torch
from torch import nn

from tacit.cluster import GEDI
from tacit.cluster._gedi import EnergyTrunk, PlaneBackbone, _auroc, invariance_loss, prior_loss, two_shapes
from tacit.errors import ArgumentError
from tacit.training import fit


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def softmax(row):
    powers = [math.exp(v - max(row)) for v in row]
    return [v / sum(powers) for v in powers]


def test_discriminative_terms_against_the_definition():
    a, b = torch.randn(7, 3), 3 * torch.randn(7, 3)
    p, q = [softmax(row) for row in a.tolist()], [softmax(row) for row in b.tolist()]
    between = [
        -sum(y * math.log(x) for x, y in zip(one, other, strict=True)) for one, other in zip(p, q, strict=True)
    ] + [-sum(x * math.log(y) for x, y in zip(one, other, strict=True)) for one, other in zip(p, q, strict=True)]
    assert invariance_loss(a, b).item() == pytest.approx(sum(between) / 14, rel=1e-5)
    mean = [sum(row[k] for row in p) / 7 for k in range(3)]
    assert prior_loss(a).item() == pytest.approx(-sum(math.log(share) for share in mean) / 3, rel=1e-5)


def test_the_prior_is_finite_where_a_cluster_is_empty():
    logits = torch.tensor([[0.0, -300.0]]).repeat(4, 1).requires_grad_()
    prior_loss(logits).backward()
    assert torch.isfinite(logits.grad).all()


class Quadratic(nn.Module):
    """Features x and 1, so that a linear head gives f(x)_y = w_y x + b_y: two clusters make cosh(x)."""

    dim = 1

    def forward(self, x):
        return x


def test_density_clusters_and_scores_in_closed_form():
    learner = GEDI(Quadratic(), shape=(1,), bounds=(-2.0, 2.0), n_clusters=2, views=nn.Identity())
    learner.head.weight.data = torch.tensor([[1.0], [-1.0]])
    learner.head.bias.data.zero_()
    x = torch.tensor([[-1.0], [0.3], [2.0]])
    torch.testing.assert_close(learner.score_samples(x), (2 * torch.cosh(x[:, 0])).log())
    torch.testing.assert_close(learner.predict_proba(x)[:, 0], torch.sigmoid(2 * x[:, 0]))
    assert learner.predict(x.numpy()).tolist() == [1, 0, 0]
    ends = learner.sample(200, 300)
    assert (ends.abs() <= 2).all()
    assert ends.abs().mean() > 1.5  # the density grows to both sides


def test_gradient_of_the_generative_term_is_model_minus_data():
    """With chains that stand still, it is the difference of the mean gradients of the log-density."""
    learner = GEDI(
        PlaneBackbone(8), shape=(2,), n_clusters=3, views=nn.Identity(), invariance_weight=0, prior_weight=0,
        sgld_steps=1, step_size=1e-12, noise=0.0, restart=0.0, input_noise=0.0, buffer_size=6,
    )  # fmt: skip
    x = torch.rand(6, 2)
    found = torch.autograd.grad(learner.loss(x), list(learner.parameters()))
    held = learner.buffer.items  # six chains draw all six samples
    wanted = torch.autograd.grad(
        learner.logits(held).logsumexp(1).mean() - learner.logits(x).logsumexp(1).mean(), list(learner.parameters())
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_buffer_moves_after_the_step_and_only_while_training():
    learner = GEDI(image_size=8, in_channels=1, width=4, sgld_steps=2, buffer_size=8)
    before, x = learner.buffer.items.clone(), torch.rand(4, 1, 8, 8)
    learner.loss(x)
    assert learner.buffer.items.equal(before)
    learner.after_step(0.5)
    assert (learner.buffer.items != before).flatten(1).any(1).sum() == 4
    before = learner.buffer.items.clone()
    with torch.no_grad():
        learner.eval().loss(x)
    learner.after_step(1.0)
    assert learner.buffer.items.equal(before)


def test_an_images_density_does_not_depend_on_its_batch():
    learner = GEDI(image_size=12, in_channels=3, width=4)
    x = torch.rand(5, 3, 12, 12)
    learner.train()
    torch.testing.assert_close(learner.log_density(x)[:1], learner.log_density(x[:1]))
    assert EnergyTrunk(20, 1, 4)(torch.rand(2, 1, 20, 20)).shape == (2, 16)


class Parabola(nn.Module):
    """Features x and x^2: a linear head makes Gaussians of them."""

    dim = 2

    def forward(self, x):
        return torch.cat([x, x.square()], 1)


def test_a_gaussian_is_learned_by_maximum_likelihood():
    """The model's score is that of the data's Gaussian, (m - x) / s^2."""
    mean, deviation = 0.5, 0.4
    x = mean + deviation * torch.randn(2000, 1)
    learner = GEDI(
        Parabola(), shape=(1,), bounds=(-3.0, 3.0), n_clusters=2, views=nn.Identity(), invariance_weight=0,
        prior_weight=0, sgld_steps=10, step_size=0.01, noise=math.sqrt(0.02), input_noise=0.0, buffer_size=512,
    )  # fmt: skip
    fit(learner, x, max_steps=250, batch_size=128, lr=0.1, weight_decay=0.0, seed=1)
    at = torch.tensor([[-0.1], [0.3], [0.5], [0.7], [1.1]], requires_grad=True)
    (score,) = torch.autograd.grad(learner.log_density(at).sum(), at)
    torch.testing.assert_close(score, (mean - at.detach()) / deviation**2, rtol=0.3, atol=0.5)
    ends = learner.sample(1000, 30)
    assert ends.mean().item() == pytest.approx(mean, abs=0.1)
    assert ends.std().item() == pytest.approx(deviation, abs=0.1)


def test_area_under_the_curve_against_scikit_learn():
    from sklearn.metrics import roc_auc_score

    above, below = torch.randint(5, (30,)).float() + 1, torch.randint(5, (20,)).float()
    expected = roc_auc_score([1] * 30 + [0] * 20, np.concatenate([above, below]))
    assert _auroc(above, below) == pytest.approx(expected)


def test_toy_points_come_in_turns_and_standardised():
    data = two_shapes(400, seed=3)
    for task in (0, 1):
        x = data["x"][data["task"] == task]
        assert len(x) == 200
        np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(0), 1, atol=1e-5)
    circle = data["task"] == 1
    radius = np.linalg.norm(data["x"][circle], axis=1)
    assert radius[data["y"][circle] == 1].max() < radius[data["y"][circle] == 0].min()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("n_clusters", 1), ("sgld_steps", 0), ("step_size", 0.0), ("prior_weight", -1.0), ("image_size", 2)],
)
def test_wrong_numbers_are_named(name, wrong):
    with pytest.raises(ArgumentError, match=name):
        GEDI(**{"image_size": 8, name: wrong})
    with pytest.raises(ArgumentError, match="shape"):
        GEDI(Quadratic())
