"""Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel, 2020), sampled as in DDIM (Song, Meng & Ermon, 2021)."""

import copy
from typing import ClassVar

import torch
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import checked
from tacit.embedding import evaluating
from tacit.errors import expect
from tacit.learner import Learner
from tacit.nn import Diffusion, UNet
from tacit.nn._diffusion import Time
from tacit.views import RandomHorizontalFlip, as_float

BATCH = 256
"""Images that are drawn at once."""


@system("ddpm", paper="arXiv:2006.11239", modality="image", level="baseline")
class DDPM(Learner):
    """A network learns to tell the noise in images at every level of noise; from noise it then paints new ones.

        loss = | epsilon - epsilon_theta(x_t, t) |^2, a mean over pixels, images and t from 1 to T           (eq. 14)

    `sample` goes back from pure noise in a few of the T steps (DDIM, eq. 12), with the average of the weights.

    Args:
        encoder: a `UNet`, or any encoder of images with `denoise(x_t, t, y)`; what the user keeps is its average.
        n_steps: T.
        schedule: of the noise, `"linear"` or `"cosine"` (that of the learning rate is fit's).
        prediction: what the network gives, `"epsilon"` or `"x0"`.
        ema: largest share of the average that stays at each step, in [0, 1). The n-th step keeps no more than
            (1 + n) / (10 + n), so that a short run does not end with the weights that it began with.
        flip: mirror half of the images (appendix B).

    Attributes:
        encoder: the averaged network, which is not trained itself. As an encoder it reads an inner block of the U-Net.
        denoiser: the network that is trained.
        diffusion: the noise schedule.

    Raises:
        ArgumentError: an encoder that cannot denoise, an average that never moves.

    >>> learner = DDPM(UNet(8, 1, width=8), n_steps=20)
    >>> learner.sample(2, num_steps=3).shape
    torch.Size([2, 1, 8, 8])
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 2e-4,
            "weight_decay": 0.0,
            "batch_size": 128,
            "max_steps": 800_000,
            "warmup": 0.00625,
            "clip": 1.0,
            "n_steps": 1000,
            "ema": 0.9999,
        },
        "small": {
            "model": "unet",
            "optimizer": "adamw",
            "lr": 2e-3,
            "weight_decay": 0.0,
            "batch_size": 64,
            "warmup": 0.05,
            "clip": 1.0,
            "n_steps": 1000,
            "ema": 0.99,
        },
    }

    n_updates: Tensor

    def __init__(
        self,
        encoder: UNet,
        *,
        n_steps: int = 1000,
        schedule: str = "linear",
        prediction: str = "epsilon",
        ema: float = 0.9999,
        flip: bool = True,
    ) -> None:
        super().__init__()
        named = type(encoder).__name__
        expect("encoder", named, hasattr(encoder, "denoise"), "a network that denoises", "take tacit.nn.UNet: unet")
        expect("ema", ema, 0 <= ema < 1, "a share in [0, 1)")
        self.diffusion = Diffusion(n_steps, schedule, prediction)
        if isinstance(encoder, UNet):
            encoder.read(n_steps=n_steps, schedule=schedule)
        self.denoiser = copy.deepcopy(encoder).requires_grad_(True)
        self.encoder = encoder.requires_grad_(False)
        self.views = RandomHorizontalFlip(0.5 if flip else 0.0)
        self.ema = ema
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))

    def loss(self, x: Tensor) -> Tensor:
        return self.denoising_loss(x)

    def denoising_loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Of raw images (n, c, h, w), and classes (n,) if the network is told of them; noise and t are drawn."""
        x0 = 2 * self.views(as_float(x, self.encoder.image_size)) - 1
        noise = torch.randn_like(x0)
        t = torch.randint(1, self.diffusion.n_steps + 1, (len(x0),), device=x0.device)
        given = self.denoiser.denoise(self.diffusion.noised(x0, t, noise), t, y)
        return (given.float() - self.diffusion.target(x0, noise)).square().mean()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.n_updates += 1
        kept = min(self.ema, (1 + int(self.n_updates)) / (10 + int(self.n_updates)))
        torch._foreach_lerp_(list(self.encoder.parameters()), list(self.denoiser.parameters()), 1 - kept)

    def estimate(
        self, x_t: Tensor, t: Time, y: Tensor | None = None, *, guidance_scale: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Clean images in about [-1, 1] and noise, as the averaged network sees them in x_t, both (n, c, h, w).

        Gradients flow to x_t where they are enabled.

        Args:
            x_t: noisy images.
            t: 1 to n_steps, int or int64 (n,).
            y: classes, int64 (n,), for a network that was told of them.
            guidance_scale: w of `guided`; 0 is the conditional network itself.
        """
        x0, epsilon = self.diffusion.estimate(self.encoder.denoise, x_t, t, y)
        if y is None or guidance_scale == 0:
            return x0, epsilon
        epsilon = guided(epsilon, self.diffusion.estimate(self.encoder.denoise, x_t, t)[1], guidance_scale)
        return self.diffusion.x0_of(x_t, t, epsilon), epsilon

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        num_steps: int = 50,
        eta: float = 0.0,
        y: Tensor | int | None = None,
        guidance_scale: float = 0.0,
    ) -> Tensor:
        """New images, float (n, in_channels, image_size, image_size) in [0, 1]; chance is torch's global generator.

        Estimates of the clean image are cut to [-1, 1], as in the authors' code.

        Args:
            n: how many.
            num_steps: steps from noise to image, evenly spaced among the n_steps.
            eta: fresh noise of a step, 0 (none, DDIM) to 1 (DDPM).
            y: the class of all, or int64 (n,); only for a network that was told of classes.
            guidance_scale: w of classifier-free guidance.

        Raises:
            ArgumentError: n or num_steps under 1, or classes for a network without.
        """
        expect("n", n, n >= 1, "at least 1")
        times, device = self.diffusion.times(num_steps), self.diffusion.alpha_bar.device
        classes = None if y is None else torch.as_tensor(y, device=device).expand(n)
        known = getattr(self.encoder, "config", {}).get("n_classes")
        if classes is not None and known is not None:
            low, high = int(classes.min()), int(classes.max())
            expect(
                "y", f"{low} to {high}", low >= -1 and high < known, f"classes from 0 to {known - 1}, or -1 for none"
            )
        shape = (self.encoder.in_channels, self.encoder.image_size, self.encoder.image_size)

        def paint(start: int) -> Tensor:
            rows = slice(start, min(start + BATCH, n))
            labels = None if classes is None else classes[rows]

            def step(x: Tensor, t: int, s: int) -> Tensor:
                x0 = self.estimate(x, t, labels, guidance_scale=guidance_scale)[0].clamp(-1, 1)
                return self.diffusion.step(x0, self.diffusion.epsilon_of(x, t, x0), t, s, eta)

            noise = torch.randn(rows.stop - start, *shape, device=device)
            return self.diffusion.reverse(step, noise, times)

        with evaluating(self.encoder):
            images = torch.cat([paint(start) for start in range(0, n, BATCH)])
        return (images / 2 + 0.5).clamp(0, 1)


@system("conditional-ddpm", paper="arXiv:2207.12598", modality="image", level="baseline")
class ConditionalDDPM(DDPM):
    """DDPM that is told the class, and sometimes is not: one network for both, for classifier-free guidance.

        loss = that of DDPM, with the class hidden from a share `label_dropout` of the images     (algorithm 1)

    Args:
        encoder: a `UNet`; it is given room for the classes.
        n_classes: classes, 0 to n_classes - 1 in the column y.
        label_dropout: share of the images whose class is hidden, p_uncond; the paper takes 0.1 or 0.2.
        others: as `DDPM`.

    >>> learner = ConditionalDDPM(UNet(8, 1, width=8), n_classes=3, n_steps=20)
    >>> learner.sample(2, num_steps=3, y=torch.tensor([0, 2]), guidance_scale=1.0).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        encoder: UNet,
        n_classes: int,
        *,
        label_dropout: float = 0.1,
        n_steps: int = 1000,
        schedule: str = "linear",
        prediction: str = "epsilon",
        ema: float = 0.9999,
        flip: bool = True,
    ) -> None:
        expect("label_dropout", label_dropout, 0 <= label_dropout <= 1, "a share in [0, 1]")
        expect("encoder", type(encoder).__name__, isinstance(encoder, UNet), "tacit.nn.UNet", "--model unet")
        encoder.tell_classes(n_classes)
        super().__init__(encoder, n_steps=n_steps, schedule=schedule, prediction=prediction, ema=ema, flip=flip)
        self.label_dropout = label_dropout

    def loss(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        hidden = torch.rand(len(y), device=y.device) < self.label_dropout
        return self.denoising_loss(x, y.masked_fill(hidden, -1))


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of weight w: (1 + w) epsilon(x, y) - w epsilon(x) (Ho & Salimans, 2022, eq. 6).

    The noise of a density proportional to p(x | y)^(1 + w) / p(x)^w.
    """
    return (1 + scale) * conditional - scale * unconditional


@checked("with the exact denoiser of a Gaussian the way back ends in that Gaussian", system="ddpm", tolerance=5e-3)
def gaussian_is_sampled() -> tuple[float, float]:
    """Without fresh noise a value keeps its standard score all the way: the largest deviation of nine of them."""
    mean, deviation, diffusion = 0.3, 0.5, Diffusion(1000)

    def exact(x_t: Tensor, t: Tensor) -> Tensor:
        a = diffusion.alpha_bar[t][:, None]
        return (1 - a).sqrt() * (x_t - a.sqrt() * mean) / (a * deviation**2 + 1 - a)

    def step(x: Tensor, t: int, s: int) -> Tensor:
        return diffusion.step(*diffusion.estimate(exact, x, t), t, s)

    noise = torch.linspace(-2, 2, 9)[:, None]
    a = diffusion.alpha_bar[-1]
    score = (noise - a.sqrt() * mean) / (a * deviation**2 + 1 - a).sqrt()
    ends = diffusion.reverse(step, noise, diffusion.times(1000))
    return (ends - (mean + deviation * score)).abs().max().item(), 0.0


@checked("guidance is the noise of p(x | y)^(1 + w) / p(x)^w", system="conditional-ddpm", tolerance=1e-5)
def guidance_sharpens() -> tuple[float, float]:
    """Two classes N(-1, 1) and N(1, 1) at t: epsilon is -sqrt(1 - alpha_bar_t) times the gradient of log p(x_t)."""
    scale, a = 2.0, Diffusion(1000).alpha_bar[300]
    x = torch.linspace(-3, 3, 13, requires_grad=True)
    conditional = -(x - a.sqrt()).square() / 2
    every = torch.logaddexp(conditional, -(x + a.sqrt()).square() / 2)

    def noise(log_density: Tensor) -> Tensor:
        return -(1 - a).sqrt() * torch.autograd.grad(log_density.sum(), x, retain_graph=True)[0]

    expected = noise((1 + scale) * conditional - scale * every)
    return (guided(noise(conditional), noise(every), scale) - expected).abs().max().item(), 0.0
