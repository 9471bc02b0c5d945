"""Every image method and baseline on 10,000 images, in the steps that 5 quiet minutes allow.

    python benchmarks/images.py time                     # alone on the machine: seconds a step -> benchmarks/steps.json
    python benchmarks/images.py run                      # each method with seed 0; goes on where it stopped
    python benchmarks/images.py run --size 32 --best 8   # the best eight at 32 pixels (after `time --size 32`)
    python benchmarks/images.py run --data fashion_mnist --size 28 --best 8
    python benchmarks/images.py run --best 4 --seeds 3   # the best four with three seeds
    python benchmarks/images.py run --size 32 --minutes 50 --methods simclr,dcl   # as many steps as 50 minutes allow
    python benchmarks/images.py table                    # -> docs/images.md and src/tacit/auto.json

TACIT_DATA names the folder that holds cifar10_jpeg and fashion_mnist. The seed draws the 10,000 training images; all
10,000 test images are scored, once. Steps are counted, so a busy machine changes how long a run takes and not what
comes out.
"""

import argparse
import itertools
import json
import resource
import sys
from datetime import date
from pathlib import Path

import numpy as np
import torch
from _tables import (
    FIXED,
    HERE,
    TIMED,
    answer_of,
    is_closed,
    keep_time,
    learner_of,
    learns_without_labels,
    length_of,
    number,
    read_lines,
    run_all,
    spread,
    steps_in,
    time_of,
    timed,
    write_auto,
    write_section,
)
from _tables import ranked as ranked_lines

from tacit.building import build, wanted_columns
from tacit.catalogue import find, systems
from tacit.cli._machine import keep_freed_memory
from tacit.data import Dataset, named
from tacit.embedding import embed
from tacit.evaluate import effective_rank, knn_accuracy, linear_probe, view_retrieval
from tacit.learner import encoder_of
from tacit.nn import encoder as make_encoder
from tacit.recipes import Machine, recipe
from tacit.training import Callback, fit
from tacit.views import as_float, two_crops

RESULTS, PAGE = HERE / "images.jsonl", HERE.parent / "docs/images.md"
N = 10_000
RAW = ("pixels", "untrained", "pca")
"""What costs next to nothing; the best of them is to be reached."""
SETS = (("cifar10", 16, 5), ("cifar10", 32, 5), ("cifar10", 32, 50), ("fashion_mnist", 28, 5))
"""The tables of the page: data, size and minutes. The first decides what a CPU takes."""
LOOKED = (2000, 1000)
"""Training images whose labels tell how long a method takes to reach a score: to learn from, and to score."""


def methods():
    learners = [e for e in systems() if e.kind == "learner" and "image" in e.modality and e.level != "protocol"]
    return ["pixels", "untrained", *dict.fromkeys(e.id for e in learners if learns_from_images(find(e.id).load()))]


def learns_from_images(kind):
    """Whether it asks for nothing else: neither labels, nor clips, nor descriptions."""
    return learns_without_labels(kind) and not {"clip", "tokens"} & set(wanted_columns(kind))


def description(data, size):
    return {"modality": "image", "n": N, "image_size": size, "channels": 3 if data == "cifar10" else 1}


def prepared(method, data, size):
    return recipe(method, description(data, size), Machine.here("cpu"))


def images(data, size, split, seed):
    x, y = named(data, split, n=N, seed=seed)
    return np.ascontiguousarray(as_bytes(x, size)), y


def as_bytes(x, size):
    from tacit.data import resize

    return x if x.shape[-1] == size else resize(x, size)


# time -----------------------------------------------------------------------------------------------------------------


def time_steps(names, data, size):
    """Seconds of a step, SimCLR's on the same network and batch, the ratio expected, and peak memory.

    Nothing else may run; each method has a process of its own, whose peak memory is then known.
    """
    for method in names:
        if method in FIXED or is_closed(method):
            continue
        found = json.loads(answer("time-one", method, 0, data, size))
        keep_time(f"{data}-{size}", method, found)
        print(f"{method:16} {found}", flush=True)


def time_one(method, data, size):
    x, _ = images(data, size, "train", 0)
    made = prepared(method, data, size)
    took, passes = measured(method, made, x, data, size)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    reference = None
    if made.encoder is not None:
        plain = prepared("simclr", data, size)
        same = {**plain.training, "batch_size": made.training["batch_size"]}
        reference = measured("simclr", plain, x, data, size, encoder=made.encoder, training=same)
    return {
        **took,
        "images": made.training["batch_size"] / took["seconds"],
        "ratio": took["seconds"] / reference[0]["seconds"] if reference else None,
        "expected": passes / reference[1] if reference and passes else None,
        "memory": memory,
    }


def measured(method, made, x, data, size, *, encoder=None, training=None):
    """Seconds as `time_of` gives them, and the cost of a step's passes through the encoder."""
    described = description(data, size)
    if encoder is not None:
        torch.manual_seed(0)
        learner = build(method, described, encoder=make_encoder(**encoder), arguments=made.arguments, seed=0)
    else:
        learner = learner_of(made, 0, described)
    items = Dataset({"x": x}, modality="image")
    with Passes(encoder_of(learner)) as passes:
        took = time_of(learner, items, training or made.training, passes)
    return took, (passes.costs[-1] - passes.costs[0]) / (TIMED - 1)


