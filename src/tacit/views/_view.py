"""View: a stochastic view of a batch of images; Compose: several in order."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from tacit.views._pending import Pending


class View(nn.Module):
    """A view of a batch of images, drawn anew for each sample at each call.

    `forward` takes uint8 (b, c, h, w) or float in [0, 1] and gives float32 in [0, 1]. All randomness comes from torch's
    global generator on the device of the batch. Autocast is off inside; gradients flow to a float batch that asks for
    them. Subclasses write `plan`.
    """

    def plan(self, pending: Pending) -> Pending:
        """Draw this view and add it to what is pending."""
        raise NotImplementedError(f"{type(self).__name__} does not define plan")

    def forward(self, x: Tensor) -> Tensor:
        return self.with_box(x)[0]

    def with_box(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The view and where it lies: (b, 4) top, left, bottom, right in pixels of x; left > right where mirrored."""
        pending = Pending.of(x)
        with torch.autocast(x.device.type, enabled=False):
            pending = self.plan(pending)
            return pending.image(), pending.box


class Compose(View):
    """Views in order. Colour changes that follow each other become one, and so does a flip with the crop before it.

    Values are clamped to [0, 1] after the last of such colour changes, where torchvision clamps after each.

    Args:
        views: from `tacit.views`, or any module from a batch of images to a batch of images.

    >>> from tacit.views import GaussianBlur, RandomHorizontalFlip, RandomResizedCrop
    >>> view = Compose(RandomResizedCrop(24), RandomHorizontalFlip(), GaussianBlur())
    >>> view(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)).shape
    torch.Size([8, 3, 24, 24])
    """

    def __init__(self, *views: nn.Module) -> None:
        super().__init__()
        self.views = nn.ModuleList(views)

    def plan(self, pending: Pending) -> Pending:
        for view in self.views:
            pending = view.plan(pending) if isinstance(view, View) else _through(view, pending)
        return pending


def _through(module: nn.Module, pending: Pending) -> Pending:
    return replace(Pending.of(module(pending.image())), box=pending.box)
