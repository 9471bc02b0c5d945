"""Model Stock: All we need is just a few fine-tuned models (Jang, Yun & Han, 2024)."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Part, Trial, Unseen, claim
from tacit.errors import expect, unknown
from tacit.nn import Classifier
from tacit.views import Compose, RandomHorizontalFlip, RandomResizedCrop

GRANULARITIES = ("layer", "filter", "model")
PRETRAINING = 400
"""Steps of the claims' anchor."""


@system("model-stock", paper="arXiv:2403.19522", modality="any")
def model_stock(
    pretrained: Mapping[str, Tensor], finetuned: Sequence[Mapping[str, Tensor]], *, granularity: str = "layer"
) -> dict[str, Tensor]:
    """Merge a few fine-tuned models into the point of their span that is nearest the centre of all fine-tuned models.

    Models that were fine-tuned alike but for the seed lie, layer by layer, on a thin shell about a centre m: all at the
    same distance from it, at right angles to each other and to m - w_0 as seen from m. The foot of the perpendicular
    from m on the plane through w_0, w_1, ... w_N is then known without m, from the angle between the fine-tuned
    weights alone:

        cos = mean over pairs i < j of  cosine(w_i - w_0, w_j - w_0)
        t   = N cos / (1 + (N - 1) cos)                          (eq. 3; 2 cos / (1 + cos) for N = 2)
        w   = t mean_i(w_i) + (1 - t) w_0

    The wider the angle, the more is noise, and the more of the pretrained weights comes back. That the cosines are
    averaged is the authors' answer (issue 2 of their repository); the paper has a single angle. Where the estimate is
    negative, which the geometry rules out, or a layer did not move, t is 0.

    Every floating-point tensor is a layer of its own: a weight and its bias have an angle each, and so have the running
    statistics of batch normalisation, which fit no merged network: estimate them anew on training data
    (`torch.optim.swa_utils.update_bn`). Whole numbers and truth values (counters, indices) are the first fine-tuned
    model's. The sums are taken in float32 or better.

    Args:
        pretrained: state dict of w_0, the anchor. It holds the very head that fine-tuning started from (a zero-shot one
            or a linear probe).
        finetuned: state dicts of w_1 ... w_N, at least 2; the same names and shapes.
        granularity: one angle for each `layer` (the paper), `filter` (row of a weight), or for the whole `model`.

    Returns:
        The merged state dict; nothing in it shares memory with the inputs.

    Raises:
        ArgumentError: fewer than 2 fine-tuned models, names or shapes that differ, or an unknown granularity.

    >>> w0 = {"weight": torch.zeros(1, 2)}
    >>> ends = [{"weight": torch.tensor([[2.0, 1.0]])}, {"weight": torch.tensor([[2.0, -1.0]])}]
    >>> model_stock(w0, ends)["weight"]  # cos = 3 / 5, t = 3 / 4
    tensor([[1.5000, 0.0000]])
    """
    _check(pretrained, finetuned, granularity)
    merged = {name: w.clone() for name, w in finetuned[0].items()}
    layers = {name: w for name, w in pretrained.items() if w.is_floating_point()}
    ends = {name: [w_i[name] for w_i in finetuned] for name in layers}
    products = {name: _products(_moves(w, ends[name], granularity)) for name, w in layers.items()}
    if granularity == "model":
        whole = torch.stack([product.double().cpu() for product in products.values()]).sum(0)
        products = dict.fromkeys(products, whole)
    for name, w in layers.items():
        moves = _moves(w, ends[name], granularity)
        step = _ratio(products[name]).to(moves)[:, None] * moves.mean(0)
        merged[name] = (w + step.reshape(w.shape)).to(w.dtype)
    return merged


def _moves(w: Tensor, finetuned: Sequence[Tensor], granularity: str) -> Tensor:
    """w_i - w_0 as (N, groups, numbers), each group with an angle of its own."""
    groups = len(w) if granularity == "filter" and w.ndim > 1 else 1
    exact = torch.promote_types(w.dtype, torch.float32)
    return torch.stack([w_i.to(exact) - w.to(exact) for w_i in finetuned]).reshape(len(finetuned), groups, -1)


def _products(moves: Tensor) -> Tensor:
    """Inner products of the moves: (N, groups, numbers) -> (groups, N, N)."""
    return torch.einsum("ngd,mgd->gnm", moves, moves)


def _ratio(products: Tensor) -> Tensor:
    """t of eq. 3 from the inner products of the moves: (groups, N, N) -> (groups,) in [0, 1]."""
    n = products.shape[-1]
    norms = products.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = norms[:, :, None] * norms[:, None, :]
    cosines = torch.where(scale > 0, products / scale, 0)
    cosine = (cosines.sum((-2, -1)) - cosines.diagonal(dim1=-2, dim2=-1).sum(-1)) / (n * (n - 1))
    cosine = cosine.clamp(0, 1)
    return n * cosine / (1 + (n - 1) * cosine)


def _check(pretrained: Mapping[str, Tensor], finetuned: Sequence[Mapping[str, Tensor]], granularity: str) -> None:
    if granularity not in GRANULARITIES:
        raise unknown("granularity", granularity, GRANULARITIES)
    expect("finetuned", len(finetuned), len(finetuned) >= 2, "at least 2 state dicts", "an angle needs two models")
    for number, other in enumerate(finetuned):
        differing = sorted(set(pretrained) ^ set(other))
        differing += [k for k in pretrained if k in other and pretrained[k].shape != other[k].shape]
        remedy = "give as pretrained the weights that fine-tuning started from, its new head included"
        expect(f"finetuned[{number}]", differing, not differing, "the names and shapes of pretrained", remedy)


