"""Choosing settings and counting classes where the labels of interest are unknown (Troisemaine et al., 2023)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.cluster import KMeans
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score
from sklearn.model_selection import ParameterGrid
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from tacit.errors import expect, unknown
from tacit.evaluate import clustering_accuracy

Array = NDArray[Any]
INDICES = ("silhouette", "calinski_harabasz", "davies_bouldin")
FLOATS = (np.float64, np.float32)
MOST_ROWS_OF_SILHOUETTE = 5_000


def estimate_n_clusters(
    z: Array, *, most: int = 30, index: str = "silhouette", n_init: int = 3, random_state: Any = None
) -> int:
    """The number of clusters, 2 to `most`, whose k-means a validity index likes best (section 5 of arXiv:2311.05440).

    Args:
        z: (n, d). Past 5,000 rows the silhouette, which is quadratic, sees a sample of as many.
        most: the largest number that is tried.
        index: `"silhouette"` (the official code's), `"calinski_harabasz"` or `"davies_bouldin"`.
        n_init: starts of each k-means.
        random_state: of k-means and of the sample.

    Returns:
        The number; 1 where there are fewer than 3 different rows.

    >>> places = np.random.default_rng(0).normal(size=(60, 2)) + 20 * np.repeat(np.eye(3, 2) - 1, 20, axis=0)
    >>> estimate_n_clusters(places, random_state=0)
    3
    """
    if index not in INDICES:
        raise unknown("index", index, INDICES)
    chance = check_random_state(random_state)
    seed = int(chance.randint(2**31 - 1))
    rows = z[chance.permutation(len(z))[:MOST_ROWS_OF_SILHOUETTE]] if index == "silhouette" else z
    score = {
        "silhouette": silhouette_score,
        "calinski_harabasz": calinski_harabasz_score,
        "davies_bouldin": lambda z, labels: -davies_bouldin_score(z, labels),
    }[index]
    tried = range(2, min(most, len(np.unique(rows, axis=0)) - 1) + 1)
    found = {k: KMeans(k, n_init=n_init, random_state=seed).fit(z).predict(rows) for k in tried}
    return max(found, key=lambda k: score(rows, found[k]), default=1)


class HiddenClassSearchCV(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Choose settings of a novel-class method by hiding known classes from it (section 4 of arXiv:2311.05440).

    Each fold hides half of the known classes (at least 2) as if they were novel and asks how well the method tells
    them apart (clustering accuracy). No label of a novel class is needed. Rows of truly novel classes sit out, so that
    the number of hidden classes is known. The best settings are fitted to all rows.

    Args:
        estimator: `ProjectionNCD`, `NCDKMeans` or `NCDSpectralClustering`.
        param_grid: setting -> values to try, as in `GridSearchCV`.
        n_folds: draws of hidden classes.
        random_state: of the draws.

    Attributes:
        best_params_, best_score_: settings, and their mean accuracy on hidden classes.
        cv_results_: `params` and `mean_test_score` of all.
        best_estimator_: fitted to all rows; `transduction_` and `classes_` are its.

    With fewer than 3 known classes none can be hidden: the first settings are taken, and a warning says so.

    >>> from tacit.cluster import NCDKMeans
    >>> X = np.random.default_rng(0).normal(size=(120, 4)) + 8 * np.repeat(np.eye(6, 4), 20, axis=0)
    >>> y = np.repeat([0, 1, 2, -1, -1, -1], 20)
    >>> search = HiddenClassSearchCV(NCDKMeans(n_novel=2), {"n_init": [1, 5]}, random_state=0).fit(X, y)
    >>> sorted(search.best_params_)
    ['n_init']
    """

    def __init__(
        self, estimator: Any, param_grid: Mapping[str, Sequence[Any]], *, n_folds: int = 3, random_state: Any = None
    ) -> None:
        self.estimator = estimator
        self.param_grid = param_grid
        self.n_folds = n_folds
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> HiddenClassSearchCV:
        """X (n, d); y (n,): known classes, and -1 where the class is novel."""
        expect("n_folds", self.n_folds, self.n_folds >= 1, "a whole number of at least 1")
        checked: tuple[Array, Array] = validate_data(self, X, y, dtype=FLOATS, ensure_min_samples=2)
        rows, labels = checked
        candidates = list(ParameterGrid(self.param_grid))
        known = np.array([label for label in np.unique(labels) if str(label) != "-1"])
        folds = self._folds(known)
        scores = [self._score(rows, labels, known, folds, candidate) for candidate in candidates]
        self.cv_results_ = {"params": candidates, "mean_test_score": np.array(scores)}
        self.best_params_, self.best_score_ = candidates[int(np.argmax(scores))], max(scores)
        self.best_estimator_ = clone(self.estimator).set_params(**self.best_params_).fit(rows, labels)
        self.classes_, self.transduction_ = self.best_estimator_.classes_, self.best_estimator_.transduction_
        return self

    def predict(self, X: ArrayLike) -> Array:
        """By the best estimator."""
        check_is_fitted(self)
        return self.best_estimator_.predict(X)

    def predict_novel(self, X: ArrayLike) -> Array:
        """By the best estimator."""
        check_is_fitted(self)
        return self.best_estimator_.predict_novel(X)

    def _folds(self, known: Array) -> list[Array]:
        """The classes that each fold hides, the same for all candidates."""
        if len(known) < 3:
            warnings.warn(f"y: {len(known)} known classes: expected at least 3, to hide 2 of them", stacklevel=3)
            return []
        chance = check_random_state(self.random_state)
        return [chance.permutation(known)[: max(2, len(known) // 2)] for _ in range(self.n_folds)]

    def _score(self, X: Array, y: Array, known: Array, folds: list[Array], settings: Mapping[str, Any]) -> float:
        return float(np.mean([self._hide(X, y, hidden, known, settings) for hidden in folds])) if folds else 0.0

    def _hide(self, X: Array, y: Array, hidden: Array, known: Array, settings: Mapping[str, Any]) -> float:
        rows = np.isin(y, known)
        truth, secret = y[rows], np.isin(y[rows], hidden)
        shown = np.where(secret, "-1", truth.astype(object)) if y.dtype.kind in "OSU" else np.where(secret, -1, truth)
        model = clone(self.estimator).set_params(**settings, n_novel=len(hidden)).fit(X[rows], shown)
        numbers = [np.unique(labels, return_inverse=True)[1] for labels in (truth[secret], model.transduction_[secret])]
        return float(clustering_accuracy(*numbers))
