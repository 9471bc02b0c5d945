"""fit: the one training loop, on CPU or GPUs, that goes on after a kill as if it had never stopped."""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tacit import optim
from tacit._version import __version__
from tacit.building import describe_build, wanted_columns
from tacit.checkpoints import Checkpoint, RunFolder, newest_checkpoint, read_model
from tacit.data import Dataset, as_dataset
from tacit.durations import seconds
from tacit.errors import ArgumentError, TrainingError, expect, unknown
from tacit.health import CLOSED_FORM, LEARNING, Monitor
from tacit.learner import Learner, load_state
from tacit.progress import ProgressBar

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = ("32-true", "bf16-mixed")


class Callback:
    """What may watch a fit; each method has a default that does nothing."""

    def start(self, total_steps: int, batch_size: int, unit: str) -> None:
        """Before the first step; `unit` is the plural of an item, such as `"images"`."""

    def step(self, step: int, loss: float, lr: float, health: str | None) -> None:
        """After step number `step` (from 1)."""

    def look(self, measures: Mapping[str, Any]) -> None:
        """After each look at health."""

    def items(self, done: int, n: int) -> None:
        """While a method without gradients goes over the items."""

    def end(self, word: str, reason: str) -> None:
        """After the last step, with the verdict."""


@dataclass(frozen=True)
class Training:
    """The settings of a fit, checked; `fit` documents each."""

    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int = 256
    lr: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup: float = 0.05
    accumulate: int = 1
    clip: float | None = None
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    precision: str = "32-true"
    channels_last: bool = False
    seed: int = 0
    betas: tuple[float, float] | None = None  # added later: None, which an older run's config lacks, is its default

    def __post_init__(self) -> None:
        lengths = (self.epochs, self.max_steps)
        expect("epochs, max_steps", lengths, lengths.count(None) == 1, "one of the two")
        for name in ("epochs", "max_steps", "batch_size", "accumulate"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            expect(name, value, value is None or (whole and value >= 1), "a whole number of at least 1")
        expect("lr", self.lr, 0 < self.lr < math.inf, "a number above 0")
        expect("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "a number of at least 0")
        expect("momentum", self.momentum, 0 <= self.momentum < 1, "a number in [0, 1)")
        pair = self.betas is None or (len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas))
        expect("betas", self.betas, pair, "two numbers in [0, 1), or None for (0.9, 0.999)")
        expect("warmup", self.warmup, 0 <= self.warmup < 1, "the share of steps to warm up, in [0, 1)")
        expect("clip", self.clip, self.clip is None or self.clip > 0, "a gradient norm above 0, or None")
        divides = self.batch_size % self.accumulate == 0
        expect("accumulate", self.accumulate, divides, f"a divisor of batch_size={self.batch_size}")
        for name, choices in (
            ("optimizer", optim.OPTIMIZERS),
            ("schedule", optim.SCHEDULES),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)


def fit(
    learner: Learner,
    data: Any,
    *,
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int = 256,
    lr: float = 1e-3,
    optimizer: str = "adamw",
    weight_decay: float = 1e-4,
    momentum: float = 0.9,
    betas: tuple[float, float] | None = None,
    schedule: str = "cosine",
    warmup: float = 0.05,
    accumulate: int = 1,
    clip: float | None = None,
    parts: Mapping[str, Mapping[str, Any]] | None = None,
    precision: str = "32-true",
    channels_last: bool = False,
    devices: int | str = "auto",
    accelerator: str = "auto",
    strategy: str = "auto",
    num_nodes: int = 1,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_every: str | int = "3min",
    config: Mapping[str, Any] | None = None,
    callbacks: Iterable[Callback] = (),
    verbose: bool = False,
) -> Learner:
    """Train a Learner in place, and return it.

    All chance is set anew at each step from (seed, step) and each epoch's order from (seed, epoch), so that a run
    which was killed goes on from its last checkpoint and ends with the same weights, bit for bit, on the same machine
    with the same number of threads. The caller's random state is left as it was.

    Args:
        learner: the method with its networks.
        data: a `tacit.data.Dataset`, a mapping of columns, or an array or tensor (which becomes the column `x`). The
            learner gets the columns it names and no others.
        epochs: passes over the data; or
        max_steps: optimiser steps. A method in closed form takes either and needs no step.
        batch_size: items a step over all devices; a last partial batch is dropped. Larger than the data: an error.
        lr: peak learning rate of the step, not scaled by anything.
        optimizer: `adamw`, `sgd` or `lars`; biases and normalisation take no weight decay.
        weight_decay: decay of the weights.
        momentum: of `sgd` and `lars`.
        betas: of `adamw`, the decay of the means of gradient and squared gradient; None: (0.9, 0.999).
        schedule: `cosine` (to 0 at the last step) or `constant`.
        warmup: share of the steps over which lr rises linearly.
        accumulate: micro-batches a step. Contrastive losses then see the negatives of their micro-batch only.
        clip: largest gradient norm.
        parts: settings by module for a learner whose `step` moves several: `{"critic": {"lr": 4e-4}}`.
        precision: `32-true`, or `bf16-mixed` (bfloat16 autocast; parameters stay float32).
        channels_last: lay convolutions out channel by channel, which is faster on most CPUs and GPUs.
        devices: how many, or `auto`: one.
        accelerator, strategy, num_nodes: as Lightning Fabric's.
        seed: of order, views and everything else that is drawn.
        out: folder for config.json, metrics.jsonl, checkpoints and model.safetensors. An unfinished run there goes on;
            a finished one is loaded and left as it is.
        overwrite: set an earlier run in `out` aside (it is renamed, not deleted).
        checkpoint_every: `"3min"`, `"30s"`, `"1h"`, or a number of steps. Also at SIGTERM and Ctrl-C.
        config: more for config.json (what builds the learner), compared like the settings when a run goes on.
        callbacks: `Callback` objects.
        verbose: show a progress bar.

    Returns:
        The same learner: the last step's, or after a collapse the last healthy checkpoint's (if `out` is given).

    Raises:
        ArgumentError: a setting that cannot be, a column that is missing, a batch larger than the data.
        RunError: `out` is in use, not writable, or holds a run with other settings.
        TrainingError: the loss is no longer finite.

    >>> from tacit.pretrain import WhitenedPCA
    >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> learner = fit(WhitenedPCA(n_components=2), x, epochs=1)
    >>> learner.encoder(x).shape
    torch.Size([50, 2])
    """
    training = Training(
        epochs, max_steps, batch_size, lr, optimizer, weight_decay, momentum, schedule, warmup, accumulate, clip,
        dict(parts or {}), precision, channels_last, seed, betas,
    )  # fmt: skip
    interval = _Interval(checkpoint_every)
    items = _checked_data(learner, data, training)
    watchers = list(callbacks)
    fabric = _fabric(accelerator, devices, strategy, num_nodes, precision)
    with _state_kept(), contextlib.ExitStack() as stack:
        if verbose:
            watchers.append(stack.enter_context(contextlib.closing(ProgressBar())))
        folder = None
        if out is not None and fabric.global_rank == 0:
            folder = stack.enter_context(
                contextlib.closing(RunFolder(out, _config(learner, items, training, config), overwrite=overwrite))
            )
            stack.enter_context(_threads(folder.config.get("threads")))
        fabric.barrier()
        _Fit(learner, items, training, folder, out, interval, watchers, fabric).run()
    return learner


class _Fit:
    """One call of `fit`: what changes while it runs."""

    def __init__(
        self,
        learner: Learner,
        data: Dataset,
        training: Training,
        folder: RunFolder | None,
        out: str | Path | None,
        interval: _Interval,
        callbacks: Sequence[Callback],
        fabric: Fabric,
    ) -> None:
        self.learner, self.training, self.folder, self.out = learner, training, folder, out
        self.interval, self.callbacks, self.fabric = interval, callbacks, fabric
        self.data, self.held_out = _hold_out(learner, data, training)
        self.step = self.epoch = self.epoch_start = 0
        self.order: list[Tensor] | None = None
        self.started = time.monotonic()
        self.word = LEARNING
        self.pending: list[tuple[int, Tensor, float, float]] = []

    def run(self) -> None:
        learner, folder = self.learner, self.folder
        model = read_model(self.out) if self.out is not None else None
        if model is not None:
            load_state(learner, model)
            learner.progress = 1.0
            learner.eval()
            return
        learner.to(self.fabric.device)
        checkpoint = newest_checkpoint(self.out) if self.out is not None else None
        if checkpoint is not None:
            load_state(learner, checkpoint.learner)
        else:
            self._before_fit()
        first = self._draw_order(0)
        if not first:
            self._finish_closed_form()
            return
        if self.training.channels_last:
            learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._share_state(learner.state_dict().values())
        self.per_epoch = len(first)
        # each process may have timed its steps itself: the first one's number holds for all
        self.total = self.fabric.broadcast(self.training.max_steps or len(first) * (self.training.epochs or 0))
        size, seed = self.training.batch_size, self.training.seed
        self.updates = _Updates(learner, self.training, self.total, self.fabric.world_size)
        self.monitor = Monitor(learner, self.data, self.held_out, total=self.total, batch_size=size, seed=seed)
        if checkpoint is not None:
            self._restore(checkpoint)
        if folder is not None:
            folder.cut_metrics(self.step if checkpoint is not None else -1)
        self._tell("start", self.total, size, _unit(self.data))
        with _Stop() as stop:
            self._train(stop)
        self._finish()

    def _before_fit(self) -> None:
        self._seed("before_fit", 0)
        self.data.on_chunk = lambda done, n: self._tell("items", done, n)
        self.learner.before_fit(self.data)
        self.data.on_chunk = None

    def _train(self, stop: _Stop) -> None:
        self.learner.train()
        looks = set(self.monitor.steps)
        if self.step == 0:
            self._look()
        while self.step < self.total:
            for indices in self._epoch_order()[self.step - self.epoch_start :][: self.total - self.step]:
                self._one_step(indices)
                if self.step in looks:
                    self._look()
                if self.interval.due(self.step) or stop.asked:
                    self._save()
                if stop.asked and self.step < self.total:
                    stop.now(self.folder)
            self.epoch, self.epoch_start, self.order = self.epoch + 1, self.step, None

    def _epoch_order(self) -> list[Tensor]:
        """The epoch's batches. An epoch that was under way at the kill has had its `before_epoch`."""
        if self.step == self.epoch_start:
            self._seed("before_epoch", self.epoch)
            self.learner.before_epoch(self.data)
            self.order = None
        if self.order is None:
            self.order = self._draw_order(self.epoch)
        if not self.order:
            name = type(self.learner).__name__
            raise TrainingError(f"{name}.batches gave no batch in epoch {self.epoch}; expected at least one")
        return self.order

    def _draw_order(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(mix(self.training.seed, "order", epoch))
        return [torch.as_tensor(b) for b in self.learner.batches(self.data, self.training.batch_size, generator)]

    def _one_step(self, indices: Tensor) -> None:
        learner, fabric = self.learner, self.fabric
        self._seed("step", self.step)
        learner.progress = self.step / self.total
        mine = indices[fabric.global_rank :: fabric.world_size]
        parts = mine.chunk(self.training.accumulate)  # fewer where a learner's own batch does not divide evenly
        self.updates.begin(self.step, len(parts))
        for rows in parts:
            batch = {name: self.data[name][rows].to(fabric.device) for name in learner.columns}
            with fabric.autocast():
                learner.step(self.updates.update, **batch)
            self.updates.next_micro_batch()
        self.step += 1
        learner.progress = self.step / self.total
        with torch.no_grad():
            learner.after_step(learner.progress)
        self.pending.append((self.step, self.updates.loss, self.updates.lr, time.monotonic() - self.started))
        # reading a loss waits for the device: on a GPU not at every step
        if fabric.device.type == "cpu" or len(self.pending) >= 20:
            self._report_losses()

    def _report_losses(self) -> None:
        for step, loss, lr, passed in self.pending:
            value = float(loss)
            if not math.isfinite(value):
                raise TrainingError(self._not_finite(step, value))
            self.monitor.note_loss(value)
            if self.folder is not None:
                self.folder.log({"step": step, "loss": value, "lr": lr, "time": round(passed, 3)})
            self._tell("step", step, value, lr, self.word)
        self.pending = []

    def _not_finite(self, step: int, value: float) -> str:
        last = newest_checkpoint(self.out) if self.out is not None else None
        kept = f"the last good checkpoint is at step {last.step}" if last else "no checkpoint was written"
        return (
            f"the loss is {value} at step {step} of {self.total}; {kept}. Usual remedies: a lower lr "
            f"(now {self.training.lr:g}), a longer warmup, clip=1.0, precision='32-true'; then anew with overwrite"
        )

    def _look(self) -> None:
        self._report_losses()
        self._share_state(self.learner.buffers())
        measures = self.monitor.look(self.step, self.step / self.per_epoch)
        self.learner.train()
        verdict = self.monitor.verdict
        self.word = verdict.word
        said = {**measures, "word": verdict.word, "reason": verdict.reason}
        if self.folder is not None:
            self.folder.log({**said, "look": True})
        self._tell("look", said)
        if self.step and self.monitor.last_healthy == self.step:
            self._save()

    def _save(self) -> None:
        if self.folder is None or self.step in (self.interval.last, self.total):
            return
        self._report_losses()
        _expect_finite(self.learner, self.step)
        extra = {}
        if self.order is not None and type(self.learner).batches is not Learner.batches:
            # a learner's own order may hang on buffers that have moved since the epoch began
            extra["order"] = torch.cat(self.order)
            extra["order_sizes"] = torch.tensor([len(batch) for batch in self.order])
        if self.monitor.neighbours is not None:
            extra["neighbours"] = self.monitor.neighbours
        notes = {"looks": self.monitor.looks, "losses": self.monitor.losses}
        notes["time"] = time.monotonic() - self.started
        state, optimizers = self.learner.state_dict(), self.updates.state()
        checkpoint = Checkpoint(self.step, self.epoch, self.epoch_start, state, optimizers, extra, notes)
        self.folder.save(checkpoint, keep_healthy=self.monitor.last_healthy)
        self.interval.saved(self.step)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.step, self.epoch, self.epoch_start = checkpoint.step, checkpoint.epoch, checkpoint.epoch_start
        self.learner.progress = self.step / self.total
        self.updates.restore(checkpoint.optimizers)
        if "order" in checkpoint.extra:
            self.order = list(checkpoint.extra["order"].split(checkpoint.extra["order_sizes"].tolist()))
        self.monitor.neighbours = checkpoint.extra.get("neighbours")
        self.monitor.looks, self.monitor.losses = checkpoint.notes["looks"], checkpoint.notes["losses"]
        self.started -= checkpoint.notes["time"]
        self.word = self.monitor.verdict.word
        self.interval.saved(self.step)

    def _finish(self) -> None:
        self._report_losses()
        verdict, kept = self.monitor.verdict, self.total
        self._share_state(self.learner.buffers())
        if not verdict.healthy and self.out is not None and self.monitor.last_healthy is not None:
            healthy = newest_checkpoint(self.out, at_most=self.monitor.last_healthy)
            if healthy is not None:
                load_state(self.learner, healthy.learner)
                kept = healthy.step
        self.learner.eval()
        if self.folder is not None:
            passed = round(time.monotonic() - self.started, 3)
            end = {"word": verdict.word, "reason": verdict.reason, "kept": kept, "time": passed}
            self.folder.log({"step": self.total, "event": "end", **end})
            _expect_finite(self.learner, self.total)
            self.folder.finish(self.learner.state_dict())
        self._tell("end", verdict.word, verdict.reason)

    def _finish_closed_form(self) -> None:
        self.learner.progress = 1.0
        self.learner.eval()
        reason = "solved in closed form: there is no loss to watch"
        if self.folder is not None:
            passed = round(time.monotonic() - self.started, 3)
            self.folder.cut_metrics(-1)
            end = {"word": CLOSED_FORM, "reason": reason, "kept": 0, "time": passed}
            self.folder.log({"step": 0, "event": "end", **end})
            self.folder.finish(self.learner.state_dict())
        self._tell("end", CLOSED_FORM, reason)

    def _seed(self, what: str, number: int) -> None:
        """Processes draw the same, but for their own share of a step."""
        rank = f"/{self.fabric.global_rank}" if what == "step" and self.fabric.global_rank else ""
        torch.manual_seed(mix(self.training.seed, what + rank, number))

    def _share_state(self, tensors: Iterable[Tensor]) -> None:
        """All processes take the first one's: weights at the start, batch statistics before they are used."""
        if self.fabric.world_size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def _tell(self, event: str, *args: Any) -> None:
        if self.fabric.global_rank == 0:
            for callback in self.callbacks:
                getattr(callback, event)(*args)


class _Updates:
    """The `update` that `Learner.step` is given, and one optimiser for each set of modules it names."""

    def __init__(self, learner: Learner, training: Training, total: int, world_size: int) -> None:
        self.learner, self.training, self.total, self.world_size = learner, training, total, world_size
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.names = {id(module): name for name, module in learner.named_modules()}

    def begin(self, step: int, n_parts: int) -> None:
        warmup = round(self.training.warmup * self.total)
        self.share = optim.scheduled_lr(1.0, step, self.total, schedule=self.training.schedule, warmup=warmup)
        self.lr = self.share * self.training.lr
        self.loss = torch.zeros(())
        self.micro, self.n_parts = 0, n_parts
        self.seen: set[str] = set()

    def next_micro_batch(self) -> None:
        self.micro += 1
        self.seen = set()

    def update(self, loss: Tensor, *modules: nn.Module) -> None:
        """Move the modules' parameters (the whole learner's, if none is named) one step down the loss."""
        key = ",".join(self._name(module) for module in modules)
        optimizer = self.optimizers.get(key) or self._make(key)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        accumulate = self.training.accumulate
        if accumulate > 1 and key in self.seen:
            raise ArgumentError(
                f"accumulate={accumulate}: expected 1, since {type(self.learner).__name__} moves {key or 'itself'} "
                "several times a step"
            )
        self.seen.add(key)
        if self.micro == 0:
            for p in parameters:
                p.grad = None
        (loss / self.n_parts).backward(inputs=parameters)
        self.loss = self.loss.to(loss.device) + loss.detach().float() / self.n_parts
        if self.micro == self.n_parts - 1:
            self._move(optimizer, self._settings(key)["lr"] * self.share, parameters)

    def _name(self, module: nn.Module) -> str:
        if id(module) not in self.names:
            raise ArgumentError(
                f"update(loss, {type(module).__name__}): expected a module of {type(self.learner).__name__}"
            )
        return self.names[id(module)]

    def state(self) -> dict[str, Tensor]:
        return {
            f"{key}|{name}": value
            for key, optimizer in self.optimizers.items()
            for name, value in optim.state_tensors(optimizer).items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        by_key: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            key, rest = name.split("|", 1)
            by_key.setdefault(key, {})[rest] = value
        for key, tensors in by_key.items():
            optim.load_state_tensors(self._make(key), tensors)

    def _move(self, optimizer: torch.optim.Optimizer, lr: float, parameters: list[Tensor]) -> None:
        if self.world_size > 1:
            for p in parameters:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                torch.distributed.all_reduce(p.grad)
                p.grad /= self.world_size
        if self.training.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.training.clip)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()

    def _make(self, key: str) -> torch.optim.Optimizer:
        modules = [self.learner.get_submodule(name) for name in key.split(",")]
        self.optimizers[key] = optim.make_optimizer(modules, **self._settings(key))
        return self.optimizers[key]

    def _settings(self, key: str) -> dict[str, Any]:
        training = self.training
        common = {"name": training.optimizer, "lr": training.lr}
        common |= {"weight_decay": training.weight_decay, "momentum": training.momentum, "betas": training.betas}
        return common | dict(training.parts.get(key, {}))


class _Interval:
    """When a checkpoint is due: every so many steps, or so much time."""

    def __init__(self, every: str | int) -> None:
        self.every, self.seconds = every, seconds(every)
        self.last: int | None = None
        self._saved_at = time.monotonic()

    def due(self, step: int) -> bool:
        if self.seconds is None:
            return step % int(self.every) == 0
        return time.monotonic() - self._saved_at >= self.seconds

    def saved(self, step: int) -> None:
        self.last, self._saved_at = step, time.monotonic()


class _Stop:
    """SIGTERM and Ctrl-C are noted, and obeyed after the step, when the state is whole."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.asked is not None:  # asked twice: at once
            raise KeyboardInterrupt
        self.asked = number

    def now(self, folder: RunFolder | None) -> None:
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        where = f"; the same call with out={str(folder.path)!r} goes on from here" if folder is not None else ""
        raise SystemExit(f"stopped by SIGTERM{where}")


def mix(seed: int, what: str, number: int) -> int:
    """A seed of its own for each (seed, what, number): 63 bits of a hash."""
    digest = hashlib.blake2b(f"{seed}/{what}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _checked_data(learner: Learner, data: Any, training: Training) -> Dataset:
    if not isinstance(data, Mapping | Dataset) and isinstance(data, Iterator):
        raise ArgumentError("data: a stream has no length and so no epoch; expected items that can be read by number")
    items = as_dataset(data)
    name = type(learner).__name__
    missing = [column for column in learner.columns if column not in items]
    if missing:
        raise ArgumentError(
            f"data: {name} needs the columns {', '.join(missing)}; the data has {', '.join(items.names)}"
        )
    expect("data", len(items), len(items) >= 2, "at least 2 items to learn from")
    own_order = type(learner).batches is not Learner.batches
    fits = own_order or training.batch_size <= len(items)
    expect("batch_size", training.batch_size, fits, f"at most the {len(items)} items of the data")
    # the learner gets what it names; what overrides `batches` or a hook may read more, such as y for episodes
    return items if own_order else items.only(learner.columns)


def held_out_count(kind: type[Learner], n: int, batch_size: int) -> int:
    """Items kept from training for the held-out loss: 5 %, at most 1,000, where the loss can be had for unseen ones.

    >>> from tacit.pretrain import SimCLR
    >>> held_out_count(SimCLR, 10_000, 256), held_out_count(SimCLR, 500, 256)
    (500, 0)
    """
    known = {"index", "y"} & set(wanted_columns(kind))
    plain = kind.step is Learner.step and kind.batches is Learner.batches
    count = min(1000, n // 20)
    return 0 if known or not plain or n < 1000 or n - count < batch_size else count


def _hold_out(learner: Learner, data: Dataset, training: Training) -> tuple[Dataset, Dataset | None]:
    count = held_out_count(type(learner), len(data), training.batch_size)
    if count == 0:
        return data, None
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(mix(training.seed, "held out", 0)))
    return data.select(order[count:].sort().values), data.select(order[:count].sort().values)


def _config(learner: Learner, data: Dataset, training: Training, more: Mapping[str, Any] | None) -> dict[str, Any]:
    kind = type(learner)
    return {
        "tacit": __version__,
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "build": describe_build(learner),
        "data": {"fingerprint": data.fingerprint, "n": len(data), "columns": list(data.names)},
        "training": asdict(training),
        "threads": torch.get_num_threads(),
        **(more or {}),
    }


def _expect_finite(learner: Learner, step: int) -> None:
    """A checkpoint that holds NaN would be gone on from for ever."""
    for name, value in learner.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise TrainingError(f"step {step}: {name} is no longer finite; lower lr, lengthen warmup or set clip=1.0")


def _unit(data: Dataset) -> str:
    known = {"image": "images", "text": "texts", "audio": "sounds", "series": "series", "table": "rows"}
    return known.get(data.modality, "items")


def _fabric(accelerator: str, devices: int | str, strategy: str, num_nodes: int, precision: str) -> Fabric:
    import logging

    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces each precision
    count = 1 if devices == "auto" else devices
    whole = isinstance(count, int) and count >= 1
    expect("devices", devices, whole, "how many devices, or 'auto' for one")
    fabric = Fabric(
        accelerator=accelerator,
        devices=count,
        strategy=strategy,
        num_nodes=num_nodes,
        precision=precision,  # type: ignore[arg-type]
    )
    if fabric.world_size > 1:
        fabric.launch()
    return fabric


@contextlib.contextmanager
def _state_kept() -> Iterator[None]:
    """The caller's random state, and cuDNN's choice of algorithms, come back afterwards."""
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic = deterministic


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """The run's own number of threads: another gives other bits."""
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
