import math
from types import SimpleNamespace

import pytest
import torch

import tacit.losses
from tacit.errors import ArgumentError
from tacit.losses import InfoNCE, NTXent, info_nce, nt_xent


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def nt_xent_by_loops(a, b, temperature):
    """Equation 1 of SimCLR over all ordered positive pairs."""
    z, n = torch.cat([a, b]), len(a)
    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in range(2 * n) if k != i)
        total -= math.log(math.exp(cosine(z[i], z[j]) / temperature) / others)
    return total / (2 * n)


def info_nce_by_loops(queries, keys, temperature, negatives=None):
    """Equation 1 of MoCo; without a queue, the other keys are the negatives."""
    total = 0.0
    for i, q in enumerate(queries):
        rest = negatives if negatives is not None else [k for j, k in enumerate(keys) if j != i]
        positive = math.exp(cosine(q, keys[i]) / temperature)
        total -= math.log(positive / (positive + sum(math.exp(cosine(q, k) / temperature) for k in rest)))
    return total / len(queries)


def some(n=6, d=4, dtype=torch.float64):
    torch.manual_seed(0)
    a = torch.randn(n, d, dtype=dtype)
    return a, a + 0.5 * torch.randn(n, d, dtype=dtype), torch.randn(11, d, dtype=dtype)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 3.0])
def test_values_are_the_equations(temperature):
    a, b, queue = some()
    assert float(nt_xent(a, b, temperature)) == pytest.approx(nt_xent_by_loops(a, b, temperature))
    assert float(info_nce(a, b, temperature)) == pytest.approx(info_nce_by_loops(a, b, temperature))
    assert float(info_nce(a, b, temperature, queue)) == pytest.approx(info_nce_by_loops(a, b, temperature, queue))
    assert torch.equal(NTXent(temperature)(a, b), nt_xent(a, b, temperature))
    assert torch.equal(InfoNCE(temperature)(a, b, queue), info_nce(a, b, temperature, queue))


def test_nt_xent_is_pytorch_metric_learnings():
    peer = pytest.importorskip("pytorch_metric_learning.losses").NTXentLoss(temperature=0.2)
    found = []
    for loss in (nt_xent, lambda a, b, _: peer(torch.cat([a, b]), torch.arange(len(a)).repeat(2))):
        a, b, _ = (tensor.requires_grad_() for tensor in some(n=32, d=8, dtype=torch.float32))
        value = loss(a, b, 0.2)
        value.backward()
        found.append((value, a.grad, b.grad))
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


def test_info_nce_is_cross_entropy_on_the_diagonal():
    a, b, _ = some()
    logits = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T / 0.3
    torch.testing.assert_close(info_nce(a, b, 0.3), torch.nn.functional.cross_entropy(logits, torch.arange(6)))


@pytest.mark.parametrize("n", [2, 5])
def test_closed_forms(n):
    temperature, eye = 0.7, torch.eye(n)
    apart = math.exp(-1 / temperature)
    assert float(nt_xent(eye, eye, temperature)) == pytest.approx(math.log(1 + (2 * n - 2) * apart))
    assert float(info_nce(eye, eye, temperature)) == pytest.approx(math.log(1 + (n - 1) * apart))
    assert float(info_nce(eye, eye, temperature, -eye[:1])) == pytest.approx(
        (math.log(1 + math.exp(-2 / temperature)) + (n - 1) * math.log(1 + apart)) / n
    )
    collapsed = torch.ones(n, 3)
    assert float(nt_xent(collapsed, collapsed)) == pytest.approx(math.log(2 * n - 1))
    assert float(info_nce(collapsed, collapsed)) == pytest.approx(math.log(n))


def test_gradients():
    a, b, queue = (tensor.requires_grad_() for tensor in some(n=3))
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(nt_xent, (a, b, temperature))
    torch.autograd.gradcheck(info_nce, (a, b, temperature))
    torch.autograd.gradcheck(info_nce, (a, b, temperature, queue))


def test_order_of_items_and_of_views_does_not_matter():
    a, b, queue = some()
    order = torch.randperm(6)
    torch.testing.assert_close(nt_xent(a[order], b[order]), nt_xent(a, b))
    torch.testing.assert_close(nt_xent(b, a), nt_xent(a, b))
    torch.testing.assert_close(info_nce(a[order], b[order]), info_nce(a, b))
    torch.testing.assert_close(info_nce(a, b, negatives=queue.flip(0)), info_nce(a, b, negatives=queue))
    assert not torch.isclose(nt_xent(a[order], b), nt_xent(a, b))


@pytest.mark.parametrize("kind", ["zeros", "huge", "tiny", "duplicates", "one zero row"])
@pytest.mark.parametrize("loss", [nt_xent, info_nce])
def test_extreme_embeddings_give_finite_losses_and_gradients(kind, loss):
    a, b, _ = some(dtype=torch.float32)
    if kind == "zeros":
        a, b = torch.zeros_like(a), torch.zeros_like(b)
    if kind == "huge":
        a, b = a * 1e30, b * 1e30
    if kind == "tiny":
        a, b = a * 1e-30, b * 1e-30
    if kind == "duplicates":
        a, b = a[:1].repeat(6, 1), a[:1].repeat(6, 1)
    if kind == "one zero row":
        a[0] = 0
    a.requires_grad_()
    value = loss(a, b, 0.05)
    value.backward()
    assert value.isfinite()
    assert value >= 0
    assert a.grad.isfinite().all()


def test_autocast_does_not_coarsen_the_loss():
    a, b, queue = some(dtype=torch.float32)
    for loss in (lambda: nt_xent(a, b, 0.05), lambda: info_nce(a, b, 0.05), lambda: info_nce(a, b, 0.05, queue)):
        expected = loss()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss(), expected)


@pytest.mark.parametrize("loss", [nt_xent, info_nce])
def test_what_cannot_be_is_said(loss):
    a, b, _ = some()
    with pytest.raises(ArgumentError, match="temperature=0: expected a number above 0"):
        loss(a, b, 0)
    with pytest.raises(ArgumentError, match="no negative"):
        loss(a[:1], b[:1])
    with pytest.raises(ArgumentError, match=r"\(6, 4\), \(5, 4\).*expected two batches of the same shape"):
        loss(a, b[:5])
    with pytest.raises(ArgumentError, match="same shape"):
        loss(a[0], b[0])
    with pytest.raises(ArgumentError, match="temperature"):
        NTXent(0.0)
    with pytest.raises(ArgumentError, match="negatives"):
        info_nce(a, b, negatives=a[:0])


def test_losses_of_systems_are_handed_on(monkeypatch):
    brought = SimpleNamespace(kind="loss", name="ItsLoss", load=lambda: "the class")
    learner = SimpleNamespace(kind="learner", name="ItsLearner", load=lambda: "no loss")
    monkeypatch.setattr(tacit.losses, "systems", lambda: (learner, brought))
    assert tacit.losses.ItsLoss == "the class"
    assert "ItsLoss" in dir(tacit.losses)
    with pytest.raises(AttributeError):
        _ = tacit.losses.ItsLearner
