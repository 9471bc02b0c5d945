"""What the teaching process does: it learns from the labels given so far, and says what to label next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import DataError

CANDIDATES = 20_000
"""Items that a suggestion is chosen among; drawn evenly where there are more."""
PROBES = ("logistic regression", "naive Bayes")
"""That compete after each label: the quick ones. `tacit label` has all compete."""
PURPOSE = "colouring the map by what a probe makes of them (tacit explore)"


def teach(folder: str, stamp: str, name: str, given: Mapping[str, str], seed: int = 0) -> dict[str, Any]:
    """Choose and fit a probe, as `tacit label` does but among the quick ones, and label all items by it.

    Args:
        folder, stamp: of the run and its items.
        name: of the label.
        given: the ledger's key of an item -> its label.
        seed: of all chance.

    Returns:
        `classes`; `values` (n,) int32, the likeliest class of each row; `probability` (n,) float32, calibrated, 1 where
        the label was given; `accuracy` and its interval, `commonest`, `probe`, and the classes that were `left_out`
        since they have one item only.

    Raises:
        DataError: there are not two classes with two items each.
    """
    from tacit.labelling import _answers
    from tacit.probing import Space, choose

    rows = _rows(folder, stamp)
    sizes = Counter(label for key, label in given.items() if key in rows.row_of)
    classes = sorted(value for value, size in sizes.items() if size > 1)
    if len(classes) < 2:
        raise DataError(f"{name}: expected at least two classes with two items each; label a few more")
    usable = {rows.row_of[key]: value for key, value in given.items() if value in classes and key in rows.row_of}
    known = np.array(sorted(usable))
    y = np.array([classes.index(usable[row]) for row in known])
    different = rows.rows.different
    choice, told = choose(
        Space(rows.rows.vectors[different]), np.searchsorted(different, known), y, seed=seed, probes=PROBES
    )
    best, probability = _answers(told, choice.temperature)
    best[np.searchsorted(different, known)] = y
    probability[np.searchsorted(different, known)] = 1.0
    back = np.searchsorted(different, rows.rows.first)
    accuracy = choice.accuracy
    return {
        "classes": classes,
        "values": best[back].astype(np.int32),
        "probability": probability[back].astype(np.float32),
        "accuracy": {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high},
        "commonest": choice.commonest,
        "probe": str(choice.candidate),
        "n": len(known),
        "left_out": sorted(value for value, size in sizes.items() if size == 1),
    }


def suggest(folder: str, stamp: str, given: Mapping[str, str], n: int, seed: int = 0) -> list[dict[str, Any]]:
    """The items to label next and why, the most worthwhile first; chosen as `tacit suggest` chooses."""
    from tacit.fewlabels import select_batch
    from tacit.suggesting import _probabilities, _reasons

    rows = _rows(folder, stamp)
    different = _some(rows.rows.different, np.array([rows.row_of[key] for key in given if key in rows.row_of], int))
    keys = [rows.rows.keys[row] for row in different]
    known = np.array([place for place, key in enumerate(keys) if key in given], dtype=int)
    n = min(n, len(different) - len(known))
    if n < 1:
        return []
    z = rows.rows.sphere[different]
    classes, p = _probabilities(z, known, [given[keys[place]] for place in known], seed)
    batch = select_batch(z, n, labelled=known, probabilities=p, random_state=seed)
    numbers = rows.rows.items[different]
    reasons = _reasons(batch, numbers, classes, p)
    return [{"item": int(numbers[i]), "reason": why} for i, why in zip(batch.items, reasons, strict=True)]


def _some(rows: NDArray[np.intp], known: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most `CANDIDATES` of the rows, and all that are labelled."""
    if len(rows) <= CANDIDATES:
        return rows
    drawn = np.random.default_rng(0).choice(rows, CANDIDATES, replace=False)
    return np.union1d(drawn, np.intersect1d(rows, known))


class _Known:
    """The rows of a run, and where each key is first found."""

    def __init__(self, folder: str) -> None:
        from tacit.answers import Rows

        self.rows = Rows(Path(folder))
        self.row_of = {key: row for row, key in reversed(list(enumerate(self.rows.keys)))}


@lru_cache(maxsize=1)
def _rows(folder: str, stamp: str) -> _Known:
    return _Known(folder)
