"""Pictures that tacit draws itself: one shape with a colour and a texture, in one of several places.

Every machine draws the same bits: chance comes from PCG64's raw words, whose stream numpy guarantees, and pixels are
made of operations that IEEE 754 rounds exactly (no sine, exponential or matrix product of whole pictures).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tacit.errors import expect

__all__ = ["Drawn", "draw_scenes", "load_demo"]

Array = np.ndarray

CHUNK = 64
"""Pictures drawn at a time, so that the intermediate arrays stay in the processor's cache."""


@dataclass
class Drawn:
    """Pictures with all that is known about them.

    Attributes:
        images: uint8 (n, c, h, w).
        labels: factor -> n values; an empty string where the picture has none.
        captions: n texts, or None.
        planted: what was put in on purpose. `exact` and `near`: pairs (original, copy) of item numbers; `blank` and
            `inverted`: item numbers.
    """

    images: Array
    labels: dict[str, list[str]]
    captions: list[str] | None = None
    planted: dict[str, list[Any]] = field(default_factory=dict)


def load_demo() -> Drawn:
    """The demonstration set: 4,000 pictures of 64 x 64 pixels, as `draw_scenes()` draws them."""
    return draw_scenes()


def draw_scenes(n: int = 4000, size: int = 64, seed: int = 0) -> Drawn:
    """Draw `n` pictures of one shape each, the same on every machine.

    Shape, colour, texture and place are drawn independently and uniformly, and are the labels. Position, size,
    rotation, the texture's direction and scale, light and sensor noise vary beside them, so that raw pixels say little
    about shape.

    For a report to find, each thousand pictures holds 5 exact copies of another one, 5 near copies (moved by less than
    a pixel at size 64, a little darker, other noise), 1 blank picture of one grey, which has no labels, and 1 whose
    pixels are inverted, which has no colour or place, since it no longer shows its own; `planted` lists them.

    Args:
        n: number of pictures, at least 1.
        size: side in pixels, at least 16.
        seed: at least 0.

    Returns:
        images uint8 (n, 3, size, size), the labels `shape`, `colour`, `texture` and `place`, captions, and `planted`.

    Raises:
        ArgumentError: a number out of range.

    >>> drawn = draw_scenes(3, size=32)
    >>> drawn.images.shape, sorted(drawn.labels)
    ((3, 3, 32, 32), ['colour', 'place', 'shape', 'texture'])
    >>> drawn.captions[0]
    'a red dotted cross on a brick wall'
    """
    expect("n", n, n >= 1, "at least 1 picture")
    expect("size", size, size >= 16, "at least 16 pixels", "smaller pictures hide the shapes")
    expect("seed", seed, seed >= 0, "0 or more")
    scenes, planted = _plan(n, seed)
    images = _render_all(scenes, size, seed)
    labels = {factor: [names[kind] for kind in scenes[factor]] for factor, names in _NAMES.items()}
    captions = [_caption(*factors) for factors in zip(*labels.values(), strict=True)]
    _plant(planted, images, labels, captions)
    return Drawn(images, labels, captions, planted)


# What a scene is made of ----------------------------------------------------------------------------------------------

COLOURS = {
    "red": (216, 36, 44),
    "orange": (246, 138, 26),
    "yellow": (250, 222, 50),
    "green": (38, 166, 78),
    "blue": (44, 88, 220),
    "purple": (136, 62, 190),
    "pink": (246, 128, 182),
    "white": (246, 246, 242),
}

_SCENE = np.dtype(
    [
        *((factor, np.int64) for factor in ("shape", "colour", "texture", "place")),
        *((name, np.float32) for name in ("u", "v", "radius", "cos", "sin")),  # the shape; lengths in picture widths
        *((name, np.float32) for name in ("texture_cos", "texture_sin", "texture_scale")),
        *((name, np.float32) for name in ("gain", "slope_u", "slope_v")),  # light
        *((name, np.float32) for name in ("a", "b")),  # what varies in a texture or place
        ("tint", np.bool_),  # the texture's second tone is lighter, not darker
        ("key", np.uint32),  # of what `_scatter` draws
    ]
)


