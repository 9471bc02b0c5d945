import numpy as np
import pytest

from tacit.data import colored_digits
from tacit.errors import ArgumentError

N = 20_000


@pytest.fixture(scope="module")
def columns():
    digits = np.random.default_rng(0).integers(0, 10, N)
    images = np.random.default_rng(1).integers(1, 256, (N, 1, 6, 6), dtype=np.uint8)
    return images, digits, colored_digits(images, digits, flips=(0.1, 0.2), seed=3)


def test_shares_are_those_asked_for(columns):
    _, digits, found = columns
    assert (found["y"] == (digits < 5)).mean() == pytest.approx(0.75, abs=0.01)
    for domain, flip in enumerate((0.1, 0.2)):
        here = found["domain"] == domain
        assert here.sum() == N / 2
        assert (found["y"] != found["colour"])[here].mean() == pytest.approx(flip, abs=0.01)
    # the two kinds of chance are independent of each other
    wrong, other = found["y"] != (digits < 5), found["y"] != found["colour"]
    assert abs(np.corrcoef(wrong, other)[0, 1]) < 0.02


def test_ink_lies_in_the_channel_of_the_colour(columns):
    images, _, found = columns
    assert found["x"].dtype == np.uint8
    for item in range(50):
        colour = found["colour"][item]
        np.testing.assert_array_equal(found["x"][item, colour], images[item, 0, [[0], [2], [4]], [0, 2, 4]])
        assert not found["x"][item, 1 - colour].any()


def test_a_seed_draws_the_same_again_and_another_does_not(columns):
    images, digits, found = columns
    again = colored_digits(images[:, 0], digits, flips=(0.1, 0.2), seed=3)
    assert all((again[name] == found[name]).all() for name in found)
    other = colored_digits(images, digits, flips=(0.1, 0.2), seed=4)
    assert 0.3 < (other["y"] != found["y"]).mean() < 0.45  # 2 * 0.25 * 0.75
    assert (colored_digits(images, digits, flips=(0,), label_noise=0)["colour"] == (digits < 5)).all()


def test_what_cannot_be_is_refused():
    x, y = np.zeros((4, 1, 6, 6), np.uint8), np.arange(4)
    for arguments in ((x, y[:3]), (np.zeros((4, 3, 6, 6)), y)):
        with pytest.raises(ArgumentError, match="shape"):
            colored_digits(*arguments)
    for wrong in ({"flips": ()}, {"flips": (1.5,)}, {"label_noise": -0.1}):
        with pytest.raises(ArgumentError, match="flips"):
            colored_digits(x, y, **wrong)
