"""Sinkhorn's algorithm: a transport plan with given marginals."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from tacit.errors import expect
from tacit.nn._distributed import gather


def sinkhorn(
    scores: Tensor,
    *,
    epsilon: float = 0.05,
    n_iters: int | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    tolerance: float | None = None,
) -> Tensor:
    """The plan that collects the highest scores, smoothed by entropy, under given sums of rows and columns.

        maximise  <Q, scores> + epsilon H(Q)   over Q >= 0,  Q 1 = rows,  Q^T 1 = columns        (Cuturi, 2013)
        Q_ij = exp(f_i + scores_ij / epsilon + g_j)

    with the entropy H(Q) = -sum of Q log Q. An iteration sets g so that the columns are right, and then f so that the
    rows are, in the log domain (Peyré & Cuturi, Computational Optimal Transport, 2019, section 4.4). So after the last
    one **the rows are exact**, and the columns only approximately right: after SwAV's three iterations often far from
    it. `tolerance` asks for the converged plan.

    With items as rows, `plan / plan.sum(1, keepdim=True)` are the soft assignments that SwAV, SeLa and DINOv2 learn
    from; their code multiplies the plan by n to the same end. In several processes each brings its own rows, as many as
    it likes: the columns are summed over all, and the processes' plans together are the whole batch's.

    Differentiable through its iterations; call it under `torch.no_grad` for fixed targets.

    Args:
        scores: (n, k), the higher the likelier. Half precision is raised to float32, and float64 stays.
        epsilon: weight of the entropy, above 0; SwAV takes 0.05, and SeLa's lambda is its inverse.
        n_iters: iterations, or the most of them if there is a tolerance. None: 3, or with a tolerance 1000.
        rows: (n,) weights of the rows, none below 0; equal by default. They are scaled to sum to 1 over all processes.
        columns: (k,) weights of the columns, likewise, and the same in each process.
        tolerance: stop once the columns are off by at most this, summed over all of them.

    Returns:
        The plan, (n, k), float32 or float64; its entries sum to 1, over all processes.

    Warns:
        RuntimeWarning: the tolerance was not reached.

    Raises:
        ArgumentError: a value out of range, or weights that are of the wrong shape, below 0, or all 0.

    >>> plan = sinkhorn(torch.tensor([[1.0, 0.0], [0.9, 0.4]]), epsilon=0.2, tolerance=1e-5)
    >>> plan.argmax(1).tolist(), round(plan[:, 0].sum().item(), 4)  # both items prefer the first, which takes one
    ([0, 1], 0.5)
    """
    expect("scores", tuple(scores.shape), scores.ndim == 2 and scores.numel() > 0, "shape (n, k), neither of them 0")
    expect("epsilon", epsilon, epsilon > 0, "a number above 0")
    expect("n_iters", n_iters, n_iters is None or n_iters >= 1, "at least 1, or None")
    expect("tolerance", tolerance, tolerance is None or tolerance > 0, "a number above 0, or None")
    kernel = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    row_weights = kernel.new_ones(len(kernel)) if rows is None else _weights("rows", rows, kernel, 0)
    column_weights = kernel.new_ones(kernel.shape[1]) if columns is None else _weights("columns", columns, kernel, 1)
    log_rows = row_weights.log() - gather(row_weights.sum()[None]).sum().log()
    log_columns = column_weights.log() - column_weights.sum().log()
    return _scale(kernel, log_rows, log_columns, n_iters or (3 if tolerance is None else 1000), tolerance)


def _scale(kernel: Tensor, log_rows: Tensor, log_columns: Tensor, n_iters: int, tolerance: float | None) -> Tensor:
    """The iterations, on kernel = scores / epsilon."""
    log_sums, off = _log_column_sums(kernel), math.inf
    for _ in range(n_iters):
        g = log_columns - log_sums
        f = log_rows - _logsumexp(kernel + g, 1)
        log_sums = _log_column_sums(kernel + f[:, None])
        if tolerance is not None:
            off = float(((log_sums + g).exp() - log_columns.exp()).abs().sum())
            if off <= tolerance:
                break
    if tolerance is not None and off > tolerance:
        message = f"sinkhorn: after {n_iters} iterations the columns are off by {off:.2g}, more than {tolerance=:g}"
        warnings.warn(f"{message}: raise n_iters, epsilon or tolerance", RuntimeWarning, stacklevel=3)
    return (kernel + f[:, None] + g).exp()


def _log_column_sums(log_plan: Tensor) -> Tensor:
    """Over the rows of all processes, (n, k) -> (k,)."""
    return gather(_logsumexp(log_plan, 0)[None]).logsumexp(0)


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    """As torch's, but for the floor: torch takes ten times as long on a CPU over exponentials that underflow."""
    top = x.detach().amax(dim, keepdim=True)
    return (x - top).clamp_min(-80).exp().sum(dim).log() + top.squeeze(dim)


def _weights(argument: str, weights: Tensor, kernel: Tensor, dim: int) -> Tensor:
    size = kernel.shape[dim]
    ok = weights.shape == (size,) and bool((weights >= 0).all()) and bool(weights.any())
    expect(argument, f"tensor of shape {tuple(weights.shape)}", ok, f"{size} numbers, none below 0 and not all 0")
    return weights.to(kernel)
