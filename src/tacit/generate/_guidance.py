"""What the guided samplers share: gradients of an energy, sizes of steps, and the walk from noise to images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tacit.errors import expect
from tacit.nn import Diffusion

Range = tuple[int, int]
"""Times (low, high), both included."""
Travel = tuple[int, int, int]
"""Times (low, high), and how often each step between them is taken."""


def estimate(ddpm: Any, x: Tensor, t: int, clip: bool) -> tuple[Tensor, Tensor]:
    """The clean images that the ddpm sees in x_t, cut to [-1, 1] if `clip`, and the noise which they imply.

    Gradients pass the cut as if it were not there: what is saturated (the black around a digit) still has a say.
    """
    x0, epsilon = ddpm.estimate(x, t)
    if not clip:
        return x0, epsilon
    cut = x0.detach().clamp(-1, 1)
    return x0 + (cut - x0).detach(), ddpm.diffusion.epsilon_of(x.detach(), t, cut)


def energy_gradient(energy: Callable[[Tensor], Tensor], x0: Tensor, of: Tensor) -> Tensor:
    """Gradient of each image's energy with respect to `of`, from which the clean images x0 in [-1, 1] were made.

    Raises:
        ArgumentError: the energy is not one number an image, or has no gradient.
    """
    value = energy((x0 + 1) / 2)
    n = len(x0)
    expect("energy", tuple(value.shape), value.shape == (n,), f"one number an image, shape ({n},)")
    expect("energy", "without gradient", value.requires_grad, "a differentiable function of x0", "see tacit.nn.Energy")
    return torch.autograd.grad(value.sum(), of)[0]


def rms(x: Tensor) -> Tensor:
    """Root mean square of each item: (n, ...) -> (n, 1, ...)."""
    return x.square().mean(tuple(range(1, x.ndim)), keepdim=True).sqrt()


def score_step(diffusion: Diffusion, t: int, s: int, eta: float, like: Tensor) -> Tensor:
    """How far x_s moves when the score at t moves by 1 (Tweedie): the rate of exact guidance, a scalar tensor.

    beta_t / sqrt(1 - beta_t) for eta = 1 and s = t - 1.
    """
    alpha = diffusion.alpha_bar[t].to(like.dtype)
    x0, epsilon = (1 - alpha) / alpha.sqrt(), -(1 - alpha).sqrt()  # what a score of 1 adds to them
    return diffusion.step(x0[None], epsilon[None], t, s, eta, noise=torch.zeros_like(x0[None]))


def own_step(diffusion: Diffusion, epsilon: Tensor, t: int, s: int, eta: float) -> Tensor:
    """Root mean square by which the denoiser's own score moves x_s, for each item: (n, 1, ...)."""
    return score_step(diffusion, t, s, eta, epsilon) * rms(epsilon) / (1 - diffusion.alpha_bar[t]).sqrt()


def within(t: int, times: Range | None) -> bool:
    """Whether t is in the range; None is all times."""
    return times is None or times[0] <= t <= times[1]


@torch.no_grad()
def walk(
    ddpm: Any,
    step: Callable[[Tensor, int, int], Tensor],
    n: int,
    shape: tuple[int, int, int] | None,
    num_steps: int,
    time_travel: Travel | None,
) -> Tensor:
    """n images (n, c, h, w) in [0, 1], from noise by `step`: (x_t, t, s) -> x_s.

    Raises:
        ArgumentError: no image is asked for, or neither `shape` nor the ddpm's encoder says how large they are.
    """
    expect("n", n, n >= 1, "at least one image")
    encoder = getattr(ddpm, "encoder", None)
    known = shape is not None or hasattr(encoder, "image_size")
    expect("shape", shape, known, "(c, h, w) for a ddpm without encoder", "sample(n, shape=(1, 16, 16))")
    shape = shape or (encoder.in_channels, encoder.image_size, encoder.image_size)  # type: ignore[union-attr]
    diffusion = ddpm.diffusion
    x = torch.randn(n, *shape, device=diffusion.alpha_bar.device)
    x = diffusion.reverse(step, x, diffusion.times(num_steps), travel=time_travel)
    return ((x + 1) / 2).clamp(0, 1)
