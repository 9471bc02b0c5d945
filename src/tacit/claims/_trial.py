"""Trial: one seed of a claim. What a claim function trains, chooses by and scores with."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tacit.claims._data import Data, Part, Unseen
from tacit.errors import ArgumentError, expect, unknown
from tacit.learner import encoder_of

if TYPE_CHECKING:
    from PIL import Image

C = TypeVar("C")
SMOKE_ITEMS, SMOKE_STEPS = 240, 3


class Trial:
    """One seed of a claim at one budget.

    Attributes:
        seed: draws split, weights, order and views.
        budget: smoke, small or full.
        steps: optimiser steps of each side, as the claim states them.
        device: cpu, cuda...
        rng: numpy's generator, set by the seed.
        generator: torch's, set by the seed.
        passes: images through encoders, an item of the batch and step, by system; what equal steps cost each side.
    """

    def __init__(
        self,
        seed: int,
        budget: str,
        steps: int | None,
        device: str = "cpu",
        *,
        cache: Path | None = None,
        overrides: dict[str, dict[str, Any]] | None = None,
        tuning: bool = False,
    ) -> None:
        self.seed, self.budget, self._steps, self.device = seed, budget, steps, device
        self._cache, self.overrides, self._tuning = cache, overrides or {}, tuning
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.passes: dict[str, float] = {}
        self.tried: list[int] = []
        self.unseen: list[Unseen] = []

    @property
    def steps(self) -> int:
        if self._steps is None:
            raise ArgumentError("steps: the claim states none; @claim(..., steps={'small': 300}) says how many")
        return self._steps

    def split(self, data: Data) -> tuple[Part, Unseen]:
        """The seed's items to learn from, and those that only score.

        While settings are tuned, the items that score are a validation part of those to learn from.
        """
        most = SMOKE_ITEMS if self.budget == "smoke" else None
        train, unseen = data.split(self.seed, most=most, counts=not self._tuning)
        if self._tuning:
            return train.divide(0.8)
        self.unseen.append(unseen)
        return train, unseen

    def build(self, system: str | type, part: Part, **arguments: Any) -> Any:
        """A learner with the small encoder and all parts of agreed names, its weights drawn by the seed.

        Args:
            system: id of a learner, or its class.
            part: what it will be trained on.
            arguments: of its constructor; `encoder` may be a module, or a config such as
                `{"name": "resnet8", "width": 32}`.
        """
        from tacit.building import build, read_columns

        kind, encoder = _learner(system), arguments.get("encoder")
        if isinstance(encoder, Mapping):
            arguments["encoder"] = self.encoder(encoder, part)
        learner = build(kind, part.description, "small", arguments=arguments, seed=self.seed)
        read_columns(learner, part.columns)
        return learner

    def encoder(self, config: Mapping[str, Any], part: Part) -> nn.Module:
        """An encoder by its config, its weights drawn by the seed, for the items of the part."""
        from tacit.building import read_columns, shape_of
        from tacit.nn import encoder, modality_of

        shape = shape_of(modality_of(config["name"]), part.description)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            made = encoder(**{**shape, **config})
        read_columns(made, part.columns)
        return made

    def fit(self, learner: Any, data: Part | Any, **training: Any) -> Any:
        """Train in place by `tacit.fit` and hand back: the learner's small preset, the claim's steps, the seed.

        Args:
            learner: it is moved to the trial's device.
            data: a Part, or what `tacit.fit` takes.
            training: words of `tacit.fit`, in place of the preset's.
        """
        from tacit.training import fit

        items = data.read_by(learner) if isinstance(data, Part) else data
        kind = type(learner)
        # while settings are tuned, what is drawn wins over what the claim says
        words = _training_words(kind) | training | _of_fit(kind, self.overrides.get(_name(learner), {}))
        if not {"max_steps", "epochs"} & set(words):
            words["max_steps"] = self.steps
        if self.budget == "smoke":
            words = {**words, "max_steps": min(words.get("max_steps", SMOKE_STEPS), SMOKE_STEPS)}
            words.pop("epochs", None)
            words["batch_size"] = min(words.get("batch_size", 256), len(items))
        words = {**_pace(learner, self.device), **words}
        with _CountedPasses(learner) as counted:
            fit(learner, items, accelerator=_accelerator(self.device), **{"seed": self.seed, **words})
        if counted.rows and words.get("max_steps"):
            own = max(int(words["max_steps"]) * int(words.get("batch_size", 256)), 1)
            self.passes[_name(learner)] = round(counted.rows / own, 2)
        return learner

    def pretrained(self, id: str | type, part: Part, **settings: Any) -> Any:
        """The learner of `build` and `fit`, trained once for all claims that ask for the same, and kept on disk.

        Args:
            settings: words of the learner's constructor and of `tacit.fit`.
        """
        from tacit.building import constructor_arguments

        kind = _learner(id)
        taken = constructor_arguments(kind)
        arguments = {name: value for name, value in settings.items() if name in taken}
        arguments |= {k: v for k, v in self.overrides.get(kind.system_id, {}).items() if k in taken}
        training = {name: value for name, value in settings.items() if name not in taken}
        learner = self.build(kind, part, **arguments)
        place = self._place(kind, learner, part, settings)
        if place is None:
            return self.fit(learner, part, **training)
        with _locked(place):
            if (place / "learner.safetensors").exists():
                self._read_back(learner, place)
            else:
                self.fit(learner, part, **training)
                self._keep(learner, place)
        return learner

    def select(self, part: Part, candidates: Iterable[C], function: Callable[[C, Part, Unseen], float]) -> C:
        """The candidate that scores best on a validation split of `part`, the first of equals.

        Every side that selects within a trial has to try as many.
        """
        candidates = list(candidates)
        expect("candidates", len(candidates), len(candidates) >= 1, "at least one")
        self.tried.append(len(candidates))
        if self.budget == "smoke":
            candidates = candidates[:2]
        scores = [function(candidate, *part.divide(0.8)) for candidate in candidates]
        return candidates[int(np.argmax(scores))]

    def predict(self, module: nn.Module, x: Tensor | list[Any], *, batch_size: int = 500) -> Tensor:
        """What the module gives for x, in batches, in eval mode, without gradient; its `prepare` goes first."""
        from tacit.embedding import prepared

        module.to(self.device).eval()
        with torch.no_grad():
            x = x if isinstance(x, Tensor) else prepared(module, x)
            found = [module(prepared(module, batch.to(self.device))).float().cpu() for batch in x.split(batch_size)]
        return torch.cat(found)

    def probe(self, encoder: nn.Module, train: Part, unseen: Unseen, by: str = "linear_probe") -> float:
        """Accuracy on the unseen items of a linear probe, or k-NN (`"knn"`), fitted to the encoder's features.

        Args:
            encoder: x -> features, as `Bench.compare` takes them.
            train: items with labels that the probe is fitted to.
            unseen: what scores, once.
            by: `linear_probe` or `knn`.
        """
        from tacit.claims._scores import OF_FEATURES, score_features

        if by not in OF_FEATURES:
            raise unknown("by", by, OF_FEATURES)
        return score_features(encoder, train, unseen, by)

    @staticmethod
    def sheet(rows: Sequence[Sequence[Tensor]], **words: Any) -> Image.Image:
        """Pictures side by side, for a drawing: `tacit.data.contact_sheet`."""
        from tacit.data import contact_sheet

        return contact_sheet(rows, **words)

    @staticmethod
    def plot(
        x: Sequence[Any], curves: Mapping[str, Sequence[float]], *, x_label: str, y_label: str, log_x: bool = False
    ) -> Image.Image:
        """Curves over x, for a drawing: name -> values (n,), or (seeds, n) with a band of their extremes."""
        from tacit.claims._drawings import plot

        return plot(x, curves, x_label=x_label, y_label=y_label, log_x=log_x)

    def check(self, n_numbers: int) -> None:
        """Refuse what would not be fair: more looks at the test labels than results, unequal numbers of candidates."""
        looks = sum(unseen.looks for unseen in self.unseen)
        if looks > n_numbers:
            raise ArgumentError(
                f"the test split was scored {looks} times for {n_numbers} results: expected once each; "
                "choose by trial.select or part.divide, which hold out a part of the training data"
            )
        if len(set(self.tried)) > 1:
            raise ArgumentError(f"trial.select tried {self.tried} candidates: expected as many on every side")

    def _place(self, kind: Any, learner: Any, part: Part, settings: dict[str, Any]) -> Path | None:
        """Where a trained learner is kept; nowhere at smoke, or where its settings are no plain values."""
        from tacit.building import describe_build
        from tacit.claims._hashes import code_hash

        if self._cache is None or self.budget == "smoke":
            return None
        said = [
            describe_build(learner), _training_words(kind), settings, self.overrides.get(kind.system_id, {}),
            part.dataset.fingerprint, self.seed, self._steps, self.device, code_hash([Path(inspect.getfile(kind))]),
        ]  # fmt: skip
        try:
            key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]
        except TypeError:
            return None
        return self._cache / "learners" / f"{kind.system_id}-{key}"

    def _keep(self, learner: Any, place: Path) -> None:
        from safetensors.torch import save_file

        place.mkdir(parents=True, exist_ok=True)
        (place / "passes.json").write_text(json.dumps(self.passes.get(_name(learner))))
        state = {name: value.contiguous().clone() for name, value in learner.state_dict().items()}
        save_file(state, place / "writing.safetensors")
        (place / "writing.safetensors").rename(place / "learner.safetensors")

    def _read_back(self, learner: Any, place: Path) -> None:
        from safetensors.torch import load_file

        from tacit.learner import load_state

        load_state(learner, load_file(place / "learner.safetensors"))
        learner.progress = 1.0
        learner.to(self.device).eval()
        passes = json.loads((place / "passes.json").read_text())
        if passes is not None:
            self.passes[_name(learner)] = passes


class _CountedPasses:
    """Counts the rows that go through modules of the encoder's class in training mode, copies of it included."""

    def __init__(self, learner: nn.Module) -> None:
        try:
            self._kind: type = type(encoder_of(learner))
        except AttributeError:
            self._kind = type(None)
        self.rows = 0

    def __enter__(self) -> _CountedPasses:
        self._hook = nn.modules.module.register_module_forward_hook(self._count)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _count(self, module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
        if type(module) is self._kind and module.training and inputs:
            self.rows += len(inputs[0])


def _learner(system: str | type) -> Any:
    from tacit.building import learner_class

    return learner_class(system) if isinstance(system, str) else system


def _name(learner: Any) -> str:
    return getattr(type(learner), "system_id", type(learner).__name__)


def _training_words(kind: Any) -> dict[str, Any]:
    """What the small preset says to `fit`."""
    return _of_fit(kind, getattr(kind, "settings", {}).get("small", {}))


def _of_fit(kind: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The words among these that are `fit`'s; names that the constructor takes are its own."""
    from tacit.building import constructor_arguments
    from tacit.recipes import TRAINING

    taken = constructor_arguments(kind)
    return {name: value for name, value in settings.items() if name in TRAINING and name not in taken}


def _pace(learner: nn.Module, device: str) -> dict[str, Any]:
    """bfloat16 and channels_last where the machine gains by them and the learner reads images; float32 elsewhere."""
    from tacit.nn import ImageEncoder
    from tacit.recipes import Machine

    reads_images = any(isinstance(module, ImageEncoder | nn.Conv2d) for module in learner.modules())
    if not (reads_images and Machine.here(device).bfloat16):
        return {}
    return {"precision": "bf16-mixed", "channels_last": True}


def _accelerator(device: str) -> str:
    return "cpu" if device == "cpu" else "cuda" if device.startswith("cuda") else device


class _locked:
    """Keeps other processes from making the same thing at the same time; they wait and then find it made."""

    def __init__(self, place: Path) -> None:
        self._path = place.with_suffix(".lock")

    def __enter__(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w")
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX)
        except ImportError:  # Windows: two processes may then do the same work twice
            pass

    def __exit__(self, *error: object) -> None:
        self._file.close()
