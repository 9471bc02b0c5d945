"""What the Papers tab asks for is looked up before it asks."""

import threading

import pytest

pytest.importorskip("fastapi", reason="the extra explore is not installed")
from tacit import finding
from tacit.errors import RunError
from tacit.explore import _papers


@pytest.fixture
def asked(monkeypatch):
    """What is looked up where: `beside` in a process of its own, `here` in the server."""
    said = []
    monkeypatch.setattr(_papers.Helper, "ask", lambda helper, job, *given: said.append("beside"))
    monkeypatch.setattr(_papers, "papers", lambda query, filters: said.append(("here", query)) or [query])
    return said


def test_verdicts_are_looked_up_beside_the_server_once(asked, monkeypatch):
    monkeypatch.setattr(finding, "is_known", lambda: False)
    finder = _papers.Papers()
    finder.prepare()
    assert finder.ask("noisy labels", {}) == ["noisy labels"]
    assert finder.ask("", {}) == [""]
    assert asked[:3] == ["beside", ("here", "noisy labels"), ("here", "")]
    assert asked.count("beside") == 1


def test_what_is_kept_is_not_looked_up_again(asked, monkeypatch):
    monkeypatch.setattr(finding, "is_known", lambda: True)
    _papers.Papers().ask("", {})
    assert asked[0] == ("here", "")


def test_whoever_asks_meanwhile_waits_and_is_answered_whatever_became_of_it(asked, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def fails(helper, job, *given):
        begun.set()
        assert go_on.wait(30)
        asked.append("beside")
        raise RunError("its process was killed")

    monkeypatch.setattr(finding, "is_known", lambda: False)
    monkeypatch.setattr(_papers.Helper, "ask", fails)
    finder = _papers.Papers()
    finder.prepare()
    assert begun.wait(30)
    threading.Timer(0.2, go_on.set).start()
    assert finder.ask("x", {}) == ["x"]
    assert asked == ["beside", ("here", "x")]


def test_what_is_known_stays_so_until_something_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    assert not finding.is_known([evidence])
    (dcl,) = [one for one in finding.systems([evidence]) if one.id == "dcl"]
    assert finding.is_known([evidence])
    monkeypatch.setattr(finding, "needs_of", lambda entry: pytest.fail("its source is not read again"))
    assert dcl in finding.systems([evidence])  # the same from what is kept
    (evidence / "dcl.jsonl").write_text("")
    assert not finding.is_known([evidence])
