import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.errors import ArgumentError
from tacit.generate import MPGD, Autoencoder
from tacit.nn import Diffusion, MeasurementEnergy, ResNet

SHAPE = (1, 2, 3)
D = 6


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Gaussian:
    """The exact denoiser of x0 ~ N(mean, variance I), which no gradient goes through; it notes when it is asked."""

    def __init__(self, mean, variance, n_steps=1000):
        self.mean, self.variance, self.diffusion = mean, variance, Diffusion(n_steps)
        self.asked = []

    def estimate(self, x, t):
        assert not torch.is_grad_enabled()
        self.asked.append(t)
        a = float(self.diffusion.alpha_bar[t])
        gain = a**0.5 * self.variance / (a * self.variance + 1 - a)
        x0 = torch.from_numpy((self.mean + gain * (x.flatten(1) - a**0.5 * self.mean)).numpy()).view_as(x)
        return x0, self.diffusion.epsilon_of(x, t, x0)


class Linear(nn.Module):
    """An autoencoder D(E(x)) = V V' x, in [-1, 1]: the projection on a plane through grey."""

    def __init__(self, basis):
        super().__init__()
        self.basis = basis

    def encoder(self, x):
        return (2 * x.flatten(1) - 1) @ self.basis

    def decoder(self, z):
        return ((z @ self.basis.T + 1) / 2).view(-1, *SHAPE)


def measurement(A, y):
    return MeasurementEnergy(lambda x: x.flatten(1) @ A.T, y[None])


def plane(k=2):
    return torch.linalg.qr(torch.randn(D, k))[0]


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_step_is_the_closed_form_for_a_quadratic_energy(eta):
    """x0' = x0 - c A' (A x - y), with the noise of the estimate before it was moved (algorithm 1)."""
    prior, A, y = Gaussian(torch.randn(D), 0.1), torch.randn(4, D), torch.randn(4)
    x, (t, s) = torch.randn(5, *SHAPE), (400, 380)
    torch.manual_seed(4)
    found = MPGD(prior, measurement(A, y), rho=0.3, scaling="signal", eta=eta, clip=False).step(x, t, s)
    torch.manual_seed(4)
    noise = torch.randn(5, *SHAPE)

    a, b = (float(prior.diffusion.alpha_bar[i]) for i in (t, s))
    sigma = eta * ((1 - b) / (1 - a)) ** 0.5 * (1 - a / b) ** 0.5
    for i in range(5):
        image = x[i].flatten()
        x0 = prior.mean + a**0.5 * 0.1 / (a * 0.1 + 1 - a) * (image - a**0.5 * prior.mean)
        epsilon = (image - a**0.5 * x0) / (1 - a) ** 0.5
        moved = x0 - 0.3 / a**0.5 * A.T @ (A @ (x0 + 1) / 2 - y)
        expected = b**0.5 * moved + (1 - b - sigma**2) ** 0.5 * epsilon + sigma * noise[i].flatten()
        torch.testing.assert_close(found[i].flatten(), expected, rtol=1e-5, atol=1e-5)


def test_the_last_step_at_the_exact_rate_is_the_tilted_gaussians():
    """For E = b . x0 the estimate of p(x0) exp(-E) is x0 - C b, with C = v (1 - a) / (a v + 1 - a), the variance of
    x0 given x_t. With the rate C it is the moved estimate. MPGD keeps the old noise, so that only s = 0 is exact.
    """
    prior, b = Gaussian(torch.randn(D), 0.1), torch.randn(D)
    tilted = Gaussian(prior.mean - 0.1 * b, 0.1)
    x, t = torch.randn(3, *SHAPE), 20
    a = float(prior.diffusion.alpha_bar[t])
    rate = 0.1 * (1 - a) / (a * 0.1 + 1 - a)
    sampler = MPGD(prior, lambda x: (2 * x - 1).flatten(1) @ b, rho=rate * a**0.5, scaling="signal", clip=False)
    with torch.no_grad():
        torch.testing.assert_close(sampler.step(x, t, 0), tilted.estimate(x, t)[0], rtol=1e-5, atol=1e-5)


