"""Every method for texts, sounds, series, tables, graphs and pairs, in the steps that a few quiet minutes allow.

    python benchmarks/kinds.py time                      # alone on the machine: seconds a step -> benchmarks/steps.json
    python benchmarks/kinds.py run --jobs 2              # each method with seed 0; goes on where it stopped
    python benchmarks/kinds.py run --best 2 --seeds 3    # the best two of each table, and what is raw, with three seeds
    python benchmarks/kinds.py table                     # -> docs/texts.md... and src/tacit/auto.json

--kind text,audio and --data ag_news take some of them. TACIT_DATA names the folder that holds the sets. Steps are
counted, so a busy machine changes how long a run takes and not what comes out. `time` and `run --jobs 2` of all kinds
take about 35 minutes of two cores.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _tables import (
    FIXED,
    HERE,
    answer_of,
    is_closed,
    keep_time,
    learner_of,
    learns_without_labels,
    length_of,
    number,
    ranked,
    read_lines,
    run_all,
    spread,
    steps_in,
    time_of,
    timed,
    write_auto,
    write_section,
)

from tacit.building import ENCODERS, build, read_columns, shape_of, wanted_columns
from tacit.catalogue import find, systems
from tacit.cli._machine import keep_freed_memory
from tacit.data import Dataset, captioned_glyphs, drawn_order, load_named, read_graph, resize
from tacit.embedding import embed, prepared
from tacit.evaluate import effective_rank, knn_accuracy, linear_probe, mrr, ndcg, nmi, recall_at
from tacit.learner import encoder_of
from tacit.nn import encoder as make_encoder
from tacit.recipes import Machine, recipe
from tacit.training import fit

RESULTS, DOCS = HERE / "kinds.jsonl", HERE.parent / "docs"
MINUTES, SHORTER = 1, 1 / 4
"""Of training: on the first set of a kind, which decides, and on its others."""
N = 10_000
"""Items of a split, at most."""
RATE, PIXELS = 8000, 32
EXCEPT = {
    "cwcl": "takes an image encoder that was trained before",
    "pouf": "adapts a dual encoder that was trained before, to classes of given names",
}
"""Learns without labels, but not from these data alone."""
ALSO = {"series": ("simclr",)}
"""Methods made for images, which a kind has views for."""


@dataclass(frozen=True)
class Part:
    """Raw items with their labels."""

    items: Any
    y: Any = None


@dataclass(frozen=True)
class Task:
    """What is learned from, without labels, and what it is judged by.

    Attributes:
        description: of the data, as `recipe` and `build` ask for it.
        learn: raw columns by the names of learners.
        train, unseen: what k-NN and probe learn from, and what scores.
        extras: what other scores need: `raw` vectors of train and unseen; queries and gains of retrieval.
    """

    description: dict[str, Any]
    learn: dict[str, Any]
    train: Part
    unseen: Part
    extras: Mapping[str, Any] = field(default_factory=dict)


# Data -----------------------------------------------------------------------------------------------------------------


def pick(rows, items):
    return [rows[int(item)] for item in items] if isinstance(rows, list) else np.array(rows[items])


def divided(found, seed):
    """The seed's order of the official split, or else of four fifths and a fifth; at most N of each."""
    train, test = (part[drawn_order(len(part), seed)] for part in (found.train, found.test))
    if not len(test):
        n = round(0.8 * len(train))
        train, test = train[:n], train[n:]
    return train[:N], test[:N]


def task_of(kind, rows, y, train, test, shape, raw, learn=None, **extras):
    """A task of one column; `raw(rows, train)` are the vectors of all rows, standardised by those of `train`."""
    learn = train if learn is None else learn
    description = {"modality": kind, "n": len(learn), **shape}
    parts = [Part(pick(rows, items), torch.from_numpy(np.array(y[items]))) for items in (train, test)]
    columns = {"text" if kind == "text" else "x": pick(rows, learn)}
    return Task(description, columns, *parts, extras={"raw": lambda: [raw[items] for items in (train, test)], **extras})


def text_task(name, seed):
    found = load_named(name)
    train, test = divided(found, seed)
    texts = list(found.columns["text"])
    return task_of("text", texts, found.columns["y"], train, test, {}, _Words(texts, train))


class _Words:
    """tf-idf of the 1,000 words that most texts have."""

    def __init__(self, texts, train):
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.counted = TfidfVectorizer(max_features=1000, sublinear_tf=True).fit(pick(texts, train))
        self.texts = texts

    def __getitem__(self, items):
        return self.counted.transform(pick(self.texts, items)).toarray().astype(np.float32)


