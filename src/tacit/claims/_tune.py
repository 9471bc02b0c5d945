"""Tuning: as many trials on both sides of a claim, scored on a validation split and written down one by one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tacit import catalogue
from tacit.claims._bench import Bench
from tacit.claims._comparison import Comparison
from tacit.claims._found import Found
from tacit.claims._marks import Claim
from tacit.claims._record import append_line
from tacit.claims._run import EVIDENCE, steps_at
from tacit.errors import ArgumentError, expect

TUNING_SEED = 1000
"""Draws the split and the weights of every trial; no claim is ever run on it."""
LR_RANGE = (0.25, 4.0)
"""Times the preset's."""

Progress = Callable[[str, int, int, float], None]


@dataclass
class Tuned:
    """The trials of one side."""

    trials: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best(self) -> dict[str, Any]:
        """The settings that scored best, the first of equals; the preset itself is the first trial."""
        return max(self.trials, key=lambda trial: trial["score"])["settings"]

    @property
    def score(self) -> float:
        return max(trial["score"] for trial in self.trials)


def tune(
    found: Found,
    *,
    trials: int = 8,
    device: str = "cpu",
    evidence: Path = EVIDENCE,
    progress: Progress | None = None,
) -> dict[str, Tuned]:
    """Try settings for both sides of a `compare` claim at `small`, on a validation split of the training items.

    The first trial of a side is its preset; the others draw its `lr` around the preset's and whatever
    `settings["search"]` lists: name -> values. Each trial goes to `evidence/SYSTEM.tune.jsonl`. The best settings are
    for a person to write into the file's `small` preset, before the claim is run.

    Args:
        found: the claim.
        trials: on each side.
        device: cpu, cuda...
        evidence: folder of the records.
        progress: told (system, trial, of how many, score).

    Returns:
        system id -> its trials.

    Raises:
        ArgumentError: the claim compares no trained systems.
    """
    expect("trials", trials, trials >= 1, "at least 1")
    sides = _sides(found)
    tuned: dict[str, Tuned] = {system: Tuned() for system in sides}
    for number in range(trials):
        drawn = {system: draw(system, number) for system in sides}
        scores = _scores(found, drawn, device)
        for system, score in zip(sides, scores, strict=True):
            line = {"trial": number, "settings": drawn[system], "score": score, "claim": found.id}
            tuned[system].trials.append(line)
            append_line(evidence / f"{system}.tune.jsonl", {"format": 1, "system": system, **line})
            if progress is not None:
                progress(system, number + 1, trials, score)
    return tuned


def draw(system: str, number: int) -> dict[str, Any]:
    """The settings of a trial: none for the first, which is the preset; then drawn by the number.

    >>> draw("simclr", 0)
    {}
    """
    if number == 0:
        return {}
    settings = catalogue.find(system).load().settings
    preset, rng = settings.get("small", {}), np.random.default_rng(number)
    chosen: dict[str, Any] = {}
    if "lr" in preset:
        low, high = (math.log(preset["lr"] * factor) for factor in LR_RANGE)
        chosen["lr"] = float(f"{math.exp(rng.uniform(low, high)):.2g}")
    for name, values in settings.get("search", {}).items():
        chosen[name] = values[int(rng.integers(len(values)))]
    return chosen


def _sides(found: Found) -> list[str]:
    """The ids of the learners that the claim trains, the system's first."""
    names: list[str] = []

    class Asking(Bench):
        def compare(self, system: Any, *, baseline: Any, **more: Any) -> Comparison:
            names.extend(side if isinstance(side, str) else side.system_id for side in (system, baseline))
            raise _Asked

    with contextlib.suppress(_Asked):
        found.load()(Asking())
    known = {entry.id for entry in catalogue.systems() if entry.kind in ("learner", "estimator")}
    sides = [name for name in dict.fromkeys(names) if name in known]
    if not sides:
        raise ArgumentError(
            f"{found.id}: expected a claim that compares systems by bench.compare; this one cannot be tuned"
        )
    return sides


class _Asked(Exception):
    pass


def _scores(found: Found, drawn: Mapping[str, dict[str, Any]], device: str) -> list[float]:
    """Validation scores of the sides that have settings to tune, with these."""
    claim = found.mark
    assert isinstance(claim, Claim)
    bench = Bench((TUNING_SEED,), "small", steps=steps_at(claim, "small"), device=device, overrides=drawn, tuning=True)
    comparison = found.load()(bench)
    both = [comparison.values[0], comparison.baseline_values[0]]
    return both[: len(drawn)]
