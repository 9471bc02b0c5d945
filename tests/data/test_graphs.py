import io

import networkx as nx
import numpy as np
import pytest
from PIL import Image

from tacit.data import Graph, ego_networks, ego_png, pack_graphs, reduce_features, structural_graphs, whole_graphs
from tacit.data._graphs import drop_repeats
from tacit.data._structural_graphs import _KINDS, DEGREE, GENERATORS, ROLES
from tacit.errors import ArgumentError, DataError


def drawn(n=60, p=0.08, seed=0, f=3):
    oracle = nx.gnp_random_graph(n, p, seed=seed)
    features = np.random.default_rng(seed).normal(size=(n, f)).astype(np.float32)
    return oracle, Graph.of(np.array(oracle.edges).reshape(-1, 2), n, features)


def as_networkx(row):
    k = len(row)
    there = int(np.diagonal(row[:, :k]).sum())
    return nx.from_numpy_array(row[:there, :there] - np.eye(there))


def test_repeats_loops_and_directions_are_counted():
    edges = [(0, 1), (1, 0), (0, 1), (0, 1), (2, 2), (3, 1), (1, 3), (5, 4)]
    kept, counts = drop_repeats(np.array(edges))
    assert kept.tolist() == [[0, 1], [1, 3], [4, 5]]
    assert counts == {"self-loops": 1, "duplicates": 2, "reversed": 2}
    assert len(edges) == len(kept) + sum(counts.values())


@pytest.mark.parametrize("hops", [0, 1, 2, 3])
def test_an_ego_network_that_fits_is_that_of_networkx(hops):
    oracle, graph = drawn()
    x = ego_networks(graph, size=60, hops=hops)
    for node in range(60):
        expected, found = nx.ego_graph(oracle, node, radius=hops), as_networkx(x[node])
        assert nx.could_be_isomorphic(expected, found)
        assert found.number_of_nodes() == expected.number_of_nodes()
        # features name the nodes, so that the networks can be compared node by node
        names = [int(np.abs(graph.features - row).sum(1).argmin()) for row in x[node, : len(found), 60:]]
        assert names[0] == node
        assert set(names) == set(expected)
        assert {frozenset((names[a], names[b])) for a, b in found.edges} == {frozenset(edge) for edge in expected.edges}
        distance = nx.single_source_shortest_path_length(oracle, node)
        assert [distance[name] for name in names] == sorted(distance[name] for name in names)


def test_one_that_does_not_fit_holds_the_nearest_nodes_and_all_edges_among_them():
    oracle, graph = drawn(p=0.15)
    size = 9
    x = ego_networks(graph, size=size, hops=2, generator=np.random.default_rng(5))
    order = np.random.default_rng(5).permutation(60)
    place = np.argsort(order)
    for node in range(60):
        distance = nx.single_source_shortest_path_length(oracle, node, cutoff=2)
        nearest = sorted(distance, key=lambda name: (distance[name], place[name]))[:size]
        expected = nx.to_numpy_array(oracle, nearest) + np.eye(len(nearest))
        np.testing.assert_array_equal(x[node, : len(nearest), : len(nearest)], expected)
        np.testing.assert_array_equal(x[node, : len(nearest), size:], graph.features[nearest])
        assert not x[node, len(nearest) :].any()


def test_the_networks_are_the_same_whichever_nodes_are_asked_for_and_in_whatever_chunks(monkeypatch):
    _, graph = drawn(p=0.2)
    whole = ego_networks(graph, size=8)
    np.testing.assert_array_equal(ego_networks(graph, [7, 3], size=8), whole[[7, 3]])
    monkeypatch.setattr("tacit.data._graphs.CHUNK", 100)
    np.testing.assert_array_equal(ego_networks(graph, size=8), whole)


def test_hubs_cost_no_more_than_others():
    """Every leaf's second hop is the hub's 50,000 neighbours, of which 30 are wanted."""
    leaves = np.arange(1, 50_001)
    graph = Graph.of(np.stack([np.zeros_like(leaves), leaves], 1))
    x = ego_networks(graph, leaves[:2000], size=32)
    assert (np.diagonal(x, axis1=1, axis2=2).sum(1) == 32).all()
    assert (x[:, 1, 0] == 1).all()
    assert (x.sum((1, 2)) == 32 + 2 * 31).all()


def test_isolated_nodes_and_nodes_that_are_not_there():
    graph = Graph.of([[0, 1]], n_nodes=3)
    x = ego_networks(graph, size=4)
    assert x[2].tolist() == np.diag([1, 0, 0, 0]).tolist()
    assert ego_networks(Graph.of([], n_nodes=2), size=2).sum() == 2
    assert ego_networks(graph, [], size=4).shape == (0, 4, 4)
    with pytest.raises(ArgumentError, match="0 to 2"):
        ego_networks(graph, [3])
    with pytest.raises(ArgumentError, match="size=0"):
        ego_networks(graph, size=0)
    with pytest.raises(DataError, match="from 0 to 1"):
        Graph.of([[0, 5]], n_nodes=2)
    with pytest.raises(DataError, match="whole numbers"):
        Graph.of([[0.5, 1.0]])


