"""The claims that there are, read from syntax trees: nothing is imported until one runs."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tacit import catalogue
from tacit.catalogue import Entry
from tacit.claims._hashes import claim_hash
from tacit.claims._marks import Claim, Drawing, Property
from tacit.errors import ArgumentError, expect, nearest, unknown

MARKS: dict[str, type[Claim | Property | Drawing]] = {"claim": Claim, "checked": Property, "drawing": Drawing}
"""Decorators by name."""


@dataclass(frozen=True)
class Found:
    """A claim function, a checked property, or a drawing, in a system's file."""

    system: str
    function: str
    mark: Claim | Property | Drawing
    entry: Entry
    """The first object with the system's id."""
    doc: str = ""
    """The function's docstring: how it is tested."""

    @property
    def id(self) -> str:
        """ID/function."""
        return f"{self.system}/{self.function}"

    @property
    def hash(self) -> str:
        return claim_hash(self.entry.source, self.function)

    def load(self) -> Callable[..., Any]:
        """Import the system's file and hand out the function."""
        return getattr(importlib.import_module(self.entry.module), self.function)


def find_claims(name: str | None = None, *, area: str | None = None) -> list[Found]:
    """All claims and checked properties, or those of a system (`byol`), one (`byol/better_than_random`), an area.

    Raises:
        ArgumentError: there is none of that name; the nearest is suggested.
    """
    every = [found for entry in catalogue.by_id().values() for found in read_claims(entry)]
    if area is not None:
        areas = sorted({found.entry.area for found in every})
        if area not in areas:
            raise unknown("area", area, areas)
        return [found for found in every if found.entry.area == area]
    if name is None:
        return every
    wanted = [found for found in every if name in (found.system, found.id)]
    systems = {entry.id for entry in catalogue.systems()}
    if not wanted and name not in systems:
        raise _no_such_claim(name, systems, every)
    return wanted


def _no_such_claim(name: str, systems: set[str], every: Sequence[Found]) -> ArgumentError:
    """The nearest system or claim is named, rather than all of some hundreds."""
    by_function = {found.function: found.id for found in every}
    guess = by_function.get(name) or nearest(name, {found.id for found in every} if "/" in name else systems)
    hint = f"did you mean {guess!r}?" if guess else "see: tacit claims show"
    return ArgumentError(f"name={name!r}: expected a system, such as dcl, or one claim of it, ID/claim; {hint}")


def find_claim(id: str) -> Found:
    """The one with this ID/function."""
    (found,) = find_claims(id)
    return found


def read_claims(entry: Entry) -> list[Found]:
    """The claims and checked properties of a system; in a file of several, those that name it, or the first's."""
    return [found for found in _read(entry) if not isinstance(found.mark, Drawing)]


def read_drawings(entry: Entry) -> list[Found]:
    """The drawings of a system, in the order of its file."""
    return [found for found in _read(entry) if isinstance(found.mark, Drawing)]


def _read(entry: Entry) -> list[Found]:
    return [found for found in _read_file(entry.source) if found.system == entry.id]


@cache
def _read_file(path: Path) -> tuple[Found, ...]:
    entries = [entry for entry in catalogue.systems() if entry.source == path]
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body:
        mark = _mark(node, path) if isinstance(node, ast.FunctionDef) else None
        if mark is not None and isinstance(node, ast.FunctionDef):
            owners = [entry for entry in entries if mark.system in (None, entry.id)]
            expect(f"system of {path.name}:{node.lineno}", mark.system, bool(owners), "an id of this file")
            found.append(Found(owners[0].id, node.name, mark, owners[0], ast.get_docstring(node) or ""))
    return tuple(found)


def _mark(node: ast.FunctionDef, path: Path) -> Claim | Property | Drawing | None:
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) in MARKS:
            kind = MARKS[call.func.id]  # type: ignore[attr-defined]
            try:
                words = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg is not None}
                return kind(ast.literal_eval(call.args[0]), **words)
            except (ValueError, TypeError) as error:
                raise ArgumentError(f"{path}:{call.lineno}: @{call.func.id} takes literals only: {error}") from error  # type: ignore[attr-defined]
    return None
