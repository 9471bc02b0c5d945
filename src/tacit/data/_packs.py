"""Items of any origin -> one packed data set in the cache, by threads and in the items' order.

Two passes: `examine` hashes every item, which names the packed data set; `pack_images` decodes them, unless the cache
has that data set already. Items stream through both: no more than a few are in memory at a time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import PIL

from tacit.data import _cache, _images
from tacit.data._cache import ArrayWriter, Fact, FileIndex, Stamp
from tacit.data._images import Picture, Unreadable
from tacit.errors import DataError

FORMAT = 1
"""Of a packed data set; another one is made anew."""
TASK = 16
"""Items that a thread takes at a time: small images cost less than handing them over one by one."""
Progress = Callable[[str, int, int | None], object]
"""`progress(stage, done, total)`; stage is listing, reading or decoding, and total None while it is not known."""

T = TypeVar("T")
R = TypeVar("R")


class Item(NamedTuple):
    """One thing to be read, and how."""

    uri: str
    load: Callable[[], bytes | np.ndarray]
    """Encoded bytes, or a uint8 array (h, w) or (h, w, c). Raises `Unreadable`."""
    stamp: Callable[[], Stamp] | None = None
    """What tells that it has not changed, where that costs less than reading it. Raises `Unreadable`."""


class Skipped(NamedTuple):
    """An item that is not used, and why."""

    uri: str
    reason: str


class Unusable(Exception):
    """No item is readable, or one is not and all must be."""

    def __init__(self, skipped: list[tuple[int, str]]) -> None:
        super().__init__(skipped)
        self.skipped = skipped


class Thumbnails(Sequence[bytes]):
    """JPEG bytes by item number, as `thumbnails[i]` or `thumbnails(i)`; the longer side has at most 64 pixels."""

    def __init__(self, folder: Path) -> None:
        self._ends = np.load(folder / "thumbnail_ends.npy", allow_pickle=False)
        self._bytes = np.memmap(folder / "thumbnails.bin", np.uint8, mode="r", shape=int(self._ends[-1]))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, item: int) -> bytes:  # type: ignore[override]
        item = range(len(self))[item]
        return self._bytes[self._ends[item - 1] if item else 0 : self._ends[item]].tobytes()

    __call__ = __getitem__


@dataclass
class Pack:
    """A packed data set, as it lies in the cache."""

    folder: Path
    x: np.ndarray
    """uint8 (n, c, s, s), memory-mapped."""
    kept: np.ndarray
    """int64 (n,): the numbers of the items that are in it."""
    skipped: list[tuple[int, str]]
    """The numbers of those that are not, and why."""
    sizes: np.ndarray
    """int32 (n, 2): width and height of the originals."""
    notes: dict[str, int]
    """How many images needed what."""
    thumbnails: Thumbnails


# First pass: what is there --------------------------------------------------------------------------------------------


def examine(
    items: Iterable[Item], total: int, index: FileIndex, progress: Progress, num_workers: int | None = None
) -> list[Fact]:
    """Content hash and shorter side of every item, in order; from the index where a file has not changed."""
    facts: list[Fact] = []
    for fact in ordered(partial(_examine, index=index), items, num_workers):
        facts.append(fact)
        _tell(progress, "reading", len(facts), total)
    return facts


def content_hash(data: bytes | np.ndarray) -> bytes:
    """SHA-256 of encoded bytes, or of an array's type, shape and values."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).digest()
    return hashlib.sha256(f"{data.dtype.str} {data.shape} ".encode() + data.tobytes()).digest()


def _examine(item: Item, index: FileIndex) -> Fact:
    try:
        stamp = item.stamp() if item.stamp else None
        if stamp and (known := index.get(stamp)):
            return known
        data = item.load()
    except Unreadable as error:
        return Fact(b"", 0, str(error))
    fact = Fact(content_hash(data), _images.shorter_side(data))
    if stamp:
        index.put(stamp, fact)
    return fact


# Second pass: decoding ------------------------------------------------------------------------------------------------


def pack_images(
    items: Iterable[Item],
    facts: list[Fact],
    size: int,
    cache: Path,
    *,
    strict: bool,
    progress: Progress,
    num_workers: int | None = None,
) -> Pack:
    """The readable items as squares of `size` pixels in the cache; decoded only if it does not hold them yet.

    Args:
        items: as many as `facts`, in the same order.
        strict: every item must be readable.

    Raises:
        Unusable: no item is readable, or `strict` and one is not.
        DataError: the cache cannot be written, or an item changed since it was examined.
    """
    hashed = np.array([number for number, fact in enumerate(facts) if fact.hash], np.int64)
    # In the cache, items that could not even be read do not count: tomorrow they may be readable.
    unread = [(number, fact.reason) for number, fact in enumerate(facts) if not fact.hash]
    if not len(hashed) or (strict and unread):
        raise Unusable(unread)
    software = f"{PIL.__version__} {' '.join(_images.formats())}"
    key = hashlib.sha256(f"images {FORMAT} {size} {software} ".encode() + b"".join(f.hash for f in facts)).hexdigest()
    folder = cache / "images" / key
    pack = _open(folder)
    if pack is None:
        _cache.remove(folder)
        _cache.require_space(cache, len(hashed) * size * size)
        try:
            with _cache.building(cache, "images", key) as temporary:
                _write(_hashed(items, facts), len(hashed), size, temporary, strict, progress, num_workers)
        except Unusable as error:
            raise Unusable(_numbered(error.skipped, hashed, unread)) from None
        pack = _open(folder)
    if pack is None:
        raise DataError(f"the cache in {cache} was emptied while it was used: try again")
    pack.skipped, pack.kept = _numbered(pack.skipped, hashed, unread), hashed[pack.kept]
    if strict and pack.skipped:
        raise Unusable(pack.skipped)
    return pack


