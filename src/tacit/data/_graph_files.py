"""Graphs as users have them: edge lists, files that networkx reads, networkx and PyTorch Geometric objects."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data._columns import Named
from tacit.data._graphs import Graph, drop_repeats, ego_networks, whole_graphs
from tacit.data._listing import Labels, walk
from tacit.data._packs import Skipped
from tacit.data._tables import LABELS, as_label, delimiter_of, not_utf8
from tacit.errors import DataError, MissingExtra

__all__ = ["GRAPH_FILES", "Graphs", "edge_columns", "read_graph"]

Array = np.ndarray
GRAPH_FILES = (".graphml", ".gml", ".gexf")
"""Endings of files that networkx reads."""
EDGE_LISTS = (".csv", ".tsv", ".txt", ".edges", ".edgelist", ".parquet")
SOURCES = ("source", "src", "from", "node1", "node_1", "u")
TARGETS = ("target", "dst", "to", "node2", "node_2", "v")
IDS = ("id", "node", "node_id", "name", "index")
LONGEST = 2**16
"""Characters of a line that may hold an edge."""


@dataclass
class Graphs:
    """What was read: one graph, whose nodes are the items, or many, each an item.

    Attributes:
        graphs: one, or many.
        items: nodes or graphs.
        where, what: the file or object, and its kind in a word or two.
        names: of the items.
        labels: name -> a label or None for each item; for evaluation only.
        skipped: lines, files or graphs that were not used, and why.
        remarks: sentences on what was changed or chosen.
    """

    graphs: list[Graph]
    items: str
    where: str
    what: str
    names: list[str]
    labels: Labels = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def tensor(self, *, size: int | None = None, hops: int = 2, generator: np.random.Generator | None = None) -> Array:
        """The items as float32 (n, k, k + f): `ego_networks` of the nodes (k = 32), or `whole_graphs` (k = 64)."""
        if self.items == "nodes":
            return ego_networks(self.graphs[0], size=size or 32, hops=hops, generator=generator)
        return whole_graphs(self.graphs, size or 64)


def read_graph(x: Any, *, features: str | os.PathLike[str] | None = None) -> Graphs:
    """One graph, whose nodes are the items, or many graphs, which are the items.

    | x                                                       | items                                               |
    |---------------------------------------------------------|-----------------------------------------------------|
    | .csv, .tsv, .txt, .edges, .parquet: an edge a row       | nodes; columns source and target, or the first two  |
    | .graphml, .gml, .gexf; a networkx graph                 | nodes; numbers at them are features                 |
    | object with edge_index (PyTorch Geometric's Data)       | nodes; x, y                                         |
    | .npz with edges (or edge_index) and perhaps x, y        | nodes                                               |
    | .npz with node_offsets and edge_offsets as `graphs_tu`  | graphs                                              |
    | a folder of .graphml, .gml, .gexf; a list of the above  | graphs; folders in it are labels                    |
    | what `load_named` gives of a graph                      | nodes or graphs                                     |

    Edges become undirected; weights are not used. Self-loops and duplicate edges are dropped and counted, nodes without
    an edge kept. Ids may be anything; nodes are in the order of their numbers if all are whole numbers, or else of
    their first appearance. Lines that hold no edge are in `skipped`.

    A table of nodes beside an edge list (nodes.csv, NAME_nodes.parquet, features.npy...) is read with it: its numbers
    are features, a column called label, class, target, y or category labels, and nodes that no edge names are isolated.

    Args:
        x: see the table.
        features: a table of nodes that lies elsewhere: .csv, .tsv or .parquet with a column of ids, or .npy whose rows
            are the nodes 0, 1, ...

    Raises:
        DataError: nothing there, or no graph.
        MissingExtra: the file needs networkx, which is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "friends.csv")
    ...     _ = path.write_text("source,target\\nann,bob\\nbob,ann\\nbob,bob\\nbob,cy\\nann\\n")
    ...     found = read_graph(path)
    >>> found.names, found.graphs[0].edges.tolist(), found.skipped[0]
    (['ann', 'bob', 'cy'], [[0, 1], [1, 2]], Skipped(uri='friends.csv:6', reason='no edge: 1 field'))
    """
    if isinstance(x, str | os.PathLike):
        return _read_path(Path(x).expanduser(), features)
    if isinstance(x, list | tuple):
        return _many([(str(number), _one(graph)) for number, graph in enumerate(x)], "a list", "list")
    if isinstance(x, Named):
        return _of_named(x)
    read = _one(x)
    return _nodes(read, "a graph", type(x).__name__)


def edge_columns(names: Sequence[str]) -> tuple[int, int] | None:
    """Which columns of a table hold the two ends of an edge, by their names.

    >>> edge_columns(["weight", "Source", "Target"]), edge_columns(["text", "label"])
    ((1, 2), None)
    """
    lower = [name.strip().lower() for name in names]
    for source, target in zip(SOURCES, TARGETS, strict=True):
        if source in lower and target in lower:
            return lower.index(source), lower.index(target)
    return None


# What was read --------------------------------------------------------------------------------------------------------


@dataclass
class _Read:
    """One graph, and what is known of it."""

    graph: Graph
    label: str | None = None
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)


def _made(edges: Any, n_nodes: int | None, values: Any = None, *, directed: bool = False, **more: Any) -> _Read:
    """A graph of edges as they came."""
    graph = Graph.of(edges, n_nodes, values, **more)
    counts = drop_repeats(edges)[1]
    return _Read(graph, counts=counts | {"directed": int(directed)})


def _nodes(read: _Read, where: str, what: str) -> Graphs:
    graph = read.graph
    if not graph.n_nodes:
        raise DataError(f"{where} ({what}) holds no edge and no node")
    remarks = [*read.remarks, *_said([read])]
    if isolated := int((graph.degrees == 0).sum()):
        remarks.append(f"{isolated:,} nodes have no edge; they are kept.")
    names = list(graph.names) if graph.names is not None else [str(node) for node in range(graph.n_nodes)]
    return Graphs([graph], "nodes", where, what, names, dict(graph.labels), read.skipped, remarks)


def _many(named: Sequence[tuple[str, _Read]], where: str, what: str, skipped: Sequence[Skipped] = ()) -> Graphs:
    problems = [*skipped, *(Skipped(name, "a graph without nodes") for name, read in named if not read.graph.n_nodes)]
    kept = [(name, read) for name, read in named if read.graph.n_nodes]
    if not kept:
        raise DataError(f"{where} ({what}) holds no graph that can be read; {_first(problems)}")
    reads = [read for _, read in kept]
    labels = [read.label for read in reads]
    found: Labels = {"label": labels} if any(label is not None for label in labels) else {}
    graphs = [read.graph for read in reads]
    return Graphs(graphs, "graphs", where, what, [name for name, _ in kept], found, problems, _said(reads))


def _said(reads: Sequence[_Read]) -> list[str]:
    """Sentences on what became of the edges."""
    total = {name: sum(read.counts.get(name, 0) for read in reads) for name in ("self-loops", "duplicates", "directed")}
    said = []
    if total["self-loops"]:
        said.append(f"{total['self-loops']:,} self-loops were left out.")
    if total["duplicates"]:
        said.append(f"{total['duplicates']:,} duplicate edges were left out.")
    if total["directed"]:
        said.append("Edges have a direction there; they are taken as undirected.")
    return said


def _first(problems: Sequence[Skipped]) -> str:
    return f"the first problem: {': '.join(problems[0])}" if problems else "looked for .graphml, .gml and .gexf"


# Objects --------------------------------------------------------------------------------------------------------------


def _one(x: Any) -> _Read:
    if isinstance(x, Graph):
        return _Read(x)
    if hasattr(x, "edge_index"):
        return _of_geometric(x)
    if all(hasattr(x, name) for name in ("nodes", "edges", "is_directed")):
        return _of_networkx(x)
    raise DataError(f"x={type(x).__name__}: expected a path, a networkx graph, an object with edge_index, or many")


def _of_geometric(x: Any) -> _Read:
    """PyTorch Geometric's `Data`, by what it holds: edge_index (2, m), x (n, f), y."""
    edges = np.asarray(_array(x.edge_index)).T
    values, y = (_array(getattr(x, name, None)) for name in ("x", "y"))
    n_nodes = len(values) if values is not None else getattr(x, "num_nodes", None)
    values = None if values is None else values.reshape(len(values), -1)
    both = drop_repeats(edges)[1]
    read = _made(edges, n_nodes, values, directed=both["reversed"] < len(drop_repeats(edges)[0]))
    if y is None:
        return read
    if y.size == 1 and read.graph.n_nodes != 1:
        read.label = _label(y.reshape(-1)[0])
    elif y.ndim == 1 and len(y) == read.graph.n_nodes:
        read.graph.labels["y"] = [_label(value) for value in y]  # type: ignore[index]
    return read


