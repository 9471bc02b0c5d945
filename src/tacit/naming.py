"""label without a label: by the names of classes, for images that learned from texts; by topics' words, for texts."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tacit.answers import Answer, Group, Rows, check_out, counted, listed, new_folder, write_made, write_tables
from tacit.errors import ArgumentError, DataError, TacitError, expect
from tacit.querying import unknown_words

if TYPE_CHECKING:
    from tacit.runs import Run

Say = Callable[[str], None]
Names = str | Sequence[str]
Topics = Mapping[str, Sequence[str]]

FOLDER = "labelled"
TEMPLATE = "a photo of a {}"
EXAMPLES = 8
MIN_DOCS = 50
"""Texts whose mean a topic's vector is, at least; less in small runs."""
TAKEN = ("item", "uri")
"""Names that the columns of scores cannot have."""


@dataclass(frozen=True, kw_only=True)
class Named(Answer):
    """What `label` found by names; `files` are predictions.csv, predictions.parquet and scores.parquet."""

    classes: list[str]
    labels: list[str]
    """Of each item, its likeliest class."""
    scores: NDArray[np.float32]
    """(n, classes) cosines."""
    probability: NDArray[np.float32]
    """(n,) of these labels among the classes; calibrated on nothing."""
    examples: list[list[int]]
    """Item numbers of each class, the likeliest first."""


def by_classes(
    run: Run, classes: Names, *, template: Names = TEMPLATE, out: str | Path | None = None, say: Say = print
) -> Named:
    """Zero-shot labels: of each image the class whose name, put into a template, lies nearest by cosine.

    p(class | image) = softmax(scale x cosines), with the scale that the run has learned (Radford et al., 2021,
    section 3.1.2); several templates of a class are averaged (section 3.1.4).

    Args:
        run: one that has learned from images and the texts beside them.
        classes: names, in a list or with commas between them.
        template: a text with {} where the name goes, or several.
        out: folder for the tables; a new one in the run's folder `labelled` if None.
        say: told what is being done.

    Raises:
        ArgumentError: less than two classes, one of which the text encoder knows nothing, a template without {}; or a
            run without text encoder.
        RunError: `out` holds something already; the run has no vectors, or holds an encoder alone.
    """
    from tacit.multimodal._zero_shot import zero_shot_weights

    check_out(out)
    joint = run.joint
    if joint is None:
        raise ArgumentError(
            f"classes={classes!r}: expected a run that learned from images and texts beside them, and this one has no "
            f"text encoder; {_instead(run)}"
        )
    names = _names(classes)
    templates = [template] if isinstance(template, str) else list(template)
    expect("template", template, bool(templates) and all("{}" in one for one in templates), "a text with {} in it")
    lines = _unknown(names, joint.learner.text_encoder)  # type: ignore[arg-type]
    rows = Rows(run.folder)
    say(f"comparing {counted(len(rows), 'image')} with the names of {len(names)} classes")
    weights = zero_shot_weights(lambda texts: torch.from_numpy(joint.of_texts(texts)), names, templates).numpy()
    scores = joint.of_items(rows.vectors) @ weights.T
    said = " and ".join(repr(one) for one in templates)
    method = run.config["build"].get("system")
    lines = [
        f"Zero-shot, by {method}: an item is of the class whose name, put into {said}, lies nearest to it in the space "
        "of images and texts. No label was used, so nothing says how accurate this is: look at the examples of each "
        "class, or label a few items (tacit suggest) and compare.",
        f"Probabilities are among these names only, at the learned temperature of {1 / joint.scale:.2g}: an item that "
        "is none of them gets one all the same.",
        *lines,
    ]
    what = f"{counted(len(rows), 'image')} labelled by the names of {len(names)} classes"
    p = _softmax(joint.scale * scores)
    return _answer(run, rows, names, scores, p, lines, what, "zero-shot", out, {"templates": templates})


