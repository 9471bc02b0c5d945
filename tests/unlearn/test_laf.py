import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.embedding import embed
from tacit.errors import ArgumentError
from tacit.evaluate import wilson
from tacit.nn import Classifier
from tacit.unlearn import (
    bad_teacher,
    finetune,
    forgetting_scores,
    gap_to_retraining,
    label_agnostic_forgetting,
    negative_gradient,
)
from tacit.unlearn._laf import RepresentationVAE, alignment_loss, unlearning_loss


class Points(nn.Module):
    """An encoder of points, big enough to learn blobs by heart."""

    dim = 16

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x):
        return self.net(x)

    def prepare(self, x):
        return x


def blobs(n, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    centres = torch.tensor([[0.0, 3.0], [3.0, -2.0], [-3.0, -2.0]])
    return centres[y] + 0.5 * torch.randn(n, 2, generator=generator), y


@pytest.fixture(scope="module")
def classifier():
    x, y = blobs(300, 0)
    torch.manual_seed(0)
    model = Classifier(Points(), 3)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def test_the_alignment_loss_is_the_ratio_of_exponentials_written_out():
    torch.manual_seed(0)
    new, old, new_f, old_f = torch.randn(4, 5), torch.randn(4, 5), torch.randn(3, 5), torch.randn(3, 5)

    def distance(a, b):
        return 1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    below = sum(math.exp(distance(a, b) / 7) for a, b in zip(new_f, old_f, strict=True))
    slow = sum(math.log(math.exp(distance(a, b)) / below) for a, b in zip(new, old, strict=True))
    assert alignment_loss(new, old, new_f, old_f, 7).item() == pytest.approx(slow, rel=1e-5)


def test_the_unlearning_loss_is_that_of_the_squared_errors_written_out():
    class Shift(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def forward(self, z):
            return z + self.by, None, None

    z, z_f = torch.randn(4, 3), torch.randn(2, 3)
    e, e_f = 3 * 0.5**2, 3 * 2.0**2
    slow = 4 * math.exp(e / (e + 1)) - 2 * math.exp(e_f / (e_f + 1))
    assert unlearning_loss(Shift(0.5), z, Shift(2.0), z_f).item() == pytest.approx(slow, rel=1e-5)


def test_the_autoencoders_divergence_is_that_of_torchs_gaussians():
    torch.manual_seed(0)
    vae, x = RepresentationVAE(6, 2), torch.randn(5, 6)
    _, mean, log_variance = vae(x)
    gaussians = torch.distributions
    kl = gaussians.kl_divergence(gaussians.Normal(mean, (0.5 * log_variance).exp()), gaussians.Normal(0.0, 1.0)).sum(1)
    torch.manual_seed(1)
    missed = (vae(x)[0] - x).square().sum(1)
    torch.manual_seed(1)
    torch.testing.assert_close(vae.loss(x, 0.3), (missed + 0.3 * kl).mean())


def test_a_class_is_forgotten_without_labels_and_the_others_are_kept(classifier):
    x, y = blobs(300, 0)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    new = label_agnostic_forgetting(
        classifier, x[y != 2], x[y == 2], max_steps=200, lr_unlearning=1e-3, lr_alignment=2e-3, temperature=20
    )
    hits = new(x).argmax(1) == y
    assert hits[y != 2].float().mean() > 0.95
    assert hits[y == 2].float().mean() < 0.5
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())
    assert torch.equal(new.head.weight, classifier.head.weight)  # no label, so the head stays


def test_the_same_seed_gives_the_same_and_the_callers_chance_is_kept(classifier):
    x, _ = blobs(60, 1)
    torch.manual_seed(5)
    one = label_agnostic_forgetting(classifier.encoder, x[10:], x[:10], max_steps=5, vae_epochs=1, seed=3)
    drawn = torch.rand(1)
    two = label_agnostic_forgetting(classifier.encoder, x[10:], x[:10], max_steps=5, vae_epochs=1, seed=3)
    assert (embed(one, {"x": x}) == embed(two, {"x": x})).all()
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


def test_repair_of_what_gives_no_classes_is_refused_at_once(classifier):
    x, y = blobs(20, 0)

    class Learner(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = Points()

    for model in (classifier.encoder, Learner()):
        with pytest.raises(ArgumentError, match="a classifier"):
            label_agnostic_forgetting(model, x[5:], x[:5], repair=(x[5:9], y[5:9]), vae_epochs=10**9)


def test_repair_learns_from_the_labels_given(classifier):
    x, y = blobs(300, 0)
    words = {"max_steps": 30, "vae_epochs": 1, "lr_unlearning": 0.02, "lr_alignment": 0.02}
    bare = label_agnostic_forgetting(classifier, x[100:], x[:100], **words)
    mended = label_agnostic_forgetting(
        classifier, x[100:], x[:100], repair=(x[100:200], y[100:200]), repair_epochs=20, **words
    )
    after, repaired = (F.cross_entropy(model(x[200:]), y[200:]).item() for model in (bare, mended))
    assert repaired < after


def test_what_cannot_be_unlearned_is_an_error(classifier):
    x = torch.randn(6, 2)
    with pytest.raises(ArgumentError, match="forgotten"):
        label_agnostic_forgetting(classifier, x, x[:0])
    with pytest.raises(ArgumentError, match="no parameter"):
        label_agnostic_forgetting(nn.Identity(), x, x)
    with pytest.raises(ArgumentError, match="classifier"):
        label_agnostic_forgetting(classifier.encoder, x, x, max_steps=1, vae_epochs=1, repair=(x, torch.zeros(6)))


def test_baselines_go_the_way_that_their_losses_say(classifier):
    x, y = blobs(300, 0)
    items = (x[y != 2], y[y != 2]), (x[y == 2], y[y == 2])
    torch.manual_seed(9)
    words = {"max_steps": 60, "lr": 3e-3}
    tuned = finetune(classifier, *items, **words)
    up = negative_gradient(classifier, *items, weight=0.5, **words)
    badly = bad_teacher(classifier, *items, incompetent=Classifier(Points(), 3), **words)

    def loss(model, part):
        return F.cross_entropy(model(part[0]), part[1]).item()

    assert loss(tuned, items[0]) < loss(classifier, items[0])
    assert loss(up, items[1]) > 10 * loss(classifier, items[1])
    assert loss(badly, items[1]) > 0.3 > loss(badly, items[0])


def test_scores_and_their_gap_are_counted_by_hand():
    x, y = torch.eye(4), torch.arange(4)
    found = forgetting_scores(nn.Identity(), (x, y), (x[:2], (y[:2] + 1) % 4), (x, torch.tensor([0, 1, 0, 0])))
    assert [found[name].value for name in ("kept", "forgotten", "unseen")] == [1, 0, 0.5]
    assert found["membership"].value == 0  # the loss of the forgotten is that of unseen items which were missed
    anew = {"kept": wilson(4, 4), "forgotten": wilson(1, 2), "unseen": wilson(1, 4), "membership": wilson(1, 2)}
    assert gap_to_retraining(found, anew) == pytest.approx((0 + 0.5 + 0.25 + 0.5) / 4)
    with pytest.raises(ArgumentError):
        gap_to_retraining({"kept": wilson(1, 2)}, anew)
