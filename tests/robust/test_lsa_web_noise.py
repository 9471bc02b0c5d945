import math

import numpy as np
import pytest
import torch
from torch import nn

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.nn import Classifier, ResNet
from tacit.robust import LinearSeparationAlternating, _lsa_web_noise
from tacit.robust._lsa_web_noise import linear_scores, same_class, upper_posterior, weighted_cross_entropy


class Same(nn.Module):
    def forward(self, x):
        return x.float() / 255 if x.dtype == torch.uint8 else x


@pytest.fixture
def learner():
    torch.manual_seed(0)
    classifier = Classifier(ResNet(8, width=4, image_size=8), 3)
    made = LinearSeparationAlternating(classifier, views=Same(), contrastive_epochs=0, embed_dim=5)
    made.weak = Same()
    return made


@pytest.fixture
def data():
    torch.manual_seed(1)
    return Dataset({"x": torch.rand(10, 3, 8, 8), "y": torch.arange(10) % 3}, modality="image")


def softmax(row):
    exps = [math.exp(value) for value in row]
    return [value / sum(exps) for value in exps]


def test_step_against_the_equations(learner, data, monkeypatch):
    """One item at a time, with the shares and the partners of mixup fixed, half of the items noisy."""
    learner.before_fit(data)
    learner.eval()  # so that batch normalisation does not mix the items
    learner.clean = torch.arange(10) % 2 == 0
    learner.weights = torch.linspace(0.1, 1, 10)
    rows, partner, share = torch.tensor([1, 4, 5, 8]), torch.tensor([2, 0, 3, 1]), 0.7
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.tensor(0.3))
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: partner)
    x, y, w = data["x"][rows], data["y"][rows], learner.weights[rows].tolist()
    found = learner.loss(x, y, rows).item()

    with torch.no_grad():
        plain = learner.classifier(x).tolist()
        targets = []
        for i, item in enumerate(rows.tolist()):
            if item % 2 == 0:
                targets.append([float(c == y[i]) for c in range(3)])
            else:
                squares = [p**2 for p in softmax(plain[i])]
                targets.append([s / sum(squares) for s in squares])
                np.testing.assert_allclose(learner.guesses[item], targets[-1], rtol=1e-4)
        mixed = torch.stack([share * x[i] + (1 - share) * x[partner[i]] for i in range(4)])
        logs = [[math.log(p) for p in softmax(row)] for row in learner.classifier(mixed).tolist()]
        a, b = (learner.projector(learner.classifier.encoder(z)) for z in (mixed, x))
        unit_a, unit_b = ([row / row.norm() for row in z] for z in (a, b))
        pairs = [[math.log(p) for p in softmax([float(u @ v) / 0.2 for v in unit_b])] for u in unit_a]
    classes = [int(np.argmax(t)) for t in targets]
    expected = 0.0
    for part, order in ((share, [0, 1, 2, 3]), (1 - share, partner.tolist())):
        entropy = [-sum(t * log for t, log in zip(targets[order[i]], logs[i], strict=True)) for i in range(4)]
        expected += part * sum(w[order[i]] * entropy[i] for i in range(4)) / sum(w)
        for i in range(4):
            mates = [j for j in range(4) if classes[j] == classes[order[i]]]
            expected -= part * sum(pairs[i][j] for j in mates) / len(mates) / 4
    assert found == pytest.approx(expected, rel=1e-4)


def test_upper_posterior_is_bayes_rule_and_tells_two_heaps_apart():
    g = np.random.default_rng(0)
    values = np.concatenate([g.normal(1, 0.1, 700), g.normal(5, 0.5, 300)])
    found = upper_posterior(values, seed=0)
    # Bayes' rule with the true heaps
    low, high = (
        share * np.exp(-(((values - mean) / deviation) ** 2) / 2) / deviation
        for share, mean, deviation in ((0.7, 1, 0.1), (0.3, 5, 0.5))
    )
    np.testing.assert_allclose(found, high / (low + high), atol=0.02)
    np.testing.assert_array_equal(upper_posterior(np.ones(4), 0), np.zeros(4))


