import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from tacit.data import Dataset
from tacit.errors import ArgumentError, DataError
from tacit.fewlabels import MatchingNetworks
from tacit.fewlabels._matching_networks import (
    FullContext,
    draw_episode,
    items_by_class,
    nearest_support_accuracy,
    quarter_turns,
)
from tacit.nn import Conv4
from tacit.training import fit


class Points(nn.Linear):
    """Points of 3 numbers -> 4."""

    dim = 4

    def __init__(self):
        super().__init__(3, self.dim)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def episode():
    """Two supports of each of the classes 7, 9 and 4, in a mixed order, then five queries."""
    y = torch.tensor([7, 9, 4, 9, 7, 4, 4, 7, 7, 9, 4])
    return torch.randn(11, 3), y


def slow_probability(support, labels, query, label, t):
    """Eq. 1, one support at a time."""
    cosine = [float(z @ query / z.norm() / query.norm()) for z in support]
    total = sum(math.exp(c / t) for c in cosine)
    return sum(math.exp(c / t) / total for c, of in zip(cosine, labels, strict=True) if of == label)


@pytest.mark.parametrize("t", [1.0, 0.1])
def test_loss_against_the_equations(episode, t):
    x, y = episode
    learner = MatchingNetworks(Points(), k_shot=2, temperature=t)
    z = learner.encoder(x).detach()
    terms = [-math.log(slow_probability(z[:6], y[:6].tolist(), z[q], int(y[q]), t)) for q in range(6, 11)]
    assert learner.loss(x, y).item() == pytest.approx(sum(terms) / 5, rel=1e-5)


def test_supports_are_the_first_items_of_each_class_wherever_they_stand(episode):
    x, y = episode
    learner = MatchingNetworks(Points(), k_shot=2)
    mixed = torch.tensor([0, 1, 4, 7, 2, 3, 8, 5, 9, 6, 10])  # the order within each class stays
    torch.testing.assert_close(learner.loss(x[mixed], y[mixed]), learner.loss(x, y))


def test_names_of_classes_do_not_matter_and_gradients_are_those_of_the_value(episode):
    x, y = episode
    learner = MatchingNetworks(Points().double(), k_shot=2, full_context=True, context_steps=2).double()
    renamed = torch.tensor([0, 0, 0, 0, 12, 0, 0, 3, 0, 1])[y]
    torch.testing.assert_close(learner.loss(x.double(), renamed), learner.loss(x.double(), y))
    assert torch.autograd.gradcheck(lambda x: learner.loss(x, y), x.double().requires_grad_())


@pytest.mark.parametrize("full_context", [False, True])
def test_probabilities_are_those_of_the_loss(episode, full_context):
    x, y = episode
    learner = MatchingNetworks(Points(), k_shot=2, full_context=full_context)
    found = learner.predict_proba(x[:6], y[:6], x[6:])
    torch.testing.assert_close(found.sum(1), torch.ones(5))
    column = torch.searchsorted(torch.tensor([4, 7, 9]), y[6:])
    assert -found[torch.arange(5), column].log().mean().item() == pytest.approx(learner.loss(x, y).item(), rel=1e-5)
    np.testing.assert_array_equal(learner.predict(x[:6], y[:6], x[6:]), np.array([4, 7, 9])[found.argmax(1)])


def test_one_shot_and_the_cold_limit_are_nearest_neighbours():
    x, y = torch.randn(40, 3), torch.arange(40) % 5
    for support, t in ((5, 1.0), (15, 1e-3)):
        learner = MatchingNetworks(Points(), temperature=t)
        z = learner.encoder(x).detach().numpy()
        peer = KNeighborsClassifier(1, metric="cosine").fit(z[:support], y[:support])
        np.testing.assert_array_equal(learner.predict(x[:support], y[:support], x[15:]), peer.predict(z[15:]))


