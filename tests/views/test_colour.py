"""Jitter, greyscale and solarise against the formulas written out pixel by pixel, and against Pillow and colorsys."""

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from tacit.errors import ArgumentError
from tacit.views import ColorJitter, Compose, RandomGrayscale, Solarize
from tacit.views._colour import _hue
from tacit.views._pending import Pending

LUMA = (0.299, 0.587, 0.114)


def draw(monkeypatch, *values):
    """Every sample is changed, and what would be drawn is `values`, in turn."""
    coming = iter(values)
    monkeypatch.setattr(Pending, "uniform", lambda self, low, high: next(coming))
    monkeypatch.setattr(Pending, "happens", lambda self, p: torch.ones(len(self.x), dtype=torch.bool))


def luma(pixel):
    return sum(weight * value for weight, value in zip(LUMA, pixel, strict=True))


def jittered_slowly(image, brightness, contrast, saturation, turns):
    """ColorJitter's docstring, pixel by pixel in Python floats; image (3, h, w), not clamped."""
    pixels = [[brightness * v for v in pixel] for pixel in image.double().flatten(1).T.tolist()]
    mean = sum(map(luma, pixels)) / len(pixels)
    pixels = [[contrast * v + (1 - contrast) * mean for v in pixel] for pixel in pixels]
    pixels = [[saturation * v + (1 - saturation) * luma(pixel) for v in pixel] for pixel in pixels]
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    turned = []
    for red, green, blue in pixels:
        y = luma((red, green, blue))
        u, v = 0.492 * (blue - y), 0.877 * (red - y)
        u, v = cos * u - sin * v, sin * u + cos * v
        red, blue = y + v / 0.877, y + u / 0.492
        turned.append([red, (y - LUMA[0] * red - LUMA[2] * blue) / LUMA[1], blue])
    return torch.tensor(turned).T.view(image.shape)


def test_jitter_is_its_formula(monkeypatch):
    """Grey enough that nothing is clamped."""
    x = 0.35 + 0.2 * torch.rand(5, 3, 4, 6)
    factors = [
        torch.tensor([0.8, 1.2, 1.0, 1.1, 0.9]),
        torch.tensor([1.2, 0.3, 1.0, 0.0, 1.1]),
        torch.tensor([0.5, 1.5, 1.0, 0.0, 1.7]),
        torch.tensor([0.1, -0.2, 0.0, 0.5, 0.3]),
    ]
    draw(monkeypatch, *factors)
    ours = ColorJitter(1, 1, 1, 0.5)(x)
    rows = zip(x, *(f.tolist() for f in factors), strict=True)
    slow = torch.stack([jittered_slowly(*row) for row in rows]).float()
    assert slow.min() > 0
    assert slow.max() < 1
    torch.testing.assert_close(ours, slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.6])
def test_brightness_contrast_and_saturation_are_pillows(kind, enhance, factor, monkeypatch):
    """Within Pillow's rounding to whole grey values."""
    draw(monkeypatch, torch.tensor([factor]))
    x = torch.randint(0, 256, (1, 3, 12, 9), dtype=torch.uint8)
    theirs = enhance(Image.fromarray(x[0].permute(1, 2, 0).numpy())).enhance(factor)
    ours = ColorJitter(**{kind: 1.0})(x)[0] * 255
    assert (ours - torch.from_numpy(np.array(theirs)).permute(2, 0, 1)).abs().max() < 2.1


def test_hue_is_the_rotation_of_yiq():
    """colorsys has YIQ with two decimals, hence the tolerance."""
    for turns in (-0.3, 0.05, 0.2, 0.5):
        angle = 2 * math.pi * turns
        for color in torch.rand(10, 3).tolist():
            y, i, q = colorsys.rgb_to_yiq(*color)
            i, q = math.cos(angle) * i + math.sin(angle) * q, math.cos(angle) * q - math.sin(angle) * i
            ours = _hue(torch.tensor([turns]))[0] @ torch.tensor(color)
            yiq = colorsys.rgb_to_yiq(*ours.tolist())
            assert yiq == pytest.approx((y, i, q), abs=0.02)


