import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.evaluate import neighbour_stability, view_retrieval


def neighbour_sets(x, k):
    x = np.asarray(x, dtype=np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = x @ x.T
    np.fill_diagonal(cosines, -np.inf)
    return [set(np.argsort(-row)[:k].tolist()) for row in cosines]


def test_stability_equals_set_intersections():
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(120, 6, generator=generator)
    after = before + 0.4 * torch.randn(120, 6, generator=generator)
    old, new = neighbour_sets(before, 9), neighbour_sets(after, 9)
    shares = [len(a & b) / 9 for a, b in zip(old, new, strict=True)]
    score = neighbour_stability(before, after, 9)
    assert score.value == pytest.approx(np.mean(shares))
    half = 1.9801 * np.std(shares, ddof=1) / np.sqrt(120)
    assert score.high - score.value == pytest.approx(half, rel=1e-3)


def test_unrelated_embeddings_agree_by_chance_only():
    generator = torch.Generator().manual_seed(0)
    score = neighbour_stability(
        torch.randn(1000, 8, generator=generator), torch.randn(1000, 5, generator=generator), 20
    )
    assert score.value == pytest.approx(20 / 999, abs=0.01)
    assert score.low < 20 / 999 < score.high


def test_view_retrieval_equals_argmax_and_falls_to_chance_on_collapse():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(200, 4, generator=generator)
    b = a + 0.5 * torch.randn(200, 4, generator=generator)
    cosines = torch.nn.functional.normalize(b, dim=1) @ torch.nn.functional.normalize(a, dim=1).T
    expected = (cosines.argmax(dim=1) == torch.arange(200)).double().mean()
    assert view_retrieval(a, b).value == pytest.approx(float(expected))
    assert view_retrieval(torch.ones(200, 4), torch.ones(200, 4)).value == 1 / 200


def test_refuses():
    with pytest.raises(ArgumentError, match="after: expected 5 rows"):
        neighbour_stability(torch.eye(5), torch.eye(4), 2)
    with pytest.raises(ArgumentError, match="n_neighbors=5: expected from 1 to 4"):
        neighbour_stability(torch.eye(5), torch.eye(5), 5)
    with pytest.raises(ArgumentError, match="b: expected finite"):
        view_retrieval(torch.eye(5), torch.eye(5) * float("inf"))
