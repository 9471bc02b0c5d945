"""Evidence: the records that there are of a claim, and which of them still speaks for the code as it stands."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from tacit import catalogue
from tacit.catalogue import Entry
from tacit.claims._found import Found
from tacit.claims._hashes import ROOT, code_hash, texts_of
from tacit.claims._record import Record, read_records

EVIDENCE = Path("evidence")
"""Where records go, and where they are looked for first."""
BUDGETS = ("smoke", "small", "full")
"""From the least to the most; a run at smoke shows that the claim runs, and is no evidence."""
VERDICTS = ("holds", "fails", "unclear", "stale", "not run")


def published() -> Path:
    """The records published with tacit: in an installed package beside its code, in a checkout its `evidence/`."""
    packaged = ROOT / "_evidence"
    return packaged if packaged.is_dir() else ROOT.parents[1] / "evidence"


def read_evidence(folders: Iterable[Path], system: str) -> list[Record]:
    """The records of a system in these folders, oldest first; a folder that is named twice counts once."""
    found = [record for place in _places(folders) for record in read_records(place / f"{system}.jsonl")]
    return sorted(found, key=lambda record: record.date)


def read_tuning(folders: Iterable[Path], system: str) -> list[dict[str, Any]]:
    """The trials by which the system's preset was tuned."""
    files = [place / f"{system}.tune.jsonl" for place in _places(folders)]
    lines = [line for file in files if file.is_file() for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line) for line in lines if line]


def _places(folders: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(folder.resolve() for folder in folders))


def current_code(found: Found, baseline: str = "") -> str:
    """Hash of the code that a claim runs: its file, its baseline's, those of ids that it names, and what they reach."""
    named = {baseline, *texts_of(found.entry.source, found.function)}
    return code_hash({found.entry.source, *(entry.source for entry in catalogue.systems() if entry.id in named)})


def is_stale(record: Record, found: Found) -> bool:
    """Whether claim or code have changed since."""
    return (record.claim_hash, record.code_hash) != (found.hash, current_code(found, record.baseline))


@dataclass(frozen=True)
class Standing:
    """What the records say of a claim, as claim and code stand now.

    Args:
        found: the claim.
        records: all there are of it, oldest first.
    """

    found: Found
    records: Sequence[Record]

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        return self.current.verdict if self.current else "stale" if self.last else "not run"

    @property
    def shown(self) -> Record | None:
        """The record that stands for the claim: the current one, or else the last of those that are stale."""
        return self.current or self.last

    @cached_property
    def current(self) -> Record | None:
        """The newest record that is not stale, of the highest budget there is."""
        return _newest(record for record in self._main if not is_stale(record, self.found))

    @property
    def last(self) -> Record | None:
        """The newest record of the highest budget, stale or not."""
        return _newest(self._main)

    @cached_property
    def reseed(self) -> Record | None:
        """The newest record on fresh seeds that is not stale, at the budget of the one shown."""
        shown = self.shown
        if shown is None:
            return None
        same = [r for r in self.evidence if r.reseed and r.budget == shown.budget]
        return _newest(r for r in same if (r.claim_hash, r.code_hash) == (shown.claim_hash, shown.code_hash))

    @property
    def agrees(self) -> bool | None:
        """Whether fresh seeds gave the same verdict; None where there are none, or none that is not stale."""
        return self.reseed.verdict == self.shown.verdict if self.reseed and self.shown else None

    @property
    def edited(self) -> bool:
        """Whether the claim was changed after the last record, and not run since."""
        return bool(self.evidence) and self.evidence[-1].claim_hash != self.found.hash

    @cached_property
    def versions(self) -> list[Record]:
        """The newest record of each version of the claim, in the order in which they were first run."""
        hashes = dict.fromkeys(record.claim_hash for record in self.evidence)
        groups = [[r for r in self.evidence if r.claim_hash == one] for one in hashes]
        return [_newest(r for r in group if not r.reseed) or group[-1] for group in groups]

    @property
    def moves(self) -> int:
        """How often the margin was moved after a record existed at the same budget."""
        by_budget = [[r.margin for r in self.evidence if r.budget == budget] for budget in BUDGETS]
        return sum(before != after for margins in by_budget for before, after in pairwise(margins))

    @cached_property
    def evidence(self) -> list[Record]:
        """The records that count: not those at smoke, and none on a user's own data."""
        return [r for r in self.records if r.budget != "smoke" and r.own is None]

    @property
    def _main(self) -> list[Record]:
        return [r for r in self.evidence if not r.reseed]


def _newest(records: Iterable[Record]) -> Record | None:
    """The last one of the highest budget."""
    best: Record | None = None
    for record in records:
        if best is None or BUDGETS.index(record.budget) >= BUDGETS.index(best.budget):
            best = record
    return best


def standings(claims: Iterable[Found], folders: Sequence[Path]) -> list[Standing]:
    """One for each claim."""
    known: dict[str, list[Record]] = {}
    found = []
    for one in claims:
        if one.system not in known:
            known[one.system] = read_evidence(folders, one.system)
        found.append(Standing(one, [record for record in known[one.system] if record.claim == one.id]))
    return found


def presets(entry: Entry) -> dict[str, dict[str, Any]]:
    """The `settings` of a system, read from its syntax tree; empty where it has none."""
    for node in ast.walk(ast.parse(entry.source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == entry.name:
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and line.value and ast.unparse(line.target) == "settings":
                    return ast.literal_eval(line.value)
    return {}
