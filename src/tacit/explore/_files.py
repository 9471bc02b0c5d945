"""The file that an item was read from, as a browser can show or play it; never any other file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

LARGEST = 256 * 2**20
STARTS: dict[str, tuple[str, tuple[bytes, ...]]] = {
    ".jpg": ("image/jpeg", (b"\xff\xd8\xff",)),
    ".jpeg": ("image/jpeg", (b"\xff\xd8\xff",)),
    ".png": ("image/png", (b"\x89PNG\r\n\x1a\n",)),
    ".gif": ("image/gif", (b"GIF87a", b"GIF89a")),
    ".webp": ("image/webp", (b"RIFF",)),
    ".bmp": ("image/bmp", (b"BM",)),
    ".wav": ("audio/wav", (b"RIFF",)),
    ".mp3": ("audio/mpeg", (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xfa")),
    ".ogg": ("audio/ogg", (b"OggS",)),
    ".oga": ("audio/ogg", (b"OggS",)),
    ".flac": ("audio/flac", (b"fLaC",)),
}
"""Ending -> media type, and how such a file begins. No SVG: it can hold scripts."""


def may_be_shown(uri: str) -> bool:
    """Whether a name is that of a file that a browser shows; nothing is opened.

    >>> may_be_shown("cats/1.JPG"), may_be_shown("rows.csv#3")
    (True, False)
    """
    return PurePosixPath(uri).suffix.lower() in STARTS


def original(source: str, uri: str) -> tuple[Path, str] | None:
    """The file of an item and its media type; None where there is none that a browser shows.

    A run may be a stranger's, so its words are not trusted: the file must lie inside the folder `source` when all links
    are followed, and be by its ending and its first bytes a picture or a sound.

    Args:
        source: the root that was given.
        uri: path below it.
    """
    if not source or not uri or "\0" in source + uri or uri.startswith(("/", "\\")) or ".." in PurePosixPath(uri).parts:
        return None
    kind = STARTS.get(PurePosixPath(uri).suffix.lower())
    if kind is None:
        return None
    try:
        root = Path(source).resolve(strict=True)
        path = (root / uri).resolve(strict=True)
        if not root.is_dir() or not path.is_relative_to(root) or not path.is_file() or path.stat().st_size > LARGEST:
            return None
        with path.open("rb") as file:
            start = file.read(16)
    except (OSError, ValueError, RuntimeError):
        return None
    return (path, kind[0]) if start.startswith(kind[1]) else None
