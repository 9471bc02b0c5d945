"""A run's folder while it is trained: lock, config, metrics, checkpoints; each file whole or absent after a kill."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tacit.errors import RunError

FORMAT = 1
LATER = {"format", "tacit", "class", "threads", "made"}
"""Parts of config.json in which a resumed run may differ from the command that resumes it."""


@dataclass
class Checkpoint:
    """What has to be restored: the step number, the states, and in `extra` what cannot be drawn again."""

    step: int
    epoch: int
    epoch_start: int
    learner: Mapping[str, Tensor]
    optimizers: Mapping[str, Tensor]
    extra: Mapping[str, Tensor]
    notes: Mapping[str, Any]
    """What health has seen so far (JSON)."""


class RunFolder:
    """One run's folder, held by an flock (which the system frees however the process ends).

    Raises:
        RunError: another process trains into it, it was made with other settings or by a newer format, it cannot be
            written, or it holds files that are not a run's.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        with plain_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        try:
            self.config = self._settle(config, overwrite)
        except BaseException:
            self.close()
            raise
        self._metrics: IO[str] | None = None

    def save(self, checkpoint: Checkpoint, *, keep_healthy: int | None = None) -> None:
        """Write a checkpoint; keep the last two, and the newest at or before step `keep_healthy`."""
        with plain_errors(self.path):
            self._flush_metrics()
            place = _checkpoint_path(self.path, checkpoint.step)
            draft = place.with_name(f".draft-{place.name}")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            with removed_on_error(draft):
                _write_checkpoint(draft, checkpoint)
                shutil.rmtree(place, ignore_errors=True)
                draft.rename(place)
                sync(place.parent)
        self._prune(keep_healthy)

    def finish(self, learner: Mapping[str, Tensor]) -> None:
        """Write the model: from here on the run is finished."""
        with plain_errors(self.path):
            self._flush_metrics()
            save_tensors(self.path / "model.safetensors", learner)

    def log(self, line: Mapping[str, Any]) -> None:
        with plain_errors(self.path):
            if self._metrics is None:
                self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
            self._metrics.write(json.dumps(line) + "\n")

    def cut_metrics(self, step: int) -> None:
        """Drop what was logged after `step`, and a line that a kill left unfinished."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                if json.loads(line).get("step", 0) <= step:
                    kept.append(line + "\n")
        write_text(path, "".join(kept))

    def close(self) -> None:
        if getattr(self, "_metrics", None) is not None:
            self._metrics.close()  # type: ignore[union-attr]
            self._metrics = None
        self._lock.close()

    def _take_lock(self) -> IO[str]:
        lock = (self.path / ".lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise RunError(
                f"out={str(self.path)!r}: process {holder} is writing to this folder; wait for it, or give another out"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _settle(self, config: Mapping[str, Any], overwrite: bool) -> dict[str, Any]:
        place = self.path / "config.json"
        if overwrite and place.exists():
            self._move_aside()
        if not place.exists():
            self._expect_empty()
            with plain_errors(self.path):
                write_json(place, {"format": FORMAT, **config})
            return {"format": FORMAT, **config}
        saved = read_config(self.path)
        changed = differences(saved, config)
        if changed:
            raise RunError(
                f"out={str(self.path)!r} holds a run with other settings ({'; '.join(changed)}); give another out, "
                "the same settings to go on with it, or overwrite to set it aside and start anew"
            )
        return saved

    def _move_aside(self) -> None:
        """Nothing is deleted: the earlier run stays beside the new one, under a dated name."""
        aside = self.path.with_name(f"{self.path.name}.before-{datetime.now():%Y%m%d-%H%M%S}")
        with plain_errors(self.path):
            aside.mkdir()
            for child in self.path.iterdir():
                if child.name != ".lock":
                    child.rename(aside / child.name)

    def _expect_empty(self) -> None:
        ours = {".lock", "skipped.csv", "environment.json", "metrics.jsonl"}
        others = sorted(p.name for p in self.path.iterdir() if p.name not in ours and not p.name.startswith(".draft-"))
        if others:
            raise RunError(
                f"out={str(self.path)!r}: the folder is no run and not empty ({others[0]} lies in it); give another out"
            )

    def _prune(self, healthy: int | None) -> None:
        steps = _steps(self.path)
        kept = set(steps[-2:])
        if healthy is not None:
            kept |= set([s for s in steps if s <= healthy][-1:])
        for step in set(steps) - kept:
            shutil.rmtree(_checkpoint_path(self.path, step), ignore_errors=True)

    def _flush_metrics(self) -> None:
        if self._metrics is not None:
            self._metrics.flush()
            os.fsync(self._metrics.fileno())


def read_config(run: str | Path) -> dict[str, Any]:
    """config.json of a run.

    Raises:
        RunError: there is none, it cannot be read, or a newer tacit wrote it.
    """
    place = Path(run) / "config.json"
    try:
        config = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"run={str(run)!r}: expected a run folder, which holds config.json") from error
    except (OSError, ValueError) as error:
        raise RunError(f"run={str(run)!r}: config.json cannot be read ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise RunError(f"run={str(run)!r}: config.json is not a run's, which states its format")
    if config["format"] > FORMAT:
        raise RunError(
            f"run={str(run)!r}: its format is {config['format']}, this tacit reads up to {FORMAT}; install a newer one"
        )
    return config


def newest_checkpoint(run: str | Path, at_most: int | None = None) -> Checkpoint | None:
    """The newest checkpoint of a run, or the newest whose step is `at_most` or before."""
    steps = [s for s in _steps(run) if at_most is None or s <= at_most]
    return _read_checkpoint(_checkpoint_path(run, max(steps))) if steps else None


def read_model(run: str | Path) -> dict[str, Tensor] | None:
    """The state of a finished run's learner; None while it is unfinished."""
    place = Path(run) / "model.safetensors"
    return load_file(place) if place.exists() else None


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two configs, a short text each: `training.lr: 0.1 in the run, 0.2 now`."""
    before, after = _flat(saved), _flat(wanted)
    return [
        f"{name}: {before.get(name)!r} in the run, {after.get(name)!r} now"
        for name in sorted(before.keys() | after.keys())
        if name.split(".")[0] not in LATER and before.get(name) != after.get(name)
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found


# whole or absent


def write_text(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one, never a part."""
    draft = path.with_name(f".draft-{path.name}")
    with removed_on_error(draft):
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync(path.parent)