class _Chance:
    """Uniform numbers from raw 64-bit words, since numpy's own distributions may change between its versions."""

    def __init__(self, seed: int, stream: int) -> None:
        self._words = np.random.PCG64(np.random.SeedSequence([seed, stream]))

    def words(self, n: int) -> Array:
        return np.asarray(self._words.random_raw(n), dtype="<u8")

    def uniform(self, n: int, low: float = 0.0, high: float = 1.0) -> Array:
        return low + (high - low) * ((self.words(n) >> np.uint64(11)) * 2.0**-53)

    def pick(self, n: int, choices: int) -> Array:
        return (self.uniform(n) * choices).astype(np.int64)

    def direction(self, n: int, limit: float) -> tuple[Array, Array]:
        """Cosine and sine of angles in (-limit, limit), on a grid that hides how a machine rounds them."""
        angle = self.uniform(n, -limit, limit)
        return np.rint(np.cos(angle) * 4096) / 4096, np.rint(np.sin(angle) * 4096) / 4096

    def order(self, n: int) -> Array:
        return np.argsort(self.words(n), kind="stable")


def _plan(n: int, seed: int) -> tuple[Array, dict[str, list[Any]]]:
    """Draw what each picture shows, and which ones are planted."""
    chance = _Chance(seed, 0)
    scenes = np.zeros(n, _SCENE)
    for factor, names in _NAMES.items():
        scenes[factor] = chance.pick(n, len(names))
    scenes["radius"] = chance.uniform(n, 0.20, 0.36)
    for centre in ("u", "v"):
        scenes[centre] = 0.5 + (0.5 - scenes["radius"]) * chance.uniform(n, -0.8, 0.8)
    scenes["cos"], scenes["sin"] = chance.direction(n, 0.6)
    scenes["texture_cos"], scenes["texture_sin"] = chance.direction(n, np.pi)
    scenes["texture_scale"] = chance.uniform(n, 0.8, 1.25)
    scenes["tint"] = chance.pick(n, 2)
    scenes["gain"] = chance.uniform(n, 0.72, 1.08)
    for slope in ("slope_u", "slope_v"):
        scenes[slope] = chance.uniform(n, -0.3, 0.3)
    scenes["a"], scenes["b"] = chance.uniform(n), chance.uniform(n)
    scenes["key"] = chance.words(n) >> np.uint64(32)

    sizes = [n // 200] * 4 + [n // 1000] * 2
    twins, exact, models, near, blank, inverted, _ = np.split(chance.order(n), np.cumsum(sizes))
    scenes[exact], scenes[near] = scenes[twins], scenes[models]
    scenes["u"][near] += np.float32(0.01)
    scenes["gain"][near] *= np.float32(0.96)
    planted: dict[str, list[Any]] = {
        "exact": sorted(zip(twins.tolist(), exact.tolist(), strict=True)),
        "near": sorted(zip(models.tolist(), near.tolist(), strict=True)),
        "blank": sorted(blank.tolist()),
        "inverted": sorted(inverted.tolist()),
    }
    return scenes, planted


def _plant(planted: dict[str, list[Any]], images: Array, labels: dict[str, list[str]], captions: list[str]) -> None:
    for original, copy in planted["exact"]:
        images[copy] = images[original]
    for number, item in enumerate(planted["blank"]):
        images[item] = 16 + 224 * number // len(planted["blank"])
        captions[item] = "a blank picture"
        for values in labels.values():
            values[item] = ""
    for item in planted["inverted"]:
        images[item] = 255 - images[item]
        captions[item] = f"the negative of a {labels['texture'][item]} {labels['shape'][item]}"
        labels["colour"][item] = labels["place"][item] = ""


def _caption(shape: str, colour: str, texture: str, place: str) -> str:
    words = " ".join(word for word in (colour, "" if texture == "plain" else texture, shape) if word)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words} {_WHERE[place]}"


# Drawing --------------------------------------------------------------------------------------------------------------


def _render_all(scenes: Array, size: int, seed: int) -> Array:
    noise = _Chance(seed, 1)
    images = np.empty((len(scenes), 3, size, size), np.uint8)
    for start in range(0, len(scenes), CHUNK):
        chunk = scenes[start : start + CHUNK]
        canvas = _render(chunk, size) + _sensor_noise(noise, (len(chunk), 3, size, size))
        images[start : start + CHUNK] = np.rint(np.clip(canvas, 0, 255))
    return images


