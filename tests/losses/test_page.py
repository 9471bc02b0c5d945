"""Every loss through one door, and the page of losses: its figures against closed forms, and nothing left out."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tacit import losses
from tacit.catalogue import systems

ROOT = Path(__file__).parents[2]
CATALOGUE = [entry for entry in systems() if entry.kind == "loss"]


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("losses_page", ROOT / "benchmarks/losses.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_tacit_losses_hands_on_every_loss_of_the_catalogue(entry):
    assert getattr(losses, entry.name) is entry.load()
    assert entry.name in dir(losses)


def test_a_loss_is_loaded_when_it_is_first_named():
    script = (
        "import sys; from tacit import losses; before = 'tacit.pretrain._dcl' in sys.modules; "
        "losses.DecoupledContrastiveLoss; print(before, 'tacit.pretrain._dcl' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_what_is_no_loss_is_an_attribute_error():
    with pytest.raises(AttributeError, match="DCL"):
        losses.DCL  # noqa: B018


def test_values_and_gradients_are_those_of_the_closed_forms(page):
    n, dim = page.FEW, page.DIM
    pairs, logits = page.pairs(n, dim), page.logits(n, dim)
    seen, temperature = losses.InfoNCE(), losses.InfoNCE().temperature
    perfect = math.log1p((n - 1) * math.exp(-1 / temperature))
    assert page.behaviour(seen, pairs["perfect"])[0] == pytest.approx(perfect, abs=1e-5)
    assert page.behaviour(seen, pairs["alike"]) == pytest.approx((math.log(n), 0), abs=1e-4)
    assert page.behaviour(losses.NTXent(), pairs["alike"]) == pytest.approx((math.log(2 * n - 1), 0), abs=1e-4)
    cross_entropy = losses.CompSumLoss()
    alike = math.sqrt((1 - 1 / dim) ** 2 + (dim - 1) / dim**2)
    assert page.behaviour(cross_entropy, logits["alike"]) == pytest.approx((math.log(dim), alike), rel=1e-5)
    wrong = page.SURE + math.log1p(math.exp(-page.SURE) * (dim - 1))
    assert page.behaviour(cross_entropy, logits["opposite"])[0] == pytest.approx(wrong, rel=1e-5)


def test_inputs_are_what_the_page_says(page):
    pairs = page.pairs(page.FEW, page.DIM)
    first, second = pairs["perfect"]
    torch.testing.assert_close(first @ second.T, torch.eye(page.FEW), atol=1e-5, rtol=0)
    torch.testing.assert_close((pairs["opposite"][0] * pairs["opposite"][1]).sum(1), -torch.ones(page.FEW))
    right, y = page.logits(page.FEW, page.DIM)["perfect"]
    wrong, _ = page.logits(page.FEW, page.DIM)["opposite"]
    assert torch.equal(right.argmax(1), y)
    assert not (wrong.argmax(1) == y).any()


def test_the_range_of_nt_xent_is_found(page, monkeypatch):
    """Two items are furthest apart where they point in opposite directions: log(1 + 2 exp(-2 / t))."""
    monkeypatch.setattr(page, "STEPS", 300)
    inputs = tuple(rows[:2] for rows in page.pairs(2, 8)["random"])
    lowest = math.log1p(2 * math.exp(-2 / 0.5))
    assert float(page.reach(losses.NTXent(), inputs, 1).split(",")[0]) == pytest.approx(lowest, rel=0.05)


@pytest.mark.parametrize("name", ["InfoNCE", "NTXent", "KoLeoLoss", *(entry.name for entry in CATALOGUE)])
def test_the_page_has_every_loss_with_formula_cost_and_reference_check(page, name):
    """`python benchmarks/losses.py cost` and then `page` write what is missing."""
    written = (ROOT / "docs/losses.md").read_text()
    assert f"\n## {name}\n" in written
    assert name in json.loads((ROOT / "benchmarks/losses.json").read_text())["losses"]
    documented = page.documentation(getattr(losses, name))
    assert documented[-1].startswith("    "), f"{name}: the docstring has no block with the equation"
    assert documented[-1] in written
    assert page.checks(name), f"{name}: no test names it"
