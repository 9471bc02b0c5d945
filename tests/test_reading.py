import re
from pathlib import Path

import pytest

from tacit import bibliography, catalogue
from tacit.claims import _evidence
from tacit.reading import papers_page

ROOT = Path(__file__).parents[1]


@pytest.fixture
def page(monkeypatch, tmp_path_factory):
    """The page without records, whose verdicts take seconds to find out."""
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(_evidence, "published", lambda: tmp_path_factory.getbasetemp() / "none")
    monkeypatch.setattr(_evidence, "EVIDENCE", tmp_path_factory.getbasetemp() / "none")
    monkeypatch.chdir(ROOT)
    return papers_page()


def test_every_list_stands_there_in_its_order(page):
    for one in bibliography.reading_lists():
        part = page.split(f"\n## {one.name}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| (\d+) \| .*?`([a-z0-9-]+)`", part, flags=re.M)
        papers = bibliography.in_order(one.id)
        assert [(int(place), id) for place, id in rows] == [(i, paper.id) for i, paper in enumerate(papers, 1)]


def test_links_to_the_systems_lead_somewhere(page):
    links = set(re.findall(r"\]\((systems/[^)]+)\)", page))
    assert len(links) > 50
    assert all((ROOT / "docs" / link).is_file() for link in links)


def test_the_page_is_up_to_date(page):
    """All but the verdicts, which move with every record and edit."""
    written = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    assert _without_verdicts(written) == _without_verdicts(page), "tacit systems --page docs/papers.md"


def _without_verdicts(page):
    rows = page.split("## How far")[0], page.split("\n## Learn without labels\n")[1].split("## Your own papers")[0]
    return re.sub(rf"(\| (?:{chr(124).join(catalogue.LEVELS)}) )\|.*\|$", r"\1|", "".join(rows), flags=re.M)
