"""Running claims: one trial after another or several at once, each kept when it is done, and the record at the end."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tacit._version import __version__
from tacit.claims._bench import Bench, Budget
from tacit.claims._comparison import Comparison
from tacit.claims._data import Data
from tacit.claims._evidence import EVIDENCE, current_code, is_stale
from tacit.claims._found import Found, find_claim
from tacit.claims._marks import Claim, Property
from tacit.claims._peak import measure_elsewhere
from tacit.claims._record import Record, read_records
from tacit.claims._trial import SMOKE_STEPS
from tacit.errors import ArgumentError, TacitError, expect

FRESH = 100
"""First of the fresh seeds that `reseed` takes."""
FULL = 20
"""Steps at `full` over those at `small`, where a claim does not say."""
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")
DONE, NOT_RUN, BROKE = "has been run", "not run", "broke"
"""How the notes of `run_claims` begin."""

Progress = Callable[[Found, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What a run of claims is asked for; all of it can be sent to another process."""

    budget: Budget = "small"
    device: str = "cpu"
    reseed: bool = False
    data: str | None = None
    labels: str = "auto"
    again: int = 0
    """How many records there were before; above 0 nothing that was kept of them is used."""


@dataclass(frozen=True)
class Own:
    """A user's data, and a hash of it by which finished trials are told apart."""

    data: Data
    hash: str


def run_claims(
    claims: Sequence[Found],
    settings: Settings,
    *,
    evidence: Path = EVIDENCE,
    jobs: int = 1,
    again: bool = False,
    progress: Progress | None = None,
) -> Generator[tuple[Found, Record | None, str], None, None]:
    """Run claims, append a record each to `evidence/SYSTEM.jsonl`, and hand out (claim, record, note) as they end.

    What has been run, and is not stale, is not run again. A killed run goes on with the trial it stood in. A run at
    smoke shows that the claim runs, and leaves no record; checked properties are looked at and leave none either.

    Args:
        claims: of `find_claims`.
        settings: budget, device, fresh seeds, the user's own data.
        evidence: folder of the records.
        jobs: trials at once, each with its share of the cores.
        again: run what has been run, too, and use nothing that was kept of it.
        progress: told (claim, seeds done, of how many).

    Yields:
        the record, or None where there is none: for a checked property, and where the note says why it was not run, or
        that it broke. An error in the only claim is raised.
    """
    expect("jobs", jobs, jobs >= 1, "at least 1")
    wanted = []
    for found in claims:
        done = None if again or settings.data else _done(found, settings, evidence)
        if isinstance(found.mark, Property):
            yield found, None, _look_at(found)
        elif done is not None:
            yield found, done, f"{DONE}; --again runs it anew"
        else:
            wanted.append((found, _anew(found, settings, evidence) if again else settings))
    alone = ((found, chosen, None) for found, chosen in wanted)
    for found, chosen, record in _side_by_side(wanted, jobs, progress) if jobs > 1 else alone:
        note = ""
        try:
            record = record or run_claim(found, chosen, evidence=None, progress=progress)
            if chosen.budget != "smoke":
                record.append(evidence)
        except Exception as error:
            if len(wanted) == 1:
                raise
            note = f"{NOT_RUN if isinstance(error, TacitError) else f'{BROKE}: {type(error).__name__}'}: {error}"
        yield found, record, note


def run_claim(
    found: Found,
    settings: Settings,
    *,
    evidence: Path | None = EVIDENCE,
    progress: Progress | None = None,
    alone: bool = True,
) -> Record:
    """Run one claim over its seeds; the record is appended unless `evidence` is None, or the budget smoke.

    Nothing else may run meanwhile where it is `alone`; else claims that take times are refused.
    """
    started = time.monotonic()
    tell = progress or (lambda found, done, total: None)
    bench = bench_for(
        found,
        settings.budget,
        device=settings.device,
        reseed=settings.reseed,
        own=_own(settings, found),
        again=settings.again,
        on_trial=lambda seed, number, total: tell(found, number, total),
        alone=alone,
    )
    tell(found, 0, len(bench.seeds))
    comparison = found.load()(bench)
    if settings.data is not None and not bench.asked:
        raise ArgumentError(f"data={settings.data!r}: {found.id} reads no data, so yours cannot stand in; leave it out")
    record = _record(found, bench, comparison, settings, time.monotonic() - started)
    if evidence is not None and settings.budget != "smoke":
        record.append(evidence)
    return record


