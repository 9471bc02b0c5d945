import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.neighbors import NearestCentroid, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from tacit.errors import ArgumentError, DataError
from tacit.fewlabels import TransductiveClustering


def task(n=60, k=4, d=5, shots=1, spread=2.0, seed=0):
    """Blobs, of which `shots` rows a class have labels 10, 20..."""
    X, truth = make_blobs(n, d, centers=k, cluster_std=spread, random_state=seed)
    y = np.full(n, -1)
    for c in range(k):
        y[np.flatnonzero(truth == c)[:shots]] = 10 * c + 10
    return X, y, 10 * truth + 10


def slow_affinity(X, k):
    """1 for each of the k nearest others, then the mean of both directions."""
    W = np.zeros((len(X), len(X)))
    for i, row in enumerate(NearestNeighbors(n_neighbors=k + 1).fit(X).kneighbors(X)[1]):
        for j in [j for j in row if j != i][:k]:
            W[i, j] = 1
    return (W + W.T) / 2


def slow_energy(X, W, weight, labels, m):
    total = sum(np.sum((X[p] - m[labels[p]]) ** 2) for p in range(len(X)))
    s = np.eye(len(m))[labels]
    pairs = itertools.product(range(len(X)), repeat=2)
    return total + weight / 4 * sum(W[p, q] * np.sum((s[p] - s[q]) ** 2) for p, q in pairs)


def slow_relaxation(s, a, W, weight):
    n, k = s.shape
    value = sum(s[p, c] * (a[p, c] + np.log(max(s[p, c], 1e-30))) for p in range(n) for c in range(k))
    return value - weight / 2 * sum(W[p, q] * s[p] @ s[q] for p in range(n) for q in range(n))


def one_round(X, y, weight, k, steps):
    """The row's equation, a row and a class at a time."""
    classes = np.unique(y[y >= 0])
    m = np.array([X[y == c].mean(0) for c in classes])
    a = np.array([[np.sum((x - c) ** 2) for c in m] for x in X])
    W = slow_affinity(X, k)
    s = np.exp(-a + a.min(1, keepdims=True))
    s /= s.sum(1, keepdims=True)
    given = np.array([[float(label == c) for c in classes] for label in y])
    s[y >= 0] = given[y >= 0]
    for _ in range(steps):
        new = s.copy()
        for p in np.flatnonzero(y < 0):
            drive = np.array([-a[p, c] + weight * sum(W[p, q] * s[q, c] for q in range(len(X))) for c in range(len(m))])
            new[p] = np.exp(drive - drive.max()) / np.exp(drive - drive.max()).sum()
        s = new
    return s, a, W, m


@pytest.mark.parametrize("prototypes", ["fixed", "kmeans"])
def test_a_round_against_a_slow_loop(prototypes):
    X, y, _ = task(n=24, k=3)
    model = TransductiveClustering(
        laplacian_weight=0.5, n_neighbors=2, prototypes=prototypes, max_iter=1, max_bound_iter=4, tol=0
    ).fit(X, y)
    s, a, W, m = one_round(X, y, 0.5, 2, 4)
    np.testing.assert_allclose(model.label_distributions_, s, atol=1e-9)
    # the labelled rows' entropy is 0
    assert model.bound_[0][-1] == pytest.approx(slow_relaxation(s, a, W, 0.5))
    labels = np.searchsorted(model.classes_, model.transduction_)
    assert model.objective_[0] == pytest.approx(slow_energy(X, W, 0.5, labels, m))


def test_the_relaxation_ends_where_a_solver_ends():
    """Projected onto the simplex by a softmax, minimised from the same start by BFGS."""
    X, y, _ = task(n=14, k=2, spread=3.0)
    X = X / 6
    model = TransductiveClustering(laplacian_weight=0.3, n_neighbors=2, prototypes="fixed", max_bound_iter=500, tol=0)
    s = model.fit(X, y).label_distributions_
    _, a, W, _ = one_round(X, y, 0.3, 2, 0)
    free = y < 0

    def value(logits):
        whole = s.copy()
        p = 1 / (1 + np.exp(-logits))
        whole[free] = np.column_stack([p, 1 - p])
        entropy = (whole[free] * np.log(np.maximum(whole[free], 1e-30))).sum()
        return (whole * a).sum() + entropy - 0.15 * np.einsum("pq,pk,qk->", W, whole, whole)

    start = a[free][:, 1] - a[free][:, 0]
    found = minimize(value, start, method="BFGS", options={"gtol": 1e-9})
    assert model.bound_[0][-1] == pytest.approx(found.fun, abs=1e-6)
    np.testing.assert_allclose(s[free][:, 0], 1 / (1 + np.exp(-found.x)), atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_without_weight_it_is_kmeans_from_the_labelled_means(seed):
    X, y, _ = task(n=120, k=5, spread=3.0, seed=seed)
    model = TransductiveClustering(laplacian_weight=0, max_iter=300).fit(X, y)
    start = np.array([X[y == c].mean(0) for c in model.classes_])
    peer = KMeans(5, init=start, n_init=1, tol=0, max_iter=300).fit(X)
    if (model.classes_[peer.labels_][y >= 0] == y[y >= 0]).all():  # the peer holds nothing fixed
        np.testing.assert_array_equal(model.transduction_, model.classes_[peer.labels_])
        np.testing.assert_allclose(model.prototypes_, peer.cluster_centers_, rtol=1e-9)
    # Lloyd's rounds with the labelled rows held, by hand
    m, labels = start, None
    for _ in range(300):
        new = ((X[:, None] - m) ** 2).sum(2).argmin(1)
        new[y >= 0] = np.searchsorted(model.classes_, y[y >= 0])
        if labels is not None and (new == labels).all():
            break
        labels, m = new, np.array([X[new == c].mean(0) for c in range(5)])
    np.testing.assert_array_equal(model.transduction_, model.classes_[labels])
    fixed = TransductiveClustering(laplacian_weight=0, prototypes="fixed").fit(X, y)
    expected = model.classes_[((X[:, None] - start) ** 2).sum(2).argmin(1)]
    np.testing.assert_array_equal(fixed.transduction_[y < 0], expected[y < 0])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.01, 0.5, 3.0, 30.0, 300.0]),
    st.integers(1, 9),
    st.integers(2, 5),
    st.sampled_from([np.float32, np.float64]),
)
def test_objectives_never_rise_and_labels_stay(seed, weight, n_neighbors, k, dtype):
    X, y, _ = task(n=40, k=k, shots=2, seed=seed, spread=3.0)
    model = TransductiveClustering(laplacian_weight=weight, n_neighbors=n_neighbors, max_bound_iter=60)
    model.fit(X.astype(dtype), y)
    slack = 1e-10 if dtype == np.float64 else 1e-4
    for run in (model.objective_, *model.bound_):
        assert (np.diff(run) <= slack * np.abs(run).max()).all()
    assert model.prototypes_.dtype == model.label_distributions_.dtype == dtype
    np.testing.assert_array_equal(model.transduction_[y >= 0], y[y >= 0])
    np.testing.assert_allclose(model.label_distributions_.sum(1), 1, rtol=1e-5)


