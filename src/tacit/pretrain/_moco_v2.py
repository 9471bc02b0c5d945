"""MoCo v2: Improved Baselines with Momentum Contrastive Learning (Chen et al., 2020)."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.learner import Learner
from tacit.losses import info_nce
from tacit.nn import Momentum, Queue, mlp
from tacit.views import two_crops


@system("moco-v2", paper="arXiv:2003.04297", modality="image", level="baseline")
class MoCoV2(Learner):
    """A query finds its key, made by a slow copy of the network, among a queue of the keys of earlier batches.

        loss = mean of  -log( exp(q k+ / t) / (exp(q k+ / t) + sum over the queue of exp(q k- / t)) )        (eq. 1)

    The authors shuffle the batch between devices, lest the batch normalisation of one device tell which key belongs to
    a query. On a single device that means nothing (queries and keys have their statistics apart), so it is left out.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> two batches of views, the first for the queries; by default the paper's.
        embed_dim: width of queries and keys.
        hidden_dim: width of the projector's hidden layer.
        queue_size: number of negatives; best a small share of the data, since an image's own old keys are among them.
        temperature: t, above 0.
        momentum: decay of the key network, constant.

    Batches hold at least 2 images.

    >>> from tacit.nn import ResNet
    >>> learner = MoCoV2(ResNet(8, width=8, image_size=16), hidden_dim=32, queue_size=64)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    # On one repeated batch the loss rises at first: the queue fills with the keys of that very batch.
    loss_falls = False

    settings: ClassVar = {
        "paper": {
            "optimizer": "sgd",
            "lr": 0.03,
            "batch_size": 256,
            "epochs": 200,
            "weight_decay": 1e-4,
            "warmup": 0.0,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "hidden_dim": 512,
            "queue_size": 2048,
            "momentum": 0.98,
        },
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        embed_dim: int = 128,
        hidden_dim: int = 2048,
        queue_size: int = 65536,
        temperature: float = 0.2,
        momentum: float = 0.999,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = (
            two_crops(encoder.image_size, channels=encoder.in_channels, preset="moco-v2") if views is None else views
        )
        self.projector = mlp(encoder.dim, hidden_dim, embed_dim, norm=None)
        self.key_network = Momentum(encoder, self.projector, decay=momentum)
        self.queue = Queue(queue_size, embed_dim)
        self.temperature = temperature

    def loss(self, x: Tensor) -> Tensor:
        seen, unseen = self.views(x)
        queries, self._keys = self.projector(self.encoder(seen)), self.key_network(unseen)
        return info_nce(queries, self._keys, self.temperature, negatives=self.queue.items)

    def after_step(self, progress: float) -> None:
        self.key_network.update(self.encoder, self.projector)
        self.queue.push(self._keys)  # the keys of the step's last loss: with accumulation, of its last part


@checked("a query on its key and across the queue costs log(1 + K exp(-1/t))", tolerance=1e-5)
def cost_of_the_queue() -> tuple[float, float]:
    query, queue, t = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]).expand(32, 2), 0.2
    return info_nce(query, query, t, negatives=queue).item(), math.log(1 + 32 * math.exp(-1 / t))
