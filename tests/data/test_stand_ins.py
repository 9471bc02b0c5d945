"""Stand-ins: of the same form as the sets themselves, and with something to learn."""

import os

import numpy as np
import pytest

from tacit.data import load_named, names, stand_in
from tacit.errors import ArgumentError

have_data = pytest.mark.skipif(not os.environ.get("TACIT_DATA"), reason="TACIT_DATA is not set")


def form(values):
    """What code that runs on the one needs to find in the other."""
    if isinstance(values, list | tuple) and isinstance(values[0], str):
        return "texts"
    if isinstance(values, list):
        return "list", values[0].dtype, values[0].ndim, values[0].shape[1:]
    return (values.dtype, values.shape[1:]) if hasattr(values, "dtype") else values


def extras_form(values):
    form_of = form(values)
    return (form_of[0], len(form_of[1])) if isinstance(form_of, tuple) else form_of


@have_data
@pytest.mark.parametrize("name", names())
def test_form_is_that_of_the_set(name):
    real, drawn = load_named(name), stand_in(name, 120)
    assert drawn.name == real.name
    assert drawn.modality == real.modality
    assert {column: form(values) for column, values in drawn.columns.items()} == {
        column: form(values) for column, values in real.columns.items()
    }
    assert {key: extras_form(values) for key, values in drawn.extras.items()} == {
        key: extras_form(values) for key, values in real.extras.items()
    }
    for part in ("train", "test", "choose"):
        assert (len(getattr(drawn, part)) > 0) == (len(getattr(real, part)) > 0), part
    if name not in ("clinc150", "clinc150_oos", "omniglot"):
        assert len(drawn.classes) == len(real.classes)
    if real.modality == "table":
        np.testing.assert_array_equal(drawn.extras["categorical"], real.extras["categorical"])
        assert np.isnan(drawn.columns["x"]).any() == np.isnan(real.columns["x"]).any()


@pytest.mark.parametrize("name", names())
def test_parts_are_disjoint_and_hold_all_classes(name):
    drawn = stand_in(name, 210)
    assert len(drawn) == 210
    parts = [part for part in (drawn.train, drawn.choose, drawn.test) if len(part)]
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    assert together.max() < 210
    if not drawn.classes:
        return
    y = drawn.columns["y"]
    assert y.dtype == np.int64
    assert set(y) == set(range(len(drawn.classes)))
    if name == "omniglot":
        alphabets = [set(drawn.columns["alphabet"][part]) for part in (drawn.train, drawn.choose, drawn.test)]
        assert alphabets == [{0, 1, 2, 3, 4}, {5}, {6, 7}]
    elif name != "time_series/InternalBleeding16":  # starts without anomalies
        assert all(set(y[part]) == set(y) for part in parts)


def test_seeds_draw_anew():
    for name in ("cifar10", "ag_news", "fsdd", "tabular/adult"):
        column = "text" if name == "ag_news" else "x"
        first, again, other = (stand_in(name, 60, seed=seed).columns[column] for seed in (1, 1, 2))
        assert all(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            for a, b in zip(*map(arrays, (first, again)), strict=True)
        )
        assert not all(np.array_equal(a, b) for a, b in zip(*map(arrays, (first, other)), strict=True))


def arrays(column):
    return [np.asarray(item) for item in column]


@pytest.mark.parametrize("name", ["cifar10", "digits", "tabular/segment", "time_series/ItalyPowerDemand"])
def test_nearest_class_mean_is_far_above_chance(name):
    drawn = stand_in(name, 400)
    x, y = drawn.columns["x"].reshape(400, -1).astype(np.float64), drawn.columns["y"]
    if name.startswith("time_series"):
        x = np.abs(np.fft.rfft(x))  # phases differ
    means = np.stack([x[:200][y[:200] == label].mean(0) for label in range(len(drawn.classes))])
    guess = ((x[200:, None] - means) ** 2).sum(-1).argmin(1)
    assert (guess == y[200:]).mean() > 0.8


def test_texts_and_pictures_of_a_pair_belong_together():
    drawn = stand_in("emoji", 300)
    first, second = (np.array([text.split(" ")[word] for text in drawn.columns["text"]]) for word in (1, 2))
    left, right = np.split(drawn.columns["image"].astype(float), 2, axis=-1)
    for words, half in ((first, left), (second, right)):
        word = words[0]
        same, other = half[words == word], half[words != word]
        assert np.abs(same - same[0]).mean() < 0.7 * np.abs(other - same[0]).mean()


def test_what_cannot_be_is_said():
    with pytest.raises(ArgumentError, match="did you mean 'cifar10'"):
        stand_in("cifar-10", 100)
    with pytest.raises(ArgumentError, match="n=49: expected at least 50"):
        stand_in("cifar10", 49)
    with pytest.raises(ArgumentError, match="seed=-1"):
        stand_in("cifar10", 50, seed=-1)
