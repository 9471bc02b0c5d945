"""What the page is told is what the run holds; what it says is on the disk at once."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("fastapi", reason="the extra explore is not installed")
from pyarrow import csv, parquet
from starlette.testclient import TestClient

from tacit.data import Ledger
from tacit.errors import ArgumentError, DataError
from tacit.explore import Explored, _asking, _exports, _teaching, create_app
from tacit.explore._decisions import Decisions
from tacit.explore._labels import Notebook
from tacit.store import Items

HERE = "http://127.0.0.1:8765"


class Client:
    def __init__(self, run, token):
        app = create_app(Explored(run), token=token)
        self.desk = app.desk
        self.client = TestClient(app, base_url=HERE, headers={"X-Tacit-Token": token})

    def get(self, path):
        return self.client.get(path)

    def post(self, path, given):
        return self.client.post(path, json=given)

    def table(self, answer):
        assert answer.status_code == 200, answer.text
        found = pa.ipc.open_stream(answer.content).read_all()
        return found, json.loads(found.schema.metadata[b"about"])


@pytest.fixture
def page(own_run, token):
    made = Client(own_run, token)
    with made.client:
        yield made


def test_points_and_columns_are_the_store_s(page, own_run):
    items = Items.open(own_run)
    points, _ = page.table(page.get("/api/points"))
    for ours, theirs in (("item", "item"), ("x", "x2d"), ("y", "y2d"), ("cluster", "cluster")):
        np.testing.assert_array_equal(points[ours].to_numpy(), np.asarray(items.column(theirs)))
    column, about = page.table(page.get("/api/column?name=label:shape"))
    said = [about["classes"][code] for code in column["value"].to_pylist()]
    assert said == [json.loads(meta)["labels"]["shape"] for meta in items.column("meta")]
    assert about["counts"] == [40, 40, 40]
    outlier, about = page.table(page.get("/api/column?name=outlier"))
    assert about["kind"] == "number"
    np.testing.assert_array_equal(outlier["value"].to_numpy(), items.column("outlier"))
    assert page.get("/api/column?name=vector").status_code == 422


def test_dates_and_numbers_that_items_come_with_are_columns(tmp_path, token):
    run = tmp_path / "run"
    metas = [{"date": "1970-01-02", "discussed": k, "caption": f"price {k}k, on 2024-02-29"} for k in range(30)]
    metas[7] = {"labels": {"date": "a label's"}, "caption": '"added": no fact'}
    Items.create(run, [{"uri": [str(k) for k in range(30)], "meta": [json.dumps(meta) for meta in metas]}])
    (run / "summary.json").write_text('{"format": 1}')
    schema = {"features": ["price", "on"], "categories": {}, "dates": ["on"]}
    (run / "config.json").write_text(json.dumps({"format": 1, "made": {"description": {"schema": schema}}}))
    page = Client(run, token)
    names = [one["name"] for one in page.get("/api/run").json()["columns"]]
    assert names == ["label:date", "fact:date", "fact:discussed", "value:price", "value:on"]
    days = {}
    for name in names[1:]:
        column, about = page.table(page.get(f"/api/column?name={name}"))
        days[name] = about["kind"], about["dates"], about["span"], column["value"].to_pylist()[8]
        assert np.isnan(column["value"].to_pylist()[7])
    assert days == {
        "fact:date": ("number", True, [1, 1], 1),
        "fact:discussed": ("number", False, [0, 29], 8),
        "value:price": ("number", False, [0, 29_000], 8_000),
        "value:on": ("number", True, [19_782, 19_782], 19_782),
    }


def test_the_run_in_words(page):
    about = page.get("/api/run").json()
    assert about["title"] == "drawn shapes"
    assert [one["name"] for one in about["clusters"]] == ["discs", "squares", "wedges"]
    assert about["asks"] == {"text": False, "file": False, "example": True}  # no weights lie in the run
    assert about["skipped"] == 2
    assert page.get("/api/skipped").json()["rows"][1] == {"name": "../odd <b>.png", "reason": "not an image"}


def test_items_come_in_the_order_asked_for(page, own_run):
    shown, _ = page.table(page.post("/api/items", {"items": [7, 3, 7]}))
    assert shown["item"].to_pylist() == [7, 3, 7]
    assert shown["picture"].to_pylist()[1] == Items.open(own_run).rows([3])[0]["thumbnail"]
    assert shown["file"].to_pylist() == [1, 1, 1]
    assert page.post("/api/items", {"items": [99999]}).status_code == 422
    assert page.post("/api/items", {"items": ["x"]}).status_code == 422
    assert page.post("/api/items", {"items": list(range(2000))}).status_code == 422


def test_more_like_these_and_not_like_those_is_a_cosine_with_their_difference(page, own_run):
    z = Items.open(own_run).vectors()
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    like, unlike = [4, 40], [8]
    scores = z @ (z[like].mean(0) - 0.5 * z[unlike].mean(0))
    scores /= np.linalg.norm(z[like].mean(0) - 0.5 * z[unlike].mean(0))
    order = [i for i in np.argsort(-scores, kind="stable") if i not in (4, 40, 8)][:9]
    found, _ = page.table(page.post("/api/near", {"like": like, "unlike": unlike, "k": 9}))
    assert found["item"].to_pylist() == order
    np.testing.assert_allclose(found["score"].to_numpy(), scores[order], rtol=1e-5)
    assert page.post("/api/near", {"like": [], "unlike": []}).status_code == 422
    assert page.post("/api/near", {"like": [4], "unlike": [99999]}).status_code == 422


def test_of_many_vectors_the_asking_process_says_the_same(page, monkeypatch):
    asked = {"like": [4, 40], "unlike": [8], "k": 9}
    here = page.table(page.post("/api/near", asked))[0]
    monkeypatch.setattr("tacit.explore._run.AT_HAND", 100)
    assert page.table(page.post("/api/near", asked))[0].equals(here)


def test_only_what_compares_with_many_vectors_is_left_to_the_asking_process(own_run, monkeypatch):
    explored = Explored(own_run)
    assert not explored.is_heavy([4], [8], 9)
    monkeypatch.setattr("tacit.explore._run.AT_HAND", 100)
    assert explored.is_heavy([4], [8], 9)
    monkeypatch.setattr(type(explored.store), "reads_all", lambda items, k: k > 11)  # an index that finds up to 11
    assert [explored.is_heavy([4], [8], k) for k in (9, 10)] == [False, True]


def test_a_label_is_on_the_disk_when_the_answer_comes(page, own_run):
    assert page.post("/api/label", {"name": "kind", "value": "round", "items": [0, 3]}).json()["n"] == 2
    with sqlite3.connect(own_run / "labels.sqlite") as db:
        found = db.execute("SELECT item_hash, value, source FROM label WHERE name = 'kind' ORDER BY 1").fetchall()
    assert found == [(f"{0:064x}", "round", "user"), (f"{3:064x}", "round", "user")]
    column, about = page.table(page.get("/api/given?name=kind"))
    # the last item is a copy of the first, and content is what is labelled
    assert np.flatnonzero(column["value"].to_numpy() >= 0).tolist() == [0, 3, 119]
    assert about["classes"] == ["round"]
    assert page.get("/api/labels").json()["labels"] == [{"name": "kind", "n": 2, "values": {"round": 2}}]


def test_a_star_of_the_page_is_that_of_the_run(page, own_run):
    from tacit import news

    run = SimpleNamespace(folder=own_run, items=Items.open(own_run))
    assert page.table(page.get(f"/api/given?name={news.STAR}"))[1]["classes"] == []
    news.star(run, [5])
    page.post("/api/star", {"items": [0], "on": True})
    column, _ = page.table(page.get(f"/api/given?name={news.STAR}"))
    assert np.flatnonzero(column["value"].to_numpy() == 0).tolist() == [0, 5, 119]  # the last is a copy of the first
    assert news._marks(run, news.STAR) == {f"{0:064x}": "yes", f"{5:064x}": "yes"}
    assert page.get("/api/labels").json()["labels"] == []  # a star names no class
    page.post("/api/star", {"items": [5, 0], "on": False})
    assert news._marks(run, news.STAR) == {}
    assert page.post("/api/undo", {}).json()["name"] == news.STAR
    assert len(news._marks(run, news.STAR)) == 2
    for wrong in ({"items": [], "on": True}, {"items": [999], "on": True}):
        assert page.post("/api/star", wrong).status_code == 422
    assert page.post("/api/label", {"name": news.STAR, "value": "no", "items": [1]}).status_code == 422


def test_a_ledger_that_another_window_is_just_making_holds_no_labels_yet(own_run):
    (own_run / "labels.sqlite").unlink(missing_ok=True)
    notebook, other = Notebook(own_run), sqlite3.connect(own_run / "labels.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE begun (x)")  # not committed: the file is there, and empty
    assert notebook.path.is_file()
    assert (notebook.names(), notebook.given("kind")) == ([], {})
    other.close()
    notebook.put("kind", "round", ["0"])
    assert notebook.given("kind") == {"0": "round"}


def test_a_whole_cluster_is_labelled_at_once(page, own_run):
    assert page.post("/api/label", {"name": "kind", "value": "wedge", "cluster": 2}).json()["n"] == 40
    given = Notebook(own_run).given("kind")
    assert len(given) == 40
    assert page.post("/api/label", {"name": "kind", "value": "x", "items": []}).status_code == 422
    assert page.post("/api/label", {"name": " ", "value": "x", "items": [1]}).status_code == 422
    assert page.post("/api/label", {"name": "kind", "value": "x" * 101, "items": [1]}).status_code == 422


def test_keys_of_many_items_are_those_of_one_by_one(own_run, monkeypatch):
    explored = Explored(own_run)
    one_by_one = explored.keys([5, 9, 11])
    monkeypatch.setattr("tacit.explore._run.TAKEN", 2)
    assert explored.keys([5, 9, 11]) == one_by_one == [f"{i:064x}" for i in (5, 9, 11)]


def test_steps_are_taken_back_and_done_again(page, own_run):
    for value, items in (("a", [1, 2]), ("b", [2, 3]), (None, [1])):
        page.post("/api/label", {"name": "kind", "value": value, "items": items})
    book = Notebook(own_run)

    def now():
        return {int(key, 16): value for key, value in book.given("kind").items()}

    assert now() == {2: "b", 3: "b"}
    page.post("/api/undo", {})
    assert now() == {1: "a", 2: "b", 3: "b"}
    page.post("/api/undo", {})
    assert now() == {1: "a", 2: "a"}
    page.post("/api/redo", {})
    assert now() == {1: "a", 2: "b", 3: "b"}
    page.post("/api/undo", {})
    page.post("/api/undo", {})
    assert now() == {}
    assert page.post("/api/undo", {}).json()["name"] is None


def test_what_somebody_else_has_said_since_is_not_taken_back(own_run):
    mine, theirs = Notebook(own_run), Notebook(own_run)
    mine.put("kind", "a", ["k1", "k2"])
    theirs.put("kind", "c", ["k2"])
    mine.undo()
    assert mine.given("kind") == {"k2": "c"}
    mine.redo()
    assert mine.given("kind") == {"k1": "a", "k2": "c"}


def test_labels_outlive_a_kill_in_the_middle_of_labelling(own_run):
    code = """
