"""POUF: Prompt-oriented unsupervised fine-tuning for large pre-trained models (Tanwisuth et al., 2023)."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.data import Dataset
from tacit.errors import expect, unknown
from tacit.multimodal._clip import CLIP, GLYPH_TEMPLATES, GLYPHS, glyph_pairs, shifted_glyphs
from tacit.multimodal._zero_shot import TEMPLATES, embed, fill_templates

TUNED = ("model", "prompt")
PADDING = 0


@system("pouf", paper="arXiv:2305.00350", modality="pairs")
class POUF(CLIP):
    """Fine-tune a dual encoder, or its prompt alone, on images without labels whose classes are known by name.

        loss = transport_weight transport + information_weight (mean over i of H(p_i) - H(mean over i of p_i))

    The classes' text embeddings t_k are prototypes, the images f_i points; p_i = softmax over k of scale <f_i, t_k>.
    The conditional transport moves points to prototypes and prototypes to points (`pouf_loss`); the mutual information
    keeps single predictions sure and all classes in use. With `tune="prompt"` only what is added to the embeddings of
    the template's words, and the scale, move. A masked language model is tuned by `pouf_loss` on its vectors at [MASK]
    and the label words' rows of its decoder.

    The class prior of the transport is estimated while training, as a moving mean of the predictions; the official code
    for images takes it as uniform: `prior_momentum=1`.

    Args:
        image_encoder, text_encoder, embed_dim, temperature, views: as CLIP's; `POUF.from_clip` takes a trained one.
        class_names: the classes, in a list, or in one text with commas between.
        templates: texts with `{}` where the name goes, in a list, or in one text with `|` between.
        tune: `model` or `prompt`.
        transport_weight, information_weight: at least 0.
        prior_momentum: share of the old prior that a step keeps, in [0, 1].

    Attributes:
        prior: (k,), the estimated class prior.

    Batches hold at least 2 images.

    >>> from tacit.nn import ResNet, TextEncoder
    >>> text_encoder = TextEncoder("bag", dim=16).fit_prepare(["a red square", "a blue ring"])
    >>> clip = CLIP(ResNet(8, width=4, image_size=16), text_encoder, embed_dim=8)  # a trained one, in earnest
    >>> learner = POUF.from_clip(clip, ["square", "ring"])
    >>> image = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    >>> bool(learner.loss(image).isfinite()), learner.predict(image).shape
    (True, torch.Size([4]))
    """

    settings: ClassVar = {
        "paper": {"optimizer": "sgd", "batch_size": 96, "weight_decay": 1e-3, "momentum": 0.9, "max_steps": 10_000},
        "small": {
            "optimizer": "adamw",
            "lr": 1e-4,
            "batch_size": 64,
            "weight_decay": 1e-3,
            "embed_dim": 64,
            "model": "text-bag",
        },
        "search": {"information_weight": [0.3, 1.0]},
    }

    def __init__(
        self,
        image_encoder: nn.Module,
        text_encoder: nn.Module,
        *,
        class_names: Sequence[str] | str = "one, another",
        templates: Sequence[str] | str = TEMPLATES,
        tune: str = "model",
        transport_weight: float = 1.0,
        information_weight: float = 0.3,
        prior_momentum: float = 0.99,
        embed_dim: int = 512,
        temperature: float = 0.07,
        views: nn.Module | None = None,
    ) -> None:
        super().__init__(image_encoder, text_encoder, embed_dim=embed_dim, temperature=temperature, views=views)
        if tune not in TUNED:
            raise unknown("tune", tune, TUNED)
        expect("transport_weight", transport_weight, transport_weight >= 0, "at least 0")
        expect("information_weight", information_weight, information_weight >= 0, "at least 0")
        expect("prior_momentum", prior_momentum, 0 <= prior_momentum <= 1, "a share in [0, 1]")
        self.class_names = _split(class_names, ",")
        self.templates = _split(templates, "|")
        fill_templates(self.class_names, self.templates)  # refuses what is none
        self.tune, self.prior_momentum = tune, prior_momentum
        self.transport_weight, self.information_weight = transport_weight, information_weight
        self.register_buffer("prompts", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("prior", torch.full((len(self.class_names),), 1 / len(self.class_names)))
        if tune == "prompt":
            self.requires_grad_(False)
            self.log_scale.requires_grad_(True)
            self.context = nn.Parameter(torch.zeros(text_encoder.max_length, text_encoder.dim))

    @classmethod
    def from_clip(cls, clip: CLIP, class_names: Sequence[str] | str, **arguments: Any) -> Self:
        """A copy of a trained dual encoder, to be tuned for these classes; the original stays as it is."""
        image_encoder, text_encoder = copy.deepcopy(clip.image_encoder), copy.deepcopy(clip.text_encoder)
        embed_dim = clip.image_projection.out_features
        arguments = {"class_names": class_names, "embed_dim": embed_dim, **arguments}
        for name, mark in (("class_names", ","), ("templates", "|")):
            arguments[name] = _join(arguments.get(name, TEMPLATES), mark)
        learner = cls(image_encoder, text_encoder, **arguments)
        learner.image_projection.load_state_dict(clip.image_projection.state_dict())
        learner.text_projection.load_state_dict(clip.text_projection.state_dict())
        learner.log_scale.data.copy_(clip.log_scale.data)
        learner._number_prompts()
        return learner.to(clip.log_scale.device)

    def before_fit(self, data: Dataset) -> None:
        self._number_prompts()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.tune == "prompt":  # frozen are the towers' batch statistics and dropout, too
            self.image_encoder.eval()
            self.text_encoder.eval()
        return self

    def loss(self, image: Tensor) -> Tensor:
        features = self.image_projection(self.image_encoder(self.views(image)))
        similarity = F.normalize(features.float(), dim=1) @ self.prototypes().T
        logits = self.log_scale.exp() * similarity
        if self.training:
            self._watch(logits)
        transport = transport_cost(logits, 1 - similarity, self.prior)
        return self.transport_weight * transport + self.information_weight * negative_information(logits)

    def prototypes(self) -> Tensor:
        """The classes' text embeddings, the mean over templates: unit rows (k, embed_dim), with gradient."""
        expect("prompts", len(self.prompts), len(self.prompts) > 0, "numbered prompts", "fit, or start from_clip")
        if self.tune == "prompt":
            embedded = self.text_encoder.embedding(self.prompts) + self._context()
            states = self.text_encoder.tokens(self.prompts, embedded)
            features = self.text_encoder.pooled(states, self.prompts)
        else:
            features = self.text_encoder(self.prompts)
        texts = F.normalize(self.text_projection(features).float(), dim=1)
        return F.normalize(texts.view(len(self.prior), -1, texts.shape[1]).mean(1), dim=1)

    def predict(self, images: Any) -> Tensor:
        """The class of each raw image, numbers of `class_names`, int64 (n,). In eval mode."""
        training = self.training
        self.eval()
        with torch.no_grad():
            prototypes = self.prototypes().cpu()
        found = (embed(self.encode_image, images) @ prototypes.T).argmax(1)
        self.train(training)
        return found

    def _number_prompts(self) -> None:
        self.prompts = self.text_encoder.prepare(fill_templates(self.class_names, self.templates))

    def _context(self) -> Tensor:
        """What the prompt has learned, at the tokens that all prompts of a template share: (k templates, t, dim)."""
        of_template = self.prompts.view(len(self.prior), len(self.templates), -1)
        shared = (of_template == of_template[:1]).all(0) & (of_template[0] != PADDING)
        return self.context[: shared.shape[1]] * shared.repeat(len(self.prior), 1)[:, :, None]

    @torch.no_grad()
    def _watch(self, logits: Tensor) -> None:
        share = logits.softmax(1).mean(0)
        self.prior.mul_(self.prior_momentum).add_(share, alpha=1 - self.prior_momentum)


