"""Time series as arrays (channels, time): shortened by means, and drawn."""

from __future__ import annotations

import io
import warnings

import numpy as np
from torch import Tensor

__all__ = ["average_steps", "sparkline_png"]

COLOURS = ("#2a5d9f", "#c2571a", "#3a8a4d", "#8a4fa3", "#a8892c", "#2b8c99", "#b0435f", "#666666")


def average_steps(series: np.ndarray, stride: int) -> np.ndarray:
    """Means over `stride` steps each, of what there is: (channels, time) -> (channels, ceil(time / stride)).

    >>> average_steps(np.array([[1.0, 3.0, np.nan, 5.0, 7.0]]), 2).tolist()
    [[2.0, 5.0, 7.0]]
    """
    if stride == 1:
        return series
    missing = -series.shape[1] % stride
    padded = np.pad(np.asarray(series, np.float32), ((0, 0), (0, missing)), constant_values=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN, as is wanted here
        return np.nanmean(padded.reshape(len(series), -1, stride), axis=2)


def sparkline_png(series: np.ndarray | Tensor, *, width: int = 160, height: int = 48) -> bytes:
    """A small picture of a series: a line for each variable, each over its own range, broken where values are missing.

    Args:
        series: (channels, time) or (time,), NaN where there is no value.
        width: in pixels.
        height: in pixels, at most 64.

    Returns:
        PNG.

    >>> sparkline_png(np.sin(np.arange(50.0)))[:4]
    b'\\x89PNG'
    """
    from PIL import Image, ImageDraw

    values = np.asarray(series, np.float64)
    values = values[None] if values.ndim == 1 else values
    there = np.flatnonzero(np.isfinite(values).any(axis=0))
    values = values[:, : there[-1] + 1] if len(there) else values[:, :0]
    values = average_steps(values, max(1, -(-values.shape[1] // width)))  # a step a pixel, at most
    height, scale = min(height, 64), 3  # drawn larger, then reduced: smooth lines
    image = Image.new("RGB", (width * scale, height * scale), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(values):
        colour = COLOURS[number % len(COLOURS)]
        for run in _runs(line, width * scale, height * scale, margin=2 * scale):
            if len(run) == 1:
                (x, y), r = run[0], scale
                draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
            else:
                draw.line(run, fill=colour, width=scale + 1, joint="curve")
    encoded = io.BytesIO()
    image.resize((width, height), Image.Resampling.BOX).quantize(32).save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def _runs(line: np.ndarray, width: int, height: int, margin: int) -> list[list[tuple[float, float]]]:
    """Runs of points in pixels, of values that follow each other."""
    there = np.isfinite(line)
    if not there.any():
        return []
    low, high = line[there].min(), line[there].max()
    y = (line - low) / (high - low) if high > low else np.where(there, 0.5, np.nan)
    x = margin + np.arange(len(line)) * ((width - 2 * margin) / max(len(line) - 1, 1))
    y = height - margin - y * (height - 2 * margin)
    breaks = np.flatnonzero(np.diff(there.astype(int))) + 1
    parts = np.split(np.arange(len(line)), breaks)
    return [list(zip(x[part].tolist(), y[part].tolist(), strict=True)) for part in parts if there[part[0]]]
