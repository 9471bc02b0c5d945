import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor

from tacit.cluster import Lbl2Vec
from tacit.errors import ArgumentError
from tacit.pretrain import PVDBOW

KEYWORDS = {"a": ["up", "north"], "b": ["right"], "c": ["down"]}
WORDS = {"up": [0, 1], "north": [0.2, 2], "right": [1, 0], "down": [0, -1]}


def drawn(n=60, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.array([[0, 1], [1, 0], [0, -1]], float)
    y = rng.integers(0, 3, n)
    return centres[y] * rng.uniform(0.5, 2, (n, 1)) + rng.normal(size=(n, 2)) / 4, y


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def slow(vectors, keywords, words, threshold, least, most, clean, n_neighbors=20):
    """The paper's steps, a document at a time."""
    labels = []
    for listed in keywords.values():
        query = sum(np.array(words[word], float) for word in listed) / len(listed)
        ranked = sorted(range(len(vectors)), key=lambda i: -cosine(vectors[i], query))
        chosen = [i for i in ranked if cosine(vectors[i], query) > threshold]
        chosen = ranked[:least] if len(chosen) < least else chosen
        chosen = chosen if most is None else chosen[:most]
        if clean:
            inside = LocalOutlierFactor(n_neighbors=min(n_neighbors, len(chosen) - 1)).fit_predict(vectors[chosen])
            chosen = [i for i, verdict in zip(chosen, inside, strict=True) if verdict == 1]
        labels.append(sum(vectors[i] for i in chosen) / len(chosen))
    return np.array(labels)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize(
    ("threshold", "least", "most"), [(0.4, 1, None), (0.999, 9, None), (0.0, 5, 12), (0.9, 500, None)]
)
def test_against_the_papers_steps_one_by_one(threshold, least, most, clean):
    vectors, _ = drawn()
    model = Lbl2Vec(
        keywords=KEYWORDS, similarity_threshold=threshold, min_docs=least, max_docs=most, clean_outliers=clean
    ).fit(vectors, word_vectors=WORDS)
    expected = slow(vectors, KEYWORDS, WORDS, threshold, least, most, clean)
    np.testing.assert_allclose(model.label_vectors_, expected)
    found = model.decision_function(vectors[:5])
    np.testing.assert_allclose(found, [[cosine(v, label) for label in expected] for v in vectors[:5]])
    assert model.predict(vectors[:5]).tolist() == [list(KEYWORDS)[i] for i in found.argmax(1)]
    softmax = np.exp(20 * found) / np.exp(20 * found).sum(1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(vectors[:5]), softmax)


def test_an_outlier_is_left_out_of_the_mean():
    vectors = np.r_[np.tile([[1.0, 0.0]], (30, 1)) + np.random.default_rng(0).normal(size=(30, 2)) / 50, [[40.0, 1.0]]]
    words = {"right": [1, 0]}
    with_it, without = (
        Lbl2Vec(keywords={"b": ["right"]}, clean_outliers=clean).fit(vectors, word_vectors=words)
        for clean in (False, True)
    )
    assert 30 in with_it.document_indices_["b"]
    assert 30 not in without.document_indices_["b"]


def test_texts_are_sorted_by_their_own_embedding():
    rng = np.random.default_rng(0)
    words = [["cat", "dog", "cow", "pig", "hen"], ["red", "blue", "green", "grey", "black"]]
    y = rng.integers(0, 2, 80)
    texts = [" ".join(rng.choice(words[label], 12)) for label in y]
    embedding = PVDBOW(dim=8, epochs=20, window=3, batch_size=200, subsampling=1e9, random_state=0)
    model = Lbl2Vec(keywords={"animals": ["cat", "cow"], "colours": ["red"]}, min_docs=10, embedding=embedding)
    names = np.array(["animals", "colours"])
    assert (model.fit_predict(texts) == names[y]).mean() > 0.95
    assert (model.predict(texts[:20]) == names[y[:20]]).mean() > 0.9  # inferred anew
    assert not hasattr(embedding, "vocabulary_")


def test_unknown_keywords_are_said_and_left_out():
    vectors, _ = drawn()
    with pytest.warns(UserWarning, match="sideways"):
        model = Lbl2Vec(keywords={"a": ["up", "sideways"]}).fit(vectors, word_vectors=WORDS)
    np.testing.assert_allclose(model.keyword_vectors_, [WORDS["up"]])


def test_what_cannot_be_is_refused():
    vectors, _ = drawn()
    for wrong in ({"keywords": None}, {"keywords": {}}, {"keywords": {"a": "up"}}, {"keywords": {"a": []}}):
        with pytest.raises(ArgumentError, match="list of keywords"):
            Lbl2Vec(**wrong).fit(vectors, word_vectors=WORDS)
    for wrong in ({"min_docs": 0}, {"max_docs": 3}, {"n_neighbors": 0}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            Lbl2Vec(keywords=KEYWORDS, **wrong).fit(vectors, word_vectors=WORDS)
    with pytest.raises(ArgumentError, match="sideways"):
        Lbl2Vec(keywords={"a": ["sideways"]}).fit(vectors, word_vectors=WORDS)
    with pytest.raises(ArgumentError, match="finite"):
        Lbl2Vec(keywords=KEYWORDS).fit(np.full((3, 2), np.nan), word_vectors=WORDS)
    fitted = Lbl2Vec(keywords=KEYWORDS).fit(vectors, word_vectors=WORDS)
    with pytest.raises(ArgumentError, match="as were given to fit"):
        fitted.predict(["a text"])
