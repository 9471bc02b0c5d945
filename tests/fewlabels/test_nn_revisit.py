import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tacit.errors import ArgumentError
from tacit.fewlabels import KNNAugmentedClassifier
from tacit.fewlabels._nn_revisit import _folds


def blobs(n=40, d=4, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return 2 + np.random.default_rng(99).normal(size=(n_classes, d))[y] + rng.normal(size=(n, d)), y


def slow_votes(point, rows, labels, k, t, n_classes):
    """p_kNN of one point, from squared distances to rows that are all normalised."""
    distances = [((point - row) ** 2).sum() for row in rows]
    votes = np.zeros(n_classes)
    for j in np.argsort(distances, kind="stable")[:k]:
        votes[labels[j]] += np.exp(-distances[j] / t)
    return votes / votes.sum()


def normalised(x, mean):
    return (x - mean) / np.linalg.norm(x - mean, axis=1, keepdims=True)


def fixed(**said):
    return KNNAugmentedClassifier(**{"head": LogisticRegression(), "n_neighbors": 5, "temperature": 0.3, **said})


def test_neighbours_alone_against_the_equation():
    x, y = blobs()
    new, _ = blobs(15, seed=1)
    probe = fixed(interpolation=1.0).fit(x, y)
    rows, points = normalised(x, x.mean(axis=0)), normalised(new, x.mean(axis=0))
    expected = [slow_votes(point, rows, y, 5, 0.3, 3) for point in points]
    np.testing.assert_allclose(probe.predict_proba(new), expected, rtol=1e-9, atol=1e-12)


def test_a_hard_example_counts_more_by_the_rule():
    x, y = blobs()
    probe = fixed(interpolation=0.5, hardness=0.7).fit(x, y)
    rows, weights = normalised(x, x.mean(axis=0)), []
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        own = slow_votes(rows[i], rows[others], y[others], 5, 0.3, 3)[y[i]]
        weights.append(1 - 0.7 * max(np.log(own) if own > 0 else -np.inf, -100))
    np.testing.assert_allclose(probe.sample_weight_, weights, rtol=1e-9)


def test_a_row_among_strangers_counts_most_and_no_more_than_the_floor_allows():
    x, y = blobs(40, n_classes=2)
    x[y == 1] += 50
    y[0] = 1
    weights = fixed(interpolation=0.5, hardness=0.7).fit(x, y).sample_weight_
    assert weights[0] == pytest.approx(71)
    assert weights[0] > 10 * weights[1:].max()


def test_mixture_of_neighbours_and_a_weighted_head():
    x, y = blobs()
    new, _ = blobs(15, seed=1)
    probe = fixed(interpolation=0.3, hardness=0.2).fit(x, y)
    scaler = StandardScaler().fit(x)
    head = LogisticRegression().fit(scaler.transform(x), y, sample_weight=probe.sample_weight_)
    votes = fixed(interpolation=1.0).fit(x, y).predict_proba(new)
    expected = 0.3 * votes + 0.7 * head.predict_proba(scaler.transform(new))
    np.testing.assert_allclose(probe.predict_proba(new), expected, rtol=1e-6)
    np.testing.assert_array_equal(probe.predict(new), expected.argmax(axis=1))


def test_without_neighbours_it_is_the_head_alone():
    x, y = blobs()
    probe = fixed(interpolation=0.0, hardness=0.0).fit(x, y)
    alone = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    np.testing.assert_allclose(probe.predict_proba(x), alone.predict_proba(x), rtol=1e-6)


def test_neighbours_are_chosen_by_the_likelihood_of_each_row_from_all_others(monkeypatch):
    x, y = blobs(45, seed=4)
    probe = KNNAugmentedClassifier(head=LogisticRegression(), interpolation=0.5).fit(x, y)
    rows = normalised(x, x.mean(axis=0))

    def likelihood(k, t):
        own = []
        for i in range(len(x)):
            others = np.arange(len(x)) != i
            own.append(slow_votes(rows[i], rows[others], y[others], k, t, 3)[y[i]])
        return np.log(0.9 * np.array(own) + 0.1 / 3).mean()

    found = likelihood(probe.n_neighbors_, probe.temperature_)
    others = [likelihood(k, t) for k in (1, 2, 4, 8, 16, 32, 44) for t in (0.05, 0.1, 0.2, 0.5, 1.0, 10.0)]
    assert found >= max(others) - 1e-9


def test_mixture_is_chosen_by_the_likelihood_of_held_out_rows():
    """Where a straight line is right the head is trusted, where classes are islands the neighbours are."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    line = (x @ [1.0, 1.0] + rng.logistic(size=300) * 0.5 > 0).astype(int)
    islands = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)
    assert KNNAugmentedClassifier(random_state=0).fit(x, line).interpolation_ <= 0.3
    assert KNNAugmentedClassifier(random_state=0).fit(x, islands).interpolation_ >= 0.8


def test_probabilities_are_no_worse_than_the_better_side_on_new_rows():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1200, 3))
    y = (x[:, 0] + 1.5 * (x[:, 1] * x[:, 2] > 0) + 0.7 * rng.logistic(size=1200) > 0.7).astype(int)
    losses = []
    for share in ("cv", 0.0, 1.0):
        probe = KNNAugmentedClassifier(interpolation=share, random_state=0).fit(x[:400], y[:400])
        losses.append(log_loss(y[400:], probe.predict_proba(x[400:])))
    assert losses[0] < max(losses[1:]) - 0.03
    assert losses[0] < min(losses[1:]) + 0.01


def test_folds_hold_out_each_row_once_and_no_class_is_missing():
    codes = np.array([0] * 7 + [1] * 2 + [2] + [3] * 13)
    held_out = []
    for seen, held in _folds(codes, np.random.default_rng(0)):
        assert set(codes[seen]) == {0, 1, 2, 3}
        assert not set(seen) & set(held)
        held_out += held.tolist()
    assert sorted(held_out) == [i for i in range(23) if codes[i] != 2]


def test_one_row_a_class_cannot_be_held_out():
    x, _ = blobs(3)
    probe = KNNAugmentedClassifier().fit(x, ["a", "b", "c"])
    assert probe.interpolation_ == 0.5
    assert probe.head_.C == 1e-2
    np.testing.assert_array_equal(probe.predict(x), ["a", "b", "c"])


def test_rows_are_drawn_where_there_are_many(monkeypatch):
    monkeypatch.setattr("tacit.fewlabels._nn_revisit.EXACT", 50)
    monkeypatch.setattr("tacit.fewlabels._nn_revisit.IN_FOLDS", 40)
    x, y = blobs(300)
    probe = KNNAugmentedClassifier(random_state=0).fit(x, y)
    assert len(probe.sample_weight_) == 300
    assert probe.score(x, y) > 0.6


def test_any_head_and_use_in_a_pipeline():
    x, y = blobs(60)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), fixed(head=GaussianNB(), interpolation=0.5)),
        {"knnaugmentedclassifier__n_neighbors": [1, 10]},
        cv=2,
    )
    assert search.fit(x, y).best_params_["knnaugmentedclassifier__n_neighbors"] == 10


def test_float32_stays_and_says_the_same():
    x, y = blobs(60)
    double, single = fixed(interpolation=0.5).fit(x, y), fixed(interpolation=0.5).fit(x.astype("f4"), y)
    assert single._points.dtype == np.float32
    np.testing.assert_allclose(single.predict_proba(x), double.predict_proba(x), atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(2, 25),
    st.integers(1, 4),
    st.integers(2, 4),
    st.integers(0, 9),
    st.sampled_from(["f4", "f8", "i8", "u1"]),
)
def test_any_shape_and_type_gives_probabilities(n, d, n_classes, seed, dtype):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, size=(n, d)).astype(dtype)
    y = rng.integers(n_classes, size=n)
    y[:2] = 0, 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fixed(interpolation="cv").fit(x, y).predict_proba(x)
    assert found.shape == (n, len(np.unique(y)))
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_what_cannot_be_is_refused():
    x, y = blobs()
    with pytest.raises(ArgumentError, match="at least two classes"):
        KNNAugmentedClassifier().fit(x, np.zeros(len(x)))
    for word, value in {"n_neighbors": 0, "temperature": 0, "interpolation": 1.2, "hardness": -1}.items():
        with pytest.raises(ArgumentError, match=f"{word}={value}"):
            KNNAugmentedClassifier(**{word: value}).fit(x, y)
    with pytest.raises(ArgumentError, match="'auto'"):
        KNNAugmentedClassifier(interpolation="auto").fit(x, y)
    x[0, 0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        KNNAugmentedClassifier().fit(x, y)
