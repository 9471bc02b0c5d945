"""Compose and the presets: what they are made of, on what data they run, and what they promise."""

import copy

import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError
from tacit.views import (
    ColorJitter,
    Compose,
    GaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    Solarize,
    Views,
    as_float,
    multi_crop,
    two_crops,
)
from tacit.views import _pending as pending_module

PRESETS = ("simclr", "byol", "moco-v2", "crop")


def parts(view: Compose) -> dict[type, nn.Module]:
    return {type(part): part for part in view.views}


def test_all_views_at_once_are_the_views_one_by_one():
    """Grey enough that nothing is clamped."""
    x = 0.4 + 0.1 * torch.rand(6, 3, 24, 24)
    views = [
        RandomResizedCrop(20),
        RandomHorizontalFlip(),
        ColorJitter(0.3, 0.3, 0.3, 0.1),
        RandomGrayscale(),
        RandomHorizontalFlip(),
        GaussianBlur(),
        RandomResizedCrop(16),
        RandomRotation(10),
        nn.Identity(),
        Solarize(0.45),
    ]
    torch.manual_seed(0)
    at_once = Compose(*views)(x)
    torch.manual_seed(0)
    one_by_one = x
    for view in views:
        one_by_one = view(one_by_one)
    away = (at_once - one_by_one).abs()
    assert (away < 1e-5).float().mean() > 0.999  # beside pixels within rounding of the threshold


@pytest.mark.parametrize("make", [two_crops, multi_crop])
def test_parts_of_a_batch_give_what_the_whole_gives(make, monkeypatch):
    x = torch.randint(0, 256, (9, 3, 48, 40), dtype=torch.uint8)
    views = make(40)
    torch.manual_seed(0)
    monkeypatch.setattr(pending_module, "_CPU_PART", 1)
    one_at_a_time = views(x)
    torch.manual_seed(0)
    monkeypatch.setattr(pending_module, "_CPU_PART", 2**40)
    whole = views(x)
    for a, b in zip(one_at_a_time, whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(3, 40, 40), (1, 28, 28), (5, 33, 47), (3, 20, 64)])
def test_bytes_and_floats_give_the_same_and_the_seed_repeats_it(preset, shape):
    x = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    views = two_crops(36, channels=shape[0], preset=preset)
    torch.manual_seed(0)
    of_bytes = views(x)
    torch.manual_seed(0)
    of_floats = views(x / 255)
    again = views(x)
    for a, b in zip(of_bytes, of_floats, strict=True):
        assert torch.equal(a, b)
        assert a.shape == (5, shape[0], 36, 36)
        assert a.dtype == torch.float32
        assert a.min() >= 0
        assert a.max() <= 1
    assert not torch.equal(of_bytes[0], of_bytes[1])
    assert not torch.equal(of_bytes[0], again[0])


@pytest.mark.parametrize("b", [0, 1])
def test_smallest_batches(b):
    a, _ = two_crops(40, preset="byol")(torch.randint(0, 256, (b, 3, 7, 50), dtype=torch.uint8))
    assert a.shape == (b, 3, 40, 40)


def test_a_constant_image_stays_constant_under_geometry():
    x = torch.full((8, 3, 50, 50), 0.3)
    view = Compose(RandomResizedCrop(37), RandomHorizontalFlip(), GaussianBlur(p=1.0))
    torch.testing.assert_close(view(x), torch.full((8, 3, 37, 37), 0.3))


def test_autocast_changes_nothing():
    x = torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8)
    views = two_crops(40)
    torch.manual_seed(0)
    plain = views(x)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = views(x)
    for a, b in zip(plain, cast, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)
    assert two_crops(40)(torch.rand(2, 3, 40, 40).bfloat16())[0].dtype == torch.float32


def test_gradients_flow_to_the_images_and_inputs_stay_as_they_are():
    """Blur and crop are linear with weights that sum to 1: the gradient of the sum is the weight of each pixel."""
    x = torch.rand(2, 3, 40, 40, requires_grad=True)
    before = x.detach().clone()
    view = Compose(RandomResizedCrop(40, scale=(1, 1), ratio=(1, 1)), GaussianBlur(p=1.0))
    view(x).sum().backward()
    assert torch.equal(x.detach(), before)
    torch.testing.assert_close(x.grad.sum(), torch.tensor(2.0 * 3 * 40 * 40))
    given = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    kept = given.clone()
    two_crops(40, preset="byol")(given)
    assert torch.equal(given, kept)


@pytest.mark.parametrize("image_size", [32, 96])
def test_simclr_has_its_published_figures(image_size):
    view = parts(two_crops(image_size).views[0])
    strength = 0.5 if image_size == 32 else 1.0
    jitter = view[ColorJitter]
    figures = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, jitter.p)
    assert figures == pytest.approx((0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, 0.8))
    assert view[RandomGrayscale].p == 0.2
    assert view[RandomResizedCrop].scale == (0.08, 1.0)
    assert (GaussianBlur in view) == (image_size == 96)
    assert Solarize not in view


