import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tacit.cluster import LatentLabelShiftClusterer
from tacit.cluster._lls_ddfa import _Discriminator, factorize_by_anchors, factorize_by_nmf
from tacit.errors import ArgumentError
from tacit.evaluate import clustering_accuracy


def separable_table(rng, k=4, r=6, m=20):
    """Q(c | d) in which cell y < k belongs to class y alone."""
    shares = rng.dirichlet(np.ones(k), size=r).T
    cells = rng.dirichlet(np.full(m, 0.3), size=k).T
    cells[:k] = np.diag(rng.uniform(0.1, 0.5, k))
    cells /= cells.sum(axis=0)
    return cells, shares


def match(truth, found):
    return linear_sum_assignment(np.abs(truth[:, None] - found).sum(axis=2))[1]


class Oracle(ClassifierMixin, BaseEstimator):
    """p(d | x) of numbered words, from the joint table of words and domains."""

    def __init__(self, joint=None):
        self.joint = joint

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        rows = self.joint[X[:, 0].astype(int)]
        return rows / rows.sum(axis=1, keepdims=True)


def words(rng, n=40_000):
    """Rows that are words 0...m - 1, from domains of unequal size."""
    cells, shares = separable_table(rng)
    size = rng.dirichlet(np.full(shares.shape[1], 5.0))
    domains = rng.choice(len(size), p=size, size=n)
    y = (rng.random((n, 1)) > shares.T[domains].cumsum(axis=1)[:, :-1]).sum(axis=1)
    X = (rng.random((n, 1)) > cells.T[y].cumsum(axis=1)[:, :-1]).sum(axis=1, keepdims=True).astype(float)
    return cells, shares, size, domains, y, X


@pytest.mark.parametrize("seed", range(5))
def test_anchors_are_exact_where_each_class_has_one_and_nmf_is_not(seed):
    cells, shares = separable_table(np.random.default_rng(seed))
    found_cells, found = factorize_by_anchors(cells @ shares, 4)
    order = match(shares, found)
    np.testing.assert_allclose(found[order], shares, atol=1e-8)
    np.testing.assert_allclose(found_cells[:, order], cells, atol=1e-8)
    _, by_nmf = factorize_by_nmf(cells @ shares, 4, seed)
    assert np.abs(by_nmf[match(shares, by_nmf)] - shares).sum(axis=0).mean() > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_nmf_rebuilds_the_table_from_distributions(seed):
    cells, shares = separable_table(np.random.default_rng(seed))
    found = factorize_by_nmf(cells @ shares, 4, seed)
    np.testing.assert_allclose(found[0].sum(axis=0), 1)
    np.testing.assert_allclose(found[1].sum(axis=0), 1)
    assert np.abs(found[0] @ found[1] - cells @ shares).sum(axis=0).mean() < 0.05


@pytest.mark.parametrize("factorization", ["anchors", "nmf"])
def test_the_whole_against_bayes_rule_given_an_oracle(factorization):
    """Theorem 1: with q(d | x) known, p_d(y) and p_d(y | x) are found; here against the table that drew the data."""
    rng = np.random.default_rng(0)
    cells, shares, size, domains, y, X = words(rng)
    model = LatentLabelShiftClusterer(
        n_classes=4,
        n_cells=20,
        factorization=factorization,
        discriminator=Oracle(cells @ shares * size),
        random_state=0,
    ).fit(X, domains=domains)
    order = match(shares, model.class_priors_.T)
    error = np.abs(model.class_priors_[:, order] - shares.T).sum(axis=1).mean()
    assert error < (0.01 if factorization == "anchors" else 0.4)
    if factorization == "nmf":
        return
    joint = cells[X[:, 0].astype(int)] * shares.T[domains]  # p_d(y) p(x | y)
    expected = joint / joint.sum(axis=1, keepdims=True)
    assert np.abs(model.predict_proba(X, domains=domains)[:, order] - expected).mean() < 0.02
    even = cells[X[:, 0].astype(int)] * shares.mean(axis=1)
    expected = even / even.sum(axis=1, keepdims=True)
    assert np.abs(model.predict_proba(X)[:, order] - expected).mean() < 0.02
    assert float(clustering_accuracy(y, model.labels_)) > 0.99 * (joint.argmax(axis=1) == y).mean()


def shifted(rng, n=900):
    """Two classes, each in two far places, in three domains."""
    shares = np.array([[0.95, 0.05], [0.5, 0.5], [0.05, 0.95]])
    domains = rng.choice(3, p=[0.5, 0.2, 0.3], size=n)
    y = (rng.random(n) < shares[domains, 1]).astype(int)
    places = y + 2 * rng.integers(2, size=n)
    return (8 * np.eye(4)[places] + rng.normal(size=(n, 4))), domains, y, shares


