"""`tacit label`, `tacit suggest` and `tacit cluster`: labels and groups of the items of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from tacit.cli import _show as show
from tacit.cli._machine import get_ready
from tacit.cli._options import whole, whole_or_none
from tacit.errors import expect

if TYPE_CHECKING:
    from tacit.answers import Answer
    from tacit.runs import Run


def _option(flags: str, metavar: str, says: str) -> Any:
    return typer.Option(*flags.split(), metavar=metavar, help=says)


Word = Optional[str]  # noqa: UP045
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]
Seed = Annotated[str, _option("--seed", "N", "Of all chance.")]
Out = Annotated[Word, _option("--out -o", "DIR", "Folder for what is found; if left out a new one in the run.")]
Threads = Annotated[Word, _option("--threads", "N", "Threads of the CPU; as many as cores if left out.")]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object on standard output.")]


def label(
    run: RunFolder,
    labels: Annotated[
        Word,
        typer.Argument(
            metavar="LABELS",
            help="A csv, jsonl or parquet: a path (or a number in a column item, id or index), and a label.",
            show_default=False,
        ),
    ] = None,
    column: Annotated[Word, _option("--column", "NAME", "Which column is the label, where there are several.")] = None,
    classes: Annotated[
        Word, _option("--classes", "NAMES", "Names with commas, in place of labels: where images came with texts.")
    ] = None,
    template: Annotated[
        Word, _option("--template", "TEXT", 'What a name is put into; "a photo of a {}" if left out.')
    ] = None,
    keywords: Annotated[
        Word, _option("--keywords", "FILE", "Topics and their words, in place of labels: for texts. yaml.")
    ] = None,
    seed: Seed = "0",
    out: Out = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Label all items of a run, from a few labels or by names alone: each with a probability.

    From labels: probes compete in cross-validation, and the estimated accuracy is corrected for the choice. At least
    two items of each of two classes need a label. By names: those of classes, where a run learned from images and their
    texts (CLIP); or topics' keywords, where it is of texts (Lbl2Vec). Nothing then says how accurate it is.
    """
    _one_of(run, labels, classes, keywords)
    only = {"column": (column, labels, "LABELS"), "template": (template, classes, "--classes")}
    for name, (value, needed, wanted) in only.items():
        expect(name, value, value is None or needed is not None, f"--{name} beside {wanted} only")
    words: dict[str, Any] = {"out": out, "say": _say}
    if labels is None:
        _by_names(run, threads, as_json, classes, template, keywords, whole("seed", seed, 0), words)
        return
    with show.aside(as_json):
        loaded = _load(run, threads)
        found: Any = loaded.label(labels, column=column, seed=whole("seed", seed, 0), **words)
        choice = found.choice
        if not as_json:
            cells = [
                (f"{100 * row['accuracy']:.0f} %", f"{row['likelihood']:.2f}", f"{row['probe']} ({row['setting']})")
                for row in choice.table
            ]
            show.rows(cells, ["accuracy", "log-likelihood", "probe, before the correction"], right=2)
    accuracy = {"value": found.accuracy.value, "low": found.accuracy.low, "high": found.accuracy.high}
    more: dict[str, Any] = {
        "label": found.name,
        "probe": str(choice.candidate),
        "accuracy": {**accuracy, "n": found.accuracy.n},
    }
    more |= {"calibration_error": choice.calibration_error, "temperature": choice.temperature}
    _answer(loaded, found, as_json, more | {"probes": choice.table, "doubtful": found.doubtful})


def _one_of(run: str, labels: str | None, classes: str | None, keywords: str | None) -> None:
    given = {"LABELS": labels, "--classes": classes, "--keywords": keywords}
    said = [name for name, value in given.items() if value is not None]
    remedy = f"try: tacit label {run} labels.csv"
    expect("label", " and ".join(said) or None, len(said) == 1, "one of LABELS, --classes and --keywords", remedy)


