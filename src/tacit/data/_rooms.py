"""Pairs of pictures of one room from two places, with depth and pose, by casting rays: for vision in three dimensions.

Lengths are in metres. A camera looks along its z axis, x points right and y down, as in OpenCV; the world's y axis
points down too, and the floor lies at y = 0. Directions of rays have z = 1 in their camera, so that the place where one
hits is its depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tacit.errors import expect

__all__ = ["rooms"]

Array = np.ndarray
CHUNK = 32
"""Scenes cast at a time, so that the intermediate arrays stay in the processor's cache."""

WAVES = 3
"""Waves in each texture."""


def rooms(
    n: int,
    *,
    seed: int = 0,
    image_size: int = 32,
    n_boxes: int = 2,
    n_spheres: int = 2,
    field_of_view: float = 70.0,
    motion: float = 1.0,
) -> dict[str, Array]:
    """Two views of a textured room with boxes and spheres, each item another room.

    The room is 4 to 7 m wide and long and 2.4 to 3.2 m high. Each wall and each thing in it has a texture of its own,
    smooth waves of 0.6 to 1.2 m in three dimensions, greyish on walls and colourful on things. The light comes from
    above: floors are bright, ceilings dark; a point has one colour from wherever it is seen. The first camera stands
    1.2 to 1.8 m above the floor and looks across the room; the second is 0.2 to 0.8 m beside it and looks at the same
    place, 2.5 m ahead of the first, within 8 degrees. By default it sees four fifths of what the first sees (`seen`),
    and less than half in one pair of a hundred.

    A pixel shows the point that its middle looks at: in column j and row i, with f = 1 / tan(field_of_view / 2),

        ((2 (j + 1/2) / image_size - 1) / f, (2 (i + 1/2) / image_size - 1) / f, 1) * depth

    in the coordinates of the camera.

    Args:
        image_size: side in pixels, at least 8.
        n_boxes, n_spheres: things in the room, 0 or more of each.
        field_of_view: from the left to the right border, in degrees, from 20 to 120.
        motion: what the second camera's distance and turn are multiplied with, from 0 (it stands where the first does,
            and looks the same way) to 1.25.

    Returns:
        x and x2 uint8 (n, 3, image_size, image_size), the two views; depth float32 (n, image_size, image_size) of the
        first, along its axis; pose float32 (n, 4, 4), which takes a point (x, y, z, 1) in the coordinates of the
        first camera to those of the second; seen bool (n, image_size, image_size): which points of the first view the
        second sees.

    Raises:
        ArgumentError: a number out of range.

    >>> pairs = rooms(4)
    >>> {name: column.shape for name, column in pairs.items() if name != "seen"}
    {'x': (4, 3, 32, 32), 'x2': (4, 3, 32, 32), 'depth': (4, 32, 32), 'pose': (4, 4, 4)}
    """
    expect("n", n, n >= 1, "at least 1 item")
    expect("seed", seed, seed >= 0, "0 or more")
    expect("image_size", image_size, image_size >= 8, "at least 8 pixels")
    expect("n_boxes", n_boxes, n_boxes >= 0, "0 or more")
    expect("n_spheres", n_spheres, n_spheres >= 0, "0 or more")
    expect("field_of_view", field_of_view, 20 <= field_of_view <= 120, "20 to 120 degrees")
    expect("motion", motion, 0 <= motion <= 1.25, "0 to 1.25", "farther off, the camera could leave the room")
    chance = np.random.default_rng(seed)
    drawn = [
        _look(*_draw(min(CHUNK, n - start), n_boxes, n_spheres, motion, chance), image_size, field_of_view)
        for start in range(0, n, CHUNK)
    ]
    return {name: np.concatenate([part[name] for part in drawn]) for name in drawn[0]}


# What is there --------------------------------------------------------------------------------------------------------


