"""TRADES: Theoretically Principled Trade-off between Robustness and Accuracy (Zhang et al., 2019)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.embedding import evaluating, prepared
from tacit.errors import expect
from tacit.learner import Learner
from tacit.robust._pgd import attack


@system("trades", paper="arXiv:1901.08573", modality="any", level="baseline")
class TRADES(Learner):
    """Be right on the items as they are, and say the same of their neighbours.

        loss = mean over items of  -log p(x)_y + beta * max over |x' - x| <= epsilon of  KL(p(x) || p(x'))

    with p the softmax of the classifier (section 4, for several classes). The attack is made in eval mode (see
    `pgd_attack`), on the divergence from the fixed p(x). As in the authors' code it starts at x + 0.001 * normal noise,
    since the divergence has no slope at x itself. In the loss, items and attacks go through the classifier in train
    mode, one batch after the other, and the gradient flows through both.

    Args:
        classifier: x in [0, 1] -> logits (n, n_classes), such as `tacit.nn.Classifier`; its `prepare` is applied where
            it has one.
        beta: weight of the divergence, 1 / lambda in the paper; above it robustness, below it accuracy.
        epsilon, step_size, n_steps: of `pgd_attack`.

    Raises:
        ArgumentError: beta, epsilon or step_size below 0, n_steps below 1.

    >>> learner = TRADES(nn.Linear(4, 3), epsilon=0.1, step_size=0.05, n_steps=3)
    >>> bool(learner.loss(torch.rand(2, 4), torch.tensor([0, 2])) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "batch_size": 128,
            "epochs": 80,
            "weight_decay": 2e-4,
            "epsilon": 0.031,
            "step_size": 0.007,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 128,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "beta": 6.0,
            "n_steps": 5,
        },
        "search": {"beta": (1.0, 3.0, 6.0, 12.0, 24.0)},
    }

    def __init__(
        self,
        classifier: nn.Module,
        *,
        beta: float = 6.0,
        epsilon: float = 8 / 255,
        step_size: float = 2 / 255,
        n_steps: int = 10,
    ) -> None:
        super().__init__()
        expect("beta", beta, beta >= 0, "at least 0", "the paper takes 1 and 6")
        self.classifier, self.beta = classifier, beta
        self.attack = attack(epsilon, step_size, n_steps)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        x = prepared(self.classifier, x)
        perturbed = self._most_divergent(x)
        logits = self.classifier(x)
        divergence = _divergence(self.classifier(perturbed), logits.log_softmax(1))
        return F.cross_entropy(logits, y) + self.beta * divergence

    def _most_divergent(self, x: Tensor) -> Tensor:
        with evaluating(self.classifier), torch.no_grad():
            reference = self.classifier(x).log_softmax(1)
        start = x + 0.001 * torch.randn_like(x)
        return self.attack(self.classifier, x, reference, objective=_divergence, start=start)


def _divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Mean of KL(reference || softmax(logits)), the reference given by its logarithms, (n, n_classes) both."""
    return F.kl_div(logits.log_softmax(1), reference, reduction="batchmean", log_target=True)


@checked("for a linear model of two classes, on its boundary, the divergence is -log(4 s (1 - s)) / 2", tolerance=1e-6)
def linear_boundary() -> tuple[float, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(6, 2, bias=False).double()
        x, y = torch.full((4, 6), 0.5, dtype=torch.double), torch.tensor([0, 1, 1, 0])
        weight = model.weight.data[1] - model.weight.data[0]
        weight -= weight.mean()  # logits are equal at x
        model.weight.data = torch.stack([torch.zeros_like(weight), weight])
        measured = TRADES(model, beta=6.0, epsilon=0.1, step_size=0.05, n_steps=5).loss(x, y).item()
    s = (0.1 * weight.abs().sum()).sigmoid()
    return measured, (torch.log(torch.tensor(2.0)) - 3 * torch.log(4 * s * (1 - s))).item()
