"""Adding to a run: against what embedding all of it anew gives, and against kills in the middle."""

import json
import shutil

import numpy as np
import pytest
from noise import noise_pictures
from PIL import Image

import tacit
from tacit import adding
from tacit.cli import main
from tacit.errors import DataError, RunError
from tacit.store import Items

WORDS = ["cats purr and sleep", "dogs bark at night", "stocks fall again", "bonds rise a little", "rain in the north"]


def write(path, texts, prefix="t"):
    rows = [{"id": f"{prefix}{i}", "title": text.split()[0], "abstract": text} for i, text in texts]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def texts(numbers):
    return [(i, f"{WORDS[i % 5]}, number {i} of many sentences about {WORDS[(i * 7) % 5]}") for i in numbers]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    data = write(folder / "papers.jsonl", texts(range(40)))
    tacit.learn(data, out=folder / "run", method="lsa", verbose=False)
    return folder


@pytest.fixture
def run(learned, tmp_path):
    """A copy of the run, and of the data that it was made of."""
    shutil.copytree(learned / "run", tmp_path / "run")
    return tacit.load(tmp_path / "run")


def rows(run):
    items = Items.open(run.folder)
    return dict(zip(items.column("uri"), zip(items.column("item"), items.column("hash"), strict=True), strict=True))


def test_only_what_is_new_is_embedded_and_as_the_encoder_does(run, tmp_path, monkeypatch):
    before, old = rows(run), run.items.vectors()
    embedded = []
    real = adding.embed
    monkeypatch.setattr(adding, "embed", lambda encoder, data: embedded.append(len(data)) or real(encoder, data))
    more = write(tmp_path / "more.jsonl", texts(range(35, 50)))
    found = run.add(more, say=lambda line: None)
    assert embedded == [10]
    assert (found.items, found.known, found.removed, found.moved) == (list(range(40, 50)), 5, 0, 0)
    after = rows(run)
    assert {uri: after[uri] for uri in before} == before
    expected = run.embed([f"{text.split()[0]}. {text}" for _, text in texts(range(40, 50))])
    np.testing.assert_allclose(run.items.vectors()[40:], expected, atol=1e-6)
    np.testing.assert_array_equal(run.items.vectors()[:40], old)
    assert tacit.load(run.folder).summary["data"]["n"] == 50


def test_again_changes_nothing(run, tmp_path):
    more = write(tmp_path / "more.jsonl", texts(range(40, 45)))
    run.add(more, say=lambda line: None)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file() and path.name != ".lock"}
    found = tacit.load(run.folder).add(more, say=lambda line: None)
    assert (found.items, found.known) == ([], 5)
    assert "are there already" in found.lines[0]
    assert before == {
        path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file() and path.name != ".lock"
    }


def test_a_new_item_lands_where_its_nearest_items_are(run, tmp_path):
    """A copy of an item under another name has its place, its cluster, and is its duplicate; it is not embedded."""
    copy = write(tmp_path / "more.jsonl", [texts(range(40))[7]], prefix="copy")
    found = run.add(copy, say=lambda line: None)
    assert (found.items, found.embedded) == ([40], 0)
    one, other = tacit.load(run.folder).items.rows([7, 40], ["hash", "cluster", "vector", "x2d", "y2d"])
    assert one["hash"] == other["hash"]
    assert one["cluster"] == other["cluster"]
    np.testing.assert_array_equal(one["vector"], other["vector"])
    items = run.items
    span = max(np.ptp(items.column("x2d")), np.ptp(items.column("y2d")))
    assert np.hypot(one["x2d"] - other["x2d"], one["y2d"] - other["y2d"]) < span / 4
    assert [7, 40] in [sorted(group.items) for group in tacit.load(run.folder).duplicates() if group.exact]


