"""Linear degradations of images with their pseudo-inverses: what an inverse problem y = A x + n knows of A."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect

Factor = Callable[[Tensor], Tensor]
"""Singular values (k,), 0 for the null space -> factors (k,)."""


class LinearOperator(nn.Module):
    """y = A x on batches of images, with its pseudo-inverse A+ and its singular value decomposition A = U S V'.

    A subclass gives `forward` and `pinv`. If all non-zero singular values are equal, as for most degradations, it names
    them in `singular_value`, and V f(S) V' follows from the projection A+ A; else it overrides `spectral` too.

    Source: the operators of Kawar et al., "Denoising Diffusion Restoration Models", 2022, and of DDNM's appendix.

    >>> blocks = SuperResolution(2)
    >>> x = torch.rand(1, 3, 4, 4)
    >>> torch.allclose(blocks(blocks.pinv(blocks(x))), blocks(x))  # A A+ A = A
    True
    """

    singular_value: float = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """A x: images (n, c, h, w) -> measurements (n, ...)."""
        raise NotImplementedError

    def pinv(self, y: Tensor) -> Tensor:
        """A+ y: measurements (n, ...) -> images (n, c, h, w) without anything in the null space of A."""
        raise NotImplementedError

    def spectral(self, x: Tensor, factor: Factor) -> Tensor:
        """V factor(S) V' x: each singular direction of an image scaled by a function of its singular value.

        Args:
            x: (n, c, h, w).
            factor: singular values -> factors, of the same shape; the null space's value is 0.
        """
        seen = self.pinv(self(x))
        kept, lost = factor(x.new_tensor([self.singular_value, 0.0]))
        return lost * x + (kept - lost) * seen


class Inpainting(LinearOperator):
    """Pixels that are missing: A x = mask * x. Its own pseudo-inverse.

    Args:
        mask: (h, w), (1, h, w) or (c, h, w), of 1 (or True) for pixels that are known and 0 for those that are missing.

    Raises:
        ArgumentError: the mask holds other values, or is of another size than the images.

    >>> Inpainting(torch.tensor([[1.0, 0.0]]))(torch.ones(1, 1, 1, 2)).tolist()
    [[[[1.0, 0.0]]]]
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        mask = torch.as_tensor(mask).float()
        expect("mask", tuple(mask.shape), mask.ndim in (2, 3), "a mask (h, w) or (c, h, w)")
        known = bool(((mask == 0) | (mask == 1)).all())
        expect("mask", mask.unique().tolist()[:5], known, "zeros and ones, 1 where a pixel is known", "threshold it")
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(self.mask.shape[-2:])
        expect("x", tuple(x.shape), x.shape[-2:] == size, f"images of the mask's size {size}", "resize the mask")
        return x * self.mask

    def pinv(self, y: Tensor) -> Tensor:
        return self(y)


class SuperResolution(LinearOperator):
    """Means over blocks of `scale` x `scale` pixels; A+ repeats each pixel. All singular values are 1 / scale.

    Args:
        scale: side of a block, at least 1.

    Raises:
        ArgumentError: the images' sides are no multiples of `scale`.

    >>> SuperResolution(2)(torch.arange(4.0).reshape(1, 1, 2, 2)).item()
    1.5
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        expect("scale", scale, isinstance(scale, int) and scale >= 1, "a whole number, at least 1")
        self.scale, self.singular_value = scale, 1 / scale

    def forward(self, x: Tensor) -> Tensor:
        whole = x.shape[-1] % self.scale == 0 and x.shape[-2] % self.scale == 0
        fits = [k for k in range(2, min(x.shape[-2:]) + 1) if x.shape[-1] % k == 0 and x.shape[-2] % k == 0]
        remedy = f"scales that do: {', '.join(map(str, fits)) or 'none'}; or resize the images"
        expect("scale", self.scale, whole, f"a number that divides the images' {x.shape[-2]} x {x.shape[-1]}", remedy)
        return F.avg_pool2d(x, self.scale)

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)


class Colorization(LinearOperator):
    """The mean of the colours, (n, c, h, w) -> (n, 1, h, w); A+ repeats it. All singular values are 1 / sqrt(c).

    Args:
        channels: of the images, at least 2.

    Raises:
        ArgumentError: images of another number of channels.

    >>> Colorization()(torch.tensor([0.0, 0.3, 0.9]).reshape(1, 3, 1, 1)).item()
    0.4000000059604645
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        expect("channels", channels, channels >= 2, "at least 2: one channel holds no colour to restore")
        self.channels, self.singular_value = channels, channels**-0.5

    def forward(self, x: Tensor) -> Tensor:
        expect("x", tuple(x.shape), x.shape[1] == self.channels, f"images of {self.channels} channels")
        return x.mean(1, keepdim=True)

    def pinv(self, y: Tensor) -> Tensor:
        return y.expand(-1, self.channels, -1, -1)


