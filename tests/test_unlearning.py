"""tacit unlearn: what the new run holds, what it must not hold, and what the old one keeps."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from noise import noise_pictures
from PIL import Image

import tacit
from tacit.answers import Rows
from tacit.cli import main
from tacit.errors import ArgumentError, DataError, RunError
from tacit.planning import plan
from tacit.report._audit import audit_page
from tacit.settings import LearnSettings
from tacit.store import Items
from tacit.training import fit
from tacit.unlearning import _named, _planned, _Work, gap, verdict

SMALL = {"max_steps": 4, "batch_size": 16, "verbose": False, "image_size": 32, "model": "resnet8"}
QUIET = {"say": lambda line: None}
GONE = ["dots/secret-001.png", "plain/secret-005.png", "stripes/secret-003.png"]


@pytest.fixture(scope="module", autouse=True)
def short():
    """Three pairs of steps; and an index of the nearest items in both runs, as large ones have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tacit.unlearning.STEPS", (3, 3))
        patch.setattr("tacit.store._index.INDEXED_FROM", 20)
        patch.setattr("tacit.store._index.WANTED", 0)
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """60 pictures in three folders; every one is different but for a copy of a secret one."""
    folder = tmp_path_factory.mktemp("photos")
    chance = np.random.default_rng(0)
    for number in range(60):
        kind = ("stripes", "dots", "plain")[number % 3]
        picture = chance.integers(60, 200, (40, 40, 3)).astype(np.uint8)
        if kind == "stripes":
            picture[::3] = 255
        if kind == "dots":
            picture[::4, ::3] = 0
        named = "secret-" if number in (1, 3, 5) else ""
        place = folder / kind / f"{named}{number:03d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(place)
    shutil.copy(folder / "dots" / "secret-001.png", folder / "dots" / "another name.png")
    return folder


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unseen")
    chance = np.random.default_rng(7)
    for number in range(24):
        place = folder / ("stripes", "dots", "plain")[number % 3] / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(chance.integers(60, 200, (40, 40, 3)).astype(np.uint8)).save(place)
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    return tacit.learn(photos, out=str(tmp_path_factory.mktemp("runs") / "run"), method="simclr", **SMALL)


@pytest.fixture(scope="module")
def made(run, unseen, tmp_path_factory):
    """The command on a list of three, with repair; and the old run's files before it."""
    folder = tmp_path_factory.mktemp("asked")
    before = contents(run.folder)
    (folder / "items.txt").write_text("\n".join(GONE) + "\n")
    rows = [f"{kind}/{n:03d}.png,{kind}" for n, kind in ((0, "stripes"), (6, "stripes"), (4, "dots"), (7, "dots"))]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
    words = ["--repair", str(folder / "labels.csv"), "--unseen", str(unseen), "--out", str(folder / "new")]
    assert main(["unlearn", str(run.folder), str(folder / "items.txt"), *words]) == 0
    return tacit.load(folder / "new"), before