def _by_names(
    run: str,
    threads: str | None,
    as_json: bool,
    classes: str | None,
    template: str | None,
    keywords: str | None,
    seed: int,
    words: dict[str, Any],
) -> None:
    if classes is not None:
        words |= {"classes": classes} | ({} if template is None else {"template": template})
    else:
        words |= {"keywords": keywords, "seed": seed}
    with show.aside(as_json):
        loaded = _load(run, threads)
        found: Any = loaded.label(**words)
    _answer(loaded, found, as_json, {"classes": found.classes, "examples": found.examples})


def suggest(
    run: RunFolder,
    n: Annotated[str, _option("-n --n", "N", "How many items.")] = "50",
    labels: Annotated[
        Word, _option("--labels", "NAME", "Which labels are known; those given to tacit label if left out.")
    ] = None,
    task: Annotated[
        str, _option("--for", "TASK", "What the labels are for: classification or regression.")
    ] = "classification",
    seed: Seed = "0",
    out: Out = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Say which items to label next, and why; nothing needs to be labelled yet.

    The table it writes has a column to fill in, and is then what tacit label takes.
    """
    with show.aside(as_json):
        loaded = _load(run, threads)
        words = {"labels": labels, "task": task, "seed": whole("seed", seed, 0), "out": out, "say": _say}
        found = loaded.suggest(whole("n", n), **words)
        if not as_json:
            cells = [
                (str(item), uri, why) for item, uri, why in zip(found.items, found.uris, found.reasons, strict=True)
            ]
            show.rows(cells[:10], ["item", "path", "reason"], right=1)
            if len(cells) > 10:
                show.lines([f"and {len(cells) - 10:,} more in {found.files[0]}"], wrap=False)
    suggestions = [
        {"item": item, "uri": uri, "reason": why}
        for item, uri, why in zip(found.items, found.uris, found.reasons, strict=True)
    ]
    _answer(loaded, found, as_json, {"suggestions": suggestions})


def cluster(
    run: RunFolder,
    k: Annotated[str, _option("-k --k", "N", "How many clusters, or auto: as the data says.")] = "auto",
    method: Annotated[str, _option("--method -m", "NAME", "kmeans, or cpp, which trains two heads first.")] = "kmeans",
    seed: Seed = "0",
    out: Out = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Group the items of a run: a cluster and a confidence for each, and examples of every cluster.

    Clusters are named by their typical words where the items have captions or are texts. The run itself stays as it is.
    """
    with show.aside(as_json):
        loaded = _load(run, threads)
        count = "auto" if k == "auto" else whole("k", k)
        found = loaded.cluster(count, method=method, seed=whole("seed", seed, 0), out=out, say=_say)
    more = {"n_clusters": found.n_clusters, "names": found.names, "examples": found.examples}
    _answer(loaded, found, as_json, more)


COMMANDS: dict[Callable[..., None], tuple[str, ...]] = {
    label: (
        "tacit label run/ labels.csv --column species",
        'tacit label run/ --classes "cat,dog,horse" --template "a drawing of a {}"',
        "tacit label run/ --keywords topics.yaml",
    ),
    suggest: ("tacit suggest run/ --n 50", "tacit suggest run/ --n 20 --labels species"),
    cluster: ("tacit cluster run/", "tacit cluster run/ --k 20 --out groups/"),
}


def _load(run: str, threads: str | None) -> Run:
    get_ready(whole_or_none("threads", threads))
    from tacit.runs import load

    return load(run)


def _say(line: str) -> None:
    show.lines([line])


def _answer(run: Run, found: Answer, as_json: bool, more: dict[str, Any]) -> None:
    in_report = Path(found.folder).parent.parent == Path(run.folder)
    report = show.report_of(run) if in_report else None
    if as_json:
        said = {"folder": found.folder, "files": found.files, "sheet": found.sheet, "what": found.what}
        show.as_json({**said, "lines": found.lines, "report": report, **more})
        return
    show.lines([found.what], style="bold")
    show.lines(found.lines)
    show.lines([f"Tables: {', '.join(str(file) for file in found.files)}"], wrap=False)
    if found.sheet:
        show.lines([f"Contact sheet: {found.sheet}"], wrap=False)
    if report:
        show.lines([f"Report: {report}"], wrap=False)
