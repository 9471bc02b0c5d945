import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.nn import ViT, encoder, patchify, sincos_positions, unpatchify
from tacit.nn._vit import Attention, Block


def small(**arguments):
    torch.manual_seed(0)
    return ViT(
        **{"image_size": 16, "patch_size": 4, "embed_dim": 24, "num_layers": 3, "num_heads": 3, **arguments}
    ).eval()


@pytest.mark.parametrize(("name", "known"), [("vit-tiny", 5_717_416), ("vit-small", 22_050_664)])
def test_as_many_parameters_as_the_published_networks(name, known):
    """Tiny and small with patches of 16 at 224 pixels (Touvron et al., 2021), less the classifier of 1,000 classes."""
    network = encoder(name, image_size=224, pool="class")
    dim = network.dim
    assert network.config["patch_size"] == 16
    # Theirs has a position for the class token too.
    assert sum(p.numel() for p in network.parameters()) == known - (1000 * dim + 1000) - dim


def test_attention_is_its_equation():
    """softmax(q k^T / sqrt(d)) v for each head (eqs. 5 to 8), by loops."""
    torch.manual_seed(0)
    attention = Attention(6, 2).double().requires_grad_(False)
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    q, k, v = attention.qkv(x)[0].split(6, dim=1)
    heads = torch.zeros(5, 6, dtype=torch.float64)
    for part in (slice(0, 3), slice(3, 6)):
        for i in range(5):
            weights = [math.exp(float(q[i, part] @ k[j, part]) / math.sqrt(3)) for j in range(5)]
            for j in range(5):
                heads[i, part] += weights[j] / sum(weights) * v[j, part]
    torch.testing.assert_close(attention(x)[0], attention.out(heads))


def test_the_whole_network_is_the_papers_equations():
    """z0 = patches E + positions; z' = MSA(LN(z)) + z; z = MLP(LN(z')) + z' (eqs. 1 to 3); y = LN(z) (eq. 4)."""
    network = small()
    x = torch.rand(2, 3, 16, 16)
    z = network.embed(patchify((x - 0.5) / 0.25, 4)) + network.positions
    for block in network.blocks:
        z = block.attention(F.layer_norm(z, (24,), eps=1e-6)) + z
        first, _, last = block.mlp
        z = last(F.gelu(first(F.layer_norm(z, (24,), eps=1e-6)))) + z
    expected = F.layer_norm(z, (24,), eps=1e-6)
    torch.testing.assert_close(network.tokens(x), expected)
    torch.testing.assert_close(network(x), expected.mean(1))


def test_patches_are_cut_row_by_row_and_put_back():
    x = torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12)
    patches = patchify(x, 4)
    for t in range(6):
        row, column = divmod(t, 3)
        patch = x[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        torch.testing.assert_close(patches[:, t], patch.permute(0, 2, 3, 1).flatten(1))
    torch.testing.assert_close(unpatchify(patches, 4, 8, 12), x)
    torch.testing.assert_close(patchify(x.to(memory_format=torch.channels_last), 4), patches)


@pytest.mark.parametrize("pool", ["mean", "class"])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_kept_patches_are_encoded_as_if_the_others_were_not_there(pool, positions):
    network = small(pool=pool, positions=positions)
    x = torch.rand(2, 3, 16, 16)
    everything = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(network.forward_kept(x, everything), network.tokens(x))
    kept = torch.tensor([[5, 2, 11], [0, 15, 7]])
    encoded = network.forward_kept(x, kept)
    hidden = torch.ones(2, 16, 1)
    hidden.scatter_(1, kept[:, :, None], 0)
    pixels = hidden.expand(-1, -1, 48)
    other = torch.where(unpatchify(pixels, 4, 16, 16) == 1, torch.rand_like(x), x)
    torch.testing.assert_close(network.forward_kept(other, kept), encoded)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(network.forward_kept(x, kept[:, order]), encoded[:, order])
    assert not torch.allclose(encoded, network.tokens(x).gather(1, kept[:, :, None].expand(-1, -1, 24)))


def test_sincos_positions_by_their_definition():
    table = sincos_positions(3, 5, 16)
    for row in range(3):
        for column in range(5):
            expected = [
                wave(place / 10000 ** (4 * i / 16))
                for place in (row, column)
                for wave in (math.sin, math.cos)
                for i in range(4)
            ]
            np.testing.assert_allclose(table[row * 5 + column], expected, atol=1e-6)


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_other_sizes_interpolate_the_positions(positions):
    network = small(positions=positions)
    assert network.tokens(torch.rand(1, 3, 8, 24)).shape == (1, 12, 24)
    if positions == "sincos":
        torch.testing.assert_close(network._positions_for(8, 16), network.positions.view(4, 4, 24)[:2].flatten(0, 1))
    else:  # a constant stays constant, and a mean stays about where it was
        with torch.no_grad():
            network.positions.fill_(0.3)
        torch.testing.assert_close(network._positions_for(8, 24), torch.full((12, 24), 0.3))


def test_class_token_is_read_and_patches_alone_are_tokens():
    network = small(pool="class")
    x = torch.rand(2, 3, 16, 16)
    seen = []
    network.norm.register_forward_hook(lambda module, given, output: seen.append(output))
    embedding = network(x)
    torch.testing.assert_close(embedding, seen[0][:, 0])
    torch.testing.assert_close(network.tokens(x), seen[0][:, 1:])


def test_layers_are_prefixes_of_one_network():
    whole, inner = small(), small(layer="block2")
    inner.load_state_dict(whole.state_dict())
    x = torch.rand(2, 3, 16, 16)
    outputs = []
    whole.blocks[1].register_forward_hook(lambda module, given, output: outputs.append(output))
    torch.testing.assert_close(inner.final(x), whole(x))
    torch.testing.assert_close(inner.tokens(x), outputs[0])


def test_permuting_patches_and_positions_together_changes_nothing_but_the_order():
    network = small(num_layers=1)
    x, order = torch.rand(1, 3, 16, 16), torch.randperm(16)
    tokens = network.tokens(x)
    shuffled = unpatchify(patchify(x, 4)[:, order], 4, 16, 16)
    with torch.no_grad():
        network.positions.copy_(network.positions[order])
    torch.testing.assert_close(network.tokens(shuffled), tokens[:, order])


def test_block_is_residual():
    block = Block(8, 2)
    for parameter in (*block.attention.out.parameters(), *block.mlp[2].parameters()):
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": 30, "patch_size": 4}, ["patch_size=4", "image_size=30", "2, 3, 5, 6, 10, 15", "32"]),
        ({"num_heads": 5}, ["num_heads=5", "embed_dim=24"]),
        ({"positions": "sincos", "embed_dim": 30}, ["embed_dim=30", "multiple of 4"]),
        ({"pool": "max"}, ["pool='max'", "mean"]),
        ({"layer": "block9"}, ["block9", "block3"]),
    ],
)
def test_what_cannot_be_is_said(arguments, words):
    with pytest.raises(ArgumentError) as error:
        small(**arguments)
    assert all(word in str(error.value) for word in words)