import sys
from tacit.explore._labels import Notebook
book = Notebook(sys.argv[1])
for i in range(10_000):
    book.put("kind", "a" if i % 2 else "b", [f"k{i}"])
    print(i, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(own_run)], stdout=subprocess.PIPE, text=True)
    said = -1
    while said < 20:
        said = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    said = max([said, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    process.wait()
    given = Notebook(own_run).given("kind")
    assert all(given[f"k{i}"] == ("a" if i % 2 else "b") for i in range(said + 1))
    assert len(given) <= said + 2  # at most one more, whose line was not printed
    with sqlite3.connect(own_run / "labels.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_explorers_on_one_run_lose_nothing(own_run, token):
    pages = [Client(own_run, token), Client(own_run, token)]
    failed = []

    def work(number):
        for i in range(20):
            given = {"name": "kind", "value": f"by {number}", "items": [40 * number + i]}
            for path, body in (("/api/label", given), ("/api/verdict", {"items": given["items"], "verdict": "keep"})):
                answer = pages[number].post(path, body)
                if answer.status_code != 200:
                    failed.append(answer.text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    given = Notebook(own_run).given("kind")
    assert {int(key, 16): value for key, value in given.items()} == {
        40 * number + i: f"by {number}" for number in range(2) for i in range(20)
    }
    assert len(Decisions(own_run).all()) == 40
    with sqlite3.connect(own_run / "labels.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_page_sees_that_the_items_have_changed(page, own_run):
    before = page.get("/api/state").json()["stamp"]
    items = Items.open(own_run)
    items.update({"cluster": 2 - np.asarray(items.column("cluster"))})
    assert page.get("/api/state").json()["stamp"] != before
    points, _ = page.table(page.get("/api/points"))
    np.testing.assert_array_equal(points["cluster"].to_numpy(), np.asarray(items.column("cluster")))


def test_verdicts_on_duplicates(page):
    assert page.post("/api/verdict", {"items": [119, 7], "verdict": "discard"}).json()["verdicts"] == {
        "7": "discard",
        "119": "discard",
    }
    page.post("/api/verdict", {"items": [7], "verdict": None})
    found = page.get("/api/duplicates").json()
    assert found["verdicts"] == {"119": "discard"}
    assert [group["items"] for group in found["groups"]] == [[0, 119], [4, 7, 10]]
    assert page.post("/api/verdict", {"items": [7], "verdict": "burn"}).status_code == 422


def given_half(run):
    """Half of the drawn items labelled by their group, and one of a class of its own."""
    shapes = ["disc", "square", "wedge"]
    return {f"{i:064x}": shapes[i % 3] for i in range(0, 60)} | {f"{70:064x}": "odd one"}


def test_a_probe_learns_from_the_labels_and_says_how_sure_it_is(own_run):
    told = _teaching.teach(str(own_run), "s", "kind", given_half(own_run))
    assert told["classes"] == ["disc", "square", "wedge"]
    assert told["left_out"] == ["odd one"]
    right = told["values"] == np.arange(120) % 3
    right[119] = told["values"][119] == 0  # the copy of the first is what the first is
    assert right[60:].mean() > 0.9
    assert (told["probability"][:60] == 1).all()
    assert ((told["probability"][60:119] >= 1 / 3) & (told["probability"][60:119] <= 1)).all()
    assert told["accuracy"]["low"] <= told["accuracy"]["value"] <= told["accuracy"]["high"]
    with pytest.raises(DataError, match="two classes"):
        _teaching.teach(str(own_run), "s", "kind", {f"{1:064x}": "a", f"{2:064x}": "a", f"{3:064x}": "b"})


def test_suggestions_have_no_label_yet_and_a_reason(own_run):
    found = _teaching.suggest(str(own_run), "s", given_half(own_run), 5)
    assert len({one["item"] for one in found}) == 5
    assert not {one["item"] for one in found} & {*range(60), 70, 119}
    assert all(one["reason"] for one in found)
    assert len(_teaching.suggest(str(own_run), "s", {}, 4)) == 4
    everything = {f"{i:064x}": "a" for i in range(120)}
    assert _teaching.suggest(str(own_run), "s", everything, 4) == []


def test_learning_goes_on_behind_the_page_and_is_noted_in_the_ledger_once(page, own_run):
    shapes = ["disc", "square", "wedge"]
    for k in range(3):
        page.post("/api/label", {"name": "kind", "value": shapes[k], "items": list(range(k, 45, 3))})
    assert page.get("/api/told?name=kind").status_code == 404
    for _ in range(2):
        page.post("/api/teach", {"name": "kind"})
        until = time.monotonic() + 120
        while (state := page.get("/api/state").json())["teaching"] and time.monotonic() < until:
            time.sleep(0.1)
    assert state["errors"] == {}
    told, about = page.table(page.get("/api/told?name=kind"))
    assert (told["value"].to_numpy()[45:119] == np.arange(45, 119) % 3).mean() > 0.9
    assert about["n"] == 45
    uses = [use for use in Ledger(own_run / "labels.sqlite").uses() if use.name == "kind"]
    assert [use.part for use in uses] == ["choose", "report"]
    assert all("tacit explore" in use.by for use in uses)


@pytest.fixture
def labelled(page):
    page.post("/api/label", {"name": "kind", "value": "round/../x", "items": [0, 3, 6]})
    page.post("/api/label", {"name": "kind", "value": "square", "items": [1, 4]})
    page.post("/api/verdict", {"items": [4], "verdict": "discard"})
    return page


def exported(page, form, **more):
    answer = page.post("/api/export", {"format": form, "name": "kind", **more}).json()
    first, again = page.get(answer["url"]), page.get(answer["url"])
    assert first.status_code == 200
    assert answer["name"] in first.headers["content-disposition"]
    assert again.status_code == 404  # a ticket is good for once
    return first.content, answer["n"]


def test_tables_that_are_taken_along(labelled):
    content, n = exported(labelled, "csv")
    table = csv.read_csv(io.BytesIO(content))
    assert n == len(table) == 120
    row = table.slice(4, 1).to_pylist()[0]
    assert (row["item"], row["uri"], row["kind"], row["source"], row["verdict"]) == (
        4,
        "4.png",
        "square",
        "given",
        "discard",
    )
    content, _ = exported(labelled, "parquet", items=[4, 2])
    assert parquet.read_table(io.BytesIO(content))["item"].to_pylist() == [2, 4]
    content, n = exported(labelled, "jsonl", items=[3])
    assert json.loads(content)["kind"] == "round/../x"
    assert labelled.post("/api/export", {"format": "exe"}).status_code == 422


def test_pictures_that_are_taken_along_lie_by_label(labelled, shapes_run):
    content, n = exported(labelled, "imagefolder")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        # item 119 is the copy of 0; 4 is to be discarded; a label is never a path
        assert sorted(names) == sorted(
            ["README.md", "train/square/1-1.png", *(f"train/round-x/{i}-{i}.png" for i in (0, 3, 6, 119))]
        )
        assert archive.read("train/square/1-1.png") == (shapes_run.parent / "files" / "1.png").read_bytes()
    assert n == 5


def test_no_ticket_no_download(page):
    assert page.get("/download/guess").status_code == 404
    assert page.get("/download/..%2f..%2fetc%2fpasswd").status_code in (401, 404)


def test_a_text_that_is_asked_with_is_never_read_as_a_file(monkeypatch, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("the private words")
    asked = []

    class Run:
        joint = None
        encoder = None
        items = type("Store", (), {"search": staticmethod(lambda vector, k: [])})

    monkeypatch.setattr(_asking, "_run", lambda folder: Run)
    monkeypatch.setattr(_asking, "vector_of_text", lambda text, encoder: asked.append(text))
    _asking.search_text("run", str(secret), 5)
    assert asked == [str(secret)]


def test_files_that_are_asked_with_have_a_known_ending(page, monkeypatch):
    monkeypatch.setattr(Explored, "asks", lambda self: {"text": False, "file": True, "example": True})
    for ending in ("exe", "py", "png/../../x", "svg", ""):
        answer = page.client.post(f"/api/ask/file?ending={ending}", content=b"x")
        assert answer.status_code == 422, ending
    assert page.post("/api/ask/text", {"text": "hello"}).status_code == 422


def test_columns_of_many_kinds():
    from tacit.explore._run import as_column

    many = as_column("m", "m", [f"value {i % 300}" for i in range(900)])
    assert (len(many.classes), many.rest, int((many.values < 0).sum())) == (254, 46, 138)
    assert as_column("m", "m", ["digit 10", "digit 9"]).classes == ["digit 9", "digit 10"]
    assert as_column("m", "m", [1, 2.0, True, None]).classes == ["1", "2", "True"]
    empty = as_column("m", "m", [None, None])
    assert empty.about()["classes"] == []
    with pytest.raises(ArgumentError, match="format"):
        _exports.write_export(None, None, "exe")


def test_a_run_without_vectors_or_places_still_opens(tmp_path, token):
    run = tmp_path / "run"
    Items.create(run, [{"uri": ["a", "b"]}])
    (run / "summary.json").write_text('{"format": 1}')
    page = Client(run, token)
    about = page.get("/api/run").json()
    assert (about["n"], about["placed"], about["columns"], about["asks"]["example"]) == (2, 0, [], False)
    assert page.post("/api/near", {"like": [0]}).status_code == 409
    assert page.post("/api/label", {"name": "k", "value": "v", "items": [1]}).status_code == 200


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_that_may_not_be_written_says_so(page, own_run):
    own_run.chmod(0o500)
    try:
        assert page.post("/api/label", {"name": "k", "value": "v", "items": [1]}).status_code == 409
    finally:
        own_run.chmod(0o700)
