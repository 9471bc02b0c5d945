"""Points -> one float32 array in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from tacit.data import _cache
from tacit.data._arrays import blocks
from tacit.data._cache import ArrayWriter
from tacit.data._packs import Progress, content_hash
from tacit.errors import DataError

FORMAT = 1


def pack_points(rows: np.ndarray, cache: Path, progress: Progress) -> tuple[np.ndarray, np.ndarray, list[bytes], Path]:
    """The rows that are finite as float32, memory-mapped from the cache.

    Args:
        rows: real numbers (n, d), in memory or memory-mapped; read in blocks.

    Returns:
        x float32 (m, d), kept int64 (m,): which rows they are, their content hashes, and the folder in the cache.

    Raises:
        DataError: no row is finite, or the cache cannot be written.
    """
    kept, hashes, done = [], list[bytes](), 0
    for block in blocks(rows):
        usable = np.flatnonzero(np.isfinite(_float32(block)).all(axis=1))
        kept.append(usable + done)
        hashes += [content_hash(row) for row in _float32(block)[usable]]
        done += len(block)
        progress("reading", done, len(rows))
    if not hashes:
        raise DataError(f"none of the {len(rows):,} points is finite: each holds NaN, or numbers beyond float32")
    key = hashlib.sha256(f"points {FORMAT} ".encode() + b"".join(hashes)).hexdigest()
    folder = cache / "points" / key
    if (x := _open(folder, len(hashes))) is None:
        _cache.remove(folder)
        _cache.require_space(cache, 4 * len(hashes) * rows.shape[1])
        with _cache.building(cache, "points", key) as temporary:
            _write(rows, temporary)
        x = _open(folder, len(hashes))
    if x is None:
        raise DataError(f"the cache in {cache} was emptied, or the data changed, while it was used: try again")
    return x, np.concatenate(kept), hashes, folder


def _write(rows: np.ndarray, folder: Path) -> None:
    with ArrayWriter(folder / "x.npy", rows.shape[1:], np.float32) as writer:
        for block in blocks(rows):
            values = _float32(block)
            writer.append(values[np.isfinite(values).all(axis=1)])


def _float32(block: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(block, np.float32)


def _open(folder: Path, n: int) -> np.ndarray | None:
    try:
        x = np.load(folder / "x.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return x if len(x) == n else None
