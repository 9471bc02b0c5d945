"""Self-Supervised Prototypical Transfer Learning for Few-Shot Classification (Medina et al., 2020)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, claim
from tacit.data import Dataset
from tacit.embedding import evaluating, prepared
from tacit.errors import ArgumentError, expect
from tacit.evaluate import episodes
from tacit.fewlabels._matching_networks import draw_episode, items_by_class, occurrences
from tacit.learner import Learner
from tacit.nn import gather, rank
from tacit.views import ColorJitter, Compose, RandomGrayscale, RandomHorizontalFlip, RandomResizedCrop


@system("prototransfer", paper="arXiv:2006.11325", modality="image")
class ProtoTransfer(Learner):
    """ProtoCLR: each unlabelled image is a class of its own, and augmented copies of it must find it again.

        loss = mean over images i, copies q of  -log( exp(-d_iqi) / sum over k of exp(-d_iqk) )   (section 3.1)
        d_iqk = |f(x_iq) - f(x_k)|^2,   x_iq the q-th augmented copy of x_i, x_k the image itself

    which is the loss of prototypical networks on an episode of one-shot classes, as many as the batch holds. After it,
    `adapt(support_x, support_y)` is ProtoTune: a `ProtoTune` that starts as the nearest prototype and is fine-tuned.
    On several devices the prototypes come from all of them.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim); what the user keeps.
        views: batch -> augmented batch; by default the official code's, without its vertical flips (and, for images
            that do not have 3 channels, without its random erasing).
        n_queries: Q, augmented copies of an image.

    Batches hold at least 2 images.

    >>> from tacit.nn import Conv4
    >>> learner = ProtoTransfer(Conv4(width=8, image_size=16))
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    >>> support, queries = torch.rand(4, 3, 16, 16), torch.rand(5, 3, 16, 16)
    >>> learner.adapt(support, torch.tensor([3, 7, 3, 7])).predict(queries).shape
    torch.Size([5])
    """

    settings: ClassVar = {
        # Adam; the authors halve the rate every 25,000 steps and stop when the loss no longer falls
        "paper": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.0, "batch_size": 50, "n_queries": 3},
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 50,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "n_queries": 3,
        },
    }

    def __init__(self, encoder: nn.Module, *, views: nn.Module | None = None, n_queries: int = 3) -> None:
        super().__init__()
        expect("n_queries", n_queries, n_queries >= 1, "at least 1")
        self.encoder, self.n_queries = encoder, n_queries
        self.views = _augmentation(encoder.image_size, encoder.in_channels) if views is None else views  # type: ignore[arg-type]

    def loss(self, x: Tensor) -> Tensor:
        copies = [self.views(x) for _ in range(self.n_queries)]
        together = self.encoder(torch.cat([prepared(self.encoder, x), *copies]))  # one batch, one normalisation
        prototypes, queries = together[: len(x)], together[len(x) :]
        own = torch.arange(len(x), device=x.device) + rank() * len(x)
        return F.cross_entropy(prototype_logits(queries, gather(prototypes)), own.repeat(self.n_queries))

    def adapt(
        self,
        support_x: Tensor,
        support_y: Tensor,
        *,
        epochs: int = 15,
        lr: float = 1e-3,
        batch_size: int | None = None,
        freeze_encoder: bool = True,
    ) -> ProtoTune:
        """A classifier of new classes from a few labelled images; the learner itself stays as it is.

        Args:
            support_x, support_y: (s, c, h, w) and (s,), integers.
            epochs, lr, batch_size, freeze_encoder: as in `ProtoTune.tune`.
        """
        tuned = ProtoTune(self.encoder if freeze_encoder else copy.deepcopy(self.encoder), support_x, support_y)
        return tuned.tune(
            support_x, support_y, epochs=epochs, lr=lr, batch_size=batch_size, freeze_encoder=freeze_encoder
        )


class ProtoTune(nn.Module):
    """A linear layer on an encoder that starts as the nearest class mean, and can be fine-tuned from there.

        W_k = 2 c_k,   b_k = -|c_k|^2,   c_k = mean of f over the support of class k                 (section 3.2)

    whose logits differ from -|f(x) - c_k|^2 by what all classes share.

    Args:
        encoder: x -> (n, d); `nn.Identity()` where x are features already.
        support_x, support_y: the labelled items, (s, ...) and (s,) integers; classes may have unequal numbers.

    Attributes:
        classes: (k,), sorted values of `support_y`.
        head: the layer.

    >>> x, y = torch.tensor([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0]]), torch.tensor([5, 5, 9])
    >>> ProtoTune(nn.Identity(), x, y).predict(torch.tensor([[1.0, 1.0], [3.0, 1.0]])).tolist()
    [5, 9]
    """

    classes: Tensor

    def __init__(self, encoder: nn.Module, support_x: Tensor, support_y: Tensor) -> None:
        super().__init__()
        if len(support_x) != len(support_y) or len(support_y) == 0:
            raise ArgumentError(
                f"support_y: {len(support_y)} labels of {len(support_x)} items; expected one label each"
            )
        self.encoder = encoder
        classes, codes = support_y.unique(return_inverse=True)
        self.register_buffer("classes", classes)
        features = self._features(support_x)
        belongs = F.one_hot(codes, len(classes)).to(features)
        prototypes = (belongs.T @ features) / belongs.sum(0)[:, None]
        self.head = nn.Linear(features.shape[1], len(classes), device=features.device)
        with torch.no_grad():
            self.head.weight.copy_(2 * prototypes)
            self.head.bias.copy_(-prototypes.square().sum(1))

    def tune(
        self,
        support_x: Tensor,
        support_y: Tensor,
        *,
        epochs: int = 15,
        lr: float = 1e-3,
        batch_size: int | None = None,
        freeze_encoder: bool = True,
    ) -> ProtoTune:
        """Adam on the cross-entropy of the support set, in place; batches from torch's global generator.

        Args:
            support_x, support_y: as given to the constructor.
            epochs: passes over the support set; 0 leaves the prototypes.
            lr: constant rate of Adam.
            batch_size: items a step; None: as many as there are classes, as in the official code.
            freeze_encoder: tune the layer alone, as for mini-ImageNet and Omniglot; else the encoder moves too, as
                under domain shift, with the batch statistics that it has learned.
        """
        expect("epochs", epochs, epochs >= 0, "0 or more")
        expect("batch_size", batch_size, batch_size is None or batch_size >= 1, "at least 1, or None")
        codes = torch.searchsorted(self.classes, support_y)
        inputs = self._features(support_x) if freeze_encoder else support_x
        moved = list(self.head.parameters()) + ([] if freeze_encoder else list(self.encoder.parameters()))
        optimizer = torch.optim.Adam([p for p in moved if p.requires_grad], lr)
        with evaluating(self):
            for _ in range(epochs):
                for rows in torch.randperm(len(inputs), device=codes.device).split(batch_size or len(self.classes)):
                    logits = self.head(inputs[rows]) if freeze_encoder else self(inputs[rows])
                    optimizer.zero_grad()
                    F.cross_entropy(logits, codes[rows]).backward()
                    optimizer.step()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Items -> logits (n, k), the classes in ascending order."""
        return self.head(self.encoder(prepared(self.encoder, x)))

    @torch.no_grad()
    def predict_proba(self, x: Tensor) -> Tensor:
        """Probabilities of the classes, (n, k)."""
        with evaluating(self):
            return self(x).softmax(1)

    def predict(self, x: Tensor) -> Tensor:
        """The likeliest class of each item, (n,): values of `support_y`."""
        return self.classes[self.predict_proba(x).argmax(1)]

    @torch.no_grad()
    def _features(self, x: Tensor) -> Tensor:
        with evaluating(self.encoder):
            return self.encoder(prepared(self.encoder, x))


