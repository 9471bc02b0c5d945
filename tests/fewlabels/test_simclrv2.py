import copy

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.fewlabels import Distillation, SimCLRv2, semi_supervised
from tacit.nn import Classifier, ResNet
from tacit.views import as_float


class AsIs(torch.nn.Module):
    def forward(self, x):
        return as_float(x, x.shape[-1])


class Mirrored(torch.nn.Module):
    def forward(self, x):
        return x, x.flip(-1)


def encoder(width=4, seed=0):
    torch.manual_seed(seed)
    return ResNet(8, width=width, image_size=8)


def images(n=6):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_pretraining_is_the_nt_xent_of_three_layer_projections():
    learner = SimCLRv2(encoder(), views=Mirrored(), hidden_dim=12, embed_dim=5, temperature=0.3).eval()
    linears = [layer for layer in learner.projector if isinstance(layer, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in linears] == [(12, 16), (12, 12), (5, 12)]
    x = images()
    z = torch.cat([learner.projector(learner.encoder(view)) for view in (x, x.flip(-1))]).double()
    z, n = z / z.norm(dim=1, keepdim=True), len(x)
    total = 0.0
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        weights = torch.stack([(z[i] @ z[k] / 0.3).exp() for k in others])
        total -= ((z[i] @ z[(i + n) % (2 * n)] / 0.3).exp() / weights.sum()).log() / (2 * n)
    torch.testing.assert_close(learner.loss(x).double(), total, rtol=1e-5, atol=1e-6)


def test_fine_tuning_starts_from_the_heads_first_layer_and_trains_the_learners_own():
    learner = SimCLRv2(encoder(), hidden_dim=12).eval()
    x = images()
    classifier = learner.fine_tunable(3).eval()
    first, norm = learner.projector[0], learner.projector[1]
    expected = norm(learner.encoder(x) @ first.weight.T).relu()
    torch.testing.assert_close(classifier.encoder(x), expected)
    assert classifier.head.in_features == 12
    assert torch.equal(classifier(x), torch.zeros(6, 3))
    assert any(parameter is first.weight for parameter in classifier.parameters())
    assert learner.fine_tunable(3, from_layer=0).encoder is learner.encoder
    with pytest.raises(ArgumentError, match="from_layer=3"):
        learner.fine_tunable(3, from_layer=3)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_distillation_is_equation_2(temperature):
    student, teacher = (Classifier(encoder(seed=seed), 3).eval() for seed in (0, 1))
    learner = Distillation(student, teacher, views=AsIs(), temperature=temperature).eval()
    x, total = images(), 0.0
    for image in x:
        p, q = (net(image[None])[0].double() / temperature for net in (teacher, student))
        p, q = p.exp() / p.exp().sum(), q.exp() / q.exp().sum()
        total -= sum(p[k] * q[k].log() for k in range(3)) / len(x)
    torch.testing.assert_close(learner.loss(x).double(), total, rtol=1e-4, atol=1e-5)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn():
    teacher = Classifier(encoder(), 3)
    learner = Distillation(copy.deepcopy(teacher), teacher, views=AsIs()).eval()
    gradients = torch.autograd.grad(learner.loss(images()), list(learner.classifier.parameters()))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-6


def test_the_teacher_is_frozen_and_stays_in_eval_mode():
    learner = Distillation(Classifier(encoder(), 3), Classifier(encoder(), 3)).train()
    assert not learner.teacher.training
    assert not any(parameter.requires_grad for parameter in learner.teacher.parameters())


def test_all_three_steps_and_the_same_call_again(tmp_path):
    x, y = images(16), torch.arange(16) % 2
    words = {"max_steps": 2, "batch_size": 8, "seed": 0}

    def run():
        steps = {"pretrain": words, "fine_tune": words, "distil": words}
        torch.manual_seed(0)
        return semi_supervised(
            {"x": x},
            {"x": x[:8], "y": y[:8]},
            encoder=encoder(),
            n_classes=2,
            student=encoder(2),
            out=tmp_path,
            **steps,
        )

    first = run()
    assert first.encoder.dim == 8
    assert {path.name for path in (tmp_path / "stages").iterdir()} == {"pretrain", "fine-tune", "distil"}
    again = run()
    for name, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
