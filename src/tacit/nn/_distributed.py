"""What needs the other processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather(x: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, (n, ...) -> (processes * n, ...); differentiable.

    The gradient of x sums what the losses of all processes say about it. With the gradients of parameters then averaged
    over the processes, as `tacit.fit` does, the outcome is the gradient of the mean of their losses. Each must bring
    equally many rows. Without `torch.distributed`, or in a single process, it is x itself.

    >>> gather(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    return x if world_size() == 1 else _Gather.apply(x)


def world_size() -> int:
    """How many processes train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]
