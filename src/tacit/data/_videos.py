"""Videos -> frames of clips: folders of numbered images, animated pictures, and films that PyAV decodes."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from tacit.data import _cache, _images
from tacit.data._cache import ArrayWriter
from tacit.data._dataset import Dataset
from tacit.data._images import MAX_PIXELS, Unreadable, read_file
from tacit.data._listing import BY_NAME, KINDS, Files, Listing, folder_labels, is_problem, printable
from tacit.data._packs import Item, Progress, Skipped, content_hash
from tacit.errors import DataError, MissingExtra

if TYPE_CHECKING:
    from tacit.data._open import Source

LONGEST = 120
"""Frames of a clip at most; longer ones are cut into parts of about equal length."""
RATE = 10
"""Frames that are taken of a second of film; those between differ too little."""
MOST = 1200
"""Frames that are taken of one film at most, which are its first two minutes."""
SIDE = 256
"""Shorter side in pixels of decoded frames at most, the largest at which images are kept."""
ANIMATED = ("gif", "webp")
FORMAT = 1


@dataclass
class Clips(Listing):
    """Frames as items, clip by clip."""

    clips: Sequence[int] = field(default_factory=list)
    """Number of the clip of each item, rising from 0."""


@dataclass
class _Clip:
    """One clip: a folder, an animation, a film, or a part of one."""

    name: str
    items: list[Item]


def list_clips(files: Files, *, labels: str, cache: Path, tell: Progress) -> Clips:
    """The clips among the files: every folder that holds images is one, every animation and every film.

    Frames of a folder are ordered by the numbers in their names: `frame2.png` is before `frame10.png`. Films and
    animations are decoded here, once for each content, into the cache.

    Raises:
        DataError: there is none.
        MissingExtra: there are films, and PyAV is not installed.
    """
    folders: dict[str, list[str]] = {}
    clips: list[_Clip] = []
    skipped: list[Skipped] = []
    for number, name in enumerate(files.names):
        kind, ending = KINDS.get(_ending(name)), _ending(name)
        if kind == "video" or ending in ANIMATED:
            film = _decoded(name, files, cache, _film if kind == "video" else _animation)
            if isinstance(film, _Clip):
                clips.append(film)
            elif film is not None:
                skipped.append(Skipped(printable(name), film))
            else:  # a still picture
                folders.setdefault(name.rpartition("/")[0], []).append(name)
        elif kind == "image":
            folders.setdefault(name.rpartition("/")[0], []).append(name)
        else:
            skipped.append(Skipped(printable(name), f"no video {BY_NAME}: .{ending}"))
        tell("reading", number + 1, len(files.names))
    for folder, names in folders.items():
        items = [
            Item(printable(name), partial(files.read, name), partial(files.stamp, name))
            for name in sorted(names, key=_by_number)
        ]
        clips.append(_Clip(printable(folder) or Path(files.where).name, items))
    skipped += [Skipped(clip.name, "one frame: a clip has at least two") for clip in clips if len(clip.items) < 2]
    whole = sorted((clip for clip in clips if len(clip.items) >= 2), key=lambda clip: _by_number(clip.name))
    if not whole:
        raise _no_clip(files, skipped)
    return _listing(files, whole, [*files.problems, *skipped], labels)


def with_clips(source: Source, found: Clips) -> Source:
    """The frames that could be read, with the column `clip`: the number of each one's clip, from 0."""
    by_uri = dict(zip(found.uris, found.clips, strict=True))
    numbers = np.unique([by_uri[uri] for uri in source.uris], return_inverse=True)[1].astype(np.int64)
    fingerprint = content_hash(f"clips {source.dataset.fingerprint} ".encode() + numbers.tobytes()).hex()
    columns = {"x": source.dataset["x"], "clip": numbers}
    source.dataset = Dataset(columns, modality="image", fingerprint=fingerprint)
    n, count = len(numbers), int(numbers.max()) + 1
    source.shape = {**source.shape, "clips": count}
    source.counted = f"{n:,} frames of {count:,} clip{'s' * (count != 1)}"
    return source


