import json
from pathlib import Path

import pytest

from tacit import bibliography
from tacit.bibliography import Paper, in_order, link_of, papers, reading_lists, refresh, write

SHARED = Path(__file__).parents[2] / "shared"


def test_each_list_is_whole():
    sizes = {one.id: len(in_order(one.id)) for one in reading_lists()}
    assert sizes == {"000": 23, "001": 63, "002": 45, "003": 225}
    for name, size in sizes.items():
        assert [paper.lists[name] for paper in in_order(name)] == list(range(1, size + 1))


def test_links_are_addresses_and_the_others_a_search_for_the_title():
    for paper in papers().values():
        link, verified = link_of(paper)
        assert link.startswith(("https://", "http://"))
        assert " " not in link
        assert verified == (paper.link is not None)


def test_facts_alone():
    said = json.loads(bibliography.FILE.read_text("utf-8"))
    names = {name for one in said["papers"] for name in one}
    assert names == {"id", "title", "authors", "year", "link", "lists", "area", "modality"}
    assert max(len(str(one)) for one in said["papers"]) < 2500


def test_what_is_written_is_read_again(tmp_path):
    write(papers().values(), reading_lists(), tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == bibliography.FILE.read_bytes()


def test_refresh_keeps_what_shared_does_not_know(tmp_path):
    fact = {"id": "a", "title": "A", "authors": [], "year": 2020, "link": None}
    row = {"id": "a", "lists": [["000", 1]], "area": "pretrain", "modality": ["tabular"]}
    (tmp_path / "bibliography.json").write_text(json.dumps([fact]))
    (tmp_path / "catalogue.json").write_text(json.dumps([row]))
    known = {
        "a": Paper("a", "old", ("X Y",), None, "https://a", {}, "", ()),
        "b": Paper("b", "B", (), 2001, None, {}, "cluster", ("image",)),
    }
    assert refresh(tmp_path, known) == [
        Paper("a", "A", ("X Y",), 2020, "https://a", {"000": 1}, "pretrain", ("table",)),
        known["b"],
    ]


@pytest.mark.skipif(not (SHARED / "bibliography.json").exists(), reason="../shared is not there")
def test_the_copy_is_up_to_date():
    assert refresh(SHARED, papers()) == list(papers().values()), "python -m tacit.bibliography ../shared"
