import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from tacit.errors import ArgumentError
from tacit.nn import ResNet, UNet
from tacit.pretrain import DiffusionProbe, compare_readings
from tacit.pretrain._diffusion_probe import PENALTIES, _read_stages, read, ridge


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def network(**words):
    return UNet(8, 1, width=8, multipliers=(1, 2), **words).eval()


def features(n=60, d=40, classes=3):
    y = torch.arange(n) % classes
    return torch.randn(n, d) @ torch.randn(d, d) + y[:, None] * torch.linspace(0, 8, d), y + 4


def test_ridge_is_scikit_learns_with_the_penalty_that_leaving_one_out_prefers():
    """Brute force: n fits for each penalty, without the item that is then predicted."""
    (x, y), (new, _) = features(), features(20)
    mean, deviation = x.mean(0), x.std(0)
    a, b = (((part - mean) / deviation).double().numpy() for part in (x, new))
    names = y.unique().numpy()
    targets = 2.0 * (y.numpy()[:, None] == names) - 1
    right = []
    for penalty in PENALTIES:
        hits = 0
        for i in range(len(a)):
            rest = np.arange(len(a)) != i
            fitted = Ridge(alpha=penalty * len(a)).fit(a[rest], targets[rest])
            hits += names[fitted.predict(a[i : i + 1]).argmax()] == y[i].item()
        right.append(hits)
    assert len(set(right)) > 1
    best = Ridge(alpha=PENALTIES[int(np.argmax(right))] * len(a)).fit(a, targets)
    assert ridge(x, y, new).tolist() == names[best.predict(b).argmax(1)].tolist()


def test_ridge_bears_constant_features_and_more_of_them_than_items():
    x, y = features(20, 50)
    x[:, :10] = 3.0
    assert (ridge(x, y, x) == y).float().mean() > 0.9


def test_read_gives_what_an_encoder_set_to_that_place_gives():
    encoder = network(n_steps=100)
    before, config = copy.deepcopy(encoder.state_dict()), encoder.config
    x = torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8)
    found = read(encoder, x, ("down2", "middle", "up2"), (0, 30), (1, 3))
    assert len(found) == 12
    for place, values in found.items():
        alone = copy.deepcopy(encoder).read(*place)
        torch.testing.assert_close(values, alone(alone.prepare(x)).detach(), rtol=1e-4, atol=1e-5)
    assert encoder.config is config
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_readings_are_sorted_by_accuracy_on_the_images_that_were_held_out():
    encoder = network(n_steps=100)
    x, y = torch.rand(50, 1, 8, 8), torch.arange(50) % 2
    x[y == 1] *= 0.7
    found = compare_readings(encoder, x, y, layers=["middle", "up1"], timesteps=[1, 50], pools=[1, 2], held_out=0.4)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    new, seen = order[:20], order[20:]
    accuracies = [reading.accuracy for reading in found]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(found) == 8
    for layer, timestep, pool, accuracy in found:
        alone = copy.deepcopy(encoder).read(layer, timestep, pool)(x).detach()
        guess = ridge(alone[seen], y[seen], alone[new])
        assert accuracy == pytest.approx((guess == y[new]).float().mean().item())


def test_noise_that_drowns_the_images_is_not_chosen():
    """Classes that differ by brightness alone are read at t = 1, and not where only noise is left."""
    learner = DiffusionProbe(network(), n_steps=1000)
    x, y = torch.rand(200, 1, 8, 8) * 0.02, torch.arange(200) % 4
    x += (0.25 * y)[:, None, None, None]
    found = learner.choose(x, y, layers=["middle", "up1"], timesteps=[1000, 1], pools=[1])
    assert [reading.timestep for reading in found] == [1, 1, 1000, 1000]
    assert found[0].accuracy > 0.75
    assert found[-1].accuracy < 0.5
    config = learner.encoder.config
    assert (config["layer"], config["timestep"], config["pool"]) == found[0][:3]
    assert learner.encoder(x).shape == (200, learner.encoder.dim)


def test_it_reads_as_it_is_told_and_trains_as_ddpm_does():
    learner = DiffusionProbe(network(), layer="up1", timestep=7, pool=2, n_steps=100, flip=False)
    config = learner.encoder.config
    assert (config["layer"], config["timestep"], config["pool"], config["n_steps"]) == ("up1", 7, 2, 100)
    assert DiffusionProbe(network(), n_steps=200).encoder.config["timestep"] == 4
    x = torch.rand(4, 1, 8, 8)
    torch.manual_seed(1)
    found = learner.loss(x)
    torch.manual_seed(1)
    torch.rand(4)  # the flips
    noise, t = torch.randn_like(x), torch.randint(1, 101, (4,))
    given = learner.denoiser.denoise(learner.diffusion.noised(2 * x - 1, t, noise), t)
    assert found.item() == pytest.approx((given - noise).square().mean().item(), rel=1e-5)


def test_stages_of_the_baseline_are_averaged_over_cells():
    encoder = ResNet(8, width=4, in_channels=1, image_size=16).eval()
    x = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    found = _read_stages(encoder, x, ("stage1", "stage2", "stage3"), (1, 2))
    torch.testing.assert_close(found["stage3", 1], encoder(encoder.prepare(x)).detach())
    second = ResNet(8, width=4, in_channels=1, image_size=16, layer="stage2").eval()
    second.load_state_dict(encoder.state_dict())
    map_ = second.tokens(second.prepare(x)).detach().transpose(1, 2).reshape(3, 8, 8, 8)
    cells = F.avg_pool2d(map_, 4)
    torch.testing.assert_close(found["stage2", 2], cells.flatten(1))
    assert len(found) == 6


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="--model unet"):
        DiffusionProbe(ResNet(8, width=4))
    with pytest.raises(ArgumentError, match="timestep=101"):
        DiffusionProbe(network(), timestep=101, n_steps=100)
    with pytest.raises(ArgumentError, match="a class for each of the 5 images"):
        compare_readings(network(), torch.rand(5, 1, 8, 8), torch.arange(4))
    with pytest.raises(ArgumentError, match="two to score"):
        compare_readings(network(), torch.rand(3, 1, 8, 8), torch.arange(3))
