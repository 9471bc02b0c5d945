import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.losses import dino_loss, masked_patch_loss


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def softmax(row, t):
    weights = [math.exp(z / t) for z in row]
    return [w / sum(weights) for w in weights]


def cross_entropy(p, q):
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def slow_dino(student, teacher, t):
    """DINO eq. 3: every pair of different crops, one item at a time. The sum over pairs, and their number."""
    total, pairs, n = 0.0, 0, len(student[0])
    for i, targets in enumerate(teacher):
        for j, logits in enumerate(student):
            if i == j:
                continue
            pairs += 1
            total += sum(
                cross_entropy(p, softmax(s, t)) / n for p, s in zip(targets.tolist(), logits.tolist(), strict=True)
            )
    return total, pairs


@pytest.mark.parametrize(("crops", "global_crops"), [(2, 2), (5, 2), (3, 1), (4, 3)])
def test_dino_loss_against_every_pair(crops, global_crops):
    student = [torch.randn(3, 4) for _ in range(crops)]
    teacher = [torch.randn(3, 4).softmax(1) for _ in range(global_crops)]
    total, pairs = slow_dino(student, teacher, 0.3)
    assert dino_loss(student, teacher, 0.3).item() == pytest.approx(total / pairs, rel=1e-5)
    assert dino_loss(student, teacher, 0.3, reduction="sum").item() == pytest.approx(total, rel=1e-5)


def test_gradient_is_student_minus_teacher():
    """The closed form of cross-entropy: (softmax(s / t) - P) / t for each pair."""
    student = [torch.randn(4, 5, dtype=torch.double, requires_grad=True) for _ in range(3)]
    teacher = [torch.randn(4, 5, dtype=torch.double).softmax(1) for _ in range(2)]
    dino_loss(student, teacher, 0.2, reduction="sum").backward()
    for j, logits in enumerate(student):
        others = [p for i, p in enumerate(teacher) if i != j]
        expected = sum(((logits / 0.2).softmax(1) - p) / 0.2 / 4 for p in others)
        torch.testing.assert_close(logits.grad, expected)


def test_the_least_loss_is_the_teachers_entropy():
    p = torch.randn(6, 4).softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(dino_loss([p.log(), p.log(), p.log()], [p, p], temperature=1.0), entropy)


def test_patch_loss_is_a_mean_over_images_of_means_over_hidden_patches():
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()
    student, teacher = torch.randn(3, 4, 5), torch.randn(3, 4, 5).softmax(2)
    total = 0.0
    for i in range(3):
        hidden = [j for j in range(4) if mask[i, j]]
        for j in hidden:
            total += cross_entropy(teacher[i, j].tolist(), softmax(student[i, j].tolist(), 0.3)) / len(hidden) / 3
    assert masked_patch_loss(student[mask], teacher[mask], mask, 0.3).item() == pytest.approx(total, rel=1e-5)


def test_no_hidden_patch_costs_nothing():
    mask = torch.zeros(3, 4, dtype=torch.bool)
    student = torch.zeros(0, 5, requires_grad=True)
    loss = masked_patch_loss(student, torch.zeros(0, 5), mask)
    loss.backward()
    assert loss.item() == 0


def test_half_precision_is_raised():
    student, teacher = [torch.randn(4, 8) for _ in range(2)], [torch.randn(4, 8).softmax(1) for _ in range(2)]
    half = dino_loss([s.bfloat16() for s in student], teacher, 0.04)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, dino_loss([s.bfloat16().float() for s in student], teacher, 0.04))


def test_what_cannot_be_is_refused():
    logits, p = torch.randn(3, 4), torch.full((3, 4), 0.25)
    with pytest.raises(ArgumentError, match="two crops"):
        dino_loss([logits], [p])
    with pytest.raises(ArgumentError, match="two crops"):
        dino_loss([logits, logits], [p] * 3)
    with pytest.raises(ArgumentError, match="one shape"):
        dino_loss([logits, logits[:2]], [p])
    with pytest.raises(ArgumentError, match="temperature=0"):
        dino_loss([logits, logits], [p], 0)
    with pytest.raises(ArgumentError, match="reduction='max'"):
        dino_loss([logits, logits], [p], reduction="max")
    with pytest.raises(ArgumentError, match="hidden patch"):
        masked_patch_loss(logits, p, torch.zeros(2, 4, dtype=torch.bool))
