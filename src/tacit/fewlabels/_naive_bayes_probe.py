"""Revisiting Discriminative vs. Generative Classifiers: Theory and Implications (Zheng et al., 2023)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_array
from scipy.special import logsumexp, softmax
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.errors import expect

Floats = NDArray[np.floating[Any]]
_BLOCK = 16_384
_LEFT_OUT = 10_000
"""Rows, evenly spaced, that the temperature is chosen on."""


@system("naive-bayes-probe", paper="arXiv:2302.02334", modality="any", level="mechanism")
class NaiveBayesProbe(ClassifierMixin, BaseEstimator):
    """Gaussian naive Bayes with variances that all classes share, in place of logistic regression on frozen features.

        predict(x) = argmax_k  log pi_k - 1/2 sum_j (x_j - mu_kj)^2 / s_j^2
        mu_kj      = mean of feature j in class k
        s_j^2      = mean over all items of (x_j - mu_yj)^2, plus var_smoothing times the variance of feature j

    The x^2 terms are the same for every class, so the rule is linear: `coef_` and `intercept_`. It is fitted in two
    passes over the rows, and nears the best that it can do with O(log n) items, n being the number of features, where
    logistic regression takes O(n): the probe for a handful of labels. With many labels its
    assumption, features independent within a class, costs more than it saves.

    That assumption also makes its posteriors too sure of themselves. They are therefore softened by one temperature,
    the one of least cross-entropy when each item is left out in turn (in closed form, on at most 10,000 evenly
    spaced rows), never below 1; the targets are 1 - 1 / (m + 2), as in Platt scaling, so that m items all answered
    right do not make it certain. Predictions stay as they are. The official code has no temperature, and adds 1e-9 to
    each variance whatever its scale.

    Args:
        priors: probability of each class, in the order of `classes_`; None: their shares in `y`.
        var_smoothing: share of a feature's whole variance that is added to its variance within classes. Raise it (0.1,
            1) for a few labels per class, whose variances are poorly known; `GridSearchCV` can choose it.
        calibrate: whether a temperature is chosen; without, probabilities are naive Bayes' own.

    Attributes:
        classes_: (n_classes,), sorted.
        class_prior_, class_count_: (n_classes,).
        theta_: means, (n_classes, n_features).
        var_: shared variances, smoothing included, (n_features,). Where no class has two items these are the variances
            over all items.
        coef_, intercept_: the linear rule, (n_classes, n_features) and (n_classes,), before the temperature.
        temperature_: what `predict_proba` divides the rule's values by; 1 where no class has two items.

    A feature that is constant within all classes, and over all items, is ignored. Rows go through in float64, 16,384 at
    a time: a million rows of 128 features need little more than themselves.

    Raises:
        ArgumentError: fewer than two classes, priors that are none, var_smoothing below 0.

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> x, y = load_digits(return_X_y=True)
    >>> few, rest, y_few, y_rest = train_test_split(x, y, train_size=50, stratify=y, random_state=0)
    >>> probe = NaiveBayesProbe(var_smoothing=0.1).fit(few, y_few)
    >>> bool(probe.score(rest, y_rest) > 0.8)
    True
    """

    settings: ClassVar = {"paper": {"var_smoothing": 1e-9, "calibrate": False}, "small": {}}

    def __init__(self, *, priors: ArrayLike | None = None, var_smoothing: float = 1e-9, calibrate: bool = True) -> None:
        self.priors = priors
        self.var_smoothing = var_smoothing
        self.calibrate = calibrate

    def fit(self, X: Any, y: Any) -> NaiveBayesProbe:
        """Means, variances and temperature of features (n, n_features) with labels (n,)."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        expect("var_smoothing", self.var_smoothing, self.var_smoothing >= 0, "0 or more")
        self.classes_, codes = np.unique(y, return_inverse=True)
        expect(
            "y",
            f"{len(self.classes_)} class",
            len(self.classes_) >= 2,
            "at least two classes",
            "label items of another class",
        )
        self.class_count_ = np.bincount(codes).astype(float)
        self.class_prior_ = self._priors()
        self._centre = X.mean(axis=0, dtype=np.float64)
        self.theta_ = self._centre + _class_sums(X, codes, self._centre, self.class_count_) / self.class_count_[:, None]
        within, whole = _scatter(X, codes, self.theta_, self._centre)
        self.var_ = self._variances(within, whole, len(X))
        precision = _inverse(self.var_)
        offset = self.theta_ - self._centre
        self.coef_ = offset * precision
        self._bias = np.log(self.class_prior_) - (offset**2 @ precision) / 2
        self.intercept_ = self._bias - self.coef_ @ self._centre
        self.temperature_ = self._temperature(X, codes, within, whole) if self.calibrate else 1.0
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of each row, (n,)."""
        winners = np.concatenate([values.argmax(axis=1) for values in self._values(X)])
        return self.classes_[winners]

    def predict_log_proba(self, X: Any) -> Floats:
        """Logarithms of the probabilities, (n, n_classes)."""
        scaled = [values / self.temperature_ for values in self._values(X)]
        return np.concatenate([values - logsumexp(values, axis=1, keepdims=True) for values in scaled])

    def predict_proba(self, X: Any) -> Floats:
        """Probabilities of the classes, (n, n_classes), in the order of `classes_`."""
        return np.concatenate([softmax(values / self.temperature_, axis=1) for values in self._values(X)])

    def _values(self, X: Any) -> Iterator[Floats]:
        """log pi_k + log p(x | k), up to what all classes share; from the centre, so that no digits are lost."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        for rows in _blocks(len(X)):
            yield (X[rows] - self._centre) @ self.coef_.T + self._bias

    def _priors(self) -> Floats:
        if self.priors is None:
            return self.class_count_ / self.class_count_.sum()
        priors = np.asarray(self.priors, dtype=float)
        proper = priors.shape == self.classes_.shape and (priors > 0).all() and np.isclose(priors.sum(), 1)
        expect("priors", priors.tolist(), bool(proper), f"{len(self.classes_)} numbers above 0 that sum to 1")
        return priors

    def _variances(self, within: Floats, whole: Floats, m: Any) -> Floats:
        """s^2 from the sums of squares about the class means and about the mean of all m items."""
        if len(self.classes_) == self.class_count_.sum():  # one item a class: nothing is known of s within classes
            return whole / m
        return (within + self.var_smoothing * whole) / m

    def _temperature(self, X: Floats, codes: NDArray[np.intp], within: Floats, whole: Floats) -> float:
        """1 / b of least cross-entropy of softmax(b values), each item's values those of the fit without it."""
        candidates = np.flatnonzero(self.class_count_[codes] > 1)
        if len(candidates) == 0:
            return 1.0
        rows = candidates[:: -(-len(candidates) // _LEFT_OUT)]
        values = np.concatenate([self._left_out(X[block], codes[block], within, whole, len(X)) for block in
                                 (rows[part] for part in _blocks(len(rows), 2048))])  # fmt: skip
        values -= values.max(axis=1, keepdims=True)
        right = values[np.arange(len(rows)), codes[rows]]
        doubt = 1 / (len(rows) + 2)
        others = (values.sum(axis=1) - right) / (values.shape[1] - 1)
        target = (1 - doubt) * right + doubt * others

        def cross_entropy(log_b: float) -> float:  # convex in b, so that it has one minimum in log b too
            b = np.exp(log_b)
            return float(np.mean(logsumexp(b * values, axis=1) - b * target))

        found = minimize_scalar(cross_entropy, bounds=(np.log(1e-12), 0.0), method="bounded", options={"xatol": 1e-4})
        return float(np.exp(-found.x))

    def _left_out(self, x: Floats, codes: NDArray[np.intp], within: Floats, whole: Floats, m: int) -> Floats:
        """`_values` of each row, up to what all classes share, by the fit to all other rows; exact, without refitting.

        Leaving x out moves the mean of its class of c items by -(x - mu) / (c - 1), takes (x - mu)^2 c / (c - 1) from
        the squares within classes and (x - mean)^2 m / (m - 1) from the whole.
        """
        own, count = np.arange(len(x)), self.class_count_[codes][:, None]
        offset = self.theta_ - self._centre
        x = x - self._centre
        residual = x - offset[codes]
        left = np.maximum(within - residual**2 * count / (count - 1), 0)
        precision = _inverse(self._variances(left, np.maximum(whole - x**2 * m / (m - 1), 0), m - 1))
        squares = precision @ (offset**2).T - 2 * (precision * x) @ offset.T + (precision * x**2).sum(axis=1)[:, None]
        squares[own, codes] = (precision * (residual * count / (count - 1)) ** 2).sum(axis=1)
        prior = np.tile(self.class_prior_, (len(x), 1))
        if self.priors is None:
            prior = np.tile(self.class_count_ / (m - 1), (len(x), 1))
            prior[own, codes] = (count[:, 0] - 1) / (m - 1)
        return np.log(prior) - squares / 2


def _blocks(n: int, size: int = _BLOCK) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))


