"""What the battery gives a learner to read: a few raw items of each kind of data, with their description.

Each function takes the number of items and words that set their shape, and returns the description and the columns as
users have them; `ODD` says which words make items that are unlike the usual ones.
"""

import numpy as np
import torch

from tacit.data import structural_graphs

CLASSES = 3
WORDS = ["the", "small", "old", "red", "green", "cat", "dog", "bird", "sleeps", "runs", "sings", "under", "tree"]


def images(n, size=16, channels=3):
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)
    return {"modality": "image", "image_size": size, "channels": channels}, {"x": x}


def texts(n, most=8):
    """Sentences of one to `most` words, and `document`: others that say nearly the same."""
    chance = np.random.default_rng(3)
    numbers = [chance.integers(len(WORDS), size=1 + row % most) for row in range(n)]
    said = [" ".join(WORDS[number] for number in row) + "." for row in numbers]
    return {"modality": "text"}, {"text": said, "document": [text + " indeed" for text in said]}


def sounds(n, seconds=0.5, sample_rate=8000):
    """Two tones and noise; the last tenth is silence in every other one."""
    chance, samples = np.random.default_rng(3), round(seconds * sample_rate)
    time = np.arange(samples) / sample_rate
    pitch = chance.uniform(200, 1500, (n, 2, 1))
    x = 8000 * np.sin(2 * np.pi * pitch * time).sum(1) + chance.normal(0, 500, (n, samples))
    x[::2, -samples // 10 :] = 0
    return {"modality": "audio", "sample_rate": sample_rate, "seconds": seconds}, {"x": x.astype(np.int16)}


def series(n, channels=2, length=40):
    """Random walks; every other one ends early, and a value is missing here and there."""
    chance = np.random.default_rng(3)
    x = chance.normal(size=(n, channels, length)).cumsum(2).astype(np.float32)
    x[::2, :, -length // 3 :] = np.nan
    x[1::2, 0, length // 4] = np.nan
    return {"modality": "series", "channels": channels, "length": length}, {"x": x}


def rows(n, dim=5, categories=(0, 0, 4, 0, 0)):
    """Numbers of several scales and one column of categories, a tenth of them missing."""
    chance = np.random.default_rng(3)
    x = chance.normal(size=(n, dim)) * 10.0 ** np.arange(dim)
    for column, count in enumerate(categories):
        x[:, column] = chance.integers(count, size=n) if count else x[:, column]
    x[1:][chance.random((n - 1, dim)) < 0.1] = np.nan
    return {"modality": "table", "dim": dim, "categories": list(categories)}, {"x": x.astype(np.float32)}


def graphs(n, size=12, features=0):
    """Ego-networks by their structure, some with features, and one node that knows nobody."""
    x = structural_graphs(n, seed=3, size=size, hops=2)["x"]
    x[-1] = 0
    x[-1, 0, 0] = 1
    told = np.random.default_rng(3).normal(size=(n, size, features)) * np.diagonal(x, axis1=1, axis2=2)[..., None]
    x = np.concatenate([x, told], axis=2).astype(np.float32)
    return {"modality": "graph", "size": size, "in_features": features}, {"x": x}


def pairs(n, size=16, channels=3):
    description, columns = images(n, size, channels)
    said = texts(n)[1]["text"]
    return description | {"modality": "pairs"}, {"image": columns["x"], "text": said}


KINDS = {
    "image": images,
    "text": texts,
    "audio": sounds,
    "series": series,
    "table": rows,
    "graph": graphs,
    "pairs": pairs,
}
RAW = {"text": "text", "pairs": "image"}
"""Kind -> the raw column that its encoder prepares, where it is not x."""

ODD = {
    "image": {"grey": {"channels": 1}, "odd": {"size": 20}},
    "text": {"grey": {"most": 1}, "odd": {"most": 40}},
    "audio": {"grey": {"seconds": 0.3, "sample_rate": 16_000}, "odd": {"seconds": 0.7251}},
    "series": {"grey": {"channels": 1}, "odd": {"length": 13}},
    "table": {"grey": {"dim": 1, "categories": (0,)}, "odd": {"dim": 3, "categories": (2, 1, 3)}},
    "graph": {"grey": {"features": 3}, "odd": {"size": 7}},
    "pairs": {"grey": {"channels": 1}, "odd": {"size": 20}},
}


def kind_of(entry):
    """What a system is given: images where it takes these or anything, else the first kind that it names."""
    if {"image", "any", "points"} & set(entry.modality):
        return "image"
    return next(kind for kind in entry.modality if kind in KINDS)
