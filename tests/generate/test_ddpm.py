import copy

import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError
from tacit.generate import DDPM, ConditionalDDPM, guided
from tacit.nn import Diffusion, ResNet, UNet
from tacit.training import fit


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def network(**words):
    return UNet(8, 1, width=8, multipliers=(1, 2), **words)


class ExactDenoiser(nn.Module):
    """Pixels N(mean, deviation^2), all independent: E[noise | x_t] in closed form, whatever the class."""

    in_channels, image_size, dim = 1, 8, 1

    def __init__(self, diffusion, mean, deviation):
        super().__init__()
        self.alpha_bar, self.mean, self.deviation = diffusion.alpha_bar, mean, deviation

    def denoise(self, x_t, t, y=None):
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * (x_t - a.sqrt() * self.mean) / (a * self.deviation**2 + 1 - a)


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
def test_the_loss_is_equation_14_for_the_draws_that_it_makes(prediction):
    learner = DDPM(network(), n_steps=50, prediction=prediction, flip=False)
    x = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    torch.manual_seed(5)
    found = learner.loss(x)
    torch.manual_seed(5)
    torch.rand(6)  # the flips
    x0 = x / 255 * 2 - 1
    noise, t = torch.randn(6, 1, 8, 8), torch.randint(1, 51, (6,))
    total = 0.0
    for i in range(6):
        a = learner.diffusion.alpha_bar[t[i]]
        x_t = a.sqrt() * x0[i : i + 1] + (1 - a).sqrt() * noise[i : i + 1]
        wanted = noise[i] if prediction == "epsilon" else x0[i]
        total += (learner.denoiser.denoise(x_t, t[i : i + 1])[0] - wanted).square().sum().item()
    assert found.item() == pytest.approx(total / (6 * 64), rel=1e-4)


def test_flips_mirror_half_of_the_images():
    learner = DDPM(network(), n_steps=50)
    x = torch.zeros(400, 1, 8, 8)
    x[..., 0] = 1
    views = learner.views(x)
    mirrored = views[:, 0, 0, -1] == 1
    assert torch.equal(views[mirrored], x[mirrored].flip(3))
    assert torch.equal(views[~mirrored], x[~mirrored])
    assert 150 < mirrored.sum() < 250


def test_the_average_starts_quickly_and_then_keeps_its_share():
    learner = DDPM(network(), n_steps=10, ema=0.5)
    average = copy.deepcopy(learner.encoder.state_dict())
    for n in range(1, 14):
        with torch.no_grad():
            for p in learner.denoiser.parameters():
                p.add_(torch.randn_like(p))
        learner.after_step(0.0)
        kept = min(0.5, (1 + n) / (10 + n))
        for name, p in learner.denoiser.named_parameters():
            average[name] = kept * average[name] + (1 - kept) * p.detach()
    for name, p in learner.encoder.named_parameters():
        torch.testing.assert_close(p, average[name], rtol=1e-4, atol=1e-5)
        assert not p.requires_grad


def test_fit_moves_the_average_after_the_network():
    learner = DDPM(network(), n_steps=10)
    before = copy.deepcopy(learner.encoder.state_dict())
    fit(learner, torch.rand(8, 1, 8, 8), max_steps=2, batch_size=4)
    assert learner.n_updates == 2
    assert not torch.equal(before["out.2.weight"], learner.encoder.out[2].weight)
    assert not torch.equal(learner.denoiser.out[2].weight, learner.encoder.out[2].weight)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_of_the_exact_denoiser_have_its_mean_and_deviation(eta):
    learner = DDPM(network())
    learner.encoder = ExactDenoiser(learner.diffusion, 0.2, 0.15)  # narrow, so that cutting to [-1, 1] changes nothing
    images = learner.sample(200, num_steps=1000, eta=eta) * 2 - 1
    assert images.shape == (200, 1, 8, 8)
    assert images.mean().item() == pytest.approx(0.2, abs=0.01)
    assert images.std().item() == pytest.approx(0.15, rel=0.06)


def test_samples_are_of_the_average_and_hang_on_torchs_seed_alone():
    learner = DDPM(network(), n_steps=20)
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(learner.sample(300, num_steps=2))
        nn.init.normal_(learner.denoiser.out[2].weight)
    assert torch.equal(*draws)
    assert draws[0].min() >= 0
    assert draws[0].max() <= 1
    assert not torch.equal(draws[0][0], draws[0][299])