def pouf_loss(
    features: Tensor,
    prototypes: Tensor,
    *,
    scale: float | Tensor = 100.0,
    prior: Tensor | None = None,
    transport_weight: float = 1.0,
    information_weight: float = 0.3,
) -> Tensor:
    """The loss of `POUF` for features (n, d) and prototypes (k, d) of any norm, whatever they come from.

    Args:
        features: of unlabelled items.
        prototypes: one a class.
        scale: of the logits.
        prior: class probabilities (k,); uniform if None.
        transport_weight, information_weight: of the two parts.

    >>> pouf_loss(torch.eye(2), torch.eye(2)).item() < pouf_loss(torch.eye(2), torch.ones(2, 2)).item()
    True
    """
    similarity = F.normalize(features, dim=1) @ F.normalize(prototypes, dim=1).T
    logits = scale * similarity
    transport = transport_cost(logits, 1 - similarity, prior)
    return transport_weight * transport + information_weight * negative_information(logits)


def transport_cost(logits: Tensor, cost: Tensor, prior: Tensor | None = None) -> Tensor:
    """The conditional transport between points and prototypes, both ways, a scalar.

        mean_i sum_k pi(k | i) c_ik  +  sum_k prior_k sum_i pi(i | k) c_ik
        pi(k | i) ~ prior_k exp(logits_ik) over k,    pi(i | k) ~ exp(logits_ik) over i

    Args:
        logits: (n, k).
        cost: (n, k), such as 1 minus the cosine.
        prior: (k,), sums to 1; uniform if None.

    >>> transport_cost(torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])).item()
    1.0
    """
    prior = torch.full_like(cost[0], 1 / cost.shape[1]) if prior is None else prior
    to_prototypes = ((logits + prior.clamp_min(1e-12).log()).softmax(1) * cost).sum(1).mean()
    to_points = (logits.softmax(0) * cost).sum(0) @ prior
    return to_prototypes + to_points


