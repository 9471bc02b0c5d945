"""Bootstrap Your Own Latent (Grill et al., 2020)."""

from typing import ClassVar

from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, claim
from tacit.learner import Learner
from tacit.losses import pair_similarity
from tacit.nn import Momentum, mlp
from tacit.views import two_crops


@system("byol", paper="arXiv:2006.07733", modality="image")
class BYOL(Learner):
    """An online network predicts a slow-moving copy of itself across two views, without negatives.

        loss = 2 - 2 cos(predictor(online(a)), target(b)) + the same with a and b swapped, from 0 to 8        (eq. 2)

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> two batches of views; by default the paper's, which blur and solarise the two unlike.
        embed_dim: width of the projection and of its prediction.
        hidden_dim: width of the hidden layers of projector and predictor.
        momentum: decay of the target at the start, in [0, 1]; rises to 1 on a cosine (section 3.2). The authors take
            0.97 for 40 epochs, 0.99 for 100 or 300, 0.996 for 1000.

    Batches hold at least 2 images, for the batch normalisation in the heads.

    >>> import torch
    >>> from tacit.nn import ResNet
    >>> learner = BYOL(ResNet(8, width=8, image_size=16), embed_dim=16, hidden_dim=32)
    >>> 0 <= learner.loss(torch.rand(4, 3, 16, 16)).item() <= 8
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "lars",
            "lr": 3.2,
            "batch_size": 4096,
            "epochs": 1000,
            "weight_decay": 1.5e-6,
            "warmup": 0.01,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "embed_dim": 128,
            "hidden_dim": 512,
            "momentum": 0.98,
        },
        "search": {"momentum": [0.9, 0.95, 0.97, 0.98, 0.99, 0.996]},
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        embed_dim: int = 256,
        hidden_dim: int = 4096,
        momentum: float = 0.996,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = (
            two_crops(encoder.image_size, channels=encoder.in_channels, preset="byol") if views is None else views
        )
        # No last bias, as in the authors' code: the predictor's batch normalisation would cancel it.
        self.projector = mlp(encoder.dim, hidden_dim, embed_dim, last_bias=False)
        self.predictor = mlp(embed_dim, hidden_dim, embed_dim, last_bias=False)
        # Holds copies: no second name for a live module.
        self.target = Momentum(encoder, self.projector, decay=momentum)

    def loss(self, x: Tensor) -> Tensor:
        a, b = self.views(x)
        return self._predict(a, b) + self._predict(b, a)

    def after_step(self, progress: float) -> None:
        self.target.update(self.encoder, self.projector, progress=progress)

    def _predict(self, seen: Tensor, unseen: Tensor) -> Tensor:
        online = self.predictor(self.projector(self.encoder(seen)))
        return 2 - 2 * pair_similarity(online, self.target(unseen)).mean()


TUNED = {"lr": 6.8e-3, "momentum": 0.996}
"""For a few hundred steps; the least forgetful target of those tried did best, with the highest rate."""


@claim(
    "learns without negative pairs, on a par with contrastive learning",
    reported="74.3 % against SimCLR's 69.3 % top-1 (Table 1a)",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels, some steps, in place of ImageNet",
    steps={"small": 300, "full": 20_000},
)
def no_negatives_needed(bench: Bench) -> Comparison:
    """Linear probe on unseen images, equal steps; eight trials on each side (evidence/byol.tune.jsonl)."""
    return bench.compare(
        BYOL,
        baseline="simclr",
        data=bench.images("cifar10", size=16, n=5000, n_test=5000),
        by="linear_probe",
        not_worse_by=0.02,
        system_settings=TUNED,
        baseline_settings={"lr": 4.7e-3, "temperature": 0.1},
    )


@claim(
    "the bootstrap does not collapse, but improves on the random network that it starts from",
    reported="74.3 % top-1 (Table 1a), where a random network gives 1.4 % (section 3)",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels, some steps, in place of ImageNet",
    steps={"small": 300, "full": 20_000},
)
def better_than_random(bench: Bench) -> Comparison:
    """Linear probe on unseen images; a collapsed encoder would end below the untrained one."""
    images = bench.images("cifar10", size=16, n=5000, n_test=5000)
    return bench.compare(
        BYOL, baseline="untrained", data=images, by="linear_probe", better_by=0.0, system_settings=TUNED
    )
