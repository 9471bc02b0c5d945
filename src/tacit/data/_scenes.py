"""Drawn scenes of several textured shapes that hide each other, with the class and the object of every pixel."""

from __future__ import annotations

import math

import numpy as np

from tacit.data._drawn import (
    _SCENE,
    CHUNK,
    COLOURS,
    PLACES,
    SHAPES,
    TEXTURES,
    _by_kind,
    _Chance,
    _coverage,
    _distance,
    _grid,
    _paint,
    _sensor_noise,
)
from tacit.errors import expect

__all__ = ["OBJECT_COLUMNS", "scenes"]

Array = np.ndarray

OBJECT_COLUMNS = ("class", "u", "v", "radius", "cos", "sin", "colour", "texture", "visible")
"""What each row of the column `objects` holds: class number; centre (rightwards, downwards) and radius in image widths;
cosine and sine of the clockwise turn; colour and texture, by number; and the pixels that nothing hides."""

RADIUS = (0.18, 0.32)
"""Of the objects, in image widths."""
REACH = 1.15
"""How far a shape extends from its centre, in radii: the tips of the star."""
SHADOW = 0.06
"""How far an object's shadow falls, in image widths."""


def scenes(
    n: int,
    *,
    seed: int = 0,
    image_size: int = 48,
    n_classes: int = 6,
    n_objects: tuple[int, int] = (3, 5),
    contrast: float = 0.4,
) -> dict[str, Array]:
    """Several textured shapes in one of several places, some partly hidden or cut by the frame: for segmentation,
    object discovery and concepts.

    A pixel's class is the shape that it belongs to, 0 for the ground. The colours and textures of the objects are drawn
    uniformly and independently of shape, and so is the place, one of those of `draw_scenes`; position, size, turn, the
    texture's direction and scale, light and sensor noise vary beside them. So colour says little of the class: a linear
    probe on the raw colour of each pixel, fitted on 200 scenes, has a mean IoU of 0.12, and one on all 8 x 8 pixels
    around it no more, where the answer "ground" everywhere has 0.10 (32 pixels). Every machine draws the same.

    Args:
        image_size: side in pixels, at least 24.
        n_classes: classes of `segments`, the ground among them: the first n_classes - 1 of circle, square, triangle,
            star, cross, ring, heart; 2 to 8.
        n_objects: fewest and most objects of a scene, 1 to 20.
        contrast: of the objects' textures, from 0 (none) to 1 (that of `draw_scenes`); the more, the harder shapes are
            to see.

    Returns:
        x uint8 (n, 3, image_size, image_size); segments int64 (n, image_size, image_size), the class of each pixel;
        instance uint8 of the same shape: 0 on the ground, else 1 + the object's row in `objects`; objects float32
        (n, most, 9), the farthest first, 0 where there is none: see `tacit.data.OBJECT_COLUMNS`; int64 (n,): place,
        by number; y, the class, from 1, that covers most pixels beside the ground.

    Raises:
        ArgumentError: a number out of range.

    >>> data = scenes(4, image_size=32)
    >>> data["x"].shape, data["segments"].shape, data["objects"].shape
    ((4, 3, 32, 32), (4, 32, 32), (4, 5, 9))
    >>> bool((data["segments"].max((1, 2)) <= 5).all())
    True
    """
    expect("n", n, n >= 1, "at least 1 item")
    expect("seed", seed, seed >= 0, "0 or more")
    expect("image_size", image_size, image_size >= 24, "at least 24 pixels", "smaller pictures hide the shapes")
    expect("n_classes", n_classes, 2 <= n_classes <= len(SHAPES) + 1, f"2 to {len(SHAPES) + 1}, the ground among them")
    fewest, most = n_objects
    expect("n_objects", n_objects, 1 <= fewest <= most <= 20, "(fewest, most) from 1 to 20")
    expect("contrast", contrast, 0 <= contrast <= 1, "0 to 1")
    chance = _Chance(seed, 4)
    ground = _ground(n, chance)
    counts = fewest + chance.pick(n, most - fewest + 1)
    objects = [_object(n, n_classes, chance) for _ in range(most)]
    light = {name: chance.uniform(n, *limits).astype(np.float32) for name, limits in _LIGHT.items()}
    x = np.empty((n, 3, image_size, image_size), np.uint8)
    instance = np.zeros((n, image_size, image_size), np.uint8)
    for start in range(0, n, CHUNK):
        part = slice(start, start + CHUNK)
        canvas = _paint_ground(ground[part], image_size)
        for number, drawn in enumerate(objects):
            rows = np.flatnonzero(counts[part] > number)
            _lay(canvas, instance[part], drawn[part][rows], rows, number, contrast)
        canvas *= _shine({name: values[part] for name, values in light.items()}, image_size)
        x[part] = np.rint(np.clip(canvas + _sensor_noise(chance, canvas.shape), 0, 255))
    table = _table(objects, counts, instance)
    classes = np.concatenate([np.zeros((n, 1), np.int64), table[:, :, 0].astype(np.int64)], axis=1)
    segments = classes[np.arange(n)[:, None, None], instance]
    areas = np.stack([(segments == k).sum((1, 2)) for k in range(1, n_classes)], axis=1)
    return {
        "x": x,
        "segments": segments,
        "instance": instance,
        "objects": table,
        "place": ground["place"].copy(),
        "y": 1 + areas.argmax(1),
    }


