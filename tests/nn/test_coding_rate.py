"""Coding rates against slow loops from the equations, over both Gram matrices."""

import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import coding_rate, grouped_coding_rate


def slow_rate(rows, weights, total, eps):
    """m / (2 total) log det(I + d / (m eps^2) sum_i w_i z_i z_i^T), item by item, the determinant by eigenvalues."""
    d, m = len(rows[0]), sum(weights)
    if m == 0:
        return 0.0
    matrix = torch.eye(d, dtype=torch.float64)
    for row, weight in zip(rows, weights, strict=True):
        matrix = matrix + d / (m * eps**2) * weight * torch.outer(row, row)
    return m / (2 * total) * sum(math.log(value) for value in torch.linalg.eigvalsh(matrix).tolist())


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5), (1, 4)])
@pytest.mark.parametrize("eps", [0.3, 1.0])
def test_both_rates_by_a_slow_loop(shape, eps):
    torch.manual_seed(0)
    z = torch.randn(shape, dtype=torch.float64)
    n = len(z)
    membership = torch.rand(n, 4, dtype=torch.float64).softmax(1)
    membership[:, 3] = 0  # an empty group
    assert coding_rate(z, eps=eps).item() == pytest.approx(slow_rate(z, [1.0] * n, n, eps))
    expected = sum(slow_rate(z, membership[:, k].tolist(), n, eps) for k in range(4))
    assert grouped_coding_rate(z, membership, eps=eps).item() == pytest.approx(expected)


def test_one_group_is_the_whole_and_more_never_cost_more():
    torch.manual_seed(1)
    z = torch.randn(12, 5)
    whole = coding_rate(z)
    torch.testing.assert_close(grouped_coding_rate(z, torch.ones(12, 1)), whole)
    for k in (2, 5, 12):
        assert grouped_coding_rate(z, torch.randn(12, k).softmax(1)) <= whole + 1e-5


def test_leading_dimensions_are_batches():
    z = torch.randn(2, 3, 6, 4)
    expected = torch.stack([torch.stack([coding_rate(one) for one in row]) for row in z])
    torch.testing.assert_close(coding_rate(z), expected)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_gradients_by_finite_differences(shape):
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    membership = torch.rand(shape[0], 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(coding_rate, z)
    assert torch.autograd.gradcheck(grouped_coding_rate, (z, membership))


def test_a_hard_membership_has_a_finite_gradient():
    z = torch.randn(3, 6)
    membership = torch.eye(3).requires_grad_()
    grouped_coding_rate(z, membership).backward()
    assert torch.isfinite(membership.grad).all()


def test_half_precision_and_autocast_give_what_float32_gives():
    z = torch.randn(20, 6)
    membership = torch.randn(20, 3).softmax(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(coding_rate(z), coding_rate(z.float()))
        cast = grouped_coding_rate(z, membership)
    torch.testing.assert_close(cast, grouped_coding_rate(z, membership))
    assert coding_rate(z.bfloat16()).dtype == torch.float32


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="eps=0"):
        coding_rate(torch.ones(2, 2), eps=0)
    with pytest.raises(ArgumentError, match="z="):
        coding_rate(torch.ones(3))
    with pytest.raises(ArgumentError, match="membership="):
        grouped_coding_rate(torch.ones(3, 2), torch.ones(2, 2))
