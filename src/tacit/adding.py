"""add: more data into a run: what is new is embedded, what is gone is taken out, and the rest stays as it is."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tacit.answers import counted
from tacit.checkpoints import RunFolder, plain_errors, write_json, write_text
from tacit.data import Dataset, Ledger, Skipped, Source, write_skipped
from tacit.data import open as open_data
from tacit.data._listing import GLOB, NAMED
from tacit.embedding import embed, prepared
from tacit.errors import RunError
from tacit.evaluate import neighbours
from tacit.report import near_duplicates, neighbour_map, write_card, write_report
from tacit.runs import Run, load
from tacit.store import Items
from tacit.surveying import ADDED, _clusters, _examples, _group_facts, _meta, _stands_for

Say = Callable[[str], None]

ROWS = 2000
"""Rows that are written at a time."""
PLACED_BY = 8
"""Nearest items whose places on the map say where a new one goes."""
TYPICAL = 10
SIDE = 32
"""Pixels of the thumbnails by which copies are told."""
TEMPERATURE = 0.07
LINES = 8
"""Of the log that the summary has, the newest."""
ADDED_ON = "Added on "


@dataclass(frozen=True)
class Added:
    """What `add` did, in items."""

    run: Run
    items: list[int]
    """Numbers of the new ones."""
    embedded: int
    """New ones whose content was not known."""
    known: int
    """Those of the data that were there already."""
    moved: int
    """Those that are there under a new name."""
    removed: int
    """Those that are no longer in the data."""
    unreadable: int = 0
    """Those that are in the data and cannot be read now; they stay as they were."""
    lines: list[str] = field(default_factory=list)


def add(
    run: str | Path | Run,
    data: Any,
    *,
    keep_gone: bool = False,
    labels: str = "auto",
    on_error: str = "skip",
    say: Say = print,
) -> Added:
    """Add data to a run: its encoder stays, only what is new is embedded, and it takes a place among the others.

    An item is known by the hash of its content and by its place, so that adding the same data again, or a part of it,
    changes nothing, and a copy at another place is an item of its own, that is not embedded anew; data that was moved
    as a whole is known by its names. Where the data is a whole folder or file that the run has items of, those that are
    no longer in it are taken out (and one whose content changed is replaced); what cannot be read now stays, and so
    does all else where files are named one by one or by a glob, and items from elsewhere. Numbers of items are stable
    and never used again; labels belong to contents and stay.

    The new table of items replaces the old one in one step: a kill leaves the run as it was before or as it is after,
    and the same command then ends what is left to do. Clusters and the places of old items stay; a new one goes where
    its nearest items are. To have both anew, `tacit embed RUN DATA`.

    Args:
        run: of `tacit learn` or `tacit embed`.
        data: whatever `tacit.data.open` takes, of the run's kind.
        keep_gone: whether what is no longer in the data stays.
        labels, on_error: as `tacit.learn`'s.
        say: told what is being done.

    Raises:
        DataError: nothing readable, or another kind of data.
        RunError: the run is in use, unfinished, or has no vectors.
    """
    run = run if isinstance(run, Run) else load(run)
    _ = run.summary, run.items._expect_vectors()
    source = _opened(run, data, labels, on_error)
    for line in source.describe()[:1]:
        say(line)
    with contextlib.closing(RunFolder(run.folder, run.config)):
        plan = _compare(run.items, source, keep_gone)
        changed = plan.new or plan.gone or plan.moved
        if changed:
            vectors = _vectors(run, source, plan, say)
            _write(run, source, plan, vectors, say)
        if changed or _unfinished(run):
            _finish(run, source, say)
    counts = plan.numbers, plan.fresh, plan.known, len(plan.moved), len(plan.gone), plan.unreadable
    found = Added(load(run.folder), *counts)
    found.lines.extend(_words(found, source))
    return found


def _opened(run: Run, data: Any, labels: str, on_error: str) -> Source:
    """The data, read as that which the run learned from."""
    described = run.config.get("made", {}).get("description", {})
    reads = getattr(run.encoder, "modality", None) or described.get("modality")
    size = getattr(run.encoder, "image_size", None)
    return open_data(data, modality=reads, image_size=size, labels=labels, on_error=on_error, like=described)


# What is new ----------------------------------------------------------------------------------------------------------


@dataclass
class _Plan:
    """Rows of the data that are new, and rows of the store that are gone or have a new name."""

    new: list[int] = field(default_factory=list)
    known_content: dict[int, int] = field(default_factory=dict)
    """Of the new ones those whose content the store has -> a row that has it."""
    gone: list[int] = field(default_factory=list)
    moved: dict[int, str] = field(default_factory=dict)
    known: int = 0
    unreadable: int = 0
    first: int = 0
    """Number that the first new item gets."""

    @property
    def fresh(self) -> int:
        return len(self.new) - len(self.known_content)

    @property
    def numbers(self) -> list[int]:
        return list(range(self.first, self.first + len(self.new)))


def _compare(items: Items, source: Source, keep_gone: bool) -> _Plan:
    hashes, uris, roots = (list(items.column(name)) for name in ("hash", "uri", "source"))
    places = [_place(root, uri) for root, uri in zip(roots, uris, strict=True)]
    plan, met = _Plan(first=_next_number(items)), set[int]()

    def known(theirs: Sequence[str | None], ours: Sequence[str], among: Sequence[int]) -> list[int]:
        """Note which of the data's items the store has under the same content and name; return the others."""
        rows, left = defaultdict[tuple[str, str | None], list[int]](list), []
        for row in reversed(range(len(theirs))):
            if row not in met:
                rows[hashes[row], theirs[row]].append(row)
        for i in among:
            same = rows[source.hashes[i], ours[i]]
            met.add(same.pop()) if same else left.append(i)
        return left

    # By place; but data that was moved as a whole, or that comes in another file, is known by its names.
    ours = [_place(source.where, uri) for uri in source.uris]
    elsewhere = {root: not (_within(root, source.where) or _within(source.where, root)) for root in set(roots)}
    names = [uri if elsewhere[root] else None for root, uri in zip(roots, uris, strict=True)]
    left = known(names, source.uris, known(places, ours, range(len(source))))
    plan.known = len(met)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, content in enumerate(hashes):
        rows_of[content].append(row)
    missing = _missing(source, roots, places) - met
    unreadable = _unreadable(source, missing, places)
    plan.unreadable = len(unreadable)
    missing = set() if keep_gone else missing - unreadable
    for i in left:
        rows = rows_of[source.hashes[i]]
        row = next((row for row in rows if row in missing and _within(ours[i], roots[row])), None)
        if row is not None:
            missing.remove(row)
            plan.moved[row] = _below(ours[i], roots[row])
            continue
        if rows:
            plan.known_content[i] = rows[0]
        plan.new.append(i)
    plan.gone = sorted(missing)
    return plan


