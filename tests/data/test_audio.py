"""Sounds as people have them: every container, and every way in which one is none."""

import io
import struct
import sys
import time
import wave

import numpy as np
import pytest
from PIL import Image

from tacit.data import _audio, read_audio, resample
from tacit.data._audio import decode, mel_filters, spectrogram_png, to_int16
from tacit.data._images import Unreadable
from tacit.errors import ArgumentError, DataError, MissingExtra


def tone(rate=8000, seconds=1.0, pitch=440.0, channels=1):
    time = np.arange(round(rate * seconds)) / rate
    return np.repeat(0.5 * np.sin(2 * np.pi * pitch * time)[:, None], channels, axis=1).astype(np.float32)


def encoded(samples, rate=8000, format="WAV", subtype="PCM_16"):
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def plain_wav(raw, *, width=2, channels=1, rate=8000):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((channels, width, rate, 0, "NONE", ""))
        out.writeframes(raw)
    return file.getvalue()


@pytest.fixture
def without_soundfile(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)


@pytest.mark.parametrize(
    ("format", "subtype", "off"),
    [
        ("WAV", "PCM_U8", 1 / 100),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-7),
        ("WAVEX", "PCM_16", 1e-4),
        ("FLAC", "PCM_16", 1e-4),
        ("AIFF", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.05),
    ],
)
def test_every_container_gives_its_samples(format, subtype, off):
    there = tone(channels=2)
    found, rate = read_audio(encoded(there, format=format, subtype=subtype))
    assert (rate, found.dtype, found.shape) == (8000, np.float32, there.shape)
    assert np.abs(found - there).max() < off


def test_mp3_is_read_up_to_its_delay():
    found, rate = read_audio(encoded(tone(44100), 44100, "MP3", "MPEG_LAYER_III"))
    spectrum = np.abs(np.fft.rfft(found[:, 0]))
    assert rate == 44100
    assert spectrum.argmax() * rate / len(found) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_the_standard_library_reads_what_soundfile_reads(monkeypatch, width):
    numbers = np.random.default_rng(0).integers(0, 256, 300 * width, dtype=np.uint8).tobytes()
    data = plain_wav(numbers, width=width, channels=2)
    theirs, _ = read_audio(data)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    ours, rate = read_audio(data)
    np.testing.assert_allclose(ours, theirs, atol=1e-7)
    assert rate == 8000


def test_what_needs_soundfile_says_so_in_a_line(monkeypatch):
    flac, floats = encoded(tone(), format="FLAC"), encoded(tone(), subtype="FLOAT")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for data in (flac, floats):
        with pytest.raises(MissingExtra, match=r"pip install 'tacit\[audio\]'"):
            decode(data, sample_rate=8000)


def test_decode_is_mono_at_the_wanted_rate_and_length():
    samples = np.concatenate([tone(44100, 2.0), np.zeros((88200, 1), np.float32)], axis=1)
    found = decode(encoded(samples, 44100), sample_rate=8000, samples=4000)
    assert (found.wave.dtype, found.wave.shape, found.seconds) == (np.int16, (4000,), 2.0)
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(4000) / 8000)  # half of the one channel
    np.testing.assert_allclose(found.wave[100:] / 32768, expected[100:], atol=2e-3)
    assert found.notes == ("of 2 channels, averaged", "resampled from 44,100 to 8,000 Hz", "longer than 0.5 s, cut")


def test_what_is_cut_off_is_not_decoded_and_changes_nothing():
    data = encoded(np.random.default_rng(0).uniform(-0.5, 0.5, (48000, 1)), 48000)
    whole = decode(data, sample_rate=8000)
    np.testing.assert_array_equal(decode(data, sample_rate=8000, samples=2000).wave, whole.wave[:2000])
    padded = decode(data, sample_rate=8000, samples=9000).wave
    np.testing.assert_array_equal(padded, np.pad(whole.wave, (0, 1000)))


def test_16_bits_at_the_stored_rate_come_back_bit_for_bit():
    there = np.random.default_rng(0).integers(-32768, 32768, 1000).astype(np.int16)
    np.testing.assert_array_equal(decode(plain_wav(there.tobytes()), sample_rate=8000).wave, there)


def test_resampling_keeps_what_fits_and_drops_what_would_fold_over():
    kept, folded = (resample(tone(44100, pitch=pitch)[:, 0], 44100, 8000)[500:-500] for pitch in (1000.0, 7000.0))
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)[500:-500]
    np.testing.assert_allclose(kept, expected, atol=2e-3)
    assert np.abs(folded).max() < 2e-3  # by dropping samples it would sound at 1,000 Hz, as loud as before
    assert len(resample(np.ones(44099, np.float32), 44099, 8000)) in (8000, 8001)
    with pytest.raises(ArgumentError, match="from_rate"):
        resample(np.ones(3), 0, 8000)


