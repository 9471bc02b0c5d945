"""open: from whatever holds a user's images or points to a Dataset, and all that is known of the items."""

from __future__ import annotations

import csv
import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tacit.data import _arrays, _images, _kinds, _packs, _papers, _tables, _texts, _videos
from tacit.data._arrays import Points, list_array
from tacit.data._cache import Fact, FileIndex, cache_folder, megabytes
from tacit.data._dataset import Dataset
from tacit.data._kinds import Found
from tacit.data._listing import (
    KINDS,
    LEARNS_FROM,
    LOOKED_FOR,
    Files,
    Labels,
    Listing,
    folder_files,
    full_path,
    glob_files,
    has_wildcard,
    is_problem,
    list_images,
    list_sounds,
    named_files,
    zip_files,
)
from tacit.data._packs import Progress, Skipped, Unusable
from tacit.data._points import pack_points
from tacit.errors import DataError, expect, nearest, unknown

__all__ = ["Skipped", "Source", "open", "write_skipped"]

STORED = (32, 64, 96, 128, 256)
"""Sides in pixels at which images are kept."""
CHOSEN = (32, 64, 96)
"""Those that are chosen without being asked for."""
MODALITIES = ("image", "text", "audio", "table", "series", "graph", "pairs", "points", "video")
DRAWN = ("demo", "demo:digits")


@dataclass
class Source:
    """What was found in a user's data: a Dataset to learn from, and what is known of its n items.

    Attributes:
        modality: image (of videos too), text, audio, series, table, graph or points.
        dataset: the column `x`: uint8 (n, c, s, s), float32 (n, d) for points, or what `prepare` of the encoders of its
            kind takes; for texts, which an encoder turns into numbers first, the column `length` alone.
        where: the folder, file or archive that uris are relative to, or what else the items come from.
        what: the same in a word or two: folder, zip...
        uris: n names: paths relative to `where`, row names, or item numbers.
        hashes: n SHA-256 of the contents, in hex.
        skipped: what was not used, and why.
        labels: name -> n values, None where there is none. For evaluation only: they are not in `dataset`.
        labels_from: where the labels were found.
        captions: n texts or None, where there are any: beside images, or the beginnings of texts, the values of rows...
        sizes: int32 (n, 2), width and height of the original images.
        thumbnails: `thumbnails[i]` is a JPEG of at most 64 pixels, in bytes; None for points.
        channels: 1 if every image is grey, else 3; None for points.
        image_size: side in pixels to learn at; None for points.
        cached: the folder in the cache.
        remarks: sentences on what was chosen or changed.
        texts: the items themselves, where they are texts.
        shape: what `description` says beside, by kind of data: `sample_rate`, `length`, `categories`...
        counted: the items in words; empty for images and points.
        facts: of each item its `date`, `link` and how much it was `discussed`, where the data says so; never learned
            from.
    """

    modality: str
    dataset: Dataset
    where: str
    what: str
    uris: Sequence[str]
    hashes: Sequence[str]
    skipped: list[Skipped]
    cached: Path
    labels: Labels = field(default_factory=dict)
    labels_from: str = ""
    captions: list[str | None] | None = None
    sizes: np.ndarray | None = None
    thumbnails: Sequence[bytes] | None = None
    channels: int | None = None
    image_size: int | None = None
    remarks: list[str] = field(default_factory=list)

    texts: list[str] | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    counted: str = ""
    facts: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def columns(self) -> dict[str, Any]:
        """What `building.read_columns` makes a learner's columns of: arrays, and texts as they are."""
        if self.texts is not None:
            return {"text": self.texts}
        return {name: self.dataset[name] for name in ("x", "clip") if name in self.dataset}

    def pairs(self) -> dict[str, Any]:
        """The images that have a caption, and their captions, for a method that reads both.

        Raises:
            DataError: there are none.
        """
        captions = self.captions if self.modality == "image" else None
        there = [number for number, caption in enumerate(captions or []) if caption]
        if not there:
            raise DataError(
                f"{self.where}: no image with a caption; expected a .txt beside each, or a column text or caption"
            )
        return {
            "image": self.dataset["x"].select(np.array(there)),
            "text": [caption for caption in captions or [] if caption],
        }

    @property
    def description(self) -> dict[str, Any]:
        """What a run's config.json says of its data: modality, n, channels, image_size, dim, where, fingerprint..."""
        shape = self.dataset["x"].shape if "x" in self.dataset else ()
        return {
            "modality": self.modality,
            "n": len(self),
            "channels": self.channels,
            "image_size": self.image_size,
            "stored_size": shape[-1] if self.modality == "image" else None,
            "dim": shape[1] if self.modality == "points" else None,
            "skipped": len(self.skipped),
            "labels": ", ".join(self.labels),
            "captions": self.captions is not None,
            "where": self.where,
            "what": self.what,
            "fingerprint": self.dataset.fingerprint,
        } | self.shape

    def describe(self) -> list[str]:
        """What was found, in sentences."""
        lines = [self._found(), *self.remarks]
        if self.skipped:
            lines.append(f"Skipped {len(self.skipped):,}: {count_reasons(self.skipped)}.")
        if self.labels:
            kinds = ", ".join(f"{name} ({len(set(values) - {None}):,})" for name, values in self.labels.items())
            lines.append(f"Labels found, {self.labels_from}: {kinds}; for evaluation only, never used for learning.")
        if self.captions is not None and self.modality == "image":
            written = sum(caption is not None for caption in self.captions)
            lines.append(f"Captions found for {written:,} items: offered only to a method that asks for text.")
        if self.cached.is_dir():
            size = sum(file.stat().st_size for file in self.cached.iterdir())
            lines.append(f"Cached in {self.cached.parent}: {megabytes(size)}; tacit.data.clear_cache() deletes it.")
        return lines

    def _found(self) -> str:
        n, where = len(self), self.where if self.what in self.where else f"{self.where} ({self.what})"
        if self.counted:
            return f"Found {self.counted} in {where}."
        if self.sizes is None:
            dim = self.dataset["x"].shape[1]
            return f"Found {n:,} point{'s' * (n != 1)} of {dim:,} dimensions in {where}."
        shorter = self.sizes.min(axis=1)
        smallest, median, largest = shorter.min(), int(np.median(shorter)), shorter.max()
        width, height = self.sizes[0]
        same = (self.sizes == self.sizes[0]).all()
        sides = f"shorter sides from {smallest:,} to {largest:,} pixels, {median:,} in the median"
        pixels = f"{width:,} x {height:,} pixels" if same else sides
        colour = "grey" if self.channels == 1 else "colour"
        return f"Found {n:,} {colour} image{'s' * (n != 1)} in {where}: {pixels}."


