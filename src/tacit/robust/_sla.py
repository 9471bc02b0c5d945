"""SLA: Self-supervised Label Augmentation via Input Transformations (Lee, Hwang & Shin, 2020)."""

from collections.abc import Callable
from itertools import permutations
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, claim
from tacit.errors import expect, unknown
from tacit.learner import Learner
from tacit.views import Compose, RandomHorizontalFlip, RandomResizedCrop, rotate

TRANSFORMS = ("rotations", "colors")


@system("sla", paper="arXiv:1910.05872", modality="image")
class SelfSupervisedLabelAugmentation(Learner):
    """A classifier learns class and transformation together, as one label, and so need not be blind to either.

        loss        = mean over images and j of  -log p(y, j | t_j(x)),   j in 1..M, an N M-way softmax        (eq. 3)
        aggregated  P(i | x) = softmax over i of  (1 / M) sum_j logit_ij(t_j(x))                               (eq. 5)
        distilled   + T^2 KL( aggregated, held fixed || softmax(u(x)) ) + CE(u(x), y)                          (eq. 6)

    where u is a second, N-way head on the image as it is. Multi-task learning adds a softmax of j to that of y on
    every t_j(x), which asks for features that are blind to j and tell it at once; this is what the joint label avoids.

    The paper's equations put the aggregate's logits into the softmax as they are averaged, and beta = 1 before the
    distillation. A step costs M forward passes of a plain classifier's.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        n_classes: N, at least 2.
        views: batch -> augmented batch, before the M transformations; by default a crop of at least half the image, and
            a flip.
        transforms: `"rotations"` by 0, 90, 180 and 270 degrees (M = 4), or `"colors"`: the 6 orders of the channels.
        self_distill: learn the second head too (SLA+SD), whose single pass then stands for M.
        temperature: T of the distillation, above 0.

    Batches hold at least 2 images, for the batch normalisation in the encoder. Rotations teach nothing where things
    look alike from all sides, and images have to be square for them.

    Raises:
        ArgumentError: `n_classes` below 2, an unknown word, color orders of images without three channels.

    >>> from tacit.nn import ResNet
    >>> learner = SelfSupervisedLabelAugmentation(ResNet(8, width=8, image_size=16), 10, self_distill=True)
    >>> learner.loss(torch.rand(4, 3, 16, 16), torch.tensor([0, 3, 1, 1])).shape
    torch.Size([])
    >>> learner.predict(torch.rand(4, 3, 16, 16)).shape, learner.predict(torch.rand(4, 3, 16, 16), aggregate=True).shape
    (torch.Size([4, 10]), torch.Size([4, 10]))
    """

    settings: ClassVar = {
        "paper": {  # the authors' code for CIFAR: 80,000 steps, lr / 10 after half and after three quarters of them
            "optimizer": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "batch_size": 128,
            "max_steps": 80_000,
            "weight_decay": 1e-4,
            "warmup": 0.0,
        },
        "small": {"optimizer": "adamw", "lr": 2e-3, "batch_size": 128, "weight_decay": 1e-4, "warmup": 0.05},
    }

    def __init__(
        self,
        encoder: nn.Module,
        n_classes: int,
        *,
        views: nn.Module | None = None,
        transforms: str = "rotations",
        self_distill: bool = False,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        expect("n_classes", n_classes, n_classes >= 2, "at least 2")
        expect("temperature", temperature, temperature > 0, "a number above 0")
        self.encoder, self.n_classes, self.temperature = encoder, n_classes, temperature
        self.transforms = transformations(transforms, encoder.in_channels)
        self.views = crop_and_flip(encoder.image_size) if views is None else views
        self.joint_head = nn.Linear(encoder.dim, n_classes * len(self.transforms))
        self.head = nn.Linear(encoder.dim, n_classes) if self_distill else None

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        features = self._features(self.views(x))
        logits = self.joint_head(features)
        n, m = logits.shape[:2]
        joint = y[:, None] * m + torch.arange(m, device=y.device)
        loss = F.cross_entropy(logits.reshape(n * m, -1), joint.flatten())
        if self.head is None:
            return loss
        own, t = self.head(features[:, 0]), self.temperature
        target = (aggregated(logits.detach()) / t).softmax(dim=1)
        distilled = F.kl_div((own / t).log_softmax(dim=1), target, reduction="batchmean")
        return loss + t**2 * distilled + F.cross_entropy(own, y)

    def predict(self, x: Tensor, *, aggregate: bool | None = None) -> Tensor:
        """Logits of the classes, (n, n_classes), in the learner's present mode.

        Args:
            x: images in [0, 1], (n, c, h, w).
            aggregate: over the M transformations, or from a single pass: the second head's, or without one those of the
                untransformed image, conditioned on its being so. None: aggregated unless there is a second head.
        """
        if aggregate is None:
            aggregate = self.head is None
        if aggregate:
            return aggregated(self.joint_head(self._features(x)))
        features = self.encoder(x)
        if self.head is not None:
            return self.head(features)
        return self.joint_head(features)[:, :: len(self.transforms)]

    def prepare(self, items: Tensor) -> Tensor:
        """Raw images to what `predict` takes, as the encoder's own `prepare` does it."""
        return self.encoder.prepare(items)

    def forward(self, x: Tensor) -> Tensor:
        """`predict(x)`."""
        return self.predict(x)

    def _features(self, x: Tensor) -> Tensor:
        """Of every image under every transformation: (n, M, dim)."""
        copies = torch.stack([transform(x) for transform in self.transforms], 1)
        return self.encoder(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])


