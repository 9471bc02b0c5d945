"""SimCSE: Simple Contrastive Learning of Sentence Embeddings (Gao et al., 2021)."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.errors import expect
from tacit.learner import Learner
from tacit.losses import info_nce
from tacit.nn import TextEncoder


@system("simcse", paper="arXiv:2104.08821", modality="text", level="baseline")
class SimCSE(Learner):
    """A text goes through the encoder twice; all that differs is what dropout zeroes.

        loss = mean over i of  -log( exp(s(h_i, h'_i) / t) / sum over j of exp(s(h_i, h'_j) / t) )        (eq. 4)

    s is the cosine. A dense layer with tanh stands on the embeddings while training only, as the paper has it without
    labels. On several devices the h' come from all of them. The paper starts from BERT: pre-train by `MLM` first, or
    expect less.

    Args:
        encoder: token numbers (n, t) -> (n, encoder.dim), with dropout; what the user keeps.
        temperature: t, above 0.

    Batches hold at least 2 texts.

    Raises:
        ArgumentError: the encoder has no dropout: both views would be the same.

    >>> encoder = TextEncoder(tokenizer="words", vocab_size=50, max_length=8, dim=16, num_layers=1)
    >>> learner = SimCSE(encoder.fit_prepare(["cats purr", "dogs bark"]))
    >>> bool(learner.loss(encoder.prepare(["cats bark", "dogs purr"])) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {"optimizer": "adamw", "lr": 3e-5, "batch_size": 64, "epochs": 1, "weight_decay": 0.0},
        "small": {"optimizer": "adamw", "lr": 2e-3, "batch_size": 128, "weight_decay": 0.01, "warmup": 0.1},
        "search": {"temperature": [0.05, 0.1]},
    }

    def __init__(self, encoder: nn.Module, *, temperature: float = 0.05) -> None:
        super().__init__()
        expect("temperature", temperature, temperature > 0, "a number above 0")
        chance = any(isinstance(module, nn.Dropout) and module.p > 0 for module in encoder.modules())
        expect("encoder", type(encoder).__name__, chance, "a network with dropout, which makes the two views")
        self.encoder = encoder
        self.projector = nn.Sequential(nn.Linear(encoder.dim, encoder.dim), nn.Tanh())
        self.temperature = temperature

    def loss(self, x: Tensor) -> Tensor:
        queries, keys = self.projector(self.encoder(torch.cat([x, x]))).chunk(2)
        return info_nce(queries, keys, self.temperature)


@checked("texts whose embeddings are at right angles cost log(1 + (n - 1) exp(-1 / t))", tolerance=1e-5)
def cost_at_right_angles() -> tuple[float, float]:
    n, t = 8, 0.5
    learner = SimCSE(TextEncoder("bag", tokenizer="words", vocab_size=5 + n, max_length=2, dim=n), temperature=t)
    nn.init.eye_(learner.encoder.embedding.weight[5:].detach())
    nn.init.eye_(learner.projector[0].weight)
    nn.init.zeros_(learner.projector[0].bias)
    learner.eval()
    return learner.loss(torch.arange(5, 5 + n)[:, None]).item(), math.log(1 + (n - 1) * math.exp(-1 / t))
