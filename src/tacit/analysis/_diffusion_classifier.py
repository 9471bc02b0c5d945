"""Diffusion Classifiers Understand Compositionality, but Conditions Apply (Jeong, Uselis et al., 2025)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Trial, claim
from tacit.data import COMPOSITION_WORDS, compositions
from tacit.embedding import evaluating
from tacit.errors import expect, unknown
from tacit.generate._token_ddpm import TokenDDPM, composed_scenes, painter
from tacit.multimodal._token_clip import token_clip
from tacit.views import as_float

BATCH = 256
"""Noisy images that go through the network at once."""

WEIGHTS = ("uniform", "learned")
STEPS, RATE = 200, 0.03
"""Of the weights' training."""

GUIDANCE = 1.0
"""Of the model's own scenes."""

COLOURS = np.array([COMPOSITION_WORDS.index(word) for word in ("red", "yellow", "green", "blue")])
"""Their token numbers."""


@system("diffusion-classifier-composition", paper="arXiv:2505.17955", modality="image", level="protocol")
def denoising_errors(
    ddpm: TokenDDPM,
    x: Tensor,
    prompts: Tensor,
    *,
    n_times: int = 16,
    n_noises: int = 1,
    seed: int = 0,
) -> Tensor:
    """How badly a text-to-image model tells the noise in an image when it is told each of several prompts.

        e_ikt = mean over noises and pixels of | target - f(x_it, t, c_ik) |^2        (Li et al., 2023, eq. 7)

    x_it is image i with noise at time t. The target is what the network was trained to give: the noise epsilon, as in
    the paper's equation, or the clean image, which weighs times otherwise (SD3, in the paper, gives a velocity).
    Weighted over t, -e is a bound on the log likelihood of the image given the prompt, so that the prompt of the least
    error is the class (`DiffusionClassifier`). Errors vary much more from noise to noise than from prompt to prompt:
    the same pairs (t, epsilon) are used for all prompts, and for all images. Times are the middles of `n_times` equal
    intervals. The network runs n * k * n_times * n_noises times.

    Args:
        ddpm: a model with `denoise(x_t, t, prompts)` in its encoder, such as `tacit.generate.TokenDDPM`.
        x: raw images (n, c, h, w), uint8 or in [0, 1].
        prompts: k candidates for all images, (k, t), or for each image its own, (n, k, t).
        n_times: times, 1 to n_steps; the paper takes 30.
        n_noises: noises at each time.
        seed: of the noise.

    Returns:
        (n, k, n_times), the earliest time (least noise) first.

    Raises:
        ArgumentError: a number out of range, or prompts of another number of images.

    References:
        Li et al., Your Diffusion Model is Secretly a Zero-Shot Classifier (2023), arXiv:2303.16203.

    >>> from tacit.data import composition_prompt
    >>> from tacit.nn import ConditionalUNet
    >>> ddpm = TokenDDPM(ConditionalUNet(8, 3, width=8, multipliers=(1, 2), attention=(4,)))
    >>> prompts = torch.stack([torch.from_numpy(composition_prompt(word)) for word in ("red", "blue")])
    >>> denoising_errors(ddpm, torch.rand(3, 3, 8, 8), prompts, n_times=4).shape
    torch.Size([3, 2, 4])
    """
    diffusion = ddpm.diffusion
    expect("n_times", n_times, 1 <= n_times <= diffusion.n_steps, f"1 to n_steps={diffusion.n_steps}")
    expect("n_noises", n_noises, n_noises >= 1, "at least 1")
    fits = prompts.ndim == 2 or (prompts.ndim == 3 and len(prompts) == len(x))
    expect("prompts", tuple(prompts.shape), fits, f"(k, t), or ({len(x)}, k, t)")
    device = diffusion.alpha_bar.device
    clean = 2 * as_float(x, ddpm.encoder.image_size) - 1
    prompts = prompts.expand(len(x), *prompts.shape[-2:])
    generator = torch.Generator().manual_seed(seed)
    errors = torch.zeros(len(x), prompts.shape[1], n_times)
    rows = max(1, BATCH // prompts.shape[1])
    with evaluating(ddpm.encoder), torch.no_grad():
        for number, t in enumerate(_times(diffusion.n_steps, n_times)):
            for _ in range(n_noises):
                noise = torch.randn(1, *clean.shape[1:], generator=generator).to(device)
                for images, words, found in zip(*(a.split(rows) for a in (clean, prompts, errors)), strict=True):
                    found[..., number] += _errors(ddpm, images.to(device), words.to(device), t, noise).cpu() / n_noises
    return errors


def _times(n_steps: int, count: int) -> list[int]:
    """The middles of `count` equal intervals of 1 to n_steps."""
    return [max(1, round(n_steps * (i + 0.5) / count)) for i in range(count)]


def _errors(ddpm: TokenDDPM, clean: Tensor, prompts: Tensor, t: int, noise: Tensor) -> Tensor:
    """At one time and noise: images (n, c, h, w) and prompts (n, k, t) -> (n, k)."""
    n, k = prompts.shape[:2]
    x_t = ddpm.diffusion.noised(clean, t, noise.expand_as(clean)).repeat_interleave(k, 0)
    times = torch.full((len(x_t),), t, device=x_t.device)
    given = ddpm.encoder.denoise(x_t, times, prompts.flatten(0, 1))
    target = ddpm.diffusion.target(clean, noise.expand_as(clean)).repeat_interleave(k, 0)
    return (given - target).square().mean((1, 2, 3)).view(n, k)


class DiffusionClassifier:
    """Classifies images by the prompt under which a text-to-image model tells their noise best.

        class = argmin_k sum over t of w_t e_ikt,        e: `denoising_errors`

    with equal weights, or with weights learned from a few labelled images, by the cross-entropy of the softmax over
    k of minus that sum. Weights are exp(theta_t); theta begins at 0, the uniform classifier, goes down the loss by
    Adam, and is kept from the step that does best on a held-out quarter of the images, the earliest of equals. (The
    authors' code does the same, and can also fit signed weights, or a polynomial in t.)

    Args:
        ddpm: as `denoising_errors`.
        timestep_weights: `"uniform"` or `"learned"`.
        n_times, n_noises, seed: as `denoising_errors`.

    Attributes:
        weights_: (n_times,), their mean 1.

    Raises:
        ArgumentError: an unknown kind of weights, or classes that are not the candidates' numbers.

    >>> from tacit.data import composition_prompt
    >>> from tacit.nn import ConditionalUNet
    >>> ddpm = TokenDDPM(ConditionalUNet(8, 3, width=8, multipliers=(1, 2), attention=(4,)))
    >>> prompts = torch.stack([torch.from_numpy(composition_prompt(word)) for word in ("red", "blue")])
    >>> x, y = torch.rand(8, 3, 8, 8), torch.arange(8) % 2
    >>> model = DiffusionClassifier(ddpm, timestep_weights="learned", n_times=4).fit(x, prompts, y)
    >>> model.predict(x, prompts).shape, model.weights_.shape
    (torch.Size([8]), torch.Size([4]))
    """

    def __init__(
        self,
        ddpm: TokenDDPM,
        *,
        timestep_weights: str = "uniform",
        n_times: int = 16,
        n_noises: int = 1,
        seed: int = 0,
    ) -> None:
        if timestep_weights not in WEIGHTS:
            raise unknown("timestep_weights", timestep_weights, WEIGHTS)
        self.ddpm, self.timestep_weights = ddpm, timestep_weights
        self.n_times, self.n_noises, self.seed = n_times, n_noises, seed
        self.weights_ = torch.ones(n_times)

    def errors(self, x: Tensor, prompts: Tensor) -> Tensor:
        """As `denoising_errors`: (n, k, n_times)."""
        words: dict[str, Any] = {"n_times": self.n_times, "n_noises": self.n_noises, "seed": self.seed}
        return denoising_errors(self.ddpm, x, prompts, **words)

    def fit(self, x: Tensor, prompts: Tensor, y: Tensor) -> DiffusionClassifier:
        """Learn the weights from images, their candidates and which of them is right, int64 (n,).

        Uniform weights stay as they are, and y is not read.
        """
        if self.timestep_weights == "learned":
            self.weights_ = learn_weights(self.errors(x, prompts), y, seed=self.seed)
        return self

    def predict(self, x: Tensor, prompts: Tensor) -> Tensor:
        """The candidate of each image, int64 (n,), the first of equals."""
        return self.choose(self.errors(x, prompts))

    def choose(self, errors: Tensor) -> Tensor:
        """The same from errors (n, k, n_times) that are known already."""
        return (errors @ self.weights_).argmin(1)


def learn_weights(errors: Tensor, y: Tensor, *, seed: int = 0) -> Tensor:
    """Weights of the times, (t,), of mean 1, from errors (n, k, t) and the right candidates, int64 (n,).

    The errors are centred over the candidates and divided by one number, so that the rate has a meaning.

    Raises:
        ArgumentError: fewer than four images, or y out of range.
    """
    expect("y", tuple(y.shape), y.shape == (len(errors),), f"({len(errors)},)")
    expect("errors", len(errors), len(errors) >= 4, "at least four images to learn from and hold out")
    low, high = int(y.min()), int(y.max())
    expect("y", f"{low} to {high}", low >= 0 and high < errors.shape[1], f"candidates from 0 to {errors.shape[1] - 1}")
    apart = errors - errors.mean(1, keepdim=True)
    apart = apart / apart.mean(2).std().clamp_min(1e-12)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    held_out, seen = order.split([len(y) // 4, len(y) - len(y) // 4])
    theta = torch.zeros(errors.shape[2], requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=RATE)
    best, weights = -1.0, theta.detach().exp()
    for _ in range(STEPS + 1):
        scores = -(apart * theta.exp()).mean(2)
        accuracy = (scores[held_out].argmax(1) == y[held_out]).float().mean().item()
        if accuracy > best:
            best, weights = accuracy, theta.detach().exp()
        optimizer.zero_grad()
        F.cross_entropy(scores[seen], y[seen]).backward()
        optimizer.step()
    return weights / weights.mean()


# Tasks ----------------------------------------------------------------------------------------------------------------

TASKS = ("colour", "attribution", "position", "counting")
SHAPE, COLOUR, PLACE = 0, 1, 3
"""Columns of a phrase's words."""


def composition_task(n: int, *, seed: int = 0, task: str = "attribution", style: str = "studio") -> dict[str, Any]:
    """Scenes, each with a few descriptions of which one is right: tasks of GenEval and Self-Bench, drawn.

    | task | scene | candidates |
    |---|---|---|
    | colour | one object | its shape with each of the four colours |
    | attribution | two objects | their shapes with their colours, and with the colours exchanged |
    | position | two objects | their shapes with their places, and with the places exchanged |
    | counting | one to three objects | one, two or three phrases of a colour: some of those there, or others beside |

    Args:
        task: of the table.
        style: as `tacit.data.compositions`.

    Returns:
        x uint8 (n, 3, 16, 16); prompts int64 (n, k, 12); y int64 (n,), the right one.

    Raises:
        ArgumentError: an unknown task.

    >>> data = composition_task(2, task="attribution")
    >>> data["prompts"].shape, data["y"].shape
    ((2, 2, 12), (2,))
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    n_objects: Any = {"colour": 1, "counting": (1, 3)}.get(task, 2)
    drawn = compositions(n, seed=10_000 + seed, n_objects=n_objects, style=style)  # not the scenes that train
    phrases = drawn["tokens"].reshape(n, 3, 4)
    chance = np.random.default_rng(seed)
    if task == "counting":
        prompts, y = _counted(phrases, drawn["count"], chance), drawn["count"] - 1
    elif task == "colour":
        prompts, y = _coloured(phrases), drawn["colour"][:, 0].copy()
    else:
        y = chance.integers(2, size=n)
        prompts = _exchanged(phrases, COLOUR if task == "attribution" else PLACE, y)
    return {"x": drawn["x"], "prompts": prompts.reshape(n, -1, 12), "y": y}


def _exchanged(phrases: np.ndarray, column: int, y: np.ndarray) -> np.ndarray:
    """(n, 2, 3, 4): candidate y says what is there; in the other one the two objects have each other's word."""
    n = len(phrases)
    right = np.zeros_like(phrases)
    right[..., [SHAPE, column]] = phrases[..., [SHAPE, column]]
    wrong = right.copy()
    wrong[:, [0, 1], column] = right[:, [1, 0], column]
    both = np.stack([wrong, wrong], axis=1)
    both[np.arange(n), y] = right
    return both


def _coloured(phrases: np.ndarray) -> np.ndarray:
    """(n, 4, 3, 4): the object's shape with each colour."""
    prompts = np.zeros((len(phrases), 4, *phrases.shape[1:]), np.int64)
    prompts[:, :, 0, SHAPE] = phrases[:, None, 0, SHAPE]
    prompts[:, :, 0, COLOUR] = COLOURS
    return prompts


def _counted(phrases: np.ndarray, count: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """(n, 3, 3, 4): candidate j names j + 1 colours; those there come first."""
    prompts = np.zeros((len(phrases), 3, *phrases.shape[1:]), np.int64)
    for item, number in enumerate(count):
        there = phrases[item, :number, COLOUR]
        order = [*there, *chance.permutation(np.setdiff1d(COLOURS, there))]
        for j in range(3):
            prompts[item, j, : j + 1, COLOUR] = order[: j + 1]
    return prompts


def own_scenes(ddpm: TokenDDPM, prompts: Tensor, y: Tensor) -> Tensor:
    """Self-Bench: the model's own image of each right prompt, so that no domain lies between it and the task.

    All of them, the benchmark's "full" set; for its "correct" one people sorted out what does not show the prompt.
    """
    right = prompts[torch.arange(len(y)), y]
    return ddpm.sample(len(y), tokens=right, num_steps=25, guidance_scale=GUIDANCE)


# Claims ---------------------------------------------------------------------------------------------------------------


def task_data(bench: Bench, task: str, style: str = "studio") -> Data:
    """100 labelled scenes of a task for whatever is fitted, and 300 to score on."""
    words: dict[str, Any] = {"task": task, "style": style}
    return bench.drawn(composition_task, n=100, n_test=300, modality="image", inputs=("prompts",), **words)


def _by_likeness(dual: Any, x: Tensor, prompts: Tensor) -> Tensor:
    """The candidate that a dual encoder finds most like the image, int64 (n,)."""
    n, k = prompts.shape[:2]
    with torch.no_grad():
        images, texts = dual.encode_image(x), dual.encode_text(prompts.flatten(0, 1)).view(n, k, -1)
    return torch.einsum("nd,nkd->nk", images, texts).argmax(1).cpu()


@claim(
    "tells which attribute belongs to which object better than a dual encoder, where there is no domain gap",
    reported="SD3-m is nearly perfect at colour attribution on images of its own, CLIP lower (Self-Bench)",
    proxy="a U-Net of 0.24 million weights and a small CLIP whose text encoder binds words as well, on the same 4,000 "
    "drawn scenes with descriptions at 16 pixels",
    steps={"small": 1000, "full": 10_000},
)
def binds_attributes(bench: Bench) -> Comparison:
    """Accuracy at two descriptions of unseen scenes of two objects, the true one and the one with colours exchanged.

    The scenes are drawn like those of the training, so that neither side has a domain gap to cross (the paper takes
    images of the diffusion model's own, where only one has none). Equal scenes, descriptions and steps; the dual
    encoder has twice the batch. Uniform weights of 16 times.
    """
    scenes, task = composed_scenes(bench), task_data(bench, "attribution")

    def both(trial: Trial) -> tuple[float, float]:
        part, _ = trial.split(scenes)
        _, unseen = trial.split(task)
        x, prompts = unseen.columns["x"], unseen.columns["prompts"]
        ours = DiffusionClassifier(painter(trial, part), seed=trial.seed).predict(x, prompts)
        return unseen.score(ours), unseen.score(_by_likeness(token_clip(trial, part), x, prompts))

    return bench.trials(both, baseline="a dual encoder trained on the same pairs", better_by=0.0, setting=task.name)


@claim(
    "does better on images of its own than on those of another domain",
    reported="SD3-m is nearly perfect on images of its own and falls on those of other models (Self-Bench)",
    proxy="its own images of 600 prompts, none sorted out, against drawn scenes on grounds and under light never seen",
    steps={"small": 1000, "full": 10_000},
)
def best_in_its_own_domain(bench: Bench) -> Comparison:
    """Mean accuracy at colour, attribution, position and counting: on its own images, and on scenes in "daylight".

    The same prompts on both sides; nothing is learned from either.
    """
    scenes = composed_scenes(bench)

    def both(trial: Trial) -> tuple[float, float]:
        part, _ = trial.split(scenes)
        ddpm = painter(trial, part)
        model, n = DiffusionClassifier(ddpm, n_times=8, seed=trial.seed), bench.pick(smoke=8, small=150)
        own, shifted = [], []
        for task in TASKS:
            x, prompts, y = _asked(n, trial.seed + 50_000, task, "daylight")
            shifted.append((model.predict(x, prompts) == y).float().mean().item())
            own.append((model.predict(own_scenes(ddpm, prompts, y), prompts) == y).float().mean().item())
        return float(np.mean(own)), float(np.mean(shifted))

    return bench.trials(
        both, baseline="the same prompts in another style", better_by=0.0, setting="four tasks, 150 each"
    )


def _asked(n: int, seed: int, task: str, style: str = "studio") -> tuple[Tensor, Tensor, Tensor]:
    """Images, candidates and the right ones of `composition_task`."""
    asked = composition_task(n, seed=seed, task=task, style=style)
    x, prompts, y = (torch.from_numpy(asked[name]) for name in ("x", "prompts", "y"))
    return x, prompts, y


@claim(
    "weights of the time steps matter more the wider the domain gap",
    reported="a relationship between domain gap and timestep sensitivity, particularly for SD3-m (abstract)",
    proxy="weights learned from 100 labelled scenes; colour on scenes of another style, and on its own",
    steps={"small": 1000, "full": 10_000},
)
def weights_bridge_the_gap(bench: Bench) -> Comparison:
    """What learned weights gain over uniform ones in accuracy at colour: in the style "daylight", and on own images.

    Colour is the task in which the gap between the two is wide.
    """
    scenes, task = composed_scenes(bench), task_data(bench, "colour", "daylight")

    def both(trial: Trial) -> tuple[float, float]:
        part, _ = trial.split(scenes)
        few, unseen = trial.split(task)
        ddpm = painter(trial, part)
        model = DiffusionClassifier(ddpm, seed=trial.seed)
        errors = model.errors(unseen.columns["x"], unseen.columns["prompts"])
        learned = learn_weights(model.errors(few.x, few.columns["prompts"]), few.y, seed=trial.seed)
        answers = torch.stack([(errors @ learned).argmin(1), model.choose(errors)], 1)
        _, prompts, y = _asked(len(few) + len(unseen), trial.seed + 50_000, "colour")
        errors, n = model.errors(own_scenes(ddpm, prompts, y), prompts), len(few)
        learned = learn_weights(errors[:n], y[:n], seed=trial.seed)
        own = torch.stack([(errors[n:] @ learned).argmin(1), model.choose(errors[n:])], 1)
        return unseen.score(answers, by=_gain), _gain(y[n:], own)

    return bench.trials(both, baseline="what they gain on its own images", better_by=0.0, setting=task.name)


def _gain(y: Any, answers: Any) -> float:
    """Accuracy of the first of two columns of answers minus that of the second."""
    right = (torch.as_tensor(answers) == torch.as_tensor(y)[:, None]).float().mean(0)
    return float(right[0] - right[1])
