"""label, suggest and cluster on made-up runs: three blobs of pictures."""

import csv
import hashlib
import io
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import tacit
from tacit.cli import main
from tacit.errors import ArgumentError, DataError, RunError
from tacit.grouping import name_by_words
from tacit.labelling import read_labels
from tacit.probing import calibration_error, corrected_accuracy, softened, temperature
from tacit.store import Items

KINDS = ("ant", "bee", "cow")
N, DIM = 90, 8


def picture(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), [(200, 30, 30), (30, 200, 30), (30, 30, 200)][kind]).save(buffer, "PNG")
    return buffer.getvalue()


def write_run(folder, *, apart=4.0, n=N, pictures=True, captions=None, seed=0):
    """Item i is of kind i % 3; item 3 has the content of item 0."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(seed)
    kinds = np.arange(n) % len(KINDS)
    vectors = (apart * np.eye(DIM)[kinds] + chance.normal(size=(n, DIM))).astype(np.float32)
    vectors[3] = vectors[0]
    hashes = [hashlib.sha256(str(0 if i == 3 else i).encode()).hexdigest() for i in range(n)]
    columns = {"uri": [f"d{i % 2}/{i:03d}.png" for i in range(n)], "hash": hashes, "vector": vectors}
    columns |= {"source": [str(folder.parent / "photos")] * n}
    if pictures:
        columns["thumbnail"] = [picture(kind) for kind in kinds]
    if captions:
        columns["meta"] = [json.dumps({"caption": captions[kind]}) for kind in kinds]
    Items.create(folder, [columns])
    (folder / "config.json").write_text(json.dumps({"format": 1, "method": "pca"}))
    (folder / "summary.json").write_text(json.dumps({"format": 1, "title": "Blobs", "data": {"n": n}}))
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("tacit.probing.FOLDS", 3)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def write_labels(path, items, header=("path", "label"), name=lambda i: f"d{i % 2}/{i:03d}.png"):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *((name(i), KINDS[i % 3]) for i in items)])
    return path


def answer(capsys, *words):
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def error(capsys, *words):
    assert main([str(word) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tacit: ")]
    return line


def read(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


# label ----------------------------------------------------------------------------------------------------------------


def test_a_label_file_with_semicolons_and_one_with_a_line_that_is_no_row(tmp_path):
    place = tmp_path / "labels.csv"
    place.write_text("path;label\nd0/000.png;ant\nd1/001.png;bee\n")
    assert read_labels(place) == ("path", "label", [("d0/000.png", "ant"), ("d1/001.png", "bee")])
    lines = tmp_path / "labels.jsonl"
    lines.write_text('{"path": "d0/000.png", "label": "ant"}\n{"path": "d1/0\n')
    with pytest.raises(DataError, match=r"labels\.jsonl, line 2: no JSON: .*; mend or take out that line"):
        read_labels(lines)


def test_label_labels_all_items_and_notes_it(run, tmp_path, capsys):
    given = [0, *range(6, 23)]
    found = answer(capsys, "label", run, write_labels(tmp_path / "labels.csv", given))
    rows = read(found["files"][0])
    assert list(rows[0]) == ["item", "uri", "label", "probability", "source"]
    right = [row["label"] == KINDS[int(row["item"]) % 3] for row in rows]
    assert len(rows) == N
    assert np.mean(right) > 0.9
    assert [int(row["item"]) for row in rows if row["source"] == "given"] == sorted([*given, 3])  # 3 is 0 again
    assert parquet.read_table(found["files"][1])["label"].to_pylist() == [row["label"] for row in rows]
    assert found["accuracy"]["low"] <= np.mean(right) <= found["accuracy"]["high"]
    predicted = sorted((float(row["probability"]), int(row["item"])) for row in rows if row["source"] == "predicted")
    assert {item for _, item in predicted[:10]} <= set(found["doubtful"])
    assert len(read(found["files"][2])) == len(found["doubtful"]) == 20
    assert Image.open(found["sheet"]).size[0] > 0
    assert len(found["probes"]) == 5
    with sqlite3.connect(run / "labels.sqlite") as ledger:
        counts = dict(ledger.execute("SELECT source, COUNT(*) FROM label GROUP BY source").fetchall())
        uses = ledger.execute('SELECT name, part, "by" FROM use').fetchall()
    assert counts == {"user": len(given), "predicted": N - 1 - len(given)}
    assert {part for name, part, by in uses if name == "label" and "tacit label" in by} == {"choose", "report"}
    page = (run / "report.html").read_text()
    assert 'id="answers"' in page
    assert "Estimated accuracy" in page


def test_label_is_never_written_over_and_repeats(run, tmp_path, capsys):
    labels = write_labels(tmp_path / "labels.csv", range(6, 18))
    (run / "labelled" / "1").mkdir(parents=True)
    out = tmp_path / "mine"
    first, second = (answer(capsys, "label", run, labels, *words) for words in ((), ("--out", out)))
    assert first["folder"] == str(run / "labelled" / "2")
    assert read(first["files"][0]) == read(second["files"][0])
    assert second["report"] is None
    assert "holds something already" in error(capsys, "label", run, labels, "--out", out)


def test_items_are_named_in_many_ways(run, tmp_path, capsys):
    table = tmp_path / "photos" / "labels.jsonl"
    table.parent.mkdir()
    photos = tmp_path / "photos"
    names = ["d0/006.png", str(photos / "d1" / "007.png"), "008.png", "d1/009.png", "010.png", "d1/011.png"]
    kinds = [KINDS[i % 3] for i in range(6, 12)]
    lines = [{"image": name, "species": kind} for name, kind in zip(names, kinds, strict=True)]
    strange = [{"image": "nowhere.png", "species": "ant"}, {"image": "d0/006.png", "species": "ant"}]
    torn = [{"image": "d0/012.png", "species": "ant"}, {"image": "012.png", "species": "bee"}]
    empty = [{"image": "d1/013.png", "species": None}]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines + strange + torn + empty))
    found = answer(capsys, "label", run, table)
    rows = read(found["files"][0])
    assert [int(row["item"]) for row in rows if row["source"] == "given"] == list(range(6, 12))
    said = "\n".join(found["lines"])
    assert "left out: nowhere.png (1 row)" in said
    assert "counted once: 1 row" in said
    assert "012.png (ant and bee)" in said
    assert found["label"] == "species"


def test_item_numbers_and_the_column(run, tmp_path, capsys):
    table = tmp_path / "two.csv"
    table.write_text("id,kind,colour\n" + "".join(f"{i},{KINDS[i % 3]},red\n" for i in range(6, 15)))
    assert "--column NAME" in error(capsys, "label", run, table)
    assert "one of" in error(capsys, "label", run, table, "--column", "kinds")
    found = answer(capsys, "label", run, table, "--column", "kind")
    assert found["label"] == "kind"
    assert sum(row["source"] == "given" for row in read(found["files"][0])) == 9


def test_too_few_labels_are_refused_with_the_remedy_and_nothing_is_written(run, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    assert "label a few of another class" in error(capsys, "label", run, write_labels(labels, [0, 6, 9]))
    alone = error(capsys, "label", run, write_labels(labels, [0, 6, 7]))
    assert "only one of 'bee'" in alone
    assert "label another of each" in alone
    unknown = error(capsys, "label", run, write_labels(labels, range(6), name=lambda i: f"x{i}"))
    assert "none of 6 rows" in unknown
    assert "'d0/000.png'" in unknown
    assert "such as path,label" in error(capsys, "label", run, write_labels(labels, [], header=("path",)))
    assert "found an item" in error(capsys, "label", run, write_labels(labels, range(9), header=("d0/000.png", "ant")))
    (tmp_path / "labels.txt").write_text("")
    assert "csv" in error(capsys, "label", run, tmp_path / "labels.txt")
    assert "cannot be read" in error(capsys, "label", run, tmp_path / "none.csv")
    assert not (run / "labels.sqlite").exists()
    assert not (run / "labelled").exists()


def test_all_items_labelled_already(run):
    found = tacit.load(run).label({i: KINDS[i % 3] for i in range(N)}, say=lambda line: None)
    assert found.given.all()
    assert found.doubtful == []
    assert found.sheet is None


def test_labels_without_meaning_are_not_thought_accurate(tmp_path):
    """Of 25 candidates one looks good by luck; the corrected estimate is chance, and the interval has room for it."""
    run = write_run(tmp_path / "run", apart=0.0, pictures=False)
    chance = np.random.default_rng(1)
    labels = {i: ("ant", "bee")[chance.integers(2)] for i in range(4, 64)}
    found = tacit.load(run).label(labels, say=lambda line: None)
    best = max(row["accuracy"] for row in found.choice.table)
    assert found.accuracy.value < best
    assert found.accuracy.low < 0.5 < found.accuracy.high


def test_corrected_accuracy_pays_for_the_choice():
    """Candidates that guess: the best seen is far above 1/2, the corrected one is not; of one candidate both agree."""
    chance = np.random.default_rng(0)
    best, corrected = [], []
    for _ in range(40):
        right = chance.random((25, 30)) < 0.5
        best.append(right.mean(axis=1).max())
        corrected.append(corrected_accuracy(right, right.astype(float), chance).value)
    assert np.mean(best) > 0.65
    assert abs(np.mean(corrected) - 0.5) < 0.03
    alone = chance.random((1, 60)) < 0.8
    assert corrected_accuracy(alone, alone.astype(float), chance).value == pytest.approx(alone.mean(), abs=0.01)


def test_interval_covers_the_accuracy_on_unseen_items():
    """Of 40 draws of candidates with known accuracies, the interval holds that of the one chosen on all items."""
    chance, held = np.random.default_rng(2), 0
    for _ in range(40):
        true = chance.uniform(0.5, 0.8, 20)
        right = chance.random((20, 50)) < true[:, None]
        found = corrected_accuracy(right, right.astype(float), chance)
        held += found.low <= true[right.mean(axis=1).argmax()] <= found.high
    assert held >= 37


def test_temperature_undoes_what_was_done():
    chance = np.random.default_rng(0)
    p = chance.dirichlet(np.ones(3), size=20_000)
    y = np.array([chance.choice(3, p=row) for row in p])
    sharp = softened(p, 1 / 3)
    assert temperature(sharp, y) == pytest.approx(3, rel=0.1)
    assert calibration_error(sharp, y) > 0.1
    assert calibration_error(softened(sharp, 3.0), y) < 0.02


# suggest --------------------------------------------------------------------------------------------------------------


def test_suggest_covers_what_nobody_labelled_yet(run, capsys):
    found = answer(capsys, "suggest", run, "--n", 6)
    items = [one["item"] for one in found["suggestions"]]
    assert len(set(items)) == 6
    assert {item % 3 for item in items} == {0, 1, 2}
    assert not {0, 3} <= set(items)
    assert all(one["reason"] for one in found["suggestions"])
    assert "nothing is labelled yet" in found["lines"][0]
    assert Image.open(found["sheet"]).size[0] > 0
    assert 'id="answers"' in (run / "report.html").read_text()


def test_suggestions_are_filled_in_and_given_back(run, tmp_path, capsys):
    table = answer(capsys, "suggest", run, "--n", 24)["files"][0]
    rows = read(table)
    with Path(table).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "label": KINDS[int(row["item"]) % 3]} for row in rows)
    labelled = answer(capsys, "label", run, table)
    given = {int(row["item"]) for row in read(labelled["files"][0]) if row["source"] == "given"}
    assert {int(row["item"]) for row in rows} <= given
    again = answer(capsys, "suggest", run, "--n", 5)
    assert not given & {one["item"] for one in again["suggestions"]}
    assert all(one["reason"].startswith("unsure: ") for one in again["suggestions"])
    assert "24 labels" in again["lines"][0]
    by_features = answer(capsys, "suggest", run, "--n", 5, "--for", "regression", "--labels", "label")
    assert "for regression" in by_features["lines"][0]
    assert not given & {one["item"] for one in by_features["suggestions"]}


def test_suggest_refuses_what_cannot_be(run, capsys):
    assert "at most the 89 items" in error(capsys, "suggest", run, "--n", 90)
    assert "classification, regression" in error(capsys, "suggest", run, "--for", "fun")
    assert "no labels yet" in error(capsys, "suggest", run, "--labels", "species")
    assert not (run / "suggested").exists()


# cluster --------------------------------------------------------------------------------------------------------------


def test_cluster_finds_the_blobs_and_leaves_the_run_alone(tmp_path, capsys):
    run = write_run(tmp_path / "run", apart=12.0, captions=["an ant on sand", "a bee on clover", "a cow on grass"])
    before = Items.open(run).column("cluster").tolist()
    found = answer(capsys, "cluster", run)
    assert found["n_clusters"] == 3
    rows = read(found["files"][0])
    groups = {(int(row["item"]) % 3, row["cluster"]) for row in rows}
    assert len(groups) == 3
    named = {int(row["item"]) % 3: row["name"] for row in rows}
    assert [KINDS[kind] in name for kind, name in sorted(named.items())] == [True] * 3
    assert all(0 <= float(row["confidence"]) <= 1 for row in rows)
    assert all(len({item % 3 for item in some}) == 1 for some in found["examples"])
    assert Image.open(found["sheet"]).size[0] > 0
    assert Items.open(run).column("cluster").tolist() == before
    again = answer(capsys, "cluster", run, "--k", 2)
    assert again["n_clusters"] == 2
    assert again["folder"] != found["folder"]
    assert "at most the 90 items" in error(capsys, "cluster", run, "--k", 91)
    assert "one of cpp, kmeans" in error(capsys, "cluster", run, "--method", "magic")
    assert "at least 1" in error(capsys, "cluster", run, "--k", 0)


def test_one_cloud_is_said_to_be_one(tmp_path):
    run = write_run(tmp_path / "run", apart=0.0, pictures=False)
    found = tacit.load(run).cluster(say=lambda line: None)
    assert found.sheet is None
    assert "one cloud" in found.lines[0]
    assert found.names == [""] * found.n_clusters


def test_names_need_texts_and_words_that_stand_out():
    labels = np.array([0, 0, 1, 1])
    assert name_by_words(labels, ["", "", "", "a red car"]) == ["", ""]
    assert name_by_words(labels, ["the", "of", "and", "a"]) == ["", ""]
    assert name_by_words(labels, ["same words"] * 4) == ["", ""]


def test_python_forms_raise_the_documented_errors(run, tmp_path):
    loaded = tacit.load(run)
    with pytest.raises(DataError, match="two classes"):
        loaded.label({1: "ant", 4: "ant"})
    with pytest.raises(ArgumentError, match="n=0"):
        loaded.suggest(0)
    with pytest.raises(ArgumentError, match="k='many'"):
        loaded.cluster("many")
    bare = tmp_path / "bare"
    Items.create(bare, [{"uri": ["a", "b"]}])
    (bare / "config.json").write_text('{"format": 1}')
    with pytest.raises(RunError, match="no vectors"):
        tacit.load(bare).cluster()


# Items that are no pictures -------------------------------------------------------------------------------------------


def written(run, *, thumbnails=None, captions=None):
    """The blobs with other thumbnails, or with texts in their place."""
    write_run(run, pictures=False)
    columns = {} if thumbnails is None else {"thumbnail": thumbnails}
    if captions is not None:
        columns |= {"meta": [json.dumps({"caption": text}) for text in captions]}
    Items.open(run).update(columns)
    return run


def test_texts_are_shown_as_a_page_and_beside_the_labels(tmp_path, capsys):
    texts = [f"A {KINDS[i % 3]} & <b>number</b> {i}" for i in range(N)]
    run = written(tmp_path / "run", thumbnails=[text.encode() for text in texts])
    suggested = answer(capsys, "suggest", run, "--n", 24)
    rows = read(suggested["files"][0])
    assert [row["text"] for row in rows] == [texts[int(row["item"])] for row in rows]
    page = Path(suggested["sheet"])
    assert page.name == "contact-sheet.html"
    assert f"A {KINDS[int(rows[0]['item']) % 3]} &amp; &lt;b&gt;number&lt;/b&gt; {rows[0]['item']}" in page.read_text()
    with Path(suggested["files"][0]).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "label": KINDS[int(row["item"]) % 3]} for row in rows)
    labelled = answer(capsys, "label", run, suggested["files"][0])
    assert labelled["label"] == "label"
    assert "page shows the 20 most doubtful" in labelled["lines"][-1]
    assert all(row["text"] == texts[int(row["item"])] for row in read(labelled["files"][2]))
    clustered = answer(capsys, "cluster", run, "--k", 3)
    listed = Path(clustered["sheet"]).read_text()
    assert listed.count("<h2>") == 3
    report = (run / "report.html").read_text()
    assert report.count('class="texts"') == 5  # one list of each, three of the clusters
    assert "<b>number" not in report


def test_rows_of_a_table_are_shown_by_their_values(tmp_path, capsys):
    run = written(tmp_path / "run", captions=[f"height {i}, colour {KINDS[i % 3]}" for i in range(N)])
    found = answer(capsys, "cluster", run, "--k", 3)
    assert all(sum(kind in name for name in found["names"]) == 1 for kind in KINDS)
    assert "height 7, colour bee" in Path(answer(capsys, "suggest", run, "--n", 89)["files"][0]).read_text()


@pytest.mark.parametrize("sizes", [[(28, 64), (60, 64)], [(160, 48)], [(64, 64), (30, 9)]])
def test_pictures_of_unequal_size_share_a_sheet(tmp_path, capsys, sizes):
    """As spectrograms, sparklines and ego-networks are."""
    drawn = []
    for i in range(N):
        buffer = io.BytesIO()
        Image.new("RGB", sizes[i % len(sizes)], "navy").save(buffer, "PNG")
        drawn.append(buffer.getvalue())
    run = written(tmp_path / "run", thumbnails=drawn, captions=["0.5 s"] * N)
    for words in (("suggest", run, "--n", 10), ("cluster", run, "--k", 3)):
        sheet = Image.open(answer(capsys, *words)["sheet"]).convert("RGB")
        assert sheet.getpixel((8 + 48, 8 + 48)) == (0, 0, 128)
