"""Queue: embeddings of the batches before this one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn._distributed import gather


class Queue(nn.Module):
    """The last `size` embeddings seen, first in first out (MoCo, He et al., 2020, section 3.2).

    It starts with random unit vectors. Over several processes each pushes the batches of all, so that the queues stay
    alike.

    Args:
        size: number of embeddings kept.
        dim: their dimension.

    Attributes:
        items: (size, dim) unit vectors, in no particular order.
        pointer: where the next one goes.

    Raises:
        ArgumentError: size or dim below 1.

    >>> queue = Queue(4, 2)
    >>> queue.push(torch.tensor([[3.0, 4.0]]))
    >>> queue.items[0].tolist(), int(queue.pointer)
    ([0.6000000238418579, 0.800000011920929], 1)
    """

    items: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        expect("size", size, size >= 1, "a number of embeddings, at least 1")
        expect("dim", dim, dim >= 1, "a number of features, at least 1")
        self.register_buffer("items", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, batch: Tensor) -> None:
        """Put a batch (n, dim) in place of the oldest; of a batch larger than the queue, the last `size` rows.

        `items` becomes a new tensor: a loss that has read the old one can still run backward.

        Raises:
            ArgumentError: the batch has another dimension.
        """
        size, dim = self.items.shape
        expect("batch", tuple(batch.shape), batch.ndim == 2 and batch.shape[1] == dim, f"shape (n, {dim})")
        batch = F.normalize(gather(batch.detach()).to(self.items.dtype), dim=1)
        places = (self.pointer + torch.arange(len(batch), device=self.pointer.device)) % size
        self.items = self.items.index_copy(0, places[-size:], batch[-size:])
        self.pointer = (self.pointer + len(batch)) % size
