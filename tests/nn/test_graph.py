import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.data import Graph, ego_networks, structural_graphs
from tacit.errors import ArgumentError, DataError
from tacit.learner import load_state
from tacit.nn import GIN
from tacit.nn._graph import eigenvectors


def networks(seed=0, sizes=(7, 1, 4, 9), k=10, f=0):
    """Networks of networkx, and the same as padded matrices."""
    oracles = [nx.gnp_random_graph(n, 0.4, seed=seed + n) for n in sizes]
    return oracles, padded(oracles, k, f)


def padded(oracles, k, f):
    x = torch.zeros(len(oracles), k, k + f)
    for row, oracle in zip(x, oracles, strict=True):
        n = len(oracle)
        row[:n, :n] = torch.from_numpy(nx.to_numpy_array(oracle)) + torch.eye(n)
        row[:n, k:] = torch.randn(n, f)
    return x


def spectrum(oracle):
    """Eigenvalues and eigenvectors of the normalised Laplacian, in ascending order."""
    adjacency = nx.to_numpy_array(oracle)
    scale = np.maximum(adjacency.sum(1), 1) ** -0.5
    return np.linalg.eigh(np.eye(len(oracle)) - scale[:, None] * adjacency * scale)


def generic(sizes=(7, 9, 8), k=10, f=0):
    """Networks whose eigenvectors are unique up to their signs, and these told by the largest entry."""

    def unique(oracle):
        values, vectors = spectrum(oracle)
        largest = np.sort(np.abs(vectors), axis=0)
        return np.diff(values).min() > 0.02 and (largest[-1] - largest[-2]).min() > 0.005

    chosen = [next(seed for seed in range(999) if unique(nx.gnp_random_graph(n, 0.45, seed=seed))) for n in sizes]
    oracles = [nx.gnp_random_graph(n, 0.45, seed=seed) for n, seed in zip(sizes, chosen, strict=True)]
    return oracles, padded(oracles, k, f)


def shuffled(x, seed=0):
    """The same networks with all nodes but the ego in another order."""
    generator = torch.Generator().manual_seed(seed)
    k, out = x.shape[1], x.clone()
    for row, there in zip(out, (torch.diagonal(x, dim1=1, dim2=2) > 0).sum(1), strict=True):
        order = torch.arange(k)
        order[1:there] = 1 + torch.randperm(int(there) - 1, generator=generator)
        row.copy_(torch.cat([row[order][:, :k][:, order], row[order][:, k:]], dim=1))
    return out


