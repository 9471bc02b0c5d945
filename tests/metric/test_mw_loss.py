import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from tacit.errors import ArgumentError
from tacit.metric import MannWhitneyLoss, MannWhitneyRetriever, _mw_loss, mann_whitney_loss
from tacit.metric._mw_loss import mrr_at_10, pooled_auc
from tacit.nn import TextEncoder


def cosines(a, b):
    return [[float(torch.cosine_similarity(x, y, dim=0)) for y in b.detach()] for x in a.detach()]


def slow_loss(a, b, t, negatives):
    """The equation, one comparison at a time."""
    s, n = cosines(a, b), len(a)
    terms = [
        math.log1p(math.exp((s[j][m] - s[i][i]) / t))
        for i in range(n)
        for j in range(n)
        for m in range(n)
        if j != m and (negatives == "pooled" or j == i)
    ]
    assert len(terms) == (n * n * (n - 1) if negatives == "pooled" else n * (n - 1))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("negatives", ["pooled", "row"])
@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_loss_against_the_equation(negatives, temperature):
    a, b = torch.randn(2, 6, 3, dtype=torch.float64)
    expected = slow_loss(a, b, temperature, negatives)
    assert MannWhitneyLoss(temperature, negatives)(a, b).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("negatives", ["pooled", "row"])
def test_gradient_by_finite_differences(negatives):
    a, b = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: mann_whitney_loss(a, b, 0.5, negatives), (a, b))


def test_gradient_is_that_of_autograd_and_blocks_change_nothing(monkeypatch):
    a, b = (torch.randn(7, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    s = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T / 0.3
    off = s[~torch.eye(7, dtype=torch.bool)]
    expected = torch.nn.functional.softplus(off[None] - s.diagonal()[:, None]).mean()
    wanted = torch.autograd.grad(expected, (a, b))
    for block in (1 << 22, 100, 1):
        monkeypatch.setattr(_mw_loss, "BLOCK", block)
        loss = mann_whitney_loss(a, b, 0.3)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, (a, b)), wanted)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0, 10.0])
def test_it_bounds_the_share_of_lost_comparisons(temperature):
    """1 - AUC, by SciPy's U statistic over all pairs, is at most loss / log 2."""
    for noise in (0.1, 1.0, 5.0):
        a = torch.randn(40, 8)
        b = a + noise * torch.randn(40, 8)
        s = np.array(cosines(a, b))
        off = s[~np.eye(40, dtype=bool)]
        auc = mannwhitneyu(np.diag(s), off).statistic / (40 * len(off))
        assert pooled_auc(s) == pytest.approx(auc, abs=1e-12)
        assert 1 - auc <= mann_whitney_loss(a, b, temperature).item() / math.log(2) + 1e-6


def test_a_shift_of_one_query_moves_the_pooled_loss_only():
    """What InfoNCE and the row's loss do not see, in scores themselves."""
    scores = torch.randn(5, 5, dtype=torch.float64)
    shifted = scores.clone()
    shifted[2] += 3.0

    def both(s):
        rows = torch.nn.functional.softplus(s - s.diagonal()[:, None])[~torch.eye(5, dtype=torch.bool)].mean()
        return rows, _mw_loss._MeanSoftplus.apply(s[~torch.eye(5, dtype=torch.bool)], s.diagonal())

    (row, pooled), (row_shifted, pooled_shifted) = both(scores), both(shifted)
    torch.testing.assert_close(row, row_shifted)
    assert abs(pooled - pooled_shifted) > 1e-3


def test_two_processes_average_to_the_loss_of_the_whole_batch(monkeypatch):
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    for negatives, calls in (("pooled", [b, a]), ("row", [b])):
        losses = []
        for process, half in enumerate((slice(0, 3), slice(3, 6))):
            gathered = iter(calls)
            monkeypatch.setattr(_mw_loss, "gather", lambda x, gathered=gathered: next(gathered))
            monkeypatch.setattr(_mw_loss, "rank", lambda process=process: process)
            losses.append(mann_whitney_loss(a[half], b[half], 0.3, negatives).item())
        assert sum(losses) / 2 == pytest.approx(slow_loss(a, b, 0.3, negatives), rel=1e-5)


def test_learner_is_the_loss_of_its_pairs():
    texts = ["a cat sat", "the dog ran", "rain fell hard"]
    encoder = TextEncoder("bag", tokenizer="words", max_length=4, dim=8, dropout=0.0).fit_prepare(texts)
    learner = MannWhitneyRetriever(encoder, temperature=0.2)
    data = learner.pairs(["a cat", "the dog", "rain"], ["sat", "ran", "fell hard"])
    x, document = data["x"][:], data["document"][:]
    queries, documents = encoder(x), encoder(document)
    assert learner.loss(x, document).item() == pytest.approx(slow_loss(queries, documents, 0.2, "pooled"), rel=1e-5)


def test_mrr_of_documents_on_the_diagonal():
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert mrr_at_10(scores) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="temperature=0"):
        MannWhitneyLoss(temperature=0)
    with pytest.raises(ArgumentError, match="negatives='all'"):
        MannWhitneyLoss(negatives="all")
    with pytest.raises(ArgumentError, match="at least 2 rows"):
        mann_whitney_loss(torch.randn(1, 3), torch.randn(1, 3))
    with pytest.raises(ArgumentError, match="one shape"):
        mann_whitney_loss(torch.randn(2, 3), torch.randn(3, 3))
