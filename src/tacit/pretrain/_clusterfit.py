"""ClusterFit: Improving Generalization of Visual Representations (Yan et al., 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.building import build
from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.embedding import embed
from tacit.errors import expect
from tacit.learner import Learner, encoder_of
from tacit.training import fit
from tacit.views import Compose, RandomHorizontalFlip, RandomResizedCrop

if TYPE_CHECKING:
    from tacit.data import Dataset


@system("clusterfit", paper="arXiv:1912.03330", modality="image")
class ClusterFit(Learner):
    """A fresh network learns which cluster of another network's features each image lies in.

        1. cluster   labels = k-means of the features of N_pre, a network trained before, into K clusters
        2. fit       loss = mean over images of  -log p(label | view), from scratch                        (figure 2)

    K clusters keep what many images share in N_pre's features and drop what is peculiar to its pretext task or to its
    noisy tags (section 3). N_pre is needed once, before the first step.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim), with fresh weights; what the user keeps.
        pretrained: N_pre, any encoder: images -> features. None: patch k-means, which is solved in closed form on the
            same images first.
        views: batch -> one batch of views; by default a crop of at least a fifth of the image, and a flip.
        n_clusters: K. The paper takes 2,500 to 35,000 for millions of images; from n images no more than n come out.

    Attributes:
        labels: int64 (n,), the cluster of each item of the data; sized by `before_fit`.

    Batches hold at least 2 images, for the batch normalisation in the encoder.

    >>> from tacit.nn import ResNet
    >>> seen = ResNet(8, width=4, image_size=16)
    >>> learner = ClusterFit(ResNet(8, width=4, image_size=16), seen, n_clusters=3)
    >>> learner.before_fit({"x": torch.rand(12, 3, 16, 16)})
    >>> learner.labels.shape, len(learner.labels.unique())
    (torch.Size([12]), 3)
    """

    labels: Tensor

    settings: ClassVar = {
        "paper": {
            "optimizer": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "batch_size": 256,
            "epochs": 105,
            "weight_decay": 1e-4,
            "warmup": 0.0,
            "n_clusters": 16_000,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 128,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "n_clusters": 100,
        },
    }

    def __init__(
        self,
        encoder: nn.Module,
        pretrained: nn.Module | None = None,
        *,
        views: nn.Module | None = None,
        n_clusters: int = 16_000,
    ) -> None:
        super().__init__()
        expect("n_clusters", n_clusters, n_clusters >= 2, "at least 2 clusters")
        self.encoder = encoder
        # kept out of the modules: it is neither trained nor saved
        self.__dict__["pretrained"] = pretrained
        if views is None:
            views = Compose(RandomResizedCrop(encoder.image_size, scale=(0.2, 1.0)), RandomHorizontalFlip(0.5))
        self.views, self.n_clusters = views, n_clusters
        self.head = nn.Linear(encoder.dim, n_clusters)
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def before_fit(self, data: Dataset) -> None:
        pretrained = patch_kmeans(data) if self.pretrained is None else self.pretrained
        features = torch.from_numpy(embed(pretrained, data, device=self.labels.device))
        self.labels = clusters(features, self.n_clusters).to(self.labels.device)

    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        return F.cross_entropy(self.head(self.encoder(self.views(x))), self.labels[index])


def clusters(features: Tensor, n_clusters: int) -> Tensor:
    """k-means of features scaled to length 1: (n, d) -> int64 (n,). The seed is drawn from torch's generator."""
    from sklearn.cluster import KMeans

    rows = F.normalize(features.float()).cpu().numpy()
    seed = int(torch.randint(2**31, ()))
    found = KMeans(min(n_clusters, len(rows)), n_init=1, random_state=seed).fit_predict(rows)
    return torch.from_numpy(found).long()


def patch_kmeans(data: Dataset) -> nn.Module:
    """The encoder that stands in for N_pre where nobody gives one, solved on at most 4,000 of the images themselves."""
    some = data["x"][torch.randperm(len(data))[:4000].sort().values]
    description = {"image_size": min(some.shape[-1], 32), "channels": some.shape[1]}
    learner = build("patch-kmeans", description, arguments={"n_clusters": 200}, seed=int(torch.randint(2**31, ())))
    return encoder_of(fit(learner, {"x": some}, max_steps=1))


@claim(
    "a fresh network fitted to clusters of a pretext network's features transfers better than that network",
    reported="improves the transfer of self-supervised networks over 11 target sets (abstract)",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels; the probe is on the images' own classes",
    steps={"small": 300},
)
def better_than_the_pretext(bench: Bench) -> Comparison:
    """Linear probe on unseen images; the baseline is RotNet trained twice as long, so that both take as many steps."""
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=5000))

    def sides(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        pretrained = encoder_of(trial.pretrained("rotnet", train))
        fitted = trial.fit(trial.build(ClusterFit, train, pretrained=pretrained), train)
        longer = trial.pretrained("rotnet", train, max_steps=2 * trial.steps)
        return trial.probe(fitted.encoder, train, unseen), trial.probe(encoder_of(longer), train, unseen)

    said = "CIFAR-10 at 16 px; RotNet, then ClusterFit with as many steps; batches of 128"
    return bench.trials(sides, baseline="RotNet with the steps of both", better_by=0.0, setting=said)


@claim(
    "it is the clusters that help, not the second training: plain distillation of the same features does less",
    reported="clustering reduces what is specific to the pretext task in the features (abstract); no number",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels; distillation is regression on the features",
    steps={"small": 300},
)
def better_than_distillation(bench: Bench) -> Comparison:
    """Linear probe on unseen images; the same fresh network, pretext network, views and steps on both sides."""
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=5000))

    def sides(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        pretrained = encoder_of(trial.pretrained("rotnet", train))
        scores = []
        for kind in (ClusterFit, _FeatureRegression):
            learner = trial.fit(trial.build(kind, train, pretrained=pretrained), train)
            scores.append(trial.probe(learner.encoder, train, unseen))
        return scores[0], scores[1]

    said = "CIFAR-10 at 16 px; both from the same RotNet, with as many steps; batches of 128"
    return bench.trials(sides, baseline="regression on the same features", better_by=0.0, setting=said)


class _FeatureRegression(ClusterFit):
    """The same with the features themselves in place of their clusters: cosine distance of a linear layer's answer."""

    system_id = "clusterfit-regression"
    targets: Tensor

    def before_fit(self, data: Dataset) -> None:
        features = torch.from_numpy(embed(self.pretrained, data, device=self.labels.device))
        self.register_buffer("targets", F.normalize(features).to(self.labels.device))
        self.head = nn.Linear(self.encoder.dim, features.shape[1], device=self.labels.device)

    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(self.head(self.encoder(self.views(x))), self.targets[index]).mean()
