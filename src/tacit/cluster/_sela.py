"""SeLa: Self-labelling via simultaneous clustering and representation learning (Asano et al., 2020)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, claim
from tacit.embedding import encode, evaluating
from tacit.errors import expect
from tacit.learner import Learner
from tacit.nn import gather, rank, sinkhorn, world_size
from tacit.views import two_crops

if TYPE_CHECKING:
    from tacit.data import Dataset


@system("sela", paper="arXiv:1911.05371", modality="image")
class SeLa(Learner):
    """A network learns labels that it gives itself, where every label has to be given equally often.

        loss     = mean over items and heads of  -log p(label | view of the item)
        labels   = argmax over y of Q_iy,   Q = argmin <Q, -log P> - (1 / lambda) H(Q)
                   over Q >= 0 whose rows (items) and whose columns (labels) have equal sums

    Both steps lower the same objective. Without the equal sums it is least where all items bear one label; with them
    the second step is optimal transport, solved by Sinkhorn's algorithm on P^lambda (section 3.1). Several heads with
    labels of their own share the encoder.

    Labels are made anew at M times, the i-th (i / (M - 1))^2 of the way through the training, and at most once an
    epoch: here before the first epoch that begins at or after a time, at once for all times that have passed since. The
    first time is the start, so that the first labels that are learned are those of the untrained network. In a loop of
    your own, keep `progress` up.

    Where the authors' code differs: it labels augmented images in train mode, and these are plain ones in eval mode; on
    CIFAR it relabels the heads in turns, one an epoch, with lambda = 10.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> augmented batch; by default one crop of MoCo v2's recipe, as in the authors' later models.
        n_clusters: labels of each head. The paper takes 128 on CIFAR and 3000 on ImageNet.
        n_heads: clusterings learned together.
        epsilon: 1 / lambda, the weight of the entropy, above 0; with less of it labels come in more equal numbers, and
            take longer to find.
        n_relabellings: M, at least 1.

    Attributes:
        labels: int64 (n_heads, n), the label of each item of the data by each head; sized by `before_fit`.
        labels_: int64 (n,), those of the first head: the clustering.

    Batches hold at least 2 images, for the batch normalisation in the encoder.

    >>> from tacit.nn import ResNet
    >>> from tacit.training import fit
    >>> learner = SeLa(ResNet(8, width=4, image_size=8), n_clusters=4, n_heads=2)
    >>> fit(learner, torch.rand(12, 3, 8, 8), max_steps=2, batch_size=6).labels.shape
    torch.Size([2, 12])
    """

    labels: Tensor
    times_passed: Tensor

    settings: ClassVar = {
        "paper": {
            "optimizer": "sgd",
            "lr": 0.05,
            "momentum": 0.9,
            "batch_size": 256,
            "epochs": 400,
            "weight_decay": 1e-5,
            "warmup": 0.0,
            "n_clusters": 3000,
            "n_heads": 10,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 5e-3,
            "batch_size": 128,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "n_clusters": 64,
            "n_heads": 4,
        },
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        n_clusters: int = 128,
        n_heads: int = 10,
        epsilon: float = 0.04,
        n_relabellings: int = 100,
    ) -> None:
        super().__init__()
        expect("n_clusters", n_clusters, n_clusters >= 2, "at least 2")
        expect("n_heads", n_heads, n_heads >= 1, "at least 1")
        expect("epsilon", epsilon, epsilon > 0, "a number above 0")
        expect("n_relabellings", n_relabellings, n_relabellings >= 1, "at least 1")
        if views is None:
            views = two_crops(encoder.image_size, channels=encoder.in_channels, preset="moco-v2").views[0]
        self.encoder, self.views = encoder, views
        self.heads = nn.ModuleList(nn.Linear(encoder.dim, n_clusters) for _ in range(n_heads))
        self.n_clusters, self.epsilon, self.n_relabellings = n_clusters, epsilon, n_relabellings
        self.register_buffer("labels", torch.zeros(n_heads, 0, dtype=torch.int64))
        self.register_buffer("times_passed", torch.zeros((), dtype=torch.int64))

    def before_fit(self, data: Dataset) -> None:
        """Random labels in equal numbers, which hold until the first `before_epoch`."""
        orders = [torch.randperm(len(data), device=self.labels.device) for _ in self.heads]
        self.labels = torch.stack(orders) % self.n_clusters
        self.times_passed.zero_()

    def before_epoch(self, data: Dataset) -> None:
        passed = 1 + math.floor(math.sqrt(self.progress) * (self.n_relabellings - 1))
        if passed > self.times_passed:
            self.relabel(data)
            self.times_passed.fill_(passed)

    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        features = self.encoder(self.views(x))
        losses = [
            F.cross_entropy(head(features), labels[index]) for head, labels in zip(self.heads, self.labels, strict=True)
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def relabel(self, data: Dataset) -> None:
        """New labels for all items from the present network; each process labels its share of them."""
        mine = torch.arange(rank(), len(data), world_size())
        with evaluating(self):
            chunks = data.select(mine).chunks("x", 512)
            features = torch.cat([encode(self.encoder, x.to(self.labels.device)) for x in chunks])
            assigned = torch.stack([self.assign(features, head) for head in self.heads])
        labels = torch.zeros_like(self.labels).index_copy(1, mine.to(assigned.device), assigned)
        self.labels = gather(labels[None]).sum(0)

    def assign(self, features: Tensor, head: nn.Module) -> Tensor:
        """Labels of one head: (n, encoder.dim) -> int64 (n,), in about equal numbers."""
        log_p = head(features).log_softmax(dim=1)
        return sinkhorn(log_p, epsilon=self.epsilon, tolerance=0.01).argmax(dim=1)

    @property
    def labels_(self) -> Tensor:
        return self.labels[0]


class _LikeliestLabels(SeLa):
    """Self-labelling without the equal sums: the degenerate problem."""

    system_id = "sela-argmax"

    def assign(self, features: Tensor, head: nn.Module) -> Tensor:
        return head(features).argmax(dim=1)


class _KMeansLabels(SeLa):
    """DeepCluster's labels (Caron et al., 2018): k-means of whitened features, and a new head, for the order is new."""

    system_id = "sela-kmeans"

    def assign(self, features: Tensor, head: nn.Module) -> Tensor:
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA

        head.reset_parameters()
        white = F.normalize(torch.from_numpy(PCA(whiten=True).fit_transform(features.cpu().numpy())))
        seed = int(torch.randint(2**31, ()))
        clusters = KMeans(self.n_clusters, n_init=1, random_state=seed).fit_predict(white.numpy())
        return torch.from_numpy(clusters).to(features.device, torch.int64)


