"""NPID: Unsupervised Feature Learning via Non-Parametric Instance Discrimination (Wu et al., 2018)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.errors import expect
from tacit.evaluate import knn_predict
from tacit.learner import Learner
from tacit.losses import pair_similarity, similarity_logsumexp
from tacit.nn import MemoryBank, gather
from tacit.views import two_crops

if TYPE_CHECKING:
    from tacit.data import Dataset


@system("npid", paper="arXiv:1805.01978", modality="image")
class InstanceDiscrimination(Learner):
    """Every image is a class of its own, told from all others by the features that they had when last seen.

        P(i | f) = exp(v_i f / t) / Z,    Z = sum over all items j of exp(v_j f / t)                          (eq. 2, 4)
        loss     = mean over the batch of  -log P(i | f_i)                                                      (eq. 3)
                   + proximal |f_i - v_i|^2                                                               (eq. 9, 10)

    where f is the unit embedding of an augmented image, and v_i that of item i in a memory bank, which moves to f_i
    after the step. With more items than `n_negatives` the sum over all is replaced by noise-contrastive estimation:

        loss     = mean over the batch of  -log h(i, f_i) - sum over m drawn items j of log(1 - h(j, f_i))      (eq. 7)
        h(i, f)  = P(i | f) / (P(i | f) + m / n)                                                                (eq. 6)

    with Z a constant, estimated on the first batch: n times the mean of exp(v_j f / t) over items drawn        (eq. 8).

    The m items are drawn uniformly once a step and shared by the batch, so that a product of two matrices does: each
    item's loss has the same expectation as with draws of its own, as the authors' code has them. That code has no
    proximal term, whose weight the paper's text does not say, and moves the bank by half the way to f_i.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> augmented batch; by default one crop of MoCo v2's recipe, which comes from this one.
        embed_dim: width of the embeddings that the bank holds.
        n_negatives: m. If it is 0, or the data have no more items than that, the sum is over all of them, as in the
            paper's experiments on CIFAR-10.
        temperature: t, above 0. The paper takes 0.07, and 0.1 for CIFAR-10 in the code.
        momentum: share of the old vector that stays in the bank.
        proximal: weight of the term that keeps embeddings near their last ones, at least 0.

    Attributes:
        bank: `bank.items` holds the embedding of each item of the data, (n, embed_dim); sized by `before_fit`.
        log_z: log Z of the noise-contrastive estimation; -inf before the first batch.

    Batches hold at least 2 images, for the batch normalisation in the encoder.

    >>> from tacit.nn import ResNet
    >>> from tacit.training import fit
    >>> learner = InstanceDiscrimination(ResNet(8, width=4, image_size=8), embed_dim=5)
    >>> fit(learner, torch.rand(12, 3, 8, 8), max_steps=2, batch_size=6).bank.items.shape
    torch.Size([12, 5])
    """

    log_z: Tensor

    settings: ClassVar = {
        "paper": {
            "optimizer": "sgd",
            "lr": 0.03,
            "batch_size": 256,
            "epochs": 200,
            "weight_decay": 1e-4,
            "warmup": 0.0,
            "n_negatives": 4096,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 1e-3,
            "batch_size": 128,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "n_negatives": 16384,
            "temperature": 0.1,
        },
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        embed_dim: int = 128,
        n_negatives: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
        proximal: float = 0.0,
    ) -> None:
        super().__init__()
        expect("n_negatives", n_negatives, n_negatives >= 0, "a number of items drawn, or 0 for all")
        expect("temperature", temperature, temperature > 0, "a number above 0")
        expect("proximal", proximal, proximal >= 0, "a weight of at least 0")
        if views is None:
            views = two_crops(encoder.image_size, channels=encoder.in_channels, preset="moco-v2").views[0]
        self.encoder, self.views = encoder, views
        self.head = nn.Linear(encoder.dim, embed_dim)
        self.bank = MemoryBank(0, embed_dim, momentum)
        self.n_negatives, self.temperature, self.proximal = n_negatives, temperature, proximal
        self.register_buffer("log_z", torch.tensor(-math.inf))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def before_fit(self, data: Dataset) -> None:
        self.bank.reset(len(data))
        self.log_z.fill_(-math.inf)

    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        n = len(self.bank.items)
        expect("bank", n, n > 0, "a place for each item of the data", "call before_fit(data) first, as fit does")
        f, own = F.normalize(self.head(self.encoder(self.views(x))).float(), dim=1), self.bank.items[index]
        self._seen.append((index, f.detach()))
        exact = n <= self.n_negatives or self.n_negatives == 0
        loss = self._softmax(f, own) if exact else self._noise_contrastive(f, own)
        return loss + self.proximal * (f - own).square().sum(1).mean()

    def after_step(self, progress: float) -> None:
        for index, f in self._seen:  # more than one where gradients are accumulated
            self.bank.update(index, f)
        self._seen.clear()

    def _softmax(self, f: Tensor, own: Tensor) -> Tensor:
        log_z = similarity_logsumexp(f, self.bank.items, self.temperature)
        return (log_z - pair_similarity(f, own, self.temperature)).mean()

    def _noise_contrastive(self, f: Tensor, own: Tensor) -> Tensor:
        n, m = len(self.bank.items), self.n_negatives
        drawn = self.bank.items[torch.randint(n, (m,), device=f.device)]
        with torch.autocast(f.device.type, enabled=False):
            positives, negatives = (f * own).sum(1) / self.temperature, f @ drawn.T / self.temperature
        if self.log_z == -math.inf:
            self.log_z.copy_(_log_mean_exp(gather(negatives.detach())) + math.log(n))
        return nce_loss(positives - self.log_z, negatives - self.log_z, n)


def nce_loss(positives: Tensor, negatives: Tensor, n: int) -> Tensor:
    """Noise-contrastive estimation with uniform noise over n classes (eq. 6 and 7): log P (b,) and (b, m) -> scalar.

    h = P / (P + m / n) is the logistic function of log P - log(m / n).
    """
    noise = math.log(negatives.shape[1] / n)
    return -(F.logsigmoid(positives - noise) + F.logsigmoid(noise - negatives).sum(1)).mean()


def _log_mean_exp(x: Tensor) -> Tensor:
    return x.flatten().logsumexp(0) - math.log(x.numel())


class _ParametricSoftmax(InstanceDiscrimination):
    """A weight vector for each image in place of its features (eq. 1)."""

    system_id = "npid-parametric"

    def __init__(self, encoder: nn.Module, *, n_items: int, embed_dim: int = 128) -> None:
        super().__init__(encoder, embed_dim=embed_dim)
        self.weights = nn.Linear(embed_dim, n_items, bias=False)

    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        return F.cross_entropy(self.weights(self.head(self.encoder(self.views(x)))), index)


@claim(
    "features that tell instances apart also tell classes apart: better than a random network",
    reported="ImageNet k-NN of a ResNet-18: 40.5 % (section 4.2)",
    proxy="a ResNet-8 on 8,000 images of CIFAR-10 at 16 pixels, in place of ImageNet",
    steps={"small": 1200, "full": 40_000},
)
def better_than_untrained(bench: Bench) -> Comparison:
    """20-NN accuracy on unseen images of the encoder's features, against the same encoder before its first step."""
    images = bench.images("cifar10", size=16, n=8000, n_test=5000)
    return bench.compare(InstanceDiscrimination, baseline="untrained", data=images, by="knn", better_by=0.0)


