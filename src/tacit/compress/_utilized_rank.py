"""Revealing the Utilized Rank of Subspaces of Learning in Neural Networks (Garg et al., 2024)."""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.embedding import evaluating
from tacit.errors import DataError, expect


@dataclass(frozen=True)
class LayerRank:
    """What one layer uses of the space that it has.

    Attributes:
        in_dim, out_dim: of its weight as a matrix; of a convolution in_dim is that of a patch.
        input_rank, output_rank: k_S and k_T, dimensions that its inputs and outputs take.
        singular_values: of the projected weight, float64 (min(in_dim, out_dim),), falling; 0 from the rank on.
    """

    in_dim: int
    out_dim: int
    input_rank: int
    output_rank: int
    singular_values: Tensor

    @property
    def rank(self) -> int:
        """The utilized rank, min(k_S, k_T)."""
        return min(self.input_rank, self.output_rank)

    @property
    def utilization(self) -> float:
        """Rank over the largest that there could be, in (0, 1]."""
        return self.rank / min(self.in_dim, self.out_dim)

    @property
    def pays(self) -> bool:
        """Whether two thin layers hold fewer weights than the one."""
        return self.rank * (self.in_dim + self.out_dim) < self.in_dim * self.out_dim


@dataclass(frozen=True)
class UtilizedRank:
    """The report of `utilized_rank`: the layers by name, in the order of the model."""

    layers: Mapping[str, LayerRank]

    @property
    def mean_utilization(self) -> float:
        """Mean over the layers, the paper's mean layer utilization, in (0, 1]."""
        return sum(layer.utilization for layer in self.layers.values()) / len(self.layers)


@system("utilized-rank", paper="arXiv:2407.04797", modality="any")
def utilized_rank(model: nn.Module, batches: Iterable[Any], *, tol: float = 1e-3) -> UtilizedRank:
    """How much of each linear layer's space the data and the weight use together.

    The inputs X of a layer lie, but for a share `tol` of their energy (sum of squares), in a subspace S of k_S dimensions,
    and its outputs Y = W X in a T of k_T. With P_S and P_T the orthogonal projections on them,

        W' = P_T W P_S

    does to the data what W does, and has rank at most min(k_S, k_T), the utilized rank, although W has full rank. The
    energy of the error on the data is at most  tol * (energy of Y + |W|_2^2 * energy of X).

    The paper takes subspaces from singular value decompositions of X and Y; here they are the eigenvectors of X X^T and
    W X X^T W^T in float64, which are the same, and X X^T is summed batch by batch. Means are not taken off, and biases are
    no part of Y. Convolutions are linear maps on patches.

    Args:
        model: any; read in eval mode, and left as it was.
        batches: what `model` takes, one after the other: tensors, tuples of positional arguments, or mappings of
            keywords. The more rows there are than `in_dim`, the better; fewer bound the rank.
        tol: share of the energy that each subspace may leave out, in [0, 1).

    Returns:
        A report of the `nn.Linear` and `nn.Conv2d` layers that were called, but for grouped convolutions and paddings
        other than with zeros, and for weights that several modules share.

    Raises:
        ArgumentError: tol outside [0, 1).
        DataError: no batch, or none that came to such a layer.

    >>> x = torch.randn(200, 3) @ torch.randn(3, 10)                          # 3 dimensions of 10
    >>> report = utilized_rank(nn.Sequential(nn.Linear(10, 8)), [x], tol=1e-9)
    >>> report.layers["0"].rank, report.mean_utilization
    (3, 0.375)
    """
    return UtilizedRank({name: layer for name, (layer, _, _) in _projected(model, batches, tol).items()})


@system("utilized-rank", paper="arXiv:2407.04797", modality="any")
def decompose(model: nn.Module, batches: Iterable[Any], *, tol: float = 1e-3) -> nn.Module:
    """The same function on the data from fewer weights: two thin layers for each layer whose utilized rank allows it.

    W' = U V with U of `rank` columns and V of `rank` rows takes the place of W where it holds fewer weights, which it does
    for rank < in_dim * out_dim / (in_dim + out_dim); other layers stay. The singular values of W' are shared out evenly
    between U and V, for the tuning that may follow. A convolution becomes one with `rank` filters and one of 1 x 1.

    Args:
        model, batches, tol: as in `utilized_rank`; every tol is of the layer's data in the model as it was.

    Returns:
        A copy with `nn.Sequential`s in the places of its layers; the model given is not touched.

    Raises:
        ArgumentError, DataError: as `utilized_rank`.

    >>> model, x = nn.Sequential(nn.Linear(10, 8)), torch.randn(200, 3) @ torch.randn(3, 10)
    >>> small = decompose(model, [x], tol=1e-9)
    >>> sum(p.numel() for p in model.parameters()), sum(p.numel() for p in small.parameters())
    (88, 62)
    >>> torch.allclose(model(x), small(x), atol=1e-5)
    True
    """
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    thin = {
        modules[name]: _two_layers(modules[name], left, right)
        for name, (layer, left, right) in _projected(model, batches, tol).items()
        if layer.pays
    }
    return _replaced(model, thin)


