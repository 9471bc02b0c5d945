"""Contact sheets: rows of small pictures side by side, with a word above each column and under each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from tacit.errors import expect

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 96
"""Pixels that a picture is enlarged to at least, by a whole factor, so that its own pixels stay visible."""
GAP, LINE = 8, 15
PAPER, INK = (255, 255, 255), (60, 60, 60)


def contact_sheet(
    rows: Sequence[Sequence[Tensor]],
    *,
    titles: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """One picture of many.

    Args:
        rows: images (c, h, w) of 1 or 3 channels, float in [0, 1] (what lies outside is cut), all of one size; the last
            row may be shorter.
        titles: a word for each column.
        captions: a word for each image, "" for none.

    Raises:
        ArgumentError: no image.

    >>> import torch
    >>> contact_sheet([[torch.zeros(1, 32, 32), torch.ones(1, 32, 32)]], titles=["before", "after"]).size
    (216, 127)
    """
    from PIL import Image, ImageDraw

    expect("rows", len(rows), bool(rows) and bool(rows[0]), "at least one image")
    size = rows[0][0].shape[-1]
    cell = size * max(1, -(-SHOWN // size))
    top, below = GAP + LINE * bool(titles), GAP + LINE * bool(captions)
    sheet = Image.new("RGB", (GAP + len(rows[0]) * (cell + GAP), top + len(rows) * (cell + below)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        pen.text((GAP + column * (cell + GAP), GAP // 2), _fitting(pen, title, cell), fill=INK)
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            x, y = GAP + column * (cell + GAP), top + number * (cell + below)
            sheet.paste(as_picture(image).resize((cell, cell), Image.Resampling.NEAREST), (x, y))
            if captions and captions[number][column]:
                pen.text((x, y + cell + 1), _fitting(pen, captions[number][column], cell), fill=INK)
    return sheet


def as_picture(image: Tensor) -> Image.Image:
    """An image (c, h, w), float in [0, 1], as PIL has it, grey or colour."""
    from PIL import Image

    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())


def _fitting(pen: object, text: str, width: int) -> str:
    """The text, cut where it is too long; letters that the built-in font does not have are left out."""
    text = text.encode("latin-1", "replace").decode("latin-1")
    while text and pen.textlength(text) > width:  # type: ignore[attr-defined]
        text = text[:-2] + "." if len(text) > 2 else ""
    return text
