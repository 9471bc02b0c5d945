"""InfoNCE (van den Oord et al., 2018; He et al., 2020) and NT-Xent (Chen et al., 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tacit.errors import expect
from tacit.losses._similarity import expect_temperature, similarity_logsumexp, unit
from tacit.nn import gather, rank


def info_nce(
    queries: Tensor, keys: Tensor, temperature: float | Tensor = 0.1, negatives: Tensor | None = None
) -> Tensor:
    """Find each query's own key among the others: the mean over i of

        -log exp(cos(q_i, k_i) / temperature) / sum_j exp(cos(q_i, k_j) / temperature)

    where j runs over all keys, or over key i and the `negatives` if there are any (MoCo, He et al., 2020, eq. 1). Over
    several processes without `negatives`, j runs over the keys of all.

    Args:
        queries: (n, d); normalised inside.
        keys: (n, d), the positive of query i in row i; gradients flow here too unless detached.
        temperature: above 0.
        negatives: (m, d), such as a `Queue`'s items.

    Returns:
        The mean over queries, a scalar; at least 0.

    Raises:
        ArgumentError: shapes that do not fit, no negative at all (a single key), or temperature not above 0.

    >>> info_nce(torch.eye(2), torch.eye(2), temperature=1.0)      # log(1 + e^-1)
    tensor(0.3133)
    """
    _expect_pairs("queries and keys", queries, keys)
    positives = pair_similarity(queries, keys, temperature)
    if negatives is not None:
        expect("negatives", tuple(negatives.shape), len(negatives) > 0, "at least one row")
        return (torch.logaddexp(positives, similarity_logsumexp(queries, negatives, temperature)) - positives).mean()
    keys = gather(keys)
    expect("keys", tuple(keys.shape), len(keys) > 1, "at least 2 rows, or there is no negative", "give negatives=")
    return (similarity_logsumexp(queries, keys, temperature) - positives).mean()


def nt_xent(a: Tensor, b: Tensor, temperature: float | Tensor = 0.5) -> Tensor:
    """The normalised temperature-scaled cross-entropy of SimCLR (Chen et al., 2020, eq. 1), mean over all 2n views:

        -log exp(cos(z_i, z_j) / temperature) / sum_{k != i} exp(cos(z_i, z_k) / temperature)

    where z holds both views of all items and i, j are the two of one item. (The official code gives twice the mean.)
    Over several processes the negatives are those of all; each returns the mean over its own views.

    Args:
        a: (n, d), one view of each item; normalised inside.
        b: (n, d), the other.
        temperature: above 0.

    Returns:
        The mean over views, a scalar; at least 0.

    Raises:
        ArgumentError: shapes that do not fit, a single item (no negative), or temperature not above 0.

    >>> nt_xent(torch.eye(2), torch.eye(2), temperature=1.0)      # log(1 + 2 e^-1)
    tensor(0.5514)
    """
    _expect_pairs("a and b", a, b)
    keys = torch.cat([gather(a), gather(b)])
    total, own = len(keys) // 2, torch.arange(len(a), device=a.device) + rank() * len(a)
    expect("a", tuple(a.shape), total > 1, "at least 2 items, or there is no negative", "raise batch_size")
    itself = torch.cat([own, own + total])[:, None]
    positives = pair_similarity(a, b, temperature)
    return similarity_logsumexp(torch.cat([a, b]), keys, temperature, itself).mean() - positives.mean()


def pair_similarity(a: Tensor, b: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """cos(a_i, b_i) / temperature, (n, d) and (n, d) -> (n,), in float32 (or float64)."""
    expect_temperature(temperature)
    with torch.autocast(a.device.type, enabled=False):
        return (unit(a) * unit(b)).sum(1) / temperature


class InfoNCE(nn.Module):
    """`info_nce` as a module.

    >>> InfoNCE(temperature=1.0)(torch.eye(2), torch.eye(2))
    tensor(0.3133)
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        expect_temperature(temperature)
        self.temperature = temperature

    def forward(self, queries: Tensor, keys: Tensor, negatives: Tensor | None = None) -> Tensor:
        return info_nce(queries, keys, self.temperature, negatives)


class NTXent(nn.Module):
    """`nt_xent` as a module.

    >>> NTXent(temperature=1.0)(torch.eye(2), torch.eye(2))
    tensor(0.5514)
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        expect_temperature(temperature)
        self.temperature = temperature

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return nt_xent(a, b, self.temperature)


def _expect_pairs(names: str, a: Tensor, b: Tensor) -> None:
    ok = a.ndim == 2 and a.shape == b.shape
    expect(names, (tuple(a.shape), tuple(b.shape)), ok, "two batches of the same shape (n, d)")
