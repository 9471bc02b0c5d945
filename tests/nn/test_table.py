import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.learner import load_state
from tacit.nn import TableMLP

ROWS = np.array([[1.0, 0.0, 10.0, 5.0], [3.0, 2.0, np.nan, 5.0], [np.inf, np.nan, 30.0, 5.0]], np.float32)


def test_inputs_one_value_at_a_time():
    encoder = TableMLP(4, [0, 3, 0, 0], hidden_dim=8).fit_prepare(ROWS)
    found = encoder.inputs(encoder.prepare(ROWS))
    # numbers: deviations from mean 2 and 20 in deviations of 1 and 10; the constant column is 0
    expected = [[-1, -1, 0], [1, 0, 0], [0, 1, 0]]
    missing = [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
    torch.testing.assert_close(found[:, :3], torch.tensor(expected).float())
    torch.testing.assert_close(found[:, 3:6], torch.tensor(missing).float())
    torch.testing.assert_close(found[:, 6:], encoder.vectors[0].weight[[0, 2, 3]])


def test_unknown_categories_are_as_missing_ones():
    encoder = TableMLP(2, [0, 3], hidden_dim=8).eval()
    x = torch.tensor([[0.0, torch.nan], [0.0, 7.0], [0.0, -1.0], [0.0, 1.0]])
    found = encoder(x)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    assert not torch.allclose(found[0], found[3])


def test_outliers_are_held():
    encoder = TableMLP(1, hidden_dim=8).fit_prepare(np.random.default_rng(0).normal(size=(100, 1)))
    assert encoder.inputs(torch.tensor([[1e30], [-1e30]]))[:, 0].tolist() == [10, -10]


def test_large_numbers_keep_their_differences():
    """Moments in double precision: of 1e6 + {0, 1} the deviation is 1/2."""
    rows = np.float32(1e6) + np.arange(1000)[:, None] % 2
    encoder = TableMLP(1, hidden_dim=8).fit_prepare(rows)
    assert encoder.std.item() == pytest.approx(0.5)


def test_weights_bring_the_moments_along():
    encoder = TableMLP(4, [0, 3, 0, 0], hidden_dim=8).fit_prepare(ROWS)
    again = TableMLP(**{name: value for name, value in encoder.config.items() if name != "name"})
    load_state(again, encoder.state_dict())
    x = encoder.prepare(ROWS)
    assert encoder.prepare(x) is x
    torch.testing.assert_close(again.eval()(x), encoder.eval()(x))


@pytest.mark.parametrize("counts", [[0, 0], [4, 2], [0, 5]])
@pytest.mark.parametrize("norm", ["batch", "layer", None])
def test_kinds_of_columns_and_norms(counts, norm):
    encoder = TableMLP(2, counts, hidden_dim=8, norm=norm)
    encoder.fit_prepare(ROWS[:, :2])
    encoder(encoder.prepare(ROWS[:, :2])).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="each of 2 columns"):
        TableMLP(2, [1])
    with pytest.raises(ArgumentError, match="0 for a column of numbers"):
        TableMLP(1, [-1])
    with pytest.raises(ArgumentError, match=r"\(n, 2\)"):
        TableMLP(2).prepare(np.zeros((3, 4)))