def test_byol_is_asymmetric():
    a, b = (parts(view) for view in two_crops(64, preset="byol").views)
    assert (a[GaussianBlur].p, b[GaussianBlur].p) == (1.0, 0.1)
    assert Solarize not in a
    assert b[Solarize].p == 0.2
    assert a[GaussianBlur].kernel_size == 7
    small = [parts(view) for view in two_crops(32, preset="byol").views]
    assert GaussianBlur not in small[0]
    assert Solarize in small[1]
    assert small[0][ColorJitter].brightness == 0.4


def test_moco_and_crop():
    assert parts(two_crops(64, preset="moco-v2").views[0])[RandomResizedCrop].scale == (0.2, 1.0)
    assert list(parts(two_crops(64, preset="crop").views[1])) == [RandomResizedCrop, RandomHorizontalFlip]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_no_jitter_where_there_is_no_colour(preset, channels):
    for view in two_crops(64, channels=channels, preset=preset).views:
        assert not {ColorJitter, RandomGrayscale} & set(parts(view))
    asked = parts(two_crops(64, channels=channels, strength=1.0).views[0])[ColorJitter]
    assert (asked.brightness, asked.contrast, asked.saturation, asked.hue) == (0.8, 0.8, 0.0, 0.0)
    assert two_crops(64, channels=channels, strength=1.0)(torch.rand(2, channels, 9, 9))[0].shape[1] == channels


@pytest.mark.parametrize("make", [two_crops, multi_crop])
def test_flips_only_where_wanted(make):
    views = make(16, flip=False)
    _, boxes = views.with_boxes(torch.rand(64, 3, 16, 16))
    assert all((box[:, 1] < box[:, 3]).all() for box in boxes)
    _, boxes = make(16).with_boxes(torch.rand(256, 3, 16, 16))
    assert all(0.3 < (box[:, 1] > box[:, 3]).float().mean() < 0.7 for box in boxes)


def test_multi_crop_sizes_and_shares():
    x = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    views = multi_crop(32, local_scale=(0.05, 0.14))
    seen, boxes = views.with_boxes(x)
    assert [v.shape[-1] for v in seen] == [32, 32, 16, 16, 16, 16, 16, 16]
    share = torch.stack([(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]).abs() / 32**2 for b in boxes])
    assert share[:2].min() >= 0.14
    assert share[:2].max() <= 1
    assert share[2:].min() + 1e-6 >= 0.05
    assert share[2:].max() <= 0.14 + 1e-6
    assert parts(multi_crop(224).views[2])[RandomResizedCrop].size == 96
    dino = [parts(view) for view in multi_crop(224, preset="dino", local_crops=8).views]
    assert [view[GaussianBlur].p for view in dino] == [1.0, 0.1] + [0.5] * 8
    assert [Solarize in view for view in dino] == [False, True] + [False] * 8
    assert isinstance(views(x), list)


def test_settings_that_override_the_preset():
    view = parts(two_crops(32, scale=(0.3, 0.9), strength=2.0, blur=True).views[0])
    assert view[RandomResizedCrop].scale == (0.3, 0.9)
    assert (view[ColorJitter].brightness, view[ColorJitter].hue) == (1.6, 0.4)
    assert view[GaussianBlur].kernel_size == 3
    assert GaussianBlur not in parts(two_crops(96, blur=False).views[0])
    assert ColorJitter not in parts(two_crops(96, strength=0.0).views[0])


def test_views_have_no_state_and_can_be_copied():
    views = two_crops(96, preset="byol")
    assert not views.state_dict()
    assert not list(views.parameters())
    x = torch.rand(3, 3, 20, 20)
    torch.manual_seed(0)
    a = views(x)[0]
    torch.manual_seed(0)
    assert torch.equal(copy.deepcopy(views)(x)[0], a)


def test_a_view_that_does_nothing_is_the_image():
    x = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8)
    view = Views(
        Compose(RandomResizedCrop(12, scale=(1, 1), ratio=(1, 1)), RandomHorizontalFlip(0.0), ColorJitter(0.5, p=0.0))
    )
    torch.testing.assert_close(view(x)[0], as_float(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: two_crops(preset="simcrl"), "did you mean 'simclr'"),
        (lambda: two_crops(preset="dino"), "preset='dino'"),
        (lambda: multi_crop(preset="simclr"), "preset='simclr'"),
        (lambda: two_crops(0), "size=0"),
        (lambda: two_crops(channels=0), "channels=0"),
        (lambda: two_crops(scale=(0.5, 2)), "scale=(0.5, 2)"),
        (lambda: two_crops(strength=-1), "strength=-1"),
        (lambda: multi_crop(local_crops=-1), "local_crops=-1"),
        (lambda: two_crops(64)(torch.rand(2, 1, 64, 64)), "x.shape[1]=1"),
    ],
)
def test_errors_name_the_argument(make, words):
    with pytest.raises(ArgumentError) as error:
        make()
    assert words in str(error.value)
