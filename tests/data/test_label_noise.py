import numpy as np
import pytest

from tacit.data import (
    CIFAR10_MISTAKES,
    asymmetric_noise,
    human_labels,
    instance_noise,
    open_set_noise,
    stand_in,
    symmetric_noise,
)
from tacit.errors import ArgumentError

N = 40_000


@pytest.fixture(scope="module")
def y():
    return np.random.default_rng(0).integers(0, 5, N)


def transitions(y, noisy, n_classes=5):
    """P(noisy | y), counted one by one."""
    counts = np.zeros((n_classes, n_classes))
    for a, b in zip(y, noisy, strict=True):
        counts[a, b] += 1
    return counts / counts.sum(1, keepdims=True)


def test_symmetric_transition_matrix(y):
    expected = np.full((5, 5), 0.3 / 4)
    np.fill_diagonal(expected, 0.7)
    np.testing.assert_allclose(transitions(y, symmetric_noise(y, 0.3, n_classes=5, seed=1)), expected, atol=0.02)


def test_asymmetric_transition_matrix(y):
    expected = np.eye(5) * 0.6 + np.roll(np.eye(5), 1, axis=1) * 0.4
    np.testing.assert_allclose(transitions(y, asymmetric_noise(y, 0.4, n_classes=5)), expected, atol=0.02)
    noisy = asymmetric_noise(y, 1.0, n_classes=5, mistakes={2: 0})
    np.testing.assert_array_equal(noisy, np.where(y == 2, 0, y))
    assert CIFAR10_MISTAKES == {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}


def test_instance_noise_follows_the_item(y):
    x = np.repeat(np.random.default_rng(1).normal(size=(8, 6)), N // 8, axis=0)  # eight different items
    item, noisy = np.repeat(np.arange(8), N // 8), instance_noise(x, y, 0.3, n_classes=5, seed=2)
    assert (noisy != y).mean() == pytest.approx(0.3, abs=0.01)
    shares = [transitions(y[item == i], noisy[item == i]) for i in range(8)]
    for share in shares:
        np.testing.assert_allclose(np.diag(share), 0.7, atol=0.04)  # how often hangs on q alone, which is drawn
    assert np.std(shares, axis=0).max() > 0.05  # for what hangs on the item


def test_instance_noise_against_the_equation_with_one_item():
    """All items alike: standardised they are 0, and the softmax is uniform over the other classes."""
    y = np.zeros(N, int)
    noisy = instance_noise(np.ones((N, 3)), y, 0.5, n_classes=4, spread=0.01)
    np.testing.assert_allclose(np.bincount(noisy, minlength=4) / N, [0.5, 1 / 6, 1 / 6, 1 / 6], atol=0.01)


def test_human_labels_are_the_columns():
    columns = stand_in("cifar10n", n=200).columns
    found = human_labels(columns, "aggre")
    asked = columns["aggre"] >= 0
    np.testing.assert_array_equal(found[asked], columns["aggre"][asked])
    np.testing.assert_array_equal(found[~asked], columns["y"][~asked])


def test_open_set_noise_replaces_each_once():
    x, others = np.arange(100), np.arange(1000, 1060)
    found, foreign = open_set_noise(x, others, 0.6, seed=3)
    assert foreign.sum() == 60
    assert sorted(found[foreign]) == list(others)
    np.testing.assert_array_equal(found[~foreign], x[~foreign])
    np.testing.assert_array_equal(x, np.arange(100))  # the given ones stay


def test_a_seed_draws_the_same_again_and_rate_0_nothing(y):
    x = np.random.default_rng(0).normal(size=(N, 2))
    noises = [
        lambda rate, seed: symmetric_noise(y, rate, n_classes=5, seed=seed),
        lambda rate, seed: asymmetric_noise(y, rate, n_classes=5, seed=seed),
        lambda rate, seed: instance_noise(x, y, rate, n_classes=5, seed=seed),
    ]
    for noise in noises:
        np.testing.assert_array_equal(noise(0.3, 1), noise(0.3, 1))
        assert (noise(0.3, 1) != noise(0.3, 2)).any()
    for noise in noises[:2]:
        np.testing.assert_array_equal(noise(0.0, 1), y)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="rate=2"):
        symmetric_noise([0, 1], 2, n_classes=2)
    with pytest.raises(ArgumentError, match="y="):
        symmetric_noise([0, 5], 0.1, n_classes=2)
    with pytest.raises(ArgumentError, match="mistakes"):
        asymmetric_noise([0, 1], 0.1, n_classes=2, mistakes={0: 7})
    with pytest.raises(ArgumentError, match="annotators"):
        human_labels({"y": [0]}, "nobody")
    with pytest.raises(ArgumentError, match="others"):
        open_set_noise(np.zeros(10), np.ones(2), 0.5)
