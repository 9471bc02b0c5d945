import math

import pytest
import torch
from torch import nn

from tacit.nn import ResNet
from tacit.pretrain import RotNet
from tacit.pretrain._rotnet import mild_crop


def corners(x):
    """What stands in the top left corner once x is turned by 0 to 3 quarter turns, found by index."""
    return [x[:, :, 0, 0], x[:, :, 0, -1], x[:, :, -1, -1], x[:, :, -1, 0]]


class Oracle(nn.Module):
    """Reads the turn off a mark in one corner, and says it with confidence `scale`."""

    dim, image_size, in_channels = 4, 8, 1

    def __init__(self, scale):
        super().__init__()
        self.scale, self.seen = scale, []

    def forward(self, x):
        self.seen.append(x)
        marks = torch.stack([x[:, 0, 0, 0], x[:, 0, -1, 0], x[:, 0, -1, -1], x[:, 0, 0, -1]], 1)
        return self.scale * marks


def marked(n):
    x = 0.5 * torch.rand(n, 1, 8, 8)
    x[:, :, 0, 0], x[:, :, 0, -1], x[:, :, -1, 0], x[:, :, -1, -1] = 1, 0, 0, 0
    return x


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_loss_is_the_cross_entropy_of_all_four_turns(scale):
    """With the mark read off, the right logit is `scale` and the others 0: -log(e^s / (e^s + 3))."""
    learner = RotNet(Oracle(scale), views=nn.Identity())
    learner.classifier = nn.Identity()
    expected = math.log(math.exp(scale) + 3) - scale
    assert learner.loss(marked(5)).item() == pytest.approx(expected, rel=1e-5)


def test_network_sees_every_image_in_all_four_turns():
    learner, x = RotNet(Oracle(1.0), views=nn.Identity()), torch.rand(5, 1, 8, 8)
    learner.loss(x)
    (seen,) = learner.encoder.seen
    by_turn = seen.view(4, 5, 1, 8, 8)
    for k, corner in enumerate(corners(x)):
        torch.testing.assert_close(by_turn[k, :, :, 0, 0], corner)
    # the multiset of pixels is that of the image, at every turn
    assert torch.equal(by_turn.flatten(3).sort(3).values, x.flatten(2).sort(2).values.expand(4, -1, -1, -1))


def test_gradient_is_the_mean_over_turns_of_each_alone(images):
    """One batch of 4n and four batches of n: the same mean, in eval mode, where normalisation does not mix them."""
    learner = RotNet(ResNet(8, width=4, image_size=8), views=nn.Identity()).eval()
    turns = [images, images.transpose(2, 3).flip(2), images.flip(2, 3), images.transpose(2, 3).flip(3)]
    loss = 0
    for k, turned in enumerate(turns):
        logits = learner.classifier(learner.encoder(turned))
        loss = loss - logits.log_softmax(1)[:, k].mean() / 4
    assert learner.loss(images).item() == pytest.approx(loss.item(), rel=1e-5)


def test_inner_layer_is_kept_while_the_whole_network_learns(images):
    learner = RotNet(ResNet(8, width=4, image_size=8, layer="stage2"), views=nn.Identity())
    learner.loss(images).backward()
    assert learner.encoder(images).shape == (6, 8)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.parameters())


def test_default_views_keep_at_least_half_of_the_image():
    _, box = mild_crop(8).with_box(torch.rand(200, 3, 8, 8))
    area = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).abs() / 64
    assert area.min() >= 0.499
    assert 0.3 < (box[:, 1] > box[:, 3]).float().mean() < 0.7
