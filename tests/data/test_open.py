"""What open finds, in everything it takes, and what it makes of it."""

import base64
import io
import json
import os
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from tacit import data
from tacit.errors import ArgumentError, DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TACIT_CACHE", str(folder))
    return folder


def noise(seed, size=(32, 32), channels=3):
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels):
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def write(folder, names):
    """A different image of 32 x 32 pixels under each name; returns name -> pixels (3, 32, 32)."""
    pixels = {}
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels[name] = noise(seed)
        path.write_bytes(png(pixels[name]))
    return {name: image.transpose(2, 0, 1) for name, image in pixels.items()}


def images_of(source):
    return source.dataset["x"][:].numpy()


# Folders and what is like them ----------------------------------------------------------------------------------------


def test_a_nested_folder_in_the_order_of_relative_paths(tmp_path):
    written = write(tmp_path, ["b/2.png", "b/1.PNG", "a.png", "c/d/e.png", "b.png"])
    source = data.open(tmp_path)
    assert source.uris == sorted(written)
    for image, name in zip(images_of(source), source.uris, strict=True):
        np.testing.assert_array_equal(image, written[name])
    assert source.where == str(tmp_path)
    assert source.modality == source.dataset.modality == "image"
    assert source.sizes.tolist() == [[32, 32]] * 5
    assert source.dataset.names == ("index", "x")


def test_a_zip_and_a_glob_hold_what_the_folder_holds(tmp_path):
    folder = tmp_path / "photos"
    write(folder, ["b/1.png", "a.png", "c.png"])
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("c.png", "b/1.png", "a.png"):
            packed.write(folder / name, name)
        packed.writestr("__MACOSX/a.png", b"not this")
        packed.writestr(".hidden.png", b"nor this")
    expected = data.open(folder)
    zipped, globbed = data.open(archive), data.open(str(folder / "**" / "*.png"))
    assert zipped.uris == globbed.uris == expected.uris
    assert zipped.hashes == globbed.hashes == expected.hashes
    np.testing.assert_array_equal(images_of(zipped), images_of(expected))
    assert zipped.dataset.fingerprint == globbed.dataset.fingerprint == expected.dataset.fingerprint


def test_a_glob_with_folders_and_a_list_of_paths(tmp_path):
    written = write(tmp_path, ["2021/a.png", "2022/b.png", "other/c.png", "2021.png"])
    assert data.open(f"{tmp_path}/202?").uris == ["2021/a.png", "2022/b.png"]
    listed = data.open([tmp_path / "other/c.png", str(tmp_path / "2021/a.png")])
    assert listed.uris == ["2021/a.png", "other/c.png"]
    np.testing.assert_array_equal(images_of(listed)[1], written["other/c.png"])


def test_a_folder_whose_name_has_wildcards_is_that_folder(tmp_path):
    write(tmp_path / "photos [1]*", ["a.png"])
    assert data.open(tmp_path / "photos [1]*").uris == ["a.png"]


def test_a_glob_below_a_folder_whose_name_has_wildcards(tmp_path):
    write(tmp_path / "photos [1]" / "b", ["a.png"])
    write(tmp_path / "photos 1", ["c.png"])
    for pattern in ("photos [1]/*/*.png", "photos [1]/*"):
        assert len(data.open(f"{tmp_path}/{pattern}")) == 1
    assert data.open(f"{tmp_path}/photos [12]/*.png").uris == ["photos 1/c.png"]
    with pytest.raises(DataError, match="no such file"):
        data.open(f"{tmp_path}/photos [1]/lost.png")


def write_run(folder):
    write(folder / "label" / "1", ["sheet.png"])
    (folder / "config.json").write_text('{"format": 1, "made": {}, "data": {}}')
    (folder / "report.html").write_text("<p>A report on some pictures.</p>")


