"""NgramBag: the mean of the vectors of a text's words and n-grams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn._text import TextEncoder
from tacit.nn._tokenizer import PAD, SPECIALS

FACTOR = 116049371
"""Multiplies the hash of an n-gram before its next word is added; odd, and 27 bits long."""


@dataclass(frozen=True)
class Bags:
    """The words and n-grams of a batch of texts, without padding and unknown words.

    Attributes:
        rows: of the embedding, int64 (words, orders): a word, and the n-grams of 2, 3... words that start with it; 0
            where there is none, since the text ends before it does.
        text: the number of the text that a word stands in, int64 (words,), ascending.
        offsets: where each text begins among the words, int64 (n,).
    """

    rows: Tensor
    text: Tensor
    offsets: Tensor


class NgramBag(TextEncoder):
    """Texts, as numbers of words (n, max_length), -> the mean of the vectors of their words and n-grams.

    A word has a row of its own; an n-gram shares one of `buckets` rows with all that hash alike. Unknown words are
    left out, and so do not part an n-gram. A text without a known word has the embedding 0.

    Args:
        ngram: words of the longest n-gram; 1 for words alone.
        buckets: rows for n-grams; none are made if ngram is 1.
        vocab_size: rows for words, the 5 special tokens included.
        max_length: words of a text that are read.
        dim: features of a vector.

    Attributes:
        embedding: `nn.Embedding` (vocab_size + buckets, dim), whose row 0 is 0; drawn uniformly from +-1 / dim.

    >>> encoder = NgramBag(ngram=2, buckets=50, max_length=4, dim=8).fit_prepare(["a cat sat", "a dog sat"])
    >>> x = encoder.prepare(["a cat", "cat a"])
    >>> a, b = encoder(x)
    >>> bool((a == b).all()), encoder.bags(x).rows[:, 0].tolist()
    (False, [5, 7, 7, 5])
    """

    def __init__(
        self,
        *,
        ngram: int = 2,
        buckets: int = 2**16,
        vocab_size: int = 8000,
        max_length: int = 64,
        dim: int = 100,
    ) -> None:
        expect("ngram", ngram, 1 <= ngram <= 5, "1 to 5 words")
        expect("buckets", buckets, buckets >= 1, "at least 1 row")
        super().__init__("bag", tokenizer="words", vocab_size=vocab_size, max_length=max_length, dim=dim)
        self.ngram, self.buckets = ngram, buckets
        self.config: dict[str, Any] = {
            "name": "sent2vec",
            "ngram": ngram,
            "buckets": buckets,
            "vocab_size": vocab_size,
            "max_length": max_length,
            "dim": dim,
        }
        self.embedding = nn.Embedding(vocab_size + (buckets if ngram > 1 else 0), dim, padding_idx=PAD)
        nn.init.uniform_(self.embedding.weight, -1 / dim, 1 / dim)
        nn.init.zeros_(self.embedding.weight[PAD])

    def forward(self, x: Tensor) -> Tensor:
        """Word numbers (n, t) -> embeddings (n, dim)."""
        bags = self.bags(x)
        starts = bags.offsets * self.ngram
        return F.embedding_bag(bags.rows.flatten(), self.embedding.weight, starts, mode="mean", padding_idx=PAD)

    def bags(self, x: Tensor) -> Bags:
        """What stands in each text: word numbers (n, t) -> rows of the embedding."""
        x = torch.as_tensor(x)
        whole = x.ndim == 2 and not x.is_floating_point()
        expect("x", (tuple(x.shape), x.dtype), whole, "whole numbers (n, t)", "give what encoder.prepare makes")
        known = x >= len(SPECIALS)
        words, lengths = x[known].long(), known.sum(1)
        text = torch.repeat_interleave(torch.arange(len(x), device=x.device), lengths)
        rows, hashed = [words], words
        for order in range(2, self.ngram + 1):
            following, its_text = _ahead(words, order - 1), _ahead(text, order - 1)
            hashed = hashed * FACTOR + following  # overflows, as hashes do
            bucket = (hashed ^ (hashed >> 32)).remainder(self.buckets) + self.vocab_size
            rows.append(torch.where(its_text == text, bucket, PAD))
        return Bags(torch.stack(rows, 1), text, lengths.cumsum(0) - lengths)


def _ahead(values: Tensor, by: int) -> Tensor:
    """Each value's `by`-th follower; -1 past the end."""
    return F.pad(values[by:], (0, min(by, len(values))), value=-1)
