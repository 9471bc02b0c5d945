"""Understanding the Behaviour of Contrastive Loss (Wang & Liu, 2021): what the temperature does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, claim
from tacit.errors import expect
from tacit.evaluate import knn_accuracy, uniformity
from tacit.learner import Learner
from tacit.losses import pair_similarity
from tacit.nn import gather, mlp, rank
from tacit.views import two_crops

TEMPERATURES = (0.07, 0.2, 0.5, 1.0)


@system("uniformity-tolerance", paper="arXiv:2012.09740", modality="image")
class HardSimCLR(Learner):
    """SimCLR that pushes away the hardest negatives alone, so that hardness no longer hangs on the temperature.

    The loss is `HardContrastiveLoss`. A small temperature makes SimCLR push the nearest negatives almost alone, many
    of which mean the same as the anchor; a large one pushes all alike. Here a quantile says which are pushed, and the
    temperature may be large. `contrastive_diagnostics` measures what a training has done.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> two batches of views; by default SimCLR's.
        embed_dim: width of the projection that the loss sees.
        hidden_dim: width of the projector's hidden layer.
        temperature: t, above 0.
        hard_quantile: share of the negatives that is left out, the farthest ones; in [0, 1).

    Batches hold at least 2 images.

    >>> from tacit.nn import ResNet
    >>> learner = HardSimCLR(ResNet(8, width=8, image_size=16), hidden_dim=32)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    settings: ClassVar = {
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "hidden_dim": 512,
            "temperature": 1.0,
        },
        "search": {"temperature": [0.5, 1.0], "hard_quantile": [0.8, 0.9, 0.95]},
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        embed_dim: int = 128,
        hidden_dim: int = 2048,
        temperature: float = 1.0,
        hard_quantile: float = 0.9,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = two_crops(encoder.image_size, channels=encoder.in_channels) if views is None else views
        self.projector = mlp(encoder.dim, hidden_dim, embed_dim)
        self.criterion = HardContrastiveLoss(temperature, hard_quantile)

    def loss(self, x: Tensor) -> Tensor:
        a, b = (self.projector(self.encoder(view)) for view in self.views(x))
        return self.criterion(a, b)


