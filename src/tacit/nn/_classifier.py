"""Classifier: an encoder and a linear layer that reads classes off it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tacit.errors import expect


class Classifier(nn.Module):
    """x -> logits (n, n_classes): `head(encoder(x))`.

    Args:
        encoder: x -> (n, encoder.dim).
        n_classes: at least 2.

    >>> from tacit.nn import ResNet
    >>> import torch
    >>> Classifier(ResNet(8, width=4, image_size=16), 10)(torch.rand(2, 3, 16, 16)).shape
    torch.Size([2, 10])
    """

    def __init__(self, encoder: nn.Module, n_classes: int) -> None:
        super().__init__()
        expect("n_classes", n_classes, n_classes >= 2, "at least 2")
        self.encoder, self.n_classes = encoder, n_classes
        self.head = nn.Linear(encoder.dim, n_classes)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))

    def prepare(self, items: Any) -> Tensor:
        """Raw items to what `forward` takes, as the encoder's own `prepare` does it."""
        return self.encoder.prepare(items)  # type: ignore[operator]
