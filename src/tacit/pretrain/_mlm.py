"""BERT's masked language model (Devlin et al., 2019)."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.learner import Learner
from tacit.nn import TextEncoder
from tacit.views import mask_tokens


@system("mlm", paper="arXiv:1810.04805", modality="text", level="baseline")
class MLM(Learner):
    """Words are hidden, and the encoder says which they were from those around them.

        loss = mean over the chosen words of  -log softmax(E g(h) + b)[word]        (section 3.1, task 1)

    h is the encoder's vector at the word's place, g a dense layer with GELU and layer norm, and E the encoder's own
    word vectors (as in the official code). 80 % of the chosen words become [MASK], 10 % a random word, 10 % stay; they
    are drawn anew at each step. Only chosen places pass through the output layer, so memory is that of
    batch x length x 0.15 x vocab_size numbers. BERT's second task (next sentence) is left out, as RoBERTa found right.

    Args:
        encoder: a `tacit.nn.TextEncoder`, or what has its `tokens`, `trim`, `embedding`, `vocab_size` and
            `num_tokens`; what the user keeps.
        share: of the words of each text that are chosen, in (0, 1]; at least one is.
        replaced: share of the chosen that become [MASK].
        random: share of the chosen that become a random word.

    Batches hold at least 1 text. A batch without a word costs 0.

    >>> encoder = TextEncoder(tokenizer="words", vocab_size=50, max_length=8, dim=16, num_layers=1)
    >>> learner = MLM(encoder.fit_prepare(["cats purr", "dogs bark"]))
    >>> bool(learner.loss(encoder.prepare(["cats bark", "dogs purr"])) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 1e-4,
            "batch_size": 256,
            "max_steps": 1_000_000,
            "weight_decay": 0.01,
            "warmup": 0.01,
        },
        "small": {"optimizer": "adamw", "lr": 1e-3, "batch_size": 128, "weight_decay": 0.01, "warmup": 0.1},
        "search": {"share": [0.15, 0.3]},
    }
    smallest_batch: ClassVar[int] = 1

    def __init__(self, encoder: nn.Module, *, share: float = 0.15, replaced: float = 0.8, random: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = TokenHead(encoder.dim, encoder.vocab_size)
        self.share, self.replaced, self.random = share, replaced, random

    def loss(self, x: Tensor) -> Tensor:
        x = self.encoder.trim(x)
        masked, chosen = mask_tokens(
            x, share=self.share, vocab_size=self.encoder.num_tokens, replaced=self.replaced, random=self.random
        )
        hidden = self.encoder.tokens(masked)[chosen]
        return token_loss(self.head(hidden, self.encoder.embedding.weight), x[chosen])


class TokenHead(nn.Module):
    """Vectors (m, dim) and word vectors (vocab_size, dim) -> logits (m, vocab_size): E g(h) + b."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        return F.linear(self.transform(hidden), embedding, self.bias)


def token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of logits (m, vocab_size) with token numbers (m,); 0 where m is 0."""
    return F.cross_entropy(logits, tokens.long(), reduction="sum") / max(len(tokens), 1)


@checked("an encoder whose word vectors are all 0 pays log(vocab_size) a word", tolerance=1e-5)
def cost_of_knowing_nothing() -> tuple[float, float]:
    learner = MLM(TextEncoder("bag", tokenizer="words", vocab_size=20, max_length=6, dim=8))
    nn.init.zeros_(learner.encoder.embedding.weight)
    return learner.loss(torch.randint(5, 20, (4, 6))).item(), math.log(20)