@system("uniformity-tolerance", paper="arXiv:2012.09740", modality="any", kind="loss")
class HardContrastiveLoss(nn.Module):
    """NT-Xent over the negatives above a quantile of their similarity to the anchor.

        loss = mean over the 2n views i of
            -log( exp(s_ij / t) / ( exp(s_ij / t) + sum over k in H_i of exp(s_ik / t) ) ),
        H_i  = the views k of other items whose s_ik is in the upper 1 - hard_quantile of them; at least one

    where j is the other view of i's item and s the cosine. With a quantile of 0 it is NT-Xent. The paper has one
    anchor of each pair and a queue; here both views are anchors and the batch gives the negatives, as in SimCLR. On
    several devices they come from all of them. All 2n x 2n similarities are held.

    Args:
        temperature: t, above 0.
        hard_quantile: share of the negatives that is left out; in [0, 1).

    Raises:
        ArgumentError: a number out of range; or the batch has fewer than 2 items (no negative).

    >>> HardContrastiveLoss(1.0)(torch.eye(2), torch.eye(2))      # one negative of cosine 0: log(1 + e^-1)
    tensor(0.3133)
    """

    def __init__(self, temperature: float = 0.5, hard_quantile: float = 0.9) -> None:
        super().__init__()
        expect("temperature", temperature, temperature > 0, "a number above 0")
        expect("hard_quantile", hard_quantile, 0 <= hard_quantile < 1, "a share in [0, 1)")
        self.temperature, self.hard_quantile = temperature, hard_quantile

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Embeddings of two views, (n, d) each, of any norm -> scalar."""
        keys = torch.cat([gather(a), gather(b)])
        total, own = len(keys) // 2, torch.arange(len(a), device=a.device) + rank() * len(a)
        expect("a", tuple(a.shape), total > 1, "at least 2 items, or there is no negative", "raise batch_size")
        logits = _cosines(torch.cat([a, b]), keys) / self.temperature
        item = torch.arange(2 * total, device=a.device) % total
        negatives = logits.masked_fill(item == own.repeat(2)[:, None], -torch.inf)
        kept = max(1, round((1 - self.hard_quantile) * (2 * total - 2)))
        positive = pair_similarity(a, b, self.temperature).repeat(2)
        hardest = negatives.topk(kept, dim=1).values.logsumexp(1)
        return (torch.logaddexp(positive, hardest) - positive).mean()


@dataclass(frozen=True)
class ContrastiveDiagnostics:
    """What `contrastive_diagnostics` finds.

    Attributes:
        uniformity: log of the mean Gaussian potential: the lower, the more evenly spread.
        tolerance: mean cosine of two items of one class: the higher, the closer what means the same.
        penalty_entropy: in nats; how many negatives share the push, from 0 (the nearest alone) to log(n - 1).
    """

    uniformity: float
    tolerance: float
    penalty_entropy: float


@system("uniformity-tolerance", paper="arXiv:2012.09740", modality="features", kind="function")
def contrastive_diagnostics(
    z: Tensor | np.ndarray, y: Tensor | np.ndarray, *, temperature: float = 0.5
) -> ContrastiveDiagnostics:
    """Where embeddings stand between spreading evenly and keeping classes together.

        uniformity      = log mean over pairs of exp(-2 ||z_i - z_j||^2)
        tolerance       = mean of z_i . z_j over pairs of one class
        penalty_entropy = mean over i of the entropy of r_i,   r_ij = exp(s_ij / t) / sum over k != i of exp(s_ik / t)

    for unit rows z. r_ij is negative j's share of the gradient of InfoNCE at anchor i; its entropy rises
    strictly with t, from the nearest negative alone to all alike.

    Args:
        z: (n, d) embeddings, such as the projections that the loss sees; n >= 2.
        y: (n,) classes, at least one with two items.
        temperature: t, above 0.

    Raises:
        ArgumentError: shapes that do not fit, NaN, no class with two items, or temperature not above 0.

    >>> found = contrastive_diagnostics(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]), torch.tensor([0, 0, 1, 1]))
    >>> found.tolerance, round(found.penalty_entropy, 3)
    (1.0, 0.666)
    """
    entropy = penalty_entropy(z, temperature)
    return ContrastiveDiagnostics(uniformity(z), tolerance(z, y), entropy)  # type: ignore[arg-type]


def tolerance(z: Tensor | np.ndarray, y: Tensor | np.ndarray) -> float:
    """Mean cosine over all pairs of different items of one class, in linear time.

    >>> tolerance(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 0, 1]))
    0.0
    """
    rows, y = torch.as_tensor(z), torch.as_tensor(y)
    expect("y", tuple(y.shape), y.shape == rows.shape[:1], f"({len(rows)},), a class for each row of z")
    classes, number, sizes = y.unique(return_inverse=True, return_counts=True)
    expect("y", sizes.tolist(), bool((sizes > 1).any()), "a class with at least two items")
    unit = nn.functional.normalize(rows.double(), dim=1)
    sums = unit.new_zeros(len(classes), unit.shape[1]).index_add_(0, number, unit)
    own = unit.square().sum()  # of each item with itself
    return float((sums.square().sum() - own) / (sizes * (sizes - 1)).sum())


def penalty_entropy(z: Tensor | np.ndarray, temperature: float) -> float:
    """Mean entropy of the shares that the other items have in the push on each item (`contrastive_diagnostics`)."""
    expect("temperature", temperature, temperature > 0, "a number above 0")
    rows = torch.as_tensor(z).float()
    expect("z", tuple(rows.shape), rows.ndim == 2 and len(rows) > 1, "(n, d) with at least 2 rows")
    entropies, block = [], max(1, 2**24 // len(rows))
    for start in range(0, len(rows), block):
        logits = _cosines(rows[start : start + block], rows) / temperature
        here = torch.arange(len(logits))
        logits[here, here + start] = -torch.inf
        logs = logits.log_softmax(1).masked_fill(logits == -torch.inf, 0)
        shares = logits.softmax(1)
        entropies.append(-(shares * logs).sum(1).double())
    return float(torch.cat(entropies).mean())


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """(n, d), (m, d) -> (n, m), in float32 (or float64) under autocast too."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = (x if x.dtype == torch.float64 else x.float() for x in (a, b))
        return nn.functional.normalize(a, dim=1) @ nn.functional.normalize(b, dim=1).T


def _at(trial: Trial, part: Part, temperature: float) -> Learner:
    """SimCLR at a temperature, trained once for all claims."""
    return trial.pretrained("simclr", part, temperature=temperature, batch_size=128)


