"""What a claim is run on: data that the seed draws, in a part to learn from and one that only scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.claims._scores import score
from tacit.data import Dataset, drawn_order
from tacit.errors import DataError, expect

Rows = Tensor | list[Any]
INPUTS = ("x", "text", "image", "mask", "a", "b")
"""Columns that are read; all others say something of the item that could be what is to be found."""


@dataclass(frozen=True)
class Part:
    """Items to learn from or to choose by, labels and all.

    Attributes:
        columns: name -> tensor with a row an item, or list (texts, sounds of unequal length).
        modality: image, text, table...
        n_classes: of `y`; None where there is no `y` or it is no class.
    """

    columns: Mapping[str, Rows]
    modality: str
    n_classes: int | None
    seed: int

    @property
    def x(self) -> Any:
        """The column that is read: `x`, or else `text`, or else the first."""
        for name in ("x", "text", *self.columns):
            if name in self.columns:
                return self.columns[name]
        raise DataError("the data has no columns")

    @property
    def y(self) -> Any:
        return self.columns.get("y")

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def dataset(self) -> Dataset:
        """The columns as a tacit Dataset, for `fit`; lists are left out."""
        tensors = {name: rows for name, rows in self.columns.items() if isinstance(rows, Tensor)}
        return Dataset(tensors, modality=self.modality)

    def read_by(self, learner: Any) -> Dataset:
        """The columns as this learner reads them, its vocabularies fitted: texts as token numbers, and so on."""
        from tacit.building import read_columns

        read = read_columns(learner, self.columns, fitted=True)
        if all(rows is self.columns.get(name) for name, rows in read.items()):
            return self.dataset
        tensors = {name: rows for name, rows in read.items() if isinstance(rows, Tensor)}
        return Dataset(tensors, modality=self.modality)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What `build` and `recipe` ask for: modality, n, image_size, channels, n_classes, dim."""
        said: dict[str, Any] = {"modality": self.modality, "n": len(self), "n_classes": self.n_classes}
        image = self.columns["image"] if self.modality == "pairs" and "image" in self.columns else self.x
        if isinstance(image, Tensor) and image.ndim == 4:
            said |= {"image_size": image.shape[-1], "channels": image.shape[1]}
        elif self.modality == "series" and isinstance(self.x, Tensor):
            said |= {"channels": self.x.shape[1], "length": self.x.shape[2]}
        elif self.modality == "graph" and isinstance(self.x, Tensor):
            said |= {"size": self.x.shape[1], "in_features": self.x.shape[2] - self.x.shape[1]}
        elif isinstance(self.x, Tensor):
            said |= {"dim": self.x.shape[-1]}
        return said

    def select(self, items: Any) -> Part:
        """The part with these item numbers only."""
        columns = {name: pick(rows, items) for name, rows in self.columns.items()}
        return Part(columns, self.modality, self.n_classes, self.seed)

    def divide(self, share: float = 0.8) -> tuple[Part, Unseen]:
        """A part to learn from and a validation part, drawn by the seed, for whatever is chosen."""
        expect("share", share, 0 < share < 1, "a share between 0 and 1")
        order = drawn_order(len(self), self.seed + 7_000)
        first = round(share * len(self))
        return self.select(order[:first]), Unseen(self.select(order[first:]), inputs=tuple(self.columns))


class Unseen:
    """Items that only score: what is to be predicted lies within, and comes out as a score.

    Args:
        part: the items with their labels.
        counts: whether looks at the labels are counted, as they are for the test split.
        inputs: columns that are shown beside those of `INPUTS`, such as a domain; `y` and other factors are not.
    """

    def __init__(self, part: Part, *, counts: bool = False, inputs: Sequence[str] = ()) -> None:
        self._part, self._counts = part, counts
        self.looks = 0
        """How often the labels of a test split were used; at most once for each number that a trial returns."""
        self.revealed = False
        self.columns = {name: rows for name, rows in part.columns.items() if name != "y" and name in (*INPUTS, *inputs)}

    @property
    def x(self) -> Any:
        return Part(self.columns, self._part.modality, None, 0).x

    def __len__(self) -> int:
        return len(self._part)

    def score(self, predictions: Any, by: str | Callable[[Any, Any], float] = "accuracy") -> float:
        """How good predictions are, higher is better.

        Args:
            predictions: one row an item: classes for `accuracy`, cluster numbers for `ari` and `nmi`, scores that are
                high for `y == 1` for `auroc`; logits or probabilities (n, n_classes) become classes.
            by: one of these names, or a function (y, predictions) -> number.
        """
        self.looks += self._counts
        return score(self._part.y, predictions, by)

    def reveal(self) -> Part:
        """The items with their labels, where these are part of the task (episodes, attacks); the record says so."""
        self.looks += self._counts
        self.revealed = True
        return self._part


