"""Rays against closed forms, against distances to the surfaces, and one view against the other."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tacit.data import rooms
from tacit.data._rooms import Cameras, Scenes, _draw, _first_hit, _look, _turn
from tacit.errors import ArgumentError

FIELD = 70.0


@pytest.fixture(scope="module")
def drawn():
    """Scenes with their cameras, and what is seen."""
    scenes, first, second = _draw(6, 2, 2, 1.0, np.random.default_rng(0))
    return scenes, first, second, _look(scenes, first, second, 24, FIELD)


def slow_rays(size):
    """Directions in the camera's coordinates with z = 1, pixel by pixel, as the docstring says."""
    f = 1 / math.tan(math.radians(FIELD) / 2)
    return np.array(
        [
            ((2 * (j + 0.5) / size - 1) / f, (2 * (i + 0.5) / size - 1) / f, 1.0)
            for i in range(size)
            for j in range(size)
        ]
    )


def points_of_first(first, depth):
    """World coordinates (m, p, 3) of what the first camera's pixels show."""
    size = depth.shape[1]
    local = slow_rays(size) * depth.reshape(len(depth), -1, 1).astype(np.float64)
    return np.stack([first.place[m] + local[m] @ first.rotation[m].T for m in range(len(local))])


def distance_to_surfaces(scenes, m, point):
    """How far a point is from the nearest surface of scene m, from inside the walls; 0 on it, below 0 in things."""
    distances = [*(point - scenes.low[m]), *(scenes.high[m] - point)]
    for centre, half, yaw in zip(scenes.box_centre[m], scenes.box_half[m], scenes.box_yaw[m], strict=True):
        x, y, z = point - centre  # turned back about the vertical
        local = np.array([math.cos(yaw) * x - math.sin(yaw) * z, y, math.sin(yaw) * x + math.cos(yaw) * z])
        over = np.abs(local) - half
        distances.append(np.linalg.norm(np.maximum(over, 0)) + min(over.max(), 0))
    for centre, radius in zip(scenes.sphere_centre[m], scenes.sphere_radius[m], strict=True):
        distances.append(np.linalg.norm(point - centre) - radius)
    return min(distances)


def empty(**things):
    """One room, 8 x 3 x 10 m, with the given things in it."""
    none = {
        "box_centre": np.zeros((1, 0, 3)),
        "box_half": np.zeros((1, 0, 3)),
        "box_yaw": np.zeros((1, 0)),
        "sphere_centre": np.zeros((1, 0, 3)),
        "sphere_radius": np.zeros((1, 0)),
    }
    of_colour = dict.fromkeys(("light", "base", "tint", "wave", "phase"), np.zeros((1, 0)))
    return Scenes(np.array([[-4.0, -3, -5]]), np.array([[4.0, 0, 5]]), **(none | of_colour | things))


def first_hit(scenes, ray, origin=(0, -1.5, 0)):
    distance, surface, normal = _first_hit(scenes, np.array([origin], float), np.array([[ray]], float))
    return distance[0, 0], surface[0, 0], normal[0, 0]


@pytest.mark.parametrize(
    ("ray", "distance", "surface", "normal"),
    [
        ((0, 0, 1), 5, 5, (0, 0, -1)),
        ((0, 0, -2), 2.5, 4, (0, 0, 1)),
        ((1, 0, 1), 4, 1, (-1, 0, 0)),
        ((0, 1, 1), 1.5, 3, (0, -1, 0)),
        ((0, -0.5, 0.5), 3, 2, (0, 1, 0)),
    ],
)
def test_walls_by_hand(ray, distance, surface, normal):
    found = first_hit(empty(), ray)
    assert found[0] == pytest.approx(distance)
    assert found[1] == surface
    np.testing.assert_allclose(found[2], normal)


