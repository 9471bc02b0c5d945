"""Prototypes: directions that embeddings are compared with (SwAV, DINO)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect


class Prototypes(nn.Module):
    """Cosine similarity of embeddings to learned directions: (n, dim) -> (n, n_prototypes), in [-1, 1].

        scores = (z / |z|) C^T,   each row of C of length 1          (SwAV, arXiv:2006.09882, section 3.1)

    SwAV's code sets the rows of C to length 1 before every step, DINO's normalises weights as it uses them; so does
    this one, which needs no upkeep.

    Args:
        dim: features of an embedding.
        n_prototypes: how many directions.

    >>> prototypes = Prototypes(8, 5)
    >>> scores = prototypes(torch.randn(3, 8))
    >>> scores.shape, bool(scores.abs().max() <= 1)
    (torch.Size([3, 5]), True)
    """

    def __init__(self, dim: int, n_prototypes: int) -> None:
        super().__init__()
        expect("n_prototypes", n_prototypes, n_prototypes >= 2, "at least 2 directions")
        self.weight = nn.Parameter(F.normalize(torch.randn(n_prototypes, dim), dim=1))

    def forward(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=1) @ F.normalize(self.weight, dim=1).T
