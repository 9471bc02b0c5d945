"""unlearn: a new run from which the influence of some items is removed, and an audit of how far that went."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tacit.adding import _below, _opened, _place, add
from tacit.answers import Rows, counted, listed
from tacit.building import closed_form, learner_class
from tacit.checkpoints import RunFolder, plain_errors, read_model, save_tensors, write_json
from tacit.data import Dataset, Ledger, Source
from tacit.data import open as open_data
from tacit.data._listing import NAMED
from tacit.data._open import fingerprint_of
from tacit.embedding import embed, pick_device, readable
from tacit.errors import ArgumentError, DataError, RunError, expect, unknown
from tacit.evaluate import knn_accuracy, membership_auroc, neighbour_stability
from tacit.labelling import Finder, match, read_labels
from tacit.learner import encoder_of
from tacit.learning import finish
from tacit.nn import Classifier, ItemEncoder
from tacit.planning import Plan, open_for, plan
from tacit.querying import Joint
from tacit.recipes import Machine
from tacit.report import write_audit
from tacit.runs import Run, load, load_encoder
from tacit.settings import LearnSettings
from tacit.store import Items
from tacit.training import fit, held_out_count, mix
from tacit.unlearn import label_agnostic_forgetting

Say = Callable[[str], None]

METHODS = ("laf", "retrain")
SCORED = 2000
"""Items of each part that the audit looks at, at most."""
FEWEST = 20
"""Unseen items below which nothing is said of membership."""
STEPS = (200, 2000)
"""Pairs of LAF's steps, at least and at most; 20 passes over the forgotten items between."""
VIEWS = 4
BEFORE, UNLEARNED, RETRAINED = "before", "unlearned", "retrained"


@dataclass(frozen=True)
class Unlearned:
    """What `unlearn` made: the new run, its audit page, and what there is to know of it, in sentences."""

    run: Run
    audit: Path
    forgotten: int
    """Items of the old run that were named, and their copies."""
    kept: int
    """Items of the new run."""
    lines: list[str]
    figures: dict[str, Any]
    """What audit.json holds."""


