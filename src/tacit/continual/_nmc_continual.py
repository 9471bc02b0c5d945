"""A Simple Baseline that Questions the Use of Pretrained-Models in Continual Learning (Janson et al., 2022)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.embedding import prepared
from tacit.errors import unknown
from tacit.evaluate import incremental_tasks
from tacit.nn import Classifier

Floats = NDArray[np.float64]
METRICS = ("euclidean", "cosine")
_BLOCK = 16_384


@system("nmc-continual", paper="arXiv:2210.04428", modality="any")
class NearestMeanContinual(ClassifierMixin, BaseEstimator):
    """The nearest class mean of frozen features, updated as items come: the baseline of continual learning.

        mu_c <- mu_c + (z - mu_c) / n_c   for each item z of class c;   predict(z) = argmin_c |z - mu_c|

    One head for all tasks, one pass, no tasks or boundaries, no item is kept, and no forgetting: means and predictions
    are those of all items so far at once, in whatever order and portions they came. For this to hold to the last bit,
    sums are carried in two float64 numbers each (106 bits), not as the running mean above, which rounds at each item.

    Args:
        metric: `euclidean`; or `cosine`, which divides features by their norms first (a row of zeros stays so).

    Attributes:
        classes_: (n_classes,), all seen so far, sorted.
        counts_: items of each, int64 (n_classes,).
        means_: mu, float64 (n_classes, n_features).

    Features come from `tacit.embed(encoder, data)`, or from steps before it in a Pipeline that need no fitting of their
    own, since a Pipeline has no `partial_fit`. Rows go through 16,384 at a time; beside them there are three numbers a
    class and feature.

    Raises:
        ArgumentError: another metric.

    >>> model = NearestMeanContinual().partial_fit([[0.0, 0.0], [2.0, 0.0]], ["a", "a"])
    >>> model = model.partial_fit([[5.0, 1.0]], ["b"])
    >>> model.means_.tolist(), model.predict([[2.0, 1.0], [4.0, 1.0]]).tolist()
    ([[1.0, 0.0], [5.0, 1.0]], ['a', 'b'])
    """

    settings: ClassVar[dict[str, dict[str, Any]]] = {"paper": {}, "small": {}}

    def __init__(self, *, metric: str = "euclidean") -> None:
        self.metric = metric

    def fit(self, X: Any, y: Any) -> NearestMeanContinual:
        """Forget all, and start with these items: (n, n_features), (n,)."""
        return self._add(X, y, None, fresh=True)

    def partial_fit(self, X: Any, y: Any, classes: ArrayLike | None = None) -> NearestMeanContinual:
        """Learn more items, of classes old or new.

        Args:
            X, y: (n, n_features) and (n,).
            classes: not needed; as scikit-learn has it, all of `y` must be among them where they are given.
        """
        return self._add(X, y, classes, fresh=not hasattr(self, "classes_"))

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of the nearest mean, (n,); of equally near ones the first."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        centre = self.means_.mean(axis=0)  # what is far from 0 would lose its digits in the squares
        means = self.means_ - centre
        half = (means**2).sum(axis=1) / 2
        found = [
            (half - (self._scaled(X[start : start + _BLOCK]) - centre) @ means.T).argmin(axis=1)
            for start in range(0, len(X), _BLOCK)
        ]
        return self.classes_[np.concatenate(found)]

    def _add(self, X: Any, y: Any, classes: ArrayLike | None, *, fresh: bool) -> NearestMeanContinual:
        if self.metric not in METRICS:
            raise unknown("metric", self.metric, METRICS)
        X, y = validate_data(self, X, y, reset=fresh, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        if classes is not None and not np.isin(y, classes).all():
            raise ValueError(f"y: classes {np.setdiff1d(y, classes).tolist()} are not among those of `classes`")
        if fresh:
            self.classes_, self.counts_ = np.unique(y[:0]), np.zeros(0, np.int64)
            self._high = self._low = np.zeros((0, X.shape[1]))
        self._make_room(np.unique(y))
        for code in np.unique(np.searchsorted(self.classes_, y)):
            rows = np.flatnonzero(y == self.classes_[code])
            for start in range(0, len(rows), _BLOCK):
                part = rows[start : start + _BLOCK]
                total = _two_float_sum(self._scaled(X[part]))
                self._high[code], self._low[code] = _add_pairs((self._high[code], self._low[code]), total)
                self.counts_[code] += len(part)
        self.means_ = (self._high + self._low) / self.counts_[:, None]
        return self

    def _make_room(self, labels: NDArray[Any]) -> None:
        """Rows of zeros for classes that are new."""
        classes = np.union1d(self.classes_, labels) if len(self.classes_) else labels
        old = np.searchsorted(classes, self.classes_)
        counts, sums = np.zeros(len(classes), np.int64), np.zeros((2, len(classes), self.n_features_in_))
        counts[old], sums[0, old], sums[1, old] = self.counts_, self._high, self._low
        self.classes_, self.counts_, (self._high, self._low) = classes, counts, sums

    def _scaled(self, X: NDArray[Any]) -> Floats:
        X = X.astype(np.float64)
        if self.metric == "euclidean":
            return X
        norms = np.linalg.norm(X, axis=1, keepdims=True)
        return X / np.where(norms > 0, norms, 1)


Pair = tuple[Floats, Floats]
"""A number as the sum of two floats, the second below half a unit in the last place of the first."""


def _add_pairs(a: Pair, b: Pair) -> Pair:
    """a + b by Knuth's TwoSum, whose error term is exact, with both low parts; twice, for high and for low."""
    high, error = _two_sum(a[0], b[0])
    low, error_of_low = _two_sum(a[1], b[1])
    high, error = _two_sum(high, error + low)
    return _two_sum(high, error + error_of_low)


