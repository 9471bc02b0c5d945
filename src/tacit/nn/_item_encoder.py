"""ItemEncoder: what the encoders of texts, sounds, series, tables and graphs have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from tacit.errors import DataError, expect
from tacit.nn._hub import Hub, _file, _read_config


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

    @classmethod
    def from_pretrained(cls, source: str | Path, **download: Any) -> Self:
        """An encoder from a folder or a repository of the hub, in evaluation mode; as `Hub.from_pretrained`.

        What was fitted to the data takes the shape that it was saved with.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from tacit.learner import load_state
        from tacit.nn._encoders import encoder

        built = encoder(**_read_config(_file(source, "config.json", download)))
        expect("source", str(source), isinstance(built, cls), f"a {cls.__name__}", f"it holds a {type(built).__name__}")
        try:
            load_state(built, load_file(_file(source, "model.safetensors", download)))
        except (SafetensorError, RuntimeError) as error:
            raise DataError(f"the weights in {source} are damaged, or not of its config.json: {error}") from error
        return built.eval()  # type: ignore[no-any-return]
