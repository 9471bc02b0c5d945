"""First paint, frames a second and memory of the explorer: `python benchmarks/explorer.py 100000 1000000`.

Needs the extra `explore`, playwright and a Chromium; the browser runs without a graphics card. A frame is counted when
its pixels can be read back, not when the page asked for it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tacit.store import Items

DIM, CLUSTERS, BATCH = 384, 24, 20_000
TOKEN = "the-token-of-the-benchmark"
FRAMES = """async (seconds) => {
  const map = tacit.map, probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const times = [], from = { ...map.view };
  const began = performance.now();
  let last = began;
  while (performance.now() - began < seconds * 1000) {
    map.pan(6 * Math.sin((performance.now() - began) / 300), 3);
    await new Promise((done) => requestAnimationFrame(done)); // the map's own drawing was asked for before
    probe.drawImage(map.base, 0, 0, 1, 1);
    probe.getImageData(0, 0, 1, 1);
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  map.view = from;
  times.sort((a, b) => a - b);
  const slow = times[Math.floor(times.length * 0.95)];
  const rate = 1000 * times.length / (last - began);
  return { "frames a second": rate, "slowest 5 %, ms": slow, "points": map.lastDraw.drawn };
}"""

DRAWING = """(() => {
  tacit.map.fit();
  tacit.map.moving = false;
  tacit.map.draw();
  return tacit.map.lastDraw.spent;
})()"""


def rows(n: int) -> Iterator[dict[str, object]]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, DIM)).astype(np.float32)
    place = rng.normal(size=(CLUSTERS, 2)) * 40
    for start in range(0, n, BATCH):
        m = min(BATCH, n - start)
        group = rng.integers(CLUSTERS, size=m)
        noise = rng.integers(-64, 64, size=(m, DIM), dtype=np.int8).astype(np.float32) / 32
        where = place[group] + rng.normal(size=(m, 2)) * 8
        yield {
            "uri": [f"folder/{i}.jpg" for i in range(start, start + m)],
            "hash": [f"{i:064x}" for i in range(start, start + m)],
            "vector": centres[group] + noise,
            "x2d": where[:, 0],
            "y2d": where[:, 1],
            "cluster": group,
            "confidence": rng.random(m),
            "outlier": rng.random(m),
            "meta": [json.dumps({"labels": {"kind": f"kind {k % 7}"}}) for k in group],
        }


def resident(process: int) -> dict[str, int]:
    """Megabytes: all that is resident, and the part that is not a mapped file."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) // 1024 for name in ("VmRSS", "VmHWM", "RssAnon")}


def ask(port: int, path: str, given: object = None) -> float:
    """Seconds until the whole answer is there."""
    headers = {"X-Tacit-Token": TOKEN, "Content-Type": "application/json"}
    body = None if given is None else json.dumps(given).encode()
    began = time.perf_counter()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
    with urllib.request.urlopen(request, timeout=600) as answer:
        answer.read()
    return time.perf_counter() - began


def measure(n: int, folder: Path, chromium: str) -> dict[str, object]:
    from playwright.sync_api import sync_playwright

    run = folder / f"run-{n}"
    if not (run / "summary.json").exists():
        Items.create(run, rows(n))
    (run / "summary.json").write_text(json.dumps({"format": 1, "title": f"{n:,} points", "data": {"n": n}}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["explore", str(run), "--port", str(port), "--token", TOKEN, "--no-browser"]
    server = subprocess.Popen([sys.executable, "-c", f"from tacit.cli import main; main({words!r})"], stdout=-3)
    link = f"http://127.0.0.1:{port}/?token={TOKEN}"
    found: dict[str, object] = {"n": n}
    try:
        while True:
            try:
                urllib.request.urlopen(link, timeout=60).close()
                break
            except OSError:
                time.sleep(0.2)
        found["at start"] = resident(server.pid)
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for visit in ("first visit", "second visit"):
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.goto(link)
                page.wait_for_selector("html[data-ready]", timeout=600_000)
                found[f"first paint, {visit}"] = (
                    page.evaluate("performance.getEntriesByName('painted')[0].startTime") / 1000
                )
                if visit == "second visit":
                    page.wait_for_timeout(3000)
                    found["moving"] = page.evaluate(FRAMES, 5)
                    found["one full drawing, ms"] = page.evaluate(DRAWING)
                page.close()
            browser.close()
        found["more like this, s"] = [round(ask(port, "/api/near", {"like": [5], "k": 60}), 3) for _ in range(3)]
        found["a column of labels, s"] = round(ask(port, "/api/column?name=label:kind"), 3)
        found["labelling a cluster, s"] = round(ask(port, "/api/label", {"name": "k", "value": "v", "cluster": 3}), 3)
        found["labels as a column, s"] = round(ask(port, "/api/given?name=k"), 3)
        found["after all that"] = resident(server.pid)
        children = " ".join(one.read_text() for one in Path(f"/proc/{server.pid}/task").glob("*/children")).split()
        found["processes beside it"] = [resident(int(child)) for child in children]
    finally:
        server.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int, nargs="+")
    parser.add_argument("--folder", help="where runs are made, and kept for the next time")
    given = parser.parse_args()
    chromium = os.environ.get("TACIT_CHROMIUM") or shutil.which("chromium") or "google-chrome"
    with tempfile.TemporaryDirectory() as passing:
        for n in given.n:
            print(json.dumps(measure(n, Path(given.folder or passing), chromium), indent=1), flush=True)


if __name__ == "__main__":
    main()