class Frame(NamedTuple):
    """A picture, or one of a film."""

    pixels: np.ndarray
    """uint8 (c, h, w), the shorter side as asked for; c is 1 or 3."""
    size: tuple[int, int]
    """Width and height of the original, upright; of a film as it is decoded, the shorter side SIDE at most."""


def read_frames(path: str | Path, *, side: int) -> list[Frame]:
    """An image, whole; or all frames of a film or an animation, as they are taken for clips.

    Args:
        path: of a file; what it is says its ending.
        side: length of the shorter side that is wanted, in pixels.

    Raises:
        DataError: it cannot be read, with the reason.
        MissingExtra: it is a film, and PyAV is not installed.
    """
    ending = _ending(str(path))
    try:
        data = read_file(str(path))
        if KINDS.get(ending) == "video" or (ending in ANIMATED and _moves(data)):
            pictures = [
                Image.fromarray(frame) for frame in (_film if KINDS.get(ending) == "video" else _animation)(data)
            ]
            sizes = [picture.size for picture in pictures]
        else:
            with _images.quiet():
                loaded = _images._load(data, side)
            pictures, sizes = [loaded.image], [loaded.size]
    except Unreadable as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return [Frame(_with_side(picture, side), size) for picture, size in zip(pictures, sizes, strict=True)]


def _with_side(picture: Image.Image, side: int) -> np.ndarray:
    width, height = (max(1, round(length * side / min(picture.size))) for length in picture.size)
    small = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(small).reshape(height, width, -1).transpose(2, 0, 1).copy()


def _listing(files: Files, whole: Sequence[_Clip], skipped: list[Skipped], labels: str) -> Clips:
    parts = [part for clip in whole for part in _cut(clip)]
    items = [item for part in parts for item in part.items]
    lengths = [len(part.items) for part in parts]
    found, labels_from = folder_labels(
        [f"{part.name}/frame" if "/" in part.name else part.name for part in parts], labels
    )
    cut = sum(len(clip.items) > LONGEST for clip in whole)
    remarks = [
        f"Clips have {int(np.median(lengths)):,} frames in the median, from {min(lengths):,} to {max(lengths):,}."
    ]
    if cut:
        remarks.append(f"Cut into clips of at most {LONGEST} frames: {cut:,} longer ones.")
    if any("#" in item.uri for item in items):
        remarks.append(f"Films are read at {RATE} frames a second, {MOST // RATE} seconds at most.")
    return Clips(
        where=printable(files.where),
        what=files.what,
        uris=[item.uri for item in items],
        items=lambda: iter(items),
        skipped=skipped,
        labels={name: [value for value, n in zip(values, lengths, strict=True) for _ in range(n)]
                for name, values in found.items()},
        labels_from=labels_from,
        remarks=remarks,
        clips=np.repeat(np.arange(len(parts)), lengths).tolist(),
    )  # fmt: skip


