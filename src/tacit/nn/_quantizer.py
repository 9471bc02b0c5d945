"""GumbelQuantizer: vectors to entries of learned codebooks, with a gradient (Jang et al., 2017; wav2vec 2.0)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect


class Quantized(NamedTuple):
    """What a quantiser makes of vectors (..., in_dim)."""

    vectors: Tensor
    """(..., dim): the entries that were picked, one of each group, side by side."""
    codes: Tensor
    """int64 (..., n_groups): their numbers, without gradient."""
    probabilities: Tensor
    """(..., n_groups, n_codes): softmax of the logits, without the Gumbel noise."""


class GumbelQuantizer(nn.Module):
    """Product quantisation by a straight-through Gumbel softmax (wav2vec 2.0, section 2, "Quantization module").

        p_{g,v} = softmax_v((l_{g,v} + n_v) / tau),  l = W x + b,  n = -log(-log u),  u uniform in (0, 1)     (eq. 1)

    Forward takes the entry with the greatest p; the gradient is that of p. In eval mode there is no noise.

    Args:
        in_dim: features of what comes in.
        n_codes: entries of a codebook (the paper's V).
        n_groups: codebooks (G); a divisor of `dim`.
        dim: features of what goes out; None: in_dim.
        temperature: tau at the start and at the end; `forward` takes what lies between by `progress`, on a line in
            log tau, where the official code multiplies by 0.999995 each step.

    >>> quantizer = GumbelQuantizer(6, n_codes=4, n_groups=2, dim=8)
    >>> found = quantizer(torch.randn(5, 6))
    >>> found.vectors.shape, found.codes.shape
    (torch.Size([5, 8]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        in_dim: int,
        n_codes: int = 320,
        n_groups: int = 2,
        dim: int | None = None,
        *,
        temperature: tuple[float, float] = (2.0, 0.5),
    ) -> None:
        super().__init__()
        dim = in_dim if dim is None else dim
        expect("n_codes", n_codes, n_codes >= 2, "at least 2")
        expect("n_groups", n_groups, n_groups >= 1 and dim % n_groups == 0, f"a divisor of dim={dim}")
        expect("temperature", temperature, min(temperature) > 0, "two numbers above 0")
        self.n_codes, self.n_groups, self.dim, self.temperature = n_codes, n_groups, dim, temperature
        self.logits = nn.Linear(in_dim, n_groups * n_codes)
        nn.init.normal_(self.logits.weight)  # logits as different as the inputs, so that all entries are used at first
        nn.init.zeros_(self.logits.bias)
        self.codebooks = nn.Parameter(torch.rand(n_groups, n_codes, dim // n_groups))

    def forward(self, x: Tensor, progress: float = 0.0) -> Quantized:
        """(..., in_dim) -> vectors (..., dim), codes and probabilities."""
        with torch.autocast(x.device.type, enabled=False):
            logits = self.logits(x.float()).unflatten(-1, (self.n_groups, self.n_codes))
            start, end = self.temperature
            tau = start * (end / start) ** progress
            picked = F.gumbel_softmax(logits, tau, hard=True) if self.training else _one_hot(logits)
            vectors = torch.einsum("...gv,gvd->...gd", picked, self.codebooks).flatten(-2)
        return Quantized(vectors, picked.argmax(-1), logits.softmax(-1))


def _one_hot(logits: Tensor) -> Tensor:
    return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)


def perplexity(probabilities: Tensor) -> Tensor:
    """exp of the entropy of the mean distribution, of each group: (m, n_groups, n_codes) -> (n_groups,).

    n_codes where all entries are used alike, 1 where only one is: a codebook that collapses is seen here.

    >>> perplexity(torch.eye(4)[:, None]).tolist()
    [4.0]
    """
    mean = probabilities.float().mean(0)
    return (-torch.xlogy(mean, mean.clamp_min(1e-9)).sum(-1)).exp()


def diversity_loss(probabilities: Tensor) -> Tensor:
    """(G V - sum over groups of the perplexity) / (G V): 0 where all entries are used alike (wav2vec 2.0, eq. 4).

    The perplexity instead of the entropy that stands in the equation is what its footnote says is run.

    Args:
        probabilities: (m, n_groups, n_codes), of the items of a batch.

    >>> round(diversity_loss(torch.full((3, 2, 5), 0.2)).item(), 4)
    0.0
    """
    _, groups, codes = probabilities.shape
    return 1 - perplexity(probabilities).sum() / (groups * codes)
