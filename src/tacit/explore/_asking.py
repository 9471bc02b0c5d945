"""What the asking process does: it holds the run's encoder, reads a text or a file, and finds what is like it."""

from __future__ import annotations

import contextlib
import ctypes
from functools import lru_cache
from typing import Any

import numpy as np

from tacit.errors import DataError, TacitError, expect
from tacit.explore._run import Explored, as_hits


def warm(folder: str) -> None:
    """Load the encoder, so that the first question is answered soon."""
    run = _run(folder)
    if run.joint is None:
        _ = run.encoder


def near(folder: str, stamp: str, like: list[int], unlike: list[int], k: int) -> dict[str, np.ndarray]:
    """As `Explored.near`, of a run whose vectors are many."""
    try:
        return _explored(folder, stamp).near(like, unlike, k)
    finally:
        _give_back()


def _give_back() -> None:
    """Reading all vectors takes hundreds of megabytes, which glibc would keep."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@lru_cache(maxsize=1)
def _explored(folder: str, stamp: str) -> Explored:
    return Explored(folder)


def search_text(folder: str, text: str, k: int) -> dict[str, np.ndarray]:
    """The items most like a text, which is never taken for the name of a file; raises as `Run.search`."""
    run = _run(folder)
    if run.joint is not None:
        hits = run.items.best(run._joint_vectors @ run.joint.of_texts([text])[0], k)
    else:
        hits = run.items.search(vector_of_text(text, run.encoder), k)
    return as_hits((hit.item, hit.score) for hit in hits)


def vector_of_text(text: str, encoder: Any) -> np.ndarray:
    """The encoder's vector of a text, (dim,) float32; `tacit.querying.vector_of` would read a file of that name."""
    from tacit.embedding import encode, evaluating
    from tacit.querying import expect_words

    expect_words("query", text, encoder)
    with evaluating(encoder):
        vector = encode(encoder, [text])[0].float().cpu().numpy()
    expect("query", text[:80], bool(vector.any()), "a text that the encoder knows", "it finds nothing in this one")
    return vector


def search_file(folder: str, path: str, k: int) -> dict[str, np.ndarray]:
    """The items most like an uploaded file; raises as `Run.search`, of the file as "the file"."""
    from pathlib import Path

    try:
        hits = _run(folder).search(Path(path), k)
    except TacitError as error:
        raise DataError(str(error).replace(path, "the file").replace(Path(path).name, "the file")) from None
    return as_hits((hit.item, hit.score) for hit in hits)


@lru_cache(maxsize=1)
def _run(folder: str) -> Any:
    import torch

    from tacit.runs import load

    torch.set_num_threads(min(torch.get_num_threads(), 4))
    return load(folder)
