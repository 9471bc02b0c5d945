"""Comparison: what came out of a claim, seed by seed, and the verdict that follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from tacit.errors import expect, unknown

Verdict = Literal["holds", "fails", "unclear"]
Kind = Literal["better", "not worse", "above", "correlation", "curve", "factors", "speed", "memory", "equal", "bound"]

EXACT = ("equal", "bound")
KINDS = get_args(Kind)


@dataclass(frozen=True)
class Comparison:
    """The effect of each seed against the margin that was set before they were run.

    | kind | effect of a seed | holds if |
    |---|---|---|
    | better, not worse | score minus the baseline's | the 95 % interval of the mean lies above the margin |
    | above, correlation, curve, factors | the number itself | the same |
    | memory | the baseline's peak over ours | the same |
    | speed | the baseline's time over ours, one effect a repetition | the 95 % interval of the median lies above |
    | equal, bound | largest deviation, or excess over the bound | none is above the margin, which is the tolerance |

    Args:
        effects: one a seed (a repetition, for speed).
        margin: 0 for better-by claims without a size, -0.02 for not-worse-by 0.02.
        kind: of the table above.
        values: what was measured of the system, by seed: numbers, or a list of them for a curve or a grid.
        baseline_values: the same of the baseline, if there is one.
        baseline: its id, or what it is in words.
        details: more for the record: the setting in words, forward passes a step.

    >>> Comparison([0.03, 0.04, 0.02, 0.05, 0.03]).verdict
    'holds'
    """

    effects: Sequence[float]
    margin: float = 0.0
    kind: Kind = "better"
    values: Sequence[Any] = ()
    baseline_values: Sequence[Any] = ()
    baseline: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind", self.kind, KINDS)
        expect("effects", len(self.effects), len(self.effects) >= 1, "at least one")

    @classmethod
    def paired(
        cls, values: Sequence[float], baseline_values: Sequence[float], margin: float = 0.0, **more: Any
    ) -> Comparison:
        """Scores on the same seeds in the same order, higher is better; not worse where the margin is below 0.

        >>> Comparison.paired([0.71, 0.73, 0.72, 0.74, 0.72], [0.68, 0.69, 0.70, 0.69, 0.69]).verdict
        'holds'
        """
        pairs = (len(values), len(baseline_values))
        expect("values", pairs, pairs[0] == pairs[1], "as many seeds on both sides")
        effects = [a - b for a, b in zip(values, baseline_values, strict=True)]
        kind: Kind = "better" if margin >= 0 else "not worse"
        return cls(effects, margin, **{"kind": kind, "values": values, "baseline_values": baseline_values, **more})

    @property
    def effect(self) -> float:
        """Mean over the seeds; for speed the median, for equal and bound the largest."""
        if self.kind in EXACT:
            return float(np.max(self.effects))
        return float(np.median(self.effects) if self.kind == "speed" else np.mean(self.effects))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the effect; for equal and bound the smallest and the largest. Endless for a single seed."""
        if self.kind in EXACT:
            return float(np.min(self.effects)), float(np.max(self.effects))
        low, high = (median_interval if self.kind == "speed" else student_interval)(np.asarray(self.effects, float))
        return float(low), float(high)

    @property
    def verdict(self) -> Verdict:
        """`holds` if the whole interval lies above the margin, `fails` if it lies below, else `unclear`."""
        if self.kind in EXACT:
            return "holds" if self.effect <= self.margin else "fails"
        low, high = self.interval
        return "holds" if low > self.margin else "fails" if high < self.margin else "unclear"


def student_interval(effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of the mean over the last axis, by Student's t; endless for a single one.

    The bootstrap of five seeds would say `holds` in 8 % of the cases in which 2.5 % is meant.
    """
    from scipy.stats import t

    n = effects.shape[-1]
    mean = effects.mean(axis=-1)
    if n == 1:
        return mean - math.inf, mean + math.inf
    half = t.ppf(0.975, n - 1) * effects.std(axis=-1, ddof=1) / math.sqrt(n)
    return mean - half, mean + half


def median_interval(effects: np.ndarray) -> tuple[float, float]:
    """Interval of the median of at least 95 %, by order statistics; endless where there are fewer than six.

    With x sorted it is (x_k, x_{n+1-k}) for the largest k with P(Binomial(n, 1/2) < k) <= 2.5 %, whatever the
    distribution: times have long tails.

    >>> median_interval(np.arange(1.0, 16.0))
    (4.0, 12.0)
    """
    from scipy.stats import binom

    ordered = np.sort(effects)
    n = len(ordered)
    k = max((k for k in range(n // 2 + 1) if binom.cdf(k - 1, n, 0.5) <= 0.025), default=0)
    return (float(ordered[k - 1]), float(ordered[n - k])) if k else (-math.inf, math.inf)
