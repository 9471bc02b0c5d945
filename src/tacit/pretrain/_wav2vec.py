"""wav2vec: Unsupervised Pre-training for Speech Recognition (Schneider et al., 2019)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.errors import expect
from tacit.learner import Learner


@system("wav2vec", paper="arXiv:1904.05862", modality="audio")
class Wav2Vec(Learner):
    """From the sound up to now, tell each of the next frames from frames drawn elsewhere in the same clip.

        loss_k = - sum over i of  log s(z_{i+k} . h_k(c_i)) + lambda E_{z~ from p_n} log s(-z~ . h_k(c_i))       (eq. 1)
        loss   = sum over k = 1..K of loss_k,   h_k(c) = W_k c + b_k,   s the logistic function

    z are the latents of strided convolutions on raw samples, c the causal context vectors that the user keeps. The
    expectation is the mean of `n_negatives` draws and lambda their number (section 2.2), so they are summed. The loss
    is divided by the number of pairs (i, k), as the official code does; padding is no frame, of either kind.

    The draws leave out z_{i+k} itself, as the official code does; the paper's p_n = 1/T, which matters little at its
    T of a thousand frames, would let one in four draws of a short clip contradict the positive.

    Args:
        encoder: a `tacit.nn.AudioConv`, or what has its `latents`, `context` and `mask`; what the user keeps.
        n_steps: K.
        n_negatives: draws for each latent, shared by all steps that point at it.
        first_step: the first k; the others follow. The official code begins with 3, where the samples that z_i and
            z_{i+k} hear no longer overlap; the paper with 1.

    Raises:
        ArgumentError: the encoder has no latents and context.

    >>> from tacit.nn import AudioConv
    >>> learner = Wav2Vec(AudioConv(8, 2, seconds=0.3), n_steps=3)
    >>> bool(learner.loss(torch.randint(-999, 999, (2, 2400), dtype=torch.int16)).isfinite())
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 5e-3,  # from 1e-7, up over the first 500 steps
            "schedule": "cosine",
            "weight_decay": 0.0,
            "max_steps": 400_000,
            "n_steps": 12,
            "n_negatives": 10,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 1e-2,  # at a third of it the loss stays where it knows nothing for hundreds of steps
            "batch_size": 16,
            "weight_decay": 1e-4,
            "warmup": 0.1,
            "model": "audio-conv",
        },
    }

    def __init__(self, encoder: nn.Module, *, n_steps: int = 12, n_negatives: int = 10, first_step: int = 1) -> None:
        super().__init__()
        known = hasattr(encoder, "latents") and hasattr(encoder, "context")
        expect("encoder", type(encoder).__name__, known, "one with latents and context", "take model='audio-conv'")
        expect("n_steps, first_step", (n_steps, first_step), min(n_steps, first_step) >= 1, "at least 1")
        expect("n_negatives", n_negatives, n_negatives >= 1, "at least 1")
        self.encoder, self.n_negatives = encoder, n_negatives
        self.n_steps, self.first_step = n_steps, first_step
        self.predictors = nn.Linear(encoder.dim, n_steps * encoder.dim)  # h_1 to h_K side by side
        nn.init.normal_(self.predictors.weight, std=0.01)  # or the first hundred steps go into shrinking the scores

    def loss(self, x: Tensor) -> Tensor:
        mask = self.encoder.mask(x)
        z = self.encoder.latents(x)
        predicted = self.predictors(self.encoder.context(z, mask)).unflatten(2, (self.n_steps, -1))
        negatives = draw_negatives(mask, self.n_negatives)
        return noise_contrastive_loss(z, predicted, negatives, mask, self.first_step)


def draw_negatives(mask: Tensor, n_negatives: int) -> Tensor:
    """For each frame, others of the same clip, drawn evenly with replacement from those that are there.

    Args:
        mask: bool (n, t), True for the frames of the sound, which come first.
        n_negatives: how many.

    Returns:
        int64 (n, t, n_negatives), frame numbers. Meaningless where a clip has one frame only.
    """
    n, t = mask.shape
    others = mask.sum(1)[:, None, None] - 1
    drawn = (torch.rand(n, t, n_negatives, device=mask.device) * others).long()
    own = torch.arange(t, device=mask.device)[:, None]
    return drawn + ((drawn >= own) & (own <= others))


