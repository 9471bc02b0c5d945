"""Letters and digits in the fonts that matplotlib ships, so that every machine has the same ones.

Outlines are filled here, not by a font engine, whose versions hint and round differently.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from tacit.data._drawn import _Chance
from tacit.errors import expect

__all__ = ["FONTS", "glyphs"]

Array = np.ndarray

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmti10",
    "cmtt10",
)
"""The styles of `glyphs`, in the order of their numbers."""

CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SCALES = (0.45, 0.55, 0.65, 0.75)
"""Size of the font (from line to line, about 1.4 times a capital's height) in image widths."""
SHIFT = 1 / 10
"""How far a glyph may lie from the middle, in image widths."""
FINENESS = 8
"""Lines across each pixel on which the ink is measured."""


def glyphs(
    n: int, *, seed: int = 0, image_size: int = 32, characters: str = CAPITALS, fonts: tuple[str, ...] = FONTS
) -> dict[str, Array]:
    """White characters on black: the content is the character, the style the font; place and size vary beside them.

    All factors are drawn independently and uniformly. Each picture shows one of the characters with its bounding box
    in the middle, then moved by whole pixels. The first call draws all characters and keeps them in memory.

    Args:
        image_size: side in pixels, at least 12.
        characters: letters and digits; upper and lower case are different contents.
        fonts: of FONTS.

    Returns:
        x uint8 (n, 1, image_size, image_size), and int64 (n,): y, the content, an index of `characters`; style, an
        index of `fonts`; scale, 0 to 3; position_x and position_y, pixels from the middle, rightwards and downwards.

    Raises:
        ArgumentError: a number out of range, no or repeated characters, an unknown font.

    >>> data = glyphs(5, characters="AB", fonts=("DejaVuSans", "cmr10"))
    >>> data["x"].shape, sorted(data)
    ((5, 1, 32, 32), ['position_x', 'position_y', 'scale', 'style', 'x', 'y'])
    """
    expect("n", n, n >= 1, "at least 1 item")
    expect("seed", seed, seed >= 0, "0 or more")
    expect("image_size", image_size, image_size >= 12, "at least 12 pixels")
    plain = characters.isascii() and characters.isalnum() and len(set(characters)) == len(characters)
    expect("characters", characters, plain, "distinct letters and digits")
    expect("fonts", fonts, len(fonts) >= 1 and set(fonts) <= set(FONTS), f"some of {', '.join(FONTS)}")
    chance, reach = _Chance(seed, 3), int(SHIFT * image_size)
    y, style, scale = (chance.pick(n, count) for count in (len(characters), len(fonts), len(SCALES)))
    right, down = (chance.pick(n, 2 * reach + 1) - reach for _ in range(2))
    drawn = _all(characters, tuple(fonts), image_size)
    # A window on the larger drawing moves the other way.
    rows, columns = (reach - shift[:, None] + np.arange(image_size) for shift in (down, right))
    x = drawn[y[:, None, None], style[:, None, None], scale[:, None, None], rows[:, :, None], columns[:, None, :]]
    return {"x": x[:, None], "y": y, "style": style, "scale": scale, "position_x": right, "position_y": down}


@functools.lru_cache(maxsize=8)
def _all(characters: str, fonts: tuple[str, ...], image_size: int) -> Array:
    """Every glyph in every size, uint8 (characters, fonts, scales, h, w), wider than the picture by the shift."""
    side = image_size + 2 * int(SHIFT * image_size)
    drawn = np.empty((len(characters), len(fonts), len(SCALES), side, side), np.uint8)
    for i, character in enumerate(characters):
        for j, font in enumerate(fonts):
            start, stop = _edges(character, font)
            for k, scale in enumerate(SCALES):
                drawn[i, j, k] = np.rint(255 * _fill(start * scale * image_size, stop * scale * image_size, side))
    drawn.flags.writeable = False
    return drawn


def _edges(character: str, font: str) -> tuple[Array, Array]:
    """The outline's straight pieces, from (m, 2) to (m, 2): x rightwards, y downwards, in font sizes, centred."""
    import matplotlib
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    outline = TextPath((0, 0), character, size=100, prop=FontProperties(fname=file), usetex=False)
    polygons = [np.asarray(polygon) * [0.01, -0.01] for polygon in outline.to_polygons(closed_only=True)]
    start, stop = (np.concatenate([polygon[cut] for polygon in polygons]) for cut in (slice(-1), slice(1, None)))
    middle = (start.min(0) + start.max(0)) / 2
    return start - middle, stop - middle


def _fill(start: Array, stop: Array, side: int) -> Array:
    """The share of each pixel inside the outline: (side, side) in [0, 1], the outline's origin in the middle.

    On FINENESS lines across each pixel row, each crossing of the outline turns what lies to its right from outside to
    inside or back.
    """
    rows = side * FINENESS
    line = (np.arange(rows) + 0.5) / FINENESS - side / 2
    (x0, y0), (x1, y1) = start.T, stop.T
    row, edge = np.nonzero((np.minimum(y0, y1) <= line[:, None]) & (line[:, None] < np.maximum(y0, y1)))
    x = x0[edge] + (line[row] - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge]) + side / 2
    x = np.clip(x, 0, side - 1e-9)
    way, column = np.sign(y1 - y0)[edge], np.floor(x).astype(np.int64)
    # From the crossing on all is turned: the pixel in which it lies by the share that is right of it.
    place, share = row * (side + 1) + column, x - column
    change = np.bincount(np.append(place, place + 1), np.append(way * (1 - share), way * share), rows * (side + 1))
    inside = np.abs(np.cumsum(change.reshape(rows, side + 1)[:, :side], axis=1))
    return np.minimum(inside, 1).reshape(side, FINENESS, side).mean(1)
