"""plan: what `learn` found and will do, before it does anything."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tacit import catalogue
from tacit.building import (
    build,
    closed_form,
    constructor_arguments,
    learner_class,
    read_columns,
    wanted_columns,
)
from tacit.checkpoints import differences, read_config
from tacit.data import Dataset, Source
from tacit.data import open as open_data
from tacit.embedding import embed
from tacit.errors import DataError, RunError, expect
from tacit.learner import Learner, encoder_of
from tacit.nn import encoder as make_encoder
from tacit.recipes import Change, Machine, Recipe, choose, larger, recipe, usual_methods, with_change
from tacit.runs import load_encoder, network_of
from tacit.settings import LearnSettings
from tacit.training import Callback, fit, held_out_count
from tacit.views import mirror_changes_meaning, without_flips

MINUTES = {"cpu": 10.0, "cuda": 30.0}
OVERHEAD = 1.08
"""Looks at health, checkpoints and logging, over the bare step."""

CPU_SIZE = 32
"""Side in pixels at which networks are trained on a CPU, where nobody says another: larger ones see too few images."""

OF_STEPS = ("epochs", "max_steps", "batch_size", "lr", "optimizer", "weight_decay")
"""Settings that a method in closed form has no use for."""

LOCAL = ("data", "out", "overwrite", "verbose", "checkpoint_every", "threads", "num_workers")
"""Settings that do not change what a run is."""


@dataclass(frozen=True)
class Finished:
    """A run that is there already, made with the same settings of the same items."""

    settings: LearnSettings
    folder: Path
    learned_from: str
    """Where these items lay when the run learned from them."""
    state: str = "finished"

    def lines(self) -> list[str]:
        """In words."""
        there = self.learned_from in ("", where_of(self.settings.data))
        elsewhere = "" if there else f" It learned from the same items, which lay in {self.learned_from}."
        return [f"{self.folder} is finished: nothing to do.{elsewhere} To learn anew, give another out, or overwrite."]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"state": self.state, "out": str(self.folder), "settings": self.settings.as_dict()}


@dataclass(frozen=True)
class Plan:
    """What `learn` found and will do."""

    settings: LearnSettings
    folder: Path
    state: str
    """`new` or `resume`."""
    machine: Machine
    source: Source
    recipe: Recipe
    why: str
    """Why this method."""
    flip: bool = True
    """Whether views may be mirrored."""
    steps: int = 0
    """0 for a method in closed form."""
    epochs: float = 0.0
    seconds: float | None = None
    """Of training, as measured here; None where nothing was measured."""

    @property
    def n(self) -> int:
        return len(self.source.dataset)

    @property
    def batch_size(self) -> int:
        return int(self.recipe.training.get("batch_size", 256))

    @property
    def accelerator(self) -> str:
        return "cpu" if self.machine.device == "cpu" else "auto"

    def learner(self) -> Learner:
        """The learner with its initial weights: random ones from the seed, or those that `init` names."""
        settings, encoder, config = self.settings, None, self.recipe.encoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            if settings.init is not None:
                expect("init", settings.init, config is not None, "a method that takes an encoder")
                encoder = load_encoder(settings.init, config=config, image_size=self.source.image_size)
            elif config is not None:
                encoder = make_encoder(**config)
        method, arguments = self.recipe.method, self.recipe.arguments
        learner = build(method, self.source.description, encoder=encoder, arguments=arguments, seed=settings.seed)
        if not self.flip:
            without_flips(learner)
        return learner

    def ready(self) -> tuple[Learner, Dataset]:
        """The learner, what it reads items by fitted to them, and the items as it reads them."""
        learner, source = self.learner(), self.source
        fitted = self.settings.init is not None  # weights belong to the vocabulary they were trained with
        wanted = set(wanted_columns(type(learner)))
        raw = source.pairs() if {"image", "text"} <= wanted else source.columns()
        if "image" in wanted - raw.keys() and source.modality == "image":
            raw = {"image": raw["x"]}  # of a method for pairs that reads the images alone
        columns = read_columns(learner, raw, fitted=fitted)
        needs = ", ".join(sorted(wanted - {*columns, "index"}))
        remedy = f"this one needs data with {needs}"
        expect("method", self.recipe.method, not needs, f"one for {source.modality} data", remedy)
        if raw.keys() == {"x"}:
            return learner, source.dataset
        tensors = {name: rows for name, rows in columns.items() if not isinstance(rows, list)}  # texts stay behind
        return learner, Dataset(tensors, modality=source.modality, fingerprint=source.dataset.fingerprint)

    def lines(self) -> list[str]:
        """In words: what was found and what will be done."""
        entry = catalogue.find(self.recipe.method)
        lines = [*self.settings.notes, *self.source.describe()]
        lines.append(f"method: {entry.id}, {self.why}. {entry.summary}")
        start = f", starting from {self.settings.init}" if self.settings.init is not None else ""
        lines.append(f"model: {_network(self.recipe.encoder)}{start}")
        lines.append(self._length())
        unused = [name for name in OF_STEPS if getattr(self.settings, name) is not None and not self.steps]
        if unused:
            lines.append(f"without effect, since a closed form takes no steps: {', '.join(unused)}")
        if self.steps and self.machine.device == "cpu":
            network = (self.recipe.encoder or {}).get("name", "")
            free = network and self.settings.model == "auto" and self.settings.init is None  # nobody has chosen it
            change = f"{larger(network)} in place of {network}, and " if free and larger(network) != network else ""
            lines.append(f"a GPU would change: {change}30 minutes if none are given")
        if self.recipe.changes:
            lines += ["changed from the paper's settings:", *(f"  {change}" for change in self.recipe.changes)]
        if self.state == "resume":
            lines.append(f"going on with the unfinished run in {self.folder}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "state": self.state,
            "out": str(self.folder),
            "settings": self.settings.as_dict(),
            "data": dict(self.source.description) | {"skipped": len(self.source.skipped)},
            "method": self.recipe.method,
            "why": self.why,
            "encoder": self.recipe.encoder,
            "arguments": self.recipe.arguments,
            "training": self.recipe.training,
            "steps": self.steps,
            "epochs": round(self.epochs, 2),
            "expected_minutes": None if self.seconds is None else round(self.seconds / 60, 2),
            "machine": self.machine.name,
            "changes": [vars(change) for change in self.recipe.changes],
        }

    def _length(self) -> str:
        size = f"{self.n:,} items of {self.source.image_size} pixels" if self.source.image_size else f"{self.n:,} items"
        time = "" if self.seconds is None else f", about {max(self.seconds / 60, 0.1):.1f} minutes"
        if not self.steps:
            return f"length: {size}, solved in closed form on {self.machine.name}{time}"
        return (
            f"length: {self.steps:,} steps of {self.batch_size} out of {size} ({self.epochs:.1f} epochs) "
            f"on {self.machine.name}{time}"
        )


def plan(settings: LearnSettings, source: Source | None = None) -> Plan | Finished:
    """Open the data, choose what was left open, and time a step where the length is given in minutes. Writes nothing.

    Args:
        settings: of the run.
        source: the data, where it is open already, or is a part of what `settings.data` names.

    Raises:
        as `tacit.learn`.
    """
    folder, machine = Path(settings.out), Machine.here(settings.devices)
    saved = read_config(folder) if (folder / "config.json").exists() and not settings.overwrite else None
    if saved is not None:
        _expect_same(folder, saved, settings)
    source = open_for(settings, machine, saved) if source is None else source
    if saved is not None:
        expect_same_items(folder, saved, settings.data, source)
        if is_finished(folder):
            return Finished(settings, folder, saved.get("made", {}).get("data", ""))
    description = source.description
    if description["n"] < 2:
        where = str(settings.data)
        raise DataError(f"data={where!r}: one item; expected at least 2 to learn from (`tacit embed` takes one)")
    minutes = settings.minutes or (None if settings.epochs or settings.max_steps else MINUTES[machine.device])
    method, why = settings.method, "you asked for it"
    if method == "auto":
        method, why = choose(description, machine, minutes)
        if settings.init is not None and "encoder" not in constructor_arguments(learner_class(method)):
            method, why = (
                _method_from_weights(description["modality"]),
                "the best measured one that starts from weights",
            )
    _expect_no_labels(method)
    given = {name: getattr(settings, name) for name in ("batch_size", "lr", "optimizer", "weight_decay")}
    made = recipe(
        method,
        description,
        machine,
        model=_model(settings),
        arguments=settings.arguments,
        given={name: value for name, value in given.items() if value is not None},
        precision=settings.precision,
    )
    started_from = _started_from(settings)
    if started_from is not None and made.encoder is not None:
        size = {"image_size": source.image_size} if source.image_size else {}
        grey = {"in_channels": source.channels} if str(settings.init).startswith("tacit:") else {}
        made = replace(made, encoder={**started_from, **size, **grey})
    elif settings.image_size is None and source.image_size and _trains_on_cpu(settings, machine):
        reason = "a step costs a CPU as much as the pixels are many; --image-size sets another"
        made = _changed(made, Change("image_size", "the paper's or the pictures' own", CPU_SIZE, reason))
    flip = _may_flip(settings, source)
    if not flip and settings.flip == "auto":
        reason = "mirrored, the pictures are unlike the data; --flip on has them mirrored all the same"
        made = _changed(made, Change("flip", "half of the views", "none", reason))
    state = "new" if saved is None else "resume"
    return _with_length(Plan(settings, folder, state, machine, source, made, why, flip), saved, minutes)


def comparable(settings: LearnSettings) -> dict[str, Any]:
    """The settings that make a run what it is."""
    return {name: value for name, value in settings.as_dict().items() if name not in LOCAL}


def is_finished(folder: Path) -> bool:
    """Whether a run is trained and surveyed, so that making its items anew would drop those that came since.

    The survey ends with summary.json; the page and the card, which are made from it, may be missing.
    """
    return all((folder / name).exists() for name in ("model.safetensors", "items.lance", "summary.json"))


def expect_same_items(folder: Path, saved: Mapping[str, Any], data: Any, source: Source) -> None:
    """That the data is what a run learned from: the same contents in the same order, wherever they lie.

    Raises:
        RunError: it is other data, or has changed since.
    """
    known = saved.get("data", {}).get("fingerprint")
    if known in (None, source.dataset.fingerprint):
        return
    then, now = saved.get("made", {}).get("data") or "other data", where_of(data)
    description = saved.get("made", {}).get("description", {})
    n, size = description.get("n"), description.get("image_size")
    place = f"{then}, not of {now}"
    if then == now and size != source.image_size:
        place = f"{now} at {size} pixels, not at {source.image_size}"
    elif then == now:
        place = f"{now}, which has changed since" if then.startswith(("/", "demo")) else f"another {now}"
    raise RunError(
        f"out={str(folder)!r} holds a run of {'items' if n is None else f'{n:,} items'} of {place} ({len(source):,} "
        "items); give another out to learn from these, `tacit add` to take those that are new into the run, or "
        "overwrite to set it aside and start anew"
    )


def where_of(data: Any) -> str:
    """Where data lies, absolute; of data in memory its type."""
    if isinstance(data, str | Path):
        return str(data) if str(data).split(":")[0] == "demo" else str(Path(data).absolute())
    return type(data).__name__


def open_for(
    settings: LearnSettings,
    machine: Machine,
    saved: Mapping[str, Any] | None = None,
    *,
    like: Mapping[str, Any] | None = None,
) -> Source:
    """The data, read as these settings ask for, at the size that a run of the config `saved` has, on any machine.

    Args:
        like: as `tacit.data.open`'s.
    """
    read = (saved or {}).get("made", {}).get("description", {})
    usual = read.get("image_size") or (CPU_SIZE if _trains_on_cpu(settings, machine) else None)
    return open_data(
        settings.data,
        modality=settings.modality or ("video" if _learns_from_clips(settings.method) else None),
        image_size=settings.image_size or (_started_from(settings) or {}).get("image_size", usual),
        labels=settings.labels,
        on_error=settings.on_error,
        num_workers=settings.num_workers,
        like=like,
    )


def _learns_from_clips(method: str) -> bool:
    return method != "auto" and "clip" in wanted_columns(learner_class(method))


def _may_flip(settings: LearnSettings, source: Source) -> bool:
    if settings.flip != "auto" or source.modality != "image":
        return settings.flip != "off"
    some = torch.randperm(len(source), generator=torch.Generator().manual_seed(settings.seed))[:1000]
    if "clip" in source.dataset:  # the next frame is always nearer than a mirrored one: look at one frame of each clip
        some = torch.from_numpy(np.unique(source.dataset["clip"][:], return_index=True)[1])
    return not mirror_changes_meaning(source.dataset["x"][some])


def _trains_on_cpu(settings: LearnSettings, machine: Machine) -> bool:
    return machine.device == "cpu" and settings.method != "auto" and not closed_form(learner_class(settings.method))


def _expect_same(folder: Path, saved: Mapping[str, Any], settings: LearnSettings) -> None:
    # a setting that this version added was at its default when an earlier one made the run
    defaults = comparable(LearnSettings(data="-")) if saved.get("settings") else {}
    changed = differences({"settings": {**defaults, **saved.get("settings", {})}}, {"settings": comparable(settings)})
    if changed:
        listed = "; ".join(change.removeprefix("settings.") for change in changed)
        raise RunError(
            f"out={str(folder)!r} holds a run with other settings ({listed}); give another out, the same settings to "
            "go on with it, or overwrite to set it aside and start anew"
        )


def _method_from_weights(modality: str) -> str:
    """The first of what auto.json lists for comparisons that takes an encoder."""
    takes = (name for name in usual_methods(modality) if "encoder" in constructor_arguments(learner_class(name)))
    return next(takes, "simclr")


def _expect_no_labels(method: str) -> None:
    needed = wanted_columns(learner_class(method))
    ok = "y" not in needed
    remedy = "this one needs y: label items with `tacit label`, or call tacit.fit in Python"
    expect("method", method, ok, "one that learns without labels", remedy)


def _started_from(settings: LearnSettings) -> dict[str, Any] | None:
    """The network whose weights `--init` names, unless another model is asked for."""
    named = settings.init is not None and settings.model == "auto"
    return network_of(str(settings.init)) if named else None


def _model(settings: LearnSettings) -> str:
    """`--init timm:NAME` says which network, too."""
    named = settings.init is not None and settings.init.partition(":")[0] in ("timm", "hf")
    return str(settings.init) if settings.model == "auto" and named else settings.model


def _with_length(made: Plan, saved: Mapping[str, Any] | None, minutes: float | None) -> Plan:
    """Fix the number of steps: that of the run that goes on, as given, or from the step time measured now."""
    settings = made.settings
    kind = learner_class(made.recipe.method)
    if closed_form(kind):
        return _sized(made, kind, minutes, saved)
    expect("batch_size", made.batch_size, made.batch_size <= made.n, f"at most the {made.n:,} items of the data")
    per_epoch = (made.n - held_out_count(kind, made.n, made.batch_size)) // made.batch_size
    if saved is not None:
        steps, seconds = int(saved["steps"]), saved["made"].get("seconds")
    elif minutes is None:
        steps, seconds = settings.max_steps or per_epoch * int(settings.epochs or 1), None
    else:
        each = step_seconds(made) * OVERHEAD
        steps = max(1, int(minutes * 60 / each))
        seconds = steps * each
    epochs = steps / per_epoch
    return replace(made, steps=steps, epochs=epochs, seconds=seconds, recipe=_with_epochs(made, kind, epochs, minutes))


def _with_epochs(made: Plan, kind: type[Learner], epochs: float, minutes: float | None) -> Recipe:
    """The recipe, with what the length changes from the paper's."""
    paper = kind.settings.get("paper", {}).get("epochs")
    reason = "you asked for it" if minutes is None else f"what fits in {minutes:g} minutes here"
    return made.recipe if paper is None else _changed(made.recipe, Change("epochs", paper, round(epochs, 1), reason))


