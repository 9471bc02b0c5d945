import sys
from types import SimpleNamespace

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tacit.data import Graph, read_graph, stand_in
from tacit.data._graph_files import edge_columns
from tacit.errors import DataError, MissingExtra


def edges_of(found):
    return {frozenset(found.names[node] for node in edge) for edge in found.graphs[0].edges.tolist()}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.csv", "source,target,weight\na,b,1\nb,c,2\n"),
        ("g.csv", "weight,from,to\n1,a,b\n2,b,c\n"),
        ("g.csv", "a,b\nb,c\n"),
        ("g.tsv", "source\ttarget\na\tb\nb\tc\n"),
        ("g.txt", "# a comment\na b 0.5\n\nb   c\n"),
        ("g.edges", "% made by hand\na;b\nb;c\n"),
        ("g.csv", '"a","b"\n"b","c"\n'),
    ],
)
def test_edge_lists_in_their_dialects(tmp_path, name, text):
    found = read_graph(write(tmp_path / name, text))
    assert edges_of(found) == {frozenset("ab"), frozenset("bc")}
    assert found.items == "nodes"
    assert not found.skipped


def test_a_header_of_unknown_words_above_numbers_is_a_header(tmp_path):
    found = read_graph(write(tmp_path / "g.csv", "citing,cited\n10,9\n9,-2\n"))
    assert found.names == ["-2", "9", "10"]  # by number
    assert edge_columns(["Node1", "NODE2"]) == (0, 1)


def test_bad_lines_are_listed_and_the_rest_is_read(tmp_path):
    path = tmp_path / "g.csv"
    long = b"x" * 100_000
    path.write_bytes(b"source,target\na,b\n\xff\xfe,b\nc\n,d\na,b\nb,a\nd,d\n" + long + b",a\nb,c\n")
    found = read_graph(path)
    assert edges_of(found) == {frozenset("ab"), frozenset("bc")}
    assert [tuple(skip) for skip in found.skipped] == [
        ("g.csv:3", "not UTF-8"),
        ("g.csv:4", "no edge: 1 field"),
        ("g.csv:5", "no edge: an end has no name"),
        ("g.csv:9", "too long: 100,003 bytes"),
    ]
    assert any("1 self-loops" in remark for remark in found.remarks)
    assert any("1 duplicate edges" in remark for remark in found.remarks)
    assert any("1 nodes have no edge" in remark for remark in found.remarks)  # d, of whom there is a self-loop


def test_parquet_with_ids_of_any_type(tmp_path):
    table = pa.table({"source": [1.0, 2.0, None, 3.0], "target": ["x", "y", "z", None]})
    pq.write_table(table, tmp_path / "g.parquet")
    found = read_graph(tmp_path / "g.parquet")
    assert edges_of(found) == {frozenset(("1", "x")), frozenset(("2", "y"))}
    assert [skip.uri for skip in found.skipped] == ["g.parquet#2", "g.parquet#3"]


def test_a_table_of_nodes_beside_it(tmp_path):
    write(tmp_path / "edges.csv", "source,target\na,b\nb,c\n")
    write(
        tmp_path / "nodes.csv", "id,age,height,label,city\nc,3,1.5,x,Rome\na,1,,y,Bonn\nd,5,2.5,x,Rome\na,9,9,x,Bonn\n"
    )
    found = read_graph(tmp_path)
    graph = found.graphs[0]
    assert found.names == ["a", "b", "c", "d"]
    # b has no row, a no height: the means of the others, a's second row not counted
    expected = [[1, 2], [3, 2], [3, 1.5], [5, 2.5]]
    np.testing.assert_allclose(graph.features, expected)
    assert found.labels == {"label": ["y", None, "x", "x"]}
    assert graph.degrees.tolist() == [1, 2, 1, 0]
    assert found.skipped == [("nodes.csv#3", "a second row of node a")]
    said = " ".join(found.remarks)
    assert "nodes.csv" in said
    assert "city" in said
    assert "3 values" in said


def test_features_as_npy_and_in_another_place(tmp_path):
    write(tmp_path / "g.txt", "2 0\n0 1\n")
    np.save(tmp_path / "f.npy", np.arange(8.0).reshape(4, 2))
    found = read_graph(tmp_path / "g.txt", features=tmp_path / "f.npy")
    assert found.names == ["0", "1", "2", "3"]
    np.testing.assert_array_equal(found.graphs[0].features, np.arange(8).reshape(4, 2))
    with pytest.raises(DataError, match="no such file"):
        read_graph(tmp_path / "g.txt", features=tmp_path / "none.npy")


@pytest.mark.parametrize("ending", ["graphml", "gml", "gexf"])
def test_files_of_networkx(tmp_path, ending):
    oracle = nx.DiGraph([("a", "b"), ("b", "a"), ("b", "c"), ("c", "c")])
    oracle.add_node("d")
    for place, node in enumerate("abcd"):
        oracle.nodes[node]["size"] = place + 0.5
        oracle.nodes[node]["category"] = "even" if place % 2 == 0 else "odd"
    getattr(nx, f"write_{ending}")(oracle, tmp_path / f"g.{ending}")
    found = read_graph(tmp_path / f"g.{ending}")
    graph = found.graphs[0]
    assert graph.edges.tolist() == [[0, 1], [1, 2]]
    assert graph.features[:, 0].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert found.labels["category"] == ["even", "odd", "even", "odd"]
    assert any("undirected" in remark for remark in found.remarks)