def test_what_tacit_made_beside_the_data_is_none_of_it(tmp_path):
    write(tmp_path, ["a.png", "b/c.png"])
    (tmp_path / "b" / "config.json").write_text('{"format": 1}')  # of another program
    write_run(tmp_path / "run")
    write_run(tmp_path / "b" / "run.before-20260101")
    expected = [("b/run.before-20260101", "a run of tacit"), ("run", "a run of tacit")]
    for place in (tmp_path, f"{tmp_path}/**/*", f"{tmp_path}/**/*.png"):
        source = data.open(place, on_error="raise")
        assert source.uris == ["a.png", "b/c.png"]
        assert sorted(one for one in source.skipped if "config" not in one.uri) == expected
    assert "2 a run of tacit" in " ".join(data.open(tmp_path).describe())
    assert data.open(tmp_path / "run").uris == ["label/1/sheet.png"]  # it is what was asked for


def test_a_relative_path_and_the_home(tmp_path, monkeypatch):
    write(tmp_path / "photos", ["a.png"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.open("photos").where == data.open("~/photos").where == str(tmp_path / "photos")


def test_other_files_are_listed_as_skipped_and_hidden_ones_are_not(tmp_path):
    write(tmp_path, ["a.png", "b.png", ".c.png", ".git/d.png"])
    (tmp_path / "notes.docx").write_bytes(b"x")
    (tmp_path / "LICENSE").write_bytes(b"x")
    source = data.open(tmp_path)
    assert source.uris == ["a.png", "b.png"]
    assert source.skipped == [
        ("LICENSE", "not an image by its name: no ending"),
        ("notes.docx", "not an image by its name: .docx"),
    ]
    assert "Skipped 2: 2 not an image by its name." in source.describe()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.mp4", "b.npy", "c.npy"], "2 array files, 1 video file"),
        (["a.mp4", "b.mp4", "c.png"], "looked for clips .*3 skipped; the first: a.mp4: damaged"),
        (["a.pdf", "b.json"], r"looked for texts \(\.txt, .* holds 2 text files"),
        (["a.csv", "b.csv", "c.png"], "2 table files: modality='series' takes each for a series"),
        (["a.wav"], r"a\.wav cannot be read as sound: not audio: text"),
        (["a.wav", "b.wav", "c.png"], "looked for sounds, 2 skipped; the first: a.wav: not audio: text"),
    ],
)
def test_a_folder_of_nothing_that_can_be_read_is_refused_by_name(tmp_path, names, found):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=found):
        data.open(tmp_path)


def test_a_folder_is_of_the_kind_of_most_of_its_files_and_of_images_in_a_tie(tmp_path):
    write(tmp_path, ["a.png", "b.png"])
    for name in ("c.txt", "d.md"):
        (tmp_path / name).write_text("The sun rises.")
    source = data.open(tmp_path)
    assert (source.modality, source.uris) == ("image", ["a.png", "b.png"])
    (tmp_path / "e.txt").write_text("The sun sets.")
    source = data.open(tmp_path, on_error="raise")
    assert (source.modality, source.uris) == ("text", ["c.txt", "d.md", "e.txt"])
    assert source.skipped == [(name, "not a text by its name: .png") for name in ("a.png", "b.png")]
    assert data.open(tmp_path, modality="image").uris == ["a.png", "b.png"]


def test_files_about_pictures_have_no_vote(tmp_path):
    voc, coco = tmp_path / "voc", tmp_path / "coco"
    write(voc, [f"JPEGImages/{n}.png" for n in range(6)])
    (voc / "Annotations").mkdir()
    for number in range(6):
        (voc / "Annotations" / f"{number}.xml").write_text(f"<name>cat</name><n>{number}</n>")
        write(coco, [f"{number}.png"])
        (coco / f"{number}.png.json").write_text("{}")
        (coco / f"other {number}.json").write_text("{}")
    for folder, other in ((voc, "README.txt"), (coco, "classes.txt")):
        (folder / other).write_text("what is what")
        source = data.open(folder)
        assert (source.modality, len(source)) == ("image", 6)
        assert not any("Also there" in line for line in source.remarks)


def test_pictures_that_are_fewer_than_the_texts_are_spoken_of(tmp_path):
    write(tmp_path, ["a.png", "b.png"])
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"a text of its own, {number}")
    source = data.open(tmp_path)
    assert (source.modality, len(source)) == ("text", 3)
    assert source.remarks[-1] == "Also there: 2 pictures, not read; --modality image takes them instead."


