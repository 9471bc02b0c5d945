"""Which probe suits a few labels: cross-validation over several, calibrated, with an accuracy that pays for the choice.

All candidates are cross-validated in the same folds; the one with the likeliest labels wins. Its own accuracy there is
too good, since it was chosen for what it got right. So the choice is repeated on bootstrap samples of the labelled
items, and scored on the items left out of the sample, without a further fit: bootstrap bias corrected cross-validation
(Tsamardinos, Greasidou & Borboudakis, "Bootstrapping the out-of-sample predictions", 2018, arXiv:1708.07180).
Probabilities are softened by one temperature (Guo et al., "On calibration of modern neural networks", 2017), which
each fold takes from the other folds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.evaluate import Estimate, wilson

Floats = NDArray[np.floating[Any]]

FOLDS = 5
LABELLED = 5_000
"""Labelled items that the choice is made on, drawn where there are more; the winner is fitted to all."""
TRANSDUCTIVE = 10_000
"""Items up to which the transductive probes compete; they look at all of them in every fold."""
COMPONENTS = 128
"""Principal components that the transductive probes see, scaled to length 1."""
BOOTSTRAPS = 1000
BLOCK = 65_536
LEAST = 1e-8
"""Probability that a probe gives a class at least, so that one mistake does not cost infinitely much."""


@dataclass(frozen=True)
class Candidate:
    """A probe with one setting."""

    probe: str
    setting: str
    make: Callable[[], Any]
    transductive: bool = False

    def __str__(self) -> str:
        return f"{self.probe} ({self.setting})"


@dataclass(frozen=True)
class Choice:
    """The probe that was chosen, and what is known of it.

    Attributes:
        candidate: the winner.
        accuracy: corrected for the choice, with a 95 % interval.
        commonest: share of the commonest class among the labelled, what always guessing it gets right.
        temperature: that its log-probabilities are divided by.
        calibration_error, before: expected calibration error on folds not fitted to, with the temperature and without.
        calibrated_error: what the first would be on as many items if the probabilities were exactly right.
        table: for each probe, best first: its best setting, accuracy and mean log-likelihood, before any correction.
        n_candidates: probes times settings.
        n_folds: of the cross-validation.
    """

    candidate: Candidate
    accuracy: Estimate
    commonest: float
    temperature: float
    calibration_error: float
    before: float
    calibrated_error: float
    table: list[dict[str, Any]]
    n_candidates: int
    n_folds: int


class Space:
    """Rows as the probes see them: as they are, or reduced and scaled for the transductive ones."""

    def __init__(self, vectors: Floats) -> None:
        self.vectors = vectors
        self._reduced: Floats | None = None

    @property
    def reduced(self) -> Floats:
        if self._reduced is None:
            from sklearn.decomposition import PCA

            x = PCA(min(COMPONENTS, *self.vectors.shape), random_state=0).fit_transform(self.vectors)
            self._reduced = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return self._reduced

    def probabilities(self, candidate: Candidate, known: NDArray[np.intp], y: NDArray[np.intp]) -> Told:
        """Fit to the rows `known` with class numbers `y`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a weak penalty on separable classes creeps, which moves no prediction
            if not candidate.transductive:
                return Told(self.vectors, candidate.make().fit(self.vectors[known], y), None)
            codes = np.full(len(self.vectors), -1)
            codes[known] = y
            return Told(self.reduced, None, candidate.make().fit(self.reduced, codes).label_distributions_)


@dataclass(frozen=True)
class Told:
    """A fitted probe: the probabilities of any rows."""

    x: Floats
    probe: Any
    distributions: Floats | None

    def of(self, rows: NDArray[np.intp]) -> Floats:
        if self.distributions is not None:
            return self.distributions[rows]
        return self.probe.predict_proba(self.x[rows])

    def blocks(self, temperature: float) -> Iterator[tuple[NDArray[np.intp], Floats]]:
        """Rows and their softened probabilities, so that a million rows fit in memory."""
        for start in range(0, len(self.x), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(self.x)))
            yield rows, softened(self.of(rows), temperature)


