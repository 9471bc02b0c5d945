import numpy as np
import pytest

from tacit.errors import ArgumentError
from tacit.evaluate import incremental_tasks


def test_every_labelled_item_is_in_one_task_and_every_class_too():
    y = np.random.default_rng(0).integers(-1, 7, size=200)
    for words in ({"n_tasks": 3}, {"classes_per_task": 2}):
        tasks = incremental_tasks(y, **words)
        together = np.concatenate(tasks)
        assert sorted(together) == list(np.flatnonzero(y >= 0))
        classes = [set(y[task]) for task in tasks]
        assert sum(map(len, classes)) == 7
        assert sorted(map(len, classes)) == ([2, 2, 3] if "n_tasks" in words else [1, 2, 2, 2])


def test_the_seed_draws_order_of_classes_and_items():
    y = np.repeat(np.arange(6), 10)
    first, same, other = (incremental_tasks(y, n_tasks=3, random_state=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert any(set(y[a]) != set(y[b]) for a, b in zip(first, other, strict=True))
    assert not np.array_equal(first[0], np.sort(first[0]))


def test_what_cannot_be_is_refused():
    y = [0, 0, 1]
    with pytest.raises(ArgumentError, match="expected one of the two"):
        incremental_tasks(y)
    with pytest.raises(ArgumentError, match="n_tasks=3: expected 1 to 2"):
        incremental_tasks(y, n_tasks=3)
    with pytest.raises(ArgumentError, match="classes_per_task=0"):
        incremental_tasks(y, classes_per_task=0)