def _embeddings(trial: Trial, learner: Learner, x: Tensor) -> Tensor:
    """The projections of images as they are, which the loss spreads over the sphere."""
    return trial.predict(learner.projector, trial.predict(learner.encoder, x))


@claim(
    "the higher the temperature, the less evenly embeddings spread over the sphere",
    reported="'we build relations between the uniformity and the temperature' (abstract); its numbers were not at hand",
    proxy="SimCLR with a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels, in place of a ResNet-18 for 200 epochs",
    steps={"small": 300},
)
def uniformity_falls(bench: Bench) -> Comparison:
    """Log of the mean Gaussian potential of unseen images' embeddings (low is uniform), which is to rise."""
    images = bench.images("cifar10", size=16, n=5000, n_test=2000)

    def potential(trial: Trial, temperature: float) -> float:
        train, unseen = trial.split(images)
        return float(uniformity(_embeddings(trial, _at(trial, train, temperature), unseen.x)))

    said = "SimCLR on CIFAR-10 at 16 px, batches of 128, for each temperature"
    return bench.curve(potential, over=TEMPERATURES, shape="rises", setting=said)


@claim(
    "the higher the temperature, the more tolerant embeddings are: images of one class lie closer",
    reported="a small temperature is 'not tolerant to semantically similar samples' (abstract); numbers not at hand",
    proxy="SimCLR with a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels, in place of a ResNet-18 for 200 epochs",
    steps={"small": 300},
)
def tolerance_rises(bench: Bench) -> Comparison:
    """Mean cosine of unseen images of one class."""
    images = bench.images("cifar10", size=16, n=5000, n_test=2000)

    def closeness(trial: Trial, temperature: float) -> float:
        train, unseen = trial.split(images)
        z = _embeddings(trial, _at(trial, train, temperature), unseen.x)
        return unseen.score(z, by=lambda y, z: tolerance(z, y))

    said = "SimCLR on CIFAR-10 at 16 px, batches of 128, for each temperature"
    return bench.curve(closeness, over=TEMPERATURES, shape="rises", setting=said)


@claim(
    "a temperature in between gives better features than either extreme",
    reported="'a good choice of temperature can compromise these two properties' (abstract); numbers not at hand",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels; 0.2 and 0.5 against 0.07 and 1",
    steps={"small": 300},
)
def best_in_between(bench: Bench) -> Comparison:
    """k-NN accuracy on unseen images of the better of 0.2 and 0.5, against the better of 0.07 and 1.

    Which is the better is read off a part of the training images, whose labels no training has seen.
    """
    images = bench.images("cifar10", size=16, n=5000, n_test=5000)
    pairs = bench.pick(smoke=((0.2,), (1.0,)), small=((0.2, 0.5), (0.07, 1.0)))

    def sides(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        known, held_out = train.divide(0.8)

        def on_validation(temperature: float) -> float:
            encoder = _at(trial, train, temperature).encoder
            seen, new = trial.predict(encoder, known.x), trial.predict(encoder, held_out.x)
            guess = np.zeros(len(held_out))
            return held_out.score(guess, by=lambda y, _: float(knn_accuracy(seen, known.y, new, torch.from_numpy(y))))

        inner, outer = (_at(trial, train, max(pair, key=on_validation)) for pair in pairs)
        return trial.probe(inner.encoder, train, unseen, "knn"), trial.probe(outer.encoder, train, unseen, "knn")

    said = "SimCLR on CIFAR-10 at 16 px, batches of 128; each side's temperature by k-NN on validation images"
    return bench.trials(sides, baseline="the better of the extremes", better_by=0.0, setting=said)


@claim(
    "pushing the hardest negatives alone mends the features of a large temperature",
    reported="explicit hard negatives keep accuracy where the contrastive loss falls off; numbers not at hand",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels, temperature 1, the hardest tenth of a batch of 128",
    steps={"small": 300},
)
def hard_negatives_help(bench: Bench) -> Comparison:
    """k-NN accuracy on unseen images, both at temperature 1."""
    images = bench.images("cifar10", size=16, n=5000, n_test=5000)
    both = {"temperature": 1.0, "batch_size": 128}
    return bench.compare(HardSimCLR, baseline="simclr", data=images, by="knn", better_by=0.0, **both)