@dataclass
class Scenes:
    """m rooms and what stands in them; surfaces count from the six walls on, then boxes, then spheres."""

    low: Array
    """(m, 3), a corner of the room; the opposite one is `high`."""
    high: Array
    box_centre: Array
    """(m, boxes, 3), with `box_half`, half its sides, and `box_yaw` (m, boxes), its turn about the vertical."""
    box_half: Array
    box_yaw: Array
    sphere_centre: Array
    """(m, spheres, 3), with `sphere_radius` (m, spheres)."""
    sphere_radius: Array
    light: Array
    """(m, 3), of length 1."""
    base: Array
    """Colour (m, surfaces, 3) in [0, 1], about which waves (m, surfaces, WAVES, 3) of that tint go up and down."""
    tint: Array
    wave: Array
    phase: Array


@dataclass
class Cameras:
    """m cameras: place (m, 3), and rotation (m, 3, 3) from their coordinates to the world's."""

    place: Array
    rotation: Array

    @classmethod
    def at(cls, place: Array, yaw: Array, pitch: Array) -> Cameras:
        """Turned by yaw to the right and by pitch upwards, in radians (m,)."""
        return cls(place, _turn(yaw, 1) @ _turn(pitch, 0))


def _turn(angle: Array, axis: int) -> Array:
    """Rotation about an axis of the world, (m,) -> (m, 3, 3)."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.zeros((*angle.shape, 3, 3))
    rotation[..., axis, axis] = 1
    rotation[..., first, first] = rotation[..., second, second] = np.cos(angle)
    rotation[..., second, first] = np.sin(angle)
    rotation[..., first, second] = -np.sin(angle)
    return rotation


def _draw(
    m: int, boxes: int, spheres: int, motion: float, chance: np.random.Generator
) -> tuple[Scenes, Cameras, Cameras]:
    """Rooms, the first camera in each and the second."""
    half = chance.uniform(2.0, 3.5, (m, 2))
    height = chance.uniform(2.4, 3.2, m)
    low = np.stack([-half[:, 0], -height, -half[:, 1]], axis=1)
    high = np.stack([half[:, 0], np.zeros(m), half[:, 1]], axis=1)
    # the first camera stands back from the middle, and so looks across the room
    yaw, pitch = chance.uniform(-np.pi, np.pi, m), np.deg2rad(chance.uniform(-10, 2, m))
    ahead = np.stack([np.sin(yaw), np.cos(yaw)], axis=1)
    floor_place = -ahead * (half - 1.2) * chance.random((m, 1))
    place = np.stack([floor_place[:, 0], -chance.uniform(1.2, 1.8, m), floor_place[:, 1]], axis=1)
    first = Cameras.at(place, yaw, pitch)
    second = _beside(first, motion, chance)
    # things stand 1.8 to 4 m ahead of it: out of reach of the second camera
    size = np.concatenate([chance.uniform(0.2, 0.35, (m, boxes)), chance.uniform(0.2, 0.5, (m, spheres))], axis=1)
    bearing = yaw[:, None] + np.deg2rad(chance.uniform(-30, 30, size.shape))
    away = chance.uniform(1.8, 4, size.shape)
    there = place[:, None, [0, 2]] + away[..., None] * np.stack([np.sin(bearing), np.cos(bearing)], axis=-1)
    rise = np.concatenate([chance.uniform(0.2, 0.8, (m, boxes)), chance.uniform(0.2, 2, (m, spheres))], axis=1)
    rise = np.maximum(rise, np.where(np.arange(size.shape[1]) < boxes, 0, size))  # spheres do not sink into the floor
    centre = np.stack([there[..., 0], -rise, there[..., 1]], axis=-1)
    box_half = np.stack([size[:, :boxes], rise[:, :boxes], chance.uniform(0.2, 0.35, (m, boxes))], axis=-1)
    surfaces = 6 + boxes + spheres
    light = chance.uniform(-0.6, 0.6, (m, 3)) - [0, 1, 0]  # from above
    grey = (np.arange(surfaces) < 6)[:, None]  # the walls
    base = np.where(grey, chance.uniform(0.5, 0.8, (m, surfaces, 1)), 0.5)
    base = base + np.where(grey, 0.08, 0.4) * chance.uniform(-1, 1, (m, surfaces, 3))
    tint = np.where(grey[:, None], chance.uniform(-0.1, 0.1, (m, surfaces, WAVES, 1)), 0)
    tint = tint + np.where(grey[:, None], 0.05, 0.2) * chance.uniform(-1, 1, (m, surfaces, WAVES, 3))
    wave = chance.standard_normal((m, surfaces, WAVES, 3))
    length = 0.6 * 2 ** chance.random((m, surfaces, WAVES, 1))
    wave *= 2 * np.pi / (length * np.linalg.norm(wave, axis=-1, keepdims=True))
    scenes = Scenes(
        low,
        high,
        centre[:, :boxes],
        box_half,
        chance.uniform(-np.pi, np.pi, (m, boxes)),
        centre[:, boxes:],
        size[:, boxes:],
        light / np.linalg.norm(light, axis=1, keepdims=True),
        base,
        tint,
        wave,
        chance.uniform(0, 2 * np.pi, (m, surfaces, WAVES)),
    )
    return scenes, first, second


def _beside(first: Cameras, motion: float, chance: np.random.Generator) -> Cameras:
    """Cameras near by that look at about the same place."""
    m = len(first.place)
    direction, distance = chance.uniform(-np.pi, np.pi, m), motion * chance.uniform(0.2, 0.8, m)
    step = np.stack([np.sin(direction), 0.2 * chance.uniform(-1, 1, m), np.cos(direction)], axis=1)
    place = first.place + distance[:, None] * step
    to = first.place + 2.5 * first.rotation[:, :, 2] - place
    yaw, pitch = np.arctan2(to[:, 0], to[:, 2]), np.arctan2(-to[:, 1], np.hypot(to[:, 0], to[:, 2]))
    off = motion * np.deg2rad(chance.uniform(-8, 8, (2, m)))
    return Cameras.at(place, yaw + off[0], pitch + off[1])


# What is seen ---------------------------------------------------------------------------------------------------------


def _look(scenes: Scenes, first: Cameras, second: Cameras, image_size: int, field_of_view: float) -> dict[str, Array]:
    """Both views, with what is known of the first."""
    scale = np.tan(np.deg2rad(field_of_view) / 2)
    middle = (2 * (np.arange(image_size) + 0.5) / image_size - 1) * scale
    v, u = (side.ravel() for side in np.meshgrid(middle, middle, indexing="ij"))
    rays = np.stack([u, v, np.ones_like(u)], axis=1)
    pictures = {}
    for name, camera in (("x", first), ("x2", second)):
        direction = rays @ camera.rotation.transpose(0, 2, 1)
        depth, surface, normal = _first_hit(scenes, camera.place, direction)
        point = camera.place[:, None] + depth[..., None] * direction
        colour = np.rint(255 * _colour(scenes, surface, normal, point)).astype(np.uint8)
        pictures[name] = colour.transpose(0, 2, 1).reshape(-1, 3, image_size, image_size)
        if camera is first:
            points, depth_of_first = point, depth
    shape = (-1, image_size, image_size)
    return {
        **pictures,
        "depth": depth_of_first.astype(np.float32).reshape(shape),
        "pose": _relative(first, second).astype(np.float32),
        "seen": _sees(scenes, second, points, scale).reshape(shape),
    }


def _relative(first: Cameras, second: Cameras) -> Array:
    pose = np.zeros((len(first.place), 4, 4))
    back = second.rotation.transpose(0, 2, 1)
    pose[:, :3, :3] = back @ first.rotation
    pose[:, :3, 3] = (back @ (first.place - second.place)[..., None])[..., 0]
    pose[:, 3, 3] = 1
    return pose


def _sees(scenes: Scenes, camera: Cameras, points: Array, scale: float) -> Array:
    """Which points (m, p, 3) lie in the camera's frame with nothing before them: bool (m, p)."""
    direction = points - camera.place[:, None]
    x, y, z = np.moveaxis(direction @ camera.rotation, -1, 0)  # in the camera's own coordinates
    framed = (z > 0) & (np.maximum(np.abs(x), np.abs(y)) <= scale * z)
    until, _, _ = _first_hit(scenes, camera.place, direction)  # at 1 the ray is at the point
    return framed & (until > 1 - 1e-4)


