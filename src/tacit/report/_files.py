"""The files of a run that make the report, read with mistrust: a run may be a stranger's, or cut short."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.errors import RunError
from tacit.store import Items

FORMAT = 1
SKIPPED_ROWS = 200


@dataclass(frozen=True)
class Skipped:
    """What skipped.csv says: how many, how many for each reason (most first), and the first rows as (name, reason)."""

    n: int
    reasons: list[tuple[str, int]]
    rows: list[tuple[str, str]]


@dataclass(frozen=True)
class Run:
    """What a run folder says of itself; `metrics` are the lines of steps, `looks` those of health, in order."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    looks: list[dict[str, Any]]
    skipped: Skipped


def read_run(folder: str | Path) -> Run:
    """Read all but the items.

    Raises:
        RunError: no run, one that is not finished, or one that a newer tacit wrote.
    """
    folder = Path(folder)
    summary = read_json(folder / "summary.json")
    if summary is None:
        raise RunError(
            f"{folder}: holds no summary.json; expected a run folder that `tacit learn` or `tacit embed` finished"
        )
    if whole(summary.get("format"), 1) > FORMAT:
        raise RunError(
            f"{folder}: summary.json has format {summary['format']}, this tacit reads up to {FORMAT}; "
            "pip install --upgrade tacit"
        )
    lines = list(_lines(folder / "metrics.jsonl"))
    return Run(
        folder=folder,
        config=read_json(folder / "config.json") or {},
        summary=summary,
        metrics=_by_step(line for line in lines if "event" not in line and not line.get("look")),
        looks=_by_step(line for line in lines if "event" not in line and line.get("look")),
        skipped=read_skipped(folder / "skipped.csv"),
    )


def open_items(run: Run) -> Items:
    """The run's items, or RunError."""
    return Items.open(run.folder)


def read_skipped(path: Path) -> Skipped:
    """Count skipped.csv without holding it, by `reason` up to a colon; of a row the first other column is the name."""
    reasons: Counter[str] = Counter()
    rows: list[tuple[str, str]] = []
    if path.is_file():
        with path.open(encoding="utf-8", errors="backslashreplace", newline="") as file:
            for row in csv.DictReader(file):
                reason = str(row.get("reason") or "no reason given")
                reasons[reason.partition(":")[0][:200]] += 1
                if len(rows) < SKIPPED_ROWS:
                    name = next((str(value) for key, value in row.items() if key not in ("reason", None)), "")
                    rows.append((name, reason))
    return Skipped(reasons.total(), reasons.most_common(), rows)


def number(value: object) -> float | None:
    """A finite number as a float, anything else as None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 and math.isfinite(value) else None


def whole(value: object, default: int = 0) -> int:
    """A finite number as an int, anything else as the default."""
    found = number(value)
    return default if found is None else int(found)


def measure(value: object) -> dict[str, float] | None:
    """`{"value", "low", "high"}`, or a bare number, as three finite floats; None for anything else."""
    given = value if isinstance(value, Mapping) else {"value": value}
    middle = number(given.get("value"))
    if middle is None:
        return None
    low, high = number(given.get("low")), number(given.get("high"))
    return {"value": middle, "low": middle if low is None else low, "high": middle if high is None else high}


def part(value: object, *names: str) -> dict[str, Any]:
    """The mapping at `value[name][name]...`, empty where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def listed(value: object) -> list[Any]:
    """A list as it is, anything else as an empty one."""
    return value if isinstance(value, list) else []


def read_json(path: Path) -> dict[str, Any] | None:
    """A file's JSON object, None where there is no file, or RunError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise RunError(f"{path}: expected a JSON object, as tacit writes it")
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines; a line that a kill cut short is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


def _by_step(lines: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """In order of step, of each step the last line: a resumed run says some steps twice."""
    found = {whole(line.get("step")): line for line in lines if number(line.get("step")) is not None}
    return [found[step] for step in sorted(found)]