def test_linear_scores_mend_a_noisy_decision():
    """Two clouds that a line separates; a fifth of the decisions is wrong, and most of the line's are right."""
    g = np.random.default_rng(0)
    foreign = g.random(600) < 0.3
    features = g.normal(size=(600, 4)) + 4 * foreign[:, None] * np.array([1, 0, 0, 0])
    decision = foreign ^ (g.random(600) < 0.2)
    found = linear_scores(features, decision) > 0.5
    assert (found == foreign).mean() > 0.85 > (decision == foreign).mean()
    np.testing.assert_array_equal(linear_scores(features, np.zeros(600, bool)), np.zeros(600))


@pytest.mark.parametrize("detector", ["alternate", "linear", "loss"])
def test_detectors_take_turns(learner, data, monkeypatch, detector):
    learner.detector, asked = detector, []
    monkeypatch.setattr(_lsa_web_noise, "linear_scores", lambda _, noisy: asked.append(1) or noisy.astype(float))
    learner.before_fit(data)
    turns = []
    for _ in range(5):
        learner.before_epoch(data)
        turns.append(len(asked))
    expected = {"alternate": [0, 1, 1, 2, 2], "linear": [0, 1, 2, 3, 4], "loss": [0] * 5}
    assert turns == expected[detector]


def test_detection_by_loss_trusts_the_guesses_of_low_pseudo_loss(learner, data, monkeypatch):
    losses = np.array([0.1, 0.2, 0.15, 0.1, 0.2, 5.0, 5.1, 5.2, 5.0, 5.1])
    pseudo_losses = np.array([9.0] * 5 + [0.1, 0.12, 3.0, 3.1, 0.11])
    monkeypatch.setattr(learner, "_look_at", lambda data: (losses, pseudo_losses, np.zeros((10, 2))))
    learner.before_fit(data)
    learner.detector = "loss"
    learner.detect(data)
    assert learner.clean.tolist() == [True] * 5 + [False] * 5
    np.testing.assert_allclose(learner.weights.numpy(), [1] * 5 + [1, 1, 0, 0, 1], atol=0.05)


def test_what_is_looked_at_against_loops(learner, data):
    learner.before_fit(data)
    learner.guesses = torch.rand(10, 3).softmax(1)
    losses, pseudo_losses, features = learner._look_at(data)
    learner.eval()
    for i in range(10):
        with torch.no_grad():
            x = data["x"][[i]]
            probabilities = softmax(learner.classifier(x)[0].tolist())
            encoder = learner.classifier.encoder
            middle = encoder.stages[1](encoder.stages[0](encoder.stem(encoder.normalize(x)))).mean((2, 3))[0]
        guess = learner.guesses[i].tolist()
        assert losses[i] == pytest.approx(-math.log(probabilities[int(data["y"][i])]), rel=1e-4)
        expected = -sum(g * math.log(p) for g, p in zip(guess, probabilities, strict=True))
        assert pseudo_losses[i] == pytest.approx(expected, rel=1e-4)
        np.testing.assert_allclose(features[i], middle / middle.norm(), rtol=1e-3, atol=1e-5)


def test_small_parts():
    torch.testing.assert_close(
        same_class(torch.tensor([0, 1, 0])), torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])
    )
    targets, logs = torch.eye(2), torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    assert weighted_cross_entropy(targets, logs, torch.tensor([1.0, 3.0])).item() == pytest.approx((1 + 3 * 4) / 4)
    assert weighted_cross_entropy(targets, logs, torch.zeros(2)).item() == 0


def test_pretraining_moves_the_encoder(data):
    classifier = Classifier(ResNet(8, width=4, image_size=8), 3)
    before = classifier.encoder.stem[0].weight.clone()
    LinearSeparationAlternating(classifier, contrastive_epochs=2).before_fit(data)
    assert not torch.equal(before, classifier.encoder.stem[0].weight)


def test_what_cannot_be_is_refused():
    classifier = Classifier(ResNet(8, width=4, image_size=8), 3)
    with pytest.raises(ArgumentError, match="detector"):
        LinearSeparationAlternating(classifier, detector="both")
    with pytest.raises(ArgumentError, match="threshold=1"):
        LinearSeparationAlternating(classifier, threshold=1)
    with pytest.raises(ArgumentError, match="warmup=0"):
        LinearSeparationAlternating(classifier, warmup=0)
