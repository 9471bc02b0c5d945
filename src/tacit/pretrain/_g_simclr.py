"""G-SimCLR: Contrastive Learning with Guided Projection via Pseudo Labelling (Chakraborty et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.embedding import embed
from tacit.errors import expect
from tacit.generate import Autoencoder
from tacit.nn import ResNet
from tacit.pretrain._simclr import SimCLR
from tacit.training import fit

if TYPE_CHECKING:
    from tacit.data import Dataset


@system("g-simclr", paper="arXiv:2009.12007", modality="image")
class GSimCLR(SimCLR):
    """SimCLR on batches in which images hardly share a cluster, so that what is alike is not pushed apart.

        1. encode    a denoising autoencoder learns  |decoder(encoder(x + noise)) - x|^2  on the same images
        2. cluster   k-means of its codes into as many clusters as a batch has items: the pseudo-labels
        3. learn     NT-Xent (SimCLR, eq. 1) on batches that hold one image of each cluster

    A batch is every m-th item of the data in the order of the clusters, where an epoch has m batches; within a cluster
    the order is drawn anew each epoch. So each item is seen once an epoch, and no two in a batch share a cluster unless
    one has more than m items, and then as few as can be. The authors' code ranks the items within each cluster once and
    cuts the ranks in pieces, in which large clusters come together at the end.

    The autoencoder's steps come on top of the training. Its noise and its widths are those of the authors' code.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> two batches of views; by default SimCLR's.
        embed_dim: width of the projection that the loss sees.
        hidden_dim: width of the projector's hidden layer.
        temperature: above 0.
        n_clusters: best the size of the batches; from n images no more than n come out.
        autoencoder_epochs: at least 1. The authors stop when the error on held-out images rises.

    Attributes:
        labels: int64 (n,), the cluster of each item of the data; made by `before_fit`.

    Batches hold at least 2 images.

    >>> learner = GSimCLR(ResNet(8, width=4, image_size=16), hidden_dim=16, n_clusters=3, autoencoder_epochs=1)
    >>> learner.before_fit({"x": torch.rand(12, 3, 16, 16)})
    >>> learner.labels.shape, len(learner.labels.unique())
    (torch.Size([12]), 3)
    """

    labels: Tensor

    settings: ClassVar = {
        "paper": {
            "optimizer": "sgd",
            "lr": 0.1,
            "batch_size": 64,
            "epochs": 15,
            "embed_dim": 50,
            "hidden_dim": 256,
            "temperature": 0.1,
            "n_clusters": 64,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 64,
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
        n_clusters: int = 64,
        autoencoder_epochs: int = 10,
    ) -> None:
        super().__init__(encoder, views=views, embed_dim=embed_dim, hidden_dim=hidden_dim, temperature=temperature)
        expect("n_clusters", n_clusters, n_clusters >= 2, "at least 2")
        expect("autoencoder_epochs", autoencoder_epochs, autoencoder_epochs >= 1, "at least 1")
        self.n_clusters, self.autoencoder_epochs = n_clusters, autoencoder_epochs
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def before_fit(self, data: Dataset) -> None:
        """The autoencoder, and the clusters of its codes."""
        from sklearn.cluster import KMeans

        device = self.labels.device
        side = min(self.encoder.image_size, 32)
        with torch.random.fork_rng(devices=[]):
            autoencoder = DenoisingAutoencoder(ResNet(8, width=32, image_size=side, in_channels=data["x"].shape[1]))
        seed = int(torch.randint(2**31, ()))
        size = min(128, len(data["x"]))
        fit(autoencoder, data, epochs=self.autoencoder_epochs, batch_size=size, seed=seed, accelerator=device.type)
        codes = embed(autoencoder.encoder, data, device=device)
        found = KMeans(min(self.n_clusters, len(codes)), n_init=1, random_state=seed).fit_predict(codes)
        self.labels = torch.from_numpy(found).long().to(device)

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> Iterable[Tensor]:
        if len(self.labels) != len(data):  # not clustered yet
            return super().batches(data, batch_size, generator)
        return spread_batches(self.labels.cpu(), batch_size, generator)


class DenoisingAutoencoder(Autoencoder):
    """An autoencoder that is shown images with Gaussian noise, and has to paint them without.

    >>> bool(DenoisingAutoencoder(ResNet(8, width=8, image_size=16)).loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    def __init__(self, encoder: nn.Module, *, noise: float = 0.01) -> None:
        super().__init__(encoder)
        self.noise = noise

    def loss(self, x: Tensor) -> Tensor:
        x = self.encoder.prepare(x)
        return F.mse_loss(self.reconstruct(x + self.noise * torch.randn_like(x)), x)


def spread_batches(labels: Tensor, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """All items in batches over which each label is spread as evenly as can be.

    Args:
        labels: int64 (n,).
        batch_size: at least 1; the n % batch_size items that are left over are drawn at random.
        generator: of all chance.

    Returns:
        int64 (batch_size,) each; a label of s items comes at most ceil(s / number of batches) times in one.

    >>> labels = torch.tensor([0, 0, 1, 1, 2, 2])
    >>> [sorted(labels[batch].tolist()) for batch in spread_batches(labels, 3, torch.Generator())]
    [[0, 1, 2], [0, 1, 2]]
    """
    size = min(batch_size, len(labels))
    n_batches = len(labels) // size
    items = torch.randperm(len(labels), generator=generator)[: n_batches * size]
    place = torch.randperm(int(labels.max()) + 1, generator=generator)  # of each label in the order
    items = items[place[labels[items]].argsort(stable=True)]
    return items.view(size, n_batches).T.unbind()


class _ClassBatches(GSimCLR):
    """Batches spread by the true classes: as good as pseudo-labels can be."""

    system_id = "g-simclr-classes"

    def before_fit(self, data: Dataset) -> None:
        self.labels = data["y"][:].to(self.labels.device)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]  # names y, so that the data has it
        return super().loss(x)


@claim(
    "batches guided by pseudo-labels give better features than random ones",
    reported="linear evaluation on CIFAR-10: 40.5 % against SimCLR's 39.92 % (the authors' README, P3)",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels, in place of a ResNet-20 on all",
    steps={"small": 600},
)
def better_than_simclr(bench: Bench) -> Comparison:
    """Linear probe on unseen images; 64 clusters and batches of 64. The autoencoder's training is not counted."""
    images = bench.images("cifar10", size=16, n=5000, n_test=5000)
    return bench.compare(GSimCLR, baseline="simclr", data=images, by="linear_probe", better_by=0.0, batch_size=64)


@claim(
    "images of one class meet less often in guided batches",
    reported="a batch of different pseudo-labels holds no similar images as negatives; no number",
    proxy="5,000 images of CIFAR-10 at 16 pixels; the classes say what is similar",
    steps={"small": 1},
)
def fewer_false_negatives(bench: Bench) -> Comparison:
    """Share of pairs in a batch of 64 that are of one class, in random batches less in guided ones."""
    images = bench.images("cifar10", size=16, n=5000, n_test=100)

    def saved(trial: Trial) -> float:
        train, _ = trial.split(images)
        learner = trial.fit(trial.build(GSimCLR, train), train)
        guided = spread_batches(learner.labels.cpu(), 64, trial.generator)
        random = torch.randperm(len(train), generator=trial.generator).split(64)
        return _alike(random, train.y) - _alike(guided, train.y)

    return bench.trials(saved, above=0.0, setting="CIFAR-10 at 16 px, 64 clusters, batches of 64")


def _alike(batches: Iterable[Tensor], y: Tensor) -> float:
    """Share of pairs of different items of a batch that are of one class, over whole batches."""
    alike = torch.stack([(y[batch][:, None] == y[batch]).float().sum() - len(batch) for batch in batches])
    pairs = torch.tensor([len(batch) * (len(batch) - 1) for batch in batches])
    return float(alike.sum() / pairs.sum())


@claim(
    "batches in which no class comes twice would give better features: what guidance aims at is worth having",
    reported="the premise: similar images in a batch are pushed apart as negatives; no number",
    proxy="the true classes in place of pseudo-labels, batches of 10, 5,000 images of CIFAR-10 at 16 pixels",
    steps={"small": 2000},
)
def class_batches_help(bench: Bench) -> Comparison:
    """Linear probe on unseen images, against SimCLR on random batches of 10: the ceiling of this method."""
    images = bench.images("cifar10", size=16, n=5000, n_test=5000)
    return bench.compare(_ClassBatches, baseline="simclr", data=images, by="linear_probe", better_by=0.0, batch_size=10)
