"""Ledger: the labels of a run, and a record of what each was used for."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tacit.errors import RunError, expect, unknown

__all__ = ["Ledger", "Use"]

FORMAT = 2
"""1 kept stars and notes among the labels, under names that a label of the user's can have."""
PARTS = ("choose", "report")
SOURCES = ("found", "user", "predicted")
OWN = "tacit:"
"""How the names of marks begin that name no classes, such as stars: a user's own label is never called so."""
MARKS = ("star", "note")
"""Those of format 1, which had no `tacit:` before them."""
ROWS = 10_000
"""Rows in a transaction, so that another process waits a fraction of a second."""
WAIT = 30.0
"""Seconds to wait for another process's transaction."""

_SCHEMA = """
CREATE TABLE label (
    item_hash TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('found', 'user', 'predicted')), weight REAL NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (name, item_hash, source)
) WITHOUT ROWID;
CREATE TABLE part (
    item_hash TEXT NOT NULL, name TEXT NOT NULL, part TEXT NOT NULL CHECK (part IN ('choose', 'report')),
    PRIMARY KEY (name, item_hash)
) WITHOUT ROWID;
CREATE TABLE use (name TEXT NOT NULL, part TEXT NOT NULL, "by" TEXT NOT NULL, at TEXT NOT NULL);
"""


class Use(NamedTuple):
    """One time that labels were taken: which, from which part, what for, and when (UTC, ISO 8601)."""

    name: str
    part: str
    by: str
    at: str


