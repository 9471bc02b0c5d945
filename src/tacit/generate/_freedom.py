"""FreeDoM: Training-Free Energy-Guided Conditional Diffusion Model (Yu et al., 2023)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Part, Trial, claim
from tacit.errors import expect, unknown
from tacit.generate._guidance import Range, Travel, energy_gradient, estimate, own_step, rms, score_step, walk, within
from tacit.nn import ClassifierEnergy, Diffusion, Energy
from tacit.views import as_float

SCALINGS = ("relative", "score", "signal")
TINY = 1e-12


@system("freedom", paper="arXiv:2303.09833", modality="image", kind="function")
class FreeDoM:
    """Images of a diffusion model that has never seen the condition, from any differentiable energy of clean images.

        x0|t = (x_t - sqrt(1 - alpha_bar_t) epsilon(x_t, t)) / sqrt(alpha_bar_t)     (Tweedie's estimate)
        g_t  = gradient of E(x0|t) with respect to x_t, through the denoiser
        x_s  = DDPM's step from t to s, minus rho_t g_t                              (algorithm 1)

    and, where time travel is on, each such step is repeated: x_s is diffused forward to t again and denoised once more
    (algorithm 2). The rate rho_t is

    | scaling    | rho_t                                                            | whence                          |
    |------------|------------------------------------------------------------------|---------------------------------|
    | "relative" | rho * rms(what the model's own score adds to x_s) / rms(g_t)     | the code for text               |
    | "score"    | rho * beta_t / sqrt(1 - beta_t), or its like for longer steps    | -E as log p(c, x_0) + constant  |
    | "signal"   | rho * sqrt(alpha_bar_t)                                          | the code for faces              |

    "relative" needs no tuning to the energy's units: at rho = 0.02, the code's value, guidance moves an image by a
    fiftieth of what denoising does. The code takes these norms over a batch of one; here each image has its own, so
    that images of a batch do not touch each other. "score" at rho = 1 samples exactly from p(x0) exp(-E(x0)) where the
    prior is Gaussian and the energy linear.

    Args:
        ddpm: a trained diffusion model: `.diffusion` and `.estimate(x_t, t) -> (x0, epsilon)`, such as
            `tacit.generate.DDPM`; images inside are in [-1, 1].
        energy: images (n, c, h, w), float around [0, 1] -> (n,): see `tacit.nn.Energy`.
        rho: rate, at least 0. The code takes 0.02 for faces and 0.2 for Stable Diffusion; 0.3 did best on small digits.
        scaling: of the table.
        num_steps: denoising steps without those of time travel.
        eta: 1 is DDPM's noise, 0 none (DDIM). The code takes 1 for text, 0.5 for faces.
        guided: times (low, high) with guidance, None for all; the code leaves out t <= 100 for faces.
        time_travel: (low, high, repeats); the authors take the middle, semantic stage of large models:
            (500, 800, 10) of 1,000 for ImageNet.
        clip: cut estimates of clean images to [-1, 1], as DDPM's sampler does and the authors' code does not.

    Raises:
        ArgumentError: an unknown scaling, or a negative rho.

    >>> from tacit.nn import Diffusion, LikenessEnergy
    >>> class Flat:  # images of noise alone
    ...     diffusion = Diffusion(100)
    ...     def estimate(self, x, t):
    ...         x0 = self.diffusion.alpha_bar[t].sqrt() * x
    ...         return x0, self.diffusion.epsilon_of(x, t, x0)
    >>> white = LikenessEnergy(None, torch.ones(1, 4, 4))
    >>> images = [FreeDoM(Flat(), white, rho=rho, num_steps=20).sample(50, shape=(1, 4, 4)) for rho in (0, 0.5)]
    >>> bool(images[1].mean() > images[0].mean() + 0.2)
    True
    """

    def __init__(
        self,
        ddpm: Any,
        energy: Energy,
        *,
        rho: float = 0.3,
        scaling: str = "relative",
        num_steps: int = 100,
        eta: float = 1.0,
        guided: Range | None = None,
        time_travel: Travel | None = None,
        clip: bool = True,
    ) -> None:
        if scaling not in SCALINGS:
            raise unknown("scaling", scaling, SCALINGS)
        expect("rho", rho, rho >= 0, "a number of at least 0")
        self.ddpm, self.energy, self.rho, self.scaling = ddpm, energy, rho, scaling
        self.num_steps, self.eta, self.guided, self.time_travel = num_steps, eta, guided, time_travel
        self.clip = clip

    def sample(self, n: int, *, shape: tuple[int, int, int] | None = None) -> Tensor:
        """n images (n, c, h, w), float in [0, 1].

        Args:
            n: at least 1. An energy with a target for each image asks for as many.
            shape: (c, h, w), where the ddpm has no encoder that says it.
        """
        return walk(self.ddpm, self.step, n, shape, self.num_steps, self.time_travel)

    def step(self, x: Tensor, t: int, s: int) -> Tensor:
        """One guided step: x_t (n, c, h, w) -> x_s."""
        if self.rho == 0 or not within(t, self.guided):
            return self.ddpm.diffusion.step(*estimate(self.ddpm, x, t, self.clip), t, s, self.eta)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0, epsilon = estimate(self.ddpm, x, t, self.clip)
            gradient = energy_gradient(self.energy, x0, of=x)
        x_s = self.ddpm.diffusion.step(x0.detach(), epsilon.detach(), t, s, self.eta)
        return x_s - self._rate(gradient, epsilon.detach(), t, s) * gradient

    def _rate(self, gradient: Tensor, epsilon: Tensor, t: int, s: int) -> Tensor | float:
        """rho_t, a number or one for each image (n, 1, 1, 1)."""
        diffusion = self.ddpm.diffusion
        if self.scaling == "relative":
            return self.rho * own_step(diffusion, epsilon, t, s, self.eta) / rms(gradient).clamp_min(TINY)
        if self.scaling == "score":
            return self.rho * score_step(diffusion, t, s, self.eta, gradient)
        return self.rho * diffusion.alpha_bar[t].sqrt()


GUIDE_STEPS = 200
ACCURATE = 0.5
"""The rate that was the most accurate of four on a validation part, of FreeDoM, MPGD and guidance by noisy images."""


class Setting(NamedTuple):
    """What the claims of guided sampling start from; all of it is learned from the trial's training images."""

    ddpm: nn.Module
    """Trained without labels."""
    energy: ClassifierEnergy
    """Of a ResNet-8 trained on one half of the images, for the classes asked for."""
    judge: Any
    """A support vector machine on the pixels of the other half: another family of models, and other data."""
    train: Part
    guide: Part
    """The half that the energy has seen."""
    num_steps: int
    """Of sampling, on every side."""

    def accuracy(self, sampler: Any) -> float:
        """Share of the sampler's images that the judge takes for the class that was asked for."""
        images = sampler.sample(len(self.energy.y)).cpu()
        return float((self.judge.predict(images.flatten(1).numpy()) == self.energy.y.cpu().numpy()).mean())


def setting(trial: Trial, data: Data) -> Setting:
    """The same for all claims, so that a seed's models are trained once."""
    from sklearn.svm import SVC

    train, _ = trial.split(data)
    ddpm = trial.pretrained("ddpm", train, flip=False)
    middle = len(train) // 2
    guide, other = train.select(range(middle)), train.select(range(middle, len(train)))
    classifier = trial.pretrained("supervised", guide, max_steps=GUIDE_STEPS).classifier
    judge = SVC().fit(other.x.flatten(1).numpy() / 255, other.y.numpy())
    num_steps = 4 if trial.budget == "smoke" else 50
    return Setting(ddpm, _wanted(trial, classifier, train), judge, train, guide, num_steps)


def _wanted(trial: Trial, classifier: nn.Module, part: Part) -> ClassifierEnergy:
    """Asks for 20 images of each class."""
    y = torch.arange(part.n_classes or 0).repeat_interleave(1 if trial.budget == "smoke" else 20)
    return ClassifierEnergy(classifier, y).to(trial.device)


@claim(
    "a classifier of clean images makes a model that never saw a class paint the one that is asked for",
    reported="effective for various conditions, without training (abstract)",
    proxy="classes of 8-pixel digits, judged by an independent classifier",
    steps={"small": 500, "full": 20_000},
)
def better_than_unguided(bench: Bench) -> Comparison:
    """Accuracy of the independent classifier, over that of unguided samples, by half of all images at least.

    The default rate was the best of four on a validation part: accurate, and nearest to the data.
    """
    digits = bench.images("digits")

    def accuracies(trial: Trial) -> list[float]:
        world = setting(trial, digits)
        guided = FreeDoM(world.ddpm, world.energy, num_steps=world.num_steps)
        unguided = FreeDoM(world.ddpm, world.energy, num_steps=world.num_steps, rho=0)
        return [world.accuracy(sampler) for sampler in (guided, unguided)]

    return bench.trials(accuracies, baseline="the same model, unguided", better_by=0.5)


@claim(
    "guides as well as what has to be trained for noisy images",
    reported="quality comparable to training-required methods, on faces",
    proxy="against a classifier trained on noisy images, on 8-pixel digits, in place of conditional networks on faces",
    steps={"small": 500, "full": 20_000},
)
def as_good_as_training_on_noisy_images(bench: Bench) -> Comparison:
    """Accuracy of the independent classifier; the baseline is Dhariwal & Nichol's classifier guidance.

    Its classifier is of the same kind, sees the same half of the images, noised, and is trained for more steps.
    """
    digits = bench.images("digits")

    def accuracies(trial: Trial) -> list[float]:
        world = setting(trial, digits)
        views = _Noised(world.ddpm.diffusion)
        learner = trial.fit(trial.build("supervised", world.guide, views=views), world.guide)
        energy = _wanted(trial, learner.classifier, world.train)
        words = {"num_steps": world.num_steps, "rho": ACCURATE}
        clean = FreeDoM(world.ddpm, world.energy, **words)
        return [world.accuracy(sampler) for sampler in (clean, _NoisyGuidance(world.ddpm, energy, **words))]

    return bench.trials(accuracies, baseline="guidance by a classifier of noisy images", not_worse_by=0.02)


class _NoisyGuidance(FreeDoM):
    """Classifier guidance (Dhariwal & Nichol, 2021, algorithm 1): an energy of x_t itself."""

    def step(self, x: Tensor, t: int, s: int) -> Tensor:
        x0, epsilon = estimate(self.ddpm, x, t, self.clip)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            gradient = energy_gradient(self.energy, x, of=x)
        return self.ddpm.diffusion.step(x0, epsilon, t, s, self.eta) - self._rate(gradient, epsilon, t, s) * gradient


class _Noised(nn.Module):
    """Images with noise of every level, in the units of images."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.diffusion = diffusion

    def forward(self, x: Tensor) -> Tensor:
        x0 = 2 * as_float(x, x.shape[-1]) - 1
        t = torch.randint(1, self.diffusion.n_steps + 1, (len(x0),), device=x0.device)
        return (self.diffusion.noised(x0, t, torch.randn_like(x0)) + 1) / 2


@claim(
    "time travel meets a condition that guidance alone is too weak for",
    reported="guidance of an ImageNet model follows the condition with time travel, not without (algorithm 2)",
    proxy="8-pixel digits at a third of the rate that would do, in place of a large data domain",
    steps={"small": 500, "full": 20_000},
)
def time_travel_helps(bench: Bench) -> Comparison:
    """Accuracy of the independent classifier with steps at 500 <= t <= 800 taken ten times (as the code has it for
    ImageNet), and with each taken once, at the same rate.
    """
    digits = bench.images("digits")

    def accuracies(trial: Trial) -> list[float]:
        world = setting(trial, digits)
        words = {"num_steps": world.num_steps, "rho": 0.1}
        samplers = [FreeDoM(world.ddpm, world.energy, time_travel=t, **words) for t in ((500, 800, 10), None)]
        return [world.accuracy(sampler) for sampler in samplers]

    return bench.trials(accuracies, baseline="the same without time travel", better_by=0.0)