def test_estimate_lets_gradients_through_to_the_noisy_images():
    learner = DDPM(network(), n_steps=50)
    nn.init.normal_(learner.encoder.out[2].weight)
    learner.double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    x0, epsilon = learner.estimate(x, 20)
    torch.testing.assert_close(learner.diffusion.noised(x0, 20, epsilon), x, rtol=1e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(x0.square().sum(), x)
    direction = torch.randn_like(x)
    ends = [learner.estimate(x.detach() + h * direction, 20)[0].square().sum() for h in (1e-5, -1e-5)]
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-5, (slope * direction).sum(), rtol=1e-4, atol=1e-4)


def test_classes_are_hidden_from_a_share_of_the_images():
    learner = ConditionalDDPM(network(), n_classes=3, n_steps=20, label_dropout=0.25)
    seen = []
    learner.denoiser.denoise = lambda x, t, y: seen.append(y) or x
    learner.loss(torch.rand(4000, 1, 8, 8), torch.arange(4000) % 3)
    hidden = seen[0] == -1
    assert 0.2 < hidden.float().mean() < 0.3
    assert torch.equal(seen[0][~hidden], (torch.arange(4000) % 3)[~hidden])
    assert learner.columns == ("x", "y")
    assert DDPM(network()).columns == ("x",)


def test_guidance_of_two_gaussians_moves_their_estimate_as_bayes_says():
    """p(x | y)^(1 + w) / p(x)^w of Gaussians of one width is that Gaussian about (1 + w) m_y - w m."""
    diffusion, scale = Diffusion(100), 1.5
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([30, 50, 70, 90])
    noises = [ExactDenoiser(diffusion, mean, 0.4).denoise(x, t) for mean in (0.3, -0.1)]
    expected = ExactDenoiser(diffusion, (1 + scale) * 0.3 + scale * 0.1, 0.4).denoise(x, t)
    torch.testing.assert_close(guided(*noises, scale), expected)


def test_a_guided_sample_uses_both_networks():
    learner = ConditionalDDPM(network(), n_classes=2)

    class Two(ExactDenoiser):
        def denoise(self, x_t, t, y=None):
            self.mean = 0.0 if y is None else torch.where(y == 0, -0.2, 0.2).view(-1, 1, 1, 1)
            return super().denoise(x_t, t)

    learner.encoder = Two(learner.diffusion, 0.0, 0.1)
    y = torch.tensor([0, 1]).repeat(20)
    for scale in (0.0, 1.0):
        images = learner.sample(40, y=y, guidance_scale=scale) * 2 - 1
        means = [images[y == c].mean().item() for c in (0, 1)]
        assert means == pytest.approx([-0.2 * (1 + scale), 0.2 * (1 + scale)], abs=0.02)


def test_it_learns_which_images_there_are():
    """Bright images of class 0 and dark ones of class 1."""
    x = torch.full((64, 1, 8, 8), 220, dtype=torch.uint8)
    x[::2] = 40
    y = (torch.arange(64) + 1) % 2
    learner = ConditionalDDPM(network(), n_classes=2, n_steps=100, prediction="x0", ema=0.9)
    fit(learner, {"x": x, "y": y}, max_steps=60, batch_size=32, lr=5e-3, weight_decay=0.0)
    for c, level in ((0, 220), (1, 40)):
        assert learner.sample(8, num_steps=10, y=c).mean().item() == pytest.approx(level / 255, abs=0.1)


def test_the_encoder_is_told_the_noise_schedule_and_the_classes():
    learner = ConditionalDDPM(network(layer="up1"), n_classes=4, n_steps=100, schedule="cosine")
    config = learner.encoder.config
    assert (config["n_steps"], config["schedule"], config["timestep"], config["n_classes"]) == (100, "cosine", 2, 4)
    assert config["layer"] == "up1"


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match=r"take tacit\.nn\.UNet"):
        DDPM(ResNet(8, width=4))
    with pytest.raises(ArgumentError, match=r"ema=1\.0"):
        DDPM(network(), ema=1.0)
    with pytest.raises(ArgumentError, match="label_dropout=2"):
        ConditionalDDPM(network(), 2, label_dropout=2)
    with pytest.raises(ArgumentError, match="n=0"):
        DDPM(network()).sample(0)
    with pytest.raises(ArgumentError, match="y='0 to 2': expected classes from 0 to 1"):
        ConditionalDDPM(network(), 2).sample(2, y=torch.tensor([2, 0]))
    with pytest.raises(ArgumentError, match="not told of classes"):
        DDPM(network()).sample(1, y=3)
