"""Class-incremental streams: classes that come a few at a time and do not come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tacit.errors import ArgumentError, expect


def incremental_tasks(
    y: np.ndarray | Tensor | Sequence[Any],
    *,
    n_tasks: int | None = None,
    classes_per_task: int | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> list[np.ndarray]:
    """Item numbers of each task of a class-incremental stream, int64, in random order within a task.

    Classes are drawn in random order and divided among the tasks, as evenly as they go; every labelled item is in
    exactly one task.

    Args:
        y: (n,) labels, numbers or names; numbers below 0 stand for no label and are left out.
        n_tasks: how many tasks, 1 to the number of classes; or
        classes_per_task: how many classes each has; the last may have fewer.
        random_state: draws the order of classes and of items.

    Raises:
        ArgumentError: neither or both of the two, or a number out of range.

    >>> y = np.array(["a", "b", "c", "d"] * 2)
    >>> first, second = incremental_tasks(y, n_tasks=2)
    >>> len(set(y[first])), set(y[first]) & set(y[second])
    (2, set())
    """
    y = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if y.ndim != 1:
        raise ArgumentError(f"y: expected one label an item, (n,), got shape {y.shape}")
    if (n_tasks is None) == (classes_per_task is None):
        raise ArgumentError("n_tasks, classes_per_task: expected one of the two")
    items = np.flatnonzero(y >= 0) if y.dtype.kind in "if" else np.arange(len(y))
    names, codes = np.unique(y[items], return_inverse=True)
    rng = np.random.default_rng(random_state)
    order = rng.permutation(len(names))
    if n_tasks is not None:
        expect("n_tasks", n_tasks, 1 <= n_tasks <= len(names), f"1 to {len(names)}, the number of classes")
        groups = np.array_split(order, n_tasks)
    else:
        size = int(classes_per_task or 0)
        expect("classes_per_task", classes_per_task, size >= 1, "at least 1")
        groups = np.split(order, range(size, len(order), size))
    shuffled = rng.permutation(len(items))
    task_of = np.empty(len(names), np.int64)
    for number, group in enumerate(groups):
        task_of[group] = number
    return [items[shuffled[task_of[codes[shuffled]] == number]] for number in range(len(groups))]
