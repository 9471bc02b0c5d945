"""Views of sounds: what stays, how much changes, and spans as often as they should be."""

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.views import AddNoise, RandomGain, RandomTimeCrop, SpecAugment, frame_spans, two_waves


def clips():
    """Each sample says its own place, so that a crop shows where it was taken; 40 zeros pad."""
    x = torch.arange(1, 101, dtype=torch.int16).repeat(200, 1)
    x[:, 60:] = 0
    return x


def test_a_crop_is_a_stretch_of_the_sound_moved_to_the_start():
    torch.manual_seed(0)
    found = (RandomTimeCrop((0.5, 0.8))(clips()) * 32768).round().long()
    lengths, starts = (found != 0).sum(1), found[:, 0]
    for row, length, start in zip(found, lengths, starts, strict=True):
        assert row[:length].tolist() == list(range(start, start + length))
        assert row[length:].abs().sum() == 0
    assert 30 <= lengths.min() <= 32
    assert 46 <= lengths.max() <= 48
    assert starts.min() == 1
    assert (starts + lengths - 1).max() == 60  # never into the padding


def test_gain_is_even_in_decibels_and_clips():
    torch.manual_seed(0)
    drawn = 20 * (RandomGain(6.0)(torch.full((2000, 1), 0.1)) / 0.1).log10()
    assert drawn.min() >= -6.001
    assert drawn.max() <= 6.001
    assert drawn.std().item() == pytest.approx(12 / 12**0.5, rel=0.05)
    assert RandomGain(6.0)(torch.full((50, 1), 0.9)).max() == 1


def test_noise_has_the_level_that_was_asked_for_and_spares_the_padding():
    torch.manual_seed(0)
    x = torch.zeros(20, 4000)
    x[:, :3000] = 0.2 * torch.sin(torch.arange(1, 3001) / 7.3)
    noise = AddNoise((12.0, 12.0))(x) - x
    ratio = x[:, :3000].square().mean(1) / noise[:, :3000].square().mean(1)
    torch.testing.assert_close(10 * ratio.log10(), torch.full((20,), 12.0), atol=0.3, rtol=0)
    assert noise[:, 3000:].abs().max() == 0


def test_spec_augment_zeroes_one_stretch_of_each_axis():
    torch.manual_seed(0)
    found = SpecAugment(time=0.3, bands=0.25)(torch.ones(300, 50, 40))
    times, bands = (found == 0).all(2), (found == 0).all(1)
    torch.testing.assert_close(found == 0, times[:, :, None] | bands[:, None, :])
    for masks, most in ((times, 15), (bands, 10)):
        edges = (masks[:, 1:] != masks[:, :-1]).sum(1) + masks[:, 0].int() + masks[:, -1].int()
        assert edges.max() <= 2
        assert masks.sum(1).max() <= most + 1
        assert masks.sum(1).float().mean().item() == pytest.approx(most / 2, rel=0.15)


def test_spans_hide_49_percent_as_the_paper_says():
    torch.manual_seed(0)
    hidden = frame_spans(torch.ones(60, 2000, dtype=torch.bool))
    assert hidden.float().mean().item() == pytest.approx(1 - (1 - 0.065) ** 10, abs=0.01)
    starts = hidden & ~torch.nn.functional.pad(hidden, (1, 0))[:, :-1]
    assert (hidden.sum() / starts.sum()).item() == pytest.approx(14.7, rel=0.04)


def test_spans_are_the_union_of_those_that_start():
    torch.manual_seed(0)
    mask = torch.arange(40) < torch.tensor([[40], [25], [2], [1], [0]])
    for _ in range(20):
        hidden = frame_spans(mask, 0.05, 4)
        assert not (hidden & ~mask).any()
        assert (hidden.sum(1)[:3] >= 1).all()  # at least one in each
        assert (hidden.sum(1)[:3] < mask.sum(1)[:3]).all()  # never all
        for row, there in zip(hidden[:2].tolist(), (40, 25), strict=True):
            runs = "".join("x" if one else "." for one in row[:there]).split(".")
            assert all(len(run) >= 4 for run in runs[:-1] if run)  # only the sound's end cuts a span


def test_without_chance_a_span_starts_where_the_first_drawn_is():
    hidden = frame_spans(torch.ones(5, 30, dtype=torch.bool), 0.0, 6)
    assert ((hidden.sum(1) >= 1) & (hidden.sum(1) <= 6)).all()


def test_two_waves_are_two():
    a, b = two_waves()(torch.rand(4, 900))
    assert (a.dtype, a.shape, b.shape) == (torch.float32, (4, 900), (4, 900))
    assert not torch.equal(a, b)


def test_what_cannot_be_is_refused():
    for wrong, name in (
        (lambda: RandomTimeCrop((0.0, 1.0)), "scale"),
        (lambda: RandomGain(-1), "decibels"),
        (lambda: AddNoise((3.0, 1.0)), "snr"),
        (lambda: SpecAugment(time=1.5), "time"),
        (lambda: frame_spans(torch.ones(1, 2, dtype=torch.bool), probability=2.0), "probability"),
    ):
        with pytest.raises(ArgumentError, match=name):
            wrong()
