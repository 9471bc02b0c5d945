"""Encoders in a folder or on the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from tacit._version import __version__
from tacit.errors import DataError, expect

FORMAT = 1
CARD = """---
library_name: tacit
tags:
- tacit
- feature-extraction
---

# {name}

An encoder with {dim} features, made with tacit {version}.

```python
from tacit.nn import ImageEncoder

encoder = ImageEncoder.from_pretrained("HUB NAME OR FOLDER")
features = encoder(encoder.prepare(images))    # a list of PIL images, or uint8 (n, c, h, w)
```
"""


class Hub:
    """`save_pretrained`, `from_pretrained` and `push_to_hub`, as huggingface_hub's model mixin has them.

    Its `push_to_hub` is the mixin's. Its loading is not, since that falls back to pickles: weights are safetensors or
    nothing here, and the network is built from a config that names one of tacit's encoders, so that no code is loaded.
    """

    dim: int
    config: dict[str, Any]

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write config.json, model.safetensors and README.md into a folder, which is made if it does not exist.

        Other arguments, which the mixin passes, are not needed: `self.config` says it all.
        """
        from safetensors.torch import save_model

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        described = {"library": "tacit", "format": FORMAT, "tacit": __version__, "encoder": self.config}
        (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        save_model(self, str(folder / "model.safetensors"))  # type: ignore[arg-type]
        card = CARD.format(name=self.config["name"], version=__version__, dim=self.dim)
        (folder / "README.md").write_text(card, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, source: str | Path, **download: Any) -> Self:
        """An encoder from a folder or a repository of the hub, in evaluation mode.

        Args:
            source: a folder that `save_pretrained` wrote, or the hub's `"user/name"`.
            download: for the hub: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            DataError: a file is missing, or is not what `save_pretrained` writes.
            ArgumentError: it holds another class of encoder than the one asked for.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_model

        from tacit.nn._build import encoder

        built = encoder(**_read_config(_file(source, "config.json", download)))
        expect("source", str(source), isinstance(built, cls), f"a {cls.__name__}", f"it holds a {type(built).__name__}")
        try:
            load_model(built, str(_file(source, "model.safetensors", download)))
        except (SafetensorError, RuntimeError) as error:
            raise DataError(f"the weights in {source} are damaged, or not of its config.json: {error}") from error
        return built.eval()  # type: ignore[return-value]

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the encoder to the hub, and return the address of the commit.

        Args:
            repo_id: `"user/name"`.
            options: those of `huggingface_hub.ModelHubMixin`: `private`, `token`, `commit_message`, `branch`...
        """
        from huggingface_hub import ModelHubMixin

        return ModelHubMixin.push_to_hub(self, repo_id, **options)  # type: ignore[arg-type]


def _file(source: str | Path, name: str, download: dict[str, Any]) -> Path:
    path = Path(source) / name
    if path.parent.is_dir():
        if not path.is_file():
            raise DataError(f"{source} holds no {name}: expected a folder that save_pretrained wrote")
        return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(str(source), name, **download))
    except (EntryNotFoundError, HFValidationError, RepositoryNotFoundError) as error:
        raise DataError(f"{source} is no folder, and on the hub: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(described, dict) or described.get("library") != "tacit" or "encoder" not in described:
        raise DataError(
            f"{path} is not tacit's: expected what save_pretrained wrote; networks of transformers: hf:NAME"
        )
    if described["format"] > FORMAT:
        raise DataError(f"{path} has format {described['format']}, this tacit reads up to {FORMAT}: update tacit")
    return described["encoder"]
