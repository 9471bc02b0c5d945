"""GroCo's loss against the paper's words in plain Python: one anchor, one comparison of the network at a time."""

import math

import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.nn import ResNet, relaxed_sort
from tacit.pretrain import GroCo, GroupOrderingLoss, _groco


def unit(*shape):
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def slow_permutation(s, steepness):
    """Odd-even network with Cauchy swaps: the rows of P, row = place, column = number of the similarity."""
    s, p = list(s), [[float(i == j) for j in range(len(s))] for i in range(len(s))]
    for layer in range(len(s)):
        for i in range(layer % 2, len(s) - 1, 2):
            stays = math.atan(steepness * (s[i + 1] - s[i])) / math.pi + 0.5
            s[i], s[i + 1] = stays * s[i] + (1 - stays) * s[i + 1], (1 - stays) * s[i] + stays * s[i + 1]
            low = [stays * a + (1 - stays) * b for a, b in zip(p[i], p[i + 1], strict=True)]
            p[i + 1] = [(1 - stays) * a + stays * b for a, b in zip(p[i], p[i + 1], strict=True)]
            p[i] = low
    return p


def slow_groco(views, n_negatives=10, steepness=1.0, n_positives=None):
    """Binary cross-entropy for the places of the positives and for those of the negatives, halved, as in the code."""
    losses = []
    for number, view in enumerate(views):
        for i, anchor in enumerate(view):
            near = [float(anchor @ v[i]) for other, v in enumerate(views[:n_positives]) if other != number]
            far = sorted(float(anchor @ view[k]) for k in range(len(view)) if k != i)[-n_negatives:]
            p = slow_permutation(far + sorted(near), steepness)
            total = 0.0
            for j in range(len(far) + len(near)):
                positive = sum(row[j] for row in p[len(far) :])
                negative = sum(row[j] for row in p[: len(far)])
                if j >= len(far):
                    total -= 0.5 * math.log(positive) + 0.5 * math.log(1 - negative)
                else:
                    total -= 0.5 * math.log(1 - positive) + 0.5 * math.log(negative)
            losses.append(total / (len(far) + len(near)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("n_views", "n_positives"), [(2, None), (4, None), (4, 2)])
@pytest.mark.parametrize(("n_negatives", "steepness"), [(3, 1.0), (10, 4.0)])
def test_against_a_slow_loop(n_views, n_positives, n_negatives, steepness):
    """With 6 items there are 5 negatives; small views, which are no positives, are anchors too."""
    views = unit(n_views, 6, 4)
    loss = GroupOrderingLoss(steepness, n_negatives, n_positives=n_positives)
    assert loss(*views).item() == pytest.approx(slow_groco(views, n_negatives, steepness, n_positives), rel=1e-9)
    assert loss(*(3 * views)).item() == pytest.approx(loss(*views).item())  # cosines


def test_two_by_hand():
    """One positive and one negative, a single comparison: p = 1/2 + arctan(s+ - s-) / pi, and both cost -log p."""
    a = torch.eye(2, 3, dtype=torch.float64)
    b = F.normalize(a + 0.5, dim=1)
    gap = (a * b).sum(1) - 0.0
    back = (a * b).sum(1) - b[0] @ b[1]
    expected = -torch.log(torch.atan(torch.cat([gap, back])) / math.pi + 0.5).mean()
    torch.testing.assert_close(GroupOrderingLoss()(a, b), expected)


def test_with_steep_swaps_it_counts_only_what_is_out_of_order():
    """Order, not distance: ordered groups cost next to nothing, however close; a positive behind a negative costs."""
    near = torch.tensor([[0.3, 0.2], [0.3, 0.2]])
    for far, cost in (([[0.1, 0.19], [0.0, -1.0]], 0.0), ([[0.1, 0.25], [0.0, 0.21]], 1.0)):
        _, p = relaxed_sort(torch.cat([torch.tensor(far), near.sort(1).values], 1), steepness=1e6)
        misplaced = 2 - p[:, 2:, 2:].sum((1, 2))
        torch.testing.assert_close(misplaced, torch.full((2,), cost), atol=1e-4, rtol=0)
    a = unit(8, 16)
    close = F.normalize(a + 0.01 * torch.randn_like(a), dim=1)
    assert GroupOrderingLoss(steepness=1e5)(a, close) < 1e-3
    assert GroupOrderingLoss(steepness=1e5)(a, a.roll(1, 0)) > 1


def test_only_the_nearest_negatives_count():
    a, b = unit(2, 12, 8)
    whole = GroupOrderingLoss(n_negatives=2)
    similar = a @ a.T - 2 * torch.eye(12)
    least = similar[0].argmin()
    moved = a.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(whole._ordering(moved[:1], [b[:1]], a), moved)
    assert gradient[0].abs().sum() > 0
    keys = a.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(whole._ordering(a[:1], [b[:1]], keys), keys)
    assert gradient[least].abs().sum() == 0
    assert (gradient.abs().sum(1) > 0).sum() == 2


def test_the_gradient_flows_through_the_anchor_alone():
    """As the sum over anchors, each with its own copy of everything else without gradient."""
    views = list(unit(3, 5, 4).unbind())
    stopped = GroupOrderingLoss(n_negatives=3, stop_gradient=True)
    leaves = [view.clone().requires_grad_() for view in views]
    gradients = torch.autograd.grad(stopped(*leaves), leaves)
    whole = GroupOrderingLoss(n_negatives=3)
    for number, view in enumerate(views):
        anchor = view.clone().requires_grad_()
        others = [other for k, other in enumerate(views) if k != number]
        unit_anchor = F.normalize(anchor, dim=1)
        (expected,) = torch.autograd.grad(whole._ordering(unit_anchor, others, view) / 3, anchor)
        torch.testing.assert_close(gradients[number], expected)
    assert stopped(*views) == whole(*views)


def test_gradient_by_finite_differences():
    views = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(GroupOrderingLoss(n_negatives=3), views)


def test_two_processes_average_to_the_loss_of_the_whole_batch(monkeypatch):
    a, b = unit(2, 6, 4)
    losses = []
    for process, half in enumerate((slice(0, 3), slice(3, 6))):
        gathered = iter([a, b])
        monkeypatch.setattr(_groco, "gather", lambda x, gathered=gathered: next(gathered))
        monkeypatch.setattr(_groco, "rank", lambda process=process: process)
        losses.append(GroupOrderingLoss(n_negatives=4)(a[half], b[half]).item())
    assert sum(losses) / 2 == pytest.approx(slow_groco([a, b], 4), rel=1e-9)


def test_learner_is_the_loss_of_its_projected_views(mirror, images):
    learner = GroCo(ResNet(8, width=4, image_size=8), views=mirror, embed_dim=5, hidden_dim=7, n_negatives=3)
    views = torch.stack([learner.projector(learner.encoder(view)) for view in mirror(images)])
    expected = slow_groco(F.normalize(views.detach().double(), dim=-1), 3)
    assert learner.loss(images).item() == pytest.approx(expected, rel=1e-4)


def test_small_crops_are_anchors_and_no_positives(images):
    encoder = ResNet(8, width=4, image_size=16)
    learner = GroCo(encoder, n_views=3, local_crops=2, embed_dim=5, hidden_dim=7)
    assert [view.shape[-1] for view in learner.views(images)] == [16, 16, 16, 8, 8]
    torch.manual_seed(1)
    loss = learner.loss(images).item()
    torch.manual_seed(1)
    views = torch.stack([learner.projector(learner.encoder(view)) for view in learner.views(images)])
    expected = slow_groco(F.normalize(views.detach().double(), dim=-1), 10, 1.0, 3)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_what_cannot_be_is_refused(tiny):
    with pytest.raises(ArgumentError, match="n_views=1"):
        GroCo(tiny, n_views=1)
    with pytest.raises(ArgumentError, match="n_negatives=0"):
        GroupOrderingLoss(n_negatives=0)
    with pytest.raises(ArgumentError, match="steepness=0"):
        GroupOrderingLoss(steepness=0)
    with pytest.raises(ArgumentError, match="no negative"):
        GroupOrderingLoss()(torch.ones(1, 3), torch.ones(1, 3))
    with pytest.raises(ArgumentError, match="same shape"):
        GroupOrderingLoss()(torch.ones(2, 3), torch.ones(2, 4))
