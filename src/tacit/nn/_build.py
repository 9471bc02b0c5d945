"""encoder: an encoder by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tacit.errors import unknown
from tacit.nn._adapters import TimmEncoder, TransformersEncoder
from tacit.nn._conv4 import Conv4
from tacit.nn._encoder import ImageEncoder
from tacit.nn._resnet import BLOCKS, ResNet
from tacit.nn._unet import UNet
from tacit.nn._vit import SIZES, ViT


def encoder(name: str, **config: Any) -> ImageEncoder:
    """An image encoder by its name, with random weights; `encoder(**other.config)` is the same network as `other`.

    Args:
        name: `"resnet8"` (width 16), `"resnet18"`, `"resnet34"`, `"resnet50"`; `"conv4"`; `"unet"`; `"vit"`,
            `"vit-micro"`, `"vit-tiny"`, `"vit-small"`; or `"timm:NAME"`, `"hf:NAME"`, which bring their weights
            unless `pretrained=False`.
        config: arguments of `ResNet`, `Conv4`, `UNet`, `ViT`, `TimmEncoder` or `TransformersEncoder`.

    Raises:
        ArgumentError: an unknown name or argument; the nearest is suggested.
        MissingExtra: timm or transformers is needed and not installed.

    >>> encoder("resnet8", image_size=16).dim, encoder("vit-micro").config["patch_size"]
    (64, 4)
    """
    build, known = _builder(name)
    arguments = set(inspect.signature(build).parameters) - {"depth", "source"}  # which the name says
    for argument in config:
        if argument not in arguments:
            raise unknown(f"argument of {name}", argument, arguments)
    return build(**{**known, **config})


def _builder(name: str) -> tuple[Callable[..., ImageEncoder], dict[str, Any]]:
    """The class, and the arguments that the name stands for."""
    depths: dict[str, dict[str, Any]] = {f"resnet{depth}": {"depth": depth} for depth in BLOCKS}
    depths["resnet8"]["width"] = 16
    if name in depths:
        return ResNet, depths[name]
    if name in ("conv4", "unet"):
        return (Conv4 if name == "conv4" else UNet), {}
    if name in ("vit", *SIZES):
        return ViT, dict(SIZES.get(name, {}))
    library, _, inner = name.partition(":")
    if inner and library in ("timm", "hf"):
        return (TimmEncoder if library == "timm" else TransformersEncoder), {"source": inner}
    raise unknown("model", name, (*depths, "conv4", "unet", "vit", *SIZES, "timm:NAME", "hf:NAME"))
