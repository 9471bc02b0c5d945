"""DINOv2: Learning Robust Visual Features without Supervision (Oquab et al., 2023)."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Part, Unseen, claim
from tacit.data import scenes
from tacit.embedding import embed
from tacit.errors import expect, unknown
from tacit.evaluate import dense_features, segmentation_probe, view_retrieval
from tacit.learner import Learner
from tacit.losses import dino_loss, koleo_loss, masked_patch_loss
from tacit.nn import (
    Centering,
    DINOHead,
    Momentum,
    ViT,
    block_masks,
    encode_crops,
    encode_masked,
    mask_counts,
    rising,
    sinkhorn,
)
from tacit.views import multi_crop, two_crops


@system("dinov2", paper="arXiv:2304.07193", modality="image", level="mechanism")
class DINOv2(Learner):
    """A student agrees with its own slow average on whole images seen in crops, and on patches hidden from it.

        loss = L_DINO + ibot_weight L_iBOT + koleo_weight (L_KoLeo of one global crop + of the other)      (section 4)
        L_DINO  = mean over global crops i and all crops j != i of  H(P_i, softmax(s_j / t))      `losses.dino_loss`
        L_iBOT  = the same between the tokens of a crop's hidden patches    `losses.masked_patch_loss`
        L_KoLeo = -mean of log(distance to the nearest other image's features)      `losses.koleo_loss`

    The teacher's distributions P come from its logits by three iterations of Sinkhorn-Knopp over the batch, whose rows
    are exact and whose columns, equal use of the prototypes, are approximate; or by DINO's centring. Heads of image
    and patches are not shared, and KoLeo acts on the features before the head, as in the paper. The encoder that is
    kept is the teacher; the student is a copy of it, `student`. What the paper calls the class token is what the
    encoder's `forward` gives: build it as `ViT(..., pool="class")` to have one, else it is the mean of the tokens.

    Not here: the short finish at high resolution, the distillation of small models, and the curation of the data, the
    stochastic depth and the growing weight decay of the paper's runs.

    Args:
        encoder: a `tacit.nn.ViT`; what the user keeps. It no longer asks for gradients.
        views: batch -> list of views, the first two those which the teacher sees, of one size; by default the paper's
            multi-crops, the local ones of a size that the patches divide.
        n_prototypes: logits of each head.
        hidden_dim, embed_dim: widths of the heads' hidden layers and bottleneck.
        ibot_weight: weight of the masked patches; with 0 nothing is hidden.
        koleo_weight: weight of the spreading.
        mask_probability: share of the global crops in which patches are hidden.
        min_mask_ratio, max_mask_ratio: range of the share of patches hidden in those.
        local_crops: small crops an image, in the default views.
        momentum: decay of the teacher at the start, in [0, 1]; rises to 1 on a cosine.
        centering: of the teacher, `"sinkhorn"` or `"running"` (DINO).
        student_temperature: t, above 0.
        teacher_temperature: that of the teacher, above 0, which it reaches from
        first_teacher_temperature: on a line
        temperature_warmup: over this share of the training.
        frozen: share of the training, at the start, in which the prototypes stay as they are.

    Batches hold at least 2 images.

    Raises:
        ArgumentError: the encoder is no `ViT`, or a value is out of range.

    >>> encoder = ViT(16, 4, 24, num_layers=1, num_heads=3, pool="class")
    >>> learner = DINOv2(encoder, n_prototypes=8, hidden_dim=16, embed_dim=8, local_crops=2)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)).isfinite())
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 3.5e-4,
            "batch_size": 3072,
            "max_steps": 625_000,
            "weight_decay": 0.04,
            "warmup": 0.16,
            "clip": 3.0,
            "n_prototypes": 131_072,
            "embed_dim": 384,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 1e-3,
            "batch_size": 64,
            "weight_decay": 0.04,
            "warmup": 0.1,
            "clip": 3.0,
            "model": "vit-micro",
            "pool": "class",
            "n_prototypes": 512,
            "hidden_dim": 256,
            "embed_dim": 64,
            "local_crops": 2,
            "momentum": 0.98,
            "frozen": 0.0,
        },
        "search": {"momentum": [0.95, 0.98, 0.99, 0.996]},
    }

    student: ViT
    centers: nn.ModuleDict

    def __init__(
        self,
        encoder: ViT,
        *,
        views: nn.Module | None = None,
        n_prototypes: int = 1024,
        hidden_dim: int = 2048,
        embed_dim: int = 256,
        ibot_weight: float = 1.0,
        koleo_weight: float = 0.1,
        mask_probability: float = 0.5,
        min_mask_ratio: float = 0.1,
        max_mask_ratio: float = 0.5,
        local_crops: int = 8,
        momentum: float = 0.994,
        centering: str = "sinkhorn",
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        first_teacher_temperature: float = 0.04,
        temperature_warmup: float = 0.3,
        frozen: float = 0.01,
    ) -> None:
        super().__init__()
        _expect_vit(encoder)
        expect("ibot_weight", ibot_weight, ibot_weight >= 0, "a number not below 0")
        expect("koleo_weight", koleo_weight, koleo_weight >= 0, "a number not below 0")
        temperatures = (first_teacher_temperature, teacher_temperature)
        expect("teacher_temperature", temperatures, min(temperatures) > 0, "numbers above 0")
        if centering not in ("sinkhorn", "running"):
            raise unknown("centering", centering, ("sinkhorn", "running"))
        levels = ["image", "patch"] if ibot_weight else ["image"]
        self.student = copy.deepcopy(encoder)
        self.encoder = encoder.requires_grad_(False)
        self.views = _crops(encoder, local_crops) if views is None else views
        self.heads = nn.ModuleDict({at: DINOHead(encoder.dim, n_prototypes, hidden_dim, embed_dim) for at in levels})
        self.teacher_heads = Momentum(self.heads, decay=momentum)
        self.mask_token = nn.Parameter(torch.zeros(encoder.dim)) if ibot_weight else None
        running = {at: Centering(n_prototypes) for at in levels} if centering == "running" else {}
        self.centers = nn.ModuleDict(running)
        self.ibot_weight, self.koleo_weight = ibot_weight, koleo_weight
        self.mask_probability, self.mask_ratio = mask_probability, (min_mask_ratio, max_mask_ratio)
        self.student_temperature, self.frozen = student_temperature, frozen
        self.temperatures, self.temperature_warmup = temperatures, temperature_warmup

    def loss(self, x: Tensor) -> Tensor:
        crops = list(self.views(x))
        whole, local = torch.cat(crops[:2]), crops[2:]
        mask = self._masks(whole) if self.ibot_weight else None
        targets, hidden_targets = self._teach(whole, mask)
        features, tokens = encode_masked(self.student, whole, mask, self.mask_token)
        local_features = encode_crops(lambda crop: encode_masked(self.student, crop)[0], local) if local else []
        frozen = self.progress < self.frozen
        logits = self.heads["image"](torch.cat([features, *local_features]), frozen=frozen)
        loss = dino_loss(logits.split(len(x)), targets, self.student_temperature)
        if hidden_targets is not None and mask is not None:
            hidden = self.heads["patch"](tokens[mask], frozen=frozen)
            loss = loss + self.ibot_weight * masked_patch_loss(hidden, hidden_targets, mask, self.student_temperature)
        if self.koleo_weight:
            loss = loss + self.koleo_weight * sum(koleo_loss(crop) for crop in features.chunk(2))
        return loss

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.teacher_heads.update(self.heads, progress=progress)
        kept: list[Tensor] = list(self.encoder.parameters())
        live: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(kept, live, 1 - self.teacher_heads.decay_at(progress))
        for level, center in self.centers.items():
            center.push(self._fresh[level])  # type: ignore[operator]

    @torch.no_grad()
    def _teach(self, whole: Tensor, mask: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The teacher's distributions of both global crops, (n, k) each, and of the patches that will be hidden."""
        features, tokens = encode_masked(self.encoder, whole)
        (heads,) = self.teacher_heads.copies
        seen = {"image": features} if mask is None else {"image": features, "patch": tokens[mask]}
        self._fresh = {level: heads[level](rows) for level, rows in seen.items()}  # type: ignore[index]
        targets = {level: self._distributions(level, logits) for level, logits in self._fresh.items()}
        return targets["image"].chunk(2), targets.get("patch")

    def _distributions(self, level: str, logits: Tensor) -> Tensor:
        temperature = rising(self.progress, *self.temperatures, share=self.temperature_warmup)
        if level in self.centers:
            return self.centers[level](logits, temperature)
        plan = sinkhorn(logits, epsilon=temperature)
        return plan / plan.sum(1, keepdim=True)

    def _masks(self, whole: Tensor) -> Tensor:
        """Which patches are hidden from the student: bool (n, t)."""
        rows, columns = (side // self.encoder.patch_size for side in whole.shape[-2:])
        counts = mask_counts(len(whole), rows * columns, share=self.mask_ratio, probability=self.mask_probability)
        return block_masks(counts.to(whole.device), rows, columns)


def _expect_vit(encoder: nn.Module) -> None:
    remedy = "take model='vit-micro', or build a tacit.nn.ViT"
    expect("encoder", type(encoder).__name__, isinstance(encoder, ViT), "a transformer over patches", remedy)


def _crops(encoder: ViT, local_crops: int) -> nn.Module:
    """The paper's views; local crops are 96 / 224 of the image, in whole patches."""
    patch = encoder.patch_size
    return multi_crop(
        encoder.image_size,
        channels=encoder.in_channels,
        preset="dino",
        local_crops=local_crops,
        local_size=max(1, round(encoder.image_size * 96 / 224 / patch)) * patch,
        scale=(0.32, 1.0),
        local_scale=(0.05, 0.32),
    )


# Claims ---------------------------------------------------------------------------------------------------------------

NETWORK = {"name": "vit", "patch_size": 4, "embed_dim": 64, "num_layers": 4, "num_heads": 4, "pool": "class"}
"""Small enough for some hundred steps, with a class token as in the paper."""


@claim(
    "hiding patches from the student makes patch tokens tell what is where",
    reported="almost 3 points of mIoU on ADE-20k, frozen, by a linear classifier (section 6, Table 3b)",
    proxy="a small transformer on 1,000 drawn scenes of 24 pixels, in place of ViT-L/14 on LVD-142M",
    steps={"small": 150, "full": 20_000},
)
def hidden_patches_help_segmentation(bench: Bench) -> Comparison:
    """Mean IoU of a linear classifier on frozen patch tokens of unseen scenes, with and without L_iBOT; equal steps."""
    drawn = bench.drawn(scenes, n=1000, n_test=500, modality="image", image_size=24)
    return _ablation(bench, drawn, mean_iou_of_patches, ibot_weight=0.0)


@claim(
    "KoLeo's spreading finds the same image among many more often",
    reported="more than 8 points of mean average precision on Oxford-M retrieval (section 6, Table 3a)",
    proxy="crops of 1,000 images of CIFAR-10 at 16 pixels by a small transformer, in place of landmarks by ViT-L/14",
    steps={"small": 300, "full": 20_000},
)
def koleo_helps_retrieval(bench: Bench) -> Comparison:
    """Recall at 1 of unseen images by a crop of them in other colours, with and without L_KoLeo; equal steps."""
    images = bench.images("cifar10", size=16, n=5000, n_test=1000)
    return _ablation(bench, images, recall_of_crops, koleo_weight=0.0)


@claim(
    "learning from patches as well makes better features of whole images",
    reported="85.8 against 85.3 % ImageNet top-1, with and without the masked-image objective (Table 3b)",
    proxy="k-NN on 5,000 images of CIFAR-10 at 16 pixels by a small transformer, in place of ImageNet by ViT-L/14",
    steps={"small": 300, "full": 20_000},
)
def hidden_patches_help_classification(bench: Bench) -> Comparison:
    """k-NN accuracy of the class token on unseen images, with and without L_iBOT; equal steps."""
    images = bench.images("cifar10", size=16, n=5000, n_test=5000)
    return _ablation(bench, images, "knn", ibot_weight=0.0)


def _ablation(bench: Bench, data: Data, by: Any, **without: float) -> Comparison:
    """DINOv2 against itself without a part. In float32, which is faster than bfloat16 for so narrow a network."""
    return bench.compare(
        DINOv2,
        baseline="dinov2",
        data=data,
        by=by,
        better_by=0.0,
        baseline_settings=without,
        encoder=NETWORK,
        precision="32-true",
    )


def mean_iou_of_patches(model: DINOv2, train: Part, unseen: Unseen) -> float:
    """A linear classifier on the teacher's patch tokens, which learns from the masks of 100 training scenes."""
    labelled, test = train.select(range(min(100, len(train)))), unseen.reveal()
    (x, mask), (new, truth) = ((dense_features(model.encoder, p.x), p.columns["segments"]) for p in (labelled, test))
    return segmentation_probe(x, mask, new, truth).value


def recall_of_crops(model: DINOv2, train: Part, unseen: Unseen) -> float:
    """Share of unseen images that are nearest, among all of them, to SimCLR's view of them: crop, flip and colour."""
    encoder = model.encoder.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train.seed)
        views, _ = two_crops(encoder.image_size, preset="simclr")(unseen.x)
    database, queries = (torch.from_numpy(embed(encoder, {"x": x})) for x in (unseen.x, views))
    return view_retrieval(database, queries).value
