"""Labels that a person gives on the page: written to the run's ledger at once, and taken back step by step."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data._ledger import OWN, Ledger, _now
from tacit.errors import expect
from tacit.explore._run import Column, Explored
from tacit.news import STAR

STEPS = 200
"""That can be taken back."""
LONGEST = 100
"""Characters of a label."""


@dataclass(frozen=True)
class Step:
    """One change: of which label, and each item's value before and after; None is no label."""

    name: str
    before: Mapping[str, str | None]
    after: str | None


class Notebook:
    """The labels of one run that its user gives on the page.

    A label is in `labels.sqlite` when `put` returns, and survives a kill from then on. Steps can be taken back, in this
    process; a value that somebody else has changed since, in another window or by `tacit label`, is left as it is.

    Showing people their own labels is no use of labels in the ledger's sense, and leaves no line there; training on
    them is, and goes through `Ledger.take`.

    Args:
        run: folder of the run.
    """

    def __init__(self, run: str | Path) -> None:
        self.path = Path(run) / "labels.sqlite"
        self._done: list[Step] = []
        self._undone: list[Step] = []
        self._lock = threading.Lock()
        if self._is_made():
            self._ledger()  # which brings one of an older format up to date

    @property
    def stamp(self) -> str:
        """Changes whenever the ledger does, also by another process."""
        try:
            state = self.path.stat()
        except OSError:
            return ""
        return f"{state.st_mtime_ns}-{state.st_size}-{state.st_ino}"

    def names(self) -> list[dict[str, Any]]:
        """Each of the user's labels: its name, how many items have it, and its values with their numbers; no marks."""
        if not self._is_made():
            return []
        counts = self._ledger(read_only=True)._read(
            "SELECT name, value, COUNT(*) FROM label WHERE source = 'user' GROUP BY name, value ORDER BY name, value"
        )
        found: dict[str, dict[str, int]] = {}
        for name, value, n in counts:
            if not name.startswith(OWN):
                found.setdefault(name, {})[value] = n
        return [{"name": name, "n": sum(values.values()), "values": values} for name, values in found.items()]

    def given(self, name: str) -> dict[str, str]:
        """The user's labels of one name, by the ledger's keys of items."""
        if not self._is_made():
            return {}
        query = "SELECT item_hash, value FROM label WHERE name = ? AND source = 'user'"
        return dict(self._ledger(read_only=True)._read(query, name))

    def put(self, name: str, value: str | None, keys: Sequence[str]) -> Step:
        """Label items, or, with None, take their label away.

        Raises:
            ArgumentError: no name, or one of a mark's, or a value that is empty or too long.
            RunError: the ledger cannot be written.
        """
        name = name.strip()
        expect("name", name[:LONGEST], 0 < len(name) <= LONGEST, f"the name of a label, at most {LONGEST} characters")
        expect("name", name, not name.startswith(OWN), f"a name without {OWN} before it, which marks have")
        if value is not None:
            value = value.strip()
            expect("value", value[:LONGEST], 0 < len(value) <= LONGEST, f"a label, at most {LONGEST} characters")
        return self._step(name, value, keys)

    def star(self, keys: Sequence[str], on: bool) -> Step:
        """Star items as `run.star` does, or take their stars away; a step as a label is."""
        return self._step(STAR, "yes" if on else None, keys)

    def _step(self, name: str, value: str | None, keys: Sequence[str]) -> Step:
        with self._lock:
            step = Step(name, self._change(name, dict.fromkeys(keys, value)), value)
            self._done = [*self._done[1 - STEPS :], step]
            self._undone.clear()
        return step

    def undo(self) -> Step | None:
        """Take the last step back; None where there is none."""
        return self._move(self._done, self._undone, lambda step, key: (step.after, step.before[key]))

    def redo(self) -> Step | None:
        """Do again what was taken back last; None where there is none."""
        return self._move(self._undone, self._done, lambda step, key: (step.before[key], step.after))

    def _move(self, source: list[Step], target: list[Step], values: Any) -> Step | None:
        with self._lock:
            if not source:
                return None
            step = source[-1]
            pairs = {key: values(step, key) for key in step.before}
            expected = {key: pair[0] for key, pair in pairs.items()}
            self._change(step.name, {key: pair[1] for key, pair in pairs.items()}, expected)
            target.append(source.pop())
            return step

    def _change(
        self, name: str, values: Mapping[str, str | None], expected: Mapping[str, str | None] | None = None
    ) -> dict[str, str | None]:
        """Set values in one transaction, where they are as expected; what they were before."""
        with self._ledger()._transaction() as db:
            query = "SELECT item_hash, value FROM label WHERE name = ? AND source = 'user'"
            now = dict(db.execute(query, (name,)).fetchall())
            before = {key: now.get(key) for key in values}
            mine = [key for key in values if expected is None or before[key] == expected[key]]
            gone = [(name, key) for key in mine if values[key] is None]
            db.executemany("DELETE FROM label WHERE name = ? AND item_hash = ? AND source = 'user'", gone)
            kept = [(key, name, values[key], "user", 1.0, _now()) for key in mine if values[key] is not None]
            db.executemany("INSERT OR REPLACE INTO label VALUES (?, ?, ?, ?, ?, ?)", kept)
        return before

    def _is_made(self) -> bool:
        """Whether there is a ledger: a file without a byte is one that another window is just making."""
        try:
            return self.path.stat().st_size > 0
        except OSError:
            return False

    def _ledger(self, *, read_only: bool = False) -> Ledger:
        return Ledger(self.path, read_only=read_only)


def given_column(run: Explored, notebook: Notebook, name: str) -> Column:
    """The user's labels of one name as a column."""
    given = notebook.given(name)
    classes = sorted(set(given.values()))
    rows, which = run.rows_with(list(given))
    numbers = {value: code for code, value in enumerate(classes)}
    values = np.full(len(run.items), -1, np.int32)
    values[rows] = np.array([numbers[value] for value in given.values()], np.int32)[which]
    return Column(f"yours:{name}", name, "classes", values, classes)
