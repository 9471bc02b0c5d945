"""Optimizing Millions of Hyperparameters by Implicit Differentiation (Lorraine, Vicol & Duvenaud, 2020)."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import grad

from tacit.building import learner_class
from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.data import Dataset
from tacit.errors import expect, unknown
from tacit.learner import Learner, Update
from tacit.nn import mlp

DECAYS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""The grid of the claims."""
PERCEPTRON = "perceptron 784-1024-1024-10 on noise; 128 training items a step, and 128 held-out ones for the decays"


@system("ift-hyperopt", paper="arXiv:1911.02590", modality="any")
class ImplicitDifferentiation(Learner):
    """Weights go down a training loss, and its hyper-parameters down the validation loss of the weights they lead to.

        repeat:  `inner_steps` times  w <- w - lr dL_T(w, h)/dw ;  then  h <- h - lr' dL_V(w*(h))/dh       (algorithm 1)

    with the derivative of `hypergradient`. The hyper-parameters are the parameters of the training loss, as many as
    wanted: a decay for each weight, the weights of an augmenting network. Both losses see the current mini-batches.

    The validation items are the rows where the data's column `held_out` is True (none: the hyper-parameters stay as
    they are); data without that column has a share of its items drawn. Batches hold training and held-out items in the
    proportion of the data. The optimisers are set by `fit(parts=...)`, under `classifier` and `training_loss`; their
    own weight decay is to be 0.

    Args:
        classifier: x -> logits (n, n_classes), such as `tacit.nn.Classifier`; its `prepare` is applied where there is
            one.
        training_loss: module (classifier, x, y) -> scalar, whose parameters are the hyper-parameters; by default
            `WeightDecay(classifier)`. It holds no second name of the classifier.
        validation_fraction: share of the items that are held out, in (0, 1), where the data does not say which.
        inner_steps: steps of the weights for each of the hyper-parameters.
        n_terms, neumann_lr: of `hypergradient`.

    >>> learner = ImplicitDifferentiation(nn.Linear(4, 3))
    >>> learner.columns, [name for name, _ in learner.training_loss.named_parameters()]
    (('x', 'y', 'index'), ['log_decays.0', 'log_decays.1'])
    """

    settings: ClassVar = {
        "paper": {  # of the augmenting network for CIFAR-10, as in the released code
            "optimizer": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "batch_size": 128,
            "epochs": 200,
            "weight_decay": 0.0,
            "parts": {"training_loss": {"name": "adamw", "lr": 1e-3}},
            "inner_steps": 1,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 256,
            "weight_decay": 0.0,
            "parts": {"training_loss": {"lr": 0.1}},
        },
    }
    loss_falls = False  # two losses, and the hyper-parameters do not go down the one that the weights go down

    held_out: Tensor
    weight_steps: Tensor

    def __init__(
        self,
        classifier: nn.Module,
        *,
        training_loss: nn.Module | None = None,
        validation_fraction: float = 0.2,
        inner_steps: int = 10,
        n_terms: int = 10,
        neumann_lr: float = 0.1,
    ) -> None:
        super().__init__()
        fraction = validation_fraction
        expect("validation_fraction", fraction, 0 < fraction < 1, "a share of the items, between 0 and 1")
        expect("inner_steps", inner_steps, inner_steps >= 1, "at least 1")
        _check_series(n_terms, neumann_lr)
        self.classifier = classifier
        self.training_loss = WeightDecay(classifier) if training_loss is None else training_loss
        self.validation_fraction, self.inner_steps = validation_fraction, inner_steps
        self.n_terms, self.neumann_lr = n_terms, neumann_lr
        self.register_buffer("held_out", torch.zeros(0, dtype=torch.long))  # item numbers
        self.register_buffer("weight_steps", torch.zeros((), dtype=torch.long))

    def before_fit(self, data: Dataset) -> None:
        if "held_out" in data:
            chosen = data["held_out"][:].bool().nonzero()[:, 0]
        else:
            count = max(1, round(self.validation_fraction * len(data)))
            chosen = torch.randperm(len(data))[:count].sort().values
        expect("held_out", len(chosen), len(chosen) < len(data), "fewer items than there are", "the weights need some")
        self.held_out = chosen.to(self.held_out.device)

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Training and held-out items in the proportion of the data; the fewer come round again if they run out."""
        held_out = torch.isin(torch.arange(len(data)), self.held_out.cpu())
        count = max(1, len(data) // batch_size)
        rounds = []
        for items in (torch.where(~held_out)[0], torch.where(held_out)[0]):
            each = max(1, len(items) // count) if len(items) else 0
            order = items[torch.randperm(len(items), generator=generator)]
            rounds.append(order[torch.arange(count * each) % max(1, len(items))].view(count, each))
        return torch.cat(rounds, dim=1).unbind()

    def step(self, update: Update, x: Tensor, y: Tensor, index: Tensor) -> None:  # type: ignore[override]
        held_out = torch.isin(index, self.held_out)
        prepare = getattr(self.classifier, "prepare", None)
        x = x if prepare is None else prepare(x)
        training, validation = (x[~held_out], y[~held_out]), (x[held_out], y[held_out])
        update(self.training_loss(self.classifier, *training), self.classifier)
        if (self.weight_steps + 1) % self.inner_steps == 0 and len(validation[0]):
            update(self._downhill(training, validation), self.training_loss)

    def after_step(self, progress: float) -> None:
        self.weight_steps += 1

    def _downhill(self, training: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]) -> Tensor:
        """0, with the hypergradient as its gradient, so that `fit` logs the training loss alone."""
        weights, hyperparameters = (
            [p for p in module.parameters() if p.requires_grad] for module in (self.classifier, self.training_loss)
        )
        gradients = hypergradient(
            self.training_loss(self.classifier, *training),
            F.cross_entropy(self.classifier(validation[0]), validation[1]),
            weights,
            hyperparameters,
            n_terms=self.n_terms,
            lr=self.neumann_lr,
        )
        return sum(((h - h.detach()) * g).sum() for h, g in zip(hyperparameters, gradients, strict=True))  # type: ignore[return-value]


class WeightDecay(nn.Module):
    """Cross-entropy with a decay to be learned for each tensor, each input or each weight of a classifier.

        L_T(w, h) = cross-entropy + 1/2 sum_i exp(h_i) w_i^2

    Args:
        classifier: gives the shapes; it is not held.
        per: `tensor`, `input` (column of a weight, for all outputs and kernel places; a bias has one) or `weight`.
        initial: decay to start with, above 0.

    >>> [tuple(h.shape) for h in WeightDecay(nn.Linear(4, 3), per="input").log_decays]
    [(1, 4), (1,)]
    """

    def __init__(self, classifier: nn.Module, *, per: str = "tensor", initial: float = 1e-4) -> None:
        super().__init__()
        expect("initial", initial, initial > 0, "a decay above 0")
        shapes = [_shape(p.shape, per) for p in classifier.parameters()]
        self.log_decays = nn.ParameterList(nn.Parameter(torch.full(shape, initial).log()) for shape in shapes)

    def forward(self, classifier: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        pairs = zip(self.log_decays, classifier.parameters(), strict=True)
        penalty = sum((h.exp() * w.square()).sum() for h, w in pairs)
        return F.cross_entropy(classifier(x), y) + penalty / 2


def hypergradient(
    train_loss: Tensor,
    validation_loss: Tensor,
    parameters: Iterable[Tensor],
    hyperparameters: Iterable[Tensor],
    *,
    n_terms: int = 20,
    lr: float = 0.1,
) -> tuple[Tensor, ...]:
    """Gradient of the validation loss at the weights that minimise the training loss, to the hyper-parameters.

        dL_V(w*(h), h)/dh = dL_V/dh - dL_V/dw [d2L_T/dw dw]^-1 d2L_T/dw dh              (implicit function theorem)
        H^-1 = lr sum over j = 0, 1, ... of (I - lr H)^j                                (Neumann series, algorithm 3)

    The series is cut after the power `n_terms` and needs vector-Jacobian products only: the time of some 2 n_terms + 4
    gradients, the memory of a few. It approaches the exact gradient where w is a minimum and 0 < lr < 2 / (largest
    eigenvalue of H); `n_terms=0` is lr times the gradient that takes H for the identity. The sum is multiplied by lr,
    without which it would approach H^-1 / lr (the released code leaves this to the optimiser, and puts the gradient's
    outer product in the place of H for its language model).

    Args:
        train_loss: scalar, a differentiable function of parameters and hyper-parameters.
        validation_loss: scalar, a function of the parameters, and perhaps of the hyper-parameters.
        parameters: w, tensors that ask for a gradient.
        hyperparameters: h, likewise.
        n_terms: highest power of the series, at least 0.
        lr: step of the series, above 0; that of gradient descent on w is the usual choice.

    Returns:
        A tensor for each hyper-parameter, of its shape, without a graph. The graphs of both losses are freed.

    Raises:
        ArgumentError: n_terms or lr out of range.

    >>> w, h = torch.tensor([2.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    >>> train_loss = ((w - 4) ** 2 + h * w**2).sum() / 2  # w* = 4 / (1 + h) = 2, and dw*/dh = -4 / (1 + h)^2 = -1
    >>> (gradient,) = hypergradient(train_loss, w.sum(), [w], [h], n_terms=50, lr=0.2)
    >>> round(gradient.item(), 4)
    -1.0
    """
    _check_series(n_terms, lr)
    w, h = list(parameters), list(hyperparameters)
    direct = grad(validation_loss, [*w, *h], retain_graph=True, materialize_grads=True)
    train_gradient = grad(train_loss, w, create_graph=True, materialize_grads=True)
    product = _inverse_hessian_product(direct[: len(w)], train_gradient, w, n_terms, lr)
    indirect = _vector_jacobian(product, train_gradient, h)
    return tuple(a - b for a, b in zip(direct[len(w) :], indirect, strict=True))


def _inverse_hessian_product(
    vector: Sequence[Tensor], train_gradient: Sequence[Tensor], parameters: Sequence[Tensor], n_terms: int, lr: float
) -> list[Tensor]:
    """v H^-1, by the first powers of the Neumann series (algorithm 3)."""
    power, total = list(vector), list(vector)
    for _ in range(n_terms):
        curved = _vector_jacobian(power, train_gradient, parameters, retain_graph=True)
        power = [p - lr * c for p, c in zip(power, curved, strict=True)]
        total = [t + p for t, p in zip(total, power, strict=True)]
    return [lr * t for t in total]


def _vector_jacobian(
    vector: Sequence[Tensor], outputs: Sequence[Tensor], inputs: Sequence[Tensor], retain_graph: bool = False
) -> tuple[Tensor, ...]:
    """v d(outputs)/d(inputs). Outputs that depend on nothing (parameters that the loss leaves out) add nothing."""
    pairs = [(o, v) for o, v in zip(outputs, vector, strict=True) if o.requires_grad]
    outputs, vector = [o for o, _ in pairs], [v for _, v in pairs]
    return grad(outputs, inputs, vector, retain_graph=retain_graph, materialize_grads=True)


def _shape(weight: Sequence[int], per: str) -> tuple[int, ...]:
    """Shape of the decays of a weight: it broadcasts to the weight's."""
    shapes = {"tensor": (), "weight": tuple(weight)}
    shapes["input"] = (1, *weight[1:2], *[1] * len(weight[2:]))
    if per not in shapes:
        raise unknown("per", per, shapes)
    return shapes[per]


def _check_series(n_terms: int, lr: float) -> None:
    expect("n_terms", n_terms, n_terms >= 0, "at least 0")
    expect("lr", lr, lr > 0, "a step of the series, above 0")


@claim(
    "the Neumann series approaches the exact hypergradient as it takes in more terms",
    reported="more terms give a hypergradient nearer the exact inverse's (section 5.1)",
)
def series_approaches_the_exact_inverse(bench: Bench) -> Comparison:
    """Cosine with the exact hypergradient: a decay for each weight of a softmax regression, at its minimum."""
    digits = bench.images("digits", n=400)

    def cosine(trial: Trial, n_terms: int) -> float:
        train, _ = trial.split(digits)
        x, y, half = F.pad(_flat(train.x), (0, 1), value=1.0).double(), train.y, len(train) // 2

        def train_loss(w: Tensor, h: Tensor) -> Tensor:
            return F.cross_entropy(x[:half] @ w.view(x.shape[1], -1), y[:half]) + (h.exp() * w.square()).sum() / 2

        h = torch.full((x.shape[1] * train.n_classes,), 1e-2, dtype=x.dtype).log().requires_grad_()
        w = torch.zeros_like(h)
        for _ in range(8):  # Newton's
            hessian = torch.func.hessian(train_loss)(w, h.detach())
            w = w - torch.linalg.solve(hessian, torch.func.grad(train_loss)(w, h.detach()))
        w = w.detach().requires_grad_()
        validation_loss = F.cross_entropy(x[half:] @ w.view(x.shape[1], -1), y[half:])
        (v,) = grad(validation_loss, w, retain_graph=True)
        exact = (-torch.linalg.solve(hessian, v) * h.exp() * w).detach()
        step = 1 / float(torch.linalg.eigvalsh(hessian)[-1])
        (found,) = hypergradient(train_loss(w, h), validation_loss, [w], [h], n_terms=n_terms, lr=step)
        return float(F.cosine_similarity(found, exact, dim=0))

    return bench.curve(cosine, over=[0, 1, 2, 5, 10, 20, 50, 100], shape="rises", margin=0.9)


@claim(
    "as many decays as weights, tuned while they train, generalise better than the best decay that is the same for all",
    reported="networks with millions of weights are trained with millions of hyper-parameters (abstract)",
    proxy="650 decays of a softmax regression on digits, in place of a language model's",
    steps={"small": 500, "full": 2000},
)
def a_decay_for_each_weight(bench: Bench) -> Comparison:
    """Log-likelihood of unseen digits; 100 items train the weights and 300 choose the decays, on both sides.

    The grid of seven takes seven runs, more than the time of the one run that tunes. The labels of the 300 reach the
    weights through 650 numbers on one side and through one on the other: see `decays_for_training_anew`.
    """
    digits = bench.images("digits", n=400)

    def log_likelihoods(trial: Trial) -> list[float]:
        train, unseen = trial.split(digits)
        return [_log_likelihood(trial, learner, unseen) for learner in _tuned_and_grid(trial, train)]

    return bench.trials(log_likelihoods, baseline="best of seven global decays", better_by=0.0)


@claim(
    "the decays are worth more than the labels that they are tuned on",
    reported="not in the paper, whose weights never see the validation items",
    proxy="the sterner question: softmax regressions on digits, trained anew on all items with the decays found",
    steps={"small": 500, "full": 2000},
)
def decays_for_training_anew(bench: Bench) -> Comparison:
    """Both sides as in `a_decay_for_each_weight`, then anew on all 400 items; decays go with 1 / n, as a prior does."""
    digits = bench.images("digits", n=400)

    def log_likelihoods(trial: Trial) -> list[float]:
        train, unseen = trial.split(digits)
        found = [copy.deepcopy(learner.training_loss) for learner in _tuned_and_grid(trial, train)]
        for h in (h for loss in found for h in loss.parameters()):
            h.data -= math.log(4)
        everything = {"x": _flat(train.x), "y": train.y, "held_out": torch.zeros(len(train), dtype=torch.bool)}
        return [_log_likelihood(trial, _regression(trial, everything, loss), unseen) for loss in found]

    return bench.trials(log_likelihoods, baseline="best of seven global decays, trained anew", better_by=0.0)


@claim(
    "tuning a hyper-parameter for each of two million weights takes a few times the time of training alone",
    reported="only a few times more costly in memory and compute than standard training (abstract)",
    proxy="a perceptron of 1.9 million weights on noise; at most five times",
)
def a_few_times_the_time(bench: Bench) -> Comparison:
    """At most five times, for ten steps of the weights of a perceptron and one of its decays."""
    sides = _training_with_decays, _training_alone
    return bench.speed(*sides, at_least=1 / 5, baseline="the same steps of the weights", setting=PERCEPTRON)


@claim(
    "tuning a hyper-parameter for each of two million weights takes a few times the memory of training alone",
    reported="only a few times more costly in memory and compute than standard training (abstract)",
    proxy="a perceptron of 1.9 million weights on noise; at most five times",
)
def a_few_times_the_memory(bench: Bench) -> Comparison:
    """At most five times the peak, the networks included."""
    sides = _training_with_decays, _training_alone
    return bench.memory(*sides, at_most=5, baseline="the same steps of the weights", setting=PERCEPTRON)


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1).float() / 255


def _regression(trial: Trial, data: Mapping[str, Tensor], loss: nn.Module | None = None) -> Any:
    """A softmax regression of full batches, started from 0; its decays stay as they are where `loss` is given."""
    classifier = nn.Linear(data["x"].shape[1], int(data["y"].max()) + 1)
    for p in classifier.parameters():
        nn.init.zeros_(p)
    tuned = WeightDecay(classifier, per="weight", initial=1e-2) if loss is None else loss
    inner_steps = 10 if loss is None else trial.steps + 1
    learner = ImplicitDifferentiation(
        classifier, training_loss=tuned, inner_steps=inner_steps, n_terms=20, neumann_lr=0.3
    )
    return trial.fit(learner, data, batch_size=len(data["x"]), lr=0.05, parts={"training_loss": {"lr": 0.3}})


def _tuned_and_grid(trial: Trial, train: Part) -> tuple[Any, Any]:
    """A learner whose decays were tuned on the last three quarters of the items, and the best of the grid on them."""
    held_out = torch.arange(len(train)) >= len(train) // 4
    data = {"x": _flat(train.x), "y": train.y, "held_out": held_out}
    shapes = nn.Linear(data["x"].shape[1], train.n_classes)
    grid = [_regression(trial, data, WeightDecay(shapes, initial=decay)) for decay in DECAYS]

    def validation_loss(learner: ImplicitDifferentiation) -> float:
        return float(F.cross_entropy(trial.predict(learner.classifier, data["x"][held_out]), data["y"][held_out]))

    return _regression(trial, data), min(grid, key=validation_loss)


def _log_likelihood(trial: Trial, learner: ImplicitDifferentiation, unseen: Unseen) -> float:
    logits = trial.predict(learner.classifier, _flat(unseen.x))
    return unseen.score(logits, by=lambda y, z: -float(F.cross_entropy(torch.as_tensor(z), torch.as_tensor(y))))


def _training_with_decays(trial: Trial) -> Callable[[], Any]:
    data = _noise(trial)

    def train() -> None:
        classifier = mlp(784, 1024, 10, num_layers=3, norm=None)
        learner = ImplicitDifferentiation(classifier, training_loss=WeightDecay(classifier, per="weight"))
        trial.fit(learner, data, batch_size=256, max_steps=learner.inner_steps)  # half of each batch is held out

    return train


def _training_alone(trial: Trial) -> Callable[[], Any]:
    data = _noise(trial)

    def train() -> None:
        learner = learner_class("supervised")(mlp(784, 1024, 10, num_layers=3, norm=None))
        trial.fit(learner, data, batch_size=128, max_steps=10)

    return train


def _noise(trial: Trial) -> dict[str, Tensor]:
    x = torch.rand(2560, 784, generator=trial.generator)
    y = torch.randint(0, 10, (len(x),), generator=trial.generator)
    return {"x": x, "y": y, "held_out": torch.arange(len(x)) % 2 == 1}
