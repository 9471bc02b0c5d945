import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.losses import MMDLoss, mmd_loss

FACTORS = (0.5, 1.0, 3.0)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def slow_mmd(a, b, factors, unbiased, bandwidth=None):
    """Every pair of rows, from the definition; the bandwidth from every pair of different rows."""
    a, b = a.tolist(), b.tolist()
    rows = a + b
    pairs = [math.dist(p, q) ** 2 for i, p in enumerate(rows) for j, q in enumerate(rows) if i != j]
    h = sum(pairs) / len(pairs) if bandwidth is None else bandwidth

    def k(p, q):
        return sum(math.exp(-(math.dist(p, q) ** 2) / (f * h)) for f in factors) / len(factors)

    def mean(one, other):
        values = [
            k(p, q)
            for i, p in enumerate(one)
            for j, q in enumerate(other)
            if not (unbiased and one is other and i == j)
        ]
        return sum(values) / len(values)

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("bandwidth", [None, 2.0])
def test_value_against_every_pair(unbiased, bandwidth):
    a, b = torch.randn(6, 3, dtype=torch.double), torch.randn(4, 3, dtype=torch.double) + 1
    found = mmd_loss(a, b, factors=FACTORS, unbiased=unbiased, bandwidth=bandwidth)
    assert found.item() == pytest.approx(slow_mmd(a, b, FACTORS, unbiased, bandwidth), rel=1e-9)
    assert mmd_loss(a.float(), b.float(), factors=FACTORS).item() == pytest.approx(
        slow_mmd(a, b, FACTORS, False), abs=1e-5
    )
    assert MMDLoss(FACTORS, unbiased=True)(a, b).item() == pytest.approx(slow_mmd(a, b, FACTORS, True), rel=1e-9)


@pytest.mark.parametrize("unbiased", [False, True])
def test_gradient_by_finite_differences_with_a_fixed_bandwidth(unbiased):
    a = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    b = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: mmd_loss(a, b, bandwidth=1.5, unbiased=unbiased), (a, b))


def test_the_bandwidth_is_a_constant_of_the_gradient():
    a, b = torch.randn(4, 2, dtype=torch.double, requires_grad=True), torch.randn(5, 2, dtype=torch.double)
    rows = torch.cat([a.detach(), b])
    h = torch.pdist(rows).square().mean().item()
    (free,) = torch.autograd.grad(mmd_loss(a, b), a)
    (fixed,) = torch.autograd.grad(mmd_loss(a, b, bandwidth=h), a)
    torch.testing.assert_close(free, fixed)


def test_two_samples_of_one_distribution_are_0_on_average_if_unbiased():
    found = torch.stack([mmd_loss(torch.randn(20, 2), torch.randn(30, 2), unbiased=True) for _ in range(300)])
    assert abs(found.mean()) < 4 * found.std() / 300**0.5


def test_descent_brings_two_clouds_together():
    a, b = (torch.randn(40, 2) + 3).requires_grad_(), torch.randn(40, 2)
    before, optimizer = mmd_loss(a, b).item(), torch.optim.Adam([a], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        mmd_loss(a, b).backward()
        optimizer.step()
    assert mmd_loss(a, b).item() < 0.1 * before
    assert (a.mean(0) - b.mean(0)).norm() < 1  # 4.2 before


def test_far_equal_and_huge_rows_are_finite():
    same = torch.ones(3, 2, requires_grad=True)
    loss = mmd_loss(same, torch.ones(4, 2))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-7)
    assert torch.isfinite(same.grad).all()
    assert torch.isfinite(mmd_loss(1e6 * torch.eye(3), torch.zeros(2, 3)))


def test_wrong_shapes_are_named():
    with pytest.raises(ArgumentError, match="shape"):
        mmd_loss(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ArgumentError, match="at least 2"):
        mmd_loss(torch.zeros(1, 2), torch.zeros(3, 2), unbiased=True)
    with pytest.raises(ArgumentError, match="factors"):
        mmd_loss(torch.zeros(2, 2), torch.zeros(3, 2), factors=())
