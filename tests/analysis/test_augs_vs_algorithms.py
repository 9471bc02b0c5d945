import numpy as np
import pytest
import torch
from torch import nn

from tacit.analysis import SSLTemplate, factor_study
from tacit.analysis._augs_vs_algorithms import ALGORITHMS, AUGMENTATIONS
from tacit.errors import ArgumentError
from tacit.nn import ResNet
from tacit.pretrain import BYOL, DCL, BarlowTwins, MoCoV2, SimCLR, SimSiam, SwAV, VICReg
from tacit.views import as_float


class Two(nn.Module):
    """Two fixed views."""

    def forward(self, x):
        x = as_float(x, x.shape[-1])
        return x, x.flip(-1) * 0.8


class Four(Two):
    def forward(self, x):
        a, b = super().forward(x)
        return a, b, a[..., :4, :4], b[..., 4:, 4:]


def template(algorithm, views=None, **arguments):
    torch.manual_seed(0)
    encoder = ResNet(8, width=4, image_size=8)
    views = Two() if views is None else views
    return SSLTemplate(encoder, algorithm=algorithm, views=views, embed_dim=6, hidden_dim=12, **arguments)


def batch(n=7):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def own(kind, algorithm, parts, **arguments):
    """A method's own class, with the template's networks in the places of its own."""
    one = template(algorithm)
    learner = kind(one.encoder, views=Two(), **arguments)
    for name, part in parts.items():
        setattr(learner, name, getattr(one, part))
    return one, learner


@pytest.mark.parametrize(
    ("kind", "algorithm", "parts", "arguments", "factor"),
    [
        (SimCLR, "simclr", {"projector": "projector"}, {"temperature": 0.2}, 1),
        (DCL, "dcl", {"projector": "projector"}, {"temperature": 0.2}, 1),
        (VICReg, "vicreg", {"expander": "projector"}, {"embed_dim": 8}, 1),
        (BarlowTwins, "barlow-twins", {"projector": "projector"}, {"embed_dim": 8}, 1),
        (BYOL, "byol", {"projector": "projector", "predictor": "predictor", "target": "target"}, {}, 4),
        (SimSiam, "simsiam", {"projector": "projector", "predictor": "predictor"}, {}, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_setting_of_the_template_is_the_method(kind, algorithm, parts, arguments, factor):
    """BYOL sums 2 - 2 cos over two directions where the template averages 1 - cos; SimSiam averages -cos."""
    one, learner = own(kind, algorithm, parts, **arguments)
    ours, theirs = one.loss(batch()), learner.loss(batch())
    torch.testing.assert_close(ours - 1 if factor is None else factor * ours, theirs)


def test_moco_is_a_setting_seen_from_both_sides():
    one, learner = own(MoCoV2, "moco", {"projector": "projector", "key_network": "target"}, temperature=0.2)
    learner.queue = one.criterion.queue
    there = learner.loss(batch())
    learner.views = type("Swapped", (Two,), {"forward": lambda self, x: Two.forward(self, x)[::-1]})()
    torch.testing.assert_close(one.loss(batch()), (there + learner.loss(batch())) / 2)


def test_swav_is_a_setting():
    one = template("swav", n_prototypes=5)
    learner = SwAV(one.encoder, views=Two(), freeze_prototypes=0.0)
    learner.projector, learner.prototypes = one.projector[0], one.projector[1]
    one.eval(), learner.eval()  # SwAV projects all crops in one batch: batch statistics would differ
    torch.testing.assert_close(one.loss(batch()), learner.loss(batch()))


def test_dino_is_the_cross_entropy_with_a_centred_sharpened_teacher():
    one = template("dino", views=Four(), n_prototypes=5).eval()
    one.criterion.centering.center = torch.linspace(-0.2, 0.2, 5)
    views, total = Four()(batch()), 0.0
    student = [one.projector(one.encoder(view)) for view in views]
    for u in range(2):
        teacher = ((one.target(views[u]) - one.criterion.centering.center) / 0.04).softmax(1)
        for v in range(4):
            if v != u:
                total -= (teacher * (student[v] / 0.1).log_softmax(1)).sum(1).mean() / 6
    torch.testing.assert_close(one.loss(batch()), total)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_takes_more_than_two_views_and_learns(algorithm):
    one = template(algorithm, views=Four(), **({"queue_size": 16} if algorithm == "moco" else {}))
    one.loss(batch()).backward()
    one.after_step(0.1)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in one.encoder.parameters())


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_gives_two_large_views_first(name):
    views = AUGMENTATIONS[name](16, 3)(batch())
    assert [view.shape[-1] for view in views[:2]] == [16, 16]
    assert len(views) == (6 if name == "multi-crop" else 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"algorithm": "simclear"}, "simclr"),
        ({"algorithm": "simclr", "augmentation": "colour"}, "color"),
        ({"algorithm": "simclr", "target": "momentun"}, "momentum"),
        ({"algorithm": "simclr", "loss": "swapped"}, "n_prototypes=0"),
        ({"algorithm": "simclr", "loss": "info-nce"}, "queue_size=0"),
    ],
)
def test_a_wrong_word_is_named(arguments, says):
    with pytest.raises(ArgumentError, match=says):
        template(**arguments)


def test_the_study_fills_every_cell_and_trains_on_no_scored_image():
    x = torch.randint(0, 256, (60, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(60) % 2
    x[y == 0, 0] = 255  # classes apart in red
    two = {"augmentations": ["crop", "color"], "algorithms": ["simclr", "vicreg"], "seeds": [0, 1]}
    study = factor_study(x, y, **two, max_steps=1, batch_size=16)
    assert np.isfinite(study.scores).all()
    assert study.scores.min() > 0.6
    assert [row.name for row in study.anova] == ["augmentation", "algorithm", "interaction", "residual"]
