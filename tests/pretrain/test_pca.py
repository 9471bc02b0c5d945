import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import tacit.training
from tacit.data import Dataset
from tacit.errors import ArgumentError, DataError
from tacit.pretrain import _pca
from tacit.pretrain._pca import WhitenedPCA, reconstruction_error


def test_equals_scikit_learn_up_to_sign():
    x = torch.randn(300, 20, generator=torch.Generator().manual_seed(1)) * torch.linspace(3, 0.1, 20) + 100
    ours = tacit.training.fit(WhitenedPCA(n_components=6, eps=0.0), x, epochs=1).encoder(x).numpy()
    theirs = PCA(6, whiten=True, svd_solver="full").fit_transform(x.double().numpy())
    signs = np.sign((ours * theirs).sum(0))
    np.testing.assert_allclose(ours * signs, theirs, atol=2e-3)


def test_images_are_read_in_chunks_of_bytes():
    images = torch.randint(0, 256, (2500, 1, 4, 4), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    learner = WhitenedPCA(n_components=5, image_size=4, in_channels=1)
    learner.before_fit(Dataset({"x": images}, modality="image"))
    flat = images.flatten(1).double() / 255
    torch.testing.assert_close(learner.encoder.mean, flat.mean(0).float(), atol=1e-6, rtol=0)
    expected = torch.linalg.eigvalsh(torch.cov(flat.T)).flip(0)[:5].float()
    torch.testing.assert_close(learner.explained, expected, atol=1e-6, rtol=1e-4)


@pytest.fixture
def small(monkeypatch):
    """What counts as large is small, and is read in blocks of 7."""
    monkeypatch.setattr(_pca, "SOLVED", 30)
    monkeypatch.setattr(_pca, "SPARE", 10)
    monkeypatch.setattr(_pca, "BLOCK", 7 * 60)


@pytest.mark.parametrize("n", [25, 200])
def test_equals_scikit_learn_by_pairs_of_items_and_by_iteration(small, n):
    x = torch.randn(n, 60, generator=torch.Generator().manual_seed(1)) * torch.linspace(2, 0, 60).exp() + 100
    learner = WhitenedPCA(n_components=6, eps=0.0)
    learner.before_fit(Dataset({"x": x}))
    known = PCA(6, whiten=True, svd_solver="full").fit(x.double().numpy())
    np.testing.assert_allclose(learner.explained, known.explained_variance_, rtol=1e-4)
    ours, theirs = learner.encoder(x).numpy(), known.transform(x.double().numpy())
    np.testing.assert_allclose(ours * np.sign((ours * theirs).sum(0)), theirs, atol=0.02)


def test_directions_without_variance_are_directions_all_the_same():
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(3))
    learner = WhitenedPCA(n_components=5, whiten=False)  # five items span four
    learner.before_fit(Dataset({"x": x}))
    torch.testing.assert_close(learner.encoder.directions.T @ learner.encoder.directions, torch.eye(5))
    assert learner.encoder(x)[:, 4].abs().max() < 1e-5


def test_a_few_wide_items_need_no_covariance():
    learner = WhitenedPCA(n_components=2)
    learner.before_fit(Dataset({"x": torch.randn(3, 100_000, generator=torch.Generator().manual_seed(4))}))  # 80 GB
    assert learner.encoder.directions.shape == (100_000, 2)


@pytest.mark.parametrize("d", [3, 40])
def test_equal_items_are_refused(d):
    x = torch.rand(d, generator=torch.Generator().manual_seed(5)).repeat(10, 1)
    with pytest.raises(DataError, match="all 10 are equal"):
        WhitenedPCA(n_components=2).before_fit(Dataset({"x": x}))


def test_more_components_than_items_is_refused():
    with pytest.raises(ArgumentError, match=r"n_components=9.*at most 3"):
        WhitenedPCA(n_components=9).before_fit(Dataset({"x": torch.randn(3, 20)}))


def test_checked_property():
    measured, expected = reconstruction_error()
    assert abs(measured - expected) < reconstruction_error.checked.tolerance
