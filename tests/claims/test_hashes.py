"""A typo makes nothing stale; a change in code, its own or a shared part's, does."""

import textwrap

import pytest

from tacit.claims import _hashes
from tacit.claims._hashes import _files, claim_hash, code_hash

SYSTEM = '''
"""A paper (1999)."""
from tacit.claims import claim
from tacit.nn import mlp

@claim("says so", reported="1 %", steps={"small": 10})
def it_helps(bench):
    """How it is tested."""
    return bench.compare(One, better_by=0.0)

class One:
    """The method."""
    def loss(self, x):
        return 2 * x
'''


@pytest.fixture
def edited(tmp_path):
    def edit(before="", after=""):
        path = tmp_path / f"_{len(list(tmp_path.iterdir()))}.py"
        assert before in SYSTEM
        path.write_text(textwrap.dedent(SYSTEM).replace(before, after) if before else SYSTEM)
        return path

    return edit


def test_docstrings_comments_and_words_for_readers_do_not_count(edited):
    plain = edited()
    for before, after in [
        ("The method.", "The methodd."),
        ("How it is tested.", "How it's tested."),
        ('"says so"', '"says it so"'),
        ('reported="1 %"', 'reported="1.0 %"'),
        ("return 2 * x", "return 2 * x  # twice"),
    ]:
        other = edited(before, after)
        assert code_hash([other]) == code_hash([plain]), before
        assert claim_hash(other, "it_helps") == claim_hash(plain, "it_helps"), before


def test_a_change_of_the_claim_is_the_claims_and_one_of_the_code_is_the_codes(edited):
    plain = edited()
    for before, after in [("better_by=0.0", "better_by=-0.1"), ('"small": 10', '"small": 20')]:
        other = edited(before, after)
        assert claim_hash(other, "it_helps") != claim_hash(plain, "it_helps"), before
        assert code_hash([other]) == code_hash([plain]), before
    other = edited("2 * x", "3 * x")
    assert code_hash([other]) != code_hash([plain])
    assert claim_hash(other, "it_helps") == claim_hash(plain, "it_helps")


def test_shared_parts_that_are_reached_count_and_others_do_not():
    from tacit.catalogue import find

    names = {path.relative_to(_hashes.ROOT).as_posix() for path in _hashes._reached(find("byol").source)}
    assert {"pretrain/_byol.py", "nn/_momentum.py", "nn/_heads.py", "views/_presets.py", "views/_colour.py"} <= names
    assert not any(name.startswith(("claims/", "cli/", "report/")) for name in names)
    assert "nn/_vit.py" not in names
    assert "losses/_similarity.py" in {
        path.relative_to(_hashes.ROOT).as_posix() for path in _hashes._reached(find("dcl").source)
    }


@pytest.mark.parametrize("system", ["tst", "gcc"])
def test_how_users_files_are_read_counts_for_no_claim(system):
    from tacit.catalogue import find

    names = {path.name for path in _hashes._reached(find(system).source) if path.parent.name == "data"}
    assert names
    assert not names & {"_listing.py", "_open.py", "_tables.py", "_rows.py", "_series_files.py", "_graph_files.py"}


def test_lazy_and_plain_packages_are_both_seen_through():
    assert [path.name for path in _files(["pretrain"], ["BYOL"])] == ["_byol.py"]
    assert [path.name for path in _files(["nn"], ["mlp", "Momentum"])] == ["_heads.py", "_momentum.py"]


def test_a_raised_engine_makes_everything_stale(edited, monkeypatch):
    before = code_hash([edited()])
    monkeypatch.setattr(_hashes, "ENGINE", _hashes.ENGINE + 1)
    assert code_hash([edited()]) != before


def test_systems_that_a_claim_names_are_found_in_it_and_in_the_functions_it_calls():
    from tacit.catalogue import find

    source = find("matching-networks").source
    assert "supervised" in _hashes.texts_of(source, "one_shot")  # trained by a function that both of its claims call
    assert "supervised" not in _hashes.texts_of(find("dcl").source, "small_batches")


SCORES = {1: "20464315ff319765"}
"""Number of the engine -> hash of the scores that it computes itself, which no system's file reaches."""


def test_the_engines_number_is_raised_when_its_scores_change():
    files = [_hashes.ROOT / "evaluate" / f"{name}.py" for name in ("_knn", "_linear", "_clustering")]
    now = code_hash(files)
    assert SCORES.get(_hashes.ENGINE) == now, (
        f"evaluate/ has changed: raise tacit.claims._hashes.ENGINE if scores moved, and put {now!r} beside it here"
    )
