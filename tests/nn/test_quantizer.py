"""The Gumbel quantiser against its equation, its distribution and the entropy written out."""

import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import GumbelQuantizer, diversity_loss, perplexity


def test_what_is_picked_is_one_entry_of_each_codebook_side_by_side():
    quantizer = GumbelQuantizer(5, n_codes=4, n_groups=2, dim=6)
    found = quantizer(torch.randn(3, 7, 5))
    for i in range(3):
        for j in range(7):
            expected = torch.cat([quantizer.codebooks[g, found.codes[i, j, g]] for g in range(2)])
            torch.testing.assert_close(found.vectors[i, j], expected)
    torch.testing.assert_close(found.probabilities.sum(-1), torch.ones(3, 7, 2))


def test_in_training_entries_are_picked_as_often_as_their_softmax_says():
    """The argmax of logits + Gumbel noise is a draw from their softmax, whatever the temperature."""
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(3, n_codes=3, n_groups=1)
    with torch.no_grad():
        quantizer.logits.weight.mul_(0.5)
    x = torch.randn(1, 3).expand(20_000, 3)
    for progress in (0.0, 1.0):
        found = quantizer(x, progress)
        often = torch.bincount(found.codes.flatten(), minlength=3) / len(x)
        torch.testing.assert_close(often, found.probabilities[0, 0], atol=0.015, rtol=0)


def test_in_eval_mode_it_is_the_likeliest_and_nothing_is_drawn():
    quantizer, x = GumbelQuantizer(4, n_codes=4).eval(), torch.randn(9, 4)
    a, b = quantizer(x), quantizer(x)
    torch.testing.assert_close(a.vectors, b.vectors)
    torch.testing.assert_close(a.codes, a.probabilities.argmax(-1))


def test_the_gradient_is_that_of_the_soft_choice_at_the_temperature():
    torch.manual_seed(3)
    quantizer = GumbelQuantizer(3, n_codes=4, n_groups=1, temperature=(2.0, 0.5))
    x = torch.randn(1, 3)
    torch.manual_seed(5)
    quantizer(x, 0.5).vectors.sum().backward()
    found = quantizer.logits.weight.grad.clone()
    torch.manual_seed(5)
    noise = -torch.empty(1, 1, 4).exponential_().log()
    logits = quantizer.logits(x).view(1, 1, 4)
    soft = ((logits + noise) / 1.0).softmax(-1)  # tau half way from 2 to 0.5 on a line in its logarithm
    (expected,) = torch.autograd.grad((soft @ quantizer.codebooks[0]).sum(), quantizer.logits.weight)
    torch.testing.assert_close(found, expected)


def test_perplexity_is_the_exponential_of_the_entropy():
    probabilities = torch.rand(6, 2, 5).softmax(-1)
    for group in range(2):
        mean = [sum(probabilities[i, group, v].item() for i in range(6)) / 6 for v in range(5)]
        assert perplexity(probabilities)[group].item() == pytest.approx(math.exp(-sum(p * math.log(p) for p in mean)))
    expected = 1 - perplexity(probabilities).sum().item() / 10
    assert diversity_loss(probabilities).item() == pytest.approx(expected)


def test_a_collapsed_codebook_costs_most_and_its_gradient_is_finite():
    logits = torch.zeros(4, 1, 8)
    logits[..., 0] = 60.0
    logits.requires_grad_()
    loss = diversity_loss(logits.softmax(-1))
    assert loss.item() == pytest.approx(1 - 1 / 8, abs=1e-4)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_descending_the_diversity_loss_spreads_the_use():
    torch.manual_seed(0)
    quantizer, x = GumbelQuantizer(4, n_codes=6, n_groups=1), 3 + 0.3 * torch.randn(64, 4)
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.05)
    before = perplexity(quantizer(x).probabilities).item()
    for _ in range(60):
        optimizer.zero_grad()
        diversity_loss(quantizer(x).probabilities).backward()
        optimizer.step()
    assert perplexity(quantizer(x).probabilities).item() > max(before + 1, 5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="n_groups=2"):
        GumbelQuantizer(5, n_groups=2)
    with pytest.raises(ArgumentError, match="n_codes=1"):
        GumbelQuantizer(4, n_codes=1)