def bench_for(
    found: Found,
    budget: str,
    *,
    device: str = "cpu",
    reseed: bool = False,
    own: Own | None = None,
    again: int = 0,
    **more: Any,
) -> Bench:
    """The Bench that a claim gets at a budget: its seeds, steps, and place to keep what is done."""
    from tacit.data import cache_folder

    claim = found.mark
    assert isinstance(claim, Claim)
    seeds = seeds_of(claim, budget, reseed=reseed)
    key = f"{found.id} {found.hash} {current_code(found)} {own.hash if own else ''}"
    peak = _not_on_own_data if own else partial(measure_elsewhere, found.id, budget=budget, device=device)
    settings: dict[str, Any] = {"seeds": seeds, "steps": steps_at(claim, budget), "key": key, "peak": peak}
    cache = cache_folder() / "claims" / (f"again-{again}" if again else "")
    settings |= {"budget": budget, "device": device, "cache": cache}
    return Bench(**{**settings, "own": own.data if own else None, **more})


def seeds_of(claim: Claim, budget: str, *, reseed: bool = False) -> range:
    """Seeds from 0, or fresh ones from 100; two of them at smoke."""
    count = 2 if budget == "smoke" else claim.seeds
    return range(FRESH, FRESH + count) if reseed else range(count)


def steps_at(claim: Claim, budget: str) -> int | None:
    """Steps of each side: 3 at smoke, what the claim says at small, that or 20 times `small` at full."""
    if budget == "smoke":
        return SMOKE_STEPS
    small = claim.steps.get("small")
    return claim.steps.get(budget, small * FULL if small else None)


def check_property(found: Found) -> str:
    """What a checked property came to, in a line.

    Raises:
        ArgumentError: it is not true.
    """
    measured, expected = found.load()()
    assert isinstance(found.mark, Property)
    if not abs(measured - expected) <= found.mark.tolerance:
        raise ArgumentError(f"{found.id}: {found.mark.says}: measured {measured:g}, expected {expected:g}")
    return f"checked: {found.mark.says}"


def _look_at(found: Found) -> str:
    try:
        return check_property(found)
    except ArgumentError as error:
        return f"fails: {error}"


def _done(found: Found, settings: Settings, evidence: Path) -> Record | None:
    """The newest record of just this, if it is not stale."""
    for record in reversed(read_records(evidence / f"{found.system}.jsonl")):
        same = (record.budget, record.device, record.reseed) == (settings.budget, settings.device, settings.reseed)
        if record.claim == found.id and same and record.own is None and not is_stale(record, found):
            return record
    return None


def _anew(found: Found, settings: Settings, evidence: Path) -> Settings:
    records = read_records(evidence / f"{found.system}.jsonl")
    return replace(settings, again=sum(record.claim == found.id for record in records))


