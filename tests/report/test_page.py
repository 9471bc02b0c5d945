import base64
import csv
import hashlib
import io
import json
import math
import os
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tacit.errors import RunError
from tacit.report import _page, write_report
from tacit.report._curves import _ticks
from tacit.report._page import embedded
from tacit.report._pictures import even_sample
from tacit.report._points import colour
from tacit.report._words import tidy, verdict
from tacit.store import Items

SECTIONS = ["map", "clusters", "neighbours", "duplicates", "untypical", "labels", "health", "method", "data"]
VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """The page as a browser sees it: elements with their attributes and the text inside each, nesting checked."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements, self.open = [], []
        self.feed(self.source)
        self.close()
        assert not self.open
        for element in self.elements:
            element["text"] = "".join(element["text"])

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, **dict(attrs), "text": []}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, **dict(attrs), "text": []})

    def handle_endtag(self, tag):
        assert self.open[-1]["tag"] == tag, f"</{tag}> closes <{self.open[-1]['tag']}>"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"].append(data)

    def all(self, tag=None, **attributes):
        return [
            element
            for element in self.elements
            if tag in (None, element["tag"])
            and all(value in (element.get(name.rstrip("_")) or "").split() for name, value in attributes.items())
        ]

    def section(self, name):
        (found,) = (element for element in self.all("section") if element.get("id") == name)
        return re.sub(r"\s+", " ", found["text"])

    @property
    def map(self):
        (found,) = (element for element in self.all("script") if element.get("id") == "map-data")
        return json.loads(found["text"])


def unpack(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def show(run, **options):
    return Page(write_report(run, **options))


@pytest.fixture(scope="module")
def plain(plain_run):
    """The page of a run as it should be."""
    return show(plain_run)


def test_every_section_is_there_and_reached_from_the_navigation(plain):
    page = plain
    assert [element["id"] for element in page.all("section") if element.get("id") in SECTIONS] == SECTIONS
    assert {link["href"] for link in page.all("a")} == {f"#{name}" for name in SECTIONS}
    assert len(page.all("h1")) == 1
    for words in ["flat", "41.2 (38.6–43.8) of 128", "87\u00a0%", "12 clusters", "tacit search run/ query.jpg"]:
        assert any(words in element["text"] for element in page.elements), words
    assert "fits in the memory of this machine" in page.section("method")
    assert "loading" not in {element.get("role") for element in page.elements}


def test_pictures_have_words_and_controls_have_names(plain):
    page = plain
    assert len(page.all("img")) == 12 * 15 + 7 + 36 + 12 * 9
    assert all(image["alt"] for image in page.all("img"))
    assert all(element.get("aria-label") for element in page.elements if element.get("role") in ("img", "application"))
    assert all(button.get("aria-label") or button["text"].strip() for button in page.all("button"))


def test_nothing_is_loaded_from_anywhere(plain):
    page = plain
    assert "http:" not in page.source
    assert "https:" not in page.source
    for element in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            if name in element:
                assert element[name].startswith(("data:image/", "#")), element
    assert not page.all("link") + page.all("iframe") + page.all("object") + page.all("form")
    assert "url(" not in page.all("style")[0]["text"]
    assert "@import" not in page.all("style")[0]["text"]


def test_only_the_script_of_the_page_may_run(plain):
    page = plain
    (policy,) = (meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    (script,) = (element["text"] for element in page.all("script") if "type" not in element)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy


HOSTILE = [
    '"><img src=x onerror=alert(1)>.jpg',
    "</script><script>alert(1)</script>",
    "' onmouseover='alert(1)",
    "a\u2028b\u202egpj.exe",
    "x" * 5000,
    "日本語 – 👨\u200d👩\u200d👧 ü.png",
    "back\\slash`${1}{{7*7}}{% raw %}.jpg",
    "\x00\x1b[31m\r\n.jpg",
    "<!--",
    os.fsdecode(b"caf\xe9 \xff.png"),
]


def test_hostile_names_are_text_and_nothing_else(make_run, plain):
    def spoil(summary):
        for part in [summary, summary["data"], summary["method"], summary["model"], summary["health"]]:
            part.update({key: HOSTILE[1] for key, value in part.items() if isinstance(value, str)})
        summary["labels"][0].update(name=HOSTILE[0], source=HOSTILE[1], uses=[HOSTILE[2], {"part": HOSTILE[8]}])
        summary["labels"][0]["rows"][1]["encoder"] = HOSTILE[0]
        summary["training"]["changes"] = [dict.fromkeys(("setting", "paper", "here", "reason"), HOSTILE[0])]
        summary["next"], summary["versions"] = HOSTILE, {HOSTILE[1]: HOSTILE[0]}
        summary["data"]["modality"] = "image"

    run = make_run(names=[HOSTILE[i % len(HOSTILE)] for i in range(180)], change=spoil)
    (run / "config.json").write_text(json.dumps({name: name for name in HOSTILE[:9]}))
    with (run / "skipped.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([("uri", "reason"), *((name, name) for name in HOSTILE)])
    page = show(run)

    assert len(page.all("script")) == len(plain.all("script"))
    assert len(page.all("img")) == len(plain.all("img"))
    assert not [name for element in page.elements for name in element if name.startswith("on")]
    assert not set(page.source) & {"\u2028", "\u202e", "\x00", "\x1b", "\ufffe"}
    assert max(len(name) for name in page.map["names"]) <= 80
    assert page.map["names"][0] == HOSTILE[0]
    assert page.map["names"][5] == HOSTILE[5]
    assert {pic["title"] for pic in page.all("figure", class_="pic")} == {
        tidy(n, 300) for n in Items.open(run).column("uri")
    }
    assert [row["text"].split()[0] for row in page.all("tr") if "49" in row["text"] and "7*7" not in row["text"]] == []


def test_json_cannot_leave_its_script_element():
    content = {name: [name] for name in HOSTILE[:9]}
    text = str(embedded(content))
    assert json.loads(text) == content
    assert not set(text) & set("<>&\u2028")


def bars(page, inside):
    """(value, width in percent) of the bars between an element and its end, by the order of the source."""
    start = page.elements.index(inside)
    found = []
    for i, element in enumerate(page.elements[start:], start):
        if element["tag"] == "section" and i > start:
            break
        if "bar" in (element.get("class") or "").split():
            width = float(re.search(r"width:([\d.]+)%", page.elements[i + 1]["style"]).group(1))
            found.append((float(element["data-value"]), width))
    return found


def test_bars_are_as_long_as_the_numbers_beside_them(plain):
    page = plain
    (section,) = (element for element in page.all("section") if element.get("id") == "labels")
    expected = [0.871, 0.842, 0.512, 0.604, 0.437, 0.551, 0.566, 0.612, 0.742, 0.861]
    found = bars(page, section)
    assert [value for value, _ in found] == expected
    assert [width for _, width in found] == pytest.approx([100 * value for value in expected])
    shown = [float(re.match(r"[\d.]+", value["text"]).group()) for value in page.all("span", class_="value")]
    assert shown == pytest.approx([100 * value for value in expected])
    (numbers,) = (element for element in page.all("section") if element.get("id") == "numbers")
    assert bars(page, numbers) == [(0.872, 87.2), (0.411, 41.1)]
    (gauge,) = page.all("div", class_="gauge")
    place = page.elements[page.elements.index(gauge) + 2]["style"]
    assert float(re.search(r"left:([\d.]+)", place).group(1)) == pytest.approx(100 * math.log(41.2, 128), abs=0.01)


def score(value, half=0.02):
    return {"value": value, "low": value - half, "high": value + half}


def test_a_verdict_tells_whether_training_paid():
    def rows(trained, **others):
        return [{"encoder": name, "knn": score(value)} for name, value in {"trained": trained, **others}.items()]

    assert verdict(rows(0.8, pixels=0.5, untrained=0.6), "knn", "byol")[0] == "good"
    assert verdict(rows(0.62, pixels=0.5, untrained=0.6), "knn", "byol")[0] == "calm"
    tone, words = verdict(rows(0.6, pixels=0.5, untrained=0.61), "knn", "byol")
    assert tone == "bad"
    assert "does not beat the same encoder, untrained: 60.0\u00a0% against 61.0\u00a0%" in words
    assert verdict(rows(0.6, pixels=0.6), "knn", "byol")[0] == "bad"  # as good is not better
    assert verdict(rows(0.6, **{"patch k-means": 0.6}), "knn", "patch-kmeans") is None  # it is itself
    assert verdict(rows(0.6), "knn", "byol") is None
    assert verdict(rows(0.6, pixels=0.5), "linear", "byol") is None


def test_a_run_that_training_did_not_help_says_so_at_the_top(plain):
    (notices,) = plain.all("ul", class_="notices")
    assert (
        "by a linear probe, the trained encoder does not beat patch k-means: 84.2\u00a0% against 86.1\u00a0%"
        in notices["text"]
    )
    assert "By k-NN, the trained encoder beats the best of the others, patch k-means" in plain.section("labels")


def test_the_map_holds_every_point_where_it_lies(plain, plain_run):
    data, items = plain.map, Items.open(plain_run)
    assert data["n"] == 180
    x, y = unpack(data["x"], "<u2").astype(float), unpack(data["y"], "<u2").astype(float)
    for stored, packed in ((items.column("x2d"), x), (items.column("y2d"), y)):
        scale = np.polyfit(stored, packed, 1)
        assert np.abs(np.polyval(scale, stored) - packed).max() < 0.6
    assert np.polyfit(items.column("x2d"), x, 1)[0] == pytest.approx(np.polyfit(items.column("y2d"), y, 1)[0], rel=1e-3)
    assert data["names"] == [uri.rsplit("/")[-1] for uri in items.column("uri")]
    np.testing.assert_array_equal(unpack(data["item"], "<i4"), items.column("item"))
    clusters, shape, shade, size = data["colours"]
    assert [clusters["name"], shape["name"], shade["name"], size["name"]] == ["cluster", "shape", "colour", "size"]
    for colouring, expected in [
        (clusters, [f"cluster {c}" for c in items.column("cluster")]),
        (shape, [json.loads(meta)["labels"]["shape"] for meta in items.column("meta")]),
    ]:
        assert [colouring["classes"][i]["name"] for i in unpack(colouring["values"], "u1")] == expected
        assert {c["name"]: c["n"] for c in colouring["classes"]} == Counter(expected)
    assert size["kind"] == "ramp"
    assert (np.diff(unpack(size["values"], "u1").astype(int)) >= 0).all()


def test_pictures_on_the_map_are_those_of_their_points(plain, plain_run):
    data, items = plain.map, Items.open(plain_run)
    sheets = [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in data["sheets"]]
    (cell, down), sprite = data["cell"], unpack(data["sprite"], "<u4")
    assert cell == down == 64
    assert sorted(sprite) == list(range(180))
    for k in range(0, 180, 17):
        left, top = k % 32 * cell, k // 32 * cell
        drawn = np.asarray(sheets[0].crop((left, top, left + cell, top + cell)), float)
        stored = Image.open(io.BytesIO(items.rows([int(sprite[k])])[0]["thumbnail"]))
        assert np.abs(drawn - np.asarray(stored.convert("RGB"), float)).mean() < 8


def test_a_sample_lies_as_all_points_do():
    rng = np.random.default_rng(0)
    x, y = (
        (rng.integers(0, 65536, 20_000) ** 2 // 65536).astype(np.uint16),
        rng.integers(0, 65536, 20_000).astype(np.uint16),
    )
    taken = even_sample(x, y, 1000)
    assert len(set(taken.tolist())) == 1000

    def shares(x, y):
        return np.histogram2d(x, y, bins=4, range=[[0, 65536]] * 2)[0].ravel() / len(x)

    assert np.abs(shares(x[taken], y[taken]) - shares(x, y)).max() < 0.002  # by chance it would be about 0.02


def test_colours_differ_and_their_lightness_is_as_asked():
    rgb = np.array([[int(colour(i)[j : j + 2], 16) / 255 for j in (1, 3, 5)] for i in range(24)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    lms = np.cbrt(linear @ np.array([*to_lms, [0.0883024619, 0.2817188376, 0.6299787005]]).T)
    lightness = lms @ [0.2104542553, 0.7936177850, -0.0040720468]
    np.testing.assert_allclose(lightness, np.resize([0.64, 0.74, 0.56], 24), atol=0.025)
    apart = np.abs(rgb[:, None] - rgb[None]).max(2) + np.eye(24)
    assert apart[:12, :12].min() > 0.14
    assert apart.min() > 0.03


def test_curves_lie_where_the_axes_say(plain, plain_run):
    (chart,) = (svg for svg in re.findall(r"<svg.*?</svg>", plain.source, re.S) if "Effective rank:" in svg)
    ticks = re.findall(r'<text x="39" y="([\d.]+)" text-anchor="end">([\d.−]+)<', chart)
    height, value = np.array([(float(y) - 3.5, float(v)) for y, v in ticks]).T
    axis = np.polyfit(height, value, 1)
    drawn = [float(y) for y in re.findall(r'<circle class="dot s0" cx="[\d.]+" cy="([\d.]+)"', chart)]
    lines = map(json.loads, (plain_run / "metrics.jsonl").read_text().splitlines())
    logged = [line["effective_rank"] for line in lines if line.get("look")]
    np.testing.assert_allclose(np.polyval(axis, drawn), logged, atol=0.06)


@pytest.mark.parametrize(
    ("low", "high"), [(2.17, 5.1), (-2.9, -1.7), (0, 1), (3, 3), (0, 0), (1e-9, 3e-9), (-5e6, 9e7)]
)
def test_ticks_are_round_and_hold_all(low, high):
    ticks = _ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 3 <= len(ticks) <= 8
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    assert f"{steps[0]:.3e}"[:4].rstrip("0").rstrip(".") in ("1", "2", "2.5", "5")


def test_metrics_of_a_killed_and_resumed_run(make_run):
    """A cut last line is left out, of a step said twice the later line holds, what is not finite is not drawn."""
    run = make_run(steps=0)
    lines = ['{"step": 1, "loss": 9}', '{"step": 2, "loss": 8}', '{"step": 2, "loss": 4}', '{"step": 3, "loss": NaN}']
    (run / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4, "lo']))
    assert "Fell from 9 to 4." in show(run).section("health")


def test_skipped_files_are_counted_by_reason_and_the_first_shown(make_run):
    run = make_run(skipped=0)
    reasons = [f"reason {i % 3 if i % 7 else i}" for i in range(250)]
    with (run / "skipped.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("uri", "reason"), *((f'{i}, "odd".jpg', f"{reason}: at byte {i}") for i, reason in enumerate(reasons))]
        )
    page = show(run)
    text, cells = page.section("data"), [cell["text"] for cell in page.all("td")]
    for reason, times in Counter(reasons).most_common(3):
        assert cells[cells.index(reason) + 1] == str(times)
    assert sum(int(cell["text"]) for cell in page.all("td", class_="num")) == 250
    assert '199, "odd".jpg' in text
    assert '200, "odd".jpg' not in text
    assert "50 more are in skipped.csv" in text


def bare(summary):
    summary.clear()
    summary["format"] = 1


def closed_form(summary):
    summary["training"].update(closed_form=True)
    summary["health"] = {"word": "closed form", "reason": "solved in closed form", "effective_rank": 12.0}


def embedded_only(summary):
    summary["training"], summary["labels"] = {}, None
    summary["health"] = {"effective_rank": score(12, 1)}


@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize("change", [None, bare, closed_form, embedded_only])
def test_every_kind_of_run_gets_a_whole_page(make_run, n, change):
    page = show(make_run(n, change=change, steps=0, labels=False))
    assert [element["id"] for element in page.all("section") if element.get("id") in SECTIONS] == SECTIONS
    assert page.map["n"] == n
    health = page.section("health")
    if change is closed_form:
        assert "no curves: this method is solved in closed form" in health
    elif change in (bare, embedded_only):
        assert "no curves: nothing was trained" in health
        assert "No labels were found in the data" in page.section("labels")
    assert not re.search(
        r"\bNone\b(?! were| to)|\bnan\b|\binf\b|{}|Undefined|\(\)", " ".join(map(page.section, SECTIONS))
    )


def test_a_run_without_places_has_no_map(make_run):
    run = make_run(3)
    Items.open(run).update({"x2d": [np.nan] * 3})
    assert "This run has no map" in show(run).section("map")


def test_summaries_of_the_wrong_kind_do_no_harm(make_run):
    """Any JSON in the place of any part: the page comes out."""
    for wrong in (None, [], "text", 7, {"value": "x"}, [[]], [{}], [None], {"items": [[1]]}):

        def change(summary, wrong=wrong):
            for key in set(summary) - {"format"}:
                summary[key] = wrong

        show(make_run(3, change=change))


def test_without_thumbnails_no_picture_is_in_the_page(make_run):
    run = make_run()
    page = show(run, thumbnails=False)
    assert "data:image" not in page.source
    assert not page.all("img")
    assert page.map["sheets"] == []
    assert "00000.jpg" in page.section("clusters")
    assert "Pictures were left out" in page.source


def test_a_page_without_thumbnails_stays_so_until_they_are_asked_for(make_run):
    """The next label, suggest, cluster and add write the page again, and do not ask."""
    run = make_run()
    show(run, thumbnails=False)
    assert "data:image" not in show(run).source
    assert "data:image" in show(run, thumbnails=True).source
    assert "data:image" in show(run).source


def test_thumbnails_that_are_no_pictures_are_shown_as_text(make_run):
    kinds = [b"a <b>line</b> of text", b"\xff\xfe\x00", b"", b"\xff\xd8\xff broken", b"<svg onload=alert(1)>"]
    page = show(make_run(60, thumbnail=lambda c, rng: kinds[c % 5]))
    assert "a <b>line</b> of text" in page.section("clusters")
    assert all(image["src"].startswith("data:image/jpeg") for image in page.all("img"))
    assert page.map["sheets"] == []


def test_pictures_are_left_out_until_the_page_fits(make_run, monkeypatch):
    run = make_run()
    whole = write_report(run).stat().st_size
    bare = write_report(run, thumbnails=False).stat().st_size
    monkeypatch.setattr(_page, "LARGEST", bare + 3 * (whole - bare) // 4)
    smaller = show(run, thumbnails=True)
    assert bare < len(smaller.source.encode()) <= bare + 3 * (whole - bare) // 4
    assert 0 < len(smaller.all("img")) < 12 * 15 + 7 + 36 + 12 * 9


def test_the_same_run_gives_the_same_page(make_run):
    run = make_run()
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_a_page_that_fails_leaves_the_old_one(make_run, monkeypatch):
    run = make_run()
    old = write_report(run).read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunError, match=r"report.html: cannot be written: No space left on device"):
        write_report(run)
    assert (run / "report.html").read_bytes() == old
    assert not list(run.glob(".report*"))


def test_a_page_may_be_read_by_those_whom_the_umask_lets(tmp_path):
    before = os.umask(0o077)
    try:
        page = _page.write_whole(tmp_path / "report.html", b"private")
    finally:
        os.umask(before)
    assert page.stat().st_mode & 0o777 == 0o600
    assert _page.write_whole(page, b"public").stat().st_mode & 0o777 == 0o666 & ~before


def test_what_is_no_run_is_refused(tmp_path, make_run):
    with pytest.raises(RunError, match=r"holds no summary.json"):
        write_report(tmp_path)
    run = make_run(3, change=lambda summary: summary.update(format=2))
    with pytest.raises(RunError, match="format 2, this tacit reads up to 1"):
        write_report(run)
    (run / "summary.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read as JSON"):
        write_report(run)


@pytest.mark.slow
def test_fifty_thousand_items_of_noise_fit(make_run):
    """Noise is the worst a JPEG can hold; the names are long too."""

    def noise(rng):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    pictures = [noise(np.random.default_rng(seed)) for seed in range(400)]
    run = make_run(50_000, names=["n" * 5000] * 50_000, thumbnail=lambda c, rng: pictures[rng.integers(400)])
    page = write_report(run)
    assert page.stat().st_size <= 20_000_000
    assert Page(page).map["n"] == 50_000
