"""Coloured digits: labels that a digit's shape explains by halves and its colour better, until the colour turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tacit.errors import expect

__all__ = ["colored_digits"]


def colored_digits(
    images: np.ndarray,
    digits: np.ndarray,
    *,
    flips: Sequence[float] = (0.1, 0.2),
    label_noise: float = 0.25,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """ColoredMNIST (Arjovsky et al., Invariant Risk Minimization, 2019, section 5.2) of grey digits.

    The label says whether the digit is below 5, wrongly for a share `label_noise`. The colour is the label, but for a
    share of `flips` that differs from environment to environment. So a classifier by shape is right in 0.75 of all
    items everywhere; one by colour in 0.9 and 0.8 of the usual training environments, and in 0.1 where `flips=(0.9,)`.

    Args:
        images: uint8 (n, 1, h, w) or (n, h, w); every second pixel of every second row is kept.
        digits: 0 to 9, (n,).
        flips: share of items of the other colour in each environment, in [0, 1]; items are dealt out in turn.
        label_noise: share of wrong labels, in [0, 1].
        seed: draws labels and colours.

    Returns:
        x uint8 (n, 2, h / 2, w / 2), one channel empty; y (1 for digits below 5, before noise), domain (number of the
        environment) and colour (number of the channel with ink), int64 (n,) each.

    Raises:
        ArgumentError: no environment, a share outside [0, 1], or not one digit an image.

    >>> columns = colored_digits(np.full((4, 1, 28, 28), 255, np.uint8), np.array([1, 8, 3, 9]), flips=(0, 1))
    >>> columns["x"].shape, columns["domain"].tolist(), (columns["y"] == columns["colour"]).tolist()
    ((4, 2, 14, 14), [0, 1, 0, 1], [True, False, True, False])
    """
    images, digits = np.asarray(images), np.asarray(digits)
    grey = images.ndim == 3 or (images.ndim == 4 and images.shape[1] == 1)
    expect("images.shape", images.shape, grey, "(n, 1, h, w) or (n, h, w)")
    shares = (*flips, label_noise)
    expect("flips", tuple(flips), len(flips) > 0, "a share for each environment, at least one")
    expect("flips, label_noise", shares, all(0 <= share <= 1 for share in shares), "shares between 0 and 1")
    n = len(images)
    expect("digits.shape", digits.shape, digits.shape == (n,), f"({n},), a digit for each image")
    # raw words, which no version of numpy changes
    chance = (np.random.PCG64(seed).random_raw(2 * n) >> np.uint64(11)).reshape(2, n) * 2.0**-53
    domain = np.arange(n) % len(flips)
    y = (digits < 5) ^ (chance[0] < label_noise)
    colour = y ^ (chance[1] < np.asarray(flips)[domain])
    half = images.reshape(n, *images.shape[-2:])[:, ::2, ::2]
    x = np.zeros((n, 2, *half.shape[1:]), np.uint8)
    x[np.arange(n), colour.astype(np.int64)] = half
    return {"x": x, "y": y.astype(np.int64), "domain": domain.astype(np.int64), "colour": colour.astype(np.int64)}
