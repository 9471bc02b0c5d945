"""Distilling the Knowledge in a Neural Network (Hinton, Vinyals & Dean, 2015)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.embedding import prepared
from tacit.errors import expect
from tacit.learner import Learner


@system("kd", paper="arXiv:1503.02531", modality="image", level="baseline")
class KnowledgeDistillation(Learner):
    """A small classifier learns from labels and from what a larger one thinks of all classes.

        loss = label_weight * CE(z, y) + soft_weight * T^2 KL( softmax(t / T) || softmax(z / T) )          (section 2)

    where z are the student's logits and t the teacher's. T^2 keeps the size of the second gradient when T changes.

    Args:
        classifier: the student, such as `tacit.nn.Classifier`: x -> logits (n, n_classes); what the user keeps.
        teacher: a trained classifier of the same classes, which takes what the student takes. It is frozen: from now on
            its parameters ask for no gradient, and it stays in eval mode.
        views: batch -> augmented batch that both see, instead of `classifier.prepare`.
        temperature: T, above 0.
        label_weight, soft_weight: of the two terms. The paper says only that the labels' should be considerably lower;
            0.1 and 0.9 at T = 4 are what the literature on CIFAR-100 settled on (Tian et al., 2020).

    Batches hold at least 2 images where the student has batch normalisation.

    >>> from tacit.nn import Classifier, ResNet
    >>> student, teacher = (Classifier(ResNet(8, width=width, image_size=16), 10) for width in (4, 8))
    >>> learner = KnowledgeDistillation(student, teacher)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16), torch.tensor([0, 3, 1, 1])) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {  # of Tian et al., 2020, on CIFAR-100; Hinton et al. distilled on MNIST and speech
            "optimizer": "sgd",
            "lr": 0.05,
            "momentum": 0.9,
            "batch_size": 64,
            "epochs": 240,
            "weight_decay": 5e-4,
            "warmup": 0.0,
        },
        "small": {
            "optimizer": "sgd",
            "lr": 0.3,
            "momentum": 0.9,
            "batch_size": 128,
            "weight_decay": 5e-4,
            "warmup": 0.05,
        },
    }

    def __init__(
        self,
        classifier: nn.Module,
        teacher: nn.Module,
        *,
        views: nn.Module | None = None,
        temperature: float = 4.0,
        label_weight: float = 0.1,
        soft_weight: float = 0.9,
    ) -> None:
        super().__init__()
        expect("temperature", temperature, temperature > 0, "a number above 0")
        expect("label_weight", label_weight, label_weight >= 0, "a number of at least 0")
        expect("soft_weight", soft_weight, soft_weight >= 0, "a number of at least 0")
        self.classifier, self.teacher, self.views = classifier, teacher.requires_grad_(False).eval(), views
        self.temperature, self.label_weight, self.soft_weight = temperature, label_weight, soft_weight

    @property
    def encoder(self) -> nn.Module:
        """The student's, where it is a `tacit.nn.Classifier`."""
        return self.classifier.encoder

    def train(self, mode: bool = True) -> "KnowledgeDistillation":
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        view = prepared(self.classifier, x) if self.views is None else self.views(x)
        logits = self.classifier(view)
        with torch.no_grad():
            target = self.teacher(view)
        expect("teacher", tuple(target.shape), target.shape == logits.shape, f"logits of shape {tuple(logits.shape)}")
        soft = soft_target_loss(logits, target, self.temperature)
        return self.label_weight * F.cross_entropy(logits, y) + self.soft_weight * soft


def soft_target_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 KL( softmax(teacher / T) || softmax(logits / T) ), mean over the items: (n, k), (n, k) -> scalar.

    >>> soft_target_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).item()  # the same softmax
    0.0
    """
    student = (logits.float() / temperature).log_softmax(dim=1)
    teacher = (teacher_logits.float() / temperature).log_softmax(dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


@checked("at high temperature distillation matches centred logits: half their mean squared difference", tolerance=1e-3)
def matching_logits_is_a_special_case() -> tuple[float, float]:
    """Section 2.1, eq. 4, integrated: sum over k of (z_k - t_k)^2 / (2 K), for logits of mean 0."""
    generator = torch.Generator().manual_seed(0)
    z, t = (torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    z, t = (logits - logits.mean(dim=1, keepdim=True) for logits in (z, t))
    return soft_target_loss(z, t, temperature=100.0).item(), ((z - t) ** 2).mean(dim=1).mul(0.5).mean().item()
