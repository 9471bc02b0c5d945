"""Sampling from an unnormalised density by its gradient (Welling & Teh, 2011), with a buffer of old samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tacit.errors import expect


def langevin(
    log_density: Callable[[Tensor], Tensor],
    x: Tensor,
    n_steps: int,
    *,
    step_size: float,
    noise: float | None = None,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """Stochastic gradient Langevin dynamics, without a test of acceptance:

        x <- x + step_size * grad log p(x) + noise * N(0, I)

    With noise = sqrt(2 step_size) the chain approaches p as the step size falls; for a Gaussian of variance s^2 it ends
    at the variance s^2 / (1 - step_size / (2 s^2)). Energy models of images are sampled with less noise than that: it
    amounts to a density that is sharpened, p^(2 step_size / noise^2), and to chains that are called converged when they
    are short. Only gradients with respect to x are computed; those of parameters are left as they are. The chain runs
    under `torch.no_grad` as well.

    Args:
        log_density: x -> log p(x) but for a constant, (n,); of each row by itself (no batch statistics).
        x: where the chains start, float (n, ...); it is not changed.
        n_steps: at least 0.
        step_size: of the gradient, above 0.
        noise: standard deviation of the noise; None: sqrt(2 step_size).
        bounds: smallest and largest value; what leaves them is put back onto them after each step.

    Returns:
        The ends of the chains, (n, ...), without a graph.

    Raises:
        ArgumentError: a number out of range.

    >>> _ = torch.manual_seed(0)
    >>> ends = langevin(lambda x: -0.5 * x.square().sum(1), torch.zeros(4000, 1), 200, step_size=0.05)
    >>> bool((ends.var() - 1 / (1 - 0.025)).abs() < 0.1)
    True
    """
    expect("n_steps", n_steps, n_steps >= 0, "at least 0")
    expect("step_size", step_size, step_size > 0, "a number above 0")
    noise = math.sqrt(2 * step_size) if noise is None else noise
    expect("noise", noise, noise >= 0, "a number of at least 0")
    x = x.detach().clone()
    for _ in range(n_steps):
        with torch.enable_grad():
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(log_density(x).sum(), x)
        x = x.detach() + step_size * gradient + noise * torch.randn_like(x)
        if bounds is not None:
            x = x.clamp(*bounds)
    return x


class ReplayBuffer(nn.Module):
    """Ends of old chains, from which new ones start (persistent contrastive divergence; Du & Mordatch, 2019).

    A share of the starts is drawn anew, uniform within `bounds`, and takes the place of the old sample. What is held
    are buffers, so that a killed run resumes with the same samples. Randomness is torch's global generator.

    Args:
        size: samples held.
        shape: of a sample.
        restart: share of starts that are new, in [0, 1].
        bounds: smallest and largest value of a new start.

    Attributes:
        items: (size, *shape).

    Raises:
        ArgumentError: a number out of range.

    >>> buffer = ReplayBuffer(10, (2,), restart=0.0)
    >>> starts, rows = buffer.draw(4)
    >>> buffer.store(torch.ones(4, 2), rows)
    >>> int((buffer.items == 1).all(1).sum())
    4
    """

    items: Tensor

    def __init__(
        self, size: int, shape: Sequence[int], *, restart: float = 0.05, bounds: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__()
        expect("size", size, size >= 1, "at least 1")
        expect("restart", restart, 0 <= restart <= 1, "a share in [0, 1]")
        expect("bounds", bounds, bounds[0] < bounds[1], "the smaller number first")
        self.restart, self.bounds = restart, bounds
        self.register_buffer("items", self._new(size, tuple(shape), torch.device("cpu")))

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Starts of n chains, (n, *shape), and the rows of `items` where their ends belong, int64 (n,).

        Rows are drawn without replacement as long as n is at most the size; further ones repeat.
        """
        size, device = len(self.items), self.items.device
        repeats = -(-n // size)
        rows = torch.cat([torch.randperm(size, device=device) for _ in range(repeats)])[:n]
        fresh = self._new(n, tuple(self.items.shape[1:]), device)
        renewed = (torch.rand(n, device=device) < self.restart).view(n, *[1] * (self.items.ndim - 1))
        return torch.where(renewed, fresh, self.items[rows]), rows

    @torch.no_grad()
    def store(self, x: Tensor, rows: Tensor) -> None:
        """Put the ends of chains, (n, *shape), in the place of those they started from."""
        self.items[rows] = x.detach().to(self.items.dtype)

    def _new(self, n: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
        low, high = self.bounds
        return low + (high - low) * torch.rand(n, *shape, device=device)
