"""The objective and the coding length by slow loops, spectral clustering by scikit-learn's, the votes by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from tacit.cluster import CPP, name_clusters
from tacit.cluster._cpp import (
    _cluster,
    _Heads,
    _RateReduction,
    _spectral_points,
    coding_length,
    membership,
    rate_reduction_loss,
)
from tacit.errors import ArgumentError
from tacit.training import fit

SMALL = {"max_steps": 30, "hidden_dim": 32, "embed_dim": 8, "random_state": 0}


def subspaces(n=30, k=3, seed=0):
    g = np.random.default_rng(seed)
    return np.repeat(np.eye(k, 8), n, axis=0) * 5 + g.normal(size=(n * k, 8)) / 5, np.repeat(np.arange(k), n)


def unit(n, d, seed=0):
    z = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(z, dim=1)


def logdet(matrix):
    return math.log(float(torch.linalg.det(matrix)))


def test_the_loss_by_a_slow_loop():
    z, codes, eps, gamma = unit(6, 3), unit(6, 3, 1), 0.5, 0.05
    p = membership(codes, 0.2)
    identity = torch.eye(3, dtype=torch.float64)
    whole = logdet(identity + 3 / (6 * eps**2) * z.T @ z) / 2
    groups = 0.0
    for k in range(6):
        m = sum(float(p[i, k]) for i in range(6))
        scatter = sum(float(p[i, k]) * torch.outer(z[i], z[i]) for i in range(6))
        groups += m / 12 * logdet(identity + 3 / (m * eps**2) * scatter)
    square = sum(float(value) ** 2 for value in p.flatten())
    expected = groups - whole + gamma / 2 * square
    assert rate_reduction_loss(z, p, eps=eps, gamma=gamma).item() == pytest.approx(expected)


def test_membership_by_scaling_rows_and_columns_in_turns():
    codes = unit(5, 3)
    kernel = np.exp(np.abs(codes.numpy() @ codes.numpy().T) / 0.175)
    for _ in range(200):
        kernel /= kernel.sum(0, keepdims=True)
        kernel /= kernel.sum(1, keepdims=True)
    np.testing.assert_allclose(membership(codes, 0.175, n_iters=200).numpy(), kernel, rtol=1e-8)
    np.testing.assert_allclose(membership(codes, 0.175).sum(1).numpy(), 1)


def test_coding_length_by_a_slow_loop():
    z, labels, eps = unit(9, 4), np.array([0, 0, 0, 1, 1, 1, 1, 2, 2]), 0.3
    expected = 0.0
    for k in range(3):
        rows = z[labels == k]
        m = len(rows)
        gram = sum(torch.outer(row, row) for row in rows)
        expected += (m + 4) / 2 * logdet(torch.eye(4, dtype=torch.float64) + 4 / (m * eps**2) * gram)
        expected += m * math.log(9 / m)
    assert coding_length(z, labels, eps=eps) == pytest.approx(expected)


def test_spectral_clustering_is_scikit_learns():
    x, _ = subspaces()
    p = np.exp(-np.square(x[:, None] - x).sum(-1) / 20)
    ours = _cluster(_spectral_points(p, 3), 3, np.random.RandomState(0))
    theirs = SpectralClustering(3, affinity="precomputed", random_state=0).fit_predict(p)
    assert adjusted_rand_score(ours, theirs) == 1


def test_it_finds_subspaces_and_their_number():
    x, y = subspaces()
    model = CPP(max_clusters=8, **SMALL).fit(x)
    assert model.n_clusters_ == 3
    assert model.coding_lengths_[3] == min(model.coding_lengths_.values())
    assert adjusted_rand_score(y, model.labels_) == 1
    assert adjusted_rand_score(y, model.predict(x)) == 1
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(model.transform(x), axis=1), 1, rtol=1e-5)


def test_rows_beyond_max_samples_go_where_their_like_are():
    x, y = subspaces(100)
    model = CPP(n_clusters=3, max_samples=50, **SMALL).fit(x)
    assert len(model.sample_indices_) == 50
    assert adjusted_rand_score(y, model.labels_) == 1


def test_shares_are_mean_likenesses():
    x, _ = subspaces(5)
    model = CPP(n_clusters=3, **SMALL).fit(x)
    _, codes = model._embed(x)
    likeness = np.exp(np.abs(codes.numpy() @ codes.numpy().T) / 0.175)
    means = np.stack([likeness[:, model.labels_ == k].mean(1) for k in range(3)], 1)
    np.testing.assert_allclose(model.predict_proba(x), means / means.sum(1, keepdims=True), rtol=1e-4)


def test_training_raises_the_rate_reduction_and_the_warm_up_the_rate():
    x = torch.from_numpy(subspaces()[0]).float()
    for warmup in (0.0, 0.5):
        torch.manual_seed(0)
        learner = _RateReduction(_Heads(8, 32, 8), 0.3, 0.175, 0.05, warmup)
        torch.testing.assert_close(learner.head.cluster.weight, learner.head.subspace.weight)
        before = learner.loss(x).item()
        fit(learner, x, max_steps=30, batch_size=90, lr=1e-3)
        learner.progress = 0.0
        assert learner.loss(x).item() < before
        assert learner.warm


def test_votes_by_hand():
    features = np.array([[1.0, 0.2], [1.0, 0.1], [0.1, 1.0], [0.9, 1.0], [3.0, 0.0]])
    texts, names = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), ["right", "up", "both"]
    labels = np.array([4, 4, 7, 7, 4])
    expected = {}
    for k in (4, 7):
        votes = np.zeros(3)
        for row in features[labels == k]:
            cosines = texts @ row / np.linalg.norm(row) / np.linalg.norm(texts, axis=1)
            likely = np.exp(5 * cosines) / np.exp(5 * cosines).sum()
            top = np.argsort(-likely)[:2]
            votes[top] += likely[top]
        expected[k] = names[votes.argmax()]
    assert name_clusters(labels, features, texts, names, scale=5.0, n_votes=2) == expected
    with pytest.raises(ArgumentError, match="names=2"):
        name_clusters(labels, features, texts, names[:2])
    with pytest.raises(ArgumentError, match="labels=1"):
        name_clusters(labels[:1], features, texts, names)


def test_the_random_state_decides_and_float32_gives_what_float64_gives():
    x, _ = subspaces(8)
    one, two = (CPP(n_clusters=3, **SMALL).fit(x) for _ in range(2))
    np.testing.assert_array_equal(one.transform(x), two.transform(x))
    assert adjusted_rand_score(one.labels_, CPP(n_clusters=3, **SMALL).fit(x.astype(np.float32)).labels_) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_clusters": 0}, "n_clusters=0"),
        ({"n_clusters": "many"}, "n_clusters='many'"),
        ({"n_clusters": 99}, "n_samples=24"),
        ({"eps": 0.0}, "eps=0"),
        ({"epsilon": -1}, "epsilon=-1"),
        ({"warmup": 1.0}, "warmup=1"),
        ({"max_clusters": 1}, "max_clusters=1"),
        ({"max_samples": 2, "n_clusters": 3}, "max_samples=2"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CPP(**settings).fit(subspaces(8)[0])


def test_constant_columns_and_hardly_any_rows_are_answered():
    x, _ = subspaces(4)
    assert set(CPP(n_clusters=1, **SMALL).fit(x).labels_) == {0}
    assert len(CPP(n_clusters=2, **SMALL).fit(np.ones((4, 3))).labels_) == 4
    assert CPP(**SMALL).fit(x[:2]).n_clusters_ == 2
    with pytest.raises(ValueError, match="n_samples=1"):
        CPP(**SMALL).fit(x[:1])
