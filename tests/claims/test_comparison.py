"""Verdicts against intervals from independent sources."""

import math

import numpy as np
import pytest
from scipy import stats

from tacit.claims import Comparison
from tacit.claims._bench import shape_of, spearman
from tacit.claims._comparison import median_interval, student_interval
from tacit.errors import ArgumentError


def test_interval_is_that_of_scipys_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.7, 0.01, 5), rng.normal(0.68, 0.01, 5)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    comparison = Comparison.paired(a.tolist(), b.tolist())
    assert comparison.interval == pytest.approx((expected.low, expected.high))
    assert comparison.effect == pytest.approx((a - b).mean())


def test_interval_is_vectorised():
    effects = np.random.default_rng(1).normal(size=(7, 3, 5))
    low, high = student_interval(effects)
    for row in np.ndindex(7, 3):
        assert (low[row], high[row]) == pytest.approx(student_interval(effects[row]))


@pytest.mark.parametrize(
    ("effects", "margin", "verdict"),
    [
        ([0.03, 0.04, 0.02, 0.05, 0.03], 0.0, "holds"),
        ([0.03, 0.04, 0.02, 0.05, 0.03], 0.1, "fails"),
        ([0.03, -0.04, 0.02, -0.05, 0.03], 0.0, "unclear"),
        ([-0.01, -0.012, -0.009, -0.011, -0.01], -0.02, "holds"),
        ([0.1, 0.1, 0.1], 0.1, "unclear"),  # exactly the margin, without noise: neither above nor below
        ([5.0], 0.0, "unclear"),  # one seed says nothing
    ],
)
def test_verdict(effects, margin, verdict):
    assert Comparison(effects, margin).verdict == verdict


def test_exact_kinds_need_every_deviation_within_the_tolerance():
    assert Comparison([1e-7, 1e-6], 1e-6, "equal").verdict == "holds"
    assert Comparison([1e-7, 2e-6], 1e-6, "equal").verdict == "fails"
    assert Comparison([-3.0, -0.1], 0.0, "bound").verdict == "holds"
    assert Comparison([-3.0, 0.1], 0.0, "bound").verdict == "fails"


@pytest.mark.parametrize("n", [6, 9, 15, 30])
def test_median_interval_covers_as_often_as_it_says_whatever_the_noise(n):
    rng = np.random.default_rng(n)
    draws = rng.lognormal(0, 2, (4000, n))  # median 1
    covered = np.mean([low <= 1 <= high for low, high in map(median_interval, draws)])
    assert covered >= 0.94
    k = sum(stats.binom.cdf(j, n, 0.5) <= 0.025 for j in range(n))
    assert covered == pytest.approx(1 - 2 * stats.binom.cdf(k - 1, n, 0.5), abs=0.015)


def test_median_of_few_repetitions_says_nothing():
    assert median_interval(np.arange(5.0)) == (-math.inf, math.inf)


def test_speed_is_judged_by_the_median():
    ratios = [1.5] * 14 + [0.01]
    assert Comparison(ratios, 1.2, "speed").verdict == "holds"
    assert Comparison(ratios, 1.2, "above").verdict == "unclear"


def test_unknown_kind_and_unequal_sides_are_refused():
    with pytest.raises(ArgumentError, match="kind='bettr'"):
        Comparison([0.1], kind="bettr")
    with pytest.raises(ArgumentError, match="as many seeds"):
        Comparison.paired([0.1, 0.2], [0.1])


def test_spearman_is_pearson_of_ranks_and_zero_without_spread():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=9), rng.normal(size=9)
    expected = np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1]
    assert spearman(a, b) == pytest.approx(expected)
    assert spearman([1, 1, 1], [1, 2, 3]) == 0


@pytest.mark.parametrize(
    ("shape", "scores", "others", "effect"),
    [
        ("rises", [1, 2, 3, 4], (), 1.0),
        ("rises", [1, 3, 2], (), 1 / 3),
        ("falls", [4, 3, 1], (), 1.0),
        ("rises", [2, 2, 2], (), 0.0),
        ("above", [3, 5, 4], [1, 1, 3], 1.0),
        ("gap_shrinks", [5, 5], [1, 4], 3.0),
        ("gap_grows", [5, 5], [1, 4], -3.0),
    ],
)
def test_shape_of_a_curve(shape, scores, others, effect):
    assert shape_of(shape, scores, others) == pytest.approx(effect)