def _place(root: str, uri: str) -> str:
    return f"{root.rstrip('/')}/{uri}"


def _within(place: str, root: str) -> bool:
    return root != "" and (place == root or place.startswith(_place(root, "")))


def _below(place: str, root: str) -> str:
    """The name of a place within a root; a place that is not within it, as it is."""
    return place.removeprefix(_place(root, "")) if _within(place, root) else place


def _missing(source: Source, roots: list[str], places: list[str]) -> set[int]:
    """Rows of items that the data would have if they were still there, those that it has among them.

    Of a whole folder or file all that lay in it; of files that were named, and of those that a glob found, what lay at
    the same places; of data in memory, which has no place, none.
    """
    if not Path(source.where).is_absolute():
        return set()
    listed = {_place(source.where, uri) for uri in (*source.uris, *(one.uri for one in source.skipped))}
    whole = source.what not in (GLOB, NAMED)
    return {
        row
        for row, (root, place) in enumerate(zip(roots, places, strict=True))
        if place in listed or (whole and _within(source.where, root) and _within(place, source.where))
    }


def _unreadable(source: Source, rows: set[int], places: list[str]) -> set[int]:
    """Those that are there but could not be read, or that lie in a folder that could not be listed."""
    skipped = {_place(source.where, one.uri.rstrip("/")) for one in source.skipped}
    return {row for row in rows if not skipped.isdisjoint(map(str, (Path(places[row]), *Path(places[row]).parents)))}


