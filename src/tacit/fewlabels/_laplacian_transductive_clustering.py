"""Transductive Few-Shot Learning: Clustering is All You Need? (Ziko et al., 2021)."""

from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.validation import check_is_fitted, validate_data

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.errors import expect, unknown
from tacit.evaluate import approximate_neighbours, episodic_accuracy
from tacit.fewlabels._transduction import divided_by_class, labelled_and_not, turned, unseen_characters

PROTOTYPES = ("kmeans", "fixed")


@system("laplacian-transductive-clustering", paper="arXiv:2106.09516", modality="features")
class TransductiveClustering(ClassifierMixin, BaseEstimator):
    """Clusters the rows without label, from the labelled ones' means on; neighbours pull each other.

        E(s, m) = sum_p s_p . a_p + (w/4) sum_pq w_pq ||s_p - s_q||^2,   a_pk = ||x_p - m_k||^2,   s_p one-hot

    The labelled rows' s_p is their label. Assignments and prototypes take turns until no assignment changes:

        s_p <- softmax( -a_p + w sum_q w_pq s_q ), all p at once, until it rests; then the largest
        m_k <- mean of the rows of cluster k, labelled ones among them

    The softmax minimises the linear upper bound of the relaxation R = sum_p s_p . a_p - (w/2) sum_pq w_pq s_p . s_q +
    sum_p s_p . log s_p, so R falls wherever the affinities (w_pq) are positive semi-definite. Where they are not and a
    step would raise R, it is repeated with a Kullback-Leibler term of the largest degree's weight, which bounds what is
    missing (by Pinsker's inequality): R falls always. New assignments that raise E are not taken, so E falls, too.

    `laplacian_weight=0` is k-means from the labelled rows' means with these rows held fixed; with `prototypes="fixed"`
    it is the nearest mean. Affinities are 1 for each of the `n_neighbors` nearest other rows, made symmetric as
    (A + A^T) / 2, which is all that the sum above sees; LaplacianShot's released code uses A itself, counts the row as
    its own neighbour (its 3 are 2), connects unlabelled rows only, and weighs pairs twice as much in the energy.

    The weight is measured against squared distances: centre the features and scale them to length 1 first, for which
    the default is meant: `make_pipeline(StandardScaler(with_std=False), Normalizer(), TransductiveClustering())`.
    Needs memory for six arrays (n, classes) and the neighbours; these are exact up to 20,000 rows and by inverted lists
    above. Means of classes without unlabelled rows stay those of their labelled rows.

    Args:
        laplacian_weight: w, at least 0; chosen on base classes in the paper.
        n_neighbors: other rows that a row is connected to; all of them where there are fewer.
        prototypes: `"kmeans"`, or `"fixed"`: the labelled rows' means, as in LaplacianShot (Ziko et al., 2020).
        max_iter: rounds of assignments and prototypes.
        max_bound_iter: bound updates in a round.
        tol: relative change of R at which they rest.

    Attributes:
        classes_: (k,) in ascending order.
        transduction_: (n,) the class of each row given to `fit`.
        label_distributions_: (n, k) its last s_p before rounding.
        prototypes_: (k, d). `predict` gives new rows the class of the nearest, without neighbours.
        objective_: (rounds,) E after each assignment; it never rises.
        bound_: R after each bound update, a list for each round; none rises.
        n_iter_: rounds.

    >>> X = np.array([[0.0], [0.2], [0.4], [1.1], [1.2], [1.3]])
    >>> model = TransductiveClustering(n_neighbors=1).fit(X, [0, -1, -1, -1, -1, 1])
    >>> model.transduction_, model.prototypes_.ravel().round(2)
    (array([0, 0, 0, 1, 1, 1]), array([0.2, 1.2]))
    """

    expected_failed_checks: ClassVar[dict[str, str]] = {
        "check_classifiers_classes": "it has a class -1, which here marks a row without label"
    }
    settings: ClassVar = {
        "paper": {"n_neighbors": 3},  # weight chosen on validation classes
        "small": {"laplacian_weight": 0.8, "n_neighbors": 3},
    }

    def __init__(
        self,
        *,
        laplacian_weight: float = 0.8,
        n_neighbors: int = 3,
        prototypes: str = "kmeans",
        max_iter: int = 20,
        max_bound_iter: int = 20,
        tol: float = 1e-6,
    ) -> None:
        self.laplacian_weight = laplacian_weight
        self.n_neighbors = n_neighbors
        self.prototypes = prototypes
        self.max_iter = max_iter
        self.max_bound_iter = max_bound_iter
        self.tol = tol

    def fit(self, X: Any, y: Any) -> Self:
        """Cluster.

        Args:
            X: (n, d).
            y: (n,) labels, -1 where there is none; names where all rows have one.
        """
        self._check()
        X, numbers, self.classes_ = labelled_and_not(self, X, y)
        k, free = len(self.classes_), numbers < 0
        given = np.eye(k, dtype=X.dtype)[numbers] * ~free[:, None]
        affinity = self._affinity(X) if self.laplacian_weight > 0 and free.any() else None
        self.prototypes_ = _means(X, numbers, k)
        self.objective_, self.bound_, labels = [], [], None
        for _ in range(self.max_iter):
            distances = _squared_distances(X, self.prototypes_)
            s, bound = self._assign(distances, given, free, affinity)
            proposed = np.where(free, s.argmax(axis=1), numbers)
            energy = self._energy(proposed, distances, affinity)
            if labels is not None and energy > self._energy(labels, distances, affinity):
                proposed, energy = labels, self._energy(labels, distances, affinity)
            settled = labels is not None and np.array_equal(proposed, labels)
            labels, self.label_distributions_ = proposed, s
            self.objective_.append(energy)
            self.bound_.append(bound)
            if settled or self.prototypes == "fixed":
                break
            self.prototypes_ = _means(X, labels, k)
        self.n_iter_ = len(self.objective_)
        self.transduction_ = self.classes_[labels]
        return self

    def fit_predict(self, X: Any, y: Any) -> np.ndarray:
        """The class of each row, as `transduction_`."""
        return self.fit(X, y).transduction_

    def predict(self, X: Any) -> np.ndarray:
        """The class of the nearest prototype."""
        nearest = self.predict_proba(X).argmax(axis=1)
        return self.classes_[nearest]

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, k) softmax of minus the squared distances to the prototypes."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        return softmax(-_squared_distances(X, self.prototypes_), axis=1)

    def _assign(
        self, distances: np.ndarray, given: np.ndarray, free: np.ndarray, affinity: sparse.csr_array | None
    ) -> tuple[np.ndarray, list[float]]:
        """Bound updates from softmax(-a) on; labelled rows keep what is given."""
        s = given.copy()
        s[free] = softmax(-distances[free], axis=1)
        if affinity is None:
            return s, []
        pull = affinity[free] * self.laplacian_weight
        most = float(self.laplacian_weight * affinity.sum(axis=1).max())
        values = [self._relaxation(s, distances, free, affinity)]
        for _ in range(self.max_bound_iter):
            drive, old = pull @ s - distances[free], s[free]
            s[free] = softmax(drive, axis=1)
            value = self._relaxation(s, distances, free, affinity)
            if value > values[-1]:
                s[free] = softmax((drive + most * np.log(np.maximum(old, 1e-30))) / (1 + most), axis=1)
                value = self._relaxation(s, distances, free, affinity)
            values.append(value)
            if values[-2] - value <= self.tol * abs(value):
                break
        return s, values

    def _relaxation(self, s: np.ndarray, distances: np.ndarray, free: np.ndarray, affinity: sparse.csr_array) -> float:
        """R of the rows as they are: (n, k) -> number."""
        entropy = (s[free] * np.log(np.maximum(s[free], 1e-30))).sum(dtype=np.float64)
        pairs = (s * (affinity @ s)).sum(dtype=np.float64)
        return float((s * distances).sum(dtype=np.float64) - self.laplacian_weight / 2 * pairs + entropy)

    def _energy(self, labels: np.ndarray, distances: np.ndarray, affinity: sparse.csr_array | None) -> float:
        """E of hard assignments, in which ||s_p - s_q||^2 is 2 where labels differ."""
        own = distances[np.arange(len(labels)), labels].sum(dtype=np.float64)
        if affinity is None:
            return float(own)
        pairs = affinity.tocoo()
        cut = pairs.data[labels[pairs.row] != labels[pairs.col]].sum(dtype=np.float64)
        return float(own + self.laplacian_weight / 2 * cut)

    def _affinity(self, X: np.ndarray) -> sparse.csr_array:
        """(n, n), symmetric."""
        n, k = len(X), min(self.n_neighbors, len(X) - 1)
        if k == 0:
            return sparse.csr_array((n, n), dtype=X.dtype)
        columns = approximate_neighbours(torch.from_numpy(X), k, metric="euclidean")[1].numpy()
        ones = np.ones(columns.size, dtype=X.dtype)
        found = sparse.csr_array((ones, (np.repeat(np.arange(n), k), columns.ravel())), shape=(n, n))
        return ((found + found.T) / 2).tocsr()

    def _check(self) -> None:
        weight = self.laplacian_weight
        expect("laplacian_weight", weight, 0 <= weight < np.inf, "a number from 0 on", "0 is k-means")
        expect("n_neighbors", self.n_neighbors, self.n_neighbors >= 1, "at least 1")
        expect("max_iter", self.max_iter, self.max_iter >= 1, "at least 1")
        expect("max_bound_iter", self.max_bound_iter, self.max_bound_iter >= 1, "at least 1")
        expect("tol", self.tol, self.tol >= 0, "a number from 0 on")
        if self.prototypes not in PROTOTYPES:
            raise unknown("prototypes", self.prototypes, PROTOTYPES)


