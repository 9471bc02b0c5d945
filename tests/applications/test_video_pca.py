"""VideoPCA against a slow SVD, colours counted in a dictionary, and clips whose answer is known."""

import colorsys
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage

from tacit.applications import VideoPCA
from tacit.applications._video_pca import colour_codes, colour_likelihood
from tacit.data import clips
from tacit.errors import ArgumentError


def frames(t=28, size=8, channels=3, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((t, channels, size, size), np.float32))


def slow_errors(x, k):
    """By numpy's SVD of all pixels: what is left of each frame beside the mean and k right singular vectors."""
    flat = x.numpy().reshape(len(x), -1).astype(np.float64)
    mean = flat.mean(0)
    _, _, components = np.linalg.svd(flat - mean, full_matrices=False)
    left = np.empty_like(flat)
    for t, row in enumerate(flat):
        background = mean.copy()
        for component in components[:k]:
            background += ((row - mean) @ component) * component
        left[t] = row - background
    left = left.reshape(x.shape)
    return np.sqrt((left**2).sum(1))


@pytest.mark.parametrize("k", [0, 1, 3, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_errors_are_those_of_a_slow_svd(k, channels):
    x = frames(channels=channels)
    np.testing.assert_allclose(VideoPCA(n_components=k).errors(x), slow_errors(x, k), atol=1e-5)


def test_errors_do_not_depend_on_the_order_of_frames_or_on_bytes():
    x = (255 * frames()).round().to(torch.uint8)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    whole = VideoPCA().errors(x)
    torch.testing.assert_close(VideoPCA().errors(x[order]), whole[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(VideoPCA().errors(x.float() / 255), whole)


def test_likelihood_is_a_ratio_of_counts():
    chance = np.random.default_rng(0)
    codes, inside = chance.integers(0, 9, (4, 5, 6)), chance.random((4, 5, 6)) < 0.3
    counts = {part: Counter(codes[inside == part].tolist()) for part in (True, False)}
    found = colour_likelihood(codes, inside)
    for place in np.ndindex(codes.shape):
        h = [counts[part][codes[place]] / max((inside == part).sum(), 1) for part in (True, False)]
        assert found[place] == pytest.approx(h[0] / (h[0] + h[1]))


def test_colours_are_cut_by_hue_and_saturation_on_a_disc():
    x = frames(1, 6)
    found = colour_codes(x, 5)[0]
    for i, j in np.ndindex(6, 6):
        _, saturation, value = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
        across, along = (saturation * part + 1 for part in _disc(*x[0, :, i, j].tolist()))
        parts = [min(int(5 * part), 4) for part in (value, across / 2, along / 2)]
        assert found[i, j] == 25 * parts[0] + 5 * parts[1] + parts[2]
    reds = torch.tensor([[1.0, 0.0, 0.02], [1.0, 0.02, 0.0]])[:, :, None, None]  # either side of hue 0
    assert len(colour_codes(reds, 8).unique()) <= 2
    assert len(colour_codes(frames(1, 6, 1), 5).unique()) <= 25


def _disc(red, green, blue):
    """Direction of the colour in the plane of the three primaries, 120 degrees apart."""
    angles = np.array([0, 2 * np.pi / 3, -2 * np.pi / 3])
    across, along = ((np.array([red, green, blue]) * f(angles)).sum() for f in (np.cos, np.sin))
    length = max(np.hypot(across, along), 1e-12)
    return across / length, along / length


def slow_masks(x, teacher):
    """The whole of it frame by frame, from the equations."""
    size = x.shape[-1]
    grid = np.arange(size) - (size - 1) / 2
    centre = np.exp(-(grid[:, None] ** 2 + grid**2) / (2 * (teacher.centre * size) ** 2))
    error = slow_errors(x, teacher.n_components)
    cue = []
    for map_ in error:
        seen = ndimage.gaussian_filter(map_, teacher.sigma * size, mode="nearest") * centre
        cue.append(seen / seen.max() > 0.5)
    p = colour_likelihood(colour_codes(x, teacher.bins).numpy(), np.stack(cue))
    masks = []
    for map_ in p:
        likely = map_ * centre
        likely /= likely.max()
        regions, count = ndimage.label(likely > teacher.low, np.ones((3, 3)))
        kept = [number for number in range(1, count + 1) if (likely[regions == number] > teacher.high).any()]
        mask = map_ * np.isin(regions, kept)
        masks.append(mask / mask.max())
    return np.stack(masks)


def test_masks_are_those_of_the_equations():
    x = torch.from_numpy(clips(12, seed=4, image_size=24)["x"]).float() / 255
    teacher = VideoPCA()
    np.testing.assert_allclose(teacher(x)[:, 0], slow_masks(x, teacher), atol=1e-5)


def test_a_patch_that_moves_over_a_plain_wall_is_found():
    background = torch.full((3, 32, 32), 0.4)
    x, y = background.repeat(10, 1, 1, 1), torch.zeros(10, 32, 32)
    for t in range(10):
        x[t, :, 10:18, 6 + 2 * t : 14 + 2 * t] = torch.tensor([0.9, 0.1, 0.9])[:, None, None]
        y[t, 10:18, 6 + 2 * t : 14 + 2 * t] = 1
    found = VideoPCA(n_components=1)(x)[:, 0] > 0.5
    both, either = (found & (y > 0)).sum(), (found | (y > 0)).sum()
    assert both / either > 0.9


def test_a_still_clip_and_one_frame_have_no_object():
    still = frames(1, 16).repeat(5, 1, 1, 1)
    for x in (still, still[:1], torch.zeros(3, 1, 8, 8)):
        masks = VideoPCA()(x)
        assert masks.shape == (len(x), 1, *x.shape[2:])
        assert not masks.any()


def test_a_short_clip_has_fewer_components():
    """Else there would be no error, and so no object."""
    for t, k in ((2, 0), (5, 1), (11, 2)):
        x = frames(t)
        np.testing.assert_allclose(VideoPCA(n_components=9).errors(x), slow_errors(x, k), atol=1e-5)


def test_what_is_no_clip_is_refused():
    with pytest.raises(ArgumentError, match=r"a clip \(t, c, h, w\)"):
        VideoPCA()(torch.zeros(3, 8, 8))
    with pytest.raises(ArgumentError, match="low"):
        VideoPCA(low=0.9, high=0.5)
