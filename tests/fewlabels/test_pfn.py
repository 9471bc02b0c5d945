from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.utils.estimator_checks import check_estimator

from tacit.errors import ArgumentError, DataError
from tacit.fewlabels import PFN, BarDistribution, BNNPrior, GPPrior, PFNClassifier, PFNRegressor, _pfn, tasks
from tacit.fewlabels._priors import mcmc_posterior
from tacit.training import fit


def small(prior, seed=0, **arguments):
    """A tiny network whose layers do something: as drawn, their last maps are 0."""
    torch.manual_seed(seed)
    network = PFN(prior, **({"embed_dim": 16, "hidden_dim": 24, "num_layers": 2, "num_heads": 2} | arguments))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


# the transformer ------------------------------------------------------------------------------------------------------


def slow_forward(network, x, y, query):
    """One query, token by token, with the loops of attention written out; one task, all heads."""
    most = network.prior.n_features
    scale = (most / x.shape[1]) ** 0.5

    def embed(row):
        return network.x_encoder(torch.cat([row, torch.zeros(most - len(row))]) * scale)

    tokens = [embed(row) + network.y_encoder(value[None]) for row, value in zip(x, y, strict=True)] + [embed(query)]
    for layer in network.layers:
        size = len(tokens[0]) // layer.num_heads
        normed = [layer.norm(token) for token in tokens]
        moved = []
        for token, own in zip(tokens, normed, strict=True):
            read = []
            for head in range(layer.num_heads):
                part = slice(head * size, (head + 1) * size)
                q = layer.query(own)[part]
                keys_values = [layer.key_value(other).chunk(2) for other in normed[:-1]]  # never the query itself
                scores = torch.stack([q @ key[part] / size**0.5 for key, _ in keys_values]).softmax(0)
                read.append(sum(s * value[part] for s, (_, value) in zip(scores, keys_values, strict=True)))
            token = token + layer.out(torch.cat(read))
            moved.append(token + layer.perceptron(token))
        tokens = moved
    return network.head(network.norm(tokens[-1]))


def test_forward_against_attention_written_out():
    network = small(GPPrior(n_features=3), n_bars=7)
    x, y, queries = torch.randn(1, 5, 2), torch.randn(1, 5), torch.randn(1, 3, 2)  # a feature less than there is room
    expected = torch.stack([slow_forward(network, x[0], y[0], query) for query in queries[0]])
    torch.testing.assert_close(network(x, y, queries)[0], expected, rtol=1e-4, atol=1e-5)


def test_queries_see_the_context_and_nothing_else():
    network = small(GPPrior())
    x, y, queries = torch.randn(2, 6, 1), torch.randn(2, 6), torch.randn(2, 4, 1)
    together = network(x, y, queries)
    for i in range(4):
        torch.testing.assert_close(together[:, i], network(x, y, queries[:, i : i + 1])[:, 0])
    changed = y.clone()
    changed[:, 3] += 1
    assert (network(x, changed, queries) - together).abs().amax() > 1e-3


def test_the_order_of_the_context_does_not_matter():
    network = small(BNNPrior(n_features=2, n_classes=3))
    x, y, queries, order = torch.randn(2, 7, 2), torch.randint(3, (2, 7)), torch.randn(2, 4, 2), torch.randperm(7)
    torch.testing.assert_close(network(x[:, order], y[:, order], queries), network(x, y, queries))


def test_loss_is_the_mean_negative_log_density_of_tasks_that_the_prior_draws():
    network = small(GPPrior(), n_points=9, n_bars=12)
    torch.manual_seed(5)
    loss = network.loss(torch.arange(3))
    torch.manual_seed(5)
    x, y = network.prior.sample(3, 9)
    n = int(torch.randint(1, 9, ()))
    total = []
    for i in range(3):
        for j in range(n, 9):
            logits = network(x[i : i + 1, :n], y[i : i + 1, :n], x[i : i + 1, j : j + 1])[0, 0]
            total.append(-network.bars.log_prob(logits, y[i, j]).item())
    assert loss.item() == pytest.approx(np.mean(total), rel=1e-5)