def _next_number(items: Items) -> int:
    """Above all numbers that were ever given; what was planned counts too, in case a kill came between."""
    last = int(np.asarray(items.column("item")).max(initial=-1))
    return max([last + 1, *(int(line.get("next", 0)) for line in read_log(items.folder))])


def read_log(folder: Path) -> list[dict[str, Any]]:
    """What was added to a run, oldest first: at, where, added, removed, moved, first, next, n."""
    place, lines = folder / ADDED, []
    if place.exists():
        for line in place.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


def _write_log(folder: Path, lines: list[dict[str, Any]]) -> None:
    write_text(folder / ADDED, "".join(json.dumps(line) + "\n" for line in lines))


def _unfinished(run: Run) -> bool:
    """Whether a kill came between the commit of the items and the summary of them."""
    log = read_log(run.folder)
    return bool(log and log[-1].get("unfinished")) or _summary(run)["data"].get("n") != len(run.items)


def _summary(run: Run) -> dict[str, Any]:
    """As it is now: a run that is open may have read it before it changed."""
    return load(run.folder).summary


def _happened(line: Mapping[str, Any], items: Items) -> bool:
    """Whether a line of the log tells of what was committed; after the last one a kill may have come before that."""
    if not line.get("unfinished"):
        return True
    there = not line["added"] or line["first"] in items.column("item")
    return there and len(items) == line["n"]


# Vectors, places, clusters --------------------------------------------------------------------------------------------


def _vectors(run: Run, source: Source, plan: _Plan, say: Say) -> np.ndarray:
    """Of the new rows, (new, dim): embedded where the content is new, else taken from the store."""
    found = np.empty((len(plan.new), run.items.dim or 0), np.float32)
    fresh = [i for i in plan.new if i not in plan.known_content]
    place = {i: row for row, i in enumerate(plan.new)}
    if fresh:
        say(f"embedding {counted(len(fresh), 'item')}")
        found[[place[i] for i in fresh]] = embed(run.encoder, _rows(run, source, fresh))
    if plan.known_content:
        stored = run.items.vectors()
        for i, row in plan.known_content.items():
            found[place[i]] = stored[row]
    return found


