"""TableMLP: rows of numbers and categories -> embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn._heads import mlp
from tacit.nn._item_encoder import ItemEncoder

OUTLIER = 10.0
"""Deviations from the mean beyond which a number is held."""


class TableMLP(ItemEncoder):
    """A multi-layer perceptron over the columns of a row; ReLU after its last layer, as SCARF's encoder.

    A number enters as its deviation from the column's mean in standard deviations, held within 10, and a flag that says
    whether it is missing (then 0). A category enters as a learned vector; a missing one, and one that was never seen,
    have a vector of their own. Means and deviations are buffers, fitted by `fit_prepare`.

    Args:
        in_features: columns d.
        categories: for each column its number of categories, whose numbers 0, 1, ... it holds; 0 for numbers. All are
            numbers if None.
        hidden_dim: width of every layer, the last one too.
        num_layers: linear layers.
        category_dim: features of a category's vector, at most; fewer where there are few categories.
        norm: of the layers: `"batch"`, `"layer"` or None.

    Raises:
        ArgumentError: a value out of range, or categories of another number of columns.

    >>> encoder = TableMLP(3, [0, 0, 4], hidden_dim=16).eval()
    >>> rows = np.array([[1.0, 20.0, 3.0], [2.0, np.nan, 0.0]], np.float32)
    >>> encoder.fit_prepare(rows)(encoder.prepare(rows)).shape
    torch.Size([2, 16])
    """

    modality: ClassVar[str] = "table"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        in_features: int,
        categories: Sequence[int] | None = None,
        *,
        hidden_dim: int = 256,
        num_layers: int = 4,
        category_dim: int = 16,
        norm: str | None = "batch",
    ) -> None:
        super().__init__()
        expect("in_features", in_features, in_features >= 1, "a number of columns, at least 1")
        counts = [0] * in_features if categories is None else [int(count) for count in categories]
        expect("categories", counts, len(counts) == in_features, f"a count for each of {in_features} columns")
        expect("categories", counts, min(counts) >= 0, "numbers of categories, 0 for a column of numbers")
        self.in_features, self.categories, self.dim = in_features, tuple(counts), hidden_dim
        self.config = {
            "name": "table-mlp",
            "in_features": in_features,
            "categories": counts,
            "hidden_dim": hidden_dim,
            "num_layers": num_layers,
            "category_dim": category_dim,
            "norm": norm,
        }
        self.numbers = [column for column, count in enumerate(counts) if not count]
        self.words = [column for column, count in enumerate(counts) if count]
        self.register_buffer("mean", torch.zeros(len(self.numbers)))
        self.register_buffer("std", torch.ones(len(self.numbers)))
        # the last row of each table stands for what is missing or was never seen
        sizes = [(counts[column] + 1, min(category_dim, (counts[column] + 2) // 2)) for column in self.words]
        self.vectors = nn.ModuleList(nn.Embedding(rows, size) for rows, size in sizes)
        width = 2 * len(self.numbers) + sum(size for _, size in sizes)
        layers = mlp(width, hidden_dim, hidden_dim, num_layers=num_layers, norm=norm, last_norm=norm is not None)
        self.layers = nn.Sequential(*layers, nn.ReLU())

    def fit_prepare(self, items: Any) -> TableMLP:
        """Mean and deviation of each column of numbers, over the rows that have one; 0 and 1 where none has."""
        rows = self._rows(items)[:, self.numbers].astype(np.float64)
        there = ~np.isnan(rows)
        count = np.maximum(there.sum(axis=0), 1)
        mean = np.where(there, rows, 0).sum(axis=0) / count
        std = (np.where(there, rows - mean, 0) ** 2).sum(axis=0) ** 0.5 / count**0.5
        std[std <= 1e-9 * np.abs(mean)] = 1  # constant but for rounding
        self.mean.copy_(torch.as_tensor(mean, dtype=self.mean.dtype))
        self.std.copy_(torch.as_tensor(std, dtype=self.std.dtype))
        return self

    def prepare(self, items: Any) -> Tensor:
        """Rows (n, d) as float32, infinite values missing (NaN); a float32 tensor comes back as it is.

        Raises:
            ArgumentError: another number of columns.
        """
        if isinstance(items, Tensor) and items.dtype == torch.float32 and items.shape[1:] == (self.in_features,):
            return items.to(self.mean.device)
        return torch.from_numpy(self._rows(items)).to(self.mean.device)

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, dim)."""
        fits = x.ndim == 2 and x.shape[1] == self.in_features
        expect("x.shape", tuple(x.shape), fits, f"(n, {self.in_features})", "encoder.prepare(x) converts rows")
        return self.layers(self.inputs(x))

    def inputs(self, x: Tensor) -> Tensor:
        """What the first layer reads: standardised numbers, flags of the missing ones, vectors of categories."""
        numbers = x[:, self.numbers]
        missing = ~numbers.isfinite()
        standard = ((numbers - self.mean) / self.std).clamp(-OUTLIER, OUTLIER).masked_fill(missing, 0.0)
        vectors = [
            table(_known(x[:, column], self.categories[column]))
            for column, table in zip(self.words, self.vectors, strict=True)
        ]
        return torch.cat([standard, missing.to(x.dtype), *vectors], dim=1)

    def _rows(self, items: Any) -> np.ndarray:
        rows = items.detach().cpu().numpy() if isinstance(items, Tensor) else items
        rows = np.array(rows, np.float32)
        fits = rows.ndim == 2 and rows.shape[1] == self.in_features
        expect("items.shape", rows.shape, fits, f"(n, {self.in_features})", "the columns that it was built for")
        rows[~np.isfinite(rows)] = np.nan
        return rows


def _known(numbers: Tensor, count: int) -> Tensor:
    """Category numbers, and `count` for what is none of them."""
    known = (numbers >= 0) & (numbers < count)  # NaN is neither
    return torch.where(known, numbers, count).long()
