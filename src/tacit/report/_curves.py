"""Curves of a training as inline SVG, with a sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from tacit.report._files import Run, number, whole
from tacit.report._words import figure, tidy, tone

WIDTH, HEIGHT = 360, 176
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 26
BINS = 120


@dataclass(frozen=True)
class Line:
    """One curve: steps x (n,), values y (n,), and the band from low to high (n,) around them."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    dots: bool = False


@dataclass(frozen=True)
class Axes:
    """Steps from first to last and values from bottom to top, as places in the drawing."""

    first: float
    last: float
    bottom: float
    top: float

    def x(self, step: Any) -> Any:
        return LEFT + (step - self.first) / max(self.last - self.first, 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: Any) -> Any:
        share = (np.clip(value, self.bottom, self.top) - self.bottom) / (self.top - self.bottom)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


@dataclass(frozen=True)
class Chart:
    """A drawn chart: `svg`, the sentence of what it shows, and the note on how to read it."""

    title: str
    svg: Markup
    words: str
    note: str
    names: list[str] = field(default_factory=list)


def charts(run: Run) -> list[Chart]:
    """Loss with held-out loss, effective rank, alignment, uniformity, neighbour stability: those that were logged."""
    steps = [line for line in (run.metrics, run.looks) if line]
    last = max((whole(lines[-1].get("step")) for lines in steps), default=0)
    drawn = [_loss_chart(run, last)]
    rank = _look_line(run.looks, "effective_rank", "effective rank")
    drawn.append(_chart("Effective rank", [rank], last, "In how many independent ways items differ. Higher is richer."))
    for key, title, note in [
        (
            "alignment",
            "Alignment",
            "Distance between two views of one item. Lower is better, if uniformity stays low too.",
        ),
        ("uniformity", "Uniformity", "How evenly the items fill the space. Lower is more even."),
        (
            "neighbour_stability",
            "Neighbour stability",
            "Share of neighbours kept since the look before. Near 1 it has settled.",
        ),
    ]:
        drawn.append(_chart(title, [_look_line(run.looks, key, title.lower())], last, note))
    return [chart for chart in drawn if chart is not None]