def by_keywords(
    run: Run, keywords: str | Path | Topics, *, seed: int = 0, out: str | Path | None = None, say: Say = print
) -> Named:
    """Topics of texts by a few keywords each: Lbl2Vec (Schopf et al., 2021).

    The paper's embedding of texts and words (PV-DBOW) is trained on the run's texts, read again from where they lay. If
    they are gone or have changed, the run's own vectors stand for the texts, and those of its encoder for the keywords.

    Args:
        run: one of texts.
        keywords: topic -> its words; or a yaml or json file that says so.
        seed: of the embedding.
        out: folder for the tables; a new one in the run's folder `labelled` if None.
        say: told what is being done.

    Raises:
        ArgumentError: no run of texts, no topics, or a topic none of whose words is known.
        DataError: the file cannot be read.
        RunError: `out` holds something already, or the run has no vectors.
    """
    from tacit.cluster import Lbl2Vec

    check_out(out)
    if run.modality != "text":
        kind = run.modality or "not known"
        raise ArgumentError(f"keywords: expected a run of texts, and the kind of this one is {kind}; {_instead(run)}")
    topics = _topics(keywords)
    rows = Rows(run.folder)
    texts, why = texts_again(run)
    least = max(1, min(MIN_DOCS, len(rows) // (4 * len(topics))))
    if texts is not None:
        say(f"training PV-DBOW on {counted(len(texts), 'text')}")
        words = {topic: _split(some) for topic, some in topics.items()}
        model = Lbl2Vec(keywords=words, min_docs=least, random_state=seed)
        given: dict[str, Any] = {"X": texts}
        how = "Lbl2Vec, its PV-DBOW trained on the run's texts, which were read again"
    else:
        words = {topic: list(some) for topic, some in topics.items()}
        model = Lbl2Vec(keywords=words, min_docs=least)
        mean = rows.vectors.mean(axis=0)
        vectors = {word: vector - mean for word, vector in _keyword_vectors(run, words).items()}
        given = {"X": rows.vectors - mean, "word_vectors": vectors}
        how = f"Lbl2Vec on the run's vectors and its encoder's of the keywords, less their mean, since the texts {why}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(**given)
    scores = model.decision_function(model.document_vectors_)
    p = model.predict_proba(model.document_vectors_)
    used = ", ".join(f"{topic} {len(some)}" for topic, some in model.document_indices_.items())
    unknown = [
        f"{str(one.message)[:1].upper()}{str(one.message)[1:]}." for one in caught if "keywords" in str(one.message)
    ]
    lines = [
        f"{how}. Scores are cosines with a topic's vector, the mean of the texts that fit its keywords best ({used}).",
        "Probabilities are a softmax of 20 times the scores, among these topics only, and calibrated on nothing: a "
        "text on none of them gets one all the same. No label was used, so nothing says how accurate this is.",
        *unknown,
    ]
    what = f"{counted(len(rows), 'text')} sorted into {len(topics)} topics by keywords"
    details = {"keywords": {topic: list(some) for topic, some in topics.items()}, "seed": seed}
    return _answer(run, rows, list(topics), scores, p, lines, what, "keywords", out, details)


def texts_again(run: Run) -> tuple[list[str] | None, str]:
    """The run's texts, if all of them can be had again as they were; else None and why not.

    The store holds their beginnings, which are the whole of short ones; the hashes tell.
    """
    hashes = run.items.column("hash")
    known = {_hash(text): text for text in Rows(run.folder).texts(range(len(hashes)))}
    if not all(key in known for key in hashes):
        where = run.config.get("made", {}).get("data")
        if not isinstance(where, str) or not Path(where).exists():
            return None, "are not where they lay"
        from tacit.data import open as open_data

        try:
            source = open_data(where, modality="text", labels="none")
        except TacitError:
            return None, "cannot be read any more"
        known |= dict(zip(source.hashes, source.texts or [], strict=True))
    missing = sum(key not in known for key in hashes)
    if missing:
        return None, f"have changed ({missing:,} of {len(hashes):,})"
    return [known[key] for key in hashes], ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _keyword_vectors(run: Run, topics: Topics) -> dict[str, NDArray[np.float32]]:
    """The encoder's vectors of the keywords that it knows."""
    words = sorted({word for some in topics.values() for word in some})
    known = [word for word in words if (counts := unknown_words(word, run.encoder))[0] < counts[1]]
    vectors = run.embed(known) if known else np.zeros((0, 1), np.float32)
    return {word: vector for word, vector in zip(known, vectors, strict=True) if vector.any()}


def _split(words: Sequence[str]) -> list[str]:
    """Words as they are counted in texts: lower case, without punctuation."""
    from tacit.nn._words import split_words

    return list(dict.fromkeys(word for some in words for word in split_words(some)))


def _instead(run: Run) -> str:
    """What can be done with a run for which names are of no use."""
    few = "label a few items (tacit suggest RUN says which) and: tacit label RUN labels.csv"
    if run.joint is not None:
        return "its images are labelled by names: --classes NAME,NAME"
    if run.modality == "text":
        return f"sort its texts by words: --keywords topics.yaml; or {few}"
    if run.modality == "image":
        return f"learn one: tacit learn DATA --method clip, with a caption beside each image; or {few}"
    return few


def _names(classes: Names) -> list[str]:
    parts = classes.split(",") if isinstance(classes, str) else [str(name) for name in classes]
    names = [name.strip() for name in parts if name.strip()]
    expect("classes", classes, len(names) > 1, "at least two names, with commas between them", 'such as "cat,dog"')
    _check_names("classes", names)
    return names


def _check_names(argument: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    expect(argument, twice, not twice, "different names")
    taken = [name for name in names if name in TAKEN]
    expect(argument, taken, not taken, "names other than item and uri, which are columns of the table")


def _topics(keywords: str | Path | Topics) -> dict[str, list[str]]:
    """Topics and their words, from a mapping or a file."""
    said: Any = keywords if isinstance(keywords, Mapping) else _read(Path(keywords))
    form = 'a topic and its words a line, such as "sport: [game, coach]"'
    expect("keywords", type(said).__name__, isinstance(said, Mapping) and len(said) > 1, f"at least two topics: {form}")
    topics = {}
    for topic, words in said.items():
        parts = words.split(",") if isinstance(words, str) else words
        expect(f"keywords[{topic!r}]", words, isinstance(parts, Sequence), f"a list of words: {form}")
        topics[str(topic).strip()] = [str(word).strip() for word in parts if str(word).strip()]
        expect(f"keywords[{topic!r}]", words, bool(topics[str(topic).strip()]), "at least one word")
    _check_names("keywords", list(topics))
    return topics


def _read(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"keywords={str(path)!r}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"keywords={str(path)!r}: expected yaml, such as 'sport: [game, coach]'; {first}") from error


def _unknown(names: Sequence[str], encoder: torch.nn.Module) -> list[str]:
    """Refuse a name of which the text encoder knows nothing; say which it knows in part."""
    counts = {name: unknown_words(name, encoder) for name in names}
    strange = [name for name, (unknown, total) in counts.items() if unknown >= total]
    expect("classes", strange, not strange, "names that the run's texts have taught it", "use words of the captions")
    partly = [name for name, (unknown, _) in counts.items() if unknown]
    return [f"Known to the text encoder in part only: {listed(partly)}."] if partly else []


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _answer(
    run: Run,
    rows: Rows,
    classes: list[str],
    scores: NDArray[np.float32],
    p: NDArray[np.float32],
    lines: list[str],
    what: str,
    how: str,
    out: str | Path | None,
    details: Mapping[str, Any],
) -> Named:
    """Tables, examples of each class, and what the report reads."""
    best, sure = p.argmax(axis=1), p.max(axis=1).astype(np.float32)
    labels = [classes[i] for i in best]
    sizes = np.bincount(best, minlength=len(classes))
    lines.append(f"Items: {listed([f'{name} {size:,}' for name, size in zip(classes, sizes, strict=True)], 24)}.")
    examples = [_surest(rows, best == number, sure) for number in range(len(classes))]
    groups = [
        Group(f"{name} ({size:,})", some, [f"{100 * sure[row]:.0f} %" for row in some])
        for name, size, some in zip(classes, sizes, examples, strict=True)
    ]
    sheet = rows.sheet(groups)
    if sheet.pictures or sheet.lists:
        lines.append(f"The {sheet.noun} shows of each the {EXAMPLES} likeliest.")
    folder = new_folder(run.folder, out, FOLDER)
    named = {"item": rows.items, "uri": rows.uris}
    found = {"label": labels, "probability": sure.astype(float).round(4), "source": [how] * len(rows)}
    files = write_tables(folder, "predictions", named | found)
    files.append(write_scores(folder, named, classes, scores))
    write_made(folder, what, lines, {"classes": classes, "source": how, **details} | sheet.details())
    return Named(
        folder=folder,
        files=files,
        sheet=sheet.save(folder),
        what=what,
        lines=lines,
        classes=classes,
        labels=labels,
        scores=scores.astype(np.float32),
        probability=sure,
        examples=[rows.items[some].tolist() for some in examples],
    )


def _surest(rows: Rows, chosen: NDArray[np.bool_], sure: NDArray[np.float32]) -> NDArray[np.intp]:
    members = rows.different[chosen[rows.different]]
    return members[np.argsort(-sure[members], kind="stable")][:EXAMPLES]


def write_scores(folder: Path, named: Mapping[str, Any], classes: Sequence[str], scores: NDArray[np.float32]) -> Path:
    """scores.parquet: one row an item, one column a class."""
    import pyarrow
    from pyarrow import parquet

    columns = {name: scores[:, number].astype(np.float32) for number, name in enumerate(classes)}
    place = folder / "scores.parquet"
    parquet.write_table(pyarrow.table(dict(named) | columns), place)
    return place
