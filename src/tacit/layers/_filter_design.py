"""On filter design in deep convolutional neural network (Hirani & Abdulla, 2024), and CNN Filter DB (2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Trial, checked, claim
from tacit.errors import ArgumentError, DataError, expect, unknown
from tacit.pretrain._patch_kmeans import kmeans, normalise_contrast, zca
from tacit.views import as_float

C = TypeVar("C", bound=nn.Conv2d)
LENGTH = 2**0.5
"""Of every filter: what He's initialisation gives on average, sum of squares fan_in * 2 / fan_in."""

MAX_PATCHES = 50_000


@system("cnn-filter-survey", paper="arXiv:2410.21644", modality="image", level="entry")
@torch.no_grad()
def init_filters_(
    conv: C, images: Tensor | None = None, *, method: str = "kmeans", generator: torch.Generator | None = None
) -> C:
    """Fill a convolution, in place, with filters that are drawn, designed, or learned from patches without labels.

        he           normal (He et al., 2015)
        orthogonal   random rows at right angles to each other, as many as there are dimensions
        gabor        cosine under a Gaussian: eight directions, then both phases, then longer waves; all channels alike
        pca          directions in which patches vary most, each of them twice, with both signs, while there are enough
        kmeans       centres of whitened patches, spherical k-means (Coates & Ng, 2012)

    These are the ways of the survey's sections on initialisation and on unsupervised learning that need nothing but
    patches. All filters come out with the length that He's have on average, so that methods differ by direction alone;
    patches are normalised in contrast first. Of `pca`, what exceeds twice the dimensions is drawn as by `he`. Biases
    are set to 0.

    Args:
        conv: a convolution of one group; usually the first of a network.
        images: uint8 or float in [0, 1] (n, in_channels, h, w), not smaller than the filters; for pca and kmeans.
        method: of the table.
        generator: of the draws; torch's global one if None. The initial centres of kmeans are patches drawn by it, and
            an empty cluster's new centre comes from the global one.

    Returns:
        The same convolution.

    Raises:
        ArgumentError: an unknown method, several groups, Gabor filters of one pixel, or images that are missing or do
            not fit.

    >>> conv = init_filters_(nn.Conv2d(3, 16, 5), torch.rand(50, 3, 16, 16), method="pca")
    >>> torch.allclose(conv.weight[0], -conv.weight[1]), round(conv.weight[0].square().sum().item(), 4)
    (True, 2.0)
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    expect("conv.groups", conv.groups, conv.groups == 1, "1")
    out, channels, height, width = conv.weight.shape
    gabor_fits = method != "gabor" or height * width > 1
    expect("conv.kernel_size", (height, width), gabor_fits, "more than one pixel for gabor filters")
    if method in FROM_PATCHES:
        filters = FROM_PATCHES[method](_patches(conv, images, generator), out, generator)
    else:
        filters = FROM_NOTHING[method](out, channels, height, width, generator)
    conv.weight.copy_(LENGTH * F.normalize(filters).view_as(conv.weight))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _he(out: int, channels: int, height: int, width: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(out, channels * height * width, generator=generator)


def _orthogonal(out: int, channels: int, height: int, width: int, generator: torch.Generator | None) -> Tensor:
    d = channels * height * width
    drawn = [torch.linalg.qr(torch.randn(d, d, generator=generator))[0] for _ in range(math.ceil(out / d))]
    return torch.cat(drawn)[:out]


def _gabor(out: int, channels: int, height: int, width: int, generator: torch.Generator | None) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    size = max(height, width)
    filters = []
    for number in range(out):
        angle, phase = math.pi * (number % 8) / 8, math.pi / 2 * (number // 8 % 2)
        wave = max(2.0, size / 1.5 ** (number // 16 % 3)) * (1 + number // 48)
        along = x * math.cos(angle) + y * math.sin(angle)
        envelope = torch.exp(-(x**2 + y**2) / (2 * (size / 4) ** 2))
        cell = envelope * torch.cos(2 * math.pi * along / wave + phase)
        cell = cell - envelope * cell.sum() / envelope.sum()  # no answer to a flat patch
        filters.append(cell.expand(channels, -1, -1).flatten())
    return torch.stack(filters)


def _pca(patches: Tensor, out: int, generator: torch.Generator | None) -> Tensor:
    vectors = torch.linalg.eigh(torch.cov(patches.double().T))[1].flip(1).T.float()
    both = torch.stack([vectors, -vectors], 1).flatten(0, 1)
    rest = torch.randn(max(0, out - len(both)), patches.shape[1], generator=generator)
    return torch.cat([both[:out], rest])


def _kmeans(patches: Tensor, out: int, generator: torch.Generator | None) -> Tensor:
    mean, whitening = zca(patches, 0.1)
    z = (patches - mean) @ whitening
    start = z[torch.randint(len(z), (out,), generator=generator)]
    return kmeans(z, F.normalize(start), steps=10, spherical=True) @ whitening


FROM_NOTHING: Mapping[str, Callable[..., Tensor]] = {"he": _he, "orthogonal": _orthogonal, "gabor": _gabor}
FROM_PATCHES: Mapping[str, Callable[..., Tensor]] = {"pca": _pca, "kmeans": _kmeans}
METHODS = (*FROM_NOTHING, *FROM_PATCHES)


def _patches(conv: nn.Conv2d, images: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """Patches of the filters' size with normalised contrast, drawn evenly: (at most `MAX_PATCHES`, d)."""
    height, width = conv.weight.shape[2:]
    if images is None:
        raise ArgumentError("images=None: expected images for pca and kmeans")
    fits = images.ndim == 4 and images.shape[1] == conv.in_channels and min(images.shape[2:]) >= max(height, width)
    expect("images", tuple(images.shape), fits, f"(n, {conv.in_channels}, h, w), not smaller than the filters")
    places = (images.shape[2] - height + 1) * (images.shape[3] - width + 1)
    few = min(places, math.ceil(MAX_PATCHES / len(images)))
    found = []
    for batch in images[torch.randperm(len(images), generator=generator)[:MAX_PATCHES]].split(256):
        x = batch.float() / 255 if batch.dtype == torch.uint8 else batch
        rows = F.unfold(x, (height, width)).transpose(1, 2)
        chosen = torch.randint(places, (len(x), few), generator=generator)
        found.append(rows[torch.arange(len(x))[:, None], chosen].flatten(0, 1))
    return normalise_contrast(torch.cat(found)[:MAX_PATCHES])


