import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import tacit.training
from tacit.data import Dataset
from tacit.errors import ArgumentError
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


def test_more_components_than_items_is_refused():
    with pytest.raises(ArgumentError, match=r"n_components=9.*at most 3"):
        WhitenedPCA(n_components=9).before_fit(Dataset({"x": torch.randn(3, 20)}))


def test_checked_property():
    measured, expected = reconstruction_error()
    assert abs(measured - expected) < reconstruction_error.checked.tolerance