def test_wide_features_are_reduced_to_32():
    oracle, _ = drawn()
    wide = np.random.default_rng(0).normal(size=(60, 100)).astype(np.float32)
    x = ego_networks(Graph.of(np.array(oracle.edges), 60, wide), size=10)
    assert x.shape == (60, 10, 42)
    projected, directions = reduce_features(wide, 32)
    np.testing.assert_allclose(x[:, 0, 10:], projected, atol=1e-4)
    u, s, v = np.linalg.svd(wide, full_matrices=False)
    best = u[:, :32] * s[:32] @ v[:32]
    assert np.linalg.norm(wide - projected @ directions.T) < 1.02 * np.linalg.norm(wide - best)


def test_whole_graphs_keep_every_node_and_edge():
    chance = np.random.default_rng(0)
    oracles = [nx.gnp_random_graph(int(chance.integers(1, 20)), 0.15, seed=seed) for seed in range(30)]
    graphs = [Graph.of(np.array(one.edges).reshape(-1, 2), len(one)) for one in oracles]
    x = whole_graphs(graphs, 20)
    for row, oracle in zip(x, oracles, strict=True):
        found = as_networkx(row)
        assert len(found) == len(oracle)
        assert nx.is_isomorphic(found, oracle)
        assert found.degree(0) == max(dict(oracle.degree).values())


def test_of_a_graph_that_is_too_large_the_nearest_nodes_are_kept():
    path = Graph.of([(i, i + 1) for i in range(9)])
    assert as_networkx(pack_graphs([path], [4], 5)[0]).number_of_edges() == 4  # nodes 2 to 6
    with pytest.raises(DataError, match="no nodes"):
        whole_graphs([Graph.of([], n_nodes=0)])
    with pytest.raises(DataError, match="features"):
        whole_graphs([Graph.of([[0, 1]]), Graph.of([[0, 1]], features=np.ones((2, 3)))])


def test_a_picture_shows_the_ego_in_orange_and_the_others_apart():
    x = ego_networks(Graph.of([(0, i) for i in range(1, 6)]), [0], size=8)[0]
    with Image.open(io.BytesIO(ego_png(x))) as picture:
        assert picture.size == (64, 64)
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    orange, blue = (pixels[:, 0] - pixels[:, 2]) > 100, (pixels[:, 2] - pixels[:, 0]) > 60
    assert orange.sum() > 10
    assert blue.sum() > 5 * 6
    assert ego_png(np.eye(3, dtype=np.float32)) == ego_png(np.eye(3, dtype=np.float32))
    assert ego_png(np.zeros((3, 3), np.float32))[1:4] == b"PNG"


@pytest.mark.parametrize("kind", GENERATORS)
def test_the_generators_have_the_mean_degree_they_say(kind):
    chance = np.random.default_rng(0)
    degrees = [2 * len(drop_repeats(_KINDS[kind](60, chance))[0]) / 60 for _ in range(50)]
    assert np.mean(degrees) == pytest.approx(DEGREE, abs=0.25)


def test_generators_differ_as_they_should():
    chance = np.random.default_rng(0)
    drawn = {kind: [nx.Graph(_KINDS[kind](200, chance).tolist()) for _ in range(5)] for kind in GENERATORS}
    clustering = {kind: np.mean([nx.average_clustering(one) for one in graphs]) for kind, graphs in drawn.items()}
    largest = {kind: np.mean([max(dict(one.degree).values()) for one in graphs]) for kind, graphs in drawn.items()}
    assert max(clustering, key=clustering.get) == "watts-strogatz"
    assert max(largest, key=largest.get) == "barabasi-albert"


def test_roles_are_what_the_motifs_say():
    data = structural_graphs(360, seed=3, size=64)
    assert np.bincount(data["y"]).tolist() == [40] * 9
    profile = {}
    for role, name in enumerate(ROLES):
        networks = [as_networkx(row) for row in data["x"][data["y"] == role]]
        profile[name] = (
            np.median([network.degree(0) for network in networks]),
            np.median([nx.clustering(network, 0) for network in networks]),
        )
    assert profile["roof"] == (2, 1)
    assert profile["wall"] == (3, pytest.approx(1 / 3))
    assert profile["ring"] == profile["chain"] == (2, 0)
    assert profile["leaf"] == (1, 0)
    assert profile["clique"][0] == 4
    assert profile["clique"][1] > 0.9
    assert profile["hub"] == (6, 0)


def test_drawn_graphs_are_those_of_the_seed_and_cut_between_graphs():
    a, b, other = structural_graphs(54, seed=1), structural_graphs(54, seed=1), structural_graphs(54, seed=2)
    np.testing.assert_array_equal(a["x"], b["x"])
    assert not np.array_equal(a["x"], other["x"])
    assert a["graph"].tolist() == [0] * 18 + [1] * 18 + [2] * 18
    drawn = structural_graphs(8, task="generators")
    assert drawn["y"].tolist() == [0, 1, 2, 3] * 2
    assert (np.diagonal(drawn["x"], axis1=1, axis2=2).sum(1) >= 16).all()
    with pytest.raises(ArgumentError, match="task='motifs'"):
        structural_graphs(8, task="motifs")
