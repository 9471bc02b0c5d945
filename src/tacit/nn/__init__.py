"""Encoders, heads and the other parts that systems share."""

from tacit.nn._adapters import TimmEncoder, TransformersEncoder
from tacit.nn._audio import AudioCNN, AudioConv, AudioEncoder, AudioTransformer, LogMel, LogMelStatistics
from tacit.nn._bank import MemoryBank
from tacit.nn._centering import Centering, rising
from tacit.nn._classifier import Classifier
from tacit.nn._coding_rate import coding_rate, grouped_coding_rate
from tacit.nn._conditional_unet import AttentionMaps, ConditionalUNet
from tacit.nn._conv4 import Conv4
from tacit.nn._crops import encode_crops
from tacit.nn._decoder import CrossAttention, DecoderBlock
from tacit.nn._diffusion import Diffusion
from tacit.nn._dino_head import DINOHead
from tacit.nn._distributed import gather, rank, world_size
from tacit.nn._encoder import ImageEncoder
from tacit.nn._encoders import (
    encoder,
    encoder_arguments,
    modality_of,
    read_pretrained_config,
    read_pretrained_weights,
)
from tacit.nn._energies import ClassifierEnergy, Energy, LikenessEnergy, MeasurementEnergy
from tacit.nn._gradient_estimator import GradientEstimator
from tacit.nn._graph import GIN, GraphEncoder
from tacit.nn._graph_features import GraphFeaturesEncoder, node_profiles
from tacit.nn._heads import mlp
from tacit.nn._item_encoder import ItemEncoder
from tacit.nn._lsa import LSAEncoder
from tacit.nn._masks import block_masks, encode_masked, mask_counts, random_masks
from tacit.nn._momentum import Momentum
from tacit.nn._ngrams import NgramBag
from tacit.nn._operators import (
    Colorization,
    Deblurring,
    Inpainting,
    LinearOperator,
    RandomProjection,
    SuperResolution,
    gaussian_kernel,
)
from tacit.nn._prototypes import Prototypes
from tacit.nn._quantizer import GumbelQuantizer, Quantized, diversity_loss, perplexity
from tacit.nn._queue import Queue
from tacit.nn._resnet import ResNet
from tacit.nn._seq2seq import Seq2Seq, corrupt_spans
from tacit.nn._series import SeriesCNN, SeriesEncoder, SeriesTransformer
from tacit.nn._sgld import ReplayBuffer, langevin
from tacit.nn._sinkhorn import sinkhorn
from tacit.nn._sorting import relaxed_sort, relaxed_top_k
from tacit.nn._ssm import DiagonalSSM, SSMBlock
from tacit.nn._table import TableMLP
from tacit.nn._text import TextEncoder
from tacit.nn._tokenizer import Tokenizer
from tacit.nn._unet import UNet
from tacit.nn._vit import Attention, Block, ViT, initialize_linear, patchify, sincos_positions, unpatchify

__all__ = [
    "GIN",
    "Attention",
    "AttentionMaps",
    "AudioCNN",
    "AudioConv",
    "AudioEncoder",
    "AudioTransformer",
    "Block",
    "Centering",
    "Classifier",
    "ClassifierEnergy",
    "Colorization",
    "ConditionalUNet",
    "Conv4",
    "CrossAttention",
    "DINOHead",
    "Deblurring",
    "DecoderBlock",
    "DiagonalSSM",
    "Diffusion",
    "Energy",
    "GradientEstimator",
    "GraphEncoder",
    "GraphFeaturesEncoder",
    "GumbelQuantizer",
    "ImageEncoder",
    "Inpainting",
    "ItemEncoder",
    "LSAEncoder",
    "LikenessEnergy",
    "LinearOperator",
    "LogMel",
    "LogMelStatistics",
    "MeasurementEnergy",
    "MemoryBank",
    "Momentum",
    "NgramBag",
    "Prototypes",
    "Quantized",
    "Queue",
    "RandomProjection",
    "ReplayBuffer",
    "ResNet",
    "SSMBlock",
    "Seq2Seq",
    "SeriesCNN",
    "SeriesEncoder",
    "SeriesTransformer",
    "SuperResolution",
    "TableMLP",
    "TextEncoder",
    "TimmEncoder",
    "Tokenizer",
    "TransformersEncoder",
    "UNet",
    "ViT",
    "block_masks",
    "coding_rate",
    "corrupt_spans",
    "diversity_loss",
    "encode_crops",
    "encode_masked",
    "encoder",
    "encoder_arguments",
    "gather",
    "gaussian_kernel",
    "grouped_coding_rate",
    "initialize_linear",
    "langevin",
    "mask_counts",
    "mlp",
    "modality_of",
    "node_profiles",
    "patchify",
    "perplexity",
    "random_masks",
    "rank",
    "read_pretrained_config",
    "read_pretrained_weights",
    "relaxed_sort",
    "relaxed_top_k",
    "rising",
    "sincos_positions",
    "sinkhorn",
    "unpatchify",
    "world_size",
]
