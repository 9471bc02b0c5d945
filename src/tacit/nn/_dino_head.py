"""The projection head of DINO, iBOT and DINOv2."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn._prototypes import Prototypes


class DINOHead(nn.Module):
    """Features (n, in_dim) -> logits (n, n_prototypes): an MLP to a bottleneck, then cosines to the prototypes.

        logits = C h / |h|,   h = MLP(features),   each row of C of length 1      (DINO, arXiv:2104.14294, appendix C)

    Linear layers with GELU between them, without normalisation, so that items of a batch do not see each other.

    Args:
        in_dim: features that come in.
        n_prototypes: logits that go out.
        hidden_dim: width of the hidden layers.
        bottleneck_dim: features compared with the prototypes.
        num_layers: linear layers before the prototypes, at least 1.

    Raises:
        ArgumentError: a number out of range.

    >>> import torch
    >>> head = DINOHead(16, n_prototypes=8, hidden_dim=32, bottleneck_dim=4)
    >>> logits = head(torch.randn(5, 16))
    >>> logits.shape, bool(logits.abs().max() <= 1)
    (torch.Size([5, 8]), True)
    """

    def __init__(
        self, in_dim: int, n_prototypes: int, hidden_dim: int = 2048, bottleneck_dim: int = 256, num_layers: int = 3
    ) -> None:
        super().__init__()
        expect("num_layers", num_layers, num_layers >= 1, "a number of linear layers, at least 1")
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), bottleneck_dim]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        for layer in layers[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.prototypes = Prototypes(bottleneck_dim, n_prototypes)

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """With `frozen` no gradient reaches the prototypes, as in DINO's first epoch."""
        z = self.mlp(x)
        if not frozen:
            return self.prototypes(z)
        return F.normalize(z, dim=1) @ F.normalize(self.prototypes.weight.detach(), dim=1).T