def negative_information(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions minus the entropy of their mean: minus the mutual information of item and class.

    >>> round(negative_information(torch.tensor([[50.0, 0.0], [0.0, 50.0]])).item(), 4)  # -log 2
    -0.6931
    """
    log_p = logits.log_softmax(1)
    mean = log_p.exp().mean(0)
    return torch.special.entr(mean).neg().sum() - (log_p.exp() * log_p).sum(1).mean()


def _split(names: Sequence[str] | str, mark: str) -> list[str]:
    return [name.strip() for name in names.split(mark)] if isinstance(names, str) else list(names)


def _join(names: Sequence[str] | str, mark: str) -> Sequence[str] | str:
    """One text, which a saved run can be built from again, unless a name holds the mark."""
    plain = isinstance(names, str) or any(mark in name for name in names)
    return names if plain else mark.join(names)


# Claims ---------------------------------------------------------------------------------------------------------------


def _tuned(trial: Trial, clip: CLIP, images: Tensor, **arguments: Any) -> POUF:
    learner = POUF.from_clip(clip, list(GLYPHS), templates=list(GLYPH_TEMPLATES), **arguments)
    trial.fit(learner, Dataset({"image": images}, modality="pairs"))
    return learner


@claim(
    "fine-tuning without labels is better than the zero-shot classifier it starts from",
    reported="consistent gains over zero-shot CLIP on 13 image tasks (abstract)",
    proxy="a small CLIP of drawn digits, and 2,000 pictures in unseen fonts with noise",
    steps={"small": 600, "full": 20_000},
)
def better_than_zero_shot(bench: Bench) -> Comparison:
    """Accuracy on further pictures of the shifted domain; the whole model is tuned."""
    pairs, shifted = glyph_pairs(bench), shifted_glyphs(bench)

    def both(trial: Trial) -> tuple[float, float]:
        source, _ = trial.split(pairs)
        target, unseen = trial.split(shifted)
        clip = trial.pretrained("clip", source).eval()
        tuned, images = _tuned(trial, clip, target.columns["image"]), unseen.columns["image"]
        return unseen.score(tuned.predict(images)), unseen.score(clip.zero_shot(images, list(GLYPHS), GLYPH_TEMPLATES))

    return bench.trials(both, baseline="the zero-shot classifier", better_by=0.0)


@claim(
    "the transport cost adds to the mutual information",
    reported="both parts of the loss are needed (ablation)",
    proxy="a small CLIP of drawn digits, and 2,000 pictures in unseen fonts with noise",
    steps={"small": 600, "full": 20_000},
)
def transport_helps(bench: Bench) -> Comparison:
    """Accuracy on further pictures of the shifted domain, with the transport cost and without, equal steps."""
    pairs, shifted = glyph_pairs(bench), shifted_glyphs(bench)

    def both(trial: Trial) -> tuple[float, float]:
        source, _ = trial.split(pairs)
        target, unseen = trial.split(shifted)
        clip, known = trial.pretrained("clip", source).eval(), target.columns["image"]
        whole, part = (_tuned(trial, clip, known, transport_weight=weight) for weight in (1.0, 0.0))
        images = unseen.columns["image"]
        return unseen.score(whole.predict(images)), unseen.score(part.predict(images))

    return bench.trials(both, baseline="the mutual information alone", better_by=0.0)
