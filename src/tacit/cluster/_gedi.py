"""Unifying Self-Supervised Clustering and Energy-Based Models (Sansone & Manhaeve, 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, claim
from tacit.data import glyphs, resize
from tacit.embedding import evaluating, prepared
from tacit.errors import expect
from tacit.evaluate import nmi
from tacit.learner import Learner
from tacit.nn import ImageEncoder, ReplayBuffer, langevin
from tacit.views import two_crops

BATCH = 256
"""Items that are read at once by `predict` and its like."""


class EnergyTrunk(ImageEncoder):
    """Smooth convolutions without normalisation over the batch: images (n, c, s, s) in [0, 1] -> (n, dim).

    A batch's statistics would make the density of an image depend on the images beside it. Each stage halves the side
    until it is under 8, and the maps are averaged over what is left.

    Args:
        image_size: side in pixels, at least 4.
        in_channels: channels of the images.
        width: channels of the first layer, doubled by each of the first two stages.
    """

    def __init__(self, image_size: int, in_channels: int, width: int) -> None:
        expect("image_size", image_size, image_size >= 4, "at least 4 pixels")
        expect("width", width, width >= 1, "at least 1")
        halvings = max(1, image_size.bit_length() - 3)
        widths = [width * 2 ** min(i, 2) for i in range(halvings + 1)]
        config = {"name": "gedi", "image_size": image_size, "in_channels": in_channels, "width": width}
        super().__init__(dim=widths[-1], image_size=image_size, in_channels=in_channels, config=config)
        self.std.fill_(0.5)  # pixels in [-1, 1]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1), nn.SiLU()]
        for below, above in pairwise(widths):
            layers += [nn.Conv2d(below, above, 4, stride=2, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(above, above, 3, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.normalize(x)).mean((2, 3))


@system("gedi", paper="arXiv:2401.00873", modality="image")
class GEDI(Learner):
    """One network sorts items into clusters and says how likely they are: clustering and energy model in one.

        p(x) = (1/Z) sum over y of exp f(x)_y,      p(y | x) = softmax f(x)

        loss =  w_g  E[ -log p(x) ]  +  w_i  E[ CE(p(y | x'), p(y | x'')) ]  +  w_p  CE(1/c, E[p(y | x')])

    x' and x'' are two views of x, c the number of clusters. The first term is trained by contrast with samples of the
    model, which come from Langevin dynamics on the log-density logsumexp f (as in JEM, arXiv:1912.03263):

        gradient of -log p(x)  =  grad( logsumexp f(x~) - logsumexp f(x) ),      x~ from the model

    The two cross-entropies are not negative, so that -loss bounds the log-likelihood from below for any weights. Each
    term forbids a failure of its own: all items alike (the first), two views in clusters of their own (the second), and
    all items in one cluster (the third); `single_optimum` checks what the last two cost.

    **Version.** The bound of three terms: a generative one, invariance to views and uniformity of the clusters, as the
    first author's arXiv:2309.15420 and the abstract of the published version (TMLR, 2025) name them. The paper's full
    text and its code could not be read. The two cross-entropies agree with the authors' `gedi_nogen` loss in their
    later repository emsansone/CPLearn, which sums the prior's over clusters where this has the mean, and compares views
    in one order where this has both. Weights are this file's, steps of the sampler JEM's (1 with noise 0.01 on pixels
    in [-1, 1]).

    The generative term is a difference of two log-densities whose constant is unknown: it hovers around 0 when chains
    keep up with the model, and runs off to large negative values when they do not: take a smaller `lr`, more
    `sgld_steps`, or a smaller `generative_weight`.

    Args:
        backbone: x -> (n, backbone.dim), each row by itself (no BatchNorm); None: an `EnergyTrunk` for images. With
            one of your own also give `shape`, and `views`; a run's folder then holds its weights but cannot build it.
        image_size, in_channels: of the images; they count where there is no backbone.
        shape: of an item; None: that of the images.
        bounds: of an item's values: chains are kept within, and start uniform between.
        n_clusters: c.
        width: channels of the trunk's first layer.
        views: batch -> two batches of views; by default SimCLR's crops.
        generative_weight, invariance_weight, prior_weight: w_g, w_i, w_p, at least 0; an energy model alone (as JEM
            without labels) has only the first, self-supervised clustering alone only the other two.
        sgld_steps: of a chain at each step of the training.
        step_size, noise: of a chain's step, for values in `bounds`.
        buffer_size: samples kept, from which chains go on.
        restart: share of chains that start anew.
        input_noise: standard deviation of what is added to items before their density is raised.

    Attributes:
        encoder: the backbone; what the user keeps.
        head: features -> f, (n, n_clusters).
        buffer: a `tacit.nn.ReplayBuffer`.

    Raises:
        ArgumentError: a number out of range.

    >>> learner = GEDI(image_size=8, in_channels=1, n_clusters=3, width=4, sgld_steps=2, buffer_size=16)
    >>> x = torch.rand(5, 1, 8, 8)
    >>> learner.predict(x).shape, learner.score_samples(x).shape, learner.sample(2).shape
    (torch.Size([5]), torch.Size([5]), torch.Size([2, 1, 8, 8]))
    """

    settings: ClassVar = {
        "paper": {"optimizer": "adamw", "weight_decay": 0.0, "lr": 1e-3, "max_steps": 7000, "schedule": "constant"},
        "small": {
            "optimizer": "adamw",
            "weight_decay": 0.0,
            "lr": 1e-3,
            "batch_size": 64,
            "schedule": "constant",
            "warmup": 0.05,
            "sgld_steps": 10,
            "width": 16,
        },
    }
    loss_falls: ClassVar = False  # the samples follow the model: their difference in density need not fall

    def __init__(
        self,
        backbone: nn.Module | None = None,
        *,
        image_size: int = 32,
        in_channels: int = 3,
        shape: Sequence[int] | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
        n_clusters: int = 10,
        width: int = 32,
        views: nn.Module | None = None,
        generative_weight: float = 1.0,
        invariance_weight: float = 1.0,
        prior_weight: float = 1.0,
        sgld_steps: int = 20,
        step_size: float = 0.25,
        noise: float = 0.005,
        buffer_size: int = 2000,
        restart: float = 0.05,
        input_noise: float = 0.015,
    ) -> None:
        super().__init__()
        weights = {"generative": generative_weight, "invariance": invariance_weight, "prior": prior_weight}
        for name, weight in weights.items():
            expect(f"{name}_weight", weight, weight >= 0, "a number of at least 0")
        expect("weights", weights, sum(weights.values()) > 0, "one of them above 0")
        expect("n_clusters", n_clusters, n_clusters >= 2, "at least 2")
        expect("sgld_steps", sgld_steps, sgld_steps >= 1, "at least 1")
        expect("step_size", step_size, step_size > 0, "a number above 0")
        expect("noise, input_noise", (noise, input_noise), min(noise, input_noise) >= 0, "numbers of at least 0")
        expect("backbone", backbone, backbone is None or shape is not None, "shape= beside it, that of an item")
        self.encoder = EnergyTrunk(image_size, in_channels, width) if backbone is None else backbone
        self.head = nn.Linear(self.encoder.dim, n_clusters)
        self.views = two_crops(image_size, channels=in_channels) if views is None else views
        item = (in_channels, image_size, image_size) if shape is None else tuple(shape)
        self.buffer = ReplayBuffer(buffer_size, item, restart=restart, bounds=bounds)
        self.weights, self.n_clusters, self.input_noise = weights, n_clusters, input_noise
        self.sgld_steps, self.step_size, self.noise = sgld_steps, step_size, noise
        self._ends: tuple[Tensor, Tensor] | None = None

    def logits(self, x: Tensor) -> Tensor:
        """f of what the encoder reads, (n, n_clusters), in float32."""
        return self.head(self.encoder(x)).float()

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) + log Z of what the encoder reads, (n,)."""
        return self.logits(x).logsumexp(1)

    def loss(self, x: Tensor) -> Tensor:
        total = torch.zeros((), device=self.head.weight.device)
        if self.weights["generative"]:
            total = total + self.weights["generative"] * self._contrast(prepared(self.encoder, x))
        if self.weights["invariance"] or self.weights["prior"]:
            a, b = (self.logits(view) for view in self.views(x))
            total = total + self.weights["invariance"] * invariance_loss(a, b)
            total = total + self.weights["prior"] * (prior_loss(a) + prior_loss(b)) / 2
        return total

    def after_step(self, progress: float) -> None:
        if self._ends is not None:
            self.buffer.store(*self._ends)
            self._ends = None

    def _contrast(self, x: Tensor) -> Tensor:
        """Whose gradient is that of -log p(x), from samples that go on where the last ones ended."""
        starts, rows = self.buffer.draw(len(x))
        ends = self._chain(starts, self.sgld_steps)
        self._ends = (ends, rows) if self.training else None
        noisy = x + self.input_noise * torch.randn_like(x)
        return self.log_density(ends).mean() - self.log_density(noisy).mean()

    def _chain(self, starts: Tensor, n_steps: int) -> Tensor:
        settings: dict[str, Any] = {"step_size": self.step_size, "noise": self.noise, "bounds": self.buffer.bounds}
        return langevin(self.log_density, starts, n_steps, **settings)

    # what the trained model says --------------------------------------------------------------------------------------

    def predict(self, x: Tensor | np.ndarray) -> Tensor:
        """The cluster of each item, int64 (n,)."""
        return self._told(x).argmax(1)

    def predict_proba(self, x: Tensor | np.ndarray) -> Tensor:
        """p(y | x), (n, n_clusters)."""
        return self._told(x).softmax(1)

    def score_samples(self, x: Tensor | np.ndarray) -> Tensor:
        """log p(x) but for a constant, (n,): high for items like those learned from, low for others."""
        return self._told(x).logsumexp(1)

    def sample(self, n: int, n_steps: int = 100) -> Tensor:
        """New items, (n, *shape) within `bounds`: chains from the buffer that go on; chance is torch's global one."""
        expect("n", n, n >= 1, "at least 1")
        with evaluating(self):
            return torch.cat([self._chain(self.buffer.draw(size)[0], n_steps) for size in _sizes(n)])

    @torch.no_grad()
    def _told(self, x: Tensor | np.ndarray) -> Tensor:
        items, device = torch.as_tensor(x), self.head.weight.device
        with evaluating(self):
            parts = [self.logits(prepared(self.encoder, part.to(device))) for part in items.split(BATCH)]
        return torch.cat(parts).cpu()


