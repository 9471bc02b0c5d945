import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.evaluate import _neighbours as module
from tacit.evaluate import approximate_neighbours, neighbours


def brute_force(queries, reference, k, metric, exclude_self):
    """Every pair by the definition in float64, ordered by (score descending, row ascending)."""
    scores, rows = [], []
    for i, q in enumerate(queries.double()):
        found = []
        for j, r in enumerate(reference.double()):
            if exclude_self and i == j:
                continue
            if metric == "cosine":
                score = float(q @ r / (q.norm() * r.norm()))
            elif metric == "dot":
                score = float(q @ r)
            else:
                score = -float((q - r).norm())
            found.append((-score, j))
        found.sort()
        scores.append([-s for s, _ in found[:k]])
        rows.append([j for _, j in found[:k]])
    return torch.tensor(scores), torch.tensor(rows)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_equals_brute_force_in_many_blocks(metric, exclude_self, monkeypatch):
    monkeypatch.setattr(module, "_QUERY_BLOCK", 7)
    monkeypatch.setattr(module, "_REFERENCE_BLOCK", 11)
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    scores, rows = neighbours(x, x, 13, metric=metric, exclude_self=exclude_self)
    expected_scores, expected_rows = brute_force(x, x, 13, metric, exclude_self)
    assert rows.equal(expected_rows)
    torch.testing.assert_close(scores, expected_scores.float(), atol=1e-5, rtol=1e-5)


def test_ties_go_to_the_first_rows(monkeypatch):
    monkeypatch.setattr(module, "_REFERENCE_BLOCK", 6)
    # whole numbers in few values, so that dot products tie often and exactly, within and over blocks
    generator = torch.Generator().manual_seed(1)
    queries = torch.randint(-1, 2, (40, 3), generator=generator).float()
    reference = torch.randint(-1, 2, (50, 3), generator=generator).float()
    for k in (1, 4, 9, 50):
        _, rows = neighbours(queries, reference, k, metric="dot")
        assert rows.equal(brute_force(queries, reference, k, "dot", False)[1])


def test_small_euclidean_distances_keep_their_digits():
    x = torch.tensor([[1000.0, 0.0], [1000.0, 1e-3], [0.0, 0.0]], dtype=torch.float64)
    scores, rows = neighbours(x.float(), x.float(), 1, metric="euclidean", exclude_self=True)
    assert rows[:2].flatten().tolist() == [1, 0]
    assert scores[0].item() == pytest.approx(-1e-3, rel=1e-5)


def test_approximate_finds_nearly_all_and_never_the_row_itself():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 6, generator=generator) @ torch.randn(6, 32, generator=generator)
    for metric in ("cosine", "euclidean"):
        scores, rows = approximate_neighbours(x, 10, metric=metric, exact_up_to=100)
        true_scores, true_rows = neighbours(x, x, 10, metric=metric, exclude_self=True)
        assert not (rows == torch.arange(3000)[:, None]).any()
        recall = (rows[:, :, None] == true_rows[:, None]).any(dim=2).double().mean()
        assert recall > 0.85
        hit = rows[:, 0] == true_rows[:, 0]
        torch.testing.assert_close(scores[hit, 0], true_scores[hit, 0])


def test_approximate_is_exact_when_all_cells_are_looked_at_and_survives_equal_points():
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    _, rows = approximate_neighbours(x, 5, probes=20, exact_up_to=100)
    assert rows.equal(neighbours(x, x, 5, exclude_self=True)[1])
    same = torch.cat([torch.ones(300, 4), torch.randn(5, 4)])
    scores, rows = approximate_neighbours(same, 7, exact_up_to=100)
    assert not (rows == torch.arange(305)[:, None]).any()
    torch.testing.assert_close(scores[:300], torch.ones(300, 7))


def test_numpy_and_half_precision_are_taken():
    x = np.eye(4)
    assert neighbours(x, x, 1)[1].flatten().tolist() == [0, 1, 2, 3]
    assert neighbours(torch.eye(4).half(), torch.eye(4).half(), 1)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.eye(3), torch.eye(4), 1), "reference: expected 3 columns"),
        ((torch.eye(3), torch.eye(3), 4), "k=4: expected from 1 to 3"),
        ((torch.eye(3), torch.eye(3) * float("nan"), 1), "reference: expected finite numbers"),
        ((torch.ones(3), torch.eye(3), 1), "queries: expected one row of numbers per item"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        neighbours(*arguments)
    with pytest.raises(ArgumentError, match="did you mean 'cosine'"):
        neighbours(torch.eye(3), torch.eye(3), 1, metric="cosin")
