import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from tacit.data import Dataset
from tacit.errors import ArgumentError, RunError
from tacit.nn import Classifier
from tacit.robust import rich_feature_construction
from tacit.robust._bonsai_rfc import Discovery, Synthesis, VREx, answers_of, balanced_weights
from tacit.training import Callback, fit


class Net(nn.Module):
    """Points of 2 numbers -> 16."""

    dim = 16

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, self.dim), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def two_features(n=2000, seed=0):
    """The label agrees with the sign of a strong feature in 90 % of the items, with that of a weak one in 75 %."""
    drawn = np.random.default_rng(seed)
    y = drawn.integers(0, 2, n)
    strong, weak = (np.where(drawn.random(n) < share, y, 1 - y) for share in (0.9, 0.75))
    size = drawn.uniform(0.5, 1.5, (n, 2))
    x = (np.stack([strong, weak], 1) * 2 - 1) * size * [3, 1]
    return {"x": torch.tensor(x, dtype=torch.float32), "y": torch.tensor(y)}, strong, weak


OPTIONS = {"batch_size": 2000, "lr": 1e-2, "warmup": 0.0, "weight_decay": 0.0, "max_steps": 60}


# the stages, each against its equation -------------------------------------------------------------------------------


def slow_worst_group(logits, y, right):
    losses = [-float(row.log_softmax(0)[label]) for row, label in zip(logits, y, strict=True)]
    groups = [[i for i in range(len(y)) if bool(r[i]) is answer] for r in right for answer in (True, False)]
    means = [sum(losses[i] for i in group) / len(group) for group in groups or [range(len(y))] if len(group)]
    return max(means)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_discovery_is_the_mean_loss_of_the_worst_group(rounds):
    x, y, items = torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 1]), torch.tensor([7, 1, 3, 4, 9, 0])
    right = torch.rand(rounds, 10) < 0.5
    right[:1, :] = True  # nothing is wrong: a group without items
    learner = Discovery(Classifier(Net(), 3), right)
    logits = learner.classifier(x).detach()
    assert learner.loss(x, y, items).item() == pytest.approx(slow_worst_group(logits, y, right[:, items]), rel=1e-5)


def test_synthesis_is_the_weighted_cross_entropy_of_all_heads():
    x, items = torch.randn(4, 2), torch.tensor([5, 0, 2, 3])
    answers, weights = torch.randint(0, 3, (2, 6)), torch.rand(6)
    learner = Synthesis(Classifier(Net(), 6), answers, weights)
    logits = learner.classifier(x).detach()
    expected = 0.0
    for b, item in enumerate(items):
        for k in range(2):
            head = logits[b, 3 * k : 3 * k + 3]
            expected -= float(weights[item] * head.log_softmax(0)[answers[k, item]]) / 2 / 4
    assert learner.loss(x, items).item() == pytest.approx(expected, rel=1e-5)
    mean = (logits[:, :3] + logits[:, 3:]) / 2
    torch.testing.assert_close(learner.mean_head()(x), mean)


def test_weights_give_half_to_items_on_which_the_rounds_are_alike():
    """The expectation of the authors' sampling: half of the draws from either side, evenly within."""
    right = torch.rand(3, 500) < 0.7
    alike = np.array([len(set(column.tolist())) == 1 for column in right.T])
    expected = np.where(alike, 0.5 / alike.sum(), 0.5 / (~alike).sum())
    np.testing.assert_allclose(balanced_weights(right) / 500, expected, rtol=1e-5)
    assert balanced_weights(right[:1]).tolist() == [1.0] * 500


def test_vrex_is_the_risks_and_their_variance():
    x, y, domain = torch.randn(7, 2), torch.tensor([0, 1, 1, 0, 1, 0, 0]), torch.tensor([0, 1, 2, 0, 1, 1, 0])
    for penalty in (0.5, 1e3):
        learner = VREx(Classifier(Net(), 2), penalty=penalty, n_domains=3)
        losses = F.cross_entropy(learner.classifier(x), y, reduction="none").detach().numpy()
        risks = [losses[domain.numpy() == e].mean() for e in range(3)]
        expected = (sum(risks) + penalty * np.var(risks, ddof=1)) / max(penalty, 1)
        assert learner.loss(x, y, domain).item() == pytest.approx(expected, rel=1e-4)


# the whole ------------------------------------------------------------------------------------------------------------


