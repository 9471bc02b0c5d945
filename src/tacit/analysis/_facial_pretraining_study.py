"""Pre-training Strategies and Datasets for Facial Representation Learning (Bulat et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.analysis._feature_complexity import usable_information
from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, claim
from tacit.data import glyphs
from tacit.embedding import embed
from tacit.errors import expect
from tacit.evaluate import linear_probe
from tacit.nn import Classifier

Array = NDArray[Any]


@dataclass(frozen=True)
class PretrainingScores:
    """What `pretraining_bench` gives.

    Attributes:
        encoders, tasks: names; fractions: shares of the labels.
        scores: (encoders, tasks, fractions, seeds): accuracy of classes, R^2 of numbers; higher is better.
    """

    encoders: tuple[str, ...]
    tasks: tuple[str, ...]
    fractions: tuple[float, ...]
    scores: Array

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row for each encoder, task and fraction: their names, and mean and standard deviation over the seeds."""
        return [
            {"encoder": encoder, "task": task, "fraction": fraction, "mean": cell.mean(), "std": cell.std()}
            for i, encoder in enumerate(self.encoders)
            for j, task in enumerate(self.tasks)
            for fraction, cell in zip(self.fractions, self.scores[i, j], strict=True)
        ]

    def gains(self, encoder: str, baseline: str) -> Array:
        """(tasks, fractions): mean score of one encoder minus that of another."""
        one, other = (self.scores[self.encoders.index(name)].mean(axis=-1) for name in (encoder, baseline))
        return one - other


@system("facial-pretraining-study", paper="arXiv:2103.16554", modality="image", level="protocol")
def pretraining_bench(
    encoders: Mapping[str, nn.Module],
    x: Tensor,
    tasks: Mapping[str, Tensor],
    *,
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    seeds: Sequence[int] = (0,),
    test_share: float = 0.3,
) -> PretrainingScores:
    """Several ways to pretrain, compared on several tasks on the same images, from few labels to all.

    The paper's questions: does one representation serve recognition, expressions, action units, landmarks and 3D
    shape; how many labels does each need; and do supervised or unsupervised pretraining, curated or raw images,
    differ? There are no faces here: bring your own images and tasks. Encoders are frozen and read linearly, where the
    paper also tunes them whole.

    Args:
        encoders: name -> pretrained encoder, images -> (n, dim). Put in an untrained one, too.
        x: images (n, c, h, w), uint8 or float in [0, 1].
        tasks: name -> int64 (n,), classes, scored by the accuracy of a linear probe; or float (n,) or (n, k), numbers
            (landmarks, angles), scored by the R^2 of ridge regression, the mean over its columns.
        fractions: shares of the training items whose labels are used; at least two items of each of two classes, or
            ten items, are taken however small the share. The same items for all encoders.
        seeds: one split into training and test items, and one draw of the labelled items, for each.
        test_share: of the images.

    Raises:
        ArgumentError: no encoder or task, labels of another length, a share outside (0, 1].

    >>> from tacit.nn import ResNet
    >>> x, y = torch.rand(60, 3, 8, 8), torch.arange(60) % 2
    >>> x[y == 1] *= 0.3
    >>> encoders = {"a": ResNet(8, width=4, image_size=8), "b": ResNet(8, width=8, image_size=8)}
    >>> found = pretraining_bench(encoders, x, {"dark": y, "mean": x.mean((1, 2, 3))}, fractions=[0.5, 1.0])
    >>> found.scores.shape, len(found.table), bool(found.scores[0, 0, 1, 0] > 0.9)
    ((2, 2, 2, 1), 8, True)
    """
    expect("encoders", list(encoders), len(encoders) >= 1, "at least one")
    expect("tasks", list(tasks), len(tasks) >= 1, "at least one")
    expect("fractions", list(fractions), all(0 < share <= 1 for share in fractions), "shares in (0, 1]")
    expect("test_share", test_share, 0 < test_share < 1, "a share in (0, 1)")
    for name, y in tasks.items():
        expect(f"tasks[{name!r}]", tuple(y.shape), len(y) == len(x), f"a row for each of the {len(x)} images")
    features = [torch.from_numpy(np.asarray(embed(encoder, {"x": x}))) for encoder in encoders.values()]
    scores = np.empty((len(encoders), len(tasks), len(fractions), len(seeds)))
    for s, seed in enumerate(seeds):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        test, train = order.tensor_split([round(test_share * len(x))])
        for j, y in enumerate(tasks.values()):
            for f, share in enumerate(fractions):
                labelled = few_labels(y, train, share)
                for i, rows in enumerate(features):
                    scores[i, j, f, s] = read_off(rows[labelled], y[labelled], rows[test], y[test], seed)
    return PretrainingScores(tuple(encoders), tuple(tasks), tuple(fractions), scores)


def few_labels(y: Tensor, items: Tensor, share: float) -> Tensor:
    """The first of `items` up to the share, and then more until a probe can be fitted to their labels."""
    count = max(round(share * len(items)), min(10, len(items)))
    if y.is_floating_point():
        return items[:count]
    rank = torch.empty(len(items), dtype=torch.int64)  # number of an item among those of its class
    for label in y[items].unique():
        same = y[items] == label
        rank[same] = torch.arange(int(same.sum()))
    first = torch.arange(len(items)) < count
    return items[first | (rank < 2)] if len(y[items[:count]].unique()) < 2 else items[first]


