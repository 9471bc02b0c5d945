"""Record: one run of a claim, as a line of evidence/ID.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tacit.errors import RunError

if TYPE_CHECKING:
    from tacit.claims._comparison import Verdict

RECORD_FORMAT = 1


@dataclass(frozen=True)
class Record:
    """What a run of a claim leaves behind."""

    system: str
    claim: str
    """ID/function."""
    level: str
    kind: str
    """Kind of comparison: better, not worse, above, correlation, curve, factors, speed, memory, equal or bound."""
    proxy: str | None
    verdict: Verdict
    effect: float
    interval: tuple[float, float]
    values: Sequence[Any]
    """The system's, by seed (by repetition, for speed); a list a seed for a curve."""
    baseline_values: Sequence[Any]
    effects: Sequence[float]
    seeds: Sequence[int]
    baseline: str
    margin: float
    reported: str
    budget: str
    steps: int | None
    setting: str
    """Data, network and training, in words: what differs from the paper."""
    device: str
    threads: int
    versions: Mapping[str, str]
    commit: str
    """HEAD, with `+` behind it where files differed from it; or the version of an installed package."""
    claim_hash: str
    code_hash: str
    data_hash: str
    reseed: bool
    date: str
    seconds: float
    own: str | None = None
    """A user's own data, where the claim was run on it; such a record never enters the table."""
    details: Mapping[str, Any] = field(default_factory=dict)
    format: int = RECORD_FORMAT

    def append(self, folder: str | Path) -> Path:
        """Add the record to `folder/SYSTEM.jsonl`, after those that are there."""
        path = Path(folder) / f"{self.system}.jsonl"
        append_line(path, asdict(self))
        return path


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line of JSON to a file, in one write, so that two processes never mix theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_records(path: str | Path) -> list[Record]:
    """The records of one evidence file, oldest first; none where there is no file.

    Raises:
        RunError: a line that is no record, or of a later format.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [_read(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _read(line: str, where: str) -> Record:
    known = {field.name for field in fields(Record)}
    try:
        said = json.loads(line)
        later = int(said["format"]) > RECORD_FORMAT
        if not later:
            return Record(**{**{k: v for k, v in said.items() if k in known}, "interval": tuple(said["interval"])})
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{where}: expected a record as `tacit claims run` writes it: {error}") from error
    raise RunError(f"{where}: written by a later tacit (format {said['format']}); update tacit to read it")
