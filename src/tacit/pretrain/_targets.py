"""Targets: what an encoder of texts may be trained on, each behind the same interface."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn import TextEncoder
from tacit.pretrain._mlm import TokenHead, token_loss
from tacit.views import mask_tokens

PAD, SEP, FIRST_WORD = 0, 3, 5
"""Numbers of padding, of the separator, and of the first word."""


def check_encoder(encoder: nn.Module) -> None:
    """Refuse what reads no token numbers."""
    name, remedy = type(encoder).__name__, "such as tacit.nn.encoder('text-transformer')"
    expect("encoder", name, isinstance(encoder, TextEncoder), "a TextEncoder", remedy)


class Target(nn.Module):
    """A head and a loss on top of any encoder of texts.

    The encoder is handed to `loss` and not kept, so that it has one owner. Targets that cut or mask their texts run the
    encoder on what they made.

    Args:
        encoder: what the head has to fit: its `dim` and `vocab_size` are read.
        mask: share of the words that are hidden, in (0, 1].
        n_classes: of the column `y`, at least 2; None where there are no labels.

    Attributes:
        columns: what `loss` is given, by name.
        causal: whether the encoder must not see later tokens.
    """

    columns: ClassVar[tuple[str, ...]] = ("x",)
    causal: ClassVar[bool] = False

    def __init__(self, encoder: TextEncoder, *, mask: float = 0.15, n_classes: int | None = None) -> None:
        super().__init__()

    def loss(self, encoder: TextEncoder, x: Tensor) -> Tensor:
        """Token numbers (n, t), and what other columns it names -> scalar."""
        raise NotImplementedError


class MaskedTokens(Target):
    """mlm: which words were hidden (BERT's first task; `tacit.pretrain.MLM` is this target alone).

    Args:
        replaced, random: as `mask_tokens`'.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        mask: float = 0.15,
        n_classes: int | None = None,
        replaced: float = 0.8,
        random: float = 0.1,
    ) -> None:
        super().__init__(encoder)
        expect("mask", mask, 0 < mask <= 1, "a share in (0, 1]")
        self.mask, self.replaced, self.random = mask, replaced, random
        self.head = TokenHead(encoder.dim, encoder.vocab_size)

    def loss(self, encoder: TextEncoder, x: Tensor) -> Tensor:
        x = encoder.trim(x)
        masked, chosen = mask_tokens(
            x, share=self.mask, vocab_size=encoder.num_tokens, replaced=self.replaced, random=self.random
        )
        hidden = encoder.tokens(masked)[chosen]
        return token_loss(self.head(hidden, encoder.embedding.weight), x[chosen])


class NextToken(Target):
    """lm: which word comes next, from all before it. The first word is asked for only where rows begin with [CLS]."""

    causal: ClassVar[bool] = True

    def __init__(self, encoder: TextEncoder, *, mask: float = 0.15, n_classes: int | None = None) -> None:
        super().__init__(encoder)
        self.head = TokenHead(encoder.dim, encoder.vocab_size)

    def loss(self, encoder: TextEncoder, x: Tensor) -> Tensor:
        x = encoder.trim(x)
        following = x[:, 1:]
        known = following >= FIRST_WORD
        hidden = encoder.tokens(x)[:, :-1][known]
        return token_loss(self.head(hidden, encoder.embedding.weight), following[known])