def _two_sum(a: Floats, b: Floats) -> Pair:
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _two_float_sum(X: Floats) -> Pair:
    """The sum over the rows, (n, d) -> two of (d,), by halves."""
    high, low = X, np.zeros_like(X)
    while len(high) > 1:
        half = len(high) // 2
        first, second = (high[:half], low[:half]), (high[half : 2 * half], low[half : 2 * half])
        rest = high[2 * half :], low[2 * half :]
        high, low = (np.concatenate([s, r]) for s, r in zip(_add_pairs(first, second), rest, strict=True))
    return high[0], low[0]


@claim(
    "class means of a frozen encoder end above fine-tuning the same encoder with EWC",
    reported="10-split CIFAR-100 from a ViT pretrained on ImageNet-21k: 88.53 % (abstract; 83.70 % in a later "
    "version), 'surpassing most state-of-the-art continual learning methods'",
    proxy="59 characters of two Omniglot alphabets in 10 tasks, from a Conv-4 trained by ProtoCLR on five others",
    steps={"small": 200, "full": 5_000},
)
def above_ewc(bench: Bench) -> Comparison:
    """Accuracy over all classes after the last task: of 20 drawings of a character a quarter is unseen.

    EWC has the best of six settings (two rates, three weights of the penalty, of which 0 is plain fine-tuning) as
    measured on the unseen drawings themselves: an advantage.
    """
    settings = [{"lr": lr, "penalty": penalty} for lr in (1e-3, 1e-2) for penalty in (0.0, 1e2, 1e4)]
    return _against(bench, settings, "the best of fine-tuning and EWC from the same encoder")


@claim(
    "class means of a frozen encoder end above fine-tuning the same encoder with a small replay buffer",
    reported="10-split CIFAR-100 from a ViT pretrained on ImageNet-21k: 88.53 % (abstract; 83.70 % in a later "
    "version), 'surpassing most state-of-the-art continual learning methods'",
    proxy="59 characters of two Omniglot alphabets in 10 tasks, from a Conv-4 trained by ProtoCLR on five others",
    steps={"small": 200, "full": 5_000},
)
def above_small_replay(bench: Bench) -> Comparison:
    """As `above_ewc`, against replay of one kept drawing a class: the best of three rates on the unseen drawings."""
    return _against(
        bench, [{"lr": lr, "kept": 1} for lr in (3e-4, 1e-3, 1e-2)], "fine-tuning with replay of one drawing a class"
    )


@claim(
    "means and predictions do not depend on the order in which classes and items come",
    reported="by construction: class means (section 3)",
)
def order_does_not_matter(bench: Bench) -> Comparison:
    """Means after three streams of the same raw pixels, in other orders and portions, against those of all at once."""
    characters = bench.images("omniglot", size=14)

    def means(trial: Trial) -> tuple[Floats, Floats]:
        train, _ = trial.split(characters)
        x, y = train.x.flatten(1).numpy() / np.float32(255), train.y.numpy()
        found = []
        for number, classes_per_task in enumerate((1, 7, 20)):
            model = NearestMeanContinual()
            for task in incremental_tasks(y, classes_per_task=classes_per_task, random_state=trial.seed + number):
                for portion in np.array_split(task, min(3, len(task))):
                    model.partial_fit(x[portion], y[portion])
            found.append(model.means_)
        return np.stack(found), np.stack([NearestMeanContinual().fit(x, y).means_] * 3)

    return bench.equal(means, tolerance=0.0)


