"""Run: what `tacit load` gives back of a run folder, and what can be asked of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tacit.building import rebuild
from tacit.checkpoints import plain_errors, read_config, save_tensors
from tacit.embedding import embed, evaluating
from tacit.errors import ArgumentError, MissingExtra, RunError, expect, unknown
from tacit.learner import HOLDERS, encoder_of, load_state
from tacit.nn import encoder as make_encoder
from tacit.nn import read_pretrained_config, read_pretrained_weights
from tacit.publishing import push, write_folder
from tacit.querying import Joint, vector_of

if TYPE_CHECKING:
    from tacit.adding import Added
    from tacit.answers import Answer
    from tacit.generating import Pictures
    from tacit.grouping import Clustered
    from tacit.labelling import Labelled
    from tacit.naming import Named
    from tacit.news import News
    from tacit.segmenting import Masks
    from tacit.store import Hit, Items
    from tacit.suggesting import Suggested
    from tacit.unlearning import Unlearned

    Made = TypeVar("Made", bound=Answer | Pictures | Masks)


@dataclass(frozen=True)
class Group:
    """Items that are (nearly) the same picture."""

    items: Sequence[int]
    uris: Sequence[str]
    similarity: float
    """The least cosine between two that were linked."""
    exact: bool


class Run:
    """A run folder: its encoder, its items, and what can be asked of them. Parts load when they are first asked for.

    Only classes of installed packages are built from a run, and weights are safetensors: a stranger's run runs no code.

    Args:
        folder: of a finished run.
        encoder: for a run that was trained with a module of your own, one like it (its weights are loaded into it).

    Raises:
        RunError: not a run, or of a newer format.
    """

    def __init__(self, folder: str | Path, *, encoder: nn.Module | None = None) -> None:
        self.folder = Path(folder)
        self.config = read_config(self.folder)
        self._given = encoder

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def encoder(self) -> nn.Module:
        """The encoder with its weights, in eval mode: `run.encoder(run.encoder.prepare(images))`."""
        return load_encoder(self.folder, given=self._given)

    @cached_property
    def learner(self) -> nn.Module:
        """The whole learner with its weights, in eval mode, where more than its encoder is wanted.

        Raises:
            RunError: the run holds an encoder alone, as `tacit embed` writes it, or a module of your own.
        """
        learner = rebuild(self.config.get("build", {}), self._given)
        try:
            load_state(learner, _state(self.folder))
        except RuntimeError as error:
            raise RunError(
                f"run={str(self.folder)!r} holds an encoder alone: give the run in which it was trained"
            ) from error
        return learner.eval()

    @property
    def modality(self) -> str | None:
        """Kind of data that the run is of: image, text... None where a run does not say."""
        return self.config.get("made", {}).get("description", {}).get("modality")

    @cached_property
    def joint(self) -> Joint | None:
        """The space that images and texts share, of a run of pairs; None of all others."""
        return Joint(self.learner) if Joint.described(self.config.get("build", {})) else None

    @cached_property
    def _joint_vectors(self) -> np.ndarray:
        assert self.joint is not None
        return self.joint.of_items(self.items.vectors())

    @cached_property
    def items(self) -> Items:
        """The table of items."""
        from tacit.store import Items

        return Items.open(self.folder)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures of the report.

        Raises:
            RunError: the run is unfinished.
        """
        place = self.folder / "summary.json"
        if not place.exists():
            raise RunError(f"run={str(self.folder)!r} is unfinished: the command that began it goes on with it")
        return json.loads(place.read_text(encoding="utf-8"))

    def numbers(self) -> list[str]:
        """The three numbers a person wants, in words."""
        return _numbers(self.summary)

    def next_commands(self) -> list[str]:
        """What to type next."""
        return list(self.summary.get("next", []))

    def embed(self, data: Any, **options: Any) -> np.ndarray:
        """Vectors of other data, (n, dim); as `tacit.embed`. Tables and sounds are read like those learned from."""
        like = self.config.get("made", {}).get("description")
        return embed(self.encoder, data, **{"like": like, **options})

    def search(self, query: Any, k: int = 10, *, exact: bool = False) -> list[Hit]:
        """The k items most like another.

        From 50,000 items on an index finds them, and of the nearest 10 at least 95 % (`run.items.index` says how many).

        A run of pairs (CLIP and its kin) is searched in the space that its images and texts share, by either.

        Args:
            query: an item number of this run; of images: a path, a PIL image or an array (c, h, w), and of a run of
                pairs also a text; of texts: a text, or the path of a text file; of sounds: a path, or (array, sample
                rate); of series, tables and graphs: an array like a row of `x`.
            k: how many, fewer where the run has fewer.
            exact: compare with all items, however many there are.

        Raises:
            ArgumentError: nothing that the encoder reads, or no such item.
            DataError: a file that cannot be read.
        """
        expect("k", k, isinstance(k, int) and k >= 1, "at least 1")
        item = int(query) if isinstance(query, int | np.integer) else None
        stored = None if item is None else self.items.rows([item], ["vector"])[0]["vector"]
        if self.joint is None:
            asked = vector_of(query, self.encoder, self.modality) if stored is None else stored
            return self.items.search(asked, k, exact=exact)
        asked = self.joint.of_query(query) if stored is None else self.joint.of_items(stored[None])[0]
        return self.items.best(self._joint_vectors @ asked, k)

    def duplicates(self) -> list[Group]:
        """Groups of equal or nearly equal items, the most alike first."""
        groups = self.summary["duplicates"]
        numbers = sorted({item for group in groups for item in group["items"]})
        rows = self.items.rows(numbers, ["uri"]) if numbers else []
        uris = {number: row["uri"] for number, row in zip(numbers, rows, strict=True)}
        return [
            Group(group["items"], [uris[i] for i in group["items"]], group["similarity"], group["exact"])
            for group in groups
        ]

    def report(self, *, thumbnails: bool | None = None) -> Path:
        """Write report.html anew from the run's files, and return its path.

        Args:
            thumbnails: whether it holds pictures of the items; as last time, if None.
        """
        from tacit.report import write_report

        return write_report(self.folder, thumbnails=thumbnails)

    def generate(self, n: int = 16, **options: Any) -> Pictures:
        """Draw new pictures with the run's diffusion model, and rebuild the report; options: `tacit.generating`'s."""
        from tacit.generating import generate

        return self._shown(generate(self.folder, self.learner, n, **options))

    def restore(self, *images: str | Path, task: str, **options: Any) -> Pictures:
        """Restore image files with the run's diffusion model, and rebuild the report; options: `tacit.generating`'s."""
        from tacit.generating import restore

        return self._shown(restore(self.folder, self.learner, images, task=task, **options))

    def segment(self, *images: str | Path, **options: Any) -> Masks:
        """Draw masks of the object in image files, and rebuild the report; options: `tacit.segmenting`'s."""
        from tacit.segmenting import segment

        return self._shown(segment(self.folder, self.learner, images, **options))

    def label(
        self,
        labels: str | Path | Mapping[Any, Any] | None = None,
        *,
        classes: str | Sequence[str] | None = None,
        keywords: str | Path | Mapping[str, Sequence[str]] | None = None,
        **options: Any,
    ) -> Labelled | Named:
        """Label all items, and rebuild the report: from a few labels, or by names alone.

        Args:
            labels: items and their labels; options: `tacit.labelling.label`'s.
            classes: names of classes, for a run of images that learned from texts beside them; options:
                `tacit.naming.by_classes`'s.
            keywords: topics and their words, for a run of texts; options: `tacit.naming.by_keywords`'s.

        Raises:
            ArgumentError: none of the three, or several; and as those functions.
        """
        given = {"labels": labels, "classes": classes, "keywords": keywords}
        said = [name for name, value in given.items() if value is not None]
        expect("label", said, len(said) == 1, "one of labels, classes and keywords")
        from tacit import labelling, naming

        if classes is not None:
            return self._shown(naming.by_classes(self, classes, **options))
        if keywords is not None:
            return self._shown(naming.by_keywords(self, keywords, **options))
        return self._shown(labelling.label(self.folder, labels, **options))  # type: ignore[arg-type]

    def suggest(self, n: int = 50, **options: Any) -> Suggested:
        """Choose the items to label next, and rebuild the report; options: `tacit.suggesting.suggest`'s."""
        from tacit.suggesting import suggest

        return self._shown(suggest(self.folder, n, **options))

    def cluster(self, k: int | str = "auto", **options: Any) -> Clustered:
        """Group the items, and rebuild the report; options: `tacit.grouping.cluster`'s."""
        from tacit.grouping import cluster

        return self._shown(cluster(self.folder, k, **options))

    def unlearn(self, items: str | Path | Sequence[str | int], **options: Any) -> Unlearned:
        """Write a new run without some items and their influence, and an audit; options: `tacit.unlearning`'s."""
        from tacit.unlearning import unlearn

        return unlearn(self, items, **options)

    def add(self, data: Any, **options: Any) -> Added:
        """Add data: embed what is new, take out what is gone from the same place; options: `tacit.adding.add`'s."""
        from tacit.adding import add

        return add(self, data, **options)

    def save_query(self, name: str, query: str | int) -> None:
        """Keep a query under a name, for `news`."""
        from tacit.news import save_query

        save_query(self, name, query)

    def forget_query(self, name: str) -> None:
        """Take a query that was kept out again; raises ArgumentError where there is none of that name."""
        from tacit.news import forget_query

        forget_query(self, name)

    def star(self, items: int | Sequence[int]) -> None:
        """Star items; `news` counts them for more."""
        from tacit.news import star

        star(self, items)

    def note(self, item: int, text: str) -> None:
        """Write a note on an item."""
        from tacit.news import note

        note(self, item, text)

    def news(self, since: str = "7d") -> News:
        """Write news.html and news.xml: what is new and trending for each saved query; see `tacit.news.write_news`."""
        from tacit.news import write_news

        return write_news(self, since)

    def export(self, to: str = "safetensors", path: str | Path | None = None) -> Path:
        """Write the encoder alone.

        Args:
            to: `safetensors`, the weights alone; `folder`, weights, config and card, which `tacit embed`, `tacit learn
                --init` and `tacit.load_encoder` load again; or, of images, `onnx` (input: float images in [0, 1], (n,
                channels, size, size), normalisation included; any n).
            path: of the file or folder; in the run folder if left out.

        Raises:
            ArgumentError: `onnx` of an encoder that reads no images.
            MissingExtra: onnx is not installed.
            RunError: the file exists already, or cannot be written.
        """
        if to not in EXPORTS:
            raise unknown("to", to, EXPORTS)
        reads = getattr(self.encoder, "modality", "image")
        remedy = f"an encoder of {reads} data prepares it by what it has fitted, which ONNX does not hold"
        expect("to", to, to != "onnx" or reads == "image", "safetensors or folder", remedy)
        place = Path(path or self.folder / ("encoder" if to == "folder" else f"encoder.{to}"))
        with plain_errors(place):
            if to == "folder":
                return write_folder(self.encoder, place, self._facts())
            if place.exists() and path is not None:
                raise RunError(f"path={str(place)!r} exists; give another, nothing is overwritten")
            place.parent.mkdir(parents=True, exist_ok=True)
            if to == "safetensors":
                save_tensors(place, self.encoder.state_dict())
            else:
                _export_onnx(self.encoder, place)
        return place

    def push_to_hub(self, name: str, **options: Any) -> Any:
        """Publish the encoder on the Hugging Face hub, as `user/name`; options: `tacit.publishing.push`'s."""
        return push(self.encoder, name, self._facts(), **options)

    def _facts(self) -> dict[str, Any]:
        """What the card of the encoder says of the run."""
        made = self.config.get("made", {}).get("description", {})
        return {
            "method": self.config.get("build", {}).get("system"),
            "learned from": f"{made['n']:,} items, no label" if made.get("n") else None,
            "steps": self.config.get("steps"),
        }

    def _shown(self, made: Made) -> Made:
        """The report with what was made in the run's folder; a run of `tacit.fit`, without summary, has none."""
        if (self.folder / "summary.json").exists() and made.folder.parent.parent == self.folder:
            self.report()
        return made


