"""The cache on the user's disk: arrays made once from files, and an index that spares reading unchanged files again.

    CACHE/files-1.sqlite     (path, size, time of change) -> content hash and shorter side of each file seen
          images/KEY/        one packed data set of images; KEY is a hash of everything that went into it
          points/KEY/        one of points
          tmp/               what is being written: a folder gets its final name only when it is whole

Everything in it can be made again, so it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from tacit.errors import DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["cache_folder", "cache_size", "clear_cache"]

KINDS = ("images", "points", "named", "claims")
INDEX = "files-1.sqlite"
ROWS = 1024
"""Rows that the index writes at a time, so that a killed process loses little and another one waits a moment only."""
SETTLED = 2_000_000_000
"""Nanoseconds after its last change for which a file is not indexed: it might change again within the clock's tick."""
ABANDONED = 60
"""Seconds after which a temporary folder without a lock belongs to a process that was killed."""


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where decoded data is kept: `cache_dir`, else the environment variable TACIT_CACHE, else the system's place.

    That place is `~/.cache/tacit` (XDG_CACHE_HOME counts), on macOS `~/Library/Caches/tacit`, on Windows
    `%LOCALAPPDATA%\\tacit`. Nothing is created.

    >>> cache_folder("/somewhere/else").as_posix()
    '/somewhere/else'
    """
    if chosen := cache_dir or os.environ.get("TACIT_CACHE"):
        return Path(chosen).expanduser().absolute()
    return _system_cache() / "tacit"


def cache_size(cache_dir: str | os.PathLike[str] | None = None) -> int:
    """Bytes that the cache takes on disk.

    >>> cache_size("/no/such/folder")
    0
    """
    return sum(_size(path) for path in _contents(cache_folder(cache_dir)))


def clear_cache(cache_dir: str | os.PathLike[str] | None = None) -> int:
    """Delete what tacit put into the cache, and nothing else that lies there; runs do not need it.

    Returns:
        The bytes freed.

    >>> clear_cache("/no/such/folder")
    0
    """
    freed = 0
    for path in _contents(cache_folder(cache_dir)):
        freed += _size(path)
        remove(path)
    return freed


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _system_cache() -> Path:
    try:
        home = Path.home()
    except RuntimeError:  # a process without a home, as in some containers
        return Path(tempfile.gettempdir())
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")


def _contents(cache: Path) -> list[Path]:
    """What tacit put there, save what a process is writing just now."""
    finished = [folder for kind in KINDS for folder in (cache / kind).glob("*")]
    unfinished = [folder for folder in (cache / "tmp").glob("*") if not _in_use(folder)]
    return finished + unfinished + sorted(cache.glob(INDEX + "*"))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.lstat().st_size
    return total


# Writing: a folder is there as a whole or not at all ------------------------------------------------------------------


@contextlib.contextmanager
def building(cache: Path, kind: str, key: str) -> Iterator[Path]:
    """A temporary folder that becomes `cache/kind/key` when the block ends well, and is deleted when it does not.

    Several processes may build the same one: the first to end wins, and the contents are the same.

    Raises:
        DataError: the disk is full or cannot be written to.
    """
    target, temporary = cache / kind / key, cache / "tmp" / f"{key[:16]}-{uuid.uuid4().hex[:12]}"
    try:
        _sweep(cache / "tmp")
        # Others on the machine have no business with a user's pictures.
        for folder in (cache, cache / kind, cache / "tmp", temporary):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(temporary):
            yield temporary
            _sync(temporary)
        _rename(temporary, target)
    except OSError as error:
        raise _cannot_write(cache, error.strerror or str(error)) from error
    finally:
        remove(temporary)


def require_space(cache: Path, size: int) -> None:
    """Refuse at once what cannot fit, rather than after an hour of decoding.

    Raises:
        DataError: less than `size` bytes are free where the cache lies.
    """
    place = cache
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size:
        raise _cannot_write(cache, f"{megabytes(size)} needed, {megabytes(free)} free")


def megabytes(size: int) -> str:
    """
    >>> megabytes(12_345_678), megabytes(4_500_000_000), megabytes(800)
    ('12 MB', '4.5 GB', '1 kB')
    """
    if size >= 1e9:
        return f"{size / 1e9:,.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{max(size / 1e3, 1):.0f} kB"


class ArrayWriter:
    """Writes an .npy file row by row; how many there will be need not be known before."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.path, self.shape, self.dtype, self.rows = path, shape, np.dtype(dtype), 0
        self._file: IO[bytes] = path.open("wb")
        self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """Add rows: (k, *shape), or one of `shape`."""
        rows = np.ascontiguousarray(rows, self.dtype).reshape(-1, *self.shape)
        self._file.write(rows.data if rows.size else b"")
        self.rows += len(rows)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # numpy pads the header for a first dimension of any length, so that it can be written again in place.
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, *failed: object) -> None:
        self.close()


