import math

import pytest
import torch
import torch.nn.functional as F

from tacit.data import Dataset
from tacit.errors import ArgumentError, DataError
from tacit.learner import load_state
from tacit.metric import (
    DecoupledSoftmaxLoss,
    XMCDualEncoder,
    decoupled_softmax_loss,
    multi_positive_loss,
    soft_top_k,
    soft_top_k_loss,
)
from tacit.metric._dexml import as_targets, key_words, precision_at
from tacit.nn import TextEncoder

Y = torch.tensor([[0, 2, -1], [1, -1, -1], [-1, -1, -1], [3, 1, 0]])
TEXTS = ["cats purr at night", "dogs bark at cats", "rain falls", "dogs sleep"]


def slow_losses(scores, y, average):
    """Both softmaxes, one positive at a time."""
    decoupled = coupled = 0.0
    for s, labels in zip(scores.tolist(), y.tolist(), strict=True):
        positives = [label for label in labels if label >= 0]
        negatives = [math.exp(s[j]) for j in range(len(s)) if j not in positives]
        share = 1 / max(len(positives), 1) if average else 1.0
        for p in positives:
            decoupled -= share * math.log(math.exp(s[p]) / (math.exp(s[p]) + sum(negatives)))
            coupled -= share * math.log(math.exp(s[p]) / sum(math.exp(v) for v in s))
    return decoupled / len(y), coupled / len(y)


@pytest.mark.parametrize("average", [False, True])
def test_losses_against_the_equations(average):
    scores = torch.randn(4, 5, dtype=torch.float64)
    decoupled, coupled = slow_losses(scores, Y, average)
    assert DecoupledSoftmaxLoss(average)(scores, Y).item() == pytest.approx(decoupled, rel=1e-9)
    assert multi_positive_loss(scores, Y, average=average).item() == pytest.approx(coupled, rel=1e-9)
    memberships = soft_top_k(scores, 2).log()
    share = as_targets(Y, 5).double() / (as_targets(Y, 5).sum(1, keepdim=True).clamp_min(1) if average else 1)
    assert soft_top_k_loss(scores, Y, 2, average=average).item() == pytest.approx(
        -(memberships * share).sum().item() / 4, rel=1e-9
    )


def test_with_one_positive_all_softmaxes_are_cross_entropy():
    scores, y = torch.randn(6, 5), torch.randint(5, (6,))
    expected = F.cross_entropy(scores, y)
    torch.testing.assert_close(decoupled_softmax_loss(scores, y), expected)
    torch.testing.assert_close(multi_positive_loss(scores, y), expected)


def test_raising_one_positive_costs_the_others_nothing():
    """The paper's case against InfoNCE: its gradient pushes an easy positive down."""
    scores = torch.tensor([[8.0, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0, 1]])
    (coupled,) = torch.autograd.grad(multi_positive_loss(scores, y), scores)
    (decoupled,) = torch.autograd.grad(decoupled_softmax_loss(scores, y), scores)
    assert coupled[0, 0] > 0.9  # descent lowers the positive that is already on top
    assert decoupled[0, 0] < 0
    # where no negative counts, the coupled loss is least at equal positives: 2 log 2; the decoupled one is 0
    apart = torch.tensor([[5.0, 2.0, -50.0, -50.0]])
    even = torch.tensor([[3.5, 3.5, -50.0, -50.0]])
    assert multi_positive_loss(apart, y) > multi_positive_loss(even, y)
    assert multi_positive_loss(even, y).item() == pytest.approx(2 * math.log(2), rel=1e-5)
    assert decoupled_softmax_loss(apart, y).item() == pytest.approx(0, abs=1e-6)


def test_soft_top_k_sums_to_k_keeps_the_order_and_nears_the_hard_one():
    scores = torch.randn(20, 30, dtype=torch.float64)
    for k in (1, 5, 29, 2.5):
        share = soft_top_k(scores, k)
        torch.testing.assert_close(share.sum(1), torch.full((20,), float(k), dtype=torch.float64))
        assert torch.equal(share.argsort(1), scores.argsort(1))
    hard = torch.zeros_like(scores).scatter(1, scores.topk(5).indices, 1.0)
    torch.testing.assert_close(soft_top_k(scores, 5, sharpness=1e5), hard, atol=1e-3, rtol=0)
    each = torch.arange(1, 21)
    torch.testing.assert_close(soft_top_k(scores, each).sum(1), each.double())
    shifted = soft_top_k(scores + 7, 5)
    torch.testing.assert_close(shifted, soft_top_k(scores, 5))


