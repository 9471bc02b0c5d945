import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

import tacit.training
from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.learner import load_state
from tacit.nn._lsa import LSAEncoder
from tacit.pretrain import LSA
from tacit.pretrain._lsa import nothing_is_lost


def texts(n=200, seed=0):
    """Zipf's words, about eight topics."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(8, size=n)
    return [
        " ".join(f"w{word}" for word in (rng.zipf(1.5, size=rng.integers(1, 40)) + 7 * topic) % 300) for topic in topics
    ]


def fitted(items, **arguments):
    learner = LSA(**{"n_components": 6, "vocab_size": 1000, "max_length": 64, **arguments})
    learner.encoder.fit_prepare(items)
    return tacit.training.fit(learner, Dataset({"x": learner.encoder.prepare(items)}), epochs=1, seed=0)


@pytest.mark.parametrize("sublinear", [False, True])
def test_equals_scikit_learn_up_to_sign(sublinear):
    items = texts()
    learner = fitted(items, sublinear=sublinear)
    vectorizer = TfidfVectorizer(sublinear_tf=sublinear, token_pattern=r"\w+", dtype=np.float64)
    svd = TruncatedSVD(6, algorithm="arpack", random_state=0)
    theirs = svd.fit_transform(vectorizer.fit_transform(items))
    ours = learner.encoder(learner.encoder.prepare(items)).numpy()
    signs = np.sign((ours * theirs).sum(0))
    np.testing.assert_allclose(ours * signs, theirs, atol=2e-4)
    np.testing.assert_allclose(learner.singular_values, svd.singular_values_, rtol=1e-5)
    words = learner.encoder.tokenizer.tokens[5:]
    idf = dict(zip(vectorizer.get_feature_names_out(), vectorizer.idf_, strict=True))
    np.testing.assert_allclose(learner.encoder.idf[5 : 5 + len(words)], [idf[word] for word in words], rtol=1e-5)


def test_unseen_texts_are_as_scikit_learn_transforms_them():
    items, unseen = texts(), [*texts(20, seed=9), "nothing known", ""]
    learner = fitted(items)
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit(items)
    svd = TruncatedSVD(6, algorithm="arpack", random_state=0).fit(vectorizer.transform(items))
    theirs = svd.transform(vectorizer.transform(unseen))
    ours = learner.encoder(learner.encoder.prepare(unseen)).numpy()
    np.testing.assert_allclose(ours * np.sign((ours * theirs).sum(0)), theirs, atol=5e-4)
    assert not ours[-2:].any()


def test_fewer_words_than_components_leave_zeros():
    learner = fitted(["a b", "b c", "c a"], n_components=5)
    z = learner.encoder(learner.encoder.prepare(["a b", "c"]))
    assert z.isfinite().all()
    assert not z[:, 3:].any()
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))


def test_state_rebuilds_it():
    items = texts(50)
    learner = fitted(items)
    again = LSAEncoder(**{name: value for name, value in learner.encoder.config.items() if name != "name"})
    load_state(again, learner.encoder.state_dict())
    torch.testing.assert_close(again(again.prepare(items)), learner.encoder(learner.encoder.prepare(items)))


def test_texts_without_a_word_are_refused():
    with pytest.raises(ArgumentError, match="at least one known word"):
        fitted(["", "..."])


def test_checked_property():
    measured, expected = nothing_is_lost()
    assert abs(measured - expected) < nothing_is_lost.checked.tolerance
