"""Numbers as a person reads them, and what they mean in a sentence."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tacit.report._files import listed, measure, number, part, whole

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that could break or disguise a line: controls, marks of direction, line separators, surrogates."""
JOINERS = "\u200c\u200d"
"""Invisible, but part of words and of emoji."""

TONES = {"learning": "good", "closed form": "good", "flat": "calm", "collapsing": "bad", "unstable": "bad"}

HEALTH = {
    "learning": "Nothing says that it had learned all it could when it ended. More time would probably help.",
    "flat": "What is measured here has stopped changing. More training of the same kind is unlikely to help.",
    "collapsing": "The encoder has begun to give every item the same answer. Do not build on it: try another seed, a "
    "smaller lr or another method.",
    "unstable": "The training went up and down too much to trust it. A smaller lr or a longer warmup usually calms it.",
    "closed form": "This method is solved in one pass over the data, so there is no training that could go wrong.",
}

ENCODERS = {
    "trained": "this encoder, trained",
    "untrained": "the same encoder, untrained",
    "pixels": "raw pixels",
}
SAME_METHOD = {
    "whitened PCA": "pca",
    "patch k-means": "patch-kmeans",
    "LSA": "lsa",
    "log-mel PCA": "log-mel-pca",
    "graph features": "graph-features",
}
"""Baselines that are methods of tacit too, and then no baseline of themselves."""

NOUNS = {
    "image": "image",
    "text": "text",
    "audio": "sound",
    "series": "series",
    "table": "row",
    "graph": "node",
    "points": "point",
}
"""Kind of data -> what one item is called; of many graphs, summary.json says that they are graphs."""
PLURALS = {"series": "series", "entry": "entries"}


def tidy(text: object, length: int = 120) -> str:
    """One harmless line of at most `length` characters, the middle cut out, what would not show made visible.

    >>> tidy("a" * 10 + ".png", 9)
    'aaaa….png'
    """
    line = str(text)[:20_000]
    if not line.isprintable():
        line = "".join("\ufffd" if _hidden(char) else char for char in line)
    if len(line) <= length:
        return line
    end = (length - 1) // 2
    return f"{line[: length - 1 - end]}…{line[len(line) - end :]}"


def _hidden(char: str) -> bool:
    return unicodedata.category(char) in HIDDEN and char not in JOINERS


def file_name(uri: str, length: int = 44) -> str:
    """The last part of a path or address, as one harmless line."""
    return tidy(uri.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or uri, length)


def excerpt(text: object, length: int = 200) -> str:
    """The beginning of a text as one harmless line.

    >>> excerpt("one two\\nthree", 10)
    'one two...'
    """
    line = tidy(" ".join(str(text)[: 20 * length].split()), 20 * length)
    return line if len(line) <= length else line[: length - 3].rstrip() + "..."


def noun(summary: Mapping[str, Any]) -> str:
    """What one item of the run is called: image, text, sound, row..."""
    data = part(summary, "data")
    return tidy(data.get("noun") or NOUNS.get(str(data.get("modality", "image")), "item"), 20)


def left_out(summary: Mapping[str, Any]) -> str:
    """What one thing that could not be used is called."""
    return "file" if part(summary, "data").get("modality", "image") in ("image", "audio") else "entry"


def several(noun: str) -> str:
    """
    >>> several("text"), several("series")
    ('texts', 'series')
    """
    return PLURALS.get(noun, f"{noun}s")


def item_name(uri: str, noun: str, length: int = 44) -> str:
    """The file name of an item; of one that has a number alone, the number with what it is.

    >>> item_name("birds/7.wav", "sound"), item_name("7", "series")
    ('7.wav', 'series 7')
    """
    name = file_name(uri, length)
    return f"{noun} {name}" if name.isdecimal() else name


def figure(value: object, digits: int = 3) -> str:
    """A number at `digits` significant digits, whole ones in full with thousands marked; a dash for what is none.

    >>> figure(4000), figure(41.234), figure(0.91255), figure(-2.5), figure(None)
    ('4,000', '41.2', '0.913', '−2.50', '–')
    """
    found = number(value)
    if found is None:
        return "–"
    if abs(found) >= 1e15:
        return f"{found:.{digits}g}".replace("-", "−")
    return _fixed(found, 0 if found == round(found) else _decimals(found, digits))


