"""Unsupervised Learning of Sentence Embeddings using Compositional n-Gram Features (Pagliardini et al., 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.errors import expect
from tacit.learner import Learner, Update
from tacit.nn import world_size
from tacit.nn._negative_sampling import (
    adagrad_rows,
    cumulative_noise,
    draw_negatives,
    keep_chance,
    negative_sampling_loss,
)
from tacit.nn._ngrams import NgramBag
from tacit.nn._tokenizer import PAD, SPECIALS

if TYPE_CHECKING:
    from tacit.data import Dataset


@dataclass(frozen=True)
class _Draw:
    """What is drawn of a batch: k targets, each with the rest of its text.

    Attributes:
        rows, starts: the bags of all texts, without dropped n-grams, as `F.embedding_bag` takes them.
        row_text: the text that each word stands in, int64 (words,).
        text, own: of each target, int64 (k,), and the rows that hold it, (k, ...), which its context lacks; 0 is none.
        left: rows in its context, float (k, 1).
        targets: word numbers, int64 (k,).
        negatives: word numbers, as `draw_negatives` groups them.
    """

    rows: Tensor
    starts: Tensor
    row_text: Tensor
    text: Tensor
    own: Tensor
    left: Tensor
    targets: Tensor
    negatives: Tensor


@system("sent2vec", paper="arXiv:1703.02507", modality="text")
class Sent2Vec(Learner):
    """A text is the mean of the vectors of its words and n-grams, each word being predicted from the rest of its text.

        loss  = mean over target words w of a text S of
                    l(u_w v(S without w)) + sum over n negatives w' of l(-u_w' v(S without w))            (eq. 3, 6)
        v(R)  = mean of the vectors of the words and n-grams R;   l(s) = log(1 + exp(-s))                     (eq. 2)

    A word is a target with probability sqrt(t / f) + t / f, f its share of all words (at most 1), and a negative in
    proportion to sqrt(f). From each text about `ngram_dropout` n-grams are left out at each step, drawn anew, and never
    more than half in expectation. The n-grams that hold the target leave with it (the authors' code puts a placeholder
    in its place, and draws n-grams anew for each target). The context of each target is a difference of sums, so that
    a text costs time in proportion to its words; 32 targets in a row share their negatives, which leaves expectations
    as they are.

    The tables are moved by `step` itself, and only in the rows that a batch touches, so that a step costs no more with
    millions of n-grams: row-wise Adagrad, each row's rate being `learning_rate` over the root of the sum of its mean
    squared gradients so far, and falling linearly to 0 over the training, in place of plain descent as in the authors'
    code, which moves at each word and would not bear batches. `fit`'s optimizer, lr, schedule and weight_decay do
    nothing here. `loss` alone is as good for any loop with dense gradients.

    Args:
        encoder: a `tacit.nn.NgramBag`; what the user keeps.
        n_negatives: n, at least 1.
        subsampling: t; the less, the rarer frequent words are targets. The paper takes 5e-6 on billions of words.
        ngram_dropout: n-grams that leave a text at a step; the paper takes 4 to 7.
        learning_rate: of row-wise Adagrad, above 0.

    Attributes:
        output: u, (vocab_size, dim), 0 at first.

    Runs on one device. Texts of fewer than two known words have no target.

    >>> from tacit.training import fit
    >>> texts = ["the cat sat on the mat", "the dog sat on the rug"] * 8
    >>> encoder = NgramBag(ngram=2, buckets=100, dim=8, max_length=8).fit_prepare(texts)
    >>> learner = fit(Sent2Vec(encoder), encoder.prepare(texts), max_steps=3, batch_size=8)
    >>> learner.encoder(encoder.prepare(["the cat"])).shape
    torch.Size([1, 8])
    """

    settings: ClassVar = {
        "paper": {"batch_size": 1, "epochs": 9, "subsampling": 5e-6, "ngram_dropout": 4, "n_negatives": 10},
        "small": {
            "model": "sent2vec",
            "batch_size": 256,
            "subsampling": 1e-4,
            "ngram_dropout": 4,
            "learning_rate": 0.2,
        },
        "search": {"learning_rate": [0.1, 0.2, 0.4], "subsampling": [1e-5, 1e-4, 1e-3]},
    }
    no_gradient: ClassVar = {
        "encoder.embedding.weight": "moved by step, in the rows that a batch touches",
        "output": "moved by step, in the rows that a batch touches",
    }

    keep: Tensor
    noise: Tensor
    squares: Tensor
    output_squares: Tensor

    def __init__(
        self,
        encoder: NgramBag,
        *,
        n_negatives: int = 10,
        subsampling: float = 1e-4,
        ngram_dropout: float = 4.0,
        learning_rate: float = 0.2,
    ) -> None:
        super().__init__()
        expect("encoder", type(encoder).__name__, isinstance(encoder, NgramBag), "a tacit.nn.NgramBag")
        expect("n_negatives", n_negatives, n_negatives >= 1, "at least 1")
        expect("subsampling", subsampling, subsampling > 0, "a share above 0", "1 makes every word a target")
        expect("ngram_dropout", ngram_dropout, ngram_dropout >= 0, "a number of n-grams, at least 0")
        expect("learning_rate", learning_rate, learning_rate > 0, "a number above 0")
        self.encoder, self.n_negatives = encoder, n_negatives
        self.subsampling, self.ngram_dropout, self.learning_rate = subsampling, ngram_dropout, learning_rate
        words = encoder.vocab_size
        self.output = nn.Parameter(torch.zeros(words, encoder.dim))
        self.register_buffer("keep", torch.ones(words))
        self.register_buffer("noise", torch.linspace(0, 1, words))
        self.register_buffer("squares", torch.zeros(len(encoder.embedding.weight)))
        self.register_buffer("output_squares", torch.zeros(words))

    def before_fit(self, data: Dataset) -> None:
        """Count the words: what is a target how often, and what a negative."""
        counts = torch.zeros(self.encoder.vocab_size, device=self.keep.device)
        for x in data.chunks("x", 10_000):
            counts += x.to(counts.device).flatten().bincount(minlength=len(counts))
        counts[: len(SPECIALS)] = 0
        expect("data", len(data), bool(counts.sum() > 0), "texts with words", "encoder.fit_prepare(texts) comes first")
        self.keep.copy_(keep_chance(counts, self.subsampling))
        self.noise.copy_(cumulative_noise(counts, 0.5))
        for squares in (self.squares, self.output_squares):
            squares.zero_()

    def loss(self, x: Tensor) -> Tensor:
        drawn = self._draw(x)
        return negative_sampling_loss(*self._read(drawn), drawn.targets, drawn.negatives)

    def step(self, update: Update, x: Tensor) -> None:  # type: ignore[override]
        expect("devices", world_size(), world_size() == 1, "1: rows are moved where they lie", "fit(..., devices=1)")
        with torch.no_grad():
            drawn = self._draw(x)
            context, target, negative = self._read(drawn)
        with torch.enable_grad():
            context, target, negative = leaves = [leaf.float().requires_grad_() for leaf in (context, target, negative)]
            value = negative_sampling_loss(context, target, negative, drawn.targets, drawn.negatives)
            to_context, to_target, to_negative = torch.autograd.grad(value, leaves)
        with torch.no_grad():
            self._move_output(drawn, to_target, to_negative)
            self._move_embedding(drawn, to_context / drawn.left)
        update(value.detach().requires_grad_())  # tells the loss; nothing is left to move

    def _draw(self, x: Tensor) -> _Draw:
        bags = self.encoder.bags(x)
        rows, text = self._dropped(bags.rows, bags.text), bags.text
        sizes = torch.zeros(len(x), device=x.device).index_add_(0, text, (rows > 0).sum(1).float())
        own = _held(rows)
        left = sizes[text] - (own > 0).sum(1)
        chance = torch.rand(len(text), device=x.device)
        wanted = (chance < self.keep[rows[:, 0]]) & (left > 0)
        if not wanted.any():
            wanted = left > 0
        targets = rows[wanted, 0]
        negatives = draw_negatives(self.noise, len(targets), self.n_negatives)
        return _Draw(
            rows.flatten(),
            bags.offsets * rows.shape[1],
            text,
            text[wanted],
            own[wanted],
            left[wanted, None],
            targets,
            negatives,
        )

    def _dropped(self, rows: Tensor, text: Tensor) -> Tensor:
        """The rows of the bags without the n-grams that leave: each with equal chance, `ngram_dropout` a text."""
        if rows.shape[1] == 1 or not self.ngram_dropout:
            return rows
        grams = rows[:, 1:]
        number = torch.zeros(int(text[-1]) + 1 if len(text) else 0, device=rows.device)
        number.index_add_(0, text, (grams > 0).sum(1).float())
        chance = (self.ngram_dropout / number.clamp_min(1)).clamp_max(0.5)
        stays = torch.rand(grams.shape, device=rows.device) >= chance[text][:, None]
        return torch.cat([rows[:, :1], grams * stays], 1)

    def _read(self, drawn: _Draw) -> tuple[Tensor, Tensor, Tensor]:
        """v and u of each target, and u of the negatives."""
        target, negative = (F.embedding(words, self.output) for words in (drawn.targets, drawn.negatives))
        return self._context(drawn), target, negative

    def _context(self, drawn: _Draw) -> Tensor:
        """v of each target, (k, dim): its text's sum without what holds it, over what is left."""
        table = self.encoder.embedding.weight
        skipped = PAD if torch.is_grad_enabled() else None  # its row is 0, and without a gradient the sum is faster
        sums = F.embedding_bag(drawn.rows, table, drawn.starts, mode="sum", padding_idx=skipped)
        held = F.embedding_bag(drawn.own, table, mode="sum", padding_idx=skipped)
        return sums.index_select(0, drawn.text).sub_(held).div_(drawn.left)

    def _move_embedding(self, drawn: _Draw, slopes: Tensor) -> None:
        """Each row moves by the slopes of its text's targets, less those of the targets that it holds."""
        n, orders = len(drawn.starts), len(drawn.rows) // max(len(drawn.row_text), 1)
        itself = torch.arange(len(slopes), device=slopes.device)
        per_text = drawn.text.bincount(minlength=n)
        of_text = F.embedding_bag(itself, slopes, per_text.cumsum(0) - per_text, mode="sum")
        rows = torch.cat([drawn.rows, drawn.own.flatten()])
        source = torch.cat(
            [drawn.row_text.repeat_interleave(orders), (itself + n).repeat_interleave(drawn.own.shape[1])]
        )
        there = rows != PAD
        weight = self.encoder.embedding.weight
        adagrad_rows(weight, self.squares, rows[there], torch.cat([of_text, -slopes]), self._rate(), source[there])

    def _move_output(self, drawn: _Draw, to_target: Tensor, to_negative: Tensor) -> None:
        rows = torch.cat([drawn.targets, drawn.negatives.flatten()])
        slopes = torch.cat([to_target, to_negative.flatten(0, 1)])
        each = torch.arange(len(rows), device=rows.device)
        adagrad_rows(self.output, self.output_squares, rows, slopes, self._rate(), each)

    def _rate(self) -> float:
        return self.learning_rate * (1 - self.progress)


