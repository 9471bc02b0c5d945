"""What is in a folder, a zip or a glob: the items in order, without reading them."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import accumulate
from pathlib import Path

from tacit.data._cache import Stamp
from tacit.data._images import MAX_BYTES, Unreadable, file_status, read_file
from tacit.data._packs import Item, Progress, Skipped
from tacit.errors import ArgumentError, DataError

_ENDINGS = {
    "image": "jpg jpeg jpe jfif png webp gif bmp dib tif tiff ppm pgm pbm pnm avif heic heif jp2 j2k ico pcx qoi sgi",
    "text": "txt md rst html htm xml json tex pdf",
    "audio": "wav flac mp3 ogg opus m4a aac aiff aif",
    "video": "mp4 mov avi mkv webm m4v mpg mpeg",
    "table": "csv tsv parquet jsonl ndjson",
    "array": "npy npz",
    "series": "ts",
    "graph": "graphml gml gexf edges",
}
KINDS: Mapping[str, str] = {ending: kind for kind, endings in _ENDINGS.items() for ending in endings.split()}
"""Ending of a file's name, in lower case -> kind of data."""
UNREAD = ("json", "pdf")
"""Endings of texts that are not read."""
BESIDE = ("text", "table", "array")
"""Kinds of file that are about a picture where they have its name: captions, boxes, masks."""

LOOKED_FOR = "images (.jpg, .png, .webp, .gif, .bmp, .tif and others)"
BY_NAME = "by its name"
"""How the reason ends for which files beside the items are left out; unlike what cannot be read, it is no error."""
NOT_AN_IMAGE = f"not an image {BY_NAME}"
A_RUN = "a run of tacit"
"""Why a folder is left out: what is in it was made from the data, and is none of it."""
LEARNS_FROM = "tacit learns from images, texts, sounds, series, tables, graphs, and arrays of images or of points"
MAX_CAPTION = 2**16
"""Bytes of a caption's file that are read."""
MAX_CONFIG = 2**24
"""Bytes above which a config.json is no run's."""

GLOB, NAMED = "glob", "list of files"
"""`what` of files that are some of those in their folder."""

Labels = dict[str, list[str | None]]


@dataclass
class Listing:
    """Items in a fixed order, and what stands beside them."""

    where: str
    """The folder, file or archive that uris are relative to, or what else they come from."""
    what: str
    """The same in a word or two: folder, zip..."""
    uris: Sequence[str]
    items: Callable[[], Iterator[Item]]
    """A fresh stream of them, in the order of `uris`."""
    skipped: list[Skipped] = field(default_factory=list)
    labels: Labels = field(default_factory=dict)
    labels_from: str = ""
    captions: list[str | None] | None = None
    remarks: list[str] = field(default_factory=list)
    """What else the user should know."""


# Folders, globs, lists, archives --------------------------------------------------------------------------------------


@dataclass
class Files:
    """Files that were found, by name, unread."""

    where: str
    what: str
    names: Sequence[str]
    """In order; relative to `where`, with slashes."""
    read: Callable[[str], bytes]
    stamp: Callable[[str], Stamp]
    problems: list[Skipped] = field(default_factory=list)

    def kinds(self) -> Counter[str | None]:
        """How many there are of each kind by their names; captions beside images are none."""
        beside = set(_captions_beside(self.names).values())
        return Counter(_kind(name) for name in self.names if name not in beside)

    def votes(self) -> Counter[str | None]:
        """Of how many files each kind could be learned from: those that are read, and are about no picture."""
        pictures = {part for name in self.names if _kind(name) == "image" for part in (_stem(name), _base(name))}
        return Counter(
            kind
            for name in self.names
            if (kind := _kind(name)) is not None
            and _ending(name) not in UNREAD
            and not (kind in BESIDE and _stem(name) in pictures)
        )

    def of_kind(
        self, kind: str, endings: Sequence[str] = (), *, asked: bool = False
    ) -> tuple[list[str], list[Skipped]]:
        """The files of one kind (and of these endings), and why the others are left out.

        Args:
            asked: whether the user asked for this kind: where no name says it, those that say nothing are taken.
        """
        names = [name for name in self.names if _kind(name) == kind and (not endings or _ending(name) in endings)]
        names = names or [name for name in self.names if asked and _kind(name) is None]
        used = set(names)
        others = [name for name in self.names if name not in used]
        return names, [*self.problems, *(Skipped(printable(name), _not_of_kind(name, kind)) for name in others)]

    def nothing(self, looked_for: str) -> DataError:
        """That there is nothing of a kind among the files."""
        held = f"holds {_in_words(self.kinds())}" if self.names else "is empty"
        first = "".join(f", the first: {': '.join(problem)}" for problem in self.problems[:1])
        why = f"; {len(self.problems):,} could not be listed{first}" if self.problems else ""
        where = printable(self.where)
        return DataError(
            f"nothing to learn from in {where}: looked for {looked_for} in it and below, but it {held}{why}"
        )