def _array(values: Any) -> Array | None:
    """Of a tensor on any device, or whatever numpy takes."""
    if values is None:
        return None
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _label(value: Any) -> str | None:
    value = value.item() if hasattr(value, "item") else value
    return None if value == -1 else as_label(value)


def _of_networkx(x: Any) -> _Read:
    names = [str(node) for node in x.nodes()]
    number = {node: place for place, node in enumerate(x.nodes())}
    edges = np.array([(number[a], number[b]) for a, b, *_ in x.edges()], np.int64).reshape(-1, 2)
    columns: dict[str, list[Any]] = {}
    for place, (_, said) in enumerate(x.nodes(data=True)):
        for name, value in said.items():
            columns.setdefault(str(name), [None] * len(names))[place] = value
    values, labels, remarks = _described(columns)
    if len(set(labels.get("label", [None]))) == len(names) > 1:  # what some formats call a label is a name
        names = [str(name) for name in labels.pop("label")]
    read = _made(edges, len(names), values, directed=x.is_directed(), names=names, labels=labels)
    read.remarks = remarks
    read.label = next((as_label(x.graph[name]) for name in LABELS if name in x.graph), None)
    return read


def _described(columns: Mapping[str, Any]) -> tuple[Array | None, Labels, list[str]]:
    """Columns of what is said of the nodes: numbers are features, some columns labels; and sentences on the rest."""
    labels: Labels = {}
    numbers: dict[str, Array] = {}
    unused = []
    for name, values in columns.items():
        if name.lower() in LABELS:
            labels[name.lower()] = [as_label(value) for value in values]
        elif isinstance(values, np.ndarray):
            numbers[name] = values
        elif all(value is None or isinstance(value, int | float | np.number) for value in values):
            numbers[name] = np.array([np.nan if value is None else float(value) for value in values])
        else:
            unused.append(name)
    remarks = [f"Columns of nodes that are no numbers are not used: {', '.join(unused)}."] if unused else []
    if not numbers:
        return None, labels, remarks
    table, missing = _filled(np.stack(list(numbers.values()), axis=1))
    if missing:
        remarks.append(f"{missing:,} values of nodes are missing or not finite; they are taken as their column's mean.")
    return table, labels, remarks


