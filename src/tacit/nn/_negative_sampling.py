"""Negative sampling (Mikolov et al., 2013) in batches, and steps that touch no row but those of the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHARING = 32
"""Pairs, one after the other, that share their negatives, so that a batched product of matrices scores them."""


def draw_negatives(noise: Tensor, n_pairs: int, n_negatives: int) -> Tensor:
    """Word numbers drawn from a noise distribution: int64 (groups of `SHARING` pairs, n_negatives).

    Args:
        noise: cumulative shares of the words, (words,), the last being 1.
    """
    groups = -(-n_pairs // SHARING)
    drawn = torch.searchsorted(noise, torch.rand(groups, n_negatives, device=noise.device), right=True)
    return drawn.clamp_max(len(noise) - 1)


def cumulative_noise(counts: Tensor, power: float) -> Tensor:
    """Cumulative shares of words whose chance goes with count^power; words that do not occur have none."""
    weights = counts.double().pow(power) * (counts > 0)
    return (weights.cumsum(0) / weights.sum()).to(torch.float32)


def keep_chance(counts: Tensor, threshold: float) -> Tensor:
    """Subsampling: the chance sqrt(t / f) + t / f, at most 1, that an occurrence of a word is kept; f is its share."""
    ratio = threshold * counts.sum() / counts
    return (ratio.sqrt() + ratio).clamp_max(1)


def negative_sampling_loss(
    inputs: Tensor, target: Tensor, negative: Tensor, targets: Tensor, negatives: Tensor
) -> Tensor:
    """Mean over pairs of  l(u_t v) + sum over negatives of l(-u_n v),  l(s) = log(1 + exp(-s)).

    A negative that is the target itself is left out.

    Args:
        inputs: v, (pairs, dim).
        target: u of the targets, (pairs, dim).
        negative: u of the negatives, (groups, n, dim): each group's are those of `SHARING` pairs.
        targets, negatives: the word numbers that they belong to, (pairs,) and (groups, n).
    """
    pairs, groups = len(inputs), len(negative)
    padded = F.pad(inputs, (0, 0, 0, groups * SHARING - pairs)).view(groups, SHARING, inputs.shape[1])
    scores = (padded @ negative.transpose(1, 2)).flatten(0, 1)[:pairs]
    hit = negatives.repeat_interleave(SHARING, 0)[:pairs] == targets[:, None]
    found = F.softplus(-(inputs * target).sum(1)).sum()
    return (found + F.softplus(scores).masked_fill(hit, 0).sum()) / max(pairs, 1)


@torch.no_grad()
def adagrad_rows(table: Tensor, squares: Tensor, rows: Tensor, slopes: Tensor, rate: float, source: Tensor) -> None:
    """Row-wise Adagrad, in place: a row's rate is `rate` over the root of its mean squared gradients so far.

    Args:
        table: (n, dim); squares: (n,), what has been summed up so far, 0 at first.
        rows: of the table, int64 (m,); those that occur several times add up before the step.
        slopes: (k, dim); source: int64 (m,): the gradient of rows[i] is slopes[source[i]].
    """
    rows, order = rows.sort()
    rows, counts = rows.unique_consecutive(return_counts=True)
    gradient = F.embedding_bag(source[order], slopes, counts.cumsum(0) - counts, mode="sum")
    squares.index_add_(0, rows, gradient.norm(dim=1).square() / gradient.shape[1])
    scale = squares[rows].sqrt().clamp_min(1e-12).reciprocal_()
    table.index_add_(0, rows, gradient.mul_(scale[:, None]), alpha=-rate)