def test_each_round_finds_another_feature_and_the_encoder_holds_both():
    """A net of least risk follows the strong feature; the second round has to use the weak one."""
    data, strong, weak = two_features()
    items = Dataset(data)
    first = Discovery(Classifier(Net(), 2), torch.zeros(0, 2000, dtype=torch.bool))
    fit(first, items, **OPTIONS)
    answers = answers_of(first.classifier, items)
    assert (answers.numpy() == strong).mean() > 0.99
    second = fit(Discovery(Classifier(Net(), 2), (answers == data["y"])[None]), items, **OPTIONS)
    assert (answers_of(second.classifier, items).numpy() == weak).mean() > 0.99

    encoder = rich_feature_construction(items, encoder=Net(), **OPTIONS)
    test, strong, weak = two_features(seed=1)
    features = encoder(test["x"]).detach().numpy()
    for feature in (strong, weak):
        assert (
            LogisticRegression(max_iter=1000)
            .fit(features[:1000], feature[:1000])
            .score(features[1000:], feature[1000:])
            > 0.98
        )


def test_a_third_round_runs_and_stages_take_their_own_options(tmp_path):
    data, *_ = two_features(200)
    options = {**OPTIONS, "batch_size": 200, "max_steps": 3}
    stages = {"discovery-2": {"max_steps": 2}}
    rich_feature_construction(data, encoder=Net(), out=tmp_path, rounds=3, stages=stages, **options)
    steps = {}
    for stage in sorted((tmp_path / "stages").iterdir()):
        lines = (stage / "metrics.jsonl").read_text().splitlines()
        steps[stage.name] = sum('"lr"' in line for line in lines)
    assert steps == {"discovery-1": 3, "discovery-2": 2, "discovery-3": 3, "synthesis": 3}


class Steps(Callback):
    def __init__(self):
        self.count = 0

    def step(self, step, loss, lr, health):
        self.count += 1


RUN = """
    import os, signal, sys
    import torch
    sys.path.insert(0, {tests!r})
    from test_bonsai_rfc import OPTIONS, Net, two_features
    from tacit.robust import rich_feature_construction
    from tacit.training import Callback

    class Kill(Callback):
        seen = 0
        def step(self, step, loss, lr, health):
            self.seen += 1
            if self.seen == 60 + 25:  # in the second stage
                os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rich_feature_construction(
        two_features()[0], encoder=Net(), out={out!r}, checkpoint_every=10, callbacks=[Kill()], **OPTIONS
    )
"""


def test_a_killed_construction_goes_on_where_it_stood(tmp_path):
    """SIGKILL in the second of three stages; the same call ends with the weights of a run that was left alone."""
    code = textwrap.dedent(RUN).format(tests=str(Path(__file__).parent), out=str(tmp_path))
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (tmp_path / "stages/discovery-1/model.safetensors").exists()
    assert not (tmp_path / "stages/discovery-2/model.safetensors").exists()

    data, net, steps = two_features()[0], Net(), Steps()
    torch.manual_seed(5)  # the caller's random state plays no part
    again = {**OPTIONS, "out": tmp_path, "checkpoint_every": 10}
    resumed = rich_feature_construction(data, encoder=net, callbacks=[steps], **again)
    left = steps.count  # the last checkpoint is that of step 20, or of a look after it
    assert 35 + 60 <= left <= 40 + 60, "the first stage, or the first 20 steps of the second, were trained again"
    whole = rich_feature_construction(data, encoder=net, **OPTIONS)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), f"{name} differs after a kill"
    rich_feature_construction(data, encoder=net, callbacks=[steps], **again)
    assert steps.count == left, "a finished construction trained again"
    with pytest.raises(RunError, match=r"training\.lr"):
        rich_feature_construction(data, encoder=net, **{**again, "lr": 1e-3})


def test_encoder_and_random_state_are_left_as_they_were():
    net, (data, *_) = Net(), two_features(50)
    before, state = {name: p.clone() for name, p in net.state_dict().items()}, torch.get_rng_state()
    found = rich_feature_construction(data, encoder=net, max_steps=2, batch_size=50)
    assert all(torch.equal(before[name], p) for name, p in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(found.layers[0].weight, net.layers[0].weight)
    assert not found.training
    classifier = rich_feature_construction(data, encoder=net, return_classifier=True, max_steps=2, batch_size=50)
    assert torch.equal(classifier.encoder(data["x"]), found(data["x"]))
    assert classifier(data["x"]).shape == (50, 2)


def test_what_cannot_be_is_refused():
    data, *_ = two_features(50)
    options = {"encoder": Net(), "max_steps": 1, "batch_size": 50}
    with pytest.raises(ArgumentError, match="rounds=0: expected at least 1"):
        rich_feature_construction(data, rounds=0, **options)
    with pytest.raises(ArgumentError, match=r"stages=\['discovery-3'\]: expected names among discovery-1, discovery-2"):
        rich_feature_construction(data, stages={"discovery-3": {}}, **options)
    with pytest.raises(ArgumentError, match="column='y'"):
        rich_feature_construction({"x": data["x"]}, **options)
