"""GCC: Graph Contrastive Coding for Graph Neural Network Pre-Training (Qiu et al., KDD 2020)."""

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.errors import expect
from tacit.learner import Learner
from tacit.losses import info_nce
from tacit.nn import Momentum, Queue
from tacit.views._walks import RandomWalkWithRestart


@system("gcc", paper="arXiv:2006.09963", modality="graph")
class GCC(Learner):
    def __init__(
        self,
        encoder: nn.Module,
        *,
        restart: float = 0.8,
        n_steps: int = 64,
        subgraph_size: int | None = None,
        queue_size: int = 16384,
        momentum: float = 0.999,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        expect("queue_size", queue_size, queue_size >= 0, "0 (negatives of the batch) or more")
        self.encoder = encoder
        self.view = RandomWalkWithRestart(restart, n_steps, subgraph_size)
        self.key_network = Momentum(encoder, decay=momentum) if queue_size else None
        self.queue = Queue(queue_size, encoder.dim) if queue_size else None
        self.temperature = temperature
        self.train()

    def loss(self, x: Tensor) -> Tensor:
        seen, other = self.view(x), self.view(x)
        queries = self.encoder(seen)
        if self.key_network is None or self.queue is None:
            return info_nce(queries, self.encoder(other), self.temperature)
        self._keys = self.key_network(other)
        return info_nce(queries, self._keys, self.temperature, negatives=self.queue.items)

    def after_step(self, progress: float) -> None:
        if self.key_network is not None and self.queue is not None:
            self.key_network.update(self.encoder)
            self.queue.push(self._keys)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.key_network.modules() if getattr(self, "key_network", None) is not None else ():
            if isinstance(module, nn.Dropout):
                module.eval()
        return self
