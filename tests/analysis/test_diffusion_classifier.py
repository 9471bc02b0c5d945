import math

import numpy as np
import pytest
import torch
from torch import nn

from tacit.analysis import DiffusionClassifier, composition_task, denoising_errors, learn_weights
from tacit.data import COMPOSITION_WORDS
from tacit.errors import ArgumentError
from tacit.generate import TokenDDPM
from tacit.nn import ConditionalUNet, Diffusion


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Gaussians(nn.Module):
    """Told word k, the exact denoiser of images whose pixels are N(means[k], deviation^2)."""

    in_channels, image_size = 1, 4

    def __init__(self, diffusion, means, deviation):
        super().__init__()
        self.diffusion, self.means, self.deviation = diffusion, torch.tensor(means), deviation

    def denoise(self, x_t, t, tokens):
        a = self.diffusion.alpha_bar[t].view(-1, 1, 1, 1)
        mean = self.means[tokens[:, 0]].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * (x_t - a.sqrt() * mean) / (a * self.deviation**2 + 1 - a)


class Exact:
    def __init__(self, means, deviation=0.1, n_steps=100):
        self.diffusion = Diffusion(n_steps)
        self.encoder = Gaussians(self.diffusion, means, deviation)


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
def test_errors_are_the_loss_of_each_image_prompt_time_and_noise(prediction):
    network = ConditionalUNet(8, 3, width=8, multipliers=(1, 2), attention=(4,), context_dim=8)
    ddpm = TokenDDPM(network, n_steps=40, prediction=prediction)
    ddpm.encoder.eval()
    x, prompts = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8), torch.randint(1, 15, (3, 2, 4))
    found = denoising_errors(ddpm, x, prompts, n_times=4, n_noises=2, seed=7)
    generator = torch.Generator().manual_seed(7)
    for number, t in enumerate((5, 15, 25, 35)):  # the middles of four intervals of 40
        noises = [torch.randn(3, 8, 8, generator=generator) for _ in range(2)]
        for i in range(3):
            for k in range(2):
                total = 0.0
                for noise in noises:
                    x0, a = x[i] / 255 * 2 - 1, ddpm.diffusion.alpha_bar[t]
                    x_t = a.sqrt() * x0 + (1 - a).sqrt() * noise
                    with torch.no_grad():
                        given = ddpm.encoder.denoise(x_t[None], t, prompts[i, k][None])[0]
                    total += (given - (noise if prediction == "epsilon" else x0)).square().mean().item()
                assert found[i, k, number].item() == pytest.approx(total / 2, rel=1e-4)
    same = denoising_errors(ddpm, x, prompts[0], n_times=4, n_noises=2, seed=7)
    torch.testing.assert_close(same[0], found[0])


def test_with_exact_denoisers_the_nearest_mean_wins():
    """Errors of two Gaussians differ by (a (mean_k - x) s)^2 and so on, in closed form: the likelier one has less."""
    means = [-0.6, 0.0, 0.5]
    ddpm = Exact(means)
    centres = torch.tensor([-0.7, -0.2, 0.1, 0.2, 0.4, 0.9])
    x = ((centres.view(-1, 1, 1, 1) + 0.02 * torch.randn(6, 1, 4, 4)) + 1) / 2
    prompts = torch.arange(3)[:, None]
    found = DiffusionClassifier(ddpm, n_times=10).predict(x, prompts)
    expected = (centres[:, None] - torch.tensor(means)).abs().argmin(1)
    assert found.tolist() == expected.tolist()
    errors = denoising_errors(ddpm, x, prompts, n_times=5, n_noises=400)
    for number, t in enumerate((10, 30, 50, 70, 90)):
        a = ddpm.diffusion.alpha_bar[t].item()
        scale = math.sqrt(1 - a) * math.sqrt(a) / (a * 0.01 + 1 - a)
        gap = scale**2 * ((2 * x - 1 - means[2]).square() - (2 * x - 1 - means[0]).square()).mean((1, 2, 3))
        measured = errors[:, 2, number] - errors[:, 0, number]
        torch.testing.assert_close(measured, gap, rtol=0.1, atol=0.02)


def test_all_prompts_meet_the_same_noise():
    ddpm = Exact([0.2, 0.2, -0.4])
    errors = denoising_errors(ddpm, torch.rand(5, 1, 4, 4), torch.arange(3)[:, None], n_times=6)
    assert torch.equal(errors[:, 0], errors[:, 1])


def test_weights_go_to_the_times_that_tell():
    """Only time 2 of 5 tells the right candidate, time 4 misleads with large errors."""
    y = torch.randint(3, (200,))
    errors = 1 + 0.3 * torch.randn(200, 3, 5)
    errors[torch.arange(200), y, 2] -= 0.8
    errors[..., 4] += 2.0 * torch.randn(200, 3)
    weights = learn_weights(errors[:100], y[:100])
    assert weights.argmax() == 2
    assert weights.argmin() == 4
    assert weights.mean().item() == pytest.approx(1)
    uniform, learned = (((errors[100:] @ w).argmin(1) == y[100:]).float().mean() for w in (torch.ones(5), weights))
    assert learned > uniform + 0.15


