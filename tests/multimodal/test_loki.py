import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from tacit.errors import ArgumentError
from tacit.multimodal import Loki, embedding_metric, graph_metric, locus, tree_metric
from tacit.multimodal._loki import TEMPERATURES

LINE = np.abs(np.arange(5.0)[:, None] - np.arange(5.0))


def random_tree(rng, n, lengths=False):
    parents = [-1, *(int(rng.integers(node)) for node in range(1, n))]
    return tree_metric(parents, rng.uniform(0.5, 2, n) if lengths else None)


def random_space(rng, n):
    return embedding_metric(rng.normal(size=(n, 3)))


def slow_mean(row, metric, observed):
    """The prediction rule, one label at a time."""
    costs = [sum(p * metric[y, o] ** 2 for p, o in zip(row, observed, strict=True)) for y in range(len(metric))]
    return min(range(len(metric)), key=lambda y: costs[y])


@pytest.mark.parametrize("space", [random_tree, random_space])
def test_prediction_is_the_frechet_mean_by_brute_force(space):
    rng = np.random.default_rng(0)
    metric, observed = space(rng, 12), [7, 0, 3, 11]
    probs = rng.dirichlet(np.ones(4), size=60)
    found = Loki(metric, observed).predict(probs)
    assert found.tolist() == [slow_mean(row, metric, observed) for row in probs]
    assert not set(found) <= set(observed)  # labels that were never seen are among them


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 30), st.sampled_from([np.float32, np.float64]), st.floats(0.1, 10))
def test_zero_one_metric_is_argmax_at_any_temperature(m, seed, dtype, temperature):
    probs = np.random.default_rng(seed).dirichlet(np.ones(m), size=9).astype(dtype)
    found = Loki(1.0 - np.eye(m), temperature=temperature).predict(probs)
    assert found.dtype == np.int64
    ordered = np.sort(probs, axis=1)
    clear = np.ones(9, bool) if m == 1 else ordered[:, -1] - ordered[:, -2] > 1e-4  # ties are rounding's to break
    assert found[clear].tolist() == probs.argmax(1)[clear].tolist()


def test_invariances():
    rng = np.random.default_rng(1)
    metric, observed, probs = random_space(rng, 9), np.array([1, 4, 8]), rng.dirichlet(np.ones(3), size=50)
    found = Loki(metric, observed).predict(probs)
    assert (Loki(7 * metric, observed).predict(probs) == found).all()  # units of the metric
    order = np.array([2, 0, 1])
    assert (Loki(metric, observed[order]).predict(probs[:, order]) == found).all()  # order of the columns
    names = rng.permutation(9)  # names of the labels
    renamed = np.empty_like(metric)
    renamed[np.ix_(names, names)] = metric
    assert (Loki(renamed, names[observed]).predict(probs) == names[found]).all()


def test_limits_of_the_temperature():
    rng = np.random.default_rng(2)
    metric, observed = random_space(rng, 9), np.array([1, 4, 8])
    probs = rng.dirichlet(np.ones(3), size=50)
    assert (Loki(metric, observed, temperature=1e-3).predict(probs) == observed[probs.argmax(1)]).all()
    central = (metric[observed] ** 2).mean(0).argmin()
    assert (Loki(metric, observed, temperature=1e6).predict(probs) == central).all()
    with_zeros = np.eye(3)
    assert (Loki(metric, observed, temperature=0.01).predict(with_zeros) == observed).all()


def test_temperature_is_the_power_of_the_probabilities():
    probs = np.random.default_rng(3).dirichlet(np.ones(2), size=40)
    powers = probs ** (1 / 3)
    expected = Loki(LINE, [0, 4]).predict(powers / powers.sum(1, keepdims=True))
    assert (Loki(LINE, [0, 4], temperature=3.0).predict(probs) == expected).all()


def test_fit_takes_the_temperature_of_the_smallest_distance():
    rng = np.random.default_rng(4)
    metric, observed = random_tree(rng, 20), np.arange(0, 20, 3)
    y = rng.integers(20, size=200)
    logits = -metric[y][:, observed] / 2 + rng.normal(size=(200, len(observed)))
    probs = np.exp(4 * logits)  # four times too sure of itself
    probs /= probs.sum(1, keepdims=True)
    loki = Loki(metric, observed).fit(probs, y)
    costs = [(metric[Loki(metric, observed, temperature=t).predict(probs), y] ** 2).mean() for t in TEMPERATURES]
    assert (metric[loki.predict(probs), y] ** 2).mean() == min(costs) < costs[0]
    assert loki.temperature_ > 1
    assert Loki(metric, observed, temperature=2.0).fit(probs, y).temperature_ == 2
    assert Loki(1 - np.eye(20)).fit(np.eye(20), np.arange(20)).temperature_ == 1  # all alike: the plain rule


def test_predictions_in_blocks(monkeypatch):
    probs = np.random.default_rng(5).dirichlet(np.ones(2), size=23)
    whole = Loki(LINE, [0, 4]).predict(probs)
    monkeypatch.setattr("tacit.multimodal._loki.BLOCK", 20)
    assert (Loki(LINE, [0, 4]).predict(probs) == whole).all()


