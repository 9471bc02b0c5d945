"""Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models (Shen et al., 2024)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Picture, Trial, claim, drawing
from tacit.embedding import encode, evaluating, prepared
from tacit.errors import ArgumentError, expect
from tacit.learner import encoder_of
from tacit.unlearn._baselines import bad_teacher, device_of, draw_batches, finetune, negative_gradient
from tacit.unlearn._oracle import Forgetting, forgetting, small_convnet


@system("laf", paper="arXiv:2404.00506", modality="any")
def label_agnostic_forgetting(
    model: nn.Module,
    kept: Any,
    forgotten: Any,
    *,
    temperature: float = 5.0,
    latent_dim: int = 8,
    kl_weight: float = 0.025,
    vae_epochs: int = 10,
    epochs: int = 20,
    max_steps: int | None = None,
    lr_unlearning: float = 5e-5,
    lr_alignment: float = 1e-4,
    batch_size: int = 32,
    repair: tuple[Any, Tensor] | None = None,
    repair_epochs: int = 5,
    seed: int = 0,
) -> nn.Module:
    """Take the influence of some items out of an encoder without any label, its own or theirs.

    Two variational autoencoders learn how the encoder g represents the items: h those that are kept, h_f those to be
    forgotten. Two steps then alternate, each with an optimiser of its own:

        L_UE = sum over kept x  s(e_h(g'(x)))  -  sum over forgotten x  s(e_hf(g'(x))),    s(e) = exp(e / (1 + e))
        L_RA = sum over kept x  log( exp(d(x)) / sum over forgotten x'  exp(d(x') / T) )

    with e_h(z) = |h(z) - z|^2, what the autoencoder misses, and d(x) = 1 - cos(g'(x), g(x)), how far the new encoder g'
    has moved x. The first (extractor unlearning) drives forgotten items out of where their like used to lie, while kept
    ones stay where h knows them; the second (representation alignment) holds kept items at their old place and is paid
    for moving forgotten ones. Whatever reads the representation, such as a classifier's head, stays as it was.

    The losses, their signs and the settings are those of the authors' code (random items of MNIST and Fashion-MNIST).
    It differs: there h learned from all items, here from the kept ones as the paper says; its autoencoders end in a
    sigmoid, which no representation need lie in, these in a linear layer. As there, the network is in eval mode:
    running statistics of batch normalisation are those of all items, and keep a trace of those forgotten.

    **This is no guarantee.** It makes a network behave more like one that never saw the items; how much so is to be
    measured against one (`tacit.unlearn.gap_to_retraining`). Only training anew without the items forgets for sure.

    Args:
        model: an encoder x -> (n, dim), or a model that holds one as its `encoder` (a Classifier, a Learner); it is
            left as it is. Its `prepare` is applied if it has one.
        kept, forgotten: items (n, ...), a tensor or a column of a Dataset.
        temperature: T; above 1 the forgotten items weigh alike, those that have moved little yet too.
        latent_dim: of the autoencoders.
        kl_weight: of the autoencoders' divergence from their prior.
        vae_epochs: passes of the autoencoders over their items.
        epochs: passes over the forgotten items; a batch of kept items goes with each of theirs; or
        max_steps: pairs of steps.
        lr_unlearning, lr_alignment: of Adam, for L_UE and L_RA.
        repair: a few kept items (m, ...) and their classes (m,): the classifier then learns from them (LAF+R), with
            Adam at `lr_alignment`. The authors' code moves the head alone; here all of the classifier moves.
        repair_epochs: passes over these.
        seed: of all chance.

    Returns:
        A copy of the model, unlearned, in eval mode.

    Raises:
        ArgumentError: nothing to keep or to forget, an encoder without parameters that learn, or `repair` of a model
            that gives no classes.

    >>> encoder, x = nn.Linear(4, 3), torch.randn(20, 4)
    >>> unlearned = label_agnostic_forgetting(encoder, x[5:], x[:5], max_steps=2, vae_epochs=1)
    >>> bool((unlearned.weight != encoder.weight).any())
    True
    """
    for name, items in (("kept", kept), ("forgotten", forgotten)):
        expect(name, len(items), len(items) >= 1, "at least one item")
    old, new = copy.deepcopy(model).eval().requires_grad_(False), copy.deepcopy(model).eval()
    teacher, student = _extractor(old), _extractor(new)
    if not any(p.requires_grad for p in student.parameters()):
        raise ArgumentError("model: its encoder has no parameter that learns: fit it anew without the items")
    if repair is not None:
        _check_classifier(old, teacher, kept)
    steps = max_steps or epochs * -(-len(forgotten) // batch_size)
    with torch.random.fork_rng(devices=[]), evaluating(new):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        h, h_f = (
            _fitted_vae(_represented(teacher, items), latent_dim, kl_weight, vae_epochs, batch_size, generator)
            for items in (kept, forgotten)
        )
        unlearning, alignment = (torch.optim.Adam(student.parameters(), lr) for lr in (lr_unlearning, lr_alignment))
        for x, x_f in _batches(student, kept, forgotten, steps, batch_size, generator):
            _descend(unlearning, unlearning_loss(h, student(x), h_f, student(x_f)))
            with torch.no_grad():
                z, z_f = teacher(x), teacher(x_f)
            _descend(alignment, alignment_loss(student(x), z, student(x_f), z_f, temperature))
        if repair is not None:
            _repair(new, *repair, repair_epochs, lr_alignment, batch_size, generator)
    return new


def unlearning_loss(h: nn.Module, z: Tensor, h_f: nn.Module, z_f: Tensor) -> Tensor:
    """L_UE of representations of kept items z (b, d) and of forgotten ones z_f (c, d)."""
    return _surprise(h, z).sum() - _surprise(h_f, z_f).sum()


def _surprise(vae: nn.Module, z: Tensor) -> Tensor:
    """s(e): between 1, for what the autoencoder gives back as it was, and e."""
    missed = (vae(z)[0] - z).square().sum(1)
    return (missed / (1 + missed)).exp()


def alignment_loss(new: Tensor, old: Tensor, new_f: Tensor, old_f: Tensor, temperature: float) -> Tensor:
    """L_RA of kept items by the new and the old encoder (b, d), and of forgotten ones (c, d)."""
    moved, moved_f = 1 - F.cosine_similarity(new, old), 1 - F.cosine_similarity(new_f, old_f)
    return (moved - torch.logsumexp(moved_f / temperature, 0)).sum()


class RepresentationVAE(nn.Module):
    """An autoencoder of vectors, through a Gaussian of few dimensions.

        loss = |decoder(z) - x|^2 + weight KL(N(mean, sigma^2) || N(0, 1)),    z = mean + sigma noise

    The layers are those of the authors' code; the last is linear.
    """

    def __init__(self, dim: int, latent_dim: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(dim, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(32, latent_dim), nn.Linear(32, latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 32), nn.ReLU(), nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, dim)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return self.decoder(z), mean, log_variance

    def loss(self, x: Tensor, kl_weight: float) -> Tensor:
        given_back, mean, log_variance = self(x)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return ((given_back - x).square().sum(1) + kl_weight * divergence).mean()


def _fitted_vae(
    z: Tensor, latent_dim: int, kl_weight: float, epochs: int, batch_size: int, generator: torch.Generator
) -> RepresentationVAE:
    vae = RepresentationVAE(z.shape[1], latent_dim).to(z.device)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-3)
    batches = draw_batches(len(z), batch_size, generator)
    for _, rows in zip(range(epochs * -(-len(z) // batch_size)), batches, strict=False):
        _descend(optimizer, vae.loss(z[rows], kl_weight))
    return vae.eval().requires_grad_(False)


def _extractor(model: nn.Module) -> nn.Module:
    try:
        return encoder_of(model)
    except AttributeError:  # it is one
        return model


def _read(encoder: nn.Module, items: Any, rows: Tensor) -> Tensor:
    return prepared(encoder, cast(Tensor, items[rows]).to(device_of(encoder)))


def _represented(encoder: nn.Module, items: Any, batch_size: int = 500) -> Tensor:
    parts = torch.arange(len(items)).split(batch_size)
    return torch.cat([encode(encoder, items[rows].to(device_of(encoder))) for rows in parts])


def _batches(
    encoder: nn.Module, kept: Any, forgotten: Any, steps: int, batch_size: int, generator: torch.Generator
) -> Iterator[list[Tensor]]:
    draws = [draw_batches(len(items), batch_size, generator) for items in (kept, forgotten)]
    for _, *rows in zip(range(steps), *draws, strict=False):
        yield [_read(encoder, items, one) for items, one in zip((kept, forgotten), rows, strict=True)]


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _check_classifier(model: nn.Module, encoder: nn.Module, items: Any) -> None:
    logits = None
    if encoder is not model:
        with evaluating(model), torch.no_grad(), contextlib.suppress(NotImplementedError):
            logits = model(_read(model, items, torch.arange(1)))
    ok = isinstance(logits, Tensor) and logits.ndim == 2
    expect("model", type(model).__name__, ok, "a classifier, x -> (n, n_classes), since repair= gives classes")


def _repair(
    model: nn.Module, x: Any, y: Tensor, epochs: int, lr: float, batch_size: int, generator: torch.Generator
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr)
    batches = draw_batches(len(y), batch_size, generator)
    for _, rows in zip(range(epochs * -(-len(y) // batch_size)), batches, strict=False):
        _descend(optimizer, F.cross_entropy(model(_read(model, x, rows)), y[rows].to(device_of(model))))


# claims ---------------------------------------------------------------------------------------------------------------

LABELLED = 0.1
"""Share of the kept items whose labels LAF+R gets."""
SETTING = "fashion_mnist at 16 px, Conv-4 of width 32; equal steps of 32 kept and 32 forgotten items for every method"


@claim(
    "without labels as near to retraining as methods that have all of them",
    reported="comparable performance to state-of-the-art methods that rely on full supervision (abstract)",
    proxy="3,000 images of Fashion-MNIST at 16 pixels and a small ConvNet; a threshold on the loss as the attack",
    steps={"small": 300, "full": 6000},
)
def as_near_as_supervised_methods(bench: Bench) -> Comparison:
    """Minus the gap to retraining (accuracy on kept, forgotten and unseen items, and membership inference), mean of
    forgetting a tenth at random and one class; against fine-tuning, NegGrad+ and a bad teacher, mean of the three."""

    def gaps(trial: Trial) -> tuple[float, float]:
        tasks = _tasks(bench, trial, "random", "class")
        return -_mean(_laf_gap(trial, task) for task in tasks), -_mean(_supervised_gap(trial, task) for task in tasks)

    return bench.trials(gaps, baseline="mean of three methods with all labels", not_worse_by=0.02, setting=SETTING)


@claim(
    "nearer to retraining than the network was before, where the forgotten items are like the others",
    reported="accuracy on forgotten items and attack success near those of retraining (abstract: comparable)",
    proxy="3,000 images of Fashion-MNIST at 16 pixels and a small ConvNet; a threshold on the loss as the attack",
    steps={"small": 300, "full": 6000},
)
def nearer_than_before(bench: Bench) -> Comparison:
    """The sterner test, a tenth at random alone: a network that nobody touched is not far from retraining either."""

    def gaps(trial: Trial) -> tuple[float, float]:
        (task,) = _tasks(bench, trial, "random")
        return -_laf_gap(trial, task), -task.gap(task.model)

    return bench.trials(gaps, baseline="the network before unlearning", better_by=0.0, setting=SETTING)


@claim(
    "within four points of retraining",
    reported="comparable performance to state-of-the-art methods that rely on full supervision (abstract)",
    proxy="3,000 images of Fashion-MNIST at 16 pixels and a small ConvNet; a threshold on the loss as the attack",
    steps={"small": 300, "full": 6000},
)
def within_four_points(bench: Bench) -> Comparison:
    """Minus the gap to retraining, mean of forgetting a tenth at random and one class, above -0.04."""

    def gap(trial: Trial) -> float:
        return -_mean(_laf_gap(trial, task) for task in _tasks(bench, trial, "random", "class"))

    return bench.trials(gap, above=-0.04, setting=SETTING)


@claim(
    "with a few labels nearer to retraining than methods that have all of them",
    reported="leveraging limited supervision information to outperform fully supervised baselines (abstract)",
    proxy="labels of a tenth of the kept items; 3,000 images of Fashion-MNIST at 16 pixels and a small ConvNet",
    steps={"small": 300, "full": 6000},
)
def few_labels_suffice(bench: Bench) -> Comparison:
    """LAF with repair by a tenth of the kept items' labels; the same gaps and baselines as without labels."""

    def gaps(trial: Trial) -> tuple[float, float]:
        tasks, found = _tasks(bench, trial, "random", "class"), []
        for task in tasks:
            some = slice(0, round(LABELLED * len(task.kept)))
            found.append(_laf_gap(trial, task, repair=(task.kept.x[some], task.kept.y[some])))
        return -_mean(found), -_mean(_supervised_gap(trial, task) for task in tasks)

    return bench.trials(gaps, baseline="mean of three methods with all labels", better_by=0.0, setting=SETTING)


@drawing(
    "A class of Fashion-MNIST is forgotten: accuracy on items that are kept, forgotten and were never seen, and the "
    "share of the forgotten that an attack still takes for members. Good is what lies where training anew lies.",
    steps={"small": 300},
)
def audit(bench: Bench, trial: Trial) -> Picture:
    (task,) = _tasks(bench, trial, "class")
    unlearned = label_agnostic_forgetting(task.model, task.kept.x, task.forgotten.x, **_words(trial, task))
    models = {"before": task.model, "unlearned by LAF": unlearned, "trained anew": task.oracle}
    scores = {name: task.scores(model) for name, model in models.items()}
    measures = list(scores["before"])
    curves = {name: [found[measure].value for measure in measures] for name, found in scores.items()}
    return trial.plot(measures, curves, x_label="", y_label="accuracy, or share")


def _tasks(bench: Bench, trial: Trial, *names: str) -> list[Forgetting]:
    n = bench.pick(smoke=240, small=3000, full=50_000)
    return forgetting(trial, bench.images("fashion_mnist", size=16, n=n, n_test=n // 2 if n < 20_000 else None), *names)


def _words(trial: Trial, task: Forgetting) -> dict[str, int]:
    """20 passes over the forgotten items, as the authors; the same of every method."""
    return {"max_steps": min(trial.steps, 20 * -(-len(task.forgotten) // 32)), "seed": trial.seed}


def _laf_gap(trial: Trial, task: Forgetting, **repair: Any) -> float:
    words: dict[str, Any] = {**_words(trial, task), **repair}
    return task.gap(label_agnostic_forgetting(task.model, task.kept.x, task.forgotten.x, **words))


def _supervised_gap(trial: Trial, task: Forgetting) -> float:
    items = [(part.x, part.y) for part in (task.kept, task.forgotten)]
    words: dict[str, Any] = _words(trial, task)
    models = [
        finetune(task.model, *items, **words),
        negative_gradient(task.model, *items, **words),
        bad_teacher(task.model, *items, incompetent=small_convnet(trial, task.kept), **words),
    ]
    return _mean(task.gap(model) for model in models)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
