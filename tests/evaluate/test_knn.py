import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from tacit.errors import ArgumentError
from tacit.evaluate import knn_accuracy, knn_predict


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 300)
    x = (rng.normal(size=(300, 6)) + rng.normal(size=(4, 6))[y]) * rng.uniform(0.1, 10, 6) + 5
    return x[:200], y[:200], x[200:], y[200:]


def slow_knn(train_x, train_y, test_x, k, temperature):
    """Item by item from the definition: standardise on train, cosine, sum of exp(s / T) per class."""
    mean, deviation = train_x.mean(axis=0), train_x.std(axis=0)
    train, test = (train_x - mean) / deviation, (test_x - mean) / deviation
    predicted = []
    for q in test:
        cosines = [float(q @ r / (np.linalg.norm(q) * np.linalg.norm(r))) for r in train]
        nearest = sorted(range(len(train)), key=lambda j: -cosines[j])[:k]
        votes = {}
        for j in nearest:
            votes[train_y[j]] = votes.get(train_y[j], 0.0) + math.exp(cosines[j] / temperature)
        predicted.append(max(sorted(votes), key=votes.get))
    return np.array(predicted)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1e-4), (1000, 0.5)])
def test_equals_the_slow_definition(features, k, temperature):
    train_x, train_y, test_x, _ = features
    expected = slow_knn(train_x, train_y, test_x, k, max(temperature, 2e-3))
    predicted = knn_predict(train_x, train_y, test_x, n_neighbors=k, temperature=max(temperature, 2e-3))
    assert (predicted == expected).all()
    assert np.isfinite(knn_accuracy(*features, n_neighbors=k, temperature=temperature).value)


def test_equals_scikit_learn_with_the_same_weights(features):
    train_x, train_y, test_x, test_y = features
    mean, deviation = train_x.mean(axis=0), train_x.std(axis=0)
    peer = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    peer.fit((train_x - mean) / deviation, train_y)
    score = knn_accuracy(*features)
    assert score.value == pytest.approx(peer.score((test_x - mean) / deviation, test_y))
    assert score.n == 100


def test_a_constant_feature_changes_nothing(features):
    train_x, train_y, test_x, _ = features
    # 0.1 has no exact float32 form: its computed deviation is not quite zero, and must not be blown up
    wider = [np.c_[x, np.full(len(x), 0.1), np.full(len(x), 1e6)].astype(np.float32) for x in (train_x, test_x)]
    assert (knn_predict(wider[0], train_y, wider[1]) == knn_predict(train_x, train_y, test_x)).all()


def test_keeps_the_names_of_classes_and_takes_tensors(features):
    train_x, train_y, test_x, _ = features
    names = np.array(["ape", "bee", "cat", "dog"])
    by_name = knn_predict(train_x, names[train_y], test_x)
    by_number = knn_predict(torch.from_numpy(train_x), torch.from_numpy(train_y), torch.from_numpy(test_x))
    assert (by_name == names[by_number]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_x": np.full((4, 2), np.nan)}, "train_x: expected finite"),
        ({"test_x": np.zeros((2, 3))}, "test_x: expected 2 columns"),
        ({"train_y": np.zeros(4)}, "train_y: expected at least 2 classes, found 1"),
        ({"train_y": np.arange(3)}, "train_y: expected one label for each of 4 rows"),
        ({"test_y": np.array([0.0, np.nan])}, "test_y: expected a label in each row, found NaN"),
    ],
)
def test_refuses(change, message):
    good = {"train_x": np.eye(4)[:, :2], "train_y": np.arange(4), "test_x": np.eye(2), "test_y": np.arange(2)}
    with pytest.raises(ArgumentError, match=message):
        knn_accuracy(**(good | change))