def test_one_table_among_other_files_is_opened_and_the_others_are_listed(tmp_path):
    (tmp_path / "rows.csv").write_text("age,weight\n" + "\n".join(f"{n},{n * n % 7}.5" for n in (3, 1, 4, 1, 5)))
    (tmp_path / "LICENSE").write_text("free")
    source = data.open(tmp_path)
    assert (source.modality, len(source)) == ("table", 5)
    assert source.skipped == [("LICENSE", "no table by its name: no ending")]
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as packed:
        packed.write(tmp_path / "rows.csv", "rows.csv")
    with pytest.raises(DataError, match="1 table file: unpack it first"):
        data.open(tmp_path / "rows.zip")


def test_modality_image_takes_the_minority_and_files_without_an_ending(tmp_path):
    write(tmp_path, ["a.png"])
    (tmp_path / "b.wav").write_bytes(b"x")
    (tmp_path / "c.wav").write_bytes(b"x")
    assert data.open(tmp_path, modality="image").uris == ["a.png"]
    write(tmp_path / "bare", ["0001", "0002"])
    with pytest.raises(DataError, match="nothing to learn from"):
        data.open(tmp_path / "bare")
    assert len(data.open(tmp_path / "bare", modality="image")) == 2


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        ("text", "looked for texts"),
        ("audio", "looked for sounds"),
        ("table", "looked for a table"),
        ("series", "series"),
        ("graph", "graph"),
        ("pairs", "holds no captions: expected a .txt beside each image"),
    ],
)
def test_a_kind_that_is_asked_for_and_not_there(tmp_path, modality, message):
    write(tmp_path, ["a.png", "b.png"])
    with pytest.raises(DataError, match=message):
        data.open(tmp_path, modality=modality)


def test_pairs_are_images_with_captions(tmp_path):
    write(tmp_path, ["a.png", "b.png"])
    (tmp_path / "a.txt").write_text("an apple")
    source = data.open(tmp_path, modality="pairs")
    assert source.captions == ["an apple", None]
    assert set(source.pairs()) == {"image", "text"}


def test_what_is_not_there(tmp_path, monkeypatch):
    write(tmp_path / "photos", ["a.png"])
    with pytest.raises(DataError, match="did you mean 'photos'"):
        data.open(tmp_path / "fotos")
    with pytest.raises(DataError, match="there is no folder"):
        data.open(tmp_path / "no" / "photos")
    with pytest.raises(DataError, match="nothing to learn from"):
        data.open(f"{tmp_path}/*.jpg")
    with pytest.raises(DataError, match="cannot be looked at"):
        data.open("x" * 5000)
    with pytest.raises(DataError, match="no such file"):
        data.open("a\0b")
    with pytest.raises(DataError, match="x=dict: expected a path"):
        data.open({})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"modality": "imag"}, "did you mean 'image'"),
        ({"on_error": "rase"}, "did you mean 'raise'"),
        ({"image_size": 0}, "from 1 to 256"),
        ({"image_size": 300}, "from 1 to 256"),
        ({"image_size": 32.5}, "from 1 to 256"),
        ({"labels": "colour"}, "files have no columns"),
        ({"labels": "folder"}, "files in subfolders"),
    ],
)
def test_settings_that_cannot_be(tmp_path, setting, message):
    write(tmp_path, ["a.png"])
    with pytest.raises(ArgumentError, match=message):
        data.open(tmp_path, **setting)


def test_a_source_passes_through(tmp_path):
    write(tmp_path, ["a.png"])
    source = data.open(tmp_path)
    assert data.open(source) is source


# Labels and captions --------------------------------------------------------------------------------------------------


