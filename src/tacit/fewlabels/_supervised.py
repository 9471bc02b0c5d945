"""Plain supervised learning: cross-entropy on labels, the baseline of whatever else uses labels."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.embedding import prepared
from tacit.learner import Learner


@system("supervised", paper="Bridle, Probabilistic interpretation of classification network outputs, 1990",
        modality="any", level="baseline")  # fmt: skip
class Supervised(Learner):
    """A classifier trained by the cross-entropy of its softmax, or by a criterion of yours.

        loss = mean over items of  -log softmax(classifier(x))_y

    Args:
        classifier: x -> logits (n, n_classes), such as `tacit.nn.Classifier`; its `prepare` is applied if it has one.
        views: batch -> augmented batch, instead of `classifier.prepare`.
        criterion: (logits, y) -> scalar, in place of the cross-entropy.

    >>> learner = Supervised(nn.Linear(4, 3))
    >>> learner.loss(torch.zeros(2, 4), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    settings: ClassVar = {
        "small": {"optimizer": "adamw", "lr": 2e-3, "batch_size": 128, "weight_decay": 1e-4, "warmup": 0.05}
    }

    def __init__(
        self, classifier: nn.Module, *, views: nn.Module | None = None, criterion: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.classifier, self.views, self.criterion = classifier, views, criterion

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.classifier(prepared(self.classifier, x) if self.views is None else self.views(x))
        return F.cross_entropy(logits, y) if self.criterion is None else self.criterion(logits, y)


@checked("logits that are all alike cost log(n_classes)", tolerance=1e-6)
def chance_level() -> tuple[float, float]:
    classifier = nn.Linear(4, 10)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    loss = Supervised(classifier).loss(torch.ones(5, 4), torch.arange(5))
    return loss.item(), math.log(10)
