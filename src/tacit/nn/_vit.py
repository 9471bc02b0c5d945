"""An Image is Worth 16x16 Words: the Vision Transformer (Dosovitskiy et al., 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import ArgumentError, expect, unknown
from tacit.nn._encoder import ImageEncoder

SIZES = {
    "vit-micro": {"embed_dim": 128, "num_layers": 4, "num_heads": 4},
    "vit-tiny": {"embed_dim": 192, "num_layers": 12, "num_heads": 3},
    "vit-small": {"embed_dim": 384, "num_layers": 12, "num_heads": 6},
}
"""Names of usual sizes: micro for a CPU, tiny and small of DeiT (Touvron et al., 2021)."""


class Attention(nn.Module):
    """Multi-head self-attention, (n, t, dim) -> (n, t, dim) (appendix A)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, t, dim = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, dim))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (eqs. 2 and 3)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1, self.attention = nn.LayerNorm(dim, eps=1e-6), Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(ImageEncoder):
    """Images -> features of a transformer over patches.

    Args:
        image_size: side in pixels; `forward` takes other multiples of the patch too, with the positions interpolated.
        patch_size: side of a patch; None: 4 up to 48 pixels, 8 up to 96, 16 above.
        embed_dim: features of a token.
        num_layers: number of blocks.
        num_heads: attention heads, a divisor of `embed_dim`.
        in_channels: channels of the images.
        mlp_ratio: width of a block's hidden layer over `embed_dim`.
        positions: `"learned"`, or `"sincos"`: fixed, in two dimensions (as in MAE).
        pool: `forward` gives the `"mean"` of the patch tokens, or a `"class"` token, which only then exists.
        layer: what `forward` and `tokens` read: `"block1"` and so on, before the last norm; None is the output. All
            blocks are there in any case, and `final` runs through them.

    Attributes:
        grid: patches along one side.
        num_patches: grid * grid.
        final_dim: features of the output, whatever `layer` says.

    Raises:
        ArgumentError: patches that do not divide the image, heads that do not divide the features, unknown words.

    >>> encoder = ViT(32, embed_dim=24, num_layers=2, num_heads=3)
    >>> encoder(torch.rand(2, 3, 32, 32)).shape, encoder.tokens(torch.rand(2, 3, 32, 32)).shape
    (torch.Size([2, 24]), torch.Size([2, 64, 24]))
    """

    def __init__(
        self,
        image_size: int = 32,
        patch_size: int | None = None,
        embed_dim: int = 192,
        num_layers: int = 12,
        num_heads: int = 3,
        in_channels: int = 3,
        *,
        mlp_ratio: float = 4,
        positions: str = "learned",
        pool: str = "mean",
        layer: str | None = None,
    ) -> None:
        patch_size = default_patch_size(image_size) if patch_size is None else patch_size
        _check_patches(image_size, patch_size)
        expect("num_heads", num_heads, embed_dim % num_heads == 0, f"a divisor of embed_dim={embed_dim}")
        if positions not in ("learned", "sincos"):
            raise unknown("positions", positions, ("learned", "sincos"))
        if pool not in ("mean", "class"):
            raise unknown("pool", pool, ("mean", "class"))
        names = [f"block{i + 1}" for i in range(num_layers)]
        if layer is not None and layer not in names:
            raise unknown("layer", layer, names)
        size = {"embed_dim": embed_dim, "num_layers": num_layers, "num_heads": num_heads}
        config = {
            "name": next((name for name, known in SIZES.items() if known == size), "vit"),
            "image_size": image_size,
            "patch_size": patch_size,
            **size,
            "in_channels": in_channels,
            "mlp_ratio": mlp_ratio,
            "positions": positions,
            "pool": pool,
            "layer": layer,
        }
        super().__init__(dim=embed_dim, image_size=image_size, in_channels=in_channels, config=config)
        self.patch_size, self.grid, self.final_dim = patch_size, image_size // patch_size, embed_dim
        self.num_patches = self.grid**2
        self._read = None if layer is None else names.index(layer) + 1
        self.embed = nn.Linear(in_channels * patch_size**2, embed_dim)
        if positions == "learned":
            self.positions = nn.Parameter(torch.randn(self.num_patches, embed_dim) * 0.02)
        else:
            self.register_buffer("positions", sincos_positions(self.grid, self.grid, embed_dim), persistent=False)
        self.class_token = nn.Parameter(torch.randn(embed_dim) * 0.02) if pool == "class" else None
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        initialize_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the patch tokens, or the class token: (n, c, h, w) in [0, 1] -> (n, dim)."""
        return self._pool(self._encode(self._patches(x), self._read))

    def tokens(self, x: Tensor) -> Tensor:
        """The patch tokens, row by row: (n, c, h, w) -> (n, t, dim)."""
        return self._without_class(self._encode(self._patches(x), self._read))

    def final(self, x: Tensor) -> Tensor:
        """As `forward`, of the output whatever `layer` says: (n, final_dim). For losses on the whole network."""
        return self._pool(self._encode(self._patches(x), None))

    def forward_kept(self, x: Tensor, kept: Tensor) -> Tensor:
        """Tokens of the output for the kept patches alone, the others unseen (MAE, He et al., 2022).

        Args:
            x: images (n, c, h, w) in [0, 1].
            kept: int64 (n, k), numbers of patches, counted row by row.

        Returns:
            (n, k, dim) in the order of `kept`.
        """
        return self._without_class(self._encode(self._patches(x, kept), None))

    def _patches(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        height, width = x.shape[-2:]
        patches, positions = patchify(self.normalize(x), self.patch_size), self._positions_for(height, width)
        if kept is not None:
            positions = positions[kept]
            patches = patches.gather(1, kept[:, :, None].expand(-1, -1, patches.shape[2]))
        return self.embed(patches) + positions

    def _positions_for(self, height: int, width: int) -> Tensor:
        rows, columns = height // self.patch_size, width // self.patch_size
        if (rows, columns) == (self.grid, self.grid):
            return self.positions
        if self.config["positions"] == "sincos":
            return sincos_positions(rows, columns, self.dim).to(self.positions)
        grid = self.positions.T.reshape(1, self.dim, self.grid, self.grid)
        return F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)[0].flatten(1).T

    def _encode(self, tokens: Tensor, blocks: int | None) -> Tensor:
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], 1, -1), tokens], 1)
        for block in self.blocks[:blocks]:
            tokens = block(tokens)
        return self.norm(tokens) if blocks is None else tokens

    def _pool(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1) if self.class_token is None else tokens[:, 0]

    def _without_class(self, tokens: Tensor) -> Tensor:
        return tokens if self.class_token is None else tokens[:, 1:]


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """Images cut into patches, row by row: (n, c, h, w) -> (n, t, patch_size * patch_size * c), channels last.

    Raises:
        ArgumentError: the patch does not divide both sides.

    >>> patchify(torch.arange(16.0).view(1, 1, 4, 4), 2)[0, :2].tolist()
    [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    n, c, height, width = x.shape
    p = patch_size
    _check_patches(height, p)
    _check_patches(width, p)
    x = x.reshape(n, c, height // p, p, width // p, p).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(n, (height // p) * (width // p), p * p * c)


def unpatchify(patches: Tensor, patch_size: int, height: int, width: int) -> Tensor:
    """The inverse of `patchify`: (n, t, patch_size * patch_size * c) -> (n, c, height, width)."""
    n, p = patches.shape[0], patch_size
    x = patches.reshape(n, height // p, width // p, p, p, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, height, width)


def sincos_positions(rows: int, columns: int, dim: int) -> Tensor:
    """Fixed positions in two dimensions, (rows * columns, dim).

    Half the features tell the row and half the column, by sines and cosines of frequencies 10000^(-4i/dim) (Vaswani et
    al., 2017, section 3.5, once for each axis).

    Raises:
        ArgumentError: `dim` is not a multiple of 4.
    """
    expect("embed_dim", dim, dim % 4 == 0, "a multiple of 4 for sin-cos positions in two dimensions")
    frequencies = 10000 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = (torch.arange(n, dtype=torch.float64)[:, None] * frequencies for n in (rows, columns))
    row, column = row[:, None].expand(-1, columns, -1), column[None].expand(rows, -1, -1)
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], 2).flatten(0, 1).float()


def initialize_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in every linear layer, as ViT and MAE start."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def default_patch_size(image_size: int) -> int:
    """4 up to 48 pixels, 8 up to 96, 16 above: 36 to 256 patches for the usual sizes."""
    return 4 if image_size <= 48 else 8 if image_size <= 96 else 16


def _check_patches(image_size: int, patch_size: int) -> None:
    if patch_size < 1 or image_size % patch_size:
        fitting = [p for p in range(2, image_size // 2 + 1) if image_size % p == 0]
        nearest = max(patch_size, round(image_size / max(patch_size, 1)) * patch_size)
        raise ArgumentError(
            f"patch_size={patch_size}: expected a divisor of image_size={image_size}"
            + (f" ({', '.join(map(str, fitting))})" if fitting else "")
            + f"; or resize the images to {nearest}"
        )
