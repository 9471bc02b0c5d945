"""Coding rates: how many nats a set of vectors takes, up to a distortion."""

from __future__ import annotations

import torch
from torch import Tensor

from tacit.errors import expect


def coding_rate(z: Tensor, *, eps: float = 0.5) -> Tensor:
    """Nats an item that code the rows of z up to a mean squared distortion of eps^2 (Ma et al., 2007; Yu et al., 2020).

        R(Z) = 1/2 logdet(I + d / (n eps^2) Z^T Z)

    by the smaller of the two Gram matrices, whose determinants are equal. Half precision is raised to float32, and
    autocast does not reach it. Differentiable.

    `eps` is the papers' epsilon; what the code of MCR2 and CPP calls `eps` is its square: their 0.5 and 0.1 are
    0.707 and 0.316 here.

    Args:
        z: (n, d), rows of norm 1 in most uses; leading dimensions are batches: (..., n, d).
        eps: distortion, above 0.

    Returns:
        (...), at least 0; 0 for vectors that are all 0.

    Raises:
        ArgumentError: a wrong shape, or eps not above 0.

    >>> round(coding_rate(torch.eye(4), eps=1.0).item(), 4)  # 1/2 log 2, four times
    1.3863
    """
    _check(z, eps)
    n, d = z.shape[-2:]
    with torch.autocast(z.device.type, enabled=False):
        return _half_logdet(_raised(z) * (d / (n * eps**2)) ** 0.5)


def grouped_coding_rate(z: Tensor, membership: Tensor, *, eps: float = 0.5) -> Tensor:
    """Nats an item that code each group by itself, the groups weighted by what they hold (Yu et al., 2020, eq. 8).

        R_c(Z | P) = sum over groups k of  m_k / (2 n) logdet(I + d / (m_k eps^2) Z^T diag(P_k) Z),   m_k = sum_i P_ik

    Never above `coding_rate`, whose logdet is concave, where the memberships of each item sum to 1. An empty group
    adds 0. Memory is k n min(n, d) numbers at most.

    Args:
        z: (n, d).
        membership: P, (n, k), none below 0; soft or one-hot.
        eps: as in `coding_rate`.

    Returns:
        scalar, at least 0.

    Raises:
        ArgumentError: a wrong shape, or eps not above 0.

    >>> z, groups = torch.eye(4), torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    >>> round(grouped_coding_rate(z, groups, eps=1.0).item(), 4)  # log 3, with m = 2 and d = 4
    1.0986
    """
    _check(z, eps)
    ok = z.ndim == 2 and membership.ndim == 2 and len(membership) == len(z)
    expect("membership", tuple(membership.shape), ok, f"shape ({len(z)}, k), and z of shape (n, d)")
    with torch.autocast(z.device.type, enabled=False):
        return _grouped(_raised(z), membership, eps)


def _grouped(z: Tensor, membership: Tensor, eps: float) -> Tensor:
    n, d = z.shape
    shares = membership.to(z.dtype)
    sizes = shares.sum(0)
    scales = d / (sizes.clamp_min(torch.finfo(z.dtype).eps) * eps**2)
    weights = (shares * scales).T  # (k, n)
    if n < d:  # det(I + Z Z^T W) = det(I + Z^T W Z), without roots of weights, which have no finite slope at 0
        rates = _half_logdet_of((z @ z.T) * weights[:, None, :])
    else:
        rates = _half_logdet_of(torch.einsum("kn,nd,ne->kde", weights, z, z))
    return (sizes / n * rates).sum()


def _half_logdet(z: Tensor) -> Tensor:
    """1/2 logdet(I + Z^T Z)."""
    gram = z.mT @ z if z.shape[-1] <= z.shape[-2] else z @ z.mT
    return _half_logdet_of(gram)


def _half_logdet_of(gram: Tensor) -> Tensor:
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.slogdet(identity + gram)[1] / 2


def _raised(z: Tensor) -> Tensor:
    return z.to(torch.promote_types(z.dtype, torch.float32))


def _check(z: Tensor, eps: float) -> None:
    expect("z", tuple(z.shape), z.ndim >= 2 and z.numel() > 0, "shape (..., n, d), none of them 0")
    expect("eps", eps, eps > 0, "a number above 0")