def _filled(table: Array) -> tuple[Array, int]:
    bad = ~np.isfinite(table)
    count = np.maximum((~bad).sum(0), 1)
    mean = np.where(bad, 0, table).sum(0) / count
    return np.where(bad, mean, table).astype(np.float32), int(bad.sum())


def _of_named(x: Named) -> Graphs:
    """A named set: of nodes, whose edges stand in extras, or of graphs, whose edges are a column."""
    if x.modality != "graph":
        raise DataError(f"{x.name} holds {x.modality} data: expected a graph")
    y = x.columns.get("y")
    labels = [None] * len(x) if y is None else [x.classes[value] if value >= 0 else None for value in y.tolist()]
    if "edges" in x.extras:
        graph = Graph.of(x.extras["edges"], len(x), x.columns["x"], labels={"y": labels})
        return _nodes(_Read(graph), x.name, "named set")
    pairs = zip(x.columns["edges"], x.columns["x"], labels, strict=True)
    graphs = [_Read(Graph.of(edges, len(values), values), label) for edges, values, label in pairs]
    return _many([(str(number), read) for number, read in enumerate(graphs)], x.name, "named set")


# Files ----------------------------------------------------------------------------------------------------------------


def _read_path(path: Path, features: Any) -> Graphs:
    if path.is_dir():
        return _read_folder(path, features)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    ending, where = path.suffix.lower(), str(path)
    if ending in GRAPH_FILES:
        return _nodes(_read_with_networkx(path), where, f"{ending[1:]} file")
    if ending == ".npz":
        return _read_npz(path)
    if ending in EDGE_LISTS:
        return _nodes(_read_edges(path, features), where, f"{ending[1:]} file, an edge a row")
    raise DataError(f"{path}: expected a graph in {', '.join((*EDGE_LISTS, *GRAPH_FILES))} or .npz")