def test_no_gradient_goes_through_the_denoiser():
    """A denoiser in numpy, without autograd, is guided all the way: towards what was measured."""
    prior, target = Gaussian(torch.zeros(D), 0.1), torch.tensor([0.9, 0.1, 0.5, 0.5, 0.8, 0.2])
    images = MPGD(prior, measurement(torch.eye(D), target), rho=0.5).sample(20, shape=SHAPE)
    unguided = MPGD(prior, measurement(torch.eye(D), target), rho=0).sample(20, shape=SHAPE)
    distance, before = ((x.flatten(1) - target).norm(dim=1).mean() for x in (images, unguided))
    assert distance < before / 2


def test_mpgd_ae_stays_on_the_manifold_of_a_linear_autoencoder():
    """The gradient of E(V V' x) is V V' times that of E at the projected image: the move lies in the plane."""
    prior, A, y, V = Gaussian(torch.randn(D), 0.1), torch.randn(4, D), torch.randn(4), plane()
    x, (t, s) = torch.randn(3, *SHAPE), (400, 380)
    words = {"rho": 0.3, "scaling": "signal", "eta": 0.0, "clip": False}
    found = MPGD(prior, measurement(A, y), autoencoder=Linear(V), **words).step(x, t, s)
    plain = MPGD(prior, measurement(A, y), **{**words, "rho": 0}).step(x, t, s)
    a, b = (float(prior.diffusion.alpha_bar[i]) for i in (t, s))
    with torch.no_grad():
        x0 = prior.estimate(x, t)[0].flatten(1)
    for i in range(3):
        gradient = V @ V.T @ A.T @ (A @ (V @ V.T @ x0[i] + 1) / 2 - y)
        moved = (found - plain)[i].flatten()
        torch.testing.assert_close(moved, -(b**0.5) * 0.3 / a**0.5 * gradient, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(moved - V @ V.T @ moved, torch.zeros(D), rtol=0, atol=1e-10)


def test_mpgd_z_moves_the_latent():
    """On the same plane a step of the latent is the same step of the image: grad_z E(V z) = V' grad E."""
    prior, A, y, V = Gaussian(torch.randn(D), 0.1), torch.randn(4, D), torch.randn(4), plane()
    x = torch.randn(3, *SHAPE)
    words = {"rho": 0.3, "scaling": "signal", "eta": 0.0, "clip": False, "autoencoder": Linear(V)}
    latent = MPGD(prior, measurement(A, y), projection="z", **words).step(x, 400, 380)
    image = MPGD(prior, measurement(A, y), projection="ae", **words).step(x, 400, 380)
    torch.testing.assert_close(latent, image)


def test_the_autoencoder_is_used_at_the_projected_times_alone():
    prior, A, y = Gaussian(torch.randn(D), 0.1, n_steps=100), torch.randn(4, D), torch.randn(4)
    x, energy = torch.randn(2, *SHAPE), measurement(A, y)
    words = {"eta": 0.0, "clip": False, "guided": (11, 100)}
    sampler = MPGD(prior, energy, autoencoder=Linear(plane()), projected=(30, 50), **words)
    plain, unguided = MPGD(prior, energy, **words), MPGD(prior, energy, **{**words, "rho": 0})
    for t in range(10, 101, 10):
        found = sampler.step(x, t, t - 10)
        assert torch.allclose(found, plain.step(x, t, t - 10)) == (not 30 <= t <= 50)
        assert torch.allclose(found, unguided.step(x, t, t - 10)) == (t == 10)


def test_normalized_and_relative_moves_have_the_stated_size():
    """rms(x_s moved) = rho (the code for faces), and rho l1 (the code for text), for each image."""
    prior, A = Gaussian(torch.randn(D), 0.1), torch.randn(4, D)
    x, (t, s) = torch.tensor([1.0, 5.0])[:, None, None, None] * torch.randn(2, *SHAPE), (500, 480)

    def moved(scaling):
        ends = []
        for rho in (0, 0.2):
            torch.manual_seed(5)
            ends.append(MPGD(prior, measurement(A, torch.zeros(4)), rho=rho, scaling=scaling, clip=False).step(x, t, s))
        return (ends[0] - ends[1]).flatten(1).square().mean(1).sqrt()

    torch.testing.assert_close(moved("normalized"), torch.full((2,), 0.2))
    a, b = (float(prior.diffusion.alpha_bar[i]) for i in (t, s))
    with torch.no_grad():
        epsilon = prior.estimate(x, t)[1].flatten(1)
    l1 = epsilon.square().mean(1).sqrt() * ((1 - a) / a) ** 0.5 * b**0.5 * (1 - a / b) / (1 - a)
    torch.testing.assert_close(moved("relative"), 0.2 * l1, rtol=1e-4, atol=0)


@pytest.mark.parametrize("projection", [None, "ae", "z"])
@pytest.mark.parametrize("scaling", ["relative", "normalized", "signal"])
def test_images_of_a_batch_do_not_touch_each_other(scaling, projection):
    prior, A = Gaussian(torch.randn(D), 0.1), torch.randn(4, D)
    x, y = torch.randn(3, *SHAPE), torch.tensor([[1.0], [30.0], [0.01]]) * torch.randn(3, 4)
    words = {"autoencoder": Linear(plane()), "projection": projection} if projection else {}

    def step(items):
        energy = MeasurementEnergy(lambda x: x.flatten(1) @ A.T, y[items])
        return MPGD(prior, energy, rho=0.3, scaling=scaling, eta=0.0, **words).step(x[items], 600, 580)

    torch.testing.assert_close(step([0, 1, 2]), torch.cat([step([i]) for i in range(3)]))


def test_time_travel_visits_the_stated_times():
    prior = Gaussian(torch.zeros(D), 0.1, n_steps=100)
    energy = measurement(torch.eye(D), torch.zeros(D))
    MPGD(prior, energy, num_steps=10, time_travel=(40, 60, 2)).sample(2, shape=SHAPE)
    assert prior.asked == [100, 90, 80, 70, 60, 60, 50, 50, 40, 40, 30, 20, 10]


def test_bad_input_is_an_error_that_names_it():
    prior, energy = Gaussian(torch.zeros(D), 0.1), measurement(torch.eye(D), torch.zeros(D))
    with pytest.raises(ArgumentError, match="scaling='relativ'"):
        MPGD(prior, energy, scaling="relativ")
    with pytest.raises(ArgumentError, match="projection='az'"):
        MPGD(prior, energy, projection="az", autoencoder=Linear(plane()))
    with pytest.raises(ArgumentError, match=r"projection='z'.*autoencoder"):
        MPGD(prior, energy, projection="z")


def test_an_autoencoder_learns_a_curve_of_images():
    """Images with one degree of freedom pass a vector almost unharmed; noise of the same variance does not."""
    torch.set_default_dtype(torch.float32)
    angle = torch.rand(256, 1, 1, 1) * 6.28
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    curve = 0.5 + 0.4 * torch.sin(0.8 * column + angle) * torch.cos(0.3 * row)
    learner = Autoencoder(ResNet(8, width=4, in_channels=1, image_size=8), decoder_width=8)
    optimizer = torch.optim.AdamW(learner.parameters(), 1e-2)
    for _ in range(80):
        loss = learner.loss(curve[torch.randperm(256)[:64]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learner.eval()
    with torch.no_grad():
        lost = F.mse_loss(learner.reconstruct(curve), curve) / curve.var()
        noise = (0.5 + 0.28 * torch.randn(256, 1, 8, 8)).clamp(0, 1)
        lost_of_noise = F.mse_loss(learner.reconstruct(noise), noise) / noise.var()
    assert lost < 0.1
    assert lost_of_noise > 0.7


@pytest.mark.parametrize(("size", "channels"), [(2, 1), (5, 3), (8, 1), (28, 5), (33, 1)])
def test_the_decoder_covers_images_of_any_size_and_has_no_pixel_that_nothing_reaches(size, channels):
    torch.set_default_dtype(torch.float32)
    learner = Autoencoder(ResNet(8, width=4, in_channels=channels, image_size=size), decoder_width=8)
    a, b = learner.decoder(torch.randn(2, learner.encoder.dim))
    assert a.shape == (channels, size, size)
    assert ((a - b).abs() > 0).all()
