"""Diffusion: the noise schedule and the algebra of denoising models (Ho et al., 2020; Song et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tacit.errors import expect, unknown

Time = int | Tensor
"""A number of noising steps, 0 (clean) to n_steps (noise), for all items or int64 (n,) for each."""

Denoiser = Callable[..., Tensor]
"""`denoiser(x_t, t)`, or `denoiser(x_t, t, y)`: the noise or the clean image in x_t; t is int64 (n,)."""

SCHEDULES = ("linear", "cosine")
PREDICTIONS = ("epsilon", "x0")
LARGEST_BETA = 0.999


class Diffusion(nn.Module):
    """The forward process, and the steps back that an estimate of the noise allows. It has no parameters.

        x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon                         (DDPM, eq. 4)
        x_s = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s - sigma^2) epsilon + sigma z     (DDIM, eq. 12)

    Items have any shape (n, ...); images are meant to lie in [-1, 1]. Times are whole numbers, `int` for all items or
    int64 (n,), with t = 0 the clean item, so that the papers' alpha_bar_t is `alpha_bar[t]`.

    Args:
        n_steps: T, the steps from the clean item to noise.
        schedule: `"linear"`, beta from 1e-4 to 0.02 at 1,000 steps (DDPM, section 4), and about the same total noise at
            any other number; `"cosine"` (Nichol & Dhariwal, 2021, eq. 17).
        prediction: what denoisers give, `"epsilon"` or `"x0"`.

    Attributes:
        alpha_bar: (n_steps + 1,), falling from 1 to almost 0.

    Raises:
        ArgumentError: no step, or an unknown schedule or prediction.

    >>> diffusion = Diffusion()
    >>> x0, noise = torch.ones(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    >>> x = diffusion.noised(x0, 300, noise)
    >>> bool(torch.allclose(diffusion.x0_of(x, 300, noise), x0, atol=1e-5)), diffusion.times(4)
    (True, [1000, 750, 500, 250, 0])
    """

    alpha_bar: Tensor
    log_alpha_bar: Tensor

    def __init__(self, n_steps: int = 1000, schedule: str = "linear", prediction: str = "epsilon") -> None:
        super().__init__()
        expect("n_steps", n_steps, n_steps >= 1, "at least 1")
        if schedule not in SCHEDULES:
            raise unknown("schedule", schedule, SCHEDULES)
        if prediction not in PREDICTIONS:
            raise unknown("prediction", prediction, PREDICTIONS)
        self.n_steps, self.schedule, self.prediction = n_steps, schedule, prediction
        # In logarithms 1 - alpha_bar_t and 1 - alpha_bar_t / alpha_bar_s are exact in single precision at small t too.
        log = torch.cat([torch.zeros(1, dtype=torch.float64), (-_betas(n_steps, schedule)).log1p().cumsum(0)])
        self.register_buffer("log_alpha_bar", log.float(), persistent=False)
        self.register_buffer("alpha_bar", log.exp().float(), persistent=False)

    def noised(self, x0: Tensor, t: Time, noise: Tensor) -> Tensor:
        """x_t (n, ...) of clean items and standard normal noise, both (n, ...) (DDPM, eq. 4)."""
        signal, deviation = self._scales(t, x0)
        return signal * x0 + deviation * noise

    def x0_of(self, x_t: Tensor, t: Time, epsilon: Tensor) -> Tensor:
        """The clean items that x_t and its noise imply (DDIM, eq. 9)."""
        signal, deviation = self._scales(t, x_t)
        return (x_t - deviation * epsilon) / signal

    def epsilon_of(self, x_t: Tensor, t: Time, x0: Tensor) -> Tensor:
        """The noise that x_t and its clean items imply; t at least 1."""
        signal, deviation = self._scales(t, x_t)
        return (x_t - signal * x0) / deviation

    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        """What a denoiser of x_t is trained to give: the noise, or the clean items."""
        return noise if self.prediction == "epsilon" else x0

    def estimate(self, denoiser: Denoiser, x_t: Tensor, t: Time, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Clean items and noise as the denoiser sees them: E[x_0 | x_t] (Tweedie's formula) and the epsilon it implies.

        Gradients flow through the denoiser where they are enabled.

        Args:
            denoiser: called as `denoiser(x_t, t)`, or `denoiser(x_t, t, y)` where y is given, with t int64 (n,).
            x_t: (n, ...)
            t: at least 1.
            y: classes, int64 (n,).
        """
        times = torch.as_tensor(t, device=x_t.device).expand(x_t.shape[0])
        given = denoiser(x_t, times) if y is None else denoiser(x_t, times, y)
        if self.prediction == "epsilon":
            return self.x0_of(x_t, t, given), given
        return given, self.epsilon_of(x_t, t, given)

    def step(
        self, x0: Tensor, epsilon: Tensor, t: Time, s: Time, eta: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        """From estimates at t to x_s, s < t (DDIM, eqs. 12 and 16); s = 0 gives x0.

        Args:
            x0, epsilon: as `estimate` gives them, (n, ...).
            eta: 0 is deterministic (DDIM); 1 with s = t - 1 is DDPM's ancestral step, with the variance beta_tilde.
            noise: standard normal (n, ...), drawn if None and eta is above 0.
        """
        signal, deviation = self._scales(s, x0)
        if eta == 0:
            return signal * x0 + deviation * epsilon
        fresh = -torch.expm1(self._log(t, x0) - self._log(s, x0))  # 1 - alpha_bar_t / alpha_bar_s
        variance = eta**2 * (deviation / self._scales(t, x0)[1]).square() * fresh
        noise = torch.randn_like(x0) if noise is None else noise
        kept = (deviation.square() - variance).clamp_min(0).sqrt()
        return signal * x0 + kept * epsilon + variance.sqrt() * noise

    def again(self, x_s: Tensor, s: Time, t: Time, noise: Tensor | None = None) -> Tensor:
        """Diffuse x_s forward to t > s: back in time, to denoise once more (RePaint, eq. 1 over several steps)."""
        log = self._log(t, x_s) - self._log(s, x_s)
        noise = torch.randn_like(x_s) if noise is None else noise
        return (log / 2).exp() * x_s + (-torch.expm1(log)).sqrt() * noise

    def times(self, num_steps: int) -> list[int]:
        """Evenly spaced times from n_steps down to 0: num_steps + 1 of them, or all n_steps + 1 where those are fewer.

        Raises:
            ArgumentError: no step.
        """
        expect("num_steps", num_steps, num_steps >= 1, "at least 1")
        num = min(num_steps, self.n_steps)
        return [round(self.n_steps * i / num) for i in range(num, -1, -1)]

    def reverse(
        self,
        step: Callable[[Tensor, int, int], Tensor],
        x: Tensor,
        times: Sequence[int],
        *,
        travel: tuple[int, int, int] | None = None,
    ) -> Tensor:
        """The way back: x = step(x, t, s) for neighbouring times t > s.

        Args:
            step: (x_t, t, s) -> x_s.
            x: at times[0], (n, ...).
            times: falling, such as `times(50)`.
            travel: (low, high, repeats): where low <= t <= high the step is taken `repeats` times, with `again` back
                from s to t in between (RePaint, Lugmayr et al., 2022).

        Raises:
            ArgumentError: times that do not fall, or fewer than one repeat.
        """
        expect("times", times, all(t > s for t, s in pairwise(times)), "falling times, such as diffusion.times(50)")
        low, high, repeats = travel or (0, 0, 1)
        expect("travel", travel, repeats >= 1, "(low, high, repeats) with at least 1 repeat")
        for t, s in pairwise(times):
            x = step(x, t, s)
            for _ in range(repeats - 1 if low <= t <= high else 0):
                x = step(self.again(x, s, t), t, s)
        return x

    def _log(self, t: Time, like: Tensor) -> Tensor:
        """log alpha_bar_t, with as many dimensions as the items."""
        if isinstance(t, int):
            expect("t", t, 0 <= t <= self.n_steps, f"a time from 0 to n_steps={self.n_steps}")
        log = self.log_alpha_bar[t].to(like.dtype)
        return log.view(-1, *[1] * (like.ndim - 1)) if log.ndim else log

    def _scales(self, t: Time, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t)."""
        log = self._log(t, like)
        return (log / 2).exp(), (-torch.expm1(log)).sqrt()


def _betas(n_steps: int, schedule: str) -> Tensor:
    """beta_1 to beta_T, float64."""
    if schedule == "linear":
        scale = 1000 / n_steps
        return torch.linspace(1e-4 * scale, 0.02 * scale, n_steps, dtype=torch.float64).clamp_max(LARGEST_BETA)
    share = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    remaining = torch.cos((share + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - remaining[1:] / remaining[:-1]).clamp_max(LARGEST_BETA)