def open(
    x: Any,
    *,
    modality: str | None = None,
    image_size: int | None = None,
    labels: str = "auto",
    on_error: str = "skip",
    cache_dir: str | os.PathLike[str] | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
    like: Mapping[str, Any] | None = None,
) -> Source:
    """Find out what `x` holds and make a Dataset of it.

    Images are decoded once, to uint8 squares in a memory-mapped file in the cache, and never all in memory: turned as
    their EXIF says, transparency put on white, the shorter side resized to the smallest of 32, 64, 96, 128 and 256
    pixels that is not under `image_size`, the centre square kept. If all are grey, they have one channel. Opening the
    same content again takes what is in the cache; files that have not changed since are not even read.

    The order of the items is that of their relative paths, rows or numbers. What cannot be read is in `skipped`, as are
    files that are not images by their names; hidden files are not looked at.

    Args:
        x: a folder with images (texts, sounds, films) in it or below, those of most files, images in a tie (files with
            an image's name are about it, and do not count; runs of tacit in it are left out); a zip of
            them; a glob; a list of paths; an image; a sound; a film; a .npy or .npz; a text file, each line a text; a
            feed (Atom, RSS), a listing of arXiv or Hugging Face's page of papers, saved; a parquet, csv or jsonl with a
            column of bytes or of paths (relative to the file) of images or sounds, with texts, with columns source and
            target (a graph), with id, time and value (series), or of numbers and categories (a table); whatever
            `read_series` and `read_graph` take; a data frame; a list of texts; a networkx graph;
            `"demo"` or `"demo:digits"`; an array or tensor: images (n, h, w), (n, c, h, w) or (n, h, w, c) of whole
            numbers or booleans, the last two also of floats from 0 to 1 (as is (n, h, w) with `modality="image"`),
            with c one of 1, 3 and 4 (the fourth is opacity); series (n, channels, time) of floats; or points (n, d).
        modality: what it is, where the rules would say otherwise; pairs are images with captions; of a video the
            frames are read, each folder of numbered images a clip, and the column `clip` says which.
        image_size: side in pixels to learn at, at most 256. If None, it is that of 32, 64 and 96 which is nearest to
            the median of the shorter sides.
        labels: where to look for labels: `"folder"` (the folders that images lie in), the name of a column, `"none"`,
            or `"auto"`: a column called label, class, target, y or category, or the folders if 2 to n/5 of them hold
            all n files. Columns with such names are never learned from, whatever it says.
        on_error: `"skip"` what cannot be read, or `"raise"`.
        cache_dir: instead of the user's cache folder.
        num_workers: threads that read and decode files; as many as cores, at most 8, if None.
        progress: called as `progress(stage, done, total)`; stage is listing (total None), reading or decoding.
        like: `description` of other data that this is read like: a table's columns and categories, a sound's rate.

    Raises:
        DataError: nothing there, nothing readable, or another kind of data; or the cache cannot be written.
        ArgumentError: a setting cannot be.

    >>> import tempfile
    >>> images = np.zeros((4, 28, 28), np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = open(images, cache_dir=folder)
    >>> source.modality, source.dataset["x"].shape, source.channels, source.image_size
    ('image', (4, 1, 32, 32), 1, 32)
    """
    if isinstance(x, Source):
        return x
    _check(modality, image_size, labels, on_error)
    tell, cache = progress or _silent, cache_folder(cache_dir)
    with ExitStack() as stack:
        look = _Look(stack, "image" if modality == "pairs" else modality, labels, tell, cache, num_workers, like or {})
        found = _find(x, look)
        if isinstance(found, Points):
            return _points(found, on_error == "raise", cache, tell)
        if isinstance(found, Found):
            return _of_kind(found, on_error == "raise")
        if modality == "pairs" and found.captions is None:
            raise DataError(
                f"{found.where} ({found.what}) holds no captions: expected a .txt beside each image, or a "
                "column text or caption"
            )
        source = _images_of(found, image_size, on_error == "raise", cache, num_workers, tell)
        return _videos.with_clips(source, found) if isinstance(found, _videos.Clips) else source


