"""compare: which method suits this data? A few in equal steps on a part of it, beside the quick baselines."""

from __future__ import annotations

import json
import math
import shlex
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tacit import catalogue
from tacit.building import closed_form, learner_class
from tacit.checkpoints import RunFolder, plain_errors, write_json
from tacit.data import Ledger, Source
from tacit.embedding import embed
from tacit.errors import DataError, expect
from tacit.evaluate import Estimate, effective_rank, knn_accuracy, linear_probe, mean_interval, view_retrieval
from tacit.learner import encoder_of
from tacit.planning import OVERHEAD, Plan, plan, step_seconds
from tacit.recipes import usual_methods
from tacit.settings import LearnSettings
from tacit.surveying import QUICK, quick_baselines, view_pairs
from tacit.training import fit

UNSEEN = 1000
"""Items kept from learning, by which methods are judged."""
TRAINED, CLOSED, BASELINE = "trained", "closed form", "baseline"
LEARNABLE = {name: id for baselines in QUICK.values() for name, id in baselines}
"""Baselines that `tacit learn` makes too, and in full, by their id."""


@dataclass(frozen=True)
class Row:
    """What one method, or one quick baseline, came to.

    Attributes:
        name: id of the method, or name of the baseline.
        kind: `trained`, `closed form` or `baseline`.
        scores: name -> Estimate; `view retrieval` and `effective rank`, and for each label found in the data
            `k-NN (label)` and `linear (label)`, from 0 to 1.
        seconds: of learning, over all seeds; None for a baseline.
    """

    name: str
    kind: str
    scores: Mapping[str, Estimate]
    seconds: float | None = None


@dataclass(frozen=True)
class Compared:
    """The answer of `compare`: its rows, the best first, and a recommendation in words.

    Attributes:
        folder: where comparison.json, README.md and the trained encoders lie.
        rows: methods and baselines by the score that decides, best first.
        decided_by: name of that score.
        steps: of each method that steps; 0 if none does.
        batch_size: items in a step.
        n: items that were learned from.
        unseen: items that judged.
        seeds: trainings of each method.
        advice: sentences.
    """

    folder: Path
    rows: tuple[Row, ...]
    decided_by: str
    steps: int
    batch_size: int
    n: int
    unseen: int
    seeds: int
    advice: tuple[str, ...]

    def titles(self) -> list[str]:
        return ["method", *self.rows[0].scores, "learning"]

    def cells(self) -> list[list[str]]:
        """The table as text, a list for each row."""
        return [[row.name, *(str(row.scores[name]) for name in self.rows[0].scores), _took(row)] for row in self.rows]

    def lines(self) -> list[str]:
        """How it was done, and what to do."""
        runs = "one training each" if self.seeds == 1 else f"{self.seeds} trainings each"
        done = f"{self.steps:,} steps of {self.batch_size} on {self.n:,} items, {runs}" if self.steps else "no steps"
        over = "items (the chance of training is not in them: --seeds 3 shows it)" if self.seeds == 1 else "trainings"
        return [f"{done}; judged on {self.unseen:,} others. Ranges: 95 % over {over}.", *self.advice]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        rows = [
            {"name": row.name, "kind": row.kind, "seconds": row.seconds}
            | {"scores": {name: vars(score) for name, score in row.scores.items()}}
            for row in self.rows
        ]
        facts = {name: getattr(self, name) for name in ("decided_by", "steps", "batch_size", "n", "unseen", "seeds")}
        return {"folder": str(self.folder), "rows": rows, **facts, "advice": list(self.advice)}