@pytest.mark.parametrize("factorization", ["anchors", "nmf"])
def test_the_network_finds_classes_that_are_each_in_two_places(factorization):
    X, domains, y, shares = shifted(np.random.default_rng(1), 600)
    names = np.array(["a", "b", "c"])[domains]
    model = LatentLabelShiftClusterer(
        n_classes=2, n_cells=4, factorization=factorization, hidden_dim=32, max_steps=60, lr=5e-3, random_state=0
    )
    labels = model.fit_predict(X, domains=names)
    assert float(clustering_accuracy(y, labels)) > 0.85
    order = match(shares.T, model.class_priors_.T)
    assert np.abs(model.class_priors_[:, order] - shares).sum(axis=1).mean() < 0.35
    np.testing.assert_array_equal(labels, model.predict(X, domains=names))
    assert model.domains_.tolist() == ["a", "b", "c"]
    if factorization == "anchors":
        again = LatentLabelShiftClusterer(**model.get_params()).fit(X, domains=names)
        np.testing.assert_array_equal(again.class_priors_, model.class_priors_)


def test_the_network_is_of_domains_of_equal_size():
    """Where x says nothing, q(d | x) = 1 / r however unequal the domains are."""
    rng = np.random.default_rng(0)
    X, domains = rng.normal(size=(2000, 2)), rng.choice(3, p=[0.8, 0.15, 0.05], size=2000)
    model = LatentLabelShiftClusterer(n_classes=2, hidden_dim=16, max_steps=60, random_state=0).fit(X, domains=domains)
    assert np.abs(model._domain_probabilities(X).mean(axis=0) - 1 / 3).max() < 0.06


def test_the_weights_of_the_lowest_held_out_loss_are_kept():
    import torch

    network = torch.nn.Linear(1, 2)
    rows, domains = torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1])
    learner = _Discriminator(network, torch.zeros(2), rows, domains)
    losses = []
    for step, scale in enumerate([0.0, 3.0, -3.0], 1):
        with torch.no_grad():
            network.weight.copy_(torch.tensor([[scale], [-scale]]))
            network.bias.zero_()
        learner.after_step(step / 3)
        losses.append(learner.loss(rows, domains).item())
    assert learner.lowest == pytest.approx(min(losses))
    assert learner.best["weight"][0].item() == 3.0


def test_domains_go_through_a_pipeline_by_name():
    X, domains, *_ = shifted(np.random.default_rng(2), 300)
    clusterer = LatentLabelShiftClusterer(n_classes=2, n_cells=4, hidden_dim=16, max_steps=30, random_state=0)
    pipeline = make_pipeline(StandardScaler(), clusterer)
    pipeline.fit(X, latentlabelshiftclusterer__domains=domains)
    assert pipeline.predict(X).shape == (300,)


def test_too_few_domains_are_said():
    X = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.warns(UserWarning, match=r"pass fit\(X, domains"):
        assert set(LatentLabelShiftClusterer(n_classes=2).fit(X).labels_) <= {0, 1}
    with pytest.warns(UserWarning, match="2 for n_classes=3"):
        LatentLabelShiftClusterer(n_classes=3, max_steps=2).fit(X, domains=np.arange(30) % 2)


def test_what_cannot_be_is_refused():
    X, domains = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3
    with pytest.raises(ArgumentError, match="n_cells=2"):
        LatentLabelShiftClusterer(n_classes=3, n_cells=2).fit(X, domains=domains)
    with pytest.raises(ArgumentError, match="n_classes=0"):
        LatentLabelShiftClusterer(n_classes=0).fit(X, domains=domains)
    with pytest.raises(ArgumentError, match="factorization='nmff'"):
        LatentLabelShiftClusterer(n_classes=3, factorization="nmff").fit(X, domains=domains)
    with pytest.raises(ValueError, match="inconsistent"):
        LatentLabelShiftClusterer(n_classes=3).fit(X, domains=domains[:5])
    model = LatentLabelShiftClusterer(n_classes=3, max_steps=2, random_state=0).fit(X, domains=domains)
    with pytest.raises(ArgumentError, match="those of fit"):
        model.predict(X, domains=np.full(30, 7))
    with pytest.raises(ValueError, match="NaN"):
        model.predict(np.full((2, 2), np.nan))


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 12), st.integers(1, 3), st.integers(2, 4), st.sampled_from([np.float32, np.float64, np.int64]))
def test_any_small_shape_gives_probabilities(n, d, r, dtype):
    X = np.random.default_rng(n).normal(scale=5, size=(n, d)).astype(dtype)
    X[:, 0] = 1  # a constant column
    domains = np.arange(n) % r
    model = LatentLabelShiftClusterer(n_classes=2, n_cells=3, hidden_dim=4, max_steps=1, random_state=0)
    found = model.fit(X, domains=domains).predict_proba(X, domains=domains)
    assert found.shape == (n, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
