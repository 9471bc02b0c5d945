"""GIN: the graph isomorphism network on ego-networks or whole graphs, as dense padded matrices."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from tacit.errors import DataError, expect
from tacit.nn._item_encoder import ItemEncoder

READOUTS = ("sum", "ego")


class GraphEncoder(ItemEncoder):
    """What encoders of graphs share: items are small graphs, as float32 (n, k, k + f).

    The first k columns are the adjacency matrix with 1 on the diagonal where a node exists, the others the features of
    the nodes (f = `in_features`; where that is 0 they are left out, and not looked at). Node 0 is the ego.

    Args:
        in_features: numbers that describe a node; more than these in the data are reduced to them by a truncated
            singular value decomposition that `fit_prepare` fits.
        size: nodes of a network that `prepare` makes, k; tensors of any k are taken.

    Attributes:
        mean, std: (in_features,) of the nodes' features; forward standardises by them.
        directions: (features in the data, in_features) of the decomposition; empty where there is nothing to reduce.
    """

    modality: ClassVar[str] = "graph"
    mean: Tensor
    std: Tensor
    directions: Tensor

    def __init__(self, *, in_features: int = 0, size: int = 32) -> None:
        super().__init__()
        expect("in_features", in_features, in_features >= 0, "0 (structure alone) or more")
        expect("size", size, size >= 1, "at least 1 node")
        self.in_features, self.size = in_features, size
        self.register_buffer("mean", torch.zeros(in_features))
        self.register_buffer("std", torch.ones(in_features))
        self.register_buffer("directions", torch.zeros(0, in_features))

    def fit_prepare(self, items: Any) -> Self:
        """Fit mean, deviation and, where there are more than `in_features` features, their reduction.

        Args:
            items: what `prepare` takes.

        Raises:
            DataError: the nodes have fewer features than `in_features`.
        """
        if not self.in_features:
            return self
        found = _features(items)
        width = 0 if found is None else found.shape[1]
        if found is None or width < self.in_features:
            raise DataError(f"the nodes have {width} features: expected at least in_features={self.in_features}")
        if width > self.in_features:
            from tacit.data import reduce_features

            found, directions = reduce_features(found, self.in_features)
            self.directions = torch.from_numpy(directions).to(self.mean.device)
        deviation = found.std(0)
        self.mean = torch.from_numpy(found.mean(0)).to(self.mean)
        self.std = torch.from_numpy(np.where(deviation > 1e-6, deviation, 1)).to(self.mean)
        return self

    def prepare(self, items: Any) -> Tensor:
        """Graphs as the tensor that `forward` takes, on the encoder's device.

        Args:
            items: a list of graphs, each a `tacit.data.Graph` or (edges (m, 2), features (nodes, f) or None) whose node
                0 is the ego; or one `Graph`, of whose nodes the ego-networks are taken; or the tensor itself.

        Raises:
            DataError: an item is none of these, or its nodes have other features than those fitted to.
        """
        from tacit.data import Graph, ego_networks, pack_graphs

        if isinstance(items, Tensor | np.ndarray):
            x = torch.as_tensor(items)
            self.expect_networks(x)
            return x.to(self.mean.device)
        if isinstance(items, Graph):
            packed = ego_networks(self._reduced(items), size=self.size)
        else:
            graphs = [self._reduced(graph_of(item)) for item in items]
            packed = pack_graphs(graphs, [0] * len(graphs), self.size)
        return torch.from_numpy(packed).to(self.mean.device)

    def mask(self, x: Tensor) -> Tensor:
        """bool (n, k), True where there is a node."""
        return torch.diagonal(x[:, :, : x.shape[1]], dim1=1, dim2=2) > 0

    def node_features(self, x: Tensor) -> Tensor:
        """(n, k, in_features), standardised; what stands for no node is to be masked."""
        return (x[:, :, x.shape[1] :] - self.mean) / self.std if self.in_features else x[:, :, :0]

    def expect_networks(self, x: Tensor) -> None:
        """
        Raises:
            ArgumentError: x is no tensor of networks with the features that this encoder reads.
        """
        _expect_networks(x, self.in_features)

    def _reduced(self, graph: Any) -> Any:
        """The graph with the features that this encoder reads."""
        from tacit.data import Graph

        features = graph.features if self.in_features else None
        width = 0 if features is None else features.shape[1]
        if features is not None and width == len(self.directions):
            features, width = features @ self.directions.cpu().numpy(), self.in_features
        if width != self.in_features:
            raise DataError(f"the nodes have {width} features: expected {len(self.directions) or self.in_features}")
        return Graph(graph.edges, graph.n_nodes, features)


def graph_of(item: Any) -> Any:
    """A `tacit.data.Graph` of one, or of (edges, features or None)."""
    from tacit.data import Graph

    if isinstance(item, Graph):
        return item
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"item={type(item).__name__}: expected a Graph, or (edges (m, 2), features (nodes, f) or None)")
    edges, features = item
    features = None if features is None else np.asarray(features, np.float32)
    n_nodes = None if features is not None or np.size(edges) else 1  # without a word on its nodes there is the ego
    return Graph.of(np.asarray(edges), n_nodes, features)


def _features(items: Any) -> np.ndarray | None:
    """The features of all nodes, (nodes, f)."""
    from tacit.data import Graph

    if isinstance(items, Tensor | np.ndarray):
        x = torch.as_tensor(items)
        _expect_networks(x, 0)
        k = x.shape[1]
        there = torch.diagonal(x[:, :, :k], dim1=1, dim2=2) > 0
        return x[:, :, k:][there].float().cpu().numpy()
    graphs = [items] if isinstance(items, Graph) else [graph_of(item) for item in items]
    found = [graph.features for graph in graphs if graph.features is not None]
    return np.concatenate(found) if found else None


def _expect_networks(x: Tensor, in_features: int) -> None:
    square = x.ndim == 3 and x.shape[1] >= 1 and x.shape[2] >= x.shape[1]
    right = square and (not in_features or x.shape[2] == x.shape[1] + in_features)
    more = f"{in_features} features" if in_features else "f features"
    expect("x", tuple(x.shape), right, f"networks (n, k, k + f): adjacency matrix and {more} of each node")


class GIN(GraphEncoder):
    """Each node adds up its neighbours and itself, and passes the sum through a perceptron, layer after layer.

        h_v <- MLP( (1 + eps) h_v + sum over the neighbours u of h_u )                  (Xu et al., 2019, eq. 4.1)
        item = sum over the layers of  W_l ( sum over the nodes of h_v ) + b_l                          (eq. 4.2)

    The inputs are those of GCC (Qiu et al., 2020), which know of structure alone: eigenvectors of the network (see
    `eigenvectors`), an embedding of the degree, and a flag on the ego; where `in_features` says so also the features
    of the nodes. Padding is never seen: linear layers and batch norms run over the nodes that exist. As in the code of
    GCC there may be a dropout on what each layer adds to the item; unlike there, a layer ends with one batch norm, not
    with two.

    Signs of eigenvectors are arbitrary. GCC's code leaves them to the random start of its solver, so they are drawn
    anew at each call; here they are drawn while training, and in eval mode each vector's largest entry is made
    positive, so that embeddings are the same at each call. Vectors of equal eigenvalues stay arbitrary.

    Args:
        dim: of the embedding.
        num_layers: rounds of messages (GCC's five layers are four, and the inputs).
        hidden_dim: of the nodes; `dim` if None.
        in_features, size: see `GraphEncoder`.
        n_eigenvectors: of each network, at most; 0 leaves them out. GCC's code has 32, of networks of hundreds.
        degree_dim: of the degree's embedding; 0 leaves it out.
        max_degree: larger degrees share an embedding.
        readout: `"sum"` over the nodes, or `"ego"`: node 0 alone.
        learn_eps: learn eps, of each layer; else it is 0, as in GCC.
        dropout: share of the numbers of each layer's part of the item; 0.5 in GCC's code.

    Raises:
        ArgumentError: a number out of range, or all inputs left out.

    References:
        Xu et al., How powerful are graph neural networks? (2019), arXiv:1810.00826.

    >>> from tacit.data import Graph, ego_networks
    >>> encoder = GIN(dim=8, num_layers=2).eval()
    >>> encoder(encoder.prepare([([[0, 1], [1, 2]], None), ([[0, 1]], None)])).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        *,
        dim: int = 64,
        num_layers: int = 4,
        hidden_dim: int | None = None,
        in_features: int = 0,
        size: int = 32,
        n_eigenvectors: int = 8,
        degree_dim: int = 16,
        max_degree: int = 128,
        readout: str = "sum",
        learn_eps: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_features=in_features, size=size)
        expect("dim", dim, dim >= 1, "at least 1")
        expect("num_layers", num_layers, num_layers >= 1, "at least 1 round of messages")
        expect("n_eigenvectors", n_eigenvectors, n_eigenvectors >= 0, "0 or more")
        expect("degree_dim", degree_dim, degree_dim >= 0, "0 or more")
        expect("readout", readout, readout in READOUTS, " or ".join(READOUTS))
        expect("dropout", dropout, 0 <= dropout < 1, "a share in [0, 1)")
        self.dim, self.n_eigenvectors, self.readout = dim, n_eigenvectors, readout
        self.config: dict[str, Any] = {
            "name": "gin", "dim": dim, "num_layers": num_layers, "hidden_dim": hidden_dim, "in_features": in_features,
            "size": size, "n_eigenvectors": n_eigenvectors, "degree_dim": degree_dim, "max_degree": max_degree,
            "readout": readout, "learn_eps": learn_eps, "dropout": dropout,
        }  # fmt: skip
        hidden_dim = hidden_dim or dim
        self.degree = nn.Embedding(max_degree + 1, degree_dim) if degree_dim else None
        widths = [n_eigenvectors + degree_dim + 1 + in_features] + [hidden_dim] * num_layers
        self.layers = nn.ModuleList(_perceptron(width, hidden_dim) for width in widths[:-1])
        self.eps = nn.Parameter(torch.zeros(num_layers), requires_grad=False)
        self.eps.requires_grad_(learn_eps)
        self.readouts = nn.ModuleList(nn.Linear(width, dim) for width in widths)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(n, k, k + f) -> (n, dim), of any norm."""
        pooled = [h.sum(1) if self.readout == "sum" else h[:, 0] for h in self._hidden(x)]
        parts = [self.dropout(readout(h)) for readout, h in zip(self.readouts, pooled, strict=True)]
        return torch.stack(parts).sum(0)

    def tokens(self, x: Tensor) -> Tensor:
        """(n, k, dim): each node as it were an item of its own; those that `mask` leaves out say nothing."""
        return torch.stack([readout(h) for readout, h in zip(self.readouts, self._hidden(x), strict=True)]).sum(0)

    def inputs(self, x: Tensor) -> Tensor:
        """(n, k, k + f) -> (n, k, d): eigenvectors, degree, ego, features."""
        k, exists = x.shape[1], self.mask(x)
        adjacency = x[:, :, :k] - torch.diag_embed(exists.to(x.dtype))
        ego = torch.zeros_like(x[:, :, :1])
        ego[:, 0] = 1
        parts = [ego, self.node_features(x)]
        if self.n_eigenvectors:
            with torch.no_grad():
                vectors = eigenvectors(adjacency, exists, self.n_eigenvectors)
            parts.append(_turned(vectors) if self.training else vectors)
        if self.degree is not None:
            degrees = adjacency.sum(2).long().clamp(max=self.degree.num_embeddings - 1)
            parts.append(self.degree(degrees))
        return torch.cat(parts, dim=2)

    def _hidden(self, x: Tensor) -> list[Tensor]:
        """Inputs and what each layer makes of them: (n, k, d) each, 0 where there is no node."""
        self.expect_networks(x)
        x = x.to(self.mean.dtype)
        n, k = x.shape[:2]
        nodes = self.mask(x).flatten().nonzero().squeeze(1)

        def spread(h: Tensor) -> Tensor:
            return h.new_zeros(n * k, h.shape[1]).index_copy(0, nodes, h).view(n, k, -1)

        h = spread(self.inputs(x).flatten(0, 1)[nodes])
        hidden = [h]
        for layer, eps in zip(self.layers, self.eps, strict=True):
            total = x[:, :, :k] @ h + eps * h  # the matrix has the node itself on its diagonal
            h = spread(layer(total.flatten(0, 1)[nodes]))
            hidden.append(h)
        return hidden


def _perceptron(in_dim: int, dim: int) -> nn.Sequential:
    hidden = [nn.Linear(in_dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU())


def eigenvectors(adjacency: Tensor, exists: Tensor, count: int) -> Tensor:
    """The nodes' coordinates in the leading eigenvectors of D^(-1/2) A D^(-1/2), each node's of norm 1.

    They belong to the smallest eigenvalues of the normalised Laplacian I - D^(-1/2) A D^(-1/2). A network of m nodes
    has m - 2 of them, as in GCC's code, and further columns are 0. Signs are arbitrary: the entry that is largest in
    magnitude is made positive.

    Args:
        adjacency: (n, k, k), symmetric, 0 on the diagonal and where there is no node.
        exists: bool (n, k).
        count: of vectors.

    Returns:
        (n, k, count), 0 where there is no node.

    >>> path = torch.tensor([[[0.0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]])
    >>> eigenvectors(path, torch.ones(1, 4, dtype=torch.bool), 3)[0, :, 2].abs()
    tensor([0., 0., 0., 0.])
    """
    with torch.autocast(adjacency.device.type, enabled=False):
        scale = adjacency.sum(2).clamp_min(1).rsqrt()
        normalised = scale[:, :, None] * adjacency * scale[:, None]
        # eigenvalues lie in [-1, 1]; padding gets -2, so that its vectors come last and mix with no others
        normalised = normalised - 2 * torch.diag_embed((~exists).to(adjacency.dtype))
        vectors = _fixed(torch.linalg.eigh(normalised)[1].flip(2)[:, :, :count])
    rank = torch.arange(vectors.shape[2], device=vectors.device)
    vectors = vectors * (rank < exists.sum(1, keepdim=True) - 2)[:, None] * exists[:, :, None]
    vectors = vectors / vectors.norm(dim=2, keepdim=True).clamp_min(1e-6)
    return nn.functional.pad(vectors, (0, count - vectors.shape[2]))


def _turned(vectors: Tensor) -> Tensor:
    """Signs drawn, each vector of each item for itself."""
    n, _, count = vectors.shape
    return vectors * (2 * torch.randint(2, (n, 1, count), device=vectors.device) - 1)


def _fixed(vectors: Tensor) -> Tensor:
    """Each vector's largest entry made positive."""
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)
