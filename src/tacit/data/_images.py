"""One image: encoded bytes, of whatever kind users have, to uint8 pixels of the stored size and a thumbnail."""

from __future__ import annotations

import functools
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tacit.errors import DataError, expect

__all__ = ["read_image"]

MAX_BYTES = 2**30
"""An encoded file above 1 GiB is refused unread."""
MAX_PIXELS = 100_000_000
"""Images of more pixels to decode are refused: at 4 bytes each they are 400 MB. JPEGs are decoded at a reduced size."""
THUMBNAIL = 64
"""Longer side of a thumbnail, in pixels."""
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "PPM",
    "AVIF",
    "HEIF",
    "JPEG2000",
    "ICO",
    "PCX",
    "SGI",
    "QOI",
)
"""What Pillow may be asked to read. Of the others that it knows, some run programs (EPS) or take text for an image."""

RESAMPLE = Image.Resampling.BICUBIC


class Unreadable(Exception):
    """An item cannot be used; the message is the reason, `kind` or `kind: detail`."""


class Picture(NamedTuple):
    """What is kept of an image."""

    pixels: np.ndarray
    """uint8 (c, s, s); c is 1 where all three colours are equal everywhere."""
    thumbnail: bytes
    """JPEG of the whole image, its longer side at most 64 pixels."""
    size: tuple[int, int]
    """Width and height of the original, upright."""
    notes: tuple[str, ...]
    """What had to be done to it."""


def read_image(image: str | os.PathLike[str] | bytes, *, size: int, channels: int = 3) -> np.ndarray:
    """One image as `open` stores it: upright, the shorter side resized, the centre square.

    Args:
        image: a path, or the encoded bytes.
        size: side of the square, in pixels.
        channels: 3, or 1 for luminance.

    Returns:
        uint8 (channels, size, size).

    Raises:
        DataError: the image cannot be read, with the reason.

    >>> drawing = io.BytesIO()
    >>> Image.new("RGB", (40, 20), (255, 0, 0)).save(drawing, "PNG")
    >>> read_image(drawing.getvalue(), size=16)[:, 0, 0].tolist()
    [255, 0, 0]
    """
    expect("channels", channels, channels in (1, 3), "1 or 3")
    try:
        with quiet():
            loaded = _load(image if isinstance(image, bytes) else read_file(os.fspath(image)), size)
    except Unreadable as error:
        name = "image" if isinstance(image, bytes) else os.fspath(image)
        raise DataError(f"{name} cannot be read: {error}") from error
    square = _square(loaded.image, size).convert("RGB" if channels == 3 else "L")
    return np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1).copy()


def file_status(path: str) -> os.stat_result:
    """Size and time of change of a regular file that is not too large; anything else (a pipe...) might never end.

    Raises:
        Unreadable: it is none, or not to be looked at.
    """
    with _unreadable():
        status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("not a regular file")
    if status.st_size > MAX_BYTES:
        raise Unreadable(f"too large: {status.st_size:,} bytes, the limit is {MAX_BYTES:,}")
    return status


def read_file(path: str) -> bytes:
    """The bytes of such a file.

    Raises:
        Unreadable: it is none, or not to be read.
    """
    file_status(path)
    with _unreadable():
        return Path(path).read_bytes()


@contextmanager
def _unreadable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a zero byte in a path that a table gave
        raise Unreadable(f"cannot be read: {error}") from error


def shorter_side(data: bytes | np.ndarray) -> int:
    """The shorter side in pixels as the header says it, 0 if there is none."""
    if isinstance(data, np.ndarray):
        return min(data.shape[:2])
    try:
        return min(_identify(data).size)
    except Unreadable:
        return 0


