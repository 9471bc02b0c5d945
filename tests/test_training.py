import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from shapes import SHAPES, Bilevel, ClosedForm, Contrastive, Episodes, MemoryBank, TwoPlayers, small_encoder
from torch import nn

from tacit.checkpoints import newest_checkpoint
from tacit.errors import ArgumentError, RunError, TrainingError
from tacit.learner import Learner
from tacit.training import Callback, fit, mix


def digest(learner):
    state = sorted(learner.state_dict().items())
    return hashlib.sha256(b"".join(name.encode() + value.numpy().tobytes() for name, value in state)).hexdigest()


def made(kind):
    torch.manual_seed(5)
    return kind()


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Killed(BaseException):
    pass


class KillAt(Callback):
    def __init__(self, step):
        self.at = step

    def step(self, step, loss, lr, health):
        if step == self.at:
            raise Killed


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_every_shape_of_method_goes_on_bit_for_bit(kind, digits, tmp_path):
    settings = {"epochs": 3, "batch_size": 128, "checkpoint_every": 4}
    whole = fit(made(kind), digits, **settings)
    if kind is not ClosedForm:  # which has no step to be killed at
        with pytest.raises(Killed):
            fit(made(kind), digits, out=tmp_path / "run", callbacks=[KillAt(19)], **settings)
    resumed = fit(made(kind), digits, out=tmp_path / "run", **settings)
    assert digest(resumed) == digest(whole)
    finished = fit(made(kind), digits, out=tmp_path / "run", **settings)
    assert digest(finished) == digest(whole)


