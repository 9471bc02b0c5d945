"""Mimetic initialisation: Mimetic Initialization of Self-Attention Layers (Trockman & Kolter, 2023)."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.errors import ArgumentError, expect
from tacit.nn import Attention, Classifier, ViT, sincos_positions
from tacit.views import Compose, RandomHorizontalFlip, RandomResizedCrop

M = TypeVar("M", bound=nn.Module)


@system("mimetic-init", paper="arXiv:2305.09828", modality="any")
@torch.no_grad()
def mimetic_init_(
    module: M,
    *,
    alpha_qk: float = 0.7,
    beta_qk: float = 0.7,
    alpha_vp: float = 0.4,
    beta_vp: float = 0.4,
    sinusoidal_positions: bool = True,
    generator: torch.Generator | None = None,
) -> M:
    """Fill the self-attention layers of a module, in place, with weights that look like those of trained transformers.

        W_Q W_K^T  ~  alpha_qk Z + beta_qk I  for each head,        W_V W_proj  =  alpha_vp Z - beta_vp I

    with Z ~ N(0, 1/d) drawn anew each time, for rows of features x W. Each right side is split by its singular values,
    U S V^T: into U S^1/2 and V S^1/2 (of a head the first k columns, which is its best approximation of rank k), and
    U S^1/2 and S^1/2 V^T. So each token attends to those that are like it, most of all by their positions, and takes
    off what it finds there.

    The defaults are the paper's for vision: 0.7 for queries and keys, 0.4 for values and projection. Language models
    showed the opposite signs: give negative betas.

    Args:
        module: whatever holds `tacit.nn.Attention` (such as `tacit.nn.ViT`) or `torch.nn.MultiheadAttention`. All else
            in it stays as it is, save that the biases of these layers are set to 0.
        alpha_qk, beta_qk: of noise and identity in the queries and keys.
        alpha_vp, beta_vp: of noise and negative identity in the values and projections.
        sinusoidal_positions: let the learned positions of a `ViT` start as sines and cosines in two dimensions, which
            the paper's vision models have.
        generator: of the noise; torch's global one if None.

    Returns:
        The same module.

    Raises:
        ArgumentError: no attention in the module, keys and values of another width than the queries, or (for the
            sinusoidal positions) features that are no multiple of 4.

    >>> vit = mimetic_init_(ViT(8, 4, 32, num_layers=2, num_heads=2), alpha_vp=0.0)
    >>> value = vit.blocks[0].attention.qkv.weight[64:]
    >>> torch.allclose(vit.blocks[0].attention.out.weight @ value, -0.4 * torch.eye(32), atol=1e-5)
    True
    """
    layers = [part for part in module.modules() if isinstance(part, Attention | nn.MultiheadAttention)]
    name = type(module).__name__
    expect("module", name, bool(layers), "one with tacit.nn.Attention or torch.nn.MultiheadAttention in it")
    for layer in layers:
        qkv, out = _weights(layer)
        query, key, value = qkv.chunk(3)
        for head_query, head_key in zip(query.chunk(layer.num_heads), key.chunk(layer.num_heads), strict=True):
            left, right = _split(_noisy_identity(out, alpha_qk, beta_qk, generator), len(head_query))
            head_query.copy_(left.T)
            head_key.copy_(right.T)
        left, right = _split(_noisy_identity(out, alpha_vp, -beta_vp, generator), len(out))
        value.copy_(left.T)
        out.copy_(right)
    if sinusoidal_positions:
        for part in module.modules():
            if isinstance(part, ViT):
                _sinusoidal_positions_(part)
    return module


def _sinusoidal_positions_(vit: ViT) -> None:
    vit.positions.copy_(sincos_positions(vit.grid, vit.grid, vit.final_dim))


def _weights(layer: Attention | nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    """Weights of queries, keys and values (3 d, d), and of the projection (d, d); biases are set to 0."""
    if isinstance(layer, Attention):
        biases, weights = (layer.qkv.bias, layer.out.bias), (layer.qkv.weight, layer.out.weight)
    elif layer.in_proj_weight is None:
        kdim, vdim, dim = layer.kdim, layer.vdim, layer.embed_dim
        raise ArgumentError(f"kdim={kdim}, vdim={vdim}: expected embed_dim={dim}, as self-attention has them")
    else:
        biases, weights = (layer.in_proj_bias, layer.out_proj.bias), (layer.in_proj_weight, layer.out_proj.weight)
    for bias in biases:
        if bias is not None:
            nn.init.zeros_(bias)
    return weights


def _noisy_identity(like: Tensor, alpha: float, beta: float, generator: torch.Generator | None) -> Tensor:
    """alpha Z + beta I, (d, d), with Z ~ N(0, 1/d)."""
    d = len(like)
    noise = torch.randn(d, d, device=like.device, generator=generator)
    return alpha * noise / d**0.5 + beta * torch.eye(d, device=like.device)


def _split(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """L, R (d, rank) with L R^T the best approximation of this rank, both with the roots of the singular values."""
    u, s, vt = torch.linalg.svd(product)
    roots = s[:rank].sqrt()
    return u[:, :rank] * roots, vt[:rank].T * roots


@claim(
    "a plain vision transformer that is trained from scratch on few images ends more accurate",
    reported="over 5 points on CIFAR-10 and over 4 on ImageNet (abstract)",
    proxy="four layers of width 64 on CIFAR-10 at 16 pixels, some steps, in place of a whole training",
    steps={"small": 250, "full": 20_000},
)
def from_scratch_on_few_images(bench: Bench) -> Comparison:
    """Accuracy on unseen images after equal steps. Both sides start with sinusoidal positions: attention alone differs.

    The default is Xavier's in every linear layer, as ViT and MAE have it.
    """
    images = bench.images("cifar10", size=bench.pick(smoke=16, small=16, full=32))
    size = bench.pick(
        smoke={"embed_dim": 32, "num_layers": 2, "num_heads": 2},
        small={"embed_dim": 64, "num_layers": 4, "num_heads": 4},
        full={"embed_dim": 192, "num_layers": 12, "num_heads": 3},
    )

    def accuracies(trial: Trial) -> list[float]:
        train, unseen = trial.split(images)
        return [_accuracy(trial, train, unseen, size, mimetic) for mimetic in (True, False)]

    said = f"cifar10, ViT with patches of 2 pixels, {size}"
    return bench.trials(accuracies, baseline="the same network, initialised by default", better_by=0.0, setting=said)


def _accuracy(trial: Trial, train: Part, unseen: Unseen, size: Mapping[str, Any], mimetic: bool) -> float:
    image_size, channels = train.description["image_size"], train.description["channels"]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(trial.seed)
        vit = ViT(image_size, 2, in_channels=channels, **size)
        _sinusoidal_positions_(vit)
        classifier = Classifier(vit, train.n_classes or 10)
        if mimetic:
            mimetic_init_(vit)
    views = Compose(RandomResizedCrop(image_size, scale=(0.6, 1.0)), RandomHorizontalFlip(0.5))
    learner = trial.build("supervised", train, classifier=classifier, views=views)
    trial.fit(learner, train, batch_size=64, precision="32-true")
    return unseen.score(trial.predict(learner.classifier, unseen.x))
