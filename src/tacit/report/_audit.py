"""audit.html: one self-contained page about what was unlearned, made from audit.json alone.

audit.json, format 1; a *measure* is `{"value", "low", "high"}`.

    title        of the run
    method       laf or retrain
    asked        items that were named
    n            kept, forgotten, unseen: numbers of items
    encoders     those compared: before, unlearned, and retrained where there was time for it
    labels       [{name, scores: {encoder: {kept, forgotten, unseen: measure}}}]
    membership   {scores: {encoder: {forgotten, kept: measure}}}, or {missing: why}
    drift        {kept, forgotten: {encoder: {neighbours: measure, cka: number}}}, to the retrained encoder
    gap          encoder -> mean absolute difference of its scores to those of the retrained one, or null
    verdict, limits   [sentence]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tacit.errors import RunError
from tacit.report import _words as words
from tacit.report._files import listed, measure, number, part, read_json, whole
from tacit.report._page import write_whole

NAMES = {"before": "before", "unlearned": "unlearned", "retrained": "trained anew without them"}
PARTS = ("kept", "forgotten", "unseen")


def write_audit(run_folder: str | os.PathLike[str]) -> Path:
    """Write audit.html into a run folder that `tacit unlearn` made; it needs no network and no other file.

    Raises:
        RunError: the folder holds no audit.json, or cannot be written.
    """
    folder = Path(run_folder)
    found = read_json(folder / "audit.json")
    if found is None:
        raise RunError(f"{folder}: holds no audit.json; expected a run that `tacit unlearn` made")
    return write_whole(folder / "audit.html", audit_page(found).encode("utf-8", "replace"))


def audit_page(figures: Mapping[str, Any]) -> str:
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
    n, encoders = part(figures, "n"), [str(name) for name in listed(figures.get("encoders")) if name in NAMES]
    gap = part(figures, "gap")
    return environment.get_template("audit.html").render(
        style=Markup((here / "style.css").read_text(encoding="utf-8")),
        title=words.tidy(figures.get("title") or "a run", 160),
        lede="{} forgotten, {} kept.".format(*(words.count(whole(n.get(k)), "item") for k in ("forgotten", "kept"))),
        verdict=[words.tidy(line, 400) for line in listed(figures.get("verdict"))],
        limits=[words.tidy(line, 400) for line in listed(figures.get("limits"))],
        gap=[(NAMES[name], f"{100 * value:.1f}") for name in encoders if (value := number(gap.get(name))) is not None],
        encoders=[(name, NAMES[name]) for name in encoders],
        labels=[_label(part(label), encoders) for label in listed(figures.get("labels"))],
        membership=_rows(part(figures, "membership", "scores"), encoders, ("forgotten", "kept")),
        missing=words.tidy(part(figures, "membership").get("missing") or "", 300),
        drift=[
            row for items in ("forgotten", "kept") for row in _drift(part(figures, "drift", items), items, encoders)
        ],
    )


def _label(label: Mapping[str, Any], encoders: list[str]) -> dict[str, Any]:
    return {"name": words.tidy(label.get("name") or "label", 60), "rows": _rows(part(label, "scores"), encoders, PARTS)}


def _rows(scores: Mapping[str, Any], encoders: list[str], columns: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """Of each encoder the scores in words, a dash where there is none."""
    return [
        (NAMES[name], [_share(part(scores, name).get(column)) for column in columns])
        for name in encoders
        if name in scores
    ]


def _share(value: object) -> str:
    return words.interval(value, share=True) if measure(value) else "–"


def _drift(scores: Mapping[str, Any], items: str, encoders: list[str]) -> list[tuple[str, str, str, str]]:
    return [
        (
            items,
            NAMES[name],
            _share(part(scores, name).get("neighbours")),
            f"{number(part(scores, name).get('cka')) or 0:.3f}",
        )
        for name in encoders
        if name in scores
    ]
