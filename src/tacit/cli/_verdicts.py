"""What `tacit claims` prints of records: a block for each verdict, the table of all, everything of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from tacit.claims._evidence import VERDICTS
from tacit.claims._words import (
    EXACT,
    RATIOS,
    advice,
    anova_rows,
    baseline_of,
    compared,
    effect_words,
    interval_words,
    means,
    number_words,
    passes_words,
    scores_words,
    short,
)
from tacit.cli import _show as show
from tacit.progress import duration

if TYPE_CHECKING:
    from tacit.catalogue import Entry
    from tacit.claims._evidence import Standing
    from tacit.claims._found import Found
    from tacit.claims._record import Record

STYLES = {"holds": "bold green", "fails": "bold red", "unclear": "bold yellow", "stale": "yellow", "not run": "dim"}
WORDS = ("holds", "fails", "unclear", "ran at smoke", "checked", "not run", "broke")
WIDE = 140
"""Columns from which the table of claims has room for intervals."""


def ended(found: Found, record: Record | None, note: str, evidence: Path) -> None:
    """A claim that was run: the block that a stranger understands."""
    if record is None:
        show.lines([f"{found.id}: {note}"], style="" if note.startswith("checked") else "yellow")
        return
    place = f"{evidence / found.system}.jsonl" if record.budget != "smoke" else "none at smoke"
    pairs = [*_block(found, record), ("Note", note), ("Record", place)]
    _headline(found.id, _word(record, note))
    show.labelled(pairs)
    show.lines([""])


def _block(found: Found, record: Record) -> list[tuple[str, str]]:
    """What a stranger has to know to judge a verdict; a line whose text is empty is left out."""
    if record.kind in EXACT:
        effect = f"largest {EXACT[record.kind]} {short(record.effect)}; tolerance {short(record.margin)}"
    else:
        words = interval_words(record, ", 95 % interval {low} to {high}")
        effect = f"{words}; margin {short(record.margin)}"
    verdict = means(record) if record.budget == "smoke" else f"{record.verdict}: {means(record)}"
    return [
        ("The paper", found.mark.says),
        ("Reported", record.reported),
        ("Tested here", " ".join(found.doc.split("\n\n")[0].split())),
        ("", f"a proxy: {record.proxy}" if record.proxy else ""),
        ("Compared", compared(record)),
        ("", passes_words(record)),
        ("Your data", f"{record.own}, in place of the claim's own" if record.own else ""),
        ("Scores", scores_words(record)),
        ("Variance", "; ".join(f"{name} {share}" for name, _, share, *_ in anova_rows(record))),
        ("Effect", effect),
        ("Verdict", verdict),
        ("Answer", advice(record) if record.own else ""),
        ("Labels", "the claim saw those of the test part, as its task needs" if record.details.get("revealed") else ""),
        ("Time", duration(record.seconds)),
    ]


def _headline(title: str, word: str) -> None:
    line = Text(f"{title}: ", style="bold")
    Console().print(line.append(word, style=STYLES.get(word, "dim")), soft_wrap=True)


def sum_up(ended: Sequence[tuple[Found, Record | None, str]]) -> None:
    """How many came out how."""
    words = [_word(record, note) for _, record, note in ended]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(sorted(words, key=WORDS.index)))
    show.lines([f"{len(ended)} in all: {counts}"], style="bold")


def _word(record: Record | None, note: str) -> str:
    if record is not None:
        return record.verdict if record.budget != "smoke" else "ran at smoke"
    return next((word for word in WORDS if note.startswith(word)), "not run")


def table(known: Sequence[Standing]) -> None:
    """All claims; where the terminal is narrower than all there is to say, without intervals, then the essentials."""
    console = Console()
    width = console.width if console.is_terminal else WIDE
    titles = ["claim", "verdict", "effect", "proxy"]
    if width >= show.ROOMY:
        titles = ["claim", "level", "verdict", "effect", "budget", "date", "proxy"]
    rows = [_cells(one, whole=width >= WIDE) for one in known]
    show.rows([[row[title] for title in titles] for row in rows], titles, folds=[0])
    if console.is_terminal:
        words = sorted((one.verdict for one in known), key=VERDICTS.index)
        counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
        show.lines(["", f"{len(known)} claims: {counts}; try: tacit claims show dcl"])


def _cells(one: Standing, *, whole: bool) -> dict[str, str]:
    record, mark = one.shown, one.found.mark
    cells = {"claim": one.found.id, "level": one.found.entry.level, "verdict": one.verdict}
    cells |= {"effect": "", "budget": "", "date": "", "proxy": "proxy" if getattr(mark, "proxy", None) else ""}
    if record is not None:
        effect = effect_words(record) if whole else number_words(record)
        cells |= {"effect": effect, "budget": record.budget, "date": record.date}
        if whole and not one.current:
            cells["verdict"] = f"stale, was {record.verdict}"
    return cells


def everything(one: Standing, folders: Sequence[Path]) -> None:
    """Whatever there is of a claim: its verdict, versions, fresh seeds, settings, tuning, all records."""
    found, record = one.found, one.shown
    _headline(found.id, one.verdict)
    if record is None:
        mark: Any = found.mark
        how = " ".join(found.doc.split("\n\n")[0].split())
        proxy = f"a proxy: {mark.proxy}" if mark.proxy else ""
        show.labelled([("The paper", mark.says), ("Reported", mark.reported), ("Tested here", how), ("", proxy)])
        show.labelled([("Run it", f"tacit claims run {found.id}")])
    else:
        stale = "claim or code have changed since it was run; the numbers are those of the last run"
        show.labelled([("Stale", "" if one.current else stale), *_block(found, record), *_by_seed(record)])
    fresh = one.reseed
    agrees = {True: "the same verdict", False: "ANOTHER verdict", None: ""}[one.agrees]
    show.labelled([
        ("Fresh seeds", f"{agrees}: {fresh.verdict}, {effect_words(fresh)}" if fresh else ""),
        ("Edited", _edits(one)),
        *_tuning(one, folders),
    ])  # fmt: skip
    for number, past in enumerate(one.records):
        where = "own data" if past.own else "fresh seeds" if past.reseed else ""
        said = (
            f"{past.date}  {past.budget}  {past.device}  {past.verdict}  {effect_words(past)}  {past.commit}  {where}"
        )
        show.labelled([("" if number else "History", said.strip())])
    show.lines([""])


def _by_seed(record: Record) -> list[tuple[str, str]]:
    if record.kind in (*EXACT, *RATIOS) or any(isinstance(value, list) for value in record.values):
        return []
    sides = [(record.system, record.values), (baseline_of(record), record.baseline_values)]
    words = [f"{name} {' '.join(short(value) for value in values)}" for name, values in sides if len(values)]
    return [("By seed", "; ".join(words))]


def _edits(one: Standing) -> str:
    """Both verdicts of a claim that was changed after a record existed."""
    said = [f"{record.verdict} ({effect_words(record)}; {record.date})" for record in one.versions]
    words = f"the claim was changed after a record existed; its verdicts: {', then '.join(said)}" * (len(said) > 1)
    not_yet = "the claim was changed after its last record and has not been run since" * one.edited
    return "; ".join(part for part in (words, not_yet) if part)


def settings(entry: Entry) -> None:
    """The presets of a system: the paper's, and the one its claims run with."""
    from tacit.claims._evidence import presets

    said = [(name, values) for name, values in presets(entry).items() if name in ("paper", "small") and values]
    if said:
        show.lines([f"settings of {entry.id}"], style="bold")
        show.labelled((name, settings_words(values)) for name, values in said)


def _tuning(one: Standing, folders: Sequence[Path]) -> list[tuple[str, str]]:
    """The best of the trials that were made for this claim, side by side."""
    from tacit.claims._evidence import read_tuning

    found = []
    for side in dict.fromkeys([one.found.system, *([one.shown.baseline] if one.shown else [])]):
        trials = [trial for trial in read_tuning(folders, side) if trial["claim"] == one.found.id]
        if trials:
            best = max(trials, key=lambda trial: trial["score"])
            words = settings_words(best["settings"])
            found.append(("Tuned", f"{side}: best of {len(trials)} trials {best['score']:.3g}, with {words}"))
    return found


def settings_words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "the preset as it is"


def tuned(system: str, side: Any) -> str:
    """What to write into the file of a side that was tuned."""
    from tacit import catalogue

    if not side.best:
        return f"{system}: the preset is the best of {len(side.trials)}; nothing to write"
    words = ", ".join(f'"{name}": {value!r}' for name, value in side.best.items())
    return f'{system}: write into settings["small"] of {catalogue.find(system).source.name}: {words}'
