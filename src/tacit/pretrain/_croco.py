"""CroCo: Self-Supervised Pre-training for 3D Vision Tasks by Cross-View Completion (Weinzaepfel et al., 2022)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Part, Trial, Unseen, claim
from tacit.data import rooms
from tacit.errors import expect
from tacit.learner import Learner
from tacit.nn import DecoderBlock, ViT, initialize_linear, patchify, sincos_positions, unpatchify
from tacit.views import ColorJitter, Compose, RandomResizedCrop, View, two_crops


@system("croco", paper="arXiv:2210.10716", modality="image")
class CroCo(Learner):
    """Paints nine tenths of a picture from the rest and from a second view of the same scene.

        e1 = encoder(the visible patches of x),  e2 = encoder(all patches of x2)
        loss = mean over the masked patches of x, and over their pixels, of (decoder(e1, e2) - pixel)^2    (section 3.1)

    The decoder's tokens, the visible ones and one mask token for each masked patch, look at each other and then at
    those of the second view, in each block (its `CrossBlock`). What one view alone would have to guess can be found in
    the other by who knows how the two lie in space. Each patch's pixels are brought to mean 0 and variance 1 first, as
    the released code does; the paper compares both.

    Pairs are the columns `x` and `x2`, with `pairs=True`; `tacit.data.rooms` draws some. Where there are only single
    pictures, two crops of each stand for the views: they overlap (each is at least half of the picture), but turn and
    scale is all that they teach, and nothing of depth.

    Args:
        encoder: a `tacit.nn.ViT`, or what has its `forward_kept`, `grid`, `num_patches` and `patch_size`; what the user
            keeps.
        views: batch -> two batches of views, by default the two crops; of pairs, batch -> batch, drawn for each of the
            two by itself, by default the authors' jitter of brightness, contrast and saturation by 40 %.
        pairs: whether the data has a second view of each scene, in the column `x2`.
        mask_ratio: share of the patches of x that are hidden, in (0, 1).
        decoder_dim: features of the decoder's tokens, a multiple of 4 and of `decoder_heads`.
        decoder_layers: its number of blocks.
        decoder_heads: its number of attention heads.
        norm_pix: paint normalised pixels (the default) or those in [0, 1].

    Raises:
        ArgumentError: the encoder takes no subset of patches, or `mask_ratio` leaves no patch on one side.

    >>> learner = CroCo(ViT(16, 4, 24, num_layers=1, num_heads=3), decoder_dim=16, decoder_layers=1, decoder_heads=2)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 1.5e-4,
            "betas": (0.9, 0.95),
            "batch_size": 256,
            "epochs": 400,
            "weight_decay": 0.05,
            "warmup": 0.1,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 32,
            "weight_decay": 0.05,
            "warmup": 0.1,
            "model": "vit-micro",
            "decoder_dim": 96,
            "decoder_layers": 1,
            "decoder_heads": 3,
        },
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        pairs: bool = False,
        mask_ratio: float = 0.9,
        decoder_dim: int = 512,
        decoder_layers: int = 8,
        decoder_heads: int = 16,
        norm_pix: bool = True,
    ) -> None:
        super().__init__()
        name = type(encoder).__name__
        expect(
            "encoder", name, hasattr(encoder, "forward_kept"), "a transformer over patches", "take model='vit-micro'"
        )
        self.num_kept = encoder.num_patches - int(encoder.num_patches * mask_ratio)
        some = 0 < self.num_kept < encoder.num_patches
        expect("mask_ratio", mask_ratio, some, f"a share that leaves 1 to {encoder.num_patches - 1} patches to see")
        self.encoder, self.pairs, self.norm_pix = encoder, pairs, norm_pix
        size, channels = encoder.image_size, encoder.in_channels
        crops = two_crops(size, channels=channels, preset="crop", scale=(0.5, 1.0), flip=False)
        self.views = views if views is not None else jitter(size, channels) if pairs else crops
        self.embed = nn.Linear(encoder.dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.randn(decoder_dim) * 0.02)
        self.register_buffer("positions", sincos_positions(encoder.grid, encoder.grid, decoder_dim), persistent=False)
        self.decoder = nn.ModuleList(DecoderBlock(decoder_dim, decoder_heads) for _ in range(decoder_layers))
        self.paint = nn.Sequential(
            nn.LayerNorm(decoder_dim), nn.Linear(decoder_dim, encoder.patch_size**2 * encoder.in_channels)
        )
        for part in (self.embed, self.decoder, self.paint):
            initialize_linear(part)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("x", "x2") if self.pairs else ("x",)

    def loss(self, x: Tensor, x2: Tensor | None = None) -> Tensor:
        first, second = self.views(x) if x2 is None else (self.views(x), self.views(x2))
        order = torch.rand(len(first), self.encoder.num_patches, device=first.device).argsort(1)
        painted = self._paint(self.encoder.forward_kept(first, order[:, : self.num_kept]), order, self._whole(second))
        hidden = order[:, self.num_kept :, None]
        return F.mse_loss(painted, self.targets(first).take_along_dim(hidden, dim=1))

    def targets(self, x: Tensor) -> Tensor:
        """What is to be painted: images (n, c, h, w) -> patches (n, t, patch_size * patch_size * c)."""
        patches = patchify(x, self.encoder.patch_size)
        if not self.norm_pix:
            return patches
        variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def _whole(self, x: Tensor) -> Tensor:
        """All patches encoded, (n, t, dim), by all layers, whatever the encoder's `layer` is."""
        return self.encoder.forward_kept(x, torch.arange(self.encoder.num_patches, device=x.device).expand(len(x), -1))

    def _paint(self, tokens: Tensor, order: Tensor, second: Tensor) -> Tensor:
        """The patches order[:, k:], from the tokens (n, k, dim) of the patches order[:, :k] and the second view's.

        Attention sees no order but the positions that are added to its tokens, so nothing is put back in its place.
        """
        n, k, _ = tokens.shape
        unseen = self.mask_token.expand(n, order.shape[1] - k, -1)
        x = torch.cat([self.embed(tokens), unseen], dim=1) + self.positions[order]
        context = self.embed(second) + self.positions
        for block in self.decoder:
            x = block(x, context)
        return self.paint(x[:, k:])


