"""The commands on a tiny run whose diffusion model was trained for a few steps."""

import json
import sqlite3

import numpy as np
import pytest
import torch
from PIL import Image

import tacit
from tacit.cli import main

SIDE = 8


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """60 small pictures in two folders: bright on the left, and bright on the right."""
    folder = tmp_path_factory.mktemp("photos")
    chance = np.random.default_rng(0)
    for number in range(60):
        picture = chance.integers(0, 40, (SIDE, SIDE)).astype(np.uint8)
        half = slice(0, SIDE // 2) if number % 2 else slice(SIDE // 2, SIDE)
        picture[:, half] += 200
        place = folder / ("left" if number % 2 else "right") / f"{number:02d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(place)
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    words = {"image_size": SIDE, "max_steps": 30, "batch_size": 16, "verbose": False}
    return tacit.learn(photos, out=str(out), method="ddpm", arguments={"n_steps": 50}, **words).folder


@pytest.fixture(scope="module")
def pca(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "pca"
    words = {"image_size": SIDE, "max_steps": 2, "batch_size": 16, "verbose": False}
    return tacit.learn(photos, out=str(out), method="pca", **words).folder


def answer(capsys, *words):
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def error(capsys, *words):
    assert main([str(word) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tacit: ")]
    return line


def pixels(path):
    return np.asarray(Image.open(path))


def test_pictures_are_new_whole_and_never_written_over(run, capsys):
    first = answer(capsys, "generate", run, "-n", 3, "--steps", 4)
    again = answer(capsys, "generate", run, "-n", 3, "--steps", 4)
    other = answer(capsys, "generate", run, "-n", 3, "--steps", 4, "--seed", 1)
    assert len({made["folder"] for made in (first, again, other)}) == 3
    assert [pixels(path).shape for path in first["files"]] == [(SIDE, SIDE)] * 3
    for a, b, c in zip(first["files"], again["files"], other["files"], strict=True):
        assert (pixels(a) == pixels(b)).all()
        assert (pixels(a) != pixels(c)).any()
    assert Image.open(first["sheet"]).size == (8 + 3 * 104, 8 + 96 + 8)


@pytest.mark.parametrize("method", ["freedom", "mpgd"])
def test_energy_of_ones_own_steers(run, capsys, tmp_path, method):
    (tmp_path / "bright.py").write_text("def energy(x):\n    return -x.mean((1, 2, 3))\n")
    means = [
        np.mean(
            [pixels(path).mean() for path in answer(capsys, "generate", run, "-n", 8, "--steps", 10, *words)["files"]]
        )
        for words in ((), ("--energy", tmp_path / "bright.py", "--method", method))
    ]
    assert means[1] > means[0] + 10


def test_class_steers_by_labels_that_the_ledger_notes(run, capsys, monkeypatch):
    monkeypatch.setattr("tacit.generating.CLASSIFIER_STEPS", 60)
    brighter = {}
    for name in ("left", "right"):
        made = answer(capsys, "generate", run, "-n", 8, "--steps", 20, "--class", name)
        halves = [pixels(path).astype(float) for path in made["files"]]
        brighter[name] = np.mean([half[:, : SIDE // 2].mean() - half[:, SIDE // 2 :].mean() for half in halves])
        assert "right on" in made["lines"][0]
    assert brighter["left"] > brighter["right"]
    with sqlite3.connect(run / "labels.sqlite") as ledger:
        uses = ledger.execute('SELECT part, "by" FROM use').fetchall()
    assert ("choose", "steering generation") in uses
    assert ("report", "steering generation") not in uses


def test_like_shows_the_reference_first(run, photos, capsys):
    reference = photos / "left" / "01.png"
    made = answer(capsys, "generate", run, "-n", 2, "--steps", 3, "--like", reference)
    sheet = pixels(made["sheet"])
    shown = sheet[8 : 8 + 96 : 12, 8 : 8 + 96 : 12, 0]
    assert np.abs(shown.astype(int) - pixels(reference)).max() <= 1


def test_pixels_that_are_known_stay_as_they_are(run, photos, capsys, tmp_path):
    image = photos / "right" / "02.png"
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[2:5, 3:6] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    made = answer(capsys, "restore", run, image, "--task", "inpaint", "--mask", tmp_path / "mask.png", "--steps", 5)
    restored, true = pixels(made["files"][0]).astype(int), pixels(image).astype(int)
    assert np.abs(restored - true)[mask == 0].max() <= 1
    assert made["psnr"] is None


@pytest.mark.parametrize("task", ["inpaint", "super-resolution", "deblur"])
def test_degraded_images_are_compared_with_the_true_ones(run, photos, capsys, task):
    images = sorted((photos / "left").iterdir())[:2]
    made = answer(capsys, "restore", run, *images, "--task", task, "--degrade", "--steps", 5, "--noise", 0.05)
    assert [len(values) for values in made["psnr"].values()] == [2, 2]
    restored, true = (pixels(path) / 255 for path in (made["files"][0], images[0]))
    expected = -10 * np.log10(((restored - true) ** 2).mean())
    assert made["psnr"]["restored"][0] == pytest.approx(expected, abs=0.2)  # files have 256 levels
    assert "PSNR" in made["lines"][0]


def test_small_images_become_large_ones_that_agree_with_them(run, capsys, tmp_path):
    small = np.random.default_rng(1).integers(60, 200, (SIDE // 2, SIDE // 2)).astype(np.uint8)
    Image.fromarray(small).save(tmp_path / "small.png")
    made = answer(capsys, "restore", run, tmp_path / "small.png", "--task", "super-resolution", "--steps", 5)
    large = pixels(made["files"][0]).astype(float)
    assert large.shape == (SIDE, SIDE)
    blocks = large.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))
    assert np.median(np.abs(blocks - small)) <= 1  # cut at black and white here and there


def test_report_shows_the_contact_sheets_and_out_lies_elsewhere(run, photos, capsys, tmp_path):
    image = photos / "right" / "02.png"
    made = answer(capsys, "restore", run, image, "--task", "deblur", "--degrade", "--steps", 3)
    page = (run / "report.html").read_text()
    assert 'id="generated"' in page
    assert made["what"] in page
    assert made["report"] == str(run / "report.html")
    said = json.loads((run / "generated" / made["folder"].rpartition("/")[2] / "made.json").read_text())
    assert said["settings"]["task"] == "deblur"
    elsewhere = answer(capsys, "generate", run, "-n", 1, "--steps", 2, "--out", tmp_path / "mine")
    assert elsewhere["report"] is None
    assert (tmp_path / "mine" / "001.png").exists()
    assert "holds something already" in error(capsys, "generate", run, "--out", tmp_path / "mine")


def test_report_outlives_broken_pictures(run, capsys):
    for name, content in (("broken-1", "{"), ("broken-2", '{"what": 3, "lines": "x"}')):
        place = run / "generated" / name
        place.mkdir(parents=True)
        (place / "made.json").write_text(content)
        (place / "contact-sheet.png").write_bytes(b"no picture")
    assert main(["report", str(run)]) == 0
    assert "broken-1" in (run / "report.html").read_text()


def test_a_run_without_a_diffusion_model_is_refused_with_the_remedy(pca, photos, capsys):
    assert "tacit learn DATA --method ddpm" in error(capsys, "generate", pca)
    image = photos / "right" / "02.png"
    assert "tacit learn DATA --method ddpm" in error(capsys, "restore", pca, image, "--task", "deblur")


def test_what_cannot_be_is_refused(run, photos, capsys, tmp_path):
    image = photos / "right" / "02.png"
    (tmp_path / "empty.py").write_text("")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    before = sorted((run / "generated").iterdir()) if (run / "generated").exists() else []
    assert "one of left, right" in error(capsys, "generate", run, "--class", "lift")
    assert "one of freedom, mpgd" in error(capsys, "generate", run, "--method", "magic")
    assert "at least 1" in error(capsys, "generate", run, "-n", "0")
    assert "one of them at most" in error(capsys, "generate", run, "--like", image, "--class", "left")
    assert "a function energy(x)" in error(capsys, "generate", run, "--energy", tmp_path / "empty.py")
    assert "a Python file" in error(capsys, "generate", run, "--energy", tmp_path / "none.py")
    assert "did you mean 'deblur'" in error(capsys, "restore", run, image, "--task", "debblur")
    assert "grey" in error(capsys, "restore", run, image, "--task", "colorize")
    assert "scales that do: 2, 4, 8" in error(capsys, "restore", run, image, "--task", "super-resolution", "--scale", 3)
    assert "white where" in error(capsys, "restore", run, image, "--task", "inpaint", "--mask", tmp_path / "black.png")
    assert "cannot be read" in error(capsys, "restore", run, tmp_path / "empty.py", "--task", "deblur")
    assert "noise" in error(capsys, "restore", run, image, "--task", "deblur", "--noise=-1")
    after = sorted((run / "generated").iterdir()) if (run / "generated").exists() else []
    assert before == after  # nothing half done is left


def test_the_whole_learner_comes_back(run, photos, tmp_path):
    """Its estimates are those of the encoder that the run's own file holds; chance of the caller is left alone."""
    loaded = tacit.load(run)
    x = torch.randn(2, 1, SIDE, SIDE)
    x0, _ = loaded.learner.estimate(x, 20)
    times = torch.full((2,), 20)
    expected = loaded.learner.diffusion.x0_of(x, 20, loaded.encoder.denoise(x, times))
    torch.testing.assert_close(x0, expected)
    state = torch.get_rng_state()
    loaded.generate(1, steps=2, out=tmp_path / "one", say=lambda line: None)
    assert torch.equal(state, torch.get_rng_state())
