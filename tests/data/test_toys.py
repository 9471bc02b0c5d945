"""Drawn data: what is said to be true of it is measured in it."""

import itertools
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from scipy.stats import norm

from tacit.data import fractals, gaussian_mixture, glyphs, shapes, signals, two_view_latents
from tacit.data._drawn import COLOURS, SHAPES
from tacit.data._glyphs import FONTS, SCALES, _fill
from tacit.data._toys import LEVELS, _chances, _develop, _systems, _turn, _wander
from tacit.errors import ArgumentError

GENERATORS = [fractals, gaussian_mixture, glyphs, shapes, signals, two_view_latents]


@pytest.mark.parametrize("generator", GENERATORS)
def test_seeds_draw_anew_and_the_same_again(generator):
    first, again, other = (generator(40, seed=seed) for seed in (3, 3, 4))
    assert {len(column) for column in first.values()} == {40}
    for name, column in first.items():
        np.testing.assert_array_equal(column, again[name])
    data = "a" if generator is two_view_latents else "x"
    assert not np.array_equal(first[data], other[data])
    assert len(generator(1)[data]) == 1
    for wrong in ({"n": 0}, {"n": 5, "seed": -1}):
        with pytest.raises(ArgumentError, match=r"n=0|seed=-1"):
            generator(**wrong)


def are_uniform(*columns, counts):
    """Whether all combinations of values come about equally often: chi-squared within 4.5 deviations of its mean."""
    cells = np.ravel_multi_index(columns, counts)
    total = int(np.prod(counts))
    seen, each = np.bincount(cells, minlength=total), len(cells) / total
    chi_squared = ((seen - each) ** 2 / each).sum()
    return abs(chi_squared - (total - 1)) < 4.5 * np.sqrt(2 * (total - 1))


# Clusters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_clusters", "dim"), [(2, 1), (3, 2), (4, 7), (1, 3)])
def test_few_clusters_are_equally_far_apart(n_clusters, dim):
    data = gaussian_mixture(500, n_clusters=n_clusters, dim=dim, separation=3)
    means = np.unique(data["mean"], axis=0)
    assert len(means) == n_clusters
    for one, other in itertools.combinations(means, 2):
        assert np.linalg.norm(one - other) == pytest.approx(3, rel=1e-5)


def test_many_clusters_are_spread_out():
    data = gaussian_mixture(4000, n_clusters=30, dim=2, separation=6)
    means = np.unique(data["mean"], axis=0)
    distances = [np.linalg.norm(one - other) for one, other in itertools.combinations(means, 2)]
    assert len(means) == 30
    assert min(distances) == pytest.approx(6, rel=1e-5)
    nearest = [min(np.linalg.norm(one - other) for other in means if other is not one) for one in means]
    assert max(nearest) < 12  # no cluster is far from all others


def test_clusters_are_round_and_as_frequent_as_said():
    data = gaussian_mixture(60_000, n_clusters=3, dim=3, separation=5, imbalance=9)
    share = np.bincount(data["y"]) / 60_000
    np.testing.assert_allclose(share, np.array([9, 3, 1]) / 13, atol=0.01)
    for label in range(3):
        rows = data["x"][data["y"] == label] - data["mean"][data["y"] == label]
        np.testing.assert_allclose(rows.mean(0), 0, atol=0.07)
        np.testing.assert_allclose(np.cov(rows.T), np.eye(3), atol=0.07)


@pytest.mark.parametrize("separation", [1.0, 3.0])
def test_two_clusters_overlap_as_the_normal_law_says(separation):
    data = gaussian_mixture(40_000, n_clusters=2, dim=5, separation=separation)
    means = np.stack([data["mean"][data["y"] == label][0] for label in (0, 1)])
    guess = ((data["x"][:, None] - means) ** 2).sum(-1).argmin(1)
    assert (guess == data["y"]).mean() == pytest.approx(norm.cdf(separation / 2), abs=0.008)


