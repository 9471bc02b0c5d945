import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog

from tacit.errors import ArgumentError
from tacit.nn import _sinkhorn, sinkhorn


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def plain(scores, epsilon, n_iters, rows, columns):
    """The textbook's iteration in the plain domain: K = exp(scores / epsilon), Q = diag(u) K diag(v)."""
    kernel = np.exp(np.asarray(scores, np.float64) / epsilon)
    u = np.ones(len(rows))
    for _ in range(n_iters):
        v = columns / (kernel.T @ u)
        u = rows / (kernel @ v)
    return torch.from_numpy(u[:, None] * kernel * v)


def transport(scores, rows, columns):
    """The best plan without entropy, by linear programming."""
    n, k = scores.shape
    sums = [np.kron(np.eye(n), np.ones((1, k))), np.kron(np.ones((1, n)), np.eye(k))]
    found = linprog(-scores.ravel(), A_eq=np.vstack(sums), b_eq=np.concatenate([rows, columns]), bounds=(0, None))
    return found.x.reshape(n, k), -found.fun


def cosines(n, k, dim=8):
    return F.normalize(torch.randn(n, dim), dim=1) @ F.normalize(torch.randn(k, dim), dim=1).T


@pytest.mark.parametrize("n_iters", [1, 3, 50])
@pytest.mark.parametrize("given", [False, True])
def test_it_is_the_plain_iteration(n_iters, given):
    scores = torch.randn(7, 4, dtype=torch.float64)
    rows, columns = (torch.rand(n, dtype=torch.float64) + 0.1 if given else torch.ones(n).double() for n in (7, 4))
    expected = plain(scores, 0.3, n_iters, (rows / rows.sum()).numpy(), (columns / columns.sum()).numpy())
    marginals = {"rows": rows, "columns": 5 * columns} if given else {}  # only their shares matter
    torch.testing.assert_close(sinkhorn(scores, epsilon=0.3, n_iters=n_iters, **marginals), expected)


def test_two_by_two_has_a_closed_form():
    """With equal sums Q = [[a, 1/2 - a], [1/2 - a, a]], and (a / (1/2 - a))^2 = exp((s11 + s22 - s12 - s21) / eps)."""
    scores = torch.tensor([[0.3, -0.2], [0.4, 0.1]], dtype=torch.float64)
    a = 0.5 * torch.sigmoid((scores[0, 0] + scores[1, 1] - scores[0, 1] - scores[1, 0]) / (2 * 0.1))
    plan = sinkhorn(scores, epsilon=0.1, tolerance=1e-12)
    torch.testing.assert_close(plan, torch.stack([torch.stack([a, 0.5 - a]), torch.stack([0.5 - a, a])]))


def test_rows_are_exact_and_columns_only_with_a_tolerance():
    scores = cosines(64, 8)
    early, converged = sinkhorn(scores, n_iters=1), sinkhorn(scores, tolerance=1e-4)
    for plan in (early, converged):
        torch.testing.assert_close(plan.sum(1), torch.full((64,), 1 / 64))
    off = [float((plan.sum(0) - 1 / 8).abs().sum()) for plan in (early, converged)]
    assert off[0] > 0.01
    assert off[1] <= 1.01e-4


def test_the_limit_of_small_epsilon_is_the_linear_program():
    scores = torch.rand(6, 3, dtype=torch.float64)
    rows, columns = np.full(6, 1 / 6), np.array([0.45, 0.3, 0.25])
    best, value = transport(scores.numpy(), rows, columns)
    for epsilon in (0.1, 0.03, 0.005):
        plan = sinkhorn(scores, epsilon=epsilon, columns=torch.from_numpy(columns), tolerance=1e-8)
        lost = value - float((plan * scores).sum())
        assert -1e-7 < lost <= epsilon * np.log(18)  # entropy lies between 0 and log(n k)
    torch.testing.assert_close(plan, torch.from_numpy(best), atol=1e-3, rtol=0)


