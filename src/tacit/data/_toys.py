"""Drawn data whose truth is known: clusters, two views of one latent, shapes, fractals, signals (and `_glyphs`).

Each generator is `generator(n, *, seed=0, ...) -> columns`, every column with one row an item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tacit.data._drawn import _SCENE, CHUNK, COLOURS, SHAPES, _Chance, _coverage, _distance
from tacit.errors import expect, unknown

__all__ = ["fractals", "gaussian_mixture", "shapes", "signals", "two_view_latents"]

Array = np.ndarray
Columns = dict[str, Array]


def _check(n: int, seed: int) -> None:
    expect("n", n, n >= 1, "at least 1 item")
    expect("seed", seed, seed >= 0, "0 or more")


# Clusters -------------------------------------------------------------------------------------------------------------


def gaussian_mixture(
    n: int, *, seed: int = 0, n_clusters: int = 5, dim: int = 2, separation: float = 4.0, imbalance: float = 1.0
) -> Columns:
    """Round Gaussian clusters of standard deviation 1 in every direction.

    Up to dim + 1 clusters stand on a regular simplex: any two means are `separation` apart. More of them are spread
    out so that the closest two are. Two equally frequent clusters are told apart with accuracy Phi(separation / 2)
    at best, Phi the normal distribution function.

    Args:
        n_clusters: at least 1.
        dim: at least 1.
        separation: distance of the closest means, in standard deviations; at least 0.
        imbalance: how much more frequent the first cluster is than the last; between them frequencies fall
            geometrically. At least 1.

    Returns:
        x float32 (n, dim); y int64 (n,), the cluster; mean float32 (n, dim), the mean of its cluster.

    Raises:
        ArgumentError: a number out of range.

    >>> data = gaussian_mixture(100, n_clusters=3, dim=8)
    >>> {name: column.shape for name, column in data.items()}
    {'x': (100, 8), 'y': (100,), 'mean': (100, 8)}
    """
    _check(n, seed)
    expect("n_clusters", n_clusters, n_clusters >= 1, "at least 1 cluster")
    expect("dim", dim, dim >= 1, "at least 1 dimension")
    expect("separation", separation, separation >= 0, "0 or more standard deviations")
    expect("imbalance", imbalance, imbalance >= 1, "1 (all alike) or more")
    chance = np.random.default_rng(seed)
    means = separation * _spread(n_clusters, dim, chance)
    share = imbalance ** -np.linspace(0, 1, n_clusters)
    y = chance.choice(n_clusters, n, p=share / share.sum())
    x = means[y] + chance.standard_normal((n, dim))
    return {"x": x.astype(np.float32), "y": y.astype(np.int64), "mean": means[y].astype(np.float32)}


def _spread(count: int, dim: int, chance: np.random.Generator) -> Array:
    """Points (count, dim) around 0, turned at random, the closest two 1 apart."""
    if count <= dim + 1:
        corners = np.eye(count) / np.sqrt(2)  # 1 apart
        axes = np.linalg.svd(corners - corners.mean(0))[2][: count - 1]  # of the flat space they lie in
        return (corners - corners.mean(0)) @ axes.T @ _orthonormal(dim, count - 1, chance).T
    candidates = chance.uniform(-1, 1, (50 * count, dim))
    chosen, distance = [0], np.linalg.norm(candidates - candidates[0], axis=1)
    while len(chosen) < count:  # the candidate that is farthest from all chosen ones
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(candidates - candidates[chosen[-1]], axis=1))
    points = candidates[chosen]
    pairs = np.linalg.norm(points[:, None] - points, axis=-1)[np.triu_indices(count, 1)]
    return (points - points.mean(0)) / pairs.min()


def _orthonormal(rows: int, columns: int, chance: np.random.Generator) -> Array:
    """A uniformly drawn matrix (rows, columns) with orthonormal columns, columns <= rows."""
    q, r = np.linalg.qr(chance.standard_normal((rows, columns)))
    return q * np.sign(np.diag(r))


# Two views ------------------------------------------------------------------------------------------------------------


def two_view_latents(
    n: int,
    *,
    seed: int = 0,
    dim: int = 10,
    shared_dim: int = 2,
    private_dim: int = 2,
    noise: float = 0.5,
    nonlinear: bool = False,
) -> Columns:
    """Two views of one latent, each with a private part and noise:

        a = f_a(A [z; u] + noise * e),   b = f_b(B [z; v] + noise * e'),   z, u, v, e, e' standard normal,

    A and B with orthonormal columns. In the linear case f_a and f_b are identities; in the nonlinear one they are
    invertible networks (two layers of a rotation and x -> x + sin(x) / 2), which leave the information as it is:

        I(a; b) = -shared_dim / 2 * log(1 - rho^2) nats,   rho = 1 / (1 + noise^2),
        I(a; z) = I(b; z) = shared_dim / 2 * log(1 + 1 / noise^2) nats.

    rho is each of the `shared_dim` canonical correlations of the linear case; the others are 0.

    Args:
        dim: dimensions of each view, at least shared_dim + private_dim.
        shared_dim, private_dim: dimensions of z, and of u and v; at least 1, and at least 0.
        noise: standard deviation, above 0.

    Returns:
        float32: a and b (n, dim), z (n, shared_dim), private_a and private_b (n, private_dim).

    Raises:
        ArgumentError: a number out of range.

    References:
        Bach and Jordan, A probabilistic interpretation of canonical correlation analysis (2005).

    >>> data = two_view_latents(100, dim=6)
    >>> data["a"].shape, data["z"].shape
    ((100, 6), (100, 2))
    """
    _check(n, seed)
    expect("shared_dim", shared_dim, shared_dim >= 1, "at least 1 dimension")
    expect("private_dim", private_dim, private_dim >= 0, "0 or more dimensions")
    expect(
        "dim", dim, dim >= shared_dim + private_dim, f"at least shared_dim + private_dim = {shared_dim + private_dim}"
    )
    expect("noise", noise, noise > 0, "a standard deviation above 0", "without noise the information is infinite")
    chance = np.random.default_rng(seed)
    z = chance.standard_normal((n, shared_dim))
    columns = {"z": z}
    for view in ("a", "b"):
        private = chance.standard_normal((n, private_dim))
        mixing = _orthonormal(dim, shared_dim + private_dim, chance)
        observed = np.hstack([z, private]) @ mixing.T + noise * chance.standard_normal((n, dim))
        for rotation in (_orthonormal(dim, dim, chance) for _ in range(2 if nonlinear else 0)):
            observed = observed @ rotation.T
            observed += np.sin(observed) / 2  # rising, since its slope is 1/2 or more
        columns |= {view: observed, f"private_{view}": private}
    return {name: column.astype(np.float32) for name, column in columns.items()}


# Shapes ---------------------------------------------------------------------------------------------------------------

LEVELS = {"shape": len(SHAPES), "scale": 6, "orientation": 16, "position_x": 8, "position_y": 8, "colour": len(COLOURS)}
"""How many values each factor of `shapes` takes."""


def shapes(
    n: int, *, seed: int = 0, image_size: int = 64, colour: bool = True, factors: Mapping[str, Any] | None = None
) -> Columns:
    """One flat shape on black, drawn from independent, uniform factors: for disentanglement, as dSprites.

    | factor                 | values | of                                                                     |
    |------------------------|--------|------------------------------------------------------------------------|
    | y: the shape           | 7      | circle, square, triangle, star, cross, ring, heart                     |
    | scale                  | 6      | radius 0.10, 0.12 ... 0.20 image widths                                |
    | orientation            | 16     | turns of 1/16, clockwise; some shapes look alike in several            |
    | position_x, position_y | 8, 8   | centre at 1/4 + value / 14 image widths, rightwards and downwards      |
    | colour                 | 8      | red, orange, yellow, green, blue, purple, pink, white (which it is     |
    |                        |        | without `colour`)                                                      |

    Pixels hold the share of their area that is covered; every machine draws the same.

    Args:
        image_size: side in pixels, at least 16.
        colour: three channels; else one, white, and no factor of that name.
        factors: factor -> a value, or n of them, for those that are not to be drawn (`shape` for y).

    Returns:
        x uint8 (n, 3 or 1, image_size, image_size), and int64 (n,) for each factor.

    Raises:
        ArgumentError: a number out of range, or an unknown factor.

    References:
        Matthey, Higgins, Hassabis and Lerchner, dSprites (2017).

    >>> data = shapes(4, image_size=32, factors={"shape": 0, "scale": [0, 1, 2, 3]})
    >>> data["x"].shape, data["y"], data["scale"]
    ((4, 3, 32, 32), array([0, 0, 0, 0]), array([0, 1, 2, 3]))
    """
    _check(n, seed)
    expect("image_size", image_size, image_size >= 16, "at least 16 pixels")
    values = _factors(n, seed, colour, factors or {})
    scenes = np.zeros(n, _SCENE)
    scenes["shape"], scenes["radius"] = values["shape"], 0.1 + 0.02 * values["scale"]
    angle = 2 * np.pi / LEVELS["orientation"] * values["orientation"]
    scenes["cos"], scenes["sin"] = np.cos(angle), np.sin(angle)
    scenes["u"], scenes["v"] = (0.25 + values[f"position_{axis}"] / 14 for axis in "xy")
    tone = (
        np.array(list(COLOURS.values()), np.float32)[values["colour"]] if colour else np.full((n, 1), 255, np.float32)
    )
    x = np.empty((n, tone.shape[1], image_size, image_size), np.uint8)
    for start in range(0, n, CHUNK):
        part = slice(start, start + CHUNK)
        covered = np.rint(256 * _coverage(_distance(scenes[part], image_size))) / 256  # hides how a machine rounds
        x[part] = np.rint(tone[part, :, None, None] * covered[:, None])
    return {"x": x, "y": values.pop("shape"), **values}


def _factors(n: int, seed: int, colour: bool, given: Mapping[str, Any]) -> Columns:
    levels = {name: count for name, count in LEVELS.items() if colour or name != "colour"}
    for name, values in given.items():
        if name not in levels:
            raise unknown("factors", name, levels)
        ok = np.size(values) in (1, n) and np.all((np.asarray(values) >= 0) & (np.asarray(values) < levels[name]))
        expect(f"factors[{name!r}]", values, bool(ok), f"0 to {levels[name] - 1}, one value or n of them")
    chance = _Chance(seed, 2)
    drawn = {name: chance.pick(n, count) for name, count in levels.items()}
    fixed = {name: np.broadcast_to(np.ravel(values), n).astype(np.int64) for name, values in given.items()}
    return drawn | fixed


# Fractals -------------------------------------------------------------------------------------------------------------

CHAINS, STEPS, SETTLING = 64, 48, 16
"""Points that wander side by side in each picture, steps that are drawn, and steps before those."""


def fractals(n: int, *, seed: int = 0, n_classes: int = 10, image_size: int = 32, variation: float = 0.1) -> Columns:
    """Attractors of iterated function systems: pictures of natural complexity that nobody had to collect.

    A system is 2 to 4 contracting affine maps of the plane. A point to which one of them is applied again and again,
    each drawn with a probability proportional to the map's change of area, fills the attractor. Each item varies its
    class's system a little; its picture, fitted to the frame, is bright where the points come often.

    Args:
        n_classes: systems, drawn by the seed; those that fill too little of the frame are drawn again. At least 1.
        image_size: side in pixels, at least 8.
        variation: largest relative change of each number of a system, from 0 to 0.12.

    Returns:
        x uint8 (n, 1, image_size, image_size); y int64 (n,), the system.

    Raises:
        ArgumentError: a number out of range.

    References:
        Barnsley, Fractals Everywhere (1988); Kataoka et al., Pre-training without natural images (2020), for learning
        from them; Anderson and Farrell, Improving fractal pre-training (2022), for drawing maps by singular values.

    >>> data = fractals(6, n_classes=3)
    >>> data["x"].shape, data["y"].shape
    ((6, 1, 32, 32), (6,))
    """
    _check(n, seed)
    expect("n_classes", n_classes, n_classes >= 1, "at least 1 system")
    expect("image_size", image_size, image_size >= 8, "at least 8 pixels")
    expect("variation", variation, 0 <= variation <= 0.12, "0 to 0.12", "beyond, maps no longer contract")
    chance = np.random.default_rng(seed)
    matrices, shifts = _systems(n_classes, chance)
    y = chance.integers(0, n_classes, n)
    x = np.empty((n, 1, image_size, image_size), np.uint8)
    for start in range(0, n, 512):
        part = y[start : start + 512]
        a, b = (
            values[part] * (1 + variation * chance.uniform(-1, 1, values[part].shape)) for values in (matrices, shifts)
        )
        x[start : start + 512, 0] = _develop(_wander(a, b, chance), image_size)
    return {"x": x, "y": y}


def _systems(count: int, chance: np.random.Generator) -> tuple[Array, Array]:
    """Matrices (count, 4, 2, 2) and shifts (count, 4, 2); a system of fewer maps has matrices of 0 behind them.

    Of ten times as many, the first ones whose picture fills an eighth of the frame, else those that fill most.
    """
    tried = 10 * count
    turns = 2 * np.pi * chance.random((2, tried, 4))
    singular = np.sort(chance.uniform(0.2, 0.85, (tried, 4, 2)))[..., ::-1]
    mirrored = np.stack([np.ones((tried, 4)), chance.choice([-1, 1], (tried, 4))], axis=-1)
    matrices = (_turn(turns[0]) * (singular * mirrored)[..., None, :]) @ _turn(turns[1])
    matrices[np.arange(4) >= chance.integers(2, 5, tried)[:, None]] = 0
    shifts = chance.uniform(-1, 1, (tried, 4, 2))
    filled = (_develop(_wander(matrices, shifts, chance), 32) > 0).mean((1, 2))
    best = np.argsort(-np.minimum(filled, 1 / 8), kind="stable")[:count]
    return matrices[best], shifts[best]


def _turn(angles: Array) -> Array:
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)


def _chances(matrices: Array) -> Array:
    """How likely each map is, (m, 4): proportional to |det|, at least 0.02 for maps that are there."""
    there = np.abs(matrices).sum((-2, -1)) > 0
    share = np.where(there, np.maximum(np.abs(np.linalg.det(matrices)), 0.02), 0)
    return share / share.sum(1, keepdims=True)


def _wander(matrices: Array, shifts: Array, chance: np.random.Generator) -> Array:
    """Points of each system's attractor: (m, CHAINS * STEPS, 2)."""
    m, limits = len(matrices), np.cumsum(_chances(matrices), axis=1)[:, :3, None]
    a, b, c, d = matrices.reshape(-1, 4).T
    right, down = shifts.reshape(-1, 2).T
    x = y = np.zeros((m, CHAINS))
    points = np.empty((m, STEPS, CHAINS, 2))
    for step in range(-SETTLING, STEPS):
        drawn = chance.random((m, CHAINS))
        chosen = 4 * np.arange(m)[:, None] + sum(drawn >= limits[:, k] for k in range(3))
        x, y = a[chosen] * x + b[chosen] * y + right[chosen], c[chosen] * x + d[chosen] * y + down[chosen]
        if step >= 0:
            points[:, step, :, 0], points[:, step, :, 1] = x, y
    return points.reshape(m, -1, 2)


def _develop(points: Array, size: int) -> Array:
    """How often points (m, k, 2) fall on each pixel, on a logarithmic scale: uint8 (m, size, size)."""
    low, high = points.min(1, keepdims=True), points.max(1, keepdims=True)
    extent = np.maximum((high - low).max(-1, keepdims=True), 1e-9)
    place = (points - (low + high) / 2) / extent + 0.5  # in [0, 1], the shape as it is
    column, row = np.minimum((place * size).astype(np.int64), size - 1).transpose(2, 0, 1)
    pixel = (np.arange(len(points))[:, None] * size + row) * size + column
    count = np.bincount(pixel.ravel(), minlength=len(points) * size * size).reshape(-1, size, size)
    light = np.log1p(count)
    return np.rint(255 * light / light.max((1, 2), keepdims=True)).astype(np.uint8)


# Signals --------------------------------------------------------------------------------------------------------------

KINDS = ("sines", "autoregression", "chirp", "burst")
RADIUS = 0.95
"""Of the autoregression's poles: its memory is about 1 / (1 - RADIUS) = 20 steps."""


def signals(
    n: int,
    *,
    seed: int = 0,
    length: int = 128,
    n_frequencies: int = 3,
    noise: float = 0.1,
    kinds: Sequence[str] = KINDS,
) -> Columns:
    """Time series of several kinds at several frequencies f = 4, 8, 16, ... cycles a series, at a phase of their own.

    With t from 0 to 1 along the series, p the phase, c the centre and white noise added to all:

        sines             sin(2 pi f t + p) + sin(2 (2 pi f t + p)) / 2
        autoregression    x_k = 2 r cos(w) x_{k-1} - r^2 x_{k-2} + e_k, r = 0.95, w = 2 pi f / length, variance 1
        chirp             sin(2 pi f (t + t^2 / 2) + p): from frequency f to 2 f
        burst             exp(-(t - c)^2 / (2 s^2)) sin(2 pi f (t - c) + p), s = 1 / (2 f)

    Args:
        length: samples, at least 32 times 2^(n_frequencies - 1), so that the highest frequency keeps 4 to a cycle.
        n_frequencies: at least 1.
        noise: its standard deviation, 0 or more.
        kinds: which there are, in the order of their numbers.

    Returns:
        x float32 (n, 1, length); y int64, kind * n_frequencies + frequency; kind and frequency int64 (0 for 4 cycles);
        phase in [0, 2 pi) and centre in [1/4, 3/4] float32, NaN where a kind has none.

    Raises:
        ArgumentError: a number out of range, or an unknown kind.

    >>> data = signals(10)
    >>> data["x"].shape, sorted(data)
    ((10, 1, 128), ['centre', 'frequency', 'kind', 'phase', 'x', 'y'])
    """
    _check(n, seed)
    for name in kinds:
        if name not in KINDS:
            raise unknown("kinds", name, KINDS)
    expect("kinds", kinds, len(kinds) >= 1, "at least one kind")
    expect("n_frequencies", n_frequencies, n_frequencies >= 1, "at least 1 frequency")
    least = 32 * 2 ** (n_frequencies - 1)
    expect("length", length, length >= least, f"at least {least} samples for {n_frequencies} frequencies")
    expect("noise", noise, noise >= 0, "0 or more")
    chance = np.random.default_rng(seed)
    kind, frequency = chance.integers(0, len(kinds), n), chance.integers(0, n_frequencies, n)
    phase, centre = 2 * np.pi * chance.random(n), chance.uniform(0.25, 0.75, n)
    which = np.array(kinds)[kind]
    x = noise * chance.standard_normal((n, length))
    for name in kinds:
        rows = which == name
        x[rows] += _signal(name, 4.0 * 2 ** frequency[rows], phase[rows], centre[rows], length, chance)
    phase[which == "autoregression"] = np.nan
    centre[which != "burst"] = np.nan
    return {
        "x": x[:, None].astype(np.float32),
        "y": kind * n_frequencies + frequency,
        "kind": kind,
        "frequency": frequency,
        "phase": phase.astype(np.float32),
        "centre": centre.astype(np.float32),
    }


def _signal(
    kind: str, frequency: Array, phase: Array, centre: Array, length: int, chance: np.random.Generator
) -> Array:
    """Without noise, (m, length); frequency in cycles, phase and centre each (m,)."""
    f, p, c, t = frequency[:, None], phase[:, None], centre[:, None], np.arange(length) / length
    if kind == "sines":
        return np.sin(2 * np.pi * f * t + p) + np.sin(2 * (2 * np.pi * f * t + p)) / 2
    if kind == "chirp":
        return np.sin(2 * np.pi * f * (t + t**2 / 2) + p)
    if kind == "burst":
        return np.exp(-2 * ((t - c) * f) ** 2) * np.sin(2 * np.pi * f * (t - c) + p)
    return _autoregression(2 * np.pi * frequency / length, length, chance)


def _autoregression(angle: Array, length: int, chance: np.random.Generator) -> Array:
    """AR(2) of variance 1 with poles RADIUS exp(+-i angle), (m, length), started from its stationary state.

    Its variance is s^2 (1 + r^2) / ((1 - r^2) (1 + r^4 - 2 r^2 cos 2w)) and its first autocorrelation
    2 r cos(w) / (1 + r^2) (Box and Jenkins, section 3.2).
    """
    square = RADIUS**2
    first = 2 * RADIUS * np.cos(angle)
    variance = (1 + square) / ((1 - square) * (1 + square**2 - 2 * square * np.cos(2 * angle)))
    correlation = first / (1 + square)
    push = chance.standard_normal((length, len(angle)))
    push[2:] /= np.sqrt(variance)
    x = np.empty_like(push)
    x[0] = push[0]
    x[1] = correlation * x[0] + np.sqrt(1 - correlation**2) * push[1]
    for step in range(2, length):
        x[step] = first * x[step - 1] - square * x[step - 2] + push[step]
    return x.T
