"""One battery over every registered system. A failure names the system and the rule it breaks."""

import copy
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from selection import ROOT, chosen

from tacit.building import build, constructor_arguments
from tacit.data import Dataset
from tacit.errors import TacitError
from tacit.learner import Learner
from tacit.training import Callback, fit

ENTRIES = chosen()
LEARNERS = [entry for entry in ENTRIES if entry.kind == "learner"]
LOSSES = [entry for entry in ENTRIES if entry.kind == "loss"]
SIZE = 16


def each(entries):
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: f"{entry.id}-{entry.name}")


def images(n=24, size=SIZE, channels=3):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


def made(entry, size=SIZE, channels=3):
    return build(entry.id, {"image_size": size, "channels": channels}, "tiny", arguments=tiny(entry))


def tiny(entry):
    """Sizes that a second on one thread affords, for the arguments that set them."""
    small = {
        "hidden_dim": 32,
        "embed_dim": 16,
        "queue_size": 32,
        "n_clusters": 8,
        "n_components": 2,
        "decoder_dim": 32,
        "decoder_heads": 2,
    }
    return {name: value for name, value in small.items() if name in constructor_arguments(entry.load())}


def has_steps(learner):
    return bool(list(learner.batches(Dataset({"x": images()}), 8, torch.Generator())))


@each(ENTRIES)
def test_it_names_its_paper_and_says_what_it_is(entry):
    assert re.match(r"arXiv:\d{4}\.\d{4,5}$|doi:10\.|.+\d{4}", entry.paper), f"{entry.id}: paper={entry.paper!r}"
    assert entry.summary, f"{entry.id}: {entry.name} has no docstring"
    assert ">>>" in (entry.load().__doc__ or ""), f"{entry.id}: the docstring of {entry.name} has no example that runs"


@each(ENTRIES)
def test_it_has_a_claim_or_a_checked_property(entry):
    functions = vars(importlib.import_module(entry.module)).values()
    wanted = "checked" if entry.level in ("baseline", "entry") else "claim"
    marked = [function for function in functions if hasattr(function, wanted)]
    assert marked, f"{entry.id}: {entry.source.name} has no @{wanted}"
    for function in marked:
        if wanted == "checked":
            measured, expected = function()
            close = abs(measured - expected) <= function.checked.tolerance
            assert close, f"{entry.id}: {function.checked.says}: {measured}, expected {expected}"


@each(ENTRIES)
def test_it_has_a_test_of_its_own(entry):
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if "common" not in path.parts]
    named = any(re.search(rf"\b{entry.name}\b", path.read_text()) for path in tests)
    assert named, f"{entry.id}: no test names {entry.name}"


@each(LEARNERS)
def test_its_settings_are_words_that_fit_or_the_constructor_knows(entry):
    kind = entry.load()
    known = {*inspect.signature(fit).parameters, *constructor_arguments(kind), "model", "layer"}
    for preset, values in kind.settings.items():
        unknown = set(values) - known
        assert not unknown, f"{entry.id}: settings[{preset!r}]: neither fit nor the constructor takes {unknown}"


@each(LEARNERS)
def test_the_loss_of_one_batch_falls(entry):
    learner = made(entry)
    if not has_steps(learner) or not learner.loss_falls:
        return
    data = Dataset({"x": images()}, modality="image")
    learner.before_fit(data)
    optimizer = torch.optim.AdamW(learner.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        torch.manual_seed(0)
        loss = learner.loss(**{name: data[name][:16] for name in learner.columns})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.isfinite(torch.tensor(losses))), f"{entry.id}: the loss is not finite: {losses}"
    assert losses[-1] < losses[0], f"{entry.id}: the loss of one batch rose from {losses[0]} to {losses[-1]}"


