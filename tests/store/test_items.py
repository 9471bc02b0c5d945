import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tacit.errors import ArgumentError, DataError, RunError
from tacit.store import Items


def batches(n, dim=8, size=100, seed=0):
    """Rows as `learn` gives them, and all vectors beside."""
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    rows = [
        {
            "item": np.arange(start, min(start + size, n)) * 3,
            "uri": [f"images/{i}.png" for i in range(start, min(start + size, n))],
            "thumbnail": [bytes([i % 256]) * 40 for i in range(start, min(start + size, n))],
            "vector": vectors[start : start + size],
            "meta": [{"labels": {"kind": f"k{i % 3}"}} for i in range(start, min(start + size, n))],
        }
        for start in range(0, n, size)
    ]
    return rows, vectors


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    rows, vectors = batches(1234)
    return Items.create(tmp_path_factory.mktemp("run"), rows), vectors


def test_what_is_written_is_read_in_order(stored):
    items, vectors = stored
    assert len(items) == 1234
    assert items.dim == 8
    np.testing.assert_array_equal(items.vectors(), vectors)
    np.testing.assert_array_equal(items.column("item"), np.arange(1234) * 3)
    assert items.column("uri") == [f"images/{i}.png" for i in range(1234)]
    assert items.column("thumbnail")[300] == bytes([300 % 256]) * 40
    assert items.column("meta")[4] == '{"labels": {"kind": "k1"}}'
    chunks = list(items.chunks(["item", "vector"]))
    np.testing.assert_array_equal(np.concatenate([chunk["vector"] for chunk in chunks]), vectors)


def test_what_was_not_given_is_filled_without_nulls(stored):
    items, _ = stored
    assert np.isnan(items.column("x2d")).all()
    assert (items.column("cluster") == -1).all()
    assert set(items.column("hash")) == {""}


def test_rows_come_in_the_order_asked_for(stored):
    items, vectors = stored
    found = items.rows([30, 3, 30, 3699], ["item", "uri", "vector"])
    assert [row["uri"] for row in found] == ["images/10.png", "images/1.png", "images/10.png", "images/1233.png"]
    np.testing.assert_array_equal(found[1]["vector"], vectors[1])
    assert items.rows([]) == []
    for item in (4, -3, 3702):
        with pytest.raises(ArgumentError, match=f"item={item}: expected one of the 1234"):
            items.rows([item])


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_search_equals_brute_force(stored, metric):
    items, vectors = stored
    for query in np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32):
        if metric == "cosine":
            scores = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
        else:
            scores = vectors @ query if metric == "dot" else -np.linalg.norm(vectors - query, axis=1)
        expected = np.argsort(-scores)[:20]
        hits = items.search(query, 20, metric=metric)
        assert [hit.item for hit in hits] == (expected * 3).tolist()
        assert [hit.uri for hit in hits] == [f"images/{i}.png" for i in expected]
        np.testing.assert_allclose([hit.score for hit in hits], scores[expected], atol=1e-5)


def test_search_under_a_condition(stored):
    items, vectors = stored
    query = vectors[5]
    hits = items.search(query, 3, where="item >= 30 and uri like '%7.png'")
    scores = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    allowed = [i for i in range(10, 1234) if i % 10 == 7]
    assert [hit.item for hit in hits] == [3 * i for i in sorted(allowed, key=lambda i: -scores[i])[:3]]
    assert len(items.search(query, 100, where="item < 30")) == 10
    assert items.search(query, 3, where="item < 0") == []


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_search_under_a_condition_that_all_meet_is_search(stored, metric):
    items, vectors = stored
    for k in (7, 2000):
        hits = items.search(vectors[5] + 0.1, k, metric=metric, where="item >= 0")
        expected = items.search(vectors[5] + 0.1, k, metric=metric)
        assert [hit.item for hit in hits] == [hit.item for hit in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected], atol=1e-5)


def test_search_says_what_is_wrong(stored):
    items, vectors = stored
    with pytest.raises(ArgumentError, match=r"7 numbers.*expected the 8"):
        items.search(vectors[0, :7])
    with pytest.raises(ArgumentError, match="finite"):
        items.search(np.full(8, np.nan))
    with pytest.raises(ArgumentError, match="a direction"):
        items.search(np.zeros(8))
    with pytest.raises(ArgumentError, match="did you mean 'cosine'"):
        items.search(vectors[0], metric="cosin")
    with pytest.raises(ArgumentError, match="k=0"):
        items.search(vectors[0], 0)
    with pytest.raises(ArgumentError, match="where='claster = 1': expected an SQL condition"):
        items.search(vectors[0], where="claster = 1")


