"""The programs against all partitions, their own duality, and CVXPY; the estimators against EM's formulas."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans

from tacit.cluster import LikelihoodAdjustedSDP, SDPKMeans
from tacit.cluster._ila_sdp import _cost, _partition
from tacit.cluster._sdp import (
    _capped_simplex,
    _leading_pairs,
    _spectraplex,
    _Spectrum,
    multipliers,
    partition_matrix,
    solve_grouped,
    solve_peng_wei,
)
from tacit.evaluate import clustering_accuracy


def mixture(n, d, k, distance, seed=0):
    g = np.random.default_rng(seed)
    y = np.arange(n) % k
    return distance / np.sqrt(2) * np.eye(k, d)[y] + g.standard_normal((n, d)), y


def partitions(n, k):
    """All of n items into exactly k labelled groups."""
    for groups in itertools.product(range(k), repeat=n):
        if len(set(groups)) == k:
            yield np.array(groups)


def inertia(x, groups):
    return sum(np.square(x[groups == k] - x[groups == k].mean(0)).sum() for k in set(groups.tolist()))


def gram_cost(x):
    x = x - x.mean(0)
    return -x @ x.T


def grouped_costs(x, y, k):
    return np.stack([_cost(x, np.cov(x[y == j].T) + 0.1 * np.eye(x.shape[1])) for j in range(k)])


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_of_the_kmeans_program_lies_below_the_best_of_all_partitions(seed):
    x = np.random.default_rng(seed).standard_normal((7, 2))
    best = min(inertia(x, groups) for groups in partitions(7, 3))
    model = SDPKMeans(n_clusters=3, tol=1e-5, max_iter=3000, random_state=0).fit(x)
    assert model.gap_ <= 1e-5
    assert model.lower_bound_ <= best + 1e-9
    assert model.inertia_ >= best - 1e-9
    assert model.lower_bound_ >= 0.85 * best  # the relaxation is tight or nearly so


def test_on_groups_apart_the_answer_is_the_best_partition_and_proves_it():
    x, y = mixture(40, 3, 3, 12.0)
    model = SDPKMeans(n_clusters=3, random_state=0, tol=1e-5, max_iter=2000).fit(x)
    assert clustering_accuracy(y, model.labels_).value == 1
    assert model.inertia_ == pytest.approx(model.lower_bound_, rel=1e-3)
    expected = (y[:, None] == y) / np.bincount(y)[y]
    np.testing.assert_allclose(model.membership_, expected, atol=2e-3)


@pytest.mark.parametrize("distance", [1.0, 3.0])
def test_kmeans_program_by_its_optimality_conditions(distance):
    """Primal feasible up to the gap, and the bound is below the objective of any feasible point, here many of them."""
    x, y = mixture(24, 4, 3, distance)
    cost = gram_cost(x)
    solution = solve_peng_wei(cost, 3, tol=1e-5, max_iter=5000)
    assert solution.gap <= 1e-5
    z = solution.z
    np.testing.assert_allclose(z.sum(1), 1, atol=1e-9)
    assert np.trace(z) == pytest.approx(3, abs=1e-9)
    assert np.linalg.eigvalsh(z)[0] > -1e-9
    assert z.min() > -1e-4
    assert solution.bound <= (cost * z).sum() + 1e-3
    for groups in [y, *(np.random.default_rng(s).permutation(y) for s in range(20))]:
        assert solution.bound <= (cost * _partition(groups, 3).sum(0)).sum() + 1e-9


def test_grouped_program_by_its_optimality_conditions_and_all_partitions():
    x, y = mixture(7, 2, 2, 2.0, seed=3)
    x[y == 1] *= 2
    costs = grouped_costs(x, y, 2)
    solution = solve_grouped(costs, tol=1e-4, max_iter=5000)
    assert solution.gap <= 1e-4
    np.testing.assert_allclose(solution.z.sum((0, 2)), 1, atol=1e-9)
    np.testing.assert_allclose(np.trace(solution.z, axis1=1, axis2=2), 1, atol=1e-6)
    objective = [(costs * _partition(groups, 2)).sum() for groups in partitions(7, 2)]
    assert solution.bound <= min(objective) + 1e-9
    assert solution.bound >= min(objective) - 0.1 * abs(solution.uninformed - min(objective))


def test_the_cost_is_minus_twice_the_profile_log_likelihood():
    x, y = mixture(30, 3, 3, 2.0)
    covariances = [np.cov(x[y == k].T) for k in range(3)]
    costs = np.stack([_cost(x, covariance) for covariance in covariances])
    likelihood = sum(multivariate_normal(x[y == k].mean(0), covariances[k]).logpdf(x[y == k]).sum() for k in range(3))
    assert (costs * _partition(y, 3)).sum() + x.size * np.log(2 * np.pi) == pytest.approx(-2 * likelihood)


def test_both_programs_against_cvxpy():
    cvxpy = pytest.importorskip("cvxpy")
    x, y = mixture(20, 3, 3, 2.5)
    cost = gram_cost(x)
    z = cvxpy.Variable((20, 20), PSD=True)
    rules = [cvxpy.trace(z) == 3, cvxpy.sum(z, axis=1) == 1, z >= 0]
    expected = cvxpy.Problem(cvxpy.Minimize(cvxpy.trace(cost @ z)), rules).solve(solver="CLARABEL")
    found = solve_peng_wei(cost, 3, tol=2e-5, max_iter=5000)
    assert found.value == pytest.approx(expected, rel=1e-4)
    assert found.bound == pytest.approx(expected, rel=1e-4)

    costs = grouped_costs(x[:14], y[:14], 3)
    each = [cvxpy.Variable((14, 14), PSD=True) for _ in range(3)]
    rules = [rule for one in each for rule in (cvxpy.trace(one) == 1, one >= 0)]
    rules.append(sum(cvxpy.sum(one, axis=1) for one in each) == 1)
    total = sum(cvxpy.trace(c @ one) for c, one in zip(costs, each, strict=True))
    expected = cvxpy.Problem(cvxpy.Minimize(total), rules).solve(solver="CLARABEL")
    found = solve_grouped(costs, tol=2e-5, max_iter=8000)
    scale = abs(found.uninformed - expected)
    assert abs(found.value - expected) <= 1e-4 * scale
    assert abs(found.bound - expected) <= 1e-4 * scale


@pytest.mark.parametrize("distance", [1.0, 12.0])
def test_multipliers_are_dual_feasible_and_prove_groups_that_stand_out(distance):
    x, y = mixture(31, 3, 3, distance, seed=5)
    n = multipliers(gram_cost(x), y)
    assert n.min() >= 0
    np.testing.assert_allclose(n, n.T)
    assert n[y[:, None] == y].max() == 0
    solution = solve_peng_wei(gram_cost(x), 3, tol=1e-6, max_iter=1, groups=y)
    assert solution.bound <= (gram_cost(x) * partition_matrix(y)).sum() + 1e-9
    assert (solution.n_iter == 0) == (distance == 12.0)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_the_capped_simplex_is_the_nearest_point(values, total):
    values, total = np.array(values), min(total, len(values))
    found = _capped_simplex(values, total)
    assert found.sum() == pytest.approx(total, abs=1e-9)
    assert found.min() >= 0
    assert found.max() <= 1
    g = np.random.default_rng(0)
    for _ in range(20):  # the projection p of v: (v - p) (q - p) <= 0 for all q of the set
        other = g.permutation(np.r_[np.ones(total), np.zeros(len(values) - total)])
        assert (values - found) @ (other - found) <= 1e-8


def test_the_spectraplex_is_the_nearest_matrix():
    g = np.random.default_rng(0)
    m = g.standard_normal((2, 5, 5))
    m = m + m.transpose(0, 2, 1)
    found = _spectraplex(m)
    np.testing.assert_allclose(np.trace(found, axis1=1, axis2=2), 1)
    assert np.linalg.eigvalsh(found).min() > -1e-12
    for _ in range(50):
        v = g.standard_normal(5)
        other = np.outer(v, v) / (v @ v)
        assert ((m - found) * (other - found)).sum((1, 2)).max() <= 1e-9


def test_leading_eigenvectors_are_as_good_as_all(monkeypatch):
    x, _ = mixture(60, 5, 4, 6.0)
    whole = solve_peng_wei(gram_cost(x), 4, tol=1e-4, max_iter=1000)
    asked = []
    monkeypatch.setattr("tacit.cluster._sdp.FULL_SPECTRUM", 20)
    monkeypatch.setattr("tacit.cluster._sdp._leading_pairs", lambda m, k, v: asked.append(k) or _leading_pairs(m, k, v))
    monkeypatch.setattr(_Spectrum, "_remember", lambda self, kept, vectors: remember(self, kept, vectors))

    def remember(spectrum, kept, vectors):
        spectrum.wanted, spectrum.first = 5, vectors.sum(1)
        return kept[kept > 0], vectors[:, kept > 0]

    part = solve_peng_wei(gram_cost(x), 4, tol=1e-4, max_iter=1000)
    assert asked
    assert part.value == pytest.approx(whole.value, rel=1e-3)
    assert part.bound == pytest.approx(whole.bound, rel=1e-3)


def test_unequal_shapes_are_told_apart_where_kmeans_cannot():
    g = np.random.default_rng(1)
    y = np.arange(80) % 2
    x = g.standard_normal((80, 2)) * np.where(y[:, None] == 0, [0.2, 4.0], [0.2, 4.0]) + y[:, None] * [3.0, 0.0]
    plain = clustering_accuracy(y, KMeans(2, n_init=10, random_state=0).fit_predict(x)).value
    model = LikelihoodAdjustedSDP(n_clusters=2, init="kmeans", random_state=0).fit(x)
    ours = clustering_accuracy(y, model.labels_).value
    assert plain < 0.8
    sure = LikelihoodAdjustedSDP(n_clusters=2, init=y, random_state=0).fit(x)
    assert clustering_accuracy(y, sure.labels_).value == 1  # the truth stays where it is
    assert sure.log_likelihood_ >= model.log_likelihood_ - 1e-6 or ours == 1
    np.testing.assert_allclose(sure.membership_.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(sure.predict(x), sure.labels_)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_more_rows_than_a_program_holds_go_to_the_likeliest_group(kind):
    x, y = mixture(300, 3, 2, 10.0)
    model = LikelihoodAdjustedSDP(n_clusters=2, covariance=kind, max_samples=40, random_state=0).fit(x)
    assert len(model.sample_indices_) == 40
    assert clustering_accuracy(y, model.labels_).value == 1
    plain = SDPKMeans(n_clusters=2, max_samples=40, random_state=0).fit(x)
    assert clustering_accuracy(y, plain.labels_).value == 1


@pytest.mark.parametrize("estimator", [SDPKMeans, LikelihoodAdjustedSDP])
def test_what_cannot_be_is_refused_and_the_rest_answered(estimator):
    x, _ = mixture(6, 2, 2, 5.0)
    with pytest.raises(ValueError, match="n_samples=6"):
        estimator(n_clusters=7).fit(x)
    with pytest.raises(ValueError, match="NaN"):
        estimator(n_clusters=2).fit(np.full((4, 2), np.nan))
    with pytest.raises(ValueError, match="n_clusters=0"):
        estimator(n_clusters=0).fit(x)
    with pytest.raises(ValueError, match="features"):
        estimator(n_clusters=2).fit(x).predict(np.ones((2, 5)))
    assert len(set(estimator(n_clusters=6).fit(x).labels_)) == 6
    assert set(estimator(n_clusters=1).fit(x).labels_) == {0}
    constant = estimator(n_clusters=2, random_state=0).fit(np.c_[x, np.ones(6)])
    assert len(constant.labels_) == 6


def test_words_of_the_likelihood_program_are_checked():
    x, _ = mixture(8, 2, 2, 5.0)
    with pytest.raises(ValueError, match="covariance='ful'"):
        LikelihoodAdjustedSDP(n_clusters=2, covariance="ful").fit(x)
    with pytest.raises(ValueError, match="init"):
        LikelihoodAdjustedSDP(n_clusters=2, init=np.full(8, 2)).fit(x)
    with pytest.raises(ValueError, match="init='best'"):
        LikelihoodAdjustedSDP(n_clusters=2, init="best").fit(x)
