"""Drawings: the pictures of a system's page, made by its own functions or from the record of a curve."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tacit.catalogue import Entry
from tacit.claims._evidence import Standing
from tacit.claims._found import Found, read_drawings
from tacit.claims._marks import Drawing
from tacit.claims._record import Record

if TYPE_CHECKING:
    from PIL import Image

INK, PAPER, GRID = "#3c3c3c", "#ffffff", "#e4e4e4"
COLOURS = ("#2458c5", "#c2571a", "#2e7d4f", "#8b3fa8", "#a0782c")
"""Of curves, dark enough to be told from paper at 3 to 1."""
WIDTH, HEIGHT, DPI = 5.2, 2.9, 160
"""Inches and points an inch of a plot."""


def draw(entry: Entry, standings: Sequence[Standing], folder: Path, *, device: str = "cpu") -> Iterator[Path]:
    """Draw all that a system has to show, each into `folder/ID-FUNCTION.png`: its curves' records, and its drawings.

    A picture that is there is replaced: it is made again by the same command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for one in standings:
        record = one.shown
        if record is not None and record.kind == "curve":
            yield _save(draw_curve(record), picture_path(one.found, folder))
    for found in read_drawings(entry):
        yield _save(draw_one(found, device), picture_path(found, folder))


def picture_path(found: Found, folder: Path) -> Path:
    return folder / f"{found.system}-{found.function}.png"


def caption_of(found: Found) -> str:
    """What a picture shows: the drawing's words, or the claim's whose curve it is."""
    return found.mark.says if isinstance(found.mark, Drawing) else f"{found.mark.says}, as measured"


def draw_one(found: Found, device: str = "cpu") -> Image.Image:
    """What a drawing function makes of seed 0 at `small`, and of what claims have trained and kept."""
    from tacit.claims._bench import Bench
    from tacit.data import cache_folder

    assert isinstance(found.mark, Drawing)
    steps = found.mark.steps.get("small")
    bench = Bench([0], "small", steps=steps, device=device, cache=cache_folder() / "claims")
    picture: Image.Image = found.load()(bench, bench.first_trial())
    return picture


def draw_curve(record: Record) -> Image.Image:
    """A curve claim's scores at its points, the baseline's beside them: means over seeds, and a band of extremes."""
    curves = {record.system: np.array(record.values)}
    if record.baseline_values:
        curves[record.baseline or "baseline"] = np.array(record.baseline_values)
    return plot(record.details["over"], curves, x_label="", y_label=str(record.details.get("by", "score")))


def plot(
    x: Sequence[Any], curves: Mapping[str, Any], *, x_label: str, y_label: str, log_x: bool = False
) -> Image.Image:
    """Curves on white paper.

    Args:
        x: numbers, or words, which are set at equal distances and not joined, (n,).
        curves: name -> values (n,), or (seeds, n): their mean, with a band from the least to the greatest.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places, words = _places(x)
    apart = 0.0 if words is None else 0.12
    for number, (name, values) in enumerate(curves.items()):
        at, colour = places + apart * (number - (len(curves) - 1) / 2), COLOURS[number % len(COLOURS)]
        rows = np.atleast_2d(np.asarray(values, dtype=float))
        line = "-" if words is None else "none"
        axes.plot(at, rows.mean(0), color=colour, label=name, linestyle=line, marker="o", markersize=4, linewidth=1.6)
        if len(rows) > 1:
            band = axes.vlines if words is not None else axes.fill_between
            band(at, rows.min(0), rows.max(0), color=colour, alpha=0.2, linewidth=0 if words is None else 6)
    if words is not None:
        axes.set_xticks(places, words)
        axes.margins(x=0.2)
    if log_x:
        axes.set_xscale("log")
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.tick_params(colors=INK, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _places(x: Sequence[Any]) -> tuple[np.ndarray, list[str] | None]:
    """Numbers as they are, and words at equal distances with themselves as ticks."""
    try:
        return np.array([float(value) for value in x]), None
    except (TypeError, ValueError):
        return np.arange(len(x)), [str(value) for value in x]


def _save(picture: Image.Image, path: Path) -> Path:
    from PIL import Image

    picture.convert("P", palette=Image.Palette.ADAPTIVE).save(path, optimize=True)
    return path
