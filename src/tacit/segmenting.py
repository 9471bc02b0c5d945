"""Masks of the object in pictures, by a run that learned to see it; and a sheet with the masks over the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.answers import SHEET, check_out, counted, new_folder, write_made
from tacit.data import contact_sheet
from tacit.data._listing import KINDS, folder_files, glob_files, has_wildcard
from tacit.data._videos import Frame, read_frames
from tacit.errors import ArgumentError, DataError, expect

Say = Callable[[str], None]

FOLDER = "masks"
SIDE = 96
"""Pixels of a picture on the contact sheet."""
ACROSS, SHOWN = 4, 64
"""Pictures in a row of the contact sheet, each beside itself with the mask over it, and how many at most."""
BORDER = (0.85, 0.1, 0.1)
FADED = 0.75
"""How far what is not the object goes to white."""


@dataclass(frozen=True)
class Masks:
    """What was found, and where it lies."""

    folder: Path
    files: list[Path]
    """One PNG for each picture, of its size: white where the object is."""
    sheet: Path
    what: str
    lines: list[str] = field(default_factory=list)
    """What there is to know of it, in sentences."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Files that could not be read, and why."""


def segment(
    run: Path,
    learner: Any,
    images: Sequence[str | Path],
    *,
    threshold: float = 0.5,
    soft: bool = False,
    out: str | Path | None = None,
    say: Say = print,
) -> Masks:
    """Write a mask of the object in each picture, at the picture's own size.

    Args:
        run: folder of the run.
        learner: the run's, with `.predict_mask`.
        images: files, folders with pictures in them or below, and globs; of films and animated gifs every frame that
            would be learned from gets a mask.
        threshold: the object is where the soft mask is above it, in [0, 1].
        soft: write the soft mask itself, 255 where it is 1, instead.
        out: folder for the masks; a new one in the run's folder `segmented` if None.
        say: told what is being done.

    Raises:
        ArgumentError: a run that draws no masks; a threshold that cannot be.
        DataError: no pictures there, or none that can be read.
        RunError: `out` holds something already.
    """
    check_segmenter(run, learner)
    expect("threshold", threshold, 0 <= threshold <= 1, "a number from 0 to 1")
    check_out(out)
    files = _listed(images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learner.to(device).eval()
    say(f"looking for the object in {counted(len(files), 'file')}")
    skipped: list[tuple[str, str]] = []
    found = list(_drawn(learner, files, threshold, soft, skipped, lambda: new_folder(run, out, "segmented")))
    if not found:
        first = ": ".join(skipped[0])
        raise DataError(f"images: none of {counted(len(files), 'file')} can be read; the first: {first}")
    folder = found[0].root
    shown = [found[number] for number in np.linspace(0, len(found) - 1, min(SHOWN, len(found))).round().astype(int)]
    _sheet(shown).save(folder / SHEET)
    made = Masks(
        folder,
        [one.file for one in found],
        folder / SHEET,
        f"masks of {counted(len(found), 'picture')}",
        _lines(found, len(shown), learner.image_size, skipped),
        skipped,
    )
    settings = {"images": [str(image) for image in images], "threshold": threshold, "soft": soft}
    write_made(folder, made.what, made.lines, {"settings": settings, "skipped": skipped})
    return made


def check_segmenter(run: Path, learner: Any) -> None:
    """Refuse a run whose learner draws no masks."""
    if hasattr(learner, "predict_mask"):
        return
    id = getattr(type(learner), "system_id", type(learner).__name__)
    raise ArgumentError(
        f"run={str(run)!r}: its method {id} draws no masks; "
        "train one that does on videos: tacit learn VIDEOS --method foreground-generations"
    )


# which pictures -------------------------------------------------------------------------------------------------------


def _listed(images: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """The files, and the path without ending that the mask of each is to have."""
    expect("images", len(images), len(images) >= 1, "at least one picture or folder")
    found: list[tuple[str, Path]] = []
    for given in map(Path, images):
        if given.is_dir():
            found += [(name.rpartition(".")[0], given / name) for name in _pictures_in(given)]
        elif given.exists():
            found.append((given.stem, given))
        else:
            found += [(path.stem, path) for path in _matching(given)]
    return _told_apart(found)


def _pictures_in(folder: Path) -> list[str]:
    names = [name for name in folder_files(folder, _quietly).names if _is_picture(name)]
    if not names:
        raise DataError(f"{folder} holds no pictures; looked for .png, .jpg, .gif, .mp4 and others, also below")
    return names


def _matching(pattern: Path) -> list[Path]:
    files = glob_files(str(pattern), _quietly) if has_wildcard(str(pattern)) else None
    if files is None or not files.names:
        raise DataError(f"{str(pattern)!r}: no such file or folder in {Path.cwd()}")
    return [Path(files.where, name) for name in files.names]


def _is_picture(name: str) -> bool:
    return KINDS.get(name.rpartition(".")[2].lower()) in ("image", "video")


def _quietly(*said: object) -> None:
    """Listing says nothing here."""


def _told_apart(files: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Names that are there already get a number: a.jpg and a.png are a and a-2."""
    taken: set[str] = set()
    apart = []
    for name, path in files:
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        taken.add(free)
        apart.append((free, path))
    return apart


# masks ----------------------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    root: Path
    file: Path
    name: str
    picture: Tensor
    """(3, s, s), padded with white."""
    over: Tensor
    """The same with the mask over it."""
    share: float
    """Of the picture that is the object."""


def _drawn(
    learner: Any,
    files: Sequence[tuple[str, Path]],
    threshold: float,
    soft: bool,
    skipped: list[tuple[str, str]],
    place: Callable[[], Path],
) -> Iterator[_Found]:
    """Masks are written as they are found; `place` makes their folder once there is one."""
    from PIL import Image

    root: Path | None = None
    for name, path in files:
        try:
            frames = read_frames(path, side=learner.image_size)
        except DataError as error:
            skipped.append((str(path), str(error).partition("cannot be read: ")[2] or str(error)))
            continue
        root = place() if root is None else root
        for number, frame in enumerate(frames):
            mask = learner.predict_mask(frame.pixels).cpu()
            full = _resized(mask, frame.size)
            kept = full if soft else (full > threshold).float()
            own = name if len(frames) == 1 else f"{name}/{number:04d}"
            file = root / FOLDER / f"{own}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 * kept).round().byte().numpy()).save(file)
            yield _Found(root, file, own, *_pair(frame, mask, threshold), float((full > threshold).float().mean()))


def _resized(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w) to width and height as given."""
    if mask.shape == (size[1], size[0]):
        return mask
    return F.interpolate(mask[None, None], (size[1], size[0]), mode="bilinear")[0, 0].clamp(0, 1)


def _pair(frame: Frame, mask: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The picture, and the picture with all but the object faded and the border drawn, SIDE pixels wide or high."""
    pixels = torch.from_numpy(frame.pixels).float() / 255
    scale = SIDE / max(pixels.shape[1:])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[1:])
    picture = F.interpolate(pixels[None], (height, width), mode="bilinear", antialias=scale < 1)[0].clamp(0, 1)
    picture = picture.expand(3, -1, -1)
    inside = (_resized(mask, (width, height)) > threshold).float()
    outer = F.max_pool2d(inside[None, None], 3, 1, 1)[0, 0] - inside
    over = picture + (1 - inside) * FADED * (1 - picture)
    over = torch.where(outer.bool(), torch.tensor(BORDER)[:, None, None], over)
    return _padded(picture), _padded(over)


def _padded(picture: Tensor) -> Tensor:
    height, width = picture.shape[1:]
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    return F.pad(picture, (left, SIDE - width - left, top, SIDE - height - top), value=1.0)


def _sheet(shown: Sequence[_Found]) -> Any:
    blank, rows, captions = torch.ones(3, SIDE, SIDE), [], []
    for start in range(0, len(shown), ACROSS):
        part = shown[start : start + ACROSS]
        missing = ACROSS - len(part) if start else 0
        rows.append([image for one in part for image in (one.picture, one.over)] + [blank] * 2 * missing)
        captions.append([word for one in part for word in (one.name, f"{one.share:.0%}")] + [""] * 2 * missing)
    return contact_sheet(rows, captions=captions)


def _lines(found: Sequence[_Found], shown: int, side: int, skipped: Sequence[tuple[str, str]]) -> list[str]:
    shares = np.array([one.share for one in found])
    lines = [f"The object covers {np.median(shares):.0%} of a picture in the median."]
    if (shares == 0).any():
        lines.append(f"Without any object: {counted(int((shares == 0).sum()), 'picture')}.")
    lines.append(
        f"The networks see the shorter side at {side} pixels; masks are enlarged from there, their borders that coarse."
    )
    if shown < len(found):
        lines.append(f"{shown} of them are on the contact sheet, evenly spaced.")
    if skipped:
        lines.append(f"Skipped {counted(len(skipped), 'file')}; the first: {': '.join(skipped[0])}.")
    return lines
