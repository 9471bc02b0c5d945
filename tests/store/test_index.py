"""The index of many items: against brute force, and against answers for rows that are no longer there."""

import json
from pathlib import Path

import numpy as np
import pytest

from tacit.store import Items, _index

N, DIM = 2000, 24
SOON = {"INDEXED_FROM": 1000, "ASKED": 40, "MOST": 2}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """An index from 1,000 rows on, and a short measurement. Its cells are drawn by chance: MOST leaves room for it."""
    for name, value in SOON.items():
        monkeypatch.setattr(_index, name, value)


def drawn(n, seed=0, centres=30):
    """Points around centres, and some farther off."""
    rng = np.random.default_rng(seed)
    centre = 2 * np.random.default_rng(9).normal(size=(centres, DIM))
    return (centre[rng.integers(centres, size=n)] + rng.normal(size=(n, DIM))).astype(np.float32)


def rows(vectors, numbers=None):
    numbers = np.arange(len(vectors)) if numbers is None else numbers
    for start in range(0, len(vectors), 500):
        part = slice(start, start + 500)
        some = numbers[part]
        yield {"item": some, "uri": [f"{i}.png" for i in some], "vector": vectors[part], "cluster": some % 40}


def files(folder, under="_indices"):
    return [path for path in (Path(folder) / "items.lance" / under).rglob("*") if path.is_file()]


def cosines(vectors, query):
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.divide(vectors @ query, norms, out=np.full(len(vectors), -np.inf, np.float32), where=norms > 0)


def found_share(items, vectors, queries, k, **words):
    """Recall as by hand: hits among the k nearest."""
    shares = []
    for query in queries:
        nearest = set(np.argsort(-cosines(vectors, query))[:k].tolist())
        shares.append(len(nearest & {hit.item for hit in items.search(query, k, **words)}) / k)
    return float(np.mean(shares))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SOON.items():
            patch.setattr(_index, name, value)
        vectors = drawn(N)
        vectors[7] = 0
        return Items.create(tmp_path_factory.mktemp("run"), rows(vectors)), vectors


def test_the_index_finds_what_brute_force_finds_with_the_same_scores(stored):
    items, vectors = stored
    assert items.index.used
    assert items.index.cells == round(N**0.5)
    unseen = drawn(30, seed=1)
    assert found_share(items, vectors, unseen, 10) >= 0.95
    assert found_share(items, vectors, unseen, 100) >= 0.95
    scores = cosines(vectors, unseen[0])
    hits = items.search(unseen[0], 10)
    np.testing.assert_allclose([hit.score for hit in hits], scores[[hit.item for hit in hits]], atol=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.uri == f"{hit.item}.png" for hit in hits)


def test_the_noted_recall_is_that_of_the_runs_items_by_hand(stored):
    items, vectors = stored
    index = items.index
    asked = [i for i in np.sort(np.random.default_rng(0).permutation(N)[:40]) if i != 7]
    assert index.asked == len(asked)
    for k in (10, 100):
        shares = []
        for i in asked:
            scores = cosines(vectors, vectors[i])
            scores[i] = -np.inf
            nearest = set(np.argsort(-scores)[:k].tolist())
            hits = _index.near(items._table, vectors[i], k + 1, index.probes, index.refine).to_arrow()["item"]
            shares.append(len(nearest & set([item for item in hits.to_pylist() if item != i][:k])) / k)
        assert index.recall[k] == pytest.approx(np.mean(shares), abs=2e-3)
        assert index.low[k] == pytest.approx(index.recall[k] - 1.96 * np.std(shares) / len(shares) ** 0.5, abs=2e-3)
        assert index.low[k] >= 0.95
    assert f"finds {index.recall[10]:.3f} of the 10 nearest" in index.describe()


def test_what_is_said_to_be_exact_is(stored):
    items, vectors = stored
    for query in drawn(5, seed=2):
        order = np.argsort(-cosines(vectors, query))
        assert [hit.item for hit in items.search(query, 30, exact=True)] == order[:30].tolist()
        assert [hit.item for hit in items.search(query, 150)] == order[:150].tolist()  # more than it is measured for
        by_condition = [hit.item for hit in items.search(query, 10, where="cluster = 3")]
        assert by_condition == [i for i in order if i % 40 == 3][:10]
        far = np.argsort(np.linalg.norm(vectors - query, axis=1))[:10]
        assert [hit.item for hit in items.search(query, 10, metric="euclidean")] == far.tolist()
    assert len(items.search(query, 5000, exact=True)) == N - 1  # not the one without a direction


def test_the_index_is_asked_and_not_beside_exact(stored, monkeypatch):
    items, vectors = stored
    asked = []
    near = _index.near
    monkeypatch.setattr(_index, "near", lambda *words: asked.append(1) or near(*words))
    items.search(vectors[0], 10)
    assert len(asked) == 1
    items.search(vectors[0], 10, exact=True)
    items.search(vectors[0], 10, where="cluster = 3")
    items.search(vectors[0], 10, metric="dot")
    assert len(asked) == 1
    assert Items.open(items.folder).index == items.index


