import bz2
import gzip
import lzma
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator

from tacit.errors import ArgumentError, MissingExtra
from tacit.fewlabels import CompressionKNN, optimistic_accuracy
from tacit.fewlabels._gzip_knn import COPY_FROM, compressor, vote

PEERS = {"gzip": gzip.compress, "bz2": bz2.compress, "lzma": lzma.compress}
COMMON = ["the", "a", "of", "and", "to", "in"]
TOPICS = [
    ["market", "shares", "oil", "bank", "price"],
    ["cup", "match", "goal", "team", "coach"],
    ["chip", "phone", "web", "star", "moon"],
]
WORDS = sum(TOPICS, COMMON)


def texts(n, seed=0, words=30):
    """Sentences of one of three topics, of unequal length."""
    rng = np.random.default_rng(seed)
    topics, out = rng.integers(3, size=n), []
    for topic in topics:
        pool = COMMON + TOPICS[topic]
        out.append(" ".join(rng.choice(pool, rng.integers(3, words))))
    return out, topics


def by_definition(training, asked, compress):
    """Eq. 1, pair by pair, as the paper's code has it."""

    def c(text):
        return len(compress(text.encode()))

    return np.array([[(c(x + " " + y) - min(c(x), c(y))) / max(c(x), c(y)) for y in training] for x in asked])


