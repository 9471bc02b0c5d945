import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.compress import decompose, utilized_rank
from tacit.errors import ArgumentError, DataError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def planted(n, dim, rank):
    """Rows in a drawn subspace."""
    return torch.randn(n, rank, dtype=torch.double) @ torch.randn(rank, dim, dtype=torch.double)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def leading(rows, tol):
    """Numpy: an orthonormal basis of the fewest directions that leave out at most tol of the rows' energy."""
    _, values, v = np.linalg.svd(rows, full_matrices=False)
    share = np.cumsum(values**2) / np.sum(values**2)
    return v[: int(np.sum(share < 1 - tol)) + 1].T


def test_the_subspace_of_the_data_is_found_under_a_weight_of_full_rank():
    layer, x = nn.Linear(12, 9).double(), planted(100, 12, 4)
    assert torch.linalg.matrix_rank(layer.weight) == 9
    report = utilized_rank(nn.Sequential(layer), [x], tol=0.0).layers["0"]
    assert (report.input_rank, report.output_rank, report.rank) == (4, 4, 4)
    assert report.utilization == pytest.approx(4 / 9)
    assert (report.singular_values > 1e-9).sum() == 4
    small = decompose(nn.Sequential(layer), [x], tol=0.0)
    torch.testing.assert_close(small(x), layer(x))  # the bias too, which the subspace of the outputs does not hold
    aside = torch.randn(5, 12, dtype=torch.double)
    assert (small(aside) - layer(aside)).abs().max() > 1e-3


def test_the_subspace_of_the_outputs_is_found_under_data_of_full_rank():
    layer, x = nn.Linear(12, 9, bias=False).double(), torch.randn(100, 12, dtype=torch.double)
    layer.weight.data = planted(9, 12, 3)
    report = utilized_rank(layer, [x], tol=0.0).layers[""]
    assert (report.input_rank, report.output_rank, report.rank) == (12, 3, 3)


@pytest.mark.parametrize("tol", [1e-3, 0.02, 0.2])
def test_against_singular_vectors_of_the_stacked_activations(tol):
    """P_T W P_S from numpy's decompositions of X and Y, for both layers of a net."""
    scales = torch.logspace(0, -2, 10, dtype=torch.double)
    x = torch.randn(300, 10, dtype=torch.double) * scales + 0.3  # a mean, which is not taken off
    net = nn.Sequential(nn.Linear(10, 14), nn.Tanh(), nn.Linear(14, 10)).double()
    report, small = utilized_rank(net, x.split(70), tol=tol), decompose(net, x.split(70), tol=tol)
    rows = x
    for i in (0, 2):
        weight = net[i].weight.detach().numpy()
        s, t = leading(rows.detach().numpy(), tol), leading(rows.detach().numpy() @ weight.T, tol)
        projected = t @ t.T @ weight @ s @ s.T
        layer = report.layers[str(i)]
        assert (layer.input_rank, layer.output_rank) == (s.shape[1], t.shape[1])
        np.testing.assert_allclose(layer.singular_values, np.linalg.svd(projected, compute_uv=False), atol=1e-10)
        if layer.pays:
            first, second = small[i]
            np.testing.assert_allclose((second.weight @ first.weight).detach(), projected, atol=1e-10)
            shared = first.weight.norm(dim=1), second.weight.norm(dim=0)
            torch.testing.assert_close(*shared)  # singular values shared out evenly
        else:
            assert torch.equal(small[i].weight, net[i].weight)
        rows = torch.tanh(net[i](rows))


@pytest.mark.parametrize("tol", [5e-3, 0.02, 0.3])
def test_the_error_is_within_its_bound(tol):
    layer, x = nn.Linear(20, 16).double(), torch.randn(400, 20, dtype=torch.double) * torch.logspace(0, -3, 20).double()
    small = decompose(nn.Sequential(layer), [x], tol=tol)
    assert parameters(small) < parameters(layer)
    error = (small(x) - layer(x)).square().sum()
    outputs = (layer(x) - layer.bias).square().sum()
    assert 0 < error <= tol * (outputs + torch.linalg.matrix_norm(layer.weight, 2) ** 2 * x.square().sum())


@pytest.mark.parametrize("space", [{}, {"stride": 2, "padding": 1}, {"padding": (0, 2), "dilation": 2}])
def test_a_convolution_is_a_linear_map_on_patches(space):
    """Patches cut out one by one; images mixed from 2 pictures, so that patches lie in few dimensions."""
    conv = nn.Conv2d(3, 16, 3, **space).double()
    images = (torch.randn(12, 2).double() @ torch.randn(2, 3 * 8 * 8).double()).view(12, 3, 8, 8)
    small = decompose(nn.Sequential(conv), images.split(5), tol=1e-3)
    (pad_h, pad_w), (stride, _), (dilation, _) = conv.padding, conv.stride, conv.dilation
    padded = F.pad(images, (pad_w, pad_w, pad_h, pad_h))
    height, width = conv(images).shape[-2:]
    reach = 2 * dilation + 1
    patches = torch.stack([
        padded[:, :, i * stride : i * stride + reach : dilation, j * stride : j * stride + reach : dilation].flatten(1)
        for i in range(height)
        for j in range(width)
    ])  # fmt: skip
    rows, weight = patches.flatten(0, 1).numpy(), conv.weight.detach().flatten(1).numpy()
    s, t = leading(rows, 1e-3), leading(rows @ weight.T, 1e-3)
    report = utilized_rank(conv, [images], tol=1e-3).layers[""]
    assert (report.in_dim, report.out_dim) == (27, 16)
    assert (report.input_rank, report.output_rank) == (s.shape[1], t.shape[1])
    expected = patches @ torch.from_numpy((t @ t.T @ weight @ s @ s.T).T) + conv.bias  # (positions, n, 16)
    expected = expected.permute(1, 2, 0).reshape(12, 16, height, width)
    if report.pays:
        torch.testing.assert_close(small(images), expected)
    else:
        torch.testing.assert_close(small(images), conv(images))


