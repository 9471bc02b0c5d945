import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError
from tacit.generate import DDPM
from tacit.nn import Diffusion, ResNet, UNet
from tacit.pretrain import DiTi


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def learner(diffusion=None, **words):
    words = {"n_chunks": 4, "flip": False, "width": 8, "n_steps": 20} | words
    return DiTi(ResNet(8, width=8, image_size=8, in_channels=1), diffusion=diffusion, **words)


def pictures(n=4):
    return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8)


@pytest.mark.parametrize(("dim", "n_chunks", "n_steps"), [(32, 4, 20), (32, 8, 1000), (32, 32, 64), (32, 1, 10)])
def test_a_time_is_shown_its_own_chunk_and_those_before(dim, n_chunks, n_steps):
    """Chunk numbers as the authors' code has them, with times from 0 and T a multiple of the chunks or near one."""
    one = learner(n_chunks=n_chunks, n_steps=n_steps)
    z = torch.randn(1, dim)
    for t in range(1, n_steps + 1):
        chunk = int((t - 1) / (n_steps / n_chunks))
        until = int(dim / n_chunks * (chunk + 1))
        expected = [value if place < until else 0.0 for place, value in enumerate(z[0].tolist())]
        assert one.visible(z, t)[0].tolist() == pytest.approx(expected), t
        assert one.visible(z.expand(2, -1), torch.tensor([t, n_steps]))[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("detach", [True, False])
def test_only_the_chunk_of_the_time_gets_a_gradient_unless_it_is_let_through(detach):
    one = learner(detach=detach)
    for t, chunk in [(1, 0), (5, 0), (6, 1), (20, 3)]:
        z = torch.randn(1, 32, requires_grad=True)
        one.visible(z, t).sum().backward()
        reached = [place // 8 for place in range(32) if z.grad[0, place] != 0]
        assert set(reached) == ({chunk} if detach else set(range(chunk + 1))), t


def test_features_of_unequal_allocation_are_those_of_the_authors_configuration():
    """stages 50, 100, 300, 500, 1000 with 10, 25, 327, 100 and 50 of 512 features, in 64 chunks of equal time: the
    chunks that begin within a stage share its features. Ours has a share of each stage by time instead, so that both
    agree to within one chunk."""
    stages, dims = [50, 100, 300, 500, 1000], [10, 25, 327, 100, 50]
    starts = [next(t for t in range(1000) if int(t / (1000 / 64)) == chunk) for chunk in range(64)]
    of = [next(i for i, end in enumerate(stages) if start < end) for start in starts]
    sizes = [dims[stage] / of.count(stage) for stage in of]
    shares = torch.tensor([0, *dims]).cumsum(0) / 512
    points = list(zip([0, *(end / 1000 for end in stages)], shares.tolist(), strict=True))
    encoder = ResNet(8, width=128, image_size=8, in_channels=1)
    ends = DiTi(encoder, n_chunks=64, allocation=points, width=8, n_steps=1000).ends
    assert ends[0] == 0
    assert ends[-1] == 512
    assert (ends[1:] - torch.tensor(sizes).cumsum(0)).abs().max() <= max(sizes) + 1


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
def test_the_loss_is_the_papers_on_the_clean_image(prediction):
    """lambda_t |x_0 - (x_0_hat + g)|^2, image by image, with g written out from the estimator's gradient."""
    one = learner(prediction=prediction)
    one.estimator.out[-1].weight.data.normal_()
    x = pictures(5)
    torch.manual_seed(3)
    found = one.correction_loss(x)
    torch.manual_seed(3)
    torch.rand(5)  # the flips
    x0, noise, t = x / 255 * 2 - 1, torch.randn(5, 1, 8, 8), torch.randint(1, 21, (5,))
    alpha_bar = one.diffusion.diffusion.alpha_bar.double()
    z, total = one.encoder(x / 255), 0.0
    unet = one.diffusion.encoder
    for i in range(5):
        a = alpha_bar[t[i]]
        x_t = (a.sqrt() * x0[i : i + 1] + (1 - a).sqrt() * noise[i : i + 1]).float()
        given = unet.denoise(x_t, int(t[i]))
        x0_hat = given if prediction == "x0" else (x_t - (1 - a).sqrt() * given) / a.sqrt()
        _, gradient = one.estimator(unet, x_t, int(t[i]), one.visible(z[i : i + 1], int(t[i])))
        correction = (1 - a) / a.sqrt() * gradient  # what - sqrt(1 - a) G on the noise is on the clean image
        ratio = a / (1 - a)
        total += ratio**1.1 / (1 + ratio) * (x0[i] - x0_hat - correction).square().mean()
    assert found.item() == pytest.approx(total.item() / 5, rel=1e-3)


def test_with_the_exact_gradient_the_corrected_noise_is_that_of_the_posterior():
    """x_0 ~ N(0, 1) a pixel, z = x_0 + N(0, 1/4): p(x_0 | z), p(z | x_t) and all estimates are in closed form."""
    variance, diffusion = 0.25, Diffusion(20)

    class Exact(nn.Module):
        def forward(self, unet, x_t, t, z):
            a = diffusion.alpha_bar[t]
            given = (1 - a).sqrt() * x_t  # E[noise | x_t]
            mean, spread = a.sqrt() * x_t, 1 - a  # of x_0 given x_t
            return given, a.sqrt() * (z.view_as(x_t) - mean) / (spread + variance)

    one = learner(n_chunks=1)
    one.estimator = Exact()
    z, x_t = torch.randn(3, 64), torch.randn(3, 1, 8, 8)
    for t in (1, 7, 20):
        a = diffusion.alpha_bar[t]
        mean, spread = z.view_as(x_t) / (1 + variance), variance / (1 + variance)  # of x_0 given z
        expected = (1 - a).sqrt() * (x_t - a.sqrt() * mean) / (a * spread + 1 - a)
        torch.testing.assert_close(one.noise(x_t, t, z), expected, rtol=1e-4, atol=1e-5)


def test_the_estimator_scales_and_shifts_by_the_code_after_the_time():
    """One block, unit by unit, from the equation in its docstring."""
    block = learner().estimator.middle.eval()
    block.conv2.weight.data.normal_()
    x, time, code = torch.randn(1, block.conv1.in_channels, 2, 2), torch.randn(1, 32), torch.randn(1, 32)
    h = block.norm2(block.conv1(nn.functional.silu(block.norm1(x))))
    t, z = block.modulation(time)[0], block.guidance(code)[0]
    n = h.shape[1]
    for c in range(n):
        h[:, c] = (1 + z[c]) * (h[:, c] * (1 + t[c]) + t[n + c]) + z[n + c]
    expected = block.attention(block.shortcut(x) + block.conv2(nn.functional.silu(h)))
    torch.testing.assert_close(block(x, time, code), expected)


def test_the_way_forward_and_back_meets_in_the_image():
    """With the exact denoiser of pixels N(0, 0.09), whose images are never cut."""
    one = learner(n_steps=200)

    class Exact(nn.Module):
        def forward(self, unet, x_t, t, z):
            a = one.diffusion.diffusion.alpha_bar[t]
            return (1 - a).sqrt() * x_t / (0.09 * a + 1 - a), torch.zeros_like(x_t)

    one.estimator = Exact()
    x = 0.4 + 0.2 * torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(one.counterfactual(x, slice(0), x, num_steps=200), x, rtol=0, atol=5e-3)


def test_a_counterfactual_changes_the_chunk_and_nothing_else():
    one = learner().eval()
    for parameter in one.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    x, target = torch.rand(2, 1, 8, 8), torch.rand(1, 1, 8, 8)
    z, other = one.encoder(x), one.encoder(target)
    mixed = z.clone()
    mixed[:, 8:16] = other[:, 8:16]
    expected = one.decode(mixed, one.invert(x, z, num_steps=5), num_steps=5)
    torch.testing.assert_close(one.counterfactual(x, 1, target, num_steps=5), expected)
    mixed[:, 24:] = other[:, 24:]
    expected = one.decode(mixed, one.invert(x, z, num_steps=5), num_steps=5)
    torch.testing.assert_close(one.counterfactual(x, [1, 3], target, num_steps=5), expected)
    half = z + 0.5 * (other - z)
    expected = one.decode(half, one.invert(x, z, num_steps=5), num_steps=5)
    torch.testing.assert_close(one.counterfactual(x, slice(None), target, strength=0.5, num_steps=5), expected)


def test_a_given_denoiser_stays_as_it_is_and_one_of_its_own_learns_as_ddpm():
    unet = UNet(8, 1, width=8)
    given = learner(DDPM(unet, n_steps=20))
    assert {name.split(".")[0] for name, p in given.named_parameters() if p.requires_grad} == {"encoder", "estimator"}
    own = learner()
    x = pictures()
    torch.manual_seed(1)
    both = own.loss(x)
    torch.manual_seed(1)
    apart = own.correction_loss(x) + own.diffusion.loss(x)
    assert both.item() == pytest.approx(apart.item())
    both.backward()
    alone = DDPM(UNet(8, 1, width=8), n_steps=20, flip=False)
    alone.load_state_dict(own.diffusion.state_dict())
    torch.manual_seed(1)
    own.correction_loss(x)
    alone.loss(x).backward()
    mine = dict(own.diffusion.denoiser.named_parameters())
    for name, parameter in alone.denoiser.named_parameters():
        torch.testing.assert_close(mine[name].grad, parameter.grad)


def test_a_learner_of_the_same_arguments_holds_the_state_of_one_with_a_given_denoiser():
    one = learner(DDPM(UNet(8, 1, width=16), n_steps=30, schedule="cosine", prediction="x0"))
    again = DiTi(ResNet(8, width=8, image_size=8, in_channels=1), **one.arguments)
    again.load_state_dict(one.state_dict())
    assert again.diffusion.diffusion.prediction == "x0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"n_chunks": 33}, "n_chunks=33"),
        ({"n_chunks": 0}, "n_chunks=0"),
        ({"allocation": [(0, 0), (0.5, 0.8), (1, 0.5)]}, "allocation"),
        ({"allocation": [(0, 0), (0.5, 1)]}, "allocation"),
        ({"diffusion": DDPM(UNet(16, 1, width=8))}, "diffusion"),
    ],
)
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(ArgumentError, match=message):
        learner(**words)
