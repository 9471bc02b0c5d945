"""The Probabilistic Relevance Framework: BM25 and Beyond (Robertson and Zaragoza, 2009)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from tacit.catalogue import system
from tacit.claims import checked
from tacit.errors import expect
from tacit.nn._tokenizer import check_texts
from tacit.nn._words import split_words

Array = np.ndarray
BLOCK = 256
"""Queries whose scores are dense at a time."""


_OF_ARRAYS = (
    "complex_data dict_unchanged dont_overwrite_parameters dtype_object estimator_sparse_array "
    "estimator_sparse_matrix estimators_dtypes estimators_empty_data_messages estimators_fit_returns_self "
    "estimators_nan_inf estimators_overwrite_params estimators_pickle f_contiguous_array_estimator "
    "fit2d_1feature fit2d_1sample fit2d_predict1d fit_check_is_fitted fit_idempotent fit_score_takes_y "
    "methods_sample_order_invariance methods_subset_invariance n_features_in n_features_in_after_fitting "
    "pipeline_consistency positive_only_tag_during_fit readonly_memmap_input"
)
"""Checks of scikit-learn that fit a plain array of numbers."""


@system("bm25", paper="doi:10.1561/1500000019", modality="text", level="baseline")
class BM25(BaseEstimator):
    """Ranks texts by the words that they share with a query, rare ones counting more: the baseline of retrieval.

        score(q, d) = sum over words w of q of  idf(w) f / (f + k1 (1 - b + b |d| / mean |d|))         (section 3.5)
        idf(w)      = log(1 + (n - n_w + 1/2) / (n_w + 1/2))

    f being how often w stands in d, n the number of texts and n_w of those that hold w. A word that stands twice in a
    query counts twice. The 1 in the logarithm is Lucene's, which keeps the weights of words in more than half of the
    texts above 0; the factor k1 + 1, which changes no order, is left out, as Lucene has it.

    What a word counts in a text does not hang on the query: the texts are one sparse matrix, and a query's scores its
    product with the query's counts. Words are those of `tacit.nn`'s tokenizer of words, with no stop words and no
    stemming.

    Args:
        k1: how soon repetition of a word stops to count, at least 0; 0: at once.
        b: how much long texts are discounted, in [0, 1].

    Attributes:
        vocabulary_: word -> column.
        weights_: sparse (n, words), what each word counts in each text.
        idf_: (words,)
        n_features_in_: words of the vocabulary.

    Raises:
        ArgumentError: k1 or b out of range, no text, or texts that are none.

    >>> ranker = BM25().fit(["a cat sat", "a dog sat on a mat", "the weather"])
    >>> items, scores = ranker.rank(["dog on mat"], k=2)
    >>> items.tolist(), round(float(scores[0, 0]), 2)
    ([[1, 0]], 1.06)
    """

    expected_failed_checks: ClassVar[dict[str, str]] = {
        f"check_{name}": "it takes texts, which are no arrays" for name in _OF_ARRAYS.split()
    }

    def __init__(self, *, k1: float = 1.2, b: float = 0.75) -> None:
        self.k1, self.b = k1, b

    def fit(self, texts: Iterable[str], y: Any = None) -> Self:
        """Index n texts."""
        expect("k1", self.k1, self.k1 >= 0, "at least 0")
        expect("b", self.b, 0 <= self.b <= 1, "a share in [0, 1]")
        listed = check_texts(texts)
        expect("texts", len(listed), len(listed) >= 1, "at least one text")
        self.vocabulary_: dict[str, int] = {}
        counts = self._count(listed, grow=True)
        self.n_features_in_ = len(self.vocabulary_)
        held = np.bincount(counts.indices, minlength=self.n_features_in_)
        self.idf_ = np.log1p((len(listed) - held + 0.5) / (held + 0.5))
        lengths = np.asarray(counts.sum(1)).ravel()
        saturation = self.k1 * (1 - self.b + self.b * lengths / max(lengths.mean(), 1e-12))
        weights = counts.astype(np.float32)
        repeated = np.repeat(saturation, np.diff(counts.indptr))
        weights.data = (self.idf_[counts.indices] * counts.data / (counts.data + repeated)).astype(np.float32)
        self.weights_ = weights
        return self

    def score_samples(self, queries: Iterable[str]) -> Array:
        """The score of every text for every query, float32 (queries, n)."""
        check_is_fitted(self)
        return (self._count(check_texts(queries)).astype(np.float32) @ self.weights_.T).toarray()

    def rank(self, queries: Iterable[str], k: int = 10) -> tuple[Array, Array]:
        """The k best texts for each query, best first; of equal scores the earlier text first.

        Returns:
            item numbers int64 (queries, k), scores float32 (queries, k); k at most n.
        """
        check_is_fitted(self)
        expect("k", k, k >= 1, "at least 1")
        listed, k = check_texts(queries), min(k, self.weights_.shape[0])
        items, scores = np.empty((len(listed), k), np.int64), np.empty((len(listed), k), np.float32)
        for begin in range(0, len(listed), BLOCK):
            rows = slice(begin, begin + BLOCK)
            items[rows], scores[rows] = _best(self.score_samples(listed[rows]), k)
        return items, scores

    def _count(self, texts: list[str], *, grow: bool = False) -> sparse.csr_matrix:
        """How often each word of the vocabulary stands in each text; `grow` adds new ones to it."""
        number = self.vocabulary_
        columns: list[int] = []
        ends = [0]
        for text in texts:
            words = split_words(text)
            if grow:
                columns += [number.setdefault(word, len(number)) for word in words]
            else:
                columns += [number[word] for word in words if word in number]
            ends.append(len(columns))
        shape = (len(texts), len(number))
        counts = sparse.csr_matrix((np.ones(len(columns)), columns, ends), shape=shape)
        counts.sum_duplicates()
        return counts


def _best(scores: Array, k: int) -> tuple[Array, Array]:
    """The k largest of each row in falling order; of equals the first, also where only some of them find room."""
    n = scores.shape[1]
    last = np.partition(scores, n - k, axis=1)[:, n - k, None]
    # those above the k-th score, then as many of those equal to it as there is room for, by number
    room = k - (scores > last).sum(1, keepdims=True)
    equal = scores == last
    chosen = (scores > last) | (equal & (np.cumsum(equal, axis=1) <= room))
    items = np.nonzero(chosen)[1].reshape(len(scores), k)
    found = np.take_along_axis(scores, items, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(found, order, axis=1)


@checked("the scores are those of the equation, word by word", tolerance=1e-5)
def scores_are_the_equation() -> tuple[float, float]:
    """The largest deviation of the scores of three small texts from the sum over words as it is written: 0."""
    texts, query = ["a b b c", "b d", "e e e a d d"], "b d d"
    split = [text.split() for text in texts]
    mean = sum(map(len, split)) / len(split)
    expected = np.zeros(len(texts))
    for number, words in enumerate(split):
        for word in query.split():
            held = sum(word in other for other in split)
            idf = np.log(1 + (len(texts) - held + 0.5) / (held + 0.5))
            f = words.count(word)
            expected[number] += idf * f / (f + 1.2 * (1 - 0.75 + 0.75 * len(words) / mean))
    return float(np.abs(BM25().fit(texts).score_samples([query])[0] - expected).max()), 0.0
