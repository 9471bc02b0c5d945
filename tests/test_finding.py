import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tacit import bibliography, catalogue, finding
from tacit.claims import _evidence
from tacit.claims._found import find_claims
from tacit.errors import ArgumentError
from tacit.finding import find_systems, needs_of, stems, sum_up, systems


@pytest.fixture(autouse=True)
def no_records(tmp_path_factory, monkeypatch):
    """Without records and with a cache of these tests' own: whether each is stale takes seconds to find out."""
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(_evidence, "published", lambda: tmp_path_factory.getbasetemp() / "none")
    monkeypatch.chdir(tmp_path_factory.getbasetemp())


def test_every_system_is_there_once_with_its_paper_and_a_command():
    found = systems()
    assert [one.id for one in found] == list(dict.fromkeys(entry.id for entry in catalogue.systems()))
    for one in found:
        assert one.title
        assert one.link.startswith("http")
        assert one.summary
        assert one.command.startswith(("tacit ", "from tacit."))
        assert one.verdict in finding.VERDICTS
        assert not one.verified or "semanticscholar" not in one.link


def test_records_are_json():
    for one in find_systems("clusters", k=2, related=2):
        assert json.loads(json.dumps(one.as_dict()))["related"][0]["title"]


def test_commands_that_the_finder_gives_are_commands():
    """Parsed by the command line itself: a name or a flag that changes is noticed here."""
    from typer.main import get_command

    from tacit.cli._app import app
    from tacit.cli._flags import normalise
    from tacit.cli._main import _commands

    command = get_command(app)
    known = dict(_commands(command))
    for words in {part for one in systems() for part in one.command.split("; ") if part.startswith("tacit ")}:
        name, *rest = normalise(words.split()[1:], known)[0]
        command.commands[name].make_context(name, rest)


def test_what_the_finder_imports_is_there():
    import tacit

    for one in systems():
        if one.command.startswith("from "):
            _, module, _, name = one.command.split()
            assert name in dir(getattr(tacit, module.removeprefix("tacit."))), one.command


def test_filters():
    assert {one.area for one in find_systems(area="cluster")} == {"cluster"}
    assert all({"table", "any"} & set(one.modality) for one in find_systems(modality="table"))
    assert {one.kind for one in find_systems(kind="estimator")} == {"estimator"}
    assert all("labels" in " ".join(one.needs) for one in find_systems(needs="labels"))
    assert not any(one.needs for one in find_systems(needs="nothing"))
    assert len(find_systems(k=3)) == 3
    with pytest.raises(ArgumentError, match="did you mean 'cluster'"):
        find_systems(area="clusters")
    with pytest.raises(ArgumentError, match="did you mean 'holds'"):
        find_systems(verdict="hold")


def test_without_a_query_the_most_convincing_and_newest_come_first():
    keys = [
        (finding.VERDICTS.index(one.verdict), -one.held / max(len(one.claims), 1), -(one.year or 0))
        for one in find_systems()
    ]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("query", "id"),
    [
        ("few labels, tabular", "pfn"),
        ("group my documents into topics that I can name", "lbl2vec"),
        ("average several fine-tuned models", "model-stock"),
        ("zero-shot classification by class names", "clip"),
    ],
)
def test_a_query_finds_what_it_asks_for(query, id):
    assert id in [one.id for one in find_systems(query, k=3)]


def test_a_query_is_answered_by_meaning_and_words():
    """The score is the mean of cosine and BM25, each over its greatest: computed here from the equations."""
    index = finding._Index.of_all()
    query = "forget some items of a trained network"
    texts = [text.split() for text in index.texts]
    asked = stems(query).split()
    mean = sum(map(len, texts)) / len(texts)
    held = Counter(word for text in texts for word in set(text))
    words = np.zeros(len(texts))
    for i, text in enumerate(texts):
        for word in asked:
            f, n_w = text.count(word), held[word]
            idf = math.log(1 + (len(texts) - n_w + 0.5) / (n_w + 0.5))
            words[i] += idf * f / (f + 1.2 * (1 - 0.75 + 0.75 * len(text) / mean))
    vectors = finding._encode([*index.texts, stems(query)])
    cosine = vectors[:-1] @ vectors[-1] / np.linalg.norm(vectors[:-1], axis=1) / np.linalg.norm(vectors[-1])
    expected = (cosine.clip(0) / cosine.max() + words / words.max()) / 2
    np.testing.assert_allclose(index.both(query), expected, atol=1e-4)


def test_a_query_of_no_known_word_finds_nothing():
    assert find_systems("xyzzyx qwrtz") == []


def test_related_papers_are_the_nearest_ones():
    (one,) = [one for one in find_systems("laf", related=3) if one.id == "laf"]
    assert "laf" not in [near.id for near in one.related]
    unlearning = {paper.id for paper in bibliography.papers().values() if paper.area == "unlearn"}
    assert sum(near.id in unlearning for near in one.related) >= 2
    built = {entry.id for entry in catalogue.systems()}
    assert [near.built for near in one.related] == [near.id in built for near in one.related]


def test_one_word_for_many_claims():
    assert sum_up(["unclear", "holds"]) == "holds"
    assert sum_up(["fails", "holds"]) == "mixed"
    assert sum_up(["fails", "unclear"]) == "fails"
    assert sum_up(["stale", "not run"]) == "stale"
    assert sum_up([], "baseline") == "baseline"


def test_verdicts_are_those_of_the_claims(tmp_path):
    """Without any record nothing has run; a copy of one record says what `tacit claims show` says."""
    assert {claim.verdict for one in systems([tmp_path]) for claim in one.claims} == {"not run"}
    (tmp_path / "dcl.jsonl").write_bytes((Path(__file__).parents[1] / "evidence" / "dcl.jsonl").read_bytes())
    said = {one.found.id: one.verdict for one in _evidence.standings(find_claims("dcl"), [tmp_path])}
    (dcl,) = [one for one in systems([tmp_path]) if one.id == "dcl"]
    assert {claim.id: claim.verdict for claim in dcl.claims} == said


def test_verdicts_are_looked_up_once(monkeypatch):
    systems()
    monkeypatch.setattr(finding, "_look_up", lambda folders: pytest.fail("nothing has changed since"))
    systems()


@pytest.mark.parametrize(
    ("id", "needs"),
    [
        ("simclr", ()),
        ("supervised", ("labels",)),
        ("dhkd", ("a teacher network", "labels")),
        ("pouf", ("captions", "class names")),
        ("unem", ("features of an encoder", "a few labels")),
        ("model-stock", ("a pretrained network", "fine-tuned networks")),
        ("g-simclr", ()),
    ],
)
def test_what_a_system_needs(id, needs):
    assert set(needs_of(catalogue.find(id))) == set(needs)


def test_stems():
    assert stems("Clustering of clusters") == "cluster cluster"
    assert stems("the labels, a label") == "label label"
    assert stems("") == ""
