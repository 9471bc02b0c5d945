"""Words that tell of the label: pointwise mutual information, and masks drawn by it."""

from __future__ import annotations

import torch
from torch import Tensor

from tacit.errors import expect, unknown
from tacit.views._tokens import FIRST_WORD

HALVES = ("any", "upper", "lower")


def pointwise_mutual_information(
    x: Tensor, y: Tensor, *, n_tokens: int, n_classes: int | None = None, min_count: int = 1
) -> Tensor:
    """How much oftener a word stands in texts of a class than chance would have it:

        PMI(w, c) = log( p(w, c) / (p(w) p(c)) )

    p(w, c) is the share of texts that hold the word w and are of the class c, however often it stands there. Special
    tokens and words in fewer than `min_count` texts tell nothing: 0. A word that is never in a text of the class has
    -infinity.

    Args:
        x: token numbers (n, t).
        y: classes, int64 (n,), from 0; those of the labelled texts, of which alone something can be learned.
        n_tokens: numbers are below it.
        n_classes: None: one more than the largest of y.
        min_count: texts that have to hold a word; PMI favours rare ones, whose counts are chance.

    Returns:
        (n_tokens, n_classes), natural logarithms, float64.

    Raises:
        ArgumentError: no texts, or as many labels as texts are missing.

    >>> x = torch.tensor([[5, 6], [5, 7], [5, 7]])
    >>> pointwise_mutual_information(x, torch.tensor([0, 1, 1]), n_tokens=8)[5:].exp()
    tensor([[1.0000, 1.0000],
            [3.0000, 0.0000],
            [0.0000, 1.5000]], dtype=torch.float64)
    """
    expect("x.shape", tuple(x.shape), x.ndim == 2 and len(x) >= 1, "(n, t), at least one text")
    expect("y.shape", tuple(y.shape), y.shape == x.shape[:1], f"({len(x)},), a label for each text")
    n_classes = int(y.max()) + 1 if n_classes is None else n_classes
    pairs = torch.stack([torch.arange(len(x), device=x.device)[:, None].expand_as(x), x.long()], 2).view(-1, 2)
    text, token = pairs[pairs[:, 1] >= FIRST_WORD].unique(dim=0).unbind(1)  # each word of a text once
    joint = torch.zeros(n_tokens * n_classes, dtype=torch.float64, device=x.device)
    joint += torch.bincount(token * n_classes + y[text], minlength=len(joint))
    joint = joint.view(n_tokens, n_classes)
    words, classes = joint.sum(1, keepdim=True), torch.bincount(y, minlength=n_classes).double()
    found = (joint * len(x) / (words * classes)).log()
    return torch.where(words >= max(min_count, 1), found, 0.0).nan_to_num(nan=0.0, neginf=-torch.inf)


def mask_by_score(x: Tensor, scores: Tensor, *, share: float = 0.15, half: str = "any") -> Tensor:
    """Choose a share of each text's words at random, out of those with the higher or with the lower scores.

    Whatever the half, the same number is chosen: `share` of the text's words, rounded, but at least one; at most half
    of them (rounded up) where a half is asked for. Words of equal score fall into one or the other by chance.

    Args:
        x: token numbers (n, t).
        scores: of each token number, (n_tokens,), such as the largest pointwise mutual information with any class.
        share: of the words, in (0, 1].
        half: `upper`, `lower`, or `any`: out of all words.

    Returns:
        bool (n, t).

    Raises:
        ArgumentError: a share or half that is none.

    >>> x = torch.tensor([[2, 5, 6, 7, 8, 0]])
    >>> mask_by_score(x, torch.arange(9.0), share=0.5, half="upper").int().tolist()
    [[0, 0, 0, 1, 1, 0]]
    """
    expect("share", share, 0 < share <= 1, "a share in (0, 1]")
    if half not in HALVES:
        raise unknown("half", half, HALVES)
    words = x >= FIRST_WORD
    total = words.sum(1, keepdim=True)
    wanted = (share * total).round().clamp_min(1).minimum(total)
    candidates = words
    if half != "any":
        ranked = scores.to(x.device)[x.long()] * (-1 if half == "upper" else 1)
        candidates = words & (_places(ranked.masked_fill(~words, torch.inf)) < (total + 1) // 2)
    return candidates & (_places(torch.where(candidates, 0.0, torch.inf)) < wanted)


def _places(values: Tensor) -> Tensor:
    """The place of each value in its row, from the smallest; equal ones in random order."""
    shuffled = torch.rand(values.shape, device=values.device).argsort(1)
    order = shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, stable=True))
    return order.argsort(1)