def contents(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def traces(run, items):
    """All bytes that would give an item away: its name, hash, picture, pixels of its picture, and vector."""
    found = []
    for row in Items.open(run.folder).rows(items, ["uri", "hash", "thumbnail", "vector"]):
        found += [row["uri"].encode(), row["hash"].encode(), bytes.fromhex(row["hash"]), row["thumbnail"]]
        # 32 bytes from within: neither a header nor a frame can hide them
        found += [row["thumbnail"][len(row["thumbnail"]) // 2 :][:32], np.asarray(row["vector"], np.float32).tobytes()]
        found.append(np.asarray(row["vector"], np.float32).tobytes()[:16])
    return found


def test_no_file_of_the_new_run_holds_a_trace_of_the_items(run, made):
    new, _ = made
    uris = list(run.items.column("uri"))
    wanted = [uris.index(name) for name in (*GONE, "dots/another name.png")]
    secret = traces(run, wanted)
    files = {path: path.read_bytes() for path in new.folder.rglob("*") if path.is_file()}
    assert len(files) > 10
    for path, raw in files.items():
        assert not [one for one in secret if one in raw], path
    assert any(secret[3] in path.read_bytes() for path in run.folder.rglob("*") if path.is_file())  # the search finds
    assert any(b"dots/004.png" in raw for raw in files.values())
    again = [np.asarray(v, np.float32) for v in new.embed(pixels(run, wanted))]  # nor their new vectors
    assert not [path for path, raw in files.items() for v in again if v.tobytes()[:16] in raw]


def test_each_run_has_an_index_of_its_own(run, made):
    new, _ = made
    for one, other in ((run, new), (new, run)):
        assert one.items.index.used
        assert index_files(one)
        assert not set(index_files(one).values()) & set(index_files(other).values())
        vectors = one.items.vectors()
        nearest = {hit.item for at in range(len(vectors)) for hit in one.search(at, k=5)}
        assert nearest <= set(one.items.column("item").tolist())
        assert one.search(3, k=1)[0].score == pytest.approx(1, abs=1e-4)
    uris = {hit.uri for at in range(len(new.items)) for hit in new.search(at, k=5)}
    assert not uris & {*GONE, "dots/another name.png"}


def index_files(run):
    return contents(run.folder / "items.lance" / "_indices")


def pixels(run, items):
    source = plan(
        LearnSettings.from_file(run.folder / "config.json", out="none", data=run.config["made"]["data"])
    ).source
    return source.dataset["x"][items]


def test_nothing_of_the_old_run_is_changed(run, made):
    assert contents(run.folder) == made[1]


def test_copies_go_too_and_what_is_kept_stays(run, made):
    new, _ = made
    assert len(new.items) == len(run.items) - 4
    assert set(new.items.column("uri")) == set(run.items.column("uri")) - {*GONE, "dots/another name.png"}
    assert new.search(0, k=1)[0].score == pytest.approx(1, abs=1e-4)
    x, uris = pixels(run, [10, 11]), list(new.items.column("uri"))
    assert not np.allclose(new.embed(x), run.embed(x))
    stored = new.items.rows([uris.index(run.items.rows([i], ["uri"])[0]["uri"]) for i in (10, 11)], ["vector"])
    np.testing.assert_allclose(new.embed(x), [row["vector"] for row in stored], atol=1e-4)


def test_the_audit_has_all_that_the_page_shows_and_the_page_needs_nothing_else(made):
    new, _ = made
    figures = json.loads((new.folder / "audit.json").read_text())
    page = (new.folder / "audit.html").read_text()
    assert figures["n"] == {"kept": 57, "forgotten": 4, "unseen": 24}
    assert figures["asked"] == 3
    (label,) = figures["labels"]
    for scores in (label["scores"], figures["membership"]["scores"]):
        assert set(scores) == {"before", "unlearned", "retrained"}
    assert set(label["scores"]["unlearned"]) == {"kept", "forgotten", "unseen"}
    assert 0 <= figures["gap"]["unlearned"] <= 1
    assert figures["drift"]["kept"]["unlearned"]["cka"] <= 1
    for line in (*figures["verdict"], *figures["limits"]):
        assert line.split("(")[0].split("'")[0].split("--")[0].strip() in page
    assert "http" not in page.replace("http-equiv", "")
    assert "no guarantee" in page


def test_the_gap_is_the_mean_difference_by_hand_and_the_verdict_says_it(made):
    figures = json.loads((made[0].folder / "audit.json").read_text())
    (label,) = figures["labels"]
    ours, anew = (label["scores"][name] for name in ("unlearned", "retrained"))
    apart = [abs(ours[part]["value"] - anew[part]["value"]) for part in ours]
    member = figures["membership"]["scores"]
    apart.append(abs(member["unlearned"]["forgotten"]["value"] - member["retrained"]["forgotten"]["value"]))
    assert gap(figures, "unlearned") == pytest.approx(np.mean(apart))
    assert f"{100 * np.mean(apart):.1f} points" in figures["verdict"][0]
    worse = verdict({**figures, "gap": {"before": 0.1, "unlearned": 0.3}})[0]
    assert "farther than before" in worse
    assert "30.0 points" in worse


def test_the_oracle_is_what_learning_without_the_items_gives(run, photos, tmp_path):
    """Bit for bit as the same training on a folder that never held them."""
    shutil.copytree(photos, tmp_path / "photos")
    for name in (*GONE, "dots/another name.png"):
        (tmp_path / "photos" / name).unlink()
    never = plan(LearnSettings(data=str(tmp_path / "photos"), out=str(tmp_path / "none"), method="simclr", **SMALL))
    learner, items = never.ready()
    fit(learner, items, max_steps=never.steps, seed=0, accelerator="cpu", **never.recipe.training)
    rows = Rows(run.folder)
    named, _ = _named(rows, GONE)
    oracle = _Work(run, rows, named, None, 0, QUIET["say"]).retrained()
    for name, value in learner.encoder.state_dict().items():
        assert torch.equal(oracle.state_dict()[name], value), name


def test_a_list_that_begins_with_a_byte_order_mark(run, tmp_path):
    (tmp_path / "items.txt").write_text("\n".join(GONE), encoding="utf-8-sig")
    assert _named(Rows(run.folder), tmp_path / "items.txt") == _named(Rows(run.folder), GONE)


@pytest.mark.slow
def test_a_closed_form_is_fitted_anew(photos, tmp_path):
    words = {"method": "pca", "labels": "none", "image_size": 32, "verbose": False}
    run = tacit.learn(photos / "dots", out=str(tmp_path / "run"), **words)
    with pytest.raises(ArgumentError, match="retrain"):
        run.unlearn([1, 2], out=tmp_path / "new", **QUIET)
    found = run.unlearn([1, 2], method="retrain", out=tmp_path / "new", **QUIET)
    assert found.kept == len(run.items) - found.forgotten == len(found.run.items)
    assert "trained anew" in found.lines[0]
    assert "No labels were at hand" in found.audit.read_text()


def test_a_wrong_request_does_nothing_and_says_what_to_do(run, photos, tmp_path):
    quiet = {"say": lambda line: None, "out": tmp_path / "new"}
    with pytest.raises(DataError, match="no-such"):
        run.unlearn([*GONE, "no-such.png"], **quiet)
    with pytest.raises(ArgumentError, match="method"):
        run.unlearn(GONE, method="magic", **quiet)
    with pytest.raises(ArgumentError, match="items"):
        run.unlearn([], **quiet)
    with pytest.raises(ArgumentError, match="kept"):
        run.unlearn(list(range(61)), **quiet)
    with pytest.raises(RunError, match="learned from"):
        run.unlearn(GONE, data=photos / "dots", **quiet)
    assert not (tmp_path / "new").exists()


def test_without_retraining_it_says_that_nothing_is_known(made):
    figures = json.loads((made[0].folder / "audit.json").read_text())
    assert "not compared" in verdict({**figures, "encoders": ["before", "unlearned"]})[0]
    assert "Not measured: there is nothing trained anew" in audit_page({**figures, "drift": {}})


def test_thumbnails_of_the_search_are_real_pictures(run):
    """Else the test that looks for their bytes would look for nothing."""
    thumbnail = run.items.rows([1], ["thumbnail"])[0]["thumbnail"]
    assert Image.open(io.BytesIO(thumbnail)).size[0] >= 32


def test_the_plan_is_the_runs_own(run):
    _, made, _ = _planned(run, Rows(run.folder), None)
    assert made.recipe.encoder == run.config["build"]["encoder"]
    assert made.steps == run.config["steps"]


CLOSED = {"method": "retrain", **QUIET}


@pytest.fixture
def album(tmp_path):
    """Ten pictures and a run of them, in closed form."""
    place = noise_pictures(tmp_path / "u", range(10))
    return place, tacit.learn(place, out=tmp_path / "run", method="pca", labels="none", verbose=False)


def again(run, data):
    return tacit.load(run.folder).add(data, **QUIET)


def test_the_named_item_goes_though_add_has_changed_the_order(album, tmp_path):
    """0.png was taken out and came back, with the last number: a row of the run is no longer a row of the data."""
    place, run = album
    (place / "0.png").rename(tmp_path / "0.png")
    again(run, place)
    (tmp_path / "0.png").rename(place / "0.png")
    again(run, place)
    assert tacit.load(run.folder).items.column("uri")[-1] == "0.png"
    found = tacit.load(run.folder).unlearn(["4.png", "0.png"], out=tmp_path / "new", **CLOSED)
    assert sorted(found.run.items.column("uri")) == [f"{i}.png" for i in range(1, 10) if i != 4]
    assert (found.forgotten, found.kept) == (2, 8)
    never = noise_pictures(tmp_path / "never", [1, 2, 3, 5, 6, 7, 8, 9])  # and the encoder is one of the others alone
    expected = tacit.learn(never, out=tmp_path / "other", method="pca", labels="none", verbose=False)
    np.testing.assert_allclose(found.run.items.vectors(), expected.items.vectors(), atol=1e-4)


def test_added_items_are_taken_over_but_for_those_named(album, tmp_path):
    """From another folder, from a part of one, and from the run's own, which has grown since."""
    place, run = album
    again(run, noise_pictures(tmp_path / "more", [20, 21]))
    again(run, noise_pictures(tmp_path / "many", range(30, 34)) / "31.png")
    again(run, noise_pictures(place, [40]))
    found = tacit.load(run.folder).unlearn(["4.png", "20.png"], out=tmp_path / "new", **CLOSED)
    kept = [i for i in range(10) if i != 4]
    assert list(found.run.items.column("uri")) == [f"{i}.png" for i in (*kept, 21, 31, 40)]
    roots = [str(place)] * 9 + [str(tmp_path / "more"), str(tmp_path / "many"), str(place)]
    assert list(found.run.items.column("source")) == roots
    assert (found.forgotten, found.kept, found.figures["n"]["kept"]) == (2, 12, 9)
    assert "1 item to be forgotten came by tacit add: nothing was learned from them." in found.lines
    assert "3 items that tacit add brought were taken over." in found.lines
    assert found.run.summary["data"]["n"] == 12
    with pytest.raises(RunError, match="other settings"):  # it holds 21.png
        tacit.load(run.folder).unlearn(["4.png", "20.png", "21.png"], out=tmp_path / "new", **CLOSED)


def test_what_can_no_longer_be_taken_over_is_said(album, tmp_path):
    _, run = album
    more = noise_pictures(tmp_path / "more", [20, 21])
    again(run, more)
    (more / "21.png").unlink()
    found = tacit.load(run.folder).unlearn(["4.png"], out=tmp_path / "new", **CLOSED)
    assert found.kept == 10
    assert any(line.startswith(f"1 item that tacit add brought from {more} could not be read") for line in found.lines)


def test_items_that_were_only_added_are_not_unlearned(album, tmp_path):
    _, run = album
    again(run, noise_pictures(tmp_path / "more", [20, 21]))
    with pytest.raises(ArgumentError, match=r"20\.png.*learned from, and these came by `tacit add`"):
        tacit.load(run.folder).unlearn(["20.png"], out=tmp_path / "new", **CLOSED)
    assert not (tmp_path / "new").exists()


def test_data_that_lacks_what_was_learned_from_is_refused(album, tmp_path):
    place, run = album
    noise_pictures(place, [40])
    (place / "7.png").unlink()
    with pytest.raises(RunError, match="learned from"):
        tacit.load(run.folder).unlearn(["4.png"], out=tmp_path / "new", **CLOSED)


def test_from_within_the_folder_of_the_run(album, tmp_path, monkeypatch):
    _, run = album
    monkeypatch.chdir(run.folder)
    Path("items.txt").write_text("4.png\n")
    assert main(["unlearn", ".", "items.txt", "--method", "retrain"]) == 0
    assert len(tacit.load(tmp_path / "run-unlearned").items) == 9


def test_what_stands_beside_an_item_stays_beside_it(tmp_path):
    """The date and the link of a text, which the news are made of."""
    said = ["cats purr", "dogs bark", "stocks fall", "bonds rise", "rain falls"]
    rows = [
        {"id": f"t{i}", "abstract": f"{said[i % 5]} {i} {said[i * 7 % 5]}", "link": f"https://x/{i}"} for i in range(30)
    ]
    (tmp_path / "papers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = tacit.learn(tmp_path / "papers.jsonl", out=tmp_path / "run", method="lsa", verbose=False)
    new = run.unlearn(["t0"], out=tmp_path / "new", **CLOSED).run
    meta = [json.loads(one) for one in new.items.column("meta")]
    assert [(one["link"], uri) for one, uri in zip(meta, new.items.column("uri"), strict=True)] == [
        (f"https://x/{i}", f"t{i}") for i in range(1, 30)
    ]
