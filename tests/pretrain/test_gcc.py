import math

import pytest
import torch

from tacit.data import Dataset, structural_graphs
from tacit.errors import ArgumentError
from tacit.nn import GIN
from tacit.pretrain import GCC
from tacit.training import fit


@pytest.fixture(scope="module")
def x():
    return torch.from_numpy(structural_graphs(18)["x"])


def slow_loss(queries, keys, negatives, t):
    """Eq. 1, one query at a time; the keys of the batch are the negatives where none are given."""
    unit = [[row / row.norm() for row in rows] for rows in (queries, keys, negatives)]
    total = 0.0
    for q, own in zip(unit[0], unit[1], strict=True):
        among = [*unit[2], own] if len(unit[2]) else unit[1]
        total -= math.log(math.exp(q @ own / t) / sum(math.exp(q @ k / t) for k in among))
    return total / len(queries)


def with_fixed_views(learner, x, monkeypatch):
    """The learner with its two views drawn once."""
    a, b = learner.view(x), learner.view(x)
    turns = iter([a, b] * 2)
    monkeypatch.setattr(learner.view, "forward", lambda x: next(turns))
    return a, b


@pytest.mark.parametrize("queue_size", [0, 7])
def test_loss_against_the_equation(x, queue_size, monkeypatch):
    torch.manual_seed(0)
    learner = GCC(GIN(dim=6, num_layers=2), queue_size=queue_size, temperature=0.3, n_steps=10).eval()
    a, b = with_fixed_views(learner, x, monkeypatch)
    with torch.no_grad():
        queries, keys = learner.encoder(a), learner.encoder(b)  # the key network starts as a copy
        negatives = learner.queue.items if queue_size else torch.zeros(0, 6)
        assert learner.loss(x).item() == pytest.approx(slow_loss(queries, keys, negatives, 0.3), rel=1e-4)


def test_both_sides_learn_from_each_other_in_the_batch_and_one_with_a_queue(x, monkeypatch):
    torch.manual_seed(0)
    learner = GCC(GIN(dim=6, num_layers=1), queue_size=5)
    learner.loss(x).backward()
    assert all(p.grad is None for p in learner.key_network.parameters())
    assert all(p.grad is not None for p in learner.encoder.parameters() if p.requires_grad)
    calls = []
    plain = GCC(GIN(dim=6, num_layers=1), queue_size=0)
    plain.encoder.register_forward_hook(lambda *given: calls.append(given[2].requires_grad))
    plain.loss(x)
    assert calls == [True, True]


def test_after_a_step_the_keys_are_in_the_queue_and_the_key_network_has_moved(x):
    torch.manual_seed(0)
    learner = GCC(GIN(dim=6, num_layers=1), queue_size=20, momentum=0.9)
    before = learner.key_network.copies[0].readouts[0].weight.clone()
    learner.loss(x)
    with torch.no_grad():
        learner.encoder.readouts[0].weight += 1
    learner.after_step(0.5)
    torch.testing.assert_close(learner.key_network.copies[0].readouts[0].weight, before + 0.1)
    torch.testing.assert_close(learner.queue.items[:18], torch.nn.functional.normalize(learner._keys, dim=1))
    assert int(learner.queue.pointer) == 18


def test_the_key_network_has_no_dropout_and_norms_of_its_own_batches():
    learner = GCC(GIN(dim=6, num_layers=1, dropout=0.5), queue_size=5)
    for _ in range(2):
        learner.train()
        copy = learner.key_network.copies[0]
        assert learner.encoder.dropout.training
        assert not copy.dropout.training
        assert copy.layers[0][1].training
        learner.eval()


def test_views_are_drawn_anew_from_torchs_generator(x):
    learner = GCC(GIN(dim=6, num_layers=1), queue_size=0, n_steps=8)
    seeds = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        seeds.append(learner.eval().loss(x).item())
    assert seeds[0] == seeds[1] != seeds[2]


def test_trained_it_tells_views_of_a_node_from_those_of_others(x):
    data = structural_graphs(180, seed=5)["x"]
    torch.manual_seed(0)
    learner = GCC(GIN(dim=16, num_layers=2), queue_size=0, restart=0.5, temperature=0.2)
    held_out = torch.from_numpy(structural_graphs(90, seed=6)["x"])

    def loss():
        torch.manual_seed(1)
        with torch.no_grad():
            return learner.train().loss(held_out).item()

    before = loss()
    fit(learner, Dataset({"x": data}), max_steps=40, batch_size=90, lr=5e-3, seed=0, accelerator="cpu")
    assert loss() < before - 0.3


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="queue_size=-1"):
        GCC(GIN(), queue_size=-1)
    with pytest.raises(ArgumentError, match="temperature=0"):
        GCC(GIN(), temperature=0)
    with pytest.raises(ArgumentError, match="restart=2"):
        GCC(GIN(), restart=2)
