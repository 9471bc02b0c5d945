"""The ledger keeps what it acknowledged, whatever kills the writer, and its two parts never meet."""

import multiprocessing
import random
import sqlite3
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.data._ledger import FORMAT, Ledger
from tacit.errors import ArgumentError, RunError
from tacit.labelling import PURPOSE

fork = multiprocessing.get_context("fork")

ITEMS = st.sets(st.integers(0, 40).map(lambda number: f"{number:04x}"), max_size=20)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "labels.sqlite")


def both_parts(ledger, name):
    return ledger.take(name, "choose", "test"), ledger.take(name, "report", "test")


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(ITEMS, st.integers(0, 3), st.sampled_from(["found", "user", "predicted"])), min_size=1, max_size=4
    )
)
def test_parts_never_meet_and_no_item_moves(rounds):
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "labels.sqlite")
        ledger.put("kind", {"ffff": "a"}, source="found")
        before = set(), set()
        for items, seed, source in rounds:
            ledger.put("kind", dict.fromkeys(items, "a"), source=source)
            ledger.split("kind", seed)
            parts = tuple(
                set(ledger.take("kind", part, "test", sources=("found", "user", "predicted")))
                for part in ("choose", "report")
            )
            assert not parts[0] & parts[1]
            assert before[0] <= parts[0]
            assert before[1] <= parts[1]
            before = parts
        everything = {"ffff"}.union(*(items for items, _, _ in rounds))
        assert before[0] | before[1] == everything


def test_split_does_not_depend_on_order_or_company(tmp_path):
    items = [f"{number:04x}" for number in range(300)]
    together = Ledger(tmp_path / "together.sqlite")
    together.put("kind", dict.fromkeys(items, "a"), source="found")
    together.split("kind", seed=5)
    apart = Ledger(tmp_path / "apart.sqlite")
    for some in (items[200:], items[:200]):
        apart.put("kind", dict.fromkeys(reversed(some), "b"), source="user")
        apart.split("kind", seed=5)
    assert set(both_parts(together, "kind")[0]) == set(both_parts(apart, "kind")[0])


def test_split_halves_and_seeds_differ(ledger):
    items = dict.fromkeys((f"{number:04x}" for number in range(4000)), "a")
    chosen = {}
    for seed in (0, 1):
        ledger.put(f"kind{seed}", items, source="found")
        counts = ledger.split(f"kind{seed}", seed)
        assert abs(counts["choose"] - 2000) < 5 * (4000 / 4) ** 0.5  # five deviations of a fair coin
        assert counts["choose"] + counts["report"] == 4000
        chosen[seed] = set(ledger.take(f"kind{seed}", "choose", "test"))
    assert abs(len(chosen[0] & chosen[1]) - 1000) < 5 * (4000 * 3 / 16) ** 0.5


def test_one_seed_gives_an_item_one_part_under_all_names(ledger):
    items = [f"{number:04x}" for number in range(50)]
    for name in ("shape", "colour"):
        ledger.put(name, dict.fromkeys(items, name), source="found")
        ledger.split(name, seed=3)
    assert set(both_parts(ledger, "shape")[0]) == set(both_parts(ledger, "colour")[0])


def test_values_come_back_by_source(ledger):
    ledger.put(
        "kind", {"01": "found", "02": "found", "03": "", "04": None, "05": 7, "07": "caf\udce9 \x00 雪"}, source="found"
    )
    ledger.put("kind", {"02": "mine"}, source="user")
    ledger.put("kind", {"01": "guess", "06": "guess"}, source="predicted", weight=0.4)
    ledger.split("kind")

    def merged(**options):
        return ledger.take("kind", "choose", "test", **options) | ledger.take("kind", "report", "test", **options)

    odd = {"07": "caf\\udce9 \x00 雪"}
    assert merged() == {"01": "found", "02": "mine", "05": "7", **odd}
    assert merged(sources=("predicted", "found")) == {"01": "guess", "02": "found", "05": "7", "06": "guess", **odd}
    ledger.put("kind", {"02": "changed"}, source="user")
    assert merged()["02"] == "changed"