def _means(X: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Mean of the rows of each label, (k, d); rows with -1 count for none."""
    rows = np.flatnonzero(labels >= 0)
    member = sparse.csr_array((np.ones(len(rows), X.dtype), (labels[rows], rows)), shape=(k, len(X)))
    return (member @ X) / np.bincount(labels[rows], minlength=k)[:, None].astype(X.dtype)


def _squared_distances(X: np.ndarray, m: np.ndarray) -> np.ndarray:
    """(n, d), (k, d) -> (n, k), from centred rows, which lose fewer digits."""
    centre = m.mean(axis=0)
    X, m = X - centre, m - centre
    return np.maximum((X**2).sum(axis=1)[:, None] - 2 * X @ m.T + (m**2).sum(axis=1), 0)


@claim(
    "clustering on features of a plain classifier beats meta-learning by episodes",
    reported="Laplacian clustering 73.4 % against MatchingNet's 64.0 %: mini-ImageNet, WRN, 5-way, 1-shot (Ziko, 2020)",
    proxy="5 alphabets of Omniglot to learn from and 2 to test on in place of mini-ImageNet; ResNet-8, short training",
    steps={"small": 200, "full": 5_000},
)
def beats_meta_learning(bench: Bench) -> Comparison:
    """5-way, 1 shot, 15 queries a class, 600 episodes of unseen alphabets, against matching networks.

    Both sides train the same network on the same characters, seeing as many images; a quarter of the training
    characters is held out to choose the Laplacian's weight by (0 to 1.6, six values). Queries are balanced, which
    favours clustering.
    """
    characters = bench.images("omniglot", n=3140)
    shape = bench.pick(smoke={"n_way": 2, "n_queries": 1}, small={"n_queries": 15})
    n_way, n_episodes = bench.pick(smoke=2, small=20), bench.pick(smoke=5, small=600)

    def accuracies(trial: Trial) -> tuple[float, float]:
        held_out, unseen = unseen_characters(trial, characters)

        def score(weight: float, part: tuple[np.ndarray, np.ndarray], n_episodes: int) -> float:
            model = TransductiveClustering(laplacian_weight=weight)
            return episodic_accuracy(model, *part, **shape, n_episodes=n_episodes, transductive=True).value

        weight = max((0.0, 0.1, 0.2, 0.4, 0.8, 1.6), key=lambda w: score(w, held_out, n_episodes // 3))
        clustering = score(weight, unseen, n_episodes)

        train, scored = trial.split(characters)
        base, _ = divided_by_class(train, 0.75)
        networks = trial.pretrained("matching-networks", turned(base), n_way=n_way, batch_size=120)
        part = scored.reveal()
        features = trial.predict(networks.encoder, part.x).numpy()
        nearest = KNeighborsClassifier(1, metric="cosine")  # of one shot a class, what the networks' attention chooses
        return clustering, episodic_accuracy(nearest, features, part.y, **shape, n_episodes=n_episodes).value

    return bench.trials(accuracies, baseline="matching networks, trained on episodes", better_by=0.0)


@claim(
    "k-means from the labelled rows' means beats these means themselves",
    reported="k-means, without regularisation, is competitive with the state of the art in few-shot learning",
    proxy="5 alphabets of Omniglot to learn from and 2 to test on in place of mini-ImageNet; ResNet-8, short training",
    steps={"small": 200, "full": 5_000},
)
def kmeans_beats_prototypes(bench: Bench) -> Comparison:
    """5-way, 1 shot, 15 queries a class, 600 episodes of unseen alphabets; same features and episodes on both sides."""
    characters = bench.images("omniglot", n=3140)
    smoke = {"n_way": 2, "n_queries": 1, "n_episodes": 5}
    shape = bench.pick(smoke=smoke, small={"n_queries": 15, "n_episodes": 600})

    def accuracies(trial: Trial) -> list[float]:
        _, unseen = unseen_characters(trial, characters)
        sides = [TransductiveClustering(laplacian_weight=0, prototypes=prototypes) for prototypes in PROTOTYPES]
        return [episodic_accuracy(side, *unseen, **shape, transductive=True).value for side in sides]

    return bench.trials(accuracies, baseline="nearest mean of the labelled rows", better_by=0.0)


@claim(
    "neither the relaxation nor the clustering objective ever rises",
    reported="block-coordinate bound optimisation with a convergence guarantee (abstract)",
)
def monotone(bench: Bench) -> Comparison:
    """Digits with one label a class, weights from 0.1 to 100, k-nearest-neighbour affinities as they come."""
    digits = bench.images("digits")

    def rises(trial: Trial) -> tuple[np.ndarray, np.ndarray]:
        train, _ = trial.split(digits)
        X = F.normalize(train.x.flatten(1).double(), dim=1).numpy()
        y = np.full(len(X), -1)
        first = np.unique(train.y.numpy(), return_index=True)[1]
        y[first] = train.y.numpy()[first]
        runs = []
        for weight in (0.1, 1.0, 10.0, 100.0):
            model = TransductiveClustering(laplacian_weight=weight, max_bound_iter=100).fit(X, y)
            runs += [np.asarray(values) for values in (model.objective_, *model.bound_)]
        steps = [(np.diff(run) / np.abs(run).max()) for run in runs if len(run) > 1]
        return np.concatenate(steps), np.zeros(sum(map(len, steps)))

    return bench.bound(rises, tolerance=1e-12)
