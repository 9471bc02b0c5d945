from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tacit.cluster import HiddenClassSearchCV, NCDKMeans, NCDSpectralClustering, ProjectionNCD, estimate_n_clusters
from tacit.cluster._pbn_tabular_ncd import _Projection, seed_away_from, spectral_embedding
from tacit.errors import ArgumentError
from tacit.evaluate import clustering_accuracy

METHODS = [ProjectionNCD(max_steps=60, lr=5e-3), NCDKMeans(), NCDSpectralClustering()]
each = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def places(n_classes=6, n=30, d=6, seed=0, spread=8):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(n_classes), n)
    return spread * np.eye(n_classes, d)[y] + rng.normal(size=(len(y), d)), y


def hide(y, first):
    return np.where(y >= first, -1, y)


def numbers(labels):
    return np.unique(labels, return_inverse=True)[1]


@each
@pytest.mark.parametrize("n_novel", [3, "auto"])
def test_it_finds_classes_that_are_apart(method, n_novel):
    X, y = places()
    model = method.set_params(n_novel=n_novel, random_state=0).fit(X, hide(y, 3))
    assert model.n_novel_ == 3
    assert model.classes_.tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(model.transduction_[y < 3], y[y < 3])
    assert float(clustering_accuracy(y, model.transduction_)) > 0.95
    assert (model.predict(X) == model.transduction_).mean() > 0.95
    np.testing.assert_array_equal(model.predict_novel(X)[y >= 3], model.transduction_[y >= 3])
    assert set(model.predict_novel(X)) <= {3, 4, 5}


def test_loss_against_the_equation():
    torch.manual_seed(0)
    learner = _Projection([5, 4, 3, 2], 3, 0.3, 0.0).eval()
    x, y = torch.randn(6, 5), torch.tensor([0, -1, 2, -1, 1, 0])
    told, rebuilt = [], []
    for row, label in zip(x, y.tolist(), strict=True):
        z = learner.encoder(row[None])[0]
        z = z / z.square().sum().sqrt()
        rebuilt.append(((learner.decoder(z[None])[0] - row) ** 2).sum().item())
        if label >= 0:
            told.append(-learner.classifier(z).log_softmax(0)[label].item())
    expected = 0.3 * np.mean(told) + 0.7 * np.mean(rebuilt)
    assert learner.loss(x, y).item() == pytest.approx(expected, rel=1e-5)
    assert learner.loss(x, torch.full((6,), -1)).item() == pytest.approx(0.7 * np.mean(rebuilt), rel=1e-5)


def test_starts_are_drawn_by_squared_distance_to_known_and_drawn_centres():
    rows, known = np.array([[1.0], [2.0], [4.0]]), np.array([[0.0], [5.0]])
    chance = np.random.RandomState(0)
    drawn = np.array([seed_away_from(rows, known, 2, chance).ravel() for _ in range(1500)])
    far = np.array([1.0, 4.0, 1.0])  # squared, to the nearest of 0 and 5
    for value, share in zip(rows.ravel(), far / far.sum(), strict=True):
        assert (drawn[:, 0] == value).mean() == pytest.approx(share, abs=0.04)
    after = drawn[drawn[:, 0] == 2.0, 1]  # then distances are 1, 0, 1
    assert (after == 1.0).mean() == pytest.approx(0.5, abs=0.06)
    assert not (after == 2.0).any()


def test_ncd_kmeans_is_lloyds_fixed_point_over_novel_rows_alone():
    X, y = places(spread=2)
    model = NCDKMeans(n_novel=3, random_state=0).fit(X, hide(y, 3))
    novel, centres = X[y >= 3], model.centers_[3:]
    nearest = cdist(novel, centres).argmin(axis=1)
    for j, centre in enumerate(centres):
        np.testing.assert_allclose(novel[nearest == j].mean(axis=0), centre, atol=1e-6)
    for c in range(3):
        np.testing.assert_allclose(X[y == c].mean(axis=0), model.centers_[c])
    assert model.inertia_ == pytest.approx((cdist(novel, centres).min(axis=1) ** 2).sum())


