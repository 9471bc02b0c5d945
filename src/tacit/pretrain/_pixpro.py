"""Propagate Yourself: PixContrast and PixPro, consistency of pixels in place of images (Xie et al., 2021)."""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, claim
from tacit.data import scenes
from tacit.errors import expect
from tacit.evaluate import dense_features, segmentation_probe
from tacit.learner import Learner, encoder_of
from tacit.nn import Momentum, mlp
from tacit.views import two_crops


class _PixelLevel(Learner):
    """What both have in common: a projection of every pixel of the feature map, its slow copy, and who matches whom."""

    def __init__(
        self,
        encoder: nn.Module,
        views: nn.Module | None,
        embed_dim: int,
        hidden_dim: int,
        threshold: float,
        momentum: float,
    ) -> None:
        super().__init__()
        dense = hasattr(encoder, "tokens")
        expect("encoder", type(encoder).__name__, dense, "a feature map, tokens(x)", "take a ResNet, a ViT or a U-Net")
        expect("threshold", threshold, threshold > 0, "a distance above 0, in diagonals of a bin")
        self.encoder = encoder
        self.views = (
            two_crops(encoder.image_size, channels=encoder.in_channels, preset="byol") if views is None else views
        )
        told = hasattr(self.views, "with_boxes")
        expect("views", type(self.views).__name__, told, "views that tell where they lie", "take two_crops(...)")
        self.projector = mlp(encoder.dim, hidden_dim, embed_dim)  # at each pixel: two 1 x 1 convolutions
        self.target = Momentum(_FeatureMap(encoder), self.projector, decay=momentum)
        self.threshold = threshold

    def loss(self, x: Tensor) -> Tensor:
        (a, b), boxes = self.views.with_boxes(x)  # type: ignore[operator]
        online = self._pixels(a), self._pixels(b)
        near = matching_pixels(boxes[0], boxes[1], math.isqrt(online[0].shape[1]), self.threshold)
        return self._compare(online[0], self._slow(b), near) + self._compare(online[1], self._slow(a), near.mT)

    def after_step(self, progress: float) -> None:
        self.target.update(self.encoder, self.projector, progress=progress)

    def _compare(self, online: Tensor, slow: Tensor, near: Tensor) -> Tensor:
        """One direction of the loss."""
        raise NotImplementedError

    def _pixels(self, view: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, t, embed_dim), row by row."""
        tokens = self.encoder.tokens(view)  # type: ignore[operator]
        side = math.isqrt(tokens.shape[1])
        remedy = "a class token among them? give an encoder whose tokens(x) are places alone"
        expect("tokens", tokens.shape[1], side * side == tokens.shape[1], "a square number of places", remedy)
        return self.projector(tokens.flatten(0, 1)).view(len(view), side * side, -1)

    def _slow(self, view: Tensor) -> Tensor:
        pixels = self.target(view)
        return pixels.view(len(view), -1, pixels.shape[-1])


class _FeatureMap(nn.Module):
    """All pixels of all feature maps, as rows."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.tokens(x).flatten(0, 1)  # type: ignore[operator]


