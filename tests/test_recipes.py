"""What `auto` takes: a method for every kind of data that can be opened, which exists and can be built."""

import importlib.util
import json
from pathlib import Path

import pytest

from tacit.building import build, closed_form, learner_class, wanted_columns
from tacit.data._open import MODALITIES as READ
from tacit.recipes import Machine, choose, recipe, usual_methods

MODALITIES = [kind for kind in READ if kind != "video"]
"""Frames of videos are images."""
ROOT = Path(__file__).parents[1]
AUTO = json.loads((ROOT / "src/tacit/auto.json").read_text(encoding="utf-8"))
MACHINES = [Machine("cpu", "2 CPU cores", 2, False), Machine("cuda", "a GPU", 16, True)]
DESCRIBED = {
    "image": {"image_size": 16, "channels": 3},
    "text": {},
    "audio": {"sample_rate": 8000, "seconds": 0.5},
    "table": {"dim": 4, "categories": [0, 0, 3, 0]},
    "series": {"channels": 2, "length": 20},
    "graph": {"size": 32, "in_features": 3},
    "pairs": {"image_size": 16, "channels": 3},
    "points": {"dim": 8},
}


def described(kind):
    return {"modality": kind, "n": 500, **DESCRIBED[kind]}


def test_there_is_a_row_for_every_kind_that_can_be_opened():
    assert {row["modality"] for row in AUTO["rows"]} == set(MODALITIES)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.device)
@pytest.mark.parametrize("kind", MODALITIES)
def test_what_auto_takes_can_be_built_and_needs_no_more_than_the_data(kind, machine):
    method, reason = choose(described(kind), machine, 10)
    assert {"modality": kind, "method": method, "reason": reason}.items() <= next(
        row.items() for row in AUTO["rows"] if row["modality"] == kind and row["reason"] == reason
    )
    assert recipe(method, described(kind), machine).method == method
    learner = build(method, described(kind), "tiny")
    assert closed_form(type(learner)) or len(list(learner.parameters()))
    given = {"image", "text"} if kind == "pairs" else {"x"}
    assert set(wanted_columns(type(learner))) <= given | {"index"}


@pytest.mark.parametrize("kind", MODALITIES)
def test_what_compare_takes_exists_and_begins_with_what_auto_takes(kind):
    methods = usual_methods(kind)
    assert methods[0] == choose(described(kind), MACHINES[0], 10)[0]
    assert len(set(methods)) == len(methods)
    for method in methods:
        assert "y" not in wanted_columns(learner_class(method))


def test_writing_one_kind_keeps_the_others(tmp_path):
    tables = _benchmark("_tables")
    path = tmp_path / "auto.json"
    path.write_text(json.dumps(AUTO))
    row = {"device": "any", "method": "sent2vec", "reason": "best of 2"}
    for _ in range(2):  # written again, it is the same
        tables.write_auto("text", "a command, a day", [row], ["sent2vec", "lsa"], path)
    new = json.loads(path.read_text())
    assert [one for one in new["rows"] if one["modality"] == "text"] == [{"modality": "text", **row}]
    assert new["compare"]["text"] == ["sent2vec", "lsa"]
    assert new["made"]["text"] == "a command, a day"
    for name in ("made", "compare"):
        assert {k: v for k, v in new[name].items() if k != "text"} == {
            k: v for k, v in AUTO[name].items() if k != "text"
        }
    others = [row for row in AUTO["rows"] if row["modality"] != "text"]
    assert [row for row in new["rows"] if row["modality"] != "text"] == others


def test_methods_are_ranked_by_the_mean_of_their_places():
    line = {"steps": None, "batch_size": None}
    lines = [
        {"method": "a", "knn": 0.9, "linear": 0.1, **line},
        {"method": "b", "knn": 0.7, "linear": 0.8, **line},
        {"method": "c", "knn": 0.2, "linear": 0.3, **line},
        {"method": "c", "knn": 1.4, "linear": 0.3, **line},  # another seed: 0.8 in the mean
    ]
    found = _benchmark("_tables").ranked(lines, ("knn", "linear"), ("knn", "linear"))
    assert {method: row["rank"] for method, row in found.items()} == {"a": 2.0, "b": 2.0, "c": 2.0}
    assert found["c"]["knn"] == pytest.approx(0.8)


def _benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
