"""ListOps: nested operations on lists of digits, whose value hangs on all of their structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tacit.errors import ArgumentError, expect

__all__ = ["listops"]

SHARE = 0.25
"""How many of the arguments are operations themselves, above the deepest level."""

TRIES = 100_000
"""Draws in a row that may miss the wanted length."""


def _median(values: Sequence[int]) -> int:
    """The lower whole number where the middle two differ."""
    ordered, n = sorted(values), len(values)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) // 2


OPERATIONS: dict[str, Callable[[Sequence[int]], int]] = {
    "MAX": max,
    "MIN": min,
    "MED": _median,
    "SM": lambda values: sum(values) % 10,
}
SYMBOLS = {"MAX": "^", "MIN": "v", "MED": "=", "SM": "+"}
"""The operations, each as one character."""


def listops(
    n: int,
    *,
    seed: int = 0,
    max_depth: int = 10,
    max_args: int = 10,
    min_length: int = 500,
    max_length: int = 2000,
    compact: bool = False,
) -> dict[str, Any]:
    """Expressions such as `[MAX 2 9 [MIN 4 7 ] 0 ]`, and their values.

    MAX, MIN, MED (the median, rounded down) and SM (the sum modulo 10) of two to `max_args` arguments, a quarter of
    which are operations themselves, down to `max_depth` levels. The defaults are those of Long Range Arena. What is too
    short or too long is drawn again, as there.

    Args:
        n: how many, at least 1.
        max_depth: levels of operations, at least 1.
        max_args: the most arguments of an operation, at least 2.
        min_length, max_length: tokens of an expression: an operation with its bracket, a digit, a closing bracket.
        compact: each token as one character, for tokenizers that read characters: `(^29(v47)0)`, with ^ for MAX, v for
            MIN, = for MED, + for SM. The operation's own bracket is a character more then.

    Returns:
        text: list of n str; y int64 (n,): the value, 0 to 9.

    Raises:
        ArgumentError: a number out of range, or lengths that these depths and arguments do not reach.

    References:
        Nangia and Bowman, ListOps (2018); Tay et al., Long Range Arena (2021).

    >>> data = listops(2, seed=3, max_depth=2, max_args=3, min_length=7, max_length=9)
    >>> data["text"], data["y"]
    (['[MAX 5 [MIN 1 7 ] ]', '[SM 3 [MED 2 6 2 ] ]'], array([5, 5]))
    """
    expect("n", n, n >= 1, "at least 1 item")
    expect("seed", seed, seed >= 0, "0 or more")
    expect("max_depth", max_depth, max_depth >= 1, "at least 1 level")
    expect("max_args", max_args, max_args >= 2, "at least 2 arguments")
    expect("max_length", max_length, max_length >= max(min_length, 4), f"at least {max(min_length, 4)} tokens")
    drawer = _Drawer(np.random.default_rng(seed), max_depth, max_args, max_length)
    texts, values = [], []
    for _ in range(n):
        tokens, value = drawer.expression(min_length)
        texts.append("".join(map(_character, tokens)) if compact else " ".join(tokens))
        values.append(value)
    return {"text": texts, "y": np.array(values, np.int64)}


def _character(token: str) -> str:
    """A token in one character, an operation in two: its bracket and its symbol."""
    return f"({SYMBOLS[token[1:]]}" if token.startswith("[") else token.replace("]", ")")


class _Drawer:
    """Draws expressions; its chance comes in blocks, since single draws of numpy are slow."""

    def __init__(self, chance: np.random.Generator, max_depth: int, max_args: int, max_length: int) -> None:
        self._chance, self._block, self._at = chance, [0.0], 1
        self.max_depth, self.max_args, self.max_length = max_depth, max_args, max_length
        self._names = list(OPERATIONS)
        self.tokens: list[str] = []

    def expression(self, min_length: int) -> tuple[list[str], int]:
        for _ in range(TRIES):
            self.tokens = []
            value = self._operation(1)
            if min_length <= len(self.tokens) <= self.max_length:
                return self.tokens, value
        raise ArgumentError(
            f"min_length={min_length}: expected lengths that max_depth={self.max_depth} and max_args={self.max_args} "
            f"reach; none of {TRIES} draws has {min_length} to {self.max_length} tokens"
        )

    def _operation(self, depth: int) -> int:
        name = self._names[self._below(len(self._names))]
        self.tokens.append(f"[{name}")
        values = [self._argument(depth) for _ in range(2 + self._below(self.max_args - 1))]
        self.tokens.append("]")
        return OPERATIONS[name](values)

    def _argument(self, depth: int) -> int:
        """A digit or an operation; digits alone once there are too many tokens, since it is drawn again then."""
        deeper = depth < self.max_depth and len(self.tokens) <= self.max_length
        if deeper and self._uniform() < SHARE:
            return self._operation(depth + 1)
        digit = self._below(10)
        self.tokens.append(str(digit))
        return digit

    def _below(self, count: int) -> int:
        return int(self._uniform() * count)

    def _uniform(self) -> float:
        if self._at >= len(self._block):
            self._block, self._at = self._chance.random(4096).tolist(), 0
        self._at += 1
        return self._block[self._at - 1]