@pytest.mark.parametrize("n", [40, 220])
def test_spectral_embedding_against_the_dense_laplacian(n):
    X = np.random.default_rng(0).normal(size=(n, 3))
    squared = cdist(X, X, "sqeuclidean")
    longest = minimum_spanning_tree(np.sqrt(squared)).data.max() ** 2
    similarity = np.exp(squared * np.log(0.3) / longest)  # 0.3 at the tree's longest edge
    np.fill_diagonal(similarity, 0)
    root = np.diag(similarity.sum(axis=1) ** -0.5)
    values, vectors = np.linalg.eigh(np.eye(n) - root @ similarity @ root)
    found = spectral_embedding(squared, longest, 0.3, 3, seed=0)
    np.testing.assert_allclose(np.abs(found.T @ vectors[:, 1:4]), np.eye(3), atol=1e-6)
    assert values[0] == pytest.approx(0, abs=1e-9)


def test_spectral_clustering_follows_shapes_that_kmeans_cuts():
    angle = np.linspace(0, 6.2, 60)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    X, y = np.concatenate([ring, 3 * ring, 5 * ring, 7 * ring]), np.repeat([0, 1, 2, 3], 60)
    model = NCDSpectralClustering(n_novel=2, min_similarity=1e-4, n_components=3, random_state=0).fit(X, hide(y, 2))
    assert float(clustering_accuracy(y, model.transduction_)) == 1.0
    kmeans = NCDKMeans(n_novel=2, random_state=0).fit(X, hide(y, 2))
    assert float(clustering_accuracy(y, kmeans.transduction_)) < 1.0


@pytest.mark.parametrize("index", ["silhouette", "calinski_harabasz", "davies_bouldin"])
def test_the_number_of_clusters(index):
    X, _ = places(n_classes=4)
    assert estimate_n_clusters(X, most=8, index=index, random_state=0) == 4
    assert estimate_n_clusters(X[:2], random_state=0) == 1


def test_the_number_is_that_of_the_best_silhouette():
    from sklearn.cluster import KMeans

    X = np.random.default_rng(0).normal(size=(60, 2))
    chosen = estimate_n_clusters(X, most=6, random_state=0)
    scores = {k: silhouette_score(X, KMeans(k, n_init=20, random_state=1).fit_predict(X)) for k in range(2, 7)}
    assert scores[chosen] > max(scores.values()) - 0.03


class Fake(NCDKMeans):
    """Tells hidden classes apart only where it is told to; records what it was shown."""

    seen: ClassVar[list] = []

    def __init__(self, *, good=False, n_novel="auto", n_init=1, random_state=None):
        super().__init__(n_novel=n_novel, n_init=n_init, random_state=random_state)
        self.good = good

    def fit(self, X, y):
        self.seen.append((len(X), set(y.tolist()), self.n_novel))
        return super().fit(X if self.good else np.ones_like(X) * np.arange(len(X))[:, None] % 2, y)


def test_the_search_hides_known_classes_and_never_sees_novel_rows():
    X, y = places()
    Fake.seen.clear()
    search = HiddenClassSearchCV(Fake(n_novel=2), {"good": [False, True]}, n_folds=3, random_state=0)
    search.fit(X, hide(y, 4))
    assert search.best_params_ == {"good": True}
    assert search.best_score_ == 1.0
    assert len(search.cv_results_["params"]) == 2
    for n, labels, n_novel in Fake.seen[:-1]:
        assert (n, n_novel, len(labels)) == (120, 2, 3)  # 4 known classes: 2 shown, 2 hidden as -1
    assert Fake.seen[-1] == (180, {-1, 0, 1, 2, 3}, 2)
    np.testing.assert_array_equal(search.predict(X), search.best_estimator_.predict(X))
    with pytest.warns(UserWarning, match="at least 3"):
        HiddenClassSearchCV(NCDKMeans(n_novel=4), {"n_init": [1, 2]}).fit(X, hide(y, 2))


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(0)])
def test_all_settings_are_judged_on_the_same_hidden_classes(random_state):
    X, y = places()
    Fake.seen.clear()
    HiddenClassSearchCV(Fake(), {"good": [False, True]}, n_folds=3, random_state=random_state).fit(X, hide(y, 4))
    assert Fake.seen[:3] == Fake.seen[3:6]


