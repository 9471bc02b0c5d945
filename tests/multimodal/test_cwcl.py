import math

import pytest
import torch
import torch.nn.functional as F
from pairs import TEXTS, clip, images

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.losses import info_nce
from tacit.multimodal import CWCL, CWCLoss, _cwcl, cwcl_loss
from tacit.multimodal._cwcl import SpeechTuning
from tacit.nn import ResNet, TextEncoder
from tacit.training import fit


def slow_cwcl(frozen, trained, t):
    """Eq. 2 and 3, one pair of items at a time."""
    p = [row / row.norm() for row in frozen]
    q = [row / row.norm() for row in trained]
    n, total = len(p), 0.0
    for i in range(n):
        s = [float(p[i] @ q[j]) / t for j in range(n)]
        log_sum = math.log(sum(math.exp(one) for one in s))
        w = [0.5 + 0.5 * float(p[i] @ p[j]) for j in range(n)]
        total -= sum(w[j] * (s[j] - log_sum) for j in range(n)) / sum(w)
    return total / n


@pytest.mark.parametrize("t", [0.07, 1.0])
def test_loss_against_the_equations(t):
    p, q = torch.randn(2, 7, 4, dtype=torch.double)
    assert CWCLoss(t)(p, q).item() == pytest.approx(slow_cwcl(p, q, t), rel=1e-9)


def test_weights_of_the_identity_make_it_info_nce():
    """Frozen embeddings that are opposite to each other weigh nothing but themselves: n = 2 in one dimension."""
    p, q = torch.tensor([[1.0], [-1.0]]), torch.randn(2, 1)
    torch.testing.assert_close(cwcl_loss(p, q, 0.5), info_nce(p, q, 0.5))


def test_of_equal_classes_it_is_the_supervised_contrastive_loss():
    """Frozen one-hot classes against their opposite: w is 1 within a class, 1/2 across orthogonal ones."""
    classes = torch.tensor([0, 0, 1, 1, 1])
    p, q, t = F.one_hot(classes).double(), torch.randn(5, 2, dtype=torch.double), 0.4
    log_softmax = (p @ F.normalize(q, dim=1).T / t).log_softmax(1)
    w = torch.where(classes[:, None] == classes, 1.0, 0.5).double()
    expected = -((w * log_softmax).sum(1) / w.sum(1)).mean()
    torch.testing.assert_close(cwcl_loss(p, q, t), expected)


def test_gradient_by_finite_differences():
    p, q = (torch.randn(5, 3, dtype=torch.double, requires_grad=True) for _ in range(2))
    t = torch.tensor(0.5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(cwcl_loss, (p, q, t))


def test_two_processes_average_to_the_loss_of_the_whole_batch(monkeypatch):
    p, q = torch.randn(6, 4), torch.randn(6, 4)
    losses = []
    for half in (slice(0, 3), slice(3, 6)):
        gathered = iter([p, q, q])
        monkeypatch.setattr(_cwcl, "gather", lambda x, gathered=gathered: next(gathered))
        losses.append(cwcl_loss(p[half], q[half], 0.3).item())
    assert sum(losses) / 2 == pytest.approx(slow_cwcl(p, q, 0.3), rel=1e-5)


def learner(**arguments):
    torch.manual_seed(0)
    text_encoder = TextEncoder("bag", tokenizer="words", dim=8, vocab_size=16, max_length=6, dropout=0.0)
    return CWCL(ResNet(8, width=4, image_size=8), text_encoder.fit_prepare(TEXTS), **arguments)


@pytest.mark.parametrize("continuous", [True, False])
def test_learner_is_one_direction_weighted_and_the_other_ordinary(continuous):
    tuning = learner(continuous=continuous, temperature=0.25)
    x, text = images(), tuning.text_encoder.prepare(TEXTS)
    p, q = tuning.encode_image(x), tuning.encode_text(TEXTS)
    back = F.cross_entropy(4 * q @ p.T, torch.arange(4)).item()
    forth = slow_cwcl(p, q.detach(), 0.25) if continuous else F.cross_entropy(4 * p @ q.T, torch.arange(4)).item()
    assert tuning.loss(x, text).item() == pytest.approx((forth + back) / 2, rel=1e-4)


def test_the_frozen_tower_stays_as_it_is_batch_statistics_included():
    tuning = learner()
    before = {name: value.clone() for name, value in tuning.image_encoder.state_dict().items()}
    data = Dataset({"image": images(), "text": tuning.text_encoder.prepare(TEXTS)}, modality="pairs")
    moving = tuning.text_projection.weight.clone()
    fit(tuning, data, max_steps=3, batch_size=4)
    assert all(torch.equal(before[name], value) for name, value in tuning.image_encoder.state_dict().items())
    assert not torch.equal(moving, tuning.text_projection.weight)


def test_batches_with_each_class_once():
    tuning = SpeechTuning(clip().image_tower(), learner().text_encoder, continuous=True, each=2)
    y = torch.arange(30) % 3
    batches = list(tuning.batches(Dataset({"y": y}), 8, torch.Generator().manual_seed(0)))
    assert len(batches) == 5
    assert all(torch.bincount(y[rows]).tolist() == [2, 2, 2] for rows in batches)
    assert len(torch.cat(batches).unique()) == 30


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="shapes"):
        cwcl_loss(torch.randn(2, 3), torch.randn(3, 3))
    with pytest.raises(ArgumentError, match="negative"):
        cwcl_loss(torch.randn(1, 3), torch.randn(1, 3))
    with pytest.raises(ArgumentError, match="temperature"):
        CWCLoss(temperature=0)
    with pytest.raises(ArgumentError, match="temperature"):
        learner(temperature=0.001)
