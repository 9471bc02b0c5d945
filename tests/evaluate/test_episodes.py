import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.semi_supervised import LabelSpreading

from tacit.errors import ArgumentError, DataError
from tacit.evaluate import episodes, episodic_accuracy
from tacit.evaluate._episodes import _apportioned


@pytest.fixture
def labels():
    """Classes 0 to 11 with 6 to 17 items, in mixed order, among items without label."""
    y = np.concatenate([np.repeat(np.arange(12), np.arange(6, 18)), np.full(20, -1)])
    return np.random.default_rng(0).permutation(y)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["equal", "dirichlet"]),
    st.integers(1, 5),
    st.sampled_from([np.int32, np.int64, np.float32, str]),
)
def test_what_every_episode_has(n_way, n_shots, n_queries, balance, n_present, kind):
    y = np.repeat(np.arange(7), 8)[np.random.default_rng(0).permutation(56)].astype(kind)
    n_present = min(n_present, n_way)
    shape = {"n_way": n_way, "n_shots": n_shots, "n_queries": n_queries, "n_present": n_present}
    for one in episodes(y, **shape, n_episodes=9, balance=balance):
        assert len(set(one.classes)) == n_way
        assert list(y[one.support]) == list(np.repeat(one.classes, n_shots))
        both = np.concatenate([one.support, one.queries])
        assert len(set(both)) == len(both) == n_way * n_shots + n_present * n_queries
        counts = Counter(y[one.queries])
        assert set(counts) <= set(one.classes[:n_present])
        assert balance == "dirichlet" or set(counts.values()) == {n_queries}


def test_classes_and_items_are_drawn_evenly(labels):
    n_episodes = 4000
    drawn = list(episodes(labels, n_way=3, n_shots=2, n_queries=5, n_episodes=n_episodes))
    ways = np.bincount(np.concatenate([one.classes for one in drawn]), minlength=12)
    assert ways[0] == 0, "a class of 6 items has no 7"
    assert stats.chisquare(ways[1:]).pvalue > 1e-3
    # in classes of 11 items each is a support in 2 of 11, a query in 5 of 11, and positions do not matter
    own = np.flatnonzero(labels == 5)
    for part, share in (("support", 2), ("queries", 5)):
        counts = np.bincount(np.concatenate([getattr(one, part) for one in drawn]), minlength=len(labels))[own]
        assert counts.sum() == ways[5] * share
        assert stats.chisquare(counts).pvalue > 1e-3
    first = np.array([labels[one.queries[0]] == one.classes[0] for one in drawn])
    assert abs(first.mean() - 1 / 3) < 4 * math.sqrt(2 / 9 / n_episodes), "queries are not in random order"


def test_seeds_and_blocks(labels, monkeypatch):
    def all_of(seed):
        return [np.concatenate(one).tolist() for one in episodes(labels, n_queries=3, n_episodes=50, random_state=seed)]

    assert all_of(3) == all_of(3) != all_of(4)
    assert all_of(np.random.default_rng(3)) == all_of(3)
    monkeypatch.setattr("tacit.evaluate._episodes._BLOCK", 1)
    blocks = all_of(3)
    assert len(blocks) == len({tuple(one) for one in blocks}) == 50
    first = next(episodes(torch.as_tensor(labels), n_queries=3))
    assert np.array_equal(first.support, next(episodes(labels.tolist(), n_queries=3)).support)


def slow_apportioned(shares, room, total):
    """Seat after seat to the class with the largest share / (2 seats + 1) that has room."""
    seats = [0] * len(shares)
    for _ in range(total):
        free = [c for c in range(len(shares)) if seats[c] < room[c]]
        seats[max(free, key=lambda c: shares[c] / (2 * seats[c] + 1))] += 1
    return seats


def test_shares_are_rounded_seat_by_seat():
    rng = np.random.default_rng(0)
    shares, room = rng.dirichlet(np.full(5, 0.7), 200), rng.integers(4, 12, (200, 5))
    expected = [slow_apportioned(*one, 20) for one in zip(shares, room, strict=True)]
    np.testing.assert_array_equal(_apportioned(shares, room, 20), expected)
    # with room for all, no class is off by a whole seat or more of five
    roomy = _apportioned(shares, np.full((200, 5), 1000), 1000)
    assert np.abs(roomy - 1000 * shares).max() < 2


def test_dirichlet_shares_have_the_moments_of_dirichlet():
    y, alpha, k = np.repeat(np.arange(5), 900), 2.0, 5
    drawn = episodes(y, n_queries=100, n_episodes=1500, balance="dirichlet", alpha=alpha)
    shares = np.array([np.bincount(y[one.queries], minlength=5) / 500 for one in drawn])
    np.testing.assert_allclose(shares.mean(0), 1 / k, atol=0.02)
    np.testing.assert_allclose(shares.var(0), (1 / k) * (1 - 1 / k) / (k * alpha + 1), rtol=0.15)
    many = episodes(y, n_queries=100, n_episodes=100, balance="dirichlet", alpha=1e4)
    assert max(np.ptp(np.bincount(y[one.queries])) for one in many) < 40


