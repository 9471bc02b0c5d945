import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import digamma, gammaln
from scipy.stats import dirichlet
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestCentroid
from sklearn.utils.estimator_checks import check_estimator

from tacit.errors import ArgumentError, DataError
from tacit.fewlabels import UNEM
from tacit.fewlabels._unem import EPS, Layers, dirichlet_mle


def task(n=60, k=4, d=5, shots=2, spread=2.0, seed=0, present=None):
    """Blobs, of which `shots` rows a class have labels 10, 20...; other rows of the first `present` classes only."""
    X, truth = make_blobs(n, d, centers=k, cluster_std=spread, random_state=seed)
    y = np.full(n, -1)
    for c in range(k):
        y[np.flatnonzero(truth == c)[:shots]] = 10 * c + 10
    kept = (y >= 0) | (truth < (present or k))
    return X[kept], y[kept], 10 * truth[kept] + 10


def scores(n=40, k=3, seed=0):
    """Rows of Dirichlets that lean to their class, as logarithms; of each class three have a label."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % k
    x = np.array([rng.dirichlet(np.where(np.arange(k) == c, 3.0, 1.0)) for c in truth])
    return np.log(x), np.where(np.arange(n) < 3 * k, truth, -1), truth


def slow_em(X, y, layers, scale):
    """A row, a class and a layer at a time."""
    X, classes = X * scale, np.unique(y[y >= 0])
    queries = [i for i in range(len(X)) if y[i] < 0]
    theta = [sum(X[i] for i in range(len(X)) if y[i] == c) / sum(y == c) for c in classes]
    log_pi = [0.0] * len(classes)
    for number, (balance, heat) in enumerate(layers):
        u = {}
        for i in queries:
            drive = [(-0.5 * sum((X[i] - t) ** 2) + balance * p) / heat for t, p in zip(theta, log_pi, strict=True)]
            top = max(drive)
            total = sum(math.exp(v - top) for v in drive)
            u[i] = [math.exp(v - top) / total for v in drive]
        if number == len(layers) - 1:
            return np.array([u[i] for i in queries])
        for k, c in enumerate(classes):
            log_pi[k] = math.log(sum(u[i][k] for i in queries) / len(queries) + EPS)
            weights = [u[i][k] if i in u else float(y[i] == c) for i in range(len(X))]
            theta[k] = sum(w * x for w, x in zip(weights, X, strict=True)) / sum(weights)


def test_layers_against_a_slow_loop():
    X, y, _ = task()
    balance, heat = [0.0, 2.0, 0.5, 1.0], [1.0, 3.0, 0.7, 2.0]
    model = UNEM(n_layers=4, class_balance=balance, temperature=heat, scale=0.7).fit(X, y)
    expected = slow_em(X, y, list(zip(balance, heat, strict=True)), 0.7)
    np.testing.assert_allclose(model.label_distributions_[y < 0], expected, atol=1e-10)
    np.testing.assert_allclose(model.predict_proba(X[y < 0]), expected, atol=1e-10)


def test_one_layer_is_the_nearest_mean_and_one_one_is_em():
    X, y, _ = task(n=200, spread=2.5)
    peer = NearestCentroid().fit(X[y >= 0], y[y >= 0])
    np.testing.assert_array_equal(UNEM(n_layers=1).fit(X, y).transduction_[y < 0], peer.predict(X[y < 0]))
    # EM for a mixture of unit Gaussians, where the support counts for little beside the queries
    queries = np.repeat(X[y < 0], 50, axis=0)
    many, known = np.vstack([X[y >= 0], queries]), np.concatenate([y[y >= 0], np.full(len(queries), -1)])
    ours = UNEM(n_layers=60, class_balance=1.0, temperature=1.0, scale=1.0).fit(many, known)
    m, pi, Z = np.array([X[y == c].mean(0) for c in np.unique(y[y >= 0])]), np.full(4, 0.25), X[y < 0]
    for _ in range(60):
        u = np.exp(-0.5 * ((Z[:, None] - m) ** 2).sum(2)) * pi
        u /= u.sum(1, keepdims=True)
        pi, m = u.mean(0), u.T @ Z / u.sum(0)[:, None]
    np.testing.assert_allclose(ours.parameters_, m, atol=0.03)
    np.testing.assert_allclose(ours.priors_, pi, atol=3e-3)


def objective(u, log_p_queries, log_p_support, balance, heat):
    """F, with what is added to pi inside its logarithm."""
    pi = u.mean(0)
    return (
        -(u * log_p_queries).sum()
        - log_p_support.sum()
        - balance * len(u) * (pi * np.log(pi + EPS)).sum()
        + heat * (u * np.log(np.maximum(u, 1e-300))).sum()
    )


def log_p(x, theta, likelihood):
    if likelihood == "gaussian":
        return np.array([[-0.5 * np.sum((row - t) ** 2) for t in theta] for row in x])
    return np.array([[dirichlet.logpdf(row / row.sum(), t) for t in theta] for row in np.exp(x)])


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 999),
    st.sampled_from([0.0, 1.0, 5.0]),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.sampled_from(["gaussian", "dirichlet"]),
)
def test_the_objective_never_rises(seed, balance, heat, likelihood):
    X, y, _ = task(n=30, k=3, d=3, seed=seed) if likelihood == "gaussian" else scores(seed=seed)
    values = []
    for n_layers in range(1, 9):
        model = UNEM(n_layers=n_layers, likelihood=likelihood, class_balance=balance, temperature=heat).fit(X, y)
        u = model.label_distributions_[y < 0]
        own = log_p(X[y >= 0], model.parameters_, likelihood)
        own = own[np.arange(len(own)), np.searchsorted(model.classes_, y[y >= 0])]
        values.append(objective(u, log_p(X[y < 0], model.parameters_, likelihood), own, balance, heat))
    assert (np.diff(values) <= 1e-4 * np.abs(values).max()).all()


def test_dirichlet_mle_against_a_solver_and_its_gradient():
    rng = np.random.default_rng(0)
    for truth in ([0.3, 0.5, 2.0], [5.0, 40.0, 1.0, 9.0], [1.0, 1.0]):
        c = np.log(rng.dirichlet(truth, 30)).mean(0)

        def loss(a, c=c):
            return -(gammaln(np.exp(a).sum()) - gammaln(np.exp(a)).sum() + ((np.exp(a) - 1) * c).sum())

        ours = dirichlet_mle(torch.from_numpy(c)).numpy()
        peer = np.exp(minimize(loss, np.zeros(len(c)), method="BFGS", options={"gtol": 1e-10}).x)
        np.testing.assert_allclose(ours, peer, rtol=1e-4)
        np.testing.assert_allclose(digamma(ours.sum()) - digamma(ours) + c, 0, atol=1e-9)
    many = torch.from_numpy(np.log(rng.dirichlet([2.0, 3.0, 1.0], (2, 4, 30))).mean(2)).requires_grad_()
    assert torch.autograd.gradcheck(dirichlet_mle, many)
    alike = dirichlet_mle(torch.log(torch.tensor([0.2, 0.3, 0.5]).double()))
    assert bool(alike.isfinite().all())
    np.testing.assert_allclose(alike / alike.sum(), [0.2, 0.3, 0.5], atol=0.05)


def test_dirichlet_layers_against_the_equations():
    X, y, truth = scores()
    model = UNEM(n_layers=3, likelihood="dirichlet", class_balance=0.7, temperature=1.5).fit(X, y)
    u = np.exp(X[y < 0])
    for _ in range(3):
        pi, theta = u.mean(0), []
        for k in range(3):
            rows, weights = np.vstack([X[y == k], X[y < 0]]), np.concatenate([np.ones((y == k).sum()), u[:, k]])
            theta.append(dirichlet_mle(torch.from_numpy(np.average(rows, axis=0, weights=weights))).numpy())
        drive = (log_p(X[y < 0], theta, "dirichlet") + 0.7 * np.log(pi + EPS)) / 1.5
        u = np.exp(drive - drive.max(1, keepdims=True))
        u /= u.sum(1, keepdims=True)
    np.testing.assert_allclose(model.label_distributions_[y < 0], u, atol=1e-6)
    assert (model.transduction_ == truth).mean() > 0.6


@pytest.mark.parametrize("likelihood", ["gaussian", "dirichlet"])
def test_gradients_by_finite_differences(likelihood):
    torch.manual_seed(0)
    support, queries = torch.randn(2, 6, 3).double(), torch.randn(2, 5, 3).double()
    one_hot = torch.eye(3)[[0, 1, 2, 0, 1, 2]].expand(2, 6, 3)
    sought = torch.tensor([[0, 1, 2, 2, 1], [2, 2, 0, 0, 1]])
    model = UNEM(n_layers=2, likelihood=likelihood)

    def loss(balance, temperature, scale):
        return model.task_loss(Layers(balance, temperature, scale), support, one_hot, queries, sought)

    at = [torch.tensor(v).double().requires_grad_() for v in ([0.5, 1.5], [1.2, 2.0], 0.8)]
    assert torch.autograd.gradcheck(loss, at, atol=1e-5)
    # and the value is that of fitting each task by itself
    rates = []
    for t in range(2):
        X = torch.cat([support[t], queries[t]]).numpy()
        one = UNEM(n_layers=2, likelihood=likelihood, class_balance=[0.5, 1.5], temperature=[1.2, 2.0], scale=0.8)
        u = one.fit(X, [0, 1, 2, 0, 1, 2] + [-1] * 5).label_distributions_[6:]
        rates += [-math.log(u[i, c]) for i, c in enumerate(sought[t].tolist())]
    assert loss(*at).item() == pytest.approx(np.mean(rates), rel=1e-6)


def test_balance_empties_classes_that_are_absent():
    hits = {0.0: [], 3.0: []}
    for seed in range(15):
        X, y, truth = task(n=300, k=10, d=4, shots=3, spread=2.0, seed=seed, present=2)
        for balance, found in hits.items():
            model = UNEM(class_balance=balance, temperature=1.0, scale=0.5).fit(X, y)
            found.append((model.transduction_[y < 0] == truth[y < 0]).mean())
    assert np.mean(hits[3.0]) > np.mean(hits[0.0]) + 0.02


def test_learning_lowers_the_loss_and_what_it_learned_is_kept():
    X, y = make_blobs(400, 6, centers=20, cluster_std=3.0, random_state=0)
    start = UNEM(n_layers=5, max_steps=20, scale=0.2)
    shape = {"n_way": 5, "n_shots": 2, "n_queries": 15, "n_present": 2}
    learned = start.meta_fit(X, y, **shape, n_tasks=20)
    assert learned.meta_losses_[-1] < 0.95 * learned.meta_losses_[0]
    assert learned.class_balance.shape == learned.temperature.shape == (5,)
    assert learned.class_balance.min() > 0
    assert learned.temperature.min() > 1
    assert start.class_balance == 1.0, "the original is left as it is"
    again = start.meta_fit(X, y, **shape, n_tasks=20)
    np.testing.assert_array_equal(again.class_balance, learned.class_balance)
    new_X, new_y, _ = task(seed=5)
    first = learned.fit(new_X, new_y).label_distributions_
    np.testing.assert_array_equal(clone(learned).fit(new_X, new_y).label_distributions_, first)


def test_learning_on_zero_shot_scores():
    X, y, truth = scores(n=90)
    learned = UNEM(n_layers=2, likelihood="dirichlet", max_steps=8).meta_fit(
        X, truth, n_way=None, n_shots=2, n_queries=6, n_tasks=6
    )
    assert learned.meta_losses_[-1] < learned.meta_losses_[0]
    assert (learned.fit(X, y).transduction_ == truth).mean() > 0.6


def test_grid_search_dtypes_and_input_untouched():
    X, y, truth = task(spread=0.5)
    before = X.copy()
    found = GridSearchCV(UNEM(), {"scale": [0.5, 1.0]}, cv=2).fit(X, truth)
    assert found.best_score_ > 0.95
    single = UNEM().fit(X.astype(np.float32), y)
    assert single.label_distributions_.dtype == np.float32
    np.testing.assert_allclose(single.label_distributions_, UNEM().fit(X, y).label_distributions_, atol=1e-3)
    np.testing.assert_array_equal(X, before)


def test_what_cannot_be_is_refused():
    X, y, truth = task()
    for wrong in ({"n_layers": 0}, {"class_balance": -1}, {"class_balance": [1.0]}, {"temperature": 0}, {"scale": 0}):
        with pytest.raises(ArgumentError, match="expected"):
            UNEM(**wrong).fit(X, y)
    with pytest.raises(ArgumentError, match="did you mean 'gaussian'"):
        UNEM(likelihood="gaussien").fit(X, y)
    with pytest.raises(DataError, match="a column for each of the 4 classes"):
        UNEM(likelihood="dirichlet").fit(X, y)
    with pytest.raises(DataError, match="all rows are -1"):
        UNEM().fit(X, np.full(60, -1))
    with pytest.raises(ArgumentError, match="max_steps"):
        UNEM(max_steps=0).meta_fit(X, truth)
    with pytest.raises(DataError, match="at least n_way = 5"):
        UNEM().meta_fit(X, truth)
    assert UNEM().fit([[1.0]], ["a"]).transduction_.tolist() == ["a"]
    constant = UNEM().fit(np.ones((5, 2)), [0, 1, -1, -1, -1])
    assert np.isfinite(constant.label_distributions_).all()


def test_scikit_learn():
    check_estimator(UNEM(), expected_failed_checks=UNEM.expected_failed_checks)
