"""Patch k-means: An Analysis of Single-Layer Networks in Unsupervised Feature Learning (Coates, Ng & Lee, 2011)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import checked
from tacit.data import Dataset
from tacit.errors import expect, unknown
from tacit.learner import Learner

MAX_SIDE = 32
"""Larger images are reduced to this side first, which bounds the time an image takes."""

MAX_PATCHES, MAX_IMAGES, BASIS_IMAGES, BASIS = 100_000, 20_000, 2_048, 1_024
CONTRAST_EPS = 10 / 255**2
"""The paper's 10 (section 4), for pixels in [0, 1]."""


def normalise_contrast(patches: Tensor, eps: float = CONTRAST_EPS) -> Tensor:
    """(..., d): each patch less its mean, over the root of its variance + eps (section 3.1.1)."""
    patches = patches - patches.mean(-1, keepdim=True)
    return patches * (patches.square().mean(-1, keepdim=True) + eps).rsqrt()


def zca(patches: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean (d,) and V (D + eps)^-1/2 V' (d, d) of patches (n, d) with covariance V D V' (section 3.1.2)."""
    values, vectors = torch.linalg.eigh(torch.atleast_2d(torch.cov(patches.double().T)))
    scale = (values.clamp_min(0) + max(eps, 1e-12)).rsqrt()
    return patches.mean(0), ((vectors * scale) @ vectors.T).float()


def kmeans(x: Tensor, centres: Tensor, *, steps: int = 15, spherical: bool = False) -> Tensor:
    """Lloyd's steps from `centres` (k, d); spherical ones keep length 1. A centre that nothing chose is drawn anew."""
    for _ in range(steps):
        offset = 0 if spherical else centres.square().sum(1) / 2
        nearest = torch.cat([(block @ centres.T - offset).argmax(1) for block in x.split(4096)])
        counts = torch.bincount(nearest, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        fresh = x[torch.randint(len(x), (len(centres),)).to(x.device)]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), fresh)
        centres = F.normalize(centres) if spherical else centres
    return centres


