"""Drawn clips: a textured shape on its way over a place that drifts and changes, with the pixels it covers."""

from __future__ import annotations

from collections.abc import Callable

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

__all__ = ["clips"]

Array = np.ndarray

RADIUS = (0.14, 0.26)
"""Of the shapes, in image widths."""
SPEED = (0.02, 0.06)
"""Image widths from frame to frame."""
SPIN = 0.12
"""Radians from frame to frame, at most."""


def clips(
    n: int,
    *,
    seed: int = 0,
    image_size: int = 32,
    n_frames: int = 12,
    drift: float = 0.01,
    flicker: float = 0.05,
) -> dict[str, Array]:
    """Frames of clips, each a moving shape in one of several moving places: for object discovery in video.

    Shape, colour, texture and place are drawn uniformly and independently for each clip. The shape crosses the picture
    on a straight line, turns back at its border, and turns and grows or shrinks a little on the way. The camera drifts
    over the place, whose waves, ripples and rows of bricks move by themselves; the light flickers, the shape throws a
    soft shadow and the sensor is noisy. So what differs from a clip's background is not the shape alone. Every machine
    draws the same.

    Args:
        n: frames in all; clips follow one another, and the last one may be cut short.
        image_size: side in pixels, at least 16.
        n_frames: frames of a clip, at least 2.
        drift: of the camera, in image widths from frame to frame at most; 0 stands still.
        flicker: how far a frame's brightness may lie from the clip's, as a share of it.

    Returns:
        x uint8 (n, 3, image_size, image_size); y uint8 (n, image_size, image_size), 1 where at least half of a pixel is
        the shape's; int64 (n,): clip and frame, from 0, and shape, colour, texture and place, by number.

    Raises:
        ArgumentError: a number out of range.

    >>> data = clips(24, n_frames=12)
    >>> data["x"].shape, data["y"].shape, data["clip"].tolist()[11:13]
    ((24, 3, 32, 32), (24, 32, 32), [0, 1])
    >>> bool((data["y"].mean((1, 2)) > 0).all())
    True
    """
    expect("n", n, n >= 1, "at least 1 frame")
    expect("seed", seed, seed >= 0, "0 or more")
    expect("image_size", image_size, image_size >= 16, "at least 16 pixels", "smaller pictures hide the shapes")
    expect("n_frames", n_frames, n_frames >= 2, "at least 2 frames")
    expect("drift", drift, 0 <= drift <= 0.5 / n_frames, f"0 to {0.5 / n_frames:g} with this many frames")
    expect("flicker", flicker, 0 <= flicker <= 0.3, "0 to 0.3")
    chance = _Chance(seed, 6)
    scenes, pan = _plan(-(-n // n_frames), n_frames, drift, flicker, chance)
    scenes, pan = scenes.reshape(-1)[:n], pan.reshape(-1, 2)[:n]
    x, y = np.empty((n, 3, image_size, image_size), np.uint8), np.empty((n, image_size, image_size), np.uint8)
    for start in range(0, n, CHUNK):
        part = slice(start, start + CHUNK)
        canvas, covered = _draw(scenes[part], pan[part], image_size)
        x[part] = np.rint(np.clip(canvas + _sensor_noise(chance, canvas.shape), 0, 255))
        y[part] = covered >= 0.5
    number = np.arange(n)
    factors = {name: scenes[name].copy() for name in ("shape", "colour", "texture", "place")}
    return {"x": x, "y": y, "clip": number // n_frames, "frame": number % n_frames, **factors}


def _plan(n: int, frames: int, drift: float, flicker: float, chance: _Chance) -> tuple[Array, Array]:
    """What each frame of each clip shows, (n, frames), and where the camera has drifted to, (n, frames, 2)."""
    clip = np.zeros(n, _SCENE)
    for factor, kinds in (("shape", SHAPES), ("colour", COLOURS), ("texture", TEXTURES), ("place", PLACES)):
        clip[factor] = chance.pick(n, len(kinds))
    clip["texture_cos"], clip["texture_sin"] = chance.direction(n, np.pi)
    clip["texture_scale"], clip["tint"] = chance.uniform(n, 0.8, 1.25), chance.pick(n, 2)
    clip["slope_u"], clip["slope_v"] = chance.uniform(n, -0.3, 0.3), chance.uniform(n, -0.3, 0.3)
    clip["a"], clip["key"] = chance.uniform(n), chance.words(n) >> np.uint64(32)
    scenes, time = np.repeat(clip[:, None], frames, axis=1), np.arange(frames)

    radius, growth = chance.uniform(n, *RADIUS), chance.uniform(n, -0.3, 0.3)
    scenes["radius"] = radius[:, None] * (1 + growth[:, None] * (time / max(frames - 1, 1) - 0.5))
    speed, (right, down) = chance.uniform(n, *SPEED), chance.direction(n, np.pi)
    for axis, way in (("u", right), ("v", down)):
        there = chance.uniform(n)[:, None] + (speed * way)[:, None] * time / 0.7
        scenes[axis] = 0.15 + 0.7 * _back_and_forth(there)
    start, spin = chance.uniform(n, -np.pi, np.pi), chance.uniform(n, -SPIN, SPIN)
    angle = start[:, None] + spin[:, None] * time
    # on a grid that hides how a machine rounds them, as `_Chance.direction` has it
    scenes["cos"], scenes["sin"] = np.rint(np.cos(angle) * 4096) / 4096, np.rint(np.sin(angle) * 4096) / 4096
    scenes["b"] = chance.uniform(n)[:, None] + chance.uniform(n, -0.03, 0.03)[:, None] * time
    gain = chance.uniform(n, 0.75, 1.05)[:, None]
    scenes["gain"] = gain * (1 + flicker * chance.uniform(n * frames, -1, 1).reshape(n, frames))
    ways = [chance.uniform(n, -drift, drift)[:, None] * time for _ in "uv"]
    # never below 0, where a place draws its clouds anew
    pan = np.stack([way - way.min(axis=1, keepdims=True) for way in ways], axis=2)
    return scenes, pan.astype(np.float32)


def _back_and_forth(t: Array) -> Array:
    """0 to 1 and back, a triangle of period 2."""
    return 1 - np.abs(t - 2 * np.floor(t / 2) - 1)


def _draw(scenes: Array, pan: Array, size: int) -> tuple[Array, Array]:
    """The frames without noise, float32 (m, 3, size, size), and the share of each pixel that the shape covers."""
    u, v = _grid(size)
    canvas = np.empty((len(scenes), 3, size, size), np.float32)

    def behind(place: Callable[..., Array], rows: Array) -> Array:
        return place(u + pan[rows, 0, None, None], v + pan[rows, 1, None, None], scenes[rows])

    _by_kind(list(PLACES.values()), scenes["place"], canvas, behind)
    distance = _distance(scenes, size)
    covered = _coverage(distance)
    canvas *= (1 - 0.5 * np.clip(1 - distance / np.float32(0.06), 0, 1))[:, None]
    canvas += (_paint(scenes, size, distance) - canvas) * covered[:, None]
    slope = 1 + sum(scenes[name][:, None, None] * (at - 0.5) for name, at in (("slope_u", u), ("slope_v", v)))
    return canvas * (slope * scenes["gain"][:, None, None])[:, None], covered
