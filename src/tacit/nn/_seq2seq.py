"""A small text-to-text transformer in the manner of T5 (Raffel et al., 2020): hidden spans in, the spans out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn._decoder import CrossAttention
from tacit.nn._text import TextBlock, TextEncoder, visible
from tacit.nn._tokenizer import CLS, PAD, SEP
from tacit.nn._vit import initialize_linear

IGNORED = -100
"""Target of a place that costs nothing, as `cross_entropy` has it."""


def corrupt_spans(x: Tensor, chosen: Tensor, first_sentinel: int, n_sentinels: int) -> tuple[Tensor, Tensor]:
    """Hide words, and ask for them: T5's span corruption (section 3.1.4, figure 2).

        x            we met [at] the [old red] mill
        source       we met <0> the <1> mill
        target       <0> at <1> old red <2>

    Neighbours that are chosen are one span. Each span becomes a sentinel of its own, numbered anew in each text; the
    target ends with the next sentinel. Spans past `n_sentinels - 1`, which leaves one to end with, stay as they are.

    Args:
        x: token numbers (n, t), padding (0) at the end of a row.
        chosen: which to hide, bool (n, t); padding is never hidden.
        first_sentinel: number of <0>.
        n_sentinels: how many there are, at least 2.

    Returns:
        Sources (n, t) and targets (n, u), token numbers with padding at the end; u is that of the longest target. A
        text without a chosen word has the target <0>.

    Raises:
        ArgumentError: shapes that differ, or fewer than 2 sentinels.

    >>> x, chosen = torch.tensor([[5, 6, 7, 8, 9, 0]]), torch.tensor([[0, 1, 0, 1, 1, 0]]).bool()
    >>> source, target = corrupt_spans(x, chosen, 100, 4)
    >>> source.tolist(), target.tolist()
    ([[5, 100, 7, 101, 0, 0]], [[100, 6, 101, 8, 9, 102]])
    """
    expect("chosen.shape", tuple(chosen.shape), chosen.shape == x.shape and x.ndim == 2, f"that of x, {tuple(x.shape)}")
    expect("n_sentinels", n_sentinels, n_sentinels >= 2, "at least 2")
    hidden = chosen & (x != PAD)
    starts = hidden & ~F.pad(hidden, (1, 0))[:, :-1]
    span = starts.cumsum(1)  # 1, 2... from each span's first word on
    hidden, starts = hidden & (span < n_sentinels), starts & (span < n_sentinels)
    sentinel = (first_sentinel + span - 1).to(x.dtype)
    source = _close_up(torch.where(starts, sentinel, x), ~hidden | starts)
    # two places for each word: its span's sentinel, where it is the first, and the word; and one for the end
    words = torch.stack([sentinel, x], 2).flatten(1)
    wanted = torch.stack([starts, hidden], 2).flatten(1)
    end = (first_sentinel + starts.sum(1, keepdim=True)).to(x.dtype)
    target = _close_up(torch.cat([words, end], 1), F.pad(wanted, (0, 1), value=True))
    return source, target[:, : int(wanted.sum(1).max()) + 1 if len(x) else 1]


class Seq2Seq(nn.Module):
    """Token numbers in, token numbers out: a text encoder, and a decoder that looks at what it has read.

        log p(target | source) = sum over places of  log softmax(W h + b)[target]

    h is the decoder's vector at a place, which sees the target's earlier tokens and all of the source. Both sides read
    the encoder's word vectors and, beyond its vocabulary, those of the sentinels; W is not tied to them, as in T5 1.1:
    the softmax pushes all words that are not said the same way, after which a tied decoder would hardly tell them
    apart. Norms come before each part and positions are learned, where T5 has relative ones. A target is fed behind
    [CLS]; one that is a text ends with [SEP], one of hidden spans with a sentinel.

    Args:
        encoder: a transformer `TextEncoder`; it stays usable by itself, and its tokenizer is the model's.
        num_layers: blocks of the decoder.
        num_heads: attention heads of the decoder, a divisor of `encoder.dim`.
        dropout: share of features zeroed while training, in [0, 1).
        max_target: tokens of the longest target.
        n_sentinels: tokens that stand for hidden spans, at least 2.

    Attributes:
        first_sentinel: number of the first of them, the encoder's `vocab_size`.

    Raises:
        ArgumentError: heads that do not divide the features, or a number out of range.

    >>> encoder = TextEncoder(tokenizer="words", vocab_size=20, max_length=8, dim=16, num_layers=1, num_heads=2)
    >>> _ = encoder.fit_prepare(["a good day", "a bad day"])
    >>> model = Seq2Seq(encoder, num_layers=1, num_heads=2).eval()
    >>> x = encoder.prepare(["a day"])
    >>> model.score(x, model.targets(["good", "bad"])).shape, model.generate(x, 3).shape
    (torch.Size([1, 2]), torch.Size([1, 3]))
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
        max_target: int = 64,
        n_sentinels: int = 32,
    ) -> None:
        super().__init__()
        dim = encoder.dim
        expect("num_heads", num_heads, num_heads >= 1 and dim % num_heads == 0, f"a divisor of dim={dim}")
        expect("num_layers", num_layers, num_layers >= 1, "at least 1")
        expect("max_target", max_target, max_target >= 2, "at least 2 tokens")
        expect("n_sentinels", n_sentinels, n_sentinels >= 2, "at least 2")
        expect("dropout", dropout, 0 <= dropout < 1, "a share in [0, 1)")
        self.encoder, self.max_target, self.n_sentinels = encoder, max_target, n_sentinels
        self.first_sentinel = encoder.vocab_size
        self.sentinels = nn.Parameter(torch.randn(n_sentinels, dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(max_target, dim) * 0.02)
        self.blocks = nn.ModuleList(_Block(dim, num_heads, dropout) for _ in range(num_layers))
        initialize_linear(self.blocks)  # 0.02, right for 768 features, is so little for 64 that the source is ignored
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.head = nn.Linear(dim, encoder.vocab_size + n_sentinels)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def targets(self, texts: list[str]) -> Tensor:
        """Texts as targets: token numbers (n, max_target), each with [SEP] at its end; longer ones are cut."""
        rows = torch.from_numpy(self.encoder.tokenizer.encode(texts, self.max_target - 1)).long()
        lengths = (rows != PAD).sum(1, keepdim=True)
        return F.pad(rows, (0, 1)).scatter(1, lengths, SEP).to(self.sentinels.device)

    def corrupt(self, x: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """`corrupt_spans` with this model's sentinels; targets longer than `max_target` are cut."""
        source, target = corrupt_spans(x, chosen, self.first_sentinel, self.n_sentinels)
        return source, target[:, : self.max_target]

    def read(self, source: Tensor) -> Tensor:
        """The encoder's vectors, (n, t, dim), of token numbers and sentinels (n, t); those of padding are 0."""
        return self.encoder.tokens(source, self._embedded(source))

    def loss(self, source: Tensor, target: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean cost of a target's token, each told the ones before it.

        Args:
            source: (n, t).
            target: (n, u), padding at the end.
            context: `read(source)`, where it is there already.
        """
        source, target = self.encoder.trim(source), self.encoder.trim(target)
        context = self.read(source) if context is None else context[:, : source.shape[1]]
        logits = self._logits(target, context, source != PAD)
        wanted = target.long().masked_fill(target == PAD, IGNORED)
        return F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED)

    def score(self, source: Tensor, targets: Tensor) -> Tensor:
        """Log probability of each of k targets (k, u) after each source (n, t), summed over its tokens: (n, k)."""
        source, targets = self.encoder.trim(source), self.encoder.trim(targets)
        context, seen, found = self.read(source), source != PAD, []
        for target in targets:
            rows = target[target != PAD].long().expand(len(source), -1)
            log_p = self._logits(rows, context, seen).float().log_softmax(2)
            found.append(log_p.gather(2, rows[..., None]).sum((1, 2)))
        return torch.stack(found, 1)

    @torch.no_grad()
    def generate(self, source: Tensor, max_length: int | None = None) -> Tensor:
        """The likeliest token after each source, again and again: (n, max_length), padding after [SEP]."""
        length = self.max_target if max_length is None else max_length
        expect("max_length", length, 1 <= length <= self.max_target, f"1 to max_target={self.max_target}")
        source = self.encoder.trim(source)
        context, seen = self.read(source), source != PAD
        said = source.new_zeros(len(source), length)
        ended = torch.zeros(len(source), dtype=torch.bool, device=source.device)
        for place in range(length):
            token = self._logits(said[:, : place + 1], context, seen)[:, -1].argmax(1)
            said[:, place] = token.to(said.dtype).masked_fill(ended, PAD)
            ended = ended | (token == SEP)
        return said

    def _embedded(self, x: Tensor) -> Tensor:
        return F.embedding(x, torch.cat([self.encoder.embedding.weight, self.sentinels]), padding_idx=PAD)

    def _logits(self, target: Tensor, context: Tensor, seen: Tensor) -> Tensor:
        """What follows at each place of the target (n, u), of which it sees the earlier ones: (n, u, tokens)."""
        t = target.shape[1]
        expect("target.shape", tuple(target.shape), t <= self.max_target, f"(n, up to {self.max_target})")
        before = torch.cat([torch.full_like(target[:, :1], CLS), target[:, :-1]], 1)
        x = self.dropout(self._embedded(before) + self.positions[:t])
        causal, readable = visible(torch.ones_like(before, dtype=torch.bool), True), visible(seen, False)
        for block in self.blocks:
            x = block(x, causal, context, readable)
        return self.head(self.norm(x))


class _Block(TextBlock):
    """Self-attention, attention to the source, and a network for each token."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(dim, num_heads, dropout)
        self.norm_cross, self.cross = nn.LayerNorm(dim), _MaskedCrossAttention(dim, num_heads)

    def forward(self, x: Tensor, seen: Tensor, context: Tensor, readable: Tensor) -> Tensor:  # type: ignore[override]
        x = x + self.dropout(self._attention(self.norm1(x), seen))
        x = x + self.dropout(self.cross(self.norm_cross(x), context, readable))
        return x + self.dropout(self.mlp(self.norm2(x)))


class _MaskedCrossAttention(CrossAttention):
    """Attention to those tokens of the context that are readable, bool (n, 1, 1, u)."""

    def forward(self, x: Tensor, context: Tensor, readable: Tensor) -> Tensor:  # type: ignore[override]
        n, t, dim = x.shape
        heads = (self.num_heads, dim // self.num_heads)
        q = self.q(x).view(n, t, *heads).transpose(1, 2)
        k, v = self.kv(context).view(n, context.shape[1], 2, *heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=readable)
        return self.out(mixed.transpose(1, 2).reshape(n, t, dim))


def _close_up(x: Tensor, kept: Tensor) -> Tensor:
    """The kept numbers of each row, moved together at its beginning, then padding."""
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
    return (x * kept).gather(1, order)
