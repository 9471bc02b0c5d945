import numpy as np
import pytest

from tacit.errors import ArgumentError
from tacit.report._typical import least_typical, typicality


def test_equals_the_definition():
    x = np.random.default_rng(0).normal(size=(60, 5))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = [np.sort(np.delete(unit @ unit[i], i))[-7:].mean() for i in range(60)]
    np.testing.assert_allclose(typicality(x, n_neighbors=7), expected, atol=1e-6)


def test_planted_odd_items_are_least_typical():
    rng = np.random.default_rng(0)
    x = np.array([5.0, 0, 0, 0]) + rng.normal(size=(200, 4))
    odd = [3, 77, 150]
    x[odd] = [[-5, 1, 0, 0], [0, -1, -6, 0], [0, 0, 1, 7]]
    assert set(least_typical(x, 3).tolist()) == set(odd)
    assert len(least_typical(x, 1000)) == 200


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_items(n):
    assert typicality(np.ones((n, 3))).tolist() == pytest.approx([1.0] * n)


def test_refuses():
    with pytest.raises(ArgumentError, match="vectors: expected finite"):
        typicality(np.full((3, 2), np.nan))
    with pytest.raises(ArgumentError, match="n_neighbors=0: expected at least 1"):
        typicality(np.eye(3), n_neighbors=0)
