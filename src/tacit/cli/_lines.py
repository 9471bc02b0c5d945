"""The lines that say which claims run: one each, rewritten in place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from tacit.progress import LINE_EVERY, duration

if TYPE_CHECKING:
    from tacit.claims._found import Found


class Lines:
    """A line for each claim that runs: on a terminal rewritten in place, elsewhere one every ten seconds."""

    def __init__(self, budget: str) -> None:
        self._console = Console(stderr=True)
        self._budget, self._live = budget, self._console.is_terminal and not self._console.is_dumb_terminal
        self._progress = Progress(
            _Line(), console=self._console, transient=True, refresh_per_second=2,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._said = time.monotonic()

    def tell(self, found: Found, done: int, total: int) -> None:
        words = f"{self._budget}  seed {min(done + 1, total)} of {total}"
        if found.id not in self._tasks:
            self._tasks[found.id] = self._progress.add_task(found.id, total=total, words=words)
        self._progress.update(self._tasks[found.id], completed=done, words=words)
        if self._live:
            self._progress.start()
        elif time.monotonic() - self._said >= LINE_EVERY:
            self._said = time.monotonic()
            task = next(task for task in self._progress.tasks if task.description == found.id)
            self._console.print(Text(_line(task)), soft_wrap=True)

    def end(self, found: Found) -> None:
        """The claim has ended; the terminal is free for what there is to say of it."""
        if found.id in self._tasks:
            self._progress.remove_task(self._tasks.pop(found.id))
        self.pause()

    def pause(self) -> None:
        if self._live:
            self._progress.stop()


class _Line(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_line(task, Console(stderr=True).width), no_wrap=True)


def _line(task: Task, width: int = 1000) -> str:
    """`dcl/small_batches  small  seed 3 of 5  1 min 12 s`; a name that is too long for the terminal is cut."""
    rest = f"  {task.fields['words']}  {duration(task.elapsed or 0)}"
    room = max(width - len(rest) - 1, 8)
    name = task.description
    return (name if len(name) <= room else name[: room - 1] + "…") + rest
