"""GCC: Graph Contrastive Coding for Graph Neural Network Pre-Training (Qiu et al., KDD 2020)."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.errors import expect
from tacit.learner import Learner
from tacit.losses import info_nce
from tacit.nn import Momentum, Queue
from tacit.views import RandomWalkWithRestart


@system("gcc", paper="arXiv:2006.09963", modality="graph")
class GCC(Learner):
    """Two random walks from the same node see two parts of its ego-network, which are told from those of other nodes.

        q, k = encoder(walk(x)), encoder(walk(x))   subgraphs induced by random walks with restart, without names
        loss = mean of  -log( exp(q k+ / t) / sum over the keys of exp(q k / t) ),  |q| = |k| = 1           (eq. 1)

    The keys are those of the batch (the paper's E2E), or the item's own and a queue of those of earlier batches, made
    by a slow copy of the encoder (MoCo). There is no projector: what is compared is what is kept, up to its norm.
    Structure is all there is to see where the encoder reads no features of nodes, as in the paper; what has been
    learnt on some graphs then reads any other. Do not expect topics of it (Cora, Citeseer), which are in the words.

    What differs from the authors' code: walks are in ego-networks rather than in whole graphs; items are drawn
    uniformly, not in proportion to degree^(3/4); a walk has as many steps for every node, where there a hub's has more.
    As there, the key network has no dropout, and its batch norms have their statistics from the keys.

    Args:
        encoder: networks (n, k, k + f) -> (n, encoder.dim), such as `tacit.nn.GIN`; what the user keeps.
        restart: probability that a walker is set back to the ego after a step.
        n_steps: of a walk.
        subgraph_size: nodes of a view at most; None: all that were visited.
        queue_size: negatives of earlier batches, MoCo; 0: those of the batch, E2E.
        momentum: decay of the key network, with a queue.
        temperature: t, above 0.

    Batches hold at least 2 items.

    References:
        Qiu et al., KDD 2020, arXiv:2006.09963; the settings "paper" are those of the code THUDM/GCC, whose learning
        rate falls linearly.

    >>> from tacit.data import structural_graphs
    >>> from tacit.nn import GIN
    >>> learner = GCC(GIN(dim=16, num_layers=2), queue_size=64)
    >>> bool(learner.loss(torch.from_numpy(structural_graphs(18)["x"])) > 0)
    True
    """

    # On one repeated batch the loss rises at first: the queue fills with the keys of that very batch.
    loss_falls = False

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 5e-3,
            "batch_size": 32,
            "max_steps": 75_000,
            "weight_decay": 1e-5,
            "warmup": 0.1,
            "clip": 1.0,
            "restart": 0.8,
            "n_steps": 256,
            "queue_size": 16384,
            "momentum": 0.999,
            "temperature": 0.07,
        },
        # networks of 32 nodes are small, and a walk that seldom leaves the ego's neighbours sees little of them
        "small": {
            "model": "gin",
            "optimizer": "adamw",
            "lr": 5e-3,
            "batch_size": 128,
            "weight_decay": 1e-5,
            "warmup": 0.1,
            "clip": 1.0,
            "restart": 0.5,
            "n_steps": 64,
            "queue_size": 0,
        },
        "search": {"restart": [0.2, 0.5, 0.8], "n_steps": [32, 64, 128], "temperature": [0.07, 0.2]},
    }

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
        expect("temperature", temperature, temperature > 0, "a number above 0")
        self.encoder = encoder
        self.view = RandomWalkWithRestart(restart, n_steps, subgraph_size)
        self.key_network = Momentum(encoder, decay=momentum) if queue_size else None
        self.queue = Queue(queue_size, encoder.dim) if queue_size else None  # type: ignore[arg-type]
        self.temperature = temperature

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
            self.queue.push(self._keys)  # the keys of the step's last loss: with accumulation, of its last part

    def train(self, mode: bool = True) -> Self:
        """As always, save that the key network has no dropout."""
        super().train(mode)
        for module in self.key_network.modules() if self.key_network is not None else ():
            if isinstance(module, nn.Dropout):
                module.eval()
        return self


LABELS = 20
"""Labels of each class that the probes get."""


@claim(
    "its frozen features tell the roles of nodes in unseen graphs better than degrees and clustering do, at 20 labels",
    reported="competitive with or better than ProNE, GraphWave and Struc2vec in node classification (section 4.2.1)",
    proxy="roles in planted motifs of random graphs, in place of airports and authors; degree profiles and clustering "
    "in place of the three methods",
    steps={"small": 300, "full": 10_000},
)
def roles_against_degrees(bench: Bench) -> Comparison:
    """Accuracy of a linear probe on 20 labels a role, nodes of graphs that neither side has seen.

    The nine roles share degrees, so that these alone do not do; both sides see networks of 32 nodes, 3 hops.
    """
    roles = _networks(bench, "roles")

    def accuracies(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(roles)
        few = _few(train)
        encoders = [trial.pretrained(id, train).encoder for id in ("gcc", "graph-features")]
        gcc, degrees = (trial.probe(encoder, few, unseen) for encoder in encoders)
        return gcc, degrees

    return bench.trials(accuracies, baseline="graph-features", better_by=0.0, setting=roles.name)


@claim(
    "its frozen features tell the roles of nodes in unseen graphs better than those of the untrained network",
    reported="representative structural patterns are universal and transferable (hypothesis of the introduction)",
    proxy="what steps add to random features, of roles in planted motifs of random graphs",
    steps={"small": 300, "full": 10_000},
)
def roles_against_untrained(bench: Bench) -> Comparison:
    """Accuracy of a linear probe on 20 labels a role, nodes of graphs that were not trained on."""
    roles = _networks(bench, "roles")

    def accuracies(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(roles)
        few = _few(train)
        encoders = [trial.pretrained("gcc", train).encoder, trial.build("gcc", train).to(trial.device).encoder]
        gcc, untrained = (trial.probe(encoder, few, unseen) for encoder in encoders)
        return gcc, untrained

    return bench.trials(accuracies, baseline="untrained", better_by=0.0, setting=roles.name)


@claim(
    "its frozen features and a linear probe do better at 20 labels a class than the same network trained on these",
    reported="competitive or better performance to its task-specific and trained-from-scratch counterparts (abstract)",
    proxy="roles in planted motifs of random graphs; frozen, where the paper also fine-tunes",
    steps={"small": 300, "full": 10_000},
)
def roles_against_scratch(bench: Bench) -> Comparison:
    """Accuracy on the nodes of unseen graphs; both sides have the same 180 labels, network, steps and batch size."""
    roles = _networks(bench, "roles")

    def accuracies(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(roles)
        few = _few(train)
        gcc = trial.probe(trial.pretrained("gcc", train).encoder, few, unseen)
        scratch = trial.fit(trial.build("supervised", few), few, batch_size=min(128, len(few)))
        return gcc, unseen.score(trial.predict(scratch.classifier, unseen.x))

    return bench.trials(accuracies, baseline="supervised from scratch", better_by=0.0, setting=roles.name)


@claim(
    "its frozen features tell what drew a graph better than degrees and clustering do, at 20 labels a class",
    reported="competitive with or better than graph2vec and InfoGraph on five sets of graphs (section 4.2.2)",
    proxy="whole graphs of 16 to 32 nodes by four generators of equal mean degree, in place of films and forums",
    steps={"small": 300, "full": 10_000},
)
def generators_against_degrees(bench: Bench) -> Comparison:
    """Accuracy of a linear probe on 20 labels a generator, on unseen graphs."""
    drawn = _networks(bench, "generators")

    def accuracies(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(drawn)
        few = _few(train)
        encoders = [trial.pretrained(id, train).encoder for id in ("gcc", "graph-features")]
        gcc, degrees = (trial.probe(encoder, few, unseen) for encoder in encoders)
        return gcc, degrees

    return bench.trials(accuracies, baseline="graph-features", better_by=0.0, setting=drawn.name)


def _networks(bench: Bench, task: str) -> Any:
    """Drawn networks, those of `roles` cut between graphs."""
    from tacit.data import structural_graphs

    n = bench.pick(smoke=180, small=1800, full=18_000)  # whole graphs of 18 items
    return bench.drawn(structural_graphs, n=n, n_test=n, modality="graph", task=task)


def _few(train: Any) -> Any:
    """The first 20 items of each class, in the order that the seed drew."""
    return train.select(torch.cat([(train.y == label).nonzero()[:LABELS, 0] for label in train.y.unique()]))
