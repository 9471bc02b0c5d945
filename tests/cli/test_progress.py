import io
import math
import subprocess
import sys

import pytest
from rich.console import Console

from tacit import progress
from tacit.progress import ProgressBar


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def bar_in_a_file():
    bar = ProgressBar(Console(file=io.StringIO(), width=80))
    return bar, lambda: bar.console.file.getvalue().splitlines()


def test_a_line_every_ten_seconds_with_speed_loss_and_time_left(clock):
    bar, lines = bar_in_a_file()
    bar.start(1000, 256, "images")
    for step in range(1, 250):
        clock.now += 1 / 8
        bar.step(step, 2.0, 1e-3, "learning")
    # 8 steps of 256 images a second; after n of them 1000 - n are left
    assert lines() == [
        f"step {n}/1,000 ({n / 10:.0f}%)  2,048 images/s  loss 2  {progress.duration((1000 - n) / 8)} left  learning"
        for n in (80, 160, 240)
    ]


def test_a_run_that_goes_on_counts_its_own_steps_only(clock):
    bar, lines = bar_in_a_file()
    bar.start(1000, 10, "images")
    for step in range(900, 1001):
        clock.now += 1
        bar.step(step, 1.0, 1e-3)
    assert all("10 images/s" in line for line in lines())


def test_speed_follows_the_last_half_minute(clock):
    bar, lines = bar_in_a_file()
    bar.start(10_000, 1, "images")
    step = 0
    for pause, steps in ((8, 100), (1 / 8, 8 * 60)):
        for _ in range(steps):
            step += 1
            clock.now += pause
            bar.step(step, 1.0, 1e-3)
    assert "  0.1 images/s" in lines()[49]
    assert "  8.0 images/s" in lines()[-1]


def test_the_loss_is_the_exponential_mean_without_bias(clock):
    losses = [5 - math.sqrt(step) for step in range(1, 30)]
    smoothed = progress._Smoothed()
    for loss in losses:
        smoothed.add(loss)
    weights = [0.98 ** (len(losses) - 1 - position) for position in range(len(losses))]
    mean = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert smoothed.sum / smoothed.weight == pytest.approx(mean, rel=1e-12)


def test_a_change_of_health_is_said_at_once_and_once(clock):
    bar, lines = bar_in_a_file()
    bar.start(1000, 256, "images")
    bar.look({"word": "learning", "reason": "too early to tell more"})
    bar.step(1, 2.0, 1e-3, "learning")
    collapse = {"word": "collapsing", "reason": "effective rank fell from 40.0 to 1.2"}
    bar.look(collapse)
    bar.look(collapse)
    assert lines() == ["step 1: collapsing, effective rank fell from 40.0 to 1.2"]


def test_a_method_in_closed_form_counts_items_in_passes(clock):
    bar, lines = bar_in_a_file()
    for _ in range(2):
        for done in range(100, 4001, 100):
            clock.now += 1
            bar.items(done, 4000)
    bar.end("closed form", "there is no loss to watch")
    assert lines()[0].startswith("item 1,100/4,000 (28%)  100 items/s  29 s left")
    assert lines()[-1] == "4,000 of 4,000 items in 39 s: closed form, there is no loss to watch"


def test_a_live_bar_is_taken_away_after_an_error():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    bar = ProgressBar(console)
    bar.start(100, 1, "images")
    bar.step(1, 1.0, 1e-3, "learning")
    assert progress._open == [bar]
    progress.close()
    progress.close()
    assert progress._open == []
    written = console.file.getvalue()
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_progress_does_not_import_torch():
    assert (
        subprocess.run(
            [sys.executable, "-c", "import sys, tacit.progress; sys.exit('torch' in sys.modules)"]
        ).returncode
        == 0
    )