class Passes(Callback):
    """Counts what goes through networks of the encoder's class in training: pixels, thrice where a gradient is kept.

    A backward pass costs about two forward ones. Heads, views and losses are not in the count.
    """

    def __init__(self, encoder):
        self.kind, self.cost, self.costs = type(encoder), 0, []

    def step(self, step, loss, lr, health):
        self.costs.append(self.cost)

    def __enter__(self):
        self.hook = torch.nn.modules.module.register_module_forward_hook(self.count)
        return self

    def __exit__(self, *error):
        self.hook.remove()

    def count(self, module, inputs, output):
        if type(module) is self.kind and module.training and inputs and inputs[0].ndim == 4:
            trained = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
            self.cost += inputs[0][:, 0].numel() * (3 if trained else 1)


# run ------------------------------------------------------------------------------------------------------------------


def run_one(method, seed, data, size, minutes, work):
    (x, y), (test_x, test_y) = images(data, size, "train", seed), images(data, size, "test", 0)
    described, steps, made, looks = description(data, size), None, None, []
    if method == "pixels":
        encoder = Pixels()
    else:
        made = prepared("simclr" if method == "untrained" else method, data, size)
        learner = learner_of(made, seed, described)
        encoder = encoder_of(learner)
        if method not in FIXED:
            closed = is_closed(method)
            steps = 1 if closed else steps_in(minutes, f"{data}-{size}", method)
            watch = [] if closed else [Watch(learner, x, y, steps, looks)]
            place = work / f"{data}-{size}-{minutes}" / f"{method}-{seed}"
            learner = fit(
                learner, Dataset({"x": x}, modality="image"), max_steps=steps, seed=seed, out=place, callbacks=watch,
                **made.training,
            )  # fmt: skip
            encoder = encoder_of(learner)
    encoder.eval()
    vectors = [torch.from_numpy(embed(encoder, {"x": part})) for part in (x, test_x)]
    knn, linear = (score(vectors[0], y, vectors[1], test_y) for score in (knn_accuracy, linear_probe))
    stepped = method not in FIXED and not is_closed(method)
    return {
        "method": method, "seed": seed, "data": data, "size": size, "minutes": minutes,
        "steps": steps if stepped else None,
        "batch_size": made.training.get("batch_size") if stepped else None,
        "knn": knn.value, "linear": linear.value,
        "effective_rank": float(effective_rank(vectors[1][:2000])),
        "view_retrieval": retrieval(encoder, test_x[:1000], size, described["channels"]),
        "looks": looks or [[0, look(encoder, x, y)]],
        "dim": vectors[0].shape[1], "threads": torch.get_num_threads(), "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }  # fmt: skip


class Pixels(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1)


def look(encoder, x, y):
    """k-NN accuracy among training images, of which no method sees the labels."""
    first, then = (slice(0, LOOKED[0]), slice(LOOKED[0], sum(LOOKED)))
    vectors = [torch.from_numpy(embed(encoder, {"x": x[part]})) for part in (first, then)]
    return knn_accuracy(vectors[0], y[first], vectors[1], y[then]).value


class Watch(Callback):
    """Looks twelve times, oftener at the start."""

    def __init__(self, learner, x, y, steps, looks):
        self.learner, self.x, self.y, self.looks = learner, x, y, looks
        self.at = {round(steps * share) for share in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 1)}

    def step(self, step, loss, lr, health):
        if step in self.at:
            modes = {module: module.training for module in self.learner.modules()}
            self.looks.append([step, look(encoder_of(self.learner).eval(), self.x, self.y)])
            for module, mode in modes.items():
                module.training = mode


def retrieval(encoder, x, size, channels):
    torch.manual_seed(0)
    views = two_crops(size, channels=channels, scale=(0.4, 1.0))(torch.from_numpy(x))[0]
    return view_retrieval(*(embed(encoder, {"x": part}) for part in (as_float(torch.from_numpy(x), size), views))).value


def results(data, size, minutes):
    """Lines of a table; what needs no steps stands in those of all minutes."""
    of_table = (line for line in read_lines(RESULTS) if (line["data"], line["size"]) == (data, size))
    return [line for line in of_table if line["steps"] is None or line["minutes"] == minutes]


def run(names, seeds, data, size, minutes, jobs, work):
    done = {(line["method"], line["seed"]) for line in results(data, size, minutes)}
    left = [(method, seed) for seed in seeds for method in names if (method, seed) not in done]

    def one(method, seed):
        more = ("--minutes", minutes, "--work", work)
        return answer("one", method, seed, data, size, *more, threads=1 if jobs > 1 else None)

    sys.exit(min(run_all(left, one, RESULTS, jobs), 1))


def answer(what, method, seed, data, size, *more, threads=None):
    """The line that this file, called once more, ends with."""
    words = [what, "--methods", method, "--seeds", seed, "--data", data, "--size", size, *more]
    return answer_of(__file__, *words, threads=threads)