def word_strip(looks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The health words in order, equal ones joined: word, tone, first and last step, percent of the training."""
    found: list[dict[str, Any]] = []
    said = [(whole(look.get("step")), tidy(look["word"], 40)) for look in looks if look.get("word")]
    for step, word in said:
        if found and found[-1]["word"] == word:
            found[-1]["last"] = step
        else:
            found.append({"word": word, "tone": tone(word), "first": step, "last": step})
    ends = [following["first"] for following in found[1:]] + [said[-1][0] if said else 0]
    for this, end in zip(found, ends, strict=False):
        this["share"] = 100 * max(end - this["first"], 1) / max(ends[-1] - found[0]["first"], 1)
    return found


def _loss_chart(run: Run, last: int) -> Chart | None:
    held_out = _look_line(run.looks, "held_out_loss", "held-out items")
    note = "What training makes small. Held-out items were not trained on: a widening gap means learning by heart."
    lines = [_binned(run.metrics), held_out]
    return _chart("Loss", lines, last, note)


def _binned(metrics: Sequence[Mapping[str, Any]]) -> Line:
    """The loss at each step as means of at most `BINS` stretches, with the band of their extremes."""
    pairs = [(number(line.get("step")), number(line.get("loss"))) for line in metrics]
    known = np.array([(step, loss) for step, loss in pairs if step is not None and loss is not None]).reshape(-1, 2)
    if len(known) <= BINS:
        return Line("training", known[:, 0], known[:, 1], known[:, 1], known[:, 1])
    starts = np.linspace(0, len(known), BINS, endpoint=False).astype(int)
    sizes = np.diff(starts, append=len(known))
    x, y = (np.add.reduceat(known[:, i], starts) / sizes for i in (0, 1))
    x[-1] = known[-1, 0]
    return Line("training", x, y, np.minimum.reduceat(known[:, 1], starts), np.maximum.reduceat(known[:, 1], starts))


def _look_line(looks: Sequence[Mapping[str, Any]], key: str, name: str) -> Line:
    rows = [
        (whole(look.get("step")), value, number(look.get(f"{key}_low")), number(look.get(f"{key}_high")))
        for look in looks
        if (value := number(look.get(key))) is not None
    ]
    table = np.array([(x, y, y if low is None else low, y if high is None else high) for x, y, low, high in rows])
    x, y, low, high = table.reshape(-1, 4).T
    return Line(name, x, y, low, high, dots=True)


def _chart(title: str, lines: Sequence[Line], last: int, note: str) -> Chart | None:
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return None
    words = "; ".join(_trend(line, named=len(lines) > 1) for line in lines)
    return Chart(
        title, _svg(f"{title}: {words}", lines, last), f"{words[0].upper()}{words[1:]}.", note, [x.name for x in lines]
    )


def _trend(line: Line, *, named: bool) -> str:
    start, end = line.y[0], line.y[-1]
    who = f"{line.name}: " if named else ""
    if len(line.y) < 2:
        return f"{who}{figure(end)} at the only look"
    if abs(end - start) <= 0.02 * max(abs(start), abs(end), 1e-12):
        return f"{who}steady at {figure(end)}"
    return f"{who}{'rose' if end > start else 'fell'} from {figure(start)} to {figure(end)}"


def _svg(label: str, lines: Sequence[Line], last: int) -> Markup:
    reach = [line.y for line in lines] + [end for line in lines if line.dots for end in (line.low, line.high)]
    ticks = _ticks(min(float(values.min()) for values in reach), max(float(values.max()) for values in reach))
    axes = Axes(min(float(line.x[0]) for line in lines), last, ticks[0], ticks[-1])
    body = _frame(axes, ticks) + "".join(_curve(line, i, axes) for i, line in enumerate(lines))
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{body}</svg>')


def _frame(axes: Axes, ticks: Sequence[float]) -> str:
    parts = []
    for tick in ticks:
        y = axes.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{_tick(tick, ticks)}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">step {figure(round(axes.first))}</text>')
    if axes.last > axes.first:
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{figure(axes.last)}</text>')
    return "".join(parts)


def _curve(line: Line, number: int, axes: Axes) -> str:
    x, y, style = axes.x(line.x), axes.y(line.y), f"s{number}"
    band = f"{_points(x, axes.y(line.high))} {_points(x[::-1], axes.y(line.low)[::-1])}"
    parts = [
        f'<polygon class="band {style}" points="{band}"/>',
        f'<polyline class="line {style}" points="{_points(x, y)}"/>',
        f'<circle class="end {style}" cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="3.2"/>',
    ]
    for i in range(len(x) if line.dots else 0):
        said = f"{escape(line.name)} at step {figure(line.x[i])}: {figure(line.y[i])}"
        circle = f'<circle class="dot {style}" cx="{x[i]:.1f}" cy="{y[i]:.1f}" r="2.4"><title>{said}</title></circle>'
        parts.append(circle)
    return "".join(parts)


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers at equal steps, four or so, from at most low to at least high."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        low, high = low - 0.5 * max(abs(low), 0.1), high + 0.5 * max(abs(high), 0.1)
    rough = (high - low) / 3
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough * 0.999))
    first, last = np.floor(low / step + 1e-6), np.ceil(high / step - 1e-6)
    return [float(first + i) * step for i in range(round(last - first) + 1)]


def _tick(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0]
    decimals = max(0, int(np.ceil(-np.log10(step) - 1e-9)) + (1 if f"{step:.1e}".startswith("2.5") else 0))
    text = f"{value:,.{decimals}f}" if decimals <= 5 and abs(value) < 1e7 else f"{value:.2g}"
    return text.replace("-", "−")
