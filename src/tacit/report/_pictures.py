"""Thumbnails of a run as pictures inside a page: one by one, or as sheets of many."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

SHEET_COLUMNS, SHEET_ROWS = 32, 32
CELL, WIDEST = 64, 160
LARGEST, LARGEST_BYTES = 512, 65_536
"""A thumbnail of more pixels a side or more bytes than this is none of ours, and is neither decoded nor shown."""
KINDS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


def data_uri(thumbnail: bytes) -> str | None:
    """The thumbnail as a data URI if it is a JPEG or PNG, else None."""
    kind = next((kind for start, kind in KINDS.items() if thumbnail.startswith(start)), None)
    kind = kind if len(thumbnail) <= LARGEST_BYTES else None
    return f"data:{kind};base64,{base64.b64encode(thumbnail).decode()}" if kind else None


def snippet(thumbnail: bytes) -> str | None:
    """The thumbnail as text, if it is a piece of text."""
    if not thumbnail or thumbnail.startswith(tuple(KINDS)):
        return None
    try:
        return thumbnail.decode()
    except UnicodeDecodeError:
        return None


def size_of(thumbnail: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, as its header says; None for anything else."""
    if not thumbnail.startswith(b"\x89PNG\r\n\x1a\n") or len(thumbnail) < 24:
        return None
    width, height = struct.unpack(">II", thumbnail[16:24])
    return (width, height) if 1 <= width <= LARGEST and 1 <= height <= LARGEST else None


def sheets(
    thumbnails: Sequence[bytes], quality: int = 74, *, whole: bool = False
) -> tuple[list[str], tuple[int, int], list[int]]:
    """Many thumbnails on a few JPEG sheets, `SHEET_COLUMNS` in a row.

    Args:
        whole: each is seen whole in a cell that holds the largest (a spectrogram, a curve); else it fills a square.

    Returns:
        The sheets as data URIs, width and height of a cell in pixels, and which of the thumbnails could be read, in the
        order of the cells.
    """
    from PIL import Image, ImageOps

    pictures: list[Image.Image] = []
    found = []
    for i, thumbnail in enumerate(thumbnails):
        try:
            with Image.open(io.BytesIO(thumbnail), formats=("JPEG", "PNG")) as picture:
                if max(picture.size) > LARGEST:
                    continue
                pictures.append(picture.convert("RGB"))
                found.append(i)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    if not pictures:
        return [], (CELL, CELL), []
    if whole:
        cell = min(WIDEST, max(one.width for one in pictures)), min(CELL, max(one.height for one in pictures))
    else:
        cell = (min(CELL, max(max(picture.size) for picture in pictures)),) * 2
    per_sheet = SHEET_COLUMNS * SHEET_ROWS
    uris = []
    for start in range(0, len(pictures), per_sheet):
        part = pictures[start : start + per_sheet]
        rows = -(-len(part) // SHEET_COLUMNS)
        sheet = Image.new("RGB", (min(len(part), SHEET_COLUMNS) * cell[0], rows * cell[1]), "white")
        for i, one in enumerate(part):
            place = (i % SHEET_COLUMNS * cell[0], i // SHEET_COLUMNS * cell[1])
            corner: Any = one.getpixel((0, 0))
            sheet.paste(ImageOps.pad(one, cell, color=corner) if whole else ImageOps.fit(one, cell), place)
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=quality, optimize=True)
        uris.append(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return uris, cell, found


def even_sample(x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Which points to take so that they lie as all do: (m,) int, m <= size, evenly along a Z-order curve.

    Args:
        x, y: (n,) uint16.
    """
    code = np.zeros(len(x), np.uint64)
    for bit in range(16):
        code |= ((x.astype(np.uint64) >> np.uint64(bit)) & np.uint64(1)) << np.uint64(2 * bit)
        code |= ((y.astype(np.uint64) >> np.uint64(bit)) & np.uint64(1)) << np.uint64(2 * bit + 1)
    order = np.argsort(code, kind="stable")
    return order if len(order) <= size else order[np.linspace(0, len(order) - 1, max(size, 0)).astype(int)]
