"""Data that is no picture -> what is known of its items: texts, sounds, series, tables, graphs."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tacit.data import _cache, _tables, _texts
from tacit.data._audio import Sound, decode, spectrogram_png
from tacit.data._images import MAX_BYTES, Unreadable
from tacit.data._listing import KINDS, Labels, Listing, folder_labels
from tacit.data._packs import Item, Progress, Skipped, ordered
from tacit.errors import DataError, unknown

SAMPLE_RATE = 8000
"""Samples a second at which sounds are kept: the telephone's band, enough to tell speech, birds and machines apart."""
LONGEST = 10.0
"""Seconds that are kept of a sound at most."""


@dataclass
class Found:
    """Items of one kind, as `prepare` of its encoders takes them.

    Attributes:
        modality: text, audio, series, table or graph.
        rows: what an encoder reads: an array (n, ...); for texts the list of them.
        uris, where, what, labels, labels_from, skipped, remarks: as in `Source`.
        hashes: n SHA-256 of the contents, in hex.
        snippets: n lines of text that stand for the items, where there are any.
        picture: item number -> PNG that stands for it, where there are any.
        shape: what a run's config says of the data beside, such as `length`, and what other data is read by.
        counted: how the items are called, in a sentence.
        cached: folder in the cache, if there is one.
        facts: of each item its date, link and how much it was discussed, where the data says so.
    """

    modality: str
    rows: np.ndarray | list[str]
    uris: Sequence[str]
    where: str
    what: str
    hashes: Sequence[str]
    labels: Labels = field(default_factory=dict)
    labels_from: str = ""
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    snippets: list[str] | None = None
    picture: Callable[[int], bytes] | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    counted: str = ""
    cached: Path | None = None
    facts: list[dict[str, Any]] | None = None


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _row_hashes(rows: np.ndarray) -> list[str]:
    return [hash_of(np.ascontiguousarray(row).tobytes()) for row in rows]


# Texts ----------------------------------------------------------------------------------------------------------------


def texts_of(read: _texts.Texts) -> Found:
    lengths = np.array([len(text) for text in read.texts])
    median = f"{int(np.median(lengths)):,} characters in the median, from {lengths.min():,} to {lengths.max():,}"
    return Found(
        "text",
        read.texts,
        read.uris,
        read.where,
        read.what,
        [hash_of(text.encode("utf-8", "surrogatepass")) for text in read.texts],
        labels=read.labels,
        labels_from=read.labels_from,
        skipped=read.skipped,
        remarks=read.remarks,
        snippets=list(_texts.snippets(read.texts)),
        facts=read.facts,
        counted=f"{len(read.texts):,} text{'s' * (len(read.texts) != 1)} of {median}",
    )


def text_files(
    names: Sequence[str], read: Callable[[str], bytes], where: str, what: str, labels: str, tell: Progress
) -> Found:
    """Files of text in a folder, an archive, a glob."""
    made = _texts.read_files(names, read, where, what, partial(_told, tell, len(names)))
    found, made.labels_from = folder_labels(names, labels)
    kept = set(made.uris)
    made.labels = {
        label: [value for value, name in zip(values, names, strict=True) if name in kept]
        for label, values in found.items()
    }
    return texts_of(made)


def _told(tell: Progress, total: int, done: int) -> None:
    tell("reading", done, total)


# Sounds ---------------------------------------------------------------------------------------------------------------


