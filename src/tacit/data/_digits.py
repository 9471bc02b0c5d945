"""scikit-learn's handwritten digits, which come with it: real images without a network."""

from __future__ import annotations

import numpy as np

from tacit.data._drawn import Drawn

__all__ = ["load_digits"]


def load_digits() -> Drawn:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, in its order.

    They are the test part of Alpaydin and Kaynak's "Optical Recognition of Handwritten Digits" (UCI, 1998).

    Returns:
        images uint8 (1797, 1, 8, 8), 0 to 255 (the source counts ink from 0 to 16), and the label `digit`.

    >>> digits = load_digits()
    >>> digits.images.shape, digits.labels["digit"][:3]
    ((1797, 1, 8, 8), ['0', '1', '2'])
    """
    from sklearn import datasets

    source = datasets.load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]
    return Drawn(images, {"digit": [str(digit) for digit in source.target]})
