"""The page of evidence, docs/evidence.md: verdicts by level, then every claim with its numbers, whatever they say."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tacit import catalogue
from tacit.claims._calibration import HEAVY, calibration
from tacit.claims._evidence import VERDICTS, Standing, standings
from tacit.claims._found import Found, find_claims
from tacit.claims._hashes import ROOT
from tacit.claims._marks import Claim
from tacit.claims._record import Record, read_records
from tacit.claims._words import anova_rows, baseline_of, effect_words, passes_words, scores_words, steps_words

WRITTEN = "This page is written by `tacit claims table`"
"""By which the page is known."""
HEAD = f"""# Evidence: does each method do what its paper says?

Every system here re-tests a claim of its paper against its own kind of baseline: the same data, network, steps and
seeds on both sides. A verdict compares the 95 % interval of the difference with a margin that was set before the claim
was run: **holds** if all of it lies above, **fails** if all of it lies below, **unclear** if the margin lies within.

**A proxy is no reproduction.** Ten minutes on a CPU in the place of a billion images say whether the mechanism works
there, and nothing about the paper's own setting; proxies are counted apart. The paper's number stands beside ours, and
the two compare only where the last column names the paper's setting. What fails is listed like what holds.

`tacit claims run NAME` runs a claim again on your machine, `tacit claims run NAME --data DIR --labels folder` on your
own data. {WRITTEN} from the records in `evidence/`.
"""

SURE = """## How sure is a verdict

A claim runs on five seeds, each of which draws data, weights, order and views anew, and the interval is Student's t of
the five differences. Five see an effect of two standard deviations, and not half of one: an effect that is smaller
stays unclear. Measured on 10,000 planted comparisons for each kind of noise:
"""

LEVELS = {
    "method": "the whole published method",
    "mechanism": "its core at small scale",
    "protocol": "a study or benchmark as a harness",
    "entry": "a survey or data set as what a user would call",
    "baseline": "what others are compared with",
}
NOISES = {
    "normal": "normal",
    "heavy-tailed": f"heavy-tailed (Student's t, {HEAVY} degrees of freedom)",
    "skewed up": "skewed (exponential), long tail above",
    "skewed down": "skewed (exponential), long tail below",
}


def evidence_page(records: Path, *, at: Path = Path("docs")) -> str:
    """The page, in Markdown, from a folder of records.

    Args:
        records: folder of `SYSTEM.jsonl`.
        at: folder that the page will lie in; links to source files start there, and take this one for tacit's checkout.
    """
    every = find_claims()
    known = standings((found for found in every if isinstance(found.mark, Claim)), [records])
    areas = dict.fromkeys(one.found.entry.area for one in known)
    parts = [
        HEAD,
        _counts(known),
        *(_area(area, [one for one in known if one.found.entry.area == area], at) for area in areas),
        _anova(known),
        _gone(records, {one.found.id for one in known}),
        _properties([found for found in every if not isinstance(found.mark, Claim)]),
        _sure(),
    ]
    return "\n".join(part for part in parts if part)


# counts ---------------------------------------------------------------------------------------------------------------


def _counts(known: Sequence[Standing]) -> str:
    """Verdicts by level, proxies apart; fresh seeds; moved margins."""
    systems = len({one.found.system for one in known})
    lines = [
        "## Counts",
        "",
        f"{len(known)} claims of {systems} systems.",
        "",
        _row("level", *VERDICTS, "claims"),
        _rule(len(VERDICTS) + 2),
    ]
    for level in catalogue.LEVELS:
        for proxies in (False, True):
            rows = [one for one in known if one.found.entry.level == level and _is_proxy(one) == proxies]
            if rows:
                words = [one.verdict for one in rows]
                name = f"{level}, by a proxy" if proxies else f"{level}: {LEVELS[level]}"
                lines.append(_row(name, *(words.count(verdict) for verdict in VERDICTS), len(rows)))
    return "\n".join([*lines, "", *_trust(known)]) + "\n"


def _trust(known: Sequence[Standing]) -> Iterator[str]:
    fresh = [one for one in known if one.current and one.agrees is not None]
    agree = sum(bool(one.agrees) for one in fresh)
    share = f"{agree} of {len(fresh)} ({100 * agree / len(fresh):.0f} %)" if fresh else "none run yet"
    yield f"- Fresh seeds (`--reseed`) give the same verdict: {share}."
    moved = {one.found.id: one.moves for one in known if one.moves}
    yield f"- Margins moved after a record existed: {sum(moved.values())}{_names(moved)}."
    edited = [one.found.id for one in known if one.edited]
    yield f"- Claims changed after their last record and not run since: {len(edited)}{_names(edited)}."


def _names(ids: Iterable[str]) -> str:
    words = ", ".join(f"`{id}`" for id in ids)
    return f" ({words})" if words else ""


# claims ---------------------------------------------------------------------------------------------------------------


def _area(area: str, rows: Sequence[Standing], at: Path) -> str:
    titles = [
        *("system", "level", "claim", "verdict", "effect [95 % interval], margin", "seeds"),
        *("reported by the paper", "here", "how it was run"),
    ]
    lines = [f"## {area}", "", _row(*titles), _rule(len(titles)), *(_claim(one, at) for one in rows)]
    return "\n".join(lines) + "\n"


def _claim(one: Standing, at: Path) -> str:
    mark, record = one.found.mark, one.shown
    assert isinstance(mark, Claim)
    says = f"{mark.says} (`{one.found.function}`)" + (f"<br>*a proxy:* {mark.proxy}" if mark.proxy else "")
    cells = ["", "", mark.reported, "", ""]
    if record is not None:
        cells = [effect_words(record), _seeds(record), record.reported, _here(record, mark.proxy), _how(record)]
    return _row(_link(one.found, at), one.found.entry.level, says, _verdict(one), *cells)


def _verdict(one: Standing) -> str:
    """The verdict, and beside it what it was before an edit and what fresh seeds say."""
    word = one.verdict if one.current or not one.last else f"stale (was {one.last.verdict})"
    said = [f"**{word}**"]
    past = [record for record in one.versions if one.shown is None or record.claim_hash != one.shown.claim_hash]
    said += [f"before an edit: {record.verdict}, {effect_words(record)} ({record.date})" for record in past]
    if one.reseed:
        said.append(f"fresh seeds: {one.reseed.verdict}, {effect_words(one.reseed)}")
    if one.edited:
        said.append("changed since and not run")
    return "<br>".join(said)


def _seeds(record: Record) -> str:
    return f"{len(record.effects)} pairs" if record.kind == "speed" else str(len(record.seeds))


def _here(record: Record, proxy: str | None) -> str:
    """Our numbers; where a proxy stands in, they are not to be read beside the paper's."""
    words = scores_words(record) or "see effect"
    names = f"{record.system} against {baseline_of(record)}: " if record.baseline else ""
    return f"{names}{words}" + (" (not comparable)" if proxy else "")


