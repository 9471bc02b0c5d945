import math

import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.generate import DCGAN
from tacit.generate._dcgan import DiscriminatorTrunk, Generator
from tacit.training import fit, mix


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def made(image_size=8, in_channels=1, latent_dim=5, width=4):
    return DCGAN(image_size=image_size, in_channels=in_channels, latent_dim=latent_dim, width=width)


def by_hand(learner, x):
    """The discriminator's maps and judgement in training mode, from the weights, one operation at a time."""
    maps, h = [], x * 2 - 1
    for i, layer in enumerate(learner.encoder.layers):
        h = F.conv2d(h, layer[0].weight, stride=2, padding=2)
        if i:  # section 3: none at the discriminator's input
            mean, variance = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), unbiased=False, keepdim=True)
            gain, bias = (p[:, None, None] for p in (layer[1].weight, layer[1].bias))
            h = (h - mean) / (variance + 1e-5).sqrt() * gain + bias
        h = torch.where(h > 0, h, 0.2 * h)
        maps.append(h)
    return maps, torch.sigmoid(h.flatten(1) @ learner.head.weight[0])


def test_costs_against_the_equations():
    learner = made(image_size=16, in_channels=3)
    real, painted = torch.rand(2, 6, 3, 16, 16)
    p_real, p_painted = (by_hand(learner, x)[1].tolist() for x in (real, painted))
    expected = sum(-math.log(p) for p in p_real) / 6 + sum(-math.log(1 - p) for p in p_painted) / 6
    assert learner.discriminator_cost(real, painted).item() == pytest.approx(expected, rel=1e-5)
    expected = sum(-math.log(p) for p in p_painted) / 6
    assert learner.generator_cost(painted).item() == pytest.approx(expected, rel=1e-5)


def test_features_are_all_layers_pooled_to_4_by_4():
    learner = made(image_size=16, in_channels=3)
    x = torch.rand(5, 3, 16, 16)
    first, second = by_hand(learner, x)[0]
    pooled = first.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    expected = torch.cat([pooled.flatten(1), second.flatten(1)], 1)  # 8 x 8 and 4 x 4
    torch.testing.assert_close(learner.encoder(x), expected, rtol=1e-4, atol=1e-5)
    assert learner.encoder.dim == 16 * (4 + 8)


@pytest.mark.parametrize("side", [16, 13, 14, 15])
def test_the_generators_layers_are_the_transposes_of_the_discriminators(side):
    """<conv(x), y> = <x, transpose(y)> for the same kernels, whatever the sides leave over."""
    trunk = DiscriminatorTrunk(side, 2, 3)
    generator = Generator(5, trunk.sides, trunk.widths)
    generator.layers[-2].weight.data.copy_(trunk.layers[0][0].weight)
    x, y = torch.randn(4, 2, side, side), torch.randn(4, 3, trunk.sides[1], trunk.sides[1])
    inner = (trunk.layers[0][0](x) * y).sum()
    torch.testing.assert_close((generator.layers[-2](y) * x).sum(), inner, rtol=1e-4, atol=1e-4)


def test_painted_images_have_the_size_asked_for_and_lie_in_0_to_1():
    for size in (7, 8, 16, 20, 27, 28, 32, 33):
        images = made(image_size=size).sample(2)
        assert images.shape == (2, 1, size, size)
        assert 0 <= images.min() <= images.max() <= 1
    assert made(image_size=64).encoder.sides == [64, 32, 16, 8, 4]  # figure 1


def test_only_real_images_enter_the_running_statistics():
    learner, alone = made(image_size=16), made(image_size=16)
    alone.load_state_dict(learner.state_dict())
    real, painted = torch.rand(2, 6, 1, 16, 16)
    learner.discriminator_cost(real, painted)
    learner.generator_cost(painted)
    alone.encoder.maps(real)
    for name, buffer in learner.encoder.named_buffers():
        assert torch.equal(buffer, alone.encoder.get_buffer(name)), name
    assert not torch.equal(alone.encoder.layers[1][1].running_mean, torch.zeros(8))


def test_fit_is_the_loop_of_two_adams_with_beta1_a_half():
    """The discriminator moves first; the generator answers the one that has moved."""
    images = torch.randint(0, 256, (12, 1, 16, 16), dtype=torch.uint8)
    learner, plain = made(image_size=16), made(image_size=16)
    plain.load_state_dict(learner.state_dict())
    words = DCGAN.settings["paper"]
    words = {name: words[name] for name in ("optimizer", "lr", "betas", "weight_decay", "schedule", "warmup")}
    fit(learner, images, max_steps=3, batch_size=4, seed=7, **words)

    judges = [*plain.encoder.parameters(), *plain.head.parameters()]
    adams = [torch.optim.Adam(p, 2e-4, betas=(0.5, 0.999)) for p in (judges, plain.generator.parameters())]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(mix(7, "order", 0)))
    for step in range(3):
        torch.manual_seed(mix(7, "step", step))
        real = images[order[4 * step : 4 * step + 4]].float() / 255
        painted = plain.generator(torch.rand(4, 5) * 2 - 1)
        p_real, p_painted = by_hand(plain, real)[1], by_hand(plain, painted.detach())[1]
        _descend(adams[0], -p_real.log().mean() - (1 - p_painted).log().mean())
        _descend(adams[1], -by_hand(plain, painted)[1].log().mean())
    for name, value in plain.named_parameters():
        torch.testing.assert_close(learner.get_parameter(name), value, rtol=1e-4, atol=2e-6, msg=name)


def _descend(adam, cost):
    adam.zero_grad()
    cost.backward()
    adam.step()


def test_what_is_painted_comes_to_look_like_the_images():
    """Bright images: from a mean of one half, where tanh starts, to theirs."""
    bright = torch.randint(200, 256, (64, 1, 8, 8), dtype=torch.uint8)
    learner = made(width=8)
    before = learner.sample(64).mean().item()
    fit(learner, bright, max_steps=150, batch_size=32, lr=2e-3, betas=(0.5, 0.999), weight_decay=0.0, warmup=0.0)
    assert before == pytest.approx(0.5, abs=0.02)
    assert learner.sample(64).mean().item() == pytest.approx(bright.float().mean().item() / 255, abs=0.1)


def test_samples_hang_on_torchs_seed_alone_and_change_nothing():
    learner = made(latent_dim=3)
    state = {name: value.clone() for name, value in learner.state_dict().items()}
    draws = []
    for _ in range(2):
        torch.manual_seed(4)
        draws.append(learner.sample(300))
    assert torch.equal(*draws)
    assert not torch.allclose(draws[0][0], draws[0][1], atol=1e-4)
    assert all(torch.equal(state[name], value) for name, value in learner.state_dict().items())
    assert learner.generator.training


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="image_size=6"):
        made(image_size=6)
    with pytest.raises(ArgumentError, match="latent_dim=0"):
        made(latent_dim=0)
    with pytest.raises(ArgumentError, match="width=0"):
        made(width=0)
    with pytest.raises(ArgumentError, match="n=0"):
        made().sample(0)
