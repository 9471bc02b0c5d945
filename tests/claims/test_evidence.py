"""Which record stands for a claim: the newest that is not stale, of the highest budget; and what was changed since."""

import pytest
from made_records import better, made

from tacit.claims import Comparison
from tacit.claims._evidence import Standing, presets, published, read_evidence, read_tuning, standings
from tacit.claims._found import find_claim, find_claims
from tacit.claims._hashes import _file_dump
from tacit.claims._record import append_line

pytestmark = pytest.mark.usefixtures("toy_catalogue")

WORSE = Comparison.paired([0.5] * 5, [0.6] * 5, baseline="toy-still")


def standing(*records):
    return Standing(find_claim("toy/learns"), records)


def learns(comparison=None, **changes):
    return made("toy/learns", comparison or better(), **changes)


def test_without_evidence_it_is_not_run():
    assert standing().verdict == "not run"
    assert standing(learns(budget="smoke")).verdict == "not run"
    assert standing(learns(own="photos/")).verdict == "not run"
    assert standing(learns(reseed=True)).verdict == "not run"


def test_the_newest_of_the_highest_budget_stands_for_it():
    full, old, new = learns(budget="full"), learns(WORSE), learns()
    assert standing(old, new).current is new
    assert standing(new, old).verdict == "fails"
    assert standing(full, old).current is full


def test_what_is_stale_gives_way_to_what_is_not_and_is_said_where_nothing_else_is_there():
    stale, fresh = learns(budget="full", code_hash="older"), learns(WORSE)
    assert standing(stale, fresh).current is fresh
    alone = standing(stale)
    assert (alone.verdict, alone.current, alone.shown) == ("stale", None, stale)


def test_fresh_seeds_agree_or_do_not():
    assert standing(learns()).agrees is None
    assert standing(learns(), learns(reseed=True)).agrees is True
    assert standing(learns(), learns(WORSE, reseed=True)).agrees is False
    assert standing(learns(), learns(reseed=True, code_hash="older")).agrees is None
    assert standing(learns(), learns(reseed=True, budget="full")).agrees is None


def test_an_edited_claim_keeps_the_verdict_that_it_had():
    before, after = learns(WORSE, claim_hash="older"), learns()
    both = standing(before, after)
    assert both.versions == [before, after]
    assert (both.verdict, both.edited) == ("holds", False)
    assert standing(before).edited


def test_margins_that_move_back_are_counted_twice_and_other_budgets_do_not_count():
    def at(margin, **changes):
        return learns(better(margin=margin), claim_hash=f"margin {margin}", **changes)

    assert standing(at(0.0), at(0.01), at(0.0)).moves == 2
    assert standing(at(0.0), at(0.0), at(0.01, budget="full")).moves == 0
    assert standing(at(0.0), at(0.01, budget="smoke")).moves == 0


def test_records_of_two_folders_are_read_together_and_of_one_once(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    learns(date="2026-01-02").append(here)
    learns(WORSE, date="2026-01-03").append(there)
    learns(date="2026-01-01").append(there)
    dates = [record.date for record in read_evidence([here, there, here], "toy")]
    assert dates == ["2026-01-01", "2026-01-02", "2026-01-03"]
    append_line(here / "toy.tune.jsonl", {"score": 1.0, "settings": {}})
    assert read_tuning([here, there, here], "toy") == [{"score": 1.0, "settings": {}}]
    (one, other, _) = standings(find_claims(), [here, there])
    assert (one.verdict, other.verdict) == ("fails", "not run")


def test_presets_are_read_without_importing():
    said = presets(find_claim("toy/learns").entry)
    assert said["small"] == {"lr": 0.1, "batch_size": 20, "optimizer": "sgd"}


def test_what_is_published_lies_beside_the_code():
    assert published().name in ("evidence", "_evidence")
    assert published().is_dir()


def test_the_hash_does_not_hang_on_how_a_version_of_python_writes_a_file(tmp_path):
    """Python 3.11 writes f-strings with other quotes than 3.12 does; none may be left in what is hashed."""
    texts = [
        '"""What it is."""\nx = f"{\', \'.join(names)!r:>{width}} and"\n',
        'x = f\'{", ".join(names)!r:>{width}} and\'\n"""What x is."""\n',
        "if x:\n    expect(f\"{', '.join(names)}\")\n",
    ]
    dumps = []
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.py").write_text(text)
        dumps.append(_file_dump(tmp_path / f"{number}.py"))
    assert dumps[0] == dumps[1]
    assert not any("f'" in dump or 'f"' in dump for dump in dumps)
