"""gzip-kNN against the plain double loop on AG News, at equal predictions.

    python benchmarks/gzip_knn.py [--train 1000] [--test 40] [--jobs 2] [--compressor gzip] [--json FILE]

The plain loop is the authors' own: for each text asked about and each training text it compresses the training text
and the pair, by the standard library. Prints the median ratio of seconds over pairs in turns, on one core and with
--jobs processes (started before), microseconds a pair, whether all predictions are equal, and the accuracy beside the
score that the original code would print. Exit code 1 if predictions differ.

What is left is the compression of the pair itself, in zlib's own C, 90 % of the time: states copied from the text
asked about begin to pay at 500 bytes, and AG News has 235. A bound that pruned pairs would have to come within 5 bytes
to leave 2 % of them, and one that close has to know zlib's matches, hence to repeat its work.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import lzma
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data import load_named
from tacit.fewlabels import CompressionKNN, optimistic_accuracy

PLAIN = {"gzip": gzip.compress, "bz2": bz2.compress, "lzma": lzma.compress}
ROUNDS = 3


def double_loop(training: list[str], asked: list[str], compress: Callable[[bytes], bytes]) -> np.ndarray:
    """Numbers of the training texts, nearest first."""
    order = []
    for x in asked:
        c_x, row = len(compress(x.encode())), []
        for y in training:
            c_y, c_xy = len(compress(y.encode())), len(compress((x + " " + y).encode()))
            row.append((c_xy - min(c_x, c_y)) / max(c_x, c_y))
        order.append(np.argsort(row, kind="stable"))
    return np.array(order)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--compressor", choices=PLAIN, default="gzip")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    columns = load_named("ag_news").columns
    order = np.random.default_rng(0).permutation(len(columns["text"]))
    first, second = np.split(order[: options.train + options.test], [options.train])
    texts, labels = np.array(columns["text"], dtype=object), np.asarray(columns["y"])
    training, asked, y = list(texts[first]), list(texts[second]), labels[first]

    one = CompressionKNN(compressor=options.compressor, k=2)
    many = CompressionKNN(compressor=options.compressor, k=2, n_jobs=options.jobs)
    many.fit(training, y).predict(asked)  # starts the processes
    times: dict[str, list[float]] = {"plain": [], "one": [], "many": []}
    for _ in range(ROUNDS):
        times["plain"].append(seconds(lambda: double_loop(training, asked, PLAIN[options.compressor])))
        times["one"].append(seconds(lambda: one.fit(training, y).predict(asked)))
        times["many"].append(seconds(lambda: many.fit(training, y).predict(asked)))
    neighbours = y[double_loop(training, asked, PLAIN[options.compressor])[:, :2]]
    predictions = [knn.predict(asked) for knn in (one, many)]
    equal = all((answers == neighbours[:, 0]).all() for answers in predictions)  # a tie of two goes to the nearest
    median = {side: statistics.median(found) for side, found in times.items()}
    found = {
        "compressor": options.compressor,
        "pairs": options.train * options.test,
        "ratio on one core": round(median["plain"] / median["one"], 2),
        f"ratio with {options.jobs} processes": round(median["plain"] / median["many"], 2),
        "microseconds a pair": {side: round(1e6 * t / (options.train * options.test), 2) for side, t in median.items()},
        "equal predictions": bool(equal),
        "accuracy": round(float((predictions[0] == labels[second]).mean()), 4),
        "accuracy as the original counts it": round(optimistic_accuracy(labels[second], neighbours), 4),
    }
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