def compare(
    data: Any,
    *,
    methods: Sequence[str] | str = "auto",
    minutes: float | None = None,
    max_steps: int | None = None,
    seeds: int = 1,
    n: int = 5000,
    out: str | Path = "compare",
    **settings: Any,
) -> Compared:
    """Train a few methods equally long on a part of the data, and say which suits it.

    Each takes the same number of steps of the same batch on the same items; others, which none has seen, judge: how
    often a view finds its original, and, where labels lie in the data, k-NN and a linear probe on the half of them that
    may be used for choosing (the half for reporting stays untouched). Beside them stand encoders that cost next to
    nothing: pixels, whitened PCA, patch k-means, and the untrained network.

    Killed, the same call goes on where it stood.

    Args:
        data: whatever `tacit.learn` takes.
        methods: ids of learners, in a list or with commas; `auto`: the best of the table for this kind of data.
        minutes: for all methods and seeds together; 10 if neither this nor `max_steps` is given.
        max_steps: of each training, in place of `minutes`.
        seeds: trainings of each method.
        n: items to learn from, at most.
        out: folder of the answer and of the trained encoders.
        settings: of `tacit.learn`, for every method: batch_size, model, image_size, labels, flip, seed, verbose...

    Raises:
        ArgumentError: an unknown method, one that needs labels or does not take this kind of data, a number out of
            range.
        DataError: fewer than 20 items.
        RunError: `out` holds a comparison with other settings.
    """
    expect("seeds", seeds, _is_whole(seeds, 1), "a whole number, at least 1")
    expect("n", n, _is_whole(n, 16), "a whole number of items, at least 16")
    expect("max_steps", max_steps, max_steps is None or _is_whole(max_steps, 1), "a whole number, at least 1")
    is_number = isinstance(minutes, int | float) and not isinstance(minutes, bool)
    expect("minutes", minutes, minutes is None or (is_number and 0 < minutes < math.inf), "a number above 0")
    expect("minutes", minutes, minutes is None or max_steps is None, "minutes or max_steps, not both")
    out = Path(out)
    first = LearnSettings(**settings, data=data, out=str(out / "plan"), max_steps=1, method="pca")
    say: Callable[[str], None] = print if first.verbose else (lambda text: None)
    source = plan(first.model_copy(update={"model": "auto"})).source  # type: ignore[union-attr]
    names = _methods(methods, source)
    stepping = [name for name in names if not closed_form(learner_class(name))]
    if stepping:  # at the size of pictures that a network is trained with here
        source = plan(first.model_copy(update={"method": stepping[0]})).source  # type: ignore[union-attr]
    for line in source.describe():
        say(line)
    learned, judged = _parts(source, n, first.seed)
    size = first.batch_size or min(256, len(learned))
    expect("batch_size", size, size <= len(learned), f"at most the {len(learned):,} items to learn from")
    common = first.model_copy(update={"batch_size": size, "image_size": source.image_size})
    own = {"model": "auto"}  # of a closed form
    each = {name: {"method": name} | ({} if name in stepping else own) for name in names}
    made: list[Plan] = [plan(common.model_copy(update=each[name]), learned) for name in names]  # type: ignore[misc]
    trained = [one for one in made if one.recipe.method in stepping]
    steps = max_steps or 0
    config = {
        "settings": {"methods": names, "minutes": minutes, "max_steps": max_steps, "seeds": seeds, "n": n}
        | {name: value for name, value in settings.items() if name not in ("verbose", "threads", "overwrite")},
        "data": {"fingerprint": source.dataset.fingerprint},
    }
    folder = RunFolder(out, config, overwrite=first.overwrite)
    try:
        if trained and max_steps is None:
            steps = _kept_steps(out, partial(_steps_in, (10.0 if minutes is None else minutes) / seeds, trained))
        rows = _trained_rows(made, learned, judged, steps, range(first.seed, first.seed + seeds), out, say)
        rows += _baseline_rows(made, learned, judged, first.seed, out, say)
        answer = _answer(out, rows, steps if trained else 0, size, learned, judged, seeds, data)
        with plain_errors(out):
            write_json(out / "comparison.json", answer.as_dict())
            (out / "README.md").write_text(_page(answer), encoding="utf-8")
    finally:
        folder.close()
    return answer


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _methods(methods: Sequence[str] | str, source: Source) -> list[str]:
    """The ids asked for, each a learner that takes this kind of data and no labels."""
    if methods == "auto":
        return usual_methods(source.modality)
    names = methods.split(",") if isinstance(methods, str) else list(methods)
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    expect("methods", methods, bool(names), "ids of methods", "see: tacit systems")
    for name in names:
        kinds = catalogue.find(name).modality
        ok = source.modality in kinds or "any" in kinds
        expect(
            "methods", name, ok, f"methods for {source.modality}", f"see: tacit systems --modality {source.modality}"
        )
    return names


