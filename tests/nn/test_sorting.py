"""The relaxed sort against one of a single row in plain Python, and torch.sort in its limit; and what P has to be."""

import itertools
import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import relaxed_sort, relaxed_top_k

EACH = [(relaxation, network) for relaxation in ("cauchy", "logistic") for network in ("odd-even", "bitonic")]
each = pytest.mark.parametrize(("relaxation", "network"), EACH)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def slow_comparisons(size, network):
    """The comparisons (lower place, upper place) in order, from the definitions of the two networks."""
    if network == "odd-even":
        return [(i, i + 1) for layer in range(size) for i in range(layer % 2, size - 1, 2)]

    def sort(low, n):  # of a power of two: halves sorted, then merged with the second half turned round
        if n == 1:
            return []
        half = n // 2
        mirror = [(low + i, low + n - 1 - i) for i in range(half)]
        return sort(low, half) + sort(low + half, half) + mirror + merge(low, half) + merge(low + half, half)

    def merge(low, n):
        half = n // 2
        pairs = [(low + i, low + i + half) for i in range(half)]
        return pairs + merge(low, half) + merge(low + half, half) if n > 1 else []

    whole = 2 ** math.ceil(math.log2(size))
    return [(i, j) for i, j in sort(0, whole) if j < size]


def slow_sort(row, steepness, relaxation, network):
    """One row, one comparison at a time: values as numbers, and the permutation's rows as lists."""
    f = (lambda d: math.atan(steepness * d) / math.pi + 0.5) if relaxation == "cauchy" else None
    f = f or (lambda d: 1 / (1 + math.exp(-steepness * d)))
    x, p = list(row), torch.eye(len(row), dtype=torch.float64).tolist()
    for i, j in slow_comparisons(len(row), network):
        a, b = x[i], x[j]
        stays = f(b - a)
        x[i], x[j] = stays * a + (1 - stays) * b, (1 - stays) * a + stays * b
        p[i], p[j] = (
            [stays * u + (1 - stays) * v for u, v in zip(p[i], p[j], strict=True)],
            [(1 - stays) * u + stays * v for u, v in zip(p[i], p[j], strict=True)],
        )
    return x, p


@each
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 11])
def test_rows_are_sorted_as_one_by_one(size, relaxation, network):
    x = torch.randn(4, size, dtype=torch.float64)
    values, p = relaxed_sort(x, steepness=3.0, relaxation=relaxation, network=network)
    for row, found, matrix in zip(x, values, p, strict=True):
        expected, expected_p = slow_sort(row.tolist(), 3.0, relaxation, network)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(matrix, torch.tensor(expected_p, dtype=torch.float64))


@each
@pytest.mark.parametrize("size", [4, 7, 16])
def test_in_the_limit_it_is_torch_sort(size, relaxation, network):
    x = torch.stack([torch.randperm(size) for _ in range(50)]).double()
    values, p = relaxed_sort(x, steepness=1e9, relaxation=relaxation, network=network)
    expected, order = x.sort(1)
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(p.round().argmax(2), order)
    torch.testing.assert_close(p, p.round(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("network", ["odd-even", "bitonic"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 9, 10])
def test_the_networks_sort_every_list_of_zeros_and_ones(size, network):
    """Then they sort every list (Knuth, The Art of Computer Programming, vol. 3, 5.3.4, theorem Z)."""
    x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=size)))
    values, _ = relaxed_sort(x, steepness=1e6, relaxation="logistic", network=network)
    assert torch.equal(values.round(), x.sort(1).values)


@each
@pytest.mark.parametrize("steepness", [0.1, 1.0, 30.0])
def test_the_permutation_is_doubly_stochastic_and_makes_the_values(steepness, relaxation, network):
    x = torch.randn(20, 9, dtype=torch.float64)
    values, p = relaxed_sort(x, steepness=steepness, relaxation=relaxation, network=network)
    one = torch.ones(20, 9, dtype=torch.float64)
    torch.testing.assert_close(p.sum(1), one)
    torch.testing.assert_close(p.sum(2), one)
    assert p.min() >= 0
    torch.testing.assert_close((p @ x[:, :, None])[:, :, 0], values)


@each
def test_top_k_is_the_sum_of_the_last_rows(relaxation, network):
    x = torch.randn(20, 7, dtype=torch.float64)
    words = {"steepness": 2.0, "relaxation": relaxation, "network": network}
    _, p = relaxed_sort(x, **words)
    for k in (1, 3, 7):
        torch.testing.assert_close(relaxed_top_k(x, k, **words), p[:, -k:].sum(1))


@each
def test_gradients_by_finite_differences(relaxation, network):
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    words = {"steepness": 2.0, "relaxation": relaxation, "network": network}
    assert torch.autograd.gradcheck(lambda x: relaxed_sort(x, **words), (x,))
    assert torch.autograd.gradcheck(lambda x: relaxed_top_k(x, 2, **words), (x,))


def test_a_cauchy_minimum_rises_with_both_and_a_logistic_one_does_not():
    """The theorem of arXiv:2203.09630, on a grid: for logistic swaps a larger b can lower the soft minimum."""
    grid = torch.linspace(-20, 20, 401, dtype=torch.float64)
    x = torch.stack([torch.zeros_like(grid), grid], 1)
    lowest = {name: relaxed_sort(x, steepness=1.0, relaxation=name)[0][:, 0] for name in ("cauchy", "logistic")}
    assert (lowest["cauchy"].diff() >= 0).all()
    assert (lowest["logistic"].diff() < -1e-3).any()
    assert lowest["cauchy"].abs()[grid > 0].max() <= 1 / math.pi  # and its error is bounded by 1 / (pi steepness)


def test_half_precision_and_a_call_after_inference_mode():
    x = torch.randn(3, 6)
    with torch.inference_mode():
        relaxed_sort(x)
    x.requires_grad_()
    relaxed_sort(x)[0].square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert relaxed_sort(x.bfloat16())[0].dtype == torch.float32


def test_what_cannot_be_is_refused():
    x = torch.zeros(2, 3)
    with pytest.raises(ArgumentError, match="did you mean 'cauchy'"):
        relaxed_sort(x, relaxation="cauchi")
    with pytest.raises(ArgumentError, match="network='quick'"):
        relaxed_sort(x, network="quick")
    with pytest.raises(ArgumentError, match="steepness=0"):
        relaxed_sort(x, steepness=0)
    with pytest.raises(ArgumentError, match=r"x=\(3,\)"):
        relaxed_sort(x[0])
    with pytest.raises(ArgumentError, match="k=4"):
        relaxed_top_k(x, 4)
