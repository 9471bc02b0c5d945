import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from torch import nn

from tacit.errors import ArgumentError
from tacit.fewlabels import RobustSelfTraining
from tacit.fewlabels._rss_ood_unlabeled import gaussian_error, shifted_gaussians, worst_case


@pytest.mark.parametrize("gamma", [0.05, 0.5, 5.0])  # 0.05 is below |w|^2 / 8: the supremum has two local maxima
def test_worst_case_of_a_linear_model_against_a_grid(gamma):
    linear = nn.Linear(2, 2).double()
    torch.manual_seed(0)
    linear.weight.data = torch.randn(2, 2, dtype=torch.double)
    x = 4 * torch.randn(6, 2, dtype=torch.double)
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    z = worst_case(linear, x, y, gamma)
    found = F.cross_entropy(linear(z), y, reduction="none") - gamma * (z - x).square().sum(1)
    reach = (linear.weight[1] - linear.weight[0]).norm().item() / (2 * gamma) + 1  # no row can gain by going further
    line = torch.linspace(-reach, reach, 601, dtype=torch.double)
    moves = torch.cartesian_prod(line, line)
    for i in range(6):
        values = F.cross_entropy(linear(x[i] + moves), y[i].expand(len(moves)), reduction="none")
        best = (values - gamma * moves.square().sum(1)).max()
        assert best - 1e-9 <= found[i] <= best + 2 * gamma * (reach / 300) ** 2


def test_ascent_finds_what_the_exact_solution_finds():
    torch.manual_seed(1)
    linear = nn.Linear(3, 2)
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    exact = worst_case(linear, x, y, 2.0)
    ascent = worst_case(nn.Sequential(linear), x, y, 2.0, steps=200)  # no nn.Linear: the general way
    torch.testing.assert_close(ascent, exact, atol=1e-3, rtol=0)
    assert worst_case(linear, x, y, math.inf) is x


def test_gradient_is_that_of_the_supremum():
    torch.manual_seed(2)
    x, y, gamma = torch.randn(4, 3, dtype=torch.double), torch.tensor([0, 1, 0, 1]), 1.5
    model = RobustSelfTraining(gamma=gamma)
    model._network = nn.Linear(3, 2).double()

    def objective(value):
        model._network.weight.data = value
        return model._robust(x, y, gamma).item()

    weight = model._network.weight.detach().clone()
    model._robust(x, y, gamma).backward()
    gradient = model._network.weight.grad.clone()
    for index in [(0, 1), (1, 2)]:
        step = torch.zeros_like(weight)
        step[index] = 1e-5
        slope = (objective(weight + step) - objective(weight - step)) / 2e-5
        assert slope == pytest.approx(gradient[index].item(), rel=1e-5)


def test_without_unlabeled_rows_and_moves_it_is_logistic_regression():
    X, y, _ = shifted_gaussians(5, 40, 1, shift=0.0, rng=np.random.default_rng(0), mean=0.7)
    found = RobustSelfTraining(gamma=math.inf, lam=0.0, weight_decay=0.05, max_steps=500).fit(X, y)

    def loss(theta):  # two weight vectors, half the difference each: |W|^2 = |w|^2 / 2, and so for the intercept
        margins = (2 * y - 1) * (X @ theta[:5] + theta[5])
        return np.logaddexp(0, -margins).mean() + 0.05 / 4 * theta @ theta

    expected = minimize(loss, np.zeros(6)).x
    np.testing.assert_allclose(np.append(found.coef_, found.intercept_), expected, atol=2e-3)
    np.testing.assert_allclose(found.predict_proba(X)[:, 1], expit(X @ expected[:5] + expected[5]), atol=2e-3)
    np.testing.assert_allclose(found.decision_function(X), X @ found.coef_[0] + found.intercept_, atol=1e-4)


def test_exact_error_against_simulation():
    rng = np.random.default_rng(1)
    X, y, _ = shifted_gaussians(4, 31, 1, shift=0.0, rng=rng, mean=1.0)
    model = LogisticRegression().fit(X, y)
    new, answers, _ = shifted_gaussians(4, 400_000, 1, shift=0.0, rng=rng, mean=1.0)
    assert gaussian_error(model, mean=1.0) == pytest.approx((model.predict(new) != answers).mean(), abs=0.003)


def test_domains_are_where_they_should_be():
    X, y, free = shifted_gaussians(3, 20_001, 20_000, shift=1.5, rng=np.random.default_rng(2))
    assert abs(int(y.sum()) * 2 - 20_001) == 1
    np.testing.assert_allclose(((2 * y - 1)[:, None] * X).mean(0), [2, 0, 0], atol=0.05)
    second = free.T @ free / len(free) - np.eye(3)  # mu_1 mu_1'
    values, vectors = np.linalg.eigh(second)
    moved = vectors[:, -1] * np.sqrt(values[-1])
    moved *= np.sign(moved[0])
    assert np.linalg.norm(moved - [2, 0, 0]) == pytest.approx(1.5, abs=0.1)


def test_unlabeled_rows_help_and_several_classes_work():
    X, y, free = shifted_gaussians(30, 10, 1000, shift=0.5, rng=np.random.default_rng(3))
    alone, robust = RobustSelfTraining(lam=0.0).fit(X, y), RobustSelfTraining().fit(X, y, X_unlabeled=free)
    assert gaussian_error(robust) < gaussian_error(alone)
    assert np.array_equal(RobustSelfTraining().fit(X, y).coef_, alone.coef_)
    x, names = load_iris(return_X_y=True)
    x, few = (x - x.mean(0)) / x.std(0), np.arange(0, 150, 10)
    for hidden_dim in (None, 16):
        model = RobustSelfTraining(hidden_dim=hidden_dim, gamma=10.0, max_steps=30, random_state=0)
        model.fit(x[few], names[few], X_unlabeled=x)
        assert model.score(x, names) > 0.85
        assert model.decision_function(x).shape == (150, 3)


def test_bad_input():
    X, y, free = shifted_gaussians(3, 10, 10, shift=0.0, rng=np.random.default_rng(0))
    with pytest.raises(ArgumentError, match="gamma"):
        RobustSelfTraining(gamma=0).fit(X, y)
    with pytest.raises(ArgumentError, match="lam"):
        RobustSelfTraining(lam=-1).fit(X, y)
    with pytest.raises(ArgumentError, match="two classes"):
        RobustSelfTraining().fit(X, np.ones(10))
    with pytest.raises(ValueError, match="features"):
        RobustSelfTraining().fit(X, y, X_unlabeled=free[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        RobustSelfTraining().fit(X, y, X_unlabeled=np.full((4, 3), np.nan))
