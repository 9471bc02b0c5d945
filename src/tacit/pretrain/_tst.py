"""TST: A Transformer-based Framework for Multivariate Time Series Representation Learning (Zerveas et al., 2021)."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.learner import Learner
from tacit.nn import Classifier, SeriesEncoder
from tacit.views import SpanMask

ENCODER = {"name": "series-transformer", "embed_dim": 64, "num_layers": 2, "pool": "concat"}
"""Of the claims; `concat` as the paper fine-tunes."""


@system("tst", paper="arXiv:2010.02803", modality="series")
class TST(Learner):
    """Hides spans of each variable and has them filled in from what is left.

        x~ = (1 - M) x                    spans of geometric length, drawn for each variable (`tacit.views.span_mask`)
        x^ = W_o z(x~) + b_o              z_t: the encoder's vector of step t                               (eq. 3)
        loss = mean over the hidden values of  (x^_tm - x_tm)^2                                             (eq. 4)

    Values are in deviations of their variable, so that 0, what is put for a hidden one, is its mean; what is missing or
    past the end is neither hidden nor predicted. To fine-tune as the paper does, give the encoder `pool="concat"` and
    train `tacit.nn.Classifier(encoder, n_classes)`: a linear layer on the vectors of all steps.

    Args:
        encoder: a series encoder with `tokens`, as `tacit.nn.SeriesTransformer`; what the user keeps.
        mask_ratio: share of the values that is hidden, in (0, 1).
        mean_span: mean length of a hidden span, in steps.

    >>> from tacit.nn import SeriesTransformer
    >>> learner = TST(SeriesTransformer(2, length=20, embed_dim=16))
    >>> bool(learner.loss(torch.randn(4, 2, 20)) > 0)
    True
    """

    settings: ClassVar = {
        # of the authors' scripts; they take RAdam
        "paper": {"optimizer": "adamw", "lr": 1e-3, "batch_size": 128, "epochs": 700, "weight_decay": 0.0},
        "small": {
            "model": "series-transformer",
            "optimizer": "adamw",
            "lr": 1e-3,
            "batch_size": 64,
            "weight_decay": 1e-4,
            "warmup": 0.05,
        },
        "search": {"mask_ratio": [0.15, 0.3, 0.5], "mean_span": [2.0, 3.0, 5.0]},
    }

    def __init__(self, encoder: SeriesEncoder, *, mask_ratio: float = 0.15, mean_span: float = 3.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embed_dim, encoder.in_channels)
        self.spans = SpanMask(mask_ratio, mean_span)

    def loss(self, x: Tensor) -> Tensor:
        hidden = self.spans.mask(x)
        tokens = self.encoder.tokens(x.masked_fill(hidden, torch.nan), self.encoder.mask(x))
        error = self.head(tokens).transpose(1, 2) - self.encoder.normalize(x)
        return (error**2 * hidden).sum() / hidden.sum().clamp(min=1)


def dtw_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared dynamic time warping distance of every series of `a` to every one of `b`, over all variables together.

        D(i, j) = |a_i - b_j|^2 + min(D(i-1, j), D(i, j-1), D(i-1, j-1))

    and the distance is D at the last steps of both, without a window.

    Args:
        a: (n, channels, time), NaN past the end and nowhere else.
        b: (m, channels, time).

    Returns:
        (n, m).

    >>> dtw_distances(torch.tensor([[[0.0, 1.0, 1.0]]]), torch.tensor([[[0.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]]))
    tensor([[0., 2.]])
    """
    ends, widths = ((~x.isnan().all(dim=1)).sum(dim=1) for x in (a, b))
    a, b = (x.nan_to_num(nan=0.0).transpose(1, 2) for x in (a, b))
    (n, _, _), (m, steps, _) = a.shape, b.shape
    found = a.new_zeros(n, m)
    above = a.new_full((steps + 1, n, m), torch.inf)  # D(i - 1, j), all pairs at once
    above[0] = 0
    for i in range(a.shape[1]):
        cost = (a[:, i, None, None] - b).square().sum(dim=3).permute(2, 0, 1)
        row = torch.full_like(above, torch.inf)
        for j in range(steps):
            row[j + 1] = cost[j] + torch.minimum(torch.minimum(above[j + 1], row[j]), above[j])
        ended = ends == i + 1
        found[ended] = row[:, ended].gather(0, widths.expand(1, int(ended.sum()), m))[0]
        above = row
    return found


