import math
from collections import Counter

import numpy as np
import pytest

from tacit.errors import ArgumentError
from tacit.metric._bm25 import BM25


def slow_scores(texts, query, k1, b):
    split = [text.split() for text in texts]
    mean = sum(map(len, split)) / len(split)
    scores = []
    for words in split:
        counts, score = Counter(words), 0.0
        for word in query.split():
            held = sum(word in other for other in split)
            idf = math.log(1 + (len(split) - held + 0.5) / (held + 0.5))
            f = counts[word]
            score += idf * f / (f + k1 * (1 - b + b * len(words) / mean)) if f else 0
        scores.append(score)
    return scores


def drawn(n, seed=0, words=30):
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{int(i)}" for i in rng.zipf(1.6, rng.integers(1, 20)) % words) for _ in range(n)]


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.0, 0.3), (2.0, 0.0), (0.9, 1.0)])
def test_scores_against_a_slow_loop(k1, b):
    texts, queries = drawn(40), drawn(7, seed=1)
    found = BM25(k1=k1, b=b).fit(texts).score_samples(queries)
    np.testing.assert_allclose(found, [slow_scores(texts, query, k1, b) for query in queries], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 40, 100])
def test_rank_is_a_stable_sort_of_the_scores(k):
    texts, queries = drawn(40, words=4), drawn(600, seed=2, words=4)  # more queries than a block, many ties
    ranker = BM25().fit(texts)
    items, scores = ranker.rank(queries, k)
    every = ranker.score_samples(queries)
    order = np.argsort(-every, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(items, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(every, order, axis=1))


def test_unknown_words_and_empty_texts_score_nothing():
    ranker = BM25().fit(["", "a b", "!?"])
    assert ranker.score_samples(["", "zebra", "b"]).tolist()[:2] == [[0, 0, 0], [0, 0, 0]]
    assert ranker.rank(["b"], 1)[0].tolist() == [[1]]
    assert BM25().fit(["", ""]).rank(["a"], 5)[0].tolist() == [[0, 1]]


def test_what_cannot_be_is_refused():
    for wrong in ({"k1": -1}, {"b": 2}):
        with pytest.raises(ArgumentError):
            BM25(**wrong).fit(["a"])
    with pytest.raises(ArgumentError, match="a list of texts"):
        BM25().fit("a text")
    with pytest.raises(ArgumentError, match="at least one text"):
        BM25().fit([])
    with pytest.raises(ArgumentError, match="k=0"):
        BM25().fit(["a"]).rank(["a"], 0)
