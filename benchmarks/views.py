"""Batched two-crop views against per-image ones with Pillow in two DataLoader workers: images/s, and their ratio.

    python benchmarks/views.py [--sizes 32 96] [--repeats 5] [--json FILE]

Both make SimCLR's two views of uint8 images (crop, flip, jitter 0.8, grey 0.2, blur 0.5 above 32 pixels) with the same
probabilities and ranges, and end with float batches of 256 in [0, 1]. Ours runs in this process, on as many threads as
Pillow has workers. It needs a quiet machine: threads wait for each other where worker processes do not.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tacit.views import two_crops

TARGETS = {32: 4.0, 96: 1.5}
"""The least ratio that issue 2 asks for, by image size."""


class PillowViews(Dataset):
    """The per-image pipeline: item -> two views, uint8 (h, w, 3)."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.size = images.shape[1]
        self.strength, self.blur = (0.5, 0.0) if self.size <= 32 else (1.0, 0.5)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        image = Image.fromarray(self.images[i])
        return self._view(image), self._view(image)

    def _view(self, image: Image.Image) -> np.ndarray:
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=self._box())
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if random.random() < 0.8:
            image = self._jitter(image)
        if random.random() < 0.2:
            image = image.convert("L").convert("RGB")
        if random.random() < self.blur:
            image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2)))
        return np.array(image)

    def _box(self) -> tuple[float, float, float, float]:
        for _ in range(10):
            area = self.size**2 * random.uniform(0.08, 1)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if width <= self.size and height <= self.size:
                left, top = random.uniform(0, self.size - width), random.uniform(0, self.size - height)
                return left, top, left + width, top + height
        return 0, 0, self.size, self.size

    def _jitter(self, image: Image.Image) -> Image.Image:
        steps = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, self._hue]
        random.shuffle(steps)
        for step in steps:
            if step == self._hue:
                image = self._hue(image)
            else:
                v = 0.8 * self.strength
                image = step(image).enhance(random.uniform(1 - v, 1 + v))
        return image

    def _hue(self, image: Image.Image) -> Image.Image:
        turn = random.uniform(-0.2, 0.2) * self.strength
        hue, saturation, value = image.convert("HSV").split()
        hue = hue.point([(i + round(255 * turn)) % 256 for i in range(256)])
        return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def pillow(images: Tensor, batch_size: int, workers: int) -> Callable[[], None]:
    """One epoch of Pillow's views; its workers stay between epochs."""
    dataset = PillowViews(images.permute(0, 2, 3, 1).contiguous().numpy())
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=True)

    def epoch() -> None:
        for views in loader:
            for view in views:
                view.permute(0, 3, 1, 2) / 255

    return epoch


def tacit(images: Tensor, batch_size: int) -> Callable[[], None]:
    """One epoch of our views."""
    views = two_crops(images.shape[-1])

    def epoch() -> None:
        for index in torch.randperm(len(images)).split(batch_size):
            views(images[index])

    return epoch


def smooth_images(n: int, size: int) -> Tensor:
    """Random uint8 images (n, 3, size, size) with large and small structure."""
    coarse = torch.nn.functional.interpolate(torch.rand(n, 3, 8, 8), size=size, mode="bilinear")
    return (255 * (0.8 * coarse + 0.2 * torch.rand(n, 3, size, size))).byte()


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(size: int, images: int, batch_size: int, workers: int, repeats: int) -> dict[str, object]:
    """Images/s of both and their ratio, the median over pairs of epochs that follow each other."""
    data = smooth_images(images, size)
    theirs, ours = pillow(data, batch_size, workers), tacit(data, batch_size)
    theirs(), ours()
    pairs = [(images / seconds(theirs), images / seconds(ours)) for _ in range(repeats)]
    ratios = [mine / other for other, mine in pairs]
    return {
        "size": size,
        "pillow": statistics.median(other for other, _ in pairs),
        "tacit": statistics.median(mine for _, mine in pairs),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "target": TARGETS.get(size),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 96], help="sides of the images in pixels")
    parser.add_argument("--images", type=int, default=2048, help="images in an epoch")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each, in turn")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of Pillow, threads of ours")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    torch.set_num_threads(options.workers)
    amounts = options.images, options.batch_size, options.workers, options.repeats
    rows = [compare(size, *amounts) for size in options.sizes]
    print(f"{'pixels':>6} {'Pillow images/s':>16} {'tacit images/s':>15} {'ratio':>6} {'from - to':>12} {'target':>7}")
    for row in rows:
        span = f"{min(row['ratios']):.1f} - {max(row['ratios']):.1f}"
        target = f"{row['target']:.1f}" if row["target"] else "-"
        rates = f"{row['pillow']:>16,.0f} {row['tacit']:>15,.0f} {row['ratio']:>6.2f}"
        print(f"{row['size']:>6} {rates} {span:>12} {target:>7}")
    if options.json:
        setting = {"batch_size": options.batch_size, "workers": options.workers, "torch": torch.__version__}
        options.json.write_text(json.dumps({"benchmark": "views", **setting, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
