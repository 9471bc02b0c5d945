"""report.html: one self-contained page about a run, made from the run's files alone.

It is made from config.json, metrics.jsonl, summary.json, skipped.csv, items.lance and the contact sheets in generated/;
nothing is computed from the data or the encoder again. Whatever is missing is said to be missing, so that a page comes
out of every run.

summary.json, format 1. Every key but `format` may be absent; a *measure* is `{"value", "low", "high"}` or a number.

    format       1
    title        headline
    made         ISO time
    data         where, n, skipped, modality, noun (what one item is called), channels, image_size,
                 lines: [sentence on what was found]
    method       id, name, paper, summary
    model        name, dim, parameters
    training     steps, batch_size, epochs, seconds, images_per_second, device, threads, precision, seed,
                 closed_form: bool, kept: "last step" or "last healthy checkpoint at step N",
                 changes: [{setting, paper, here, reason}];
                 the whole of it absent where nothing was trained (`tacit embed`)
    health       word, reason, effective_rank: measure
    neighbours   trained, raw: measures in [0, 1]: share of views whose nearest item is their original
    clusters     n, range: [low, high], stability: measure, one_cloud: bool (no separate groups; cut into n parts),
                 per_cluster: [{cluster, name: typical words, size, stability: measure,
                                items: [item numbers of its contact sheet]}]
    duplicates   [{items: [item numbers], similarity, exact: bool}]
    untypical    [item numbers, the least typical first]
    neighbour_examples  [{item, neighbours: [{item, score}]}]
    labels       null, or [{name, source, classes, rows: [{encoder, knn: measure + n, linear: measure + n}],
                 uses: [sentence, or {part, purpose or by, at}]}];
                 encoder is trained, untrained, pixels, whitened PCA or patch k-means
    next         [command to type]
    thumbnails   false where the page was last asked for without pictures, and so stays
    versions     name -> version

metrics.jsonl holds lines of steps, `{step, loss, lr, time}`, and of looks, `{step, look: true, effective_rank,
effective_rank_low, effective_rank_high, alignment, uniformity, neighbour_stability, held_out_loss, word, reason}`.
Labels that colour the map come from the items' `meta`: `{"labels": {name: value}}`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tacit.checkpoints import plain_errors, write_json
from tacit.errors import RunError
from tacit.report import _words as words
from tacit.report._curves import charts, word_strip
from tacit.report._files import Run, listed, measure, number, open_items, part, read_run, whole
from tacit.report._generated import answers, generated
from tacit.report._pictures import data_uri, size_of, snippet
from tacit.report._points import colour, points
from tacit.store import Items

LARGEST = 20_000_000
"""Bytes of the page at most; pictures are left out until it fits."""
CLUSTERS, GROUPS, GROUP, UNTYPICAL, EXAMPLES, NEIGHBOURS, CHANGES, REASONS = 60, 40, 8, 48, 12, 8, 60, 20
TEXTS, TEXT_NEIGHBOURS, TEXT_UNTYPICAL = 6, 4, 12
"""Of a cluster, of a neighbourhood and of the least typical, where items are shown as texts, which take more room."""


@dataclass(frozen=True)
class Budget:
    """How many pictures a page holds: on the map, and on the contact sheet of each cluster."""

    sprites: int
    per_cluster: int


BUDGETS = (Budget(3000, 24), Budget(1500, 16), Budget(600, 8), Budget(150, 4), Budget(0, 0))


def write_report(run_folder: str | os.PathLike[str], *, thumbnails: bool | None = None) -> Path:
    """Write report.html into a run folder: one file that needs no network, of at most 20 MB.

    It gets its name when it is whole; an older one is replaced.

    Args:
        run_folder: a finished run, of `tacit learn` or `tacit embed`.
        thumbnails: False leaves all pictures out, so that the page shows file names and figures only. It stays so
            until True is asked for: None is as it was last time, with pictures the first time.

    Returns:
        Path of the page.

    Raises:
        RunError: the folder is no finished run, or cannot be written.
    """
    run = read_run(Path(run_folder))
    items = open_items(run)
    before = run.summary.get("thumbnails") is not False
    pictures = before if thumbnails is None else thumbnails
    if pictures != before:  # first, so that a kill leaves no page that a later command fills with pictures
        with plain_errors(run.folder):
            write_json(run.folder / "summary.json", {**run.summary, "thumbnails": pictures})
    for budget in BUDGETS if pictures else BUDGETS[-1:]:
        page = render(run, items, budget).encode("utf-8", "replace")
        if len(page) <= LARGEST:
            break
    return write_whole(run.folder / "report.html", page)


def render(run: Run, items: Items, budget: Budget) -> str:
    """The page as text."""
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader

    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": words.figure,
        "percent": words.percent,
        "interval": words.interval,
        "count": words.count,
        "several": words.several,
        "duration": words.duration,
        "moment": words.moment,
        "tidy": words.tidy,
        "measure": measure,
        "encoder_name": words.encoder_name,
    }
    script = (here / "script.js").read_text(encoding="utf-8")
    return environment.get_template("template.html").render(
        style=Markup((here / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **view(run, items, budget),
    )


def view(run: Run, items: Items, budget: Budget) -> dict[str, Any]:
    """All that the template shows, by name."""
    summary = run.summary
    sheets = _cluster_list(summary, budget.per_cluster)
    groups = _groups(summary)
    untypical = listed(summary.get("untypical"))[:UNTYPICAL]
    examples = _examples(summary)
    named = [item for sheet in sheets for item in sheet["items"]]
    named += [item for group in groups for item in group["items"]] + untypical
    named += [
        item for example in examples for item in (example["item"], *(near["item"] for near in example["neighbours"]))
    ]
    noun = words.noun(summary)
    gallery = Gallery(items, named, noun, pictures=budget.sprites > 0)
    if gallery.texts:
        sheets = [{**sheet, "items": sheet["items"][:TEXTS]} for sheet in sheets]
        examples = [{**one, "neighbours": one["neighbours"][:TEXT_NEIGHBOURS]} for one in examples]
        untypical = untypical[:TEXT_UNTYPICAL]
    image = part(summary, "data").get("modality", "image") == "image"
    map_data = points(
        items,
        budget.sprites,
        noun=noun,
        names={sheet["cluster"]: words.excerpt(sheet["words"], 48) for sheet in sheets},
        texts=budget.sprites > 0,
        whole=not image,
    )
    return {
        "made": words.moment(summary["made"]) if summary.get("made") else "",
        "title": words.tidy(summary.get("title") or run.folder.resolve().name, 160),
        "n": len(items),
        "noun": noun,
        "nouns": words.several(noun),
        "left_out": words.left_out(summary),
        "pictures": budget.sprites > 0,
        "layout": "as-texts" if gallery.texts else "" if image else gallery.layout,
        "lede": _lede(summary, len(items), noun),
        "health": _health(summary),
        "retrieval": _retrieval(summary),
        "clusters": _clusters(summary, sheets),
        "notices": _notices(run),
        "commands": [words.tidy(command, 400) for command in listed(summary.get("next"))[:6]],
        "map": map_data,
        "map_json": embedded(map_data) if map_data else None,
        "sheets": [{**sheet, "items": gallery.all(sheet["items"])} for sheet in sheets],
        "groups": [{**group, "items": gallery.all(group["items"])} for group in groups],
        "groups_all": len(listed(summary.get("duplicates"))),
        "untypical": gallery.all(untypical),
        "examples": _pictured(examples, gallery),
        "labels": [_label_set(label, summary) for label in listed(summary.get("labels")) if isinstance(label, Mapping)],
        "generated": generated(run.folder, pictures=budget.sprites > 0),
        "answers": answers(run.folder, pictures=budget.sprites > 0),
        "charts": charts(run),
        "strip": word_strip(run.looks),
        "about": words.tidy(part(summary, "method").get("summary") or "", 600),
        "facts": _facts(summary),
        "changes": [change for change in listed(part(summary, "training").get("changes")) if part(change)][:CHANGES],
        "settings": _settings(run.config),
        "where": words.tidy(part(summary, "data").get("where") or "", 160),
        "lines": [words.tidy(line, 300) for line in listed(part(summary, "data").get("lines"))[:30]],
        "versions": " · ".join(words.tidy(f"{k} {v}", 60) for k, v in part(summary, "versions").items()),
        "skipped": run.skipped,
        "reasons": run.skipped.reasons[:REASONS],
        "reasons_more": run.skipped.reasons[REASONS:],
        "closed_form": bool(part(summary, "training").get("closed_form")),
        "trained": bool(part(summary, "training")),
    }


class Gallery:
    """The pictures and names of the items that the page shows one by one.

    Attributes:
        texts: whether most of them are texts.
        layout: how pictures that are to be seen whole are laid out; "" where there are none.
    """

    def __init__(self, items: Items, named: Iterable[object], noun: str, *, pictures: bool) -> None:
        known = set(items.column("item").tolist())  # type: ignore[union-attr]
        wanted = sorted({item for item in named if isinstance(item, int)} & known)
        columns = ["item", "uri", "thumbnail"] if pictures else ["item", "uri"]
        rows = items.rows(wanted, columns)
        self._shown = {row["item"]: _picture(row, noun) for row in rows}
        shown = self._shown.values()
        self.texts = 2 * sum(one["src"] is None and bool(one["text"]) for one in shown) > len(shown)
        sizes = [size for row in rows if (size := size_of(row.get("thumbnail", b"")))]
        wide = bool(sizes) and max(w for w, _ in sizes) > 1.5 * max(h for _, h in sizes)
        self.layout = ("as-drawn as-wide" if wide else "as-drawn") if sizes else ""

    def all(self, items: Iterable[object]) -> list[dict[str, Any]]:
        """Those of the items that exist."""
        return [self._shown[item] for item in items if item in self]

    def __contains__(self, item: object) -> bool:
        return isinstance(item, int) and item in self._shown


def embedded(content: object) -> Markup:
    """JSON that cannot end the script element it stands in, nor be read as anything but JSON.

    >>> print(embedded("</script>&\\u2028"))
    "\\u003c/script\\u003e\\u0026\\u2028"
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))  # ensure_ascii escapes U+2028 and surrogates
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file that gets its name when it is whole.

    Raises:
        RunError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:  # and not by tempfile, which leaves the umask out
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def _picture(row: Mapping[str, Any], noun: str) -> dict[str, Any]:
    thumbnail = row.get("thumbnail", b"")
    text = snippet(thumbnail)
    width, height = size_of(thumbnail) or (64, 64)
    return {
        "item": row["item"],
        "name": words.item_name(row["uri"], noun) or f"{noun} {row['item']}",
        "full": words.tidy(row["uri"], 300),
        "src": data_uri(thumbnail),
        "width": width,
        "height": height,
        "text": words.excerpt(text) if text else None,
    }


