"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., 2020)."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.learner import Learner
from tacit.losses import nt_xent
from tacit.nn import mlp
from tacit.views import two_crops


@system("simclr", paper="arXiv:2002.05709", modality="image", level="baseline")
class SimCLR(Learner):
    """Two views of an image attract each other and are repelled by every other view in the batch.

        loss = mean over the 2n views i of  -log( exp(s_ij / t) / sum over k != i of exp(s_ik / t) )        (eq. 1)

    where j is the other view of the same image and s the cosine of two projections. (The authors' code returns twice
    this mean.) On several devices the negatives come from all of them.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> two batches of views; by default the paper's (crop, flip, colour, blur).
        embed_dim: width of the projection that the loss sees.
        hidden_dim: width of the projector's hidden layer.
        temperature: t, above 0. The paper takes 0.1 on ImageNet and 0.5 on CIFAR-10.

    Batches hold at least 2 images.

    >>> from tacit.nn import ResNet
    >>> learner = SimCLR(ResNet(8, width=8, image_size=16), hidden_dim=32)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "lars",
            "lr": 4.8,
            "batch_size": 4096,
            "epochs": 1000,
            "weight_decay": 1e-6,
            "warmup": 0.01,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "hidden_dim": 512,
            "temperature": 0.2,
        },
        "search": {"temperature": [0.1, 0.2, 0.5]},
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        embed_dim: int = 128,
        hidden_dim: int = 2048,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = two_crops(encoder.image_size, channels=encoder.in_channels) if views is None else views
        self.projector = mlp(encoder.dim, hidden_dim, embed_dim)
        self.temperature = temperature

    def loss(self, x: Tensor) -> Tensor:
        a, b = (self.projector(self.encoder(view)) for view in self.views(x))
        return nt_xent(a, b, self.temperature)


@checked("embeddings that are all alike cost log(2n - 1), whatever the temperature", tolerance=1e-5)
def chance_level() -> tuple[float, float]:
    n = 8
    alike = torch.ones(n, 4)
    return nt_xent(alike, alike, temperature=0.1).item(), math.log(2 * n - 1)
