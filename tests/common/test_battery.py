"""One battery over every registered system. A failure names the system and the rule it breaks."""

import copy
import inspect
import json
import math
import re
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from kinds import CLASSES, KINDS, ODD, RAW, kind_of
from selection import ROOT, chosen

from tacit.building import READS, build, constructor_arguments, read_columns
from tacit.catalogue import find
from tacit.claims._found import find_claims
from tacit.claims._marks import Claim, Property
from tacit.claims._run import Settings, check_property, run_claim
from tacit.data import Dataset
from tacit.errors import TacitError
from tacit.learner import encoder_of
from tacit.training import Callback, fit

ENTRIES = chosen()
LEARNERS = [entry for entry in ENTRIES if entry.kind == "learner"]
LOSSES = [entry for entry in ENTRIES if entry.kind == "loss"]
ESTIMATORS = [entry for entry in ENTRIES if entry.kind == "estimator"]
FUNCTIONS = [entry for entry in ENTRIES if entry.kind == "function"]
IDS = list(dict.fromkeys(entry.id for entry in ENTRIES))
CLAIMS = [found for id in IDS for found in find_claims(id)]


def each(entries):
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: f"{entry.id}-{entry.name}")


def made(entry, **shape):
    description = KINDS[kind_of(entry)](2, **shape)[0] | {"n_classes": CLASSES}
    return build(entry.load(), description, "tiny", arguments=tiny(entry))


def raw(entry, n=24, **shape):
    """Items as users have them, as the learner's encoder prepares them."""
    kind = kind_of(entry)
    return KINDS[kind](n, **shape)[1][RAW.get(kind, "x")]


def items(entry, learner, n=24, **shape):
    """Every column that a learner may name, with labels, as it reads them; a quarter held out. Fits its `prepare`."""
    kind, number = kind_of(entry), torch.arange(n)
    columns = read_columns(learner, KINDS[kind](n, **shape)[1])
    for name in [name for name, rows in columns.items() if isinstance(rows, list)]:
        columns[name] = encoder_of(learner).prepare(columns[name]) if name in learner.columns else number
    labels = {"y": number % min(CLASSES, n // 2), "held_out": number % 4 == 3}
    prompts = {"tokens": (number[:, None] + torch.arange(8)) % 15}
    clips = {"clip": number // 8}
    return Dataset(columns | labels | prompts | clips, modality=kind)


def first_batch(learner, data, size):
    """The columns that the learner names, of the first batch that it would be given."""
    rows = torch.as_tensor(next(iter(learner.batches(data, size, torch.Generator().manual_seed(0)))))
    return {name: data[name][rows] for name in learner.columns}


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
        "latent_dim": 8,
        "n_heads": 2,
        "n_way": 2,
        "n_queries": 1,
        "n_steps": 2,
        "inner_steps": 1,
        "n_terms": 2,
        "n_prototypes": 8,
        "n_words": 8,
        "n_negatives": 4,
        "local_crops": 1,
        "decoder_layers": 1,
        "vocab_size": 256,
        "max_length": 16,
        "n_codes": 8,
        "n_distractors": 4,
        "mask_length": 3,
        "n_mels": 20,
    }
    return {name: value for name, value in small.items() if name in constructor_arguments(entry.load())}


def has_steps(learner, data):
    return bool(list(learner.batches(data, 8, torch.Generator())))


@each(ENTRIES)
def test_it_names_its_paper_and_says_what_it_is(entry):
    assert re.match(r"arXiv:\d{4}\.\d{4,5}$|doi:10\.|.+\d{4}", entry.paper), f"{entry.id}: paper={entry.paper!r}"
    assert entry.summary, f"{entry.id}: {entry.name} has no docstring"
    assert ">>>" in (entry.load().__doc__ or ""), f"{entry.id}: the docstring of {entry.name} has no example that runs"


@pytest.mark.parametrize("id", IDS)
def test_it_has_a_claim_or_a_checked_property(id):
    entry = find(id)
    marks = [found.mark for found in find_claims(id)]
    wanted = Property if entry.level in ("baseline", "entry") else Claim
    assert any(isinstance(mark, wanted) for mark in marks), (
        f"{id}: {entry.source.name} has no @{wanted.__name__.lower()}"
    )


@pytest.mark.parametrize("found", CLAIMS, ids=lambda found: found.id)
def test_its_claim_runs_at_smoke_and_its_property_is_true(found):
    if isinstance(found.mark, Property):
        check_property(found)
        return
    record = run_claim(found, Settings("smoke"), evidence=None)
    json.dumps(asdict(record), allow_nan=True)
    assert all(math.isfinite(effect) for effect in record.effects), f"{found.id}: effects {record.effects}"
    assert record.setting, f"{found.id}: the record does not say on what it was run: setting="


@each(ENTRIES)
def test_it_has_a_test_of_its_own(entry):
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if "common" not in path.parts]
    named = any(re.search(rf"\b{entry.name}\b", path.read_text()) for path in tests)
    assert named, f"{entry.id}: no test names {entry.name}"


@each(LEARNERS)
def test_its_settings_are_words_that_fit_or_the_constructor_knows(entry):
    kind = entry.load()
    known = {*inspect.signature(fit).parameters, *constructor_arguments(kind), "model", *READS}
    for preset, values in kind.settings.items():
        unknown = set(values) - known
        assert not unknown, f"{entry.id}: settings[{preset!r}]: neither fit nor the constructor takes {unknown}"


@each(LEARNERS)
def test_the_loss_of_one_batch_falls(entry):
    learner = made(entry)
    data = items(entry, learner)
    if not has_steps(learner, data) or not learner.loss_falls:
        return
    learner.before_fit(data)
    learner.before_epoch(data)
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], 3e-3)
    batch, losses = first_batch(learner, data, 16), []
    for _ in range(30):
        torch.manual_seed(0)
        loss = learner.loss(**batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.isfinite(torch.tensor(losses))), f"{entry.id}: the loss is not finite: {losses}"
    assert losses[-1] < losses[0], f"{entry.id}: the loss of one batch rose from {losses[0]} to {losses[-1]}"


