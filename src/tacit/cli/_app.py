"""The commands: each reads its settings, asks the library, and shows the answer."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
import yaml

from tacit._version import __version__
from tacit.cli import _add, _claims, _explore, _generate, _labelling, _segment, _systems, _unlearn
from tacit.cli import _show as show
from tacit.cli._machine import get_ready
from tacit.cli._options import scalar, settings_given, takes_settings, whole
from tacit.errors import ArgumentError, expect, unknown
from tacit.settings import GROUPS, LearnSettings, extra_of

EXPORTS = ("safetensors", "onnx", "folder", "hub")
FIELDS = LearnSettings.model_fields
LEARN = [name for group in GROUPS for name in FIELDS if extra_of(FIELDS[name])["group"] == group and name != "data"]
RESOLVED = ("batch_size", "lr", "optimizer", "weight_decay", "precision")
COMPARE = (
    "batch_size",
    "model",
    "image_size",
    "flip",
    "labels",
    "on_error",
    "seed",
    "out",
    "overwrite",
    "verbose",
    "threads",
)
EMBED = ("labels", "image_size", "on_error", "out", "overwrite", "verbose", "threads")

app = typer.Typer(
    name="tacit",
    help="Learn from data nobody labelled: an encoder, a searchable map and an honest report, from one command.",
    epilog="Start with: [bold]tacit learn demo --minutes 2[/]",
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(_claims.app, name="claims")


def _switch(flags: str, says: str) -> Any:
    """An option without a value; the empty metavar keeps `<bool>` out of the help."""
    return typer.Option(flags, metavar="", help=says)


Json = Annotated[bool, _switch("--json", "Print one JSON object on standard output.")]
Threads = Annotated[Optional[str], typer.Option(metavar="N", help="Threads of the CPU; as many as cores if left out.")]  # noqa: UP045
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]


def _examples(*commands: str) -> str:
    """An epilog, which typer sets as one line a paragraph."""
    return "\n\n".join(["[dim]Examples[/]" if len(commands) > 1 else "[dim]Example[/]", *commands])


@app.callback(invoke_without_command=True)
def tacit(
    context: typer.Context,
    version: Annotated[bool, _switch("--version", "Print the version.")] = False,
    as_json: Json = False,
) -> None:
    if version:
        _print_version(as_json)
    elif context.invoked_subcommand is None:
        print(context.get_help())
    elif as_json:
        raise ArgumentError(f"--json: expected after the command; try: tacit {context.invoked_subcommand} ... --json")


@app.command(
    epilog=_examples(
        "tacit learn photos/ --minutes 10",
        "tacit learn demo --method simclr --method.temperature 0.2 --epochs 20 --out demo-run",
        "tacit learn photos/ -c config.yaml --dry-run",
    )
)
@takes_settings(*LEARN)
def learn(
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="DATA", help=FIELDS["data"].description, show_default=False),
    ] = None,
    config: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--config", "-c", metavar="FILE", help="Settings from a yaml or json file; a flag wins over it."),
    ] = None,
    dry_run: Annotated[
        bool, _switch("--dry-run", "Print what would be done, as a config file, and write nothing.")
    ] = False,
    as_json: Json = False,
    **given: Any,
) -> None:
    """Learn an encoder from unlabelled data, and write a run: its map, its report, all that other commands need."""
    said = settings_given({"data": data, **given})
    settings = LearnSettings.from_file(config, **said) if config else LearnSettings(**said)
    with show.aside(as_json):
        answer = _dry_run(settings, as_json) if dry_run else _learn(settings, as_json)
    if as_json:
        show.as_json(answer)


def _dry_run(settings: LearnSettings, as_json: bool) -> dict[str, Any]:
    get_ready(settings.threads)
    from tacit.learning import plan

    planned = plan(settings)
    resolved = _resolved(settings, planned.as_dict())
    if not as_json:
        show.lines([f"# {line}" for line in planned.lines()], wrap=False)
        said = {name: value for name, value in resolved.items() if value is not None and value != {}}
        print(yaml.safe_dump(said, sort_keys=False, allow_unicode=True), end="")
    return {"state": planned.state, "settings": resolved, "plan": planned.as_dict()}


def _resolved(settings: LearnSettings, planned: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what the plan chose for `auto` and for what was left out, so that they repeat the run."""
    if "training" not in planned:
        return settings.as_dict()
    chosen = {name: value for name, value in planned["training"].items() if name in RESOLVED}
    length = {"epochs": None, "minutes": None, "max_steps": planned["steps"]} if planned["steps"] else {}
    model = (planned["encoder"] or {}).get("name", settings.model)
    named = {"method": planned["method"], "arguments": planned["arguments"], "model": model}
    return {**settings.as_dict(), **named, **chosen, **length}