@dataclass(frozen=True)
class FilterBasis:
    """Principal components of filters.

    Attributes:
        components: (d, d) float64, a row each, of length 1, from the largest share to the smallest.
        shares: (d,), of the filters' variance; they sum to 1.
        mean: (d,).
        n_filters: how many there were.
    """

    components: Tensor
    shares: Tensor
    mean: Tensor
    n_filters: int


def filters_of(model: nn.Module | Mapping[str, Tensor], size: int = 3) -> Tensor:
    """All size x size filters of a model or its state dict, (n, size^2) float64, each layer over its largest weight.

    Raises:
        DataError: there is none.

    >>> filters_of(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 5, 1))).shape
    torch.Size([8, 9])
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    wanted = (size, size)
    found = [
        weight.detach().cpu().double().flatten(2).flatten(0, 1) / weight.detach().abs().max().cpu().clamp_min(1e-12)
        for weight in state.values()
        if weight.ndim == 4 and weight.is_floating_point() and tuple(weight.shape[2:]) == wanted
    ]
    if not found:
        raise DataError(f"model: expected a convolution of {size} x {size} in it")
    return torch.cat(found)


@system("cnn-filter-survey", paper="arXiv:2203.15331", modality="image", level="entry")
def filter_basis(model: nn.Module | Mapping[str, Tensor], *, size: int = 3) -> FilterBasis:
    """Principal components of a network's filters, layer by layer put to the same scale (CNN Filter DB).

    Trained networks share a few smooth patterns, that hold most of the variance; filters that nothing has trained
    spread it evenly over all components.

    Args:
        model: any, or its state dict.
        size: side of the filters that are read; others are left out.

    Raises:
        DataError: no such filter.

    >>> basis = filter_basis({"weight": torch.ones(4, 1, 3, 3) * torch.arange(4.0)[:, None, None, None]})
    >>> basis.shares.round(decimals=2).tolist()[:2], basis.n_filters
    ([1.0, 0.0], 4)
    """
    filters = filters_of(model, size)
    mean = filters.mean(0)
    _, values, components = torch.linalg.svd(filters - mean, full_matrices=True)
    spread = torch.zeros(len(components), dtype=torch.double)
    spread[: len(values)] = values.square()
    return FilterBasis(components, spread / spread.sum().clamp_min(1e-30), mean, len(filters))


@system("cnn-filter-survey", paper="arXiv:2203.15331", modality="image", level="entry")
def filter_divergence(
    a: nn.Module | Mapping[str, Tensor], b: nn.Module | Mapping[str, Tensor], *, size: int = 3, n_bins: int = 70
) -> float:
    """How differently two networks' filters are distributed: 0 for the same ones (CNN Filter DB).

        sum over components i of  share_i (KL(p_i || q_i) + KL(q_i || p_i))

    with p_i and q_i the distributions of both networks' coefficients on the i-th principal component of all filters
    together, each network counting as much as the other. The paper estimates the densities by kernels; here they are
    histograms over the common range, with half a count added to each bin. Few filters (under about 20 a bin) make it
    larger than it is: compare networks of one size.

    Args:
        a, b: networks, or their state dicts.
        size: side of the filters.
        n_bins: of the histograms.

    Returns:
        At least 0; symmetric in a and b.

    Raises:
        DataError: no such filter in one of them.

    >>> conv = nn.Conv2d(8, 8, 3)
    >>> filter_divergence(conv, conv)
    0.0
    """
    expect("n_bins", n_bins, n_bins >= 2, "at least 2")
    sides = [filters_of(side, size) for side in (a, b)]
    mean = (sides[0].mean(0) + sides[1].mean(0)) / 2
    second = sum((side - mean).T @ (side - mean) / len(side) for side in sides)
    shares, vectors = torch.linalg.eigh(second)
    shares = shares.clamp_min(0) / shares.clamp_min(0).sum().clamp_min(1e-30)
    total = 0.0
    for share, vector in zip(shares, vectors.T, strict=True):
        one, other = ((side - mean) @ vector for side in sides)
        total += share.item() * _symmetric_kl(one, other, n_bins)
    return total


def _symmetric_kl(a: Tensor, b: Tensor, n_bins: int) -> float:
    low, high = min(a.min(), b.min()).item(), max(a.max(), b.max()).item()
    if high - low < 1e-12:
        return 0.0
    counts = [torch.histc(side, n_bins, low, high) + 0.5 for side in (a, b)]
    p, q = (count / count.sum() for count in counts)
    return float(((p - q) * (p / q).log()).sum())


@checked("the first PCA filter answers to patches with their covariance's largest eigenvalue", tolerance=1e-4)
def first_pca_filter() -> tuple[float, float]:
    patches = normalise_contrast(torch.rand(500, 9, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 10))
    x = patches - patches.mean(0)
    answers = x @ _pca(patches, 1, None)[0]
    return answers.square().mean().item(), torch.linalg.svdvals(x)[0].square().item() / (len(x))


class _OneLayer(nn.Module):
    """A convolution, ReLU, and means over 2 x 2 parts of the image: (n, c, s, s) -> (n, 4 filters)."""

    def __init__(self, image_size: int, channels: int, n_filters: int, side: int) -> None:
        super().__init__()
        self.image_size, self.in_channels, self.dim = image_size, channels, 4 * n_filters
        self.conv = nn.Conv2d(channels, n_filters, side, padding=side // 2)

    def prepare(self, items: Tensor) -> Tensor:
        return as_float(items, self.image_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.relu(self.conv(x - 0.5)), 2).flatten(1)


def _probed(trial: Trial, images: Data, method: str, *, trained: bool = False) -> float:
    """Linear probe of one layer of 64 filters of 5 x 5, frozen, or trained on the labels first."""
    train, unseen = trial.split(images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        layer = _OneLayer(train.description["image_size"], train.description["channels"], 64, 5)
        init_filters_(layer.conv, train.x, method=method)
    if trained:
        from tacit.nn import Classifier

        learner = trial.build("supervised", train, classifier=Classifier(layer, train.n_classes or 10))
        trial.fit(learner, train)
    return trial.probe(layer.cpu(), train, unseen)


@claim(
    "filters learned by k-means, without labels, serve a frozen layer better than drawn ones",
    reported="a survey of such results, without a number of its own",
    proxy="one frozen layer of 64 filters of 5 x 5 on 5,000 images of CIFAR-10, linear probe on 2 x 2 means",
)
def learned_filters_beat_drawn_ones(bench: Bench) -> Comparison:
    """Linear-probe accuracy of frozen k-means filters against He's, of the same length; the images are the probe's."""
    images = bench.images("cifar10", n=bench.pick(smoke=None, small=5000), n_test=bench.pick(smoke=None, small=5000))

    def sides(trial: Trial) -> tuple[float, float]:
        return _probed(trial, images, "kmeans"), _probed(trial, images, "he")

    return bench.trials(sides, baseline="He's initialisation", better_by=0.0)


@claim(
    "once the layer is trained on labels, how its filters began matters less",
    reported="a survey: backpropagation has been the primary way to learn filters, whatever they start from",
    proxy="the same layer under a linear classifier, some steps",
    steps={"small": 600, "full": 10_000},
)
def training_closes_the_gap(bench: Bench) -> Comparison:
    """The probe's gap between k-means and He's initialisation, frozen and after training: it shrinks."""
    images = bench.images("cifar10", n=bench.pick(smoke=None, small=5000), n_test=bench.pick(smoke=None, small=5000))

    def score(trial: Trial, state: str) -> tuple[float, float]:
        trained = state == "trained"
        return _probed(trial, images, "kmeans", trained=trained), _probed(trial, images, "he", trained=trained)

    return bench.curve(score, over=["frozen", "trained"], shape="gap_shrinks", baseline="He's initialisation")
