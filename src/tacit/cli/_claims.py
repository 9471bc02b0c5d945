"""`tacit claims`: run what the papers claim, show what came out, write the pages of evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from tacit.cli import _show as show
from tacit.cli._machine import get_ready
from tacit.cli._options import whole, whole_or_none
from tacit.errors import ArgumentError, DataError, expect, unknown

if TYPE_CHECKING:
    from tacit.claims._evidence import Standing
    from tacit.claims._found import Found
    from tacit.claims._record import Record

PAGE, PICTURES = "docs/evidence.md", "docs/systems/pictures"
"""Where these lie in tacit's checkout."""
BROKEN = 1
"""Exit code where a claim broke off with an error of the program; a claim that fails is a result, and 0."""

app = typer.Typer(
    help="Re-test what the papers claim, each against its own baseline, and show what came out.",
    epilog="Start with: [bold]tacit claims run dcl --budget smoke[/]",
)

Name = Annotated[
    Optional[str],  # noqa: UP045
    typer.Argument(metavar="NAME", help="A system, such as dcl, or one claim, ID/claim.", show_default=False),
]
Evidence = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--evidence", metavar="DIR", help="Folder of the records. Default: evidence."),
]


def _switch(flags: str, says: str) -> Any:
    return typer.Option(flags, metavar="", help=says)


def _option(flags: str, metavar: str, says: str) -> Any:
    return typer.Option(flags, metavar=metavar, help=says)


Json = Annotated[bool, _switch("--json", "Print one JSON object on standard output.")]
Device = Annotated[str, _option("--device", "WHICH", "cpu or cuda.")]
Word = Optional[str]  # noqa: UP045


