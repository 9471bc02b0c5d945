"""Whether neighbourhoods agree: between two embeddings of the same items, and between two views of an item."""

from __future__ import annotations

import torch

from tacit.errors import expect
from tacit.evaluate._arrays import Array, matrix
from tacit.evaluate._estimates import Score, mean_interval, share, wilson
from tacit.evaluate._neighbours import neighbours


def neighbour_stability(before: Array, after: Array, n_neighbors: int = 20) -> Score:
    """Mean share of an item's nearest neighbours that are the same in both embeddings.

    1 means that no neighbourhood changed; two unrelated embeddings share n_neighbors / (n - 1) by chance.

    Args:
        before, after: (n, d) and (n, e), two embeddings of the same items, row by row.
        n_neighbors: k, under n; by cosine.

    Returns:
        the mean share with Student's 95 % interval over items, cut at 0 and 1.

    Raises:
        ArgumentError: different numbers of items, k not under n, NaN.

    >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    >>> neighbour_stability(x, 3 * x, 5).value
    1.0
    """
    before = matrix("before", before, at_least=2)
    after = matrix("after", after, rows=len(before))
    expect(
        "n_neighbors",
        n_neighbors,
        1 <= n_neighbors < len(before),
        f"from 1 to {len(before) - 1}, the number of other items",
    )
    old, new = (neighbours(x, x, n_neighbors, exclude_self=True)[1].cpu() for x in (before, after))
    row = len(before) * torch.arange(len(before))[:, None]  # makes item numbers differ between rows
    kept = torch.isin(new + row, old + row).double().mean(dim=1)
    return share(mean_interval(kept))


def view_retrieval(a: Array, b: Array) -> Score:
    """Share of items whose second view, among all items, is nearest to their own first view.

    How far an embedding keeps two views of one item together and different items apart, without any label. Chance is
    1 / n and more items make it harder: compare at equal n (the report takes 1,000), and with the raw input of the same
    views. A collapsed embedding scores at chance.

    Args:
        a, b: (n, d) embeddings of the first and the second view, row by row; by cosine.

    Raises:
        ArgumentError: shapes that do not match, NaN.

    >>> a = torch.eye(4)
    >>> print(view_retrieval(a, a[[0, 1, 3, 2]]))
    50.0 % (15.0-85.0)
    """
    a = matrix("a", a)
    b = matrix("b", b, width=a.shape[1], rows=len(a)).to(a)
    found = neighbours(b, a, 1)[1].flatten()
    hits = int((found == torch.arange(len(a), device=a.device)).sum())
    return wilson(hits, len(a))