@each(LEARNERS)
def test_every_parameter_learns_and_nothing_else_moves(entry):
    learner = made(entry)
    data = items(entry, learner)
    if not has_steps(learner, data):
        return
    learner.before_fit(data)
    learner.before_epoch(data)
    fixed = {name: p.clone() for name, p in learner.named_parameters() if not p.requires_grad}
    touched = set()

    def update(loss, *modules):
        parts = [p for module in (modules or (learner,)) for p in module.parameters() if p.requires_grad]
        for p, g in zip(parts, torch.autograd.grad(loss, parts, allow_unused=True), strict=True):
            if g is not None:
                touched.update(name for name, q in learner.named_parameters() if q is p and g.abs().max() > 0)
                p.data -= 1e-3 * g

    batches = list(learner.batches(data, 8, torch.Generator().manual_seed(0)))
    for rows in (batches * 2)[:2]:
        learner.step(update, **{name: data[name][torch.as_tensor(rows)] for name in learner.columns})
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
    fit(whole, items(entry, whole), **settings)
    if has_steps(killed, data := items(entry, killed)):
        with pytest.raises(KeyboardInterrupt):
            fit(killed, data, out=tmp_path, callbacks=[Stop()], **settings)
    fit(resumed, items(entry, resumed), out=tmp_path, **settings)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), f"{entry.id}: {name} differs after a kill"


@each(LEARNERS)
def test_it_runs_under_bfloat16_and_keeps_float32_parameters(entry):
    learner = made(entry)
    fit(learner, items(entry, learner), max_steps=2, batch_size=8, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in learner.parameters()), f"{entry.id}: a parameter is no longer float32"
    assert all(torch.isfinite(p).all() for p in learner.parameters()), f"{entry.id}: not finite under bfloat16"


