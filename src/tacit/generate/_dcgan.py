"""Deep convolutional GAN: Unsupervised Representation Learning with DCGANs (Radford, Metz & Chintala, 2016)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, claim
from tacit.embedding import evaluating
from tacit.errors import expect
from tacit.learner import Learner, Update
from tacit.nn import ImageEncoder

GRID = 4
"""Side of the smallest map, from which images grow, and to which the features are pooled (sections 4 and 5.1)."""


class DiscriminatorTrunk(ImageEncoder):
    """The discriminator's convolutions; what the user keeps. Each halves the side, down to 4 pixels.

    Args:
        image_size: side in pixels, at least 8.
        in_channels: channels of the images.
        width: channels of the first layer, doubled by each of the next ones.

    Attributes:
        sides, widths: side and channels of each layer's map, from the images on.
    """

    def __init__(self, image_size: int, in_channels: int, width: int) -> None:
        expect("image_size", image_size, image_size >= 2 * GRID - 1, f"at least {2 * GRID - 1} pixels")
        expect("width", width, width >= 1, "at least 1")
        sides = [image_size]
        while (side := (sides[-1] + 1) // 2) >= GRID:
            sides.append(side)
        widths = [in_channels, *(width * 2**i for i in range(len(sides) - 1))]
        config = {"name": "dcgan", "image_size": image_size, "in_channels": in_channels, "width": width}
        dim = GRID**2 * sum(widths[1:])
        super().__init__(dim=dim, image_size=image_size, in_channels=in_channels, config=config)
        self.std.fill_(0.5)  # the range of tanh, [-1, 1] (section 4)
        self.sides, self.widths = sides, widths
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(below, above, 5, stride=2, padding=2, bias=False),
                nn.BatchNorm2d(above) if i else nn.Identity(),
                nn.LeakyReLU(0.2),
            )
            for i, (below, above) in enumerate(pairwise(widths))
        )

    def forward(self, x: Tensor) -> Tensor:
        """All layers max-pooled to 4 x 4 and joined (section 5.1): (n, c, h, w) in [0, 1] -> (n, dim)."""
        return torch.cat([F.adaptive_max_pool2d(layer, GRID).flatten(1) for layer in self.maps(x)], dim=1)

    def maps(self, x: Tensor) -> list[Tensor]:
        """What each layer gives, (n, channels, side, side)."""
        maps = [self.normalize(x)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[1:]


class Generator(nn.Module):
    """Latent vectors (n, latent_dim) -> images (n, c, s, s) in [0, 1]; the trunk's layers the other way round."""

    def __init__(self, latent_dim: int, sides: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.start = (widths[-1], sides[-1], sides[-1])
        units = widths[-1] * sides[-1] ** 2
        self.project = nn.Sequential(nn.Linear(latent_dim, units, bias=False), nn.BatchNorm1d(units), nn.ReLU())
        self.layers = nn.Sequential()
        for i in reversed(range(len(sides) - 1)):
            odd = sides[i] % 2  # a side of 5 shrinks to 3 as one of 6 does: the transpose is told which
            self.layers.append(
                nn.ConvTranspose2d(widths[i + 1], widths[i], 5, 2, padding=2, output_padding=1 - odd, bias=False)
            )
            self.layers.extend([nn.BatchNorm2d(widths[i]), nn.ReLU()] if i else [nn.Tanh()])

    def forward(self, z: Tensor) -> Tensor:
        return (self.layers(self.project(z).unflatten(1, self.start)) + 1) / 2


@system("dcgan", paper="arXiv:1511.06434", modality="image")
class DCGAN(Learner):
    """Two all-convolutional networks: one paints images from noise, the other learns features by telling them apart.

        discriminator: cost = mean -log D(x)  +  mean -log(1 - D(G(z))),        generator: cost = mean -log D(G(z))

    with z uniform on [-1, 1]^latent_dim. A step moves the discriminator and then, against the discriminator that has
    moved, the generator (the authors' code moves one of them on each batch). Convolutions of stride 2 take the place of
    pooling; there is BatchNorm everywhere but at the images and at the output; ReLU in the generator, LeakyReLU in the
    discriminator; weights start at N(0, 0.02) (section 3 and 4). Kernels are 5 x 5 as in figure 1; the network of the
    paper's CIFAR-10 figure, whose 3 x 3 convolutions come in pairs, is not built here.

    Batches of real and of painted images are normalised apart. Only the real ones enter the running statistics, with
    which `encoder` reads images later: the authors' code estimates them on real images after the training.

    Args:
        image_size: side in pixels, at least 7; 64 has the paper's four layers, 32 has three, 16 two.
        in_channels: of the images.
        latent_dim: numbers that an image is painted from.
        width: channels of the discriminator's first layer, doubled by each of the next ones.

    Attributes:
        encoder: the discriminator's convolutions, whose features are all layers max-pooled to 4 x 4 (section 5.1).
        head: judges the last layer's map.
        generator: z (n, latent_dim) -> images (n, in_channels, image_size, image_size) in [0, 1].

    Batches hold at least 2 images.

    Raises:
        ArgumentError: images under 7 pixels, or a size that is no positive number.

    >>> learner = DCGAN(image_size=16, in_channels=1, latent_dim=8, width=4)
    >>> learner.sample(3).shape, learner.encoder(torch.rand(2, 1, 16, 16)).shape  # (4 + 8) * 16 features
    (torch.Size([3, 1, 16, 16]), torch.Size([2, 192]))
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 2e-4,
            "betas": (0.5, 0.999),
            "weight_decay": 0.0,
            "batch_size": 128,
            "schedule": "constant",
            "warmup": 0.0,
            "latent_dim": 100,
            "width": 128,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-4,
            "betas": (0.5, 0.999),
            "weight_decay": 0.0,
            "batch_size": 128,
            "schedule": "constant",
            "warmup": 0.0,
            "latent_dim": 100,
            "width": 32,
        },
    }
    loss_falls: ClassVar = False  # the players' costs pull against each other, so that neither need fall

    def __init__(self, *, image_size: int = 64, in_channels: int = 3, latent_dim: int = 100, width: int = 128) -> None:
        super().__init__()
        expect("latent_dim", latent_dim, latent_dim >= 1, "at least 1")
        self.latent_dim = latent_dim
        self.encoder = DiscriminatorTrunk(image_size, in_channels, width)
        sides, widths = self.encoder.sides, self.encoder.widths
        self.head = nn.Linear(widths[-1] * sides[-1] ** 2, 1, bias=False)
        self.generator = Generator(latent_dim, sides, widths)
        self.apply(_initialise)

    def step(self, update: Update, x: Tensor) -> None:  # type: ignore[override]
        painted = self.generator(self._latent(len(x)))
        update(self.discriminator_cost(self.encoder.prepare(x), painted.detach()), self.encoder, self.head)
        update(self.generator_cost(painted), self.generator)

    def discriminator_cost(self, real: Tensor, painted: Tensor) -> Tensor:
        """Of images (n, c, s, s) in [0, 1] of both kinds: mean -log D(real) + mean -log(1 - D(painted))."""
        cost = F.softplus(-self.judge(real)).mean()
        with _statistics_kept(self.encoder):
            return cost + F.softplus(self.judge(painted)).mean()

    def generator_cost(self, painted: Tensor) -> Tensor:
        """Mean -log D(painted)."""
        with _statistics_kept(self.encoder):
            return F.softplus(-self.judge(painted)).mean()

    def judge(self, x: Tensor) -> Tensor:
        """Images (n, c, s, s) in [0, 1] -> log-odds that they are real, (n,)."""
        return self.head(self.encoder.maps(x)[-1].flatten(1)).squeeze(1).float()

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """New images, (n, in_channels, image_size, image_size) in [0, 1]; chance is torch's global generator."""
        expect("n", n, n >= 1, "at least 1")
        with evaluating(self.generator):
            return torch.cat([self.generator(z) for z in self._latent(n).split(256)])

    def _latent(self, n: int) -> Tensor:
        return torch.rand(n, self.latent_dim, device=self.head.weight.device) * 2 - 1


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """BatchNorm takes the batch's own statistics, and leaves the running ones as they are."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _initialise(part: nn.Module) -> None:
    """N(0, 0.02) (section 4), and N(1, 0.02) for the gains of BatchNorm, as in the authors' code."""
    if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(part.weight, 0.0, 0.02)
    elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(part.weight, 1.0, 0.02)


@claim(
    "a linear classifier reads classes off the features that a discriminator has learned",
    reported="82.8 % on CIFAR-10 by an L2-SVM, with features learned on ImageNet (Table 1)",
    proxy="above the features of the same network untrained; learned on the images that are classified",
    steps={"small": 800, "full": 20_000},
)
def learned_features_classify(bench: Bench) -> Comparison:
    """Linear probe on unseen images, against the discriminator before its first step: its pooled maps do well, too."""
    return bench.compare(
        DCGAN,
        baseline="untrained",
        data=_cifar10(bench),
        by="linear_probe",
        better_by=0.0,
        width=bench.pick(smoke=8, small=32, full=128),
    )


@claim(
    "the discriminator's features are better than those of k-means on patches",
    reported="82.8 % against 80.6 % of one layer of k-means, and 82.0 % of three, on CIFAR-10 (Table 1)",
    proxy="both learned from 6,000 images of CIFAR-10 at 16 pixels; the paper's DCGAN learned from ImageNet",
    steps={"small": 800, "full": 20_000},
)
def ahead_of_kmeans(bench: Bench) -> Comparison:
    """Linear probe on unseen images, against k-means as Coates, Ng & Lee (2011) have it, of about as many features."""
    coates = {"activation": "triangle", "patch_size": 6, "pool": 2, "power": 1.0, "n_views": 0, "whiten": 1.0}
    return bench.compare(
        DCGAN,
        baseline="patch-kmeans",
        data=_cifar10(bench),
        by="linear_probe",
        better_by=0.0,
        system_settings={"width": bench.pick(smoke=8, small=32, full=128)},
        baseline_settings={**coates, "n_components": bench.pick(smoke=16, small=1024)},
    )


def _cifar10(bench: Bench) -> Data:
    size, n = bench.pick(smoke=16, small=16, full=32), bench.pick(smoke=None, small=6_000, full=45_000)
    return bench.images("cifar10", size=size, n=n)
