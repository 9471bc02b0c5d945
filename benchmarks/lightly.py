"""The same SimCLR with lightly: images/s and peak memory, ours over theirs.

Same network (ResNet-8 of width 16), projection head, batch, optimiser, and views (SimCLR's for CIFAR) of 32-pixel
images. lightly transforms image by image in two DataLoader workers, as its documentation has it; tacit's views run on
whole batches. Each side has a process of its own; the sides take turns, and the ratio is taken pair by pair. Two
comparisons: as each library's user gets it (tacit: bfloat16 and channels_last where the CPU has them; lightly's
example: float32), and with lightly's loop given both by hand.

    python benchmarks/lightly.py --json lightly.json

Needs `lightly` and torchvision. A torchvision whose compiled operators do not fit the torch build is made importable by
declaring the two that it registers at import.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

SIDES = ("ours", "theirs", "theirs, bfloat16")


def ours(images, batch_size, steps):
    import torch

    from tacit.cli._machine import keep_freed_memory
    from tacit.data import Dataset
    from tacit.nn import ResNet
    from tacit.pretrain import SimCLR
    from tacit.recipes import Machine
    from tacit.training import Callback, fit

    keep_freed_memory()
    times = []

    class Clock(Callback):
        def step(self, step, loss, lr, health):
            times.append(time.perf_counter())

    learner = SimCLR(ResNet(8, width=16), hidden_dim=512, embed_dim=128, temperature=0.5)
    precision = "bf16-mixed" if Machine.here("cpu").bfloat16 else "32-true"
    data = Dataset({"x": torch.from_numpy(images)}, modality="image")
    settings = {"batch_size": batch_size, "precision": precision, "channels_last": True, "callbacks": [Clock()]}
    fit(learner, data, max_steps=steps, **settings)
    return times


def theirs(images, batch_size, steps, bfloat16=False):
    import torch

    here = Path(__file__).parent.resolve()
    sys.path = [path for path in sys.path if Path(path).resolve() != here]  # this file is called lightly, too
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    from tacit.nn import ResNet

    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize=None)
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]

    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return len(pictures)

        def __getitem__(self, index):
            return transform(pictures[index])

    network = torch.nn.Sequential(ResNet(8, width=16), SimCLRProjectionHead(64, 512, 128))
    if bfloat16:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    criterion, times = NTXentLoss(temperature=0.5), []
    loader = torch.utils.data.DataLoader(
        Pictures(), batch_size, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    while len(times) < steps:
        for a, b in loader:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
                loss = criterion(network(a).float(), network(b).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            times.append(time.perf_counter())
            if len(times) == steps:
                break
    return times


def side(name, n, batch_size, steps):
    """In a process of its own: images a second, from the tenth step on."""
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    run = ours if name == "ours" else theirs
    times = run(images, batch_size, steps, **({"bfloat16": True} if "bfloat16" in name else {}))
    print(json.dumps({"images_per_second": batch_size * (len(times) - 10) / (times[-1] - times[9])}))


def measured(name, args):
    """Images a second, and the peak of the memory of the side's processes together (their proportional sets)."""
    words = [
        sys.executable,
        __file__,
        "--side",
        name,
        "--n",
        args.n,
        "--batch-size",
        args.batch_size,
        "--steps",
        args.steps,
    ]
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
    peak = 0

    def watch():
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, _ = process.communicate()
    watcher.join()
    return json.loads(said.splitlines()[-1]) | {"peak_mib": peak / 1024}


def memory(root):
    """KiB of the process and its children."""
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            waiting += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except (OSError, StopIteration):
            continue
    return total


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--n", type=int, default=10_000)
    ask.add_argument("--batch-size", type=int, default=256)
    ask.add_argument("--steps", type=int, default=60)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--json")
    ask.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = ask.parse_args()
    if args.side:
        side(args.side, args.n, args.batch_size, args.steps)
        return
    rounds = []
    for number in range(args.rounds):
        found = {name: measured(name, args) for name in SIDES}
        rounds.append(found)
        for name, line in found.items():
            speed, peak = line["images_per_second"], line["peak_mib"]
            print(f"round {number + 1}: {name:16} {speed:8.0f} images/s, peak {peak:6.0f} MiB")
    result = {}
    for other in SIDES[1:]:
        for key in ("images_per_second", "peak_mib"):
            ratios = [found["ours"][key] / found[other][key] for found in rounds]
            result[f"{key}: ours over {other}"] = statistics.median(ratios)
            print(f"{key}: ours over {other}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if args.json:
        Path(args.json).write_text(json.dumps({"ratios": result, "rounds": rounds, "cores": os.cpu_count()}, indent=1))


if __name__ == "__main__":
    main()
