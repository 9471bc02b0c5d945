"""Named public sets, read from the folder that the environment variable TACIT_DATA names."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from tacit.data._digits import load_digits
from tacit.errors import DataError, expect, unknown

__all__ = ["named"]

SPLITS = ("train", "test")


def named(
    name: str, split: str = "train", *, n: int | None = None, seed: int = 0, size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a public set, in an order that the seed draws.

    | name          | train  | test   | pixels      | where in TACIT_DATA                          |
    |---------------|--------|--------|-------------|----------------------------------------------|
    | cifar10       | 50,000 | 10,000 | 3 x 32 x 32 | cifar10_jpeg/train.parquet and test.parquet  |
    | fashion_mnist | 60,000 | 10,000 | 1 x 28 x 28 | fashion_mnist/train.npz and test.npz         |
    | mnist         | 5,000  | 5,000  | 1 x 28 x 28 | mnist_test10k/mnist_test10k.npz              |
    | usps          | 7,291  | 2,007  | 1 x 16 x 16 | usps/usps.npz                                |
    | digits        | 898    | 899    | 1 x 8 x 8   | comes with scikit-learn                      |

    The splits are the standard ones, save that `mnist` holds MNIST's 10,000 test digits alone and is halved in its own
    order (the first half is the easier one), as is `digits`. `cifar10` is stored as JPEG, so its figures are not
    comparable with those of papers. What was decoded stays in memory.

    Args:
        name: one of the table's.
        split: train or test.
        n: how many items to draw; all if None. A smaller n draws the first ones of a larger n.
        seed: draws the order and so the subset; the sets are stored sorted by class.
        size: side in pixels to resize to (bilinear, antialiased); None keeps the set's own.

    Returns:
        images uint8 (n, c, h, w), labels int64 (n,).

    Raises:
        ArgumentError: unknown name or split, n or size out of range.
        DataError: TACIT_DATA is not set, or does not hold the set.

    >>> images, labels = named("digits", "test", n=100, seed=3)
    >>> images.shape, images.dtype, labels.shape
    ((100, 1, 8, 8), dtype('uint8'), (100,))
    """
    if name not in _READERS:
        raise unknown("name", name, _READERS)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    expect("size", size, size is None or size >= 1, "at least 1 pixel, or None")
    images, labels = _read(name, split, os.environ.get("TACIT_DATA", ""))
    total = len(labels)
    expect("n", n, n is None or 1 <= n <= total, f"1 to {total}, the size of {name}'s {split} split", "None takes all")
    picked = _order(total, seed)[:n]
    return _resize(images[picked], size), labels[picked]


def _order(total: int, seed: int) -> np.ndarray:
    """A permutation that no version of numpy changes: raw words are guaranteed, `Generator.permutation` is not."""
    return np.argsort(np.random.PCG64(seed).random_raw(total), kind="stable")


def _resize(images: np.ndarray, size: int | None) -> np.ndarray:
    if size is None or images.shape[-2:] == (size, size):
        return images
    import torch
    from torch.nn.functional import interpolate

    resized = np.empty((*images.shape[:2], size, size), np.uint8)
    for start in range(0, len(images), 1000):
        x = torch.from_numpy(images[start : start + 1000]).float()
        x = interpolate(x, (size, size), mode="bilinear", antialias=True)
        resized[start : start + 1000] = x.round().clamp(0, 255).numpy()
    return resized


# Where each set lies, and how it is packed ----------------------------------------------------------------------------


class Images(Protocol):
    """What a reader gives: an array, or anything that gives uint8 (len(picked), c, h, w) for item numbers."""

    def __getitem__(self, picked: np.ndarray) -> np.ndarray: ...


@functools.cache
def _read(name: str, split: str, folder: str) -> tuple[Images, np.ndarray]:
    images, labels = _READERS[name](folder, split)
    return images, np.asarray(labels, np.int64)


def _find(folder: str, path: str) -> Path:
    """The place for a download, should there be one."""
    if not folder:
        raise DataError(f"TACIT_DATA is not set: expected the folder that holds {path}; set it with TACIT_DATA=DIR")
    found = Path(folder).expanduser() / path
    if not found.is_file():
        raise DataError(f"TACIT_DATA={folder!r}: expected it to hold {path}; set it to the folder that does")
    return found


def _cifar10(folder: str, split: str) -> tuple[Images, np.ndarray]:
    from pyarrow import parquet

    table = parquet.read_table(_find(folder, f"cifar10_jpeg/{split}.parquet"), columns=["image", "label"])
    return _Jpegs(table["image"].to_pylist(), (3, 32, 32)), table["label"].to_numpy()


def _fashion_mnist(folder: str, split: str) -> tuple[Images, np.ndarray]:
    with np.load(_find(folder, f"fashion_mnist/{split}.npz"), allow_pickle=False) as packed:
        return packed["images"][:, None], packed["labels"]


def _mnist(folder: str, split: str) -> tuple[Images, np.ndarray]:
    with np.load(_find(folder, "mnist_test10k/mnist_test10k.npz"), allow_pickle=False) as packed:
        return _half(packed["images"][:, None], packed["labels"], split)


def _usps(folder: str, split: str) -> tuple[Images, np.ndarray]:
    with np.load(_find(folder, "usps/usps.npz"), allow_pickle=False) as packed:
        ink = packed[f"{split}_images"][:, None]  # 2,000 is white
        return np.rint(ink * (255 / 2000)).astype(np.uint8), packed[f"{split}_labels"]


def _digits(folder: str, split: str) -> tuple[Images, np.ndarray]:
    drawn = load_digits()
    return _half(drawn.images, np.array(drawn.labels["digit"], np.int64), split)


def _half(images: np.ndarray, labels: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
    middle = len(labels) // 2
    part = slice(None, middle) if split == "train" else slice(middle, None)
    return images[part], labels[part]


_READERS: dict[str, Callable[[str, str], tuple[Images, np.ndarray]]] = {
    "cifar10": _cifar10,
    "fashion_mnist": _fashion_mnist,
    "mnist": _mnist,
    "usps": _usps,
    "digits": _digits,
}


class _Jpegs:
    """JPEG files in memory; each is decoded when it is first asked for, and once."""

    def __init__(self, files: list[bytes], shape: tuple[int, int, int]) -> None:
        self._files = files
        self._images = np.empty((len(files), *shape), np.uint8)
        self._decoded = np.zeros(len(files), np.bool_)

    def __getitem__(self, picked: np.ndarray) -> np.ndarray:
        from PIL import Image

        for item in picked[~self._decoded[picked]]:
            with Image.open(io.BytesIO(self._files[item]), formats=["JPEG"]) as image:
                self._images[item] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            self._decoded[item] = True
        return self._images[picked]
