"""VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning (Bardes et al., 2022)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.learner import Learner
from tacit.nn import gather, mlp
from tacit.views import two_crops


@system("vicreg", paper="arXiv:2105.04906", modality="image", level="baseline")
class VICReg(Learner):
    """Views agree, while each dimension keeps its variance and no two dimensions say the same.

        loss = invariance * s(a, b) + variance * (v(a) + v(b)) + covariance * (c(a) + c(b))        (eq. 6)

    `vicreg_loss` gives the terms.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> two batches of views; by default the paper's (those of BYOL).
        embed_dim: width of the expander's output and of its hidden layers.
        invariance, variance, covariance: weights of the three terms (lambda, mu, nu).

    Batches hold at least 2 images.

    >>> from tacit.nn import ResNet
    >>> learner = VICReg(ResNet(8, width=8, image_size=16), embed_dim=32)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "lars",
            "lr": 1.6,
            "batch_size": 2048,
            "epochs": 1000,
            "weight_decay": 1e-6,
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
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = (
            two_crops(encoder.image_size, channels=encoder.in_channels, preset="byol") if views is None else views
        )
        # No last bias: the loss does not change when all embeddings move by the same amount.
        self.expander = mlp(encoder.dim, embed_dim, embed_dim, num_layers=3, last_bias=False)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def loss(self, x: Tensor) -> Tensor:
        a, b = (gather(self.expander(self.encoder(view))) for view in self.views(x))
        return vicreg_loss(a, b, **self.weights)


def vicreg_loss(
    a: Tensor, b: Tensor, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> Tensor:
    """Eq. 6 of Bardes et al. (2022), from two batches of embeddings (n, d), n at least 2, in float32.

        s(a, b) = mean of (a - b)^2                                    (eq. 5)
        v(z)    = mean over j of max(0, 1 - sqrt(var(z_j) + 1e-4))     (eq. 1 and 2)
        c(z)    = 1/d * sum over i != j of cov(z)_ij^2                 (eq. 3 and 4)

    with the unbiased variance and covariance. Eq. 5 as printed sums over the d dimensions; the paper's algorithm 1 and
    the authors' code take the mean, to which the weights 25, 25, 1 belong, and so do we. Their code also halves the
    variance term, which the paper does not: `variance=12.5` does the same.

    >>> a = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> vicreg_loss(a, a).item()  # varied and uncorrelated
    0.0
    """
    a, b = a.float(), b.float()
    return (
        invariance * F.mse_loss(a, b)
        + variance * (_variance(a) + _variance(b))
        + covariance * (_covariance(a) + _covariance(b))
    )


def _variance(z: Tensor) -> Tensor:
    return F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()


def _covariance(z: Tensor) -> Tensor:
    n, d = z.shape
    z = z - z.mean(0)
    with torch.autocast(z.device.type, enabled=False):
        covariance = z.T @ z / (n - 1)
    off_diagonal = covariance - covariance.diagonal().diag()
    return off_diagonal.square().sum() / d


@checked("embeddings that are all alike cost only the variance term: 2 * 25 * (1 - sqrt(1e-4))", tolerance=1e-4)
def cost_of_collapse() -> tuple[float, float]:
    alike = torch.ones(8, 4)
    return vicreg_loss(alike, alike).item(), 2 * 25 * (1 - 0.01)
