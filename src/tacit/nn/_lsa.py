"""LSAEncoder: texts by tf-idf, projected (Deerwester et al., 1990)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tacit.nn._text import TokenEncoder
from tacit.nn._tokenizer import SPECIALS


class LSAEncoder(TokenEncoder):
    """Token numbers (n, max_length) -> tf-idf rows of length 1, projected on `directions`: (n, dim).

        weight of word w in text d = tf(d, w) idf(w),    tf: how often it occurs, or 1 + log of that (sublinear)

    As a weighted bag of vectors: nothing of the size n x vocab_size is made. Unknown words count for nothing; a text
    without a known word is the zero vector. `tacit.pretrain.LSA` fits it.

    Args:
        dim: features of an embedding.
        tokenizer: a kind of `Tokenizer`; words needs no extra.
        vocab_size: words that are counted, and the 5 special tokens.
        max_length: words of a text that are read.
        sublinear: 1 + log(tf) instead of tf.

    Attributes:
        idf: (vocab_size,) weight of each word.
        directions: (vocab_size, dim), orthonormal columns once fitted.

    >>> encoder = LSAEncoder(2, vocab_size=9, max_length=4).fit_prepare(["a cat sat", "a dog sat"])
    >>> encoder(encoder.prepare(["a cat"])).tolist()
    [[0.0, 0.0]]
    """

    idf: Tensor
    directions: Tensor

    def __init__(
        self,
        dim: int = 128,
        *,
        tokenizer: str = "words",
        vocab_size: int = 20_000,
        max_length: int = 256,
        sublinear: bool = True,
    ) -> None:
        super().__init__(tokenizer, vocab_size, max_length)
        self.dim, self.sublinear = dim, sublinear
        self.config: dict[str, Any] = {
            "name": "lsa",
            "dim": dim,
            "tokenizer": tokenizer,
            "vocab_size": vocab_size,
            "max_length": max_length,
            "sublinear": sublinear,
        }
        self.register_buffer("idf", torch.ones(vocab_size))
        self.register_buffer("directions", torch.zeros(vocab_size, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Token numbers (n, t) -> embeddings (n, dim), of length up to 1."""
        x, weights = self.weighted(x)
        return torch.nn.functional.embedding_bag(x, self.directions, mode="sum", per_sample_weights=weights)

    def weighted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers of each row, sorted, and weights whose sum over equal numbers is the tf-idf row: (n, t) each."""
        x = self.trim(x).sort(dim=1).values.contiguous()
        counts = torch.searchsorted(x, x, right=True) - torch.searchsorted(x, x)
        frequency = 1 + counts.log() if self.sublinear else counts.to(self.idf.dtype)
        tfidf = frequency * self.idf[x] * (x >= len(SPECIALS))
        norm = (tfidf.square() / counts).sum(1, keepdim=True).sqrt()
        return x, tfidf / counts / norm.clamp_min(torch.finfo(norm.dtype).tiny)