def write_skipped(path: str | os.PathLike[str], skipped: Iterable[Skipped]) -> None:
    """Write `skipped` as a csv file with the columns uri and reason; the file is whole or not there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_skipped(Path(folder, "skipped.csv"), [Skipped("a,b.jpg", "truncated")])
    ...     Path(folder, "skipped.csv").read_text().splitlines()
    ['uri,reason', '"a,b.jpg",truncated']
    """
    target = Path(path)
    unfinished = target.with_name(target.name + ".tmp")
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Skipped._fields)
            writer.writerows(skipped)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def count_reasons(skipped: Iterable[Skipped]) -> str:
    """
    >>> count_reasons([Skipped("a", "truncated: 3 bytes"), Skipped("b", "empty"), Skipped("c", "truncated: 9 bytes")])
    '2 truncated, 1 empty'
    """
    kinds = Counter(item.reason.partition(":")[0] for item in skipped)
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())


# What x is ------------------------------------------------------------------------------------------------------------


def _check(modality: str | None, image_size: int | None, labels: str, on_error: str) -> None:
    if modality is not None and modality not in MODALITIES:
        raise unknown("modality", modality, MODALITIES)
    if on_error not in ("skip", "raise"):
        raise unknown("on_error", on_error, ("skip", "raise"))
    expect("labels", labels, isinstance(labels, str) and labels != "", "auto, folder, none or the name of a column")
    whole = image_size is None or (isinstance(image_size, int) and not isinstance(image_size, bool))
    fits = whole and (image_size is None or 1 <= image_size <= STORED[-1])
    expect("image_size", image_size, fits, f"a whole number of pixels from 1 to {STORED[-1]}", "None chooses it")


