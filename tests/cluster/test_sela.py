import copy
import math
import threading

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from tacit.cluster import SeLa, _sela
from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.nn import ResNet, _sinkhorn
from tacit.training import fit


class TinyEncoder(nn.Module):
    """Images of 3 x 8 x 8 -> 12 numbers, with batch normalisation and dropout to tell train mode from eval mode."""

    dim, image_size, in_channels = 12, 8, 3

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.BatchNorm1d(12), nn.Dropout(0.5))

    def forward(self, x):
        return self.net(x)


class Mirror(nn.Module):
    def forward(self, x):
        return x.flip(-1)


def learner_and_data(n=12, kind=SeLa, **arguments):
    torch.manual_seed(0)
    learner = kind(TinyEncoder(), views=Mirror(), **{"n_clusters": 3, "n_heads": 2, **arguments})
    data = Dataset({"x": torch.rand(n, 3, 8, 8)})
    learner.before_fit(data)
    return learner, data


def log_probabilities(learner, data, head):
    """In eval mode, one item at a time."""
    quiet = copy.deepcopy(learner).eval()
    rows = [quiet.heads[head](quiet.encoder(x[None]))[0] for x in data["x"][:]]
    return torch.stack([row - row.exp().sum().log() for row in rows]).detach().double().numpy()


def optimal_labels(log_p):
    """argmin <Q, -log P> under equal sums, by linear programming: one label an item where k divides n."""
    n, k = log_p.shape
    sums = np.vstack([np.kron(np.eye(n), np.ones((1, k))), np.kron(np.ones((1, n)), np.eye(k))])
    marginals = np.concatenate([np.full(n, 1 / n), np.full(k, 1 / k)])
    plan = linprog(-log_p.ravel(), A_eq=sums, b_eq=marginals, bounds=(0, None)).x.reshape(n, k)
    assert set(np.round(plan * n, 6).ravel()) == {0.0, 1.0}
    return plan.argmax(1)


def test_labels_solve_the_optimal_transport_problem():
    learner, data = learner_and_data(epsilon=0.004)
    learner.relabel(data)
    for head in range(2):
        assert learner.labels[head].tolist() == optimal_labels(log_probabilities(learner, data, head)).tolist()
    assert not torch.equal(learner.labels[0], learner.labels[1])
    assert learner.labels_.tolist() == learner.labels[0].tolist()


def test_every_label_is_given_about_equally_often_where_the_likeliest_is_always_the_same():
    sizes = {}
    for kind in (SeLa, _sela._LikeliestLabels):
        learner, data = learner_and_data(n=120, kind=kind)
        for head in learner.heads:
            nn.init.constant_(head.bias, 0.0)
            head.bias.data[1] = 10.0
        learner.relabel(data)
        sizes[kind] = torch.bincount(learner.labels[0], minlength=3).tolist()
    assert sizes[_sela._LikeliestLabels] == [0, 120, 0]
    assert min(sizes[SeLa]) >= 30


def test_labels_by_kmeans_are_the_clusters():
    learner, _ = learner_and_data(kind=_sela._KMeansLabels)
    centers = torch.tensor([[9.0, 0.0], [0.0, 9.0], [-9.0, -9.0]])
    features = (centers[:, None] + torch.randn(3, 10, 2)).flatten(0, 1)
    before = learner.heads[0].weight.clone()
    labels = learner.assign(features, learner.heads[0]).view(3, 10)
    assert (labels == labels[:, :1]).all()
    assert labels[:, 0].unique().numel() == 3
    assert not torch.equal(learner.heads[0].weight, before)


def test_relabelling_leaves_the_network_as_it_was():
    learner, data = learner_and_data()
    learner.train()
    learner.encoder.net[3].eval()  # a part that its user froze
    before = copy.deepcopy(learner.state_dict())
    learner.relabel(data)
    assert learner.training
    assert not learner.encoder.net[3].training
    for name, value in learner.state_dict().items():
        assert name == "labels" or torch.equal(value, before[name])