def _cut(clip: _Clip) -> list[_Clip]:
    n = len(clip.items)
    count = -(-n // LONGEST)
    edges = [n * part // count for part in range(count + 1)]
    return [_Clip(clip.name, clip.items[a:b]) for a, b in pairwise(edges)]


def _no_clip(files: Files, skipped: Sequence[Skipped]) -> DataError:
    looked_for = "clips (subfolders of numbered images, animated .gif, .mp4 and other films)"
    unread = list(filter(is_problem, skipped))
    if not unread:
        return files.nothing(looked_for)
    where, first = printable(files.where), ": ".join(unread[0])
    return DataError(
        f"nothing readable in {where}: looked for {looked_for}, {len(unread):,} skipped; the first: {first}"
    )


# Decoding -------------------------------------------------------------------------------------------------------------


def _decoded(
    name: str, files: Files, cache: Path, decode: Callable[[bytes], Iterable[np.ndarray]]
) -> _Clip | str | None:
    """The clip of one file, decoded unless the cache has it; why there is none; or None for a still picture."""
    try:
        data = files.read(name)
        if decode is _animation and not _moves(data):
            return None
        key = content_hash(f"video {FORMAT} {RATE} {MOST} {SIDE} ".encode() + content_hash(data)).hex()
        place = cache / "images" / key / "frames.npy"
        if not place.is_file():
            _cache.remove(place.parent)
            with _cache.building(cache, "images", key) as folder:
                _write(decode(data), folder / "frames.npy")
    except Unreadable as error:
        return str(error)
    count, shown = len(np.load(place, mmap_mode="r", allow_pickle=False)), printable(name)
    return _Clip(shown, [Item(f"{shown}#{number:04d}", partial(_frame, place, number)) for number in range(count)])


def _frame(place: Path, number: int) -> np.ndarray:
    return np.array(np.load(place, mmap_mode="r", allow_pickle=False)[number])


def _write(frames: Iterable[np.ndarray], place: Path) -> None:
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise Unreadable("empty: no frames")
    with ArrayWriter(place, first.shape, np.uint8) as writer:
        writer.append(first)
        for frame in frames:
            same = frame.shape == first.shape
            writer.append(frame if same else np.asarray(Image.fromarray(frame).resize(first.shape[1::-1])))


def _moves(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=("GIF", "WEBP")) as picture:
            return bool(getattr(picture, "is_animated", False))
    except Exception:  # whatever is wrong with it is said where images are read
        return False


def _animation(data: bytes) -> Iterator[np.ndarray]:
    """Frames of a gif or webp, transparency on white."""
    try:
        with Image.open(io.BytesIO(data), formats=("GIF", "WEBP")) as picture:
            _check_size(*picture.size)
            for number in range(min(getattr(picture, "n_frames", 1), MOST)):
                picture.seek(number)
                frame = picture.convert("RGBA")
                white = Image.new("RGB", frame.size, "white")
                white.paste(frame, mask=frame.getchannel("A"))
                yield np.asarray(white.resize(_kept_size(*white.size), Image.Resampling.BICUBIC, reducing_gap=3.0))
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # a damaged file makes Pillow fail in any way
        raise _damaged(error) from error


def _film(data: bytes) -> Iterator[np.ndarray]:
    """Frames of what FFmpeg reads, RATE a second, upright."""
    try:
        import av
    except ImportError as error:
        raise MissingExtra("av", "video", "reading films (.mp4, .mov, .webm...)") from error
    try:
        with av.open(io.BytesIO(data)) as container:
            if not container.streams.video:
                raise Unreadable("no pictures: only sound")
            yield from _sampled(container.decode(container.streams.video[0]))
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # a damaged file makes FFmpeg fail in any way
        raise _damaged(error) from error


def _damaged(error: Exception) -> Unreadable:
    text = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return Unreadable(f"damaged: {text or type(error).__name__}")


def _sampled(frames: Iterable[Any]) -> Iterator[np.ndarray]:
    taken, start = 0, None
    for number, frame in enumerate(frames):
        time = number / 25 if frame.time is None else frame.time
        start = time if start is None else start
        if time - start < taken / RATE - 1e-3:
            continue
        _check_size(frame.width, frame.height)
        width, height = _kept_size(frame.width, frame.height)
        pixels = frame.reformat(width, height, format="rgb24").to_ndarray()
        yield np.ascontiguousarray(np.rot90(pixels, round(getattr(frame, "rotation", 0) / 90)))
        # the next one is due RATE a second after the start, also where frames are missing or slow
        taken = max(taken + 1, int((time - start) * RATE) + 1)
        if taken >= MOST:
            return


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Unreadable(f"too many pixels: {width:,} x {height:,}, the limit is {MAX_PIXELS:,} in all")


def _kept_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, SIDE / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _ending(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def _by_number(name: str) -> list[tuple[int, int, str]]:
    """Digits count as numbers: a2 is before a10.

    >>> sorted(["a10", "a2", "b1"], key=_by_number)
    ['a2', 'a10', 'b1']
    """
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), "") if part.isdecimal() and part.isascii() else (0, 0, part) for part in parts if part]