def _render(scenes: Array, size: int) -> Array:
    """The pictures without noise: float32 (m, 3, size, size), 0 to 255 and perhaps beyond."""
    u, v = _grid(size)
    canvas = np.empty((len(scenes), 3, size, size), np.float32)
    _by_kind(list(PLACES.values()), scenes["place"], canvas, lambda place, rows: place(u, v, scenes[rows]))
    distance = _distance(scenes, size)
    canvas *= (1 - 0.5 * np.clip(1 - distance / np.float32(0.06), 0, 1))[:, None]  # a soft shadow sets the shape off
    canvas += (_paint(scenes, size, distance) - canvas) * _coverage(distance)[:, None]
    light = 1 + _each(scenes, "slope_u") * (u - 0.5) + _each(scenes, "slope_v") * (v - 0.5)
    return canvas * (light * _each(scenes, "gain"))[:, None]


def _distance(scenes: Array, size: int) -> Array:
    """How far each pixel lies outside the shape, in picture widths, negative inside: float32 (m, size, size)."""
    x, y = _local(scenes, size, "cos", "sin")
    out = np.empty_like(x)
    _by_kind(list(SHAPES.values()), scenes["shape"], out, lambda shape, rows: shape(x[rows], y[rows]))
    return out * _each(scenes, "radius")


def _coverage(distance: Array) -> Array:
    """The share of each pixel that the shape covers."""
    return np.clip(0.5 - distance * distance.shape[-1], 0, 1)


def _paint(scenes: Array, size: int, distance: Array) -> Array:
    """The shape's surface: its colour, and by the texture a darker or a lighter tone of it; darker towards the rim."""
    x, y = _local(scenes, size, "texture_cos", "texture_sin")
    x, y = x * _each(scenes, "texture_scale"), y * _each(scenes, "texture_scale")
    pattern = np.empty_like(x)
    kinds = scenes["texture"]
    _by_kind(list(TEXTURES.values()), kinds, pattern, lambda texture, rows: texture(x[rows], y[rows], scenes[rows]))
    colour = np.asarray(list(COLOURS.values()), np.float32)[scenes["colour"]]
    pale = colour.min(1, keepdims=True) > 200
    other = np.where(scenes["tint"][:, None] & ~pale, 0.3 * colour + 0.7 * 255, 0.42 * colour).astype(np.float32)
    rim = 1 - 0.35 * np.clip(1 + distance / np.float32(0.035), 0, 1)
    return _mix(colour, other, pattern) * rim[:, None]


def _by_kind(functions: Sequence[Callable], kinds: Array, out: Array, draw: Callable[[Callable, Array], Array]) -> None:
    for kind, function in enumerate(functions):
        rows = np.flatnonzero(kinds == kind)
        if len(rows):
            out[rows] = draw(function, rows)


