"""SimCLRv2: Big Self-Supervised Models are Strong Semi-Supervised Learners (Chen et al., 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, claim
from tacit.embedding import prepared
from tacit.errors import expect
from tacit.fewlabels._supervised import Supervised
from tacit.learner import Learner
from tacit.losses import nt_xent
from tacit.nn import Classifier, mlp
from tacit.nn import encoder as make_encoder
from tacit.training import fit
from tacit.views import Compose, RandomHorizontalFlip, RandomResizedCrop, two_crops


@system("simclrv2", paper="arXiv:2006.10029", modality="image")
class SimCLRv2(Learner):
    """Pretrain a big network without labels, fine-tune it on few, and distil it into a small one on all the images.

        1. pretrain    NT-Xent as in SimCLR, under a projection head of three layers                       (eq. 1)
        2. fine-tune   f(x) = W relu(norm(W_1 h(x))): the head's first layer stays a part of the network   (section 2)
        3. distil      loss = - mean over images of  sum_y P_teacher(y | x; t) log P_student(y | x; t),
                       P(y | x; t) = softmax(f(x) / t), with no label at all                               (eq. 2)

    This learner is the first step; `fine_tunable` makes the classifier of the second, `Distillation` is the third, and
    `semi_supervised` does all three. The paper's memory of MoCo's (about one point more) and selective kernels are left
    out.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> two batches of views; by default SimCLR's.
        embed_dim: width of the projection that the loss sees.
        hidden_dim: width of the head's hidden layers; None: that of the encoder, as in the paper.
        num_layers: of the head, at least 2.
        temperature: above 0.

    Batches hold at least 2 images.

    >>> from tacit.nn import ResNet
    >>> learner = SimCLRv2(ResNet(8, width=8, image_size=16), hidden_dim=24)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    >>> learner.fine_tunable(n_classes=10)(torch.rand(4, 3, 16, 16)).shape
    torch.Size([4, 10])
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "lars",
            "lr": 6.4,
            "batch_size": 4096,
            "epochs": 800,
            "weight_decay": 1e-4,
            "warmup": 0.05,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "hidden_dim": 512,
            "temperature": 0.2,
        },
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        embed_dim: int = 128,
        hidden_dim: int | None = None,
        num_layers: int = 3,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        expect(
            "num_layers", num_layers, num_layers >= 2, "at least 2, the first of which is fine-tuned with the encoder"
        )
        self.encoder = encoder
        self.views = two_crops(encoder.image_size, channels=encoder.in_channels) if views is None else views
        self.projector = mlp(encoder.dim, hidden_dim or encoder.dim, embed_dim, num_layers=num_layers)
        self.temperature = temperature

    def loss(self, x: Tensor) -> Tensor:
        a, b = (self.projector(self.encoder(view)) for view in self.views(x))
        return nt_xent(a, b, self.temperature)

    def fine_tunable(self, n_classes: int, *, from_layer: int = 1) -> Classifier:
        """The encoder, the first `from_layer` layers of the head, and a linear layer of zeros: x -> (n, n_classes).

        Encoder and head are the learner's own, not copies: training the classifier trains them.

        Args:
            n_classes: at least 2.
            from_layer: 0 fine-tunes the encoder alone, as SimCLR did; at most the head's hidden layers.
        """
        hidden = (len(self.projector) - 1) // LAYER
        expect("from_layer", from_layer, 0 <= from_layer <= hidden, f"0 to {hidden}, the hidden layers of the head")
        kept = _WithHead(self.encoder, self.projector[: LAYER * from_layer]) if from_layer else self.encoder
        classifier = Classifier(kept, n_classes)
        nn.init.zeros_(classifier.head.weight)
        nn.init.zeros_(classifier.head.bias)
        return classifier


LAYER = 3
"""Modules of a hidden layer in `tacit.nn.mlp`: linear, norm, ReLU."""


class _WithHead(nn.Module):
    """An encoder and some layers on top of it, as one encoder."""

    def __init__(self, encoder: nn.Module, layers: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.layers = encoder, layers
        self.dim, self.image_size, self.in_channels = (
            layers[-LAYER].out_features,
            encoder.image_size,
            encoder.in_channels,
        )

    def prepare(self, items: Any) -> Tensor:
        return self.encoder.prepare(items)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.encoder(x))


