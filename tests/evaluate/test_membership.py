from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tacit.errors import ArgumentError
from tacit.evaluate import membership_auroc, membership_rate
from tacit.evaluate._membership import Z


def test_the_area_is_that_of_the_roc_curve_also_with_ties():
    chance = np.random.default_rng(0)
    for _ in range(10):
        a, b = np.round(chance.normal(0.5, 1, 13), 1), np.round(chance.normal(0, 1, 8), 1)
        expected = roc_auc_score(np.r_[np.ones(13), np.zeros(8)], np.r_[a, b])
        assert membership_auroc(a, b).value == pytest.approx(expected)


def test_the_bounds_solve_newcombes_equation():
    chance = np.random.default_rng(1)
    found = membership_auroc(chance.normal(0.8, 1, 30), chance.normal(0, 1, 20))
    for a in (found.low, found.high):
        q1, q2 = a / (2 - a), 2 * a * a / (1 + a)  # Hanley & McNeil
        mean = (30 + 20) / 2 - 1
        hanley = (a * (1 - a) + mean * ((q1 - a * a) + (q2 - a * a))) / (30 * 20)
        assert (found.value - a) ** 2 == pytest.approx(Z**2 * hanley)


def test_the_interval_covers_the_truth_and_stays_open_at_the_ends():
    chance, truth = np.random.default_rng(2), 0.7602  # of normal scores one deviation apart: Phi(1 / sqrt 2)
    found = [membership_auroc(chance.normal(1, 1, 25), chance.normal(0, 1, 25)) for _ in range(300)]
    assert 0.92 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.99
    perfect, none = membership_auroc([2, 3, 4], [0, 1]), membership_auroc([0, 1], [2, 3, 4])
    assert (perfect.value, perfect.high, none.value, none.low) == (1, 1, 0, 0)
    assert perfect.low == pytest.approx(1 - none.high, abs=0.05)
    assert 0.2 < perfect.low < 0.9


def test_the_threshold_is_the_best_of_all_by_brute_force():
    chance = np.random.default_rng(3)
    members, others, asked = chance.normal(1, 1, 40), chance.normal(0, 1, 30), chance.normal(0.5, 1, 50)
    scores = sorted([*members, *others])
    middles = [(a + b) / 2 for a, b in pairwise(scores)]
    best = max(middles, key=lambda t: (members >= t).mean() - (others >= t).mean())
    assert membership_rate(asked, members, others).value == (asked >= best).mean()


@pytest.mark.parametrize("bad", [[], [np.nan]])
def test_bad_scores_are_an_error(bad):
    with pytest.raises(ArgumentError):
        membership_auroc(bad, [1.0])
    with pytest.raises(ArgumentError):
        membership_rate([1.0], [1.0], bad)
