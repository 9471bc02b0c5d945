"""ItemEncoder: what the encoders of texts, sounds, series, tables and graphs have in common."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Tensor, nn

from tacit.nn._hub import Hub


class ItemEncoder(Hub, nn.Module):
    """Items of one modality, as `prepare` makes a tensor of them -> embeddings (n, dim).

    What is fitted to the data (a vocabulary, means and deviations, categories) is fitted by `fit_prepare`, lies in
    buffers, and so is saved and loaded with the weights: embed, search and export need no other file.

    Attributes:
        modality: text, audio, series, table or graph.
        dim: features of an embedding.
        config: what `tacit.nn.encoder(**config)` rebuilds the network from, without its weights; plain JSON.
    """

    modality: ClassVar[str]
    dim: int
    config: dict[str, Any]

    def fit_prepare(self, items: Any) -> Self:
        """Fit what `prepare` needs to these raw items; they are all that it sees of the data."""
        return self

    def prepare(self, items: Any) -> Tensor:
        """Raw items to the tensor that `forward` takes; a tensor that it made comes back unchanged."""
        raise NotImplementedError(f"{type(self).__name__} defines no prepare")
