import networkx as nx
import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError
from tacit.views import RandomWalkWithRestart
from tacit.views._walks import induced


def network(oracle, k, f=0):
    n = len(oracle)
    x = torch.zeros(k, k + f)
    x[:n, :n] = torch.from_numpy(nx.to_numpy_array(oracle)) + torch.eye(n)
    x[:n, k:] = torch.arange(n)[:, None] + 1.0
    return x


def slow_walk(oracle, restart, n_steps, chance):
    node, visited = 0, {0}
    for _ in range(n_steps):
        node = int(chance.choice(list(oracle[node])))
        visited.add(node)
        if chance.random() < restart:
            node = 0
    return visited


@pytest.mark.parametrize(("restart", "n_steps"), [(0.8, 5), (0.3, 6), (1.0, 2), (0.0, 4)])
def test_nodes_are_visited_as_often_as_by_a_walker_that_goes_step_by_step(restart, n_steps):
    oracle = nx.gnp_random_graph(9, 0.35, seed=4)
    assert nx.is_connected(oracle)
    chance, times = np.random.default_rng(0), 4000
    slow = np.zeros(9)
    for _ in range(times):
        slow[list(slow_walk(oracle, restart, n_steps, chance))] += 1
    torch.manual_seed(0)
    visited = RandomWalkWithRestart(restart, n_steps).visits(network(oracle, 12).expand(times, -1, -1))
    assert not visited[:, 9:].any()
    np.testing.assert_allclose(visited[:, :9].float().mean(0), slow / times, atol=4.5 * (0.5 / times) ** 0.5)


def test_with_certain_restart_only_neighbours_of_the_ego_are_seen():
    oracle = nx.path_graph(6)
    visited = RandomWalkWithRestart(1.0, 50).visits(network(oracle, 6)[None])
    assert visited[0].tolist() == [True, True, False, False, False, False]


def test_the_view_is_the_induced_subgraph_with_its_features():
    oracle = nx.gnp_random_graph(10, 0.3, seed=1)
    x = network(oracle, 12, f=1).expand(50, -1, -1)
    torch.manual_seed(0)
    view = RandomWalkWithRestart(0.5, 6)(x)
    sizes = set()
    for row in view:
        there = int((torch.diagonal(row[:, :12]) > 0).sum())
        nodes = (row[:there, 12] - 1).long().tolist()
        assert nodes == sorted(nodes)
        assert nodes[0] == 0
        expected = nx.to_numpy_array(oracle, nodes) + np.eye(there)
        np.testing.assert_array_equal(row[:there, :there], expected)
        assert row.abs().sum() == row[:there, :there].sum() + row[:there, 12].sum()
        sizes.add(there)
    assert len(sizes) > 1


def test_a_view_of_fixed_size_keeps_the_first_nodes():
    x = network(nx.complete_graph(8), 8)[None]
    kept = torch.tensor([[True, False, True, True, False, True, False, False]])
    assert induced(x, kept, 3).tolist() == [[[1.0] * 3] * 3]
    assert RandomWalkWithRestart(n_steps=64, subgraph_size=4)(x).shape == (1, 4, 4)
    assert RandomWalkWithRestart(n_steps=64, subgraph_size=40)(x).shape == (1, 8, 8)


def test_isolated_egos_stay_and_items_walk_apart():
    x = torch.zeros(64, 5, 5)
    x[:, 0, 0] = 1
    x[1:] = network(nx.complete_graph(5), 5)
    torch.manual_seed(0)
    visited = RandomWalkWithRestart(n_steps=2).visits(x)
    assert visited[0].tolist() == [True, False, False, False, False]
    assert len({tuple(row.tolist()) for row in visited[1:]}) > 5


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match=r"restart=1\.5"):
        RandomWalkWithRestart(1.5)
    with pytest.raises(ArgumentError, match="n_steps=0"):
        RandomWalkWithRestart(n_steps=0)
    with pytest.raises(ArgumentError, match="networks"):
        RandomWalkWithRestart()(torch.zeros(3, 4))