_LIGHT = {"gain": (0.72, 1.08), "slope_u": (-0.3, 0.3), "slope_v": (-0.3, 0.3)}


def _ground(n: int, chance: _Chance) -> Array:
    """The place of each scene, and what varies in it."""
    ground = np.zeros(n, _SCENE)
    ground["place"] = chance.pick(n, len(PLACES))
    ground["a"], ground["b"] = chance.uniform(n), chance.uniform(n)
    ground["key"] = chance.words(n) >> np.uint64(32)
    return ground


def _object(n: int, n_classes: int, chance: _Chance) -> Array:
    """One object for each scene."""
    drawn = np.zeros(n, _SCENE)
    drawn["shape"] = chance.pick(n, n_classes - 1)
    drawn["colour"], drawn["texture"] = chance.pick(n, len(COLOURS)), chance.pick(n, len(TEXTURES))
    drawn["u"], drawn["v"] = chance.uniform(n, 0.05, 0.95), chance.uniform(n, 0.05, 0.95)
    drawn["radius"] = chance.uniform(n, *RADIUS)
    drawn["cos"], drawn["sin"] = chance.direction(n, np.pi)
    drawn["texture_cos"], drawn["texture_sin"] = chance.direction(n, np.pi)
    drawn["texture_scale"] = chance.uniform(n, 0.8, 1.25)
    drawn["tint"] = chance.pick(n, 2)
    drawn["b"] = chance.uniform(n)
    drawn["key"] = chance.words(n) >> np.uint64(32)
    return drawn


def _paint_ground(ground: Array, size: int) -> Array:
    canvas = np.empty((len(ground), 3, size, size), np.float32)
    u, v = _grid(size)
    _by_kind(list(PLACES.values()), ground["place"], canvas, lambda place, rows: place(u, v, ground[rows]))
    return canvas


def _lay(canvas: Array, instance: Array, drawn: Array, rows: Array, number: int, contrast: float) -> None:
    """Lay one object over each of these rows, within the window that holds it."""
    size = canvas.shape[-1]
    side = min(size, math.ceil(2 * (REACH * RADIUS[1] + SHADOW) * size) + 2)
    corner = {axis: np.clip(np.floor(drawn[axis] * size - side / 2), 0, size - side) for axis in "uv"}
    across, down = (corner[axis].astype(np.int64)[:, None] + np.arange(side) for axis in "uv")
    place = rows[:, None, None], down[:, :, None], across[:, None, :]

    window = drawn.copy()  # the object as a picture of the window's size has it
    window["radius"] *= np.float32(size / side)
    for axis in "uv":
        window[axis] = (drawn[axis] * size - corner[axis]) / side
    inside = _distance(window, side)
    covered, distance = _coverage(inside), inside * np.float32(side / size)

    channels = place[0][..., None], np.arange(3), place[1][..., None], place[2][..., None]
    under = canvas[channels].transpose(0, 3, 1, 2)
    under = under * (1 - 0.5 * np.clip(1 - distance / np.float32(SHADOW), 0, 1))[:, None]
    painted = under + (_surface(window, side, distance, contrast) - under) * covered[:, None]
    canvas[channels] = painted.transpose(0, 2, 3, 1)
    instance[place] = np.where(covered >= 0.5, number + 1, instance[place])


def _surface(scene: Array, size: int, distance: Array, contrast: float) -> Array:
    """As `_paint` has it, with textures of this contrast."""
    rim = 1 - 0.35 * np.clip(1 + distance / np.float32(0.035), 0, 1)
    flat = np.asarray(list(COLOURS.values()), np.float32)[scene["colour"]][..., None, None] * rim[:, None]
    return flat + np.float32(contrast) * (_paint(scene, size, distance) - flat)


def _shine(light: dict[str, Array], size: int) -> Array:
    """A gain and a slope of brightness for each scene: (m, 1, size, size)."""
    u, v = _grid(size)
    gain, right, down = (light[name][:, None, None] for name in _LIGHT)
    return (gain * (1 + right * (u - 0.5) + down * (v - 0.5)))[:, None]


def _table(objects: list[Array], counts: Array, instance: Array) -> Array:
    """The column `objects`."""
    table = np.zeros((len(counts), len(objects), len(OBJECT_COLUMNS)), np.float32)
    for number, drawn in enumerate(objects):
        visible = (instance == number + 1).sum((1, 2))
        columns = [drawn["shape"] + 1, *(drawn[name] for name in OBJECT_COLUMNS[1:-1]), visible]
        table[:, number] = np.where((counts > number)[:, None], np.stack(columns, axis=1), 0)
    return table