@app.callback(invoke_without_command=True)
def claims(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


# run ------------------------------------------------------------------------------------------------------------------


@app.command(
    epilog="[dim]Examples[/]\n\ntacit claims run dcl --budget smoke\n\n"
    "tacit claims run dcl --data photos/ --labels folder\n\ntacit claims run --all --budget full --device cuda --jobs 8"
)
def run(
    name: Name = None,
    area: Annotated[Word, _option("--area", "NAME", "All claims of an area, such as pretrain.")] = None,
    every: Annotated[bool, _switch("--all", "All claims.")] = False,
    budget: Annotated[
        str, _option("--budget", "WHICH", "smoke (seconds: it runs), small (minutes) or full (a GPU, or an hour).")
    ] = "small",
    device: Device = "cpu",
    jobs: Annotated[str, _option("--jobs", "N", "Trials at once, each in a process of its own.")] = "1",
    reseed: Annotated[bool, _switch("--reseed", "On fresh seeds, which must give the same verdict.")] = False,
    again: Annotated[bool, _switch("--again", "Run anew what has been run and is not stale.")] = False,
    data: Annotated[
        Word, _option("--data", "DIR", "Your own data in place of the claim's: would the system help you?")
    ] = None,
    labels: Annotated[
        Word, _option("--labels", "WHICH", "Labels of your data, to score by: folder or a COLUMN.")
    ] = None,
    evidence: Evidence = None,
    threads: Annotated[Word, _option("--threads", "N", "Threads of the CPU; as many as cores if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Run claims: the paper's system and its baseline on the same data, seeds and steps, and a verdict.

    Each run but those at smoke is recorded in evidence/SYSTEM.jsonl. Killed, the same command goes on where it stood.
    """
    from tacit.claims._evidence import BUDGETS, EVIDENCE

    if budget not in BUDGETS:
        raise unknown("budget", budget, BUDGETS)
    if labels is not None and data is None:
        raise ArgumentError(f"labels={labels!r}: expected --data DIR with it, since a claim knows its own labels")
    chosen = _chosen(name, area, every, only_claims=data is not None)
    count = whole("jobs", jobs)
    with show.aside(as_json):
        get_ready(whole_or_none("threads", threads))
        _check_device(device)
        from tacit.claims._run import Settings
        from tacit.cli import _verdicts as verdicts

        settings = Settings(budget, device, reseed, data, "folder" if labels == "folders" else labels or "auto")  # type: ignore[arg-type]
        place = Path(evidence) if evidence else EVIDENCE
        ended = list(_run(chosen, settings, place, jobs=count, again=again, quiet=as_json))
        if len(chosen) > 1 and not as_json:
            verdicts.sum_up(ended)
    if as_json:
        show.as_json({"evidence": place, "claims": [_as_dict(*one) for one in ended]})
    if any(_broke(note) for _, _, note in ended):
        raise typer.Exit(BROKEN)


def _chosen(name: str | None, area: str | None, every: bool, *, only_claims: bool) -> list[Found]:
    from tacit.claims._found import find_claims
    from tacit.claims._marks import Claim

    given = [word for word, ok in (("NAME", name), ("--area", area), ("--all", every)) if ok]
    if len(given) != 1:
        said = " and ".join(given) or "nothing"
        raise ArgumentError(f"claims={said}: expected one of NAME, --area and --all; try: tacit claims run dcl")
    found = find_claims(name, area=area)
    if only_claims:
        found = [one for one in found if isinstance(one.mark, Claim)]
    if not found:
        what = f"area={area!r}" if area else f"name={name!r}"
        raise ArgumentError(f"{what}: expected a claim to run, and there is none yet; see: tacit claims show")
    return found


def _check_device(device: str) -> None:
    import torch

    known = device == "cpu" or device == "cuda" or device.startswith("cuda:")
    expect("device", device, known, "cpu or cuda")
    ok = device == "cpu" or torch.cuda.is_available()
    expect("device", device, ok, "cpu, since torch finds no GPU here")


def _run(
    chosen: Sequence[Found], settings: Any, evidence: Path, *, jobs: int, again: bool, quiet: bool
) -> Iterator[tuple[Found, Record | None, str]]:
    """The claims as they end, each shown at once; a line that is rewritten in place says what runs."""
    from tacit.claims._run import run_claims
    from tacit.cli import _verdicts as verdicts
    from tacit.cli._lines import Lines

    lines = Lines(settings.budget)
    running = run_claims(chosen, settings, evidence=evidence, jobs=jobs, again=again, progress=lines.tell)
    try:
        with closing(running):
            for found, record, note in running:
                lines.end(found)
                if not quiet:
                    verdicts.ended(found, record, note, evidence)
                yield found, record, note
    except DataError as error:
        if settings.data is None:
            raise DataError(f"{error}; or run it on data of your own: --data DIR --labels folder") from error
        raise
    finally:
        lines.pause()


def _broke(note: str) -> bool:
    from tacit.claims._run import BROKE

    return note.startswith(BROKE)


def _as_dict(found: Found, record: Record | None, note: str) -> dict[str, Any]:
    return {"claim": found.id, "says": found.mark.says, "note": note, "record": asdict(record) if record else None}


# show -----------------------------------------------------------------------------------------------------------------


@app.command(name="show", epilog="[dim]Examples[/]\n\ntacit claims show\n\ntacit claims show dcl")
def show_(
    name: Name = None,
    evidence: Annotated[
        Word,
        _option("--evidence", "DIR", "Folder of the records. Default: those published with tacit and ./evidence."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what came out of the claims: a table of all, or everything there is of one system or claim."""
    from tacit.claims._evidence import EVIDENCE, published, standings
    from tacit.claims._found import find_claims
    from tacit.claims._marks import Claim
    from tacit.cli import _verdicts as verdicts

    folders = [Path(evidence)] if evidence else [published(), EVIDENCE]
    found = find_claims(name)
    known = standings((one for one in found if isinstance(one.mark, Claim)), folders)
    properties = [one for one in found if not isinstance(one.mark, Claim)]
    if as_json:
        show.as_json({"claims": [_standing_as_dict(one, whole=name is not None) for one in known],
                      "properties": [{"property": one.id, "says": one.mark.says} for one in properties]})  # fmt: skip
    elif name is None:
        verdicts.table(known)
    else:
        for one in known:
            verdicts.everything(one, folders)
        for entry in {one.found.entry for one in known}:
            verdicts.settings(entry)
        show.lines(f"{one.id}: a checked property: {one.mark.says}" for one in properties)
        if not found:
            show.lines([f"{name} has no claim yet"])


def _standing_as_dict(one: Standing, *, whole: bool) -> dict[str, Any]:
    mark, record = one.found.mark, one.shown
    said: dict[str, Any] = {"claim": one.found.id, "area": one.found.entry.area, "level": one.found.entry.level}
    said |= {"says": mark.says, "reported": mark.reported, "proxy": mark.proxy, "how": one.found.doc}  # type: ignore[union-attr]
    said |= {"verdict": one.verdict, "record": asdict(record) if record else None, "reseed_agrees": one.agrees}
    said |= {"edited_since": one.edited, "margin_moves": one.moves}
    if whole:
        said |= {"versions": [asdict(past) for past in one.versions], "records": [asdict(r) for r in one.records]}
    return said


# table and tune -------------------------------------------------------------------------------------------------------


@app.command(epilog="[dim]Example[/]\n\ntacit claims table --out evidence.md")
def table(
    out: Annotated[
        Word,
        typer.Option("--out", "-o", metavar="FILE", help=f"File to write. In tacit's checkout: {PAGE}."),
    ] = None,
    evidence: Evidence = None,
    as_json: Json = False,
) -> None:
    """Write the page of evidence from the records: verdicts by level, and every claim with its numbers."""
    from tacit.checkpoints import expect_ours
    from tacit.claims._evidence import EVIDENCE
    from tacit.claims._table import WRITTEN, evidence_page

    records = Path(evidence) if evidence else EVIDENCE
    expect("evidence", str(records), records.is_dir(), "a folder of records", "run some first: tacit claims run dcl")
    path = _place(out, PAGE)
    expect_ours(path, WRITTEN)
    page = evidence_page(records, at=path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    if as_json:
        show.as_json({"page": path})
    else:
        print(path)


@app.command(epilog="[dim]Example[/]\n\ntacit claims draw uniformity-tolerance --out pictures/")
def draw(
    name: Annotated[Word, typer.Argument(metavar="NAME", help="A system.", show_default=False)] = None,
    every: Annotated[bool, _switch("--all", "All systems.")] = False,
    out: Annotated[Word, _option("--out", "DIR", f"Folder of the pictures. In tacit's checkout: {PICTURES}.")] = None,
    device: Device = "cpu",
    evidence: Evidence = None,
    as_json: Json = False,
) -> None:
    """Draw what a system has to show on its page: curves from the records, and its own pictures.

    What its claims have trained on this machine is drawn; what they have not is trained first.
    """
    from tacit import catalogue
    from tacit.claims._drawings import draw as draw_one
    from tacit.claims._evidence import EVIDENCE, standings
    from tacit.claims._found import read_claims
    from tacit.claims._marks import Claim

    known = catalogue.by_id()
    expect("NAME", name, (name is None) == every, "one system, or --all")
    if name is not None and name not in known:
        raise unknown("NAME", name, known)
    folder, records, drawn = _place(out, PICTURES), Path(evidence) if evidence else EVIDENCE, []
    with show.aside(as_json):
        get_ready()
        _check_device(device)
        for entry in [known[name]] if name else known.values():
            claims = [found for found in read_claims(entry) if isinstance(found.mark, Claim)]
            for path in draw_one(entry, standings(claims, [records]), folder, device=device):
                drawn.append(path)
                show.lines([str(path)])
        if not drawn:
            show.lines([f"{name or 'no system'} has nothing to draw"])
    if as_json:
        show.as_json({"pictures": drawn})


@app.command(epilog="[dim]Example[/]\n\ntacit claims tune dcl --trials 8")
def tune(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A system or one claim.", show_default=False)],
    trials: Annotated[str, _option("--trials", "N", "Trials on each side.")] = "8",
    device: Device = "cpu",
    evidence: Evidence = None,
    as_json: Json = False,
) -> None:
    """Try settings on a validation split, as many for the baseline, and say what to write into the `small` preset.

    Done once, before the claim is run; the trials are kept in evidence/SYSTEM.tune.jsonl.
    """
    from tacit.claims._evidence import EVIDENCE

    found, count = _one_claim(name), whole("trials", trials)
    with show.aside(as_json):
        get_ready()
        _check_device(device)
        from tacit.claims._tune import draw
        from tacit.claims._tune import tune as run_trials
        from tacit.cli import _verdicts as verdicts

        def tell(system: str, trial: int, total: int, score: float) -> None:
            words = verdicts.settings_words(draw(system, trial - 1))
            show.lines([f"{system}  trial {trial} of {total}  {words}  {score:.4g}"])

        tuned = run_trials(
            found, trials=count, device=device, evidence=Path(evidence) if evidence else EVIDENCE, progress=tell
        )
        if not as_json:
            show.lines(["", *(verdicts.tuned(system, side) for system, side in tuned.items())])
    if as_json:
        sides = {id: {"best": side.best, "score": side.score, "trials": side.trials} for id, side in tuned.items()}
        show.as_json({"claim": found.id, "sides": sides})


def _place(out: str | None, own: str) -> Path:
    """`out`, or where it belongs in tacit's checkout: in a folder of the user's it has no place of its own."""
    from tacit.claims._hashes import ROOT

    ok = out is not None or Path.cwd() == ROOT.parents[1].resolve()
    expect("out", out, ok, f"a place, since {own} is that in tacit's checkout alone", "say which: --out")
    return Path(out or own)


def _one_claim(name: str) -> Found:
    from tacit.claims._found import find_claims
    from tacit.claims._marks import Claim

    found = [one for one in find_claims(name) if isinstance(one.mark, Claim)]
    names = " or ".join(one.id for one in found) or "a system with a claim, and there is none"
    expect("name", name, len(found) == 1, f"one claim: {names}")
    return found[0]