@pytest.mark.parametrize("epsilon", [0.03, 0.05])
def test_float32_and_bfloat16_autocast_give_what_float64_gives(epsilon):
    scores = cosines(500, 100)
    expected = sinkhorn(scores.double(), epsilon=epsilon, n_iters=30).float()
    torch.testing.assert_close(sinkhorn(scores, epsilon=epsilon, n_iters=30), expected, rtol=1e-4, atol=1e-9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = sinkhorn(scores, epsilon=epsilon, n_iters=30)
    torch.testing.assert_close(cast, expected, rtol=1e-4, atol=1e-9)
    rounded = sinkhorn(scores.bfloat16(), epsilon=epsilon, n_iters=3)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.sum(1), torch.full((500,), 1 / 500))


def test_scores_far_beyond_the_range_of_exp():
    """Log-probabilities of a confident network to the power of 25, where exp is 0 in float32 and float64 alike."""
    log_p = (200 * torch.randn(40, 5)).log_softmax(1)
    plan = sinkhorn(log_p, epsilon=0.04, tolerance=1e-3, n_iters=5000)
    assert torch.isfinite(plan).all()
    _, value = transport(log_p.double().numpy(), np.full(40, 1 / 40), np.full(5, 1 / 5))
    assert float((plan * log_p).sum()) == pytest.approx(value, rel=1e-2)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_fewer_rows_than_columns(n):
    plan = sinkhorn(torch.randn(n, 5), tolerance=1e-4)
    torch.testing.assert_close(plan.sum(1), torch.full((n,), 1 / n))
    torch.testing.assert_close(plan.sum(0), torch.full((5,), 1 / 5), atol=1e-4, rtol=0)


def test_a_column_or_row_of_weight_0_gets_nothing():
    plan = sinkhorn(torch.randn(4, 3), rows=torch.tensor([1.0, 1.0, 0.0, 2.0]), columns=torch.tensor([0.0, 1.0, 2.0]),
                    epsilon=0.5, tolerance=1e-5)  # fmt: skip
    assert plan[2].sum() == 0
    assert plan[:, 0].sum() == 0
    torch.testing.assert_close(plan.sum(0), torch.tensor([0.0, 1 / 3, 2 / 3]), atol=1e-5, rtol=0)


def test_gradient_by_finite_differences():
    scores = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: sinkhorn(s, epsilon=0.5, n_iters=5), scores)


def together(monkeypatch, modules, shares, function):
    """Run `function(share)` in a thread for each process, where `gather` exchanges what they bring."""
    barrier, brought = threading.Barrier(len(shares)), [None] * len(shares)
    local, found = threading.local(), [None] * len(shares)

    def gather(x):
        brought[local.rank] = x
        barrier.wait(20)
        everything = torch.cat(brought)
        barrier.wait(20)
        return everything

    def process(rank):
        local.rank = rank
        found[rank] = function(shares[rank])

    for module in modules:
        monkeypatch.setattr(module, "gather", gather)
    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


@pytest.mark.parametrize("tolerance", [None, 1e-6])
def test_processes_with_unequal_shares_make_one_plan(monkeypatch, tolerance):
    scores = torch.randn(8, 3, dtype=torch.float64)
    whole = sinkhorn(scores, epsilon=0.3, tolerance=tolerance)
    parts = together(
        monkeypatch, [_sinkhorn], scores.split([5, 3]), lambda s: sinkhorn(s, epsilon=0.3, tolerance=tolerance)
    )
    torch.testing.assert_close(torch.cat(parts), whole)


def test_a_tolerance_that_is_not_reached_is_said():
    with pytest.warns(RuntimeWarning, match="after 2 iterations"):
        sinkhorn(100 * torch.randn(20, 4), n_iters=2, tolerance=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0}, "epsilon=0"),
        ({"n_iters": 0}, "n_iters=0"),
        ({"tolerance": 0.0}, r"tolerance=0\.0"),
        ({"rows": torch.ones(3)}, "rows.*4 numbers"),
        ({"columns": torch.tensor([1.0, -1.0])}, "columns.*none below 0"),
        ({"columns": torch.zeros(2)}, "not all 0"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        sinkhorn(torch.zeros(4, 2), **settings)
    with pytest.raises(ArgumentError, match="scores"):
        sinkhorn(torch.zeros(4))
