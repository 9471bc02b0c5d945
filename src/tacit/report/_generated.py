"""Pictures that were made with a run: what lies in its folder `generated`, read with mistrust."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tacit.errors import RunError
from tacit.report import _words as words
from tacit.report._files import listed, part, read_json

FOLDER, SHEET, MADE = "generated", "contact-sheet.png", "made.json"
SHOWN = 12
"""Contact sheets on the page, the newest."""
LARGEST_SIDE, LARGEST_BYTES = 4096, 600_000
ANSWERS = {"label": "labelled", "suggest": "suggested", "cluster": "clustered", "segment": "segmented"}
"""Command, and the folder that it writes to."""
LISTS, LISTED = 24, 48
"""Lists of texts of an answer on the page, and items of each."""
ANSWERED = 3
"""Answers of each command on the page, the newest."""


def generated(run_folder: Path, *, pictures: bool = True, made_in: str = FOLDER) -> list[dict[str, Any]]:
    """For each contact sheet, the newest first: name, when, what (a sentence), lines, src (data URI), width, height."""
    folder = run_folder / made_in
    places = [place for place in folder.iterdir() if (place / MADE).is_file()] if folder.is_dir() else []
    newest = sorted(places, key=lambda place: (place / MADE).stat().st_mtime, reverse=True)[:SHOWN]
    return [_one(place, pictures) for place in newest]


def _one(place: Path, pictures: bool) -> dict[str, Any]:
    try:
        made = part(read_json(place / MADE))
    except RunError:
        made = {}
    found: dict[str, Any] = {
        "name": words.tidy(place.name, 80),
        "at": words.moment(made["at"]) if made.get("at") else "",
        "what": words.tidy(made.get("what") or "", 300),
        "lines": [words.tidy(line, 300) for line in listed(made.get("lines"))[:20]],
    }
    found["lists"] = [_list(part(group)) for group in listed(made.get("lists"))[:LISTS]]
    return found | (_picture(place / SHEET) if pictures else {})


def _list(group: Mapping[str, Any]) -> dict[str, Any]:
    """Texts in place of pictures: a title, and of each item name, text and caption."""
    items = [part(item) for item in listed(group.get("items"))[:LISTED]]
    lengths = {"name": 160, "text": 300, "caption": 80}
    return {
        "title": words.tidy(group.get("title") or "", 160),
        "items": [{key: words.tidy(item.get(key) or "", most) for key, most in lengths.items()} for item in items],
    }


def _picture(path: Path) -> dict[str, Any]:
    """The sheet, decoded and written anew, so that nothing but pixels gets into the page; none if it is too large."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as sheet:
            if max(sheet.size) > LARGEST_SIDE:
                return {}
            for kind in ("png", "jpeg"):
                buffer = io.BytesIO()
                sheet.convert("RGB").save(buffer, kind.upper(), optimize=True, quality=80)
                if buffer.tell() <= LARGEST_BYTES:
                    break
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return {}
    if buffer.tell() > LARGEST_BYTES:
        return {}
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"src": uri, "width": sheet.size[0], "height": sheet.size[1]}


def answers(run_folder: Path, *, pictures: bool = True) -> list[dict[str, Any]]:
    """What `tacit label`, `suggest`, `cluster` and `segment` left in the run's folder: as `generated`, and `verb`."""
    return [
        {**one, "verb": verb}
        for verb, folder in ANSWERS.items()
        for one in generated(run_folder, pictures=pictures, made_in=folder)[:ANSWERED]
    ]