def _learn(settings: LearnSettings, as_json: bool) -> dict[str, Any]:
    get_ready(settings.threads)
    from tacit.learning import carry_out, plan

    planned = plan(settings)
    if settings.verbose:
        show.lines(planned.lines())
    run = carry_out(planned, progress=settings.verbose)
    if not as_json:
        show.finished(run)
    return {"state": planned.state, **show.run_as_dict(run)}


@app.command(
    epilog=_examples("tacit compare photos/", "tacit compare photos/ --methods simclr,swav --minutes 20 --seeds 3")
)
@takes_settings(*COMPARE, out="compare")
def compare(
    data: Annotated[str, typer.Argument(metavar="DATA", help=FIELDS["data"].description, show_default=False)],
    methods: Annotated[
        str, typer.Option(metavar="IDS", help="Methods, with commas; auto: the best known for this kind of data.")
    ] = "auto",
    minutes: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="X", help="For all methods and seeds together. Default: 10."),
    ] = None,
    max_steps: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="N", help="Steps of each training, in place of minutes."),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="N", help="Trainings of each method.")] = "1",
    n: Annotated[str, typer.Option("-n", metavar="N", help="Items to learn from, at most.")] = "5000",
    as_json: Json = False,
    **given: Any,
) -> None:
    """Find the method that suits your data: a few, equally long on a part of it, beside the quick baselines."""
    said = {"out": "compare", **settings_given(given)}
    numbers = {"minutes": minutes, "max_steps": max_steps, "seeds": seeds, "n": n}
    with show.aside(as_json):
        get_ready(LearnSettings(data=data, threads=said.get("threads")).threads)
        from tacit.comparing import compare as compare_methods

        read = {name: scalar(text) for name, text in numbers.items() if text is not None}
        answer = compare_methods(data, methods=methods, **read, **said)
        if not as_json:
            show.rows(answer.cells(), answer.titles())
            show.lines(["", *answer.lines()])
    if as_json:
        show.as_json(answer.as_dict())


@app.command(
    epilog=_examples(
        "tacit embed run/ more-photos/", "tacit embed timm:vit_small_patch14_dinov2.lvd142m photos/ --out dino"
    )
)
@takes_settings(*EMBED, out="embedded")
def embed(
    source: Annotated[
        str,
        typer.Argument(metavar="ENCODER", help="A run, hf:NAME or timm:NAME.", show_default=False),
    ],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="What to embed: all that learn takes.", show_default=False)
    ],
    as_json: Json = False,
    **given: Any,
) -> None:
    """Embed data with an encoder that is there, without training; the run it writes is for all other commands."""
    settings = LearnSettings(data=data, **{"out": "embedded", **settings_given(given)})
    with show.aside(as_json):
        get_ready(settings.threads)
        from tacit.learning import embed_run

        passed = {name: getattr(settings, name) for name in EMBED if name not in ("threads", "verbose")}
        run = embed_run(source, data, **passed, progress=settings.verbose)
        if not as_json:
            show.finished(run)
    if as_json:
        show.as_json(show.run_as_dict(run))


