"""compare: equal chances, one answer, and nothing that judges is learned from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tacit
from tacit import comparing
from tacit.comparing import BASELINE, TRAINED, Row, _advice, _parts
from tacit.data import Ledger
from tacit.data import open as open_data
from tacit.errors import ArgumentError, RunError
from tacit.evaluate import wilson

QUICK = {"max_steps": 2, "n": 120, "verbose": False, "model": "resnet8", "image_size": 16}


@pytest.fixture
def photos(tmp_path):
    """Pictures in two folders, told apart by their colour."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for number in range(150):
        place = tmp_path / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        tint = np.array([200, 60, 60] if number % 2 else [60, 60, 200])
        pixels = (tint + draw.integers(-50, 50, (16, 16, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return str(tmp_path / "photos")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def last_line(method):
    return json.loads(Path(f"compare/{method}-0/metrics.jsonl").read_text().splitlines()[-1])


def test_methods_get_equal_steps_and_batches_and_stand_beside_the_baselines(photos):
    answer = tacit.compare(photos, methods="simclr,rotnet", **QUICK)
    assert {row.name for row in answer.rows} == {
        *("simclr", "rotnet", "pixels", "whitened PCA", "patch k-means", "untrained"),
    }
    assert {last_line(name)["step"] for name in ("simclr", "rotnet")} == {2}
    assert answer.decided_by == "k-NN (folder) and linear (folder)"
    assert "tacit learn" in answer.advice[-1]
    assert json.loads(Path("compare/comparison.json").read_text())["steps"] == 2


def test_a_baseline_that_is_itself_among_the_methods_has_one_row(photos):
    answer = tacit.compare(photos, methods="pca,patch-kmeans", **QUICK)
    assert {row.name for row in answer.rows} == {"pca", "patch-kmeans", "pixels"}


def test_what_judges_is_not_learned_from_and_labels_come_from_the_half_for_choosing(photos):
    source = open_data(photos)
    learned, judged = _parts(source, 120, seed=0)
    assert not set(learned.hashes) & set(judged.hashes)
    assert torch.equal(learned.dataset["x"][3], source.dataset["x"][source.hashes.index(learned.hashes[3])])
    tacit.compare(photos, methods=["pca"], **QUICK)
    assert {(use.part, use.by) for use in Ledger("compare/labels.sqlite").uses()} == {("choose", "comparing methods")}


def test_the_same_call_goes_on_and_another_one_is_refused(photos, monkeypatch):
    first = tacit.compare(photos, methods="simclr", **QUICK)
    before = last_line("simclr")
    again = tacit.compare(photos, methods="simclr", **QUICK)
    for one, other in zip(first.rows, again.rows, strict=True):
        assert one.name == other.name
        assert [float(v) for v in one.scores.values()] == pytest.approx(
            [float(v) for v in other.scores.values()], rel=1e-4
        )
    assert last_line("simclr") == before
    with pytest.raises(RunError, match="other settings"):
        tacit.compare(photos, methods="rotnet", **QUICK)


def test_minutes_are_shared_by_all_trainings(photos, monkeypatch):
    monkeypatch.setattr(comparing, "step_seconds", lambda made: {"simclr": 1.0, "rotnet": 3.0}[made.recipe.method])
    made = {**QUICK, "max_steps": None, "minutes": 1, "seeds": 2}
    answer = tacit.compare(photos, methods="simclr,rotnet", **made)
    assert answer.steps == int(60 / 2 / (4 * comparing.OVERHEAD))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"methods": "simclear"}, "simclr"),
        ({"methods": ""}, "ids of methods"),
        ({"methods": "supervised"}, "needs y"),
        ({"seeds": 0}, "seeds=0"),
        ({"minutes": 3}, "not both"),
        ({"n": "abc"}, "n='abc'"),
        ({"n": 15}, "n=15"),
        ({"seeds": "x"}, "seeds='x'"),
        ({"seeds": 1.5}, "seeds=1.5"),
        ({"seeds": True}, "seeds=True"),
        ({"methods": "pca", "max_steps": None, "minutes": "abc"}, "minutes='abc'"),
        ({"max_steps": None, "minutes": float("nan")}, "minutes=nan"),
        ({"max_steps": 0}, "max_steps=0"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_written(photos, settings, says):
    with pytest.raises(ArgumentError, match=says):
        tacit.compare(photos, **{"methods": "simclr", **QUICK, **settings})
    assert not Path("compare").exists()


def row(name, hits, kind=TRAINED, seconds=60.0):
    return Row(name, kind, {"k-NN (y)": wilson(hits, 1000)}, seconds)


def test_the_advice_calls_a_tie_a_tie_and_takes_the_cheaper():
    rows = [row("simclr", 600, seconds=90.0), row("dcl", 590), row("pixels", 300, BASELINE, None)]
    lines = _advice(rows, ["k-NN (y)"], "my photos")
    assert "Not to be told apart from simclr: dcl." in lines
    assert lines[-1] == "Take dcl: tacit learn 'my photos' --method dcl"


def test_the_advice_says_when_pixels_are_as_good_and_when_a_baseline_wins():
    rows = [row("pixels", 620, BASELINE, None), row("simclr", 610)]
    assert any("Not clearly better than pixels" in line for line in _advice(rows, ["k-NN (y)"], "x"))
    rows = [row("patch k-means", 700, BASELINE, None), row("simclr", 500)]
    assert _advice(rows, ["k-NN (y)"], "x")[-1] == "Take patch-kmeans: tacit learn x --method patch-kmeans"
