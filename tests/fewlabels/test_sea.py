import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from tacit.errors import ArgumentError
from tacit.fewlabels import SeAClassifier
from tacit.fewlabels._sea import _SeA, adversarial_direction, semantic_projection


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(9, 5, generator=generator, dtype=torch.float64), dim=1)
    return x, torch.arange(9) % 3, torch.randn(3, 5, generator=generator, dtype=torch.float64)


def test_adversarial_direction_is_the_gradient_of_the_loss(batch):
    x, y, weight = batch
    x.requires_grad_()
    loss = 0.2 * F.cross_entropy(x @ weight.T / 0.2, y)
    (gradient,) = torch.autograd.grad(loss, x)
    expected = gradient / gradient.norm(dim=1, keepdim=True)
    torch.testing.assert_close(adversarial_direction(x.detach(), y, weight, 0.2), expected)


def slow_projection(direction, x, a):
    """One item at a time; softmax over all and itself taken out afterwards, as in the official code."""
    rows = []
    for i in range(len(x)):
        weights = np.exp(x @ direction[i] / a)
        weights /= weights.sum()
        weights[i] = 0
        mixture = (weights / weights.sum()) @ x
        rows.append(mixture / np.linalg.norm(mixture))
    return np.array(rows)


@pytest.mark.parametrize("a", [0.05, 1.0])
def test_projection_against_a_slow_loop(batch, a):
    x, y, weight = batch
    direction = adversarial_direction(x, y, weight, 0.1)
    expected = slow_projection(direction.numpy(), x.numpy(), a)
    np.testing.assert_allclose(semantic_projection(direction, x, a).numpy(), expected, rtol=1e-9)


def test_mixture_lies_furthest_along_the_gradient(batch):
    """p maximises p . (X g) + a H(p) over mixtures of the other items: no other mixture does better."""
    x, y, weight = batch
    a, g = 0.3, adversarial_direction(x, y, weight, 0.1)[0]
    others, rng = x[1:], np.random.default_rng(0)
    projection = semantic_projection(adversarial_direction(x, y, weight, 0.1), x, a)[0]
    along = (others @ g).numpy()

    def value(p):
        return p @ along - a * np.sum(p * np.log(p))

    best = minimize(
        lambda u: -value(np.exp(u) / np.exp(u).sum()), np.zeros(len(along)), method="BFGS", options={"gtol": 1e-10}
    )
    p = np.exp(best.x) / np.exp(best.x).sum()
    found = p @ others.numpy()
    np.testing.assert_allclose(projection.numpy(), found / np.linalg.norm(found), atol=1e-6)
    assert all(value(p) >= value(q) for q in rng.dirichlet(np.ones(len(along)), size=200))


def test_cold_projection_is_the_other_item_nearest_to_the_gradient(batch):
    x = batch[0]
    direction = x.clone()  # each item is nearest to its own direction, and must not be taken
    nearest = (direction @ x.T).fill_diagonal_(-9).argmax(dim=1)
    torch.testing.assert_close(semantic_projection(direction, x, 1e-7), x[nearest])
    assert (semantic_projection(direction[:1], x[:1], 0.1) == 0).all()


@pytest.mark.parametrize("direction", ["semantic", "adversarial", "none"])
def test_loss_against_the_equations(batch, direction):
    x, y, weight = batch
    eta, a, t = 0.4, 0.2, 0.3
    classifier = SeAClassifier(eta=eta, projection_temperature=a, temperature=t, direction=direction)
    linear = nn.Linear(5, 3, bias=False)
    linear.weight = nn.Parameter(weight)
    loss = _SeA(linear, classifier).loss(5 * x, y).item()
    w, rows, total = weight.numpy(), x.numpy(), 0.0
    probabilities = np.exp(rows @ w.T / t)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    gradients = (probabilities - np.eye(3)[y]) @ w
    gradients /= np.linalg.norm(gradients, axis=1, keepdims=True)
    moves = {"semantic": slow_projection(gradients, rows, a), "adversarial": gradients, "none": np.zeros_like(rows)}
    for row, move, label in zip(rows, moves[direction], y, strict=True):
        moved = row + eta * move
        logits = w @ moved / np.linalg.norm(moved) / t
        total += t * (np.log(np.exp(logits).sum()) - logits[label]) / len(rows)
    assert loss == pytest.approx(total, rel=1e-6)


def digits_like(n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return (rng.normal(size=(3, 6))[y] + 0.7 * rng.normal(size=(n, 6))).astype(np.float32), y


def test_without_a_move_it_ends_at_the_minimum_that_scipy_finds():
    x, y = digits_like()
    t, decay = 0.5, 0.05
    probe = SeAClassifier(direction="none", temperature=t, weight_decay=decay, lr=0.5, max_steps=150, random_state=0)
    z = x.astype(float) / np.linalg.norm(x, axis=1, keepdims=True)

    def cost(flat):
        w = flat.reshape(3, 6)
        logits = z @ w.T / t
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
        return t * losses.mean() + decay / 2 * (flat**2).sum()

    best = minimize(cost, np.zeros(18)).x.reshape(3, 6)
    np.testing.assert_allclose(probe.fit(x, y).coef_, best, atol=2e-3)


def test_a_move_of_no_length_is_none():
    x, y = digits_like()
    still = SeAClassifier(eta=0.0, max_steps=5, random_state=0).fit(x, y)
    none = SeAClassifier(direction="none", max_steps=5, random_state=0).fit(x, y)
    np.testing.assert_allclose(still.coef_, none.coef_, rtol=1e-5)
    assert not np.allclose(still.coef_, SeAClassifier(eta=0.5, max_steps=5, random_state=0).fit(x, y).coef_)


def test_only_the_direction_of_a_row_counts_and_the_random_state_is_left_alone():
    x, y = digits_like()
    state = torch.get_rng_state()
    probe = SeAClassifier(max_steps=5, random_state=1).fit(x, np.array(["a", "b", "c"])[y])
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_allclose(probe.predict_proba(3 * x), probe.predict_proba(x), rtol=1e-4)
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    values = np.exp(z @ probe.coef_.T / 0.1)
    np.testing.assert_allclose(probe.predict_proba(x), values / values.sum(axis=1, keepdims=True), rtol=1e-4)
    np.testing.assert_array_equal(probe.predict(x), probe.classes_[values.argmax(axis=1)])


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 12), st.integers(1, 4), st.sampled_from(["f4", "f8", "i8"]), st.sampled_from([2, 256]))
def test_any_shape_and_type_gives_probabilities(n, d, dtype, batch_size):
    x = np.random.default_rng(n).integers(-2, 3, size=(n, d)).astype(dtype)  # with rows of zeros
    probe = SeAClassifier(max_steps=2, batch_size=batch_size, random_state=0).fit(x, np.arange(n) % 2)
    np.testing.assert_allclose(probe.predict_proba(x).sum(axis=1), 1, rtol=1e-5)


def test_what_cannot_be_is_refused():
    x, y = digits_like()
    with pytest.raises(ArgumentError, match="at least two classes"):
        SeAClassifier().fit(x, np.zeros(len(x)))
    with pytest.raises(ArgumentError, match="semantic"):
        SeAClassifier(direction="semantics").fit(x, y)
    for word, value in {"eta": -1, "temperature": 0, "projection_temperature": 0, "batch_size": 0}.items():
        with pytest.raises(ArgumentError, match=f"{word}={value}"):
            SeAClassifier(**{word: value}).fit(x, y)
    with pytest.raises(ValueError, match="features"):
        SeAClassifier(max_steps=1).fit(x, y).predict(x[:, :2])
