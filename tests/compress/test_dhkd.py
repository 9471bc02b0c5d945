import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.compress import DHKD
from tacit.compress._dhkd import binary_kl, binary_kl_norm
from tacit.errors import ArgumentError
from tacit.nn import Classifier


class TinyEncoder(nn.Module):
    """Images of 1 x 4 x 4 -> 6 numbers."""

    dim, image_size, in_channels = 6, 4, 1

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Tanh())

    def forward(self, x):
        return self.net(x)

    def prepare(self, items):
        return items


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def made(**arguments):
    student, teacher = (Classifier(TinyEncoder(), 3) for _ in range(2))
    with torch.no_grad():
        teacher.head.weight *= 5
    return DHKD(student, teacher, **arguments)


def batch(n=8):
    return torch.rand(n, 1, 4, 4), torch.arange(n) % 3


def bernoulli_kl(p, q):
    return sum(a * math.log(a / b) for a, b in ((p, q), (1 - p, 1 - q)))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_logit_losses_against_the_equations(temperature):
    z, t = 3 * torch.randn(2, 5, 4)
    plain = norm = 0.0
    for student, teacher in zip(z.flatten().tolist(), t.flatten().tolist(), strict=True):
        plain += bernoulli_kl(sigmoid(teacher / temperature), sigmoid(student / temperature))
        norm += bernoulli_kl(0.5, sigmoid((student - teacher) / temperature))
    assert binary_kl(z, t, temperature).item() == pytest.approx(temperature**2 * plain / 5, rel=1e-4)
    assert binary_kl_norm(z, t, temperature).item() == pytest.approx(temperature**2 * norm / 5, rel=1e-4)


def test_binary_kl_norm_is_log_cosh_and_an_eighth_of_the_squared_difference_at_high_temperature():
    z, t = torch.randn(2, 5, 4)
    closed = 4 * ((z - t) / 4).double().cosh().log().sum(1).mean()
    assert binary_kl_norm(z, t, 2.0).item() == pytest.approx(closed.item(), rel=1e-4)
    squares = (z - t).square().sum(1).mean() / 8
    assert binary_kl_norm(10 * z, 10 * t, 300.0).item() == pytest.approx(100 * squares.item(), rel=0.01)


@pytest.mark.parametrize("function", [binary_kl, binary_kl_norm])
def test_logit_losses_are_0_at_the_teacher_and_steep_far_from_it(function):
    t = torch.tensor([[50.0, -50.0, 0.0]])
    assert function(t, t).item() == pytest.approx(0, abs=1e-5)
    z = torch.full((1, 3), 1e4, requires_grad=True)
    function(z, -z.detach()).backward()
    assert torch.isfinite(z.grad).all()
    assert (z.grad > 0.5).all()  # a clamped sigmoid would give 0 here


def test_gradients_by_finite_differences():
    """The losses themselves are float32; so by central differences of that precision."""
    z, t = torch.randn(2, 3, 4)
    for function in (binary_kl, binary_kl_norm):
        z.requires_grad_()
        (found,) = torch.autograd.grad(function(z, t), z)
        step = torch.zeros_like(z)
        for i in range(3):
            for k in range(4):
                step.zero_()[i, k] = 0.05
                slope = (function(z.detach() + step, t) - function(z.detach() - step, t)) / 0.1
                assert found[i, k].item() == pytest.approx(slope.item(), abs=2e-3)


def test_each_loss_reaches_its_own_head_and_both_the_encoder():
    learner, (x, y) = made(label_weight=2.0, logit_weight=0.3, temperature=1.5), batch()
    features = learner.encoder(x)
    target = learner.teacher(x)
    labels = 2.0 * F.cross_entropy(learner.classifier.head(features), y)
    logits = 0.3 * binary_kl_norm(learner.auxiliary(features), target, 1.5)
    loss = learner.loss(x, y)
    torch.testing.assert_close(loss, labels + logits)

    loss.backward()
    for module, source in ((learner.classifier.head, labels), (learner.auxiliary, logits)):
        expected = torch.autograd.grad(source, list(module.parameters()), retain_graph=True)
        torch.testing.assert_close([p.grad for p in module.parameters()], list(expected))
    weight = learner.encoder.net[1].weight
    expected = torch.autograd.grad(labels, weight, retain_graph=True)[0] + torch.autograd.grad(logits, weight)[0]
    torch.testing.assert_close(weight.grad, expected)