class Deblurring(LinearOperator):
    """Blur by a kernel along the columns and the same along the rows: A x = H x H', with H = U S V' of size s x s.

    The singular values of A are the products s_i s_j. Those under `cutoff` times the largest are taken to be 0, in A as
    in A+, so that A A+ A = A holds and no noise is blown up more than 1 / cutoff times; what the true blur left of
    these directions is at most that share of them, and counts as lost.

    Args:
        kernel: (k,), an odd number of weights, applied along both axes; `gaussian_kernel(1.5)` for a Gaussian blur.
        image_size: side s of the images, at least k // 2 + 1.
        cutoff: share of the largest singular value under which a direction is lost; DDNM's code takes 0.03 of each s_i.
        boundary: how the image goes on past its edge: `reflect`, `constant` (black) or `circular`.

    Raises:
        ArgumentError: an even kernel, one too wide for the images, or images of another size.

    >>> blur = Deblurring(gaussian_kernel(0.5), 8)
    >>> torch.allclose(blur(torch.ones(1, 1, 8, 8)), torch.ones(1, 1, 8, 8), atol=1e-5)
    True
    """

    u: Tensor
    v: Tensor
    values: Tensor

    def __init__(
        self, kernel: Tensor | Sequence[float], image_size: int, *, cutoff: float = 0.03, boundary: str = "reflect"
    ) -> None:
        super().__init__()
        weights = torch.as_tensor(kernel, dtype=torch.float64)
        odd = weights.ndim == 1 and len(weights) % 2 == 1
        expect(
            "kernel", tuple(weights.shape), odd, "an odd number of weights in a row", "it is applied along both axes"
        )
        half = len(weights) // 2
        expect("image_size", image_size, image_size > half, f"more than half the kernel's {len(weights)} weights")
        expect("cutoff", cutoff, 0 < cutoff < 1, "a share between 0 and 1")
        expect("boundary", boundary, boundary in ("reflect", "constant", "circular"), "reflect, constant or circular")
        pixels = torch.eye(image_size, dtype=torch.float64)[:, None]
        columns = F.conv1d(F.pad(pixels, (half, half), mode=boundary), weights.flip(0)[None, None])
        u, s, vt = torch.linalg.svd(columns[:, 0].T)
        values = s[:, None] * s
        values[values < cutoff * values.max()] = 0
        for name, value in (("u", u), ("v", vt.T), ("values", values)):
            self.register_buffer(name, value.float().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        size = len(self.u)
        expect("x", tuple(x.shape), tuple(x.shape[-2:]) == (size, size), f"images of {size} x {size} pixels")
        return self.u @ (self.values * (self.v.T @ x @ self.v)) @ self.u.T

    def pinv(self, y: Tensor) -> Tensor:
        inverse = torch.where(self.values > 0, 1 / self.values, 0)
        return self.v @ (inverse * (self.u.T @ y @ self.u)) @ self.v.T

    def spectral(self, x: Tensor, factor: Factor) -> Tensor:
        factors = factor(self.values.flatten()).reshape(self.values.shape)
        return self.v @ (factors * (self.v.T @ x @ self.v)) @ self.v.T


class RandomProjection(LinearOperator):
    """Compressed sensing: m = ratio * h * w random projections of each channel, A x = P H (signs * x), with A A' = I.

    H is the orthonormal Hartley transform (its own inverse, by FFT, for any size), P keeps m of its coefficients at
    random; DDNM takes a Walsh-Hadamard transform of shuffled pixels, which needs a power of two.

    Args:
        ratio: share of measurements, above 0 and at most 1.
        image_size: side of the images in pixels.
        seed: of signs and coefficients.

    Raises:
        ArgumentError: a ratio out of range, or images of another size.

    >>> RandomProjection(0.25, 6)(torch.rand(2, 1, 6, 6)).shape
    torch.Size([2, 1, 9])
    """

    signs: Tensor
    kept: Tensor

    def __init__(self, ratio: float, image_size: int, *, seed: int = 0) -> None:
        super().__init__()
        expect("ratio", ratio, 0 < ratio <= 1, "a share above 0 and at most 1")
        pixels, chance = image_size**2, torch.Generator().manual_seed(seed)
        self.image_size = image_size
        self.register_buffer("signs", torch.randint(2, (pixels,), generator=chance) * 2.0 - 1)
        self.register_buffer("kept", torch.randperm(pixels, generator=chance)[: max(1, round(ratio * pixels))])

    def forward(self, x: Tensor) -> Tensor:
        size = self.image_size
        expect("x", tuple(x.shape), tuple(x.shape[-2:]) == (size, size), f"images of {size} x {size} pixels")
        return _hartley(x.flatten(-2) * self.signs)[..., self.kept]

    def pinv(self, y: Tensor) -> Tensor:
        whole = y.new_zeros(*y.shape[:-1], len(self.signs)).index_copy_(-1, self.kept, y)
        return (_hartley(whole) * self.signs).unflatten(-1, (self.image_size, self.image_size))


def gaussian_kernel(sigma: float) -> Tensor:
    """Weights (k,) of a Gaussian of this many pixels' standard deviation, cut at three of them, with sum 1.

    >>> [round(weight, 3) for weight in gaussian_kernel(0.5).tolist()]
    [0.0, 0.106, 0.787, 0.106, 0.0]
    """
    expect("sigma", sigma, sigma > 0, "a number of pixels above 0")
    half = max(1, int(3 * sigma + 0.5))
    weights = torch.exp(-0.5 * (torch.arange(-half, half + 1) / sigma) ** 2)
    return weights / weights.sum()


def _hartley(x: Tensor) -> Tensor:
    """Orthonormal Hartley transform of the last axis: sum over k of x_k (cos + sin)(2 pi j k / d) / sqrt(d)."""
    spectrum = torch.fft.fft(x.float(), norm="ortho")
    return spectrum.real - spectrum.imag
