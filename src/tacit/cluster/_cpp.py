"""Image Clustering via the Principle of Rate Reduction in the Age of Pretrained Models (Chu et al., 2024)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.errors import expect
from tacit.learner import Learner
from tacit.nn import coding_rate, grouped_coding_rate, sinkhorn

Array = np.ndarray
BLOCK = 4096


@system("cpp", paper="arXiv:2306.05272", modality=("features", "image"))
class CPP(ClusterMixin, TransformerMixin, BaseEstimator):
    """Clusters frozen features of a pretrained model, and finds how many clusters there are.

    A head on the features gives Z and C, both of norm 1, and from C a membership P in which each item's group is that
    of the items like it. It is trained to

        maximise  R(Z) - R_c(Z | P) - gamma / 2 |P|_F^2,   P = n Sinkhorn(|C C^T| / epsilon)

    after a warm-up on R(Z) alone, at whose end C's head is made a copy of Z's. `tacit.nn.coding_rate` has R and R_c.
    P is doubly stochastic over a batch, its rows exactly. Clusters are those of spectral clustering on P over all
    rows; their number, if it is to be found, is that of least coding length (Ma et al., 2007):

        L = sum over k of  (n_k + d) / 2 logdet(I + d / (n_k eps^2) Z_k^T Z_k) - n_k log(n_k / n)

    Where the authors' code differs: the potentials of the columns are detached, and one of its iterations is half of
    `sinkhorn`'s; the two heads have learning rates of their own; its `eps` is the square of this one. It takes the
    features as they are; here they are centred and divided by one number, their mean deviation.

    Spectral clustering is quadratic: above `max_samples` rows it sees as many, drawn at random, and the others go to
    the cluster whose items they are likest on average, in blocks, so that memory is linear in the rows.

    In a Pipeline it may follow a scaler or an encoder. `name_clusters` names the clusters.

    Args:
        n_clusters: number of clusters, or `"auto"`.
        max_clusters: most that `"auto"` tries, from 2 on.
        embed_dim: d, dimensions of Z and C.
        hidden_dim: width of the head's two hidden layers.
        eps: distortion of the coding rates.
        epsilon: Sinkhorn's, above 0; the lower, the sharper P.
        gamma: weight of P's norm.
        warmup: share of the steps on R alone, in [0, 1); the authors' default is one step.
        max_steps, lr, batch_size, device: of the training.
        max_samples: rows in spectral clustering at most.
        random_state: of weights, order and k-means.

    Attributes:
        labels_: int (n,).
        n_clusters_: their number.
        coding_lengths_: number of clusters -> L; empty if it was given.
        head_: the trained network.
        sample_indices_: (m,), rows in spectral clustering.

    Raises:
        ValueError: fewer rows than clusters, or an argument out of range.

    >>> g = np.random.default_rng(0)
    >>> x = np.repeat(np.eye(3, 8), 20, axis=0) * 5 + g.normal(size=(60, 8)) / 5
    >>> labels = CPP(n_clusters=3, max_steps=20, hidden_dim=32, embed_dim=8, random_state=0).fit(x).labels_
    >>> [len(set(labels[k * 20 : k * 20 + 20].tolist())) for k in range(3)]
    [1, 1, 1]
    """

    settings: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "optimizer": "sgd",
            "lr": 3e-3,
            "batch_size": 2000,
            "epochs": 30,
            "weight_decay": 1e-4,
            "hidden_dim": 4096,
            "embed_dim": 128,
            "epsilon": 0.175,
            "gamma": 0.05,
        },
        "small": {"lr": 1e-3, "batch_size": 256, "hidden_dim": 256, "embed_dim": 32, "max_clusters": 12},
    }

    def __init__(
        self,
        *,
        n_clusters: int | str = "auto",
        max_clusters: int = 30,
        embed_dim: int = 32,
        hidden_dim: int = 512,
        eps: float = 0.1**0.5,
        epsilon: float = 0.175,
        gamma: float = 0.05,
        warmup: float = 0.0,
        max_steps: int = 300,
        lr: float = 1e-3,
        batch_size: int = 256,
        device: str = "cpu",
        max_samples: int = 2000,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.max_clusters = max_clusters
        self.embed_dim = embed_dim
        self.hidden_dim = hidden_dim
        self.eps = eps
        self.epsilon = epsilon
        self.gamma = gamma
        self.warmup = warmup
        self.max_steps = max_steps
        self.lr = lr
        self.batch_size = batch_size
        self.device = device
        self.max_samples = max_samples
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> CPP:
        """Train the head, and cluster."""
        x = validate_data(self, X, dtype=[np.float32, np.float64])
        self._check(len(x))
        chance = check_random_state(self.random_state)
        self.mean_, self.scale_ = x.mean(0), float(x.std(0).mean()) or 1.0
        self.head_ = self._train(self._scaled(x), int(chance.randint(2**31 - 1)))
        n, most = len(x), self.max_samples
        self.sample_indices_ = np.arange(n) if n <= most else np.sort(chance.choice(n, most, replace=False))
        z, self.sample_codes_ = self._embed(x[self.sample_indices_])
        points = _spectral_points(self._membership(self.sample_codes_), self._most_clusters(len(z)))
        found = {k: _cluster(points, k, chance) for k in self._candidates(len(z))}
        self.coding_lengths_ = {}
        if self.n_clusters == "auto":
            self.coding_lengths_ = {k: coding_length(z, labels, eps=self.eps) for k, labels in found.items()}
        self.n_clusters_ = min(self.coding_lengths_ or found, key=lambda k: self.coding_lengths_.get(k, 0.0))
        self.sample_labels_ = found[self.n_clusters_]
        self.labels_ = self.sample_labels_ if n <= most else self._shares(x).argmax(1)
        return self

    def predict(self, X: Any) -> Array:
        """The cluster whose items are likest on average, int (n,)."""
        return self.predict_proba(X).argmax(1)

    def predict_proba(self, X: Any) -> Array:
        """Mean of exp(|c' c_j| / epsilon) over the items j of each cluster, in shares: (n, n_clusters_)."""
        check_is_fitted(self)
        return self._shares(validate_data(self, X, dtype=[np.float32, np.float64], reset=False))

    def transform(self, X: Any) -> Array:
        """Z, float32 (n, embed_dim), rows of norm 1: features of which each cluster spans a subspace of its own."""
        check_is_fitted(self)
        return self._embed(validate_data(self, X, dtype=[np.float32, np.float64], reset=False))[0].float().numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # Z is float32 whatever X is
        tags.non_deterministic = False
        return tags

    def _check(self, n: int) -> None:
        k = self.n_clusters
        ok = k == "auto" or (isinstance(k, int | np.integer) and k >= 1)
        expect("n_clusters", k, ok, "a whole number of at least 1, or 'auto'")
        expect("max_clusters", self.max_clusters, self.max_clusters >= 2, "at least 2")
        for name in ("eps", "epsilon"):
            expect(name, getattr(self, name), getattr(self, name) > 0, "a number above 0")
        expect("gamma", self.gamma, self.gamma >= 0, "a number of at least 0")
        expect("warmup", self.warmup, 0 <= self.warmup < 1, "a share in [0, 1)")
        least = 2 if k == "auto" else max(int(k), 2)
        expect("max_samples", self.max_samples, self.max_samples >= least, f"at least {least}")
        if n < least:
            raise ValueError(f"n_samples={n} should be >= {least}: give more rows or ask for fewer clusters")

    def _train(self, rows: Tensor, seed: int) -> nn.Module:
        from tacit.training import fit

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = _Heads(rows.shape[1], self.hidden_dim, self.embed_dim)
        learner = _RateReduction(head, self.eps, self.epsilon, self.gamma, self.warmup)
        fit(learner, rows, max_steps=self.max_steps, batch_size=min(self.batch_size, len(rows)), lr=self.lr,
            accelerator=self.device.split(":")[0], seed=seed)  # fmt: skip
        return head.cpu().double().eval()  # so that a row does not hang on those beside it

    def _candidates(self, n: int) -> range:
        most = self._most_clusters(n)
        return range(2 if self.n_clusters == "auto" else most, most + 1)

    def _most_clusters(self, n: int) -> int:
        return max(min(self.max_clusters, n - 1), 2) if self.n_clusters == "auto" else int(self.n_clusters)

    def _scaled(self, x: Array) -> Tensor:
        return torch.from_numpy(((x - self.mean_) / self.scale_).astype(np.float32, copy=False))

    @torch.no_grad()
    def _embed(self, x: Array) -> tuple[Tensor, Tensor]:
        found = [self.head_(self._scaled(x[start : start + BLOCK]).double()) for start in range(0, len(x), BLOCK)]
        z, codes = (torch.cat(parts) for parts in zip(*found, strict=True))
        return z, codes

    def _membership(self, codes: Tensor) -> Array:
        return membership(codes, self.epsilon, n_iters=20).double().numpy()

    def _shares(self, x: Array) -> Array:
        ones = F.one_hot(torch.from_numpy(self.sample_labels_).long(), self.n_clusters_).double()
        means = ones / ones.sum(0).clamp_min(1)
        found = []
        for start in range(0, len(x), BLOCK):
            _, codes = self._embed(x[start : start + BLOCK])
            likeness = (((codes @ self.sample_codes_.T).abs() - 1) / self.epsilon).exp() @ means
            found.append(likeness / likeness.sum(1, keepdim=True))
        return torch.cat(found).numpy()


class _Heads(nn.Module):
    """Two hidden layers and a linear head each for Z and C."""

    def __init__(self, in_dim: int, hidden_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(in_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim), nn.ReLU(),
        )  # fmt: skip
        self.subspace = nn.Linear(hidden_dim, embed_dim)
        self.cluster = copy.deepcopy(self.subspace)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(x)
        return F.normalize(self.subspace(hidden), dim=1), F.normalize(self.cluster(hidden), dim=1)


class _RateReduction(Learner):
    warm: Tensor

    def __init__(self, head: _Heads, eps: float, epsilon: float, gamma: float, warmup: float) -> None:
        super().__init__()
        self.head, self.eps, self.epsilon, self.gamma, self.warmup = head, eps, epsilon, gamma, warmup
        self.register_buffer("warm", torch.zeros((), dtype=torch.bool))

    def loss(self, x: Tensor) -> Tensor:
        z, codes = self.head(x)
        if self.progress < self.warmup:
            return -coding_rate(z, eps=self.eps) + 0 * codes.sum()
        p = membership(codes, self.epsilon)
        return rate_reduction_loss(z, p, eps=self.eps, gamma=self.gamma)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        if not self.warm and progress >= self.warmup:
            self.head.cluster.load_state_dict(self.head.subspace.state_dict())
            self.warm.fill_(True)


def membership(codes: Tensor, epsilon: float, *, n_iters: int = 3) -> Tensor:
    """P = n Sinkhorn(|C C^T| / epsilon), (n, n): its rows sum to 1, its columns about."""
    return len(codes) * sinkhorn((codes @ codes.T).abs(), epsilon=epsilon, n_iters=n_iters)


def rate_reduction_loss(z: Tensor, p: Tensor, *, eps: float, gamma: float) -> Tensor:
    """R_c(Z | P) - R(Z) + gamma / 2 |P|_F^2, the columns of P being the groups."""
    return grouped_coding_rate(z, p, eps=eps) - coding_rate(z, eps=eps) + gamma / 2 * p.square().sum()


def coding_length(z: Tensor, labels: Array, *, eps: float) -> float:
    """L of `CPP`, in nats: what the rows and their labels take, coded cluster by cluster.

    >>> z = torch.eye(2).repeat_interleave(10, 0)  # two lines
    >>> apart, together = np.repeat([0, 1], 10), np.zeros(20, int)
    >>> coding_length(z, apart, eps=0.3) < coding_length(z, together, eps=0.3)
    True
    """
    n, d = z.shape
    length = 0.0
    for k in np.unique(labels):
        rows = z[torch.from_numpy(labels == k)].double()
        length += (len(rows) + d) * float(coding_rate(rows, eps=eps)) - len(rows) * np.log(len(rows) / n)
    return float(length)


def _spectral_points(p: Array, count: int) -> Array:
    """Leading eigenvectors of D^-1/2 P D^-1/2, P made symmetric, the first one first: (n, count)."""
    from scipy.linalg import eigh

    p = (p + p.T) / 2
    root = np.sqrt(p.sum(1))
    n, count = len(p), min(count, len(p))
    _, vectors = eigh(p / root[:, None] / root, subset_by_index=[n - count, n - 1])
    return vectors[:, ::-1]


def _cluster(points: Array, k: int, chance: np.random.RandomState) -> Array:
    """k-means of the first k coordinates, rows of norm 1 (Ng, Jordan & Weiss, 2001)."""
    rows = points[:, :k]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)
    return KMeans(k, n_init=10, random_state=chance).fit_predict(rows)


