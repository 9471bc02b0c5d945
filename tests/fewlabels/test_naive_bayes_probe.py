import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB

from tacit.errors import ArgumentError
from tacit.fewlabels import NaiveBayesProbe
from tacit.fewlabels._naive_bayes_probe import bayes_error, paper_mixture


def blobs(n=60, d=4, n_classes=3, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    x = 1.2 * rng.normal(size=(n_classes, d))[y] + rng.normal(size=(n, d)) * np.arange(1, d + 1)
    return x.astype(dtype), y


def slow_proba(x, y, new, smoothing):
    """The densities of the docstring, one item, class and feature at a time."""
    classes, d = sorted(set(y.tolist())), x.shape[1]
    means = {c: [np.mean([a[j] for a, b in zip(x, y, strict=True) if b == c]) for j in range(d)] for c in classes}
    variances = [
        np.mean([(a[j] - means[b][j]) ** 2 for a, b in zip(x, y.tolist(), strict=True)]) + smoothing * np.var(x[:, j])
        for j in range(d)
    ]
    rows = []
    for point in new:
        densities = []
        for c in classes:
            density = np.mean(y == c)
            for j in range(d):
                density *= np.exp(-((point[j] - means[c][j]) ** 2) / (2 * variances[j]))
                density /= np.sqrt(2 * np.pi * variances[j])
            densities.append(density)
        rows.append(np.array(densities) / sum(densities))
    return np.array(rows)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_probabilities_against_the_densities(smoothing):
    x, y = blobs()
    new, _ = blobs(10, seed=1)
    probe = NaiveBayesProbe(var_smoothing=smoothing, calibrate=False).fit(x, y)
    np.testing.assert_allclose(probe.predict_proba(new), slow_proba(x, y, new, smoothing), rtol=1e-9)
    np.testing.assert_allclose(np.exp(probe.predict_log_proba(new)), probe.predict_proba(new))


def test_it_is_a_linear_rule():
    x, y = blobs()
    probe = NaiveBayesProbe().fit(x, y)
    values = x @ probe.coef_.T + probe.intercept_
    np.testing.assert_array_equal(probe.classes_[values.argmax(axis=1)], probe.predict(x))
    values /= probe.temperature_
    expected = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probe.predict_proba(x), expected, rtol=1e-9)


def test_one_feature_is_linear_discriminant_analysis():
    """With a single feature the shared variance is the whole covariance."""
    x, y = blobs(d=1)
    probe = NaiveBayesProbe(var_smoothing=0.0, calibrate=False).fit(x, y)
    peer = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
    np.testing.assert_allclose(probe.predict_proba(x), peer.predict_proba(x), rtol=1e-6)


def test_means_and_priors_are_those_of_scikit_learn():
    x, y = blobs(50)
    probe, peer = NaiveBayesProbe(var_smoothing=0.0).fit(x, y), GaussianNB(var_smoothing=0.0).fit(x, y)
    np.testing.assert_allclose(probe.theta_, peer.theta_)
    np.testing.assert_allclose(probe.class_prior_, peer.class_prior_)
    np.testing.assert_allclose(probe.var_, peer.class_prior_ @ peer.var_)


@pytest.mark.parametrize("priors", [None, [0.2, 0.3, 0.5]])
def test_temperature_is_that_of_refitting_without_each_item(priors):
    x, y = blobs(30, seed=3)
    said = {"priors": priors, "var_smoothing": 0.1}
    values = []
    for item in range(30):
        others = np.arange(30) != item
        refit = NaiveBayesProbe(**said, calibrate=False).fit(x[others], y[others])
        values.append(refit.predict_log_proba(x[[item]])[0])
    values = np.array(values)
    target = np.full((30, 3), 1 / 32 / 2)
    target[np.arange(30), y] = 1 - 1 / 32
    temperatures = np.exp(np.linspace(0, 3, 3001))
    losses = []
    for temperature in temperatures:
        scaled = values / temperature
        losses.append((np.log(np.exp(scaled).sum(axis=1)) - (target * scaled).sum(axis=1)).mean())
    best = temperatures[int(np.argmin(losses))]
    assert best > 1.01
    assert NaiveBayesProbe(**said).fit(x, y).temperature_ == pytest.approx(best, rel=2e-3)