def test_folders_are_labels_if_2_to_a_fifth_of_n_hold_everything(tmp_path):
    write(tmp_path, [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(5)])
    source = data.open(tmp_path)
    assert source.labels == {"folder": ["cat"] * 5 + ["dog"] * 5}
    assert source.labels_from == "folder names"
    assert "y" not in source.dataset
    assert source.dataset.names == ("index", "x")
    assert any("never used for learning" in line for line in source.describe())
    assert data.open(tmp_path, labels="none").labels == {}

    write(tmp_path, ["owl/1.png"])  # 3 folders, but 11 images
    assert data.open(tmp_path).labels == {}
    assert data.open(tmp_path, labels="folder").labels["folder"][-1] == "owl"


def test_a_stray_image_outside_all_folders_means_no_labels(tmp_path):
    write(tmp_path, [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(8)] + ["x.png"])
    assert data.open(tmp_path).labels == {}
    assert data.open(tmp_path, labels="folder").labels["folder"][-1] is None


def test_the_folder_that_all_share_is_no_label(tmp_path):
    write(tmp_path, [f"all/{kind}/deep/{number}.png" for kind in ("cat", "dog") for number in range(5)])
    assert data.open(tmp_path).labels == {"folder": ["cat"] * 5 + ["dog"] * 5}


def test_labels_follow_the_items_that_are_kept(tmp_path):
    write(tmp_path, [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(6)])
    (tmp_path / "cat" / "3.png").write_bytes(b"")
    source = data.open(tmp_path)
    assert source.labels == {"folder": ["cat"] * 5 + ["dog"] * 6}
    assert len(source) == len(source.hashes) == len(source.uris) == 11


def test_texts_beside_images_are_captions(tmp_path):
    write(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "a.txt").write_text("an apple\n")
    (tmp_path / "c.txt").write_text("ein Körbchen", encoding="utf-8")
    source = data.open(tmp_path)
    assert source.captions == ["an apple", None, "ein Körbchen"]
    assert source.skipped == []
    assert "text" not in source.dataset


# Tables ---------------------------------------------------------------------------------------------------------------


