"""encoder: an encoder of any kind of data, by its name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from tacit.errors import DataError, unknown
from tacit.nn import _build as images
from tacit.nn import (
    _hub,
    _ssm,  # noqa: F401  # enters its body in TEXT
)
from tacit.nn._audio import AudioCNN, AudioConv, AudioTransformer, LogMelStatistics
from tacit.nn._conditional_unet import ConditionalUNet
from tacit.nn._encoder import ImageEncoder
from tacit.nn._graph import GIN
from tacit.nn._graph_features import GraphFeaturesEncoder
from tacit.nn._item_encoder import ItemEncoder
from tacit.nn._lsa import LSAEncoder
from tacit.nn._ngrams import NgramBag
from tacit.nn._series import SeriesCNN, SeriesTransformer
from tacit.nn._table import TableMLP
from tacit.nn._text import TEXT, TextEncoder

ENCODERS: dict[str, type[ItemEncoder | ImageEncoder]] = {
    "unet-tokens": ConditionalUNet,
    **dict.fromkeys(TEXT, TextEncoder),
    "lsa": LSAEncoder,
    "sent2vec": NgramBag,
    "audio-cnn": AudioCNN,
    "audio-conv": AudioConv,
    "audio-transformer": AudioTransformer,
    "audio-log-mel": LogMelStatistics,
    "series-transformer": SeriesTransformer,
    "series-cnn": SeriesCNN,
    "table-mlp": TableMLP,
    "gin": GIN,
    "graph-features": GraphFeaturesEncoder,
}
"""Encoders of what is no image, and those of images that came after `nn._build`, by name.

Recorded evidence stands on `_build`, so a new name is added here.
"""

OWN = {
    "dcgan": "tacit.generate._dcgan:DiscriminatorTrunk",
    "gedi": "tacit.cluster._gedi:EnergyTrunk",
    "mask-unet": "tacit.applications._mask_networks:TinyUNet",
    "mask-fcn": "tacit.applications._mask_networks:FullyConvolutional",
}
"""Encoders that a system's file keeps to itself, and where: such files stand on this one, so import is put off."""

SAID = {"depth", "source", "body"}
"""Arguments that the name says."""


def encoder(name: str, **config: Any) -> Any:
    """An encoder by its name, with random weights; `encoder(**other.config)` is the same network as `other`.

    Args:
        name: for images `"resnet8"` (width 16), `"resnet18"`, `"resnet34"`, `"resnet50"`; `"conv4"`; `"unet"`,
            `"unet-tokens"`; `"vit"`, `"vit-micro"`, `"vit-tiny"`, `"vit-small"`; or `"timm:NAME"`, `"hf:NAME"`, which
            bring their weights unless `pretrained=False`. For texts `"text-transformer"`, `"text-bilstm"`,
            `"text-gated-cnn"`, `"text-bag"`, `"text-ssm"`, `"lsa"`, `"sent2vec"`; for sounds `"audio-cnn"`,
            `"audio-conv"`, `"audio-transformer"`, `"audio-log-mel"`; for series `"series-transformer"`,
            `"series-cnn"`; for tables `"table-mlp"`; for graphs `"gin"`, `"graph-features"`.
        config: arguments of the class: `ResNet`, `Conv4`, `UNet`, `ViT`, `TimmEncoder`, `TransformersEncoder`,
            `TextEncoder`, `AudioCNN`, `SeriesTransformer`, `TableMLP`, `GIN`...

    Returns:
        an `ImageEncoder` or an `ItemEncoder`.

    Raises:
        ArgumentError: an unknown name or argument; the nearest is suggested.
        MissingExtra: timm or transformers is needed and not installed.

    >>> encoder("resnet8", image_size=16).dim, encoder("text-bag", dim=32).config["vocab_size"]
    (64, 8000)
    """
    if name not in ENCODERS and name not in OWN:
        return images.encoder(name, **config)
    known = encoder_arguments(name)
    for argument in config:
        if argument not in known:
            raise unknown(f"argument of {name}", argument, known)
    return _class_of(name)(**({"body": TEXT[name]} if name in TEXT else {}), **config)


def encoder_arguments(name: str) -> set[str]:
    """What `encoder` takes beside this name."""
    return set(inspect.signature(_class_of(name)).parameters) - SAID


def read_pretrained_config(source: str, **download: Any) -> dict[str, Any]:
    """What config.json of an exported encoder names, in a folder or on the hub.

    Raises:
        DataError: there is none, or it is another library's.
    """
    return _hub._read_config(_hub._file(source, "config.json", download))


def read_pretrained_weights(source: str, **download: Any) -> dict[str, Tensor]:
    """The weights of an exported encoder, in a folder or on the hub.

    Raises:
        DataError: there are none, or they are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(_hub._file(source, "model.safetensors", download))
    except SafetensorError as error:
        raise DataError(f"the weights in {source} are damaged: {error}") from error


def modality_of(name: str) -> str:
    """What kind of data the encoder of this name reads: image, text, audio, series, table or graph.

    >>> modality_of("gin"), modality_of("resnet8")
    ('graph', 'image')
    """
    return str(getattr(_class_of(name), "modality", "image"))


def _class_of(name: str) -> Callable[..., Any]:
    if name in OWN:
        module, _, kind = OWN[name].partition(":")
        return getattr(importlib.import_module(module), kind)
    return ENCODERS[name] if name in ENCODERS else images._builder(name)[0]