def test_soft_top_k_in_float32_over_a_wide_range():
    scores = 1e3 * torch.randn(3, 2000)
    share = soft_top_k(scores, 5)
    torch.testing.assert_close(share.sum(1), torch.full((3,), 5.0), atol=1e-2, rtol=0)
    x = scores.requires_grad_()
    (gradient,) = torch.autograd.grad(soft_top_k_loss(x, torch.arange(3), 5), x)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_implicit_gradient_by_finite_differences(sharpness):
    scores = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, 2, sharpness=sharpness), scores)
    assert torch.autograd.gradcheck(lambda s: soft_top_k_loss(s, Y[:3], 2, sharpness=sharpness), scores)
    assert torch.autograd.gradcheck(lambda s: decoupled_softmax_loss(s, Y[:3]), scores)


def test_a_label_set_without_negatives_costs_nothing_and_has_a_gradient_of_zero():
    scores = torch.randn(1, 3, requires_grad=True)
    loss = decoupled_softmax_loss(scores, torch.ones(1, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


def made(**settings):
    encoder = TextEncoder("bag", tokenizer="words", max_length=6, dim=8, dropout=0.0).fit_prepare(TEXTS)
    return XMCDualEncoder(encoder, **settings)


@pytest.mark.parametrize("loss", ["decoupled_softmax", "soft_top_k", "softmax"])
def test_learner_is_the_loss_of_its_cosines(loss):
    names = ["cats", "dogs", "rain"]
    learner = made(label_texts=names, loss=loss, k=1, temperature=0.2)
    x, y = learner.encoder.prepare(TEXTS), torch.tensor([[0, -1], [0, 1], [2, -1], [1, -1]])
    a, b = learner.encoder(x).detach(), learner.encoder(learner.encoder.prepare(names)).detach()
    scores = torch.tensor([[float(torch.cosine_similarity(p, q, dim=0)) / 0.2 for q in b] for p in a])
    decoupled, coupled = slow_losses(scores, y, False)
    expected = {"decoupled_softmax": decoupled, "softmax": coupled, "soft_top_k": soft_top_k_loss(scores, y, 1).item()}
    assert learner.loss(x, y).item() == pytest.approx(expected[loss], rel=1e-4)
    assert learner.predict_top_k(TEXTS, k=3).tolist() == scores.argsort(1, descending=True).tolist()


def test_labels_without_a_text_are_described_by_an_item_and_saved():
    learner = made()
    x, y = learner.encoder.prepare(TEXTS), torch.tensor([[1, -1], [0, 1], [2, 0], [1, -1]])
    learner.before_fit(Dataset({"x": x, "y": y}))
    assert torch.equal(learner.labels, x[[1, 0, 2]])
    again = made()
    load_state(again, learner.state_dict())
    assert torch.equal(again.labels, learner.labels)
    learner.describe(["cats", "dogs"])
    learner.before_fit(Dataset({"x": x, "y": y}))
    assert len(learner.labels) == 2


def test_key_words_are_those_of_largest_weight():
    words, seen, new = key_words(
        ["cats cats purr softly", "dogs bark", "dogs purr"], ["cats zebra", "..."], n_labels=9, each=2
    )
    assert [words[label] for label in seen[0] if label >= 0] == ["cats", "softly"]
    assert [[words[label] for label in row if label >= 0] for row in new.tolist()] == [["cats"], []]


def test_precision_counts_labels_of_the_item_among_the_first():
    ranked, y = torch.tensor([[3, 1, 0, 2], [0, 1, 2, 3]]), torch.tensor([[1, 2, -1], [3, -1, -1]])
    assert precision_at(2, ranked, y) == 0.25
    assert precision_at(4, ranked, y) == pytest.approx(3 / 8)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match=r"loss='soft_topk'.*soft_top_k"):
        made(loss="soft_topk")
    with pytest.raises(ArgumentError, match=r"k=.*below 4 labels"):
        soft_top_k(torch.zeros(2, 4), 4)
    with pytest.raises(ArgumentError, match="targets=5: expected label numbers below 5"):
        decoupled_softmax_loss(torch.zeros(1, 5), torch.tensor([5]))
    with pytest.raises(ArgumentError, match="describe"):
        made().scores(torch.ones(1, 2, dtype=torch.int32))
    with pytest.raises(DataError, match="no item carries label 1"):
        made().before_fit(Dataset({"x": torch.ones(2, 3, dtype=torch.int32), "y": torch.tensor([0, 2])}))
