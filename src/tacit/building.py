"""build: a learner from its id and a description of the data; and again from a run's config.json."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tacit import catalogue
from tacit.errors import ArgumentError, RunError, expect
from tacit.learner import Learner, encoder_of
from tacit.nn import Classifier
from tacit.nn import encoder as make_encoder

ENCODERS = {
    "tiny": {"name": "resnet8", "width": 8},
    "small": {"name": "resnet8", "width": 16},
    "auto": {"name": "resnet8", "width": 32},
}
"""The encoder of each size, where the learner does not call for another."""

NAMED = {
    "tiny": {"vit": {"embed_dim": 32, "num_layers": 2, "num_heads": 2}, "unet": {"width": 8}},
    "small": {"unet": {"width": 16}},
}
"""What makes a network small that a learner calls for by name; the others are as they come."""

READS = ("layer", "pool")
"""Words of a preset that say what is read of the network."""

PARTS = ("encoder", "classifier", "teacher")
"""Networks that a paper takes as given, by their agreed names."""


def build(
    system: str | type[Learner],
    description: Mapping[str, Any],
    size: str = "auto",
    *,
    encoder: nn.Module | None = None,
    arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Learner:
    """A registered learner with every part that its paper takes as given.

    Constructor arguments are filled by their agreed names: `image_size`, `in_channels`, `n_classes`; `encoder`; and
    the classifiers `classifier` and `teacher`. The others come from the learner's own `settings["small"]` and from
    `arguments`, which go first.

    Args:
        system: id of a learner in the catalogue, or its class.
        description: of the data: `image_size`, `channels`, `n_classes` where there are labels.
        size: `tiny` for the battery of tests, `small` for claims on a CPU, `auto` for users.
        encoder: in place of the one that the size calls for.
        arguments: of the constructor.
        seed: of the initial weights; the caller's random state is kept.

    Raises:
        ArgumentError: unknown id or size, an id that is no learner, or an argument it does not take.

    >>> build("byol", {"image_size": 16, "channels": 3}, "tiny").encoder.dim
    32
    """
    expect("size", size, size in ENCODERS, f"one of {', '.join(ENCODERS)}")
    kind = learner_class(system) if isinstance(system, str) else system
    taken = constructor_arguments(kind)
    wrong = sorted(set(arguments or {}) - set(taken))
    expect("arguments", wrong, not wrong, f"arguments of {kind.__name__}: {', '.join(taken)}")
    preset = kind.settings.get("small", {})
    chosen = {name: value for name, value in preset.items() if name in taken} | dict(arguments or {})
    shape = {"image_size": description["image_size"], "in_channels": description["channels"]}
    known = shape | {"n_classes": description.get("n_classes")}
    chosen = {name: value for name, value in known.items() if name in taken} | chosen
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if encoder is not None:
            chosen["encoder"] = encoder
        for part in (part for part in PARTS if part in taken and part not in chosen):
            made = make_encoder(**(encoder_config(kind, size) | shape))
            chosen[part] = made if part == "encoder" else Classifier(made, description["n_classes"])
        return kind(**chosen)


def learner_class(id: str, name: str | None = None) -> type[Learner]:
    """The class with this id; of several, the one of that name, or else the first.

    Raises:
        ArgumentError: there is none, or it is no learner; what to do instead is said.
    """
    entry = catalogue.find(id)
    entry = next((one for one in catalogue.systems() if (one.id, one.name) == (id, name)), entry)
    loaded = entry.load()
    if not (isinstance(loaded, type) and issubclass(loaded, Learner)):
        here = f"{entry.module.rpartition('.')[0]}.{entry.name}"
        raise ArgumentError(f"method={id!r}: expected a learner; it is a {entry.kind}: use {here}")
    return loaded


def encoder_config(kind: type[Learner], size: str) -> dict[str, Any]:
    """The encoder for a learner: the `model` its preset calls for, or the size's, and what is read of it."""
    preset = kind.settings.get("small", {})
    model, reads = preset.get("model"), {word: preset[word] for word in READS if word in preset}
    if model is None:
        return {**ENCODERS[size], **reads}
    smaller = next((words for name, words in NAMED.get(size, {}).items() if model.startswith(name)), {})
    return {"name": model, **smaller, **reads}


def constructor_arguments(kind: type[Learner]) -> list[str]:
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]


def describe_build(learner: Learner) -> dict[str, Any]:
    """What `rebuild` makes the learner from again, as plain JSON; its weights are kept elsewhere."""
    try:
        encoder = encoder_of(learner)
    except AttributeError:  # a network of the user's own, which holds none
        encoder = None
    classifiers = {name: getattr(learner, name, None) for name in PARTS if name != "encoder"}
    parts = {
        name: {"encoder": part.encoder.config, "n_classes": part.n_classes}
        for name, part in classifiers.items()
        if isinstance(part, Classifier) and hasattr(part.encoder, "config")
    }
    described = {
        "system": getattr(type(learner), "system_id", None),
        "encoder": getattr(encoder, "config", None),
        "arguments": dict(learner.arguments),
    }
    entries = [one.name for one in catalogue.systems() if one.id == described["system"]]
    another = type(learner).__name__ in entries[1:]  # the first goes by the id alone
    return described | ({"name": type(learner).__name__} if another else {}) | ({"parts": parts} if parts else {})


def rebuild(described: Mapping[str, Any], encoder: nn.Module | None = None) -> Learner:
    """The learner that `describe_build` described, with fresh weights. Only ids of installed packages are built.

    Raises:
        RunError: the run's learner or encoder is a user's own module, which has to be given.
    """
    id = described.get("system")
    if id is None:
        raise RunError("the run's learner is none of the catalogue's: build it yourself and load its model.safetensors")
    kind = learner_class(id, described.get("name"))
    arguments = dict(described["arguments"])
    if "encoder" in constructor_arguments(kind):
        if encoder is None and described.get("encoder") is None:
            raise RunError("the run's encoder is a module of your own: tacit.load(path, encoder=...) with one like it")
        arguments["encoder"] = encoder if encoder is not None else make_encoder(**described["encoder"])
    for name, part in described.get("parts", {}).items():
        arguments[name] = Classifier(make_encoder(**part["encoder"]), part["n_classes"])
    return kind(**arguments)


def closed_form(kind: type[Learner]) -> bool:
    """Whether a method has no loss to step down: all its work is in `before_fit`."""
    return kind.loss is Learner.loss and kind.step is Learner.step


def wanted_columns(kind: type[Learner]) -> tuple[str, ...]:
    """The columns that a learner's step, or else its loss, names."""
    named = kind.loss if kind.step is Learner.step else kind.step
    return tuple(name for name in inspect.signature(named).parameters if name not in ("self", "update"))
