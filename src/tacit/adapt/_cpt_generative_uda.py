"""How Useful is Continued Pre-Training for Generative Unsupervised Domain Adaptation? (Uppaal, Li & Hu, 2024)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.embedding import evaluating
from tacit.errors import ArgumentError, expect, unknown
from tacit.losses import mmd_loss
from tacit.nn import Seq2Seq, TextEncoder, Tokenizer, initialize_linear
from tacit.views import mask_by_score, pointwise_mutual_information

Array = np.ndarray

METHODS = ("cpt", "mmd", "source")
MASKS = {"random": "any", "informative": "upper", "uninformative": "lower"}
"""Which words are hidden -> which half of a text's words, by their mutual information with the classes."""
RAREST = 5
"""Texts that have to hold a word before its mutual information is believed."""
BATCH = 256
"""Texts read at once by a model that is trained."""


@system("cpt-generative-uda", paper="arXiv:2401.17514", modality="text")
class ContinuedPretrainUDA(ClassifierMixin, BaseEstimator):
    """A text-to-text model says the class in words; first it fills in gaps in the texts of both domains.

        phase 1   "fill in the blanks: we met <0> the <1>"   ->  "<0> at <1> mill <2>"    texts of source and target
        phase 2   "what is this about: we met at the mill"   ->  "World"                  labelled texts of the source

    Both minimise -log p(what is said | what is read), one after the other, of one model. A class is written as the
    words of a `verbalizer`; the answer is the class whose words are likeliest. No label of the target is read.

    Other `method`s train the same network for as many steps: `source` learns from labelled texts alone, `mmd` adds to
    that the maximum mean discrepancy between the encoder's mean vectors of source and target texts, the
    domain-invariance of the paper's comparison. Its weight rises from 0 to `penalty` as 2 / (1 + exp(-10 t)) - 1 (Ganin
    & Lempitsky, 2015): in full from the start it makes all vectors alike before any class is learned.

    `mask` says which words are hidden: 15 % of each text's at `random`, or out of the half of its words which is more
    `informative`, or less (`uninformative`), by the largest pointwise mutual information with a class, counted on the
    labelled source. As many are hidden in either case.

    The paper adapts a pretrained T5 and has its prompts written as instructions; this model starts from nothing, with a
    vocabulary of words of both domains, and its phases are as long as `pretrain_share` of `max_steps` says. Its text
    was not at hand beyond the abstract, and its official repository holds no code: masks, sizes and prompts are ours.

    Args:
        method: cpt, mmd or source.
        mask: random, informative or uninformative.
        mask_share: of the words of a text, in (0, 1].
        verbalizer: class -> what is said for it; None: the class as a text.
        infill_prompt, label_prompt: what is put before the text, in phase 1 and 2.
        pretrain_share: share of the steps that are phase 1, in [0, 1); counts for `cpt` alone.
        penalty: weight of the discrepancy; counts for `mmd` alone. At 1 the features collapsed on made-up texts.
        vocab_size: most words.
        max_length: tokens of a text that are read, the prompt's among them.
        dim, num_layers, num_heads: of encoder and decoder alike.
        dropout: share of features zeroed while training.
        max_steps: of the training, at least 1.
        batch_size: texts a step; of `mmd` as many of either domain.
        lr: of AdamW, with a tenth of each phase as warm-up, then falling to 0 on a cosine.
        device: cpu, cuda...
        random_state: of weights, batches and masks.

    Attributes:
        classes_: (n_classes,), sorted.
        verbalizer_: what is said for each of them.
        model_: a `tacit.nn.Seq2Seq`.
        pmi_: pointwise mutual information of each token with each class on the source, (n_tokens, n_classes).
        losses_: loss of each step.

    In a `Pipeline` it takes raw texts; `target` goes through as `estimator__target` with metadata routing only.

    Raises:
        ArgumentError: an unknown word, a number out of range, no target texts where the method reads them, a class
            without words, two classes that are said alike.

    >>> source, y = ["the team won the game", "shares fell on monday"] * 4, ["sports", "money"] * 4
    >>> small = {"dim": 16, "num_layers": 1, "num_heads": 2, "batch_size": 8, "lr": 0.01}
    >>> model = ContinuedPretrainUDA(**small, max_steps=100, pretrain_share=0.4, random_state=0)
    >>> model.fit(source, y, target=["the coach lost a game", "stocks fell"]).predict(["shares fell"]).tolist()
    ['money']
    >>> model.generate(["shares fell"])
    ['money']
    """

    settings: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"dim": 64, "num_layers": 2, "num_heads": 4, "batch_size": 64, "lr": 2e-3},
    }

    def __init__(
        self,
        *,
        method: str = "cpt",
        mask: str = "random",
        mask_share: float = 0.15,
        verbalizer: Mapping[Any, str] | None = None,
        infill_prompt: str = "fill in the blanks",
        label_prompt: str = "what is this about",
        pretrain_share: float = 0.75,
        penalty: float = 0.1,
        vocab_size: int = 8000,
        max_length: int = 64,
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
        max_steps: int = 2000,
        batch_size: int = 64,
        lr: float = 2e-3,
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        self.method = method
        self.mask = mask
        self.mask_share = mask_share
        self.verbalizer = verbalizer
        self.infill_prompt = infill_prompt
        self.label_prompt = label_prompt
        self.pretrain_share = pretrain_share
        self.penalty = penalty
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.dim = dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.dropout = dropout
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.device = device
        self.random_state = random_state

    def fit(self, X: Sequence[str], y: Any, *, target: Sequence[str] = ()) -> Self:
        """Train on labelled texts of the source and texts of the target.

        Args:
            X: n texts of the source.
            y: their classes, (n,).
            target: texts of the target domain; `source` does not read them, and its words are none of the vocabulary.
        """
        texts, y = _texts("X", X), np.asarray(y)
        check_consistent_length(texts, y)
        check_classification_targets(y)
        others = [] if self.method == "source" else _texts("target", target)
        self._check(others)
        self.classes_, codes = np.unique(y, return_inverse=True)
        said = self.verbalizer if self.verbalizer is not None else {name: str(name) for name in self.classes_.tolist()}
        missing = [name for name in self.classes_.tolist() if name not in said]
        expect("verbalizer", missing, not missing, "words for every class", "add those of the classes named")
        self.verbalizer_ = [said[name] for name in self.classes_.tolist()]
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model_ = self._network(texts, others)
            self._targets = self._verbalized()
            self._train(texts, torch.from_numpy(codes).to(self.device), others)
        return self

    def predict(self, X: Sequence[str]) -> Array:
        """The class of each text, (n,)."""
        return self.classes_[self.predict_log_proba(X).argmax(1)]

    def predict_proba(self, X: Sequence[str]) -> Array:
        """Of each class, (n, n_classes): the probabilities of its words, over their sum."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Sequence[str]) -> Array:
        """Logarithms of `predict_proba`."""
        check_is_fitted(self)
        rows = self._rows(self.label_prompt, _texts("X", X))
        with evaluating(self.model_), torch.no_grad():
            found = [self.model_.score(part, self._targets).log_softmax(1) for part in rows.split(BATCH)]
        return torch.cat(found).double().cpu().numpy()

    def generate(self, X: Sequence[str]) -> list[str]:
        """What the model says of each text, word after word; it need not be a class."""
        check_is_fitted(self)
        rows, longest = self._rows(self.label_prompt, _texts("X", X)), self._targets.shape[1]
        with evaluating(self.model_):
            said = torch.cat([self.model_.generate(part, longest) for part in rows.split(BATCH)])
        words = said * (said < self.model_.first_sentinel)
        return [self.model_.encoder.tokenizer.decode(row) for row in words.tolist()]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags

    # training ---------------------------------------------------------------------------------------------------------

    def _train(self, texts: list[str], y: Tensor, others: list[str]) -> None:
        read = self._rows(self.label_prompt, texts)
        self.losses_: list[float] = []
        first = round(self.pretrain_share * self.max_steps) if self.method == "cpt" else 0
        self.pmi_ = pointwise_mutual_information(
            read[:, self._prompt_length(self.label_prompt) :],
            y,
            n_tokens=self.model_.encoder.num_tokens,
            n_classes=len(self.classes_),
            min_count=RAREST,
        )
        if first:
            gaps, scores = self._rows(self.infill_prompt, texts + others), self.pmi_.amax(1)
            begin = self._prompt_length(self.infill_prompt)
            self._descend(first, lambda: self._infilling(gaps, scores, begin), len(gaps))
        far = self._rows(self.label_prompt, others) if self.method == "mmd" else None
        self._descend(self.max_steps - first, lambda: self._labelling(read, y, far), len(texts))
        self.model_.eval()

    def _infilling(self, rows: Tensor, scores: Tensor, begin: int) -> Callable[[Tensor], Tensor]:
        """Items of a batch -> cost of filling their gaps (phase 1)."""

        def loss(items: Tensor) -> Tensor:
            x = self.model_.encoder.trim(rows[items])
            chosen = torch.zeros_like(x, dtype=torch.bool)
            chosen[:, begin:] = mask_by_score(x[:, begin:], scores, share=self.mask_share, half=MASKS[self.mask])
            return self.model_.loss(*self.model_.corrupt(x, chosen))

        return loss

    def _labelling(self, rows: Tensor, y: Tensor, far: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Items of a batch -> cost of saying their class (phase 2), with the distance of the domains if `far` is."""

        def loss(items: Tensor) -> Tensor:
            source = self.model_.encoder.trim(rows[items])
            context = self.model_.read(source)
            cost = self.model_.loss(source, self._targets[y[items]], context)
            if far is None:
                return cost
            other = self.model_.encoder.trim(far[torch.randint(len(far), (len(items),), device=far.device)])
            means = [self.model_.encoder.pooled(c, x) for c, x in ((context, source), (self.model_.read(other), other))]
            done = len(self.losses_) / self.max_steps
            return cost + self.penalty * (2 / (1 + math.exp(-10 * done)) - 1) * mmd_loss(*means)

        return loss

    def _descend(self, n_steps: int, made: Callable[[], Callable[[Tensor], Tensor]], n: int) -> None:
        """`n_steps` of AdamW down a loss of item numbers below n."""
        loss, batches = made(), _batches(n, min(self.batch_size, n), self.device)
        optimizer = torch.optim.AdamW(self.model_.parameters(), lr=self.lr, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, n_steps))
        self.model_.train()
        for _ in range(n_steps):
            cost = loss(next(batches))
            optimizer.zero_grad()
            cost.backward()
            torch.nn.utils.clip_grad_norm_(self.model_.parameters(), 1.0)
            optimizer.step()
            rate.step()
            self.losses_.append(cost.item())

    # texts as token numbers -------------------------------------------------------------------------------------------

    def _network(self, texts: list[str], others: list[str]) -> Seq2Seq:
        # what the model says, and the prompts, are words of the vocabulary whatever the texts are
        own = " ".join([self.infill_prompt, self.label_prompt, *self.verbalizer_])
        seen = [*texts, *others, *[own] * (len(texts) + len(others))]
        encoder = TextEncoder(
            tokenizer="words",
            vocab_size=len(Tokenizer.train(seen, vocab_size=self.vocab_size)),  # no row that stands for nothing
            max_length=self.max_length,
            dim=self.dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            dropout=self.dropout,
        ).fit_prepare(seen)
        initialize_linear(encoder.body)
        model = Seq2Seq(encoder, num_layers=self.num_layers, num_heads=self.num_heads, dropout=self.dropout)
        return model.to(self.device)

    def _rows(self, prompt: str, texts: list[str]) -> Tensor:
        """Texts behind a prompt, as token numbers, (n, max_length)."""
        return self.model_.encoder.prepare([f"{prompt} {text}" for text in texts])

    def _prompt_length(self, prompt: str) -> int:
        """Tokens before the text: those of the prompt, and the encoder's [CLS]."""
        return int(self.model_.encoder.mask(self.model_.encoder.prepare([prompt])).sum())

    def _verbalized(self) -> Tensor:
        """What is said for each class, (n_classes, t)."""
        targets = self.model_.encoder.trim(self.model_.targets(self.verbalizer_))
        empty = [said for said, row in zip(self.verbalizer_, targets, strict=True) if int((row != 0).sum()) < 2]
        expect("verbalizer", empty, not empty, "at least one word for each class", "punctuation alone is none")
        if len(targets.unique(dim=0)) < len(targets):
            raise ArgumentError(f"verbalizer={self.verbalizer_}: two classes are said alike; give them other words")
        return targets

    def _check(self, others: list[str]) -> None:
        if self.method not in METHODS:
            raise unknown("method", str(self.method), METHODS)
        if self.mask not in MASKS:
            raise unknown("mask", str(self.mask), MASKS)
        expect("mask_share", self.mask_share, 0 < self.mask_share <= 1, "a share in (0, 1]")
        expect("pretrain_share", self.pretrain_share, 0 <= self.pretrain_share < 1, "a share in [0, 1)")
        expect("penalty", self.penalty, self.penalty >= 0, "a number of at least 0")
        expect("lr", self.lr, self.lr > 0, "a number above 0")
        for name in ("max_steps", "batch_size"):
            expect(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        remedy = "give target=, or take method='source'"
        expect("target", len(others), self.method == "source" or len(others) > 0, "texts of the target domain", remedy)


def _texts(name: str, texts: Any) -> list[str]:
    """The texts as a list.

    Raises:
        ArgumentError: no list of texts.
    """
    listed = [] if isinstance(texts, str) else list(texts)
    plain = not isinstance(texts, str) and all(isinstance(text, str) for text in listed)
    expect(name, type(texts).__name__, plain, "a list of texts (str)")
    return listed


def _pace(step: int, n_steps: int) -> float:
    """Factor of the rate: up along a line for a tenth of the steps, then down on a cosine."""
    warm = max(1, n_steps // 10)
    done = (step - warm) / max(1, n_steps - warm)
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(0.0, done))))


