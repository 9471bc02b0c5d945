"""Named public sets: from the folder that the environment variable TACIT_DATA names, or from their source."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from tacit.data._cache import cache_folder
from tacit.data._columns import Named
from tacit.data._download import KITS, downloaded, offline
from tacit.data._readers import ALIASES, READERS, about
from tacit.errors import DataError, TacitError, expect, unknown

__all__ = ["load_named", "named", "names"]

SPLITS = ("train", "test")
IMAGES = ("cifar10", "cifar10n", "fashion_mnist", "mnist", "usps", "digits", "omniglot")
"""The sets that `named` gives: images with labels, all of one size."""


def names() -> tuple[str, ...]:
    """What `load_named` knows, whether or not the data is on this machine.

    >>> [name for name in names() if name.startswith("node")]
    ['node_classification/cora', 'node_classification/cornell', 'node_classification/wisconsin']
    """
    return tuple(sorted(READERS))


def load_named(name: str, *, download: bool = True) -> Named:
    """A public set, whole, with its official split, its classes and its licence.

    | names                                        | modality | columns (n is the number of items)                     |
    |----------------------------------------------|----------|--------------------------------------------------------|
    | cifar10, fashion_mnist, mnist, usps, digits  | image    | x uint8 (n, c, h, w), y                                |
    | cifar10n                                     | image    | and aggre, worse, random_label1 to 3 (-1: not asked)   |
    | omniglot                                     | image    | x (n, 1, 28, 28), y: character, alphabet, drawer       |
    | ag_news, clinc150, clinc150_oos, cranfield   | text     | text; y, domain; title                                 |
    | sts                                          | pairs    | a, b, y: score 0 to 5, genre                           |
    | emoji                                        | pairs    | image (n, 3, 64, 64), text, skin_tone                  |
    | amazon_reviews_da, amazon_reviews_da/DOMAIN  | points   | x counts (n, 5000), y, domain                          |
    | tabular/TABLE, iris, wine, breast_cancer,    | table    | x float32 (n, d), y                                    |
    | diabetes                                     |          |                                                        |
    | time_series/SET                              | series   | x float32 (n, channels, time), y, length               |
    | time_series/InternalBleeding16               | series   | x (time, 1), y: 1 where it is abnormal                 |
    | fsdd                                         | audio    | x list of float32 (samples,), y: digit, speaker, take  |
    | dales                                        | points   | x list of float32 (points, 3), y, source_points        |
    | graphs_tu/SET                                | graph    | x list of (nodes, tags), edges list of (m, 2), y, fold |
    | node_classification/GRAPH                    | graph    | x (nodes, d), y; the edges stand in extras             |

    Folders and parts have short names where these stand for one set alone: `cora`, `adult`, `GunPoint`, `MUTAG`,
    `sts_benchmark`. `names()` lists all.

    `mnist` holds MNIST's 10,000 test digits alone; TACIT_DATA's copy has each digit's contrast stretched to the full
    range. `cifar10` is stored there as JPEG, so its figures are not comparable with those of papers. Of omniglot's 8
    alphabets 5 are `train`, 1 is `choose` and 2 are `test`; the authors' one-shot runs stand in `extras` (`support`,
    `query`, `answer`). clinc150_oos adds requests outside all intents as class 150. cranfield's `extras` hold `queries`
    and `judgements` (m, 3): query number, item number, gain 1 to 4. The set stays in memory for the next call, and its
    arrays are read-only.

    What TACIT_DATA does not hold is downloaded into the cache where its source has a checksum that was verified:
    ag_news, amazon_reviews_da, cifar10 and mnist (with the original pixels, in the same order), clinc150, cranfield,
    fashion_mnist, omniglot, sts. TACIT_OFFLINE=1 forbids it.

    Args:
        name: one of `names()`, or a short name.
        download: whether the network may be used.

    Raises:
        ArgumentError: unknown name.
        DataError: neither TACIT_DATA nor the cache holds the set, and it cannot be downloaded.

    >>> iris = load_named("iris")
    >>> len(iris), iris.columns["x"].shape, iris.classes, iris.licence
    (150, (150, 4), ('setosa', 'versicolor', 'virginica'), 'CC BY 4.0 (UCI)')
    """
    return _load(full_name(name), os.environ.get("TACIT_DATA", ""), str(cache_folder()), download and not offline())


def full_name(name: str) -> str:
    """The one of `names()` that a short or differently capitalised name stands for.

    >>> full_name("gunpoint"), full_name("usps")
    ('time_series/GunPoint', 'usps')
    """
    if name in READERS:
        return name
    others = {known.lower(): known for known in READERS} | ALIASES
    if name.lower() not in others:
        raise unknown("name", name, READERS)
    return others[name.lower()]


@functools.lru_cache(maxsize=16)
def _load(name: str, folder: str, cache: str, download: bool) -> Named:
    licence, source = about(name)
    find = _Finder(folder, licence, source, download)
    try:
        read = READERS[name](find)
    except TacitError:
        raise
    except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
        raise DataError(
            f"{name}: TACIT_DATA={folder!r} holds files that cannot be read: {error}; copy them anew"
        ) from None
    return dataclasses.replace(read, name=name, licence=licence, source=find.source)


class _Finder:
    """Where a file lies: in TACIT_DATA, or else in the cache, into which it may be downloaded."""

    def __init__(self, folder: str, licence: str, source: str, download: bool) -> None:
        self.folder, self.licence, self.source, self.download = folder, licence, source, download

    def __call__(self, path: str) -> Path:
        if self.folder and (found := Path(self.folder).expanduser() / path).is_file():
            return found
        name, _, file = path.partition("/")
        if copy := downloaded(name, licence=self.licence, allowed=self.download):
            self.source = KITS[name].source
            return copy / file
        raise DataError(self._missing(path))

    def _missing(self, path: str) -> str:
        if self.folder:
            said = f"TACIT_DATA={self.folder!r}: expected it to hold {path}; set it to the folder that does"
        else:
            said = f"TACIT_DATA is not set: expected the folder that holds {path}; set it with TACIT_DATA=DIR"
        if path.partition("/")[0] not in KITS:
            return f"{said}; tacit cannot download this set, whose source is {self.source}"
        return f"{said}, or let it be downloaded (without TACIT_OFFLINE)"


# Images alone ---------------------------------------------------------------------------------------------------------


def named(
    name: str, split: str = "train", *, n: int | None = None, seed: int = 0, size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a public set, in an order that the seed draws.

    | name          | train  | test   | pixels      |
    |---------------|--------|--------|-------------|
    | cifar10       | 50,000 | 10,000 | 3 x 32 x 32 |
    | fashion_mnist | 60,000 | 10,000 | 1 x 28 x 28 |
    | mnist         | 5,000  | 5,000  | 1 x 28 x 28 |
    | omniglot      | 3,140  | 1,180  | 1 x 28 x 28 |
    | usps          | 7,291  | 2,007  | 1 x 16 x 16 |
    | digits        | 898    | 899    | 1 x 8 x 8   |

    The splits are the official ones, save that `mnist` and `digits`, which have none, are halved in their own order
    (of mnist the first half is the easier one). `load_named` says more about each set. What was decoded stays in
    memory.

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
    if name not in IMAGES:
        raise unknown("name", name, IMAGES)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    expect("size", size, size is None or size >= 1, "at least 1 pixel, or None")
    data = load_named(name)
    items = _part(data, split)
    total = len(items)
    expect("n", n, n is None or 1 <= n <= total, f"1 to {total}, the size of {name}'s {split} split", "None takes all")
    picked = items[drawn_order(total, seed)[:n]]
    return resize(data.columns["x"][picked], size), data.columns["y"][picked]


def _part(data: Named, split: str) -> np.ndarray:
    if len(data.test):
        return data.train if split == "train" else data.test
    middle = len(data.train) // 2
    return data.train[:middle] if split == "train" else data.train[middle:]


def drawn_order(total: int, seed: int) -> np.ndarray:
    """A permutation that no version of numpy changes: raw words are guaranteed, `Generator.permutation` is not."""
    return np.argsort(np.random.PCG64(seed).random_raw(total), kind="stable")


def resize(images: np.ndarray, size: int | None) -> np.ndarray:
    """Images uint8 (n, c, h, w) at `size` pixels a side (bilinear, antialiased), or as they are."""
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
