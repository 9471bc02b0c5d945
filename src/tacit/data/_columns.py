"""What a named set is made of: its columns, some of them decoded when they are read, and its official split."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Named", "Pictures", "SparseRows"]

NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Named:
    """A public set as it lies in memory, whole and in its own order (some are sorted by class).

    Attributes:
        modality: image, text, table, series, audio, graph, pairs (image with text, text with text) or points.
        columns: name -> n values: a numpy array (read-only), a list (of texts, or of arrays where lengths differ), or
            something that gives the array of rows for item numbers or a slice. `x` is the data of one kind, `text`,
            `image`, `a` and `b` say what they are; `y` is what is to be predicted: labels (int64,
            -1 unknown), or numbers (float32, and no `classes`). Known factors and groups stand under their own names.
        train, test: int64 item numbers of the official split. `test` is empty where there is no official one: `train`
            are then the items among which to split (all, save for copies of others).
        choose: int64 item numbers of the part on which settings are chosen; empty where there is none.
        categories: column -> the names of its values 0, 1, ...
        extras: what does not belong to single items, such as the queries of a collection.
        licence, source: what the makers say, and where the copy comes from.
    """

    modality: str
    columns: Mapping[str, Any]
    train: np.ndarray
    test: np.ndarray = field(default_factory=NOTHING.copy)
    choose: np.ndarray = field(default_factory=NOTHING.copy)
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        # The set is kept in memory for whoever asks next, so nobody may write to it.
        for values in (*self.columns.values(), *self.extras.values(), self.train, self.test, self.choose):
            if isinstance(values, np.ndarray):
                values.flags.writeable = False

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels 0, 1, ...; empty for a set without labels."""
        return self.categories.get("y", ())


class Pictures:
    """Picture files in memory; each is decoded when it is first asked for, and once.

    Reads like a uint8 array (n, c, h, w). Files with transparency are laid over white.

    Args:
        files: n encoded pictures of equal size.
        shape: (c, h, w) of one picture, c = 3.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[bytes], shape: tuple[int, int, int]) -> None:
        self.shape = (len(files), *shape)
        self._files = files
        self._images = np.empty(self.shape, np.uint8)
        self._decoded = np.zeros(len(files), np.bool_)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, items: Any) -> np.ndarray:
        picked = np.arange(len(self))[items]
        for item in np.unique(picked[~self._decoded[picked]]):
            self._images[item] = _decode(self._files[item])
            self._decoded[item] = True
        return self._images[picked]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def _decode(file: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(file), formats=["JPEG", "PNG"]) as image:
        if image.mode in ("RGBA", "P", "LA"):
            opaque = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return np.asarray(opaque)[..., :3].transpose(2, 0, 1)
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


class SparseRows:
    """Mostly empty rows; reads like a float32 array (n, dim).

    Attributes:
        csr: the rows as `scipy.sparse.csr_matrix`.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, values: np.ndarray, indices: np.ndarray, starts: np.ndarray, dim: int) -> None:
        from scipy.sparse import csr_matrix

        self.shape = (len(starts) - 1, dim)
        self.csr = csr_matrix((values.astype(np.float32), indices.astype(np.int32), starts), shape=self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, items: Any) -> np.ndarray:
        picked = np.arange(len(self))[items]
        rows = self.csr[np.atleast_1d(picked)].toarray()
        return rows if np.ndim(picked) else rows[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)
