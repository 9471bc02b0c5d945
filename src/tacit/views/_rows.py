"""Views of table rows: SCARF's corruption (Bahri et al., 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tacit.errors import expect


class RowCorruption(nn.Module):
    """Puts, in place of a random share of each row's values, values that the same columns take in other rows.

    Of each row floor(rate d) of its d columns are drawn, one at least, and each is given the value of a row drawn
    uniformly for that one value: a draw from the column's empirical marginal (SCARF, algorithm 1). Missing values
    (NaN) and category numbers are values like others.

    Args:
        rate: share of the columns, in (0, 1].

    >>> x = torch.arange(12.0).view(4, 3)
    >>> changed = RowCorruption(0.6)(x)
    >>> bool((changed % 3 == x % 3).all())  # each column keeps to its own values
    True
    """

    def __init__(self, rate: float = 0.6) -> None:
        super().__init__()
        expect("rate", rate, 0 < rate <= 1, "a share above 0, at most 1")
        self.rate = rate

    def mask(self, x: Tensor) -> Tensor:
        """The columns drawn for each row: bool (n, d)."""
        d = x.shape[1]
        count = max(1, int(self.rate * d + 1e-9))  # 0.6 * 5 is 3, and not a little less
        return torch.rand(x.shape, device=x.device).argsort(dim=1) < count

    def forward(self, x: Tensor, values: Tensor | None = None) -> Tensor:
        """
        Args:
            x: rows (n, d).
            values: rows (m, d) to draw from; the batch itself if None.
        """
        values = x if values is None else values
        expect("values", tuple(values.shape), values.ndim == 2 and len(values) >= 1, f"rows (m, {x.shape[1]})")
        drawn = values.gather(0, torch.randint(len(values), x.shape, device=x.device))
        return torch.where(self.mask(x), drawn, x)