def test_it_learns_to_use_the_context():
    """A constant function with little noise: after some steps the answer is the context's mean, not the prior's."""
    prior = GPPrior(length_scale=100.0, noise=0.1)
    torch.manual_seed(0)
    network = PFN(prior, embed_dim=16, hidden_dim=32, num_layers=1, num_heads=2, n_bars=20, n_points=8)
    fit(network, tasks(512), max_steps=150, batch_size=32, lr=1e-2, weight_decay=0.0, clip=1.0)
    x, y = prior.sample(50, 9)
    with torch.no_grad():
        answers = network.bars.mean(network(x[:, :8], y[:, :8], x[:, 8:]))[:, 0]
    assert np.corrcoef(answers, y[:, 8])[0, 1] > 0.9


def test_a_saved_network_answers_as_before(tmp_path):
    network = small(GPPrior(n_features=2, length_scale=(0.5, 2.0)), n_bars=9)
    network.save(tmp_path / "net.safetensors")
    again = PFN.load(tmp_path / "net.safetensors")
    assert again.prior == network.prior
    x, y, queries = torch.randn(1, 5, 2), torch.randn(1, 5), torch.randn(1, 3, 2)
    assert torch.equal(again(x, y, queries), network(x, y, queries))
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"PFN\.save"):
        PFN.load(tmp_path / "other.safetensors")


def test_the_network_is_small_enough_to_ship(tmp_path):
    PFN(BNNPrior(n_features=60, n_classes=10)).save(tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").stat().st_size < 10e6


# the bar distribution -------------------------------------------------------------------------------------------------

BORDERS = torch.tensor([-2.0, -1.2, -0.1, 0.3, 1.0, 2.5])


@pytest.fixture
def bars():
    return BarDistribution(BORDERS), torch.tensor([0.3, -1.0, 0.8, 0.0, 1.1])


def density(bars, logits):
    return lambda y: float(bars.log_prob(logits, torch.tensor(y, dtype=torch.float32)).exp())


def integral(function, low=-12.0, high=14.0):
    """By pieces, since it jumps at the borders."""
    edges = [low, *(border for border in BORDERS[1:-1].tolist() if low < border < high), high]
    return sum(integrate.quad(function, a + 1e-6, b - 1e-6, limit=200)[0] for a, b in pairwise(edges))


def test_the_density_integrates_to_1_and_its_moments_are_those_of_the_integral(bars):
    bars, logits = bars
    p = density(bars, logits)
    assert integral(p) == pytest.approx(1, abs=1e-4)
    mean = integral(lambda y: y * p(y))
    assert bars.mean(logits).item() == pytest.approx(mean, abs=1e-3)
    assert bars.std(logits).item() == pytest.approx(integral(lambda y: (y - mean) ** 2 * p(y)) ** 0.5, abs=1e-3)


def test_cdf_is_the_integral_and_quantile_its_inverse(bars):
    bars, logits = bars
    p = density(bars, logits)
    for y in (-3.0, -1.5, -0.5, 0.2, 0.9, 2.0, 3.5):
        below = integral(p, -12, y)
        at = bars.cdf(logits, torch.tensor(y))
        assert at.item() == pytest.approx(below, abs=1e-3)
        assert bars.quantile(logits, at.item()).item() == pytest.approx(y, abs=1e-3)


def test_expected_log_density_against_numeric_integration(bars):
    bars, logits = bars
    normal = stats.norm(0.4, 0.7)
    expected = integral(lambda y: normal.pdf(y) * np.log(density(bars, logits)(y)), -4, 5)
    mean, std = torch.tensor([0.4], dtype=torch.double), torch.tensor([0.7], dtype=torch.double)
    assert _pfn.expected_log_prob(bars, logits[None], mean, std, 2000).item() == pytest.approx(expected, abs=5e-3)


def test_coverage_of_the_true_quantiles_is_nominal():
    bars = BarDistribution(torch.linspace(-4, 4, 400))
    mean, std = torch.zeros(1, dtype=torch.double), torch.ones(1, dtype=torch.double)
    centres = (bars.borders[1:] + bars.borders[:-1]) / 2
    logits = torch.distributions.Normal(0.0, 1.0).log_prob(centres)[None]
    for level in (0.5, 0.8, 0.95):
        assert _pfn.interval_mass(bars, logits, mean, std, level) == pytest.approx(level, abs=2e-3)


def test_gradient_of_the_log_density():
    bars = BarDistribution(BORDERS).double()
    y = torch.tensor([-3.0, -0.5, 0.7, 4.0], dtype=torch.double)
    logits = torch.randn(4, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: bars.log_prob(logits, y), logits)


def test_fitted_bars_hold_equal_shares():
    bars = BarDistribution(torch.linspace(-1, 1, 11))
    y = torch.randn(5000)
    bars.fit_borders(y)
    counts = torch.histogram(y, bars.borders).hist
    assert counts.min() > 490
    assert counts.max() < 510
    with pytest.raises(ArgumentError, match="different values"):
        bars.fit_borders(torch.zeros(100))
    with pytest.raises(ArgumentError, match="ascending"):
        BarDistribution(torch.tensor([0.0, 1.0, 1.0, 2.0]))


# priors ---------------------------------------------------------------------------------------------------------------


def test_posterior_against_scikit_learn():
    prior = GPPrior(n_features=2, length_scale=0.7, noise=0.3, output_scale=1.5)
    x, y = prior.sample(2, 12)
    mean, std = prior.posterior(x[:, :8], y[:, :8], x[:, 8:])
    kernel = ConstantKernel(1.5**2) * RBF(0.7) + WhiteKernel(0.3**2)
    for i in range(2):
        peer = GaussianProcessRegressor(kernel, alpha=0, optimizer=None).fit(x[i, :8].double(), y[i, :8].double())
        expected = peer.predict(x[i, 8:].double(), return_std=True)
        np.testing.assert_allclose(mean[i], expected[0], atol=1e-6)
        np.testing.assert_allclose(std[i], expected[1], atol=1e-6)


def test_tasks_have_the_covariance_of_their_kernel():
    """Standardised by the kernel that belongs to their inputs, the values of many tasks are white."""
    prior = GPPrior(length_scale=0.8, noise=0.2)
    torch.manual_seed(0)
    x, y = prior.sample(4000, 4)
    distances = (x - x.mT).double()
    covariance = (-distances.square() / (2 * 0.8**2)).exp() + 0.04 * torch.eye(4)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), y.double()[..., None], upper=False)[..., 0]
    np.testing.assert_allclose(white.T @ white / 4000, np.eye(4), atol=0.1)


