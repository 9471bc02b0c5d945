"""A run as the page sees it: its columns as arrays, its items as rows; read once, and again after a commit."""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from tacit.errors import ArgumentError, DataError, RunError, expect, unknown
from tacit.explore._files import may_be_shown, original
from tacit.report import _words as words
from tacit.report._files import listed, measure, number, part, read_run, whole
from tacit.report._pictures import KINDS, LARGEST_BYTES, snippet
from tacit.report._points import text_of
from tacit.store import Items

CLASSES = 254
"""Of a column at most, the commonest; the others are shown as one."""
FEW_VALUES = 20
"""A column of numbers with no more different ones is shown as classes."""
LOOKED_AT = 20_000
"""Items in which the names of columns are looked for."""
FACTS = {"date": "date", "added": "added on", "discussed": "discussed"}
"""What `meta` may say of an item beside its labels -> as a person reads it; all but the last are days."""
EPOCH = date(1970, 1, 1).toordinal()
PAGE = 400
"""Items that are shown in full at once."""
SKIPPED = 1_000
AT_HAND = 2**28
"""Bytes of vectors that the server itself searches; of more, the asking process does."""
TAKEN = 100_000
"""Of more items, all are read in order, which is faster than one by one."""
LEAST_LIKE = 0.5
"""Weight of "not like these" beside "more like these", as Rocchio's feedback weighs what is not wanted less."""


@dataclass(frozen=True)
class Column:
    """One value an item, to colour by.

    Attributes:
        name: by which it is asked for.
        title: as a person reads it.
        kind: `classes` (values are numbers of `classes`, -1 for none) or `number` (float32, NaN for none).
        values: (n,) int32 or float32.
        classes: names.
        rest: how many further classes there are, that are shown as none.
        dates: whether the numbers are days since 1970.
    """

    name: str
    title: str
    kind: str
    values: np.ndarray
    classes: Sequence[str] = ()
    rest: int = 0
    dates: bool = False

    def about(self) -> dict[str, Any]:
        counts: Any = np.bincount(self.values[self.values >= 0], minlength=len(self.classes)) if self.classes else []
        known = self.values[np.isfinite(self.values)] if self.kind == "number" else self.values[:0]
        span = [float(known.min()), float(known.max())] if len(known) else None
        about = {"name": self.name, "title": self.title, "kind": self.kind, "classes": list(self.classes)}
        counted = {"counts": [int(count) for count in counts], "rest": self.rest}
        return about | counted | {"span": span, "dates": self.dates}