def _how(record: Record) -> str:
    revealed = "*the claim saw the labels of the test part*" if record.details.get("revealed") else ""
    said = [f"{record.budget}, {record.device}", steps_words(record), record.details.get("by", ""), record.setting]
    return "; ".join(part for part in [*said, passes_words(record), revealed, record.date] if part)


def _link(found: Found, at: Path) -> str:
    """The system's id, linked to its file where that is one of tacit's own."""
    if ROOT not in found.entry.source.parents:
        return f"`{found.system}`"
    source = Path("src/tacit") / found.entry.source.relative_to(ROOT)
    return f"[`{found.system}`]({Path(os.path.relpath(source, at)).as_posix()})"


# the rest -------------------------------------------------------------------------------------------------------------


def _anova(known: Sequence[Standing]) -> str:
    """The analyses of variance behind factorial claims."""
    parts = []
    for one in known:
        rows = anova_rows(one.shown) if one.shown is not None else []
        if rows:
            titles = _row("source of variance", "degrees of freedom", "share", "F", "p"), _rule(5)
            parts += [f"### `{one.found.id}`", "", *titles, *(_row(*cells) for cells in rows), ""]
    return "\n".join(["## Analyses of variance", "", *parts]) if parts else ""


def _gone(folder: Path, known: set[str]) -> str:
    """Records of claims that are no longer there: a claim does not vanish by another name."""
    files = [path for path in sorted(folder.glob("*.jsonl")) if not path.name.endswith(".tune.jsonl")]
    records = [record for path in files for record in read_records(path)]
    left = {r.claim: r for r in records if r.claim not in known and r.budget != "smoke" and r.own is None}
    lines = [f"- `{id}`: {r.verdict}, {effect_words(r)} ({r.budget}, {r.date})" for id, r in left.items()]
    return "\n".join(["## Claims that were taken out or renamed", "", *lines]) + "\n" if lines else ""


def _properties(properties: Iterable[Found]) -> str:
    """What stands in the place of a claim for baselines and entries."""
    lines = [f"- `{found.system}`: {found.mark.says}" for found in properties]
    head = "For baselines and entries; the tests, and `tacit claims run NAME`, look at each."
    return "\n".join(["## Checked properties", "", head, "", *lines]) + "\n" if lines else ""


def _sure() -> str:
    lines = [
        _row("noise", "holds where the difference is the margin (in error)", "holds where it is 2 deviations above"),
        _rule(3),
        *(_row(words, *(f"{100 * calibration(noise, far):.1f} %" for far in (0.0, 2.0)))
          for noise, words in NOISES.items()),
        "",
        "Normal noise should give 2.5 % and 91 %. Differences of two like distributions are symmetric, so that skew is "
        "the worst case: with a long tail below, `holds` is said too easily.",
    ]  # fmt: skip
    return "\n".join([SURE, *lines]) + "\n"


def _is_proxy(one: Standing) -> bool:
    return bool(getattr(one.found.mark, "proxy", None))


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
