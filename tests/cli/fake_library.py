"""Stands in for tacit.learning and tacit.runs, so that the command line is tested alone and without torch.

`install()` puts both into sys.modules. What `plan` and `carry_out` do follows the name of the data.
"""

import errno
import sys
import time
import types
from collections import namedtuple
from pathlib import Path

from tacit.errors import RunError, TrainingError
from tacit.progress import ProgressBar

Hit = namedtuple("Hit", "item uri score text", defaults=[""])
Group = namedtuple("Group", "items uris similarity exact")
CALLS = []


class Plan:
    def __init__(self, settings):
        self.settings = settings
        self.state = "finished" if settings.data == "finished" else "new"

    def lines(self):
        return [f"{self.settings.data}: 4,000 pictures of 64 pixels [all read]", "simclr on a resnet8, 1,200 steps"]

    def as_dict(self):
        if self.state == "finished":
            return {"state": self.state}
        training = {"batch_size": self.settings.batch_size or 256, "lr": 0.002, "clip": 1.0, "precision": "32-true"}
        plan = {"method": "simclr", "arguments": self.settings.arguments, "encoder": {"name": "resnet8", "width": 48}}
        return {"state": self.state, **plan, "training": training, "steps": 1200}


class Run:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.summary = {"health": {"word": "learning", "effective_rank": 41.25}, "stability": float("nan")}

    def numbers(self):
        return ["health: learning, effective rank 41.3 of 64", "neighbours agree 2.1 times as often", "12 clusters"]

    def next_commands(self):
        return [f"tacit search {self.folder} photo.jpg"]

    def search(self, query, k):
        CALLS.append(("search", query, k))
        if query == "cats at night":
            return [
                Hit(number, f"{'notes/' * number}{number}.txt", 0.5, "the cat\nsleeps " * 20) for number in range(k)
            ]
        return [Hit(number, f"photos/{'long name ' * 12}{number}.jpg", 0.9 - number / 100) for number in range(k)]

    def duplicates(self):
        return [Group([1, 2], ["a.jpg", "b \udce9.jpg"], 1.0, True), Group([3, 4], ["c.jpg", "d.jpg"], 0.987, False)]

    def report(self, thumbnails=True):
        CALLS.append(("report", thumbnails))
        return self.folder / "report.html"

    def export(self, to="onnx", path=None):
        CALLS.append(("export", to, path))
        return Path(path or self.folder / f"encoder.{to}")


def plan(settings):
    CALLS.append(("plan", settings))
    if settings.data == "other-settings":
        raise RunError("out='run': holds a run with other settings:\n  lr: 0.1 there, 0.2 here")
    return Plan(settings)


def carry_out(plan, *, progress=True):
    if plan.state == "finished":  # given back as it is
        return Run(plan.settings.out)
    CALLS.append(("carry_out", progress))
    data = plan.settings.data
    print("a library that talks")
    bar = ProgressBar()
    if progress:
        bar.start(1200, 256, "images")
    if data == "nan":
        raise TrainingError("the loss is nan at step 3")
    if data == "full-disk":
        raise OSError(errno.ENOSPC, "No space left on device", "run/model.safetensors")
    if data == "bug":
        raise ZeroDivisionError("division by zero")
    if data == "interrupted":
        raise KeyboardInterrupt
    for step in range(1, 1201, 100 if data == "fast" else 20):
        if progress:
            bar.step(step, 5.0 - step / 400, 1e-3, "learning")
        time.sleep({"slow": 0.03, "slower": 1.0}.get(data, 0))
    if progress:
        bar.end("learning", "the loss fell from 5 to 2")
    return Run(plan.settings.out)


def embed_run(source, data, **options):
    CALLS.append(("embed_run", source, data, options))
    return Run(options["out"])


def load(path):
    if path == "nowhere":
        raise RunError("run='nowhere': expected a folder that tacit learn or tacit embed wrote")
    return Run(path)


def install():
    learning, runs = types.ModuleType("tacit.learning"), types.ModuleType("tacit.runs")
    learning.plan, learning.carry_out, learning.embed_run, runs.load = plan, carry_out, embed_run, load
    sys.modules["tacit.learning"], sys.modules["tacit.runs"] = learning, runs


if __name__ == "__main__":
    from tacit.cli import _app, main

    install()
    _app.get_ready = lambda threads=None: None
    sys.exit(main())
