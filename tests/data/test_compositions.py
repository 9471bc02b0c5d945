import hashlib

import numpy as np
import pytest

from tacit.data import COMPOSITION_WORDS, composition_prompt, compositions
from tacit.data._compositions import FACTORS, STYLES
from tacit.data._drawn import COLOURS
from tacit.errors import ArgumentError


def described(tokens):
    """The phrases of one scene as lists of words, those without a word left out."""
    words = [COMPOSITION_WORDS[token] for token in tokens]
    return [phrase for phrase in (words[0:4], words[4:8], words[8:12]) if any(phrase)]


def test_tokens_say_what_the_columns_say():
    data = compositions(60, seed=3, n_objects=(1, 3))
    for i in range(60):
        phrases = described(data["tokens"][i])
        assert len(phrases) == data["count"][i]
        for k, phrase in enumerate(phrases):
            assert phrase == [FACTORS[name][data[name][i, k]] for name in FACTORS]
        assert (data["shape"][i, len(phrases) :] == -1).all()
        for name in ("shape", "colour", "place"):  # each value once in a scene
            assert len(set(data[name][i, : len(phrases)])) == len(phrases)
        np.testing.assert_array_equal(composition_prompt(*map(" ".join, phrases)), data["tokens"][i])


def test_every_pixel_of_an_object_lies_in_its_quarter_and_has_its_colour():
    size = 64
    data = compositions(80, seed=1, image_size=size, n_objects=(1, 3), style="paper")
    paints = np.array([COLOURS[name] for name in FACTORS["colour"]], float)
    seen = 0
    for i in range(80):
        for k in range(data["count"][i]):
            down, across = np.nonzero(data["instance"][i] == k + 1)
            assert set(data["segments"][i][down, across]) == {data["shape"][i, k] + 1}
            row, column = divmod(data["place"][i, k], 2)
            assert (down.mean() > size / 2, across.mean() > size / 2) == (row == 1, column == 1)
            if data["texture"][i, k] == 0:  # hue of the inner pixels, brightness apart
                pixels = data["x"][i][:, down, across].T.astype(float)
                hue = np.median(pixels / pixels.sum(1, keepdims=True), axis=0)
                far = np.abs(paints / paints.sum(1, keepdims=True) - hue).sum(1)
                assert far.argmin() == data["colour"][i, k]
                seen += 1
        others = data["instance"][i] > data["count"][i]
        assert not others.any()
    assert seen > 40


def test_masks_have_the_areas_of_their_shapes():
    """Areas in units of the squared radius, which the extent along the axes tells up to the turn: the mean ratio of
    area to the square's, whose side is 1.6 radii."""
    size = 128
    data = compositions(400, seed=2, image_size=size, n_objects=1)
    areas = (data["instance"] == 1).sum((1, 2)) / size**2
    means = np.array([areas[data["y"] == k].mean() for k in range(4)])
    triangle = 3 * np.sqrt(3) * 0.55**2  # inscribed radius 0.55
    cross = 4 * 0.95 * 0.64 - 0.64**2
    ring = np.pi * (0.96**2 - 0.48**2)
    np.testing.assert_allclose(means / means[0], [1, triangle / 2.56, cross / 2.56, ring / 2.56], rtol=0.05)
    radii = np.sqrt(areas[data["y"] == 0] / 2.56)
    assert radii.min() > 0.18
    assert radii.max() < 0.235
    centres = [np.argwhere(mask).mean(0).astype(int) for mask in data["instance"][data["y"] == 3]]
    assert not any(mask[tuple(c)] for mask, c in zip(data["instance"][data["y"] == 3], centres, strict=True))


def test_factors_are_uniform_and_independent():
    data = compositions(6000, seed=5, n_objects=1, image_size=12)
    columns = [data[name][:, 0] for name in FACTORS]
    for i, a in enumerate(columns):
        for b in columns[i + 1 :]:
            table = np.histogram2d(a, b, (a.max() + 1, b.max() + 1))[0]
            expected = 6000 / table.size
            assert ((table - expected) ** 2 / expected).sum() < 40  # chi-squared, at most 15 degrees of freedom


def test_styles_show_the_same_objects_on_other_grounds():
    made = {style: compositions(20, seed=4, n_objects=2, style=style) for style in STYLES}
    for style in STYLES[1:]:
        np.testing.assert_array_equal(made[style]["instance"], made["studio"]["instance"])
        np.testing.assert_array_equal(made[style]["tokens"], made["studio"]["tokens"])
    dark, light = (made[style]["x"].mean(1)[made["studio"]["instance"] == 0].mean() for style in ("studio", "paper"))
    assert dark < 80 < 160 < light


def test_every_machine_draws_the_same():
    data = compositions(5, seed=7, n_objects=(1, 3), style="outdoors")
    digest = hashlib.sha256(b"".join(data[name].tobytes() for name in sorted(data))).hexdigest()
    assert digest[:16] == "b641970d0c597946"


def test_bad_input_is_an_error_that_names_it():
    for words in ({"n": 0}, {"seed": -1}, {"image_size": 8}, {"n_objects": 4}, {"n_objects": (2, 1)}, {"style": "oil"}):
        with pytest.raises(ArgumentError, match=next(iter(words))):
            compositions(**({"n": 2} | words))
    with pytest.raises(ArgumentError, match="word"):
        composition_prompt("red sqare")
    with pytest.raises(ArgumentError, match="phrase"):
        composition_prompt("red blue square")
    with pytest.raises(ArgumentError, match="objects"):
        composition_prompt("red", "blue", "green", "yellow")
