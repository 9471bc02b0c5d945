import math

import pytest
import torch
from shapes import Contrastive

from tacit.data import Dataset
from tacit.health import SHARE, Monitor, judge, look_steps


def looks(losses, ranks=None, stability=0.95):
    ranks = ranks or [20.0] * len(losses)
    return [
        {"step": i, "epoch": i, "loss": loss, "effective_rank": rank, "neighbour_stability": stability}
        for i, (loss, rank) in enumerate(zip(losses, ranks, strict=True))
    ]


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (looks([]), "learning"),
        (looks([5.0, 4.0, 3.5, 3.2, 3.0]), "learning"),
        (looks([5.0, 4.0, 3.5, 3.2, 3.0], [20, 15, 10, 1.4, 1.3]), "collapsing"),
        (looks([5.0, 4.0, 3.5], [30, 2.9, 2.8]), "collapsing"),
        (looks([5.0, 4.0, 3.5, 3.4], [20, 15, 1.4, 9]), "learning"),
        (looks([5, 4, 3, 2, 1.5, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), "flat"),
        (looks([5, 4, 3, 2, 1.5, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], stability=0.3), "learning"),
        (looks([5.0, 4.0, 3.0, 2.5, 2.4, 2.3, 2.2, 9.0, 9.5]), "unstable"),
    ],
    ids=[
        "nothing yet",
        "falling",
        "rank under 1.5 twice",
        "rank under a tenth",
        "once is chance",
        "flat",
        "moving",
        "risen",
    ],
)
def test_the_word_for_planted_runs(found, word):
    assert judge(found).word == word


def test_a_held_out_loss_goes_before_the_training_loss():
    found = [line | {"held_out_loss": 9.0 - 5.0 / (line["step"] + 1)} for line in looks([5, 4, 3, 2, 1, 0.5])]
    assert judge(found).reason == "the loss on held-out items has not fallen yet: 4 at first, 8.17 now"


def test_the_reason_says_what_the_loss_did():
    assert judge(looks([5.0, 4.0, 3.0])).reason == "the loss fell from 5 to 3"
    assert judge(looks([5.0, 5.5, 5.2])).reason == "the loss has not fallen yet: 5 at first, 5.2 now"


@pytest.mark.parametrize(("total", "batch_size", "n"), [(60, 16, 91), (511, 256, 10_000), (100_000, 256, 10**6)])
def test_looks_keep_to_their_share_of_forward_passes(total, batch_size, n):
    steps, items = look_steps(total, batch_size, n)
    spent = 5 * items * (len(steps) - 1)
    smallest = 5 * min(n, 64) * 2  # two looks at 64 items are had in any case
    assert spent <= max(SHARE * 6 * total * batch_size, smallest)
    assert steps[0] == 0
    assert steps[-1] == total


def test_a_look_measures_what_the_equations_say_and_moves_nothing():
    torch.manual_seed(0)
    learner, x = Contrastive(), torch.randn(200, 8, 8)
    monitor = Monitor(learner, Dataset({"x": x}), None, total=50, batch_size=50, seed=3)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    monitor.note_loss(2.0)
    monitor.note_loss(4.0)
    found = monitor.look(0, 0.0)
    assert found["loss"] == 3.0
    shown = monitor._items["x"][:]
    values = torch.linalg.svdvals(learner.encoder(shown)).detach()
    p = values / values.sum()
    assert found["effective_rank"] == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert learner.training
    assert monitor.look(1, 0.1)["neighbour_stability"] == 1.0
