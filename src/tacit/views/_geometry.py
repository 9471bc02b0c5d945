"""Views that move pixels: crop, flip, blur, rotation; and the deterministic ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tacit.errors import expect
from tacit.views._ops import Blur, Turn
from tacit.views._pending import Pending
from tacit.views._view import View

_ATTEMPTS = 10
"""How many boxes are drawn until one lies inside the image, as in torchvision."""


class RandomResizedCrop(View):
    """A random part of each image, resized to size x size (Szegedy et al., 2015, arXiv:1409.4842, section 6).

    The area is uniform in `scale` as a share of the image's, the logarithm of width / height uniform between those of
    `ratio`; of ten such boxes the first that fits into the image is taken, else the largest in its middle with a
    ratio in range. The position is uniform. Resizing is antialiased and bilinear as in Pillow's `resize(box=...)`.
    Differs from torchvision: boxes are not rounded to whole pixels, and interpolation at their border sees the pixels
    just outside.

    Args:
        size: pixels of a side, at least 1; may exceed the image's.
        scale: smallest and largest share of the area, 0 < low <= high <= 1.
        ratio: smallest and largest width / height, 0 < low <= high.

    Raises:
        ArgumentError: a size or range that is not as above.

    >>> RandomResizedCrop(32, scale=(0.2, 1))(torch.rand(4, 3, 48, 64)).shape
    torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self, size: int, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ) -> None:
        super().__init__()
        expect("size", size, size >= 1, "at least one pixel")
        expect("scale", scale, 0 < scale[0] <= scale[1] <= 1, "0 < low <= high <= 1, shares of the image's area")
        expect("ratio", ratio, 0 < ratio[0] <= ratio[1], "0 < low <= high, width / height")
        self.size, self.scale, self.ratio = size, scale, ratio

    def sample(self, b: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
        """Draw b boxes in an image of height x width: (b, 4) top, left, bottom, right, in pixels."""
        area = torch.empty(b, _ATTEMPTS, device=device).uniform_(*self.scale) * (height * width)
        ratio = torch.empty(b, _ATTEMPTS, device=device).uniform_(*map(math.log, self.ratio)).exp()
        position = torch.rand(b, 2, device=device)
        sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=2)
        whole = sides.new_tensor([height, width])
        fits = (sides <= whole).all(2)
        first = fits.int().argmax(1)
        found = fits.any(1, keepdim=True)
        side = torch.where(found, sides[torch.arange(b, device=device), first], self._largest(whole))
        corner = torch.where(found, position, 0.5) * (whole - side)
        return torch.cat([corner, torch.minimum(corner + side, whole)], dim=1)

    def plan(self, pending: Pending) -> Pending:
        box = self.sample(len(pending.x), *pending.size, device=pending.x.device)
        return pending.crop(box, self.size)

    def _largest(self, whole: Tensor) -> Tensor:
        """(height, width) of the largest box with a ratio in range, whatever its area."""
        height, width = whole
        ratio = (width / height).clamp(*self.ratio)
        return torch.stack([torch.minimum(height, width / ratio), torch.minimum(width, height * ratio)])

    def extra_repr(self) -> str:
        return f"{self.size}, scale={self.scale}, ratio={self.ratio}"


class RandomHorizontalFlip(View):
    """Left to right with probability p.

    >>> RandomHorizontalFlip(p=1.0)(torch.tensor([[[[0.0, 0.25, 1.0]]]]))
    tensor([[[[1.0000, 0.2500, 0.0000]]]])
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = probability(p)

    def plan(self, pending: Pending) -> Pending:
        return pending.mirror(pending.happens(self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class GaussianBlur(View):
    """Gaussian blur with probability p, its deviation uniform in `sigma` (SimCLR, appendix A); the border is mirrored.

    Args:
        sigma: smallest and largest standard deviation in pixels, 0 < low <= high.
        kernel_size: odd number of pixels at which the kernel is cut; the papers take a tenth of the image's side. None:
            4 sigma to each side, so that the cut does not show.

    >>> GaussianBlur(sigma=(1, 1), p=1.0, kernel_size=3)(torch.eye(3)[None, None])
    tensor([[[[0.5046, 0.3715, 0.3005],
              [0.3715, 0.3544, 0.3715],
              [0.3005, 0.3715, 0.5046]]]])
    """

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5, kernel_size: int | None = None) -> None:
        super().__init__()
        expect("sigma", sigma, 0 < sigma[0] <= sigma[1], "0 < low <= high, in pixels")
        odd = kernel_size is None or (kernel_size >= 1 and kernel_size % 2 == 1)
        expect("kernel_size", kernel_size, odd, "an odd number of pixels, or None")
        self.sigma, self.p, self.kernel_size = sigma, probability(p), kernel_size

    def plan(self, pending: Pending) -> Pending:
        radius = math.ceil(4 * self.sigma[1]) if self.kernel_size is None else self.kernel_size // 2
        sigma = torch.where(pending.happens(self.p), pending.uniform(*self.sigma), 0.0)
        return pending.add(Blur(sigma, radius))

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}, p={self.p}, kernel_size={self.kernel_size}"


class RandomRotation(View):
    """Rotation about the centre by an angle uniform in [-degrees, degrees], bilinear; black comes in from outside.

    The box that `with_box` tells is that of the view before it is turned.

    >>> RandomRotation(degrees=10)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(self, degrees: float, p: float = 1.0) -> None:
        super().__init__()
        expect("degrees", degrees, 0 <= degrees <= 180, "an angle in [0, 180]")
        self.degrees, self.p = degrees, probability(p)

    def plan(self, pending: Pending) -> Pending:
        return pending.add(
            Turn(torch.where(pending.happens(self.p), pending.uniform(-self.degrees, self.degrees), 0.0))
        )

    def extra_repr(self) -> str:
        return f"{self.degrees}, p={self.p}"