EXPORTS = ("safetensors", "onnx", "folder")

WEIGHTS = Path(__file__).parent / "weights"
"""Encoders that tacit brings along; README.md there says what they were made from."""


def shipped(name: str) -> dict[str, Any]:
    """What small.json says of `tacit:small`: the encoder's config, how it was trained, the hash of its weights.

    Raises:
        ArgumentError: there is none of that name.

    >>> shipped("tacit:small")["encoder"]["name"]
    'resnet18'
    """
    place = WEIGHTS / f"{name.partition(':')[2]}.json"
    if not place.is_file():
        raise unknown("init", name, [f"tacit:{one.stem}" for one in sorted(WEIGHTS.glob("*.json"))])
    return json.loads(place.read_text(encoding="utf-8"))


def network_of(source: str) -> dict[str, Any] | None:
    """Config of the encoder whose weights lie there, as `load_encoder` takes them; None where nothing there says it.

    Raises:
        ArgumentError: there is no tacit:NAME of that name.
        RunError: a folder that is neither a run nor an exported encoder.
        DataError: there is none of that name on the hub.
    """
    if source.endswith(".safetensors") or source.split(":")[0] in ("timm", "hf"):
        return None
    if source.startswith("tacit:"):
        return dict(shipped(source)["encoder"])
    if _is_exported(source):
        return read_pretrained_config(source.removeprefix("hub:"))
    return read_config(source).get("build", {}).get("encoder")


