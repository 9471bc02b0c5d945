"""The verdict's error and power, on planted differences."""

import numpy as np
import pytest
from scipy import stats

from tacit.claims import Comparison
from tacit.claims._calibration import NOISES, calibration
from tacit.errors import ArgumentError


def test_at_the_margin_one_verdict_in_forty_holds():
    assert 0.020 <= calibration("normal", 0.0) <= 0.030


@pytest.mark.parametrize("difference", [0.5, 1.0, 2.0])
def test_power_is_that_of_the_t_test(difference):
    above = stats.nct.sf(stats.t.ppf(0.975, 4), 4, difference * np.sqrt(5))
    assert calibration("normal", difference) == pytest.approx(above, abs=0.015)


def test_two_standard_deviations_are_seen():
    assert calibration("normal", 2.0) >= 0.85


@pytest.mark.parametrize("noise", NOISES)
def test_noise_has_mean_0_and_deviation_1(noise):
    drawn = NOISES[noise](np.random.default_rng(0), (200_000, 5))
    assert drawn.mean() == pytest.approx(0, abs=0.01)
    assert drawn.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("noise", NOISES)
def test_the_share_is_that_of_verdicts_one_by_one(noise):
    drawn = 0.7 + NOISES[noise](np.random.default_rng(3), (200, 6))
    share = np.mean([Comparison(list(effects)).verdict == "holds" for effects in drawn])
    assert calibration(noise, 0.7, n=200, seeds=6, seed=3) == share


def test_skew_goes_with_its_sign():
    """A long tail above hides behind a large deviation; one below makes small deviations, and false positives."""
    assert calibration("skewed down", 0.0) > 0.025 > calibration("skewed up", 0.0)


def test_an_unknown_noise_is_an_error():
    with pytest.raises(ArgumentError, match="did you mean 'normal'"):
        calibration("norml", 0.0)
