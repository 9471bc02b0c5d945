import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import ResNet, encoder
from tacit.nn._resnet import Basic, Bottleneck


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("depth", "known", "dim"), [(18, 11_689_512, 512), (34, 21_797_672, 512), (50, 25_557_032, 2048)]
)
def test_as_many_parameters_as_the_published_networks(depth, known, dim):
    classifier = dim * 1000 + 1000
    network = ResNet(depth, image_size=224)
    assert network.config["stem"] == "imagenet"
    assert parameters(network) == known - classifier


def test_depth_8_is_the_papers_network_for_cifar():
    # 6n + 2 layers with n = 1 (section 4.2): a 3x3 convolution, three blocks of two, a classifier that is not ours;
    # and the two projections.
    w = 16
    convolutions = 9 * (3 * w + 2 * w * w + (w * 2 * w + 4 * w * w) + (2 * w * 4 * w + 16 * w * w))
    projections = w * 2 * w + 2 * w * 4 * w
    norms = 2 * (3 * w + 3 * 2 * w + 3 * 4 * w)
    assert parameters(ResNet(8, width=w)) == convolutions + projections + norms
    assert encoder("resnet8").config["width"] == 16


def convolve(x, weight, stride):
    """Convolution of one image (c, h, w) by loops, zeros around it."""
    out, _, size, _ = weight.shape
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    height, width = (x.shape[1] - size) // stride + 1, (x.shape[2] - size) // stride + 1
    y = np.zeros((out, height, width))
    for o in range(out):
        for i in range(height):
            for j in range(width):
                patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
                y[o, i, j] = (weight[o] * patch).sum()
    return y


def batch_norm(x, norm):
    scale = norm.weight.numpy() / np.sqrt(norm.running_var.numpy() + norm.eps)
    return (x - norm.running_mean.numpy()[:, None, None]) * scale[:, None, None] + norm.bias.numpy()[:, None, None]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [Basic, Bottleneck])
def test_a_block_is_its_equation(kind, stride):
    """y = ReLU(F(x) + W x), with F of two or three convolutions."""
    torch.manual_seed(0)
    block = kind(2, 3, stride).eval().requires_grad_(False).double()
    for norm in (part for part in block.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.5)
    x = torch.randn(2, 5, 5, dtype=torch.float64)
    if kind is Basic:
        layers = [(block.conv1, block.norm1, stride), (block.conv2, block.last_norm, 1)]
    else:
        layers = [(block.conv1, block.norm1, 1), (block.conv2, block.norm2, stride), (block.conv3, block.last_norm, 1)]
    y = x.numpy()
    for i, (conv, norm, step) in enumerate(layers):
        y = batch_norm(convolve(y, conv.weight.numpy(), step), norm)
        if i + 1 < len(layers):
            y = np.maximum(y, 0)
    shortcut = batch_norm(convolve(x.numpy(), block.shortcut[0].weight.numpy(), stride), block.shortcut[1])
    expected = np.maximum(y + shortcut, 0)
    np.testing.assert_allclose(block(x[None])[0].numpy(), expected, atol=1e-12)


def test_forward_is_the_mean_of_tokens_and_layers_are_prefixes_of_one_network():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 16, 16)
    whole = ResNet(18, width=2, image_size=16).eval()
    inner = ResNet(18, width=2, image_size=16, layer="stage2").eval()
    inner.load_state_dict(whole.state_dict())
    for network, dim, places in ((whole, 16, 4), (inner, 4, 64)):
        assert network.dim == dim
        assert network.tokens(x).shape == (2, places, dim)
        torch.testing.assert_close(network(x), network.tokens(x).mean(1))
    torch.testing.assert_close(inner.final(x), whole(x))
    outputs = []
    whole.stages[1].register_forward_hook(lambda module, given, output: outputs.append(output.mean((2, 3))))
    whole(x)
    torch.testing.assert_close(inner(x), outputs[0])


def test_tokens_keep_their_places():
    network = ResNet(8, width=4).eval()
    x = torch.zeros(1, 3, 32, 32)
    x[:, :, 24:, :8] = 1  # lower left: row 6-7, column 0-1 of the 8 x 8 map
    moved = (network.tokens(x) - network.tokens(torch.zeros_like(x))).abs().sum(2).view(8, 8)
    assert moved[7, 0] > 0
    assert moved[0, 7] == 0


def test_zero_init_residual_starts_blocks_as_their_shortcuts():
    block = ResNet(18, width=4, zero_init_residual=True).stages[0][0].eval()
    x = torch.rand(1, 4, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_mean_and_deviation_are_applied_inside():
    torch.manual_seed(0)
    network = ResNet(8, width=2, image_size=8).eval()
    x = torch.rand(2, 3, 8, 8)
    expected = network(x)
    network.mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    network.std.copy_(torch.tensor([0.5, 0.6, 0.7]))
    plain = (x - 0.5) / 0.25
    undone = plain * network.std[:, None, None] + network.mean[:, None, None]
    torch.testing.assert_close(network(undone), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 19}, "depth=19: expected one of 8, 18, 34, 50"),
        ({"depth": 18, "layer": "stage9"}, "layer='stage9': expected one of stage1, stage2, stage3, stage4"),
        ({"depth": 18, "stem": "cifer"}, "did you mean 'cifar'"),
    ],
)
def test_what_cannot_be_is_said(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        ResNet(**arguments)
