"""MemoryBank: the embedding that each item of the data had when it was last seen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn._distributed import gather


class MemoryBank(nn.Module):
    """One unit vector for each item, a moving average of its embeddings (Wu et al., 2018, section 3.1).

        v_i  <-  u / |u|,   u = momentum v_i + (1 - momentum) f_i / |f_i|

    It starts with random unit vectors. A learner that does not know the number of items makes one of size 0 and calls
    `reset(len(data))` in its `before_fit`; a loaded run gives it the saved size. In several processes each brings what
    it saw, and all banks stay alike.

    Args:
        size: number of items.
        dim: features of an embedding.
        momentum: share of the old vector that stays, in [0, 1); 0 keeps the last embedding.

    Attributes:
        items: (size, dim), the vector of item i in row i.

    Raises:
        ArgumentError: a value out of range.

    >>> bank = MemoryBank(3, 2, momentum=0.0)
    >>> bank.update(torch.tensor([1]), torch.tensor([[3.0, 4.0]]))
    >>> bank.items[1]
    tensor([0.6000, 0.8000])
    """

    items: Tensor

    def __init__(self, size: int, dim: int, momentum: float = 0.5) -> None:
        super().__init__()
        expect("size", size, size >= 0, "a number of items, at least 0")
        expect("dim", dim, dim >= 1, "a number of features, at least 1")
        expect("momentum", momentum, 0 <= momentum < 1, "a number in [0, 1)")
        self.momentum = momentum
        self.register_buffer("items", F.normalize(torch.randn(size, dim), dim=1))

    def reset(self, size: int) -> None:
        """Random unit vectors for that many items."""
        drawn = torch.randn(size, self.items.shape[1], dtype=self.items.dtype, device=self.items.device)
        self.items = F.normalize(drawn, dim=1)

    @torch.no_grad()
    def update(self, index: Tensor, embeddings: Tensor) -> None:
        """Move the vectors of items `index`, int64 (b,), towards their embeddings (b, dim), of any norm.

        In place, since a bank may be large: a loss that has read `items` has to run backward first, as it has when
        `after_step` is called. Of an item that comes twice one embedding counts.

        Raises:
            ArgumentError: shapes that do not fit, or a number that no item has.
        """
        size, dim = self.items.shape
        fits = index.ndim == 1 and embeddings.shape == (len(index), dim)
        expect("index and embeddings", (tuple(index.shape), tuple(embeddings.shape)), fits, f"(b,) and (b, {dim})")
        index, embeddings = gather(index), gather(embeddings.detach().to(self.items.dtype))
        if not index.is_cuda:  # where reading a number would wait for the device
            known = bool(((index >= 0) & (index < size)).all())
            expect("index", index.tolist(), known, f"items of a bank of {size}", "reset(len(data)) gives each a place")
        moved = torch.lerp(F.normalize(embeddings, dim=1), self.items[index], self.momentum)
        self.items.index_copy_(0, index, F.normalize(moved, dim=1))