# Two views ------------------------------------------------------------------------------------------------------------


def gaussian_information(a, b):
    """Mutual information of jointly normal columns in nats, from their covariance."""
    both = np.cov(np.hstack([a, b]).T)
    log_volume = [
        np.linalg.slogdet(np.atleast_2d(part))[1]
        for part in (both[: a.shape[1], : a.shape[1]], both[a.shape[1] :, a.shape[1] :], both)
    ]
    return (log_volume[0] + log_volume[1] - log_volume[2]) / 2


@pytest.mark.parametrize(
    ("dim", "shared_dim", "private_dim", "noise"), [(6, 2, 3, 0.5), (4, 1, 0, 1.0), (9, 3, 2, 0.2)]
)
def test_information_is_the_closed_form(dim, shared_dim, private_dim, noise):
    data = two_view_latents(60_000, dim=dim, shared_dim=shared_dim, private_dim=private_dim, noise=noise)
    rho = 1 / (1 + noise**2)
    views = -shared_dim / 2 * np.log(1 - rho**2)
    latent = shared_dim / 2 * np.log(1 + 1 / noise**2)
    assert gaussian_information(data["a"], data["b"]) == pytest.approx(views, rel=0.01, abs=0.005)
    for view in "ab":
        assert gaussian_information(data[view], data["z"]) == pytest.approx(latent, rel=0.01, abs=0.005)
    if private_dim:
        assert gaussian_information(data["private_a"], np.hstack([data["b"], data["z"]])) < 0.002
        assert gaussian_information(data["private_a"], data["a"]) > 0.2


def test_canonical_correlations():
    data = two_view_latents(60_000, dim=5, shared_dim=2, private_dim=2, noise=0.5)
    white = []
    for view in "ab":
        values, vectors = np.linalg.eigh(np.cov(data[view].T))
        white.append((data[view] - data[view].mean(0)) @ vectors / np.sqrt(values))
    found = np.linalg.svd(white[0].T @ white[1] / 60_000)[1]
    np.testing.assert_allclose(found, [0.8, 0.8, 0, 0, 0], atol=0.015)


def test_nonlinear_views_can_be_inverted():
    """Each layer stretches distances by 1/2 to 3/2, so that no two points meet; and no linear map does the same."""
    linear, bent = (two_view_latents(800, seed=2, nonlinear=nonlinear) for nonlinear in (False, True))
    np.testing.assert_array_equal(linear["z"], bent["z"])
    x, y = linear["a"], bent["a"]  # what is drawn for the first view is the same
    first, second = np.triu_indices(800, 1)
    stretch = np.linalg.norm(y[first] - y[second], axis=1) / np.linalg.norm(x[first] - x[second], axis=1)
    assert 0.25 < stretch.min() < 0.8
    assert 1.25 < stretch.max() < 2.25
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert (rest**2).mean() > 0.01 * (y**2).mean()


# Shapes ---------------------------------------------------------------------------------------------------------------

AREAS = {"circle": np.pi * 0.9**2, "square": 1.6**2, "triangle": 3**1.5 / 4 * 1.1**2, "heart": (4 + np.pi) * 0.62**2}
"""In squared radii."""


def test_every_factor_can_be_read_off_the_pixels():
    data = shapes(600, seed=5)
    ink = data["x"].max(1) / data["x"].max((1, 2, 3))[:, None, None]
    palette = np.array(list(COLOURS.values()))
    np.testing.assert_array_equal(data["x"].max((2, 3)), palette[data["colour"]])
    area = np.array([AREAS.get(name, np.nan) for name in SHAPES])[data["y"]]
    known = ~np.isnan(area)
    radius = np.sqrt(ink.sum((1, 2)) / area) / 64
    np.testing.assert_allclose(radius[known], (0.1 + 0.02 * data["scale"])[known], rtol=0.03)
    centres = (np.arange(64) + 0.5) / 64
    for axis, name in ((1, "position_x"), (2, "position_y")):
        middle = (ink.sum(axis) * centres).sum(1) / ink.sum((1, 2))
        symmetric = data["y"] != list(SHAPES).index("heart")
        np.testing.assert_allclose(middle[symmetric], (1 / 4 + data[name] / 14)[symmetric], atol=0.004)