def jitter(image_size: int, channels: int = 3, strength: float = 0.4) -> View:
    """The authors' view of a pair's picture: another brightness, contrast and (of three channels) saturation.

    Every pixel stays where it is; of pictures of another size the middle square is resized. The authors also crop 224
    of 256 pixels.

    >>> jitter(16)(torch.rand(2, 3, 24, 24)).shape
    torch.Size([2, 3, 16, 16])
    """
    whole = RandomResizedCrop(image_size, scale=(1, 1), ratio=(1, 1))
    return Compose(whole, ColorJitter(strength, strength, strength if channels == 3 else 0.0, p=1.0))


class DepthHead:
    """Depth of one picture's pixels, read off the frozen tokens of its patches by one linear map (ridge regression).

    It maps what a token differs by from the mean token at its place to what the depths there differ by from theirs, so
    that a place's usual depth need not be read off its token.

    Args:
        encoder: has `tokens` and `patch_size`, such as a `tacit.nn.ViT`.
        penalty: of the squared weights, for standardised features, in units of the number of tokens; 0 or more.

    >>> from tacit.data import rooms
    >>> pairs, encoder = rooms(8, image_size=16), ViT(16, 4, 24, num_layers=1, num_heads=3)
    >>> x, depth = torch.from_numpy(pairs["x"]), torch.from_numpy(pairs["depth"])
    >>> DepthHead(encoder).fit(x, depth).predict(x).shape
    torch.Size([8, 16, 16])
    """

    def __init__(self, encoder: nn.Module, *, penalty: float = 1e-3) -> None:
        expect("penalty", penalty, penalty >= 0, "0 or more")
        self.encoder, self.penalty = encoder, penalty

    def fit(self, x: Tensor, depth: Tensor) -> DepthHead:
        """From pictures (n, c, h, w), as the encoder's `prepare` takes them, and their depths (n, h, w)."""
        tokens, depths = self._tokens(x), patchify(depth.double()[:, None], self.encoder.patch_size)
        self.mean, self.mean_depth = tokens.mean(0), depths.mean(0)  # of each place
        self.deviation = (tokens - self.mean).std((0, 1)) + 1e-6
        features, wanted = self._features(tokens).flatten(0, 1), (depths - self.mean_depth).flatten(0, 1)
        ridge = features.T @ features / len(features) + self.penalty * torch.eye(features.shape[1], dtype=torch.float64)
        self.weights = torch.linalg.solve(ridge, features.T @ wanted / len(features))
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Pictures (n, c, h, w) -> depths (n, h, w), float32."""
        depths = self._features(self._tokens(x)) @ self.weights + self.mean_depth
        size = self.encoder.image_size
        return unpatchify(depths, self.encoder.patch_size, size, size)[:, 0].float()

    def _features(self, tokens: Tensor) -> Tensor:
        return (tokens - self.mean) / self.deviation

    @torch.no_grad()
    def _tokens(self, x: Tensor) -> Tensor:
        self.encoder.eval()
        device = next(self.encoder.parameters()).device
        found = [self.encoder.tokens(self.encoder.prepare(part).to(device)).double().cpu() for part in x.split(500)]
        return torch.cat(found)


# Claims ---------------------------------------------------------------------------------------------------------------

NETWORK = {"patch_size": 8, "embed_dim": 96, "num_layers": 3, "num_heads": 3, "positions": "sincos"}
DECODER = {"decoder_dim": 96, "decoder_layers": 2, "decoder_heads": 3}
"""Both methods' encoder has the fixed positions of both papers; its size affords some hundred steps on a CPU."""


