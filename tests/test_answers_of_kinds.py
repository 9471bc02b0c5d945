"""label, suggest and cluster on runs of every kind, as `tacit learn` writes them: tables, and sheets to look at."""

import csv
import json

import pytest
from PIL import Image
from test_learning_kinds import STEPS, N, table, walks, write_graph, write_pairs, write_sounds, write_texts

import tacit

KINDS = {
    "text": (lambda folder: write_texts(folder / "data"), "lsa", {}),
    "audio": (lambda folder: write_sounds(folder / "data"), "log-mel-pca", {}),
    "table": (lambda folder: table(), "scarf", STEPS),
    "series": (lambda folder: walks(), "tst", STEPS),
    "graph": (lambda folder: write_graph(folder / "data"), "graph-features", {}),
    "pairs": (lambda folder: write_pairs(folder / "data"), "clip", STEPS),
}
TEXTS = ("text", "table")
"""Kinds whose sheets are pages of texts."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_answers(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tacit.probing.FOLDS", 3)
    made, method, settings = KINDS[kind]
    run = tacit.learn(made(tmp_path), out=str(tmp_path / "run"), method=method, verbose=False, **settings)
    told = []
    suggested = run.suggest(12, say=told.append)
    place = tmp_path / "filled.csv"
    rows = list(csv.DictReader(suggested.files[0].open(encoding="utf-8")))
    assert ("text" in rows[0]) == (kind not in ("series", "graph"))  # these have nothing to say beside their names
    with place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "label": "ab"[number % 2]} for number, row in enumerate(rows))
    labelled = run.label(place, say=told.append)
    assert int(labelled.given.sum()) >= 12
    assert len(labelled.labels) == N
    clustered = run.cluster(3, say=told.append)
    answers = [suggested, labelled, clustered]
    if kind == "text":
        answers.append(run.label(keywords={"sea": ["boat", "fish"], "sky": ["moon", "star"]}, say=told.append))
    if kind == "pairs":
        answers.append(run.label(classes="red,green,blue", template="a {} square", say=told.append))
        assert len(run.search("a red square", k=3)) == 3
    for answer in answers:
        assert answer.sheet.name == f"contact-sheet.{'html' if kind in TEXTS else 'png'}"
        said = json.loads((answer.folder / "made.json").read_text(encoding="utf-8"))
        assert bool(said.get("lists")) == (kind in TEXTS)
        if kind not in TEXTS:
            assert len(set(Image.open(answer.sheet).convert("L").tobytes())) > 5
    assert 'id="answers"' in (run.folder / "report.html").read_text(encoding="utf-8")
    hits = run.search(0, k=5)
    assert hits[0].score == pytest.approx(1, abs=1e-3)