def load(path: str | Path, *, encoder: nn.Module | None = None) -> Run:
    """Open a run folder; see `Run`.

    Raises:
        RunError: not a run, or of a newer format.
    """
    return Run(path, encoder=encoder)


def load_encoder(
    source: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    given: nn.Module | None = None,
) -> nn.Module:
    """An encoder with weights.

    Args:
        source: a run folder, a folder or `hub:USER/NAME` that holds an exported encoder, a .safetensors file,
            `tacit:small`, `timm:NAME` or `hf:NAME`.
        config: of the encoder to load a file's or run's weights into; a run knows its own.
        image_size: for `timm:` and `hf:`, in place of the model's own.
        given: an encoder of your own to load a run's weights into.

    Raises:
        ArgumentError: weights that do not fit the encoder.
        RunError: not a run; or one with a module of your own that was not given.
    """
    text = str(source)
    if text.split(":")[0] in ("timm", "hf"):
        return make_encoder(text, **({} if image_size is None else {"image_size": image_size})).eval()
    if _is_exported(text):
        return _exported(text, config)
    if text.startswith("tacit:"):
        size = {} if image_size is None else {"image_size": image_size}
        encoder = make_encoder(**(config or shipped(text)["encoder"] | size))
        state = load_file(WEIGHTS / f"{text.partition(':')[2]}.safetensors")
        return _filled(encoder, _for_grey(state) if encoder.in_channels == 1 else state, text)
    if text.endswith(".safetensors"):
        expect("init", text, config is not None, "a named encoder to load the file into", "say which: model=...")
        return _filled(make_encoder(**dict(config or {})), _encoder_part(load_file(text)), text)
    described = read_config(source).get("build", {})
    state = _encoder_part(_state(Path(source)))
    if given is not None:
        return _filled(given, state, text)
    wanted = described.get("encoder")
    _expect_same_network(text, wanted, config)
    if described.get("system") is None or config is not None:
        if wanted is None:
            raise RunError(
                f"run={text!r}: its encoder is a module of your own: tacit.load(path, encoder=...) with one like it"
            )
        return _filled(make_encoder(**(config or wanted)), state, text)
    return _filled(encoder_of(rebuild(described)), state, text)


