"""What is to become of near-duplicates: keep or discard, noted beside the run. Nothing is ever deleted by it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from tacit.errors import RunError, unknown

VERDICTS = ("keep", "discard")
WAIT = 30.0


class Decisions:
    """Verdicts on items, in `explore.sqlite` of the run; by item and not by content, since exact duplicates share that.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> decisions = Decisions(folder.name)
    >>> decisions.put([3, 4], "discard"); decisions.put([3], None)
    >>> decisions.all()
    {4: 'discard'}
    """

    def __init__(self, run: str | Path) -> None:
        self.path = Path(run) / "explore.sqlite"

    def all(self) -> dict[int, str]:
        """Item number -> keep or discard."""
        if not self.path.is_file():
            return {}
        with self._connection() as db:
            return dict(db.execute("SELECT item, verdict FROM decision ORDER BY item").fetchall())

    def put(self, items: Sequence[int], verdict: str | None) -> None:
        """Note a verdict, or with None take it back; on the disk when this returns.

        Raises:
            ArgumentError: unknown verdict.
            RunError: it cannot be written.
        """
        if verdict is not None and verdict not in VERDICTS:
            raise unknown("verdict", verdict, VERDICTS)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        with self._connection() as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("DELETE FROM decision WHERE item = ?", [(int(item),) for item in items])
            if verdict is not None:
                db.executemany("INSERT INTO decision VALUES (?, ?, ?)", [(int(item), verdict, at) for item in items])
            db.execute("COMMIT")

    def _connection(self) -> closing[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
            db.execute(
                "CREATE TABLE IF NOT EXISTS decision "
                "(item INTEGER PRIMARY KEY, verdict TEXT NOT NULL CHECK (verdict IN ('keep', 'discard')), at TEXT)"
            )
        except sqlite3.Error as error:
            raise RunError(f"{self.path}: {error}; the verdict cannot be kept") from error
        return closing(db)
