import math

import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import Colorization, Deblurring, Inpainting, RandomProjection, SuperResolution, gaussian_kernel

SIDE = 6
UNEVEN = torch.tensor([0.1, 0.6, 0.3])
OPERATORS = {
    "inpainting": Inpainting((torch.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3 > 0).float()),
    "inpainting by channel": Inpainting((torch.arange(3 * SIDE * SIDE).reshape(3, SIDE, SIDE) % 5 > 1).float()),
    "super-resolution": SuperResolution(2),
    "super-resolution by 3": SuperResolution(3),
    "colorization": Colorization(),
    "deblurring": Deblurring(gaussian_kernel(0.6), SIDE),
    "deblurring, rank lost": Deblurring(torch.ones(3) / 3, SIDE, boundary="circular"),
    "uneven blur": Deblurring(UNEVEN, SIDE, boundary="constant"),
    "projection": RandomProjection(0.4, SIDE),
}
every = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())


def matrix(operator, shape=(3, SIDE, SIDE)):
    """A as numpy has it, column by column, float64."""
    pixels = torch.eye(math.prod(shape)).reshape(-1, *shape)
    return operator(pixels).flatten(1).T.double().numpy()


@every
def test_pinv_is_numpys_pseudo_inverse_of_the_explicit_matrix(operator):
    a = matrix(operator)
    y = operator(torch.rand(1, 3, SIDE, SIDE))
    measurements = torch.eye(a.shape[0]).reshape(-1, *y.shape[1:])
    ours = operator.pinv(measurements).flatten(1).T.numpy()
    np.testing.assert_allclose(ours, np.linalg.pinv(a, rcond=1e-4), atol=2e-4)


@every
def test_the_four_conditions_of_penrose_for_any_number_of_images(operator):
    x = torch.randn(5, 3, SIDE, SIDE)
    y = operator(x)
    torch.testing.assert_close(operator(operator.pinv(y)), y, atol=1e-5, rtol=1e-5)
    seen = operator.pinv(y)
    torch.testing.assert_close(operator.pinv(operator(seen)), seen, atol=1e-5, rtol=1e-5)
    a = matrix(operator)
    projection = np.linalg.pinv(a, rcond=1e-4) @ a
    np.testing.assert_allclose(projection, projection.T, atol=1e-9)
    torch.testing.assert_close(operator(x[:1]), y[:1])


@every
def test_spectral_scales_the_singular_directions(operator):
    """Against numpy's singular value decomposition of the explicit matrix."""
    a = matrix(operator)
    _, s, vt = np.linalg.svd(a, full_matrices=True)
    s = np.concatenate([s, np.zeros(len(vt) - len(s))])
    s[s < 1e-4] = 0
    expected = vt.T @ np.diag(np.exp(-3 * s)) @ vt
    pixels = torch.eye(3 * SIDE * SIDE).reshape(-1, 3, SIDE, SIDE)
    ours = operator.spectral(pixels, lambda values: torch.exp(-3 * values)).flatten(1).T.numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_each_is_what_it_says():
    x = torch.rand(2, 3, SIDE, SIDE)
    blocks = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(0)
    torch.testing.assert_close(SuperResolution(2)(x), blocks)
    torch.testing.assert_close(Colorization()(x)[:, 0], (x[:, 0] + x[:, 1] + x[:, 2]) / 3)
    projected = RandomProjection(0.4, SIDE)(x)
    assert projected.shape == (2, 3, round(0.4 * SIDE * SIDE))
    a = matrix(RandomProjection(0.4, SIDE), (1, SIDE, SIDE))
    np.testing.assert_allclose(a @ a.T, np.eye(len(a)), atol=1e-5)
    assert not np.allclose(a, matrix(RandomProjection(0.4, SIDE, seed=1), (1, SIDE, SIDE)))


@pytest.mark.parametrize(("boundary", "mode"), [("constant", "constant"), ("reflect", "reflect"), ("circular", "wrap")])
def test_blur_against_a_loop_over_pixels(boundary, mode):
    x = torch.rand(SIDE, SIDE)
    padded = np.pad(x.double().numpy(), 1, mode=mode)
    weights = UNEVEN.double().numpy()
    expected = np.zeros((SIDE, SIDE))
    for i in range(SIDE):
        for j in range(SIDE):  # a convolution: weight k takes the pixel k before
            for p in range(3):
                for q in range(3):
                    expected[i, j] += weights[p] * weights[q] * padded[i + 2 - p, j + 2 - q]
    blurred = Deblurring(UNEVEN, SIDE, cutoff=1e-6, boundary=boundary)(x[None, None])[0, 0]
    np.testing.assert_allclose(blurred.numpy(), expected, atol=1e-5)


def test_cutoff_bounds_what_is_lost_and_how_much_noise_is_blown_up():
    kernel = gaussian_kernel(1.5)
    whole, cut = (Deblurring(kernel, 16, cutoff=cutoff) for cutoff in (1e-9, 0.05))
    x = torch.randn(4, 1, 16, 16)
    lost = (whole(x) - cut(x)).flatten(1).norm(dim=1)
    assert (lost <= 0.05 * x.flatten(1).norm(dim=1)).all()
    assert (cut.pinv(x).flatten(1).norm(dim=1) <= x.flatten(1).norm(dim=1) / 0.05).all()


def test_what_cannot_be_is_refused_with_the_remedy():
    with pytest.raises(ArgumentError, match=r"divides the images' 9 x 6; scales that do: 3"):
        SuperResolution(2)(torch.rand(1, 1, 9, 6))
    with pytest.raises(ArgumentError, match="scales that do: none"):
        SuperResolution(2)(torch.rand(1, 1, 5, 7))
    with pytest.raises(ArgumentError, match="threshold it"):
        Inpainting(torch.full((4, 4), 0.5))
    with pytest.raises(ArgumentError, match="resize the mask"):
        Inpainting(torch.ones(4, 4))(torch.rand(1, 1, 5, 5))
    with pytest.raises(ArgumentError, match="no colour"):
        Colorization(channels=1)
    with pytest.raises(ArgumentError, match="3 channels"):
        Colorization()(torch.rand(1, 1, 4, 4))
    with pytest.raises(ArgumentError, match="odd"):
        Deblurring(torch.ones(4) / 4, 8)
    with pytest.raises(ArgumentError, match="image_size=4"):
        Deblurring(gaussian_kernel(2.0), 4)
    with pytest.raises(ArgumentError, match="ratio=0"):
        RandomProjection(0, 4)