def search_task(name, seed):
    """A collection, in which the queries are to find what was judged to answer them."""
    found = load_named(name)
    texts, queries = list(found.columns["text"]), list(found.extras["queries"])
    gains = np.zeros((len(queries), len(texts)))
    query, item, gain = found.extras["judgements"].T
    gains[query, item] = gain

    def raw():
        words = _Words([*texts, *queries], np.arange(len(texts)))
        return words[np.arange(len(texts))], words[len(texts) + np.arange(len(queries))]

    extras = {"gains": gains, "raw": raw}
    return Task({"modality": "text", "n": len(texts)}, {"text": texts}, Part(texts), Part(queries), extras)


def audio_task(name, seed):
    """Two of six speakers score, whom nothing was learned from."""
    found = load_named(name)
    speaker, waves = found.columns["speaker"], list(found.columns["x"])
    unseen = np.isin(speaker, [seed % 6, (seed + 1) % 6])
    train, test = np.flatnonzero(~unseen), np.flatnonzero(unseen)
    samples = int(np.ceil(np.quantile([len(wave) for wave in waves], 0.95)))
    raw = np.zeros((len(waves), samples // 8), np.float32)
    for row, wave in zip(raw, waves, strict=True):
        whole = wave[: samples // 8 * 8]
        means = np.pad(whole, (0, -len(whole) % 8)).reshape(-1, 8).mean(1)
        row[: len(means)] = means
    shape = {"sample_rate": found.extras["rate"], "seconds": samples / found.extras["rate"]}
    return task_of("audio", waves, found.columns["y"], train, test, shape, raw)


def series_task(name, seed):
    found = load_named(name)
    train, test = divided(found, seed)
    x = np.array(found.columns["x"])
    mean, std = (of(x[train], axis=(0, 2), keepdims=True) for of in (np.nanmean, np.nanstd))
    raw = np.nan_to_num((x - mean) / std).reshape(len(x), -1)
    return task_of("series", x, found.columns["y"], train, test, {"channels": x.shape[1], "length": x.shape[2]}, raw)


def table_task(name, seed):
    found = load_named(name)
    train, test = divided(found, seed)
    x, features = np.array(found.columns["x"]), found.extras["features"]
    categories = [len(found.categories.get(feature, ())) for feature in features]
    columns = []
    for values, count in zip(x.T, categories, strict=True):
        if count:
            columns.append((values[:, None] == np.arange(count)).astype(np.float32))
        else:
            mean, std = np.nanmean(values[train]), np.nanstd(values[train])
            columns.append(np.nan_to_num((values[:, None] - mean) / max(std, 1e-6)))
    shape = {"dim": x.shape[1], "categories": categories}
    return task_of("table", x, found.columns["y"], train, test, shape, np.concatenate(columns, axis=1))


def graph_task(name, seed):
    """Nodes of one graph, all of which are learned from and the official ones of which have labels; or whole graphs."""
    found = load_named(name)
    read = read_graph(found)
    x = read.tensor()
    k = x.shape[1]
    shape = {"size": k, "in_features": x.shape[2] - k}
    if read.items == "nodes":
        return task_of("graph", x, found.columns["y"], found.train, found.test, shape, x[:, 0, k:], np.arange(len(x)))
    train, test = divided(found, seed)
    exists = np.diagonal(x[:, :, :k], axis1=1, axis2=2)
    mean = x[:, :, k:].sum(1) / np.maximum(exists.sum(1, keepdims=True), 1)
    return task_of("graph", x, found.columns["y"], train, test, shape, mean)


def glyph_task(name, seed):
    """Drawn characters with captions; those that score pair characters with colours as none that were learned from."""
    drawn = captioned_glyphs(6000, seed=seed, image_size=PIXELS, held_out=1000)
    return _pair_task(drawn["image"], drawn["text"], np.arange(5000), np.arange(5000, 6000), drawn["y"])


def emoji_task(name, seed):
    found = load_named(name)
    train, test = divided(found, seed)
    images = resize(np.asarray(found.columns["image"]), PIXELS)
    return _pair_task(images, list(found.columns["text"]), train, test, None)


def _pair_task(image, text, train, test, y):
    parts = []
    for items in (train, test):
        columns = {"image": np.ascontiguousarray(image[items]), "text": pick(text, items)}
        parts.append(Part(columns, None if y is None else torch.from_numpy(np.array(y[items]))))
    description = {"modality": "pairs", "n": len(train), "image_size": PIXELS, "channels": 3}
    return Task(description, parts[0].items, *parts)


# Scores ---------------------------------------------------------------------------------------------------------------


def by_labels(task, encode):
    train, unseen = encode(task)
    (y, test_y) = task.train.y, task.unseen.y
    found = {
        "knn": knn_accuracy(train, y, unseen, test_y).value,
        "linear": linear_probe(train, y, unseen, test_y).value,
        "effective_rank": float(effective_rank(unseen[:2000])),
        "dim": train.shape[1],
    }
    return found | ({"nmi": _nmi(unseen, test_y)} if task.description["modality"] == "text" else {})


def _nmi(vectors, y):
    """Of k-means with as many clusters as there are classes, on unit vectors of the unseen items."""
    from sklearn.cluster import KMeans

    unit = torch.nn.functional.normalize(vectors, dim=1).numpy()
    clusters = KMeans(int(y.max()) + 1, n_init=3, random_state=0).fit_predict(unit)
    return float(nmi(y.numpy(), clusters))


def by_search(task, encode):
    """The texts by their cosine to each query."""
    texts, queries = encode(task)
    found = {"dim": texts.shape[1], "effective_rank": float(effective_rank(texts))}
    return _searched(_cosine(queries, texts), task.extras["gains"]) | found


def _searched(scores, gains):
    return {"ndcg": ndcg(scores, gains), "mrr": mrr(scores, gains)}


def _cosine(a, b):
    a, b = (torch.nn.functional.normalize(side, dim=1) for side in (a, b))
    return (a @ b.T).numpy()


def by_pairs(task, encode):
    """How often a picture's own text is among the first of all unseen ones, and the other way round."""
    images, texts = encode(task)
    cosine, own = _cosine(images, texts), np.eye(len(images))
    both = [(scores, own) for scores in (cosine, cosine.T)]
    found = {f"recall_{k}": float(np.mean([recall_at(*side, k=k) for side in both])) for k in (1, 10)}
    return found | {"effective_rank": float(effective_rank(images)), "dim": images.shape[1]}


@dataclass(frozen=True)
class Protocol:
    """How items are scored: the function, the scores that rank methods, and further ones with their titles."""

    score: Callable
    ranks: Mapping[str, str]
    more: Mapping[str, str] = field(default_factory=dict)
    raw: tuple[str, ...] = ("raw", "untrained")


LABELS = Protocol(by_labels, {"knn": "k-NN %", "linear": "linear %"})
TEXTS = Protocol(by_labels, {"knn": "k-NN %", "linear": "linear %"}, {"nmi": "NMI %"})
SEARCH = Protocol(by_search, {"ndcg": "nDCG@10 %", "mrr": "MRR %"}, raw=("bm25", "raw", "untrained"))
PAIRS = Protocol(by_pairs, {"recall_10": "recall@10 %", "recall_1": "recall@1 %"}, raw=("untrained",))


@dataclass(frozen=True)
class Kind:
    """A kind of data: its page, the sets of its tables, and the method that stands until one is measured."""

    page: str
    sets: Mapping[str, tuple[Callable, Protocol]]
    until_measured: str


KINDS = {
    "text": Kind(
        "texts.md",
        {"ag_news": (text_task, TEXTS), "clinc150": (text_task, TEXTS), "cranfield": (search_task, SEARCH)},
        "lsa",
    ),
    "audio": Kind("sounds.md", {"fsdd": (audio_task, LABELS)}, "log-mel-pca"),
    "series": Kind(
        "series.md", {"JapaneseVowels": (series_task, LABELS), "ItalyPowerDemand": (series_task, LABELS)}, "tst"
    ),
    "table": Kind(
        "tables.md",
        {"pendigits": (table_task, LABELS), "adult": (table_task, LABELS), "credit_g": (table_task, LABELS)},
        "scarf",
    ),
    "graph": Kind("graphs.md", {"cora": (graph_task, LABELS), "PROTEINS": (graph_task, LABELS)}, "graph-features"),
    "pairs": Kind("pairs.md", {"captioned_glyphs": (glyph_task, PAIRS), "emoji": (emoji_task, PAIRS)}, "clip"),
}
"""The first set of a kind decides what `auto` takes."""


# Methods --------------------------------------------------------------------------------------------------------------


def trainable(kind):
    """Ids of the learners that this kind of data alone, without labels, is enough for."""
    given = {"image", "text"} if kind == "pairs" else {"x"}
    found = [e.id for e in systems() if e.kind == "learner" and kind in e.modality and e.level != "protocol"]
    ids = [*dict.fromkeys(found), *ALSO.get(kind, ())]
    return [id for id in ids if id not in EXCEPT and enough(find(id).load(), given)]


def enough(kind, given):
    return learns_without_labels(kind) and set(wanted_columns(kind)) <= given | {"index"}


def methods(kind, data):
    return [*KINDS[kind].sets[data][1].raw, *trainable(kind)]


def minutes_of(kind, data):
    return MINUTES if data == next(iter(KINDS[kind].sets)) else SHORTER


def learner_and_items(method, task, seed):
    """A learner, its vocabulary fitted, and the items as it reads them."""
    made = recipe(method, task.description, Machine.here("cpu"))
    learner = learner_of(made, seed, task.description)
    columns = read_columns(learner, task.learn)
    tensors = {name: rows for name, rows in columns.items() if not isinstance(rows, list)}
    return learner, Dataset(tensors, modality=task.description["modality"]), made


def untrained(task, seed):
    kind = task.description["modality"]
    if kind == "pairs":
        learner = build("clip", task.description, seed=seed)
        read_columns(learner, task.learn)
        return learner
    torch.manual_seed(seed)
    encoder = make_encoder(**ENCODERS[kind]["auto"], **shape_of(kind, task.description))
    read_columns(encoder, task.learn)
    return encoder


def vectors_of(learner, task):
    """Of the items to learn from and the unseen ones; of pairs, of the unseen pictures and their texts."""
    learner.eval()
    if task.description["modality"] == "pairs":
        return _vectors_of_pairs(learner, task.unseen.items)
    encoder = learner if not hasattr(learner, "encoder") else encoder_of(learner)
    parts = (task.train.items, task.unseen.items)
    return [torch.from_numpy(embed(encoder, {"x": prepared(encoder, items)}, device="cpu")) for items in parts]


def _vectors_of_pairs(learner, items):
    found = []
    for encode, rows in ((learner.encode_image, items["image"]), (learner.encode_text, items["text"])):
        with torch.no_grad():
            found.append(torch.cat([encode(rows[at : at + 256]).cpu() for at in range(0, len(rows), 256)]))
    return found


# time -----------------------------------------------------------------------------------------------------------------


def time_steps(wanted):
    failed = 0
    for kind, data, method in wanted:
        if method in FIXED or is_closed(method):
            continue
        try:
            learner, items, made = learner_and_items(method, KINDS[kind].sets[data][0](data, 0), 0)
            took = time_of(learner, items, made.training)
        except Exception as error:
            print(f"{data:16} {method:16} failed: {type(error).__name__}: {error}", flush=True)
            failed += 1
            continue
        found = {**took, "items": made.training.get("batch_size", 256) / took["seconds"]}
        keep_time(data, method, found)
        print(f"{data:16} {method:16} {found}", flush=True)
    sys.exit(min(failed, 1))


# run ------------------------------------------------------------------------------------------------------------------


def run_one(kind, data, method, seed, work):
    load, protocol = KINDS[kind].sets[data]
    task = load(data, seed)
    line = {"kind": kind, "data": data, "method": method, "seed": seed, "steps": None, "batch_size": None}
    if method == "bm25":
        return line | bm25(task) | _where_and_when()
    if method == "raw":
        encode = raw
    elif method == "untrained":
        encode = partial(vectors_of, untrained(task, seed))
    else:
        learner, items, made = learner_and_items(method, task, seed)
        closed = is_closed(method)
        steps = 1 if closed else steps_in(minutes_of(kind, data), data, method)
        import lightning_fabric  # noqa: F401  # or else it is imported in the time of a closed form

        started = time.perf_counter()
        place = work / data / f"{method}-{seed}"
        learner = fit(learner, items, max_steps=steps, seed=seed, out=place, **made.training)
        line["seconds"] = time.perf_counter() - started
        if not closed:
            line |= {"steps": steps, "batch_size": made.training.get("batch_size", 256)}
        encode = partial(vectors_of, learner)
    return line | protocol.score(task, encode) | _where_and_when()


def raw(task):
    return [torch.from_numpy(np.asarray(rows, np.float32)) for rows in task.extras["raw"]()]


def bm25(task):
    from tacit.metric import BM25

    scores = BM25().fit(task.train.items).score_samples(task.unseen.items)
    return _searched(np.asarray(scores), task.extras["gains"])


def _where_and_when():
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"threads": torch.get_num_threads(), "date": date.today().isoformat(), "device": device}


def results(data=None):
    return [line for line in read_lines(RESULTS) if data in (None, line["data"])]


def run(wanted, seeds, jobs, work):
    done = {(line["data"], line["method"], line["seed"]) for line in results()}
    left = [(*one, seed) for seed in seeds for one in wanted if (*one[1:], seed) not in done]
    stepped = [minutes_of(*one[:2]) for one in left if one[2] not in FIXED and not is_closed(one[2])]
    print(f"{len(left)} runs, {len(stepped)} of which train, together {sum(stepped):.0f} quiet minutes of both cores")

    def answer(kind, data, method, seed):
        words = ["one", "--kind", kind, "--data", data, "--methods", method, "--seeds", seed, "--work", work]
        return answer_of(__file__, *words, threads=1 if jobs > 1 else None)

    sys.exit(min(run_all(left, answer, RESULTS, jobs), 1))


# table ----------------------------------------------------------------------------------------------------------------


def found_in(kind, data):
    protocol = KINDS[kind].sets[data][1]
    return ranked(results(data), tuple(protocol.ranks), (*protocol.ranks, *protocol.more, "effective_rank", "dim"))


def titles(protocol):
    scores = [*protocol.ranks.values(), *protocol.more.values()]
    return ("method", *scores, "mean rank", "seeds", "steps x batch", "items/s", "seconds", "dim", "effective rank")


def rows(kind, data):
    protocol, times = KINDS[kind].sets[data][1], timed(data)
    for method, line in found_in(kind, data).items():
        each = times.get(method, {})
        took = line["lines"][0].get("seconds") if line["batch_size"] is None else line["steps"] * each["seconds"]
        scores = (spread(line["lines"], key) for key in (*protocol.ranks, *protocol.more))
        yield [
            method, *scores, f"{line['rank']:.1f}", str(len(line["lines"])), length_of(method, line),
            number(each.get("items"), 0), number(took, 1), number(line.get("dim"), 0),
            number(line.get("effective_rank"), 0),
        ]  # fmt: skip


def tables(kinds):
    for kind in kinds:
        for data, (_, protocol) in KINDS[kind].sets.items():
            found, page = list(rows(kind, data)), DOCS / KINDS[kind].page
            missing = sorted(set(methods(kind, data)) - {row[0] for row in found}) if found else []
            write_section(
                page, data, titles(protocol), found, f"Without a result: {', '.join(missing)}." if missing else ""
            )
        choose(kind)


def choose(kind):
    """What `--method auto` takes: the first of its table that `tacit learn` trains, or what stands until then."""
    data, (_, protocol) = next(iter(KINDS[kind].sets.items()))
    found = found_in(kind, data)
    learned = [method for method in found if method not in FIXED]
    if not learned:
        usual = KINDS[kind].until_measured
        row = {"device": "any", "method": usual, "reason": "not measured yet"}
        others = [method for method in trainable(kind) if method != usual]
        return write_auto(kind, "not measured yet", [row], [usual, *others][:4])
    best = learned[0]
    scores = ", ".join(
        f"{title.removesuffix(' %')} {100 * found[best][key]:.0f} %" for key, title in protocol.ranks.items()
    )
    where = f"{scores} on {data} in {MINUTES:g} minute of a 2-core CPU"
    reason = f"best of {len(found)} in docs/{KINDS[kind].page} ({where})"
    row = {"device": "any", "method": best, "reason": reason}
    return write_auto(kind, f"benchmarks/kinds.py table, {date.today()}", [row], learned[:4])


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("do", choices=("time", "run", "one", "table"))
    ask.add_argument("--kind", default=",".join(KINDS), help="comma-separated; all if left out")
    ask.add_argument("--data", help="comma-separated sets; all of the kind if left out")
    ask.add_argument("--methods", help="comma-separated; all if left out")
    ask.add_argument("--best", type=int, help="only this many of the best of each table measured, and what is raw")
    ask.add_argument("--seeds", type=int, default=1)
    ask.add_argument("--jobs", type=int, default=1, help="runs at once, with one thread each")
    ask.add_argument("--work", type=Path, default=Path("runs/kinds"), help="folder for checkpoints")
    args = ask.parse_args()
    keep_freed_memory()  # as the command line does
    kinds = args.kind.split(",")
    if args.do == "table":
        return tables(kinds)
    if args.do == "one":
        return print(json.dumps(run_one(args.kind, args.data, args.methods, args.seeds, args.work)))
    wanted = [
        (kind, data, method)
        for kind in kinds
        for data in KINDS[kind].sets
        if args.data is None or data in args.data.split(",")
        for method in names(kind, data, args)
    ]
    return time_steps(wanted) if args.do == "time" else run(wanted, range(args.seeds), args.jobs, args.work)


def names(kind, data, args):
    if args.methods:
        return [method for method in methods(kind, data) if method in args.methods.split(",")]
    if args.best:
        best = [method for method in found_in(kind, data) if method not in FIXED][: args.best]
        return [*KINDS[kind].sets[data][1].raw, *best]
    return methods(kind, data)


if __name__ == "__main__":
    main()
