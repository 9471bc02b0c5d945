"""OBoW: Online Bag-of-Visual-Words Generation for Self-Supervised Learning (Gidaris et al., 2021)."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, claim
from tacit.data import Dataset
from tacit.errors import expect
from tacit.learner import Learner
from tacit.nn import Momentum, encode_crops, gather, mlp
from tacit.views import Compose, RandomHorizontalFlip, RandomResizedCrop, Views, center, two_crops


@system("obow", paper="arXiv:2012.11552", modality="image")
class OBoW(Learner):
    """From small crops, a student predicts which visual words its slow teacher finds in the whole image.

        q(x)[u, k] = softmax over k of  -|T(x)[u] - v_k|^2 / delta       at each place u of the teacher's feature map
        y(x)[k]    = max over u of q(x)[u, k],  scaled to sum 1          the bag of words
        loss       = mean over levels of  -sum over k of y(x)[k] log softmax over k of  kappa G(v_k) . S(crop)

    delta is `inverse_delta`'s inverse times the running mean of the squared distance to the nearest word. The words v
    are local features of the teacher, averaged over 3 x 3 places: each image puts in one, at a random place, and the
    oldest go. The head G makes the student's classifier out of the words, so that it follows them. Each crop costs as
    above: the mean over the crops of one size, summed over the sizes, as in the authors' code.

    Before the first step the words are drawn from the untrained teacher's features of the data (several from an image
    where there are fewer images than words), where the authors' code starts with random numbers. The outermost places
    of a map are left out, as in their code, if it has more than 4 x 4.

    Args:
        encoder: images (n, c, h, w) of several sizes -> (n, encoder.dim); what the user keeps. Its `stages`, as a
            `ResNet` has them, are the feature levels; one with `tokens` alone gives one level.
        views: batch -> [whole image, crop, crop, ...]; by default the paper's: two crops of 8 to 60 % of the area at
            5/7 of the side, and `local_crops` patches of 8 to 14 % at 3/7 of the side.
        n_words: K, words of each level.
        n_levels: how many of the last stages; 2 in the paper.
        local_crops: how many patches.
        hidden_dim: width of G's hidden layer; None: twice the encoder's features.
        kappa: scale of the student's logits, above 0; 8 for ResNet-50, 5 for ResNet-18.
        inverse_delta: above 0; 15 for ResNet-50, 10 for ResNet-18.
        momentum: decay of the teacher at the start; rises to 1 on a cosine.
        refresh: False keeps the words of the untrained teacher, to see what new ones are worth.

    Batches hold at least 2 images.

    Raises:
        ArgumentError: a value out of range, or an encoder with neither stages nor tokens.

    >>> from tacit.nn import ResNet
    >>> learner = OBoW(ResNet(8, width=8, image_size=16), n_words=16, local_crops=1)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "sgd",
            "lr": 0.03,
            "batch_size": 256,
            "epochs": 200,
            "weight_decay": 1e-4,
            "warmup": 0.05,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 3e-3,
            "batch_size": 128,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "n_words": 256,
            "local_crops": 3,
            "kappa": 2.0,
            "inverse_delta": 15.0,
            "momentum": 0.99,
        },
        "search": {"inverse_delta": [10.0, 15.0, 20.0], "kappa": [1.0, 2.0, 5.0], "momentum": [0.97, 0.99]},
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        n_words: int = 8192,
        n_levels: int = 2,
        local_crops: int = 5,
        hidden_dim: int | None = None,
        kappa: float = 8.0,
        inverse_delta: float = 15.0,
        momentum: float = 0.99,
        refresh: bool = True,
    ) -> None:
        super().__init__()
        expect("kappa", kappa, kappa > 0, "a number above 0")
        expect("n_levels", n_levels, n_levels >= 1, "at least one level")
        self.encoder = encoder
        size, channels = encoder.image_size, encoder.in_channels
        self.views = bag_views(size, channels=channels, local_crops=local_crops) if views is None else views
        self.teacher = Momentum(encoder, decay=momentum)
        self.n_levels, self.kappa, self.refresh = n_levels, kappa, refresh
        dims = [level.shape[1] for level in self._dense(torch.zeros(2, channels, size, size))]
        self.vocabularies = nn.ModuleList(Vocabulary(n_words, dim, inverse_delta) for dim in dims)
        hidden_dim = 2 * encoder.dim if hidden_dim is None else hidden_dim
        self.heads = nn.ModuleList(WordHead(dim, hidden_dim, encoder.dim) for dim in dims)

    @torch.no_grad()
    def before_fit(self, data: Dataset) -> None:
        n_words, device = len(self.vocabularies[0].words), self.vocabularies[0].words.device
        for rows in torch.randint(len(data), (n_words,)).split(256):
            levels = self._dense(center(data["x"][rows].to(device), self.encoder.image_size))
            for vocabulary, features in zip(self.vocabularies, levels, strict=True):
                vocabulary.push(local_words(features))
        for vocabulary, features in zip(self.vocabularies, levels, strict=True):
            vocabulary.mean_distance = vocabulary.nearest(features).mean()

    def loss(self, x: Tensor) -> Tensor:
        whole, *crops = self.views(x)
        with torch.no_grad():
            levels = self._dense(whole)
            bags = [vocabulary.bags(features) for vocabulary, features in zip(self.vocabularies, levels, strict=True)]
            self._fresh = [local_words(features) for features in levels]
        weights = [head(vocabulary.words) for head, vocabulary in zip(self.heads, self.vocabularies, strict=True)]
        costs: dict[int, list[Tensor]] = {}
        for crop, seen in zip(crops, encode_crops(self.encoder, crops), strict=True):
            cost = [bag_loss(self.kappa * seen @ w.T, bag) for w, bag in zip(weights, bags, strict=True)]
            costs.setdefault(crop.shape[-1], []).append(torch.stack(cost).mean())
        return torch.stack([torch.stack(same_size).mean() for same_size in costs.values()]).sum()

    def after_step(self, progress: float) -> None:
        self.teacher.update(self.encoder, progress=progress)
        if self.refresh:
            for vocabulary, fresh in zip(self.vocabularies, self._fresh, strict=True):
                vocabulary.push(gather(fresh))

    @torch.no_grad()
    def _dense(self, x: Tensor) -> list[Tensor]:
        """The teacher's feature maps, without their borders."""
        levels = dense_features(self.teacher.copies[0], x, self.n_levels)
        return [level[..., 1:-1, 1:-1] if min(level.shape[-2:]) > 4 else level for level in levels]


