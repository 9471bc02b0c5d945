"""Diffusion Models for Open-Vocabulary Segmentation (Karazija, Laina, Vedaldi & Rupprecht, 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Picture, Trial, claim, drawing
from tacit.data import composition_prompt
from tacit.embedding import evaluating
from tacit.errors import expect
from tacit.evaluate import dense_features, mean_iou
from tacit.generate._token_ddpm import TokenDDPM, composed_scenes, painter
from tacit.multimodal._clip import CLIP
from tacit.multimodal._token_clip import token_clip
from tacit.nn import UNet
from tacit.views import as_float

TIMES = (0.2, 0.4, 0.6)
"""Shares of the noising steps at which attention is read."""


@system("ovdiff", paper="arXiv:2306.09316", modality="image", level="mechanism")
def ovdiff(
    text2image: TokenDDPM,
    dense_encoder: nn.Module,
    prompts: Tensor,
    *,
    n_support: int = 32,
    n_parts: int = 8,
    background: bool = True,
    num_steps: int = 25,
    guidance_scale: float = 3.0,
    supports: Tensor | None = None,
    segmenter: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> PrototypeSegmenter:
    """Names of classes in, a segmenter out: nothing is trained. A text-to-image model paints what each name means.

    For each class (section 3):

    1. Supports: `n_support` images of its prompt.
    2. Foreground: each support is cut into segments without regard to the class; the one with the highest mean
       attribution is the foreground, the one with the lowest the background. Attribution is the cross-attention of a
       place to the words of the prompt, averaged over blocks, heads and levels of noise.
    3. Prototypes, averages of dense features of the foreground: one of each support (instances), one of all, weighted
       by their sizes (class), and the centres of `n_parts` clusters (parts); and as many of the background.

    A pixel then has the class of the most similar prototype of all, by cosine, and none where that is one of the
    background (eq. 4). The prototypes point back to supports, which explains what was decided.

    What differs: the paper's segments are CutLER's proposals, which `segmenter` can bring along, here two clusters of
    each image's colours; its attention is gathered while it paints, this one from the finished supports, noised again,
    so that images from elsewhere can be `supports`, too; it lets CLIP say first which classes are in the image
    (`segment(images, classes=...)` takes such an answer), and keeps names of stuff ("sky") from having backgrounds of
    their own.

    Args:
        text2image: a trained model.
        dense_encoder: has `tokens(x)` and `prepare(items)`; frozen. Its grid is square.
        prompts: token numbers of each class, int64 (k, t); or of several wordings of each, (k, m, t), which its
            supports take in turns.
        n_support: images of each class.
        n_parts: clusters of the foreground, and of the background.
        background: whether there are prototypes of the background; without them a threshold says what is none.
        num_steps, guidance_scale: of `text2image.sample`.
        supports: images (k, n, c, h, w) in place of painted ones.
        segmenter: images (n, c, h, w) in [0, 1] -> the number of each pixel's segment, int64 (n, h, w); None:
            `colour_segments`.
        seed: of the painting and the clusters; the caller's random state is kept.

    Raises:
        ArgumentError: a number out of range, prompts without words, an encoder without tokens.

    References:
        Code: none was published.

    >>> from tacit.nn import ConditionalUNet, ResNet
    >>> ddpm = TokenDDPM(ConditionalUNet(16, 3, width=8), n_steps=20)
    >>> prompts = torch.stack([torch.from_numpy(composition_prompt(name)) for name in ("ring", "square")])
    >>> segmenter = ovdiff(ddpm, ResNet(8, width=4, image_size=16), prompts, n_support=3, n_parts=2, num_steps=2)
    >>> segmenter.owners.unique(), segmenter.segment(torch.rand(2, 3, 16, 16)).shape
    (tensor([0, 1, 2]), torch.Size([2, 16, 16]))
    """
    expect("n_support", n_support, n_support >= 1, "at least 1")
    expect("n_parts", n_parts, n_parts >= 1, "at least 1")
    ok = prompts.ndim in (2, 3) and bool((prompts > 0).any(-1).all())
    wanted = "(k, t) or (k, m, t) with a word in each"
    expect("prompts", tuple(prompts.shape), ok, wanted, "tacit.data.composition_prompt")
    found: list[Tensor] = []
    owners: list[Tensor] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for number, wordings in enumerate(prompts):
            count = n_support if supports is None else len(supports[number])
            wordings = wordings.view(-1, wordings.shape[-1])
            prompt = wordings[torch.arange(count) % len(wordings)]
            if supports is None:
                words: dict[str, Any] = {"num_steps": num_steps, "guidance_scale": guidance_scale}
                images = text2image.sample(n_support, tokens=prompt, **words)
            else:
                images = supports[number]
            attributed = attribution(text2image, images, prompt)
            segments = (segmenter or colour_segments)(as_float(images, images.shape[-1]))
            features = _grid(dense_features(dense_encoder, images))
            for owner, mask in zip((number + 1, 0), choose_segments(segments, attributed), strict=True):
                if owner or background:
                    made = prototypes_of(features, _cells(mask, features.shape[1]), n_parts, seed=seed)
                    found.append(made)
                    owners.append(torch.full((len(made),), owner))
    return PrototypeSegmenter(dense_encoder, torch.cat(found), torch.cat(owners), len(prompts))


class PrototypeSegmenter:
    """Gives each pixel the class of the prototype that is most similar to its feature, by cosine.

    Args:
        dense_encoder: images -> features on a square grid.
        prototypes: (m, d).
        owners: class of each, 1 to n_classes, or 0 for the background, int64 (m,).
        n_classes: classes beside the background.
    """

    def __init__(self, dense_encoder: nn.Module, prototypes: Tensor, owners: Tensor, n_classes: int) -> None:
        self.dense_encoder, self.prototypes, self.owners = dense_encoder, F.normalize(prototypes, dim=1), owners
        self.n_classes = n_classes

    def similarities(self, images: Tensor) -> Tensor:
        """The largest cosine with a prototype of each class, of none first: (n, 1 + n_classes, h, w).

        Features are brought to the size of the images bilinearly. Where a class has no prototype it is -1.
        """
        features = _grid(dense_features(self.dense_encoder, images)).permute(0, 3, 1, 2)
        parts = []
        for part in features.split(64):
            places = F.interpolate(part, images.shape[-2:], mode="bilinear")
            cosines = torch.einsum("ndhw,md->nmhw", F.normalize(places, dim=1), self.prototypes)
            best = torch.full((len(part), 1 + self.n_classes, *images.shape[-2:]), -1.0)
            for owner in self.owners.unique():
                best[:, owner] = cosines[:, self.owners == owner].amax(1)
            parts.append(best)
        return torch.cat(parts)

    def segment(self, images: Tensor, *, classes: Tensor | None = None, threshold: float | None = None) -> Tensor:
        """The class of each pixel, int64 (n, h, w): 0 for none, else 1 + the number of the prompt.

        Args:
            images: raw images (n, c, h, w).
            classes: which classes may be in an image, bool (n, n_classes), such as a classifier's answer.
            threshold: what is less similar to every class than this is none; for prototypes without background.
        """
        return decide(self.similarities(images), classes=classes, threshold=threshold)


def decide(similarities: Tensor, *, classes: Tensor | None = None, threshold: float | None = None) -> Tensor:
    """The class of each pixel from similarities (n, 1 + k, h, w), of none first: int64 (n, h, w)."""
    similarities = similarities.clone()
    if threshold is not None:
        similarities[:, 0] = similarities[:, 0].clamp_min(threshold)
    if classes is not None:
        similarities[:, 1:][~classes] = -math.inf
    return similarities.argmax(1)


def attribution(text2image: TokenDDPM, images: Tensor, prompts: Tensor) -> Tensor:
    """How much each place of an image attends to what its prompt, one of (n, t), says: (n, h, w), summed over words.

    Words that say nothing (token 0) get the rest, so that values lie in [0, 1].
    """
    encoder: Any = text2image.encoder
    diffusion = text2image.diffusion
    clean = 2 * as_float(images, encoder.image_size) - 1
    clean = clean.to(diffusion.alpha_bar.device)
    tokens = prompts.to(clean.device)
    found = []
    with evaluating(encoder), torch.no_grad():
        for share in TIMES:
            t = max(1, round(share * diffusion.n_steps))
            with encoder.attention_maps() as maps:
                encoder.denoise(diffusion.noised(clean, t, torch.randn_like(clean)), t, tokens)
            for weights in maps.cross.values():
                said = (weights.mean(1) * (tokens > 0)[:, None]).sum(2)
                side = math.isqrt(said.shape[1])
                map_ = said.view(len(said), 1, side, side)
                found.append(F.interpolate(map_, clean.shape[-2:], mode="bilinear")[:, 0])
    return torch.stack(found).mean(0).cpu()


def colour_segments(images: Tensor) -> Tensor:
    """Two clusters of each image's colours, by k-means: images (n, c, h, w) -> 0 or 1, int64 (n, h, w)."""
    found = [_clusters(image.flatten(1).T.cpu(), 2, 0)[0] for image in images]
    return torch.from_numpy(np.stack(found)).long().view(len(images), *images.shape[-2:])


