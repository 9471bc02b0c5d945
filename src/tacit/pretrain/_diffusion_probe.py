"""Diffusion Models Beat GANs on Image Classification (Mukhopadhyay, Gwilliam et al., 2023)."""

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.embedding import evaluating
from tacit.errors import expect
from tacit.generate import DDPM
from tacit.nn import ResNet, UNet
from tacit.nn import encoder as make_encoder

SHARES = (0.0, 0.01, 0.03, 0.1)
"""Timesteps that are tried, over the number of steps."""

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Of the ridge probe, over the number of items; features have deviation one."""

BATCH = 256
"""Images that are read at once."""


@system("diffusion-probe", paper="arXiv:2307.08702", modality="image")
class DiffusionProbe(DDPM):
    """A denoising network is an encoder: noise an image a little, run the U-Net once, and read a block in the middle.

        features = pool(h_b(sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) epsilon, t))           (section 3.2)

    Training is that of DDPM. How well a linear classifier does hangs on the block b, the time t and the grid to which
    the map is averaged: small t and blocks of the early decoder did best (section 4.1). The noise epsilon is the same
    for all images here, so that an image has one embedding. Without labels the learner reads the middle of the decoder;
    `choose` looks for the best reading by the labels of a few hundred images.

    Args:
        encoder: a `UNet`; the user keeps its average, which reads as told here.
        layer: block b, a name of `encoder.layers`; None: as the encoder has it, the middle of the decoder.
        timestep: t, 0 to n_steps; None: a fiftieth of n_steps.
        pool: side of the grid, 1 is the plain mean.
        n_steps, schedule, prediction, ema, flip: as `DDPM`.

    >>> learner = DiffusionProbe(UNet(16, 1, width=8), pool=2)
    >>> x, y = torch.rand(40, 1, 16, 16), torch.arange(40) % 2
    >>> best = learner.choose(x, y, timesteps=[1, 50], pools=[1, 2])[0]
    >>> learner.encoder.config["layer"] == best.layer, learner.encoder.dim == learner.encoder(x).shape[1]
    (True, True)
    """

    settings: ClassVar = {
        "paper": DDPM.settings["paper"],
        "small": DDPM.settings["small"] | {"pool": 2},
    }

    def __init__(
        self,
        encoder: UNet,
        *,
        layer: str | None = None,
        timestep: int | None = None,
        pool: int = 2,
        n_steps: int = 1000,
        schedule: str = "linear",
        prediction: str = "epsilon",
        ema: float = 0.9999,
        flip: bool = True,
    ) -> None:
        expect("encoder", type(encoder).__name__, isinstance(encoder, UNet), "tacit.nn.UNet", "--model unet")
        super().__init__(encoder, n_steps=n_steps, schedule=schedule, prediction=prediction, ema=ema, flip=flip)
        self.encoder.read(layer, timestep, pool)

    def choose(
        self,
        x: Tensor,
        y: Tensor,
        *,
        layers: Sequence[str] | None = None,
        timesteps: Sequence[int] | None = None,
        pools: Sequence[int] = (1, 2, 4),
    ) -> list["Reading"]:
        """Read what a linear probe does best with; as `compare_readings`, whose first is set in `encoder`."""
        found = compare_readings(self.encoder, x, y, layers=layers, timesteps=timesteps, pools=pools)
        self.encoder.read(*found[0][:3])
        return found


class Reading(NamedTuple):
    """What is read of a U-Net, and how many of the held-out images a ridge probe on it gets right, from 0 to 1."""

    layer: str
    timestep: int
    pool: int
    accuracy: float


def compare_readings(
    encoder: UNet,
    x: Tensor,
    y: Tensor,
    *,
    layers: Sequence[str] | None = None,
    timesteps: Sequence[int] | None = None,
    pools: Sequence[int] = (1, 2, 4),
    held_out: float = 0.3,
) -> list[Reading]:
    """Every block, time and pooling, by a ridge probe that is fitted to some labelled images and scored on the others.

    The network runs once for each time. The encoder is left as it is.

    Args:
        encoder: what is read.
        x: raw images (n, c, h, w) that are in no test set.
        y: their classes, int64 (n,).
        layers: names of blocks; None: all.
        timesteps: 0 to n_steps; None: four up to a tenth of n_steps.
        pools: sides of grids.
        held_out: share of the images that scores.

    Returns:
        Readings, the best first; of equals the smaller grid, the earlier time and block.

    Raises:
        ArgumentError: no label for each image, fewer than two images on a side.

    >>> x, y = torch.rand(20, 1, 16, 16), torch.arange(20) % 2
    >>> len(compare_readings(UNet(16, 1, width=8), x, y, timesteps=[1, 20], pools=[1]))
    14
    """
    expect("y", tuple(y.shape), y.shape == (len(x),), f"a class for each of the {len(x)} images")
    steps = encoder.config["n_steps"]
    layers = encoder.layers if layers is None else layers
    times = [round(share * steps) for share in SHARES] if timesteps is None else timesteps
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    new, seen = order.split([count := round(held_out * len(x)), len(x) - count])
    expect("x", len(x), min(len(seen), len(new)) >= 2, "at least two images to fit and two to score")
    found = []
    for (layer, timestep, pool), features in read(encoder, x, layers, times, pools).items():
        guess = ridge(features[seen], y[seen], features[new])
        found.append(Reading(layer, timestep, pool, (guess == y[new]).float().mean().item()))
    return sorted(found, key=lambda r: (-r.accuracy, r.pool, r.timestep, encoder.layers.index(r.layer)))


Place = tuple[str, int, int]
"""Block, time and side of the grid."""


def read(
    encoder: UNet, x: Tensor, layers: Sequence[str], timesteps: Sequence[int], pools: Sequence[int]
) -> dict[Place, Tensor]:
    """Features (n, d) of raw images at each block, time and pooling; the network runs once for each time."""
    encoder = copy.deepcopy(encoder)
    found: dict[Place, list[Tensor]] = {}
    with evaluating(encoder), torch.no_grad():
        for timestep in dict.fromkeys(timesteps):
            encoder.read(timestep=timestep)
            for batch in x.split(BATCH):
                maps = encoder.maps(encoder.prepare(batch))
                for layer, pool in itertools.product(layers, pools):
                    features = F.adaptive_avg_pool2d(maps[layer], pool).flatten(1).cpu()
                    found.setdefault((layer, timestep, pool), []).append(features)
    return {place: torch.cat(parts) for place, parts in found.items()}


def ridge(x: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """Classes (m,) of `new` (m, d) by ridge regression on +1 and -1, fitted to features x (n, d) and classes y (n,).

    Features are standardised on x. The penalty is the one of `PENALTIES` that does best on x itself with each item left
    out in turn, which the eigenvalues of the covariance give for all of them at once.
    """
    mean, deviation = x.double().mean(0), x.double().std(0).clamp_min(1e-6)
    x, new = ((part.double() - mean) / deviation for part in (x, new))
    classes, number = y.unique(return_inverse=True)
    targets = 2.0 * F.one_hot(number, len(classes)).double() - 1
    offset = targets.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x)
    turned = x @ vectors
    projected = turned.T @ (targets - offset)
    best, weights = -1.0, projected
    for penalty in PENALTIES:
        inverse = 1 / (values.clamp_min(0) + penalty * len(x))
        own = (turned.square() * inverse).sum(1, keepdim=True) + 1 / len(x)  # the hat matrix's diagonal
        fitted = offset + turned @ (inverse[:, None] * projected)
        without = (fitted - own * targets) / (1 - own).clamp_min(1e-9)
        accuracy = (without.argmax(1) == number).double().mean().item()
        if accuracy > best:
            best, weights = accuracy, inverse[:, None] * projected
    return classes[(offset + new @ vectors @ weights).argmax(1)]


Reader = Callable[..., Mapping[Any, Tensor]]
"""Raw images and the values of each axis -> features of each combination."""


def best_of(train: Part, reader: Reader, *axes: Sequence[Any]) -> tuple[Any, ...]:
    """The combination that a ridge probe does best with on a validation part of the training images."""
    part, held_out = train.divide(0.8)
    seen, new = reader(part.x, *axes), reader(held_out.x, *axes)
    scores = {name: held_out.score(ridge(seen[name], part.y, new[name])) for name in seen}
    return max(scores, key=scores.__getitem__)


def probe(train: Part, unseen: Unseen, reader: Reader, name: tuple[Any, ...]) -> float:
    """Test accuracy of a ridge probe on one combination's features."""
    seen, new = (reader(x, *((value,) for value in name))[name] for x in (train.x, unseen.x))
    return unseen.score(ridge(seen, train.y, new))