def folder_files(root: Path, progress: Progress) -> Files:
    """All files in a folder and in those below it, by relative path."""
    problems: list[Skipped] = []
    return _files_below(root, sorted(_counted(walk(str(root), problems), progress)), "folder", problems)


def glob_files(pattern: str, progress: Progress) -> Files:
    """All files whose paths match; a folder that matches counts with all that is in it."""
    parts = full_path(pattern).parts
    fixed = next(_wildcards(parts))
    root, problems = Path(*parts[:fixed]), list[Skipped]()
    matches = _matches(root, str(Path(*parts[fixed:])), problems)
    try:
        names = sorted(set(_counted(matches, progress)))
    except ValueError as error:  # ** within a name, in Pythons before 3.13
        raise DataError(f"{pattern!r} is not a glob: {error}") from error
    return _files_below(root, names, GLOB, list(dict.fromkeys(problems)))


def named_files(paths: Sequence[str | os.PathLike[str]]) -> Files:
    """The files that were named one by one."""
    files = [full_path(path) for path in paths]
    root = Path(os.path.commonpath([file.parent for file in files]))
    return _files_below(root, sorted({file.relative_to(root).as_posix() for file in files}), NAMED, [])


def zip_files(path: Path, stack: ExitStack) -> Files:
    """All files in an archive, which is not unpacked; it stays open until `stack` closes it."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as a zip archive: {error}") from error
    members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
    names = sorted(name for name in members if not any(map(_hidden, name.split("/"))))
    found = path.stat()

    def stamp(name: str) -> Stamp:
        return Stamp(os.fsencode(f"{path}\0{name}"), found.st_size, found.st_mtime_ns)

    return Files(str(path), "zip", names, partial(_read_member, archive, members), stamp)


def full_path(path: str | os.PathLike[str]) -> Path:
    """Absolute and without `..`; symbolic links stay, for their targets may have other names."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100


def has_wildcard(path: str) -> bool:
    """Whether it is a glob."""
    return next(_wildcards(full_path(path).parts), None) is not None


def _wildcards(parts: Sequence[str]) -> Iterator[int]:
    """Numbers of the parts of a path with a wildcard; a folder may be called photos [1], and what is there has none."""
    for number, part in enumerate(parts):
        if re.search(r"[*?[]", part) and not Path(*parts[: number + 1]).exists():
            yield number


def walk(root: str, problems: list[Skipped]) -> Iterator[str]:
    """Paths of all files below `root`, relative and with slashes, as the system lists them.

    The first comes long before the last is known. Symbolic links are followed, each folder is visited once (by its true
    name where that lies below `root`), and hidden names and the folders of runs are left out.

    Args:
        problems: what cannot be listed is added to it.
    """
    visited: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    while folders or links:
        # Links come after all true folders, in an order that does not depend on the file system's.
        links.sort(reverse=True)
        folder = folders.pop() if folders else links.pop()
        try:
            place = Path(root, folder).stat()
            if (place.st_dev, place.st_ino) in visited:
                continue
            visited.add((place.st_dev, place.st_ino))
            if folder and _holds_run(Path(root, folder)):
                problems.append(Skipped(printable(folder.rstrip("/")), A_RUN))
                continue
            with os.scandir(Path(root, folder)) as entries:
                yield from _files_among(entries, folder, folders, links, problems)
        except OSError as error:
            problems.append(Skipped(printable(folder or "."), f"cannot be listed: {error.strerror or error}"))


