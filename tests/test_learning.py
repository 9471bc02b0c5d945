import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from noise import noise_pictures
from PIL import Image

import tacit
from tacit.checkpoints import read_model
from tacit.errors import ArgumentError, DataError, RunError
from tacit.learning import embed_run
from tacit.planning import plan
from tacit.runs import load
from tacit.settings import LearnSettings

SMALL = {"method": "simclr", "max_steps": 4, "batch_size": 16, "verbose": False, "image_size": 32}


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """90 pictures in three folders, three files that are none, and two that are the same."""
    folder = tmp_path_factory.mktemp("photos")
    chance = np.random.default_rng(0)
    for number in range(90):
        kind = ("stripes", "dots", "plain")[number % 3]
        picture = np.full((40, 40, 3), chance.integers(60, 200, 3), np.uint8)
        if kind == "stripes":
            picture[:: int(chance.integers(3, 6))] = 255
        if kind == "dots":
            picture[:: int(chance.integers(4, 7)), ::3] = 0
        place = folder / kind / f"{number:03d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(place)
    Image.open(folder / "dots" / "001.png").save(folder / "dots" / "copy of 001.png")
    (folder / "plain" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    (folder / "plain" / "empty.png").write_bytes(b"")
    (folder / "plain" / "text.jpg").write_text("not a picture")
    return folder


@pytest.fixture(scope="session")
def run(photos, tmp_path_factory):
    return tacit.learn(photos, out=str(tmp_path_factory.mktemp("runs") / "run"), **SMALL)


def test_a_run_holds_all_that_the_design_says(run):
    names = {path.name for path in run.folder.iterdir()}
    promised = "README.md config.json model.safetensors items.lance labels.sqlite metrics.jsonl report.html skipped.csv"
    assert set(promised.split()) | {"environment.json", "summary.json", "checkpoints"} <= names


def test_bad_files_are_listed_with_their_reasons(run):
    listed = (run.folder / "skipped.csv").read_text()
    assert all(name in listed for name in ("broken.jpg", "empty.png", "text.jpg"))
    assert run.summary["data"]["n"] == 91
    assert run.summary["data"]["skipped"] == 3


def test_labels_found_are_scored_beside_baselines_and_never_learned_from(run):
    (labels,) = run.summary["labels"]
    assert labels["classes"] == 3
    encoders = [row["encoder"] for row in labels["rows"]]
    assert encoders == ["trained", "untrained", "pixels", "whitened PCA", "patch k-means"]
    assert {use["part"] for use in labels["uses"]} == {"choose", "report"}
    config = json.loads((run.folder / "config.json").read_text())
    assert config["data"]["columns"] == ["index", "x"]


def test_a_picture_finds_itself(run, photos):
    hits = run.search(photos / "dots" / "001.png", k=3)
    assert {hits[0].uri, hits[1].uri} == {"dots/001.png", "dots/copy of 001.png"}
    assert hits[0].score == pytest.approx(1, abs=1e-3)


def test_the_copy_is_found(run):
    exact = [set(group.uris) for group in run.duplicates() if group.exact]
    assert {"dots/001.png", "dots/copy of 001.png"} in exact


def test_embedding_again_gives_the_stored_vectors(run, photos):
    np.testing.assert_allclose(run.embed(str(photos)), run.items.vectors(), atol=1e-4)


def test_three_numbers_and_what_to_type_next(run):
    assert [line.split(":")[0] for line in run.numbers()] == ["health", "neighbours", "clusters"]
    assert [command.split()[1] for command in run.next_commands()[:2]] == ["explore", "search"]


def test_the_same_call_again_changes_nothing(run, photos):
    before = {
        path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file() and path.name != ".lock"
    }
    again = tacit.learn(photos, out=str(run.folder), **SMALL)
    assert again.folder == run.folder
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_other_settings_are_an_error_that_lists_them(run, photos):
    with pytest.raises(RunError, match=r"batch_size: 16 in the run, 8 now; .*seed: 0 in the run, 3 now"):
        tacit.learn(photos, out=str(run.folder), **{**SMALL, "batch_size": 8, "seed": 3})


def test_other_data_is_an_error(run):
    other = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), np.uint8)
    unfinished = run.folder / "report.html"
    kept = unfinished.read_bytes()
    unfinished.unlink()
    try:
        with pytest.raises(RunError, match=r"91 items of .*, not of ndarray"):
            tacit.learn(other, out=str(run.folder), **SMALL)
    finally:
        unfinished.write_bytes(kept)


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    """Ten pictures, and a finished run of them."""
    folder = tmp_path_factory.mktemp("pets")
    tacit.learn(noise_pictures(folder / "cats", range(10)), out=folder / "run", method="pca", verbose=False)
    return folder