@claim(
    "with block, time and pooling chosen, a diffusion model's features are better than those of a GAN's encoder",
    reported="71.89 % top-1 on ImageNet with an attention head, ahead of BigBiGAN (Table 1)",
    proxy="a ridge probe on Fashion-MNIST at 16 pixels; BiGAN for BigBiGAN, its encoder as large as the U-Net",
    steps={"small": 500, "full": 20_000},
)
def ahead_of_bigan(bench: Bench) -> Comparison:
    """Ridge probe on unseen images, equal steps and batches. Either side chooses, on a validation part, of 12 readings:
    block x time x pool of the U-Net, stage x pool of BiGAN's encoder, whose paper reads inner layers too."""
    images = bench.images("fashion_mnist", size=16, n=5000, n_test=5000)

    def both(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        ours, theirs = trial.pretrained("diffusion-probe", train).encoder, _bigan(trial, train).encoder
        times = tuple(round(share * ours.config["n_steps"]) for share in (0.01, 0.05))
        sides = (
            (partial(read, ours), (("middle", "up2"), times, (1, 2, 4))),
            (partial(_read_stages, theirs), (("stage1", "stage2", "stage3"), (1, 2, 3, 4))),
        )
        first, second = (probe(train, unseen, reader, best_of(train, reader, *axes)) for reader, axes in sides)
        return first, second

    return bench.trials(both, baseline="bigan, an encoder of as many parameters", better_by=0.0)


@claim(
    "the block in the middle of the decoder does best",
    reported="block 24 of 37, a few after the bottleneck, is what the authors take (figure 1)",
    proxy="a U-Net of seven blocks on Fashion-MNIST at 16 pixels",
    steps={"small": 500, "full": 20_000},
)
def middle_of_the_decoder(bench: Bench) -> Comparison:
    """Ridge probe on unseen images, means over 2 x 2 cells, a fiftieth of the steps of noise: the middle one of the
    decoder's three blocks against the one of the six others that does best on a validation part."""
    images = bench.images("fashion_mnist", size=16, n=5000, n_test=5000)

    def both(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        encoder = trial.pretrained("diffusion-probe", train).encoder
        time = round(0.02 * encoder.config["n_steps"])
        others = tuple(layer for layer in encoder.layers if layer != "up2")
        reader = partial(read, encoder)
        best = best_of(train, reader, others, (time,), (2,))
        return probe(train, unseen, reader, ("up2", time, 2)), probe(train, unseen, reader, best)

    return bench.trials(both, baseline="the best other block", better_by=0.0)


@claim(
    "a little noise does better than much",
    reported="t = 90 of 1000 is what the authors take (figure 1)",
    proxy="a small U-Net on Fashion-MNIST at 16 pixels",
    steps={"small": 500, "full": 20_000},
)
def little_noise(bench: Bench) -> Comparison:
    """Ridge probe on unseen images, the middle block of the decoder, means over 2 x 2 cells, by t as a share of T."""
    images = bench.images("fashion_mnist", size=16, n=5000, n_test=5000)

    def accuracy(trial: Trial, share: float) -> float:
        train, unseen = trial.split(images)
        encoder = trial.pretrained("diffusion-probe", train).encoder
        return probe(train, unseen, partial(read, encoder), ("up2", round(share * encoder.config["n_steps"]), 2))

    return bench.curve(accuracy, over=[0.02, 0.2, 0.5, 0.8], shape="falls")


def _bigan(trial: Trial, train: Part) -> Any:
    """A BiGAN whose encoder, a ResNet-8, has as many parameters as the small U-Net: 0.2 million."""
    shape = {"image_size": train.description["image_size"], "in_channels": train.description["channels"]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        encoder = ResNet(8, width=26, **shape)
    return trial.fit(trial.build("bigan", train, encoder=encoder), train)


def _read_stages(
    encoder: ResNet, x: Tensor, stages: Sequence[str], pools: Sequence[int]
) -> dict[tuple[str, int], Tensor]:
    """Features of a network's stages, averaged over grids."""
    found: dict[tuple[str, int], Tensor] = {}
    for stage in stages:
        network = make_encoder(**(encoder.config | {"layer": stage})).eval()
        network.load_state_dict(encoder.state_dict())
        with torch.no_grad():
            tokens = torch.cat([network.tokens(network.prepare(batch)) for batch in x.split(BATCH)])  # type: ignore[operator]
        map_ = tokens.transpose(1, 2).unflatten(2, (math.isqrt(tokens.shape[1]),) * 2)
        found |= {(stage, pool): F.adaptive_avg_pool2d(map_, pool).flatten(1) for pool in pools}
    return found
