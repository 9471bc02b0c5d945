"""Arrays: which are images and which are points, and both as items."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tacit.data._images import Unreadable
from tacit.data._listing import LEARNS_FROM, Labels, Listing
from tacit.data._packs import Item
from tacit.data._tables import as_label
from tacit.errors import ArgumentError, DataError, unknown

ARRAYS = ("images", "x", "data", "arr_0")
"""Names in an .npz that are looked for, in this order."""
LABELS = ("labels", "y", "label", "class", "target", "category")
BLOCK = 2**24
"""Values looked at together."""
TOLERANCE = 1e-3
"""How far a resizing may have carried a float image out of [0, 1]."""


class Points(NamedTuple):
    """Rows of numbers, and what stands beside them."""

    where: str
    what: str
    rows: np.ndarray
    """(n, d), of any type of real numbers."""
    labels: Labels
    labels_from: str


def list_array(
    array: np.ndarray | Tensor,
    where: str,
    what: str,
    *,
    modality: str | None,
    labels: tuple[Labels, str] = ({}, ""),
    captions: list[str | None] | None = None,
) -> Listing | Points:
    """An array as images or as points, by its type and its dimensions.

    | array                                      | taken for                                              |
    |--------------------------------------------|--------------------------------------------------------|
    | whole numbers (n, h, w)                    | n grey images                                          |
    | whole numbers (n, c, h, w) or (n, h, w, c) | n images of 1, 3 or 4 channels (the fourth is opacity) |
    | floats (n, c, h, w) or (n, h, w, c)        | the same, values from 0 to 1                           |
    | floats (n, h, w)                           | with `modality="image"` n grey images, else series     |
    | numbers (n, d)                             | n points                                               |

    Raises:
        DataError: it is none of these, or its values are not in range.
    """
    array = _as_numpy(array)
    if _modality(array, where, modality) == "points":
        return Points(where, what, array, *labels)
    order, scale = _channel_order(array, where), _Scale.of(array, where)
    return Listing(
        where=where,
        what=what,
        uris=[str(number) for number in range(len(array))],
        items=lambda: (Item(str(n), partial(_image, array, n, order, scale)) for n in range(len(array))),
        labels=labels[0],
        labels_from=labels[1],
        captions=captions,
        remarks=[scale.remark] if scale.remark else [],
    )


def read_npy(path: Path) -> np.ndarray:
    """A memory-mapped array.

    Raises:
        DataError: it is none, or holds pickled objects, which are never loaded.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _cannot_read(path, error) from error
    if isinstance(array, np.ndarray):
        return array
    array.close()
    raise DataError(f"{path} is an .npz by its content: give it that ending")


