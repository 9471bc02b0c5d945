"""A tiny encoder and views without chance, so that a test can follow a system's arithmetic by hand."""

import pytest
import torch
from torch import Tensor, nn


class TinyEncoder(nn.Module):
    """Images of 3 x 8 x 8 -> 12 numbers."""

    dim, image_size, in_channels = 12, 8, 3

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, self.dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Mirror(nn.Module):
    """The image and its mirror image as the two views."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.flip(-1)


class Twice(nn.Module):
    """The image itself as both views."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny() -> nn.Module:
    return TinyEncoder()


@pytest.fixture
def mirror() -> nn.Module:
    return Mirror()


@pytest.fixture
def twice() -> nn.Module:
    return Twice()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 8, 8)
