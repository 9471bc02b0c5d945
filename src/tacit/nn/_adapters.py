"""Encoders of timm and transformers in tacit's form. Neither runs remote code; both load safetensors only."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tacit.errors import ArgumentError, DataError, MissingExtra, expect, nearest, unknown
from tacit.nn._encoder import ImageEncoder

SAFE_FILES = ("model.safetensors", "open_clip_model.safetensors")


class TimmEncoder(ImageEncoder):
    """A network of timm (Wightman, 2019) without its classifier: images -> pooled features.

    Mean and deviation come from `model.pretrained_cfg`.

    Args:
        source: a name in timm's registry, such as `"vit_small_patch16_dinov3.lvd1689m"`.
        pretrained: with the published weights; else random ones.
        image_size: side in pixels; None: the network's own.
        in_channels: channels of the images; timm adapts the first layer. (Grey images need not be adapted to: `prepare`
            repeats them.)

    Raises:
        MissingExtra: timm is not installed.
        ArgumentError: timm has no such network.
        DataError: its weights are not published as safetensors.
    """

    def __init__(
        self, source: str, *, pretrained: bool = True, image_size: int | None = None, in_channels: int = 3
    ) -> None:
        timm = _import("timm", "timm", f"timm:{source}")
        if not timm.is_model(source):
            raise _not_of_timm(source, timm.list_models())
        try:
            published = timm.get_pretrained_cfg(source)
        except RuntimeError as error:
            raise ArgumentError(f"timm={source!r}: {error}") from error
        options: dict[str, Any] = {"num_classes": 0, "in_chans": in_channels}
        if image_size is not None and published is not None and published.fixed_input_size:
            options["img_size"] = image_size
        if pretrained:
            file = _timm_weights(source, published)
            options["pretrained_cfg_overlay"] = {"file": file, "custom_load": False}
        model = timm.create_model(source, pretrained=pretrained, **options)
        settings = model.pretrained_cfg
        image_size = image_size or settings["input_size"][-1]
        config = {"name": f"timm:{source}", "pretrained": False, "image_size": image_size, "in_channels": in_channels}
        dim = getattr(model, "head_hidden_size", None) or model.num_features
        super().__init__(dim=dim, image_size=image_size, in_channels=in_channels, config=config)
        self.model = model
        _set_statistics(self, settings["mean"], settings["std"])

    def forward(self, x: Tensor) -> Tensor:
        """The network's own pooling: (n, c, h, w) in [0, 1] -> (n, dim)."""
        return self.model(self.normalize(x))

    def tokens(self, x: Tensor) -> Tensor:
        """Features at each place before pooling, no class or register tokens: (n, c, h, w) -> (n, t, features)."""
        features = self.model.forward_features(self.normalize(x))
        if features.ndim == 3:
            return features[:, getattr(self.model, "num_prefix_tokens", 0) :]
        channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)


class TransformersEncoder(ImageEncoder):
    """A vision network of transformers (Wolf et al., 2020): images -> pooled features.

    Of a network of images and texts, the image tower. Mean and deviation come from preprocessor_config.json, where it
    exists.

    Args:
        source: a name on the hub, a local folder, or a transformers config (for random weights).
        pretrained: with its weights; else random ones.
        image_size: side in pixels; None: the network's own.
        pool: `"pooler"`, the network's own; `"mean"` of the last hidden state over tokens or space; `"auto"`: the
            first, unless there is none or the weights come without it, which would leave it random.
        hf_config: the network as `config` keeps it; then nothing is looked up, and the weights are random.

    Raises:
        MissingExtra: transformers is not installed.
        ArgumentError: it is no network of images.
        DataError: it cannot be loaded, or its weights are not safetensors.
    """

    def __init__(
        self,
        source: Any,
        *,
        pretrained: bool = True,
        image_size: int | None = None,
        pool: str = "auto",
        hf_config: dict[str, Any] | None = None,
    ) -> None:
        if pool not in ("auto", "pooler", "mean"):
            raise unknown("pool", pool, ("auto", "pooler", "mean"))
        _import("transformers", "text", f"hf:{source}")
        settings = _hf_config(source, hf_config)
        if pretrained and hf_config is None and isinstance(source, str):
            model, untrained = _hf_pretrained(source, settings)
            statistics = _hf_statistics(source)
        else:
            model, untrained, statistics = _hf_random(settings), False, {}
        own_size = _hf_image_size(settings) or statistics.get("size") or 224
        image_size, in_channels = image_size or own_size, getattr(settings, "num_channels", 3)
        options = {}
        if image_size != own_size and "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
            options["interpolate_pos_encoding"] = True
        output = _probe(model, in_channels, image_size, options)
        if pool == "auto":
            pool = "mean" if untrained or getattr(output, "pooler_output", None) is None else "pooler"
        if pool == "mean" and isinstance(getattr(model, "pooler", None), nn.Module):
            model.pooler = None  # type: ignore[assignment]  # else it would hold parameters that nothing reads
        config = {
            "name": f"hf:{source if isinstance(source, str) and not Path(source).is_dir() else settings.model_type}",
            "image_size": image_size,
            "pool": pool,
            "hf_config": _plain(settings),
        }
        dim = _pooled(output, pool).shape[1]
        super().__init__(dim=dim, image_size=image_size, in_channels=in_channels, config=config)
        self.model, self._options = model, options
        _set_statistics(self, statistics.get("mean"), statistics.get("std"))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in [0, 1] -> (n, dim), pooled as `pool` says."""
        return _pooled(self._output(x), self.config["pool"])

    def tokens(self, x: Tensor) -> Tensor:
        """The last hidden state, class token included where there is one: (n, c, h, w) -> (n, t, features)."""
        state = self._output(x).last_hidden_state
        return state if state.ndim == 3 else state.flatten(2).transpose(1, 2)

    def _output(self, x: Tensor) -> Any:
        return self.model(pixel_values=self.normalize(x), **self._options)


def _import(package: str, extra: str, purpose: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(package, extra, purpose) from error


def _set_statistics(encoder: ImageEncoder, mean: Any, std: Any) -> None:
    """Set mean and deviation from the numbers of three colours, or their average for other channels."""
    for buffer, values in ((encoder.mean, mean), (encoder.std, std)):
        if values is not None:
            values = torch.tensor(values, dtype=torch.float32)
            buffer.copy_(values if len(values) == len(buffer) else values.mean())


def _not_of_timm(source: str, models: list[str]) -> ArgumentError:
    guess = nearest(source, models)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return ArgumentError(f"timm={source!r}: expected a name that timm.list_models() gives{hint}")


def _timm_weights(source: str, published: Any) -> str:
    """The local path of a timm network's weights, downloaded if need be. timm itself would take pickles too."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repository: Any = getattr(published, "hf_hub_id", None)
    for name in SAFE_FILES if repository is not None else ():
        try:
            return hf_hub_download(repository, name)
        except EntryNotFoundError:
            continue
    raise DataError(f"timm:{source} has no weights as safetensors: expected a network that has, or pretrained=False")


