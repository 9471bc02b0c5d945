"""SimSiam: Exploring Simple Siamese Representation Learning (Chen & He, 2021)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.learner import Learner
from tacit.losses import pair_similarity
from tacit.nn import mlp
from tacit.views import two_crops


@system("simsiam", paper="arXiv:2011.10566", modality="image", level="baseline")
class SimSiam(Learner):
    """One network predicts its own output for the other view; that no gradient flows into the target averts collapse.

        loss = 1/2 D(p1, stopgrad(z2)) + 1/2 D(p2, stopgrad(z1)),  D(p, z) = -cos(p, z), from -1 to 1        (eq. 4)

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> two batches of views; by default the paper's (those of MoCo v2).
        embed_dim: width of the projection and of its prediction; also of the projector's hidden layers.
        hidden_dim: width of the predictor's hidden layer, a bottleneck: a quarter of `embed_dim` in the paper.

    Batches hold at least 2 images, for the batch normalisation in the heads.

    >>> from tacit.nn import ResNet
    >>> learner = SimSiam(ResNet(8, width=8, image_size=16), embed_dim=32, hidden_dim=8)
    >>> -1 <= learner.loss(torch.rand(4, 3, 16, 16)).item() <= 1
    True
    """

    settings: ClassVar = {
        "paper": {"optimizer": "sgd", "lr": 0.1, "batch_size": 512, "epochs": 100, "weight_decay": 1e-4, "warmup": 0.0},
        "small": {
            "optimizer": "adamw",
            "lr": 1e-3,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "embed_dim": 512,
            "hidden_dim": 128,
        },
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        embed_dim: int = 2048,
        hidden_dim: int = 512,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = (
            two_crops(encoder.image_size, channels=encoder.in_channels, preset="moco-v2") if views is None else views
        )
        self.projector = mlp(encoder.dim, embed_dim, embed_dim, num_layers=3, last_norm=True)
        self.predictor = mlp(embed_dim, hidden_dim, embed_dim)

    def loss(self, x: Tensor) -> Tensor:
        z1, z2 = (self.projector(self.encoder(view)) for view in self.views(x))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return (_distance(p1, z2) + _distance(p2, z1)) / 2


def _distance(p: Tensor, z: Tensor) -> Tensor:
    """D(p, stopgrad(z)), eq. 1 and 3."""
    return -pair_similarity(p, z.detach()).mean()


@checked("no gradient flows into the target", tolerance=0.0)
def gradient_of_the_target() -> tuple[float, float]:
    p, z = torch.randn(8, 4, requires_grad=True), torch.randn(8, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(_distance(p, z), z, allow_unused=True)
    return (0.0 if gradient is None else gradient.norm().item()), 0.0
