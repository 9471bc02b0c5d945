import copy
import math
from collections import deque

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.errors import ArgumentError
from tacit.nn import Momentum, Queue, gather, mlp

# mlp ------------------------------------------------------------------------------------------------------------------


def test_mlp_is_linear_norm_relu_linear():
    torch.manual_seed(0)
    head, x = mlp(5, 7, 3), torch.randn(6, 5)
    hidden = x @ head[0].weight.T
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
    expected = hidden.clamp_min(0) @ head[3].weight.T + head[3].bias
    torch.testing.assert_close(head(x), expected)


def test_mlp_last_norm_is_whitening_of_each_feature():
    y = mlp(5, 7, 3, num_layers=3, last_norm=True)(torch.randn(64, 5))
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(0, correction=0), torch.ones(3), atol=1e-2, rtol=0)


@pytest.mark.parametrize("norm", ["batch", "layer", None])
@pytest.mark.parametrize("last_norm", [False, True])
def test_every_parameter_of_an_mlp_gets_a_gradient(norm, last_norm):
    if norm is None and last_norm:
        return
    head = mlp(5, 7, 3, num_layers=3, norm=norm, last_norm=last_norm)
    head(torch.randn(8, 5)).pow(3).sum().backward()
    assert all(p.grad.abs().max() > 1e-6 for p in head.parameters())


def test_mlp_of_one_layer_is_linear():
    head = mlp(5, 7, 3, num_layers=1, last_bias=False)
    x = torch.randn(4, 5)
    torch.testing.assert_close(head(x), x @ head[0].weight.T)


def test_mlp_refuses():
    for arguments in ({"norm": "bach"}, {"num_layers": 0}, {"norm": None, "last_norm": True}):
        with pytest.raises(ArgumentError):
            mlp(5, 7, 3, **arguments)


# Momentum -------------------------------------------------------------------------------------------------------------


def networks():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), nn.Linear(5, 3)


def move(modules):
    with torch.no_grad():
        for parameter in (p for m in modules for p in m.parameters()):
            parameter.add_(torch.randn_like(parameter))


def test_momentum_follows_the_moving_average_and_its_schedule():
    live = networks()
    target = Momentum(*live, decay=0.9)
    slow = [p.detach().double().clone() for m in live for p in m.parameters()]
    for step in range(1, 21):
        move(live)
        progress = step / 20
        target.update(*live, progress=progress)
        decay = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
        now = [p.detach().double() for m in live for p in m.parameters()]
        slow = [decay * old + (1 - decay) * new for old, new in zip(slow, now, strict=True)]
    for ours, expected in zip(target.parameters(), slow, strict=True):
        torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)


def test_constant_momentum_has_a_closed_form():
    """A live network that stands still is approached by decay ** steps."""
    live = nn.Linear(3, 2)
    target = Momentum(live, decay=0.8)
    start = target.copies[0].weight.clone()
    move([live])
    for _ in range(7):
        target.update(live)
    torch.testing.assert_close(target.copies[0].weight, live.weight + 0.8**7 * (start - live.weight))


def test_decay_at_the_ends():
    target = Momentum(nn.Linear(1, 1), decay=0.996)
    assert [target.decay_at(None), target.decay_at(0.0), target.decay_at(1.0)] == pytest.approx([0.996, 0.996, 1.0])
    assert target.decay_at(0.5) == pytest.approx(0.998)


def test_momentum_holds_copies_without_gradient_and_nothing_live():
    live = networks()
    target = Momentum(*live)
    assert not {id(p) for p in target.parameters()} & {id(p) for m in live for p in m.parameters()}
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for m in live for p in m.parameters())
    x = torch.randn(6, 4, requires_grad=True)
    assert not target(x).requires_grad
    torch.testing.assert_close(target(x), live[1](live[0](x)).detach())


def test_batch_statistics_are_the_copies_own():
    live = networks()
    target = Momentum(*live)
    a, b = torch.randn(6, 4), torch.randn(6, 4) + 3
    live[0](a)
    target(b)
    expected = copy.deepcopy(networks()[0])
    expected(b)
    target.update(*live)
    torch.testing.assert_close(target.copies[0][1].running_mean, expected[1].running_mean)


def test_momentum_is_saved_and_loaded():
    live = networks()
    first = Momentum(*live)
    move(live)
    first.update(*live)
    second = Momentum(*networks())
    second.load_state_dict(first.state_dict())
    x = torch.randn(6, 4)
    assert torch.equal(first(x), second(x))


def test_momentum_refuses():
    live = networks()
    for attempt in (
        lambda: Momentum(),
        lambda: Momentum(*live, decay=1.1),
        lambda: Momentum(*live).update(live[0]),
        lambda: Momentum(*live).update(live[1], live[0]),
    ):
        with pytest.raises(ArgumentError):
            attempt()


# Queue ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3], [4, 1, 5, 2, 7], [8, 8], [20, 3], [7, 30, 1]])
def test_queue_holds_what_a_deque_holds(sizes):
    torch.manual_seed(0)
    queue = Queue(8, 4)
    slow = deque(queue.items.unbind(), maxlen=8)
    for size in sizes:
        batch = torch.randn(size, 4)
        queue.push(batch)
        slow.extend(F.normalize(batch, dim=1).unbind())
        oldest_first = torch.cat([queue.items[queue.pointer :], queue.items[: queue.pointer]])
        torch.testing.assert_close(oldest_first, torch.stack(list(slow)))


def test_queue_starts_with_unit_vectors_and_is_saved():
    first, second = Queue(8, 4), Queue(8, 4)
    torch.testing.assert_close(first.items.norm(dim=1), torch.ones(8))
    first.push(torch.randn(3, 4))
    second.load_state_dict(first.state_dict())
    batch = torch.randn(6, 4)
    first.push(batch)
    second.push(batch)
    assert torch.equal(first.items, second.items)


def test_pushing_between_loss_and_backward_is_allowed():
    queue, x = Queue(8, 4), torch.randn(3, 4, requires_grad=True)
    before = queue.items
    loss = (x @ queue.items.T).sum()
    queue.push(x)
    loss.backward()
    torch.testing.assert_close(x.grad, before.sum(0).expand(3, -1))
    assert not queue.items.requires_grad


def test_queue_refuses():
    for attempt in (lambda: Queue(0, 4), lambda: Queue(8, 0), lambda: Queue(8, 4).push(torch.ones(2, 3))):
        with pytest.raises(ArgumentError):
            attempt()


def test_gather_alone_is_the_identity():
    x = torch.randn(3, 2, requires_grad=True)
    assert gather(x) is x
