"""Masked, dropped and cropped tokens: views of texts, over whole batches of token numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from tacit.errors import expect

FIRST_WORD = 5
"""Lower numbers are padding (0), unknown (1), start (2), separator (3) and mask (4)."""
UNKNOWN, MASK = 1, 4


def words_of(x: Tensor) -> Tensor:
    """Where there is a word (known or not), and no padding, start, separator or mask: bool, shape of x."""
    return (x >= FIRST_WORD) | (x == UNKNOWN)


def mask_tokens(
    x: Tensor, *, share: float = 0.15, vocab_size: int, replaced: float = 0.8, random: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Hide some words of each text, as in BERT (Devlin et al., 2019, section 3.1).

    A share of the words, rounded, but at least one, is chosen in each text. Of these, `replaced` become [MASK],
    `random` a random word, and the others stay; all have to be predicted. Special tokens are never chosen; an unknown
    word is not either, since nobody can tell what it was.

    Args:
        x: token numbers (n, t).
        share: of the words to choose, in (0, 1].
        vocab_size: random words have numbers from 5 up to this one, exclusive.
        replaced: share of the chosen that become [MASK].
        random: share of the chosen that become a random word; replaced + random is at most 1.

    Returns:
        The masked numbers, and which were chosen: bool (n, t).

    Raises:
        ArgumentError: shares outside their range.

    >>> x = torch.tensor([[2, 5, 6, 7, 8, 0], [2, 0, 0, 0, 0, 0]])
    >>> masked, chosen = mask_tokens(x, share=0.5, vocab_size=10, replaced=1.0, random=0.0)
    >>> chosen.sum(1).tolist(), (masked == 4).equal(chosen)
    ([2, 0], True)
    """
    expect("share", share, 0 < share <= 1, "a share in (0, 1]")
    ok = replaced >= 0 and random >= 0 and replaced + random <= 1
    expect("replaced, random", (replaced, random), ok, "shares whose sum is at most 1")
    chosen = _draw(x >= FIRST_WORD, share, at_least=1)
    fate = torch.rand(x.shape, device=x.device)
    words = torch.randint(FIRST_WORD, max(vocab_size, FIRST_WORD + 1), x.shape, device=x.device, dtype=x.dtype)
    masked = torch.where(chosen & (fate < replaced), MASK, x)
    return torch.where(chosen & (fate >= replaced) & (fate < replaced + random), words, masked), chosen


def drop_tokens(x: Tensor, share: float) -> Tensor:
    """Each text without a random share of its words, rounded; the others close up, and padding follows.

    A text keeps at least one word. Special tokens stay.

    Args:
        x: token numbers (n, t).
        share: of the words to drop, in [0, 1).

    Raises:
        ArgumentError: the share is outside its range.

    >>> (drop_tokens(torch.tensor([[2, 5, 6, 7, 8, 0]]), 0.5) > 0).tolist()
    [[True, True, True, False, False, False]]
    """
    expect("share", share, 0 <= share < 1, "a share in [0, 1)")
    words = words_of(x)
    return _close_up(x, (x != 0) & ~_draw(words, share, spare=1))


def crop_tokens(x: Tensor, share: float | tuple[float, float] = 0.5) -> Tensor:
    """A random stretch of neighbouring words of each text, moved to its beginning; special tokens stay.

    Args:
        x: token numbers (n, t).
        share: of the words to keep, in (0, 1]; or the range that it is drawn from, one for each text. At least one is
            kept.

    Raises:
        ArgumentError: the share is outside its range.

    >>> crop_tokens(torch.tensor([[2, 5, 5, 5, 5, 0]]), 0.5).tolist()
    [[2, 5, 5, 0, 0, 0]]
    """
    low, high = share if isinstance(share, tuple) else (share, share)
    expect("share", share, 0 < low <= high <= 1, "a share in (0, 1], or a range of them")
    words = words_of(x)
    total = words.sum(1, keepdim=True)
    chance = torch.rand(2, len(x), 1, device=x.device)
    kept = ((low + (high - low) * chance[0]) * total).round().clamp_min(1).minimum(total)
    first = (chance[1] * (total - kept + 1)).floor().minimum(total - kept)  # rounding may reach the end
    number = words.cumsum(1) - 1
    return _close_up(x, (x != 0) & (~words | ((number >= first) & (number < first + kept))))


def _draw(candidates: Tensor, share: float, *, at_least: int = 0, spare: int = 0) -> Tensor:
    """A random share of each row's candidates: exactly the rounded number, at least and all but so many of them."""
    total = candidates.sum(1, keepdim=True)
    wanted = (share * total).round().clamp_min(at_least).minimum(total - spare)
    order = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, 2).argsort(1).argsort(1)
    return candidates & (order < wanted)


def _close_up(x: Tensor, kept: Tensor) -> Tensor:
    """The kept numbers of each row, moved together at its beginning, then padding."""
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
    return (x * kept).gather(1, order)