def test_hue_keeps_grey_goes_round_and_turns_as_hsv_does():
    grey = torch.full((3,), 0.4)
    torch.testing.assert_close(_hue(torch.tensor([0.37]))[0] @ grey, grey)
    torch.testing.assert_close(_hue(torch.tensor([1.0]))[0], torch.eye(3), atol=1e-5, rtol=0)
    third = _hue(torch.tensor([1 / 3]))[0]
    torch.testing.assert_close(third @ third @ third, torch.eye(3), atol=1e-5, rtol=0)
    assert (third @ torch.tensor([1.0, 0.0, 0.0])).argmax() == 1


def test_grey_is_luma():
    x = torch.rand(3, 3, 5, 4)
    expected = torch.einsum("c,nchw->nhw", torch.tensor(LUMA), x)[:, None].expand_as(x)
    torch.testing.assert_close(RandomGrayscale(p=1.0)(x), expected)


@pytest.mark.parametrize("threshold", [0.5, 128 / 255])
def test_solarise(threshold):
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    ours = Solarize(threshold, p=1.0)(x)
    theirs = ImageOps.solarize(Image.fromarray(x[0, 0].numpy()), threshold=128)
    torch.testing.assert_close(ours[0, 0] * 255, torch.from_numpy(np.array(theirs)).float())


@pytest.mark.parametrize("p", [0.0, 0.2, 0.8, 1.0])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: ColorJitter(0.8, 0.8, 0.8, 0.2, p=p),
        lambda p: RandomGrayscale(p),
        lambda p: Solarize(0.1, p),
    ],
)
def test_each_sample_is_changed_with_probability_p(make, p):
    torch.manual_seed(0)
    x = torch.rand(1500, 3, 2, 2) * 0.5 + 0.2
    changed = (make(p)(x) - x).abs().flatten(1).amax(1) > 1e-5
    assert abs(changed.float().mean() - p) < 3.5 * math.sqrt(p * (1 - p) / 1500) + 1e-6


def test_brightness_is_drawn_uniformly():
    torch.manual_seed(0)
    factor = ColorJitter(brightness=0.4, p=1.0)(torch.full((4000, 1, 1, 1), 0.5)).flatten() / 0.5
    assert 0.6 <= factor.min() < 0.61
    assert 1.39 < factor.max() <= 1.4
    assert abs(factor.mean() - 1) < 0.02
    assert abs(factor.std() - 0.8 / math.sqrt(12)) < 0.01


@pytest.mark.parametrize("channels", [1, 5])
def test_contrast_of_other_channels_goes_by_the_mean_of_each(channels, monkeypatch):
    draw(monkeypatch, torch.tensor([0.6, 0.6]))
    x = 0.3 + 0.3 * torch.rand(2, channels, 6, 5)
    expected = 0.6 * x + 0.4 * x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(ColorJitter(contrast=0.8)(x), expected)


def test_one_by_one_and_at_once_are_the_same():
    x = 0.4 + 0.1 * torch.rand(8, 3, 9, 9)
    views = [ColorJitter(0.2, 0.4, 0.5, 0.2, p=0.8), RandomGrayscale(0.3), ColorJitter(0.1, 0.5, 0.3, 0.1)]
    torch.manual_seed(3)
    at_once = Compose(*views)(x)
    torch.manual_seed(3)
    one_by_one = x
    for view in views:
        one_by_one = view(one_by_one)
    assert one_by_one.min() > 0.01
    assert one_by_one.max() < 0.99
    torch.testing.assert_close(at_once, one_by_one, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ColorJitter(brightness=-1), "brightness=-1"),
        (lambda: ColorJitter(hue=0.6), "hue=0.6"),
        (lambda: ColorJitter(p=2), "p=2"),
        (lambda: RandomGrayscale(-0.1), "p=-0.1"),
        (lambda: Solarize(threshold=128), "threshold=128"),
        (lambda: ColorJitter(saturation=0.5)(torch.rand(2, 1, 4, 4)), "x.shape[1]=1"),
        (lambda: ColorJitter(hue=0.1)(torch.rand(2, 5, 4, 4)), "saturation=0 and hue=0"),
        (lambda: RandomGrayscale()(torch.rand(2, 1, 4, 4)), "leave RandomGrayscale out"),
    ],
)
def test_errors_name_the_argument(make, words):
    with pytest.raises(ArgumentError) as error:
        make()
    assert words in str(error.value)
