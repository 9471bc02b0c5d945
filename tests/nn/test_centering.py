import math

import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.nn import Centering, DINOHead, _centering, rising


def test_the_centre_is_the_moving_mean_of_the_batches():
    torch.manual_seed(0)
    centering, expected = Centering(3, momentum=0.9), torch.zeros(3)
    for size in (4, 7, 2):
        logits = torch.randn(size, 3) + 2
        centering.push(logits)
        expected = 0.9 * expected + 0.1 * sum(logits) / size  # eq. 4
    torch.testing.assert_close(centering.center, expected)


def test_distributions_against_the_equation():
    torch.manual_seed(0)
    centering, logits = Centering(4), torch.randn(3, 4)
    centering.push(torch.randn(5, 4))
    found = centering(logits, 0.5)
    for row, p in zip(logits.tolist(), found.tolist(), strict=True):
        weights = [math.exp((z - c) / 0.5) for z, c in zip(row, centering.center.tolist(), strict=True)]
        assert p == pytest.approx([w / sum(weights) for w in weights], rel=1e-5)


def test_a_teacher_that_answers_alike_is_centred_to_the_uniform_distribution():
    """The limit: logits that do not depend on the item say nothing once the centre has caught up."""
    centering, logits = Centering(5, momentum=0.5), torch.randn(5).expand(8, 5)
    for _ in range(40):
        centering.push(logits)
    torch.testing.assert_close(centering(logits, 0.04), torch.full((8, 5), 0.2), atol=1e-4, rtol=0)


def test_processes_with_unequal_batches_take_the_mean_of_all_rows(monkeypatch):
    here, there = torch.randn(2, 3), torch.randn(6, 3)
    theirs = torch.cat([there.sum(0), torch.tensor([6.0])])[None]
    monkeypatch.setattr(_centering, "gather", lambda mine: torch.cat([mine, theirs]))
    centering = Centering(3, momentum=0.0)
    centering.push(here)
    torch.testing.assert_close(centering.center, torch.cat([here, there]).mean(0))


def test_an_empty_batch_leaves_the_centre():
    centering = Centering(2)
    centering.push(torch.ones(3, 2))
    before = centering.center.clone()
    centering.push(torch.zeros(0, 2))
    torch.testing.assert_close(centering.center, before)


def test_the_loss_that_read_the_centre_still_runs_backward():
    centering, logits = Centering(3), torch.randn(4, 3, requires_grad=True)
    loss = centering(logits, 1.0)[:, 0].sum()
    centering.push(logits)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_a_setting_rises_on_a_line_and_stays():
    assert rising(0.15, 0.04, 0.07, 0.3) == pytest.approx(0.055)
    assert [rising(progress, 0.04, 0.07, 0.0) for progress in (0.0, 0.5)] == [0.07, 0.07]
    assert rising(1.0, 0.04, 0.07, 1.0) == 0.07


def test_the_head_is_the_cosine_of_its_bottleneck_to_the_prototypes():
    torch.manual_seed(0)
    head, x = DINOHead(6, 5, hidden_dim=7, bottleneck_dim=4), torch.randn(3, 6)
    first, _, second, _, third = head.mlp
    z = third(F.gelu(second(F.gelu(first(x)))))
    expected = torch.stack([F.cosine_similarity(z, c[None]) for c in head.prototypes.weight], 1)
    torch.testing.assert_close(head(x), expected)
    torch.testing.assert_close(head(x, frozen=True), expected)


def test_frozen_prototypes_get_no_gradient_and_pass_it_on():
    head = DINOHead(6, 5, hidden_dim=7, bottleneck_dim=4)
    head(torch.randn(3, 6), frozen=True).square().sum().backward()
    assert head.prototypes.weight.grad is None
    assert all(p.grad is not None for p in head.mlp.parameters())


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match=r"momentum=1\.0"):
        Centering(3, momentum=1.0)
    with pytest.raises(ArgumentError, match="temperature=0"):
        Centering(3)(torch.randn(2, 3), 0)
    with pytest.raises(ArgumentError, match="num_layers=0"):
        DINOHead(3, 4, num_layers=0)
    with pytest.raises(ArgumentError, match=r"share=1\.5"):
        rising(0.5, 0.0, 1.0, share=1.5)
