"""Claims: what a paper says of its system, as a function that anyone can run, and the record of what came out.

This module is light: it holds the decorators, the comparison with its verdict, and the record. `Bench` is the interface
that a claim function is written against.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from tacit.errors import expect

Verdict = Literal["holds", "fails", "unclear"]
RECORD_FORMAT = 1

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Claim:
    """What the decorator says of a claim function."""

    says: str
    reported: str
    proxy: str | None = None
    """What is tested in the paper's stead, where its own test cannot be run at these sizes."""


@dataclass(frozen=True)
class Property:
    """What the decorator says of a checked property."""

    says: str
    tolerance: float


def claim(says: str, *, reported: str, proxy: str | None = None) -> Callable[[F], F]:
    """Mark a function `(bench) -> Comparison` as the re-test of a paper's claim.

    Args:
        says: the claim in a sentence.
        reported: the paper's own number and where it stands.
        proxy: what is tested instead, where the claim cannot be re-tested at this size.
    """

    def mark(function: F) -> F:
        function.claim = Claim(says, reported, proxy)  # type: ignore[attr-defined]
        return function

    return mark


def checked(says: str, *, tolerance: float) -> Callable[[F], F]:
    """Mark a function `() -> (measured, expected)` as a baseline's checked property, in place of a claim."""

    def mark(function: F) -> F:
        function.checked = Property(says, tolerance)  # type: ignore[attr-defined]
        return function

    return mark


class Bench(Protocol):
    """What a claim function may ask for: named data at a size, and a fair comparison with a baseline."""

    def images(self, name: str, *, size: int, n: int | None = None) -> Any:
        """A named set of images, whose split and subset the seed draws."""

    def compare(
        self,
        system: type | Callable[..., Any],
        *,
        baseline: str,
        data: Any,
        by: str,
        better_by: float | None = None,
        not_worse_by: float | None = None,
        **settings: Any,
    ) -> Comparison:
        """Train system and baseline on the same data with equal steps and seeds, and score both by `by`."""


@dataclass(frozen=True)
class Comparison:
    """Scores of a system and of its baseline on the same seeds, and the margin set before they were run.

    Args:
        values: the system's score per seed, higher is better.
        baseline_values: the baseline's, on the same seeds in the same order.
        margin: the least mean difference that the claim asks for: 0 for better-by claims without a size, -0.02 for
            not-worse-by 0.02.

    >>> Comparison([0.71, 0.73, 0.72, 0.74, 0.72], [0.68, 0.69, 0.70, 0.69, 0.69]).verdict
    'holds'
    """

    values: Sequence[float]
    baseline_values: Sequence[float]
    margin: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pairs = (len(self.values), len(self.baseline_values))
        expect("values", pairs, pairs[0] == pairs[1] >= 2, "as many seeds on both sides, at least 2")

    @property
    def effect(self) -> float:
        """Mean paired difference."""
        return sum(self._differences) / len(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean paired difference, by Student's t."""
        from scipy.stats import t

        n = len(self.values)
        variance = sum((d - self.effect) ** 2 for d in self._differences) / (n - 1)
        half = float(t.ppf(0.975, n - 1)) * math.sqrt(variance / n)
        return self.effect - half, self.effect + half

    @property
    def verdict(self) -> Verdict:
        """`holds` if the whole interval lies above the margin, `fails` if it lies below, else `unclear`."""
        low, high = self.interval
        return "holds" if low > self.margin else "fails" if high < self.margin else "unclear"

    @property
    def _differences(self) -> list[float]:
        return [a - b for a, b in zip(self.values, self.baseline_values, strict=True)]


@dataclass(frozen=True)
class Record:
    """One run of a claim, as a line of evidence/ID.jsonl."""

    system: str
    claim: str
    """ID/function."""
    level: str
    kind: str
    proxy: str | None
    verdict: Verdict
    effect: float
    interval: tuple[float, float]
    values: Sequence[float]
    baseline_values: Sequence[float]
    seeds: Sequence[int]
    baseline: str
    margin: float
    reported: str
    budget: str
    steps: int | None
    device: str
    threads: int
    versions: Mapping[str, str]
    commit: str
    claim_hash: str
    code_hash: str
    data_hash: str
    reseed: bool
    date: str
    format: int = RECORD_FORMAT

    def append(self, folder: str | Path) -> Path:
        """Add the record to `folder/SYSTEM.jsonl`, after those that are there."""
        path = Path(folder) / f"{self.system}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self)) + "\n")
        return path


def read_records(path: str | Path) -> list[Record]:
    """The records of one evidence file, oldest first."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [Record(**{**json.loads(line), "interval": tuple(json.loads(line)["interval"])}) for line in lines if line]


def source_hash(function: Callable[..., Any]) -> str:
    """SHA-256 of a claim function's source: an edited claim shows."""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
