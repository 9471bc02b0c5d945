"""Recipes: a method's settings for this data on this machine, each change from the paper's with its reason."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tacit.building import (
    ENCODERS,
    READS,
    closed_form,
    constructor_arguments,
    encoder_config,
    learner_class,
    shape_of,
)
from tacit.errors import expect
from tacit.learner import Learner
from tacit.nn import modality_of

TRAINING = ("batch_size", "lr", "optimizer", "weight_decay", "momentum", "betas", "warmup", "schedule", "clip", "parts")
"""Words of `settings` that `fit` takes; the others are the constructor's, `model`, or a length."""

REASONS = {
    "optimizer": "LARS is made for batches of thousands",
    "lr": "goes with optimizer, batch and length",
    "batch_size": "smaller data and networks learn more from more steps",
    "weight_decay": "goes with the optimizer",
    "warmup": "a short run warms up over a larger share of its steps",
}


@dataclass(frozen=True)
class Machine:
    """What the recipe needs to know of the machine."""

    device: str
    """cpu, cuda or mps."""
    name: str
    cores: int
    bfloat16: bool

    @classmethod
    def here(cls, devices: int | str = "auto") -> Machine:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if devices != "cpu" and torch.cuda.is_available():
            name = torch.cuda.get_device_name()
            return cls("cuda", name, cores, torch.cuda.is_bf16_supported(including_emulation=False))
        # on a CPU without its own instructions bfloat16 is emulated, and slower
        bfloat16 = bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return cls("cpu", f"{cores} CPU core{'s' * (cores > 1)}", cores, bfloat16)


@dataclass(frozen=True)
class Change:
    """A setting that differs from the paper's, or from what is usual where the paper does not say."""

    setting: str
    paper: Any
    here: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.here} instead of {self.paper}: {self.reason}"


def with_change(changes: Sequence[Change], change: Change) -> tuple[Change, ...]:
    """The changes and one more; a setting that was changed before keeps the paper's value to be compared with.

    >>> first = with_change((), Change("batch_size", 4096, 256, "a CPU"))
    >>> print(*with_change(first, Change("batch_size", 256, 150, "there are 150 items")))
    batch_size: 150 instead of 4096: there are 150 items
    """
    before = {earlier.setting: earlier.paper for earlier in changes}
    change = replace(change, paper=before.get(change.setting, change.paper))
    others = tuple(earlier for earlier in changes if earlier.setting != change.setting)
    return others if change.here == change.paper else (*others, change)


@dataclass(frozen=True)
class Recipe:
    """All that a run is made from but its length and seed."""

    method: str
    encoder: dict[str, Any] | None
    """Config of the encoder; None where the method makes its own."""
    arguments: dict[str, Any]
    training: dict[str, Any]
    changes: tuple[Change, ...]


