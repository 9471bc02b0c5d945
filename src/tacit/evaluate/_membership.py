"""Membership inference without shadow models: can one tell from a score what a network was trained on?"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from tacit.errors import expect
from tacit.evaluate._estimates import Score, wilson

Z = 1.959963984540054


def membership_auroc(members: Any, others: Any) -> Score:
    """How well a score tells items that were trained on from items that were not: the area under the ROC curve.

    The probability that a member scores higher than another item, ties counted half. 0.5: the score tells nothing; an
    attacker who knows no more than it cannot do better than its ROC curve. Any score will do that training raises:
    minus the loss (Yeom et al., 2018), confidence, how alike two views' vectors are (Liu et al., 2021, EncoderMI).

    Args:
        members: (m,) scores of items that were trained on.
        others: (n,) scores of items of the same kind that were not.

    Returns:
        The area, with Newcombe's 95 % interval, which stays honest near 0 and 1 and for few items.

    Raises:
        ArgumentError: no scores, or such that are not finite.

    Source: Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", Statistics
    in Medicine 2006, part 2, method 5: the bounds solve (A - a)^2 = z^2 var(a), with the variance of Hanley and McNeil
    for exponential scores at mean sample size.

    >>> print(membership_auroc([0.9, 0.8, 0.7, 0.6], [0.5, 0.65, 0.1, 0.2]))
    93.8 % (51.3-99.5)
    """
    from scipy.stats import rankdata

    members, others = _scores("members", members), _scores("others", others)
    m, n = len(members), len(others)
    ranks = rankdata(np.concatenate([members, others]))[:m]
    area = float((ranks.sum() - m * (m + 1) / 2) / (m * n))
    return Score(area, _bound(area, m, n, upper=False), _bound(area, m, n, upper=True), m + n)


def membership_rate(scores: Any, members: Any, others: Any) -> Score:
    """The share of items that an attacker takes for members who knows some members and some that are none.

    The threshold is the one that tells those apart best: half way between two scores, the lowest of equals.
    Of items that left no trace this is the share of other items that are taken for members by mistake.

    Args:
        scores: (k,) of the items in question; high for members.
        members, others: (m,), (n,) of items that are known to have been trained on, and not to have been.

    Returns:
        The share above the threshold, with Wilson's 95 % interval.

    Raises:
        ArgumentError: no scores, or such that are not finite.

    >>> print(membership_rate([0.9, 0.4, 0.2, 0.1], members=[0.7, 0.8, 0.9], others=[0.1, 0.2, 0.3]))
    25.0 % (4.6-69.9)
    """
    scores, members, others = _scores("scores", scores), _scores("members", members), _scores("others", others)
    places = np.unique(np.concatenate([members, others]))
    right = 1 - np.searchsorted(np.sort(members), places) / len(members)
    wrong = 1 - np.searchsorted(np.sort(others), places) / len(others)
    best = int(np.argmax(right - wrong))
    threshold = places[[max(best - 1, 0), best]].mean()
    return wilson(int((scores >= threshold).sum()), len(scores))


def _scores(argument: str, scores: Any) -> np.ndarray:
    x = np.asarray(scores.detach().cpu() if isinstance(scores, Tensor) else scores, dtype=np.float64).reshape(-1)
    expect(argument, f"{len(x)} scores", len(x) >= 1, "at least one score")
    expect(argument, "not finite", bool(np.isfinite(x).all()), "finite scores")
    return x


def _bound(area: float, m: int, n: int, *, upper: bool) -> float:
    """Where the area observed lies just z deviations away."""

    end = 1.0 if upper else 0.0
    if area == end:
        return end
    from scipy.optimize import brentq

    near = area + (end - area) * 1e-9  # an area of 0 or 1 has no variance itself
    return float(brentq(lambda a: (area - a) ** 2 - Z**2 * _variance(a, m, n), near, end))


def _variance(a: float, m: int, n: int) -> float:
    mean = (m + n) / 2 - 1
    return a * (1 - a) / (m * n) * (1 + mean * ((1 - a) / (2 - a) + a / (1 + a)))
