"""Peak memory of one call, measured in a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tacit.errors import ArgumentError

CLEAR_PEAK = "5"
"""Written to /proc/self/clear_refs, it sets the peak of the resident memory back to what is resident now."""


class Measured(Exception):
    """The peak in bytes."""

    def __init__(self, peak: float) -> None:
        super().__init__(peak)
        self.peak = peak


def peak_of(call: Callable[[], Any], device: str) -> float:
    """Bytes by which the call's peak stands above what was there before it."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    status = Path("/proc/self/status")
    if not status.exists():
        raise ArgumentError("peak memory is measured on Linux only, or on a GPU")
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
    before = _kilobytes(status, "VmRSS")
    call()
    return 1024.0 * (_kilobytes(status, "VmHWM") - before)


def _kilobytes(status: Path, name: str) -> int:
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines[name].split()[0])


def measure_elsewhere(claim: str, side: str, seed: int, budget: str, device: str) -> float:
    """Run one side of a claim in a new process, and return its peak in bytes."""
    # not `-m`: that would make this module twice, and with it Measured
    start = [sys.executable, "-c", "from tacit.claims import _peak; _peak.main()"]
    words = [*start, claim, side, str(seed), budget, device]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ArgumentError(f"{claim}: measuring the memory of {side} failed: {done.stderr.strip()[-500:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """What the new process does."""
    from tacit.claims._found import find_claim
    from tacit.claims._run import bench_for

    claim, side, seed, budget, device = sys.argv[1:]
    found = find_claim(claim)
    try:
        found.load()(bench_for(found, budget, device=device, peak_of=(side, int(seed))))
    except Measured as measured:
        print(json.dumps(measured.peak))
