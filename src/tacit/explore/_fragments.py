"""Finding items by a piece of their path or text: Arrow scans the stored columns, no row becomes a Python object."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, json

from tacit.report._points import text_of
from tacit.store import Items

HITS = 200
"""That are shown; all are counted."""
LONGEST = 200
"""Characters of a fragment."""


def find(items: Items, fragment: str) -> tuple[np.ndarray, int]:
    """Items whose path, number or text holds a fragment, in whatever case; those found by their path come first.

    Only what the store says of an item is looked at, its path and its caption or the beginning of its text; no file is.

    Args:
        items: of a run.
        fragment: looked for as it is: no sign in it has a meaning of its own.

    Returns:
        The numbers of the first `HITS`, (m,) int64, and how many there are.
    """
    fragment = unicodedata.normalize("NFC", fragment)
    number = int(fragment) if fragment.isascii() and fragment.isdecimal() and len(fragment) < 19 else -1
    by_path, by_text, n = [], [], 0
    for batch in items._scan(["item", "uri", "meta"]):
        numbers = batch.column("item").to_numpy()
        paths = compute.utf8_normalize(batch.column("uri"), "NFC")  # macOS takes letters and their accents apart
        in_path = _holds(paths, fragment) | (numbers == number)
        in_text = _holds(_captions(batch.column("meta")), fragment) & ~in_path
        by_path.append(numbers[in_path][:HITS])
        by_text.append(numbers[in_text][:HITS])
        n += int(in_path.sum() + in_text.sum())
    return np.concatenate([*by_path, *by_text])[:HITS], n


def _holds(texts: pa.Array, fragment: str) -> np.ndarray:
    found = compute.match_substring(texts, fragment, ignore_case=True)
    return compute.fill_null(found, False).to_numpy(zero_copy_only=False)


def _captions(metas: pa.Array) -> pa.Array:
    """The caption that each item's `meta` holds, null or empty where there is none."""
    metas = compute.fill_null(metas, "")
    lines = compute.binary_join(pa.ListArray.from_arrays([0, len(metas)], metas), "\n")[0].as_buffer()
    reading = json.ReadOptions(use_threads=False, block_size=max(lines.size, 1))
    kept: Any = {"explicit_schema": pa.schema([("caption", pa.string())]), "unexpected_field_behavior": "ignore"}
    try:
        read = json.read_json(pa.BufferReader(lines), reading, json.ParseOptions(**kept))
        captions = read["caption"].combine_chunks()
    except (pa.ArrowInvalid, KeyError):
        captions = None
    if captions is None or len(captions) != len(metas):  # a stranger's run may hold anything: one by one
        captions = pa.array([text_of(meta, b"") for meta in metas.to_pylist()], pa.string())
    return captions