def test_resume_does_not_start_over(digits, tmp_path):
    seen = []

    class Count(Callback):
        def step(self, step, loss, lr, health):
            seen.append(step)

    settings = {"epochs": 3, "batch_size": 128, "checkpoint_every": 4, "out": tmp_path}
    with pytest.raises(Killed):
        fit(made(Contrastive), digits, callbacks=[KillAt(19)], **settings)
    fit(made(Contrastive), digits, callbacks=[Count()], **settings)
    assert seen[0] > 12
    steps = [line["step"] for line in lines(tmp_path) if "lr" in line]
    assert steps == list(range(1, 3 * ((1797 - 89) // 128) + 1))


def test_plain_loop_gives_the_same_weights(digits):
    """fit is the loop that a user would write: AdamW, cosine with warm-up, seeded order."""
    learner, total, size = made(Bilevel).weights, 20, 256

    class Supervised(Learner):
        def __init__(self):
            super().__init__()
            self.net = learner

        def loss(self, x, y):
            return nn.functional.cross_entropy(self.net(x.flatten(1)), y)

    plain = made(Bilevel).weights
    fit(Supervised(), digits, max_steps=total, batch_size=size, lr=0.01, weight_decay=0.1, warmup=0.25, seed=7)
    optimizer = torch.optim.AdamW(
        [{"params": [plain.weight], "weight_decay": 0.1}, {"params": [plain.bias], "weight_decay": 0}]
    )
    step = 0
    for epoch in range(3):
        generator = torch.Generator().manual_seed(mix(7, "order", epoch))
        for rows in torch.randperm(1797, generator=generator)[: 1797 // size * size].split(size):
            if step == total:
                break
            rate = 0.01 * (step + 1) / 5 if step < 5 else 0.01 * (1 + math.cos(math.pi * (step - 5) / 15)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(digits["x"][rows].flatten(1)), digits["y"][rows]).backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(learner.weight, plain.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(learner.bias, plain.bias, rtol=0, atol=1e-6)


def test_accumulated_gradient_is_that_of_the_whole_batch(digits):
    class Mean(Learner):
        def __init__(self):
            super().__init__()
            self.net = made(Bilevel).weights

        def loss(self, x):
            return self.net(x.flatten(1)).square().mean()

    one, four = Mean(), Mean()
    fit(one, digits, max_steps=5, batch_size=64, optimizer="sgd", lr=0.1)
    fit(four, digits, max_steps=5, batch_size=64, optimizer="sgd", lr=0.1, accumulate=4)
    torch.testing.assert_close(one.net.weight, four.net.weight, rtol=1e-5, atol=1e-6)


def test_each_part_moves_by_its_own_settings(digits):
    still = made(TwoPlayers)
    before = still.critic[0].weight.clone()
    fit(
        still,
        digits,
        max_steps=3,
        batch_size=64,
        optimizer="sgd",
        lr=0.1,
        weight_decay=0.0,
        parts={"critic": {"lr": 1e-12}},
    )
    torch.testing.assert_close(still.critic[0].weight, before, atol=1e-9, rtol=0)
    assert not torch.equal(still.generator.weight, made(TwoPlayers).generator.weight)


def test_betas_are_adamws_and_each_part_may_have_its_own(digits):
    """The first step of Adam has length lr whatever the betas; the second one tells them apart."""
    learner, plain = made(TwoPlayers), made(TwoPlayers)
    words = {"lr": 0.01, "weight_decay": 0.1, "schedule": "constant", "warmup": 0.0, "betas": (0.5, 0.99)}
    fit(learner, digits, max_steps=3, batch_size=64, seed=7, parts={"critic": {"betas": (0.2, 0.9)}}, **words)
    adams = {
        name: torch.optim.AdamW(
            [{"params": [p], "weight_decay": 0.1 * (p.ndim > 1)} for p in getattr(plain, name).parameters()],
            0.01,
            betas,
        )
        for name, betas in (("critic", (0.2, 0.9)), ("generator", (0.5, 0.99)))
    }

    def update(loss, module):
        adam = adams["critic" if module is plain.critic else "generator"]
        adam.zero_grad()
        loss.backward()
        adam.step()

    order = torch.randperm(1797, generator=torch.Generator().manual_seed(mix(7, "order", 0)))
    for step in range(3):
        torch.manual_seed(mix(7, "step", step))
        plain.step(update, digits["x"][order[64 * step : 64 * step + 64]])
    for name, value in plain.named_parameters():
        torch.testing.assert_close(learner.get_parameter(name), value, rtol=0, atol=1e-6)
    for wrong in ((0.5,), (0.5, 1.0), (-0.1, 0.9)):
        with pytest.raises(ArgumentError, match="betas"):
            fit(learner, digits, max_steps=1, betas=wrong)


def test_a_run_from_before_there_were_betas_goes_on(digits, tmp_path):
    settings = {"epochs": 2, "batch_size": 128, "checkpoint_every": 4, "out": tmp_path}
    with pytest.raises(Killed):
        fit(made(Contrastive), digits, callbacks=[KillAt(10)], **settings)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["training"]["betas"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"training.betas: None in the run, \[0.5, 0.999\] now"):
        fit(made(Contrastive), digits, betas=(0.5, 0.999), **settings)
    resumed = fit(made(Contrastive), digits, **settings)
    whole = fit(made(Contrastive), digits, epochs=2, batch_size=128)
    assert digest(resumed) == digest(whole)


def test_the_callers_random_state_is_kept(digits):
    learner = made(Contrastive)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    fit(learner, digits, max_steps=2, batch_size=64)
    assert torch.equal(torch.rand(1), expected)


def test_bfloat16_keeps_parameters_in_float32(digits):
    learner = fit(made(Contrastive), digits, max_steps=5, batch_size=64, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in learner.parameters())
    other = fit(made(Contrastive), digits, max_steps=5, batch_size=64)
    assert digest(learner) != digest(other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs=0: expected a whole number of at least 1"),
        ({"epochs": 1, "max_steps": 1}, r"epochs, max_steps=\(1, 1\): expected one of the two"),
        ({}, "expected one of the two"),
        ({"epochs": 1, "lr": -1.0}, "lr=-1.0: expected a number above 0"),
        ({"epochs": 1, "lr": math.nan}, "lr=nan: expected a number above 0"),
        ({"epochs": 1, "batch_size": 5000}, "batch_size=5000: expected at most the 1797 items"),
        ({"epochs": 1, "batch_size": 0}, "batch_size=0"),
        ({"epochs": 1, "optimizer": "adamm"}, "did you mean 'adamw'"),
        ({"epochs": 1, "accumulate": 3}, "accumulate=3: expected a divisor of batch_size=256"),
        ({"epochs": 1, "precision": "16"}, "precision='16': expected one of"),
        ({"epochs": 1, "checkpoint_every": "often"}, "checkpoint_every='often'"),
        ({"epochs": 1, "devices": 0}, "devices=0"),
    ],
)
def test_wrong_settings_are_named(settings, message, digits):
    with pytest.raises(ArgumentError, match=message):
        fit(made(Contrastive), digits, **settings)


def test_missing_column_is_named(digits):
    with pytest.raises(ArgumentError, match=r"Episodes needs the columns y; the data has index, x"):
        fit(made(Episodes), digits["x"], epochs=1)


def test_a_stream_is_refused_with_the_reason():
    with pytest.raises(ArgumentError, match="a stream has no length and so no epoch"):
        fit(made(Contrastive), iter([torch.zeros(2, 64)]), epochs=1)


def test_a_module_of_someone_else_is_refused(digits):
    class Stranger(Contrastive):
        def step(self, update, x):
            update(self.loss(x), nn.Linear(1, 1))

    with pytest.raises(ArgumentError, match="expected a module of Stranger"):
        fit(made(Stranger), digits, max_steps=1)


def test_the_learner_gets_only_the_columns_it_names(digits):
    class Peeking(Contrastive):
        def before_fit(self, data):
            self.seen = data.names

    assert fit(made(Peeking), digits, max_steps=1).seen == ("index", "x")


def test_nan_loss_stops_with_step_checkpoint_and_remedies(digits, tmp_path):
    class Exploding(Contrastive):
        def loss(self, x):
            return super().loss(x) * (math.nan if self.progress >= 0.5 else 1)

    with pytest.raises(
        TrainingError, match=r"loss is nan at step 6 of 10; the last good checkpoint is at step [45].*lower lr"
    ):
        fit(made(Exploding), digits, max_steps=10, batch_size=64, out=tmp_path, checkpoint_every=2)


def test_collapse_is_said_and_the_last_healthy_checkpoint_kept(digits, tmp_path):
    class Collapsing(Contrastive):
        def loss(self, x):
            z = self.encoder(x)
            return (z - z.detach().mean(0) * 0).square().mean() if self.progress > 0.3 else super().loss(x)

        def after_step(self, progress):
            if progress > 0.3:
                self.encoder[3].weight *= 0.5 ** (progress * 10)
                self.encoder[3].bias += 1

    words = []

    class Listen(Callback):
        def look(self, measures):
            words.append(measures["word"])

    learner = fit(made(Collapsing), digits, max_steps=400, batch_size=256, lr=0.01, out=tmp_path, callbacks=[Listen()])
    assert words[0] == "learning"
    assert words[-1] == "collapsing"
    end = lines(tmp_path)[-1]
    assert end["event"] == "end"
    assert end["kept"] < 400
    healthy = newest_checkpoint(tmp_path, at_most=end["kept"])
    assert all(torch.equal(value, healthy.learner[name]) for name, value in learner.state_dict().items())


def test_other_settings_on_a_run_are_listed(digits, tmp_path):
    fit(made(Contrastive), digits, max_steps=2, batch_size=64, out=tmp_path)
    with pytest.raises(RunError, match=r"training.lr: 0.001 in the run, 0.5 now"):
        fit(made(Contrastive), digits, max_steps=2, batch_size=64, lr=0.5, out=tmp_path)
    fit(made(Contrastive), digits, max_steps=2, batch_size=64, lr=0.5, out=tmp_path, overwrite=True)
    (aside,) = tmp_path.parent.glob(f"{tmp_path.name}.before-*")
    assert (aside / "model.safetensors").exists()


def test_other_data_on_a_run_is_refused(digits, tmp_path):
    fit(made(Contrastive), digits, max_steps=1, batch_size=64, out=tmp_path)
    with pytest.raises(RunError, match=r"data.fingerprint"):
        fit(made(Contrastive), digits["x"] + 1, max_steps=1, batch_size=64, out=tmp_path)


def test_two_runs_into_one_folder_at_once(digits, tmp_path):
    class Second(Callback):
        def step(self, step, loss, lr, health):
            with pytest.raises(RunError, match=f"process {os.getpid()} is writing to this folder"):
                fit(made(Contrastive), digits, max_steps=3, batch_size=64, out=tmp_path)

    fit(made(Contrastive), digits, max_steps=2, batch_size=64, out=tmp_path, callbacks=[Second()])


def test_a_folder_of_other_things_is_left_alone(digits, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"thesis.tex lies in it"):
        fit(made(Contrastive), digits, max_steps=1, out=tmp_path)


def test_a_newer_format_is_refused(digits, tmp_path):
    fit(made(ClosedForm), digits, epochs=1, out=tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(RunError, match="its format is 99"):
        fit(made(ClosedForm), digits, epochs=1, out=tmp_path)


def test_a_full_disk_leaves_nothing_half_written(digits, tmp_path, monkeypatch):
    import tacit.checkpoints

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tacit.checkpoints, "save_file", full)
    with pytest.raises(RunError, match="the disk is full"):
        fit(made(Contrastive), digits, max_steps=4, batch_size=64, out=tmp_path, checkpoint_every=2)
    assert not (tmp_path / "model.safetensors").exists()
    assert newest_checkpoint(tmp_path) is None
    monkeypatch.undo()
    fit(made(Contrastive), digits, max_steps=4, batch_size=64, out=tmp_path, checkpoint_every=2)
    assert (tmp_path / "model.safetensors").exists()


def test_an_unwritable_folder_is_said_in_a_line(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        fit(made(Contrastive), digits, max_steps=1, out=tmp_path / "file" / "run")


def test_threads_are_the_runs_own(digits, tmp_path):
    torch.set_num_threads(2)
    try:
        with pytest.raises(Killed):
            fit(made(Contrastive), digits, max_steps=9, batch_size=64, out=tmp_path, callbacks=[KillAt(5)])
    finally:
        torch.set_num_threads(1)
    seen = []

    class Look(Callback):
        def step(self, step, loss, lr, health):
            seen.append(torch.get_num_threads())

    fit(made(Contrastive), digits, max_steps=9, batch_size=64, out=tmp_path, callbacks=[Look()])
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from shapes import MemoryBank
from tacit.training import Callback, fit
from sklearn.datasets import load_digits

class Report(Callback):
    def step(self, step, loss, lr, health):
        print(step, flush=True)
        {pause}

torch.manual_seed(5)
x = torch.tensor(load_digits().images, dtype=torch.float32) / 16
fit(MemoryBank(), x, max_steps=60, batch_size=64, out={out!r}, checkpoint_every=5, callbacks=[Report()])
"""


def run_script(out, pause=""):
    script = textwrap.dedent(SCRIPT).format(tests=os.path.dirname(__file__), out=str(out), pause=pause)  # noqa: PTH120
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_kill_minus_nine_at_random_moments(tmp_path):
    assert run_script(tmp_path / "whole").wait() == 0
    chance, later = random.Random(0), 0
    for _ in range(5):
        process = run_script(tmp_path / "killed", pause="import time; time.sleep(0.02)")
        first = int(process.stdout.readline())
        later += first > 1
        time.sleep(chance.uniform(0.05, 0.3))
        process.kill()
        process.communicate()
    assert later >= 3
    assert run_script(tmp_path / "killed").wait() == 0
    models = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "killed")]
    assert models[0] == models[1]


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint(tmp_path):
    process = run_script(tmp_path, pause="import time; time.sleep(0.05)")
    while int(process.stdout.readline()) < 13:
        pass
    process.send_signal(signal.SIGTERM)
    last = [13, *map(int, process.communicate()[0].split())][-1]
    assert process.returncode != 0
    assert newest_checkpoint(tmp_path).step == last


def test_held_out_loss_is_had_where_the_loss_needs_no_item_numbers(digits, tmp_path):
    fit(made(Contrastive), digits, max_steps=20, batch_size=64, out=tmp_path / "plain")
    fit(made(MemoryBank), digits, max_steps=20, batch_size=64, out=tmp_path / "bank")
    plain = [line for line in lines(tmp_path / "plain") if line.get("look")]
    bank = [line for line in lines(tmp_path / "bank") if line.get("look")]
    assert all("held_out_loss" in line for line in plain)
    assert not any("held_out_loss" in line for line in bank)
    assert all(1 <= line["effective_rank"] <= 16 for line in plain + bank)


def test_looking_changes_no_weight(digits, monkeypatch):
    import tacit.health

    looked = fit(made(Contrastive), digits, max_steps=20, batch_size=64)
    monkeypatch.setattr(tacit.health.Monitor, "look", lambda self, step, epoch: {})
    assert digest(fit(made(Contrastive), digits, max_steps=20, batch_size=64)) == digest(looked)


def test_small_encoder_has_dim():
    assert small_encoder()(torch.zeros(1, 8, 8)).shape == (1, small_encoder().dim)


def test_accumulation_of_a_batch_that_does_not_divide_evenly():
    """A learner's own batches may hold 5 items: three parts for accumulate=4, and the step is taken all the same."""

    class Odd(Learner):
        system_id = "odd"

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

        def batches(self, data, batch_size, generator):
            return [torch.arange(5)]

        def loss(self, x):
            return (x @ self.weight - 1).square().mean()

    x = torch.eye(2).repeat(4, 1)
    words = {"max_steps": 3, "batch_size": 8, "optimizer": "sgd", "lr": 0.1}
    moved = fit(Odd(), {"x": x}, accumulate=4, **words).weight
    assert moved.abs().min() > 0.01
