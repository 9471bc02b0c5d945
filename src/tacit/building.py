"""build: a learner from its id and a description of the data; and again from a run's config.json."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tacit import catalogue
from tacit.data import Column
from tacit.errors import ArgumentError, RunError, expect
from tacit.learner import Learner, encoder_of
from tacit.nn import Classifier, ImageEncoder, ItemEncoder, encoder_arguments, modality_of
from tacit.nn import encoder as make_encoder

SIZES = ("tiny", "small", "auto")
"""For the battery of tests, for claims on a CPU, for users."""

ENCODERS: dict[str, dict[str, dict[str, Any]]] = {
    "image": {
        "tiny": {"name": "resnet8", "width": 8},
        "small": {"name": "resnet8", "width": 16},
        "auto": {"name": "resnet8", "width": 32},
    },
    "text": {size: {"name": "text-transformer"} for size in SIZES},
    "audio": {size: {"name": "audio-cnn"} for size in SIZES},
    "series": {size: {"name": "series-transformer"} for size in SIZES},
    "table": {size: {"name": "table-mlp"} for size in SIZES},
    "graph": {size: {"name": "gin"} for size in SIZES},
}
"""Kind of data -> the encoder of each size, where the learner does not call for another."""

NAMED: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "vit": {"embed_dim": 32, "num_layers": 2, "num_heads": 2},
        "unet": {"width": 8},
        "text": {"dim": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 256, "max_length": 16},
        "lsa": {"dim": 8, "vocab_size": 256, "max_length": 16},
        "sent2vec": {"dim": 32, "vocab_size": 256, "max_length": 16, "buckets": 512},
        "audio-cnn": {"width": 8},
        "audio-conv": {"dim": 32, "num_layers": 2},
        "audio-transformer": {"dim": 32, "num_layers": 2, "num_heads": 2},
        "series-transformer": {"embed_dim": 32, "num_layers": 1, "num_heads": 2},
        "series-cnn": {"embed_dim": 32, "num_layers": 1},
        "table": {"hidden_dim": 32, "num_layers": 2},
        "gin": {"dim": 32, "num_layers": 2, "n_eigenvectors": 4},
    },
    "small": {"unet": {"width": 16}},
}
"""What makes a network small that is called for by name; the others are as they come."""

LONGEST = 256
"""Steps of a series that a network reads; of longer ones it reads means over several steps."""

READS = ("layer", "pool")
"""Words of a preset that say what is read of the network."""

PARTS = {
    "encoder": None,
    "classifier": None,
    "teacher": None,
    "image_encoder": "image",
    "text_encoder": "text",
    "audio_encoder": "audio",
}
"""Networks that a paper takes as given, by their agreed names -> the kind of data they read, None for the learner's."""