@claim(
    "two fine-tuned models, merged, do better than either of them",
    reported="87.8 % ImageNet top-1 and 74.9 % on average over five distribution shifts, with CLIP (section 1)",
    proxy="a ResNet-8 pretrained on half of the classes of CIFAR-10, in place of CLIP; no distribution shift",
    steps={"small": 150, "full": 3000},
)
def better_than_its_parts(bench: Bench) -> Comparison:
    """Accuracy on all ten classes, against the mean of the two that were merged."""
    images = bench.images("cifar10", size=16)

    def accuracies(trial: Trial) -> tuple[float, float]:
        anchor, models, labelled, unseen = _fine_tuned(trial, images, 2)
        merged = _with(anchor, model_stock(anchor.state_dict(), [model.state_dict() for model in models]))
        return _accuracy(trial, [merged], labelled, unseen), _accuracy(trial, models, labelled, unseen)

    return bench.trials(accuracies, baseline="mean of the two models", better_by=0.0)


@claim(
    "the anchor improves on the plain average of the same two models",
    reported="surpasses Model Soup, utilizing only two fine-tuned models (abstract)",
    proxy="a ResNet-8 pretrained on half of the classes of CIFAR-10, in place of CLIP; no distribution shift",
    steps={"small": 150, "full": 3000},
)
def better_than_their_average(bench: Bench) -> Comparison:
    """The sterner baseline: a soup of the same two models, without the pretrained weights."""
    images = bench.images("cifar10", size=16)

    def accuracies(trial: Trial) -> list[float]:
        anchor, models, labelled, unseen = _fine_tuned(trial, images, 2)
        states = [model.state_dict() for model in models]
        merged = [_with(anchor, state) for state in (model_stock(anchor.state_dict(), states), _average(states))]
        return [_accuracy(trial, [model], labelled, unseen) for model in merged]

    return bench.trials(accuracies, baseline="average of the same two models", better_by=0.0)


@claim(
    "fine-tuned weights lie on a thin shell, so that two of them give a point nearer its centre than their average is",
    reported="angle and norm are nearly constant over 50 fine-tuned models, layer by layer (section 3)",
    proxy="a ResNet-8 pretrained on half of the classes of CIFAR-10, in place of CLIP",
    steps={"small": 150, "full": 3000},
)
def nearer_the_centre(bench: Bench) -> Comparison:
    """Distance to the centre, taken as the mean of four other models, in units of a single model's distance to it."""
    images = bench.images("cifar10", size=16)

    def closeness(trial: Trial) -> list[float]:
        anchor, models, *_ = _fine_tuned(trial, images, 6)
        states = [model.state_dict() for model in models]
        names, centre = [name for name, _ in anchor.named_parameters()], _average(states[2:])

        def distance(state: Mapping[str, Tensor]) -> float:
            return sum((state[name] - centre[name]).square().sum().item() for name in names) ** 0.5

        single = (distance(states[0]) + distance(states[1])) / 2
        merged = model_stock(anchor.state_dict(), states[:2]), _average(states[:2])
        return [-distance(state) / single for state in merged]

    return bench.trials(closeness, baseline="average of the same two models", better_by=0.0)


def _fine_tuned(trial: Trial, images: Data, n_models: int) -> tuple[Classifier, list[Classifier], Part, Unseen]:
    """A pretrained anchor with a probed head, models fine-tuned from it that differ in the order of the items alone."""
    train, unseen = trial.split(images)
    labelled, rest = train.select(range(len(train) // 10)), train.select(range(len(train) // 10, len(train)))
    known = rest.select(torch.where(rest.y < 5)[0])
    anchor = trial.pretrained("supervised", known, max_steps=PRETRAINING).classifier
    anchor.encoder.requires_grad_(False)
    trial.fit(trial.build("supervised", labelled, classifier=anchor), labelled)
    anchor.encoder.requires_grad_(True)
    views = Compose(RandomResizedCrop(anchor.encoder.image_size, scale=(0.25, 1.0)), RandomHorizontalFlip())
    models = []
    for _ in range(n_models):
        order = torch.randperm(len(labelled), generator=trial.generator)
        learner = trial.build("supervised", labelled, classifier=copy.deepcopy(anchor), views=views)
        models.append(trial.fit(learner, labelled.select(order)).classifier)
    return anchor, models, labelled, unseen


def _with(anchor: Classifier, state: Mapping[str, Tensor]) -> Classifier:
    model = copy.deepcopy(anchor)
    model.load_state_dict(state)
    return model


def _average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}


def _accuracy(trial: Trial, models: Sequence[Classifier], labelled: Part, unseen: Unseen) -> float:
    """Mean accuracy; every model, merged or single, has its batch statistics estimated anew on the labelled images."""
    for model in models:
        torch.optim.swa_utils.update_bn([model.prepare(x) for x in labelled.x.split(250)], model)
    classes = torch.stack([trial.predict(model, unseen.x).argmax(1) for model in models], dim=1)
    return unseen.score(classes, by=lambda y, classes: float((classes == y[:, None]).mean()))