def choose_segments(segments: Tensor, attributed: Tensor) -> tuple[Tensor, Tensor]:
    """Which pixels are foreground, and which background: each bool (n, h, w).

    Args:
        segments: number of each pixel's segment, int64 (n, h, w).
        attributed: attribution, (n, height, width), of any size.
    """
    attributed = F.interpolate(attributed[:, None], segments.shape[1:], mode="bilinear")[:, 0]
    most, least = [], []
    for numbers, said in zip(segments, attributed, strict=True):
        known = numbers.unique()
        means = torch.stack([said[numbers == k].mean() for k in known])
        most.append(numbers == known[means.argmax()])
        # an image of one segment shows the class all over
        least.append((numbers == known[means.argmin()]) & (len(known) > 1))
    return torch.stack(most), torch.stack(least)


def _cells(mask: Tensor, side: int) -> Tensor:
    """The mask (n, h, w) on the grid of the features: cells of which it covers more than half."""
    return F.interpolate(mask[:, None].float(), (side, side), mode="area")[:, 0] > 0.5


def prototypes_of(features: Tensor, mask: Tensor, n_parts: int, *, seed: int = 0) -> Tensor:
    """Averages of features (n, h, w, d) within a mask (n, h, w): of each image, of all, and of parts: (n + 1 + p, d).

    Images without a place in the mask give none; there are no more parts than places.
    """
    sizes = mask.sum((1, 2))
    some = sizes > 0
    if not some.any():
        return features.new_zeros(0, features.shape[-1])
    sums = torch.einsum("nhwd,nhw->nd", features, mask.to(features))[some]
    instances, whole = sums / sizes[some, None], sums.sum(0, keepdim=True) / sizes.sum()
    parts = _clusters(features[mask], min(n_parts, int(sizes.sum())), seed)[1]
    return torch.cat([instances, whole, torch.from_numpy(parts).to(features)])


