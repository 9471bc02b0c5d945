import math

import pytest
import torch
from torch import nn

from tacit.nn import ResNet
from tacit.pretrain import BYOL


def step(learner, optimizer, x, progress):
    optimizer.zero_grad()
    learner.loss(x).backward()
    optimizer.step()
    learner.after_step(progress)


def online(learner):
    return [*learner.encoder.parameters(), *learner.projector.parameters()]


def test_target_is_the_slow_average_whose_decay_rises_on_a_cosine(tiny, mirror, images):
    learner = BYOL(tiny, views=mirror, embed_dim=5, hidden_dim=7, momentum=0.9)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    expected = [p.detach().clone() for p in online(learner)]
    for k in range(1, 6):
        step(learner, optimizer, images, progress=k / 5)
        tau = 1 - (1 - 0.9) * (math.cos(math.pi * k / 5) + 1) / 2  # section 3.2
        expected = [tau * slow + (1 - tau) * p.detach() for slow, p in zip(expected, online(learner), strict=True)]
    for target, slow in zip(learner.target.parameters(), expected, strict=True):
        torch.testing.assert_close(target, slow)


def test_only_the_average_moves_the_target(tiny, mirror, images):
    learner = BYOL(tiny, views=mirror, embed_dim=5, hidden_dim=7)
    before = [p.clone() for p in learner.target.parameters()]
    learner.loss(images).backward()
    torch.optim.SGD(learner.parameters(), lr=1.0).step()
    assert all(p.grad is None for p in learner.target.parameters())
    assert all(torch.equal(p, q) for p, q in zip(before, learner.target.parameters(), strict=True))
    assert all(p.grad.abs().sum() > 0 for p in [*online(learner), *learner.predictor.parameters()])


def test_loss_is_the_squared_distance_of_normalised_vectors(mirror, images):
    """Eq. 2 as it stands: || p / |p| - z / |z| ||^2, both ways."""
    learner = BYOL(ResNet(8, width=4, image_size=8), views=mirror, embed_dim=5, hidden_dim=7)
    expected = 0.0
    for seen, unseen in (mirror(images), mirror(images)[::-1]):
        p, z = learner.predictor(learner.projector(learner.encoder(seen))), learner.target(unseen)
        expected += sum((u / u.norm() - v / v.norm()).square().sum().item() for u, v in zip(p, z, strict=True)) / 6
    assert learner.loss(images).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 0.0), (-1.0, 8.0)])
def test_loss_ends_at_0_and_8(tiny, twice, images, sign, expected):
    """Both views alike and a predictor that agrees, or says the opposite."""

    class Times(nn.Module):
        def forward(self, z):
            return sign * 3 * z

    learner = BYOL(tiny, views=twice, embed_dim=5, hidden_dim=7)
    learner.predictor = Times()
    assert learner.loss(images).item() == pytest.approx(expected, abs=1e-5)


def test_prediction_that_matches_is_stationary(tiny, twice, images):
    learner = BYOL(tiny, views=twice, embed_dim=5, hidden_dim=7)
    learner.predictor = nn.Identity()
    learner.loss(images).backward()
    assert max(p.grad.abs().max() for p in online(learner)) < 1e-5
