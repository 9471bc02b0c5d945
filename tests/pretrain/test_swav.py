import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.nn import ResNet
from tacit.pretrain import SwAV, swapped_prediction
from tacit.pretrain._swav import assign


class Crops(nn.Module):
    """Two large crops and a small one, without chance."""

    def forward(self, x):
        return x, x.flip(-1), x[..., 2:6, 2:6]


def learner_of(width=4, **settings):
    defaults = {"views": Crops(), "embed_dim": 5, "hidden_dim": 7, "n_prototypes": 4, "freeze_prototypes": 0.0}
    return SwAV(ResNet(8, width=width, image_size=8), **{**defaults, **settings})


def slow_codes(scores, epsilon, n_iters=3):
    """Sinkhorn-Knopp on exp(scores / epsilon), prototypes as rows as in the paper, one sum at a time."""
    q = np.exp(scores.double().numpy() / epsilon).T
    n_prototypes, n = q.shape
    for _ in range(n_iters):
        for k in range(n_prototypes):
            q[k] /= q[k].sum() * n_prototypes
        for i in range(n):
            q[:, i] /= q[:, i].sum() * n
    return torch.from_numpy((q * n).T)


def slow_loss(scores, codes, t):
    """Eqs. 1, 2 and 6, one pair of crops, image and prototype at a time; the mean over the pairs."""
    total, pairs = 0.0, 0
    for i, code in enumerate(codes):
        for v, of_crop in enumerate(scores):
            if v == i:
                continue
            pairs += 1
            for n in range(len(of_crop)):
                exponentials = [math.exp(float(s) / t) for s in of_crop[n]]
                for k, e in enumerate(exponentials):
                    total -= float(code[n, k]) * math.log(e / sum(exponentials)) / len(of_crop)
    return total / pairs


