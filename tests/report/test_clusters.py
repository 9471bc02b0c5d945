import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

from tacit.errors import ArgumentError
from tacit.evaluate import ari
from tacit.report._clusters import _cloud, _silhouette, best_overlaps, find_clusters


def blobs(n, k, d=20, spread=2.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    return spread * rng.normal(size=(k, d))[y] + rng.normal(size=(n, d)), y


@pytest.mark.parametrize(("n", "k", "seed"), [(150, 2, 0), (150, 5, 1), (400, 8, 2), (60, 3, 3)])
def test_finds_the_planted_number_and_members(n, k, seed):
    x, y = blobs(n, k, seed=seed)
    found = find_clusters(x)
    assert found.n_clusters == k
    assert found.range[0] <= k <= found.range[1]
    assert ari(y, found.labels) > 0.95
    assert found.stability.value > 0.9
    assert found.stability.low <= found.stability.value <= found.stability.high <= 1
    assert (found.per_cluster_stability > 0.8).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_finds_many_clusters_in_many_dimensions(seed):
    x, y = blobs(3000, 12, d=80, spread=1.5, seed=seed)
    found = find_clusters(x, seed=seed)
    assert found.n_clusters == 12
    assert ari(y, found.labels) > 0.98


def test_noise_is_one_cluster_and_unstable_if_cut():
    x = np.random.default_rng(0).normal(size=(150, 10))
    assert find_clusters(x).n_clusters == 1
    cut, planted = find_clusters(x, n_clusters=5), find_clusters(blobs(150, 5)[0], n_clusters=5)
    assert cut.range == (5, 5)
    assert cut.stability.high < 0.5 < 0.9 < planted.stability.value
    assert cut.per_cluster_stability.max() < planted.per_cluster_stability.min()


def test_largest_first_and_centers_are_means_of_their_members():
    x, _ = blobs(300, 4)
    x = np.concatenate([x, x[:75:3] + 0.1])
    found = find_clusters(x, n_clusters=4)
    assert (np.diff(np.bincount(found.labels)) <= 0).all()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = np.stack([unit[found.labels == k].mean(axis=0) for k in range(4)])
    np.testing.assert_allclose(found.centers, means, atol=1e-4)


def test_confidence_and_soft_scores_follow_from_distances():
    x, _ = blobs(120, 3)
    found = find_clusters(x, n_clusters=3)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    distances = np.linalg.norm(unit[:, None] - found.centers, axis=2)
    ordered = np.sort(distances, axis=1)
    np.testing.assert_allclose(found.confidence, 1 - ordered[:, 0] / ordered[:, 1], atol=1e-4)
    shares = 1 / distances**2
    np.testing.assert_allclose(found.soft_scores(x), shares / shares.sum(axis=1, keepdims=True), atol=1e-4)
    labels, confidence = found.assign(torch.from_numpy(x))
    assert (labels == found.labels).all()
    np.testing.assert_allclose(confidence, found.confidence, atol=1e-5)


def test_overlap_of_single_clusters_equals_sets():
    rng = np.random.default_rng(0)
    labels, again = rng.integers(0, 4, 80), rng.integers(0, 4, 80)
    for k, overlap in enumerate(best_overlaps(labels, again, 4)):
        mine = set(np.flatnonzero(labels == k))
        theirs = [set(np.flatnonzero(again == m)) for m in range(4)]
        assert overlap == pytest.approx(max(len(mine & other) / len(mine | other) for other in theirs))


def test_silhouette_equals_scikit_learn():
    x, _ = blobs(150, 3, spread=0.7)
    labels = np.random.default_rng(0).integers(0, 6, 150)
    labels[0] = 9
    apart = np.linalg.norm(x[:, None] - x, axis=2)
    assert _silhouette(apart, labels) == pytest.approx(silhouette_score(x, labels), abs=1e-6)
    assert _silhouette(apart, np.zeros(150, dtype=int)) == 0


def test_the_comparison_cloud_has_the_data_s_variances_and_lies_on_its_sphere():
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(4000, 6)) * np.array([1, 0.8, 0.6, 0.4, 0.3, 0.2]) + 1.5
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    mean = unit.mean(axis=0)
    axes = np.linalg.eigh(np.cov(unit.T))[1]
    x, offset = (unit - mean) @ axes, mean @ axes
    cloud = _cloud(x, offset, rng)
    np.testing.assert_allclose(np.linalg.norm(cloud + offset, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(cloud.std(axis=0)[1:], x.std(axis=0)[1:], rtol=0.15)


@pytest.mark.parametrize("x", [np.ones((1, 3)), np.eye(3), np.ones((50, 3)), np.zeros((20, 2)), np.eye(11)])
def test_too_little_to_go_by_is_one_cluster(x):
    found = find_clusters(x)
    assert found.n_clusters == 1
    assert found.labels.tolist() == [0] * len(x)
    assert found.confidence.tolist() == [1] * len(x)
    assert found.soft_scores(x).shape == (len(x), 1)


def test_same_seed_same_clusters():
    x, _ = blobs(40, 3)
    assert (find_clusters(x, seed=3).labels == find_clusters(x, seed=3).labels).all()


def test_refuses():
    with pytest.raises(ArgumentError, match="n_clusters=4: expected from 1 to 3, the number of different vectors"):
        find_clusters(np.eye(3)[[0, 1, 2, 0, 1]], n_clusters=4)
    with pytest.raises(ArgumentError, match="vectors: expected finite"):
        find_clusters(np.full((4, 2), np.inf))
    with pytest.raises(ArgumentError, match="expected 3 columns"):
        find_clusters(np.eye(3)).assign(np.eye(2))