def _fine_tuned(trial: Trial, encoder: nn.Module, part: Any, max_steps: int) -> nn.Module:
    """The encoder and a linear layer on the vectors of all its steps, trained on the labels of the part."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        classifier = Classifier(copy.deepcopy(encoder), part.n_classes)
    learner = trial.build("supervised", part, classifier=classifier)
    return trial.fit(learner, part, max_steps=max_steps, lr=1e-3, batch_size=min(64, len(part))).classifier


def _few(train: Any, per_class: int) -> Any:
    """The first so many items of each class, in the order that the seed drew."""
    return train.select([item for one in train.y.unique() for item in (train.y == one).nonzero()[:per_class, 0]])


@claim(
    "pretraining on the labelled series alone, which adds no data, makes the fine-tuned classifier more accurate",
    reported="a substantial benefit over fully supervised learning even without additional unlabelled data (abstract)",
    proxy="JapaneseVowels with 5 labelled series a class; the network from scratch takes as many steps as both stages",
    steps={"small": 250, "full": 4000},
)
def same_samples(bench: Bench) -> Comparison:
    """Accuracy on the official test series of a transformer of 2 layers (d = 64), pretrained on 45 series and
    fine-tuned on them and their labels, and of the same transformer fine-tuned from its initial weights for the sum of
    the steps.
    """
    series = bench.data("time_series/JapaneseVowels")

    def accuracies(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(series)
        few = _few(train, 5)
        scratch = trial.build(TST, few, encoder=ENCODER)
        pretrained = trial.fit(copy.deepcopy(scratch), few, batch_size=min(64, len(few)))
        models = [
            _fine_tuned(trial, pretrained.encoder, few, trial.steps),
            _fine_tuned(trial, scratch.encoder, few, 2 * trial.steps),
        ]
        ours, theirs = (unseen.score(trial.predict(model, unseen.x)) for model in models)
        return ours, theirs

    return bench.trials(
        accuracies,
        baseline="the same transformer from scratch, as many steps in all",
        better_by=0.0,
        setting="JapaneseVowels, 5 labelled series a class",
    )


@claim(
    "is more accurate than the nearest neighbour by dynamic time warping, the usual baseline of the archive",
    reported="exceeds the supervised state of the art, dynamic time warping among it, on the archive's sets (abstract)",
    proxy="JapaneseVowels alone, with its 270 training series",
    steps={"small": 200, "full": 4000},
)
def against_warping(bench: Bench) -> Comparison:
    """Accuracy on the official test series, pretrained and then fine-tuned on the training series; the neighbour is
    found among the same, in the same deviations of each variable.
    """
    series = bench.data("time_series/JapaneseVowels", n=bench.pick(smoke=60, small=270))

    def accuracies(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(series)
        learner = trial.fit(trial.build(TST, train, encoder=ENCODER), train)
        model = _fine_tuned(trial, learner.encoder, train, trial.steps)
        new, old = ((x - learner.encoder.mean[:, None]) / learner.encoder.std[:, None] for x in (unseen.x, train.x))
        nearest = train.y[dtw_distances(new, old).argmin(dim=1)]
        return unseen.score(trial.predict(model, unseen.x)), unseen.score(nearest)

    return bench.trials(
        accuracies,
        baseline="1-NN by dynamic time warping",
        better_by=0.0,
        setting="JapaneseVowels, 270 labelled series",
    )
