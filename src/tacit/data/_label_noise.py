"""Wrong labels and foreign items, put into clean data so that what is wrong is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tacit.errors import expect, unknown

__all__ = [
    "CIFAR10_MISTAKES",
    "asymmetric_noise",
    "human_labels",
    "instance_noise",
    "open_set_noise",
    "symmetric_noise",
]

Array = np.ndarray

CIFAR10_MISTAKES = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
"""Truck to automobile, bird to airplane, deer to horse, cat to dog and back (Patrini et al., 2017, section 5)."""

ANNOTATORS = ("aggre", "worse", "random_label1", "random_label2", "random_label3")


def symmetric_noise(y: Any, rate: float, *, n_classes: int, seed: int = 0) -> Array:
    """Each label becomes, with probability `rate`, one of the other classes, all as likely.

    Args:
        y: (n,) classes, 0 to n_classes - 1.
        rate: from 0 to 1; 1 - 1 / n_classes leaves no information.
        n_classes: at least 2.

    Returns:
        int64 (n,).

    Raises:
        ArgumentError: a number out of range, or a label that is no class.

    >>> (symmetric_noise(np.zeros(1000, int), 0.3, n_classes=4) > 0).mean().round(1)
    np.float64(0.3)
    """
    y = _labels(y, n_classes)
    expect("rate", rate, 0 <= rate <= 1, "a share from 0 to 1")
    chance = np.random.default_rng(seed)
    step = chance.integers(1, n_classes, len(y))
    return np.where(chance.random(len(y)) < rate, (y + step) % n_classes, y)


def asymmetric_noise(
    y: Any, rate: float, *, n_classes: int, mistakes: Mapping[int, int] | None = None, seed: int = 0
) -> Array:
    """Each label becomes, with probability `rate`, the one class that it is mistaken for.

    Args:
        y: (n,) classes, 0 to n_classes - 1.
        rate: from 0 to 1; above 1/2 the mistake is the commoner label.
        n_classes: at least 2.
        mistakes: class -> the class it is mistaken for, such as `CIFAR10_MISTAKES`; others stay as they are. None:
            the next class, and 0 after the last (pair flips).

    Returns:
        int64 (n,).

    Raises:
        ArgumentError: a number out of range, or a label that is no class.

    References:
        Patrini et al., Making deep neural networks robust to label noise (2017).

    >>> asymmetric_noise([0, 1, 2], 1.0, n_classes=3)
    array([1, 2, 0])
    >>> asymmetric_noise([3, 5, 6], 1.0, n_classes=10, mistakes=CIFAR10_MISTAKES)
    array([5, 3, 6])
    """
    y = _labels(y, n_classes)
    expect("rate", rate, 0 <= rate <= 1, "a share from 0 to 1")
    pairs = {c: (c + 1) % n_classes for c in range(n_classes)} if mistakes is None else dict(mistakes)
    named = [*pairs, *pairs.values()]
    expect("mistakes", pairs, all(0 <= c < n_classes for c in named), f"classes from 0 to {n_classes - 1}")
    taken = np.arange(n_classes)
    taken[list(pairs)] = list(pairs.values())
    return np.where(np.random.default_rng(seed).random(len(y)) < rate, taken[y], y)


def instance_noise(x: Any, y: Any, rate: float, *, n_classes: int, spread: float = 0.1, seed: int = 0) -> Array:
    """Labels are mistaken the more often, and for what, as the item itself looks.

        q_i ~ N(rate, spread^2) within [0, 1],   W_c ~ N(0, 1) for each class c, (d, n_classes)
        p(other class k | i) = q_i softmax over k != y_i of (x_i W_{y_i})_k,   p(y_i | i) = 1 - q_i

    so that items which look alike are mistaken for the same class. (x is standardised here, feature by feature, and
    scaled to a length of about 1; the authors' x is the raw image.)

    Args:
        x: (n, ...) items, flattened.
        y: (n,) classes, 0 to n_classes - 1.
        rate: mean share of mistakes, from 0 to 1; near the ends the truncation moves it by a part of `spread`.
        n_classes: at least 2.
        spread: standard deviation of q, above 0.

    Returns:
        int64 (n,).

    Raises:
        ArgumentError: shapes that do not fit, a number out of range, or a label that is no class.

    References:
        Xia et al., Part-dependent label noise (2020), algorithm 2.

    >>> g = np.random.default_rng(0)
    >>> y = g.integers(0, 3, 2000)
    >>> (instance_noise(g.normal(size=(2000, 5)), y, 0.3, n_classes=3) != y).mean().round(1)
    np.float64(0.3)
    """
    y = _labels(y, n_classes)
    rows = np.asarray(x, np.float32).reshape(len(x), -1)
    expect("x", rows.shape, len(rows) == len(y), f"a row for each of the {len(y)} labels")
    expect("rate", rate, 0 <= rate <= 1, "a share from 0 to 1")
    expect("spread", spread, spread > 0, "a standard deviation above 0")
    chance = np.random.default_rng(seed)
    rows = (rows - rows.mean(0)) / (rows.std(0) + 1e-6) / np.sqrt(rows.shape[1])
    share = _truncated_normal(rate, spread, len(y), chance)
    # Gumbel's maximum draws from the softmax
    scores = chance.gumbel(size=(len(y), n_classes))
    for c in range(n_classes):
        weights = chance.standard_normal((rows.shape[1], n_classes)).astype(np.float32)
        scores[y == c] += rows[y == c] @ weights
        scores[y == c, c] = -np.inf
    return np.where(chance.random(len(y)) < share, scores.argmax(1), y)


def human_labels(columns: Mapping[str, Any], annotators: str = "worse") -> Array:
    """What people called the training images of CIFAR-10, and the true class where nobody was asked (test images).

    Args:
        columns: of `load_named("cifar10n")`, or of a part of it.
        annotators: `aggre`, the majority of three (9 % wrong); `random_label1` to `3`, one of them (17 to 18 %);
            `worse`, a wrong one if any of the three is (40 %).

    Returns:
        int64 (n,).

    Raises:
        ArgumentError: other annotators, or columns without them.

    References:
        Wei et al., Learning with noisy labels revisited: a study using real-world human annotations (2022).

    >>> human_labels({"y": [3, 4], "worse": [5, -1]})
    array([5, 4])
    """
    if annotators not in ANNOTATORS:
        raise unknown("annotators", annotators, ANNOTATORS)
    expect("columns", sorted(columns), annotators in columns and "y" in columns, f"y and {annotators}, as in cifar10n")
    given, y = (np.asarray(columns[name], np.int64) for name in (annotators, "y"))
    return np.where(given >= 0, given, y)


def open_set_noise(x: Any, others: Any, rate: float, *, seed: int = 0) -> tuple[Array, Array]:
    """A share of the items is replaced by foreign ones, under the labels that stand there: what a web search brings.

    Args:
        x: (n, ...) items.
        others: (m, ...) items of the same shape and type that belong to no class; each is used once, so m is at least
            round(rate * n).
        rate: from 0 to 1.

    Returns:
        (x, foreign): the items, copied, and bool (n,), which of them were replaced.

    Raises:
        ArgumentError: a number out of range, or too few others, or of another shape.

    >>> x, foreign = open_set_noise(np.zeros(10), np.ones(4), 0.4)
    >>> x.sum(), foreign.sum()
    (np.float64(4.0), np.int64(4))
    """
    x, others = np.array(x), np.asarray(others)
    expect("rate", rate, 0 <= rate <= 1, "a share from 0 to 1")
    count = round(rate * len(x))
    ok = others.shape[1:] == x.shape[1:] and others.dtype == x.dtype
    expect("others", (others.shape, str(others.dtype)), ok, f"items like x's, {x.shape[1:]} of {x.dtype}")
    expect("others", len(others), len(others) >= count, f"at least {count} items", "lower rate")
    chance = np.random.default_rng(seed)
    replaced = chance.permutation(len(x))[:count]
    x[replaced] = others[chance.permutation(len(others))[:count]]
    foreign = np.zeros(len(x), bool)
    foreign[replaced] = True
    return x, foreign


def _labels(y: Any, n_classes: int) -> Array:
    expect("n_classes", n_classes, n_classes >= 2, "at least 2")
    y = np.asarray(y)
    ok = y.ndim == 1 and y.dtype.kind in "iu" and (len(y) == 0 or (y.min() >= 0 and y.max() < n_classes))
    expect("y", f"{y.dtype} {y.shape}", bool(ok), f"integers (n,) from 0 to {n_classes - 1}")
    return y.astype(np.int64)


def _truncated_normal(mean: float, spread: float, n: int, chance: np.random.Generator) -> Array:
    """N(mean, spread^2), those outside [0, 1] drawn again; mean lies within, so that at least some 40 % fall inside."""
    drawn = chance.normal(mean, spread, n)
    while (outside := (drawn < 0) | (drawn > 1)).any():
        drawn[outside] = chance.normal(mean, spread, outside.sum())
    return drawn
