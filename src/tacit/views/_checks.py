"""Whether a view suits the data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tacit.views._geometry import RandomHorizontalFlip, as_float

SHOWN = 1000
MARGIN = 0.03
"""Share by which mirrored images have to be farther from the data than images are from each other."""


def mirror_changes_meaning(images: Tensor) -> bool:
    """Whether mirrored images are unlike the data, as those of digits, letters and maps are, and of photos are not.

    A mirrored photo of a cat is as near to the other photos as the photo itself; a mirrored 3 is not. So the distance
    of each image to its nearest other is compared with that of its mirror image (pixels, reduced to 16), and the mean
    difference has to exceed `MARGIN` of the mean distance by two standard errors.

    Args:
        images: (n, c, h, w), uint8 or float in [0, 1]; the first 1,000 are looked at, so give a random sample.

    >>> ramps = torch.linspace(0, 1, 16).expand(20, 1, 16, 16) + 0.1 * torch.rand(20, 1, 16, 16)
    >>> mirror_changes_meaning(ramps), mirror_changes_meaning(torch.cat([ramps, ramps.flip(-1)]))
    (True, False)
    """
    x = as_float(images[:SHOWN], 16)
    if len(x) < 10:
        return False
    flat, mirrored = x.flatten(1), x.flip(-1).flatten(1)
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    plain = torch.cdist(flat, flat).masked_fill(itself, torch.inf).min(1).values
    turned = torch.cdist(mirrored, flat).masked_fill(itself, torch.inf).min(1).values
    farther = (turned - plain).double()
    error = farther.std() / len(x) ** 0.5
    return bool(farther.mean() - 2 * error > MARGIN * plain.mean())


def without_flips(module: nn.Module) -> None:
    """Switch off every horizontal flip among the module's views."""
    for part in module.modules():
        if isinstance(part, RandomHorizontalFlip):
            part.p = 0.0