def test_sphere_by_hand():
    ball = empty(sphere_centre=np.array([[[0, -1.5, 3.0]]]), sphere_radius=np.array([[0.5]]))
    distance, surface, normal = first_hit(ball, (0, 0, 1))
    assert (distance, surface) == (pytest.approx(2.5), 6)
    np.testing.assert_allclose(normal, [0, 0, -1])
    # at 0.4 beside the middle, the front is sqrt(0.5^2 - 0.4^2) = 0.3 before it
    assert first_hit(ball, (0, 0, 1), (0.4, -1.5, 0))[0] == pytest.approx(2.7)
    assert first_hit(ball, (0, 0, 1), (0.6, -1.5, 0))[1] == 5
    assert first_hit(ball, (0, 0, 1), (0, -1.5, 4))[1] == 5  # what is behind does not count


def test_turned_box_by_hand():
    """A cube of side 1 turned by 45 degrees shows its edge, sqrt(2) / 2 before its middle."""
    box = {"box_centre": np.array([[[0, -1.5, 3.0]]]), "box_half": np.full((1, 1, 3), 0.5)}
    assert first_hit(empty(box_yaw=np.zeros((1, 1)), **box), (0, 0, 1))[0] == pytest.approx(2.5)
    turned = empty(box_yaw=np.full((1, 1), math.pi / 4), **box)
    distance, surface, normal = first_hit(turned, (0, 0, 1), (0.1, -1.5, 0))
    assert (distance, surface) == (pytest.approx(3 - math.sqrt(0.5) + 0.1), 6)
    np.testing.assert_allclose(normal, [math.sqrt(0.5), 0, -math.sqrt(0.5)], atol=1e-12)
    assert first_hit(turned, (0, 0, 1), (0.75, -1.5, 0))[1] == 5


def test_rays_end_on_a_surface_and_pass_none_before(drawn):
    """By distances to the surfaces, which know nothing of rays."""
    scenes, first, _, seen = drawn
    points = points_of_first(first, seen["depth"])
    for m in range(len(points)):
        for p in range(0, points.shape[1], 7):
            assert abs(distance_to_surfaces(scenes, m, points[m, p])) < 1e-5
            for share in (0.2, 0.5, 0.8, 0.95):
                between = first.place[m] + share * (points[m, p] - first.place[m])
                assert distance_to_surfaces(scenes, m, between) > 0


def test_pose_takes_points_from_one_camera_to_the_other(drawn):
    _, first, second, seen = drawn
    for m in range(6):
        world = np.array([0.3, -1.0, 2.0])
        one, two = (camera.rotation[m].T @ (world - camera.place[m]) for camera in (first, second))
        np.testing.assert_allclose((seen["pose"][m] @ np.append(one, 1))[:3], two, atol=1e-5)
        np.testing.assert_allclose(seen["pose"][m, :3, :3] @ seen["pose"][m, :3, :3].T, np.eye(3), atol=1e-6)


def test_seen_points_are_in_the_second_frame_with_nothing_before(drawn):
    """Brute force: the way from the second camera is walked in small steps."""
    scenes, first, second, views = drawn
    points, seen = points_of_first(first, views["depth"]), views["seen"].reshape(6, -1)
    scale, agree, total = math.tan(math.radians(FIELD) / 2), 0, 0
    for m in range(6):
        for p in range(3, points.shape[1], 11):
            x, y, z = second.rotation[m].T @ (points[m, p] - second.place[m])
            framed = z > 0 and max(abs(x), abs(y)) <= scale * z
            way = points[m, p] - second.place[m]
            clear = all(
                distance_to_surfaces(scenes, m, second.place[m] + t * way) > 0 for t in np.arange(0.02, 0.99, 0.02)
            )
            agree, total = agree + (seen[m, p] == (framed and clear)), total + 1
    assert agree >= total - 3  # steps of 2 % miss a corner that is only just cut


