import numpy as np
import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError
from tacit.layers import mimetic_init_
from tacit.nn import Attention, ViT, sincos_positions

D = 24


def made(kind, num_heads):
    return Attention(D, num_heads) if kind == "ours" else nn.MultiheadAttention(D, num_heads, batch_first=True)


def attend(layer, x):
    return layer(x) if isinstance(layer, Attention) else layer(x, x, x)[0]


def drawn(num_heads, alpha=0.7, beta=0.7, seed=0):
    """The matrices that the paper sets: one of queries and keys for each head, one of values and projection."""
    generator = torch.Generator().manual_seed(seed)
    z = [torch.randn(D, D, generator=generator).double().numpy() / D**0.5 for _ in range(num_heads + 1)]
    return [alpha * one + beta * np.eye(D) for one in z[:-1]], 0.4 * z[-1] - 0.4 * np.eye(D)


def best_of_rank(matrix, k):
    """Eckart and Young, by eigenvectors: the projection on the k leading ones of M M^T."""
    leading = np.linalg.eigh(matrix @ matrix.T)[1][:, -k:]
    return leading @ leading.T @ matrix


@pytest.mark.parametrize("kind", ["ours", "torch's"])
def test_one_head_attends_and_answers_by_the_two_products(kind):
    """softmax(x W_Q W_K^T x^T / d^1/2) x W_V W_proj, where both products are full: through the layer's own forward."""
    layer = mimetic_init_(made(kind, 1), generator=torch.Generator().manual_seed(0))
    (query_key,), value_projection = drawn(1)
    x = torch.randn(3, 7, D)
    rows = x.double().numpy()
    logits = rows @ query_key @ rows.transpose(0, 2, 1) / D**0.5
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = torch.from_numpy(weights @ rows @ value_projection).float()
    torch.testing.assert_close(attend(layer, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["ours", "torch's"])
@pytest.mark.parametrize("num_heads", [2, 6])
def test_each_head_has_the_best_product_of_its_rank(kind, num_heads):
    layer = mimetic_init_(made(kind, num_heads), generator=torch.Generator().manual_seed(0))
    query, key, value = (layer.qkv.weight if kind == "ours" else layer.in_proj_weight).detach().double().chunk(3)
    projection = (layer.out if kind == "ours" else layer.out_proj).weight.detach().double()
    targets, value_projection = drawn(num_heads)
    k = D // num_heads
    for q, w, target in zip(query.split(k), key.split(k), targets, strict=True):
        np.testing.assert_allclose(q.T @ w, best_of_rank(target, k), atol=1e-5)
        np.testing.assert_allclose(q @ q.T, w @ w.T, atol=1e-5)  # the roots of the singular values on both sides
        assert torch.linalg.matrix_rank(q.T @ w) == k
    np.testing.assert_allclose(value.T @ projection.T, value_projection, atol=1e-5)


def test_without_noise_the_products_are_identities():
    layer = mimetic_init_(Attention(D, 1), alpha_qk=0.0, beta_qk=0.6, alpha_vp=0.0, beta_vp=0.3)
    x = torch.randn(2, 5, D)
    expected = -0.3 * torch.softmax(0.6 * x @ x.mT / D**0.5, -1) @ x
    torch.testing.assert_close(layer(x), expected)


def test_tokens_of_a_fresh_network_look_at_their_neighbourhood():
    """What the identity is for: sinusoidal positions alone make attention local, and its answer is taken off."""
    torch.manual_seed(0)
    vit = mimetic_init_(ViT(32, 4, 96, num_layers=1, num_heads=1))
    x = nn.functional.layer_norm(vit.positions, (96,))
    query, key, _ = vit.blocks[0].attention.qkv.weight.chunk(3)
    weights = torch.softmax(x @ query.T @ key @ x.T / 96**0.5, -1)
    row, column = torch.arange(64) // 8, torch.arange(64) % 8
    distance = (row[:, None] - row).abs() + (column[:, None] - column).abs()
    near, far = weights[distance <= 1].mean(), weights[distance >= 4].mean()
    assert near > 1.5 * far


def test_positions_are_sinusoidal_if_wanted_and_all_else_is_left():
    vit = ViT(16, 4, D, num_layers=2, num_heads=2)
    before = {name: p.clone() for name, p in vit.named_parameters()}
    assert mimetic_init_(vit, sinusoidal_positions=False) is vit
    changed = {name for name, p in vit.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {f"blocks.{i}.attention.{part}.weight" for i in (0, 1) for part in ("qkv", "out")}
    mimetic_init_(vit)
    assert torch.equal(vit.positions, sincos_positions(4, 4, D))
    assert all(p.requires_grad for p in vit.parameters())


def test_layers_and_heads_draw_their_own_noise_and_the_seed_draws_it_again():
    def filled():
        torch.manual_seed(3)
        return mimetic_init_(nn.TransformerEncoder(nn.TransformerEncoderLayer(D, 2, 8, batch_first=True), 2))

    first, second = (layer.self_attn.in_proj_weight for layer in filled().layers)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first[: D // 2], first[D // 2 : D])
    assert torch.equal(first, filled().layers[0].self_attn.in_proj_weight)


def test_biases_of_attention_become_0():
    layer = nn.MultiheadAttention(D, 2)
    nn.init.ones_(layer.in_proj_bias)
    nn.init.ones_(layer.out_proj.bias)
    mimetic_init_(layer)
    assert layer.in_proj_bias.abs().sum() == layer.out_proj.bias.abs().sum() == 0
    mimetic_init_(nn.MultiheadAttention(D, 2, bias=False))


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="module='Linear'"):
        mimetic_init_(nn.Linear(4, 4))
    with pytest.raises(ArgumentError, match="kdim=7"):
        mimetic_init_(nn.MultiheadAttention(D, 2, kdim=7, vdim=7))
