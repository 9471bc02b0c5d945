"""suggest: which items of a run to label next, with the reason."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tacit.answers import Answer, Group, Rows, check_out, counted, new_folder, write_made, write_tables
from tacit.data import Ledger
from tacit.errors import ArgumentError, DataError, expect, unknown

if TYPE_CHECKING:
    from tacit.fewlabels._bmdal import Batch

Say = Callable[[str], None]

FOLDER = "suggested"
TASKS = ("classification", "regression")
SHOWN = 48
"""Items on the contact sheet."""
PURPOSE = "suggesting what to label next (tacit suggest)"


@dataclass(frozen=True, kw_only=True)
class Suggested(Answer):
    """What `suggest` found; `files` is suggestions.csv, whose column of labels waits to be filled in."""

    items: list[int]
    """Item numbers, the most worthwhile first."""
    uris: list[str]
    reasons: list[str]


def suggest(
    run: Path,
    n: int = 50,
    *,
    labels: str | None = None,
    task: str = "classification",
    seed: int = 0,
    out: str | Path | None = None,
    say: Say = print,
) -> Suggested:
    """Choose the items whose labels would teach the most, by LCMD: of the largest group of items that no labelled one
    stands for, the farthest, and again (Holzmueller et al., 2022).

    Where labels of two classes are known, an item is the gradient of a linear probe at its own answer, so that items
    that the probe is unsure of lie far apart; without, and for regression, it is its features.

    Args:
        run: folder of the run.
        n: how many.
        labels: name of a label in the run's ledger, given by you or found in the data; None: the one that you gave with
            `tacit label`, if there is one and no other.
        task: classification or regression: what the labels are for.
        seed: of all chance.
        out: folder for the table; a new one in the run's folder `suggested` if None.
        say: told what is being done.

    Raises:
        ArgumentError: a setting that cannot be; unknown or several labels.
        DataError: fewer items without label than asked for.
        RunError: `out` holds something already; the run has no vectors, or its ledger cannot be written.
    """
    from tacit.fewlabels import select_batch

    expect("n", n, isinstance(n, int) and n >= 1, "at least 1")
    if task not in TASKS:
        raise unknown("for", task, TASKS)
    check_out(out)
    rows = Rows(run)
    name, taken = _labels(run, labels)
    different = rows.different
    keys = [rows.keys[row] for row in different]
    known = np.array([place for place, key in enumerate(keys) if key in taken], dtype=int)
    free = len(different) - len(known)
    if n > free:
        raise DataError(f"n={n}: expected at most the {counted(free, 'item')} without label; ask for fewer")
    say(f"choosing {counted(n, 'item')} of {free:,} without label, {len(known):,} labelled")
    z = rows.sphere[different]
    classes: list[str] = []
    p: NDArray[np.float32] | None = None
    if task == "classification":
        classes, p = _probabilities(z, known, [taken[keys[place]] for place in known], seed)
    batch = select_batch(z, n, labelled=known, probabilities=p, random_state=seed)
    chosen = different[batch.items]
    reasons = _reasons(batch, rows.items[different], classes, p)
    what = f"{counted(n, 'item')} to label next, of {free:,} without label"
    lines = [_how(task, name, len(known), p is not None)]
    said = [_caption(place, batch, classes, p) for place in range(min(n, SHOWN))]
    sheet = rows.sheet([Group("", chosen[:SHOWN], said)])
    folder = new_folder(run, out, FOLDER)
    uris = [rows.uris[row] for row in chosen]
    columns = {"item": rows.items[chosen], "uri": uris, name or "label": [""] * n}
    columns |= {"reason": reasons} | rows.text_column(chosen)
    answer = Suggested(
        folder=folder,
        files=write_tables(folder, "suggestions", {**columns, "score": batch.scores.astype(float)}, parquet=False),
        sheet=sheet.save(folder),
        what=what,
        lines=lines,
        items=rows.items[chosen].tolist(),
        uris=uris,
        reasons=reasons,
    )
    lines.append(f"Fill in the column {name or 'label'} of suggestions.csv and give it to tacit label.")
    write_made(
        answer.folder,
        answer.what,
        answer.lines,
        {"n": n, "label": name, "task": task, "items": answer.items, "reasons": reasons, "seed": seed}
        | sheet.details(),
    )
    return answer


def _labels(run: Path, asked: str | None) -> tuple[str | None, dict[str, str]]:
    """The name of the label and its values by the item's hash; none where nothing is labelled yet."""
    place = run / "labels.sqlite"
    ledger = Ledger(place) if place.is_file() else None
    names = ledger.names() if ledger else []
    if asked is not None and asked not in names:
        if not names:
            raise ArgumentError(f"labels={asked!r}: the run has no labels yet; leave --labels out to begin")
        raise unknown("labels", asked, names)
    if ledger is None:
        return None, {}
    if asked is None:  # names alone, no values: nothing to note
        yours = ledger.names(source="user")
        if len(yours) > 1:
            raise ArgumentError(
                f"labels=None: expected which of your labels, {', '.join(yours)}; such as --labels {yours[0]}"
            )
        if not yours:
            return None, {}
        asked, sources = yours[0], ("user",)
    else:
        sources = ("user", "found")  # type: ignore[assignment]
    ledger.split(asked)
    return asked, {
        key: value
        for part in ("choose", "report")
        for key, value in ledger.take(asked, part, PURPOSE, sources=sources).items()
    }


