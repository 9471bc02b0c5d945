"""A record in words that a stranger understands."""

import pytest
from made_records import better, made

from tacit.claims import Comparison
from tacit.claims._words import advice, compared, effect_words, means, number_words, scores_words, short

pytestmark = pytest.mark.usefixtures("toy_catalogue")


def record(comparison, **changes):
    return made("toy/learns", comparison, **changes)


def kind(name, effects, margin=0.0, **more):
    return record(Comparison(effects, margin, name, **{"values": effects, "baseline": "the plain form", **more}))


def test_numbers_have_the_digits_that_their_interval_knows():
    wide = record(Comparison.paired([0.5, 0.9, 0.4, 0.7, 0.8], [0.5] * 5))
    narrow = record(better(0.03))
    assert effect_words(wide) == "+0.16 [-0.10, +0.42], margin 0"
    assert effect_words(narrow) == "+0.0300 [+0.0280, +0.0320], margin 0"
    assert number_words(narrow) == "+0.0300"
    assert short(1234.5) == "1,234"


@pytest.mark.parametrize(
    ("made_of", "effect", "scores", "sentence"),
    [
        (("equal", [1e-7, 3e-7], 1e-6), "3e-07, tolerance 1e-06", "", "both sides are equal up to 1e-06 in 2 seeds"),
        (("equal", [1e-7, 3e-5], 1e-6), "3e-05, tolerance 1e-06", "", "not true that both sides are equal up to 1e-06"),
        (("bound", [-0.5, -0.1]), "-0.1, tolerance 0", "", "the bound is never exceeded in 2 seeds"),
        (
            ("correlation", [0.8, 0.82, 0.79, 0.81, 0.8]),
            "+0.804 [+0.790, +0.818], margin 0",
            "0.804",
            "the rank correlation lies above 0: the whole interval lies above the margin",
        ),
        (
            ("above", [1.0, -1.0, 0.5, -0.5, 0.0], 0.25),
            "+0.00 [-0.98, +0.98], margin 0.25",
            "0.00",
            "whether the number lies above 0.25 cannot be told: the margin lies within the interval",
        ),
        (
            ("memory", [4.0, 4.1, 3.9, 4.0, 4.0], 2.0),
            "4.000 [3.912, 4.088], margin 2",
            "",
            "toy takes less than 50 % of the memory of the plain form: the whole interval lies above the margin",
        ),
        (
            ("speed", [0.5, 0.6, 0.5, 0.6, 0.5, 0.6, 0.55], 1.0),
            "0.550 [0.500, 0.600], margin 1",
            "",
            "not true that toy is faster than the plain form: the whole interval lies below the margin",
        ),
    ],
)
def test_every_kind_has_its_words(made_of, effect, scores, sentence):
    one = kind(*made_of)
    assert effect_words(one) == effect
    assert means(one) == sentence
    if scores:
        assert scores_words(one) == scores


def test_times_and_bytes_have_units_and_a_curve_its_points():
    times = record(Comparison([2.0] * 6, 1.0, "speed", [0.012] * 6, [0.024] * 6, "the plain form"))
    assert scores_words(times) == "12 ms against 24 ms"
    assert "6 pairs of times" in compared(times)
    space = record(Comparison([2.0] * 5, 1.0, "memory", [3 * 2**20] * 5, [6 * 2**20] * 5, "the plain form"))
    assert scores_words(space) == "3 MiB against 6 MiB"
    details = {"over": ["10", "100"], "shape": "gap_shrinks"}
    curve = Comparison([0.2] * 5, 0.0, "curve", [[0.5, 0.7]] * 5, [[0.2, 0.6]] * 5, "pca", details)
    assert scores_words(record(curve)) == "0.5, 0.7 against 0.2, 0.6 at 10, 100"
    assert means(record(curve)).startswith("its lead over pca shrinks along the curve")


def test_better_and_not_worse_are_said_with_their_margin():
    assert means(record(better(0.03))).startswith("toy is better than toy-still: the whole")
    assert means(record(better(0.03, margin=0.01))).startswith("toy is better than toy-still by more than 0.01")
    assert means(record(better(-0.03, margin=-0.02))).startswith("not true that toy is worse than toy-still by 0.02 at")
    assert "the untrained encoder" in means(record(better(0.03, baseline="untrained")))


def test_smoke_is_no_verdict():
    assert means(record(better(), budget="smoke", seeds=[0, 1])) == (
        "it runs; 2 seeds at smoke are no evidence: give --budget small"
    )


def test_what_was_compared_names_the_steps_once():
    assert compared(record(better())) == "toy against toy-still; blobs; 12 steps of 20; 5 seeds at small on cpu"
    assert "; 12 steps; 5 seeds" in compared(record(better(), setting="blobs"))


@pytest.mark.parametrize(
    ("comparison", "says"),
    [
        (better(0.03), "Yes: on photos/ toy beats toy-still; the difference lies between +0.028 and +0.032."),
        (better(-0.03), "No: on photos/ toy does not beat toy-still; the difference lies between -0.032 and -0.028."),
        (better(0.0), "Cannot be told from 5 seeds: the difference to toy-still lies between -0.002 and +0.002."),
        (better(0.0, margin=-0.02), "It would not cost you more than 0.02 against toy-still: the difference lies"),
        (better(-0.1, margin=-0.02), "It would cost you more than 0.02 against toy-still: the difference lies"),
        (Comparison([0.5] * 5, 0.1, "above", [0.5] * 5), "Yes, as far as the claim goes: the number lies above 0.1"),
    ],
)
def test_would_it_help_is_answered(comparison, says):
    assert advice(record(comparison, own="photos/")).startswith(f"Would it help you? {says}")
