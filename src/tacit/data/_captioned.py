"""Drawn characters with captions: what is learned from pairs of picture and text, its truth known."""

from __future__ import annotations

from typing import Any

import numpy as np

from tacit.data._drawn import COLOURS, _Chance, _sensor_noise
from tacit.data._glyphs import FONTS, glyphs
from tacit.errors import expect

__all__ = ["captioned_glyphs", "glyph_names"]

Array = np.ndarray

CHARACTERS = "BCDEFGHJKL"
"""Without A and I, which are words of their own."""

TILE = 4 / 5
"""Side of the square that the glyph is drawn in, in picture widths; its place moves it over the rest."""

PLACES = {
    "top left": (0.0, 0.0),
    "top right": (0.0, 1.0),
    "bottom left": (1.0, 0.0),
    "bottom right": (1.0, 1.0),
    "middle": (0.5, 0.5),
}
"""Where the tile lies, downwards and rightwards: 0 and 1 touch the border."""

SIZES = ("small", "large")
"""Two each of the four scales of `glyphs`."""

HELD_OUT_EVERY = 5
"""One pair of character and colour in so many is held out."""

SYNONYMS = {
    "red": ("red", "red", "crimson", "scarlet"),
    "orange": ("orange", "orange", "amber"),
    "yellow": ("yellow", "yellow", "golden"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "azure"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink", "pink", "rosy"),
    "white": ("white", "white", "pale"),
    "small": ("small", "small", "tiny", "little"),
    "large": ("large", "large", "big"),
}
"""How captions call a colour or a size; one word of them at random."""

WORDINGS = (
    "a {size} {colour} {character} in the {place}",
    "a {style} {character}, {colour}",
    "{colour} {character}, {size} and {style}, {place}",
    "in the {place} there is a {colour} {character}",
    "the {character} is {colour} and {size}",
    "here you see a {style} {colour} {character} on a dark ground",
    "photo by {name} of a {colour} {character}",
    "{character} in {colour}, taken on a {day}",
)
"""As people write: in many ways, not all of the picture, and some of what nobody can see in it."""

NAMES = ("anna", "boris", "chen", "divya", "emeka", "fatima", "goran", "hana")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def captioned_glyphs(
    n: int,
    *,
    seed: int = 0,
    image_size: int = 32,
    characters: str = CHARACTERS,
    fonts: tuple[str, ...] = FONTS,
    held_out: int = 0,
    target: str = "character",
    noise: float = 8.0,
    inverted: bool = False,
) -> dict[str, Any]:
    """Pictures of one coloured character each on a dark ground, and what somebody might have written beside them.

    Character, font, size, colour and place are drawn independently and uniformly. Captions come in eight wordings with
    synonyms; every one names the character and its colour, most leave other factors out, and some say what the picture
    does not show. `noise`, `inverted` and other `fonts` make a shifted domain. Every machine draws the same.

    Args:
        n: number of pairs.
        seed: at least 0.
        image_size: side in pixels, at least 15.
        characters: letters and digits; A and I are words of captions, too.
        fonts: of `tacit.data.glyphs`.
        held_out: the last so many items show pairs of character and colour, a fifth of all, that the others never show;
            with 0 every item may show every pair.
        target: what `y` is: `character`, or `pair`: character times the number of colours, plus colour.
        noise: largest grey levels that sensor noise adds or takes (triangular), 0 to 255.
        inverted: pixels become 255 minus themselves, after the noise.

    Returns:
        image uint8 (n, 3, image_size, image_size); text, a list of n captions; int64 (n,): y, character, colour, size
        (0 small, 1 large), style (an index of `fonts`), place.

    Raises:
        ArgumentError: a number out of range, or characters or fonts that `glyphs` does not take.

    >>> data = captioned_glyphs(3, image_size=20)
    >>> data["image"].shape, data["text"][0]
    ((3, 3, 20, 20), 'pale K, little and slanted, bottom left')
    >>> glyph_names("pair")[int(data["character"][0]) * 8 + int(data["colour"][0])]
    'white K'
    """
    expect("image_size", image_size, image_size >= 15, "at least 15 pixels")
    expect("held_out", held_out, 0 <= held_out <= n, f"0 to n={n} items")
    expect("target", target, target in ("character", "pair"), "'character' or 'pair'")
    expect("noise", noise, 0 <= noise <= 255, "grey levels from 0 to 255")
    drawn = glyphs(n, seed=seed, image_size=round(TILE * image_size), characters=characters, fonts=fonts)
    chance = _Chance(seed, 4)
    character, style, size = drawn["y"], drawn["style"], drawn["scale"] // 2
    colour, place = _colours(character, held_out, chance), chance.pick(n, len(PLACES))
    image = _paint(drawn["x"][:, 0], colour, place, image_size, chance)
    image = np.rint(np.clip(image + _sensor_noise(chance, image.shape) * np.float32(noise / 8), 0, 255))
    image = image.astype(np.uint8)
    factors = {"character": character, "colour": colour, "size": size, "style": style, "place": place}
    return {
        "image": 255 - image if inverted else image,
        "text": _captions(factors, characters, fonts, chance),
        "y": character if target == "character" else character * len(COLOURS) + colour,
        **factors,
    }


def glyph_names(target: str = "character", characters: str = CHARACTERS) -> list[str]:
    """What the classes of `captioned_glyphs` are called, in the order of their numbers.

    >>> glyph_names("character", "BC"), glyph_names("pair", "BC")[:2]
    (['B', 'C'], ['red B', 'orange B'])
    """
    if target == "character":
        return list(characters)
    return [f"{colour} {character}" for character in characters for colour in COLOURS]


def _colours(character: Array, held_out: int, chance: _Chance) -> Array:
    """A colour for each item, (n,); of the last `held_out` items one that the others never have with that character."""
    n, count = len(character), len(COLOURS)
    if held_out == 0:
        return chance.pick(n, count)
    kept = (character[:, None] + np.arange(count)) % HELD_OUT_EVERY != 0
    allowed = np.where(np.arange(n)[:, None] < n - held_out, kept, ~kept)
    order = np.argsort(~allowed, axis=1, kind="stable")  # the allowed ones first
    chosen = (chance.uniform(n) * allowed.sum(1)).astype(np.int64)
    return order[np.arange(n), chosen]


def _paint(ink: Array, colour: Array, place: Array, size: int, chance: _Chance) -> Array:
    """Ink, uint8 (n, tile, tile), in its colour on a dark ground: float32 (n, 3, size, size)."""
    n, tile = len(ink), ink.shape[1]
    ground = chance.uniform(3 * n, 0, 70).reshape(n, 3, 1, 1).astype(np.float32)
    ground = np.repeat(np.repeat(ground, size, 2), size, 3)
    paint = np.asarray(list(COLOURS.values()), np.float32)[colour][:, :, None, None]
    share = ink[:, None].astype(np.float32) / 255
    for number, (down, right) in enumerate(PLACES.values()):
        items = np.flatnonzero(place == number)
        top, left = int(down * (size - tile)), int(right * (size - tile))
        window = ground[items, :, top : top + tile, left : left + tile]
        ground[items, :, top : top + tile, left : left + tile] = window + (paint[items] - window) * share[items]
    return ground


def _captions(factors: dict[str, Array], characters: str, fonts: tuple[str, ...], chance: _Chance) -> list[str]:
    n, colours, places = len(factors["character"]), list(COLOURS), list(PLACES)
    wording, word, name, day = (chance.uniform(n) for _ in range(4))
    captions = []
    for item in range(n):
        character, colour, size, style, place = (int(column[item]) for column in factors.values())
        caption = WORDINGS[int(wording[item] * len(WORDINGS))].format(
            character=characters[character],
            colour=_one_of(SYNONYMS[colours[colour]], word[item]),
            size=_one_of(SYNONYMS[SIZES[size]], word[item]),
            style=_style(fonts[style]),
            place=places[place],
            name=_one_of(NAMES, name[item]),
            day=_one_of(DAYS, day[item]),
        )
        captions.append(_with_articles(caption))
    return captions


def _one_of(words: tuple[str, ...], chance: float) -> str:
    return words[int(chance * len(words))]


def _style(font: str) -> str:
    """What a reader calls it."""
    bold = "Bol" in font or font == "cmb10"
    slanted = "Oblique" in font or "Ita" in font or font == "cmti10"
    return "bold slanted" if bold and slanted else "bold" if bold else "slanted" if slanted else "plain"


def _with_articles(caption: str) -> str:
    words = caption.split(" ")
    vowel = [after[:1] in "aeiou" for after in words[1:]]
    return " ".join(
        "an" if word == "a" and next_is_vowel else word
        for word, next_is_vowel in zip(words, [*vowel, False], strict=True)
    )