def _held(rows: Tensor) -> Tensor:
    """The rows that hold each word: it, and the n-grams that start with it or up to n - 1 words before; 0 is none."""
    held = [rows]
    for column in range(1, rows.shape[1]):
        for back in range(1, column + 1):
            held.append(F.pad(rows[:, column], (back, 0))[: len(rows), None])
    return torch.cat(held, 1)


class CBOW(Sent2Vec):
    """Continuous bags of words (Mikolov et al., 2013): a word is predicted from those at most `window` words away.

    What `Sent2Vec` is without whole texts and n-grams, all else being equal; nearer words are in the context more
    often, since each target draws a window of 1 to `window` words. The baseline of the claims: a text is the mean of
    its words' vectors.
    """

    window: ClassVar[int] = 5

    def _draw(self, x: Tensor) -> _Draw:
        drawn, bags = super()._draw(x), self.encoder.bags(x)
        words, text = bags.rows[:, 0], bags.text
        chosen = torch.rand(len(words), device=x.device) < self.keep[words]
        at = (chosen if chosen.any() else torch.ones_like(chosen)).nonzero()
        apart = torch.arange(1, self.window + 1, device=x.device)
        apart = torch.cat([-apart, apart])
        reach = torch.randint(1, self.window + 1, at.shape, device=x.device)
        place = (at + apart).clamp(0, len(words) - 1)
        inside = (at + apart == place) & (text[place] == text[at]) & (apart.abs() <= reach)
        near = words[place] * inside
        left = inside.sum(1, keepdim=True)
        kept = left[:, 0] > 0
        targets, near, left = words[at[kept, 0]], near[kept], left[kept].float()
        negatives = draw_negatives(self.noise, len(targets), self.n_negatives)
        return replace(drawn, text=text[at[kept, 0]], own=near, left=left, targets=targets, negatives=negatives)

    def _context(self, drawn: _Draw) -> Tensor:
        skipped = PAD if torch.is_grad_enabled() else None
        near = F.embedding_bag(drawn.own, self.encoder.embedding.weight, mode="sum", padding_idx=skipped)
        return near.div_(drawn.left)

    def _move_embedding(self, drawn: _Draw, slopes: Tensor) -> None:
        rows = drawn.own.flatten()
        source = torch.arange(len(slopes), device=slopes.device).repeat_interleave(drawn.own.shape[1])
        there = rows != PAD
        adagrad_rows(self.encoder.embedding.weight, self.squares, rows[there], slopes, self._rate(), source[there])