def _against(bench: Bench, settings: Sequence[dict[str, Any]], baseline: str) -> Comparison:
    characters = bench.images("omniglot", size=28)
    epochs, settings = bench.pick(smoke=1, small=10), settings[:2] if bench.budget == "smoke" else settings

    def accuracies(trial: Trial) -> list[float]:
        train, unseen = trial.split(characters)
        encoder = trial.pretrained("prototransfer", train, encoder={"name": "conv4", "width": 32}).encoder
        held_out = unseen.reveal()
        x, y = held_out.x, held_out.y.unique(return_inverse=True)[1]
        last = torch.from_numpy(np.concatenate([t[: len(t) // 4] for t in _by_class(y, trial.seed)]))
        learn = torch.ones(len(y), dtype=torch.bool).index_fill_(0, last, False).nonzero()[:, 0]
        n_tasks = min(10, len(y[learn].unique()))
        tasks = [learn[t] for t in incremental_tasks(y[learn], n_tasks=n_tasks, random_state=trial.seed)]

        z, model = trial.predict(encoder, x).numpy(), NearestMeanContinual()
        for task in tasks:
            model.partial_fit(z[task], y[task].numpy())
        ours = float((model.predict(z[last]) == y[last].numpy()).mean())
        theirs = []
        for setting in settings:
            torch.manual_seed(trial.seed)
            network = Classifier(copy.deepcopy(encoder), int(y.max()) + 1)
            finetune(network, [(x[task], y[task]) for task in tasks], epochs=epochs, **setting)
            theirs.append((trial.predict(network, x[last]).argmax(1) == y[last]).float().mean().item())
        return [ours, max(theirs)]

    return bench.trials(accuracies, baseline=baseline, better_by=0.0)


def _by_class(y: Tensor, seed: int) -> list[NDArray[np.int64]]:
    """Item numbers of each class, in random order."""
    return incremental_tasks(y, classes_per_task=1, random_state=seed + 1_000)


def finetune(
    network: nn.Module,
    tasks: Sequence[tuple[Tensor, Tensor]],
    *,
    epochs: int,
    lr: float,
    penalty: float = 0.0,
    kept: int = 0,
    batch_size: int = 32,
) -> None:
    """The claims' baselines: Adam on one task after another, all of them with the same head.

    Args:
        network: images -> logits over all classes, with `encoder`.
        tasks: images and labels of each.
        penalty: of elastic weight consolidation (Kirkpatrick et al., 2017): penalty / 2 sum_i F_i (w_i - w_i*)^2, with
            F summed over the tasks so far and w* of the last; F is the squared gradient, batch by batch.
        kept: items of each class that are shown again with each batch of later tasks.
    """
    importance = [torch.zeros_like(p) for p in network.parameters()]
    anchor = [p.detach().clone() for p in network.parameters()]
    old_x, old_y = tasks[0][0][:0], tasks[0][1][:0]
    for x, y in tasks:
        optimizer = torch.optim.Adam(network.parameters(), lr)
        network.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch_size):
                again = torch.randint(len(old_y), (batch_size,)) if len(old_y) else torch.zeros(0, dtype=torch.long)
                batch_x, batch_y = torch.cat([x[rows], old_x[again]]), torch.cat([y[rows], old_y[again]])
                loss = F.cross_entropy(network(prepared(network.encoder, batch_x)), batch_y)  # type: ignore[arg-type]
                if penalty:
                    moved = zip(network.parameters(), anchor, importance, strict=True)
                    loss = loss + penalty / 2 * sum((f * (p - a) ** 2).sum() for p, a, f in moved)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        network.eval()
        for rows in torch.arange(len(x)).split(batch_size) if penalty else ():
            network.zero_grad()
            F.cross_entropy(network(prepared(network.encoder, x[rows])), y[rows]).backward()  # type: ignore[arg-type]
            for f, p in zip(importance, network.parameters(), strict=True):
                f += p.grad**2 * len(rows) / len(x)  # type: ignore[operator]
        anchor = [p.detach().clone() for p in network.parameters()]
        first = torch.cat([torch.where(y == c)[0][:kept] for c in y.unique()])
        old_x, old_y = torch.cat([old_x, x[first]]), torch.cat([old_y, y[first]])
