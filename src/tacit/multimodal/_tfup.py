"""Training-Free Unsupervised Prompt for Vision-Language Models (Long et al., 2024)."""

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.data import Dataset
from tacit.errors import expect
from tacit.multimodal._clip import GLYPH_TEMPLATES, GLYPHS, glyph_pairs, shifted_glyphs
from tacit.multimodal._pouf import POUF
from tacit.multimodal._zero_shot import embed, zero_shot_weights

CLIP_LENGTH = 10.0
"""About the length of CLIP's text embeddings before they are normalised."""

BLOCK = 2**22
"""Divergences (rows times cached images times classes) that are held at once."""


@system("tfup", paper="arXiv:2404.16339", modality="features")
class TFUP(BaseEstimator):
    """Adapt a zero-shot classifier to images without labels by remembering the most typical ones; nothing is trained.

        logits(x) = scale <x, t_k>  +  alpha sum over cached images i of class k of exp(-beta (1 - a_i))
        a_i       = <x, f_i> 2 (1 - KL_i),    KL_i = KL(p(x) || p(f_i)), scaled to [0, 1] over the cache
        p(x)      = softmax(scale / 10 <x, t>)

    t_k are the classes' text embeddings, x the image's, all of length 1. The cache: of each class the 2 `shots` images
    with the highest p_k, and of these the `shots` whose p is nearest to all of them, by the sum of KL(p_i || p_j) over
    these j. So a neighbour counts by what it looks like and by what it is taken for.

    The equations are the official code's, which also limits `shots` to 30 % of the images per class, and at least 9;
    here to as many as there are. With alpha = 0 it is the zero-shot classifier. Rows are taken in blocks: a million
    images take their own memory and that of k `shots` cached ones.

    Args:
        class_embeddings: (k, d), such as `zero_shot_weights(clip.encode_text, names)`. None: one class a column, so
            that X holds similarities to the classes.
        shots: cached images of a class, at most.
        alpha: weight of the cache; at least 0.
        beta: how fast a cached image's weight falls with its distance; above 0.
        scale: of the zero-shot logits; CLIP's is 100.

    Attributes:
        cache_features_: (m, d) of length 1.
        cache_labels_: pseudo-label of each, int64 (m,).
        cache_items_: which rows of X they are, int64 (m,).
        class_embeddings_: (k, d) of length 1.

    Raises:
        ArgumentError: a number out of range, or class embeddings of another width than X.

    >>> rng = np.random.default_rng(0)
    >>> X = np.eye(3)[rng.integers(0, 3, 60)] + 0.1 * rng.normal(size=(60, 3))
    >>> model = TFUP(np.eye(3), shots=5).fit(X)
    >>> model.cache_labels_.shape, bool((model.predict(X) == X.argmax(1)).all())
    ((15,), True)
    """

    settings: ClassVar = {
        "paper": {"shots": 16, "alpha": 0.3, "beta": 1.0, "scale": 100.0},
        "small": {"shots": 16, "alpha": 0.3, "beta": 1.0},
    }

    def __init__(
        self,
        class_embeddings: Any = None,
        *,
        shots: int = 16,
        alpha: float = 0.3,
        beta: float = 1.0,
        scale: float = 100.0,
    ) -> None:
        self.class_embeddings = class_embeddings
        self.shots, self.alpha, self.beta, self.scale = shots, alpha, beta, scale

    def fit(self, X: ArrayLike, y: Any = None) -> "TFUP":
        """Fill the cache.

        Args:
            X: (n, d) embeddings of images of the target domain.
            y: not read.
        """
        x, classes = self._start(X)
        self._remember(x, classes)
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Classes, numbers of rows of `class_embeddings`: int64 (n,)."""
        return self.decision_function(X).argmax(1)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """softmax of the logits, (n, k)."""
        return torch.from_numpy(self.decision_function(X)).softmax(1).numpy()

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Logits, (n, k)."""
        check_is_fitted(self)
        x = _unit(validate_data(self, X, reset=False, dtype=[np.float64, np.float32]))
        return self._logits(x, torch.from_numpy(self.class_embeddings_)).numpy()

    def _start(self, X: ArrayLike) -> tuple[Tensor, Tensor]:
        """Check and keep what both kinds of fit need: unit rows of X and of the classes."""
        expect("shots", self.shots, self.shots >= 1, "at least 1")
        expect("alpha", self.alpha, self.alpha >= 0, "at least 0")
        expect("beta", self.beta, self.beta > 0, "a number above 0")
        expect("scale", self.scale, self.scale > 0, "a number above 0")
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        given = np.eye(X.shape[1]) if self.class_embeddings is None else np.asarray(self.class_embeddings)
        ok = given.ndim == 2 and given.shape[1] == X.shape[1] and len(given) > 0
        expect("class_embeddings.shape", given.shape, ok, f"(k, {X.shape[1]}), one row a class")
        classes = _unit(given.astype(X.dtype))
        self.class_embeddings_ = classes.numpy()
        return _unit(X), classes

    def _remember(self, x: Tensor, classes: Tensor) -> None:
        p = self._taken_for(x, classes)
        items, labels = representative(p, self.shots)
        self.cache_items_, self.cache_labels_ = items.numpy(), labels.numpy()
        self.cache_features_ = x[items].numpy()

    def _taken_for(self, x: Tensor, classes: Tensor) -> Tensor:
        """What an image is taken for, softly: log p(x), (n, k)."""
        return (self.scale / 10 * x @ classes.T).log_softmax(1)

    def _logits(self, x: Tensor, classes: Tensor) -> Tensor:
        """Zero-shot logits and the cache's, for unit rows, (n, k)."""
        keys, labels = torch.from_numpy(self.cache_features_), torch.from_numpy(self.cache_labels_)
        of_class = F.one_hot(labels, len(classes)).to(x.dtype)
        known = self._taken_for(keys, classes)
        rows = max(1, BLOCK // max(1, len(keys)))
        found = []
        for part in x.split(rows):
            alike = similarity(part, keys, self._taken_for(part, classes), known)
            cached = (-self.beta * (1 - alike)).exp() @ of_class
            found.append(self.scale * part @ classes.T + self.alpha * cached)
        return torch.cat(found)


def representative(log_p: Tensor, shots: int) -> tuple[Tensor, Tensor]:
    """The images that stand for each class: item numbers and their classes, int64 (m,) each, m at most k shots.

    Of each class the 2 `shots` most confident images, and of these the `shots` with the smallest sum over j of
    KL(p_i || p_j). One image may stand for several classes.

    Args:
        log_p: log probabilities, (n, k).
        shots: of a class.

    >>> representative(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8]]).log(), 1)
    (tensor([0, 2]), tensor([0, 1]))
    """
    items, labels = [], []
    for number in range(log_p.shape[1]):
        confident = log_p[:, number].argsort(descending=True, stable=True)[: 2 * shots]
        candidates = log_p[confident]
        spread = divergence(candidates, candidates).sum(1)
        chosen = confident[spread.argsort(stable=True)[:shots]]
        items.append(chosen)
        labels.append(torch.full_like(chosen, number))
    return torch.cat(items), torch.cat(labels)


def similarity(x: Tensor, keys: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """The multi-level similarity of images and cached ones: the cosine times 2 (1 - scaled divergence), (n, m).

    Args:
        x, keys: unit rows (n, d), (m, d).
        log_p, log_q: what each is taken for, (n, k), (m, k).
    """
    apart = divergence(log_p, log_q)
    low, high = apart.amin(1, keepdim=True), apart.amax(1, keepdim=True)
    span = high - low
    scaled = (apart - low) / span.masked_fill(span == 0, 1)  # all alike: all are as near as can be
    return x @ keys.T * 2 * (1 - scaled)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p_i || q_j) of every row with every row, from log probabilities (n, k), (m, k): (n, m)."""
    p = log_p.exp()
    return (p * log_p).sum(1, keepdim=True) - p @ log_q.T


def _unit(x: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(np.ascontiguousarray(x)), dim=1)


@system("tfup", paper="arXiv:2404.16339", modality="features")
class TFUPT(TFUP, BaseEstimator):
    """TFUP-T: an adapter for images and a residual for each class, trained on TFUP's own labels.

        x' = normalize((1 - a) x + a relu(W_2 relu(W_1 x))),    t' = normalize((1 - b) t + b r / 10)
        loss = CE(scale x' t', pseudo-label)                                      in the warm-up
        loss = CE(scale x' t', pseudo-label) + 0.3 sum_k m_k log m_k              then, m = mean of softmax(scale x' t')

    a = `image_ratio`, b = `text_ratio`; r starts at 0, and is added to text embeddings that are about 10 long in CLIP,
    which `lr` is meant for. The warm-up takes the images that stand for their classes, as
    TFUP chooses them for a larger cache, and labels them by TFUP once. Then all images are taken, labelled anew each
    step by TFUP on the adapted features, and only those count in the cross-entropy of which it is sure by more than
    `threshold`. The prediction is that of x' and t', without the cache.

    The official code takes a random crop of the image for x' in the loss, and the plain image for the pseudo-label:
    `fit(X, crops=...)`. It keeps the epoch that is best on the test labels; here the last one is kept.

    Args:
        class_embeddings, shots, alpha, beta, scale: as TFUP's.
        warmup_share: share of the images per class that the warm-up takes.
        image_ratio: a, in [0, 1].
        text_ratio: b, in [0, 1].
        marginal_weight: of the marginal distribution's negative entropy, which keeps all classes in use.
        threshold: in [0, 1].
        max_steps: of the optimiser, AdamW, whose rate falls to 0 along a cosine.
        warmup: share of the steps in the warm-up.
        batch_size, lr, weight_decay: of training.
        random_state: seed of weights and order.

    Attributes:
        image_adapter_: (W_1, W_2), arrays.
        class_embeddings_: t', (k, d).
        cache_features_, cache_labels_, cache_items_: as TFUP's.

    >>> rng = np.random.default_rng(0)
    >>> X = np.eye(3)[rng.integers(0, 3, 60)] + 0.1 * rng.normal(size=(60, 3))
    >>> bool((TFUPT(np.eye(3), shots=5, max_steps=5).fit(X).predict(X) == X.argmax(1)).mean() > 0.9)
    True
    """

    settings: ClassVar = {
        "paper": {"lr": 0.012, "batch_size": 256, "weight_decay": 0.1, "warmup": 1 / 6},
        "small": {"lr": 0.012, "batch_size": 256, "weight_decay": 0.1},
    }

    def __init__(
        self,
        class_embeddings: Any = None,
        *,
        shots: int = 16,
        alpha: float = 0.3,
        beta: float = 1.0,
        scale: float = 100.0,
        warmup_share: float = 0.75,
        image_ratio: float = 0.2,
        text_ratio: float = 0.5,
        marginal_weight: float = 0.3,
        threshold: float = 0.9,
        max_steps: int = 300,
        warmup: float = 1 / 6,
        batch_size: int = 256,
        lr: float = 0.012,
        weight_decay: float = 0.1,
        random_state: Any = None,
    ) -> None:
        super().__init__(class_embeddings, shots=shots, alpha=alpha, beta=beta, scale=scale)
        self.warmup_share, self.image_ratio, self.text_ratio = warmup_share, image_ratio, text_ratio
        self.marginal_weight, self.threshold = marginal_weight, threshold
        self.max_steps, self.warmup, self.batch_size = max_steps, warmup, batch_size
        self.lr, self.weight_decay, self.random_state = lr, weight_decay, random_state

    def fit(self, X: ArrayLike, y: Any = None, *, crops: ArrayLike | None = None) -> "TFUPT":
        """Fill the cache and train the adapters.

        Args:
            X: (n, d) embeddings of images of the target domain.
            y: not read.
            crops: (v, n, d), embeddings of v random crops of each image, of which each step draws one; X if None.
        """
        expect("max_steps", self.max_steps, self.max_steps >= 1, "at least 1")
        expect("batch_size", self.batch_size, self.batch_size >= 1, "at least 1")
        x, classes = self._start(X)
        views = x[None] if crops is None else _unit_views(crops, x)
        self._remember(x, classes)
        generator = torch.Generator().manual_seed(int(check_random_state(self.random_state).randint(2**31)))
        adapters = Adapters(classes, self.image_ratio, self.text_ratio, generator)
        self._train(adapters, x, views, classes, generator)
        adapters.requires_grad_(False)
        self.image_adapter_ = (adapters.down.numpy(), adapters.up.numpy())
        self.class_embeddings_ = adapters.texts().numpy()
        return self

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Logits, (n, k), of the adapted images and texts."""
        check_is_fitted(self)
        x = _unit(validate_data(self, X, reset=False, dtype=[np.float64, np.float32]))
        adapted = adapt(x, *(torch.from_numpy(weight).to(x.dtype) for weight in self.image_adapter_), self.image_ratio)
        return (self.scale * adapted @ torch.from_numpy(self.class_embeddings_).to(x.dtype).T).numpy()

    def _train(
        self, adapters: "Adapters", x: Tensor, views: Tensor, classes: Tensor, generator: torch.Generator
    ) -> None:
        share = max(9, int(self.warmup_share * len(x) / len(classes)))  # as the code limits it from below
        chosen, _ = representative(self._taken_for(x, classes), share)
        chosen = chosen.unique()
        first_labels = self._logits(x[chosen], classes).argmax(1)
        optimizer = torch.optim.AdamW(adapters.parameters(), self.lr, eps=3e-3, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_steps)
        for step in range(self.max_steps):
            warming = step < round(self.warmup * self.max_steps)
            pool = len(chosen) if warming else len(x)
            picked = torch.randperm(pool, generator=generator)[: self.batch_size]
            rows = chosen[picked] if warming else picked
            view = views[int(torch.randint(len(views), (), generator=generator)), rows]
            logits = self.scale * adapters.images(view) @ adapters.texts().T
            if warming:
                loss = F.cross_entropy(logits, first_labels[picked])
            else:
                loss = self._second_loss(logits, *self._pseudo_labels(adapters, x[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def _pseudo_labels(self, adapters: "Adapters", x: Tensor) -> tuple[Tensor, Tensor]:
        """What TFUP says of the adapted images, int64 (b,), and where it is sure, bool (b,)."""
        with torch.no_grad():
            sure, labels = self._logits(adapters.images(x), adapters.texts()).softmax(1).max(1)
        return labels, sure > self.threshold

    def _second_loss(self, logits: Tensor, labels: Tensor, sure: Tensor) -> Tensor:
        marginal = logits.softmax(1).mean(0)
        balance = (marginal * (marginal + 1e-6).log()).sum()
        fit = F.cross_entropy(logits[sure], labels[sure]) if sure.any() else 0.0
        return fit + self.marginal_weight * balance


class Adapters(nn.Module):
    """What TFUP-T trains: a bottleneck of a quarter of the width for images, a residual for each class."""

    def __init__(self, classes: Tensor, image_ratio: float, text_ratio: float, generator: torch.Generator) -> None:
        super().__init__()
        dim = classes.shape[1]
        inner = max(1, dim // 4)
        self.down = nn.Parameter(_linear(inner, dim, classes.dtype, generator))
        self.up = nn.Parameter(_linear(dim, inner, classes.dtype, generator))
        self.residual = nn.Parameter(torch.zeros_like(classes))
        self.register_buffer("classes", classes)
        self.image_ratio, self.text_ratio = image_ratio, text_ratio

    def images(self, x: Tensor) -> Tensor:
        return adapt(x, self.down, self.up, self.image_ratio)

    def texts(self) -> Tensor:
        residual = self.residual / CLIP_LENGTH
        return F.normalize((1 - self.text_ratio) * self.classes + self.text_ratio * residual, dim=1)


def adapt(x: Tensor, down: Tensor, up: Tensor, ratio: float) -> Tensor:
    """normalize((1 - ratio) x + ratio relu(up relu(down x))), (n, d) -> (n, d)."""
    return F.normalize((1 - ratio) * x + ratio * ((x @ down.T).relu() @ up.T).relu(), dim=1)


def _linear(out: int, into: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Weights as `nn.Linear` draws them."""
    return (torch.rand(out, into, generator=generator, dtype=dtype) * 2 - 1) * into**-0.5


def _unit_views(crops: ArrayLike, x: Tensor) -> Tensor:
    views = torch.as_tensor(np.asarray(crops), dtype=x.dtype)
    ok = views.ndim == 3 and views.shape[1:] == x.shape and len(views) > 0
    expect("crops.shape", tuple(views.shape), ok, f"(v, {x.shape[0]}, {x.shape[1]}), v crops of each row of X")
    return F.normalize(views, dim=2)


# Claims ---------------------------------------------------------------------------------------------------------------


def _embedded(clip: nn.Module, images: Tensor) -> np.ndarray:
    return embed(clip.encode_image, images).numpy()


def _class_embeddings(clip: nn.Module) -> np.ndarray:
    return zero_shot_weights(clip.encode_text, list(GLYPHS), GLYPH_TEMPLATES).cpu().numpy()


@claim(
    "adapts a zero-shot classifier to unlabelled images without training",
    reported="above zero-shot CLIP, and above trained POUF, on four sets (abstract and table 1)",
    proxy="a small CLIP of drawn digits, and 2,000 pictures in unseen fonts with noise",
    steps={"small": 600, "full": 20_000},
)
def better_than_zero_shot(bench: Bench) -> Comparison:
    """Accuracy on further pictures of the shifted domain; the constants are the official code's, but for the
    scale, in place of CLIP's 100 the one that the dual encoder learned."""
    pairs, shifted = glyph_pairs(bench), shifted_glyphs(bench)

    def both(trial: Trial) -> tuple[float, float]:
        source, _ = trial.split(pairs)
        target, unseen = trial.split(shifted)
        clip = trial.pretrained("clip", source).eval()
        classes, scale = _class_embeddings(clip), clip.log_scale.exp().item()
        known, new = (_embedded(clip, part.columns["image"]) for part in (target, unseen))
        model = TFUP(classes, scale=scale).fit(known)
        return unseen.score(model.predict(new)), unseen.score((new @ classes.T).argmax(1))

    return bench.trials(both, baseline="the zero-shot classifier", better_by=0.0)


@claim(
    "trained on its own labels it is better than POUF",
    reported="3.3 points more than POUF on DomainNet (abstract)",
    proxy="a small CLIP of drawn digits, and 2,000 pictures in unseen fonts with noise",
    steps={"small": 600, "full": 20_000},
)
def trained_better_than_pouf(bench: Bench) -> Comparison:
    """Accuracy on further pictures of the shifted domain, equal steps of 64 images; POUF tunes the whole model, TFUP-T
    its adapters, on four random crops of each picture."""
    pairs, shifted = glyph_pairs(bench), shifted_glyphs(bench)

    def both(trial: Trial) -> tuple[float, float]:
        source, _ = trial.split(pairs)
        target, unseen = trial.split(shifted)
        clip = trial.pretrained("clip", source).eval()
        images, new = target.columns["image"], unseen.columns["image"]
        pouf = POUF.from_clip(clip, list(GLYPHS), templates=GLYPH_TEMPLATES)
        trial.fit(pouf, Dataset({"image": images}, modality="pairs"), batch_size=64)
        crops = np.stack([embed(lambda part: clip.encode_image(clip.views(part)), images).numpy() for _ in range(4)])
        steps = bench.pick(smoke=3, small=trial.steps)
        model = TFUPT(
            _class_embeddings(clip),
            scale=clip.log_scale.exp().item(),
            max_steps=steps,
            batch_size=64,
            random_state=trial.seed,
        ).fit(_embedded(clip, images), crops=crops)
        return unseen.score(model.predict(_embedded(clip, new))), unseen.score(pouf.predict(new))

    return bench.trials(both, baseline="POUF", better_by=0.0)
