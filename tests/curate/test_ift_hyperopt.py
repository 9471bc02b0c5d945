import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.curate import ImplicitDifferentiation, WeightDecay, hypergradient
from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.nn import Classifier
from tacit.training import Callback, fit


class Ridge:
    """Ridge regression with a decay for each weight: L_T = |X w - y|^2 / 2n + sum exp(h) w^2 / 2."""

    def __init__(self, n=30, d=4):
        torch.manual_seed(0)
        self.x, self.y = torch.randn(n, d, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
        self.new_x, self.new_y = torch.randn(n, d, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
        self.h = (0.5 * torch.randn(d, dtype=torch.float64) - 1).requires_grad_()

    def hessian(self, h):
        return self.x.T @ self.x / len(self.x) + torch.diag(h.exp())

    def solution(self, h):
        return torch.linalg.solve(self.hessian(h), self.x.T @ self.y / len(self.x))

    def train_loss(self, w):
        return ((self.x @ w - self.y) ** 2).mean() / 2 + (self.h.exp() * w**2).sum() / 2

    def validation_loss(self, w):
        return ((self.new_x @ w - self.new_y) ** 2).mean() / 2

    def exact(self):
        """-(dL_V/dw) H^-1 d2L_T/dw dh, all three in closed form."""
        w = self.solution(self.h).detach()
        slope = self.new_x.T @ (self.new_x @ w - self.new_y) / len(self.new_x)
        return -torch.linalg.solve(self.hessian(self.h), slope).detach() * (self.h.exp() * w).detach()

    def series(self, n_terms, lr=0.3):
        w = self.solution(self.h).detach().requires_grad_()
        return hypergradient(self.train_loss(w), self.validation_loss(w), [w], [self.h], n_terms=n_terms, lr=lr)[0]


def test_hypergradient_of_ridge_regression_in_closed_form():
    ridge = Ridge()
    torch.testing.assert_close(ridge.series(n_terms=400), ridge.exact())


def test_hypergradient_by_finite_differences_of_the_solved_problem():
    """Solve, look at the validation loss, move a hyper-parameter, solve again."""
    ridge, step = Ridge(), 1e-5
    found = ridge.series(n_terms=400)
    for i in range(len(ridge.h)):
        ends = []
        for sign in (1, -1):
            h = ridge.h.detach().clone()
            h[i] += sign * step
            ends.append(ridge.validation_loss(ridge.solution(h)).item())
        assert found[i].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("n_terms", [0, 1, 2, 7])
def test_the_series_term_by_term(n_terms):
    """lr sum_j (I - lr H)^j with the matrices written out."""
    ridge, lr = Ridge(), 0.3
    w = ridge.solution(ridge.h).detach()
    hessian, eye = ridge.hessian(ridge.h).detach(), torch.eye(4, dtype=torch.float64)
    inverse = lr * sum(torch.linalg.matrix_power(eye - lr * hessian, j) for j in range(n_terms + 1))
    slope = ridge.new_x.T @ (ridge.new_x @ w - ridge.new_y) / len(ridge.new_x)
    torch.testing.assert_close(ridge.series(n_terms, lr), -(inverse @ slope) * ridge.h.detach().exp() * w)


def test_the_error_shrinks_with_every_term():
    ridge = Ridge()
    errors = [(ridge.series(n_terms) - ridge.exact()).norm().item() for n_terms in (0, 1, 3, 10, 30, 100)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6 * errors[0]


def test_it_is_the_limit_of_differentiating_through_gradient_descent():
    """From the minimum, k unrolled steps of length lr give the series of k terms (theorem of section 4)."""
    ridge, lr, n_steps = Ridge(), 0.3, 6
    w = ridge.solution(ridge.h).detach().requires_grad_()
    unrolled = w
    for _ in range(n_steps):
        unrolled = unrolled - lr * torch.autograd.grad(ridge.train_loss(unrolled), unrolled, create_graph=True)[0]
    (expected,) = torch.autograd.grad(ridge.validation_loss(unrolled), ridge.h)
    torch.testing.assert_close(ridge.series(n_steps - 1, lr), expected)


def test_direct_gradients_several_tensors_and_parameters_that_a_loss_leaves_out():
    torch.manual_seed(0)
    h, k, unused = (torch.randn((), dtype=torch.float64, requires_grad=True) for _ in range(3))
    a, b = h.detach().clone().requires_grad_(), (h * k).detach().requires_grad_()
    train_loss = (a - h) ** 2 / 2 + (b - a * k) ** 2 / 2  # least at a = h, b = h k
    validation_loss = 3 * a + b + h * k**2
    found = hypergradient(train_loss, validation_loss, [a, b, unused], [h, k], n_terms=500, lr=0.2)
    torch.testing.assert_close(found, ((3 + k + k**2).detach(), (h + 2 * h * k).detach()))


def test_decays_by_tensor_input_and_weight():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 5))
    x, y = torch.randn(6, 2, 4, 4), torch.randint(0, 5, (6,))
    squares = sum(p.square().sum() for p in net.parameters())
    for per in ("tensor", "input", "weight"):
        loss = WeightDecay(net, per=per, initial=0.3)
        torch.testing.assert_close(loss(net, x, y), F.cross_entropy(net(x), y) + 0.15 * squares)
    by_input = WeightDecay(net, per="input")
    assert [tuple(h.shape) for h in by_input.log_decays] == [(1, 2, 1, 1), (1,), (1, 12), (1,)]
    assert sum(h.numel() for h in WeightDecay(net, per="weight").parameters()) == sum(
        p.numel() for p in net.parameters()
    )


def table(n=60, held_out=True):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 6, generator=generator)
    y = (x[:, 0] + 0.3 * torch.randn(n, generator=generator) > 0).long()
    return {"x": x, "y": y} | ({"held_out": torch.arange(n) % 3 == 0} if held_out else {})


