"""The command line as a process of its own: time, imports, exit codes, pipes, terminals."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FAKE = Path(__file__).parent / "fake_library.py"
COMMANDS = ["", "learn", "embed", "search", "report", "export", "systems"]
# compiled files make imports twice as fast; a machine may forbid them
ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def tacit(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "tacit", *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_needs_no_torch(command):
    heavy = "{'torch', 'numpy', 'lancedb', 'lightning_fabric', 'sklearn', 'transformers', 'matplotlib'}"
    script = f"import sys; from tacit.cli import main; main(sys.argv[1:]); sys.exit(len({heavy} & set(sys.modules)))"
    words = [word for word in (command, "--help") if word]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"tacit {command}".strip() in done.stdout.partition("Example" if command else "Start with")[2]
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_help_takes_less_than_a_second_and_a_half():
    def seconds():
        start = time.perf_counter()
        assert tacit("learn", "--help").returncode == 0
        return time.perf_counter() - start

    # the quickest of three, since other processes may be busy
    assert min(seconds() for _ in range(3)) < 1.5


def test_exit_codes_and_streams_of_the_process():
    assert tacit().stdout == tacit("--help").stdout
    assert tacit("--version").stdout.startswith("tacit 0.")
    wrong = tacit("learn", "demo", "--epochs", "0")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "tacit: epochs=0: expected a whole number, at least 1; leave it out for the default length\n"


def start(*words, **options):
    return subprocess.Popen([sys.executable, FAKE, *words], env=ENVIRONMENT, text=True, **options)


def test_ctrl_c_in_a_run():
    def heard() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs do not hear it

    run = start("learn", "slower", stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heard)
    assert run.stdout.readline()  # the plan is there, so the run has begun
    time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert errors.splitlines()[-1] == "tacit: stopped; the same command goes on from the last checkpoint"
    assert "Traceback" not in errors


def test_a_reader_that_goes_away_is_no_error():
    run = start("search", "run", "q.jpg", "-k", "20000", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.readline()
    run.stdout.close()
    assert run.stderr.read() == ""
    assert run.wait(timeout=60) in (1, 141)


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_nothing_is_wider_than_the_terminal_and_the_cursor_comes_back(columns):
    ours, theirs = pty.openpty()
    environment = {**ENVIRONMENT, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    run = subprocess.Popen(
        [sys.executable, FAKE, "learn", "slow"], env=environment, stdout=theirs, stderr=theirs, text=True
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:
        pass  # how Linux says that the other end is closed
    assert run.wait(timeout=60) == 0
    text = shown.decode()
    assert "images/s" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    plain = text.replace("\r", "\n")
    for escape in ("\x1b[", "\x1b("):
        while escape in plain:
            before, _, after = plain.partition(escape)
            end = next(i for i, letter in enumerate(after) if letter.isalpha())
            plain = before + after[end + 1 :]
    assert max(len(line) for line in plain.splitlines()) <= columns