def unlearn(
    run: str | Path | Run,
    items: str | Path | Sequence[str | int],
    *,
    repair: str | Path | Mapping[Any, Any] | None = None,
    column: str | None = None,
    method: str = "laf",
    retrain: bool = True,
    unseen: Any = None,
    data: Any = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    seed: int = 0,
    say: Say = print,
) -> Unlearned:
    """Write a new run without some items, and with an encoder from which their influence is removed.

    The new run's store, map, clusters and report are made anew from the items that are kept, so that no file of it
    holds a row, thumbnail or vector of the others. The old run is left as it is. audit.html says how near the encoder
    comes to one that was trained without the items, which is trained for the purpose and thrown away. Copies of an item
    (equal content) go with it. Items that came by `tacit add`, which the encoder did not learn from, are taken over
    where their data still lies, and left out where they are named.

    Args:
        run: a run of `tacit learn`; not of pairs.
        items: names of items as the run has them (paths, or item numbers), or a text file with one a line. A name that
            the run does not know is an error.
        repair: labels of some kept items, as `tacit label` takes them: the encoder then also learns from these (LAF+R).
        column: which column of them is the label, where there are several.
        method: `laf` (Label-Agnostic Forgetting: fast, approximate), or `retrain`: anew without the items, as long as
            the run was; this alone forgets for sure.
        retrain: False saves the time of the comparison with retraining; the audit says that it is missing.
        unseen: data of the same kind that nobody learned from, for membership inference; if None, the items that the
            run itself held out (5 % of 1,000 and more).
        data: where the run's data lies now; where it was, if None. The items must still be in it.
        out: folder of the new run; RUN-unlearned if None.
        overwrite: set an earlier run in `out` aside.
        seed: of LAF and of everything that is drawn for the audit.
        say: told what is being done.

    Raises:
        ArgumentError: an unknown method, all items or none, none that was learned from, an encoder without parameters
            (`retrain` does it).
        DataError: a name that the run does not know; the data or a table cannot be read.
        RunError: a run that was not trained here, or of pairs; data that has changed; `out` is in use.
    """
    run = run if isinstance(run, Run) else load(run)
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    _expect_trained(run)
    rows = Rows(run.folder)
    named, asked = _named(rows, items)
    place = run.folder.resolve()
    out = Path(out) if out is not None else place.with_name(f"{place.name}-unlearned")
    work = _Work(run, rows, named, data, seed, say)
    learned = int(work.gone.sum())
    if not learned:
        came = listed([uri for key, uri in zip(rows.keys, rows.uris, strict=True) if key in named])
        raise ArgumentError(
            f"items={came}: expected at least one that the encoder learned from, and these came by `tacit add`, so "
            "nothing of them is in it; to take them out of the run delete their files and add the data again"
        )
    kept = len(work.kept)
    value = f"all {len(work.gone):,} learned from" if not kept else f"all but {kept} of those learned from"
    expect("items", value, kept >= 2, "at least 2 items that are kept")
    given = None if repair is None else _repair_labels(rows, named, repair, column, say)
    if method == "laf":
        work.expect_parameters()
    config = {
        "build": run.config["build"],
        "settings": {"unlearn": str(place), "method": method, "seed": seed, "repaired": given is not None}
        | work.not_taken_over(),
        "data": {"fingerprint": work.kept.dataset.fingerprint},
        "made": {**run.config.get("made", {}), "description": dict(work.kept.description)}
        | {"lines": work.kept.describe()},
    }
    oracle = work.retrained() if method == "retrain" or retrain else None
    with contextlib.closing(RunFolder(out, config, overwrite=overwrite)) as folder:
        if read_model(folder.path) is None:
            encoder = oracle if method == "retrain" else work.forgotten_by_laf(given)
            state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
            with plain_errors(folder.path):
                save_tensors(folder.path / "model.safetensors", state)
    encoder = load_encoder(out)
    finish(out, work.kept, encoder, _facts(run, method), untrained=None, seed=seed, say=say)
    taken = work.take_over(out)
    if given is not None:
        Ledger(out / "labels.sqlite").put(given.name, given.values, source="user")
    say("auditing")
    figures = work.audit(out, encoder, oracle, unseen, set(given.values) if given else set())
    figures |= {"method": method, "asked": asked, "title": str(run.summary.get("title", run.folder.name))}
    figures["verdict"] = verdict(figures)
    figures["limits"] = [*taken, *_limits(work, method, given is not None)]
    with plain_errors(out):
        write_json(out / "audit.json", figures)
        page = write_audit(out)
    lines = [*figures["verdict"], *figures["limits"]]
    made = load(out)
    return Unlearned(made, page, int(np.isin(rows.keys, list(named)).sum()), len(made.items), lines, figures)


@dataclass(frozen=True)
class _Labels:
    """Labels of kept items: a name, and a value by the key of the item."""

    name: str
    values: dict[str, str]