PARTS = {"training_loss": {"lr": 0.1}}


def test_weights_see_training_items_and_decays_see_held_out_items_alone():
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.h, self.seen = nn.Parameter(torch.tensor(-3.0)), []

        def forward(self, classifier, x, y):
            self.seen.append(x)
            return F.cross_entropy(classifier(x), y) + self.h.exp() * classifier.weight.square().sum()

    data, loss = table(), Recorder()
    learner = ImplicitDifferentiation(nn.Linear(6, 2), training_loss=loss, inner_steps=2)
    fit(learner, data, max_steps=8, batch_size=15, weight_decay=0.0)
    assert learner.held_out.tolist() == list(range(0, 60, 3))
    allowed = {tuple(row) for row in data["x"][~data["held_out"]].tolist()}
    assert {tuple(row) for x in loss.seen for row in x.tolist()} <= allowed
    assert len(loss.seen) == 8 + 4
    assert all(len(x) == 10 for x in loss.seen)

    changed = copy.deepcopy(data)
    changed["y"][data["held_out"]] = 1 - changed["y"][data["held_out"]]
    ends = {}
    for name, items, inner_steps in (("kept", data, 99), ("changed", changed, 99), ("tuned", changed, 2)):
        torch.manual_seed(0)
        other = ImplicitDifferentiation(nn.Linear(6, 2), inner_steps=inner_steps)
        ends[name] = fit(other, items, max_steps=8, batch_size=15, weight_decay=0.0, parts=PARTS)
    assert torch.equal(ends["kept"].classifier.weight, ends["changed"].classifier.weight)
    decays = [[h.item() for h in ends[name].training_loss.log_decays] for name in ("changed", "tuned")]
    assert all(a != b for a, b in zip(*decays, strict=True))


def test_a_step_moves_the_hyper_parameters_by_the_hypergradient_at_the_moved_weights():
    torch.manual_seed(0)
    data = {name: column[:20] for name, column in table().items()}
    learner = ImplicitDifferentiation(nn.Linear(6, 2), inner_steps=1, n_terms=3, neumann_lr=0.2)
    learner.before_fit(Dataset(data))
    moves = []

    def update(loss, module):
        parameters = list(module.parameters())
        moves.append((loss.item(), torch.autograd.grad(loss, parameters)))
        for p, g in zip(parameters, moves[-1][1], strict=True):
            p.data -= 0.5 * g

    before = copy.deepcopy(learner)
    learner.step(update, data["x"], data["y"], torch.arange(20))
    held_out = data["held_out"]
    loss = before.training_loss(before.classifier, data["x"][~held_out], data["y"][~held_out])
    for p, g in zip(
        before.classifier.parameters(), torch.autograd.grad(loss, before.classifier.parameters()), strict=True
    ):
        p.data -= 0.5 * g
    expected = hypergradient(
        before.training_loss(before.classifier, data["x"][~held_out], data["y"][~held_out]),
        F.cross_entropy(before.classifier(data["x"][held_out]), data["y"][held_out]),
        before.classifier.parameters(),
        before.training_loss.parameters(),
        n_terms=3,
        lr=0.2,
    )
    torch.testing.assert_close(moves[1][1], expected)
    assert moves[1][0] == 0  # so that the training loss alone is logged