def test_a_parquet_as_hugging_face_writes_it(tmp_path):
    pixels = [noise(seed) for seed in range(3)]
    images = [{"bytes": png(image), "path": f"{number}.png"} for number, image in enumerate(pixels)]
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    table = pa.table({"image": images, "label": [1, 0, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "train.parquet")
    source = data.open(tmp_path / "train.parquet")
    assert source.uris == ["0.png", "1.png", "2.png"]
    assert source.labels == {"label": ["dog", "cat", None]}
    np.testing.assert_array_equal(images_of(source), np.stack(pixels).transpose(0, 3, 1, 2))


def test_a_parquet_of_bytes_with_label_name_and_caption(tmp_path):
    pixels = [noise(seed) for seed in range(600)]  # more than are in memory at a time
    table = pa.table(
        {
            "label": pa.array(np.arange(600) % 3, pa.uint8()),
            "name": [f"class/{number:03}" for number in range(600)],
            "caption": ["one", None] * 300,
            "image": [png(image) for image in pixels],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    source = data.open(tmp_path / "t.parquet")
    assert source.uris[599] == "class/599"
    assert source.labels == {"label": [str(number % 3) for number in range(600)]}
    assert source.captions[:2] == ["one", None]
    np.testing.assert_array_equal(images_of(source), np.stack(pixels).transpose(0, 3, 1, 2))


def test_rows_without_an_image_are_skipped_by_number(tmp_path):
    pq.write_table(pa.table({"image": [png(noise(0)), None, b"", b"no"]}), tmp_path / "t.parquet")
    source = data.open(tmp_path / "t.parquet")
    assert source.uris == ["t.parquet#0"]
    assert source.skipped == [
        ("t.parquet#1", "empty: nothing in this row"),
        ("t.parquet#2", "empty: zero bytes"),
        ("t.parquet#3", "not an image: text"),
    ]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_table_of_paths(tmp_path, ending):
    written = write(tmp_path / "images", ["a.png", "b.png"])
    rows = [("images/b.png", "dog"), ("images/a.png", "cat"), ("images/lost.png", "cat")]
    file = tmp_path / f"index.{ending}"
    if ending == "jsonl":
        file.write_text("\n".join(json.dumps({"file": path, "category": kind}) for path, kind in rows))
    else:
        comma = "," if ending == "csv" else "\t"
        file.write_text("\ufefffile,category\n".replace(",", comma) + "\n".join(comma.join(row) for row in rows))
    source = data.open(file)
    assert source.uris == ["images/b.png", "images/a.png"]
    assert source.labels == {"category": ["dog", "cat"]}
    assert source.skipped == [("images/lost.png", "cannot be read: No such file or directory")]
    np.testing.assert_array_equal(images_of(source)[0], written["b.png"])


def test_images_as_base64_in_jsonl(tmp_path):
    lines = [{"picture": base64.b64encode(png(noise(seed))).decode(), "id": f"n{seed}"} for seed in range(2)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = data.open(tmp_path / "t.jsonl")
    assert source.uris == ["n0", "n1"]
    np.testing.assert_array_equal(images_of(source)[1], noise(1).transpose(2, 0, 1))


def test_labels_by_column_and_its_near_misses(tmp_path):
    write(tmp_path, ["a.png"])
    (tmp_path / "t.csv").write_text("path,label,species\na.png,1,owl\n")
    assert data.open(tmp_path / "t.csv", labels="species").labels == {"species": ["owl"]}
    assert data.open(tmp_path / "t.csv", labels="none").labels == {}
    with pytest.raises(ArgumentError, match="did you mean 'species'"):
        data.open(tmp_path / "t.csv", labels="specie")


SENTENCES = [f"a sentence of more than twenty letters {n}" for n in range(5)]


@pytest.mark.parametrize(
    ("columns", "modality", "n"),
    [
        ({"source": ["a", "b"], "target": ["b", "c"]}, "graph", 3),
        ({"text": SENTENCES, "label": [0, 1, 0, 1, 0]}, "text", 5),
        ({"remarks": SENTENCES, "url": [f"https://example.org/{n}" for n in range(5)]}, "text", 5),
        ({"id": [1, 1, 2, 2], "time": [0.0, 1.0] * 2, "value": [1.0, 3.0, 2.0, 5.0]}, "series", 2),
        ({"age": [1, 7, 3], "weight": [2.0, 1.5, 9.5]}, "table", 3),
        (
            {
                "passenger": ["Braund, Mr. Owen Harris", "Heikkinen, Miss. Laina", "Allen, Mr. William Henry"],
                "ticket": ["A/5 21171", "STON/O2. 3101282", "373450 of 1912"],
                "paid": [7.25, 7.925, 8.05],
                "home": ["https://example.org/a", "https://example.org/b", "https://example.org/c"],
            },
            "table",
            3,
        ),
    ],
)
def test_tables_are_what_their_columns_say(tmp_path, columns, modality, n):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    source = data.open(tmp_path / "t.parquet")
    assert (source.modality, len(source)) == (modality, n)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"url": ["https://example.org/a.jpg"]}, "does not use by itself"),
        ({"url": ["https://example.org/a.wav"], "label": [1]}, "does not use by itself"),
        ({"file": ["a.mp4", "b.mp4"]}, "paths of video files"),
    ],
)
def test_tables_of_what_is_not_there_are_refused_by_name(tmp_path, columns, found):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=found):
        data.open(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.parquet", b"PAR1 but no more"),
        ("t.csv", b"path\n\xff\xfe.png\n"),
        ("t.jsonl", b'{"path": '),
        ("t.jsonl", b'["a.png"]'),
        ("t.csv", b""),
        ("t.zip", b"PK\x03\x04 no"),
        ("t.npy", b"\x93NUMPY no"),
        ("t.npz", b"PK no"),
        ("t.mp3", b"ID3"),
        ("t.strange", b"?"),
    ],
)
def test_damaged_and_unknown_files_are_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        data.open(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


# Arrays ---------------------------------------------------------------------------------------------------------------

COLOUR = np.stack([noise(seed) for seed in range(4)])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
        (torch.from_numpy(COLOUR.transpose(0, 3, 1, 2).copy()), COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR[..., 0], COLOUR[:, None, :, :, 0]),
        (COLOUR[..., :1], COLOUR[:, None, :, :, 0]),
        (COLOUR.astype(np.int64), COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR / 255, COLOUR.transpose(0, 3, 1, 2)),
        ((COLOUR / 255).astype(np.float32).transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
        (torch.from_numpy(COLOUR[..., :1] / 255).float(), COLOUR[:, None, :, :, 0]),
        (COLOUR[..., 0] > 99, 255 * (COLOUR[:, None, :, :, 0] > 99)),
    ],
)
def test_arrays_of_images(array, expected):
    source = data.open(array)
    np.testing.assert_array_equal(images_of(source), expected)
    assert source.channels == expected.shape[1]
    assert source.uris == ["0", "1", "2", "3"]


