"""The method finder: which of the systems is for what somebody has, and how convincing it is."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tacit import bibliography, catalogue
from tacit.bibliography import Paper
from tacit.catalogue import Entry
from tacit.errors import expect, unknown

VERDICTS = ("holds", "mixed", "unclear", "stale", "not run", "fails", "baseline", "no claim")
"""Of a system, the most convincing first."""
ENCODER = Path(__file__).parent / "weights" / "finder"
"""What reads queries: LSA, trained by `python benchmarks/finder.py train` on our own words and the papers' titles."""

AREAS = {
    "pretrain": "pre-training, self-supervised representation learning: features from data without labels",
    "multimodal": "images and texts together, zero-shot, vision and language, prompts, class names",
    "metric": "metric learning, retrieval, ranking, search, similarity",
    "cluster": "clustering, groups, how many clusters, topics, novel classes, category discovery",
    "fewlabels": "few labels, few-shot, semi-supervised, active learning, what to label next",
    "robust": "robustness, noisy or wrong labels, label noise, adversarial attacks, shortcuts, spurious correlation",
    "adapt": "domain adaptation, distribution shift, new domain, test-time",
    "analysis": "analysis, study, interpretability, what a model has learned, benchmark of models",
    "anomaly": "anomaly, outlier and out-of-distribution detection, defects",
    "unlearn": "machine unlearning, forgetting, removing items, privacy",
    "continual": "continual learning, tasks one after another, streams, catastrophic forgetting",
    "compress": "compression, distillation, pruning, smaller and faster models",
    "transfer": "transfer, fine-tuning, merging and averaging pretrained models",
    "generate": "generation, generative models, diffusion, GAN, new pictures, sampling, density",
    "restore": "restoration, denoising, inpainting, deblurring, super-resolution",
    "curate": "data curation and selection, hyper-parameters, data sets, filtering, cleaning",
    "layers": "layers, initialisation, architecture, filters",
    "applications": "applications to a field",
    "theory": "theory, guarantees, bounds",
    "losses": "loss functions",
}
"""What people call what an area is for."""
MODALITIES = {
    "image": "images pictures photos vision visual",
    "text": "texts documents sentences words language",
    "audio": "sounds audio speech voice recordings",
    "table": "tables tabular data rows columns csv",
    "series": "time series sensors signals",
    "graph": "graphs networks nodes edges",
    "points": "points vectors numbers",
    "features": "features embeddings vectors of an encoder",
    "pairs": "images with captions, image-text pairs",
    "video": "video",
    "any": "",
}
"""What people call a kind of data."""

COMMANDS = {
    "laf": "tacit unlearn RUN items.txt",
    "cpp": "tacit cluster RUN --method cpp",
    "lbl2vec": "tacit label RUN --keywords topics.yaml",
    "bmdal": "tacit suggest RUN --for regression",
    "ddpm": "tacit learn DATA --method ddpm --out made; tacit generate made",
    "freedom": "tacit generate RUN --like picture.jpg",
    "mpgd": "tacit generate RUN --like picture.jpg --method mpgd",
    "ddnm": "tacit restore RUN picture.jpg --task inpaint --mask box",
}
"""Systems behind a command of their own."""
LABELS = ("unem", "laplacian-transductive-clustering", "naive-bayes-probe", "nn-revisit")
"""Probes among which `tacit label` chooses."""

UNLEARNABLE = {"labels", "a few labels", "a teacher network"}
"""Needs that `tacit learn` does not serve: it never sees a label."""

