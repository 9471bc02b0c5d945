import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.compress import KnowledgeDistillation
from tacit.compress._distillation import soft_target_loss
from tacit.errors import ArgumentError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def made(**arguments):
    teacher = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    return KnowledgeDistillation(nn.Linear(5, 3), teacher, **arguments)


def slow(z, t, temperature):
    """T^2 sum_k p_k log(p_k / q_k), an item and a class at a time."""
    total = 0.0
    for student, teacher in zip(z.tolist(), t.tolist(), strict=True):
        q, p = ([math.exp(v / temperature) for v in row] for row in (student, teacher))
        q, p = ([v / sum(row) for v in row] for row in (q, p))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(z)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_against_the_equation(temperature):
    z, t = 3 * torch.randn(2, 6, 4)
    assert soft_target_loss(z, t, temperature).item() == pytest.approx(slow(z, t, temperature), rel=1e-4)
    torch.testing.assert_close(soft_target_loss(z + 7, t - 5, temperature), soft_target_loss(z, t, temperature))


def test_gradient_is_the_difference_of_the_softened_probabilities():
    """Eq. 2: d/dz of the cross-entropy is (q - p) / T; with T^2, T (q - p)."""
    z, t = torch.randn(2, 4, 3)
    z.requires_grad_()
    soft_target_loss(z, t, 3.0).backward()
    torch.testing.assert_close(z.grad, 3.0 * ((z / 3).softmax(1) - (t / 3).softmax(1)).detach() / 4)


def test_loss_weighs_labels_and_soft_targets():
    learner, x, y = made(temperature=2.0, label_weight=0.3, soft_weight=0.5), torch.randn(6, 5), torch.arange(6) % 3
    learner.train()
    z, t = learner.classifier(x), learner.teacher(x)
    expected = 0.3 * F.cross_entropy(z, y).item() + 0.5 * slow(z.detach(), t, 2.0)
    assert learner.loss(x, y).item() == pytest.approx(expected, rel=1e-4)


def test_the_teacher_does_not_move():
    learner = made().train()
    assert not any(module.training for module in learner.teacher.modules())
    before = [value.clone() for value in learner.teacher.state_dict().values()]
    learner.loss(torch.randn(6, 5), torch.arange(6) % 3).backward()
    assert not any(p.requires_grad for p in learner.teacher.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, learner.teacher.state_dict().values(), strict=True))


@pytest.mark.parametrize("argument", ["temperature", "label_weight", "soft_weight"])
def test_what_cannot_be_is_refused(argument):
    with pytest.raises(ArgumentError, match=argument):
        made(**{argument: -1.0})
    with pytest.raises(ArgumentError, match="teacher"):
        KnowledgeDistillation(nn.Linear(5, 3), nn.Linear(5, 4)).loss(torch.randn(2, 5), torch.zeros(2).long())