class Vocabulary(nn.Module):
    """The words of one level, and the bags of them in feature maps.

    Args:
        n_words: K, at least 2.
        dim: features of a word.
        inverse_delta: of the paper's delta over the mean distance, above 0.

    Attributes:
        words: (K, dim); random, none below 0, until words are pushed.
        mean_distance: running mean (decay 0.99) of the squared distance of a place's features to their nearest word.

    >>> vocabulary = Vocabulary(2, 1, inverse_delta=1e3)
    >>> vocabulary.push(torch.tensor([[0.0], [1.0]]))
    >>> vocabulary.eval().bags(torch.tensor([[[[0.0, 0.1]]], [[[0.2, 0.9]]]])).round(decimals=3).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """

    words: Tensor
    pointer: Tensor
    mean_distance: Tensor

    def __init__(self, n_words: int, dim: int, inverse_delta: float = 15.0) -> None:
        super().__init__()
        expect("n_words", n_words, n_words >= 2, "at least 2 words")
        expect("inverse_delta", inverse_delta, inverse_delta > 0, "a number above 0")
        self.inverse_delta = inverse_delta
        self.register_buffer("words", torch.randn(n_words, dim).clamp_min(0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean_distance", torch.tensor(0.5))

    def bags(self, features: Tensor) -> Tensor:
        """(n, dim, h, w) -> (n, K), each row of sum 1. In train mode the mean distance moves first."""
        places, scores = self._scores(features)
        if self.training:
            mean = gather(_nearest(places, scores).mean()[None]).mean()
            self.mean_distance = self.mean_distance.lerp(mean, 0.01)
        log_codes = F.log_softmax(scores * (-self.inverse_delta / self.mean_distance.clamp_min(1e-12)), dim=2)
        return F.normalize(log_codes.amax(1).exp(), p=1, dim=1)

    def nearest(self, features: Tensor) -> Tensor:
        """Squared distance of each place to its nearest word: (n, dim, h, w) -> (n, h w)."""
        return _nearest(*self._scores(features))

    def push(self, fresh: Tensor) -> None:
        """Put words (n, dim) in place of the oldest; `words` becomes a new tensor."""
        places = (self.pointer + torch.arange(len(fresh), device=fresh.device)) % len(self.words)
        kept = slice(-len(self.words), None)
        self.words = self.words.index_copy(0, places[kept], fresh[kept].to(self.words.dtype))
        self.pointer = (self.pointer + len(fresh)) % len(self.words)

    def _scores(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Places f (n, t, dim) and |v|^2 - 2 f v (n, t, K): their squared distances but for |f|^2, alike for all words.

        In float32 also under autocast, since the squares nearly cancel.
        """
        places, words = features.flatten(2).transpose(1, 2).float(), self.words.float()
        with torch.autocast(features.device.type, enabled=False):
            scores = torch.addmm(words.square().sum(1), places.flatten(0, 1), words.T, alpha=-2)
        return places, scores.unflatten(0, places.shape[:2])


def _nearest(places: Tensor, scores: Tensor) -> Tensor:
    return (places.square().sum(2) + scores.amin(2)).clamp_min(0)


class WordHead(nn.Module):
    """G, the dynamic head: words (K, dim) -> weights (K, out_dim) of length 1 for the student's classifier."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = mlp(dim, hidden_dim, out_dim)

    def forward(self, words: Tensor) -> Tensor:
        return F.normalize(self.layers(F.normalize(words, dim=1)), dim=1)


def bag_loss(logits: Tensor, bags: Tensor) -> Tensor:
    """Mean cross-entropy of predicted words with the bags, (n, K) each."""
    return -(bags * F.log_softmax(logits.float(), dim=1)).sum(1).mean()


def local_words(features: Tensor) -> Tensor:
    """One candidate word of each image: the mean over 3 x 3 places around a random one, (n, dim, h, w) -> (n, dim)."""
    height, width = features.shape[-2:]
    means = F.avg_pool2d(features, (min(3, height), min(3, width)), stride=1).flatten(2)
    places = torch.randint(means.shape[2], (len(means),), device=means.device)
    return means[torch.arange(len(means), device=means.device), :, places]


def dense_features(encoder: nn.Module, x: Tensor, n_levels: int) -> list[Tensor]:
    """The feature maps of the last stages that the encoder reads, the deepest last: (n, dim, h, w) each.

    Raises:
        ArgumentError: the encoder has neither `stages` nor `tokens`.
    """
    name, dense = type(encoder).__name__, hasattr(encoder, "stages") or hasattr(encoder, "tokens")
    expect("encoder", name, dense, "an encoder with stages or tokens, for features at each place", "take a ResNet")
    if not hasattr(encoder, "stages"):
        tokens = encoder.tokens(x).transpose(1, 2)
        return [tokens.unflatten(2, (math.isqrt(tokens.shape[2]), -1))]
    maps: list[Tensor] = []
    hooks = [stage.register_forward_hook(lambda _, __, y: maps.append(y)) for stage in encoder.stages]
    try:
        encoder(x)
    finally:
        for hook in hooks:
            hook.remove()
    return maps[-n_levels:]


def bag_views(image_size: int = 32, *, channels: int = 3, local_crops: int = 5) -> Views:
    """The paper's views: batch -> [whole image, crop, crop, patch, patch, ...].

    Crops of 160 and patches of 96 pixels for images of 224 (of 256 before the crop), with MoCo v2's colours; the
    patches are not blurred. The authors cut the patches out of a 3 x 3 grid; here they lie anywhere.

    >>> [len(view[0, 0]) for view in bag_views(32, local_crops=1)(torch.rand(2, 3, 32, 32))]
    [32, 24, 24, 16]
    """
    expect("local_crops", local_crops, local_crops >= 0, "a number not below 0")
    step = 8 if image_size >= 32 else 4
    large, small = (max(step, round(image_size * side / 224 / step) * step) for side in (160, 96))
    crop, _ = two_crops(large, channels=channels, preset="moco-v2", scale=(0.08, 0.6)).views
    patch, _ = two_crops(small, channels=channels, preset="moco-v2", scale=(0.08, 0.14), blur=False).views
    whole = Compose(RandomResizedCrop(image_size, (1.0, 1.0), (1.0, 1.0)), RandomHorizontalFlip())
    return Views(whole, crop, crop, *[patch] * local_crops)


@claim(
    "learns better than contrasting images with a momentum network, for the same computation",
    reported="73.8 % ImageNet top-1 after 200 epochs (the authors' model zoo), against MoCo v2's 67.5 %",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels, at batch 64, in place of ImageNet",
    steps={"small": 410, "full": 41_000},
)
def better_than_moco(bench: Bench) -> Comparison:
    """Linear probe on unseen images, in equal time: a step of OBoW, the pixels of 1.9 images forward and back and of
    one forward, takes 1.8 times MoCo v2's, one and one. Eight trials on each side, on a validation part, found MoCo
    v2's rate and temperature and OBoW's preset."""
    return bench.compare(
        OBoW,
        baseline="moco-v2",
        data=bench.images("cifar10", size=16, n=5000, n_test=5000),
        by="linear_probe",
        better_by=0.0,
        batch_size=64,
        baseline_settings={
            "lr": 4e-3,
            "temperature": 0.1,
            "max_steps": bench.pick(smoke=3, small=750, full=75_000),
        },
    )


@claim(
    "words that are renewed as the teacher learns are better targets than words made once",
    reported="not apart from the rest: the authors' earlier BoWNet had a fixed teacher and vocabulary",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels, at batch 64, in place of ImageNet",
    steps={"small": 410, "full": 41_000},
)
def online_vocabulary(bench: Bench) -> Comparison:
    """Linear probe on unseen images, against the words of the untrained teacher; the teacher moves on both sides."""
    return bench.compare(
        OBoW,
        baseline="obow",
        data=bench.images("cifar10", size=16, n=5000, n_test=5000),
        by="linear_probe",
        better_by=0.0,
        baseline_settings={"refresh": False},
        batch_size=64,
    )
