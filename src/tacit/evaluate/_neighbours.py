"""Nearest neighbours: exact and blocked, or approximate where there are too many items for that."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from tacit.errors import expect, unknown
from tacit.evaluate._arrays import Array, matrix, normalised

METRICS = ("cosine", "dot", "euclidean")
_QUERY_BLOCK, _REFERENCE_BLOCK = 1024, 16384


def neighbours(
    queries: Array, reference: Array, k: int, *, metric: str = "cosine", exclude_self: bool = False
) -> tuple[Tensor, Tensor]:
    """The `k` nearest rows of `reference` for each query, nearest first.

    Exact. At most 1,024 x 16,384 similarities are held at a time. Equal scores are ordered by row number, so the answer
    is the same on every run.

    Args:
        queries: (q, d).
        reference: (n, d).
        k: how many, from 1 to n (to n - 1 with `exclude_self`).
        metric: what the scores are, greater being nearer: `"cosine"`, `"dot"`, or `"euclidean"`, *minus* the distance.
        exclude_self: query i is row i of the reference, and is not its own neighbour.

    Returns:
        scores (q, k), and row numbers int64 (q, k), both on the device of `queries`.

    Raises:
        ArgumentError: shapes that do not match, k out of range, an unknown metric, NaN.

    >>> points = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> scores, rows = neighbours(points, points, 1, exclude_self=True)
    >>> rows.flatten().tolist(), [round(score, 1) for score in scores.flatten().tolist()]
    ([1, 0, 1], [0.8, 0.8, 0.6])
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    queries = matrix("queries", queries)
    reference = matrix("reference", reference, width=queries.shape[1], rows=len(queries) if exclude_self else None)
    reference = reference.to(queries)
    most = len(reference) - exclude_self
    expect("k", k, 1 <= k <= most, f"from 1 to {most}, the number of {'other ' * exclude_self}rows in reference")
    own = torch.arange(len(queries), device=queries.device) if exclude_self else None
    if metric == "euclidean":
        centre = reference.mean(dim=0)  # distances stay, and the products that stand for them lose fewer digits
        queries, reference = queries - centre, reference - centre
    elif metric == "cosine":
        queries, reference = normalised(queries), normalised(reference)
    return _nearest(queries, reference, k, metric, own)