def _changed(recipe: Recipe, change: Change) -> Recipe:
    return replace(recipe, changes=with_change(recipe.changes, change))


def step_seconds(made: Plan) -> float:
    """Median time of a step here, after some that warm up, on a learner that is thrown away."""
    times: list[float] = []

    class Clock(Callback):
        def step(self, step: int, loss: float, lr: float, health: str | None) -> None:
            times.append(time.perf_counter())

    learner, items = made.ready()
    some = items.select(slice(0, 4 * made.batch_size))
    for steps in (5, 20):
        times.clear()
        fit(
            learner,
            some,
            max_steps=steps,
            accelerator=made.accelerator,
            callbacks=[Clock()],
            **{**made.recipe.training, "warmup": 0.0},
        )
        gaps = [after - before for before, after in pairwise(times[1:])]
        if sum(gaps) > 1:
            break
    return statistics.median(gaps)


def _sized(made: Plan, kind: type[Learner], minutes: float | None, saved: Mapping[str, Any] | None) -> Plan:
    """A closed form has no steps: time caps the argument that `sized_by` names, measured on a few items."""
    if not hasattr(kind, "sized_by"):
        return made
    name, sizes = kind.sized_by
    if saved is not None:
        return _with_argument(made, name, saved["build"]["arguments"][name], saved["made"].get("seconds"))
    if name in made.settings.arguments or minutes is None:
        return made
    expected = _expected_seconds(made, name, sorted(sizes)[:2])
    largest = max([size for size in sizes if expected(size) <= minutes * 60], default=min(sizes))
    return _with_argument(made, name, largest, expected(largest), f"what fits in {minutes:g} minutes here")


