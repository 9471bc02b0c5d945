import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from tacit.errors import ArgumentError, DataError
from tacit.layers import filter_basis, filter_divergence, filters_of, init_filters_
from tacit.layers._filter_design import METHODS


def images(n=60, channels=3, size=12):
    x = torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))
    return nn.functional.avg_pool2d(x, 3, 1)  # neighbours are alike


@pytest.mark.parametrize("method", METHODS)
def test_filters_have_he_s_length_and_are_the_seed_s(method):
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(init_filters_(nn.Conv2d(3, 90, 3), images(), method=method))
    assert torch.equal(made[0].weight, made[1].weight)
    assert not made[0].bias.any()
    np.testing.assert_allclose(made[0].weight.detach().flatten(1).square().sum(1), 2, rtol=1e-4)


def test_orthogonal_filters_are_at_right_angles():
    weight = init_filters_(nn.Conv2d(2, 18, 3), method="orthogonal").weight.detach().flatten(1)
    np.testing.assert_allclose(weight @ weight.T, 2 * np.eye(18), atol=1e-4)


def test_pca_filters_are_scikit_learn_s_components_of_the_patches():
    x = images(80, 1, 5)  # one patch each, so that all are drawn
    assert x.shape[-1] == 3
    patches = x.flatten(1).double()
    centred = patches - patches.mean(1, keepdim=True)
    patches = centred / (centred.square().mean(1, keepdim=True) + 10 / 255**2).sqrt()
    theirs = PCA().fit(patches.numpy()).components_[:8]
    ours = init_filters_(nn.Conv2d(1, 20, 3), x, method="pca").weight.detach().flatten(1).numpy() / 2**0.5
    np.testing.assert_allclose(np.abs((ours[:16:2] * theirs).sum(1)), 1, atol=1e-3)
    np.testing.assert_allclose(ours[:18:2], -ours[1:18:2], atol=1e-6)


def test_kmeans_finds_the_two_patterns_that_there_are():
    edge = torch.tensor([1.0, 0.0, -1.0]).expand(3, 3)
    sign = torch.where(torch.arange(400) % 2 == 0, 1.0, -1.0)[:, None, None]
    kinds = torch.where((torch.arange(400) % 4 < 2)[:, None, None], edge, edge.T) * sign
    x = (0.5 + 0.3 * kinds + 0.01 * torch.randn(400, 3, 3, generator=torch.Generator().manual_seed(0)))[:, None]
    torch.manual_seed(0)
    filters = init_filters_(nn.Conv2d(1, 12, 3), x, method="kmeans").weight.detach().flatten(1)
    answers = (kinds[:4].flatten(1) @ filters.T).abs().max(1).values / (6**0.5 * 2**0.5)
    assert answers.min() > 0.85


def test_gabors_do_not_answer_to_flat_patches_and_answer_to_their_direction():
    filters = init_filters_(nn.Conv2d(1, 16, 7), method="gabor").weight.detach()[:, 0]
    np.testing.assert_allclose(filters.sum((1, 2)), 0, atol=1e-5)
    across = torch.cos(2 * torch.pi * (torch.arange(7) - 3) / 7).expand(7, 7)  # changes from left to right
    answers = (filters[:8] * across).sum((1, 2)).abs()
    assert answers.argmax() == 0
    torch.testing.assert_close(filters[4], filters[0].T, atol=1e-5, rtol=0)


def test_the_basis_is_scikit_learn_s_pca():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 5))
    with torch.no_grad():
        model[1].weight.mul_(50)
    layers = [layer.weight.detach().numpy().astype(float) for layer in model[:2]]
    rows = np.concatenate([weight.reshape(-1, 9) / np.abs(weight).max() for weight in layers])
    theirs, ours = PCA().fit(rows), filter_basis(model.state_dict())
    np.testing.assert_allclose(ours.shares, theirs.explained_variance_ratio_, atol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(ours.components.numpy() * theirs.components_, axis=1)), 1, atol=1e-5)
    assert ours.n_filters == len(filters_of(model)) == 3 * 8 + 8 * 8


def test_the_divergence_of_gaussians_is_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(400, 500, 1, 1, generator=generator)
    b = 0.8 * torch.randn(400, 500, 1, 1, generator=generator)
    largest = (a.abs().max() / b.abs().max()).item()  # each layer is divided by its largest weight
    s = 0.8 * largest
    expected = 0.5 * (s**2 + 1 / s**2 - 2)  # KL both ways, of N(0, 1) and N(0, s^2)
    assert filter_divergence({"w": a}, {"w": b}, size=1) == pytest.approx(expected, rel=0.1, abs=2e-3)


def test_the_divergence_is_that_of_histograms_by_hand():
    chance = np.random.default_rng(0)
    a, b = chance.normal(size=(1, 300, 1, 1)), chance.uniform(-1, 1, size=(300, 1, 1, 1))
    p, q = (side.ravel() / np.abs(side).max() for side in (a, b))
    edges = np.linspace(min(p.min(), q.min()), max(p.max(), q.max()), 11)
    p, q = ((np.histogram(side, edges)[0] + 0.5) / 305 for side in (p, q))
    expected = np.sum(p * np.log(p / q)) + np.sum(q * np.log(q / p))
    states = [{"w": torch.from_numpy(side)} for side in (a, b)]
    assert filter_divergence(*states, size=1, n_bins=10) == pytest.approx(expected, rel=1e-6)
    assert filter_divergence(*states[::-1], size=1, n_bins=10) == pytest.approx(expected, rel=1e-6)


def test_smooth_filters_differ_more_from_drawn_ones_than_drawn_ones_among_themselves():
    torch.manual_seed(0)
    drawn, again, smooth = (nn.Conv2d(32, 32, 3) for _ in range(3))
    with torch.no_grad():
        smooth.weight.copy_(nn.functional.avg_pool2d(torch.randn(32, 32, 5, 5), 3, 1))
    assert filter_divergence(drawn, smooth) > 2 * filter_divergence(drawn, again)
    assert filter_basis(smooth).shares[0] > 2 * filter_basis(drawn).shares[0]


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="kmeans"):
        init_filters_(nn.Conv2d(3, 4, 3), method="k-mean")
    with pytest.raises(ArgumentError, match="images=None"):
        init_filters_(nn.Conv2d(3, 4, 3))
    with pytest.raises(ArgumentError, match=r"kernel_size=\(1, 1\)"):
        init_filters_(nn.Conv2d(3, 4, 1), method="gabor")
    with pytest.raises(ArgumentError, match="groups=2"):
        init_filters_(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(DataError, match="3 x 3"):
        filter_basis(nn.Linear(2, 2))
