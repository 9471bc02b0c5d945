"""Drawn scenes of one to three shapes that words describe exactly: for composition, binding and segmentation."""

from __future__ import annotations

from typing import Any

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
from tacit.errors import expect, unknown

__all__ = ["COMPOSITION_WORDS", "composition_prompt", "compositions"]

Array = np.ndarray

FACTORS: dict[str, tuple[str, ...]] = {
    "shape": ("square", "triangle", "cross", "ring"),
    "colour": ("red", "yellow", "green", "blue"),
    "texture": ("plain", "striped"),
    "place": ("top-left", "top-right", "bottom-left", "bottom-right"),
}
"""Factor -> its values, in the order of their numbers: those that can still be told apart on eight by eight pixels."""

MOST_OBJECTS = 3
COMPOSITION_WORDS = ("", *(word for words in FACTORS.values() for word in words))
"""The vocabulary: token number -> word. Token 0 says nothing: it pads, and alone it is the empty prompt."""

FIRST = dict(zip(FACTORS, 1 + np.cumsum([0, *map(len, FACTORS.values())]), strict=False))
"""Factor -> token number of its first value."""

RADIUS = (0.185, 0.23)
"""Of the objects, in image widths."""
WANDER = 0.03
"""How far a centre lies from that of its quarter at most, in image widths."""
TURN = 0.35
"""Of a shape at most, in radians."""
SCALE = (0.45, 0.6)
"""Of the textures: stripes are about four pixels wide on sixteen, and can be seen."""
STYLES = ("studio", "daylight", "paper", "outdoors")
GREYS = {"studio": (24, 72), "daylight": (72, 128), "paper": (176, 232)}
LIT = ("daylight", "outdoors")
"""Styles whose light slants."""


def compositions(
    n: int,
    *,
    seed: int = 0,
    image_size: int = 16,
    n_objects: int | tuple[int, int] = 2,
    style: str = "studio",
) -> dict[str, Array]:
    """Scenes of one to three shapes, each with a colour and a texture in a quarter of its own, and their description.

    Objects are drawn in no order: the first has any shape and any quarter. The shapes of a scene differ from each
    other, and so do its colours and its places; apart from that all factors are uniform and independent. Position
    within the quarter, size, turn, the stripes' direction and tone, the ground, light and sensor noise vary beside
    them. No object hides another. Every machine draws the same.

    Tokens describe a scene as a set of phrases, one an object: four words, for shape, colour, texture and place.

    Args:
        n: number of scenes.
        seed: at least 0.
        image_size: side in pixels, at least 12.
        n_objects: how many objects, or fewest and most, from 1 to 3.
        style: `"studio"`: a dark grey ground; `"daylight"`: one of middle grey, under slanting light; `"paper"`: a
            light one; `"outdoors"`: on grass, sand, brick..., under slanting light. The objects are the same ones.

    Returns:
        x uint8 (n, 3, image_size, image_size); tokens int64 (n, 12), three phrases of four words of
        `COMPOSITION_WORDS`, 0 where there is no object; shape, colour, texture and place int64 (n, most), values by
        number, -1 where there is no object; count int64 (n,), the objects; instance uint8 (n, image_size, image_size),
        0 on the ground, else 1 + the object; segments int64 of the same shape, 0 on the ground, else 1 + the shape;
        y int64 (n,), the shape of the first object.

    Raises:
        ArgumentError: a number out of range, or an unknown style.

    >>> data = compositions(4, n_objects=(1, 3))
    >>> data["x"].shape, data["segments"].shape, data["tokens"].shape
    ((4, 3, 16, 16), (4, 16, 16), (4, 12))
    >>> " ".join(COMPOSITION_WORDS[token] for token in data["tokens"][0]).strip()
    'cross green plain top-left square red striped top-right'
    """
    fewest, most = (n_objects, n_objects) if isinstance(n_objects, int) else n_objects
    expect("n", n, n >= 1, "at least 1 item")
    expect("seed", seed, seed >= 0, "0 or more")
    expect("image_size", image_size, image_size >= 12, "at least 12 pixels", "smaller pictures hide the shapes")
    range_ = "1 to 3, or (fewest, most)"
    expect("n_objects", n_objects, 1 <= fewest <= most <= MOST_OBJECTS, range_)
    if style not in STYLES:
        raise unknown("style", style, STYLES)
    chance = _Chance(seed, 5)
    counts = fewest + chance.pick(n, most - fewest + 1)
    factors = _factors(n, most, counts, chance)
    objects = [_object({name: values[:, k] for name, values in factors.items()}, chance) for k in range(most)]
    ground = _ground(n, style, chance)
    x = np.empty((n, 3, image_size, image_size), np.uint8)
    instance = np.zeros((n, image_size, image_size), np.uint8)
    for start in range(0, n, CHUNK):
        part = slice(start, start + CHUNK)
        canvas = _paint_ground(ground[part], style, image_size)
        for number, drawn in enumerate(objects):
            rows = np.flatnonzero(counts[part] > number)
            _lay(canvas, instance[part], drawn[part][rows], rows, number)
        canvas *= _light(ground[part], image_size)
        x[part] = np.rint(np.clip(canvas + _sensor_noise(chance, canvas.shape), 0, 255))
    shapes = np.concatenate([np.zeros((n, 1), np.int64), 1 + factors["shape"]], axis=1)
    return {
        "x": x,
        "tokens": _tokens(factors),
        **factors,
        "count": counts,
        "instance": instance,
        "segments": shapes[np.arange(n)[:, None, None], instance],
        "y": factors["shape"][:, 0].copy(),
    }


