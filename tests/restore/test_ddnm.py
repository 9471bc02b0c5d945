from itertools import pairwise

import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import Colorization, Deblurring, Diffusion, Inpainting, RandomProjection, SuperResolution, gaussian_kernel
from tacit.restore import DDNM

SIDE = 4
T = 200
CHECKERS = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)) % 2
OPERATORS = [
    Inpainting(CHECKERS),
    SuperResolution(2),
    Colorization(),
    Deblurring(gaussian_kernel(0.7), SIDE),
    RandomProjection(0.4, SIDE),
]


class Gaussian:
    """The exact denoiser of images in [-1, 1] that are N(mean, covariance)."""

    def __init__(self, mean, covariance, n_steps=T):
        self.diffusion = Diffusion(n_steps)
        self.mean, self.covariance = mean, covariance

    def gain(self, t):
        """K of E[x_0 | x_t] = mean + K (x_t - sqrt(alpha_bar) mean)."""
        a = self.diffusion.alpha_bar[t].double()
        noisy = a * self.covariance + (1 - a) * torch.eye(len(self.covariance), dtype=torch.float64)
        return a.sqrt() * self.covariance @ torch.linalg.inv(noisy)

    def estimate(self, x, t):
        a = self.diffusion.alpha_bar[t].sqrt()
        off = x.flatten(1) - a * self.mean.float()
        x0 = (self.mean.float() + off @ self.gain(t).float().T).reshape(x.shape)
        return x0, self.diffusion.epsilon_of(x, t, x0)


def white(dim, mean=0.2, deviation=0.3, n_steps=T):
    covariance = deviation**2 * torch.eye(dim, dtype=torch.float64)
    return Gaussian(torch.full((dim,), mean, dtype=torch.float64), covariance, n_steps)


def correlated(dim, scale=0.3):
    places = torch.arange(dim, dtype=torch.float64)
    covariance = scale**2 * torch.exp(-(places[:, None] - places).abs() / 2)
    return Gaussian(0.1 * torch.cos(places), covariance)


@pytest.mark.parametrize("time_travel", [None, (2, 2)])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: type(operator).__name__)
def test_what_comes_out_satisfies_the_measurements(operator, time_travel):
    y = operator(torch.rand(3, 3, SIDE, SIDE))
    restored = DDNM(correlated(3 * SIDE**2), operator, num_steps=6, time_travel=time_travel).restore(y)
    torch.testing.assert_close(operator(restored), y, atol=1e-5, rtol=1e-5)


def test_the_null_space_is_the_priors_where_it_does_not_hang_on_the_rest():
    """White prior, the limit of many steps: in the null space N(mean, deviation), whatever y is."""
    operator, prior, n = SuperResolution(2), white(SIDE**2, n_steps=1000), 500
    y = torch.full((n, 1, 2, 2), 0.9)
    restored = 2 * DDNM(prior, operator, num_steps=1000, eta=1.0, clip=False).restore(y) - 1
    null = restored - operator.pinv(operator(restored))
    expected = 0.3**2 * (1 - 1 / 4)  # a quarter of each block's four directions is set by y
    assert null.var(0).mean().item() == pytest.approx(expected, rel=0.07)
    assert null.mean(0).abs().max().item() < 0.05


