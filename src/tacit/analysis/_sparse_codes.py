"""What sparse autoencoders have in common: scaling, training, codes and reconstructions as scikit-learn has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from tacit.errors import expect
from tacit.learner import Learner

Array = NDArray[Any]
FLOATS = (np.float64, np.float32)
BLOCK = 4096
"""Rows that are encoded at a time."""


class Dictionary(Learner):
    """Atoms of length 1 and an offset b; `codes` and `loss` are the method's. Rows come scaled to unit variance.

    The parameter is free and its rows are normalised where they are used.
    """

    offset: Tensor

    def __init__(self, dim: int, n_atoms: int, offset: bool) -> None:
        super().__init__()
        self.directions = nn.Parameter(F.normalize(torch.randn(n_atoms, dim)))
        if offset:
            self.offset = nn.Parameter(torch.zeros(dim))
        else:
            self.register_buffer("offset", torch.zeros(dim))

    @property
    def atoms(self) -> Tensor:
        return F.normalize(self.directions)

    def codes(self, x: Tensor, **settings: Any) -> Tensor:
        raise NotImplementedError


class SparseCodesMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """What an estimator around a `Dictionary` has: rows x ~ b + z D, with z >= 0 and mostly 0."""

    n_atoms: int
    center: bool
    max_steps: int
    lr: float
    batch_size: int
    device: str
    random_state: Any

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn the atoms from rows X (n, d); y is not read."""
        from tacit.training import fit

        expect("n_atoms", self.n_atoms, self.n_atoms >= 1, "at least 1")
        rows: Array = validate_data(self, X, dtype=FLOATS, ensure_min_samples=2)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.mean_ = rows.mean(axis=0) if self.center else np.zeros(rows.shape[1], rows.dtype)
        self.scale_ = float(np.sqrt(np.square(rows - self.mean_).mean())) or 1.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learner = self._dictionary(rows.shape[1])
        fit(learner, {"x": self._scaled(rows).float()}, max_steps=self.max_steps, lr=self.lr, weight_decay=0.0,
            batch_size=min(self.batch_size, len(rows)), clip=1.0, accelerator=self.device.split(":")[0],
            seed=seed)  # fmt: skip
        self._learner = learner.cpu().double().eval()
        with torch.no_grad():
            self.components_ = learner.atoms.numpy()
            self.offset_ = self.mean_ + self.scale_ * learner.offset.numpy()
        return self

    def inverse_transform(self, X: ArrayLike) -> Array:
        """b + z D of codes z (n, n_atoms): (n, d)."""
        check_is_fitted(self)
        return self.offset_ + np.asarray(X) @ self.components_

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # codes are float64 whatever X is
        return tags

    def _dictionary(self, dim: int) -> Dictionary:
        raise NotImplementedError

    def _encoded(self, X: ArrayLike, codes: Callable[[Tensor], Tensor]) -> Array:
        """Codes of rows X (n, d), in the units of X."""
        check_is_fitted(self)
        rows: Array = validate_data(self, X, dtype=FLOATS, reset=False)
        blocks = (self._scaled(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK))
        with torch.no_grad():
            return self.scale_ * np.concatenate([codes(x).numpy() for x in blocks])

    def _scaled(self, X: Array) -> Tensor:
        return torch.from_numpy(np.asarray((X - self.mean_) / self.scale_, dtype=np.float64))
