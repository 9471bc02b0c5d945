import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from tacit.errors import ArgumentError
from tacit.nn import Conv4, encoder


@pytest.mark.parametrize(("channels", "known"), [(1, 111_936), (3, 113_088)])
def test_as_many_parameters_as_the_published_network(channels, known):
    """They count a bias for each convolution, which the normalisation takes away again."""
    network = Conv4(in_channels=channels, image_size=28)
    assert sum(p.numel() for p in network.parameters()) + 4 * 64 == known


@pytest.mark.parametrize(("size", "dim"), [(28, 64), (84, 1600), (32, 256), (8, 64), (1, 64)])
def test_dim_is_what_comes_out(size, dim):
    network = Conv4(image_size=size).eval()
    assert network.dim == dim
    assert network(torch.rand(2, 3, size, size)).shape == (2, dim)


def test_forward_is_four_blocks_of_its_equation():
    torch.manual_seed(0)
    network = Conv4(width=3, in_channels=2, image_size=20).eval().requires_grad_(False).double()
    for norm in (part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.5)
    x = torch.rand(1, 2, 20, 20, dtype=torch.float64)
    y = (x[0].numpy() - 0.5) / 0.25
    for convolution, norm, _ in network.blocks:
        weight = convolution.weight.numpy()
        y = np.stack([sum(correlate2d(y[i], w[i], "same") for i in range(len(y))) for w in weight])
        mean, var, scale, shift = (
            t.numpy()[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        y = np.maximum((y - mean) / np.sqrt(var + norm.eps) * scale + shift, 0)
        side = y.shape[1] // 2 * 2
        if side:
            y = y[:, :side, :side].reshape(3, side // 2, 2, side // 2, 2).max((2, 4))
    np.testing.assert_allclose(network(x)[0].numpy(), y.ravel(), atol=1e-12)


def test_pools_and_tokens_read_the_same_map():
    torch.manual_seed(0)
    flat = Conv4(width=4, image_size=40).eval()
    mean = Conv4(width=4, image_size=40, pool="mean").eval()
    mean.load_state_dict(flat.state_dict())
    x = torch.rand(2, 3, 40, 40)
    assert flat.tokens(x).shape == (2, 4, 4)
    torch.testing.assert_close(flat(x), flat.tokens(x).transpose(1, 2).flatten(1))
    torch.testing.assert_close(mean(x), flat.tokens(x).mean(1))
    with pytest.raises(ArgumentError, match="pool='max': expected one of flatten, mean"):
        Conv4(pool="max")


def test_built_by_name_saved_and_exported(tmp_path):
    first = encoder("conv4", width=4, in_channels=1, image_size=28, pool="mean").eval()
    assert isinstance(first, Conv4)
    assert encoder(**first.config).config == first.config
    x = torch.rand(2, 1, 28, 28)
    first.save_pretrained(tmp_path)
    assert torch.equal(Conv4.from_pretrained(tmp_path)(x), first(x))
    exported = torch.export.export(first, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    more = torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(exported.module()(more), first(more))
    with pytest.raises(ArgumentError, match="did you mean 'conv4'"):
        encoder("conv-4")
