"""The marks of a system's file: a claim, a baseline's checked property, and a drawing for its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from tacit.errors import expect

if TYPE_CHECKING:
    from PIL import Image

Picture: TypeAlias = "Image.Image"
"""What a drawing hands out."""
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Claim:
    """What the decorator says of a claim function."""

    says: str
    reported: str
    proxy: str | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    seeds: int = 5
    system: str | None = None


@dataclass(frozen=True)
class Property:
    """What the decorator says of a checked property."""

    says: str
    tolerance: float
    system: str | None = None


@dataclass(frozen=True)
class Drawing:
    """What the decorator says of a drawing function."""

    says: str
    steps: Mapping[str, int] = field(default_factory=dict)
    system: str | None = None


def claim(
    says: str,
    *,
    reported: str,
    proxy: str | None = None,
    steps: Mapping[str, int] | None = None,
    seeds: int = 5,
    system: str | None = None,
) -> Callable[[F], F]:
    """Mark a function `(bench) -> Comparison` as the re-test of a paper's claim.

    All that could be bent afterwards stands here or in the function, before it is run: what is compared, the margin,
    the budget and the number of seeds. Every record carries a hash of it.

    Args:
        says: the claim in a sentence.
        reported: the paper's own number and where it stands.
        proxy: what is tested instead, where the claim cannot be re-tested at this size.
        steps: optimiser steps of each side by budget, such as `{"small": 300, "full": 20_000}`; `full` is 20 times
            `small` where it is left out. Set from step times on a quiet machine: at `small` at most 45 s per side and
            seed.
        seeds: how many, at least 5.
        system: id of the system, where the file holds several and it is not the first.
    """
    expect("seeds", seeds, seeds >= 5, "at least 5", "the interval of fewer is too wide to say anything")

    def mark(function: F) -> F:
        function.claim = Claim(says, reported, proxy, dict(steps or {}), seeds, system)  # type: ignore[attr-defined]
        return function

    return mark


def checked(says: str, *, tolerance: float, system: str | None = None) -> Callable[[F], F]:
    """Mark a function `() -> (measured, expected)` as a checked property, in place of a baseline's or entry's claim."""

    def mark(function: F) -> F:
        function.checked = Property(says, tolerance, system)  # type: ignore[attr-defined]
        return function

    return mark


def drawing(says: str, *, steps: Mapping[str, int] | None = None, system: str | None = None) -> Callable[[F], F]:
    """Mark a function `(bench, trial) -> Picture` as a picture for the system's page, made by `tacit claims draw`.

    It gets the bench, for its data, and the trial of seed 0, so that what a claim trained by `trial.pretrained` is
    drawn, not trained again; `trial.sheet` puts pictures side by side, `trial.plot` draws curves.

    Args:
        says: what is seen, and what to look for.
        steps: as in `claim`, where something is trained for the picture.
        system: id of the system, where the file holds several and it is not the first.
    """

    def mark(function: F) -> F:
        function.drawing = Drawing(says, dict(steps or {}), system)  # type: ignore[attr-defined]
        return function

    return mark
