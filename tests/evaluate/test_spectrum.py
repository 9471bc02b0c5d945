import numpy as np
import pytest
import torch

from tacit.evaluate import effective_rank, rankme


def by_svd(x, epsilon=0.0):
    """The equations on LAPACK's singular values in float64."""
    sigma = np.linalg.svd(np.asarray(x, dtype=np.float64), compute_uv=False)
    p = sigma / sigma.sum() + epsilon
    p = p[p > 0]
    return np.exp(-(p * np.log(p)).sum())


@pytest.mark.parametrize("shape", [(200, 30), (30, 200), (50, 50), (1, 7)])
def test_equals_the_equations(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.01, 3, shape[1]) + 0.5
    assert effective_rank(x) == pytest.approx(by_svd(x), rel=1e-6)
    assert effective_rank(x - x.mean(0) + 1e-3, center=True) == pytest.approx(
        by_svd(x - x.mean(0)) if len(x) > 1 else 1, rel=1e-3
    )
    assert rankme(x) == pytest.approx(by_svd(x, 1e-7), rel=1e-6)


def test_a_rotation_of_equal_axes_has_its_dimension():
    q = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))[0]
    assert effective_rank(q) == pytest.approx(16, rel=1e-6)


def test_a_collapsed_embedding_has_rank_one_unless_centred():
    point = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    noise = 1e-5 * torch.randn(500, 32, generator=torch.Generator().manual_seed(1))
    assert effective_rank(point.repeat(500, 1)) == pytest.approx(1, abs=1e-6)
    assert effective_rank(point + noise) < 1.02
    assert effective_rank(point + noise, center=True) > 25


def test_interval_covers_fresh_draws():
    draws = [torch.randn(400, 12, generator=torch.Generator().manual_seed(s)) * torch.arange(1, 13) for s in range(40)]
    estimates = [effective_rank(x, return_interval=True) for x in draws]
    spread = np.std([e.value for e in estimates])
    widths = np.mean([(e.high - e.low) / 2 / 2.262 for e in estimates])
    assert widths == pytest.approx(spread, rel=0.35)
    assert estimates[0].value == effective_rank(draws[0])
    assert estimates[0].n == 400


def test_a_complete_collapse_is_rank_one_and_no_error():
    for x in (torch.zeros(20, 3), torch.zeros(2, 1)):
        assert effective_rank(x) == 1
        assert effective_rank(x + 0.1, center=True, return_interval=True).value == 1
        assert rankme(x) == pytest.approx(1, abs=1e-4)