def test_every_take_is_recorded_and_nothing_else_is(ledger):
    ledger.put("kind", {"01": "a"}, source="found")
    ledger.split("kind")
    assert ledger.uses() == []
    ledger.take("kind", "choose", "number of clusters")
    ledger.take("kind", "report", "k-NN accuracy")
    with pytest.raises(ArgumentError):
        ledger.take("kind", "learn", "training")
    assert [use[:3] for use in ledger.uses()] == [
        ("kind", "choose", "number of clusters"),
        ("kind", "report", "k-NN accuracy"),
    ]


def test_wrong_requests_name_the_remedy(ledger):
    ledger.put("shape", {"01": "a"}, source="found")
    with pytest.raises(RunError, match=r"call split\('shape'\) first"):
        ledger.take("shape", "report", "test")
    with pytest.raises(ArgumentError, match="did you mean 'shape'"):
        ledger.split("shpae")
    ledger.split("shape")
    with pytest.raises(ArgumentError, match="part='learn': expected one of choose, report"):
        ledger.take("shape", "learn", "test")
    with pytest.raises(ArgumentError, match="did you mean 'shape'"):
        ledger.take("shap", "report", "test")
    with pytest.raises(ArgumentError, match="purpose=''"):
        ledger.take("shape", "report", "")
    with pytest.raises(ArgumentError, match="sources='guess'"):
        ledger.take("shape", "report", "test", sources=("guess",))
    with pytest.raises(ArgumentError, match="source='model'"):
        ledger.put("shape", {"01": "a"}, source="model")
    with pytest.raises(ArgumentError, match="weight=2"):
        ledger.put("shape", {"01": "a"}, source="user", weight=2)


def test_read_only_reads_and_writes_nothing(ledger):
    ledger.put("kind", {"01": "a"}, source="found")
    ledger.split("kind")
    ledger.take("kind", "report", "test")
    before = ledger.path.read_bytes()
    reader = Ledger(ledger.path, read_only=True)
    assert reader.names() == ["kind"]
    assert [use.by for use in reader.uses()] == ["test"]
    with pytest.raises(RunError, match="read-only"):
        reader.take("kind", "report", "again")
    with pytest.raises(RunError, match="read-only"):
        reader.put("kind", {"02": "a"}, source="user")
    assert ledger.path.read_bytes() == before
    assert list(ledger.path.parent.iterdir()) == [ledger.path]


def test_foreign_and_newer_files_are_refused_untouched(tmp_path):
    newer = tmp_path / "newer.sqlite"
    Ledger(newer)
    with sqlite3.connect(newer) as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    with pytest.raises(RunError, match=f"format {FORMAT + 1}, newer than {FORMAT}.*upgrade tacit"):
        Ledger(newer)

    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE something (x)")
    before = other.read_bytes()
    with pytest.raises(RunError, match="no ledger of labels"):
        Ledger(other)
    assert other.read_bytes() == before

    text = tmp_path / "text.sqlite"
    text.write_text("not a database, but long enough to have a header" * 50)
    with pytest.raises(RunError, match="not a database"):
        Ledger(text)
    with pytest.raises(RunError, match="unable to open"):
        Ledger(tmp_path / "absent" / "labels.sqlite")
    with pytest.raises(RunError, match="unable to open"):
        Ledger(tmp_path / "absent.sqlite", read_only=True)


def test_a_file_left_empty_by_a_kill_becomes_a_ledger(tmp_path):
    path = tmp_path / "labels.sqlite"
    path.touch()
    Ledger(path).put("kind", {"01": "a"}, source="found")
    assert Ledger(path).names() == ["kind"]


def of_format_1(path, labels):
    """A ledger as it was, of labels (name, source, values), each used once."""
    ledger = Ledger(path)
    for name, source, values in labels:
        ledger.put(name, {f"{name} {i}": value for i, value in enumerate(values)}, source=source)
        ledger.split(name)
        ledger.take(name, "choose", "suggesting what to label next (tacit suggest)")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 1")


