"""On the Provable Advantage of Unsupervised Pretraining (Ge, Tang, Fan & Jin, 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.decomposition import FactorAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeCV
from sklearn.mixture import GaussianMixture
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.errors import expect

Floats = NDArray[np.float64]
FLOATS = (np.float64, np.float32)
BLOCK = 65_536


def _head_has(name: str) -> Callable[[Any], bool]:
    return lambda model: hasattr(getattr(model, "head_", model._head()), name)


@system("mle-pretrain-erm", paper="arXiv:2303.01566", modality=("points", "table", "features"))
class MLEPretrainedPredictor(MetaEstimatorMixin, BaseEstimator):
    """A latent-variable model by maximum likelihood without labels, then a predictor of its latents with labels.

        phi = argmax_phi  sum_j log p_phi(x_j)                    over m unlabeled rows
        psi = argmin_psi  sum_i loss(psi(E_phi[z | x_i]), y_i)    over n labelled rows; phi is frozen

    Where phi is informative (the total variation between p_phi(x, z) and p_phi'(x, z), up to a transformation of z, is
    at most kappa times the Hellinger distance between p_phi(x) and p_phi'(x)), the excess risk is of the order of

        kappa sqrt(C_Phi / m) + sqrt(C_Psi / n)     against     sqrt(C_(Psi o Phi) / n)   with labels alone

    so that it pays where m >> n and the whole class is more complex than the head's. Some copies of the abstract have
    lost the roots; both rates are tested below (with squared loss on a factor model the faster one is seen).

    In a `Pipeline` the unlabeled rows go to the last step by name and untransformed:
    `pipeline.fit(X, y, mlepretrainedpredictor__X_unlabeled=...)`; scale both sets alike beforehand.

    Args:
        latent: what is fitted without labels: anything with `fit(X)` and `transform` (`FactorAnalysis`: posterior
            means) or `predict_proba` (`GaussianMixture`: posterior probabilities of the components). None: factor
            analysis with 5 factors, or as many as there are features where these are fewer.
        head: scikit-learn regressor or classifier of the latents; None: `LinearRegression()`.

    Attributes:
        latent_, head_: fitted copies.
        n_features_in_: d.
        classes_: of the head, where it is a classifier.

    Factor analysis sees no more than mean and covariance, so that it is fitted to 2 d rows which share them
    (`same_moments`): a million rows of 128 features take one pass and no copy.

    Raises:
        ArgumentError: a latent model that gives no latents.
        ValueError: what scikit-learn refuses: NaN, one row, another number of features...

    >>> rng = np.random.default_rng(0)
    >>> model = FactorModel.draw(30, 2, rng)
    >>> X_unlabeled, _ = model.sample(2000, rng)
    >>> X, y = model.sample(20, rng)
    >>> predictor = MLEPretrainedPredictor(latent=FactorAnalysis(2)).fit(X, y, X_unlabeled=X_unlabeled)
    >>> bool(model.excess_risk(predictor.predict) < model.excess_risk(RidgeCV().fit(X, y).predict))
    True
    """

    settings: ClassVar[dict[str, dict[str, Any]]] = {"paper": {}, "small": {}}

    def __init__(self, *, latent: Any = None, head: Any = None) -> None:
        self.latent = latent
        self.head = head

    def fit(self, X: Any, y: Any, *, X_unlabeled: Any = None) -> MLEPretrainedPredictor:
        """Latent model from X_unlabeled (m, d), head from X (n, d) and y (n,).

        Args:
            X_unlabeled: rows without labels; None: those of X.
        """
        tags = get_tags(self._head())
        words = {"y_numeric": tags.estimator_type != "classifier", "multi_output": tags.target_tags.multi_output}
        X, y = validate_data(self, X, y, dtype=FLOATS, ensure_min_samples=2, **words)
        free = X if X_unlabeled is None else validate_data(self, X_unlabeled, dtype=FLOATS, reset=False)
        latent = clone(self.latent) if self.latent is not None else FactorAnalysis(min(5, X.shape[1]))
        ok = hasattr(latent, "transform") or hasattr(latent, "predict_proba")
        expect("latent", latent, ok, "a model with transform or predict_proba", "FactorAnalysis, GaussianMixture...")
        if type(latent) is FactorAnalysis and len(free) > 2 * free.shape[1]:
            rows = 2 * free.shape[1]  # whose likelihood, and tolerance of it, is so much smaller
            latent.set_params(tol=latent.tol * rows / len(free))
            free = same_moments(free)
        self.latent_ = latent.fit(free)
        self.head_ = self._head().fit(posterior(self.latent_, X), y)
        if hasattr(self.head_, "classes_"):
            self.classes_ = self.head_.classes_
        return self

    def encode(self, X: Any) -> NDArray[Any]:
        """The latents: posterior means or probabilities, (n, r)."""
        check_is_fitted(self)
        return posterior(self.latent_, validate_data(self, X, dtype=FLOATS, reset=False))

    def predict(self, X: Any) -> NDArray[Any]:
        """What the head makes of the latents, (n,)."""
        latents = self.encode(X)
        return self.head_.predict(latents)

    @available_if(_head_has("predict_proba"))
    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Probabilities of the classes, (n, n_classes), where the head is a classifier that has them."""
        latents = self.encode(X)
        return self.head_.predict_proba(latents)

    def score(self, X: Any, y: Any) -> float:
        """The head's own score: R^2, or accuracy."""
        latents = self.encode(X)
        return float(self.head_.score(latents, y))

    def _head(self) -> Any:
        return clone(self.head) if self.head is not None else LinearRegression()

    def __sklearn_tags__(self) -> Any:
        tags, of_head = super().__sklearn_tags__(), get_tags(self._head())
        tags.estimator_type = of_head.estimator_type
        tags.classifier_tags, tags.regressor_tags = of_head.classifier_tags, of_head.regressor_tags
        tags.target_tags = of_head.target_tags
        return tags


def posterior(latent: Any, X: NDArray[Any]) -> NDArray[Any]:
    """What a fitted latent-variable model infers of z: `transform`, else `predict_proba`."""
    return latent.transform(X) if hasattr(latent, "transform") else latent.predict_proba(X)


def same_moments(X: NDArray[Any]) -> Floats:
    """2 d rows with the mean and covariance of X (n, d): to a Gaussian likelihood they are the same data, up to n."""
    mean, d = X.mean(axis=0, dtype=np.float64), X.shape[1]
    covariance = np.zeros((d, d))
    for start in range(0, len(X), BLOCK):
        block = X[start : start + BLOCK] - mean
        covariance += block.T @ block / len(X)
    values, vectors = np.linalg.eigh(covariance)
    half = math.sqrt(d) * np.sqrt(values.clip(min=0))[:, None] * vectors.T
    return mean + np.concatenate([half, -half])


@dataclass(frozen=True)
class FactorModel:
    """The paper's first example: x = B z + e, y = beta . z + noise, with z ~ N(0, I_r) and e ~ N(0, diag(psi)).

    Args:
        loadings: B, (d, r).
        psi: variances of e, (d,).
        beta: (r,).
        sigma: deviation of y's noise.
    """

    loadings: Floats
    psi: Floats
    beta: Floats
    sigma: float = 0.5

    @classmethod
    def draw(cls, d: int, r: int, rng: np.random.Generator, sigma: float = 0.5) -> FactorModel:
        """Standard normal loadings, variances of e spread evenly in log from 1 to 30, beta of length 1."""
        beta = rng.normal(size=r)
        psi = 30 ** rng.random(d)
        return cls(rng.normal(size=(d, r)), psi, beta / np.linalg.norm(beta), sigma)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """X (n, d), y (n,)."""
        z = rng.normal(size=(n, len(self.beta)))
        X = z @ self.loadings.T + rng.normal(size=(n, len(self.psi))) * np.sqrt(self.psi)
        return X, z @ self.beta + self.sigma * rng.normal(size=n)

    @property
    def covariance(self) -> Floats:
        """Of x, (d, d)."""
        return self.loadings @ self.loadings.T + np.diag(self.psi)

    def excess_risk(self, predict: Callable[[Floats], Floats]) -> float:
        """Mean squared error above that of E[y | x], exactly, of a rule that is affine in x."""
        constant = predict(np.zeros((1, len(self.psi))))[0]
        weights = predict(np.eye(len(self.psi))) - constant
        off = weights - np.linalg.solve(self.covariance, self.loadings @ self.beta)
        return float(off @ self.covariance @ off + constant**2)

    def best_head(self, latent: Any) -> tuple[Floats, float]:
        """Weights of the best linear head on an affine latent model, and its excess risk: what phi alone costs."""
        origin = latent.transform(np.zeros((1, len(self.psi))))
        maps = (latent.transform(np.eye(len(self.psi))) - origin).T  # (r, d); the head's constant takes the origin
        moment = maps @ self.covariance @ maps.T
        weights = np.linalg.solve(moment, maps @ self.loadings @ self.beta)
        best = np.linalg.solve(self.covariance, self.loadings @ self.beta)
        off = weights @ maps - best
        return weights, float(off @ self.covariance @ off)


def log_slope(sizes: ArrayLike, risks: ArrayLike) -> tuple[float, float, float]:
    """Least-squares slope of log risk over log size, with its 95 % interval (t, of the residuals): (slope, low, high).

    >>> log_slope([10, 20, 40, 80], [1, 0.5, 0.25, 0.125])[0]
    -1.0
    """
    from scipy.stats import linregress, t

    fit = linregress(np.log(np.asarray(sizes, float)), np.log(np.asarray(risks, float)))
    half = float(fit.stderr) * float(t.ppf(0.975, np.size(sizes) - 2)) if np.size(sizes) > 2 else 0.0
    return round(float(fit.slope), 12), float(fit.slope) - half, float(fit.slope) + half


def measured_rates(model: FactorModel, m: list[int], n: list[int], draws: int, rng: np.random.Generator) -> Floats:
    """Both terms of the excess risk, each with its log-log slope and interval: rows (slope, low, high) of n and of m.

    The term of m is what the best head on the fitted latents still loses, that of n what a head loses to the best one
    on latents fitted to the largest m; both exactly, and their sum is the excess risk of the whole.
    """
    of_m = []
    for size in m:
        fitted = [_factors(model.sample(size, rng)[0]) for _ in range(3)]
        of_m.append(np.mean([model.best_head(latent)[1] for latent in fitted]))
    latent, floor = fitted[-1], model.best_head(fitted[-1])[1]
    of_n = [np.mean([_risk(model, latent, *model.sample(size, rng)) for _ in range(draws)]) - floor for size in n]
    return np.array([log_slope(n, of_n), log_slope(m, of_m)])


def _factors(X: Floats) -> FactorAnalysis:
    """Five factors of many rows, as `MLEPretrainedPredictor` fits them."""
    rows = same_moments(X)
    return FactorAnalysis(5, svd_method="lapack", tol=0.01 * len(rows) / len(X)).fit(rows)


def _risk(model: FactorModel, latent: Any, X: Floats, y: Floats) -> float:
    head = LinearRegression().fit(latent.transform(X), y)
    return model.excess_risk(lambda rows: head.predict(latent.transform(rows)))


def _rates(bench: Bench, trial: Trial) -> Floats:
    m = bench.pick(smoke=[500, 1000, 2000], small=[1000, 2000, 4000, 8000, 16_000])
    n = bench.pick(smoke=[50, 100, 200], small=[50, 100, 200, 400, 800])
    return measured_rates(FactorModel.draw(100, 5, trial.rng), m, n, bench.pick(smoke=5, small=100), trial.rng)


@claim(
    "excess risk falls at least as fast as 1 / sqrt(m) and 1 / sqrt(n)",
    reported="O(sqrt(C_Phi / m) + sqrt(C_Psi / n)), up to logarithms (abstract, as the paper prints it)",
)
def rates_with_roots(bench: Bench) -> Comparison:
    """A factor model, d = 100 and r = 5, with unequal noise: the upper ends of the 95 % intervals of both log-log
    slopes lie at -0.5 or below. Excess risks are exact; that over n is the mean of 100 draws, that over m of 3."""

    def ends(trial: Trial) -> tuple[Floats, Floats]:
        return _rates(bench, trial)[:, 2], np.full(2, -0.5)

    return bench.bound(ends, setting="factor analysis and least squares; m up to 16,000, n from 50 to 800")


@claim(
    "excess risk falls as 1 / m and 1 / n, as the abstract reads where its roots are lost",
    reported="O(C_Phi / m + C_Psi / n) in some copies of the abstract",
)
def rates_without_roots(bench: Bench) -> Comparison:
    """As `rates_with_roots`; both log-log slopes lie within 0.15 of -1."""

    def slopes(trial: Trial) -> tuple[Floats, Floats]:
        return _rates(bench, trial)[:, 0], np.full(2, -1.0)

    setting = "factor analysis and least squares; m up to 16,000, n from 50 to 800"
    return bench.equal(slopes, tolerance=0.15, setting=setting)


@claim(
    "beats learning from labels alone where labels are few and unlabeled rows many",
    reported="an advantage when m >> n and C_(Psi o Phi) > C_Psi (abstract); no size is given",
    proxy="one factor model, drawn anew for each seed: d = 100, r = 5, m = 20,000, n = 20 and 50",
)
def beats_ridge_at_few_labels(bench: Bench) -> Comparison:
    """Minus the log of the exact excess risk, mean over 20 draws of labels at n = 20 and at n = 50; ridge regression on
    x chooses among 15 penalties by leave-one-out."""
    draws, m = bench.pick(smoke=2, small=20), bench.pick(smoke=1000, small=20_000)

    def sides(trial: Trial) -> tuple[float, float]:
        model = FactorModel.draw(100, 5, trial.rng)
        latent = _factors(model.sample(m, trial.rng)[0])
        logs = []
        for n in (20, 50):
            for _ in range(draws):
                X, y = model.sample(n, trial.rng)
                ridge = RidgeCV(np.logspace(-2, 5, 15)).fit(X, y)
                logs.append(np.log([_risk(model, latent, X, y), model.excess_risk(ridge.predict)]))
        ours, theirs = np.mean(logs, axis=0)
        return -float(ours), -float(theirs)

    setting = f"factor analysis on {m:,} rows and least squares"
    return bench.trials(sides, baseline="ridge regression", better_by=0.0, setting=setting)


@claim(
    "posteriors of a Gaussian mixture fitted without labels beat pixels at two labels a class",
    reported="Gaussian mixtures are one of the three examples (section 4.2); no experiment is reported",
    proxy="digits at 8 pixels; logistic regression on posteriors against the same on pixels",
)
def mixture_beats_pixels(bench: Bench) -> Comparison:
    """Mean accuracy on unseen digits over 20 draws of two labels a class. On a validation part of the training images
    five numbers of components are tried (diagonal covariances), and five penalties of the logistic regression."""
    digits = bench.data("digits")
    draws = bench.pick(smoke=2, small=20)

    def mixture(count: int, X: Floats) -> Any:
        return GaussianMixture(count, covariance_type="diag", reg_covar=0.01, random_state=0).fit(X)

    def answers(fitted: Callable[[Floats], Floats], C: float, part: Any, new: Floats) -> NDArray[Any]:
        X, new, y = fitted(_pixels(part.x)), fitted(new), part.y.numpy()
        found = []
        for draw in range(draws):
            order = np.random.default_rng(draw).permutation(len(y))
            few = np.concatenate([order[y[order] == label][:2] for label in np.unique(y)])
            found.append(LogisticRegression(C=C, max_iter=500).fit(X[few], y[few]).predict(new))
        return np.stack(found, axis=1)

    def accuracy(y: NDArray[Any], found: NDArray[Any]) -> float:
        return float((found == y[:, None]).mean())

    def ours(count: int, part: Any, new: Floats) -> NDArray[Any]:
        latent = mixture(min(count, len(part)), _pixels(part.x))
        return answers(latent.predict_proba, 10.0, part, new)

    def theirs(C: float, part: Any, new: Floats) -> NDArray[Any]:
        return answers(lambda X: X, C, part, new)

    def trial_of(trial: Trial) -> list[float]:
        train, unseen = trial.split(digits)
        scores = []
        for side, settings in ((ours, (10, 20, 40, 80, 160)), (theirs, (0.01, 0.1, 1.0, 10.0, 100.0))):

            def chosen_by(setting: Any, part: Any, held_out: Any, side: Any = side) -> float:
                return held_out.score(side(setting, part, _pixels(held_out.x)), by=accuracy)

            best = trial.select(train, settings, chosen_by)
            scores.append(unseen.score(side(best, train, _pixels(unseen.x)), by=accuracy))
        return scores

    return bench.trials(trial_of, baseline="logistic regression on pixels", better_by=0.0)


def _pixels(x: Any) -> Floats:
    """Images as rows in [0, 1]."""
    return np.asarray(x, np.float64).reshape(len(x), -1) / 255