def _class_sums(X: Floats, codes: NDArray[np.intp], centre: Floats, counts: Floats) -> Floats:
    """Sum over each class of x - centre, (n_classes, n_features)."""
    sums = np.zeros((len(counts), X.shape[1]))
    for rows in _blocks(len(X)):
        items = np.arange(len(codes[rows]))
        belongs = csr_array((np.ones(len(items)), (codes[rows], items)), shape=(len(counts), len(items)))
        sums += belongs @ (X[rows] - centre)
    return sums


def _scatter(X: Floats, codes: NDArray[np.intp], theta: Floats, centre: Floats) -> tuple[Floats, Floats]:
    """Sums of squares of each feature about the means of the classes, and about the mean of all, (n_features,) each."""
    within, whole = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for rows in _blocks(len(X)):
        within += ((X[rows] - theta[codes[rows]]) ** 2).sum(axis=0)
        whole += ((X[rows] - centre) ** 2).sum(axis=0)
    rounding = len(X) * (10 * np.finfo(X.dtype).eps * np.abs(centre)) ** 2
    return np.where(whole > rounding, within, 0), np.where(whole > rounding, whole, 0)


def _inverse(variances: Floats) -> Floats:
    """1 / s^2, and 0 for a feature that says nothing: one without any variance."""
    return np.divide(1.0, variances, out=np.zeros_like(variances), where=variances > 0)


