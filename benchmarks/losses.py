"""Every loss of the catalogue on one page: formula, values and gradients at telling inputs, cost, reference check.

    python benchmarks/losses.py cost     # time and memory of those that benchmarks/losses.json lacks; all with --again
    python benchmarks/losses.py page     # -> docs/losses.md

Cost is that of loss and gradient for 1,024 items of 128 dimensions (or classes) on one thread: the median ratio of
processor seconds over 15 pairs in turns, which holds on a busy machine too, and the ratio of the most bytes in tensors.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import re
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from tacit import losses
from tacit.catalogue import systems

ROOT = Path(__file__).parents[1]
COSTS, PAGE = ROOT / "benchmarks/losses.json", ROOT / "docs/losses.md"
SHARED = ("InfoNCE", "NTXent", "KoLeoLoss")
N, DIM, PAIRS = 1024, 128, 15
FEW = 64
"""Items at which values and gradients are looked at."""
STEPS = 1000
"""Of Adam, on the way to a loss's lowest and highest value."""
SURE = 10.0
"""The logit of a class that a classifier is sure of."""

Inputs = tuple[Tensor, ...]


def names() -> list[str]:
    """The shared losses, then those of the catalogue, as `tacit.losses` hands them on."""
    return [*SHARED, *dict.fromkeys(entry.name for entry in systems() if entry.kind == "loss")]


# inputs ---------------------------------------------------------------------------------------------------------------


def pairs(n: int, dim: int) -> dict[str, Inputs]:
    """Two embeddings an item, on the sphere."""
    generator = torch.Generator().manual_seed(0)
    a, b = (nn.functional.normalize(torch.randn(n, dim, generator=generator)) for _ in range(2))
    apart = nn.functional.normalize(torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0])[:n]
    alike = a[:1].expand(n, dim)
    return {"perfect": (apart, apart), "random": (a, b), "opposite": (apart, -apart), "alike": (alike, alike)}


def logits(n: int, dim: int) -> dict[str, Inputs]:
    """Logits of `dim` classes and the class of each item."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, dim, (n,), generator=generator)
    right = SURE * nn.functional.one_hot(y, dim).float()
    wrong = SURE * nn.functional.one_hot((y + 1) % dim, dim).float()
    drawn = torch.randn(n, dim, generator=generator)
    return {"perfect": (right, y), "random": (drawn, y), "opposite": (wrong, y), "alike": (torch.zeros(n, dim), y)}


def single(n: int, dim: int) -> dict[str, Inputs]:
    """The first embedding of each item."""
    return {where: given[:1] for where, given in pairs(n, dim).items()}


INPUTS: dict[tuple[str, ...], Callable[[int, int], dict[str, Inputs]]] = {
    ("z",): single,
    ("a", "b"): pairs,
    ("queries", "keys"): pairs,
    ("query", "document"): pairs,
    ("frozen", "trained"): pairs,
    ("logits", "y"): logits,
    ("scores", "y"): logits,
}
"""What a loss is looked at with, by the names of its first two inputs."""


def inputs_of(loss: nn.Module) -> Callable[[int, int], dict[str, Inputs]]:
    taken = tuple(inspect.signature(loss.forward).parameters)[:2]
    if taken not in INPUTS:
        raise SystemExit(f"{type(loss).__name__} takes {taken}: add its inputs to INPUTS of benchmarks/losses.py")
    return INPUTS[taken]


def behaviour(loss: nn.Module, inputs: Inputs) -> tuple[float, float]:
    """The loss, and the norm of an item's gradient: the mean of n |d loss / d row| over the rows of the first input."""
    first = inputs[0].detach().clone().requires_grad_()
    value = loss(first, *inputs[1:])
    value.backward()
    return float(value.detach()), float(len(first) * first.grad.norm(dim=1).mean())


