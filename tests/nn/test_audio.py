"""Encoders of sound against slow transforms, loops over frames, and what must not matter: padding, loudness."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.data._audio import mel_filters
from tacit.errors import ArgumentError
from tacit.learner import load_state
from tacit.nn import AudioCNN, AudioConv, AudioTransformer, LogMel, LogMelStatistics
from tacit.nn import encoder as make_encoder
from tacit.nn._audio import ClipNorm, masked_mean, wave_lengths


def encoders():
    return [
        AudioCNN(4, seconds=0.4, n_mels=20),
        AudioConv(8, 3, seconds=0.4),
        AudioTransformer(16, 2, 2, width=4, seconds=0.4, n_mels=20),
        AudioTransformer(16, 2, 2, width=4, seconds=0.4, n_mels=20, reduction=2, layer="block1"),
        LogMelStatistics(6, seconds=0.4, n_mels=20),
    ]


def by_name(encoder):
    return encoder.config["name"]


def sounds(n=3, samples=3200, heard=2100):
    x = torch.zeros(n, samples, dtype=torch.int16)
    x[:, :heard] = torch.randint(1, 9000, (n, heard), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    return x


def test_log_mel_is_the_discrete_fourier_transform_written_out():
    rate, wave = 1000, torch.randn(1, 130, generator=torch.Generator().manual_seed(0)).double()
    layer = LogMel(rate, n_mels=5, window=0.05, hop=0.02, floor=1e-4)
    assert (layer.window, layer.hop, layer.n_fft) == (50, 20, 64)
    found, filters = layer(wave.float()), mel_filters(rate, 64, 5)
    assert found.shape == (1, 5, 5)  # whole windows only: (130 - 50) / 20 + 1
    for frame in range(5):
        power = np.zeros(33)
        for k in range(33):
            total = 0
            for m in range(50):
                taper = 0.5 - 0.5 * math.cos(2 * math.pi * m / 50)
                total += wave[0, frame * 20 + m].item() * taper * np.exp(-2j * math.pi * k * m / 64)
            power[k] = abs(total) ** 2
        np.testing.assert_allclose(found[0, frame].numpy(), np.log(filters @ power + 1e-4), rtol=1e-4)


def test_log_mel_refuses_bands_without_a_frequency():
    with pytest.raises(ArgumentError, match="n_mels=200: expected fewer"):
        LogMel(8000, n_mels=200)


def test_a_tone_lights_its_own_band():
    wave = torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / 8000)[None]
    mel = 2595 * math.log10(1 + 1000 / 700) / (2595 * math.log10(1 + 4000 / 700)) * 41 - 1
    assert abs(LogMel()(wave).mean(1).argmax().item() - mel) <= 1


@pytest.mark.parametrize("encoder", encoders(), ids=by_name)
def test_padding_and_loudness_say_nothing(encoder):
    encoder.eval()
    x = sounds()
    longer = torch.nn.functional.pad(x, (0, 1700))
    assert encoder.tokens(x).shape[:2] == encoder.mask(x).shape
    if not isinstance(encoder, AudioCNN):  # whose BatchNorm gives padding a value that the convolutions see
        torch.testing.assert_close(encoder(longer), encoder(x), rtol=1e-4, atol=1e-5)
    loud = x.float() / 32768
    torch.testing.assert_close(encoder(loud), encoder(x))
    torch.testing.assert_close(encoder(3 * loud), encoder(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("encoder", encoders(), ids=by_name)
def test_the_embedding_is_the_mean_of_the_tokens_that_are_there(encoder):
    if isinstance(encoder, LogMelStatistics):
        return
    encoder.eval()
    x = sounds()
    tokens, mask = encoder.tokens(x), encoder.mask(x)
    slow = torch.stack([tokens[i][mask[i]].mean(0) for i in range(len(x))])
    torch.testing.assert_close(encoder(x), slow)
    assert 0 < mask.sum() < mask.numel()


@pytest.mark.parametrize("encoder", encoders(), ids=by_name)
def test_silence_and_a_click_are_finite_and_so_is_their_gradient(encoder):
    x = torch.zeros(2, 3200, dtype=torch.int16)
    x[1, 0] = 7
    found = encoder(x)
    assert torch.isfinite(found).all()
    if found.requires_grad:
        found.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize("encoder", encoders(), ids=by_name)
def test_config_and_state_make_the_same_encoder_again(encoder):
    items = [np.random.default_rng(i).normal(size=3000).astype(np.float32) / 9 for i in range(5)]
    encoder.fit_prepare(items).eval()
    again = make_encoder(**encoder.config)
    load_state(again, encoder.state_dict())
    torch.testing.assert_close(again.eval()(again.prepare(items)), encoder(encoder.prepare(items)))


@pytest.mark.parametrize("name", ["audio-cnn", "audio-conv", "audio-transformer", "audio-log-mel"])
def test_every_name_builds_at_16_khz(name):
    encoder = make_encoder(name, seconds=0.3, sample_rate=16_000)
    assert encoder(torch.randn(2, 4800)).shape == (2, encoder.dim)


def test_fitted_bands_have_mean_0_and_deviation_1_over_the_frames_heard():
    encoder, x = AudioCNN(4, seconds=0.4, n_mels=20), sounds(8)
    encoder.fit_prepare(x)
    frames = encoder.frames(x)[encoder._frames_heard(x)]
    torch.testing.assert_close(frames.mean(0), torch.zeros(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(frames.std(0, correction=0), torch.ones(20), atol=1e-3, rtol=0)


def test_statistics_are_those_of_the_frames():
    encoder, x = LogMelStatistics(40, seconds=0.4, n_mels=20), sounds()
    frames, heard = encoder.frames(x), encoder._frames_heard(x)
    for i in range(3):
        own = frames[i][heard[i]]
        expected = torch.cat([own.mean(0), own.std(0, correction=0)])
        torch.testing.assert_close(encoder(x)[i], expected, rtol=1e-4, atol=1e-4)


def test_prepare_takes_what_people_have():
    encoder = AudioCNN(4, seconds=0.5)
    time = np.arange(4000) / 8000
    wave = (0.5 * np.sin(2 * np.pi * 200 * time)).astype(np.float32)
    high = 0.5 * np.sin(2 * np.pi * 200 * np.arange(8000) / 16000).astype(np.float32)
    stereo = np.stack([high, high], axis=1)
    plain, resampled = encoder.prepare([wave, (stereo, 16000)])
    assert plain.dtype == torch.int16
    np.testing.assert_array_equal(plain.numpy(), np.rint(wave * 32768))
    assert (plain - resampled)[100:-100].abs().max() < 100
    torch.testing.assert_close(encoder.prepare(torch.from_numpy(wave)[None])[0], plain)
    made = encoder.prepare([wave])
    assert encoder.prepare(made) is made or torch.equal(encoder.prepare(made), made)
    assert encoder.prepare([]).shape == (0, 4000)
    torch.testing.assert_close(encoder.prepare(made[:, :1000]), torch.nn.functional.pad(made[:, :1000], (0, 3000)))


@pytest.mark.parametrize(
    "items",
    [[np.array([0.0, np.nan])], [np.zeros((2, 2, 2))], [np.array(["a"])], [np.zeros(0)], torch.zeros(3, 4, 5)],
    ids=["nan", "three axes", "text", "empty", "three axes at once"],
)
def test_prepare_refuses_what_is_no_sound(items):
    with pytest.raises(ArgumentError, match="item"):
        AudioCNN(4).prepare(items)


def test_forward_refuses_images():
    for encoder in encoders():
        with pytest.raises(ArgumentError, match="x="):
            encoder(torch.zeros(2, 5, 16, 16))


def test_the_context_hears_nothing_later_and_210_ms_before():
    """By the gradient, with the norms (whose statistics are the whole clip's, as in the paper) put out of the way."""
    encoder = AudioConv(8, 9, seconds=0.6)
    encoder.aggregator_norms = torch.nn.ModuleList(_Same() for _ in range(9))
    z = torch.randn(1, 58, 8, requires_grad=True)
    encoder.context(z, torch.ones(1, 58, dtype=torch.bool))[0, 30].sum().backward()
    heard = z.grad[0].abs().sum(1).nonzero().flatten()
    assert (heard.min().item(), heard.max().item()) == (30 - 18, 30)
    assert (encoder.window, encoder.hop) == (225, 80)  # 28 and 10 ms; with 18 hops before: 208 ms
    assert AudioConv(8, 1, sample_rate=16000).window == 465  # the paper's "about 30 ms"


class _Same(torch.nn.Module):
    def forward(self, x, mask):
        return x


def test_clip_norm_without_padding_is_group_norm_with_one_group():
    x = torch.randn(3, 6, 20)
    ours, theirs = ClipNorm(6), torch.nn.GroupNorm(1, 6)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(ours, name).copy_(torch.randn(6))
            getattr(theirs, name).copy_(getattr(ours, name))
    torch.testing.assert_close(ours(x, torch.ones(3, 20, dtype=torch.bool)), theirs(x), rtol=1e-4, atol=1e-5)
    mask = torch.arange(20) < torch.tensor([[20], [7], [1]])
    for i, length in enumerate((20, 7, 1)):
        expected = theirs(x[i : i + 1, :, :length])
        torch.testing.assert_close(ours(x, mask)[i : i + 1, :, :length], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_lengths_end_at_the_last_sample_that_is_not_zero(values):
    expected = max((i + 1 for i, value in enumerate(values) if value), default=0)
    assert wave_lengths(torch.tensor([values], dtype=torch.int16)).item() == expected


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0.0, 0.0]]
