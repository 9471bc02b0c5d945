"""Bidirectional GAN: Adversarial Feature Learning (Donahue, Krähenbühl & Darrell, 2017)."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.embedding import evaluating
from tacit.errors import expect
from tacit.generate._dcgan import DiscriminatorTrunk, Generator
from tacit.learner import Learner, Update
from tacit.nn import ImageEncoder


@system("bigan", paper="arXiv:1605.09782", modality="image", level="baseline")
class BiGAN(Learner):
    """An encoder learns to undo a generator, since a judge sees images together with their latent vectors.

        V(D, E, G) = E_x log D(x, E(x)) + E_z log(1 - D(G(z), z))                             (eq. 2)

    The discriminator D makes V large; encoder E and generator G together make the same with the labels swapped large
    (section 3.4). A pair can only fool D if E and G are each other's inverse (theorem 2).

    Args:
        encoder: images (n, c, h, w) in [0, 1] -> (n, encoder.dim); what the user keeps. A linear layer leads from its
            features to the latent vector.
        latent_dim: numbers of z, uniform on [-1, 1].
        width: channels of the first layer of DCGAN's networks, which are discriminator and generator here.

    Batches hold at least 2 images.

    Raises:
        ArgumentError: images under 7 pixels, or a size that is no positive number.

    >>> from tacit.nn import ResNet
    >>> learner = BiGAN(ResNet(8, width=4, image_size=16), latent_dim=8, width=4)
    >>> learner.sample(3).shape, learner.reconstruct(torch.rand(2, 3, 16, 16)).shape
    (torch.Size([3, 3, 16, 16]), torch.Size([2, 3, 16, 16]))
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 2e-4,
            "betas": (0.5, 0.999),
            "weight_decay": 2.5e-5,
            "batch_size": 128,
            "epochs": 400,
            "warmup": 0.0,
            "latent_dim": 200,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 1e-3,
            "betas": (0.5, 0.999),
            "weight_decay": 2.5e-5,
            "batch_size": 64,
            "schedule": "constant",
            "warmup": 0.0,
            "latent_dim": 50,
            "width": 32,
        },
    }
    loss_falls: ClassVar = False  # the players' costs pull against each other, so that neither need fall

    def __init__(self, encoder: ImageEncoder, *, latent_dim: int = 50, width: int = 32) -> None:
        super().__init__()
        expect("latent_dim", latent_dim, latent_dim >= 1, "at least 1")
        self.encoder, self.latent_dim = encoder, latent_dim
        self.to_latent = nn.Linear(encoder.dim, latent_dim)
        self.discriminator = Discriminator(encoder.image_size, encoder.in_channels, latent_dim, width)
        trunk = self.discriminator.trunk
        self.generator = Generator(latent_dim, trunk.sides, trunk.widths)
        for part in (self.discriminator, self.generator):
            part.apply(_initialise)

    def step(self, update: Update, x: Tensor) -> None:  # type: ignore[override]
        x, z = self.encoder.prepare(x), self._latent(len(x))
        code, painted = self.encode(x), self.generator(z)
        update(discriminator_cost(*self._judge(x, code.detach(), painted.detach(), z)), self.discriminator)
        swapped = self._judge(x, code, painted, z)[::-1]
        update(discriminator_cost(*swapped), self.encoder, self.to_latent, self.generator)

    def encode(self, x: Tensor) -> Tensor:
        """E: images (n, c, h, w) in [0, 1] -> latent vectors (n, latent_dim)."""
        return self.to_latent(self.encoder(x))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """G(E(x)) of images (n, c, h, w) in [0, 1]."""
        with evaluating(self):
            return self.generator(self.encode(x))

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """New images, (n, in_channels, image_size, image_size) in [0, 1]; chance is torch's global generator."""
        expect("n", n, n >= 1, "at least 1")
        with evaluating(self.generator):
            return torch.cat([self.generator(z) for z in self._latent(n).split(256)])

    def _judge(self, x: Tensor, code: Tensor, painted: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.discriminator(x, code), self.discriminator(painted, z)

    def _latent(self, n: int) -> Tensor:
        return torch.rand(n, self.latent_dim, device=self.to_latent.weight.device) * 2 - 1


class Discriminator(nn.Module):
    """Images (n, c, s, s) in [0, 1] and latent vectors (n, latent_dim) -> log-odds that x came first, (n,)."""

    def __init__(self, image_size: int, in_channels: int, latent_dim: int, width: int) -> None:
        super().__init__()
        self.trunk = DiscriminatorTrunk(image_size, in_channels, width)
        units = self.trunk.widths[-1]
        self.of_image = nn.Linear(units * self.trunk.sides[-1] ** 2, units, bias=False)
        self.of_latent = nn.Sequential(nn.Linear(latent_dim, units), nn.LeakyReLU(0.2), nn.Linear(units, units))
        self.judge = nn.Sequential(nn.LeakyReLU(0.2), nn.Linear(units, units), nn.LeakyReLU(0.2), nn.Linear(units, 1))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        seen = self.of_image(self.trunk.maps(x)[-1].flatten(1)) + self.of_latent(z)
        return self.judge(seen).squeeze(1).float()


def discriminator_cost(first: Tensor, second: Tensor) -> Tensor:
    """Of log-odds of D for pairs (x, E(x)) and (G(z), z), (n,) each: -V, mean -log D + mean -log(1 - D)."""
    return F.softplus(-first).mean() + F.softplus(second).mean()


def _initialise(part: nn.Module) -> None:
    """N(0, 0.02), and N(1, 0.02) for the gains of BatchNorm, as DCGAN; the linear layers that join keep torch's."""
    if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(part.weight, 0.0, 0.02)
    elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(part.weight, 1.0, 0.02)


@checked("with the best discriminator the value is 2 JSD(P_EX, P_GZ) - log 4 (theorem 1)", tolerance=1e-6)
def value_is_the_divergence() -> tuple[float, float]:
    """Two laws over four pairs, in eighths; D* = p / (p + q) (section 3.2)."""
    p, q = torch.tensor([3.0, 1.0, 2.0, 2.0]) / 8, torch.tensor([1.0, 4.0, 1.0, 2.0]) / 8
    odds = (p / q).log()
    measured = -discriminator_cost(odds.repeat_interleave((8 * p).long()), odds.repeat_interleave((8 * q).long()))
    middle = (p + q) / 2
    divergence = ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2
    return measured.item(), 2 * divergence.item() - math.log(4)