def test_it_finds_the_decays_of_noise_inputs():
    """One input tells the class and five are noise: the five are decayed more."""
    torch.manual_seed(0)
    classifier = nn.Linear(6, 2)
    loss = WeightDecay(classifier, per="input", initial=1e-2)
    learner = ImplicitDifferentiation(classifier, training_loss=loss, inner_steps=5, n_terms=20, neumann_lr=0.3)
    fit(learner, table(), max_steps=100, batch_size=60, lr=0.05, weight_decay=0.0, parts=PARTS)
    signal, *noise = loss.log_decays[0].flatten().tolist()
    assert signal < min(noise)


def test_any_training_loss_does_such_as_an_augmenting_network():
    class Augmented(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(6, 6)

        def forward(self, classifier, x, y):
            return F.cross_entropy(classifier(x + self.network(x)), y)

    torch.manual_seed(0)
    learner = ImplicitDifferentiation(nn.Linear(6, 2), training_loss=Augmented(), inner_steps=1)
    before = copy.deepcopy(learner.training_loss)
    fit(learner, table(held_out=False), max_steps=2, batch_size=20, weight_decay=0.0)
    assert not torch.equal(before.network.weight, learner.training_loss.network.weight)
    assert len(learner.held_out) == 12


@pytest.mark.parametrize(("n", "batch_size"), [(60, 15), (7, 3), (2, 2), (50, 7)])
def test_batches_hold_both_kinds_in_proportion(n, batch_size):
    learner = ImplicitDifferentiation(nn.Linear(6, 2), validation_fraction=0.1 if n == 50 else 0.34)
    data = Dataset(table(n, held_out=False))
    learner.before_fit(data)
    batches = learner.batches(data, batch_size, torch.Generator().manual_seed(0))
    count = n // batch_size
    assert len(batches) == count
    held_out = set(learner.held_out.tolist())
    for batch in batches:
        share = sum(item in held_out for item in batch.tolist())
        assert share == max(1, len(held_out) // count)
        assert len(batch) - share == (n - len(held_out)) // count
    training = [item for batch in batches for item in batch.tolist() if item not in held_out]
    assert len(training) == len(set(training))


def test_a_killed_run_ends_bit_for_bit_as_a_whole_one(tmp_path):
    class Stop(Callback):
        def step(self, step, loss, lr, health):
            if step == 7:
                raise KeyboardInterrupt

    class Encoder(nn.Sequential):
        dim = 8

        def prepare(self, items):
            return items

    torch.manual_seed(0)
    encoder = Encoder(nn.Linear(6, 8), nn.Dropout(0.3))
    whole = ImplicitDifferentiation(Classifier(encoder, 2), inner_steps=3)
    killed, resumed = copy.deepcopy(whole), copy.deepcopy(whole)
    data = table(held_out=False)
    words = {"max_steps": 14, "batch_size": 20, "checkpoint_every": 5, "weight_decay": 0.0, "parts": PARTS}
    fit(whole, data, **words)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, data, out=tmp_path, callbacks=[Stop()], **words)
    fit(resumed, data, out=tmp_path, **words)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_what_cannot_be_is_refused():
    net = nn.Linear(6, 2)
    with pytest.raises(ArgumentError, match="validation_fraction=1"):
        ImplicitDifferentiation(net, validation_fraction=1.0)
    with pytest.raises(ArgumentError, match="inner_steps=0"):
        ImplicitDifferentiation(net, inner_steps=0)
    with pytest.raises(ArgumentError, match="n_terms=-1"):
        hypergradient(net.weight.sum(), net.weight.sum(), [net.weight], [net.bias], n_terms=-1)
    with pytest.raises(ArgumentError, match="lr=0"):
        hypergradient(net.weight.sum(), net.weight.sum(), [net.weight], [net.bias], lr=0)
    with pytest.raises(ArgumentError, match="'weights'"):
        WeightDecay(net, per="weights")
    with pytest.raises(ArgumentError, match="held_out=60"):
        fit(ImplicitDifferentiation(net), table() | {"held_out": torch.ones(60, dtype=torch.bool)}, max_steps=1)
