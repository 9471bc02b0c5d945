import numpy as np
import pytest
import torch

from tacit.curate import exclude
from tacit.errors import ArgumentError


def test_kept_is_what_no_detector_finds_whatever_the_batches():
    chance = np.random.default_rng(0)
    table = torch.from_numpy(chance.uniform(size=(57, 3)))
    detectors = [lambda batch, k=k: batch[:, k] for k in range(3)]
    names = [f"author {item}" for item in range(57)]
    pool = exclude(table, *detectors, threshold=0.6, attribution=names, batch_size=10)
    expected = [item for item in range(57) if all(table[item, k] < 0.6 for k in range(3))]
    assert pool.kept.tolist() == expected
    assert sorted([*pool.kept, *pool.excluded]) == list(range(57))
    assert pool.attribution == tuple(names[item] for item in expected)
    np.testing.assert_array_equal(pool.by, table.argmax(1))
    np.testing.assert_allclose(pool.scores, table.max(1).values)


def test_leakage_counts_what_was_missed_and_what_was_lost():
    scores = torch.tensor([0.9, 0.8, 0.2, 0.1, 0.7, 0.0])
    shows = np.array([True, False, True, False, True, False])
    pool = exclude(scores, lambda batch: batch, threshold=0.5)
    missed, lost = pool.leakage(shows)
    assert missed == pytest.approx(1 / 3)  # item 2 of 2, 3, 5
    assert lost == pytest.approx(1 / 3)  # item 1 of 1, 3, 5


def test_a_lower_threshold_leaks_no_more_and_loses_no_less():
    chance = np.random.default_rng(1)
    shows = chance.random(400) < 0.3
    scores = torch.from_numpy(shows + chance.normal(size=400))
    pools = [exclude(scores, lambda batch: batch, threshold=float(t)) for t in (1.5, 0.5, -0.5)]
    missed = [shows[pool.kept].sum() for pool in pools]
    lost = [pool.leakage(shows)[1] for pool in pools]
    assert missed == sorted(missed, reverse=True)
    assert lost == sorted(lost)


def test_what_cannot_be_is_refused():
    x = torch.rand(4, 1, 2, 2)
    with pytest.raises(ArgumentError, match="detectors"):
        exclude(x)
    with pytest.raises(ArgumentError, match="4 items"):
        exclude(x, lambda batch: batch)
    with pytest.raises(ArgumentError, match="NaN"):
        exclude(x, lambda batch: batch.flatten(1)[:, 0] * np.nan)
    with pytest.raises(ArgumentError, match="attribution"):
        exclude(x, lambda batch: batch.flatten(1)[:, 0], attribution=["a"])
