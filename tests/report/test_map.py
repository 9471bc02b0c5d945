import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError, MissingExtra
from tacit.report._map import (
    _affinities,
    _all_pairs,
    _cubic_weights,
    _descend,
    _Mesh,
    _principal_components,
    neighbour_map,
)


def nearest(x, k):
    distances = torch.cdist(x.double(), x.double())
    distances.fill_diagonal_(float("inf"))
    return distances.topk(k, largest=False).indices


def preserved(x, y, k=15):
    """Mean share of the k nearest in x that are among the k nearest in y."""
    old, new = nearest(torch.as_tensor(x), k), nearest(torch.as_tensor(y), k)
    return float((old[:, :, None] == new[:, None]).any(dim=2).double().mean())


def pca(x):
    centred = x - x.mean(dim=0)
    return centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T


def blobs():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 10
    return 4 * torch.randn(10, 50, generator=generator)[y] + torch.randn(600, 50, generator=generator), y


def swiss_roll():
    generator = torch.Generator().manual_seed(0)
    turn = 1.5 * torch.pi * (1 + 2 * torch.rand(800, generator=generator))
    return torch.stack([turn * turn.cos(), 21 * torch.rand(800, generator=generator), turn * turn.sin()], dim=1)


def test_keeps_neighbours_far_better_than_principal_components():
    x, y = blobs()
    unit = torch.nn.functional.normalize(x, dim=1)
    placed = torch.from_numpy(neighbour_map(x))
    assert preserved(unit, placed) > 0.45 > 0.35 > preserved(unit, pca(unit))
    assert (y[nearest(placed, 5)] == y[:, None]).double().mean() > 0.99
    roll = swiss_roll()
    assert preserved(roll, neighbour_map(roll, metric="euclidean")) > 0.8 > 0.65 > preserved(roll, pca(roll))


@pytest.mark.parametrize(("n", "d"), [(20, 5), (100, 50), (300, 50)])
def test_points_without_clusters_are_kept_at_least_as_well_as_by_scikit_learn(n, d):
    """Early exaggeration would draw such graphs into one point, from which nothing comes back."""
    from sklearn.manifold import TSNE

    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    k = min(15, (n - 1) // 3)
    peer = TSNE(init="pca", perplexity=k, random_state=0).fit_transform(x.numpy())
    assert preserved(x, neighbour_map(x, metric="euclidean"), k) > preserved(x, peer, k) - 0.02


def test_digits_are_trustworthy():
    from sklearn.datasets import load_digits
    from sklearn.manifold import trustworthiness

    digits = load_digits().data[:1000].astype(np.float32)
    placed = neighbour_map(digits)
    assert trustworthiness(digits, placed, n_neighbors=15, metric="cosine") > 0.95


def test_descends_the_gradient_of_the_divergence():
    """-4 times the force is the gradient of KL(p || q), by autograd from the definition."""
    x, _ = blobs()
    rows = nearest(x[:60], 5)
    pairs, p = _affinities(rows)
    y = torch.randn(60, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    dense = torch.zeros(60, 60, dtype=torch.float64)
    for i in range(60):
        for j in rows[i].tolist():
            dense[i, j] += 1 / (2 * 60 * 5)
            dense[j, i] += 1 / (2 * 60 * 5)
    assert float(dense.sum()) == pytest.approx(1)
    weights = 1 / (1 + torch.cdist(y, y).square())
    q = weights * (1 - torch.eye(60))
    q = q / q.sum()
    present = dense > 0
    (dense[present] * (dense[present] / q[present]).log()).sum().backward()
    start = y.detach().clone()
    moved = _descend(start, pairs, p.double(), steps=1, progress=None)
    pace = 1 / (60 * dense.sum(dim=1, keepdim=True)).clamp(min=1)
    torch.testing.assert_close(moved - start, -1.5 * 60 * pace * y.grad / 4, atol=1e-7, rtol=1e-4)


def test_repulsion_on_the_grid_equals_that_of_all_pairs():
    y = 8 * torch.randn(1200, 2, generator=torch.Generator().manual_seed(0))
    force, total = _Mesh().repulsion(y)
    exact_force, exact_total = _all_pairs(y)
    assert total == pytest.approx(exact_total, rel=3e-3)
    assert (force - exact_force).norm() < 0.06 * exact_force.norm()
    fine = _Mesh()
    fine.SPACING = 0.2
    force, total = fine.repulsion(y)
    assert total == pytest.approx(exact_total, rel=1e-4)
    assert (force - exact_force).norm() < 0.005 * exact_force.norm()


def test_interpolation_is_exact_for_cubics():
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    nodes = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)

    def cubic(t):
        return 2 * t**3 - t**2 + 3 * t - 5

    torch.testing.assert_close(_cubic_weights(u) @ cubic(nodes), cubic(u))


def test_start_equals_the_principal_components_up_to_sign():
    x = torch.randn(300, 20, generator=torch.Generator().manual_seed(0)) * torch.logspace(1, -1, 20)
    found = _principal_components(x, torch.Generator().manual_seed(5))
    for axis in range(2):
        assert abs(np.corrcoef(found[:, axis], pca(x)[:, axis])[0, 1]) > 0.9999


def test_same_seed_same_map():
    x, _ = blobs()
    assert (neighbour_map(x, max_steps=60) == neighbour_map(x, max_steps=60)).all()
    assert (neighbour_map(x.numpy(), max_steps=60, seed=1) != neighbour_map(x, max_steps=60)).any()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9, 20])
def test_few_or_equal_points(n):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
    for vectors in (x, torch.ones(n, 4), torch.zeros(n, 4), x[:, :1]):
        y = neighbour_map(vectors, max_steps=50)
        assert y.shape == (n, 2)
        assert y.dtype == np.float32
        assert np.isfinite(y).all()
        assert np.abs(y.mean(axis=0)).max() < 1e-4


def test_copies_lie_together():
    x, _ = blobs()
    y = neighbour_map(torch.cat([x, x[:30]]), max_steps=300)
    apart = np.linalg.norm(y[:30] - y[600:], axis=1)
    assert np.median(apart) < 0.05 * np.abs(y).max()


def test_says_how_far_it_is():
    told = []
    neighbour_map(blobs()[0], max_steps=5, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_refuses():
    with pytest.raises(ArgumentError, match="vectors: expected finite"):
        neighbour_map(np.full((4, 2), np.nan))
    with pytest.raises(ArgumentError, match=r"method='tnse'.*did you mean 'tsne'"):
        neighbour_map(np.eye(9), method="tnse")
    with pytest.raises(ArgumentError, match="n_neighbors=0"):
        neighbour_map(np.eye(9), n_neighbors=0)


def test_umap_is_asked_for_by_name(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tacit\[viz\]'"):
        neighbour_map(np.eye(9), method="umap")