class Data:
    """Data that a seed draws a subset and a split of.

    Args:
        name: what the record calls it.
        read: seed -> (columns, modality, train item numbers, test item numbers); without official test items the seed
            splits what there is.
        n: items to learn from; if None at most 10,000 and four fifths of what there is, so that each seed draws others.
        n_test: items to score on; all, and at most 10,000, if None.
        shape: applied to `x` after it is picked.
        inputs: columns of the unseen items that may be read beside x, text, image, mask, a and b.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[int], tuple[Mapping[str, Any], str, np.ndarray, np.ndarray]],
        n: int | None = None,
        n_test: int | None = None,
        *,
        shape: Callable[[Rows], Rows] | None = None,
        inputs: Sequence[str] = (),
    ) -> None:
        self.inputs = tuple(inputs)
        self.name, self._read, self.n, self.n_test, self._shape = name, read, n, n_test, shape
        self.drawn_hash: str | None = None
        """SHA-256 of the first split that was drawn."""

    def shaped(self, shape: Callable[[Rows], Rows] | None) -> Data:
        """The same data, its `x` given another shape after it is picked."""
        return Data(self.name, self._read, self.n, self.n_test, shape=shape, inputs=self.inputs)

    def split(self, seed: int, *, most: int | None = None, counts: bool = True) -> tuple[Part, Unseen]:
        """The seed's items to learn from, and those that score; at most `most` of each."""
        columns, modality, train, test = self._read(seed)
        train, test = self._items(train, test, seed, most)
        classes = _n_classes(columns.get("y"))
        parts = []
        for items in (train, test):
            picked = {name: pick(rows, items) for name, rows in columns.items()}
            if self._shape is not None:
                picked["x"] = self._shape(picked["x"])
            parts.append(Part(picked, modality, classes, seed))
        self.drawn_hash = self.drawn_hash or _fingerprint(parts)
        return parts[0], Unseen(parts[1], counts=counts, inputs=self.inputs)

    def _items(self, train: np.ndarray, test: np.ndarray, seed: int, most: int | None) -> tuple[np.ndarray, np.ndarray]:
        train, test = train[drawn_order(len(train), seed)], test[drawn_order(len(test), seed)]
        n = self._count("n", self.n, round(0.8 * len(train)), len(train), most)
        if len(test) == 0:
            train, test = train[:n], train[n:]
        n_test = self._count("n_test", self.n_test, len(test), len(test), most)
        return train[:n], test[:n_test]

    def _count(self, name: str, wanted: int | None, usual: int, there: int, most: int | None) -> int:
        """How many items: what was asked for, or the usual; at smoke no more than `most`, nor than there are."""
        if most is not None:
            return min(wanted or usual, usual, most)
        count = min(10_000, usual) if wanted is None else wanted
        expect(f"{name} of {self.name}", count, 1 <= count <= there, f"1 to {there}")
        return count


def pick(rows: Any, items: Any) -> Rows:
    """These rows as a tensor, or as a list where they are no numbers or of unequal length."""
    if isinstance(rows, Tensor):
        return rows[torch.as_tensor(items)]
    if isinstance(rows, list | tuple):
        return [rows[int(item)] for item in items]
    picked = np.asarray(rows[np.asarray(items)])
    return torch.from_numpy(np.array(picked)) if picked.dtype.kind in "biuf" else picked.tolist()


def _n_classes(y: Any) -> int | None:
    if y is None:
        return None
    y = np.asarray(y)
    return int(y.max()) + 1 if y.dtype.kind in "biu" and len(y) else None


def _fingerprint(parts: Sequence[Part]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for name, rows in sorted(part.columns.items()):
            digest.update(name.encode())
            if isinstance(rows, Tensor):
                digest.update(rows.contiguous().numpy().tobytes())
            else:
                for row in rows:
                    digest.update(row.tobytes() if isinstance(row, np.ndarray) else repr(row).encode())
    return digest.hexdigest()[:16]
