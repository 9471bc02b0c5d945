"""PASS: An ImageNet Replacement for Self-supervised Pretraining without Humans (Asano et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Trial, checked, claim
from tacit.errors import ArgumentError, expect
from tacit.evaluate import linear_probe

Array = NDArray[Any]


@dataclass(frozen=True)
class Exclusion:
    """What `exclude` gives.

    Attributes:
        kept, excluded: int64 item numbers, in their order.
        scores: float (n,), the highest that any detector gave each item.
        by: int64 (n,), which detector gave it.
        attribution: of the kept items, in their order; None where none was given.
    """

    kept: Array
    excluded: Array
    scores: Array
    by: Array
    attribution: tuple[Any, ...] | None

    def leakage(self, truth: Any) -> tuple[float, float]:
        """How good the filter was, on items of which the truth is known.

        Args:
            truth: bool (n,), whether each item shows what had to go.

        Returns:
            The share of such items among the kept ones, and the share of the clean ones that were excluded with them.
        """
        shows = np.asarray(truth, bool)
        expect("truth", shows.shape, shows.shape == self.scores.shape, f"a row for each of {len(self.scores)} items")
        clean = np.count_nonzero(~shows)
        lost = np.count_nonzero(~shows[self.excluded]) / clean if clean else 0.0
        return float(shows[self.kept].mean()) if len(self.kept) else 0.0, float(lost)


@system("pass-dataset", paper="arXiv:2109.13228", modality="image", level="entry")
def exclude(
    x: Tensor,
    *detectors: Callable[[Tensor], Any],
    threshold: float = 0.1,
    attribution: Sequence[Any] | None = None,
    batch_size: int = 256,
) -> Exclusion:
    """A pool to pretrain on without what detectors find, such as people.

    An item is kept if no detector's score of it reaches the threshold. Take a low one: pretraining hardly misses clean
    images, and what is left in cannot be taken back. PASS holds 1.4 million CC-BY photos with their attribution:
    what detection of faces and people found went first, then what people saw in looking at the rest. No detector
    comes with this, and no filter is complete: look at what is kept (`Exclusion.leakage` where you know the truth).

    Args:
        x: images (n, c, h, w), or whatever the detectors read.
        detectors: batch -> scores (b,), higher where it is more certain to show what has to go; each one scores all.
        threshold: the lowest score that excludes.
        attribution: one entry an item (author, licence, address), handed on for those that are kept.
        batch_size: items at a time.

    Raises:
        ArgumentError: no detector, scores that are no number an item or NaN, attributions of another number.

    >>> x = torch.arange(5.0)[:, None, None, None] / 10
    >>> pool = exclude(x, lambda batch: batch.mean((1, 2, 3)), threshold=0.25, attribution=["a", "b", "c", "d", "e"])
    >>> pool.kept.tolist(), pool.attribution, pool.leakage([False, True, False, False, True])
    ([0, 1, 2], ('a', 'b', 'c'), (0.3333333333333333, 0.3333333333333333))
    """
    expect("detectors", len(detectors), len(detectors) >= 1, "at least one")
    if attribution is not None:
        expect("attribution", len(attribution), len(attribution) == len(x), f"one entry for each of {len(x)} items")
    scores = np.stack([_scores(detector, x, batch_size) for detector in detectors])
    highest = scores.max(axis=0)
    kept = np.flatnonzero(highest < threshold)
    told = None if attribution is None else tuple(attribution[int(item)] for item in kept)
    return Exclusion(kept, np.flatnonzero(highest >= threshold), highest, scores.argmax(axis=0), told)


def _scores(detector: Callable[[Tensor], Any], x: Tensor, batch_size: int) -> Array:
    with torch.no_grad():
        found = [np.asarray(torch.as_tensor(detector(batch)).cpu(), float) for batch in x.split(batch_size)]
    for part, batch in zip(found, x.split(batch_size), strict=True):
        if part.shape != (len(batch),) or np.isnan(part).any():
            raise ArgumentError(f"detectors: expected a number for each of {len(batch)} items, got {part.shape} or NaN")
    return np.concatenate(found)


@checked("any detector excludes: two whose scores are uniform and independent keep threshold^2", tolerance=0.005)
def any_detector_excludes() -> tuple[float, float]:
    x = torch.rand(100_000, 2, generator=torch.Generator().manual_seed(0))
    pool = exclude(x, lambda batch: batch[:, 0], lambda batch: batch[:, 1], threshold=0.6, batch_size=30_000)
    return len(pool.kept) / len(x), 0.36


@claim(
    "self-supervised pretraining without a kind of content is on par on tasks that involve it",
    reported="similar downstream performance to ImageNet pretraining, even on human pose estimation (abstract)",
    proxy="SimCLR on CIFAR-10 at 16 pixels, two classes in place of people, a weak detector that leaks some",
    steps={"small": 400, "full": 20_000},
)
def on_par_on_what_was_excluded(bench: Bench) -> Comparison:
    """Accuracy on unseen images of the two excluded classes, of a ten-class linear probe fitted with labels of all.

    The seed draws the two classes. A logistic regression on pixels, from 500 labels, is the detector, at a threshold
    of 0.1; the other pool is as many images drawn from all. Equal steps. A record says nothing of the scale of PASS.
    """
    images = bench.images(
        "cifar10", size=16, n=bench.pick(smoke=None, small=8000), n_test=bench.pick(smoke=None, small=5000)
    )

    def sides(trial: Trial) -> list[float]:
        return _accuracies(trial, images, bench.pick(smoke=32, small=256))

    return bench.trials(sides, baseline="as many images of all classes", not_worse_by=0.02)


def _accuracies(trial: Trial, images: Data, batch_size: int) -> list[float]:
    train, unseen = trial.split(images)
    y = np.asarray(train.y)
    gone = trial.rng.permutation(np.unique(y))[:2]
    pool = exclude(train.x, _weak_detector(train.x[:500], np.isin(y[:500], gone)), threshold=0.1)
    drawn = np.sort(trial.rng.permutation(len(train))[: len(pool.kept)])
    found = []
    for items in (pool.kept, drawn):
        learner = trial.pretrained("simclr", train.select(items), batch_size=min(batch_size, len(items)))
        seen, new = (trial.predict(learner.encoder, part.x) for part in (train, unseen))

        def on_the_excluded(labels: Array, _: Array, seen: Tensor = seen, new: Tensor = new) -> float:
            rows = torch.from_numpy(np.isin(labels, gone))
            return linear_probe(seen, train.y, new[rows], torch.from_numpy(labels)[rows]).value

        found.append(unseen.score(np.zeros(len(unseen)), by=on_the_excluded))
    return found


def _weak_detector(x: Tensor, shows: Array) -> Callable[[Tensor], Array]:
    from sklearn.linear_model import LogisticRegression

    def pixels(batch: Tensor) -> Array:
        return batch.flatten(1).numpy() / 255.0

    model = LogisticRegression(C=0.01, max_iter=200).fit(pixels(x), shows)
    return lambda batch: model.predict_proba(pixels(batch))[:, 1]