def points(seed=0):
    """Six classes on the corners of a simplex, noisy enough that a tenth is wrong."""
    y = np.repeat(np.arange(6) * 3 + 2, 15)
    return (np.eye(6)[(y - 2) // 3] + np.random.default_rng(seed).normal(0, 0.4, (90, 6))), y


@pytest.mark.parametrize("balance", ["equal", "dirichlet"])
def test_accuracy_against_a_slow_loop(balance):
    X, y = points()
    shape = {"n_way": 4, "n_shots": 2, "n_queries": 5, "n_episodes": 60, "balance": balance, "n_present": 3}
    rates = []
    for one in episodes(y, **shape, random_state=7):
        means = {c: X[[i for i in one.support if y[i] == c]].mean(0) for c in one.classes}
        told = [min(means, key=lambda c, i=i: np.linalg.norm(X[i] - means[c])) for i in one.queries]
        rates.append(np.mean([t == y[i] for t, i in zip(told, one.queries, strict=True)]))
    found = episodic_accuracy(NearestCentroid(), X, y, **shape, random_state=7)
    mean, error = np.mean(rates), np.std(rates, ddof=1) / math.sqrt(60)
    low, high = stats.t.interval(0.95, 59, mean, error)
    assert 0.5 < found.value < 1.0
    np.testing.assert_allclose((found.value, found.low, found.high), (mean, low, min(high, 1)))
    assert found.n == 60


def test_transductive_classifiers_see_queries_without_labels():
    X, y = points()

    class Watching(LabelSpreading):
        def fit(self, X, y):
            assert list(y) == [0, 0, 1, 1] + [-1] * 10
            return super().fit(X, y)

    shape = {"n_way": 2, "n_shots": 2, "n_queries": 5, "n_episodes": 20}
    found = episodic_accuracy(Watching(), X, y, **shape, transductive=True)
    rates = []
    for one in episodes(y, **shape):
        known = [int(y[i] == one.classes[1]) for i in one.support]
        model = LabelSpreading().fit(X[[*one.support, *one.queries]], known + [-1] * 10)
        rates.append(np.mean(one.classes[model.transduction_[4:]] == y[one.queries]))
    assert found.value == pytest.approx(np.mean(rates))


def test_kinds_of_input_do_not_matter():
    X, y = points()
    shape = {"n_way": 3, "n_queries": 5, "n_episodes": 15}
    expected = episodic_accuracy(KNeighborsClassifier(1), X, y, **shape)
    names = np.array([f"class {c:02}" for c in y])
    for features, labels in ((torch.as_tensor(X), torch.as_tensor(y)), (sparse.csr_matrix(X), y), (X.tolist(), names)):
        assert episodic_accuracy(KNeighborsClassifier(1), features, labels, **shape) == expected


class NearestSupport(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.X_, self.y_ = X, y
        return self

    def predict(self, X):
        return self.y_[np.square(X[:, None] - self.X_).sum(2).argmin(1)]


def test_the_interval_holds_the_mean_of_many_more_episodes():
    X, y = points()
    shape = {"n_way": 3, "n_queries": 5}
    truth = episodic_accuracy(NearestSupport(), X, y, **shape, n_episodes=3000, random_state=99).value
    found = [episodic_accuracy(NearestSupport(), X, y, **shape, n_episodes=25, random_state=s) for s in range(60)]
    assert sum(one.low <= truth <= one.high for one in found) >= 50


def test_what_cannot_be_is_refused(labels):
    for wrong in ({"n_way": 1}, {"n_shots": 0}, {"n_queries": 0}, {"n_episodes": 0}, {"n_present": 6}, {"alpha": 0}):
        with pytest.raises(ArgumentError, match="expected"):
            episodes(labels, **{"n_way": 5, **wrong})
    with pytest.raises(ArgumentError, match="did you mean 'dirichlet'"):
        episodes(labels, balance="dirichlett")
    with pytest.raises(DataError, match=r"2 classes have at least .* = 16 items; expected at least n_way = 5"):
        episodes(labels)
    with pytest.raises(DataError, match="0 classes"):
        episodes(np.full(10, -1))
    with pytest.raises(ArgumentError, match="one label an item"):
        episodes(np.zeros((4, 2)))
    with pytest.raises(ArgumentError, match="one label for each of the 3 rows"):
        episodic_accuracy(NearestCentroid(), np.zeros((3, 2)), labels)