def _silent(stage: str, done: int, total: int | None) -> None:
    pass


@dataclass
class _Look:
    """What the user said of the data, and what reading it needs."""

    stack: ExitStack
    modality: str | None
    labels: str
    tell: Progress
    cache: Path
    num_workers: int | None
    like: Mapping[str, Any]


def _find(x: Any, look: _Look) -> Listing | Points | Found:
    if isinstance(x, str) and x.partition(":")[0] == "demo":
        return _find_drawn(x, look.labels)
    if isinstance(x, str | os.PathLike):
        return _find_path(os.fspath(x), look)
    kind = look.modality or _kinds.kind_of_object(x)
    if kind in ("text", "series", "table", "graph") and not _paths(x):
        return _find_object(x, kind, look)
    if isinstance(x, np.ndarray | Tensor):
        _arrays.check_labels(look.labels, [])
        kind = "array" if isinstance(x, np.ndarray) else "tensor"
        return list_array(x, f"an {kind}" if kind == "array" else f"a {kind}", kind, modality=look.modality)
    if _paths(x):
        return _among(named_files(x), look)
    raise DataError(
        f"x={type(x).__name__}: expected a path (folder, zip, glob, file), a list of paths or of texts, an array, a "
        f"tensor, a data frame, a graph, 'demo' or 'demo:digits'; {LEARNS_FROM}"
    )


def _paths(x: Any) -> bool:
    """Whether it is a list of paths; of texts that say nothing of a file it is not."""
    listed = isinstance(x, list | tuple) and len(x) > 0 and all(isinstance(path, str | os.PathLike) for path in x)
    return listed and _kinds.kind_of_object(x) is None


def _find_object(x: Any, kind: str, look: _Look) -> Found:
    if kind == "text":
        return _kinds.texts_of(_texts.read_list(_kinds.as_array(x)))
    if kind == "series":
        return _kinds.series_of(_kinds.as_array(x), look.labels, "an array")
    if kind == "table":
        return _kinds.table_of(x, look.labels, "a table", look.like.get("schema"))
    return _kinds.graph_of(x, look.labels)


def _find_drawn(name: str, labels: str) -> Listing | Points:
    from tacit.data._digits import load_digits
    from tacit.data._drawn import load_demo

    if name not in DRAWN:
        raise unknown("x", name, DRAWN)
    drawn = load_demo() if name == "demo" else load_digits()
    _arrays.check_labels(labels, list(drawn.labels))
    kept: Labels = {
        key: [value or None for value in values] for key, values in drawn.labels.items() if labels in ("auto", key)
    }
    where = "pictures that tacit draws" if name == "demo" else "scikit-learn's handwritten digits"
    captions: list[str | None] | None = list(drawn.captions) if drawn.captions else None
    return list_array(
        drawn.images, where, name, modality="image", labels=(kept, "known factors" if kept else ""), captions=captions
    )


def _find_path(x: str, look: _Look) -> Listing | Points | Found:
    path = full_path(x)
    try:
        folder, file, there = path.is_dir(), path.is_file(), path.exists()
    except OSError as error:
        raise DataError(f"{x!r} cannot be looked at: {error.strerror or error}") from error
    if folder:
        return _among(folder_files(path, look.tell), look)
    if file:
        return _find_file(path, look)
    if there:
        raise DataError(f"{path} is neither a folder nor a regular file; looked for {LOOKED_FOR}")
    if has_wildcard(x):
        return _among(glob_files(x, look.tell), look)
    raise DataError(f"{x!r}: no such file or folder in {Path.cwd()}{_did_you_mean(path)}")