def _hashed(items: Iterable[Item], facts: list[Fact]) -> Iterator[tuple[Item, bytes]]:
    for item, fact in itertools.zip_longest(items, facts):
        if item is None or fact is None:
            raise DataError("the data changed while it was read: try again when nothing writes there")
        if fact.hash:
            yield item, fact.hash


def _numbered(
    skipped: list[tuple[int, str]], hashed: np.ndarray, unread: list[tuple[int, str]]
) -> list[tuple[int, str]]:
    """What was skipped among the hashed items and among all others, by number among all."""
    return sorted(unread + [(int(hashed[number]), reason) for number, reason in skipped])


def _write(
    pairs: Iterable[tuple[Item, bytes]],
    total: int,
    size: int,
    folder: Path,
    strict: bool,
    progress: Progress,
    num_workers: int | None,
) -> None:
    with _PackWriter(folder, size) as writer:
        for number, picture in enumerate(ordered(partial(_picture, size=size), pairs, num_workers)):
            if strict and isinstance(picture, str):
                raise Unusable([(number, picture)])
            writer.append(number, picture)
            _tell(progress, "decoding", number + 1, total)


def _picture(pair: tuple[Item, bytes], size: int) -> Picture | str:
    """The decoded item, or the reason why there is none."""
    item, expected = pair
    try:
        data = item.load()
        changed = content_hash(data) != expected
    except Unreadable:
        changed = True
    if changed:  # must not enter the cache under the old content's name
        raise DataError(f"{item.uri} changed while the data was read: try again when nothing writes there")
    try:
        return _images.decode(data, size)
    except Unreadable as error:
        return str(error)
    except MemoryError as error:  # may work tomorrow, so it is not a property of the file
        raise DataError(f"{item.uri} cannot be decoded: not enough memory") from error


class _PackWriter:
    """Writes a packed data set; with one channel for as long as every image is grey."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._rows = ArrayWriter(folder / "x.npy", (1, size, size), np.uint8)
        self._thumbnails = (folder / "thumbnails.bin").open("wb")
        self._kept: list[int] = []
        self._skipped: list[tuple[int, str]] = []
        self._sizes: list[tuple[int, int]] = []
        self._ends: list[int] = []
        self._notes = Counter[str]()

    def append(self, number: int, picture: Picture | str) -> None:
        if isinstance(picture, str):
            self._skipped.append((number, picture))
            return
        if len(picture.pixels) > self._rows.shape[0]:
            self._widen()
        self._rows.append(np.broadcast_to(picture.pixels, self._rows.shape))
        self._ends.append(self._thumbnails.tell() + self._thumbnails.write(picture.thumbnail))
        self._kept.append(number)
        self._sizes.append(picture.size)
        self._notes.update(picture.notes)

    def _widen(self) -> None:
        """The first image in colour: those before it get three equal channels."""
        self._rows.close()
        grey = self._rows.path.rename(self._folder / "grey.npy")
        self._rows = ArrayWriter(self._folder / "x.npy", (3, self._size, self._size), np.uint8)
        if self._kept:
            _append_all(grey, self._rows)
        grey.unlink()

    def __enter__(self) -> _PackWriter:
        return self

    def __exit__(self, failed: type | None, *_: object) -> None:
        self._rows.close()
        self._thumbnails.close()
        if failed:
            return
        if not self._kept:
            raise Unusable(self._skipped)
        np.save(self._folder / "kept.npy", np.array(self._kept, np.int64))
        np.save(self._folder / "sizes.npy", np.array(self._sizes, np.int32).reshape(-1, 2))
        np.save(self._folder / "thumbnail_ends.npy", np.array(self._ends, np.int64))
        description = {"format": FORMAT, "skipped": self._skipped, "notes": self._notes}
        (self._folder / "pack.json").write_text(json.dumps(description), encoding="utf-8")


def _append_all(grey: Path, rows: ArrayWriter) -> None:
    for image in np.load(grey, mmap_mode="r", allow_pickle=False):
        rows.append(np.broadcast_to(image, rows.shape))


def _open(folder: Path) -> Pack | None:
    """The packed data set, or None if it is not there or was damaged afterwards."""
    try:
        description = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        pack = Pack(
            folder=folder,
            x=np.load(folder / "x.npy", mmap_mode="r", allow_pickle=False),  # fails where the file is too short
            kept=np.load(folder / "kept.npy", allow_pickle=False),
            skipped=[(number, reason) for number, reason in description["skipped"]],
            sizes=np.load(folder / "sizes.npy", allow_pickle=False),
            notes=description["notes"],
            thumbnails=Thumbnails(folder),
        )
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return pack if len(pack.x) == len(pack.kept) == len(pack.sizes) == len(pack.thumbnails) else None


# Threads --------------------------------------------------------------------------------------------------------------


def ordered(function: Callable[[T], R], items: Iterable[T], num_workers: int | None = None) -> Iterator[R]:
    """`function` of every item, computed in threads, in the items' order; only a few are taken ahead.

    Pillow's decoding and SHA-256 leave the interpreter to other threads.

    >>> list(ordered(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(8, cores) if num_workers is None else max(1, num_workers)
    remaining = iter(items)
    running: deque[Future[list[R]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tacit-data")
    try:
        while task := list(itertools.islice(remaining, TASK)):
            running.append(pool.submit(_map, function, task))
            if len(running) > 2 * workers:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _map(function: Callable[[T], R], task: list[T]) -> list[R]:
    return [function(item) for item in task]


def _tell(progress: Progress, stage: str, done: int, total: int) -> None:
    if done == total or done % 256 == 0:
        progress(stage, done, total)
