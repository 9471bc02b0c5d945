"""Reports on texts, sounds, series, tables and graphs: what stands for an item, and what it is called."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tacit.report import name_by_words, write_card, write_report
from tacit.report._pictures import sheets, size_of
from tacit.store import Items

from .test_page import Page, unpack

NOUNS = {"text": "texts", "audio": "sounds", "series": "series", "table": "rows", "points": "points"}
HOSTILE = "</script><script>alert('1')</script> \"quoted\" & <b>bold</b> שלום עולם \u202etxt.exe"


def png(width, height, shade=200):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 30, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def of_kind(modality, noun=None):
    def change(summary):
        summary["data"].update(modality=modality, lines=[], **({"noun": noun} if noun else {}))
        summary["method"]["summary"] = ""
        summary["neighbours"] = None
        del summary["data"]["image_size"]

    return change


@pytest.fixture
def texts(make_run):
    """The page of a run of texts, one in six of them hostile."""
    said = [f"{HOSTILE} {'word ' * 50}", *(f"text {i} says enough to fill a line" for i in range(5))]

    def change(summary):
        of_kind("text")(summary)
        for sheet in summary["clusters"]["per_cluster"]:
            sheet["name"] = "oil, <i>prices</i>"

    return Page(write_report(make_run(thumbnail=lambda c, rng: said[c % 6].encode(), change=change)))


def test_texts_are_lists_of_their_beginnings_and_nothing_else(texts):
    assert len(texts.all("script")) == 2  # the data of the map, and the page of its own
    assert not texts.all("img")
    assert not [name for element in texts.elements for name in element if name.startswith("on")]
    assert "\u202e" not in texts.source
    assert texts.all("body", class_="as-texts")
    shown = [element["text"] for element in texts.all("span", class_="blank")]
    assert all(element["dir"] == "auto" for element in texts.all("span", class_="blank"))
    assert len(shown) == 12 * 6 + 7 + 12 + 12 * 5  # of clusters, duplicates, the least typical and neighbourhoods
    (hostile,) = {text for text in shown if "script" in text}
    assert hostile.startswith(HOSTILE.replace("\u202e", "\ufffd"))
    assert len(hostile) <= 200
    assert hostile.endswith("...")


def test_texts_stand_beside_the_points_of_the_map(texts):
    data = texts.map
    assert len(data["texts"]) == data["n"]
    assert data["texts"][1] == "text 0 says enough to fill a line"
    assert data["texts"][0].startswith(HOSTILE.replace("\u202e", "\ufffd"))
    assert max(map(len, data["texts"])) <= 200
    (raw,) = re.findall(r'id="map-data">(.*?)</script>', texts.source, re.S)
    assert not set(raw) & set("<>&")
    assert [kind["name"] for kind in data["colours"][0]["classes"]][:1] == ["cluster 0: oil, <i>prices</i>"]
    assert "&lt;i&gt;prices" in texts.source


def test_texts_that_would_not_fit_are_shortened_then_left_out(make_run, monkeypatch):
    run = make_run(thumbnail=lambda c, rng: b"a word or two, " * 20)
    for most, length in ((180 * 210, 200), (180 * 130, 120), (180 * 70, 60)):
        monkeypatch.setattr("tacit.report._points.TEXTS_BYTES", most)
        assert max(map(len, Page(write_report(run)).map["texts"])) <= length
    monkeypatch.setattr("tacit.report._points.TEXTS_BYTES", 180 * 39)
    assert Page(write_report(run)).map["texts"] is None


def test_a_caption_beside_a_picture_is_said_on_the_map(make_run):
    run = make_run(12)
    items = Items.open(run)
    assert Page(write_report(run)).map["texts"] is None
    from tacit.report._points import text_of

    assert text_of(json.dumps({"caption": "a red disc"}), items.rows([0])[0]["thumbnail"]) == "a red disc"
    assert text_of('{"caption": 3}', b"said") == "said"
    assert text_of('"caption"', b"\xff\xd8\xff") == ""


def test_pictures_of_unequal_size_are_seen_whole(make_run):
    shapes = [(128, 64), (40, 64), (90, 20)]
    run = make_run(60, thumbnail=lambda c, rng: png(*shapes[c % 3], shade=60 + 60 * (c % 3)), change=of_kind("audio"))
    page = Page(write_report(run))
    assert page.all("body", class_="as-drawn")
    assert page.all("body", class_="as-wide")
    assert {(image["width"], image["height"]) for image in page.all("img")} == {(str(w), str(h)) for w, h in shapes}
    data = page.map
    assert data["cell"] == [128, 64]
    sheet = Image.open(io.BytesIO(base64.b64decode(data["sheets"][0].split(",")[1])))
    sprite = unpack(data["sprite"], "<u4")
    for k in range(0, 60, 7):
        left, top = k % 32 * 128, k // 32 * 64
        cell = np.asarray(sheet.crop((left, top, left + 128, top + 64)), float)
        assert np.abs(cell.mean(axis=(0, 1)) - (60 + 60 * (sprite[k] % 12 % 3), 30, 40)).max() < 4


def test_a_wide_picture_fills_its_cell_without_being_cut():
    picture = Image.new("RGB", (160, 48), "white")
    picture.paste("black", (0, 0, 16, 48))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    assert size_of(buffer.getvalue()) == (160, 48)
    uris, cell, _ = sheets([buffer.getvalue()], whole=True)
    assert cell == (160, 48)
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(uris[0].split(",")[1]))).convert("L"))
    assert drawn[:, :12].max() < 40
    assert drawn[:, 24:].min() > 215
    assert sheets([buffer.getvalue()])[1] == (64, 64)


@pytest.mark.parametrize("thumbnail", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\xff" * 16])
def test_what_is_no_picture_has_no_size(thumbnail):
    assert size_of(thumbnail) is None


@pytest.mark.parametrize("modality", NOUNS)
def test_items_are_called_what_they_are(make_run, modality):
    run = make_run(30, thumbnail=lambda c, rng: png(160, 48), change=of_kind(modality))
    page, card = Page(write_report(run)), write_card(run).read_text()
    nouns = NOUNS[modality]
    assert f"30 {nouns}, learned from" in page.all("p", class_="lede")[0]["text"]
    assert f"Accuracy on {nouns} kept apart" in page.section("labels")
    assert f"The {nouns} least like" in page.section("untypical")
    assert f"30 {nouns} from `pictures/shapes`" in card
    assert "images" not in page.all("main")[0]["text"] + card


def test_graphs_are_nodes_or_graphs(make_run):
    assert "30 nodes" in write_card(make_run(30, change=of_kind("graph"))).read_text()
    assert "30 graphs" in write_card(make_run(30, change=of_kind("graph", "graph"))).read_text()


@pytest.mark.parametrize(
    ("modality", "search"), [("text", "'a few words'"), ("audio", "query.wav"), ("table", "--item 0")]
)
def test_the_card_shows_commands_that_work(make_run, modality, search):
    card = write_card(make_run(3, change=of_kind(modality))).read_text()
    assert f"tacit search this/folder {search}\n" in card
    assert "onnx" not in card


def test_without_views_the_labels_tell_whether_it_sees_more_than_the_raw_input(make_run):
    page = Page(write_report(make_run(30, change=of_kind("table"))))
    (numbers,) = (element for element in page.all("section") if element.get("id") == "numbers")
    text = re.sub(r"[ \n]+", " ", numbers["text"])
    assert "87\u00a0% right about “folder” by the nearest others, patch k-means 74\u00a0%" in text
    assert "By k-NN, the trained encoder beats the best of the others" in text

    def change(summary):
        of_kind("text")(summary)
        summary["method"]["id"] = "lsa"
        rows = summary["labels"][0]["rows"]
        summary["labels"][0]["rows"] = [rows[0], {**rows[4], "encoder": "LSA"}]

    page = Page(write_report(make_run(30, change=change)))
    assert "this method is the baseline itself" in page.source
    assert "does not beat" not in page.source
    assert "LSA" not in page.section("labels")  # it is no baseline of itself

    def bare(summary):
        of_kind("text")(summary)
        summary["labels"] = None

    assert "Which changes leave texts the same is not known" in Page(write_report(make_run(30, change=bare))).source


def test_rows_of_tables_are_named_by_their_categories():
    rows = [
        "age 29, job clerk, town Ulm",
        "age 31, job clerk, town Bonn",
        "age 29, job cook, town Ulm",
        "age 44, jo...",
    ]
    rows += ["age 50, job cook, town Bonn"]
    assert name_by_words(np.array([0, 0, 1, 1, 1]), rows, values=True) == ["job clerk, town Bonn, town Ulm", "job cook"]