class TextClass(Target):
    """cls: the class of a text, where it is known: `y == -1` marks a text without."""

    columns: ClassVar[tuple[str, ...]] = ("x", "y")

    def __init__(self, encoder: TextEncoder, *, mask: float = 0.15, n_classes: int | None = None) -> None:
        super().__init__(encoder)
        ok = n_classes is not None and n_classes >= 2
        expect("n_classes", n_classes, ok, "at least 2, for the target cls", "say how many classes y has")
        self.head = _pooled_head(encoder.dim, n_classes or 2)

    def loss(self, encoder: TextEncoder, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        costs = F.cross_entropy(self.head(encoder(x)), y.long(), ignore_index=-1, reduction="sum")
        return costs / (y >= 0).sum().clamp_min(1)


class NextPart(Target):
    """nsp: whether the second part of a text is its own or another's of the batch (BERT's second task, on one text).

    Each text is cut at random in its middle half. Its own second part is shortened to the other's length, too, so that
    the length tells nothing.
    """

    def __init__(self, encoder: TextEncoder, *, mask: float = 0.15, n_classes: int | None = None) -> None:
        super().__init__(encoder)
        self.head = _pooled_head(encoder.dim, 1)

    def loss(self, encoder: TextEncoder, x: Tensor) -> Tensor:
        first, second = cut_in_two(x[:, int(encoder.starts) :])
        other = second.roll(1, dims=0)
        own = torch.rand(len(x), 1, device=x.device) < 0.5
        follows = torch.where(own, second, other) * ((second != PAD) & (other != PAD))
        return self._cost(encoder, x, first, follows, own)

    def _cost(self, encoder: TextEncoder, x: Tensor, first: Tensor, second: Tensor, truth: Tensor) -> Tensor:
        start = x[:, : int(encoder.starts)]
        joined = join(first, second, encoder.max_length - start.shape[1])
        logits = self.head(encoder(torch.cat([start, joined], dim=1)))
        return F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype))


class PartOrder(NextPart):
    """sop: whether the two parts of a text stand in their order or are swapped (Lan et al., 2020)."""

    def loss(self, encoder: TextEncoder, x: Tensor) -> Tensor:
        first, second = cut_in_two(x[:, int(encoder.starts) :])
        ordered = torch.rand(len(x), 1, device=x.device) < 0.5
        ahead, behind = torch.where(ordered, first, second), torch.where(ordered, second, first)
        return self._cost(encoder, x, ahead, behind, ordered)


TARGETS: dict[str, type[Target]] = {
    "mlm": MaskedTokens,
    "lm": NextToken,
    "cls": TextClass,
    "nsp": NextPart,
    "sop": PartOrder,
}


def _pooled_head(dim: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, outputs))


def cut_in_two(x: Tensor) -> tuple[Tensor, Tensor]:
    """Token numbers (n, t) -> those before and those from a random place on, each moved to the row's beginning.

    The place is uniform in the middle half of each text.

    >>> first, second = cut_in_two(torch.tensor([[5, 6, 7, 8, 0]]))
    >>> first[first > 0].tolist() + second[second > 0].tolist()
    [5, 6, 7, 8]
    """
    length = (x != PAD).sum(1, keepdim=True)
    share = 0.25 + 0.5 * torch.rand(len(x), 1, device=x.device)
    cut = (share * length).round().long()
    place = torch.arange(x.shape[1], device=x.device)
    moved = x.gather(1, (place + cut).clamp_max(x.shape[1] - 1))
    return x * (place < cut), moved * (place + cut < length)


def join(first: Tensor, second: Tensor, most: int) -> Tensor:
    """The rows of both, a separator between them: (n, t) each -> (n, at most `most`), cut at its end.

    >>> join(torch.tensor([[5, 6, 0], [7, 0, 0]]), torch.tensor([[8, 0, 0], [9, 9, 0]]), 4).tolist()
    [[5, 6, 3, 8], [7, 3, 9, 9]]
    """
    before = (first != PAD).sum(1, keepdim=True)
    place = torch.arange(min(first.shape[1] + 1 + second.shape[1], most), device=first.device)
    behind = (place - before - 1).expand(len(first), -1)
    padded = F.pad(second, (0, 1))  # a place of padding for all that lies beyond
    ends = second.shape[1]
    after = padded.gather(1, torch.where((behind >= 0) & (behind < ends), behind, ends))
    ahead = F.pad(first, (0, max(len(place) - first.shape[1], 0)))[:, : len(place)]
    return torch.where(place < before, ahead, torch.where(place == before, SEP, after))
