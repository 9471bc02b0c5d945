"""One sound: encoded bytes, of whatever kind users have, to 16-bit samples of the stored rate, and a small picture."""

from __future__ import annotations

import codecs
import io
import math
import os
import re
import struct
import wave as riff
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from tacit.data._images import Unreadable, read_file
from tacit.errors import DataError, MissingExtra, expect

__all__ = ["read_audio", "resample"]

MAX_NUMBERS = 2**28
"""Samples times channels that are decoded at most: 1 GiB as float32, or 93 minutes of 48 kHz mono."""
RATES = (100, 4_000_000)
"""Sample rates outside are taken for damage."""
OVERSHOOT = 1.5
"""Lossy decoders go beyond 1 by a little, which is clipped; more means another scale, and is divided by the peak."""
PICTURE = (64, 128)
"""Height and greatest width of the small picture, in pixels."""


class Sound(NamedTuple):
    """What is kept of a sound."""

    wave: np.ndarray
    """int16 (samples,), mono at the stored rate."""
    seconds: float
    """Length of the original."""
    notes: tuple[str, ...]
    """What had to be done to it."""


class _Decoded(NamedTuple):
    wave: np.ndarray  # float32 (frames, channels)
    rate: int
    frames: int  # of the whole file


def read_audio(audio: str | os.PathLike[str] | bytes) -> tuple[np.ndarray, int]:
    """One sound as it is.

    wav needs nothing else; flac, ogg (Vorbis, Opus), mp3, aiff and wav of floats need soundfile (libsndfile).

    Args:
        audio: a path, or the encoded bytes.

    Returns:
        float32 (samples, channels), in [-1, 1] for whole numbers of any width, as stored for floats; samples a second.

    Raises:
        DataError: it cannot be read, with the reason; among them no samples, nothing but zeros, NaN, a file cut short
            (an aiff, or an mp3 without a header of its own, does not tell).
        MissingExtra: soundfile is needed and not installed.

    >>> sound = io.BytesIO()
    >>> with riff.open(sound, "wb") as file:
    ...     file.setparams((1, 2, 8000, 0, "NONE", ""))
    ...     file.writeframes(np.array([0, 16384, -32768], "<i2").tobytes())
    >>> samples, rate = read_audio(sound.getvalue())
    >>> samples[:, 0].tolist(), rate
    ([0.0, 0.5, -1.0], 8000)
    """
    try:
        decoded = _decode(audio if isinstance(audio, bytes) else read_file(os.fspath(audio)), None)
    except Unreadable as error:
        name = "audio" if isinstance(audio, bytes) else os.fspath(audio)
        raise DataError(f"{name} cannot be read: {error}") from error
    return decoded.wave, decoded.rate


def decode(data: bytes, *, sample_rate: int, samples: int | None = None) -> Sound:
    """Encoded bytes to what is stored: channels averaged, resampled, cut or padded with zeros at the end.

    What lies beyond the samples that are kept is not decoded.

    Args:
        data: of a file.
        sample_rate: samples a second that are wanted.
        samples: how many; None: as long as the sound is.

    Raises:
        Unreadable: with the reason.
        MissingExtra: soundfile is needed and not installed.
    """
    decoded = _decode(data, None if samples is None else samples / sample_rate)
    notes = []
    if decoded.wave.shape[1] > 1:
        notes.append(f"of {decoded.wave.shape[1]} channels, averaged")
    if np.abs(decoded.wave).max() > OVERSHOOT:
        notes.append("with samples far beyond -1 to 1, divided by the largest")
    if decoded.rate != sample_rate:
        notes.append(f"resampled from {decoded.rate:,} to {sample_rate:,} Hz")
    seconds = decoded.frames / decoded.rate
    if samples is not None and seconds * sample_rate > samples:
        notes.append(f"longer than {samples / sample_rate:g} s, cut")
    wave = to_int16(decoded.wave, decoded.rate, sample_rate, samples)
    if not wave.any():
        raise Unreadable("silent: nothing is left at the stored rate and width")
    return Sound(wave, seconds, tuple(notes))


def to_int16(wave: np.ndarray, from_rate: int, to_rate: int, samples: int | None = None) -> np.ndarray:
    """float (n,) or (n, channels) -> int16 (samples,): mono, resampled, cut or padded with zeros; 1 becomes 32,768.

    What goes far beyond -1 to 1 is divided by its peak first. int16 at the wanted rate comes back bit for bit.
    """
    mono = wave if wave.ndim == 1 else wave.mean(axis=1)
    peak = float(np.abs(mono).max(initial=0))
    mono = mono / peak if peak > OVERSHOOT else mono
    mono = resample(mono.astype(np.float32, copy=False), from_rate, to_rate)
    kept = len(mono) if samples is None else samples
    stored = np.zeros(kept, np.int16)
    found = np.rint(mono[:kept] * 32768).clip(-32768, 32767)
    stored[: len(found)] = found
    return stored