def _expected_seconds(made: Plan, name: str, sizes: Sequence[int]) -> Callable[[int], float]:
    """What a size will take on all items: a line through two small sizes, measured on a few items after a warm-up."""
    few = made.ready()[1].select(torch.linspace(0, made.n - 1, min(made.n, 500)).long())
    took = [_seconds_of(_with_argument(made, name, size, None).learner(), few) for size in (sizes[0], *sizes)][1:]
    # a step between them that drowns in noise must not promise that size costs nothing
    slope = max((took[1] - took[0]) / (sizes[1] - sizes[0]), 0.2 * took[0] / sizes[0])
    fixed = max(took[0] - slope * sizes[0], 0.0)
    return lambda size: fixed + slope * size * made.n / len(few)


def _seconds_of(learner: Learner, data: Dataset) -> float:
    clock = time.perf_counter()
    embed(encoder_of(fit(learner, data, max_steps=1)), data)
    return time.perf_counter() - clock


def _with_argument(made: Plan, name: str, value: Any, seconds: float | None, reason: str = "as the run began") -> Plan:
    change = Change(name, made.recipe.arguments.get(name), value, reason)
    arguments = {**made.recipe.arguments, name: value}
    return replace(made, recipe=_changed(replace(made.recipe, arguments=arguments), change), seconds=seconds)


def _network(config: Mapping[str, Any] | None) -> str:
    if config is None:
        return "the method's own encoder"
    width = f" of width {config['width']}" if "width" in config else ""
    reading = f", reading {config['image_size']} pixels" if "image_size" in config else ""
    return f"{config['name']}{width}{reading}"
