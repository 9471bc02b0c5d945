"""Processes beside the server: they come back after a kill, and end with whoever began them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tacit.errors import ArgumentError, RunError
from tacit.explore._helpers import Helper
from tacit.explore._serve import check_access


def alive(process):
    try:
        with Path(f"/proc/{process}/stat").open() as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(process, seconds=30.0):
    until = time.monotonic() + seconds
    while alive(process) and time.monotonic() < until:
        time.sleep(0.1)
    return not alive(process)


linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")


@linux
def test_a_helper_that_was_killed_is_followed_by_another():
    helper = Helper()
    try:
        first = helper.ask(os.getpid)
        assert first != os.getpid()
        assert helper.ask(os.getpid) == first
        os.kill(first, signal.SIGKILL)
        assert gone(first)
        try:
            second = helper.ask(os.getpid)
        except RunError:  # the pool had not noticed yet
            second = helper.ask(os.getpid)
        assert second != first
        with pytest.raises(ArgumentError, match="--token"):  # an error comes back as it is
            helper.ask(check_access, "0.0.0.0", None)
        with pytest.raises(RunError, match="no answer within"):
            helper.ask(time.sleep, 60, wait=0.2)
        assert gone(second)
    finally:
        helper.close()


@linux
def test_a_helper_ends_when_whoever_began_it_is_killed():
    begin = "import os, time; from tacit.explore._helpers import Helper"
    code = f"{begin}; print(Helper().ask(os.getpid), flush=True); time.sleep(99)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    assert alive(child)
    process.kill()
    process.wait()
    assert gone(child)
