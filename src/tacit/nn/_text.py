"""TextEncoder: token numbers -> embeddings, by a transformer, a BiLSTM, a gated CNN or a bag of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tacit.errors import expect, unknown
from tacit.nn._item_encoder import ItemEncoder
from tacit.nn._tokenizer import KINDS, PAD, Tokenizer, has_tokenizers

TEXT = {
    "text-transformer": "transformer",
    "text-bilstm": "bilstm",
    "text-gated-cnn": "gated-cnn",
    "text-bag": "bag",
}
"""Names of `tacit.nn.encoder` -> bodies."""


class TokenEncoder(ItemEncoder):
    """What encoders of texts share: a tokenizer trained by `fit_prepare`, kept in the buffer `vocabulary`.

    Args:
        tokenizer: words, wordpiece, bpe or characters (see `Tokenizer`), or auto: wordpiece if tokenizers is
            installed, else words.
        vocab_size: most tokens of the vocabulary, the 5 special ones included.
        max_length: tokens of a row that `prepare` makes.
        starts: whether `prepare` puts [CLS] first.
    """

    modality: ClassVar[str] = "text"
    vocabulary: Tensor

    def __init__(self, tokenizer: str, vocab_size: int, max_length: int, *, starts: bool = False) -> None:
        super().__init__()
        if tokenizer not in ("auto", *KINDS):
            raise unknown("tokenizer", tokenizer, ("auto", *KINDS))
        expect("vocab_size", vocab_size, vocab_size >= 6, "at least 6: the 5 special tokens and one more")
        expect("max_length", max_length, max_length >= 2, "at least 2 tokens")
        self.vocab_size, self.max_length, self.starts, self._kind = vocab_size, max_length, starts, tokenizer
        self.register_buffer("vocabulary", torch.zeros(0, dtype=torch.uint8))
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer.

        Raises:
            ArgumentError: none is trained yet.
            MissingExtra: it is one of pieces, and tokenizers is not installed.
        """
        fitted = len(self.vocabulary) > 0
        expect("encoder", self.config["name"], fitted, "one with a vocabulary", "encoder.fit_prepare(texts) trains it")
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.from_bytes(self.vocabulary.cpu().numpy().tobytes())
        return self._tokenizer

    @property
    def num_tokens(self) -> int:
        """Rows of the embedding that stand for a token: at most vocab_size, which it is before `fit_prepare`."""
        return len(self.tokenizer) if len(self.vocabulary) else self.vocab_size

    def fit_prepare(self, items: Sequence[str]) -> Self:
        """Train the tokenizer on these texts.

        Raises:
            ArgumentError: items are no list of texts.
            MissingExtra: the kind asked for needs tokenizers.
        """
        kind = self._kind
        if kind == "auto":
            kind = "wordpiece" if has_tokenizers() and self.vocab_size >= 64 else "words"
        self._tokenizer = Tokenizer.train(items, kind=kind, vocab_size=self.vocab_size)
        written = np.frombuffer(self._tokenizer.to_bytes(), np.uint8).copy()
        self.vocabulary = torch.from_numpy(written).to(self.vocabulary.device)
        return self

    def prepare(self, items: Sequence[str] | Tensor | np.ndarray) -> Tensor:
        """A list of n texts -> token numbers, int32 (n, max_length), on the encoder's device.

        Whole numbers (n, t) with t up to max_length are taken for token numbers, and come back as they are.

        Raises:
            ArgumentError: neither, or no vocabulary is fitted yet.
        """
        if isinstance(items, np.ndarray) and items.dtype.kind in "OU":
            items = items.tolist()
        if not isinstance(items, Tensor | np.ndarray):
            rows = torch.from_numpy(self.tokenizer.encode(items, self.max_length, start=self.starts))
            return rows.to(self.vocabulary.device)
        x = torch.as_tensor(items)
        whole = not (x.is_floating_point() or x.is_complex()) and x.ndim == 2 and x.shape[1] <= self.max_length
        given = (tuple(x.shape), x.dtype)
        expect("items", given, whole, f"texts, or whole numbers (n, up to {self.max_length})", "give a list of texts")
        x = x if x.dtype in (torch.int32, torch.int64) else x.to(torch.int32)
        return x.to(self.vocabulary.device)

    def mask(self, x: Tensor) -> Tensor:
        """Where there is a token: bool (n, t)."""
        return x != PAD

    def trim(self, x: Tensor) -> Tensor:
        """Without the columns after the batch's longest text: (n, t) -> (n, at most t), at least one column."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return x  # a graph has shapes that no data changes
        used = self.mask(x).any(0).nonzero()
        return x[:, : int(used[-1]) + 1 if len(used) else 1]

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *arguments: Any) -> None:
        saved = state_dict.get(f"{prefix}vocabulary")
        if saved is not None:
            self.vocabulary = torch.empty_like(saved, device=self.vocabulary.device)
            self._tokenizer = None
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class TextEncoder(TokenEncoder):
    """Texts, as token numbers (n, max_length), -> embeddings (n, dim).

    | body | a token sees | reference |
    |---|---|---|
    | transformer | every token; [CLS] is put first; learned positions, norm before each part | Vaswani et al., 2017 |
    | bilstm | every token, in two directions of dim / 2 features | Hochreiter and Schmidhuber, 1997 |
    | gated-cnn | 2 tokens more to each side with each layer | Dauphin et al., 2017 |
    | bag | itself; the embedding is the mean of its word vectors | |

    Padding changes nothing: a text has the same embedding in a row of any length, in any batch. A row of padding alone
    has the embedding 0.

    Args:
        body: transformer, bilstm, gated-cnn or bag.
        tokenizer: words, wordpiece, bpe or characters (see `Tokenizer`), or auto: wordpiece if tokenizers is
            installed, else words. `fit_prepare` trains it; the buffer `vocabulary` keeps it beside the weights.
        vocab_size: rows of the embedding, the 5 special tokens included; small data may have fewer tokens.
        max_length: tokens of a row that `prepare` makes, and positions that a transformer knows.
        dim: features of a token and of the embedding; even for bilstm.
        num_layers: blocks, or layers; a bag has none.
        num_heads: attention heads of a transformer, a divisor of dim.
        dropout: share of features zeroed while training, in [0, 1).
        pool: the embedding is the mean over the text's tokens, or cls: the first token, which is then [CLS].
        causal: no token sees a later one: for language models. (bilstm: one direction; bag: the mean so far.)

    Attributes:
        embedding: `nn.Embedding` (vocab_size, dim), whose row 0 is 0.
        starts: whether rows begin with [CLS].

    Raises:
        ArgumentError: unknown words, heads that do not divide the features, or what a body cannot be.

    >>> encoder = TextEncoder("bag", tokenizer="words", max_length=4, dim=8).fit_prepare(["a cat sat", "a dog sat"])
    >>> x = encoder.prepare(["a cat", "the dog sat"])
    >>> x.tolist(), encoder(x).shape
    ([[5, 7, 0, 0], [1, 8, 6, 0]], torch.Size([2, 8]))
    """

    def __init__(
        self,
        body: str = "transformer",
        *,
        tokenizer: str = "auto",
        vocab_size: int = 8000,
        max_length: int = 64,
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
        pool: str = "mean",
        causal: bool = False,
    ) -> None:
        super().__init__(tokenizer, vocab_size, max_length, starts=body == "transformer" or pool == "cls")
        if body not in BODIES:
            raise unknown("body", body, BODIES)
        if pool not in ("mean", "cls"):
            raise unknown("pool", pool, ("mean", "cls"))
        expect("dropout", dropout, 0 <= dropout < 1, "a share in [0, 1)")
        reads_all = body in ("transformer", "bilstm") and not causal
        fits = pool == "mean" or reads_all
        expect("pool", pool, fits, "mean", "[CLS] sees the whole text in a transformer or bilstm that is not causal")
        self.dim, self.pool, self.causal = dim, pool, causal
        self.config: dict[str, Any] = {
            "name": f"text-{body}",
            "tokenizer": tokenizer,
            "vocab_size": vocab_size,
            "max_length": max_length,
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "dropout": dropout,
            "pool": pool,
            "causal": causal,
        }
        self.embedding = nn.Embedding(vocab_size, dim, padding_idx=PAD)
        self.body: Body = BODIES[body](self.config)
        nn.init.normal_(self.embedding.weight, std=0.02 if body == "transformer" else dim**-0.5)
        nn.init.zeros_(self.embedding.weight[PAD])

    def forward(self, x: Tensor) -> Tensor:
        """Token numbers (n, t) -> embeddings (n, dim)."""
        x = self.trim(x)
        return self.pooled(self._states(x, None), x)

    def tokens(self, x: Tensor, embedded: Tensor | None = None) -> Tensor:
        """A vector for each token; those of padding are 0.

        Args:
            x: token numbers (n, t), t up to max_length; no more is computed than the batch's longest text needs.
            embedded: (n, t, dim) in place of `embedding(x)`: for mixtures, prompts, embeddings of another network. x
                then only says where padding is.

        Returns:
            (n, t, dim)
        """
        short = self.trim(x)
        states = self._states(short, None if embedded is None else embedded[:, : short.shape[1]])
        return F.pad(states, (0, 0, 0, x.shape[1] - short.shape[1]))

    def pooled(self, tokens: Tensor, x: Tensor) -> Tensor:
        """The embedding from its tokens: (n, t, dim) and numbers (n, t) -> (n, dim), the mean or the first."""
        if self.pool == "cls":
            return tokens[:, 0]
        mask = self.mask(x)[..., None].to(tokens.dtype)
        return (tokens * mask).sum(1) / mask.sum(1).clamp_min(1)

    def _states(self, x: Tensor, embedded: Tensor | None) -> Tensor:
        t = x.shape[1]
        expect("x.shape", tuple(x.shape), t <= self.max_length, f"(n, up to {self.max_length}) token numbers")
        mask = self.mask(x)
        states = self.body(self.embedding(x) if embedded is None else embedded, mask)
        return states * mask[..., None]


class Body(nn.Module):
    """Embedded tokens (n, t, dim) and where they are, bool (n, t), -> tokens (n, t, dim); those of padding are free."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError


