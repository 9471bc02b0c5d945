import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import nn

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.fewlabels import ProtoTransfer, ProtoTune
from tacit.fewlabels._prototransfer import _PrototypicalNetworks, prototype_logits
from tacit.nn import Conv4
from tacit.training import fit


class Points(nn.Linear):
    """Points of 3 numbers -> 4."""

    dim = 4

    def __init__(self):
        super().__init__(3, self.dim)


class Shift(nn.Module):
    """A view that a test can follow: adds 1, 2, 3... at each call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + self.calls


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def support():
    """7 labelled items of three classes, of unequal numbers, in a mixed order."""
    return torch.randn(7, 3), torch.tensor([4, 9, 9, 2, 4, 9, 9])


def test_loss_against_algorithm_1():
    x, learner = torch.randn(5, 3), ProtoTransfer(Points(), views=Shift(), n_queries=2)
    total = 0.0
    for q in (1, 2):
        for i in range(5):
            copy = learner.encoder(x[i] + q)
            near = [math.exp(-(copy - learner.encoder(x[k])).square().sum().item()) for k in range(5)]
            total -= math.log(near[i] / sum(near)) / 10
    assert learner.loss(x).item() == pytest.approx(total, rel=1e-4)


def test_logits_differ_from_distances_by_what_classes_share():
    queries, prototypes = torch.randn(6, 4), torch.randn(3, 4)
    slow = torch.stack([torch.stack([-(q - c).square().sum() for c in prototypes]) for q in queries])
    torch.testing.assert_close(prototype_logits(queries, prototypes).softmax(1), slow.softmax(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prototype_logits(queries, prototypes), prototype_logits(queries.double(), prototypes))


def test_the_episodic_baseline_is_the_same_loss_with_classes_in_place_of_images():
    x, y = torch.randn(8, 3), torch.tensor([7, 3, 5, 7, 3, 5, 7, 3])
    learner = _PrototypicalNetworks(Points(), n_way=3)
    z = learner.encoder(x).detach()
    terms = []
    for query, own in ((3, 0), (4, 1), (5, 2), (6, 0), (7, 1)):  # the first of each class is its prototype
        near = [math.exp(-float((z[query] - z[k]).square().sum())) for k in range(3)]
        terms.append(-math.log(near[own] / sum(near)))
    assert learner.loss(x, y).item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_before_tuning_it_is_the_nearest_centroid(support):
    x, y = support
    queries = torch.randn(50, 3)
    told = ProtoTransfer(Points(), views=Shift()).adapt(x, y, epochs=0)
    z, of_queries = told.encoder(x).detach().numpy(), told.encoder(queries).detach().numpy()
    np.testing.assert_array_equal(told.predict(queries), NearestCentroid().fit(z, y.numpy()).predict(of_queries))


def test_tuning_is_logistic_regression_from_the_prototypes(support):
    x, y = support
    codes = torch.tensor([1, 2, 2, 0, 1, 2, 2])
    told = ProtoTune(nn.Identity(), x, y)
    start = [p.detach().clone().requires_grad_() for p in told.head.parameters()]
    told.tune(x, y, epochs=30, lr=0.01, batch_size=7)
    optimizer = torch.optim.Adam(start, 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(x @ start[0].T + start[1], codes).backward()
        optimizer.step()
    torch.testing.assert_close(told.head.weight, start[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(told.head.bias, start[1], rtol=1e-4, atol=1e-5)
    assert set(told.predict(x).tolist()) <= {2, 4, 9}


def test_the_learner_stays_as_it_is_whatever_is_tuned():
    learner = ProtoTransfer(Conv4(width=4, image_size=8))
    x, y = torch.rand(6, 3, 8, 8), torch.tensor([0, 0, 1, 1, 2, 2])
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    frozen = learner.adapt(x, y, epochs=2, lr=0.1)
    moved = learner.adapt(x, y, epochs=2, lr=0.1, freeze_encoder=False)
    assert learner.training
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert frozen.encoder is learner.encoder
    weights = moved.encoder.state_dict()
    assert not torch.equal(weights["blocks.0.0.weight"], before["encoder.blocks.0.0.weight"])
    assert torch.equal(weights["blocks.0.1.running_mean"], before["encoder.blocks.0.1.running_mean"])


def test_it_learns_to_find_images_again():
    """Noise images under dropout of pixels: copies find their own image again more often than before."""
    x = torch.rand(64, 3, 8, 8)
    learner = ProtoTransfer(Conv4(width=8, image_size=8), views=nn.Dropout(0.3))
    torch.manual_seed(1)
    before = learner.loss(x[:32]).item()
    fit(learner, Dataset({"x": x}, modality="image"), max_steps=60, batch_size=32, lr=1e-2)
    torch.manual_seed(1)
    assert learner.loss(x[:32]).item() < 0.7 * before


def test_what_cannot_be_is_refused(support):
    x, y = support
    with pytest.raises(ArgumentError, match="n_queries=0"):
        ProtoTransfer(Points(), views=Shift(), n_queries=0)
    with pytest.raises(ArgumentError, match="support_y: 2 labels of 7 items"):
        ProtoTune(nn.Identity(), x, y[:2])
    with pytest.raises(ArgumentError, match="epochs=-1"):
        ProtoTune(nn.Identity(), x, y).tune(x, y, epochs=-1)


def test_one_class_is_always_that_class():
    x = torch.randn(3, 3)
    told = ProtoTune(nn.Identity(), x, torch.tensor([6, 6, 6])).tune(x, torch.tensor([6, 6, 6]))
    assert told.predict(torch.randn(4, 3)).tolist() == [6, 6, 6, 6]
