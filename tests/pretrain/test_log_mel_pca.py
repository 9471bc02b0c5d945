"""Log-mel statistics and their components against numpy and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.nn import LogMel
from tacit.pretrain import LogMelPCA


def sounds(n=60):
    generator = torch.Generator().manual_seed(0)
    pitch = 200 + 3000 * torch.rand(n, 1, generator=generator)
    wave = torch.sin(2 * torch.pi * pitch * torch.arange(4000) / 8000) + 0.1 * torch.randn(n, 4000, generator=generator)
    x = (9000 * wave).to(torch.int16)
    x[: n // 2, 3000:] = 0
    return x


def test_it_is_whitened_pca_of_means_and_deviations_over_time():
    x = sounds()
    learner = LogMelPCA(n_components=4, seconds=0.5, eps=0.0)
    learner.before_fit(Dataset({"x": x}))

    wave = x.double() / 32768
    heard = [3000] * 30 + [4000] * 30
    clips = [w[:n] / w[:n].square().mean().sqrt() for w, n in zip(wave, heard, strict=True)]
    frames = [LogMel(floor=1e-3)(clip[None].float())[0].double().numpy() for clip in clips]
    every = np.concatenate(frames)
    frames = [(one - every.mean(0)) / every.std(0) for one in frames]
    rows = np.stack([np.concatenate([one.mean(0), one.std(0)]) for one in frames])
    theirs = PCA(4, whiten=True).fit(rows)
    ours, expected = learner.encoder(x).numpy(), theirs.transform(rows)
    np.testing.assert_allclose(learner.explained.numpy(), theirs.explained_variance_, rtol=1e-3)
    for column in range(4):  # a component's sign is free
        sign = np.sign(ours[:, column] @ expected[:, column])
        np.testing.assert_allclose(sign * ours[:, column], expected[:, column], atol=5e-3)


def test_it_gives_no_batches_and_refuses_what_cannot_be():
    learner = LogMelPCA(n_components=5)
    assert learner.batches(Dataset({"x": sounds()}), 4, torch.Generator()) == ()
    with pytest.raises(ArgumentError, match="n_components=5: expected at most 3"):
        learner.before_fit(Dataset({"x": sounds(3)}))
    with pytest.raises(ArgumentError, match="n_components=81"):
        LogMelPCA(n_components=81)