def perceptron(layer, h):
    """A layer in eval mode, one node at a time."""
    first, norm, _, second, last, _ = layer
    for linear, bn in ((first, norm), (second, last)):
        h = linear.weight @ h
        h = F.relu((h - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias)
    return h


@pytest.mark.parametrize("readout", ["sum", "ego"])
def test_the_network_is_its_equations_node_by_node(readout):
    torch.manual_seed(0)
    encoder = GIN(dim=6, num_layers=3, hidden_dim=5, n_eigenvectors=3, degree_dim=2, in_features=2, readout=readout)
    oracles, x = networks(f=2)
    with torch.no_grad():
        encoder(x)  # statistics of the norms that are not 0 and 1
        encoder.eps += torch.tensor([0.3, -0.2, 0.1])
        encoder.mean += 0.5
    encoder.eval()
    inputs = encoder.inputs(x)
    found = encoder(x)
    for number, oracle in enumerate(oracles):
        nodes = list(oracle)
        hidden = [{v: inputs[number, v] for v in nodes}]
        for layer, eps in zip(encoder.layers, encoder.eps, strict=True):
            last = hidden[-1]
            total = {v: (1 + eps) * last[v] + sum((last[u] for u in oracle[v]), 0 * last[v]) for v in nodes}
            hidden.append({v: perceptron(layer, total[v]) for v in nodes})
        pooled = [sum(h.values()) if readout == "sum" else h[0] for h in hidden]
        expected = sum(linear(h) for linear, h in zip(encoder.readouts, pooled, strict=True))
        torch.testing.assert_close(found[number], expected)
        # the inputs: ego, features, eigenvectors, degree
        assert inputs[number, :, 0].tolist() == [1] + [0] * 9
        torch.testing.assert_close(inputs[number, nodes, 1:3], x[number, nodes, 10:] - 0.5)
        degrees = torch.tensor([oracle.degree(v) for v in nodes])
        torch.testing.assert_close(inputs[number, nodes, 6:], encoder.degree(degrees))


def test_eigenvectors_are_those_of_the_normalised_laplacian():
    oracles, x = generic(sizes=(8, 6, 9), k=9)
    oracles, x = [*oracles, nx.path_graph(2)], torch.cat([x, padded([nx.path_graph(2)], 9, 0)])
    exists = torch.diagonal(x, dim1=1, dim2=2) > 0
    found = eigenvectors(x - torch.diag_embed(exists.float()), exists, 12)
    assert found.shape == (4, 9, 12)
    for number, oracle in enumerate(oracles):
        n = len(oracle)
        _, vectors = spectrum(oracle)
        kept = vectors[:, : max(n - 2, 0)]
        expected = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
        for column in range(kept.shape[1]):
            sign = np.sign(kept[np.abs(kept[:, column]).argmax(), column])
            np.testing.assert_allclose(found[number, :n, column], sign * expected[:, column], atol=1e-4)
        assert not found[number, :, max(n - 2, 0) :].any()
        assert not found[number, n:].any()


def test_names_of_nodes_and_padding_do_not_matter():
    torch.manual_seed(0)
    encoder = GIN(dim=8, num_layers=2, in_features=3, n_eigenvectors=4)
    _, x = generic(f=3)
    encoder(x)
    encoder.eval()
    torch.testing.assert_close(encoder(shuffled(x)), encoder(x), atol=2e-4, rtol=1e-3)
    wider = torch.zeros(3, 14, 17)
    wider[:, :10, :10], wider[:, :10, 14:] = x[:, :, :10], x[:, :, 10:]
    torch.testing.assert_close(encoder(wider), encoder(x), atol=2e-4, rtol=1e-3)


def test_batch_norms_see_nodes_that_exist_and_no_others():
    encoder = GIN(dim=4, num_layers=1, n_eigenvectors=0)
    _, x = networks()
    norm = encoder.layers[0][1]
    seen = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(x)
    assert len(seen[0]) == 7 + 1 + 4 + 9
    torch.testing.assert_close(norm.running_mean, 0.1 * seen[0].mean(0))


def test_signs_are_drawn_while_training_and_fixed_afterwards():
    encoder = GIN(dim=4, num_layers=1, n_eigenvectors=3)
    _, x = networks(sizes=(8, 9))
    a, b = encoder.inputs(x), encoder.inputs(x)
    torch.testing.assert_close(a.abs()[:, :, 1:4], b.abs()[:, :, 1:4])
    assert any(not torch.equal(a, encoder.inputs(x)) for _ in range(5))
    encoder.eval()
    torch.testing.assert_close(encoder.inputs(x), encoder.inputs(x), atol=0, rtol=0)


def test_the_sum_of_the_tokens_is_the_item_up_to_the_biases():
    encoder = GIN(dim=5, num_layers=2).eval()
    _, x = networks()
    tokens, mask = encoder.tokens(x), encoder.mask(x)
    assert mask.sum(1).tolist() == [7, 1, 4, 9]
    biases = sum(linear.bias for linear in encoder.readouts)
    total = ((tokens - biases) * mask[:, :, None]).sum(1) + biases
    torch.testing.assert_close(total, encoder(x), atol=1e-4, rtol=1e-4)


def test_prepare_takes_graphs_pairs_one_graph_and_its_own_tensor():
    oracle = nx.karate_club_graph()
    graph = Graph.of(np.array(oracle.edges), features=np.eye(34, dtype=np.float32)[:, :2])
    encoder = GIN(dim=4, num_layers=1, in_features=2, size=12).fit_prepare(graph)
    x = encoder.prepare(graph)
    assert x.shape == (34, 12, 14)
    np.testing.assert_array_equal(x, ego_networks(graph, size=12))
    assert encoder.prepare(x) is x
    torch.testing.assert_close(encoder.mean, torch.tensor([1 / 34, 1 / 34]))
    pair = encoder.prepare([(graph.edges, graph.features), Graph.of([[0, 1]], features=np.ones((3, 2)))])
    assert pair.shape == (2, 12, 14)
    assert encoder.mask(pair).sum(1).tolist() == [12, 3]
    plain = GIN(dim=4, num_layers=1, size=4)
    assert plain.prepare([([[0, 1]], None), ([], None)])[:, 0, :2].tolist() == [[1, 1], [1, 0]]
    assert plain.prepare([([[0, 1]], np.ones((2, 5)))]).shape == (1, 4, 4)  # structure alone


def test_wide_features_are_reduced_by_what_was_fitted_and_the_fit_is_saved():
    chance = np.random.default_rng(0)
    graphs = [Graph.of([[0, 1], [1, 2]], features=chance.normal(size=(3, 9))) for _ in range(20)]
    encoder = GIN(dim=4, num_layers=1, in_features=3, size=4).fit_prepare(graphs)
    found = np.concatenate([graph.features for graph in graphs])
    reduced = found @ encoder.directions.numpy()
    x = encoder.prepare(graphs)
    np.testing.assert_allclose(np.sort(x[:, :3, 4:].reshape(-1, 3), 0), np.sort(reduced, 0), atol=1e-5)
    standard = encoder.node_features(x)[encoder.mask(x)]
    torch.testing.assert_close(standard.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    again = GIN(**{name: value for name, value in encoder.config.items() if name != "name"})
    load_state(again, encoder.state_dict())
    torch.testing.assert_close(again.eval()(again.prepare(graphs)), encoder.eval()(x))


def test_isolated_nodes_and_networks_of_one_node_are_finite():
    encoder = GIN(dim=4, num_layers=2)
    x = torch.zeros(3, 5, 5)
    x[:, 0, 0] = 1
    assert encoder(x).isfinite().all()
    assert encoder.eval()(x).isfinite().all()


def test_eigenvectors_tell_what_messages_cannot():
    """A ring of 6 and two triangles are alike to the Weisfeiler-Leman test, up to where the ego is."""
    ring, triangles = nx.cycle_graph(6), nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3))
    x = torch.stack([torch.from_numpy(nx.to_numpy_array(one) + np.eye(6)).float() for one in (ring, triangles)])
    torch.manual_seed(0)
    a, b = GIN(dim=4, num_layers=1, n_eigenvectors=0).eval()(x)
    torch.testing.assert_close(a, b)
    a, b = GIN(dim=4, num_layers=1, n_eigenvectors=4).eval()(x)
    assert (a - b).abs().max() > 1e-2


def test_what_cannot_be_is_refused():
    encoder = GIN(dim=4, num_layers=1)
    with pytest.raises(ArgumentError, match="networks"):
        encoder(torch.zeros(2, 5, 16, 16))
    with pytest.raises(ArgumentError, match="2 features"):
        GIN(in_features=2)(torch.zeros(2, 5, 5))
    with pytest.raises(ArgumentError, match="readout='mean'"):
        GIN(readout="mean")
    with pytest.raises(DataError, match="expected a Graph"):
        encoder.prepare(["a"])
    with pytest.raises(DataError, match="0 features"):
        GIN(in_features=2).fit_prepare([([[0, 1]], None)])
    with pytest.raises(DataError, match="expected 2"):
        GIN(in_features=2).prepare([([[0, 1]], np.ones((2, 5)))])


def test_gradients_reach_every_parameter_under_bfloat16_too():
    torch.manual_seed(0)
    encoder = GIN(dim=8, num_layers=2, learn_eps=True)
    x = torch.from_numpy(structural_graphs(18)["x"])
    with torch.autocast("cpu", torch.bfloat16):
        out = encoder(x)
    nn.functional.mse_loss(out.float(), torch.randn(18, 8)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())