def expect_ours(path: Path, words: str) -> None:
    """Refuse to write over a file without these words, by which a page of tacit's own says that tacit wrote it.

    Raises:
        RunError: it is somebody else's.
    """
    if path.exists() and (path.is_dir() or words not in path.read_text(encoding="utf-8", errors="replace")):
        raise RunError(
            f"out={str(path)!r} exists, and was not written by this command; give another, nothing is overwritten"
        )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all."""
    draft = path.with_name(f".draft-{path.name}")
    with removed_on_error(draft):
        # clones: safetensors refuses tensors that share memory
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, draft)
        draft.chmod(0o666 & ~_umask())  # safetensors makes files that their owner alone may read
        sync(draft)
        draft.replace(path)
        sync(path.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def removed_on_error(draft: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """A full disk or an unwritable folder, said in a line."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise RunError(f"out={str(path)!r}: cannot be written: {reason}") from error
    except SafetensorError as error:  # which stands for an OSError here
        reason = "the disk is full" if "No space left" in str(error) else str(error)
        raise RunError(f"out={str(path)!r}: cannot be written: {reason}") from error


def _steps(run: str | Path) -> list[int]:
    return sorted(int(p.name.removeprefix("step-")) for p in (Path(run) / "checkpoints").glob("step-*"))


def _checkpoint_path(run: str | Path, step: int) -> Path:
    return Path(run) / "checkpoints" / f"step-{step:09d}"


def _write_checkpoint(place: Path, checkpoint: Checkpoint) -> None:
    save_tensors(place / "learner.safetensors", checkpoint.learner)
    save_tensors(place / "optimizers.safetensors", checkpoint.optimizers)
    if checkpoint.extra:
        save_tensors(place / "extra.safetensors", checkpoint.extra)
    state = {key: getattr(checkpoint, key) for key in ("step", "epoch", "epoch_start", "notes")}
    write_json(place / "state.json", {"format": FORMAT, **state})


def _read_checkpoint(place: Path) -> Checkpoint:
    state = json.loads((place / "state.json").read_text(encoding="utf-8"))
    extra = place / "extra.safetensors"
    return Checkpoint(
        step=state["step"],
        epoch=state["epoch"],
        epoch_start=state["epoch_start"],
        notes=state["notes"],
        learner=load_file(place / "learner.safetensors"),
        optimizers=load_file(place / "optimizers.safetensors"),
        extra=load_file(extra) if extra.exists() else {},
    )