@each(LEARNERS)
@pytest.mark.parametrize(("n", "shape"), [(2, "two"), (7, "grey"), (5, "odd")], ids=["two", "grey", "odd"])
def test_it_takes_its_smallest_batch_and_odd_sizes(entry, n, shape):
    words = ODD[kind_of(entry)].get(shape, {})
    learner = made(entry, **words)
    n = max(n, learner.smallest_batch)
    fit(learner, items(entry, learner, n, **words), max_steps=2, batch_size=n)
    encoder = encoder_of(learner)
    vectors = encoder(encoder.prepare(raw(entry, n, **words)))
    assert vectors.shape == (n, encoder.dim), f"{entry.id}: the encoder gives {tuple(vectors.shape)}"
    assert torch.isfinite(vectors).all(), f"{entry.id}: vectors are not finite at n={n}, {words}"


@each(LEARNERS)
def test_its_encoder_is_rebuilt_from_the_config(entry, tmp_path):
    from tacit.publishing import write_folder
    from tacit.runs import load, load_encoder

    learner = made(entry)
    fit(learner, items(entry, learner), max_steps=1, batch_size=8, out=tmp_path / "run")
    encoder = encoder_of(learner).eval()
    x = encoder.prepare(raw(entry))
    found = [load(tmp_path / "run").encoder]
    if hasattr(encoder, "config"):
        found.append(load_encoder(write_folder(encoder, tmp_path / "exported", {})))
    for again in found:
        torch.testing.assert_close(again(again.prepare(raw(entry))), encoder(x), msg=f"{entry.id}: another encoder")


@each(LEARNERS)
def test_bad_input_is_an_error_that_names_it(entry):
    learner = made(entry)
    with pytest.raises(TacitError):
        fit(learner, {"z": torch.zeros(8)}, max_steps=1, batch_size=4)
    neither = torch.zeros(2, 5, 16, 16)  # no image, no text, no sound...
    if "encoder" in constructor_arguments(type(learner)):
        with pytest.raises(TacitError):
            learner.encoder(neither if kind_of(entry) == "image" else learner.encoder.prepare(neither))


@each(LOSSES)
def test_a_loss_is_smooth_symmetric_in_the_items_and_finite_at_extremes(entry):
    loss = entry.load()()
    reads_labels = bool({"y", "labels"} & set(inspect.signature(loss.forward).parameters))
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 4, generator=generator, dtype=torch.double, requires_grad=True) for _ in range(2))
    b = torch.tensor([0, 1, 0, 3, 1]) if reads_labels else b
    assert torch.autograd.gradcheck(loss, (a, b)), f"{entry.id}: the gradient is not that of the value"
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(loss(a[order], b[order]), loss(a, b), msg=f"{entry.id}: the order of items matters")
    for extreme in (torch.zeros(5, 4), torch.full((5, 4), 1e6), torch.ones(5, 4), 1e4 * torch.eye(5, 4)):
        value = loss(extreme, b if reads_labels else extreme)
        assert torch.isfinite(value), f"{entry.id}: {value} at {extreme[0]}"


@each(ESTIMATORS)
def test_an_estimator_passes_check_estimator(entry):
    from sklearn.utils.estimator_checks import check_estimator

    kind = entry.load()
    settings = kind.settings.get("small", {}) if hasattr(kind, "settings") else {}
    taken = inspect.signature(kind).parameters
    small = {"max_steps": 5} | {name: value for name, value in settings.items() if name in taken}
    estimator = kind(**{name: value for name, value in small.items() if name in taken})
    check_estimator(estimator, expected_failed_checks=dict(getattr(kind, "expected_failed_checks", {})))


@each(FUNCTIONS)
def test_a_function_says_what_it_takes_and_gives(entry):
    function = entry.load()
    if isinstance(function, type):  # around a trained model, with the verb of its area
        assert hasattr(function, "sample") or hasattr(function, "restore"), f"{entry.id}: neither sample nor restore"
        function = function.__init__
    hints = function.__annotations__
    names = inspect.signature(function).parameters
    named = [name for name in names if not name.startswith("_") and name != "self"]
    untyped = [name for name in named if name not in hints]
    assert not untyped, f"{entry.id}: {entry.name} does not say the types of {untyped}"
    assert "return" in hints, f"{entry.id}: {entry.name} does not say what it returns"