def test_a_vector_of_zeros_is_never_a_hit(tmp_path):
    items = Items.create(tmp_path, [{"uri": ["a", "b"], "vector": [[0, 0], [1, 1]]}])
    assert [(hit.uri, round(hit.score, 6)) for hit in items.search([2, 2], 5)] == [("b", 1)]


def test_update_replaces_columns_and_keeps_the_rest(tmp_path):
    rows, vectors = batches(500)
    items = Items.create(tmp_path, rows)
    other = Items.open(tmp_path)
    items.update({"cluster": np.arange(500) % 7, "x2d": np.linspace(0, 1, 500), "y2d": np.linspace(1, 0, 500)})
    for seen in (items, other, Items.open(tmp_path)):
        np.testing.assert_array_equal(seen.column("cluster"), np.arange(500) % 7)
        np.testing.assert_allclose(seen.column("y2d"), np.linspace(1, 0, 500), rtol=1e-6)
        np.testing.assert_array_equal(seen.vectors(), vectors)
        assert seen.column("uri") == [f"images/{i}.png" for i in range(500)]
    items.update({"vector": vectors[:, :3]})
    np.testing.assert_array_equal(items.vectors(), vectors[:, :3])
    assert len(list((tmp_path / "items.lance" / "data").iterdir())) == 1  # the old ones are gone
    with pytest.raises(ArgumentError, match=r"499 values.*one for each of the 500"):
        items.update({"cluster": np.zeros(499, int)})
    with pytest.raises(ArgumentError, match="did you mean 'cluster'"):
        items.update({"clusters": np.zeros(500, int)})
    with pytest.raises(ArgumentError, match="other than item"):
        items.update({"item": np.zeros(500, int)})


def test_create_replaces_what_is_there(tmp_path):
    Items.create(tmp_path, batches(50)[0])
    again = Items.create(tmp_path, [{"uri": ["only"]}])
    assert (len(again), again.dim, again.column("item").tolist()) == (1, None, [0])
    with pytest.raises(RunError, match="no vectors"):
        again.search([1.0])


def test_names_that_are_not_unicode_or_hostile_survive(tmp_path):
    names = [os.fsdecode(b"caf\xe9.png"), "'; DROP TABLE items; --", "</script>", "x" * 5000, "\u2028日本\x00", ""]
    items = Items.create(tmp_path / "a b%20ü#?'", [{"uri": names, "vector": np.eye(6)}])
    assert items.column("uri") == [names[0].encode("utf-8", "backslashreplace").decode(), *names[1:]]


def test_bad_rows_are_refused_and_leave_nothing(tmp_path):
    good = {"uri": ["a", "b"], "vector": np.eye(2)}
    for rows, error, message in [
        ([], DataError, "no items"),
        ([{"item": [0]}], ArgumentError, "column uri"),
        ([{**good, "cluster": [1]}], ArgumentError, "equal length"),
        ([good, {"uri": ["c"]}], ArgumentError, "in every batch or in none"),
        ([good, {"uri": ["c"], "vector": np.ones((1, 3))}], ArgumentError, "vectors of one length"),
        ([good, {**good, "item": [1, 2]}], ArgumentError, "numbers that rise"),
        ([good, {**good, "vector": [[0, 1], [np.nan, 1]]}], DataError, "vector of row 1"),
        ([{**good, "cIuster": [1, 2]}], ArgumentError, "did you mean 'cluster'"),
    ]:
        with pytest.raises(error, match=message):
            Items.create(tmp_path / "run", rows)
        assert not list((tmp_path / "run").glob("*")), message
        with pytest.raises(RunError, match=r"holds no items.lance"):
            Items.open(tmp_path / "run")


def test_bad_rows_leave_the_old_items(tmp_path):
    rows, vectors = batches(200)
    Items.create(tmp_path, rows)
    with pytest.raises(DataError):
        Items.create(tmp_path, [rows[0], {"uri": ["x"], "vector": np.full((1, 8), np.inf)}])
    np.testing.assert_array_equal(Items.open(tmp_path).vectors(), vectors)