def _is_exported(source: str) -> bool:
    """Whether it is what `export(to="folder")` or `export(to="hub")` wrote, and no run."""
    if source.startswith("hub:"):
        return True
    try:
        said = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever takes it for a run says what is wrong with it
    return isinstance(said, dict) and said.get("library") == "tacit"


def _exported(source: str, config: Mapping[str, Any] | None) -> nn.Module:
    place = source.removeprefix("hub:")
    wanted = read_pretrained_config(place)
    _expect_same_network(source, wanted, config)
    return _filled(make_encoder(**(config or wanted)), read_pretrained_weights(place), source)


def _expect_same_network(source: str, has: Mapping[str, Any] | None, config: Mapping[str, Any] | None) -> None:
    if config is not None and (has is None or config["name"] != has["name"]):
        network = f"its network is {has['name']}" if has else "it holds no network that has a name"
        raise ArgumentError(f"init={source!r}: {network}; expected one of {config['name']}")


def _for_grey(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for three channels -> for one, so that a grey picture gives what it gives repeated in three."""
    grey = dict(state) | {name: state[name][:1] for name in ("mean", "std")}
    first = {name: value for name, value in state.items() if value.ndim == 4 and value.shape[1] == 3}
    return grey | {name: value.float().sum(1, keepdim=True) for name, value in first.items()}


def _state(run: Path) -> dict[str, Tensor]:
    place = run / "model.safetensors"
    if not place.exists():
        raise RunError(f"run={str(run)!r} is unfinished: the command that began it goes on with it")
    return load_file(place)


def _encoder_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's own values: of a learner, of its student or classifier, or all where there is no other part."""
    for prefix in ("encoder.", *(f"{holder}.encoder." for holder in HOLDERS), "image_encoder."):
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if part:
            return part
    return dict(state)


def _filled(encoder: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    try:
        load_state(encoder, state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ArgumentError(
            f"{source!r}: its weights do not fit the encoder {type(encoder).__name__}: {first}"
        ) from error
    return encoder.eval()


def _export_onnx(encoder: nn.Module, place: Path) -> None:
    import importlib.util

    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "export", "export to onnx")
    size, channels = int(encoder.image_size), int(encoder.in_channels)  # type: ignore[arg-type]
    example = torch.rand(2, channels, size, size)
    draft = place.with_name(f".draft-{place.name}")
    batch = torch.export.Dim("n", min=1)
    with evaluating(encoder):
        torch.onnx.export(
            encoder,
            (example,),
            str(draft),
            input_names=["images"],
            output_names=["vectors"],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    draft.replace(place)


def _numbers(summary: Mapping[str, Any]) -> list[str]:
    from tacit.report._words import encoder_name, labelled

    lines = []
    health = summary.get("health") or {}
    rank = health.get("effective_rank")
    said = [f"{health['word']} ({health['reason']})"] if health.get("word") else []
    said += [f"effective rank {rank['value']:.1f} ({rank['low']:.1f}-{rank['high']:.1f})"] if rank else []
    if said:
        lines.append(f"health: {', '.join(said)}")
    views = summary.get("neighbours")
    if views and views.get("raw"):
        lines.append(
            f"neighbours: {views['trained']['value']:.0%} of views are nearest to their original, "
            f"{views['raw']['value']:.0%} by raw input"
        )
    elif (known := labelled(summary)) is not None:
        name, trained, best = known
        against = f", {best[1]['value']:.0%} by {encoder_name(best[0])}" if best else ""
        lines.append(f"labels: {trained['value']:.0%} right about {name} by the nearest others{against}")
    clusters = summary["clusters"]
    low, high = clusters["range"]
    stability = clusters["stability"]
    found = f"{clusters['n']} (plausible: {low} to {high})"
    if clusters.get("one_cloud"):
        found = f"none that stand apart, one cloud cut into {clusters['n']} parts"
    lines.append(
        f"clusters: {found}, stability {stability['value']:.2f} "
        f"({stability['low']:.2f}-{stability['high']:.2f}) over seeds"
    )
    return lines
