"""README.md of a run: the model card that the Hugging Face hub shows, written for whoever finds the folder later."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tacit.report import _words as words
from tacit.report._files import listed, measure, part, read_run, whole
from tacit.report._page import write_whole

MARK = re.compile(r"\n<!-- written by tacit, ([0-9a-f]{64}); once edited, it is yours and left alone -->\n\Z")


def write_card(run_folder: str | os.PathLike[str]) -> Path | None:
    """Write README.md into a run folder: what it is, from what data, how to load it, its figures and its limits.

    A card that was edited, or that tacit did not write, is left as it is. A last line with the hash of the rest tells.

    Args:
        run_folder: a finished run, of `tacit learn` or `tacit embed`.

    Returns:
        Path of the card, or None if there is one that is the user's.

    Raises:
        RunError: the folder is no finished run, or cannot be written.
    """
    run = read_run(Path(run_folder))
    path = run.folder / "README.md"
    if path.exists() and not _is_ours(path):
        return None
    text = card(run.summary, run.folder.resolve().name, run.skipped.n)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return write_whole(
        path, f"{text}\n<!-- written by tacit, {digest}; once edited, it is yours and left alone -->\n".encode()
    )


def _is_ours(path: Path) -> bool:
    text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
    mark = MARK.search(text)
    return mark is not None and hashlib.sha256(text[: mark.start()].encode()).hexdigest() == mark.group(1)


def card(summary: Mapping[str, Any], name: str, skipped: int = 0) -> str:
    """The card as Markdown with a YAML header, from what summary.json says (its keys: `tacit.report._page`)."""
    title = _plain(summary.get("title") or name)
    parts = [_header(summary), f"# {title}", _what(summary), _data(summary, skipped), _load(summary), _figures(summary)]
    parts += [_limits(summary), _owner(summary)]
    return "\n\n".join(text for text in parts if text) + "\n"


def _header(summary: Mapping[str, Any]) -> str:
    import yaml

    method = part(summary, "method")
    image = part(summary, "data").get("modality", "image") == "image"
    tags = ["tacit", "self-supervised-learning", "feature-extraction"]
    tags += [words.tidy(method["id"], 60)] if method.get("id") else []
    paper = str(method.get("paper")).lower()
    tags += [paper] if re.fullmatch(r"arxiv:\d{4}\.\d{4,5}", paper) else []  # the hub links it so
    header = {
        "library_name": "tacit",
        "pipeline_tag": "image-feature-extraction" if image else "feature-extraction",
        "tags": tags,
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---"


def _what(summary: Mapping[str, Any]) -> str:
    method, model, training, data = (part(summary, key) for key in ("method", "model", "training", "data"))
    dim, parameters, size = whole(model.get("dim")), whole(model.get("parameters")), whole(data.get("image_size"))
    encoder = _plain(model.get("name") or "An encoder")
    shape = f", {words.count(parameters, 'parameter')}" if parameters else ""
    seen = f"{words.noun(summary)} of {size} × {size} pixels" if size else words.noun(summary)
    found = f"**{encoder}**{shape}: turns each {seen} into {words.count(dim, 'number')}."
    if not training:
        return f"{found} It was taken as it came; nothing was trained in this run."
    how = f"It learned from unlabelled data by {_plain(method.get('name') or 'an unnamed method')}"
    how += f" ({_plain(method['paper'])})" if method.get("paper") else ""
    if training.get("closed_form"):
        return f"{found} {how}, which is solved in closed form."
    spent = f", {words.count(training.get('steps'), 'step')} in {words.duration(training.get('seconds'))}"
    where = f" on {_plain(training['device'])}" if training.get("device") else ""
    start = f", starting from {_code(training['init'])}" if training.get("init") else ""
    return f"{found} {how}{spent}{where}{start}."


def _data(summary: Mapping[str, Any], skipped: int) -> str:
    data = part(summary, "data")
    where = f" from {_code(data['where'])}" if data.get("where") else ""
    lost = f"; {words.count(skipped, words.left_out(summary))} could not be used (skipped.csv)" if skipped else ""
    lines = [f"- {_plain(line, 300)}" for line in listed(data.get("lines"))[:20]]
    found = words.count(data.get("n"), words.noun(summary))
    return "\n".join(["## Data", "", f"{found}{where}{lost}.", *([""] if lines else []), *lines])


QUERIES = {"image": ("query.jpg", "query.jpg"), "text": ("a few words", "'a few words'"), "audio": ("query.wav",) * 2}
"""Kind of data -> what may be searched for, in Python and at the prompt; of others, items of the run."""


def _load(summary: Mapping[str, Any]) -> str:
    dim = whole(part(summary, "model").get("dim"))
    modality = str(part(summary, "data").get("modality", "image"))
    said, typed = QUERIES.get(modality, (None, "--item 0"))
    query = f'"{said}"' if said else "0"
    form = " --to onnx" if modality == "image" else ""
    return f"""## Use

