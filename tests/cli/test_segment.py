"""learn on a folder of videos, and segment with what was learned."""

import json

import numpy as np
import pytest
from PIL import Image

import tacit
from tacit.cli import main
from tacit.data import clips
from tacit.errors import DataError

SIZE = 16


def answer(capsys, *words):
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def error(capsys, *words):
    assert main([str(word) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tacit: ")]
    return line


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six folders of frames and a gif."""
    root = tmp_path_factory.mktemp("videos")
    pictures = clips(70, seed=3, image_size=SIZE, n_frames=10)["x"].transpose(0, 2, 3, 1)
    for number in range(6):
        folder = root / f"clip{number}"
        folder.mkdir()
        for frame, picture in enumerate(pictures[10 * number : 10 * number + 10]):
            Image.fromarray(picture).save(folder / f"{frame}.png")
    first, *others = map(Image.fromarray, pictures[60:])
    first.save(root / "last.gif", save_all=True, append_images=others, duration=50)
    return root


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    words = {"image_size": SIZE, "max_steps": 8, "batch_size": 16, "verbose": False, "arguments": {"width": 4}}
    return tacit.learn(videos, out=str(out), method="foreground-generations", **words)


def test_learn_reads_the_clips_of_a_folder(run):
    assert len(run.items) == 70
    assert run.config["made"]["description"]["clips"] == 7
    assert run.summary["method"]["id"] == "foreground-generations"
    assert np.isfinite(run.items.vectors()).all()
    uris = run.items.column("uri")
    assert "clip3/7.png" in uris
    assert "last.gif#0009" in uris


def test_masks_are_of_the_size_of_the_pictures_and_never_written_over(run, tmp_path, capsys):
    chance = np.random.default_rng(0)
    for name, shape in (("wide.jpg", (20, 50, 3)), ("tall.png", (64, 30)), ("sub/wide.png", (16, 16, 3))):
        place = tmp_path / "photos" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, shape, dtype=np.uint8)).save(place)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    made = answer(capsys, "segment", run.folder, tmp_path / "photos")
    again = answer(capsys, "segment", run.folder, tmp_path / "photos")
    assert made["folder"] != again["folder"]
    sizes = {path.partition("/masks/")[2]: Image.open(path).size for path in made["files"]}
    assert sizes == {"sub/wide.png": (16, 16), "tall.png": (30, 64), "wide.png": (50, 20)}
    assert all(set(np.unique(Image.open(path))) <= {0, 255} for path in made["files"])
    assert [name.rpartition("/")[2] for name, _ in made["skipped"]] == ["broken.jpg"]
    assert "masks of 3 pictures" in (run.folder / "report.html").read_text()
    out = tmp_path / "mine"
    soft = answer(capsys, "segment", run.folder, tmp_path / "photos" / "wide.jpg", "--soft", "--out", out)
    assert soft["folder"] == str(out)
    expected = run.learner.predict_mask(np.asarray(Image.open(tmp_path / "photos" / "wide.jpg")).transpose(2, 0, 1))
    found = np.asarray(Image.open(out / "masks" / "wide.png")) / 255
    assert np.abs(found - expected.numpy()).mean() < 0.05  # Pillow makes it smaller by another filter than torch
    assert "holds something already" in error(capsys, "segment", run.folder, tmp_path / "photos", "--out", out)


def test_every_frame_of_a_gif_gets_a_mask(run, videos, tmp_path):
    made = run.segment(videos / "last.gif", out=tmp_path / "out", say=lambda line: None)
    assert [path.relative_to(tmp_path / "out").as_posix() for path in made.files] == [
        f"masks/last/{number:04d}.png" for number in range(10)
    ]
    assert Image.open(made.sheet).size[0] > 8 * 96


def test_names_that_are_there_already_get_a_number(run, tmp_path):
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    made = run.segment(tmp_path, say=lambda line: None, out=tmp_path / "out")
    assert [path.name for path in made.files] == ["a.png", "a-2.png"]


def test_what_cannot_be_is_refused(run, tmp_path, capsys):
    (tmp_path / "x.png").write_bytes(b"x")
    assert "threshold" in error(capsys, "segment", run.folder, tmp_path / "x.png", "--threshold", "2")
    assert "no such file" in error(capsys, "segment", run.folder, tmp_path / "y.png")
    before = sorted((run.folder / "segmented").iterdir()) if (run.folder / "segmented").exists() else []
    assert "none of 1 file can be read" in error(capsys, "segment", run.folder, tmp_path / "x.png")
    assert (sorted((run.folder / "segmented").iterdir()) if before else []) == before
    pca = tacit.learn(np.zeros((20, 8, 8), np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None],
                      out=str(tmp_path / "pca"), method="pca", verbose=False)  # fmt: skip
    assert "--method foreground-generations" in error(capsys, "segment", pca.folder, tmp_path / "x.png")


def test_pictures_that_are_no_clips_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="looked for clips"):
        tacit.learn(tmp_path, out=str(tmp_path / "run"), method="foreground-generations", verbose=False, max_steps=1)


def test_pictures_are_listed_as_everywhere_else(tmp_path, monkeypatch):
    from tacit.segmenting import _listed

    for name in ("b/1.png", "a.jpg", "a.png", ".hidden/2.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/again").symlink_to(tmp_path)  # a circle
    assert [name for name, _ in _listed([tmp_path])] == ["a", "a-2", "b/1"]
    monkeypatch.chdir(tmp_path)
    for pattern in ("*.png", str(tmp_path / "*.png")):
        assert _listed([pattern]) == [("a", tmp_path / "a.png")]
    with pytest.raises(DataError, match="no such file"):
        _listed(["*.tif"])