def _among(files: Files, look: _Look) -> Listing | Points | Found:
    """The items among files of several kinds: those of the kind asked for, or of which there are most."""
    if look.modality is not None:
        return _of_files(files, look.modality, look)
    counts = files.votes() or files.kinds()
    most = max((each for each in counts if each), key=lambda each: counts[each], default="image")
    pictures = counts["image"]
    if counts[most] <= pictures:
        return _of_files(files, "image", look)
    found = _of_files(files, most, look)
    if pictures and not isinstance(found, Points):
        s = "s" * (pictures != 1)
        found.remarks.append(f"Also there: {pictures:,} picture{s}, not read; --modality image takes them instead.")
    return found


def _of_files(files: Files, kind: str, look: _Look) -> Listing | Points | Found:
    if kind == "text":
        return _texts_among(files, look)
    if kind == "audio":
        sounds = list_sounds(files, modality=look.modality, labels=look.labels)
        return _kinds.sounds_of(sounds, look.cache, look.tell, look.num_workers, look.like)
    if kind in ("table", "series", "graph"):
        return _one_among(files, kind, look)
    if kind == "video":
        return _videos.list_clips(files, labels=look.labels, cache=look.cache, tell=look.tell)
    return list_images(files, modality=look.modality, labels=look.labels)


def _texts_among(files: Files, look: _Look) -> Found:
    names, others = files.of_kind("text", _texts.ENDINGS, asked=look.modality == "text")
    if not names:
        raise files.nothing(f"texts (.{', .'.join(_texts.ENDINGS)})")
    found = _kinds.text_files(names, files.read, files.where, files.what, look.labels, look.tell)
    found.skipped = others + found.skipped
    return found


def _one_among(files: Files, kind: str, look: _Look) -> Listing | Points | Found:
    """A folder of series or of graphs; or the one file among others that holds all items."""
    if kind == "series" and files.what == "folder" and look.modality == "series":
        return _kinds.series_of(files.where, look.labels, files.where)
    if kind == "graph" and files.what == "folder":
        return _kinds.graph_of(files.where, look.labels)
    ours = [name for name in files.names if KINDS.get(name.rpartition(".")[2].lower()) == kind]
    if not ours:
        raise files.nothing({"table": "a table (.csv, .parquet)", "series": "series (.ts)"}.get(kind, "graphs"))
    if files.what == "zip":
        raise DataError(f"{files.where} holds {len(ours):,} {kind} file{'s' * (len(ours) > 1)}: unpack it first")
    if len(ours) > 1:
        series = "modality='series' takes each for a series, a step a row, " if kind == "table" else ""
        raise DataError(
            f"{files.where} holds {len(ours):,} {kind} files: {series}give one of them alone to learn from it"
        )
    found = _find_file(Path(files.where, ours[0]), look)
    if not isinstance(found, Points):
        found.skipped = files.of_kind(kind)[1] + found.skipped
    return found


def _did_you_mean(path: Path) -> str:
    try:
        guess = nearest(path.name, (entry.name for entry in os.scandir(path.parent)))
    except OSError:
        return f", for there is no folder {path.parent}"
    return f"; did you mean {guess!r}?" if guess else ""


def _find_file(path: Path, look: _Look) -> Listing | Points | Found:
    ending, labels, modality = path.suffix.lower().removeprefix("."), look.labels, look.modality
    kind = KINDS.get(ending)
    if ending == "zip":
        return _among(zip_files(path, look.stack), look)
    if kind == "video" or modality == "video":
        return _among(named_files([path]), replace(look, modality="video"))
    if kind == "table":
        return _find_table(path, look)
    if kind == "graph" or modality == "graph":
        return _kinds.graph_of(path, labels)
    if kind == "series" or modality == "series":
        return _kinds.series_of(path, labels, str(path))
    if ending == "npy":
        _arrays.check_labels(labels, [])
        array = _arrays.read_npy(path)
        if modality is None and _kinds.kind_of_object(array) == "series":
            return _kinds.series_of(path, labels, str(path))
        return list_array(array, str(path), ending, modality=modality)
    if ending == "npz":
        array, found = _arrays.read_npz(path, labels)
        if modality is None and _kinds.kind_of_object(array) == "series":
            return _kinds.series_of(path, labels, str(path))
        return list_array(array, str(path), ending, modality=modality, labels=found)
    if kind == "audio" or modality == "audio":
        return _among(named_files([path]), replace(look, modality="audio"))
    if ending in _papers.ENDINGS and (papers := _papers.read_papers(path)) is not None:
        return _kinds.texts_of(papers)
    if ending in _texts.ENDINGS or modality == "text":
        return _kinds.texts_of(_texts.read_lines(path))
    if kind == "image" or modality == "image":
        return list_images(named_files([path]), modality="image", labels=labels)
    what = f"a {kind} file" if kind else "of no kind that is known by its name"
    raise DataError(f"{path} is {what}; {LEARNS_FROM}" + ("" if kind else "; modality='image' tries it as an image"))


