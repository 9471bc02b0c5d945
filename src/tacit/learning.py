"""learn: from files to a run folder with an encoder, a searchable map and a report."""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tacit import catalogue
from tacit.checkpoints import RunFolder, plain_errors, read_config, read_model, save_tensors, write_json
from tacit.data import Source, write_skipped
from tacit.data import open as open_data
from tacit.learner import encoder_of
from tacit.planning import Finished, Plan, comparable, expect_same_items, is_finished, plan, where_of
from tacit.querying import Joint
from tacit.runs import Run, load, load_encoder
from tacit.settings import LearnSettings, learn_signature
from tacit.surveying import survey
from tacit.training import Callback, fit

Say = Callable[[str], None]


def learn(data: Any, **settings: Any) -> Run:
    """Learn an encoder from data without labels, and survey the data with it.

    Finds what the data is, picks what nobody chose (method, network, length, batch), trains, and writes one folder:
    README.md, config.json, model.safetensors, items.lance, labels.sqlite, metrics.jsonl, report.html, skipped.csv,
    environment.json, checkpoints. Killed at any moment, the same call goes on where it stood. Labels that lie in the
    data (folder names, a column) are used for the report only.

    Args:
        data: a folder, a zip, a glob, .npy, .npz, csv or parquet, an array, or `demo`.
        settings: those of `tacit learn`; `tacit.settings.LearnSettings` documents each.

    Returns:
        The run: `run.encoder`, `run.search(...)`, `run.report()`.

    Raises:
        ArgumentError: a setting that cannot be.
        DataError: nothing readable.
        RunError: `out` is in use, unwritable, or holds a run with other settings.
        TrainingError: the loss is no longer finite.
    """
    chosen = LearnSettings(data=data, **settings)
    with _threads_for_now(chosen.threads):
        made = plan(chosen)
        if chosen.verbose:
            print("\n".join(made.lines()))
        return carry_out(made, progress=chosen.verbose)


learn.__signature__ = learn_signature()  # type: ignore[attr-defined]


def carry_out(made: Plan | Finished, *, progress: bool = True, callbacks: tuple[Callback, ...] = ()) -> Run:
    """Train as planned, or go on, and write the run.

    Raises:
        as `learn`.
    """
    say = print if progress else (lambda text: None)
    if isinstance(made, Finished):
        with plain_errors(made.folder):
            _pages(made.folder, say, anew=False)
        return load(made.folder)
    settings, source = made.settings, made.source
    started = time.monotonic()
    learner, items = made.ready()
    fit(
        learner,
        items,
        max_steps=made.steps or 1,
        seed=settings.seed,
        out=made.folder,
        overwrite=settings.overwrite,
        checkpoint_every=settings.checkpoint_every,
        config=_config(made),
        callbacks=callbacks,
        verbose=progress,
        devices=1 if settings.devices in ("auto", "cpu") else settings.devices,
        accelerator=made.accelerator,
        num_nodes=settings.num_nodes,
        **made.recipe.training,
    )
    if not _first_process():
        raise SystemExit(0)  # the others have no more to do: the first one surveys and writes
    facts = _facts(made, time.monotonic() - started)
    finish(
        made.folder,
        source,
        encoder_of(learner),
        facts,
        untrained=_untrained(made),
        seed=settings.seed,
        say=say,
    )
    return load(made.folder)