def recipe(
    method: str,
    description: Mapping[str, Any],
    machine: Machine,
    *,
    model: str = "auto",
    arguments: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    precision: str = "auto",
) -> Recipe:
    """The method's `settings["small"]`, fitted to the data and the machine.

    A value that the user gave is kept, and an error later if it cannot be; one of the recipe's own shrinks to fit.

    Args:
        method: id of a learner.
        description: of the data: `modality`, `n`, and what `building.shape_of` asks for.
        machine: where it will run.
        model: name of the encoder, or `auto`.
        arguments: of the method's constructor, from the user.
        given: training settings from the user, by the names of `fit`.
        precision: `auto`, `32-true` or `bf16-mixed`.

    Raises:
        ArgumentError: unknown method, or an encoder for a method that makes its own.
    """
    kind, given, asked = learner_class(method), dict(given or {}), dict(arguments or {})
    preset, n = dict(kind.settings.get("small", {})), int(description["n"])
    taken = constructor_arguments(kind)  # which go first: BYOL's momentum is not the optimiser's
    training = {name: value for name, value in preset.items() if name in TRAINING and name not in taken} | given
    chosen = {name: value for name, value in preset.items() if name in taken} | asked
    changes = _changes(kind, {**preset, **chosen, **training}, {**given, **asked})
    limits = {
        "n_components": (min(max(n // 4, 1), _columns(description)), "four items at least for each direction"),
        "queue_size": (max(n // 2, 1), "else items would meet their own older keys"),
        "n_prototypes": (max(n, 2), f"{n:,} items cannot use more of them evenly"),
        "n_words": (max(n, 2), f"{n:,} items give no more of them"),
    }
    if not closed_form(kind):
        limits["batch_size"] = (n, f"there are {n:,} items")
    for name, (limit, reason) in limits.items():
        held = training if name == "batch_size" else chosen
        usual = held.get(name, 256 if name == "batch_size" else 0)
        if usual > limit and name not in given and name not in asked:
            held[name] = limit
            changes = with_change(changes, Change(name, usual, limit, reason))
    image = description.get("modality", "image") == "image"
    if precision == "auto":
        precision = "bf16-mixed" if machine.bfloat16 and image else "32-true"
    training |= {"precision": precision, "channels_last": "encoder" in taken and image}
    return Recipe(method, _encoder(kind, description, machine, model), chosen, training, changes)


def _columns(description: Mapping[str, Any]) -> int:
    """Numbers in one item, as a closed-form method sees it."""
    if description.get("image_size") is None:
        return int(description.get("dim") or description["n"])
    return int(description["channels"] * description["image_size"] ** 2)


def _encoder(
    kind: type[Learner], description: Mapping[str, Any], machine: Machine, model: str
) -> dict[str, Any] | None:
    if "encoder" not in constructor_arguments(kind):
        expect("model", model, model == "auto", "auto", f"{kind.system_id} makes its own encoder")  # type: ignore[attr-defined]
        return None
    modality = description.get("modality", "image")
    shape = shape_of(modality, description)
    usual = ENCODERS.get(modality, ENCODERS["image"])["auto"]
    if model != "auto":
        return {"name": model} | (usual if model == usual["name"] else {}) | shape
    config = encoder_config(kind, "auto", modality)
    if machine.device == "cuda" and modality == "image":
        config = {"name": larger(config["name"])} | {key: config[key] for key in READS if key in config}
    return config | shape


def larger(name: str) -> str:
    """What a GPU takes in the place of the network that is made for a CPU."""
    if name == "unet" or modality_of(name) != "image":
        return name
    return "vit-tiny" if name.startswith("vit") else "resnet18"


def _changes(kind: type[Learner], here: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[Change, ...]:
    """Where the settings differ from those of the paper."""
    paper = kind.settings.get("paper", {})
    return tuple(
        Change(name, paper[name], value, "you asked for it" if name in asked else REASONS.get(name, "small preset"))
        for name, value in here.items()
        if name in paper and name != "model" and value != paper[name]
    )


def choose(description: Mapping[str, Any], machine: Machine, minutes: float | None) -> tuple[str, str]:
    """The method that `auto` takes, and why: the first row of auto.json that fits kind of data, size, device and time.

    >>> choose({"modality": "points", "n": 100}, Machine("cpu", "1 CPU core", 1, False), 10)[0]
    'pca'
    """
    table = json.loads((Path(__file__).parent / "auto.json").read_text(encoding="utf-8"))
    wanted = {"modality": description.get("modality"), "device": "gpu" if machine.device == "cuda" else "cpu"}
    for row in table["rows"]:
        same = all(row[name] in (value, "any") for name, value in wanted.items())
        within = (minutes or 10) <= row.get("minutes_up_to", float("inf"))
        if same and within and description["n"] >= row.get("n_from", 0):
            return row["method"], row["reason"]
    return "pca", "nothing in auto.json fits this data"


def usual_methods(modality: str) -> list[str]:
    """What `tacit compare` takes where nobody says: the best few of the table that auto.json was made from."""
    table = json.loads((Path(__file__).parent / "auto.json").read_text(encoding="utf-8"))
    return list(table["compare"].get(modality, ["pca"]))
