"""`tacit claims`: what a user types, and what is there to read afterwards."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tacit.claims import read_records
from tacit.cli import main

CLAIMS = Path(__file__).parents[1] / "claims"
ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
QUICK = "comp-sum-losses/bound_is_tight"
"""A claim of the catalogue that takes no training."""

ON_DATA = '''
"""Nobody's paper (1999)."""

import torch
from tacit.catalogue import system
from tacit.claims import claim


@system("nearest", paper="Nobody, 1999", modality="points")
def nearest(x, y, new):
    """The class whose mean is nearest."""
    means = torch.stack([x[y == k].mean(0) for k in range(int(y.max()) + 1)])
    return torch.cdist(new, means).argmin(1)


@claim("nearer means are better than guessing", reported="none")
def better_than_guessing(bench):
    """Accuracy on unseen rows."""
    data = bench.data("iris")

    def both(trial):
        train, unseen = trial.split(data)
        guess = train.y[: len(unseen)].new_zeros(len(unseen))
        return unseen.score(nearest(train.x.float(), train.y, unseen.x.float())), unseen.score(guess)

    return bench.trials(both, baseline="always the first class", better_by=0.0)
'''


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """The toy system of the claims' tests in place of the catalogue, in an empty folder."""
    return in_place(monkeypatch, tmp_path, CLAIMS / "toy_system.py")


def in_place(monkeypatch, folder, file):
    from tacit import catalogue

    monkeypatch.syspath_prepend(str(file.parent))
    monkeypatch.setattr("tacit.cli._claims.get_ready", lambda threads=None: None)
    entries = tuple(catalogue.read_entries(file, "pretrain", file.stem))
    monkeypatch.setattr(catalogue, "systems", lambda: entries)
    monkeypatch.setenv("TACIT_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    return folder


# run ------------------------------------------------------------------------------------------------------------------


def test_a_verdict_is_told_so_that_a_stranger_understands(toys, capsys):
    assert main(["claims", "run", "toy/learns"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0] == "toy/learns: holds"
    for label, text in {
        "The paper": "learning beats standing still",
        "Reported": "99 % against 50 %",
        "Tested here": "Accuracy on unseen points.",
        "Compared": "toy against toy-still; blobs(distance=3.0); 12 steps; 5 seeds at small on cpu",
        "Verdict": "holds: toy is better than toy-still: the whole interval lies above the margin",
        "Record": "evidence/toy.jsonl",
    }.items():
        assert f"  {label:<13}{text}" in lines
    (record,) = read_records("evidence/toy.jsonl")
    effect = f"{record.effect:+.2f}, 95 % interval {record.interval[0]:+.2f} to {record.interval[1]:+.2f}; margin 0"
    assert f"  Effect       {effect}" in lines


def test_a_claim_that_fails_is_a_result_and_its_proxy_is_named(toys, capsys):
    assert main(["claims", "run", "toy/stands"]) == 0
    said = capsys.readouterr().out
    assert "toy/stands: fails\n" in said
    assert "a proxy: of a false claim" in said
    assert "not true that toy is better than guesses: the whole interval lies below the margin" in said


def test_what_has_been_run_is_shown_and_again_runs_it_anew(toys, capsys):
    for words in ([], [], ["--again"]):
        assert main(["claims", "run", "toy/learns", *words]) == 0
    first, second, third = capsys.readouterr().out.split("toy/learns: holds\n")[1:]
    assert "has been run; --again runs it anew" in second
    assert "--again" not in first + third
    assert len(read_records("evidence/toy.jsonl")) == 2
    kept = [{path.name for path in toys.rglob(f"claims/{again}trials/*.json")} for again in ("", "again-1/")]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 5


def test_all_are_counted_at_the_end_checked_properties_among_them(toys, capsys):
    assert main(["claims", "run", "--all", "--evidence", "elsewhere"]) == 0
    said = capsys.readouterr().out
    assert "toy-still/adds: checked: one and one are two\n" in said
    assert said.splitlines()[-1] == "3 in all: 1 holds, 1 fails, 1 checked"
    assert len(read_records("elsewhere/toy.jsonl")) == 2


def test_smoke_says_that_it_is_no_evidence_and_leaves_no_record(toys, capsys):
    assert main(["claims", "run", "toy/learns", "--budget", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "toy/learns: ran at smoke" in said
    assert "2 seeds at smoke are no evidence: give --budget small" in said
    assert not Path("evidence").exists()


def test_fresh_seeds(toys, capsys):
    main(["claims", "run", "toy/learns", "--reseed", "--json"])
    (one,) = json.loads(capsys.readouterr().out)["claims"]
    assert one["record"]["seeds"] == [100, 101, 102, 103, 104]


@pytest.mark.parametrize(
    "words", ["run toy/learns --budget smoke", "run --all", "show", "show toy", "table --evidence e -o page.md"]
)
def test_every_command_prints_one_json_object(toys, capsys, words):
    Path("e").mkdir()
    assert main(["claims", *words.split(), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert isinstance(json.loads(line, parse_constant=pytest.fail), dict)


def test_one_that_breaks_does_not_keep_the_others(toys, capsys, monkeypatch):
    from tacit.claims import _run

    def run_claim(found, *given, **named):
        if found.id == "toy/learns":
            raise ZeroDivisionError("division by zero")
        return real(found, *given, **named)

    real = _run.run_claim
    monkeypatch.setattr(_run, "run_claim", run_claim)
    assert main(["claims", "run", "toy"]) == 1
    said = capsys.readouterr().out
    assert "toy/learns: broke: ZeroDivisionError: division by zero" in said
    assert said.splitlines()[-1] == "2 in all: 1 fails, 1 broke"
    with pytest.raises(ZeroDivisionError):
        main(["claims", "run", "toy/learns"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("run", "claims=nothing: expected one of NAME, --area and --all; try: tacit claims run dcl"),
        ("run toy --all", "claims=NAME and --all: expected one of"),
        ("run toyy", "did you mean 'toy'?"),
        ("run learns", "did you mean 'toy/learns'?"),
        ("run --area pretrian", "did you mean 'pretrain'?"),
        ("run toy --budget smal", "did you mean 'small'?"),
        ("run toy --device gpu", "device='gpu': expected cpu or cuda"),
        ("run toy --jobs 0", "jobs=0: expected a whole number, at least 1"),
        ("run toy --labels folder", "labels='folder': expected --data DIR with it"),
        ("run toy-still --data x", "name='toy-still': expected a claim to run"),
        ("run toy/learns --data nowhere", "'nowhere': no such file or folder"),
        ("run toy --bugdet small", "claims run has no flag --bugdet; did you mean --budget?"),
        ("rnu toy", "claims has no command 'rnu'; did you mean 'run'?"),
        ("show toyy", "did you mean 'toy'?"),
        ("table --evidence nowhere", "evidence='nowhere': expected a folder of records"),
        ("tune toy", "name='toy': expected one claim: toy/learns or toy/stands"),
        ("tune toy/learns --trials 0", "trials=0: expected a whole number"),
        ("tune toy/learns", "compares systems"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(toys, capsys, words, says):
    assert main(["claims", *words.split()]) == 2
    said = capsys.readouterr()
    line = said.err.splitlines()[-1]
    assert line.startswith("tacit: ")
    assert says in line
    assert "Traceback" not in said.err


def test_ctrl_c_says_that_the_same_command_goes_on(toys, capsys, monkeypatch):
    def stop(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("tacit.claims._run.run_claim", stop)
    assert main(["claims", "run", "toy/learns"]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "tacit: stopped; the same command goes on with the seed it stood at"


# a user's own data ----------------------------------------------------------------------------------------------------


def points(path, apart):
    """Forty points of two kinds of animal: far apart, or not to be told apart."""
    kind = np.arange(40) % 2
    x = np.random.default_rng(0).normal(size=(40, 2)) + apart * kind[:, None]
    np.savez(path, x=x.astype(np.float32), animal=kind)
    return str(path)


def test_own_data_is_answered_in_words_and_never_enters_the_table(monkeypatch, tmp_path, capsys):
    file = tmp_path / "nearest_system.py"
    file.write_text(ON_DATA)
    in_place(monkeypatch, tmp_path, file)
    data = points(tmp_path / "pets.npz", 50)
    assert main(["claims", "run", "nearest", "--data", data, "--labels", "animal"]) == 0
    said = capsys.readouterr().out
    assert f"Would it help you? Yes: on {data} nearest beats always the first class; the difference lies" in said
    assert f"{data} (animal)" in said
    (record,) = read_records("evidence/nearest.jsonl")
    assert (record.own, record.verdict) == (data, "holds")
    assert main(["claims", "show", "nearest"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("nearest/better_than_guessing: not run")
    assert "own data" in said


def test_finished_trials_of_other_labels_are_not_taken_for_those_of_these(monkeypatch, tmp_path, capsys):
    file = tmp_path / "nearest_again.py"
    file.write_text(ON_DATA)
    in_place(monkeypatch, tmp_path, file)
    verdicts = []
    for apart in (50, 0):
        points(tmp_path / "pets.npz", apart)
        main(["claims", "run", "nearest", "--data", "pets.npz", "--labels", "animal", "--json"])
        verdicts.append(json.loads(capsys.readouterr().out)["claims"][0]["record"]["values"])
    assert verdicts[0] != verdicts[1]


def test_a_claim_that_draws_its_data_is_not_run_on_a_users(toys, capsys):
    data = points(toys / "pets.npz", 50)
    assert main(["claims", "run", "toy/learns", "--data", data, "--labels", "animal"]) == 2
    assert "draws its own data (blobs); it cannot be run on yours" in capsys.readouterr().err


# show, table, tune ----------------------------------------------------------------------------------------------------


def test_show_has_a_row_for_each_claim_and_all_there_is_of_one(toys, capsys):
    main(["claims", "run", "toy"])
    main(["claims", "run", "toy/learns", "--reseed"])
    capsys.readouterr()
    assert main(["claims", "show"]) == 0
    table = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[:3] for row in table] == [["toy/learns", "method", "holds"], ["toy/stands", "method", "fails"]]
    assert [row[4] for row in table] == ["small", "small"]
    assert [row[6] for row in table] == ["", "proxy"]
    assert main(["claims", "show", "toy/learns"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"Fresh seeds +(the same verdict: holds|ANOTHER verdict: unclear), \+", said)
    assert "small        lr 0.1, batch_size 20, optimizer sgd" in said
    assert re.search(r"History +\d{4}-\d\d-\d\d  small  cpu  holds", said)
    assert "fresh seeds" in said.splitlines()[-4]


def test_show_marks_what_is_stale_and_keeps_both_verdicts_of_an_edited_claim(toys, capsys):
    main(["claims", "run", "toy/learns"])
    path = Path("evidence/toy.jsonl")
    before = json.loads(path.read_text()) | {"claim_hash": "older", "verdict": "fails", "margin": 0.5}
    path.write_text(json.dumps(before) + "\n")
    capsys.readouterr()
    main(["claims", "show", "toy/learns"])
    said = capsys.readouterr().out
    assert said.startswith("toy/learns: stale\n")
    assert "changed after its last record and has not been run since" in said
    main(["claims", "run", "toy/learns"])
    capsys.readouterr()
    main(["claims", "show", "toy/learns", "--json"])
    (one,) = json.loads(capsys.readouterr().out)["claims"]
    assert (one["verdict"], one["margin_moves"]) == ("holds", 1)
    assert [record["verdict"] for record in one["versions"]] == ["fails", "holds"]


def test_table_writes_the_page(toys, capsys):
    main(["claims", "run", "toy"])
    capsys.readouterr()
    for _ in range(2):  # a page of its own it writes anew
        assert main(["claims", "table", "--out", "docs/evidence.md"]) == 0
        assert capsys.readouterr().out == "docs/evidence.md\n"
    page = Path("docs/evidence.md").read_text()
    assert "**holds**" in page
    assert "**fails**" in page


def test_table_writes_over_nothing_of_the_users(toys, capsys, monkeypatch):
    main(["claims", "run", "toy/learns"])
    Path("docs").mkdir()
    Path("docs/evidence.md").write_text("MY NOTES")
    for words, said in {"": "--out", "--out docs/evidence.md": "nothing is overwritten", "-o docs": "exists"}.items():
        assert main(["claims", "table", *words.split()]) == 2
        assert said in capsys.readouterr().err
    assert Path("docs/evidence.md").read_text() == "MY NOTES"
    monkeypatch.setattr("tacit.claims._hashes.ROOT", toys / "src/tacit")  # as in the checkout
    Path("docs/evidence.md").unlink()
    assert main(["claims", "table"]) == 0
    assert "**holds**" in Path("docs/evidence.md").read_text()


def test_tune_prints_trials_as_they_come_and_what_to_write(toys, capsys, monkeypatch):
    from tacit.claims import _tune

    def tune(found, *, trials, device, evidence, progress):
        sides = {"toy": _tune.Tuned(), "toy-still": _tune.Tuned()}
        for number, (system, side) in enumerate(sides.items()):
            for trial in range(trials):
                score = 0.5 + 0.1 * trial * (1 - number)
                side.trials.append({"settings": _tune.draw(system, trial), "score": score})
                progress(system, trial + 1, trials, score)
        return sides

    monkeypatch.setattr(_tune, "tune", tune)
    assert main(["claims", "tune", "toy/learns", "--trials", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    second = _tune.draw("toy", 1)
    assert said[0] == "toy  trial 1 of 2  the preset as it is  0.5"
    assert said[1] == f"toy  trial 2 of 2  lr {second['lr']}, scale {second['scale']}  0.6"
    words = f'"lr": {second["lr"]}, "scale": {second["scale"]}'
    assert said[-2] == f'toy: write into settings["small"] of toy_system.py: {words}'
    assert said[-1] == "toy-still: the preset is the best of 2; nothing to write"


# as a process ---------------------------------------------------------------------------------------------------------


def python(script, *words, **options):
    return subprocess.run(
        [sys.executable, "-c", script, *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize("words", ["claims --help", "claims run --help", "claims show --help", "claims", "claims show"])
def test_help_and_show_need_no_torch(words, tmp_path):
    heavy = "{'torch', 'scipy', 'lancedb', 'lightning_fabric', 'sklearn', 'transformers', 'matplotlib'}"
    script = f"import sys; from tacit.cli import main; main(sys.argv[1:]); sys.exit(len({heavy} & set(sys.modules)))"
    done = python(script, *words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    if "--help" in words:
        assert "tacit claims" in done.stdout.partition("Example" if "run" in words or "show" in words else "Start")[2]
        assert all(len(line) <= 80 for line in done.stdout.splitlines())
    elif "show" in words:
        assert any(line.startswith("dcl/small_batches\tmethod\t") for line in done.stdout.splitlines())


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_one_line_is_rewritten_and_nothing_is_wider(columns, tmp_path):
    ours, theirs = pty.openpty()
    environment = {**ENVIRONMENT, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    words = [sys.executable, "-m", "tacit", "claims", "run", QUICK, "--budget", "smoke"]
    run = subprocess.Popen(words, env=environment, stdout=theirs, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:
        pass  # how Linux says that the other end is closed
    assert run.wait(timeout=60) == 0
    text = shown.decode()
    assert f"{QUICK}  smoke  seed 1 of 2  0 s" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n")
    assert f"{QUICK}: ran at smoke" in plain
    assert max(len(line) for line in plain.splitlines()) <= columns


def test_a_long_name_is_cut_and_the_rest_of_the_line_stays():
    from types import SimpleNamespace

    from tacit.cli._lines import _line

    task = SimpleNamespace(description="system/" + "long_" * 20, fields={"words": "small  seed 3 of 5"}, elapsed=72.4)
    line = _line(task, 60)
    assert len(line) < 60
    assert line.endswith("…  small  seed 3 of 5  1 min 12 s")


@pytest.mark.slow
def test_several_at_once_and_stopped(tmp_path):
    more = ["--area", "robust", "--budget", "smoke", "--jobs", "2"]  # more than end in a moment
    words = [sys.executable, "-m", "tacit", "claims", "run", *more]
    run = subprocess.Popen(
        words, env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert any(line.endswith(": ran at smoke\n") for line in run.stdout)
    time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert errors.splitlines()[-1] == "tacit: stopped; the same command goes on with the seed it stood at"
    assert "Traceback" not in errors


@pytest.mark.slow
def test_trials_at_once_give_what_they_give_alone(tmp_path):
    found = []
    for jobs in ("1", "2"):
        environment = {**ENVIRONMENT, "TACIT_CACHE": str(tmp_path / jobs)}
        words = [sys.executable, "-m", "tacit", "claims", "run", QUICK, "--jobs", jobs, "--json"]
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        found.append(json.loads(done.stdout)["claims"][0]["record"]["values"])
        (tmp_path / "evidence/comp-sum-losses.jsonl").unlink()
    assert found[0] == found[1]
