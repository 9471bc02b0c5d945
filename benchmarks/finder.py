"""The encoder of the method finder: LSA on our own words and the papers' titles; and how well it answers.

    python benchmarks/finder.py train [../shared]      # -> src/tacit/weights/finder, with its hash in README.md
    python benchmarks/finder.py judge                  # recall on hand-written queries, beside BM25 and both together

It learns from each paper's title, what the project's rows say of it (mechanism, claim, needs: ../shared/catalogue.json)
and, where it is built, the sentences of its docstring. No abstract, and no label.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from tacit import bibliography, catalogue, finding, fit
from tacit.data import Dataset
from tacit.pretrain import LSA
from tacit.publishing import write_folder

DIM, WORDS = 64, 4000
K = 10

QUERIES = {
    "few labels, tabular": "pfn rss-ood-unlabeled bmdal naive-bayes-probe nn-revisit",
    "group my documents into topics that I can name": "lbl2vec",
    "which pictures should somebody label next": "bmdal",
    "my labels are wrong in many places": "lsa-web-noise",
    "fill in the missing part of a photo": "ddnm",
    "remove a customer's data from a trained model": "laf",
    "make a small model as good as a big one": "dhkd kd utilized-rank simclrv2",
    "search texts by an image or images by a text": "clip cwcl",
    "features for speech without transcripts": "wav2vec w2v-bert log-mel-pca",
    "average several fine-tuned models": "model-stock",
    "find new classes that are not among the known ones": "pbn-tabular-ncd",
    "draw new pictures like mine": "ddpm dcgan freedom mpgd conditional-ddpm bigan",
    "sensor readings over time, hardly any labels": "tst",
    "classify texts without training a network": "gzip-knn",
    "nodes of a network without labels": "gcc graph-features",
    "train on small batches": "dcl",
    "learn tasks one after another without forgetting": "dkvb nmc-continual",
    "does my classifier rely on a shortcut": "shortcut-availability",
    "how many clusters are in my data": "cpp",
    "cluster images without labels": "sela cpp swav",
    "regression on a table with uncertainty": "pfn",
    "train a sentence encoder on my own texts": "sent2vec simcse electra mlm lsa uer",
    "robust to adversarial examples": "pgd trades comp-sum-losses",
    "dense features for segmentation": "pixpro pixcontrast dinov2",
    "weights for pictures of faces": "facial-pretraining-study",
    "choose hyper-parameters by gradient": "ift-hyperopt",
    "sparse dictionary of a network's features": "mp-sae",
    "zero-shot classification by class names": "clip tfup pouf",
    "guide a diffusion model towards a condition": "freedom mpgd",
    "masked image modelling": "mae croco dinov2",
    "initialise a transformer better": "mimetic-init",
    "learn from domains with different class proportions": "lls-ddfa",
    "density estimation without normalising": "meco",
}
"""What a person may ask -> the systems that should be among the first ten; written before anything was measured."""


def texts(shared: Path) -> list[str]:
    rows = {row["id"]: row for row in json.loads((shared / "catalogue.json").read_text("utf-8"))}
    ids = dict.fromkeys([*bibliography.papers(), *(entry.id for entry in catalogue.systems())])
    made = []
    for id in ids:
        row = rows.get(id, {})
        said = [row.get("mechanism", ""), row.get("claim", ""), ", ".join(row.get("needs", ()))]
        made.append(finding.stems("\n".join([finding.words_of(id), *said])))
    return made


def train(shared: Path, dim: int = DIM) -> torch.nn.Module:
    listed = texts(shared)
    learner = LSA(n_components=dim, vocab_size=WORDS, max_length=400)
    x = learner.encoder.fit_prepare(listed).prepare(listed)
    return fit(learner, Dataset({"x": x}, modality="text"), max_steps=1, seed=0, verbose=False).encoder.eval()


def save(encoder: torch.nn.Module, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    facts = {
        "learned from": "titles, docstrings and the project's rows: no abstract, no label",
        "made by": "`python benchmarks/finder.py train ../shared`",
        "used by": "`tacit systems QUERY` and `tacit.finding.find_systems`",
    }
    write_folder(encoder.half(), place, facts)


def judge() -> dict[str, dict[str, float]]:
    """Recall at 10 and reciprocal rank of the first, a mean over queries, among the systems that are built."""
    built = [entry.id for entry in finding._first_entries()]
    index = finding._Index.of_all()
    place = np.array([index.ids.index(id) for id in built])
    found = {}
    for name, ask in (("LSA", index.meaning), ("BM25", index.words), ("both", index.both)):
        recalls, firsts = [], []
        for query, ids in QUERIES.items():
            wanted = [id for id in ids.split() if id in built]
            order = [built[i] for i in np.argsort(-ask(query)[place], kind="stable")]
            recalls.append(np.mean([order.index(id) < K for id in wanted]))
            firsts.append(1 / (1 + min(order.index(id) for id in wanted)))
        found[name] = {"recall": float(np.mean(recalls)), "first": float(np.mean(firsts))}
    return found


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("what", choices=("train", "judge"))
    ask.add_argument("shared", nargs="?", default="../shared", type=Path)
    given = ask.parse_args()
    if given.what == "train":
        save(train(given.shared), finding.ENCODER)
        print(finding.ENCODER)
    for name, scores in judge().items():
        print(f"{name:5} recall@{K} {scores['recall']:.2f}, reciprocal rank of the first {scores['first']:.2f}")


if __name__ == "__main__":
    main()