def test_few_items_have_none(tmp_path):
    items = Items.create(tmp_path, rows(drawn(999)))
    assert items.index is None
    assert not files(tmp_path)
    assert Items.create(tmp_path / "other", [{"uri": ["a"] * 1000}]).index is None


def test_where_it_finds_too_little_there_is_none_and_it_is_said(tmp_path):
    """Directions without any structure, of which a few cells hold no more than their share."""
    vectors = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)
    items = Items.create(tmp_path, rows(vectors))
    index = items.index
    assert not index.used
    assert 0 < index.low[10] < 0.95
    assert "compares with all, as one would find 0." in index.describe()
    assert not files(tmp_path)
    assert found_share(items, vectors, vectors[:5] + 0.1, 10) == 1


def test_more_is_read_where_less_finds_too_little(tmp_path, monkeypatch):
    monkeypatch.setattr(_index, "EFFORTS", ((1, 1), (2, 4), (10, 8)))
    index = Items.create(tmp_path, rows(drawn(N))).index
    assert index.used
    assert index.probes > 1


@pytest.mark.parametrize("vectors", [np.zeros((1200, 5)), np.ones((1200, 5)), np.eye(1200, 3)])
def test_data_of_which_no_index_can_be_made_is_stored_all_the_same(tmp_path, vectors):
    items = Items.create(tmp_path, [{"uri": ["a"] * 1200, "vector": vectors}])
    assert items.index is not None
    assert items.index.describe()
    hits = items.search(np.ones(vectors.shape[1]), 10)
    assert len(hits) == min(10, int(vectors.any(1).sum()))
    if hits:
        assert hits[0].score == pytest.approx(cosines(vectors, np.ones(vectors.shape[1])).max(), abs=1e-5)


def test_copies_count_as_found_whichever_of_them_it_is(tmp_path):
    vectors = np.repeat(drawn(40, seed=4), 50, axis=0)
    assert Items.create(tmp_path, rows(vectors)).index.recall[10] == 1


def test_new_rows_are_found_and_removed_ones_never(tmp_path):
    """Written anew with some rows less and some more, as `tacit add` does: nothing is left of the former index."""
    vectors = drawn(N)
    items = Items.create(tmp_path, rows(vectors))
    before = {path.name: path.read_bytes() for path in files(tmp_path)}
    kept, new = np.arange(200, N), drawn(100, seed=5)
    numbers = np.concatenate([kept, np.arange(N, N + 100)])
    Items.create(tmp_path, rows(np.concatenate([vectors[kept], new]), numbers))
    for seen in (items, Items.open(tmp_path)):
        assert seen.index.used
        for i in range(0, 100, 5):
            assert min(hit.item for hit in seen.search(vectors[i], 20)) >= 200
            assert seen.search(new[i], 1)[0].item == N + i
    stats = items._table.index_stats(items._table.list_indices()[0].name)
    assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (len(numbers), 0)
    assert len({path.parent.name for path in files(tmp_path)}) == 1
    assert not [path for path in files(tmp_path) if path.read_bytes() in before.values()]


def test_no_byte_of_a_removed_vector_is_left(tmp_path):
    vectors = drawn(N)
    Items.create(tmp_path, rows(vectors))
    Items.create(tmp_path, rows(vectors[100:], np.arange(100, N)))
    unit = vectors[:100] / np.linalg.norm(vectors[:100], axis=1, keepdims=True)
    secret = [one[:4].tobytes() for kind in (vectors[:100], unit) for one in kind]
    raw = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [one for one in secret if any(one in some for some in raw)]
    assert any(vectors[100][:4].tobytes() in some for some in raw)  # the search finds


def test_columns_that_change_keep_an_index_and_new_vectors_get_their_own(tmp_path):
    vectors = drawn(N)
    items = Items.create(tmp_path, rows(vectors))
    items.update({"cluster": np.zeros(N, int)})
    assert items.index.used
    assert items.search(vectors[3], 1)[0].item == 3
    items.update({"vector": vectors[::-1].copy()})
    assert items.search(vectors[3], 1)[0].item == N - 1 - 3


def test_a_kill_while_the_index_is_built_leaves_a_table_that_is_searched_by_comparing_with_all(tmp_path, monkeypatch):
    vectors = drawn(N)
    Items.create(tmp_path, rows(vectors))
    with monkeypatch.context() as patch:
        patch.setattr(_index, "_measured", lambda *words: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Items.create(tmp_path, rows(vectors[500:], np.arange(500, N)))
    items = Items.open(tmp_path)
    assert items.index is None
    assert [hit.item for hit in items.search(vectors[600], 5)] == (
        500 + np.argsort(-cosines(vectors[500:], vectors[600]))[:5]
    ).tolist()
    assert min(hit.item for hit in items.search(vectors[3], 50)) >= 500


def test_what_is_noted_is_plain_json_in_the_table(stored):
    items, _ = stored
    noted = json.loads(items._table.schema.field("vector").metadata[b"tacit.index"])
    assert noted["recall"]["10"] == items.index.recall[10]
    assert noted["used"] is True
