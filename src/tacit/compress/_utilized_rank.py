"""Revealing the Utilized Rank of Subspaces of Learning in Neural Networks (Garg et al., 2024)."""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Part, Trial, Unseen, claim
from tacit.embedding import evaluating
from tacit.errors import DataError, expect
from tacit.fewlabels import Supervised
from tacit.nn import Classifier, encoder

Layer = nn.Linear | nn.Conv2d


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

    But for a share `tol` of their energy (sum of squares), the inputs X of a layer lie in a subspace S of k_S
    dimensions, and its outputs Y = W X in a T of k_T. With P_S and P_T the orthogonal projections on them,

        W' = P_T W P_S

    does to the data what W does, and has rank at most min(k_S, k_T), the utilized rank, although W has full rank. The
    energy of the error on the data is at most  tol * (energy of Y + |W|_2^2 * energy of X).

    The paper takes the subspaces from singular value decompositions of X and Y. Here they are the eigenvectors of X X^T
    and W X X^T W^T in float64, which are the same, and X X^T is summed batch by batch. Means are not taken off, and
    biases are no part of Y. Convolutions are linear maps on patches.

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
    return UtilizedRank({name: rank for name, (_, rank, _) in _projected(model, batches, tol).items()})


@system("utilized-rank", paper="arXiv:2407.04797", modality="any")
def decompose(model: nn.Module, batches: Iterable[Any], *, tol: float = 1e-3) -> nn.Module:
    """The same function on the data from fewer weights: two thin layers for each layer whose utilized rank allows it.

    W' = U V, with U of `rank` columns and V of `rank` rows, takes the place of W where the two hold fewer weights: for
    rank < in_dim * out_dim / (in_dim + out_dim). Other layers stay. The singular values of W' are shared out evenly
    between U and V, for the tuning that may follow. A convolution becomes one with `rank` filters and one of 1 x 1.

    Args:
        model, batches, tol: as in `utilized_rank`; a layer's data are those in the model as it was.

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
    found = _projected(model, batches, tol).values()
    return _replaced(model, {layer: _two_layers(layer, new, rank.rank) for layer, rank, new in found if rank.pays})


def _projected(model: nn.Module, batches: Iterable[Any], tol: float) -> dict[str, tuple[Layer, LayerRank, Tensor]]:
    """Name -> layer, its ranks, and W' in float64."""
    expect("tol", tol, 0 <= tol < 1, "a share of the energy in [0, 1)", "such as 1e-3")
    moments, found = _second_moments(model, batches), {}
    for name, module in model.named_modules():
        if module not in moments:
            continue
        moment, weight = moments[module], module.weight.detach().flatten(1).double()
        inputs, outputs = _subspace(moment, tol), _subspace(weight @ moment @ weight.T, tol)
        projected = outputs @ (outputs.T @ weight @ inputs) @ inputs.T
        values = torch.linalg.svdvals(projected)
        rank = LayerRank(weight.shape[1], weight.shape[0], inputs.shape[1], outputs.shape[1], values.cpu())
        found[name] = (module, rank, projected)
    return found


def _second_moments(model: nn.Module, batches: Iterable[Any]) -> dict[Layer, Tensor]:
    """Layer -> sum over all rows of x x^T, float64 (in_dim, in_dim), added up while the batches pass."""
    moments: dict[Layer, Tensor] = {}

    def add(layer: Layer, arguments: tuple[Tensor, ...], keywords: Mapping[str, Tensor]) -> None:
        rows = _rows(layer, arguments[0] if arguments else keywords["input"]).double()
        moments[layer] = moments.get(layer, 0) + rows.T @ rows

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


def _is_linear(module: nn.Module) -> TypeGuard[Layer]:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def _rows(layer: Layer, x: Tensor) -> Tensor:
    """What the weight matrix is applied to: (..., in_dim) or images (..., c, h, w) -> (rows, in_dim)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    images = x.reshape(-1, *x.shape[-3:])
    patches = F.unfold(images, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
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


def _two_layers(layer: Layer, weight: Tensor, rank: int) -> nn.Sequential:
    """First V, then U and the bias; U V holds the leading singular values of a weight matrix, shared out evenly."""
    u, values, v = torch.linalg.svd(weight, full_matrices=False)
    left, right = u[:, :rank] * values[:rank].sqrt(), values[:rank].sqrt()[:, None] * v[:rank]
    two: Any = _thin_convolutions(layer, rank) if isinstance(layer, nn.Conv2d) else _thin_linears(layer, rank)
    two.to(layer.weight).train(layer.training)
    first, second = two
    with torch.no_grad():
        for parameter, value in ((first.weight, right), (second.weight, left), (second.bias, layer.bias)):
            if value is not None:
                parameter.copy_(value.view_as(parameter))
    return two


def _thin_linears(layer: nn.Linear, rank: int) -> nn.Sequential:
    second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    return nn.Sequential(nn.Linear(layer.in_features, rank, bias=False), second)


def _thin_convolutions(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    space = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    return nn.Sequential(nn.Conv2d(layer.in_channels, rank, bias=False, **space), second)


def _replaced(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The model with modules exchanged in every place where they stand."""
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None and child in new:
                parent._modules[name] = new[child]
    return new.get(model, model)


