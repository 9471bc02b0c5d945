"""GraphFeaturesEncoder: degrees, clustering and counts of a network (Cai and Wang, 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from torch import Tensor

from tacit.nn._graph import GraphEncoder

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

    center: Tensor
    scale: Tensor

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

    def fit(self, batches: Callable[[], Iterable[Tensor]]) -> Self:
        """Fit `center` and `scale` to all items, in two passes.

        Args:
            batches: gives the items of a pass, networks (b, k, k + f).
        """
        sums = [(raw.sum(0), len(raw)) for raw in map(self._exact, batches())]
        n = sum(count for _, count in sums)
        center = torch.stack([total for total, _ in sums]).sum(0) / n
        square = torch.stack([(self._exact(x) - center).square().sum(0) for x in batches()]).sum(0) / n
        self.center = center.to(self.center)
        self.scale = torch.where(square > 1e-12, square.sqrt(), 1).to(self.scale)
        return self

    def _exact(self, x: Tensor) -> Tensor:
        return self.raw(self.prepare(x)).double()


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