def composition_prompt(*objects: str) -> Array:
    """Token numbers (12,) of up to three phrases in the words of `COMPOSITION_WORDS`; what is left out may be anything.

    Raises:
        ArgumentError: more than three phrases, an unknown word, or two words of one factor in a phrase.

    >>> composition_prompt("red square top-left", "ring").tolist()
    [1, 5, 0, 11, 4, 0, 0, 0, 0, 0, 0, 0]
    """
    expect("objects", len(objects), len(objects) <= MOST_OBJECTS, f"at most {MOST_OBJECTS} phrases")
    tokens = np.zeros((MOST_OBJECTS, len(FACTORS)), np.int64)
    for phrase, row in zip(objects, tokens, strict=False):
        for word in phrase.split():
            if word not in COMPOSITION_WORDS:
                raise unknown("word", word, COMPOSITION_WORDS[1:])
            column = next(i for i, words in enumerate(FACTORS.values()) if word in words)
            expect("phrase", phrase, row[column] == 0, "one word for each factor")
            row[column] = COMPOSITION_WORDS.index(word)
    return tokens.flatten()


def _factors(n: int, most: int, counts: Array, chance: _Chance) -> dict[str, Array]:
    """Factor -> values of the objects, (n, most); -1 where there is no object."""
    there = np.arange(most) < counts[:, None]
    found = {}
    for name, values in FACTORS.items():
        if name == "texture":
            drawn = chance.pick(n * most, len(values)).reshape(n, most)
        else:  # each value once in a scene
            drawn = chance.words(n * len(values)).reshape(n, -1).argsort(1, kind="stable")[:, :most].astype(np.int64)
        found[name] = np.where(there, drawn, -1)
    return found


def _tokens(factors: dict[str, Array]) -> Array:
    """(n, 3 phrases of 4 words)."""
    n, most = factors["shape"].shape
    words = [np.where(values >= 0, FIRST[name] + values, 0) for name, values in factors.items()]
    tokens = np.zeros((n, MOST_OBJECTS, len(FACTORS)), np.int64)
    tokens[:, :most] = np.stack(words, axis=2)
    return tokens.reshape(n, -1)


def _object(factors: dict[str, Array], chance: _Chance) -> Array:
    """One object for each scene; in scenes without it any."""
    n = len(factors["shape"])
    drawn = np.zeros(n, _SCENE)
    kinds: dict[str, Any] = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES}
    for name, known in kinds.items():
        numbers = np.array([list(known).index(value) for value in FACTORS[name]])
        drawn[name] = numbers[factors[name]]
    drawn["radius"] = chance.uniform(n, *RADIUS)
    column, row = factors["place"] % 2, factors["place"] // 2
    drawn["u"] = 0.25 + 0.5 * column + chance.uniform(n, -WANDER, WANDER)
    drawn["v"] = 0.25 + 0.5 * row + chance.uniform(n, -WANDER, WANDER)
    drawn["cos"], drawn["sin"] = chance.direction(n, TURN)
    drawn["texture_cos"], drawn["texture_sin"] = chance.direction(n, np.pi)
    drawn["texture_scale"] = chance.uniform(n, *SCALE)
    drawn["tint"] = chance.pick(n, 2)
    drawn["b"] = chance.uniform(n)
    drawn["key"] = chance.words(n) >> np.uint64(32)
    return drawn


def _ground(n: int, style: str, chance: _Chance) -> Array:
    """What the ground and the light of each scene are; `a` is the grey of a studio or of paper, from 0 to 1."""
    ground = np.zeros(n, _SCENE)
    ground["place"] = chance.pick(n, len(PLACES))
    ground["a"], ground["b"] = chance.uniform(n), chance.uniform(n)
    ground["key"] = chance.words(n) >> np.uint64(32)
    slopes, gain = ((-0.3, 0.3), (0.72, 1.08)) if style in LIT else ((-0.1, 0.1), (0.9, 1.05))
    ground["gain"] = chance.uniform(n, *gain)
    for slope in ("slope_u", "slope_v"):
        ground[slope] = chance.uniform(n, *slopes)
    return ground


def _paint_ground(ground: Array, style: str, size: int) -> Array:
    canvas = np.empty((len(ground), 3, size, size), np.float32)
    if style == "outdoors":
        u, v = _grid(size)
        _by_kind(list(PLACES.values()), ground["place"], canvas, lambda place, rows: place(u, v, ground[rows]))
        return canvas
    low, high = GREYS[style]
    canvas[:] = (low + (high - low) * ground["a"])[:, None, None, None]
    return canvas


def _lay(canvas: Array, instance: Array, drawn: Array, rows: Array, number: int) -> None:
    """Lay one object over each of these rows."""
    distance = _distance(drawn, canvas.shape[-1])
    covered = _coverage(distance)
    painted = _paint(drawn, canvas.shape[-1], distance)
    canvas[rows] += (painted - canvas[rows]) * covered[:, None]
    instance[rows] = np.where(covered >= 0.5, number + 1, instance[rows])


def _light(ground: Array, size: int) -> Array:
    """A gain and a slope of brightness: (m, 1, size, size)."""
    u, v = _grid(size)
    gain, right, down = (ground[name][:, None, None] for name in ("gain", "slope_u", "slope_v"))
    return (gain * (1 + right * (u - 0.5) + down * (v - 0.5)))[:, None]