def resample(wave: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """The sound at another rate, by a polyphase filter that lets no frequency fold over (scipy.signal.resample_poly).

    Args:
        wave: float (samples,) or (samples, channels).
        from_rate: samples a second it has.
        to_rate: samples a second wanted. The ratio is kept to within 1e-8.

    Returns:
        float (about samples * to_rate / from_rate, ...), of the same type.

    >>> resample(np.ones(441, np.float32), 44100, 8000).shape
    (80,)
    """
    expect("from_rate, to_rate", (from_rate, to_rate), min(from_rate, to_rate) > 0, "numbers above 0")
    if from_rate == to_rate or not len(wave):
        return wave
    from scipy.signal import resample_poly

    # a filter's length grows with the terms of the ratio: 44,099 Hz would ask for one of 880,000 taps
    ratio = Fraction(int(to_rate), int(from_rate)).limit_denominator(10_000)
    if not ratio:
        raise DataError(f"from_rate={from_rate}: expected less than 10,000 times to_rate={to_rate}")
    return resample_poly(wave, ratio.numerator, ratio.denominator, axis=0).astype(wave.dtype, copy=False)


# Decoding -------------------------------------------------------------------------------------------------------------


def _decode(data: bytes, seconds: float | None) -> _Decoded:
    """The first `seconds` of it, or all."""
    if not data:
        raise Unreadable("empty: zero bytes")
    kind = _kind(data)
    reader = _read_soundfile if _has_soundfile() else _read_wave
    if reader is _read_wave and kind != "wav":
        raise MissingExtra("soundfile", "audio", f"reading {kind} files")
    if kind == "wav":
        _check_wav(data)
    elif kind == "ogg":
        _check_ogg(data)
    decoded = reader(data, seconds)
    _check_samples(decoded)
    return decoded


def _has_soundfile() -> bool:
    try:
        import soundfile  # noqa: F401
    except (ImportError, OSError):  # OSError: the wheel is there and its library is not
        return False
    return True


def _kind(data: bytes) -> str:
    """What the first bytes say; a name's ending is not asked."""
    head = data[:16]
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    for start, kind in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"FORM", "aiff"), (b"caff", "caf"), (b"ID3", "mp3")):
        if head.startswith(start):
            return kind
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        if head[1] & 0x06 == 0:  # no layer: ADTS, the frames of AAC
            raise Unreadable("AAC is not read: turn it into flac or wav (ffmpeg -i FILE FILE.flac)")
        return "mp3"
    if head[4:8] == b"ftyp":
        raise Unreadable("MPEG-4 (m4a, AAC) is not read: turn it into flac or wav (ffmpeg -i FILE FILE.flac)")
    raise Unreadable(_what_else(data))


def _what_else(data: bytes) -> str:
    head = data[:1024]
    if not head.strip(b"\0"):
        return "damaged: nothing but zeros"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # which may end within a character
    except UnicodeDecodeError:
        return "not audio: unknown format"
    if all(character.isprintable() or character.isspace() for character in text):
        return "not audio: text"
    return "not audio: unknown format"


def _check_wav(data: bytes) -> None:
    """Refuse a file that ends before its samples do, which both readers would take for a shorter sound."""
    order, place = (">" if data[:4] == b"RIFX" else "<"), 12
    if data[:4] == b"RF64":
        return  # its sizes stand elsewhere
    while place + 8 <= len(data):
        name, (size,) = data[place : place + 4], struct.unpack(order + "I", data[place + 4 : place + 8])
        place += 8
        if name == b"data":
            streamed = size in (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000)  # written to a pipe: its length was not known
            if not streamed and size > len(data) - place:
                raise Unreadable(f"truncated: {len(data) - place:,} bytes of samples of {size:,}")
            return
        place += size + size % 2
    raise Unreadable("truncated: no samples after the header")


def _check_ogg(data: bytes) -> None:
    """Refuse a file whose last page is cut (RFC 3533: 27 bytes, the lengths of its segments, the segments)."""
    page = data[data.rfind(b"OggS") :]
    segments = page[26] if len(page) > 26 else 0
    if len(page) < 27 + segments or len(page) < 27 + segments + sum(page[27 : 27 + segments]):
        raise Unreadable("truncated: the last page is cut")


def _check_samples(decoded: _Decoded) -> None:
    low, high = RATES
    if not low <= decoded.rate <= high:
        raise Unreadable(f"damaged: a sample rate of {decoded.rate:,} Hz")
    if not decoded.wave.size:
        raise Unreadable("empty: no samples")
    if not np.isfinite(decoded.wave).all():
        raise Unreadable("damaged: samples that are NaN or infinite")
    if not decoded.wave.any():
        raise Unreadable("silent: nothing but zeros")


