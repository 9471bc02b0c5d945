"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction (Zbontar et al., 2021)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.learner import Learner
from tacit.nn import gather, mlp
from tacit.views import two_crops


@system("barlow-twins", paper="arXiv:2103.03230", modality="image", level="baseline")
class BarlowTwins(Learner):
    """The cross-correlation of two views' embeddings is pulled to the identity matrix.

        loss = scale * ( sum over i of (1 - C_ii)^2 + redundancy * sum over i != j of C_ij^2 )        (eq. 1)

    C being the correlation, over the batch, of dimension i of one view with dimension j of the other (eq. 2).

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> two batches of views; by default the paper's (those of BYOL).
        embed_dim: width of the embedding and of the projector's hidden layers.
        redundancy: lambda, the weight of the off-diagonal terms.
        scale: factor on the whole; 1 in the paper. The sum over `embed_dim` terms makes for large gradients under SGD,
            where implementations take 0.024 to 0.1; AdamW and LARS do not notice it.

    Batches hold at least 2 images.

    >>> from tacit.nn import ResNet
    >>> learner = BarlowTwins(ResNet(8, width=8, image_size=16), embed_dim=32)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "lars",
            "lr": 1.6,
            "batch_size": 2048,
            "epochs": 1000,
            "weight_decay": 1.5e-6,
            "warmup": 0.01,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 1e-3,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "embed_dim": 512,
        },
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        embed_dim: int = 8192,
        redundancy: float = 0.0051,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = (
            two_crops(encoder.image_size, channels=encoder.in_channels, preset="byol") if views is None else views
        )
        # No last bias: a correlation does not see it.
        self.projector = mlp(encoder.dim, embed_dim, embed_dim, num_layers=3, last_bias=False)
        self.redundancy, self.scale = redundancy, scale

    def loss(self, x: Tensor) -> Tensor:
        a, b = (gather(self.projector(self.encoder(view))) for view in self.views(x))
        return self.scale * barlow_twins_loss(a, b, self.redundancy)


def barlow_twins_loss(a: Tensor, b: Tensor, redundancy: float = 0.0051) -> Tensor:
    """Eq. 1 of Zbontar et al. (2021), from two batches of embeddings (n, d), n at least 2; at least 0, in float32.

    >>> a = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(barlow_twins_loss(a, 3 * a + 1).item(), 6)  # alike up to scale, dimensions uncorrelated
    0.0
    """
    with torch.autocast(a.device.type, enabled=False):
        correlation = _standardise(a.float()).T @ _standardise(b.float()) / len(a)
    diagonal = correlation.diagonal()
    off_diagonal = correlation - diagonal.diag()
    return (1 - diagonal).square().sum() + redundancy * off_diagonal.square().sum()


def _standardise(z: Tensor) -> Tensor:
    """Each column at mean 0 and variance 1 over the batch; a constant column at 0."""
    return F.batch_norm(z, None, None, training=True)


@checked("dimensions that all say the same cost redundancy * d * (d - 1)", tolerance=1e-3)
def cost_of_redundancy() -> tuple[float, float]:
    d = 8
    same = torch.linspace(-1, 1, 16)[:, None].expand(16, d)
    return barlow_twins_loss(same, same, redundancy=0.0051).item(), 0.0051 * d * (d - 1)
