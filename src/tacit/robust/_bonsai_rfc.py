"""Rich Feature Construction, or Bonsai (Zhang, Lopez-Paz & Bottou, 2022)."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, claim
from tacit.data import Dataset, as_dataset, colored_digits
from tacit.embedding import evaluating, prepared
from tacit.errors import expect
from tacit.learner import Learner
from tacit.nn import Classifier, ImageEncoder
from tacit.training import fit, mix


@system("bonsai-rfc", paper="arXiv:2203.15516", modality=("image", "any"))
def rich_feature_construction(
    data: Any,
    *,
    encoder: nn.Module,
    out: str | Path | None = None,
    rounds: int = 2,
    stages: Mapping[str, Mapping[str, Any]] | None = None,
    **fit_options: Any,
) -> nn.Module:
    """An encoder that holds many features at once, for a method that then chooses among them (IRM, vREx...) to start from.

        discovery  f_k = argmin over f of  max over groups G of  mean over G of  l(f(x), y),     k = 1 to rounds
                   groups: all items if k = 1; else the items that f_1 gets right, those it gets wrong, ..., those f_k-1
                   gets wrong, so that no feature found before helps
        synthesis  encoder, heads = argmin of  mean over k and items of  w(x) l(head_k(encoder(x)), f_k(x))
                   w gives half of the weight to the items on which all f_k are right or all wrong, half to the others

    (algorithm 1; the weights and the hard targets as in the authors' code). A group's mean is that of the batch, so
    batches should be large. Every stage starts from the encoder as it is given, with a new linear head; the authors'
    draw all weights anew. The first round has to stop early, or it learns by heart and leaves no wrong answers.

    Args:
        data: columns x and y (0 to n_classes - 1).
        encoder: x -> (n, encoder.dim); it is left as it is.
        out: folder; stage NAME trains in out/stages/NAME. The same call after a kill goes on from where it stood.
        rounds: of discovery, at least 1.
        stages: options of `tacit.fit` for single stages, by name: `discovery-1`, `discovery-2`, ..., `synthesis`.
        fit_options: of `tacit.fit`, for every stage.

    Returns:
        The encoder of the synthesis.

    Raises:
        ArgumentError: `rounds` < 1, an unknown stage, no column x or y, or what `tacit.fit` refuses.

    >>> data = {"x": torch.randn(20, 4), "y": torch.arange(20) % 2}
    >>> net = nn.Linear(4, 3)
    >>> net.dim = 3
    >>> rich_feature_construction(data, encoder=net, max_steps=2, batch_size=20)
    Linear(in_features=4, out_features=3, bias=True)
    """
    items = as_dataset(data)
    names = [f"discovery-{k}" for k in range(1, rounds + 1)]
    expect("rounds", rounds, rounds >= 1, "at least 1")
    wrong = sorted(set(stages or {}) - {*names, "synthesis"})
    expect("stages", wrong, not wrong, f"names among {', '.join(names)}, synthesis")
    y = items["y"][:]
    n_classes = int(y.max()) + 1

    def head(name: str, outputs: int) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(fit_options.get("seed", 0), name, 0))
            return Classifier(copy.deepcopy(encoder), outputs)

    def train(name: str, learner: Learner) -> None:
        place = None if out is None else Path(out) / "stages" / name
        fit(learner, items, out=place, **{**fit_options, **(stages or {}).get(name, {})})

    answers = torch.zeros(0, len(y), dtype=torch.long)
    for name in names:
        discovery = Discovery(head(name, n_classes), right=answers == y)
        train(name, discovery)
        answers = torch.cat([answers, answers_of(discovery.classifier, items)[None]])
    synthesis = Synthesis(head("synthesis", rounds * n_classes), answers, balanced_weights(answers == y))
    train("synthesis", synthesis)
    return synthesis.classifier.encoder


class Discovery(Learner):
    """One round: the worst group's mean loss. Without earlier rounds it is plain empirical risk minimisation.

    Args:
        classifier: x -> logits.
        right: which items each earlier round gets right, bool (rounds so far, n).
    """

    right: Tensor

    def __init__(self, classifier: Classifier, right: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("right", right)

    def loss(self, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        losses = F.cross_entropy(self.classifier(prepared(self.classifier.encoder, x)), y, reduction="none")
        if len(self.right) == 0:
            return losses.mean()
        right = self.right[:, index]
        groups = torch.cat([right, ~right])  # (groups, b)
        return ((groups * losses).sum(1) / groups.sum(1).clamp_min(1)).max()


class Synthesis(Learner):
    """One encoder with a head for each round, which learns that round's answers.

    Args:
        classifier: x -> logits of all heads, side by side.
        answers: class that each round gives to each item, (rounds, n).
        weights: of the items, (n,), mean 1.
    """

    answers: Tensor
    weights: Tensor

    def __init__(self, classifier: Classifier, answers: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("answers", answers)
        self.register_buffer("weights", weights)

    def loss(self, x: Tensor, index: Tensor) -> Tensor:
        logits = self.classifier(prepared(self.classifier.encoder, x)).view(len(x), len(self.answers), -1)
        losses = F.cross_entropy(logits.transpose(1, 2), self.answers[:, index].T, reduction="none")  # (b, rounds)
        return (self.weights[index, None] * losses).mean()


def balanced_weights(right: Tensor) -> Tensor:
    """Half of the weight on items where the rounds are all right or all wrong, half on the others: (rounds, n) -> (n,).

    >>> balanced_weights(torch.tensor([[True, True, False, True], [True, True, False, False]])).tolist()
    [0.6666666865348816, 0.6666666865348816, 0.6666666865348816, 2.0]
    """
    alike = right.all(0) | ~right.any(0)
    share = torch.where(alike, alike.float().mean(), (~alike).float().mean())
    return 0.5 / share if bool(alike.any() and (~alike).any()) else torch.ones(len(alike))


@torch.no_grad()
def answers_of(classifier: Classifier, items: Dataset) -> Tensor:
    """The class that the classifier gives to each item, (n,)."""
    device = next(classifier.parameters()).device
    with evaluating(classifier):
        logits = (classifier(prepared(classifier.encoder, x.to(device))) for x in items.chunks("x"))
        return torch.cat([of_chunk.argmax(1).cpu() for of_chunk in logits])


# What the claims train on the constructed features; neither is a system of its own here ------------------------------


class VREx(Learner):
    """Risk extrapolation (Krueger et al., 2021): the risks of all environments, and their variance.

        loss = ( sum over e of R_e  +  penalty * variance over e of R_e ) / max(penalty, 1)

    Args:
        classifier: x -> logits.
        penalty: weight of the variance; dividing by it keeps gradients in range, as the authors of IRM do.
        n_domains: environments.
    """

    def __init__(self, classifier: Classifier, *, penalty: float, n_domains: int = 2) -> None:
        super().__init__()
        self.classifier, self.penalty, self.n_domains = classifier, penalty, n_domains

    def loss(self, x: Tensor, y: Tensor, domain: Tensor) -> Tensor:
        losses = F.cross_entropy(self.classifier(prepared(self.classifier.encoder, x)), y, reduction="none")
        members = F.one_hot(domain, self.n_domains).T.to(losses)
        risks = (members * losses).sum(1) / members.sum(1)
        return (risks.sum() + self.penalty * risks.var()) / max(self.penalty, 1)


class PixelMLP(ImageEncoder):
    """The paper's network for ColoredMNIST: two hidden layers with ReLU on the pixels, here `width` units each."""

    def __init__(self, image_size: int, in_channels: int, width: int) -> None:
        super().__init__(dim=width, image_size=image_size, in_channels=in_channels, config={"name": "pixel-mlp"})
        first, second = nn.Linear(in_channels * image_size**2, width), nn.Linear(width, width)
        for layer in (first, second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # pixels in [0, 1] as they are, which the authors do not normalise
