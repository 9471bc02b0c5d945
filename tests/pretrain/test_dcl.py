import math

import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.losses import nt_xent
from tacit.nn import ResNet
from tacit.pretrain import DCL, DecoupledContrastiveLoss, _dcl, decoupled_contrastive_loss


def unit(n, d, dtype=torch.float64):
    return F.normalize(torch.randn(n, d, dtype=dtype), dim=1)


def slow_dcl(a, b, t, sigma=None):
    """Eq. 6 to 8, one pair at a time."""
    n = len(a)
    views = [z / z.norm() for z in torch.cat([a, b]).detach()]
    positives = [float(views[i] @ views[i + n]) for i in range(n)]
    total = 0.0
    for i, z in enumerate(views):
        s = positives[i % n]
        weight = 1.0
        if sigma is not None:
            weight = 2 - math.exp(s / sigma) / (sum(math.exp(p / sigma) for p in positives) / n)
        negatives = sum(math.exp(float(z @ views[k]) / t) for k in range(2 * n) if k % n != i % n)
        total += -weight * s / t + math.log(negatives)
    return total / (2 * n)


@pytest.mark.parametrize("sigma", [None, 0.5, 0.1])
def test_loss_against_the_equations(sigma):
    a, b = torch.randn(2, 5, 3)
    expected = slow_dcl(a, b, 0.3, sigma)
    assert DecoupledContrastiveLoss(0.3, sigma)(a, b).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_has_no_coupling_factor():
    """Proposition 1: NT-Xent's gradient for an anchor is DCL's times q = 1 - its probability of the positive."""
    t, n = 0.3, 5
    views, anchor = unit(2 * n, 4), 2
    z = views.clone().requires_grad_()
    s = z @ z.T / t
    others = [k for k in range(2 * n) if k % n != anchor % n]
    # both losses of the one anchor, as a function of the similarities
    positive, negatives = s[anchor, anchor + n], s[anchor, others]
    coupled = -positive + torch.logsumexp(torch.cat([positive[None], negatives]), 0)
    (with_factor,) = torch.autograd.grad(coupled, z, retain_graph=True)
    probability = torch.softmax(torch.cat([positive[None], negatives]), 0)[0].item()
    (decoupled,) = torch.autograd.grad(torch.logsumexp(negatives, 0) - positive, z)
    torch.testing.assert_close(with_factor, (1 - probability) * decoupled)

    # closed form of the gradient to the positive of every anchor, through our loss: -z_i / t in the direction of z_j
    a, b = views[:n].clone().requires_grad_(), views[n:].clone()
    (ours,) = torch.autograd.grad(decoupled_contrastive_loss(a, b, t), a)
    expected = torch.zeros_like(views)
    for i in range(2 * n):
        j, rest = (i + n) % (2 * n), [k for k in range(2 * n) if k % n != i % n]
        p = torch.softmax(views[i] @ views[rest].T / t, 0)
        expected[i] += (p @ views[rest] - views[j]) / t
        expected[j] -= views[i] / t
        expected[rest] += p[:, None] * views[i] / t
    expected = expected[:n] / (2 * n)
    expected -= (expected * views[:n]).sum(1, keepdim=True) * views[:n]  # through the normalisation
    torch.testing.assert_close(ours, expected)


def test_nt_xent_is_dcl_plus_what_the_positive_adds_to_the_denominator():
    """log(e^s + U) = log U + log(1 + e^s / U); with easy positives NT-Xent's gradient vanishes, and DCL's does not."""
    t, a = 0.3, unit(6, 4)
    b = F.normalize(a + 0.1 * torch.randn_like(a), dim=1)
    views = torch.cat([a, b])
    s = views @ views.T / t
    same = torch.arange(12) % 6
    negatives = s.masked_fill(same[:, None] == same, -math.inf).logsumexp(1)
    positive = s[torch.arange(12), (torch.arange(12) + 6) % 12]
    difference = F.softplus(positive - negatives).mean()
    torch.testing.assert_close(nt_xent(a, b, t), decoupled_contrastive_loss(a, b, t) + difference)


def test_with_many_negatives_both_are_the_same():
    """The limit in which the coupling factor is 1: the positive is lost among the negatives."""
    gaps = []
    for n in (8, 64, 512):
        a, b = unit(n, 16), unit(n, 16)
        gaps.append((nt_xent(a, b, 1.0) - decoupled_contrastive_loss(a, b, 1.0)).item())
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] == pytest.approx(1 / (2 * 512), rel=0.1)


def test_wide_sigma_is_dcl_and_weights_average_to_1():
    a, b = unit(6, 4), unit(6, 4)
    torch.testing.assert_close(decoupled_contrastive_loss(a, b, 0.3, sigma=1e9), decoupled_contrastive_loss(a, b, 0.3))


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_gradient_by_finite_differences(sigma):
    a, b = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: decoupled_contrastive_loss(a, b, 0.5, sigma), (a, b))


def test_learner_is_the_loss_of_its_projected_views(mirror, images):
    learner = DCL(ResNet(8, width=4, image_size=8), views=mirror, embed_dim=5, hidden_dim=7, temperature=0.3, sigma=0.5)
    a, b = (learner.projector(learner.encoder(view)) for view in mirror(images))
    assert learner.loss(images).item() == pytest.approx(slow_dcl(a, b, 0.3, 0.5), rel=1e-4)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_two_processes_average_to_the_loss_of_the_whole_batch(monkeypatch, sigma):
    """Each process has half the batch and gathers the rest; played one after the other."""
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    scores = None if sigma is None else torch.cosine_similarity(a, b) / sigma
    losses = []
    for process, half in enumerate((slice(0, 3), slice(3, 6))):
        gathered = iter([a, b, scores])
        monkeypatch.setattr(_dcl, "gather", lambda x, gathered=gathered: next(gathered))
        monkeypatch.setattr(_dcl, "rank", lambda process=process: process)
        losses.append(decoupled_contrastive_loss(a[half], b[half], 0.3, sigma).item())
    assert sum(losses) / 2 == pytest.approx(slow_dcl(a, b, 0.3, sigma), rel=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="temperature=0"):
        DecoupledContrastiveLoss(temperature=0)
    with pytest.raises(ArgumentError, match="sigma=-1"):
        DecoupledContrastiveLoss(sigma=-1)
    with pytest.raises(ArgumentError, match="negative"):
        decoupled_contrastive_loss(torch.randn(1, 3), torch.randn(1, 3))