def _batches(n: int, size: int, device: str) -> Iterator[Tensor]:
    """Item numbers, in an order that is drawn anew when all have been seen."""
    while True:
        order = torch.randperm(n)
        yield from order[: n // size * size].to(device).split(size)


# Claims ---------------------------------------------------------------------------------------------------------------

AGENCY = re.compile(r"\breuters\b|\b(?-i:AP)\b|\bassociated press\b", re.IGNORECASE)
"""The two agencies whose documents are the source."""
TOPICS = {0: "world", 1: "sports", 2: "business", 3: "science"}


def split_by_agency(texts: Sequence[str]) -> tuple[list[str], Array]:
    """AG News as two domains: the texts without the agency's name, and whether it was there, bool (n,).

    >>> split_by_agency(["Oil falls (Reuters) Oil fell.", "A game of soccer."])
    (['Oil falls ( ) Oil fell.', 'A game of soccer.'], array([ True, False]))
    """
    return [AGENCY.sub(" ", text) for text in texts], np.array([AGENCY.search(text) is not None for text in texts])


SMALL = {"dim": 64, "num_layers": 1, "max_length": 48, "vocab_size": 4000, "batch_size": 32, "pretrain_share": 0.6}
"""A network that some hundred steps train on a CPU."""


def _news(bench: Bench) -> Any:
    return bench.data("ag_news", n=bench.pick(smoke=None, small=6000), n_test=bench.pick(smoke=None, small=1600))


def _on_news(bench: Bench, *settings: Mapping[str, Any]) -> Callable[[Trial], list[float]]:
    """Accuracy on unseen target texts with each of the settings: from tagged documents to all others.

    Of the part to learn from, tagged documents give texts and labels, the others texts alone.
    """
    data = _news(bench)

    def sides(trial: Trial) -> list[float]:
        train, unseen = trial.split(data)
        texts, tagged = _domains(train.x)
        new, new_tagged = _domains(unseen.x)
        source, target = ([text for text, own in zip(texts, tagged == side, strict=True) if own] for side in (1, 0))
        y = train.y.numpy()[tagged]
        asked = np.flatnonzero(~new_tagged)
        found = []
        for words in settings:
            model = ContinuedPretrainUDA(
                verbalizer=TOPICS,
                max_steps=trial.steps,
                device=trial.device,
                random_state=trial.seed,
                **{**SMALL, **words},
            )
            answers = np.zeros(len(new), np.int64)
            answers[asked] = model.fit(source, y, target=target).predict([new[i] for i in asked])
            found.append(unseen.score(answers, by=lambda y, said: float((y[asked] == said[asked]).mean())))
        return found

    return sides


def _domains(texts: Sequence[str]) -> tuple[list[str], Array]:
    """`split_by_agency`; where no text names one (drawn texts in place of news), every fourth is the source."""
    plain, tagged = split_by_agency(texts)
    return plain, tagged if tagged.any() else np.arange(len(texts)) % 4 == 0


SETTING = "AG News, from Reuters and AP to all other documents, agencies' names taken out; 600 steps of 32 texts"


@claim(
    "continued pre-training on texts of both domains makes the target's classes better known than the source alone",
    reported="'evaluate how well the benefits of CPT extend' (abstract): CPT improves on the target; no number at hand",
    proxy="AG News by agency, a transformer of one layer from nothing in place of T5, 600 steps a side",
    steps={"small": 600, "full": 20_000},
)
def better_than_source_alone(bench: Bench) -> Comparison:
    """Accuracy on unseen target texts, against the same steps on labelled source texts.

    That the domains differ was measured with TF-IDF and logistic regression, as many texts of each class on both
    sides: 0.75 from source to target, 0.82 within the target. On a validation part, infilling from nothing still says
    words by their frequency after some hundred steps, so that at this length little can have been learned by it.
    """
    sides = _on_news(bench, {"method": "cpt"}, {"method": "source"})
    return bench.trials(sides, baseline="labelled source texts alone, equal steps", better_by=0.0, setting=SETTING)


@claim(
    "continued pre-training is competitive with learning domain-invariant representations",
    reported="'trade-offs between CPT and strong methods promoting domain invariance' (abstract); no number",
    proxy="AG News by agency, a transformer of one layer from nothing in place of T5, 600 steps a side; MMD alone",
    steps={"small": 600, "full": 20_000},
)
def no_worse_than_invariance(bench: Bench) -> Comparison:
    """Accuracy on unseen target texts, against MMD between the mean vectors of source and target, equal steps."""
    sides = _on_news(bench, {"method": "cpt"}, {"method": "mmd"})
    return bench.trials(sides, baseline="MMD between the domains, equal steps", not_worse_by=0.02, setting=SETTING)


@claim(
    "it is filling in words informative of the task that teaches the task",
    reported="the model 'implicitly learns the downstream task while predicting masked words informative to that task'",
    proxy="AG News by agency, a transformer of one layer from nothing in place of T5, 600 steps a side",
    steps={"small": 600, "full": 20_000},
)
def informative_words_teach_more(bench: Bench) -> Comparison:
    """Accuracy on unseen target texts: words hidden out of each text's half with higher, or with lower, information.

    As many are hidden in either. Their information is counted on the labelled source: phase 1 so sees its labels, on
    both sides alike.
    """
    sides = _on_news(bench, {"mask": "informative"}, {"mask": "uninformative"})
    return bench.trials(sides, baseline="as many uninformative words hidden", better_by=0.0, setting=SETTING)
