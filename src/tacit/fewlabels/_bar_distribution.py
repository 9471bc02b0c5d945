"""The Riemann distribution: a density over the reals made of bars, so that regression is classification."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect

HALF = math.sqrt(2) * 0.47693627620446987  # median of the half-normal distribution of scale 1


class BarDistribution(nn.Module):
    """Uniform within each of its bars, with half-normal tails in place of the first and the last (PFN, section 4).

        log q(y) = log softmax(logits)_b - log width_b                            for y in an inner bar b
                 = log softmax(logits)_b + log half-normal density                for y in the first or last bar,

    measured outwards from the bar's inner border; half of the tail's mass lies within the bar, so its scale is width_b
    over the half-normal's median. The density integrates to 1 over the reals and is above 0 everywhere.

    Args:
        borders: ascending, (n_bars + 1,), at least three bars. A buffer: `fit_borders` moves them.

    >>> bars = BarDistribution(torch.linspace(-3, 3, 7))
    >>> round(bars.mean(torch.zeros(1, 6)).item(), 4), round(bars.log_prob(torch.zeros(6), torch.tensor(0.5)).item(), 4)
    (0.0, -1.7918)
    """

    borders: Tensor

    def __init__(self, borders: Tensor) -> None:
        super().__init__()
        rises = borders.ndim == 1 and len(borders) >= 4 and bool((borders.diff() > 0).all())
        expect("borders", tuple(borders.shape), rises, "at least 4 ascending numbers")
        self.register_buffer("borders", borders.clone().float())

    @property
    def n_bars(self) -> int:
        return len(self.borders) - 1

    def fit_borders(self, y: Tensor) -> None:
        """Bars that hold equal shares of `y`, drawn from the prior."""
        borders = torch.quantile(y.flatten()[:1_000_000].double().cpu(), torch.linspace(0, 1, self.n_bars + 1).double())
        distinct = bool((borders.float().diff() > 0).all())
        expect(
            "y", len(y.flatten()), distinct, f"more than {self.n_bars} different values", "draw more, or lower n_bars"
        )
        self.borders.copy_(borders)

    def log_prob(self, logits: Tensor, y: Tensor) -> Tensor:
        """Log density of y: logits (..., n_bars), y (...) -> (...)."""
        bar = torch.searchsorted(self.borders[1:-1], y.contiguous(), right=True)
        mass = F.log_softmax(logits, -1).gather(-1, bar[..., None])[..., 0]
        inner = -self.borders.diff().log()[bar]
        left, right = self._scales()
        below = half_normal_log_prob(self.borders[1] - y, left)
        above = half_normal_log_prob(y - self.borders[-2], right)
        return mass + torch.where(bar == 0, below, torch.where(bar == self.n_bars - 1, above, inner))

    def mean(self, logits: Tensor) -> Tensor:
        """(..., n_bars) -> (...)."""
        return logits.softmax(-1) @ self._moments()[0]

    def std(self, logits: Tensor) -> Tensor:
        """Standard deviation: (..., n_bars) -> (...)."""
        mass, (first, second) = logits.softmax(-1), self._moments()
        return (mass @ second - (mass @ first).square()).clamp(min=0).sqrt()

    def cdf(self, logits: Tensor, y: Tensor) -> Tensor:
        """P(Y <= y): logits (..., n_bars), y (...) -> (...)."""
        bar = torch.searchsorted(self.borders[1:-1], y.contiguous(), right=True)
        mass = logits.softmax(-1)
        before = (mass.cumsum(-1) - mass).gather(-1, bar[..., None])[..., 0]
        left, right = self._scales()
        share = (y - self.borders[bar]) / self.borders.diff()[bar]
        share = torch.where(bar == 0, 1 - torch.erf((self.borders[1] - y) / (left * math.sqrt(2))), share)
        share = torch.where(bar == self.n_bars - 1, torch.erf((y - self.borders[-2]) / (right * math.sqrt(2))), share)
        return before + share * mass.gather(-1, bar[..., None])[..., 0]

    def quantile(self, logits: Tensor, level: float) -> Tensor:
        """The y below which a share `level` of the mass lies, in (0, 1): (..., n_bars) -> (...)."""
        expect("level", level, 0 < level < 1, "a share between 0 and 1")
        mass = logits.double().softmax(-1)
        total = mass.cumsum(-1)
        bar = (total[..., :-1] <= level).sum(-1, keepdim=True)
        inside = mass.gather(-1, bar)[..., 0]
        share = ((level - total.gather(-1, bar)[..., 0] + inside) / inside.clamp(min=1e-300)).clamp(1e-12, 1 - 1e-12)
        bar, borders = bar[..., 0], self.borders.double()
        left, right = self._scales()
        inner = borders[bar] + share * borders.diff()[bar]
        below = borders[1] - left * math.sqrt(2) * torch.erfinv(1 - share)
        above = borders[-2] + right * math.sqrt(2) * torch.erfinv(share)
        return torch.where(bar == 0, below, torch.where(bar == self.n_bars - 1, above, inner)).to(logits.dtype)

    def _scales(self) -> tuple[Tensor, Tensor]:
        widths = self.borders.diff()
        return widths[0] / HALF, widths[-1] / HALF

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and mean square within each bar, (n_bars,) each."""
        low, high = self.borders[:-1], self.borders[1:]
        first, second = (low + high) / 2, (low.square() + low * high + high.square()) / 3
        for bar, border, scale in ((0, self.borders[1], -self._scales()[0]), (-1, self.borders[-2], self._scales()[1])):
            tail = scale * math.sqrt(2 / math.pi)  # mean distance from the inner border, with its sign
            first[bar], second[bar] = border + tail, border.square() + 2 * border * tail + scale.square()
        return first, second


def half_normal_log_prob(y: Tensor, scale: Tensor) -> Tensor:
    """Log density of |N(0, scale^2)| at y; where y < 0 the number is finite and means nothing."""
    return 0.5 * math.log(2 / math.pi) - scale.log() - (y / scale).square() / 2
