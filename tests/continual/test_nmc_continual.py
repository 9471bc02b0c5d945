import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from tacit.continual import NearestMeanContinual
from tacit.continual._nmc_continual import finetune
from tacit.errors import ArgumentError


def blobs(n=60, d=5, n_classes=4, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    return offset + 2 * rng.normal(size=(n_classes, d))[y] + rng.normal(size=(n, d)), y


def streamed(x, y, seed, metric="euclidean"):
    """In random order and random portions."""
    rng = np.random.default_rng(seed)
    model = NearestMeanContinual(metric=metric)
    for rows in np.split(rng.permutation(len(x)), np.sort(rng.integers(1, len(x), size=5))):
        if len(rows):
            model.partial_fit(x[rows], y[rows])
    return model


def test_check_estimator():
    check_estimator(NearestMeanContinual())


def test_it_is_the_nearest_centroid():
    x, y = blobs()
    new = blobs(200, seed=1)[0]
    model, peer = streamed(x, y, seed=3), NearestCentroid().fit(x, y)
    np.testing.assert_allclose(model.means_, peer.centroids_, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(new), peer.predict(new))


def test_means_are_exact_sums_rounded_in_any_order():
    """Numbers of very different size, whose float64 sum hangs on the order; `fsum` is exact."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3)) * 10.0 ** rng.integers(-6, 7, size=(500, 3))
    y = rng.integers(2, size=500)
    exact = [[math.fsum(x[y == c, j]) / (y == c).sum() for j in range(3)] for c in (0, 1)]
    for seed in range(5):
        np.testing.assert_array_equal(streamed(x, y, seed).means_, exact)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 40), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99), st.sampled_from(["f4", "f8", "i8"])
)
def test_any_order_and_portions_give_the_same_bits(n, d, n_classes, seed, dtype):
    rng = np.random.default_rng(seed)
    x, y = (100 * rng.normal(size=(n, d))).astype(dtype), rng.integers(n_classes, size=n)
    whole, parts = NearestMeanContinual().fit(x, y), streamed(x, y, seed)
    np.testing.assert_array_equal(parts.means_, whole.means_)
    np.testing.assert_array_equal(parts.counts_, whole.counts_)
    np.testing.assert_array_equal(parts.predict(x), whole.predict(x))


def test_far_from_zero_no_digits_are_lost():
    x, y = blobs(offset=1e8)
    near, far = NearestMeanContinual().fit(x - 1e8, y), NearestMeanContinual().fit(x, y)
    np.testing.assert_array_equal(far.predict(x), near.predict(x - 1e8))


def test_cosine_is_euclidean_on_normalised_rows_and_ignores_their_length():
    x, y = blobs()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    model = streamed(x, y, 2, "cosine")
    np.testing.assert_allclose(model.means_, NearestMeanContinual().fit(unit, y).means_, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(3 * x), model.predict(x))
    assert np.isfinite(NearestMeanContinual(metric="cosine").fit(np.zeros((3, 2)), [0, 1, 1]).means_).all()


def test_blocks_do_not_show(monkeypatch):
    x, y = blobs(101)
    whole = NearestMeanContinual().fit(x, y)
    monkeypatch.setattr("tacit.continual._nmc_continual._BLOCK", 7)
    parts = NearestMeanContinual().fit(x, y)
    np.testing.assert_array_equal(parts.means_, whole.means_)
    np.testing.assert_array_equal(parts.predict(x), whole.predict(x))


def test_fit_forgets_and_new_names_may_be_longer():
    x, y = blobs()
    model = NearestMeanContinual().fit(x, y).fit(x[:, :2], np.where(y > 1, "b", "a"))
    model.partial_fit(x[:, :2] + 9, np.full(len(x), "a much longer name"))
    assert list(model.classes_) == ["a", "a much longer name", "b"]
    assert model.counts_.sum() == 2 * len(x)


def test_what_cannot_be_is_refused():
    x, y = blobs()
    with pytest.raises(ArgumentError, match="metric='euclid'"):
        NearestMeanContinual(metric="euclid").fit(x, y)
    with pytest.raises(ValueError, match=r"classes \[3\] are not among"):
        NearestMeanContinual().partial_fit(x, y, classes=[0, 1, 2])
    model = NearestMeanContinual().fit(x, y)
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(x[:, :2], y)
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(x, y)


class Logits(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.encoder = nn.Identity()


def test_the_baselines_of_the_claims_forget_less_with_penalty_and_with_replay():
    """One class a task, two clouds that overlap: fine-tuning loses more of the first class than both others."""
    torch.manual_seed(1)
    x = torch.cat([torch.randn(64, 2) - 1, torch.randn(64, 2) + 1])
    y = torch.arange(2).repeat_interleave(64)
    tasks = [(x[y == 0], y[y == 0]), (x[y == 1], y[y == 1])]
    accuracy = {}
    for name, words in {"plain": {}, "ewc": {"penalty": 1e3}, "replay": {"kept": 5}}.items():
        torch.manual_seed(0)
        network = Logits()
        finetune(network, tasks, epochs=40, lr=0.1, **words)
        accuracy[name] = (network(x).argmax(1) == y).float()[y == 0].mean().item()
    assert accuracy["plain"] < min(accuracy["ewc"], accuracy["replay"]) - 0.1, accuracy
