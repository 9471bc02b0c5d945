"""The drawn pictures show what their labels say, and are the same everywhere."""

import hashlib

import numpy as np
import pytest

from tacit.data._digits import load_digits
from tacit.data._drawn import COLOURS, SHAPES, TEXTURES, _coverage, _distance, _plan, draw_scenes, load_demo
from tacit.errors import ArgumentError


@pytest.fixture(scope="module")
def demo():
    return load_demo()


@pytest.fixture(scope="module")
def coverage():
    return _coverage(_distance(_plan(4000, 0)[0], 64))


def values(demo, factor):
    return np.array(demo.labels[factor])


def shoelace(corners):
    x, y = np.array(corners).T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def star_corners(outer):
    """Tips and notches; the pentagram's notches lie 1 / golden ratio squared as far out as its tips."""
    radii = outer * np.where(np.arange(10) % 2, (3 - 5**0.5) / 2, 1)
    angles = np.arange(10) * np.pi / 5
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1)


AREAS = {
    "circle": np.pi * 0.9**2,
    "square": 1.6**2,
    "triangle": 3**1.5 / 4 * 1.1**2,
    "star": shoelace(star_corners(1.15)),
    "cross": 4 * 0.95 * 0.64 - 0.64**2,
    "ring": np.pi * (0.96**2 - 0.48**2),
    "heart": (4 + np.pi) * 0.62**2,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_their_area(shape):
    scenes = np.repeat(_plan(1, 0)[0], 6)
    scenes["shape"], scenes["u"], scenes["v"] = list(SHAPES).index(shape), 0.5, 0.5
    scenes["radius"] = np.linspace(0.2, 0.36, 6)
    angles = np.linspace(-3, 3, 6)
    scenes["cos"], scenes["sin"] = np.cos(angles), np.sin(angles)
    share = _coverage(_distance(scenes, 256)).mean((1, 2))
    np.testing.assert_allclose(share / scenes["radius"] ** 2, AREAS[shape], rtol=0.01)


def test_small_pictures_average_large_ones():
    scenes = _plan(100, 3)[0]
    large = _coverage(_distance(scenes, 256)).reshape(100, 64, 4, 64, 4).mean((2, 4))
    assert np.abs(large - _coverage(_distance(scenes, 64))).mean() < 0.005


def test_plain_shapes_have_their_named_colour(demo, coverage):
    """Up to the light: the median inside points in the direction of its own name's colour more than of any other's."""
    names = values(demo, "colour")
    plain = np.flatnonzero((values(demo, "texture") == "plain") & (names != ""))
    inside = [demo.images[item][:, coverage[item] == 1] for item in plain]
    seen = np.array([np.median(pixels, 1) for pixels in inside])
    named = np.array(list(COLOURS.values()), float)
    cosine = (seen / np.linalg.norm(seen, axis=1, keepdims=True)) @ (
        named / np.linalg.norm(named, axis=1, keepdims=True)
    ).T
    assert (np.array(list(COLOURS))[cosine.argmax(1)] == names[plain]).mean() > 0.995


def test_textures_differ_from_plain(demo, coverage):
    """Plain insides vary by noise and light alone; each texture varies by far more."""
    textures = values(demo, "texture")
    for texture in TEXTURES:
        items = np.flatnonzero((textures == texture) & (values(demo, "colour") != ""))[:100]
        core = [demo.images[item][:, _distance_below(coverage[item])] for item in items]
        spread = np.median([pixels.std(1).mean() for pixels in core if pixels.size])
        assert spread < 10 if texture == "plain" else spread > 20


def _distance_below(covered):
    """Pixels whose neighbours two away are covered as well: inside the darker rim."""
    inside = covered == 1
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            inside = inside & np.roll(covered == 1, step, axis)
    return inside


def test_places_are_recoverable_from_border_colours(demo):
    """Nearest class mean over the four borders' mean colours, fitted on one half, tested on the other."""
    known = np.flatnonzero(values(demo, "place") != "")
    images, places = demo.images[known].astype(np.float32), values(demo, "place")[known]
    borders = [images[:, :, :6], images[:, :, -6:], images[..., :6], images[..., -6:]]
    features = np.concatenate([border.mean((2, 3)) for border in borders], 1)
    means = {place: features[:2000][places[:2000] == place].mean(0) for place in set(places)}
    distance = np.stack([((features[2000:] - mean) ** 2).sum(1) for mean in means.values()])
    assert (np.array(list(means))[distance.argmin(0)] == places[2000:]).mean() > 0.9


def test_raw_pixels_say_little_about_shape(demo):
    known = np.flatnonzero(values(demo, "shape") != "")
    shapes = values(demo, "shape")[known]
    x = demo.images[known].reshape(-1, 3, 16, 4, 16, 4).mean((3, 5), dtype=np.float32).reshape(len(known), -1)
    distance = (x[:3000] ** 2).sum(1) - 2 * x[3000:] @ x[:3000].T
    assert (shapes[:3000][distance.argmin(1)] == shapes[3000:]).mean() < 0.4


def test_factors_are_uniform_and_independent(demo):
    """Pearson's chi-squared of each factor and each pair, five deviations allowed."""
    factors = {
        name: np.unique(values(demo, name)[values(demo, "place") != ""], return_inverse=True)[1] for name in demo.labels
    }
    for first, a in factors.items():
        for second, b in factors.items():
            table = np.bincount(a * (b.max() + 1) + b, minlength=(a.max() + 1) * (b.max() + 1)).astype(float)
            cells = np.flatnonzero(table) if first == second else np.arange(len(table))
            expected = table.sum() / len(cells)
            degrees = len(cells) - 1
            assert ((table[cells] - expected) ** 2 / expected).sum() < degrees + 5 * (2 * degrees) ** 0.5


def test_captions_name_the_factors(demo):
    for item in range(200):
        factors = {name: labels[item] for name, labels in demo.labels.items()}
        assert factors["colour"] in demo.captions[item]
        assert factors["shape"] in demo.captions[item]
        assert (factors["texture"] in demo.captions[item]) == (factors["texture"] != "plain")
        assert factors["place"] in demo.captions[item]


def test_planted_pictures(demo):
    images = demo.images.astype(np.int16)
    assert [len(demo.planted[kind]) for kind in ("exact", "near", "blank", "inverted")] == [20, 20, 4, 4]
    for original, copy in demo.planted["exact"]:
        np.testing.assert_array_equal(images[original], images[copy])
    near = [np.abs(images[original] - images[copy]).mean() for original, copy in demo.planted["near"]]
    others = np.abs(images[:200] - images[200:400]).mean((1, 2, 3))
    assert min(near) > 1
    assert max(near) < 15 < others.min()
    for original, copy in demo.planted["exact"] + demo.planted["near"]:
        assert all(labels[original] == labels[copy] for labels in demo.labels.values())
        assert demo.captions[original] == demo.captions[copy]
    for item in demo.planted["blank"]:
        assert images[item].min() == images[item].max()
        assert all(labels[item] == "" for labels in demo.labels.values())
    assert {item for item in range(4000) if demo.labels["shape"][item] == ""} == set(demo.planted["blank"])
    distinct = {image.tobytes() for image in demo.images}
    assert len(distinct) == 4000 - 20


def test_inverted_pictures_are_negatives(demo, coverage):
    """Turned back, their insides have the colour that the plan gave them."""
    scenes, planted = _plan(4000, 0)
    named = np.array(list(COLOURS.values()), float)
    for item in planted["inverted"]:
        seen = np.median(255 - demo.images[item][:, coverage[item] == 1], 1)
        own = named[scenes["colour"][item]]
        assert seen @ own / np.linalg.norm(seen) / np.linalg.norm(own) > 0.95
        assert demo.labels["colour"][item] == demo.labels["place"][item] == ""
        assert demo.labels["shape"][item] in demo.captions[item]


def test_the_same_on_every_machine():
    """Pinned: the pictures must not change with the version of numpy or the processor."""
    drawn = draw_scenes(50)
    assert (
        hashlib.sha256(drawn.images.tobytes()).hexdigest()
        == "5e24f0be0a36f4df8f734e92a8fadcb40bddee33d508452831dd52d001fdfbd7"
    )
    assert drawn.captions[0] == "a pink checked cross in the sky"
    assert draw_scenes(50).images.tobytes() == drawn.images.tobytes()
    assert draw_scenes(50, seed=1).images.tobytes() != drawn.images.tobytes()


def test_odd_numbers(demo):
    assert draw_scenes(1, size=17).images.shape == (1, 3, 17, 17)
    assert draw_scenes(65, size=16).images.shape == (65, 3, 16, 16)
    for arguments in ({"n": 0}, {"size": 15}, {"seed": -1}):
        with pytest.raises(ArgumentError, match=next(iter(arguments))):
            draw_scenes(**arguments)


def test_digits_are_scikit_learns():
    from sklearn import datasets

    source, digits = datasets.load_digits(), load_digits()
    np.testing.assert_allclose(digits.images[:, 0], source.images * 255 / 16, atol=0.5)
    assert digits.labels == {"digit": [str(target) for target in source.target]}
    assert digits.captions is None
