"""DualEncoder: one network for queries and documents, and a loss over their similarities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tacit.data import Dataset
from tacit.errors import expect
from tacit.learner import Learner


class DualEncoder(Learner):
    """Train a text encoder so that a query lies near its own document, by any loss over matched embeddings.

        loss = criterion(encoder(query), encoder(document))

    Args:
        encoder: token numbers (n, t) -> (n, encoder.dim), such as `tacit.nn.TextEncoder`; what the user keeps.
        criterion: (n, d) and (n, d), row i of both a pair -> scalar, such as `tacit.losses.InfoNCE`.
        paired: whether the data has pairs, the query in column `x` and its document in `document`, as `pairs` makes
            them of two lists of texts. If not, it has texts in `x`: the first half of each is the query, and the second
            half the document.

    >>> from tacit.losses import InfoNCE
    >>> from tacit.nn import TextEncoder
    >>> encoder = TextEncoder("bag", tokenizer="words", max_length=4, dim=8).fit_prepare(["a cat sat", "a dog ran"])
    >>> learner = DualEncoder(encoder, InfoNCE(), paired=True)
    >>> data = learner.pairs(["a cat", "a dog"], ["cat sat", "dog ran"])
    >>> data.names, bool(learner.loss(data["x"][:], data["document"][:]) > 0)
    (('index', 'x', 'document'), True)
    """

    def __init__(self, encoder: nn.Module, criterion: nn.Module, *, paired: bool = False) -> None:
        super().__init__()
        self.encoder, self.criterion, self.paired = encoder, criterion, paired

    @property
    def columns(self) -> tuple[str, ...]:
        return ("x", "document") if self.paired else ("x",)

    def pairs(self, queries: Sequence[str], documents: Sequence[str]) -> Dataset:
        """Texts of n queries, and of the n documents that answer them, as a data set."""
        sizes = (len(queries), len(documents))
        expect("queries and documents", sizes, sizes[0] == sizes[1], "as many of one as of the other")
        sides = {"x": self.encoder.prepare(queries), "document": self.encoder.prepare(documents)}
        return Dataset(sides, modality="text")

    def loss(self, x: Tensor, document: Tensor | None = None) -> Tensor:
        query, document = halves(x) if document is None else (x, document)
        return self.criterion(self.encoder(query), self.encoder(document))


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each text's first and second half, padded to its row's length; of one token, both are that token.

    Args:
        x: token numbers (n, t), 0 after the text's end.

    >>> halves(torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]]))
    (tensor([[5, 6, 0, 0],
            [5, 6, 0, 0]]), tensor([[7, 0, 0, 0],
            [7, 8, 0, 0]]))
    """
    lengths, places = (x != 0).sum(1, keepdim=True), torch.arange(x.shape[1], device=x.device)
    first = x.masked_fill(places >= (lengths + 1) // 2, 0)
    start = torch.minimum((lengths + 1) // 2, (lengths - 1).clamp_min(0))
    later = places + start
    second = x.gather(1, later.clamp_max(x.shape[1] - 1)).masked_fill(later >= lengths, 0)
    return first, second


def word_halves(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """First and second half of each text's words.

    >>> word_halves(["to be or not to be"])
    (['to be or'], ['not to be'])
    """
    words = [text.split() for text in texts]
    cuts = [(len(one) + 1) // 2 for one in words]
    firsts = [" ".join(one[:cut]) for one, cut in zip(words, cuts, strict=True)]
    return firsts, [" ".join(one[cut:]) for one, cut in zip(words, cuts, strict=True)]