def test_a_finished_run_is_given_back_for_its_own_data_only(cats, tmp_path):
    """Other data, data that has grown, another array of the same type; the same items elsewhere are the same."""
    words = {"out": tmp_path / "run", "method": "pca", "verbose": False}
    shutil.copytree(cats / "run", tmp_path / "run")
    before = (tmp_path / "run" / "summary.json").read_bytes()
    with pytest.raises(RunError, match=r"10 items of .*cats, not of .*dogs \(12 items\); give another out .*tacit add"):
        tacit.learn(noise_pictures(tmp_path / "dogs", range(12), seed=1), **words)
    shutil.copytree(cats / "cats", tmp_path / "moved")
    assert tacit.learn(tmp_path / "moved", **words).folder == tmp_path / "run"
    (line,) = plan(LearnSettings(data=tmp_path / "moved", **words)).lines()
    assert "nothing to do. It learned from the same items, which lay in" in line
    noise_pictures(cats / "cats", [10])
    try:
        with pytest.raises(RunError, match=r"10 items of .*cats, which has changed since \(11 items\)"):
            tacit.learn(cats / "cats", **words)
    finally:
        (cats / "cats" / "10.png").unlink()
    assert (tmp_path / "run" / "summary.json").read_bytes() == before


def test_another_array_of_the_same_type_is_other_data(tmp_path):
    one, other = np.random.default_rng(0).normal(size=(2, 30, 6)).astype(np.float32)
    words = {"out": tmp_path / "run", "method": "pca", "verbose": False}
    tacit.learn(one, **words)
    assert len(tacit.learn(one.copy(), **words).items) == 30
    with pytest.raises(RunError, match="30 items of another ndarray"):
        tacit.learn(other, **words)


@pytest.mark.parametrize("how", ["learn", "embed"])
def test_the_same_command_again_keeps_what_was_added(cats, tmp_path, how):
    """Also where the report is gone: it alone is written anew."""
    if how == "learn":
        shutil.copytree(cats / "run", tmp_path / "run")

    def again(folder=cats / "cats"):
        if how == "learn":
            return tacit.learn(folder, out=tmp_path / "run", method="pca", verbose=False)
        return embed_run(str(cats / "run"), folder, out=tmp_path / "run", progress=False)

    again().add(noise_pictures(tmp_path / "more", range(20, 25)), say=lambda line: None)
    assert len(again().items) == 15
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "run" / "README.md").unlink()
    run = again()
    assert (len(run.items), run.summary["data"]["n"]) == (15, 15)
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "README.md").exists()
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunError, match="would drop"):
        again()
    assert len(run.items) == 15
    with pytest.raises(RunError, match=r"not of .*more"):
        again(tmp_path / "more")


def test_a_setting_that_a_later_version_added_stands_at_its_default(run, photos):
    place = run.folder / "config.json"
    kept = place.read_text()
    config = json.loads(kept)
    del config["settings"]["flip"]
    place.write_text(json.dumps(config))
    try:
        assert plan(LearnSettings(data=photos, out=str(run.folder), **SMALL)).state == "finished"
        with pytest.raises(RunError, match="flip: 'auto' in the run, 'off' now"):
            plan(LearnSettings(data=photos, out=str(run.folder), flip="off", **SMALL))
    finally:
        place.write_text(kept)