def test_integers_above_255_are_scaled_by_the_largest_and_it_is_said():
    ink = np.full((2, 32, 32), 2000, np.uint16)
    ink[1] = 500
    source = data.open(ink)
    assert images_of(source)[:, 0, 0, 0].tolist() == [255, 64]
    assert "Values go up to 2,000, which was taken for white." in source.describe()


def test_a_fourth_channel_is_opacity():
    array = np.zeros((2, 4, 32, 32), np.uint8)
    array[1, 3] = 255
    assert images_of(data.open(array))[:, 0, 0, 0].tolist() == [255, 0]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (COLOUR * 2.0, "values from 0 to 510"),
        (COLOUR / 127.5 - 1, "values from -1 to 1"),
        (-COLOUR.astype(np.int32), "from 0 up"),
        (np.zeros((2, 13, 32, 32), np.uint8), "expected 1, 3 or 4 channels"),
        (np.zeros((480, 640, 3), np.uint8), "single image"),
        (np.zeros(5), "expected images"),
        (np.zeros((0, 32, 32), np.uint8), "is empty"),
        (np.array([[{}]]), "expected whole numbers"),
        (np.zeros((2, 2), complex), "expected whole numbers"),
    ],
)
def test_arrays_that_are_neither_images_nor_points(array, message):
    with pytest.raises(DataError, match=message):
        data.open(array)


def test_three_dimensional_floats_are_series():
    walks = np.random.default_rng(0).normal(size=(5, 4, 7)).cumsum(2).astype(np.float32)
    for x in (walks, torch.from_numpy(walks), list(walks)):
        source = data.open(x)
        assert source.modality == "series"
        np.testing.assert_array_equal(source.dataset["x"][:].numpy(), walks)


def test_three_dimensional_floats_are_images_when_asked():
    source = data.open(COLOUR[..., 0] / 255, modality="image")
    np.testing.assert_array_equal(images_of(source), COLOUR[:, None, :, :, 0])


def test_an_image_that_is_not_finite_is_skipped():
    array = COLOUR[..., 0:1] / 255
    array[2, 3, 4] = np.nan
    source = data.open(array)
    assert source.uris == ["0", "1", "3"]
    assert source.skipped == [("2", "not finite: it holds NaN or infinity")]


def test_npy_and_npz_with_labels_and_their_names(tmp_path):
    np.save(tmp_path / "a.npy", COLOUR)
    np.testing.assert_array_equal(images_of(data.open(tmp_path / "a.npy")), COLOUR.transpose(0, 3, 1, 2))
    np.savez(tmp_path / "b.npz", images=COLOUR, labels=[1, 0, 1, 1], names=["cat", "dog"], kind=list("abcd"))
    source = data.open(tmp_path / "b.npz")
    assert source.labels == {"labels": ["dog", "cat", "dog", "dog"]}
    assert data.open(tmp_path / "b.npz", labels="none").labels == {}
    assert data.open(tmp_path / "b.npz", labels="kind").labels == {"kind": list("abcd")}
    with pytest.raises(ArgumentError, match="expected one of"):
        data.open(tmp_path / "b.npz", labels="species")
    np.savez(tmp_path / "c.npz", first=COLOUR)
    with pytest.raises(DataError, match="it holds first"):
        data.open(tmp_path / "c.npz")


