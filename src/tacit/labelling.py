"""label: from a few labels to a label for every item of a run, with a probability, and what to look at again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.answers import (
    Answer,
    Group,
    Rows,
    check_out,
    counted,
    listed,
    new_folder,
    write_made,
    write_tables,
)
from tacit.data import Ledger, _tables
from tacit.data._ledger import OWN
from tacit.errors import ArgumentError, DataError, expect, unknown
from tacit.evaluate import Estimate
from tacit.probing import Choice, Space, choose

Say = Callable[[str], None]

FOLDER = "labelled"
NUMBERS = ("item", "id", "index")
"""Columns that hold item numbers, where they hold whole numbers."""
PATHS = ("path", "uri", "file", "filename", "file_name", "image", "name", *NUMBERS)
"""Columns that say which item is meant: the first of them that is there, or else the first column."""
OURS = ("item", "uri", "probability", "source", "reason", "score", "cluster", "confidence", "text")
"""Columns that tacit writes beside labels: a table that it wrote can be filled in and given back."""
DOUBTFUL = 20
PURPOSE = "choosing and fitting a probe, and its cross-validated accuracy (tacit label)"


@dataclass(frozen=True, kw_only=True)
class Labelled(Answer):
    """What `label` found; `files` are predictions.csv, predictions.parquet and doubtful.csv."""

    name: str
    """Of the label: the column's."""
    labels: list[str]
    """Of each item, as the table has them."""
    probability: NDArray[np.float32]
    """Of these labels, calibrated; 1 where they were given."""
    given: NDArray[np.bool_]
    accuracy: Estimate
    """Of predicted labels, on items like the labelled ones."""
    choice: Choice
    doubtful: list[int]
    """Item numbers, the most doubtful first."""


def label(
    run: Path,
    labels: str | Path | Mapping[Any, Any],
    *,
    column: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    say: Say = print,
) -> Labelled:
    """Label all items of a run from a few labels.

    Probes compete in cross-validation, five settings each: logistic regression, naive Bayes, k-NN interpolation, and,
    up to 10,000 items, transductive clustering and UNEM. `tacit.probing` says how the winner is chosen and scored.
    Labels are written to the run's ledger as the user's, predictions as predicted, and their use is noted.

    Args:
        run: folder of the run.
        labels: a csv, tsv, jsonl or parquet with a column that says which item (a path, or item numbers in a column
            `item`, `id` or `index`) and one with the label, empty where there is none; or a mapping of the two.
        column: which column is the label, where there are several; its name is the label's name.
        seed: of all chance.
        out: folder for the tables; a new one in the run's folder `labelled` if None.
        say: told what is being done.

    Raises:
        ArgumentError: several columns that could be the label; unknown column.
        DataError: the file cannot be read; none of its items is known; one class only; a class with one item.
        RunError: `out` holds something already; the run has no vectors, or its ledger cannot be written.
    """
    check_out(out)
    header, name, pairs = _pairs(labels, column)
    rows = Rows(run)
    given, lines = match(rows, pairs, labels, header)
    _check_enough(given, name)
    ledger = Ledger(run / "labels.sqlite")
    given = _kept(ledger, name, given, lines)
    row_of = {key: row for row, key in reversed(list(enumerate(rows.keys)))}
    classes = sorted(set(given.values()))
    known = np.array(sorted(row_of[key] for key in given))
    y = np.array([classes.index(given[rows.keys[row]]) for row in known])
    different = rows.different
    say(f"cross-validating probes on {counted(len(known), 'label')} of {counted(len(classes), 'class', 'classes')}")
    choice, told = choose(Space(rows.vectors[different]), np.searchsorted(different, known), y, seed=seed)
    best, probability = _answers(told, choice.temperature)
    best[np.searchsorted(different, known)] = y
    probability[np.searchsorted(different, known)] = 1.0
    back = np.searchsorted(different, rows.first)
    best, probability = best[back], probability[back]
    is_given = np.isin(rows.first, known)
    found = [classes[i] for i in best]
    predicted = {rows.keys[row]: found[row] for row in different if not is_given[row]}
    ledger.put(name, predicted, source="predicted", weight=choice.accuracy.value)
    free = different[~is_given[different]]
    doubtful = free[np.argsort(probability[free], kind="stable")][:DOUBTFUL]
    given_words = counted(len(known), "given label")
    what = f"{counted(len(predicted), 'item')} labelled from {given_words} ({name}), by {choice.candidate.probe}"
    lines = _lines(choice, name, len(known), classes) + lines
    sheet = rows.sheet([Group("", doubtful, [f"{found[row]} {100 * probability[row]:.0f} %" for row in doubtful])])
    folder = new_folder(run, out, FOLDER)
    answer = Labelled(
        folder=folder,
        files=_write(folder, rows, found, probability, is_given, doubtful),
        sheet=sheet.save(folder),
        what=what,
        lines=lines,
        name=name,
        labels=found,
        probability=probability,
        given=is_given,
        accuracy=choice.accuracy,
        choice=choice,
        doubtful=rows.items[doubtful].tolist(),
    )
    if answer.sheet:
        lines.append(f"The {sheet.noun} shows the {len(doubtful)} most doubtful items, with label and probability.")
    write_made(answer.folder, answer.what, answer.lines, _details(answer) | sheet.details())
    return answer