def read_off(x: Tensor, y: Tensor, new_x: Tensor, new_y: Tensor, seed: int = 0) -> float:
    """Accuracy of a linear probe for classes, mean R^2 of ridge regression for numbers, on new rows."""
    if not y.is_floating_point():
        return linear_probe(x, y, new_x, new_y, seed=seed).value
    cut = round(0.8 * len(x))
    rows = [side.numpy() for side in (x[:cut], y[:cut], x[cut:], y[cut:], new_x, new_y)]
    rows[1::2] = [side.reshape(len(side), -1).astype(float) for side in rows[1::2]]
    return float(usable_information(*rows).mean())


FACTORS = ("y", "style", "scale", "position_x", "position_y")
"""Content, font, size and place of `tacit.data.glyphs`: five tasks on the same images."""


def clips(n: int, *, seed: int = 0, frames: int = 4, image_size: int = 16) -> dict[str, Array]:
    """Glyphs in clips: n pictures, `frames` in a row of one glyph that jitters by a pixel; the columns of `glyphs`."""
    data = glyphs(-(-n // frames), seed=seed, image_size=image_size)
    shifts = np.random.default_rng(seed).integers(-1, 2, size=(n, 2))
    clip = np.arange(n) // frames
    x = np.stack([np.roll(data["x"][k], tuple(shift), (1, 2)) for k, shift in zip(clip, shifts, strict=True)])
    columns = {name: data[name][clip] for name in FACTORS[:3]}
    return {"x": x, **columns, "position_x": data["position_x"][clip] + shifts[:, 1],
            "position_y": data["position_y"][clip] + shifts[:, 0], "clip": clip}  # fmt: skip


def _classes(values: Any) -> Tensor:
    """Numbers of the values in their order."""
    return torch.unique(torch.as_tensor(values), return_inverse=True)[1]


@claim(
    "unsupervised pretraining improves every task over training from scratch on few labels",
    reported="unsupervised pre-training on uncurated data improves all facial tasks considered (abstract, finding 1)",
    proxy="SwAV on glyphs in place of faces; content, font, size and place in place of five face tasks",
    steps={"small": 300, "full": 10_000},
)
def improves_every_task(bench: Bench) -> Comparison:
    """The smallest of five gains in accuracy: a linear probe of SwAV's features minus a network trained from scratch.

    Both see the labels of a tenth of the training images and are scored on unseen ones; SwAV sees all training images
    without labels. The network from scratch is the same and takes as many steps, on the labelled tenth, for each task.
    """
    n = bench.pick(smoke=240, small=4000)
    data = bench.drawn(glyphs, n=n, n_test=n // 2, image_size=16, modality="image", inputs=FACTORS)

    def smallest(trial: Trial) -> float:
        train, unseen = trial.split(data)
        swav = trial.pretrained("swav", train, batch_size=bench.pick(smoke=32, small=256), local_crops=0)
        seen, new = (trial.predict(swav.encoder, part.x) for part in (train, unseen))
        few = torch.arange(len(train) // 10)
        reveal = unseen.reveal()
        gains = []
        for name in FACTORS:
            both = _classes(torch.cat([train.columns[name], reveal.columns[name]]))
            y, new_y = both[: len(train)], both[len(train) :]
            probed = linear_probe(seen[few], y[few], new, new_y, seed=trial.seed).value
            gains.append(probed - _from_scratch(trial, train.select(few), y[few], unseen.x, new_y, int(both.max()) + 1))
        return min(gains)

    return bench.trials(smallest, above=0.0, setting=f"glyphs at 16 px, {n} images, labels for a tenth")


def _from_scratch(trial: Trial, part: Part, y: Tensor, new_x: Tensor, new_y: Tensor, n_classes: int) -> float:
    encoder = trial.encoder({"name": "resnet8", "width": 16}, part)
    learner = trial.build("supervised", part, classifier=Classifier(encoder, n_classes))
    trial.fit(learner, {"x": part.x, "y": y}, batch_size=min(64, len(part)))
    return float((trial.predict(learner.classifier, new_x).argmax(1) == new_y).float().mean())


@claim(
    "most frames of clips are redundant: pretraining on a quarter of them is as good",
    reported="many existing facial video datasets seem to have a large amount of redundancy (abstract, finding 2)",
    proxy="SwAV on glyphs that jitter by a pixel, four frames a clip, in place of videos of faces",
    steps={"small": 300, "full": 10_000},
)
def frames_are_redundant(bench: Bench) -> Comparison:
    """Linear-probe accuracy of the glyph on unseen clips: SwAV on one frame of each clip, against all four frames."""
    n = bench.pick(smoke=240, small=8000)
    data = bench.drawn(clips, n=n, n_test=n // 4, modality="image")

    def sides(trial: Trial) -> list[float]:
        train, unseen = trial.split(data)
        firsts = np.unique(train.columns["clip"], return_index=True)[1]
        one_each = train.select(torch.from_numpy(firsts))
        words = {"batch_size": bench.pick(smoke=32, small=256), "local_crops": 0}
        return [
            trial.probe(trial.pretrained("swav", part, **words).encoder, one_each, unseen) for part in (one_each, train)
        ]

    return bench.trials(sides, baseline="all frames", not_worse_by=0.02)