NEEDS = {
    "y": "labels",
    "tasks": "labels",
    "teacher": "a teacher network",
    "pretrained": "a pretrained network",
    "finetuned": "fine-tuned networks",
    "encoders": "encoders to compare",
    "model": "a trained network",
    "ddpm": "a diffusion model",
    "domains": "domains",
    "X_unlabeled": "unlabelled data beside",
    "keywords": "keywords",
    "class_names": "class names",
    "class_embeddings": "class names",
    "label_texts": "texts of the labels",
    "probs": "a classifier's probabilities",
    "text": "captions",
    "forgotten": "items to forget",
    "operator": "how the picture was damaged",
    "energy": "what to aim at",
}
"""A parameter's name -> what a user has to bring for it."""
GIVEN = ("keywords", "class_names", "class_embeddings", "domains", "X_unlabeled")
"""Parameters that have a default for form's sake: scikit-learn asks for one."""
CALLED = ("__init__", "loss", "step", "fit")
"""Methods whose parameters a user fills."""


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim of a paper, and what came of it here."""

    id: str
    says: str
    verdict: str


@dataclass(frozen=True)
class Related:
    """A paper near another; `built` says whether tacit has its system."""

    id: str
    title: str
    year: int | None
    link: str
    built: bool


@dataclass(frozen=True)
class System:
    """A system of the catalogue and its paper, as JSON can hold it (`as_dict`).

    Attributes:
        id, name, area, kind, modality, level: as the catalogue has them; `objects` are all public names with this id.
        summary: what it is for, in our own words.
        needs: what a user has to bring beside data; empty where data alone does.
        verdict: one of `VERDICTS`, over all its claims: holds where some hold and none fails, fails where some fail and
            none holds, mixed where both; unclear, stale, not run; baseline for what has no claim to re-test.
        claims: each claim with its own verdict; stale is what was run before claim or code changed.
        command: what to type, or to write in Python where no command does it.
        title, cited, year, link: of the paper; `verified` says that the link is the paper itself, else it is a search
            for the title.
        lists: reading list -> place in it.
        related: papers near it, by the same encoder that reads queries; empty unless asked for.
        score: how well it answers the query, 1 for the best; None without a query.
    """

    id: str
    name: str
    objects: tuple[str, ...]
    area: str
    kind: str
    modality: tuple[str, ...]
    level: str
    summary: str
    needs: tuple[str, ...]
    verdict: str
    claims: tuple[ClaimVerdict, ...]
    command: str
    title: str
    cited: str
    year: int | None
    link: str
    verified: bool
    paper: str
    lists: Mapping[str, int]
    related: tuple[Related, ...] = ()
    score: float | None = None

    @property
    def held(self) -> int:
        """How many of its claims hold."""
        return sum(claim.verdict == "holds" for claim in self.claims)

    @property
    def verdict_in_words(self) -> str:
        """The verdict, and of how many claims where there are several."""
        several = self.held and len(self.claims) > 1
        return f"{self.verdict}, {self.held} of {len(self.claims)}" if several else self.verdict

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"held": self.held}


def find_systems(
    query: str | None = None,
    *,
    area: str | None = None,
    modality: str | None = None,
    kind: str | None = None,
    level: str | None = None,
    verdict: str | None = None,
    needs: str | None = None,
    k: int | None = None,
    related: int = 0,
    evidence: Sequence[Path] | None = None,
) -> list[System]:
    """The systems that fit, best first: by meaning and words of a query, else the most convincing and newest first.

    Args:
        query: what somebody has and wants, in words: `"few labels, tabular"`.
        area, modality, kind, level, verdict: only systems with these; a modality finds also those that take any.
        needs: only systems that need this (`labels`, also a few); or `nothing`: those that need nothing but data.
        k: how many at most.
        related: so many related papers for each.
        evidence: folders of records; those published with tacit, and ./evidence, if None.

    Raises:
        ArgumentError: an unknown area, modality, kind, level, verdict or need; the nearest is suggested.

    >>> find_systems("few labels, tabular", k=3, evidence=[])[0].modality
    ('table',)
    """
    every = systems(evidence)
    wanted = {"area": area, "modality": modality, "kind": kind, "level": level, "verdict": verdict, "needs": needs}
    for name, value in wanted.items():
        if value is not None:
            _check(name, value, every)
    expect("k", k, k is None or k >= 1, "at least 1")
    found = [one for one in every if _fits(one, wanted)]
    if query is not None and query.strip():
        found = _ranked(query, found)
    else:
        found.sort(key=_convincing)
    found = found[:k]
    if related:
        near = _Index.of_all().related([one.id for one in found], related)
        found = [replace(one, related=near[one.id]) for one in found]
    return found


def choices(every: Iterable[System] | None = None) -> dict[str, list[str]]:
    """The values that each filter takes, for menus.

    >>> choices(systems([]))["kind"]
    ['estimator', 'function', 'learner']
    """
    every = systems() if every is None else list(every)
    found: dict[str, list[str]] = {
        "area": list(dict.fromkeys(one.area for one in every)),
        "modality": sorted({name for one in every for name in one.modality}),
        "kind": sorted({one.kind for one in every}),
        "level": [level for level in catalogue.LEVELS if any(one.level == level for one in every)],
        "verdict": [verdict for verdict in VERDICTS if any(one.verdict == verdict for one in every)],
        "needs": ["nothing", *sorted({need for one in every for need in one.needs})],
    }
    return found


def systems(evidence: Sequence[Path] | None = None) -> list[System]:
    """Every system, one an id, in the order of the catalogue."""
    known = _known(evidence)
    verdicts: dict[str, list[ClaimVerdict]] = {}
    for system, id, says, verdict in known["claims"]:
        verdicts.setdefault(system, []).append(ClaimVerdict(id, says, verdict))
    groups: dict[str, list[Entry]] = {}
    for entry in catalogue.systems():
        groups.setdefault(entry.id, []).append(entry)
    return [_system(entries, verdicts.get(id, ()), known["needs"][id]) for id, entries in groups.items()]


def _system(entries: Sequence[Entry], claims: Sequence[ClaimVerdict], needs: Sequence[str]) -> System:
    first = entries[0]
    paper = paper_of(first)
    link, verified = bibliography.link_of(paper)
    return System(
        id=first.id,
        name=first.name,
        objects=tuple(f"tacit.{entry.area}.{entry.name}" for entry in entries),
        area=first.area,
        kind=first.kind,
        modality=first.modality,
        level=first.level,
        summary=first.summary,
        needs=tuple(needs),
        verdict=sum_up([claim.verdict for claim in claims], first.level),
        claims=tuple(claims),
        command=_command(first, needs),
        title=paper.title,
        cited=paper.cited,
        year=paper.year,
        link=link,
        verified=verified,
        paper=first.paper,
        lists=paper.lists,
    )


def paper_of(entry: Entry) -> Paper:
    """The paper of a system: from the bibliography, or else what its file says in the first line."""
    return bibliography.paper(entry.id) or _unlisted(entry)


def _unlisted(entry: Entry) -> Paper:
    said = (ast.get_docstring(ast.parse(entry.source.read_text(encoding="utf-8"))) or "").split("\n")[0].rstrip(".")
    title = said.rpartition(" (")[0] or said or entry.paper
    kind, _, number = entry.paper.partition(":")
    places = {"arxiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    link = places[kind.lower()] + number if kind.lower() in places else None
    return Paper(entry.id, title, (), None, link, {}, entry.area, entry.modality)


def sum_up(verdicts: Sequence[str], level: str = "method") -> str:
    """One word for a system's claims.

    >>> sum_up(["holds", "unclear"]), sum_up(["holds", "fails"]), sum_up(["unclear", "not run"]), sum_up([])
    ('holds', 'mixed', 'unclear', 'no claim')
    """
    if not verdicts:
        return "baseline" if level == "baseline" else "no claim"
    if "holds" in verdicts or "fails" in verdicts:
        return "mixed" if {"holds", "fails"} <= set(verdicts) else "holds" if "holds" in verdicts else "fails"
    return next(word for word in ("unclear", "stale", "not run") if word in verdicts)


def _command(entry: Entry, needs: Sequence[str]) -> str:
    """What to type, or to write where no command does it."""
    if entry.id in COMMANDS:
        return COMMANDS[entry.id]
    if entry.id in LABELS:
        return "tacit label RUN labels.csv"
    if entry.kind == "learner" and not UNLEARNABLE & set(needs):
        return f"tacit learn DATA --method {entry.id}"
    home = "losses" if entry.kind == "loss" else entry.area
    return f"from tacit.{home} import {entry.name}"


# Filters and order ----------------------------------------------------------------------------------------------------


def _check(name: str, value: str, every: Sequence[System]) -> None:
    known = {"verdict": VERDICTS, "level": catalogue.LEVELS}.get(name) or choices(every)[name]
    if value not in known and not (name == "needs" and any(value in need for need in known)):
        raise unknown(name, value, known)


def _fits(one: System, wanted: Mapping[str, str | None]) -> bool:
    modality, needs = wanted["modality"], wanted["needs"]
    same = all(wanted[name] in (None, getattr(one, name)) for name in ("area", "kind", "level", "verdict"))
    takes = modality is None or bool({modality, "any"} & set(one.modality))
    if needs == "nothing":
        return same and takes and not one.needs
    return same and takes and (needs is None or any(needs in need for need in one.needs))


def _convincing(one: System) -> tuple[int, float, int, str]:
    """By verdict, by the share of claims that hold, then the newest first."""
    return VERDICTS.index(one.verdict), -one.held / max(len(one.claims), 1), -(one.year or 0), one.id


# What a system needs, from its syntax tree ----------------------------------------------------------------------------


@cache
def needs_of(entry: Entry) -> tuple[str, ...]:
    """What a user has to bring beside data, by the parameters that its class or function asks for.

    >>> needs_of(catalogue.find("dcl")), needs_of(catalogue.find("dhkd")), needs_of(catalogue.find("pouf"))
    ((), ('a teacher network', 'labels'), ('captions', 'class names'))
    """
    asked = _asked(entry)
    found = [NEEDS[name] for name in asked if name in NEEDS]
    if "features" in entry.modality and len(entry.modality) == 1:
        found.insert(0, "features of an encoder")
    if entry.area == "fewlabels" and "labels" in found and entry.level != "baseline":
        found[found.index("labels")] = "a few labels"
    if "pairs" in entry.modality and "captions" not in found:
        found.insert(0, "captions")
    return tuple(dict.fromkeys(found))


def _asked(entry: Entry) -> list[str]:
    """Names of the parameters that a user fills: those without a default, and `GIVEN`."""
    node = _classes(entry.source).get(entry.name)
    if isinstance(node, ast.FunctionDef):
        return _parameters(node)
    methods: dict[str, ast.FunctionDef] = {}
    for owner in _family(entry):
        for method in owner.body:
            if isinstance(method, ast.FunctionDef) and method.name in CALLED:
                methods.setdefault(method.name, method)  # the nearest one hides those that it inherits
    return [name for method in CALLED if method in methods for name in _parameters(methods[method])]


def _parameters(node: ast.FunctionDef) -> list[str]:
    positional = [*node.args.posonlyargs, *node.args.args]
    no_default = len(positional) - len(node.args.defaults)
    asked = [one.arg for i, one in enumerate(positional) if i < no_default or one.arg in GIVEN]
    keywords = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return asked + [one.arg for one, default in keywords if default is None or one.arg in GIVEN]


def _family(entry: Entry) -> Iterator[ast.ClassDef]:
    """The class, and those of its file or of other systems that it inherits from, nearest first."""
    open_, seen = [(entry.name, entry.source)], set[str]()
    while open_:
        name, source = open_.pop(0)
        node = _classes(source).get(name)
        if name in seen or not isinstance(node, ast.ClassDef):
            continue
        seen.add(name)
        yield node
        for base in node.bases:
            word = ast.unparse(base).split(".")[-1]
            home = source if word in _classes(source) else _home(word)
            if home is not None:
                open_.append((word, home))


def _home(name: str) -> Path | None:
    return next((entry.source for entry in catalogue.systems() if entry.name == name), None)


@cache
def _classes(source: Path) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    tree = ast.parse(source.read_text(encoding="utf-8"), filename=str(source))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


# Verdicts and needs, which are kept -----------------------------------------------------------------------------------


def _known(evidence: Sequence[Path] | None) -> dict[str, Any]:
    """`claims`: all of them, with the verdicts that `tacit claims show` gives; and what each system `needs`.

    Whether a record still speaks for the code takes seconds to find out, and what a system needs another, so the answer
    is kept in the user's cache until a file of tacit or of the evidence changes.
    """
    folders = _folders(evidence)
    key, place = _stamp(folders), _kept_at()
    known = _kept(place)
    if known.get("key") != key:
        needs = {id: needs_of(entry) for id, entry in catalogue.by_id().items()}
        known = {"key": key, "claims": _look_up(folders), "needs": needs}
        _keep(place, known)
    return known


def is_known(evidence: Sequence[Path] | None = None) -> bool:
    """Whether the answer is kept, so that `systems` takes no seconds."""
    return _kept(_kept_at()).get("key") == _stamp(_folders(evidence))


def _folders(evidence: Sequence[Path] | None) -> list[Path]:
    from tacit.claims._evidence import EVIDENCE, published

    return [published(), EVIDENCE] if evidence is None else list(evidence)


def _look_up(folders: Sequence[Path]) -> list[list[str]]:
    from tacit.claims._evidence import standings
    from tacit.claims._found import find_claims
    from tacit.claims._marks import Claim

    claims = [found for found in find_claims() if isinstance(found.mark, Claim)]
    return [[one.found.system, one.found.id, one.found.mark.says, one.verdict] for one in standings(claims, folders)]


def _stamp(folders: Sequence[Path]) -> str:
    """Changes with any source file of the catalogue or of the shared parts, and with any record."""
    root = Path(__file__).parent
    sources = {*root.rglob("*.py"), *(entry.source for entry in catalogue.systems())}
    records = {path for folder in folders for path in folder.resolve().glob("*.jsonl")}
    digest = hashlib.sha256()
    for path in sorted(sources | records):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _kept_at() -> Path:
    from tacit.data._cache import cache_folder

    return cache_folder() / "claims" / "verdicts-2.json"


def _kept(place: Path) -> dict[str, Any]:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _keep(place: Path, known: Mapping[str, Any]) -> None:
    """A shortcut only: where it cannot be written, the next call looks again."""
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(json.dumps(known), encoding="utf-8")
        draft.replace(place)
    except OSError:
        draft.unlink(missing_ok=True)


# Search ---------------------------------------------------------------------------------------------------------------


def words_of(id: str) -> str:
    """All that is searched of a system or paper: title, our own words, what its area and data are called.

    >>> "tabular" in words_of("pfn")
    True
    """
    entries = [entry for entry in catalogue.systems() if entry.id == id]
    paper = bibliography.paper(id) or _unlisted(entries[0])
    area, modality = (entries[0].area, entries[0].modality) if entries else (paper.area, paper.modality)
    said = [id.replace("-", " "), paper.title, *(entry.name for entry in entries)]
    said += [prose for entry in entries for prose in _prose(entry)]
    said += [AREAS.get(area, ""), *(MODALITIES.get(name, name) for name in modality)]
    said += [need for entry in entries[:1] for need in needs_of(entry)]
    said += [claim.says for claim in _says(id)]
    return "\n".join(part for part in said if part)


EMPTY = """
a about after all also an and any are as at be because been but by can could do does each for from had has have
here how i if in into is it its just like many me mine more most my no not of on one only or other our out over
own same should so some somebody such than that the their them then there these they this those to too under up
us very was we were what when where which while who why will with without would you your
"""
"""Words that say nothing of what a text is about."""
ENDINGS = ("ations", "ation", "ings", "ing", "ies", "ied", "ed", "es", "s", "e", "y")


def stems(text: str) -> str:
    """The words of a text that say what it is about, without their endings, so that `clustering` finds `clusters`.

    >>> stems("Which of my pictures should I label next?")
    'pictur label next'
    """
    from tacit.nn._words import split_words

    empty = set(EMPTY.split())
    return " ".join(_stem(word) for word in split_words(text) if word not in empty)


def _stem(word: str) -> str:
    """A crude one: the longest ending is cut that leaves four letters."""
    ending = next((end for end in ENDINGS if word.endswith(end) and len(word) - len(end) >= 4), "")
    return word.removesuffix(ending)


def _prose(entry: Entry) -> Iterator[str]:
    """The sentences of a docstring: neither equations, which are set in, nor sections and examples."""
    node = _classes(entry.source).get(entry.name)
    document = (ast.get_docstring(node) if node else None) or ""
    for paragraph in document.split("\n\n"):
        if paragraph.startswith(("Args:", "Attributes:", "Returns:", "Raises:", ">>>", "Source:")):
            return
        if not paragraph.startswith(" "):
            yield paragraph


def _says(id: str) -> list[Any]:
    from tacit.claims._found import read_claims
    from tacit.claims._marks import Claim

    entry = next((entry for entry in catalogue.systems() if entry.id == id), None)
    return [found.mark for found in read_claims(entry) if isinstance(found.mark, Claim)] if entry else []


class _Index:
    """Texts of systems or papers, to be searched by meaning (LSA) and by words (BM25)."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids, self.texts = list(ids), [stems(words_of(id)) for id in ids]

    @staticmethod
    @cache
    def of_all() -> _Index:
        """Of every paper, and every system whose paper is not listed."""
        listed = bibliography.papers()
        return _Index([*listed, *(id for id in catalogue.by_id() if id not in listed)])

    def meaning(self, query: str) -> Any:
        """Cosines (n,); all 0 where the encoder knows none of the words."""
        return self._vectors() @ _unit(_encode([stems(query)]))[0]

    def words(self, query: str) -> Any:
        """BM25's scores (n,)."""
        return self._ranker().score_samples([stems(query)])[0]

    def both(self, query: str) -> Any:
        """The mean of the two, each divided by its greatest: 1 for what is first in both."""
        found = (self.meaning(query), self.words(query))
        return sum(scores.clip(0) / max(float(scores.max()), 1e-9) for scores in found) / len(found)

    def related(self, ids: Sequence[str], k: int) -> dict[str, tuple[Related, ...]]:
        """The papers nearest to each of these, other than itself."""
        import numpy as np

        vectors, place = self._vectors(), {id: number for number, id in enumerate(self.ids)}
        built = set(catalogue.by_id())
        found = {}
        for id in ids:
            near = [int(i) for i in np.argsort(-(vectors @ vectors[place[id]]), kind="stable") if self.ids[i] != id]
            found[id] = tuple(_related(self.ids[i], built) for i in near[:k])
        return found

    @cache  # noqa: B019  # two or three are ever made
    def _vectors(self) -> Any:
        return _unit(_encode(self.texts))

    @cache  # noqa: B019
    def _ranker(self) -> Any:
        from tacit.metric import BM25

        return BM25().fit(self.texts)


def _ranked(query: str, found: Sequence[System]) -> list[System]:
    """Those that have something to do with the query, best first."""
    index = _Index.of_all()
    score = dict(zip(index.ids, index.both(query).tolist(), strict=True))
    exact = query.strip().lower()
    there = [replace(one, score=1.0 if one.id == exact else score[one.id]) for one in found]
    return sorted((one for one in there if one.score), key=lambda one: (-(one.score or 0), *_convincing(one)))


def _related(id: str, built: set[str]) -> Related:
    paper = bibliography.paper(id) or paper_of(catalogue.find(id))
    return Related(id, paper.title, paper.year, bibliography.link_of(paper)[0], id in built)


def _encode(texts: Sequence[str]) -> Any:
    import torch

    encoder = _encoder()
    with torch.no_grad():
        return encoder(encoder.prepare(list(texts))).numpy()


@cache
def _encoder() -> Any:
    from tacit.nn import ItemEncoder

    return ItemEncoder.from_pretrained(ENCODER)


def _unit(vectors: Any) -> Any:
    import numpy as np

    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