@claim(
    "learns features that a random network does not have",
    reported="ImageNet linear probe of a ResNet-50 with 10 x 3000 labels: 61.5 % (the authors' README)",
    proxy="a ResNet-8 on 4,000 images of CIFAR-10 at 16 pixels, in place of ImageNet",
    steps={"small": 400},
)
def better_than_random(bench: Bench) -> Comparison:
    """Linear probe on unseen images."""
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=4000, full=10_000))
    return bench.compare(SeLa, baseline="untrained", data=images, by="linear_probe", better_by=0.0)


@claim(
    "labels of equal frequency are what keeps self-labelling from its degenerate solution",
    reported="without the constraint the objective is least where all items bear one label (section 3.1); no number",
    proxy="a ResNet-8 on 4,000 images of CIFAR-10 at 16 pixels, in place of ImageNet",
    steps={"small": 400},
)
def equal_sizes_prevent_collapse(bench: Bench) -> Comparison:
    """Linear probe on unseen images, against the likeliest label for each item, everything else alike."""
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=4000, full=10_000))
    return bench.compare(SeLa, baseline=_LikeliestLabels, data=images, by="linear_probe", better_by=0.0)


@claim(
    "optimal transport makes better labels to learn from than DeepCluster's k-means",
    reported="'significantly outperforms DeepCluster in standard benchmarks' (abstract, first version)",
    proxy="a ResNet-8 on 4,000 images of CIFAR-10 at 16 pixels, in place of ImageNet",
    steps={"small": 400},
)
def better_than_kmeans(bench: Bench) -> Comparison:
    """Linear probe on unseen images, against labels by k-means of whitened features, everything else alike.

    DeepCluster also draws its batches evenly over the clusters; that is left out.
    """
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=4000, full=10_000))
    return bench.compare(SeLa, baseline=_KMeansLabels, data=images, by="linear_probe", better_by=0.0)


@claim(
    "labels that are made anew while the network learns are better than those of the untrained network",
    reported="features improve with the number of label optimisations, up to 80 in 400 epochs (ablation on ImageNet)",
    proxy="a ResNet-8 on 4,000 images of CIFAR-10 at 16 pixels, in place of ImageNet",
    steps={"small": 400},
)
def relabelling_helps(bench: Bench) -> Comparison:
    """Linear probe on unseen images, against the same labelling done once, before the first step."""
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=4000, full=10_000))
    once = {"n_relabellings": 1}
    return bench.compare(SeLa, baseline="sela", baseline_settings=once, data=images, by="linear_probe", better_by=0.0)