def read_npz(path: Path, labels: str) -> tuple[np.ndarray, tuple[Labels, str]]:
    """The first array that is looked for, and the labels beside it.

    Raises:
        DataError: it is no .npz, or holds no such array.
        ArgumentError: `labels` names none of its arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as packed:
            array = packed[_fitting(packed, path)]
            beside = {name: packed[name] for name in (*LABELS, labels, "names") if name in packed.files}
            names = packed.files
    except DataError:
        raise
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise _cannot_read(path, error) from error
    return array, _labels_among(beside, names, len(array), labels)


# Which array, and which kind ------------------------------------------------------------------------------------------


def _fitting(packed: np.lib.npyio.NpzFile, path: Path) -> str:
    for name in ARRAYS:
        if name in packed.files and packed[name].ndim > 1:
            return name
    held = ", ".join(packed.files[:20]) or "nothing"
    raise DataError(f"{path}: looked for an array named {', '.join(ARRAYS)}, of 2 to 4 dimensions; it holds {held}")


def _cannot_read(path: Path, error: Exception) -> DataError:
    if "pickle" in str(error) or "Python objects" in str(error):
        return DataError(f"{path} holds pickled Python objects, which tacit never loads: save an array of numbers")
    return DataError(f"{path} cannot be read: {error}")


def _labels_among(beside: dict[str, np.ndarray], names: list[str], n: int, labels: str) -> tuple[Labels, str]:
    check_labels(labels, names)
    if labels == "none":
        return {}, ""
    name = labels
    if labels == "auto":
        name = next((name for name in LABELS if name in beside and beside[name].shape == (n,)), "")
        if not name:
            return {}, ""
    if beside[name].shape != (n,):
        raise ArgumentError(
            f"labels={labels!r}: expected one value for each of {n:,} items, found {beside[name].shape}"
        )
    names_of = beside.get("names", np.empty(0))
    classes = names_of.tolist() if names_of.dtype.kind == "U" and names_of.ndim == 1 else None
    return {name: [as_label(value, classes) for value in beside[name].tolist()]}, f"array {name}"


def check_labels(labels: str, names: list[str]) -> None:
    """Refuse labels that an array cannot have.

    Raises:
        ArgumentError: neither auto nor none nor one of `names`.
    """
    if labels not in ("auto", "none", *names):
        raise unknown("labels", labels, [*names, "auto", "none"])


def _as_numpy(array: np.ndarray | Tensor) -> np.ndarray:
    if not isinstance(array, Tensor):
        return array
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def _modality(array: np.ndarray, where: str, modality: str | None) -> str:
    shape = f"{where} of shape {array.shape} and type {array.dtype}"
    if array.dtype.kind not in "buif":
        raise DataError(f"{shape}: expected whole numbers, floats or booleans")
    if 0 in array.shape:
        raise DataError(f"{shape} is empty: expected at least one item")
    if array.ndim == 2 and modality != "image":
        return "points"
    if array.ndim in (3, 4) and modality != "points":
        if array.ndim == 3 and array.dtype.kind == "f" and modality is None:
            raise DataError(f"{shape} holds series (n, channels, time); {LEARNS_FROM}; modality='image' takes it so")
        return "image"
    raise DataError(
        f"{shape}: expected images (n, h, w), (n, c, h, w) or (n, h, w, c), or points (n, d)"
        + ("; a single image is x[None]" if array.ndim == 2 else "")
    )


def _channel_order(array: np.ndarray, where: str) -> str:
    if array.ndim == 3:
        if array.shape[2] in (3, 4) and array.shape[1] > 4:
            raise DataError(
                f"{where} of shape {array.shape} looks like a single image: expected (n, h, w); try x[None]"
            )
        return "hw"
    if array.shape[1] in (1, 3, 4):
        return "chw"
    if array.shape[3] in (1, 3, 4):
        return "hwc"
    raise DataError(
        f"{where} of shape {array.shape}: expected 1, 3 or 4 channels, as in (n, 3, h, w) or (n, h, w, 3); "
        "choose three of them"
    )


# Items ----------------------------------------------------------------------------------------------------------------


class _Scale(NamedTuple):
    """From an array's values to 0 to 255."""

    white: float
    remark: str = ""

    @classmethod
    def of(cls, array: np.ndarray, where: str) -> _Scale:
        if array.dtype == np.uint8:
            return cls(255)
        if array.dtype == np.bool_:
            return cls(1)
        low, high = _range(array)
        if array.dtype.kind == "f":
            if low < -TOLERANCE or high > 1 + TOLERANCE:
                raise DataError(
                    f"{where} holds values from {low:g} to {high:g}: expected images from 0 to 1; "
                    "scale them first, or give whole numbers from 0 to 255"
                )
            return cls(1)
        if low < 0:
            raise DataError(f"{where} holds values from {low:g} to {high:g}: expected images from 0 up")
        white = 1 if high <= 1 else max(high, 255)
        return cls(white, f"Values go up to {high:,.0f}, which was taken for white." if white != 255 else "")

    def apply(self, image: np.ndarray) -> np.ndarray:
        if image.dtype == np.uint8:
            return np.ascontiguousarray(image)
        if not np.isfinite(image).all():
            raise Unreadable("not finite: it holds NaN or infinity")
        return np.rint(np.clip(image / self.white, 0, 1) * 255).astype(np.uint8, order="C")


def _range(array: np.ndarray) -> tuple[float, float]:
    """Smallest and largest finite value, a block at a time."""
    low, high = np.inf, -np.inf
    for block in blocks(array):
        finite = block[np.isfinite(block)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return low, high


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in order, as many at a time as hold about `BLOCK` values."""
    size = max(1, BLOCK // (array.size // len(array)))
    for start in range(0, len(array), size):
        yield array[start : start + size]


def _image(array: np.ndarray, number: int, order: str, scale: _Scale) -> np.ndarray:
    image = array[number]
    return scale.apply(image.transpose(1, 2, 0) if order == "chw" else image)