def _files_among(
    entries: Iterable[os.DirEntry[str]], folder: str, folders: list[str], links: list[str], problems: list[Skipped]
) -> Iterator[str]:
    for entry in entries:
        if _hidden(entry.name):
            continue
        path = folder + entry.name
        try:
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(path + "/")
            elif entry.is_file():
                yield path
            else:
                why = "broken symbolic link" if entry.is_symlink() else "not a regular file"
                problems.append(Skipped(printable(path), why))
        except OSError as error:
            problems.append(Skipped(printable(path), f"cannot be read: {error.strerror or error}"))


def _matches(root: Path, pattern: str, problems: list[Skipped]) -> Iterator[str]:
    is_run = cache(lambda folder: _holds_run(root / folder))
    for path in root.glob(pattern):
        name, is_folder = path.relative_to(root).as_posix(), path.is_dir()
        parts = name.split("/")
        if any(map(_hidden, parts)):
            continue
        folders = accumulate(parts if is_folder else parts[:-1], "{}/{}".format)
        if run := next(filter(is_run, folders), ""):
            problems.append(Skipped(printable(run), A_RUN))
        elif is_folder:
            below = list[Skipped]()
            yield from (f"{name}/{file}" for file in walk(str(path), below))
            problems += [Skipped(f"{printable(name)}/{one.uri}", one.reason) for one in below]
        else:
            yield name


def _holds_run(folder: Path) -> bool:
    """Whether tacit made the folder: a run, a comparison, an encoder that was exported."""
    place = folder / "config.json"
    try:
        found = json.loads(place.read_bytes()) if place.is_file() and place.stat().st_size < MAX_CONFIG else None
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(found, dict):
        return False
    of_run = isinstance(found.get("format"), int) and not {"tacit", "made", "settings"}.isdisjoint(found)
    return of_run or found.get("library") == "tacit"


def is_problem(one: Skipped) -> bool:
    """Whether it was left out though it was meant: for another reason than its name, and as no part of a run."""
    return not one.reason.partition(":")[0].endswith((BY_NAME, A_RUN))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _counted(names: Iterable[str], progress: Progress) -> Iterator[str]:
    for number, name in enumerate(names, 1):
        if number % 1000 == 1:
            progress("listing", number, None)
        yield name