def test_few_patches_make_a_thin_convolution():
    conv = nn.Conv2d(4, 16, 3, padding=1).double()
    colour = torch.randn(4, dtype=torch.double)
    images = torch.randn(6, 1, 8, 8, dtype=torch.double) * colour[:, None, None]  # all channels alike: 9 dimensions
    small = decompose(nn.Sequential(conv), [images], tol=0.0)
    assert [tuple(layer.weight.shape) for layer in small[0]] == [(9, 4, 3, 3), (16, 9, 1, 1)]
    torch.testing.assert_close(small(images), conv(images))


def test_how_the_data_are_cut_into_batches_does_not_matter():
    net, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), torch.randn(64, 8)
    whole, parts = (utilized_rank(net, batches, tol=0.01).layers for batches in ([x], x.split(7)))
    for name in whole:
        torch.testing.assert_close(whole[name].singular_values, parts[name].singular_values)


def test_break_even_is_where_two_layers_hold_as_many_weights():
    """6 x 12 breaks even at rank 4: 4 (6 + 12) = 72."""
    for rank, pays in ((3, True), (4, False), (5, False)):
        net = nn.Sequential(nn.Linear(12, 6)).double()
        x = planted(50, 12, rank)
        layer = utilized_rank(net, [x], tol=0.0).layers["0"]
        assert (layer.rank, layer.pays) == (rank, pays)
        small = decompose(net, [x], tol=0.0)
        assert parameters(small) == (rank * 18 + 6 if pays else 78)


def test_the_model_given_is_not_touched():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    net[1].eval()
    before, modes = {k: v.clone() for k, v in net.state_dict().items()}, [part.training for part in net.modules()]
    x = planted(40, 8, 2).float()
    small = decompose(net, [x], tol=1e-6)
    utilized_rank(net, [x])
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert [part.training for part in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())
    assert not any(part._forward_pre_hooks for model in (net, small) for part in model.modules())
    assert isinstance(small[0], nn.Sequential)
    assert small.training
    torch.testing.assert_close(small.eval()(x), net.eval()(x))


def test_hooks_go_even_when_the_model_fails():
    net = nn.Sequential(nn.Linear(8, 8))
    with pytest.raises(RuntimeError):
        utilized_rank(net, [torch.randn(4, 7)])
    assert not net[0]._forward_pre_hooks


class Odd(nn.Module):
    """A layer in two places, two that share a weight, one that is never called, one grouped; two inputs."""

    def __init__(self):
        super().__init__()
        self.once = nn.Linear(8, 8)
        self.again = self.once
        self.tied, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.tied.weight
        self.idle = nn.Linear(8, 8)
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, scale=1.0):
        x = self.again(self.once(input=x * scale))
        x = x + self.grouped(x.reshape(-1, 4, 1, 2)).reshape(x.shape)
        return self.attention(x, x, x)[0] + self.other(self.tied(x))


def test_odd_models():
    model, x = Odd().double().eval(), planted(60, 8, 1).view(20, 3, 8)
    report = utilized_rank(model, [(x, 2.0), {"x": x, "scale": 2.0}], tol=0.0)
    assert set(report.layers) == {"once"}
    small = decompose(model, [(x, 2.0)], tol=0.0)
    assert small.once is small.again
    assert isinstance(small.once, nn.Sequential) is report.layers["once"].pays
    assert small.other.weight is small.tied.weight
    torch.testing.assert_close(small(x, 2.0), model(x, 2.0))


def test_the_mean_utilization_is_over_layers():
    net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8)).double()
    report = utilized_rank(net, [planted(50, 8, 2)], tol=0.0)
    # the second layer reads W x + b: one dimension more
    assert [layer.rank for layer in report.layers.values()] == [2, 3]
    assert report.mean_utilization == pytest.approx((2 / 4 + 3 / 4) / 2)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="tol=1"):
        utilized_rank(nn.Linear(2, 2), [torch.randn(4, 2)], tol=1)
    with pytest.raises(DataError, match="batches"):
        utilized_rank(nn.Linear(2, 2), [])
    with pytest.raises(DataError, match="batches"):
        decompose(nn.ReLU(), [torch.randn(4, 2)])