def _find_table(path: Path, look: _Look) -> Listing | Found:
    kind = look.modality or ("table" if look.like.get("schema") else _kinds.kind_of_table(path))
    if kind == "text":
        return _kinds.texts_of(_texts.read_text_table(path, labels=look.labels))
    if kind == "table":
        return _kinds.table_of(path, look.labels, str(path), look.like.get("schema"))
    if kind == "series":
        return _kinds.series_of(path, look.labels, str(path))
    if kind == "graph":
        return _kinds.graph_of(path, look.labels)
    if kind == "audio":
        sounds = _tables.list_table(path, labels=look.labels, kind="audio")
        return _kinds.sounds_of(sounds, look.cache, look.tell, look.num_workers, look.like)
    return _tables.list_table(path, labels=look.labels)


# Texts, sounds, series, tables, graphs --------------------------------------------------------------------------------


def _of_kind(found: Found, strict: bool) -> Source:
    if strict and (first := _problem(found.skipped)):
        raise DataError(f"{first.uri} in {found.where}: {first.reason}; on_error='skip' leaves out what cannot be read")
    if isinstance(found.rows, list):
        lengths = np.array([len(text) for text in found.rows], np.int32)
        dataset = _dataset({"length": lengths}, found.modality, found.hashes)
    else:
        dataset = _dataset({"x": found.rows}, found.modality, found.hashes)
    return Source(
        modality=found.modality,
        dataset=dataset,
        where=found.where,
        what=found.what,
        uris=found.uris,
        hashes=found.hashes,
        skipped=found.skipped,
        cached=found.cached or Path(os.devnull),
        labels=found.labels,
        labels_from=found.labels_from,
        captions=list(found.snippets) if found.snippets else None,
        thumbnails=None if found.picture is None else Drawn(len(found.hashes), found.picture),
        remarks=found.remarks,
        texts=found.rows if isinstance(found.rows, list) else None,
        shape=found.shape,
        counted=found.counted,
        facts=found.facts,
    )


def _problem(skipped: Iterable[Skipped]) -> Skipped | None:
    """The first that was left out though it was meant."""
    return next(filter(is_problem, skipped), None)


class Drawn(Sequence[bytes]):
    """Pictures that stand for items, drawn when they are asked for."""

    def __init__(self, n: int, draw: Callable[[int], bytes]) -> None:
        self._n, self._draw = n, draw

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, item: Any) -> Any:
        return [self._draw(i) for i in range(*item.indices(self._n))] if isinstance(item, slice) else self._draw(item)


# Images ---------------------------------------------------------------------------------------------------------------


def _images_of(
    listing: Listing, image_size: int | None, strict: bool, cache: Path, num_workers: int | None, tell: Progress
) -> Source:
    if strict and (problem := _problem(listing.skipped)):
        raise _refused(listing, problem)
    with _images.quiet():
        with FileIndex(cache) as index:
            facts = _packs.examine(listing.items(), len(listing.uris), index, tell, num_workers)
        chosen, stored, why = _choose_size(image_size, facts)
        try:
            pack = _packs.pack_images(
                listing.items(), facts, stored, cache, strict=strict, progress=tell, num_workers=num_workers
            )
        except Unusable as error:
            raise _unusable(listing, error.skipped, strict) from None
    channels = pack.x.shape[1]
    hashes = [facts[number].hash.hex() for number in pack.kept]
    return Source(
        modality="image",
        dataset=_dataset({"x": pack.x}, "image", hashes),
        where=listing.where,
        what=listing.what,
        uris=_picked(listing.uris, pack.kept),
        hashes=hashes,
        skipped=listing.skipped + [Skipped(listing.uris[number], reason) for number, reason in pack.skipped],
        cached=pack.folder,
        labels={name: _picked(values, pack.kept) for name, values in listing.labels.items()},
        labels_from=listing.labels_from,
        captions=None if listing.captions is None else _picked(listing.captions, pack.kept),
        sizes=pack.sizes,
        thumbnails=pack.thumbnails,
        channels=channels,
        image_size=chosen,
        remarks=[why, *_in_sentences(pack.notes), *listing.remarks],
    )