def _side_by_side(
    claims: Sequence[tuple[Found, Settings]], jobs: int, progress: Progress | None
) -> Iterator[tuple[Found, Settings, Record | None]]:
    """The claims as their trials end, which run `jobs` at a time in processes of their own and keep what they find.

    At smoke nothing is kept: there a process runs a whole claim, and its record is handed on. Claims that fail come
    last, when nothing else runs: those that take times among them, which run only alone.
    """
    threads = max((os.cpu_count() or jobs) // jobs, 1)
    with _environment({"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}), _Pool(jobs) as pool:
        tasks = {found.id: [pool.submit(_elsewhere, found.id, settings, seed) for seed in _tasks(found, settings)]
                 for found, settings in claims}  # fmt: skip
        failed = []
        for found, settings in _as_they_end(claims, tasks, progress):
            if any(task.exception() for task in tasks[found.id]):
                failed.append((found, settings))
            else:
                yield found, settings, tasks[found.id][0].result()
    yield from ((found, settings, None) for found, settings in failed)


def _tasks(found: Found, settings: Settings) -> Sequence[int | None]:
    """A task for each seed; at smoke one for the whole claim."""
    assert isinstance(found.mark, Claim)
    return [None] if settings.budget == "smoke" else seeds_of(found.mark, settings.budget, reseed=settings.reseed)


def _elsewhere(claim: str, settings: Settings, seed: int | None) -> Record | None:
    """In a process of its own: one trial of a claim, or all of it."""
    found = find_claim(claim)
    if seed is None:
        return run_claim(found, settings, evidence=None, alone=False)
    bench = bench_for(
        found, settings.budget, device=settings.device, reseed=settings.reseed, own=_own(settings, found),
        again=settings.again, seeds=[seed], alone=False,
    )  # fmt: skip
    found.load()(bench)
    return None


def _as_they_end(
    claims: Sequence[tuple[Found, Settings]], tasks: Mapping[str, Sequence[Future[Any]]], progress: Progress | None
) -> Iterator[tuple[Found, Settings]]:
    """Each claim when all of its tasks have ended, telling of those under way meanwhile."""
    left = list(claims)
    while left:
        wait([task for found, _ in left for task in tasks[found.id] if not task.done()], 0.5, FIRST_COMPLETED)
        for found, settings in list(left):
            own = tasks[found.id]
            done = sum(task.done() for task in own)
            if progress is not None and (done or any(task.running() for task in own)):
                progress(found, done, len(own))
            if done == len(own):
                left.remove((found, settings))
                yield found, settings


class _Pool:
    """Processes that start afresh, so that locks and open files of this one stay here, and end where it is stopped."""

    def __init__(self, jobs: int) -> None:
        self._before = multiprocessing.active_children()
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(jobs, context, initializer=_leave_interrupts_to_the_parent)

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        return self._executor.submit(function, *args)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            for process in set(multiprocessing.active_children()) - set(self._before):
                process.kill()
        self._executor.shutdown(cancel_futures=kind is not None)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _environment:
    """Environment variables for the processes started meanwhile."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._values}
        os.environ.update(self._values)

    def __exit__(self, *error: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _own(settings: Settings, found: Found) -> Own | None:
    """The user's data, with the labels to score by.

    Raises:
        ArgumentError: it has no labels, or is of a kind that the system does not read.
    """
    if settings.data is None:
        return None
    from tacit.data import open as open_data

    source = open_data(settings.data, labels=settings.labels)
    expect(
        "data", settings.data, _reads(found.entry.modality, source.modality),
        f"{' or '.join(found.entry.modality)}, which is what {found.system} works on; found {source.modality}",
    )  # fmt: skip
    return own_data(settings.data, source)


def _reads(wanted: Sequence[str], modality: str) -> bool:
    """Whether a system reads data of this kind; rows of numbers go by three names."""
    rows = {"points", "features", "table"}
    return modality in wanted or "any" in wanted or (modality in rows and bool(rows & set(wanted)))


def _not_on_own_data(side: str, seed: int) -> float:
    raise ArgumentError("data: peak memory is measured on the claim's own data only; leave --data out")


def own_data(name: str, source: Any) -> Own:
    """A user's data as a claim takes it: the label that was found is what is scored by."""
    import numpy as np

    expect("data", name, bool(source.labels), "data with labels to score by", "say where: --labels folder or a column")
    label, values = next(iter(source.labels.items()))
    labelled = np.array([item for item, value in enumerate(values) if value is not None])
    classes, found = np.unique([str(values[item]) for item in labelled], return_inverse=True)
    expect(f"labels of {name}", len(classes), len(classes) >= 2, "at least two classes")
    y = np.full(len(values), -1)
    y[labelled] = found
    columns = {"x": source.dataset["x"], "y": y}
    data = Data(f"{name} ({label})", lambda seed: (columns, source.modality, labelled, labelled[:0]))
    return Own(data, hashlib.sha256(source.dataset.fingerprint.encode() + y.tobytes()).hexdigest()[:16])


def _record(found: Found, bench: Bench, comparison: Comparison, settings: Settings, seconds: float) -> Record:
    import torch

    claim = found.mark
    assert isinstance(claim, Claim)
    details = dict(comparison.details)
    hashes = [data.drawn_hash or "" for data in bench.asked]
    return Record(
        system=found.system,
        claim=found.id,
        level=found.entry.level,
        kind=comparison.kind,
        proxy=claim.proxy,
        verdict=comparison.verdict,
        effect=comparison.effect,
        interval=comparison.interval,
        values=list(comparison.values),
        baseline_values=list(comparison.baseline_values),
        effects=list(comparison.effects),
        seeds=list(bench.seeds),
        baseline=comparison.baseline,
        margin=comparison.margin,
        reported=claim.reported,
        budget=settings.budget,
        steps=steps_at(claim, settings.budget) if claim.steps else None,
        setting=details.pop("setting", ""),
        device=settings.device,
        threads=torch.get_num_threads(),
        versions={"tacit": __version__, **{name: _version(name) for name in PACKAGES}},
        commit=_commit(),
        claim_hash=found.hash,
        code_hash=current_code(found, comparison.baseline),
        data_hash=" ".join(hashes),
        reseed=settings.reseed,
        date=date.today().isoformat(),
        seconds=round(max(seconds, bench.seconds), 1),
        own=settings.data,
        details=details,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _commit() -> str:
    """HEAD of the checkout that the code lies in, with `+` where it has changed since; else the package's version."""
    root = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(["git", "status", "--porcelain", "--", "."], cwd=root, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return f"tacit {__version__}"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