@claim(
    "its features are better neighbours than pixels",
    reported="ImageNet k-NN of a ResNet-18: 40.5 % (section 4.2)",
    proxy="a ResNet-8 on 8,000 images of CIFAR-10 at 16 pixels, in place of ImageNet",
    steps={"small": 1200, "full": 40_000},
)
def better_than_pixels(bench: Bench) -> Comparison:
    """20-NN accuracy on unseen images, against that of the images themselves."""
    images = bench.images("cifar10", size=16, n=8000, n_test=5000)
    return bench.compare(InstanceDiscrimination, baseline="pixels", data=images, by="knn", better_by=0.0)


@claim(
    "instances as their own weights are better than a weight vector for each",
    reported="CIFAR-10 k-NN of a ResNet-18: 80.8 % against 63.0 % for the parametric softmax (section 4.1, table 1)",
    proxy="a ResNet-8 on 8,000 images of CIFAR-10 at 16 pixels, in place of a ResNet-18 on all at 32",
    steps={"small": 1200, "full": 40_000},
)
def better_than_parametric(bench: Bench) -> Comparison:
    """20-NN accuracy on unseen images of the encoder's features, everything else alike, the tuned rate included."""
    images = bench.images("cifar10", size=16, n=8000, n_test=5000)
    return bench.compare(
        InstanceDiscrimination, baseline=_ParametricSoftmax, baseline_settings={"n_items": 8000}, data=images,
        by="knn", better_by=0.0,
    )  # fmt: skip


@claim(
    "keeps improving with more images",
    reported="ImageNet k-NN of a ResNet-18 rises with each larger part of the images, from 0.1 % to all (table 5)",
    proxy="a ResNet-8 on 2,000 to 8,000 images of CIFAR-10 at 16 pixels, with equal steps (77 passes down to 19) in "
    "place of ImageNet",
    steps={"small": 1200, "full": 40_000},
)
def more_images_are_better(bench: Bench) -> Comparison:
    """20-NN accuracy on unseen images, with all 8,000 and their labels as the neighbours, whatever was learned from."""
    images = bench.images("cifar10", size=16, n=8000, n_test=5000)

    def accuracy(trial: Trial, n: int) -> float:
        train, unseen = trial.split(images)
        part = train if n >= len(train) else train.select(range(n))
        encoder = trial.pretrained("npid", part).encoder
        seen, new = (trial.predict(encoder, x) for x in (train.x, unseen.x))
        return unseen.score(knn_predict(seen, train.y, new))

    setting = f"{images.name}; parts of it, with all as neighbours"
    points = bench.pick(smoke=[60, 240], small=[2000, 4000, 8000])
    return bench.curve(accuracy, over=points, shape="rises", setting=setting)
