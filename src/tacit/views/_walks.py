"""Random walk with restart: the part of a network that a walker from its ego comes to see."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tacit.errors import expect


class RandomWalkWithRestart(nn.Module):
    """The subgraph induced by the nodes that a random walk with restart visits (GCC, Qiu et al., 2020, section 3.2).

    The walker starts at the ego and goes to a neighbour drawn uniformly, `n_steps` times; after each step it is set
    back to the ego with probability `restart`, as in the sampler that the authors use. With the paper's 0.8 four of
    five steps go to neighbours of the ego. Nodes keep their order and move up, and so lose their names
    ("anonymisation").

    Args:
        restart: probability, in [0, 1].
        n_steps: nodes visited, counted each time; the paper's 256 are meant for networks of hundreds.
        subgraph_size: nodes kept at most, the first in the network's order, which is breadth first; None: all visited.

    Randomness is torch's global generator, on the device of the batch. The walk runs for all items at once.

    >>> from tacit.data import Graph, ego_networks
    >>> x = torch.from_numpy(ego_networks(Graph.of([[0, 1], [0, 2], [0, 3]]), [0], size=4))
    >>> view = RandomWalkWithRestart(n_steps=1)(x)
    >>> view[0].tolist()
    [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """

    def __init__(self, restart: float = 0.8, n_steps: int = 64, subgraph_size: int | None = None) -> None:
        super().__init__()
        expect("restart", restart, 0 <= restart <= 1, "a probability in [0, 1]")
        expect("n_steps", n_steps, n_steps >= 1, "at least 1 step")
        expect("subgraph_size", subgraph_size, subgraph_size is None or subgraph_size >= 2, "at least 2 nodes, or None")
        self.restart, self.n_steps, self.subgraph_size = restart, n_steps, subgraph_size

    def forward(self, x: Tensor) -> Tensor:
        """Networks (n, k, k + f) -> (n, s, s + f), s the smaller of k and `subgraph_size`."""
        square = x.ndim == 3 and x.shape[2] >= x.shape[1] >= 1
        expect("x", tuple(x.shape), square, "networks (n, k, k + f): adjacency matrix and features of each node")
        return induced(x, self.visits(x), self.subgraph_size)

    @torch.no_grad()
    def visits(self, x: Tensor) -> Tensor:
        """bool (n, k), where the walker of each network was."""
        n, k = x.shape[:2]
        neighbours = x[:, :, :k] - torch.diag_embed(torch.diagonal(x[:, :, :k], dim1=1, dim2=2))
        up_to, items = neighbours.cumsum(2), torch.arange(n, device=x.device)
        node = torch.zeros(n, dtype=torch.int64, device=x.device)
        visited = torch.zeros(n, k, dtype=torch.bool, device=x.device)
        visited[:, 0] = True
        for chance, again in torch.rand(self.n_steps, 2, n, device=x.device):
            shares = up_to[items, node]
            reached = (shares <= chance[:, None] * shares[:, -1:]).sum(1)
            node = torch.where(reached < k, reached, node)  # an isolated node has nowhere to go
            visited[items, node] = True
            node = node.masked_fill(again < self.restart, 0)
        return visited


def induced(x: Tensor, kept: Tensor, size: int | None = None) -> Tensor:
    """The networks without the nodes that are not `kept`, the others moved up in their order.

    Args:
        x: (n, k, k + f).
        kept: bool (n, k).
        size: nodes at most, the first of those kept; None: k.

    Returns:
        (n, s, s + f), s the smaller of k and `size`.
    """
    k = x.shape[1]
    size = k if size is None else min(size, k)
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :size]
    there = kept.gather(1, order)
    rows = x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))
    adjacency = rows[:, :, :k].gather(2, order[:, None].expand(-1, size, -1)) * there[:, None]
    return torch.cat([adjacency, rows[:, :, k:]], dim=2) * there[:, :, None]
