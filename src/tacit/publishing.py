"""An encoder in a folder of its own, or on the hub: weights, config and a card that says what they are."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tacit._version import __version__
from tacit.errors import RunError, expect

USES = {
    "image": "encoder(encoder.prepare(images))    # a list of PIL images, or uint8 (n, c, h, w)",
    "text": 'encoder(encoder.prepare(["a text", "another"]))',
    "audio": "encoder(encoder.prepare([(wave, sample_rate)]))    # float arrays (samples,) or (samples, channels)",
    "series": "encoder(encoder.prepare(series))    # float32 (n, channels, time), NaN where there is nothing",
    "table": "encoder(encoder.prepare(rows))    # float32 (n, columns), columns and categories as the config has them",
    "graph": "encoder(encoder.prepare(networks))    # tacit.data.ego_networks(graph)",
}
"""Kind of data -> the line that a reader of the card copies."""

CARD = """---
library_name: tacit
tags:
- tacit
- feature-extraction
---

# {title}

An encoder of {kind} data with {dim} features, made with tacit {version}.

```python
import tacit

encoder = tacit.load_encoder("hub:USER/NAME")    # or the folder
features = {use}
```

On the command line: `tacit embed FOLDER DATA --out RUN`, and to learn on from these weights `tacit learn DATA --init
FOLDER`; or `hub:USER/NAME` in place of the folder.

| | |
|---|---|
{facts}
"""


def write_folder(encoder: nn.Module, place: Path, facts: Mapping[str, Any]) -> Path:
    """Write config.json, model.safetensors and README.md, with the hash of the weights in the card.

    Args:
        encoder: one of tacit's, with `config` and `save_pretrained`.
        place: a folder that is not there yet, or is empty.
        facts: lines of the card's table: name -> value.

    Raises:
        ArgumentError: an encoder of another kind, which nothing could load again.
        RunError: the folder holds something already.
    """
    ours = hasattr(encoder, "save_pretrained") and hasattr(encoder, "config")
    remedy = "take its weights by --to safetensors"
    expect("encoder", type(encoder).__name__, ours, "one of tacit.nn's, which a config names", remedy)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise RunError(f"out={str(place)!r} exists; give another, nothing is overwritten")
    encoder.save_pretrained(place)  # type: ignore[operator]
    digest = hashlib.sha256((place / "model.safetensors").read_bytes()).hexdigest()
    (place / "README.md").write_text(card(encoder, {**facts, "SHA-256 of model.safetensors": digest}), encoding="utf-8")
    return place


def card(encoder: nn.Module, facts: Mapping[str, Any]) -> str:
    """The README.md of an encoder's folder."""
    kind, config = getattr(encoder, "modality", "image"), encoder.config
    table = {"network": config["name"], **facts}  # type: ignore[index]
    return CARD.format(
        title=config["name"],  # type: ignore[index]
        kind=kind,
        dim=encoder.dim,
        version=__version__,
        use=USES[kind],
        facts="\n".join(f"| {name} | {_in_a_cell(value)} |" for name, value in table.items() if value is not None),
    )


def push(encoder: nn.Module, name: str, facts: Mapping[str, Any], **options: Any) -> str:
    """Upload the encoder's folder to the Hugging Face hub as `user/name`, and return the address of the commit.

    Args:
        options: `private` and `token`, as huggingface_hub's `create_repo` takes them; `commit_message`, `revision`.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=options.pop("token", None))
    api.create_repo(name, private=options.pop("private", None), exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = write_folder(encoder, Path(folder, "encoder"), facts)
        return str(api.upload_folder(repo_id=name, folder_path=place, **options))


def _in_a_cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
