"""The map as data for the page: places, names and colourings of all points, packed."""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tacit.report._pictures import even_sample, sheets, snippet
from tacit.report._words import excerpt, figure, item_name, tidy
from tacit.store import Items

POINTS = 500_000
"""More are drawn as an even sample, which the page says."""
NAMES_BYTES = TEXTS_BYTES = 4_000_000
CLASSES = 254
NO_CLASS = 255
LABELS = 8
GREY = "#9a958c"


def points(
    items: Items,
    sprites: int,
    *,
    noun: str = "item",
    names: Mapping[int, str] | None = None,
    texts: bool = True,
    whole: bool = False,
) -> dict[str, Any] | None:
    """What the map needs, as JSON; None if the run has no map.

    Arrays are little-endian and base64: `x`, `y` uint16 (n,), `item` int32 (n,), each colouring's `values` uint8 (n,),
    where 255 means none; `sprite` uint32 (m,), the points that have a picture, in the order of the cells of the sheets.

    Args:
        items: the run's.
        sprites: at most so many pictures; 0 leaves pictures out.
        noun: what one item is called.
        names: of clusters, by number.
        texts: whether to say the beginning of each item's text, where it has one and they fit.
        whole: whether pictures keep their shape, or fill a square.
    """
    x, y = (np.asarray(items.column(name), np.float64) for name in ("x2d", "y2d"))
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if not len(shown):
        return None
    without = len(x) - len(shown)
    if len(shown) > POINTS:
        shown = shown[even_sample(*_scaled(x[shown], y[shown]), POINTS)]
        shown.sort()
    x, y = _scaled(x[shown], y[shown])
    number = np.asarray(items.column("item"))[shown]
    found = {
        "n": len(shown),
        "all": len(items),
        "without": without,
        "x": _packed(x, "<u2"),
        "y": _packed(y, "<u2"),
        "item": _packed(number, "<i4"),
        "names": _names(items, shown, noun),
        "texts": _texts(items, shown) if texts else None,
        "colours": _colourings(items, shown, names or {}),
        "sheets": [],
        "cell": [0, 0],
        "sprite": "",
    }
    if sprites:
        sample = even_sample(x, y, sprites)
        thumbnails = [row["thumbnail"] for row in items.rows(number[sample], ["thumbnail"])]
        found["sheets"], found["cell"], readable = sheets(thumbnails, whole=whole)
        found["sprite"] = _packed(sample[readable], "<u4")
    return found


def colour(i: int) -> str:
    """A colour for group i, distinct from its neighbours in number, readable on light and dark: `#rrggbb`.

    Hues turn by the golden angle in OKLCH, so that any first few differ well; lightness alternates.
    """
    hue = math.radians((28 + 137.508 * i) % 360)
    lightness, chroma = ((0.64, 0.15), (0.74, 0.125), (0.56, 0.13))[i % 3]
    return _hex(lightness, chroma * math.cos(hue), chroma * math.sin(hue))


def _shade(share: float) -> str:
    """From deep blue by teal to warm yellow, lighter all the way."""
    place = [
        np.interp(share, (0, 0.5, 1), anchors) for anchors in ((0.45, 0.66, 0.84), (0, -0.09, 0), (-0.14, 0, 0.15))
    ]
    return _hex(*map(float, place))