def test_on_one_head_both_losses_meet():
    learner, (x, y) = made(dual_head=False, logit_loss="binary-kl"), batch()
    z = learner.classifier(x)
    torch.testing.assert_close(learner.loss(x, y), F.cross_entropy(z, y) + binary_kl(z, learner.teacher(x)))


def flat(gradients):
    return torch.cat([torch.zeros(0) if g is None else g.flatten() for g in gradients])


@pytest.mark.parametrize("conflict", [True, False])
def test_aligned_gradients_are_the_projected_ones(conflict):
    """Against the projection of flat gradient vectors. A teacher that contradicts the labels makes a conflict."""
    learner, (x, y) = made(align_gradients=True, logit_weight=3.0), batch()
    assert learner.auxiliary is not None
    learner.auxiliary.load_state_dict(learner.classifier.head.state_dict())
    learner.teacher = Fixed(F.one_hot(y, 3) * (-20.0 if conflict else 20.0))
    parameters = list(learner.classifier.parameters())
    features = learner.encoder(x)
    losses = (
        F.cross_entropy(learner.classifier.head(features), y),
        3.0 * binary_kl_norm(learner.auxiliary(features), learner.teacher(x)),
    )
    g1, g2 = (
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        for loss in losses
    )
    product = flat(g1) @ flat(g2)
    assert (product < 0) == conflict
    expected = flat(g1) + flat(g2) - min(product, 0) / (flat(g1) @ flat(g1)) * flat(g1)
    learner.loss(x, y).backward()
    torch.testing.assert_close(flat([p.grad for p in parameters]), expected)
    with torch.no_grad():
        assert torch.isfinite(learner.loss(x, y))


class Fixed(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, x):
        return self.logits[: len(x)]


def test_the_teacher_stays_as_it_was_given():
    student, teacher = (Classifier(TinyEncoder(), 3) for _ in range(2))
    before = copy.deepcopy(teacher.state_dict())
    learner = DHKD(student, teacher).train()
    assert learner.teacher is teacher
    assert not any(module.training for module in teacher.modules())
    assert learner.encoder.training
    learner.loss(*batch()).backward()
    assert not any(p.requires_grad for p in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])


def test_views_are_seen_by_student_and_teacher_alike():
    class Dark(nn.Module):
        def forward(self, x):
            return 0 * x

    learner, (x, y) = made(views=Dark()), batch()
    learner.eval()
    plain = made()
    plain.load_state_dict(learner.state_dict())
    plain.eval()
    torch.testing.assert_close(learner.loss(x, y), plain.loss(0 * x, y))


def test_the_auxiliary_head_may_have_a_hidden_layer():
    learner = made(hidden_dim=7)
    assert [type(layer) for layer in learner.auxiliary] == [
        nn.Linear,
        nn.Dropout,
        nn.BatchNorm1d,
        nn.ReLU,
        nn.Linear,
    ]
    learner.loss(*batch(2)).backward()
    assert all(p.grad is not None for p in learner.auxiliary.parameters())


def test_it_learns_what_the_teacher_knows():
    """With no weight on the labels, a few steps bring the auxiliary head's logits to the teacher's."""
    learner, (x, y) = made(label_weight=0.0), batch(32)
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], 0.05)
    start = learner.loss(x, y).item()
    for _ in range(60):
        optimizer.zero_grad()
        learner.loss(x, y).backward()
        optimizer.step()
    assert learner.loss(x, y).item() < 0.1 * start


@pytest.mark.parametrize(
    ("argument", "value"),
    [("temperature", 0.0), ("label_weight", -1.0), ("logit_weight", -1.0), ("logit_loss", "mse")],
)
def test_what_cannot_be_is_refused(argument, value):
    with pytest.raises(ArgumentError, match=argument):
        made(**{argument: value})
    learner = DHKD(Classifier(TinyEncoder(), 3), Classifier(TinyEncoder(), 4))
    with pytest.raises(ArgumentError, match="teacher"):
        learner.loss(*batch())