def read_labels(path: str | Path, column: str | None = None) -> tuple[str, str, list[tuple[Any, str]]]:
    """Name of the column of items, name of the label, and pairs of the two, as the file has them.

    Raises:
        ArgumentError: several columns that could be the label; unknown column.
        DataError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in _tables.READERS:
        kinds = ", ".join(kind[1:] for kind in _tables.READERS)
        raise DataError(f"labels={str(path)!r}: expected a table ({kinds}) with columns such as path,label")
    table = _tables.READERS[path.suffix.lower()](path)
    if table.skipped:
        raise DataError(f"labels={str(path)!r}: {': '.join(table.skipped[0])}; mend or take out that line")
    which = _item_column(table.names, path, column)
    name = _label_column([n for n in table.names if n != which], path, column)
    classes = table.classes.get(name)
    values = (_tables.as_label(value, classes) for value in table.values(name))
    pairs = [(item, value.strip()) for item, value in zip(table.values(which), values, strict=False) if value]
    return which, name, [(item, value) for item, value in pairs if item is not None and value]


def match(
    rows: Rows, pairs: Sequence[tuple[Any, str]], where: object, header: str = ""
) -> tuple[dict[str, str], list[str]]:
    """Label by the key of each item that was named, and what there is to say of the others.

    An item is named by its number, its path in the data, a path to the file, or its file name where only one has it.
    An item with two labels is left out.
    """
    find = Finder(rows, where)
    if header and find(header) is not None:
        raise DataError(
            f"labels={str(where)!r}: expected a first line such as path,label, and found an item, {header!r}"
        )
    said: dict[str, set[str]] = defaultdict(set)
    names: dict[str, object] = {}
    strangers: list[object] = []
    again = 0
    for item, value in pairs:
        row = find(item)
        if row is None:
            strangers.append(item)
            continue
        key = rows.keys[row]
        again += value in said[key]
        said[key].add(value)
        names[key] = item
    torn = [key for key, values in said.items() if len(values) > 1]
    given = {key: next(iter(values)) for key, values in said.items() if len(values) == 1}
    lines = []
    if strangers:
        lines.append(f"Not in the run, and left out: {listed(strangers)} ({counted(len(strangers), 'row')}).")
    if again:
        lines.append(f"Said more than once, and counted once: {counted(again, 'row')}.")
    if torn:
        both = [f"{names[key]} ({' and '.join(sorted(said[key]))})" for key in torn]
        lines.append(f"With contradicting labels, and left out: {listed(both)}.")
    if not given:
        example = rows.uris[0]
        raise DataError(
            f"labels={str(where)!r}: expected labels of items of the run, and none of {counted(len(pairs), 'row')} "
            f"names one without contradiction ({listed(strangers, 3) or 'no row has a label'}); name them as the run "
            f"does, such as {example!r}, or by number in a column item"
        )
    return given, lines


class Finder:
    """The row that a name means; the slower ways are looked up when the first of them is needed."""

    def __init__(self, rows: Rows, where: object) -> None:
        self._rows = rows
        self._numbers = {int(item): row for row, item in enumerate(rows.items)}
        self._uris = {uri: row for row, uri in reversed(list(enumerate(rows.uris)))}
        self._beside = Path(where).parent if isinstance(where, str | Path) else Path()
        self._files: dict[str, int] | None = None
        self._last: dict[str, int] = {}

    def __call__(self, name: Any) -> int | None:
        if isinstance(name, int | np.integer) and not isinstance(name, bool):
            return self._numbers.get(int(name))
        text = str(name).strip()
        row = self._uris.get(text)
        return row if row is not None else self._by_file(text)

    def _by_file(self, text: str) -> int | None:
        if self._files is None:
            self._read_files()
        assert self._files is not None
        for path in (Path(text), self._beside / text):
            row = self._files.get(f"{path.parent.resolve()}/{path.name}")
            if row is not None:
                return row
        row = self._last.get(text.replace("\\", "/").rsplit("/", 1)[-1], -1) if "/" not in text else -1
        return row if row >= 0 else None

    def _read_files(self) -> None:
        from tacit.store import Items

        self._files, roots = {}, dict[str, Path]()
        sources = Items.open(self._rows.run).column("source")
        for row, (source, uri) in enumerate(zip(sources, self._rows.uris, strict=True)):
            if source not in roots:
                roots[source] = Path(source).resolve()
            self._files.setdefault(f"{roots[source]}/{uri}", row)
            last = uri.rsplit("/", 1)[-1]
            self._last[last] = -1 if last in self._last else row


def _pairs(labels: str | Path | Mapping[Any, Any], column: str | None) -> tuple[str, str, list[tuple[Any, str]]]:
    """The name of the column of items, the label's name, and items with their labels."""
    if isinstance(labels, Mapping):
        said = [(item, _tables.as_label(value)) for item, value in labels.items()]
        which, name, pairs = "", column or "label", [(item, value) for item, value in said if value]
    else:
        which, name, pairs = read_labels(labels, column)
    expect(
        "column", name, not name.startswith(OWN), f"another name; those with {OWN} before them are of stars and notes"
    )
    if which.lower() in NUMBERS and all(_whole(item) for item, _ in pairs):
        pairs = [(int(float(item)), value) for item, value in pairs]
    return which, name, pairs