@claim(
    "the second view tells what the masked patches hold: completed across views, they are less in error",
    reported="no number: completions that one view could not give (Figures 1 and 4)",
    proxy="ray-cast rooms at 32 pixels with known overlap, a small ViT and some steps, in place of Habitat",
    steps={"small": 600, "full": 20_000},
)
def completes_from_the_second_view(bench: Bench) -> Comparison:
    """Error on the masked, normalised pixels of unseen scenes, against the same network whose second view is black, in
    training as in the test; score: -log of the error. The second view sees four fifths of the first; neither is
    jittered.
    """
    data = _pairs(bench)

    def scores(trial: Trial) -> list[float]:
        train, unseen = trial.split(data)
        black = Part({"x": train.x, "x2": torch.zeros_like(train.x)}, "image", None, trial.seed)
        error = _masked_error(trial, _trained(trial, CroCo, train), unseen.x, unseen.columns["x2"])
        alone = _masked_error(trial, _trained(trial, CroCo, black), unseen.x, torch.zeros_like(unseen.x))
        return [-math.log(error), -math.log(alone)]

    said = f"{data.name}, {NETWORK}"
    return bench.trials(scores, baseline="the second view black", better_by=0.0, setting=said)


@claim(
    "its features tell depth better than those of masked autoencoding of single views",
    reported="significantly improved performance for monocular 3D vision downstream tasks such as depth (abstract)",
    proxy="depth of ray-cast rooms at 32 pixels by a linear map from frozen tokens, in place of fine-tuning on NYUv2",
    steps={"small": 600, "full": 20_000},
)
def depth_better_than_mae(bench: Bench) -> Comparison:
    """RMSE on unseen scenes, with the depths of 200 pictures; score: -log of the RMSE. MAE has the
    same ViT, decoder width and depth, steps and batches, its own crops and flips, and both views of every scene as
    single pictures; CroCo's are not jittered, since colour tells of depth. Each side's ridge penalty is the best of
    five on a fifth of the labelled pictures.
    """
    data = _pairs(bench)

    def scores(trial: Trial) -> list[float]:
        train, unseen = trial.split(data)
        singles = Part({"x": torch.cat([train.x, train.columns["x2"]])}, "image", None, trial.seed)
        labelled = train.select(range(bench.pick(smoke=20, small=200)))
        sides = [_trained(trial, CroCo, train), _trained(trial, "mae", singles)]
        return [_depth_score(trial, side.encoder, labelled, unseen) for side in sides]

    return bench.trials(scores, baseline="MAE", better_by=0.0, setting=f"{data.name}, {NETWORK}")


def pairs_and_depths(n: int, *, seed: int, image_size: int) -> dict[str, np.ndarray]:
    """Columns of `tacit.data.rooms`: x, x2, and the first view's depth as y."""
    drawn = rooms(n, seed=seed, image_size=image_size)
    return {"x": drawn["x"], "x2": drawn["x2"], "y": drawn["depth"]}


def _pairs(bench: Bench) -> Data:
    n, n_test = bench.pick(smoke=64, small=4000, full=50_000), bench.pick(smoke=32, small=1000)
    return bench.drawn(pairs_and_depths, n=n, n_test=n_test, modality="image", inputs=("x2",), image_size=32)


def _trained(trial: Trial, system: Any, part: Part) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(trial.seed)
        encoder = ViT(32, **NETWORK)
    of_pairs = {"pairs": True, "views": jitter(32, strength=0.0)} if system is CroCo else {}
    learner = trial.build(system, part, encoder=encoder, **DECODER, **of_pairs)
    return trial.fit(learner, part, batch_size=32)


@torch.no_grad()
def _masked_error(trial: Trial, learner: CroCo, x: Tensor, x2: Tensor) -> float:
    """The loss of unseen pairs, with masks that only the seed draws."""
    learner.eval()
    with torch.random.fork_rng():
        torch.manual_seed(trial.seed)
        return learner.loss(x.to(trial.device), x2.to(trial.device)).item()


def _depth_score(trial: Trial, encoder: nn.Module, labelled: Part, unseen: Unseen) -> float:
    def score(penalty: float, part: Part, held_out: Unseen) -> float:
        head = DepthHead(encoder, penalty=penalty).fit(part.x, part.y)
        return held_out.score(head.predict(held_out.x), by=minus_log_rmse)

    return score(trial.select(labelled, (0.01, 0.03, 0.1, 0.3, 1.0), score), labelled, unseen)


def minus_log_rmse(depth: np.ndarray, predicted: np.ndarray) -> float:
    """Differences of it are logarithms of how many times smaller the error is.

    >>> round(minus_log_rmse(np.array([1.0, 2.0]), np.array([1.5, 1.5])), 4)  # -log 0.5
    0.6931
    """
    return -math.log(np.square(predicted - depth).mean()) / 2
