import re

import pytest
import yaml

from tacit.errors import RunError
from tacit.report import write_card


def read(path):
    text = path.read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_card_says_what_it_is_and_holds_the_figures(make_run):
    header, body = read(write_card(make_run()))
    assert header["library_name"] == "tacit"
    assert header["pipeline_tag"] == "image-feature-extraction"
    assert {"tacit", "simclr", "arxiv:2002.05709"} <= set(header["tags"])
    for words in [
        "# Shapes on paper",
        "into 128 numbers",
        "600 steps in 3\u00a0min 10\u00a0s on cpu",
        "180 images from `pictures/shapes`; 3 files could not be used",
        'tacit.load("this/folder")',
        "| Effective rank | 41.2 (38.6–43.8) of 128 |",
        "| whitened PCA | 56.6\u00a0% (53.2–60.0) | 61.2\u00a0% (57.8–64.6) |",
        "does not beat patch k-means: 84.2\u00a0% against 86.1\u00a0%",
        "belongs to whoever trained it",
    ]:
        assert words in body, words


def test_the_card_names_the_weights_that_training_started_from(make_run):
    _, body = read(write_card(make_run(change=lambda summary: summary["training"].update(init="tacit:small"))))
    assert "on cpu, starting from `tacit:small`." in body
    _, body = read(write_card(make_run()))
    assert "starting from" not in body


def test_a_card_is_renewed_until_someone_edits_it(make_run):
    run = make_run()
    path = write_card(run)
    assert write_card(make_run(change=lambda summary: summary.update(title="Another"))) == path
    assert "# Another" in path.read_text()
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))  # what git may do on Windows is no edit
    assert write_card(run) == path
    edited = path.read_text().replace("## Limits", "## My own words")
    path.write_text(edited)
    assert write_card(run) is None
    assert path.read_text() == edited


def test_a_card_of_the_user_is_left_alone(make_run):
    run = make_run()
    for text in [
        "mine",
        "",
        "mine\n<!-- written by tacit, " + "0" * 64 + "; once edited, it is yours and left alone -->\n",
    ]:
        (run / "README.md").write_text(text)
        assert write_card(run) is None
        assert (run / "README.md").read_text() == text


def test_what_went_wrong_stands_under_limits(make_run):
    def collapsed(summary):
        summary["health"]["word"] = "collapsing"
        summary["training"]["kept"] = "last healthy checkpoint at step 120"
        summary["labels"] = None

    _, body = read(write_card(make_run(change=collapsed)))
    limits = body.split("## Limits")[1]
    assert "**The training was collapsing.**" in limits
    assert "last healthy checkpoint at step 120" in limits
    assert "no accuracy was measured" in limits


def test_hostile_words_neither_break_the_header_nor_become_markup(make_run):
    def spoil(summary):
        summary["title"] = "---\nlicense: mit\n# <script>alert(1)</script> [x](javascript:alert(1)) | `"
        summary["method"].update(id="a: b\n- c", name="**bold** <b>", paper="arXiv:1 <i>")
        summary["model"]["name"] = "![x](http://x)"
        summary["data"].update(where="a`b``c|d", lines=["<img src=x>", "| a | b |"])

    header, body = read(write_card(make_run(change=spoil)))
    assert set(header) == {"library_name", "pipeline_tag", "tags"}
    assert all(isinstance(tag, str) for tag in header["tags"])
    body = body.split("\n<!-- written by tacit")[0]
    assert not re.search(r"(?<!\\)<|(?<!\\)!\[|(?<!\\)\]\(", body)
    assert "``` a`b``c¦d ```" in body
    assert len(re.findall(r"^# ", body, re.M)) == 1


def test_a_bare_run_gets_a_card_too(make_run):
    def bare(summary):
        summary.clear()
        summary["format"] = 1

    _, body = read(write_card(make_run(1, change=bare, steps=0)))
    assert "nothing was trained" in body
    assert not re.search(r"\bNone\b|\bnan\b", body)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"holds no summary.json"):
        write_card(tmp_path)