@system("simclrv2", paper="arXiv:2006.10029", modality="image")
class Distillation(Learner):
    """A student learns what a fine-tuned teacher thinks of images without labels (eq. 2 of SimCLRv2).

    Args:
        classifier: the student, x -> logits (n, n_classes); what the user keeps. Of the teacher's own size
            (self-distillation) or smaller.
        teacher: a trained classifier of the same classes. It is frozen and stays in eval mode.
        views: batch -> augmented batch that both see; by default a crop of at least a fifth of the image, and a flip.
        temperature: t, above 0; of both softmaxes. The paper takes 0.1 for the student of the teacher's size, 1 below.

    Batches hold at least 2 images where the student has batch normalisation.

    >>> from tacit.nn import ResNet
    >>> student, teacher = (Classifier(ResNet(8, width=width, image_size=16), 10) for width in (4, 8))
    >>> bool(Distillation(student, teacher).loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {"optimizer": "lars", "lr": 6.4, "batch_size": 4096, "epochs": 400, "weight_decay": 1e-4},
        "small": {"optimizer": "adamw", "lr": 2e-3, "batch_size": 128, "weight_decay": 1e-4, "warmup": 0.05},
    }

    def __init__(
        self, classifier: nn.Module, teacher: nn.Module, *, views: nn.Module | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__()
        expect("temperature", temperature, temperature > 0, "a number above 0")
        self.classifier, self.teacher = classifier, teacher.requires_grad_(False).eval()
        encoder = getattr(classifier, "encoder", None)
        self.views = mild_views(encoder.image_size) if views is None and hasattr(encoder, "image_size") else views
        self.temperature = temperature

    def train(self, mode: bool = True) -> Distillation:
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(self, x: Tensor) -> Tensor:
        view = prepared(self.classifier, x) if self.views is None else self.views(x)
        with torch.no_grad():
            target = (self.teacher(view).float() / self.temperature).softmax(dim=1)
        student = (self.classifier(view).float() / self.temperature).log_softmax(dim=1)
        return -(target * student).sum(dim=1).mean()


def mild_views(image_size: int) -> nn.Module:
    """Crop and flip alone, the paper's augmentation of both later steps."""
    return Compose(RandomResizedCrop(image_size, scale=(0.2, 1.0)), RandomHorizontalFlip(0.5))


def semi_supervised(
    unlabelled: Any,
    labelled: Any,
    *,
    encoder: nn.Module,
    n_classes: int,
    out: str | Path,
    student: nn.Module | None = None,
    from_layer: int = 1,
    pretrain: Mapping[str, Any],
    fine_tune: Mapping[str, Any],
    distil: Mapping[str, Any],
) -> Classifier:
    """The three steps in turn; killed, the same call goes on where it stood.

    Args:
        unlabelled: data with the column `x`.
        labelled: data with the columns `x` and `y`, class numbers; a few of the same kind.
        encoder: the big network.
        n_classes: at least 2.
        out: folder; each step has its own in `stages`.
        student: encoder of the classifier that comes out; None: a network like `encoder`, drawn anew.
        from_layer: as `SimCLRv2.fine_tunable`'s.
        pretrain, fine_tune, distil: words of `tacit.fit` for each step, such as `{"max_steps": 500}`.

    Returns:
        The student, trained.

    Raises:
        as `tacit.fit`.
    """
    stages = Path(out) / "stages"
    learner = fit(SimCLRv2(encoder), unlabelled, out=stages / "pretrain", **pretrain)
    teacher = learner.fine_tunable(n_classes, from_layer=from_layer)
    tuned = Supervised(teacher, views=mild_views(encoder.image_size))
    fit(tuned, labelled, out=stages / "fine-tune", **fine_tune)
    small = make_encoder(**encoder.config) if student is None else student
    distilled = fit(Distillation(Classifier(small, n_classes), teacher), unlabelled, out=stages / "distil", **distil)
    return distilled.classifier


# claims ---------------------------------------------------------------------------------------------------------------

TUNING = {"max_steps": 100, "batch_size": 64, "lr": 1e-3}
"""Of fine-tuning; the 250 labelled images are then seen 26 times."""


def _few(trial: Trial, part: Part, per_class: int) -> Part:
    """That many images of each class, drawn by the trial's seed."""
    order = trial.rng.permutation(len(part))
    y = part.y.numpy()[order]
    return part.select([int(i) for c in range(part.n_classes) for i in order[y == c][:per_class]])


def _pretrained(trial: Trial, part: Part, width: int) -> SimCLRv2:
    return trial.pretrained(SimCLRv2, part, encoder={"name": "resnet8", "width": width})


