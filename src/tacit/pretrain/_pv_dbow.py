"""Distributed Representations of Sentences and Documents (Le and Mikolov, 2014): PV-DBOW, with skip-gram words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import checked
from tacit.errors import expect
from tacit.nn._negative_sampling import (
    adagrad_rows,
    cumulative_noise,
    draw_negatives,
    keep_chance,
    negative_sampling_loss,
)
from tacit.nn._tokenizer import check_texts
from tacit.nn._words import count_words, most_frequent, split_words

Array = np.ndarray


@dataclass(frozen=True)
class _Corpus:
    """All known words of all documents, one after the other: word numbers (k,), and the document of each (k,)."""

    words: Tensor
    documents: Tensor
    n: int


_OF_ARRAYS = (
    "complex_data dict_unchanged dont_overwrite_parameters dtype_object estimator_sparse_array "
    "estimator_sparse_matrix estimators_dtypes estimators_empty_data_messages estimators_fit_returns_self "
    "estimators_nan_inf estimators_overwrite_params estimators_pickle f_contiguous_array_estimator "
    "fit2d_1feature fit2d_1sample fit2d_predict1d fit_check_is_fitted fit_idempotent fit_score_takes_y "
    "methods_sample_order_invariance methods_subset_invariance n_features_in n_features_in_after_fitting "
    "pipeline_consistency positive_only_tag_during_fit readonly_memmap_input transformer_data_not_an_array "
    "transformer_general transformer_preserve_dtypes"
)
"""Checks of scikit-learn that fit a plain array of numbers."""


@system("pv-dbow", paper="arXiv:1405.4053", modality="text", level="baseline")
class PVDBOW(TransformerMixin, BaseEstimator):
    """Vectors of documents, each trained to predict the words in it, and of words, in the same space.

        loss = mean over pairs (v, w) of  l(u_w v) + sum over n negatives w' of l(-u_w' v),  l(s) = log(1 + exp(-s))

    v is the vector of the document that holds w (PV-DBOW, section 2.3), or that of a word near it (skip-gram, at most
    `window` words away, nearer ones more often): both predict through the same u, so that documents lie near the words
    that they would hold. Negative sampling with count^(3/4) takes the place of the paper's hierarchical softmax. For
    each word `n_contexts` skip-gram pairs are drawn; with 0 of them there is PV-DBOW alone, whose words learn nothing.

    A new document's vector is found by the same descent, with words and u held fixed. Steps are those of row-wise
    Adagrad, with a rate that falls linearly to 0.

    Args:
        dim: features.
        epochs: passes over the texts; also those that `transform` takes.
        vocab_size: words at most, the most frequent.
        min_count: occurrences that a word needs.
        window: words to each side.
        n_contexts: skip-gram pairs for each pair of a document and a word.
        n_negatives: n.
        subsampling: t; a word whose share is f counts with chance sqrt(t / f) + t / f.
        learning_rate: of row-wise Adagrad.
        batch_size: words a step.
        random_state: of weights, order and draws.

    Attributes:
        document_vectors_: float32 (n, dim), of the texts given to fit.
        word_vectors_: float32 (words, dim).
        vocabulary_: word -> row.
        output_: u, float32 (words, dim).
        loss_: mean loss of the last epoch.

    Raises:
        ArgumentError: a setting out of range, or texts without a word that occurs min_count times.

    >>> texts = ["the cat sat on the mat", "a dog barks at a cat", "rates rose as banks sold bonds"] * 5
    >>> model = PVDBOW(dim=8, epochs=3, min_count=1, random_state=0).fit(texts)
    >>> model.document_vectors_.shape, model.transform(["a cat"]).shape
    ((15, 8), (1, 8))
    """

    settings: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"dim": 400, "window": 8},
        "small": {"dim": 100, "epochs": 20, "window": 10, "n_contexts": 1},
    }
    expected_failed_checks: ClassVar[dict[str, str]] = {
        f"check_{name}": "it takes texts, which are no arrays" for name in _OF_ARRAYS.split()
    }

    def __init__(
        self,
        *,
        dim: int = 100,
        epochs: int = 20,
        vocab_size: int = 30_000,
        min_count: int = 2,
        window: int = 10,
        n_contexts: int = 1,
        n_negatives: int = 5,
        subsampling: float = 1e-4,
        learning_rate: float = 0.1,
        batch_size: int = 4096,
        random_state: Any = None,
    ) -> None:
        self.dim = dim
        self.epochs = epochs
        self.vocab_size = vocab_size
        self.min_count = min_count
        self.window = window
        self.n_contexts = n_contexts
        self.n_negatives = n_negatives
        self.subsampling = subsampling
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(self, texts: Iterable[str], y: Any = None) -> Self:
        """Learn from n texts."""
        self._check()
        listed = check_texts(texts)
        counts = count_words(listed)
        known = [word for word in most_frequent(counts, self.vocab_size) if counts[word] >= self.min_count]
        expect("texts", len(listed), bool(known), f"texts with a word that occurs min_count={self.min_count} times")
        self.vocabulary_ = {word: number for number, word in enumerate(known)}
        occurrences = torch.tensor([counts[word] for word in known], dtype=torch.float64)
        self._keep, self._noise = (
            keep_chance(occurrences, self.subsampling).float(),
            cumulative_noise(occurrences, 0.75),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed())
            words, output = self._drawn(len(known)), torch.zeros(len(known), self.dim)
            documents = self._train(self._corpus(listed), words, output, fixed=False)
        self.document_vectors_, self.word_vectors_, self.output_ = documents.numpy(), words.numpy(), output.numpy()
        self.n_features_in_ = len(known)
        return self

    def fit_transform(self, texts: Iterable[str], y: Any = None) -> Array:
        """The vectors of the texts that it learns from, (n, dim)."""
        return self.fit(texts).document_vectors_

    def transform(self, texts: Iterable[str]) -> Array:
        """Vectors of new texts, float32 (n, dim); the same for the same texts in the same order."""
        check_is_fitted(self)
        corpus = self._corpus(check_texts(texts))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed())
            words, output = torch.from_numpy(self.word_vectors_), torch.from_numpy(self.output_)
            return self._train(corpus, words, output, fixed=True).numpy()

    def _check(self) -> None:
        for name in ("dim", "epochs", "vocab_size", "min_count", "window", "n_negatives", "batch_size"):
            expect(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        expect("n_contexts", self.n_contexts, self.n_contexts >= 0, "a number of pairs, at least 0")
        for name in ("subsampling", "learning_rate"):
            expect(name, getattr(self, name), getattr(self, name) > 0, "a number above 0")

    def _seed(self) -> int:
        if self.random_state is None or not isinstance(self.random_state, int | np.integer):
            if not hasattr(self, "_drawn_seed"):
                self._drawn_seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            return self._drawn_seed
        return int(self.random_state)

    def _drawn(self, n: int) -> Tensor:
        return torch.empty(n, self.dim).uniform_(-0.5 / self.dim, 0.5 / self.dim)

    def _corpus(self, texts: list[str]) -> _Corpus:
        number = self.vocabulary_
        rows = [[number[word] for word in split_words(text) if word in number] for text in texts]
        words = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return _Corpus(words, torch.repeat_interleave(torch.arange(len(rows)), lengths), len(rows))

    def _train(self, corpus: _Corpus, words: Tensor, output: Tensor, *, fixed: bool) -> Tensor:
        """The documents' vectors; words and output move with them unless they are fixed."""
        documents = self._drawn(corpus.n)
        table = documents if fixed else torch.cat([documents, words])
        squares, output_squares = torch.zeros(len(table)), torch.zeros(len(output))
        k = len(corpus.words)
        total = self.epochs * max(-(-k // self.batch_size), 1)
        for step in range(total if k else 0):
            if step % (total // self.epochs) == 0:
                batches, losses = torch.randperm(k).split(self.batch_size), []
            rows, targets = self._pairs(corpus, batches[step % (total // self.epochs)], contexts=not fixed)
            if not len(rows):
                continue
            negatives = draw_negatives(self._noise, len(rows), self.n_negatives)
            read = ((rows, table), (targets, output), (negatives, output))
            inputs, target, negative = leaves = [F.embedding(numbers, of).requires_grad_() for numbers, of in read]
            value = negative_sampling_loss(inputs, target, negative, targets, negatives)
            slopes = torch.autograd.grad(value * len(rows), leaves)
            losses.append(float(value.detach()))
            rate = self.learning_rate * (1 - step / total)
            adagrad_rows(table, squares, rows, slopes[0], rate, torch.arange(len(rows)))
            if not fixed:
                moved = torch.cat([targets, negatives.flatten()])
                both = torch.cat([slopes[1], slopes[2].flatten(0, 1)])
                adagrad_rows(output, output_squares, moved, both, rate, torch.arange(len(moved)))
        if fixed:
            return table
        self.loss_ = float(np.mean(losses)) if k and losses else float("nan")
        words.copy_(table[corpus.n :])
        return table[: corpus.n].clone()

    def _pairs(self, corpus: _Corpus, at: Tensor, *, contexts: bool) -> tuple[Tensor, Tensor]:
        """Pairs of the words at these places: a row of the table, first documents then words; and a word."""
        at = at[torch.rand(len(at)) < self._keep[corpus.words[at]]]
        rows, targets = [corpus.documents[at]], [corpus.words[at]]
        for _ in range(self.n_contexts if contexts else 0):
            reach = torch.randint(1, self.window + 1, (len(at),))  # a window of its own, as word2vec draws it
            apart = (torch.rand(len(at)) * reach).long() + 1
            near = at + apart * (2 * torch.randint(0, 2, (len(at),)) - 1)
            inside = (near >= 0) & (near < len(corpus.words))
            near = near.clamp(0, len(corpus.words) - 1)
            inside &= corpus.documents[near] == corpus.documents[at]
            rows.append(corpus.words[near[inside]] + corpus.n)
            targets.append(corpus.words[at[inside]])
        return torch.cat(rows), torch.cat(targets)


@checked("a document's vector is where its loss is least, words held fixed", tolerance=0.1)
def inference_finds_the_minimum() -> tuple[float, float]:
    """The mean score s of two words that are as frequent, in a text and as negatives: it is -log 2.

    Of four negatives two are the other word, and those that are the word itself are left out, so that the slope of
    each score vanishes where 1 / (1 + exp(s)) = 2 / (1 + exp(-s)).
    """
    model = PVDBOW(dim=2, epochs=300, min_count=1, n_contexts=0, n_negatives=4, subsampling=1e9, random_state=0)
    model.fit(["a b"])
    model.output_ = np.eye(2, dtype=np.float32)
    return float((model.transform(["a b " * 500]) @ model.output_.T).mean()), -float(np.log(2))