class Transformer(Body):
    """Blocks of x + attention(norm(x)), x + mlp(norm(x)), and a last norm (Xiong et al., 2020)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim, heads = config["dim"], config["num_heads"]
        expect("num_heads", heads, heads >= 1 and dim % heads == 0, f"a divisor of dim={dim}")
        self.causal, self.dropout = config["causal"], nn.Dropout(config["dropout"])
        self.positions = nn.Parameter(torch.randn(config["max_length"], dim) * 0.02)
        self.blocks = nn.ModuleList(TextBlock(dim, heads, config["dropout"]) for _ in range(config["num_layers"]))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.dropout(x + self.positions[: x.shape[1]])
        seen = visible(mask, self.causal)
        for block in self.blocks:
            x = block(x, seen)
        return self.norm(x)


class TextBlock(nn.Module):
    """One block of a transformer: (n, t, dim), and what each token sees, bool (n, 1, t or 1, t), -> (n, t, dim)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, nn.Dropout(dropout)
        self.norm1, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        for linear in (self.qkv, self.out, self.mlp[0], self.mlp[2]):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.dropout(self._attention(self.norm1(x), seen))
        return x + self.dropout(self.mlp(self.norm2(x)))

    def _attention(self, x: Tensor, seen: Tensor) -> Tensor:
        n, t, dim = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        share = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=share)
        return self.out(mixed.transpose(1, 2).reshape(n, t, dim))


