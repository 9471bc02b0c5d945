"""On the Parameterization and Initialization of Diagonal State Space Models (Gu et al., 2022): S4D."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tacit.errors import expect
from tacit.nn._text import BODIES, TEXT, Body


class DiagonalSSM(nn.Module):
    """A linear state-space model with a diagonal transition for each feature, run as one long convolution: S4D.

        x'(t) = A x(t) + B u(t),   y(t) = 2 Re(C x(t)) + D u(t)                                        (eqs. 1, 4)
        x_l = exp(dt A) x_{l-1} + (exp(dt A) - 1) / A * B u_l    (zero-order hold)                     (eq. 2)
        y = K * u + D u,   K_l = 2 Re( sum over n of  C_n (exp(dt A_n) - 1) / A_n * exp(l dt A_n) )    (eqs. 3, 5)

    with B = 1 and one of each conjugate pair of states kept. The convolution is exact, through an FFT of twice the
    length, in O(t log t); the kernel takes dim * state_dim / 2 * t complex numbers for a while. At the start
    A_n = -1/2 + i pi n (S4D-Lin), dt is log-uniform, C complex normal. The real part of A stays below 0.

    Args:
        dim: features, each with its own model.
        state_dim: N, even.
        bidirectional: a second kernel reads from the end, and both are added; else the output at t reads u up to t.
        dt_min, dt_max: range of the step at the start: how far the models look, from 1 / dt_max to 1 / dt_min steps.

    Raises:
        ArgumentError: an odd state_dim, or a number out of range.

    >>> layer = DiagonalSSM(8, state_dim=4)
    >>> layer(torch.randn(2, 20, 8)).shape
    torch.Size([2, 20, 8])
    """

    def __init__(
        self,
        dim: int,
        *,
        state_dim: int = 64,
        bidirectional: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        expect("dim", dim, dim >= 1, "at least 1 feature")
        expect("state_dim", state_dim, state_dim >= 2 and state_dim % 2 == 0, "an even number of states, at least 2")
        expect("dt_min", dt_min, 0 < dt_min <= dt_max, f"a step above 0, at most dt_max={dt_max}")
        directions, half = 1 + bidirectional, state_dim // 2
        self.dim, self.bidirectional = dim, bidirectional
        steps = torch.empty(directions, dim, 1).uniform_(math.log(dt_min), math.log(dt_max))
        self.log_dt = nn.Parameter(steps)
        self.log_decay = nn.Parameter(torch.full((directions, dim, half), math.log(0.5)))
        self.frequency = nn.Parameter((math.pi * torch.arange(half)).expand(directions, dim, half).clone())
        self.readout = nn.Parameter(torch.randn(directions, dim, half, 2) * math.sqrt(0.5))
        self.skip = nn.Parameter(torch.randn(dim))

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """dt A (the log of the transition), input gain and C; complex (directions, dim, state_dim / 2) each."""
        a = torch.complex(-self.log_decay.float().exp(), self.frequency.float())
        log_transition = self.log_dt.float().exp() * a
        return log_transition, torch.expm1(log_transition) / a, torch.view_as_complex(self.readout.float())

    def kernel(self, length: int) -> Tensor:
        """K (eq. 5), float32 (directions, dim, length)."""
        log_transition, gain, readout = self.system()
        times = torch.arange(length, device=log_transition.device)
        powers = torch.exp(log_transition[..., None] * times)
        return 2 * ((readout * gain)[..., None] * powers).sum(dim=2).real

    def forward(self, u: Tensor) -> Tensor:
        """(n, t, dim) -> the same shape. Zeros where nothing is keep padding out of what is read from the end."""
        length = u.shape[1]
        with torch.autocast(u.device.type, enabled=False):  # an FFT is of float32
            x = u.float().transpose(1, 2)
            kernel = self.kernel(length)
            y = convolve(x, kernel[0]) + self.skip[:, None] * x
            if self.bidirectional:
                y = y + convolve(x.flip(-1), kernel[1]).flip(-1)
        return y.transpose(1, 2).to(u.dtype)


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """The causal convolution: y_t = sum over l <= t of kernel_l x_{t - l}; (..., t) both.

    >>> convolve(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 0.25])).round(decimals=4)
    tensor([1.0000, 0.5000, 2.2500])
    """
    length = x.shape[-1]
    spectrum = torch.fft.rfft(x, 2 * length) * torch.fft.rfft(kernel, 2 * length)
    return torch.fft.irfft(spectrum, 2 * length)[..., :length]


class SSMBlock(nn.Module):
    """x + GLU(W gelu(ssm(norm(x)))): the block of S4 and S4D, with the norm first; (n, t, dim) -> the same.

    Args:
        dim, state_dim, bidirectional: as `DiagonalSSM`'s.
        dropout: share of features zeroed while training, before W and before the sum.

    >>> SSMBlock(8, state_dim=4)(torch.randn(2, 20, 8), torch.ones(2, 20, dtype=torch.bool)).shape
    torch.Size([2, 20, 8])
    """

    def __init__(self, dim: int, *, state_dim: int = 64, bidirectional: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.ssm = DiagonalSSM(dim, state_dim=state_dim, bidirectional=bidirectional)
        self.mix = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, 2 * dim), nn.GLU(), nn.Dropout(dropout))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`mask`: bool (n, t), True where there is something; the model reads zeros elsewhere."""
        return x + self.mix(self.ssm(self.norm(x) * mask[..., None]))


class SSM(Body):
    """Blocks of diagonal state-space models, in both directions unless causal, and a last norm."""

    state_dim = 32

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        both, dropout = not config["causal"], config["dropout"]
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            SSMBlock(config["dim"], state_dim=self.state_dim, bidirectional=both, dropout=dropout)
            for _ in range(config["num_layers"])
        )
        self.norm = nn.LayerNorm(config["dim"])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


# one more row of TextEncoder's table: every token (or every earlier one), by recurrence
BODIES["ssm"], TEXT["text-ssm"] = SSM, "ssm"
