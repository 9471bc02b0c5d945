import pytest
import torch
from scipy import stats

from tacit.errors import ArgumentError
from tacit.views import RowCorruption


def test_as_many_columns_of_each_row_as_the_paper_says():
    for d, rate, expected in ((5, 0.6, 3), (10, 0.25, 2), (1, 0.6, 1), (3, 1.0, 3)):
        mask = RowCorruption(rate).mask(torch.zeros(50, d))
        assert (mask.sum(1) == expected).all()
    assert mask.float().mean() == 1


def test_each_column_is_drawn_as_often():
    torch.manual_seed(0)
    counts = RowCorruption(0.5).mask(torch.zeros(4000, 6)).sum(0)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_values_come_from_the_marginal_of_their_column():
    """Uniform over the rows, independent of each other: columns that are always equal do not stay so."""
    torch.manual_seed(0)
    values = torch.arange(4.0)[:, None].expand(4, 3)
    drawn = RowCorruption(1.0)(torch.full((6000, 3), -1.0), values)
    for column in drawn.T:
        assert stats.chisquare(torch.bincount(column.long()).numpy()).pvalue > 1e-3
    table = torch.histogramdd(drawn[:, :2], bins=[4, 4], range=[-0.5, 3.5] * 2).hist.numpy()
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_what_is_not_drawn_stays():
    view = RowCorruption(0.5)
    x = torch.randn(20, 4)
    x[0, 0] = torch.nan
    torch.manual_seed(3)
    changed = view(x)
    assert ((changed == x).sum(1) >= 1).all()
    assert set(changed[:, 1].tolist()) <= set(x[:, 1].tolist())


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="rate=0"):
        RowCorruption(0)
    with pytest.raises(ArgumentError, match="values"):
        RowCorruption()(torch.zeros(2, 3), torch.zeros(0, 3))