def _probabilities(
    z: NDArray[np.float32], known: NDArray[np.intp], labels: list[str], seed: int
) -> tuple[list[str], NDArray[np.float32] | None]:
    """Classes, and a linear probe's probabilities of all rows (n, k); None where there are not two classes yet."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = sorted(Counter(labels))
    if len(classes) < 2:
        return classes, None
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300, random_state=seed))
    probe.fit(z[known], labels)
    return classes, probe.predict_proba(z).astype(np.float32)


def _reasons(batch: Batch, items: NDArray[np.integer], classes: list[str], p: Any) -> list[str]:
    """With item numbers of the run, and what the probe wavers between."""
    nearest = np.where(batch.nearest >= 0, items[np.maximum(batch.nearest, 0)], -1)
    said = dataclasses.replace(batch, items=items[batch.items], nearest=nearest).reasons()
    if p is None:
        return [_plain(reason) for reason in said]
    return [f"unsure: {_answers(p[row], classes)}; {reason}" for row, reason in zip(batch.items, said, strict=True)]


def _plain(reason: str) -> str:
    """The first of all, where there is no network and nothing labelled yet."""
    return "lies farthest from the mean of all items" if reason.startswith("the largest features") else reason


def _answers(p: NDArray[np.float32], classes: list[str]) -> str:
    """
    >>> _answers(np.array([0.2, 0.5, 0.3]), ["cat", "dog", "owl"])
    'dog 50 %, owl 30 %'
    """
    return ", ".join(f"{classes[k]} {100 * p[k]:.0f} %" for k in np.argsort(-p, kind="stable")[:2])


def _caption(place: int, batch: Batch, classes: list[str], p: Any) -> str:
    if p is None:
        return str(place + 1)
    return f"{place + 1}: {_answers(p[batch.items[place]], classes).split(',')[0]}?"


def _how(task: str, name: str | None, n_known: int, by_probe: bool) -> str:
    if by_probe:
        known = counted(n_known, "label")
        return f"By the gradients of a linear probe fitted to {known} ({name}): it is unsure of these, and they differ."
    if n_known:
        why = "for regression" if task == "regression" else "since only one class is labelled"
        return f"By features alone, {why}: these are what the {counted(n_known, 'labelled item')} ({name}) cover least."
    return "By features alone, since nothing is labelled yet: these cover the data best."
