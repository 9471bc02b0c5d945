"""The page of evidence: nothing is left out, least of all what fails."""

import re

import pytest
from made_records import better, made

from tacit.claims import Comparison
from tacit.claims._calibration import calibration
from tacit.claims._table import evidence_page

pytestmark = pytest.mark.usefixtures("toy_catalogue")

WORSE = Comparison.paired([0.5, 0.52, 0.5, 0.51, 0.5], [0.6] * 5, baseline="guesses")


def page_of(tmp_path, *records):
    for record in records:
        record.append(tmp_path)
    return evidence_page(tmp_path)


def row_of(page, words):
    """The cells of the one row of a table that has these words."""
    (row,) = [line for line in page.splitlines() if line.startswith("|") and words in line]
    return [cell.strip() for cell in row.strip("|").split(" | ")]


def test_an_empty_folder_shows_every_claim_as_not_run(tmp_path):
    page = page_of(tmp_path)
    assert "2 claims of 1 systems." in page
    assert row_of(page, "method: the whole")[1:] == ["0", "0", "0", "0", "1", "1"]
    assert row_of(page, "method, by a proxy")[1:] == ["0", "0", "0", "0", "1", "1"]
    assert "**not run**" in row_of(page, "(`learns`)")[3]
    assert "a proxy is no reproduction" in page[:1500].lower()


def test_verdicts_are_counted_by_level_and_proxies_apart(tmp_path):
    page = page_of(tmp_path, made("toy/learns", better()), made("toy/stands", WORSE))
    assert row_of(page, "| level | holds")[1:] == ["holds", "fails", "unclear", "stale", "not run", "claims"]
    assert row_of(page, "method: the whole")[1:] == ["1", "0", "0", "0", "0", "1"]
    assert row_of(page, "method, by a proxy")[1:] == ["0", "1", "0", "0", "0", "1"]
    assert page.index("## Counts") < page.index("## pretrain") < page.index("## Checked properties")


def test_a_row_has_the_numbers_of_paper_and_run_side_by_side(tmp_path):
    details = {"passes": {"toy": 2.0, "toy-still": 1.0}, "revealed": True, "by": "accuracy"}
    cells = row_of(page_of(tmp_path, made("toy/learns", better(details=details))), "(`learns`)")
    assert cells[:2] == ["`toy`", "method"]
    assert cells[3:] == [
        "**holds**",
        "+0.0300 [+0.0280, +0.0320], margin 0",
        "5",
        "99 % against 50 %",
        "toy against toy-still: 0.7200 against 0.6900",
        "small, cpu; accuracy; blobs; 12 steps of 20; encoder passes an item and step: toy 2, toy-still 1; "
        "*the claim saw the labels of the test part*; 2026-11-25",
    ]


def test_a_proxy_says_what_it_is_and_is_not_comparable(tmp_path):
    cells = row_of(page_of(tmp_path, made("toy/stands", WORSE)), "(`stands`)")
    assert "*a proxy:* of a false claim" in cells[2]
    assert cells[3] == "**fails**"
    assert cells[7].endswith("(not comparable)")


def test_an_edited_claim_shows_both_verdicts_and_the_moved_margin_is_counted(tmp_path):
    before = made("toy/learns", better(margin=0.05), claim_hash="older", date="2026-01-01")
    page = page_of(tmp_path, before, made("toy/learns", better()))
    assert row_of(page, "(`learns`)")[3] == (
        "**holds**<br>before an edit: fails, +0.0300 [+0.0280, +0.0320], margin 0.05 (2026-01-01)"
    )
    assert "Margins moved after a record existed: 1 (`toy/learns`)." in page


def test_stale_and_edited_claims_say_so(tmp_path):
    page = page_of(tmp_path, made("toy/learns", better(), claim_hash="older"), made("toy/stands", WORSE, code_hash="o"))
    assert row_of(page, "(`learns`)")[3] == "**stale (was holds)**<br>changed since and not run"
    assert row_of(page, "(`stands`)")[3] == "**stale (was fails)**"
    assert row_of(page, "method: the whole")[4] == "1"
    assert "not run since: 1 (`toy/learns`)." in page


def test_the_share_of_fresh_seeds_that_agree(tmp_path):
    page = page_of(
        tmp_path,
        made("toy/learns", better()),
        made("toy/learns", better(), reseed=True),
        made("toy/stands", WORSE),
        made("toy/stands", better(), reseed=True),
    )
    assert "same verdict: 1 of 2 (50 %)" in page
    assert "fresh seeds: holds" in row_of(page, "(`stands`)")[3]


def test_neither_smoke_nor_a_users_own_data_is_evidence(tmp_path):
    page = page_of(tmp_path, made("toy/learns", better(), budget="smoke"), made("toy/learns", better(), own="photos/"))
    assert "**not run**" in row_of(page, "(`learns`)")[3]
    assert "photos/" not in page


def test_a_claim_does_not_vanish_by_another_name(tmp_path):
    gone = made("toy/stands", WORSE, claim="toy/stood")
    other = made("toy/learns", better(), system="former", claim="former/learns")
    page = page_of(tmp_path, gone, other)
    assert "## Claims that were taken out or renamed" in page
    assert "- `toy/stood`: fails, -0.094" in page
    assert "- `former/learns`: holds" in page


def test_checked_properties_are_listed(tmp_path):
    assert "- `toy-still`: one and one are two" in page_of(tmp_path)


def test_how_sure_a_verdict_is_stands_there_as_measured(tmp_path):
    page = page_of(tmp_path)
    for words, noise in [("| normal", "normal"), ("degrees of freedom", "heavy-tailed"), ("tail below", "skewed down")]:
        shares = [float(share) for share in re.findall(r"([\d.]+) %", " ".join(row_of(page, words)))]
        assert shares == [pytest.approx(100 * calibration(noise, far), abs=0.051) for far in (0.0, 2.0)]


def test_a_bar_in_a_sentence_does_not_break_the_table(tmp_path):
    page = page_of(tmp_path, made("toy/learns", better(), setting="|w| below 1"))
    assert "\\|w\\| below 1" in page