def prototype_logits(queries: Tensor, prototypes: Tensor) -> Tensor:
    """-|q - c|^2 up to |q|^2, which all classes share and a softmax does not see: (q, d), (k, d) -> (q, k).

    In float32 under mixed precision too, since squares of norms cancel.

    >>> prototype_logits(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    tensor([[ 1., -3.]])
    """
    with torch.autocast(queries.device.type, enabled=False):
        prototypes = prototypes.float()
        return F.linear(queries.float(), 2 * prototypes, -prototypes.square().sum(1))


def _augmentation(image_size: int, channels: int) -> nn.Module:
    """The official code's copies: of photos, and (with pixels dropped out) of Omniglot's characters."""
    if channels == 3:
        return Compose(
            RandomResizedCrop(image_size, (0.5, 1.0)),
            RandomHorizontalFlip(),
            ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
            RandomGrayscale(0.2),
        )
    # the dropout is outside of Compose, as it doubles as a gain of 1 / 0.7 and leaves [0, 1]
    return nn.Sequential(Compose(RandomResizedCrop(image_size, (0.6, 1.0)), RandomHorizontalFlip()), nn.Dropout(0.3))


class _PrototypicalNetworks(Learner):
    """Snell et al. (2017), the claims' baseline: `prototype_logits` on episodes of labels, true or made by clustering.

    Args:
        k_shot: items of each class that make its prototype; the others are queries.
    """

    def __init__(self, encoder: nn.Module, *, n_way: int, k_shot: int = 1, per_class: int = 4) -> None:
        super().__init__()
        self.encoder, self.n_way, self.k_shot, self.per_class = encoder, n_way, k_shot, per_class

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> list[Tensor]:
        items = items_by_class(data["y"][:], at_least=self.k_shot + 1)
        count = max(1, len(data) // batch_size)
        ways = min(self.n_way, len(items))
        return [draw_episode(items, ways, self.k_shot, self.per_class, generator) for _ in range(count)]

    def loss(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        classes, codes = y.unique(return_inverse=True)
        z = self.encoder(prepared(self.encoder, x))
        support = occurrences(y) < self.k_shot
        belongs = F.one_hot(codes[support], len(classes)).to(z)
        prototypes = belongs.T @ z[support] / self.k_shot
        return F.cross_entropy(prototype_logits(z[~support], prototypes), codes[~support])


PIXELS = 28
N_WAY = 20
ENCODER = {"name": "conv4", "width": 32}


@claim(
    "tells new classes apart from one example better than prototypical networks trained on clusters of the images",
    reported="Omniglot, 20-way 1-shot: 72.27 % against 47.75 % for CACTUs-ProtoNets (Table 1)",
    proxy="5 alphabets of Omniglot to learn from and 2 to test on; a short training; clusters of principal components "
    "of pixels in place of those of ACAI's features",
    steps={"small": 200, "full": 5_000},
)
def better_than_clusters(bench: Bench) -> Comparison:
    """Held-out alphabets, 20-way, 1-shot, nearest prototype on both sides: 600 episodes of 15 queries a class.

    Neither side sees a label in training. As in CACTUs, the baseline has many partitions, by k-means under random
    scalings of the features, one of which each of its data sets shows; 200 images a step on both sides.
    """
    return _few_shot(bench, clustered, baseline="prototypical networks on clusters of the images (CACTUs)")


@claim(
    "under a domain shift it is on a par with prototypical networks that were trained with labels",
    reported="mini-ImageNet to four other domains: 'comparable performance to supervised methods' (abstract)",
    proxy="from 5 alphabets of Omniglot to garments (Fashion-MNIST), 5-way 5-shot; a short training",
    steps={"small": 200, "full": 5_000},
)
def on_a_par_under_shift(bench: Bench) -> Comparison:
    """Nearest prototype on both sides: 600 episodes of 15 queries a class; one side was trained with 20 a character."""
    garments = bench.images("fashion_mnist", size=PIXELS, n=500, n_test=2_000)
    return _few_shot(
        bench, labelled, baseline="prototypical networks trained with labels", shifted=garments, not_worse_by=0.03
    )


@claim(
    "fine-tuning the prototypes (ProtoTune) is better than leaving them as they are",
    reported="the ablation on mini-ImageNet, where it helps with several shots (section 4.3)",
    proxy="5 alphabets of Omniglot to learn from and 2 to test on, 20-way 5-shot; a short training",
    steps={"small": 200, "full": 5_000},
)
def tuning_helps(bench: Bench) -> Comparison:
    """Held-out alphabets, 20-way 5-shot: the same encoder, the same episodes, 15 passes at the code's rate."""
    characters = bench.images("omniglot", size=PIXELS)
    shape = {"n_way": bench.pick(smoke=2, small=N_WAY), "n_episodes": bench.pick(smoke=3, small=600)}

    def trial_of(trial: Trial) -> list[float]:
        train, unseen = trial.split(characters)
        learner = _trained(trial, train)
        held_out = unseen.reveal()
        z = trial.predict(learner.encoder, held_out.x)
        torch.manual_seed(trial.seed)
        return [_accuracy(z, held_out.y, trial, k_shot=5, epochs=epochs, **shape) for epochs in (15, 0)]

    return bench.trials(trial_of, baseline="the same prototypes, not fine-tuned", better_by=0.0)


def _trained(trial: Trial, train: Part) -> Any:
    return trial.pretrained(ProtoTransfer, train, encoder=ENCODER)


def _few_shot(
    bench: Bench,
    labels: Callable[[Trial, Tensor, Tensor], Dataset],
    *,
    baseline: str,
    shifted: Any = None,
    not_worse_by: float | None = None,
) -> Comparison:
    """ProtoCLR against prototypical networks on the labels that `labels` gives, from the same weights."""
    characters = bench.images("omniglot", size=PIXELS)
    n_way, n_episodes = bench.pick(smoke=2, small=N_WAY), bench.pick(smoke=3, small=600)
    to_tell = {"n_way": n_way if shifted is None else bench.pick(smoke=2, small=5), "n_episodes": n_episodes}

    def trial_of(trial: Trial) -> list[float]:
        train, unseen = trial.split(characters)
        learner = _trained(trial, train)
        other = _PrototypicalNetworks(trial.encoder(ENCODER, train), n_way=50)
        trial.fit(other, labels(trial, train.x, train.y), batch_size=200, **PROTONET)
        if shifted is not None:
            _, unseen = trial.split(shifted)
        held_out = unseen.reveal()
        shots = 1 if shifted is None else 5
        features = [trial.predict(side.encoder, held_out.x) for side in (learner, other)]
        return [_accuracy(z, held_out.y, trial, k_shot=shots, **to_tell) for z in features]

    margin = {"better_by": 0.0} if not_worse_by is None else {"not_worse_by": not_worse_by}
    return bench.trials(trial_of, baseline=baseline, **margin)


PROTONET = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "warmup": 0.05}


def labelled(trial: Trial, x: Tensor, y: Tensor) -> Dataset:
    """The true labels."""
    return Dataset({"x": x, "y": y}, modality="image")


def clustered(trial: Trial, x: Tensor, y: Tensor, *, n_partitions: int = 10, n_clusters: int = 250) -> Dataset:
    """CACTUs' pseudo-labels: k-means of randomly scaled principal components, each partition's clusters classes.

    Items stand once for each partition, so that an episode of many classes mixes partitions; two of its classes may
    then overlap, as labels made without knowledge do.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    flat = x.flatten(1).float().numpy() / 255
    features = PCA(min(64, *flat.shape), whiten=True, random_state=trial.seed).fit_transform(flat)
    count = min(n_clusters, len(x) // 4)
    partitions = []
    for number in range(1 if trial.budget == "smoke" else n_partitions):
        scales = trial.rng.random(features.shape[1])
        found = KMeans(count, n_init=1, max_iter=20, random_state=trial.seed + number).fit_predict(features * scales)
        partitions.append(torch.from_numpy(found.astype(np.int64)) + number * count)
    return Dataset({"x": x.repeat(len(partitions), 1, 1, 1), "y": torch.cat(partitions)}, modality="image")


def _accuracy(
    z: Tensor, y: Tensor, trial: Trial, *, n_way: int, n_episodes: int, k_shot: int, epochs: int = 0
) -> float:
    """Mean accuracy of `ProtoTune` on features, over episodes of 15 queries a class (fewer where there are fewer)."""
    n_queries = min(15, int(torch.bincount(y).sort(descending=True).values[n_way - 1]) - k_shot)
    right = []
    for episode in episodes(
        y, n_way=n_way, n_shots=k_shot, n_queries=n_queries, n_episodes=n_episodes, random_state=trial.seed
    ):
        support, queries = torch.from_numpy(episode.support), torch.from_numpy(episode.queries)
        tuned = ProtoTune(nn.Identity(), z[support], y[support])
        tuned.tune(z[support], y[support], epochs=epochs)
        right.append((tuned.predict(z[queries]) == y[queries]).float().mean().item())
    return float(np.mean(right))
