"""What `fit` costs over the bare forward, backward and step of the same learner: at most 1.05 times the time.

Both sides train the same SimCLR (ResNet-8) on equal batches in one process, in turns; the ratio is taken pair by pair.

    python benchmarks/fit.py --json fit.json
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from tacit.building import build
from tacit.data import Dataset
from tacit.training import fit


def make():
    return build("simclr", {"image_size": 32, "channels": 3}, "small").to(memory_format=torch.channels_last)


def bare(learner, data, steps, batch_size):
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-3, weight_decay=1e-4)
    learner.train()
    for batch in torch.randperm(len(data))[: steps * batch_size].split(batch_size):
        loss = learner.loss(data["x"][batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def ours(learner, data, steps, batch_size, precision="32-true"):
    fit(learner, data, max_steps=steps, batch_size=batch_size, lr=1e-3, channels_last=True, precision=precision)


def seconds(side, *args):
    learner = make()
    start = time.perf_counter()
    side(learner, *args)
    return time.perf_counter() - start


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--steps", type=int, default=150)
    ask.add_argument("--batch-size", type=int, default=128)
    ask.add_argument("--pairs", type=int, default=5)
    ask.add_argument("--json")
    args = ask.parse_args()
    generator = torch.Generator().manual_seed(0)
    n = args.steps * args.batch_size * 20 // 19 + 1
    images = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    data = Dataset({"x": images}, modality="image")
    seconds(bare, data, 5, args.batch_size), seconds(ours, data, 5, args.batch_size)
    ratios = []
    for pair in range(args.pairs):
        sides = [(ours, "ours"), (bare, "bare")] if pair % 2 else [(bare, "bare"), (ours, "ours")]
        took = {name: seconds(side, data, args.steps, args.batch_size) for side, name in sides}
        ratios.append(took["ours"] / took["bare"])
        print(f"pair {pair + 1}: fit {took['ours']:.2f} s, bare loop {took['bare']:.2f} s, ratio {ratios[-1]:.3f}")
    found = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "target": 1.05}
    print(f"fit over the bare loop: {found['ratio']:.3f} (from {found['low']:.3f} to {found['high']:.3f}); target 1.05")
    if args.json:
        found |= {"threads": torch.get_num_threads(), "steps": args.steps}
        Path(args.json).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