class Ledger:
    """Labels that know what they may be used for: `labels.sqlite` of a run.

    Items go by the hash of their content, so that exact duplicates are one item. Each label name's items fall into two
    parts, `choose` (settings, thresholds, stopping) and `report` (the figures that are published), which never meet.
    Labels leave only through `take`, which records the use.

    What `put`, `split` and `take` have done when they return outlives a kill at any later moment, and several processes
    may use one ledger at once. The journal is SQLite's rollback journal: the file is whole by itself and can be copied.

    Args:
        path: the file, made if absent; its folder must exist.
        read_only: open for reading only; so is a file that may not be written.

    Raises:
        RunError: the file is no ledger, is of a newer format, or cannot be opened.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> ledger = Ledger(Path(folder.name) / "labels.sqlite")
    >>> ledger.put("animal", {"6f1a": "cat", "c0de": "dog", "51ab": "cat"}, source="found")
    3
    >>> ledger.split("animal")
    {'choose': 2, 'report': 1}
    >>> ledger.take("animal", "choose", "number of clusters")
    {'51ab': 'cat', 'c0de': 'dog'}
    >>> [(use.name, use.part, use.by) for use in ledger.uses()]
    [('animal', 'choose', 'number of clusters')]
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only or (self.path.exists() and not _writable(self.path))
        with self._connection() as db:
            missing = _is_empty(db)
        if missing and not self.read_only:
            self._make()
        if self._check_format() < FORMAT and not self.read_only:
            self._renew()

    def put(self, name: str, values: Mapping[str, object], *, source: str, weight: float = 1.0) -> int:
        """Write labels down. A label of the same item, name and source is replaced; other sources' stay beside it.

        Args:
            name: of the label, such as `shape`; one that begins with `tacit:` is a mark.
            values: item hash -> value, kept as text; None and the empty string are no label and are left out.
            source: `found` in the data, given by the `user`, or `predicted` by a model.
            weight: trust in these labels, 0 to 1.

        Returns:
            The number of labels written.

        Raises:
            ArgumentError: unknown source, empty name, weight out of range.
            RunError: the ledger cannot be written.
        """
        expect("name", name, bool(name), "the name of a label")
        expect("weight", weight, 0 <= weight <= 1, "a number from 0 to 1")
        if source not in SOURCES:
            raise unknown("source", source, SOURCES)
        at = _now()
        rows = [
            (item, name, _text(value), source, weight, at) for item, value in values.items() if value not in (None, "")
        ]
        self._write("INSERT OR REPLACE INTO label VALUES (?, ?, ?, ?, ?, ?)", rows)
        return len(rows)

    def split(self, name: str, seed: int = 0) -> dict[str, int]:
        """Put each item with a label `name` that is in no part yet into one, by a hash of the seed and the item.

        So the halves are equal in expectation, adding items moves none, and one seed puts an item into the same part
        whatever the name. An item keeps its part for good, even if another seed comes: else what was chosen on could be
        reported on.

        Returns:
            How many items each part now has.

        Raises:
            ArgumentError: no label of that name.
            RunError: the ledger cannot be written.
        """
        self._known(name)
        new = "SELECT item_hash FROM label WHERE name = ? EXCEPT SELECT item_hash FROM part WHERE name = ?"
        rows = [(item, name, _part(item, seed)) for (item,) in self._read(new, name, name)]
        self._write("INSERT OR IGNORE INTO part VALUES (?, ?, ?)", rows)
        counts = dict(self._read("SELECT part, COUNT(*) FROM part WHERE name = ? GROUP BY part", name))
        return {part: counts.get(part, 0) for part in PARTS}

    def take(self, name: str, part: str, purpose: str, *, sources: Sequence[str] = ("user", "found")) -> dict[str, str]:
        """The labels `name` of one part, and a line in `uses` that they were taken.

        Args:
            name: of the label.
            part: `choose` or `report`.
            purpose: what for, in words that a report can print.
            sources: where labels may come from; the first that knows an item wins. What a model predicted is not taken
                unless asked for.

        Returns:
            Item hash -> value.

        Raises:
            ArgumentError: unknown name, part or source, or no purpose.
            RunError: the label was not split, or the use cannot be written down.
        """
        if part not in PARTS:
            raise unknown("part", part, PARTS)
        for source in sources:
            if source not in SOURCES:
                raise unknown("sources", source, SOURCES)
        expect("purpose", purpose, bool(purpose), "what the labels are for", "the report prints it")
        self._known(name)
        if not self._read("SELECT 1 FROM part WHERE name = ? LIMIT 1", name):
            raise RunError(f"label {name!r} has no parts yet: call split({name!r}) first")
        self._write("INSERT INTO use VALUES (?, ?, ?, ?)", [(name, part, purpose, _now())])
        labels = "SELECT item_hash, value FROM label JOIN part USING (name, item_hash)"
        taken: dict[str, str] = {}
        for source in reversed(sources):
            taken.update(self._read(f"{labels} WHERE name = ? AND part = ? AND source = ?", name, part, source))
        return taken

    def names(self, *, source: str | None = None, marks: bool = False) -> list[str]:
        """The names of the labels, sorted.

        Args:
            source: only those found in the data, given by the user, or predicted.
            marks: stars and notes too, which are no classes; their names begin with `tacit:`.
        """
        if source is not None and source not in SOURCES:
            raise unknown("source", source, SOURCES)
        of = SOURCES if source is None else (source,)
        wanted = ", ".join("?" * len(of))
        found = self._read(f"SELECT DISTINCT name FROM label WHERE source IN ({wanted}) ORDER BY name", *of)
        return [name for (name,) in found if marks or not name.startswith(OWN)]

    def uses(self) -> list[Use]:
        """Every time that labels were taken, oldest first."""
        return [Use(*row) for row in self._read('SELECT name, part, "by", at FROM use ORDER BY rowid')]

    def _known(self, name: str) -> None:
        if name not in self.names(marks=True):
            raise unknown("name", name, self.names())

    def _read(self, query: str, *values: Any) -> list[tuple]:
        with self._connection() as db:
            return db.execute(query, values).fetchall()

    def _write(self, statement: str, rows: Sequence[tuple]) -> None:
        remaining = iter(rows)
        while some := list(islice(remaining, ROWS)):
            with self._transaction() as db:
                db.executemany(statement, some)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on the disk at the end; locked from the start, so that two writers cannot deadlock."""
        if self.read_only:
            raise RunError(
                f"{self.path} is read-only, so nothing can be recorded in it: copy the run, or make it writable"
            )
        with self._connection() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for one job: none is held between, so forks, threads and pickling are safe."""
        mode = "ro" if self.read_only else "rwc"
        try:
            uri = f"{self.path.absolute().as_uri()}?mode={mode}"
            with closing(sqlite3.connect(uri, uri=True, timeout=WAIT, isolation_level=None)) as db:
                db.execute("PRAGMA trusted_schema = OFF")  # a stranger's file may hold views and triggers
                yield db
        except sqlite3.Error as error:
            raise RunError(f"{self.path}: {error}; expected a ledger of labels that can be used here") from error

    def _make(self) -> None:
        with self._transaction() as db:
            if not _is_empty(db):  # another process was faster
                return
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {FORMAT}")

    def _renew(self) -> None:
        """From format 1: the user's stars and notes get names that no label has."""
        with self._transaction() as db:
            if db.execute("PRAGMA user_version").fetchone()[0] >= FORMAT:  # another process was faster
                return
            for name in MARKS:
                if _is_mark(db, name):
                    for table in ("label", "part", "use"):
                        db.execute(f"UPDATE OR IGNORE {table} SET name = ? WHERE name = ?", (OWN + name, name))
            db.execute(f"PRAGMA user_version = {FORMAT}")

    def _check_format(self) -> int:
        version = self._read("PRAGMA user_version")[0][0]
        if version > FORMAT:
            raise RunError(
                f"{self.path} has ledger format {version}, newer than {FORMAT}, the newest that this tacit knows: "
                "upgrade tacit"
            )
        if version < 1:
            raise RunError(
                f"{self.path} is a database, but no ledger of labels: move it away, or choose another run folder"
            )
        return version


def _is_empty(db: sqlite3.Connection) -> bool:
    return not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()


def _is_mark(db: sqlite3.Connection, name: str) -> bool:
    """Whether a label of format 1 came from `run.star` or `run.note` alone.

    A star is nothing but "yes", from which nothing can be learned; `tacit label` leaves predictions, or a use. Where
    notes and a label of that name were both written, all of it stays a label: nothing tells them apart.
    """
    rows = set(db.execute("SELECT source, value FROM label WHERE name = ?", (name,)))
    learned = db.execute("SELECT 1 FROM use WHERE name = ? AND \"by\" LIKE '%(tacit label)'", (name,)).fetchone()
    if name == "star":
        return rows == {("user", "yes")}
    return {source for source, _ in rows} == {"user"} and not learned


def _writable(path: Path) -> bool:
    """The folder too: the journal lies beside the file."""
    return os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK)


def _part(item: str, seed: int) -> str:
    return PARTS[hashlib.sha256(f"{seed} {item}".encode()).digest()[0] % len(PARTS)]


def _text(value: object) -> str:
    """As text that can be stored: names of folders may hold bytes that are no UTF-8."""
    return str(value).encode(errors="backslashreplace").decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