def candidates(n_rows: int, seed: int) -> list[Candidate]:
    """Five settings of each probe; the transductive ones where there are at most `TRANSDUCTIVE` rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from tacit.fewlabels import UNEM, KNNAugmentedClassifier, NaiveBayesProbe, TransductiveClustering

    def logistic(C: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=300))

    def mixed(share: float) -> Any:
        head = LogisticRegression(C=0.01, max_iter=300)
        return KNNAugmentedClassifier(head=head, interpolation=share, random_state=seed)

    def bayes(smoothing: float) -> Any:
        return NaiveBayesProbe(var_smoothing=smoothing)

    def clustering(weight: float) -> Any:
        return TransductiveClustering(laplacian_weight=weight)

    families: list[tuple[str, str, Callable[[float], Any], Sequence[float], bool]] = [
        ("logistic regression", "C", logistic, (1e-4, 1e-3, 1e-2, 1e-1, 1.0), False),
        ("naive Bayes", "var_smoothing", bayes, (1e-3, 0.1, 1.0, 10.0, 100.0), False),
        ("k-NN interpolation", "interpolation", mixed, (0.1, 0.3, 0.5, 0.7, 0.9), False),
    ]  # fmt: skip
    if n_rows <= TRANSDUCTIVE:
        weights, scales = (0.0, 0.2, 0.4, 0.8, 1.6), (1.0, 2.0, 4.0, 8.0, 16.0)
        families += [
            ("transductive clustering", "laplacian_weight", clustering, weights, True),
            ("UNEM", "scale", lambda s: UNEM(scale=s), scales, True),
        ]  # fmt: skip
    return [
        Candidate(name, f"{argument} {value:g}", partial(make, value), transductive)
        for name, argument, make, values, transductive in families
        for value in values
    ]


def choose(
    space: Space, known: NDArray[np.intp], y: NDArray[np.intp], *, seed: int = 0, probes: Sequence[str] | None = None
) -> tuple[Choice, Told]:
    """Choose a probe and fit it to all labels.

    Args:
        space: the n rows.
        known: (m,) those with a label, none of them a copy of another.
        y: (m,) class numbers from 0 on, at least two of each.
        seed: of folds and bootstrap.
        probes: names of those that compete; all, if None.
    """
    rng = np.random.default_rng(seed)
    some = np.sort(_drawn(y, rng))
    rows, classes = known[some], y[some]
    fold = _folds(classes, seed)
    found = [one for one in candidates(len(space.vectors), seed) if probes is None or one.probe in probes]
    right, likelihood = np.empty((2, len(found), len(rows)))
    best = -1
    raw: Floats = np.empty((0, 0))
    calibrated: Floats = raw
    for number, candidate in enumerate(found):
        p = _out_of_fold(space, candidate, rows, classes, fold)  # (m, k)
        soft = _calibrated(p, classes, fold)
        right[number] = p.argmax(axis=1) == classes
        likelihood[number] = np.log(soft[np.arange(len(rows)), classes])
        if best < 0 or likelihood[number].mean() > likelihood[best].mean():
            best, raw, calibrated = number, p, soft
    choice = Choice(
        candidate=found[best],
        accuracy=corrected_accuracy(right > 0, likelihood, rng),
        commonest=float(np.bincount(y).max() / len(y)),
        temperature=temperature(raw, classes),
        calibration_error=calibration_error(calibrated, classes),
        before=calibration_error(raw, classes),
        calibrated_error=_expected_error(calibrated, rng),
        table=_table(found, right.mean(axis=1), likelihood.mean(axis=1)),
        n_candidates=len(found),
        n_folds=int(fold.max()) + 1,
    )
    return choice, space.probabilities(found[best], known, y)


def corrected_accuracy(right: NDArray[np.bool_], score: Floats, rng: np.random.Generator) -> Estimate:
    """Accuracy of "take the candidate with the best mean score", by bootstrap bias corrected cross-validation.

    Args:
        right: (c, m) whether each candidate was right on each item, out of its fold.
        score: (c, m) what candidates are chosen by.
        rng: draws `BOOTSTRAPS` samples.

    Returns:
        The mean over samples; the interval is the 2.5 to 97.5 % range over samples, which are a third of the items,
        so it is on the wide side, and never within Wilson's interval of as many items.
    """
    m = score.shape[1]
    counts = rng.multinomial(m, np.full(m, 1 / m), size=BOOTSTRAPS)
    chosen = (counts @ score.T).argmax(axis=1)
    left_out = counts == 0
    usable = left_out.any(axis=1)
    hits = (left_out & right[chosen])[usable].sum(axis=1) / left_out[usable].sum(axis=1)
    mean = float(hits.mean())
    low, high = np.quantile(hits, [0.025, 0.975])
    plain = wilson(round(mean * m), m)
    return Estimate(mean, float(min(low, plain.low)), float(max(high, plain.high)), m)


def temperature(p: Floats, y: NDArray[np.intp]) -> float:
    """T of least cross-entropy of softmax(log p / T), in [0.01, 100]; targets 1 - 1/(m + 2), as in Platt scaling."""
    from scipy.optimize import minimize_scalar

    logs = np.log(np.maximum(p, LEAST))
    logs -= logs.max(axis=1, keepdims=True)
    own = logs[np.arange(len(y)), y]
    doubt = 1 / (len(y) + 2)
    others = (logs.sum(axis=1) - own) / (logs.shape[1] - 1)
    target = (1 - doubt) * own + doubt * others

    def cross_entropy(log_t: float) -> float:
        b = np.exp(-log_t)
        return float(np.mean(np.log(np.exp(b * logs).sum(axis=1)) - b * target))

    bounds = (np.log(0.01), np.log(100.0))
    return float(np.exp(minimize_scalar(cross_entropy, bounds=bounds, method="bounded").x))


def softened(p: Floats, temperature: float) -> Floats:
    """softmax(log p / T), (n, k)."""
    from scipy.special import softmax

    return np.maximum(softmax(np.log(np.maximum(p, LEAST)) / temperature, axis=1), LEAST)


def calibration_error(p: Floats, y: NDArray[np.intp]) -> float:
    """Expected calibration error: mean of |confidence - accuracy| over bins of equally many items, about ten a bin.

    >>> calibration_error(np.array([[0.8, 0.2]] * 10), np.array([0] * 8 + [1] * 2)).__round__(9)
    0.0
    """
    return _gap(p.max(axis=1), p.argmax(axis=1) == y)


def _gap(confidence: Floats, right: NDArray[np.bool_]) -> float:
    bins = np.array_split(np.argsort(confidence, kind="stable"), int(np.clip(len(right) // 10, 1, 15)))
    gaps = [abs(confidence[rows].mean() - right[rows].mean()) * len(rows) for rows in bins]
    return float(sum(gaps) / len(right))


def _expected_error(p: Floats, rng: np.random.Generator) -> float:
    """What `calibration_error` is on average where each answer is right with just the probability said."""
    confidence = p.max(axis=1)
    return float(np.mean([_gap(confidence, rng.random(len(p)) < confidence) for _ in range(200)]))


def _drawn(y: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """At most `LABELLED` places, two of each class at least."""
    order = rng.permutation(len(y))
    if len(y) <= LABELLED:
        return order
    place = np.empty(len(y), int)
    by_class = order[np.argsort(y[order], kind="stable")]
    _, first, size = np.unique(y[by_class], return_index=True, return_counts=True)
    place[by_class] = np.arange(len(y)) - np.repeat(first, size)
    return order[np.argsort(place[order] >= 2, kind="stable")][: max(LABELLED, 2 * len(first))]


def _folds(y: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """(m,) the fold of each item; classes are dealt out, so that none is missing where the probes learn."""
    from sklearn.model_selection import StratifiedKFold

    n_folds = int(min(FOLDS, np.bincount(y).max()))
    fold = np.empty(len(y), int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with fewer items than folds is in some folds only
        parts = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(y[:, None], y)
        for number, (_, held_out) in enumerate(parts):
            fold[held_out] = number
    return fold


def _out_of_fold(
    space: Space, candidate: Candidate, rows: NDArray[np.intp], y: NDArray[np.intp], fold: NDArray[np.intp]
) -> Floats:
    """(m, k) probabilities of each item by the probe that has not seen its label."""
    p = np.empty((len(rows), int(y.max()) + 1))
    for number in range(int(fold.max()) + 1):
        held_out = fold == number
        p[held_out] = space.probabilities(candidate, rows[~held_out], y[~held_out]).of(rows[held_out])
    return p


def _calibrated(p: Floats, y: NDArray[np.intp], fold: NDArray[np.intp]) -> Floats:
    """Softened by the temperature of the other folds."""
    found = np.empty_like(p)
    for number in range(int(fold.max()) + 1):
        held_out = fold == number
        found[held_out] = softened(p[held_out], temperature(p[~held_out], y[~held_out]))
    return found


def _table(found: Sequence[Candidate], accuracy: Floats, likelihood: Floats) -> list[dict[str, Any]]:
    """The best setting of each probe, the likeliest first."""
    rows: dict[str, dict[str, Any]] = {}
    for i in np.argsort(-likelihood, kind="stable"):
        row = {"probe": found[i].probe, "setting": found[i].setting}
        rows.setdefault(found[i].probe, {**row, "accuracy": float(accuracy[i]), "likelihood": float(likelihood[i])})
    return list(rows.values())
