"""Discrete Key-Value Bottleneck (Träuble et al., 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.errors import expect
from tacit.evaluate import incremental_tasks

_ENTRIES = 2**24
"""Distances to keys that are held at a time."""


@system("dkvb", paper="arXiv:2207.11240", modality="any")
class DiscreteKeyValueBottleneck(ClassifierMixin, BaseEstimator):
    """Learns classes as they come, from frozen features, by moving only the few values that an item fetches.

        z_c   = G_c x,  c = 1..C         heads: fixed Gaussian projections, rows of norm 1
        k_c   = argmin_k |z_c - key_ck|                  the nearest of K keys of codebook c
        p     = softmax( mean over c of  value_c,k_c )    values have a number a class; no decoder is learned
        loss  = cross-entropy of p with smoothed labels

    Keys are found from unlabelled items (`init_keys`), by k-means whose means are moving averages, and stay as they
    are. Then only values are learned, by SGD, from zeros: those that no item of a batch fetches do not move at all, so
    that what other regions of the features have learned is kept, without replay, tasks or boundaries.

    Where the official code differs: its keys start from Gaussian noise, and a dead key that is put in an item's place
    keeps its old moving average; here keys start as items, of which a dead one takes the weight too. As in that code,
    pairs that training never fetched are skipped at prediction.

    Args:
        n_codebooks: C.
        n_pairs: K.
        key_dim: width of a head.
        decay: of the keys' moving averages, a batch.
        threshold: a key is dead where its moving count is below this share of batch_size / n_pairs.
        key_epochs: passes of `init_keys`.
        epochs: passes over the items of one `fit` or `partial_fit`; the official code makes very many.
        lr: constant rate of SGD, without momentum and decay, which would move what is not fetched.
        clip: largest norm of the gradient over all values.
        label_smoothing: share of a label that is spread over the classes known so far.
        batch_size: items a step.
        device: `cpu`, `cuda`...
        random_state: of projections, keys and order.

    Attributes:
        classes_: (n_classes,), sorted; new ones are added as they come.
        projections_: G, float32 (C, key_dim, n_features).
        keys_: float32 (C, K, key_dim).
        values_: float32 (C, K, n_classes).
        counts_: how often training fetched each pair, int64 (C, K).

    The mean makes gradients of values 1 / C of the usual, so that lr and epochs want tuning together. Rows are read as
    float32; put a `StandardScaler` in front where their scales differ widely. A batch is quantised in parts of 2^24
    distances, so that rows cost no memory beside themselves.

    Raises:
        ArgumentError: a number out of its range.
        ValueError: `y` has classes that are not among those given as `classes`.

    >>> g = np.random.default_rng(0)
    >>> x, y = np.repeat(np.eye(4, 8) * 5, 30, axis=0) + g.normal(size=(120, 8)), np.repeat(np.arange(4), 30)
    >>> model = DiscreteKeyValueBottleneck(n_codebooks=16, n_pairs=32, lr=30.0, random_state=0).init_keys(x)
    >>> for task in ([0, 1], [2, 3]):
    ...     rows = np.isin(y, task)
    ...     model = model.partial_fit(x[rows], y[rows], classes=[0, 1, 2, 3])
    >>> bool(model.score(x, y) > 0.8)
    True
    """

    classes_: NDArray[Any]
    values_: NDArray[np.float32]
    counts_: NDArray[np.int64]

    settings: ClassVar = {
        "paper": {
            "n_codebooks": 256, "n_pairs": 4096, "key_dim": 14, "decay": 0.95, "threshold": 0.1, "key_epochs": 10,
            "lr": 0.3, "clip": 1.0, "label_smoothing": 0.1, "batch_size": 256,
        },
        "small": {"n_codebooks": 32, "n_pairs": 128},
    }  # fmt: skip

    def __init__(
        self,
        *,
        n_codebooks: int = 64,
        n_pairs: int = 512,
        key_dim: int = 8,
        decay: float = 0.95,
        threshold: float = 0.1,
        key_epochs: int = 10,
        epochs: int = 20,
        lr: float = 3.0,
        clip: float = 1.0,
        label_smoothing: float = 0.1,
        batch_size: int = 256,
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        self.n_codebooks = n_codebooks
        self.n_pairs = n_pairs
        self.key_dim = key_dim
        self.decay = decay
        self.threshold = threshold
        self.key_epochs = key_epochs
        self.epochs = epochs
        self.lr = lr
        self.clip = clip
        self.label_smoothing = label_smoothing
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def init_keys(self, X: Any) -> DiscreteKeyValueBottleneck:
        """Forget all, and find keys from items without labels, (n, n_features): once, before the stream begins."""
        self._check()
        return self._init_keys(validate_data(self, X, dtype=np.float32))

    def fit(self, X: Any, y: Any) -> DiscreteKeyValueBottleneck:
        """Forget all; keys from X (n, n_features), then values from X and y (n,)."""
        self._check()
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        return self._init_keys(X)._learn(X, y, np.unique(y))

    def partial_fit(self, X: Any, y: Any, classes: ArrayLike | None = None) -> DiscreteKeyValueBottleneck:
        """Learn more items, of classes old or new; without `init_keys` the keys are those of the first call's items.

        Args:
            X, y: (n, n_features) and (n,).
            classes: all that will come, where that is known. The softmax then counts them from the start; without,
                items that came alone with one class teach nothing, as there is nothing to tell apart.
        """
        self._check()
        fresh = not hasattr(self, "keys_")
        X, y = validate_data(self, X, y, reset=fresh, dtype=np.float32)
        check_classification_targets(y)
        known = np.unique(y) if classes is None else np.unique(classes)
        if not np.isin(y, known).all():
            raise ValueError(f"y: classes {np.setdiff1d(y, known).tolist()} are not among those of `classes`")
        if fresh:
            self._init_keys(X)
        return self._learn(X, y, known)

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each row, (n,)."""
        winners = self.predict_proba(X).argmax(axis=1)
        return self.classes_[winners]

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """p, (n, n_classes), in the order of `classes_`."""
        check_is_fitted(self, "values_")
        X = validate_data(self, X, reset=False, dtype=np.float32)
        values, never = self._tensor(self.values_), self._tensor(self.counts_ == 0)
        books = torch.arange(self.n_codebooks, device=values.device)
        found = [values[books, pairs].mean(1).softmax(1) for pairs in self._fetched(X, never)]
        return torch.cat(found).cpu().numpy()

    def _init_keys(self, X: NDArray[np.float32]) -> DiscreteKeyValueBottleneck:
        self._random = np.random.RandomState(check_random_state(self.random_state).randint(2**31 - 1))
        for name in ("classes_", "values_", "counts_"):
            self.__dict__.pop(name, None)
        shape = (self.n_codebooks, self.key_dim, X.shape[1])
        projections = self._random.normal(size=shape)
        self.projections_ = (projections / np.linalg.norm(projections, axis=2, keepdims=True)).astype(np.float32)
        start = self._random.permutation(len(X))[: self.n_pairs]
        start = np.concatenate([start, self._random.randint(len(X), size=self.n_pairs - len(start))])
        keys = self._heads(X[start]).transpose(0, 1).contiguous()
        expected = self.batch_size / self.n_pairs
        weights = torch.full(keys.shape[:2], expected, device=keys.device)
        sums = keys * expected
        for _ in range(self.key_epochs):
            for rows in self._batches(len(X)):
                heads = self._heads(X[rows])
                pairs = nearest_keys(heads, keys)
                counts, totals = _by_pair(heads, pairs, self.n_pairs)
                weights, sums = (
                    self.decay * old + (1 - self.decay) * new for old, new in ((weights, counts), (sums, totals))
                )
                dead = weights < self.threshold * expected
                place = self._tensor(self._random.randint(len(rows), size=tuple(dead.shape)))
                items = heads.transpose(0, 1).gather(1, place[..., None].expand(-1, -1, self.key_dim))
                weights = torch.where(dead, expected, weights)
                sums = torch.where(dead[..., None], items * expected, sums)
                keys = sums / weights[..., None]
        self.keys_ = keys.cpu().numpy()
        return self

    def _learn(self, X: NDArray[np.float32], y: NDArray[Any], known: NDArray[Any]) -> DiscreteKeyValueBottleneck:
        """SGD on the values; `known` are classes that may be new."""
        self._make_room(known)
        codes = self._tensor(np.searchsorted(self.classes_, y))
        pairs = torch.cat(list(self._fetched(X)))  # keys are fixed, and so is what an item fetches
        values, counts = self._tensor(self.values_.copy()), self._tensor(self.counts_.copy())
        books = torch.arange(self.n_codebooks, device=values.device)
        n_classes = len(self.classes_)
        for _ in range(self.epochs):
            for rows in self._batches(len(X)):
                fetched = pairs[rows]
                target = F.one_hot(codes[rows], n_classes).to(values)
                target = (1 - self.label_smoothing) * target + self.label_smoothing / n_classes
                p = values[books, fetched].mean(1).softmax(1)
                # each of an item's C values has the same gradient; a pair sums over the items that fetch it
                slope = ((p - target) / (len(rows) * self.n_codebooks))[:, None].expand(-1, self.n_codebooks, -1)
                fetches, gradient = _by_pair(slope, fetched, self.n_pairs)
                scale = (self.clip / (gradient.norm() + 1e-6)).clamp(max=1)
                values -= self.lr * scale * gradient
                counts += fetches.long()
        self.values_, self.counts_ = values.cpu().numpy(), counts.cpu().numpy()
        return self

    def _make_room(self, known: NDArray[Any]) -> None:
        """Values of zero for classes that are new."""
        before: NDArray[Any] = getattr(self, "classes_", known[:0])
        classes = np.union1d(before, known) if len(before) else known
        shape = (self.n_codebooks, self.n_pairs)
        values = np.zeros((*shape, len(classes)), np.float32)
        if len(before):
            values[:, :, np.searchsorted(classes, before)] = self.values_
        else:
            self.counts_ = np.zeros(shape, np.int64)
        self.classes_, self.values_ = classes, values

    def _fetched(self, X: NDArray[np.float32], never: Tensor | None = None) -> Iterator[Tensor]:
        """The nearest pairs of the rows, int64 (b, C), part by part."""
        keys = self._tensor(self.keys_)
        for start in range(0, len(X), self.batch_size):
            yield nearest_keys(self._heads(X[start : start + self.batch_size]), keys, never)

    def _heads(self, X: NDArray[np.float32]) -> Tensor:
        """(b, n_features) -> (b, C, key_dim)."""
        return torch.einsum("bd,ckd->bck", self._tensor(X), self._tensor(self.projections_))

    def _batches(self, n: int) -> Iterator[NDArray[np.int64]]:
        order = self._random.permutation(n)
        return (order[start : start + self.batch_size] for start in range(0, n, self.batch_size))

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _check(self) -> None:
        for name in ("n_codebooks", "n_pairs", "key_dim", "epochs", "batch_size"):
            expect(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        expect("key_epochs", self.key_epochs, self.key_epochs >= 0, "0 or more")
        expect("decay", self.decay, 0 <= self.decay < 1, "a number in [0, 1)")
        expect("threshold", self.threshold, 0 <= self.threshold < 1, "a number in [0, 1)")
        expect("lr", self.lr, self.lr > 0, "a number above 0")
        expect("clip", self.clip, self.clip > 0, "a number above 0", "float('inf') clips nothing")
        expect("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "a number in [0, 1)")


def nearest_keys(heads: Tensor, keys: Tensor, never: Tensor | None = None) -> Tensor:
    """For each head the number of its nearest key, the first of equals: (b, C, d), (C, K, d) -> int64 (b, C).

    Args:
        never: (C, K) keys that are left out.
    """
    bias = keys.square().sum(2) / 2
    if never is not None:
        bias = bias.masked_fill(never, torch.inf)
    rows = max(1, _ENTRIES // bias.numel())
    found = [(bias[:, None] - part.transpose(0, 1) @ keys.transpose(1, 2)).argmin(2).T for part in heads.split(rows)]
    return torch.cat(found)


def _by_pair(rows: Tensor, pairs: Tensor, n_pairs: int) -> tuple[Tensor, Tensor]:
    """How many rows (b, C, d) are at each pair of each codebook, (C, K), and their sums, (C, K, d)."""
    n_books, width = pairs.shape[1], rows.shape[2]
    flat = (pairs + n_pairs * torch.arange(n_books, device=pairs.device)).flatten()
    counts = torch.bincount(flat, minlength=n_books * n_pairs).to(torch.float32)
    sums = torch.zeros(n_books * n_pairs, width, device=rows.device)
    sums.index_add_(0, flat, rows.reshape(-1, width))
    return counts.view(n_books, n_pairs), sums.view(n_books, n_pairs, width)


@claim(
    "forgets less than a linear or a two-layer head, when classes come two at a time",
    reported="class-incremental CIFAR-10 on frozen features: reduces forgetting with all pretrained models, where "
    "linear probes and MLPs forget (abstract, section 5)",
    proxy="SimCLR's features of CIFAR-10 at 16 pixels (a ResNet-8, some steps); keys from the stream's images "
    "without labels, beforehand, in place of CIFAR-100",
    steps={"small": 300, "full": 20_000},
)
def forgets_less(bench: Bench) -> Comparison:
    """Accuracy over all ten classes after five tasks of two, 20 passes each, no replay.

    Encoder and keys come from all training images, without labels. Both sides choose among six settings on a
    validation stream: rates and codebooks here; rates, with and without a hidden layer of 128, there. Both are told the
    ten classes beforehand, and see features that are standardised by the training images'.
    """
    heads = [{"hidden_dim": width, "lr": lr} for width in (0, 128) for lr in (1e-3, 1e-2, 1e-1)]
    ours = [{"n_codebooks": books, "lr": lr} for books in (16, 64) for lr in (0.3, 3.0, 30.0)]

    def trial_of(trial: Trial, train: Part, unseen: Unseen) -> list[float]:
        return [_chosen(trial, train, unseen, ours, bottleneck), _chosen(trial, train, unseen, heads, head)]

    return _on_features(bench, trial_of, baseline="a linear or two-layer head by SGD", better_by=0.0)


@claim(
    "ends within ten points of where it would be, had all classes come together",
    reported="class-incremental CIFAR-10 on frozen features: a small gap to i.i.d. training (section 5)",
    proxy="SimCLR's features of CIFAR-10 at 16 pixels (a ResNet-8, some steps); keys from the stream's images "
    "without labels, beforehand, in place of CIFAR-100",
    steps={"small": 300, "full": 20_000},
)
def near_to_iid(bench: Bench) -> Comparison:
    """As `forgets_less`; the other side has the same keys and settings to choose from, and 20 passes over all items."""
    settings = [{"n_codebooks": books, "lr": lr} for books in (16, 64) for lr in (0.3, 3.0, 30.0)]

    def trial_of(trial: Trial, train: Part, unseen: Unseen) -> list[float]:
        sides = [{**setting, "n_tasks": 1} for setting in settings]
        return [_chosen(trial, train, unseen, candidates, bottleneck) for candidates in (settings, sides)]

    return _on_features(bench, trial_of, baseline="the same with all classes together", not_worse_by=0.10)


Runner = Callable[..., NDArray[Any]]
"""(trial, part, x to tell, **setting) -> predictions."""


def _on_features(bench: Bench, function: Callable[[Trial, Part, Unseen], list[float]], **words: Any) -> Comparison:
    """`function` on standardised SimCLR features in place of the images."""
    images = bench.images("cifar10", size=16)

    def trial_of(trial: Trial) -> list[float]:
        train, unseen = trial.split(images)
        encoder = trial.pretrained("simclr", train).encoder
        z = trial.predict(encoder, train.x)
        mean, std = z.mean(0), z.std(0) + 1e-6
        seen = Part({"x": (z - mean) / std, "y": train.y}, "points", train.n_classes, trial.seed)
        unseen.columns["x"] = (trial.predict(encoder, unseen.x) - mean) / std
        return function(trial, seen, unseen)

    return bench.trials(trial_of, **words)


def _chosen(trial: Trial, train: Part, unseen: Unseen, settings: Sequence[dict[str, Any]], run: Runner) -> float:
    """Accuracy on the unseen items with the setting that is best on a validation part."""

    def validate(setting: dict[str, Any], part: Part, held_out: Unseen) -> float:
        return held_out.score(run(trial, part, held_out.x, **setting))

    return unseen.score(run(trial, train, unseen.x, **trial.select(train, settings, validate)))


def bottleneck(trial: Trial, part: Part, x: Tensor, *, n_tasks: int = 5, **setting: Any) -> NDArray[Any]:
    """Keys from the part's items, then the stream."""
    model = DiscreteKeyValueBottleneck(n_pairs=256, key_epochs=3, random_state=trial.seed, **setting)
    model.init_keys(part.x.numpy())
    for task in incremental_tasks(part.y, n_tasks=n_tasks, random_state=trial.seed):
        model.partial_fit(part.x[task].numpy(), part.y[task].numpy(), classes=np.arange(part.n_classes or 0))
    return model.predict(x.numpy())


def head(trial: Trial, part: Part, x: Tensor, *, hidden_dim: int, lr: float, epochs: int = 20) -> NDArray[Any]:
    """A linear layer, or two with ReLU, by SGD on the same stream with the same batches, smoothing and clipping."""
    torch.manual_seed(trial.seed)
    n_features, n_classes = part.x.shape[1], part.n_classes or 0
    layers: list[nn.Module] = [nn.Linear(n_features, n_classes)]
    if hidden_dim:
        layers = [nn.Linear(n_features, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, n_classes)]
    network = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(network.parameters(), lr)
    for task in incremental_tasks(part.y, n_tasks=5, random_state=trial.seed):
        items = torch.from_numpy(task)
        for _ in range(epochs):
            for rows in items[torch.randperm(len(items))].split(256):
                optimizer.zero_grad()
                F.cross_entropy(network(part.x[rows]), part.y[rows], label_smoothing=0.1).backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
    return network(x).argmax(1).numpy()
