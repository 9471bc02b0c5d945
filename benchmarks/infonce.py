"""InfoNCE in blocks against the plain n x n form: peak memory, time, loss and gradient.

    python benchmarks/infonce.py [--n 16384] [--dim 128] [--json FILE]

Each side runs in its own process, so that the memory of one does not hide in the other's. Peak memory is what the
process grew by during loss and backward pass (VmHWM over VmRSS, Linux). Prints ours over theirs; the ratio of processor
seconds holds on a busy machine too.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEMPERATURE = 0.1
MEMORY = 0.25
"""What ours may take of the plain form's memory."""
TOLERANCE = 1e-5
"""How far loss and gradient may differ, relative to the largest."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=16384, help="number of queries, and of keys")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the fastest counts")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--side", choices=("blocked", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        sides = {side: start_side(side, options, Path(folder)) for side in ("blocked", "plain")}
        found = compare(sides, Path(folder))
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if found["reached"] else 1


def start_side(side: str, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run one side in a process of its own and hand on what it measured."""
    command = [sys.executable, __file__, "--side", side, "--out", str(folder / f"{side}.npy")]
    for name in ("n", "dim", "threads", "repeats"):
        command += [f"--{name}", str(getattr(options, name))]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def run_side(options: argparse.Namespace) -> None:
    import numpy as np
    import torch
    import torch.nn.functional as F

    from tacit.losses import info_nce

    def plain(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / TEMPERATURE
        return F.cross_entropy(logits, torch.arange(len(queries)))

    def blocked(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return info_nce(queries, keys, TEMPERATURE)

    loss = plain if options.side == "plain" else blocked
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> list[torch.Tensor]:
        queries = torch.randn(n, options.dim, generator=generator)
        keys = queries + torch.randn(n, options.dim, generator=generator)
        return [queries.requires_grad_(), keys.requires_grad_()]

    loss(*draw(256)).backward()  # what is loaded at the first use is not counted
    queries, keys = draw(options.n)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    seconds, processor = [], []
    for run in range(options.repeats):
        queries.grad = keys.grad = None
        start, start_processor = time.perf_counter(), time.process_time()
        value = loss(queries, keys)
        value.backward()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
        if run == 0:
            peak = memory("VmHWM") - before
    np.save(options.out, np.stack([queries.grad.numpy(), keys.grad.numpy()]))
    measured = {"peak_mib": peak, "seconds": min(seconds), "processor_seconds": min(processor)}
    print(json.dumps({**measured, "loss": float(value.detach())}))


def memory(name: str) -> float:
    """A figure of this process, in MiB."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, f"{name} is not in /proc/self/status"
    return int(found[1]) / 1024


def compare(sides: dict[str, dict[str, float]], folder: Path) -> dict[str, object]:
    import numpy as np

    gradients = {side: np.load(folder / f"{side}.npy").astype(np.float64) for side in sides}
    ours, theirs = sides["blocked"], sides["plain"]
    difference = np.abs(gradients["blocked"] - gradients["plain"]).max()
    ratios = {
        "memory_ratio": ours["peak_mib"] / theirs["peak_mib"],
        "time_ratio": ours["seconds"] / theirs["seconds"],
        "processor_time_ratio": ours["processor_seconds"] / theirs["processor_seconds"],
        "loss_difference": abs(ours["loss"] - theirs["loss"]) / abs(theirs["loss"]),
        "gradient_difference": difference / np.abs(gradients["plain"]).max(),
        "gradient_difference_absolute": float(difference),
    }
    same = max(ratios["loss_difference"], ratios["gradient_difference"]) <= TOLERANCE
    return {**ratios, "reached": bool(same and ratios["memory_ratio"] <= MEMORY), "sides": sides}


if __name__ == "__main__":
    sys.exit(main())