def aggregated(logits: Tensor) -> Tensor:
    """The logit of each class under the transformation that was applied, averaged over them: (n, M, N M) -> (n, N).

    Column y M + j of the M-th axis is class y under transformation j.
    """
    n, m = logits.shape[:2]
    applied = logits.view(n, m, -1, m).diagonal(dim1=1, dim2=3)
    return applied.mean(2)


def transformations(name: str, channels: int) -> list[Callable[[Tensor], Tensor]]:
    """The M transformations by name, the first of which changes nothing."""
    if name not in TRANSFORMS:
        raise unknown("transforms", name, TRANSFORMS)
    if name == "rotations":
        return [lambda x, k=k: rotate(x, k) for k in range(4)]
    expect("transforms", name, channels == 3, "rotations", f"colors needs 3 channels, and the encoder has {channels}")
    return [lambda x, order=list(order): x[:, order] for order in permutations(range(3))]


def crop_and_flip(image_size: int) -> nn.Module:
    return Compose(RandomResizedCrop(image_size, scale=(0.5, 1.0)), RandomHorizontalFlip(0.5))


# claims ---------------------------------------------------------------------------------------------------------------

SAID = "CIFAR-10 at 16 px, 1,000 labelled images; batches of 64; crop and flip on both sides"


def _trained(trial: Trial, kind: type[Learner] | str, train: Part, **words: Any) -> Learner:
    """The kind's learner on a fresh encoder, in batches of 64, with the same views for all."""
    if kind != "supervised":  # whose views are these
        return trial.pretrained(kind, train, batch_size=64, **words)
    views = crop_and_flip(train.description["image_size"])
    return trial.fit(trial.build(kind, train, views=views), train, batch_size=64, **words)


@claim(
    "joint labels with aggregated inference are far more accurate than plain training",
    reported="large accuracy improvements in fully supervised settings (abstract)",
    proxy="a ResNet-8 on 1,000 images of CIFAR-10 at 16 pixels, in place of a ResNet-32 on all of CIFAR",
    steps={"small": 600},
)
def better_than_cross_entropy(bench: Bench) -> Comparison:
    """Accuracy on unseen images at equal steps, as in the paper; a step costs four times the baseline's."""
    return _against(bench, "supervised", baseline="cross-entropy with the same views and steps")


