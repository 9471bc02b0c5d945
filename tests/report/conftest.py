"""A made-up run: files as `tacit learn` leaves them, with drawn pictures and known figures."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tacit.store import Items

SHAPES = ("disc", "square", "ring", "bars")
COLOURS = ("red", "green", "blue", "gold", "plum")
KINDS = [(shape, colour) for shape in SHAPES for colour in COLOURS][:12]


def draw(kind, rng):
    """A JPEG of 64 pixels of one of the kinds, its place, size and ground drawn by chance."""
    shape, colour = KINDS[kind]
    ground = tuple(int(v) for v in rng.integers(190, 250, 3))
    image = Image.new("RGB", (64, 64), ground)
    pen, (x, y), r = ImageDraw.Draw(image), rng.integers(20, 44, 2), int(rng.integers(9, 18))
    box = [int(x) - r, int(y) - r, int(x) + r, int(y) + r]
    if shape == "disc":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "ring":
        pen.ellipse(box, outline=colour, width=5)
    else:
        for step in range(3):
            pen.rectangle([box[0], box[1] + step * 2 * r // 3, box[2], box[1] + step * 2 * r // 3 + 5], fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def measure(value, half):
    return {"value": value, "low": value - half, "high": value + half}


def accuracy(value, n=800):
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    return {**measure(value, half), "n": n}


def metrics(steps):
    rng = np.random.default_rng(2)
    lines = []
    for step in range(1, steps + 1):
        share = step / steps
        loss = 2.2 + 3 * math.exp(-5 * share) + 0.12 * rng.normal()
        lines.append({"step": step, "loss": loss, "lr": 0.3 * math.cos(share * 1.5), "time": 0.05 * step})
        if step % (steps // 20) == 0:
            rank = 8 + 34 * (1 - math.exp(-4 * share)) + rng.normal()
            look = {"step": step, "look": True, "epoch": 10 * share, "effective_rank": rank}
            look |= {"effective_rank_low": rank - 2.5, "effective_rank_high": rank + 2.5}
            look |= {"alignment": 0.9 - 0.55 * share**0.5, "uniformity": -1.5 - 1.4 * share**0.6}
            look |= {"neighbour_stability": 0.3 + 0.55 * share, "held_out_loss": 2.35 + 3 * math.exp(-5 * share)}
            look |= {"word": "learning" if share < 0.8 else "flat", "reason": "the loss fell from 5.2 to 2.3"}
            lines.append(look)
    lines.append({"step": steps, "event": "end", "word": "flat", "time": 190.2})
    return lines


def summary(n, clusters, untypical):
    sizes = np.bincount(clusters, minlength=1)
    members = [np.flatnonzero(clusters == c)[:24].tolist() for c in range(len(sizes))]
    stability = [0.97 - 0.05 * c for c in range(len(sizes))]
    return {
        "format": 1,
        "title": "Shapes on paper",
        "made": "2026-03-14T10:22:07+00:00",
        "data": {
            "where": "pictures/shapes",
            "n": n,
            "skipped": 3,
            "modality": "image",
            "channels": 3,
            "image_size": 64,
            "lines": [f"{n} images, 64 × 64 pixels, in 12 folders", "the shorter side is resized, the centre kept"],
        },
        "method": {
            "id": "simclr",
            "name": "SimCLR",
            "paper": "arXiv:2002.05709",
            "summary": "Two views of an image are pulled together, all others in the batch pushed apart.",
        },
        "model": {"name": "resnet8", "dim": 128, "parameters": 306_144},
        "training": {
            "steps": 600,
            "batch_size": 256,
            "epochs": 38.4,
            "seconds": 190.2,
            "images_per_second": 807.4,
            "device": "cpu",
            "threads": 2,
            "precision": "bf16-mixed",
            "closed_form": False,
            "changes": [
                {"setting": "batch_size", "paper": 4096, "here": 256, "reason": "fits in the memory of this machine"},
                {"setting": "encoder", "paper": "ResNet-50", "here": "resnet8", "reason": "3 minutes on 2 cores"},
                {"setting": "epochs", "paper": 1000, "here": 38.4, "reason": "--minutes 3 at the measured step time"},
            ],
            "kept": "last step",
            "seed": 0,
        },
        "health": {
            "word": "flat",
            "reason": "flat since epoch 8: more steps bring little",
            "effective_rank": measure(41.2, 2.6),
        },
        "neighbours": {"trained": measure(0.872, 0.012), "raw": measure(0.411, 0.016)},
        "clusters": {
            "n": len(sizes),
            "range": [10, 14],
            "stability": measure(0.912, 0.03),
            "per_cluster": [
                {"cluster": c, "size": int(sizes[c]), "stability": measure(stability[c], 0.03), "items": members[c]}
                for c in range(len(sizes))
            ],
        },
        "duplicates": [
            {"items": [0, 12], "similarity": 1.0, "exact": True},
            {"items": [1, 13, 25], "similarity": 0.9873, "exact": False},
            {"items": [2, 14], "similarity": 0.981, "exact": False},
        ],
        "untypical": untypical,
        "neighbour_examples": [
            {"item": i * 7, "neighbours": [{"item": i * 7 + 12 * j, "score": 0.99 - 0.02 * j} for j in range(1, 9)]}
            for i in range(12)
        ],
        "labels": [
            {
                "name": "folder",
                "source": "the names of 12 folders",
                "classes": 12,
                "rows": [
                    {"encoder": "trained", "knn": accuracy(0.871), "linear": accuracy(0.842)},
                    {"encoder": "untrained", "knn": accuracy(0.512), "linear": accuracy(0.604)},
                    {"encoder": "pixels", "knn": accuracy(0.437), "linear": accuracy(0.551)},
                    {"encoder": "whitened PCA", "knn": accuracy(0.566), "linear": accuracy(0.612)},
                    {"encoder": "patch k-means", "knn": accuracy(0.742), "linear": accuracy(0.861)},
                ],
                "uses": [
                    {
                        "part": "report",
                        "purpose": "accuracy of five encoders in this report",
                        "at": "2026-03-14T10:21:40",
                    },
                    "colours of the map",
                ],
            }
        ],
        "next": [
            "tacit search run/ query.jpg",
            "tacit report run/ --no-thumbnails",
            "tacit learn pictures/shapes --minutes 30",
        ],
        "versions": {"tacit": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
    }


@pytest.fixture
def make_run(tmp_path):
    """`make_run(n, names=..., change=...)` writes a run folder and returns its path; `change` edits the summary."""
    return lambda n=180, **options: write_run(tmp_path / "run", n, **options)


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory):
    """A run as it should be; only to be read."""
    return write_run(tmp_path_factory.mktemp("plain") / "run")


def write_run(folder, n=180, *, names=None, change=None, labels=True, steps=600, thumbnail=draw, skipped=3):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    clusters = np.arange(n) % min(12, n)
    centres = rng.normal(size=(12, 16)) * 3
    vectors = (centres[clusters] + rng.normal(size=(n, 16))).astype(np.float32)
    angle = 2 * np.pi * clusters / 12
    places = np.stack([3.4 * np.cos(angle), 2.2 * np.sin(angle)], 1) + 0.42 * rng.normal(size=(n, 2)) * [1, 0.8]
    kinds = [KINDS[c] for c in clusters]
    uris = names or [f"{shape} {colour}/{i:05}.jpg" for i, (shape, colour) in enumerate(kinds)]
    metas = [{"labels": {"shape": shape, "colour": colour, "size": i / 7}} for i, (shape, colour) in enumerate(kinds)]

    def rows():
        for start in range(0, n, 500):
            part = slice(start, min(start + 500, n))
            yield {
                "uri": uris[part],
                "thumbnail": [thumbnail(c, rng) for c in clusters[part]],
                "vector": vectors[part],
                "x2d": places[part, 0],
                "y2d": places[part, 1],
                "cluster": clusters[part],
                "meta": metas[part] if labels else ["{}"] * len(uris[part]),
            }

    Items.create(folder, rows())
    found = summary(n, clusters, [int(i) for i in rng.permutation(n)[:36]])
    if change:
        change(found)
    (folder / "summary.json").write_text(json.dumps(found), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"format": 1, "method": "simclr", "fit": {"lr": 0.3, "seed": 0}}))
    if steps:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics(steps)))
    reasons = ["truncated image", "not an image", "larger than 100 megapixels"]
    lines = [f'"bad/{i}, «{i}».jpg",{reasons[min(i % 5, 2)]}\n' for i in range(skipped)]
    (folder / "skipped.csv").write_text("uri,reason\n" + "".join(lines), encoding="utf-8")
    return folder
