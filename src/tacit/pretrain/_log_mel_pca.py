"""Log-mel statistics and principal components: what a sound is before anything is learned."""

from typing import ClassVar

import torch

from tacit.catalogue import system
from tacit.claims import checked
from tacit.data import Dataset
from tacit.errors import expect
from tacit.learner import Learner
from tacit.nn import LogMelStatistics


@system("log-mel-pca", paper="Davis and Mermelstein, Comparison of parametric representations, 1980",
        modality="audio", level="baseline")  # fmt: skip
class LogMelPCA(Learner):
    """Mean and deviation over time of each log-mel band, through whitened principal components.

    Solved in closed form, in two passes over the data: one for mean and deviation of each band over all frames, one for
    the covariance of the statistics.

    Args:
        n_components: components kept, at most twice `n_mels` and the number of sounds.
        sample_rate, seconds, n_mels: of the encoder, a `tacit.nn.LogMelStatistics`.
        eps: added to each variance before its root is divided by, as a share of the largest.

    >>> x = torch.randint(-9999, 9999, (50, 8000), dtype=torch.int16)
    >>> learner = LogMelPCA(n_components=2)
    >>> learner.before_fit(Dataset({"x": x}))
    >>> learner.encoder(x).var(0).round(decimals=2).tolist()
    [1.0, 1.0]
    """

    settings: ClassVar = {"small": {"n_components": 32}}

    def __init__(
        self,
        *,
        n_components: int = 32,
        sample_rate: int = 8000,
        seconds: float = 1.0,
        n_mels: int = 40,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        expect("n_components", n_components, 1 <= n_components <= 2 * n_mels, f"1 to {2 * n_mels}, twice n_mels")
        self.encoder = LogMelStatistics(n_components, sample_rate=sample_rate, seconds=seconds, n_mels=n_mels)
        self.eps = eps
        self.register_buffer("explained", torch.zeros(n_components))

    def before_fit(self, data: Dataset) -> None:
        kept = self.encoder.dim
        expect("n_components", kept, kept <= len(data), f"at most {len(data)}, the number of sounds")
        self.encoder.fit_prepare(data["x"][slice(0, len(data), max(len(data) // 1000, 1))])
        rows = torch.cat([self.encoder.statistics(self.encoder.prepare(chunk)) for chunk in data.chunks("x", 256)])
        rows = rows.double()  # 2 * n_mels numbers a sound: a million of them are 640 MB
        center = rows.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((rows - center).T))
        values, vectors = values.flip(0)[:kept].clamp_min(0), vectors.flip(1)[:, :kept]
        self.encoder.center.copy_(center)
        self.encoder.directions.copy_(vectors * (values + self.eps * values[0]).rsqrt())
        self.explained.copy_(values)

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> tuple[()]:
        return ()


@checked("components of unequal tones are uncorrelated and of variance 1", tolerance=1e-3)
def white() -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    pitch = 200 + 3000 * torch.rand(60, 1, generator=generator)
    tone = torch.sin(2 * torch.pi * pitch * torch.arange(4000) / 8000)
    noise = 0.05 * torch.randn(60, 4000, generator=generator)
    x = (8000 * (tone + noise)).to(torch.int16)
    learner = LogMelPCA(n_components=5, seconds=0.5)
    learner.before_fit(Dataset({"x": x}))
    return (torch.cov(learner.encoder(x).T) - torch.eye(5)).abs().max().item(), 0.0
