import pytest
import torch

from tacit.errors import ArgumentError
from tacit.losses import InfoNCE, info_nce
from tacit.metric import DualEncoder
from tacit.metric._dual_encoder import halves
from tacit.nn import TextEncoder

TEXTS = ["a cat sat on a mat", "the dog ran off", "rain fell all day", "no"]


def loss_of(learner, data):
    return learner.loss(data["x"][:], data["document"][:])


def encoder(length=8):
    return TextEncoder("bag", tokenizer="words", max_length=length, dim=8, dropout=0.0).fit_prepare(TEXTS)


def test_halves_are_those_of_each_text_alone():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        length = int(torch.randint(1, 9, (), generator=generator))
        tokens = torch.randint(1, 50, (length,), generator=generator).tolist()
        first, second = (half[0][half[0] != 0].tolist() for half in halves(torch.tensor([tokens + [0] * 3])))
        cut = (length + 1) // 2
        assert first == tokens[:cut]
        assert second == (tokens[cut:] or tokens)


def test_an_empty_text_has_empty_halves():
    first, second = halves(torch.zeros(2, 4, dtype=torch.int32))
    assert not first.any()
    assert not second.any()


def test_loss_is_the_criterion_of_both_sides_embeddings():
    learner = DualEncoder(encoder(), InfoNCE(0.2), paired=True)
    assert learner.columns == ("x", "document")
    queries, documents = ["a cat", "the dog", "rain"], ["a mat", "ran off", "all day"]
    embedded = [learner.encoder(learner.encoder.prepare(texts)) for texts in (queries, documents)]
    torch.testing.assert_close(
        loss_of(learner, learner.pairs(queries, documents)), info_nce(*embedded, temperature=0.2)
    )


def test_plain_texts_are_pairs_of_their_halves():
    learner = DualEncoder(encoder(), InfoNCE(0.2))
    x = learner.encoder.prepare(TEXTS[:3])
    pairs = learner.pairs(["a cat sat", "the dog", "rain fell"], ["on a mat", "ran off", "all day"])
    assert learner.columns == ("x",)
    torch.testing.assert_close(learner.loss(x), loss_of(learner, pairs))


def test_pairs_of_unequal_numbers_are_refused():
    with pytest.raises(ArgumentError, match=r"\(2, 1\).*as many"):
        DualEncoder(encoder(), InfoNCE()).pairs(["a", "b"], ["a"])
