"""Every image method and baseline on 10,000 CIFAR-10 images, in the steps that 5 quiet minutes allow.

    python benchmarks/images.py time                     # alone on the machine: seconds a step -> benchmarks/steps.json
    python benchmarks/images.py run                      # each method with seed 0; goes on where it stopped
    python benchmarks/images.py run --best 4 --seeds 3   # the best four with three seeds
    python benchmarks/images.py table                    # -> docs/images.md and src/tacit/auto.json

TACIT_DATA names the folder that holds cifar10_jpeg. The seed draws the 10,000 training images; all 10,000 test images
are scored, once. Steps are counted, so a busy machine changes how long a run takes and not what comes out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from datetime import date
from pathlib import Path

import numpy as np
import torch

from tacit.building import build, constructor_arguments, wanted_columns
from tacit.catalogue import systems
from tacit.cli._machine import keep_freed_memory
from tacit.data import Dataset, named
from tacit.embedding import embed
from tacit.evaluate import effective_rank, knn_accuracy, linear_probe
from tacit.nn import encoder as make_encoder
from tacit.recipes import Machine, recipe
from tacit.training import Callback, fit

HERE = Path(__file__).parent
STEPS, RESULTS = HERE / "steps.json", HERE / "images.jsonl"
MINUTES, N, SIZE = 5, 10_000, 32
DESCRIPTION = {"modality": "image", "n": N, "image_size": SIZE, "channels": 3}
FIXED = ("pixels", "untrained")
CLOSED = ("pca", "patch-kmeans")


def methods():
    learners = [e for e in systems() if e.kind == "learner" and "image" in e.modality and e.id not in CLOSED]
    trained = [e.id for e in learners if learns_without_labels(e.load())]
    return [*FIXED, *CLOSED, *dict.fromkeys(trained)]


def learns_without_labels(kind):
    """Whether it asks for no y, neither in its loss nor, drawing its own batches, beside it."""
    return "y" not in wanted_columns(kind) and not {"teacher", "classifier"} & set(constructor_arguments(kind))


def prepared(method, arguments=None):
    return recipe(method, DESCRIPTION, Machine.here("cpu"), arguments=arguments)


def learner_of(made, seed):
    encoder = None
    if made.encoder is not None:
        torch.manual_seed(seed)
        encoder = make_encoder(**made.encoder)
    return build(made.method, DESCRIPTION, encoder=encoder, arguments=made.arguments, seed=seed)


def images(split, seed):
    return named("cifar10", split, n=N, seed=seed)


def time_steps():
    """Median step time of each trained method on this machine; nothing else may run meanwhile."""
    x, _ = images("train", 0)
    found = {"threads": torch.get_num_threads(), "date": date.today().isoformat(), "seconds": {}}
    for method in methods():
        if method in FIXED + CLOSED:
            continue
        made, times = prepared(method), []

        class Clock(Callback):
            def step(self, step, loss, lr, health, times=times):
                times.append(time.perf_counter())

        fit(
            learner_of(made, 0), Dataset({"x": x}, modality="image"), max_steps=14, callbacks=[Clock()], **made.training
        )
        found["seconds"][method] = statistics.median(np.diff(times[4:]))
        print(f"{method:14} {found['seconds'][method]:.4f} s a step", flush=True)
    STEPS.write_text(json.dumps(found, indent=1) + "\n")


def run_one(method, seed, work):
    x, y = images("train", seed)
    test_x, test_y = images("test", 0)
    data = Dataset({"x": x}, modality="image")
    steps = None
    if method == "pixels":
        vectors = [torch.from_numpy(part).flatten(1).float() / 255 for part in (x, test_x)]
        made = None
    else:
        made = prepared("simclr" if method == "untrained" else method)
        learner = learner_of(made, seed)
        if method not in FIXED:
            steps = max(1, int(MINUTES * 60 / json.loads(STEPS.read_text())["seconds"].get(method, 1e9)))
            fit(learner, data, max_steps=steps, seed=seed, out=work / f"{method}-{seed}", **made.training)
        learner.encoder.eval()
        vectors = [torch.from_numpy(embed(learner.encoder, {"x": part})) for part in (x, test_x)]
    knn, linear = (score(vectors[0], y, vectors[1], test_y) for score in (knn_accuracy, linear_probe))
    return {
        "method": method,
        "seed": seed,
        "steps": steps if method not in CLOSED else None,
        "batch_size": made.training.get("batch_size") if made and steps else None,
        "knn": knn.value,
        "linear": linear.value,
        "effective_rank": float(effective_rank(vectors[1][:2000])),
        "dim": vectors[0].shape[1],
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
    }


def results():
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def run(names, seeds, work):
    done = {(line["method"], line["seed"]) for line in results()}
    for seed in seeds:
        for method in names:
            if (method, seed) in done:
                continue
            found = run_one(method, seed, work)
            with RESULTS.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(f"{method:14} seed {seed}: k-NN {found['knn']:.3f}, linear {found['linear']:.3f}", flush=True)


def ranked():
    """Methods by mean rank over k-NN and linear probe, with the means of their seeds."""
    by_method = defaultdict(list)
    for line in results():
        by_method[line["method"]].append(line)
    means = {
        method: {
            key: statistics.mean(line[key] for line in lines) for key in ("knn", "linear", "effective_rank", "dim")
        }
        | {"seeds": len(lines), "steps": lines[0]["steps"], "batch_size": lines[0]["batch_size"], "lines": lines}
        for method, lines in by_method.items()
    }
    for key in ("knn", "linear"):
        for place, method in enumerate(sorted(means, key=lambda m: -means[m][key]), 1):
            means[method]["rank"] = means[method].get("rank", 0) + place / 2
    return dict(sorted(means.items(), key=lambda pair: pair[1]["rank"]))


def spread(lines, key):
    values = [100 * line[key] for line in lines]
    mean = statistics.mean(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {statistics.stdev(values):.1f}"


def table():
    found, timed = ranked(), json.loads(STEPS.read_text())
    rows = [
        "| method | k-NN % | linear % | mean rank | seeds | steps x batch | s/step | dim | effective rank |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method, line in found.items():
        length = (
            f"{line['steps']:,} x {line['batch_size']}"
            if line["batch_size"]
            else "closed form"
            if method in CLOSED
            else "none"
        )
        each = f"{timed['seconds'][method]:.3f}" if method in timed["seconds"] else ""
        rows.append(
            f"| {method} | {spread(line['lines'], 'knn')} | {spread(line['lines'], 'linear')} | {line['rank']:.1f} | "
            f"{line['seeds']} | {length} | {each} | {line['dim']:.0f} | {line['effective_rank']:.0f} |"
        )
    text = (HERE.parent / "docs/images.md").read_text()
    start, end = text.index("<!-- table -->"), text.index("<!-- end of table -->")
    (HERE.parent / "docs/images.md").write_text(
        text[:start] + "<!-- table -->\n\n" + "\n".join(rows) + "\n\n" + text[end:]
    )
    print("\n".join(rows))
    write_auto(found)


def write_auto(found):
    """What `--method auto` takes: the best by mean rank over k-NN and linear probe, of what a command can train."""
    best = next(method for method in found if method not in FIXED)
    scores = f"k-NN {100 * found[best]['knn']:.0f} %, linear {100 * found[best]['linear']:.0f} %"
    measured = f"best of {len(found)} in docs/images.md ({scores} on CIFAR-10 in {MINUTES} minutes of a 2-core CPU)"
    rows = [
        {"modality": "points", "device": "any", "method": "pca", "reason": "rows of numbers: whitened PCA"},
        {"modality": "image", "device": "cpu", "method": best, "reason": measured},
        {"modality": "image", "device": "gpu", "method": "simclr", "reason": "not measured on a GPU yet"},
    ]
    said = {"made": f"benchmarks/images.py table, {date.today()}", "measured": True}
    said |= {"compare": {"image": [method for method in found if method not in FIXED][:4]}, "rows": rows}
    (HERE.parent / "src/tacit/auto.json").write_text(json.dumps(said, indent=1) + "\n")


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("do", choices=("time", "run", "table"))
    ask.add_argument("--methods", help="comma-separated; all if left out")
    ask.add_argument("--best", type=int, help="only this many of the best so far")
    ask.add_argument("--seeds", type=int, default=1)
    ask.add_argument("--jobs", type=int, default=1, help="runs at once, with one thread each")
    ask.add_argument("--work", type=Path, default=Path("runs/images"), help="folder for checkpoints")
    args = ask.parse_args()
    keep_freed_memory()  # as the command line does
    if args.do == "time":
        time_steps()
    elif args.do == "table":
        table()
    else:
        names = args.methods.split(",") if args.methods else list(ranked())[: args.best] if args.best else methods()
        if args.jobs == 1:
            run(names, range(args.seeds), args.work)
            return
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        shares = [names[i :: args.jobs] for i in range(args.jobs)]
        same = ["--seeds", str(args.seeds), "--work", str(args.work)]
        children = [
            subprocess.Popen([sys.executable, __file__, "run", "--methods", ",".join(s), *same], env=environment)
            for s in shares
            if s
        ]
        sys.exit(max(child.wait() for child in children))


if __name__ == "__main__":
    main()
