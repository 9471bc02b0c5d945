import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tacit.errors import ArgumentError
from tacit.losses import similarity_logsumexp


def by_loops(queries, keys, temperature, excluded=None):
    sums = []
    for i, q in enumerate(queries):
        total = 0.0
        for j, k in enumerate(keys):
            if excluded is None or j not in excluded[i]:
                total += math.exp(float(q @ k / (q.norm() * k.norm())) / temperature)
        sums.append(math.log(total) if total else -math.inf)
    return torch.tensor(sums, dtype=queries.dtype)


def some(n=7, m=9, d=4, dtype=torch.float64):
    torch.manual_seed(0)
    excluded = torch.stack([torch.randperm(m)[:3] for _ in range(n)])
    return torch.randn(n, d, dtype=dtype), torch.randn(m, d, dtype=dtype), excluded


@pytest.mark.parametrize("block_size", [None, 1, 3, 7, 100])
def test_value_is_the_double_loop(block_size):
    queries, keys, excluded = some()
    for out in (None, excluded):
        ours = similarity_logsumexp(queries, keys, 0.3, out, block_size)
        torch.testing.assert_close(ours, by_loops(queries, keys, 0.3, None if out is None else out.tolist()))


@pytest.mark.parametrize("block_size", [1, 3, 100])
@pytest.mark.parametrize("with_excluded", [False, True])
def test_first_and_second_gradients(block_size, with_excluded):
    queries, keys, excluded = some(n=4, m=5, d=3)
    excluded = excluded if with_excluded else None
    temperature = torch.tensor(0.5, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (queries, keys, temperature)]
    torch.autograd.gradcheck(lambda q, k, t: similarity_logsumexp(q, k, t, excluded, block_size), inputs)
    torch.autograd.gradgradcheck(lambda q, k, t: similarity_logsumexp(q, k, t, excluded, block_size), inputs)


def test_the_same_embeddings_on_both_sides_get_both_gradients():
    x, _, _ = some(n=5)
    itself = torch.arange(5)[:, None]
    torch.autograd.gradcheck(lambda x: similarity_logsumexp(x, x, 0.5, itself, 2), [x.requires_grad_()])


def test_blocks_change_nothing_but_the_memory():
    queries, keys, excluded = some(n=301, m=257, d=16, dtype=torch.float32)
    found = []
    for block_size in (1000, 64):
        q, k = queries.clone().requires_grad_(), keys.clone().requires_grad_()
        value = similarity_logsumexp(q, k, 0.1, excluded, block_size)
        value.mean().backward()
        found.append((value, q.grad, k.grad))
    torch.testing.assert_close(*found)


def test_no_tensor_holds_all_pairs():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                self.size = max(self.size, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return result

    n, d = 3000, 8
    x = torch.randn(n, d, requires_grad=True)
    with Largest() as largest:
        similarity_logsumexp(x, x, 0.1, torch.arange(n)[:, None]).mean().backward()
    assert n * d < largest.size <= 2**20 < n * n


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_computed_in_float32_whatever_comes_in(dtype):
    queries, keys, excluded = some(dtype=torch.float32)
    queries, keys = queries.to(dtype).requires_grad_(), keys.to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = similarity_logsumexp(queries, keys, 0.1, excluded)
        value.sum().backward()
    exact = [tensor.detach().double().requires_grad_() for tensor in (queries, keys)]
    expected = similarity_logsumexp(*exact, 0.1, excluded)
    expected.sum().backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, atol=1e-5, rtol=1e-5)
    rounding = max(4 * torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(queries.grad.double(), exact[0].grad, atol=rounding, rtol=rounding)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-10, 1e10, 1e30])
def test_the_length_of_a_row_does_not_matter(scale):
    queries, keys, _ = some(dtype=torch.float32)
    expected = similarity_logsumexp(queries, keys, 0.1)
    scaled = (queries * scale).requires_grad_()
    value = similarity_logsumexp(scaled, keys * max(scale, 1.0), 0.1)
    value.sum().backward()
    assert scaled.grad.isfinite().all()
    if scale > 1e-12:
        torch.testing.assert_close(value, expected)
    elif scale == 0:  # similar to nothing: log m
        torch.testing.assert_close(value, torch.full((7,), math.log(9)))
        assert scaled.grad.abs().max() < 1 / 0.1


def test_low_temperatures_do_not_overflow():
    queries, keys, _ = some(dtype=torch.float32)
    queries.requires_grad_()
    value = similarity_logsumexp(queries, keys, 1e-4)
    value.sum().backward()
    highest = torch.cosine_similarity(queries[:, None], keys[None], dim=2).amax(1) / 1e-4
    torch.testing.assert_close(value, highest)
    assert queries.grad.isfinite().all()


def test_excluding_everything_leaves_nothing_and_no_gradient():
    queries, keys, _ = some(n=3, m=2, dtype=torch.float32)
    queries.requires_grad_()
    excluded = torch.tensor([[0, 0], [0, 1], [1, 1]])
    value = similarity_logsumexp(queries, keys, 0.5, excluded)
    assert value[1] == -torch.inf
    value[[0, 2]].sum().backward()
    assert queries.grad.isfinite().all()
    assert not queries.grad[1].any()


def test_no_query_at_all():
    assert similarity_logsumexp(torch.zeros(0, 3), torch.ones(2, 3), 0.5).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, r"temperature=0.0: expected a number above 0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"keys": torch.ones(2, 5)}, r"\(7, 4\), \(2, 5\)"),
        ({"excluded": torch.zeros(7, dtype=torch.int64)}, "excluded"),
        ({"excluded": torch.zeros(7, 1)}, "torch.float32"),
        ({"block_size": 0}, "block_size=0"),
    ],
)
def test_what_cannot_be_is_said(change, message):
    queries, keys, excluded = some()
    arguments = {"queries": queries, "keys": keys, "temperature": 0.1, "excluded": excluded, **change}
    with pytest.raises(ArgumentError, match=message):
        similarity_logsumexp(**arguments)
