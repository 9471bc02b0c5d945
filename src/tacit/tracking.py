"""Trackers: callbacks that hand a fit's numbers on. metrics.jsonl is written in any case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tacit.errors import MissingExtra
from tacit.training import Callback


class TensorBoard(Callback):
    """Loss, learning rate and the measures of health, for TensorBoard.

    Args:
        folder: of the event files, such as `"run/tensorboard"`.

    Raises:
        MissingExtra: tensorboardX is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     board = TensorBoard(folder)
    ...     board.step(1, 0.5, 1e-3, "learning")
    ...     board.end("learning", "")
    ...     len(list(Path(folder).iterdir()))
    1
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise MissingExtra("tensorboardX", "track", "writing for TensorBoard") from error
        self._writer = SummaryWriter(str(folder))

    def step(self, step: int, loss: float, lr: float, health: str | None) -> None:
        self._writer.add_scalar("loss", loss, step)
        self._writer.add_scalar("lr", lr, step)

    def look(self, measures: Mapping[str, Any]) -> None:
        for name, value in measures.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"health/{name}", value, measures["step"])

    def end(self, word: str, reason: str) -> None:
        self._writer.add_text("health", f"{word}: {reason}")
        self._writer.close()
