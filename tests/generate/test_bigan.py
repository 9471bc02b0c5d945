import math

import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError
from tacit.generate import BiGAN
from tacit.generate._bigan import discriminator_cost
from tacit.nn import ResNet
from tacit.training import fit


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def made(image_size=8, in_channels=1, **words):
    return BiGAN(ResNet(8, width=4, in_channels=in_channels, image_size=image_size), width=4, **words)


def test_the_cost_is_minus_equation_2():
    first, second = torch.randn(2, 6)
    d = [[1 / (1 + math.exp(-value)) for value in row.tolist()] for row in (first, second)]
    expected = -sum(math.log(p) for p in d[0]) / 6 - sum(math.log(1 - p) for p in d[1]) / 6
    assert discriminator_cost(first, second).item() == pytest.approx(expected, rel=1e-5)


def test_a_step_moves_the_judge_and_then_the_two_against_the_judge_that_moved():
    learner, told = made(latent_dim=3), []
    x = torch.rand(5, 1, 8, 8)

    def update(cost, *modules):
        told.append((cost.item(), modules))
        for p in (p for module in modules for p in module.parameters()):
            p.grad = None
        cost.backward()
        with torch.no_grad():
            for p in (p for module in modules for p in module.parameters()):
                p.sub_(0.1 * p.grad)

    torch.manual_seed(3)
    z = torch.rand(5, 3) * 2 - 1
    code, painted = learner.encode(x), learner.generator(z)
    d_first, d_second = learner.discriminator(x, code), learner.discriminator(painted, z)
    torch.manual_seed(3)
    learner.step(update, x)
    (judged, judges), (fooled, foolers) = told
    assert judges == (learner.discriminator,)
    assert foolers == (learner.encoder, learner.to_latent, learner.generator)
    assert judged == pytest.approx(-(d_first.sigmoid().log().mean() + (1 - d_second.sigmoid()).log().mean()).item())
    moved = [learner.discriminator(x, code), learner.discriminator(painted, z)]
    expected = -((1 - moved[0].sigmoid()).log().mean() + moved[1].sigmoid().log().mean()).item()
    assert fooled == pytest.approx(expected, rel=1e-5)


def test_the_judge_sees_image_and_latent_together():
    """The same images and the same vectors, paired otherwise, are judged otherwise."""
    judge = made(latent_dim=3).discriminator.eval()
    x, z = torch.rand(2, 1, 8, 8), torch.randn(2, 3) * 3
    straight, crossed = judge(x, z), judge(x, z.flip(0))
    assert (straight - crossed).abs().min() > 1e-3
    assert (straight.sum() - crossed.sum()).abs() > 1e-5  # no sum of one score of x and one of z


@pytest.mark.slow
def test_the_encoder_comes_to_undo_the_generator():
    """Images of one brightness each: that of G(E(x)) follows x, as theorem 2 says of the end."""
    levels = torch.rand(128)
    x = levels[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    learner = made(latent_dim=1)
    fit(learner, x, max_steps=300, batch_size=64, lr=2e-3, betas=(0.5, 0.999), schedule="constant", warmup=0.0)
    rebuilt = learner.reconstruct(x).mean((1, 2, 3))
    assert torch.corrcoef(torch.stack([levels, rebuilt]))[0, 1] > 0.5


def test_samples_hang_on_torchs_seed_alone():
    learner = made(image_size=16, latent_dim=3)
    draws = []
    for _ in range(2):
        torch.manual_seed(4)
        draws.append(learner.sample(300))
    assert torch.equal(*draws)
    assert draws[0].shape == (300, 1, 16, 16)
    assert 0 <= draws[0].min() <= draws[0].max() <= 1
    assert learner.generator.training


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="latent_dim=0"):
        made(latent_dim=0)
    with pytest.raises(ArgumentError, match="image_size=6"):
        made(image_size=6)
    with pytest.raises(ArgumentError, match="n=0"):
        made().sample(0)
    assert isinstance(made().to_latent, nn.Linear)