@pytest.mark.parametrize("eta", [0.0, 0.85])
def test_moments_against_the_matrices_of_every_step(eta):
    """All is linear and Gaussian: mean and covariance of the outcome follow by float64 matrices, from the equations."""
    d, num_steps, mask = 4, 10, np.diag([1.0, 0, 1, 0])
    prior, y = correlated(d), np.array([0.5, 0, -0.3, 0])
    alpha, times = prior.diffusion.alpha_bar.double().numpy(), prior.diffusion.times(num_steps)
    mean, covariance, eye, mu = np.zeros(d), np.eye(d), np.eye(d), prior.mean.numpy()
    for t, s in pairwise(times):
        k, root = prior.gain(t).numpy(), np.sqrt(alpha[t])
        # x0' = A+ y + (I - A+ A) (mu + K (x_t - root mu)) = m x_t + b
        m, b = (eye - mask) @ k, y + (eye - mask) @ (mu - k @ mu * root)
        variance = eta**2 * (1 - alpha[s]) / (1 - alpha[t]) * (1 - alpha[t] / alpha[s])
        direction = np.sqrt(max(1 - alpha[s] - variance, 0)) / np.sqrt(1 - alpha[t])
        step = np.sqrt(alpha[s]) * m + direction * (eye - root * m)
        mean = step @ mean + (np.sqrt(alpha[s]) - direction * root) * b
        covariance = step @ covariance @ step.T + variance * eye
    n = 20_000
    measured = torch.tensor(y).float().reshape(1, 1, 2, 2).expand(n, -1, -1, -1)
    operator = Inpainting(torch.tensor(np.diag(mask).reshape(2, 2)))
    measured = (measured + operator(torch.ones(1, 1, 2, 2))) / 2  # of images in [0, 1]
    ddnm = DDNM(prior, operator, num_steps=num_steps, eta=eta, clip=False)
    found = (2 * ddnm.restore(measured) - 1).flatten(1).double().numpy()
    np.testing.assert_allclose(found.mean(0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(found.T), covariance, atol=0.004)


def test_time_travel_brings_the_mean_nearer_to_the_posteriors():
    """Pixels beside known ones: the closed form is mu + C_nk C_kk^-1 (y - mu_k)."""
    d = 4
    prior, known, lost = correlated(d, scale=0.4), [0, 2], [1, 3]
    y, c, mu = torch.tensor([0.6, -0.5]).double(), prior.covariance, prior.mean
    expected = mu[lost] + c[lost][:, known] @ torch.linalg.solve(c[known][:, known], y - mu[known])
    given = torch.zeros(4000, d)
    given[:, known] = (y.float() + 1) / 2

    def error(repeats):
        operator = Inpainting(torch.tensor([[1, 0], [1, 0]]))
        ddnm = DDNM(prior, operator, num_steps=20, time_travel=(1, repeats), clip=False)
        restored = 2 * ddnm.restore(given.reshape(-1, 1, 2, 2)).flatten(1)[:, lost] - 1
        return (restored.mean(0) - expected).norm().item()

    errors = [error(repeats) for repeats in (1, 4, 12)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.45 * errors[0]


class Blank:
    """Takes every image for grey, so that all that is in x_s comes from y and from the step's own noise."""

    diffusion = Diffusion(T)

    def estimate(self, x, t):
        return torch.zeros_like(x), x


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: type(operator).__name__)
@pytest.mark.parametrize(("t", "s"), [(150, 149), (60, 40), (12, 6)])
def test_noise_of_ddnm_plus_adds_up_to_the_steps_own(operator, t, s):
    """Eq. 19: with y pure noise of sigma_y, x_s has variance sigma_t^2 in every direction, known or lost."""
    n, eta, sigma_y = 4000, 0.85, 0.2
    alpha = Blank.diffusion.alpha_bar
    sigma = eta * ((1 - alpha[s]) / (1 - alpha[t]) * (1 - alpha[t] / alpha[s])).sqrt().item()
    start = torch.zeros(n, 3, SIDE, SIDE)
    noise = 2 * sigma_y * torch.randn_like(operator(start))
    ddnm = DDNM(Blank(), operator, sigma_y=sigma_y, eta=eta)
    x = ddnm._step(start, noise, t, s)
    covariance = np.cov(x.flatten(1).numpy().T) / sigma**2  # the identity's, in whatever basis
    np.testing.assert_allclose(covariance, np.eye(len(covariance)), atol=0.12)


def test_trust_is_as_great_as_the_noise_allows():
    """lambda = min(1, sigma s / (a sigma_y)), phi = sigma^2 - (a lambda sigma_y / s)^2, and 1, sigma^2 where s = 0."""
    ddnm = DDNM(Blank(), SuperResolution(2), sigma_y=0.1)
    s, a, sigma = torch.tensor([1.0, 0.5, 0.1, 0.0]), 0.8, 0.25
    trust, own = ddnm._trust(s, a, sigma)
    for value, found, left in zip(s.tolist(), trust.tolist(), own.tolist(), strict=True):
        expected = min(1, sigma * value / (a * 0.2)) if value else 1
        variance = sigma**2 - (a * expected * 0.2 / value) ** 2 if value else sigma**2
        assert found == pytest.approx(expected, rel=1e-5)
        assert (left * sigma) ** 2 == pytest.approx(max(variance, 0), abs=1e-6)
    simple, _ = DDNM(Blank(), SuperResolution(2), sigma_y=0.1, exact=False)._trust(s, a, sigma)
    assert simple.tolist() == [1.0] * 4  # white noise of sigma_y, whatever the operator


def test_without_noise_ddnm_plus_is_ddnm():
    operator, prior = SuperResolution(2), correlated(SIDE**2)
    y = operator(torch.rand(2, 1, SIDE, SIDE))
    restored = []
    for sigma_y in (0.0, 1e-7):
        torch.manual_seed(3)
        restored.append(DDNM(prior, operator, sigma_y=sigma_y, num_steps=8).restore(y))
    null = [x - operator.pinv(operator(x)) for x in restored]
    torch.testing.assert_close(*null, atol=1e-3, rtol=1e-3)


def test_ddnm_plus_keeps_noise_out():
    """White prior, pixels seen with noise: the error is under the noise's, and DDNM's is the noise itself."""
    n, sigma_y, prior = 500, 0.2, white(SIDE**2)
    truth = 0.5 * (1 + 0.2 + 0.3 * torch.randn(n, 1, SIDE, SIDE))
    operator = Inpainting(torch.ones(SIDE, SIDE))
    y = truth + sigma_y * torch.randn_like(truth)
    errors = [
        (DDNM(prior, operator, sigma_y=told, num_steps=50, clip=False).restore(y) - truth).std().item()
        for told in (0.0, sigma_y)
    ]
    assert errors[0] == pytest.approx(sigma_y, rel=0.05)
    posterior = (0.15**-2 + sigma_y**-2) ** -0.5  # of images in [0, 1], whose deviation is 0.15
    assert posterior < errors[1] < 2**0.5 * posterior * 1.15  # a draw from the posterior errs by sqrt(2) of it


@pytest.mark.parametrize(("length", "repeats"), [(1, 1), (1, 3), (2, 2), (3, 2), (100, 2)])
def test_time_travel_walks_each_block_again(length, repeats):
    ddnm = DDNM(Blank(), SuperResolution(2), num_steps=5, time_travel=(length, repeats))
    times, walked = Blank.diffusion.times(5), ddnm._times()
    down = [(t, s) for t, s in pairwise(walked) if s < t]
    assert sorted(down, reverse=True) == sorted(list(pairwise(times)) * repeats, reverse=True)
    up = [(t, s) for t, s in pairwise(walked) if s > t]
    assert all(0 < times.index(t) - times.index(s) <= length for t, s in up)
    assert walked[0] == T
    assert walked[-1] == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="sigma_y=-1"):
        DDNM(Blank(), SuperResolution(2), sigma_y=-1)
    with pytest.raises(ArgumentError, match="above 0 where sigma_y is"):
        DDNM(Blank(), SuperResolution(2), sigma_y=0.1, eta=0.0)
    with pytest.raises(ArgumentError, match="length, repeats"):
        DDNM(Blank(), SuperResolution(2), time_travel=(0, 2))