def _lede(summary: Mapping[str, Any], n: int, noun: str) -> str:
    method, training = part(summary, "method"), part(summary, "training")
    who = words.tidy(method.get("name") or "an encoder", 60)
    seen = words.count(n, noun)
    if not training:
        encoder = words.tidy(part(summary, "model").get("name") or who, 60)
        return f"{seen}, seen through {encoder} as it came: nothing was trained."
    spent = number(training.get("seconds"))
    took = f" in {words.duration(spent)}" if spent is not None else ""
    if training.get("closed_form"):
        return f"{seen}, learned from without labels by {who}, which was solved in one pass{took}."
    return f"{seen}, learned from without labels by {who}{took}."


def _health(summary: Mapping[str, Any]) -> dict[str, Any]:
    word = words.health_word(summary)
    rank, dim = measure(part(summary, "health").get("effective_rank")), whole(part(summary, "model").get("dim"))
    return {
        "word": word,
        "tone": words.tone(word),
        "reason": words.tidy(part(summary, "health").get("reason") or "", 300),
        "advice": words.health_advice(word),
        "words": words.rank_words(summary),
        "rank": rank,
        "dim": dim,
        "gauge": {key: _log_share(rank[key], dim) for key in rank} if rank and dim > 1 else None,
    }


def _log_share(value: float, dim: int) -> float:
    """Place of a rank between 1 and dim, in percent of a logarithmic axis."""
    return round(100 * math.log(min(max(value, 1), dim)) / math.log(dim), 2)


