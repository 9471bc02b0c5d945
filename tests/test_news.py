"""News of a run: the formula against a slow reading of it, and the page and feed against parsers."""

import json
import math
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import numpy as np
import pytest

import tacit
from tacit import news
from tacit.cli import main
from tacit.errors import ArgumentError, RunError

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Forty texts: on cats or on stocks in turns, dated a day apart; some discussed."""
    folder = tmp_path_factory.mktemp("news")
    about = ["cats purr, kittens sleep, a cat & its <fur>", "stocks fall, bonds rise, markets trade"]
    rows = [
        {"id": f"t{i}", "title": f"Title {i}", "abstract": f"{about[i % 2]}, item {i} of many",
         "date": (NOW - timedelta(days=i)).date().isoformat(), "comments": i % 3, "url": f"https://example.org/{i}?a=1&b"}
        for i in range(40)
    ]  # fmt: skip
    (folder / "papers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tacit.learn(folder / "papers.jsonl", out=folder / "run", method="lsa", verbose=False)
    return folder / "run"


@pytest.fixture
def run(learned, tmp_path):
    import shutil

    shutil.copytree(learned, tmp_path / "run")
    return tacit.load(tmp_path / "run")


def test_scores_are_the_formula(run):
    run.save_query("cats", "cats and kittens")
    run.star([2])
    run.note(0, "look")
    (found,) = news.write_news(run, "10d", now=NOW).entries.values()
    vector = run.embed(["cats and kittens"])[0]
    vectors = run.items.vectors()
    near = [float(v @ vector / np.linalg.norm(v) / np.linalg.norm(vector)) for v in vectors]
    least = sorted(near)[int(0.9 * 39)]
    expected = {}
    for i in range(40):
        age = (NOW - datetime.combine((NOW - timedelta(days=i)).date(), datetime.min.time(), UTC)) / timedelta(days=1)
        if age <= 10 and near[i] > least:
            discussed = i % 3 + (i == 0)
            heat = (1 + math.log2(1 + discussed) / 4) * (1.5 if i == 2 else 1)
            expected[i] = near[i] * 0.5 ** (age / 10) * heat
    assert set(expected) <= {one.item for one in found}
    for one in found:
        if one.item in expected:
            assert one.score == pytest.approx(expected[one.item], abs=1e-4)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert all(one.item % 2 == 0 for one in found)
    assert next(one for one in found if one.item == 0).note == "look"


def test_what_a_run_was_made_of_is_not_new_unless_dated(tmp_path):
    about = ["zebras graze on grass", "ships sail on water", "bread is baked at dawn"]
    rows = [{"id": str(i), "abstract": f"{about[i % 3]}, number {i}"} for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = tacit.learn(tmp_path / "a.jsonl", out=tmp_path / "run", method="lsa", verbose=False)
    run.save_query("zebras", "zebras graze on grass")
    assert run.news("7d").entries == {"zebras": []}
    more = [{"id": f"n{i}", "abstract": "zebras graze on grass"} for i in range(2)]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, more)))
    run.add(tmp_path / "b.jsonl", say=lambda line: None)
    assert {one.uri for one in tacit.load(run.folder).news("7d").entries["zebras"]} == {"n0", "n1"}


def test_page_and_feed_can_be_read(run):
    run.save_query("cats <b>", "cats & kittens")
    run.note(0, "<script>alert(1)</script>")
    made = news.write_news(run, "10d", now=NOW)
    page = made.page.read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "cats &lt;b&gt;" in page
    assert "2^(−age / since)" in page
    feed = ElementTree.fromstring(made.feed.read_text(encoding="utf-8"))
    assert feed.tag == f"{ATOM}feed"
    entries = feed.findall(f"{ATOM}entry")
    assert len(entries) == len(made.entries["cats <b>"])
    for entry in entries:
        assert entry.find(f"{ATOM}id").text.startswith("urn:uuid:")
        assert datetime.fromisoformat(entry.find(f"{ATOM}updated").text).tzinfo
        assert entry.find(f"{ATOM}link").get("href").startswith("https://example.org/")
        assert entry.find(f"{ATOM}category").get("term") == "cats <b>"
    ids = [entry.find(f"{ATOM}id").text for entry in entries]
    again = ElementTree.fromstring(news.write_news(run, "10d", now=NOW).feed.read_text(encoding="utf-8"))
    assert ids == [entry.find(f"{ATOM}id").text for entry in again.findall(f"{ATOM}entry")]


def test_queries_are_kept_and_none_is_overwritten(run):
    run.save_query("cats", "cats")
    run.save_query("cats", "cats")
    run.save_query("like this", 7)
    with pytest.raises(RunError, match="nothing is overwritten"):
        run.save_query("cats", "dogs")
    known = news.saved_queries(tacit.load(run.folder))
    assert {name: one.query for name, one in known.items()} == {"cats": "cats", "like this": 7}
    np.testing.assert_allclose(known["like this"].vector, run.items.vectors()[7], atol=1e-5)
    run.forget_query("cats")
    assert list(news.saved_queries(run)) == ["like this"]
    with pytest.raises(ArgumentError, match="did you mean 'like this'"):
        news.forget_query(run, "like that")


def test_stars_and_notes_are_marks_and_no_labels_of_classes(run):
    run.star(3)
    run.note(3, "first")
    run.note(3, "second")
    ledger = tacit.data.Ledger(run.folder / "labels.sqlite")
    assert ledger.names(source="user") == []
    assert ledger.names(source="user", marks=True) == [news.NOTE, news.STAR]
    ledger.split(news.NOTE)
    taken = ledger.take(news.NOTE, "choose", "test") | ledger.take(news.NOTE, "report", "test")
    assert list(taken.values()) == ["second"]
    assert (
        run.suggest(2, say=str).files[0].read_text(encoding="utf-8").splitlines()[0].startswith('"item","uri","label"')
    )


def test_a_label_called_star_stars_nothing(run):
    tacit.data.Ledger(run.folder / "labels.sqlite").put("star", {"0": "0", "1": "5"}, source="user")
    assert news._marks(run, news.STAR) == {}
    run.star(1)
    assert list(news._marks(run, news.STAR).values()) == ["yes"]
    with pytest.raises(ArgumentError, match="column='tacit:star'"):
        run.label({0: "a", 1: "b"}, column=news.STAR)


@pytest.mark.parametrize("since", ["soon", "0d", "-3d", "2999-01-01", ""])
def test_a_time_that_cannot_be(run, since):
    run.save_query("cats", "cats")
    with pytest.raises(ArgumentError, match="since="):
        run.news(since)


def test_without_a_saved_query(run):
    with pytest.raises(RunError, match="--save NAME"):
        run.news("7d")


def test_the_commands(run, capsys):
    assert main(["search", str(run.folder), "cats and kittens", "-k", "1", "--save", "cats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["saved"] == "cats"
    assert main(["report", str(run.folder), "--since", "400d"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("cats: ")
    assert f"Page: {run.folder}/news.html" in said
    assert main(["report", str(run.folder), "--since", "400d", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["queries"]["cats"]
    assert main(["search", str(run.folder), "--duplicates", "--save", "cats"]) == 2
