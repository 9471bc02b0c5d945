import itertools
import math

import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.evaluate import ami, ari, clustering_accuracy, nmi


@pytest.fixture
def partitions():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 60)
    clusters = np.where(rng.random(60) < 0.6, (y + 1) % 4, rng.integers(0, 4, 60)) * 10
    return y, clusters


def test_accuracy_equals_the_best_of_all_matchings(partitions):
    y, clusters = partitions
    best = max(
        np.mean([matching[c // 10] == label for label, c in zip(y, clusters, strict=True)])
        for matching in itertools.permutations(range(4))
    )
    assert clustering_accuracy(y, clusters).value == pytest.approx(best)


def test_surplus_clusters_count_as_wrong():
    assert clustering_accuracy(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 3])).value == 0.5
    assert clustering_accuracy(np.array(["a", "b", "c"]), torch.zeros(3)).value == pytest.approx(1 / 3)


def test_ari_equals_counting_pairs(partitions):
    """(index - expected) / (maximum - expected) over all pairs, Hubert & Arabie's eq. 5."""
    y, clusters = partitions
    pairs = list(itertools.combinations(range(60), 2))
    same_y = np.array([y[i] == y[j] for i, j in pairs])
    same_c = np.array([clusters[i] == clusters[j] for i, j in pairs])
    expected = same_y.sum() * same_c.sum() / len(pairs)
    maximum = (same_y.sum() + same_c.sum()) / 2
    assert ari(y, clusters) == pytest.approx(((same_y & same_c).sum() - expected) / (maximum - expected))


def test_nmi_equals_entropies(partitions):
    y, clusters = partitions

    def entropy(values):
        return -sum(p * math.log(p) for p in np.unique(values, return_counts=True)[1] / len(values))

    h_y, h_c, h_both = entropy(y), entropy(clusters), entropy(y * 1000 + clusters)
    assert nmi(y, clusters) == pytest.approx((h_y + h_c - h_both) / ((h_y + h_c) / 2))


def test_adjusted_measures_are_zero_for_random_clusters_however_many():
    rng = np.random.default_rng(1)
    y, clusters = rng.integers(0, 5, 500), rng.integers(0, 50, 500)
    assert abs(ari(y, clusters)) < 0.01
    assert abs(ami(y, clusters)) < 0.02
    assert nmi(y, clusters) > 0.05


def test_interval_shrinks_with_the_number_of_items(partitions):
    y, clusters = (np.tile(p, 50) for p in partitions)
    few, many = (ari(y[:n], clusters[:n], return_interval=True) for n in (60, 3000))
    assert many.high - many.low < (few.high - few.low) / 3
    assert few.low < ari(y, clusters) < few.high


def test_refuses(partitions):
    y, clusters = partitions
    with pytest.raises(ArgumentError, match="clusters: expected one label for each of 60 rows"):
        nmi(y, clusters[:-1])
