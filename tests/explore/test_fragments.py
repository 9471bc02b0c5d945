"""Items are found by a piece of their path, number or text, whatever the run holds; nothing else is."""

import json
import unicodedata

import pyarrow as pa
import pytest

pytest.importorskip("fastapi", reason="the extra explore is not installed")
from starlette.testclient import TestClient

from tacit.explore import Explored, _fragments, create_app
from tacit.store import Items

HERE = "http://127.0.0.1:8765"
STORED = {
    "holiday/IMG_1.jpg": {"caption": "a boat, 100 % blue"},
    "holiday/IMG_2.jpg": {"caption": 'Ein Boot in ZÜRICH\nund \\ "Käse" 🧀', "labels": {"secret": "labelled"}},
    unicodedata.normalize("NFD", "Zürich/3.jpg"): {},
    "a.*[b].png": {"labels": {"caption": "not this one"}},
    "..%2f..%2fetc%2fpasswd": {"caption": None},
}


@pytest.fixture
def store(tmp_path):
    metas = [json.dumps(meta, ensure_ascii=number % 2 == 0) for number, meta in enumerate(STORED.values())]
    return Items.create(tmp_path / "run", [{"uri": list(STORED), "meta": metas, "item": [0, 1, 2, 30, 31]}])


@pytest.mark.parametrize(
    ("fragment", "items"),
    [
        ("img_", [0, 1]),
        ("HOLIDAY/img_2", [1]),
        ("boot in zürich", [1]),
        ("zürich", [2, 1]),  # those found by their path come first
        (unicodedata.normalize("NFD", "Zürich"), [2, 1]),
        ("100 %", [0]),
        (".*[", [30]),  # no sign has a meaning of its own
        (".*", [30]),
        ('\\ "käse" 🧀', [1]),
        ("30", [30]),  # a number of an item
        ("0", [0]),
        ("etc", [31]),
        ("../..", []),
        ("/etc/passwd", []),
        ("caption", []),  # what `meta` is made of, and labels, are no text
        ("labelled", []),
        ("not this", []),
    ],
)
def test_a_fragment_of_path_number_or_text(store, fragment, items):
    found, n = _fragments.find(store, fragment)
    assert (found.tolist(), n) == (items, len(items))


def test_the_first_are_shown_and_all_are_counted(tmp_path):
    metas = [json.dumps({"caption": "needle" if number % 2 else "hay"}) for number in range(3000)]
    store = Items.create(tmp_path / "run", [{"uri": [f"{number}.txt" for number in range(3000)], "meta": metas}])
    found, n = _fragments.find(store, "NEEDLE")
    assert (found.tolist(), n) == (list(range(1, 400, 2)), 1500)


@pytest.mark.parametrize("odd", ["", "null", "[]", '{"caption": 3}', '{"caption": "cut', '{"caption": "x"}\n{}'])
def test_a_run_may_hold_anything(tmp_path, odd):
    metas = ['{"caption": "a boat"}', odd, '{"caption": "another boat"}']
    store = Items.create(tmp_path / "run", [{"uri": ["a", "b", "c"], "meta": metas}])
    assert _fragments.find(store, "boat")[0].tolist() == [0, 2]


def test_over_the_wire_it_is_bounded_and_reads_no_file(tmp_path, store, token):
    (tmp_path / "run" / "summary.json").write_text('{"format": 1}')
    (tmp_path / "run" / "boat.txt").write_text("a file of the run, and no item")
    with TestClient(
        create_app(Explored(tmp_path / "run"), token=token), base_url=HERE, headers={"X-Tacit-Token": token}
    ) as client:
        answer = client.post("/api/find", json={"text": " boat "})
        table = pa.ipc.open_stream(answer.content).read_all()
        assert table["item"].to_pylist() == [0]
        assert json.loads(table.schema.metadata[b"about"]) == {"n": 1}
        for text in ("../../../../etc/passwd", "boat.txt", "\0", "' OR 1=1 --", "x" * _fragments.LONGEST):
            answer = client.post("/api/find", json={"text": text})
            assert pa.ipc.open_stream(answer.content).read_all().num_rows == 0, text
        for text in ("", "  ", "x" * (_fragments.LONGEST + 1), 3, None):
            assert client.post("/api/find", json={"text": text}).status_code == 422, text
        lone = client.post("/api/find", content=b'{"text": "\\ud800"}', headers={"content-type": "application/json"})
        assert lone.status_code == 422
