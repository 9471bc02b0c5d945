"""Views of time series (n, channels, time), NaN where there is no value; and masks of spans of steps.

Sizes are in deviations of a channel over the batch, so that a series is taken in whatever unit it has.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tacit.errors import expect
from tacit.views._presets import TwoViews


def span_mask(shape: tuple[int, ...], ratio: float = 0.15, mean_span: float = 3.0, device: object = None) -> Tensor:
    """Runs of masked and of kept steps whose lengths are geometric, along the last dimension (TST, section 3.2).

    A chain of two states, masked and kept, that leaves them with probability

        p_masked = 1 / mean_span        p_kept = p_masked ratio / (1 - ratio)

    and starts in its stationary distribution, so that each step is masked with probability `ratio`. It is drawn without
    a loop: with probability p_masked + p_kept a step forgets the one before and is masked with probability `ratio`.

    Args:
        shape: of the mask; rows are independent.
        ratio: share masked, in (0, 1).
        mean_span: mean length of a masked run, in steps; at least 1 / (1 - ratio), where steps are independent.

    Returns:
        bool, True where masked.

    Raises:
        ArgumentError: a value out of range.

    >>> span_mask((2, 3, 50)).shape
    torch.Size([2, 3, 50])
    """
    _check_spans(ratio, mean_span)
    steps = torch.arange(shape[-1], device=device)  # type: ignore[call-overload]
    fresh = torch.rand(shape, device=steps.device) < 1 / (mean_span * (1 - ratio))
    drawn = torch.rand(shape, device=steps.device) < ratio
    last = torch.where(fresh, steps, 0).cummax(dim=-1).values
    return drawn.gather(-1, last)


def _check_spans(ratio: float, mean_span: float) -> None:
    expect("ratio", ratio, 0 < ratio < 1, "a share between 0 and 1")
    least = 1 / (1 - ratio)
    expect("mean_span", mean_span, mean_span >= least, f"at least {least:.3g} steps at ratio={ratio}")


class SpanMask(nn.Module):
    """Hides spans of each channel by itself: their values become NaN. See `span_mask`.

    Args:
        ratio: share of the values hidden.
        mean_span: mean length of a span, in steps.
        together: the same spans of all channels, as steps that are missing (a time mask).

    >>> float(SpanMask(0.5)(torch.zeros(64, 2, 100)).isnan().float().mean().round(decimals=1))
    0.5
    """

    def __init__(self, ratio: float = 0.15, mean_span: float = 3.0, *, together: bool = False) -> None:
        super().__init__()
        _check_spans(ratio, mean_span)
        self.ratio, self.mean_span, self.together = ratio, mean_span, together

    def mask(self, x: Tensor) -> Tensor:
        """What is hidden of x: bool (n, channels, time), False where there is no value anyway."""
        n, channels, time = x.shape
        drawn = span_mask((n, 1 if self.together else channels, time), self.ratio, self.mean_span, x.device)
        return drawn & ~x.isnan()

    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(self.mask(x), torch.nan)


class Jitter(nn.Module):
    """Adds normal noise to each value.

    Args:
        std: of the noise, in deviations of the channel over the batch; at least 0.

    >>> Jitter(0.1)(torch.randn(4, 2, 50)).shape
    torch.Size([4, 2, 50])
    """

    def __init__(self, std: float = 0.1) -> None:
        super().__init__()
        expect("std", std, std >= 0, "at least 0")
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * _moments(x)[1] * torch.randn_like(x)


class Scaling(nn.Module):
    """Multiplies each channel of a series, as its distance from the channel's mean over the batch, by N(1, std^2).

    Args:
        std: of the factor, at least 0.

    >>> Scaling(0.2)(torch.randn(4, 2, 50)).shape
    torch.Size([4, 2, 50])
    """

    def __init__(self, std: float = 0.2) -> None:
        super().__init__()
        expect("std", std, std >= 0, "at least 0")
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        mean, _ = _moments(x)
        factor = 1 + self.std * torch.randn(*x.shape[:2], 1, device=x.device, dtype=x.dtype)
        return mean + factor * (x - mean)


class SeriesCrop(nn.Module):
    """A random window of each series, moved to the start; NaN follows.

    Args:
        scale: least and largest share of the series' own length that is kept, in (0, 1]; at least one step is.

    >>> x = torch.arange(10.0).view(1, 1, 10)
    >>> int((~SeriesCrop((0.5, 0.5))(x).isnan()).sum())
    5
    """

    def __init__(self, scale: tuple[float, float] = (0.5, 1.0)) -> None:
        super().__init__()
        low, high = scale
        expect("scale", scale, 0 < low <= high <= 1, "two shares of the length in (0, 1], the smaller first")
        self.scale = (low, high)

    def forward(self, x: Tensor) -> Tensor:
        n, _, time = x.shape
        low, high = self.scale
        steps = torch.arange(time, device=x.device)
        length = ((~x.isnan().all(dim=1)) * (steps + 1)).amax(dim=1)  # up to the last step that has a value
        kept = (length * (low + (high - low) * torch.rand(n, device=x.device))).round().clamp(min=1)
        start = ((length - kept + 1).clamp(min=1) * torch.rand(n, device=x.device)).floor().long()
        moved = (start[:, None] + steps).clamp(max=time - 1)
        window = x.gather(2, moved[:, None].expand_as(x))
        return window.masked_fill((steps >= kept[:, None])[:, None], torch.nan)


def two_series_views(
    *, crop: tuple[float, float] = (0.5, 1.0), scaling: float = 0.2, jitter: float = 0.1, masked: float = 0.0
) -> TwoViews:
    """Two views of each series for contrastive learners: a window, scaled, with noise, and perhaps spans missing.

    The changes are those of Um et al. (2017, arXiv:1706.00527); none turns a series upside down or
    back in time, which would change what most series mean.

    Args:
        crop: shares of the length that a window keeps.
        scaling: deviation of the factor of a channel.
        jitter: deviation of the noise, in deviations of the channel.
        masked: share of the values that go missing in spans of 3 steps, per channel; 0 for none.

    Returns:
        A module: float (n, channels, time) with NaN -> two such batches.

    Raises:
        ArgumentError: a value out of range.

    >>> from tacit.nn import SeriesCNN
    >>> from tacit.pretrain import SimCLR
    >>> learner = SimCLR(SeriesCNN(2, length=30, embed_dim=8), views=two_series_views(), hidden_dim=16)
    >>> bool(learner.loss(torch.randn(4, 2, 30)) > 0)
    True
    """
    hide = [SpanMask(masked)] if masked else []
    views = [nn.Sequential(SeriesCrop(crop), Scaling(scaling), Jitter(jitter), *hide) for _ in range(2)]
    return TwoViews(*views)  # type: ignore[arg-type]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel over what there is in the batch, (channels, 1) each."""
    there = ~x.isnan()
    count = there.sum(dim=(0, 2)).clamp(min=1)[:, None]
    mean = x.nan_to_num(nan=0.0).sum(dim=(0, 2))[:, None] / count
    square = ((x - mean) ** 2).nan_to_num(nan=0.0).sum(dim=(0, 2))[:, None] / count
    return mean, square.sqrt()