def paper_mixture(n: int, n_classes: int, m: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.intp]]:
    """m draws of the paper's mixture in n dimensions (official code, `easy`), with at least one of each class.

    Class k has the mean (-1, 1, 2, 4, 8, ...)_k in every dimension; half the dimensions have the variance n, half 1.
    """
    y = rng.permutation(np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=m - n_classes)]))
    return _means(n_classes)[y, None] + rng.normal(size=(m, n)) * np.sqrt(_spread(n)), y


def bayes_error(n: int, n_classes: int) -> float:
    """Of `paper_mixture`, whose best rule reads one number: the mean of x weighted by 1 / variance."""
    half = np.diff(_means(n_classes)) / 2
    return float(2 * norm.cdf(-half * np.sqrt((1 / _spread(n)).sum())).sum() / n_classes)


def _means(n_classes: int) -> Floats:
    return np.concatenate([[-1.0], 2.0 ** np.arange(n_classes - 1)])


def _spread(n: int) -> Floats:
    return np.where(np.arange(n) < n // 2, float(n), 1.0)


def items_needed(probe: Callable[[], Any], n: int, trial: Trial, *, draws: int = 3, within: float = 0.01) -> float:
    """Items at which the mean error of `draws` fits comes within 0.01 (the official code's figure) of Bayes'.

    Items double from two a class until it does, to 100 n at most; between the last two the excess is interpolated.
    """
    rng, n_classes = np.random.default_rng(trial.seed), 5
    x, y = paper_mixture(n, n_classes, 10_000, rng)
    m, before = 2 * n_classes, (0.0, np.inf)
    while True:
        fits = (probe().fit(*paper_mixture(n, n_classes, m, rng)) for _ in range(draws))
        excess = float(np.mean([(fit.predict(x) != y).mean() for fit in fits])) - bayes_error(n, n_classes)
        if excess <= within or m > 50 * n:
            break
        m, before = 2 * m, (float(m), excess)
    if before[1] == np.inf or excess >= before[1]:
        return float(m)
    share = (before[1] - within) / (before[1] - excess)
    return float(before[0] * (m / before[0]) ** min(share, 1.0))


def _growth(bench: Bench, logistic: Callable[[], Any], margin: float) -> Comparison:
    """Items needed by logistic regression against naive Bayes, over n; the gap is that of their log-log slopes."""
    over = bench.pick(smoke=[4, 8], small=[16, 32, 64, 128, 256], full=[16, 32, 64, 128, 256, 512, 1024])
    octaves = np.log2(over[-1] / over[0])

    def items(trial: Trial, n: int) -> tuple[float, float]:
        bayes = items_needed(lambda: NaiveBayesProbe(calibrate=False), n, trial)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return np.log2(items_needed(logistic, n, trial)) / octaves, np.log2(bayes) / octaves

    return bench.curve(
        items, over=over, shape="gap_grows", margin=margin, baseline="naive Bayes",
        setting=f"log2 of the items that each side needs, over the {octaves:g} octaves of n",
    )  # fmt: skip


@claim(
    "needs O(log n) items to come near its best error, where logistic regression needs O(n)",
    reported="O(log n) against O(n) (abstract); simulated with 2, 3, 5 and 7 classes (official code)",
    proxy="the paper's mixture and logistic regression, in 16 to 256 dimensions in place of 100 to 1,000",
)
def items_grow_slower(bench: Bench) -> Comparison:
    """Log-log slope over n of the items that logistic regression needs, minus naive Bayes': above 0.4, where O(n)
    and O(log n) differ by about 0.75 in this range.

    As in the official code, logistic regression has C = 1 and sees features whose variances differ by a factor of n.
    """
    return _growth(bench, lambda: LogisticRegression(C=1.0, max_iter=1000), 0.4)


@claim(
    "needs O(log n) items, where logistic regression on standardised features with a weaker penalty needs O(n)",
    reported="O(log n) against O(n) (abstract), for a logistic regression without penalty; not simulated so",
    proxy="the paper's mixture in 16 to 256 dimensions; a logistic regression as people use it",
)
def items_grow_slower_than_of_a_tuned_probe(bench: Bench) -> Comparison:
    """As `items_grow_slower`, with the features standardised and C = 10, the best of five tried on another seed."""
    return _growth(bench, lambda: make_pipeline(StandardScaler(), LogisticRegression(C=10.0, max_iter=1000)), 0.4)


@claim(
    "is ahead of logistic regression at two labels a class on frozen features",
    reported="'naive Bayes shows promise in few-shot cases' (abstract)",
    proxy="SimCLR's features of CIFAR-10 at 16 pixels (a ResNet-8, some steps) in place of ImageNet networks",
    steps={"small": 300, "full": 20_000},
)
def ahead_at_two_shots(bench: Bench) -> Comparison:
    """Mean accuracy on unseen images over 20 draws of two labels a class.

    Five values of `var_smoothing` and of the logistic regression's C are tried on a validation part of the training
    images; logistic regression sees standardised features.
    """
    images = bench.images("cifar10", size=16)

    def bayes(smoothing: float) -> Any:
        return NaiveBayesProbe(var_smoothing=smoothing, calibrate=False)

    def logistic(C: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=300))

    def trial_of(trial: Trial) -> list[float]:
        train, unseen = trial.split(images)
        encoder = trial.pretrained("simclr", train).encoder
        seen = Part({"x": trial.predict(encoder, train.x), "y": train.y}, "points", train.n_classes, trial.seed)
        new = trial.predict(encoder, unseen.x).numpy()
        scores = []
        for probe, values in ((bayes, (1e-9, 0.01, 0.1, 1.0, 10.0)), (logistic, (1e-4, 1e-3, 1e-2, 1e-1, 1.0))):

            def chosen_by(value: float, part: Part, held_out: Unseen, probe: Callable[..., Any] = probe) -> float:
                answers = _few_shot_answers(partial(probe, value), part, held_out.x.numpy(), trial.seed)
                return held_out.score(answers, by=_mean_accuracy)

            best = trial.select(seen, values, chosen_by)
            answers = _few_shot_answers(partial(probe, best), seen, new, trial.seed)
            scores.append(unseen.score(answers, by=_mean_accuracy))
        return scores

    return bench.trials(trial_of, baseline="logistic regression", better_by=0.0)


def _few_shot_answers(probe: Callable[[], Any], part: Part, new: Floats, seed: int) -> NDArray[np.intp]:
    """Classes of the new items after fits to two items a class, (n, 20): one column a draw."""
    x, y = part.x.numpy(), part.y.numpy()
    answers = []
    for draw in range(20):
        order = np.random.default_rng((seed, draw)).permutation(len(y))
        few = np.concatenate([order[y[order] == label][:2] for label in np.unique(y)])
        answers.append(probe().fit(x[few], y[few]).predict(new))
    return np.stack(answers, axis=1)


def _mean_accuracy(y: NDArray[np.intp], answers: NDArray[np.intp]) -> float:
    return float((answers == y[:, None]).mean())
