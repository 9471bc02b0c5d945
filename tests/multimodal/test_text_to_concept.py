import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from tacit.errors import ArgumentError
from tacit.multimodal import TextToConcept


def pairs(n=80, d_z=6, d_y=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d_z)), rng.normal(size=(n, d_y))


def test_ridge_against_the_normal_equations():
    X, y = pairs()
    X = X + 3
    model = TextToConcept(ridge=0.1).fit(X, y)
    x, t = X - X.mean(0), y - y.mean(0)
    penalty = 0.1 * len(X) * X.var(0).mean()
    W = np.linalg.solve(x.T @ x + penalty * np.eye(6), x.T @ t).T
    np.testing.assert_allclose(model.coef_, W, rtol=1e-8)
    np.testing.assert_allclose(model.predict(X), x @ W.T + y.mean(0), rtol=1e-6, atol=1e-9)


def test_without_a_penalty_it_is_least_squares():
    X, y = pairs()
    expected = LinearRegression().fit(X, y).predict(X)
    np.testing.assert_allclose(TextToConcept(ridge=0).fit(X, y).predict(X), expected, rtol=1e-8)


def test_features_that_are_affine_images_are_mapped_back_exactly():
    rng = np.random.default_rng(1)
    y = rng.normal(size=(60, 4))
    X = y @ rng.normal(size=(4, 9)) + rng.normal(size=9)  # wider: rank 4
    model = TextToConcept(ridge=0).fit(X[:40], y[:40])
    np.testing.assert_allclose(model.predict(X[40:]), y[40:], atol=1e-8)


def test_the_penalty_has_no_unit():
    X, y = pairs()
    a, b = TextToConcept(ridge=0.3).fit(X, y).predict(X), TextToConcept(ridge=0.3).fit(100 * X, y).predict(100 * X)
    np.testing.assert_allclose(a, b, rtol=1e-8)


def test_scores_are_cosines_and_zero_shot_the_nearest():
    X, y = pairs()
    model = TextToConcept().fit(X, y)
    concepts = np.random.default_rng(2).normal(size=(3, 4)) * [[1], [5], [0.1]]
    aligned = model.predict(X)
    expected = [[a @ c / np.linalg.norm(a) / np.linalg.norm(c) for c in concepts] for a in aligned]
    np.testing.assert_allclose(model.concept_scores(X, concepts), expected)
    assert model.zero_shot(X, concepts).tolist() == np.argmax(expected, 1).tolist()


def test_select_keeps_items_that_meet_every_constraint():
    X, y = pairs(200)
    model = TextToConcept().fit(X, y)
    concepts = np.random.default_rng(3).normal(size=(2, 4))
    scores = model.concept_scores(X, concepts)
    mean, deviation = scores.mean(0), scores.std(0)
    expected = [
        i for i, (a, b) in enumerate(scores) if a > mean[0] + 0.5 * deviation[0] and b < mean[1] - 0.2 * deviation[1]
    ]
    assert model.select(X, concepts, [1, -1], [0.5, 0.2]).tolist() == expected
    assert 0 < len(expected) < 200


def test_what_cannot_be_is_refused():
    X, y = pairs()
    with pytest.raises(ArgumentError, match="ridge=-1"):
        TextToConcept(ridge=-1).fit(X, y)
    model = TextToConcept().fit(X, y)
    with pytest.raises(ArgumentError, match="concepts"):
        model.zero_shot(X, np.eye(3))
    with pytest.raises(ArgumentError, match="signs"):
        model.select(X, np.eye(4), [1, 2, 1, 1])
