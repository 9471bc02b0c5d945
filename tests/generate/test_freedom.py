from itertools import pairwise

import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError
from tacit.generate import FreeDoM
from tacit.nn import ClassifierEnergy, Diffusion, LikenessEnergy, MeasurementEnergy

SHAPE = (1, 2, 3)
D = 6


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Gaussian:
    """The exact denoiser of x0 ~ N(mean, covariance), on images of D pixels; it notes the times that it is asked at."""

    def __init__(self, mean, covariance, n_steps=1000):
        self.mean, self.covariance, self.diffusion = mean, covariance, Diffusion(n_steps)
        self.asked = []

    def gain(self, t):
        """K = sqrt(a) S (a S + (1 - a) I)^-1, with E[x0 | x_t] = mean + K (x_t - sqrt(a) mean)."""
        a = self.diffusion.alpha_bar[t].double()
        return a.sqrt() * self.covariance @ torch.linalg.inv(a * self.covariance + (1 - a) * torch.eye(D))

    def estimate(self, x, t):
        self.asked.append(t)
        a = self.diffusion.alpha_bar[t].double()
        x0 = self.mean + (x.flatten(1) - a.sqrt() * self.mean) @ self.gain(t).T
        x0 = x0.view_as(x)
        return x0, self.diffusion.epsilon_of(x, t, x0)


def covariance():
    root = torch.randn(D, D)
    return 0.1 * root @ root.T / D + 0.01 * torch.eye(D)


def linear(b):
    """E(x) = b . (2 x - 1): linear in the images as the diffusion has them, in [-1, 1]."""
    return lambda x: (2 * x - 1).flatten(1) @ b


def test_a_step_is_the_closed_form_for_a_quadratic_energy():
    """E(x) = |A x - y|^2: the gradient through Tweedie's estimate is K' A' (A x - y), K the gain of the prior."""
    prior, A, y = Gaussian(torch.randn(D), covariance()), torch.randn(4, D), torch.randn(4)
    energy = MeasurementEnergy(lambda x: x.flatten(1) @ A.T, y[None])
    x, (t, s) = torch.randn(5, *SHAPE), (400, 390)
    guided = FreeDoM(prior, energy, rho=0.7, scaling="signal", eta=0.0, clip=False).step(x, t, s)

    a, b = (float(prior.diffusion.alpha_bar[i]) for i in (t, s))
    for image, found in zip(x.flatten(1), guided.flatten(1), strict=True):
        x0 = prior.mean + prior.gain(t) @ (image - a**0.5 * prior.mean)
        gradient = prior.gain(t).T @ A.T @ (A @ (x0 + 1) / 2 - y)  # 2 from the square, 1/2 from [-1, 1] to [0, 1]
        epsilon = (image - a**0.5 * x0) / (1 - a) ** 0.5
        expected = b**0.5 * x0 + (1 - b) ** 0.5 * epsilon - 0.7 * a**0.5 * gradient
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_guidance_by_the_score_samples_the_tilted_gaussian_exactly(eta):
    """p(x0) exp(-b . x0) is N(mean - S b, S): guided by b, the prior's denoiser does what the tilted one's does."""
    mean, S, b = torch.randn(D), covariance(), 3 * torch.randn(D)
    guided = FreeDoM(Gaussian(mean, S), linear(b), rho=1, scaling="score", num_steps=25, eta=eta, clip=False)
    unguided = FreeDoM(Gaussian(mean - S @ b, S), linear(b), rho=0, num_steps=25, eta=eta, clip=False)
    ends = []
    for sampler in (guided, unguided):
        torch.manual_seed(1)
        x = torch.randn(50, *SHAPE)
        with torch.no_grad():
            ends.append(sampler.ddpm.diffusion.reverse(sampler.step, x, sampler.ddpm.diffusion.times(25)))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


def test_samples_have_the_mean_of_the_tilted_gaussian():
    """The same to its end, and through `sample`: images in [0, 1] about (1 + mean - S b) / 2."""
    mean, S, b = torch.zeros(D), 0.02 * torch.eye(D), torch.tensor([10.0, -10, 5, 0, 0, 20])
    sampler = FreeDoM(Gaussian(mean, S), linear(b), rho=1, scaling="score", num_steps=500, eta=0.0, clip=False)
    images = sampler.sample(2000, shape=SHAPE)
    expected = (1 - 0.02 * b) / 2
    torch.testing.assert_close(images.flatten(1).mean(0), expected, rtol=0, atol=0.005)
    assert images.flatten(1).std(0).mean().item() == pytest.approx(0.02**0.5 / 2, rel=0.05)


