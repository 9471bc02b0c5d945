import math

import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.nn import Diffusion, UNet, encoder
from tacit.nn._unet import Residual, _sinusoids


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def made(image_size=16, in_channels=1, **words):
    return UNet(image_size, in_channels, width=8, **words).eval().requires_grad_(False)


@pytest.mark.parametrize("side", [16, 20, 28, 32, 13, 7, 4])
def test_any_side_comes_out_as_it_went_in(side):
    network = made(side, 3)
    x = torch.rand(2, 3, side, side)
    assert network.denoise(x, 5).shape == x.shape
    halves = [math.ceil(side / 2**i) for i in range(3)]
    maps = network.activations(x, 5)
    assert tuple(maps) == network.layers
    assert [map_.shape[-1] for map_ in maps.values()] == [*halves, halves[-1], *halves[::-1]]
    assert network(x).shape == (2, network.dim)


def test_a_residual_block_is_its_equation():
    block = Residual(4, 6, 5, attention=False)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, time = torch.randn(2, 4, 3, 3), torch.randn(2, 5)

    def norm(x, layer):
        groups = x.reshape(len(x), layer.num_groups, -1)
        mean, variance = groups.mean(2, keepdim=True), groups.var(2, unbiased=False, keepdim=True)
        normal = ((groups - mean) / (variance + 1e-5).sqrt()).view_as(x)
        return normal * layer.weight[:, None, None] + layer.bias[:, None, None]

    def convolve(x, layer):
        patches = F.unfold(x, 3, padding=1)
        return (layer.weight.flatten(1) @ patches + layer.bias[:, None]).view(len(x), -1, 3, 3)

    def silu(x):
        return x / (1 + (-x).exp())

    scale, shift = (time @ block.modulation.weight.T + block.modulation.bias)[:, :, None, None].split(6, dim=1)
    h = norm(convolve(silu(norm(x, block.norm1)), block.conv1), block.norm2)
    shortcut = torch.einsum("nchw,dc->ndhw", x, block.shortcut.weight[:, :, 0, 0]) + block.shortcut.bias[:, None, None]
    expected = shortcut + convolve(silu(h * (1 + scale) + shift), block.conv2)
    torch.testing.assert_close(block(x, time), expected, rtol=1e-4, atol=1e-5)


def test_times_are_told_apart_by_sines_and_cosines():
    found = _sinusoids(torch.tensor([0, 3, 1000]), 6)
    for row, t in zip(found, (0, 3, 1000), strict=True):
        angles = [t * 10000 ** (-i / 2) for i in range(3)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        torch.testing.assert_close(row, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_items_of_a_batch_do_not_meet_and_have_their_own_times():
    network = made(n_classes=3)
    x, t, y = torch.randn(3, 1, 16, 16), torch.tensor([1, 400, 999]), torch.tensor([2, -1, 0])
    together = network.denoise(x, t, y)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], network.denoise(x[i : i + 1], int(t[i]), y[i : i + 1]))
    near, far = network.denoise(x, 1), network.denoise(x, 400)
    assert (near - far).abs().max() > 1e-3 * near.abs().max()


def test_no_class_is_minus_one_and_classes_differ():
    network = made(n_classes=2)
    torch.nn.init.normal_(network.classes.weight)
    x = torch.randn(1, 1, 16, 16)
    none, *classes = (network.denoise(x, 5, torch.tensor([y])) for y in (-1, 0, 1))
    assert torch.equal(none, network.denoise(x, 5))
    assert not torch.allclose(none, classes[0], atol=1e-6)
    assert not torch.allclose(classes[1], classes[0], atol=1e-6)
    with pytest.raises(ArgumentError, match="not told of classes"):
        made().denoise(x, 5, torch.tensor([0]))


@pytest.mark.parametrize("layer", ["down1", "down3", "middle", "up1", "up3"])
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_forward_pools_one_block_of_an_image_that_was_noised_once(layer, pool):
    network = made(20, 3, layer=layer, timestep=70, pool=pool, n_steps=200, schedule="cosine")
    x = torch.rand(4, 3, 20, 20)
    noise = torch.randn(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    x_t = Diffusion(200, "cosine").noised(2 * x - 1, 70, noise.expand(4, -1, -1, -1))
    map_ = network.activations(x_t, 70)[layer]
    torch.testing.assert_close(network.tokens(x).transpose(1, 2).reshape(map_.shape), map_, rtol=1e-4, atol=1e-5)
    side = map_.shape[-1]
    edges = [(i * side // pool, math.ceil((i + 1) * side / pool)) for i in range(pool)]
    cells = [map_[..., a:b, c:d].mean((2, 3)) for a, b in edges for c, d in edges]
    torch.testing.assert_close(network(x), torch.stack(cells, 2).flatten(1), rtol=1e-4, atol=1e-5)
    assert network.dim == network(x).shape[1]


def test_read_changes_what_is_read_and_nothing_else():
    network, x = made(), torch.rand(2, 1, 16, 16)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    other = made(layer="up1", timestep=300, pool=2)
    other.load_state_dict(network.state_dict())
    network.read("up1", 300, 2)
    torch.testing.assert_close(network(x), other(x))
    assert (network.config, network.dim) == (other.config, other.dim)
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())
    network.read(n_steps=100)
    assert (network.config["layer"], network.config["timestep"]) == ("up1", 2)


def test_built_by_name_saved_and_exported(tmp_path):
    first = encoder("unet", image_size=20, in_channels=1, width=8, layer="middle", pool=2, n_classes=3).eval()
    assert isinstance(first, UNet)
    again = encoder(**first.config)
    assert (again.config, again.dim) == (first.config, first.dim)
    x = torch.rand(2, 1, 20, 20)
    first.save_pretrained(tmp_path)
    assert torch.equal(UNet.from_pretrained(tmp_path)(x), first(x))
    exported = torch.export.export(first, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    more = torch.rand(5, 1, 20, 20)
    torch.testing.assert_close(exported.module()(more), first(more))


def test_without_attention_far_places_do_not_meet():
    """One level: a pixel's change spreads no further than the 3 x 3 convolutions reach."""
    network = made(32, multipliers=(1,), attention=())
    x = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    network.double()
    for norm in (part for part in network.modules() if isinstance(part, torch.nn.GroupNorm)):
        norm.forward = lambda x: x  # which is over all places
    other = x.clone()
    other[..., 0, 0] = 1
    changed = (network.denoise(other, 3) - network.denoise(x, 3)).abs()[0, 0] > 0
    assert changed[:9, :9].any()
    assert not changed[9:].any()
    assert not changed[:, 9:].any()


def test_other_sizes_than_its_own_go_through():
    network = made(16)
    assert network(torch.rand(2, 1, 40, 24)).shape == (2, network.dim)
    assert network.denoise(torch.rand(2, 1, 40, 24), 3).shape == (2, 1, 40, 24)


def test_what_cannot_be_is_refused():
    for words, message in [
        ({"layer": "up9"}, "layer='up9': expected one of"),
        ({"timestep": 1001}, "timestep=1001"),
        ({"pool": 0}, "pool=0"),
        ({"image_size": 3}, "resize the images, or give fewer multipliers"),
        ({"width": 0}, "width=0"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            UNet(**words)
    with pytest.raises(ArgumentError, match="n_classes=4: expected 3"):
        made(n_classes=3).tell_classes(4)
    with pytest.raises(ArgumentError, match=r"x\.shape"):
        made()(torch.rand(2, 5, 16, 16))
