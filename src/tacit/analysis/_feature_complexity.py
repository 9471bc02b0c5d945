"""Understanding Visual Feature Reliance through the Lens of Complexity (Fel et al., 2024)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Picture, Trial, claim, drawing
from tacit.embedding import evaluating, prepared
from tacit.errors import DataError, expect, unknown
from tacit.nn import Classifier
from tacit.training import Callback

Array = NDArray[Any]
PENALTIES = np.logspace(-6, 1, 8)
"""Ridge penalties that are tried, in mean squared standardised inputs."""

SHARES = (0.6, 0.2)
"""Of the items: to fit dictionary and probes, and to choose penalties; the rest scores."""


@dataclass(frozen=True)
class FeatureComplexity:
    """What `feature_complexity` gives for m features and the layers l_1 to l_n.

    Attributes:
        layers: names, n of them.
        dictionary: (m, d), each feature's direction in the activations of the last layer, at least 0.
        codes: z (N, m) of all items, at least 0.
        information: (m, n), what a probe can use of each layer to tell each feature, in [0, 1].
    """

    layers: tuple[str, ...]
    dictionary: Array
    codes: Array
    information: Array

    @property
    def complexity(self) -> Array:
        """K (m,), in [0, 1]: 1 minus the mean information over the layers."""
        return 1 - self.information.mean(axis=1)


@system("feature-complexity-vinfo", paper="arXiv:2407.06076", modality="image")
def feature_complexity(
    model: nn.Module,
    x: Tensor,
    *,
    layers: Sequence[str],
    n_features: int = 100,
    probe_size: int = 0,
    grid: int = 4,
    seed: int = 0,
) -> FeatureComplexity:
    """How much computation each feature of a network takes: how late a simple probe can read it off.

        A ~ z D,   z, D >= 0             activations of the last layer, by non-negative matrix factorisation
        I(f_l(x) -> z) = H_V(z) - H_V(z | f_l(x))      usable information of layer l, for probes V (Xu et al., 2020)
        K(z) = 1 - mean over layers of I(f_l(x) -> z)

    A feature that the first layers show to a linear probe has K near 0; one that only the last layer shows, near 1.
    V holds the linear maps with Gaussian noise of fixed variance, for which I is the share of the variance explained
    once it is divided by that of z: R^2, below 0 taken as 0. With `probe_size` the maps may also use that many random
    ReLU features of the layer: a family that holds all smaller ones. Everything is scored on items that neither the
    dictionary nor the probes were fitted to.

    The paper factorises the activations class by class (10 directions for each of ImageNet's 1,000); here all at once.

    Args:
        model: read in eval mode, and left as it was; its `prepare` is applied if it has one.
        x: images (N, c, h, w), at least 20.
        layers: names of modules, as `model.named_modules()` has them, from the first to the penultimate: the last one
            holds the features. Maps (n, c, h, w) are averaged over `grid` x `grid` cells for the probes, and over all
            of space for the features; tokens (n, t, d) over t.
        n_features: directions asked for; those that no item uses are left out.
        probe_size: random features that a probe may use beside the layer itself.
        grid: cells along each side.
        seed: of split, dictionary and random features.

    Raises:
        ArgumentError: an unknown layer, or numbers out of range.
        DataError: activations below 0 in the last layer (take one after a ReLU), or too few items.

    >>> from tacit.nn import ResNet
    >>> model, x = ResNet(8, width=4, image_size=8), torch.rand(60, 3, 8, 8)
    >>> found = feature_complexity(model, x, layers=["stem", "stages.0", "stages.2"], n_features=5)
    >>> found.information.shape, bool(found.information[:, 2].mean() > found.information[:, 0].mean())
    ((5, 3), True)
    """
    expect("n_features", n_features, n_features >= 1, "at least 1")
    expect("grid", grid, grid >= 1, "at least 1")
    if len(x) < 20:
        raise DataError(f"x: expected at least 20 images, got {len(x)}")
    read = read_layers(model, x, layers, grid)
    activations = read_layers(model, x, layers[-1:], 1)[0]
    fitted, chosen, scored = _split(len(x), seed)
    dictionary, codes = factorise(activations, fitted, n_features, seed)
    used = (codes[fitted].std(axis=0) > 0) & (codes[scored].std(axis=0) > 0)
    dictionary, codes = dictionary[used], codes[:, used]
    information = [
        usable_information(
            *[side[rows] for rows in (fitted, chosen, scored) for side in (layer, codes)],
            probe_size=probe_size, seed=seed,
        )
        for layer in read
    ]  # fmt: skip
    return FeatureComplexity(tuple(layers), dictionary, codes, np.stack(information, axis=1))


def usable_information(
    x: Array, z: Array, val_x: Array, val_z: Array, new_x: Array, new_z: Array, *, probe_size: int = 0, seed: int = 0
) -> Array:
    """What linear probes of x can tell of each column of z, as the share of its variance: R^2 on new rows, in [0, 1].

    Args:
        x, z: (n, d) and (n, m), which the probes are fitted to.
        val_x, val_z: rows that choose each probe's ridge penalty.
        new_x, new_z: rows that score.
        probe_size: random ReLU features of x that the probes may use beside x itself; those of a smaller number are
            the first ones of a larger.
        seed: of the random features.

    >>> x = np.random.default_rng(0).normal(size=(300, 2))
    >>> z = np.stack([x @ [1, 2], x[:, 0] ** 2], axis=1)
    >>> parts = [side[rows] for rows in (slice(0, 200), slice(200, 250), slice(250, 300)) for side in (x, z)]
    >>> usable_information(*parts).round(1), usable_information(*parts, probe_size=200).round(1)
    (array([1., 0.]), array([1., 1.]))
    """
    expect("probe_size", probe_size, probe_size >= 0, "0 or more")
    x, val_x, new_x = _inputs((x, val_x, new_x), probe_size, seed)
    mean = z.mean(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    toward = vectors.T @ x.T @ (z - mean) / len(x)

    def left(x: Array, z: Array) -> Array:
        """Mean squared error by penalty and column."""
        turned = x @ vectors
        shrunk = (toward / (np.maximum(values, 0) + penalty)[:, None] for penalty in PENALTIES)
        return np.stack([np.square(z - mean - turned @ weights).mean(axis=0) for weights in shrunk])

    best = left(val_x, val_z).argmin(axis=0)
    error = left(new_x, new_z)[best, np.arange(z.shape[1])]
    total = np.square(new_z - mean).mean(axis=0)
    return np.clip(1 - error / np.where(total > 0, total, 1), 0, 1)


def _inputs(parts: Sequence[Array], probe_size: int, seed: int) -> list[Array]:
    """Standardised by the first part, and random features of it, centred likewise: no column of ones is needed."""
    mean, std = parts[0].mean(axis=0), parts[0].std(axis=0)
    scaled = [(part.astype(float) - mean) / np.where(std > 1e-9, std, np.inf) for part in parts]
    d = scaled[0].shape[1]
    drawn = np.random.default_rng(seed).normal(size=(probe_size, d + 1)) / np.r_[np.full(d, d**0.5), 1]
    hidden = [np.maximum(part @ drawn[:, :d].T + drawn[:, d], 0) for part in scaled]
    offset = hidden[0].mean(axis=0)
    return [np.concatenate([part, more - offset], axis=1) for part, more in zip(scaled, hidden, strict=True)]


def feature_importance(codes: Array, dictionary: Array, head: Callable[[Tensor], Tensor]) -> Array:
    """How much each feature adds to the logit of the predicted class: mean over items of |z_i d(logit)/d(z_i)|, (m,).

    Args:
        codes: z (n, m).
        dictionary: D (m, d).
        head: activations (n, d) -> logits (n, c).

    >>> feature_importance(np.array([[1.0, 2.0]]), np.eye(2), lambda a: a * torch.tensor([3.0, 1.0]))
    array([3., 0.], dtype=float32)
    """
    z = torch.from_numpy(np.asarray(codes, np.float32)).requires_grad_()
    logits = head(z @ torch.from_numpy(np.asarray(dictionary, np.float32)))
    (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), z)
    return (gradient * z).detach().abs().mean(0).numpy()


def factorise(activations: Array, fitted: Array, n_features: int, seed: int = 0) -> tuple[Array, Array]:
    """D (m, d) from the rows `fitted` of activations (N, d), and the codes z (N, m) of all rows.

    Raises:
        DataError: an activation below 0.
    """
    from sklearn.decomposition import NMF

    if activations.min() < 0:
        raise DataError("layers: the last one has activations below 0; expected one after a ReLU")
    most = min(len(fitted), activations.shape[1])
    start = "nndsvda" if n_features <= most else "random"
    model = NMF(n_features, init=start, random_state=seed, max_iter=300, tol=1e-3)
    model.fit(activations[fitted])
    return model.components_, model.transform(activations)


def read_layers(model: nn.Module, x: Tensor, layers: Sequence[str], grid: int, batch_size: int = 256) -> list[Array]:
    """What the named modules give for x, averaged as `feature_complexity` says: (N, d_l) for each layer.

    Raises:
        ArgumentError: a name that the model does not have.
    """
    modules = dict(model.named_modules())
    expect("layers", tuple(layers), len(layers) >= 1, "at least one name")
    for name in layers:
        if name not in modules:
            raise unknown("layers", name, modules)
    now: dict[str, Tensor] = {}
    hooks = [modules[name].register_forward_hook(_keeper(now, name)) for name in layers]
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with evaluating(model), torch.no_grad():
            for batch in x.split(batch_size):
                model(prepared(model, batch.to(device)))
                for name in layers:
                    found[name].append(_averaged(now[name], grid).float().cpu())
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(found[name]).numpy() for name in layers]


def _keeper(now: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        now[name] = output

    return keep


def _averaged(y: Tensor, grid: int) -> Tensor:
    if y.ndim == 4:
        return F.adaptive_avg_pool2d(y, (min(grid, y.shape[2]), min(grid, y.shape[3]))).flatten(1)
    return y.mean(1) if y.ndim == 3 else y


def _split(n: int, seed: int) -> list[Array]:
    order = np.random.default_rng(seed).permutation(n)
    first, second = round(SHARES[0] * n), round(sum(SHARES) * n)
    return [order[:first], order[first:second], order[second:]]


class _Snapshots(Callback):
    """Copies of a model after some steps."""

    def __init__(self, model: nn.Module, steps: Sequence[int]) -> None:
        self.model, self.steps = model, set(steps)
        self.kept: list[nn.Module] = []

    def step(self, step: int, loss: float, lr: float, health: str | None) -> None:
        if step in self.steps:
            self.kept.append(copy.deepcopy(self.model).cpu())


LAYERS = ("encoder.stem", "encoder.stages.0", "encoder.stages.1", "encoder.stages.2")


def _learner(trial: Trial, train: Part) -> Any:
    encoder = trial.encoder({"name": "resnet8", "width": 16}, train)
    return trial.build("supervised", train, classifier=Classifier(encoder, train.n_classes or 10))


@claim(
    "simple features are learned first, complex ones later",
    reported="simpler features dominate early in training, and more complex ones emerge gradually (abstract)",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels and 48 features, in place of a ResNet-50 on ImageNet",
    steps={"small": 400, "full": 10_000},
)
def simple_features_come_first(bench: Bench) -> Comparison:
    """Spearman's correlation of a feature's complexity with the time at which the network has learned it.

    Complexity is measured on half of the unseen images, the time on the other half: 1 minus the mean over seven
    checkpoints (the last step, half of it, a quarter...) of what their penultimate layer tells of the feature, as a
    share of what the last one's tells, so that features that are hard to tell at any time do not count as late.
    """
    images = bench.images(
        "cifar10", size=16, n=bench.pick(smoke=None, small=5000), n_test=bench.pick(smoke=None, small=4000)
    )

    def ranks(trial: Trial) -> tuple[Array, Array]:
        train, unseen = trial.split(images)
        learner = _learner(trial, train)
        steps = sorted({max(1, trial.steps >> halvings) for halvings in range(7)})
        snapshots = _Snapshots(learner.classifier, steps)
        trial.fit(learner, train, callbacks=[snapshots])
        one, other = unseen.x.tensor_split(2)
        model = snapshots.kept[-1]
        found = feature_complexity(model, one, layers=LAYERS, n_features=48, seed=trial.seed)
        return found.complexity, time_learned(snapshots.kept, other, LAYERS[-1], found.dictionary, trial.seed)

    return bench.correlation(ranks, above=0.0)


def time_learned(models: Sequence[nn.Module], x: Tensor, layer: str, dictionary: Array, seed: int = 0) -> Array:
    """When each feature of the last model was learned, (m,) in [0, 1]: 0 where the first of the models had it at once.

        1 - mean over models t of min(1, I_t / I_last),    I_t what `layer` of model t tells of the feature

    Args:
        models: one network after more and more training.
        x: images (N, c, h, w).
        layer: the penultimate one.
        dictionary: (m, d), of the last model.
        seed: of the split.
    """
    from sklearn.decomposition import non_negative_factorization

    activations = read_layers(models[-1], x, [layer], 1)[0]
    d = np.asarray(dictionary, activations.dtype)
    codes = non_negative_factorization(activations, H=d, n_components=len(d), update_H=False)[0]
    parts = _split(len(x), seed)
    told = []
    for model in models:
        read = read_layers(model, x, [layer], 1)[0]
        told.append(usable_information(*[side[rows] for rows in parts for side in (read, codes)]))
    last = np.maximum(told[-1], 1e-9)
    return 1 - np.minimum(np.stack(told) / last, 1).mean(axis=0)


@claim(
    "complex features matter less to what the network says",
    reported="complex features tend to be less important (abstract)",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels and 48 features, in place of a ResNet-50 on ImageNet",
    steps={"small": 400, "full": 10_000},
)
def complex_features_matter_less(bench: Bench) -> Comparison:
    """Spearman's correlation of minus the complexity with the importance, gradient times input of the highest logit.

    Both are measured on unseen images.
    """
    images = bench.images(
        "cifar10", size=16, n=bench.pick(smoke=None, small=5000), n_test=bench.pick(smoke=None, small=2000)
    )

    def ranks(trial: Trial) -> tuple[Array, Array]:
        train, unseen = trial.split(images)
        model = trial.fit(_learner(trial, train), train).classifier.cpu()
        found = feature_complexity(model, unseen.x, layers=LAYERS, n_features=48, seed=trial.seed)
        return -found.complexity, feature_importance(found.codes, found.dictionary, model.head)

    return bench.correlation(ranks, above=0.0)


@drawing(
    "How much of the final network's features its penultimate layer tells after some steps of training, as a share of "
    "what it tells at the end: the simple third of the features is there early, the complex third comes late.",
    steps={"small": 400},
)
def complexity_against_steps(bench: Bench, trial: Trial) -> Picture:
    train, unseen = trial.split(bench.images("cifar10", size=16, n=5000, n_test=4000))
    learner, (one, other) = _learner(trial, train), unseen.x.tensor_split(2)
    steps = sorted({max(1, trial.steps >> halvings) for halvings in range(7)})
    snapshots = _Snapshots(learner.classifier, steps)
    trial.fit(learner, train, callbacks=[snapshots])
    final = snapshots.kept[-1]
    found = feature_complexity(final, one, layers=LAYERS, n_features=48, seed=trial.seed)
    # over one model and the last, whose share is 1, time_learned is half of what the model's share lacks
    lacks = [time_learned([m, final], other, LAYERS[-1], found.dictionary, trial.seed) for m in snapshots.kept]
    told = 1 - 2 * np.stack(lacks)
    thirds = np.array_split(np.argsort(found.complexity), 3)
    names = ("simple third", "middle", "complex third")
    curves = {name: told[:, third].mean(1) for name, third in zip(names, thirds, strict=True)}
    return trial.plot(steps, curves, x_label="step", y_label="share told", log_x=True)
