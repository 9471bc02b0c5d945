"""A system's page: built from the catalogue and records, with links that lead somewhere."""

import re
from pathlib import Path

import pytest

from tacit import catalogue
from tacit.cli import main
from tacit.errors import RunError
from tacit.portraits import pages, write_pages

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TACIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.chdir(ROOT)
        return dict(pages(Path("docs/systems"), evidence=[tmp_path_factory.getbasetemp() / "none"]))


def test_every_system_has_a_page_in_the_docs(written):
    ids = {entry.id for entry in catalogue.systems()}
    assert ids == set(written) == {path.stem for path in (ROOT / "docs/systems").glob("*.md")}


def test_links_lead_somewhere(written):
    links = {link for page in written.values() for link in re.findall(r"\]\(((?:\.\./|pictures/)[^)]+)\)", page)}
    assert len(links) > 100
    assert all((ROOT / "docs/systems" / link).is_file() for link in links)


def test_a_page_says_what_the_docs_say_but_for_verdicts(written):
    """Claims, sources and commands are up to date; what came out moves with every record."""
    for id, page in written.items():
        docs = (ROOT / "docs/systems" / f"{id}.md").read_text(encoding="utf-8")
        assert _lasting(docs) == _lasting(page), "tacit systems --page docs/papers.md"


def _lasting(page):
    page = re.sub(r"^\*\*[a-z, ]+\*\*: |^- (?:measured|so|over all claims): .*\n", "", page, flags=re.M)
    return re.sub(r"## Pictures.*\n\n(?=Written)", "", page, flags=re.S)


def test_a_page_that_somebody_wrote_is_left_as_it_is(tmp_path, monkeypatch):
    from tacit import portraits

    monkeypatch.setattr(portraits, "pages", lambda folder, evidence: iter([("a", "# A"), ("b", "# B")]))
    (tmp_path / "b.md").write_text("# What somebody wrote")
    with pytest.raises(RunError, match=r"b.md' exists"):
        write_pages(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b.md"]
    assert main(["systems", "--page", str(tmp_path / "b.md")]) == 2
    assert (tmp_path / "b.md").read_text() == "# What somebody wrote"


def test_pages_of_systems_that_are_gone_are_taken_away(tmp_path, monkeypatch):
    from tacit import portraits

    monkeypatch.setattr(portraits, "pages", lambda folder, evidence: iter([("kept", "# Kept")]))
    (tmp_path / "gone.md").write_text(f"# Gone\n\n{portraits.WRITTEN}.")
    (tmp_path / "notes.md").write_text("# What somebody wrote")
    assert write_pages(tmp_path) == [tmp_path / "kept.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.md", "notes.md"]