def _first_hit(scenes: Scenes, origin: Array, direction: Array) -> tuple[Array, Array, Array]:
    """Where rays (m, p, 3) from one origin a scene (m, 3) first hit, in lengths of the ray; the surface; its normal."""
    distance, surface, normal = _hit_room(scenes, origin, direction)
    boxes = scenes.box_yaw.shape[1]
    hits = [_hit_box(scenes, k, origin, direction) for k in range(boxes)]
    hits += [_hit_sphere(scenes, k, origin, direction) for k in range(scenes.sphere_radius.shape[1])]
    for number, (found, its_normal) in enumerate(hits):
        nearer = found < distance
        distance = np.where(nearer, found, distance)
        surface[nearer] = 6 + number
        normal[nearer] = its_normal[nearer]
    return distance, surface, normal


def _hit_room(scenes: Scenes, origin: Array, direction: Array) -> tuple[Array, Array, Array]:
    """From within: of the wall ahead on each axis, the nearest."""
    forward = direction > 0
    wall = np.where(forward, scenes.high[:, None], scenes.low[:, None])
    with np.errstate(divide="ignore"):
        each = np.where(direction == 0, np.inf, (wall - origin[:, None]) / direction)
    axis = each.argmin(-1)[..., None]
    sign = np.take_along_axis(forward, axis, -1)[..., 0]
    normal = np.eye(3)[axis[..., 0]] * np.where(sign, -1.0, 1.0)[..., None]
    return np.take_along_axis(each, axis, -1)[..., 0], 2 * axis[..., 0] + sign, normal