@pytest.mark.parametrize("n_crops", [2, 3, 5])
def test_swapped_prediction_against_the_equations(n_crops):
    scores = torch.rand(n_crops, 6, 4) * 2 - 1
    codes = torch.rand(2, 6, 4).softmax(2)
    expected = slow_loss(scores, codes, 0.3)
    assert swapped_prediction(list(scores), list(codes), 0.3).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_is_prediction_minus_code_over_the_temperature():
    scores = (torch.rand(3, 5, 4, dtype=torch.float64) * 2 - 1).requires_grad_()
    codes = torch.rand(2, 5, 4, dtype=torch.float64).softmax(2)
    (gradient,) = torch.autograd.grad(swapped_prediction(scores, codes, 0.3), scores)
    p = (scores.detach() / 0.3).softmax(2)
    from_pair = [[p[v] - codes[i] if v != i else torch.zeros_like(p[v]) for i in range(2)] for v in range(3)]
    expected = torch.stack([a + b for a, b in from_pair]) / (0.3 * 5 * 4)  # 4 pairs
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)  # the loss is in float32


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_codes_against_slow_sinkhorn(epsilon):
    scores = torch.rand(9, 4) * 2 - 1
    codes = assign(scores, epsilon)
    torch.testing.assert_close(codes.double(), slow_codes(scores, epsilon), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(codes.sum(1), torch.ones(9))


def test_codes_are_even_where_all_images_are_alike():
    """What keeps SwAV from collapse: alike images are spread over all prototypes, whichever they prefer."""
    scores = torch.tensor([0.9, 0.1, -0.5, 0.3]).expand(8, 4)
    torch.testing.assert_close(assign(scores), torch.full((8, 4), 0.25))


def test_loss_is_that_of_the_projected_crops():
    learner = learner_of(temperature=0.2, epsilon=0.1)
    x = torch.rand(6, 3, 8, 8)
    large = learner.encoder(torch.cat([x, x.flip(-1)]))
    z = learner.projector(torch.cat([large, learner.encoder(x[..., 2:6, 2:6])]))
    prototypes = F.normalize(learner.prototypes.weight, dim=1)
    scores = [(F.normalize(part, dim=1) @ prototypes.T).detach() for part in z.split(6)]
    codes = [slow_codes(scores[i], 0.1) for i in range(2)]
    assert learner.loss(x).item() == pytest.approx(slow_loss(scores, codes, 0.2), rel=1e-4)


def test_queue_fills_from_its_start_and_is_used_once_it_is_full():
    learner, embeddings = learner_of(queue_size=12, queue_start=0.5, epsilon=0.1), []

    def step(progress):
        learner.progress = progress
        learner.loss(torch.rand(6, 3, 8, 8))
        learner.after_step(progress)
        embeddings.append([F.normalize(z, dim=1) for z in learner._large])

    def codes_of(number, scores):
        return learner._codes(number, scores).double()

    scores = torch.rand(6, 4) * 2 - 1
    step(0.4)
    assert learner.queued == 0
    step(0.5)
    torch.testing.assert_close(codes_of(0, scores), slow_codes(scores, 0.1), rtol=1e-4, atol=1e-6)  # half full: not yet
    step(0.6)
    step(0.7)
    prototypes = F.normalize(learner.prototypes.weight.detach(), dim=1)
    for number in range(2):
        last, before = embeddings[-1][number], embeddings[-2][number]
        torch.testing.assert_close(learner.queues[number].items, torch.cat([last, before]))
        earlier = learner.queues[number].items @ prototypes.T
        expected = slow_codes(torch.cat([earlier, scores]), 0.1)[-6:]
        torch.testing.assert_close(codes_of(number, scores), expected, rtol=1e-4, atol=1e-6)


def test_a_queue_that_two_processes_hold_counts_once():
    queue, batch = torch.rand(5, 4), torch.rand(6, 4)
    weights = torch.tensor([0.5] * 10 + [1.0] * 6)
    twice = assign(torch.cat([queue, queue, batch]), 0.1, weights)[-6:]
    torch.testing.assert_close(twice, assign(torch.cat([queue, batch]), 0.1)[-6:])


def test_prototypes_are_frozen_at_first_and_codes_pass_no_gradient():
    learner, x = learner_of(freeze_prototypes=0.1), torch.rand(6, 3, 8, 8)
    frozen = learner.loss(x)
    frozen.backward()
    assert learner.prototypes.weight.grad is None
    assert learner.projector[0].weight.grad.abs().max() > 0
    learner.progress = 0.1
    later = learner.loss(x)
    later.backward()
    assert later.item() == pytest.approx(frozen.item(), rel=1e-5)
    assert learner.prototypes.weight.grad.abs().max() > 0


def test_multi_crop_divides_the_area_and_without_it_there_are_two_crops():
    encoder = ResNet(8, width=4, image_size=32)
    many = SwAV(encoder, local_crops=3, scale_split=0.3).views
    assert [len(view[0, 0]) for view in many(torch.rand(2, 3, 32, 32))] == [32, 32, 16, 16, 16]
    areas = [
        ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])).abs() / 32**2
        for b in many.with_boxes(torch.rand(200, 3, 32, 32))[1]
    ]
    assert min(a.min() for a in areas[:2]) >= 0.299
    assert max(a.max() for a in areas[2:]) <= 0.301
    two = SwAV(encoder, local_crops=0).views
    assert [len(view[0, 0]) for view in two(torch.rand(2, 3, 32, 32))] == [32, 32]


def test_what_is_too_small_is_said():
    with pytest.warns(UserWarning, match=r"n_prototypes=9: more than the 6 embeddings.*queue_size"):
        learner_of(n_prototypes=9).loss(torch.rand(6, 3, 8, 8))
    with pytest.warns(UserWarning, match="queue_size=20: more than the 6 images"):
        learner_of(queue_size=20).before_fit(Dataset({"x": torch.zeros(6, 3, 8, 8)}))


def test_what_cannot_be_is_refused():
    encoder = ResNet(8, width=4, image_size=8)
    for wrong in (
        {"temperature": 0.0},
        {"epsilon": 0.0},
        {"queue_size": -1},
        {"scale_split": 1.0},
        {"n_prototypes": 1},
    ):
        ((name, value),) = wrong.items()
        with pytest.raises(ArgumentError, match=f"{name}={value}"):
            SwAV(encoder, **wrong)
