"""Principal components, whitened (Hotelling, 1933): the encoder that asks for nothing but the covariance."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.data import Dataset
from tacit.errors import DataError, expect
from tacit.learner import Learner

SOLVED = 4_000
"""Side of the largest matrix that is decomposed whole: 128 MB and half a minute; 27,648, 96 pixels of an image, would
be 6 GB and hours."""
SPARE, PASSES = 128, 8
"""Directions that are iterated beside those that are kept, and how often."""
BLOCK = 2**23
"""Numbers that are read at once where items have more than `SOLVED`: 64 MB."""


class PCAEncoder(nn.Module):
    """(x - mean) W, the columns of W being the covariance's leading eigenvectors over the roots of their values.

    Args:
        dim: components kept.
        image_size, in_channels: of the images that `prepare` takes, or None for rows of numbers.
    """

    def __init__(self, dim: int, *, image_size: int | None = None, in_channels: int | None = None) -> None:
        super().__init__()
        self.dim, self.image_size, self.in_channels = dim, image_size, in_channels
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("directions", torch.zeros(0, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) -> (n, dim)"""
        return (x.flatten(1).to(self.mean.dtype) - self.mean) @ self.directions

    def prepare(self, items: Tensor) -> Tensor:
        """Bytes to [0, 1] at image_size; other rows as they are."""
        if self.image_size is None:
            return items.float() / 255 if items.dtype == torch.uint8 else items
        from tacit.views import as_float

        return as_float(items, self.image_size)


