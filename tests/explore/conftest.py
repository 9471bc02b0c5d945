"""A small run of drawn pictures in three groups, made without training, and a server of it."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tacit.store import Items

TOKEN = "a-token-of-the-tests-0123"
COLOURS = ((200, 60, 40), (40, 140, 90), (60, 80, 190))


def drawn(group: int, seed: int, size: int = 40) -> Image.Image:
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (size, size), tuple(int(c) for c in rng.integers(225, 255, 3)))
    left, top = (int(v) for v in rng.integers(4, 14, 2))
    box = (left, top, left + 22, top + 22)
    pen = ImageDraw.Draw(picture)
    {0: pen.ellipse, 1: pen.rectangle, 2: lambda b, fill: pen.polygon([b[:2], (b[2], b[1]), (b[0], b[3])], fill=fill)}[
        group
    ](box, fill=COLOURS[group])
    return picture


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


def make_run(folder: Path, n: int = 120, *, files: Path | None = None) -> Path:
    """n items in three groups; with `files`, their pictures lie there too."""
    rng = np.random.default_rng(0)
    group = np.arange(n) % 3
    centres = np.eye(8)[:3] * 4
    vectors = (centres[group] + rng.normal(size=(n, 8))).astype(np.float32)
    place = np.array([[0, 0], [12, 0], [5, 10]])[group] + rng.normal(size=(n, 2)) * 1.5
    pictures = [drawn(k, i) for i, k in enumerate(group)]
    if files is not None:
        files.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(pictures):
            picture.save(files / f"{i}.png")
    rows = {
        "uri": [f"{i}.png" for i in range(n)],
        "source": [str(files or "nowhere")] * n,
        "hash": [f"{i:064x}" for i in range(n - 1)] + [f"{0:064x}"],  # the last is a copy of the first
        "thumbnail": [jpeg(picture) for picture in pictures],
        "vector": vectors,
        "x2d": place[:, 0],
        "y2d": place[:, 1],
        "cluster": group,
        "confidence": rng.random(n),
        "outlier": rng.random(n),
        "meta": [json.dumps({"labels": {"shape": ["disc", "square", "wedge"][k]}}) for k in group],
    }
    Items.create(folder, [rows])
    summary = {
        "format": 1,
        "title": "drawn shapes",
        "data": {"modality": "image", "n": n},
        "health": {"word": "learning", "reason": "the loss fell"},
        "method": {"name": "SimCLR"},
        "clusters": {
            "n": 3,
            "per_cluster": [
                {"cluster": k, "name": name, "size": n // 3, "stability": 0.9, "items": list(range(k, 30, 3))}
                for k, name in enumerate(("discs", "squares", "wedges"))
            ],
        },
        "duplicates": [
            {"items": [0, n - 1], "similarity": 1.0, "exact": True},
            {"items": [4, 7, 10], "similarity": 0.97},
        ],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps({"format": 1}))
    (folder / "skipped.csv").write_text("uri,reason\nbroken.jpg,truncated\n../odd <b>.png,not an image\n")
    return folder


@pytest.fixture(scope="session")
def shapes_run(tmp_path_factory):
    """Read only: tests that write make their own, or copy it."""
    place = tmp_path_factory.mktemp("shapes")
    return make_run(place / "run", files=place / "files")


@pytest.fixture(scope="session")
def run_of():
    return make_run


@pytest.fixture
def own_run(shapes_run, tmp_path):
    return Path(shutil.copytree(shapes_run, tmp_path / "run"))


class Server:
    """`tacit explore` in a process of its own, as users have it."""

    def __init__(self, run: Path, *more: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        words = ["explore", str(run), "--port", str(self.port), "--token", TOKEN, "--no-browser", *more]
        code = f"import sys; from tacit.cli import main; sys.exit(main({words!r}))"
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=dict(os.environ))
        self.link = f"http://127.0.0.1:{self.port}/?token={TOKEN}"
        for _ in range(600):
            try:
                urllib.request.urlopen(self.link, timeout=10).close()
                return
            except (OSError, urllib.error.URLError):
                if self.process.poll() is not None:
                    raise AssertionError(f"it ended with {self.process.returncode}") from None
                time.sleep(0.1)
        raise AssertionError("it did not begin to answer")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


@pytest.fixture(scope="session")
def token():
    return TOKEN


@pytest.fixture(scope="session")
def serving():
    """A function (run, *flags) -> Server; all are ended afterwards."""
    begun = []

    def begin(run: Path, *more: str) -> Server:
        begun.append(Server(run, *more))
        return begun[-1]

    yield begin
    for server in begun:
        if server.process.poll() is None:
            server.stop()