def test_what_is_gone_from_the_same_file_is_taken_out_and_numbers_are_never_used_again(learned, run):
    data = learned / "papers.jsonl"
    kept = data.read_text()
    try:
        write(data, texts(range(35)))
        found = run.add(data, say=lambda line: None)
        assert (found.removed, found.items) == (5, [])
        write(data, texts([*range(35), 60]))
        assert tacit.load(run.folder).add(data, say=lambda line: None).items == [40]
        assert tacit.load(run.folder).add(write(data, texts(range(35))), say=lambda line: None).removed == 1
        write(data, texts([*range(35), 61]))
        assert tacit.load(run.folder).add(data, say=lambda line: None).items == [41]
    finally:
        data.write_text(kept)
    run = tacit.load(run.folder)
    assert len(run.items) == 36
    assert run.search(41, k=1)[0].item == 41
    known = set(run.items.column("item").tolist())
    sheets = run.summary["clusters"]["per_cluster"]
    named = [item for sheet in sheets for item in sheet["items"]] + run.summary["untypical"]
    assert set(named) <= known
    assert sum(sheet["size"] for sheet in sheets) == 36


def test_an_index_answers_with_what_is_there_now(run, tmp_path, monkeypatch):
    """The index of a run is made anew: it finds what came in, and nothing that was taken out."""
    monkeypatch.setattr("tacit.store._index.INDEXED_FROM", 20)
    monkeypatch.setattr("tacit.store._index.WANTED", 0)
    said = []
    more = write(tmp_path / "more.jsonl", texts(range(40, 60)))
    run.add(more, say=said.append)
    assert any("index of the nearest items" in line for line in said)
    again = tacit.load(run.folder)
    assert again.items.index.used
    for item in range(40, 60):  # a dozen texts are alike but for their number
        assert item in {hit.item for hit in again.search(item, k=20)}
    write(more, texts(range(50, 60)))
    assert tacit.load(run.folder).add(more, say=lambda line: None).removed == 10
    for asked in (again, tacit.load(run.folder)):  # also one that was open all the while
        found = {hit.item for item in [*range(40), *range(50, 60)] for hit in asked.search(item, k=10)}
        assert found & set(range(50, 60))
        assert not found & set(range(40, 50))


def test_keep_gone(learned, run):
    data = learned / "papers.jsonl"
    kept = data.read_text()
    try:
        write(data, texts([0, 1, 70]))
        found = run.add(data, keep_gone=True, say=lambda line: None)
    finally:
        data.write_text(kept)
    assert (len(found.items), found.removed) == (1, 0)
    assert len(tacit.load(run.folder).items) == 41


def test_items_from_elsewhere_stay(run, tmp_path):
    more = write(tmp_path / "more.jsonl", texts(range(40, 44)))
    run.add(more, say=lambda line: None)
    write(more, texts([41, 90]))
    found = tacit.load(run.folder).add(more, say=lambda line: None)
    assert (len(found.items), found.removed) == (1, 3)
    assert len(tacit.load(run.folder).items) == 42


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["_placed", "write_text", "_stands_for"])
def test_a_kill_before_the_commit_leaves_the_old_run(run, tmp_path, monkeypatch, where):
    before = rows(run)
    vectors = run.items.vectors()
    more = write(tmp_path / "more.jsonl", texts(range(40, 45)))

    def killed(*words, **more):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(adding, where, killed)
        with pytest.raises((Killed, RunError)):  # in the midst of writing, the database says it in its own words
            run.add(more, say=lambda line: None)
    again = tacit.load(run.folder)
    assert rows(again) == before
    np.testing.assert_array_equal(again.items.vectors(), vectors)
    assert len(again.add(more, say=lambda line: None).items) == 5
    assert tacit.load(run.folder).summary["data"]["n"] == 45


def test_a_kill_after_the_commit_is_made_good_by_the_same_command(run, tmp_path, monkeypatch):
    more = write(tmp_path / "more.jsonl", texts(range(40, 45)))

    def killed(*words):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(adding, "_finish", killed)
        with pytest.raises(Killed):
            run.add(more, say=lambda line: None)
    again = tacit.load(run.folder)
    assert (len(again.items), again.summary["data"]["n"]) == (45, 40)
    assert again.add(more, say=lambda line: None).known == 5
    assert tacit.load(run.folder).summary["data"]["n"] == 45


