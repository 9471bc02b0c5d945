"""Few-shot episodes drawn from labelled items, and the accuracy of a classifier over many of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from tacit.errors import ArgumentError, DataError, expect, unknown
from tacit.evaluate._estimates import Score, mean_interval, share

BALANCES = ("equal", "dirichlet")
_BLOCK = 2**22  # random numbers held at a time


class Episode(NamedTuple):
    """Item numbers of one few-shot task."""

    support: np.ndarray
    """int64 (n_way * n_shots,): the labelled items, class after class in the order of `classes`."""
    queries: np.ndarray
    """int64 (n_present * n_queries,): the items to be told, in random order."""
    classes: np.ndarray
    """(n_way,): values of `y`, in random order; queries belong to the first `n_present` of them."""


def episodes(
    y: np.ndarray | Tensor | Sequence[Any],
    *,
    n_way: int = 5,
    n_shots: int = 1,
    n_queries: int = 15,
    n_episodes: int = 600,
    balance: str = "equal",
    alpha: float = 2.0,
    n_present: int | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> Iterator[Episode]:
    """Few-shot tasks: classes, their labelled items and other items of theirs, all drawn without replacement.

    Classes are drawn among those with at least `n_shots + n_queries` items.

    Args:
        y: (n,) labels, numbers or names; numbers below 0 stand for no label and are never drawn.
        n_way: classes of a task, at least 2.
        n_shots: labelled items of each class, at least 1.
        n_queries: queries per class that has any; on average with `balance="dirichlet"`.
        n_episodes: how many tasks.
        balance: `"equal"`, or `"dirichlet"`: `n_present * n_queries` queries in shares drawn from Dirichlet(alpha, ...,
            alpha), rounded as Sainte-Laguë rounds seats; a class gives no more than it has, the others fill up.
        alpha: above 0; small values make queries of few classes (2 in the paper).
        n_present: classes that queries belong to, 1 to `n_way`; all by default. Fewer make a task in which most
            classes are absent (Martin et al., 2022).
        random_state: the same number gives the same tasks.

    Raises:
        ArgumentError: a number out of range, an unknown balance.
        DataError: fewer than `n_way` classes have enough items.

    Sources: Vinyals et al., "Matching networks", 2016 (episodes); Veilleux et al., "Realistic evaluation of
    transductive few-shot learning", 2021 (Dirichlet shares); Martin et al., "Towards practical few-shot query sets",
    2022 (absent classes).

    >>> y = np.repeat(["ant", "bee", "cat"], 4)
    >>> one = next(episodes(y, n_way=2, n_shots=1, n_queries=3))
    >>> list(y[one.support]) == list(one.classes), len(one.queries)
    (True, 6)
    """
    if balance not in BALANCES:
        raise unknown("balance", balance, BALANCES)
    present = n_way if n_present is None else n_present
    expect("n_way", n_way, n_way >= 2, "at least 2 classes")
    expect("n_shots", n_shots, n_shots >= 1, "at least 1")
    expect("n_queries", n_queries, n_queries >= 1, "at least 1")
    expect("n_episodes", n_episodes, n_episodes >= 1, "at least 1")
    expect("n_present", n_present, 1 <= present <= n_way, f"1 to n_way = {n_way}")
    expect("alpha", alpha, alpha > 0, "a number above 0")
    names, items, sizes = _items_by_class(y, n_shots + n_queries)
    if len(names) < n_way:
        raise DataError(
            f"y: {len(names)} classes have at least n_shots + n_queries = {n_shots + n_queries} items; "
            f"expected at least n_way = {n_way}; ask for fewer shots, queries or classes"
        )
    shape = (n_way, n_shots, n_queries, present, alpha if balance == "dirichlet" else None)
    return _drawn(names, items, sizes, shape, n_episodes, np.random.default_rng(random_state))


def episodic_accuracy(
    classifier: Any,
    X: Any,
    y: np.ndarray | Tensor | Sequence[Any],
    *,
    n_way: int = 5,
    n_shots: int = 1,
    n_queries: int = 15,
    n_episodes: int = 600,
    balance: str = "equal",
    alpha: float = 2.0,
    n_present: int | None = None,
    transductive: bool = False,
    random_state: int | np.random.Generator | None = 0,
) -> Score:
    """The mean accuracy on the queries of few-shot tasks, with Student's 95 % interval over the tasks.

    A fresh clone of the classifier is fitted to each task, whose classes are called 0 to n_way - 1. The interval is
    that of drawing tasks from these items; it says nothing of other items or classes.

    Args:
        classifier: with scikit-learn's `fit(X, y)` and `predict(X)`.
        X: (n, d) features: array, tensor, sparse matrix or data frame.
        y, n_way, n_shots, n_queries, n_episodes, balance, alpha, n_present: as in `episodes`.
        transductive: the classifier sees all queries at once: it is fitted to supports and queries together, the latter
            labelled -1, and `transduction_` is scored.
        random_state: of the tasks; two classifiers with the same number meet the same tasks.

    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.semi_supervised import LabelSpreading
    >>> X, y = np.repeat(np.eye(3), 20, axis=0) + np.random.default_rng(0).normal(0, 0.1, (60, 3)), np.arange(60) // 20
    >>> print(episodic_accuracy(KNeighborsClassifier(1), X, y, n_way=3, n_episodes=20))
    100.0 % (100.0-100.0)
    >>> print(episodic_accuracy(LabelSpreading(), X, y, n_way=3, n_episodes=20, transductive=True))
    100.0 % (100.0-100.0)
    """
    from sklearn.base import clone
    from sklearn.utils import _safe_indexing

    X, y = (v.detach().cpu().numpy() if isinstance(v, Tensor) else v for v in (X, y))
    y = np.asarray(y)
    rows = X.shape[0] if hasattr(X, "shape") else len(X)
    if y.shape != (rows,):
        raise ArgumentError(f"y: expected one label for each of the {rows} rows of X, got shape {y.shape}")
    drawn = episodes(
        y, n_way=n_way, n_shots=n_shots, n_queries=n_queries, n_episodes=n_episodes, balance=balance, alpha=alpha,
        n_present=n_present, random_state=random_state,
    )  # fmt: skip
    labels = np.repeat(np.arange(n_way), n_shots)
    accuracies = np.empty(n_episodes)
    for number, (support, queries, classes) in enumerate(drawn):
        model = clone(classifier)
        if transductive:
            both = np.concatenate([support, queries])
            model.fit(_safe_indexing(X, both), np.concatenate([labels, np.full(len(queries), -1)]))
            told = model.transduction_[len(support) :]
        else:
            told = model.fit(_safe_indexing(X, support), labels).predict(_safe_indexing(X, queries))
        accuracies[number] = (classes[np.asarray(told)] == y[queries]).mean()
    return share(mean_interval(accuracies))


def _items_by_class(y: Any, at_least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes with enough items: their names (c,), item numbers (c, most) filled up with -1, and sizes (c,)."""
    y = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if y.ndim != 1:
        raise ArgumentError(f"y: expected one label an item, (n,), got shape {y.shape}")
    labelled = np.flatnonzero(y >= 0) if y.dtype.kind in "if" else np.arange(len(y))
    names, code, sizes = np.unique(y[labelled], return_inverse=True, return_counts=True)
    order = np.argsort(code, kind="stable")
    place = np.arange(len(order)) - np.repeat(sizes.cumsum() - sizes, sizes)
    items = np.full((len(names), sizes.max(initial=0)), -1)
    items[code[order], place] = labelled[order]
    enough = sizes >= at_least
    return names[enough], items[enough], sizes[enough]