def test_orientation_turns_clockwise():
    """A quarter turn of the picture moves the shape and turns it by four of sixteen."""
    n = 200
    data = shapes(n, seed=1, colour=False)
    turned = shapes(
        n,
        colour=False,
        factors={
            "shape": data["y"],
            "scale": data["scale"],
            "orientation": (data["orientation"] + 4) % 16,
            "position_x": 7 - data["position_y"],
            "position_y": data["position_x"],
        },
    )
    expected = np.rot90(data["x"], -1, axes=(2, 3))
    assert np.abs(expected.astype(int) - turned["x"]).max() <= 3
    star = data["y"] == list(SHAPES).index("star")
    assert not np.array_equal(data["x"][star], turned["x"][star])


def test_factors_are_independent_and_can_be_set():
    data = shapes(20_000, image_size=16, colour=False)
    assert data["x"].shape[1] == 1
    assert are_uniform(data["y"], data["scale"], data["orientation"], counts=(7, 6, 16))
    assert are_uniform(data["position_x"], data["position_y"], counts=(8, 8))
    some = shapes(50, factors={"shape": 3, "colour": np.arange(50) % 8})
    assert set(some["y"]) == {3}
    np.testing.assert_array_equal(some["colour"], np.arange(50) % 8)
    for factors in ({"scale": 6}, {"scale": [0, 1]}, {"position_x": -1}):
        with pytest.raises(ArgumentError, match=r"factors\["):
            shapes(50, factors=factors)
    with pytest.raises(ArgumentError, match="factors='colour': expected one of"):
        shapes(50, colour=False, factors={"colour": 0})


# Glyphs ---------------------------------------------------------------------------------------------------------------


def test_an_outline_fills_the_pixels_that_a_dense_grid_finds():
    """A square with a hole, and a triangle, against points in polygons."""
    from matplotlib.path import Path as Outline

    def ring(corners, way=1):
        corners = np.array(corners, float)[::way]
        return corners, np.roll(corners, -1, axis=0)

    square = [(-4.3, -3.7), (3.1, -3.7), (3.1, 5.2), (-4.3, 5.2)]
    hole = [(-2.2, -1.1), (1.4, -1.1), (1.4, 2.6), (-2.2, 2.6)]
    triangle = [(-5.5, 4.1), (4.7, 2.3), (0.6, -5.9)]
    fine = (np.arange(16 * 32) + 0.5) / 32 - 8
    points = np.stack(np.meshgrid(fine, fine), axis=-1).reshape(-1, 2)

    def brute(*polygons):
        inside = sum(Outline(polygon).contains_points(points).astype(int) for polygon in polygons) % 2
        return inside.reshape(16, 32, 16, 32).mean((1, 3))

    outer, inner = ring(square), ring(hole, -1)
    both = tuple(np.concatenate(parts) for parts in zip(outer, inner, strict=True))
    np.testing.assert_allclose(_fill(*both, 16), brute(square, hole), atol=0.07)
    np.testing.assert_allclose(_fill(*ring(triangle), 16), brute(triangle), atol=0.07)
    np.testing.assert_allclose(_fill(*ring(triangle, -1), 16), _fill(*ring(triangle), 16), atol=1e-9)