@pytest.mark.parametrize("names", [np.array(list("abcd")), np.array(["a", "bb", "c", "d"], dtype=object)])
def test_known_classes_may_be_letters(names):
    X, y = places(4)
    search = HiddenClassSearchCV(NCDKMeans(n_novel=2), {"n_init": [2]}, random_state=0).fit(X, names[y])
    assert search.best_score_ == 1.0


def test_it_goes_into_a_pipeline_and_names_may_be_texts():
    X, y = places()
    names = np.array(["a", "b", "c", "-1", "-1", "-1"])[y]
    model = make_pipeline(StandardScaler(), NCDKMeans(n_novel=3, random_state=0)).fit(X, names)
    assert set(model.predict(X)) == {"a", "b", "c", "novel-0", "novel-1", "novel-2"}


@each
def test_what_cannot_be_is_refused(method):
    X, y = places(n=3)
    with pytest.raises(ArgumentError, match="n_novel=0"):
        method.set_params(n_novel=0).fit(X, hide(y, 3))
    with pytest.raises(ArgumentError, match="n_novel=10: expected at most the 9 different rows"):
        method.set_params(n_novel=10).fit(X, hide(y, 3))
    model = method.set_params(n_novel=2).fit(X, y)  # no novel row: a classifier
    assert model.n_novel_ == 0
    with pytest.raises(ArgumentError, match="y == -1"):
        model.predict_novel(X)
    with pytest.raises(ValueError, match="6 features"):
        model.predict(X[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        method.fit(np.full((4, 2), np.nan), [0, 0, -1, -1])


def test_settings_that_cannot_be_are_refused():
    X, y = places(n=3)
    with pytest.raises(ArgumentError, match="weight=2"):
        ProjectionNCD(n_novel=2, weight=2).fit(X, hide(y, 3))
    with pytest.raises(ArgumentError, match="dropout=1"):
        ProjectionNCD(n_novel=2, dropout=1).fit(X, hide(y, 3))
    with pytest.raises(ArgumentError, match="min_similarity=1"):
        NCDSpectralClustering(n_novel=2, min_similarity=1).fit(X, hide(y, 3))
    with pytest.raises(ArgumentError, match="at most 10000 rows"):
        NCDSpectralClustering(n_novel=2).fit(np.zeros((10_001, 1)), np.r_[0, np.full(10_000, 1)])


@settings(max_examples=10, deadline=None)
@given(st.integers(4, 15), st.integers(1, 4), st.sampled_from([np.float32, np.float64, np.int64]))
def test_any_small_shape_is_taken(n, d, dtype):
    X = np.random.default_rng(n).normal(scale=9, size=(n, d + 1)).astype(dtype)
    X[:, 0] = 1  # a constant column
    y = np.where(np.arange(n) < 2, [0, 1] + [0] * (n - 2), -1)
    for method in (ProjectionNCD(max_steps=1), NCDKMeans(), NCDSpectralClustering()):
        model = method.set_params(n_novel=1, random_state=0).fit(X, y)
        assert set(model.transduction_) == {0, 1, 2}


def test_without_known_classes_it_is_plain_clustering():
    X, y = places(n_classes=3)
    model = ProjectionNCD(n_novel=3, max_steps=60, lr=5e-3, random_state=0).fit(X, np.full(len(y), -1))
    assert model.classes_.tolist() == [0, 1, 2]
    assert float(clustering_accuracy(y, model.transduction_)) > 0.9
