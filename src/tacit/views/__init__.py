"""Stochastic views of a batch of images, as modules over whole tensors on the device of the batch.

A view takes uint8 (b, c, h, w) or float in [0, 1] and gives float32 in [0, 1]. What a `Compose` does is drawn for the
whole batch first; neighbours become one operation where they can, and a CPU goes through the batch part by part.
"""

from tacit.views._checks import mirror_changes_meaning, without_flips
from tacit.views._colour import ColorJitter, RandomGrayscale, Solarize
from tacit.views._geometry import (
    GaussianBlur,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    as_float,
    center,
    resized_crop,
    rotate,
)
from tacit.views._presets import Views, multi_crop, two_crops
from tacit.views._view import Compose, View

__all__ = [
    "ColorJitter",
    "Compose",
    "GaussianBlur",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "Solarize",
    "View",
    "Views",
    "as_float",
    "center",
    "mirror_changes_meaning",
    "multi_crop",
    "resized_crop",
    "rotate",
    "two_crops",
    "without_flips",
]