@claim(
    "sentence vectors better than averaged CBOW word vectors",
    reported="ahead of all other unsupervised models on most benchmarks (abstract; averaged CBOW is in its tables)",
    proxy="a probe with ten labels a class on the 7,600 texts of AG News at hand, in place of SentEval after millions "
    "of sentences of books",
    steps={"small": 600, "full": 6000},
)
def better_than_cbow(bench: Bench) -> Comparison:
    """Accuracy on unseen texts of a logistic regression on ten labels a class, the mean over ten draws of these.

    CBOW has the same tokens, dimension, negatives, subsampling, optimiser, steps and batches; its window is 5. Each
    side chooses its rate among the same ones, on a validation part of the training texts.
    """
    texts = bench.data("ag_news")

    def sent2vec(trial: Trial, part: Part, rate: float) -> Sent2Vec:
        return trial.fit(trial.build(Sent2Vec, part, learning_rate=rate), part)

    def cbow(trial: Trial, part: Part, rate: float) -> CBOW:
        words = trial.encoder({"name": "sent2vec", "ngram": 1}, part)
        return trial.fit(CBOW(words, learning_rate=rate), part)

    def sides(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(texts)
        ours, theirs = (_with_best_rate(trial, train, side) for side in (sent2vec, cbow))
        return _few_labels(trial, ours.encoder, train, unseen), _few_labels(trial, theirs.encoder, train, unseen)

    setting = f"{texts.name}, 100 features, word bigrams; probe of 10 labels a class"
    return bench.trials(sides, baseline="averaged CBOW vectors", better_by=0.0, setting=setting)


@claim(
    "bigrams do not hurt",
    reported="uni + bigrams beside unigrams in all tables, and the recommended model; no size is claimed",
    proxy="as for averaged CBOW vectors",
    steps={"small": 600, "full": 6000},
)
def bigrams_do_not_hurt(bench: Bench) -> Comparison:
    """Accuracy on unseen texts with ten labels a class, of words and bigrams against words alone, at equal steps."""
    texts = bench.data("ag_news")

    def sides(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(texts)
        encoders = [trial.encoder({"name": "sent2vec", "ngram": ngram}, train) for ngram in (2, 1)]
        learners = [trial.fit(trial.build(Sent2Vec, train, encoder=encoder), train) for encoder in encoders]
        ours, theirs = (_few_labels(trial, learner.encoder, train, unseen) for learner in learners)
        return ours, theirs

    setting = f"{texts.name}, 100 features; probe of 10 labels a class"
    return bench.trials(sides, baseline="words alone", not_worse_by=0.02, setting=setting)


RATES = (0.05, 0.1, 0.2, 0.4)
"""Among which the sides of a claim choose."""


def _with_best_rate(trial: Trial, train: Part, side: Callable[[Trial, Part, float], Any]) -> Any:
    """The side's learner, trained at the rate that does best on a validation part of the training texts."""

    def score(rate: float, part: Part, rest: Unseen) -> float:
        return _few_labels(trial, side(trial, part, rate).encoder, part, rest)

    return side(trial, train, trial.select(train, RATES, score))


def _few_labels(trial: Trial, encoder: Any, train: Part, unseen: Unseen) -> float:
    """Accuracy of a logistic regression on ten labels a class, drawn ten times from the training items by the seed."""
    from sklearn.linear_model import LogisticRegression

    seen, new = (F.normalize(trial.predict(encoder, part.x)).numpy() for part in (train, unseen))
    centre, spread = seen.mean(0), seen.std() + 1e-12
    y, rng = np.asarray(train.y), np.random.default_rng(trial.seed)
    count = min(10, int(np.bincount(y).min()))
    draws = [
        np.concatenate([rng.choice(np.flatnonzero(y == k), count, replace=False) for k in np.unique(y)])
        for _ in range(10)
    ]

    def accuracy(truth: Any, features: Any) -> float:
        probes = [LogisticRegression(max_iter=1000).fit((seen[d] - centre) / spread, y[d]) for d in draws]
        return float(np.mean([probe.score(features, truth) for probe in probes]))

    return unseen.score((new - centre) / spread, accuracy)