def _parts(source: Source, n: int, seed: int) -> tuple[Source, Source]:
    """Items to learn from, and items to judge by, which nobody learns from."""
    if len(source) < 20:
        raise DataError(f"data={source.where!r}: {len(source)} items; expected at least 20 to compare methods on")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).numpy()
    unseen = min(UNSEEN, len(order) // 5)
    return _part(source, np.sort(order[unseen : unseen + n])), _part(source, np.sort(order[:unseen]))


def _part(source: Source, items: np.ndarray) -> Source:
    def some(values: Sequence[Any]) -> list[Any]:
        return [values[i] for i in items]

    return replace(
        source,
        dataset=source.dataset.select(torch.from_numpy(items)),
        uris=some(source.uris),
        hashes=some(source.hashes),
        labels={name: some(values) for name, values in source.labels.items()},
    )


def _steps_in(minutes: float, trained: Sequence[Plan]) -> int:
    """How many steps each may take so that all of them together take that long here."""
    return max(1, int(minutes * 60 / sum(step_seconds(one) * OVERHEAD for one in trained)))


def _kept_steps(out: Path, measure: Callable[[], int]) -> int:
    """The number of steps, measured once and kept for the call that goes on."""
    path = out / "steps.json"
    if not path.exists():
        write_json(path, {"steps": measure()})
    return int(json.loads(path.read_text(encoding="utf-8"))["steps"])


def _trained_rows(
    made: Sequence[Plan],
    learned: Source,
    judged: Source,
    steps: int,
    seeds: Iterable[int],
    out: Path,
    say: Callable[[str], None],
) -> list[Row]:
    found: dict[str, list[tuple[dict[str, Estimate], float]]] = {}
    for seed in seeds:
        for one in made:
            method = one.recipe.method
            one = replace(one, settings=one.settings.model_copy(update={"seed": seed}))
            closed = closed_form(learner_class(method))
            say(f"{method}, seed {seed}: {CLOSED if closed else f'{steps:,} steps'}")
            folder, clock = out / f"{method}-{seed}", time.monotonic()
            learner = fit(
                one.learner(),
                learned.dataset,
                max_steps=1 if closed else steps,
                seed=seed,
                out=folder,
                accelerator=one.accelerator,
                verbose=one.settings.verbose,
                **one.recipe.training,
            )
            seconds = _seconds_of(folder, time.monotonic() - clock)
            scores = _scores(encoder_of(learner), learned, judged, seed, out)
            found.setdefault(method, []).append((scores, seconds))
    kinds = {one.recipe.method: closed_form(learner_class(one.recipe.method)) for one in made}
    return [
        Row(
            name,
            CLOSED if kinds[name] else TRAINED,
            _over_seeds([scores for scores, _ in runs]),
            sum(seconds for _, seconds in runs),
        )
        for name, runs in found.items()
    ]


def _seconds_of(folder: Path, measured: float) -> float:
    """Of training; as written down there, since a finished training returns at once."""
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event.get("event") == "end" and event.get("time"):
            return float(event["time"])
    return measured


def _over_seeds(scores: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """One seed's own intervals, or Student's over the seeds."""
    if len(scores) == 1:
        return dict(scores[0])
    found = {}
    for name, first in scores[0].items():
        mean = mean_interval([float(each[name]) for each in scores])
        low, high = (max(mean.low, 0.0), mean.high) if first.value >= 0 else (mean.low, mean.high)
        found[name] = type(first)(mean.value, low, high, first.n)
    return found


def _baseline_rows(
    made: Sequence[Plan], learned: Source, judged: Source, seed: int, out: Path, say: Callable[[str], None]
) -> list[Row]:
    say("the quick baselines")
    encoders = quick_baselines(learned, seed, but={one.recipe.method for one in made})
    with_encoder = [one for one in made if one.recipe.encoder is not None]
    if with_encoder:
        encoders["untrained"] = encoder_of(with_encoder[0].learner())
    return [Row(name, BASELINE, _scores(each, learned, judged, seed, out)) for name, each in encoders.items()]


def _scores(encoder: nn.Module, learned: Source, judged: Source, seed: int, out: Path) -> dict[str, Estimate]:
    vectors = embed(encoder, judged.dataset)
    found: dict[str, Estimate] = {}
    if judged.modality == "image":
        size = int(getattr(encoder, "image_size", judged.image_size))
        pairs = (embed(encoder, {"x": images}) for images in view_pairs(judged, size, seed))
        found["view retrieval"] = view_retrieval(*pairs)
    found["effective rank"] = effective_rank(vectors, return_interval=True)  # type: ignore[assignment]
    return found | _label_scores(encoder, vectors, learned, judged, seed, out)


def _label_scores(
    encoder: nn.Module, vectors: np.ndarray, learned: Source, judged: Source, seed: int, out: Path
) -> dict[str, Estimate]:
    """By the labels found in the data, of the half that is for choosing."""
    ledger, found = Ledger(out / "labels.sqlite"), {}
    seen: np.ndarray | None = None
    for name, values in learned.labels.items():
        if not 2 <= len({value for value in values if value}) <= 1000:
            continue
        taken = _chosen_labels(ledger, name, learned, judged, seed)
        train, test = ([i for i, item in enumerate(part.hashes) if item in taken] for part in (learned, judged))
        if len({taken[learned.hashes[i]] for i in train}) < 2 or len(test) < 10:
            continue
        seen = embed(encoder, learned.dataset) if seen is None else seen
        y = [np.asarray([taken[part.hashes[i]] for i in rows]) for part, rows in ((learned, train), (judged, test))]
        parts = (seen[train], y[0], vectors[test], y[1])
        found |= {f"k-NN ({name})": knn_accuracy(*parts), f"linear ({name})": linear_probe(*parts)}
    return found


def _chosen_labels(ledger: Ledger, name: str, learned: Source, judged: Source, seed: int) -> Mapping[str, str]:
    if name not in ledger.names():
        for part in (learned, judged):
            ledger.put(name, dict(zip(part.hashes, part.labels[name], strict=True)), source="found")
        ledger.split(name, seed)
    return ledger.take(name, "choose", "comparing methods")


def _answer(
    out: Path, rows: list[Row], steps: int, batch_size: int, learned: Source, judged: Source, seeds: int, data: Any
) -> Compared:
    names = list(rows[0].scores)
    labelled = [name for name in names if name.startswith(("k-NN", "linear"))]
    deciding = labelled[:2] or names[:1]
    ranked = sorted(rows, key=lambda row: -statistics.mean(float(row.scores[name]) for name in deciding))
    decided_by = " and ".join(deciding)
    advice = _advice(ranked, deciding, data)
    facts = (steps, batch_size, len(learned), len(judged), seeds)
    return Compared(out, tuple(ranked), decided_by, *facts, advice=tuple(advice))


def _advice(ranked: Sequence[Row], deciding: Sequence[str], data: Any) -> list[str]:
    """Which method to take and why, in words; a tie is called one, and so is a baseline that nobody beats."""
    labelled = deciding[0].startswith(("k-NN", "linear"))
    source = "labels found in the data" if labelled else "no labels: it favours methods that train on matching views"
    lines = [f"Judged by {' and '.join(deciding)} ({source})."]
    best = next(row for row in ranked if _method_of(row))
    tied = [row for row in ranked if row is not best and _method_of(row) and _overlap(row, best, deciding)]
    if tied:
        lines.append(f"Not to be told apart from {best.name}: {', '.join(row.name for row in tied)}.")
    level = [row.name for row in ranked if not _method_of(row) and not _above(best, row, deciding)]
    if level:
        lines.append(f"Not clearly better than {' and '.join(level)}: more minutes or items may change that.")
    trained = [row for row in ranked if row.kind == TRAINED]
    if trained and best.kind != TRAINED and best not in tied:
        lines.append(
            f"{best.name} needs no training; {trained[0].name}, the best trained, may pass it with more steps."
        )
    cheapest = min([best, *tied], key=lambda row: (row.seconds or 0.0, ranked.index(row)))
    place = shlex.quote(str(data)) if isinstance(data, str | Path) else "DATA"
    lines.append(f"Take {_method_of(cheapest)}: tacit learn {place} --method {_method_of(cheapest)}")
    return lines


def _method_of(row: Row) -> str | None:
    """The id by which `learn` makes such an encoder."""
    return row.name if row.kind != BASELINE else LEARNABLE.get(row.name)


def _overlap(a: Row, b: Row, names: Sequence[str]) -> bool:
    return any(a.scores[name].high >= b.scores[name].low for name in names)


def _above(a: Row, b: Row, names: Sequence[str]) -> bool:
    """Whether a lies above b by every score that decides, beyond both ranges."""
    return all(a.scores[name].low > b.scores[name].high for name in names)


def _took(row: Row) -> str:
    return "" if row.seconds is None else f"{row.seconds:.0f} s" if row.seconds >= 1 else "under 1 s"


def _page(answer: Compared) -> str:
    """The table and the advice as Markdown."""
    head = ["# Which method?", "", *answer.lines(), ""]
    table = [answer.titles(), ["---"] * len(answer.titles()), *answer.cells()]
    return "\n".join([*head, *("| " + " | ".join(cells) + " |" for cells in table), ""])
