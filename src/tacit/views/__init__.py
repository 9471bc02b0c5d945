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
from tacit.views._pmi import mask_by_score, pointwise_mutual_information
from tacit.views._presets import Views, multi_crop, two_crops
from tacit.views._rows import RowCorruption
from tacit.views._series import Jitter, Scaling, SeriesCrop, SpanMask, span_mask, two_series_views
from tacit.views._tokens import crop_tokens, drop_tokens, mask_tokens
from tacit.views._view import Compose, View
from tacit.views._walks import RandomWalkWithRestart
from tacit.views._waves import AddNoise, RandomGain, RandomTimeCrop, SpecAugment, frame_spans, two_waves

__all__ = [
    "AddNoise",
    "ColorJitter",
    "Compose",
    "GaussianBlur",
    "Jitter",
    "RandomGain",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomTimeCrop",
    "RandomWalkWithRestart",
    "RowCorruption",
    "Scaling",
    "SeriesCrop",
    "Solarize",
    "SpanMask",
    "SpecAugment",
    "View",
    "Views",
    "as_float",
    "center",
    "crop_tokens",
    "drop_tokens",
    "frame_spans",
    "mask_by_score",
    "mask_tokens",
    "mirror_changes_meaning",
    "multi_crop",
    "pointwise_mutual_information",
    "resized_crop",
    "rotate",
    "span_mask",
    "two_crops",
    "two_series_views",
    "two_waves",
    "without_flips",
]
