"""The catalogue: what ties a class or function to its paper, and lists all of them without importing any."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

from tacit.errors import ArgumentError, unknown

T = TypeVar("T")
Kind = Literal["learner", "estimator", "loss", "layer", "function"]
AREAS = (
    *("pretrain", "multimodal", "metric", "cluster", "fewlabels", "robust", "adapt", "analysis", "anomaly", "unlearn"),
    *("continual", "compress", "transfer", "generate", "restore", "curate", "layers", "applications", "theory"),
    "losses",
)
LEVELS = ("method", "mechanism", "protocol", "entry", "baseline")


def system(
    id: str, *, paper: str, modality: str | tuple[str, ...], level: str = "method", kind: str | None = None
) -> Callable[[T], T]:
    """Enter a class or function in the catalogue.

    The arguments are literals, since `systems()` reads them from the syntax tree and imports nothing.

    Args:
        id: the name on the command line, such as `"byol"`; several objects may carry it, the first is the one that
            `--method` takes.
        paper: `"arXiv:2006.07733"`, a DOI, or author, title and year where neither exists.
        modality: what it works on: image, text, audio, table, series, graph, points, features, any.
        level: `method` (the whole published method), `mechanism` (its core at small scale), `protocol` (a study or
            benchmark as a harness), `entry` (a survey or data set as what a user would call) or `baseline`.
        kind: said where it does not follow from the base class: `"loss"` or `"layer"`.
    """
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)

    def enter(target: T) -> T:
        target.system_id = id  # type: ignore[attr-defined]
        return target

    return enter


@dataclass(frozen=True)
class Entry:
    """One object of the catalogue, as its source file states it."""

    id: str
    paper: str
    modality: tuple[str, ...]
    level: str
    kind: str
    area: str
    name: str
    """The public name, such as `BYOL` in `tacit.pretrain.BYOL`."""
    module: str
    summary: str
    """First line of its docstring."""
    source: Path

    def load(self) -> Any:
        """Import the file and hand out the object."""
        return getattr(importlib.import_module(self.module), self.name)


@cache
def systems() -> tuple[Entry, ...]:
    """Every registered object: tacit's own in the order of area and file, then those of installed packages.

    A package adds its own through the entry point group `tacit.systems`, whose value names the module to read.
    """
    root = Path(__file__).parent
    found = [
        entry
        for area in AREAS
        for path in sorted((root / area).glob("_*.py"))
        if path.stem != "__init__"
        for entry in read_entries(path, area, f"tacit.{area}.{path.stem}")
    ]
    for point in entry_points(group="tacit.systems"):
        spec = importlib.util.find_spec(point.value)
        if spec is not None and spec.origin is not None:
            found += read_entries(Path(spec.origin), point.name, point.value)
    return tuple(found)


def by_id() -> dict[str, Entry]:
    """One entry an id, the first, in the order of the catalogue.

    >>> by_id()["byol"].name
    'BYOL'
    """
    found: dict[str, Entry] = {}
    for entry in systems():
        found.setdefault(entry.id, entry)
    return found


def find(id: str) -> Entry:
    """The entry with this id (the first, where several objects carry it).

    Raises:
        ArgumentError: no such system; the nearest name is suggested.
    """
    for entry in systems():
        if entry.id == id:
            return entry
    raise unknown("method", id, {entry.id for entry in systems()})


def read_entries(path: Path, area: str, module: str) -> list[Entry]:
    """The entries in one source file, from its syntax tree; nothing is imported or run."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    found = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "system":
                found.append(_entry(node, decorator, path, area, module))
    return found


def _entry(node: ast.ClassDef | ast.FunctionDef, call: ast.Call, path: Path, area: str, module: str) -> Entry:
    try:
        (id,) = (ast.literal_eval(argument) for argument in call.args)
        said = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError as error:
        raise ArgumentError(f"{path}:{call.lineno}: @system takes one id and keywords, all of them literals") from error
    modality = said["modality"]
    return Entry(
        id=id,
        paper=said["paper"],
        modality=(modality,) if isinstance(modality, str) else tuple(modality),
        level=said.get("level", "method"),
        kind=said.get("kind") or _kind(node),
        area=area,
        name=node.name,
        module=module,
        summary=(ast.get_docstring(node) or "").split("\n")[0],
        source=path,
    )


def _kind(node: ast.ClassDef | ast.FunctionDef) -> str:
    if isinstance(node, ast.FunctionDef):
        return "function"
    bases = " ".join(ast.unparse(base) for base in node.bases)
    return "estimator" if "BaseEstimator" in bases or "Mixin" in bases else "learner"
