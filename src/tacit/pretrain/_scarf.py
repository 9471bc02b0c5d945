"""SCARF: Self-Supervised Contrastive Learning using Random Feature Corruption (Bahri et al., 2022)."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.learner import Learner
from tacit.losses import info_nce
from tacit.nn import mlp
from tacit.views import RowCorruption


@system("scarf", paper="arXiv:2106.15147", modality="table", level="baseline")
class SCARF(Learner):
    """A row finds its corrupted self among the corrupted rows of the batch (algorithm 1).

        x~   = x, with a random share c of its columns given values of other rows       (`tacit.views.RowCorruption`)
        loss = mean over rows i of  -log( exp(s_ii / t) / sum over k of exp(s_ik / t) ),  s_ik = cos(z_i, z~_k)

    where z and z~ are the projections of the rows and of their corrupted versions. (The paper divides the sum by the
    number of rows, a constant.) Values are drawn from the rows of the batch, for those of all the training data.

    Args:
        encoder: rows (n, d) -> (n, encoder.dim), as `tacit.nn.TableMLP`; what the user keeps.
        corruption: c, the share of the columns, in (0, 1].
        embed_dim: width of the projection that the loss sees.
        hidden_dim: width of the projector's hidden layer.
        temperature: t, above 0.

    Batches hold at least 2 rows.

    >>> from tacit.nn import TableMLP
    >>> learner = SCARF(TableMLP(5, hidden_dim=16), hidden_dim=16, embed_dim=8)
    >>> bool(learner.loss(torch.randn(4, 5)) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {"optimizer": "adamw", "lr": 1e-3, "batch_size": 128, "epochs": 1000, "weight_decay": 0.0},
        "small": {
            "model": "table-mlp",
            "optimizer": "adamw",
            "lr": 1e-3,
            "batch_size": 128,
            "weight_decay": 1e-4,
            "warmup": 0.05,
        },
        "search": {"corruption": [0.3, 0.6, 0.8], "temperature": [0.1, 0.5, 1.0]},
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        corruption: float = 0.6,
        embed_dim: int = 256,
        hidden_dim: int = 256,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.corrupt = RowCorruption(corruption)
        self.projector = mlp(encoder.dim, hidden_dim, embed_dim, norm=None)  # type: ignore[arg-type]
        self.temperature = temperature

    def loss(self, x: Tensor) -> Tensor:
        rows, corrupted = (self.projector(self.encoder(view)) for view in (x, self.corrupt(x)))
        return info_nce(rows, corrupted, self.temperature)


@checked("projections that are all alike cost log n, whatever the temperature", tolerance=1e-5)
def chance_level() -> tuple[float, float]:
    n = 8
    alike = torch.ones(n, 4)
    return info_nce(alike, alike, temperature=1.0).item(), math.log(n)
