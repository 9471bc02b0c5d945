"""`tacit generate` and `tacit restore`: pictures by a run's diffusion model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from tacit.cli import _show as show
from tacit.cli._machine import get_ready
from tacit.cli._options import scalar, whole, whole_or_none
from tacit.errors import expect

if TYPE_CHECKING:
    from tacit.generating import Pictures
    from tacit.runs import Run

GENERATE_EXAMPLES = (
    "tacit generate run/ -n 16",
    "tacit generate run/ --like photo.jpg --method mpgd",
    "tacit generate run/ --class cat --steps 100",
)
RESTORE_EXAMPLES = (
    "tacit restore run/ photo.jpg --task inpaint --mask scratches.png",
    "tacit restore run/ small.png --task super-resolution --scale 2 --noise 0.05",
    "tacit restore run/ whole.jpg --task deblur --degrade",
)


def _switch(flags: str, says: str) -> Any:
    return typer.Option(flags, metavar="", help=says)


def _option(flags: str, metavar: str, says: str) -> Any:
    return typer.Option(*flags.split(), metavar=metavar, help=says)


Word = Optional[str]  # noqa: UP045
RunFolder = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run of a diffusion model, as --method ddpm trains it.", show_default=False),
]
Seed = Annotated[str, _option("--seed", "N", "Of all chance.")]
Out = Annotated[
    Word,
    _option("--out -o", "DIR", "Folder for the pictures; if left out a new one in RUN/generated, and in the report."),
]
Threads = Annotated[Word, _option("--threads", "N", "Threads of the CPU; as many as cores if left out.")]
Json = Annotated[bool, _switch("--json", "Print one JSON object on standard output.")]


def generate(
    run: RunFolder,
    n: Annotated[str, _option("-n", "N", "How many pictures.")] = "16",
    like: Annotated[Word, _option("--like", "IMAGE", "Aim at the features of this picture.")] = None,
    class_name: Annotated[
        Word,
        _option("--class", "NAME", "Aim at a class among the labels found in the data (LABEL=NAME if several)."),
    ] = None,
    energy: Annotated[
        Word,
        _option(
            "--energy",
            "FILE",
            "Aim low in energy(x) -> (n,), which this Python file defines for images x (n, c, h, w) in [0, 1]. "
            "The file is your own code, and is run.",
        ),
    ] = None,
    method: Annotated[str, _option("--method -m", "NAME", "How to steer: freedom or mpgd.")] = "freedom",
    steps: Annotated[str, _option("--steps", "N", "From noise to picture; more are finer.")] = "50",
    seed: Seed = "0",
    out: Out = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Draw new pictures with a run's diffusion model: like its data, like a picture, or of a class.

    Labels are used for --class alone, and the run's ledger notes it.
    """
    numbers: dict[str, Any] = {
        "n": whole("n", n),
        "steps": whole("steps", steps),
        "seed": whole("seed", seed, least=0),
    }
    steered: dict[str, Any] = {"like": like, "class_name": class_name, "energy": energy}
    with show.aside(as_json):
        loaded = _load(run, threads)
        made = loaded.generate(**numbers, **steered, method=method, out=out, say=_say)
    _answer(loaded, made, as_json)


def restore(
    run: RunFolder,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="What to restore.", show_default=False)],
    task: Annotated[str, _option("--task", "NAME", "What was lost: inpaint, super-resolution, colorize or deblur.")],
    mask: Annotated[
        str, _option("--mask", "FILE", "For inpaint: a picture, white where to fill in; or box, the middle quarter.")
    ] = "box",
    scale: Annotated[str, _option("--scale", "N", "For super-resolution: how many times larger.")] = "2",
    blur: Annotated[str, _option("--blur", "PIXELS", "For deblur: deviation of the Gaussian blur.")] = "1",
    noise: Annotated[
        str, _option("--noise", "SIGMA", "Deviation of noise in the images, where black to white is 1.")
    ] = "0",
    degrade: Annotated[
        bool, _switch("--degrade", "The images are whole: degrade them first, then compare (PSNR).")
    ] = False,
    steps: Annotated[str, _option("--steps", "N", "From noise to picture; more are finer.")] = "50",
    repeats: Annotated[
        str, _option("--repeats", "N", "Walk each step so often: 1 is fastest, 10 helps where much is lost.")
    ] = "4",
    seed: Seed = "0",
    out: Out = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Restore pictures with a run's diffusion model, without training for the task.

    What is filled in is invented: it looks like the run's data, at the run's size.
    """
    counts = {"scale": whole("scale", scale), "steps": whole("steps", steps), "repeats": whole("repeats", repeats)}
    numbers: dict[str, Any] = {**counts, "blur": _number("blur", blur), "noise": _number("noise", noise)}
    numbers["seed"] = whole("seed", seed, least=0)
    with show.aside(as_json):
        loaded = _load(run, threads)
        made = loaded.restore(*images, task=task, mask=mask, degrade=degrade, **numbers, out=out, say=_say)
    _answer(loaded, made, as_json)


def _load(run: str, threads: str | None) -> Run:
    get_ready(whole_or_none("threads", threads))
    from tacit.runs import load

    return load(run)


def _say(line: str) -> None:
    show.lines([line])


def _answer(run: Run, made: Pictures, as_json: bool) -> None:
    in_report = Path(made.folder).parent == Path(run.folder) / "generated"
    report = show.report_of(run) if in_report else None
    if as_json:
        said = {"folder": made.folder, "sheet": made.sheet, "files": made.files, "what": made.what}
        show.as_json({**said, "lines": made.lines, "psnr": made.psnr, "report": report})
        return
    show.lines(made.lines)
    show.lines([f"Pictures: {made.folder}", f"Contact sheet: {made.sheet}"], wrap=False)
    if report:
        show.lines([f"Report: {report}"], wrap=False)


def _number(name: str, text: str) -> float:
    value = scalar(text)
    expect(name, value, type(value) in (int, float) and value >= 0, "a number, at least 0")
    return float(value)