def test_tree_and_graph_metrics_against_floyd_and_warshall():
    rng = np.random.default_rng(6)
    parents = [-1, *(int(rng.integers(node)) for node in range(1, 10))]
    lengths = rng.uniform(0.5, 2, 10)
    edges = [(node, parents[node]) for node in range(1, 10)]
    assert np.allclose(tree_metric(parents, lengths), slow_paths(edges, lengths[1:], 10))
    edges = [*edges, (0, 9), (3, 7), (0, 9), (7, 3)]  # circles, and edges named twice
    lengths = rng.uniform(0.5, 2, len(edges))
    assert np.allclose(graph_metric(edges, 10, lengths), slow_paths(edges, lengths, 10))


def slow_paths(edges, lengths, n):
    found = np.full((n, n), np.inf)
    np.fill_diagonal(found, 0)
    for (a, b), length in zip(edges, lengths, strict=True):
        found[a, b] = found[b, a] = min(found[a, b], length)
    for k, i, j in itertools.product(range(n), repeat=3):
        found[i, j] = min(found[i, j], found[i, k] + found[k, j])
    return found


def test_locus_of_a_tree_is_the_union_of_the_paths():
    rng = np.random.default_rng(7)
    for _ in range(20):
        metric = random_tree(rng, 15)
        labels = rng.choice(15, 4, replace=False)
        on_path = [
            v for v in range(15) if any(metric[a, v] + metric[v, b] == metric[a, b] for a in labels for b in labels)
        ]
        assert locus(metric, labels).tolist() == on_path


@pytest.mark.parametrize("space", [random_tree, random_space])
def test_locus_of_two_labels_is_what_their_weights_reach(space):
    rng = np.random.default_rng(8)
    for _ in range(10):
        metric = space(rng, 12)
        weight = np.linspace(0, 1, 20001)
        reached = Loki(metric, [2, 9]).predict(np.stack([weight, 1 - weight], 1))
        assert locus(metric, [2, 9]).tolist() == sorted(set(reached))


def test_no_probabilities_reach_beyond_the_locus_of_a_tree():
    rng = np.random.default_rng(9)
    metric = random_tree(rng, 20)
    loki = Loki(metric, [3, 8, 14, 19])
    assert set(loki.predict(rng.dirichlet(np.full(4, 0.3), size=2000))) <= set(loki.locus())


def test_of_labels_that_are_all_alike_only_the_observed_are_reached():
    assert locus(1 - np.eye(6), [1, 4]).tolist() == [1, 4]
    assert locus(LINE, [3]).tolist() == [3]


def test_selection_makes_the_locus_of_a_tree_grow_most():
    rng = np.random.default_rng(10)
    for _ in range(10):
        metric = random_tree(rng, 15)
        known = rng.choice(15, 2, replace=False).tolist()
        for chosen in Loki(metric, known).select(4).tolist():
            best = max(len(locus(metric, [*known, label])) for label in range(15) if label not in known)
            known.append(chosen)
            assert len(locus(metric, known)) == best


def test_selection_ends_when_all_labels_can_be_predicted():
    assert Loki(LINE, [2]).select(9).tolist() == [0, 4]
    assert Loki(LINE, [0, 4]).select(3).tolist() == []


def test_an_estimator_in_scikit_learns_sense():
    loki = Loki(LINE, [0, 4], temperature=2.0)
    assert clone(loki).get_params()["temperature"] == 2
    with pytest.warns(match="Can't test estimator"):  # its tags say that tables of any width are no input
        check_estimator(loki)
    probs = np.array([[1.0, 0], [0.5, 0.5]])
    assert Loki(LINE, [0, 4]).fit(probs, [0, 2]).score(probs, [0, 2]) == 1
    torch = pytest.importorskip("torch")
    assert loki.predict(torch.tensor(probs)).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Loki().predict(np.eye(2)), "metric.shape"),
        (lambda: Loki(LINE[:3]).predict(np.eye(5)), "metric.shape"),
        (lambda: Loki(-LINE).predict(np.eye(5)), "at least 0"),
        (lambda: Loki(np.triu(LINE)).predict(np.eye(5)), "symmetric"),
        (lambda: Loki(LINE, [0, 5]).predict(np.eye(2)), "observed"),
        (lambda: Loki(LINE, [1, 1]).predict(np.eye(2)), "observed"),
        (lambda: Loki(LINE, []).predict(np.eye(2)), "observed"),
        (lambda: Loki(LINE, [0, 4], temperature=0).predict(np.eye(2)), "temperature=0"),
        (lambda: Loki(LINE, [0, 4]).predict(np.eye(3)), "2 columns"),
        (lambda: Loki(LINE, [0, 4]).predict([[2.0, -1.0]]), "softmax"),
        (lambda: Loki(LINE, [0, 4]).predict([[2.0, 1.0]]), "softmax"),
        (lambda: Loki(LINE, [0, 4]).predict([[np.nan, 1.0]]), "NaN"),
        (lambda: Loki(LINE, [0, 4]).predict(np.zeros((0, 2))), "0 sample"),
        (lambda: Loki(LINE, [0, 4]).fit(np.eye(2), [0, 5]), "label numbers"),
        (lambda: Loki(LINE, [0, 4]).fit(np.eye(2), [0]), "inconsistent"),
        (lambda: graph_metric([(0, 1)], 3), "connected"),
        (lambda: graph_metric([(0, 3)], 3), "pairs of nodes"),
        (lambda: graph_metric([(0, 1)], 2, [0.0]), "above 0"),
        (lambda: tree_metric([-1, -1]), "root"),
        (lambda: tree_metric([-1, 2, 1]), "connected"),
    ],
)
def test_what_cannot_be_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_errors_are_tacits():
    with pytest.raises(ArgumentError, match=r"expected \(m, m\)"):
        Loki().predict(np.eye(2))
