"""Records of the method finder, for the Papers tab; there are none where it is not installed."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tacit.explore._helpers import Helper

MOST = 100


def finder() -> Any:
    """`tacit.finding.find_systems`, or None."""
    try:
        from tacit.finding import find_systems
    except ImportError:
        return None
    return find_systems


def papers(query: str, filters: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the finder says of a query, as JSON can hold it; raises as the finder does."""
    find = finder()
    if find is None:
        return []
    return [_plain(record) for record in list(find(query, **{k: v for k, v in filters.items() if v}))[:MOST]]


class Papers:
    """`papers`, whose first answer would take seconds: whether each verdict still stands is looked up before.

    That is done in a process of its own, which ends afterwards, and once only: what it finds out is kept on the disk.
    """

    def __init__(self) -> None:
        self._helper = Helper()
        self._work: threading.Thread | None = None
        self._turn = threading.Lock()

    def prepare(self) -> None:
        """Begin to look up verdicts, unless that was begun already."""
        if self._work is None:
            self._work = _begun(self._look_up)

    def ask(self, query: str, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        self.prepare()
        assert self._work is not None
        self._work.join()
        if query:
            return self._searched(query, filters)
        found = papers(query, filters)
        _begun(lambda: self._searched("labels", {}))  # whoever looks through the list may search next: load what does
        return found

    def close(self) -> None:
        self._helper.close()

    def _look_up(self) -> None:
        from tacit.finding import is_known

        if finder() is not None and not is_known():
            self._helper.ask(papers, "", {})
        self._helper.close()

    def _searched(self, query: str, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        with self._turn:  # the first one loads what the others use
            return papers(query, filters)


def _begun(work: Callable[[], object]) -> threading.Thread:
    """A thread that does something; where it cannot, whoever asks is told why."""

    def quietly() -> None:
        with contextlib.suppress(Exception):
            work()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    return thread


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
