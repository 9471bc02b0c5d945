"""CWCL: Cross-Modal Transfer with Continuously Weighted Contrastive Loss (Srinivasa et al., 2023)."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Trial, claim
from tacit.data import Dataset, captioned_glyphs, load_named, stand_in
from tacit.errors import DataError, expect
from tacit.learner import Learner
from tacit.losses import info_nce, similarity_logsumexp
from tacit.losses._similarity import expect_temperature, unit
from tacit.multimodal._clip import GLYPH_TEMPLATES, LARGEST_SCALE, SEEN_FONTS, glyph_pairs
from tacit.multimodal._zero_shot import Tower, embed, zero_shot_logits, zero_shot_weights
from tacit.nn import gather


@system("cwcl", paper="arXiv:2309.14580", modality="pairs")
class CWCL(Learner):
    """Train a text encoder towards a frozen image encoder, each text towards all images in proportion to how much they
    are like its own.

        loss = ( cwcl_loss(p, q) + info_nce(q, p) ) / 2,    p = image_encoder(image), frozen,   q = W text_encoder(text)

    The learned temperature is CLIP's. `continuous=False` is locked-image tuning (LiT; Zhai et al., 2022,
    arXiv:2111.07991), with the ordinary loss in both directions. The frozen encoder has to be a trained one: what it
    finds alike is all that the weights know. Any two modalities will do where a subclass names other columns.

    Args:
        image_encoder: images -> (n, image_encoder.dim), trained before, such as `CLIP.image_tower()`; never moves.
        text_encoder: token numbers (n, t) -> (n, text_encoder.dim).
        continuous: weigh by similarity, or attract each text to its own image only.
        temperature: what the learned one begins at.

    Batches hold at least 2 pairs.

    >>> from tacit.nn import ResNet, TextEncoder
    >>> text_encoder = TextEncoder("bag", dim=16).fit_prepare(["a red square", "a blue ring"])
    >>> learner = CWCL(ResNet(8, width=4, image_size=16), text_encoder)
    >>> text = text_encoder.prepare(["a red square", "a blue ring"])
    >>> bool(learner.loss(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8), text) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {"temperature": 0.07},
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 64,
            "weight_decay": 0.01,
            "warmup": 0.05,
            "model": "text-bag",
        },
    }

    def __init__(
        self,
        image_encoder: nn.Module,
        text_encoder: nn.Module,
        *,
        continuous: bool = True,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        least = 1 / LARGEST_SCALE
        expect("temperature", temperature, temperature >= least, f"at least {least:g}, since the scale is at most 100")
        self.image_encoder = image_encoder.requires_grad_(False).eval()
        self.text_encoder = text_encoder
        self.text_projection = nn.Linear(text_encoder.dim, image_encoder.dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.continuous = continuous

    def train(self, mode: bool = True) -> "CWCL":
        super().train(mode)
        self.image_encoder.eval()  # frozen are its batch statistics, too
        return self

    def loss(self, image: Tensor, text: Tensor) -> Tensor:
        with torch.no_grad():
            frozen = self.image_encoder(self.image_encoder.prepare(image))
        trained = self.text_projection(self.text_encoder(text))
        temperature = (-self.log_scale).exp()
        forth = cwcl_loss if self.continuous else info_nce
        return (forth(frozen, trained, temperature) + info_nce(trained, frozen, temperature)) / 2

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(LARGEST_SCALE))

    def encode_image(self, images: Any) -> Tensor:
        """Raw images -> unit vectors (n, image_encoder.dim)."""
        return F.normalize(self.image_encoder(self.image_encoder.prepare(images)), dim=1)

    def encode_text(self, texts: Any) -> Tensor:
        """Raw items of the trained encoder -> unit vectors (n, image_encoder.dim)."""
        return F.normalize(self.text_projection(self.text_encoder(self.text_encoder.prepare(texts))), dim=1)


@system("cwcl", paper="arXiv:2309.14580", modality="any", kind="loss")
class CWCLoss(nn.Module):
    """`cwcl_loss` as a module.

    >>> round(CWCLoss(temperature=1.0)(torch.eye(2), torch.eye(2)).item(), 4)
    0.6466
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        expect_temperature(temperature)
        self.temperature = temperature

    def forward(self, frozen: Tensor, trained: Tensor) -> Tensor:
        """Embeddings of both modalities, (n, d) each, of any norm -> scalar."""
        return cwcl_loss(frozen, trained, self.temperature)


def cwcl_loss(frozen: Tensor, trained: Tensor, temperature: float | Tensor = 0.07) -> Tensor:
    """Attract each frozen embedding to all trained ones, in proportion to how much it is like their partners.

        loss = - 1/n sum_i  sum_j w_ij log softmax_j(<p_i, q_j> / temperature)  /  sum_j w_ij
        w_ij = (1 + <p_i, p_j>) / 2

    p and q are the rows of `frozen` and `trained`, normalised. With w the identity it is InfoNCE. No n x n matrix is
    held: sum_j w_ij q_j = ( sum_j q_j + (sum_j q_j p_j^t) p_i ) / 2 takes n d^2. Over several processes j runs over the
    pairs of all.

    Args:
        frozen: (n, d), of the modality whose similarities are trusted.
        trained: (n, d), row i paired with row i.
        temperature: above 0.

    Raises:
        ArgumentError: shapes that do not fit, a single pair, or a temperature not above 0.

    >>> round(cwcl_loss(torch.eye(2), torch.eye(2), temperature=1.0).item(), 4)  # log(e + 1) - 1 * 2/3
    0.6466
    """
    fit = frozen.ndim == 2 and frozen.shape == trained.shape
    expect("shapes", (tuple(frozen.shape), tuple(trained.shape)), fit, "two batches of the same shape (n, d)")
    expect_temperature(temperature)
    with torch.autocast(frozen.device.type, enabled=False):
        p, q, mine = unit(gather(frozen)), unit(gather(trained)), unit(frozen)
        expect("frozen", tuple(p.shape), len(p) > 1, "at least 2 rows, or there is no negative", "raise batch_size")
        total = (len(p) + mine @ p.sum(0)) / 2
        attracted = (q.sum(0) + mine @ (p.T @ q)) / 2
        similarity = (mine * attracted).sum(1) / total / temperature
    return (similarity_logsumexp(frozen, gather(trained), temperature) - similarity).mean()


# Claims ---------------------------------------------------------------------------------------------------------------

DIGITS = "0123456789"
N_SPEAKERS, TAKES = 6, 500


class SpeechTuning(CWCL):
    """`CWCL` with spoken digits, column `x`, in the place of texts.

    Args:
        each: if set, a batch holds so many items of each digit, and so at most so many near duplicates.
    """

    def __init__(
        self, image_encoder: nn.Module, audio_encoder: nn.Module, *, continuous: bool, each: int | None = None
    ) -> None:
        super().__init__(image_encoder, audio_encoder, continuous=continuous)
        self.each = each

    def loss(self, image: Tensor, x: Tensor) -> Tensor:
        return super().loss(image, x)

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> Iterable[Tensor]:
        if self.each is None:
            return super().batches(data, batch_size, generator)
        y = data["y"][slice(0, len(data))]
        groups = [torch.nonzero(y == digit).flatten() for digit in y.unique()]
        n = min(len(group) for group in groups) // self.each * self.each
        drawn = [group[torch.randperm(len(group), generator=generator)[:n]].view(-1, self.each) for group in groups]
        return torch.stack(drawn, 1).flatten(1).unbind()


def spoken_and_drawn(n: int, *, seed: int = 0, image_size: int = 20, real: bool = True) -> dict[str, Any]:
    """Spoken digits (fsdd), each with a random picture of the digit; the last 500 items are of a speaker not heard
    before, who is another one for each of six seeds. Unless `real`, drawn sounds stand in for absent ones.
    """
    try:
        sounds = load_named("fsdd", download=real).columns
    except DataError:
        if real:
            raise
        sounds = stand_in("fsdd", N_SPEAKERS * TAKES).columns
    speaker = np.asarray(sounds["speaker"])
    chance = np.random.default_rng(seed)
    held_out = speaker == np.unique(speaker)[seed % len(np.unique(speaker))]
    items = np.concatenate(
        [chance.permutation(np.flatnonzero(~held_out)), chance.permutation(np.flatnonzero(held_out))]
    )
    items = items[:n]
    digit = np.asarray(sounds["y"])[items]
    return {"x": [sounds["x"][item] for item in items], "image": _pictures(digit, seed, image_size), "y": digit}


def _speech(bench: Bench) -> Data:
    real = bench.pick(smoke=False, small=True)
    return bench.drawn(spoken_and_drawn, n=2500, n_test=500, modality="audio", real=real)


def _pictures(digit: np.ndarray, seed: int, image_size: int) -> np.ndarray:
    """A random captioned glyph of each digit: uint8 (n, 3, s, s)."""
    found = np.empty((len(digit), 3, image_size, image_size), np.uint8)
    for number in np.unique(digit):
        rows = np.flatnonzero(digit == number)
        drawn = captioned_glyphs(
            len(rows),
            seed=seed + 1000,
            image_size=image_size,
            characters=DIGITS[number],
            fonts=SEEN_FONTS,
        )
        found[rows] = drawn["image"]
    return found


def _speech_trial(trial: Trial, pairs: Data, speech: Data, each: int | None) -> tuple[float, float]:
    """Accuracy at the digits of a new speaker, by their names alone: of CWCL, and of LiT."""
    glyphs, _ = trial.split(pairs)
    train, unseen = trial.split(speech)
    clip = trial.pretrained("clip", glyphs).eval()
    weights = zero_shot_weights(clip.encode_text, list(DIGITS), GLYPH_TEMPLATES).cpu()
    found = []
    for continuous in (True, False):
        sounds = trial.encoder({"name": "audio-cnn"}, train)
        tower: Tower = clip.image_tower()
        learner = SpeechTuning(tower, sounds, continuous=continuous, each=each)
        columns = {"image": train.columns["image"], "x": sounds.prepare(train.x), "y": train.y}
        trial.fit(learner, Dataset(columns, modality="audio"), batch_size=32).eval()
        found.append(unseen.score(zero_shot_logits(embed(learner.encode_text, unseen.x), weights)))
    return found[0], found[1]


@claim(
    "transfers to another modality better than the ordinary contrastive loss, by weighing pairs by similarity",
    reported="20 to 30 points more zero-shot accuracy at speech-to-intent and keywords than LiT's loss (abstract)",
    proxy="2,500 spoken digits and pictures of digits in place of speech and text; the picture encoder, a small CLIP "
    "trained on captions, is frozen",
    steps={"small": 600, "full": 20_000},
)
def transfers_better_than_locked_tuning(bench: Bench) -> Comparison:
    """Accuracy at the spoken digits of a speaker not heard in training, classified by the digits' written names, which
    no sound was ever paired with; against LiT's loss, equal steps and batches of 32."""
    pairs, speech = glyph_pairs(bench), _speech(bench)
    return bench.trials(
        lambda trial: _speech_trial(trial, pairs, speech, None), baseline="LiT's contrastive loss", better_by=0.0
    )


@claim(
    "does so where no two items of a batch are of one class, too",
    reported="20 to 30 points more zero-shot accuracy at speech-to-intent and keywords than LiT's loss (abstract)",
    proxy="2,500 spoken digits and pictures of digits, in batches of ten, one of each digit: the few classes of the "
    "other claim fill its batches with near duplicates, which its weights know of and LiT's loss does not",
    steps={"small": 600, "full": 20_000},
)
def transfers_better_without_duplicates(bench: Bench) -> Comparison:
    """As `transfers_better_than_locked_tuning`, with each digit once in each batch."""
    pairs, speech = glyph_pairs(bench), _speech(bench)
    return bench.trials(
        lambda trial: _speech_trial(trial, pairs, speech, 1), baseline="LiT's contrastive loss", better_by=0.0
    )
