"""Centering: what keeps a teacher that nobody labels from giving one answer to everything (DINO)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn._distributed import gather


class Centering(nn.Module):
    """A teacher's logits made into distributions: centred by a running mean, sharpened by a low temperature.

        P = softmax((logits - center) / temperature)                                             (eq. 1 and section 3.1)
        center <- momentum * center + (1 - momentum) * mean of the batch's logits                                (eq. 4)

    (Caron et al., 2021, arXiv:2104.14294). Centring alone pulls towards the uniform distribution, sharpening alone
    towards a single prototype; together they avoid both collapses. `push` comes after the step, as a queue's does. Over
    several processes the mean is that of all their rows, however many each brings.

    Args:
        dim: number of logits.
        momentum: share of the centre that stays, in [0, 1).

    Attributes:
        center: (dim,), 0 at the start.

    Raises:
        ArgumentError: dim below 1, momentum outside [0, 1), or in `forward` a temperature not above 0.

    >>> centering = Centering(2, momentum=0.9)
    >>> logits = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> centering.push(logits)
    >>> centering.center, centering(logits, temperature=1.0)[0]
    (tensor([0.2000, 0.0000]), tensor([0.6900, 0.3100]))
    """

    center: Tensor

    def __init__(self, dim: int, momentum: float = 0.9) -> None:
        super().__init__()
        expect("dim", dim, dim >= 1, "a number of logits, at least 1")
        expect("momentum", momentum, 0 <= momentum < 1, "a share in [0, 1)")
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(dim))

    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Logits (..., dim) -> distributions (..., dim), in float32 or float64."""
        expect("temperature", temperature, temperature > 0, "a number above 0")
        return ((logits.to(torch.promote_types(logits.dtype, torch.float32)) - self.center) / temperature).softmax(-1)

    @torch.no_grad()
    def push(self, logits: Tensor) -> None:
        """Move the centre towards the mean of logits (..., dim); no row leaves it where it is.

        `center` becomes a new tensor: a loss that has read the old one can still run backward.
        """
        rows = logits.detach().reshape(-1, len(self.center)).to(self.center)
        sums = gather(torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])[None]).sum(0)
        mean = torch.where(sums[-1] > 0, sums[:-1] / sums[-1].clamp_min(1), self.center)
        self.center = torch.lerp(mean, self.center, self.momentum)


def rising(progress: float, start: float, end: float, share: float) -> float:
    """A setting that goes from `start` to `end` on a line over the first `share` of the training, and then stays.

    DINO's teacher warms up so from temperature 0.04 to 0.07 (section 5.4 and appendix D).

    Args:
        progress: share of the training done, in [0, 1].
        share: 0 is `end` from the beginning.

    >>> [round(rising(progress, 0.04, 0.07, share=0.3), 3) for progress in (0.0, 0.15, 0.3, 1.0)]
    [0.04, 0.055, 0.07, 0.07]
    """
    expect("share", share, 0 <= share <= 1, "a share of the training, in [0, 1]")
    return end if progress >= share else start + (end - start) * progress / share
