import numpy as np
import pytest
import torch

from tacit.nn import ResNet
from tacit.pretrain import BarlowTwins, barlow_twins_loss
from tacit.pretrain._barlow_twins import cost_of_redundancy


def by_numpy(a, b, redundancy):
    d = a.shape[1]
    c = np.corrcoef(a.detach().numpy(), b.detach().numpy(), rowvar=False)[:d, d:]
    return ((1 - np.diag(c)) ** 2).sum() + redundancy * (c**2).sum() - redundancy * (np.diag(c) ** 2).sum()


def test_loss_against_numpy_corrcoef():
    a = torch.randn(20, 6)
    b = a + 0.7 * torch.randn(20, 6)
    assert barlow_twins_loss(a, b, redundancy=0.3).item() == pytest.approx(by_numpy(a, b, 0.3), rel=1e-3)


def test_loss_does_not_see_scale_and_shift_of_a_dimension():
    a, b = torch.randn(2, 20, 6)
    scale, shift = torch.rand(6) + 0.5, torch.randn(6)
    assert barlow_twins_loss(a * scale + shift, b).item() == pytest.approx(barlow_twins_loss(a, b).item(), rel=1e-3)


def test_learner_scales_the_loss_of_its_views(mirror, images):
    learner = BarlowTwins(ResNet(8, width=4, image_size=8), views=mirror, embed_dim=4, redundancy=0.2, scale=0.024)
    a, b = (learner.projector(learner.encoder(view)) for view in mirror(images))
    assert learner.loss(images).item() == pytest.approx(0.024 * by_numpy(a, b, 0.2), rel=1e-2)


def test_dead_dimension_stays_finite():
    a = torch.randn(8, 3).requires_grad_()
    barlow_twins_loss(a * torch.tensor([1.0, 0.0, 1.0]), a).backward()
    assert torch.isfinite(a.grad).all()


def test_checked_property():
    measured, expected = cost_of_redundancy()
    assert abs(measured - expected) <= cost_of_redundancy.checked.tolerance
