"""Processes beside the server, so that it stays small and answers while a network reads a query or a probe learns."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tacit.errors import RunError

Answer = TypeVar("Answer")


class Helper:
    """One process of its own, started when it is first asked for something, which it does one after another.

    It is started by `spawn`, since the store's threads do not outlive a fork, and ends when the server has.
    """

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def submit(self, job: Callable[..., Answer], *arguments: Any) -> Future[Answer]:
        with self._lock:
            try:
                return self._begun().submit(job, *arguments)
            except BrokenProcessPool:  # it was killed since; another is started
                self._pool = None
                return self._begun().submit(job, *arguments)

    def _begun(self) -> ProcessPoolExecutor:
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin, initargs=(os.getpid(),))
        return self._pool

    def ask(self, job: Callable[..., Answer], *arguments: Any, wait: float = 120.0) -> Answer:
        """What the job gives.

        Raises:
            RunError: it takes too long, or its process was killed.
        """
        try:
            return self.submit(job, *arguments).result(wait)
        except TimeoutError as error:
            self.close()
            raise RunError(f"no answer within {wait:.0f} seconds; try again, or with a smaller file") from error
        except BrokenProcessPool as error:
            self.close()
            raise RunError("the process that reads queries ended, perhaps for lack of memory; try again") from error

    def close(self) -> None:
        """End the process, also in the middle of something; the next job starts another."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            running = list((getattr(pool, "_processes", None) or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()


def _begin(parent: int) -> None:
    """Leave interrupts to the server, and end when it is gone."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
