import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError
from tacit.theory import attention_direction, attention_svm, train_attention
from tacit.theory._attention_svm import _gradient, selected_tokens


def problem(seed, n=3, T=4, d=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, T, d, generator=generator, dtype=torch.double)
    return x, x[:, 0].clone(), torch.randint(T, (n,), generator=generator)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("norm", ["fro", "nuc"])
def test_against_a_convex_solver(norm, seed):
    x, z, selected = problem(seed)
    W = cp.Variable((5, 5))
    constraints = [
        (x[i, selected[i]] - x[i, t]).numpy() @ W @ z[i].numpy() >= 1
        for i in range(3)
        for t in range(4)
        if t != selected[i]
    ]
    objective = cp.sum_squares(W) if norm == "fro" else cp.normNuc(W)
    cp.Problem(cp.Minimize(objective), constraints).solve(solver="CLARABEL")
    found = attention_svm(x, z, selected, norm=norm).numpy()
    order = norm
    assert np.linalg.norm(found, order) == pytest.approx(np.linalg.norm(W.value, order), rel=1e-4)
    np.testing.assert_allclose(found, W.value, atol=2e-3 * np.abs(W.value).max())
    margins = np.einsum("itd,de,ie->it", x[torch.arange(3), selected][:, None] - x, found, z)
    assert np.sort(margins, axis=1)[:, 1:].min() > 1 - 1e-6


def test_no_solution_is_an_error():
    x, z, _ = problem(0, n=1, T=3, d=2)
    x[0, 2] = (x[0, 0] + x[0, 1]) / 2  # between the others, so never the one that stands out
    with pytest.raises(ArgumentError, match="selected"):
        attention_svm(x, z, torch.tensor([2]))
    with pytest.raises(ArgumentError, match="selected"):  # a twin of the selected token
        attention_svm(x[:, [0, 0, 1]], z, torch.tensor([0]))
    with pytest.raises(ArgumentError, match="norm"):
        attention_svm(x, z, torch.tensor([1]), norm="l1")
    with pytest.raises(ArgumentError, match="tokens"):
        attention_svm(x, z[0], torch.tensor([1]))
    with pytest.raises(ArgumentError, match="selected"):
        attention_svm(x, z, torch.tensor([3]))
    with pytest.raises(ArgumentError, match="init"):
        train_attention(x, z, torch.zeros(1, 3), factored=True)


def test_direction_of_the_gradient_is_that_of_the_loss():
    x, z, _ = problem(1)
    s = torch.randn(3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    W = torch.randn(5, 5, dtype=torch.double, generator=torch.Generator().manual_seed(3)).requires_grad_()
    a = torch.einsum("itd,de,ie->it", x, W, z).softmax(-1)
    nn.functional.softplus(-(a * s).sum(-1)).mean().backward()
    torch.testing.assert_close(attention_direction(_gradient(x, z, s, W.detach())), attention_direction(W.grad))


def test_direction_survives_saturation():
    """Where 1 - a underflows, the direction is the limit: the tightest pair alone, x_top - x_t times z."""
    x, z, _ = problem(4, n=1, T=3)
    s = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.double)
    W = 1e5 * attention_svm(x, z, torch.tensor([0]))
    margins = torch.einsum("td,de,e->t", x[0], W, z[0])
    runner_up = int(margins[1:].argmax()) + 1
    W = W + 1e5 * torch.outer(x[0, runner_up], z[0]) * 1e-2  # no tie
    margins = torch.einsum("td,de,e->t", x[0], W, z[0])
    assert margins.argmax() == 0
    runner_up = int(margins[1:].argmax()) + 1
    expected = attention_direction(torch.outer(x[0, runner_up] - x[0, 0], z[0]))
    torch.testing.assert_close(attention_direction(_gradient(x, z, s, W)), expected)


def test_descent_reaches_the_svm_of_one_input_and_of_two_draws_at_once():
    x, z, _ = problem(5, n=2, T=3)
    s = torch.tensor([[0.0, 1.0, 0.2], [0.1, -1.0, 0.4]], dtype=torch.double)
    W = train_attention(x, z, s, steps=2000)
    expected = attention_svm(x, z, selected_tokens(x, z, W))
    assert (attention_direction(W) * attention_direction(expected)).sum() > 0.999
    both = train_attention(torch.stack([x, -x]), torch.stack([z, -z]), torch.stack([s, s]), steps=50)
    torch.testing.assert_close(both[0], train_attention(x, z, s, steps=50))


def test_factored_descent_is_plain_descent_on_both_factors():
    x, z, _ = problem(6)
    s = torch.randn(3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(7)
    K, Q = (0.1 * torch.randn(5, 5, generator=generator, dtype=torch.double).requires_grad_() for _ in range(2))
    K, Q = K.detach().requires_grad_(), Q.detach().requires_grad_()
    for _ in range(3):
        a = torch.einsum("itd,de,ie->it", x, K @ Q.T, z).softmax(-1)
        grads = torch.autograd.grad(nn.functional.softplus(-(a * s).sum(-1)).mean(), [K, Q])
        size = sum(g.square().sum() for g in grads).sqrt()
        K, Q = ((part - 0.1 * g / size).detach().requires_grad_() for part, g in zip((K, Q), grads, strict=True))
    found = train_attention(x, z, s, factored=True, steps=3, init=0.1, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(found, (K @ Q.T).detach())


def test_direction_of_a_layer_scores_as_the_layer_does():
    layer = nn.MultiheadAttention(8, 2, bias=False)
    x = torch.randn(5, 1, 8)
    weights = attention_direction(layer)
    logits = torch.einsum("td,hde,qe->hqt", x[:, 0], weights, x[:, 0])
    _, a = layer(x, x, x, average_attn_weights=False)
    a = a[0].log()
    for head in range(2):  # equal but for one factor, and a constant for each query
        ours, theirs = (m[head] - m[head].mean(-1, keepdim=True) for m in (logits, a))
        torch.testing.assert_close(ours / ours.norm(), theirs / theirs.norm())
