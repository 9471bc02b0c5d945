"""MAE: Masked Autoencoders Are Scalable Vision Learners (He et al., 2022)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.errors import expect
from tacit.learner import Learner
from tacit.nn import Block, ViT, initialize_linear, patchify, sincos_positions
from tacit.views import Compose, RandomHorizontalFlip, RandomResizedCrop


@system("mae", paper="arXiv:2111.06377", modality="image", level="baseline")
class MAE(Learner):
    """The encoder sees a quarter of an image's patches; a light decoder paints the others.

        loss = mean over the masked patches, and over their pixels, of (painted - pixel)^2        (section 3)

    Each patch's pixels are brought to mean 0 and variance 1 first, which the paper found to be better.

    Args:
        encoder: a `tacit.nn.ViT`, or what has its `forward_kept`, `grid`, `num_patches` and `patch_size`; what the user
            keeps.
        views: batch -> one batch of views; by default a crop of at least a fifth of the image, and a flip.
        mask_ratio: share of the patches that the encoder does not see, in (0, 1).
        decoder_dim: features of the decoder's tokens, a multiple of 4 and of `decoder_heads`.
        decoder_layers: its number of blocks.
        decoder_heads: its number of attention heads.
        norm_pix: paint normalised pixels (the default) or those in [0, 1].

    Batches hold at least 1 image.

    Raises:
        ArgumentError: the encoder takes no subset of patches, or `mask_ratio` leaves no patch on one side.

    >>> learner = MAE(ViT(16, 4, 24, num_layers=1, num_heads=3), decoder_dim=16, decoder_layers=1, decoder_heads=2)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 2.4e-3,
            "batch_size": 4096,
            "epochs": 800,
            "weight_decay": 0.05,
            "warmup": 0.05,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "batch_size": 256,
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
        mask_ratio: float = 0.75,
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
        self.num_kept = int(encoder.num_patches * (1 - mask_ratio))
        some = 0 < self.num_kept < encoder.num_patches
        expect("mask_ratio", mask_ratio, some, f"a share that leaves 1 to {encoder.num_patches - 1} patches to see")
        self.encoder = encoder
        self.views = crop_and_flip(encoder.image_size) if views is None else views
        self.embed = nn.Linear(encoder.dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.randn(decoder_dim) * 0.02)
        self.register_buffer("positions", sincos_positions(encoder.grid, encoder.grid, decoder_dim), persistent=False)
        self.decoder = nn.Sequential(
            *(Block(decoder_dim, decoder_heads) for _ in range(decoder_layers)),
            nn.LayerNorm(decoder_dim),
            nn.Linear(decoder_dim, encoder.patch_size**2 * encoder.in_channels),
        )
        initialize_linear(self.embed)
        initialize_linear(self.decoder)
        self.norm_pix = norm_pix

    def loss(self, x: Tensor) -> Tensor:
        x = self.views(x)
        order = torch.rand(len(x), self.encoder.num_patches, device=x.device).argsort(1)
        kept, masked = order[:, : self.num_kept], order[:, self.num_kept :]
        painted = self._paint(self.encoder.forward_kept(x, kept), order)
        return F.mse_loss(painted, _pick(self.targets(x), masked))

    def targets(self, x: Tensor) -> Tensor:
        """What is to be painted: images (n, c, h, w) -> patches (n, t, patch_size * patch_size * c)."""
        patches = patchify(x, self.encoder.patch_size)
        if not self.norm_pix:
            return patches
        variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def _paint(self, tokens: Tensor, order: Tensor) -> Tensor:
        """The patches order[:, k:], from the tokens (n, k, dim) of the patches order[:, :k].

        Attention sees no order but the positions that are added to its tokens, so nothing is put back in its place.
        """
        n, k, _ = tokens.shape
        unseen = self.mask_token.expand(n, order.shape[1] - k, -1)
        return self.decoder(torch.cat([self.embed(tokens), unseen], dim=1) + self.positions[order])[:, k:]


def crop_and_flip(image_size: int) -> nn.Module:
    """The paper's augmentation, which needs no more (Table 1e): batch -> one batch of views."""
    return Compose(RandomResizedCrop(image_size, scale=(0.2, 1.0)), RandomHorizontalFlip(0.5))


def _pick(patches: Tensor, numbers: Tensor) -> Tensor:
    """Patches (n, t, d) by their numbers (n, m) -> (n, m, d)."""
    return patches.take_along_dim(numbers[:, :, None], dim=1)


@checked("painting grey costs (d - 1) / d on normalised patches of d values (unbiased variance)", tolerance=1e-3)
def cost_of_grey() -> tuple[float, float]:
    encoder = ViT(8, 4, 24, num_layers=1, num_heads=3)
    learner = MAE(encoder, views=nn.Identity(), decoder_dim=8, decoder_layers=1, decoder_heads=2)
    nn.init.zeros_(learner.decoder[-1].weight)
    d = 4 * 4 * 3
    return learner.loss(torch.rand(4, 3, 8, 8)).item(), (d - 1) / d
