"""NPID's objectives against the paper's equations, item by item, and against each other where they must agree."""

import math

import pytest
import torch
import torch.nn.functional as F

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.pretrain import InstanceDiscrimination, _npid
from tacit.pretrain._npid import nce_loss
from tacit.training import fit


def made(tiny, n=9, **words):
    learner = InstanceDiscrimination(tiny, views=torch.nn.Identity(), embed_dim=5, temperature=0.3, **words)
    learner.bank.reset(n)
    return learner


def embedded(learner, images):
    return F.normalize(learner.head(learner.encoder(images)), dim=1).detach()


def slow_nce(f, index, bank, drawn, z, t):
    """Equations 4 to 7."""
    n, m = len(bank), len(drawn)
    loss = 0.0
    for i, vector in zip(index, f, strict=True):

        def h(j, vector=vector):
            p = math.exp(float(bank[j] @ vector) / t) / z
            return p / (p + m / n)

        loss -= math.log(h(i)) + sum(math.log(1 - h(j)) for j in drawn)
    return loss / len(index)


def test_full_softmax_is_the_likelihood_of_each_own_item(tiny, images):
    learner = made(tiny, proximal=0.0)
    index, v = torch.tensor([4, 0, 8, 2, 7, 1]), learner.bank.items
    expected = 0.0
    for i, f in zip(index, embedded(learner, images), strict=True):
        weights = [math.exp(float(v[j] @ f) / 0.3) for j in range(9)]
        expected -= math.log(weights[i] / sum(weights)) / 6
    assert learner.loss(images, index).item() == pytest.approx(expected, rel=1e-5)
    assert learner.log_z == -math.inf


def test_noise_contrastive_estimation_with_z_of_the_first_batch(tiny, images):
    learner, index = made(tiny, n_negatives=4, proximal=0.0), torch.tensor([4, 0, 8, 2, 7, 1])
    f, v = embedded(learner, images), learner.bank.items
    for step in range(2):  # Z stays that of the first
        torch.manual_seed(step)
        loss = learner.loss(images, index).item()
        torch.manual_seed(step)
        drawn = torch.randint(9, (4,)).tolist()
        if step == 0:
            z = 9 * sum(math.exp(float(v[j] @ one) / 0.3) for j in drawn for one in f) / (4 * 6)
        assert loss == pytest.approx(slow_nce(f, index, v, drawn, z, 0.3), rel=1e-5)
    assert learner.log_z.item() == pytest.approx(math.log(z), rel=1e-5)


def test_shared_draws_have_the_expectation_of_equation_7(tiny, images):
    """-log h(i, f) - m E_j log(1 - h(j, f)), with j over all items, to the accuracy of 1,000 draws."""
    learner, index = made(tiny, n_negatives=3, proximal=0.0), torch.arange(6)
    learner.log_z.fill_(math.log(12.0))
    f, v = embedded(learner, images), learner.bank.items
    p = (f @ v.T / 0.3).exp() / 12.0
    h = p / (p + 3 / 9)
    expected = (-h[index, index].log() - 3 * (1 - h).log().mean(1)).mean().item()
    with torch.no_grad():
        drawn = torch.tensor([learner.loss(images, index).item() for _ in range(1000)])
    assert drawn.mean().item() == pytest.approx(expected, abs=4 * drawn.std().item() / math.sqrt(1000))


def test_with_many_negatives_the_gradient_goes_to_that_of_the_softmax():
    """What NCE is for: with Z right, its gradient goes to the likelihood's as 1 / m."""
    torch.manual_seed(0)
    v = F.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
    f = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    scores = (f @ v.T) / 0.5
    log_p = scores - scores.logsumexp(1).detach()  # Z is a constant
    (wanted,) = torch.autograd.grad(F.cross_entropy(scores, torch.tensor([2])), f, retain_graph=True)
    errors = []
    for times in (20, 200, 2000):  # every item drawn equally often: the expectation over draws
        negatives = log_p.repeat(1, times)
        (found,) = torch.autograd.grad(nce_loss(log_p[:, 2], negatives, 5), f, retain_graph=True)
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[0] < 0.2
    assert errors[2] < 2e-3
    assert errors[0] / errors[2] == pytest.approx(100, rel=0.2)


def test_proximal_term_is_the_squared_distance_to_the_bank(tiny, images):
    index = torch.tensor([4, 0, 8, 2, 7, 1])
    learner = made(tiny, proximal=0.0)
    plain = learner.loss(images, index).item()
    learner.proximal = 2.5
    f, v = embedded(learner, images), learner.bank.items
    expected = sum(float((one - v[i]) @ (one - v[i])) for one, i in zip(f, index, strict=True)) / 6
    assert learner.loss(images, index).item() == pytest.approx(plain + 2.5 * expected, rel=1e-5)


def test_the_bank_moves_after_the_step_by_what_all_parts_of_it_saw(tiny, images):
    learner = made(tiny, momentum=0.5)
    before, f = learner.bank.items.clone(), embedded(learner, images)
    for part in (slice(0, 2), slice(2, 6)):  # gradients accumulated over two parts
        learner.loss(images[part], torch.arange(6)[part]).backward()
    assert torch.equal(learner.bank.items, before)
    learner.after_step(0.5)
    expected = before.clone()
    expected[:6] = F.normalize(0.5 * before[:6] + 0.5 * f, dim=1)
    torch.testing.assert_close(learner.bank.items, expected)
    learner.after_step(0.6)  # nothing new was seen
    torch.testing.assert_close(learner.bank.items, expected)


def test_z_is_that_of_all_processes(tiny, images, monkeypatch):
    learner, other = made(tiny, n_negatives=4), torch.randn(6, 4)
    monkeypatch.setattr(_npid, "gather", lambda x: torch.cat([x, other]))
    torch.manual_seed(0)
    learner.loss(images, torch.arange(6))
    torch.manual_seed(0)
    mine = embedded(learner, images) @ learner.bank.items[torch.randint(9, (4,))].T / 0.3
    expected = math.log(9 * torch.cat([mine, other]).exp().mean().item())
    assert learner.log_z.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n_negatives", [0, 4, 50])
def test_instances_are_told_apart_after_a_fit(tiny, n_negatives):
    """The bank's vector of each of 12 different images is the nearest to what the network now says of it."""
    torch.manual_seed(0)
    data = Dataset({"x": torch.randn(12, 3, 8, 8)}, modality="image")
    learner = InstanceDiscrimination(tiny, views=torch.nn.Identity(), embed_dim=8, n_negatives=n_negatives)
    fit(learner, data, max_steps=100, batch_size=6, lr=0.01)
    f = embedded(learner, data["x"][:])
    assert torch.equal((f @ learner.bank.items.T).argmax(1), torch.arange(12))
    assert (learner.log_z > -math.inf) == (n_negatives == 4)


def test_what_cannot_be_is_refused(tiny, images):
    for wrong in ({"n_negatives": -1}, {"temperature": 0}, {"proximal": -1}, {"momentum": 1}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            InstanceDiscrimination(tiny, **wrong)
    with pytest.raises(ArgumentError, match="before_fit"):
        InstanceDiscrimination(tiny, views=torch.nn.Identity()).loss(images, torch.arange(6))