def _hit_box(scenes: Scenes, number: int, origin: Array, direction: Array) -> tuple[Array, Array]:
    """By slabs (Kay and Kajiya, 1986), in the coordinates of the box; infinitely far where it is missed."""
    rotation, half = _turn(scenes.box_yaw[:, number], 1), scenes.box_half[:, number, None]
    start = (origin - scenes.box_centre[:, number])[:, None] @ rotation
    ray = direction @ rotation
    ray = np.where(ray == 0, 1e-12, ray)
    enter, leave = (-np.sign(ray) * half - start) / ray, (np.sign(ray) * half - start) / ray
    axis = enter.argmax(-1)[..., None]
    distance = np.take_along_axis(enter, axis, -1)[..., 0]
    hit = (distance > 0) & (distance < leave.min(-1))
    normal = np.eye(3)[axis[..., 0]] * -np.sign(np.take_along_axis(ray, axis, -1))
    return np.where(hit, distance, np.inf), normal @ rotation.transpose(0, 2, 1)


def _hit_sphere(scenes: Scenes, number: int, origin: Array, direction: Array) -> tuple[Array, Array]:
    """The smaller root of |start + t ray|^2 = radius^2; infinitely far where there is none ahead."""
    start, radius = (origin - scenes.sphere_centre[:, number])[:, None], scenes.sphere_radius[:, number, None]
    a, b = (direction**2).sum(-1), (direction * start).sum(-1)
    inside = b**2 - a * ((start**2).sum(-1) - radius**2)
    distance = (-b - np.sqrt(np.maximum(inside, 0))) / a
    hit = (inside > 0) & (distance > 0)
    return np.where(hit, distance, np.inf), (start + distance[..., None] * direction) / radius[..., None]


def _colour(scenes: Scenes, surface: Array, normal: Array, point: Array) -> Array:
    """Colours in [0, 1] of points (m, p, 3), by texture and light, which do not hang on where they are seen from."""
    scene = np.arange(len(surface))[:, None]
    turns = np.einsum("mpwd,mpd->mpw", scenes.wave[scene, surface], point) + scenes.phase[scene, surface]
    waves = np.tanh(2 * np.sin(turns))  # with edges, yet smooth
    texture = scenes.base[scene, surface] + np.einsum("mpw,mpwc->mpc", waves, scenes.tint[scene, surface])
    lit = 0.7 + 0.3 * (normal * scenes.light[:, None]).sum(-1, keepdims=True)
    return np.clip(texture * lit, 0, 1)