def test_labels_that_come_with_new_items(run, tmp_path):
    rows_ = [{"id": f"n{i}", "abstract": text, "label": "cat" if i % 2 else "dog"} for i, text in texts(range(50, 54))]
    (tmp_path / "more.jsonl").write_text("\n".join(map(json.dumps, rows_)))
    run.add(tmp_path / "more.jsonl", say=lambda line: None)
    ledger = tacit.data.Ledger(run.folder / "labels.sqlite")
    ledger.split("label")
    found = ledger.take("label", "choose", "test") | ledger.take("label", "report", "test")
    assert sorted(found.values()) == ["cat", "cat", "dog", "dog"]


def test_another_kind_of_data_is_refused(run, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "a.png")
    with pytest.raises(DataError):
        run.add(tmp_path / "pictures", say=lambda line: None)


def test_the_command(run, tmp_path, capsys):
    more = write(tmp_path / "more.jsonl", texts(range(40, 43)))
    assert main(["add", str(run.folder), str(more), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["items"], said["known"], said["removed"]) == ([40, 41, 42], 0, 0)
    assert main(["add", str(tmp_path / "nowhere"), str(more)]) == 2


def test_pictures(tmp_path):
    """A folder of pictures: one more, one changed, one gone."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{i:02d}.png")
    run = tacit.learn(folder, out=tmp_path / "run", method="pca", verbose=False)
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / "new.png")
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / "03.png")
    (folder / "07.png").unlink()
    found = run.add(folder, say=lambda line: None)
    assert (len(found.items), found.removed, found.known) == (2, 2, 28)
    again = tacit.load(tmp_path / "run")
    names = again.items.column("uri")
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    picked = [names.index("03.png"), names.index("new.png")]
    expected = again.embed(folder)[[sorted(names).index("03.png"), sorted(names).index("new.png")]]
    np.testing.assert_allclose(again.items.vectors()[picked], expected, atol=1e-5)


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """Ten pictures, two of them in a folder below, and a run of them and of one that is broken."""
    folder = tmp_path_factory.mktemp("pictured")
    noise_pictures(folder / "k", range(8))
    noise_pictures(folder / "k" / "sub", range(8, 10))
    (folder / "k" / "broken.png").write_bytes(b"no picture")
    tacit.learn(folder / "k", out=folder / "run", method="pca", labels="none", verbose=False)
    return folder


@pytest.fixture
def album(pictured, tmp_path):
    """A copy of the pictures, where the run expects them, and of the run."""
    kept, place = tmp_path / "kept", pictured / "k"
    shutil.copytree(place, kept)
    shutil.copytree(pictured / "run", tmp_path / "run")
    yield place, tacit.load(tmp_path / "run")
    shutil.rmtree(place)
    shutil.copytree(kept, place)


def quiet(run, data, **words):
    return tacit.load(run.folder).add(data, say=lambda line: None, **words)


def counts(found):
    return len(found.items), found.known, found.moved, found.removed, found.unreadable


def test_one_file_or_a_glob_takes_nothing_else_out(album):
    place, run = album
    noise_pictures(place, [20, 21])
    assert counts(quiet(run, place / "20.png")) == (1, 0, 0, 0, 0)
    assert counts(quiet(run, f"{place}/2*.png")) == (1, 2, 0, 0, 0)
    shutil.copy(place / "3.png", place / "30.png")
    assert counts(quiet(run, place / "30.png")) == (1, 0, 0, 0, 0)  # a copy, for 3.png may still be there
    noise_pictures(place, [20], seed=1)
    assert counts(quiet(run, place / "20.png")) == (1, 0, 0, 1, 0)  # at its place there is another content now
    (place / "30.png").write_bytes(b"half copied")
    assert counts(quiet(run, f"{place}/[03]*.png")) == (0, 2, 0, 0, 1)
    assert len(tacit.load(run.folder).items) == 13


def test_what_cannot_be_read_now_is_not_gone(album):
    place, run = album
    (place / "3.png").write_bytes((place / "3.png").read_bytes()[:60])
    found = quiet(run, place)
    assert counts(found) == (0, 9, 0, 0, 1)
    assert found.lines[1] == "Not readable now, and left as it was: 1 item."
    assert "3.png" in tacit.load(run.folder).items.column("uri")


def test_a_part_of_the_runs_own_folder_is_known_by_its_place(album):
    place, run = album
    assert counts(quiet(run, place / "sub")) == (0, 2, 0, 0, 0)
    shutil.copy(place / "0.png", place / "sub" / "0.png")  # equal in content and in name, and yet at another place
    assert counts(quiet(run, place / "sub")) == (1, 2, 0, 0, 0)
    assert counts(quiet(run, place)) == (0, 11, 0, 0, 0)
    (place / "sub" / "9.png").rename(place / "sub" / "nine.png")
    (place / "sub" / "8.png").unlink()
    assert counts(quiet(run, place / "sub")) == (0, 1, 1, 1, 0)
    names = tacit.load(run.folder).items.column("uri")
    assert sorted(names) == sorted([*(f"{i}.png" for i in range(8)), "sub/nine.png", "0.png"])


def test_a_folder_that_was_moved_as_a_whole_is_known_by_its_names(album, tmp_path):
    place, run = album
    shutil.copytree(place, tmp_path / "moved")
    assert counts(quiet(run, tmp_path / "moved")) == (0, 10, 0, 0, 0)


def test_data_in_memory_takes_nothing_out(tmp_path):
    one, other = np.random.default_rng(0).normal(size=(2, 30, 6)).astype(np.float32)
    run = tacit.learn(one, out=tmp_path / "run", method="pca", verbose=False)
    assert counts(quiet(run, one)) == (0, 30, 0, 0, 0)
    assert counts(quiet(run, other)) == (30, 0, 0, 0, 0)


def test_a_kill_after_a_replacement_is_made_good_though_the_count_is_the_same(album, monkeypatch):
    place, run = album
    noise_pictures(place, [0], seed=1)

    def killed(*words):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(adding, "_finish", killed)
        with pytest.raises(Killed):
            quiet(run, place)
    assert counts(quiet(run, place)) == (0, 10, 0, 0, 0)
    run = tacit.load(run.folder)
    named = {item for sheet in run.summary["clusters"]["per_cluster"] for item in sheet["items"]}
    assert named | set(run.summary["untypical"]) <= set(run.items.column("item").tolist())
    assert "unfinished" not in (run.folder / "added.jsonl").read_text()
    assert [line.startswith("Added on") for line in run.summary["data"]["lines"]].count(True) == 1
    before = (run.folder / "summary.json").stat().st_mtime_ns
    quiet(run, place)
    assert (run.folder / "summary.json").stat().st_mtime_ns == before


def test_what_a_kill_prevented_is_not_told(album, tmp_path, monkeypatch):
    """The log was written, the items were not: the summary speaks of what then came in alone."""
    _, run = album

    def killed(*words):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Items, "create", killed)
        with pytest.raises(Killed):
            quiet(run, noise_pictures(tmp_path / "never", [40, 41]))
    quiet(run, noise_pictures(tmp_path / "then", [50]))
    (line,) = (line for line in tacit.load(run.folder).summary["data"]["lines"] if line.startswith("Added on"))
    assert f"from {tmp_path / 'then'}: 1; taken out: 0; 11 items then." in line


def test_what_was_skipped_stays_listed_until_its_own_data_comes_again(album, tmp_path):
    place, run = album
    more = noise_pictures(tmp_path / "more", [60])
    (more / "torn.png").write_bytes(b"torn")
    quiet(run, more)
    assert skipped(run) == ["broken.png", f"{more}/torn.png"]
    assert tacit.load(run.folder).summary["data"]["skipped"] == 2
    noise_pictures(place, [61])
    quiet(run, place / "61.png")
    assert skipped(run) == ["broken.png", f"{more}/torn.png"]
    (place / "broken.png").unlink()
    (place / "62.png").write_bytes(b"torn")
    noise_pictures(place, [63])
    quiet(run, place)
    assert skipped(run) == [f"{more}/torn.png", "62.png"]


def skipped(run):
    return [line.partition(",")[0] for line in (run.folder / "skipped.csv").read_text().splitlines()[1:]]