def _rows(run: Run, source: Source, rows: list[int]) -> Dataset:
    if source.texts is not None:
        return Dataset({"x": prepared(run.encoder, [source.texts[i] for i in rows]).cpu()}, modality="text")
    return source.dataset.only(["x"]).select(np.asarray(rows))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _placed(items: Items, keep: np.ndarray, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Map place, cluster, confidence and outlier score of new vectors among those that stay."""
    stored = items.vectors()[keep]
    if not len(stored):
        clusters, _ = _clusters(vectors, 0)
        where = neighbour_map(vectors, seed=0)
        labels, confidence = clusters.labels, clusters.confidence
    else:
        where = _mean_place(items, keep, vectors, stored)
        labels, confidence = _nearest_cluster(np.asarray(items.column("cluster"))[keep], stored, vectors)
    every = np.concatenate([stored, vectors])
    k = min(TYPICAL + 1, len(every))
    near = neighbours(vectors, every, k)[0].float().numpy()[:, 1:]  # the first is the item itself
    outlier = -near.mean(1) if near.shape[1] else np.full(len(vectors), -1.0)
    return {"x2d": where[:, 0], "y2d": where[:, 1], "cluster": labels, "confidence": confidence, "outlier": outlier}


def _mean_place(items: Items, keep: np.ndarray, vectors: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """The mean place of the nearest items that stay, weighted as in k-NN."""
    old = np.stack([np.asarray(items.column(name))[keep] for name in ("x2d", "y2d")], 1)
    scores, near = neighbours(vectors, stored, min(PLACED_BY, len(stored)))
    weights = torch.softmax(scores.float() / TEMPERATURE, dim=1).numpy()
    return np.einsum("nk,nkd->nd", weights, old[near.numpy()])


def _nearest_cluster(labels: np.ndarray, stored: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cluster whose mean direction is nearest, and 1 - d1 / d2 of the distances to the nearest two."""
    known = np.unique(labels[labels >= 0])
    if not len(known):
        return np.full(len(vectors), -1), np.full(len(vectors), np.nan)
    unit, asked = _unit(stored), _unit(vectors)
    centres = np.stack([unit[labels == label].mean(0) for label in known])
    found, confidence = np.empty(len(vectors), np.int64), np.ones(len(vectors))
    for start in range(0, len(vectors), ROWS):
        part = slice(start, start + ROWS)
        distance = np.linalg.norm(asked[part, None] - centres[None], axis=2)
        found[part] = known[distance.argmin(1)]
        if len(known) > 1:
            two = np.sort(distance, axis=1)[:, :2]
            confidence[part] = 1 - two[:, 0] / np.maximum(two[:, 1], 1e-12)
    return found, confidence


# Writing --------------------------------------------------------------------------------------------------------------


def _write(run: Run, source: Source, plan: _Plan, vectors: np.ndarray, say: Say) -> None:
    """Labels, the log, then the items in one commit."""
    folder, items = run.folder, run.items
    keep = np.ones(len(items), bool)
    keep[plan.gone] = False
    if not keep.any() and not plan.new:
        raise RunError(f"run={str(folder)!r}: nothing would be left in it; --keep-gone keeps what is gone")
    new = _placed(items, keep, vectors) if plan.new else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with plain_errors(folder):
        ledger = Ledger(folder / "labels.sqlite")
        for name, values in source.labels.items():
            ledger.put(name, {source.hashes[i]: values[i] for i in plan.new}, source="found")
        n = int(keep.sum()) + len(plan.new)
        line = {"at": now, "where": source.where, "added": len(plan.new), "removed": len(plan.gone)}
        line |= {"moved": len(plan.moved), "first": plan.first, "next": plan.first + len(plan.new), "n": n}
        log = [one for one in read_log(folder) if _happened(one, items)]
        _write_log(folder, [*log, line | {"unfinished": True}])
    say(f"writing {counted(n, 'item')}")

    def batches() -> Iterator[Mapping[str, Any]]:
        start = 0
        for chunk in items.chunks():
            rows = range(start, start + len(chunk["item"]))
            chunk["uri"] = [plan.moved.get(row, uri) for row, uri in zip(rows, chunk["uri"], strict=True)]
            kept = np.flatnonzero(keep[start : rows.stop])
            start = rows.stop
            yield {name: _taken(values, kept) for name, values in chunk.items()}
        for begin in range(0, len(plan.new), ROWS):
            part = slice(begin, begin + ROWS)
            some = plan.new[part]
            yield {
                "item": np.arange(plan.first + begin, plan.first + begin + len(some)),
                "hash": [source.hashes[i] for i in some],
                "uri": [source.uris[i] for i in some],
                "source": [source.where] * len(some),
                "thumbnail": [_stands_for(source, i) for i in some],
                "vector": vectors[part],
                "meta": [json.dumps({**_meta(source, i), "added": now}) for i in some],
                **{name: values[part] for name, values in new.items()},
            }

    index = Items.create(folder, batches()).index
    if index is not None:
        say(index.describe())


def _taken(values: Any, rows: np.ndarray) -> Any:
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def _finish(run: Run, source: Source, say: Say) -> None:
    """Summary, page and card, from the items as they now are; the log then says that nothing is left to do."""
    say("looking for duplicates and outliers, writing the report")
    items = Items.open(run.folder)
    number, vectors = np.asarray(items.column("item")), items.vectors()
    hashes = list(items.column("hash"))
    summary = _summary(run)
    images = _small_pictures(items) if run.modality == "image" else None
    groups = [_group_facts(group) for group in near_duplicates(vectors, images=images, hashes=hashes)]
    outlier = np.asarray(items.column("outlier"))
    examples = _examples(vectors, 0)
    log = [{k: v for k, v in line.items() if k != "unfinished"} for line in read_log(run.folder)]
    skipped = _skipped(run.folder, source, own=summary["data"]["where"])
    summary["data"] = {**summary["data"], "n": len(items), "skipped": len(skipped)}
    summary["data"]["lines"] = [*_lines_before(summary["data"]), *map(_line, log[-LINES:])]
    summary["clusters"] = _cluster_sheets(summary["clusters"], items, number)
    summary["duplicates"] = [{**group, "items": number[group["items"]].tolist()} for group in groups]
    summary["untypical"] = number[np.argsort(-np.nan_to_num(outlier, nan=-np.inf))[:24]].tolist()
    summary["neighbour_examples"] = [
        {"item": int(number[one["item"]]),
         "neighbours": [{**near, "item": int(number[near["item"]])} for near in one["neighbours"]]}
        for one in examples
    ]  # fmt: skip
    with plain_errors(run.folder):
        write_skipped(run.folder / "skipped.csv", skipped)
        write_json(run.folder / "summary.json", summary)
        write_report(run.folder)
        write_card(run.folder)
        _write_log(run.folder, log)


def _lines_before(data: Mapping[str, Any]) -> list[str]:
    """What the summary says of the data learned from."""
    return [line for line in data.get("lines", []) if not line.startswith(ADDED_ON)]


def _line(entry: Mapping[str, Any]) -> str:
    """An entry of the log, in a sentence."""
    now = f"{entry['n']:,} items then. " if "n" in entry else ""
    return (
        f"{ADDED_ON}{entry['at'][:10]} from {entry['where']}: {entry['added']:,}; taken out: {entry['removed']:,}; "
        f"{now}Figures of training, labels and clusters' stability are of the items learned from."
    )


def _skipped(folder: Path, source: Source, *, own: str) -> list[Skipped]:
    """What was skipped of all data of the run: of this data as it is now, of other data as it was.

    What lies in the data learned from, `own`, is listed by its name there, as `learn` lists it; all else by its place.
    """
    file = folder / "skipped.csv"
    with file.open(encoding="utf-8", newline="") if file.exists() else io.StringIO() as lines:
        before = [Skipped(one["uri"], one["reason"]) for one in csv.DictReader(lines)]
    whole = source.what not in (GLOB, NAMED)
    seen = {_place(source.where, uri) for uri in (*source.uris, *(one.uri for one in source.skipped))}

    def stays(one: Skipped) -> bool:
        place = one.uri if one.uri.startswith("/") or one.uri in seen else _place(own, one.uri)
        return place not in seen and not (whole and _within(place, source.where))

    def named(one: Skipped) -> Skipped:
        return one._replace(uri=_below(_place(source.where, one.uri), own))

    return [*filter(stays, before), *map(named, source.skipped)]


def _cluster_sheets(clusters: Mapping[str, Any], items: Items, number: np.ndarray) -> dict[str, Any]:
    """Sizes and examples of the clusters there were, counted anew."""
    labels, confidence = (np.asarray(items.column(name)) for name in ("cluster", "confidence"))
    sheets = []
    for sheet in clusters.get("per_cluster", []):
        members = np.flatnonzero(labels == sheet["cluster"])
        best = members[np.argsort(-np.nan_to_num(confidence[members]), kind="stable")][: len(sheet["items"]) or 24]
        sheets.append({**sheet, "size": len(members), "items": number[best].tolist()})
    return {**clusters, "per_cluster": sheets}


def _small_pictures(items: Items) -> np.ndarray | None:
    """Grey thumbnails (n, 1, 32, 32), by which copies are told; None where an item has none."""
    from PIL import Image, ImageOps

    found = []
    for chunk in items.chunks(["thumbnail"]):
        for data in chunk["thumbnail"]:
            try:
                with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
                    found.append(np.asarray(ImageOps.fit(picture.convert("L"), (SIDE, SIDE))))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                return None
    return np.stack(found)[:, None] if found else None


def _words(found: Added, source: Source) -> list[str]:
    unreadable = f"Not readable now, and left as it was: {counted(found.unreadable, 'item')}."
    more = [unreadable] if found.unreadable else []
    if not (found.items or found.removed or found.moved):
        there = f"all {counted(found.known, 'item')} of {source.where} are there already"
        return [f"Nothing new: {there}.", *more]
    copies = len(found.items) - found.embedded
    copied = f", {copies:,} of them copies of what is there" if copies else ""
    said = [f"Added {counted(len(found.items), 'item')}{copied}; {found.known:,} were there already."]
    if found.moved:
        said.append(f"Under a new name: {counted(found.moved, 'item')}.")
    if found.removed:
        said.append(f"Taken out, for they are no longer in {source.where}: {counted(found.removed, 'item')}.")
    return said + more