@each(LEARNERS)
def test_every_parameter_learns_and_nothing_else_moves(entry):
    learner = made(entry)
    if not has_steps(learner):
        return
    data = Dataset({"x": images()}, modality="image")
    learner.before_fit(data)
    fixed = {name: p.clone() for name, p in learner.named_parameters() if not p.requires_grad}
    touched = set()

    def update(loss, *modules):
        parts = [p for module in (modules or (learner,)) for p in module.parameters() if p.requires_grad]
        for p, g in zip(parts, torch.autograd.grad(loss, parts, allow_unused=True), strict=True):
            if g is not None:
                touched.update(name for name, q in learner.named_parameters() if q is p and g.abs().max() > 0)
                p.data -= 1e-3 * g

    for step in range(2):
        learner.step(update, **{name: data[name][8 * step : 8 * step + 8] for name in learner.columns})
    moved = [name for name, p in learner.named_parameters() if name in fixed and not torch.equal(p, fixed[name])]
    assert not moved, f"{entry.id}: {moved} moved outside after_step, without asking for a gradient"
    silent = {name for name, p in learner.named_parameters() if p.requires_grad} - touched
    said = set(learner.no_gradient)
    assert silent == said, f"{entry.id}: no gradient reaches {silent}; no_gradient says {said}"


@each(LEARNERS)
def test_ten_steps_and_ten_more_are_twenty(entry, tmp_path):
    class Stop(Callback):
        def step(self, step, loss, lr, health):
            if step == 10:
                raise KeyboardInterrupt

    settings = {"max_steps": 20, "batch_size": 8, "checkpoint_every": 5, "seed": 1}
    whole, killed = made(entry), made(entry)
    resumed = copy.deepcopy(killed)
    fit(whole, Dataset({"x": images()}, modality="image"), **settings)
    if has_steps(killed):
        with pytest.raises(KeyboardInterrupt):
            fit(killed, images(), out=tmp_path, callbacks=[Stop()], **settings)
    fit(resumed, images(), out=tmp_path, **settings)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), f"{entry.id}: {name} differs after a kill"


@each(LEARNERS)
def test_it_runs_under_bfloat16_and_keeps_float32_parameters(entry):
    learner = fit(made(entry), images(), max_steps=2, batch_size=8, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in learner.parameters()), f"{entry.id}: a parameter is no longer float32"
    assert all(torch.isfinite(p).all() for p in learner.parameters()), f"{entry.id}: not finite under bfloat16"


@each(LEARNERS)
@pytest.mark.parametrize(("n", "size", "channels"), [(2, 16, 3), (7, 16, 1), (5, 20, 3)], ids=["two", "grey", "odd"])
def test_it_takes_its_smallest_batch_and_odd_sizes(entry, n, size, channels):
    learner = fit(made(entry, size, channels), images(n, size, channels), max_steps=2, batch_size=n)
    vectors = learner.encoder(learner.encoder.prepare(images(n, size, channels)))
    assert vectors.shape == (n, learner.encoder.dim), f"{entry.id}: the encoder gives {tuple(vectors.shape)}"
    assert torch.isfinite(vectors).all(), f"{entry.id}: vectors are not finite at n={n}, size={size}"


@each(LEARNERS)
def test_its_encoder_is_rebuilt_from_the_config(entry, tmp_path):
    from tacit.runs import load

    learner = fit(made(entry), images(), max_steps=1, batch_size=8, out=tmp_path)
    again = load(tmp_path).encoder
    learner.eval()
    x = learner.encoder.prepare(images())
    torch.testing.assert_close(again(again.prepare(images())), learner.encoder(x), msg=f"{entry.id}: another encoder")


@each(LEARNERS)
def test_bad_input_is_an_error_that_names_it(entry):
    learner = made(entry)
    with pytest.raises(TacitError):
        fit(learner, {"y": torch.zeros(8)}, max_steps=1, batch_size=4)
    if "encoder" in constructor_arguments(type(learner)) and isinstance(learner, Learner):
        with pytest.raises(TacitError):
            learner.encoder(torch.zeros(2, 5, SIZE, SIZE))


@each(LOSSES)
def test_a_loss_is_smooth_symmetric_in_the_items_and_finite_at_extremes(entry):
    loss = entry.load()()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 4, generator=generator, dtype=torch.double, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(loss, (a, b)), f"{entry.id}: the gradient is not that of the value"
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(loss(a[order], b[order]), loss(a, b), msg=f"{entry.id}: the order of items matters")
    for extreme in (torch.zeros(5, 4), torch.full((5, 4), 1e6), torch.ones(5, 4)):
        assert torch.isfinite(loss(extreme, extreme)), f"{entry.id}: not finite at {extreme[0, 0]}"
