import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from tacit.errors import ArgumentError
from tacit.evaluate._retrieval import mrr, ndcg, ranking_scores, recall_at


def slow(scores, gains, k, measure):
    """The mean over queries, and over all orders of items that score the same, of a measure of ranked gains."""
    values = []
    for row, gain in zip(scores, gains, strict=True):
        if not any(gain):
            continue
        orders = [o for o in itertools.permutations(range(len(row))) if list(row[list(o)]) == sorted(row, reverse=True)]
        values.append(np.mean([measure([gain[i] for i in order], k) for order in orders]))
    return np.mean(values)


def slow_ndcg(ranked, k):
    def dcg(gains):
        return sum(gain / math.log2(2 + place) for place, gain in enumerate(gains[:k]))

    return dcg(ranked) / dcg(sorted(ranked, reverse=True))


def slow_recall(ranked, k):
    return sum(gain > 0 for gain in ranked[:k]) / sum(gain > 0 for gain in ranked)


def drawn(seed, ties):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (5, 6)).astype(float) if ties else rng.normal(size=(5, 6))
    gains = rng.integers(0, 3, (5, 6))
    gains[0] = 0  # asks for nothing
    return scores, gains


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 3, 6, 50])
def test_ndcg_and_recall_average_over_the_orders_of_ties(ties, k):
    scores, gains = drawn(k, ties)
    assert ndcg(scores, gains, k) == pytest.approx(slow(scores, gains, k, slow_ndcg))
    assert recall_at(scores, gains, k) == pytest.approx(slow(scores, gains, k, slow_recall))


@pytest.mark.parametrize("ties", [False, True])
def test_ndcg_is_scikit_learns(ties):
    scores, gains = drawn(9, ties)
    asked = gains.any(1)
    assert ndcg(scores, gains, 3) == pytest.approx(ndcg_score(gains[asked], scores[asked], k=3))


def test_mrr_is_that_of_a_slow_loop_and_never_favoured_by_ties():
    scores, gains = drawn(3, ties=True)
    values = []
    for row, gain in zip(scores, gains, strict=True):
        if gain.any():
            order = sorted(range(6), key=lambda i: (-row[i], gain[i] > 0))
            values.append(1 / (1 + next(r for r, i in enumerate(order) if gain[i] > 0)))
    assert mrr(scores, gains) == pytest.approx(np.mean(values))
    assert mrr(scores, gains, k=2) == pytest.approx(np.mean([value if value >= 1 / 2 else 0 for value in values]))
    assert mrr(np.zeros((1, 5)), [[1, 0, 0, 0, 0]]) == pytest.approx(1 / 5)


def test_rankings_are_scores_and_what_is_not_returned_counts_nothing():
    scores = ranking_scores([[3, 1, -1], [0, 2, 4]], 5)
    gains = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0]])
    assert recall_at(scores, gains, k=5) == pytest.approx((1 / 2 + 1) / 2)
    assert mrr(scores, gains) == pytest.approx((1 / 2 + 1 / 2) / 2)
    dcg = 1 / math.log2(3)
    assert ndcg(scores, gains) == pytest.approx((dcg / (1 + dcg) + dcg) / 2)
    assert mrr(ranking_scores([[1]], 3), [[1, 0, 0]]) == 0


def test_perfect_and_worst():
    gains = np.array([[3, 2, 1, 0, 0]])
    assert ndcg(gains, gains) == 1
    assert recall_at(gains, gains, 3) == 1
    assert mrr(gains, gains) == 1
    assert ndcg(-gains, gains, k=2) == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="the same"):
        ndcg([[1.0, 2.0]], [[1.0]])
    with pytest.raises(ArgumentError, match="NaN"):
        mrr([[math.nan, 2.0]], [[1, 0]])
    with pytest.raises(ArgumentError, match="k=0"):
        recall_at([[1.0]], [[1]], k=0)
    with pytest.raises(ArgumentError, match="above 0"):
        ndcg([[1.0, 2.0]], [[0, 0]])
    with pytest.raises(ArgumentError, match="from 0 on"):
        ndcg([[1.0, 2.0]], [[-1, 2]])
    with pytest.raises(ArgumentError, match="once"):
        ranking_scores([[1, 1]], 3)
    with pytest.raises(ArgumentError, match="n_items=3"):
        ranking_scores([[1, 3]], 3)