def _grid(size: int) -> tuple[Array, Array]:
    """Pixel centres in picture widths: u rightwards (1, 1, size), v downwards (1, size, 1)."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return centres[None, None, :], centres[None, :, None]


def _local(scenes: Array, size: int, cos: str, sin: str) -> tuple[Array, Array]:
    """Pixel centres as the shape sees them: turned, from its centre, in radii."""
    u, v = _grid(size)
    right, down = (u - _each(scenes, "u")) / _each(scenes, "radius"), (v - _each(scenes, "v")) / _each(scenes, "radius")
    c, s = _each(scenes, cos), _each(scenes, sin)
    return c * right + s * down, c * down - s * right


def _each(scenes: Array, name: str) -> Array:
    return scenes[name][:, None, None]


def _mix(first: Any, second: Any, share: Array) -> Array:
    """From `first` to `second`, colours (3,) or (m, 3), as `share` (m, h, w) goes from 0 to 1."""
    first, second = (np.asarray(colour, np.float32).reshape(-1, 3, 1, 1) for colour in (first, second))
    return first + (second - first) * share[:, None]


def _over(canvas: Array, colour: Any, share: Array) -> Array:
    """Lay `colour` over the canvas (m, 3, h, w)."""
    return canvas + (np.asarray(colour, np.float32).reshape(3, 1, 1) - canvas) * share[:, None]


def _wave(t: Array) -> Array:
    """A sine made of parabolas: period 1, from -1 to 1."""
    x = 2 * (t - np.floor(t)) - 1
    return 4 * x * (np.abs(x) - 1)


def _scatter(x: Array, y: Array, scenes: Array, salt: int = 0) -> Array:
    """A number in [0, 1) for each unit cell of (x, y), other ones in each picture."""
    column, row = (np.floor(t).astype(np.int32).view(np.uint32) for t in (x, y))
    bits = (column * 0x9E3779B1) ^ (row * 0x85EBCA77) ^ (_each(scenes, "key") + np.uint32(salt * 0x632BE5AB % 2**32))
    bits = (bits ^ (bits >> 15)) * 0x2C1B3C6D
    bits = (bits ^ (bits >> 12)) * 0x297A2D39
    return ((bits ^ (bits >> 15)) >> 8).astype(np.float32) * np.float32(2.0**-24)


def _sensor_noise(chance: _Chance, shape: tuple[int, ...]) -> Array:
    """Triangular noise from -8 to 8, deviation 3.3: the difference of two bytes each."""
    pixels = int(np.prod(shape))
    octets = chance.words(-(-2 * pixels // 8)).view(np.uint8)[: 2 * pixels].astype(np.float32)
    return ((octets[:pixels] - octets[pixels:]) * np.float32(8 / 256)).reshape(shape)


# Shapes: how far (x, y) lies outside, in radii; y points down --------------------------------------------------------


def _circle(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - np.float32(0.9)


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.8)


def _triangle(x: Array, y: Array) -> Array:
    """Equilateral, its corners 1.1 from the centre, the middles of its sides 0.55."""
    return np.maximum(y, np.float32(0.8660254) * np.abs(x) - np.float32(0.5) * y) - np.float32(0.55)


def _star(x: Array, y: Array) -> Array:
    """The pentagram: a point is inside if it is within at least four of the five lines."""
    first = second = np.full_like(x, -np.inf)
    for right, down in _PENTAGON:
        outside = right * x + down * y
        first, second = np.maximum(first, outside), np.maximum(second, np.minimum(first, outside))
    return second - np.float32(1.15 * 0.30901699)


_PENTAGON = (
    (0.0, 1.0),
    (0.95105652, 0.30901699),
    (-0.95105652, 0.30901699),
    (0.58778525, -0.80901699),
    (-0.58778525, -0.80901699),
)
"""The normals of the pentagram's lines; its tips are 1.15 from the centre, the lines 1.15 cos 72 degrees."""


def _cross(x: Array, y: Array) -> Array:
    across, along = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
    return np.maximum(along - np.float32(0.95), across - np.float32(0.32))


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.72)) - np.float32(0.24)


def _heart(x: Array, y: Array) -> Array:
    """A square on its corner, and a circle on each of its two upper sides, 2a long."""
    a, x, y = np.float32(0.62), np.abs(x), y + np.float32(0.14)
    c = a * np.float32(0.70710678)
    square = (x + np.abs(y) - 2 * c) * np.float32(0.70710678)
    circle = np.sqrt((x - c) ** 2 + (y + c) ** 2) - a
    return np.minimum(square, circle)


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
}


# Textures: the share of the second tone at (x, y) in radii ----------------------------------------------------------


def _plain(x: Array, y: Array, scenes: Array) -> Array:
    return np.zeros_like(x)


def _striped(x: Array, y: Array, scenes: Array) -> Array:
    return np.clip(0.5 + 2 * _wave(1.7 * x + _each(scenes, "b")), 0, 1)


def _checked(x: Array, y: Array, scenes: Array) -> Array:
    return np.clip(0.5 + 3 * _wave(1.15 * x + _each(scenes, "b")) * _wave(1.15 * y), 0, 1)


def _dotted(x: Array, y: Array, scenes: Array) -> Array:
    across, down = 2.2 * x + _each(scenes, "b"), 2.2 * y
    across, down = across - np.floor(across) - 0.5, down - np.floor(down) - 0.5
    return np.clip(0.5 + 6 * (0.29 - np.sqrt(across * across + down * down)), 0, 1)


def _grainy(x: Array, y: Array, scenes: Array) -> Array:
    return _scatter(8 * x, 8 * y, scenes, 1)


TEXTURES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "plain": _plain,
    "striped": _striped,
    "checked": _checked,
    "dotted": _dotted,
    "grainy": _grainy,
}


