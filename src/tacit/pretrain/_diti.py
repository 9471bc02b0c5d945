"""Exploring Diffusion Time-steps for Unsupervised Representation Learning (Yue et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Part, Trial, claim
from tacit.data import compositions
from tacit.embedding import evaluating
from tacit.errors import expect
from tacit.generate import DDPM
from tacit.learner import Learner
from tacit.nn import GradientEstimator, ImageEncoder, UNet
from tacit.nn._diffusion import Time
from tacit.views import RandomHorizontalFlip, as_float

GAMMA = 0.1
"""Of the weight of a time-step, as PDAE has it."""


@system("diti", paper="arXiv:2401.11430", modality="image")
class DiTi(Learner):
    """An encoder whose features stand in the order in which noise takes things from an image: details, then the whole.

    A denoiser cannot give back what noise has taken. z = encoder(x_0), in `n_chunks` chunks, learns what is missing,
    and at time t only the chunks 1 to i may say it, i = ceil(t n_chunks / T):

        z_t  = [z_1 ... z_i, 0 ... 0]
        loss = lambda_t | x_0 - (x_0_hat(x_t, t) + g(x_t, z_t, t)) |^2                       (eq. 5)

    So chunk i has to hold what is lost between its own times and the ones before: details stand first. As in PDAE and
    the authors' code the correction g comes from an estimate G of the gradient of log p(z | x_t), as in classifier
    guidance, and the error is measured on the noise; with the weight of the signal-to-noise ratio s that is

        epsilon_hat = epsilon_theta(x_t, t) - sqrt(1 - alpha_bar_t) G(x_t, z_t, t)
        loss = s^0.1 / (1 + s) | epsilon - epsilon_hat |^2,       so that lambda_t = s^1.1 / (1 + s)

    (for G the code trains with the coefficient of the posterior mean, which is this one but for the first steps, and
    samples with this one). With `n_chunks=1` the method is PDAE (Zhang et al., 2022).

    The denoiser is a trained `DDPM`, which stays as it is. Without one the learner trains its own beside the encoder:
    the two losses are added, and neither's gradient reaches the other's networks.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        diffusion: a trained DDPM of images of the encoder's size; None: it is trained along.
        n_chunks: 1 to encoder.dim; the paper takes 64 of 8 features each.
        allocation: points (share of the time-steps, share of the features) from (0, 0) to (1, 1), between which
            features are given out evenly, for chunks of unequal size; None: all of one size. The authors' code for
            CelebA has ((0, 0), (0.05, 0.02), (0.1, 0.07), (0.3, 0.71), (0.5, 0.9), (1, 1)).
        detach: whether earlier chunks get no gradient, as in the code for FFHQ and Bedroom; for CelebA they do.
        flip: mirror half of the images.
        width, n_steps, schedule, prediction, ema: of the DDPM that is trained along; see `UNet` and `DDPM`.

    Attributes:
        diffusion: the DDPM.
        estimator: G, a `GradientEstimator`.
        ends: int64 (n_chunks + 1,); chunk i of 0 to n_chunks - 1 is z[:, ends[i] : ends[i + 1]].

    Raises:
        ArgumentError: more chunks than features, an allocation that falls, a DDPM for images of another size.

    >>> from tacit.nn import ResNet
    >>> learner = DiTi(ResNet(8, width=8, image_size=16), n_chunks=4, width=8, n_steps=20)
    >>> learner.ends.tolist()
    [0, 8, 16, 24, 32]
    >>> learner.counterfactual(torch.rand(2, 3, 16, 16), chunk=3, target=torch.rand(1, 3, 16, 16), num_steps=2).shape
    torch.Size([2, 3, 16, 16])
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 1e-4,
            "weight_decay": 0.0,
            "batch_size": 128,
            "max_steps": 300_000,
            "n_chunks": 64,
            "n_steps": 1000,
            "ema": 0.9999,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "weight_decay": 0.0,
            "batch_size": 64,
            "warmup": 0.05,
            "n_chunks": 8,
            "width": 16,
            "n_steps": 1000,
            "ema": 0.99,
        },
    }

    ends: Tensor
    shown: Tensor
    earlier: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        diffusion: DDPM | None = None,
        n_chunks: int = 64,
        allocation: Sequence[tuple[float, float]] | None = None,
        detach: bool = False,
        flip: bool = True,
        width: int = 32,
        n_steps: int = 1000,
        schedule: str = "linear",
        prediction: str = "epsilon",
        ema: float = 0.9999,
    ) -> None:
        super().__init__()
        dim = encoder.dim
        shape: dict[str, Any] = {"image_size": encoder.image_size, "in_channels": encoder.in_channels}
        expect("n_chunks", n_chunks, 1 <= n_chunks <= dim, f"1 to the {dim} features of the encoder")
        self.given = diffusion is not None
        if diffusion is None:
            words: dict[str, Any] = {"n_steps": n_steps, "schedule": schedule, "prediction": prediction, "ema": ema}
            diffusion = DDPM(UNet(**shape, width=width), flip=flip, **words)
        else:
            has = {name: getattr(diffusion.encoder, name) for name in shape}
            expect("diffusion", has, has == shape, f"a DDPM of images like the encoder's: {shape}")
            diffusion.requires_grad_(False)
            self._note(diffusion)
        self.encoder, self.diffusion = encoder, diffusion
        self.estimator = GradientEstimator(diffusion.encoder, dim)
        self.views = RandomHorizontalFlip(0.5 if flip else 0.0)
        self.detach = detach
        ends = _ends(dim, n_chunks, allocation)
        self.register_buffer("ends", ends)
        steps = diffusion.diffusion.n_steps
        self.register_buffer("shown", ends[-(-torch.arange(steps + 1) * n_chunks // steps)])
        levels = self.shown.unique()
        self.register_buffer("earlier", levels[(torch.searchsorted(levels, self.shown) - 1).clamp_min(0)])

    def _note(self, diffusion: DDPM) -> None:
        """The arguments that make a DDPM of the same shape, so that a saved run can be built again."""
        unet, process = diffusion.encoder.config, diffusion.diffusion
        shape = {"width": unet["width"], "n_steps": process.n_steps, "schedule": process.schedule}
        self.__dict__["arguments"] = {**self.arguments, **shape, "prediction": process.prediction}

    def loss(self, x: Tensor) -> Tensor:
        found = self.correction_loss(x)
        return found if self.given else found + self.diffusion.loss(x)

    def correction_loss(self, x: Tensor) -> Tensor:
        """Of raw images (n, c, h, w): encoder and estimator alone; noise and t are drawn."""
        process = self.diffusion.diffusion
        pictures = self.views(as_float(x, self.encoder.image_size))
        z, x0 = self.encoder(pictures), 2 * pictures - 1
        noise = torch.randn_like(x0)
        t = torch.randint(1, process.n_steps + 1, (len(x0),), device=x0.device)
        error = noise - self.noise(process.noised(x0, t, noise), t, self.visible(z, t)).float()
        return (self._weight(t) * error.square().mean((1, 2, 3))).mean()

    def visible(self, z: Tensor, t: Time) -> Tensor:
        """What the estimator is shown of z (n, dim) at the times t: earlier chunks, this one, and zeros."""
        place = torch.arange(z.shape[1], device=z.device)
        shown, earlier = (ends[t].view(-1, 1) for ends in (self.shown, self.earlier))
        held = torch.where(place < earlier, z.detach(), z) if self.detach else z
        return held * (place < shown)

    def noise(self, x_t: Tensor, t: Time, z: Tensor) -> Tensor:
        """The corrected estimate epsilon_hat (n, c, h, w); z (n, dim) as `visible` has it."""
        process = self.diffusion.diffusion
        given, gradient = self.estimator(self.diffusion.encoder, x_t, t, z)
        epsilon = given if process.prediction == "epsilon" else process.epsilon_of(x_t, t, given)
        return epsilon - process._scales(t, x_t)[1] * gradient

    def _weight(self, t: Tensor) -> Tensor:
        alpha_bar = self.diffusion.diffusion.alpha_bar[t].double()
        ratio = alpha_bar / (1 - alpha_bar)
        return (ratio**GAMMA / (1 + ratio)).float()

    def after_step(self, progress: float) -> None:
        if not self.given:
            self.diffusion.after_step(progress)

    @torch.no_grad()
    def counterfactual(
        self,
        x: Tensor,
        chunk: int | slice | Sequence[int],
        target: Tensor,
        *,
        strength: float = 1.0,
        num_steps: int = 50,
    ) -> Tensor:
        """x as it would be if these chunks of its features were the target's: float (n, c, h, w) in [0, 1].

        The image is noised by the deterministic way forward with its own features, and denoised with the changed
        ones. `slice(0)`, no chunk at all, gives the reconstruction.

        Args:
            x: raw images (n, c, h, w).
            chunk: number or numbers, from 0, the details.
            target: raw images, one, or n.
            strength: 0 keeps x's features, 1 takes the target's, between them is interpolation.
            num_steps: of the way forward, and of the way back.
        """
        with evaluating(self):
            pictures, others = (as_float(images, self.encoder.image_size) for images in (x, target))
            z, other = self.encoder(pictures), self.encoder(others)
            noise = self.invert(pictures, z, num_steps=num_steps)
            swapped = torch.where(self.members(chunk), z + strength * (other - z), z)
            return self.decode(swapped, noise, num_steps=num_steps)

    def members(self, chunk: int | slice | Sequence[int]) -> Tensor:
        """Which features are in these chunks: bool (dim,)."""
        numbers = torch.arange(len(self.ends) - 1, device=self.ends.device)[chunk].view(-1, 1)
        place = torch.arange(int(self.ends[-1]), device=self.ends.device)
        return ((place >= self.ends[numbers]) & (place < self.ends[numbers + 1])).any(0)

    @torch.no_grad()
    def invert(self, x: Tensor, z: Tensor, *, num_steps: int = 50) -> Tensor:
        """x_T (n, c, h, w), from which `decode` comes back to x, in [0, 1], with its features z (n, dim)."""
        process, x_t = self.diffusion.diffusion, 2 * x - 1
        for t, s in pairwise(reversed(process.times(num_steps))):
            at = max(t, 1)  # a clean image is looked at as one with the least noise
            noise = self.noise(x_t, at, self.visible(z, at))
            x_t = process.step(process.x0_of(x_t, t, noise), noise, t, s)
        return x_t

    @torch.no_grad()
    def decode(self, z: Tensor, x_T: Tensor, *, num_steps: int = 50) -> Tensor:
        """Images in [0, 1] from features z (n, dim) and noise (n, c, h, w), in steps of DDIM."""
        process = self.diffusion.diffusion

        def step(x_t: Tensor, t: int, s: int) -> Tensor:
            x0 = process.x0_of(x_t, t, self.noise(x_t, t, self.visible(z, t))).clamp(-1, 1)
            return process.step(x0, process.epsilon_of(x_t, t, x0), t, s)

        return (process.reverse(step, x_T, process.times(num_steps)) / 2 + 0.5).clamp(0, 1)


def _ends(dim: int, n_chunks: int, allocation: Sequence[tuple[float, float]] | None) -> Tensor:
    """Where each chunk ends, and 0 before them: int64 (n_chunks + 1,)."""
    if allocation is None:
        return torch.arange(n_chunks + 1) * dim // n_chunks
    times, shares = np.asarray(allocation, float).T
    ordered = (np.diff(times) > 0).all() and (np.diff(shares) >= 0).all()
    whole = (times[0], shares[0], times[-1], shares[-1]) == (0, 0, 1, 1)
    expect("allocation", allocation, ordered and whole, "points that rise from (0, 0) to (1, 1)")
    reached = np.interp(np.arange(n_chunks + 1) / n_chunks, times, shares)
    return torch.from_numpy(np.rint(dim * reached).astype(np.int64))


# Claims ---------------------------------------------------------------------------------------------------------------

COARSE, FINE = ("colour", "place"), ("shape", "texture")
"""Factors of the drawn pictures by what noise takes last: of a linear probe on noised pixels, place and colour outlive
shape, and texture is gone first."""


def _pictures(bench: Bench) -> Data:
    """One object a picture, told apart by shape, colour, texture (plain or striped) and place."""
    return bench.drawn(compositions, n=2000, n_test=1000, modality="image", n_objects=1)


def _trained(trial: Trial, train: Part, n_chunks: int) -> nn.Module:
    """The encoder, learned on the seed's one DDPM, which all sides and both claims share; at the better of two rates,
    chosen for each side on other pictures."""
    diffusion = trial.pretrained("ddpm", train, flip=False)
    learner = trial.build("diti", train, diffusion=diffusion, n_chunks=n_chunks, flip=False)
    return trial.fit(learner, train, lr=4e-3 if n_chunks == 1 else 2e-3).encoder


def _precisions(train: Part, test: Part, seen: Tensor, new: Tensor) -> dict[str, float]:
    """Factor -> average precision of a ridge probe for each of its values against the others, a mean over values.

    Args:
        seen, new: features (n, d) of the items of train and of test; they are standardised on train.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import average_precision_score

    mean, deviation = seen.mean(0), seen.std(0).clamp_min(1e-6)
    found = {}
    for factor in (*COARSE, *FINE):
        own, others = (part.columns[factor][:, 0].numpy() for part in (train, test))
        values = np.unique(own)
        probe = RidgeCV(np.logspace(-1, 4, 11)).fit(((seen - mean) / deviation).numpy(), own[:, None] == values)
        scores = probe.predict(((new - mean) / deviation).numpy()).reshape(len(others), -1)
        found[factor] = float(
            np.mean([average_precision_score(others == v, scores[:, i]) for i, v in enumerate(values)])
        )
    return found


@claim(
    "with chunks by time-step the features tell attributes better than PDAE's, which are the same without chunks",
    reported="better attribute classification than PDAE on CelebA, FFHQ and Bedroom (abstract)",
    proxy="one drawn object of four factors at 16 pixels, 64 features in 8 chunks, a DDPM of 200 steps",
    steps={"small": 200, "full": 20_000},
)
def better_than_pdae(bench: Bench) -> Comparison:
    """Linear probes for each value of each factor on unseen pictures: average precision, a mean over values, then over
    factors. Both sides stand on the same trained DDPM, with as many steps; PDAE is this class with one chunk. The
    authors train for 300,000 steps; here a minute of one core is what a seed takes."""
    pictures = _pictures(bench)

    def both(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(pictures)
        seen = [trial.predict(_trained(trial, train, n_chunks), torch.cat([train.x, unseen.x])) for n_chunks in (8, 1)]
        test = unseen.reveal()
        ours, theirs = (_precisions(train, test, z[: len(train)], z[len(train) :]) for z in seen)
        return float(np.mean([*ours.values()])), float(np.mean([*theirs.values()]))

    return bench.trials(both, baseline="PDAE: the same with one chunk", better_by=0.0)


@claim(
    "what is coarse stands in the chunks of late time-steps, what is fine in those of early ones",
    reported="fine attributes such as texture are lost at early time-steps, coarse ones at late ones (abstract)",
    proxy="one drawn object of four factors at 16 pixels, 64 features in 8 chunks, a DDPM of 200 steps",
    steps={"small": 200, "full": 20_000},
)
def coarse_is_late(bench: Bench) -> Comparison:
    """What a linear probe on the later half of the chunks has in average precision above one on the earlier half, for
    colour and place (coarse) minus the same for shape and texture (fine). Both halves have 32 features; features in no
    order would have 0. That place and colour are what noise takes last was seen on noised pixels."""
    pictures = _pictures(bench)

    def lead(trial: Trial) -> float:
        train, unseen = trial.split(pictures)
        z = trial.predict(_trained(trial, train, 8), torch.cat([train.x, unseen.x]))
        test, middle = unseen.reveal(), z.shape[1] // 2
        parts = z[: len(train)], z[len(train) :]
        early = _precisions(train, test, *(part[:, :middle] for part in parts))
        late = _precisions(train, test, *(part[:, middle:] for part in parts))
        coarse, fine = (np.mean([late[one] - early[one] for one in factors]) for factors in (COARSE, FINE))
        return float(coarse - fine)

    return bench.trials(lead, above=0.0)
