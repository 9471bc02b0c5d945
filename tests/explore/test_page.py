"""The page in a real browser: headless Chromium without a graphics card, driven as a person would."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tacit.news import STAR
from tacit.store import Items

pytest.importorskip("fastapi", reason="the extra explore is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

CHROMIUM = os.environ.get("TACIT_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
AXE = Path(__file__).parents[2] / "explorer" / "node_modules" / "axe-core" / "axe.min.js"
WAIT = 60_000
"""Milliseconds: the machine may be busy."""

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or set TACIT_CHROMIUM"),
    pytest.mark.xdist_group("explorer"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture
def opened(browser):
    """A function link -> page; what goes wrong on a page fails its test."""
    pages, faults = [], []

    def open_page(link, *, faulty=False, **options):
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 820}, **options})
        page.set_default_timeout(WAIT)
        pages.append(page)
        if not faulty:
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        page.goto(link)
        page.wait_for_selector("html[data-ready]", timeout=WAIT)
        return page

    yield open_page
    for page in pages:
        page.context.close() if page.context.pages == [page] else page.close()
    assert not faults, faults


@pytest.fixture(scope="module")
def reading(serving, shapes_run):
    """A server of a run that no test writes to."""
    return serving(shapes_run)


def tab(page, name):
    page.get_by_role("tab", name=name).click()
    page.wait_for_selector(f"#view .of-{name.lower()}")


def labels(run, name):
    with sqlite3.connect(run / "labels.sqlite") as db:
        found = db.execute("SELECT item_hash, value FROM label WHERE name = ? AND source = 'user'", (name,)).fetchall()
    return {int(key, 16): value for key, value in found}


def test_the_map_is_drawn_and_explained(opened, reading):
    page = opened(reading.link)
    assert page.title() == "drawn shapes · tacit"
    assert "120 images" in page.inner_text("#facts")
    assert page.locator("#legend .kind").all_inner_texts()[0].split() == ["discs", "40"]
    inks = page.evaluate("new Set(tacit.map.raster).size")
    assert inks > 3  # paper, and the colours of three clusters
    page.select_option("#colour-by", "outlier")
    page.wait_for_selector("#legend .ramp")
    page.select_option("#colour-by", "label:shape")
    page.wait_for_selector("#legend .kind >> text=wedge")


def test_one_group_alone_and_all_of_it_chosen(opened, reading):
    page = opened(reading.link)
    page.locator("#legend .kind", has_text="squares").click()
    assert page.evaluate("tacit.map.state.filter((one) => one === 1).length") == 80
    page.get_by_role("button", name="Choose all of squares").click()
    page.wait_for_selector("#chosen >> text=40 items")
    page.get_by_role("button", name="Clear").click()
    assert page.evaluate("tacit.chosen.size") == 0


def test_hovering_shows_the_item_and_a_click_keeps_it(opened, reading):
    page = opened(reading.link)
    x, y = page.evaluate(
        "(() => { const b = tacit.map.over.getBoundingClientRect(), p = tacit.map.placeOf(7); "
        "return [b.left + p[0], b.top + p[1]]; })()"
    )
    page.mouse.move(x, y)
    page.wait_for_selector("#card:not([hidden]) img")
    page.mouse.click(x, y)
    page.wait_for_selector("#pinned:not([hidden]) h2")
    # its own file is shown in place of the thumbnail
    page.wait_for_timeout(500)
    assert page.evaluate("document.querySelector('#pinned img').naturalWidth") == 40
    page.keyboard.press("Escape")
    page.wait_for_selector("#pinned", state="hidden")


def test_a_lasso_chooses_what_it_goes_around(opened, reading):
    page = opened(reading.link)
    box = page.locator("#marks").bounding_box()
    left, top, right, low = box["x"] + 2, box["y"] + 2, box["x"] + box["width"] - 2, box["y"] + box["height"] - 2
    page.keyboard.down("Shift")
    page.mouse.move(left + box["width"] / 2, top)
    page.mouse.down()
    for x, y in ((right, top), (right, low), (left, low), (left, top + 300), (left, top + 1)):
        page.mouse.move(x, y, steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.wait_for_selector("#chosen >> text=120 items")


def test_zooming_keeps_what_is_under_the_pointer(opened, reading):
    page = opened(reading.link)
    box = page.locator("#marks").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    under = "(() => { const m = tacit.map; return [m.view.x + (300 - m.width / 2) / m.view.scale, m.view.scale]; })()"
    x, scale = page.evaluate(under)
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(400)
    after, closer = page.evaluate(under)
    assert closer > 1.5 * scale
    assert after == pytest.approx(x, rel=1e-6)


def test_more_like_this_and_not_like_that(opened, reading):
    page = opened(reading.link)
    page.evaluate("tacit.pin(4)")
    page.wait_for_selector("#pinned:not([hidden])")
    page.keyboard.press("m")
    page.wait_for_selector("#view .answer .tile")
    hits = page.locator("#view .answer .tile").evaluate_all("(all) => all.map((one) => Number(one.dataset.item))")
    assert len(hits) == 60
    assert [item % 3 for item in hits[:20]] == [1] * 20
    page.locator("#view .answer .tile").first.hover()
    page.locator("#view .answer .tile .marks button").nth(1).click()
    page.wait_for_selector(".tray.unlike li")
    page.get_by_role("button", name="Clear").first.click()
    page.wait_for_selector(".tray", state="detached")


def test_outliers_skipped_files_and_typical_items(opened, reading):
    page = opened(reading.link)
    page.wait_for_selector("#view .cluster .tile img")
    tab(page, "Outliers")
    page.wait_for_selector("#view .tile")
    scores = [float(text) for text in page.locator("#view .under b").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    tab(page, "Skipped")
    assert "../odd <b>.png" in page.inner_text("#view")  # as text: nothing of a run is taken for markup


def test_duplicates_are_kept_or_discarded_and_no_file_is_touched(opened, serving, own_run):
    page = opened(serving(own_run).link)
    tab(page, "Duplicates")
    page.wait_for_selector("#view .tile .verdict")
    page.get_by_role("button", name="discard 119.png").click()
    page.wait_for_selector('.tile[data-item="119"][data-verdict="discard"]')
    with sqlite3.connect(own_run / "explore.sqlite") as db:
        assert db.execute("SELECT item, verdict FROM decision").fetchall() == [(119, "discard")]
    page.get_by_role("button", name="Keep the first of each, discard the others").click()
    page.wait_for_selector("text=3 to be discarded")
    with page.expect_download(timeout=WAIT) as waited:
        page.get_by_role("button", name="Download the list").click()
    lines = Path(waited.value.path()).read_text().splitlines()
    assert len(lines) == 6


def test_labelling_by_the_keyboard_alone(opened, serving, own_run):
    page = opened(serving(own_run).link)
    press = page.keyboard.press
    press("g")
    press("+")
    press("Space")  # chooses what is in the middle
    page.wait_for_selector("#chosen >> text=1 item")
    for _ in range(2):
        press("]")
    page.wait_for_selector("#label-new")
    page.focus("#label-new")
    page.keyboard.type("round")
    press("Enter")
    page.wait_for_selector(".chip >> text=round")
    page.wait_for_selector("#said >> text=1 item: round")
    given = labels(own_run, "label")
    assert list(given.values()) == ["round"]
    press("u")
    page.wait_for_selector("#said >> text=taken back")
    assert labels(own_run, "label") == {}
    press("Control+Shift+Z")
    page.wait_for_selector("#said >> text=done again")
    assert labels(own_run, "label") == given
    press("n")
    page.wait_for_selector(".suggestion", timeout=3 * WAIT)
    item = page.evaluate("tacit.view.queue[0].item")
    press("s")
    second = page.evaluate("tacit.view.queue[0].item")
    assert second != item
    press("1")
    page.wait_for_selector("text=23 left")
    assert labels(own_run, "label")[second % 119] == "round"


def test_a_probe_colours_the_rest_and_labels_survive_a_kill(opened, serving, own_run):
    server = serving(own_run)
    page = opened(server.link, faulty=True)
    tab(page, "Label")
    for cluster, value in ((0, "disc"), (1, "square")):
        page.evaluate(f"tacit.choose([...Array(60).keys()].filter((row) => row % 3 === {cluster}))")
        page.fill("#label-new", value)
        page.press("#label-new", "Enter")
        page.wait_for_selector(f"#said >> text=20 items: {value}")
    page.wait_for_selector(".learned .big", timeout=3 * WAIT)
    page.wait_for_selector("#legend >> text=the paler, the less sure")
    assert page.input_value("#colour-by") == "yours:label"
    assert page.evaluate("tacit.colouring.classOf(60) === 0 && tacit.colouring.classOf(61) === 1")
    page.evaluate("tacit.choose([2, 5])")
    page.fill("#label-new", "wedge")
    page.press("#label-new", "Enter")
    page.wait_for_selector("#said >> text=2 items: wedge")
    server.kill()
    given = labels(own_run, "label")
    assert len(given) == 42
    assert given[2] == given[5] == "wedge"
    page.wait_for_selector("#said >> text=does not answer any more")


def test_the_export_that_is_downloaded(opened, serving, own_run):
    page = opened(serving(own_run).link)
    tab(page, "Label")
    page.evaluate("tacit.choose([1, 4])")
    page.fill("#label-new", "square")
    page.press("#label-new", "Enter")
    page.wait_for_selector("#said >> text=2 items: square")
    page.select_option("#label-format", "jsonl")
    with page.expect_download(timeout=WAIT) as waited:
        page.get_by_role("button", name="Download").click()
    rows = [json.loads(line) for line in Path(waited.value.path()).read_text().splitlines()]
    assert [row["item"] for row in rows if row["label"] == "square"] == [1, 4]


def test_stars_by_key_and_button_reach_the_ledger_and_can_be_taken_back(opened, serving, own_run):
    server = serving(own_run)
    page, other = opened(server.link), opened(server.link)
    page.evaluate("tacit.pin(4)")
    page.wait_for_selector("#pinned:not([hidden])")
    page.keyboard.press("*")
    page.wait_for_selector('#pinned .star[aria-pressed="true"] >> text=★')
    assert labels(own_run, STAR) == {4: "yes"}
    tile = page.locator("#view .cluster .tile").nth(1)
    tile.hover()
    tile.locator(".star").click()
    second = int(tile.get_attribute("data-item"))
    page.wait_for_selector(f"#view .tile[data-item='{second}'] .star[aria-pressed='true']")
    assert labels(own_run, STAR) == {4: "yes", second: "yes"}
    tab(page, "Starred")
    page.wait_for_selector("#view h2 >> text=2 starred items")
    assert page.evaluate("tacit.map.state.filter((one) => one === 0).length") == 2  # all others fade
    page.keyboard.press("u")
    page.wait_for_selector("#view h2 >> text=1 starred item")
    assert labels(own_run, STAR) == {4: "yes"}
    tab(page, "Label")
    assert page.input_value("#label-name") == "label"  # a star names no class
    other.wait_for_selector("#colour-by option[value='yours:tacit:star']", state="attached")
    tab(other, "Starred")
    assert other.locator("#view .tile").evaluate_all("(all) => all.map((one) => one.dataset.item)") == ["4"]


def test_a_filter_keeps_what_lies_in_a_range_and_has_a_value(opened, reading, shapes_run):
    outlier = np.asarray(Items.open(shapes_run).column("outlier"))
    page = opened(reading.link)
    press = page.keyboard.press
    press("f")
    page.wait_for_selector("#view summary:focus")
    page.locator("#view summary", has_text="outlier score").press("Enter")
    page.get_by_label("Least outlier score", exact=True).focus()
    for _ in range(60):
        press("ArrowRight")
    page.get_by_label("Greatest outlier score, exactly").fill("0.8")
    press("Tab")
    low = page.evaluate("tacit.filter.filters.get('outlier').low")
    assert low == pytest.approx(np.quantile(outlier, 0) + 0.3 * np.ptp(outlier), abs=1e-3)
    inside = (outlier >= low) & (outlier <= 0.8)
    page.wait_for_selector(f"#filtered >> text={inside.sum()} of 120 items")
    page.locator("#view summary", has_text="cluster").first.press("Enter")
    page.locator("#view label", has_text="squares").click()
    inside &= np.arange(120) % 3 == 1
    page.wait_for_selector(f"#view h2 >> text={inside.sum()} of 120 items")
    page.select_option("#colour-by", "label:shape")
    page.wait_for_selector("#legend .kind >> text=wedge")
    assert page.evaluate("tacit.map.state.filter((one) => one === 0).length") == inside.sum()
    page.get_by_role("button", name="Choose these").click()
    assert page.evaluate("tacit.chosenItems()") == np.flatnonzero(inside).tolist()
    tab(page, "Label")
    assert page.get_by_label("only what is chosen").is_checked()  # of what is downloaded
    page.get_by_role("button", name="Clear the filter").click()
    assert page.evaluate("tacit.map.state.filter((one) => one === 1).length") == 0


def test_a_piece_of_a_name_finds_it(opened, reading):
    page = opened(reading.link)
    page.keyboard.press("/")
    page.wait_for_selector("#ask-words:focus")  # no words are understood here, so names are what is looked for
    page.keyboard.type("11.PNG")
    page.keyboard.press("Enter")
    page.wait_for_selector("#view .answer h2 >> text=2 items")
    assert page.locator("#view .answer .under").all_inner_texts() == ["11.png", "111.png"]
    assert page.locator("#view .answer mark").all_inner_texts() == ["11.png", "11.png"]


def test_papers_are_listed_and_searched(opened, reading):
    page = opened(reading.link)
    tab(page, "Papers")
    page.wait_for_selector("#view .papers li", timeout=3 * WAIT)
    page.fill("#papers-query", "no negatives, byol")
    page.wait_for_selector("#view .papers li:first-child h3 >> text=BYOL", timeout=3 * WAIT)


def test_two_windows_see_each_other_s_labels(opened, serving, own_run):
    server = serving(own_run)
    first, second = opened(server.link), opened(server.link)
    tab(second, "Label")
    tab(first, "Label")
    first.evaluate("tacit.choose([1])")
    first.fill("#label-new", "square")
    first.press("#label-new", "Enter")
    second.wait_for_selector(".chip >> text=square")


def test_a_wrong_link_says_what_to_do(browser, reading):
    page = browser.new_page()
    answer = page.goto(reading.link[:-1] + "x")
    assert answer.status == 401
    assert "open the link" in page.inner_text("body")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_narrow_and_wide_windows_dark_and_light(opened, reading, scheme, width):
    page = opened(reading.link, viewport={"width": width, "height": 800}, color_scheme=scheme)
    for name in page.get_by_role("tab").all_inner_texts():
        tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(252, 251, 248)", "dark": "rgb(23, 22, 20)"}[scheme]
    before = page.evaluate("tacit.map.paper[0]")
    page.get_by_role("button", name="Dark or light").click()
    assert (page.evaluate("tacit.map.paper[0]") > 128) == (before < 128)


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: cd explorer && npm ci")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser, reading, scheme):
    context = browser.new_context(bypass_csp=True, color_scheme=scheme, viewport={"width": 1280, "height": 820})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(reading.link)
    page.wait_for_selector("html[data-ready]")
    page.add_script_tag(path=AXE)
    found = {}
    page.evaluate("tacit.pin(4)")
    page.evaluate("tacit.choose([1, 2, 3])")
    page.wait_for_selector("#chosen .tile")
    for name in [*page.get_by_role("tab").all_inner_texts(), "help"]:
        page.evaluate("document.getElementById('keys').showModal()") if name == "help" else tab(page, name)
        page.evaluate("document.querySelectorAll('#view details').forEach((one) => { one.open = true; })")
        page.wait_for_timeout(500)
        faults = page.evaluate("axe.run(document, { resultTypes: ['violations'] }).then((found) => found.violations)")
        for fault in faults:
            if fault["impact"] in ("serious", "critical"):
                found.setdefault(fault["id"], [name, fault["help"], fault["nodes"][0]["html"][:200]])
    context.close()
    assert not found, found


def test_the_single_file_shows_and_finds_without_a_server(opened, own_run, tmp_path):
    from tacit.explore import write_static
    from tacit.explore._labels import Notebook

    Notebook(own_run).star([f"{7:064x}"], True)
    place = write_static(own_run, tmp_path / "out.html")
    page = opened(place.as_uri())
    tabs = page.get_by_role("tab").all_inner_texts()
    assert tabs == ["Clusters", "Ask", "Filter", "Starred", "Duplicates", "Outliers", "Skipped"]
    page.wait_for_selector("#view .cluster .tile img")
    page.evaluate("tacit.pin(4)")
    page.wait_for_selector("#pinned:not([hidden])")
    page.keyboard.press("m")
    page.wait_for_selector("#view .answer .tile")
    hits = page.locator("#view .answer .tile").evaluate_all("(all) => all.map((one) => Number(one.dataset.item))")
    assert [item % 3 for item in hits[:20]] == [1] * 20
    page.fill("#ask-words", "17.png")
    page.press("#ask-words", "Enter")
    page.wait_for_selector("#view .answer h2 >> text=2 items")
    tab(page, "Starred")
    assert page.locator("#view .tile .star").all_inner_texts() == ["★"]
    assert page.locator("button.star").count() == 0  # shown, and not to be changed
    page.keyboard.press("*")
    assert page.locator("#view .tile").count() == 1
    tab(page, "Filter")
    page.locator("#view summary", has_text="shape").press("Enter")
    page.locator("#view label", has_text="wedge").click()
    page.wait_for_selector("#filtered >> text=40 of 120 items")


@pytest.fixture(scope="module")
def sentences_run(tmp_path_factory):
    """A run of texts that was learned from, with its encoder."""
    from tacit import learn

    folder = tmp_path_factory.mktemp("texts")
    sea, wood = ("boat", "harbour", "waves", "sail", "fish"), ("tree", "forest", "moss", "owl", "deer")
    for number in range(40):
        words = (sea, wood)[number % 2]
        text = " ".join(words[(number + k * (1 + number % 3)) % 5] for k in range(6))
        (folder / f"{number:02d}.txt").write_text(f"the {text} number {number}")
    run = folder.parent / f"{folder.name}-run"
    learn(folder, method="lsa", out=str(run), verbose=False)
    return run


def test_asking_in_words_and_by_a_file(opened, serving, sentences_run, tmp_path):
    page = opened(serving(sentences_run).link, faulty=True)  # what cannot be asked is refused, which the console notes
    press = page.keyboard.press
    press("/")
    page.wait_for_selector("#ask-words:focus")
    page.keyboard.type("a boat in the harbour")
    press("Enter")
    page.wait_for_selector("#view .answer .tile", timeout=3 * WAIT)
    texts = page.locator("#view .answer .words").all_inner_texts()
    assert all("boat" in text or "harbour" in text for text in texts[:3])
    (tmp_path / "query.txt").write_text("the forest, its moss and an owl")
    page.set_input_files("#ask-file", tmp_path / "query.txt")
    page.wait_for_selector("#view .answer h2 >> text=query.txt", timeout=3 * WAIT)
    texts = page.locator("#view .answer .words").all_inner_texts()
    assert all({"forest", "moss", "owl"} & set(text.split()) for text in texts[:3])
    page.fill("#ask-words", "zzzz qqqq")
    page.press("#ask-words", "Enter")
    page.wait_for_selector("#view .trouble")
    assert page.get_by_label("by meaning").is_checked()
    page.fill("#ask-words", "NUMBER 1")
    page.get_by_label("in names and texts").check()
    page.wait_for_selector("#view .answer h2 >> text=11 items")
    assert page.locator("#view .answer .words mark").all_inner_texts() == ["number 1"] * 11
