"""Graphs drawn by known rules: random graphs of four kinds, with planted motifs whose nodes have roles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tacit.data._graphs import Graph, ego_networks, join, whole_graphs
from tacit.errors import expect, unknown

__all__ = ["GENERATORS", "ROLES", "structural_graphs"]

Array = np.ndarray
Chance = np.random.Generator
DEGREE = 4
"""Mean degree of all four kinds of graph, up to chance, so that it does not tell them apart."""


def structural_graphs(
    n: int, *, seed: int = 0, task: str = "roles", per_graph: int = 18, size: int = 32, hops: int = 3
) -> dict[str, Array]:
    """Networks whose structure alone says what they are; no node has features.

    `roles`: an item is the ego-network of a node, `y` its role. Each graph is one of `GENERATORS` with 40 to 80 nodes
    and mean degree 4, to which two of each motif hang by one edge: a house (its roof, walls and floor are three roles),
    a ring of 6, a star of 5 leaves (hub, leaf), a clique of 5, and a chain of 5; and 5 % more edges are drawn between
    any nodes. All other nodes have the role `base`. Roles are as frequent as each other. Items of one graph stand
    together, so that a cut at a multiple of `per_graph` parts graphs.

    `generators`: an item is a whole graph of 16 to 32 nodes, `y` which of `GENERATORS` drew it.

    Args:
        n: items.
        task: roles or generators.
        per_graph: items of a graph, for roles.
        size: nodes of a network, k; at least 32 for generators.
        hops: how far a network reaches, for roles.

    Returns:
        x float32 (n, k, k), adjacency matrices as `ego_networks` gives them; y int64 (n,), place in `ROLES` or
        `GENERATORS`; graph int64 (n,), number of the graph; generator int64 (n,), place in `GENERATORS`.

    Raises:
        ArgumentError: a number out of range, or an unknown task.

    >>> data = structural_graphs(36)
    >>> data["x"].shape, [ROLES[label] for label in data["y"][:4]]
    ((36, 32, 32), ['base', 'roof', 'wall', 'floor'])
    """
    expect("n", n, n >= 1, "at least 1 item")
    expect("seed", seed, seed >= 0, "0 or more")
    expect("per_graph", per_graph, 1 <= per_graph <= 2 * len(ROLES), f"1 to {2 * len(ROLES)} items")
    chance = np.random.default_rng(seed)
    if task == "roles":
        return _roles(n, per_graph, size, hops, chance)
    if task == "generators":
        expect("size", size, size >= LARGEST, f"at least {LARGEST}, the nodes of the largest graph")
        kinds = np.arange(n) % len(GENERATORS)
        drawn = [_draw(int(kind), int(chance.integers(LARGEST // 2, LARGEST + 1)), chance) for kind in kinds]
        return {"x": whole_graphs(drawn, size), "y": kinds, "graph": np.arange(n), "generator": kinds.copy()}
    raise unknown("task", task, ("roles", "generators"))


LARGEST = 32


def _roles(n: int, per_graph: int, size: int, hops: int, chance: Chance) -> dict[str, Array]:
    graphs, nodes = [], []
    count = -(-n // per_graph)
    for number in range(count):
        graph, roles = _with_motifs(_draw(number % len(GENERATORS), int(chance.integers(40, 81)), chance), chance)
        graphs.append(graph)
        shuffled = chance.permutation(graph.n_nodes)
        of_role = [shuffled[roles[shuffled] == role] for role in range(len(ROLES))]
        nodes.append([of_role[item % len(ROLES)][item // len(ROLES)] for item in range(per_graph)])
    union, starts = join(graphs)
    egos = (starts[:, None] + np.array(nodes)).ravel()[:n]
    graph_number = np.repeat(np.arange(count), per_graph)[:n]
    return {
        "x": ego_networks(union, egos, size=size, hops=hops, generator=chance),
        "y": np.arange(n) % per_graph % len(ROLES),
        "graph": graph_number,
        "generator": graph_number % len(GENERATORS),
    }


# Kinds of graph -------------------------------------------------------------------------------------------------------


def _erdos_renyi(n: int, chance: Chance) -> Array:
    """Each pair is linked with equal probability."""
    return _linked(np.full((n, n), DEGREE / (n - 1)), chance)


def _barabasi_albert(n: int, chance: Chance) -> Array:
    """Nodes come one by one, each linked to two others drawn in proportion to their degrees."""
    edges = [(0, 1), (0, 2), (1, 2)]
    for node in range(3, n):
        ends = np.array(edges).ravel()
        chosen: set[int] = set()
        while len(chosen) < DEGREE // 2:
            chosen.add(int(chance.choice(ends)))
        edges += [(other, node) for other in sorted(chosen)]
    return np.array(edges)


def _watts_strogatz(n: int, chance: Chance) -> Array:
    """A ring where each is linked to the two nearest on either side; one end of each fifth edge is drawn anew."""
    start = np.repeat(np.arange(n), DEGREE // 2)
    stop = (start + np.tile(np.arange(1, DEGREE // 2 + 1), n)) % n
    return np.stack([start, np.where(chance.random(len(start)) < 0.2, chance.integers(0, n, len(start)), stop)], axis=1)


def _block_model(n: int, chance: Chance) -> Array:
    """Three blocks; nine of ten edges stay inside one."""
    block = chance.integers(0, 3, n)
    same = block[:, None] == block
    inside = 0.9 * DEGREE * n / max(int(same.sum()) - n, 1)
    outside = 0.1 * DEGREE * n / max(n * n - int(same.sum()), 1)
    return _linked(np.where(same, inside, outside), chance)


def _linked(probability: Array, chance: Chance) -> Array:
    return np.argwhere(np.triu(chance.random(probability.shape) < probability, 1))


_KINDS: dict[str, Callable[[int, Chance], Array]] = {
    "erdos-renyi": _erdos_renyi,
    "barabasi-albert": _barabasi_albert,
    "watts-strogatz": _watts_strogatz,
    "block-model": _block_model,
}
GENERATORS = tuple(_KINDS)
"""Kinds of random graph, in the order of their numbers."""


def _draw(kind: int, n_nodes: int, chance: Chance) -> Graph:
    return Graph.of(_KINDS[GENERATORS[kind]](n_nodes, chance), n_nodes)


# Motifs ---------------------------------------------------------------------------------------------------------------

ROLES = ("base", "roof", "wall", "floor", "ring", "hub", "leaf", "clique", "chain")
"""Roles of nodes, in the order of their numbers."""

_MOTIFS = (
    # roles of the nodes, edges; the last node is the one that hangs on the graph
    (("roof", "wall", "wall", "floor", "floor"), [(0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 4)]),
    (("ring",) * 6, [(i, (i + 1) % 6) for i in range(6)]),
    (("leaf",) * 5 + ("hub",), [(i, 5) for i in range(5)]),
    (("clique",) * 5, [(i, j) for i in range(5) for j in range(i)]),
    (("chain",) * 5, [(i, i + 1) for i in range(4)]),
)


def _with_motifs(graph: Graph, chance: Chance) -> tuple[Graph, Array]:
    """The graph with two of each motif and a few more edges, and each node's role."""
    edges, roles = [graph.edges], [np.zeros(graph.n_nodes, np.int64)]
    total = graph.n_nodes
    for names, inside in 2 * _MOTIFS:
        hung = (int(chance.integers(graph.n_nodes)), total + len(names) - 1)
        edges += [np.array(inside) + total, np.array([hung])]
        roles.append(np.array([ROLES.index(name) for name in names]))
        total += len(names)
    together = np.concatenate(edges)
    more = chance.integers(0, total, (len(together) // 20, 2))
    whole = Graph.of(np.concatenate([together, more]), total)
    return replace(graph, edges=whole.edges, n_nodes=total), np.concatenate(roles)