def _drawn(
    names: np.ndarray, items: np.ndarray, sizes: np.ndarray, shape: tuple, n_episodes: int, rng: np.random.Generator
) -> Iterator[Episode]:
    """Blocks of tasks at once: a class's items in random order are first its supports, then its queries."""
    n_way, n_shots, n_queries, present, alpha = shape
    total = present * n_queries
    block = max(1, _BLOCK // max(n_way * items.shape[1], len(names)))
    for start in range(0, n_episodes, block):
        count = min(block, n_episodes - start)
        ways = rng.random((count, len(names))).argsort(axis=1)[:, :n_way]
        order = rng.random((count, n_way, items.shape[1]))
        order[np.arange(items.shape[1]) >= sizes[ways][..., None]] = np.inf  # what only fills up comes last
        drawn = np.take_along_axis(items[ways], order.argsort(axis=2), axis=2)
        support = drawn[:, :, :n_shots].reshape(count, -1)
        rest = drawn[:, :present, n_shots : n_shots + total]
        seats = np.full((count, present), n_queries)
        if alpha is not None:
            shares = rng.dirichlet(np.full(present, alpha), count)
            seats = _apportioned(shares, sizes[ways[:, :present]] - n_shots, total)
        queries = rest[np.arange(rest.shape[2]) < seats[..., None]].reshape(count, total)
        yield from map(Episode, support, rng.permuted(queries, axis=1), names[ways])


def _apportioned(shares: np.ndarray, room: np.ndarray, total: int) -> np.ndarray:
    """`total` seats by Sainte-Laguë, (e, c) -> (e, c): the lowest (seat - 1/2) / share win; `room` is all there is."""
    seats = np.arange(min(total, room.max()))
    price = (seats + 0.5) / np.maximum(shares, 1e-300)[..., None]
    price[seats >= room[..., None]] = np.inf
    won = price.reshape(len(shares), -1).argsort(axis=1, kind="stable")[:, :total] // len(seats)
    return (won[..., None] == np.arange(shares.shape[1])).sum(axis=1)
