"""Drawn data in the shape of each named set, for machines that do not hold the set.

Every class has a pattern of its own, so that there is something to learn, and that is all: no figure measured on a
stand-in says anything about the set.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tacit.data._columns import Named, SparseRows
from tacit.data._named import full_name
from tacit.data._readers import ALPHABETS, DOMAINS, WORDS
from tacit.errors import expect

__all__ = ["stand_in"]

Array = np.ndarray
Chance = np.random.Generator

SMALLEST = 50


def stand_in(name: str, n: int, *, seed: int = 0) -> Named:
    """Drawn data with the modality, columns and shapes of a named set: to try whether code runs, without the set.

    It has as many classes as the set, though 20 at most (omniglot 24, three for each alphabet), and an official split
    where the set has one: of n items 60 % to train, then 10 % to choose where the set has that, the rest to test.

    Args:
        name: as `load_named` takes it.
        n: items, at least 50.
        seed: at least 0.

    Raises:
        ArgumentError: unknown name, or a number out of range.

    >>> data = stand_in("cifar10", 100)
    >>> len(data), data.columns["x"].shape, len(data.train), len(data.test), len(data.classes)
    (100, (100, 3, 32, 32), 60, 40, 10)
    """
    known = full_name(name)
    expect("n", n, n >= SMALLEST, f"at least {SMALLEST}")
    expect("seed", seed, seed >= 0, "0 or more")
    drawn = _DRAWN[known](n, np.random.default_rng([seed, zlib.crc32(known.encode())]))
    return dataclasses.replace(drawn, name=known, licence="drawn by tacit", source="tacit.data.stand_in")


# What all share -------------------------------------------------------------------------------------------------------


def _classes(n: int, n_classes: int) -> Array:
    """Labels in turn, so that each part of a split has all of them."""
    return np.arange(n, dtype=np.int64) % n_classes


def _split(n: int, parts: str) -> tuple[Array, Array, Array]:
    """Item numbers to train, to test and to choose; `parts` says which there are, as in "train choose test"."""
    ends = {"train": (1.0, 1.0), "train test": (0.6, 0.6), "train choose test": (0.6, 0.7)}[parts]
    train, choose, test = np.split(np.arange(n, dtype=np.int64), [round(n * end) for end in ends])
    return train, test, choose


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


def _grey(pattern: Array, size: int, chance: Chance) -> Array:
    """Patterns (m, c, 4, 4) in [0, 1] -> noisy uint8 images (m, c, size, size)."""
    block = -(-size // 4)
    large = np.kron(pattern, np.ones((block, block)))[..., :size, :size]
    return np.rint(255 * (0.7 * large + 0.3 * chance.random(large.shape))).astype(np.uint8)


def _vocabulary(count: int) -> list[str]:
    """Made-up words: two syllables each."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
    return [syllables[number // 60] + syllables[number % 60] for number in range(count)]


def _texts(topic: Array, chance: Chance, length: int = 12) -> list[str]:
    """Half of each text's words are its topic's own 10, half are anyone's."""
    words = np.array(_vocabulary(10 * (int(topic.max()) + 2)))
    own = 10 * (topic[:, None] + 1) + chance.integers(0, 10, (len(topic), length))
    anyones = chance.integers(0, 10, own.shape)
    return [" ".join(row) for row in words[np.where(chance.random(own.shape) < 0.5, own, anyones)]]


# One for each packing -------------------------------------------------------------------------------------------------


def _images(n: int, chance: Chance, *, shape: tuple[int, int], parts: str = "train test", n_classes: int = 10) -> Named:
    y = _classes(n, n_classes)
    x = _grey(chance.random((n_classes, shape[0], 4, 4))[y], shape[1], chance)
    return Named("image", {"x": x, "y": y}, *_split(n, parts), {"y": _numbers(n_classes)})


def _cifar10n(n: int, chance: Chance) -> Named:
    images = _images(n, chance, shape=(3, 32))
    y = images.columns["y"]
    noisy = {}
    rates = {"aggre": 0.09, "worse": 0.40, "random_label1": 0.17, "random_label2": 0.18, "random_label3": 0.18}
    for name, rate in rates.items():
        wrong = (y + chance.integers(1, 10, n)) % 10
        noisy[name] = np.where(chance.random(n) < rate, wrong, y)
        noisy[name][images.test] = -1
    categories = dict.fromkeys(("y", *noisy), images.classes)
    return dataclasses.replace(images, columns={**images.columns, **noisy}, categories=categories)


def _omniglot(n: int, chance: Chance) -> Named:
    alphabets = sum(ALPHABETS)
    y = _classes(n, 3 * alphabets)
    alphabet = y // 3
    columns = {
        "x": _grey(chance.random((3 * alphabets, 1, 4, 4))[y], 28, chance),
        "y": y,
        "alphabet": alphabet,
        "drawer": np.arange(n, dtype=np.int64) // (3 * alphabets) % 20,
    }
    edges = np.cumsum(ALPHABETS)
    part = np.searchsorted(edges, alphabet, side="right")
    train, choose, test = (np.flatnonzero(part == number).astype(np.int64) for number in range(3))
    characters, answer = chance.random((20, 20, 1, 4, 4)), np.argsort(chance.random((20, 20)), axis=1)
    asked = np.take_along_axis(characters, answer[..., None, None, None], axis=1)
    extras = {"support": _grey(characters, 28, chance), "query": _grey(asked, 28, chance), "answer": answer}
    categories = {"y": _numbers(3 * alphabets), "alphabet": _numbers(alphabets)}
    return Named("image", columns, train, test, choose, categories, extras)


def _topics(n: int, chance: Chance, *, n_classes: int, domains: int = 0, parts: str = "train") -> Named:
    y = _classes(n, n_classes)
    columns: dict[str, Any] = {"text": _texts(y, chance), "y": y}
    categories = {"y": _numbers(n_classes)}
    if domains:
        columns["domain"], categories["domain"] = y * domains // n_classes, _numbers(domains)
    return Named("text", columns, *_split(n, parts), categories)


def _collection(n: int, chance: Chance) -> Named:
    """Queries are made as documents are; the topic's documents suit, one of them best."""
    topic, asked = _classes(n, 20), _classes(20, 20)
    query, item = np.nonzero(asked[:, None] == topic)
    gain = np.where(item == query, 4, 1)
    columns = {"text": _texts(topic, chance, 40), "title": _texts(topic, chance, 5)}
    extras = {"queries": _texts(asked, chance), "judgements": np.stack([query, item, gain], axis=1).astype(np.int64)}
    return Named("text", columns, *_split(n, "train"), extras=extras)


def _sentences(n: int, chance: Chance) -> Named:
    topic = _classes(n, 20)
    a, other = (_texts(topic, chance) for _ in range(2))
    kept = chance.integers(0, 13, n)
    b = [
        " ".join(first.split()[:count] + second.split()[count:])
        for first, second, count in zip(a, other, kept, strict=True)
    ]
    columns = {"a": a, "b": b, "y": (5 * kept / 12).astype(np.float32), "genre": topic % 4}
    return Named("pairs", columns, *_split(n, "train choose test"), {"genre": _numbers(4)})


def _captioned(n: int, chance: Chance) -> Named:
    """Two attributes, each a word of the text and a half of the picture; the last fifth are near-copies."""
    first, second = chance.integers(0, 20, (2, n))
    halves, words = chance.random((2, 20, 3, 4, 2)), _vocabulary(40)
    image = _grey(np.concatenate([halves[0, first], halves[1, second]], axis=-1), 64, chance)
    text = [f"{words[i]}: {words[i]}, {words[20 + j]}" for i, j in zip(first, second, strict=True)]
    variant = (np.arange(n) >= round(0.8 * n)).astype(np.int64)
    return Named("pairs", {"image": image, "text": text, "skin_tone": variant}, np.flatnonzero(variant == 0))


def _reviews(n: int, chance: Chance, *, domains: int) -> Named:
    """Of 80 words a review, a quarter tell its opinion, a quarter its domain."""
    y, domain = _classes(n, 2), _classes(n, 2 * domains) // 2
    words = chance.integers(0, WORDS, (n, 80))
    words[:, :20] = 500 * y[:, None] + chance.integers(0, 500, (n, 20))
    words[:, 20:40] = 1000 + 1000 * domain[:, None] + chance.integers(0, 1000, (n, 20))
    starts = np.arange(n + 1) * words.shape[1]
    x = SparseRows(np.ones(words.size), words.ravel(), starts, WORDS)
    x.csr.sum_duplicates()
    columns: dict[str, Any] = {"x": x, "y": y}
    categories: dict[str, tuple[str, ...]] = {"y": ("negative", "positive")}
    if domains > 1:
        columns["domain"], categories["domain"] = domain, DOMAINS
    return Named("points", columns, *_split(n, "train test"), categories)


def _rows(
    n: int,
    chance: Chance,
    *,
    dim: int,
    n_classes: int,
    words: Sequence[int] = (),
    gaps: float = 0,
    parts: str = "train",
) -> Named:
    """A Gaussian for each class; columns `words` are cut into categories, a share `gaps` of the cells is missing."""
    y = _classes(n, max(n_classes, 1))
    x = chance.standard_normal((n, dim)) + 1.5 * chance.standard_normal((max(n_classes, 1), dim))[y]
    categorical = np.isin(np.arange(dim), words)
    target = (x @ chance.standard_normal(dim)).astype(np.float32)
    x[:, categorical] = np.clip(np.floor(x[:, categorical] + 2), 0, 3)
    x[chance.random(x.shape) < gaps] = np.nan
    columns = {"x": x.astype(np.float32), "y": y if n_classes else target}
    features = tuple(f"f{number}" for number in range(dim))
    categories = {features[number]: _numbers(4) for number in words}
    if n_classes:
        categories["y"] = _numbers(n_classes)
    extras = {"features": features, "categorical": categorical}
    return Named("table", columns, *_split(n, parts), categories, extras)


def _series(n: int, chance: Chance, *, shape: tuple[int, int], n_classes: int, shortest: int = 0) -> Named:
    """The class sets a sine's frequency; phases are drawn."""
    channels, time = shape
    y = _classes(n, n_classes)
    phase = 2 * np.pi * (chance.random((n, channels, 1)) + (y[:, None, None] + 1) * np.arange(time) / time)
    x = np.sin(phase) + 0.2 * chance.standard_normal(phase.shape)
    length = chance.integers(shortest or time, time + 1, n)
    x[np.broadcast_to(np.arange(time) >= length[:, None, None], x.shape)] = np.nan
    columns = {"x": x.astype(np.float32), "y": y, "length": length.astype(np.int64)}
    return Named("series", columns, *_split(n, "train test"), {"y": _numbers(n_classes)})


def _anomalies(n: int, chance: Chance) -> Named:
    """A noisy sine that stands still for a while near the end."""
    time = np.arange(n)
    y = ((time >= 0.8 * n) & (time < 0.84 * n)).astype(np.int64)
    x = np.where(y == 1, 0, np.sin(2 * np.pi * time / 25)) + 0.1 * chance.standard_normal(n)
    columns = {"x": x[:, None].astype(np.float32), "y": y}
    return Named("series", columns, *_split(n, "train test"), {"y": ("normal", "anomaly")})


def _digits_spoken(n: int, chance: Chance) -> Named:
    """Two tones: the digit's and the speaker's."""
    y, speaker = _classes(n, 10), np.arange(n, dtype=np.int64) // 10 % 6
    parts = _split(n, "train test")
    take = np.arange(n, dtype=np.int64) % 5
    take[parts[0]] += 5
    lengths = chance.integers(1200, 3600, n)
    tone, pitch = 400 + 150 * y, 100 + 30 * speaker
    x = [
        (0.4 * np.sin(np.pi / 4000 * high * time) + 0.3 * np.sin(np.pi / 4000 * low * time)).astype(np.float32)
        for high, low, time in zip(tone, pitch, map(np.arange, lengths), strict=True)
    ]
    columns = {"x": x, "y": y, "speaker": speaker, "take": take}
    categories = {"y": _numbers(10), "speaker": _numbers(6)}
    return Named("audio", columns, *parts, categories, {"rate": 8000})


def _clouds(n: int, chance: Chance) -> Named:
    """Boxes whose sides the class sets."""
    y = _classes(n, 5)
    sides, counts = chance.uniform(0.5, 8, (5, 3)), chance.integers(100, 400, n)
    clouds = [chance.random((count, 3)) * sides[label] for count, label in zip(counts, y, strict=True)]
    x = [(cloud - [*cloud[:, :2].mean(0), cloud[:, 2].min()]).astype(np.float32) for cloud in clouds]
    columns = {"x": x, "y": y, "source_points": counts.astype(np.int64)}
    return Named("points", columns, *_split(n, "train"), {"y": _numbers(5)})


def _graphs(n: int, chance: Chance, *, tags: int, n_classes: int) -> Named:
    """Random graphs: the class sets how many edges there are."""
    y = _classes(n, n_classes)
    x, edges = [], []
    for label in y:
        nodes = int(chance.integers(8, 25))
        linked = np.triu(chance.random((nodes, nodes)) < 0.1 + 0.1 * label, 1)
        edges.append(np.argwhere(linked | linked.T))
        x.append(np.eye(tags, dtype=np.float32)[chance.integers(0, tags, nodes)])
    columns = {"x": x, "edges": edges, "y": y, "fold": np.arange(n, dtype=np.int64) // n_classes % 10}
    return Named("graph", columns, *_split(n, "train"), {"y": _numbers(n_classes)})


def _nodes(n: int, chance: Chance, *, dim: int, n_classes: int, masks: bool) -> Named:
    """One graph: nodes of a class share words, and three of four edges stay inside a class."""
    y = _classes(n, n_classes)
    favoured = chance.random((n_classes, dim)) < 0.1
    x = (chance.random((n, dim)) < np.where(favoured[y], 0.15, 0.01)).astype(np.float32)
    start = chance.integers(0, n, 2 * n)
    near = (start + n_classes * chance.integers(1, n // n_classes, 2 * n)) % (n // n_classes * n_classes)
    stop = np.where(chance.random(2 * n) < 0.75, near, chance.integers(0, n, 2 * n))
    directed = np.unique(np.stack([start, stop], axis=1)[start != stop], axis=0).astype(np.int64)
    extras: dict[str, Array] = {"edges": np.unique(np.sort(directed, axis=1), axis=0)}
    parts = _split(n, "train choose test")
    if masks:
        extras["directed_edges"] = directed
        turns = (np.arange(10)[:, None] * (n // 10) + np.arange(n)) % n
        for name, part in zip(("train_masks", "test_masks", "val_masks"), parts, strict=True):
            extras[name] = np.isin(turns, part)
    return Named("graph", {"x": x, "y": y}, *parts, {"y": _numbers(n_classes)}, extras)


# The list -------------------------------------------------------------------------------------------------------------

_TABLES: dict[str, tuple[int, int, Sequence[int]]] = {
    "pendigits": (16, 10, ()),
    "optdigits": (64, 10, ()),
    "mushroom": (22, 2, range(22)),
    "spambase": (57, 2, ()),
    "segment": (19, 7, ()),
    "page_blocks": (10, 5, ()),
    "vehicle": (18, 4, ()),
    "car": (6, 4, range(6)),
    "credit_g": (20, 2, (0, 2, 3, 5, 6, 8, 9, 11, 13, 14, 16, 18, 19)),
    "sonar": (60, 2, ()),
    "ionosphere": (34, 2, ()),
    "california_housing": (8, 0, ()),
    "abalone": (8, 0, (0,)),
    "kin8nm": (8, 0, ()),
    "adult": (14, 2, (1, 3, 5, 6, 7, 8, 9, 13)),
    "wine_quality_red": (11, 0, ()),
    "phoneme": (5, 2, ()),
    "banknote": (4, 2, ()),
}
"""Features, classes (0: a number is to be predicted) and which features are categorical."""

_DRAWN: dict[str, Callable[[int, Chance], Named]] = {
    "cifar10": partial(_images, shape=(3, 32)),
    "cifar10n": _cifar10n,
    "fashion_mnist": partial(_images, shape=(1, 28)),
    "mnist": partial(_images, shape=(1, 28), parts="train"),
    "usps": partial(_images, shape=(1, 16)),
    "digits": partial(_images, shape=(1, 8), parts="train"),
    "omniglot": _omniglot,
    "ag_news": partial(_topics, n_classes=4),
    "clinc150": partial(_topics, n_classes=20, domains=10, parts="train choose test"),
    "clinc150_oos": partial(_topics, n_classes=21, domains=11, parts="train choose test"),
    "cranfield": _collection,
    "sts": _sentences,
    "emoji": _captioned,
    "amazon_reviews_da": partial(_reviews, domains=4),
    **{f"amazon_reviews_da/{domain}": partial(_reviews, domains=1) for domain in DOMAINS},
    **{
        f"tabular/{table}": partial(
            _rows,
            dim=dim,
            n_classes=n_classes,
            words=words,
            gaps=0.01 if table in ("adult", "mushroom") else 0,
            parts="train test" if table == "adult" else "train",
        )
        for table, (dim, n_classes, words) in _TABLES.items()
    },
    "iris": partial(_rows, dim=4, n_classes=3),
    "wine": partial(_rows, dim=13, n_classes=3),
    "breast_cancer": partial(_rows, dim=30, n_classes=2),
    "diabetes": partial(_rows, dim=10, n_classes=0),
    "time_series/ACSF1": partial(_series, shape=(1, 1460), n_classes=10),
    "time_series/GunPoint": partial(_series, shape=(1, 150), n_classes=2),
    "time_series/ItalyPowerDemand": partial(_series, shape=(1, 24), n_classes=2),
    "time_series/JapaneseVowels": partial(_series, shape=(12, 29), n_classes=9, shortest=7),
    "time_series/InternalBleeding16": _anomalies,
    "fsdd": _digits_spoken,
    "dales": _clouds,
    "graphs_tu/MUTAG": partial(_graphs, tags=7, n_classes=2),
    "graphs_tu/PROTEINS": partial(_graphs, tags=3, n_classes=2),
    "graphs_tu/ENZYMES": partial(_graphs, tags=3, n_classes=6),
    "graphs_tu/IMDBBINARY": partial(_graphs, tags=1, n_classes=2),
    "node_classification/cora": partial(_nodes, dim=1433, n_classes=7, masks=False),
    "node_classification/cornell": partial(_nodes, dim=1703, n_classes=5, masks=True),
    "node_classification/wisconsin": partial(_nodes, dim=1703, n_classes=5, masks=True),
}
