import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from torch import nn

from tacit.analysis import feature_complexity, feature_importance, usable_information
from tacit.analysis._feature_complexity import factorise, read_layers, time_learned
from tacit.errors import ArgumentError, DataError
from tacit.nn import ResNet


def parts(x, z):
    n = len(x)
    cuts = (slice(0, n // 2), slice(n // 2, 3 * n // 4), slice(3 * n // 4, n))
    return [side[rows] for rows in cuts for side in (x, z)]


def test_information_is_the_r2_of_scikit_learn_s_ridge_with_the_best_penalty():
    chance = np.random.default_rng(0)
    x = chance.normal(size=(200, 12)) * chance.uniform(0.1, 5, size=12) + 3
    z = x[:, :3] @ chance.normal(size=(3, 4)) + chance.normal(size=(200, 4)) * [0.1, 1, 5, 50]
    train_x, train_z, val_x, val_z, new_x, new_z = parts(x, z)
    mean, std = train_x.mean(0), train_x.std(0)
    expected = []
    for column in range(4):
        fits = [
            Ridge(alpha=penalty * len(train_x)).fit((train_x - mean) / std, train_z[:, column])
            for penalty in np.logspace(-6, 1, 8)
        ]
        best = max(fits, key=lambda fit: fit.score((val_x - mean) / std, val_z[:, column]))
        error = np.square(new_z[:, column] - best.predict((new_x - mean) / std)).sum()
        total = np.square(new_z[:, column] - train_z[:, column].mean()).sum()
        expected.append(max(0, 1 - error / total))
    np.testing.assert_allclose(usable_information(*parts(x, z)), expected, atol=1e-9)


def test_information_of_a_gaussian_pair_is_its_squared_correlation():
    chance = np.random.default_rng(1)
    x = chance.normal(size=(40_000, 1))
    z = np.concatenate([rho * x + np.sqrt(1 - rho**2) * chance.normal(size=x.shape) for rho in (0, 0.5, 0.9)], axis=1)
    np.testing.assert_allclose(usable_information(*parts(x, z)), [0, 0.25, 0.81], atol=0.02)


def test_a_larger_family_of_probes_tells_no_less():
    chance = np.random.default_rng(2)
    x = chance.normal(size=(400, 3))
    z = np.stack([x[:, 0], np.sin(2 * x[:, 0]) * x[:, 1], np.abs(x[:, 2])], axis=1)
    same = [x, z] * 3  # on its own rows, where a family that holds another can only fit better
    told = np.stack([usable_information(*same, probe_size=size) for size in (0, 10, 40, 160)])
    assert (np.diff(told, axis=0) >= -1e-6).all()
    assert told[0, 2] < 0.1
    assert told[-1].min() > 0.7
    by_hand = LinearRegression().fit(x, z[:, 2]).score(x, z[:, 2])
    assert told[0, 2] == pytest.approx(by_hand, abs=1e-4)


class Layered(nn.Module):
    """Two linear layers and ReLUs on flat pixels: what each layer tells is known."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Flatten(), nn.ReLU()

    def forward(self, x):
        flat = self.first(x)
        return self.second(torch.cat([flat[:, :1] + 5, flat[:, 1:2] * flat[:, 2:3] + 5], 1))


def test_what_is_linear_in_the_input_is_simple_and_what_is_a_product_is_not():
    x = torch.rand(600, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = Layered()
    layers = ["first", "second"]
    read = read_layers(model, x, layers, 4)
    simple, hard = usable_information(*parts(read[0], read[1]))
    assert simple > 0.999
    assert hard < 0.1
    found = feature_complexity(model, x, layers=layers, n_features=2)
    assert (found.information[:, 1] > 0.9).all()
    np.testing.assert_allclose(found.complexity, 1 - (found.information[:, 0] + found.information[:, 1]) / 2)


def test_layers_are_read_as_the_model_computes_them():
    torch.manual_seed(0)
    model, x = ResNet(8, width=4, image_size=8), torch.rand(5, 3, 8, 8)
    model.eval()
    stem = model.stem(model.normalize(x))
    expected = torch.stack([stem[:, :, i : i + 4, j : j + 4].mean((2, 3)) for i in (0, 4) for j in (0, 4)], 2)
    got, last = read_layers(model, x, ["stem", "stages.2"], 2, batch_size=2)
    np.testing.assert_allclose(got, expected.flatten(1).detach(), rtol=1e-4, atol=1e-5)
    pooled = read_layers(model, x, ["stages.2"], 1)[0]
    np.testing.assert_allclose(pooled, model(x).detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last.reshape(5, 16, -1).mean(2), pooled, rtol=1e-4, atol=1e-5)


def test_importance_is_what_the_highest_logit_loses_without_the_feature_where_the_head_is_linear():
    chance = np.random.default_rng(0)
    codes, dictionary = chance.uniform(size=(9, 4)), chance.uniform(size=(4, 6))
    head = nn.Linear(6, 3)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    logits = codes @ dictionary @ weight.T + bias
    best = logits.argmax(1)
    expected = np.zeros(4)
    for i in range(4):
        without = codes.copy()
        without[:, i] = 0
        fallen = logits - (without @ dictionary @ weight.T + bias)
        expected[i] = np.abs(fallen[np.arange(9), best]).mean()
    np.testing.assert_allclose(feature_importance(codes, dictionary, head), expected, rtol=1e-4)


def test_the_dictionary_rebuilds_activations_of_its_rank():
    chance = np.random.default_rng(0)
    activations = chance.uniform(size=(80, 3)) @ chance.uniform(size=(3, 10))
    dictionary, codes = factorise(activations, np.arange(60), 3)
    assert np.square(codes @ dictionary - activations).sum() < 1e-2 * np.square(activations - activations.mean(0)).sum()


class Seen(nn.Module):
    """A penultimate layer that shows the first `n` of four pixels."""

    def __init__(self, n):
        super().__init__()
        self.last = nn.Identity()
        self.n = n

    def forward(self, x):
        return self.last(x.flatten(1) * (torch.arange(4) < self.n))


def test_a_feature_is_learned_when_a_checkpoint_first_tells_it():
    x = torch.rand(300, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    models = [Seen(n) for n in (1, 2, 4, 4)]
    np.testing.assert_allclose(time_learned(models, x, "last", np.eye(4)), [0, 0.25, 0.5, 0.5], atol=0.03)


def test_what_cannot_be_is_refused():
    model, x = Layered(), torch.rand(30, 1, 2, 2)
    with pytest.raises(ArgumentError, match="third"):
        feature_complexity(model, x, layers=["third"])
    with pytest.raises(DataError, match="below 0"):
        feature_complexity(model, x - 1, layers=["first"])
    with pytest.raises(DataError, match="20 images"):
        feature_complexity(model, x[:5], layers=["first"])
