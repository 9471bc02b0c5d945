"""Is it any good yet, and when to stop? Label-free measures of a run, and one word with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tacit.data import Dataset
from tacit.embedding import encode, evaluating
from tacit.learner import Learner

LEARNING, FLAT, COLLAPSING, UNSTABLE, CLOSED_FORM = "learning", "flat", "collapsing", "unstable", "closed form"
ITEMS = 1000
LOOKS = 20
SHARE = 0.03
"""Looks may take this share of a run's time, counted in forward passes so that it is the same on every machine."""

Look = Mapping[str, Any]
"""One look: step, epoch, loss (mean of the steps since the last look), and what was measured, by name."""


@dataclass(frozen=True)
class Verdict:
    word: str
    reason: str

    @property
    def healthy(self) -> bool:
        return self.word != COLLAPSING


def judge(looks: Sequence[Look]) -> Verdict:
    """The word for a run from its looks so far, oldest first.

    - *collapsing*: the effective rank is under 1.5, or under a tenth of the start's, twice running;
    - *unstable*: the loss of the last two looks lies above every one of the first half by more than their own spread;
    - *flat*: over the last five looks the loss fell by less than 2 % of its whole fall, and the neighbours hardly move;
    - *learning* otherwise.

    >>> judge([{"effective_rank": 40.0}, {"effective_rank": 1.2}, {"effective_rank": 1.1}]).word
    'collapsing'
    """
    ranks = [look["effective_rank"] for look in looks if _known(look, "effective_rank")]
    if len(ranks) >= 3 and all(_collapsed(rank, ranks[0]) for rank in ranks[-2:]):
        return Verdict(COLLAPSING, f"effective rank fell from {ranks[0]:.1f} to {ranks[-1]:.1f}: items look alike")
    losses = [(look, _loss(look)) for look in looks if _loss(look) is not None]
    values = [loss for _, loss in losses]
    loss = "the loss on held-out items" if any(_known(look, "held_out_loss") for look in looks) else "the loss"
    if len(values) >= 6 and _risen(values):
        return Verdict(UNSTABLE, f"{loss} rose to {values[-1]:.3g} after {min(values):.3g}: lower lr or longer warm-up")
    if len(values) >= 8 and _settled(values) and _still(looks):
        return Verdict(FLAT, f"flat since epoch {losses[-5][0].get('epoch', 0):.0f}: more steps bring little")
    if len(values) < 3:
        return Verdict(LEARNING, "too early to tell more")
    if values[-1] >= values[0]:
        return Verdict(LEARNING, f"{loss} has not fallen yet: {values[0]:.3g} at first, {values[-1]:.3g} now")
    return Verdict(LEARNING, f"{loss} fell from {values[0]:.3g} to {values[-1]:.3g}")


def _collapsed(rank: float, start: float) -> bool:
    return rank < 1.5 or rank < start / 10