def test_score_scaling_is_the_rate_of_ancestral_steps():
    """rho_t = beta_t / sqrt(1 - beta_t) where s = t - 1 and eta = 1."""
    prior, b = Gaussian(torch.randn(D), covariance()), torch.randn(D)
    x, t = torch.randn(2, *SHAPE), 300
    steps = []
    for rho in (0, 1):
        torch.manual_seed(2)
        steps.append(FreeDoM(prior, linear(b), rho=rho, scaling="score", clip=False).step(x, t, t - 1))
    beta = 1e-4 + (0.02 - 1e-4) * (t - 1) / 999
    expected = beta / (1 - beta) ** 0.5 * (prior.gain(t).T @ b)
    for before, after in zip(*(s.flatten(1) for s in steps), strict=True):
        torch.testing.assert_close(before - after, expected, rtol=1e-3, atol=1e-6)


def test_the_relative_rate_is_the_codes_for_one_image():
    """l1 = rms(epsilon) sqrt(1 - a) / sqrt(a) c1, rho = 0.02 l1 / rms(g), c1 the posterior's weight of x0."""
    prior, A = Gaussian(torch.randn(D), covariance()), torch.randn(4, D)
    energy = MeasurementEnergy(lambda x: x.flatten(1) @ A.T, torch.zeros(1, 4))
    x, (t, s) = torch.randn(1, *SHAPE), (500, 480)
    steps = []
    for rho in (0, 0.02):
        torch.manual_seed(3)
        steps.append(FreeDoM(prior, energy, rho=rho, clip=False).step(x, t, s))
    a, b = (float(prior.diffusion.alpha_bar[i]) for i in (t, s))
    _, epsilon = prior.estimate(x, t)
    c1 = b**0.5 * (1 - a / b) / (1 - a)
    l1 = epsilon.square().mean() ** 0.5 * (1 - a) ** 0.5 / a**0.5 * c1
    moved = (steps[0] - steps[1]).square().mean() ** 0.5
    assert moved.item() == pytest.approx(0.02 * l1.item(), rel=1e-4)


@pytest.mark.parametrize("scaling", ["relative", "score", "signal"])
def test_images_of_a_batch_do_not_touch_each_other(scaling):
    prior, A = Gaussian(torch.randn(D), covariance()), torch.randn(4, D)
    x, y = torch.randn(3, *SHAPE), torch.tensor([[1.0], [30.0], [0.01]]) * torch.randn(3, 4)

    def step(items):
        energy = MeasurementEnergy(lambda x: x.flatten(1) @ A.T, y[items])
        return FreeDoM(prior, energy, rho=0.3, scaling=scaling, eta=0.0).step(x[items], 600, 580)

    alone = torch.cat([step([i]) for i in range(3)])
    torch.testing.assert_close(step([0, 1, 2]), alone)


def test_time_travel_visits_the_stated_times():
    prior = Gaussian(torch.zeros(D), covariance(), n_steps=100)
    FreeDoM(prior, linear(torch.ones(D)), num_steps=10, time_travel=(40, 60, 3)).sample(2, shape=SHAPE)
    assert prior.asked == [100, 90, 80, 70, 60, 60, 60, 50, 50, 50, 40, 40, 40, 30, 20, 10]


def test_time_travel_keeps_the_prior():
    """Without guidance, steps of an exact denoiser taken again and again still sample the prior."""
    S = 0.02 * torch.eye(D)
    words = {"rho": 0, "num_steps": 250, "eta": 0.0, "time_travel": (100, 500, 2), "clip": False}
    values = FreeDoM(Gaussian(torch.zeros(D), S), linear(torch.ones(D)), **words).sample(2000, shape=SHAPE)
    assert values.mean().item() == pytest.approx(0.5, abs=0.003)
    assert values.std().item() == pytest.approx(0.02**0.5 / 2, rel=0.05)


def test_guidance_only_at_the_guided_times():
    """Elsewhere a step is the denoiser's own."""
    prior, b = Gaussian(torch.randn(D), covariance(), n_steps=100), 100 * torch.randn(D)
    x = torch.randn(2, *SHAPE)
    sampler = FreeDoM(prior, linear(b), eta=0.0, guided=(30, 60), clip=False)
    for t, s in pairwise(prior.diffusion.times(10)):
        plain = prior.diffusion.step(*prior.estimate(x, t), t, s)
        assert torch.allclose(sampler.step(x, t, s), plain) == (not 30 <= t <= 60)