def noise_contrastive_loss(
    z: Tensor, predicted: Tensor, negatives: Tensor, mask: Tensor, first_step: int = 1
) -> Tensor:
    """Equation 1 over the pairs (i, k) whose i + k lies within the clip, divided by their number.

    Args:
        z: (n, t, d).
        predicted: h_k(c_i), (n, t, n_steps, d).
        negatives: frame numbers (n, t, n_negatives), for each frame that is pointed at.
        mask: bool (n, t), True for the frames of the sound, which come first.
        first_step: the k of predicted[:, :, 0].
    """
    n, t, steps, d = predicted.shape
    numbers = negatives.flatten(1)[:, :, None].expand(-1, -1, d)
    candidates = torch.cat([z[:, :, None], z.gather(1, numbers).view(n, t, -1, d)], dim=2)  # (n, t, 1 + negatives, d)
    # row j of `pointing` holds the predictions of frame j: those made k frames before, h_k(c_{j-k})
    source = torch.arange(t, device=z.device)[:, None] - first_step - torch.arange(steps, device=z.device)
    pointing = predicted.flatten(1, 2)[:, (source.clamp_min(0) * steps + torch.arange(steps, device=z.device))]
    scores = torch.einsum("ntkd,ntjd->ntkj", pointing, candidates).float()
    costs = F.softplus(-scores[..., 0]) + F.softplus(scores[..., 1:]).sum(-1)
    pairs = (source >= 0) & mask[:, :, None]
    return (costs * pairs).sum() / pairs.sum().clamp_min(1)


@claim(
    "its context vectors, learned from raw sound alone, take the place of log-mel features where few labels are",
    reported="up to 36 % lower word error than a log-mel baseline with a few hours of transcribed speech (abstract)",
    proxy="spoken digits of six speakers in place of LibriSpeech and WSJ, a linear probe in place of a recogniser",
    steps={"small": 600, "full": 10_000},
)
def beats_log_mel_with_few_labels(bench: Bench) -> Comparison:
    """Accuracy on unseen clips of a linear probe that is given 5 labels a digit, on frozen features of either kind.

    Both are read alike: the mean over time, of context vectors or of normalised log-mel frames; or the means of four
    or eight equal parts of the clip, side by side, where that does better on a validation part, chosen for either side
    by itself.
    """
    digits = bench.data("fsdd")

    def trial(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(digits)
        encoder = {"name": "audio-conv", "dim": 64, "num_layers": 4, "seconds": 0.6}
        learner = trial.fit(trial.build(Wav2Vec, train, encoder=encoder), train)
        log_mel = trial.encoder({"name": "audio-log-mel", "seconds": 0.6}, train)
        return few_labels(trial, learner.encoder, train, unseen), few_labels(trial, log_mel, train, unseen)

    setting = "fsdd, 5 labels a digit; audio-conv of 64 channels against 40 log-mel bands; the mean or four, whichever"
    return bench.trials(trial, baseline="log-mel features", better_by=0.0, setting=setting)


def few_labels(trial: Trial, encoder: nn.Module, train: Part, unseen: Unseen, n_labels: int = 5) -> float:
    """Accuracy of a linear probe on the means of the tokens over stretches of the clip, `n_labels` a class."""
    from tacit.evaluate import linear_probe

    def score(parts: int, labelled: Part, other: Unseen) -> float:
        few = labelled.select(first_of_each_class(labelled.y, n_labels))
        features = [trial.predict(Stretches(encoder, parts), items.x) for items in (few, other)]
        probe = lambda y, _: linear_probe(features[0], few.y, features[1], torch.as_tensor(y)).value  # noqa: E731
        return other.score(torch.zeros(len(other)), by=probe)

    return score(trial.select(train, (1, 4, 8), score), train, unseen)


class Stretches(nn.Module):
    """Means of an encoder's tokens over equal stretches of each sound, side by side: (n, n_parts * d)."""

    def __init__(self, encoder: nn.Module, n_parts: int) -> None:
        super().__init__()
        self.encoder, self.n_parts = encoder, n_parts

    def prepare(self, items: object) -> Tensor:
        return self.encoder.prepare(items)

    def forward(self, x: Tensor) -> Tensor:
        tokens, mask = self.encoder.tokens(x), self.encoder.mask(x)
        place = torch.arange(mask.shape[1], device=x.device)
        part = place * self.n_parts // mask.sum(1, keepdim=True)  # of each frame; n_parts and more past the end
        within = F.one_hot(part.clamp_max(self.n_parts), self.n_parts + 1)[..., : self.n_parts].to(tokens.dtype)
        sums = torch.einsum("ntp,ntd->npd", within, tokens)
        return (sums / within.sum(1).clamp_min(1)[:, :, None]).flatten(1)


def first_of_each_class(y: Tensor, n: int) -> Tensor:
    """Item numbers of the first n of each class; the order was drawn by the seed."""
    return torch.cat([(y == label).nonzero().flatten()[:n] for label in y.unique()])
