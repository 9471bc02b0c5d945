import pytest
import torch

from tacit.nn import ResNet
from tacit.pretrain import SimSiam
from tacit.pretrain._simsiam import gradient_of_the_target


def gradients(loss, learner):
    learner.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in learner.parameters() if p.requires_grad]


def test_gradient_is_that_with_targets_written_out_as_constants(mirror, images):
    learner = SimSiam(ResNet(8, width=4, image_size=8), views=mirror, embed_dim=9, hidden_dim=4)
    ours = gradients(learner.loss(images), learner)

    z1, z2 = (learner.projector(learner.encoder(view)) for view in mirror(images))
    fixed1, fixed2 = torch.tensor(z1.tolist()), torch.tensor(z2.tolist())
    by_hand = 0
    for z, target in ((z1, fixed2), (z2, fixed1)):
        p = learner.predictor(z)
        by_hand = by_hand - (p * target).sum(1) / (p.norm(dim=1) * target.norm(dim=1)) / 2
    for mine, theirs in zip(ours, gradients(by_hand.mean(), learner), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_without_the_stop_the_gradient_would_be_another(tiny, mirror, images):
    learner = SimSiam(tiny, views=mirror, embed_dim=9, hidden_dim=4)
    ours = gradients(learner.loss(images), learner)
    z1, z2 = (learner.projector(tiny(view)) for view in mirror(images))
    p1, p2 = learner.predictor(z1), learner.predictor(z2)
    symmetric = -(torch.cosine_similarity(p1, z2) + torch.cosine_similarity(p2, z1)).mean() / 2
    assert symmetric.item() == pytest.approx(learner.loss(images).item(), rel=1e-5)
    apart = zip(ours, gradients(symmetric, learner), strict=True)
    assert max((a - b).abs().max() for a, b in apart) > 1e-3


def test_loss_is_minus_1_where_the_prediction_is_the_target(tiny, twice, images):
    learner = SimSiam(tiny, views=twice, embed_dim=9, hidden_dim=4)
    learner.predictor = torch.nn.Identity()
    assert learner.loss(images).item() == pytest.approx(-1.0, abs=1e-6)


def test_checked_property():
    assert gradient_of_the_target() == (0.0, 0.0)
