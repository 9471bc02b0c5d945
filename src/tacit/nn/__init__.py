"""Encoders, heads and the other parts that systems share."""

from tacit.nn._adapters import TimmEncoder, TransformersEncoder
from tacit.nn._build import encoder
from tacit.nn._classifier import Classifier
from tacit.nn._conv4 import Conv4
from tacit.nn._distributed import gather, rank, world_size
from tacit.nn._encoder import ImageEncoder
from tacit.nn._heads import mlp
from tacit.nn._momentum import Momentum
from tacit.nn._prototypes import Prototypes
from tacit.nn._queue import Queue
from tacit.nn._resnet import ResNet
from tacit.nn._sinkhorn import sinkhorn
from tacit.nn._vit import Attention, Block, ViT, initialize_linear, patchify, sincos_positions, unpatchify

__all__ = [
    "Attention",
    "Block",
    "Classifier",
    "Conv4",
    "ImageEncoder",
    "Momentum",
    "Prototypes",
    "Queue",
    "ResNet",
    "TimmEncoder",
    "TransformersEncoder",
    "ViT",
    "encoder",
    "gather",
    "initialize_linear",
    "mlp",
    "patchify",
    "rank",
    "sincos_positions",
    "sinkhorn",
    "unpatchify",
    "world_size",
]