def _decimals(value: float, digits: int) -> int:
    """Decimals at which a number shows so many significant digits, six at most."""
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value))))) if value else 0


def _fixed(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", "−")


def percent(value: object, digits: int = 1) -> str:
    """A share as a percentage.

    >>> percent(0.8712)
    '87.1\xa0%'
    """
    found = number(value)
    return "–" if found is None else f"{100 * found:.{digits}f}\u00a0%"


def interval(value: object, *, share: bool = False) -> str:
    """A measure with its interval.

    >>> interval({"value": 41.2, "low": 38.04, "high": 44.1})
    '41.2 (38.0–44.1)'
    >>> interval({"value": 0.5, "low": 0.4, "high": 0.6}, share=True)
    '50.0\xa0% (40.0–60.0)'
    """
    found = measure(value)
    if found is None:
        return "–"
    scale, decimals, unit = (100, 1, "\u00a0%") if share else (1, _decimals(found["value"], 3), "")
    if not share and all(end == round(end) for end in found.values()):
        decimals = 0
    middle, low, high = (_fixed(scale * found[key], decimals) for key in ("value", "low", "high"))
    return f"{middle}{unit} ({low}–{high})" if found["low"] < found["high"] else f"{middle}{unit}"


def count(n: object, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "image"), count(4000, "image")
    ('1 image', '4,000 images')
    """
    return f"{figure(n)} {noun if whole(n) == 1 else plural or several(noun)}"


def duration(seconds: object) -> str:
    """A time span in its two largest units.

    >>> duration(0.4), duration(192), duration(7260)
    ('0.4\xa0s', '3\xa0min 12\xa0s', '2\xa0h 1\xa0min')
    """
    found = number(seconds)
    if found is None or found < 0:
        return "–"
    if found < 60:
        return f"{found:.1f}\u00a0s" if found < 10 else f"{found:.0f}\u00a0s"
    minutes, rest = divmod(round(found), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest}\u00a0s" if rest else f"{minutes}\u00a0min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u00a0h {minutes}\u00a0min" if minutes else f"{hours}\u00a0h"


def moment(iso: object) -> str:
    """An ISO time as `14 March 2026, 10:22`; anything else as it stands."""
    try:
        made = datetime.fromisoformat(str(iso))
    except ValueError:
        return tidy(iso or "")
    return f"{made.day} {made:%B %Y, %H:%M}"


def health_word(summary: Mapping[str, Any]) -> str:
    """One of the words of `TONES`, or what the run says in its place."""
    return tidy(part(summary, "health").get("word") or "unknown", 40)


def tone(word: str) -> str:
    """good, calm or bad."""
    return next((found for start, found in TONES.items() if word.startswith(start)), "calm")


def health_advice(word: str) -> str:
    return next((advice for start, advice in HEALTH.items() if word.startswith(start)), "")


def rank_words(summary: Mapping[str, Any]) -> str:
    rank = measure(part(summary, "health").get("effective_rank"))
    dim = whole(part(summary, "model").get("dim"))
    if rank is None:
        return "The effective rank was not measured."
    directions = max(1, round(rank["value"]))
    spread = "all look alike to it" if directions == 1 else f"differ, to it, in about {directions:,} independent ways"
    return (
        f"The items {spread}, of at most {dim:,}. A rank near 1 would be a collapse." if dim else f"The items {spread}."
    )


def retrieval_words(summary: Mapping[str, Any]) -> tuple[str, str]:
    """A tone and the sentence about how views are found again, beside the raw input."""
    trained, raw = (measure(part(summary, "neighbours").get(name)) for name in ("trained", "raw"))
    if trained is None:
        return "calm", _label_words(summary)
    share = percent(trained["value"], 0)
    found = f"Shown a changed view of an item, the encoder finds the original first in {share} of cases"
    if raw is None:
        return "calm", f"{found}."
    found = f"{found}; comparing the raw input does in {percent(raw['value'], 0)}."
    if trained["low"] > raw["high"]:
        return "good", found
    if trained["high"] < raw["low"]:
        return "bad", f"{found} So the raw input is the better guide here: train longer, or try another method."
    return "calm", f"{found} The intervals overlap, so this is no clear gain."


def _label_words(summary: Mapping[str, Any]) -> str:
    """What stands where views cannot be found again: the verdict by labels, or why there is none."""
    method = str(part(summary, "method").get("id"))
    for label in listed(summary.get("labels")):
        said = verdict(part(label).get("rows"), "knn", method)
        if said is not None:
            return said[1]
    if labelled(summary) is not None:
        return "There is nothing quicker here to compare with: this method is the baseline itself."
    if part(summary, "data").get("modality", "image") == "image":
        return "How well changed views find their originals was not measured."
    return (
        f"Which changes leave {several(noun(summary))} the same is not known, so it takes labels to tell; look at the "
        "nearest neighbours below."
    )


def labelled(summary: Mapping[str, Any]) -> tuple[str, dict[str, float], tuple[str, dict[str, float]] | None] | None:
    """Of the first label that was scored its name, the trained encoder's k-NN accuracy, and the best other's."""
    method = str(part(summary, "method").get("id"))
    for label in listed(summary.get("labels")):
        rows = [row for row in listed(part(label).get("rows")) if isinstance(row, Mapping)]
        scores = {str(row.get("encoder")): found for row in rows if (found := measure(row.get("knn")))}
        trained = scores.pop("trained", None)
        others = [pair for pair in scores.items() if SAME_METHOD.get(pair[0]) != method]
        if trained is not None:
            best = max(others, key=lambda pair: pair[1]["value"], default=None)
            return tidy(label.get("name") or "label", 40), trained, best
    return None


def cluster_words(summary: Mapping[str, Any]) -> str:
    clusters = part(summary, "clusters")
    stable = measure(clusters.get("stability"))
    if not whole(clusters.get("n")):
        return "Groups need more items than there are here, or were not asked for."
    if stable is None:
        return "How stable they are was not measured."
    if clusters.get("one_cloud") is True:
        return (
            "The items form one cloud without separate groups; it is cut into parts so that you can look at them. "
            f"Cut anew from other random starts, the parts agree by {interval(stable)}."
        )
    return (
        f"{stability_word(stable['value'])}. Found again from other random starts they agree by {interval(stable)}, "
        "where 1 is always the same and 0 is chance."
    )


def stability_word(value: float) -> str:
    """What a stability means in a word or two.

    >>> stability_word(0.95), stability_word(0.3)
    ('Very stable', 'Not stable: do not read much into the borders')
    """
    if value >= 0.9:
        return "Very stable"
    if value >= 0.75:
        return "Fairly stable"
    return (
        "Shaky: some borders could lie elsewhere" if value >= 0.5 else "Not stable: do not read much into the borders"
    )


def encoder_name(name: object) -> str:
    return ENCODERS.get(str(name), tidy(name, 60))


def verdict(rows: object, score: str, method: str) -> tuple[str, str] | None:
    """Does the trained encoder beat the best baseline by `knn` or `linear`? A tone and a plain sentence.

    Args:
        rows: rows of one label set in summary.json.
        score: `knn` or `linear`.
        method: id of the method of the run, which is no baseline of itself.
    """
    by = {"knn": "By k-NN", "linear": "By a linear probe"}[score]
    scores = {str(row.get("encoder")): measure(row.get(score)) for row in listed(rows) if isinstance(row, Mapping)}
    trained = scores.pop("trained", None)
    baselines = {name: found for name, found in scores.items() if found and SAME_METHOD.get(name) != method}
    if trained is None or not baselines:
        return None
    name, best = max(baselines.items(), key=lambda pair: pair[1]["value"])
    figures = f"{percent(trained['value'])} against {percent(best['value'])}"
    if trained["value"] <= best["value"]:
        return "bad", f"{by}, the trained encoder does not beat {encoder_name(name)}: {figures}."
    if trained["low"] <= best["high"]:
        return "calm", (
            f"{by}, the trained encoder is ahead of the best of the others, {encoder_name(name)}, {figures}, "
            "but the intervals overlap: it may be chance."
        )
    return "good", f"{by}, the trained encoder beats the best of the others, {encoder_name(name)}: {figures}."