def approximate_neighbours(
    x: Array, k: int, *, metric: str = "cosine", probes: int = 12, exact_up_to: int = 20_000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The `k` nearest other rows of each row of `x`: exact up to `exact_up_to` rows, else by inverted lists.

    The rows are put into about sqrt(n) cells by k-means, and each row is compared with all rows of the `probes` cells
    nearest to its own: about sqrt(n) / probes times less work than comparing all.

    Args:
        x: (n, d).
        k: from 1 to n - 1.
        metric: `"cosine"` or `"euclidean"`, scores as in `neighbours`.
        probes: cells looked at per row.
        exact_up_to: rows up to which all are compared.
        seed: of the k-means.

    Returns:
        scores (n, k), and row numbers int64 (n, k).

    Source: Jégou, Douze & Schmid, "Product quantization for nearest neighbor search", TPAMI 2011 (its inverted file,
    without the quantisation).

    >>> scores, rows = approximate_neighbours(torch.eye(4)[[0, 1, 0, 1]], 1)
    >>> rows.flatten().tolist()
    [2, 3, 0, 1]
    """
    if metric not in ("cosine", "euclidean"):
        raise unknown("metric", metric, ("cosine", "euclidean"))
    x = matrix("x", x, at_least=2)
    expect("k", k, 1 <= k < len(x), f"from 1 to {len(x) - 1}, the number of other rows")
    if len(x) <= exact_up_to:
        return neighbours(x, x, k, metric=metric, exclude_self=True)
    x = normalised(x) if metric == "cosine" else x - x.mean(dim=0)
    centres, cell = _cells(x, round(math.sqrt(len(x))), seed)
    members = cell.argsort(stable=True).split(cell.bincount(minlength=len(centres)).tolist())
    others = _nearest(centres, centres, min(probes, len(centres)) - 1, "euclidean", torch.arange(len(centres)))[1]
    scores, rows = x.new_empty(len(x), k), torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for own, cells in zip(members, _looked_at(others.tolist(), members, k), strict=True):
        if len(own) == 0:
            continue
        candidates = torch.cat([members[c] for c in cells]).sort().values
        itself = torch.searchsorted(candidates, own)
        scores[own], found = _nearest(x[own], x[candidates], k, metric, itself)
        rows[own] = candidates[found]
    return scores, rows


def _looked_at(others: list[list[int]], members: tuple[Tensor, ...], k: int) -> Iterator[list[int]]:
    """The cells to look at from each cell, its own first; all of them where the near ones hold no k other rows."""
    for own, near in enumerate(others):
        cells = [own, *near]
        yield cells if sum(len(members[c]) for c in cells) > k else list(range(len(members)))


def _cells(x: Tensor, count: int, seed: int, rounds: int = 8) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means on at most 64 rows per cell: centres (count, d), and the cell of each row of `x`."""
    generator = torch.Generator().manual_seed(seed)
    sample = x[torch.randperm(len(x), generator=generator)[: 64 * count].to(x.device)]
    centres = sample[:count].clone()
    for _ in range(rounds):
        cell = _nearest(sample, centres, 1, "euclidean", None)[1].flatten()
        sums = torch.zeros_like(centres).index_add_(0, cell, sample)
        size = cell.bincount(minlength=count)
        centres = torch.where(size[:, None] > 0, sums / size.clamp(min=1)[:, None], centres)
    return centres, _nearest(x, centres, 1, "euclidean", None)[1].flatten()


def _nearest(queries: Tensor, reference: Tensor, k: int, metric: str, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """`neighbours` on checked input; `own` (q,) is the row of the reference that each query must not find."""
    found = [
        _nearest_of_block(block, reference, k, metric, None if own is None else own[start : start + _QUERY_BLOCK])
        for start, block in zip(range(0, len(queries), _QUERY_BLOCK), queries.split(_QUERY_BLOCK), strict=True)
    ]
    return torch.cat([scores for scores, _ in found]), torch.cat([rows for _, rows in found])


def _nearest_of_block(
    queries: Tensor, reference: Tensor, k: int, metric: str, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    scores = queries.new_empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(reference), _REFERENCE_BLOCK):
        block = reference[start : start + _REFERENCE_BLOCK]
        similarity = queries @ block.T
        if metric == "euclidean":
            similarity.sub_(block.square().sum(dim=1).div_(2))  # the same order as that of minus the distance
        if own is not None:
            inside = ((own >= start) & (own < start + len(block))).nonzero().flatten()
            similarity[inside, own[inside] - start] = -math.inf
        best, where = _top(similarity, min(k, len(block)))
        scores, rows = _merge(torch.cat([scores, best], dim=1), torch.cat([rows, where + start], dim=1), k)
    if metric == "euclidean":  # from the differences: that of squares loses the digits of small distances
        scores = torch.stack([-(queries - reference[row]).norm(dim=1) for row in rows.T], dim=1)
        return _merge(scores, rows, k)
    return scores, rows


def _top(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, equal ones in the order of their columns (which torch.topk leaves open)."""
    columns = similarity.shape[1]
    best, where = similarity.topk(min(k + 1, columns), dim=1)
    tied = (best[:, k - 1] == best[:, k]).nonzero().flatten() if k < columns else where.new_empty(0)
    best, where = best[:, :k], where[:, :k]
    if len(tied):  # all that are above the last one, then the first columns of those equal to it
        row, last = similarity[tied], best[tied, -1:]
        order = torch.arange(columns, 0, -1, device=row.device)
        rank = torch.where(row > last, columns + order, torch.where(row == last, order, 0))
        where[tied] = rank.topk(k, dim=1).indices
        best[tied] = row.gather(1, where[tied])
    where, order = where.sort(dim=1)
    return _merge(best.gather(1, order), where, k)


def _merge(scores: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest scores of lists whose equal scores stand in the order of rows."""
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return scores[:, :k], rows.gather(1, order[:, :k])
