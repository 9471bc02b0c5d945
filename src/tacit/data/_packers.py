"""From a set's original files to the form in which `_readers` finds it; one function for each form of original.

A packer takes the original files and the folder to fill, and writes what the folder of the same name in TACIT_DATA
holds, item by item in the same order.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "pack_ag_news",
    "pack_amazon",
    "pack_cifar10",
    "pack_clinc150",
    "pack_cranfield",
    "pack_fashion_mnist",
    "pack_mnist",
    "pack_omniglot",
    "pack_sts",
]

Array = np.ndarray
Files = Sequence[Path]


# Images ---------------------------------------------------------------------------------------------------------------

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def pack_mnist(files: Files, folder: Path) -> None:
    """Images and labels of the test part."""
    images, labels = map(_idx, files)
    np.savez_compressed(folder / "mnist_test10k.npz", images=images, labels=labels)


def pack_fashion_mnist(files: Files, folder: Path) -> None:
    """Images and labels to train, then to test; each part sorted by class."""
    for part, (images, labels) in (("train", map(_idx, files[:2])), ("test", map(_idx, files[2:]))):
        order = np.argsort(labels, kind="stable")
        np.savez_compressed(folder / f"{part}.npz", images=images[order], labels=labels[order], names=np.array(CLOTHES))


def _idx(path: Path) -> Array:
    """LeCun's format: two zero bytes, the type (8: uint8), the number of dimensions, each dimension in 4 bytes."""
    content = gzip.decompress(path.read_bytes())
    zeros, kind, dimensions = content[:2], content[2], content[3]
    if zeros != b"\0\0" or kind != 8:
        raise ValueError(f"{path.name}: expected unsigned bytes in the IDX format")
    shape = np.frombuffer(content, ">u4", dimensions, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def pack_cifar10(files: Files, folder: Path) -> None:
    """The binary version: records of a label and 3 x 32 x 32 pixels. Stored as PNG, without loss, sorted by class."""
    with tarfile.open(files[0]) as archive:
        for part, names in (("train", [f"data_batch_{i}" for i in range(1, 6)]), ("test", ["test_batch"])):
            batches = [archive.extractfile(f"cifar-10-batches-bin/{name}.bin") for name in names]
            content = b"".join(batch.read() for batch in batches if batch is not None)
            records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            records = records[np.argsort(records[:, 0], kind="stable")]
            pictures = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            _parquet(folder / f"{part}.parquet", image=[_png(picture) for picture in pictures], label=records[:, 0])


def _png(picture: Array) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def pack_omniglot(files: Files, folder: Path) -> None:
    """The two small background sets, whose union has each character once, and the one-shot runs."""
    drawings: dict[str, bytes] = {}  # Alphabet/character01/0108_01.png
    for file in files[:2]:
        drawings |= {name.partition("/")[2]: ink for name, ink in _members(file).items() if name.endswith(".png")}
    order = sorted(drawings)
    characters = [name.rpartition("/")[0] for name in order]
    character_names, character = np.unique(characters, return_inverse=True)
    alphabet_names, alphabet = np.unique([name.partition("/")[0] for name in order], return_inverse=True)
    np.savez_compressed(
        folder / "characters.npz",
        bits=np.stack([_ink(drawings[name]) for name in order]),
        character=character.astype(np.int16),
        alphabet=alphabet.astype(np.int8),
        drawer=np.array([int(name[-6:-4]) for name in order], np.int8),
        character_names=character_names,
        alphabet_names=alphabet_names,
    )
    _pack_runs(_members(files[2]), folder)


def _pack_runs(files: dict[str, bytes], folder: Path) -> None:
    support, query, answer = [], [], []
    for run in (f"run{number:02}" for number in range(1, 21)):
        pairs = [line.split() for line in files[f"{run}/class_labels.txt"].decode().splitlines()]
        right = {asked: int(shown[-6:-4]) - 1 for asked, shown in pairs}
        asked = [f"{run}/test/item{number:02}.png" for number in range(1, 21)]
        support.append([_ink(files[f"{run}/training/class{number:02}.png"]) for number in range(1, 21)])
        query.append([_ink(files[name]) for name in asked])
        answer.append([right[name] for name in asked])
    np.savez_compressed(
        folder / "one_shot_runs.npz",
        support=np.array(support),
        query=np.array(query),
        answer=np.array(answer, np.int8),
    )


def _ink(file: bytes) -> Array:
    """A black drawing on white -> its pixels as bits, 1 for ink."""
    from PIL import Image

    with Image.open(io.BytesIO(file), formats=["PNG"]) as image:
        return np.packbits(np.asarray(image.convert("L")) < 128)


def _members(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist() if not name.endswith("/")}


# Texts ----------------------------------------------------------------------------------------------------------------


def pack_ag_news(files: Files, folder: Path) -> None:
    """Rows of class (from 1), title and text."""
    with files[0].open(encoding="utf-8", newline="") as file:
        rows = [(int(label) - 1, title, text) for label, title, text in csv.reader(file)]
    with gzip.open(folder / "ag_news_test.csv.gz", "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("label", "title", "text"), *rows])


def pack_clinc150(files: Files, folder: Path) -> None:
    """Requests by part, those out of scope in parts of their own; and the domain of each intent."""
    parts, domains = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    domain = {intent.replace(" ", "_"): name for name, intents in domains.items() for intent in intents}
    rows = [(part.removeprefix("oos_"), intent, text) for part, pairs in parts.items() for text, intent in pairs]
    _parquet(
        folder / "clinc150.parquet",
        split=[part for part, _, _ in rows],
        intent=[intent for _, intent, _ in rows],
        text=[text for _, _, text in rows],
        domain=[domain.get(intent, "oos") for _, intent, _ in rows],
    )


def pack_sts(files: Files, folder: Path) -> None:
    """Three parts of tab-separated lines without quoting: genre, source, year, number, score, and two sentences."""
    rows = [
        (part, *line.split("\t"))
        for part, file in zip(("train", "dev", "test"), files, strict=True)
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    genre, score, a, b = ([row[place] for row in rows] for place in (1, 5, 6, 7))
    _parquet(
        folder / "sts_benchmark.parquet",
        split=[row[0] for row in rows],
        genre=genre,
        score=np.array(score, np.float64),
        a=a,
        b=b,
    )


def pack_cranfield(files: Files, folder: Path) -> None:
    """Documents and queries as records of fields (.I number, .T title, .A author, .B, .W text), and judgements."""
    documents, queries, judgements = (file.read_text(encoding="utf-8") for file in files)
    _json_lines(
        folder / "docs.jsonl.gz",
        ({"id": int(fields["I"]), "title": fields["T"], "text": fields["W"]} for fields in _records(documents)),
    )
    # The judgements count queries by their place; the numbers in the file have gaps.
    _json_lines(
        folder / "queries.jsonl.gz",
        ({"id": place, "text": fields["W"]} for place, fields in enumerate(_records(queries), 1)),
    )
    with (folder / "qrels.tsv").open("w", encoding="utf-8", newline="") as file:
        file.write("query\tdoc\tcode\tgain\n")
        for query, document, code in (line.split() for line in judgements.splitlines() if line.strip()):
            gain = 4 if code == "-1" else 5 - int(code)
            file.write(f"{query}\t{document}\t{code}\t{gain}\n")


def _records(text: str) -> Iterable[dict[str, str]]:
    """Field letter -> its text in one line, for each record."""
    for record in re.split(r"^(?=\.I )", text, flags=re.MULTILINE)[1:]:
        fields = re.split(r"^\.([ITABW])(?:\s|$)", record, flags=re.MULTILINE)[1:]
        names, contents = fields[::2], fields[1::2]
        joined: dict[str, str] = {}
        for name, content in zip(names, contents, strict=True):
            joined[name] = " ".join([*joined.get(name, "").split(), *content.split()])
        yield joined


def pack_amazon(files: Files, folder: Path) -> None:
    """Counts in the SVMlight format, named DOMAIN_PART.svmlight; labels -1 and 1, columns from 0."""
    from sklearn.datasets import load_svmlight_file

    packed = {}
    for file in files:
        x, y = load_svmlight_file(str(file), n_features=5000, zero_based=True)
        x.sort_indices()
        for name, values, dtype in (
            ("data", x.data, np.uint16),
            ("indices", x.indices, np.int16),
            ("indptr", x.indptr, np.int32),
            ("y", y > 0, np.uint8),
        ):
            packed[f"{file.name.partition('.')[0]}_{name}"] = values.astype(dtype)
    np.savez_compressed(folder / "amazon_reviews_da.npz", **packed)


# Writing --------------------------------------------------------------------------------------------------------------


def _parquet(path: Path, **columns: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)


def _json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
