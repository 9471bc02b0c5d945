import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.evaluate import linear_probe
from tacit.evaluate._linear import PENALTIES, _fifth_of_each_class, _fit, choose_penalty


def blobs(n, d, classes, spread, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    means = np.random.default_rng(99).normal(size=(classes, d)) * spread
    return (rng.normal(size=(n, d)) + means[y]).astype(np.float32), y


@pytest.mark.parametrize("penalty", [PENALTIES[0], 1e-2, PENALTIES[-1]])
def test_reaches_the_optimum_of_the_equation(penalty):
    """min_W,b  C sum_i -log softmax(W x_i + b)[y_i] + |W|^2 / 2, against torch's LBFGS in float64."""
    x, y = blobs(400, 8, 3, 0.7, seed=0)
    probe = _fit(x, y, penalty)
    inputs, targets = torch.from_numpy(x).double(), torch.from_numpy(y)
    weight = torch.zeros(3, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def objective(weight, bias):
        return penalty * F.cross_entropy(inputs @ weight.T + bias, targets, reduction="sum") + weight.square().sum() / 2

    optimiser = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = objective(weight, bias)
        loss.backward()
        return loss

    optimiser.step(closure)
    found = objective(torch.from_numpy(probe.coef_).double(), torch.from_numpy(probe.intercept_).double())
    assert float(found) == pytest.approx(objective(weight, bias).item(), rel=1e-4)


def test_choosing_by_warm_starts_equals_choosing_by_cold_fits():
    x, y = blobs(500, 40, 5, 0.25, seed=1)
    held = _fifth_of_each_class(y, 0)
    cold = [(_fit(x[~held], y[~held], c).predict(x[held]) == y[held]).sum() for c in PENALTIES]
    assert choose_penalty(x, y) == PENALTIES[int(np.argmax(cold))]


def test_few_noisy_items_choose_a_strong_penalty_and_clean_ones_a_weak_one():
    noisy, clean = blobs(200, 100, 2, 0.05, seed=2), blobs(4000, 2, 2, 0.5, seed=2)
    assert choose_penalty(*noisy) < 1
    assert linear_probe(*clean, *blobs(2000, 2, 2, 0.5, seed=3)).value > 0.6


def test_scale_and_shift_of_features_do_not_matter():
    (x, y), (test_x, test_y) = blobs(300, 6, 3, 0.6, seed=0), blobs(200, 6, 3, 0.6, seed=1)
    scale, shift = np.array([1e-3, 1, 1e3, 1, 5, 1]), np.array([0, 100, 0, -5, 0, 1])
    assert linear_probe(x, y, test_x, test_y) == linear_probe(x * scale + shift, y, test_x * scale + shift, test_y)


def test_holds_out_a_fifth_of_each_class_and_never_all_of_one():
    y = np.repeat([0, 1, 2], [100, 10, 4])
    held = _fifth_of_each_class(y, seed=0)
    assert np.bincount(y[held], minlength=3).tolist() == [20, 2, 0]
    assert not (held == _fifth_of_each_class(y, seed=1)).all()


def test_two_items_are_enough():
    assert linear_probe([[0.0], [1.0]], np.array(["a", "b"]), [[-1.0], [2.0]], np.array(["a", "b"])).value == 1


def test_refuses():
    with pytest.raises(ArgumentError, match="train_y: expected at least 2 classes"):
        linear_probe(np.eye(3), np.zeros(3), np.eye(3), np.zeros(3))
    with pytest.raises(ArgumentError, match="test_x: expected finite"):
        linear_probe(np.eye(3), np.arange(3), np.full((3, 3), np.inf), np.zeros(3))
