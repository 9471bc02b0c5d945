import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.losses import KoLeoLoss, _koleo, koleo_loss


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def slow_koleo(z, eps=1e-8):
    """Every pair of items, on the sphere."""
    rows = [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in z.tolist()]
    total = 0.0
    for i, row in enumerate(rows):
        total -= math.log(min(math.dist(row, other) for j, other in enumerate(rows) if j != i) + eps)
    return total / len(rows)


@pytest.mark.parametrize("block_size", [None, 1, 3])
def test_loss_against_every_pair(block_size):
    z = torch.randn(7, 3)
    assert koleo_loss(z, block_size=block_size).item() == pytest.approx(slow_koleo(z), rel=1e-5)
    assert KoLeoLoss()(z).item() == pytest.approx(slow_koleo(z), rel=1e-5)


def test_gradient_by_finite_differences():
    z = torch.randn(6, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(koleo_loss, z)


def test_its_minimum_on_the_circle_is_the_regular_polygon():
    """n points that part from each other end 2 sin(pi / n) apart."""
    z = torch.randn(5, 2, requires_grad=True)
    optimizer = torch.optim.Adam([z], lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        loss = koleo_loss(z)
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(-math.log(2 * math.sin(math.pi / 5)), abs=0.02)


def test_it_estimates_the_entropy_of_the_uniform_circle():
    """Kozachenko and Leonenko in one dimension: H = mean log r + log 2 + log(n - 1) + Euler's constant = log(2 pi)."""
    n = 4000
    angle = 2 * math.pi * torch.rand(n, dtype=torch.double)
    mean_log = -koleo_loss(torch.stack([angle.cos(), angle.sin()], 1), eps=0.0).item()
    assert mean_log + math.log(2 * (n - 1)) + 0.57721 == pytest.approx(math.log(2 * math.pi), abs=0.06)


def test_equal_items_are_finite_and_pull_no_gradient():
    z = torch.ones(4, 3, requires_grad=True)
    loss = koleo_loss(z)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-8), rel=1e-4)
    assert torch.equal(z.grad, torch.zeros(4, 3))


def test_close_items_keep_their_digits_under_autocast():
    z = torch.tensor([[1.0, 0.0], [1.0, 1e-3], [-1.0, 0.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert koleo_loss(z).item() == pytest.approx(slow_koleo(z), rel=1e-4)


def test_neighbours_among_all_processes(monkeypatch):
    z, losses = torch.randn(6, 3), []
    for process, half in enumerate((slice(0, 3), slice(3, 6))):
        monkeypatch.setattr(_koleo, "gather", lambda x: torch.nn.functional.normalize(z, dim=1))
        monkeypatch.setattr(_koleo, "rank", lambda process=process: process)
        losses.append(koleo_loss(z[half], everywhere=True).item())
    assert sum(losses) / 2 == pytest.approx(slow_koleo(z), rel=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="at least 2 items"):
        koleo_loss(torch.randn(1, 3))
    with pytest.raises(ArgumentError, match="shape"):
        koleo_loss(torch.randn(3))