def sounds_of(
    listing: Listing,
    cache: Path,
    tell: Progress,
    num_workers: int | None = None,
    shape: Mapping[str, Any] | None = None,
) -> Found:
    """Sounds, decoded once to int16 at one rate, cut or padded to one length, in a memory-mapped file.

    Args:
        shape: `sample_rate` and `seconds` of other data, that these are to be like.
    """
    rate, wanted = int((shape or {}).get("sample_rate", SAMPLE_RATE)), (shape or {}).get("seconds")
    hashed: dict[int, str] = {}
    unread: list[tuple[int, str]] = []
    for number, (content, why) in enumerate(ordered(_content, listing.items(), num_workers)):
        if why:
            unread.append((number, why))
        else:
            hashed[number] = content
        tell("reading", number + 1, len(listing.uris))
    key = hash_of(json.dumps(["audio 2", rate, wanted, list(hashed.values())]).encode())
    folder = cache / "audio" / key
    if hashed and not (folder / "sounds.json").exists():
        _cache.remove(folder)
        items = (item for number, item in enumerate(listing.items()) if number in hashed)
        _pack_sounds(items, len(hashed), rate, wanted, cache, key, tell, num_workers)
    said = json.loads((folder / "sounds.json").read_text(encoding="utf-8")) if hashed else {"kept": [], "skipped": []}
    numbers = list(hashed)
    unread += [(numbers[place], reason) for place, reason in said["skipped"]]
    kept = [numbers[place] for place in said["kept"]]
    skipped = [Skipped(listing.uris[number], why) for number, why in sorted(unread)]
    if not kept:
        raise _no_sound(listing, skipped)
    x = np.load(folder / "x.npy", mmap_mode="r", allow_pickle=False)
    lengths = np.array(said["lengths"])
    return Found(
        "audio",
        x,
        [listing.uris[number] for number in kept],
        listing.where,
        listing.what,
        [hashed[number] for number in kept],
        labels={name: [values[number] for number in kept] for name, values in listing.labels.items()},
        labels_from=listing.labels_from,
        skipped=listing.skipped + skipped,
        remarks=_sound_remarks(said, rate, lengths),
        picture=lambda item: spectrogram_png(x[item], rate),
        snippets=[f"{length:.1f} s" for length in lengths],
        shape={"sample_rate": rate, "seconds": said["seconds"]},
        counted=f"{len(kept):,} sound{'s' * (len(kept) != 1)} of {np.median(lengths):.1f} s in the median",
        cached=folder,
    )


def _loaded(item: Item) -> bytes:
    data = item.load()
    if not isinstance(data, bytes):
        raise Unreadable("not audio: an array")
    if len(data) > MAX_BYTES:
        raise Unreadable(f"too large: {len(data):,} bytes, the limit is {MAX_BYTES:,}")
    return data


def _content(item: Item) -> tuple[str, str]:
    """The hash of the content, and why it cannot be read."""
    try:
        return hash_of(_loaded(item)), ""
    except Unreadable as error:
        return "", str(error)


def _no_sound(listing: Listing, skipped: Sequence[Skipped]) -> DataError:
    if len(listing.uris) == 1:
        return DataError(f"{listing.where}/{skipped[0].uri} cannot be read as sound: {skipped[0].reason}")
    first = f"; the first: {': '.join(skipped[0])}" if skipped else ""
    return DataError(
        f"nothing readable in {listing.where} ({listing.what}): looked for sounds, {len(skipped):,} skipped{first}"
    )