@system("pixpro", paper="arXiv:2011.10043", modality="image")
class PixPro(_PixelLevel):
    """Pixels of one view, smoothed by those like them, agree with the matching pixels of the other view's slow network.

        (i, j) are positive where their centres in the image lie within T, in diagonals of a bin      (eq. 1)
        y_i  = sum over j of max(cos(x_i, x_j), 0)^gamma g(x_j), over all pixels of the view          (eqs. 3, 4)
        loss = -mean over positive (i, j) of cos(y_i, x'_j), of the one view + that of the other      (eq. 5)

    x is the projection of a pixel, x' that of the other view by the moving average of encoder and projector. The mean
    is taken over the pairs of an image, then over the images that have any. The bin is the larger one of the two views.
    The authors' code doubles the loss, counts images without a pair as 0, and brings g(x_j) to length 1 before the sum.

    Args:
        encoder: images (n, c, h, w) -> (n, encoder.dim), with `tokens(x)` of a square feature map; what the user keeps.
            `tacit.evaluate.dense_features` reads its map.
        views: batch -> two batches of views whose `with_boxes` tells where they lie, as `two_crops` makes them; by
            default BYOL's.
        embed_dim: width of a pixel's projection.
        hidden_dim: width of the projector's hidden layer.
        threshold: T, above 0.
        gamma: how much likeness sharpens propagation, 0 or more; 0 gives each pixel the same mean of all.
        propagation_layers: linear layers of g, with BatchNorm and ReLU between them; 0 is the identity.
        propagate: False leaves propagation out: y_i = g(x_i), its limit for large gamma.
        momentum: decay of the average at the start, in [0, 1]; rises to 1 on a cosine.

    Batches hold at least 2 images.

    >>> from tacit.nn import ResNet
    >>> learner = PixPro(ResNet(8, width=8, image_size=16), embed_dim=16, hidden_dim=32)
    >>> -2 <= learner.loss(torch.rand(4, 3, 16, 16)).item() <= 2
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "lars",
            "lr": 4.0,
            "batch_size": 1024,
            "epochs": 400,
            "weight_decay": 1e-5,
            "warmup": 0.0125,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 6e-3,
            "batch_size": 64,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "embed_dim": 128,
            "hidden_dim": 256,
        },
        "search": {"momentum": [0.9, 0.97, 0.99, 0.996]},
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        embed_dim: int = 256,
        hidden_dim: int = 4096,
        threshold: float = 0.7,
        gamma: float = 2.0,
        propagation_layers: int = 1,
        propagate: bool = True,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(encoder, views, embed_dim, hidden_dim, threshold, momentum)
        expect("gamma", gamma, gamma >= 0, "an exponent of 0 or more")
        expect("propagation_layers", propagation_layers, propagation_layers >= 0, "0 layers or more")
        self.transform = (  # g
            mlp(embed_dim, embed_dim, embed_dim, num_layers=propagation_layers) if propagation_layers else nn.Identity()
        )
        self.gamma, self.propagate = gamma, propagate

    def _compare(self, online: Tensor, slow: Tensor, near: Tensor) -> Tensor:
        values = self.transform(online.flatten(0, 1)).view_as(online)
        smoothed = pixel_propagation(online, values, self.gamma) if self.propagate else values
        return pixel_consistency(smoothed, slow, near)


@system("pixcontrast", paper="arXiv:2011.10043", modality="image")
class PixContrast(_PixelLevel):
    """PixPro's forerunner: InfoNCE within the image, pixels that match against pixels that do not.

        loss_i = -log( sum over positive j of exp(cos(x_i, x'_j) / t) / sum over all j of the same )           (eq. 2)

    averaged over the pixels i with a positive, then over images; the sum of both directions.

    Args:
        encoder, views, embed_dim, hidden_dim, threshold, momentum: as in `PixPro`.
        temperature: t, above 0.

    >>> from tacit.nn import ResNet
    >>> learner = PixContrast(ResNet(8, width=8, image_size=16), embed_dim=16, hidden_dim=32)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    settings: ClassVar = {**PixPro.settings, "search": {"temperature": [0.1, 0.2, 0.3]}}

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        embed_dim: int = 256,
        hidden_dim: int = 4096,
        threshold: float = 0.7,
        temperature: float = 0.3,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(encoder, views, embed_dim, hidden_dim, threshold, momentum)
        expect("temperature", temperature, temperature > 0, "a number above 0")
        self.temperature = temperature

    def _compare(self, online: Tensor, slow: Tensor, near: Tensor) -> Tensor:
        return pixel_contrast(online, slow, near, self.temperature)


def matching_pixels(a: Tensor, b: Tensor, grid: int, threshold: float = 0.7) -> Tensor:
    """Which bins of two crops of the same image match: their centres lie within `threshold` bin diagonals (eq. 1).

    Args:
        a, b: (n, 4) top, left, bottom, right of the crops in the image; left > right where mirrored.
        grid: bins along each side of the feature map.
        threshold: in diagonals of a bin, the larger one of the two crops.

    Returns:
        bool (n, grid^2, grid^2): bin of a, row by row, by bin of b.

    >>> whole, left = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[0.0, 0, 4, 2]])
    >>> matching_pixels(whole, left, grid=2)[0].int()
    tensor([[1, 1, 0, 0],
            [0, 1, 0, 0],
            [0, 0, 1, 1],
            [0, 0, 0, 1]], dtype=torch.int32)
    """
    distance = torch.cdist(_centres(a, grid), _centres(b, grid), compute_mode="donot_use_mm_for_euclid_dist")
    return distance <= threshold * torch.maximum(_diagonal(a, grid), _diagonal(b, grid))[:, None, None]


def _centres(box: Tensor, grid: int) -> Tensor:
    """Row and column of the centres of the bins in the image: (n, grid^2, 2)."""
    share = (torch.arange(grid, device=box.device) + 0.5) / grid
    top, left, bottom, right = box.float()[..., None].unbind(1)
    rows, columns = torch.lerp(top, bottom, share), torch.lerp(left, right, share)
    return torch.stack([rows.repeat_interleave(grid, 1), columns.repeat(1, grid)], dim=2)


def _diagonal(box: Tensor, grid: int) -> Tensor:
    top, left, bottom, right = box.float().unbind(1)
    return torch.hypot(bottom - top, right - left) / grid


def pixel_propagation(x: Tensor, values: Tensor, gamma: float = 2.0) -> Tensor:
    """All pixels of the view summed at each, by likeness: sum_j max(cos(x_i, x_j), 0)^gamma values_j (eqs. 3, 4).

    The weights do not add up to 1, which the cosine that follows does not see.

    Args:
        x: (n, t, d).
        values: (n, t, d), g(x).

    >>> x = torch.eye(2)[None]
    >>> pixel_propagation(x, torch.tensor([[[3.0], [5.0]]])).flatten()  # nothing alike: each keeps its own
    tensor([3., 5.])
    """
    unit = F.normalize(x, dim=-1)
    return (unit @ unit.mT).clamp(min=0) ** gamma @ values


def pixel_consistency(y: Tensor, z: Tensor, near: Tensor) -> Tensor:
    """-cos(y_i, z_j), averaged over the pairs of `near` in each image, then over images that have any (eq. 5).

    Args:
        y, z: (n, t, d).
        near: bool (n, t, t).

    >>> pixel_consistency(torch.eye(2)[None], torch.eye(2)[None], torch.eye(2, dtype=torch.bool)[None])
    tensor(-1.)
    """
    cosine = F.normalize(y, dim=-1) @ F.normalize(z, dim=-1).mT
    pairs = near.sum((1, 2))
    return -_mean_where((cosine * near).sum((1, 2)) / pairs.clamp(min=1), pairs > 0)


def pixel_contrast(x: Tensor, z: Tensor, near: Tensor, temperature: float = 0.3) -> Tensor:
    """Eq. 2, averaged over the pixels of each image that match any, then over images that have such.

    Args:
        x, z: (n, t, d).
        near: bool (n, t, t).
        temperature: above 0.

    >>> near = torch.eye(2, dtype=torch.bool)[None]
    >>> pixel_contrast(torch.ones(1, 2, 3), torch.ones(1, 2, 3), near)  # all alike: log 2
    tensor(0.6931)
    """
    logits = F.normalize(x, dim=-1) @ F.normalize(z, dim=-1).mT / temperature
    lowest = torch.finfo(logits.dtype).min  # not -inf, whose gradient is NaN for pixels without a match
    cost = logits.logsumexp(-1) - logits.masked_fill(~near, lowest).logsumexp(-1)
    matched = near.any(-1)
    pixels = matched.sum(1)
    return _mean_where(cost.where(matched, 0).sum(1) / pixels.clamp(min=1), pixels > 0)


def _mean_where(values: Tensor, there: Tensor) -> Tensor:
    """Mean of those that are there; 0 if none is."""
    return values.where(there, 0).sum() / there.sum().clamp(min=1)


# Claims ---------------------------------------------------------------------------------------------------------------

N_LABELLED = 50

TUNED_BYOL = {"lr": 6e-3, "momentum": 0.99}
TUNED_SIMCLR = {"lr": 6e-3}
"""Of trials on 400 validation scenes, 120 steps each: for PixPro and BYOL lr 2e-3, 6e-3 and 1.2e-2 and, at the best of
them, momentum 0.9 and 0.99; for SimCLR lr 2e-3 and 6e-3; for PixContrast 6e-3 alone. 6e-3 and 0.99 did best."""


def mean_iou_by_a_dense_probe(model: Learner, train: Any, unseen: Any) -> float:
    """Mean IoU of a linear probe on the frozen feature map, fitted on the masks of 50 images."""
    encoder, labelled, test = encoder_of(model), train.select(range(min(N_LABELLED, len(train)))), unseen.reveal()
    seen, new = (dense_features(encoder, part.x) for part in (labelled, test))
    return segmentation_probe(seen, labelled.columns["segments"], new, test.columns["segments"]).value


def _scenes(bench: Bench) -> Any:
    """At 32 pixels, for feature maps of 8 x 8 (the paper's are 7 x 7)."""
    return bench.drawn(scenes, n=6000, n_test=1000, modality="image", image_size=32)


@claim(
    "pixel-level pre-training gives better features for dense prediction than image-level pre-training",
    reported="77.2 mIoU on Cityscapes, 60.2 AP on Pascal VOC: 1.0 and 2.6 above the best image-level method (abstract)",
    proxy="a ResNet-8 on drawn scenes at 32 pixels, some steps, and a linear probe of the frozen map in place of "
    "fine-tuning; against BYOL, which has the same views and slow target",
    steps={"small": 200, "full": 20_000},
)
def better_for_dense_prediction(bench: Bench) -> Comparison:
    """Dense probe with 50 labelled images on unseen scenes; equal steps."""
    return bench.compare(
        PixPro,
        baseline="byol",
        data=_scenes(bench),
        by=mean_iou_by_a_dense_probe,
        better_by=0.0,
        baseline_settings=TUNED_BYOL,
        batch_size=64,
    )


@claim(
    "propagation improves dense features",
    reported="the pixel-to-propagation task produces better results than plain pixel-level contrast (abstract)",
    proxy="a ResNet-8 on drawn scenes at 32 pixels, some steps, and a linear probe of the frozen map; against the same "
    "without propagation",
    steps={"small": 200, "full": 20_000},
)
def propagation_pays(bench: Bench) -> Comparison:
    """Dense probe with 50 labelled images on unseen scenes: y_i with propagation against y_i = g(x_i)."""
    return bench.compare(
        PixPro,
        baseline="pixpro",
        data=_scenes(bench),
        by=mean_iou_by_a_dense_probe,
        better_by=0.0,
        baseline_settings={"propagate": False},
        batch_size=64,
    )


@claim(
    "contrast between pixels gives better features for dense prediction than contrast between images",
    reported="image-level pretext tasks may be sub-optimal for dense prediction, pixel-level ones are not (abstract)",
    proxy="a ResNet-8 on drawn scenes at 32 pixels, some steps, and a linear probe of the frozen map; against SimCLR",
    steps={"small": 200, "full": 20_000},
    system="pixcontrast",
)
def pixels_not_images(bench: Bench) -> Comparison:
    """Dense probe with 50 labelled images on unseen scenes; equal steps."""
    return bench.compare(
        PixContrast,
        baseline="simclr",
        data=_scenes(bench),
        by=mean_iou_by_a_dense_probe,
        better_by=0.0,
        baseline_settings=TUNED_SIMCLR,
        batch_size=64,
    )
