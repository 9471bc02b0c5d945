import math

import torch
from pytorch_metric_learning.losses import NTXentLoss

from tacit.nn import ResNet
from tacit.pretrain import SimCLR
from tacit.pretrain._simclr import chance_level


def slow_nt_xent(a, b, t):
    """Eq. 1, one pair at a time."""
    views = [z / z.norm() for z in torch.cat([a, b]).detach()]
    n, total = len(a), 0.0
    for i, z in enumerate(views):
        j = (i + n) % (2 * n)
        others = sum(math.exp(float(z @ views[k]) / t) for k in range(2 * n) if k != i)
        total -= math.log(math.exp(float(z @ views[j]) / t) / others)
    return total / (2 * n)


def test_loss_is_equation_1_of_the_projected_views(tiny, mirror, images):
    learner = SimCLR(tiny, views=mirror, embed_dim=5, hidden_dim=7, temperature=0.3)
    a, b = (learner.projector(tiny(view)) for view in mirror(images))
    torch.testing.assert_close(learner.loss(images).item(), slow_nt_xent(a, b, 0.3), rtol=1e-5, atol=1e-6)


def test_gradient_is_that_of_pytorch_metric_learning(mirror, images):
    learner = SimCLR(ResNet(8, width=4, image_size=8), views=mirror, embed_dim=5, hidden_dim=7, temperature=0.3)
    learner.loss(images).backward()
    ours = [p.grad.clone() for p in learner.parameters()]
    learner.zero_grad()
    z = torch.cat([learner.projector(learner.encoder(view)) for view in mirror(images)])
    NTXentLoss(temperature=0.3)(z, torch.arange(6).repeat(2)).backward()
    for mine, peer in zip(ours, learner.parameters(), strict=True):
        torch.testing.assert_close(mine, peer.grad, rtol=1e-4, atol=1e-6)


def test_checked_property():
    measured, expected = chance_level()
    assert abs(measured - expected) <= chance_level.checked.tolerance
