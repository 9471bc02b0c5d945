"""How sure a verdict is: the share of comparisons that hold, drawn where the true difference is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tacit.claims._comparison import student_interval
from tacit.errors import unknown

HEAVY = 3
"""Degrees of freedom of the heavy-tailed noise: the fewest with a standard deviation, and no fourth moment."""

NOISES: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy-tailed": lambda rng, shape: rng.standard_t(HEAVY, shape) / np.sqrt(HEAVY / (HEAVY - 2)),
    "skewed up": lambda rng, shape: rng.exponential(size=shape) - 1,
    "skewed down": lambda rng, shape: 1 - rng.exponential(size=shape),
}
"""Noise of the paired differences, of mean 0 and standard deviation 1: normal, Student's t, exponential either way."""


def calibration(noise: str, difference: float, n: int = 10_000, seeds: int = 5, seed: int = 0) -> float:
    """The share of n comparisons that hold, where the true difference is this far above the margin.

    At 0 it is how often `holds` is said in error; far above, how often an effect is seen.

    Args:
        noise: one of `NOISES`.
        difference: true mean of the paired differences minus the margin, in their standard deviations.
        n: comparisons.
        seeds: paired differences in each.
        seed: of the draws.

    >>> 0.020 <= calibration("normal", 0.0) <= 0.030
    True
    """
    if noise not in NOISES:
        raise unknown("noise", noise, NOISES)
    effects = difference + NOISES[noise](np.random.default_rng(seed), (n, seeds))
    low, _ = student_interval(effects)
    return float((low > 0).mean())
