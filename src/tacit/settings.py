"""What `tacit learn` may be told: said once, here, for the Python signature, the config file and the command line.

This module does not import torch, so that a wrong setting is answered at once.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from pydantic.fields import FieldInfo

from tacit import catalogue
from tacit.durations import seconds
from tacit.errors import ArgumentError, expect, nearest

__all__ = [
    "ALIASES",
    "GROUPS",
    "LENGTHS",
    "MODELS",
    "NUMBERS",
    "LearnSettings",
    "learn_signature",
    "read_config",
    "seconds",
]

ALIASES = {"learning_rate": "lr", "output_dir": "out", "max_epochs": "epochs"}
"""Names that other libraries use, taken and answered with ours."""

LENGTHS = ("epochs", "max_steps", "minutes")
"""Three ways to say how long; at most one of them is given."""

Kind = Literal["image", "text", "audio", "table", "series", "graph", "points", "pairs", "video"]
"""Kinds of data."""

MODELS = ("auto", "resnet8", "resnet18", "resnet34", "resnet50", "vit-micro", "vit-tiny", "vit-small", "unet")
"""Encoders by name; `timm:NAME` and `hf:NAME` are taken beside them."""

NUMBERS = (
    *("epochs", "max_steps", "minutes", "batch_size", "lr", "weight_decay", "devices", "num_nodes", "seed"),
    *("image_size", "num_workers", "checkpoint_every", "threads"),
)
"""Settings that are numbers or may be; on the command line their text is read as one."""

GROUPS = ("Data", "Method and model", "Length (one of them)", "Training", "Machine", "Run")
"""Panels of the help, in order."""

PARTS = {"encoder", "teacher", "student", "image_encoder", "text_encoder", "decoder", "denoiser", "classifier", "views"}
"""Constructor arguments that `learn` fills itself; they are not for `--method.NAME`."""


def _setting(
    default: Any, says: str, *, group: str, expected: str, remedy: str = "", flag: str = "", **limits: Any
) -> Any:
    """A field: its help, the panel of the help it stands in, and the two halves of its error message."""
    extra: dict[str, Any] = {"group": group, "expected": expected, "remedy": remedy, "flag": flag}
    return Field(default, description=says, json_schema_extra=extra, **limits)


class LearnSettings(BaseModel):
    """The settings of one `tacit learn`; `None` and `"auto"` leave the choice to the recipe.

    Whatever is not in `model_fields_set` was not said by the user, so a recipe may shrink it to fit.

    Raises:
        ArgumentError: an unknown name, a value out of range, or settings that contradict each other; the message
            names the argument, its value, what was expected and what to do.

    >>> LearnSettings(data="photos/", minutes=3).minutes
    3.0
    >>> LearnSettings(data="photos/", epochs=0)
    Traceback (most recent call last):
    ...
    tacit.errors.ArgumentError: epochs=0: expected a whole number, at least 1; leave it out for the default length
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    data: Any = _setting(
        ...,
        "What to learn from: a folder, a zip, a glob, .npy, .npz, csv or parquet, or `demo`.",
        group="Data",
        expected="a folder, a zip, a glob, a .npy, .npz, csv or parquet file, or demo",
        remedy="try: tacit learn demo",
    )
    out: str = _setting(
        "run",
        "Folder of the run; the same command on an unfinished one goes on with it.",
        group="Run",
        expected="the name of a folder",
        min_length=1,
    )
    method: str = _setting(
        "auto",
        "Method, as `tacit systems` lists them.",
        group="Method and model",
        expected="the name of a method",
        remedy="see: tacit systems",
    )
    arguments: dict[str, Any] = _setting(
        {},
        "Arguments of the method, such as `--method.temperature 0.2`.",
        group="Method and model",
        expected="names and values, such as {'temperature': 0.2}",
        flag="--method.NAME",
    )
    model: str = _setting(
        "auto",
        f"Encoder: {', '.join(MODELS[1:])}, timm:NAME or hf:NAME.",
        group="Method and model",
        expected=f"one of {', '.join(MODELS)}, timm:NAME or hf:NAME",
    )
    init: str | None = _setting(
        None,
        "Start a new run from these weights: a run, an exported encoder (its folder or hub:USER/NAME), a .safetensors "
        "file, tacit:small, timm:NAME or hf:NAME. "
        "(To go on with an unfinished run, give the same command again.)",
        group="Method and model",
        expected="a run folder, an exported one, hub:USER/NAME, a .safetensors file, tacit:small, timm:NAME or hf:NAME",
    )
    epochs: int | None = _setting(
        None,
        "Length in passes over the data.",
        group="Length (one of them)",
        expected="a whole number, at least 1",
        remedy="leave it out for the default length",
        ge=1,
    )
    max_steps: int | None = _setting(
        None,
        "Length in steps.",
        group="Length (one of them)",
        expected="a whole number, at least 1",
        remedy="leave it out for the default length",
        ge=1,
    )
    minutes: float | None = _setting(
        None,
        "Length in minutes: the step is timed first and the number of steps fixed from it. "
        "With no length given: 10 on a CPU, 30 on a GPU.",
        group="Length (one of them)",
        expected="a number above 0",
        remedy="leave it out for the default length",
        gt=0,
    )
    batch_size: int | None = _setting(
        None,
        "Items in a step, over all devices.",
        group="Training",
        expected="a whole number, at least 1",
        remedy="leave it out for the recipe's",
        ge=1,
    )
    lr: float | None = _setting(
        None,
        "Learning rate at its peak.",
        group="Training",
        expected="a number above 0",
        remedy="leave it out for the recipe's",
        gt=0,
    )
    optimizer: Literal["adamw", "sgd", "lars"] | None = _setting(
        None,
        "adamw, sgd or lars.",
        group="Training",
        expected="adamw, sgd or lars",
        remedy="leave it out for the recipe's",
    )
    weight_decay: float | None = _setting(
        None,
        "Weight decay.",
        group="Training",
        expected="a number, at least 0",
        remedy="leave it out for the recipe's",
        ge=0,
    )
    devices: int | str = _setting(
        "auto",
        "Number of devices, cpu, or auto: every GPU there is, else the CPU.",
        group="Machine",
        expected="auto, cpu or a whole number, at least 1",
    )
    num_nodes: int = _setting(1, "Number of machines.", group="Machine", expected="a whole number, at least 1", ge=1)
    precision: Literal["auto", "32-true", "bf16-mixed"] = _setting(
        "auto",
        "32-true, bf16-mixed or auto.",
        group="Machine",
        expected="auto, 32-true or bf16-mixed",
    )
    seed: int = _setting(
        0,
        "Seed of everything that is drawn.",
        group="Training",
        expected="a whole number from 0 to 4294967295",
        ge=0,
        lt=2**32,
    )
    labels: str = _setting(
        "auto",
        "Labels found in the data, for the report only, never for learning: folder, a COLUMN, none or auto.",
        group="Data",
        expected="auto, folder, none or the name of a column",
        min_length=1,
    )
    image_size: int | None = _setting(
        None,
        "Side of the pictures as the encoder sees them, in pixels.",
        group="Data",
        expected="a whole number of pixels, at least 8",
        remedy="leave it out to have it chosen from the pictures",
        ge=8,
    )
    flip: Literal["auto", "on", "off"] = _setting(
        "auto",
        "Views may be mirrored: on, off, or auto: unless mirrored pictures are unlike the data, as of digits and text.",
        group="Data",
        expected="auto, on or off",
    )
    modality: Kind | None = _setting(
        None,
        "Kind of data, if tacit takes it for another: image, text, audio, table, series, graph, points, pairs, video.",
        group="Data",
        expected="one of image, text, audio, table, series, graph, points, pairs, video",
        remedy="leave it out to have it found",
    )
    on_error: Literal["skip", "raise"] = _setting(
        "skip",
        "What cannot be read: skip (and list it in skipped.csv) or raise.",
        group="Data",
        expected="skip or raise",
    )
    overwrite: bool = _setting(False, "Replace the run that is in the folder.", group="Run", expected="true or false")
    num_workers: int | None = _setting(
        None,
        "Threads that read and decode files; as many as cores if left out.",
        group="Machine",
        expected="a whole number, at least 0",
        ge=0,
    )
    checkpoint_every: int | str = _setting(
        "3min",
        "Time between checkpoints (30s, 3min, 1h), or a number of steps.",
        group="Run",
        expected="a time such as 30s, 3min or 1h, or a number of steps, at least 1",
    )
    threads: int | None = _setting(
        None,
        "Threads of the CPU; as many as cores if left out. The same number is needed for the same bits.",
        group="Machine",
        expected="a whole number, at least 1",
        ge=1,
    )
    verbose: bool = _setting(
        True,
        "Say what is found and done, with a progress bar.",
        group="Run",
        expected="true or false",
        flag="--verbose/--quiet",
    )

    _notes: list[str] = PrivateAttr(default_factory=list)

    def __init__(self, /, **values: Any) -> None:
        values, notes = _by_our_names(values)
        _refuse_unknown(values)
        expect("data", values.get("data"), values.get("data") is not None, *_expected_of("data"))
        try:
            super().__init__(**_with_method_spread(values))
        except ValidationError as error:
            raise _argument_error(error) from None
        self._notes = notes
        self._check_length()
        self._check_devices()
        _check_method(self.method, self.arguments)
        _check_model(self.model)
        seconds(self.checkpoint_every)

    @property
    def notes(self) -> list[str]:
        """What the user should hear of how the settings were read, such as `learning_rate is called lr here`."""
        return self._notes

    @property
    def checkpoint_seconds(self) -> float | None:
        """Time between checkpoints, or None where steps are counted."""
        return None if isinstance(self.checkpoint_every, int) else seconds(self.checkpoint_every)

    @property
    def checkpoint_steps(self) -> int | None:
        """Steps between checkpoints, or None where time is counted."""
        return self.checkpoint_every if isinstance(self.checkpoint_every, int) else None

    def as_dict(self) -> dict[str, Any]:
        """All settings as JSON values, in order; data that is no name is described by its type and shape."""
        return {"data": _describe(self.data)} | self.model_dump(exclude={"data"})

    @classmethod
    def from_file(cls, path: str | Path, **given: Any) -> LearnSettings:
        """The settings of a yaml or json file, with those `given` in their place.

        A run's config.json is taken too; then the length is the number of steps that was fixed for it.

        Raises:
            ArgumentError: the file is not there, is not yaml or json, or holds an unknown name or a wrong value.
        """
        filed, notes = _by_our_names(read_config(path))
        given, more = _by_our_names(given)
        settings = cls(**_merge(filed, given))
        settings._notes = notes + more
        return settings

    @field_validator(*NUMBERS, mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("a truth value where a number is expected")
        return value

    @field_validator("out", "init", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("labels", mode="before")
    @classmethod
    def _none_as_word(cls, value: Any) -> Any:
        return "none" if value is None else value

    def _check_length(self) -> None:
        given = {name: getattr(self, name) for name in LENGTHS if getattr(self, name) is not None}
        if len(given) > 1:
            said = ", ".join(f"{name}={value:g}" for name, value in given.items())
            raise ArgumentError(f"{said}: expected at most one of {', '.join(LENGTHS)}; leave the others out")

    def _check_devices(self) -> None:
        ok = self.devices >= 1 if isinstance(self.devices, int) else self.devices in ("auto", "cpu")
        expect("devices", self.devices, ok, *_expected_of("devices"))


def learn_signature() -> inspect.Signature:
    """The signature of `tacit.learn`: `data`, then every other setting by keyword.

    >>> str(learn_signature()).startswith("(data: Any, *, out: str = 'run', method: str = 'auto'")
    True
    """
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if name == "data" else inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else field.default,
            annotation=field.annotation,
        )
        for name, field in LearnSettings.model_fields.items()
    ]
    return inspect.Signature(parameters, return_annotation="Run")