def test_plain_updates_would_swing_where_ours_rest():
    """Two rows that pull each other, from opposite sides: without the safeguard they change places for ever."""
    X, y = np.array([[0.0], [1.0], [0.48], [0.53]]), np.array([0, 1, -1, -1])
    s, a, W, _ = one_round(X, y, 50, 1, 7)
    before = one_round(X, y, 50, 1, 6)[0]
    assert (s[2:].argmax(1) == before[3:1:-1].argmax(1)).all()
    assert len(set(s[2:].argmax(1))) == 2
    model = TransductiveClustering(laplacian_weight=50, n_neighbors=1, prototypes="fixed", max_bound_iter=500).fit(X, y)
    assert model.transduction_[2] == model.transduction_[3]
    assert model.bound_[0][-1] < slow_relaxation(s, a, W, 50)
    assert (np.diff(model.bound_[0]) <= 1e-9).all()


def test_neighbours_pull():
    """A row just beyond the middle follows the rows around it."""
    X = np.array([[0.0], [2.5], [0.9], [1.0], [1.1], [1.15], [1.3], [2.4], [2.6]])
    y = [0, 1, -1, -1, -1, -1, -1, 1, 1]
    alone = TransductiveClustering(laplacian_weight=0, prototypes="fixed").fit(X, y)
    pulled = TransductiveClustering(laplacian_weight=1, n_neighbors=2, prototypes="fixed").fit(X, y)
    assert alone.transduction_.tolist() == [0, 1, 0, 0, 0, 0, 1, 1, 1]
    assert pulled.transduction_.tolist() == [0, 1, 0, 0, 0, 0, 0, 1, 1]


def test_more_rows_help_one_shot():
    hits = {"fixed": [], "kmeans": []}
    for seed in range(20):
        X, y, truth = task(n=150, k=5, d=8, spread=4.0, seed=seed)
        for prototypes, found in hits.items():
            model = TransductiveClustering(laplacian_weight=0, prototypes=prototypes)
            found.append((model.fit_predict(X, y) == truth).mean())
    assert np.mean(hits["kmeans"]) > np.mean(hits["fixed"]) + 0.03


def test_pipeline_new_rows_and_input_untouched():
    X, y, truth = task(spread=0.5)
    before = X.copy()
    model = make_pipeline(StandardScaler(with_std=False), Normalizer(), TransductiveClustering()).fit(X, y)
    assert (model.predict(X + 0.01) == truth).mean() > 0.95
    np.testing.assert_array_equal(X, before)
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    # all labelled is the nearest mean
    whole = TransductiveClustering().fit(X, truth)
    np.testing.assert_array_equal(whole.predict(X), NearestCentroid().fit(X, truth).predict(X))


def test_what_cannot_be_is_refused():
    X, y, _ = task()
    for wrong in ({"laplacian_weight": -1}, {"n_neighbors": 0}, {"max_iter": 0}, {"max_bound_iter": 0}, {"tol": -1}):
        with pytest.raises(ArgumentError, match="expected"):
            TransductiveClustering(**wrong).fit(X, y)
    with pytest.raises(ArgumentError, match="did you mean 'kmeans'"):
        TransductiveClustering(prototypes="k-means").fit(X, y)
    with pytest.raises(DataError, match="all rows are -1"):
        TransductiveClustering().fit(X, np.full(60, -1))
    one = TransductiveClustering().fit(X, np.where(y > 10, -1, y))
    assert set(one.transduction_) == {10}
    assert TransductiveClustering().fit([[1.0]], ["a"]).transduction_.tolist() == ["a"]
    constant = TransductiveClustering().fit(np.ones((5, 2)), [0, 1, -1, -1, -1])
    assert np.isfinite(constant.label_distributions_).all()
    with pytest.raises(ValueError, match="NaN"):
        TransductiveClustering().fit(np.full((60, 2), np.nan), y)


def test_scikit_learn():
    model = TransductiveClustering()
    check_estimator(model, expected_failed_checks=model.expected_failed_checks)
