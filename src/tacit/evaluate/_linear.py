"""The linear probe: how well a linear classifier reads the labels off frozen features."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from tacit.evaluate._arrays import Array, labels, matrix, standardised
from tacit.evaluate._estimates import Score, wilson

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C, the inverse of the L2 penalty, that are tried; the same for all features."""


def linear_probe(train_x: Array, train_y: Array, test_x: Array, test_y: Array, *, seed: int = 0) -> Score:
    """Test accuracy of a multinomial logistic regression on standardised features, with Wilson's 95 % interval.

    C is the one of `PENALTIES` that does best on a fifth of each class held out of the training set (the smallest on a
    draw); then all of the training set is fitted with it. The test set is looked at once. Where no class has five
    items, there is nothing to hold out, and C is 0.01.

    Args:
        train_x: (n, d).
        train_y: (n,) class numbers or names, at least two different ones.
        test_x: (m, d).
        test_y: (m,).
        seed: draws the fifth that is held out.

    Raises:
        ArgumentError: shapes that do not match, NaN, fewer than two classes.

    >>> x, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 2
    >>> print(linear_probe(x + 9 * y[:, None], y, x + 9 * y[:, None], y))
    100.0 % (94.0-100.0)
    """
    train_x = matrix("train_x", train_x)
    test_x = matrix("test_x", test_x, width=train_x.shape[1])
    y = labels("train_y", train_y, len(train_x), at_least=2)
    test_y = labels("test_y", test_y, len(test_x))
    x, test_x = (features.cpu().numpy() for features in standardised(train_x, test_x))
    probe = _fit(x, y, choose_penalty(x, y, seed))
    return wilson(int((probe.predict(test_x) == test_y).sum()), len(test_y))


def choose_penalty(x: np.ndarray, y: np.ndarray, seed: int = 0) -> float:
    """The C of `PENALTIES` that does best on the held-out fifth of (x, y)."""
    held_out = _fifth_of_each_class(y, seed)
    if not held_out.any():
        return 1e-2
    hits, probe = [], None
    for penalty in PENALTIES:  # from strong to weak, each fit starting where the last one ended
        probe = _fit(x[~held_out], y[~held_out], penalty, start=probe)
        hits.append((probe.predict(x[held_out]) == y[held_out]).sum())
    return PENALTIES[int(np.argmax(hits))]


def _fit(x: np.ndarray, y: np.ndarray, penalty: float, start: LogisticRegression | None = None) -> LogisticRegression:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=penalty, max_iter=300, warm_start=True)
    if start is not None:
        probe.classes_, probe.coef_, probe.intercept_ = start.classes_, start.coef_, start.intercept_
    with warnings.catch_warnings():
        # on separable classes a weak penalty still creeps after 300 steps, which moves no prediction
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(x, y)


def _fifth_of_each_class(y: np.ndarray, seed: int) -> np.ndarray:
    """Marks (n,): every fifth item of each class, in an order drawn by `seed`; classes under five items give none."""
    order = np.random.default_rng(seed).permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    _, first, size = np.unique(y[order], return_index=True, return_counts=True)
    place_in_class = np.arange(len(y)) - np.repeat(first, size)
    held_out = np.zeros(len(y), dtype=bool)
    held_out[order] = place_in_class % 5 == 4
    return held_out