def test_uniform_weights_stay_where_nothing_is_better():
    y = torch.randint(2, (40,))
    errors = torch.ones(40, 2, 3)
    errors[torch.arange(40), y] = 0.0
    torch.testing.assert_close(learn_weights(errors, y), torch.ones(3))


def test_weights_hang_on_no_unit():
    y, errors = torch.randint(2, (60,)), torch.rand(60, 2, 4)
    torch.testing.assert_close(learn_weights(errors, y), learn_weights(1e-4 * errors + 5e-4, y), rtol=2e-2, atol=1e-2)


def test_the_classifier_uses_what_it_has_learned():
    ddpm, x, y = Exact([-0.5, 0.5]), torch.rand(40, 1, 4, 4), torch.arange(40) % 2
    prompts = torch.arange(2)[:, None]
    plain = DiffusionClassifier(ddpm, n_times=4).fit(x, prompts, y)
    assert torch.equal(plain.weights_, torch.ones(4))
    model = DiffusionClassifier(ddpm, timestep_weights="learned", n_times=4).fit(x, prompts, y)
    torch.testing.assert_close(model.weights_, learn_weights(model.errors(x, prompts), y))
    expected = [min((0, 1), key=lambda k: float((e[k] * model.weights_).sum())) for e in model.errors(x, prompts)]
    assert model.predict(x, prompts).tolist() == expected


def test_tasks_say_what_is_there_and_what_is_not():
    def phrases(prompt):
        words = [[COMPOSITION_WORDS[token] for token in phrase if token] for phrase in prompt.reshape(3, 4)]
        return [phrase for phrase in words if phrase]

    data = composition_task(40, seed=3, task="attribution")
    assert set(data["y"]) == {0, 1}
    for prompts, y in zip(data["prompts"], data["y"], strict=True):
        (a, b), (c, d) = phrases(prompts[y]), phrases(prompts[1 - y])
        assert (a[0], b[0]) == (c[0], d[0])
        assert (a[1], b[1]) == (d[1], c[1])
        assert a[1] != b[1]
    data = composition_task(40, seed=3, task="position")
    for prompts, y in zip(data["prompts"], data["y"], strict=True):
        (a, b), (c, d) = phrases(prompts[y]), phrases(prompts[1 - y])
        assert (a[0], b[0]) == (c[0], d[0])
        assert (a[1], b[1]) == (d[1], c[1])
        assert "-" in a[1]
    data = composition_task(40, seed=3, task="colour")
    for prompts in data["prompts"]:
        said = [phrases(prompt)[0] for prompt in prompts]
        assert len({shape for shape, _ in said}) == 1
        assert len({colour for _, colour in said}) == 4
    data = composition_task(60, seed=3, task="counting")
    for prompts, x in zip(data["prompts"], data["x"], strict=True):
        said = [[phrase[0] for phrase in phrases(prompt)] for prompt in prompts]
        assert [len(colours) for colours in said] == [1, 2, 3]
        assert len(set(said[2])) == 3
        assert said[0] == said[1][:1] == said[2][:1]
        assert said[1] == said[2][:2]
        assert x.shape == (3, 16, 16)


def test_the_right_candidate_is_the_one_in_the_picture():
    """Of one object its colour: the mean of its pixels is nearest to the paint of the right candidate."""
    from tacit.data._drawn import COLOURS

    data = composition_task(80, seed=1, task="colour", style="studio")
    paints = np.array([COLOURS[COMPOSITION_WORDS[token]] for token in data["prompts"][0, :, 1]], float)
    right = 0
    for x, y in zip(data["x"].astype(float), data["y"], strict=True):
        pixels = x.reshape(3, -1).T
        strong = pixels[np.argsort(pixels.max(1) - pixels.min(1))[-12:]].mean(0)
        hues = paints - paints.min(1, keepdims=True)
        hue = strong - strong.min()
        right += int((hues @ hue / np.linalg.norm(hues, axis=1)).argmax() == y)
    assert right >= 72


def test_bad_input_is_an_error_that_names_it():
    ddpm, x = Exact([-0.5, 0.5]), torch.rand(4, 1, 4, 4)
    with pytest.raises(ArgumentError, match="n_times"):
        denoising_errors(ddpm, x, torch.arange(2)[:, None], n_times=101)
    with pytest.raises(ArgumentError, match="prompts"):
        denoising_errors(ddpm, x, torch.zeros(3, 2, 1, dtype=torch.int64))
    with pytest.raises(ArgumentError, match="timestep_weights"):
        DiffusionClassifier(ddpm, timestep_weights="best")
    with pytest.raises(ArgumentError, match="y"):
        learn_weights(torch.rand(8, 2, 3), torch.full((8,), 2))
    with pytest.raises(ArgumentError, match="four"):
        learn_weights(torch.rand(3, 2, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ArgumentError, match="task"):
        composition_task(2, task="size")
