"""Crop, flip, blur and rotation against Pillow, scipy, numpy and slow loops."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from tacit.errors import ArgumentError
from tacit.views import (
    Compose,
    GaussianBlur,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    as_float,
    center,
    resized_crop,
    rotate,
)
from tacit.views._ops import Turn


def pillow_crop(image: torch.Tensor, box: list[float], size: int) -> torch.Tensor:
    """One float image (c, h, w), channel by channel in Pillow's 32-bit mode, so that nothing is rounded."""
    top, left, bottom, right = box
    planes = [Image.fromarray(plane.numpy(), mode="F") for plane in image]
    resized = [p.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom)) for p in planes]
    return torch.stack([torch.from_numpy(np.array(p)) for p in resized])


@pytest.mark.parametrize(
    ("shape", "size"),
    [((3, 32, 32), 32), ((1, 28, 28), 24), ((5, 17, 31), 20), ((3, 40, 12), 33), ((3, 96, 96), 9), ((2, 8, 8), 1)],
)
def test_crop_and_resize_are_pillows(shape, size):
    _, h, w = shape
    x = torch.rand(4, *shape)
    boxes = torch.tensor([[0, 0, h, w], [1, 2, h - 3, w - 1], [0.3, 1.7, h / 2, w / 2 + 0.9], [h - 3.5, w - 4.2, h, w]])
    ours = resized_crop(x, boxes, size)
    theirs = torch.stack([pillow_crop(image, box, size) for image, box in zip(x, boxes.tolist(), strict=True)])
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_crop_view_uses_the_box_it_tells():
    x = torch.rand(6, 3, 20, 28)
    view, box = RandomResizedCrop(16).with_box(x)
    theirs = torch.stack([pillow_crop(image, b, 16) for image, b in zip(x, box.tolist(), strict=True)])
    torch.testing.assert_close(view, theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 50)])
def test_boxes_have_the_area_and_ratio_of_the_formula(height, width):
    """Against one box at a time by rejection, as torchvision's get_params describes it, without rounding."""
    scale, ratio, n = (0.08, 1.0), (3 / 4, 4 / 3), 4000
    torch.manual_seed(0)
    top, left, bottom, right = RandomResizedCrop(8, scale, ratio).sample(n, height, width).double().unbind(1)
    assert top.min() >= 0
    assert left.min() >= 0
    assert bottom.max() <= height
    assert right.max() <= width
    rng = np.random.default_rng(0)
    slow = []
    for _ in range(n):
        for _ in range(10):
            area = height * width * rng.uniform(*scale)
            aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
            w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if w <= width and h <= height:
                slow.append((area, aspect, rng.uniform(0, height - h), rng.uniform(0, width - w)))
                break
    drawn = ((bottom - top) * (right - left), (right - left) / (bottom - top), top, left)
    for ours, theirs in zip(drawn, np.array(slow).T, strict=True):
        assert stats.ks_2samp(ours.numpy(), theirs).pvalue > 1e-3


def test_small_crops_are_uniform_in_area_and_log_ratio():
    """No box is refused here, so the laws are exact."""
    torch.manual_seed(1)
    top, left, bottom, right = RandomResizedCrop(8, scale=(0.1, 0.4)).sample(5000, 64, 64).double().unbind(1)
    area, ratio = (bottom - top) * (right - left) / 64**2, (right - left) / (bottom - top)
    assert stats.kstest(area, stats.uniform(0.1, 0.3).cdf).pvalue > 1e-3
    span = math.log(4 / 3) - math.log(3 / 4)
    assert stats.kstest(ratio.log(), stats.uniform(math.log(3 / 4), span).cdf).pvalue > 1e-3
    assert stats.kstest(top / (64 - (bottom - top)), stats.uniform().cdf).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width", "side"), [(4, 100, (4, 16 / 3)), (100, 4, (16 / 3, 4))])
def test_where_no_box_fits_the_largest_in_the_middle_is_taken(height, width, side):
    box = RandomResizedCrop(8, scale=(1.0, 1.0)).sample(3, height, width)
    expected = [(height - side[0]) / 2, (width - side[1]) / 2, (height + side[0]) / 2, (width + side[1]) / 2]
    torch.testing.assert_close(box, torch.tensor([expected] * 3))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 9), (5, 1, 7)])
