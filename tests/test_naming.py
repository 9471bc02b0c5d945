"""Labels by names alone: zero-shot for images with texts, topics by keywords for texts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet
from test_querying import pairs, write_run
from test_querying import texts as sentences

import tacit
from tacit.cli import main
from tacit.errors import ArgumentError, DataError, RunError
from tacit.naming import _keyword_vectors, texts_again
from tacit.store import Items

TOPICS = {
    "sport": ["game", "team", "coach", "season", "goal", "player", "match", "win"],
    "money": ["bank", "stock", "market", "price", "profit", "bond", "share", "trade"],
    "sea": ["wave", "ship", "fish", "water", "island", "sail", "deep", "blue"],
}


def quiet(line):
    pass


def documents(n):
    """Text i is of topic i % 3."""
    chance, words = np.random.default_rng(0), list(TOPICS.values())
    return {"modality": "text"}, {"text": [" ".join(chance.choice(words[i % 3], 12)) for i in range(n)]}


def write_texts(folder, n=90, *, lies_in=None, long=False):
    """A run of LSA; its texts lie in files of the folder `lies_in`, or are short enough to be whole in the store."""
    described, columns = documents(n)
    if long:
        columns["text"] = [text + " the and of" * 30 for text in columns["text"]]
    write_run(folder, "lsa", lambda count: (described, columns), n=n, n_components=8)
    from tacit.naming import _hash

    said = [json.dumps({"caption": text[:200]}) for text in columns["text"]]
    Items.open(folder).update({"hash": [_hash(text) for text in columns["text"]], "meta": said})
    if lies_in is not None:
        lies_in.mkdir()
        for i, text in enumerate(columns["text"]):
            (lies_in / f"{i:03d}.txt").write_text(text)
        config = json.loads((folder / "config.json").read_text())
        config["made"]["data"] = str(lies_in)
        (folder / "config.json").write_text(json.dumps(config))
    return columns["text"]


# Classes --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "run"
    return folder, write_run(folder, "clip", pairs, embed_dim=8)


def test_classes_equal_the_learners_own_zero_shot(pair_run, tmp_path):
    """On raw images, by its own encoders; and probabilities by the formula of the paper."""
    folder, columns = pair_run
    run = tacit.load(folder)
    names, templates = ["cat", "dog", "old tree"], ["a small {}", "the {} under the tree"]
    found = run.label(classes=names, template=templates, out=tmp_path / "out", say=quiet)
    own = run.learner.zero_shot(columns["image"], names, templates)
    assert found.labels == [names[i] for i in own]
    with torch.no_grad():
        images = run.learner.encode_image(columns["image"])
        means = [
            torch.stack([run.learner.encode_text([template.format(name)])[0] for template in templates]).mean(0)
            for name in names
        ]
        cosines = images @ torch.stack([mean / mean.norm() for mean in means]).T
        p = (run.learner.log_scale.exp() * cosines).softmax(1)
    np.testing.assert_allclose(found.scores, cosines.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.probability, p.max(1).values.numpy(), atol=1e-4)
    table = parquet.read_table(found.folder / "scores.parquet")
    assert table.column_names == ["item", "uri", *names]
    np.testing.assert_allclose(table["dog"].to_numpy(), cosines[:, 1].numpy(), atol=1e-5)
    predicted = parquet.read_table(found.folder / "predictions.parquet").to_pydict()
    assert list(predicted) == ["item", "uri", "label", "probability", "source"]
    assert predicted["label"] == found.labels
    assert set(predicted["source"]) == {"zero-shot"}


def test_classes_with_commas_and_the_default_template(pair_run, tmp_path):
    run = tacit.load(pair_run[0])
    by_text = run.label(classes=" cat, dog ,", template="the {}", out=tmp_path / "1", say=quiet)
    by_list = run.label(classes=["cat", "dog"], template="the {}", out=tmp_path / "2", say=quiet)
    assert by_text.classes == ["cat", "dog"]
    np.testing.assert_array_equal(by_text.scores, by_list.scores)
    plain = run.label(classes="cat,dog", out=tmp_path / "3", say=quiet)
    assert "'a photo of a {}'" in plain.lines[0]
    assert "learned temperature" in plain.lines[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"classes": "cat"}, "at least two names"),
        ({"classes": "cat,cat"}, "different names"),
        ({"classes": "cat,item"}, "columns of the table"),
        ({"classes": "cat,Ωμέγα"}, "taught it"),
        ({"classes": "cat,dog", "template": "a photo"}, "a text with {} in it"),
        ({"keywords": {"a": ["cat"], "b": ["dog"]}}, "--classes"),
        ({}, "one of labels, classes and keywords"),
        ({"classes": "cat,dog", "labels": {0: "cat"}}, "one of labels, classes and keywords"),
    ],
)
def test_what_names_cannot_be(pair_run, words, says):
    with pytest.raises(ArgumentError, match=says):
        tacit.load(pair_run[0]).label(**words, say=quiet)
    assert not (pair_run[0] / "labelled").exists()


def test_a_run_without_text_encoder_says_what_to_do(tmp_path, capsys):
    write_run(tmp_path / "run", "lsa", sentences, n_components=4)
    assert main(["label", str(tmp_path / "run"), "--classes", "cat,dog"]) == 2
    said = capsys.readouterr().err
    assert "has no text encoder; sort its texts by words: --keywords topics.yaml" in said
    assert "labels.csv" in said


# Keywords -------------------------------------------------------------------------------------------------------------


def right(found):
    return np.mean([label == list(TOPICS)[i % 3] for i, label in enumerate(found.labels)])


def topics(count):
    return {topic: words[:count] for topic, words in TOPICS.items()}


def test_keywords_by_texts_read_again(tmp_path):
    run_folder, lies_in = tmp_path / "run", tmp_path / "texts"
    texts = write_texts(run_folder, lies_in=lies_in, long=True)
    run = tacit.load(run_folder)
    assert texts_again(run)[0] == texts
    found = run.label(keywords=topics(4), say=quiet)
    assert "trained on the run's texts, which were read again" in found.lines[0]
    assert right(found) > 0.9
    scores = parquet.read_table(found.folder / "scores.parquet")
    assert scores.column_names == ["item", "uri", *TOPICS]
    stacked = np.stack([scores[topic].to_numpy() for topic in TOPICS], axis=1)
    assert [list(TOPICS)[i] for i in stacked.argmax(1)] == found.labels
    raised = np.exp(20 * stacked)
    np.testing.assert_allclose(found.probability, (raised / raised.sum(1, keepdims=True)).max(1), rtol=1e-3)
    page = (found.folder / "contact-sheet.html").read_text()
    shown = texts[found.examples[0][0]][:80]
    assert found.sheet == found.folder / "contact-sheet.html"
    assert shown in page
    assert "sport (" in page


def test_keywords_by_the_encoder_where_texts_are_gone_or_changed(tmp_path):
    run_folder, lies_in = tmp_path / "run", tmp_path / "texts"
    write_texts(run_folder, lies_in=lies_in, long=True)
    (lies_in / "007.txt").write_text("another text")
    changed = tacit.load(run_folder).label(keywords=topics(4), say=quiet)
    assert "since the texts have changed (1 of 90)" in changed.lines[0]
    for file in lies_in.iterdir():
        file.unlink()
    lies_in.rmdir()
    gone = tacit.load(run_folder).label(keywords=topics(4), say=quiet)
    assert "since the texts are not where they lay" in gone.lines[0]
    assert right(gone) > 0.9
    np.testing.assert_array_equal(gone.scores, changed.scores)


def test_short_texts_are_whole_in_the_store(tmp_path):
    texts = write_texts(tmp_path / "run")
    assert texts_again(tacit.load(tmp_path / "run")) == (texts, "")


def test_vectors_of_keywords_are_the_encoders(tmp_path):
    write_texts(tmp_path / "run")
    run = tacit.load(tmp_path / "run")
    vectors = _keyword_vectors(run, {"a": ["game", "xyzzy"], "b": ["stock market"]})
    assert set(vectors) == {"game", "stock market"}
    np.testing.assert_allclose(vectors["stock market"], run.embed(["stock market"])[0])


def test_keywords_from_a_file_on_the_command_line(tmp_path, capsys):
    run = tmp_path / "run"
    write_texts(run)
    (run / "summary.json").write_text(json.dumps({"format": 1, "title": "Topics", "data": {"n": 90}}))
    place = tmp_path / "topics.yaml"
    place.write_text("sport: [Game, team, coach]\nmoney: bank, stock, xyzzy\nsea:\n  - wave\n  - ship\n")
    assert main(["label", str(run), "--keywords", str(place), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["classes"] == ["sport", "money", "sea"]
    assert any("['xyzzy']" in line for line in answer["lines"])
    assert Path(answer["sheet"]).name == "contact-sheet.html"
    page = (run / "report.html").read_text()
    assert 'class="texts"' in page
    assert "sport (" in page
    for text, says in [
        ("sport: [", "expected yaml"),
        ("just words", "at least two topics"),
        ("a: [game]", "at least two topics"),
        ("a: [game]\nb: []", "at least one word"),
        ("a: [game]\nb: 3", "a list of words"),
        ("a: [game]\nb: [xyzzy]", "at least one word that the texts hold"),
    ]:
        place.write_text(text)
        assert main(["label", str(run), "--keywords", str(place)]) == 2
        assert says in capsys.readouterr().err
    with pytest.raises(DataError, match="cannot be read"):
        tacit.load(run).label(keywords=tmp_path / "none.yaml")
    assert main(["label", str(run), "--keywords", str(place), "--template", "a {}"]) == 2
    assert "beside --classes only" in capsys.readouterr().err
    assert main(["label", str(run), "--keywords", str(place), "--classes", "a,b"]) == 2
    assert "one of LABELS, --classes and --keywords" in capsys.readouterr().err


def test_nothing_is_written_over(tmp_path):
    write_texts(tmp_path / "run")
    out = tmp_path / "mine"
    out.mkdir()
    (out / "here.txt").write_text("")
    with pytest.raises(RunError, match="holds something already"):
        tacit.load(tmp_path / "run").label(keywords=topics(2), out=out, say=quiet)