def decode(data: bytes | np.ndarray, size: int) -> Picture:
    """Decode an encoded image, or a uint8 array (h, w) or (h, w, 1|3|4), and bring it to the stored size.

    JPEGs are decoded at the smallest reduced size that is at least twice the stored one.

    Raises:
        Unreadable: it is no image, damaged, truncated, or has too many pixels.
    """
    loaded = _load(data, size)
    pixels = np.asarray(_square(loaded.image, size)).reshape(size, size, -1)
    if (pixels[..., :1] == pixels).all():
        pixels = pixels[..., :1]
    return Picture(pixels.transpose(2, 0, 1), _thumbnail(loaded.image), loaded.size, loaded.notes)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings from Pillow about what is handled here: large images, damaged EXIF, odd palettes."""
    formats()  # loads Pillow's readers now, rather than from several threads
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


# Decoding -------------------------------------------------------------------------------------------------------------


class _Loaded(NamedTuple):
    image: Image.Image
    """Upright, mode L or RGB, perhaps smaller than the original but large enough for the stored size."""
    size: tuple[int, int]
    notes: tuple[str, ...]


def _load(data: bytes | np.ndarray, size: int) -> _Loaded:
    if isinstance(data, np.ndarray):
        image = Image.fromarray(data[..., 0] if data.shape[2:] == (1,) else data)
        return _flatten(image, image.size, [])
    image = _identify(data)
    notes, (width, height) = _notes(image), image.size
    _decode(image, size)
    orientation = _orientation(image)  # only now, for asking a PNG for its EXIF decodes all of it
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
        notes.append("turned upright as their EXIF says")
    return _flatten(image, (height, width) if orientation >= 5 else (width, height), notes)


@functools.cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that the installed Pillow reads (HEIF where pillow-heif is registered)."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _identify(data: bytes) -> Image.Image:
    """Read the header only."""
    if not data:
        raise Unreadable("empty: zero bytes")
    try:
        return Image.open(io.BytesIO(data), formats=formats())
    except Image.UnidentifiedImageError as error:
        raise Unreadable(_what_else(data)) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged header makes Pillow's readers fail in any way
        raise Unreadable(_reason(error)) from error


def _decode(image: Image.Image, size: int) -> None:
    width, height = image.size
    if not width or not height:
        raise Unreadable(f"damaged: {width} x {height} pixels")
    reduction = 2 * size / min(width, height)
    # Does nothing but for JPEG, whose transform gives 1/2, 1/4 or 1/8 of the size at a fraction of the time.
    image.draft(None, (int(width * reduction), int(height * reduction)))
    if image.width * image.height > MAX_PIXELS:
        raise Unreadable(f"too many pixels: {width:,} x {height:,}, the limit is {MAX_PIXELS:,} in all")
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise Unreadable(_reason(error)) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels: {text.removesuffix(', could be decompression bomb DOS attack.')}"
    if "truncated" in text.lower():
        return f"truncated: {text}"
    return f"damaged: {text}"


def _what_else(data: bytes) -> str:
    """What a file is that Pillow does not take for an image."""
    head = data[:1024]
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "HEIC: Pillow reads it only where pillow-heif is installed and registered"
    if b"<svg" in head:
        return "not an image of pixels: SVG drawing"
    if not head.strip(b"\0"):
        return "damaged: nothing but zeros"
    try:
        text = head.decode("utf-8", errors="strict" if len(data) <= len(head) else "ignore")
    except UnicodeDecodeError:
        return "not an image: unknown format"
    if all(character.isprintable() or character.isspace() for character in text):
        return "not an image: text"
    return "not an image: unknown format"


def _notes(image: Image.Image) -> list[str]:
    try:
        several = image.format != "MPO" and getattr(image, "is_animated", False)
        image.seek(0)
    except Exception:  # a damaged second frame is no harm to the first
        several = True
    return ["with several frames or pages, the first taken"] if several else []


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each value of EXIF's Orientation (CIPA DC-008, section 4.6.4)."""


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF is no harm to the pixels
        return 1


# To 8 bits of grey or RGB ---------------------------------------------------------------------------------------------


def _flatten(image: Image.Image, size: tuple[int, int], notes: list[str]) -> _Loaded:
    if image.mode in ("1", "L", "RGB") and "transparency" not in image.info:
        flat = image.convert("L") if image.mode == "1" else image
    elif image.mode.startswith(("I", "F")):
        flat = _to_eight_bits(image, notes)
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        flat = _on_white(image.convert("RGBA"), notes)
    else:
        flat = image.convert("RGB")
        if image.mode == "CMYK":
            notes.append("turned from CMYK into RGB")
    return _Loaded(flat, size, tuple(notes))


def _on_white(image: Image.Image, notes: list[str]) -> Image.Image:
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=alpha)
    notes.append("with transparency, put on white")
    return white


def _to_eight_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # NaN fails too
            raise Unreadable(f"floating-point values outside 0 to 1: from {low:g} to {high:g}")
        notes.append("of floating-point numbers, scaled from 0 to 1 to 8 bits")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if low < 0 or high > 65535:
        raise Unreadable(f"integer values outside 0 to 65,535: from {low:,} to {high:,}")
    # A camera of 12 bits that leaves the upper four unused gives dark pictures; guessing its range would be worse.
    notes.append("of 16 bits, scaled to 8" + (" (dark: the upper 4 bits are unused)" if high < 4096 else ""))
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


# To the sizes kept ----------------------------------------------------------------------------------------------------


def _square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size, size), RESAMPLE, (left, top, left + side, top + side), reducing_gap=3.0)


def _thumbnail(image: Image.Image) -> bytes:
    scale = THUMBNAIL / max(image.size)
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, RESAMPLE, reducing_gap=3.0)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()