def name_clusters(
    labels: Array,
    features: Array,
    text_features: Array,
    names: Sequence[str],
    *,
    scale: float = 100.0,
    n_votes: int = 5,
) -> dict[int, str]:
    """A name for each cluster, by the votes of its items in a space that images and texts share, such as CLIP's.

    Each item gives its `n_votes` likeliest names their probability, softmax(scale cos); the most votes win (Chu et al.,
    section 4). Two clusters may get the same name.

    Args:
        labels: (n,) cluster numbers.
        features: (n, d) of the items, of any norm.
        text_features: (m, d) of the names, such as of "a photo of a NAME".
        names: m of them.
        scale: of the cosines; CLIP's is 100.
        n_votes: names that an item votes for, at least 1.

    Raises:
        ArgumentError: lengths or widths that do not match.

    >>> name_clusters(np.array([0, 0, 1]), np.eye(3)[[0, 0, 1]], np.eye(3), ["cat", "dog", "car"])
    {0: 'cat', 1: 'dog'}
    """
    features, text_features = np.asarray(features, float), np.asarray(text_features, float)
    paired = len(names) == len(text_features) > 0
    expect("names", len(names), paired, f"one a row of text_features, {len(text_features)}")
    expect("labels", len(labels), len(labels) == len(features), f"one a row of features, {len(features)}")
    same = features.shape[1:] == text_features.shape[1:]
    expect("text_features", text_features.shape, same, f"rows as wide as those of features, {features.shape[1:]}")
    expect("n_votes", n_votes, n_votes >= 1, "at least 1")
    texts = F.normalize(torch.from_numpy(text_features), dim=1)
    found = {}
    for k in np.unique(labels):
        items = F.normalize(torch.from_numpy(features[np.asarray(labels) == k]), dim=1)
        likely, which = (scale * items @ texts.T).softmax(1).topk(min(n_votes, len(names)), dim=1)
        votes = torch.zeros(len(names), dtype=likely.dtype).index_add(0, which.flatten(), likely.flatten())
        found[int(k)] = names[int(votes.argmax())]
    return found