def _hex(lightness: float, a: float, b: float) -> str:
    """OKLab to sRGB (Ottosson, 2020, https://bottosson.github.io/posts/oklab)."""
    long, medium, short = (
        (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3,
        (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3,
        (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3,
    )
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _gamma(min(max(value, 0), 1))):02x}" for value in linear)


def _gamma(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def _scaled(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both to uint16 at one scale, so that the map keeps its shape; centred."""
    span = max(np.ptp(x), np.ptp(y)) or 1.0

    def scale(values: np.ndarray) -> np.ndarray:
        return np.round(32767.5 + (values - (values.min() + values.max()) / 2) / span * 65535).clip(0, 65535)

    return scale(x).astype(np.uint16), scale(y).astype(np.uint16)


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()


def _names(items: Items, shown: np.ndarray, noun: str) -> list[str] | None:
    """A short name of each point; None where there are too many for names to fit."""
    length = min(80, NAMES_BYTES // len(shown))
    if length < 12:
        return None
    names = items.column("uri")
    return [item_name(names[i], noun, length) for i in shown]


def _texts(items: Items, shown: np.ndarray) -> list[str] | None:
    """The beginning of each point's text; None where there is none, or too many to fit."""
    if 40 * len(shown) > TEXTS_BYTES:
        return None
    said: list[str] = []
    for chunk in items.chunks(["meta", "thumbnail"]):
        said += [text_of(meta, piece) for meta, piece in zip(chunk["meta"], chunk["thumbnail"], strict=True)]
    said = [said[i] for i in shown]
    if not any(said):
        return None
    for length in (200, 120, 60):
        cut = [excerpt(text, length) for text in said]
        if sum(len(json.dumps(text)) for text in cut) <= TEXTS_BYTES:
            return cut
    return None


def text_of(meta: str, thumbnail: bytes) -> str:
    """The caption of an item, or the text that stands for it, "" where there is none."""
    if '"caption"' in meta:
        try:
            said = json.loads(meta).get("caption")
        except (ValueError, AttributeError):
            said = None
        if isinstance(said, str):
            return said
    return snippet(thumbnail) or ""


def _colourings(items: Items, shown: np.ndarray, named: Mapping[int, str]) -> list[dict[str, Any]]:
    clusters = np.asarray(items.column("cluster"))[shown]

    def title(number: int) -> str:
        return f"cluster {number}: {named[number]}" if named.get(number) else f"cluster {number}"

    found = (
        [_classes("cluster", [title(int(c)) if c >= 0 else None for c in clusters], clusters)]
        if (clusters >= 0).any()
        else []
    )
    metas = items.column("meta")
    labels = [_labels(metas[i]) for i in shown]
    names = list(dict.fromkeys(name for of_item in labels for name in of_item))[:LABELS]
    return found + [_label(tidy(name, 40), [of_item.get(name) for of_item in labels]) for name in names]


def _labels(meta: str) -> dict[str, Any]:
    if '"labels"' not in meta:
        return {}
    try:
        labels = json.loads(meta).get("labels")
    except (ValueError, AttributeError):
        return {}
    return labels if isinstance(labels, dict) else {}


def _label(name: str, values: Sequence[Any]) -> dict[str, Any]:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(set(numbers)) > 20 and len(numbers) == sum(value is not None for value in values):
        return _ramp(name, values)
    return _classes(name, [None if value is None else tidy(value, 60) for value in values])


def _classes(name: str, values: Sequence[str | None], order: np.ndarray | None = None) -> dict[str, Any]:
    """Values as class numbers; the commonest if there are more than fit. `order` gives clusters their own numbers."""
    counts = Counter(value for value in values if value is not None)
    kept = sorted(counts, key=lambda value: (-counts[value], value))[:CLASSES]
    if order is not None:
        place = {value: int(c) for value, c in zip(values, order, strict=True) if value is not None}
        kept.sort(key=place.__getitem__)
    else:
        kept.sort()
    number = {value: i for i, value in enumerate(kept)}
    return {
        "name": name,
        "kind": "classes",
        "classes": [
            {"name": value, "n": counts[value], "colour": colour(place[value] if order is not None else i)}
            for i, value in enumerate(kept)
        ],
        "rest": len(counts) - len(kept),
        "none": GREY,
        "values": _packed(
            np.array([NO_CLASS if value is None else number.get(value, NO_CLASS) for value in values]), "u1"
        ),
    }


def _ramp(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """A number as one of 32 shades from its lowest to its highest value."""
    known = np.array([np.nan if value is None else float(value) for value in values])
    known[~np.isfinite(known)] = np.nan
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    shade = np.nan_to_num(np.round((known - low) / ((high - low) or 1) * 31), nan=NO_CLASS)
    return {
        "name": name,
        "kind": "ramp",
        "classes": [{"name": "", "n": 0, "colour": _shade(i / 31)} for i in range(32)],
        "low": figure(low),
        "high": figure(high),
        "none": GREY,
        "values": _packed(shade, "u1"),
    }