def _cannot_write(cache: Path, why: str) -> DataError:
    return DataError(
        f"cannot write the cache in {cache}: {why}; make room or make it writable "
        "(tacit.data.clear_cache() empties it), or name another folder in TACIT_CACHE"
    )


def _rename(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        # Another process built the same one in the meantime.


def _sync(folder: Path) -> None:
    """Data must be on the disk before its final name is, or a power cut could leave an empty file under it."""
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


LOCK = "lock"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Marks the folder as in use for as long as the process lives; the system frees the lock even after kill -9."""
    path = folder / LOCK
    with path.open("wb") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    path.unlink(missing_ok=True)


def _sweep(temporary: Path) -> None:
    """Delete what killed processes left half-written."""
    for folder in temporary.glob("*"):
        if not _in_use(folder):
            remove(folder)


def _in_use(folder: Path) -> bool:
    try:
        age = time.time() - folder.stat().st_mtime
        if age < ABANDONED or fcntl is None:
            return age < (ABANDONED if fcntl else 24 * 3600)
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # its process lives and holds the lock
        return True
    return False


# The index of files ---------------------------------------------------------------------------------------------------


class Stamp(NamedTuple):
    """What tells that a file has not changed since it was last read."""

    path: bytes
    size: int
    changed: int
    """Time of the last change, in nanoseconds."""


class Fact(NamedTuple):
    """What is known of an item without decoding it."""

    hash: bytes
    """SHA-256 of its content; empty if it could not be read."""
    side: int
    """Its shorter side in pixels; 0 if it does not say."""
    reason: str = ""
    """Why it could not be read."""


class FileIndex:
    """Remembers the `Fact` of every file by its `Stamp`.

    A shortcut only: where it cannot be kept, files are read again. Safe to use from several threads and processes.
    """

    def __init__(self, cache: Path) -> None:
        self._lock, self._new = threading.Lock(), list[tuple[bytes, int, int, bytes, int]]()
        self._database: sqlite3.Connection | None = None
        with contextlib.suppress(OSError, sqlite3.Error):
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(cache / INDEX, timeout=10, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS file "
                "(path BLOB PRIMARY KEY, size INTEGER, changed INTEGER, hash BLOB, side INTEGER) WITHOUT ROWID"
            )

    def get(self, stamp: Stamp) -> Fact | None:
        """What is known of a file that has not changed since."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if self._database is not None:
                row = self._database.execute(
                    "SELECT hash, side FROM file WHERE path = ? AND size = ? AND changed = ?", stamp
                ).fetchone()
                return Fact(*row) if row else None
        return None

    def put(self, stamp: Stamp, fact: Fact) -> None:
        """Remember what was read; not of a file changed just now, whose time may not tell the next change."""
        if time.time_ns() - stamp.changed < SETTLED:
            return
        with self._lock:
            self._new.append((*stamp, fact.hash, fact.side))
            if len(self._new) >= ROWS:
                self._flush()

    def close(self) -> None:
        with self._lock:
            self._flush()
            if self._database is not None:
                self._database.close()
                self._database = None

    def _flush(self) -> None:
        rows, self._new = self._new, []
        if self._database is None or not rows:
            return
        with contextlib.suppress(sqlite3.Error), self._database:
            self._database.executemany("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?)", rows)

    def __enter__(self) -> FileIndex:
        return self

    def __exit__(self, *failed: object) -> None:
        self.close()
