import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import SeriesCNN, SeriesTransformer
from tacit.pretrain import TST, dtw_distances

NAN = float("nan")


def ragged(n=4, channels=2, time=10):
    x = torch.randn(n, channels, time) * 3 + 10
    x[1, :, 6:] = NAN
    x[2, 0, 3] = NAN
    return x


@pytest.mark.parametrize("kind", [SeriesTransformer, SeriesCNN])
def test_loss_one_value_at_a_time(kind):
    """Eq. 3 and 4: zeros in place of hidden values, a linear layer on each step, squares over hidden values alone."""
    x = ragged()
    learner = TST(kind(2, length=10, embed_dim=8).fit_prepare(x), mask_ratio=0.4).eval()
    encoder, head = learner.encoder, learner.head
    torch.manual_seed(5)
    hidden = learner.spans.mask(x)
    torch.manual_seed(5)
    loss = learner.loss(x).item()
    assert not hidden[1, :, 6:].any()
    assert not hidden[2, 0, 3]

    # values that are the mean of their variable are 0 for the network, and their steps remain steps
    put = torch.where(hidden, encoder.mean[:, None].expand_as(x), x)
    tokens = encoder.tokens(put)
    total, count = 0.0, 0
    for item, variable, step in hidden.nonzero().tolist():
        true = (x[item, variable, step] - encoder.mean[variable]) / encoder.std[variable]
        guess = head.weight[variable] @ tokens[item, step] + head.bias[variable]
        total, count = total + (guess - true).item() ** 2, count + 1
    assert loss == pytest.approx(total / count, rel=1e-4)


def test_hidden_values_do_not_leak():
    """Other values at the hidden places change the targets and not the predictions."""
    x = ragged()
    learner = TST(SeriesTransformer(2, length=10, embed_dim=8, dropout=0.0), mask_ratio=0.4).eval()
    torch.manual_seed(5)
    hidden = learner.spans.mask(x)
    moved = torch.where(hidden, x + 1, x)
    losses = []
    for series in (x, moved):
        torch.manual_seed(5)
        losses.append(learner.loss(series))
    tokens = learner.encoder.tokens(x.masked_fill(hidden, NAN), learner.encoder.mask(x))
    error = (learner.head(tokens).transpose(1, 2) - x)[hidden]
    # (e - 1)^2 - e^2 = 1 - 2 e
    assert (losses[1] - losses[0]).item() == pytest.approx((1 - 2 * error).mean().item(), rel=1e-3)


def test_univariate_hidden_steps_stay_steps():
    x = torch.randn(3, 1, 10)
    learner = TST(SeriesTransformer(1, length=10, embed_dim=8), mask_ratio=0.5)
    assert learner.loss(x).isfinite()
    seen = []
    learner.encoder.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    learner.loss(x)
    assert seen[0].all()


def test_it_learns_to_fill_in_a_sine():
    """A noiseless wave can be continued from what is around a gap; the mean cannot do better than 1."""
    torch.manual_seed(0)
    phase = torch.rand(32, 1, 1) * 6.28
    x = torch.sin(phase + torch.arange(16.0) * 0.7)
    learner = TST(SeriesTransformer(1, length=16, embed_dim=16, num_layers=1, dropout=0.0).fit_prepare(x))
    optimizer = torch.optim.Adam(learner.parameters(), 5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        learner.loss(x).backward()
        optimizer.step()
    with torch.no_grad():
        assert np.mean([learner.loss(x).item() for _ in range(10)]) < 0.8


def test_nothing_hidden_costs_nothing():
    x = torch.full((2, 1, 4), NAN)
    learner = TST(SeriesTransformer(1, length=4, embed_dim=8))
    loss = learner.loss(x)
    loss.backward()
    assert loss.item() == 0


def test_distances_against_the_recursion():
    a, b = torch.randn(3, 2, 6, dtype=torch.float64), torch.randn(4, 2, 5, dtype=torch.float64)
    a[1, :, 4:] = NAN
    b[2, :, 1:] = NAN

    def slow(p, q):
        p, q = (series[:, ~np.isnan(series[0])].T for series in (p, q))
        table = np.full((len(p) + 1, len(q) + 1), np.inf)
        table[0, 0] = 0
        for i in range(len(p)):
            for j in range(len(q)):
                before = min(table[i, j + 1], table[i + 1, j], table[i, j])
                table[i + 1, j + 1] = ((p[i] - q[j]) ** 2).sum() + before
        return table[-1, -1]

    expected = [[slow(one.numpy(), other.numpy()) for other in b] for one in a]
    torch.testing.assert_close(dtw_distances(a, b), torch.tensor(expected))


def test_what_cannot_be_is_refused():
    encoder = SeriesTransformer(1, length=4, embed_dim=8)
    with pytest.raises(ArgumentError, match="ratio=0"):
        TST(encoder, mask_ratio=0)
    with pytest.raises(ArgumentError, match=r"mean_span=0\.5"):
        TST(encoder, mean_span=0.5)
