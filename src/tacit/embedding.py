"""embed: an encoder and data -> vectors, streamed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tacit.data import Dataset, Source, as_dataset
from tacit.errors import ArgumentError, expect

Progress = Callable[[int, int], None]


def embed(
    encoder: nn.Module,
    data: Any,
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
    like: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """The encoder's vectors of every item, in order.

    Args:
        encoder: module with `dim` and `forward(x) -> (n, dim)`; its `prepare(items)` is used where it has one.
        data: whatever `tacit.data.open` takes (a folder, a zip, an array...), or a Dataset; or a list of raw items as
            the encoder's `prepare` takes them: texts, sounds...
        batch_size: items a forward pass.
        device: `"auto"` is a GPU if there is one.
        out: a .npy file to write the vectors to, where they do not fit in memory; the result is then mapped.
        progress: told (items done, n).
        like: `description` of the data that was learned from, which new tables and sounds are read like.

    Returns:
        float32 (n, dim).

    Raises:
        ArgumentError: no column `x`, batch_size < 1, or an `out` that does not end in .npy.

    >>> embed(torch.nn.Flatten(), np.ones((3, 2, 2), np.float32)).shape
    (3, 4)
    """
    expect("batch_size", batch_size, batch_size >= 1, "at least 1")
    items = _items(data, encoder, like)
    if "x" not in items:
        raise ArgumentError(f"data: the columns are {', '.join(items.names)}; expected x, what the encoder reads")
    n, vectors = len(items), None
    target = pick_device(device)
    with evaluating(encoder, target):
        for start in range(0, n, batch_size):
            batch = items["x"][slice(start, min(start + batch_size, n))]
            found = encode(encoder, batch.to(target)).float().cpu().numpy()
            if vectors is None:
                vectors = _room(out, (n, found.shape[1]))
            vectors[start : start + len(found)] = found
            if progress is not None:
                progress(start + len(found), n)
    if vectors is None:
        return np.zeros((0, getattr(encoder, "dim", 0)), np.float32)
    if isinstance(vectors, np.memmap):
        vectors.flush()
    return vectors


def encode(encoder: nn.Module, batch: Tensor) -> Tensor:
    """One batch as it lies in the data -> (n, dim), without gradient; the caller sets train or eval mode."""
    with torch.no_grad():
        vectors = encoder(prepared(encoder, batch))
    return vectors.flatten(1)


def prepared(encoder: nn.Module, batch: Any) -> Tensor:
    """Raw items, or a batch as it lies in the data, as the encoder reads them.

    Through its `prepare`, or as float (bytes scaled to [0, 1]).
    """
    prepare = getattr(encoder, "prepare", None)
    if prepare is not None:
        return prepare(batch)
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch


@contextlib.contextmanager
def evaluating(module: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Eval mode (and the device) for a while; each part's own mode and place come back afterwards."""
    modes = {part: part.training for part in module.modules()}
    home = next((p.device for p in [*module.parameters(), *module.buffers()]), None)
    module.eval()
    if device is not None:
        module.to(device)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        if device is not None and home is not None and home != device:
            module.to(home)


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """`"auto"`: the first GPU, or the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def readable(encoder: nn.Module, source: Source) -> Dataset:
    """The items of a source with the column `x` that the encoder reads: of texts, the numbers of their tokens."""
    if source.texts is None:
        return source.dataset
    x = prepared(encoder, source.texts)
    return Dataset({"x": x.cpu()}, modality=source.modality, fingerprint=source.dataset.fingerprint)


def _items(data: Any, encoder: nn.Module, like: Mapping[str, Any] | None) -> Dataset:
    reads = getattr(encoder, "modality", None)
    if reads is not None and isinstance(data, list | tuple) and not _paths(data, reads):
        return Dataset({"x": prepared(encoder, data).cpu()}, modality=reads)
    if isinstance(data, Dataset | Mapping | np.ndarray | Tensor):
        return as_dataset(data)
    from tacit.data import open as open_data

    said = {name: getattr(encoder, name) for name in ("sample_rate", "seconds") if hasattr(encoder, name)}
    size = getattr(encoder, "image_size", None)
    return readable(encoder, open_data(data, modality=reads, image_size=size, like={**said, **(like or {})}))


def _paths(items: Sequence[Any], reads: str) -> bool:
    return reads != "text" and len(items) > 0 and all(isinstance(item, str | Path) for item in items)


def _room(out: str | Path | None, shape: tuple[int, int]) -> np.ndarray:
    if out is None:
        return np.empty(shape, np.float32)
    expect("out", str(out), str(out).endswith(".npy"), "a file that ends in .npy")
    return np.lib.format.open_memmap(str(out), mode="w+", dtype=np.float32, shape=shape)
