"""Learning in the background from the labels given so far, again whenever there are new ones."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from tacit.errors import TacitError
from tacit.explore import _teaching
from tacit.explore._helpers import Helper
from tacit.explore._labels import Notebook
from tacit.explore._run import Explored


class Teacher:
    """At most one training at a time; labels that come meanwhile are learned from in the next.

    Args:
        run: what is labelled.
        notebook: where its labels are.
    """

    def __init__(self, run: Explored, notebook: Notebook) -> None:
        self.helper = Helper()
        self._run, self._notebook = run, notebook
        self._lock = threading.Lock()
        self._told: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, str] = {}
        self._now: str | None = None
        self._next: str | None = None
        self._round = 0
        self._taken: set[str] = set()

    def state(self) -> dict[str, Any]:
        """What is being learned, what was learned (name -> round), and why something was not."""
        with self._lock:
            told = {name: one["round"] for name, one in self._told.items()}
            return {"teaching": self._now, "told": told, "errors": dict(self._errors)}

    def told(self, name: str) -> dict[str, Any] | None:
        """The latest answer of `tacit.explore._teaching.teach`, None where there is none of the items as they are."""
        with self._lock:
            found = self._told.get(name)
        return found if found is not None and len(found["values"]) == len(self._run.items) else None

    def teach(self, name: str) -> None:
        """Begin to learn a label, or, while something is learned, note that it is the next."""
        with self._lock:
            if self._now is not None:
                self._next = name
                return
            self._now = name
        try:
            given = self._given(name)
            job = self.helper.submit(_teaching.teach, str(self._run.folder), self._run.stamp, name, given)
        except Exception as error:
            self._finish(name, None, error)
        else:
            job.add_done_callback(lambda done: self._finish(name, *_outcome(done)))

    def suggest(self, name: str, n: int) -> list[dict[str, Any]]:
        """What to label next, after the training that is going on."""
        given = self._given(name) if name else {}
        return self.helper.ask(_teaching.suggest, str(self._run.folder), self._run.stamp, given, n, wait=300.0)

    def close(self) -> None:
        self.helper.close()

    def _given(self, name: str) -> dict[str, str]:
        """The user's labels; that they are used is written down once a session, when they are first learned from."""
        given = self._notebook.given(name)
        if given and name not in self._taken:
            ledger = self._notebook._ledger()
            ledger.split(name)
            for part in ("choose", "report"):
                ledger.take(name, part, _teaching.PURPOSE, sources=("user",))
            self._taken.add(name)
        return given

    def _finish(self, name: str, found: dict[str, Any] | None, error: BaseException | None) -> None:
        with self._lock:
            self._round += 1
            if found is not None:
                self._told[name] = {**found, "round": self._round}
                self._errors.pop(name, None)
            elif error is not None:
                said = str(error) if isinstance(error, TacitError) else f"learning ended early: {type(error).__name__}"
                self._errors[name] = said
            self._now, after = None, self._next
            self._next = None
        if after is not None:
            self.teach(after)


def _outcome(done: Future[dict[str, Any]]) -> tuple[dict[str, Any] | None, BaseException | None]:
    if done.cancelled():
        return None, None
    error = done.exception()
    return (None, error) if error is not None else (done.result(), None)
