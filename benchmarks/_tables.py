"""What the tables of methods share: steps that are timed, processes, lines of results, pages, and auto.json."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import torch

from tacit.building import build, closed_form, constructor_arguments, wanted_columns
from tacit.catalogue import find
from tacit.nn import encoder as make_encoder
from tacit.training import Callback, fit

HERE = Path(__file__).parent
STEPS, AUTO = HERE / "steps.json", HERE.parent / "src/tacit/auto.json"
FIXED = ("pixels", "untrained", "raw", "bm25")
"""Rows of tables that no command trains."""

# Learners -------------------------------------------------------------------------------------------------------------


def learns_without_labels(kind):
    """Whether it asks for no y, neither in its loss nor, drawing its own batches, beside it; nor for a trained part."""
    return "y" not in wanted_columns(kind) and not {"teacher", "classifier"} & set(constructor_arguments(kind))


def is_closed(method):
    return method not in FIXED and closed_form(find(method).load())


def learner_of(made, seed, described):
    """A recipe's learner, its weights drawn by the seed."""
    encoder = None
    if made.encoder is not None:
        torch.manual_seed(seed)
        encoder = make_encoder(**made.encoder)
    return build(made.method, described, encoder=encoder, arguments=made.arguments, seed=seed)


# Time -----------------------------------------------------------------------------------------------------------------

TIMED = 14
"""Steps that are timed, of which the first four warm up."""


def time_of(learner, items, training, *callbacks):
    """Seconds of a step, the median, with its share of what is done once an epoch; and of what comes before the first.

    Nothing else may run.
    """
    times, spent = [], {"before_fit": 0.0, "before_epoch": 0.0}

    class Clock(Callback):
        def step(self, step, loss, lr, health):
            times.append(time.perf_counter())

    def watched(name):
        does = getattr(learner, name)

        def do(data):
            began = time.perf_counter()
            does(data)
            spent[name] = time.perf_counter() - began

        return do

    for name in spent:
        setattr(learner, name, watched(name))
    fit(learner, items, max_steps=TIMED, callbacks=[Clock(), *callbacks], **training)
    a_step = float(np.median(np.diff(times[4:]))) + spent["before_epoch"] * training.get("batch_size", 256) / len(items)
    return {"seconds": a_step, "start": spent["before_fit"]}


def timed(table):
    """Method -> what was found of its steps."""
    every = json.loads(STEPS.read_text()) if STEPS.exists() else {}
    return every.get(table, {}).get("methods", {})


def keep_time(table, method, found):
    every = json.loads(STEPS.read_text()) if STEPS.exists() else {}
    kept = every.setdefault(table, {})
    kept |= {"threads": torch.get_num_threads(), "date": date.today().isoformat()}
    kept["methods"] = kept.get("methods", {}) | {method: found}
    STEPS.write_text(json.dumps(every, indent=1) + "\n")


def steps_in(minutes, table, method):
    """How many steps fit, beside what a method does before the first.

    Raises:
        RuntimeError: the method was not timed, or has no time left for a step.
    """
    if method not in timed(table):
        raise RuntimeError(f"{method} was not timed on {table}: call this file with `time` first")
    found = timed(table)[method]
    steps = int((minutes * 60 - found.get("start", 0)) / found["seconds"])
    if steps < 1:
        raise RuntimeError(f"{minutes} minutes leave {method} no step on {table}: give it more")
    return steps


# Runs -----------------------------------------------------------------------------------------------------------------


def answer_of(script, *words, threads=None):
    """The line that a script, called in a process of its own, ends with.

    Raises:
        RuntimeError: it failed; the end of what it said.
    """
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    command = [sys.executable, str(script), *(str(word) for word in words)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(ended.stderr[-2000:])
    return ended.stdout.splitlines()[-1]


def run_all(wanted, answer, results, jobs):
    """Answer each that is wanted and keep the line; what fails is told, and stops no other. The number of failures."""

    def one(job):
        try:
            line = answer(*job)
        except RuntimeError as error:
            print(f"{' '.join(str(word) for word in job)} failed:\n{error}", flush=True)
            return 1
        with results.open("a") as file:
            file.write(line + "\n")
        told = {name: f"{value:.3f}" for name, value in json.loads(line).items() if isinstance(value, float)}
        print(*job, *(f"{name} {value}" for name, value in told.items()), flush=True)
        return 0

    with ThreadPoolExecutor(jobs) as pool:
        return sum(pool.map(one, wanted))


def read_lines(results):
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


# Pages ----------------------------------------------------------------------------------------------------------------


def ranked(lines, by, keys):
    """Methods by their mean rank over the scores `by`, the best first, with the means of `keys` over their seeds."""
    by_method = defaultdict(list)
    for line in lines:
        by_method[line["method"]].append(line)
    means = {
        method: {key: statistics.mean(line[key] for line in lines if key in line) for key in keys if key in lines[0]}
        | {"lines": lines, "steps": lines[0]["steps"], "batch_size": lines[0]["batch_size"]}
        for method, lines in by_method.items()
    }
    for key in by:
        for place, method in enumerate(sorted(means, key=lambda m: -means[m][key]), 1):
            means[method]["rank"] = means[method].get("rank", 0) + place / len(by)
    return dict(sorted(means.items(), key=lambda pair: pair[1]["rank"]))


def spread(lines, key):
    """Mean in per cent, and the standard deviation over the seeds that have it."""
    values = [100 * line[key] for line in lines if key in line]
    mean = statistics.mean(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {statistics.stdev(values):.1f}"


def number(value, digits):
    return "" if value is None else f"{value:,.{digits}f}"


def length_of(method, line):
    """How long a method learned, in words."""
    if line["batch_size"] is not None:
        return f"{line['steps']:,} x {line['batch_size']}"
    return "none" if method in FIXED else "closed form"


def write_section(page, name, titles, rows, remark=""):
    """A table in place of the one between the page's markers of that name."""
    lines = [list(titles), ["---"] * len(titles), *rows]
    body = "\n".join("| " + " | ".join(cells) + " |" for cells in lines) if rows else "Not measured yet."
    body += f"\n\n{remark}" if remark else ""
    start, end = f"<!-- table {name} -->", f"<!-- end of table {name} -->"
    text = page.read_text()
    page.write_text(text[: text.index(start)] + f"{start}\n\n{body}\n\n" + text[text.index(end) :])


def write_auto(kind, made, rows, compare, path=AUTO):
    """What `--method auto` and `tacit compare` take for one kind of data; what it says of the others is kept.

    Args:
        kind: such as image.
        made: what the rows were made by, and when.
        rows: device, method, reason (and minutes_up_to, n_from where they hold within a bound only), best first.
        compare: the methods that `tacit compare` takes.
    """
    said = json.loads(path.read_text())
    others = [row for row in said["rows"] if row["modality"] != kind]
    new = {
        "made": dict(sorted((said["made"] | {kind: made}).items())),
        "compare": dict(sorted((said["compare"] | {kind: compare}).items())),
        "rows": sorted([*others, *({"modality": kind, **row} for row in rows)], key=lambda row: row["modality"]),
    }
    path.write_text(json.dumps(new, indent=1) + "\n")
