"""Momentum: slow-moving copies of live networks."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from tacit.errors import expect


class Momentum(nn.Module):
    """Copies of networks that follow the live ones by an exponential moving average, without gradient.

        copy <- decay * copy + (1 - decay) * live

    As in MoCo (He et al., 2020, eq. 2), Mean Teacher and BYOL. No live network is registered here, so that none has a
    second name: the live ones are passed to `update`. BatchNorm statistics are the copies' own, from the batches that
    they see themselves; they run in train mode while the learner does, as the official codes do.

    Args:
        modules: the live networks, in the order in which `forward` chains their copies.
        decay: share of the copy that stays at each update, in [0, 1]; where `update` is told the progress, the share at
            the start.

    Raises:
        ArgumentError: no module, or a decay outside [0, 1].

    >>> live = nn.Linear(2, 1, bias=False)
    >>> target = Momentum(live, decay=0.9)
    >>> with torch.no_grad():
    ...     before = live.weight.clone()
    ...     live.weight += 1
    >>> target.update(live)
    >>> bool(torch.allclose(target.copies[0].weight, before + 0.1)), target(torch.ones(3, 2)).requires_grad
    (True, False)
    """

    def __init__(self, *modules: nn.Module, decay: float = 0.996) -> None:
        super().__init__()
        expect("modules", modules, len(modules) > 0, "at least one network")
        expect("decay", decay, 0 <= decay <= 1, "a share in [0, 1]")
        self.decay = decay
        self.copies = nn.ModuleList(copy.deepcopy(module) for module in modules).requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The copies in sequence, without gradient."""
        for module in self.copies:
            x = module(x)
        return x

    @torch.no_grad()
    def update(self, *modules: nn.Module, progress: float | None = None) -> None:
        """Move the copies towards the live networks.

        Args:
            modules: the live networks, in the order of construction.
            progress: share of the training done, in [0, 1]; the decay then rises from its start to 1 on a cosine,
                1 - (1 - decay) (cos(pi progress) + 1) / 2 (BYOL, section 3.2). None: the decay is constant.

        Raises:
            ArgumentError: not as many modules, or other parameters, than at construction.
        """
        copies: list[Tensor] = list(self.copies.parameters())
        live: list[Tensor] = [parameter for module in modules for parameter in module.parameters()]
        alike = len(modules) == len(self.copies) and [p.shape for p in copies] == [p.shape for p in live]
        expect(
            "modules", [type(m).__name__ for m in modules], alike, f"the {len(self.copies)} networks of construction"
        )
        torch._foreach_lerp_(copies, live, 1 - self.decay_at(progress))

    def decay_at(self, progress: float | None) -> float:
        """The decay at that share of the training."""
        if progress is None:
            return self.decay
        return 1 - (1 - self.decay) * (math.cos(math.pi * progress) + 1) / 2