def _whole(value: Any) -> bool:
    """Also as pandas writes a column of numbers with gaps, 3.0."""
    return str(value).strip().removesuffix(".0").isdecimal()


def _item_column(names: Sequence[str], path: Path, column: str | None) -> str:
    lower = {name.lower(): name for name in reversed(names) if name != column}
    first = ("item", *PATHS) if "item" in lower else PATHS
    found = next((lower[name] for name in first if name in lower), names[0] if names else "")
    if len(names) < 2 or found == column:
        raise DataError(
            f"labels={str(path)!r}: expected a first line such as path,label, and found {listed(names) or 'nothing'}"
        )
    return found


def _label_column(names: Sequence[str], path: Path, column: str | None) -> str:
    if column is not None:
        if column not in names:
            raise unknown("column", column, names)
        return column
    others = [name for name in names if name.lower() not in (*OURS, *PATHS)]
    usual = [name for name in others if name.lower() in _tables.LABELS]
    if len(usual) == 1 or len(others) == 1:
        return (usual if len(usual) == 1 else others)[0]
    raise ArgumentError(
        f"labels={str(path)!r}: expected one column of labels, and found {listed(usual or others) or 'none'}; "
        "say which: --column NAME"
    )


def _check_enough(given: Mapping[str, str], name: str) -> None:
    sizes = Counter(given.values())
    alone = sorted(value for value, size in sizes.items() if size == 1)
    if len(sizes) < 2:
        raise DataError(
            f"{name}: expected labels of at least two classes, and the {counted(len(given), 'labelled item')} known "
            f"to the run {'is' if len(given) == 1 else 'are all'} {next(iter(sizes))!r}; label a few of another "
            "class: `tacit suggest RUN` says which items are worth it"
        )
    if alone:
        raise DataError(
            f"{name}: expected at least two items of each class, since one is held out to check by, and there is only "
            f"one of {listed([repr(value) for value in alone])}; label another of each, or leave the class out"
        )