def _hf_config(source: Any, hf_config: dict[str, Any] | None) -> Any:
    from transformers import AutoConfig

    settings = source
    try:
        if hf_config is not None:
            settings = AutoConfig.for_model(**{key: value for key, value in hf_config.items() if key != "auto_map"})
        elif isinstance(source, str):
            settings = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(f"hf:{source} cannot be loaded: {error}") from error
    return getattr(settings, "vision_config", settings)


def _hf_pretrained(source: str, settings: Any) -> tuple[nn.Module, bool]:
    """The network in float32, and whether its pooler came without weights."""
    from transformers import AutoModel

    try:
        model, loading = AutoModel.from_pretrained(
            source, config=settings, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise DataError(f"hf:{source} cannot be loaded (weights must be safetensors): {error}") from error
    return model.float(), any(key.startswith("pooler.") for key in loading["missing_keys"])


def _hf_random(settings: Any) -> nn.Module:
    from transformers import AutoModel

    return AutoModel.from_config(settings, trust_remote_code=False)


def _hf_statistics(source: str) -> dict[str, Any]:
    """mean, std and size from preprocessor_config.json; empty if there is none."""
    from transformers.utils import cached_file

    path = cached_file(
        source,
        "preprocessor_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return {}
    said = json.loads(Path(path).read_text(encoding="utf-8"))
    size = said.get("crop_size") or said.get("size")
    size = size if isinstance(size, int | None) else size.get("height") or size.get("shortest_edge")
    if not said.get("do_normalize", True):
        return {"mean": [0.0], "std": [1.0], "size": size}
    return {"mean": said.get("image_mean"), "std": said.get("image_std"), "size": size}


def _hf_image_size(settings: Any) -> int | None:
    size = getattr(settings, "image_size", None)
    return size if isinstance(size, int | None) else size[0]


def _plain(settings: Any) -> dict[str, Any]:
    """The config as JSON, without the path or versions of the machine that it was made on."""
    plain = json.loads(settings.to_json_string(use_diff=False))
    for key in ("_name_or_path", "transformers_version", "auto_map", "architectures"):
        plain.pop(key, None)
    return plain


@torch.no_grad()
def _probe(model: nn.Module, in_channels: int, image_size: int, options: dict[str, Any]) -> Any:
    expected = "a network of images (one whose input is pixel_values)"
    expect("hf", type(model).__name__, getattr(model, "main_input_name", "") == "pixel_values", expected)
    training = model.training
    output = model.eval()(pixel_values=torch.zeros(1, in_channels, image_size, image_size), **options)
    model.train(training)
    if getattr(output, "last_hidden_state", None) is None:
        raise ArgumentError(f"hf={type(model).__name__}: expected {expected} with a last hidden state")
    return output


def _pooled(output: Any, pool: str) -> Tensor:
    if pool == "pooler":
        return output.pooler_output.flatten(1)
    state = output.last_hidden_state
    return state.mean(1) if state.ndim == 3 else state.mean((2, 3))
