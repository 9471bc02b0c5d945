"""What a run is asked with: a picture, a text, a sound or an array, as a vector; and the space that pictures and texts
share where a run learned from pairs of them (CLIP and its kin)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.embedding import encode, evaluating
from tacit.errors import ArgumentError, DataError, expect
from tacit.nn._text import TokenEncoder
from tacit.nn._tokenizer import SPECIALS

LONGEST_PATH = 1024
"""Characters from which a text is not taken for a path."""
BLOCK = 65_536


ARRAYS = ("series", "table", "graph", "points")
"""Kinds of data whose items are asked for by number, or as an array."""


def vector_of(query: Any, encoder: nn.Module, modality: str | None = None) -> np.ndarray:
    """The encoder's vector of one item, (dim,) float32.

    Args:
        query: of images: a path, a PIL image or an array (c, h, w); of texts: a text, or the path of a text file; of
            sounds: a path, or (array, sample rate); of series, tables and graphs: an array like a row of `x`.
        encoder: what reads it.
        modality: of the data that it learned from, where its class does not say.

    Raises:
        ArgumentError: nothing that the encoder reads, or in which it finds nothing.
        DataError: a file that cannot be read.
    """
    reads = getattr(encoder, "modality", None) or modality or "image"
    with evaluating(encoder):
        vector = encode(encoder, _one_item(query, encoder, reads))[0].float().cpu().numpy()
    expect("query", _shown(query), bool(vector.any()), "something that the encoder knows", "it finds nothing in this")
    return vector


class Joint:
    """The space that images and texts share: unit vectors, whose cosine says how well a text fits an image.

    Items are stored as the image encoder gives them; they come into the space through the learner's projection.

    Args:
        learner: with `image_encoder`, `text_encoder`, `encode_image`, `encode_text`, `log_scale`; and
            `image_projection`, unless images are projected by nothing.
    """

    def __init__(self, learner: nn.Module) -> None:
        self.learner = learner.eval()

    @staticmethod
    def described(build: Mapping[str, Any]) -> bool:
        """Whether a run's config tells of an encoder of images and one of texts."""
        parts = build.get("parts", {})
        return {"image_encoder", "text_encoder"} <= set(parts)

    @property
    def scale(self) -> float:
        """What cosines are multiplied by before a softmax, learned: 1 / temperature."""
        return float(self.learner.log_scale.detach().exp())  # type: ignore[operator]

    def of_items(self, vectors: np.ndarray) -> np.ndarray:
        """Stored vectors (n, dim) of images -> (n, joint dim), block by block."""
        project = getattr(self.learner, "image_projection", nn.Identity())
        starts = range(0, len(vectors), BLOCK)
        with torch.no_grad():
            parts = [F.normalize(project(torch.tensor(vectors[i : i + BLOCK])), dim=1) for i in starts]
        return torch.cat(parts).numpy()

    def of_query(self, query: Any) -> np.ndarray:
        """A text, or whatever is an image: (joint dim,)."""
        if isinstance(query, str) and not _is_picture(query):
            return self.of_texts([query])[0]
        image = vector_of(query, self.learner.image_encoder)  # type: ignore[arg-type]
        return self.of_items(image[None])[0]

    def of_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> (n, joint dim).

        Raises:
            ArgumentError: a text without a word that the text encoder knows.
        """
        for text in texts:
            expect_words("query", text, self.learner.text_encoder)  # type: ignore[arg-type]
        with torch.no_grad():
            return self.learner.encode_text(list(texts)).float().cpu().numpy()  # type: ignore[operator]


def unknown_words(text: str, encoder: nn.Module) -> tuple[int, int]:
    """How many of a text's tokens the encoder does not know, and how many there are."""
    if not isinstance(encoder, TokenEncoder):
        return 0, 1
    numbers = encoder.prepare([text])[0]
    words = numbers[(numbers == 1) | (numbers >= len(SPECIALS))]
    return int((words == 1).sum()), len(words)


def expect_words(argument: str, text: str, encoder: nn.Module) -> None:
    """Refuse a text that holds nothing which the encoder knows."""
    unknown, total = unknown_words(text, encoder)
    known = text.strip() != "" and unknown < total
    expect(argument, text[:80], known, "a text with a word that the run has learned from", "it knows none of this one")


def _one_item(query: Any, encoder: nn.Module, reads: str) -> Any:
    """A query as a batch of one."""
    if reads == "text":
        text = read_text(query)
        expect_words("query", text, encoder)
        return [text]
    if reads == "audio":
        from tacit.data import read_audio

        return [read_audio(_there(query, "sound")) if isinstance(query, str | Path) else query]
    if reads in ARRAYS:
        is_array = isinstance(query, np.ndarray | Tensor)
        one = {"table": "row", "points": "point"}.get(reads, reads)
        remedy = "on the command line: --item 0"
        expect("query", _shown(query), is_array, f"the number of an item, or the array of a {one}", remedy)
        return torch.as_tensor(query)[None]
    return _one_image(query, encoder)


def read_text(query: Any) -> str:
    """The text, or what the text file holds that it names.

    Raises:
        ArgumentError: no text, an empty one, or the name of a text file that is not there.
        DataError: the file cannot be read.
    """
    from tacit.data import _images, _texts

    expect("query", _shown(query), isinstance(query, str | Path) and str(query).strip() != "", "a text")
    if not _is_file(query):
        named = isinstance(query, Path) or (not set(" \n") & set(query) and query.endswith(_endings(_texts.ENDINGS)))
        expect("query", str(query)[:80], not named, "a text, or the path of a text file", "there is no such file")
        return str(query)
    path = Path(query)
    try:
        read = _texts.read_files([path.name], lambda name: _images.read_file(str(path)), str(path), "file", _silent)
    except DataError as error:
        raise DataError(f"query={str(query)!r}: {error}") from error
    return read.texts[0]


def _silent(done: int) -> None:
    pass


def _one_image(query: Any, encoder: nn.Module) -> Tensor:
    """A query as a batch of one."""
    from PIL import Image

    if isinstance(query, np.ndarray | Tensor):
        return torch.as_tensor(query)[None]
    if isinstance(query, str | Path):
        from tacit.data import read_image

        there, size = _there(query, "picture"), encoder.image_size
        return torch.as_tensor(read_image(there, size=size, channels=encoder.in_channels))[None]  # type: ignore[arg-type]
    if isinstance(query, Image.Image):
        return encoder.prepare([query])  # type: ignore[operator]
    raise ArgumentError(f"query={type(query).__name__}: expected a path, a PIL image, an array or an item number")


def _there(query: str | Path, what: str) -> str | Path:
    expect("query", str(query)[:80], _is_file(query), f"the path of a {what}", "there is no such file")
    return query


def _is_file(query: str | Path) -> bool:
    try:
        return len(str(query)) < LONGEST_PATH and Path(query).is_file()
    except (OSError, ValueError):
        return False


def _is_picture(query: str) -> bool:
    """Whether a query is the path of a picture, also of one that is not there, rather than a text."""
    from tacit.data._listing import KINDS

    one_word = not set(" \n") & set(query)
    return _is_file(query) or (one_word and KINDS.get(query.rpartition(".")[2].lower()) == "image" and "." in query)


def _endings(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f".{name}" for name in names)


def _shown(query: Any) -> str:
    return str(query)[:80] if isinstance(query, str | Path | int) else type(query).__name__
