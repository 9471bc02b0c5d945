import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import ResNet
from tacit.robust import SelfSupervisedLabelAugmentation
from tacit.robust._sla import aggregated, transformations
from tacit.views import as_float


class AsIs(torch.nn.Module):
    def forward(self, x):
        return as_float(x, x.shape[-1])


def made(**arguments):
    torch.manual_seed(0)
    encoder = ResNet(8, width=4, image_size=8)
    return SelfSupervisedLabelAugmentation(encoder, 3, views=AsIs(), **arguments).double().eval()


def batch(n=5):
    draw = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, 8, 8, generator=draw).double(), torch.randint(3, (n,), generator=draw)


def turned(x, j):
    for _ in range(j):  # counter-clockwise: the last column becomes the first row
        x = x.flip(2).transpose(1, 2)
    return x


def joint_logits(learner, image, j):
    """N x M logits of one image under the j-th rotation."""
    row = learner.joint_head(learner.encoder(turned(image, j)[None]))[0]
    return row.view(3, 4)


@pytest.mark.parametrize("distill", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_loss_is_the_papers_sum_image_by_image(distill, temperature):
    learner = made(self_distill=distill, temperature=temperature)
    x, y = batch()
    total = 0.0
    for image, label in zip(as_float(x, 8).double(), y, strict=True):
        logits = [joint_logits(learner, image, j) for j in range(4)]
        for j in range(4):
            total -= (logits[j][label, j] - logits[j].logsumexp((0, 1))) / 4
        if distill:
            mean = sum(logits[j][:, j] for j in range(4)) / 4
            own = learner.head(learner.encoder(image[None]))[0]
            p, q = (mean / temperature).softmax(0).detach(), (own / temperature).softmax(0)
            total += temperature**2 * (p * (p / q).log()).sum() - own.log_softmax(0)[label]
    torch.testing.assert_close(learner.loss(x, y), total / len(x), rtol=1e-5, atol=1e-6)


def test_the_distillation_teaches_the_second_head_and_not_the_aggregate():
    learner = made(self_distill=True)
    x, y = batch()
    joint_alone = made(self_distill=False)
    joint_alone.load_state_dict(learner.state_dict(), strict=False)
    both = torch.autograd.grad(learner.loss(x, y), learner.joint_head.weight)[0]
    alone = torch.autograd.grad(joint_alone.loss(x, y), joint_alone.joint_head.weight)[0]
    torch.testing.assert_close(both, alone)


def test_the_aggregate_averages_what_each_transformation_says_of_the_class():
    learner = made()
    x, _ = batch()
    expected = torch.stack([sum(joint_logits(learner, one, j)[:, j] for j in range(4)) / 4 for one in x])
    torch.testing.assert_close(learner.predict(x), expected)
    torch.testing.assert_close(learner(x), expected)


def test_one_pass_reads_the_untransformed_image():
    learner = made()
    x, _ = batch()
    expected = torch.stack([joint_logits(learner, one, 0)[:, 0] for one in x])
    torch.testing.assert_close(learner.predict(x, aggregate=False), expected)


def test_logits_that_are_all_alike_cost_the_logarithm_of_all_joint_labels():
    learner = made()
    torch.nn.init.zeros_(learner.joint_head.weight)
    torch.nn.init.zeros_(learner.joint_head.bias)
    assert learner.loss(*batch()).item() == pytest.approx(math.log(12))
    assert torch.equal(aggregated(torch.zeros(2, 4, 12)), torch.zeros(2, 3))


def test_colors_are_the_six_orders_of_the_channels():
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    found = [transform(x).flatten().tolist() for transform in transformations("colors", 3)]
    assert found[0] == [1, 2, 3]
    assert len({tuple(order) for order in found}) == 6


@pytest.mark.parametrize(
    ("arguments", "says"), [({"transforms": "turns"}, "rotations"), ({"temperature": 0}, "temperature=0")]
)
def test_a_wrong_argument_is_named(arguments, says):
    with pytest.raises(ArgumentError, match=says):
        made(**arguments)


def test_colors_of_grey_images_are_refused_with_the_remedy():
    with pytest.raises(ArgumentError, match="rotations"):
        SelfSupervisedLabelAugmentation(ResNet(8, width=4, in_channels=1, image_size=8), 3, transforms="colors")
