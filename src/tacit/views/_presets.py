"""Published recipes of views, fitted to the size and the channels of the images."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from tacit.errors import expect, unknown
from tacit.views._colour import ColorJitter, RandomGrayscale, Solarize
from tacit.views._geometry import GaussianBlur, RandomHorizontalFlip, RandomResizedCrop
from tacit.views._view import Compose, View

_SMALL = 32
"""Up to this size there is no blur, and SimCLR's jitter has half its strength (its recipe for CIFAR, appendix B.9)."""


@dataclass(frozen=True)
class Recipe:
    """What a paper does to its views beside the flip. Tuples of blur and solarize go by view, the last for all others.

    Attributes:
        jitter: brightness, contrast, saturation and hue of `ColorJitter`, applied with p = 0.8; 0 is none.
        grey, blur, solarize: probabilities.
        scale, local_scale: shares of the area in a crop.
        small_strength: what the jitter is multiplied with for small images.
    """

    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    grey: float = 0.2
    blur: tuple[float, ...] = (0.0,)
    solarize: tuple[float, ...] = (0.0,)
    scale: tuple[float, float] = (0.08, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.14)
    small_strength: float = 1.0

    def fitted(self, image_size: int, channels: int, strength: float | None, blur: bool | None) -> Recipe:
        """This recipe for images of that size and number of channels."""
        expect("channels", channels, channels >= 1, "at least one channel")
        expect("strength", strength, strength is None or 0 <= strength <= 2, "a factor in [0, 2], or None")
        small, coloured = image_size <= _SMALL, channels == 3
        if strength is None:
            strength = (self.small_strength if small else 1.0) if coloured else 0.0
        brightness, contrast, saturation, hue = (strength * value for value in self.jitter)
        return replace(
            self,
            jitter=(brightness, contrast, saturation, hue) if coloured else (brightness, contrast, 0.0, 0.0),
            grey=self.grey if coloured else 0.0,
            blur=self.blur if blur or (blur is None and not small) else (0.0,),
        )

    def view(self, number: int, crop: RandomResizedCrop, flip: bool) -> Compose:
        """The view of that number, from 0."""
        blur, solarize = (p[min(number, len(p) - 1)] for p in (self.blur, self.solarize))
        views: list[View] = [crop]
        if flip:
            views.append(RandomHorizontalFlip())
        if any(self.jitter):
            views.append(ColorJitter(*self.jitter, p=0.8))
        if self.grey:
            views.append(RandomGrayscale(self.grey))
        if blur:
            views.append(GaussianBlur(p=blur, kernel_size=crop.size // 10 // 2 * 2 + 1))
        if solarize:
            views.append(Solarize(p=solarize))
        return Compose(*views)


_RECIPES = {
    "simclr": Recipe((0.8, 0.8, 0.8, 0.2), blur=(0.5,), small_strength=0.5),
    "byol": Recipe((0.4, 0.4, 0.2, 0.1), blur=(1.0, 0.1), solarize=(0.0, 0.2)),
    "moco-v2": Recipe((0.4, 0.4, 0.4, 0.1), blur=(0.5,), scale=(0.2, 1.0)),
    "crop": Recipe(grey=0.0),
    "swav": Recipe((0.8, 0.8, 0.8, 0.2), blur=(0.5,), scale=(0.14, 1.0), small_strength=0.5),
    "dino": Recipe(
        (0.4, 0.4, 0.2, 0.1),
        blur=(1.0, 0.1, 0.5),
        solarize=(0.0, 0.2, 0.0),
        scale=(0.4, 1.0),
        local_scale=(0.05, 0.4),
    ),
}


class Views(nn.Module):
    """Several views of the same batch: batch -> [view by the first, view by the second, ...].

    >>> import torch
    >>> small, large = Views(RandomResizedCrop(16), RandomResizedCrop(32))(torch.rand(4, 3, 32, 32))
    >>> small.shape, large.shape
    (torch.Size([4, 3, 16, 16]), torch.Size([4, 3, 32, 32]))
    """

    def __init__(self, *views: View) -> None:
        super().__init__()
        self.views = nn.ModuleList(views)

    def forward(self, x: Tensor) -> list[Tensor] | tuple[Tensor, ...]:
        return [view(x) for view in self.views]

    def with_boxes(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Views and their boxes: (b, 4) top, left, bottom, right in pixels of x; left > right where mirrored."""
        views, boxes = zip(*(view.with_box(x) for view in self.views), strict=True)  # type: ignore[operator]
        return list(views), list(boxes)


class TwoViews(Views):
    """Two views of the same batch: batch -> (a, b)."""

    def __init__(self, first: View, second: View) -> None:
        super().__init__(first, second)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.views
        return first(x), second(x)


def two_crops(
    image_size: int = 32,
    *,
    channels: int = 3,
    preset: str = "simclr",
    flip: bool = True,
    scale: tuple[float, float] | None = None,
    strength: float | None = None,
    blur: bool | None = None,
) -> TwoViews:
    """The two views of each image that joint-embedding methods compare: batch -> (a, b).

    Each is a random resized crop, a flip (p = 0.5), and then by preset:

        preset    scale      jitter: brightness, contrast,   grey  blur       solarize   source
                             saturation, hue (p = 0.8)             a, b       a, b
        simclr    0.08 - 1   0.8, 0.8, 0.8, 0.2              0.2   0.5, 0.5   -          arXiv:2002.05709, app. A
        byol      0.08 - 1   0.4, 0.4, 0.2, 0.1              0.2   1.0, 0.1   0.0, 0.2   arXiv:2006.07733, app. B
        moco-v2   0.2 - 1    0.4, 0.4, 0.4, 0.1              0.2   0.5, 0.5   -          arXiv:2003.04297
        crop      0.08 - 1   -                               -     -          -          crop and flip alone

    Up to 32 pixels there is no blur, and simclr's jitter has half its strength (its recipe for CIFAR, app. B.9). Above,
    sigma is uniform from 0.1 to 2 pixels and the kernel a tenth of the side (SimCLR, app. A). Images that do not have 3
    channels get neither jitter nor grey, unless `strength` asks for brightness and contrast.

    Args:
        image_size: side of the views in pixels; that of the images may differ.
        channels: of the images; the recipe is fitted to them.
        preset: a row of the table.
        flip: False where flipping changes what an image means (digits, letters, maps).
        scale: share of the area in a crop, in place of the preset's.
        strength: what the jitter is multiplied with, in [0, 2], in place of the above.
        blur: whether to blur at all, in place of the above.

    Returns:
        A module: uint8 (b, channels, h, w) or float in [0, 1] -> two float32 (b, channels, image_size, image_size) in
        [0, 1]. Its `with_boxes(x)` also tells where the crops lie.

    Raises:
        ArgumentError: an unknown preset, a value out of range.

    >>> import torch
    >>> a, b = two_crops(32)(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8))
    >>> a.shape, a.dtype
    (torch.Size([8, 3, 32, 32]), torch.float32)
    """
    recipe = _recipe(preset, ("simclr", "byol", "moco-v2", "crop")).fitted(image_size, channels, strength, blur)
    crop = RandomResizedCrop(image_size, recipe.scale if scale is None else scale)
    return TwoViews(recipe.view(0, crop, flip), recipe.view(1, crop, flip))


def multi_crop(
    image_size: int = 32,
    *,
    channels: int = 3,
    preset: str = "swav",
    local_crops: int = 6,
    local_size: int | None = None,
    flip: bool = True,
    scale: tuple[float, float] | None = None,
    local_scale: tuple[float, float] | None = None,
    strength: float | None = None,
    blur: bool | None = None,
) -> Views:
    """Two global crops and several small local ones (SwAV, section 3.2): batch -> [global, global, local, local, ...].

        preset   scale      local scale   jitter (p = 0.8)     grey  blur            solarize        source
        swav     0.14 - 1   0.05 - 0.14   0.8, 0.8, 0.8, 0.2   0.2   0.5             -               arXiv:2006.09882
        dino     0.4 - 1    0.05 - 0.4    0.4, 0.4, 0.2, 0.1   0.2   1.0, 0.1, 0.5   0.0, 0.2, 0.0   arXiv:2104.14294

    The third figure holds for the local crops. What `two_crops` says of small images and of channels holds here too,
    with the halved strength for swav.

    Args:
        local_crops: how many; 6 in SwAV's best setting, 8 or 10 in DINO's.
        local_size: side of the local crops in pixels. None: 96 / 224 of image_size as in the papers, a multiple of 8.
        scale, local_scale: share of the area in a global and a local crop, in place of the preset's.
        image_size, channels, flip, strength, blur: as in `two_crops`.

    Returns:
        A module: uint8 (b, channels, h, w) or float in [0, 1] -> list of 2 + local_crops float32 batches in [0, 1]. Its
        `with_boxes(x)` also tells where the crops lie.

    Raises:
        ArgumentError: an unknown preset, a value out of range.

    >>> import torch
    >>> [len(view[0, 0]) for view in multi_crop(64, local_crops=2)(torch.rand(4, 3, 64, 64))]
    [64, 64, 24, 24]
    """
    recipe = _recipe(preset, ("swav", "dino")).fitted(image_size, channels, strength, blur)
    expect("local_crops", local_crops, local_crops >= 0, "a number not below 0")
    local_size = max(8, round(image_size * 96 / 224 / 8) * 8) if local_size is None else local_size
    crop = RandomResizedCrop(image_size, recipe.scale if scale is None else scale)
    local = RandomResizedCrop(local_size, recipe.local_scale if local_scale is None else local_scale)
    return Views(*(recipe.view(i, crop if i < 2 else local, flip) for i in range(2 + local_crops)))


def _recipe(preset: str, choices: tuple[str, ...]) -> Recipe:
    if preset not in choices:
        raise unknown("preset", preset, choices)
    return _RECIPES[preset]
