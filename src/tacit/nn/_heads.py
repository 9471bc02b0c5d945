"""Heads: the small networks on top of an encoder."""

from __future__ import annotations

from torch import nn

from tacit.errors import ArgumentError, expect

NORMS = ("batch", "layer", None)


def mlp(
    in_dim: int,
    hidden_dim: int,
    out_dim: int,
    *,
    num_layers: int = 2,
    norm: str | None = "batch",
    last_norm: bool = False,
    last_bias: bool = True,
) -> nn.Sequential:
    """`num_layers` linear layers, (n, in_dim) -> (n, out_dim), with a norm and ReLU after each but the last.

    A linear layer before BatchNorm has no bias, which the norm would take away again. The last norm, if any, has no
    scale and shift of its own, as in SimSiam (Chen & He, 2021) and MoCo v3.

    Args:
        in_dim: features that come in.
        hidden_dim: width of every hidden layer.
        out_dim: features that go out.
        num_layers: number of linear layers, at least 1; one is a plain linear map.
        norm: `"batch"`, `"layer"` or None.
        last_norm: a norm of the same kind after the last linear layer.
        last_bias: a bias in the last linear layer (never before a BatchNorm).

    Raises:
        ArgumentError: an unknown norm, `num_layers` < 1, or a last norm where `norm` is None.

    >>> [type(layer).__name__ for layer in mlp(8, 32, 4, last_norm=True)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear', 'BatchNorm1d']
    """
    expect("num_layers", num_layers, num_layers >= 1, "a number of linear layers, at least 1")
    if norm not in NORMS:
        raise ArgumentError(f"norm={norm!r}: expected 'batch', 'layer' or None")
    expect("last_norm", last_norm, not (last_norm and norm is None), "False where norm=None", "choose norm='batch'")
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        layers += [nn.Linear(in_dim, hidden_dim, bias=norm != "batch"), *_norm(norm, hidden_dim), nn.ReLU(inplace=True)]
        in_dim = hidden_dim
    layers += [nn.Linear(in_dim, out_dim, bias=last_bias and not (last_norm and norm == "batch"))]
    if last_norm:
        layers += _norm(norm, out_dim, affine=False)
    return nn.Sequential(*layers)


def _norm(norm: str | None, dim: int, *, affine: bool = True) -> list[nn.Module]:
    if norm == "batch":
        return [nn.BatchNorm1d(dim, affine=affine)]
    if norm == "layer":
        return [nn.LayerNorm(dim, elementwise_affine=affine)]
    return []