def test_the_posterior_is_calibrated_on_its_own_tasks():
    prior = GPPrior(length_scale=0.6, noise=0.3)
    torch.manual_seed(1)
    x, y = prior.sample(2000, 7)
    mean, std = prior.posterior(x[:, :6], y[:, :6], x[:, 6:])
    z = ((y[:, 6:] - mean) / std).flatten()
    assert stats.kstest(z.numpy(), "norm").pvalue > 0.01


def test_markov_chain_against_a_grid():
    """One free hyper-parameter: the mixture over a fine grid of it, weighted by the evidence, is the posterior."""
    prior = GPPrior(length_scale=(0.2, 3.0), noise=0.3)
    torch.manual_seed(2)
    x, y = (part[0].double().numpy() for part in GPPrior(length_scale=0.7, noise=0.3).sample(1, 15))
    at = torch.tensor(x[12:])[None]
    weights, answers = [], []
    for length in np.geomspace(0.2, 3.0, 200):
        fixed = GPPrior(length_scale=float(length), noise=0.3)
        covariance = np.exp(-((x[:12] - x[:12].T) ** 2) / (2 * length**2)) + 0.09 * np.eye(12)
        weights.append(stats.multivariate_normal.pdf(y[:12], np.zeros(12), covariance))
        answers.append(fixed.posterior(torch.tensor(x[:12])[None], torch.tensor(y[:12])[None], at)[0][0].numpy())
    expected = np.average(answers, axis=0, weights=weights)
    means, deviations = mcmc_posterior(
        prior, x[:12], y[:12], x[12:], n_samples=800, warmup=50, rng=np.random.default_rng(0)
    )
    np.testing.assert_allclose(means.mean(0), expected, atol=0.05)
    assert deviations.min() >= 0.3