class PatchEncoder(nn.Module):
    """Patches -> whitened patches z -> activations of the atoms -> pooled over a grid -> projected.

    Args:
        dim: of the embedding.
        image_size, in_channels: of the images that `prepare` takes.
        patch_size: side, in pixels of the image reduced to `MAX_SIDE`; at most half of its side.
        pool: cells of the grid along each side.
        activation: `threshold`, max(0, z . c_k - 1), or the paper's `triangle`, max(0, mean(d) - d_k), d_k = |z - c_k|.
        power: to which the pooled activations (means over a cell; the paper's sums differ by a factor) are raised.
        fast: atoms meet patches in bfloat16, where the processor has it.
    """

    patch_mean: Tensor
    whitening: Tensor
    atoms: Tensor
    mean: Tensor
    directions: Tensor

    def __init__(
        self, dim: int, image_size: int, in_channels: int, patch_size: int, pool: int, activation: str, power: float,
        fast: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim, self.image_size, self.in_channels = dim, image_size, in_channels
        self.side = min(image_size, MAX_SIDE)
        self.patch_size = min(patch_size, max(1, self.side // 2))
        self.pool = min(pool, self.side - self.patch_size + 1)
        self.activation, self.power, self.fast = activation, power, fast
        for name in ("patch_mean", "whitening", "atoms", "mean", "directions"):
            self.register_buffer(name, torch.zeros(0))

    def prepare(self, items: Tensor) -> Tensor:
        from tacit.views import as_float

        return as_float(items, self.image_size)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in [0, 1] -> (n, dim)"""
        return (self.features(x) - self.mean) @ self.directions

    def patches(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> every patch, its contrast normalised: (n, positions, d)"""
        if x.shape[-1] != self.side:
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        return normalise_contrast(F.unfold(x, self.patch_size).transpose(1, 2))

    def features(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> pooled activations (n, atoms * pool^2), few images at a time to stay in the cache."""
        return torch.cat([self._pooled(few) for few in x.split(16)])

    def activations(self, patches: Tensor) -> Tensor:
        """(..., d) -> (..., atoms)"""
        if self.activation == "triangle":
            z = (patches - self.patch_mean) @ self.whitening
            squares = z.square().sum(-1, keepdim=True) + self.atoms.square().sum(1)
            distances = (squares - 2 * self._times(z, self.atoms.T)).clamp_min(0).sqrt()
            return (distances.mean(-1, keepdim=True) - distances).clamp_min(0)
        filters = self.whitening @ self.atoms.T  # whitening and atoms in one matrix product
        return self._times(patches, filters).sub_(self.patch_mean @ filters + 1).relu_()

    def _times(self, a: Tensor, b: Tensor) -> Tensor:
        fast = self.fast and (a.is_cuda or getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
        return (a.bfloat16() @ b.bfloat16()).float() if fast else a @ b

    def _pooled(self, x: Tensor) -> Tensor:
        grid = self.side - self.patch_size + 1
        maps = self.activations(self.patches(x)).transpose(1, 2).unflatten(2, (grid, grid))
        return F.adaptive_avg_pool2d(maps, self.pool).flatten(1) ** self.power


@system(
    "patch-kmeans",
    paper="Coates, Ng & Lee 2011 (AISTATS), An Analysis of Single-Layer Networks in Unsupervised Feature Learning",
    modality="image",
    level="baseline",
)
class PatchKMeans(Learner):
    """k-means on whitened patches; how strongly each atom answers in each part of the image, projected.

    An image larger than 32 pixels is reduced to 32 first; its time is then that of a small one. The paper's recipe is
    `activation="triangle", patch_size=6, pool=2, power=1.0, n_views=0, whiten=1.0`. What differs by default, each kept
    for its gain in k-NN / linear probe (points of accuracy on CIFAR-10, 400 atoms, one seed, 4,000 training and 2,000
    validation images drawn from the training set; a standard error is about 1.1):

        spherical k-means and a threshold in place of the triangle          50.1 / 57.5 -> 48.5 / 56.0
        ... then the pooled activations to the power 0.5 (0.4 by default)               -> 53.4 / 58.8
        ... whitening by half (whiten=0.5), then a random turn                          -> 57.6 / 60.6
        3 x 3 parts in place of 2 x 2                                                   -> 59.8 / 61.2
        patches of 8 pixels in place of 6                                               -> 62.5 / 62.8
        directions from 4 views of each image in place of variance                      -> 65.6 / 65.1

    With 10,000 training and 4,000 validation images: 68.9 / 66.7, against 54.8 / 60.9 of the paper's recipe projected
    alike. The half whitening counts for k-NN only because of the turn, where features are standardised first. Twice
    the atoms gave nothing that this noise would show, nor did a second patch size or scale beside the first.

    Args:
        image_size, in_channels: of the images.
        n_clusters: atoms.
        n_components: dimensions of the embedding.
        patch_size, pool, activation, power, fast: as in `PatchEncoder`. `triangle` goes with plain k-means, `threshold`
            with the spherical one.
        zca_eps: added to the variances of the patches, which have about variance 1.
        n_views: passes over views of the images, an even number; 0 takes principal components of the plain images.
        whiten: for n_views=0, component i is divided by its deviation to this power: 1 whitens, 0 does not.
        ridge: share of the mean variance within an image that is added in every direction.
        views: batch -> two batches of views; by default MoCo v2's with crops of at least half the area. Flips are
            among them: give `two_crops(..., flip=False)` for digits and letters.

    >>> images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    >>> learner = PatchKMeans(image_size=8, in_channels=1, n_clusters=10, n_components=4)
    >>> learner.before_fit(Dataset({"x": images}, modality="image"))
    >>> learner.encoder(learner.encoder.prepare(images)).shape
    torch.Size([20, 4])
    """

    settings: ClassVar = {"paper": {"n_clusters": 4000}, "small": {"n_clusters": 400}}
    sized_by: ClassVar = ("n_clusters", (400, 200, 100))

    def __init__(
        self,
        *,
        image_size: int = 32,
        in_channels: int = 3,
        n_clusters: int = 400,
        n_components: int = 256,
        patch_size: int = 8,
        pool: int = 3,
        activation: str = "threshold",
        power: float = 0.4,
        zca_eps: float = 0.1,
        n_views: int = 4,
        whiten: float = 0.5,
        ridge: float = 0.3,
        views: nn.Module | None = None,
        fast: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"n_clusters": n_clusters, "n_components": n_components, "patch_size": patch_size, "pool": pool}
        for name, value in sizes.items():
            expect(name, value, value >= 1, "at least 1")
        if activation not in ("threshold", "triangle"):
            raise unknown("activation", activation, ("threshold", "triangle"))
        expect("n_views", n_views, n_views >= 0 and n_views % 2 == 0, "0 or an even number")
        expect("n_components", n_components, n_components <= BASIS, f"at most {BASIS}")
        self.encoder = PatchEncoder(
            n_components, image_size, in_channels, patch_size, pool, activation, power, fast
        )  # fmt: skip
        self.n_clusters, self.zca_eps, self.n_views = n_clusters, zca_eps, n_views
        self.whiten, self.ridge = whiten, ridge
        self.views = _default_views(self.encoder) if views is None else views

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> tuple[()]:
        return ()

    def before_fit(self, data: Dataset) -> None:
        self._fit_atoms(data)
        self._fit_directions(data)

    def _fit_atoms(self, data: Dataset) -> None:
        encoder, spherical = self.encoder, self.encoder.activation == "threshold"
        patches = self._sample_patches(data)
        encoder.patch_mean, encoder.whitening = zca(patches, self.zca_eps)
        z = (patches - encoder.patch_mean) @ encoder.whitening
        start = z[torch.randperm(len(z))[: self.n_clusters]]
        encoder.atoms = kmeans(z, F.normalize(start) if spherical else start, spherical=spherical)

    def _sample_patches(self, data: Dataset) -> Tensor:
        """Patches (m, d) from random images, as many of each: at most MAX_PATCHES, and 20 for each atom at least."""
        images = torch.randperm(len(data))[:MAX_IMAGES]
        wanted = max(min(20 * len(images), MAX_PATCHES), 20 * self.n_clusters)
        each = -(-wanted // len(images))
        found = None  # one array for all: many small ones would leave the heap in pieces
        for start, few in zip(range(0, len(images), 64), images.split(64), strict=True):
            patches = self.encoder.patches(self._read(data, few))
            at = torch.randint(patches.shape[1], (len(few), each), device=patches.device)
            if found is None:
                found = patches.new_empty(len(images), each, patches.shape[2])
            found[start : start + len(few)] = patches.gather(1, at[:, :, None].expand(-1, -1, patches.shape[2]))
        assert found is not None
        return found.flatten(0, 1)

    def _read(self, data: Dataset, indices: Tensor) -> Tensor:
        return self.encoder.prepare(data["x"][indices].to(self.encoder.mean.device))

    def _fit_directions(self, data: Dataset) -> None:
        """Principal components of a sample, and within them the directions in which views of one image agree."""
        encoder = self.encoder
        sample = data.select(torch.randperm(len(data))[: 2 * BASIS_IMAGES if self.n_views == 0 else BASIS_IMAGES])
        drawn = [view for x in sample.chunks("x", 256) for view in self._views_of(x)]
        encoder.mean, basis, deviations = _principal(torch.cat(drawn), BASIS if self.n_views else encoder.dim)
        if self.n_views:
            within, between = self._covariances(data, basis)
            directions = basis @ _agreeing(within, between, self.ridge, encoder.dim)
        else:
            kept = deviations > 1e-4 * deviations[0]
            directions = basis * torch.where(kept, deviations.clamp_min(1e-12) ** -self.whiten, 0)
        encoder.directions = _turned(directions, encoder.dim)

    def _views_of(self, x: Tensor) -> list[Tensor]:
        """Features of two views, or of the plain images where there are no views."""
        x = x.to(self.encoder.mean.device)
        images = self.views(x) if self.n_views else [self.encoder.prepare(x)]
        return [self.encoder.features(view) for view in images]

    def _covariances(self, data: Dataset, basis: Tensor) -> tuple[Tensor, Tensor]:
        """Of an image's views about their mean, and of the images' true means: (r, r) each, in one pass."""
        few = data if len(data) <= MAX_IMAGES else data.select(torch.randperm(len(data))[:MAX_IMAGES])
        few.on_chunk = data.on_chunk
        n = len(few)
        within = means = torch.zeros(basis.shape[1], basis.shape[1], dtype=torch.double, device=basis.device)
        for x in few.chunks("x", 256):
            drawn = [self._views_of(x) for _ in range(self.n_views // 2)]
            z = torch.stack([(view - self.encoder.mean) @ basis for pair in drawn for view in pair]).double()
            mean = z.mean(0)
            within = within + torch.einsum("vni,vnj->ij", z - mean, z - mean) / (n * (self.n_views - 1))
            means = means + mean.T @ mean / n
        return within, means - within / self.n_views


def _default_views(encoder: PatchEncoder) -> nn.Module:
    from tacit.views import two_crops

    return two_crops(encoder.side, channels=encoder.in_channels, preset="moco-v2", scale=(0.5, 1.0))


def _principal(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (d,), the k leading directions (d, k), and the deviations along them."""
    mean = x.mean(0)
    k = min(k, *x.shape)
    _, values, vectors = torch.svd_lowrank(x - mean, q=min(k + 64, *x.shape), niter=3)
    return mean, vectors[:, :k], values[:k] / max(len(x) - 1, 1) ** 0.5


def _agreeing(within: Tensor, between: Tensor, ridge: float, k: int) -> Tensor:
    """Directions (r, k) with the most variance between images for one unit of variance within (+ ridge) an image."""
    eye = torch.eye(len(within), dtype=within.dtype, device=within.device)
    floor = ridge * within.diagonal().mean() + 1e-9
    root = torch.linalg.inv(torch.linalg.cholesky(within + floor * eye))
    values, vectors = torch.linalg.eigh(root @ between @ root.T)
    values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]
    return (root.T @ vectors * (values > 1e-6 * values[0].clamp_min(0))).float()


def _turned(directions: Tensor, dim: int) -> Tensor:
    """(d, r) -> (d, dim): turned at random, so that every coordinate holds as much variance.

    Distances stay what they are, also for those who standardise each coordinate first (as k-NN evaluation does).
    """
    turn = torch.linalg.qr(torch.randn(dim, dim))[0].to(directions.device)
    return directions @ turn[: directions.shape[1]]


@checked("whitened patches have the identity as covariance", tolerance=1e-4)
def whitening_error() -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(2000, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    mean, whitening = zca(patches, eps=0.0)
    covariance = torch.cov(((patches - mean) @ whitening).T.double())
    return (covariance - torch.eye(8)).abs().max().item(), 0.0