def _clusters(x: Tensor, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (n,) and centres (k, d)."""
    fitted = KMeans(k, n_init=2, random_state=seed).fit(x.numpy())
    return fitted.labels_, fitted.cluster_centers_


class BlockFeatures(nn.Module):
    """Several blocks of a U-Net as one dense encoder: their maps, brought to the image's size, one after the other.

    The features of diffusion models are one of the kinds that the paper grounds.

    Args:
        encoder: the network; it is noised, and told of no words, as `encoder.tokens` does it.
        layers: names of blocks.
    """

    def __init__(self, encoder: UNet, layers: Sequence[str] = ("middle", "up2", "up3")) -> None:
        super().__init__()
        self.encoder, self.layers = encoder, tuple(layers)

    def prepare(self, items: Any) -> Tensor:
        return self.encoder.prepare(items)

    def tokens(self, x: Tensor) -> Tensor:
        maps = self.encoder.maps(x)
        found = [F.interpolate(maps[layer], x.shape[-2:], mode="bilinear") for layer in self.layers]
        return torch.cat(found, 1).flatten(2).transpose(1, 2)


def _grid(tokens: Tensor) -> Tensor:
    """(n, t, d) -> (n, h, w, d)."""
    side = math.isqrt(tokens.shape[1])
    expect("dense_encoder", tokens.shape[1], side**2 == tokens.shape[1], "a square grid of tokens")
    return tokens.unflatten(1, (side, side))


# Claims ---------------------------------------------------------------------------------------------------------------

NAMES = ("square", "triangle", "cross", "ring")
"""Classes 1 to 4 of the masks."""


def _wordings() -> Tensor:
    """Prompts of each shape in each of the four places, (4, 4, 12): so that supports show it everywhere."""
    places = ("top-left", "top-right", "bottom-left", "bottom-right")
    return torch.stack([torch.stack([torch.from_numpy(composition_prompt(f"{n} {p}")) for p in places]) for n in NAMES])


def _best_threshold(similarities: Tensor, part: Part) -> float:
    """What is less similar to every class than this is background: the best of 40, by mean IoU on labelled scenes."""
    tried = similarities[:, 1:].amax(1).flatten().quantile(torch.linspace(0.02, 0.98, 40))
    masks = part.columns["segments"]
    scores = [mean_iou(masks, decide(similarities, threshold=float(one))) for one in tried]
    return float(tried[int(np.argmax(scores))])


def _painted(trial: Trial, part: Part, **words: Any) -> PrototypeSegmenter:
    """OVDiff by the trial's text-to-image model, which gives the dense features as well."""
    ddpm = painter(trial, part)
    return ovdiff(ddpm, BlockFeatures(ddpm.encoder), _wordings(), seed=trial.seed, **words)


def _text_similarities(dual: CLIP, images: Tensor) -> Tensor:
    """Cosine of each pixel with each class's name in a dual encoder's space: (n, 1 + 4, h, w), none being -1.

    Features of the last map take the place of their mean (Zhou et al., 2022, arXiv:2112.01071).
    """
    with torch.no_grad():
        texts = torch.stack([dual.encode_text(wordings).mean(0) for wordings in _wordings()])
        places = _grid(dual.image_projection(dense_features(dual.image_encoder, images)))
    places = F.interpolate(places.permute(0, 3, 1, 2), images.shape[-2:], mode="bilinear")
    cosines = torch.einsum("ndhw,kd->nkhw", F.normalize(places, dim=1), F.normalize(texts, dim=1))
    return torch.cat([torch.full_like(cosines[:, :1], -1.0), cosines], 1)


@claim(
    "segments classes by their names better than a dual encoder's similarity of text and place",
    reported="a lead of more than 10 % on Pascal VOC over prior work (abstract; the later version says 5 %)",
    proxy="four shapes in drawn scenes at 16 pixels; a small text-to-image model, whose own blocks give the features; "
    "a CLIP of the same scenes and descriptions, and the best of 40 thresholds for its background",
    steps={"small": 1000, "full": 10_000},
)
def better_than_text_similarity(bench: Bench) -> Comparison:
    """Mean IoU over ground and four shapes on unseen scenes of one to three objects; equal scenes and steps.

    The dual encoder's threshold is chosen by the masks of 100 training scenes; OVDiff sees no mask.
    """
    scenes = composed_scenes(bench)

    def both(trial: Trial) -> tuple[float, float]:
        part, unseen = trial.split(scenes)
        labelled = unseen.reveal()
        masks = labelled.columns["segments"]
        ours = mean_iou(masks, _painted(trial, part).segment(labelled.x))
        dual, few = token_clip(trial, part, width=32, layer="stage2"), part.select(range(min(100, len(part))))
        threshold = _best_threshold(_text_similarities(dual, few.x), few)
        theirs = decide(_text_similarities(dual, labelled.x), threshold=threshold)
        return ours, mean_iou(masks, theirs)

    return bench.trials(both, baseline="dense similarity of a dual encoder", better_by=0.0, setting=scenes.name)


@drawing(
    "Unseen scenes, what is in them, and what OVDiff segments by the names square (red), triangle (green), cross "
    "(blue) and ring (yellow); no mask was ever seen.",
    steps={"small": 1000},
)
def segments_by_name(bench: Bench, trial: Trial) -> Picture:
    part, unseen = trial.split(composed_scenes(bench))
    labelled = unseen.reveal()
    scenes, masks = labelled.x[:8], labelled.columns["segments"][:8].long()
    found = _painted(trial, part).segment(scenes).long()
    palette = torch.tensor([[0.93] * 3, [0.8, 0.2, 0.2], [0.2, 0.6, 0.3], [0.2, 0.3, 0.8], [0.9, 0.75, 0.2]])
    columns = scenes / 255, *(palette[classes].permute(0, 3, 1, 2) for classes in (masks, found))
    return trial.sheet(list(zip(*columns, strict=True)), titles=["scene", "truth", "OVDiff"])


@claim(
    "prototypes of the background are worth having",
    reported="the background that comes along in the supports lets it be segmented directly (abstract)",
    proxy="four shapes in drawn scenes at 16 pixels; without them a threshold, the best of 40, says what is background",
    steps={"small": 1000, "full": 10_000},
)
def background_prototypes_pay(bench: Bench) -> Comparison:
    """Mean IoU on unseen scenes, with prototypes of the background, and without but with a threshold.

    The threshold is chosen by the masks of 100 training scenes; the side with the prototypes sees no mask.
    """
    scenes = composed_scenes(bench)

    def both(trial: Trial) -> tuple[float, float]:
        part, unseen = trial.split(scenes)
        labelled = unseen.reveal()
        masks = labelled.columns["segments"]
        ours = mean_iou(masks, _painted(trial, part).segment(labelled.x))
        without, few = _painted(trial, part, background=False), part.select(range(min(100, len(part))))
        threshold = _best_threshold(without.similarities(few.x), few)
        return ours, mean_iou(masks, without.segment(labelled.x, threshold=threshold))

    return bench.trials(both, baseline="the same without, and a threshold", better_by=0.0, setting=scenes.name)
