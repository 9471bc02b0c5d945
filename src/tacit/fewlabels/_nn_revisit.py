"""Rethinking Nearest Neighbors for Visual Classification (Jia et al., 2021)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.errors import expect
from tacit.evaluate import approximate_neighbours, neighbours

Floats = NDArray[np.floating[Any]]
Codes = NDArray[np.intp]

NEIGHBOURS = (1, 2, 4, 8, 16, 32, 64)
TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0)
INTERPOLATIONS = tuple(np.linspace(0, 0.95, 20))
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""What `"cv"`, and a head that is left out, choose from."""
EXACT, IN_FOLDS, FOLDS = 20_000, 10_000, 5
"""Rows up to which all are compared with all; rows that the folds are made of; folds."""
_FLOOR = -100.0
"""Least log p_kNN that counts, as in the official code."""


@system("nn-revisit", paper="arXiv:2112.08459", modality="any")
class KNNAugmentedClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of frozen features that learns more from what its neighbours get wrong, and is mixed with them.

        p_kNN(c | x) ~ sum over the k nearest rows j of class c of  exp(-|z - z_j|^2 / t),    z = x - mean, normalised
        loss         = mean_i  (1 - hardness log p_kNN(y_i | x_i)) CE(head(x_i), y_i),        without i among the rows
        p(c | x)     = interpolation p_kNN(c | x) + (1 - interpolation) p_head(c | x)

    The weight of a hard example is that of the official code (`knn_reg`), log p_kNN not below -100; there `hardness`
    and the interpolation at the start are one number (lambda).

    What is `"cv"` is chosen for the likelihood of labels that were left out, so that the probabilities are fit for use:
    k and t by p_kNN of each row from all others, then the head's penalty, then the interpolation, both in five folds.
    (The official code takes the accuracy on a validation set, and lets k grow to the number of classes.) A class with
    one row is in no fold's held-out part; where all have one, the interpolation is 1/2 and C = 0.01.

    Args:
        head: a scikit-learn classifier with `predict_proba`, whose `fit` takes `sample_weight`; it sees standardised
            features. None: logistic regression, with C of five.
        n_neighbors: k, at least 1; where there are fewer rows, all of them; or `"cv"`.
        temperature: t, above 0; or `"cv"`.
        interpolation: share of p_kNN, in [0, 1]: 0 is the head alone, 1 the neighbours alone; or `"cv"`.
        hardness: how much more a hard example counts, 0 or more; at 0 no weights are handed to the head.
        random_state: draws the folds.

    Attributes:
        classes_: (n_classes,), sorted.
        n_neighbors_, temperature_, interpolation_: what was chosen.
        head_: the fitted head.
        sample_weight_: what each row counts in the head's loss, (n,).

    Neighbours of new rows are exact and blocked: a million rows of 128 features take some 5 GB, and 1,024 x 16,384
    similarities at a time. What each row's neighbours say of it is exact up to 20,000 rows, and past them
    `tacit.evaluate.approximate_neighbours`; the folds are made of 10,000 rows, drawn where there are more.

    Raises:
        ArgumentError: fewer than two classes, an argument out of its range.

    >>> from sklearn.datasets import load_digits
    >>> x, y = load_digits(return_X_y=True)
    >>> probe = KNNAugmentedClassifier(random_state=0).fit(x[:200], y[:200])
    >>> bool(probe.score(x[200:], y[200:]) > 0.85), bool(0 <= probe.interpolation_ < 1)
    (True, True)
    """

    settings: ClassVar = {"paper": {"hardness": 0.01}, "small": {}}

    def __init__(
        self,
        *,
        head: Any = None,
        n_neighbors: int | str = "cv",
        temperature: float | str = "cv",
        interpolation: float | str = "cv",
        hardness: float = 0.01,
        random_state: Any = None,
    ) -> None:
        self.head = head
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.interpolation = interpolation
        self.hardness = hardness
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> KNNAugmentedClassifier:
        """Neighbours, head and their mixture from features (n, n_features) with labels (n,)."""
        self._check()
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, self._codes = np.unique(y, return_inverse=True)
        found = len(self.classes_)
        expect("y", f"{found} class", found >= 2, "at least two classes", "label items of another class")
        self._mean, self._deviation = _moments(X)
        self._points = self._normalised(X)
        random = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        similarity, voters = _from_the_others(self._points, self._codes, self._most_neighbours(len(X)))
        right = voters == torch.from_numpy(self._codes)[:, None]
        self.n_neighbors_, self.temperature_ = self._choose_neighbours(similarity, right, random)
        self.sample_weight_ = self._weights(similarity, right)
        heads = self._heads()
        best, self.interpolation_ = self._choose_mixture(X, heads, random)
        self.head_ = self._fitted(heads[best], self._standardised(X), self._codes, self.sample_weight_)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of each row, (n,)."""
        winners = self.predict_proba(X).argmax(axis=1)
        return self.classes_[winners]

    def predict_proba(self, X: Any) -> Floats:
        """p: probabilities of the classes, (n, n_classes), in the order of `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=self._points.dtype)
        share, found = self.interpolation_, np.zeros((len(X), len(self.classes_)))
        if share > 0:
            found += share * self._neighbours_say(self._normalised(X), self._points, self._codes)
        if share < 1:
            found += (1 - share) * self.head_.predict_proba(self._standardised(X))
        return found

    def _neighbours_say(self, points: Floats, reference: Floats, codes: Codes) -> Floats:
        """p_kNN of each of the points, (n, n_classes)."""
        k = min(self.n_neighbors_, len(reference))
        similarity, rows = neighbours(points, reference, k, metric="dot")
        votes, voters = _votes(similarity, self.temperature_), torch.from_numpy(codes)[rows]
        return votes.new_zeros(len(points), len(self.classes_)).scatter_add_(1, voters, votes).numpy()

    def _choose_neighbours(
        self, similarity: torch.Tensor, right: torch.Tensor, random: np.random.Generator
    ) -> tuple[int, float]:
        """k and t under which the other rows make each row's label most likely, a tenth of the trust left to chance."""
        rows = np.sort(random.permutation(len(right))[:EXACT])
        similarity, right, best = similarity[rows], right[rows], (-np.inf, 1, 1.0)
        for k in self._asked(self.n_neighbors, NEIGHBOURS):
            for temperature in self._asked(self.temperature, TEMPERATURES):
                own = (_votes(similarity[:, :k], temperature) * right[:, :k]).sum(dim=1)
                likelihood = float((0.9 * own + 0.1 / len(self.classes_)).log().mean())
                best = max(best, (likelihood, min(int(k), similarity.shape[1]), float(temperature)))
        return best[1], best[2]

    def _weights(self, similarity: torch.Tensor, right: torch.Tensor) -> Floats:
        """1 - hardness log p_kNN(y_i | x_i), (n,)."""
        k = self.n_neighbors_
        own = (_votes(similarity[:, :k], self.temperature_) * right[:, :k]).sum(dim=1)
        return 1 - self.hardness * own.log().clamp(min=_FLOOR).double().numpy()

    def _choose_mixture(self, X: Floats, heads: Sequence[Any], random: np.random.Generator) -> tuple[int, float]:
        """Number of the head, and share of the neighbours, under which the labels of held-out rows are likeliest."""
        asked = self.interpolation
        if len(heads) == 1 and asked != "cv":
            return 0, float(asked)
        rows = np.sort(random.permutation(len(X))[:IN_FOLDS])
        by_heads: list[list[Floats]] = [[] for _ in heads]
        by_neighbours = []
        for seen, held_out in _folds(self._codes[rows], random):
            seen, held_out = rows[seen], rows[held_out]
            own, codes = np.arange(len(held_out)), self._codes[seen]
            others = _from_the_others(self._points[seen], codes, min(self.n_neighbors_, len(seen) - 1))
            weights = self._weights(others[0], others[1] == torch.from_numpy(codes)[:, None])
            near = self._neighbours_say(self._points[held_out], self._points[seen], codes)
            by_neighbours.append(near[own, self._codes[held_out]])
            x, new = self._standardised(X[seen]), self._standardised(X[held_out])
            for head, answers in zip(heads, by_heads, strict=True):
                answers.append(self._fitted(head, x, codes, weights).predict_proba(new)[own, self._codes[held_out]])
        if not by_neighbours:
            return len(heads) // 2, 0.5 if asked == "cv" else float(asked)
        tiny = np.finfo(float).tiny
        said = [np.concatenate(answers) for answers in by_heads]
        best = int(np.argmax([np.log(np.maximum(answers, tiny)).mean() for answers in said]))
        shares, voted = self._asked(asked, INTERPOLATIONS), np.concatenate(by_neighbours)
        mixed = [np.log(np.maximum(share * voted + (1 - share) * said[best], tiny)).mean() for share in shares]
        return best, float(shares[int(np.argmax(mixed))])

    def _heads(self) -> list[Any]:
        if self.head is not None:
            return [self.head]
        return [LogisticRegression(C=C, max_iter=300) for C in PENALTIES]

    def _fitted(self, head: Any, x: Floats, codes: Codes, weights: Floats) -> Any:
        words = {"sample_weight": weights} if self.hardness > 0 else {}
        with warnings.catch_warnings():
            # on separable classes a weak penalty still creeps after 300 steps, which moves no prediction
            warnings.simplefilter("ignore", ConvergenceWarning)
            return clone(head).fit(x, codes, **words)

    def _normalised(self, X: Floats) -> Floats:
        centred = X - self._mean.astype(X.dtype)
        norms = np.sqrt(np.einsum("ij,ij->i", centred, centred))
        centred /= np.maximum(norms, np.finfo(X.dtype).tiny)[:, None]
        return centred

    def _standardised(self, X: Floats) -> Floats:
        return (X - self._mean.astype(X.dtype)) / self._deviation.astype(X.dtype)

    def _most_neighbours(self, n: int) -> int:
        return int(min(max(self._asked(self.n_neighbors, NEIGHBOURS)), n - 1))

    @staticmethod
    def _asked(value: Any, choices: Sequence[Any]) -> Sequence[Any]:
        return choices if value == "cv" else (value,)

    def _check(self) -> None:
        k, t, share = self.n_neighbors, self.temperature, self.interpolation
        expect("n_neighbors", k, k == "cv" or (not isinstance(k, str) and k >= 1), "at least 1, or 'cv'")
        expect("temperature", t, t == "cv" or (not isinstance(t, str) and t > 0), "a number above 0, or 'cv'")
        proper = share == "cv" or (not isinstance(share, str) and 0 <= share <= 1)
        expect("interpolation", share, proper, "a share in [0, 1], or 'cv'")
        expect("hardness", self.hardness, self.hardness >= 0, "0 or more")


