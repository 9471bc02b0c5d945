"""A system small enough to run its claims in a test: a linear map that learns to tell two blobs apart."""

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tacit.catalogue import system
from tacit.claims import checked, claim, drawing
from tacit.learner import Learner


def blobs(n, *, seed, distance=4.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return {"x": (rng.normal(size=(n, 3)) + distance * y[:, None]).astype(np.float32), "y": y}


@system("toy", paper="Nobody, 1999", modality="points")
class Toy(Learner):
    settings: ClassVar = {"small": {"lr": 0.1, "batch_size": 20, "optimizer": "sgd"}, "search": {"scale": [1.0, 3.0]}}

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale, self.classifier = scale, nn.Linear(3, 2)

    def loss(self, x, y):
        return F.cross_entropy(self.scale * self.classifier(x), y)


@system("toy-still", paper="Nobody, 1999", modality="points", level="baseline")
class Still(Toy):
    """The same, which never learns."""

    settings: ClassVar = {"small": {"lr": 0.1, "batch_size": 20, "optimizer": "sgd"}}

    def __init__(self):
        super().__init__()
        self.register_buffer("fixed", torch.zeros(1))

    def loss(self, x, y):
        return 0 * super().loss(x, y)


@claim("learning beats standing still", reported="99 % against 50 %", steps={"small": 12})
def learns(bench):
    """Accuracy on unseen points."""
    data = bench.drawn(blobs, n=60, n_test=50, distance=3.0)

    def both(trial):
        train, unseen = trial.split(data)
        scores = []
        for kind in (Toy, Still):
            fitted = trial.fit(kind(), train)
            scores.append(unseen.score(trial.predict(fitted.classifier, unseen.x)))
        return scores

    return bench.trials(both, baseline="toy-still", better_by=0.0)


@claim("standing still beats learning", reported="nowhere", proxy="of a false claim", steps={"small": 12})
def stands(bench):
    data = bench.drawn(blobs, n=60, n_test=50, distance=3.0)

    def both(trial):
        train, unseen = trial.split(data)
        return [0.0, unseen.score(train.y[: len(unseen)])]

    return bench.trials(both, baseline="guesses", better_by=0.0)


@drawing("the two classes' weights, as grey pictures", steps={"small": 12})
def weights(bench, trial):
    fitted = trial.pretrained("toy", trial.split(bench.drawn(blobs, n=60, n_test=50))[0])
    rows = fitted.classifier.weight.detach().sigmoid()
    return trial.sheet([[row.reshape(1, 1, 3).expand(1, 3, 3) for row in rows]], titles=["one", "other"])


@checked("one and one are two", tolerance=0.0, system="toy-still")
def adds():
    return 1 + 1, 2
