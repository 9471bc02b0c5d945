"""Two-way analysis of variance of a balanced factorial design (Fisher, 1925)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tacit.errors import expect
from tacit.evaluate._arrays import Array


@dataclass(frozen=True)
class Source:
    """One row of the table: where variance comes from.

    Attributes:
        name: of the factor, `interaction` or `residual`.
        degrees: of freedom.
        squares: sum of squares.
        share: of the total sum of squares (eta squared), in [0, 1].
        f: mean square over the residual's; nan for the residual itself, or without replicates.
        p: probability of such an f or a larger one where the factor does nothing.
    """

    name: str
    degrees: int
    squares: float
    share: float
    f: float
    p: float


def two_way_anova(scores: Array, names: tuple[str, str] = ("rows", "columns")) -> list[Source]:
    """How much of the variance of scores two factors explain, each alone and both together.

        total = rows + columns + interaction + residual,   all sums of squares

    With one replicate a cell there is no residual: the interaction then stands in for it, as is usual.

    Args:
        scores: (a, b, r): a levels of the first factor, b of the second, r replicates; a and b at least 2.
        names: of the two factors.

    Raises:
        ArgumentError: another shape, or numbers that are not finite.

    >>> [source.name for source in two_way_anova(np.random.default_rng(0).normal(size=(3, 2, 4)))]
    ['rows', 'columns', 'interaction', 'residual']
    """
    from scipy.stats import f as f_distribution

    y = np.asarray(scores, dtype=np.float64)
    ok = y.ndim == 3 and min(y.shape[:2]) >= 2 and y.shape[2] >= 1 and bool(np.isfinite(y).all())
    expect("scores", y.shape, ok, "finite numbers (a, b, r), a and b at least 2")
    a, b, r = y.shape
    mean, cells = y.mean(), y.mean(axis=2)
    rows, columns = cells.mean(axis=1), cells.mean(axis=0)
    crossed = cells - rows[:, None] - columns + mean
    squares = {
        names[0]: b * r * float(((rows - mean) ** 2).sum()),
        names[1]: a * r * float(((columns - mean) ** 2).sum()),
        "interaction": r * float((crossed**2).sum()),
        "residual": float(((y - cells[:, :, None]) ** 2).sum()),
    }
    degrees = {names[0]: a - 1, names[1]: b - 1, "interaction": (a - 1) * (b - 1), "residual": a * b * (r - 1)}
    error = "residual" if r > 1 else "interaction"
    total, noise = sum(squares.values()), squares[error] / degrees[error]
    found = []
    for name in squares if r > 1 else [*names, "interaction"]:
        tested = name != error and noise > 0
        f = squares[name] / degrees[name] / noise if tested else float("nan")
        p = float(f_distribution.sf(f, degrees[name], degrees[error])) if tested else float("nan")
        found.append(Source(name, degrees[name], squares[name], squares[name] / total if total else 0.0, f, p))
    return found
