import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.errors import ArgumentError
from tacit.nn import Classifier, ResNet
from tacit.robust import PGDTraining, pgd_attack, robust_accuracy
from tacit.robust._pgd import margin_loss


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_it_finds_the_worst_point_of_a_grid():
    """A small net over the plane; gradient steps from a random start against every point of the ball."""
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x, y, epsilon = torch.rand(12, 2, dtype=torch.double), torch.randint(3, (12,)), 0.1
    found = pgd_attack(model, x, y, epsilon=epsilon, step_size=0.02, n_steps=40)
    ball = torch.cartesian_prod(*[torch.linspace(-epsilon, epsilon, 41, dtype=torch.double)] * 2)
    losses = F.cross_entropy(model(found), y, reduction="none")
    for item, label, loss in zip(x, y, losses, strict=True):
        points = (item + ball).clamp(0, 1)
        worst = F.cross_entropy(model(points), label.expand(len(points)), reduction="none").max()
        assert loss.item() == pytest.approx(worst.item(), rel=1e-3)


def test_it_stays_in_the_ball_and_in_the_range_of_images():
    x = torch.rand(4, 3, 8, 8).round(decimals=1)  # some at 0 and 1
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    found = pgd_attack(model, x, torch.tensor([0, 1, 2, 0]), epsilon=0.1, step_size=0.07, n_steps=5)
    assert (found - x).abs().max() <= 0.1 + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    corners = torch.minimum(found - (x - 0.1).clamp(0), (x + 0.1).clamp(max=1) - found)
    assert (corners.abs() < 1e-6).float().mean() > 0.99  # a linear model is attacked at a corner


def test_the_model_is_left_as_it_was():
    model = Classifier(ResNet(8, width=4, image_size=8), 3)
    model.encoder.eval()  # a mix of modes
    model.head.train()
    before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [part.training for part in model.modules()]
    x = torch.rand(4, 3, 8, 8)
    given = x.clone()
    with torch.no_grad():
        found = pgd_attack(model, x, torch.tensor([0, 1, 2, 0]), n_steps=2)
    assert torch.equal(x, given)
    assert not found.requires_grad
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert [part.training for part in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_items_do_not_act_on_each_other():
    """In eval mode an item is attacked the same alone and in a batch; a mean over the batch changes no sign."""
    model = Classifier(ResNet(8, width=4, image_size=8), 3).train()
    x, y, start = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), torch.full((4, 3, 8, 8), 0.5)
    settings = {"epsilon": 0.3, "n_steps": 3}
    together = pgd_attack(model, x, y, start=start, **settings)
    alone = torch.cat([pgd_attack(model, x[i, None], y[i, None], start=start[:1], **settings) for i in range(4)])
    assert (together - alone).abs().max() < 1e-6


def test_without_radius_nothing_moves():
    x = torch.rand(3, 4)
    assert torch.equal(pgd_attack(nn.Linear(4, 2), x, torch.tensor([0, 1, 0]), epsilon=0.0), x)


def test_training_takes_bytes_and_attacks_in_units_of_one():
    """uint8 is scaled first: the loss is that of the margin less epsilon |w|_1, with epsilon on the scale [0, 1]."""
    model = nn.Linear(4, 2)
    x, y = torch.randint(60, 200, (6, 4), dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 1, 0])
    weight, bias = (v[1] - v[0] for v in (model.weight.detach(), model.bias.detach()))
    margins = (2 * y - 1) * (x / 255 @ weight + bias) - 0.1 * weight.abs().sum()
    loss = PGDTraining(model, epsilon=0.1, step_size=0.05, n_steps=5).loss(x, y)
    assert loss.item() == pytest.approx(F.softplus(-margins).mean().item(), rel=1e-5)


def test_batch_statistics_are_those_of_the_attacked_batch():
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=1.0), nn.Linear(4, 2))
    learner = PGDTraining(model, epsilon=0.1)
    x, attacked = torch.rand(6, 4), []
    plain = learner.attack
    learner.attack = lambda *arguments: attacked.append(plain(*arguments)) or attacked[-1]
    learner.loss(x, torch.tensor([0, 1, 0, 1, 1, 0]))
    torch.testing.assert_close(model[0].running_mean, attacked[0].mean(0))
    assert model[0].num_batches_tracked == 1


def test_robust_accuracy_of_a_linear_model_is_a_count_of_margins():
    model = nn.Linear(6, 2)
    x, y = 0.3 + 0.4 * torch.rand(200, 6), torch.randint(2, (200,))
    weight, bias = (v[1] - v[0] for v in (model.weight.detach(), model.bias.detach()))
    margins = (2 * y - 1) * (x @ weight + bias)
    for epsilon in (0.01, 0.05):
        expected = (margins > epsilon * weight.abs().sum()).float().mean().item()
        found = robust_accuracy(model, x, y, epsilon=epsilon, step_size=epsilon / 2, n_steps=5, batch_size=64)
        assert found == pytest.approx(expected)
    assert robust_accuracy(model, x, y, objectives=()) == pytest.approx((margins > 0).float().mean().item())


def test_margin_loss_by_hand():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 5.5]])
    assert margin_loss(logits, torch.tensor([0, 1])).item() == pytest.approx((2 - 3) + (5.5 - 5))


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="epsilon=-1"):
        pgd_attack(nn.Linear(2, 2), torch.rand(1, 2), torch.tensor([0]), epsilon=-1)
    with pytest.raises(ArgumentError, match="n_steps=0"):
        PGDTraining(nn.Linear(2, 2), n_steps=0)
    with pytest.raises(ArgumentError, match="step_size=-1"):
        PGDTraining(nn.Linear(2, 2), step_size=-1)
