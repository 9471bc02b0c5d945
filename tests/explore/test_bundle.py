"""The page that is committed was built from the sources that are."""

import base64
import hashlib
import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra explore is not installed")
from tacit.errors import ArgumentError, RunError
from tacit.explore import _static, write_static

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "explorer" / "src"


@pytest.mark.skipif(not SOURCES.is_dir(), reason="the sources of the page are not here")
def test_the_bundle_is_that_of_the_sources():
    digest = hashlib.sha256()
    for place in sorted(SOURCES.iterdir(), key=lambda one: one.name):
        digest.update(place.name.encode() + b"\0" + place.read_bytes() + b"\0")
    said = (_static.STATIC / "sources.sha256").read_text().strip()
    assert said == digest.hexdigest(), "the page's sources have changed: cd explorer && npm ci && npm run build"


def test_the_page_reaches_for_nothing_outside():
    for place in _static.STATIC.iterdir():
        text = place.read_text()
        reached = set(re.findall(r"https?://[\w./-]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not reached, (place.name, reached)


def test_one_file_holds_all_and_runs_no_other_script(shapes_run, tmp_path):
    place = write_static(shapes_run, tmp_path / "out.html")
    text = place.read_text()
    script = (_static.STATIC / "app.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "/static/" not in text
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?!data:)', text) == []
    assert place.stat().st_size < 3_000_000
    with pytest.raises(RunError, match="exists"):
        write_static(shapes_run, place)
    with pytest.raises(ArgumentError, match="html"):
        write_static(shapes_run, tmp_path / "out.exe")


def test_of_many_items_an_even_sample_with_all_that_the_lists_name(run_of, tmp_path, monkeypatch):
    monkeypatch.setattr(_static, "MOST", 90)
    monkeypatch.setattr(_static, "OUTLIERS", 5)
    explored = _static.Explored(run_of(tmp_path / "run", 300))
    found = _static.held(explored)
    assert found["run"]["all"] == 300
    assert found["run"]["n"] == 90
    assert [len(one["typical"]) for one in found["run"]["clusters"]] == [10, 10, 10]
    assert len(found["duplicates"]["groups"]) == 2


def test_what_is_starred_goes_along(run_of, tmp_path, monkeypatch):
    import numpy as np
    import pyarrow as pa

    from tacit.explore._labels import Notebook

    monkeypatch.setattr(_static, "MOST", 90)
    monkeypatch.setattr(_static, "OUTLIERS", 5)
    explored = _static.Explored(run_of(tmp_path / "run", 300))
    starred = [40, 91, 200, 255]  # no list names them
    Notebook(explored.folder).star(explored.keys(starred), True)
    found = _static.held(explored)
    points, stars = (pa.ipc.open_stream(base64.b64decode(found[name])).read_all() for name in ("points", "stars"))
    assert points["item"].to_numpy()[np.asarray(stars["value"]) == 0].tolist() == starred


def test_without_thumbnails_no_picture_goes_along(run_of, tmp_path):
    explored = _static.Explored(run_of(tmp_path / "run", 30))
    import pyarrow as pa

    for pictures in (True, False):
        content = base64.b64decode(_static.held(explored, pictures=pictures)["items"])
        table = pa.ipc.open_stream(content).read_all()
        assert table["item"].to_pylist() == list(range(30))
        assert any(table["picture"].to_pylist()) == pictures
