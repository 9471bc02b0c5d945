"""Options made from `LearnSettings`, so that the command line says what Python and the config file say."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, Optional, TypeVar

import typer

from tacit.cli._flags import METHOD
from tacit.errors import expect
from tacit.settings import NUMBERS, LearnSettings, extra_of

F = TypeVar("F", bound=Callable[..., Any])

SHORT = {"out": "-o", "method": "-m"}
METAVARS = {"arguments": "VALUE", "out": "DIR", "method": "NAME", "model": "NAME", "init": "FROM"} | {
    **{"lr": "X", "weight_decay": "X", "minutes": "X", "checkpoint_every": "TIME"}
}
WORDS = {"true": True, "false": False, "none": None, "null": None}


def takes_settings(*names: str, **defaults: str) -> Callable[[F], F]:
    """Put the options for these settings in the place of the command's `**given`.

    `**given` gets each as the user typed it, or None; `settings_given` reads them. `defaults` are shown in the help in
    the place of the settings' own.
    """

    def fill(command: F) -> F:
        own = list(inspect.signature(command, eval_str=True).parameters.values())
        made = [_option(name, defaults.get(name)) for name in names]
        parameters = [parameter for parameter in own if parameter.kind is not parameter.VAR_KEYWORD] + made
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return fill


def settings_given(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the user gave, as values: `"0.1"` -> 0.1 where a number is expected, `["temperature=0.2"]` -> a dict.

    >>> settings_given({"lr": "1e-3", "out": "2024", "epochs": None, "arguments": ["temperature=0.2"]})
    {'lr': 0.001, 'out': '2024', 'arguments': {'temperature': 0.2}}
    """
    said = {name: value for name, value in given.items() if value is not None and value != []}
    if "arguments" in said:
        said["arguments"] = dict(_assignment(text) for text in said["arguments"])
    return {name: scalar(value) if name in NUMBERS else value for name, value in said.items()}


def scalar(text: str) -> Any:
    """A word of the command line as a number, truth value or list where it is one.

    >>> [scalar(text) for text in ("8", "1e-3", "true", "none", "[2, 2]", "nan", "3min")]
    [8, 0.001, True, None, [2, 2], nan, '3min']
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for read in (int, float, json.loads):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def whole(name: str, text: str, least: int = 1) -> int:
    """The whole number that an option gives, at least `least`.

    Raises:
        ArgumentError: it is none, or below.
    """
    value = scalar(text)
    expect(name, value, type(value) is int and value >= least, f"a whole number, at least {least}")
    return int(value)


def whole_or_none(name: str, text: str | None, least: int = 1) -> int | None:
    """The same of an option that may be left out."""
    return None if text is None else whole(name, text, least)


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    expect(METHOD, text, bool(name and equals), "a value", "such as --method.temperature 0.2")
    return name, scalar(value)


def _option(name: str, default: str | None) -> inspect.Parameter:
    field = LearnSettings.model_fields[name]
    extra = extra_of(field)
    flag = extra["flag"] or "--" + name.replace("_", "-")
    is_flag, is_many = field.annotation is bool, name == "arguments"
    shown = default if default is not None else None if is_flag or is_many else field.default
    option = typer.Option(
        None,
        *([flag, SHORT[name]] if name in SHORT else [flag]),
        help=(field.description or "") + (f" Default: {shown}." if shown is not None else ""),
        metavar=METAVARS.get(name, "" if is_flag else "N" if name in NUMBERS else "WHICH"),
        show_default=False,
        rich_help_panel=extra["group"],
    )
    annotation = Optional[bool] if is_flag else Optional[list[str]] if is_many else Optional[str]  # noqa: UP045
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)
