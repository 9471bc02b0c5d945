"""Indexing by Latent Semantic Analysis (Deerwester et al., 1990)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import checked
from tacit.data import Dataset
from tacit.errors import expect
from tacit.learner import Learner
from tacit.nn import LSAEncoder

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@system(
    "lsa", paper="doi:10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9", modality="text", level="baseline"
)
class LSA(Learner):
    """The leading right singular vectors of the matrix of texts by words, weighted by tf-idf.

        X_dw = tf(d, w) idf(w) / length of the row,    idf(w) = log((1 + n) / (1 + texts that hold w)) + 1
        X ~ U S V',    embedding of a text x:  x V

    The singular vectors come from a randomised method (Halko et al., 2011) on a sparse matrix: 100,000 texts of up to
    256 words take a few hundred megabytes.

    Args:
        n_components: features of an embedding; where the texts or words are fewer, the rest are 0.
        vocab_size: words that are counted.
        max_length: words of a text that are read.
        tokenizer: what a word is (see `tacit.nn.Tokenizer`).
        sublinear: tf is 1 + log of how often a word occurs in the text, or else that number itself.

    Attributes:
        encoder: a `tacit.nn.LSAEncoder`; what the user keeps. `encoder.fit_prepare(texts)` makes its vocabulary.
        singular_values: (n_components,), descending.

    >>> learner = LSA(n_components=2, vocab_size=20, max_length=4)
    >>> texts = ["cats purr", "cats sleep", "stocks fall", "stocks rise"]
    >>> learner.before_fit(Dataset({"x": learner.encoder.fit_prepare(texts).prepare(texts)}))
    >>> z = learner.encoder(learner.encoder.prepare(texts))
    >>> bool(z[0] @ z[1] > 0.1), abs(round((z[0] @ z[2]).item(), 4))
    (True, 0.0)
    """

    settings: ClassVar = {"paper": {"n_components": 100}, "small": {"n_components": 128}}

    def __init__(
        self,
        *,
        n_components: int = 128,
        vocab_size: int = 20_000,
        max_length: int = 256,
        tokenizer: str = "words",
        sublinear: bool = True,
    ) -> None:
        super().__init__()
        expect("n_components", n_components, n_components >= 1, "at least 1")
        self.encoder = LSAEncoder(
            n_components, tokenizer=tokenizer, vocab_size=vocab_size, max_length=max_length, sublinear=sublinear
        )
        self.register_buffer("singular_values", torch.zeros(n_components))

    def before_fit(self, data: Dataset) -> None:
        from sklearn.utils.extmath import randomized_svd

        self.encoder.idf = self._idf(data)
        matrix = self._matrix(data)
        expect("data", f"{len(data)} texts", matrix.nnz > 0, "texts with at least one known word")
        components = min(self.encoder.dim, *matrix.shape)
        seed = int(torch.randint(2**31 - 1, ()))
        _, values, directions = randomized_svd(matrix, components, n_iter=7, random_state=seed)
        self.encoder.directions.zero_()[:, :components] = torch.from_numpy(directions.T.copy())
        self.singular_values.zero_()[:components] = torch.from_numpy(values.copy())

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> tuple[()]:
        return ()

    def _idf(self, data: Dataset) -> Tensor:
        """log((1 + n) / (1 + texts that hold the word)) + 1, of every word: (vocab_size,)"""
        texts = torch.zeros(self.encoder.vocab_size)
        for chunk in data.chunks("x", 4096):
            words = chunk.sort(dim=1).values
            first = torch.ones_like(words, dtype=torch.bool)
            first[:, 1:] = words[:, 1:] != words[:, :-1]
            texts += torch.bincount(words[first], minlength=len(texts)).to(texts.dtype)
        return (((1 + len(data)) / (1 + texts)).log() + 1).to(self.encoder.idf.device)

    def _matrix(self, data: Dataset) -> csr_matrix:
        """The rows of X, sparse: (n, vocab_size)."""
        from scipy import sparse

        parts = []
        for chunk in data.chunks("x", 4096):
            words, weights = self.encoder.weighted(chunk.to(self.encoder.idf.device))
            rows, places = weights.nonzero(as_tuple=True)
            numbers = words[rows, places].cpu().numpy()
            held = (weights[rows, places].cpu().numpy(), (rows.cpu().numpy(), numbers))
            parts.append(sparse.csr_matrix(held, shape=(len(words), self.encoder.vocab_size), dtype=np.float32))
        return sparse.vstack(parts, format="csr")


@checked("with as many components as words, similarities of texts are those of their tf-idf rows", tolerance=1e-5)
def nothing_is_lost() -> tuple[float, float]:
    texts = ["a b b", "b c", "a a d", "d d d c"]
    learner = LSA(n_components=9, vocab_size=9, max_length=4)
    x = learner.encoder.fit_prepare(texts).prepare(texts)
    learner.before_fit(Dataset({"x": x}))
    embedded = learner.encoder(x)
    rows = torch.from_numpy(learner._matrix(Dataset({"x": x})).toarray())
    return float((embedded @ embedded.T - rows @ rows.T).abs().max()), 0.0
