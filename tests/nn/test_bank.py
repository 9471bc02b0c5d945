"""The bank against a loop over items."""

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.learner import load_state
from tacit.nn import MemoryBank, _bank


def test_it_is_a_moving_average_on_the_sphere():
    torch.manual_seed(0)
    bank = MemoryBank(7, 4, momentum=0.7)
    expected = [v.clone() for v in bank.items]
    for _ in range(5):
        index, seen = torch.randperm(7)[:3], 5 * torch.randn(3, 4)
        bank.update(index, seen)
        for i, f in zip(index.tolist(), seen, strict=True):
            moved = 0.7 * expected[i] + 0.3 * f / f.norm()
            expected[i] = moved / moved.norm()
    torch.testing.assert_close(bank.items, torch.stack(expected))


def test_it_starts_evenly_on_the_sphere_and_takes_its_saved_size():
    torch.manual_seed(0)
    bank = MemoryBank(0, 8)
    bank.reset(5000)
    torch.testing.assert_close(bank.items.norm(dim=1), torch.ones(5000))
    covariance = bank.items.T @ bank.items / 5000
    torch.testing.assert_close(covariance, torch.eye(8) / 8, atol=0.01, rtol=0)
    other = MemoryBank(0, 8)
    load_state(other, bank.state_dict())
    assert torch.equal(other.items, bank.items)


def test_the_bank_takes_what_every_process_saw(monkeypatch):
    torch.manual_seed(0)
    bank, whole = MemoryBank(4, 3), MemoryBank(4, 3)
    whole.items.copy_(bank.items)
    index, seen = torch.tensor([2, 0]), torch.randn(2, 3)
    gathered = iter([index, seen])
    monkeypatch.setattr(_bank, "gather", lambda x: next(gathered))
    bank.update(index[:1], seen[:1])
    monkeypatch.setattr(_bank, "gather", lambda x: x)
    whole.update(index, seen)
    assert torch.equal(bank.items, whole.items)


def test_what_cannot_be_is_refused():
    bank = MemoryBank(3, 2)
    with pytest.raises(ArgumentError, match="items of a bank of 3"):
        bank.update(torch.tensor([3]), torch.ones(1, 2))
    with pytest.raises(ArgumentError, match=r"\(b, 2\)"):
        bank.update(torch.tensor([1]), torch.ones(1, 3))
    with pytest.raises(ArgumentError, match="momentum=1"):
        MemoryBank(3, 2, momentum=1)
