"""Hashes by which a claim, or the code it ran with, is seen to have changed since.

Syntax trees without docstrings are hashed, so that a typo makes nothing stale and a change in nn/ does.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FLOORS = ("nn", "views", "losses", "data", "evaluate")
"""Shared parts that count by their code. The engines of training and claims count by the integer below."""
NAMES = ROOT / "nn" / "_encoders.py"
"""Encoders by name: part of the engine like building.py, or each new encoder would make old records stale."""
ENGINE = 1
"""Raised by hand when a change in training or claims moves results."""
FOR_PICTURES = ("Picture", "drawing")
"""Names of tacit.claims that bear no result."""
UNHASHED = ("says", "reported", "proxy")
"""Words of @claim that are for readers."""


def claim_hash(path: Path, function: str) -> str:
    """SHA-256 of a claim function and its decorator: what is compared, margin, budget, seeds."""
    for node in _tree(path).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return _digest([_dump(_for_programs(node))])
    raise LookupError(f"{path} has no function {function}")


def code_hash(paths: Iterable[Path]) -> str:
    """SHA-256 of the files, claims left out, of what they reach in the shared parts, and of the engine's number."""
    reached = sorted({file for path in paths for file in _reached(path)})
    return _digest([str(ENGINE), *(_file_dump(file) for file in reached)])


@cache
def texts_of(path: Path, function: str) -> frozenset[str]:
    """All texts in a claim function and in functions of its file that it calls: among them the ids that it trains."""
    known = {node.name: node for node in _tree(path).body if isinstance(node, ast.FunctionDef)}
    found, open_ = {function}, [function]
    while open_:
        names = {node.id for node in ast.walk(known[open_.pop()]) if isinstance(node, ast.Name)} & set(known)
        open_ += names - found
        found |= names
    nodes = (node for name in found for node in ast.walk(known[name]))
    return frozenset(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


@cache
def _reached(path: Path) -> frozenset[Path]:
    """The file and all files that it imports, directly or not, from the shared parts and from areas."""
    found, open_ = {path}, [path]
    while open_:
        for file in _imports(open_.pop()):
            if file not in found:
                found.add(file)
                open_.append(file)
    return frozenset(found)


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[Path]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tacit."):
            parts = node.module.split(".")[1:]
            if len(parts) > 1 or parts[0] in FLOORS or (ROOT / parts[0] / "__init__.py").exists():
                yield from _files(parts, [alias.name for alias in node.names])


def _files(parts: list[str], names: list[str]) -> Iterator[Path]:
    """The files in which `from tacit.PARTS import NAMES` finds the names: those that a package's __init__ names."""
    if parts[0] in ("claims", "cli", "store", "report"):
        return
    place = ROOT.joinpath(*parts)
    if place.with_suffix(".py") == NAMES:
        return
    if place.with_suffix(".py").exists():
        yield place.with_suffix(".py")
    elif place.is_dir():
        homes = _homes(place / "__init__.py")
        yield from (homes[name] for name in names if name in homes and homes[name] != NAMES)


@cache
def _homes(package: Path) -> dict[str, Path]:
    """Public name -> the file that defines it, from the imports of an __init__ or the literals of a lazy one."""
    homes: dict[str, Path] = {}
    for node in ast.walk(_tree(package)):
        if isinstance(node, ast.ImportFrom) and node.module:
            file = ROOT.joinpath(*node.module.split(".")[1:]).with_suffix(".py")
            homes |= {alias.asname or alias.name: file for alias in node.names if file.exists()}
        elif isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            for module, names in ast.literal_eval(node.value).items():
                homes |= dict.fromkeys(names, package.parent / f"{module}.py")
    return homes


@cache
def _tree(path: Path) -> ast.Module:
    """The file's syntax tree without docstrings and f-strings."""
    tree = _Plain().visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
    assert isinstance(tree, ast.Module)
    return tree


@cache
def _file_dump(path: Path) -> str:
    """The file's code, without claims, which have a hash of their own, and drawings, which bear no result."""
    kept = [node for node in _tree(path).body if not _is_claim(node)]
    return "\n".join(_dump(node) for node in kept)


def _is_claim(node: ast.stmt) -> bool:
    marks = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return any(isinstance(m, ast.Call) and getattr(m.func, "id", "") in ("claim", "checked", "drawing") for m in marks)


def _for_programs(node: ast.FunctionDef) -> ast.FunctionDef:
    """The claim without the words of its decorator that are for readers."""
    marks = [
        ast.Call(m.func, m.args[1:], [k for k in m.keywords if k.arg not in UNHASHED]) if isinstance(m, ast.Call) else m
        for m in node.decorator_list
    ]
    fields = dict(ast.iter_fields(node)) | {"decorator_list": marks}
    return ast.copy_location(ast.FunctionDef(**fields), node)


def _dump(node: ast.AST) -> str:
    """The code as Python writes it, which changes less between versions of Python than the tree does."""
    return ast.unparse(node)


class _Plain(ast.NodeTransformer):
    """Takes docstrings out of a syntax tree, those of attributes and constants too.

    And makes calls of f-strings, whose quotes versions of Python write in different ways.
    """

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        documents = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if documents else self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        """Without what drawings need, which may be added to a file at any time."""
        if node.module != "tacit.claims":
            return node
        node.names = [alias for alias in node.names if alias.name not in FOR_PICTURES]
        return node if node.names else None

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Call:
        return _call("fstring", [self.visit(part) for part in node.values])

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.Call:
        spec = [] if node.format_spec is None else [self.visit(node.format_spec)]
        return _call("formatted", [self.visit(node.value), ast.Constant(node.conversion), *spec])

    def visit(self, node: ast.AST) -> Any:
        node = super().visit(node)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.body:
            node.body = [ast.Pass()]
        return node


def _call(name: str, arguments: list[ast.expr]) -> ast.Call:
    return ast.Call(ast.Name(name), arguments, [])


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]