def test_one_view_and_depth_and_pose_give_the_other():
    """What is seen from both sides has one colour: the second view is looked up where the points of the first fall."""
    views = rooms(8, seed=1, image_size=96)
    depth, size = views["depth"].reshape(8, -1, 1), 96
    local = np.concatenate([slow_rays(size) * depth, np.ones_like(depth)], axis=2)
    x, y, z, _ = np.moveaxis(local @ views["pose"].transpose(0, 2, 1), -1, 0)
    f = 1 / math.tan(math.radians(FIELD) / 2)
    place = torch.from_numpy(np.stack([f * x / z, f * y / z], axis=-1).reshape(8, size, size, 2)).float()
    first, second = (torch.from_numpy(views[name]).float() for name in ("x", "x2"))
    found = F.grid_sample(second, place, align_corners=False, padding_mode="border")
    seen = torch.from_numpy(views["seen"])
    off = (found - first).abs().mean(1)
    assert off[seen].median() < 2
    assert (off[seen] < 12).float().mean() > 0.95  # the others lie at edges, where neighbours are mixed
    assert off[~seen].median() > 8
    assert (second - first).abs().mean(1)[seen].median() > 8  # the views do differ


def test_most_of_the_scene_is_seen_twice_and_motion_says_how_much():
    share = {motion: rooms(150, motion=motion)["seen"].mean((1, 2)) for motion in (0.0, 0.5, 1.0)}
    assert np.all(share[0.0] == 1)
    assert share[0.0].mean() > share[0.5].mean() > share[1.0].mean() > 0.75
    assert (share[1.0] >= 0.5).mean() > 0.97
    assert share[1.0].min() < 0.7  # nor is the second view a copy


def test_without_motion_both_views_are_one():
    views = rooms(3, motion=0)
    np.testing.assert_array_equal(views["x"], views["x2"])
    np.testing.assert_allclose(views["pose"], np.eye(4)[None].repeat(3, 0), atol=1e-6)


def test_seeds_draw_anew_and_the_same_again():
    first, again, other = (rooms(40, seed=seed, image_size=8) for seed in (3, 3, 4))
    for name, column in first.items():
        np.testing.assert_array_equal(column, again[name])
        assert len(column) == 40
    assert not np.array_equal(first["x"], other["x"])
    assert {name: column.dtype.name for name, column in first.items()} == {
        "x": "uint8", "x2": "uint8", "depth": "float32", "pose": "float32", "seen": "bool",
    }  # fmt: skip


def test_rooms_without_things_are_convex():
    """Nothing hides anything: what is not seen lies outside the second frame."""
    scenes, first, second = _draw(4, 0, 0, 1.0, np.random.default_rng(0))
    views = _look(scenes, first, second, 16, FIELD)
    scale = math.tan(math.radians(FIELD) / 2)
    local = (points_of_first(first, views["depth"]) - second.place[:, None]) @ second.rotation
    framed = (np.abs(local[..., :2]).max(-1) <= scale * local[..., 2]) & (local[..., 2] > 0)
    assert (framed == views["seen"].reshape(4, -1)).mean() > 0.999


def test_yaw_is_to_the_right_and_pitch_upwards():
    ahead = Cameras.at(np.zeros((2, 3)), np.array([math.pi / 2, 0]), np.array([0, math.pi / 6])).rotation[:, :, 2]
    np.testing.assert_allclose(ahead, [[1, 0, 0], [0, -0.5, math.sqrt(0.75)]], atol=1e-12)
    turns = _turn(np.array([0.3]), 1)[0]
    np.testing.assert_allclose(turns @ turns.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"n": 0}, "n=0"),
        ({"seed": -1}, "seed=-1"),
        ({"image_size": 4}, "image_size=4"),
        ({"n_boxes": -1}, "n_boxes=-1"),
        ({"n_spheres": -1}, "n_spheres=-1"),
        ({"field_of_view": 150}, "field_of_view=150"),
        ({"motion": 2}, "motion=2"),
    ],
)
def test_what_cannot_be_is_said(wrong, word):
    with pytest.raises(ArgumentError, match=word):
        rooms(**{"n": 2, **wrong})
