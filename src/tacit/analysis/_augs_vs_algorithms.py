"""Augmentations vs Algorithms: What Works in Self-Supervised Learning (Morningstar et al., 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tacit.building import build
from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.embedding import embed
from tacit.errors import expect, unknown
from tacit.evaluate import linear_probe, two_way_anova
from tacit.learner import Learner
from tacit.losses import dino_loss, info_nce, nt_xent, pair_similarity
from tacit.nn import Centering, Momentum, Prototypes, Queue, encode_crops, mlp
from tacit.pretrain import barlow_twins_loss, decoupled_contrastive_loss, vicreg_loss
from tacit.pretrain._swav import assign, swapped_prediction
from tacit.training import fit
from tacit.views import multi_crop, two_crops

ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    "simclr": {"loss": "nt-xent"},
    "dcl": {"loss": "dcl"},
    "vicreg": {"loss": "vicreg"},
    "barlow-twins": {"loss": "barlow-twins"},
    "moco": {"target": "momentum", "loss": "info-nce", "queue_size": 2048},
    "byol": {"target": "momentum", "predictor": True, "loss": "cosine"},
    "simsiam": {"target": "stop-gradient", "predictor": True, "loss": "cosine"},
    "swav": {"target": "stop-gradient", "loss": "swapped", "n_prototypes": 128},
    "dino": {"target": "momentum", "loss": "distillation", "n_prototypes": 128},
}
"""What each method is in the template; all else is alike."""

AUGMENTATIONS: Mapping[str, Callable[..., nn.Module]] = {
    "crop": lambda size, channels: two_crops(size, channels=channels, preset="crop"),
    "color": lambda size, channels: two_crops(size, channels=channels, preset="simclr"),
    "multi-crop": lambda size, channels: multi_crop(size, channels=channels, preset="swav", local_crops=4),
}
"""From weak to strong: crop and flip; SimCLR's colours beside; smaller crops beside those."""

TARGETS = ("online", "stop-gradient", "momentum")


@system("augs-vs-algorithms", paper="arXiv:2403.05726", modality="image", level="protocol")
class SSLTemplate(Learner):
    """One template in which two-view methods differ by a setting or two, and views are a setting like the others.

        online_v = predictor(projector(encoder(view_v)))                       for all views v
        target_u = what `target` says of projector(encoder(view_u))            for the first two, u
        loss     = mean over u and v != u of  `loss`(online_v, target_u)                             (section 3)

        method         target         predictor   loss
        simclr         online         -           NT-Xent
        dcl            online         -           NT-Xent without the positive in its denominator
        vicreg         online         -           invariance, variance, covariance
        barlow-twins   online         -           cross-correlation
        moco           momentum       -           InfoNCE against a queue
        byol           momentum       yes         cosine
        simsiam        stop-gradient  yes         cosine
        swav           stop-gradient  -           cross-entropy with Sinkhorn's assignment to prototypes
        dino           momentum       -           cross-entropy with the centred, sharpened teacher

    `SSLTemplate(encoder, algorithm="byol")` takes a row of this table; single settings go first. What papers do beside
    (symmetric or one-sided, sums or means, depth of heads) is the same for all here: two-sided, means, two layers.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        algorithm: a row of the table, a key of `ALGORITHMS`.
        augmentation: `crop`, `color` or `multi-crop`: crop and flip, SimCLR's colours beside, small crops beside.
        views: batch -> list of views, in place of `augmentation`.
        target, predictor, loss, queue_size, n_prototypes: in place of the algorithm's.
        embed_dim, hidden_dim: of projector and predictor.
        temperature: of the losses that have one; above 0.
        momentum: decay of the target at the start; rises to 1 on a cosine.

    Batches hold at least 2 images.

    Raises:
        ArgumentError: an unknown word; prototypes or a queue that the loss needs, and that are missing.

    >>> from tacit.nn import ResNet
    >>> learner = SSLTemplate(ResNet(8, width=8, image_size=16), algorithm="byol", hidden_dim=32)
    >>> learner.loss(torch.rand(4, 3, 16, 16)).shape
    torch.Size([])
    """

    settings: ClassVar = {
        "paper": {"batch_size": 4096, "epochs": 100},
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "hidden_dim": 512,
            "momentum": 0.98,
        },
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        algorithm: str = "simclr",
        augmentation: str = "color",
        views: nn.Module | None = None,
        target: str | None = None,
        predictor: bool | None = None,
        loss: str | None = None,
        queue_size: int | None = None,
        n_prototypes: int | None = None,
        embed_dim: int = 128,
        hidden_dim: int = 2048,
        temperature: float = 0.2,
        momentum: float = 0.996,
    ) -> None:
        super().__init__()
        for word, value, choices in (
            ("algorithm", algorithm, ALGORITHMS), ("augmentation", augmentation, AUGMENTATIONS),
        ):  # fmt: skip
            if value not in choices:
                raise unknown(word, value, choices)
        given = {
            "target": target,
            "predictor": predictor,
            "loss": loss,
            "queue_size": queue_size,
            "n_prototypes": n_prototypes,
        }
        chosen = {**ALGORITHMS[algorithm], **{name: value for name, value in given.items() if value is not None}}
        self.encoder = encoder
        self.views = AUGMENTATIONS[augmentation](encoder.image_size, encoder.in_channels) if views is None else views
        self.kind = chosen.get("target", "online")
        if self.kind not in TARGETS:
            raise unknown("target", self.kind, TARGETS)
        width = chosen.get("n_prototypes", 0)
        projector = mlp(encoder.dim, hidden_dim, embed_dim)
        self.projector = nn.Sequential(projector, Prototypes(embed_dim, width)) if width else projector
        self.predictor = mlp(embed_dim, hidden_dim, embed_dim) if chosen.get("predictor") else nn.Identity()
        self.target = Momentum(encoder, self.projector, decay=momentum) if self.kind == "momentum" else None
        self.criterion = criterion(
            chosen["loss"], temperature, embed_dim=embed_dim, queue_size=chosen.get("queue_size", 0), n_prototypes=width
        )

    def loss(self, x: Tensor) -> Tensor:
        views = self.views(x)
        projected = self._projected(views)
        targets = self._targets(views[:2], projected[:2])
        return self.criterion([self.predictor(z) for z in projected], targets)

    def after_step(self, progress: float) -> None:
        if self.target is not None:
            self.target.update(self.encoder, self.projector, progress=progress)
        self.criterion.after_step()

    def _projected(self, views: Sequence[Tensor]) -> list[Tensor]:
        """The first two one by one, so that each has its own batch statistics; the small crops together."""
        large = [self.encoder(view) for view in views[:2]]
        small = encode_crops(self.encoder, views[2:]) if len(views) > 2 else []
        return [self.projector(features) for features in (*large, *small)]

    def _targets(self, views: Sequence[Tensor], projected: Sequence[Tensor]) -> list[Tensor]:
        if self.target is not None:
            return [self.target(view) for view in views]
        return [z.detach() for z in projected] if self.kind == "stop-gradient" else list(projected)


