import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.views import mask_by_score, pointwise_mutual_information


def rows(n=60, width=12, seed=0):
    """[CLS], 1 to width - 1 words out of 20, some repeated, some unknown, then padding."""
    torch.manual_seed(seed)
    x = torch.randint(5, 25, (n, width))
    x[torch.rand(n, width) < 0.1] = 1
    x[:, 0] = 2
    return x * (torch.arange(width) <= 1 + torch.arange(n)[:, None] % (width - 1))


@pytest.mark.parametrize("min_count", [1, 20])
def test_information_against_a_brute_force_count(min_count):
    x, n_classes = rows(), 3
    y = torch.randint(n_classes, (len(x),))
    found = pointwise_mutual_information(x, y, n_tokens=30, n_classes=n_classes, min_count=min_count)
    texts = [set(row) for row in x.tolist()]
    for word in range(30):
        holding = [i for i, text in enumerate(texts) if word in text]
        for c in range(n_classes):
            together = sum(int(y[i]) == c for i in holding)
            if word < 5 or len(holding) < max(min_count, 1):
                expected = 0.0
            elif together == 0:
                expected = -math.inf
            else:
                n = len(texts)
                expected = math.log((together / n) / ((len(holding) / n) * (int((y == c).sum()) / n)))
            assert found[word, c].item() == pytest.approx(expected, abs=1e-12), (word, c)


def test_a_class_without_texts_tells_nothing_wrong():
    x = torch.tensor([[5, 6], [5, 7]])
    found = pointwise_mutual_information(x, torch.tensor([0, 0]), n_tokens=8, n_classes=2)
    assert not found.isnan().any()
    assert found[5:, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("half", ["any", "upper", "lower"])
def test_as_many_are_chosen_in_every_text_and_only_words(half):
    x, scores = rows(400), torch.rand(30)
    chosen = mask_by_score(x, scores, share=0.3, half=half)
    words = (x >= 5).sum(1)
    assert chosen.sum(1).equal((0.3 * words).round().clamp_min(1).minimum(words).long())
    assert (x[chosen] >= 5).all()


@pytest.mark.parametrize(("half", "sign"), [("upper", 1), ("lower", -1)])
def test_the_chosen_are_of_the_half_that_was_asked_for(half, sign):
    x, scores = rows(400, seed=1), torch.rand(30)
    chosen = mask_by_score(x, scores, share=0.3, half=half)
    for row, hit in zip(x.tolist(), chosen.tolist(), strict=True):
        ranked = sorted((sign * float(scores[w]) for w in row if w >= 5), reverse=True)
        allowed = ranked[: (len(ranked) + 1) // 2]
        assert all(sign * float(scores[w]) >= allowed[-1] for w, h in zip(row, hit, strict=True) if h)


def test_within_the_half_and_among_equals_every_word_is_chosen_equally_often():
    x = torch.tensor([[2, 5, 6, 7, 8, 9, 10, 0]]).repeat(6000, 1)
    upper = mask_by_score(x, torch.arange(12.0), share=0.2, half="upper").float().mean(0)
    torch.testing.assert_close(upper, torch.tensor([0, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0]), atol=0.03, rtol=0)
    level = mask_by_score(x, torch.zeros(12), share=0.2, half="lower").float().mean(0)
    torch.testing.assert_close(level, torch.tensor([0, *[1 / 6] * 6, 0]), atol=0.03, rtol=0)


def test_wrong_words_are_named():
    with pytest.raises(ArgumentError, match="half"):
        mask_by_score(rows(), torch.rand(30), half="best")
    with pytest.raises(ArgumentError, match=r"y\.shape"):
        pointwise_mutual_information(rows(), torch.zeros(3, dtype=torch.int64), n_tokens=30)
