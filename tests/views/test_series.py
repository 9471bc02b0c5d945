from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from tacit.errors import ArgumentError
from tacit.nn import SeriesCNN
from tacit.pretrain import SimCLR
from tacit.views import Jitter, Scaling, SeriesCrop, SpanMask, span_mask, two_series_views

NAN = float("nan")


def runs(rows):
    """Lengths of the masked and of the kept runs that lie whole within a row."""
    masked, kept = [], []
    for row in rows:
        bounds = [0, *(np.flatnonzero(np.diff(row.astype(int))) + 1), len(row)]
        for low, high in list(pairwise(bounds))[1:-1]:
            (masked if row[low] else kept).append(high - low)
    return np.array(masked), np.array(kept)


@pytest.mark.parametrize(("ratio", "mean_span"), [(0.15, 3.0), (0.5, 4.0), (0.4, 1 / 0.6)])
def test_spans_are_the_chain_of_the_paper(ratio, mean_span):
    """Stationary at every step, and run lengths geometric with the chances of leaving that the chain states."""
    torch.manual_seed(0)
    mask = span_mask((2000, 200), ratio, mean_span).numpy()
    share = mask.mean(axis=0)  # by step, the first one too
    tolerance = 5 * (ratio * (1 - ratio) / 2000) ** 0.5
    assert np.abs(share - ratio).max() < tolerance
    leave = {True: 1 / mean_span, False: ratio / (1 - ratio) / mean_span}
    for state in (True, False):
        changed = (mask[:, :-1] == state) & (mask[:, 1:] != state)
        found = changed.sum() / (mask[:, :-1] == state).sum()
        assert found == pytest.approx(leave[state], rel=0.03)
    masked, _ = runs(span_mask((200, 4000), ratio, mean_span).numpy())
    assert masked.mean() == pytest.approx(mean_span, rel=0.05)
    lengths = np.arange(1, 6)
    expected = stats.geom(1 / mean_span).pmf(lengths)
    assert np.abs([(masked == k).mean() for k in lengths] - expected).max() < 0.02


def test_spans_have_no_memory_beyond_one_step():
    """A Markov chain: the chance of leaving does not depend on how long the run has lasted."""
    torch.manual_seed(1)
    mask = span_mask((500, 2000), 0.5, 4.0).numpy()
    for age in (1, 2, 4):
        old = np.all([mask[:, age - back : -1 - back or None] for back in range(age)], axis=0)[:, :-1]
        now, after = mask[:, age : age + old.shape[1]], mask[:, age + 1 : age + 1 + old.shape[1]]
        before = np.logical_and(old, now)
        width = min(before.shape[1], after.shape[1])
        assert 1 - after[:, :width][before[:, :width]].mean() == pytest.approx(0.25, abs=0.02)


def test_masks_hide_values_by_channel_or_all_together():
    x = torch.zeros(50, 3, 40)
    x[:, :, 30:] = NAN
    apart = SpanMask(0.3)
    mask = apart.mask(x)
    assert not mask[:, :, 30:].any()
    assert not (mask[:, 0] == mask[:, 1]).all()
    together = SpanMask(0.3, together=True).mask(x)
    assert (together[:, 0] == together[:, 1]).all()
    assert together.any()
    hidden = apart(x)
    assert hidden.isnan().sum() > x.isnan().sum()


def test_jitter_and_scaling_are_in_units_of_the_channel():
    torch.manual_seed(0)
    x = torch.randn(400, 2, 30) * torch.tensor([1.0, 1000.0])[:, None] + torch.tensor([0.0, 1e5])[:, None]
    x[:, :, 20:] = NAN
    noise = (Jitter(0.1)(x) - x)[:, :, :20].std(dim=(0, 2))
    torch.testing.assert_close(noise, torch.tensor([0.1, 100.0]), rtol=0.05, atol=0.0)
    mean = x[:, :, :20].mean(dim=(0, 2))[:, None]
    factor = ((Scaling(0.2)(x) - mean) / (x - mean))[:, :, :20]
    torch.testing.assert_close(factor, factor[:, :, :1].expand_as(factor), rtol=1e-2, atol=1e-2)
    assert factor[:, :, 0].mean().item() == pytest.approx(1, abs=0.05)
    assert factor[:, :, 0].std().item() == pytest.approx(0.2, abs=0.03)


def test_crops_are_windows_within_the_series():
    torch.manual_seed(0)
    x = torch.arange(20.0).expand(500, 1, 20).clone()
    x[:250, :, 10:] = NAN
    crop = SeriesCrop((0.3, 1.0))(x)
    lengths, starts = (~crop[:, 0].isnan()).sum(1), crop[:, 0, 0]
    for row, length, start, own in zip(crop[:, 0], lengths, starts, [10] * 250 + [20] * 250, strict=True):
        assert row[:length].tolist() == list(range(int(start), int(start) + length))
        assert row[length:].isnan().all()
        assert 0.3 * own - 0.5 <= length <= own
        assert start + length <= own
    assert {0, 19} <= set((starts + lengths - 1)[250:].int().tolist()) | {0}
    assert len(set(starts[250:].tolist())) > 8


def test_crop_keeps_what_is_missing_and_what_is_empty():
    x = torch.full((2, 1, 6), NAN)
    x[1, 0] = torch.tensor([NAN, 1, NAN, 2, 3, NAN])
    whole = SeriesCrop((1.0, 1.0))(x)
    assert whole[0].isnan().all()
    assert torch.equal(whole[1].nan_to_num(-1), torch.tensor([[-1.0, 1, -1, 2, 3, -1]]))


def test_simclr_learns_from_series():
    x = torch.randn(8, 2, 30).cumsum(2)
    x[:3, :, 20:] = NAN
    learner = SimCLR(SeriesCNN(2, length=30, embed_dim=16), views=two_series_views(masked=0.1), hidden_dim=32)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = learner.loss(x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < losses[0]


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="mean_span=1"):
        span_mask((4,), 0.5, 1.0)
    with pytest.raises(ArgumentError, match="ratio=1"):
        SpanMask(1.0)
    with pytest.raises(ArgumentError, match="scale"):
        SeriesCrop((0.0, 1.0))
