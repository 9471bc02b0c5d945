import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import ReplayBuffer, langevin


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("noise", [None, 0.05])
def test_chain_of_a_gaussian_has_the_mean_and_variance_of_its_recursion(noise):
    """x' = x + a (m - x) / s^2 + b e is linear: after k steps its mean and variance are geometric sums."""
    mean, deviation, step, k, start = 1.5, 0.7, 0.04, 25, -2.0
    ends = langevin(
        lambda x: -0.5 * ((x - mean) / deviation).square().sum(1),
        torch.full((40_000, 1), start),
        k,
        step_size=step,
        noise=noise,
    )
    kept, b = 1 - step / deviation**2, math.sqrt(2 * step) if noise is None else noise
    expected = mean + kept**k * (start - mean)
    variance = b**2 * (1 - kept ** (2 * k)) / (1 - kept**2)
    assert ends.mean().item() == pytest.approx(expected, abs=4 * math.sqrt(variance / len(ends)))
    assert ends.var().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / len(ends)))


def test_a_long_chain_ends_at_the_stated_variance():
    s, step = 0.5, 0.05
    ends = langevin(lambda x: -0.5 * (x / s).square().sum(1), torch.zeros(20_000, 1), 80, step_size=step)
    assert ends.var().item() == pytest.approx(s**2 / (1 - step / (2 * s**2)), rel=0.05)


def test_without_noise_it_climbs_to_the_mode_and_keeps_within_bounds():
    x = torch.full((3, 2), 0.9)
    top = langevin(lambda x: -(x - 0.3).square().sum(1), x, 60, step_size=0.2, noise=0.0)
    torch.testing.assert_close(top, torch.full((3, 2), 0.3))
    assert (x == 0.9).all()
    far = langevin(lambda x: x.sum(1), x, 50, step_size=0.5, bounds=(0.0, 1.0))
    assert far.min() >= 0
    assert far.max() <= 1


def test_it_runs_without_gradient_and_leaves_parameters_alone():
    network = torch.nn.Linear(2, 1)
    with torch.no_grad():
        ends = langevin(lambda x: -network(x)[:, 0].square(), torch.ones(4, 2), 3, step_size=0.1)
    assert not ends.requires_grad
    assert network.weight.grad is None
    assert langevin(lambda x: x.sum(1), torch.ones(2, 2), 0, step_size=1.0).equal(torch.ones(2, 2))


def test_buffer_gives_and_takes_back_the_same_places():
    buffer = ReplayBuffer(50, (3,), restart=0.0, bounds=(-2.0, -1.0))
    assert ((buffer.items >= -2) & (buffer.items <= -1)).all()
    before = buffer.items.clone()
    starts, rows = buffer.draw(20)
    assert len(rows.unique()) == 20
    assert starts.equal(before[rows])
    buffer.store(starts + 10, rows)
    untouched = torch.ones(50, dtype=torch.bool).index_fill(0, rows, False)
    assert buffer.items[untouched].equal(before[untouched])
    assert buffer.items[rows].equal(before[rows] + 10)


def test_the_share_of_restarts_is_what_was_asked_for():
    buffer = ReplayBuffer(30, (1,), restart=0.2, bounds=(0.0, 1.0))
    buffer.items.fill_(7.0)
    starts, rows = buffer.draw(6000)  # more than it holds: rows repeat
    assert len(rows) == 6000
    fresh = (starts < 7).float().mean().item()
    assert fresh == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 6000))


def test_buffer_is_part_of_the_state():
    one, other = ReplayBuffer(4, (2,)), ReplayBuffer(4, (2,))
    other.load_state_dict(one.state_dict())
    assert one.items.equal(other.items)


@pytest.mark.parametrize("wrong", [{"step_size": 0.0}, {"step_size": 0.1, "noise": -1.0}])
def test_wrong_numbers_are_named(wrong):
    with pytest.raises(ArgumentError, match=list(wrong)[-1]):
        langevin(lambda x: x.sum(1), torch.zeros(1, 1), 1, **wrong)
    with pytest.raises(ArgumentError, match="restart"):
        ReplayBuffer(4, (1,), restart=2.0)
