"""Sent2Vec's words a second beside gensim's and fastText's C, on the same texts, with the same dimension and negatives.

    python benchmarks/sent2vec.py [--words 10_000_000] [--threads 2]

Prints words a second (passes over AG News; all words of the texts count, as word2vec counts them) and how long
10 million words take. Peers that are not installed are left out: `pip install gensim fasttext-wheel`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tacit.data import load_named
from tacit.nn import NgramBag
from tacit.nn._words import split_words
from tacit.pretrain import Sent2Vec
from tacit.training import fit

DIM, NEGATIVES, SUBSAMPLING, LENGTH = 100, 10, 1e-4, 64
Run = Callable[[list[list[str]], int, int], float]
"""(texts as words, passes, threads) -> seconds of training, without reading and counting."""


def ours(ngram: int) -> Run:
    def run(texts: list[list[str]], epochs: int, threads: int) -> float:
        torch.set_num_threads(threads)
        lines = [" ".join(words) for words in texts]
        encoder = NgramBag(ngram=ngram, dim=DIM, max_length=LENGTH).fit_prepare(lines)
        learner, x = Sent2Vec(encoder, n_negatives=NEGATIVES, subsampling=SUBSAMPLING), encoder.prepare(lines)
        begin = time.perf_counter()
        fit(learner, x, epochs=epochs, batch_size=256)
        return time.perf_counter() - begin

    return run


def gensim_peer(kind: str) -> Run:
    def run(texts: list[list[str]], epochs: int, threads: int) -> float:
        from gensim import models

        words = {"vector_size": DIM, "negative": NEGATIVES, "sample": SUBSAMPLING, "workers": threads, "min_count": 5}
        model = getattr(models, kind)(sg=0, window=5, seed=1, **words)
        model.build_vocab(texts)
        begin = time.perf_counter()
        model.train(texts, total_examples=len(texts), epochs=epochs)
        return time.perf_counter() - begin

    return run


def fasttext_peer(texts: list[list[str]], epochs: int, threads: int) -> float:
    """Its time holds reading the file, which is a small part of it."""
    import fasttext

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_text("\n".join(" ".join(words) for words in texts), encoding="utf-8")
        begin = time.perf_counter()
        fasttext.train_unsupervised(
            str(path), model="cbow", dim=DIM, neg=NEGATIVES, t=SUBSAMPLING, epoch=epochs, thread=threads,
            minn=0, maxn=0, minCount=5, verbose=0,
        )  # fmt: skip
        return time.perf_counter() - begin


RUNS: dict[str, Run] = {
    "tacit Sent2Vec, words and bigrams, whole text": ours(2),
    "tacit Sent2Vec, words, whole text": ours(1),
    "gensim Word2Vec CBOW, words, window 5": gensim_peer("Word2Vec"),
    "gensim FastText CBOW, words and characters, window 5": gensim_peer("FastText"),
    "fastText CBOW, words, window 5": fasttext_peer,
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--words", type=int, default=1_500_000)
    asked.add_argument("--threads", type=int, default=2)
    asked.add_argument("--only", default="", help="runs whose name holds this")
    given = asked.parse_args()
    texts = [split_words(text, LENGTH) for text in load_named("ag_news").columns["text"]]
    a_pass = sum(map(len, texts))
    epochs = max(round(given.words / a_pass), 1)
    print(f"{len(texts)} texts, {a_pass} words, {epochs} passes, {given.threads} threads, {DIM} features")
    for name, run in RUNS.items():
        if given.only not in name:
            continue
        try:
            seconds = run(texts, epochs, given.threads)
        except ImportError as error:
            print(f"{name:55}  not installed ({error.name})")
            continue
        rate = a_pass * epochs / seconds
        print(f"{name:55}  {rate:>9,.0f} words/s   10 million words: {1e7 / rate:5.1f} s")


if __name__ == "__main__":
    main()
