"""From a claim's name to a record, and what makes a record stale."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from tacit.claims import _evidence, read_records
from tacit.claims._found import find_claim, find_claims
from tacit.claims._run import Settings, bench_for, is_stale, run_claim, run_claims, steps_at
from tacit.claims._tune import draw, tune
from tacit.errors import ArgumentError, RunError

pytestmark = pytest.mark.usefixtures("toy_catalogue")


def test_claims_are_found_without_importing_and_by_name():
    assert [found.id for found in find_claims()] == ["toy/learns", "toy/stands", "toy-still/adds"]
    assert find_claim("toy/learns").mark.reported == "99 % against 50 %"
    assert [found.id for found in find_claims("toy")] == ["toy/learns", "toy/stands"]
    with pytest.raises(ArgumentError, match="did you mean 'toy'"):
        find_claims("toyy")
    with pytest.raises(ArgumentError, match="area='cluster'"):
        find_claims(area="cluster")


def test_a_run_leaves_a_record_that_reads_back(tmp_path):
    done = {
        found.id: (record, note) for found, record, note in run_claims(find_claims(), Settings(), evidence=tmp_path)
    }
    (learns, _), (stands, _) = done["toy/learns"], done["toy/stands"]
    assert (learns.verdict, stands.verdict) == ("holds", "fails")
    assert done["toy-still/adds"] == (None, "checked: one and one are two")
    assert learns.seeds == [0, 1, 2, 3, 4]
    assert (learns.level, learns.kind, learns.steps, learns.baseline) == ("method", "better", 12, "toy-still")
    assert stands.proxy == "of a false claim"
    assert learns.setting.startswith("blobs")
    assert learns.effects == pytest.approx(np.subtract(learns.values, learns.baseline_values))
    assert [asdict(r) for r in read_records(tmp_path / "toy.jsonl")] == [
        json.loads(json.dumps(asdict(r))) | {"interval": r.interval} for r in (learns, stands)
    ]


def test_what_has_been_run_is_not_run_again_unless_asked_or_stale(tmp_path, monkeypatch):
    (found,) = find_claims("toy/learns")
    first = run_claim(found, Settings(), evidence=tmp_path)
    ((_, record, note),) = run_claims([found], Settings(), evidence=tmp_path)
    assert record == first
    assert "--again" in note
    assert len(read_records(tmp_path / "toy.jsonl")) == 1
    list(run_claims([found], Settings(), evidence=tmp_path, again=True))
    assert len(read_records(tmp_path / "toy.jsonl")) == 2
    assert not is_stale(first, found)
    assert is_stale(replace(first, claim_hash="another"), found)
    monkeypatch.setattr(_evidence, "code_hash", lambda paths: "another")
    assert is_stale(first, found)
    list(run_claims([found], Settings(), evidence=tmp_path))
    assert len(read_records(tmp_path / "toy.jsonl")) == 3


def test_fresh_seeds_and_the_users_own_runs_are_marked(tmp_path):
    (found,) = find_claims("toy/learns")
    fresh = run_claim(found, Settings(reseed=True), evidence=tmp_path)
    assert (fresh.seeds, fresh.reseed) == ([100, 101, 102, 103, 104], True)
    table = tmp_path / "rows.npz"
    np.savez(table, x=np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), y=np.arange(40) % 2)
    with pytest.raises(ArgumentError, match="draws its own data"):
        run_claim(found, Settings(data=str(table)), evidence=tmp_path)


def test_smoke_is_short_and_full_long():
    mark = find_claim("toy/learns").mark
    assert [steps_at(mark, budget) for budget in ("smoke", "small", "full")] == [3, 12, 240]
    assert steps_at(replace(mark, steps={"small": 12, "full": 77}), "full") == 77
    assert steps_at(replace(mark, steps={}), "small") is None


def test_a_spoilt_or_later_record_is_said_with_its_line(tmp_path):
    path = tmp_path / "toy.jsonl"
    path.write_text('{"format": 1}\n')
    with pytest.raises(RunError, match=r"toy.jsonl:1"):
        read_records(path)
    path.write_text('{"format": 99}\n')
    with pytest.raises(RunError, match="later tacit"):
        read_records(path)
    assert read_records(tmp_path / "none.jsonl") == []


def test_results_do_not_hang_on_what_was_drawn_before(tmp_path):
    (found,) = find_claims("toy/learns")
    torch.manual_seed(1)
    first = run_claim(found, Settings("smoke"), evidence=None)
    torch.manual_seed(2)
    second = run_claim(found, Settings("smoke"), evidence=None)
    assert (first.values, first.baseline_values) == (second.values, second.baseline_values)


def test_trials_of_tuning_start_with_the_preset_and_stay_in_the_search_space():
    assert draw("toy", 0) == {}
    drawn = [draw("toy", number) for number in range(1, 30)]
    assert {trial["scale"] for trial in drawn} == {1.0, 3.0}
    assert all(0.1 / 4 <= trial["lr"] <= 0.1 * 4 for trial in drawn)
    assert draw("toy", 5) == draw("toy", 5)
    assert set(draw("toy-still", 3)) == {"lr"}


def test_tuning_is_for_claims_that_compare_systems(tmp_path):
    with pytest.raises(ArgumentError, match="compares systems"):
        tune(find_claim("toy/learns"), evidence=tmp_path)


def test_kept_trials_are_of_the_code_that_is_there(monkeypatch, tmp_path):
    """A change in a system that the claim names makes its trials run anew, as it makes the record stale."""
    found = find_claim("toy/learns")
    before = bench_for(found, "small")._key
    assert bench_for(found, "small")._key == before
    monkeypatch.setattr(_evidence, "code_hash", lambda paths: "another")
    assert bench_for(found, "small")._key != before