@claim(
    "the gain is not bought with four times the forward passes alone",
    reported="not compared in the paper, whose runs have equal steps",
    proxy="a ResNet-8 on 1,000 images of CIFAR-10 at 16 pixels, in place of a ResNet-32 on all of CIFAR",
    steps={"small": 600},
)
def better_at_equal_cost(bench: Bench) -> Comparison:
    """Accuracy on unseen images; cross-entropy gets four times the steps, so that both make as many forward passes."""
    return _against(
        bench, "supervised", longer=4, baseline="cross-entropy with the same views and four times the steps"
    )


@claim(
    "one softmax over class and rotation beats a softmax for each, on one network",
    reported="a joint label relaxes an invariance that a sum of the two losses asks for (abstract)",
    proxy="a ResNet-8 on 1,000 images of CIFAR-10 at 16 pixels, in place of a ResNet-32 on all of CIFAR",
    steps={"small": 600},
)
def better_than_multitask(bench: Bench) -> Comparison:
    """Accuracy on unseen images in one forward pass each, equal steps and equal forward passes."""
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=1000))

    def sides(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        joint = _trained(trial, SelfSupervisedLabelAugmentation, train)
        both = _trained(trial, _MultiTask, train)
        single = _OnePass(joint)
        return unseen.score(trial.predict(single, unseen.x)), unseen.score(trial.predict(both, unseen.x))

    return bench.trials(sides, baseline="class and rotation as two tasks", better_by=0.0, setting=SAID)


@claim(
    "self-distillation brings the aggregate's gain into one forward pass",
    reported="it has the effect of the aggregated inference in a single, faster inference (abstract)",
    proxy="a ResNet-8 on 1,000 images of CIFAR-10 at 16 pixels, in place of a ResNet-32 on all of CIFAR",
    steps={"small": 600},
)
def one_pass_keeps_the_gain(bench: Bench) -> Comparison:
    """Accuracy on unseen images of the second head, against cross-entropy at equal steps."""
    return _against(bench, "supervised", baseline="cross-entropy with the same views and steps", self_distill=True)


def _against(bench: Bench, kind: str, *, baseline: str, longer: int = 1, **ours: Any) -> Comparison:
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=1000))

    def sides(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        joint = _trained(trial, SelfSupervisedLabelAugmentation, train, **ours)
        plain = _trained(trial, kind, train, max_steps=longer * trial.steps)
        return unseen.score(trial.predict(joint, unseen.x)), unseen.score(trial.predict(plain.classifier, unseen.x))

    return bench.trials(sides, baseline=baseline, better_by=0.0, setting=SAID)


class _MultiTask(SelfSupervisedLabelAugmentation):
    """Class and transformation as two tasks: -log p(y | t_j(x)) - log p(j | t_j(x)), averaged over j (eq. 2)."""

    system_id = "sla-multitask"

    def __init__(self, encoder: nn.Module, n_classes: int, *, views: nn.Module | None = None) -> None:
        super().__init__(encoder, n_classes, views=views)
        self.joint_head = nn.Linear(encoder.dim, n_classes + len(self.transforms))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.joint_head(self._features(self.views(x)))
        n, m = logits.shape[:2]
        classes, turns = logits.flatten(0, 1).split([self.n_classes, m], dim=1)
        turn = torch.arange(m, device=y.device).repeat(n)
        return F.cross_entropy(classes, y.repeat_interleave(m)) + F.cross_entropy(turns, turn)

    def forward(self, x: Tensor) -> Tensor:
        return self.joint_head(self.encoder(x))[:, : self.n_classes]


class _OnePass(nn.Module):
    """A single pass of the joint head, of the untransformed image."""

    def __init__(self, learner: SelfSupervisedLabelAugmentation) -> None:
        super().__init__()
        self.learner = learner

    def prepare(self, items: Tensor) -> Tensor:
        return self.learner.prepare(items)

    def forward(self, x: Tensor) -> Tensor:
        return self.learner.predict(x, aggregate=False)