def _risen(losses: Sequence[float]) -> bool:
    early = losses[1 : len(losses) // 2 + 1]
    spread = max(early) - min(early)
    return min(losses[-2:]) > max(early) + spread


def _settled(losses: Sequence[float]) -> bool:
    fall = losses[0] - min(losses)
    return fall <= 0 or (losses[-5] - losses[-1]) < 0.02 * fall


def _still(looks: Sequence[Look]) -> bool:
    return looks[-1].get("neighbour_stability", 1.0) > 0.8


def _loss(look: Look) -> float | None:
    value = look.get("held_out_loss", look.get("loss"))
    return value if value is not None and math.isfinite(value) else None


def _known(look: Look, name: str) -> bool:
    return look.get(name) is not None and math.isfinite(look[name])


def look_steps(total: int, batch_size: int, n: int) -> tuple[list[int], int]:
    """The steps after which to look (0: before the first), and at how many items: 20 times at 1,000, or less often.

    A step costs about six forward passes of its batch (two views, forward and backward); a look five of its items: as
    they are, two views, and two views of as many held-out ones for the loss.

    >>> look_steps(1000, 256, 10_000)[0][:3], look_steps(1000, 256, 10_000)[1]
    ([0, 50, 100], 460)
    """
    passes = SHARE * total * batch_size * 6 / 5
    items = max(min(n, ITEMS, int(passes / LOOKS)), min(n, 64))
    looks = max(2, min(LOOKS, total, int(passes / max(items, 1))))
    return sorted({round(total * i / looks) for i in range(looks + 1)}), items


class Monitor:
    """Looks at a run's fixed items as it goes on.

    Args:
        learner: its `encoder` is measured; one without an encoder has its loss only.
        data: the training items.
        held_out: items kept from training, or None where the loss needs item numbers or labels.
        total: steps of the run.
        batch_size: global batch size.
        seed: seed of the items and of the views.
    """

    def __init__(
        self, learner: Learner, data: Dataset, held_out: Dataset | None, *, total: int, batch_size: int, seed: int
    ) -> None:
        self.learner, self.held_out, self.seed = learner, held_out, seed
        self.steps, items = look_steps(total, batch_size, len(data))
        if held_out is not None:
            self.held_out = held_out.select(slice(0, items))
        self.looks: list[dict[str, Any]] = []
        self.neighbours: Tensor | None = None
        self.losses: list[float] = []
        self._batch_size = batch_size
        shown = held_out if held_out is not None and len(held_out) >= items else data
        picked = torch.randperm(len(shown), generator=torch.Generator().manual_seed(seed))[:items]
        self._items = shown.select(picked) if "x" in shown else None

    @property
    def verdict(self) -> Verdict:
        return judge(self.looks)

    @property
    def last_healthy(self) -> int | None:
        """Step of the last look before the rank fell."""
        start = self.looks[0].get("effective_rank", math.inf) if self.looks else math.inf
        healthy = [look["step"] for look in self.looks if not _collapsed(look.get("effective_rank", math.inf), start)]
        return healthy[-1] if healthy else None

    def note_loss(self, loss: float) -> None:
        self.losses.append(loss)

    def look(self, step: int, epoch: float) -> dict[str, Any]:
        """Measure now; the state of the random generators is the caller's to set afterwards."""
        found: dict[str, Any] = {"step": step, "epoch": epoch}
        if self.losses:
            found["loss"] = sum(self.losses) / len(self.losses)
            self.losses = []
        encoder = getattr(self.learner, "encoder", None)
        if encoder is not None and self._items is not None:
            with evaluating(self.learner):
                found |= self._measure(encoder)
        if self.held_out is not None:
            found["held_out_loss"] = self._held_out_loss()
        self.looks.append(found)
        return found

    def _measure(self, encoder: torch.nn.Module) -> dict[str, Any]:
        from tacit.evaluate import alignment, effective_rank, neighbours, uniformity

        vectors = self._encode(encoder, None)
        if len(vectors) < 2 or not torch.isfinite(vectors).all():
            return {}
        rank = effective_rank(vectors, return_interval=True)
        found = {
            "effective_rank": rank.value,
            "effective_rank_low": rank.low,
            "effective_rank_high": rank.high,
            "uniformity": float(uniformity(vectors)),
        }
        k = min(10, len(vectors) - 1)
        _, near = neighbours(vectors, vectors, k, exclude_self=True)
        near = torch.as_tensor(near)
        if self.neighbours is not None and self.neighbours.shape == near.shape:
            found["neighbour_stability"] = _overlap(self.neighbours, near)
        self.neighbours = near
        views = getattr(self.learner, "views", None)
        if views is not None:
            pairs = self._encode(encoder, views)
            if pairs.ndim == 3:
                found["alignment"] = float(alignment(pairs[0], pairs[1]))
        return found

    def _encode(self, encoder: torch.nn.Module, views: torch.nn.Module | None) -> Tensor:
        """(n, dim) of the items as they are, or (2, n, dim) of two views of each."""
        torch.manual_seed(self.seed)
        device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
        parts = []
        assert self._items is not None
        for start in range(0, len(self._items), 256):
            batch = self._items["x"][slice(start, min(start + 256, len(self._items)))].to(device)
            parts.append(encode(encoder, batch) if views is None else self._encode_views(encoder, views, batch))
        return torch.cat(parts, dim=-2).float().cpu()

    @staticmethod
    def _encode_views(encoder: torch.nn.Module, views: torch.nn.Module, batch: Tensor) -> Tensor:
        seen = views(batch)
        if not isinstance(seen, tuple | list):
            seen = (seen, views(batch))
        return torch.stack([encode(encoder, view) for view in seen[:2]])

    def _held_out_loss(self) -> float:
        """Mean loss of the held-out items in batches of the run's size; buffers that the loss moves are put back."""
        assert self.held_out is not None
        buffers = {name: buffer.clone() for name, buffer in self.learner.named_buffers()}
        device = next((p.device for p in self.learner.parameters()), torch.device("cpu"))
        size = min(self._batch_size, len(self.held_out))
        losses = []
        torch.manual_seed(self.seed)
        with evaluating(self.learner), torch.no_grad():
            for start in range(0, len(self.held_out) - size + 1, size):
                rows = slice(start, start + size)
                batch = {name: self.held_out[name][rows].to(device) for name in self.learner.columns}
                losses.append(float(self.learner.loss(**batch)))
        with torch.no_grad():
            for name, buffer in self.learner.named_buffers():
                buffer.copy_(buffers[name])
        return sum(losses) / len(losses)


def _overlap(before: Tensor, after: Tensor) -> float:
    """Mean share of each item's neighbours that stayed."""
    return (before.unsqueeze(2) == after.unsqueeze(1)).any(2).float().mean().item()