def embed_run(
    model: str,
    data: Any,
    *,
    out: str | Path,
    labels: str = "auto",
    image_size: int | None = None,
    on_error: str = "skip",
    overwrite: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Run:
    """A run without training: the vectors that an encoder which exists gives the data, with map, clusters and report.

    A run that is there already, of the same encoder and the same items, is returned as it is, with all that was added.

    Args:
        model: a run folder, `hf:NAME` or `timm:NAME`.
        data: whatever `tacit.data.open` takes.
        out: folder of the new run, which every other command takes.
        labels, image_size, on_error, overwrite, seed: as `learn`'s.

    Raises:
        as `learn`; RunError also for an `out` that holds another run.
    """
    encoder = load_encoder(model, image_size=image_size)
    size, reads = getattr(encoder, "image_size", image_size), getattr(encoder, "modality", None)
    kept = read_config(model) if Path(model).is_dir() else {}
    like = kept.get("made", {}).get("description")
    source = open_data(data, modality=reads, image_size=size, labels=labels, on_error=on_error, like=like)
    say = print if progress else (lambda text: None)
    for line in source.describe():
        say(line)
    alone = {"system": None, "encoder": getattr(encoder, "config", None), "arguments": {}}  # no run, so no learner
    described: dict[str, Any] = kept.get("build", alone)
    config = {
        "build": described,
        "settings": {"embed": str(model)},
        "data": {"fingerprint": source.dataset.fingerprint},
    }
    made = {
        "at": _now(),
        "data": where_of(data),
        "description": dict(source.description),
        "lines": source.describe(),
    }
    if Path(out, "config.json").exists() and not overwrite:
        expect_same_items(Path(out), read_config(out), data, source)
    with contextlib.closing(RunFolder(out, config | {"made": made}, overwrite=overwrite)) as folder:
        if is_finished(folder.path):
            say(f"{out} is finished: nothing to do. To have its map and clusters anew, give another out, or overwrite.")
        if read_model(folder.path) is None:
            state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
            if Joint.described(described):  # its texts' side too, to be searched and labelled by words
                state = load(model).learner.state_dict()
            with plain_errors(folder.path):
                save_tensors(folder.path / "model.safetensors", state)
    facts = {
        "method": {"id": "embed", "name": f"the encoder of {model}", "paper": None, "summary": "not trained here"},
        "training": None,
        "health": None,
    }
    finish(Path(out), source, encoder, facts, untrained=None, seed=seed, say=say)
    return load(out)


def finish(
    folder: Path,
    source: Source,
    encoder: nn.Module,
    facts: Mapping[str, Any],
    *,
    untrained: nn.Module | None,
    seed: int,
    say: Say,
) -> None:
    """All that a run holds beside its model: items, labels, summary, page and card.

    Done again, it ends what a kill left to do; the items that a finished run has, added ones among them, it leaves.
    """
    if is_finished(folder):
        with plain_errors(folder):
            _pages(folder, say, anew=False)
        return
    with plain_errors(folder):
        write_skipped(folder / "skipped.csv", source.skipped)
        write_json(folder / "environment.json", environment())
        summary = survey(folder, source, encoder, untrained=untrained, seed=seed, say=say)
        rank = {"effective_rank": summary.pop("effective_rank")}
        facts = {**facts, "health": rank | dict(facts["health"] or {})}
        summary = {
            "format": 1,
            "title": Path(source.where).name or source.where,
            **facts,
            **summary,
            "made": _now(),
            "versions": environment()["packages"],
        }
        write_json(folder / "summary.json", summary)
        _pages(folder, say, anew=True)


def _pages(folder: Path, say: Say, *, anew: bool) -> None:
    """The report and the card, all `anew` or those that are missing."""
    from tacit.report import write_card, write_report

    if anew or not (folder / "report.html").exists():
        say("writing the report")
        write_report(folder)
    if anew or not (folder / "README.md").exists():
        write_card(folder)


def _untrained(made: Plan) -> nn.Module | None:
    """The encoder before training, for the report's table; a closed form has none."""
    return encoder_of(made.ready()[0]) if made.steps else None


def _config(made: Plan) -> dict[str, Any]:
    return {
        "settings": comparable(made.settings),
        "steps": made.steps,
        "made": {
            "at": _now(),
            "data": where_of(made.settings.data),
            "description": dict(made.source.description),
            "lines": made.source.describe(),
            "changes": [vars(change) for change in made.recipe.changes],
            "seconds": made.seconds,
        },
    }


def _facts(made: Plan, seconds: float) -> dict[str, Any]:
    """What the report says of method and training."""
    entry = catalogue.find(made.recipe.method)
    end = _end_of(made.folder / "metrics.jsonl")
    closed, size = not made.steps, made.batch_size
    took = end.get("time", seconds)
    last_step = closed or end.get("kept") == made.steps
    kept = "last step" if last_step else f"last healthy checkpoint at step {end.get('kept')}"
    last = _last_look(made.folder / "metrics.jsonl")
    return {
        "method": {"id": entry.id, "name": entry.name, "paper": entry.paper, "summary": entry.summary},
        "training": {
            "steps": made.steps,
            "batch_size": size,
            "epochs": round(made.epochs, 2),
            "seconds": took,
            "images_per_second": None if closed or not took else made.steps * size / took,
            "device": made.machine.name,
            "threads": torch.get_num_threads(),
            "precision": made.recipe.training["precision"],
            "closed_form": closed,
            "changes": [vars(change) for change in made.recipe.changes],
            "kept": kept,
            "seed": made.settings.seed,
            "init": made.settings.init,
        },
        "health": {"word": end.get("word"), "reason": end.get("reason"), **last},
    }


def _metrics(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _end_of(path: Path) -> dict[str, Any]:
    return next((line for line in _metrics(path) if line.get("event") == "end"), {})


def _last_look(path: Path) -> dict[str, Any]:
    looks = [line for line in _metrics(path) if line.get("look")]
    if not looks or "effective_rank" not in looks[-1]:
        return {}
    last = looks[-1]
    rank = {"value": last["effective_rank"], "low": last["effective_rank_low"], "high": last["effective_rank_high"]}
    return {"effective_rank": rank}


def environment() -> dict[str, Any]:
    """Versions and machine, for environment.json."""
    packages = {}
    for name in ("tacit", "torch", "numpy", "scikit-learn", "lancedb", "lightning-fabric", "safetensors", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {"python": platform.python_version(), "platform": platform.platform(), "packages": packages}


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds")


def _first_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


@contextlib.contextmanager
def _threads_for_now(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