class _Work:
    """The run's data in parts, and the encoders that are compared."""

    def __init__(self, run: Run, stored: Rows, named: set[str], data: Any, seed: int, say: Say) -> None:
        self.run, self.stored, self.named, self.seed, self.say = run, stored, named, seed, say
        self.settings, self.planned, self.opened = _planned(run, stored, data)
        self.source = self.planned.source
        self.gone = np.isin(self.source.hashes, list(named))
        """(n,) which of the items learned from go; by content, for rows of the run may be others since `tacit add`."""
        self.held_out = _held_out(run, len(self.gone))
        self.kept = _part(self.source, np.flatnonzero(~self.gone))

    def rows(self, which: np.ndarray, *, most: int | None = None) -> np.ndarray:
        found = np.flatnonzero(which)
        return np.sort(np.random.default_rng(self.seed).permutation(found)[:most])

    def expect_parameters(self) -> None:
        learns = any(True for _ in self.run.encoder.parameters())
        remedy = "method='retrain' fits it anew without them, in as little time"
        expect("method", "laf", learns, "an encoder with parameters, which a closed form has not", remedy)

    def retrained(self) -> nn.Module:
        """What unlearning is measured against: the same method, from the same start, on the kept items."""
        self.say("training anew without the items, to compare with")
        part = _part(self.source, self.rows(~self.gone & ~self.held_out))
        made = replace(self.planned, source=part)
        learner, items = made.ready()
        length = {"max_steps": self.planned.steps or 1}
        words = {k: v for k, v in self.run.config["training"].items() if k not in ("epochs", "max_steps")}
        fit(learner, items, **length, **words, accelerator=made.accelerator)
        return encoder_of(learner).cpu().eval()

    def forgotten_by_laf(self, labels: _Labels | None) -> nn.Module:
        self.say(f"unlearning {counted(int(self.gone.sum()), 'item')}")
        encoder = copy.deepcopy(self.run.encoder).to(pick_device())
        x = readable(encoder, self.source).only(["x"])
        trained = self.gone & ~self.held_out
        forget = self.rows(trained if trained.any() else self.gone)
        keep = self.rows(~self.gone & ~self.held_out)
        steps = min(max(20 * -(-len(forget) // 32), STEPS[0]), STEPS[1])
        words: dict[str, Any] = {"max_steps": steps, "seed": self.seed}
        columns = x.select(keep)["x"], x.select(forget)["x"]
        if labels is None:
            return label_agnostic_forgetting(encoder, *columns, **words)
        known = np.array([i for i in np.flatnonzero(~self.gone) if self.source.hashes[i] in labels.values])
        classes = sorted(set(labels.values.values()))
        y = torch.tensor([classes.index(labels.values[self.source.hashes[i]]) for i in known])
        model = _with_head(encoder, x.select(known), y, len(classes))
        return encoder_of(label_agnostic_forgetting(model, *columns, repair=(x.select(known)["x"], y), **words))

    # what was added ---------------------------------------------------------------------------------------------------

    def take_over(self, out: Path) -> list[str]:
        """Add to the new run what `tacit add` brought into the old one, but for the items named; say what became of it.

        The encoder did not learn from these items: there is nothing to unlearn, but they are the user's.
        """
        learned = {*zip(self.source.hashes, (_place(self._root, uri) for uri in self.source.uris), strict=True)}
        roots, added, named = Items.open(self.run.folder).column("source"), dict[str, list[int]](), 0
        for row, (key, root, uri) in enumerate(zip(self.stored.keys, roots, self.stored.uris, strict=True)):
            if (key, _place(root, uri)) not in learned:
                named += key in self.named
                added.setdefault(root, []).extend([] if key in self.named else [row])
        lines, taken = [], 0
        for root, rows in added.items():
            part = self._added(root, rows)
            if part is not None:
                taken += len(part)
                add(out, part, keep_gone=True, say=self.say)
            if lost := len(rows) - (0 if part is None else len(part)):
                lines.append(
                    f"{counted(lost, 'item')} that tacit add brought from {root} could not be read there any more and "
                    "are not in the new run; tacit add takes them in from where they are."
                )
        if named:
            lines.append(f"{counted(named, 'item')} to be forgotten came by tacit add: nothing was learned from them.")
        if taken:
            lines.append(f"{counted(taken, 'item')} that tacit add brought were taken over.")
        return lines

    def not_taken_over(self) -> dict[str, str]:
        """A setting of the new run, which the fingerprint of the kept items does not tell; and gives no item away."""
        named = sorted(self.named - set(self.source.hashes))
        return {"not_taken_over": hashlib.sha256(" ".join(named).encode()).hexdigest()[:16]} if named else {}

    @property
    def _root(self) -> str:
        """Where the data lay when it was learned from, which is where the run's items have it."""
        return str(self.run.config["made"]["description"].get("where", self.source.where))

    def _added(self, root: str, rows: list[int]) -> Source | None:
        """These rows of the run as they lie in their root now, under the names that the run has; None without any."""
        places = [_place(root, self.stored.uris[row]) for row in rows]
        if root == self._root:
            opened = replace(self.opened, where=root)  # it may have been moved
        else:
            one_by_one = Path(root).is_dir() and self.source.modality in ("image", "audio", "text")
            try:
                opened = _opened(self.run, places if one_by_one else root, self.settings.labels, "skip")
            except DataError:
                return None
        at = {
            (key, _place(opened.where, uri)): i
            for i, (key, uri) in enumerate(zip(opened.hashes, opened.uris, strict=True))
        }
        there = [at.get((self.stored.keys[row], place)) for row, place in zip(rows, places, strict=True)]
        part = _part(opened, np.array([i for i in there if i is not None], int))
        names = [_below(_place(opened.where, uri), root) for uri in part.uris]
        return replace(part, where=root, what=NAMED, uris=names, skipped=[]) if names else None

    # the audit --------------------------------------------------------------------------------------------------------

    def audit(
        self, out: Path, encoder: nn.Module, oracle: nn.Module | None, unseen: Any, learned: set[str]
    ) -> dict[str, Any]:
        """The figures of audit.json: counts and scores, nothing of any item."""
        others = self._unseen(unseen)
        encoders = {BEFORE: self.run.encoder, UNLEARNED: encoder} | ({} if oracle is None else {RETRAINED: oracle})
        parts = {
            "kept": _part(self.source, self.rows(~self.gone & ~self.held_out, most=2 * SCORED)),
            "forgotten": _part(self.source, self.rows(self.gone, most=SCORED)),
        } | ({} if others is None else {"unseen": others})
        vectors = {
            name: {part: embed(one, readable(one, source)) for part, source in parts.items()}
            for name, one in encoders.items()
        }
        figures: dict[str, Any] = {
            "format": 1,
            "n": {"kept": len(self.kept), "forgotten": int(self.gone.sum())}
            | {"unseen": 0 if others is None else len(others)},
            "encoders": list(encoders),
            "labels": self._accuracies(out, parts, vectors, learned),
            "membership": self._membership(encoders, parts),
            "drift": _drift(vectors),
        }
        return figures | {"gap": {name: gap(figures, name) for name in encoders if name != RETRAINED and oracle}}

    def _unseen(self, unseen: Any) -> Source | None:
        """Data that the user gives, or what the run held out of those that are kept."""
        if unseen is not None:
            size, kind = self.source.image_size, self.source.modality
            found = open_data(unseen, modality=kind, image_size=size, like=self.source.description)
            return _part(found, np.sort(np.random.default_rng(self.seed).permutation(len(found))[:SCORED]))
        rows = self.rows(self.held_out & ~self.gone, most=SCORED)
        return _part(self.source, rows) if len(rows) >= FEWEST else None

    def _accuracies(
        self, out: Path, parts: Mapping[str, Source], vectors: Mapping[str, Any], learned: set[str]
    ) -> list[dict[str, Any]]:
        """Of k-NN among kept items, by each label that lies in the data; half of the kept teach, half are scored."""
        ledger, found = Ledger(out / "labels.sqlite"), []
        for name in ledger.names(source="found"):
            ledger.split(name, self.seed)
            purpose = "audit of unlearning (tacit unlearn)"
            halves = [ledger.take(name, part, purpose, sources=("found",)) for part in ("choose", "report")]
            kept, values = parts["kept"], {part: source.labels.get(name) for part, source in parts.items()}
            teach = [i for i, key in enumerate(kept.hashes) if key in halves[0]]
            rows = {"kept": [i for i, key in enumerate(kept.hashes) if key in halves[1] and key not in learned]}
            rows |= {p: [i for i, v in enumerate(values[p] or []) if v] for p in parts if p != "kept"}
            if len({halves[0][kept.hashes[i]] for i in teach}) < 2:
                continue
            truth = {part: np.asarray([(values[part] or [])[i] for i in some]) for part, some in rows.items()}
            k = min(20, len(teach))
            y = np.asarray([halves[0][kept.hashes[i]] for i in teach])
            scored = {
                encoder: {
                    part: _measure(knn_accuracy(one["kept"][teach], y, one[part][some], truth[part], n_neighbors=k))
                    for part, some in rows.items()
                    if some
                }
                for encoder, one in vectors.items()
            }
            found.append({"name": name, "scores": scored})
        return found

    def _membership(self, encoders: Mapping[str, nn.Module], parts: Mapping[str, Source]) -> dict[str, Any]:
        """AUROC of forgotten against unseen items, by how alike an encoder finds an image and its views."""
        if self.source.modality != "image":
            return {"missing": f"there is no score of membership for {self.source.modality} data yet"}
        if "unseen" not in parts or len(parts["unseen"]) < FEWEST:
            return {"missing": f"it takes at least {FEWEST} items that nobody learned from; --unseen DATA gives some"}
        seen = {
            name: {part: self._agreement(encoder, source) for part, source in parts.items()}
            for name, encoder in encoders.items()
        }
        return {
            "scores": {
                name: {
                    "forgotten": _measure(membership_auroc(of["forgotten"], of["unseen"])),
                    "kept": _measure(membership_auroc(of["kept"], of["unseen"])),
                }
                for name, of in seen.items()
            }
        }

    def _agreement(self, encoder: nn.Module, source: Source) -> np.ndarray:
        """Mean cosine of an image's vector with those of its views; higher for images that were learned from."""
        from tacit.views import as_float, two_crops

        size = int(encoder.image_size)  # type: ignore[arg-type]
        x = as_float(source.dataset["x"][slice(0, min(len(source), SCORED))], size)
        views = two_crops(size, channels=source.channels or 3, scale=(0.4, 1.0))
        whole, found = _directions(embed(encoder, {"x": x})), np.zeros(len(x))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.seed, "membership", 0))
            for _ in range(VIEWS // 2):
                for view in views(x):
                    found += (whole * _directions(embed(encoder, {"x": view}))).sum(1) / VIEWS
        return found


def gap(figures: Mapping[str, Any], encoder: str) -> float | None:
    """Mean absolute difference of an encoder's scores to those of retraining; None where there are none to compare.

    >>> scores = {name: {"kept": {"value": value}} for name, value in (("before", 0.9), ("retrained", 0.7))}
    >>> round(gap({"labels": [{"scores": scores}], "membership": {}}, "before"), 3)
    0.2
    """
    tables = [label["scores"] for label in figures["labels"]]
    ours = [{"membership": of["forgotten"]} for of in _two(figures["membership"].get("scores"), encoder)]
    pairs = [(table[encoder], table[RETRAINED]) for table in tables] + ([tuple(ours)] if ours else [])  # type: ignore[list-item]
    apart = [abs(a[part]["value"] - b[part]["value"]) for a, b in pairs for part in a]
    return sum(apart) / len(apart) if apart else None


def _two(scores: Mapping[str, Any] | None, encoder: str) -> list[Any]:
    return [scores[encoder], scores[RETRAINED]] if scores and RETRAINED in scores else []


def verdict(figures: Mapping[str, Any]) -> list[str]:
    """How far from retraining, in plain words."""
    if figures["method"] == "retrain":
        return ["This encoder was trained anew without the items: none of them had any part in it."]
    if RETRAINED not in figures["encoders"]:
        return ["It was not compared with training anew, so how far from it this encoder is, is not known."]
    before, after = (figures["gap"].get(name) for name in (BEFORE, UNLEARNED))
    lines = []
    if after is None:
        lines.append(
            "There are neither labels nor unseen items to score by; what is left to compare is where the items lie."
        )
    else:
        word = "nearer than before"
        if after > before - 0.005:
            word = "farther than before" if after > before + 0.005 else "no nearer than before"
        lines.append(
            f"Over accuracies and membership inference it is {100 * after:.1f} points from training anew without the "
            f"items; the encoder before was {100 * before:.1f}: {word}."
        )
    moved = figures["drift"]
    for part in ("forgotten", "kept"):
        if part in moved:
            old, new = (moved[part][name]["neighbours"]["value"] for name in (BEFORE, UNLEARNED))
            lines.append(
                f"Of the nearest neighbours of {part} items it shares {100 * new:.0f} % with training anew, the "
                f"encoder before {100 * old:.0f} %."
            )
    return lines


def _limits(work: _Work, method: str, repaired: bool) -> list[str]:
    """What a reader must know who counts on it."""
    lines = []
    if method == "laf":
        lines.append(
            "Unlearning is approximate and gives no guarantee: traces of the items may remain that these scores do not "
            "show. --method retrain trains anew, which leaves none."
        )
        if isinstance(work.run.encoder, ItemEncoder):
            lines.append(
                "What the encoder reads items by (vocabulary, means and deviations) was taken from all items and "
                "stays: a word that only a forgotten text has may still stand in it. --method retrain fits it anew."
            )
    if near := _near_copies(work):
        lines.append(
            f"{counted(near, 'kept item')} nearly equal a forgotten one, and taught the encoder much the same."
        )
    if repaired:
        lines.append("The encoder also learned from the labels given for repair.")
    lines.append(
        "The old run, the data itself and tacit's cache of it (tacit.data.clear_cache()) still hold the items: delete "
        "them yourself. Labels that were given to the old run by hand are not carried over."
    )
    return lines


def _near_copies(work: _Work) -> int:
    """Kept items learned from, in a group with a forgotten one."""
    keys, learned = dict(zip(work.stored.items.tolist(), work.stored.keys, strict=True)), set(work.source.hashes)
    groups = [[keys.get(item) for item in group["items"]] for group in work.run.summary.get("duplicates", [])]
    near = [key for group in groups if not work.named.isdisjoint(group) for key in group]
    return sum(key in learned and key not in work.named for key in near)


# what the run was -----------------------------------------------------------------------------------------------------


def _expect_trained(run: Run) -> None:
    build = run.config.get("build", {})
    if Joint.described(build):
        raise RunError(
            f"run={str(run.folder)!r} is of pairs; expected one of single items: pairs cannot be unlearned yet"
        )
    if not run.config.get("training") or "steps" not in run.config or build.get("system") is None:
        raise RunError(
            f"run={str(run.folder)!r}: its encoder was not trained by tacit learn, so nothing of the items is in it; "
            "`tacit embed` the data without them"
        )


def _planned(run: Run, stored: Rows, data: Any) -> tuple[LearnSettings, Plan, Source]:
    """The plan that the run was made by, on what it learned from; and the data as it lies now, which may hold more."""
    config, build = run.config, run.config["build"]
    where, described = config["made"]["data"] if data is None else data, config["made"]["description"]
    said = {"method": build["system"], "image_size": described.get("image_size")}
    length: dict[str, Any] = {"minutes": None, "epochs": None, "max_steps": config["steps"] or None}
    if closed_form(learner_class(build["system"])):
        length["max_steps"] = 1
    given = {**config["settings"], **said, **length, "data": where, "arguments": {}, "verbose": False}
    settings = LearnSettings(**given, out=str(run.folder / ".no-such-run"))
    machine = Machine.here(settings.devices)
    opened = learned = open_for(settings, machine)
    if opened.dataset.fingerprint != config["data"]["fingerprint"]:
        opened = open_for(settings, machine, like=described)
        learned = _learned_from(run, stored, opened)
    made = plan(settings, learned)
    assert isinstance(made, Plan)
    flip = made.flip and not any(change["setting"] == "flip" for change in config["made"].get("changes", []))
    recipe = replace(
        made.recipe,
        encoder=build.get("encoder") and made.recipe.encoder and build["encoder"],
        arguments=build["arguments"],
    )
    return settings, replace(made, recipe=recipe, flip=flip, steps=config["steps"]), opened


def _learned_from(run: Run, stored: Rows, opened: Source) -> Source:
    """Of data that has grown the items that the run learned from, in the order in which it did.

    Numbers of items are never used again: those below the count that the run learned from are these items.
    """
    at = {(key, uri): i for i, (key, uri) in enumerate(zip(opened.hashes, opened.uris, strict=True))}
    first = np.flatnonzero(stored.items < run.config["made"]["description"].get("n", 0))
    found = [at.get((stored.keys[row], stored.uris[row])) for row in first]
    part = _part(opened, np.array([i for i in found if i is not None], int))
    shape = next(part.dataset[name].shape[1:] for name in part.dataset.names if name != "index")
    if fingerprint_of(part.modality, shape, part.hashes) != run.config["data"]["fingerprint"]:
        raise RunError(
            f"data={opened.where!r} does not hold all that run={str(run.folder)!r} learned from: expected the same "
            "items, those to be forgotten among them; say where it lies now: data=..."
        )
    return part


def _held_out(run: Run, n: int) -> np.ndarray:
    """(n,) the items that `fit` kept from training, to watch the loss by."""
    training, kind = run.config["training"], learner_class(run.config["build"]["system"])
    held = np.zeros(n, bool)
    count = held_out_count(kind, n, training["batch_size"])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(mix(training["seed"], "held out", 0)))
    held[order[:count].numpy()] = True
    return held


def _facts(run: Run, method: str) -> dict[str, Any]:
    old, how = run.summary, {"laf": "unlearned by LAF", "retrain": "trained anew"}[method]
    said = dict(old.get("method") or {})
    return {
        "method": said | {"name": f"{said.get('name', 'an encoder')}, {how} without some items"},
        "training": old.get("training") if method == "retrain" else None,
        "health": None,
    }


def _named(rows: Rows, items: str | Path | Sequence[str | int]) -> tuple[set[str], int]:
    """The keys of the items named, by which whatever has the same content goes too; and how many were named."""
    if isinstance(items, str | Path):
        try:
            text = Path(items).read_text(encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            raise DataError(
                f"items={str(items)!r}: expected a text file with an item of the run a line ({error.strerror})"
            ) from error
        names: list[str | int] = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        names = list(items)
    find, uris = Finder(rows, items if isinstance(items, str | Path) else Path()), set(rows.uris)
    found, strangers = [], []
    for name in names:
        number = isinstance(name, str) and name.isdecimal() and name not in uris
        row = find(int(name) if number else name)
        strangers.append(name) if row is None else found.append(row)
    if strangers:
        raise DataError(
            f"items={listed(strangers)}: not in the run, so nothing was done; name items as the run does, such as "
            f"{rows.uris[0]!r}, or by number"
        )
    if not found:
        raise ArgumentError("items: none named; expected at least one item of the run")
    return {rows.keys[row] for row in found}, len(set(found))


def _repair_labels(
    rows: Rows, named: set[str], labels: str | Path | Mapping[Any, Any], column: str | None, say: Say
) -> _Labels:
    if isinstance(labels, Mapping):
        header, name, pairs = "", column or "label", [(item, str(value)) for item, value in labels.items()]
    else:
        header, name, pairs = read_labels(labels, column)
    values, lines = match(rows, pairs, labels if not isinstance(labels, Mapping) else "repair", header)
    for line in lines:
        say(line)
    values = {key: value for key, value in values.items() if key not in named}
    if len(set(values.values())) < 2:
        raise DataError("repair: expected labels of kept items, of at least two classes")
    return _Labels(name, values)


def _with_head(encoder: nn.Module, items: Dataset, y: Tensor, n_classes: int) -> Classifier:
    """The encoder with a head that reads the classes off it as it is, so that repair does not begin with chance."""
    from sklearn.linear_model import LogisticRegression

    z = embed(encoder, items)
    model = Classifier(encoder, n_classes).to(pick_device())
    probe = LogisticRegression(max_iter=1000).fit(z, y.numpy())
    weight, bias = torch.tensor(probe.coef_).float(), torch.tensor(probe.intercept_).float()
    if n_classes == 2:  # one row for the second class
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    with torch.no_grad():
        model.head.weight.copy_(weight)
        model.head.bias.copy_(bias)
    return model


# parts ----------------------------------------------------------------------------------------------------------------


def _part(source: Source, items: np.ndarray) -> Source:
    """The source with these items only; nothing that it holds is of any other."""

    def some(values: Any) -> Any:
        return None if values is None else [values[i] for i in items]

    noun = source.shape.get("items", "items")
    return replace(
        source,
        dataset=source.dataset.select(torch.from_numpy(items)),
        uris=some(source.uris),
        hashes=some(source.hashes),
        labels={name: some(values) for name, values in source.labels.items()},
        captions=some(source.captions),
        sizes=None if source.sizes is None else source.sizes[items],
        thumbnails=some(source.thumbnails),
        texts=some(source.texts),
        facts=some(source.facts),
        counted=f"{len(items):,} {noun}" if source.counted else "",
    )


def _drift(vectors: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """How alike an encoder and the retrained one arrange the same items: neighbourhoods and linear CKA."""
    if RETRAINED not in vectors:
        return {}
    found: dict[str, Any] = {}
    for part in ("kept", "forgotten"):
        anew = vectors[RETRAINED][part][:SCORED]
        if len(anew) < 5:
            continue
        k = min(20, len(anew) // 2)
        found[part] = {
            name: {
                "neighbours": _measure(neighbour_stability(of[part][:SCORED], anew, k)),
                "cka": linear_cka(of[part][:SCORED], anew),
            }
            for name, of in vectors.items()
            if name != RETRAINED
        }
    return found


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear centred kernel alignment of two embeddings of the same items: 1 if equal up to rotation and scale.

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, section 3.

    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(linear_cka(x, 2 * x[:, ::-1] + 1), 6)
    1.0
    """
    a, b = (z.astype(np.float64) - z.mean(0, dtype=np.float64) for z in (a, b))
    norms = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(np.linalg.norm(a.T @ b) ** 2 / norms) if norms else 0.0


def _directions(z: np.ndarray) -> np.ndarray:
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


def _measure(score: Any) -> dict[str, float]:
    return {"value": float(score.value), "low": float(score.low), "high": float(score.high), "n": int(score.n)}