def _retrieval(summary: Mapping[str, Any]) -> dict[str, Any]:
    """How well views are found again, or else, where there are labels, how often the nearest items tell them."""
    tone, said = words.retrieval_words(summary)
    found = {name: measure(part(summary, "neighbours").get(name)) for name in ("trained", "raw")}
    what, other, known = "of views found again", "raw input", words.labelled(summary)
    if found["trained"] is None and known is not None:
        name, trained, best = known
        found = {"trained": trained, "raw": None}
        what = f"right about “{name}” by the nearest others"
        if best is not None:
            found["raw"], other = best[1], words.encoder_name(best[0])
            rows = [{"encoder": "trained", "knn": trained}, {"encoder": best[0], "knn": best[1]}]
            tone = (words.verdict(rows, "knn", "") or (tone,))[0]
    return {**found, "tone": tone, "words": said, "what": what, "other": other}


def _clusters(summary: Mapping[str, Any], sheets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    clusters = part(summary, "clusters")
    ends = [whole(end) for end in listed(clusters.get("range"))[:2]]
    total = sum(sheet["size"] for sheet in sheets) or 1
    return {
        "n": whole(clusters.get("n")),
        "one_cloud": clusters.get("one_cloud") is True,
        "range": ends if len(ends) == 2 and ends[0] < ends[1] else None,
        "stability": measure(clusters.get("stability")),
        "words": words.cluster_words(summary),
        "strip": [(sheet["colour"], round(100 * sheet["size"] / total, 2), sheet["name"]) for sheet in sheets],
        "all": len(listed(clusters.get("per_cluster"))),
    }


def _cluster_list(summary: Mapping[str, Any], per_cluster: int) -> list[dict[str, Any]]:
    given = [sheet for sheet in listed(part(summary, "clusters").get("per_cluster")) if isinstance(sheet, Mapping)]
    n = whole(part(summary, "data").get("n")) or sum(whole(sheet.get("size")) for sheet in given)
    return [
        {
            "cluster": whole(sheet.get("cluster")),
            "name": f"Cluster {whole(sheet.get('cluster'))}",
            "words": words.tidy(sheet.get("name") or "", 90),
            "colour": colour(whole(sheet.get("cluster"))),
            "size": whole(sheet.get("size")),
            "share": whole(sheet.get("size")) / n if n else None,
            "stability": measure(sheet.get("stability")),
            "items": listed(sheet.get("items"))[: per_cluster or 24],
        }
        for sheet in given[:CLUSTERS]
    ]


def _groups(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = [group for group in listed(summary.get("duplicates")) if isinstance(group, Mapping)]
    return [
        {
            "items": listed(group.get("items"))[:GROUP],
            "more": max(0, len(listed(group.get("items"))) - GROUP),
            "exact": bool(group.get("exact")),
            "similarity": number(group.get("similarity")),
        }
        for group in given[:GROUPS]
    ]


def _examples(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = [example for example in listed(summary.get("neighbour_examples")) if isinstance(example, Mapping)]
    return [
        {
            "item": example.get("item"),
            "neighbours": [
                {"item": near.get("item"), "score": number(near.get("score"))}
                for near in listed(example.get("neighbours"))[:NEIGHBOURS]
                if isinstance(near, Mapping)
            ],
        }
        for example in given[:EXAMPLES]
    ]


def _pictured(examples: Sequence[Mapping[str, Any]], gallery: Gallery) -> list[dict[str, Any]]:
    return [
        {
            "query": gallery.all([example["item"]])[0],
            "neighbours": [
                {**gallery.all([near["item"]])[0], "score": near["score"]}
                for near in example["neighbours"]
                if near["item"] in gallery
            ],
        }
        for example in examples
        if example["item"] in gallery
    ]


def _notices(run: Run) -> list[tuple[str, str]]:
    """What a reader should know before anything else: tone and sentence."""
    summary, found = run.summary, []
    kept = str(part(summary, "training").get("kept") or "last step")
    if kept != "last step":
        found.append(
            ("bad", f"The training collapsed, so the model kept is not the last step's but the {words.tidy(kept)}.")
        )
    method = str(part(summary, "method").get("id"))
    for label in listed(summary.get("labels")):
        for score in ("knn", "linear"):
            said = words.verdict(part(label).get("rows"), score, method)
            if said and said[0] == "bad":
                name = words.tidy(part(label).get("name") or "label", 40)
                found.append(("bad", f"Measured against the label “{name}”: {said[1][0].lower()}{said[1][1:]}"))
    if run.skipped.n:
        lost = words.count(run.skipped.n, words.left_out(summary))
        found.append(("calm", f"{lost} could not be used; the reasons are at the end."))
    return found


def _label_set(label: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    method = str(part(summary, "method").get("id"))
    rows = [row for row in listed(label.get("rows")) if isinstance(row, Mapping)]
    rows = [row for row in rows if words.SAME_METHOD.get(str(row.get("encoder"))) != method]
    return {
        "name": words.tidy(label.get("name") or "label", 60),
        "source": words.tidy(label.get("source") or "", 120),
        "classes": whole(label.get("classes")),
        "rows": [
            {
                "encoder": str(row.get("encoder")),
                "scores": [
                    (score, measure(row.get(score)), whole(part(row, score).get("n"))) for score in ("knn", "linear")
                ],
            }
            for row in rows
        ],
        "verdicts": [said for score in ("knn", "linear") if (said := words.verdict(rows, score, method))],
        "uses": [_use(use) for use in listed(label.get("uses"))],
    }


def _use(use: object) -> str:
    if not isinstance(use, Mapping):
        return words.tidy(use, 200)
    who = words.tidy(use.get("purpose") or use.get("by") or "unknown purpose", 120)
    half = f"part “{words.tidy(use['part'], 40)}”: " if use.get("part") else ""
    return f"{half}{who}" + (f" ({words.moment(use['at'])})" if use.get("at") else "")


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was done, as pairs of word and value; what is not known is left out."""
    method, model, training, data = (part(summary, name) for name in ("method", "model", "training", "data"))
    parameters, noun = whole(model.get("parameters")), words.noun(summary)
    length = []
    if not training.get("closed_form") and whole(training.get("steps")):
        length.append(f"{words.count(training['steps'], 'step')} of {words.count(training.get('batch_size'), noun)}")
        if number(training.get("epochs")) is not None:
            length.append(f"{words.figure(training['epochs'])} epochs")
    spent = [words.duration(training["seconds"])] if number(training.get("seconds")) is not None else []
    if number(training.get("images_per_second")) is not None:
        spent.append(f"{words.count(round(training['images_per_second']), noun)} a second")
    machine = [str(training[key]) for key in ("device", "precision") if training.get(key)]
    if whole(training.get("threads")):
        machine.insert(1, words.count(training["threads"], "thread"))
    size = whole(data.get("image_size"))
    pairs = [
        ("Method", str(method.get("name") or "")),
        ("Paper", str(method.get("paper") or "")),
        (
            "Model",
            ", ".join([str(model["name"])] + [words.count(parameters, "parameter")] * bool(parameters))
            if model.get("name")
            else "",
        ),
        (
            "Vectors",
            f"{words.count(model['dim'], 'number')} for each {noun}" if whole(model.get("dim")) else "",
        ),
        ("Input", f"{size} × {size} pixels, {words.count(data.get('channels'), 'channel')}" if size else ""),
        ("Length", ", ".join(length)),
        ("Time", ", ".join(spent)),
        ("Machine", ", ".join(machine)),
        ("Seed", str(training["seed"]) if training.get("seed") is not None else ""),
        ("Kept", str(training.get("kept") or "")),
    ]
    return [(name, words.tidy(value, 160)) for name, value in pairs if value]


def _settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """config.json, flat, as `a.b` and its value."""
    found: list[tuple[str, str]] = []

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, Mapping) and value and len(found) < 300:
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else str(name), inner)
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            found.append((words.tidy(prefix, 80), words.tidy(shown, 200)))

    walk("", config)
    return found if config else []