def invariance_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean cross-entropy between the clusters of two views, either way round; both sides learn.

    Args:
        a, b: logits (n, c).

    >>> unsure = torch.zeros(3, 2)
    >>> invariance_loss(unsure, unsure)  # log 2: equal, but nothing is said
    tensor(0.6931)
    """
    return (F.cross_entropy(a, b.softmax(1)) + F.cross_entropy(b, a.softmax(1))) / 2


def prior_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of equal shares with the batch's mean probabilities, (n, c) logits; log c where it is least."""
    return math.log(len(logits)) - logits.log_softmax(1).logsumexp(0).mean()


def _sizes(n: int) -> list[int]:
    return [min(BATCH, n - start) for start in range(0, n, BATCH)]


# Claims ---------------------------------------------------------------------------------------------------------------

SIDES: dict[str, dict[str, Any]] = {
    "gedi": {},
    "energy": {"invariance_weight": 0.0, "prior_weight": 0.0},
    "ssl": {"generative_weight": 0.0},
}
"""The whole, an energy model alone, and self-supervised clustering alone: one network, by its weights."""


class PlaneBackbone(nn.Module):
    """Points (n, 2) -> (n, dim), two smooth layers."""

    def __init__(self, dim: int = 100) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.Linear(2, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Jittered(nn.Module):
    """Two copies of a batch, each with Gaussian noise of its own."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + self.deviation * torch.randn_like(x), x + self.deviation * torch.randn_like(x)


def two_shapes(n: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Half the points on two half-moons, half on one circle in another, with noise of deviation 0.05.

    Returns:
        x (n, 2), standardised; y (n,), moon or circle 0 or 1; task (n,), 0 for moons and 1 for circles, in turns.
    """
    from sklearn.datasets import make_circles, make_moons

    halves = [
        make_moons((n + 1) // 2, noise=0.05, random_state=seed),
        make_circles(n // 2, noise=0.05, factor=0.5, random_state=seed),
    ]
    x, y, task = np.empty((n, 2), np.float32), np.empty(n, np.int64), np.arange(n) % 2
    for number, (points, labels) in enumerate(halves):
        x[task == number] = (points - points.mean(0)) / points.std(0)
        y[task == number] = labels
    return {"x": x, "y": y, "task": task}


def _plane_clusters(trial: Trial, train: Part, x: Tensor, side: str) -> Tensor:
    """Clusters of new points. Langevin steps are those of an exact chain, 0.01 with noise sqrt(0.02)."""
    torch.manual_seed(trial.seed)  # all sides start from the same network
    learner = GEDI(
        PlaneBackbone(),
        shape=(2,),
        bounds=(-3.0, 3.0),
        n_clusters=2,
        views=Jittered(0.2),
        sgld_steps=10,
        step_size=0.01,
        noise=math.sqrt(0.02),
        input_noise=0.0,
        **SIDES[side],
    )
    return trial.fit(learner, train, batch_size=128).predict(x)


def _on_planes(bench: Bench, other: str) -> Callable[[Trial], list[float]]:
    """Mean NMI over moons and circles: the whole, and the other side."""
    points = bench.drawn(two_shapes, n=2000, n_test=2000, inputs=("task",))

    def sides(trial: Trial) -> list[float]:
        train, unseen = trial.split(points)
        task, found = torch.as_tensor(unseen.columns["task"]), []
        for side in ("gedi", other):
            clusters = torch.zeros(len(task), dtype=torch.int64)
            for number in (0, 1):
                part = train.select(torch.where(train.columns["task"] == number)[0])
                clusters[task == number] = _plane_clusters(trial, part, unseen.x[task == number], side)
            found.append(unseen.score(clusters, by=lambda y, c: _mean_nmi(y, c, task.numpy())))
        return found

    return sides


def _mean_nmi(y: np.ndarray, clusters: np.ndarray, task: np.ndarray) -> float:
    return float(np.mean([nmi(y[task == number], clusters[task == number]) for number in np.unique(task)]))


@claim(
    "with the clustering terms, an energy model finds clusters that it does not find by likelihood alone",
    reported="'outperforming existing self-supervised learning strategies in terms of clustering' (abstract); the "
    "paper's Table 2 has NMI on moons and circles, which was not at hand",
    proxy="moons and circles, 1,000 points each, a network of two layers of 100, 1,500 steps in place of 7,000",
    steps={"small": 1500, "full": 7000},
)
def clusters_better_than_energy_alone(bench: Bench) -> Comparison:
    """Mean NMI of two clusters on unseen points of moons and of circles, against JEM's energy model without labels."""
    said = "moons and circles in the plane, views by Gaussian noise of 0.2, 10 Langevin steps"
    return bench.trials(_on_planes(bench, "energy"), baseline="energy model alone", better_by=0.0, setting=said)


@claim(
    "with the energy model, clusters are no worse than by self-supervised clustering alone",
    reported="'outperforming existing self-supervised learning strategies in terms of clustering' (abstract)",
    proxy="against the same two terms without the generative one; moons and circles, 1,500 steps in place of 7,000",
    steps={"small": 1500, "full": 7000},
)
def clusters_no_worse_than_ssl_alone(bench: Bench) -> Comparison:
    """Mean NMI of two clusters on unseen points of moons and of circles; steps, batches and first weights alike."""
    said = "moons and circles in the plane, views by Gaussian noise of 0.2, 10 Langevin steps"
    return bench.trials(_on_planes(bench, "ssl"), baseline="clustering terms alone", not_worse_by=0.02, setting=said)


def _digit_model(trial: Trial, train: Part, side: str) -> GEDI:
    views = two_crops(8, channels=1, preset="crop", flip=False, scale=(0.5, 1.0))
    learner = trial.build(GEDI, train, views=views, **{"prior_weight": 3.0, **SIDES[side]})
    return trial.fit(learner, train)  # type: ignore[no-any-return]


def _auroc(above: Tensor, below: Tensor) -> float:
    """Share of pairs in which the first scores higher; half of those that are equal."""
    gaps = above[:, None] - below
    return float((gaps > 0).double().mean() + (gaps == 0).double().mean() / 2)


@claim(
    "its density tells handwritten digits from letters better than self-supervised clustering alone does",
    reported="out-of-distribution detection on SVHN, CIFAR-10 and CIFAR-100 better 'by a wide margin' (abstract)",
    proxy="scikit-learn's 8 x 8 digits against capitals in 21 fonts at that size, a small network, 400 steps",
    steps={"small": 400, "full": 10_000},
)
def density_tells_letters_from_digits(bench: Bench) -> Comparison:
    """AUROC of unseen digits against letters, no letter seen before.

    The baseline takes the better of two scores, by the same test: the log-sum-exp of its logits, and the largest
    probability of a cluster, as is usual for classifiers (Hendrycks & Gimpel, 2017).
    """
    images = bench.images("digits", n=bench.pick(smoke=None, small=1300), n_test=bench.pick(smoke=None, small=400))

    def sides(trial: Trial) -> list[float]:
        train, unseen = trial.split(images)
        letters = torch.from_numpy(resize(glyphs(400, seed=trial.seed, image_size=16)["x"], 8))
        whole, alone = (_digit_model(trial, train, side) for side in ("gedi", "ssl"))
        sure = [alone.predict_proba(x).amax(1) for x in (unseen.x, letters)]
        return [
            _auroc(whole.score_samples(unseen.x), whole.score_samples(letters)),
            max(_auroc(alone.score_samples(unseen.x), alone.score_samples(letters)), _auroc(*sure)),
        ]

    said = "digits at 8 px, crops of half to all of the area, 10 Langevin steps"
    return bench.trials(sides, baseline="clustering terms alone, the better of two scores", better_by=0.0, setting=said)


@claim(
    "invariance and prior together are least for sure, equal and equally frequent clusters; each failure costs more",
    reported="the bound 'reliably penalizes the most important failure modes' (abstract); theorems without a number",
    steps={"small": 1},
)
def single_optimum(bench: Bench) -> Comparison:
    """With c clusters, invariance + prior is log c at the optimum, never less, and at least log c + log 2 on failure.

    Failures are all items alike, whatever they say (representation and cluster collapse): if no cluster has more than
    half of the probability its entropy is log 2 or more, and otherwise the prior costs as much. And views that are
    sure of different clusters (a permutation of the labels), which cost the more the surer they are.
    """

    def costs(trial: Trial) -> tuple[list[float], list[float]]:
        less: list[float] = []
        more: list[float] = []
        for c in (2, 5, 10):
            n, log_c = 20 * c, math.log(c)
            best = 100 * torch.eye(c, dtype=torch.double).repeat(20, 1)
            less, more = [*less, _discriminative(best, best)], [*more, log_c]
            less, more = [*less, log_c + math.log(2)], [*more, _discriminative(best, best.roll(1, 1))]
            for scale in (0.01, 0.1, 1.0, 3.0, 10.0, 100.0):
                a, b = (scale * torch.randn(n, c, generator=trial.generator, dtype=torch.double) for _ in range(2))
                alike = a[:1].expand(n, c)
                less, more = [*less, log_c], [*more, _discriminative(a, b)]
                less, more = [*less, log_c + math.log(2)], [*more, _discriminative(alike, alike)]
        return less, more

    return bench.bound(costs, tolerance=1e-9, setting="random logits of six scales; 2, 5 and 10 clusters")


def _discriminative(a: Tensor, b: Tensor) -> float:
    return float(invariance_loss(a, b) + (prior_loss(a) + prior_loss(b)) / 2)
