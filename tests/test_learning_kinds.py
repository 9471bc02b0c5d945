"""learn on every kind of data: a run, a search by what is natural for the kind, vectors of new data, a report."""

import wave

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import tacit
from tacit.catalogue import systems
from tacit.errors import ArgumentError, DataError
from tacit.planning import plan
from tacit.settings import LearnSettings

WORDS = {
    "sea": ["waves", "boat", "sail", "harbour", "salt", "fish", "tide"],
    "sky": ["cloud", "star", "moon", "sun", "bird", "wing", "rain"],
}
STEPS = {"max_steps": 3, "batch_size": 8}
N = 30


def sentences(n, seed=0):
    chance = np.random.default_rng(seed)
    kinds = [("sea", "sky")[number % 2] for number in range(n)]
    return [f"the {kind} and " + " ".join(chance.choice(WORDS[kind], 5)) for kind in kinds]


def write_texts(folder, n=N, seed=0):
    for number, text in enumerate(sentences(n, seed)):
        place = folder / ("sea", "sky")[number % 2] / f"{number:02d}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return folder


def write_sounds(folder, n=N, seed=0):
    chance = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        time = np.arange(2000) / 8000
        tone = np.sin(2 * np.pi * (300 + 900 * (number % 2) + chance.uniform(0, 100)) * time)
        with wave.open(str(folder / f"{number:02d}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((9000 * tone + chance.normal(0, 200, 2000)).astype("<i2").tobytes())
    return folder


def walks(n=N, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 2, 24)).cumsum(2).astype(np.float32)
    x[::3, :, 18:] = np.nan
    return x


def table(n=N, seed=0):
    chance = np.random.default_rng(seed)
    colours = chance.choice(["red", "green", "blue"], n).tolist()
    return pa.table({"size": chance.normal(size=n), "colour": colours, "weight": chance.gamma(2, 40, n)})


def write_graph(folder, seed=0):
    chance = np.random.default_rng(seed)
    edges = [f"n{a},n{b}" for a in range(N) for b in {(a + 1) % N, int(chance.integers(N))} - {a}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edges.csv").write_text("source,target\n" + "\n".join(edges))
    return folder / "edges.csv"


def write_pairs(folder, n=N, seed=0):
    chance = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        name = ("red", "green", "blue")[number % 3]
        picture = chance.integers(0, 60, (24, 24, 3), dtype=np.uint8)
        picture[..., number % 3] += 180
        Image.fromarray(picture).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"a {name} square")
    return folder


def learned(data, out, method, **settings):
    run = tacit.learn(data, out=str(out), method=method, verbose=False, **settings)
    assert run.summary["method"]["id"] == method
    assert len(run.items) == run.summary["data"]["n"]
    assert np.isfinite(run.items.vectors()).all()
    assert (run.folder / "report.html").stat().st_size > 10_000
    assert (run.folder / "README.md").exists()
    return run


@pytest.mark.parametrize(("method", "settings"), [("lsa", {}), ("simcse", STEPS)])
def test_texts(method, settings, tmp_path):
    folder = write_texts(tmp_path / "texts")
    (folder / "sea" / "empty.txt").write_text("")
    run = learned(folder, tmp_path / "run", method, **settings)
    assert "empty.txt,empty: zero bytes" in (run.folder / "skipped.csv").read_text()
    first = (folder / "sea" / "00.txt").read_text()
    hits = run.search(first, k=4)
    assert hits[0].uri == "sea/00.txt"
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    if method == "lsa":  # words alone part the two
        assert all(hit.uri.startswith("sky/") for hit in run.search("the moon and a star", k=5))
    new = sentences(5, seed=1)
    assert run.embed([*new, first]).shape == (6, run.encoder.dim)
    np.testing.assert_allclose(run.embed([first])[0], run.items.vectors()[0], atol=1e-5)
    np.testing.assert_allclose(run.embed(str(folder)), run.items.vectors(), atol=1e-5)
    (labels,) = run.summary["labels"]
    assert labels["rows"][0]["encoder"] == "trained"


def test_sounds(tmp_path):
    folder = write_sounds(tmp_path / "sounds")
    run = learned(folder, tmp_path / "run", "log-mel-pca", arguments={"n_components": 3})
    hits = run.search(folder / "03.wav", k=5)
    assert hits[0].uri == "03.wav"
    assert all(int(hit.uri[:2]) % 2 for hit in hits)  # those of the same pitch
    new = write_sounds(tmp_path / "new", n=4, seed=1)
    vectors = run.embed(str(new))
    assert vectors.shape == (4, run.encoder.dim)
    listed = run.embed([tacit.data.read_audio(path) for path in sorted(new.glob("*.wav"))])
    np.testing.assert_allclose(listed, vectors, atol=1e-4)


def test_series(tmp_path):
    x = walks()
    run = learned(x, tmp_path / "run", "tst", **STEPS)
    assert run.search(x[4], k=1)[0].item == 4
    assert run.embed(walks(5, seed=1)).shape == (5, run.encoder.dim)
    np.testing.assert_allclose(run.embed(list(x[:3])), run.items.vectors()[:3], atol=1e-4)


def test_tables(tmp_path):
    rows = table()
    run = learned(rows, tmp_path / "run", "scarf", **STEPS)
    assert run.search(tacit.data.open(rows).dataset["x"][7], k=1)[0].item == 7
    shuffled = rows.select(["weight", "colour", "size"]).slice(10, 4)  # fewer colours, in another order
    np.testing.assert_allclose(run.embed(shuffled), run.items.vectors()[10:14], atol=1e-5)


def test_graphs(tmp_path):
    run = learned(write_graph(tmp_path / "a"), tmp_path / "run", "gcc", **STEPS)
    hits = run.search(tacit.data.open(tmp_path / "a" / "edges.csv").dataset["x"][3], k=1)
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert hits[0].uri in [hit.uri for hit in run.search(3, k=2)]
    assert run.embed(str(write_graph(tmp_path / "b", seed=1))).shape == (N, run.encoder.dim)


def test_pairs(tmp_path):
    folder = write_pairs(tmp_path / "pairs")
    run = learned(folder, tmp_path / "run", "clip", image_size=32, **STEPS)
    assert run.search(folder / "04.png", k=1)[0].uri == "04.png"
    assert len(run.search("a red square", k=3)) == 3
    assert run.embed(str(folder)).shape == (N, run.encoder.dim)
    for text in folder.glob("*.txt"):
        text.unlink()
    with pytest.raises(DataError, match="no image with a caption"):
        tacit.learn(folder, out=str(tmp_path / "no"), method="clip", verbose=False, **STEPS)


def test_texts_without_a_word_on_how(tmp_path):
    run = tacit.learn(sentences(N), out=str(tmp_path / "run"), verbose=False, max_steps=3)
    assert len(run.items) == N
    assert run.modality == "text"


NEEDS = {"dexml": "y", "mw-loss": "document"}
"""Methods that need a column which no user's data brings by itself."""


def test_every_method_of_these_kinds_can_be_asked_for_by_its_name(tmp_path):
    held = {
        "text": sentences(N),
        "audio": write_sounds(tmp_path / "sounds"),
        "series": walks(),
        "table": table(),
        "graph": write_graph(tmp_path / "graph"),
        "pairs": write_pairs(tmp_path / "pairs"),
    }
    sources = {kind: tacit.data.open(data) for kind, data in held.items()}
    learners = [entry for entry in systems() if entry.kind == "learner" and entry.modality[0] in held]
    for entry in learners:
        settings = LearnSettings(data=str(tmp_path), method=entry.id, out=str(tmp_path / "run"), max_steps=1)
        if entry.id in NEEDS:
            with pytest.raises(ArgumentError, match=rf"method='{entry.id}'.* needs .*{NEEDS[entry.id]}"):
                plan(settings, sources[entry.modality[0]]).ready()
            continue
        learner, items = plan(settings, sources[entry.modality[0]]).ready()
        assert set(learner.columns) <= set(items.names), entry.id
        assert len(items) == N, entry.id
    assert len(learners) > 15