def _pack_sounds(
    items: Iterable[Item],
    n: int,
    rate: int,
    wanted: float | None,
    cache: Path,
    key: str,
    tell: Progress,
    num_workers: int | None,
) -> None:
    """Two passes, for the length is known only at the end: waves one after another, then all of one length."""
    most = round((wanted or LONGEST) * rate)
    kept, sizes, lengths, skipped, notes = list[int](), list[int](), list[float](), [], Counter[str]()
    with _cache.building(cache, "audio", key) as folder:
        waves = folder / "waves.bin"
        with waves.open("wb") as file:
            for number, sound in enumerate(ordered(partial(_decoded, rate, most), items, num_workers)):
                tell("decoding", number + 1, n)
                if isinstance(sound, str):
                    skipped.append((number, sound))
                    continue
                file.write(sound.wave.astype(np.int16).tobytes())
                kept.append(number)
                sizes.append(len(sound.wave))
                lengths.append(round(sound.seconds, 3))
                notes.update(sound.notes)
        usual = int(np.quantile(sizes, 0.95, method="higher")) if sizes else 1
        samples = most if wanted else min(max(sizes, default=1), max(usual, rate // 10))
        _cache.require_space(cache, 2 * samples * len(sizes))
        with waves.open("rb") as file, _cache.ArrayWriter(folder / "x.npy", (samples,), np.int16) as writer:
            for size in sizes:
                row = np.zeros(samples, np.int16)
                row[:size] = np.fromfile(file, np.int16, size)[:samples]
                writer.append(row)
        waves.unlink()
        said = {"kept": kept, "skipped": skipped, "lengths": lengths, "notes": notes, "seconds": samples / rate}
        (folder / "sounds.json").write_text(json.dumps(said), encoding="utf-8")


def _decoded(rate: int, most: int, item: Item) -> Sound | str:
    """At most so many samples of the sound, or why there are none."""
    try:
        sound = decode(_loaded(item), sample_rate=rate, samples=most)
    except Unreadable as error:
        return str(error)
    notes = tuple(note for note in sound.notes if not note.startswith("longer"))  # which is said of all together
    return Sound(sound.wave[: max(round(sound.seconds * rate), 1)].copy(), sound.seconds, notes)


def _sound_remarks(said: dict[str, Any], rate: int, lengths: np.ndarray) -> list[str]:
    seconds = said["seconds"]
    cut = int((lengths > seconds + 1 / rate).sum())
    lines = [f"Kept at {rate:,} samples a second, one channel, {seconds:g} s each; shorter ones end in silence."]
    if cut:
        lines.append(f"Cut to {seconds:g} s: {cut:,} sounds.")
    if said["notes"]:
        lines.append("Sounds " + "; ".join(f"{note}: {count:,}" for note, count in said["notes"].items()) + ".")
    return lines


# Series, tables, graphs -----------------------------------------------------------------------------------------------


def series_of(source: Any, labels: str, where: str) -> Found:
    """Series from whatever `read_series` takes."""
    from tacit.data._series import sparkline_png
    from tacit.data._series_files import read_series

    read = read_series(source, labels=labels)
    n, channels, steps = read.x.shape
    return Found(
        "series",
        read.x,
        read.uris,
        where,
        "series",
        _row_hashes(read.x),
        labels=read.labels,
        labels_from=read.labels_from,
        skipped=read.skipped,
        remarks=read.remarks,
        picture=lambda item: sparkline_png(read.x[item]),
        shape={"channels": channels, "length": steps, "variables": list(read.channels)},
        counted=f"{n:,} series of {channels:,} variable{'s' * (channels != 1)} and up to {steps:,} steps",
    )


def table_of(source: Any, labels: str, where: str, schema: dict[str, Any] | None = None) -> Found:
    """The rows of a table; nothing is learned from a column that is a label, by its name or because it was named."""
    from tacit.data._rows import arrow_table, read_table

    table, skipped, remarks = arrow_table(source, where=where)
    _texts.check_column(labels, table.column_names)
    named = [name for wanted in _tables.LABELS for name in table.column_names if name.lower() == wanted]
    given = named if labels == "auto" else [] if labels in ("none", "folder") else [labels]
    learned = (schema or {}).get("features", ())  # an encoder made before may need even one of these
    without = [name for name in dict.fromkeys([*given, *named]) if name not in learned]
    read = read_table(table, without=without, schema=schema, where=where)
    found = {name: [_tables.as_label(value) for value in table[name].take(read.rows).to_pylist()] for name in given}
    unused = [name for name in without if name not in given]
    left_out = "; ".join(f"{name} (a label by its name)" for name in unused)
    n, d = read.x.shape
    missing = float(np.isnan(read.x).mean())
    gaps = f", {100 * missing:.1f} % missing" if missing else ""
    categories = sum(count > 0 for count in read.categories)
    return Found(
        "table",
        read.x,
        [f"{Path(where).name}#{row}" for row in read.rows],
        where,
        "table",
        _row_hashes(read.x),
        labels=found,
        labels_from=f"column{'s' * (len(given) > 1)} {', '.join(given)}" if given else "",
        skipped=[*skipped, *read.skipped],
        remarks=[*remarks, *read.remarks, *([f"Left out: {left_out}; rename what is none."] if unused else [])],
        snippets=[read.row_text(row, length=160) for row in range(n)],
        shape={"dim": d, "categories": list(read.categories), "schema": read.schema},
        counted=f"{n:,} rows of {d:,} columns ({categories:,} of them categories){gaps}",
    )


def graph_of(source: Any, labels: str) -> Found:
    """The nodes of a graph, or many graphs, from whatever `read_graph` takes."""
    from tacit.data._graph_files import read_graph
    from tacit.data._graphs import ego_png

    read = read_graph(source)
    x = read.tensor()
    if labels not in ("auto", "none", "folder", *read.labels):
        raise unknown("labels", labels, [*read.labels, "auto", "none"])
    names = read.labels if labels in ("auto", "folder") else {k: v for k, v in read.labels.items() if k == labels}
    edges = sum(len(graph.edges) for graph in read.graphs)
    words = f"{edges:,} edges"
    return Found(
        "graph",
        x,
        read.names,
        read.where,
        read.what,
        # two nodes may see the same around them, and yet are two
        [
            hash_of(name.encode("utf-8", "surrogatepass") + row.tobytes())
            for name, row in zip(read.names, x, strict=True)
        ],
        labels=dict(names),
        labels_from="beside the graph" if names else "",
        skipped=read.skipped,
        remarks=read.remarks,
        picture=lambda item: ego_png(x[item]),
        snippets=list(read.names),
        shape={"size": x.shape[1], "in_features": x.shape[2] - x.shape[1], "items": read.items},
        counted=f"{len(read.names):,} {read.items} and {words}",
    )


# Which kind it is -----------------------------------------------------------------------------------------------------


def kind_of_table(path: Path) -> str:
    """What a table holds: a graph, images or sounds (or what `list_table` refuses), series, texts, or rows."""
    table = _tables.READERS[path.suffix.lower()](path)
    names = {name.lower() for name in table.names}
    if {"source", "target"} <= names:
        return "graph"
    media = set(_tables.media_columns(table).values())
    if media & {"image", "audio"}:
        return "image" if "image" in media else "audio"
    if names & {"id", "series_id", "unique_id"} and "value" in names and names & {"time", "timestamp", "date", "ds"}:
        return "series"
    if _texts.text_columns(table):
        return "text"
    return "image" if media - {""} and len(table.names) <= 2 else "table"  # nothing to learn from but what is refused


def kind_of_object(x: Any) -> str | None:
    """What a Python object holds, that is no path; None for arrays of images or points, and for lists of paths."""
    if isinstance(x, np.ndarray | Tensor):
        return _kind_of_array(x)
    if isinstance(x, list | tuple) and x and all(isinstance(one, str) for one in x):
        return None if all(map(_is_path, x[:3])) else "text"
    if isinstance(x, list | tuple) and x and all(map(_is_one_series, x)):
        return "series"
    home = type(x).__module__.partition(".")[0]
    if home in ("pandas", "polars", "pyarrow"):
        return "table"
    one = x[0] if isinstance(x, list | tuple) and x else x
    if home == "networkx" or hasattr(one, "edge_index") or type(one).__module__.partition(".")[0] == "networkx":
        return "graph"
    return None


def _kind_of_array(x: np.ndarray | Tensor) -> str | None:
    if isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype.kind == "U":
        return "text"
    return "series" if _floats(x) and x.ndim == 3 and 0 not in x.shape else None


def _floats(x: np.ndarray | Tensor) -> bool:
    return x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f"


def _is_one_series(x: Any) -> bool:
    """(time,), or (channels, time) of floats; whole numbers of two dimensions are a picture."""
    return isinstance(x, np.ndarray | Tensor) and (x.ndim == 1 or (x.ndim == 2 and _floats(x)))


def _is_path(text: str) -> bool:
    """Whether it names a file that is there, or one that could be."""
    named = text.rpartition(".")[2].lower() in KINDS and " " not in text and len(text) < 1024
    return named or os.path.exists(text)  # noqa: PTH110  # a Path of any text may be an error


def as_array(x: Any) -> Any:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else x