def _projected(model: nn.Module, batches: Iterable[Any], tol: float) -> dict[str, tuple[LayerRank, Tensor, Tensor]]:
    """Name -> (ranks, U, V) with U V = W', singular values shared out evenly."""
    expect("tol", tol, 0 <= tol < 1, "a share of the energy in [0, 1)", "such as 1e-3")
    moments, found = _second_moments(model, batches), {}
    for name, module in model.named_modules():
        if module not in moments:
            continue
        moment, weight = moments[module], module.weight.detach().flatten(1).double()
        inputs, outputs = _subspace(moment, tol), _subspace(weight @ moment @ weight.T, tol)
        projected = outputs @ (outputs.T @ weight @ inputs) @ inputs.T
        u, values, v = torch.linalg.svd(projected, full_matrices=False)
        rank = min(inputs.shape[1], outputs.shape[1])
        values[rank:] = 0
        layer = LayerRank(weight.shape[1], weight.shape[0], inputs.shape[1], outputs.shape[1], values.cpu())
        root = values[:rank].sqrt()
        found[name] = (layer, u[:, :rank] * root, root[:, None] * v[:rank])
    return found


def _second_moments(model: nn.Module, batches: Iterable[Any]) -> dict[nn.Module, Tensor]:
    """Layer -> sum over all rows of x x^T, float64 (in_dim, in_dim), added up while the batches pass."""
    moments: dict[nn.Module, Tensor] = {}

    def add(module: nn.Module, arguments: tuple[Tensor, ...], keywords: Mapping[str, Tensor]) -> None:
        rows = _rows(module, arguments[0] if arguments else keywords["input"]).double()
        moments[module] = moments.get(module, 0) + rows.T @ rows

    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    layers = [module for module in model.modules() if _is_linear(module) and owners[id(module.weight)] == 1]
    hooks = [layer.register_forward_pre_hook(add, with_kwargs=True) for layer in layers]
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                _call(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not moments:
        raise DataError("batches: expected at least one that comes to an nn.Linear or nn.Conv2d layer of the model")
    return moments


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def _rows(module: nn.Module, x: Tensor) -> Tensor:
    """What the weight matrix is applied to: (..., in_dim) or images (..., c, h, w) -> (rows, in_dim)."""
    if not isinstance(module, nn.Conv2d):
        return x.reshape(-1, x.shape[-1])
    patches = F.unfold(x.reshape(-1, *x.shape[-3:]), module.kernel_size, module.dilation, module.padding, module.stride)
    return patches.transpose(1, 2).flatten(0, 1)


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    else:
        model(*batch if isinstance(batch, tuple) else (batch,))


def _subspace(moment: Tensor, tol: float) -> Tensor:
    """Fewest leading eigenvectors that leave out at most a share tol of the energy: (d, d) -> (d, k), k at least 1."""
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp_min(0)
    rounding = len(values) * torch.finfo(values.dtype).eps
    left_out = values.cumsum(0) <= max(tol, rounding) * values.sum()
    return vectors[:, min(int(left_out.sum()), len(values) - 1) :]


def _two_layers(layer: nn.Module, left: Tensor, right: Tensor) -> nn.Sequential:
    """First V, then U and the layer's bias."""
    rank, like = len(right), {"device": layer.weight.device, "dtype": layer.weight.dtype}
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        space = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
        first = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, bias=False, **space, **like)
        second = nn.Conv2d(rank, layer.out_channels, 1, bias=has_bias, **like)
    else:
        first = nn.Linear(layer.in_features, rank, bias=False, **like)
        second = nn.Linear(rank, layer.out_features, bias=has_bias, **like)
    with torch.no_grad():
        first.weight.copy_(right.view_as(first.weight))
        second.weight.copy_(left.view_as(second.weight))
        if has_bias:
            second.bias.copy_(layer.bias)
    return nn.Sequential(first, second).train(layer.training)


def _replaced(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The model with modules exchanged in every place where they stand."""
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child in new:
                parent._modules[name] = new[child]
    return new.get(model, model)