class _Pairs(nn.Module):
    """Mean over targets u and views v != u of a loss of two batches of embeddings.

    A loss that is the same either way round sees each pair of the first two views once.
    """

    def __init__(self, pair: Callable[[Tensor, Tensor], Tensor], *, symmetric: bool = False) -> None:
        super().__init__()
        self.pair, self.symmetric = pair, symmetric

    def forward(self, online: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        pairs = [(v, u) for u in range(len(targets)) for v in range(len(online)) if v != u]
        if self.symmetric:
            pairs = [(v, u) for v, u in pairs if v > u]
        return torch.stack([self.pair(online[v], targets[u]) for v, u in pairs]).mean()

    def after_step(self) -> None:
        pass


class _Queued(_Pairs):
    """InfoNCE against the targets of earlier batches."""

    def __init__(self, queue_size: int, embed_dim: int, temperature: float) -> None:
        super().__init__(lambda z, key: info_nce(z, key, temperature, negatives=self.queue.items))
        self.queue = Queue(queue_size, embed_dim)

    def forward(self, online: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        self._keys = torch.cat(list(targets))
        return super().forward(online, targets)

    def after_step(self) -> None:
        self.queue.push(self._keys)


class _Swapped(nn.Module):
    """Cross-entropy with assignments that use the prototypes evenly."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, online: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            codes = [assign(scores) for scores in targets]
        return swapped_prediction(online, codes, self.temperature)

    def after_step(self) -> None:
        pass


class _Distilled(nn.Module):
    """Cross-entropy with the teacher's centred distributions, sharper than the student's."""

    def __init__(self, n_prototypes: int, temperature: float, teacher_temperature: float = 0.04) -> None:
        super().__init__()
        self.centering = Centering(n_prototypes)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature

    def forward(self, online: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        self._logits = torch.cat(list(targets))
        teacher = [self.centering(logits, self.teacher_temperature) for logits in targets]
        return dino_loss(online, teacher, self.temperature)

    def after_step(self) -> None:
        self.centering.push(self._logits)


LOSSES = ("nt-xent", "dcl", "vicreg", "barlow-twins", "info-nce", "cosine", "swapped", "distillation")


def criterion(name: str, temperature: float, *, embed_dim: int, queue_size: int, n_prototypes: int) -> nn.Module:
    """The loss of that name over all pairs of a view and a target: (online, targets) -> scalar."""
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    if name == "info-nce":
        expect("queue_size", queue_size, queue_size > 0, "above 0 for the loss info-nce")
        return _Queued(queue_size, embed_dim, temperature)
    if name in ("swapped", "distillation"):
        expect("n_prototypes", n_prototypes, n_prototypes > 0, f"above 0 for the loss {name}")
        return _Swapped(0.1) if name == "swapped" else _Distilled(n_prototypes, 0.1)
    pairs: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "nt-xent": lambda a, b: nt_xent(a, b, temperature),
        "dcl": lambda a, b: decoupled_contrastive_loss(a, b, temperature),
        "vicreg": vicreg_loss,
        "barlow-twins": barlow_twins_loss,
        "cosine": lambda p, z: 1 - pair_similarity(p, z).mean(),
    }
    return _Pairs(pairs[name], symmetric=name != "cosine")


class FactorStudy(NamedTuple):
    """What `factor_study` gives: scores (augmentations, algorithms, seeds), and their analysis of variance."""

    scores: np.ndarray
    anova: list[Any]


def factor_study(
    x: Tensor,
    y: Tensor,
    *,
    augmentations: Sequence[str] = tuple(AUGMENTATIONS),
    algorithms: Sequence[str] = tuple(ALGORITHMS),
    seeds: Sequence[int] = (0, 1),
    test_share: float = 0.3,
    **training: Any,
) -> FactorStudy:
    """Train every algorithm under every augmentation on the same images, and attribute the accuracy to both.

    Args:
        x: uint8 images (n, c, s, s).
        y: int64 (n,), their classes, for the linear probe alone.
        augmentations, algorithms: names, two or more of each.
        seeds: one training of each combination for each.
        test_share: of the images, on which the probe is scored and which are not trained on.
        training: words of `tacit.fit`, such as max_steps and batch_size.

    Returns:
        Linear-probe accuracies in [0, 1], and the rows of `tacit.evaluate.two_way_anova`.

    >>> x, y = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8), torch.arange(60) % 2
    >>> two = {"augmentations": ["crop", "color"], "algorithms": ["simclr", "byol"]}
    >>> factor_study(x, y, **two, seeds=[0], max_steps=1, batch_size=16).scores.shape
    (2, 2, 1)
    """
    scores = np.empty((len(augmentations), len(algorithms), len(seeds)))
    description = {"image_size": x.shape[-1], "channels": x.shape[1]}
    for k, seed in enumerate(seeds):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        test, train = order.tensor_split([round(test_share * len(x))])
        for i, augmentation in enumerate(augmentations):
            for j, algorithm in enumerate(algorithms):
                arguments = {"algorithm": algorithm, "augmentation": augmentation}
                learner = build(SSLTemplate, description, "small", arguments=arguments, seed=seed)
                fit(learner, {"x": x[train]}, seed=seed, **training)
                seen, new = (embed(learner.encoder.eval(), {"x": x[part]}) for part in (train, test))
                scores[i, j, k] = linear_probe(seen, y[train], new, y[test]).value
    return FactorStudy(scores, two_way_anova(scores, ("augmentation", "algorithm")))


@claim(
    "the choice of augmentations moves the accuracy more than the choice of the algorithm",
    reported="algorithmic additions often less than 1 %, enhanced augmentations 2 to 4 % (abstract)",
    proxy="a ResNet-8 of width 8 on 4,000 images of CIFAR-10 at 16 pixels, some steps, in place of ImageNet",
    steps={"small": 120, "full": 5000},
)
def augmentations_matter_more(bench: Bench) -> Comparison:
    """Linear probe on unseen images after the same steps: spread of the augmentations' means and of the algorithms'.

    Nine algorithms in one template, each under three augmentations; no setting is tuned for any of them.
    """
    images = bench.images("cifar10", size=16, n=bench.pick(smoke=None, small=4000))

    def score(trial: Trial, augmentation: str, algorithm: str) -> float:
        train, unseen = trial.split(images)
        words = {"algorithm": algorithm, "augmentation": augmentation, "encoder": {"name": "resnet8", "width": 8}}
        learner = trial.pretrained(SSLTemplate, train, batch_size=128, **words)
        return trial.probe(learner.encoder, train, unseen)

    return bench.factors(
        score,
        factors={"augmentation": tuple(AUGMENTATIONS), "algorithm": tuple(ALGORITHMS)},
        setting="CIFAR-10 at 16 px, batches of 128; one template, 9 algorithms x 3 augmentations",
    )
