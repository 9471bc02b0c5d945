"""Dataset: named columns of equal length, read by item number and never whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from tacit.errors import ArgumentError, DataError

Indices = Tensor | np.ndarray | slice | Sequence[int]


class Rows(Protocol):
    """What a column may be made of: a numpy array (memory-mapped or not), a tensor, or anything that reads like one."""

    def __len__(self) -> int: ...
    def __getitem__(self, indices: Any) -> Any: ...


class Column:
    """One column: `column[indices]` is a tensor of those rows, read from where they lie."""

    def __init__(self, rows: Rows, picked: np.ndarray | None = None) -> None:
        self._rows, self._picked = rows, picked

    def __len__(self) -> int:
        return len(self._rows) if self._picked is None else len(self._picked)

    def __getitem__(self, indices: Indices) -> Tensor:
        index = torch.as_tensor(indices).numpy() if isinstance(indices, Tensor) else indices
        if self._picked is not None:
            index = self._picked[index]
        rows = self._rows[
            index if not isinstance(self._rows, Tensor) or isinstance(index, slice) else torch.as_tensor(index)
        ]
        return rows if isinstance(rows, Tensor) else torch.from_numpy(np.array(rows))

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...) with the shape of one row."""
        return (len(self), *self._rows.shape[1:])  # type: ignore[attr-defined]

    @property
    def dtype(self) -> torch.dtype:
        return self[slice(0, 1)].dtype

    def select(self, indices: np.ndarray) -> Column:
        return Column(self._rows, indices if self._picked is None else self._picked[indices])


class Dataset:
    """Columns of equal length: `data["x"][indices]` reads those rows as a tensor.

    The column `index`, the item numbers 0 to n - 1, is always there. Columns are also the label ledger: what a Learner
    does not name, it does not get.

    Args:
        columns: name -> array-like with n rows: numpy array (memory-mapped arrays stay on disk) or tensor.
        modality: image, text, audio, table, series, graph, pairs or points.
        fingerprint: hash of the content, where it is known; else it is computed when asked for.

    Raises:
        DataError: no column, or columns of unequal length.

    >>> data = Dataset({"x": np.arange(6.0).reshape(3, 2)})
    >>> len(data), data["x"][[0, 2]].tolist(), data["index"][[2]].tolist()
    (3, [[0.0, 1.0], [4.0, 5.0]], [2])
    """

    def __init__(self, columns: Mapping[str, Any], *, modality: str = "points", fingerprint: str | None = None) -> None:
        wrapped = {name: rows if isinstance(rows, Column) else Column(_rows(rows)) for name, rows in columns.items()}
        lengths = {name: len(column) for name, column in wrapped.items()}
        if not lengths:
            raise DataError("a data set needs at least one column, such as x")
        if len(set(lengths.values())) != 1:
            raise DataError(f"columns of unequal length: {lengths}; expected one row per item in each")
        n = next(iter(lengths.values()))
        self._columns = {"index": Column(np.arange(n)), **wrapped}
        self._fingerprint = fingerprint
        self.modality = modality
        self.on_chunk: Callable[[int, int], None] | None = None
        """Told (items read, n) as `chunks` goes on; `fit` shows the progress of closed-form methods by it."""

    def __len__(self) -> int:
        return len(self._columns["index"])

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> Column:
        if name not in self._columns:
            raise ArgumentError(f"column={name!r}: expected one of {', '.join(self.names)}")
        return self._columns[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._columns)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, shapes and rows, in hex."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for name in sorted(set(self.names) - {"index"}):
                digest.update(f"{name} {self[name].shape} {self[name].dtype}".encode())
                for rows in self.chunks(name, 4096):
                    digest.update(rows.contiguous().view(torch.uint8).numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def chunks(self, name: str, size: int = 1024) -> Iterator[Tensor]:
        """The column's rows in order, `size` at a time."""
        column, n = self[name], len(self)
        for start in range(0, n, size):
            yield column[slice(start, min(start + size, n))]
            if self.on_chunk is not None:
                self.on_chunk(min(start + size, n), n)

    def select(self, indices: Indices) -> Dataset:
        """Those items only, numbered anew from 0; nothing is copied."""
        picked = np.arange(len(self))[torch.as_tensor(indices).numpy() if isinstance(indices, Tensor) else indices]
        chosen = {name: self[name].select(picked) for name in self.names if name != "index"}
        return Dataset(chosen, modality=self.modality)

    def only(self, names: Sequence[str]) -> Dataset:
        """Those columns only (and `index`)."""
        return Dataset(
            {name: self[name] for name in names if name != "index"} or {"index": self["index"]},
            modality=self.modality,
            fingerprint=self._fingerprint,
        )


def as_dataset(data: Any) -> Dataset:
    """A Dataset from what Python users hold: one already, a mapping of columns, or an array that becomes `x`."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Mapping):
        return Dataset(data)
    if isinstance(data, Tensor | np.ndarray):
        image = data.ndim == 4
        return Dataset({"x": data}, modality="image" if image else "points")
    raise ArgumentError(
        f"data={type(data).__name__}: expected a tacit.data.Dataset, a mapping of columns, an array or a tensor; "
        "for files, tacit.data.open(path).dataset"
    )


def _rows(rows: Any) -> Rows:
    if isinstance(rows, Tensor):
        return cast(Rows, rows.detach().cpu())
    return cast(Rows, rows if hasattr(rows, "shape") else np.asarray(rows))
