"""Retrieval: how high the items stand that a query asks for, averaged over queries."""

from __future__ import annotations

from typing import Any

import numpy as np

from tacit.errors import expect

Array = np.ndarray


def ndcg(scores: Any, gains: Any, k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first k items (Jarvelin and Kekalainen, 2002).

        DCG = sum over ranks r = 1..k of gain_r / log2(1 + r);    nDCG = DCG / the DCG of the items in the best order

    Gains are linear, as in trec_eval and scikit-learn (2^gain - 1 may be given instead). Items of equal score share
    their ranks: each counts the mean discount of the ranks that they hold together, which is the expectation over all
    orders of them. Queries without any gain are left out.

    Args:
        scores: of all items for each query, (queries, items), the higher the better; -inf for items not returned. A
            ranking is passed by `ranking_scores`.
        gains: at least 0; 0 for what a query does not ask for; (queries, items).
        k: ranks that count, at least 1.

    Returns:
        The mean over queries, in [0, 1].

    Raises:
        ArgumentError: shapes differ, a gain below 0, NaN, k below 1, or no query has a gain.

    >>> ndcg([[3.0, 2.0, 1.0]], [[0, 1, 0]])  # the item stands second: 1 / log2(3)
    0.6309297535714575
    """
    scores, gains = _checked(scores, gains, k)
    k = min(k, scores.shape[1])
    discounts = np.zeros(scores.shape[1])
    discounts[:k] = 1 / np.log2(np.arange(2, k + 2))
    best = np.sort(gains, axis=1)[:, ::-1] @ discounts
    found = (_shared(scores, discounts) * gains).sum(1)
    return float(np.mean(found / best))


def recall_at(scores: Any, gains: Any, k: int = 10) -> float:
    """Share of a query's items (gain above 0) that stand among the first k; its mean over queries.

    Items of equal score that share the last ranks count in expectation over their orders, as in `ndcg`, whose
    arguments these are.

    >>> recall_at([[3.0, 2.0, 1.0]], [[0, 1, 1]], k=2)
    0.5
    """
    scores, gains = _checked(scores, gains, k)
    within = (np.arange(scores.shape[1]) < k).astype(float)
    wanted = gains > 0
    return float(np.mean((_shared(scores, within) * wanted).sum(1) / wanted.sum(1)))


def mrr(scores: Any, gains: Any, k: int | None = None) -> float:
    """Mean reciprocal rank: 1 / the rank of the first item with a gain above 0, and 0 if it stands after rank k.

    Among items of equal score the wanted ones are taken to stand last, so that ties are never in a system's favour
    (the expectation has no short form here). Arguments as in `ndcg`; k is None for all ranks.

    >>> mrr([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], [[0, 1, 1], [1, 0, 0]])
    0.75
    """
    scores, gains = _checked(scores, gains, 1 if k is None else k)
    wanted = gains > 0
    top = np.where(wanted, scores, -np.inf).max(1, keepdims=True)
    before = ((scores >= top) & ~wanted).sum(1) + 1
    returned = np.isfinite(top[:, 0]) & (before <= (scores.shape[1] if k is None else k))
    return float(np.mean(np.where(returned, 1 / before, 0.0)))


def ranking_scores(ranked: Any, n_items: int) -> Array:
    """Item numbers, best first, as the scores that `ndcg`, `recall_at` and `mrr` take.

    Args:
        ranked: (queries, k), each row without repetition; -1 fills rows that are shorter.
        n_items: of the whole collection.

    Returns:
        (queries, n_items): the first gets k, the next k - 1, ...; what is not ranked gets -inf.

    Raises:
        ArgumentError: a number of no item, or one that stands twice in a row.

    >>> ranking_scores([[2, 0]], 4).tolist()
    [[1.0, -inf, 2.0, -inf]]
    """
    ranked = np.atleast_2d(np.asarray(ranked, int))
    numbers = ranked.min(initial=-1) >= -1 and ranked.max(initial=-1) < n_items
    expect("ranked", ranked.shape, bool(numbers), f"item numbers below n_items={n_items}, or -1")
    scores = np.full((len(ranked), n_items + 1), -np.inf)
    ordered = np.sort(ranked, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    expect("ranked", ranked.shape, not twice.any(), "each item once in a row")
    np.put_along_axis(scores, np.where(ranked < 0, n_items, ranked), np.arange(ranked.shape[1], 0, -1.0)[None], axis=1)
    return scores[:, :n_items]


def _checked(scores: Any, gains: Any, k: int) -> tuple[Array, Array]:
    """Both as floats (queries, items), without the queries that ask for nothing."""
    scores, gains = (np.atleast_2d(np.asarray(side, float)) for side in (scores, gains))
    shapes = (scores.shape, gains.shape)
    expect("scores, gains", shapes, scores.shape == gains.shape and scores.ndim == 2, "the same (queries, items)")
    expect("scores", "NaN", not np.isnan(scores).any(), "numbers", "-inf stands for an item that was not returned")
    expect("gains", gains.min(initial=0), bool((gains >= 0).all() and np.isfinite(gains).all()), "numbers from 0 on")
    expect("k", k, k >= 1, "at least 1")
    asked = (gains > 0).any(1)
    expect("gains", gains.shape, bool(asked.any()), "at least one query with a gain above 0")
    return scores[asked], gains[asked]


def _shared(scores: Array, by_rank: Array) -> Array:
    """What each item counts, (queries, items): by_rank averaged over the ranks of its score; 0 if not returned."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    begins = np.ones(ordered.shape, bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    n_items = scores.shape[1]
    group = np.cumsum(begins, axis=1) - 1 + n_items * np.arange(len(scores))[:, None]
    flat, size = group.ravel(), len(scores) * n_items
    total = np.bincount(flat, np.tile(by_rank, len(scores)), size)
    mean = total / np.maximum(np.bincount(flat, minlength=size), 1)
    counted = np.where(np.isneginf(ordered), 0.0, mean[group])
    out = np.empty_like(counted)
    np.put_along_axis(out, order, counted, axis=1)
    return out