def _fine_tuned(trial: Trial, learner: SimCLRv2, labelled: Part, from_layer: int = 1) -> Classifier:
    classifier = learner.fine_tunable(labelled.n_classes, from_layer=from_layer)
    trial.fit(Supervised(classifier, views=mild_views(learner.encoder.image_size)), labelled, **TUNING)
    return classifier


@claim(
    "pretrained without labels and fine-tuned on few, a network is far more accurate than trained on them alone",
    reported="ImageNet with 1 % of the labels: 73.9 % with a ResNet-50, 10 times fewer labels than before (abstract)",
    proxy="a ResNet-8 of width 16 on 5,000 images of CIFAR-10 at 16 pixels, 250 of them labelled",
    steps={"small": 300},
)
def few_labels_are_enough(bench: Bench) -> Comparison:
    """Accuracy on unseen images; training on the labels alone gets the steps of both others together."""
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=5000))

    def sides(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        labelled = _few(trial, train, bench.pick(smoke=3, small=25))
        tuned = _fine_tuned(trial, _pretrained(trial, train, 16), labelled)
        words = {**TUNING, "max_steps": trial.steps + TUNING["max_steps"]}
        views = mild_views(train.description["image_size"])
        scratch = trial.fit(trial.build("supervised", train, views=views), labelled, **words).classifier
        return unseen.score(trial.predict(tuned, unseen.x)), unseen.score(trial.predict(scratch, unseen.x))

    said = "CIFAR-10 at 16 px, 25 labels a class; SimCLRv2 in batches of 256, then 100 steps of 64"
    return bench.trials(sides, baseline="training on the labels alone, as many steps", better_by=0.0, setting=said)


@claim(
    "the fewer the labels, the more a bigger network helps",
    reported="relative gains of bigger networks grow from 100 % over 10 % to 1 % of the labels (figure 1)",
    proxy="ResNet-8s of width 8 and 32 on 5,000 images of CIFAR-10 at 16 pixels, 10 and 200 labels a class",
    steps={"small": 250},
)
def bigger_helps_more_with_fewer_labels(bench: Bench) -> Comparison:
    """Accuracy on unseen images after fine-tuning: gap between the wide and the narrow network, few labels first."""
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=5000))

    def gap(trial: Trial, per_class: int) -> tuple[float, float]:
        train, unseen = trial.split(images)
        labelled = _few(trial, train, per_class)
        tuned = [_fine_tuned(trial, _pretrained(trial, train, width), labelled) for width in (32, 8)]
        wide, narrow = (unseen.score(trial.predict(classifier, unseen.x)) for classifier in tuned)
        return wide, narrow

    said = "CIFAR-10 at 16 px; widths 32 and 8; SimCLRv2 in batches of 256, then 100 steps of 64"
    over = bench.pick(smoke=[2, 5], small=[10, 200])
    return bench.curve(gap, over=over, shape="gap_shrinks", baseline="the narrow network", setting=said)


@claim(
    "a small student that sees the images again with the big teacher's opinions passes its own fine-tuning",
    reported="ImageNet, 1 % of the labels: a distilled ResNet-50 73.9 %, fine-tuned itself 57.9 % (Table 3)",
    proxy="ResNet-8s of width 32 and 8 on 5,000 images of CIFAR-10 at 16 pixels, 250 of them labelled",
    steps={"small": 250},
)
def distilled_beats_fine_tuned(bench: Bench) -> Comparison:
    """Accuracy on unseen images of width 8: distilled from width 32 against pretrained and fine-tuned, equal steps."""
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=5000))

    def sides(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        labelled = _few(trial, train, bench.pick(smoke=3, small=25))
        teacher, own = (_fine_tuned(trial, _pretrained(trial, train, width), labelled) for width in (32, 8))
        student = Classifier(trial.encoder({"name": "resnet8", "width": 8}, train), train.n_classes)
        trial.fit(Distillation(student, teacher), train, max_steps=trial.steps + TUNING["max_steps"])
        return unseen.score(trial.predict(student, unseen.x)), unseen.score(trial.predict(own, unseen.x))

    said = "CIFAR-10 at 16 px, 25 labels a class; SimCLRv2 in batches of 256, 100 steps of tuning; distillation of 128"
    return bench.trials(sides, baseline="width 8, fine-tuned itself", better_by=0.0, setting=said)
