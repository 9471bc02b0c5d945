import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import ConditionalUNet, UNet, encoder, sincos_positions
from tacit.nn._conditional_unet import TokenAttention


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def made(**words):
    """A network whose last layers do not start near 0, so that everything shows."""
    network = ConditionalUNet(**({"width": 8, "n_tokens": 9, "context_dim": 8} | words)).eval().requires_grad_(False)
    for part in network.modules():
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.normal_(part.weight, std=0.4)
    return network


def test_words_are_told_of_their_phrases():
    network = made(phrase_length=3)
    tokens = torch.randint(9, (2, 6))
    found = network._context(torch.zeros(2, 3, 16, 16), tokens)
    first, _, last = network.phrase
    for n in range(2):
        for i in range(6):
            start = 3 * (i // 3)
            words = [network.words.weight[tokens[n, j]] for j in range(start, start + 3)]
            both = torch.cat([words[i - start], sum(words) / 3])
            hidden = (first.weight @ both + first.bias).clamp_min(0)
            torch.testing.assert_close(found[n, i], words[i - start] + last.weight @ hidden + last.bias)


def test_places_attend_to_words_as_the_equation_says():
    layer = TokenAttention(64, 8).eval().requires_grad_(False)  # two heads of 32
    torch.nn.init.normal_(layer.attention.out.weight, std=0.3)
    x, context = torch.randn(1, 64, 2, 3), torch.randn(1, 5, 8)
    inner = layer.attention
    mean, deviation = context.mean(2, keepdim=True), context.var(2, unbiased=False, keepdim=True).add(1e-5).sqrt()
    words = layer.context((context - mean) / deviation)[0]
    keys, values = (words @ inner.kv.weight.T + inner.kv.bias).chunk(2, dim=1)
    normal, places = layer.norm(x)[0], sincos_positions(2, 3, 8)
    expected = x.clone()
    for row in range(2):
        for column in range(3):
            query = normal[:, row, column] + layer.position.weight @ places[3 * row + column]
            query = inner.q.weight @ query + inner.q.bias
            heads = []
            for head in (slice(0, 32), slice(32, 64)):
                weights = torch.softmax(torch.stack([query[head] @ key[head] for key in keys]) / math.sqrt(32), 0)
                heads.append(sum(w * value[head] for w, value in zip(weights, values, strict=True)))
            expected[0, :, row, column] += inner.out.weight @ torch.cat(heads) + inner.out.bias
    torch.testing.assert_close(layer(x, context), expected, rtol=1e-4, atol=1e-5)


def test_maps_are_the_weights_that_the_layers_used():
    """With the maps and the layers' own values the layers' outputs are made again; gradients reach the words."""
    network, seen = made(width=32, context_dim=16), {}
    for layer in network.attended:
        block = network._block(layer)
        for kind, part in (("own", block.block.attention.attention), ("cross", block.words.attention)):
            part.register_forward_hook(lambda m, i, o, key=(kind, layer): seen.update({key: (m, i, o)}))
    words = network.embed(torch.randint(9, (2, 8))).requires_grad_(True)
    with network.attention_maps() as maps:
        network.denoise(torch.randn(2, 3, 16, 16), torch.tensor([10, 700]), words)
    assert network.attended == ("down2", "middle", "up2")
    for kind, found in (("own", maps.own), ("cross", maps.cross)):
        assert tuple(found) == network.attended
        for layer, weights in found.items():
            module, inputs, output = seen[kind, layer]
            torch.testing.assert_close(weights.sum(3), torch.ones(weights.shape[:3]))
            projected = module.qkv(inputs[0]) if kind == "own" else module.kv(inputs[1])
            value = projected.chunk(3 if kind == "own" else 2, dim=2)[-1]
            value = value.unflatten(2, (module.num_heads, -1)).transpose(1, 2)
            again = module.out((weights @ value).transpose(1, 2).flatten(2))
            torch.testing.assert_close(again, output, rtol=1e-3, atol=1e-4)
    maps.cross["middle"][..., 0].sum().backward()
    assert words.grad.abs().sum() > 0
    with network.attention_maps(["middle"]) as fewer:
        network.denoise(torch.randn(1, 3, 16, 16), 5)
    assert list(fewer.own) == list(fewer.cross) == ["middle"]
    assert not any(m._forward_hooks for layer in network.attended for m in [network._block(layer).block.attention])


def test_phrases_have_no_order_words_of_a_phrase_belong_together():
    network = made(phrase_length=2)
    x, t = torch.randn(1, 3, 16, 16), 400
    red_ring, blue_cross = [1, 5], [2, 6]
    said, turned, within, crossed = (
        network.denoise(x, t, torch.tensor([tokens]))
        for tokens in (red_ring + blue_cross, blue_cross + red_ring, [5, 1, 6, 2], [1, 6, 2, 5])
    )
    torch.testing.assert_close(said, turned)
    torch.testing.assert_close(said, within)
    assert (said - crossed).abs().max() > 1e-3


def test_the_empty_prompt_is_none_and_embeddings_stand_for_words():
    network = made()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    torch.testing.assert_close(network.denoise(x, t), network.denoise(x, t, torch.zeros(2, 4, dtype=torch.int64)))
    tokens = torch.randint(1, 9, (2, 8))
    torch.testing.assert_close(network.denoise(x, t, tokens), network.denoise(x, t, network.embed(tokens)))


def test_without_the_words_it_is_the_u_net():
    """With the words' last layers at 0 it gives what a UNet of the same weights gives."""
    network, plain = made(), UNet(16, 3, width=8).eval()
    for layer in network.attended:
        torch.nn.init.zeros_(network._block(layer).words.attention.out.weight)
        torch.nn.init.zeros_(network._block(layer).words.attention.out.bias)
    state = {name.replace(".block.", "."): value for name, value in network.state_dict().items()}
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    x, t = torch.randn(2, 3, 13, 13), torch.tensor([3, 900])
    torch.testing.assert_close(network.denoise(x, t, torch.randint(9, (2, 4))), plain.denoise(x, t))


def test_the_config_rebuilds_it():
    network = made(layer="up2", pool=2, phrase_length=2)
    again = encoder(**network.config).eval()
    again.load_state_dict(network.state_dict())
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(again(x), network(x))
    assert again(x).shape == (2, network.dim)


def test_bad_input_is_an_error_that_names_it():
    with pytest.raises(ArgumentError, match="attention"):
        ConditionalUNet(attention=())
    with pytest.raises(ArgumentError, match="context_dim"):
        ConditionalUNet(context_dim=6)
    network, x = made(), torch.randn(2, 3, 16, 16)
    for tokens in (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64), torch.full((2, 4), 9)):
        with pytest.raises(ArgumentError, match="tokens"):
            network.denoise(x, 5, tokens)
    with pytest.raises(ArgumentError, match="vocabulary"):
        ConditionalUNet(width=8).denoise(x, 5)
    with pytest.raises(ArgumentError, match="n_tokens"):
        network.tell_tokens(4)
    with pytest.raises(ArgumentError, match="classes"):
        network.tell_classes(4)
    with pytest.raises(ArgumentError, match="layers"), network.attention_maps(["down1"]):
        pass