@pytest.mark.parametrize("exported", [False, True])
def test_init_starts_from_the_weights_of_a_run_or_an_exported_encoder(run, photos, tmp_path, exported):
    place = run.export("folder", tmp_path / "encoder") if exported else run.folder
    made = plan(LearnSettings(data=photos, init=str(place), out=str(tmp_path / "new"), **SMALL))
    assert any(line.startswith("model: ") and line.endswith(f"starting from {place}") for line in made.lines())
    assert not any("in place of" in line for line in made.lines())  # a GPU would not take another network
    started = made.learner().encoder.state_dict()
    assert all(torch.equal(value, started[name]) for name, value in run.encoder.state_dict().items())


def test_init_from_a_network_of_another_kind_says_which_it_is(run, photos, cats, tmp_path):
    words = {"data": photos, "out": str(tmp_path / "new"), **SMALL}
    with pytest.raises(ArgumentError, match="its network is resnet8; expected one of resnet18"):
        plan(LearnSettings(init=str(run.folder), **{**words, "model": "resnet18"})).learner()
    with pytest.raises(ArgumentError, match="it holds no network that has a name; expected one of"):
        plan(LearnSettings(init=str(cats / "run"), **words)).learner()


def test_init_from_a_network_that_is_its_methods_own(photos, tmp_path):
    adversarial = tacit.learn(photos, out=tmp_path / "run", method="dcgan", max_steps=1, image_size=32, verbose=False)
    made = plan(LearnSettings(data=photos, init=str(adversarial.folder), out=str(tmp_path / "new"), **SMALL))
    assert made.recipe.encoder["name"] == "dcgan"
    started = made.learner().encoder.state_dict()
    assert all(torch.equal(value, started[name]) for name, value in adversarial.encoder.state_dict().items())


def test_embed_makes_a_run_that_all_commands_take(run, photos, tmp_path):
    embedded = embed_run(str(run.folder), photos, out=tmp_path / "e", progress=False)
    np.testing.assert_allclose(embedded.items.vectors(), run.items.vectors(), atol=1e-5)
    assert embedded.search(0, k=1)[0].item == 0
    assert (tmp_path / "e" / "report.html").exists()


def test_one_picture_embeds_but_is_not_learned_from(run, photos, tmp_path):
    one = photos / "dots" / "001.png"
    assert len(embed_run(str(run.folder), one, out=tmp_path / "one", progress=False).items) == 1
    with pytest.raises(DataError, match="one item"):
        tacit.learn(one, out=str(tmp_path / "no"), **SMALL)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 500}, ArgumentError, "batch_size=500: expected at most the 91 items"),
        ({"method": "simcrl"}, ArgumentError, "did you mean 'simclr'"),
        ({"arguments": {"temprature": 0.1}}, ArgumentError, "did you mean 'temperature'"),
        ({"init": "nowhere/"}, RunError, "expected a run folder"),
    ],
)
def test_wrong_settings_write_nothing(settings, error, message, photos, tmp_path):
    with pytest.raises(error, match=message):
        tacit.learn(photos, out=str(tmp_path / "run"), **{**SMALL, **settings})
    assert not (tmp_path / "run").exists()


def test_closed_forms_and_grey_pictures(tmp_path):
    digits = tacit.data.load_digits().images[:200]
    for method in ("pca", "patch-kmeans"):
        run = tacit.learn(digits, out=str(tmp_path / method), method=method, verbose=False)
        assert run.summary["training"]["closed_form"]
        assert run.summary["health"]["word"] == "closed form"
        assert run.encoder.dim <= 256
        assert run.search(3, k=1)[0].item == 3


def test_points(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    run = tacit.learn(x, out=str(tmp_path / "points"), verbose=False)
    assert run.summary["method"]["id"] == "pca"
    assert run.items.vectors().shape == (60, 5)
    assert run.summary["clusters"]["one_cloud"]
    assert run.summary["clusters"]["n"] == len(run.summary["clusters"]["per_cluster"]) == 12
    assert "one cloud cut into 12 parts" in run.numbers()[-1]
    assert "one cloud without separate groups" in (run.folder / "report.html").read_text()
    assert run.export("safetensors", tmp_path / "new" / "it.safetensors").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"it'.*cannot be written"):
        run.export("safetensors", tmp_path / "file" / "it")