def _read_folder(path: Path, features: Any) -> Graphs:
    """A folder with an edge list, or of graphs."""
    lists = [path / f"edges{ending}" for ending in EDGE_LISTS if (path / f"edges{ending}").is_file()]
    if lists:
        return _nodes(_read_edges(lists[0], features), str(path), f"folder with {lists[0].name}")
    read, skipped = [], list[Skipped]()
    for name in sorted(name for name in walk(str(path), skipped) if name.lower().endswith(GRAPH_FILES)):
        file = path / name
        try:
            found = _read_with_networkx(file)
        except DataError as error:
            skipped.append(Skipped(name, str(error).removeprefix(f"{file}: ")))
            continue
        inside = file.parent.relative_to(path).as_posix()
        found.label = found.label or (None if inside == "." else inside)
        read.append((name, found))
    return _many(read, str(path), "folder of graphs", skipped)


def _read_with_networkx(path: Path) -> _Read:
    try:
        import networkx
    except ImportError:
        raise MissingExtra("networkx", "graph", f"reading {path.suffix.lower()}") from None
    readers = {
        ".graphml": networkx.read_graphml,
        ".gexf": networkx.read_gexf,
        ".gml": lambda file: networkx.read_gml(file, label="id"),
    }
    try:
        return _of_networkx(readers[path.suffix.lower()](path))
    except (OSError, ValueError, KeyError, SyntaxError, networkx.NetworkXException, AttributeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as {path.suffix.lower()[1:]}: {text}") from error


def _read_npz(path: Path) -> Graphs:
    try:
        with np.load(path, allow_pickle=False) as packed:
            held = dict(packed)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as npz: {error}") from error
    if {"edges", "edge_offsets", "node_offsets"} <= set(held):
        return _many(list(_tu(held)), str(path), "npz of graphs")
    edges = held["edge_index"].T if "edge_index" in held else held.get("edges")
    if edges is None:
        raise DataError(f"{path}: expected edges (m, 2) or edge_index (2, m); it holds {', '.join(held) or 'nothing'}")
    y = next((held[name] for name in ("y", "labels", "label") if name in held), None)
    values = next((held[name] for name in ("x", "features", "node_features") if name in held), None)
    if "x_indptr" in held:
        from scipy.sparse import csr_matrix

        parts = (held["x_data"], held["x_indices"], held["x_indptr"])
        values = csr_matrix(parts, shape=tuple(held["x_shape"])).toarray()
    n_nodes = len(values) if values is not None else None if y is None else len(y)
    labels = {} if y is None else {"y": [_label(value) for value in y]}
    return _nodes(_made(edges, n_nodes, values, labels=labels), str(path), "npz file")


def _tu(held: Mapping[str, Array]) -> Iterator[tuple[str, _Read]]:
    """Graphs one after another, as `graphs_tu` packs them; tags of nodes become one-hot features."""
    values = held.get("node_features")
    if values is None and "node_tag" in held:
        values = np.eye(int(held["node_tag"].max(initial=0)) + 1, dtype=np.float32)[held["node_tag"]]
    nodes, edges, labels = held["node_offsets"], held["edge_offsets"], held.get("labels")
    for number in range(len(nodes) - 1):
        rows = slice(nodes[number], nodes[number + 1])
        inside = held["edges"][edges[number] : edges[number + 1]]
        read = _made(inside, int(rows.stop - rows.start), None if values is None else values[rows])
        read.label = None if labels is None else _label(labels[number])
        yield str(number), read


# Edge lists -----------------------------------------------------------------------------------------------------------


def _read_edges(path: Path, features: Any) -> _Read:
    skipped: list[Skipped] = []
    read_pairs = _parquet_pairs if path.suffix.lower() == ".parquet" else _text_pairs
    pairs = list(read_pairs(path, skipped))
    table = Path(features).expanduser() if features is not None else _beside(path)
    if table is not None and not table.is_file():
        raise DataError(f"features={str(table)!r}: no such file")
    ids = dict.fromkeys(end for pair in pairs for end in pair)
    known, columns = ({}, {}) if table is None else _node_table(table, skipped)
    names = _in_order([*ids, *(name for name in known if name not in ids)])
    if not names:
        raise DataError(f"{path}: no line holds an edge (two ids); {_first(skipped)}")
    number = {name: place for place, name in enumerate(names)}
    edges = np.array([(number[a], number[b]) for a, b in pairs], np.int64).reshape(-1, 2)
    rows = [known.get(name) for name in names]
    values, labels, remarks = _described(_picked(columns, rows))
    read = _made(edges, len(names), values, names=names, labels=labels)
    read.skipped = skipped
    read.remarks = [*([f"What is known of the nodes is from {table.name}."] if table else []), *remarks]
    return read


def _picked(columns: Mapping[str, Any], rows: Sequence[int | None]) -> dict[str, Any]:
    """The columns by node; None, or NaN in an array, where no row says anything of it."""
    place = np.array([-1 if row is None else row for row in rows], np.int64)
    return {
        name: np.where(place < 0, np.nan, values[place])
        if isinstance(values, np.ndarray)
        else [None if row is None else values[row] for row in rows]
        for name, values in columns.items()
    }


def _in_order(names: list[str]) -> list[str]:
    """By number if all are whole numbers, or else as they are."""
    return sorted(names, key=int) if all(name.isascii() and name.lstrip("-").isdigit() for name in names) else names


def _text_pairs(path: Path, skipped: list[Skipped]) -> Iterator[tuple[str, str]]:
    columns: tuple[int, int] | None = None
    rows = iter(_rows(path, skipped))
    waiting = [row for _, row in zip(range(2), rows, strict=False)]
    if waiting:
        columns = edge_columns(waiting[0][1])
        if columns is not None or _is_header([fields for _, fields in waiting]):
            del waiting[0]
    first, second = columns or (0, 1)
    for place, fields in _chained(waiting, rows):
        if len(fields) <= max(first, second):
            skipped.append(Skipped(place, f"no edge: {len(fields)} field{'s' * (len(fields) != 1)}"))
        elif not (fields[first].strip() and fields[second].strip()):
            skipped.append(Skipped(place, "no edge: an end has no name"))
        else:
            yield fields[first].strip(), fields[second].strip()


def _chained(*parts: Iterable[tuple[str, list[str]]]) -> Iterator[tuple[str, list[str]]]:
    for part in parts:
        yield from part


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first of two rows names the columns: words above whole numbers."""
    if len(rows) < 2 or min(map(len, rows)) < 2:
        return False
    numbers = [all(field.strip().lstrip("-").isdigit() for field in row[:2]) for row in rows]
    return not numbers[0] and numbers[1] and not any(field.strip().isdigit() for field in rows[0][:2])


def _rows(path: Path, skipped: list[Skipped]) -> Iterator[tuple[str, list[str]]]:
    """Place and fields of each line; comments (# or %) and empty lines are passed over."""
    split: str | None = None
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    with file:
        for number, raw in enumerate(file, 1):
            place = f"{path.name}:{number}"
            if len(raw) > LONGEST:
                skipped.append(Skipped(place, f"too long: {len(raw):,} bytes"))
                continue
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n\0")
            except UnicodeDecodeError:
                skipped.append(Skipped(place, "not UTF-8"))
                continue
            if not line.strip() or line.startswith(("#", "%")):
                continue
            if split is None and path.suffix.lower() in (".csv", ".tsv"):
                split = delimiter_of(line, path)
            elif split is None:
                split = next((mark for mark in ("\t", ",", ";") if mark in line), " ")
            yield place, line.split() if split == " " else next(csv.reader([line], delimiter=split))


def _parquet_pairs(path: Path, skipped: list[Skipped]) -> Iterator[tuple[str, str]]:
    table = _arrow_table(path)
    if table.num_columns < 2:
        raise DataError(f"{path}: expected columns source and target; it has {', '.join(table.column_names) or 'none'}")
    ends = [table.column(place).to_pylist() for place in edge_columns(table.column_names) or (0, 1)]
    for row, (a, b) in enumerate(zip(*ends, strict=True)):
        first, second = as_label(a), as_label(b)
        if first is None or second is None:
            skipped.append(Skipped(f"{path.name}#{row}", "no edge: an end has no name"))
        else:
            yield first, second


# Tables of nodes ------------------------------------------------------------------------------------------------------


def _beside(path: Path) -> Path | None:
    """A table of nodes that lies beside an edge list and is called like it."""
    stem = path.stem
    names = [f"{stem}_nodes", f"{stem}.nodes", f"{stem}_features", f"{stem}.features"]
    if "edges" in stem:
        names += [stem.replace("edges", "nodes"), stem.replace("edges", "features")]
    if stem in ("edges", "edgelist", "graph"):
        names += ["nodes", "features", "node_features"]
    places = [path.with_name(name + ending) for name in names for ending in (".csv", ".tsv", ".parquet", ".npy")]
    return next((place for place in places if place != path and place.is_file()), None)


def _node_table(path: Path, skipped: list[Skipped]) -> tuple[dict[str, int], dict[str, Any]]:
    """Node -> its row, and the columns: lists, or arrays of numbers."""
    if path.suffix.lower() == ".npy":
        try:
            table = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as npy: {error}") from error
        if table.ndim != 2 or table.dtype.kind not in "biuf":
            raise DataError(f"{path}: expected numbers (nodes, features), found {table.dtype} {table.shape}")
        numbers = {str(column): table[:, column].astype(np.float32) for column in range(table.shape[1])}
        return {str(row): row for row in range(len(table))}, numbers
    read = _arrow_table(path, skipped)
    lower = [name.lower() for name in read.column_names]
    place = next((lower.index(name) for name in IDS if name in lower), 0)
    columns: dict[str, Any] = {name: read.column(name).to_pylist() for name in read.column_names}
    ids: dict[str, int] = {}
    for row, node in enumerate(map(as_label, columns.pop(read.column_names[place]))):
        if node is None or node in ids:
            reason = "no id" if node is None else f"a second row of node {node}"
            skipped.append(Skipped(f"{path.name}#{row}", reason))
        else:
            ids[node] = row
    return ids, columns


def _arrow_table(path: Path, skipped: list[Skipped] | None = None) -> Any:
    from pyarrow import ArrowInvalid, parquet
    from pyarrow import csv as arrow_csv

    def note(row: Any) -> str:
        said = f"{row.actual_columns} fields where {row.expected_columns} are expected"
        if skipped is not None:
            skipped.append(Skipped(f"{path.name}:{row.number}", said))
        return "skip"

    try:
        if path.suffix.lower() == ".parquet":
            return parquet.read_table(path)
        with path.open(encoding="utf-8-sig") as file:
            delimiter = delimiter_of(file.readline(), path)
        parse = arrow_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=note)
        return arrow_csv.read_csv(path, arrow_csv.ReadOptions(use_threads=False), parse)
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    except (OSError, ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix.lower()[1:]}: {str(error).splitlines()[0]}") from error