def printable(path: str) -> str:
    """The path as text: bytes of a name that are not UTF-8 are written out.

    >>> print(printable("caf\\udce9.jpg"))
    caf\\xe9.jpg
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def file_stamp(path: str) -> Stamp:
    """Raises `Unreadable` for what is no regular file."""
    status = file_status(path)
    return Stamp(os.fsencode(path), status.st_size, status.st_mtime_ns)


def _read_member(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str) -> bytes:
    member = members[name]
    if member.flag_bits & 1:
        raise Unreadable("encrypted in the archive")
    if member.file_size > MAX_BYTES:
        raise Unreadable(f"too large: {member.file_size:,} bytes, the limit is {MAX_BYTES:,}")
    try:
        return archive.read(member)
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive fails in many ways: BadZipFile, zlib.error, EOFError, OSError...
        raise Unreadable(f"damaged in the archive: {error}") from error


# Which of the files are items -----------------------------------------------------------------------------------------


def _files_below(root: Path, names: Sequence[str], what: str, problems: list[Skipped]) -> Files:
    def read(name: str) -> bytes:
        return read_file(f"{root}/{name}")

    def stamp(name: str) -> Stamp:
        return file_stamp(f"{root}/{name}")

    return Files(str(root), what, names, read, stamp, problems)


def list_sounds(files: Files, *, modality: str | None, labels: str) -> Listing:
    """The sounds among the files."""
    names, others = files.of_kind("audio", asked=modality == "audio")
    if not names:
        raise files.nothing("sounds (.wav, .flac, .mp3, .ogg)")
    found, labels_from = folder_labels(names, labels)
    return Listing(
        where=printable(files.where),
        what=files.what,
        uris=[printable(name) for name in names],
        items=lambda: (Item(printable(name), partial(files.read, name)) for name in names),
        skipped=others,
        labels=found,
        labels_from=labels_from,
    )


def list_images(files: Files, *, modality: str | None, labels: str) -> Listing:
    """The images among the files."""
    names, read, stamp = files.names, files.read, files.stamp
    captions = _captions_beside(names)
    beside = set(captions.values())
    images = _images_among(files, beside, modality)
    if not images:
        raise files.nothing(LOOKED_FOR)
    used = beside.union(images)
    others = [Skipped(printable(name), _not_of_kind(name, "image")) for name in names if name not in used]
    found, labels_from = folder_labels(images, labels)
    return Listing(
        where=printable(files.where),
        what=files.what,
        uris=[printable(name) for name in images],
        items=lambda: (Item(printable(name), partial(read, name), partial(stamp, name)) for name in images),
        skipped=files.problems + others,
        labels=found,
        labels_from=labels_from,
        captions=[_caption(read, captions.get(name)) for name in images] if captions else None,
    )


def _images_among(files: Files, beside: set[str], modality: str | None) -> Sequence[str]:
    images = [name for name in files.names if _kind(name) == "image"]
    if modality == "image":
        images = images or [name for name in files.names if name not in beside]
    elif any(count > len(images) for count in files.votes().values()):
        raise DataError(
            f"{files.where} holds {_in_words(files.kinds())}; {LEARNS_FROM}"
            + (f"; modality='image' takes the {len(images):,} images alone" if images else "")
        )
    return images


def _in_words(counts: Mapping[str | None, int]) -> str:
    words = [(count, kind or "other") for kind, count in counts.items()]
    return ", ".join(f"{count:,} {kind} file{'s' * (count != 1)}" for count, kind in sorted(words, reverse=True))


def _kind(name: str) -> str | None:
    return KINDS.get(_ending(name))


def _ending(name: str) -> str:
    return _base(name).rpartition(".")[2].lower()


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    return _base(name).rpartition(".")[0]


def _not_of_kind(name: str, kind: str) -> str:
    what = {"image": NOT_AN_IMAGE, "text": f"not a text {BY_NAME}"}.get(kind, f"no {kind} {BY_NAME}")
    return f"{what}: " + (f".{_ending(name)}" if "." in name.rpartition("/")[2] else "no ending")


def _captions_beside(names: Sequence[str]) -> dict[str, str]:
    """Image -> the .txt of the same stem, where at least half of the images have one."""
    texts = {name[:-4]: name for name in names if _ending(name) == "txt"}
    images = [name for name in names if _kind(name) == "image"] if texts else []
    beside = {name: texts[stem] for name in images if (stem := name.rpartition(".")[0]) in texts}
    return beside if 2 * len(beside) >= len(images) else {}


def _caption(read: Callable[[str], bytes], name: str | None) -> str | None:
    try:
        return read(name)[:MAX_CAPTION].decode("utf-8", "replace").strip() if name else None
    except Unreadable:
        return None


def folder_labels(names: Sequence[str], labels: str) -> tuple[Labels, str]:
    """Labels from the folders that files lie in, and where they were found.

    The folder is the first part of the path, after what all paths begin with. With `labels="auto"`, 2 to n/5 folders
    must hold all n files.

    Raises:
        ArgumentError: `labels` is none of auto, folder and none, or there are no folders.

    >>> folder_labels(["x/cat/1.jpg", "x/dog/2.jpg"], "folder")
    ({'folder': ['cat', 'dog']}, 'folder names')
    """
    if labels == "none":
        return {}, ""
    if labels not in ("auto", "folder"):
        raise ArgumentError(f"labels={labels!r}: expected auto, folder or none, for files have no columns")
    parts = [name.split("/")[:-1] for name in names]
    low, high = min(parts), max(parts)
    shared = next((depth for depth, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    tops = [printable(folders[shared]) if len(folders) > shared else None for folders in parts]
    distinct = len(set(tops))
    if labels == "auto" and (None in tops or not 2 <= distinct <= len(names) / 5):
        return {}, ""
    if set(tops) == {None}:
        raise ArgumentError("labels='folder': expected files in subfolders; labels='none' goes on without")
    return {"folder": tops}, "folder names"