def gates(weight_x, weight_h, bias_x, bias_h, x, h, c):
    """One step of an LSTM as Hochreiter & Schmidhuber have it, with torch's order of gates."""
    i, f, g, o = np.split(weight_x @ x + bias_x + weight_h @ h + bias_h, 4)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def test_full_context_against_the_equations():
    d, steps = 4, 3
    context = FullContext(d, steps).double()
    support, queries = torch.randn(5, d).double(), torch.randn(3, d).double()
    g, f = (t.detach().numpy() for t in context(support, queries))
    weights = {name: p.detach().numpy() for name, p in context.named_parameters()}

    expected = support.numpy().copy()
    for ending, order in (("", range(5)), ("_reverse", reversed(range(5)))):
        one = [weights[f"support.{name}_l0{ending}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        h = c = np.zeros(d)
        for i in order:
            h, c = gates(*one, support[i].numpy(), h, c)
            expected[i] += h
    np.testing.assert_allclose(g, expected, atol=1e-12)

    # eq. 3 has [h, r] as the LSTM's state, so the matrix that meets r stands beside the one that meets h
    both, bias = weights["query.weight_ih"], (weights["query.bias_ih"], weights["query.bias_hh"])
    recurrent = np.hstack([weights["query.weight_hh"], both[:, d:]])
    for q in range(3):
        h = c = np.zeros(d)
        for _ in range(steps):
            attention = np.exp(g @ h)
            r = attention / attention.sum() @ g
            h, c = gates(both[:, :d], recurrent, *bias, queries[q].numpy(), np.concatenate([h, r]), c)
            h = h + queries[q].numpy()
        np.testing.assert_allclose(f[q], h, atol=1e-12)


def test_without_weights_the_context_says_nothing(episode):
    x, y = episode
    with_context, plain = MatchingNetworks(Points(), full_context=True), MatchingNetworks(Points())
    plain.encoder.load_state_dict(with_context.encoder.state_dict())
    for p in with_context.context.parameters():
        nn.init.zeros_(p)
    torch.testing.assert_close(with_context.loss(x, y), plain.loss(x, y))


def test_episodes_are_of_the_asked_shape_and_all_their_chance_is_the_generators():
    y = torch.cat([torch.arange(12).repeat_interleave(7), torch.tensor([50, 50, -1, -1, -1, -1])])
    data = Dataset({"x": torch.zeros(len(y), 3), "y": y[torch.randperm(len(y))]})
    learner = MatchingNetworks(Points(), n_way=5, k_shot=2)

    def episodes(seed):
        return learner.batches(data, 27, torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    drawn = [rows for seed in range(20) for rows in episodes(seed)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(episodes(3), episodes(3), strict=True))
    labels = [data["y"][rows] for rows in drawn]
    assert len(drawn) == 20 * (len(y) // 25)
    for rows, found in zip(drawn, labels, strict=True):
        assert len(rows) == len(set(rows.tolist())) == 25
        assert sorted(found[:10].tolist()) == sorted(found[:10].unique().tolist() * 2)
        assert sorted(found.tolist()) == sorted(found[:10].unique().tolist() * 5)
    counts = torch.bincount(torch.cat(labels), minlength=51)
    assert counts[50] == 0, "a class without a query was drawn"
    assert counts[:12].min() > 0.6 * counts[:12].float().mean()
    items = torch.bincount(torch.cat(drawn), minlength=len(y))
    assert (items[data["y"][:] >= 0] > 0).sum() == 84


def test_episodes_shrink_to_what_is_there_unless_they_were_asked_for():
    data = Dataset({"x": torch.zeros(24, 3), "y": torch.arange(24) % 4})
    (rows, *_) = MatchingNetworks(Points()).batches(data, 8, torch.Generator())
    assert sorted(data["y"][rows].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    # classes of unlike size give what they have
    uneven = items_by_class(torch.tensor([0, 0, 1, 1, 1, 1, 1]), at_least=2)
    assert sorted(draw_episode(uneven, 2, 1, 4, torch.Generator()).tolist())[:2] == [0, 1]
    with pytest.raises(ArgumentError, match="n_way=5: expected 2 to 4"):
        MatchingNetworks(Points(), n_way=5).batches(data, 80, torch.Generator())
    with pytest.raises(ArgumentError, match=r"batch_size=8: expected at least n_way \* \(k_shot \+ 1\) = 12"):
        MatchingNetworks(Points(), n_way=4, k_shot=2).batches(data, 8, torch.Generator())
    with pytest.raises(DataError, match="0 classes have at least 8 items"):
        MatchingNetworks(Points(), k_shot=7).batches(data, 80, torch.Generator())


def test_what_cannot_be_is_refused(episode):
    x, y = episode
    for wrong in ({"n_way": 1}, {"k_shot": 0}, {"temperature": 0}, {"full_context": True, "context_steps": 0}):
        with pytest.raises(ArgumentError, match="expected"):
            MatchingNetworks(Points(), **wrong)
    learner = MatchingNetworks(Points(), k_shot=4)
    with pytest.raises(ArgumentError, match="more than k_shot items of a class"):
        learner.loss(x, y)
    with pytest.raises(ArgumentError, match="2 labels of 3 items"):
        learner.predict(x[:3], y[:2], x)
    with pytest.raises(ArgumentError, match="needs the columns y"):
        fit(learner, {"x": x}, max_steps=1)


def test_prediction_leaves_the_learner_as_it_was():
    learner = MatchingNetworks(Conv4(width=4, image_size=8)).train()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    x = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    found = learner.predict_proba(x[:2], torch.tensor([3, 1]), x[2:])
    assert learner.training
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
    # each query is answered by itself
    torch.testing.assert_close(learner.predict_proba(x[:2], torch.tensor([3, 1]), x[2:3]), found[:1])


@pytest.mark.parametrize("full_context", [False, True])
def test_training_on_digits_helps_on_digits_never_seen(digits, full_context):
    x, y = digits["x"][:, None], digits["y"]
    seen = y < 6
    learner = MatchingNetworks(Conv4(width=16, in_channels=1, image_size=8), temperature=0.1, full_context=full_context)
    items = items_by_class(y.masked_fill(seen, -1), at_least=2)
    drawn = torch.Generator().manual_seed(0)
    episodes = [draw_episode(items, 4, 1, 8, drawn) for _ in range(30)]

    def accuracy():
        right = [learner.predict(x[e[:4]], y[e[:4]], x[e[4:]]) == y[e[4:]] for e in episodes]
        return torch.cat(right).float().mean().item()

    before = accuracy()
    fit(learner, {"x": x[seen], "y": y[seen]}, max_steps=60, batch_size=48, lr=5e-3)
    assert accuracy() > before + 0.05


def test_quarter_turns_are_classes_of_their_own():
    x, y = torch.randint(0, 256, (3, 1, 4, 4), dtype=torch.uint8), torch.tensor([8, 2, 8])
    data, n_classes = quarter_turns(x, y)
    assert n_classes == 8
    classes = {}
    for turned, label in zip(data["x"][:], data["y"][:].tolist(), strict=True):
        turns = [(int(y[i]), k) for i in range(3) for k in range(4) if np.array_equal(np.rot90(x[i, 0], k), turned[0])]
        assert len(turns) == 1
        classes.setdefault(label, set()).update(turns)
    assert sorted(classes) == list(range(8))
    assert len(set.union(*classes.values())) == 8


def test_accuracy_of_episodes_by_brute_force():
    vectors, right = torch.randn(6, 8, 3), 0
    for one in vectors.numpy():
        for way in range(4):
            query = one[4 + way]
            right += max(range(4), key=lambda i: one[i] @ query / np.linalg.norm(one[i])) == way
    assert nearest_support_accuracy(vectors) == pytest.approx(right / 24)