def test_flip(shape):
    x = torch.rand(64, *shape)
    flipped, box = RandomHorizontalFlip(0.5).with_box(x)
    mirrored = box[:, 1] > box[:, 3]
    torch.testing.assert_close(flipped, torch.where(mirrored[:, None, None, None], x.flip(3), x), atol=0, rtol=0)
    assert 15 < mirrored.sum() < 49


def test_boxes_lead_back_to_the_image():
    """On a ramp, a pixel tells where it came from: exactly, inside the image and where crops are enlarged."""
    h, w = 40, 50
    down, across = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    x = torch.stack([down / h, across / w]).expand(16, -1, -1, -1)
    views = Compose(
        RandomResizedCrop(60, scale=(0.5, 0.8)),
        RandomHorizontalFlip(),
        RandomResizedCrop(48, scale=(0.3, 0.5)),
        RandomHorizontalFlip(),
    )
    seen, box = views.with_box(x)
    top, left, bottom, right = box[:, :, None].unbind(1)
    place = (torch.arange(48) + 0.5) / 48
    inside = slice(3, -3)
    torch.testing.assert_close(
        seen[:, 0, :, 24][:, inside] * h, (top + place * (bottom - top))[:, inside], atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        seen[:, 1, 24][:, inside] * w, (left + place * (right - left))[:, inside], atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("shape", [(3, 20, 20), (1, 9, 30)])
@pytest.mark.parametrize("kernel_size", [None, 5])
def test_blur_is_scipys(shape, kernel_size):
    sigma = 1.3
    x = torch.rand(3, *shape)
    radius = math.ceil(4 * sigma) if kernel_size is None else kernel_size // 2
    expected = x.double().numpy()
    for axis in (2, 3):
        expected = ndimage.gaussian_filter1d(expected, sigma, axis=axis, mode="mirror", radius=radius)
    blurred = GaussianBlur((sigma, sigma), p=1.0, kernel_size=kernel_size)(x)
    torch.testing.assert_close(blurred, torch.from_numpy(expected).float(), atol=1e-5, rtol=0)


def test_blur_leaves_the_others_alone_and_draws_sigma_uniformly():
    torch.manual_seed(0)
    x = torch.zeros(4000, 1, 1, 9)
    x[..., 4] = 1
    blurred = GaussianBlur((0.5, 1.0), p=0.3, kernel_size=5)(x)
    unchanged = (blurred == x).flatten(1).all(1)
    assert abs((~unchanged).float().mean() - 0.3) < 0.03
    chosen = blurred[~unchanged, 0, 0].double()
    sigma = (
        -0.5 / (chosen[:, 5] / chosen[:, 4]).log()
    ).sqrt()  # the neighbour has weight exp(-1 / (2 sigma^2)) beside 1
    assert stats.kstest(sigma, stats.uniform(0.5, 0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(7, 7), (2, 5)])
def test_blur_of_images_smaller_than_the_kernel(shape):
    x = torch.full((2, 3, *shape), 0.25)
    torch.testing.assert_close(GaussianBlur((2, 2), p=1.0)(x), x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_rotate_is_rot90(dtype):
    x = (torch.rand(8, 3, 5, 5) * 100).to(dtype)
    turns = torch.tensor([0, 1, 2, 3, 4, -1, 7, 2])
    expected = np.stack([np.rot90(image, k, axes=(1, 2)) for image, k in zip(x.numpy(), turns.tolist(), strict=True)])
    assert torch.equal(rotate(x, turns), torch.from_numpy(expected))
    assert rotate(x, turns).dtype == dtype
    oblong = x[:, :, :3]
    assert torch.equal(rotate(oblong, 3), torch.from_numpy(np.rot90(oblong.numpy(), 3, axes=(2, 3)).copy()))


@pytest.mark.parametrize("shape", [(15, 15), (12, 19)])
def test_small_rotation_is_scipys(shape):
    x = torch.rand(1, 2, *shape)
    degrees = 17.0
    ours = Turn(torch.tensor([degrees]))(x, slice(None))
    theirs = ndimage.rotate(x.double().numpy(), degrees, axes=(3, 2), reshape=False, order=1, mode="grid-constant")
    torch.testing.assert_close(ours, torch.from_numpy(theirs).float(), atol=1e-4, rtol=0)
    counter_clockwise = Turn(torch.tensor([90.0]))(x[..., :12, :12], slice(None))
    torch.testing.assert_close(counter_clockwise, rotate(x[..., :12, :12], 1), atol=1e-4, rtol=0)


def test_random_rotation_turns_within_its_range():
    """A spot right of the centre moves up or down by the sine of the angle."""
    torch.manual_seed(0)
    x = torch.zeros(500, 1, 41, 41)
    x[:, :, 20, 35] = 1
    turned = RandomRotation(20, p=0.5)(x)[:, 0]
    mass = turned.sum((1, 2))
    rise = 20 - (turned.sum(2) * torch.arange(41.0)).sum(1) / mass
    angle = torch.rad2deg(torch.asin((rise / 15).clamp(-1, 1)))
    assert angle.abs().max() < 21.5
    assert abs((angle.abs() > 1e-3).float().mean() - 0.5) < 0.08
    assert abs(angle[angle.abs() > 1e-3].std() - 40 / math.sqrt(12)) < 1


@pytest.mark.parametrize(("shape", "size"), [((3, 40, 64), 32), ((1, 9, 9), 20), ((3, 64, 31), 8)])
def test_center_is_pillows_resize_of_the_middle_square(shape, size):
    x = torch.rand(2, *shape)
    side = min(shape[1:])
    top, left = (shape[1] - side) / 2, (shape[2] - side) / 2
    expected = torch.stack([pillow_crop(image, [top, left, top + side, left + side], size) for image in x])
    torch.testing.assert_close(center(x, size), expected, atol=2e-5, rtol=0)
    assert torch.equal(as_float(x, size), center(x, size))


def test_as_float_is_exact_and_leaves_its_input():
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(as_float(x), torch.arange(256).view(1, 1, 16, 16) / 255)
    assert torch.equal(center(x, 16), as_float(x))
    above = torch.tensor([[[[-0.5, 0.5, 1.5]]]])
    assert as_float(above).tolist() == [[[[0.0, 0.5, 1.0]]]]
    assert above.tolist() == [[[[-0.5, 0.5, 1.5]]]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomResizedCrop(0), "size=0"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 1.2)), "scale=(0.5, 1.2)"),
        (lambda: RandomResizedCrop(8, scale=(0.0, 1.0)), "scale"),
        (lambda: RandomResizedCrop(8, ratio=(2, 1)), "ratio=(2, 1)"),
        (lambda: RandomHorizontalFlip(1.5), "p=1.5"),
        (lambda: GaussianBlur(sigma=(2, 1)), "sigma=(2, 1)"),
        (lambda: GaussianBlur(kernel_size=4), "kernel_size=4"),
        (lambda: RandomRotation(-1), "degrees=-1"),
        (lambda: RandomHorizontalFlip()(torch.rand(3, 8, 8)), "x='torch.float32 (3, 8, 8)'"),
        (lambda: RandomHorizontalFlip()(torch.zeros(1, 3, 8, 8, dtype=torch.int64)), "torch.int64"),
        (lambda: RandomHorizontalFlip()(np.zeros((1, 3, 8, 8))), "x='ndarray'"),
        (lambda: as_float(torch.rand(1, 0, 8, 8)), "(1, 0, 8, 8)"),
        (lambda: rotate(torch.rand(2, 3, 4, 5), torch.tensor([0, 1])), "square"),
        (lambda: rotate(torch.rand(2, 3, 4, 4), torch.tensor([0.5, 1])), "quarter_turns"),
        (lambda: rotate(torch.rand(2, 3, 4, 4), torch.tensor([1])), "quarter_turns"),
        (lambda: resized_crop(torch.rand(2, 3, 4, 4), torch.rand(1, 4), 4), "box.shape=(1, 4)"),
        (lambda: center(torch.rand(2, 3, 4, 4), 0), "size=0"),
    ],
)
def test_errors_name_the_argument(make, words):
    with pytest.raises(ArgumentError) as error:
        make()
    assert words in str(error.value)
