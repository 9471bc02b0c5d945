"""A record in words: its numbers, what was compared, and what the verdict means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tacit.claims._record import Record

EXACT = {"equal": "deviation", "bound": "excess over the bound"}
RATIOS = {"speed": "times as fast", "memory": "times less memory"}
FIXED = {"untrained": "the untrained encoder", "pixels": "the raw pixels"}
SHAPES = {
    "rises": "the curve rises",
    "falls": "the curve falls",
    "above": "it stays above {baseline} at every point",
    "gap_shrinks": "its lead over {baseline} shrinks along the curve",
    "gap_grows": "its lead over {baseline} grows along the curve",
}


def short(value: float) -> str:
    """A number in three digits.

    >>> short(0.0), short(0.41234), short(12345.6), short(2.5e-9)
    ('0', '0.412', '12,346', '2.5e-09')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def number_words(record: Record) -> str:
    """The effect alone."""
    if record.kind in EXACT:
        return short(record.effect)
    return _fixed(record.effect, _digits(record.interval[1] - record.interval[0]), "" if record.kind in RATIOS else "+")


def interval_words(record: Record, between: str = " [{low}, {high}]") -> str:
    """Effect and interval, to the digits that the interval knows; a difference with its sign."""
    low, high = record.interval
    sign = "" if record.kind in RATIOS else "+"
    digits = _digits(high - low)
    effect = _fixed(record.effect, digits, sign)
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{effect}, too few for an interval"
    return effect + between.format(low=_fixed(low, digits, sign), high=_fixed(high, digits, sign))


def effect_words(record: Record) -> str:
    """What stands in a table: effect, interval and margin, or largest deviation and tolerance."""
    if record.kind in EXACT:
        return f"{short(record.effect)}, tolerance {short(record.margin)}"
    return f"{interval_words(record)}, margin {short(record.margin)}"


def scores_words(record: Record) -> str:
    """The mean over seeds of both sides; empty where deviations are all there is.

    A difference has its digits on both sides, a curve a number for each point; times and bytes have their unit.
    """
    if record.kind in EXACT:
        return ""
    if record.kind == "factors":
        return _levels(record)
    units: dict[str, Callable[[float], str]] = {"speed": _seconds, "memory": _bytes, "curve": short}
    digits = _digits(record.interval[1] - record.interval[0])
    unit = units.get(record.kind, lambda mean: _fixed(mean, digits))
    sides = [record.values, record.baseline_values]
    words = " against ".join(", ".join(unit(mean) for mean in _means(side)) for side in sides if len(side))
    over = record.details.get("over")
    return f"{words} at {', '.join(over)}" if over else words


def compared(record: Record) -> str:
    """System against baseline, data and training, seeds, budget and device."""
    sides = f"{record.system} against {baseline_of(record)}" if record.baseline else ""
    by = record.details.get("by", "")
    seeds = f"{len(record.effects)} pairs of times" if record.kind == "speed" else f"{len(record.seeds)} seeds"
    where = f"{seeds} at {record.budget} on {record.device}"
    return "; ".join(part for part in (sides, by, record.setting, steps_words(record), where) if part)


def steps_words(record: Record) -> str:
    """Steps of each side, where the setting does not say them."""
    return f"{record.steps:,} steps" if record.steps and f"{record.steps} steps" not in record.setting else ""


def passes_words(record: Record) -> str:
    """What a step costs each side, in items through the encoder for one of the batch."""
    passes = record.details.get("passes", {})
    words = ", ".join(f"{name} {short(number)}" for name, number in passes.items())
    return f"encoder passes an item and step: {words}" if words else ""


def baseline_of(record: Record) -> str:
    return FIXED.get(record.baseline, record.baseline)


def means(record: Record) -> str:
    """The verdict in a sentence."""
    if record.budget == "smoke":
        return f"it runs; {len(record.seeds)} seeds at smoke are no evidence: give --budget small"
    claimed = _claimed(record)
    if record.kind in EXACT:
        number = f"{len(record.effects)} seeds"
        return f"{claimed} in {number}" if record.verdict == "holds" else f"not true that {claimed}"
    lies = {"holds": "the whole interval lies above the margin", "fails": "the whole interval lies below the margin"}
    if record.verdict in lies:
        return f"{'' if record.verdict == 'holds' else 'not true that '}{claimed}: {lies[record.verdict]}"
    return f"whether {claimed} cannot be told: the margin lies within the interval"