@pytest.mark.parametrize("font", ["DejaVuSans", "DejaVuSerif-BoldItalic", "STIXGeneral", "cmtt10"])
def test_letters_are_those_of_the_font(font):
    """Pillow's rendering, eight times as large, its ink moved to the middle, and averaged."""
    from PIL import Image, ImageDraw, ImageFont

    characters = "AgR8"
    data = glyphs(600, characters=characters, fonts=(font,))
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    drawer = ImageFont.truetype(file, round(8 * 32 * SCALES[3]), layout_engine=ImageFont.Layout.BASIC)
    still = (data["position_x"] == 0) & (data["position_y"] == 0) & (data["scale"] == 3)
    for item in np.flatnonzero(still)[:8]:
        canvas = Image.new("L", (256, 256))
        ImageDraw.Draw(canvas).text((30, 0), characters[data["y"][item]], 255, drawer)
        left, top, right, bottom = canvas.point(lambda grey: 255 * (grey > 127)).getbbox()
        middled = np.roll(canvas, (128 - (top + bottom) // 2, 128 - (left + right) // 2), axis=(0, 1))
        theirs = middled.reshape(32, 8, 32, 8).mean((1, 3))
        ours = data["x"][item, 0].astype(float)
        assert ours.sum() == pytest.approx(theirs.sum(), rel=0.03)
        assert np.abs(ours - theirs).sum() < 0.08 * theirs.sum()  # half a fine pixel along all edges


def test_place_moves_a_glyph_and_changes_nothing_else():
    data = glyphs(400, characters="AB", fonts=("DejaVuSans", "cmr10"), image_size=24)
    first = {}
    for item in range(400):
        kind = tuple(data[name][item] for name in ("y", "style", "scale"))
        back = np.roll(data["x"][item, 0], (-data["position_y"][item], -data["position_x"][item]), axis=(0, 1))
        np.testing.assert_array_equal(first.setdefault(kind, back), back)
    assert len(first) == 16
    assert len({image.tobytes() for image in first.values()}) == 16
    assert set(data["position_x"]) == {-2, -1, 0, 1, 2}


def test_contents_and_styles_are_independent_and_all_differ():
    data = glyphs(30_000, image_size=16)
    assert are_uniform(data["y"], data["style"], counts=(26, len(FONTS)))
    assert are_uniform(data["scale"], data["position_x"] + 1, counts=(4, 3))
    one_size = (data["scale"] == 3) & (data["position_x"] == 0) & (data["position_y"] == 0)
    seen = {}
    for item in np.flatnonzero(one_size):
        seen.setdefault(data["x"][item].tobytes(), set()).add((data["y"][item], data["style"][item]))
    alike = [kinds for kinds in seen.values() if len(kinds) > 1]
    assert sum(map(len, alike)) < 0.1 * len(seen)
    assert all(len({content for content, _ in kinds}) == 1 for kinds in alike)  # fonts may share a letter


def test_no_glyph_is_cut_off():
    data = glyphs(3000, characters="WMQgjy", image_size=32)
    cut = (data["x"][:, 0, [0, -1]] > 0).any((1, 2)) | (data["x"][:, 0, :, [0, -1]] > 0).any((0, 2))
    assert cut.mean() < 0.02


def test_wrong_glyphs():
    for wrong in (
        {"characters": "AA"},
        {"characters": ""},
        {"characters": "a b"},
        {"fonts": ("Arial",)},
        {"fonts": ()},
    ):
        with pytest.raises(ArgumentError, match=f"{next(iter(wrong))}="):
            glyphs(3, **wrong)


# Fractals -------------------------------------------------------------------------------------------------------------


def test_points_have_the_moments_of_the_invariant_measure():
    """Mean m = sum p (A m + b) and covariance S = sum p (A S A' + d d'), d = A m + b - m."""
    rng = np.random.default_rng(0)
    matrices, shifts = _systems(6, rng)
    points = np.concatenate([_wander(matrices, shifts, rng) for _ in range(30)], axis=1)
    for system, (a, b, p) in enumerate(zip(matrices, shifts, _chances(matrices), strict=True)):
        mean = np.linalg.solve(np.eye(2) - np.einsum("k,kij->ij", p, a), p @ b)
        step = a @ mean + b - mean
        grown = np.einsum("k,kij,klm->iljm", p, a, a).reshape(4, 4)
        covariance = np.linalg.solve(np.eye(4) - grown, np.einsum("k,ki,kj->ij", p, step, step).ravel()).reshape(2, 2)
        scale = np.sqrt(np.trace(covariance))
        np.testing.assert_allclose(points[system].mean(0), mean, atol=0.03 * scale)
        np.testing.assert_allclose(np.cov(points[system].T), covariance, atol=0.04 * scale**2)


def test_sierpinski_triangle():
    """Halving towards three corners never sets the same binary digit in both coordinates."""
    corners = np.array([[[0, 0], [0.5, 0], [0, 0.5], [0, 0]]])
    halves = np.eye(2)[None, None] * np.array([0.5, 0.5, 0.5, 0])[:, None, None]
    points = _wander(halves, corners, np.random.default_rng(1))[0]
    x, y = np.floor(points * 2**12).astype(int).T
    assert (x & y == 0).all()
    assert len(np.unique((x >> 8) * 16 + (y >> 8))) == 3**4


def test_maps_contract_though_they_vary():
    matrices, _ = _systems(40, np.random.default_rng(2))
    singular = np.linalg.svd(matrices)[1]
    assert singular.max() <= 0.85 + 1e-9
    assert ((np.abs(matrices).sum((-1, -2)) > 0).sum(1) >= 2).all()
    frobenius = np.sqrt((matrices**2).sum((-1, -2)))
    assert (singular[..., 0] + 0.12 * frobenius).max() < 1
    np.testing.assert_allclose(_turn(np.array(np.pi / 2)) @ [1, 0], [0, 1], atol=1e-12)


def test_pictures_count_points_in_their_frame():
    points = np.array([[[0, 0], [0, 0], [0, 0], [2, 1.0]]])
    picture = _develop(points, 8)[0]
    assert picture[2, 0] == 255  # x from 0 to 2 fills the frame; y from 0 to 1 is its middle half
    assert picture[6, 7] == round(255 * np.log(2) / np.log(4))
    assert (picture > 0).sum() == 2


def test_systems_can_be_told_apart():
    data = fractals(600, n_classes=8)
    x, y = data["x"].reshape(600, -1) / 255, data["y"]
    assert ((x > 0).mean(1) > 0.03).all()
    means = np.stack([x[:300][y[:300] == label].mean(0) for label in range(8)])
    guess = ((x[300:, None] - means) ** 2).sum(-1).argmin(1)
    assert (guess == y[300:]).mean() > 0.85
    still = fractals(50, n_classes=2, variation=0)
    assert set(still["y"]) == {0, 1}


# Signals --------------------------------------------------------------------------------------------------------------


def angle_between(one, other):
    return np.abs(np.angle(np.exp(1j * (one - other))))


def test_classes_are_kinds_and_frequencies():
    data = signals(6000)
    np.testing.assert_array_equal(data["y"], 3 * data["kind"] + data["frequency"])
    assert are_uniform(data["kind"], data["frequency"], counts=(4, 3))
    np.testing.assert_array_equal(np.isnan(data["phase"]), data["kind"] == 1)
    np.testing.assert_array_equal(np.isnan(data["centre"]), data["kind"] != 3)


def test_sines_show_their_frequency_and_phase():
    data = signals(300, kinds=("sines",), noise=0)
    spectrum = np.fft.rfft(data["x"][:, 0]) / 64
    cycles = 4 * 2 ** data["frequency"]
    np.testing.assert_array_equal(np.abs(spectrum).argmax(1), cycles)
    for times, amplitude in ((1, 1), (2, 0.5)):
        wave = spectrum[np.arange(300), times * cycles]
        np.testing.assert_allclose(np.abs(wave), amplitude, atol=1e-4)
        # the transform of sin(w t + p) has angle p - pi / 2
        assert angle_between(np.angle(wave) + np.pi / 2, times * data["phase"]).max() < 1e-3


def test_chirps_rise_by_an_octave():
    from scipy.signal import hilbert

    data = signals(200, kinds=("chirp",), noise=0, length=1024)
    turned = np.unwrap(np.angle(hilbert(data["x"][:, 0])), axis=1)
    cycles = 4 * 2 ** data["frequency"]
    for share in (0.25, 0.5, 0.75):  # away from the ends, which the transform joins
        middle = int(share * 1024)
        rate = (turned[:, middle + 20] - turned[:, middle - 20]) / 40 * 1024 / (2 * np.pi)
        np.testing.assert_allclose(rate, cycles * (1 + share), rtol=0.05)
    expected = 2 * np.pi * cycles * (0.5 + 0.125) + data["phase"] - np.pi / 2
    assert np.median(angle_between(turned[:, 512], expected)) < 0.05


def test_bursts_lie_where_and_as_said():
    data = signals(300, kinds=("burst",), noise=0, length=512)
    x, time = data["x"][:, 0].astype(float), np.arange(512) / 512
    cycles = 4.0 * 2 ** data["frequency"]
    energy = (x**2).sum(1)
    centre = (x**2 @ time) / energy
    width = np.sqrt((x**2 * (time - centre[:, None]) ** 2).sum(1) / energy)
    assert np.abs(centre - data["centre"]).max() < 0.01
    np.testing.assert_allclose(width, 1 / (2 * cycles) / np.sqrt(2), rtol=0.2)  # the square of a Gaussian is narrower
    wave = (x * np.exp(-2j * np.pi * cycles[:, None] * (time - data["centre"][:, None]))).sum(1)
    assert angle_between(np.angle(wave) + np.pi / 2, data["phase"]).max() < 0.02


def test_autoregression_has_its_closed_form_correlations():
    data = signals(6000, kinds=("autoregression",), noise=0, length=256)
    for frequency in range(3):
        x = data["x"][data["frequency"] == frequency, 0].astype(float)
        angle = 2 * np.pi * 4 * 2**frequency / 256
        np.testing.assert_allclose((x**2).mean(0), 1, atol=0.16)  # from the first sample on
        expected = [1, 2 * 0.95 * np.cos(angle) / (1 + 0.95**2)]
        for lag in range(2, 40):
            expected.append(2 * 0.95 * np.cos(angle) * expected[lag - 1] - 0.95**2 * expected[lag - 2])
        found = [(x[:, : 256 - lag] * x[:, lag:]).mean() for lag in range(40)]
        np.testing.assert_allclose(found, expected, atol=0.03)


def test_noise_is_added():
    quiet, loud = (signals(400, kinds=("sines",), noise=noise)["x"] for noise in (0, 0.5))
    assert (loud - quiet).std() == pytest.approx(0.5, rel=0.02)
    assert np.abs((loud - quiet).mean()) < 0.01


def test_wrong_settings_are_said():
    for call, message in (
        (lambda: signals(5, length=100), "length=100: expected at least 128"),
        (lambda: signals(5, kinds=("sine",)), "did you mean 'sines'"),
        (lambda: signals(5, kinds=()), "kinds"),
        (lambda: fractals(5, variation=0.5), "variation=0.5"),
        (lambda: two_view_latents(5, dim=3), "dim=3: expected at least"),
        (lambda: two_view_latents(5, noise=0), "noise=0"),
        (lambda: gaussian_mixture(5, imbalance=0.5), "imbalance=0.5"),
        (lambda: gaussian_mixture(5, n_clusters=0), "n_clusters=0"),
        (lambda: shapes(5, image_size=8), "image_size=8"),
    ):
        with pytest.raises(ArgumentError, match=message):
            call()
    assert sum(LEVELS.values()) == 7 + 6 + 16 + 8 + 8 + 8