class Explored:
    """What the page asks of a run. Safe to be asked by several threads at once.

    Args:
        folder: of a finished run.

    Raises:
        RunError: no finished run, or one that a newer tacit wrote.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._said = read_run(self.folder)
        self.store = Items.open(self.folder)
        self._lock = threading.Lock()
        self._kept: dict[str, Any] = {}
        self._making: dict[str, threading.Lock] = {}
        self._stamp = self.stamp

    @property
    def stamp(self) -> str:
        """Changes with each commit of the items."""
        manifests = sorted(one.name for one in (self.folder / "items.lance" / "_versions").glob("*.manifest"))
        return f"{manifests[0]}-{manifests[-1]}-{len(manifests)}" if manifests else ""

    @property
    def summary(self) -> Mapping[str, Any]:
        return self._said.summary

    @property
    def modality(self) -> str:
        return str(part(self.summary, "data").get("modality") or "image")

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, kept until the items change."""
        with self._lock:
            if self._stamp != self.stamp:
                self._stamp, self._said = self.stamp, read_run(self.folder)
                self.store = Items.open(self.folder)
                self._kept, self._making = {}, {}
            kept, making = self._kept, self._making.setdefault(key, threading.Lock())
        with making:  # of this key alone, so that a long one keeps no other waiting
            if key not in kept:
                kept[key] = make()
            return kept[key]

    # what the page opens with

    def about(self) -> dict[str, Any]:
        """The run in words and figures, and what can be asked of it."""
        summary, noun = self.summary, words.noun(self.summary)
        health = part(summary, "health")
        return {
            "title": words.tidy(summary.get("title") or self.folder.resolve().name, 160),
            "folder": words.tidy(str(self.folder), 200),
            "n": len(self.items),
            "noun": noun,
            "nouns": words.several(noun),
            "modality": self.modality,
            "stamp": self.stamp,
            "vectors": self.store.dim is not None,
            "placed": int(np.isfinite(self.place[0]).sum()),
            "health": {"word": words.health_word(summary), "reason": words.tidy(health.get("reason") or "", 300)},
            "method": words.tidy(part(summary, "method").get("name") or part(summary, "model").get("name") or "", 60),
            "one_cloud": bool(part(summary, "clusters").get("one_cloud")),
            "clusters": self.clusters(),
            "columns": [{"name": name, "title": title} for name, title in self.names().items()],
            "asks": self.asks(),
            "skipped": self._said.skipped.n,
            "duplicates": len(self.duplicates()),
        }

    def asks(self) -> dict[str, bool]:
        """By what the run can be asked."""
        parts = part(self._said.config, "build", "parts")
        weights = (self.folder / "model.safetensors").is_file() and self.store.dim is not None
        paired = {"image_encoder", "text_encoder"} <= set(parts)
        text = self.modality == "text" or paired
        return {
            "text": weights and text,
            "file": weights and self.modality in ("image", "text", "audio"),
            "example": self.store.dim is not None,
        }

    @property
    def items(self) -> np.ndarray:
        """(n,) item numbers, which rise."""
        return self._once("items", lambda: np.asarray(self.store.column("item"), np.int64))

    @property
    def place(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y on the map, (n,) float32, NaN where an item has no place."""
        return self._once("place", lambda: tuple(np.asarray(self.store.column(c), np.float32) for c in ("x2d", "y2d")))

    def points(self) -> dict[str, np.ndarray]:
        """All that the first paint needs: item, x, y, and the number of the cluster."""
        x, y = self.place
        return {"item": self.items.astype(np.int32), "x": x, "y": y, "cluster": self._numbers("cluster").astype("i4")}

    def rows_of(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows of items by their numbers.

        Raises:
            ArgumentError: there is no such item.
        """
        wanted = np.asarray(numbers, np.int64).reshape(-1)
        place = np.searchsorted(self.items, wanted)
        absent = wanted[(place == len(self.items)) | (self.items[np.minimum(place, len(self.items) - 1)] != wanted)]
        if len(absent):
            raise ArgumentError(f"item={absent[0]}: expected an item of the run; it may have been removed, so reload")
        return place

    # columns

    def names(self) -> dict[str, str]:
        """Columns that the map can be coloured by: name -> title."""
        return self._once("names", self._names)

    def _names(self) -> dict[str, str]:
        found = {}
        if (self._numbers("cluster") >= 0).any():
            found["cluster"] = "cluster"
        labels, facts = self._found_names()
        found |= {f"label:{name}": words.tidy(name, 40) for name in labels}
        if np.isfinite(self._numbers("outlier")).any():
            found["outlier"] = "outlier score"
        if np.isfinite(self._numbers("confidence")).any():
            found["confidence"] = "confidence of the cluster"
        found |= {f"fact:{name}": FACTS[name] for name in facts}
        return found | {f"value:{name}": words.tidy(name, 40) for name in self._features()}

    def column(self, name: str) -> Column:
        """A column by its name.

        Raises:
            ArgumentError: there is no such column.
        """
        if name not in self.names():
            raise unknown("column", name, self.names())
        return self._once(f"column {name}", lambda: self._column(name, self.names()[name]))

    def _column(self, name: str, title: str) -> Column:
        if name == "cluster":
            return self._cluster_column()
        if name in ("outlier", "confidence"):
            return Column(name, title, "number", self._numbers(name).astype(np.float32))
        kind, _, of = name.partition(":")
        read = {"label": self._label_values, "fact": self._fact_values, "value": self._feature_values}[kind](of)
        if (kind == "fact" and of != "discussed") or (kind == "value" and of in self._date_features()):
            return as_dates(name, title, read)
        return as_column(name, title, read)

    def _cluster_column(self) -> Column:
        given = self._numbers("cluster").astype(np.int32)
        names = {one["cluster"]: one["name"] for one in self.clusters()}
        classes = [names.get(k) or f"cluster {k}" for k in range(int(given.max(initial=-1)) + 1)]
        return Column("cluster", "cluster", "classes", given, classes)

    def _numbers(self, name: str) -> np.ndarray:
        return self._once(f"numbers {name}", lambda: np.asarray(self.store.column(name)))

    def _metas(self) -> Iterator[str]:
        for chunk in self.store.chunks(["meta"]):
            yield from chunk["meta"]

    def _found_names(self) -> tuple[list[str], list[str]]:
        """Names of labels, and those of `FACTS`, that items have."""
        labels: dict[str, None] = {}
        facts: set[str] = set()
        for meta, _ in zip(self._metas(), range(LOOKED_AT), strict=False):
            labels |= dict.fromkeys(labels_in(meta))
            facts |= facts_in(meta).keys()
        return list(labels), [name for name in FACTS if name in facts]

    def _label_values(self, name: str) -> Iterator[Any]:
        return (labels_in(meta).get(name) for meta in self._metas())

    def _fact_values(self, name: str) -> Iterator[Any]:
        return (facts_in(meta).get(name) for meta in self._metas())

    def _features(self) -> list[str]:
        """Columns of a table that its rows' texts say."""
        return [name for name in listed(self._schema().get("features")) if isinstance(name, str)]

    def _date_features(self) -> list[Any]:
        return listed(self._schema().get("dates"))

    def _schema(self) -> Mapping[str, Any]:
        return part(self._said.config, "made", "description", "schema")

    def _feature_values(self, name: str) -> Iterator[Any]:
        """Values of a column of a table, which stand in each row's text as `name value, name value`."""
        others = "|".join(re.escape(other) for other in self._features())
        pattern = re.compile(rf"(?:^|, ){re.escape(name)} (.*?)(?=, (?:{others}) |$)")
        for meta in self._metas():
            found = pattern.search(text_of(meta, b""))
            yield as_number(found[1]) if found else None

    # clusters, duplicates, what was skipped

    def clusters(self) -> list[dict[str, Any]]:
        """Each cluster: number, name, size, stability, and its most typical items."""
        return self._once("clusters", self._clusters)

    def _clusters(self) -> list[dict[str, Any]]:
        given = self._numbers("cluster")
        sizes = Counter(given[given >= 0].tolist())
        said = {}
        for one in listed(part(self.summary, "clusters").get("per_cluster")):
            if isinstance(one, Mapping) and whole(one.get("cluster"), -1) >= 0:
                said[whole(one.get("cluster"))] = one
        found = []
        for k in sorted(sizes):
            one = said.get(k, {})
            typical = self._those_there(one.get("items"))
            name = words.excerpt(one.get("name") or "", 48) or f"cluster {k}"
            stable = measure(one.get("stability"))
            found.append({"cluster": k, "name": name, "size": sizes[k], "typical": typical or self._surest(given, k)})
            found[-1]["stability"] = stable["value"] if stable else None
        return found

    def _those_there(self, items: object) -> list[int]:
        """Those of the items in a summary that exist; some may have been removed since."""
        numbers = np.array([item for item in listed(items) if type(item) is int and abs(item) < 2**62], np.int64)
        place = np.minimum(np.searchsorted(self.items, numbers), len(self.items) - 1)
        return numbers[self.items[place] == numbers].tolist()

    def _surest(self, given: np.ndarray, cluster: int, most: int = 24) -> list[int]:
        rows = np.flatnonzero(given == cluster)
        sure = np.nan_to_num(self._numbers("confidence")[rows], nan=-1)
        return self.items[rows[np.argsort(-sure, kind="stable")[:most]]].tolist()

    def duplicates(self) -> list[dict[str, Any]]:
        """Groups of equal or nearly equal items, the most alike first."""
        groups = []
        for group in listed(self.summary.get("duplicates")):
            items = self._those_there(part(group).get("items"))
            if len(items) > 1:
                similar = number(group.get("similarity"))
                groups.append({"items": items, "similarity": similar, "exact": bool(group.get("exact"))})
        return groups

    def skipped(self) -> dict[str, Any]:
        """What was not read, and why."""
        found = self._said.skipped
        rows = [{"name": words.tidy(name, 200), "reason": words.tidy(why, 300)} for name, why in found.rows[:SKIPPED]]
        return {"n": found.n, "reasons": found.reasons[:50], "rows": rows}

    # items

    def shown(self, numbers: Sequence[int]) -> dict[str, list[Any]]:
        """Items as the page shows them, in the order asked for; at most `PAGE`."""
        expect("items", f"{len(numbers)} numbers", len(numbers) <= PAGE, f"at most {PAGE} at once")
        self.rows_of(numbers)
        names = ["item", "uri", "source", "thumbnail", "meta", "cluster", "confidence", "outlier"]
        noun, shown = words.noun(self.summary), []
        for row in self.store.rows(numbers, names):
            picture = row["thumbnail"]
            is_picture = picture.startswith(tuple(KINDS)) and len(picture) <= LARGEST_BYTES
            text = text_of(row["meta"], picture) or snippet(picture) or ""
            shown.append(
                {
                    "item": row["item"],
                    "name": words.item_name(row["uri"], noun) or f"{noun} {row['item']}",
                    "uri": words.tidy(row["uri"], 300),
                    "text": text[:4_000],
                    "picture": picture if is_picture else b"",
                    "cluster": row["cluster"],
                    "confidence": row["confidence"],
                    "outlier": row["outlier"],
                    "file": may_be_shown(row["uri"]) and Path(row["source"]).is_dir(),
                    "labels": json.dumps({k: str(v)[:200] for k, v in labels_in(row["meta"]).items()}),
                }
            )
        columns = {key: [one[key] for one in shown] for key in (shown[0] if shown else ("item",))}
        for name, kind in (("item", "i4"), ("cluster", "i4"), ("confidence", "f4"), ("outlier", "f4"), ("file", "u1")):
            columns[name] = np.asarray(columns.get(name, []), kind)  # type: ignore[assignment]
        return columns

    def original(self, item: int) -> tuple[Path, str] | None:
        """The file of an item and its media type, where it is one that a browser shows."""
        self.rows_of([item])
        row = self.store.rows([item], ["source", "uri"])[0]
        return original(row["source"], row["uri"])

    def is_heavy(self, like: Sequence[int], unlike: Sequence[int], k: int) -> bool:
        """Whether `near` reads all vectors, and these take more memory than the server shall have."""
        large = 4 * len(self.items) * (self.store.dim or 0) > AT_HAND
        return large and self.store.reads_all(k + len({*like, *unlike}))

    def near(self, like: Sequence[int], unlike: Sequence[int], k: int) -> dict[str, np.ndarray]:
        """The k items most like some and least like others, by cosine with the difference of their mean directions.

        Raises:
            ArgumentError: neither is given, or there is no such item.
            DataError: the two cancel out.
        """
        expect("like", "nothing", bool(len(like) or len(unlike)), "at least one item to go by")
        self._expect_vectors()
        self.rows_of([*like, *unlike])
        wanted = self._direction(like) - LEAST_LIKE * self._direction(unlike)
        if not np.linalg.norm(wanted) > 1e-6:
            raise DataError("like: what to look for and what to avoid cancel out; expected items that differ")
        asked = {*like, *unlike}
        hits = [hit for hit in self.store.search(wanted, k + len(asked)) if hit.item not in asked][:k]
        return as_hits((hit.item, hit.score) for hit in hits)

    def _direction(self, items: Sequence[int]) -> np.ndarray:
        if not len(items):
            return np.zeros(self.store.dim or 0, np.float32)
        vectors = np.stack([row["vector"] for row in self.store.rows(items, ["vector"])])
        return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).mean(axis=0)

    def _expect_vectors(self) -> None:
        if self.store.dim is None:
            raise RunError(f"{self.folder}: its items have no vectors, so none is like another")

    # what the ledger knows items by

    def keys(self, numbers: Sequence[int] | np.ndarray) -> list[str]:
        """The ledger's keys of items: hashes of content, or numbers where there is none; many in the store's order."""
        if len(numbers) <= TAKEN:
            rows = self.store.rows(numbers, ["item", "hash"])
            return [row["hash"] or f"item {row['item']}" for row in rows]
        wanted, found, start = np.zeros(len(self.items), bool), [], 0
        wanted[self.rows_of(numbers)] = True
        for chunk in self.store.chunks(["item", "hash"]):
            here = np.flatnonzero(wanted[start : start + len(chunk["hash"])])
            found += [chunk["hash"][i] or f"item {chunk['item'][i]}" for i in here]
            start += len(chunk["hash"])
        return found

    def rows_with(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Rows whose content has one of these keys, and which key it is: two arrays of equal length."""
        if not len(keys):  # the keys of all items are not needed to say so
            return np.zeros(0, int), np.zeros(0, int)
        short, order = self._once("keys", self._short_keys)
        wanted = np.array([_short(key) for key in keys], np.uint64)
        first, last = (np.searchsorted(short, wanted, side=side) for side in ("left", "right"))
        count = last - first
        which = np.repeat(np.arange(len(keys)), count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return order[np.repeat(first, count) + within], which

    def _short_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """64 bits of each row's key, sorted, and the rows in that order: 16 bytes an item instead of a string."""
        found, start = np.empty(len(self.items), np.uint64), 0
        for chunk in self.store.chunks(["item", "hash"]):
            keys = [key or f"item {item}" for item, key in zip(chunk["item"], chunk["hash"], strict=True)]
            found[start : start + len(keys)] = [_short(key) for key in keys]
            start += len(keys)
        order = np.argsort(found, kind="stable")
        return found[order], order.astype(np.int32)


def as_hits(found: Iterable[tuple[int, float]]) -> dict[str, np.ndarray]:
    """Items and scores as columns."""
    pairs = list(found)
    return {
        "item": np.array([item for item, _ in pairs], np.int32),
        "score": np.array([score for _, score in pairs], np.float32),
    }


def as_column(name: str, title: str, values: Iterable[Any]) -> Column:
    """Values as numbers where all are numbers and many differ, else as classes; None is none.

    >>> as_column("a", "a", ["cat", None, "dog", "cat"]).values.tolist()
    [0, -1, 1, 0]
    >>> as_column("b", "b", [i / 2 for i in range(30)]).kind
    'number'
    """
    different: dict[Any, int] = {}  # value -> its number; of a million items only the numbers are held
    numbered = (-1 if value is None else different.setdefault(_plain(value), len(different)) for value in values)
    coded = np.fromiter(numbered, np.int32)
    numbers = [number(value) for value in different]
    if None not in numbers and len(different) > FEW_VALUES:
        table = np.array([*numbers, np.nan], np.float32)
        return Column(name, title, "number", table[coded])
    counts = np.bincount(coded[coded >= 0], minlength=len(different))
    said = [words.tidy(value, 80) for value in different]
    kept = sorted(range(len(said)), key=lambda i: (-counts[i], said[i]))[:CLASSES]
    kept.sort(key=lambda i: _natural(said[i]))
    renumbered = np.full(len(said) + 1, -1, np.int32)  # the last is none
    renumbered[kept] = np.arange(len(kept))
    return Column(name, title, "classes", renumbered[coded], [said[i] for i in kept], len(said) - len(kept))


def as_dates(name: str, title: str, values: Iterable[Any]) -> Column:
    """Days since 1970 of texts that begin with a day; NaN for any other value.

    >>> as_dates("a", "a", ["1970-01-02", "1970-01-03T09:30:00Z", "soon", None]).values.tolist()
    [1.0, 2.0, nan, nan]
    """
    return Column(name, title, "number", np.fromiter(map(_day, values), np.float32), dates=True)


def _day(value: Any) -> float:
    try:
        return date.fromisoformat(str(value)[:10]).toordinal() - EPOCH
    except ValueError:
        return math.nan


def labels_in(meta: str) -> dict[str, Any]:
    """The labels that an item's `meta` holds."""
    return part(_read(meta), "labels") if '"labels"' in meta else {}


def facts_in(meta: str) -> dict[str, Any]:
    """Those of `FACTS` that an item's `meta` holds."""
    if not any(f'"{name}"' in meta for name in FACTS):
        return {}
    return {name: value for name, value in part(_read(meta)).items() if name in FACTS}


def _read(meta: str) -> Any:
    try:
        return json.loads(meta)
    except ValueError:
        return None


def as_number(text: str) -> float | str:
    """A number as a row's text says it, `271.5k` too; else the text.

    >>> as_number("271.5k"), as_number("Private")
    (271500.0, 'Private')
    """
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)([kMG]?)", text)
    if not found:
        return text
    value = float(found[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[found[2]]
    return value if math.isfinite(value) else text


def _plain(value: Any) -> Any:
    """A number as one that equals it, anything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _natural(text: str) -> tuple[Any, ...]:
    """So that `digit 10` comes after `digit 9`."""
    return tuple((0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in re.split(r"(\d+)", text))


def _short(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