def test_pickles_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.save(tmp_path / "a.npy", np.array([Trap()], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([[Trap()]], object))
    np.savez(tmp_path / "b.npz", x=COLOUR, y=np.array([Trap()] * 4, object))
    for name in ("a.npy", "a.npz", "b.npz"):
        with pytest.raises(DataError, match="tacit never loads"):
            data.open(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_points_from_arrays_and_files(tmp_path):
    rows = np.random.default_rng(0).normal(size=(50, 3))
    np.save(tmp_path / "p.npy", rows)
    np.savez(tmp_path / "p.npz", x=rows, y=np.arange(50) % 2)
    for x in (rows, torch.from_numpy(rows), tmp_path / "p.npy", tmp_path / "p.npz"):
        source = data.open(x)
        assert source.modality == source.dataset.modality == "points"
        assert source.dataset["x"].dtype == torch.float32
        np.testing.assert_array_equal(source.dataset["x"][:].numpy(), rows.astype(np.float32))
        assert source.thumbnails is None
        assert "Found 50 points of 3 dimensions" in source.describe()[0]
    assert source.labels == {"y": ["0", "1"] * 25}


def test_points_that_are_not_finite(tmp_path):
    rows = np.arange(12.0).reshape(4, 3)
    rows[1, 2], rows[3, 0] = np.nan, 1e300
    source = data.open(rows)
    assert source.uris == ["0", "2"]
    assert [uri for uri, _ in source.skipped] == ["1", "3"]
    np.testing.assert_array_equal(source.dataset["x"][:].numpy(), rows[[0, 2]].astype(np.float32))
    with pytest.raises(DataError, match="point 1"):
        data.open(rows, on_error="raise")
    with pytest.raises(DataError, match="none of the 2 points"):
        data.open(rows[[1, 3]])


# What tacit brings along ----------------------------------------------------------------------------------------------


def test_demo_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    source = data.open("demo:digits")
    assert (len(source), source.channels, source.image_size) == (1797, 1, 32)
    assert source.labels["digit"] == [str(digit) for digit in load_digits().target]
    with pytest.raises(ArgumentError, match="demo:digits"):
        data.open("demo:digts")


def test_demo_is_drawn_with_factors_and_captions(monkeypatch):
    from tacit.data import _drawn

    monkeypatch.setattr(_drawn, "load_demo", lambda: _drawn.draw_scenes(n=60, size=32))
    source, drawn = data.open("demo"), _drawn.draw_scenes(n=60, size=32)
    np.testing.assert_array_equal(images_of(source), drawn.images)
    assert source.labels == drawn.labels
    assert source.captions == drawn.captions
    assert list(data.open("demo", labels="shape").labels) == ["shape"]


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "stored"), [(1, 32), (32, 32), (33, 64), (96, 96), (97, 128), (224, 256)])
def test_the_stored_size_is_the_smallest_not_under_the_asked_one(tmp_path, asked, stored):
    write(tmp_path, ["a.png"])
    source = data.open(tmp_path, image_size=asked)
    assert source.dataset["x"].shape == (1, 3, stored, stored)
    assert source.image_size == asked


@pytest.mark.parametrize(("median", "chosen"), [(8, 32), (28, 32), (45, 32), (46, 64), (64, 64), (90, 96), (400, 96)])
def test_without_one_it_follows_the_median_shorter_side(tmp_path, median, chosen):
    for number, side in enumerate((5, median, 600)):
        Image.new("RGB", (side, side + 30)).save(tmp_path / f"{number}.png")
    source = data.open(tmp_path)
    assert source.image_size == chosen
    assert any(f"Image size {chosen}, from a median shorter side of {median}" in line for line in source.describe())
    assert any("only when asked" in line for line in source.describe()) == (median > 96)