@pytest.mark.parametrize("name", list(PEERS))
@pytest.mark.parametrize("words", [12, 200])  # below and above the length from which states are copied
def test_neighbours_and_predictions_are_those_of_the_definition(name, words):
    x, y = texts(24, words=words)
    asked, _ = texts(6, seed=1, words=words)
    ncd = by_definition(x, asked, PEERS[name])
    for k in (1, 2, 3):
        knn = CompressionKNN(compressor=name, k=k).fit(x, y)
        distances, numbers = knn.kneighbors(asked)
        expected = np.argsort(ncd, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(numbers, expected)
        np.testing.assert_array_equal(distances, np.take_along_axis(ncd, expected, axis=1))
        answers = []
        for labels in y[expected].tolist():
            most = max(labels.count(label) for label in labels)
            answers.append(next(label for label in labels if labels.count(label) == most))
        assert knn.predict(asked).tolist() == answers


@given(st.binary(max_size=3000), st.lists(st.binary(max_size=700), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_gzip_lengths_of_any_bytes(prefix, rest):
    assert compressor("gzip")(prefix, rest) == [len(gzip.compress(prefix + one)) for one in rest]


@pytest.mark.parametrize("length", [0, 1, 249, 250, 251, 499, 500, 762, 763, 1023, 1024, 1786, 3834, 3835, 40_000])
def test_gzip_lengths_at_the_edges_of_windows_and_blocks(length):
    """Text that repeats itself from as far back as it goes, so that a window a byte too small would show."""
    rng = np.random.default_rng(length)
    sentence = " ".join(rng.choice(WORDS, 4000)).encode()
    half = sentence[: length // 2]
    prefix, rest = half, [half + sentence[: length % 2], rng.bytes(length - len(half))]
    assert compressor("gzip")(prefix, rest) == [len(gzip.compress(prefix + one)) for one in rest]


def test_twelve_bits_and_memory_level_6_give_the_lengths_of_15_and_8_below_4_kb():
    for seed in range(40):
        data = " ".join(texts(60, seed=seed, words=40)[0]).encode()[: 3834 - 60 * seed]
        small = zlib.compressobj(9, zlib.DEFLATED, -12, 6)
        assert len(small.compress(data) + small.flush()) + 18 == len(gzip.compress(data))


@pytest.mark.parametrize("name", ["bz2", "lzma"])
@pytest.mark.parametrize("length", [0, 100, 5000, 70_000, 90_000])
def test_smaller_blocks_and_dictionaries_change_no_length(name, length):
    rng = np.random.default_rng(length)
    texts = " ".join(rng.choice(WORDS, 20_000)).encode()[:length], rng.bytes(length), b"ab" * (length // 2)
    assert compressor(name)(b"a prefix ", texts) == [len(PEERS[name](b"a prefix " + one)) for one in texts]


def test_a_tie_goes_to_the_nearest_or_to_one_of_the_tied_at_random():
    codes = np.array([[0, 1, 1], [2, 0, 1], [1, 2, 2], [0, 0, 1]])
    assert vote(codes).tolist() == [1, 2, 2, 0]
    draws = np.array([vote(codes, np.random.RandomState(seed)) for seed in range(300)])
    assert all(set(draws[:, i]) == {expected} for i, expected in ((0, 1), (2, 2), (3, 0)))
    assert np.bincount(draws[:, 1], minlength=3) / 300 == pytest.approx(1 / 3, abs=0.1)


def test_two_neighbours_with_nearest_are_one_neighbour():
    x, y = texts(30)
    asked, _ = texts(12, seed=2)
    one, two = (CompressionKNN(k=k).fit(x, y).predict(asked) for k in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_the_original_score_is_accuracy_within_the_top_2_and_no_classifiers():
    """Its bug: at a tie it looks at the answer."""
    x, y = texts(40)
    asked, truth = texts(40, seed=3)
    knn = CompressionKNN(k=2).fit(x, y)
    neighbours = y[knn.kneighbors(asked)[1]]
    within_two = np.mean([label in pair for label, pair in zip(truth, neighbours, strict=True)])
    honest = np.mean(knn.predict(asked) == truth)
    assert optimistic_accuracy(truth, neighbours) == pytest.approx(within_two)
    assert optimistic_accuracy(truth, neighbours) >= honest
    assert optimistic_accuracy(["b"], [["a", "a", "b"]]) == 0.0  # no tie: the majority is wrong


def test_probabilities_are_shares_of_votes():
    x, y = texts(30)
    knn = CompressionKNN(k=3).fit(x, y)
    neighbours = y[knn.kneighbors(x[:5])[1]]
    expected = [[np.mean(row == label) for label in knn.classes_] for row in neighbours]
    np.testing.assert_allclose(knn.predict_proba(x[:5]), expected)


def test_jobs_change_nothing():
    x, y = texts(20)
    asked, _ = texts(9, seed=4)
    alone = CompressionKNN(k=3).fit(x, y).kneighbors(asked)
    with parallel_config("threading"):
        shared = CompressionKNN(k=3, n_jobs=2).fit(x, y).kneighbors(asked)
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bytes_and_text_are_the_same_and_odd_text_is_taken():
    x = ["naïve café", "日本語のテキスト", "", "\ud800 alone", "x" * COPY_FROM * 2]
    knn = CompressionKNN(k=1).fit(x, [0, 1, 2, 3, 4])
    assert knn.predict(x).tolist() == [0, 1, 2, 3, 4]
    assert knn.predict([x[0].encode()]).tolist() == [0]


def test_it_is_an_estimator_of_scikit_learn():
    check_estimator(CompressionKNN())  # what is left of it for an estimator of texts
    x, y = texts(30)
    assert clone(CompressionKNN(k=7)).get_params()["k"] == 7
    search = GridSearchCV(CompressionKNN(), {"k": [1, 3]}, cv=3).fit(x, y)
    assert search.best_score_ > 0.6
    assert 0.0 <= search.score(*texts(10, seed=5)) <= 1.0


def test_what_cannot_be_is_refused(monkeypatch):
    x, y = texts(5)
    with pytest.raises(ArgumentError, match=r"compressor='gzipp'.*gzip"):
        CompressionKNN(compressor="gzipp").fit(x, y)
    with pytest.raises(ArgumentError, match="tie_break='optimistic'"):
        CompressionKNN(tie_break="optimistic").fit(x, y)
    with pytest.raises(ArgumentError, match="k=9: expected between 1 and the 5"):
        CompressionKNN(k=9).fit(x, y)
    with pytest.raises(ArgumentError, match=r"X\[1\]=nan"):
        CompressionKNN(k=1).fit(["a", float("nan")], [0, 1])
    with pytest.raises(ArgumentError, match="put a single one in a list"):
        CompressionKNN(k=1).fit(x, y).predict("a text")
    with pytest.raises(ArgumentError, match="at least one text"):
        CompressionKNN(k=1).fit(x, y).predict([])
    with pytest.raises(ValueError, match="inconsistent"):
        CompressionKNN(k=1).fit(x, y[:3])
    with pytest.raises(NotFittedError):
        CompressionKNN().predict(x)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtra, match="zstandard"):
        CompressionKNN(compressor="zstd", k=1).fit(x, y)


def test_zstd_where_it_is_installed():
    zstandard = pytest.importorskip("zstandard")
    x, y = texts(12)
    knn = CompressionKNN(compressor="zstd", k=2).fit(x, y)
    ncd = by_definition(x, x[:4], zstandard.ZstdCompressor(level=3).compress)
    np.testing.assert_array_equal(knn.kneighbors(x[:4])[1], np.argsort(ncd, axis=1, kind="stable")[:, :2])
