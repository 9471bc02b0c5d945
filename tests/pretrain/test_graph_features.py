import networkx as nx
import numpy as np
import torch

from tacit.data import Dataset, Graph, ego_networks, structural_graphs
from tacit.nn import node_profiles
from tacit.pretrain import GraphFeatures


def slow_profile(oracle, node):
    around = [oracle.degree(other) for other in oracle[node]] or [0]
    own = [oracle.degree(node), min(around), max(around), np.mean(around), np.std(around)]
    return [*own, nx.clustering(oracle, node)]


def drawn(n=30, f=2):
    oracle = nx.gnp_random_graph(n, 0.12, seed=2)
    features = np.random.default_rng(0).normal(size=(n, f)).astype(np.float32)
    return oracle, Graph.of(np.array(oracle.edges), n, features)


def test_profiles_against_networkx():
    oracle, graph = drawn()
    adjacency = torch.from_numpy(nx.to_numpy_array(oracle)).float()
    expected = [slow_profile(oracle, node) for node in range(30)]
    for diagonal in (0, 1):  # whatever the diagonal
        found = node_profiles(adjacency[None] + diagonal * torch.eye(30))[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert graph.degrees.min() == 0 or min(oracle.degree(node) for node in oracle) > 0


def test_the_features_of_a_network_against_networkx():
    oracle, graph = drawn()
    x = torch.from_numpy(ego_networks(graph, size=30, hops=2))
    encoder = GraphFeatures(in_features=2).encoder
    raw = encoder.raw(x).numpy()
    for node in range(30):
        network = nx.ego_graph(oracle, node, radius=2)
        profiles = np.array([slow_profile(network, other) for other in network])
        counts = np.log1p([len(network), network.number_of_edges()])
        own = graph.features[node]
        around = graph.features[list(network[node])].mean(0) if network[node] else np.zeros(2)
        expected = [slow_profile(network, node), profiles.mean(0), profiles.std(0), counts, own, around]
        np.testing.assert_allclose(raw[node], np.concatenate(expected), atol=1e-4)


def test_fitted_they_have_mean_0_and_deviation_1_and_constants_are_left():
    x = structural_graphs(90)["x"]
    learner = GraphFeatures()
    learner.before_fit(Dataset({"x": x}))
    z = learner.encoder(torch.from_numpy(x))
    assert z.shape == (90, learner.encoder.dim)
    torch.testing.assert_close(z.mean(0), torch.zeros(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(20), atol=1e-3, rtol=0)
    same = np.repeat(x[:1], 4, axis=0)
    learner.before_fit(Dataset({"x": same}))
    torch.testing.assert_close(learner.encoder(torch.from_numpy(same)), torch.zeros(4, 20), atol=1e-4, rtol=0)


def test_empty_and_isolated_networks_are_finite():
    x = torch.zeros(2, 4, 4)
    x[1, 0, 0] = 1
    assert GraphFeatures().encoder(x).isfinite().all()