def test_a_feature_given_many_times_no_longer_makes_it_certain():
    """The naive assumption at its worst: copies of one feature count as independent witnesses, until calibrated."""
    x, y = blobs(400, d=1, seed=2)
    new, answers = blobs(4000, d=1, seed=2)
    x, new = np.repeat(x, 20, axis=1), np.repeat(new, 20, axis=1)
    single = NaiveBayesProbe(calibrate=False).fit(x[:, :1], y)
    raw, calibrated = NaiveBayesProbe(calibrate=False).fit(x, y), NaiveBayesProbe().fit(x, y)
    np.testing.assert_array_equal(raw.predict(new), calibrated.predict(new))
    losses = [log_loss(answers, p.predict_proba(new)) for p in (raw, calibrated)]
    assert losses[0] > losses[1] + 0.2
    assert losses[1] == pytest.approx(log_loss(answers, single.predict_proba(new[:, :1])), abs=0.05)


def test_where_the_model_is_true_it_reaches_the_error_in_closed_form():
    rng = np.random.default_rng(0)
    probe = NaiveBayesProbe().fit(*paper_mixture(6, 4, 5000, rng))
    x, y = paper_mixture(6, 4, 20_000, rng)
    assert 1 - probe.score(x, y) == pytest.approx(bayes_error(6, 4), abs=0.012)
    assert probe.temperature_ == pytest.approx(1, abs=0.1)


def test_scale_and_offset_of_features_do_not_matter():
    x, y = blobs()
    probe = NaiveBayesProbe(var_smoothing=0.2).fit(x, y)
    moved = NaiveBayesProbe(var_smoothing=0.2).fit(1e-3 * x + 1e6, y)
    np.testing.assert_allclose(moved.predict_proba(1e-3 * x + 1e6), probe.predict_proba(x), rtol=1e-3)


def test_constant_and_deciding_features():
    x, y = blobs()
    plain = NaiveBayesProbe().fit(x, y)
    with_constant = np.column_stack([x, np.full(len(x), 7.7)])
    probe = NaiveBayesProbe().fit(with_constant, y)
    assert np.isfinite(probe.predict_proba(with_constant)).all()
    np.testing.assert_allclose(probe.predict_proba(with_constant), plain.predict_proba(x))
    telling = np.column_stack([x, y])  # constant within each class
    assert NaiveBayesProbe().fit(telling, y).score(telling, y) == 1


def test_one_item_a_class_is_the_nearest_of_standardised_points():
    x, _ = blobs(3)
    probe = NaiveBayesProbe().fit(x, ["a", "b", "c"])
    new, _ = blobs(20, seed=5)
    distances = (((new[:, None] - x) / x.std(axis=0)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(probe.predict(new), np.array(["a", "b", "c"])[distances.argmin(axis=1)])
    assert probe.temperature_ == 1


def test_blocks_do_not_show(monkeypatch):
    x, y = blobs(101)
    whole = NaiveBayesProbe().fit(x, y)
    monkeypatch.setattr("tacit.fewlabels._naive_bayes_probe._blocks.__defaults__", (7,))
    parts = NaiveBayesProbe().fit(x, y)
    np.testing.assert_allclose(parts.predict_proba(x), whole.predict_proba(x), rtol=1e-10)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 30),
    st.integers(1, 6),
    st.integers(2, 5),
    st.integers(0, 9),
    st.sampled_from(["f4", "f8", "i8", "u1"]),
)
def test_any_shape_and_type_gives_probabilities(n, d, n_classes, seed, dtype):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, size=(n, d)).astype(dtype)
    y = rng.integers(n_classes, size=n)
    y[:2] = 0, 1
    found = NaiveBayesProbe().fit(x, y).predict_proba(x)
    assert found.shape == (n, len(np.unique(y)))
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_what_cannot_be_is_refused():
    x, y = blobs()
    with pytest.raises(ArgumentError, match="at least two classes"):
        NaiveBayesProbe().fit(x, np.zeros(len(x)))
    with pytest.raises(ArgumentError, match="var_smoothing=-1"):
        NaiveBayesProbe(var_smoothing=-1).fit(x, y)
    for priors in ([0.5, 0.5], [0.5, 0.6, 0.1], [1, 0, 0]):
        with pytest.raises(ArgumentError, match="priors"):
            NaiveBayesProbe(priors=priors).fit(x, y)
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        NaiveBayesProbe().fit(x, y)
