"""Sums over all pairs of embeddings, without ever holding all pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tacit.errors import expect


def similarity_logsumexp(
    queries: Tensor,
    keys: Tensor,
    temperature: float | Tensor,
    excluded: Tensor | None = None,
    block_size: int | None = None,
) -> Tensor:
    """log sum_j exp(cos(query_i, key_j) / temperature) over the keys that are not excluded.

    The (n, m) similarities are computed in blocks of rows, and again in the backward pass, so that memory grows with
    (n + m) d. In float32 (float64 if the inputs are), under autocast too. Twice differentiable.

    Args:
        queries: (n, d); normalised inside, where a row of zeros has similarity 0 to everything.
        keys: (m, d), likewise.
        temperature: above 0; a tensor gets a gradient.
        excluded: int64 (n, e), numbers of the keys that query i leaves out; may repeat one to fill up a row.
        block_size: queries at a time; if None, as many as have 2^20 similarities (4 MiB), 2^26 on a GPU.

    Returns:
        (n,); -inf where all keys are excluded.

    Raises:
        ArgumentError: temperature not above 0, or shapes that do not fit.

    >>> similarity_logsumexp(torch.eye(2), torch.eye(2), 1.0).exp()      # e^1 + e^0
    tensor([3.7183, 3.7183])
    >>> similarity_logsumexp(torch.eye(2), torch.eye(2), 1.0, excluded=torch.tensor([[0], [1]]))
    tensor([0., 0.])
    """
    expect_temperature(temperature)
    fit = queries.ndim == keys.ndim == 2 and queries.shape[1] == keys.shape[1]
    expect("shapes", (tuple(queries.shape), tuple(keys.shape)), fit, "queries (n, d) and keys (m, d)")
    if excluded is not None:
        ok = excluded.ndim == 2 and len(excluded) == len(queries) and excluded.dtype == torch.int64
        expect("excluded", (tuple(excluded.shape), excluded.dtype), ok, f"int64 of shape ({len(queries)}, e)")
    if block_size is None:
        block_size = max(1, (2**26 if keys.is_cuda else 2**20) // max(1, len(keys)))
    expect("block_size", block_size, block_size >= 1, "a number of queries, at least 1")
    with torch.autocast(queries.device.type, enabled=False):
        return _LogSumExp.apply(unit(queries) / temperature, unit(keys), excluded, block_size)


def unit(x: Tensor) -> Tensor:
    """Rows of length 1, (n, d), in float32 or float64; zeros stay zeros, with a gradient of ordinary size.

    Each row is divided by its largest element first, so that the squares of huge or tiny rows neither overflow nor
    vanish. The direction does not depend on that factor, hence neither does the gradient.
    """
    x = x if x.dtype == torch.float64 else x.float()
    largest = x.detach().abs().amax(1, keepdim=True)
    zero = largest < 1e-12
    x = x / largest.masked_fill(zero, 1)
    return x / x.norm(dim=1, keepdim=True).masked_fill(zero, 1)


def expect_temperature(temperature: float | Tensor) -> None:
    """Raise unless the temperature is above 0."""
    expect("temperature", temperature, bool(temperature > 0), "a number above 0", "0.1 to 0.5 are usual")


class _LogSumExp(torch.autograd.Function):
    """log sum_j exp(q_i . k_j). Its gradient is softmax_j(q_i . k_j), computed again block by block."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, excluded: Tensor | None, block_size: int) -> Tensor:
        result = queries.new_empty(len(queries))
        for rows in _blocks(len(queries), block_size):
            result[rows] = _logits(queries, keys, excluded, rows).logsumexp(1)
        ctx.save_for_backward(queries, keys, excluded, result)
        ctx.block_size = block_size
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        queries, keys, excluded, result = ctx.saved_tensors
        shift = result.masked_fill(result == -torch.inf, 0)  # all excluded: exp(-inf - 0) is the 0 that it should be
        grad_queries, grad_keys = torch.zeros_like(queries), torch.zeros_like(keys)
        with torch.autocast(queries.device.type, enabled=False):
            for rows in _blocks(len(queries), ctx.block_size):
                softmax = (_logits(queries, keys, excluded, rows) - shift[rows, None]).exp()
                weights = softmax * grad[rows, None]
                grad_queries[rows] = weights @ keys
                grad_keys.addmm_(weights.T, queries[rows])
        return grad_queries, grad_keys, None, None


def _blocks(n: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


def _logits(queries: Tensor, keys: Tensor, excluded: Tensor | None, rows: slice) -> Tensor:
    logits = queries[rows] @ keys.T
    return logits if excluded is None else logits.scatter_(1, excluded[rows], -torch.inf)
