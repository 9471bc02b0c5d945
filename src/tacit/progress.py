"""The progress bar of a fit: how far, how fast, how long still, and whether it is any good yet."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

__all__ = ["ProgressBar", "close", "duration"]

PAINT_EVERY = 0.25
"""Seconds between updates of the live bar; a step that comes sooner costs two assignments."""
LINE_EVERY = 10.0
"""Seconds between lines where the output is a file or a pipe."""
SPEED_OVER = 30.0
"""Seconds that speed and time left are reckoned from."""
STYLES = {"learning": "green", "closed form": "green", "flat": "yellow", "unstable": "red", "collapsing": "bold red"}

_open: list[ProgressBar] = []


class ProgressBar:
    """A live bar on the terminal, or a line every ten seconds where there is none; a callback of `tacit.fit`.

    Args:
        console: where to write; standard error by default, so that results on standard output stay clean.

    >>> import io
    >>> bar = ProgressBar(Console(file=io.StringIO()))
    >>> bar.start(total_steps=100, batch_size=256, unit="images")
    >>> bar.step(1, loss=5.2, lr=1e-3, health="learning")
    >>> bar.end("learning", "the loss fell from 5.2 to 4.1")
    >>> print(bar.console.file.getvalue().strip())
    1 of 100 steps in 0 s: learning, the loss fell from 5.2 to 4.1
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live: Progress | None = None
        self._task = TaskID(0)
        self._word = ""
        self._loss = _Smoothed()
        self._begin(total=0, per_count=1, unit="items", counted="items")

    def start(self, total_steps: int, batch_size: int, unit: str = "items") -> None:
        """Before the first step here; `total_steps` counts from the run's beginning, and `unit` is a plural."""
        self._begin(total=total_steps, per_count=batch_size, unit=unit, counted="steps")
        if self._has_terminal:
            self._paint()

    def step(self, step: int, loss: float, lr: float, health: str | None = None) -> None:
        """After step number `step`, from 1."""
        self._loss.add(loss)
        self._word = health or self._word
        self._advance(step)

    def items(self, done: int, n: int) -> None:
        """While a method in closed form goes over its `n` items; a smaller `done` than before begins another pass."""
        if self._counted != "items" or n != self._total or done < self._done:
            self._begin(total=n, per_count=1, unit="items", counted="items")
        self._advance(done)

    def look(self, measures: Mapping[str, Any]) -> None:
        """After a look at health: a change of the word is said at once, with its reason."""
        before, self._word = self._word, measures.get("word", self._word)
        if before and before != self._word:
            self._say(f"step {self._done:,}: ", self._word, measures.get("reason", ""))
        if self._live is not None:
            self._paint()

    def end(self, word: str, reason: str) -> None:
        """After the last step, with the verdict."""
        self.close()
        counted = f"{self._done:,} of {self._total:,} {self._counted}" if self._total else "done"
        self._say(f"{counted} in {duration(time.monotonic() - self._started)}: ", word, reason)

    def close(self) -> None:
        """Take the bar away, if it is there; called by itself at the end, and needed only after an error."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            _open.remove(self)

    def _begin(self, total: int, per_count: int, unit: str, counted: str) -> None:
        self._total, self._per_count, self._unit, self._counted = total, per_count, unit, counted
        self._done = 0
        self._word = ""
        self._loss = _Smoothed()
        self._marks: deque[tuple[float, int]] = deque()
        self._started = self._painted = time.monotonic()

    def _advance(self, done: int) -> None:
        self._done = done
        now = time.monotonic()
        if not self._marks:
            self._marks.append((now, done))
        every = PAINT_EVERY if self._has_terminal else LINE_EVERY
        if now - self._painted >= every:
            self._painted = now
            self._marks.append((now, done))
            while self._marks[1][0] < now - SPEED_OVER:
                self._marks.popleft()
            self._paint()

    @property
    def _has_terminal(self) -> bool:
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def _paint(self) -> None:
        share = self._done / self._total if self._total else 0.0
        count = f"{self._done:,}/{self._total:,}"
        shown: dict[str, Any] = {
            "rate": self._rate_words(),
            "loss": self._loss.words(),
            "left": self._left_words(),
            "word": self._word,
        }
        if not self._has_terminal:
            parts = (f"{self._counted[:-1]} {count} ({share:.0%})", *shown.values())
            self._print(Text("  ".join(part for part in parts if part)))
            return
        shown["share"] = f"{count} {share:.0%}" if self.console.width >= 100 else f"{share:.0%}"
        if self._live is None:
            self._live = _live_bar(self.console)
            self._live.start()
            self._task = self._live.add_task("", total=1.0, **shown)
            _open.append(self)
        self._live.update(self._task, completed=share, **shown)

    def _rate(self) -> float:
        """Steps (or items) a second over the last half minute; 0 where it cannot be told yet."""
        if not self._marks:
            return 0.0
        (then, before), (now, done) = self._marks[0], self._marks[-1]
        return (done - before) / (now - then) if now > then else 0.0

    def _rate_words(self) -> str:
        rate = self._rate() * self._per_count
        return f"{rate:,.0f} {self._unit}/s" if rate >= 10 else f"{rate:.1f} {self._unit}/s" if rate else ""

    def _left_words(self) -> str:
        rate = self._rate()
        return f"{duration((self._total - self._done) / rate)} left" if rate else ""

    def _say(self, before: str, word: str, reason: str) -> None:
        line = Text(before)
        line.append(word, style=STYLES.get(word, "bold"))
        self._print(line.append(f", {reason}" if reason else ""))

    def _print(self, line: Text) -> None:
        console = self._live.console if self._live is not None else self.console
        console.print(line, soft_wrap=not console.is_terminal)


class _Smoothed:
    """Exponential mean over about the last 50 losses, without the pull of a start at zero."""

    DECAY = 0.98

    def __init__(self) -> None:
        self.sum = self.weight = 0.0

    def add(self, value: float) -> None:
        self.sum = self.DECAY * self.sum + value
        self.weight = self.DECAY * self.weight + 1

    def words(self) -> str:
        return f"loss {self.sum / self.weight:.4g}" if self.weight else ""


def close() -> None:
    """Take away a bar that an error left open, so that a message can be read below it."""
    for bar in list(_open):
        bar.close()


def duration(seconds: float) -> str:
    """A duration as a person says it.

    >>> duration(8), duration(192), duration(3900)
    ('8 s', '3 min 12 s', '1 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _Field(ProgressColumn):
    """One of the task's fields, never wrapped; the health word in its colour."""

    def __init__(self, name: str) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self.name = name

    def render(self, task: Task) -> Text:
        shown = task.fields[self.name]
        return Text(shown, style=STYLES.get(shown, ""))


def _live_bar(console: Console) -> Progress:
    bar = BarColumn(
        bar_width=None, complete_style="cyan", finished_style="cyan", table_column=Column(ratio=1, min_width=6)
    )
    fields = [_Field(name) for name in ("share", "rate", "loss", "left")]
    return Progress(_Field("word"), bar, *fields, console=console, expand=True, transient=True, refresh_per_second=4)