# table ----------------------------------------------------------------------------------------------------------------


def ranked(data, size, minutes):
    """Methods by mean rank over k-NN and linear probe, with the means of their seeds."""
    keys = ("knn", "linear", "effective_rank", "view_retrieval", "dim")
    return ranked_lines(results(data, size, minutes), ("knn", "linear"), keys)


TITLES = (
    *("method", "k-NN %", "linear %", "mean rank", "seeds", "steps x batch", "images/s", "step / SimCLR's", "expected"),
    *("reaches raw", "peak MB", "dim", "effective rank", "view retrieval %"),
)


def rows(data, size, minutes):
    found = ranked(data, size, minutes)
    times = timed(f"{data}-{size}")
    raw = [line for method in RAW if method in found for line in found[method]["lines"]]
    goal = max((line["looks"][-1][1] for line in raw if line.get("looks")), default=None)
    for method, line in found.items():
        each, stepped = times.get(method, {}), line["batch_size"] is not None
        yield [
            method, spread(line["lines"], "knn"), spread(line["lines"], "linear"), f"{line['rank']:.1f}",
            str(len(line["lines"])), length_of(method, line), number(each.get("images"), 0),
            number(each.get("ratio"), 2), number(each.get("expected"), 2),
            reached(line, goal, each) if stepped else "",
            number(each.get("memory"), 0), f"{line['dim']:.0f}", f"{line['effective_rank']:.0f}",
            spread(line["lines"], "view_retrieval") if "view_retrieval" in line else "",
        ]  # fmt: skip


def reached(line, goal, took):
    """Seconds from the start until k-NN among training images passed the best raw baseline's there."""
    looks = line["lines"][0].get("looks")
    if goal is None or not took or not looks:
        return ""
    step = next((step for step, knn in looks if knn >= goal), None)
    return "not" if step is None else f"{took.get('start', 0) + step * took['seconds']:.0f} s"


def table():
    for data, size, minutes in SETS:
        write_section(PAGE, f"{data}-{size}-{minutes}", TITLES, list(rows(data, size, minutes)))
    choose(*SETS[0])


def choose(data, size, minutes):
    """What `--method auto` takes, of what a command can train, by mean rank over k-NN and linear probe.

    On a CPU the best of the first table. On a GPU, which has more steps to give than any table here, the best of those
    that go on learning, by the table of most steps.
    """
    found = ranked(data, size, minutes)
    choices = [method for method in found if method not in FIXED]
    best = choices[0]
    most = max(SETS, key=lambda table: table[2])
    longest = ranked(*most)
    learned = next(method for method, line in longest.items() if line["batch_size"] is not None)
    first = next(iter(longest))
    closed = [] if first == learned else [f"{first}, which needs no steps: {scores_of(longest[first])}"]
    on_gpu = "; ".join([scores_of(longest[learned]), *closed, place_of(*most)])
    on_cpu = f"{scores_of(found[best])} {place_of(data, size, minutes)}"
    chosen = [
        {"device": "cpu", "method": best, "reason": f"best of {len(found)} in docs/images.md ({on_cpu})"},
        {
            "device": "gpu",
            "method": learned,
            "reason": f"best network of the longest table in docs/images.md ({on_gpu})",
        },
    ]
    write_auto("image", f"benchmarks/images.py table, {date.today()}", chosen, choices[:4])


def scores_of(line):
    return f"k-NN {100 * line['knn']:.0f} %, linear {100 * line['linear']:.0f} %"


def place_of(data, size, minutes):
    return f"on {data} at {size} pixels in {minutes} minutes of a 2-core CPU"


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("do", choices=("time", "time-one", "run", "one", "table"))
    ask.add_argument("--data", default="cifar10", choices=("cifar10", "fashion_mnist"))
    ask.add_argument("--size", type=int, default=16)
    ask.add_argument("--methods", help="comma-separated; all if left out")
    ask.add_argument("--best", type=int, help="only this many of the best of the first table, and what is raw")
    ask.add_argument("--seeds", type=int, default=1)
    ask.add_argument("--minutes", type=int, default=5, help="of two quiet cores, in which the steps would be done")
    ask.add_argument("--jobs", type=int, default=1, help="runs at once, with one thread each")
    ask.add_argument("--work", type=Path, default=Path("runs/images"), help="folder for checkpoints")
    args = ask.parse_args()
    keep_freed_memory()  # as the command line does
    if args.do == "table":
        return table()
    if args.do == "time-one":
        return print(json.dumps(time_one(args.methods, args.data, args.size)))
    if args.do == "one":
        one = run_one(args.methods, args.seeds, args.data, args.size, args.minutes, args.work)
        return print(json.dumps(one))
    names = args.methods.split(",") if args.methods else methods()
    if args.best:
        best = itertools.islice((m for m in ranked(*SETS[0]) if m not in RAW), args.best)
        names = [*RAW, *best]
    if args.do == "time":
        return time_steps(names, args.data, args.size)
    return run(names, range(args.seeds), args.data, args.size, args.minutes, args.jobs, args.work)


if __name__ == "__main__":
    main()
