import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from tacit.errors import ArgumentError
from tacit.robust import ShortcutTask, shortcut_bias
from tacit.robust._shortcut_availability import Networks, reliance, train_networks


@pytest.fixture
def task():
    return ShortcutTask(alpha_ratio=9, dim=8)


def test_latents_have_the_predictivities_and_the_correlation(task):
    columns = task.sample(200_000, seed=1)
    y = 2 * columns["y"] - 1
    rho = (np.sign(columns["z"]) == y[:, None]).mean(axis=0)
    np.testing.assert_allclose(rho, [0.85, 0.9], atol=0.005)
    np.testing.assert_allclose(np.cov((columns["z"] - y[:, None] * task.means).T), task.covariance, atol=0.02)


def test_x_is_the_amplified_latents_in_a_rotated_frame(task):
    columns = task.sample(50, seed=2)
    np.testing.assert_allclose(task.latents(columns["x"]), columns["z"], atol=1e-5)
    x, z = columns["x"].astype(float), columns["z"]
    squares = 9 * z[:, 0] ** 2 + z[:, 1] ** 2 / 9  # a frame keeps lengths
    np.testing.assert_allclose((x**2).sum(axis=1), squares, rtol=1e-4)
    assert np.linalg.matrix_rank(x, tol=1e-4) == 2


def test_reference_is_scikit_learns_lda_in_the_limit(task):
    columns = task.sample(200_000, seed=3)
    lda = LinearDiscriminantAnalysis().fit(columns["z"], columns["y"])
    direction = lda.coef_[0] / np.linalg.norm(lda.coef_)
    np.testing.assert_allclose(direction, task.bayes / np.linalg.norm(task.bayes), atol=0.01)
    assert abs(shortcut_bias(LinearDiscriminantAnalysis().fit(columns["x"], columns["y"]), task)) < 0.02


def test_reference_is_the_better_class_by_density(task):
    """The class whose Gaussian is higher at z, by its density."""
    z = task.probes(20)
    inverse = np.linalg.inv(task.covariance)
    square = [np.einsum("ni,ij,nj->n", z - s * task.means, inverse, z - s * task.means) for s in (-1, 1)]
    np.testing.assert_array_equal(square[0] > square[1], z @ task.bayes > 0)


def test_reliance_and_bias_by_a_slow_loop(task):
    rng = np.random.default_rng(0)
    decisions, z = rng.normal(size=30), rng.normal(size=(30, 2))
    count = 0
    for decision, (shortcut, core) in zip(decisions, z, strict=True):
        count += ((decision > 0) == (shortcut > 0)) - int((decision > 0) == (core > 0))
    assert reliance(decisions, z) == pytest.approx(count / 30)
    a, b = task.bayes  # core-leaning: of the probes where signs disagree, the share that the core decides, by areas
    exact = 0.5 * (a / b / 2 - (1 - a / b / 2))
    assert shortcut_bias(lambda x: task.latents(x)[:, 1], task) == pytest.approx(-0.5 - exact, abs=0.01)


def test_models_are_read_alike(task):
    columns = task.sample(500, seed=4)
    lda = LinearDiscriminantAnalysis().fit(columns["x"], columns["y"])
    expected = shortcut_bias(lda, task)
    linear = nn.Linear(8, 1)
    linear.weight.data, linear.bias.data = (torch.tensor(v, dtype=torch.float32) for v in (lda.coef_, lda.intercept_))
    assert shortcut_bias(linear, task) == pytest.approx(expected, abs=2e-3)
    assert shortcut_bias(lda.predict_log_proba, task) == pytest.approx(expected)

    class Names:
        predict = staticmethod(lda.predict)

    assert shortcut_bias(Names(), task) == pytest.approx(expected)


def test_nesting_keeps_the_power_and_winds_the_line():
    task = ShortcutTask(alpha_ratio=1, nesting_core=2, dim=20)
    columns = task.sample(4000, seed=5)
    core = columns["x"] @ task.basis[:, 1]
    assert np.square(core).sum(axis=1).mean() == pytest.approx(1 + task.means[1] ** 2, rel=0.01)
    assert np.linalg.matrix_rank(core, tol=1.0) > 1
    with pytest.raises(ArgumentError, match="nesting"):
        task.latents(columns["x"])


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
def test_networks_side_by_side_are_networks_alone(activation):
    generator = torch.Generator().manual_seed(0)
    networks = Networks(3, 4, activation, 5, generator)
    x = torch.randn(3, 7, 4, generator=generator)
    for k in range(3):
        layers = []
        for weight, bias in zip(networks.weights, networks.biases, strict=True):
            layer = nn.Linear(*weight.shape[1:])
            layer.weight.data, layer.bias.data = weight[k].T, bias[k, 0]
            layers += [layer, networks.activation]
        alone = nn.Sequential(*layers[:-1])
        torch.testing.assert_close(networks(x)[k], alone(x[k])[:, 0])


def test_networks_learn(task):
    columns = task.sample(2000, seed=6)
    x, y = torch.from_numpy(columns["x"])[None], torch.from_numpy(columns["y"])[None]
    networks = train_networks(x, y, "relu", steps=150)
    best = ((columns["z"] @ task.bayes > 0) == columns["y"]).mean()
    assert ((networks(x) > 0) == y).double().mean() > best - 0.02


@pytest.mark.parametrize(
    "wrong", [{"rho_core": 1.0}, {"rho_shortcut": 0.4}, {"alpha_ratio": 0}, {"dim": 3}, {"correlation": 1}]
)
def test_bad_settings(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        ShortcutTask(**wrong)
