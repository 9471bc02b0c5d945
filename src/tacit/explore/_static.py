"""The explorer as one file to send to somebody: no server, no network; it shows and finds, and labels nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tacit.errors import RunError, expect
from tacit.explore._run import PAGE, Column, Explored
from tacit.explore._wire import packed
from tacit.report._page import embedded, write_whole
from tacit.report._pictures import even_sample

STATIC = Path(__file__).parent / "static"
MOST = 100_000
"""Items; of more, an even sample over the map, with all that the lists name."""
PICTURE_BYTES = 12_000_000
TEXT_BYTES = 6_000_000
VECTOR_BYTES = 6_000_000
DIRECTIONS = 64
"""Of the vectors at most, by which "more like this" is answered."""
OUTLIERS = 400
STARRED = 2_000
FITTED = 20_000


def write_static(run: str | Path, out: str | Path, *, pictures: bool = True) -> Path:
    """Write the explorer of a run as one HTML file.

    Args:
        run: folder of a finished run.
        out: the file; it gets its name when it is whole.
        pictures: whether thumbnails and texts of items go along, up to some megabytes of each.

    Returns:
        Path of the file.

    Raises:
        ArgumentError: `out` does not end in .html.
        RunError: no finished run, or the file exists already or cannot be written.
    """
    out = Path(out)
    expect("static", str(out), out.suffix.lower() in (".html", ".htm"), "the name of an .html file to write")
    if out.exists():
        raise RunError(f"static={str(out)!r} exists; give another, nothing is overwritten")
    explored = Explored(run)
    return write_whole(out, page(held(explored, pictures=pictures)).encode("utf-8", "replace"))


def page(content: Mapping[str, Any]) -> str:
    """The page with what it shows inside it; no other script can run, and nothing can be fetched."""
    script, style = ((STATIC / name).read_text(encoding="utf-8") for name in ("app.js", "style.css"))
    whole = (STATIC / "index.html").read_text(encoding="utf-8")
    before, _, after = whole.partition("<!--head-->")
    after = after.partition("<!--/head-->")[2]
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src blob: data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = f'<meta http-equiv="content-security-policy" content="{policy}"><style>{style}</style>'
    held_in = f'<script id="held" type="application/json">{embedded(content)}</script><script>{script}</script>'
    return before + head + after.replace("</body>", f"{held_in}</body>")


def held(run: Explored, *, pictures: bool = True) -> dict[str, Any]:
    """All that the page asks for, in the form in which a server would answer; Arrow in base64."""
    about = run.about()
    stars = _stars(run)
    named = _named(run, stars)
    rows = _rows(run, named)
    items = run.items[rows]
    kept = set(items.tolist())
    clusters = [{**one, "typical": [i for i in one["typical"] if i in kept]} for one in about["clusters"]]
    points = {name: values[rows] for name, values in run.points().items()}
    vectors = _vectors(run, rows)
    return {
        "run": about
        | {"n": len(rows), "all": about["n"], "clusters": clusters, "papers": False, "stamp": "", "folder": ""}
        | {"asks": {"text": False, "file": False, "example": vectors is not None}},
        "points": _text(packed(points)),
        "columns": {name: _text(_packed_column(run.column(name), rows)) for name in run.names()},
        "stars": _text(_packed_column(stars, rows)),
        "items": _text(_items(run, items, named, pictures=pictures)),
        "vectors": vectors,
        "duplicates": {"groups": [one for one in run.duplicates() if kept.issuperset(one["items"])], "verdicts": {}},
        "skipped": run.skipped(),
    }


def _named(run: Explored, stars: Column) -> np.ndarray:
    """Items that the lists show, which are not left out."""
    listed = [item for one in run.clusters() for item in one["typical"]]
    listed += [item for group in run.duplicates()[:500] for item in group["items"]]
    named = run.rows_of(listed) if listed else np.zeros(0, int)
    named = np.concatenate([named, np.flatnonzero(stars.values >= 0)[:STARRED]])
    if "outlier" in run.names():
        scores = run.column("outlier").values
        named = np.concatenate([named, np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:OUTLIERS]])
    return np.unique(named)


def _stars(run: Explored) -> Column:
    from tacit.explore._labels import STAR, Notebook, given_column

    return given_column(run, Notebook(run.folder), STAR)


def _rows(run: Explored, named: np.ndarray) -> np.ndarray:
    n = len(run.items)
    if n <= MOST:
        return np.arange(n)
    others = np.setdiff1d(np.arange(n), named)
    return np.union1d(_spread(run, others, MOST - len(named)), named)


def _spread(run: Explored, rows: np.ndarray, size: int) -> np.ndarray:
    """So many of the rows that lie on the map as all do."""
    x, y = (np.nan_to_num(values[rows].astype(np.float64)) for values in run.place)

    def scaled(values: np.ndarray) -> np.ndarray:
        span = max(np.ptp(x), np.ptp(y)) or 1.0
        return ((values - values.min()) / span * 65_535).astype(np.uint16)

    return rows[even_sample(scaled(x), scaled(y), size)]


def _packed_column(column: Column, rows: np.ndarray) -> bytes:
    part = replace(column, values=column.values[rows])
    return packed({"value": part.values}, part.about())


def _items(run: Explored, items: np.ndarray, named: np.ndarray, *, pictures: bool) -> bytes:
    """Names of all; pictures and texts of those that the lists name first, then of others by chance, while they fit."""
    first, rest = run.items[named], np.setdiff1d(items, run.items[named])
    order = np.concatenate([first, np.random.default_rng(0).permutation(rest)])
    parts: list[dict[str, Any]] = []
    left = {"picture": PICTURE_BYTES if pictures else 0, "text": TEXT_BYTES if pictures else 0}
    for start in range(0, len(order), PAGE):
        part = run.shown(order[start : start + PAGE].tolist())
        for key, blank, length in (("picture", b"", None), ("text", "", 200)):
            for i, value in enumerate(part[key]):
                value = value if length is None or len(value) <= length else value[: length - 1] + "…"
                left[key] -= len(value)
                part[key][i] = value if left[key] > 0 else blank
        part["file"] = np.zeros(len(part["name"]), np.uint8)  # type: ignore[assignment]
        parts.append(part)
    whole = {key: _joined([part[key] for part in parts]) for key in parts[0]}
    back = np.argsort(np.asarray(whole["item"]), kind="stable")
    return packed({key: _taken(values, back) for key, values in whole.items()})


def _joined(parts: list[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [value for part in parts for value in part]


def _taken(values: Any, order: np.ndarray) -> Any:
    return values[order] if isinstance(values, np.ndarray) else [values[i] for i in order]


def _vectors(run: Explored, rows: np.ndarray) -> dict[str, Any] | None:
    """Unit vectors by their leading directions, which keep inner products best, in 8 bits; None if there are none."""
    if run.store.dim is None or not len(rows):
        return None
    z = run.store.vectors()[rows]
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    some = z[np.random.default_rng(0).choice(len(z), min(FITTED, len(z)), replace=False)].astype(np.float64)
    dim = max(1, min(DIRECTIONS, z.shape[1], VECTOR_BYTES // len(z)))
    directions = np.linalg.eigh(some.T @ some)[1][:, ::-1][:, :dim].astype(np.float32)
    low = z @ directions
    values = np.round(low / max(float(np.abs(low).max()), 1e-12) * 127).astype(np.int8)
    return {"dim": dim, "n": len(z), "values": _text(values.tobytes())}


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
