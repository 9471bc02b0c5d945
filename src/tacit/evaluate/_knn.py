"""Weighted k-nearest-neighbour classification of frozen features (Wu et al., "Instance Discrimination", 2018)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tacit.errors import expect
from tacit.evaluate._arrays import Array, labels, matrix, standardised
from tacit.evaluate._estimates import Score, wilson
from tacit.evaluate._neighbours import neighbours


def knn_predict(
    train_x: Array, train_y: Array, test_x: Array, *, n_neighbors: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """The class that the nearest training items vote for, item by item.

    Features are standardised with the mean and deviation of `train_x`; item j with cosine s_j votes for its class with
    the weight exp(s_j / temperature). A draw goes to the class that sorts first.

    Args:
        train_x: (n, d).
        train_y: (n,) class numbers or names.
        test_x: (m, d).
        n_neighbors: k; where n is smaller, all vote.
        temperature: above 0; the smaller, the more the nearest count.

    Returns:
        (m,) predicted classes, in the type of `train_y`.

    Raises:
        ArgumentError: shapes that do not match, NaN, k < 1, temperature <= 0.

    Source: Wu, Xiong, Yu & Lin, "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018,
    section 3.4. Standardising is ours.

    >>> corners = np.array([[0.0, 0.0], [0.0, 1.0], [4.0, 4.0], [4.0, 5.0]])
    >>> knn_predict(corners, np.array(["low", "low", "high", "high"]), corners + 0.1, n_neighbors=2).tolist()
    ['low', 'low', 'high', 'high']
    """
    train_x = matrix("train_x", train_x)
    test_x = matrix("test_x", test_x, width=train_x.shape[1])
    classes, y = np.unique(labels("train_y", train_y, len(train_x)), return_inverse=True)
    expect("n_neighbors", n_neighbors, n_neighbors >= 1, "at least 1")
    expect("temperature", temperature, temperature > 0, "a number above 0")
    train_x, test_x = standardised(train_x, test_x)
    scores, rows = neighbours(test_x, train_x, min(n_neighbors, len(train_x)))
    # counted from each item's best neighbour, so that no temperature overflows; it scales all its votes alike
    weights = ((scores - scores[:, :1]) / temperature).exp().cpu()
    voted_for = torch.from_numpy(y)[rows.cpu()]
    return classes[_winners(weights, voted_for, len(classes)).numpy()]


def knn_accuracy(
    train_x: Array,
    train_y: Array,
    test_x: Array,
    test_y: Array,
    *,
    n_neighbors: int = 20,
    temperature: float = 0.07,
) -> Score:
    """Share of test items whose class `knn_predict` finds, with Wilson's 95 % interval; arguments as there.

    Raises:
        ArgumentError: as `knn_predict`, or fewer than two classes in `train_y`.

    >>> x, y = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    >>> print(knn_accuracy(x + 9 * y[:, None], y, x + 9 * y[:, None], y))
    100.0 % (94.0-100.0)
    """
    train_y = labels("train_y", train_y, len(train_x), at_least=2)
    test_y = labels("test_y", test_y, len(test_x))
    predicted = knn_predict(train_x, train_y, test_x, n_neighbors=n_neighbors, temperature=temperature)
    return wilson(int((predicted == test_y).sum()), len(test_y))


def _winners(weights: Tensor, voted_for: Tensor, n_classes: int, block: int = 4096) -> Tensor:
    found = []
    for weight, vote in zip(weights.split(block), voted_for.split(block), strict=True):
        votes = weight.new_zeros(len(weight), n_classes).scatter_add_(1, vote, weight)
        found.append(votes.argmax(dim=1))
    return torch.cat(found)
