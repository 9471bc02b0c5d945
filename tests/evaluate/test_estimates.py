import math

import numpy as np
import pytest
from scipy import stats

from tacit.errors import ArgumentError
from tacit.evaluate import Estimate, Score, mean_interval, wilson
from tacit.evaluate._estimates import blocks, jackknife


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 30), (7, 30), (631, 1000), (10_000, 10_000)])
def test_wilson_equals_scipy(hits, n):
    score = wilson(hits, n)
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert (score.low, score.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert score.low <= score.value <= score.high


def test_wilson_covers_the_truth():
    hits = np.random.default_rng(0).binomial(50, 0.9, size=2000)
    covered = [wilson(int(h), 50).low <= 0.9 <= wilson(int(h), 50).high for h in hits]
    assert 0.93 < np.mean(covered) < 0.98


def test_mean_interval_equals_scipy():
    x = np.random.default_rng(0).normal(size=12)
    estimate = mean_interval(x)
    expected = stats.t.interval(0.95, 11, loc=x.mean(), scale=stats.sem(x))
    assert (estimate.low, estimate.high) == pytest.approx(expected)


def test_jackknife_of_a_mean_over_single_items_is_students_interval():
    x = np.random.default_rng(0).normal(size=15)
    without = [np.delete(x, i).mean() for i in range(15)]
    estimate, expected = jackknife(x.mean(), without, 15), mean_interval(x)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))


def test_one_value_says_nothing_of_its_spread():
    assert mean_interval([3.0]) == Estimate(3.0, -math.inf, math.inf, 1)


@pytest.mark.parametrize("n", [1, 5, 10, 23])
def test_blocks_are_a_partition(n):
    assert np.concatenate(blocks(n)).sort() is None
    assert sorted(np.concatenate(blocks(n)).tolist()) == list(range(n))
    assert len(blocks(n)) == min(10, n)


def test_text():
    assert str(Score(0.631, 0.61, 0.652, 2000)) == "63.1 % (61.0-65.2)"
    assert str(Estimate(0.25, -0.5, 1.0, 3)) == "0.250 (-0.500 to 1.000)"
    assert float(Score(0.5, 0.4, 0.6, 9)) == 0.5


def test_refuses_an_empty_test_set():
    with pytest.raises(ArgumentError, match="n=0: expected at least one item"):
        wilson(0, 0)