def read_config(path: str | Path) -> dict[str, Any]:
    """The settings that a yaml or json file holds, as they stand there.

    Raises:
        ArgumentError: the file is not there, is not yaml or json, or holds an unknown name.
    """
    path = Path(path)
    expect("config", str(path), path.is_file(), "a yaml or json file", "see: tacit learn DATA --dry-run > config.yaml")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise ArgumentError(f"config={str(path)!r}: expected yaml or json; {why}") from None
    if not isinstance(read, dict):
        raise ArgumentError(f"config={str(path)!r}: expected names and values, such as `method: simclr`")
    values = _of_a_run(read) if isinstance(read.get("settings"), dict) else read
    _refuse_unknown(map(str, values), where=f"{path}: ")
    return values


def _by_our_names(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`values` with aliases replaced, and a note for each that was."""
    renamed, notes = dict(values), []
    for alias, name in ALIASES.items():
        if alias not in renamed:
            continue
        value = renamed.pop(alias)
        expect(alias, value, name not in renamed, f"{alias} or {name}, not both", f"{alias} is called {name} here")
        renamed[name] = value
        notes.append(f"{alias} is called {name} here")
    return renamed, notes


def _refuse_unknown(values: Iterable[str], where: str = "") -> None:
    known = LearnSettings.model_fields
    for name in values:
        if name not in known and name not in ALIASES:
            guess = nearest(name, [*known, *ALIASES])
            hint = f"did you mean {ALIASES.get(guess, guess)!r}?" if guess else f"expected one of {', '.join(known)}"
            raise ArgumentError(f"{where}there is no setting {name!r}; {hint}")


def _with_method_spread(values: dict[str, Any]) -> dict[str, Any]:
    """`method: {name: simclr, temperature: 0.2}` as a name and arguments."""
    method = values.get("method")
    if not isinstance(method, Mapping):
        return values
    arguments = dict(method)
    expect("method", method, isinstance(arguments.get("name"), str), "a name among the entries", "add name: simclr")
    name = arguments.pop("name")
    return {**values, "method": name, "arguments": {**arguments, **(values.get("arguments") or {})}}


def _merge(filed: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What the user gives goes before what the file says: a length replaces a length, a method the file's arguments."""
    filed, given = dict(_with_method_spread(filed)), _with_method_spread(given)
    if any(given.get(name) is not None for name in LENGTHS):
        filed = {name: value for name, value in filed.items() if name not in LENGTHS}
    same_method = given.get("method", filed.get("method")) == filed.get("method")
    kept = filed.pop("arguments", None) or {}
    arguments = {**(kept if same_method else {}), **given.get("arguments", {})}
    return {**filed, **given} | ({"arguments": arguments} if arguments else {})


def _of_a_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a run's config.json, with the number of steps that was fixed for it."""
    settings = dict(config["settings"])
    if config.get("steps"):
        settings = {name: value for name, value in settings.items() if name not in LENGTHS}
        settings["max_steps"] = config["steps"]
    return settings


def _argument_error(error: ValidationError) -> ArgumentError:
    """pydantic's first complaint in our words."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    expected, remedy = _expected_of(name)
    return ArgumentError(f"{name}={first['input']!r}: expected {expected}" + (f"; {remedy}" if remedy else ""))


def _expected_of(name: str) -> tuple[str, str]:
    extra = extra_of(LearnSettings.model_fields[name])
    return extra["expected"], extra["remedy"]


def extra_of(field: FieldInfo) -> dict[str, str]:
    """What `_setting` keeps with a field: group, expected, remedy, flag."""
    return field.json_schema_extra  # type: ignore[return-value]


def _check_method(method: str, arguments: Mapping[str, Any]) -> None:
    if method == "auto":
        expect("arguments", dict(arguments), not arguments, "a named method with them", "say which: method='simclr'")
        return
    entries = [entry for entry in catalogue.systems() if entry.id == method]
    learners = [entry for entry in entries if entry.kind == "learner"]
    if learners:
        _check_arguments(learners[0], arguments)
    elif entries:
        kind, here = entries[0].kind, f"{entries[0].module.rpartition('.')[0]}.{entries[0].name}"
        remedy = f"this one is a {kind}: use {here} in Python"
        expect("method", method, False, "a method that learn can train", remedy)
    else:
        choices = sorted({entry.id for entry in catalogue.systems() if entry.kind == "learner"})
        raise _no_such("method", method, ["auto", *choices], "auto or a learner that `tacit systems` lists")


def _check_arguments(entry: catalogue.Entry, arguments: Mapping[str, Any]) -> None:
    known = _constructor_arguments(entry.source, entry.name)
    for name, value in arguments.items():
        if known is not None and name not in known:
            listed = f"one of {', '.join(known)}" if known else "none, since it takes no arguments"
            raise _no_such(f"argument of {entry.id}", name, known, listed)
        scalars = value if isinstance(value, list | tuple) else [value]
        ok = all(isinstance(scalar, str | int | float | bool | None) for scalar in scalars)
        expect(f"method.{name}", value, ok, "a number, a word, true, false, or a list of them")


def _constructor_arguments(source: Path, class_name: str) -> list[str] | None:
    """Names that the constructor takes, read from its syntax tree; None where that cannot tell."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__" and method.args.kwarg is None:
                    taken = [argument.arg for argument in (*method.args.args[1:], *method.args.kwonlyargs)]
                    return [name for name in taken if name not in PARTS]
    return None


def _check_model(model: str) -> None:
    prefix, _, name = model.partition(":")
    if model not in MODELS and not (prefix in ("timm", "hf") and name):
        raise _no_such("model", model, MODELS, _expected_of("model")[0])


def _no_such(argument: str, value: str, choices: Iterable[str], expected: str) -> ArgumentError:
    """An unknown name, with the nearest one suggested."""
    guess = nearest(value, choices)
    return ArgumentError(f"{argument}={value!r}: expected {expected}" + (f"; did you mean {guess!r}?" if guess else ""))


def _describe(data: Any) -> str:
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    shape = getattr(data, "shape", None)
    return type(data).__name__ + (f" {json.dumps(list(shape))}" if shape is not None else "")
