"""Reducing the Dimensionality of Data with Neural Networks (Hinton & Salakhutdinov, 2006)."""

from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.learner import Learner
from tacit.nn import ResNet

GROUPS = 8


@system("autoencoder", paper="doi:10.1126/science.1127647", modality="image", level="baseline")
class Autoencoder(Learner):
    """An encoder squeezes an image into a vector, and a decoder paints the image from it.

        loss = mean over pixels of (decoder(encoder(x)) - x)^2

    Convolutional, and trained from scratch at once, where the paper stacked restricted Boltzmann machines. What does
    not fit through the vector is lost: `reconstruct` takes an image to the nearest that the data has taught it.

    Args:
        encoder: images (n, c, s, s) in [0, 1] -> (n, encoder.dim); what the user keeps.
        views: batch -> one batch of views, in place of `encoder.prepare`.
        decoder_width: channels of the decoder's last maps, a multiple of 8; twice and four times as many before.

    Batches hold at least 2 images, for the batch normalisation of most encoders.

    >>> learner = Autoencoder(ResNet(8, width=8, image_size=20))
    >>> learner.reconstruct(torch.rand(4, 3, 20, 20)).shape
    torch.Size([4, 3, 20, 20])
    """

    settings: ClassVar = {"small": {"optimizer": "adamw", "lr": 2e-3, "batch_size": 128, "warmup": 0.05}}

    def __init__(self, encoder: nn.Module, *, views: nn.Module | None = None, decoder_width: int = 32) -> None:
        super().__init__()
        self.encoder, self.views = encoder, views
        self.decoder = Decoder(encoder.dim, encoder.image_size, encoder.in_channels, decoder_width)

    def loss(self, x: Tensor) -> Tensor:
        x = self.encoder.prepare(x) if self.views is None else self.views(x)
        return F.mse_loss(self.reconstruct(x), x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (n, c, s, s), float in [0, 1], through the vector and back."""
        return self.decoder(self.encoder(x))


class Decoder(nn.Module):
    """Vectors (n, dim) -> images (n, out_channels, image_size, image_size) in [0, 1].

    A linear layer gives a map of 4 to 7 pixels a side, and each stage doubles the side, until the image is covered.
    """

    def __init__(self, dim: int, image_size: int, out_channels: int, width: int) -> None:
        super().__init__()
        doublings = max(image_size.bit_length() - 3, 0)
        widths = [width * 2 ** min(doublings - i, 2) for i in range(doublings + 1)]
        self.image_size = image_size
        self.start = -(-image_size // 2**doublings)
        self.linear = nn.Linear(dim, widths[0] * self.start**2)
        stages = [_stage(a, b) for a, b in pairwise(widths)]
        self.stages = nn.Sequential(*stages, _normed(widths[-1]), nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        maps = self.linear(z).unflatten(1, (-1, self.start, self.start))
        return self.stages(maps)[..., : self.image_size, : self.image_size].sigmoid()


def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return nn.Sequential(_normed(in_channels), nn.Upsample(scale_factor=2), convolution)


def _normed(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(GROUPS, channels), nn.SiLU())


@checked("painting grey costs the mean square of x - 1/2", tolerance=1e-6)
def cost_of_grey() -> tuple[float, float]:
    learner = Autoencoder(ResNet(8, width=8, image_size=8), decoder_width=8)
    nn.init.zeros_(learner.decoder.stages[-1].weight)
    nn.init.zeros_(learner.decoder.stages[-1].bias)
    x = torch.rand(4, 3, 8, 8)
    return learner.loss(x).item(), (x - 0.5).square().mean().item()