def test_networks_of_the_prior_give_classes_that_their_inputs_tell():
    """1-nearest-neighbour on the rest of a task does better than its commonest class, on average."""
    torch.manual_seed(3)
    right, common = [], []
    for _ in range(30):
        x, y = BNNPrior(n_features=4, n_classes=3).sample(4, 60)
        distances = torch.cdist(x, x) + 1e9 * torch.eye(60)
        right.append((y.gather(1, distances.argmin(2)) == y).float().mean().item())
        common.append(max((y == c).float().mean().item() for c in range(3)))
        np.testing.assert_allclose(x.mean(1), 0, atol=1e-5)
    assert np.mean(right) > np.mean(common) + 0.05


# estimators -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PFNClassifier, PFNRegressor])
def test_estimator_conventions(kind):
    check_estimator(kind(max_steps=2, batch_size=2), expected_failed_checks=kind.expected_failed_checks)


def test_classifier_is_the_network_on_standardised_features():
    network = small(BNNPrior(n_features=4, n_classes=3))
    x, y = np.random.default_rng(0).normal(3, 2, (20, 2)), np.arange(20) % 2
    model = PFNClassifier(network=network).fit(x, np.array(["a", "b"])[y])
    scaled = torch.tensor(((x - x.mean(0)) / x.std(0)).clip(-4, 4), dtype=torch.float32)
    logits = network(scaled[None], torch.tensor(y)[None], scaled[None])[0, :, :2]
    np.testing.assert_allclose(model.predict_proba(x), logits.softmax(1).detach(), atol=1e-5)
    assert set(model.predict(x)) <= {"a", "b"}


def test_regressor_gives_back_the_units_of_the_target():
    network = small(GPPrior(n_features=2), n_bars=15)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(15, 2)), rng.normal(size=15)
    plain = PFNRegressor(network=network).fit(x, y)
    moved = PFNRegressor(network=network).fit(10 * x + 3, 100 * y - 7)
    mean, std = plain.predict(x, return_std=True)
    np.testing.assert_allclose(moved.predict(10 * x + 3, return_std=True)[0], 100 * mean - 7, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(moved.predict(10 * x + 3, return_std=True)[1], 100 * std, rtol=1e-3)
    np.testing.assert_allclose(
        moved.predict_quantile(10 * x + 3, 0.3), 100 * plain.predict_quantile(x, 0.3) - 7, atol=0.1
    )


def test_of_a_large_table_a_sample_is_the_context():
    network = small(BNNPrior(n_features=2, n_classes=3))
    x, y = np.random.default_rng(0).normal(size=(300, 2)), np.r_[np.zeros(290), np.ones(9), 2].astype(int)
    model = PFNClassifier(network=network, max_context=20, random_state=0).fit(x, y)
    assert len(np.unique(model.context_indices_)) == 20
    assert set(y[model.context_indices_]) == {0, 1, 2}


def test_what_the_network_has_no_room_for_is_refused():
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 4
    with pytest.raises(ArgumentError, match="features"):
        PFNClassifier(network=small(BNNPrior(n_features=2, n_classes=4))).fit(x, y)
    with pytest.raises(ArgumentError, match="classes"):
        PFNClassifier(network=small(BNNPrior(n_features=3, n_classes=3))).fit(x, y)
    with pytest.raises(ArgumentError, match="PFNRegressor"):
        PFNClassifier(network=small(GPPrior(n_features=3))).fit(x, y)
    with pytest.raises(ArgumentError, match="PFNClassifier"):
        PFNRegressor(network=small(BNNPrior(n_features=3))).fit(x, y)
    with pytest.raises(ValueError, match="1 class"):
        PFNClassifier(max_steps=1).fit(x, np.zeros(20, int))
    with pytest.raises(ArgumentError, match="mcmc_posterior"):
        GPPrior(noise=(0.1, 0.2)).posterior(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1, 1))
    with pytest.raises(ArgumentError, match="noise"):
        GPPrior(noise=0.0)


def test_constant_columns_and_a_constant_target_are_finite():
    network = small(GPPrior(n_features=2))
    model = PFNRegressor(network=network).fit(np.ones((5, 2)), np.ones(5))
    assert np.isfinite(model.predict(np.ones((2, 2)))).all()
