"""Projected gradient descent: the attack, and training against it (Madry et al., 2018)."""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.embedding import evaluating, prepared
from tacit.errors import expect
from tacit.learner import Learner

Objective = Callable[[Tensor, Tensor], Tensor]
"""(logits, y) -> scalar, a sum or mean of one term an item, that the attack makes large."""


@system("pgd", paper="arXiv:1706.06083", modality="any", level="baseline")
class PGDTraining(Learner):
    """Adversarial training: the classifier learns on the worst perturbation of each item that PGD finds.

        loss = mean over items of  max over |x' - x| <= epsilon of  -log softmax(classifier(x'))_y          (eq. 2.1)

    The attack sees the classifier in eval mode (see `pgd_attack`); the loss itself is taken in train mode, where batch
    statistics are those of perturbed items.

    Args:
        classifier: x in [0, 1] -> logits (n, n_classes), such as `tacit.nn.Classifier`; its `prepare` is applied where
            it has one.
        epsilon, step_size, n_steps: of `pgd_attack`.

    Raises:
        ArgumentError: epsilon or step_size below 0, n_steps below 1.

    >>> learner = PGDTraining(nn.Linear(4, 3), epsilon=0.1, step_size=0.05, n_steps=3)
    >>> bool(learner.loss(torch.rand(2, 4), torch.tensor([0, 2])) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "batch_size": 128,
            "max_steps": 80_000,
            "weight_decay": 2e-4,
            "n_steps": 7,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 128,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "n_steps": 5,
        },
    }

    def __init__(
        self, classifier: nn.Module, *, epsilon: float = 8 / 255, step_size: float = 2 / 255, n_steps: int = 10
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.attack = attack(epsilon, step_size, n_steps)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        perturbed = self.attack(self.classifier, prepared(self.classifier, x), y)
        return F.cross_entropy(self.classifier(perturbed), y)


@system("pgd", paper="arXiv:1706.06083", modality="any", level="baseline")
def pgd_attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    n_steps: int = 10,
    objective: Objective = F.cross_entropy,
    start: Tensor | None = None,
) -> Tensor:
    """Perturb each item within the ball of the maximum norm so that the objective is large (section 2.1).

        x' <- projection onto |x' - x| <= epsilon and [0, 1] of  x' + step_size * sign(gradient of objective at x')

    The model is held in eval mode for the attack, so that batch statistics are neither read from a batch of attacks
    nor moved by one, and items do not act on each other. Its modes come back afterwards, and its parameters get no
    gradient.

    Args:
        model: x -> logits (n, n_classes).
        x: (n, ...), floats in [0, 1].
        y: int64 (n,), or whatever the objective takes.
        epsilon: radius in each coordinate, on the scale of x.
        step_size: of each step, in the same units.
        n_steps: gradient steps, at least 1.
        objective: (logits, y) -> scalar; by default the cross-entropy.
        start: (n, ...), where to begin; by default drawn uniformly from the ball.

    Returns:
        x', (n, ...), detached.

    Raises:
        ArgumentError: epsilon or step_size below 0, n_steps below 1.

    >>> x = torch.full((2, 4), 0.5)
    >>> attacked = pgd_attack(nn.Linear(4, 3), x, torch.tensor([0, 2]), epsilon=0.1, step_size=0.05, n_steps=3)
    >>> bool((attacked - x).abs().max() <= 0.1 + 1e-6)
    True
    """
    _expect_settings(epsilon, step_size, n_steps)
    x = x.detach()
    low, high = (x - epsilon).clamp_(min=0), (x + epsilon).clamp_(max=1)
    perturbed = x + epsilon * (2 * torch.rand_like(x) - 1) if start is None else start.detach()
    perturbed = perturbed.clamp(low, high)
    with evaluating(model), torch.enable_grad():
        for _ in range(n_steps):
            perturbed.requires_grad_()
            (ascent,) = torch.autograd.grad(objective(model(perturbed), y), perturbed)
            perturbed = (perturbed.detach() + step_size * ascent.sign()).clamp(low, high)
    return perturbed


def attack(epsilon: float, step_size: float, n_steps: int) -> Callable[..., Tensor]:
    """`pgd_attack` with these settings, checked at once."""
    _expect_settings(epsilon, step_size, n_steps)
    return partial(pgd_attack, epsilon=epsilon, step_size=step_size, n_steps=n_steps)


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """How far the best wrong class lies above the right one, summed over items: an objective that does not saturate.

    >>> margin_loss(torch.tensor([[3.0, 1.0]]), torch.tensor([0])).item()
    -2.0
    """
    right = logits.gather(1, y[:, None])[:, 0]
    wrong = logits.scatter(1, y[:, None], -math.inf).amax(1)
    return (wrong - right).sum()


def robust_accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    n_steps: int = 40,
    objectives: tuple[Objective, ...] = (F.cross_entropy, margin_loss),
    batch_size: int = 512,
) -> float:
    """Share of the items that are classified rightly as they are and under each of the attacks, in [0, 1].

    An upper bound on the true robust accuracy, as the attacks need not find the worst perturbation.

    Args:
        model: x in [0, 1] -> logits (n, n_classes); its `prepare` is applied where it has one.
        x: (n, ...), raw items; y: int64 (n,).
        epsilon, step_size, n_steps: of `pgd_attack`.
        objectives: one attack is made for each; none gives the plain accuracy.

    >>> robust_accuracy(nn.Identity(), torch.eye(3), torch.arange(3), epsilon=0.4), robust_accuracy(
    ...     nn.Identity(), torch.eye(3), torch.arange(3), epsilon=0.6, step_size=0.1)
    (1.0, 0.0)
    """
    device = next((p.device for p in model.parameters()), x.device)
    right = 0
    for items, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        items, labels = prepared(model, items.to(device)), labels.to(device)
        batches = [items] + [
            pgd_attack(model, items, labels, epsilon=epsilon, step_size=step_size, n_steps=n_steps, objective=objective)
            for objective in objectives
        ]
        with evaluating(model), torch.no_grad():
            right += int(torch.stack([model(batch).argmax(1) == labels for batch in batches]).all(0).sum())
    return right / len(x)


def _expect_settings(epsilon: float, step_size: float, n_steps: int) -> None:
    expect("epsilon", epsilon, epsilon >= 0, "at least 0, on the scale of inputs in [0, 1]", "such as 8/255")
    expect("step_size", step_size, step_size >= 0, "at least 0, on the scale of inputs in [0, 1]", "such as 2/255")
    expect("n_steps", n_steps, n_steps >= 1, "at least 1")


@checked("on a linear model of two classes the loss is that of the margin less epsilon |w|_1", tolerance=1e-6)
def linear_worst_case() -> tuple[float, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(6, 2).double()
        x, y = 0.3 + 0.4 * torch.rand(20, 6, dtype=torch.double), torch.randint(2, (20,))
        measured = PGDTraining(model, epsilon=0.1, step_size=0.05, n_steps=5).loss(x, y).item()
    weight = model.weight.detach()[1] - model.weight.detach()[0]
    bias = (model.bias[1] - model.bias[0]).detach()
    margins = (2 * y - 1) * (x @ weight + bias) - 0.1 * weight.abs().sum()
    return measured, F.softplus(-margins).mean().item()
