"""One side of `Bench.compare`: how it is made, trained and scored."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tacit import catalogue
from tacit.building import closed_form
from tacit.claims._data import Part, Unseen
from tacit.claims._scores import OF_CLUSTERS, OF_FEATURES, score_features
from tacit.claims._trial import Trial
from tacit.errors import ArgumentError, expect, unknown
from tacit.learner import Learner, encoder_of

FIXED = ("untrained", "pixels")


class Side:
    """A system, or what it is compared with.

    Args:
        what: a Learner or estimator class, an id of one, `"untrained"`, `"pixels"`, or an estimator.
        settings: words of its constructor and of `tacit.fit`.
        by: what `Bench.compare` documents.
        system: the claim's system, whose encoder `"untrained"` leaves as it is.
    """

    def __init__(self, what: Any, settings: Mapping[str, Any], by: str | Callable[..., float], system: Any) -> None:
        self.settings, self.by = dict(settings), by
        self.fixed = what if isinstance(what, str) and what in FIXED else None
        self.what = system if self.fixed else _loaded(what)
        self.name = self.fixed or getattr(self.what, "system_id", None) or type(self.what).__name__

    def score(self, trial: Trial, train: Part, unseen: Unseen) -> float:
        fitted = self._fitted(trial, train)
        if callable(self.by):
            return float(self.by(fitted, train, unseen))
        if self.by in OF_FEATURES:
            encoder = encoder_of(fitted) if isinstance(fitted, Learner) else fitted
            return score_features(encoder, train, unseen, self.by)
        if self.by in OF_CLUSTERS:
            answer = fitted.predict if hasattr(fitted, "predict") else fitted.fit_predict
            return unseen.score(answer(_array(unseen.x)), self.by)
        answers = {"accuracy": "predict", "auroc": "score_samples"}
        if self.by not in answers:
            raise unknown("by", self.by, (*answers, *OF_CLUSTERS, *OF_FEATURES))
        if isinstance(fitted, Learner):
            return unseen.score(trial.predict(fitted.get_submodule("classifier"), unseen.x), self.by)
        return unseen.score(getattr(fitted, answers[self.by])(_array(unseen.x)), self.by)

    def said(self) -> list[Any]:
        """Name and settings, for the key of a finished trial."""
        return [self.name, self.settings, self.measure()]

    def measure(self) -> str:
        """What is measured, in words."""
        if callable(self.by):
            return getattr(self.by, "__name__", "function").replace("_", " ")
        return {"knn": "k-NN accuracy", "linear_probe": "linear-probe accuracy"}.get(self.by, self.by)

    def describe(self, steps: int | None) -> str:
        """Network and training in words."""
        if not self._is_learner():
            return "no network"
        more = [f"{name} {value}" for name, value in self.settings.items() if name != "batch_size"]
        return ", ".join([f"{steps} steps of {self.batch_size or 256}", *more])

    @property
    def batch_size(self) -> int | None:
        """Items of a step; None where there are no steps."""
        if self.fixed or not self._is_learner() or closed_form(self.what):
            return None
        return self.settings.get("batch_size") or self.what.settings.get("small", {}).get("batch_size", 256)

    def _fitted(self, trial: Trial, train: Part) -> Any:
        if self.fixed == "pixels":
            return _Pixels()
        if self.fixed == "untrained":
            return trial.build(self.what, train, **self._words(of_constructor=True)).to(trial.device)
        if self._is_learner():
            self._expect_known()
            return trial.pretrained(self.what, train, **self.settings)
        return self._estimator(trial).fit(*self._given(train))

    def _is_learner(self) -> bool:
        return isinstance(self.what, type) and issubclass(self.what, Learner)

    def _words(self, *, of_constructor: bool) -> dict[str, Any]:
        taken = inspect.signature(self.what).parameters
        return {name: value for name, value in self.settings.items() if (name in taken) == of_constructor}

    def _expect_known(self) -> None:
        from tacit.training import fit

        known = inspect.signature(fit).parameters
        wrong = [name for name in self._words(of_constructor=False) if name not in known]
        expect("settings", wrong, not wrong, f"words of tacit.fit or of {self.what.__name__}")

    def _estimator(self, trial: Trial) -> Any:
        """A fresh estimator with the small preset, the trial's seed, steps and device where it takes them."""
        if not isinstance(self.what, type):
            from sklearn.base import clone

            return clone(self.what)
        taken = inspect.signature(self.what).parameters
        given = {"random_state": trial.seed, "device": trial.device}
        if "max_steps" in taken:
            given["max_steps"] = trial.steps
        words = given | getattr(self.what, "settings", {}).get("small", {}) | trial.overrides.get(self.name, {})
        return self.what(**{name: value for name, value in (words | self.settings).items() if name in taken})

    def _given(self, train: Part) -> tuple[Any, ...]:
        x = _array(train.x)
        return (x, _array(train.y)) if self.by == "accuracy" else (x,)


class _Pixels(nn.Module):
    """The raw numbers of an item, as features."""

    def forward(self, x: Tensor) -> Tensor:
        scale = 255 if x.dtype == torch.uint8 else 1
        return x.flatten(1).float() / scale


def _loaded(what: Any) -> Any:
    if not isinstance(what, str):
        if isinstance(what, type) or hasattr(what, "fit"):
            return what
        raise ArgumentError(f"baseline={what!r}: expected an id, a class, an estimator, {' or '.join(FIXED)}")
    return catalogue.find(what).load()


def _array(rows: Any) -> Any:
    return rows.numpy() if isinstance(rows, Tensor) else rows
