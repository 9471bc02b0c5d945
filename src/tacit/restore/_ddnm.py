"""Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model (Wang, Yu & Zhang, 2023)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Trial, claim
from tacit.errors import expect
from tacit.evaluate import psnr
from tacit.nn import Deblurring, Inpainting, LinearOperator, RandomProjection, SuperResolution, gaussian_kernel

STEPS, TINY = 100, 1e-12


@system("ddnm", paper="arXiv:2212.00490", modality="image", kind="function")
class DDNM:
    """Restores y = A x + n with any trained DDPM: what A keeps is set right at each step, what it loses is generated.

    Each estimate of the clean image, x0 = E[x_0 | x_t], is changed before the next step is drawn:

        x0' = A+ y + (I - A+ A) x0                                                                  (eq. 13)

    so that A x0' = y, and the null space stays the model's. DDNM+ (sigma_y > 0) trusts y only as far as the noise that
    it brings along fits into the noise that x_s is due to have anyway:

        x0' = x0 - Sigma A+ (A x0 - y),      x_s ~ N(mu(x_t, x0'), Phi)                              (eq. 17, 18)
        (a lambda_i sigma_y / s_i)^2 + phi_i = sigma^2,   lambda_i = min(1, sigma s_i / (a sigma_y))  (eq. 19, appendix)

    in the singular directions V of A, with singular values s_i: Sigma = V diag(lambda) V', Phi = V diag(phi) V', a the
    factor of x0' in mu, sigma the step's own deviation. The last step has none, so that it denoises and sets nothing.

    Time travel (section 3.3): each block of `length` steps is walked `repeats` times, with noise put back in between,
    so that both parts can agree; it pays where A keeps little, and costs `repeats` times as much.

    Args:
        ddpm: anything with `.diffusion` and `.estimate(x_t, t) -> (x0, epsilon)`, such as `tacit.generate.DDPM`.
        operator: A, with `forward`, `pinv` and `spectral`; see `tacit.nn.LinearOperator`.
        sigma_y: deviation of the noise in y, for images in [0, 1]; 0 for DDNM.
        num_steps: of the sampling; the paper takes 100.
        eta: 1 for DDPM's own steps, 0 for DDIM's, which have no noise; the paper takes 0.85. Above 0 for DDNM+.
        time_travel: (length, repeats), or None.
        clip: cut estimates of clean images to [-1, 1] before they are changed, as DDPM's sampler does; DDNM's code does
            not.
        exact: the form of the appendix, by singular values. False: the simple form of section 3.3, which takes the
            noise of A+ y to be white with deviation sigma_y.

    Raises:
        ArgumentError: a setting out of range.

    >>> from tacit.nn import Diffusion, SuperResolution
    >>> class Grey:  # knows nothing but that images are grey
    ...     diffusion = Diffusion(100)
    ...     def estimate(self, x, t):
    ...         return torch.zeros_like(x), self.diffusion.epsilon_of(x, t, torch.zeros_like(x))
    >>> restored = DDNM(Grey(), SuperResolution(2), num_steps=5).restore(torch.full((1, 1, 2, 2), 0.25))
    >>> restored.shape, restored.mean().round(decimals=4).item()
    (torch.Size([1, 1, 4, 4]), 0.25)
    """

    def __init__(
        self,
        ddpm: Any,
        operator: LinearOperator,
        *,
        sigma_y: float = 0.0,
        num_steps: int = STEPS,
        eta: float = 0.85,
        time_travel: tuple[int, int] | None = None,
        exact: bool = True,
        clip: bool = True,
    ) -> None:
        expect("sigma_y", sigma_y, sigma_y >= 0, "a deviation, at least 0")
        expect("eta", eta, 0 <= eta <= 1 and (eta > 0 or sigma_y == 0), "0 to 1, and above 0 where sigma_y is")
        ok = time_travel is None or (len(time_travel) == 2 and min(time_travel) >= 1)
        expect("time_travel", time_travel, ok, "(length, repeats), each at least 1")
        self.ddpm, self.operator, self.sigma_y = ddpm, operator, sigma_y
        self.num_steps, self.eta, self.time_travel = num_steps, eta, time_travel
        self.exact, self.clip = exact, clip

    @torch.no_grad()
    def restore(self, y: Tensor) -> Tensor:
        """Measurements of images in [0, 1], as `operator` gives them -> images (n, c, h, w).

        Not clamped to [0, 1], since A x = y would not hold any more; with sigma_y = 0 it holds to float precision.
        """
        shaped = self.operator.pinv(y)
        y = 2 * y - self.operator(torch.ones_like(shaped))  # of images in [-1, 1], where the diffusion is at home
        x = torch.randn_like(shaped)
        for t, s in pairwise(self._times()):
            x = self._step(x, y, t, s) if s < t else self.ddpm.diffusion.again(x, t, s)
        return (x + 1) / 2

    def _step(self, x: Tensor, y: Tensor, t: int, s: int) -> Tensor:
        """x_t -> x_s."""
        diffusion, operator = self.ddpm.diffusion, self.operator
        a, sigma = posterior_scales(diffusion.alpha_bar, t, s, self.eta)
        x0, _ = self.ddpm.estimate(x, t)
        x0 = x0.clamp(-1, 1) if self.clip else x0
        off, noise = operator.pinv(operator(x0) - y), torch.randn_like(x)
        if self.sigma_y > 0:
            off = operator.spectral(off, lambda values: self._trust(values, a, sigma)[0])
            noise = operator.spectral(noise, lambda values: self._trust(values, a, sigma)[1])
        x0 = x0 - off
        return diffusion.step(x0, diffusion.epsilon_of(x, t, x0), t, s, eta=self.eta, noise=noise)

    def _trust(self, values: Tensor, a: float, sigma: float) -> tuple[Tensor, Tensor]:
        """lambda_i, and the deviation sqrt(phi_i) as a share of sigma, by singular value (eq. 19)."""
        values = values if self.exact else torch.ones_like(values)
        brought = 2 * a * self.sigma_y / values  # deviation of a A+ n; 2, since images lie in [-1, 1]
        trust = (sigma / brought).clamp(max=1)
        own = (1 - (trust * brought / max(sigma, TINY)) ** 2).clamp(min=0).sqrt()
        return torch.where(values > 0, trust, 1), torch.where(values > 0, own, 1)

    def _times(self) -> list[int]:
        times = self.ddpm.diffusion.times(self.num_steps)
        if self.time_travel is None:
            return times
        length, repeats = self.time_travel
        walked = times[:1]
        for first in range(0, len(times) - 1, length):
            block = times[first : first + length + 1]
            walked += block[1:] + block * (repeats - 1)
        return walked


def posterior_scales(alpha_bar: Tensor, t: int, s: int, eta: float) -> tuple[float, float]:
    """Of a step x_t -> x_s, the factor of x0 in its mean and its deviation (DDIM, eq. 12 and 16).

    With eta = 1 and s = t - 1 they are DDPM's: sqrt(alpha_bar_s) beta_t / (1 - alpha_bar_t), and its posterior's.

    >>> a, sigma = posterior_scales(torch.tensor([1.0, 0.9, 0.8]), 2, 1, eta=1.0)
    >>> round(a / (0.9**0.5 * (1 - 0.8 / 0.9) / 0.2), 5), round(sigma**2 / (0.1 / 0.2 * (1 - 0.8 / 0.9)), 5)
    (1.0, 1.0)
    """
    now, then = float(alpha_bar[t]), float(alpha_bar[s])
    variance = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
    return then**0.5 - (max(1 - then - variance, 0.0) * now / (1 - now)) ** 0.5, variance**0.5


SIGMA, N_TEST = 0.1, 100
TASKS = ("super-resolution", "inpainting", "projections")


def setting(trial: Trial, data: Data) -> tuple[Any, Tensor, list[LinearOperator]]:
    """What all claims start from: a DDPM of the training images, unseen images in [0, 1], and what is done to them."""
    train, unseen = trial.split(data)
    ddpm = trial.pretrained("ddpm", train, flip=False)
    x, size = (unseen.x.float() / 255).to(trial.device), unseen.x.shape[-1]
    half = (torch.rand(size, size, generator=trial.generator) < 0.5).float()
    operators = [SuperResolution(2), Inpainting(half), RandomProjection(0.25, size, seed=trial.seed)]
    return ddpm, x, [operator.to(trial.device) for operator in operators]


def decibels(images: Tensor, truth: Tensor) -> float:
    """Mean PSNR, of images cut to [0, 1]."""
    return float(psnr(images.clamp(0, 1), truth).mean())


@claim(
    "one unconditional model restores what different operators lose better than their pseudo-inverses",
    reported="far above A+ y in super-resolution, deblurring, compressed sensing and inpainting (Table 1)",
    proxy="8-pixel digits and a small DDPM of few steps, in place of ImageNet and CelebA-HQ at 256 pixels; PSNR alone",
    steps={"small": 500, "full": 20_000},
)
def better_than_the_pseudo_inverse(bench: Bench) -> Comparison:
    """PSNR of unseen images under 2x super-resolution, inpainting of half the pixels, and 25 % random projections, in
    the paper's 100 steps without time travel: the smallest gain of the three.
    """
    digits, steps = bench.images("digits", n_test=N_TEST), bench.pick(smoke=3, small=STEPS)

    def scores(trial: Trial, task: str) -> tuple[float, float]:
        ddpm, x, operators = setting(trial, digits)
        a = operators[TASKS.index(task)]
        return decibels(DDNM(ddpm, a, num_steps=steps).restore(a(x)), x), decibels(a.pinv(a(x)), x)

    return bench.curve(scores, over=TASKS, shape="above", baseline="A+ y", setting=digits.name)


@claim(
    "setting the clean estimate right beats replacing the noisy image's measured part, as ILVR and RePaint do",
    reported="outperforms other zero-shot methods, ILVR and RePaint among them (abstract, Table 1)",
    proxy="8-pixel digits and a small DDPM of few steps, in place of ImageNet and CelebA-HQ at 256 pixels; PSNR alone",
    steps={"small": 500, "full": 20_000},
)
def better_than_replacing_the_noisy_part(bench: Bench) -> Comparison:
    """As `better_than_the_pseudo_inverse`, against the same model whose x_s gets A+ A x_s replaced by that of y, noised
    to s: equal evaluations of the network, no resampling on either side.
    """
    digits, steps = bench.images("digits", n_test=N_TEST), bench.pick(smoke=3, small=STEPS)

    def scores(trial: Trial) -> list[float]:
        ddpm, x, operators = setting(trial, digits)
        restored = [decibels(DDNM(ddpm, a, num_steps=steps).restore(a(x)), x) for a in operators]
        replaced = [decibels(_replacing(ddpm, a, a(x), steps), x) for a in operators]
        return [sum(restored) / len(operators), sum(replaced) / len(operators)]

    return bench.trials(scores, baseline="noised measurements in x_s", better_by=0.0, setting=digits.name)


@claim(
    "DDNM+ keeps the measurements' noise out, which DDNM reproduces",
    reported="noisy images are restored, where DDNM brings their noise into the result (section 3.3)",
    proxy="8-pixel digits, a small DDPM of few steps and PSNR, in place of pictures at 256 pixels",
    steps={"small": 500, "full": 20_000},
)
def noise_is_kept_out(bench: Bench) -> Comparison:
    """PSNR at noise of 0.1, a mean over the three tasks."""
    return _with_noise(bench, lambda image_size, operators: operators)


@claim(
    "where the pseudo-inverse blows the noise up, DDNM+ keeps it out",
    reported="noisy images are restored, where DDNM brings their noise into the result (section 3.3)",
    proxy="8-pixel digits, a small DDPM of few steps and PSNR, in place of pictures at 256 pixels",
    steps={"small": 500, "full": 20_000},
)
def noise_is_kept_out_of_deblurring(bench: Bench) -> Comparison:
    """PSNR at noise of 0.1 after a blur of one pixel; chosen once the other three tasks had shown next to no gain."""
    return _with_noise(bench, lambda image_size, _: [Deblurring(gaussian_kernel(1.0), image_size)])


def _with_noise(bench: Bench, tasks: Callable[[int, list[LinearOperator]], list[LinearOperator]]) -> Comparison:
    digits, steps = bench.images("digits", n_test=N_TEST), bench.pick(smoke=3, small=STEPS)

    def scores(trial: Trial) -> list[float]:
        ddpm, x, operators = setting(trial, digits)
        operators = [a.to(x.device) for a in tasks(x.shape[-1], operators)]
        found = []
        for sigma_y in (SIGMA, 0.0):
            samplers = [DDNM(ddpm, a, sigma_y=sigma_y, num_steps=steps) for a in operators]
            noisy = [_noisy(a(x), trial) for a in operators]
            restored = [decibels(ddnm.restore(y), x) for ddnm, y in zip(samplers, noisy, strict=True)]
            found.append(sum(restored) / len(restored))
        return found

    return bench.trials(scores, baseline="DDNM", better_by=0.0, setting=digits.name)


@torch.no_grad()
def _replacing(ddpm: Any, operator: LinearOperator, y: Tensor, num_steps: int) -> Tensor:
    """Steps of the model alone, with the measured part of x_s replaced by the measurements' own, noised to s."""
    diffusion = ddpm.diffusion
    shaped = operator.pinv(y)
    known = operator.pinv(2 * y - operator(torch.ones_like(shaped)))

    def step(x: Tensor, t: int, s: int) -> Tensor:
        x0 = ddpm.estimate(x, t)[0].clamp(-1, 1)
        x = diffusion.step(x0, diffusion.epsilon_of(x, t, x0), t, s, 0.85)
        noised = diffusion.noised(known, s, torch.randn_like(x))
        return x + operator.pinv(operator(noised - x))

    return (diffusion.reverse(step, torch.randn_like(shaped), diffusion.times(num_steps)) + 1) / 2


def _noisy(y: Tensor, trial: Trial) -> Tensor:
    """With noise of SIGMA, the same for both sides."""
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(trial.seed))
    return y + SIGMA * noise.to(y.device)
