"""Degrees, clustering and counts of a network: what a graph says without learning (Cai and Wang, 2018)."""

from typing import ClassVar

import torch

from tacit.catalogue import system
from tacit.claims import checked
from tacit.data import Dataset
from tacit.learner import Learner
from tacit.nn import GraphFeaturesEncoder, node_profiles


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
        self.encoder.fit(lambda: data.chunks("x"))

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> tuple[()]:
        return ()


@checked("nodes of a ring linked to k / 2 on either side have clustering 3 (k - 2) / 4 (k - 1)", tolerance=1e-6)
def clustering_of_a_ring() -> tuple[float, float]:
    k, node = 6, torch.arange(30)
    apart = (node[:, None] - node).abs()
    ring = (torch.minimum(apart, 30 - apart) <= k / 2).float()
    return node_profiles(ring[None])[0, 7, 5].item(), 3 * (k - 2) / (4 * (k - 1))
