import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tacit.errors import ArgumentError
from tacit.pretrain import PVDBOW

WORDS = {0: "cat dog cow pig hen".split(), 1: "red blue green grey black".split()}  # noqa: SIM905


def corpus(n, seed=0, length=12):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return [" ".join(rng.choice(WORDS[int(label)], length)) for label in y], y


def cosines(a, b):
    a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (a, b))
    return a @ b.T


@pytest.fixture(scope="module")
def fitted():
    texts, y = corpus(80)
    settings = {"dim": 8, "epochs": 20, "window": 3, "batch_size": 200, "subsampling": 1e9}
    return PVDBOW(**settings, random_state=0).fit(texts), texts, y


def test_documents_lie_near_the_words_that_they_hold(fitted):
    """What Lbl2Vec needs: both in one space."""
    model, _, y = fitted
    topics = np.stack(
        [model.word_vectors_[[model.vocabulary_[word] for word in words]].mean(0) for words in WORDS.values()]
    )
    assert (cosines(model.document_vectors_, topics).argmax(1) == y).mean() > 0.95


def test_new_documents_get_vectors_beside_those_of_old_ones(fitted):
    model, _, y = fitted
    texts, new_y = corpus(40, seed=1)
    probe = LogisticRegression().fit(model.document_vectors_, y)
    before = model.word_vectors_.copy(), model.output_.copy()
    vectors = model.transform(texts)
    assert probe.score(vectors, new_y) > 0.95
    np.testing.assert_array_equal(vectors, model.transform(texts))
    np.testing.assert_array_equal(before[0], model.word_vectors_)
    np.testing.assert_array_equal(before[1], model.output_)


def test_the_same_seed_gives_the_same_and_the_callers_chance_is_kept():
    texts, _ = corpus(10)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    a, b = (PVDBOW(dim=4, epochs=2, random_state=1).fit_transform(texts) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert torch.equal(torch.rand(2), expected)
    assert not np.array_equal(a, PVDBOW(dim=4, epochs=2, random_state=2).fit_transform(texts))


def test_pairs_are_of_the_document_and_of_words_in_its_window():
    model = PVDBOW(dim=2, epochs=1, window=2, n_contexts=3, min_count=1, subsampling=1e9, random_state=0)
    texts = ["a b c d e f", "g h", "i"]
    model.fit(texts)
    corpus = model._corpus(texts)
    found = set()
    for _ in range(200):
        rows, targets = model._pairs(corpus, torch.arange(len(corpus.words)), contexts=True)
        found |= set(zip(rows.tolist(), targets.tolist(), strict=True))
    number = model.vocabulary_
    expected = set()
    for document, text in enumerate(texts):
        words = [number[word] for word in text.split()]
        expected |= {(document, word) for word in words}
        expected |= {
            (3 + words[j], words[i]) for i in range(len(words)) for j in range(len(words)) if 0 < abs(i - j) <= 2
        }
    assert found == expected


def test_subsampling_keeps_words_as_often_as_said():
    model = PVDBOW(dim=2, epochs=1, min_count=1, n_contexts=0, subsampling=0.05, random_state=0)
    texts = ["a " * 90 + "b " * 10] * 100
    corpus = model.fit(texts)._corpus(texts)
    torch.manual_seed(0)
    _, targets = model._pairs(corpus, torch.arange(len(corpus.words)), contexts=False)
    kept = targets.bincount() / corpus.words.bincount()
    expected = [np.sqrt(0.05 / f) + 0.05 / f for f in (0.9, 0.1)]
    np.testing.assert_allclose(kept, np.minimum(expected, 1), atol=0.02)


def test_texts_without_a_known_word_are_near_nothing(fitted):
    model = fitted[0]
    assert np.abs(model.transform(["", "zebra"])).max() <= 0.5 / model.dim


def test_what_cannot_be_is_refused():
    for wrong in ({"dim": 0}, {"window": 0}, {"subsampling": 0}, {"n_contexts": -1}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            PVDBOW(**wrong).fit(["a a"])
    with pytest.raises(ArgumentError, match="min_count=2"):
        PVDBOW().fit(["a b c"])
    with pytest.raises(ArgumentError, match="a list of texts"):
        PVDBOW().fit("a a a")


def test_no_text_has_no_vector(fitted):
    assert fitted[0].transform([]).shape == (0, 8)
