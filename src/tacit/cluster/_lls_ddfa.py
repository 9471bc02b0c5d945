"""Unsupervised Learning under Latent Label Shift (Roberts, Mani, Garg & Lipton, 2022)."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment, nnls
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.errors import expect, unknown
from tacit.evaluate import clustering_accuracy
from tacit.learner import Learner
from tacit.nn import mlp

Array = NDArray[Any]
FACTORIZATIONS = ("anchors", "nmf")
BLOCK = 65_536
"""Rows that go through the discriminator at a time."""


@system("lls-ddfa", paper="arXiv:2207.13179", modality=("points", "table", "features"))
class LatentLabelShiftClusterer(ClusterMixin, BaseEstimator):
    """Classes from domains that mix them in different shares: what shifts together belongs together (DDFA).

    Domains d share p(x | y) and differ in p_d(y) alone. With domains weighted alike, q(d) = 1 / r:

        1  discriminate   f(x) = q(d | x), a network trained to tell the domains apart
        2  discretise     k-means of f(x) into cells c;  Q(c | d) from counts
        3  factorise      Q(c | d) = sum_y Q(c | y) Q(y | d)                       (topics: y, words: c, documents: d)
        4  adjust         q(d | x) = sum_y q(d | y) q(y | x), solved for q(y | x) by pseudo-inverse;
                          p_d(y | x) = q(d | y) q(y | x) / sum_y' q(d | y') q(y' | x)

    The classes are identified, up to their order, where there are at least as many domains as classes, the shares are
    linearly independent and each class has a region of its own (an anchor). Similarity of features plays no part.

    `factorization="nmf"` is the official code's, from a random start. `"anchors"` finds the anchor cells by successive
    projection (Araujo et al., 2001; Gillis & Vavasis, 2014): exact where each class has one, which NMF is not (mean L1
    error of p_d(y) 0.02 to 0.13 on such tables), and the better of the two where the domains' shares are nearly
    dependent; without true anchors NMF is mostly the better. Domains of unequal size are allowed: the network learns
    with the log of the domain's share added to its logits, so that its softmax is q(d | x) of equal domains. Negative
    entries of the pseudo-inverse's solution are set to 0; the official code leaves them.

    In a `Pipeline` the domains go to the last step by name: `pipeline.fit(X, clusterer__domains=domains)`.

    Args:
        n_classes: k, how many classes; at least 1.
        n_cells: m, cells of step 2, at least k; fewer where the discriminator's outputs are fewer. The paper takes
            3 cells a class.
        factorization: `"nmf"` or `"anchors"`.
        discriminator: a scikit-learn classifier with `predict_proba` in place of the network.
        hidden_dim: width of the network's two hidden layers.
        max_steps: optimiser steps; the weights with the lowest loss on a held-out tenth (at most 10,000 rows; of
            fewer than 10 rows none is held out) are kept.
        lr: peak learning rate.
        batch_size: rows a step.
        weight_decay: of AdamW.
        device: where the network learns: cpu, cuda...
        random_state: of network, order, k-means and NMF.

    Attributes:
        domains_: (r,), sorted.
        class_priors_: (r, k), p_d(y) for each domain.
        cell_probabilities_: (m, k), Q(c | y).
        labels_: (n,), the class of each row in its domain.
        n_features_in_: d.

    Memory grows with n (d + r): a million rows of 128 float32 features and 10 domains take under 3 GiB.

    Raises:
        ArgumentError: a setting that cannot be, a domain that was not there in fit.
        ValueError: what scikit-learn refuses: NaN, one sample, another number of features...

    >>> rng = np.random.default_rng(0)
    >>> shares = np.array([[0.9, 0.1], [0.1, 0.9]])                       # p_d(y)
    >>> domains = rng.integers(2, size=600)
    >>> y = (rng.random(600) < shares[domains, 1]).astype(int)
    >>> places = np.where(rng.random(600) < 0.5, y, y + 2)              # a class is in two places: 0 and 2, or 1 and 3
    >>> X = 10 * np.eye(4)[places] + rng.normal(size=(600, 4))
    >>> model = LatentLabelShiftClusterer(n_classes=2, n_cells=4, max_steps=60, random_state=0)
    >>> labels = model.fit_predict(X, domains=domains)
    >>> from tacit.evaluate import clustering_accuracy
    >>> float(clustering_accuracy(y, labels)) > 0.85  # the domain and the place leave doubt in some rows
    True
    """

    settings: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"n_cells": 30, "factorization": "nmf", "lr": 1e-3, "batch_size": 32},
        "small": {"n_cells": 30, "hidden_dim": 256, "lr": 1e-3, "batch_size": 256},
    }
    expected_failed_checks: ClassVar[dict[str, str]] = {
        "check_clustering": "it is given no domains, and without them there is no evidence of classes to find",
    }

    def __init__(
        self,
        *,
        n_classes: int = 10,
        n_cells: int = 30,
        factorization: str = "nmf",
        discriminator: Any = None,
        hidden_dim: int = 256,
        max_steps: int = 1000,
        lr: float = 1e-3,
        batch_size: int = 256,
        weight_decay: float = 0.01,
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        self.n_classes = n_classes
        self.n_cells = n_cells
        self.factorization = factorization
        self.discriminator = discriminator
        self.hidden_dim = hidden_dim
        self.max_steps = max_steps
        self.lr = lr
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None, *, domains: ArrayLike | None = None) -> LatentLabelShiftClusterer:
        """Learn from rows X (n, d), each of a domain; y is ignored.

        Args:
            domains: (n,), numbers or names. With fewer domains than classes, or None (all rows are of one), the
                classes are not identified: a warning says so, and some may stay empty.
        """
        expect("n_classes", self.n_classes, self.n_classes >= 1, "a whole number of at least 1")
        enough = self.n_cells >= self.n_classes
        expect("n_cells", self.n_cells, enough, f"at least n_classes={self.n_classes}", "the paper takes 3 a class")
        if self.factorization not in FACTORIZATIONS:
            raise unknown("factorization", self.factorization, FACTORIZATIONS)
        rows: Array = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        d = self._encode_domains(rows, domains)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))

        self._discriminate(rows, d, seed)
        outputs = self._domain_probabilities(rows)
        cells = KMeans(self._count_cells(outputs), n_init=5, random_state=seed).fit_predict(outputs)
        if self.factorization == "anchors":  # means of the outputs: single rows decide, and counts are noisier
            weights = (1 / self.domain_shares_)[d, None]
            found = factorize_by_anchors(_cell_table(cells, outputs * weights), self.n_classes)
        else:
            found = factorize_by_nmf(_cell_table(cells, np.eye(len(self.domains_))[d]), self.n_classes, seed)
        self.cell_probabilities_, self.class_priors_ = found[0], found[1].T
        self.labels_ = self._posterior(outputs, d).argmax(axis=1)
        return self

    def predict_proba(self, X: ArrayLike, *, domains: ArrayLike | None = None) -> Array:
        """p_d(y | x), (n, k), for rows of the named domains; without domains q(y | x), of all domains mixed alike."""
        check_is_fitted(self)
        rows: Array = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        d = None if domains is None else self._find_domains(rows, domains)
        return self._posterior(self._domain_probabilities(rows), d)

    def predict(self, X: ArrayLike, *, domains: ArrayLike | None = None) -> Array:
        """The most probable class, (n,) in 0...k - 1; the order of the classes means nothing."""
        return self.predict_proba(X, domains=domains).argmax(axis=1)

    def _encode_domains(self, X: Array, domains: ArrayLike | None) -> Array:
        given = np.zeros(len(X), int) if domains is None else column_or_1d(domains)
        check_consistent_length(X, given)
        self.domains_, d = np.unique(given, return_inverse=True)
        if len(self.domains_) < self.n_classes:
            told = "pass fit(X, domains=...)" if domains is None else "take more domains, or fewer classes"
            warnings.warn(
                f"domains: {len(self.domains_)} for n_classes={self.n_classes}: classes are identified only where "
                f"there are at least as many domains; {told}",
                stacklevel=3,
            )
        return d

    def _find_domains(self, X: Array, domains: ArrayLike) -> Array:
        given = column_or_1d(domains)
        check_consistent_length(X, given)
        strange = [domain for domain in np.unique(given) if domain not in self.domains_]
        expect("domains", strange, not strange, f"those of fit: {self.domains_.tolist()}", "or leave domains out")
        return np.searchsorted(self.domains_, given)

    def _discriminate(self, X: Array, d: Array, seed: int) -> None:
        """Step 1. The classifier's probabilities are divided by `domain_shares_` where it does not do so itself."""
        r = len(self.domains_)
        self.domain_shares_ = np.bincount(d, minlength=r) / len(d)
        if r == 1:
            self.discriminator_ = None
        elif self.discriminator is not None:
            self.discriminator_ = clone(self.discriminator).fit(X, d)
        else:
            self.scaler_ = StandardScaler().fit(X)
            rows = torch.from_numpy(self.scaler_.transform(X).astype(np.float32, copy=False))
            self.discriminator_ = self._train(rows, torch.from_numpy(d), seed)

    def _train(self, rows: Tensor, d: Tensor, seed: int) -> torch.nn.Module:
        from tacit.training import fit

        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        count = min(math.ceil(len(rows) / 10), 10_000)
        held, kept = (order[:count], order[count:]) if len(rows) >= 10 else (order, order)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = mlp(rows.shape[1], self.hidden_dim, len(self.domains_), num_layers=3)
        log_shares = torch.from_numpy(self.domain_shares_).float().log()
        learner = _Discriminator(network, log_shares, rows[held], d[held])
        size = min(self.batch_size, len(kept))
        fit(learner, {"x": rows[kept], "domain": d[kept]}, max_steps=self.max_steps, batch_size=size, lr=self.lr,
            weight_decay=self.weight_decay, accelerator=self.device.split(":")[0], seed=seed)  # fmt: skip
        network.load_state_dict(learner.best)
        return network.cpu().eval()

    def _domain_probabilities(self, X: Array) -> Array:
        """q(d | x) with all domains alike, (n, r)."""
        if self.discriminator_ is None:
            return np.ones((len(X), 1))
        if self.discriminator is not None:
            weighted = self.discriminator_.predict_proba(X) / self.domain_shares_
            return weighted / weighted.sum(axis=1, keepdims=True)
        blocks = (X[start : start + BLOCK] for start in range(0, len(X), BLOCK))
        scaled = (torch.from_numpy(self.scaler_.transform(block).astype(np.float32, copy=False)) for block in blocks)
        with torch.no_grad():
            return np.concatenate([self.discriminator_(rows).softmax(1).numpy() for rows in scaled])

    def _count_cells(self, outputs: Array) -> int:
        some = np.unique(outputs[:10_000].round(6), axis=0)
        return min(self.n_cells, len(some))

    def _posterior(self, outputs: Array, d: Array | None) -> Array:
        """Step 4: (n, k)."""
        mass = self.class_priors_.sum(axis=0)
        of_class = self.class_priors_ / np.where(mass == 0, 1, mass)  # q(d | y), (r, k)
        found = np.clip(outputs @ np.linalg.pinv(of_class).T, 0, None)
        prior = np.full_like(found, mass / mass.sum())
        if d is not None:
            found, prior = found * of_class[d], self.class_priors_[d]
        total = found.sum(axis=1, keepdims=True)
        return np.where(total > 0, found / np.where(total > 0, total, 1), prior)


class _Discriminator(Learner):
    """Tells domains apart; of the weights at 20 looks those with the lowest loss on held-out rows are kept.

    loss = cross-entropy of f(x) + log(share of d) against d, so that softmax f is q(d | x) of domains of equal size.
    """

    LOOKS = 20
    log_shares: Tensor
    rows: Tensor
    domains: Tensor

    def __init__(self, network: torch.nn.Module, log_shares: Tensor, rows: Tensor, domains: Tensor) -> None:
        super().__init__()
        self.network = network
        for name, value in {"log_shares": log_shares, "rows": rows, "domains": domains}.items():
            self.register_buffer(name, value)
        self.looks, self.lowest = 0, math.inf

    def loss(self, x: Tensor, domain: Tensor) -> Tensor:  # type: ignore[override]
        return F.cross_entropy(self.network(x) + self.log_shares, domain)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        if int(progress * self.LOOKS) == self.looks and self.looks:
            return
        self.looks = max(int(progress * self.LOOKS), 1)
        self.network.eval()
        loss = self.loss(self.rows, self.domains).item()
        self.network.train()
        if loss < self.lowest:
            self.lowest, self.best = loss, copy.deepcopy(self.network.state_dict())


def _cell_table(cells: Array, of_domain: Array) -> Array:
    """Q(c | d), (m, r), from the cells of rows and what each row counts for each domain, (n, r)."""
    table = np.zeros((cells.max() + 1, of_domain.shape[1]))
    np.add.at(table, cells, of_domain)
    return table / table.sum(axis=0)


def factorize_by_anchors(table: Array, n_classes: int) -> tuple[Array, Array]:
    """Q(c | d) (m, r) -> Q(c | y) (m, k) and Q(y | d) (k, r), by successive projection.

    A cell's row divided by its sum is Q(d | c), a mixture of the k rows Q(d | y) with weights Q(y | c); an anchor's row
    is one of them. Rows furthest from the span of those chosen before are the anchors. Least squares with non-negative
    weights gives Q(y | c), so that Q(c | y) ~ Q(y | c) Q(c), and then Q(y | d). Fewer than k independent rows leave
    classes empty.
    """
    filled = table[table.sum(axis=1) > 0]
    rows = filled / filled.sum(axis=1, keepdims=True)
    rest, anchors = rows.copy(), []
    for _ in range(n_classes):
        norms = np.square(rest).sum(axis=1)
        if norms.max() < 1e-12:
            break
        anchors.append(rows[norms.argmax()])
        direction = rest[norms.argmax()] / np.sqrt(norms.max())
        rest = rest - np.outer(rest @ direction, direction)
    of_class = np.array(anchors)
    class_of_cell = _shares([nnls(of_class.T, row)[0] for row in rows])  # Q(y | c), (m, k)
    cells = np.zeros((len(table), n_classes))
    cells[table.sum(axis=1) > 0, : len(anchors)] = class_of_cell * filled.sum(axis=1, keepdims=True)
    cells /= np.maximum(cells.sum(axis=0), 1e-12)
    return cells, _shares([nnls(cells, column)[0] for column in table.T]).T


def factorize_by_nmf(table: Array, n_classes: int, seed: int) -> tuple[Array, Array]:
    """The same by non-negative matrix factorisation (Frobenius norm, random start), as the official code."""
    model = NMF(n_classes, init="random", random_state=seed, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = model.fit_transform(table.T).T
    scale = model.components_.sum(axis=1, keepdims=True)
    return (model.components_ / np.maximum(scale, 1e-12)).T, _shares((weights * scale).T).T


def _shares(rows: Any) -> Array:
    """Rows divided by their sums; one without mass becomes even shares."""
    rows = np.asarray(rows, float)
    total = rows.sum(axis=1, keepdims=True)
    return np.where(total > 0, rows / np.where(total > 0, total, 1), 1 / rows.shape[1])


def _shift(trial: Trial, y: Array, shares: Array) -> Array:
    """A domain for each item: d with probability p_d(y) / sum_d' p_d'(y), so that d and x are independent given y."""
    bounds = (shares / shares.sum(axis=0)).cumsum(axis=0).T[y]  # (n, r)
    return (trial.rng.random((len(y), 1)) > bounds[:, :-1]).sum(axis=1)


def _against_kmeans(trial: Trial, data: Any, classes: Array, shares: Array) -> tuple[float, float]:
    """Accuracy on unseen items, whose domains neither side is told; `classes` maps labels to the classes sought."""
    train, unseen = trial.split(data)
    X, new = (StandardScaler().fit(_flat(train.x)).transform(_flat(part.x)) for part in (train, unseen))
    y, k = classes[np.asarray(train.y)], int(classes.max()) + 1

    def accuracy(answers: Array) -> float:
        return unseen.score(answers, by=lambda y, answers: float(clustering_accuracy(classes[y], answers)))

    settings: dict[str, Any] = {
        **LatentLabelShiftClusterer.settings["small"],
        "max_steps": trial.steps,
        "device": trial.device,
    }
    model = LatentLabelShiftClusterer(n_classes=k, random_state=trial.seed, **settings)
    ours = accuracy(model.fit(X, domains=_shift(trial, y, shares)).predict(new))
    return ours, accuracy(KMeans(k, n_init=5, random_state=trial.seed).fit(X).predict(new))


def _flat(images: Tensor) -> Array:
    return images.flatten(1).float().numpy()


@claim(
    "what shifts together groups together, where similarity does not show the true groups",
    reported="better than unsupervised classification where it fails: species seen as butterfly and caterpillar",
    proxy="classes made of two kinds of garment paired at random, perceptrons and k-means in place of ResNets and SCAN",
    steps={"small": 500, "full": 5000},
)
def shifts_reveal_dissimilar_groups(bench: Bench) -> Comparison:
    """Accuracy up to the order of the classes on unseen images whose domain is not told, against k-means.

    Fashion-MNIST; each of 5 classes merges two labels paired by the seed; 10 domains, shares drawn from Dirichlet(0.5).
    """
    images = bench.images("fashion_mnist", n=10_000, n_test=5_000)

    def sides(trial: Trial) -> tuple[float, float]:
        classes = trial.rng.permutation(10) // 2
        return _against_kmeans(trial, images, classes, trial.rng.dirichlet(np.full(5, 0.5), size=10))

    return bench.trials(sides, baseline="k-means of the pixels", better_by=0.0)


@claim(
    "domains alone also find classes that are similar in themselves, better than clustering does",
    reported="better than SCAN on CIFAR-10 for most domains and shares (section 6)",
    proxy="Fashion-MNIST, perceptrons and k-means in place of CIFAR-10, ResNets and SCAN; domains not told at test",
    steps={"small": 500, "full": 5000},
)
def shifts_reveal_classes(bench: Bench) -> Comparison:
    """Accuracy up to the order of the classes on unseen images whose domain is not told, against k-means.

    10 classes, 20 domains, shares from Dirichlet(3 / 10) as in the paper's middle setting, drawn again until their
    condition number is at most 8.
    """
    images = bench.images("fashion_mnist", n=10_000, n_test=5_000)

    def sides(trial: Trial) -> tuple[float, float]:
        shares = trial.rng.dirichlet(np.full(10, 0.3), size=20)
        while np.linalg.cond(shares) > 8:
            shares = trial.rng.dirichlet(np.full(10, 0.3), size=20)
        return _against_kmeans(trial, images, np.arange(10), shares)

    return bench.trials(sides, baseline="k-means of the pixels", better_by=0.0)


@claim(
    "q(d | x) identifies p_d(y) and p_d(y | x), up to the order of classes, where each class has an anchor",
    reported="Theorem 1 (continuous inputs, oracle access to the discriminator)",
)
def anchors_identify_the_classes(bench: Bench) -> Comparison:
    """5 classes, 8 domains, 40 cells of which each class owns one; from exact q(d | c), by successive projection."""

    def recovered(trial: Trial) -> tuple[Array, Array]:
        shares = trial.rng.dirichlet(np.ones(5), size=8).T  # Q(y | d), (5, 8)
        cells = trial.rng.dirichlet(np.full(40, 0.3), size=5).T
        cells[:5] = np.diag(0.1 + trial.rng.random(5))
        cells /= cells.sum(axis=0)
        table = cells @ shares
        model = LatentLabelShiftClusterer(n_classes=5)
        _, found = factorize_by_anchors(table, 5)
        order = linear_sum_assignment(np.abs(shares[:, None] - found).sum(axis=2))[1]
        model.class_priors_, c, d = found[order].T, np.repeat(np.arange(40), 8), np.tile(np.arange(8), 40)
        of_domain = table / table.sum(axis=1, keepdims=True)
        truth = cells[c] * shares.T[d]
        posterior = model._posterior(of_domain[c], d)
        return np.append(found[order], posterior), np.append(shares, truth / truth.sum(axis=1, keepdims=True))

    return bench.equal(recovered, tolerance=1e-6, setting="tables of 40 cells and 8 domains, drawn by the seed")
