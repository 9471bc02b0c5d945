import math

import pytest
import torch
import torch.nn.functional as F

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.nn import NgramBag, encoder
from tacit.nn._negative_sampling import (
    adagrad_rows,
    cumulative_noise,
    draw_negatives,
    keep_chance,
    negative_sampling_loss,
)
from tacit.pretrain import CBOW, Sent2Vec
from tacit.training import fit

TEXTS = ["a b c d e f", "b a", "c", "", "f e d c b a a a", "d d e zebra f"] * 3


def made(ngram=2, kind=Sent2Vec, **settings):
    bag = NgramBag(ngram=ngram, buckets=40, vocab_size=11, max_length=8, dim=6).fit_prepare(TEXTS)
    torch.nn.init.normal_(bag.embedding.weight)
    torch.nn.init.zeros_(bag.embedding.weight[0])
    learner = kind(bag, **{"subsampling": 1e9, **settings})
    x = bag.prepare(TEXTS)
    learner.before_fit(Dataset({"x": x}))
    torch.nn.init.normal_(learner.output)
    return learner, x


def bag_of(bag, words, leave_out=None):
    """Rows of the words and n-grams of one text, one at a time; without those that hold a place."""
    rows = []
    for i in range(len(words)):
        for order in range(1, bag.ngram + 1):
            places = range(i, i + order)
            if places[-1] < len(words) and leave_out not in places:
                rows.append(row_of(bag, [words[place] for place in places]))
    return rows


def row_of(bag, words):
    if len(words) == 1:
        return words[0]
    hashed = words[0]
    for word in words[1:]:
        hashed = (hashed * 116049371 + word) % 2**64
        hashed -= 2**64 if hashed >= 2**63 else 0
    return (hashed ^ (hashed >> 32)) % bag.buckets + bag.vocab_size


def known(row):
    return [int(word) for word in row if word >= 5]


@pytest.mark.parametrize("ngram", [1, 2, 3])
def test_an_embedding_is_the_mean_of_words_and_ngrams(ngram):
    learner, x = made(ngram)
    bag = learner.encoder
    vectors = bag(x)
    for row, vector in zip(x, vectors, strict=True):
        rows = bag_of(bag, known(row))
        expected = bag.embedding.weight[rows].mean(0) if rows else torch.zeros(6)
        torch.testing.assert_close(vector, expected)
    assert encoder(**bag.config).embedding.weight.shape == bag.embedding.weight.shape


@pytest.mark.parametrize("ngram", [1, 2, 3])
def test_each_target_sees_the_rest_of_its_text(ngram):
    """With every word a target and nothing dropped: its context is the mean of what does not hold it (eq. 6)."""
    learner, x = made(ngram, ngram_dropout=0)
    drawn = learner._draw(x)
    context = learner._context(drawn)
    at = 0
    for row in x:
        words = known(row)
        for place in range(len(words) if len(words) > 1 else 0):
            rows = bag_of(learner.encoder, words, leave_out=place)
            assert int(drawn.targets[at]) == words[place]
            torch.testing.assert_close(context[at], learner.encoder.embedding.weight[rows].mean(0))
            at += 1
    assert at == len(context)


def test_cbow_sees_its_window_and_no_other_text():
    learner, x = made(1, kind=CBOW)
    drawn = learner._draw(x)
    place = 0
    for row in x:
        words = known(row)
        for i, word in enumerate(words):
            if len(words) == 1:
                continue
            assert int(drawn.targets[place]) == word
            near = sorted(int(w) for w in drawn.own[place] if w)
            windows = [sorted(words[max(i - r, 0) : i] + words[i + 1 : i + r + 1]) for r in range(1, 6)]
            assert near in windows
            place += 1
    torch.testing.assert_close(
        learner._context(drawn)[0], learner.encoder.embedding.weight[drawn.own[0][drawn.own[0] > 0]].mean(0)
    )


