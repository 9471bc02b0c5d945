"""What every measure asks of its arguments: matrices of finite numbers, labels of the same length."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.errors import ArgumentError

Array = Tensor | np.ndarray
"""What the measures take: a tensor (on any device) or a numpy array."""


def matrix(argument: str, x: Any, *, width: int | None = None, rows: int | None = None, at_least: int = 1) -> Tensor:
    """`x` as a float tensor (n, d) on its own device, without gradient; float64 stays, all else becomes float32.

    Raises:
        ArgumentError: not (n, d) with n >= `at_least`, not as wide or as long as asked, or not finite.
    """
    x = (x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))).detach()
    shape = tuple(x.shape)
    if x.ndim != 2 or shape[1] == 0 or x.is_complex():
        raise ArgumentError(f"{argument}: expected one row of numbers per item, (n, d), got shape {shape}")
    if shape[0] < at_least:
        raise ArgumentError(f"{argument}: expected at least {at_least} rows, got shape {shape}")
    if width is not None and shape[1] != width:
        raise ArgumentError(f"{argument}: expected {width} columns as in the other argument, got shape {shape}")
    if rows is not None and shape[0] != rows:
        raise ArgumentError(
            f"{argument}: expected {rows} rows, one for each item of the other argument, got shape {shape}"
        )
    x = x if x.dtype == torch.float64 else x.float()
    finite = x.isfinite().all(dim=1)
    if not finite.all():
        bad = (~finite).nonzero().flatten()
        raise ArgumentError(
            f"{argument}: expected finite numbers, found NaN or infinity in {len(bad)} of {shape[0]} rows "
            f"(the first is {int(bad[0])}); leave those rows out, or look for the encoder's last healthy checkpoint"
        )
    return x


def labels(argument: str, y: Any, rows: int, *, at_least: int = 1) -> np.ndarray:
    """`y` as a numpy array (rows,) of class names or numbers.

    Raises:
        ArgumentError: not one label per row, missing labels (NaN), or fewer than `at_least` different ones.
    """
    y = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if y.shape != (rows,):
        raise ArgumentError(f"{argument}: expected one label for each of {rows} rows, got shape {y.shape}")
    if y.dtype.kind == "f" and np.isnan(y).any():
        raise ArgumentError(f"{argument}: expected a label in each row, found NaN; leave the rows without label out")
    if len(np.unique(y)) < at_least:
        raise ArgumentError(f"{argument}: expected at least {at_least} classes, found {len(np.unique(y))}")
    return y


def standardised(reference: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """All of them with the mean and deviation of `reference` taken out; a constant feature becomes 0 there."""
    deviation, mean = torch.std_mean(reference, dim=0, correction=0)
    # a constant column has a deviation of a few rounding errors of its mean, which must not be blown up to 1
    constant = deviation <= 10 * torch.finfo(reference.dtype).eps * mean.abs()
    scale = torch.where(constant, torch.ones_like(deviation), deviation)
    return tuple((x.to(mean) - mean) / scale for x in (reference, *others))


def normalised(x: Tensor) -> Tensor:
    """Rows of length 1; a zero row stays zero."""
    return torch.nn.functional.normalize(x, dim=1)