def _from_the_others(points: Floats, codes: Codes, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine of each point with its k nearest others, and their classes, (n, k) each; none for a single point."""
    if k < 1:
        return torch.zeros(len(points), 1), torch.full((len(points), 1), -1)
    similarity, rows = approximate_neighbours(points, k, metric="cosine", exact_up_to=EXACT)
    return similarity, torch.from_numpy(codes)[rows]


def _votes(similarity: torch.Tensor, temperature: float) -> torch.Tensor:
    """Shares of the vote, (n, k): exp(-d^2 / t), where d^2 = 2 - 2 cos, over its sum."""
    return (2 * similarity / temperature).softmax(dim=1)


def _folds(codes: Codes, random: np.random.Generator) -> Iterator[tuple[Codes, Codes]]:
    """Numbers of the rows to learn from and held out, five times; each class is dealt out, so that none is missing."""
    order = random.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    _, first, size = np.unique(codes[order], return_index=True, return_counts=True)
    fold = np.empty(len(codes), dtype=int)
    fold[order] = np.where(np.repeat(size, size) > 1, (np.arange(len(codes)) - np.repeat(first, size)) % FOLDS, -1)
    for number in range(FOLDS):
        if (fold == number).any():
            yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def _moments(X: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of each feature; 1 for a constant one."""
    mean = X.mean(axis=0, dtype=np.float64)
    deviation = X.std(axis=0, dtype=np.float64)
    constant = deviation <= 10 * np.finfo(X.dtype).eps * np.abs(mean)
    return mean, np.where(constant, 1.0, deviation)


@claim(
    "mixing neighbours into a linear classifier makes it more accurate where labels are few",
    reported="'incorporating k-NN is especially beneficial [...] in low-data regimes' (abstract)",
    proxy="SimCLR's features of CIFAR-10 at 16 pixels (a ResNet-8, some steps), 5 labels a class",
    steps={"small": 300, "full": 20_000},
)
def better_with_few_labels(bench: Bench) -> Comparison:
    """Mean accuracy on unseen images over five draws of the labels, against the same logistic regression alone, C
    chosen in the same folds."""
    images = bench.images("cifar10", size=16)

    def trial_of(trial: Trial) -> list[float]:
        return _mixed_and_alone(trial, 5, *_features(trial, images))

    return bench.trials(trial_of, baseline="the head alone", better_by=0.0)


@claim(
    "mixing neighbours in helps the more, the fewer labels there are",
    reported="'incorporating k-NN is especially beneficial [...] in low-data regimes' (abstract)",
    proxy="SimCLR's features of CIFAR-10 at 16 pixels (a ResNet-8, some steps), 5 to 100 labels a class",
    steps={"small": 300, "full": 20_000},
)
def gain_shrinks_with_labels(bench: Bench) -> Comparison:
    """Gain of accuracy over the head alone at 5 labels a class, minus that at 100."""
    images = bench.images("cifar10", size=16)
    kept: dict[int, Any] = {}

    def gain(trial: Trial, labels: int) -> list[float]:
        if trial.seed not in kept:
            kept.clear()
            kept[trial.seed] = _features(trial, images)
        return _mixed_and_alone(trial, labels, *kept[trial.seed])

    return bench.curve(gain, over=[5, 20, 100], shape="gap_shrinks", baseline="the head alone")


def _features(trial: Trial, images: Any) -> tuple[Part, Unseen, Floats]:
    """SimCLR's features of the seed's training images with their labels, the unseen images, and their features."""
    train, unseen = trial.split(images)
    encoder = trial.pretrained("simclr", train).encoder
    seen = Part({"x": trial.predict(encoder, train.x), "y": train.y}, "points", train.n_classes, trial.seed)
    return seen, unseen, trial.predict(encoder, unseen.x).numpy()


def _mixed_and_alone(trial: Trial, labels: int, seen: Part, unseen: Unseen, new: Floats) -> list[float]:
    """Accuracies with and without neighbours; the latter is the mixture with neither weights nor votes."""
    sides: list[Callable[[], Any]] = [
        lambda: KNNAugmentedClassifier(random_state=trial.seed),
        lambda: KNNAugmentedClassifier(interpolation=0.0, hardness=0.0, random_state=trial.seed),
    ]
    draws = 1 if trial.budget == "smoke" else DRAWS[labels]
    return [unseen.score(_answers(side, labels, seen, new, trial.seed, draws), by=_mean_accuracy) for side in sides]


DRAWS = {5: 5, 20: 3, 100: 1}
"""Of the labels, by how many a class: the fewer, the more their draw matters."""


def _answers(make: Callable[[], Any], labels: int, seen: Part, new: Floats, seed: int, draws: int) -> NDArray[Any]:
    """Classes of the new items after fits to some items a class, (n, draws): one column a draw."""
    x, y, answers = seen.x.numpy(), seen.y.numpy(), []
    for draw in range(draws):
        order = np.random.default_rng((seed, draw)).permutation(len(y))
        few = np.concatenate([order[y[order] == label][:labels] for label in np.unique(y)])
        answers.append(make().fit(x[few], y[few]).predict(new))
    return np.stack(answers, axis=1)


def _mean_accuracy(y: NDArray[Any], answers: NDArray[Any]) -> float:
    return float((answers == y[:, None]).mean())