@system("pca", paper="doi:10.1037/h0071325", modality=("image", "points"), level="baseline")
class WhitenedPCA(Learner):
    """Keeps the directions along which the data varies most, each scaled to variance one.

    Solved in closed form, whatever the n items and their d numbers are:

        d <= n, d <= 4,000    the covariance (d, d), in one pass over the data
        n <= 4,000            the products of all pairs of items (n, n), which have the same eigenvalues
        else                  the covariance applied to a block of random directions, eight times (Halko et al., 2011)

    Args:
        n_components: components kept, at most the number of items and of columns.
        image_size: side at which images are read, or None for rows of numbers.
        in_channels: of the images.
        whiten: scale the components to variance one.
        eps: added to each variance before its root is divided by, as a share of the largest, so that directions of
            rounding noise are not blown up.

    >>> x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 3.0, 1.0, 1.0, 1.0])
    >>> learner = WhitenedPCA(n_components=2)
    >>> learner.before_fit(Dataset({"x": x}))
    >>> learner.encoder(x).var(0).round(decimals=3).tolist()
    [1.0, 1.0]
    """

    settings: ClassVar = {"small": {"n_components": 128}}

    def __init__(
        self,
        *,
        n_components: int = 128,
        image_size: int | None = None,
        in_channels: int | None = None,
        whiten: bool = True,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        expect("n_components", n_components, n_components >= 1, "at least 1")
        self.encoder = PCAEncoder(n_components, image_size=image_size, in_channels=in_channels)
        self.eps, self.whiten = eps, whiten
        self.register_buffer("explained", torch.zeros(0))

    def before_fit(self, data: Dataset) -> None:
        kept, n = self.encoder.dim, len(data)
        d = self._read(data["x"][slice(0, 1)]).shape[1]
        expect("n_components", kept, kept <= min(n, d), f"at most {min(n, d)}, the smaller of items and columns")
        if d <= min(n, SOLVED):
            mean, covariance = self._moments(data)
            values, vectors = torch.linalg.eigh(covariance)
            values, vectors = values.flip(0)[:kept].clamp_min(0), vectors.flip(1)[:, :kept]
        else:
            mean = self._mean(data)
            solve = self._by_pairs if n <= SOLVED else self._by_iteration
            values, vectors = solve(data, mean)
        if values[0] <= 1e-28 * mean.square().max():  # less is what rounding leaves of equal numbers
            raise DataError(f"x: expected items that differ, and all {n:,} are equal; learn from others")
        scale = (values + self.eps * values[0]).rsqrt() if self.whiten else torch.ones_like(values)
        self.encoder.mean = mean.float()
        self.encoder.directions = (vectors * scale).float()
        self.explained = values.float()

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> tuple[()]:
        return ()

    def _read(self, items: Tensor) -> Tensor:
        return self.encoder.prepare(items).flatten(1).double()

    def _moments(self, data: Dataset) -> tuple[Tensor, Tensor]:
        """Mean and covariance in one pass; the first rows' mean is taken off first, against cancellation."""
        shift = self._read(data["x"][slice(0, 256)]).mean(0)
        total, square, n = torch.zeros_like(shift), torch.zeros(len(shift), len(shift), dtype=torch.double), len(data)
        for chunk in data.chunks("x", 1024):
            rows = self._read(chunk) - shift
            total += rows.sum(0)
            square += rows.T @ rows
        mean = total / n
        return shift + mean, (square - n * torch.outer(mean, mean)) / max(n - 1, 1)

    def _mean(self, data: Dataset) -> Tensor:
        first = self._read(data["x"][slice(0, 1)])[0]
        total = torch.zeros_like(first)
        for rows in self._centred(data, first):
            total += rows.sum(0)
        return first + total / len(data)

    def _centred(self, data: Dataset, mean: Tensor) -> Iterator[Tensor]:
        """Rows (m, d) without the mean, a block at a time."""
        for chunk in data.chunks("x", max(BLOCK // len(mean), 1)):
            yield self._read(chunk) - mean

    def _by_pairs(self, data: Dataset, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Of the centred rows X: where X X^T u = λ u, X^T u is an eigenvector of X^T X with the same λ."""
        kept, products = self.encoder.dim, []
        for some in self._centred(data, mean):
            products.append(torch.cat([some @ others.T for others in self._centred(data, mean)], 1))
        values, u = torch.linalg.eigh(torch.cat(products) / max(len(data) - 1, 1))
        values, u = values.flip(0)[:kept].clamp_min(0), u.flip(1)[:, :kept]
        vectors, start = torch.zeros(len(mean), kept, dtype=torch.double), 0
        for rows in self._centred(data, mean):
            vectors += rows.T @ u[start : start + len(rows)]
            start += len(rows)
        return values, torch.linalg.qr(vectors).Q  # they are orthogonal; those of λ = 0 are 0, and any others do

    def _by_iteration(self, data: Dataset, mean: Tensor) -> tuple[Tensor, Tensor]:
        """The covariance's eigenvectors within the space that it turns random directions to when applied to them."""
        kept, d, n = self.encoder.dim, len(mean), len(data)
        width = min(kept + SPARE, d, n)
        block = torch.randn(d, width, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        for _ in range(PASSES):
            basis = torch.linalg.qr(block).Q
            block, inner = torch.zeros_like(basis), torch.zeros(width, width, dtype=torch.double)
            for rows in self._centred(data, mean):
                along = rows @ basis
                block += rows.T @ along
                inner += along.T @ along
        values, turn = torch.linalg.eigh(inner / max(n - 1, 1))
        return values.flip(0)[:kept].clamp_min(0), basis @ turn.flip(1)[:, :kept]


@checked("the mean squared error of reconstruction is the sum of the variances left out", tolerance=1e-4)
def reconstruction_error() -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    learner = WhitenedPCA(n_components=4, whiten=False)
    learner.before_fit(Dataset({"x": x}))
    directions = learner.encoder.directions
    rebuilt = learner.encoder(x) @ directions.T + learner.encoder.mean
    measured = (x - rebuilt).square().sum(1).sum() / (len(x) - 1)
    left_out = torch.linalg.eigvalsh(torch.cov(x.T.double()))[:-4].sum()
    return (measured / left_out).item(), 1.0
