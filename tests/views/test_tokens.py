import pytest
import torch

from tacit.errors import ArgumentError
from tacit.views import crop_tokens, drop_tokens, mask_tokens


def rows(n=400, width=40, seed=0):
    """[CLS], 0 to width - 1 words, a few of them unknown, then padding."""
    torch.manual_seed(seed)
    x = torch.randint(5, 50, (n, width), dtype=torch.int32)
    x[torch.rand(n, width) < 0.1] = 1
    x[:, 0] = 2
    return x * (torch.arange(width) <= torch.arange(n)[:, None] % width)


def test_each_text_has_the_share_chosen_that_was_asked_for():
    x = rows()
    masked, chosen = mask_tokens(x, share=0.15, vocab_size=50)
    words = (x >= 5).sum(1)
    expected = (0.15 * words).round().clamp(min=1).minimum(words)
    assert chosen.sum(1).equal(expected.long())
    assert (x[chosen] >= 5).all()
    assert masked[~chosen].equal(x[~chosen])
    assert masked.dtype == x.dtype


def test_of_the_chosen_80_10_10():
    x = torch.full((200, 100), 7)
    masked, chosen = mask_tokens(x, share=0.5, vocab_size=105)
    fates = masked[chosen]
    n = len(fates)
    assert n == 200 * 50
    assert abs((fates == 4).float().mean() - 0.8) < 4 * (0.16 / n) ** 0.5
    assert abs((fates == 7).float().mean() - 0.101) < 4 * (0.09 / n) ** 0.5  # one random word of a hundred is the same
    random = fates[(fates != 4) & (fates != 7)]
    assert (random.min(), random.max()) == (5, 104)


def test_every_word_is_chosen_equally_often():
    x = rows(1, 8)[:0].new_tensor([[2, 5, 6, 7, 8, 0, 0, 0]]).repeat(4000, 1)
    _, chosen = mask_tokens(x, share=0.5, vocab_size=9)
    assert (chosen.float().mean(0) - torch.tensor([0, 0.5, 0.5, 0.5, 0.5, 0, 0, 0])).abs().max() < 0.04


def test_dropping_keeps_order_and_special_tokens():
    x = rows()
    dropped = drop_tokens(x, 0.3)
    for before, after in zip(x.tolist(), dropped.tolist(), strict=True):
        words, left = [i for i in before[1:] if i], [i for i in after[1:] if i]
        assert after[: 1 + len(left)] == [2, *left]
        assert len(left) == max(len(words) - round(0.3 * len(words)), min(len(words), 1))
        remaining = iter(words)
        assert all(word in remaining for word in left)


def test_dropping_nothing_changes_nothing():
    x = rows()
    assert drop_tokens(x, 0.0).equal(x)
    assert crop_tokens(x, 1.0).equal(x)


@pytest.mark.parametrize("share", [0.3, (0.2, 0.9)])
def test_a_crop_is_a_stretch_of_the_text(share):
    x = rows()
    low, high = share if isinstance(share, tuple) else (share, share)
    for before, after in zip(x.tolist(), crop_tokens(x, share).tolist(), strict=True):
        words, left = [i for i in before[1:] if i], [i for i in after[1:] if i]
        assert after == [2, *left] + [0] * (len(after) - 1 - len(left))
        assert min(len(words), 1) <= len(left) <= len(words)
        assert not words or max(1, low * len(words) - 0.51) <= len(left) <= max(1, high * len(words) + 0.51)
        assert any(words[i : i + len(left)] == left for i in range(len(words) + 1))


def test_crops_begin_everywhere():
    x = torch.arange(5, 15)[None].repeat(3000, 1)
    first = crop_tokens(x, 0.3)[:, 0]
    counts = torch.bincount(first, minlength=15)[5:13] / 3000
    assert (counts - 1 / 8).abs().max() < 0.03


def test_texts_without_words_stay_as_they_are():
    x = torch.tensor([[2, 0, 0], [0, 0, 0]])
    masked, chosen = mask_tokens(x, vocab_size=9)
    assert masked.equal(x)
    assert not chosen.any()
    assert drop_tokens(x, 0.5).equal(x)
    assert crop_tokens(x, 0.5).equal(x)
    assert mask_tokens(x[:0], vocab_size=9)[0].shape == (0, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: mask_tokens(x, share=0, vocab_size=9),
        lambda x: mask_tokens(x, replaced=0.8, random=0.3, vocab_size=9),
        lambda x: drop_tokens(x, 1.0),
        lambda x: crop_tokens(x, 0.0),
        lambda x: crop_tokens(x, (0.9, 0.2)),
    ],
)
def test_shares_outside_their_range_are_refused(call):
    with pytest.raises(ArgumentError, match="share"):
        call(rows(2))
