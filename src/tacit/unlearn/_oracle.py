"""What unlearning is measured against: a network that was trained without the items, and the distance to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.claims import Data, Part, Trial
from tacit.embedding import evaluating, prepared
from tacit.errors import expect, unknown
from tacit.evaluate import Score, membership_rate, wilson
from tacit.nn import Classifier
from tacit.unlearn._baselines import device_of

TASKS = ("random", "class")
SHARE = 0.1
"""Of the items, to be forgotten at random."""


@dataclass(frozen=True)
class Forgetting:
    """One task of unlearning, with the answer that nobody else gets to see.

    Attributes:
        model: a classifier trained on `kept` and `forgotten`.
        oracle: the same network from the same initial weights, trained on `kept` alone, as long.
        kept, forgotten: parts with labels.
        unseen: items that no network was trained on.
    """

    model: nn.Module
    oracle: nn.Module
    kept: Part
    forgotten: Part
    unseen: Part

    def gap(self, model: nn.Module) -> float:
        """How far a model is from the oracle: `gap_to_retraining` of their scores."""
        return gap_to_retraining(*(self.scores(one) for one in (model, self.oracle)))

    def scores(self, model: nn.Module) -> dict[str, Score]:
        parts = ((part.x, part.y) for part in (self.kept, self.forgotten, self.unseen))
        return forgetting_scores(model, *parts)


def forgetting(trial: Trial, data: Data, *tasks: str) -> list[Forgetting]:
    """Tasks of unlearning on a claim's data, which share the trained classifier and the unseen items.

    Args:
        trial: one seed.
        data: images with labels.
        tasks: `random`, a tenth of the items, drawn by the seed; `class`, all items of the class that the seed names.
    """
    train, unseen = trial.split(data)
    model, others = _trained(trial, train), unseen.reveal()
    made = []
    for task in tasks:
        gone = _chosen(trial, train, task)
        kept, forgotten = train.select(torch.where(~gone)[0]), train.select(torch.where(gone)[0])
        made.append(Forgetting(model, _trained(trial, kept), kept, forgotten, others))
    return made


def small_convnet(trial: Trial, part: Part) -> Classifier:
    """Four convolutions of 32 channels and a linear head, all its weights drawn by the seed."""
    encoder = trial.encoder({"name": "conv4", "width": 32}, part)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        return Classifier(encoder, int(part.n_classes or 2))


def _trained(trial: Trial, part: Part) -> Classifier:
    return trial.fit(trial.build("supervised", part, classifier=small_convnet(trial, part)), part).classifier


def _chosen(trial: Trial, train: Part, task: str) -> Tensor:
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if task == "class":
        return train.y == trial.seed % int(train.n_classes or 1)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(trial.seed))
    return torch.isin(torch.arange(len(train)), order[: round(SHARE * len(train))])


def forgetting_scores(
    model: nn.Module,
    kept: tuple[Tensor, Tensor],
    forgotten: tuple[Tensor, Tensor],
    unseen: tuple[Tensor, Tensor],
) -> dict[str, Score]:
    """What is told of a classifier after unlearning.

    Args:
        model: x -> logits; its `prepare` goes first where it has one.
        kept, forgotten, unseen: items (n, ...) and classes (n,), on any device.

    Returns:
        Accuracy on `kept`, `forgotten` and `unseen`; and as `membership` the share of the forgotten items that are
        taken for members by a threshold on the loss, which kept and unseen items set.

    >>> x, y = torch.eye(4), torch.arange(4)
    >>> found = forgetting_scores(nn.Identity(), (x[:2], y[:2]), (x[2:], y[2:]), (x, (y + 1) % 4))
    >>> {name: score.value for name, score in found.items()}
    {'kept': 1.0, 'forgotten': 1.0, 'unseen': 0.0, 'membership': 1.0}
    """
    logits = [_logits(model, x) for x, _ in (kept, forgotten, unseen)]
    labels = [y.cpu() for _, y in (kept, forgotten, unseen)]
    hits = [wilson(int((z.argmax(1) == y).sum()), len(y)) for z, y in zip(logits, labels, strict=True)]
    of_kept, of_forgotten, of_unseen = (
        -F.cross_entropy(z, y, reduction="none") for z, y in zip(logits, labels, strict=True)
    )
    return dict(zip(("kept", "forgotten", "unseen"), hits, strict=True)) | {
        "membership": membership_rate(of_forgotten, of_kept, of_unseen)
    }


def gap_to_retraining(scores: Mapping[str, Score], oracle: Mapping[str, Score]) -> float:
    """Mean absolute difference of a model's scores and the oracle's, in [0, 1]; 0 is as good as trained anew.

    >>> anew = {"kept": wilson(9, 10), "forgotten": wilson(8, 10)}
    >>> gap_to_retraining({"kept": wilson(9, 10), "forgotten": wilson(10, 10)}, anew)
    0.1
    """
    expect("scores", sorted(scores), set(scores) == set(oracle), f"those of the oracle, {', '.join(oracle)}")
    return round(sum(abs(scores[name].value - oracle[name].value) for name in oracle) / len(oracle), 12)


def _logits(model: nn.Module, x: Tensor, batch_size: int = 500) -> Tensor:
    device = device_of(model)
    with evaluating(model), torch.no_grad():
        return torch.cat([model(prepared(model, batch.to(device))).float().cpu() for batch in x.split(batch_size)])