def _kept(ledger: Ledger, name: str, given: dict[str, str], lines: list[str]) -> dict[str, str]:
    """The labels as the ledger gives them out, after it took them down."""
    ledger.put(name, given, source="user")
    ledger.split(name)
    taken: dict[str, str] = {}
    for part in ("choose", "report"):
        taken |= ledger.take(name, part, PURPOSE, sources=("user",))
    before = len(taken) - len(given)
    if before:
        lines.append(
            f"The run's ledger has {counted(before, 'label')} from earlier that this table does not have, and that "
            "were not used."
        )
    return {key: taken[key] for key in given}


def _answers(told: Any, temperature: float) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The likeliest class of each row, and its probability."""
    parts = [(p.argmax(axis=1), p.max(axis=1)) for _, p in told.blocks(temperature)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]).astype(np.float32)


def _lines(choice: Choice, name: str, n: int, classes: Sequence[str]) -> list[str]:
    accuracy, probes = choice.accuracy, len(choice.table)
    few = n < 10 * len(classes)
    return [
        f"{counted(n, 'label')} of {len(classes)} classes ({listed(classes)}), from the column {name}.",
        f"Chosen: {choice.candidate}, the likeliest in {choice.n_folds}-fold cross-validation of {probes} probes with "
        f"{choice.n_candidates // probes} settings each.",
        f"Estimated accuracy {100 * accuracy.value:.0f} %, 95 % interval {100 * accuracy.low:.0f} to "
        f"{100 * accuracy.high:.0f} %, corrected for the choice among {choice.n_candidates}; always saying the "
        f"commonest class gets {100 * choice.commonest:.0f} %. It holds for items like the labelled ones: if those "
        "were picked as clear or as hard cases, others will differ." + (" More labels narrow it." if few else ""),
        f"Expected calibration error {choice.calibration_error:.2f}, {choice.before:.2f} before the temperature of "
        f"{choice.temperature:.2g}; exactly right probabilities would show {choice.calibrated_error:.2f} on "
        f"{counted(accuracy.n, 'label')}.",
    ]


def _write(
    folder: Path,
    rows: Rows,
    labels: list[str],
    probability: NDArray[np.float32],
    given: NDArray[np.bool_],
    doubtful: NDArray[np.intp],
) -> list[Path]:
    columns = {
        "item": rows.items,
        "uri": rows.uris,
        "label": labels,
        "probability": probability.astype(float).round(4),
        "source": np.where(given, "given", "predicted"),
    }
    files = write_tables(folder, "predictions", columns)
    some = {name: _taken(values, doubtful) for name, values in columns.items()} | rows.text_column(doubtful)
    return files + write_tables(folder, "doubtful", some, parquet=False)


def _taken(values: Any, rows: Iterable[int]) -> Any:
    return [values[row] for row in rows]


def _details(answer: Labelled) -> dict[str, Any]:
    choice, accuracy = answer.choice, answer.accuracy
    return {
        "label": answer.name,
        "accuracy": {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high, "n": accuracy.n},
        "commonest": choice.commonest,
        "probe": str(choice.candidate),
        "temperature": choice.temperature,
        "calibration_error": choice.calibration_error,
        "calibration_error_before": choice.before,
        "calibration_error_expected": choice.calibrated_error,
        "probes": choice.table,
        "doubtful": answer.doubtful,
    }
