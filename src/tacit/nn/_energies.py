"""Energies: what an image should be, as a number that guided sampling makes small (FreeDoM, arXiv:2303.09833)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn._encoder import FULL, ImageEncoder, _center_square, _convert_channels

Energy = Callable[[Tensor], Tensor]
"""`energy(x0)`: clean images (n, c, h, w), float around [0, 1], to (n,), differentiable; low is what is wanted.

The images are estimates, which leave [0, 1] a little. Any such function guides; those below are the usual ones.
"""


class ClassifierEnergy(nn.Module):
    """How unlike class y a classifier of clean images finds each image:  -log softmax(classifier(x0))_y.

    The images are resized, and grey and colour converted, to what the classifier's encoder takes.

    Args:
        classifier: float images in [0, 1] -> logits (n, n_classes), such as `tacit.nn.Classifier`. A frozen copy in
            eval mode is kept; the classifier itself is left as it is.
        y: the wanted class, or one for each image, int64 (n,).

    Raises:
        ArgumentError: `y` is not as long as the batch.

    >>> from tacit.nn import Classifier, ResNet
    >>> energy = ClassifierEnergy(Classifier(ResNet(8, width=4, image_size=16), 10), 3)
    >>> energy(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2])
    """

    y: Tensor

    def __init__(self, classifier: nn.Module, y: int | Tensor) -> None:
        super().__init__()
        self.classifier = _frozen(classifier)
        self.register_buffer("y", torch.as_tensor(y), persistent=False)

    def forward(self, x0: Tensor) -> Tensor:
        y = _for_each(self.y, len(x0))
        return F.cross_entropy(self.classifier(_fit(x0, self.classifier)), y, reduction="none")


class LikenessEnergy(nn.Module):
    """Distance of each image to a reference image, in an encoder's features, in pixels, or in both.

        E(x0) = 1 - cos(f(x0), f(image)) + pixel_weight * mean over pixels of (x0 - image)^2

    The first term is the face-ID energy of FreeDoM's code, with any encoder in the place of ArcFace.

    Args:
        encoder: float images in [0, 1] -> features (n, d), such as a run's encoder; a frozen copy in eval mode is kept.
            None: pixels alone.
        image: (c, h, w) or (n, c, h, w), uint8 or float in [0, 1]; one for all images or one for each.
        pixel_weight: at least 0; 1 if there is no encoder, else 0, unless given.

    Raises:
        ArgumentError: the image has another shape, or nothing is left to compare by.

    >>> target = torch.rand(3, 16, 16)
    >>> LikenessEnergy(None, target)(target[None]).item()
    0.0
    """

    image: Tensor

    def __init__(
        self, encoder: nn.Module | None, image: Tensor | np.ndarray, *, pixel_weight: float | None = None
    ) -> None:
        super().__init__()
        weight = float(encoder is None) if pixel_weight is None else pixel_weight
        expect("pixel_weight", weight, weight >= 0, "a number of at least 0")
        expect("pixel_weight", weight, weight > 0 or encoder is not None, "a number above 0 without an encoder")
        image = torch.as_tensor(image)
        expect("image.shape", tuple(image.shape), image.ndim in (3, 4), "(c, h, w) or (n, c, h, w)")
        image = image.float() / FULL.get(image.dtype, 1)
        self.register_buffer("image", image if image.ndim == 4 else image[None], persistent=False)
        self.encoder = None if encoder is None else _frozen(encoder)
        self.pixel_weight = weight

    def forward(self, x0: Tensor) -> Tensor:
        image = _for_each(self.image, len(x0)).to(x0.dtype)
        energy = x0.new_zeros(len(x0))
        if self.encoder is not None:
            features, wanted = (self.encoder(_fit(x, self.encoder)) for x in (x0, image))
            energy = 1 - F.cosine_similarity(features, wanted, dim=1)
        if self.pixel_weight > 0:
            target = _center_square(_convert_channels(image, x0.shape[1]), x0.shape[-1])
            energy = energy + self.pixel_weight * (x0 - target).square().mean((1, 2, 3))
        return energy


class MeasurementEnergy(nn.Module):
    """How far each image is from explaining what was measured of it:  |A x0 - y|^2.

    Args:
        operator: A, images (n, c, h, w) in [0, 1] -> measurements (n, ...); linear or not, differentiable.
        y: the measurements, (n, ...), or one of them (1, ...) for all images.

    Raises:
        ArgumentError: the operator gives another shape than `y`'s.

    >>> energy = MeasurementEnergy(lambda x: x[..., ::2, ::2], torch.zeros(1, 1, 2, 2))
    >>> energy(torch.ones(3, 1, 4, 4))
    tensor([4., 4., 4.])
    """

    y: Tensor

    def __init__(self, operator: Callable[[Tensor], Tensor], y: Tensor) -> None:
        super().__init__()
        self.operator = operator
        self.register_buffer("y", y, persistent=False)

    def forward(self, x0: Tensor) -> Tensor:
        measured = self.operator(x0)
        y = _for_each(self.y, len(x0))
        expect("y.shape", tuple(y.shape), y.shape == measured.shape, f"the operator's {tuple(measured.shape)}")
        return (measured - y).square().flatten(1).sum(1)


def _frozen(network: nn.Module) -> nn.Module:
    """A copy that neither learns nor keeps statistics."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def _for_each(target: Tensor, n: int) -> Tensor:
    """One target for all images, or one for each: (n, ...)."""
    if target.ndim == 0 or len(target) == 1:
        return target.expand(n, *target.shape[1:])
    expect("targets", len(target), len(target) == n, f"1, or one for each of the {n} images")
    return target


def _fit(x: Tensor, network: nn.Module) -> Tensor:
    """The images at the size and with the channels that the network takes, where it says so."""
    encoder = getattr(network, "encoder", network)
    if not isinstance(encoder, ImageEncoder):
        return x
    return _center_square(_convert_channels(x, encoder.in_channels), encoder.image_size)