# Places: colours (m, 3, h, w) over the picture (u, v) -----------------------------------------------------------------


def _sky(u: Array, v: Array, scenes: Array) -> Array:
    canvas = _mix((70, 140, 220), (190, 224, 246), v)
    for cloud in range(4):
        middle, height, chance = (_scatter(u[..., :1], v[:, :1], scenes, 10 * cloud + salt) for salt in range(3))
        width = 0.14 + 0.14 * chance
        far = ((u - middle) / width) ** 2 + ((v - height) / (0.4 * width)) ** 2
        canvas = _over(canvas, (252, 253, 255), np.clip(1.3 - 1.3 * far, 0, 0.9))
    return canvas


def _sea(u: Array, v: Array, scenes: Array) -> Array:
    horizon = 0.2 + 0.2 * _each(scenes, "a")
    depth = np.clip((v - horizon) / (1 - horizon), 0, 1)
    ripple = _wave(9 * np.sqrt(depth) + 0.25 * _wave(2 * u + _each(scenes, "b")) + _each(scenes, "b"))
    water = _mix((40, 140, 160), (8, 72, 104), depth) + (16 * ripple)[:, None]
    air = _mix((150, 196, 226), (250, 232, 210), np.clip(v / horizon, 0, 1))
    return np.where((v < horizon)[:, None], air, water)


def _grass(u: Array, v: Array, scenes: Array) -> Array:
    lean = 2 * _wave(u + _each(scenes, "b"))
    blade = _scatter(36 * u + lean * v, 0 * v, scenes, 5)
    tuft = _scatter(36 * u + lean * v, 9 * v + 9 * blade, scenes, 6)
    return _mix((126, 176, 72), (44, 108, 40), v) * (0.72 + 0.5 * tuft)[:, None]


def _sand(u: Array, v: Array, scenes: Array) -> Array:
    slant = 0.5 * (_each(scenes, "a") - 0.5)
    ripple = _wave(9 * (v + slant * u) + 0.5 * _wave(1.5 * u + _each(scenes, "b")) + 4 * _each(scenes, "b"))
    grains = _scatter(64 * u, 64 * v, scenes, 7)
    return _mix((206, 172, 118), (240, 218, 170), 0.5 + 0.4 * ripple) * (0.92 + 0.14 * grains)[:, None]


def _night(u: Array, v: Array, scenes: Array) -> Array:
    canvas = _mix((8, 10, 38), (48, 40, 96), v)
    across, down = 11 * u, 11 * v
    far = np.sqrt((across - np.floor(across) - 0.5) ** 2 + (down - np.floor(down) - 0.5) ** 2)
    twinkle = np.clip(6 * _scatter(across, down, scenes, 8) - 4.6, 0, 1)
    canvas = _over(canvas, (255, 250, 225), twinkle * np.clip(1.3 - 5 * far, 0, 1))
    moon = np.sqrt((u - 0.1 - 0.8 * _each(scenes, "a")) ** 2 + (v - 0.1 - 0.25 * _each(scenes, "b")) ** 2)
    return _over(canvas, (246, 240, 208), np.clip(0.5 + 60 * (0.075 - moon), 0, 1))


def _brick(u: Array, v: Array, scenes: Array) -> Array:
    down = 8 * v + _each(scenes, "a")
    course = np.floor(down)
    across = 4 * u + _each(scenes, "b") + 0.5 * (course - 2 * np.floor(course / 2))
    edge = np.minimum(0.5 - np.abs(down - course - 0.5), 2 * (0.5 - np.abs(across - np.floor(across) - 0.5)))
    brick = _mix((138, 74, 60), (182, 110, 86), _scatter(across, down, scenes, 9))
    return _over(brick, (204, 194, 182), np.clip(0.5 + 8 * (0.09 - edge), 0, 1))


PLACES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "sky": _sky,
    "sea": _sea,
    "grass": _grass,
    "sand": _sand,
    "night": _night,
    "brick": _brick,
}

_WHERE = {
    "sky": "in the sky",
    "sea": "over the sea",
    "grass": "on the grass",
    "sand": "on the sand",
    "night": "at night",
    "brick": "on a brick wall",
}

_NAMES = {"shape": list(SHAPES), "colour": list(COLOURS), "texture": list(TEXTURES), "place": list(PLACES)}