def _choose_size(image_size: int | None, facts: Sequence[Fact]) -> tuple[int, int, str]:
    """The size to learn at, the size to store at, and a sentence that says why."""
    sides = [fact.side for fact in facts if fact.side]
    median = float(np.median(sides)) if sides else STORED[0]
    chosen = image_size or min(CHOSEN, key=lambda size: abs(math.log(size / median)))
    stored = next(size for size in STORED if size >= chosen)
    why = "as set" if image_size else f"from a median shorter side of {median:,.0f}"
    more = "; more only when asked, such as image_size=128" if not image_size and median > chosen == CHOSEN[-1] else ""
    kept = f"stored as centre squares of {stored} pixels, the shorter side resized"
    return chosen, stored, f"Image size {chosen}, {why}{more}; {kept}."


def _unusable(listing: Listing, skipped: list[tuple[int, str]], strict: bool) -> DataError:
    all_skipped = [Skipped(listing.uris[number], reason) for number, reason in skipped]
    if strict and skipped:
        return _refused(listing, all_skipped[0])
    reasons = count_reasons(all_skipped)
    first = f"; the first: {': '.join(all_skipped[0])}" if all_skipped else ""
    return DataError(f"nothing readable in {listing.where} ({listing.what}): looked for images, found {reasons}{first}")


def _refused(listing: Listing, problem: Skipped) -> DataError:
    return DataError(
        f"{problem.uri} in {listing.where}: {problem.reason}; on_error='skip' leaves out what cannot be read"
    )


def _in_sentences(notes: dict[str, int]) -> list[str]:
    return ["Images " + "; ".join(f"{note}: {count:,}" for note, count in sorted(notes.items())) + "."] if notes else []


def _picked(values: Sequence[Any], kept: np.ndarray) -> list[Any]:
    return [values[number] for number in kept]


def _dataset(columns: dict[str, np.ndarray], modality: str, hashes: Iterable[str]) -> Dataset:
    """With a fingerprint of the items' contents and of the shape in which they are stored."""
    shape = next(iter(columns.values())).shape[1:]
    return Dataset(columns, modality=modality, fingerprint=fingerprint_of(modality, shape, hashes))


def fingerprint_of(modality: str, shape: Sequence[int], hashes: Iterable[str]) -> str:
    """Of items by their contents, in order, and by the shape in which each is stored."""
    digest = hashlib.sha256(f"{modality} {tuple(shape)} ".encode())
    for content in hashes:
        digest.update(bytes.fromhex(content))
    return digest.hexdigest()


# Points ---------------------------------------------------------------------------------------------------------------


def _points(points: Points, strict: bool, cache: Path, tell: Progress) -> Source:
    x, kept, contents, folder = pack_points(points.rows, cache, tell)
    unused = sorted(set(range(len(points.rows))) - set(kept.tolist())) if len(kept) < len(points.rows) else []
    if strict and unused:
        raise DataError(f"point {unused[0]:,} of {points.where} is not finite; on_error='skip' leaves such points out")
    hashes = [content.hex() for content in contents]
    return Source(
        modality="points",
        dataset=_dataset({"x": x}, "points", hashes),
        where=points.where,
        what=points.what,
        uris=[str(number) for number in kept],
        hashes=hashes,
        skipped=[Skipped(str(number), "not finite: NaN, infinity or beyond float32") for number in unused],
        cached=folder,
        labels={name: _picked(values, kept) for name, values in points.labels.items()},
        labels_from=points.labels_from,
    )
