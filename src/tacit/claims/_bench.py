"""Bench: what a claim function is written against."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tacit.claims._comparison import Comparison
from tacit.claims._data import Data
from tacit.claims._evidence import BUDGETS
from tacit.claims._trial import SMOKE_STEPS, Trial
from tacit.errors import ArgumentError, DataError, expect, unknown

Budget = Literal["smoke", "small", "full"]
SHAPES = ("rises", "falls", "above", "gap_shrinks", "gap_grows")


class Bench:
    """Named data at a size, seeds and a budget, and the fair comparisons that can be made with them.

    A claim function gets one, asks it for data and returns what one of its comparisons returns. Every comparison runs
    over all seeds; each seed draws split, weights, order and views, the same for both sides.

    Args:
        seeds: one trial each.
        budget: smoke (seconds), small (minutes) or full (an hour, or a GPU).
        steps: optimiser steps of each side.
        device: cpu, cuda...
        cache: folder for trained sides and finished trials; none are kept without it.
        own: data of the user's, in place of what the claim names.
        key: what finished trials are kept under: hashes of claim and code.
        on_trial: told (seed, number, of how many) when a trial is done.
        peak: (side, seed) -> bytes, measured in a process of its own.
        peak_of: `(side, seed)`: this is that process.
        alone: whether nothing else runs, so that times can be taken.
        overrides: settings by system, in place of its preset's, while they are tuned.
    """

    def __init__(
        self,
        seeds: Sequence[int] = (0, 1),
        budget: Budget = "smoke",
        *,
        steps: int | None = SMOKE_STEPS,
        device: str = "cpu",
        cache: Path | None = None,
        own: Data | None = None,
        key: str = "",
        on_trial: Callable[[int, int, int], None] | None = None,
        peak: Callable[[str, int], float] | None = None,
        peak_of: tuple[str, int] | None = None,
        alone: bool = True,
        overrides: Mapping[str, dict[str, Any]] | None = None,
        tuning: bool = False,
    ) -> None:
        if budget not in BUDGETS:
            raise unknown("budget", budget, BUDGETS)
        self.seeds, self.budget, self.device = tuple(seeds), budget, device
        self._steps, self._cache, self._own, self._key = steps, cache, own, key
        self._on_trial, self._peak, self._peak_of, self._alone = on_trial, peak, peak_of, alone
        self._overrides, self._tuning = dict(overrides or {}), tuning
        self.asked: list[Data] = []
        """The data that the claim asked for."""
        self.passes: dict[str, float] = {}
        self.revealed = False
        self.seconds = 0.0
        """What the trials took, those that were kept from an earlier run too."""
        self._compared = 0

    # data -------------------------------------------------------------------------------------------------------------

    def images(
        self,
        name: str,
        *,
        size: int | None = None,
        n: int | None = None,
        n_test: int | None = None,
        inputs: Sequence[str] = (),
    ) -> Data:
        """A named set of images at `size` pixels: columns x uint8 (n, c, size, size) and y; or the user's own images.

        Args:
            name: such as cifar10, fashion_mnist, mnist, usps, digits, omniglot.
            size: side in pixels; the set's own if None.
            n: items to learn from; at most 10,000 and four fifths of them if None.
            n_test: items to score on; at most 10,000 if None.
            inputs: columns of the unseen items that may be read beside x, text, image, mask, a and b.
        """
        from tacit.data import resize

        def shape(x: Any) -> Any:
            return torch.from_numpy(resize(x.numpy(), size))

        if self._own is not None:
            return self._note(self._own.shaped(shape))
        said = f"{name} at {size} px" if size else name
        return self._note(Data(said, self._reader(name), n, n_test, shape=shape, inputs=inputs))

    def data(self, name: str, *, n: int | None = None, n_test: int | None = None, inputs: Sequence[str] = ()) -> Data:
        """Any named set of `tacit.data`: tables, texts, series, sounds, graphs; its columns as they are."""
        if self._own is not None:
            return self._note(self._own)
        return self._note(Data(name, self._reader(name), n, n_test, inputs=inputs))

    def drawn(
        self,
        generator: Callable[..., Mapping[str, Any]],
        *,
        n: int = 1000,
        n_test: int = 1000,
        modality: str = "points",
        inputs: Sequence[str] = (),
        **arguments: Any,
    ) -> Data:
        """Data that `generator(n, seed=..., **arguments)` draws anew for each seed: a mapping of columns."""
        if self._own is not None:
            raise ArgumentError(f"data: the claim draws its own data ({generator.__name__}); it cannot be run on yours")

        def read(seed: int) -> tuple[Mapping[str, Any], str, np.ndarray, np.ndarray]:
            columns = generator(n + n_test, seed=seed, **arguments)
            return columns, modality, np.arange(n), np.arange(n, n + n_test)

        said = ", ".join(f"{name}={value}" for name, value in arguments.items())
        return self._note(Data(f"{generator.__name__}({said})", read, n, n_test, inputs=inputs))

    def pick(self, *, smoke: Any, small: Any, full: Any = None) -> Any:
        """A value by budget; at `full` the one of `small` where none is given."""
        return {"smoke": smoke, "small": small, "full": small if full is None else full}[self.budget]

    # comparisons ------------------------------------------------------------------------------------------------------

    def compare(
        self,
        system: Any,
        *,
        baseline: Any,
        data: Data,
        by: str | Callable[..., float],
        better_by: float | None = None,
        not_worse_by: float | None = None,
        system_settings: Mapping[str, Any] | None = None,
        baseline_settings: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Comparison:
        """Train system and baseline on the same items with equal steps, batches and seeds, and score both by `by`.

        Args:
            system: a Learner or an estimator of the catalogue.
            baseline: an id, `"untrained"` (the system's encoder before its first step), `"pixels"`, or an estimator.
            data: of `images`, `data` or `drawn`.
            by: `"knn"` or `"linear_probe"` of the encoder's features; `"accuracy"`, `"ari"`, `"nmi"`, `"auroc"` of an
                estimator's answers; or a function (fitted, train, unseen) -> number, higher is better.
            better_by: margin that the difference must exceed; or
            not_worse_by: what the system may lose.
            system_settings, baseline_settings: words of constructor and training for one side;
            settings: for both.
        """
        from tacit.claims._sides import Side

        both = [Side(system, {**settings, **(system_settings or {})}, by, system)]
        both.append(Side(baseline, {**settings, **(baseline_settings or {})}, by, system))
        sizes = [side.batch_size for side in both if side.batch_size is not None]
        expect("batch_size", sizes, len(set(sizes)) <= 1, "the same on both sides", "say batch_size= for both")

        def sides(trial: Trial) -> list[float]:
            train, unseen = trial.split(data)
            return [side.score(trial, train, unseen) for side in both]

        found = self._over_seeds(sides, [side.said() for side in both])
        margin = _margin(better_by, not_worse_by)
        said = f"{data.name}; {both[0].describe(self._steps)}"
        compared = self._paired(found, margin, str(both[1].name), said)
        return replace(compared, details={**compared.details, "by": both[0].measure()})

    def trials(
        self,
        function: Callable[[Trial], Any],
        *,
        baseline: str = "",
        better_by: float | None = None,
        not_worse_by: float | None = None,
        above: float | None = None,
        setting: str = "",
    ) -> Comparison:
        """What a function of a trial returns, seed by seed: (score, baseline's score), or one number with `above`.

        Args:
            function: trial -> two numbers, higher is better; or one.
            baseline: what the second number is, in words.
            better_by, not_worse_by: as in `compare`; or
            above: what the one number is claimed to exceed.
            setting: data, network and training in words.
        """
        if above is not None:
            found = self._over_seeds(lambda trial: [function(trial)], "above")
            values = [one for (one,) in found]
            return Comparison(values, above, "above", values, baseline=baseline, details=self._details(setting))
        return self._paired(self._over_seeds(function, "trials"), _margin(better_by, not_worse_by), baseline, setting)

    def correlation(
        self,
        function: Callable[[Trial], Any],
        *,
        baseline: str = "",
        above: float = 0.0,
        better_by: float | None = None,
        setting: str = "",
    ) -> Comparison:
        """Spearman's rank correlation of a score with the truth over several models or items, seed by seed.

        Args:
            function: trial -> (scores, truth), or (scores, the baseline's scores, truth) with `better_by`.
            above: what the correlation is claimed to exceed; or
            better_by: by how much it is to exceed the baseline's.
        """

        def ranks(trial: Trial) -> list[float]:
            *scores, truth = function(trial)
            return [spearman(score, truth) for score in scores]

        found = self._over_seeds(ranks, "correlation")
        if better_by is not None:
            return self._paired(found, better_by, baseline, setting)
        values = [one for (one,) in found]
        return Comparison(values, above, "correlation", values, baseline=baseline, details=self._details(setting))

    def curve(
        self,
        function: Callable[[Trial, Any], Any],
        *,
        over: Iterable[Any],
        shape: str,
        baseline: str = "",
        margin: float = 0.0,
        setting: str = "",
    ) -> Comparison:
        """A score against labels, batch size, steps..., and the shape that is claimed of it.

        | shape | effect of a seed |
        |---|---|
        | rises, falls | Kendall's tau of score and place on the curve, or minus it |
        | above | the smallest gap, score minus the baseline's, over all points |
        | gap_shrinks, gap_grows | gap at the first point minus gap at the last, or the other way round |

        Args:
            function: (trial, point) -> score, or (score, baseline's score) where the shape is about a gap.
            over: the points, in order; the first and the last of them at smoke.
            shape: of the table.
            margin: what the effect is to exceed.
        """
        if shape not in SHAPES:
            raise unknown("shape", shape, SHAPES)
        points = list(over)
        expect("over", len(points), len(points) >= 2, "at least two points")
        points = [points[0], points[-1]] if self.budget == "smoke" else points
        gaps = shape in ("above", "gap_shrinks", "gap_grows")

        def whole(trial: Trial) -> list[Any]:
            found = [function(trial, point) for point in points]
            return [list(map(float, side)) for side in (zip(*found, strict=True) if gaps else [found])]

        found = self._over_seeds(whole, f"curve {points}")
        effects = [shape_of(shape, *sides) for sides in found]
        values, others = [sides[0] for sides in found], [sides[1] for sides in found] if gaps else []
        details = {**self._details(setting), "over": [str(point) for point in points], "shape": shape}
        return Comparison(effects, margin, "curve", values, others, baseline, details)

    def factors(
        self,
        function: Callable[..., float],
        *,
        factors: Mapping[str, Sequence[str]],
        ratio: float = 1.0,
        setting: str = "",
    ) -> Comparison:
        """A score under all combinations of two factors; the first is claimed to move it more than the second.

        The effect of a seed is the standard deviation of the mean scores of the first factor's levels, minus `ratio`
        times that of the second's. The record holds the analysis of variance over all seeds.

        Args:
            function: (trial, level of the first, level of the second) -> score.
            factors: name -> levels; two of them, with at least two levels each (two at smoke).
            ratio: how many times as much the first is claimed to move the score.
        """
        from tacit.evaluate import two_way_anova

        expect("factors", list(factors), len(factors) == 2, "two factors")
        (one, two), most = factors, 2 if self.budget == "smoke" else None
        first, second = (list(levels)[:most] for levels in factors.values())
        expect("factors", [first, second], min(len(first), len(second)) >= 2, "at least two levels each")

        def grid(trial: Trial) -> list[Any]:
            return [[float(function(trial, a, b)) for a in first for b in second]]

        found = self._over_seeds(grid, ["factors", one, two, first, second])
        values = [cells for (cells,) in found]
        scores = np.asarray(values).reshape(len(values), len(first), len(second))
        effects = [float(spread(cells.mean(1)) - ratio * spread(cells.mean(0))) for cells in scores]
        said = {
            "factors": {one: first, two: second},
            "anova": [_finite(vars(source)) for source in two_way_anova(scores.transpose(1, 2, 0), (one, two))],
        }
        return Comparison(effects, 0.0, "factors", values, details={**self._details(setting), **said, "ratio": ratio})

    def equal(self, function: Callable[[Trial], Any], *, tolerance: float, setting: str = "") -> Comparison:
        """A theorem checked numerically: trial -> (measured, expected), numbers or arrays, equal up to `tolerance`."""

        def deviation(trial: Trial) -> list[float]:
            measured, expected = (np.asarray(_plain(side), float) for side in function(trial))
            return [float(np.abs(measured - expected).max())]

        return self._exact(deviation, "equal", tolerance, setting)

    def bound(self, function: Callable[[Trial], Any], *, tolerance: float = 0.0, setting: str = "") -> Comparison:
        """A bound checked numerically: trial -> (quantity, bound), numbers or arrays, quantity <= bound + tolerance."""

        def excess(trial: Trial) -> list[float]:
            quantity, limit = (np.asarray(_plain(side), float) for side in function(trial))
            return [float((quantity - limit).max())]

        return self._exact(excess, "bound", tolerance, setting)

    def speed(
        self,
        ours: Callable[[Trial], Callable[[], Any]],
        theirs: Callable[[Trial], Callable[[], Any]],
        *,
        at_least: float = 1.0,
        baseline: str,
        setting: str = "",
    ) -> Comparison:
        """Time of the baseline over ours, both in this process, in turns; the median of 15 pairs.

        Args:
            ours, theirs: trial -> what is timed, a function without arguments; what it needs is made before.
            at_least: the ratio that the claim asks for.
            baseline: what `theirs` is, in words.
        """
        if not self._alone:
            raise ArgumentError("times are taken when nothing else runs: jobs=1")
        trial = self._trial(self.seeds[0])
        sides = [side(trial) for side in (ours, theirs)]
        times = paired_times(*sides, repetitions=3 if self.budget == "smoke" else 15)
        effects = [b / a for a, b in times]
        mine, others = [a for a, _ in times], [b for _, b in times]
        return Comparison(effects, at_least, "speed", mine, others, baseline, self._details(setting))

    def memory(
        self,
        ours: Callable[[Trial], Callable[[], Any]],
        theirs: Callable[[Trial], Callable[[], Any]],
        *,
        at_most: float = 1.0,
        baseline: str,
        setting: str = "",
    ) -> Comparison:
        """Peak memory of the baseline over ours, each side and seed in a process of its own (at smoke in this one).

        Args:
            ours, theirs: trial -> what is measured, a function without arguments; what is made before does not count.
            at_most: share of the baseline's peak that the claim asks for; the margin is its inverse.
        """
        from tacit.claims._peak import Measured, peak_of

        sides = {"ours": ours, "theirs": theirs}

        def here(side: str, seed: int) -> float:
            return peak_of(sides[side](self._trial(seed)), self.device)

        if self._peak_of is not None:
            raise Measured(here(*self._peak_of))

        measure = here if self.budget == "smoke" else self._peak
        if measure is None:
            raise ArgumentError(
                "peak memory is measured in processes of their own: run the claim by `tacit claims run`"
            )
        found = self._over_seeds(lambda trial: [measure(side, trial.seed) for side in sides], "memory")
        effects = [b / max(a, 1) for a, b in found]
        mine, others = [a for a, _ in found], [b for _, b in found]
        return Comparison(effects, 1 / at_most, "memory", mine, others, baseline, self._details(setting))

    # how --------------------------------------------------------------------------------------------------------------

    def first_trial(self) -> Trial:
        """That of the first seed, outside any comparison: for drawings."""
        return self._trial(self.seeds[0])

    def _trial(self, seed: int) -> Trial:
        cached = self._cache if self.budget != "smoke" else None
        return Trial(seed, self.budget, self._steps, self.device, cache=cached, overrides=self._overrides,
                     tuning=self._tuning)  # fmt: skip

    def _over_seeds(self, function: Callable[[Trial], Any], what: Any) -> list[list[Any]]:
        """What the function returns for each seed. A finished trial is kept, so that a killed run goes on."""
        found = []
        self._compared += 1
        for number, seed in enumerate(self.seeds, 1):
            kept = self._kept(seed, [self._compared, what])  # two comparisons of a claim share no trial
            if kept is not None and kept.exists():
                said = json.loads(kept.read_text())
            else:
                said = self._one(seed, function)
                _write(kept, said)
            found.append(said["values"])
            self.passes |= said["passes"]
            self.revealed |= said["revealed"]
            self.seconds += said.get("seconds", 0.0)
            for data, drawn in zip(self.asked, said["data"], strict=False):
                data.drawn_hash = data.drawn_hash or drawn
            if self._on_trial is not None:
                self._on_trial(seed, number, len(self.seeds))
        return found

    def _one(self, seed: int, function: Callable[[Trial], Any]) -> dict[str, Any]:
        trial, started = self._trial(seed), time.monotonic()
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # networks that the claim makes itself are the seed's, too
            found = function(trial)
        values = [_plain(value) for value in found]
        trial.check(sum(len(value) if isinstance(value, list) else 1 for value in values))
        revealed = any(unseen.revealed for unseen in trial.unseen)
        drawn = [data.drawn_hash for data in self.asked]
        took = round(time.monotonic() - started, 1)
        return {"values": values, "passes": trial.passes, "revealed": revealed, "data": drawn, "seconds": took}

    def _kept(self, seed: int, what: Any) -> Path | None:
        if self._cache is None or self.budget == "smoke" or not self._key or self._tuning:
            return None
        said = [self._key, self.budget, self.device, self._steps, seed, what]
        name = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:24]
        return self._cache / "trials" / f"{name}.json"

    def _paired(self, found: list[list[float]], margin: float, baseline: str, setting: str) -> Comparison:
        values, others = [a for a, _ in found], [b for _, b in found]
        return Comparison.paired(values, others, margin, baseline=baseline, details=self._details(setting))

    def _exact(self, function: Callable[[Trial], Any], kind: Any, tolerance: float, setting: str) -> Comparison:
        values = [one for (one,) in self._over_seeds(function, kind)]
        return Comparison(values, tolerance, kind, values, details=self._details(setting))

    def _details(self, setting: str) -> dict[str, Any]:
        names = "; ".join(dict.fromkeys(data.name for data in self.asked))
        said: dict[str, Any] = {"setting": setting or names}
        if self.passes:
            said["passes"] = dict(self.passes)
        return said | ({"revealed": True} if self.revealed else {})

    def _note(self, data: Data) -> Data:
        self.asked.append(data)
        return data

    def _reader(self, name: str) -> Callable[[int], tuple[Mapping[str, Any], str, np.ndarray, np.ndarray]]:
        def read(seed: int) -> tuple[Mapping[str, Any], str, np.ndarray, np.ndarray]:
            from tacit import data

            try:
                found = data.load_named(name, download=self.budget != "smoke")
            except DataError:
                if self.budget != "smoke":
                    raise
                found = data.stand_in(name, 600)
            n = len(next(iter(found.columns.values())))
            train = np.asarray(found.train) if len(found.train) else np.arange(n)
            return found.columns, found.modality, train, np.asarray(found.test)

        return read


def spearman(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Rank correlation in [-1, 1]; 0 where one side is all alike."""
    from scipy.stats import spearmanr

    a, b = (np.asarray(_plain(side), float) for side in (scores, truth))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def shape_of(shape: str, scores: Sequence[float], others: Sequence[float] = ()) -> float:
    """How much a curve has of a shape: the table of `Bench.curve`.

    >>> shape_of("rises", [1.0, 2.0, 4.0]), shape_of("gap_shrinks", [5.0, 5.0], [2.0, 4.0])
    (1.0, 2.0)
    """
    from scipy.stats import kendalltau

    if shape in ("rises", "falls"):
        tau = kendalltau(range(len(scores)), scores).statistic if len(set(scores)) > 1 else 0.0
        return float(tau if shape == "rises" else -tau)
    gaps = [a - b for a, b in zip(scores, others, strict=True)]
    return {"above": min(gaps), "gap_shrinks": gaps[0] - gaps[-1], "gap_grows": gaps[-1] - gaps[0]}[shape]


def _finite(said: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can hold it: a number that is none is null."""
    return {name: None if value != value else value for name, value in said.items()}


def spread(means: np.ndarray) -> float:
    """Standard deviation of the means of a factor's levels, which does not grow with their number as the range does."""
    return float(np.std(means, ddof=1))


def paired_times(ours: Callable[[], Any], theirs: Callable[[], Any], *, repetitions: int) -> list[tuple[float, float]]:
    """Seconds of both in turns, after one call each to warm up; whichever goes first changes from pair to pair."""
    ours(), theirs()
    times = []
    for number in range(repetitions):
        order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        took = {}
        for side in order:
            start = time.perf_counter()
            side()
            took[side] = time.perf_counter() - start
        times.append((took[ours], took[theirs]))
    return times


def _margin(better_by: float | None, not_worse_by: float | None) -> float:
    given = (better_by, not_worse_by)
    expect("better_by, not_worse_by", given, given.count(None) == 1, "one of the two")
    return better_by if better_by is not None else -not_worse_by  # type: ignore[operator]


def _plain(value: Any) -> Any:
    """A number, or a list of numbers, as JSON has them."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray) and value.ndim:
        return value.tolist()
    return float(value)


def _write(path: Path | None, said: Mapping[str, Any]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".writing")
    whole.write_text(json.dumps(said))
    whole.replace(path)