def rotate(x: Tensor, quarter_turns: int | Tensor) -> Tensor:
    """Images turned counter-clockwise by multiples of 90 degrees, exactly (RotNet, arXiv:1803.07728, section 3.1).

    Args:
        x: (b, c, h, w) of any dtype; h == w where `quarter_turns` is a tensor.
        quarter_turns: one number for all, or integers (b,), one for each image; taken modulo 4.

    Returns:
        x turned, of the same dtype; (b, c, w, h) after an odd number.

    Raises:
        ArgumentError: quarter_turns is neither an int nor an integer tensor (b,), or the images are not square.

    >>> rotate(torch.tensor([[[[1, 2], [3, 4]]]]), 1)
    tensor([[[[2, 4],
              [1, 3]]]])
    """
    if isinstance(quarter_turns, int):
        return torch.rot90(x, quarter_turns, (2, 3))
    (b, c, h, w), k = x.shape, quarter_turns
    expect("x.shape", tuple(x.shape), h == w, "square images (b, c, s, s)", "or one number of turns for all")
    fits = k.shape == (b,) and k.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    expect("quarter_turns", f"{k.dtype} {tuple(k.shape)}", fits, f"an int, or an integer tensor ({b},)")
    place = torch.arange(h * w, device=x.device).view(h, w)
    turned = torch.stack([torch.rot90(place, turns).flatten() for turns in range(4)])
    source = turned[k.to(x.device).long() % 4]
    return x.flatten(2).gather(2, source[:, None].expand(-1, c, -1)).view(x.shape)


def resized_crop(x: Tensor, box: Tensor, size: int) -> Tensor:
    """The part of each image in its box, resized to size x size as `RandomResizedCrop` does; nothing random.

    Args:
        x: uint8 (b, c, h, w), or float in [0, 1].
        box: (b, 4) top, left, bottom, right in pixels, inside the image; left > right mirrors.

    Returns:
        float32 (b, c, size, size) in [0, 1].

    Raises:
        ArgumentError: size is below 1, or box is not (b, 4).

    >>> resized_crop(torch.eye(4)[None, None], torch.tensor([[0, 0, 2, 2]]), size=2)
    tensor([[[[1., 0.],
              [0., 1.]]]])
    """
    pending = Pending.of(x)
    expect("size", size, size >= 1, "at least one pixel")
    expect("box.shape", tuple(box.shape), box.shape == (len(x), 4), f"({len(x)}, 4)", "one box for each image")
    return pending.crop(box.float(), size).image()


def center(x: Tensor, size: int) -> Tensor:
    """The largest square in the middle of each image, resized to size x size; nothing random.

    Args and errors as `resized_crop`.

    >>> center(torch.rand(2, 3, 40, 64), 32).shape
    torch.Size([2, 3, 32, 32])
    """
    height, width = Pending.of(x).size
    if height == width == size:
        return as_float(x)
    side = min(height, width)
    top, left = (height - side) / 2, (width - side) / 2
    box = torch.tensor([top, left, top + side, left + side], device=x.device)
    return resized_crop(x, box.expand(len(x), 4), size)


def as_float(x: Tensor, size: int | None = None) -> Tensor:
    """The plain image as float32 in [0, 1], as an encoder sees it without views; with `size`, `center(x, size)`.

    >>> as_float(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8))
    tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    return Pending.of(x).image() if size is None else center(x, size)


def probability(p: float) -> float:
    expect("p", p, 0 <= p <= 1, "a probability in [0, 1]")
    return p