def reach(loss: nn.Module, inputs: Inputs, sign: int) -> str:
    """The lowest (sign 1) or highest (-1) value that Adam finds from here, and whether it would go on."""
    moved = [given.detach().clone().requires_grad_(given.is_floating_point()) for given in inputs]
    optimizer = torch.optim.Adam([given for given in moved if given.requires_grad], lr=0.1)
    values = []
    for _ in range(STEPS):
        value = loss(*moved)
        optimizer.zero_grad()
        (sign * value).backward()
        optimizer.step()
        values.append(float(value.detach()))
    goes_on = abs(values[-1] - values[-STEPS // 10]) > 0.01 * max(abs(values[-1]), 1)
    return short(values[-1]) + (", going on" if goes_on else "")


# cost -----------------------------------------------------------------------------------------------------------------


def call_of(name: str) -> Callable[[], None]:
    loss = getattr(losses, name)()
    given = inputs_of(loss)(N, DIM)["random"]
    first, *others = (one.clone().requires_grad_(one.is_floating_point()) for one in given)

    def call() -> None:
        first.grad = None
        loss(first, *others).backward()

    return call


def cost(name: str) -> dict[str, float]:
    """Time and peak memory over those of InfoNCE."""
    if name == "InfoNCE":
        return {"time": 1.0, "memory": 1.0}
    ours, theirs = call_of(name), call_of("InfoNCE")
    ours(), theirs()
    ratios = []
    for number in range(PAIRS):
        took = {}
        for side in (ours, theirs) if number % 2 else (theirs, ours):
            start = time.process_time()
            side()
            took[side] = time.process_time() - start
        ratios.append(took[ours] / took[theirs])
    return {"time": round(statistics.median(ratios), 2), "memory": round(peak(name) / peak("InfoNCE"), 2)}


def peak(name: str) -> int:
    """Bytes of tensors at most, as torch's profiler counts them."""
    call = call_of(name)
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    changes = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(changes))


def measure(again: bool) -> None:
    torch.set_num_threads(1)
    known = {} if again or not COSTS.exists() else json.loads(COSTS.read_text())["losses"]
    found = {name: known.get(name) or cost(name) for name in names()}
    said = {"date": date.today().isoformat(), "n": N, "dim": DIM, "threads": 1, "losses": found}
    COSTS.write_text(json.dumps(said, indent=2) + "\n")


# page -----------------------------------------------------------------------------------------------------------------

HEAD = f"""# Losses

Every loss here, whatever area it lives in, is `tacit.losses.NAME`, loaded when it is first named. This page is written
by `python benchmarks/losses.py page`.

Values and gradients are measured with default arguments on {FEW} items of {DIM} dimensions (of {DIM} classes, where a
loss takes logits). *perfect*: the two embeddings of an item are equal, and orthogonal to those of all others; a logit
of {SURE:g} on the right class. *random*: drawn independently. *opposite*: the two embeddings of an item point in
opposite directions; the {SURE:g} lies on a wrong class. *alike*: all embeddings are the same; all logits are. A loss
that takes one embedding an item gets the first of the two. The gradient is the mean norm of an item's own, with respect
to its embedding of norm 1 or its logits. The range is what {STEPS:,} steps of Adam find, down and up. Cost is loss and
gradient for {N:,} items, over InfoNCE's, on one thread.
"""


def page() -> str:
    costs = json.loads(COSTS.read_text())["losses"]
    rows, sections = [], []
    for name in names():
        loss = getattr(losses, name)()
        seen = {where: behaviour(loss, given) for where, given in inputs_of(loss)(FEW, DIM).items()}
        values, norms = ([short(pair[which]) for pair in seen.values()] for which in (0, 1))
        taken = costs.get(name) or {"time": "not measured", "memory": "not measured"}
        ends = " to ".join(reach(loss, inputs_of(loss)(FEW, DIM)["random"], sign) for sign in (1, -1))
        rows.append([f"[{name}](#{name.lower()})", *values, ends, *norms, taken["time"], taken["memory"] or "< 0.01"])
        sections.append(section(name))
    titles = ["loss", *seen, "range", *(f"gradient, {where}" for where in seen), "time", "memory"]
    table = [line(titles), "|" + "---|" * len(titles), *map(line, rows)]
    return "\n".join([HEAD, *table, "", *sections])


def section(name: str) -> str:
    kind = getattr(losses, name)
    entry = next((entry for entry in systems() if entry.name == name), None)
    given = ", ".join(f"{one.name}={one.default!r}" for one in inspect.signature(kind).parameters.values())
    home = f"`tacit.{entry.area if entry else 'losses'}.{name}({given})`" + (f", {entry.paper}." if entry else ".")
    checked = ", ".join(f"[{path}](../{path})" for path in checks(name))
    return "\n\n".join([f"## {name}", home, *documentation(kind), f"Checked by {checked}."]) + "\n"


def documentation(kind: type) -> list[str]:
    """What leads to the equation, and the equation: the docstring up to its first indented block.

    A class that only says which function it is a module of has that function's.
    """
    text = inspect.getdoc(kind) or ""
    refers = re.match(r"`(\w+)` as a module", text)
    if refers:
        home = losses if hasattr(losses, refers[1]) else inspect.getmodule(kind)
        text = inspect.getdoc(getattr(home, refers[1])) or ""
    paragraphs = text.split("\n\n")
    blocks = [number for number, part in enumerate(paragraphs) if part.startswith("    ")]
    return paragraphs[: blocks[0] + 1] if blocks else paragraphs[:1]


def checks(name: str) -> list[str]:
    """The tests that name the loss: its reference check, found as the battery finds it."""
    paths = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "common" not in path.parts]
    named = [path for path in paths if re.search(rf"\b{name}\b", path.read_text()) and path.name != "test_page.py"]
    return [path.relative_to(ROOT).as_posix() for path in named]


def short(value: float) -> str:
    return "0" if abs(value) < 1e-5 else f"{value:.3g}"


def line(cells: list[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "page"))
    parser.add_argument("--again", action="store_true", help="measure all anew")
    options = parser.parse_args()
    if options.what == "cost":
        measure(options.again)
    else:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