def test_marks_are_no_labels_unless_asked_for(ledger):
    ledger.put("tacit:star", {"01": "yes"}, source="user")
    ledger.put("kind", {"01": "a"}, source="user")
    assert ledger.names() == ledger.names(source="user") == ["kind"]
    assert ledger.names(source="user", marks=True) == ["kind", "tacit:star"]
    ledger.split("tacit:star")
    with pytest.raises(ArgumentError, match=r"expected one of kind$"):
        ledger.split("star")


def test_stars_and_notes_of_format_1_become_marks(tmp_path):
    path = tmp_path / "labels.sqlite"
    of_format_1(path, [("star", "user", ["yes"] * 3), ("note", "user", ["look"]), ("kind", "user", ["a", "b"])])
    assert "star" in Ledger(path, read_only=True).names()
    ledger = Ledger(path)
    assert ledger.names() == ["kind"]
    assert ledger.names(marks=True) == ["kind", "tacit:note", "tacit:star"]
    assert sum(ledger.split("tacit:star").values()) == 3
    assert {use.name for use in ledger.uses()} == {"kind", "tacit:note", "tacit:star"}
    ledger.put("star", {"01": "yes"}, source="user")
    assert "star" in Ledger(path).names()  # a label of the user's own, from now on


@pytest.mark.parametrize(
    "labels",
    [
        [("star", "user", ["0", "5"])],
        [("star", "user", ["yes", "no"])],
        [("star", "user", ["yes"]), ("star", "predicted", ["no"])],
        [("star", "found", ["yes"])],
        [("note", "user", ["good", "bad"]), ("note", "predicted", ["bad"])],
    ],
)
def test_a_label_that_was_called_like_a_mark_stays_one(tmp_path, labels):
    path = tmp_path / "labels.sqlite"
    of_format_1(path, labels)
    assert Ledger(path).names() == Ledger(path).names(marks=True) == [labels[0][0]]


def test_notes_that_probes_were_fitted_to_stay_a_label(tmp_path):
    path = tmp_path / "labels.sqlite"
    of_format_1(path, [("note", "user", ["good", "bad"])])
    with sqlite3.connect(path) as db:
        db.execute('UPDATE use SET "by" = ?', (PURPOSE,))
    assert Ledger(path).names() == ["note"]


def write_until_killed(path, start, acknowledged):
    ledger = Ledger(path)
    for number in range(start, start + 1_000_000):
        ledger.put("kind", {f"{number}-{copy}": str(number) for copy in range(50)}, source="user")
        acknowledged.send(number)


def stored(path):
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return dict(db.execute("SELECT item_hash, value FROM label"))


def test_a_killed_writer_loses_no_acknowledged_label(tmp_path):
    path, chance = tmp_path / "labels.sqlite", random.Random(0)
    promised = {}
    for attempt in range(12):
        receive, send = fork.Pipe(duplex=False)
        writer = fork.Process(target=write_until_killed, args=(path, attempt * 1_000_000, send))
        writer.start()
        send.close()
        if attempt % 3:  # every third is killed at its start, perhaps before the file is whole
            assert receive.poll(30)
        time.sleep(chance.uniform(0, 0.04))
        writer.kill()
        writer.join()
        assert writer.exitcode == -9
        while True:
            try:
                number = receive.recv()
            except EOFError:
                break
            promised |= {f"{number}-{copy}": str(number) for copy in range(50)}
        Ledger(path)
        found = stored(path)
        assert promised.items() <= found.items()
        assert len(found) % 50 == 0  # a put is there as a whole or not at all
    assert len(promised) >= 8 * 50


def write_many(path, writer):
    ledger = Ledger(path)
    for number in range(15):
        ledger.put("kind", {f"{writer}-{number}": "a"}, source="user")
        ledger.split("kind", seed=writer)


def test_two_processes_write_at_once(tmp_path):
    path = tmp_path / "labels.sqlite"
    writers = [fork.Process(target=write_many, args=(path, writer)) for writer in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    chosen, reported = both_parts(Ledger(path), "kind")
    assert not set(chosen) & set(reported)
    assert set(chosen) | set(reported) == {f"{writer}-{number}" for writer in range(3) for number in range(15)}
