import numpy as np
import pytest
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor

from tacit.errors import ArgumentError
from tacit.theory import FactorModel, MLEPretrainedPredictor
from tacit.theory._mle_pretrain_erm import log_slope, same_moments


@pytest.fixture
def model():
    return FactorModel.draw(12, 3, np.random.default_rng(0))


def test_two_d_rows_have_the_same_likelihood_as_all(model):
    X, _ = model.sample(200, np.random.default_rng(1))
    X = X + np.arange(12)
    rows = same_moments(X)
    assert rows.shape == (24, 12)
    np.testing.assert_allclose(rows.mean(0), X.mean(0), atol=1e-9)
    np.testing.assert_allclose(np.cov(rows.T, bias=True), np.cov(X.T, bias=True), atol=1e-9)
    few, all_ = (FactorAnalysis(3, tol=1e-7 * len(x), max_iter=2000, svd_method="lapack").fit(x) for x in (rows, X))
    np.testing.assert_allclose(few.get_covariance(), all_.get_covariance(), atol=1e-2)
    assert few.score(X) == pytest.approx(all_.score(X), abs=1e-5)


def test_latents_are_the_posterior_means_and_the_head_is_least_squares(model):
    rng = np.random.default_rng(2)
    X_unlabeled, _ = model.sample(4000, rng)
    X, y = model.sample(40, rng)
    found = MLEPretrainedPredictor(latent=FactorAnalysis(3, svd_method="lapack")).fit(X, y, X_unlabeled=X_unlabeled)
    B, psi = found.latent_.components_.T, found.latent_.noise_variance_
    means = (X - found.latent_.mean_) @ np.linalg.solve(B @ B.T + np.diag(psi), B)  # E[z | x] of a joint Gaussian
    np.testing.assert_allclose(found.encode(X), means, rtol=1e-6, atol=1e-8)
    design = np.column_stack([np.ones(40), means])
    np.testing.assert_allclose(found.predict(X), design @ np.linalg.lstsq(design, y, rcond=None)[0], atol=1e-8)
    assert np.abs(found.latent_.get_covariance() - model.covariance).max() < 0.2 * model.covariance.max()


def test_excess_risk_against_simulation(model):
    rng = np.random.default_rng(3)
    X, y = model.sample(25, rng)
    rule = LinearRegression().fit(X, y)
    new, answers = model.sample(400_000, rng)
    best = new @ np.linalg.solve(model.covariance, model.loadings @ model.beta)
    excess = ((rule.predict(new) - answers) ** 2 - (best - answers) ** 2).mean()
    assert model.excess_risk(rule.predict) == pytest.approx(excess, rel=0.02)
    assert model.excess_risk(lambda rows: rows @ np.linalg.solve(model.covariance, model.loadings @ model.beta)) < 1e-12


def test_best_head_is_the_limit_of_many_labels(model):
    rng = np.random.default_rng(4)
    latent = FactorAnalysis(2).fit(model.sample(300, rng)[0])  # one factor too few
    X, y = model.sample(200_000, rng)
    head = LinearRegression().fit(latent.transform(X), y)
    weights, risk = model.best_head(latent)
    np.testing.assert_allclose(head.coef_, weights, atol=0.02)
    assert 0 < risk <= model.excess_risk(lambda rows: head.predict(latent.transform(rows))) < risk + 1e-3


def test_the_exact_rate_of_the_head(model):
    """Least squares on r Gaussian features with constant: its excess by the Wishart mean."""
    rng = np.random.default_rng(5)
    latent = PCA(3).fit(model.sample(2000, rng)[0])
    weights, floor = model.best_head(latent)
    n, risks = 40, []
    for _ in range(300):
        X, y = model.sample(n, rng)
        head = LinearRegression().fit(latent.transform(X), y)
        risks.append(model.excess_risk(lambda rows, head=head: head.predict(latent.transform(rows))) - floor)
    noise = 1 + model.sigma**2 - (1 - model.beta @ model.beta)  # var y, with |beta| = 1
    maps = latent.components_
    noise -= weights @ maps @ model.covariance @ maps.T @ weights  # what z leaves unexplained
    expected = noise * (3 / (n - 3 - 2) + (1 + 3 / (n - 3 - 2)) / n)
    assert np.mean(risks) == pytest.approx(expected, rel=0.2)


def test_slope_and_interval_of_an_exact_power():
    slope, low, high = log_slope([10, 20, 40], [2, 1, 0.5])
    assert (slope, low, high) == pytest.approx((-1, -1, -1))
    slope, low, high = log_slope([1, 2, 4, 8], [1, 0.3, 0.35, 0.1])
    assert low < slope < high


def test_a_mixture_and_a_classifier():
    rng = np.random.default_rng(6)
    means = np.array([[0.0, 0], [6, 0], [0, 6]])
    y = rng.integers(3, size=600)
    X = means[y] + rng.normal(size=(600, 2))
    few = [int(np.flatnonzero(y == label)[0]) for label in range(3)]
    names = np.array(["a", "b", "c"])[y]
    found = MLEPretrainedPredictor(latent=GaussianMixture(3, random_state=0), head=LogisticRegression(C=100))
    found.fit(X[few], names[few], X_unlabeled=X)
    assert found.score(X, names) > 0.97
    assert list(found.classes_) == ["a", "b", "c"]
    np.testing.assert_allclose(found.predict_proba(X).sum(1), 1)
    np.testing.assert_allclose(found.encode(X), found.latent_.predict_proba(X))
    assert not hasattr(MLEPretrainedPredictor(), "predict_proba")


def test_bad_input(model):
    X, y = model.sample(10, np.random.default_rng(0))
    with pytest.raises(ArgumentError, match="latent"):
        MLEPretrainedPredictor(latent=LocalOutlierFactor()).fit(X, y)
    with pytest.raises(ValueError, match="features"):
        MLEPretrainedPredictor().fit(X, y, X_unlabeled=X[:, :3])
    with pytest.raises(ValueError, match="NaN"):
        MLEPretrainedPredictor().fit(X, y, X_unlabeled=np.full((5, 12), np.nan))
