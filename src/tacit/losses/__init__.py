"""Losses: those that systems share, and by way of the catalogue every loss that a system brought."""

from typing import Any

from tacit.catalogue import systems
from tacit.losses._contrastive import InfoNCE, NTXent, info_nce, nt_xent, pair_similarity
from tacit.losses._dino import dino_loss, masked_patch_loss
from tacit.losses._koleo import KoLeoLoss, koleo_loss
from tacit.losses._mmd import MMDLoss, mmd_loss
from tacit.losses._similarity import similarity_logsumexp

__all__ = [
    "InfoNCE",
    "KoLeoLoss",
    "MMDLoss",
    "NTXent",
    "dino_loss",
    "info_nce",
    "koleo_loss",
    "masked_patch_loss",
    "mmd_loss",
    "nt_xent",
    "pair_similarity",
    "similarity_logsumexp",
]


def __getattr__(name: str) -> Any:
    for entry in () if name.startswith("_") else systems():
        if entry.kind == "loss" and entry.name == name:
            return entry.load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(entry.name for entry in systems() if entry.kind == "loss")})
