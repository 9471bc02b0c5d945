"""Optimisers by name, LARS, and the learning-rate schedule that `fit` follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tacit.errors import expect, unknown

OPTIMIZERS = ("adamw", "sgd", "lars")
SCHEDULES = ("cosine", "constant")


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman & Ginsburg, 2017, algorithm 1), as SimCLR and BYOL use it.

        local = trust * |w| / |g + weight_decay w|
        v <- momentum v + local (g + weight_decay w)
        w <- w - lr v

    Groups with `adapt=False` (biases and normalisation) take plain momentum steps, as in the SimCLR code.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)

    def _move(self, p: Tensor, group: Mapping[str, Any]) -> None:
        change = p.grad.add(p, alpha=group["weight_decay"])  # type: ignore[union-attr]
        if group["adapt"]:
            weight_norm, change_norm = p.norm(), change.norm()
            local = group["trust"] * weight_norm / change_norm
            change = change * torch.where((weight_norm > 0) & (change_norm > 0), local, torch.ones_like(local))
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(change)
        p.sub_(velocity, alpha=group["lr"])


def make_optimizer(
    modules: Iterable[nn.Module],
    name: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    betas: tuple[float, float] | None = None,
) -> torch.optim.Optimizer:
    """An optimiser over the modules' trainable parameters; vectors (biases, norms) take no weight decay.

    `momentum` is that of `sgd` and `lars`, `betas` those of `adamw`: None is (0.9, 0.999).

    Raises:
        ArgumentError: unknown name, or modules without anything to train.
    """
    parameters = list(dict.fromkeys(p for m in modules for p in m.parameters() if p.requires_grad))
    expect("parameters", len(parameters), bool(parameters), "at least one that asks for a gradient")
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999) if betas is None else betas)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    if name == "lars":
        for group in groups:
            group["adapt"] = group["params"][0].ndim > 1  # type: ignore[index]
        return LARS(groups, lr=lr, momentum=momentum)
    raise unknown("optimizer", name, OPTIMIZERS)


def scheduled_lr(lr: float, step: int, total: int, *, schedule: str, warmup: int) -> float:
    """The rate of step `step` (from 0) of `total`: linear over the first `warmup` steps, then a cosine to 0.

    >>> [round(scheduled_lr(1.0, s, 10, schedule="cosine", warmup=2), 3) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    if schedule == "constant":
        return lr
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers, as tensors by `number of the parameter/name`; the rates follow from the step."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}/{name}": torch.as_tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser back what `state_tensors` took from it."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split("/", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