def test_a_networkx_graph_with_nodes_of_any_type():
    oracle = nx.MultiGraph([((0, 1), "x"), ("x", (0, 1)), ("x", 3.5)])
    found = read_graph(oracle)
    assert found.names == ["(0, 1)", "x", "3.5"]
    assert found.graphs[0].edges.tolist() == [[0, 1], [1, 2]]
    assert any("1 duplicate" in remark for remark in found.remarks)


def data(edge_index, x=None, y=None, **more):
    """What PyTorch Geometric's Data looks like."""
    return SimpleNamespace(edge_index=torch.tensor(edge_index), x=x, y=y, **more)


def test_one_geometric_graph_and_many():
    one = data([[0, 1, 1], [1, 0, 2]], torch.eye(4), torch.tensor([0, 1, -1, 1]))
    found = read_graph(one)
    assert found.graphs[0].edges.tolist() == [[0, 1], [1, 2]]
    assert found.labels == {"y": ["0", "1", None, "1"]}
    assert any("undirected" in remark for remark in found.remarks)
    both_ways = read_graph(data([[0, 1], [1, 0]], num_nodes=3))
    assert both_ways.graphs[0].n_nodes == 3
    assert both_ways.remarks == ["1 nodes have no edge; they are kept."]
    many = read_graph([data([[0, 1], [1, 0]], torch.eye(2), torch.tensor([5])), one, data([[], []], num_nodes=0)])
    assert many.items == "graphs"
    assert many.names == ["0", "1"]
    assert many.labels == {"label": ["5", None]}
    assert many.skipped == [("2", "a graph without nodes")]


def test_a_folder_of_graphs(tmp_path):
    for kind, oracle in (("ring", nx.cycle_graph(5)), ("star", nx.star_graph(4))):
        (tmp_path / kind).mkdir()
        nx.write_graphml(oracle, tmp_path / kind / "1.graphml")
    write(tmp_path / "star" / "broken.graphml", "<graphml><graph>")
    found = read_graph(tmp_path)
    assert found.names == ["ring/1.graphml", "star/1.graphml"]
    assert found.labels == {"label": ["ring", "star"]}
    assert [skip.uri for skip in found.skipped] == ["star/broken.graphml"]
    assert found.tensor(size=8).shape == (2, 8, 8)


def test_npz_of_one_graph_and_of_many(tmp_path):
    np.savez(tmp_path / "one.npz", edges=[[0, 1], [1, 2]], x=np.eye(3), y=[0, 1, -1])
    one = read_graph(tmp_path / "one.npz")
    assert one.labels == {"y": ["0", "1", None]}
    assert one.tensor(size=4).shape == (3, 4, 7)
    packed = {"edges": [[0, 1], [1, 0], [0, 1]], "edge_offsets": [0, 2, 3], "node_offsets": [0, 2, 5]}
    np.savez(tmp_path / "many.npz", **packed, node_tag=[0, 1, 1, 1, 0], labels=[1, 0])
    many = read_graph(tmp_path / "many.npz")
    assert [graph.n_nodes for graph in many.graphs] == [2, 3]
    assert many.graphs[1].features.tolist() == [[0, 1], [0, 1], [1, 0]]
    assert many.labels == {"label": ["1", "0"]}
    np.savez(tmp_path / "none.npz", z=[1])
    with pytest.raises(DataError, match="edge_index"):
        read_graph(tmp_path / "none.npz")


def test_named_sets():
    cora = read_graph(stand_in("node_classification/cora", 60))
    assert cora.items == "nodes"
    assert len(cora) == cora.graphs[0].n_nodes == len(cora.labels["y"])
    mutag = read_graph(stand_in("graphs_tu/MUTAG", 50))
    assert mutag.items == "graphs"
    assert len(mutag) == len(mutag.graphs) == len(mutag.labels["label"])


def test_what_is_no_graph_is_said(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such file"):
        read_graph(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no line holds an edge"):
        read_graph(write(tmp_path / "g.txt", "one\n"))
    with pytest.raises(DataError, match="expected a graph in"):
        read_graph(write(tmp_path / "g.pdf", "one\n"))
    with pytest.raises(DataError, match="no graph that can be read"):
        read_graph([Graph.of([], n_nodes=0)])
    with pytest.raises(DataError, match="expected a path"):
        read_graph(3)
    with pytest.raises(DataError, match="cannot be read as gml"):
        read_graph(write(tmp_path / "g.gml", "graph ["))
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(MissingExtra, match=r"tacit\[graph\]"):
        read_graph(write(tmp_path / "g.graphml", "<graphml/>"))