def test_loss_against_the_equation():
    """Eq. 3, one pair at a time."""
    torch.manual_seed(0)
    inputs, output = torch.randn(40, 5), torch.randn(9, 5)
    targets, negatives = torch.randint(9, (40,)), torch.randint(9, (2, 3))
    found = negative_sampling_loss(inputs, output[targets], output[negatives], targets, negatives)
    total = 0.0
    for i in range(40):
        total += math.log1p(math.exp(-float(output[targets[i]] @ inputs[i])))
        for word in negatives[i // 32].tolist():
            if word != int(targets[i]):
                total += math.log1p(math.exp(float(output[word] @ inputs[i])))
    assert found.item() == pytest.approx(total / 40, rel=1e-5)


@pytest.mark.parametrize(("kind", "ngram"), [(Sent2Vec, 1), (Sent2Vec, 3), (CBOW, 1)])
def test_a_step_is_adagrad_on_the_gradient_of_the_loss(kind, ngram):
    """Rows moved by hand, against autograd's dense gradient of the same draw."""
    learner, x = made(ngram, kind=kind, learning_rate=0.3)
    learner.progress = 0.25
    tables = [learner.encoder.embedding.weight, learner.output]
    before = [table.detach().clone() for table in tables]
    torch.manual_seed(5)
    gradients = torch.autograd.grad(learner.loss(x), tables)
    torch.manual_seed(5)
    told = []
    learner.step(lambda loss, *_: told.append(loss), x)
    torch.manual_seed(5)
    for table, old, gradient, squares in zip(
        tables, before, gradients, [learner.squares, learner.output_squares], strict=True
    ):
        mean_square = gradient.square().mean(1)
        expected = old - 0.3 * 0.75 * gradient / mean_square.sqrt().clamp_min(1e-12)[:, None]
        torch.testing.assert_close(table.detach(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(squares, mean_square, rtol=1e-4, atol=1e-10)
    assert len(told) == 1
    assert tables[0][0].abs().sum() == 0  # padding stays 0


def test_adagrad_rows_sums_equal_rows_and_remembers():
    table, squares = torch.zeros(4, 2), torch.zeros(4)
    rows, source = torch.tensor([2, 0, 2]), torch.tensor([0, 1, 1])
    slopes = torch.tensor([[3.0, 0.0], [1.0, 4.0]])
    for _ in range(2):
        adagrad_rows(table, squares, rows, slopes, 0.1, source)
    summed = torch.tensor([[1.0, 4.0], [0, 0], [4.0, 4.0], [0, 0]])
    mean = summed.square().mean(1, keepdim=True)
    scale = 1 / mean.sqrt().clamp_min(1e-12) + 1 / (2 * mean).sqrt().clamp_min(1e-12)
    torch.testing.assert_close(table, -0.1 * summed * scale)
    torch.testing.assert_close(squares, 2 * mean[:, 0])


def test_chances_of_targets_and_negatives():
    counts = torch.tensor([0.0, 1.0, 4.0, 95.0])
    keep = keep_chance(counts, 0.01)
    expected = [min(math.sqrt(0.01 / f) + 0.01 / f, 1) for f in (0.01, 0.04, 0.95)]
    torch.testing.assert_close(keep[1:], torch.tensor(expected))
    torch.manual_seed(0)
    drawn = draw_negatives(cumulative_noise(counts, 0.5), 32 * 5000, 4).flatten()
    roots = counts.sqrt()
    torch.testing.assert_close(drawn.bincount(minlength=4) / len(drawn), roots / roots.sum(), atol=0.01, rtol=0)


def test_ngrams_are_dropped_as_often_as_said():
    learner, _ = made(2, ngram_dropout=2)
    x = torch.arange(5, 11, dtype=torch.int32).repeat(500, 1)  # 5 bigrams a text
    torch.manual_seed(0)
    bags = learner.encoder.bags(x)
    left = learner._dropped(bags.rows, bags.text)
    assert (left[:, 0] == bags.rows[:, 0]).all()
    assert (left[:, 1] > 0).sum().item() / 500 == pytest.approx(3, abs=0.15)
    learner.ngram_dropout = 100.0
    assert (learner._dropped(bags.rows, bags.text)[:, 1] > 0).sum().item() / 500 == pytest.approx(2.5, abs=0.15)


def test_it_learns_which_words_go_together():
    texts = ["cat dog cow pig", "red blue green grey"] * 40
    bag = NgramBag(ngram=1, vocab_size=20, max_length=4, dim=8).fit_prepare(texts)
    learner = fit(Sent2Vec(bag, subsampling=1e9), bag.prepare(texts), max_steps=40, batch_size=20)
    words = F.normalize(bag(bag.prepare(["cat", "dog", "red", "blue"])), dim=1)
    same, other = words[0] @ words[1], words[0] @ words[2]
    assert same > other + 0.2
    assert learner.output.abs().sum() > 0


def test_odd_batches():
    learner, x = made(2)
    for rows in (x[3:4], x[2:3], x[:0], torch.zeros(2, 8, dtype=torch.int32)):  # empty, one word, none at all
        value = learner.loss(rows)
        assert value.item() == 0
        learner.step(lambda loss: None, rows)
    assert learner.encoder(x[:0]).shape == (0, 6)


def test_what_cannot_be_is_refused():
    bag = NgramBag(ngram=1, vocab_size=11, dim=4)
    for wrong in ({"n_negatives": 0}, {"subsampling": 0}, {"ngram_dropout": -1}, {"learning_rate": 0}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            Sent2Vec(bag, **wrong)
    with pytest.raises(ArgumentError, match="NgramBag"):
        Sent2Vec(torch.nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match="whole numbers"):
        bag(torch.rand(3, 4))
    with pytest.raises(ArgumentError, match="ngram=0"):
        NgramBag(ngram=0)
    with pytest.raises(ArgumentError, match="texts with words"):
        Sent2Vec(bag).before_fit(Dataset({"x": torch.zeros(3, 4, dtype=torch.int32)}))