def visible(mask: Tensor, causal: bool) -> Tensor:
    """What each token may attend to: bool (n, t) -> (n, 1, 1, t), or (n, 1, t, t) if causal.

    The first place is always seen, padding or not: attention to nothing would be NaN.
    """
    seen = mask | (torch.arange(mask.shape[1], device=mask.device) == 0)
    if not causal:
        return seen[:, None, None]
    return seen[:, None, None] & torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()


class BiLSTM(Body):
    """Two directions of dim / 2 features, the second of which begins at the text's end, not the row's."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim, directions = config["dim"], 1 if config["causal"] else 2
        expect("dim", dim, dim % directions == 0, "an even number, half for each direction")
        between = config["dropout"] if config["num_layers"] > 1 else 0.0
        self.dropout = nn.Dropout(config["dropout"])
        self.lstm = nn.LSTM(
            dim,
            dim // directions,
            config["num_layers"],
            batch_first=True,
            dropout=between,
            bidirectional=directions == 2,
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        lengths = (mask * places).amax(1).clamp_min(1).cpu()
        packed = pack_padded_sequence(self.dropout(x), lengths, batch_first=True, enforce_sorted=False)
        return self.dropout(pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=mask.shape[1])[0])


class GatedCNN(Body):
    """Blocks of x + (norm(x) * W + b) . sigmoid(norm(x) * V + c), * a convolution over 5 tokens (eq. 1).

    The paper's language model sees earlier tokens only, as here with causal; else the window is centred. Its weight
    normalisation gives way to a layer norm.
    """

    width = 5

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim, layers = config["dim"], config["num_layers"]
        self.causal, self.dropout = config["causal"], nn.Dropout(config["dropout"])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, 2 * dim, self.width) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, there = self.dropout(x), mask[..., None].to(x.dtype)
        sides = (self.width - 1, 0) if self.causal else (self.width // 2, self.width // 2)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            padded = F.pad((norm(x) * there).transpose(1, 2), sides)
            x = x + self.dropout(F.glu(convolution(padded), dim=1).transpose(1, 2))
        return self.norm(x)


class Bag(Body):
    """The word vectors as they are; if causal, their mean so far."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.causal, self.dropout = config["causal"], nn.Dropout(config["dropout"])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.dropout(x)
        if not self.causal:
            return x
        there = mask[..., None].to(x.dtype)
        return (x * there).cumsum(1) / there.cumsum(1).clamp_min(1)


BODIES: dict[str, type[Any]] = {"transformer": Transformer, "bilstm": BiLSTM, "gated-cnn": GatedCNN, "bag": Bag}


def text_encoder(name: str, **config: Any) -> TextEncoder:
    """A `TextEncoder` by its name among `TEXT`, with random weights and no vocabulary.

    Raises:
        ArgumentError: an unknown name.

    >>> text_encoder("text-bag", dim=8).config["name"]
    'text-bag'
    """
    if name not in TEXT:
        raise unknown("model", name, TEXT)
    return TextEncoder(TEXT[name], **config)
