"""Graphs, and tensors of them: the ego-network of each node of one graph, or each of many graphs whole."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from tacit.errors import DataError, expect

__all__ = [
    "Graph",
    "drop_repeats",
    "ego_networks",
    "ego_png",
    "pack_graphs",
    "reduce_features",
    "whole_graphs",
]

Array = np.ndarray
MAX_FEATURES = 32
"""Features of a node in a tensor of ego-networks; wider ones are reduced by `reduce_features`."""
CHUNK = 2**23
"""Candidates, or entries of adjacency matrices, that are looked at together."""


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph without self-loops, its nodes numbered from 0.

    Attributes:
        edges: int64 (m, 2), each edge once as (i, j) with i < j, in order.
        n_nodes: isolated ones included.
        features: float32 (n_nodes, f), or None.
        names: n_nodes names, or None.
        labels: name -> n_nodes labels, None where there is none.

    >>> graph = Graph.of([[1, 0], [0, 1], [1, 2], [2, 2]], n_nodes=4)
    >>> graph.edges.tolist(), graph.degrees.tolist()
    ([[0, 1], [1, 2]], [1, 2, 1, 0])
    """

    edges: Array
    n_nodes: int
    features: Array | None = None
    names: Sequence[str] | None = None
    labels: Mapping[str, list[str | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, edges: Any, n_nodes: int | None = None, features: Array | None = None, **more: Any) -> Graph:
        """A graph from edges in any direction, repeated or not, and self-loops, which are dropped.

        Args:
            edges: whole numbers (m, 2).
            n_nodes: as many as the features or the largest number say, if None.
            features: numbers (n_nodes, f).
            more: names, labels.

        Raises:
            DataError: edges of another shape, node numbers below 0 or beyond the nodes, or features for other nodes.
        """
        pairs = np.asarray(edges).reshape(-1, 2) if np.size(edges) == 0 else np.asarray(edges)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or (pairs.size and pairs.dtype.kind not in "iu"):
            raise DataError(f"edges: expected whole numbers (m, 2), found {pairs.dtype} {pairs.shape}")
        if features is not None:
            features = np.ascontiguousarray(features, dtype=np.float32)
        said = len(features) if features is not None else int(pairs.max(initial=-1)) + 1
        n_nodes = said if n_nodes is None else int(n_nodes)
        if features is not None and (features.ndim != 2 or len(features) != n_nodes):
            raise DataError(f"features: expected a row for each of {n_nodes:,} nodes, found {features.shape}")
        if pairs.size and (pairs.min() < 0 or pairs.max() >= n_nodes):
            raise DataError(
                f"edges: expected node numbers from 0 to {n_nodes - 1:,}, found {pairs.min()}, {pairs.max()}"
            )
        return cls(drop_repeats(pairs)[0], n_nodes, features, **more)

    @cached_property
    def degrees(self) -> Array:
        """int64 (n_nodes,)"""
        return np.bincount(self.edges.ravel(), minlength=self.n_nodes)

    def __len__(self) -> int:
        return self.n_nodes


def drop_repeats(edges: Array) -> tuple[Array, dict[str, int]]:
    """Undirected edges, once each and in order, and what was left out.

    Args:
        edges: whole numbers (m, 2).

    Returns:
        int64 (k, 2) with i < j; and counts: self-loops, `duplicates` (the same edge in the same direction once more)
        and `reversed` (edges given in both directions).

    >>> drop_repeats(np.array([[2, 1], [1, 2], [2, 1], [0, 0]]))
    (array([[1, 2]]), {'self-loops': 1, 'duplicates': 1, 'reversed': 1})
    """
    edges = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    between = edges[edges[:, 0] != edges[:, 1]]
    n = int(between.max(initial=0)) + 1
    directed = np.unique(between[:, 0] * n + between[:, 1])
    first, second = directed // n, directed % n
    kept = np.unique(np.minimum(first, second) * n + np.maximum(first, second))
    counts = {
        "self-loops": len(edges) - len(between),
        "duplicates": len(between) - len(directed),
        "reversed": len(directed) - len(kept),
    }
    return np.stack([kept // n, kept % n], axis=1), counts


def reduce_features(features: Array, dim: int = MAX_FEATURES) -> tuple[Array, Array]:
    """The first `dim` components of a truncated singular value decomposition (not centred, so that sparse stays so).

    Returns:
        float32 (n, dim), the features times the directions; and the directions, float32 (f, dim).
    """
    from sklearn.utils.extmath import randomized_svd

    kept = min(dim, *features.shape)
    _, _, directions = randomized_svd(features, kept, random_state=0)
    directions = np.pad(directions.T, ((0, 0), (0, dim - kept))).astype(np.float32)
    return features @ directions, directions


# Tensors --------------------------------------------------------------------------------------------------------------


def ego_networks(
    graph: Graph,
    nodes: Array | Sequence[int] | None = None,
    *,
    size: int = 32,
    hops: int = 2,
    generator: np.random.Generator | None = None,
) -> Array:
    """The ego-network of each node: itself, its nearest nodes breadth first up to `size`, and all edges among them.

    Nodes of the last hop that there is not room for are left out by an order of all nodes that is drawn once, so that
    the same graph and generator give the same networks, whichever nodes are asked for. The work for a node is bounded
    by `hops * size^2`, hubs or not.

    Args:
        graph: the whole graph.
        nodes: those whose networks are wanted; all if None.
        size: nodes of a network at most, k.
        hops: how far from the ego they may lie.
        generator: draws the order; `np.random.default_rng(0)` if None.

    Returns:
        float32 (n, k, k + f): the adjacency matrix with 1 on the diagonal where a node exists, then the features of
        each node; of more than 32 the first 32 singular components. Node 0 is the ego; what lies beyond is 0.

    Raises:
        ArgumentError: size below 1, hops below 0, or a node that is not there.

    >>> star = Graph.of([[0, 1], [0, 2], [0, 3], [3, 4]])
    >>> ego_networks(star, [1], size=3).tolist()
    [[[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]]
    """
    expect("size", size, size >= 1, "at least 1 node")
    expect("hops", hops, hops >= 0, "0 or more")
    egos = np.arange(graph.n_nodes) if nodes is None else np.asarray(nodes, dtype=np.int64).reshape(-1)
    there = not len(egos) or (egos.min() >= 0 and egos.max() < graph.n_nodes)
    expect("nodes", (len(egos), "nodes"), there, f"numbers from 0 to {graph.n_nodes - 1}")
    order = (generator or np.random.default_rng(0)).permutation(graph.n_nodes)  # order[i]: the node that comes i-th
    place = np.empty_like(order)
    place[order] = np.arange(graph.n_nodes)
    features = graph.features
    if features is not None:
        features = (reduce_features(features)[0] if features.shape[1] > MAX_FEATURES else features)[order]
    ordered = replace(graph, edges=np.sort(place[graph.edges], axis=1), features=features)
    return _tensor(ordered, place[egos], size, hops)


def whole_graphs(graphs: Sequence[Graph], size: int = 64) -> Array:
    """Each graph whole, its node of highest degree first; of more than `size` nodes the nearest to that one.

    Returns:
        float32 (n, size, size + f), as `ego_networks` gives it.

    >>> whole_graphs([Graph.of([[0, 1], [1, 2]]), Graph.of([[0, 1]], n_nodes=3)], 3)[:, 0].tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    """
    seeds = [int(graph.degrees.argmax()) if graph.n_nodes else 0 for graph in graphs]
    return pack_graphs(graphs, seeds, size)


def pack_graphs(graphs: Sequence[Graph], seeds: Sequence[int], size: int) -> Array:
    """Graphs as float32 (n, size, size + f): node `seeds[i]` first, then breadth first, then those out of its reach.

    Raises:
        DataError: a graph without nodes, or graphs with unequal numbers of features.
    """
    expect("size", size, size >= 1, "at least 1 node")
    if empty := [number for number, graph in enumerate(graphs) if not graph.n_nodes]:
        raise DataError(f"graph {empty[0]} has no nodes: leave it out")
    if not graphs:
        return np.zeros((0, size, size), np.float32)
    union, starts = join(graphs)
    stops = starts + [graph.n_nodes for graph in graphs]
    everyone = starts[:, None] + np.arange(min(size, int((stops - starts).max())))
    everyone[everyone >= stops[:, None]] = union.n_nodes
    return _tensor(union, starts + np.asarray(seeds), size, hops=size, rest=everyone)


def join(graphs: Sequence[Graph]) -> tuple[Graph, Array]:
    """One graph of many that are not linked, and the number of each one's first node, int64 (n,)."""
    widths = {0 if graph.features is None else graph.features.shape[1] for graph in graphs}
    if len(widths) > 1:
        raise DataError(f"the graphs have nodes of {sorted(widths)} features: expected as many in each")
    counts = np.array([graph.n_nodes for graph in graphs], np.int64)
    starts = np.cumsum(counts) - counts
    edges = np.concatenate([graph.edges + start for graph, start in zip(graphs, starts, strict=True)])
    features = None if widths == {0} else np.concatenate([graph.features for graph in graphs])
    return Graph(edges, int(counts.sum()), features), starts


def _tensor(graph: Graph, egos: Array, size: int, hops: int, rest: Array | None = None) -> Array:
    """The networks of `egos`, where of nodes at equal distance the lower number goes first."""
    width = 0 if graph.features is None else graph.features.shape[1]
    x = np.zeros((len(egos), size, size + width), np.float32)
    if not len(egos):
        return x
    first, linked = _first_neighbours(graph, size), _Links(graph)
    features = None if graph.features is None else np.vstack([graph.features, np.zeros((1, width), np.float32)])
    for rows in _chunks(len(egos), size * max(size, first.shape[1])):
        chosen = _nearest(first, egos[rows], size, hops, None if rest is None else rest[rows])
        x[rows, :, :size] = linked.among(chosen)
        if features is not None:
            x[rows, :, size:] = features[chosen]
    return x


def _chunks(n: int, each: int) -> Iterator[slice]:
    step = max(CHUNK // each, 1)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _first_neighbours(graph: Graph, size: int) -> Array:
    """The `size` lowest numbers among the neighbours of each node: int64 (n_nodes + 1, w), n_nodes where there is none.

    A breadth-first search that still wants r nodes and has chosen size - r finds them among these.
    """
    n = graph.n_nodes
    both = np.concatenate([graph.edges, graph.edges[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    starts = np.searchsorted(both[:, 0], np.arange(n))
    position = np.arange(len(both)) - starts[both[:, 0]] if len(both) else np.zeros(0, np.int64)
    kept = position < size
    table = np.full((n + 1, max(int(position[kept].max(initial=0)) + 1, 1)), n, np.int64)
    table[both[kept, 0], position[kept]] = both[kept, 1]
    return table


def _nearest(first: Array, egos: Array, size: int, hops: int, rest: Array | None) -> Array:
    """Numbers of the nodes of each network, the ego first: int64 (n, size), `len(first) - 1` where there is none."""
    nobody = len(first) - 1
    chosen = np.full((len(egos), size), nobody, np.int64)
    chosen[:, 0] = egos
    count = np.ones(len(egos), np.int64)
    frontier = chosen[:, :1]
    for _ in range(hops):
        frontier = _add(first[frontier].reshape(len(egos), -1), chosen, count, nobody)
        if not frontier.shape[1]:
            break
    if rest is not None:
        _add(rest, chosen, count, nobody)
    return chosen


def _add(candidates: Array, chosen: Array, count: Array, nobody: int) -> Array:
    """Put the lowest new candidates of each row into `chosen`, in place, and hand them back: (n, w)."""
    keys = np.sort(np.hstack([2 * chosen, 2 * candidates + 1]), axis=1)  # a chosen node stands before its own repeats
    nodes = keys >> 1
    new = (keys & 1 == 1) & (nodes < nobody)
    new[:, 1:] &= nodes[:, 1:] != nodes[:, :-1]
    row, column = np.nonzero(new)
    rank = (np.cumsum(new, axis=1) - 1)[row, column]
    fits = rank < (chosen.shape[1] - count)[row]
    row, rank, found = row[fits], rank[fits], nodes[row, column][fits]
    chosen[row, count[row] + rank] = found
    added = np.full((len(chosen), int(rank.max(initial=-1)) + 1), nobody, np.int64)
    added[row, rank] = found
    count += np.bincount(row, minlength=len(count))
    return added


class _Links:
    """Whether two nodes are linked, for many pairs at once."""

    def __init__(self, graph: Graph) -> None:
        self._n = graph.n_nodes + 1
        edges = np.sort(graph.edges, axis=1)
        self._keys = np.append(np.sort(edges[:, 0] * self._n + edges[:, 1]), np.iinfo(np.int64).max)

    def among(self, nodes: Array) -> Array:
        """(n, k) node numbers -> float32 (n, k, k), 1 on the diagonal where there is a node."""
        k = nodes.shape[1]
        adjacency = np.zeros((len(nodes), k, k), np.float32)
        there = nodes < self._n - 1
        for j in range(1, k):
            rows = np.flatnonzero(there[:, j])
            if not len(rows):
                break
            a, b = nodes[rows, :j], nodes[rows, j, None]
            wanted = np.minimum(a, b) * self._n + np.maximum(a, b)
            adjacency[rows, j, :j] = self._keys[np.searchsorted(self._keys, wanted)] == wanted
        adjacency += adjacency.transpose(0, 2, 1)
        adjacency[:, np.arange(k), np.arange(k)] = there
        return adjacency


# Pictures -------------------------------------------------------------------------------------------------------------

EGO, OTHER, EDGE = (217, 95, 2), (62, 98, 160), (170, 176, 186)
FINE = 4
"""Times the picture's size at which it is drawn, for smooth lines."""


def ego_png(x: Any, *, size: int = 64) -> bytes:
    """A small picture of a network, the ego in orange: PNG of `size` pixels.

    Args:
        x: one row of `ego_networks` or `whole_graphs`, (k, k + f), array or tensor.
        size: side in pixels.

    >>> ego_png(ego_networks(Graph.of([[0, 1], [0, 2]]), [0])[0])[1:4]
    b'PNG'
    """
    from PIL import Image, ImageDraw

    x = np.asarray(x)
    k = int(np.count_nonzero(np.diagonal(x[:, : len(x)])))
    adjacency = x[:k, :k] - np.eye(k)
    side = FINE * size
    at = (0.5 + 0.42 * _spring_layout(adjacency)) * side
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    for i, j in np.argwhere(np.triu(adjacency)):
        draw.line([*at[i], *at[j]], fill=EDGE, width=max(side // 85, 1))
    for number in reversed(range(k)):
        radius = side * (0.05 if number == 0 else 0.033)
        left, top = at[number] - radius
        draw.ellipse([left, top, left + 2 * radius, top + 2 * radius], fill=EGO if number == 0 else OTHER)
    stream = io.BytesIO()
    picture.resize((size, size), Image.Resampling.BOX).save(stream, "PNG")
    return stream.getvalue()


def _spring_layout(adjacency: Array, steps: int = 60) -> Array:
    """Places in [-1, 1]^2: edges pull, all nodes push each other (Fruchterman and Reingold, 1991); from a circle."""
    k = len(adjacency)
    angle = 2 * np.pi * np.arange(k) / max(k, 1)
    at = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    at[:1] = 0  # the ego starts in the middle
    rest = 1 / np.sqrt(max(k, 1))
    for temperature in np.linspace(0.2, 0.005, steps):
        apart = at[:, None] - at
        distance = np.maximum(np.linalg.norm(apart, axis=2), 1e-3)
        force = rest**2 / distance**2 - adjacency * distance / rest
        move = (apart * force[:, :, None]).sum(1)
        length = np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-9)
        at = at + move / length * np.minimum(length, temperature)
    at = at - (at.max(axis=0, initial=-9) + at.min(axis=0, initial=9)) / 2
    return at / max(np.abs(at).max(initial=0), 1e-9) if k > 1 else np.zeros((k, 2))
