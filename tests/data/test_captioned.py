import numpy as np
import pytest

from tacit.data import FONTS, captioned_glyphs, glyph_names, glyphs
from tacit.data._captioned import SYNONYMS, TILE
from tacit.data._drawn import COLOURS
from tacit.errors import ArgumentError

WHERE = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1), "middle": (0.5, 0.5)}


def test_each_caption_names_the_character_and_the_colour_of_its_picture():
    data = captioned_glyphs(200, seed=1, image_size=16, characters="BCD7")
    colours = list(COLOURS)
    for text, character, colour in zip(data["text"], data["character"], data["colour"], strict=True):
        words = text.replace(",", "").split()
        assert "BCD7"[character] in words
        assert any(word in words for word in SYNONYMS[colours[colour]])


def test_ink_is_the_glyph_in_its_colour_at_its_place():
    n, size = 40, 20
    data = captioned_glyphs(n, seed=2, image_size=size, noise=0)
    tile = round(TILE * size)
    ink = glyphs(n, seed=2, image_size=tile, characters="BCDEFGHJKL")["x"][:, 0] / 255
    for item in range(n):
        down, right = list(WHERE.values())[data["place"][item]]
        top, left = int(down * (size - tile)), int(right * (size - tile))
        window = data["image"][item, :, top : top + tile, left : left + tile].astype(float)
        ground = data["image"][item, :, -1 if top == 0 else 0, 0].astype(float)
        paint = np.array(list(COLOURS.values())[data["colour"][item]], float)
        expected = ground[:, None, None] * (1 - ink[item]) + paint[:, None, None] * ink[item]
        assert np.abs(window - expected).max() <= 1


def test_held_out_pairs_are_never_seen_and_every_factor_is():
    data = captioned_glyphs(3000, seed=3, image_size=16, held_out=1000, target="pair")
    seen, held_out = set(data["y"][:2000].tolist()), set(data["y"][2000:].tolist())
    assert not seen & held_out
    assert len(seen | held_out) == 80
    assert len(held_out) == 16
    for factor, count in (("character", 10), ("colour", 8), ("size", 2), ("place", 5)):
        assert len(np.unique(data[factor][:2000])) == count


def test_the_pair_is_named_by_its_number():
    data = captioned_glyphs(50, seed=4, image_size=16, characters="XY", target="pair")
    names = glyph_names("pair", "XY")
    assert names[8] == "red Y"
    for y, character, colour in zip(data["y"], data["character"], data["colour"], strict=True):
        assert names[y] == f"{list(COLOURS)[colour]} {'XY'[character]}"


def test_shifts():
    plain = captioned_glyphs(20, seed=5, image_size=16, noise=0)
    inverted = captioned_glyphs(20, seed=5, image_size=16, noise=0, inverted=True)
    assert np.array_equal(inverted["image"], 255 - plain["image"])
    noisy = captioned_glyphs(20, seed=5, image_size=16, noise=40.0)["image"].astype(float)
    deviation = (noisy - plain["image"])[plain["image"] > 60].std()
    assert deviation == pytest.approx(40 / 6**0.5, rel=0.15)  # triangular on [-40, 40]
    other = captioned_glyphs(20, seed=5, image_size=16, fonts=FONTS[12:])
    assert not np.array_equal(other["image"], plain["image"])
    assert other["style"].max() < 9


def test_seeds():
    a, b, c = (captioned_glyphs(20, seed=seed, image_size=16) for seed in (0, 0, 1))
    assert np.array_equal(a["image"], b["image"])
    assert a["text"] == b["text"]
    assert not np.array_equal(a["image"], c["image"])


@pytest.mark.parametrize(
    "bad", [{"image_size": 10}, {"held_out": 6}, {"target": "colour"}, {"noise": 300}, {"characters": "AA"}, {"n": 0}]
)
def test_what_cannot_be_is_refused(bad):
    with pytest.raises(ArgumentError, match=next(iter(bad))):
        captioned_glyphs(**{"n": 5, "image_size": 16, **bad})
