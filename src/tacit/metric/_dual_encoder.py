"""DualEncoder: one network for queries and documents, and a loss over their similarities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tacit.errors import expect
from tacit.learner import Learner


class DualEncoder(Learner):
    """Train a text encoder so that a query lies near its own document, by any loss over matched embeddings.

        loss = criterion(encoder(query), encoder(document))

    Args:
        encoder: token numbers (n, t) -> (n, encoder.dim), such as `tacit.nn.TextEncoder`; what the user keeps.
        criterion: (n, d) and (n, d), row i of both a pair -> scalar, such as `tacit.losses.InfoNCE`.

    Column `x` holds pairs (n, 2, t), as `pairs` makes them of two lists of texts; or texts (n, t), whose first half is
    then the query and whose second half the document.

    >>> from tacit.losses import InfoNCE
    >>> from tacit.nn import TextEncoder
    >>> encoder = TextEncoder("bag", tokenizer="words", max_length=4, dim=8).fit_prepare(["a cat sat", "a dog ran"])
    >>> learner = DualEncoder(encoder, InfoNCE())
    >>> x = learner.pairs(["a cat", "a dog"], ["cat sat", "dog ran"])
    >>> x.shape, bool(learner.loss(x) > 0)
    (torch.Size([2, 2, 4]), True)
    """

    def __init__(self, encoder: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.encoder, self.criterion = encoder, criterion

    def pairs(self, queries: Sequence[str], documents: Sequence[str]) -> Tensor:
        """Texts of n queries and of the n documents that answer them -> column `x`, (n, 2, t)."""
        sizes = (len(queries), len(documents))
        expect("queries and documents", sizes, sizes[0] == sizes[1], "as many of one as of the other")
        return torch.stack([self.encoder.prepare(queries), self.encoder.prepare(documents)], dim=1)

    def loss(self, x: Tensor) -> Tensor:
        queries, documents = x.unbind(1) if x.ndim == 3 else halves(x)
        return self.criterion(self.encoder(queries), self.encoder(documents))


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