def test_cut_estimates_lie_within_the_images_range_and_keep_their_gradient():
    """The energy sees the clean image cut to [0, 1]; its gradient is the one of the uncut image."""
    prior, b, seen = Gaussian(3 * torch.randn(D), covariance()), torch.randn(D), []

    def energy(x):
        seen.append(x.detach())
        return linear(b)(x)

    x, t = torch.randn(2, *SHAPE), 300
    with_guidance = FreeDoM(prior, energy, rho=1, scaling="score", eta=0.0).step(x, t, 290)
    without = FreeDoM(prior, energy, rho=0, scaling="score", eta=0.0).step(x, t, 290)
    x0 = prior.estimate(x, t)[0]
    assert (x0.abs() > 1).any()
    torch.testing.assert_close(seen[0], (x0.clamp(-1, 1) + 1) / 2)
    moved = (without - with_guidance).flatten(1)
    direction = prior.gain(t).T @ b
    torch.testing.assert_close(moved / moved[:, :1], (direction / direction[0]).expand(2, -1))


def test_energies_are_what_their_equations_say():
    x0 = torch.rand(3, 1, 4, 4)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    logits = classifier(x0)
    expected = [-torch.log(logits[i].exp()[y] / logits[i].exp().sum()) for i, y in enumerate([0, 4, 2])]
    torch.testing.assert_close(ClassifierEnergy(classifier, torch.tensor([0, 4, 2]))(x0), torch.stack(expected))
    torch.testing.assert_close(ClassifierEnergy(classifier, 4)(x0)[1], expected[1])

    image = torch.rand(1, 4, 4)
    features, target = classifier(x0), classifier(image[None])[0]
    cosines = torch.stack([f @ target / (f.norm() * target.norm()) for f in features])
    pixels = torch.stack([(x - image).square().mean() for x in x0])
    torch.testing.assert_close(LikenessEnergy(classifier, image)(x0), 1 - cosines)
    torch.testing.assert_close(LikenessEnergy(None, image)(x0), pixels)
    torch.testing.assert_close(LikenessEnergy(classifier, image, pixel_weight=3.0)(x0), 1 - cosines + 3 * pixels)
    white = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    torch.testing.assert_close(LikenessEnergy(None, white)(x0), (1 - x0).square().mean((1, 2, 3)))


def test_networks_of_energies_are_left_as_they_are_and_run_in_eval_mode():
    """Batch normalisation in train mode would let images of a batch touch each other, and remember estimates."""
    classifier = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 5)).train()
    x0 = torch.rand(3, 1, 4, 4)
    whole = ClassifierEnergy(classifier, 1)(x0)
    alone = torch.cat([ClassifierEnergy(classifier, 1)(x[None]) for x in x0])
    torch.testing.assert_close(whole, alone)
    assert classifier.training
    assert classifier[0].num_batches_tracked == 0
    assert all(p.requires_grad for p in classifier.parameters())


def test_a_coloured_network_of_another_size_guides_grey_images():
    from tacit.nn import Classifier, ResNet

    energy = ClassifierEnergy(Classifier(ResNet(8, width=4, image_size=16), 3), 1)
    sampler = FreeDoM(Gaussian(torch.zeros(D), covariance()), energy, num_steps=3)
    with pytest.raises(ArgumentError, match="energy"):
        FreeDoM(sampler.ddpm, lambda x: x.mean(), num_steps=3).sample(2, shape=SHAPE)
    x0 = torch.rand(2, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(energy(x0).sum(), x0)
    assert (gradient != 0).any()


def test_bad_input_is_an_error_that_names_it():
    prior = Gaussian(torch.zeros(D), covariance())
    with pytest.raises(ArgumentError, match=r"scaling='scor'.*did you mean 'score'"):
        FreeDoM(prior, linear(torch.ones(D)), scaling="scor")
    with pytest.raises(ArgumentError, match="rho=-1"):
        FreeDoM(prior, linear(torch.ones(D)), rho=-1)
    with pytest.raises(ArgumentError, match="shape=None"):
        FreeDoM(prior, linear(torch.ones(D))).sample(2)
    with pytest.raises(ArgumentError, match="n=0"):
        FreeDoM(prior, linear(torch.ones(D))).sample(0, shape=SHAPE)
    with pytest.raises(ArgumentError, match="differentiable"):
        FreeDoM(prior, lambda x: x.detach().sum((1, 2, 3))).sample(2, shape=SHAPE)
    with pytest.raises(ArgumentError, match="targets=3"):
        FreeDoM(prior, ClassifierEnergy(nn.Flatten(), torch.tensor([0, 1, 2]))).sample(2, shape=SHAPE)
    with pytest.raises(ArgumentError, match=r"y\.shape"):
        MeasurementEnergy(lambda x: x, torch.zeros(1, 3))(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ArgumentError, match="pixel_weight"):
        LikenessEnergy(None, torch.zeros(1, 4, 4), pixel_weight=0)
    with pytest.raises(ArgumentError, match=r"image\.shape"):
        LikenessEnergy(None, torch.zeros(4, 4))
