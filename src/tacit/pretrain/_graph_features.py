"""Degrees, clustering and counts of a network: what a graph says without learning (Cai and Wang, 2018)."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import checked
from tacit.data import Dataset
from tacit.learner import Learner
from tacit.nn import GraphEncoder

PER_NODE = 6
"""Numbers of `node_profiles`."""


class GraphFeaturesEncoder(GraphEncoder):
    """Networks (n, k, k + f) -> (n, dim): what `GraphFeatures` says, standardised.

    Args:
        in_features: features of a node that are read; 0: structure alone.
        size: nodes of a network that `prepare` makes.

    Attributes:
        center, scale: (dim,) mean and deviation of the features over the data.
    """

    def __init__(self, *, in_features: int = 0, size: int = 32) -> None:
        super().__init__(in_features=in_features, size=size)
        self.dim = 3 * PER_NODE + 2 + 2 * in_features
        self.config: dict[str, Any] = {"name": "graph-features", "in_features": in_features, "size": size}
        self.register_buffer("center", torch.zeros(self.dim))
        self.register_buffer("scale", torch.ones(self.dim))

    def forward(self, x: Tensor) -> Tensor:
        return (self.raw(x) - self.center) / self.scale

    def tokens(self, x: Tensor) -> Tensor:
        """(n, k, 6): `node_profiles`."""
        return node_profiles(x[:, :, : x.shape[1]])

    def raw(self, x: Tensor) -> Tensor:
        """The features as they are."""
        self.expect_networks(x)
        x = x.to(self.center.dtype)
        exists = self.mask(x).to(x.dtype)
        adjacency = x[:, :, : x.shape[1]] - torch.diag_embed(exists)
        nodes, edges = exists.sum(1), adjacency.sum((1, 2)) / 2
        profiles = node_profiles(x[:, :, : x.shape[1]])
        mean = profiles.sum(1) / nodes[:, None].clamp_min(1)
        spread = ((profiles - mean[:, None]).square() * exists[:, :, None]).sum(1) / nodes[:, None].clamp_min(1)
        counts = torch.stack([nodes.log1p(), edges.log1p()], dim=1)
        own = self.node_features(x) * exists[:, :, None]
        around = (adjacency[:, :1] @ own)[:, 0] / adjacency[:, 0].sum(1, keepdim=True).clamp_min(1)
        return torch.cat([profiles[:, 0], mean, spread.sqrt(), counts, own[:, 0], around], dim=1)

    def fit(self, data: Dataset) -> Self:
        """Mean and deviation over the items, in two passes."""
        n = len(data)
        total = torch.stack([self.raw(self.prepare(rows)).double().sum(0) for rows in data.chunks("x")])
        center = total.sum(0) / n
        square = [(self.raw(self.prepare(rows)).double() - center).square().sum(0) for rows in data.chunks("x")]
        deviation = (torch.stack(square).sum(0) / n).sqrt()
        self.center = center.to(self.center.dtype)
        self.scale = torch.where(deviation > 1e-6, deviation, 1).to(self.scale.dtype)
        return self


def node_profiles(adjacency: Tensor) -> Tensor:
    """Of each node its degree; least, greatest, mean and deviation of its neighbours' degrees; its clustering.

    The first five are the local degree profile of Cai and Wang; clustering is the share of pairs of neighbours that are
    linked. An isolated node has 0 everywhere.

    Args:
        adjacency: (n, k, k), whatever the diagonal.

    Returns:
        (n, k, 6)

    >>> node_profiles(torch.tensor([[[0.0, 1, 1], [1, 0, 0], [1, 0, 0]]]))[0, 0].tolist()
    [2.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    """
    a = adjacency - torch.diag_embed(torch.diagonal(adjacency, dim1=1, dim2=2))
    degree = a.sum(2)
    some = degree.clamp_min(1)
    linked, degrees = a > 0, degree[:, None].expand_as(a)
    least = degrees.masked_fill(~linked, torch.inf).amin(2).nan_to_num(posinf=0)
    mean = (a @ degree[:, :, None])[:, :, 0] / some
    variance = (a * (degrees - mean[:, :, None]).square()).sum(2) / some
    clustering = (a @ a * a).sum(2) / (degree * (degree - 1)).clamp_min(1)
    return torch.stack([degree, least, (degrees * a).amax(2), mean, variance.sqrt(), clustering], dim=2)


@system("graph-features", paper="arXiv:1811.03508", modality="graph", level="baseline")
class GraphFeatures(Learner):
    """Describes a network by degrees and counts, and learns no more than their means and deviations.

    20 numbers: the ego's profile (`node_profiles`), the mean and the deviation of the profiles of all nodes, and the
    logarithms of the numbers of nodes and edges. With `in_features` also the ego's features and the mean of its
    neighbours'. Cai and Wang take histograms over the nodes of a graph in place of mean and deviation, and no
    clustering.

    Args:
        in_features: features of a node that are read; 0: structure alone.
        size: nodes of a network that the encoder's `prepare` makes.

    >>> from tacit.data import structural_graphs
    >>> learner = GraphFeatures()
    >>> learner.before_fit(Dataset({"x": structural_graphs(50)["x"]}))
    >>> x = torch.from_numpy(structural_graphs(50)["x"])
    >>> learner.encoder(x).shape, bool(learner.encoder(x).mean().abs() < 1e-5)
    (torch.Size([50, 20]), True)
    """

    settings: ClassVar = {"small": {}}

    def __init__(self, *, in_features: int = 0, size: int = 32) -> None:
        super().__init__()
        self.encoder = GraphFeaturesEncoder(in_features=in_features, size=size)

    def before_fit(self, data: Dataset) -> None:
        self.encoder.fit(data)

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> tuple[()]:
        return ()


@checked("the mean clustering of networks that are cliques is 1, and of trees 0", tolerance=1e-6)
def clustering_of_cliques_and_trees() -> tuple[list[float], list[float]]:
    star = torch.zeros(8, 8)
    star[0, 1:] = star[1:, 0] = 1
    profiles = node_profiles(torch.stack([torch.ones(8, 8), star]))
    return profiles[:, :, 5].mean(1).tolist(), [1.0, 0.0]
