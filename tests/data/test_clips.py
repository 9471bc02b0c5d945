"""Drawn clips: exact masks, motion, and the same bits for a seed."""

import hashlib

import numpy as np
import pytest
from scipy import ndimage

from tacit.data import clips
from tacit.errors import ArgumentError


def test_a_seed_draws_the_same_and_another_one_others():
    one, same, other = clips(30, seed=1), clips(30, seed=1), clips(30, seed=2)
    for name, values in one.items():
        np.testing.assert_array_equal(values, same[name])
    assert (one["x"] != other["x"]).mean() > 0.5


def test_bits_are_those_of_every_machine():
    drawn = clips(26, seed=7, image_size=24, n_frames=13)
    digest = hashlib.sha256(drawn["x"].tobytes() + drawn["y"].tobytes()).hexdigest()
    assert digest[:16] == "d41247d025bb5e17"


def test_frames_of_a_clip_share_their_factors_and_the_last_clip_may_be_short():
    drawn = clips(31, seed=3, n_frames=10)
    assert drawn["clip"].tolist() == [0] * 10 + [1] * 10 + [2] * 10 + [3]
    assert drawn["frame"].tolist() == [*range(10)] * 3 + [0]
    for number in range(3):
        rows = drawn["clip"] == number
        for factor in ("shape", "colour", "texture", "place"):
            assert len(set(drawn[factor][rows])) == 1
    assert (drawn["x"][:10] == clips(10, seed=3, n_frames=10)["x"]).mean() < 1  # of other clips: chance is drawn by n


def test_shapes_move_and_stay_in_the_picture():
    drawn = clips(240, seed=4, n_frames=12)
    shares = drawn["y"].mean((1, 2))
    assert (shares > 0.005).all()
    assert (shares < 0.4).all()
    centres = np.array([ndimage.center_of_mass(mask) for mask in drawn["y"]]).reshape(20, 12, 2)
    steps = np.linalg.norm(np.diff(centres, axis=1), axis=2)
    assert steps.mean() > 0.3  # pixels
    assert steps.max() < 5


def test_the_mask_is_where_another_shape_would_change_the_picture():
    """Two clips of equal chance but for the camera: without drift and flicker, what is still lies outside of masks."""
    drawn = clips(12, seed=9, n_frames=12, drift=0.0, flicker=0.0, image_size=32)
    x, y = drawn["x"].astype(float), drawn["y"].astype(bool)
    far = ~ndimage.binary_dilation(y.any(0), iterations=5)  # never under the shape or its shadow
    change = np.abs(np.diff(x, axis=0)).mean((0, 1))
    assert far.any()
    assert change[y.any(0)].mean() > change[far].mean()


def test_places_move():
    still, moving = (clips(120, seed=5, drift=drift) for drift in (0.0, 0.03))
    np.testing.assert_array_equal(still["y"], moving["y"])
    outside = ~ndimage.binary_dilation(still["y"].astype(bool), np.ones((1, 9, 9)))
    difference = np.abs(still["x"].astype(float) - moving["x"]).mean(1)
    assert difference[outside].mean() > 5


def test_numbers_out_of_range_are_refused():
    for words in ({"n": 0}, {"seed": -1}, {"image_size": 8}, {"n_frames": 1}, {"drift": 0.5}, {"flicker": 1.0}):
        with pytest.raises(ArgumentError, match=next(iter(words))):
            clips(**{"n": 4, **words})