def test_open_refuses_what_a_newer_tacit_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr("tacit.store._items.FORMAT", 2)
    Items.create(tmp_path, [{"uri": ["a"]}])
    monkeypatch.undo()
    with pytest.raises(RunError, match="format 2, this tacit reads up to 1"):
        Items.open(tmp_path)


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        Items.create(tmp_path / "file", [{"uri": ["a"]}])
    with pytest.raises(RunError, match=r"no items.lance"):
        Items.open(tmp_path / "file")


WRITER = """
import sys, time, numpy as np
from tacit.store import Items
def rows():
    for start in range(0, 4000, 100):
        yield {"uri": ["new"] * 100, "vector": np.ones((100, 64)), "thumbnail": [b"x" * 5000] * 100}
        if start == 2000:
            print("half", flush=True)
            time.sleep(60)
Items.create(sys.argv[1], rows())
"""


@pytest.mark.parametrize("old", [False, True])
def test_a_kill_while_writing_leaves_the_old_items_or_none(tmp_path, old):
    if old:
        Items.create(tmp_path, [{"uri": ["old"]}])
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"half\n"
    time.sleep(0.2)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    if old:
        assert Items.open(tmp_path).column("uri") == ["old"]
    else:
        with pytest.raises(RunError, match=r"holds no items.lance"):
            Items.open(tmp_path)
    assert len(Items.create(tmp_path, [{"uri": ["a", "b"]}])) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["items.lance"]


def test_rows_are_taken_one_batch_at_a_time(tmp_path):
    """A writer that read everything first would hold all batches at once."""
    alive, most = 0, 0

    class Batch(dict):
        def __init__(self, *given, **more):
            nonlocal alive, most
            super().__init__(*given, **more)
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    Items.create(tmp_path, (Batch(uri=["a"] * 10, vector=np.ones((10, 2))) for _ in range(50)))
    assert most <= 2


def test_threads_and_pickles_read_the_same(stored):
    items, vectors = stored
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(items)).vectors(), vectors)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(items.search(vectors[7], 5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [items.search(vectors[7], 5)] * 4


def test_search_sees_a_later_commit(tmp_path):
    items = Items.create(tmp_path, [{"uri": ["a", "b"], "vector": np.eye(2)}])
    assert items.search([1, 0], 1)[0].uri == "a"
    items.update({"vector": np.eye(2)[::-1].copy()})
    assert items.search([1, 0], 1)[0].uri == "b"
    Items.open(tmp_path).update({"vector": np.eye(2)})
    assert items.search([1, 0], 1)[0].uri == "a"


@pytest.mark.parametrize("limit", [0, 2**29])
def test_search_in_memory_and_by_the_database_agree(tmp_path, monkeypatch, limit):
    monkeypatch.setattr("tacit.store._items.IN_MEMORY", limit)
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(50, 4)).astype(np.float32)
    vectors[7] = 0
    vectors[20] = 3 * vectors[4]
    meta = [{"caption": f"text {i}"} if i % 2 else {"caption": 3} for i in range(50)]
    numbers = np.arange(50) * 3
    items = Items.create(tmp_path, [{"uri": list(map(str, numbers)), "item": numbers, "vector": vectors, "meta": meta}])
    hits = items.search(vectors[4], 60)
    cosines = vectors @ vectors[4] / np.maximum(np.linalg.norm(vectors, axis=1), 1e-9) / np.linalg.norm(vectors[4])
    assert len(hits) == 49
    assert {hits[0].item, hits[1].item} == {12, 60}
    for hit in hits:
        place = hit.item // 3
        assert hit.score == pytest.approx(cosines[place], abs=1e-5)
        assert (hit.uri, hit.text) == (str(hit.item), f"text {place}" if place % 2 else "")


def test_best_of_scores(tmp_path):
    items = Items.create(tmp_path, [{"uri": list("abcd")}])
    assert [(hit.uri, hit.score) for hit in items.best(np.array([0.1, 0.9, 0.9, 0.5]), 3)] == [
        ("b", 0.9),
        ("c", 0.9),
        ("d", 0.5),
    ]
    with pytest.raises(ArgumentError, match="one for each of the 4 items"):
        items.best(np.zeros(3))