SETTING = "cifar10 at 16 px; vit-micro; subspaces from 1,000 of the images that it learned from"


@claim(
    "W' keeps the layer's function at a rank at which truncating W itself does not",
    reported="most weights appear to be full rank, and ViT-B/16 uses 35 % of it on average (abstract)",
    proxy="a small vision transformer on CIFAR-10 at 16 pixels, in place of ViT-B/16 on ImageNet",
    steps={"small": 200, "full": 20_000},
)
def better_than_truncating_weights(bench: Bench) -> Comparison:
    """Accuracy before tuning, at tol = 0.01: the layers that pay, by W' or by the leading singular values of W."""
    images = _images(bench)

    def accuracies(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        model = _trained(trial, train)
        report = utilized_rank(model, _batches(model, train), tol=0.01)
        ours, theirs = decompose(model, _batches(model, train), tol=0.01), _truncated(model, report)
        return _accuracy(trial, ours, unseen), _accuracy(trial, theirs, unseen)

    baseline = "singular values of W, truncated at the same ranks"
    return bench.trials(accuracies, baseline=baseline, better_by=0.0, setting=SETTING)


@claim(
    "after a short tuning half of the parameters are as accurate",
    reported="50 % of ViT-B/16's parameters, less than 0.2 points lost after fine-tuning (abstract)",
    proxy="a small vision transformer on CIFAR-10 at 16 pixels, in place of ViT-B/16 on ImageNet",
    steps={"small": 200, "full": 20_000},
)
def half_the_parameters(bench: Bench) -> Comparison:
    """The first of tol = 0.01, 0.02, 0.04... that leaves at most half; both sides are tuned for a quarter of the steps.

    The margin is half a point: the paper's 0.2 lie below what five seeds on 10,000 images can tell.
    """
    images = _images(bench)

    def accuracies(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        model = _trained(trial, train)
        small: nn.Module = model
        tol = 0.01
        while _parameters(small) > 0.5 * _parameters(model):
            small, tol = decompose(model, _batches(model, train), tol=tol), 2 * tol
        for side in (small, model):
            trial.fit(Supervised(side), train, max_steps=max(trial.steps // 4, 1), lr=2e-4)
        return _accuracy(trial, small, unseen), _accuracy(trial, model, unseen)

    baseline = "the whole network, tuned for as many steps"
    return bench.trials(accuracies, baseline=baseline, not_worse_by=0.005, setting=SETTING)


@claim(
    "learning without labels uses more of each layer's space than learning with them",
    reported="self-supervised pre-training drives the utilization up to 70 %, from 35 % (abstract)",
    proxy="a small vision transformer on CIFAR-10 at 16 pixels, in place of ViT-B/16 on ImageNet",
    steps={"small": 300, "full": 20_000},
)
def more_is_used_without_labels(bench: Bench) -> Comparison:
    """Mean utilization at tol = 0.01 of the same encoder by MAE and by labels, on images that both learned from."""
    images = _images(bench)

    def utilizations(trial: Trial) -> tuple[float, float]:
        train, _ = trial.split(images)
        without, supervised = trial.pretrained("mae", train).encoder, _trained(trial, train).encoder
        return _mean_utilization(without, train), _mean_utilization(supervised, train)

    return bench.trials(utilizations, baseline="the same encoder, supervised", better_by=0.0, setting=SETTING)


def _images(bench: Bench) -> Data:
    return bench.images("cifar10", size=16)


def _trained(trial: Trial, train: Part) -> Classifier:
    """A small vision transformer, trained with labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        shape = {"image_size": train.x.shape[-1], "in_channels": train.x.shape[1]}
        model = Classifier(encoder("vit-micro", **shape), train.n_classes)
    return trial.fit(Supervised(model), train).classifier


def _batches(model: Any, train: Part) -> Iterable[Tensor]:
    return (model.prepare(x) for x in train.x[:1_000].split(250))


def _mean_utilization(model: nn.Module, train: Part) -> float:
    return utilized_rank(model, _batches(model, train), tol=0.01).mean_utilization


def _accuracy(trial: Trial, model: nn.Module, unseen: Unseen) -> float:
    return unseen.score(trial.predict(model, unseen.x))


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _truncated(model: nn.Module, report: UtilizedRank) -> nn.Module:
    """The model with the layers that pay at their utilized rank, but by the singular values of W."""
    model = copy.deepcopy(model)
    thin = {}
    for name, layer in report.layers.items():
        module: Any = model.get_submodule(name)
        if layer.pays:
            thin[module] = _two_layers(module, module.weight.detach().flatten(1).double(), layer.rank)
    return _replaced(model, thin)
