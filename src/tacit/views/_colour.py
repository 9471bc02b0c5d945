"""Views that change colours: jitter, greyscale, solarise."""

from __future__ import annotations

import torch
from torch import Tensor

from tacit.errors import expect
from tacit.views._geometry import probability
from tacit.views._ops import Invert
from tacit.views._pending import Pending
from tacit.views._view import View

_LUMA = (0.299, 0.587, 0.114)
"""Weights of grey (ITU-R BT.601), as in Pillow and torchvision."""


class ColorJitter(View):
    """Brightness, contrast, saturation and hue, each by a random factor; p is for all four together (SimCLR, app. A).

    The formulas of Pillow's ImageEnhance, with grey = 0.299 R + 0.587 G + 0.114 B and f uniform between
    max(0, 1 - value) and 1 + value:

        brightness   f x
        contrast     f x + (1 - f) mean(grey(x))
        saturation   f x + (1 - f) grey(x)

    and for hue a rotation of the chroma plane of YIQ, which keeps grey, by an angle uniform in [-hue, hue] turns.
    Differs from torchvision, so that the four are one matrix for each sample: the order is always this one (there
    random), values are clamped once after all four (there after each), hue turns in YIQ (there in HSV).

    Args:
        brightness, contrast, saturation: value above, at least 0.
        hue: share of a turn, in [0, 0.5].
        p: probability that a sample is changed at all.

    Raises:
        ArgumentError: a value out of range; when called, saturation or hue on images that do not have 3 channels.
            Brightness and contrast take any number of channels; contrast then goes by the mean of each channel.

    >>> ColorJitter(0.8, 0.8, 0.8, 0.2)(torch.rand(4, 3, 32, 32)).shape
    torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0, p: float = 0.8
    ) -> None:
        super().__init__()
        for name, value in {"brightness": brightness, "contrast": contrast, "saturation": saturation}.items():
            expect(name, value, value >= 0, "a number not below 0")
        expect("hue", hue, 0 <= hue <= 0.5, "a share of a turn in [0, 0.5]")
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.p = probability(p)

    def plan(self, pending: Pending) -> Pending:
        c, device = pending.x.shape[1], pending.x.device
        if self.saturation or self.hue:
            _expect_colours(c, "saturation=0 and hue=0 leave brightness and contrast")
        chosen = pending.happens(self.p)

        def factor(value: float) -> Tensor:
            return torch.where(chosen, pending.uniform(max(0.0, 1 - value), 1 + value), 1.0)

        one = torch.eye(c, device=device)
        if self.brightness:
            pending = pending.recolour(factor(self.brightness)[:, None, None] * one)
        if self.contrast:
            pending = pending.contrast(factor(self.contrast), _grey(device) if c == 3 else one)
        if self.saturation:
            pending = pending.recolour(_grey(device).lerp(one, factor(self.saturation)[:, None, None]))
        if self.hue:
            turns = torch.where(chosen, pending.uniform(-self.hue, self.hue), 0.0)
            pending = pending.recolour(_hue(turns))
        return pending

    def extra_repr(self) -> str:
        return f"{self.brightness}, {self.contrast}, {self.saturation}, {self.hue}, p={self.p}"


class RandomGrayscale(View):
    """Grey (0.299 R + 0.587 G + 0.114 B in all three channels) with probability p.

    Raises:
        ArgumentError: p is not a probability; when called, images that do not have 3 channels.

    >>> RandomGrayscale(p=1.0)(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).flatten()
    tensor([0.2990, 0.2990, 0.2990])
    """

    def __init__(self, p: float = 0.2) -> None:
        super().__init__()
        self.p = probability(p)

    def plan(self, pending: Pending) -> Pending:
        _expect_colours(pending.x.shape[1], "leave RandomGrayscale out")
        device = pending.x.device
        chosen = pending.happens(self.p)[:, None, None]
        return pending.recolour(torch.where(chosen, _grey(device), torch.eye(3, device=device)))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Solarize(View):
    """1 - x where x >= threshold, with probability p (BYOL, appendix B).

    Args:
        threshold: in [0, 1].

    >>> Solarize(threshold=0.5, p=1.0)(torch.tensor([0.2, 0.5, 0.9]).view(1, 1, 1, 3)).flatten()
    tensor([0.2000, 0.5000, 0.1000])
    """

    def __init__(self, threshold: float = 0.5, p: float = 0.2) -> None:
        super().__init__()
        expect("threshold", threshold, 0 <= threshold <= 1, "a value in [0, 1]")
        self.threshold, self.p = threshold, probability(p)

    def plan(self, pending: Pending) -> Pending:
        return pending.add(Invert(pending.happens(self.p), self.threshold))

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, p={self.p}"


def _grey(device: torch.device) -> Tensor:
    """(3, 3): colour -> grey in all three channels."""
    return torch.tensor([_LUMA] * 3, device=device)


def _quarter_turn(device: torch.device) -> Tensor:
    """(3, 3): the chroma of a colour, U = 0.492 (B - Y) and V = 0.877 (R - Y), turned to (-V, U); Y falls to 0.

    The plane of U and V is that of I and Q, whose axes lie at 33 degrees to theirs.
    """
    grey, (to_red, _, to_blue) = _grey(device)[0], torch.eye(3, device=device)
    red = 0.492 / 0.877 * (to_blue - grey)
    blue = -0.877 / 0.492 * (to_red - grey)
    green = -(_LUMA[0] * red + _LUMA[2] * blue) / _LUMA[1]
    return torch.stack([red, green, blue])


def _hue(turns: Tensor) -> Tensor:
    """(b,) -> (b, 3, 3): chroma rotated about grey; for positive turns red goes towards green, as in HSV."""
    angle = (2 * torch.pi * turns)[:, None, None]
    grey = _grey(turns.device)
    return grey + angle.cos() * (torch.eye(3, device=turns.device) - grey) + angle.sin() * _quarter_turn(turns.device)


def _expect_colours(channels: int, remedy: str) -> None:
    expect("x.shape[1]", channels, channels == 3, "3 channels (red, green, blue)", remedy)