@app.command(
    epilog=_examples(
        "tacit search run/ photo.jpg -k 5",
        'tacit search run/ "a text, or what a picture shows"',
        "tacit search run/ --item 12",
        "tacit search run/ --duplicates",
        'tacit search run/ "late delivery" --save late',
    )
)
def search(
    run: RunFolder,
    query: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="QUERY",
            help="A picture, a sound, a text (or its file), as the run's items are; of CLIP's also a text.",
            show_default=False,
        ),
    ] = None,
    item: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="N", help="An item of the run in place of a query: its number."),
    ] = None,
    k: Annotated[str, typer.Option("-k", metavar="N", help="How many items.")] = "10",
    duplicates: Annotated[bool, _switch("--duplicates", "List the near-duplicates instead.")] = False,
    save: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="Keep the query under a name, for tacit report --since."),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Find the items of a run that are most like a picture, a text, a sound or another item; or near-duplicates."""
    given = {"QUERY": query is not None, "--item": item is not None, "--duplicates": duplicates}
    said = " and ".join(name for name, there in given.items() if there)
    remedy = f"try: tacit search {run} photo.jpg"
    expect("search", said or None, sum(given.values()) == 1, "one of QUERY, --item and --duplicates", remedy)
    count, number = whole("k", k), None if item is None else scalar(item)
    expect("item", number, item is None or (type(number) is int and number >= 0), "the number of an item")
    expect("save", save, save is None or not duplicates, "a name beside a query")
    answer: dict[str, Any] = {"run": run}
    with show.aside(as_json):
        loaded = _load(run, threads)
        if duplicates:
            groups = loaded.duplicates()
            answer["groups"] = [_fields(group, "items uris similarity exact") for group in groups]
        else:
            asked = query if number is None else number
            hits = loaded.search(asked, count)
            answer |= {"query": asked, "hits": [_fields(hit, "item uri score text") for hit in hits]}
        if save is not None:
            loaded.save_query(save, asked)
            answer["saved"] = save
    if as_json:
        show.as_json(answer)
    elif duplicates:
        show.duplicates(groups)
    else:
        show.hits(hits)


@app.command(epilog=_examples("tacit report run/ --no-thumbnails", "tacit report run/ --since 7d"))
def report(
    run: RunFolder,
    thumbnails: Annotated[
        Optional[bool],  # noqa: UP045
        _switch("--thumbnails/--no-thumbnails", "With small pictures of the items, or without; else as last time."),
    ] = None,
    since: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="TIME",
            help="Write what is new and trending for each saved query since then instead: 7d, 36h, 2w, or a day.",
        ),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run anew: one self-contained HTML file; or, with --since, its news: a page and a feed."""
    with show.aside(as_json):
        loaded = _load(run, threads)
        if since is None:
            path = loaded.report(thumbnails=thumbnails)
        else:
            news = loaded.news(since)
    if since is None:
        _answer_with_path("report", path, as_json)
    elif as_json:
        show.as_json(news.as_dict())
    else:
        show.news(news)


@app.command(
    epilog=_examples(
        "tacit export run/ --to onnx",
        "tacit export run/ --to folder --out encoder/",
        "tacit export run/ --to hub --out me/photos",
    )
)
def export(
    run: RunFolder,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help=f"{', '.join(EXPORTS)}.")] = "safetensors",
    out: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--out", "-o", metavar="PLACE", help="File or folder; in the run's folder if left out. For hub: USER/NAME."
        ),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Write the encoder of a run for other programs, or with its card for others to use; or upload it to the hub."""
    if to not in EXPORTS:
        raise unknown("to", to, EXPORTS)
    expect("out", out, to != "hub" or bool(out), "USER/NAME on the Hugging Face hub")
    with show.aside(as_json):
        loaded = _load(run, threads)
        place = loaded.push_to_hub(str(out)) if to == "hub" else loaded.export(to=to, path=out)
    _answer_with_path("path", place, as_json)


for _command, _shown in _labelling.COMMANDS.items():
    app.command(epilog=_examples(*_shown))(_command)
app.command(epilog=_examples(*_generate.GENERATE_EXAMPLES))(_generate.generate)
app.command(epilog=_examples(*_generate.RESTORE_EXAMPLES))(_generate.restore)
app.command(epilog=_examples(*_segment.EXAMPLES))(_segment.segment)
app.command(epilog=_examples(*_explore.EXAMPLES))(_explore.explore)
app.command(epilog=_examples(*_unlearn.EXAMPLES))(_unlearn.unlearn)


app.command(epilog=_examples(*_add.EXAMPLES))(_add.add)
app.command(epilog=_examples(*_systems.EXAMPLES))(_systems.systems)


def _load(run: str, threads: str | None) -> Any:
    """The run, with memory and threads set before torch is imported."""
    given = LearnSettings(data=run, threads=None if threads is None else scalar(threads))
    get_ready(given.threads)
    from tacit.runs import load

    return load(run)


def _answer_with_path(name: str, path: Path, as_json: bool) -> None:
    if as_json:
        show.as_json({name: path})
    else:
        print(path)


def _fields(thing: object, names: str) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names.split()}


def _print_version(as_json: bool) -> None:
    if as_json:
        show.as_json({"tacit": __version__, "python": platform.python_version(), "torch": _installed("torch")})
    else:
        print(f"tacit {__version__}")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