def _read_soundfile(data: bytes, seconds: float | None) -> _Decoded:
    import soundfile

    with _damaged(), soundfile.SoundFile(io.BytesIO(data)) as file:
        wanted = _wanted(file.frames, file.samplerate, file.channels, seconds)
        wave = file.read(wanted, dtype="float32", always_2d=True)
        spare = file.samplerate // 10 if file.format.startswith("MP") else 0  # an mp3's header says its length roughly
        if len(wave) < wanted - spare:
            raise Unreadable(f"truncated: {len(wave):,} samples of {file.frames:,}")
        return _Decoded(wave, file.samplerate, file.frames)


def _read_wave(data: bytes, seconds: float | None) -> _Decoded:
    """With the standard library alone."""
    try:
        with _damaged(), riff.open(io.BytesIO(data), "rb") as file:
            channels, width, rate, frames = file.getparams()[:4]
            raw = file.readframes(_wanted(frames, rate, channels, seconds))
    except Unreadable as error:
        if "unknown format" in str(error):  # floats, and headers that name a subformat
            raise MissingExtra("soundfile", "audio", "reading wav files of this kind") from error
        raise
    return _Decoded(_from_pcm(raw, width).reshape(-1, channels), rate, frames)


def _from_pcm(raw: bytes, width: int) -> np.ndarray:
    """Whole numbers of 1 (unsigned) to 4 bytes, little-endian, to [-1, 1)."""
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return (padded.view("<i4")[:, 0] / 2**31).astype(np.float32)
    return (np.frombuffer(raw, f"<i{width}") / 2 ** (8 * width - 1)).astype(np.float32)


def _wanted(frames: int, rate: int, channels: int, seconds: float | None) -> int:
    """Frames to decode: a little more than is kept, for the filter that resamples."""
    wanted = frames if seconds is None else min(frames, math.ceil((seconds + 0.05) * rate))
    if wanted * channels > MAX_NUMBERS:
        raise Unreadable(f"too long: {wanted:,} samples of {channels} channels, the limit is {MAX_NUMBERS:,} in all")
    return wanted


@contextmanager
def _damaged() -> Iterator[None]:
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # a damaged file makes the readers fail in any way
        text = re.sub(r"Error opening <[^>]*>: ", "", " ".join(str(error).split()))[:200] or type(error).__name__
        raise Unreadable(f"damaged: {text}") from error


# The small picture ----------------------------------------------------------------------------------------------------


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Triangles on the mel scale, (n_mels, n_fft // 2 + 1), each of height 1.

    mel(f) = 2595 log10(1 + f / 700), as HTK has it (O'Shaughnessy, 1987); the corners lie evenly on it from 0 to half
    the sample rate, and the triangles are straight in Hz.
    """
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + sample_rate / 1400), n_mels + 2) / 2595) - 1)
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    low, middle, high = (corners[start : start + n_mels, None] for start in range(3))
    return np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clip(0)


def spectrogram_png(wave: np.ndarray, sample_rate: int) -> bytes:
    """A small log-mel spectrogram for report and explorer: PNG, 64 pixels high and at most 128 wide.

    Time goes right, frequency up; the loudest is yellow, 60 dB below it and less is black. Zeros at the end, which only
    pad, are left out.

    Args:
        wave: int16 (samples,).
        sample_rate: samples a second.
    """
    from PIL import Image

    heard = np.flatnonzero(wave)
    wave = wave[: heard[-1] + 1] if len(heard) else wave[:1]
    height, most = PICTURE
    power = _power_spectra(wave.astype(np.float32) / 32768, sample_rate)  # (frames, bins)
    mels = power @ mel_filters(sample_rate, 2 * (power.shape[1] - 1), height).T
    parts = np.linspace(0, len(mels), min(most, len(mels)) + 1).astype(int)
    mels = np.add.reduceat(mels, parts[:-1], axis=0) / np.diff(parts)[:, None]
    decibels = 10 * np.log10(mels + 1e-12)
    shade = np.rint(255 * (1 + (decibels - decibels.max()) / 60).clip(0, 1)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(shade.T[::-1]))
    picture.putpalette(_palette())
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def _power_spectra(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Of windows of 32 ms or more, about two a column of the picture at most: (frames, bins)."""
    size = 2 ** math.ceil(math.log2(max(0.032 * sample_rate, 256)))
    wave = np.pad(wave, (0, max(size - len(wave), 0)))
    hop = max(round(0.008 * sample_rate), (len(wave) - size) // (2 * PICTURE[1]), 1)
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(size).astype(np.float32), axis=1)) ** 2


def _palette() -> list[int]:
    """Black, violet, orange, pale yellow: 256 colours in order of brightness."""
    stops = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]])
    shades = [np.interp(np.linspace(0, 4, 256), np.arange(5), stops[:, channel]) for channel in range(3)]
    return np.rint(np.stack(shades, axis=1)).astype(int).ravel().tolist()