def advice(record: Record) -> str:
    """Would the system help on the user's own data?"""
    name = baseline_of(record)
    if record.budget == "smoke":
        return f"Would it help you? Not known yet: {means(record)}."
    between = f"between {_fixed(record.interval[0], 3, '+')} and {_fixed(record.interval[1], 3, '+')}"
    if record.kind == "better":
        extra = f" by more than {short(record.margin)}" if record.margin else ""
        answers = {
            "holds": f"Yes: on {record.own} {record.system} beats {name}{extra}; the difference lies {between}.",
            "fails": f"No: on {record.own} {record.system} does not beat {name}{extra}; the difference lies {between}.",
        }
        unclear = f"Cannot be told from {len(record.seeds)} seeds: the difference to {name} lies {between}."
        return "Would it help you? " + answers.get(record.verdict, unclear)
    if record.kind == "not worse":
        answers = {
            "holds": f"It would not cost you more than {short(-record.margin)} against {name}",
            "fails": f"It would cost you more than {short(-record.margin)} against {name}",
        }
        unclear = f"Cannot be told from {len(record.seeds)} seeds"
        return f"Would it help you? {answers.get(record.verdict, unclear)}: the difference lies {between}."
    answers = {"holds": "Yes, as far as the claim goes", "fails": "No, as far as the claim goes"}
    return f"Would it help you? {answers.get(record.verdict, 'Cannot be told')}: {means(record)}."


def _claimed(record: Record) -> str:
    """What the numbers were to show, as half a sentence."""
    margin, name = short(record.margin), baseline_of(record)
    if record.kind == "better":
        return f"{record.system} is better than {name}" + (f" by more than {margin}" if record.margin else "")
    if record.kind == "not worse":
        return f"{record.system} is worse than {name} by {short(-record.margin)} at most"
    if record.kind == "speed":
        than = "faster than" if record.margin == 1 else f"more than {margin} times as fast as"
        return f"{record.system} is {than} {name}"
    if record.kind == "memory":
        less = (
            "less memory than" if record.margin == 1 else f"less than {short(100 / record.margin)} % of the memory of"
        )
        return f"{record.system} takes {less} {name}"
    if record.kind == "curve":
        shape = SHAPES[record.details.get("shape", "rises")].format(baseline=name or "the baseline")
        return shape + (f", by more than {margin}" if record.margin else "")
    if record.kind == "factors":
        (first, second), ratio = record.details["factors"], record.details.get("ratio", 1)
        return f"{first} moves the score more than " + (
            f"{short(ratio)} times as much as {second}" if ratio != 1 else second
        )
    if record.kind == "equal":
        return f"both sides are equal up to {margin}"
    if record.kind == "bound":
        return "the bound is never exceeded" + (f" by more than {margin}" if record.margin else "")
    return f"the {'rank correlation' if record.kind == 'correlation' else 'number'} lies above {margin}"


def anova_rows(record: Record) -> list[list[str]]:
    """The analysis of variance as cells: source, degrees of freedom, share of the variance, F and p."""
    return [
        [row["name"], str(row["degrees"]), f"{100 * row['share']:.1f} %"]
        + (["", ""] if row["f"] is None else [short(row["f"]), f"{row['p']:.1g}"])
        for row in record.details.get("anova", [])
    ]


def _levels(record: Record) -> str:
    """The mean score of each level of each factor."""
    first, second = record.details["factors"].values()
    cells = _means(record.values)
    rows = [cells[i * len(second) : (i + 1) * len(second)] for i in range(len(first))]
    means = [sum(row) / len(row) for row in rows], [sum(column) / len(column) for column in zip(*rows, strict=True)]
    return "; ".join(
        f"{name}: " + ", ".join(f"{level} {short(mean)}" for level, mean in zip(levels, found, strict=True))
        for (name, levels), found in zip(record.details["factors"].items(), means, strict=True)
    )


def _means(side: Sequence[Any]) -> list[float]:
    """Over the seeds; point by point for a curve."""
    rows = [row if isinstance(row, list | tuple) else [row] for row in side]
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def _digits(width: float) -> int:
    """Digits after the point that show two digits of half the width of an interval."""
    if not (math.isfinite(width) and width > 0):
        return 3
    return min(max(1 - math.floor(math.log10(width / 2)), 0), 9)


def _fixed(value: float, digits: int, sign: str = "") -> str:
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def _seconds(value: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{short(value * factor)} {unit}"
    return f"{short(value * 1e6)} µs"


def _bytes(value: float) -> str:
    return f"{short(value / 2**20)} MiB"