def test_floats_of_another_scale_are_divided_by_the_largest():
    found = decode(encoded(tone() * 20000, subtype="FLOAT"), sample_rate=8000)
    assert np.abs(found.wave).max() == pytest.approx(32767, abs=2)
    assert found.notes == ("with samples far beyond -1 to 1, divided by the largest",)
    assert np.abs(to_int16(np.array([1.2, 1.4]), 8000, 8000)).tolist() == [32767] * 2  # an overshoot is clipped


def broken():
    flac = encoded(tone(), format="FLAC")
    ogg = encoded(tone(), format="OGG", subtype="VORBIS")
    good = encoded(tone())
    with_nan = tone()
    with_nan[100] = np.nan
    return {
        "empty: zero bytes": b"",
        "empty: no samples": plain_wav(b""),
        "truncated: 7,960 bytes of samples of 16,000": good[:8004],
        "truncated: no samples after the header": good[:20],
        "truncated: the last page is cut": ogg[:-50],
        "damaged: .*flac": flac[: len(flac) // 2],
        "damaged: .*": good[:20] + b"\xff\xff" + good[22:],
        "silent: nothing but zeros": plain_wav(bytes(2000)),
        "silent: nothing is left": encoded(np.full((800, 1), 1e-7, np.float32), subtype="FLOAT"),
        "damaged: samples that are NaN": encoded(with_nan, subtype="FLOAT"),
        "damaged: a sample rate of 3": good[:24] + struct.pack("<I", 3) + good[28:],
        "not audio: text": b"this is no sound at all\n" * 50,
        "not audio: unknown format": bytes(range(128, 256)) * 9,
        "damaged: nothing but zeros": bytes(1000),
        "MPEG-4": b"\0\0\0\x20ftypM4A " + bytes(100),
        "AAC is not read": b"\xff\xf1\x50\x80" + bytes(100),
    }


def test_what_is_no_sound_is_unreadable_with_the_reason():
    for reason, data in broken().items():
        with pytest.raises(Unreadable, match=reason):
            decode(data, sample_rate=8000)


def test_without_soundfile_broken_wavs_have_reasons_too(without_soundfile):
    for data in (plain_wav(b""), plain_wav(bytes(2000)), plain_wav(b"ab" * 500)[:500], b"text, it is\n" * 30):
        with pytest.raises(Unreadable):
            decode(data, sample_rate=8000)


def test_read_audio_names_the_file(tmp_path):
    path = tmp_path / "song.wav"
    path.write_text("not a song")
    with pytest.raises(DataError, match=r"song\.wav cannot be read: not audio: text"):
        read_audio(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_audio(tmp_path / "missing.wav")


def test_a_wav_from_a_pipe_does_not_know_its_length():
    good = encoded(tone())
    place = good.index(b"data") + 4
    streamed = good[:4] + b"\xff" * 4 + good[8:place] + b"\xff" * 4 + good[place + 4 :]
    assert decode(streamed, sample_rate=8000).wave.shape == (8000,)


def test_an_hour_is_no_more_than_36_seconds_of_work():
    data = plain_wav(np.random.default_rng(0).integers(-9999, 9999, 8000 * 60).astype("<i2").tobytes())
    start = time.process_time()
    decode(data, sample_rate=8000, samples=8000 * 60)
    assert time.process_time() - start < 36 / 60


def test_mel_filters_are_triangles_between_even_corners():
    filters = mel_filters(8000, 512, 20)
    corners = np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 22)
    corners = 700 * (10 ** (corners / 2595) - 1)
    for band in range(20):
        for k in range(257):
            low, middle, high = corners[band : band + 3]
            f = k * 8000 / 512
            up, down = (f - low) / (middle - low), (high - f) / (high - middle)
            assert filters[band, k] == pytest.approx(max(min(up, down), 0.0), abs=1e-9)


def test_the_small_picture_shows_a_tone_where_it_sounds():
    rising = np.concatenate([tone(pitch=300)[:, 0], tone(pitch=3000)[:, 0]])
    picture = Image.open(io.BytesIO(spectrogram_png((rising * 32767).astype(np.int16), 8000)))
    assert picture.format == "PNG"
    assert picture.height <= 64
    assert picture.width <= 128
    bright = np.asarray(picture.convert("L")).argmax(axis=0)
    first, second = bright[5 : picture.width // 2 - 5], bright[picture.width // 2 + 5 : -5]
    assert first.min() > second.max() + 20  # rows count from the top


@pytest.mark.parametrize("samples", [1, 100, 8000 * 60])
def test_the_small_picture_of_any_length_and_of_silence(samples):
    for wave_ in (np.zeros(samples, np.int16), np.full(samples, 5, np.int16)):
        picture = Image.open(io.BytesIO(spectrogram_png(wave_, 8000)))
        picture.load()
        assert (picture.height, picture.width <= 128) == (64, True)


def test_limits_are_those_of_the_whole_file(monkeypatch):
    monkeypatch.setattr(_audio, "MAX_NUMBERS", 1000)
    with pytest.raises(Unreadable, match="too long: 8,000 samples"):
        decode(encoded(tone()), sample_rate=8000)
    assert len(decode(encoded(tone()), sample_rate=8000, samples=500).wave) == 500
