"""What a run is asked with: pictures, texts, sounds, arrays, item numbers; and the joint space of images and texts."""

import json
import wave

import numpy as np
import pytest
import torch
from common.kinds import pairs, series, texts
from PIL import Image

import tacit
from tacit.building import build, read_columns
from tacit.data import Dataset
from tacit.embedding import embed
from tacit.errors import ArgumentError, DataError, RunError
from tacit.learner import encoder_of
from tacit.store import Items


def write_run(folder, system, made, n=30, **arguments):
    """A run of a few steps, with its items: as `tacit learn` writes it, without the survey."""
    description, columns = made(n)
    learner = build(system, description, "tiny", arguments=arguments)
    read = {name: rows for name, rows in read_columns(learner, columns).items() if not isinstance(rows, list)}
    config = {"made": {"description": description | {"n": n}, "data": "list"}}
    data = Dataset(read, modality=description["modality"])
    tacit.fit(learner, data, max_steps=2, batch_size=8, out=folder, config=config, verbose=False)
    x = read["image"] if "image" in read else read["x"]
    said = columns.get("text", [""] * n)
    meta = [json.dumps({"caption": text} if text else {}) for text in said]
    vectors = embed(encoder_of(learner), {"x": x})
    Items.create(folder, [{"uri": [f"{i:03d}" for i in range(n)], "vector": vectors, "meta": meta}])
    return columns


@pytest.fixture(scope="module")
def pair_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "run"
    columns = write_run(folder, "clip", pairs, embed_dim=8)
    return folder, columns


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts") / "run"
    columns = write_run(folder, "lsa", texts, n_components=6)
    return folder, columns


# Images and texts -----------------------------------------------------------------------------------------------------


def test_a_text_finds_images_by_the_learners_own_cosines(pair_run):
    folder, columns = pair_run
    run = tacit.load(folder)
    with torch.no_grad():
        images = run.learner.encode_image(columns["x"] if "x" in columns else columns["image"])
        text = run.learner.encode_text(["the red cat sleeps"])[0]
    cosines = (images @ text).numpy()
    hits = run.search("the red cat sleeps", k=30)
    assert sorted(hit.item for hit in hits) == list(range(30))
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(cosines)[::-1], atol=1e-5)
    np.testing.assert_allclose([hit.score for hit in hits], cosines[[hit.item for hit in hits]], atol=1e-5)
    assert hits[0].text == columns["text"][hits[0].item]


def test_an_image_and_an_item_are_asked_in_the_same_space(pair_run, tmp_path):
    folder, columns = pair_run
    run = tacit.load(folder)
    assert run.search(4, k=1)[0].item == 4
    assert run.search(columns["image"][4], k=1)[0].item == 4
    place = tmp_path / "picture.png"
    Image.fromarray(columns["image"][4].permute(1, 2, 0).numpy()).save(place)
    by_path = run.search(str(place), k=5)
    assert by_path[0].item == 4
    assert [hit.item for hit in by_path] == [hit.item for hit in run.search(4, k=5)]
    with pytest.raises(ArgumentError, match="no such file"):
        run.search("nowhere.png")
    with pytest.raises(ArgumentError, match="knows none"):
        run.search("Ωμέγα")


def test_a_run_without_texts_beside_its_images_has_no_joint_space(text_run):
    assert tacit.load(text_run[0]).joint is None


def test_embed_keeps_the_texts_side_of_a_run_of_pairs(pair_run, tmp_path):
    folder, columns = pair_run
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, image in enumerate(columns["image"][:12]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(photos / f"{i:02d}.png")
    from tacit.learning import embed_run

    again = embed_run(str(folder), photos, out=tmp_path / "again", progress=False)
    learner, images = tacit.load(folder).learner, tacit.data.open(photos, image_size=16).dataset["x"][:]
    with torch.no_grad():
        cosines = (learner.encode_image(images) @ learner.encode_text(["a green bird"])[0]).tolist()
    hits = again.search("a green bird", k=12)
    assert {hit.item: pytest.approx(hit.score, abs=1e-4) for hit in hits} == dict(enumerate(cosines))


# Texts ----------------------------------------------------------------------------------------------------------------


def test_texts_are_asked_by_a_text_or_its_file(text_run, tmp_path):
    folder, columns = text_run
    run = tacit.load(folder)
    asked = columns["text"][5]
    hits = run.search(asked, k=3)
    assert hits[0].score == pytest.approx(1)
    assert columns["text"][hits[0].item] == asked
    assert hits[0].text == asked
    place = tmp_path / "query.txt"
    place.write_text(asked)
    assert run.search(place, k=3) == run.search(str(place), k=3) == hits
    (tmp_path / "empty.txt").write_text("")
    for query, says in [
        ("", "expected a text"),
        ("   ", "expected a text"),
        ("zebra xylophone", "knows none of this one"),
        ("nowhere.txt", "no such file"),
        (tmp_path / "none", "no such file"),
        (3.5, "expected a text"),
    ]:
        with pytest.raises(ArgumentError, match=says):
            run.search(query)
    with pytest.raises(DataError, match="empty"):
        run.search(tmp_path / "empty.txt")
    with pytest.raises(ArgumentError, match="item=30: expected one of the 30"):
        run.search(30)


def test_a_text_is_a_text_though_a_folder_has_its_name(text_run, tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "cat" in tacit.load(text_run[0]).search("cat", k=1)[0].text


# Sounds, series -------------------------------------------------------------------------------------------------------


def test_sounds_are_asked_by_their_files(tmp_path):
    from common.kinds import sounds

    columns = write_run(tmp_path / "run", "log-mel-pca", sounds, n_components=4)
    run = tacit.load(tmp_path / "run")
    place = tmp_path / "query.wav"
    with wave.open(str(place), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(columns["x"][7].tobytes())
    assert run.search(str(place), k=1)[0].item == 7
    assert run.search((columns["x"][7].astype(np.float32) / 32768, 8000), k=1)[0].item == 7
    with pytest.raises(ArgumentError, match="path of a sound"):
        run.search("nowhere.wav")
    (tmp_path / "bad.wav").write_bytes(b"RIFF....")
    with pytest.raises(DataError):
        run.search(tmp_path / "bad.wav")


def test_series_are_asked_by_number_or_array(tmp_path):
    columns = write_run(tmp_path / "run", "tst", series)
    run = tacit.load(tmp_path / "run")
    assert run.search(3, k=1)[0].item == run.search(columns["x"][3], k=1)[0].item == 3
    with pytest.raises(ArgumentError, match="--item 0"):
        run.search("series.csv")


def test_points_are_asked_by_number_or_array(tmp_path):
    def points(n):
        chance = np.random.default_rng(0)
        return {"modality": "points", "dim": 5}, {"x": chance.normal(size=(n, 5)).astype(np.float32)}

    columns = write_run(tmp_path / "run", "pca", points, n_components=3)
    run = tacit.load(tmp_path / "run")
    assert run.search(columns["x"][8], k=1)[0].item == 8
    with pytest.raises(ArgumentError, match="the array of a point"):
        run.search("x")


def test_a_run_that_holds_an_encoder_alone_says_so(pair_run, tmp_path):
    from safetensors.torch import save_file

    folder, _ = pair_run
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "config.json").write_text((folder / "config.json").read_text())
    state = {f"encoder.{name}": value for name, value in tacit.load(folder).encoder.state_dict().items()}
    save_file(state, alone / "model.safetensors")
    Items.create(alone, Items.open(folder).chunks())
    with pytest.raises(RunError, match="holds an encoder alone"):
        tacit.load(alone).search("a cat")