# Claims ---------------------------------------------------------------------------------------------------------------


def _simclr(trial: Trial, train: Part, unseen: Unseen) -> tuple[Array, Array]:
    encoder = trial.pretrained("simclr", train).encoder
    seen, new = (trial.predict(encoder, part.x).numpy() for part in (train, unseen))
    return seen, new


@claim(
    "rate reduction lifts the clustering accuracy of pretrained features",
    reported="57 % to 66 % on ImageNet-1k with CLIP's features (abstract)",
    proxy="SimCLR's features of a ResNet-8 on 4,000 images of CIFAR-10 at 16 pixels, in place of CLIP's",
    steps={"small": 300},
)
def better_than_kmeans(bench: Bench) -> Comparison:
    """Clustering accuracy on unseen images with ten clusters, against k-means of the same features."""
    images = bench.images("cifar10", size=16, n=4000, n_test=2000)

    def sides(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(images)
        seen, new = _simclr(trial, train, unseen)
        model = CPP(n_clusters=10, random_state=trial.seed, max_steps=trial.steps, device=trial.device, **_small())
        model.fit(seen)
        plain = KMeans(10, n_init=10, random_state=trial.seed).fit(seen)
        ours, theirs = model.predict(new), plain.predict(new)
        return unseen.score(ours, "clustering_accuracy"), unseen.score(theirs, "clustering_accuracy")

    setting = f"{images.name}, features of SimCLR"
    return bench.trials(sides, baseline="k-means of the same features", better_by=0.0, setting=setting)


@claim(
    "the least coding length finds the number of clusters",
    reported="10 for CIFAR-10, and 20 for CIFAR-20's coarse classes, with CLIP's features (section 4, by figures)",
    proxy="the pixels of scikit-learn's digits, in place of CLIP's features of images",
    steps={"small": 300},
)
def finds_the_number_of_clusters(bench: Bench) -> Comparison:
    """Minus the distance of the estimate from ten, which is claimed to lie above -3: 8 to 12 for ten digits."""
    digits = bench.images("digits", n=1200, n_test=500)

    def distance(trial: Trial) -> float:
        train, _ = trial.split(digits)
        words = {**_small(), "max_clusters": 30}
        model = CPP(random_state=trial.seed, max_steps=trial.steps, device=trial.device, **words)
        return -abs(model.fit(train.x.flatten(1).float().numpy()).n_clusters_ - 10)

    return bench.trials(distance, above=-3.0, setting=f"{digits.name}, pixels, 2 to 30 clusters tried")


def _small() -> dict[str, Any]:
    return dict(CPP.settings["small"])
