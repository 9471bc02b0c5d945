"""RotNet: Unsupervised Representation Learning by Predicting Image Rotations (Gidaris et al., 2018)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, claim
from tacit.learner import Learner
from tacit.views import Compose, RandomHorizontalFlip, RandomResizedCrop, rotate


@system("rotnet", paper="arXiv:1803.07728", modality="image")
class RotNet(Learner):
    """A network that tells by how much an image was turned has to know what it shows.

        loss = mean over images, and over k in {0, 1, 2, 3}, of  -log F_k(image turned by k * 90 degrees)    (eq. 2, 3)

    All four turns of every image are in the batch, so the network sees four times its size. The last features serve the
    pretext task most and other tasks less (section 4.1): `layer=` of the encoder keeps those of an inner stage, while
    the loss trains the whole network.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps. Where it has `final` (all its layers,
            whatever `layer` reads), the classifier of turns sits there.
        views: batch -> one batch of square views; by default a mild crop and a flip.

    Batches hold at least 1 image. Images that look alike from all sides (cells, satellite pictures) teach nothing here.

    >>> from tacit.nn import ResNet
    >>> learner = RotNet(ResNet(8, width=8, image_size=16))
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {"optimizer": "sgd", "lr": 0.1, "batch_size": 128, "epochs": 200, "weight_decay": 5e-4, "warmup": 0.0},
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 128,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "layer": "stage2",
        },
    }

    def __init__(self, encoder: nn.Module, *, views: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = mild_crop(encoder.image_size) if views is None else views
        self.classifier = nn.Linear(getattr(encoder, "final_dim", encoder.dim), 4)

    def loss(self, x: Tensor) -> Tensor:
        x = self.views(x)
        turned = torch.cat([rotate(x, k) for k in range(4)])
        turns = torch.arange(4, device=x.device).repeat_interleave(len(x))
        features = getattr(self.encoder, "final", self.encoder)
        return F.cross_entropy(self.classifier(features(turned)), turns)


def mild_crop(image_size: int) -> nn.Module:
    """A crop of at least half the image, and a flip: batch -> one batch of views."""
    return Compose(RandomResizedCrop(image_size, scale=(0.5, 1.0)), RandomHorizontalFlip(0.5))


@claim(
    "telling rotations gives features well above those of a random network",
    reported="91.16 % on CIFAR-10 by a convolutional classifier on the second block, 72.50 % on a random net (Table 3)",
    proxy="a linear probe of a ResNet-8 on 5,000 images, in place of a convolutional one on 50,000",
    steps={"small": 120, "full": 10_000},
)
def better_than_random(bench: Bench) -> Comparison:
    """Linear probe on unseen images, 5 points asked for of the paper's 18."""
    images = bench.images("cifar10", size=32, n=5000, n_test=5000)
    return bench.compare(RotNet, baseline="untrained", data=images, by="linear_probe", better_by=0.05)
