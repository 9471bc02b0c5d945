import ctypes
import os
import subprocess
import sys

import pytest

from tacit.cli import _machine

HOLD = """
import ctypes, os, sys
from tacit.cli._machine import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

set_up = keep_freed_memory() if sys.argv[1] == "keep" else None
before = resident()
block = bytearray(b"x") * (64 << 20)
del block
print(set_up, (resident() - before) >> 20)
"""

glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc"
)


def hold(how, **variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", HOLD, how],
        env={**clean, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    set_up, mebibytes = done.stdout.split()
    return set_up, int(mebibytes)


@glibc
def test_a_freed_block_stays_with_the_process():
    assert hold("leave")[1] < 8
    set_up, mebibytes = hold("keep")
    assert (set_up, mebibytes >= 60) == ("True", True)


@glibc
def test_what_the_user_set_for_malloc_is_left_alone():
    set_up, mebibytes = hold("keep", MALLOC_ARENA_MAX="2")
    assert (set_up, mebibytes < 8) == ("False", True)


def machine(tmp_path, monkeypatch, siblings, allowed, quota=None):
    for cpu, text in enumerate(siblings):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(text + "\n")
    (tmp_path / "cpu.max").write_text(quota or "max 100000")
    monkeypatch.setattr(_machine, "CPUS", tmp_path)
    monkeypatch.setattr(_machine, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(allowed), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: len(siblings))
    return _machine.available_cores()


@pytest.mark.parametrize(
    ("siblings", "allowed", "quota", "cores"),
    [
        (["0,2", "1,3", "0,2", "1,3"], {0, 1, 2, 3}, None, 2),  # two cores with two threads each
        (["0,2", "1,3", "0,2", "1,3"], {0, 2}, None, 1),  # both threads of one core
        (["0", "1", "2", "3"], {1, 2, 3}, None, 3),
        (["0", "1", "2", "3"], {0, 1, 2, 3}, "200000 100000", 2),  # a container's share
        (["0", "1", "2", "3"], {0, 1, 2, 3}, "20000 100000", 1),
        (["0", "1"], {0, 1, 7}, None, 2),  # a processor that /sys does not describe; never more than there are
    ],
)
def test_cores_that_may_be_used(tmp_path, monkeypatch, siblings, allowed, quota, cores):
    assert machine(tmp_path, monkeypatch, siblings, allowed, quota) == cores


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("", None), ("0", None), ("4,2", None)])
def test_threads_from_the_environment(monkeypatch, value, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert _machine.threads_from_environment() == threads