def test_a_closed_form_says_which_settings_it_has_no_use_for(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    settings = {"epochs": 3, "lr": 0.1, "batch_size": 8, "optimizer": "sgd"}
    lines = plan(LearnSettings(data=x, out=str(tmp_path / "run"), method="pca", **settings)).lines()
    assert "without effect, since a closed form takes no steps: epochs, batch_size, lr, optimizer" in lines
    assert not any("without effect" in line for line in plan(LearnSettings(data=x, method="pca")).lines())


def test_minutes_fix_the_steps_before_the_first(photos, tmp_path):
    settings = {**SMALL, "max_steps": None, "minutes": 0.02}
    run = tacit.learn(photos, out=str(tmp_path / "run"), **settings)
    config = json.loads((run.folder / "config.json").read_text())
    assert config["steps"] == config["training"]["max_steps"] == run.summary["training"]["steps"] >= 1


def test_onnx_gives_the_same_vectors(run, photos, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    place = run.export("onnx", tmp_path / "encoder.onnx")
    x = run.encoder.prepare([Image.open(photos / "dots" / "001.png"), Image.open(photos / "plain" / "002.png")])
    with torch.no_grad():
        ours = run.encoder(x).numpy()
    (theirs,) = runtime.InferenceSession(str(place)).run(None, {"images": x.numpy()})
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_a_strangers_run_runs_no_code_of_theirs(run, tmp_path):
    """A config that names a module of its own is not imported; there is no pickle to load."""
    config = json.loads((run.folder / "config.json").read_text())
    config["class"] = "os.system"
    config["build"]["encoder"] = {"name": "hf:stranger/model", "trust_remote_code": True}
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "config.json").write_text(json.dumps(config))
    (stranger / "model.safetensors").write_bytes((run.folder / "model.safetensors").read_bytes())
    with pytest.raises(ArgumentError, match="trust_remote_code"):
        _ = load(stranger).encoder


@pytest.mark.parametrize("format", sorted(p.name for p in (Path(__file__).parent / "runs").glob("format-*")))
def test_runs_of_every_earlier_format_load(format):
    run = load(Path(__file__).parent / "runs" / format)
    expected = json.loads((run.folder / "expected.json").read_text())
    x = torch.linspace(0, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    with torch.no_grad():
        np.testing.assert_allclose(run.encoder(x)[0].numpy(), expected, atol=1e-4)
    assert run.search(1, k=1)[0].item == 1


def command(data, out, steps, *extra):
    words = [
        "learn",
        str(data),
        "--out",
        str(out),
        "--method",
        "simclr",
        "--max-steps",
        str(steps),
        "--batch-size",
        "16",
    ]
    more = ["--image-size", "32", "--checkpoint-every", "5", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tacit", *words, *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )


@pytest.mark.slow
def test_kill_minus_nine_during_tacit_learn(photos, tmp_path):
    """60 steps, a checkpoint every 5, five kills at random moments, at least three of which resume past step 0."""
    assert command(photos, tmp_path / "whole", 60).wait() == 0
    chance, past = random.Random(1), 0
    for _ in range(5):
        process = command(photos, tmp_path / "killed", 60)
        begun = len(list((tmp_path / "killed" / "checkpoints").glob("step-*")))
        past += begun > 0
        metrics = tmp_path / "killed" / "metrics.jsonl"
        before = metrics.stat().st_size if metrics.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.stat().st_size > before:
                break
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert past >= 3
    assert command(photos, tmp_path / "killed", 60).wait() == 0
    whole, killed = (read_model(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


@pytest.mark.slow
def test_two_devices_end_in_one_whole_run(photos, tmp_path):
    process = command(photos, tmp_path / "run", 6, "--devices", "2")
    said = process.communicate(timeout=240)[1].decode()
    assert process.returncode == 0, said
    run = load(tmp_path / "run")
    assert run.summary["training"]["steps"] == 6
    assert len(run.items) == 91
    assert (run.folder / "report.html").exists()
