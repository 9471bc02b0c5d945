"""The decoder of Attention Is All You Need (Vaswani et al., 2017), with the norms first: tokens that look at others."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn._vit import Attention


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to a context (section 3.2.3): (n, t, dim), (n, u, dim) -> (n, t, dim).

    Args:
        dim: features of tokens and of context.
        num_heads: a divisor of `dim`.

    Raises:
        ArgumentError: heads that do not divide the features.

    >>> import torch
    >>> CrossAttention(8, 2)(torch.rand(3, 5, 8), torch.rand(3, 7, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        expect("num_heads", num_heads, num_heads >= 1 and dim % num_heads == 0, f"a divisor of dim={dim}")
        self.num_heads = num_heads
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        n, t, dim = x.shape
        heads = (self.num_heads, dim // self.num_heads)
        q = self.q(x).view(n, t, *heads).transpose(1, 2)
        k, v = self.kv(context).view(n, context.shape[1], 2, *heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, dim))


class DecoderBlock(nn.Module):
    """Self-attention, attention to a context, and a network for each token: x, context -> x.

        x = x + attention(norm(x));   x = x + cross_attention(norm(x), norm(context));   x = x + mlp(norm(x))

    The paper has each norm after its sum, and masks what is to come; this is for images, whose tokens have no order.

    Args:
        dim: features of tokens and of context.
        num_heads: attention heads, a divisor of `dim`.
        mlp_ratio: width of the hidden layer over `dim`.

    Raises:
        ArgumentError: heads that do not divide the features.

    >>> import torch
    >>> DecoderBlock(8, 2)(torch.rand(3, 5, 8), context=torch.rand(3, 7, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1, self.attention = nn.LayerNorm(dim, eps=1e-6), Attention(dim, num_heads)
        self.norm2, self.cross_attention = nn.LayerNorm(dim, eps=1e-6), CrossAttention(dim, num_heads)
        self.norm_context, self.norm3 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.cross_attention(self.norm2(x), self.norm_context(context))
        return x + self.mlp(self.norm3(x))