def test_loss_is_the_mean_cross_entropy_of_views_over_items_and_heads():
    learner, data = learner_and_data()
    learner.eval()
    index = torch.tensor([3, 0, 7])
    total = 0.0
    for head, labels in zip(learner.heads, learner.labels, strict=True):
        for i in index.tolist():
            logits = head(learner.encoder(data["x"][[i]].flip(-1)))[0].tolist()
            total += math.log(sum(math.exp(z) for z in logits)) - logits[labels[i]]
    loss = learner.loss(data["x"][index], index)
    assert loss.item() == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.parametrize(("m", "epochs"), [(1, 7), (4, 20), (5, 5), (100, 12), (2, 3)])
def test_labels_are_made_anew_at_the_first_epoch_after_each_time(m, epochs):
    learner, data = learner_and_data(n_relabellings=m)
    times = [(i / (m - 1)) ** 2 for i in range(m)] if m > 1 else [0.0]
    begins = [epoch / epochs for epoch in range(epochs)]
    expected = {min(e for e in range(epochs) if begins[e] >= t - 1e-12) for t in times if t <= begins[-1]}
    called = []
    learner.relabel = lambda data: called.append(epoch)
    for epoch in range(epochs):
        learner.progress = begins[epoch]
        learner.before_epoch(data)
    assert called == sorted(expected)


def test_random_labels_come_first_in_equal_numbers():
    learner, data = learner_and_data(n=14)
    for labels in learner.labels:
        assert sorted(torch.bincount(labels).tolist()) == [4, 5, 5]
    assert not torch.equal(learner.labels[0], learner.labels[1])
    learner.before_epoch(data)
    learner.before_fit(data)
    assert learner.times_passed == 0


def test_processes_label_a_share_each_and_agree_on_all(monkeypatch):
    """Two processes, played by threads: rank and the exchange are patched."""
    learner, data = learner_and_data(n=13)
    learner.relabel(data)
    expected = learner.labels.clone()

    local, barrier, brought, found = threading.local(), threading.Barrier(2), [None] * 2, [None] * 2

    def gather(x):
        brought[local.rank] = x
        barrier.wait(20)
        everything = torch.cat(brought)
        barrier.wait(20)
        return everything

    def process(rank, copied):
        local.rank = rank
        copied.relabel(data)
        found[rank] = copied.labels

    for module in (_sela, _sinkhorn):
        monkeypatch.setattr(module, "gather", gather)
    monkeypatch.setattr(_sela, "rank", lambda: local.rank)
    monkeypatch.setattr(_sela, "world_size", lambda: 2)
    threads = [threading.Thread(target=process, args=(rank, copy.deepcopy(learner))) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], expected)


def test_the_clusters_are_those_of_separable_images():
    """Four colours: after a few epochs each label lies within one colour, and they come equally often."""
    torch.manual_seed(0)
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    x = (colours.repeat(16, 1)[:, :, None, None] * 0.8 + 0.1 * torch.rand(64, 3, 8, 8)).clamp(0, 1)
    learner = SeLa(ResNet(8, width=4, image_size=8), views=nn.Identity(), n_clusters=4, n_heads=1)
    fit(learner, x, max_steps=24, batch_size=16, lr=1e-2)
    table = torch.zeros(4, 4)
    for colour, label in zip(torch.arange(64) % 4, learner.labels_, strict=True):
        table[colour, label] += 1
    assert table.max(0).values.sum() == 64
    assert (table.sum(0) == 16).all()


@pytest.mark.parametrize(
    ("argument", "value"), [("n_clusters", 1), ("n_heads", 0), ("epsilon", 0.0), ("n_relabellings", 0)]
)
def test_what_cannot_be_is_refused(argument, value):
    with pytest.raises(ArgumentError, match=argument):
        SeLa(TinyEncoder(), views=Mirror(), **{argument: value})