```python
import tacit

run = tacit.load("this/folder")
vectors = tacit.embed(run.encoder, "more/data")  # (n, {dim}) array
hits = run.search({query}, k=10)
```

```sh
tacit embed this/folder more/data --out more/
tacit search this/folder {typed}
tacit export this/folder{form}
```

Weights are safetensors, settings are JSON; loading runs no code from this folder. `report.html` is the full report."""


def _figures(summary: Mapping[str, Any]) -> str:
    health, near, clusters = part(summary, "health"), part(summary, "neighbours"), part(summary, "clusters")
    rows = []
    if health.get("word"):
        rows.append(("Health", _plain(health["word"])))
    if measure(health.get("effective_rank")):
        rows.append(
            (
                "Effective rank",
                f"{words.interval(health['effective_rank'])} of {words.figure(part(summary, 'model').get('dim'))}",
            )
        )
    for key, who in (("trained", "this encoder"), ("raw", "raw input")):
        if measure(near.get(key)):
            rows.append((f"Views found again, {who}", words.interval(near[key], share=True)))
    if whole(clusters.get("n")):
        stable = f", stability {words.interval(clusters['stability'])}" if measure(clusters.get("stability")) else ""
        rows.append(("Clusters", f"{words.figure(clusters['n'])}{stable}"))
    text = (
        "## Figures\n\nWith 95 % intervals; none of these needs a label.\n\n" + _table(("Measure", "Value"), rows)
        if rows
        else ""
    )
    for label in listed(summary.get("labels")):
        text += _label_figures(part(label), str(part(summary, "method").get("id")))
    return text.strip()


def _label_figures(label: Mapping[str, Any], method: str) -> str:
    rows = [
        (
            _plain(words.encoder_name(row.get("encoder"))),
            *(words.interval(row.get(score), share=True) for score in ("knn", "linear")),
        )
        for row in listed(label.get("rows"))
        if isinstance(row, Mapping) and words.SAME_METHOD.get(str(row.get("encoder"))) != method
    ]
    said = [
        f"{_plain(found[1], 300)}"
        for score in ("knn", "linear")
        if (found := words.verdict(label.get("rows"), score, method))
    ]
    head = f"\n\n### Against the label {_code(label.get('name') or 'label')}\n\nLabels were not used for learning. "
    return head + " ".join(said) + "\n\n" + _table(("Encoder", "k-NN accuracy", "Linear probe"), rows)


def _limits(summary: Mapping[str, Any]) -> str:
    word = words.health_word(summary)
    limits = [
        "It knows what its data showed, with all that was missing or one-sided there, and was tested on nothing else."
    ]
    if words.tone(word) == "bad":
        limits.insert(0, f"**The training was {_plain(word)}.** {words.health_advice(word)}")
    kept = str(part(summary, "training").get("kept") or "last step")
    if kept != "last step":
        limits.insert(0, f"The training collapsed, so the weights are those of the {_plain(kept)}.")
    if not listed(summary.get("labels")):
        limits.append("No labels were at hand, so no accuracy was measured.")
    limits.append("Clusters and neighbours are what this encoder finds alike, which need not be what matters to you.")
    return "\n".join(["## Limits", "", *(f"- {line}" for line in limits)])


def _owner(summary: Mapping[str, Any]) -> str:
    versions = part(summary, "versions")
    made = f" on {words.moment(summary['made'])}" if summary.get("made") else ""
    tacit = f" {_plain(versions['tacit'], 40)}" if versions.get("tacit") else ""
    return (
        "## Whose it is\n\nThe model belongs to whoever trained it, and so do this card and the choice of a licence: "
        f"tacit claims nothing of it. The data keep their own terms.\n\nMade{made} with tacit{tacit}."
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: object, length: int = 120) -> str:
    """As text that Markdown and HTML leave alone."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&!$])", r"\\\1", words.tidy(text, length))


def _code(text: object, length: int = 200) -> str:
    """As code, in a fence longer than any in it."""
    line = words.tidy(text, length).replace("|", "¦")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"