READ_BY = {"encoder": "x", "image_encoder": "image", "text_encoder": "text", "audio_encoder": "audio"}
"""Those that read raw items -> the column of what they make of them."""


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

    Constructor arguments are filled by their agreed names: `image_size`, `in_channels`, `n_classes`; `encoder`,
    `image_encoder`, `text_encoder`, `audio_encoder`; and the classifiers `classifier` and `teacher`. The others come
    from the learner's own `settings["small"]` and from `arguments`, which go first.

    Args:
        system: id of a learner in the catalogue, or its class.
        description: of the data: `modality` (image, if not said), what `shape_of` asks for, `n_classes` where there
            are labels.
        size: `tiny` for the battery of tests, `small` for claims on a CPU, `auto` for users.
        encoder: in place of the one that the size calls for.
        arguments: of the constructor.
        seed: of the initial weights; the caller's random state is kept.

    Raises:
        ArgumentError: unknown id or size, an id that is no learner, or an argument it does not take.

    >>> build("byol", {"image_size": 16, "channels": 3}, "tiny").encoder.dim
    32
    """
    expect("size", size, size in SIZES, f"one of {', '.join(SIZES)}")
    kind = learner_class(system) if isinstance(system, str) else system
    taken = constructor_arguments(kind)
    wrong = sorted(set(arguments or {}) - set(taken))
    expect("arguments", wrong, not wrong, f"arguments of {kind.__name__}: {', '.join(taken)}")
    preset, modality = kind.settings.get("small", {}), description.get("modality", "image")
    chosen = {name: value for name, value in preset.items() if name in taken} | dict(arguments or {})
    known = shape_of(modality, description) | {"n_classes": description.get("n_classes")}
    chosen = {name: value for name, value in known.items() if name in taken} | chosen
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if encoder is not None:
            chosen["encoder"] = encoder
        for part in (part for part in PARTS if part in taken and part not in chosen):
            reads = PARTS[part] or modality
            made = make_encoder(**encoder_config(kind, size, reads), **shape_of(reads, description))
            chosen[part] = Classifier(made, description["n_classes"]) if part in ("classifier", "teacher") else made
        return kind(**_with_views(kind, chosen))


def _with_views(kind: type[Learner], arguments: dict[str, Any]) -> dict[str, Any]:
    """With two views of a series for a method whose own default is two views of an image."""
    reads = getattr(arguments.get("encoder"), "modality", "image")
    if reads != "series" or "views" not in constructor_arguments(kind) or arguments.get("views") is not None:
        return arguments
    from tacit.views import two_series_views

    return {**arguments, "views": two_series_views()}


def shape_of(modality: str, description: Mapping[str, Any]) -> dict[str, Any]:
    """What an encoder of this kind of data has to know of the data, by the names of its constructor."""
    if modality in ("text", "points", "features", "any"):
        return {}
    if modality == "series":
        return {"in_channels": description["channels"], "length": min(description["length"], LONGEST)}
    known = {
        "audio": {"sample_rate": "sample_rate", "seconds": "seconds"},
        "table": {"in_features": "dim", "categories": "categories"},
        "graph": {"in_features": "in_features", "size": "size"},
    }.get(modality, {"image_size": "image_size", "in_channels": "channels"})
    return {name: description[said] for name, said in known.items() if said in description}


def read_columns(learner: nn.Module, columns: Mapping[str, Any], *, fitted: bool = False) -> dict[str, Any]:
    """Raw columns as the learner reads them: texts become token numbers, by the vocabularies of its encoders.

    Args:
        learner: a learner, or an encoder alone.
        columns: name -> rows; a list of texts under `text` (or `x`), anything else under the name that learners use.
        fitted: whether the encoders' `prepare` has been fitted; if not, it is fitted to these columns.

    Returns:
        The columns, with `x`, `image`, `text` and `audio` where an encoder made them.
    """
    read = dict(columns)
    for part, made in READ_BY.items():
        encoder = _part(learner, part)
        raw = made if made in columns else {"x": "text"}.get(made)
        if not isinstance(encoder, ItemEncoder) or raw not in columns:
            continue
        rows = columns[raw][:] if isinstance(columns[raw], Column) else columns[raw]
        if not fitted:
            encoder.fit_prepare(rows)
        read[made] = encoder.prepare(rows).cpu()
    return read


def _part(learner: nn.Module, part: str) -> nn.Module | None:
    """The learner's part of this name; as `encoder` also its student's or classifier's, or the learner itself."""
    if part != "encoder":
        return getattr(learner, part, None)
    if isinstance(learner, ItemEncoder):
        return learner
    try:
        return encoder_of(learner)
    except AttributeError:
        return None


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


def encoder_config(kind: type[Learner], size: str, modality: str = "image") -> dict[str, Any]:
    """The encoder for a learner: the `model` its preset calls for, or the size's, and what is read of it."""
    preset = kind.settings.get("small", {})
    model, reads = preset.get("model"), {word: preset[word] for word in READS if word in preset}
    if model is not None and modality_of(model) != modality:
        model, reads = None, {}  # of a learner that takes several kinds of data
    config = {"name": model} if model is not None else ENCODERS.get(modality, ENCODERS["image"])[size]
    smaller = next((words for name, words in NAMED.get(size, {}).items() if config["name"].startswith(name)), {})
    taken = encoder_arguments(config["name"])
    return {**{word: value for word, value in smaller.items() if word in taken}, **config, **reads}


def constructor_arguments(kind: type[Learner]) -> list[str]:
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]


def describe_build(learner: Learner) -> dict[str, Any]:
    """What `rebuild` makes the learner from again, as plain JSON; its weights are kept elsewhere."""
    try:
        encoder = encoder_of(learner)
    except AttributeError:  # a network of the user's own, which holds none
        encoder = None
    given = {name: getattr(learner, name, None) for name in PARTS if name != "encoder"}
    parts = {
        name: {"encoder": part.encoder.config, "n_classes": part.n_classes}
        for name, part in given.items()
        if isinstance(part, Classifier) and hasattr(part.encoder, "config")
    } | {name: {"encoder": part.config} for name, part in given.items() if isinstance(part, ImageEncoder | ItemEncoder)}
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
        made = make_encoder(**part["encoder"])
        arguments[name] = Classifier(made, part["n_classes"]) if "n_classes" in part else made
    return kind(**_with_views(kind, arguments))


def closed_form(kind: type[Learner]) -> bool:
    """Whether a method has no loss to step down: all its work is in `before_fit`."""
    return kind.loss is Learner.loss and kind.step is Learner.step


def wanted_columns(kind: type[Learner]) -> tuple[str, ...]:
    """The columns that a learner's step, or else its loss, names."""
    named = inspect.signature(kind.loss if kind.step is Learner.step else kind.step).parameters.values()
    return tuple(one.name for one in named if one.name not in ("self", "update") and one.kind is not one.VAR_KEYWORD)
