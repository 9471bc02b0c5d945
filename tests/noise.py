"""Pictures of noise, for tests of what becomes of files and not of what is on them."""

from pathlib import Path

import numpy as np
from PIL import Image


def noise_pictures(folder: Path, numbers, seed: int = 0) -> Path:
    """NUMBER.png for each number, all of them different; the folder."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        picture = np.random.default_rng((seed, number)).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder
