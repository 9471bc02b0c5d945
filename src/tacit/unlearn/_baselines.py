"""Unlearning that has all labels: what a method without them is compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.embedding import evaluating, prepared

Items = tuple[Any, Tensor]
"""x, as the model's `prepare` takes it, and y (n,)."""


def finetune(model: nn.Module, kept: Items, forgotten: Items, **training: Any) -> nn.Module:
    """Train on with the kept items alone, and leave forgetting to forgetting.

    >>> x, y = torch.eye(3), torch.arange(3)
    >>> finetune(nn.Linear(3, 3), (x, y), (x, y), max_steps=2).weight.shape
    torch.Size([3, 3])
    """

    def loss(student: nn.Module, x: Tensor, y: Tensor, gone: Tensor, gone_y: Tensor) -> Tensor:
        return _cross_entropy(student(x), y)

    return _trained(model, kept, forgotten, loss, **training)


def negative_gradient(
    model: nn.Module, kept: Items, forgotten: Items, *, weight: float = 0.95, **training: Any
) -> nn.Module:
    """Down the loss of kept items and up that of forgotten ones: NegGrad+ (Kurmanji et al., 2023, section 5).

    loss = weight CE(kept) - (1 - weight) CE(forgotten)
    """

    def loss(student: nn.Module, x: Tensor, y: Tensor, gone: Tensor, gone_y: Tensor) -> Tensor:
        return weight * _cross_entropy(student(x), y) - (1 - weight) * _cross_entropy(student(gone), gone_y)

    return _trained(model, kept, forgotten, loss, **training)


def bad_teacher(
    model: nn.Module, kept: Items, forgotten: Items, *, incompetent: nn.Module, **training: Any
) -> nn.Module:
    """A student follows the model on kept items, and a network that knows nothing on forgotten ones.

        loss = KL(model(x) || student(x)) on kept + KL(incompetent(x) || student(x)) on forgotten    (eq. 3)

    Source: Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023.

    Args:
        incompetent: the network with random weights.
    """
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    incompetent = copy.deepcopy(incompetent).eval().requires_grad_(False)

    def loss(student: nn.Module, x: Tensor, y: Tensor, gone: Tensor, gone_y: Tensor) -> Tensor:
        return _divergence(teacher(x), student(x)) + _divergence(incompetent(gone), student(gone))

    return _trained(model, kept, forgotten, loss, **training)


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Labels may lie elsewhere than the model does."""
    return F.cross_entropy(logits, y.to(logits.device))


def _divergence(target: Tensor, logits: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True)


def _trained(
    model: nn.Module,
    kept: Items,
    forgotten: Items,
    loss: Callable[..., Tensor],
    *,
    max_steps: int,
    batch_size: int = 32,
    lr: float = 1e-4,
    seed: int = 0,
) -> nn.Module:
    """A copy, moved by Adam; statistics of batch normalisation stay, as in LAF."""
    student = copy.deepcopy(model)
    optimizer = torch.optim.Adam(student.parameters(), lr)
    generator = torch.Generator().manual_seed(seed)
    with evaluating(student):
        draws = (draw_batches(len(y), batch_size, generator) for _, y in (kept, forgotten))
        for _, rows, gone in zip(range(max_steps), *draws, strict=False):
            x, gone_x = (_read(student, items[0][one]) for items, one in ((kept, rows), (forgotten, gone)))
            optimizer.zero_grad()
            loss(student, x, kept[1][rows], gone_x, forgotten[1][gone]).backward()
            optimizer.step()
    return student


def _read(model: nn.Module, batch: Tensor) -> Tensor:
    return prepared(model, batch.to(device_of(model)))


def device_of(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def draw_batches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of item numbers without end, each pass in another order; the last one of a pass may be smaller."""
    while True:
        yield from torch.randperm(n, generator=generator).split(batch_size)
