"""Drawings: from a curve's record, from a system's own function; no part of what a record stands on."""

import numpy as np
import pytest
from made_records import made
from PIL import Image

from tacit.claims import Comparison
from tacit.claims._drawings import draw, plot
from tacit.claims._evidence import standings
from tacit.claims._found import find_claim, find_claims, read_drawings
from tacit.claims._hashes import code_hash

BLUE, ORANGE = (36, 88, 197), (194, 87, 26)


def coloured(picture, colour, near=40):
    """Rows and columns of the pixels of about this colour."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return np.nonzero(np.abs(pixels - colour).max(-1) < near)


def test_a_plot_rises_where_its_numbers_rise():
    picture = plot([1, 2, 3], {"up": [0.0, 1.0, 2.0], "down": [2.0, 1.0, 0.0]}, x_label="x", y_label="y")
    for colour, sign in ((BLUE, -1), (ORANGE, 1)):
        rows, columns = coloured(picture, colour)
        inside = columns > picture.width // 4  # the legend stands at the left or right; the trend outweighs it
        assert sign * np.corrcoef(rows[inside], columns[inside])[0, 1] > 0.5


def test_words_are_not_joined():
    joined, apart = (
        len(coloured(plot(x, {"scores": [0.1, 0.9]}, x_label="", y_label=""), BLUE)[0])
        for x in (["1", "2"], ["photo", "sketch"])
    )
    assert joined > 3 * apart


def test_draws_curves_from_records_and_the_systems_own_pictures(toy_catalogue, tmp_path):
    curve = Comparison([0.2] * 5, 0.0, "curve", [[0.5, 0.6]] * 5, [[0.4, 0.4]] * 5, "toy-still", {"over": ["10", "20"]})
    made("toy/learns", curve).append(tmp_path)
    known = standings([find_claim("toy/learns")], [tmp_path])
    paths = list(draw(toy_catalogue[0], known, tmp_path / "pictures"))
    assert [path.name for path in paths] == ["toy-learns.png", "toy-weights.png"]
    assert all(len(Image.open(path).getcolors(256)) > 1 for path in paths)


def test_a_drawing_is_no_claim_and_no_part_of_the_code_that_a_record_stands_on(toy_catalogue, tmp_path):
    (found,) = read_drawings(toy_catalogue[0])
    assert found.mark.says == "the two classes' weights, as grey pictures"
    assert found.id not in {one.id for one in find_claims("toy")}
    source = toy_catalogue[0].source.read_text()
    start, end = source.index("@drawing"), source.index("@checked")
    without = (source[:start] + source[end:]).replace("claim, drawing", "claim")
    texts = (source, without, source.replace('lr": 0.1', 'lr": 0.2'))
    files = [tmp_path / f"{number}.py" for number in range(3)]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    with_drawing, without, changed = (code_hash([file]) for file in files)
    assert with_drawing == without != changed


@pytest.mark.parametrize("words", [[], ["toy", "--all"], ["toi"]])
def test_the_command_asks_for_one_system_or_all(words, toy_catalogue, capsys):
    from tacit.cli._main import main

    assert main(["claims", "draw", *words]) == 2
    assert "NAME" in capsys.readouterr().err