def smooth(width, height):
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 11 + k) * np.cos(y / (9 + k)) for k in range(3)]
    return np.uint8(127.5 + 127 * np.stack(waves, axis=-1))


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize(("width", "height"), [(200, 150), (131, 400), (40, 41), (900, 700)])
def test_resized_like_torch_does_it(tmp_path, width, height, ending):
    """The shorter side to 64 pixels by an antialiased cubic, then the centre: against torch's, on the full decode."""
    pixels = smooth(width, height)
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", quality=95)
    side, scale = min(width, height), 64
    left, top = (width - side) // 2, (height - side) // 2
    square = torch.from_numpy(pixels[top : top + side, left : left + side]).permute(2, 0, 1)[None].float()
    expected = interpolate(square, (scale, scale), mode="bicubic", antialias=True)[0].clamp(0, 255).numpy()
    stored = images_of(data.open(tmp_path, image_size=64))[0]
    error = np.abs(stored.astype(float) - expected)
    assert error.mean() < 1.5
    assert error.max() < 16


def test_thumbnails_show_the_whole_image_at_64_pixels(tmp_path):
    Image.fromarray(smooth(300, 150)).save(tmp_path / "a.png")
    Image.fromarray(smooth(20, 10)[..., 0]).save(tmp_path / "b.png")
    source = data.open(tmp_path)
    large, small = (Image.open(io.BytesIO(source.thumbnails[item])) for item in range(2))
    assert (large.format, large.size, small.size, small.mode) == ("JPEG", (64, 32), (20, 10), "L")
    grey = torch.from_numpy(np.asarray(Image.fromarray(smooth(300, 150)).convert("L")).copy())[None, None].float()
    expected = interpolate(grey, (32, 64), mode="bicubic", antialias=True)[0, 0].numpy()
    assert np.abs(np.asarray(large.convert("L"), float) - expected).mean() < 3
    assert source.thumbnails(1) == source.thumbnails[1] == source.thumbnails[-1]
    assert len(source.thumbnails) == 2
    assert len(list(source.thumbnails)) == 2


# What is said ---------------------------------------------------------------------------------------------------------


def test_description_is_json_and_names_the_data(tmp_path):
    write(tmp_path, [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(5)])
    source = data.open(tmp_path)
    description = json.loads(json.dumps(source.description))
    expected = {"modality": "image", "n": 10, "channels": 3, "image_size": 32, "labels": "folder", "skipped": 0}
    assert expected.items() <= description.items()
    assert description["fingerprint"] == source.dataset.fingerprint


def test_the_fingerprint_follows_content_order_and_size(tmp_path):
    write(tmp_path / "a", ["1.png", "2.png"])
    first = data.open(tmp_path / "a").dataset.fingerprint
    (tmp_path / "a").rename(tmp_path / "b")
    assert data.open(tmp_path / "b").dataset.fingerprint == first
    assert data.open(tmp_path / "b", image_size=64).dataset.fingerprint != first
    (tmp_path / "b" / "1.png").rename(tmp_path / "b" / "3.png")
    assert data.open(tmp_path / "b").dataset.fingerprint != first


def test_progress_is_told(tmp_path):
    write(tmp_path, ["a.png", "b.png"])
    told = []
    data.open(tmp_path, progress=lambda *state: told.append(state))
    assert told == [("listing", 1, None), ("reading", 2, 2), ("decoding", 2, 2)]


def test_read_image_is_what_open_stores(tmp_path):
    Image.fromarray(smooth(90, 70)).save(tmp_path / "a.jpg")
    stored = images_of(data.open(tmp_path, image_size=64))[0]
    np.testing.assert_array_equal(data.read_image(tmp_path / "a.jpg", size=64), stored)
    assert data.read_image((tmp_path / "a.jpg").read_bytes(), size=32, channels=1).shape == (1, 32, 32)
    with pytest.raises(DataError, match=r"lost\.jpg cannot be read"):
        data.read_image(tmp_path / "lost.jpg", size=32)


def test_the_number_of_workers_changes_nothing_but_the_time(tmp_path):
    chance = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(chance.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"{number:02d}.png")
    one, many = (data.open(tmp_path, num_workers=n, cache_dir=tmp_path.parent / f"cache{n}") for n in (1, 7))
    assert list(one.uris) == list(many.uris)
    assert list(one.hashes) == list(many.hashes)
    np.testing.assert_array_equal(one.dataset["x"][:].numpy(), many.dataset["x"][:].numpy())
