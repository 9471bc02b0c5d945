import math

import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.nn import CrossAttention, DecoderBlock


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_cross_attention_is_its_equation():
    """softmax(q k^T / sqrt(d)) v for each head, with queries of the tokens and keys and values of the context."""
    attention = CrossAttention(6, 2).double().requires_grad_(False)
    x, context = torch.randn(1, 4, 6, dtype=torch.float64), torch.randn(1, 5, 6, dtype=torch.float64)
    q, (k, v) = attention.q(x)[0], attention.kv(context)[0].split(6, dim=1)
    heads = torch.zeros(4, 6, dtype=torch.float64)
    for part in (slice(0, 3), slice(3, 6)):
        for i in range(4):
            weights = [math.exp(float(q[i, part] @ k[j, part]) / math.sqrt(3)) for j in range(5)]
            for j in range(5):
                heads[i, part] += weights[j] / sum(weights) * v[j, part]
    torch.testing.assert_close(attention(x, context)[0], attention.out(heads))


def test_cross_attention_is_that_of_torch():
    ours, theirs = CrossAttention(12, 3), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, context = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(x, context), theirs(x, context, context)[0])


def test_the_block_is_its_three_sums():
    block = DecoderBlock(8, 2)
    with torch.no_grad():  # norms of their own, so that none can stand in for another
        for norm in (block.norm1, block.norm2, block.norm3, block.norm_context):
            norm.weight.normal_()
            norm.bias.normal_()
    x, context = torch.randn(2, 3, 8), torch.randn(2, 5, 8)

    def normed(z, norm):
        return F.layer_norm(z, (8,), norm.weight, norm.bias, eps=1e-6)

    z = x + block.attention(normed(x, block.norm1))
    z = z + block.cross_attention(normed(z, block.norm2), normed(context, block.norm_context))
    first, _, last = block.mlp
    z = z + last(F.gelu(first(normed(z, block.norm3))))
    torch.testing.assert_close(block(x, context), z)


def test_the_order_of_the_context_says_nothing_and_that_of_the_tokens_only_where_they_go():
    block = DecoderBlock(8, 2)
    x, context = torch.randn(2, 4, 8), torch.randn(2, 6, 8)
    expected = block(x, context)
    torch.testing.assert_close(block(x, context[:, torch.randperm(6)]), expected)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(block(x[:, order], context), expected[:, order])


def test_heads_have_to_divide_the_features():
    for part in (CrossAttention, DecoderBlock):
        with pytest.raises(ArgumentError, match="num_heads=3"):
            part(8, 3)
